"""When servers are probed, when a request is hedged, how a server comes back: nonsense is refused with its place.

`router check` says all of it at once, and `router schema` draws the line where `check` does.
"""

from __future__ import annotations

import json
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from jsonschema import Draft202012Validator

from router import Options, hookimpl
from router.cli import router
from router.cli_schema import make_schema
from router.config import Config, HedgeDelay, ListenerConfig, PoolConfig, RetryConfig, RouteConfig, parse_hedge_delay
from router.configfile import parse
from router.corekeys import CORE_KEYS, AffinityKeys, ProbeKeys, read_core_keys, without_core_keys
from router.options import PluginFault
from router.plugins import Registry
from router.prepare import prepare

MODULE = """
import router

class Asks:
    '''A probe without options.'''
    def __init__(self, options, tools):
        self.options = options

    async def check(self, endpoint):
        pass

class Choosy(Asks):
    class Options(router.Options, frozen=True):
        fails: int = 1
        most: int = 1

class Sticky:
    def __init__(self, options, tools):
        self.options = options

    def find(self, members, exchange):
        return None

    def remember(self, endpoint, exchange, headers):
        pass
"""

HEAD = """\
[[listeners]]
bind = "127.0.0.1:8080"
[[routes]]
pool = "web"
[[pools]]
name = "web"
endpoints = ["http://127.0.0.1:9001", "http://127.0.0.1:9002"]
detectors = []
"""
#: The line of the file that a test's own first line is.
FIRST = HEAD.count("\n") + 1
TIME = '"250ms", "2s", "5m" or "1h"'


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    before, path = set(sys.modules), list(sys.path)
    (tmp_path / "core_parts.py").write_text(MODULE)
    yield tmp_path
    sys.path[:] = path
    for name in set(sys.modules) - before:
        del sys.modules[name]


Check = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def check(folder: Path) -> Check:
    """check(lines): the faults that `router check --json` says of a pool with these lines."""

    def run(lines: str) -> list[dict[str, Any]]:
        file = folder / "router.toml"
        file.write_text(f"{HEAD}{lines}\n")
        result = CliRunner().invoke(router, ["check", "--json", str(file)])
        assert result.exception is None or isinstance(result.exception, SystemExit)
        said = json.loads(result.stdout)
        faults: list[dict[str, Any]] = said["faults"]
        assert result.exit_code == (2 if faults else 0)
        assert said["ok"] is not bool(faults)
        return faults

    return run


def probe(options: str) -> str:
    return f'probe = {{ use = "core_parts:Asks", {options} }}'


def sticky(options: str) -> str:
    return f'affinity = {{ use = "core_parts:Sticky", {options} }}'


Row = tuple[str, str, str, str]
HEDGE = '"50ms", "none", or "p95"'
FLOOR = 'at least "10ms"'
#: (lines of a pool, the key that is at fault, what its place shows, words that say what would be right)
NONSENSE: list[Row] = [
    (probe("interval = -1"), "probe.interval", "-1", TIME),
    (probe("interval = 2"), "probe.interval", "2", TIME),
    (probe('interval = "-1s"'), "probe.interval", '"-1s"', TIME),
    (probe('interval = ""'), "probe.interval", '""', TIME),
    (probe('interval = "inf"'), "probe.interval", '"inf"', TIME),
    (probe('interval = "2 s"'), "probe.interval", '"2 s"', TIME),
    (probe('interval = ["2s"]'), "probe.interval", "[", TIME),
    (probe("timeout = true"), "probe.timeout", "true", TIME),
    (probe("fall = 0"), "probe.fall", "0", ">= 1"),
    (probe("fall = -3"), "probe.fall", "-3", ">= 1"),
    (probe("fall = 1001"), "probe.fall", "1001", "<= 1000"),
    (probe("fall = 1.5"), "probe.fall", "1.5", "expected a whole number"),
    (probe("fall = true"), "probe.fall", "true", "expected a whole number"),
    (probe('rise = "two"'), "probe.rise", '"two"', "expected a whole number"),
    (probe("rise = 0"), "probe.rise", "0", ">= 1"),
    (probe("rise = 99999999999999999999"), "probe.rise", "99999999999999999999", "<= 1000"),
    ("probe = 5", "probe", "5", "expected a string or a table"),
    ("probe = true", "probe", "true", "expected a string or a table"),
    ('probe = ["http"]', "probe", "[", "expected a string or a table"),
    ("probe = {}", "probe", "{", "the key 'use' is missing"),
    ('probe = { interval = "2s" }', "probe", "{", "the key 'use' is missing"),
    ("probe = { use = 5 }", "probe.use", "5", "expected the name of a plugin"),
    ('probe = { use = "" }', "probe.use", '""', "expected the name of a plugin"),
    ('probe = "htpt"', "probe", '"htpt"', 'no probe "htpt"'),
    (sticky('on_unready = "wait"'), "affinity.on_unready", '"wait"', '"reselect" or "refuse"'),
    (sticky("on_unready = 5"), "affinity.on_unready", "5", "expected a string"),
    *(
        (f'retry = {{ hedge_after = "{text}" }}', "retry.hedge_after", f'"{text}"', HEDGE)
        for text in ("p101", "p", "p49", "p99.95", "p95%", "P95", "p-1", "pnan", "p95.", "p 95", "95", "pp95")
    ),
    *(
        (f"retry = {{ hedge_after = {value} }}", "retry.hedge_after", value[:1], HEDGE)
        for value in ('"0ms"', '"0.0s"', "5", "0.5", "true", '""', '"soon"', '"-5ms"', "[]")
    ),
    ('retry = { hegde_after = "p95" }', "retry.hegde_after", "hegde_after", "hedge_after"),
    ('slow_start = { window = "-1s" }', "slow_start.window", '"-1s"', TIME),
    ("slow_start = { window = 30 }", "slow_start.window", "30", TIME),
    ('slow_start = { min = "101%" }', "slow_start.min", '"101%"', '"0%" to "100%"'),
    ("slow_start = { min = 0.1 }", "slow_start.min", "0.1", '"0%" to "100%"'),
    ('slow_start = { windows = "1s" }', "slow_start.windows", "windows", "window"),
    ('slow_start = "30s"', "slow_start", '"30s"', "expected a table"),
    ('limits = { adaptive = "gradients" }', "limits.adaptive", '"gradients"', "did you mean 'gradient'?"),
    ("limits = { adaptive = true }", "limits.adaptive", "true", "expected a string"),
    ('limits = { adaptive = "" }', "limits.adaptive", '""', "'aimd' or 'gradient' or 'none'"),
]
#: What a schema of types cannot know: how long at least, and what a class has that is named by the file alone.
BEYOND: list[Row] = [
    (probe('interval = "0s"'), "probe.interval", '"0s"', FLOOR),
    (probe('interval = "none"'), "probe.interval", '"none"', FLOOR),
    (probe('interval = "9ms"'), "probe.interval", '"9ms"', FLOOR),
    (probe('timeout = "0s"'), "probe.timeout", '"0s"', FLOOR),
    (probe('timeout = "none"'), "probe.timeout", '"none"', FLOOR),
    ('slow_start = { window = "none" }', "slow_start.window", '"none"', "'0s' is none"),
    ('slow_start = { min = "0%" }', "slow_start.min", '"0%"', "at least '1%'"),
    (probe('intervall = "2s"'), "probe.intervall", '"2s"', 'did you mean "interval"?'),
    (probe('timout = "2s"'), "probe.timout", '"2s"', 'did you mean "timeout"?'),
    (probe("falls = 2"), "probe.falls", "2", 'did you mean "fall"?'),
    (probe("raise = 2"), "probe.raise", "2", 'did you mean "rise"?'),
    (probe("on_unready = 1"), "probe.on_unready", "1", 'no option "on_unready"'),
    (sticky('on_unraedy = "refuse"'), "affinity.on_unraedy", '"refuse"', 'did you mean "on_unready"?'),
    ('probe = "core_parts:Ask"', "probe", '"core_parts:Ask"', 'did you mean "Asks"?'),
    ('probe = "core_parts:Sticky"', "probe", '"core_parts:Sticky"', "async def check(endpoint: Endpoint)"),
    ('affinity = "core_parts:Asks"', "affinity", '"core_parts:Asks"', "no method find"),
]


@pytest.mark.parametrize(("lines", "key", "value", "words"), NONSENSE + BEYOND)
def test_nonsense_is_refused_with_its_place_and_a_remedy(
    check: Check, lines: str, key: str, value: str, words: str
) -> None:
    faults = check(lines)
    assert [fault["key"] for fault in faults] == [f"pools[0].{key}"]
    (fault,) = faults
    assert words in f"{fault['message']} {fault['hint']}"
    assert fault["line"] == FIRST
    assert lines[fault["column"] - 1 :].startswith(value)


def test_all_nonsense_is_said_at_once(check: Check) -> None:
    lines = [
        'probe = { use = "core_parts:Asks", interval = "0s", timeout = "none", fall = 0, rise = "two", intervall = 1 }',
        'retry = { hedge_after = "p101" }',
        'slow_start = { window = "none", min = "0%" }',
        'limits = { adaptive = "gradients" }',
    ]
    found = {(fault["key"].removeprefix("pools[0]."), fault["line"]) for fault in check("\n".join(lines))}
    # What only plugins know is asked once the rest can be read.
    readable = {("retry.hedge_after", FIRST + 1), ("limits.adaptive", FIRST + 3)}
    assert readable <= found
    found = {fault["key"].removeprefix("pools[0].probe.") for fault in check(lines[0])}
    assert found == {"interval", "timeout", "fall", "rise", "intervall"}
    found = {fault["key"].removeprefix("pools[0].slow_start.") for fault in check(lines[2])}
    assert found == {"window", "min"}


def test_a_person_reads_file_line_and_column_and_exit_2(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    Path("router.toml").write_text(HEAD + probe("rise = 0, fall = 2, intervall = 5"))
    result = CliRunner().invoke(router, ["check"])
    assert result.exit_code == 2
    assert f"router.toml:{FIRST}:43: pool 'web': probe.rise = 0: " in result.stdout
    assert 'did you mean "interval"?' in result.stdout
    assert "2 faults" in result.stdout
    assert "Traceback" not in result.output


@pytest.mark.parametrize("word", ["intervall", "zzz"])
def test_an_unknown_option_is_told_which_there_are(check: Check, word: str) -> None:
    (fault,) = check(probe(f"{word} = 1"))
    for known in ("interval", "timeout", "fall", "rise"):
        assert known in fault["message"]


def test_a_bad_value_of_a_plugins_own_option_is_no_slip_of_the_pen(check: Check) -> None:
    (fault,) = check('probe = { use = "core_parts:Choosy", fails = "x" }')
    assert fault["key"] == "pools[0].probe.fails"
    assert "fall" not in fault["hint"]


def test_a_plugins_own_key_is_nearer_than_the_cores(check: Check) -> None:
    (fault,) = check('probe = { use = "core_parts:Choosy", failss = 1 }')
    assert fault["hint"] == 'did you mean "fails"?'


SENSE = [
    probe('interval = "10ms", timeout = "10ms", fall = 1, rise = 1'),
    probe('interval = "24h", timeout = "48h", fall = 1000, rise = 1000'),
    'probe = "core_parts:Asks"',
    'probe = ""',
    'affinity = { use = "core_parts:Sticky", on_unready = "reselect" }',
    *(
        f'retry = {{ hedge_after = "{value}" }}'
        for value in ("p50", "p95", "p99.9", "p99.90", "1ms", "0.5s", "1h", "none")
    ),
    'slow_start = { window = "0s", min = "1%" }',
    'slow_start = { window = "1h", min = "100%" }',
    'slow_start = { min = "0.1%" }',
    'limits = { adaptive = "gradient" }',
    'limits = { adaptive = "aimd", in_flight_per_endpoint = 5 }',
    'limits = { adaptive = "none" }',
]


@pytest.mark.parametrize("lines", SENSE)
def test_sense_is_taken(check: Check, lines: str) -> None:
    assert check(lines) == []


VALIDATOR = Draft202012Validator(make_schema(Registry.load()))


@pytest.mark.parametrize("lines", [row[0] for row in NONSENSE])
def test_the_schema_refuses_what_check_refuses(lines: str) -> None:
    assert not VALIDATOR.is_valid(tomllib.loads(f"{HEAD}{lines}\n"))


@pytest.mark.parametrize("lines", SENSE)
def test_the_schema_takes_what_check_takes(lines: str) -> None:
    VALIDATOR.validate(tomllib.loads(f"{HEAD}{lines}\n"))


# Hedging


@pytest.mark.parametrize(
    ("text", "seconds", "share"),
    [("none", None, None), ("50ms", 0.05, None), ("2m", 120.0, None), ("p50", None, 0.5), ("p99.9", None, 0.999)],
)
def test_a_hedge_is_a_time_a_share_or_nothing(text: str, seconds: float | None, share: float | None) -> None:
    delay = parse_hedge_delay(text)
    assert isinstance(delay, HedgeDelay)
    assert delay.seconds == seconds
    assert delay.share == pytest.approx(share)
    assert delay == text


@pytest.mark.parametrize(("text", "after", "share"), [("none", None, None), ("50ms", 0.05, None), ("p95", None, 0.95)])
def test_a_hedge_reaches_the_pool(folder: Path, text: str, after: float | None, share: float | None) -> None:
    config, source = parse(f'{HEAD}retry = {{ hedge_after = "{text}" }}\n', "router.toml", "toml", folder, {})
    retry = prepare(config, source, folder).table(1, 0.0).pools["web"].retry
    assert (retry.hedge_after, retry.hedge_share) == (pytest.approx(after), pytest.approx(share))


def test_a_configuration_that_was_never_written_may_hedge(folder: Path) -> None:
    pool = PoolConfig("web", ("http://127.0.0.1:1",), retry=RetryConfig(hedge_after=HedgeDelay("p95")), detectors=())
    config = Config((ListenerConfig("127.0.0.1:0"),), (RouteConfig("web"),), (pool,))
    assert prepare(config, None, folder).table(1, 0.0).pools["web"].retry.hedge_share == 0.95


# What there is for others


def test_the_defaults_are_haproxys() -> None:
    keys = read_core_keys("probe", "http")
    assert keys == ProbeKeys()
    assert (keys.interval, keys.timeout, keys.fall, keys.rise) == (2, 1, 3, 2)
    assert read_core_keys("affinity", {"use": "cookie", "name": "x"}) == AffinityKeys("reselect")


def test_the_cores_keys_are_taken_and_the_plugins_are_left() -> None:
    ref = {"use": "http", "path": "/up", "interval": "5s", "fall": 2}
    assert read_core_keys("probe", ref).interval == 5
    assert without_core_keys("probe", ref) == {"use": "http", "path": "/up"}
    assert without_core_keys("probe", "http") == "http"
    assert ref == {"use": "http", "path": "/up", "interval": "5s", "fall": 2}


def test_every_fault_of_the_cores_keys_is_found() -> None:
    with pytest.raises(PluginFault) as caught:
        read_core_keys("probe", {"use": "x", "interval": "0s", "timeout": 5, "fall": 0, "rise": 2})
    assert {fault.key for fault in caught.value.all} == {("interval",), ("timeout",), ("fall",)}


def test_a_plugins_option_that_the_core_would_take_away_is_refused() -> None:
    registry = Registry()

    class Named(Options, frozen=True):
        timeout: int = 1
        depth: int = 1

    class Plugin:
        @hookimpl
        def register_probes(self, register: Any) -> None:
            register("deep", dict, Named)

    with pytest.raises(PluginFault, match="reads for every probe: timeout"):
        registry.add(Plugin(), "deep")


def test_no_bundled_plugin_has_an_option_that_the_core_takes_away() -> None:
    for entry in Registry.load().entries:
        kind = CORE_KEYS.get(entry.concern, Options)
        assert not set(entry.options.__struct_fields__) & set(kind.__struct_fields__), entry


def test_an_option_of_a_plugin_is_described_with_the_cores_keys_in_the_schema() -> None:
    probes = VALIDATOR.schema["$defs"]["probe"]["anyOf"]
    tables = [table for table in probes if table.get("type") == "object" and "use" in table["properties"]]
    assert tables
    for table in tables:
        assert set(table["properties"]) >= {"use", "interval", "timeout", "fall", "rise"}
        assert table["properties"]["fall"]["default"] == 3
        assert table["properties"]["interval"]["default"] == "2s"


def test_the_list_of_plugins_shows_the_bundled_probes_with_their_options() -> None:
    result = CliRunner().invoke(router, ["plugins"])
    assert result.exit_code == 0
    rows = [line.split() for line in result.stdout.splitlines() if line.startswith("probe ")]
    assert {row[1] for row in rows} >= {"http", "tcp", "command"}
    (http,) = [row for row in rows if row[1] == "http"]
    assert http[2] == "edge-router"
    assert "method:" in http
