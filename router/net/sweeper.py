"""Every timeout of every connection, for the price of storing a number.

A connection writes the moment at which it is late into its own `deadline`; one timer looks at all of them a few times
within the shortest timeout in use. (A timer of the loop's own costs each request more than its routing does.)
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from router.config import Config

__all__ = ["Sweeper", "Timed", "tick_for", "timeouts_of"]

log = logging.getLogger("router")

#: Seconds between two looks, at least and at most; and the part of the shortest timeout by which one may be late.
_SHORTEST, _LONGEST, _PART = 0.01, 0.5, 0.1
#: A look that is later than this was kept from its time (seconds).
_STALL = 0.1


class Timed(Protocol):
    """Something that can be late."""

    #: Seconds of the router's clock; infinity for never.
    deadline: float

    def expired(self) -> None:
        """Called once its deadline is over. It has to set another deadline, or be discarded."""


def tick_for(timeouts: Iterable[float]) -> float:
    """Seconds between two looks for a configuration with these timeouts."""
    return min(_LONGEST, max(_SHORTEST, min(timeouts, default=_LONGEST) * _PART))


def timeouts_of(config: Config) -> Iterator[float]:
    """Every timeout of a configuration that connections are watched for, in seconds."""
    for listener in config.listeners:
        timeouts = listener.timeouts
        yield from (timeouts.header, timeouts.idle, timeouts.stream)
        if listener.tls is not None:
            yield timeouts.handshake
    for pool in config.pools:
        yield from (pool.timeouts.head, pool.timeouts.stream, pool.retry.attempt_timeout)
    yield from (route.timeout for route in config.routes)


class Sweeper:
    """Calls `expired` of each thing whose deadline is over, at most one tick late."""

    __slots__ = ("_clock", "_due", "_excused", "_loop", "_things", "_timer", "tick")

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: Callable[[], float], tick: float = _LONGEST) -> None:
        self._loop = loop
        self._clock = clock
        self.tick = tick
        self._things: set[Timed] = set()
        self._timer: asyncio.TimerHandle | None = None
        #: When the next look is due, on the loop's clock; whether the last one was put off.
        self._due = 0.0
        self._excused = False

    def add(self, thing: Timed) -> None:
        self._things.add(thing)
        if self._timer is None:
            self._arm()

    def _arm(self) -> None:
        self._due = self._loop.time() + self.tick
        self._timer = self._loop.call_at(self._due, self._sweep)

    def discard(self, thing: Timed) -> None:
        self._things.discard(thing)

    def __len__(self) -> int:
        return len(self._things)

    def close(self) -> None:
        self._things.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _sweep(self) -> None:
        self._timer = None
        late = self._loop.time() - self._due
        if late > max(self.tick, _STALL) and not self._excused:
            # The process itself stood still. What came meanwhile is yet to be read, and nobody out there is to blame.
            self._excused = True
            self._arm()
            return
        self._excused = False
        now = self._clock()
        for thing in [thing for thing in self._things if thing.deadline <= now]:
            # One that ended or went on because of another's expiry is left alone.
            if thing in self._things and thing.deadline <= now:
                try:
                    thing.expired()
                except Exception:
                    # One connection's trouble must not end every other connection's timeouts.
                    log.exception("a timeout could not be handled")
        if self._things and self._timer is None:
            self._arm()
