"""What the READMEs show is true: their configurations are sound, their code runs, their commands and links exist."""

from __future__ import annotations

import ast
import contextlib
import re
import shlex
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import click
import msgspec
import pytest

import router.testing
from router import errors
from router.cli import router as command_line
from router.config import Config, EndpointTls, PoolConfig
from router.configfile import ConfigFaults, parse
from router.corekeys import ProbeKeys, read_core_keys
from router.prepare import Prepared, prepare
from router.testing import make_candidates, make_endpoints, make_exchange

ROOT = Path(__file__).parent.parent
FOLDERS = [
    "plugins",
    "loadtests",
    "examples",
    "examples/discovery",
    "examples/shop",
    "examples/systemd",
    "examples/strategy",
    "examples/jaeger",
    "examples/tls",
]
PAGES = ["README.md", *(f"{folder}/README.md" for folder in FOLDERS)]
TEXTS = {page: (ROOT / page).read_text() for page in PAGES}
README = TEXTS["README.md"]
REFERENCE = README.partition("\n## Configuration\n")[2].partition("\n## ")[0]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
TARGETS = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def blocks(text: str, *languages: str) -> list[str]:
    return [block for language, block in FENCE.findall(text) if language in languages]


def spans(text: str) -> list[str]:
    """The `code` between the lines of prose."""
    return re.findall(r"`([^`\n]+)`", FENCE.sub("", text))


TOML, PYTHON = blocks(README, "toml"), blocks(README, "python")


def test_the_readme_shows_a_configuration_code_and_commands_and_is_finished() -> None:
    assert TOML
    assert PYTHON
    assert [line for _, line in commands("README.md") if line[0] == "router"]
    assert re.findall(r"^[A-Z_]{4,}$", README, re.MULTILINE) == [], "a placeholder stands in the README"


# Configurations.


def completed(text: str) -> str:
    """A block as a whole file: keys without a table are a pool's, and missing tables are the smallest there are.

    Every pool that a route names is there, and the one route names the first pool.
    """
    if not tomllib.loads(text).keys() <= set(Config.__struct_fields__):
        text = f"[[pools]]\n{text}"
    data = tomllib.loads(text)
    before, *pools = text.split("[[pools]]")
    lines = {"name": 'name = "web"', "endpoints": 'endpoints = ["http://127.0.0.1:9001"]'}
    for index, pool in enumerate(data.get("pools", [])):
        needed = [line for key, line in lines.items() if key not in pool]
        pools[index] = "\n".join(["", *needed]) + pools[index]
    text = "[[pools]]".join([before, *pools])
    if "pools" not in data:
        names = dict.fromkeys(route["pool"] for route in data.get("routes", [{"pool": "web"}]))
        text += "".join(f'\n[[pools]]\nname = "{name}"\nendpoints = ["http://127.0.0.1:9001"]\n' for name in names)
    if "routes" not in data:
        text += f'\n[[routes]]\npool = "{tomllib.loads(text)["pools"][0]["name"]}"\n'
    if "listeners" not in data:
        text += '\n[[listeners]]\nbind = "127.0.0.1:8080"\n'
    return text


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Holds each python block of the README, under the name that its first line gives, or else as readme_0.py …"""
    modules, path = set(sys.modules), list(sys.path)
    for index, code in enumerate(PYTHON):
        (tmp_path / f"{module_of(index, code)}.py").write_text(code)
    yield tmp_path
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        del sys.modules[name]


def module_of(index: int, code: str) -> str:
    named = re.match(r"# (\w+)\.py\n", code)
    return named[1] if named else f"readme_{index}"


def prepared(text: str, folder: Path) -> Prepared:
    config, source = parse(completed(text), "README.md", "toml", folder, {})
    return prepare(config, source, folder)


@pytest.mark.parametrize("text", TOML)
def test_a_configuration_is_sound(text: str, folder: Path) -> None:
    if "project" in (data := tomllib.loads(text)):
        assert set(data["project"]["entry-points"]) == {"router.plugins"}
        return
    assert prepared(text, folder).table(1, 0.0).pools


@pytest.mark.parametrize(
    ("text", "pools"),
    [
        ('selection = "random"', ["web"]),
        ('[[routes]]\npath = "/a"\npool = "a"\n[[routes]]\npool = "b"', ["a", "b"]),
        ('[[pools]]\nname = "x"\nendpoints = ["http://h"]', ["x"]),
        ('[[pools]]\nname = "x"\n[[pools]]\nname = "y"', ["x", "y"]),
        ("[server]\nmax_headers = 3", ["web"]),
    ],
)
def test_a_fragment_is_completed(text: str, pools: list[str], folder: Path) -> None:
    assert list(prepared(text, folder).table(1, 0.0).pools) == pools


def test_the_sample_of_a_fault_is_what_check_says(folder: Path) -> None:
    """The first configuration, with a route "shop" that names a pool "wbe"."""
    shown = [block.rstrip("\n") for block in blocks(README, "text", "") if re.match(r"\S+:\d+:\d+: ", block)]
    assert shown, "the README shows a fault"
    text = TOML[0].replace("[[routes]]\n", '[[routes]]\nname = "shop"\n').replace('pool = "web"', 'pool = "wbe"')
    with pytest.raises(ConfigFaults) as caught:
        prepare(*parse(text, "router.toml", "toml", folder, {}), folder)
    assert shown == [str(fault) for fault in caught.value.faults]


# The reference of the configuration.


def keys_of(struct: Any, at: str = "") -> Iterator[str]:
    """pools, pools.name, pools.retry.attempts …"""
    for field in msgspec.structs.fields(struct):
        yield f"{at}{field.name}"
        for kind in (field.type, *get_args(field.type), *(a for arg in get_args(field.type) for a in get_args(arg))):
            if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
                yield from keys_of(kind, f"{at}{field.name}.")


def written_keys(data: Any, at: str = "") -> Iterator[str]:
    for item in data if isinstance(data, list) else [data]:
        for key, value in item.items() if isinstance(item, dict) else ():
            yield f"{at}{key}"
            yield from written_keys(value, f"{at}{key}.")


def test_every_key_of_the_configuration_is_in_the_reference() -> None:
    """In a toml block of the section "Configuration"; a table of plugins may be named in its text instead."""
    written = {key for block in blocks(REFERENCE, "toml") for key in written_keys(tomllib.loads(block))}
    written |= {span.strip("[]") for span in spans(REFERENCE) if span.startswith("[")}
    missing = [key for key in keys_of(Config) if key not in written]
    assert missing == [], f"README.md, Configuration: not described: {', '.join(missing)}"


def test_the_reference_shows_the_defaults(folder: Path) -> None:
    """But for what has none that helps: where to listen, what to match, where to send it, how much at once."""
    text = "".join(blocks(REFERENCE, "toml"))
    shown, _ = parse(completed(text), "README.md", "toml", folder, {})
    of_pool = set(msgspec.structs.asdict(shown.pools[0])) - {"name", "endpoints", "limits", "probe", "tls"}
    pairs = [(shown, {"server", "plugins"}), (shown.pools[0], of_pool), (shown.routes[0], {"timeout", "filters"})]
    pairs += [(shown.listeners[0], {"timeouts"}), (shown.pools[0].limits, {"queue_timeout"})]
    for table, keys in pairs:
        defaults = {field.name: field.default for field in msgspec.structs.fields(table)}
        for key in keys:
            assert getattr(table, key) == defaults[key], f"{type(table).__name__}.{key}"
    # As without it, but for the system's store, which is not read for endpoints without https.
    assert shown.pools[0].tls == EndpointTls()
    # A pool has no probe of its own accord; what is shown is one, with the defaults of when it asks.
    assert PoolConfig("web", ()).probe == ""
    assert set(shown.pools[0].probe) >= set(ProbeKeys.__struct_fields__)
    assert read_core_keys("probe", shown.pools[0].probe) == ProbeKeys()


def test_every_status_of_an_error_is_in_the_list() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.RouterError)]
    rows = re.findall(r"^\| ([\d, ]+) \|", README, re.MULTILINE)
    listed = {int(status) for row in rows for status in row.split(",")}
    # 499 stands in logs only, 500 is a fault of the router or of a plugin.
    assert {kind.status for kind in kinds} - listed <= {499, 500}


# Code.


def classes(index: int) -> list[tuple[str, str]]:
    """("module", "Name") of the strategies in a block: classes with a method `choose`."""
    tree = ast.parse(PYTHON[index])
    return [
        (module_of(index, PYTHON[index]), node.name)
        for node in tree.body
        if isinstance(node, ast.ClassDef)
        if any(isinstance(part, ast.FunctionDef) and part.name == "choose" for part in node.body)
    ]


STRATEGIES = [found for index in range(len(PYTHON)) for found in classes(index)]


@pytest.mark.parametrize("code", PYTHON)
def test_code_is_valid(code: str) -> None:
    assert compile(code, "README.md", "exec", dont_inherit=True)


@pytest.mark.parametrize(("module", "name"), STRATEGIES)
def test_a_strategy_chooses(module: str, name: str, folder: Path) -> None:
    made = prepared(f'selection = "{module}:{name}"', folder)
    candidates = make_candidates(make_endpoints(1, 2, 3))
    assert made.parts["web"].selector.choose(candidates, make_exchange()) in candidates


@pytest.mark.parametrize("span", [span for span in spans(README) if span.startswith("router.testing.check_")])
def test_a_check_that_is_named_holds(span: str, folder: Path) -> None:
    names = {name: getattr(prepared_module(module, folder), name) for module, name in STRATEGIES}
    eval(span, {"router": router, **names})


def prepared_module(module: str, folder: Path) -> Any:
    strategies = [name for owner, name in STRATEGIES if owner == module]
    prepared(f'selection = "{module}:{strategies[0]}"', folder)
    return sys.modules[module]


# Commands.


def commands(page: str) -> list[tuple[str, tuple[str, ...]]]:
    """(line, words) of each command in blocks of console or sh; where lines start with "$", the others are output."""
    found = []
    for block in blocks(TEXTS[page], "console", "sh", "bash", "shell"):
        lines = block.replace("\\\n", " ").splitlines()
        prompted = [line[2:] for line in lines if line.startswith("$ ")]
        for line in prompted or lines:
            reader = shlex.shlex(line, posix=True, punctuation_chars=True)
            reader.whitespace_split = True
            found += [(line, words) for words in split_at_operators(list(reader))]
    return found


def split_at_operators(tokens: list[str]) -> Iterator[tuple[str, ...]]:
    """The simple commands of a line, each without what is set for it and without the folder of its program."""
    words: list[str] = []
    for token in [*tokens, ";"]:
        if set(token) <= set("();<>|&"):
            if words:
                yield (words[0].removeprefix(".venv/bin/"), *words[1:])
            words = []
        elif words or not re.fullmatch(r"\w+=.*", token):
            words.append(token)


LINES = [(page, line, words) for page in PAGES for line, words in commands(page)]
SPANS = [(page, span, tuple(span.split())) for page in PAGES for span in spans(TEXTS[page])]


@pytest.mark.parametrize(("page", "line", "words"), [item for item in LINES if item[2][0] == "router"])
def test_the_command_line_takes_it(page: str, line: str, words: tuple[str, ...]) -> None:
    with click.Context(command_line, info_name="router") as context, contextlib.suppress(click.exceptions.Exit):
        if words[1].startswith("-"):
            command_line.make_context("router", list(words[1:])).close()
            return
        name, subcommand, rest = command_line.resolve_command(context, list(words[1:]))
        assert subcommand is not None
        subcommand.make_context(name, rest, parent=context).close()


@pytest.mark.parametrize(
    ("page", "span", "words"), [item for item in SPANS if item[2][0] == "router" and len(item[2]) > 1]
)
def test_a_command_in_the_text_exists(page: str, span: str, words: tuple[str, ...]) -> None:
    subcommand = command_line.commands.get(words[1])
    assert subcommand is not None, f"{page}: {span}"
    known = {option for parameter in subcommand.params for option in parameter.opts}
    assert {word.partition("=")[0] for word in words if word.startswith("--")} <= known


def test_every_command_is_in_the_readme() -> None:
    named = {words[1] for page, _, words in SPANS if page == "README.md" and words[0] == "router" and len(words) > 1}
    assert set(command_line.commands) - named == set()


@pytest.mark.parametrize("words", [item[2] for item in (*LINES, *SPANS) if item[2][0] == "make"], ids=" ".join)
def test_a_target_of_make_exists(words: tuple[str, ...]) -> None:
    assert {word for word in words[1:] if not re.match(r"-|\w+=", word)} <= TARGETS


def test_files_that_commands_name_exist() -> None:
    named = {word for _, _, words in LINES for word in words if re.match(r"(examples|loadtests|plugins|tests)/", word)}
    assert named
    made = {"examples/tls/router-tls/ca.pem"}
    assert [word for word in sorted(named - made) if not (ROOT / word).exists()] == []


def test_a_wrong_command_would_be_found() -> None:
    for words in (
        ("router", "chekc"),
        ("router", "check", "--jsno"),
        ("router", "proxy", "--listen"),
        ("router", "--vers"),
    ):
        with pytest.raises(click.UsageError):
            test_the_command_line_takes_it("", "", words)
    assert list(split_at_operators(["A=1", "router", "run", "&", "curl", "x"])) == [("router", "run"), ("curl", "x")]


# Links.


def anchors(text: str) -> set[str]:
    """Of headings, as the pages of code hosts make them."""
    titles = re.findall(r"^#+ (.+)$", FENCE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page: str) -> None:
    text = FENCE.sub("", TEXTS[page])
    links = re.findall(r"\]\(([^)\s]+)\)|(?:src|href)=\"([^\"]+)\"", text)
    dead = []
    for link in (first or second for first, second in links):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (ROOT / page).parent / path if path else ROOT / page
        found = target.exists() and (not anchor or anchor in anchors(target.read_text()))
        dead += [] if found else [link]
    assert dead == [], f"{page}: links that lead nowhere"
