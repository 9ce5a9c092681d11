"""Active health: asks every endpoint of a pool again and again, and hands what comes of it to the pool.

Owned here: when to ask (jitter, spread starts, sooner while the state changes), how many at once, and how long it may
take. What a result means is policy's; how an endpoint is asked is the plugin's. No plugin can stop the schedule.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import random
from collections.abc import Awaitable, Callable, Set
from math import ceil
from typing import Any

from router.api import Probe
from router.corekeys import ProbeKeys
from router.model import Endpoint
from router.net.connections import SHORTAGE
from router.policy.pool import Pool

__all__ = ["MOST_AT_ONCE", "Prober", "cause_of", "one_line"]

log = logging.getLogger("router")

#: Most probes of one pool under way at once; more only where that many hang and the others could not be asked in time.
MOST_AT_ONCE = 64
_MOST_HANGING = 1024
#: The part of an interval by which two probes may lie closer together or further apart.
_JITTER = 0.1
#: The part of an interval after which is asked again while the state is changing.
_FASTER = 0.25
#: The part of an interval within which probes are begun together, and the longest such time (seconds): to wake up
#: for each of a thousand costs more than to ask it.
_TOGETHER, _LONGEST = 0.05, 0.1
#: Seconds that checks get to clean up at the end.
_GRACE = 2.0
_MOST_SAID = 200
#: A turn that is later than this was kept from its time (seconds).
_STALL = 0.1


class _Watch:
    """One endpoint, and the check of it that is under way."""

    __slots__ = ("deadline", "endpoint", "gone", "task")

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.task: asyncio.Task[str | None] | None = None
        #: When the check is cut off, on the loop's clock.
        self.deadline = 0.0
        self.gone = False


class Prober:
    """The probes of one pool; to be made while the loop runs.

    Args:
        clock: seconds, as policy knows them.
        rng: for jitter.
        spared: members that are about to leave, which another probe has asked so far: this one does not.
    """

    def __init__(
        self,
        pool: Pool,
        probe: Probe,
        timing: ProbeKeys,
        *,
        clock: Callable[[], float],
        rng: random.Random,
        spared: Set[Endpoint] = frozenset(),
    ) -> None:
        self._pool = pool
        self._spared = spared
        self._probe = probe
        self._timing = timing
        self._clock = clock
        self._rng = rng
        self._loop = asyncio.get_running_loop()
        self._together = min(_LONGEST, timing.interval * _TOGETHER)
        self._most = MOST_AT_ONCE
        #: Whether it has been said that the router itself lacks what probes need.
        self._short = False
        self._watches: dict[Endpoint, _Watch] = {}
        #: (when to ask, tie breaker, whom), the next one first.
        self._plan: list[tuple[float, int, _Watch]] = []
        self._planned = 0
        self._running: set[_Watch] = set()
        #: Checks that have not ended yet, those cut off and those of endpoints that have left included.
        self._tasks: set[asyncio.Task[str | None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        #: When the timer's time is.
        self._wakes = 0.0
        #: Set while every endpoint has been asked at least once; and those that have not.
        self._round = asyncio.Event()
        self._round.set()
        self._unasked: set[_Watch] = set()
        self._excused = False
        self._closed = False

    def sync(self) -> None:
        """Begins with endpoints that are new, ends with those that have left. After `close`, does nothing."""
        if self._closed:
            return
        members = set(self._pool.members.values()) - self._spared
        for endpoint in self._watches.keys() - members:
            self._leave(self._watches.pop(endpoint))
        for endpoint in members - self._watches.keys():
            watch = self._watches[endpoint] = _Watch(endpoint)
            self._unasked.add(watch)
            self._round.clear()
            self._plan_for(watch, 0.0)
        hanging = len(members) * self._timing.timeout / self._timing.interval
        self._most = max(MOST_AT_ONCE, min(_MOST_HANGING, ceil(hanging)))
        self._turn()

    async def first_round(self) -> None:
        """Waits until each endpoint has been asked once."""
        await self._round.wait()

    async def close(self) -> None:
        """Ends every check; waits a little for those that clean up."""
        self._closed = True
        for watch in self._watches.values():
            self._leave(watch)
        self._watches.clear()
        if self._timer is not None:
            self._timer.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_GRACE)

    # The schedule

    def _plan_for(self, watch: _Watch, seconds: float) -> None:
        self._planned += 1
        when = self._loop.time() + seconds
        heapq.heappush(self._plan, (when, self._planned, watch))
        self._arm(when)

    def _arm(self, when: float) -> None:
        """Makes sure that there is a turn at this time."""
        if self._timer is not None:
            if self._wakes <= when:
                return
            self._timer.cancel()
        self._wakes = when
        self._timer = self._loop.call_at(when, self._turn)

    def _turn(self) -> None:
        """Cuts off what is late, begins what is due, and sets the timer for what comes next."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        now = self._loop.time()
        if self._running and now - self._wakes > _STALL and not self._excused:
            # The process itself stood still: what the checks wait for is yet to be read.
            self._excused = True
            self._arm(now + _STALL / 10)
            return
        self._excused = False
        for watch in [watch for watch in self._running if watch.deadline <= now]:
            self._cut(watch)
        while self._plan and self._plan[0][0] <= now + self._together and len(self._running) < self._most:
            watch = heapq.heappop(self._plan)[2]
            if not watch.gone:
                self._begin(watch, now)
        if self._running:
            self._arm(min(watch.deadline for watch in self._running))
        if self._plan and len(self._running) < self._most:
            self._arm(self._plan[0][0])

    def _begin(self, watch: _Watch, now: float) -> None:
        if watch.task is not None:
            self._result(watch, "the last probe cannot be ended")
            return
        watch.deadline = now + self._timing.timeout
        watch.task = self._loop.create_task(self._guarded(watch.endpoint))
        watch.task.add_done_callback(lambda task: self._done(watch, task))
        self._tasks.add(watch.task)
        self._running.add(watch)

    def _cut(self, watch: _Watch) -> None:
        """This check is late. One that does not let itself be ended keeps no other from being asked."""
        self._running.discard(watch)
        if watch.task is not None:
            watch.task.cancel()
        self._result(watch, f"no answer within {self._timing.timeout:g} s")

    def _done(self, watch: _Watch, task: asyncio.Task[str | None]) -> None:
        watch.task = None
        self._tasks.discard(task)
        if watch not in self._running:
            return
        full = len(self._running) >= self._most
        self._running.discard(watch)
        self._result(watch, "the probe was cancelled" if task.cancelled() else task.result())
        if full:
            self._turn()

    def _result(self, watch: _Watch, cause: str | None) -> None:
        """Hands a result on, None for none, and plans the next check."""
        timing, chance = self._timing, self._rng.random()
        if cause is not None:
            self._short = False
            self._pool.probed(watch.endpoint, not cause, cause, self._clock())
        if watch in self._unasked:
            self._asked(watch)
            # A random phase: the checks of a pool must not beat in time.
            self._plan_for(watch, timing.interval * chance)
            return
        probed = watch.endpoint.health.probed
        part = _FASTER if probed is not None and probed.changing else 1.0
        self._plan_for(watch, timing.interval * part * (1 - _JITTER + 2 * _JITTER * chance))

    def _asked(self, watch: _Watch) -> None:
        self._unasked.discard(watch)
        if not self._unasked:
            self._round.set()

    def _leave(self, watch: _Watch) -> None:
        watch.gone = True
        self._asked(watch)
        self._running.discard(watch)
        if watch.task is not None:
            watch.task.cancel()

    def _lack(self, error: OSError) -> None:
        """The router's own want says nothing about an endpoint: said once, and no verdict."""
        if not self._short:
            self._short = True
            log.warning("pool %s: probes cannot be made: %s", self._pool.name, error.strerror)

    async def _guarded(self, endpoint: Endpoint) -> str | None:
        """Asks once: "" if the endpoint is well, else why not; None if that could not be found out."""
        try:
            check: Callable[[Endpoint], Awaitable[Any]] = self._probe.check
            given = await check(endpoint)
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            if isinstance(error, OSError) and error.errno in SHORTAGE:
                self._lack(error)
                return None
            # SystemExit too: a plugin may end its own check, never the router.
            return cause_of(error)
        return "" if given is None else f"the probe returned {type(given).__name__}; it has to return nothing, or raise"


def cause_of(error: BaseException) -> str:
    """What a person should read about a failed check: one short printable line."""
    name = type(error).__name__
    try:
        text = str(error)
        if isinstance(error, OSError):
            text = str(error.strerror or text)
        elif type(error).__module__ == "builtins" and text:
            text = f"{name}: {text}"
    except BaseException:
        # An exception that cannot even be read is still a failure.
        text = name
    return one_line(text) or name


def one_line(text: str) -> str:
    """The same without line breaks and control characters, and not long: what others have written goes into a log."""
    return " ".join("".join(c if c.isprintable() else " " for c in text[:_MOST_SAID]).split())
