"""One source at work: its last good set stays whatever it does, and what it does wrong is said once."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_asyncio

from router import EndpointSpec
from router.net import sources, sourcing
from router.net.sources import SourceRun

NEVER = 3600.0


def specs(names: str, **more: Any) -> list[EndpointSpec]:
    return [EndpointSpec(url=f"http://{name}.test", id=name, **more) for name in names]


class Scripted:
    """A source whose n-th watch runs the n-th script; the last one again and again."""

    def __init__(self, *scripts: Callable[[Scripted], AsyncIterator[Any]]) -> None:
        self.scripts = scripts
        self.watched = 0
        self.ended = 0
        self.more = asyncio.Event()

    async def watch(self) -> AsyncIterator[Any]:
        script = self.scripts[min(self.watched, len(self.scripts) - 1)]
        self.watched += 1
        try:
            async for each in script(self):
                yield each
        finally:
            self.ended += 1


def gives(*sets: Any) -> Callable[[Scripted], AsyncIterator[Any]]:
    """Yields these, one whenever `more` is set but for the first; then hangs. What is an exception is raised."""

    async def script(source: Scripted) -> AsyncIterator[Any]:
        for number, each in enumerate(sets):
            if number:
                await source.more.wait()
                source.more.clear()
            if isinstance(each, BaseException):
                raise each
            yield each
        await asyncio.sleep(NEVER)

    return script


async def ends(source: Scripted) -> AsyncIterator[Any]:
    for nothing in ():
        yield nothing


class Bench:
    """Runs sources and closes them; `taken` holds the identities of each set."""

    def __init__(self) -> None:
        self.taken: list[str] = []
        self.runs: list[SourceRun] = []

    def begin(self, source: Any) -> SourceRun:
        self.runs.append(SourceRun("pool web, discovery test", source, self._take, random.Random(7)))
        return self.runs[-1]

    def _take(self, found: dict[str, EndpointSpec]) -> None:
        assert all(spec.identity == identity for identity, spec in found.items())
        self.taken.append("".join(found))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asks again soon."""
    monkeypatch.setattr(sourcing, "_FIRST", 0.001)
    monkeypatch.setattr(sourcing, "_LONGEST", 0.01)


@pytest_asyncio.fixture
async def bench() -> AsyncIterator[Bench]:
    before = asyncio.all_tasks()
    made = Bench()
    yield made
    for run in made.runs:
        await run.close()
    assert not asyncio.all_tasks() - before - {asyncio.current_task()}


def warned(caplog: Any) -> list[str]:
    return [each.getMessage() for each in caplog.records if each.levelname == "WARNING"]


async def turns(holds: Callable[[], Any]) -> None:
    async with asyncio.timeout(8):
        while not holds():  # noqa: ASYNC110 - any condition, not one that tells
            await asyncio.sleep(0.001)


async def test_each_new_set_is_taken_and_the_same_one_is_not(bench: Bench) -> None:
    source = Scripted(gives(specs("ab"), specs("ab"), specs("ba"), tuple(specs("c")), []))
    run = bench.begin(source)
    assert run.state == "no answer yet"
    await run.first.wait()
    assert (run.state, bench.taken) == ("ok", ["ab"])
    for _ in range(4):
        source.more.set()
        await turns(lambda: not source.more.is_set())
    await turns(lambda: bench.taken[-1] == "")
    # The order says nothing, so another one is the same set.
    assert bench.taken == ["ab", "c", ""]
    assert source.watched == 1


@pytest.mark.parametrize(
    ("junk", "why"),
    [
        (None, "it gave a NoneType; a source gives a list of EndpointSpec"),
        (7, "it gave a int"),
        ("http://a.test", "it gave a str"),
        (b"x", "it gave a bytes"),
        (["http://a.test"], "it gave a str among the endpoints; each is an EndpointSpec"),
        ({"a": specs("a")[0]}, "it gave a str among"),
        ([*specs("a"), 7], "it gave a int among"),
        (specs("aa"), "the endpoint 'a' is there twice"),
        ([EndpointSpec("http://a.test"), EndpointSpec("http://a.test:80/")], "is there twice"),
        ([EndpointSpec("a.test")], "an endpoint starts with http://"),
        ([EndpointSpec("http://a.test", id="a\nb")], "an endpoint's id is printable"),
        ([EndpointSpec("http://a.test", id="x" * 256)], "at most 255 characters"),
        ([EndpointSpec("http://a.test:0")], "port"),
    ],
)
async def test_junk_keeps_the_last_good_set_and_is_said_once(bench: Bench, caplog: Any, junk: Any, why: str) -> None:
    source = Scripted(gives(specs("a"), junk, junk, specs("b")))
    run = bench.begin(source)
    await run.first.wait()
    for _ in range(2):
        source.more.set()
        await turns(lambda: not source.more.is_set())
    await turns(lambda: run.state != "ok")
    assert why in run.state
    assert run.state.isprintable()
    assert bench.taken == ["a"]
    source.more.set()
    await turns(lambda: run.state == "ok")
    assert bench.taken == ["a", "b"]
    assert len(warned(caplog)) == 1
    assert why in warned(caplog)[0]
    assert "the last good endpoints stay" in caplog.text
    # It stayed the same watch: what it yields is looked at, not how it fares otherwise.
    assert source.watched == 1


async def test_a_set_may_have_so_many_endpoints_and_no_more(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "_MOST", 3)
    source = Scripted(gives(specs("abc"), specs("abcd")))
    run = bench.begin(source)
    await run.first.wait()
    source.more.set()
    await turns(lambda: run.state != "ok")
    assert run.state == "it gave more than 3 endpoints, which is the most that are taken"


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (RuntimeError("no registry"), "RuntimeError: no registry"),
        (OSError(111, "Connection refused"), "Connection refused"),
        (SystemExit("I quit"), "I quit"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        (RuntimeError("a\n\x1b[31m" + "x" * 9999), "RuntimeError: a [31mxxx"),
        (StopAsyncIteration(), "RuntimeError"),
    ],
)
@pytest.mark.usefixtures("quick")
async def test_one_that_raises_is_asked_again(bench: Bench, caplog: Any, error: BaseException, why: str) -> None:
    caplog.set_level("INFO", "router")
    source = Scripted(gives(specs("a"), error), gives(error), gives(error), gives(specs("b")))
    run = bench.begin(source)
    await run.first.wait()
    source.more.set()
    await turns(lambda: bench.taken == ["a", "b"])
    assert source.watched == 4
    assert source.ended == 3
    said = [each.getMessage() for each in caplog.records]
    assert len(warned(caplog)) == 1
    assert why in said[0]
    assert "the last good endpoints stay" in said[0]
    assert said[0].isprintable()
    assert len(said[0]) < 400
    assert said[-1] == "pool web, discovery test: works again"


@pytest.mark.usefixtures("quick")
async def test_one_that_ends_is_asked_again(bench: Bench, caplog: Any) -> None:
    source = Scripted(ends, ends, gives(specs("a")))
    run = bench.begin(source)
    await run.first.wait()
    assert run.state == "it ended, which a source never does"
    await turns(lambda: bench.taken == ["a"])
    assert warned(caplog) == [
        "pool web, discovery test: it ended, which a source never does; no endpoints so far",
    ]


@pytest.mark.parametrize("watch", [lambda self: None, lambda self: 1 / 0, lambda self: [[]]])
@pytest.mark.usefixtures("quick")
async def test_what_is_no_iterator_is_said(bench: Bench, watch: Any) -> None:
    run = bench.begin(type("Odd", (), {"watch": watch})())
    await run.first.wait()
    assert run.state not in ("ok", "no answer yet")


async def test_an_iterator_of_its_own_kind_will_do(bench: Bench) -> None:
    class Plain:
        def watch(self) -> Any:
            return self

        def __aiter__(self) -> Any:
            return self

        async def __anext__(self) -> Any:
            await asyncio.sleep(0)
            if bench.taken:
                await asyncio.sleep(NEVER)
            return (spec for spec in specs("ab"))

    await bench.begin(Plain()).first.wait()
    assert bench.taken == ["ab"]


async def test_the_first_answer_of_one_that_hangs_is_waited_for(bench: Bench) -> None:
    source = Scripted(gives())
    run = bench.begin(source)
    await asyncio.sleep(0.02)
    assert not run.first.is_set()
    assert run.state == "no answer yet"
    await run.close()
    assert source.ended == 1


async def test_pauses_grow_and_vary_and_begin_anew_once_it_has_worked(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    monkeypatch.setattr(sourcing, "_FIRST", 1.0)
    monkeypatch.setattr(sourcing, "_LONGEST", 8.0)
    sleep = asyncio.sleep

    async def told(seconds: float) -> None:
        if seconds < NEVER:
            slept.append(seconds)
            await sleep(0)
        else:
            await sleep(seconds)

    fails = gives(RuntimeError("oh"))

    async def works(source: Scripted) -> AsyncIterator[Any]:
        yield specs("a")
        raise RuntimeError("oh")

    monkeypatch.setattr(sourcing.asyncio, "sleep", told)
    source = Scripted(*[fails] * 6, works, fails, works, gives(specs("a")))
    run = bench.begin(source)
    await sleep(0)
    async with asyncio.timeout(8):
        while source.watched < 10 or run.state != "ok":
            await sleep(0)
    monkeypatch.undo()
    assert len(slept) == 9
    growing, after = slept[:6], slept[6:]
    assert growing[0] < growing[1] < growing[2], slept
    assert all(seconds <= 8.0 * 1.2 for seconds in slept)
    assert after[0] <= 1.2
    assert after[2] <= 1.2
    assert len(set(slept)) == len(slept), "they vary"


async def test_closing_waits_for_what_it_cleans_up_though_not_for_ever(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sourcing, "_GRACE", 0.05)
    ended = []

    async def tidy(source: Scripted) -> AsyncIterator[Any]:
        try:
            yield specs("a")
            await asyncio.sleep(NEVER)
        finally:
            await asyncio.sleep(0.01)
            ended.append("tidy")

    run = bench.begin(Scripted(tidy))
    await run.first.wait()
    await run.close()
    assert ended == ["tidy"]
    let_go = asyncio.Event()

    async def stubborn(source: Scripted) -> AsyncIterator[Any]:
        yield specs("b")
        while not let_go.is_set():
            try:
                await let_go.wait()
            except asyncio.CancelledError:
                ended.append("no")

    run = bench.begin(Scripted(stubborn))
    await run.first.wait()
    await run.close()
    assert ended == ["tidy", "no"]
    let_go.set()
    await run.close()


async def test_it_can_be_closed_before_it_has_begun(bench: Bench) -> None:
    source = Scripted(gives(specs("a")))
    await bench.begin(source).close()
    assert (bench.taken, source.watched) == ([], 0)
