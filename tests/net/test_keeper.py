"""One pool at work: who is a member when, who is asked, and what becomes of those that leave."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Set
from typing import Any

import pytest
import pytest_asyncio

from router import Candidates, Endpoint, EndpointSpec
from router.config import Duration
from router.corekeys import ProbeKeys
from router.errors import RouterError
from router.net import keeper as keeper_module
from router.net.keeper import Keeper
from router.net.runtime import Runtime
from router.observe import Observers
from router.policy.limits import Timeouts
from router.policy.membership import Membership, Override
from router.policy.pool import Pool

NEVER = 3600.0
NOTHING: Any = None


def specs(names: str, **more: Any) -> dict[str, EndpointSpec]:
    return {name: EndpointSpec(url=f"http://{name}.test", id=name, **more) for name in names}


def timing(interval: float = 0.01) -> ProbeKeys:
    return ProbeKeys(Duration(interval), Duration(5.0), 2, 1)


class First:
    def choose(self, candidates: Candidates, exchange: Any) -> Endpoint:
        return candidates[0]


class Gate:
    """A probe that waits while it is shut, and fails for those that are ill."""

    def __init__(self, *, shut: bool = False) -> None:
        self.open = asyncio.Event()
        if not shut:
            self.open.set()
        self.ill = ""
        self.asked: list[str] = []

    async def check(self, endpoint: Endpoint) -> None:
        self.asked.append(endpoint.identity)
        await self.open.wait()
        if endpoint.identity in self.ill:
            raise RuntimeError("ill")


class Found:
    """A source that yields what it is told."""

    def __init__(self, *first: str) -> None:
        self.sets: asyncio.Queue[str] = asyncio.Queue()
        self.ended = 0
        for each in first:
            self.sets.put_nowait(each)

    async def watch(self) -> AsyncIterator[Any]:
        try:
            while True:
                names = await self.sets.get()
                yield list(specs(names, weight=3).values())
        finally:
            self.ended += 1


class Exchange:
    """One under way."""

    is_over = False


class Watching:
    """An observer that writes down changes of endpoints."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def endpoint_changed(self, endpoint: Endpoint, cause: str) -> None:
        self.told.append(f"{endpoint.identity} {cause}")


class Bench:
    """One keeper, and what it asks of others."""

    def __init__(self) -> None:
        self.watching = Watching()
        observers = Observers([self.watching])  # type: ignore[list-item]
        self.runtime = Runtime(asyncio.get_running_loop(), NOTHING, clock=time.monotonic, observers=observers)
        self.pool = Pool("web", First(), rng=random.Random(7))
        self.cut: list[str] = []
        self.muted: list[tuple[Any, Exception]] = []
        self.at_once = 1
        self.overrides: dict[str, Override] = {}
        self.keeper = Keeper(
            self.pool,
            self.runtime,
            Membership(self.overrides),
            muted=lambda plugin, error: self.muted.append((plugin, error)),
            break_off=self._break_off,
            rng=random.Random(7),
        )
        self._keys = timing()

    def _break_off(self, endpoints: Set[Endpoint], error: RouterError) -> int:
        self.cut.append(f"{''.join(sorted(e.identity for e in endpoints))}: {error.detail}")
        for endpoint in endpoints:
            for _ in range(endpoint.load):
                self.pool.release(endpoint, 0.0)
        return self.at_once

    def settle(
        self, names: str, *, probe: Any = None, keys: Any = None, source: Any = None, drain: float = NEVER
    ) -> None:
        if (probe is None) != (self.pool.probe is None):
            fresh = Pool("web", self.pool.selector, rng=random.Random(7), probe=(2, 1) if probe is not None else None)
            self.keeper.resettle(fresh, self.runtime.clock(), self.keeper.membership.configured)
        self.keeper.settle(
            specs(names),
            probe=probe,
            timing=keys or self._keys,
            discovery=source,
            discovery_name="test",
            drain_timeout=drain,
        )

    @property
    def names(self) -> str:
        return "".join(self.pool.members)

    def ready(self) -> str:
        now = self.runtime.clock()
        return "".join(e.identity for e in self.pool.members.values() if e.health.is_ready(now))


@pytest_asyncio.fixture
async def bench() -> AsyncIterator[Bench]:
    before = asyncio.all_tasks()
    made = Bench()
    yield made
    await made.keeper.close()
    made.runtime.sweeper.close()
    await turns(lambda: not asyncio.all_tasks() - before - {asyncio.current_task()})


async def turns(holds: Callable[[], Any]) -> None:
    async with asyncio.timeout(8):
        while not holds():  # noqa: ASYNC110 - any condition, not one that tells
            await asyncio.sleep(0.002)


@pytest.fixture(autouse=True)
def _listening(caplog: Any) -> None:
    caplog.set_level("INFO", "router")


def said(caplog: Any) -> list[str]:
    return [each.getMessage() for each in caplog.records]


# Members


async def test_it_has_the_members_that_are_configured(bench: Bench, caplog: Any) -> None:
    bench.settle("abc")
    assert bench.names == "abc"
    assert not bench.keeper.has_to_wait
    assert said(caplog) == [], "who is there at the start is no news"
    bench.pool.started()
    bench.settle("bcd")
    bench.settle("bcd")
    assert said(caplog) == ["pool web: added d; removed a"]


async def test_a_long_list_of_names_is_cut_short(bench: Bench, caplog: Any) -> None:
    bench.settle("")
    bench.pool.started()
    bench.settle("abcdefgh")
    assert said(caplog) == ["pool web: added a, b, c, d, e and 3 more"]


async def test_what_is_found_mixes_with_what_is_configured(bench: Bench, caplog: Any) -> None:
    source = Found("bc")
    bench.settle("ab", source=source)
    assert bench.keeper.has_to_wait
    await bench.keeper.ready()
    assert bench.names == "abc"
    assert [endpoint.weight for endpoint in bench.pool.members.values()] == [1, 1, 3]
    assert "pool web: b: found and configured: the configuration counts" in said(caplog)
    bench.settle("a", source=source)
    assert [(name, endpoint.weight) for name, endpoint in bench.pool.members.items()] == [("a", 1), ("b", 3), ("c", 3)]
    source.sets.put_nowait("")
    await turns(lambda: bench.names == "a")
    assert source.ended == 0


async def test_another_source_takes_over_when_it_has_found_something(bench: Bench) -> None:
    first, second = Found("b"), Found()
    bench.settle("a", source=first)
    await bench.keeper.ready()
    bench.settle("a", source=second)
    await turns(lambda: first.ended == 1)
    assert bench.names == "ab"
    second.sets.put_nowait("c")
    await turns(lambda: bench.names == "ac")
    bench.settle("a")
    assert bench.names == "a"
    await turns(lambda: second.ended == 1)
    assert bench.keeper.source is None


async def test_overrides_lie_on_top_of_all_and_outlive_their_endpoint(bench: Bench) -> None:
    bench.overrides["b"] = Override("drain", 7)
    bench.settle("ab")
    bench.settle("a")
    bench.settle("ab")
    assert bench.ready() == "a"
    assert bench.pool.members["b"].spec.weight == 7


async def test_after_its_end_nothing_changes_its_members(bench: Bench) -> None:
    source = Found("b")
    bench.settle("a", source=source, probe=Gate())
    await bench.keeper.ready()
    await bench.keeper.close()
    assert source.ended == 1
    bench.keeper.membership.found = {}
    bench.keeper.apply()
    assert bench.names == "ab"
    await bench.keeper.close()


async def test_streams_of_open_connections_get_the_new_time(bench: Bench) -> None:
    class Open:
        stream_timeout = 1.0

        def close(self) -> None: ...

    bench.settle("ab")
    bench.pool.members["a"].connections = Open()
    fresh = Pool("web", First(), rng=random.Random(7), timeouts=Timeouts(stream=9.0))
    bench.keeper.resettle(fresh, bench.runtime.clock(), {})
    assert bench.pool.members["a"].connections.stream_timeout == 9.0


# Probes


async def test_it_is_ready_once_each_endpoint_was_asked(bench: Bench) -> None:
    gate = Gate(shut=True)
    gate.ill = "b"
    bench.settle("ab", probe=gate)
    ready = asyncio.ensure_future(bench.keeper.ready())
    await turns(lambda: sorted(gate.asked) == ["a", "b"])
    assert not ready.done()
    gate.open.set()
    await ready
    assert bench.ready() == "a"


async def test_members_that_are_found_later_are_asked_too(bench: Bench) -> None:
    gate, source = Gate(), Found("b")
    bench.settle("a", probe=gate, source=source)
    await bench.keeper.ready()
    bench.pool.started()
    source.sets.put_nowait("bc")
    await turns(lambda: bench.ready() == "abc")
    assert {"a", "b", "c"} <= set(gate.asked)


async def test_the_same_probe_and_timing_go_on_and_others_begin_anew(bench: Bench) -> None:
    first, second = Gate(), Gate()
    slow = timing(NEVER)
    bench.settle("a", probe=first, keys=slow)
    await bench.keeper.ready()
    asked = len(first.asked)
    bench.settle("a", probe=first, keys=slow)
    await asyncio.sleep(0.01)
    assert len(first.asked) == asked
    bench.settle("a", probe=first, keys=timing(0.001))
    await turns(lambda: len(first.asked) > asked + 3)
    bench.settle("a", probe=second)
    await turns(lambda: second.asked)
    asked = len(first.asked)
    bench.settle("a")
    await asyncio.sleep(0.01)
    assert len(first.asked) == asked
    assert bench.ready() == "a"


async def test_those_that_leave_wait_for_those_that_come(bench: Bench, caplog: Any) -> None:
    gate = Gate()
    bench.settle("ab", probe=gate)
    await bench.keeper.ready()
    bench.pool.started()
    gate.open.clear()
    bench.settle("cd", probe=gate)
    assert bench.ready() == "ab"
    await turns(lambda: {"c", "d"} <= set(gate.asked))
    assert bench.names == "abcd"
    gate.open.set()
    await turns(lambda: bench.names == "cd")
    assert bench.ready() == "cd"
    assert said(caplog)[-1] == "pool web: removed a, b"


async def test_they_do_not_wait_where_somebody_stays(bench: Bench) -> None:
    gate = Gate()
    bench.settle("ab", probe=gate)
    await bench.keeper.ready()
    bench.pool.started()
    gate.open.clear()
    bench.settle("bc", probe=gate)
    assert bench.names == "bc"


async def test_they_do_not_wait_for_ever(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper_module, "_HANDOVER", 0.02)
    gate = Gate()
    bench.settle("a", probe=gate)
    await bench.keeper.ready()
    bench.pool.started()
    gate.open.clear()
    bench.settle("b", probe=gate)
    assert bench.names == "ab"
    await turns(lambda: bench.names == "b")


async def test_a_handover_ends_with_its_pool(bench: Bench) -> None:
    gate = Gate()
    bench.settle("a", probe=gate)
    await bench.keeper.ready()
    bench.pool.started()
    gate.open.clear()
    bench.settle("b", probe=gate)
    await bench.keeper.close()
    assert bench.names == "ab"


# What policy announces


async def test_changes_are_told_to_observers_and_the_log(bench: Bench, caplog: Any) -> None:
    gate = Gate()
    gate.ill = "b"
    bench.settle("ab", probe=gate)
    await bench.keeper.ready()
    bench.pool.started()
    gate.ill = ""
    await turns(lambda: bench.ready() == "ab")
    gate.ill = "ab"
    await turns(lambda: bench.ready() == "")
    told = bench.watching.told
    assert {"a up: 1 probe passed", "b down: 1 probe failed: RuntimeError: ill"} == set(told[:2])
    levels = {each.getMessage(): each.levelname for each in caplog.records}
    assert levels["pool web, endpoint b: down: 1 probe failed: RuntimeError: ill"] == "WARNING"
    assert levels["pool web, endpoint b: up: 1 probe passed"] == "INFO"
    assert "pool web, endpoint a: up: 1 probe passed" not in levels, "that all is well at the start is no news"
    assert levels["pool web: 0 of 2 endpoints ready: health is ignored, all are tried"] == "WARNING"


async def test_plugins_that_raise_are_told(bench: Bench) -> None:
    class Bad(First):
        def update(self, endpoints: Any) -> None:
            raise RuntimeError("oh")

    bench.keeper.resettle(Pool("web", Bad(), rng=random.Random(7)), bench.runtime.clock(), {})
    bench.settle("a")
    assert [str(error) for _, error in bench.muted] == ["oh"] * len(bench.muted)
    assert bench.muted


# The end of an endpoint


async def test_an_endpoint_without_requests_is_gone_at_once(bench: Bench) -> None:
    closed = []

    class Open:
        def close(self) -> None:
            closed.append("closed")

        def drop_idle(self) -> None: ...

    bench.settle("ab", drain=0.0)
    bench.pool.started()
    bench.pool.members["a"].connections = Open()
    bench.settle("b", drain=0.0)
    assert closed == ["closed"]
    await asyncio.sleep(0.01)
    assert bench.cut == []


async def test_what_outlasts_drain_timeout_is_cut(bench: Bench, caplog: Any) -> None:
    bench.settle("ab", drain=0.01)
    bench.pool.started()
    a, now = bench.pool.members["a"], bench.runtime.clock()
    bench.pool.acquire(a, now)
    bench.at_once = 2
    bench.settle("b", drain=0.01)
    assert a in bench.pool.leaving
    await turns(lambda: bench.cut)
    assert bench.cut == ["a: its endpoint was removed, and drain_timeout is over"]
    assert said(caplog)[-1] == "pool web: drain_timeout is over for removed a: 2 requests cut off"


async def test_what_ends_in_time_is_not_cut(bench: Bench) -> None:
    bench.settle("ab", drain=0.02)
    bench.pool.started()
    a, now = bench.pool.members["a"], bench.runtime.clock()
    bench.pool.acquire(a, now)
    bench.settle("b", drain=0.02)
    bench.pool.release(a, now)
    assert not bench.pool.leaving
    await asyncio.sleep(0.04)
    assert bench.cut == []


async def test_one_that_comes_back_is_another_object_and_the_old_one_still_leaves(bench: Bench) -> None:
    bench.settle("ab", drain=0.01)
    bench.pool.started()
    a, now = bench.pool.members["a"], bench.runtime.clock()
    bench.pool.acquire(a, now)
    bench.settle("b", drain=0.01)
    bench.settle("ab", drain=0.01)
    assert bench.pool.members["a"] is not a
    await turns(lambda: bench.cut)
    assert sorted(bench.names) == ["a", "b"]
    assert bench.pool.members["a"].load == 0


# The end of a pool


async def test_a_pool_that_is_gone_waits_for_its_exchanges(bench: Bench) -> None:
    source, gate = Found("b"), Gate()
    bench.settle("a", source=source, probe=gate, drain=NEVER)
    await bench.keeper.ready()
    bench.pool.started()
    exchange: Any = Exchange()
    bench.pool.acquire(bench.pool.members["a"], bench.runtime.clock())
    retiring = asyncio.ensure_future(bench.keeper.retire([exchange]))
    await turns(lambda: source.ended == 1)
    asked = len(gate.asked)
    await asyncio.sleep(0.02)
    assert (len(gate.asked), bench.names, retiring.done()) == (asked, "ab", False)
    bench.pool.release(bench.pool.members["a"], bench.runtime.clock())
    exchange.is_over = True
    await retiring
    assert bench.names == ""
    assert bench.cut == []


async def test_a_pool_that_is_gone_is_cut_after_drain_timeout(bench: Bench) -> None:
    bench.settle("ab", drain=0.01)
    bench.pool.started()
    exchange: Any = Exchange()
    bench.pool.acquire(bench.pool.members["a"], bench.runtime.clock())
    await bench.keeper.retire([exchange])
    await turns(lambda: bench.cut)
    assert (bench.names, len(bench.cut)) == ("", 1)
