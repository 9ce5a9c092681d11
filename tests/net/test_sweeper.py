"""Timeouts: who is late is told, once, and nobody else."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from router.net.sweeper import Sweeper, tick_for

NEVER = float("inf")


class Thing:
    def __init__(self, deadline: float, then: Any = None) -> None:
        self.deadline = deadline
        self.expiries = 0
        self.then = then

    def expired(self) -> None:
        self.expiries += 1
        self.deadline = NEVER
        if self.then is not None:
            self.then()


class Bench:
    def __init__(self) -> None:
        self.now = 0.0
        self.sweeper = Sweeper(asyncio.get_running_loop(), lambda: self.now, 0.005)

    async def at(self, now: float) -> None:
        self.now = now
        await asyncio.sleep(0.04)


@pytest.mark.parametrize(
    ("timeouts", "tick"),
    [([NEVER], 0.5), ([60, 30, 2], 0.2), ([0.2], 0.02), ([0.001], 0.01), ([100], 0.5)],
)
def test_the_tick_follows_the_shortest_timeout(timeouts: list[float], tick: float) -> None:
    assert tick_for(timeouts) == pytest.approx(tick)


async def test_who_is_late_is_told_once() -> None:
    bench = Bench()
    late, early, never = Thing(5), Thing(50), Thing(NEVER)
    for thing in (late, early, never):
        bench.sweeper.add(thing)
    await bench.at(4)
    assert late.expiries == 0
    await bench.at(6)
    await bench.at(7)
    assert [late.expiries, early.expiries, never.expiries] == [1, 0, 0]
    bench.sweeper.close()


async def test_a_deadline_may_move() -> None:
    bench = Bench()
    thing = Thing(5)
    bench.sweeper.add(thing)
    await bench.at(4)
    thing.deadline = 10
    await bench.at(9)
    assert thing.expiries == 0
    await bench.at(10)
    assert thing.expiries == 1
    bench.sweeper.close()


async def test_one_that_is_discarded_by_anothers_expiry_is_left_alone() -> None:
    bench = Bench()
    things: list[Thing] = []

    def discard_all() -> None:
        for thing in things:
            bench.sweeper.discard(thing)

    things += [Thing(1, discard_all), Thing(1, discard_all)]
    for thing in things:
        bench.sweeper.add(thing)
    await bench.at(2)
    assert sum(thing.expiries for thing in things) == 1
    assert len(bench.sweeper) == 0
    bench.sweeper.close()


async def test_it_goes_on_after_it_was_empty() -> None:
    bench = Bench()
    first, second = Thing(1), Thing(2)
    bench.sweeper.add(first)
    await bench.at(1)
    bench.sweeper.discard(first)
    await bench.at(1.5)
    bench.sweeper.add(second)
    await bench.at(3)
    assert (first.expiries, second.expiries) == (1, 1)
    bench.sweeper.close()


async def test_one_that_raises_does_not_stop_the_others() -> None:
    """Without this, one fault would leave every connection without a timeout for the rest of the process."""
    bench = Bench()
    told: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))

    def fail() -> None:
        raise RuntimeError("a fault")

    bad, good = Thing(1, fail), Thing(5)
    bench.sweeper.add(bad)
    bench.sweeper.add(good)
    await bench.at(2)
    await bench.at(6)
    assert (bad.expiries, good.expiries) == (1, 1)
    bench.sweeper.close()


async def test_after_close_nobody_is_told() -> None:
    bench = Bench()
    thing = Thing(1)
    bench.sweeper.add(thing)
    bench.sweeper.close()
    await bench.at(2)
    assert thing.expiries == 0


async def test_after_the_process_itself_stood_still_everybody_gets_one_more_tick() -> None:
    """What came meanwhile waits to be read: nobody is called late before it was."""
    bench = Bench()
    answered, silent = Thing(5), Thing(5)
    for thing in (answered, silent):
        bench.sweeper.add(thing)
    loop = asyncio.get_running_loop()

    def read() -> None:
        answered.deadline = NEVER

    bench.now = 6
    time.sleep(0.2)  # noqa: ASYNC251 - the very stall that is meant
    loop.call_later(0.002, read)
    await asyncio.sleep(0.05)
    assert (answered.expiries, silent.expiries) == (0, 1)
    bench.sweeper.close()
