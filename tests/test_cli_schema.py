"""`router schema`: valid itself, takes what `router check` takes, refuses what no configuration has."""

from __future__ import annotations

import json
import runpy
import tomllib
from collections.abc import Iterator
from datetime import date
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Annotated, Any, Literal

import msgspec
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from router import Duration, Options, Register, Share, Size, Tools, config, hookimpl
from router.cli import router
from router.cli_init import STARTER, explanations
from router.cli_schema import make_schema
from router.config import Config, parse_duration, parse_hedge_delay, parse_share, parse_size, parse_size_limit
from router.corekeys import ProbeKeys, read_core_keys
from router.options import PluginFault
from router.plugins import Broken, Registry

ROOT = Path(__file__).parent.parent
DOCS = runpy.run_path(str(ROOT / "tests" / "test_docs.py"))
EXAMPLES = sorted((ROOT / "examples").glob("*/router.toml"))


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    parts: tuple[Part, ...] = ()


class Wait(msgspec.Struct, frozen=True):
    time: Duration = Duration(1)


class Every(Options, frozen=True):
    """An option of every type."""

    needed: str
    part: Part = Part("all")
    ratio: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.5
    mode: Literal["soft", "hard"] = "soft"
    level: Literal[1, 2] = 1
    wait: Duration | None = Duration(1.5)
    until: Duration | None = None
    buffer: Size = Size(2048)
    share: Share = Share(0.25)
    short: Annotated[str, msgspec.Meta(max_length=3, description="at most three letters")] = "abc"
    names: Annotated[list[str], msgspec.Meta(max_length=2)] = []
    table: dict[str, int] = {}
    pair: tuple[int, str] = (1, "a")
    switch: bool = False
    day: date = date(2026, 1, 2)
    waits: tuple[Wait, ...] = (Wait(),)
    anything: Any = None


class Sticky:
    """Keeps clients
    where they are.

    More than an editor shows.
    """

    def __init__(self, options: Every, tools: Tools) -> None:
        self.options = options


@hookimpl
def register_affinities(register: Register) -> None:
    register("sticky", Sticky, Every)


def module_of(file: Path) -> ModuleType:
    spec = spec_from_file_location(file.parent.name, file)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def made() -> dict[str, Any]:
    """With the bundled plugins, that of the example, and one that has options of every type."""
    registry = Registry.load()
    registry.add(module_of(ROOT / "examples" / "strategy" / "router_canary" / "__init__.py"), "canary", "router-canary")
    registry.add(SimpleNamespace(register_affinities=register_affinities), "tests", "router-tests")
    return make_schema(registry)


SCHEMA = made()
VALIDATOR = Draft202012Validator(SCHEMA)
SMALLEST = {
    "listeners": [{"bind": ":80"}],
    "routes": [{"pool": "web"}],
    "pools": [{"name": "web", "endpoints": ["http://h"]}],
}


def accepts(text: str) -> bool:
    """Whether the schema takes the smallest configuration with these lines; keys without a table are a pool's."""
    data = tomllib.loads(text)
    tables = {table: [{**row} for row in rows] for table, rows in SMALLEST.items()}
    for key, value in data.items():
        if key in tables and isinstance(value, dict):
            tables[key][0].update(value)
        elif key in Config.__struct_fields__ or key == "top":
            tables[key] = value
        else:
            tables["pools"][0][key] = value
    return VALIDATOR.is_valid(tables)


def nodes(schema: Any) -> Iterator[dict[str, Any]]:
    """Every subschema with its own."""
    if isinstance(schema, dict):
        yield schema
        for below in schema.values():
            yield from nodes(below)
    elif isinstance(schema, list):
        for below in schema:
            yield from nodes(below)


def part_of(name: str) -> Draft202012Validator:
    return Draft202012Validator({"$ref": f"#/$defs/{name}", "$defs": SCHEMA["$defs"]})


def test_the_schema_is_one() -> None:
    Draft202012Validator.check_schema(SCHEMA)
    assert SCHEMA["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    for node in nodes(SCHEMA):
        if "$ref" in node:
            assert node["$ref"].removeprefix("#/$defs/") in SCHEMA["$defs"]


def test_the_command_prints_it() -> None:
    result = CliRunner().invoke(router, ["schema"])
    assert (result.exit_code, result.stderr) == (0, "")
    assert json.loads(result.stdout) == json.loads(json.dumps(make_schema(Registry.load())))


def test_a_broken_plugin_is_said_on_stderr(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = Registry()
    registry.broken.append(Broken("zone", "router-zone", "importing\nfailed"))
    monkeypatch.setattr(Registry, "load", lambda: registry)
    result = CliRunner().invoke(router, ["schema"])
    assert result.stderr == "router: the schema lacks plugin 'zone', which is broken: importing failed\n"
    Draft202012Validator.check_schema(json.loads(result.stdout))


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.parent.name)
def test_an_example_is_taken(file: Path) -> None:
    VALIDATOR.validate(tomllib.loads(file.read_text()))


@pytest.mark.parametrize("text", [text for text in DOCS["TOML"] if "[project" not in text])
def test_what_the_readme_shows_is_taken(text: str) -> None:
    VALIDATOR.validate(tomllib.loads(DOCS["completed"](text)))


def test_the_starter_is_taken() -> None:
    VALIDATOR.validate(tomllib.loads(STARTER))


def test_every_key_is_there_and_no_other() -> None:
    kinds = [kind for kind in vars(config).values() if isinstance(kind, type) and issubclass(kind, msgspec.Struct)]
    tables = {kind.__name__: kind for kind in kinds if kind.__struct_fields__}
    schemas = {**SCHEMA["$defs"], "Config": SCHEMA}
    assert len(tables) > 10
    for name, table in tables.items():
        assert set(schemas[name]["properties"]) == {field.encode_name for field in msgspec.structs.fields(table)}
        assert schemas[name]["additionalProperties"] is False


def test_every_default_is_a_value_that_the_key_takes() -> None:
    seen = 0
    for node in nodes(SCHEMA):
        if "default" in node:
            Draft202012Validator({**node, "$defs": SCHEMA["$defs"]}).validate(node["default"])
            seen += 1
    assert seen > 50


def test_defaults_stand_as_a_file_has_them() -> None:
    retry = SCHEMA["$defs"]["RetryConfig"]["properties"]
    assert {key: field["default"] for key, field in retry.items()} == {
        "attempts": 2,
        "on": ["connect", "reset", "timeout"],
        "attempt_timeout": "none",
        "buffer": "64KiB",
        "budget": "20%",
        "reserve": 10,
        "hedge_after": "none",
    }


def test_keys_are_explained_as_in_the_starter() -> None:
    for keys, text in explanations().items():
        *tables, key = keys
        properties = SCHEMA["properties"]
        for table in tables:
            reference = properties[table].get("items", properties[table])["$ref"]
            properties = SCHEMA["$defs"][reference.removeprefix("#/$defs/")]["properties"]
        assert properties[key]["description"] == text


@pytest.mark.parametrize(
    "text",
    [
        "[server]\nmax_headers = 5",
        '[server]\nzone = "${ZONE}"',
        '[server]\nzone = { file = "zone.txt" }',
        '[server]\nshutdown_timeout = { file = "seconds" }',
        '[server]\nshutdown_timeout = "${SECONDS}s"',
        "[server]\nmax_header_bytes = 4096",
        '[routes]\nhost = "a.example"\npath = ["/x", "/y/*"]\nheaders = { X-A = "*", file = "x" }',
        '[routes]\nfilters = ["mine:Filter", { use = "mine.sub:Filter", any = [1] }]',
        'selection = "round_robin"',
        'selection = { use = "round_robin" }',
        'selection = "cheapest:Cheapest"',
        'selection = { use = "cheapest:Cheapest", busy = 5 }',
        'selection = { use = "${STRATEGY}", busy = 5 }',
        'selection = "${STRATEGY}"',
        'selection = { file = "strategy" }',
        'selection = { use = "canary", share = "5%" }',
        'affinity = ""',
        'affinity = { use = "sticky", needed = "x", on_unready = "refuse" }',
        'affinity = { use = "mine:Affinity", on_unready = "refuse" }',
        'probe = ""',
        'probe = "mine:Probe"',
        'probe = "${PROBE}"',
        'probe = { use = "mine:Probe", any = 1, interval = "500ms", timeout = "${WAIT}", fall = 5, rise = 1 }',
        'probe = { use = "mine:Probe", interval = { file = "interval" } }',
        'slow_start = { window = "30s", min = "5%" }',
        'limits = { adaptive = "gradient" }',
        'limits = { adaptive = "${ADAPTIVE}" }',
        'retry = { hedge_after = "p95" }',
        'retry = { hedge_after = "50ms" }',
        'retry = { hedge_after = "${HEDGE}" }',
        'endpoints = ["http://a", { url = "http://b", weight = 2, state = "drain", metadata = { a = "b" } }]',
        'when_few_ready = "refuse"',
        'when_few_ready = "${FEW}"',
        'observers = ["mine:Observer"]\nservices = [{ use = "mine:Service", port = 1 }]',
        "[plugins]\nstrict = true",
    ],
)
def test_what_may_be_written_is_taken(text: str) -> None:
    assert accepts(text)


@pytest.mark.parametrize(
    "text",
    [
        "top = 1",
        "routes = []\nlisteners = 1",
        "[server]\nzoen = 1",
        "[server]\nzone = 1",
        "[server]\nmax_headers = 0",
        '[server]\nmax_headers = "5"',
        "[server]\nmax_header_bytes = -1",
        "[server]\nmax_header_bytes = true",
        "[server]\nshutdown_timeout = 30",
        '[server]\nshutdown_timeout = "30"',
        '[server]\nshutdown_timeout = "2 parsecs"',
        '[server]\nshutdown_timeout = { file = "x", more = 1 }',
        '[listeners]\ntimeouts = "10s"',
        '[listeners]\ntimeouts = { haeder = "10s" }',
        "[listeners]\nbind = 80",
        "[routes]\npool = 1",
        "[routes]\nhost = [1]",
        "[routes]\nheaders = { X-A = 1 }",
        "[routes]\nfilters = [1]",
        '[routes]\nfilters = ["unknown"]',
        'selection = ""',
        'selection = "round_robbin"',
        "selection = 1",
        "selection = []",
        "selection = { busy = 1 }",
        'selection = { use = "round_robin", busy = 5 }',
        'selection = { use = "round_robbin", busy = 5 }',
        'selection = { use = "canary", share = 5 }',
        'selection = { use = "canary", track = 5 }',
        'affinity = "sticky2"',
        'affinity = { use = "sticky" }',
        'affinity = { use = "sticky", needed = "x", on_unready = "wait" }',
        'affinity = { use = "mine:Affinity", on_unready = "wait" }',
        'detectors = "mine:Detector"',
        "probe = 5",
        "probe = {}",
        'probe = { interval = "2s" }',
        'probe = "htpt"',
        'probe = { use = "htpt" }',
        'probe = { use = "mine:Probe", interval = 2 }',
        'probe = { use = "mine:Probe", interval = "-2s" }',
        'probe = { use = "mine:Probe", timeout = true }',
        'probe = { use = "mine:Probe", fall = 0 }',
        'probe = { use = "mine:Probe", rise = "two" }',
        'probe = { use = "mine:Probe", rise = 1001 }',
        'slow_start = "30s"',
        "slow_start = { window = 30 }",
        'slow_start = { windwo = "30s" }',
        'slow_start = { min = "110%" }',
        'limits = { adaptive = "gradients" }',
        'retry = { hedge_after = "p101" }',
        'retry = { hedge_after = "p49" }',
        'retry = { hedge_after = "0ms" }',
        "retry = { hedge_after = 5 }",
        "endpoints = [{ weight = 1 }]",
        'endpoints = [{ url = "http://b", wieght = 1 }]',
        'endpoints = [{ url = "http://b", weight = -1 }]',
        'endpoints = [{ url = "http://b", state = "down" }]',
        'endpoints = "http://a"',
        'when_few_ready = "wait"',
        'prefer_zone = "yes"',
        'few_ready = "101%"',
        "retry = { attempts = 21 }",
        "retry = { attempts = 1.5 }",
        "limits = { in_flihgt = 1 }",
        '[plugins]\nstrict = "yes"',
    ],
)
def test_what_may_not_be_written_is_refused(text: str) -> None:
    assert not accepts(text)


@pytest.mark.parametrize("table", sorted(SMALLEST))
def test_the_tables_that_must_be_there(table: str) -> None:
    assert not VALIDATOR.is_valid({key: rows for key, rows in SMALLEST.items() if key != table})


def test_a_key_that_is_left_out_is_not_written_as_null() -> None:
    assert accepts("[routes]\nanswer = { status = 404 }")
    assert not VALIDATOR.is_valid({**SMALLEST, "routes": [{"answer": None}]})
    assert not VALIDATOR.is_valid({**SMALLEST, "routes": [{"answer": {"status": None}}]})


@pytest.mark.parametrize(
    ("option", "sound"),
    [
        ({"part": {"name": "a", "parts": [{"name": "b", "parts": []}]}}, True),
        ({"part": {"name": "a", "parts": [{"nmae": "b"}]}}, False),
        ({"ratio": 1}, True),
        ({"ratio": 0}, False),
        ({"ratio": "1"}, False),
        ({"mode": "hard"}, True),
        ({"mode": "${MODE}"}, True),
        ({"mode": "firm"}, False),
        ({"level": 2}, True),
        ({"level": 3}, False),
        ({"wait": None}, True),
        ({"wait": "1s"}, True),
        ({"wait": 1}, False),
        ({"buffer": "1KiB"}, True),
        ({"buffer": "1KB"}, False),
        ({"share": {"file": "share"}}, True),
        ({"short": "abcd"}, False),
        ({"short": "${SHORT}"}, True),
        ({"names": ["a", {"file": "b"}]}, True),
        ({"names": ["a", "b", "c"]}, False),
        ({"names": "a"}, False),
        ({"table": {"a": 1}}, True),
        ({"table": {"a": "1"}}, False),
        ({"pair": [1, "a"]}, True),
        ({"pair": ["a", 1]}, False),
        ({"pair": [1]}, False),
        ({"switch": 1}, False),
        ({"waits": [{"time": "1s", "unknown": "ignored"}]}, True),
        ({"waits": [{"time": 1}]}, False),
        ({"anything": [None, {"x": 1.5}]}, True),
    ],
)
def test_the_options_of_a_plugin_have_their_types(option: dict[str, Any], sound: bool) -> None:
    pool = {**SMALLEST["pools"][0], "affinity": {"use": "sticky", "needed": "x", **option}}
    assert VALIDATOR.is_valid({**SMALLEST, "pools": [pool]}) is sound


def test_a_plugin_is_described() -> None:
    (table,) = [node for node in nodes(SCHEMA["$defs"]["affinity"]) if "sticky" in node.get("title", "")]
    assert table["title"] == 'affinity "sticky" (router-tests)'
    assert table["description"] == "Keeps clients where they are."
    assert table["required"] == ["use", "needed"]
    options = table["properties"]
    defaults = {key: option["default"] for key, option in options.items() if "default" in option}
    assert (defaults["wait"], defaults["until"], defaults["buffer"]) == ("1.5s", None, "2KiB")
    assert (defaults["share"], defaults["pair"], defaults["names"]) == ("25%", [1, "a"], [])
    assert (defaults["day"], "waits" in defaults) == ("2026-01-02", False)
    assert options["short"]["description"] == "at most three letters"


class RouteConfig(msgspec.Struct, frozen=True):
    """Called like a struct of the configuration."""

    metric: int = 1


class Named(Options, frozen=True):
    route: RouteConfig = RouteConfig()


def test_structs_of_one_name_stay_apart() -> None:
    @hookimpl
    def register_services(register: Register) -> None:
        register("named", Sticky, Named)

    registry = Registry()
    registry.add(SimpleNamespace(register_services=register_services), "named")
    schema = make_schema(registry)
    assert "metric" not in schema["$defs"]["RouteConfig"]["properties"]
    validator = Draft202012Validator(schema)
    for metric, sound in ((2, True), ("2", False)):
        services = [{"use": "named", "route": {"metric": metric}}]
        assert validator.is_valid({**SMALLEST, "services": services}) is sound


TEXTS = st.text("0123456789.%msh KiMGBnoe-", max_size=9) | st.from_regex(
    r"p?[0-9]{1,3}(\.[0-9]{1,2})?m?s?", fullmatch=True
)


HEDGES = (
    "none 1ms 0.5s 0s 0.0h p p5 p49.9 p50 p95 p99 p99.9 p99.90 p99.91 p100 p095 p95. p.5 P95 p95% p95s p-95 pp95 95"
)


@pytest.mark.parametrize(
    ("name", "parse", "words"),
    [
        ("Duration", parse_duration, ["250ms", "2s", "1.5m", "1h", "none", "1.s", ".5s", "s", "1d", "-1s", "1s "]),
        ("Size", parse_size, ["1B", "64KiB", "1MiB", "999999999GiB", "none", "KiB", "1.5KiB", "64KB", "64kib"]),
        ("SizeLimit", parse_size_limit, ["1B", "none", "nonee", "64KiB", "1.5KiB"]),
        (
            "HedgeDelay",
            parse_hedge_delay,
            HEDGES.split(" "),
        ),
        ("Share", parse_share, ["0%", "10%", "99.9%", "100%", "100.0%", "007%", "100.1%", "101%", "%", "1", "1.%"]),
    ],
)
def test_units_are_taken_as_they_are_read(name: str, parse: Any, words: list[str]) -> None:
    validator = part_of(name)

    def agrees(value: object) -> None:
        try:
            parse(value)
        except ValueError:
            assert not validator.is_valid(value), value
        else:
            assert validator.is_valid(value), value

    for value in [*words, "", 0, 5, -1, True, None, 1.5, [], {}]:
        agrees(value)
    settings(deadline=None)(given(TEXTS)(agrees))()


VALUES = st.sampled_from(
    ["2s", "250ms", "1h", "2", "-1s", "1.s", "", "s", True, None, -1, 0, 1, 1000, 1001, 1.5, [], {}]
)


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(ProbeKeys.__struct_fields__), VALUES))
def test_the_cores_keys_of_a_probe_are_taken_as_they_are_read(options: dict[str, Any]) -> None:
    reference = {"use": "mine:Probe", **options}
    pool = {**SMALLEST["pools"][0], "probe": reference}
    taken = VALIDATOR.is_valid({**SMALLEST, "pools": [pool]})
    try:
        read_core_keys("probe", reference)
    except PluginFault:
        assert not taken
    else:
        assert taken
