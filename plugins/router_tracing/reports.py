"""What the log hears of spans that wait or are lost: one line when it begins, one with the count when it is over."""

from __future__ import annotations

import logging
from collections.abc import Callable

__all__ = ["Reports"]

#: Seconds without a loss after which it is over: one that comes and goes is not said each time.
QUIET = 30.0
log = logging.getLogger("router_tracing")


class _Loss:
    """Spans that are being lost for one cause."""

    __slots__ = ("count", "last")

    def __init__(self) -> None:
        self.count, self.last = 0, 0.0


class Reports:
    """Called in the sender's thread; but for `end`, which comes after it."""

    __slots__ = ("_clock", "_failures", "_losses", "_quiet", "_since")

    def __init__(self, clock: Callable[[], float], quiet: float = QUIET) -> None:
        """`clock`: monotonic seconds; `quiet`: seconds without a loss after which it is over."""
        self._clock, self._quiet = clock, quiet
        self._failures, self._since = 0, 0.0
        self._losses: dict[str, _Loss] = {}

    def later(self, why: str) -> None:
        """A batch was not taken. The first time may be chance, such as a connection that the other end just closed."""
        self._failures += 1
        if self._failures == 1:
            self._since = self._clock()
        elif self._failures == 2:
            log.warning("spans are not taken (%s): they wait in memory, and are sent again", why)

    def taken(self) -> None:
        """A batch was taken."""
        if self._failures > 1:
            log.warning("spans are taken again, after %.0f s", self._clock() - self._since)
        self._failures = 0

    def lost(self, count: int, cause: str, why: str = "") -> None:
        """So many spans are lost. `cause`: what is said after "while" once it is over; `why`: what is said at first."""
        loss = self._losses.get(cause)
        if loss is None:
            loss = self._losses[cause] = _Loss()
            log.warning("spans are dropped: %s", why or cause)
        loss.count += count
        loss.last = self._clock()

    def settle(self, *, at_once: bool = False) -> None:
        """Says the counts of what is over; `at_once`: of all."""
        for cause, loss in list(self._losses.items()):
            if at_once or self._clock() - loss.last >= self._quiet:
                log.warning("%d spans were dropped while %s", loss.count, cause)
                del self._losses[cause]

    def end(self, left: int) -> None:
        """Nothing is sent any more, and so many spans still waited."""
        self.settle(at_once=True)
        if left:
            log.warning("%d spans were dropped: they were not taken before the end", left)
