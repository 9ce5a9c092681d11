"""`router init`: the starter is sound, shows the real defaults, and never takes the place of anything."""

from __future__ import annotations

import os
import re
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest
import rich_click as click
from click.testing import CliRunner, Result

from router import cli_init
from router.cli import router
from router.cli_init import STARTER, explanations, write_starter
from router.configfile import parse
from router.prepare import prepare

#: The starter with every comment that holds a table or a key in force, but for what takes another key's place.
WHOLE = re.sub(r"^# (?=\[|[a-z_]+ = )(?!.*  # instead of )", "", STARTER, flags=re.MULTILINE)
INSTEAD = re.findall(r"^# (([a-z_]+) = .*  # instead of ([a-z_]+):.*)$", STARTER, re.MULTILINE)
EXAMPLES = {found[1] for found in re.finditer(r"^# ([a-z_]+) = .*  # example: ", STARTER, re.MULTILINE)}


def init(*arguments: str) -> Result:
    result = CliRunner().invoke(router, ["init", *arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result


def test_the_starter_passes_the_check(tmp_path: Path) -> None:
    file = tmp_path / "edge.toml"
    result = init(str(file))
    assert result.exit_code == 0
    assert result.stdout == f"{file} is written. Name your servers in it, then: router check {file}\n"
    assert file.read_text() == STARTER
    checked = CliRunner().invoke(router, ["check", str(file)])
    assert (checked.exit_code, checked.stdout) == (0, f"{file}: 1 listener, 1 route, 1 pool, 2 endpoints: ok\n")


def test_router_toml_is_the_file_if_none_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert init().stdout.startswith("router.toml is written.")
    assert (tmp_path / "router.toml").read_text() == STARTER


def test_a_dash_is_stdout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert init("-").stdout == STARTER
    assert list(tmp_path.iterdir()) == []


def test_what_is_commented_out_is_sound_too(tmp_path: Path) -> None:
    assert WHOLE.count("\n# ") < 5
    config, source = parse(WHOLE, "router.toml", "toml", tmp_path, {})
    assert prepare(config, source, tmp_path).table(1, 0.0).pools


@pytest.mark.parametrize(("line", "key", "other"), INSTEAD, ids=[key for _, key, _ in INSTEAD])
def test_what_takes_the_place_of_another_key_is_sound(line: str, key: str, other: str, tmp_path: Path) -> None:
    text = re.sub(rf"^{other} = .*$", line, STARTER, flags=re.MULTILINE)
    text += '[[pools]]\nname = "next"\nendpoints = ["http://127.0.0.1:9003"]\n'
    config, source = parse(text, "router.toml", "toml", tmp_path, {})
    assert prepare(config, source, tmp_path).table(1, 0.0).pools
    assert getattr(config.routes[0], key)


def value_at(config: Any, keys: tuple[str, ...]) -> Any:
    for key in keys:
        config = getattr(config, key)
        if isinstance(config, tuple) and config and isinstance(config[0], msgspec.Struct):
            config = config[0]
    return config


def test_what_is_commented_out_is_the_default(tmp_path: Path) -> None:
    written = tomllib.loads(STARTER)
    live = {(table, key) for table, (values,) in written.items() for key in values}
    config, _ = parse(WHOLE, "router.toml", "toml", tmp_path, {})
    compared = []
    for *table, key in explanations():
        if table and key not in EXAMPLES and (*table, key) not in live:
            values = value_at(config, tuple(table))
            defaults = {field.name: field.default for field in msgspec.structs.fields(values)}
            assert getattr(values, key) == defaults[key], f"{table}: {key}"
            compared.append(key)
    assert len(compared) > 30


@pytest.mark.parametrize(
    "table",
    ["server", "listeners", "routes", "pools", "pools.limits", "pools.retry", "plugins"],
)
def test_every_key_of_a_table_is_explained(table: str, tmp_path: Path) -> None:
    config, _ = parse(WHOLE, "router.toml", "toml", tmp_path, {})
    keys = tuple(table.split("."))
    names = {field.name for field in msgspec.structs.fields(value_at(config, keys))}
    explained = {key[-1] for key in explanations() if key[:-1] == keys}
    assert names - explained <= {"limits", "retry"}, "add a line to STARTER in router/cli_init.py"
    assert explained <= names


def test_the_starter_stays_readable() -> None:
    assert STARTER.isascii()
    assert max(map(len, STARTER.splitlines())) <= 120
    live = [line for line in STARTER.splitlines() if line and not line.startswith("#")]
    assert len(live) == 7


def test_what_exists_stays_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "router.toml"
    file.write_text("mine")
    result = init(str(file))
    assert result.exit_code == 1
    assert file.read_text() == "mine"
    words = " ".join(result.stderr.replace("│", " ").split())
    assert "exists and stays as it is; name another file, or move it away first" in words


def failure(file: Path) -> str:
    """What the command says when it cannot write `file`."""
    with pytest.raises(click.ClickException) as caught:
        write_starter(file)
    assert caught.value.exit_code == 1
    return caught.value.format_message()


def test_a_link_that_leads_nowhere_is_not_followed(tmp_path: Path) -> None:
    link, target = tmp_path / "router.toml", tmp_path / "elsewhere.toml"
    link.symlink_to(target)
    assert failure(link) == f"{link} exists and stays as it is; name another file, or move it away first"
    assert not target.exists()


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    assert failure(tmp_path) == f"{tmp_path} is a folder; name a file in it, such as {tmp_path / 'router.toml'}"


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "no" / "such"
    assert failure(folder / "router.toml") == f"there is no folder {folder}; make it with: mkdir -p {folder}"
    assert not folder.exists()


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert failure(tmp_path / "file" / "router.toml") == f"{tmp_path / 'file'} is not a folder; name a file in one"


def test_a_name_that_cannot_be_one_is_refused(tmp_path: Path) -> None:
    assert "File name too long" in failure(tmp_path / ("x" * 300 + ".toml"))
    assert failure(Path("a\0b")) == "a\\x00b cannot be written: this is not a file name"


def test_a_name_is_shown_without_its_control_characters(tmp_path: Path) -> None:
    file = tmp_path / "a\x1b[31m.toml"
    file.touch()
    assert "\\x1b[31m.toml exists" in failure(file)


def test_a_lack_of_permission_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    file = tmp_path / "router.toml"
    assert failure(file) == f"no permission to write {file}; name a file in a folder of yours"


def test_half_a_file_does_not_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = os.open

    def unwritable(path: Path, flags: int, mode: int) -> int:
        os.close(opened(path, flags, mode))
        return opened(path, os.O_RDONLY)

    monkeypatch.setattr(os, "open", unwritable)
    file = tmp_path / "router.toml"
    assert failure(file) == f"{file} cannot be written: Bad file descriptor"
    assert not file.exists()


def test_of_many_at_once_one_writes(tmp_path: Path) -> None:
    file = tmp_path / "router.toml"

    def create(number: int) -> bool:
        try:
            cli_init._create(file)
        except FileExistsError:
            return False
        return True

    with ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(create, range(32))) == 1
    assert file.read_text() == STARTER


@pytest.mark.parametrize("name", ["router.yaml", "router.yml", "router.JSON"])
def test_another_format_is_not_promised(name: str, tmp_path: Path) -> None:
    result = init(str(tmp_path / name))
    assert result.exit_code == 2
    assert "ends in .toml" in " ".join(result.stderr.split())
    assert list(tmp_path.iterdir()) == []
