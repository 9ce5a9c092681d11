"""Many timeouts of one length for the price of a dictionary entry each.

Things watched for the same number of seconds expire in the order in which they were added, so one timer for the first
of them is enough. (A timer of the loop's own per request costs several times as much, and memory while it waits.)
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

__all__ = ["Deadlines"]


class Deadlines:
    """Calls `expired(thing)` for each thing that was not discarded within `seconds` of being added."""

    __slots__ = ("_expired", "_loop", "_seconds", "_timer", "_until")

    def __init__(self, loop: asyncio.AbstractEventLoop, seconds: float, expired: Callable[[Any], None]) -> None:
        self._loop = loop
        self._seconds = seconds
        self._expired = expired
        #: Insertion order is order of expiry.
        self._until: dict[Any, float] = {}
        self._timer: asyncio.TimerHandle | None = None

    def add(self, thing: Any) -> None:
        """Watches `thing`; adding it again starts its time anew."""
        until = self._until
        until.pop(thing, None)
        until[thing] = self._loop.time() + self._seconds
        if self._timer is None and self._seconds != float("inf"):
            self._timer = self._loop.call_later(self._seconds, self._sweep)

    def discard(self, thing: Any) -> None:
        """Stops watching. Safe for a thing that is not watched."""
        self._until.pop(thing, None)

    def __len__(self) -> int:
        return len(self._until)

    def close(self) -> None:
        """Forgets everything."""
        self._until.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _sweep(self) -> None:
        self._timer = None
        now = self._loop.time()
        due: list[Any] = []
        rest = 0.0
        for thing, until in self._until.items():
            if until > now:
                rest = until - now
                break
            due.append(thing)
        for thing in due:
            # An earlier one's expiry may have ended this one too.
            if self._until.pop(thing, None) is not None:
                self._expired(thing)
        if self._until and self._timer is None:
            self._timer = self._loop.call_later(max(rest, 0.001), self._sweep)
