"""The schedule of probes: who is asked when, how many at once, and that no plugin can stop it.

The probes here hang, raise everything there is, answer garbage and refuse to end; the schedule of all others goes on.
"""

from __future__ import annotations

import asyncio
import errno
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from typing import Any

import pytest
import pytest_asyncio

from router import Candidates, Endpoint, EndpointSpec, Exchange
from router.config import Duration
from router.corekeys import ProbeKeys
from router.net import probes
from router.net.probes import MOST_AT_ONCE, Prober, cause_of
from router.policy.pool import Pool

Script = Callable[[Endpoint], Awaitable[Any]]
HOUR = 3600.0


def timing(interval: float = 0.01, timeout: float = 5.0, fall: int = 2, rise: int = 2) -> ProbeKeys:
    return ProbeKeys(Duration(interval), Duration(timeout), fall, rise)


def spec(name: str, **fields: Any) -> EndpointSpec:
    return EndpointSpec(url=f"http://{name}.test", id=name, **fields)


def many(count: int) -> list[EndpointSpec]:
    return [spec(f"n{number}") for number in range(count)]


class First:
    def choose(self, candidates: Candidates, exchange: Exchange) -> Endpoint:
        return candidates[0]


class Told(Pool):
    """A pool that writes down what it is told of probes, and what it announces."""

    def __init__(self, keys: ProbeKeys) -> None:
        super().__init__("web", First(), rng=random.Random(7), probe=(keys.fall, keys.rise))
        self.results: dict[str, list[str | None]] = {}
        self.events: list[str] = []
        self.changed = lambda endpoint, cause: self.events.append(f"{endpoint.identity} {cause}")

    def probed(self, endpoint: Endpoint, passed: bool, cause: str, now: float) -> None:
        assert passed is (cause == "")
        self.results.setdefault(endpoint.identity, []).append(cause or None)
        super().probed(endpoint, passed, cause, now)

    def up(self) -> str:
        return "".join(sorted(e.identity for e in self.members.values() if e.health.is_ready(0.0)))


class Asking:
    """A probe that does per endpoint what a test has set, and counts."""

    def __init__(self) -> None:
        self.scripts: dict[str, Script] = {}
        self.other: Script = passes
        self.asks: Counter[str] = Counter()
        self.cut: Counter[str] = Counter()
        self.under: Counter[str] = Counter()
        self.most = 0
        self.overlapped: set[str] = set()

    async def check(self, endpoint: Endpoint) -> Any:
        name = endpoint.identity
        self.asks[name] += 1
        self.under[name] += 1
        self.most = max(self.most, self.under.total())
        if self.under[name] > 1:
            self.overlapped.add(name)
        try:
            return await self.scripts.get(name, self.other)(endpoint)
        except asyncio.CancelledError:
            self.cut[name] += 1
            raise
        finally:
            self.under[name] -= 1


class Bench:
    """A pool, its probe and its prober; looks at the end that nothing overlapped and nothing was left."""

    def __init__(self, world: Any) -> None:
        self.world = world
        self.probe = Asking()
        self.probers: list[Prober] = []
        self.pool: Told

    def start(
        self, endpoints: Iterable[EndpointSpec] | str, keys: ProbeKeys | None = None, *, probe: Any = None
    ) -> Prober:
        keys = keys or timing()
        self.pool = Told(keys)
        self.update(endpoints)
        clock = asyncio.get_running_loop().time
        prober = Prober(self.pool, probe or self.probe, keys, clock=clock, rng=random.Random(3))
        self.pool.updated = prober.sync
        prober.sync()
        self.probers.append(prober)
        return prober

    def update(self, endpoints: Iterable[EndpointSpec] | str) -> None:
        wanted = [spec(name) for name in endpoints] if isinstance(endpoints, str) else endpoints
        self.pool.update(wanted, asyncio.get_running_loop().time())

    async def asked(self, name: str, times: int) -> None:
        """Waits until the endpoint has been asked so many times more than now."""
        wanted = self.probe.asks[name] + times
        await self.world.eventually(lambda: self.probe.asks[name] >= wanted, lambda: self.probe.asks)

    async def told(self, name: str, times: int) -> list[str | None]:
        """The first results of the endpoint, as soon as there are so many."""
        results = self.pool.results
        await self.world.eventually(lambda: len(results.get(name, ())) >= times, lambda: results)
        return results[name][:times]

    async def close(self) -> None:
        for prober in self.probers:
            await prober.close()
        assert not self.probe.overlapped


@pytest_asyncio.fixture
async def bench(world: Any, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    monkeypatch.setattr(probes, "_GRACE", 0.05)
    made = Bench(world)
    yield made
    await made.close()


# What an endpoint can do.


async def passes(endpoint: Endpoint) -> None:
    await asyncio.sleep(0)


async def hangs(endpoint: Endpoint) -> None:
    await asyncio.sleep(HOUR)


def waits_for(gate: asyncio.Event) -> Script:
    async def waiting(endpoint: Endpoint) -> None:
        await gate.wait()

    return waiting


def raises(error: BaseException) -> Script:
    async def raising(endpoint: Endpoint) -> None:
        raise error

    return raising


def returns(value: Any) -> Script:
    async def returning(endpoint: Endpoint) -> Any:
        return value

    return returning


class Stubborn:
    """Takes no notice of being cancelled until it is let go."""

    def __init__(self) -> None:
        self.let_go = asyncio.Event()
        self.cancelled = 0

    async def __call__(self, endpoint: Endpoint) -> None:
        while not self.let_go.is_set():
            try:
                await self.let_go.wait()
            except asyncio.CancelledError:
                self.cancelled += 1


# The first round


async def test_the_first_round_asks_everyone_once(bench: Bench) -> None:
    prober = bench.start("abc", timing(HOUR))
    await prober.first_round()
    assert bench.probe.asks == {"a": 1, "b": 1, "c": 1}
    assert bench.pool.up() == "abc"
    assert sorted(bench.pool.events) == [f"{name} up: 1 probe passed" for name in "abc"]


async def test_the_first_round_is_over_with_the_last_result_and_not_before(bench: Bench) -> None:
    gate = asyncio.Event()
    bench.probe.scripts["b"] = waits_for(gate)
    prober = bench.start("abc", timing(HOUR))
    waiting = asyncio.create_task(prober.first_round())
    await bench.told("a", 1)
    await bench.told("c", 1)
    assert not waiting.done()
    gate.set()
    await asyncio.wait_for(waiting, 5)
    assert len(bench.pool.results) == 3


async def test_the_first_round_ends_although_somebody_hangs(bench: Bench) -> None:
    bench.probe.scripts["b"] = hangs
    prober = bench.start("abc", timing(HOUR, timeout=0.1))
    await asyncio.wait_for(prober.first_round(), 5)
    assert bench.pool.up() == "ac"
    assert "b down: 1 probe failed: no answer within 0.1 s" in bench.pool.events


async def test_the_first_round_waits_for_nobody_who_has_left(bench: Bench) -> None:
    bench.probe.scripts["b"] = hangs
    prober = bench.start("ab", timing(HOUR, timeout=HOUR))
    waiting = asyncio.create_task(prober.first_round())
    await bench.asked("b", 1)
    bench.update("a")
    await asyncio.wait_for(waiting, 5)


async def test_the_first_round_of_nobody_is_over_at_once(bench: Bench) -> None:
    prober = bench.start("")
    await asyncio.wait_for(prober.first_round(), 5)
    assert bench.probe.asks == {}


async def test_a_first_round_may_be_given_up(bench: Bench) -> None:
    bench.probe.other = hangs
    prober = bench.start("ab", timing(HOUR, timeout=HOUR))
    waiting = asyncio.create_task(prober.first_round())
    await bench.asked("a", 1)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert bench.probe.cut == {}


# Rise and fall reach the pool


async def test_fall_takes_out_and_rise_brings_back(bench: Bench) -> None:
    bench.start("ab", timing(fall=3, rise=4))
    await bench.told("a", 2)
    bench.probe.scripts["a"] = raises(OSError(111, "Connection refused"))
    await bench.world.eventually(lambda: bench.pool.up() == "b", lambda: bench.pool.results)
    failed = bench.pool.results["a"].count("Connection refused")
    assert failed == 3
    del bench.probe.scripts["a"]
    await bench.world.eventually(lambda: bench.pool.up() == "ab", lambda: bench.pool.results)
    of_a = [event for event in bench.pool.events if event.startswith("a")]
    assert of_a == ["a up: 1 probe passed", "a down: 3 probes failed: Connection refused", "a up: 4 probes passed"]


async def test_one_that_was_down_at_the_start_is_up_with_its_first_pass(bench: Bench) -> None:
    bench.probe.scripts["a"] = raises(ValueError("status 503"))
    prober = bench.start("a", timing(rise=5))
    await prober.first_round()
    assert bench.pool.up() == ""
    bench.probe.scripts["a"] = passes
    await bench.world.eventually(lambda: bench.pool.up() == "a")
    assert bench.pool.events == ["a down: 1 probe failed: ValueError: status 503", "a up: 1 probe passed"]


async def test_the_pool_is_told_the_time_of_its_clock(bench: Bench) -> None:
    said: list[float] = []

    class Clocked(Told):
        def probed(self, endpoint: Endpoint, passed: bool, cause: str, now: float) -> None:
            said.append(now)

    pool = Clocked(timing(HOUR))
    pool.update([spec("a")], 0.0)
    prober = Prober(pool, bench.probe, timing(HOUR), clock=lambda: 77.0, rng=random.Random(1))
    bench.probers.append(prober)
    prober.sync()
    await prober.first_round()
    assert said == [77.0]


# Plugins that misbehave: a failed probe with a cause, and everybody else's schedule goes on


class Own(Exception):
    pass


class Mute(Exception):
    """Cannot be put into words."""

    def __str__(self) -> str:
        raise RuntimeError("no words")


class Quits(Exception):
    """Ends the process when it is read."""

    def __str__(self) -> str:
        raise SystemExit("no words")


class NoText(Exception):
    def __str__(self) -> Any:
        return 5


CAUSES: list[tuple[BaseException, str]] = [
    (Own("expected 200, got 503"), "expected 200, got 503"),
    (Own(), "Own"),
    (Own("  \n\t "), "Own"),
    (ValueError(), "ValueError"),
    (ValueError("bad"), "ValueError: bad"),
    (KeyError("x"), "KeyError: 'x'"),
    (SystemExit(3), "SystemExit: 3"),
    (SystemExit(), "SystemExit"),
    (KeyboardInterrupt(), "KeyboardInterrupt"),
    (GeneratorExit(), "GeneratorExit"),
    (RecursionError("deep"), "RecursionError: deep"),
    (StopAsyncIteration(), "StopAsyncIteration"),
    (ExceptionGroup("two", [ValueError("a"), Own("b")]), "ExceptionGroup: two (2 sub-exceptions)"),
    (OSError(111, "Connection refused"), "Connection refused"),
    (ConnectionResetError(104, "Connection reset by peer"), "Connection reset by peer"),
    (OSError("no route"), "no route"),
    (OSError(), "OSError"),
    (TimeoutError(), "TimeoutError"),
    (asyncio.CancelledError(), "the probe was cancelled"),
    (Own("\x1b[31mred\x1b[0m\r\nline\u202etwo\ud800\x00end"), "[31mred [0m line two end"),
    (Own("x" * 10_240), "x" * 200),
    (Own("\n" * 300 + "late"), "Own"),
]


@pytest.mark.parametrize(("error", "cause"), CAUSES, ids=[type(error).__name__ for error, _ in CAUSES])
async def test_whatever_a_probe_raises_is_a_failed_probe(bench: Bench, error: BaseException, cause: str) -> None:
    bench.probe.scripts["b"] = raises(error)
    bench.start("abc")
    assert await bench.told("b", 4) == [cause] * 4
    assert set(await bench.told("a", 4)) == {None}
    assert bench.pool.up() == "ac"


@pytest.mark.parametrize(
    "error",
    [Mute(), NoText(), OSError(5, 7), OSError(5, b"bytes"), OSError(5, Mute()), OSError(None, None)],
    ids=["mute", "no_text", "number", "bytes", "object", "none"],
)
async def test_an_error_without_words_is_a_failed_probe_too(bench: Bench, error: BaseException) -> None:
    bench.probe.scripts["b"] = raises(error)
    prober = bench.start("ab")
    await asyncio.wait_for(prober.first_round(), 5)
    for cause in await bench.told("b", 3):
        assert cause
        assert cause.isprintable()
        assert len(cause) <= 200


@pytest.mark.parametrize("error", [error for error, _ in CAUSES], ids=[type(error).__name__ for error, _ in CAUSES])
def test_a_cause_is_one_short_printable_line(error: BaseException) -> None:
    cause = cause_of(error)
    assert cause
    assert cause.isprintable()
    assert len(cause) <= 200


def test_not_even_reading_a_cause_ends_the_process() -> None:
    try:
        cause = cause_of(Quits())
    except SystemExit:
        cause = "the process would have ended"
    assert cause == "Quits"


@pytest.mark.parametrize(
    ("value", "kind"), [(True, "bool"), (False, "bool"), ("ok", "str"), (200, "int"), ((), "tuple"), (Own(), "Own")]
)
async def test_what_a_probe_returns_is_nothing_or_a_fault(bench: Bench, value: Any, kind: str) -> None:
    bench.probe.scripts["b"] = returns(value)
    bench.start("ab")
    assert await bench.told("b", 3) == [f"the probe returned {kind}; it has to return nothing, or raise"] * 3
    assert set(await bench.told("a", 3)) == {None}


class Plain:
    """Its check is no coroutine."""

    def __init__(self, value: Any = None) -> None:
        self.value = value
        self.asked = 0

    def check(self, endpoint: Endpoint) -> Any:
        self.asked += 1
        if isinstance(self.value, BaseException):
            raise self.value
        return self.value


@pytest.mark.parametrize(
    ("probe", "words"),
    [
        (Plain(), "TypeError: object NoneType can't be used in 'await' expression"),
        (Plain(5), "TypeError: object int can't be used in 'await' expression"),
        (Plain(Own("plain")), "plain"),
        (object(), "AttributeError: 'object' object has no attribute 'check'"),
    ],
)
async def test_a_check_that_is_no_coroutine(bench: Bench, probe: Any, words: str) -> None:
    bench.start("ab", probe=probe)
    assert await bench.told("a", 3) == [words] * 3
    assert await bench.told("b", 3) == [words] * 3


class Awaitables:
    """Its check gives things that can be awaited and are no coroutine of its own."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self.make = make

    def check(self, endpoint: Endpoint) -> Any:
        return self.make()


class Yields:
    def __await__(self) -> Iterator[Any]:
        yield "garbage"


async def test_a_check_may_give_any_awaitable(bench: Bench) -> None:
    bench.start("a", probe=Awaitables(lambda: asyncio.sleep(0)))
    assert await bench.told("a", 3) == [None] * 3


async def test_a_check_that_awaits_garbage(bench: Bench) -> None:
    bench.start("a", probe=Awaitables(Yields))
    for cause in await bench.told("a", 3):
        assert cause is not None
        assert "garbage" in cause


async def test_a_check_that_cancels_itself_ends_nothing_else(bench: Bench) -> None:
    async def suicidal(endpoint: Endpoint) -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0)

    bench.probe.scripts["b"] = suicidal
    bench.start("ab")
    assert await bench.told("b", 3) == ["the probe was cancelled"] * 3
    assert set(await bench.told("a", 3)) == {None}


# Probes that hang


async def test_one_that_hangs_is_cut_off_and_asked_again(bench: Bench) -> None:
    bench.probe.scripts["b"] = hangs
    bench.start("ab", timing(timeout=0.1))
    assert await bench.told("b", 3) == ["no answer within 0.1 s"] * 3
    await bench.asked("a", 3)
    assert bench.probe.cut["b"] >= 2
    del bench.probe.scripts["b"]
    await bench.world.eventually(lambda: bench.pool.up() == "ab")


async def test_one_that_cannot_be_cancelled_is_left_alone_until_it_ends(bench: Bench) -> None:
    stubborn = bench.probe.scripts["b"] = Stubborn()
    prober = bench.start("ab", timing(timeout=0.1))
    await asyncio.wait_for(prober.first_round(), 5)
    causes = await bench.told("b", 3)
    assert causes == ["no answer within 0.1 s", *["the last probe cannot be ended"] * 2]
    assert bench.probe.asks["b"] == 1
    assert stubborn.cancelled
    await bench.asked("a", 5)
    stubborn.let_go.set()
    await bench.world.eventually(lambda: bench.pool.up() == "ab", lambda: bench.pool.results)
    assert bench.probe.asks["b"] > 1


async def test_one_that_passes_after_it_was_cut_off_has_failed(bench: Bench) -> None:
    async def late(endpoint: Endpoint) -> None:
        try:
            await asyncio.sleep(HOUR)
        except asyncio.CancelledError:
            return

    bench.probe.scripts["b"] = late
    bench.start("ab", timing(timeout=0.1))
    assert await bench.told("b", 3) == ["no answer within 0.1 s"] * 3
    assert bench.pool.up() == "a"


async def test_one_that_raises_while_it_is_cut_off_is_not_heard_of_again(bench: Bench) -> None:
    async def loud(endpoint: Endpoint) -> None:
        try:
            await asyncio.sleep(HOUR)
        finally:
            raise SystemExit("never mind")

    bench.probe.scripts["b"] = loud
    bench.start("ab", timing(timeout=0.1))
    # `world` fails if the event loop is told of a task whose error nobody took.
    assert await bench.told("b", 3) == ["no answer within 0.1 s"] * 3


async def test_probes_of_one_endpoint_never_overlap(bench: Bench) -> None:
    async def cleans_up(endpoint: Endpoint) -> None:
        try:
            await asyncio.sleep(HOUR)
        finally:
            await asyncio.sleep(0.03)

    async def takes_longer_than_the_interval(endpoint: Endpoint) -> None:
        await asyncio.sleep(0.015)

    bench.probe.scripts = {"b": cleans_up, "c": takes_longer_than_the_interval}
    bench.start("abc", timing(0.01, timeout=0.02))
    for name in "abc":
        await bench.told(name, 5)
    assert bench.probe.overlapped == set()


# How many at once


async def test_at_most_so_many_at_once(bench: Bench) -> None:
    gate = asyncio.Event()
    bench.probe.other = waits_for(gate)
    prober = bench.start(many(2 * MOST_AT_ONCE + 5), timing(4 * HOUR, timeout=HOUR))
    await bench.world.eventually(lambda: bench.probe.under.total() == MOST_AT_ONCE)
    await asyncio.sleep(0.02)
    assert bench.probe.asks.total() == MOST_AT_ONCE
    gate.set()
    await asyncio.wait_for(prober.first_round(), 5)
    assert bench.probe.asks.total() == 2 * MOST_AT_ONCE + 5
    assert bench.probe.most == MOST_AT_ONCE


async def test_more_at_once_where_all_may_hang_for_an_interval(bench: Bench) -> None:
    bench.probe.other = hangs
    bench.start(many(2 * MOST_AT_ONCE), timing(HOUR, timeout=HOUR))
    await bench.world.eventually(lambda: bench.probe.under.total() == 2 * MOST_AT_ONCE)


async def test_the_routers_own_want_is_no_verdict_and_said_once(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    want = raises(OSError(errno.EMFILE, "Too many open files"))
    bench.start("ab", timing())
    await bench.told("a", 1)
    bench.probe.other = want
    before = bench.probe.asks.total()
    await bench.world.eventually(lambda: bench.probe.asks.total() > before + 10)
    assert bench.pool.up() == "ab"
    assert [record.getMessage() for record in caplog.records] == [
        f"pool {bench.pool.name}: probes cannot be made: Too many open files"
    ]
    caplog.clear()


async def test_those_that_hang_keep_nobody_from_being_asked(bench: Bench) -> None:
    names = many(2 * MOST_AT_ONCE)
    bench.probe.other = hangs
    bench.probe.scripts["z"] = passes
    bench.start([*names, spec("z")], timing(timeout=0.2))
    assert await bench.told("z", 3) == [None] * 3
    assert bench.pool.up() == "z"


async def test_those_that_cannot_be_ended_take_no_room(bench: Bench) -> None:
    stubborn = Stubborn()
    bench.probe.other = stubborn
    bench.probe.scripts["z"] = passes
    bench.start([*many(MOST_AT_ONCE + 10), spec("z")], timing(timeout=0.2))
    try:
        assert await bench.told("z", 3) == [None] * 3
    finally:
        stubborn.let_go.set()


async def test_two_pools_do_not_share_their_room(bench: Bench) -> None:
    full = Asking()
    full.other = hangs
    bench.start(many(MOST_AT_ONCE), timing(HOUR, timeout=HOUR), probe=full)
    await bench.world.eventually(lambda: full.under.total() == MOST_AT_ONCE)
    bench.start("a")
    assert await bench.told("a", 2) == [None] * 2


# Members come and go


async def test_one_that_comes_is_asked_at_once(bench: Bench) -> None:
    prober = bench.start("a", timing(HOUR))
    await prober.first_round()
    bench.update("ab")
    assert await bench.told("b", 1) == [None]
    assert bench.probe.asks == {"a": 1, "b": 1}


async def test_one_that_goes_is_asked_no_more(bench: Bench) -> None:
    bench.start("ab")
    await bench.asked("b", 3)
    bench.update("a")
    await asyncio.sleep(0)
    before = bench.probe.asks["b"]
    await bench.asked("a", 10)
    assert bench.probe.asks["b"] == before


async def test_what_runs_of_one_that_goes_is_cut_off_and_told_to_nobody(bench: Bench) -> None:
    bench.probe.scripts["b"] = hangs
    bench.start("ab", timing(HOUR, timeout=HOUR))
    await bench.asked("b", 1)
    bench.update("a")
    await bench.world.eventually(lambda: bench.probe.cut["b"] == 1)
    assert "b" not in bench.pool.results


async def test_one_that_goes_while_it_waits_for_room_leaves_the_room_to_others(bench: Bench) -> None:
    gate = asyncio.Event()
    bench.probe.other = waits_for(gate)
    everyone = many(MOST_AT_ONCE + 2)
    bench.start(everyone, timing(4 * HOUR, timeout=HOUR))
    await bench.world.eventually(lambda: bench.probe.under.total() == MOST_AT_ONCE)
    goes, stays = [each for each in everyone if not bench.probe.asks[each.id]]
    # First one of the two that wait leaves, then all who are being asked: the other has its turn.
    bench.update([each for each in everyone if each is not goes])
    bench.update([stays])
    await bench.world.eventually(lambda: bench.probe.asks[stays.id] == 1)
    gate.set()
    assert await bench.told(stays.id, 1) == [None]
    assert bench.probe.asks[goes.id] == 0


async def test_one_that_comes_back_is_asked_anew(bench: Bench) -> None:
    prober = bench.start("ab", timing(HOUR))
    await prober.first_round()
    bench.update("a")
    bench.update("ab")
    assert await bench.told("b", 2) == [None] * 2
    assert bench.probe.asks["a"] == 1


async def test_one_whose_weight_changes_is_not_asked_anew(bench: Bench) -> None:
    prober = bench.start("ab", timing(HOUR))
    await prober.first_round()
    bench.update([spec("a", weight=7), spec("b"), spec("c")])
    await bench.told("c", 1)
    assert bench.probe.asks == {"a": 1, "b": 1, "c": 1}


async def test_all_may_go_and_come(bench: Bench) -> None:
    bench.start("abc")
    for _ in range(20):
        bench.update("")
        bench.update("abc")
    await bench.told("a", 3)
    bench.update("")
    await bench.world.eventually(lambda: not bench.probe.under.total())
    before = bench.probe.asks.total()
    await asyncio.sleep(0.05)
    assert bench.probe.asks.total() == before


# The end


def others() -> set[asyncio.Task[Any]]:
    return {task for task in asyncio.all_tasks() if task is not asyncio.current_task()}


async def cleans_up(endpoint: Endpoint) -> None:
    try:
        await asyncio.sleep(HOUR)
    finally:
        for _ in range(20):
            await asyncio.sleep(0)


@pytest.mark.parametrize("script", [passes, hangs, cleans_up], ids=["passes", "hangs", "cleans_up"])
async def test_close_leaves_nothing_behind(bench: Bench, script: Script) -> None:
    before = others()
    bench.probe.other = script
    prober = bench.start(many(MOST_AT_ONCE + 20), timing(timeout=HOUR))
    await bench.world.eventually(lambda: bench.probe.asks.total() >= MOST_AT_ONCE)
    await prober.close()
    assert others() == before
    asked = bench.probe.asks.total()
    await asyncio.sleep(0.03)
    assert bench.probe.asks.total() == asked


async def test_close_waits_for_those_that_have_just_left_too(bench: Bench) -> None:
    before = others()
    bench.probe.scripts = {"a": hangs, "b": cleans_up}
    prober = bench.start("ab", timing(timeout=HOUR))
    await bench.asked("b", 1)
    bench.update("a")
    await prober.close()
    assert others() == before


async def test_close_before_anything_was_asked(bench: Bench) -> None:
    before = others()
    prober = bench.start("abc")
    await prober.close()
    assert others() == before
    assert bench.probe.asks.total() == 0


async def test_close_may_come_twice_or_for_nobody(bench: Bench) -> None:
    prober = bench.start("")
    await prober.close()
    bench.update("ab")
    await prober.close()
    await prober.close()


async def test_close_does_not_wait_for_one_that_cannot_be_ended(bench: Bench) -> None:
    stubborn = bench.probe.scripts["b"] = Stubborn()
    prober = bench.start("ab", timing(timeout=HOUR))
    await bench.asked("b", 1)
    try:
        await asyncio.wait_for(prober.close(), 5)
    finally:
        stubborn.let_go.set()
    await bench.asked("a", 0)


async def test_after_the_end_nobody_new_is_asked(bench: Bench) -> None:
    prober = bench.start("a", timing(HOUR))
    await prober.first_round()
    await prober.close()
    bench.update("ab")
    await asyncio.sleep(0.02)
    assert bench.probe.asks == {"a": 1}


# When: measured by the plan, or by counts


class Planned(Prober):
    """Writes down what is planned for whom, and asks at once instead; after `MOST` times no more."""

    MOST = 12

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.plan: dict[str, list[float]] = {}

    def _plan_for(self, watch: Any, seconds: float) -> None:
        name = watch.endpoint.identity
        if name not in self.plan:
            # The start, which is at once.
            assert seconds == 0
            self.plan[name] = []
        else:
            self.plan[name].append(seconds)
        super()._plan_for(watch, 0.0 if len(self.plan[name]) < self.MOST else HOUR)

    def full(self) -> bool:
        return all(len(planned) == self.MOST for planned in self.plan.values())


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "Prober", Planned)


@pytest.mark.usefixtures("planned")
async def test_starts_are_spread_over_an_interval_and_rounds_jitter(bench: Bench) -> None:
    prober: Any = bench.start(many(40), timing(100.0))
    await bench.world.eventually(prober.full)
    phases = [planned[0] for planned in prober.plan.values()]
    assert all(0 <= phase <= 100 for phase in phases)
    assert {int(phase // 25) for phase in phases} == {0, 1, 2, 3}
    assert len(set(phases)) == 40
    rounds = [seconds for planned in prober.plan.values() for seconds in planned[1:]]
    assert all(90 <= seconds <= 110 for seconds in rounds)
    assert min(rounds) < 95 < 105 < max(rounds)


@pytest.mark.usefixtures("planned")
async def test_while_the_state_changes_it_is_asked_sooner(bench: Bench) -> None:
    answers = iter([None, None, 1, 1, None, None, None, None, None, None, None, None])

    async def comes_and_goes(endpoint: Endpoint) -> None:
        if next(answers):
            raise Own("no")

    bench.probe.scripts["a"] = comes_and_goes
    prober: Any = bench.start("a", timing(100.0, fall=2, rise=3))
    await bench.world.eventually(prober.full)
    (times,) = prober.plan.values()
    sooner = [seconds <= 27.5 for seconds in times[1:]]
    # pass | fail, (down with the next) | pass, pass, (up with the next)
    assert sooner == [False, True, False, True, True, False, False, False, False, False, False]
    assert all(seconds >= 22.5 for seconds in times[1:])


@pytest.mark.usefixtures("planned")
async def test_the_same_chance_makes_the_same_schedule(bench: Bench) -> None:
    plans = []
    for _ in range(2):
        prober: Any = bench.start("a", timing(100.0))
        await bench.world.eventually(prober.full)
        plans.append(prober.plan["a"])
    assert plans[0] == plans[1]


async def test_one_whose_state_hangs_in_the_balance_is_asked_more_often(bench: Bench) -> None:
    bench.start("ab", timing(0.08, fall=1000))
    await bench.told("a", 1)
    bench.probe.scripts["a"] = raises(Own("no"))
    await bench.told("a", 2)
    before = bench.probe.asks["a"], bench.probe.asks["b"]
    await bench.asked("b", 8)
    of_a, of_b = bench.probe.asks["a"] - before[0], bench.probe.asks["b"] - before[1]
    assert of_a > 2 * of_b


async def test_one_that_is_down_for_good_is_asked_no_more_often(bench: Bench) -> None:
    bench.probe.scripts["a"] = raises(Own("no"))
    bench.start("ab", timing(0.04, fall=2))
    await bench.told("a", 2)
    before = bench.probe.asks["a"], bench.probe.asks["b"]
    await bench.asked("b", 12)
    of_a, of_b = bench.probe.asks["a"] - before[0], bench.probe.asks["b"] - before[1]
    assert of_a <= 2 * of_b
