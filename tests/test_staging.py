"""What a configuration changes, worked out before anything is changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from router.prepare import Prepared, prepare_file
from router.staging import Staged, stage

CHANGED = """
import router
class Chooses:
    class Options(router.Options, frozen=True):
        x: int = 0
    def __init__(self, options, tools): pass
    def choose(self, candidates, exchange): return candidates[0]
    def update(self, endpoints): raise AssertionError("it never serves")
    async def check(self, endpoint): pass
    async def watch(self): yield []
    def observe(self, endpoint, outcome, now): pass
    def on_request(self, exchange): pass
    def on_response(self, exchange, headers): pass
"""

POOL = {
    "endpoints": '["http://a.test", { id = "b", url = "http://b.test" }]',
    "selection": '"staged:Chooses"',
    "detectors": '["staged:Chooses"]',
    "probe": '{ use = "staged:Chooses", interval = "5s" }',
    "discovery": '"staged:Chooses"',
    "drain_timeout": '"5s"',
}


class Bench:
    """Stages one configuration after another."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "router.toml"
        (folder / "staged.py").write_text(CHANGED)
        self.before: Staged | None = None

    def prepared(self, *more: str, route: str = "", server: str = "", **pool: str) -> Prepared:
        keys = "".join(f"{key} = {value}\n" for key, value in {**POOL, **pool}.items() if value)
        self.file.write_text(
            f'[server]\n{server}\n[[listeners]]\nbind = "127.0.0.1:1"\n'
            f'[[routes]]\npool = "web"\n{route}\n[[pools]]\nname = "web"\n{keys}\n' + "\n".join(more)
        )
        return prepare_file(self.file, self.before.prepared if self.before is not None else None)

    def stage(self, *more: str, **changed: str) -> Staged:
        self.before = stage(self.prepared(*more, **changed), self.before)
        return self.before


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def second(name: str = "more") -> str:
    return f'[[pools]]\nname = "{name}"\nendpoints = ["http://c.test"]\n'


def test_the_first_one_is_all_new(bench: Bench) -> None:
    staged = bench.stage(second())
    assert list(staged.made) == list(staged.table.pools) == staged.settled == ["web", "more"]
    assert staged.table.pools == staged.made
    assert (staged.fresh, staged.table.version) == ({}, 1)
    assert list(staged.specs["web"]) == ["http://a.test:80", "b"]
    assert not staged.made["web"].members, "members come with its keeper"


def test_what_is_the_same_stays_the_same(bench: Bench) -> None:
    before = bench.stage()
    staged = bench.stage()
    assert (staged.made, staged.fresh, staged.settled) == ({}, {}, [])
    assert staged.table.pools["web"] is before.table.pools["web"]
    assert staged.table is not before.table
    assert staged.table.version == 2
    assert staged.prepared.parts["web"] == before.prepared.parts["web"]


@pytest.mark.parametrize(
    ("changed", "fresh", "settled"),
    [
        ({"endpoints": '["http://a.test"]'}, False, True),
        ({"endpoints": '["http://a.test", { id = "b", url = "http://b.test", weight = 2 }]'}, False, True),
        ({"drain_timeout": '"6s"'}, False, True),
        ({"probe": '{ use = "staged:Chooses", interval = "6s" }'}, False, True),
        ({"probe": '{ use = "staged:Chooses", interval = "5s", x = 1 }'}, False, True),
        ({"probe": '{ use = "staged:Chooses", interval = "5s", rise = 9 }'}, True, True),
        ({"probe": ""}, True, True),
        ({"discovery": '{ use = "staged:Chooses", x = 1 }'}, False, True),
        ({"discovery": ""}, False, True),
        ({"selection": '{ use = "staged:Chooses", x = 1 }'}, True, False),
        ({"selection": '{ use = "staged:Chooses" }'}, False, False),
        ({"detectors": "[]"}, True, False),
        ({"detectors": '["staged:Chooses", { use = "staged:Chooses", x = 1 }]'}, True, False),
        ({"limits": "{ in_flight = 3 }"}, True, False),
        ({"timeouts": '{ head = "3s" }'}, True, False),
        ({"retry": "{ attempts = 3 }"}, True, False),
        ({"when_few_ready": '"refuse"'}, True, False),
        ({"prefer_zone": "true"}, True, False),
        ({"server": 'zone = "z"'}, True, False),
        ({"server": 'health_path = "/up"'}, False, False),
        ({"route": 'timeout = "3s"'}, False, False),
    ],
)
def test_what_is_different_is_found(bench: Bench, changed: dict[str, str], fresh: bool, settled: bool) -> None:
    before = bench.stage()
    staged = bench.stage(**changed)
    assert not staged.made
    assert (list(staged.fresh), staged.settled) == (["web"] if fresh else [], ["web"] if settled else [])
    # The one that serves was not touched: it is told at the swap.
    pool = staged.table.pools["web"]
    assert pool is before.table.pools["web"]
    if fresh:
        assert staged.fresh["web"] is not pool
        assert not staged.fresh["web"].members
    # And back again.
    again = bench.stage()
    assert (bool(again.fresh), bool(again.settled)) == (fresh, settled)


def test_pools_come_and_go(bench: Bench) -> None:
    first = bench.stage(second())
    staged = bench.stage(second("other"))
    assert (list(staged.made), staged.settled) == (["other"], ["other"])
    assert "more" not in staged.table.pools
    again = bench.stage(second())
    assert list(again.made) == ["more"]
    assert again.table.pools["more"] is not first.table.pools["more"], "one that was gone is another"
    assert again.table.pools["web"] is first.table.pools["web"]


def test_the_order_of_pools_is_nothing_new(bench: Bench) -> None:
    bench.stage(second("b"), second("c"))
    staged = bench.stage(second("c"), second("b"))
    assert (staged.made, staged.fresh, staged.settled) == ({}, {}, [])


def test_what_was_staged_and_not_taken_leaves_no_trace(bench: Bench) -> None:
    before = bench.stage()
    refused = stage(bench.prepared(second(), endpoints='["http://x.test"]'), before)
    assert refused.table.version == 2
    assert before.table.version == 1
    staged = bench.stage()
    assert (staged.table.version, staged.settled) == (2, [])


def test_filters_of_a_route_are_those_of_the_new_table(bench: Bench) -> None:
    before: Any = bench.stage(route='name = "r"\nfilters = ["staged:Chooses"]')
    kept: Any = bench.stage(route='name = "r"\nfilters = ["staged:Chooses"]\ntimeout = "3s"')
    other: Any = bench.stage(route='name = "r"\nfilters = [{ use = "staged:Chooses", x = 1 }]')
    filters = [staged.prepared.filters[0][0] for staged in (before, kept, other)]
    assert filters[0] is filters[1]
    assert filters[1] is not filters[2]
