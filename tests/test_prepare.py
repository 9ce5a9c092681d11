"""A configuration becomes plugin objects and a table, or every fault of it at once, each where it stands."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from router.config import Config, ListenerConfig, PoolConfig, RouteConfig
from router.configfile import ConfigFaults, parse
from router.faults import Fault
from router.model import EndpointSpec
from router.prepare import Prepared, prepare
from router.testing import make_candidates, make_endpoints, make_exchange

MODULE = """
import router

made = []

class Mine:
    class Options(router.Options, frozen=True):
        tau: router.Duration = router.Duration(1)
        most: int = 1

    def __init__(self, options, tools):
        made.append(type(self).__name__)
        self.options, self.tools = options, tools

    def choose(self, candidates, exchange):
        return candidates[0]

class Sticky(Mine):
    strip_cookies = ()
    choose = None

    def find(self, members, exchange):
        return None

    def remember(self, endpoint, exchange, headers):
        pass

class Watcher(Mine):
    def observe(self, endpoint, outcome, now):
        return None

class Asks(Mine):
    async def check(self, endpoint):
        pass

class Filter(Mine):
    def on_request(self, exchange):
        return None

    def on_response(self, exchange, headers):
        pass

class Wrong:
    def choose(self, candidates):
        return candidates[0]

class Fails:
    def __init__(self, options, tools):
        raise ValueError("no luck")
"""

TEXT = """\
[[listeners]]
bind = "127.0.0.1:8080"
[[routes]]
pool = "web"
{route}
[[pools]]
name = "web"
endpoints = ["http://127.0.0.1:9001", "http://127.0.0.1:9002"]
{pool}
{tables}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    before, path = set(sys.modules), list(sys.path)
    (tmp_path / "my_parts_here.py").write_text(MODULE)
    yield tmp_path
    sys.path[:] = path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def prepared(folder: Path, pool: str = "", route: str = "", tables: str = "", seed: int | None = None) -> Prepared:
    text = TEXT.format(pool=pool, route=route, tables=tables)
    config, source = parse(text, "router.toml", "toml", folder, {})
    return prepare(config, source, folder, seed=seed)


def faults(folder: Path, pool: str = "", route: str = "", tables: str = "") -> tuple[Fault, ...]:
    with pytest.raises(ConfigFaults) as caught:
        prepared(folder, pool, route, tables)
    return caught.value.faults


MINE = "my_parts_here:Mine"


# What is right.


def test_a_checked_configuration_has_its_plugins_and_a_table(folder: Path) -> None:
    made = prepared(folder)
    table = made.table(7, now=1000.0)
    assert (table.version, list(table.pools)) == (7, ["web"])
    selector, detector = made.plugins()
    assert made.parts["web"].selector is selector
    assert made.parts["web"].detectors == (detector,)
    assert (type(selector).__name__, type(detector).__name__) == ("LeastRequest", "Consecutive")
    assert made.parts["web"].probe is None


def test_every_object_is_made_once_with_its_options(folder: Path) -> None:
    made = prepared(
        folder,
        'selection = { use = "my_parts_here:Mine", tau = "5s" }\n'
        'affinity = { use = "my_parts_here:Sticky", on_unready = "refuse", most = 2 }\n'
        'probe = { use = "my_parts_here:Asks", interval = "5s", timeout = "250ms", fall = 4, rise = 5, tau = "3s" }\n'
        'detectors = ["my_parts_here:Watcher", { use = "my_parts_here:Watcher", most = 3 }]',
        'filters = ["my_parts_here:Filter"]',
    )
    for version in (1, 2):
        made.table(version, now=1000.0)
    # Which of a pool's is made first is nobody's business.
    made_of_pool = sys.modules["my_parts_here"].made
    assert sorted(made_of_pool) == ["Asks", "Filter", "Mine", "Sticky", "Watcher", "Watcher"]
    parts = made.parts["web"]
    objects = [parts.selector, parts.affinity, parts.probe, *parts.detectors, *made.filters[0]]
    assert set(made.plugins()) == set(objects)
    assert len(made.plugins()) == len(objects)
    options = [(one.options.tau, one.options.most) for one in objects]
    assert options == [(5, 1), (1, 2), (3, 1), (1, 1), (1, 3), (1, 1)]
    assert parts.on_unready == "refuse"
    timing = parts.timing
    assert (timing.interval, timing.timeout, timing.fall, timing.rise) == (5, 0.25, 4, 5)


def test_each_object_has_a_generator_of_its_own(folder: Path) -> None:
    made = prepared(folder, f'selection = "{MINE}"\ndetectors = ["my_parts_here:Watcher"]', seed=3)
    first, second = (one.tools.rng for one in made.plugins())
    assert first.random() != second.random()


def test_an_affinity_without_a_word_chooses_another_endpoint(folder: Path) -> None:
    assert prepared(folder).parts["web"].affinity is None
    made = prepared(folder, 'affinity = "my_parts_here:Sticky"').parts["web"]
    assert (made.affinity is not None, made.on_unready) == (True, "reselect")


def picks(folder: Path, seed: int | None) -> list[str]:
    selector = prepared(folder, 'selection = "random"', seed=seed).parts["web"].selector
    candidates = make_candidates(make_endpoints(*[1] * 10))
    return [selector.choose(candidates, make_exchange()).spec.url for _ in range(40)]


def test_the_same_seed_makes_the_same_choices(folder: Path) -> None:
    assert picks(folder, 1) == picks(folder, 1)
    assert picks(folder, 1) != picks(folder, 2)


def test_without_a_seed_each_start_chooses_its_own(folder: Path) -> None:
    state = random.getstate()
    assert picks(folder, None) != picks(folder, None)
    assert random.getstate() == state


def test_the_seed_reaches_the_pools_of_the_table(folder: Path) -> None:
    states = [prepared(folder, seed=seed).table(1, 0.0).pools["web"].rng.getstate() for seed in (1, 1, 2)]
    assert states[0] == states[1] != states[2]


# What is wrong, and where.


@pytest.mark.parametrize(
    ("pool", "place", "key", "words", "hint"),
    [
        ('selection = "round_robbin"', (9, 13), "", "least_request, random, round_robin", "round_robin"),
        ('selection = { use = "randon" }', (9, 21), ".use", 'no selection "randon"', "random"),
        ('selection = { use = "random", tau = "1s" }', (9, 37), ".tau", "its options: none", ""),
        (f'selection = {{ use = "{MINE}", tua = "1s" }}', (9, 49), ".tua", "options: most, tau", "tau"),
        (f'selection = {{ use = "{MINE}", tau = 1 }}', (9, 49), ".tau", "a duration is written like", ""),
        (
            f'selection = {{ use = "{MINE}", most = "1" }}',
            (9, 50),
            ".most",
            "expected a whole number, not a string",
            "",
        ),
        ('selection = "my_part_here:Mine"', (9, 13), "", 'no module "my_part_here"', "my_parts_here"),
        ('selection = "my_parts_here:Mien"', (9, 13), "", 'no class "Mien"', "Mine"),
        ('selection = "my_parts_here:Wrong"', (9, 13), "", "Wrong.choose cannot be called as `def choose(", ""),
        ('selection = "my_parts_here:Fails"', (9, 13), "", "could not be made: no luck", ""),
        ('selection = "my_parts_here:Sticky"', (9, 13), "", "Sticky has no method choose", ""),
    ],
)
def test_a_selector_at_fault(folder: Path, pool: str, place: tuple[int, int], key: str, words: str, hint: str) -> None:
    (fault,) = faults(folder, pool)
    assert (fault.line, fault.column) == place
    assert (fault.file, fault.where, fault.key) == ("router.toml", "pool 'web'", f"pools[0].selection{key}")
    assert words in fault.message
    assert fault.hint == (f'did you mean "{hint}"?' if hint else "")


@pytest.mark.parametrize(
    ("pool", "route", "tables", "key", "words"),
    [
        ('affinity = "cokie"', "", "", "pools[0].affinity", 'no affinity "cokie"'),
        ('detectors = ["my_parts_here:Watcher", "slow"]', "", "", "pools[0].detectors[1]", 'no detector "slow"'),
        ('probe = "htttp"', "", "", "pools[0].probe", 'no probe "htttp"'),
        ('probe = { use = "my_parts_here:Mine" }', "", "", "pools[0].probe", "no method check"),
        ('detectors = [{ use = "my_parts_here:Mine" }]', "", "", "pools[0].detectors[0]", "no method observe"),
        ("", 'filters = ["auth"]', "", "routes[0].filters[0]", 'no filter "auth"'),
        ("", "", '[[observers]]\nuse = "tracking"', "observers[0].use", 'no observer "tracking"'),
        ("", "", '[[services]]\nuse = "metrics"', "services[0].use", 'no service "metrics"'),
    ],
)
def test_a_plugin_of_another_concern_at_fault(
    folder: Path, pool: str, route: str, tables: str, key: str, words: str
) -> None:
    (fault,) = faults(folder, pool, route, tables)
    assert fault.key == key
    assert words in fault.message
    assert fault.line > 0


def test_on_unready_is_one_of_two_words(folder: Path) -> None:
    (fault,) = faults(folder, 'affinity = { use = "my_parts_here:Sticky", on_unready = "wait" }')
    assert (fault.line, fault.column, fault.key) == (9, 57, "pools[0].affinity.on_unready")
    assert fault.value == '"wait"'
    assert '"reselect" or "refuse"' in fault.message + fault.hint


def test_a_disabled_plugin_is_not_there(folder: Path) -> None:
    (fault,) = faults(folder, 'selection = "random"', "", '[plugins]\ndisable = ["selection"]')
    assert fault.key == "pools[0].selection"
    assert 'no selection "random"; none is installed' in fault.message


def test_only_what_is_installed_can_be_disabled(folder: Path) -> None:
    (fault,) = faults(folder, "", "", '[plugins]\ndisable = ["edge-router", "selecton"]')
    assert (fault.line, fault.column, fault.key) == (11, 27, "plugins.disable[1]")
    assert fault.hint == 'did you mean "selection"?'


@pytest.fixture
def broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A distribution whose plugin cannot be imported."""
    info = tmp_path / "site" / "router_broken-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: router-broken\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[router.plugins]\nfaulty = no_such_module_here\n")
    monkeypatch.syspath_prepend(str(info.parent))


def test_a_broken_plugin_stops_nobody_unless_strict(folder: Path, broken: None) -> None:
    (told,) = prepared(folder).registry.broken
    assert (told.plugin, told.distribution) == ("faulty", "router-broken")
    (fault,) = faults(folder, "", "", "[plugins]\nstrict = true")
    assert (fault.where or fault.key).startswith("plugins")
    assert 'plugin "faulty" of router-broken is broken' in fault.message


def test_all_faults_come_at_once_in_the_order_of_the_file(folder: Path) -> None:
    found = faults(
        folder,
        f'selection = {{ use = "{MINE}", tua = "1s", most = "x" }}\nlimits = {{ queue = 5 }}\ndetectors = ["slow"]',
        'path = "api"',
        "[server]\ndrain_delay = 'none'",
    )
    assert [fault.key for fault in found] == [
        "routes[0].path",
        "pools[0].selection.tua",
        "pools[0].selection.most",
        "pools[0].limits.queue",
        "pools[0].detectors[0]",
        "server.drain_delay",
    ]
    assert [fault.line for fault in found] == sorted(fault.line for fault in found)


@pytest.mark.parametrize(
    ("pool", "route"),
    [
        ('selection = ""', ""),
        ("selection = {}", ""),
        ('selection = { name = "random" }', ""),
        ("selection = { use = 3 }", ""),
        ('selection = { use = "" }', ""),
        ('affinity = { on_unready = "refuse" }', ""),
        ("probe = {}", ""),
        ('probe = { interval = "1s" }', ""),
        ("probe = { use = 3 }", ""),
        ('detectors = [""]', ""),
        ("", "filters = [{}]"),
    ],
)
def test_a_reference_without_a_name_is_said_once(folder: Path, pool: str, route: str) -> None:
    (fault,) = faults(folder, pool, route)
    assert fault.line > 0


# What was never written down.


def config_of(**pool: object) -> Config:
    web = PoolConfig("web", ("http://127.0.0.1:9001", EndpointSpec("http://127.0.0.1:9002")), **pool)  # type: ignore[arg-type]
    return Config((ListenerConfig("127.0.0.1:8080"),), (RouteConfig("web"),), (web,))


def test_a_configuration_needs_no_source(folder: Path) -> None:
    table = prepare(config_of(), None, folder).table(1, 0.0)
    urls = [endpoint.spec.url for endpoint in table.pools["web"].members.values()]
    assert urls == ["http://127.0.0.1:9001", "http://127.0.0.1:9002"]


def test_faults_without_a_source_have_a_key_and_no_line(folder: Path) -> None:
    with pytest.raises(ConfigFaults) as caught:
        prepare(config_of(selection="randon", detectors=("slow",)), None, folder)
    assert [(fault.line, fault.key) for fault in caught.value.faults] == [
        (0, "pools[0].selection"),
        (0, "pools[0].detectors[0]"),
    ]
    assert str(caught.value.faults[0]).startswith("pool 'web': selection = \"randon\": no selection")


def test_preparing_opens_no_socket_and_no_event_loop() -> None:
    code = "import sys, router.prepare; print(sorted({'asyncio', 'aiohttp', 'ssl', 'uvloop'} & set(sys.modules)))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    assert ran.stdout.strip() == "[]"
