"""A source at work, whatever it gives: its last good value stays, what is wrong is said once, and it is asked again.

What a value has to be, and what it means, is the business of those who make one of these.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Callable
from typing import Any, Generic, TypeVar

from router.net.probes import cause_of, one_line

__all__ = ["Sourcing"]

log = logging.getLogger("router")

#: Seconds until a source that has failed is asked again: first, and at most.
_FIRST, _LONGEST = 1.0, 30.0
#: The part by which that is varied, so that many routers do not ask at once.
_JITTER = 0.2
#: Seconds that a source gets to clean up at the end.
_GRACE = 2.0
_NOTHING_YET = "no answer yet"

Found = TypeVar("Found")


class Sourcing(Generic[Found]):
    """One source at work; to be made while the loop runs.

    Args:
        name: for the log, such as "pool web, discovery file".
        noun: what it gives, for the log: "endpoints".
        watch: begins to ask the source.
        checked: what it gave as what `take` takes; raises TypeError or ValueError for what cannot be.
        take: called with each new value; raises ValueError if that cannot be used.
        rng: for jitter.

    Attributes:
        first: set once there was a first value, or a first failure.
        state: for people: "ok", or what is wrong.
    """

    def __init__(
        self,
        name: str,
        noun: str,
        watch: Callable[[], AsyncIterator[Any]],
        checked: Callable[[Any], Found],
        take: Callable[[Found], None],
        rng: random.Random,
    ) -> None:
        self._name = name
        self._noun = noun
        self._begin = watch
        self._checked = checked
        self._take = take
        self._rng = rng
        self._last: Found | None = None
        #: Whether there was a good value since it was begun.
        self._worked = False
        self._closed = False
        self.first = asyncio.Event()
        self.state = _NOTHING_YET
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def close(self) -> None:
        """Ends the source; waits a little for it to clean up."""
        self._closed = True
        self._task.cancel()
        await asyncio.wait((self._task,), timeout=_GRACE)

    def is_same(self, found: Found) -> bool:
        """Whether this says nothing that the last good value has not said."""
        return found == self._last

    async def _run(self) -> None:
        pause = _FIRST
        while not self._closed:
            self._worked = False
            try:
                await self._watch()
                self._fails("it ended, which a source never does")
            except BaseException as error:
                if self._closed:
                    raise
                # SystemExit too: a plugin may end its own work, never the router.
                self._fails(cause_of(error))
            pause = _FIRST if self._worked else min(2 * pause, _LONGEST)
            await asyncio.sleep(pause * (1 - _JITTER + 2 * _JITTER * self._rng.random()))

    async def _watch(self) -> None:
        watching = self._begin()
        try:
            async for value in watching:
                self._took(value)
        finally:
            close = getattr(watching, "aclose", None)
            if close is not None:
                await close()

    def _took(self, value: Any) -> None:
        if self._closed:
            # A source that did not notice that it was cancelled.
            return
        try:
            found = self._checked(value)
            if not self.is_same(found):
                self._take(found)
        except (TypeError, ValueError) as error:
            self._fails(one_line(str(error)))
            return
        self._last = found
        if self.state not in ("ok", _NOTHING_YET):
            log.info("%s: works again", self._name)
        self.state = "ok"
        self._worked = True
        self.first.set()

    def _fails(self, why: str) -> None:
        """Says what is wrong, once."""
        rest = f"no {self._noun} so far" if self._last is None else f"the last good {self._noun} stay"
        level = logging.DEBUG if why == self.state else logging.WARNING
        log.log(level, "%s: %s; %s", self._name, why, rest)
        self.state = why
        self.first.set()
