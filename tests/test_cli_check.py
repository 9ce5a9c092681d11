"""`router check` and `router run` refuse the same: every fault at once, exit 2, no traceback."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from router.cli import router
from router.cli_check import summary
from router.config import Config, ListenerConfig, PoolConfig, RouteConfig

ROOT = Path(__file__).parent.parent
EXAMPLES = sorted((ROOT / "examples").glob("*/router.toml"))
#: Examples that are distributions of their own need an environment of their own: test_third_party.py checks those.
DISTRIBUTIONS = [file for file in EXAMPLES if (file.parent / "pyproject.toml").exists()]

GOOD = """\
[[listeners]]
bind = "127.0.0.1:8080"
[[routes]]
pool = "web"
[[pools]]
name = "web"
endpoints = ["http://127.0.0.1:9001", "http://127.0.0.1:9002"]
"""

#: Four faults of four parts: an unknown key, a value, a reference, a plugin.
BAD = """\
[server]
shutdown_timeuot = "3s"
[[listeners]]
bind = "127.0.0.1:8080"
[[routes]]
pool = "wbe"
[[pools]]
name = "web"
selection = "round_robbin"
endpoints = ["http://127.0.0.1:9001"]
timeouts = { connect = "2 parsecs" }
"""


def check(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(router, ["check", *arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result.exit_code, result.stdout


@pytest.fixture
def good(tmp_path: Path) -> Path:
    file = tmp_path / "router.toml"
    file.write_text(GOOD)
    return file


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    file = tmp_path / "router.toml"
    file.write_text(BAD)
    return file


def test_a_good_file_is_summed_up(good: Path) -> None:
    assert check(str(good)) == (0, f"{good}: 1 listener, 1 route, 1 pool, 2 endpoints: ok\n")
    code, text = check(str(good), "--json")
    assert (code, json.loads(text)) == (0, {"ok": True, "faults": []})


def test_router_toml_is_the_file_if_none_is_named(good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(good.parent)
    assert check() == (0, "router.toml: 1 listener, 1 route, 1 pool, 2 endpoints: ok\n")


def test_every_fault_is_said_at_once_with_its_place(bad: Path) -> None:
    code, text = check(str(bad))
    assert code == 2
    for line, word in ((2, "shutdown_timeuot"), (6, "wbe"), (9, "round_robbin"), (11, "2 parsecs")):
        assert any(f"{bad}:{line}:" in shown and word in shown for shown in text.splitlines()), (line, text)
    for right in ("shutdown_timeout", "web", "round_robin"):
        assert f"did you mean {right}?" in text.replace("'", "").replace('"', "")
    assert text.endswith("\n4 faults\n")
    assert [shown.strip() for shown in text.splitlines()].count("^") == 4


def test_faults_as_json_say_the_same(bad: Path) -> None:
    code, text = check(str(bad), "--json")
    result = json.loads(text)
    assert (code, result["ok"]) == (2, False)
    assert [fault["line"] for fault in result["faults"]] == [2, 6, 9, 11]
    assert {"file", "line", "column", "excerpt", "where", "key", "value", "message", "hint"} <= set(result["faults"][0])


@pytest.mark.parametrize("command", ["check", "run"])
@pytest.mark.parametrize(
    ("text", "word"),
    [(None, "router.toml"), ("", "listeners"), ("[[listeners", "router.toml:1"), ("\0", "router.toml:1")],
)
def test_a_file_that_says_nothing_useful_is_refused(command: str, text: str | None, word: str, tmp_path: Path) -> None:
    file = tmp_path / "router.toml"
    if text is not None:
        file.write_text(text)
    result = CliRunner().invoke(router, [command, str(file)])
    assert result.exit_code == 2
    assert word in result.output


def test_a_folder_is_no_configuration(tmp_path: Path) -> None:
    code, text = check(str(tmp_path))
    assert code == 2
    assert tmp_path.name in text


def test_run_refuses_what_check_refuses(bad: Path) -> None:
    checked = check(str(bad))[1]
    ran = subprocess.run(
        [sys.executable, "-m", "router", "run", str(bad)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert ran.returncode == 2
    assert ran.stdout == ""
    assert ran.stderr == checked


def test_proxy_refuses_an_unknown_strategy() -> None:
    result = CliRunner().invoke(router, ["proxy", "--selection", "round_robbin", "9001"])
    assert result.exit_code == 2
    first = result.stderr.splitlines()[0]
    assert first.startswith("command line: pool 'web': selection = \"round_robbin\":")
    assert "did you mean" in first


def test_proxy_refuses_one_server_twice() -> None:
    result = CliRunner().invoke(router, ["proxy", "9001", ":9001"])
    assert result.exit_code == 2
    assert "same endpoint" in result.stderr


@pytest.mark.parametrize(
    "file", [file for file in EXAMPLES if file not in DISTRIBUTIONS], ids=lambda file: file.parent.name
)
def test_every_example_is_sound(file: Path) -> None:
    code, text = check(str(file))
    assert code == 0, text
    assert text.endswith(": ok\n")


def test_every_example_is_in_the_list() -> None:
    listed = (ROOT / "examples" / "README.md").read_text()
    assert len(EXAMPLES) >= 4
    for file in EXAMPLES:
        assert f"({file.parent.name}/" in listed


def test_without_its_plugin_an_example_says_what_is_missing() -> None:
    for file in DISTRIBUTIONS:
        code, text = check(str(file))
        assert (code, text.count("no selection"), text.endswith("\n1 fault\n")) == (2, 1, True), text


def test_a_summary_counts_in_plain_english() -> None:
    pools = (PoolConfig("a", ("http://a", "http://b")), PoolConfig("b", ("http://c",)))
    config = Config((ListenerConfig("127.0.0.1:1"),), (RouteConfig("a"), RouteConfig("b")), pools)
    assert summary(config) == "1 listener, 2 routes, 2 pools, 3 endpoints"
