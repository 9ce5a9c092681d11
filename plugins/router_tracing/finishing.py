"""From requests that are over to the senders of their spans, several requests at a time."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from router import Exchange
from router_tracing.attributes import Recorder
from router_tracing.sender import Sender
from router_tracing.span import Span
from router_tracing.tokens import Perhaps, Recorded, new_span_id

if TYPE_CHECKING:
    import asyncio

__all__ = ["Finisher"]

log = logging.getLogger("router_tracing")

#: Spans are made of so many requests at once, or of fewer after this part of the time that a sender waits for more.
#: Where one request of a hundred is recorded, what makes spans has left the processor's caches each time: the first one
#: costs three times as much as those that follow it at once.
_TOGETHER, _PART, _LATEST = 16, 0.25, 1.0
#: Where a sender has room, or sends at once, only for so many times as many spans, fewer wait.
_ROOM = 32


class Finisher:
    """Makes the spans. All of it runs in the event loop's thread.

    Args:
        recorder: knows what stands in a span.
        own: the span id of requests that were not recorded and began their trace, should a rule keep them.
        clock: the router's, in seconds.

    Attributes:
        senders: whoever gets all spans.
    """

    __slots__ = ("_clock", "_error", "_loop", "_over", "_own", "_recorder", "_soon", "_timer", "_together", "senders")

    def __init__(self, recorder: Recorder, own: str, clock: Callable[[], float]) -> None:
        self._recorder, self._own, self._clock = recorder, own, clock
        self.senders: list[Sender] = []
        self._over: list[tuple[Recorded | Perhaps, Exchange, Exception | None, float, str]] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._soon, self._together = 0.0, 1
        self._timer: asyncio.TimerHandle | None = None
        self._error: Exception | None = None

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """From now on requests may wait for others; before, and after `end`, none does."""
        self._loop = loop
        self._soon = min(_PART * min((sender.delay for sender in self.senders), default=0.0), _LATEST)
        least = min((min(sender.most, sender.batch) for sender in self.senders), default=0)
        self._together = max(1, min(least // _ROOM, _TOGETHER))

    def end(self) -> None:
        self.flush()
        self._loop = None

    def add(
        self, token: Recorded | Perhaps, exchange: Exchange, error: Exception | None, now: float, kept: str
    ) -> None:
        """Takes a request that is over; nothing may change it any more.

        Args:
            token: what was remembered of it.
            error: what it failed with.
            now: when it was over, by the router's clock.
            kept: why it is recorded, if a rule says so; "" if that was decided at its start.

        Raises:
            Exception: the spans of an earlier one could not be made. Whoever calls next hears of it.
        """
        if self._error is not None:
            raise self._error
        self._over.append((token, exchange, error, now, kept))
        if self._loop is None or len(self._over) >= self._together:
            self.flush()
        elif self._timer is None:
            self._timer = self._loop.call_later(self._soon, self.flush)

    def flush(self) -> None:
        """Makes the spans of all that were taken."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        over, self._over = self._over, []
        # By how much the router's clock is behind the time of day.
        offset = time.time() - self._clock()
        for each in over:
            try:
                spans = self._spans(*each, offset)
                for sender in self.senders:
                    sender.put(spans)
            except Exception as error:  # those behind it are worth the same
                log.error("request %s: its spans cannot be made: %r", each[1].id, error)
                # Without the frames, which hold all of these requests.
                self._error = error.with_traceback(None)

    def _spans(
        self,
        token: Recorded | Perhaps,
        exchange: Exchange,
        error: Exception | None,
        now: float,
        kept: str,
        offset: float,
    ) -> tuple[Span, ...]:
        parent, attempts = token.parent, exchange.attempts
        if isinstance(token, Recorded):
            span_id, children = token.span_id, token.children
        else:
            span_id, children = token.span_id or (self._own if parent is None else new_span_id()), []
        while len(children) < len(attempts):
            children.append(new_span_id())
        parent_id, state = (parent.span_id, parent.state) if parent is not None else ("", "")
        place = exchange.trace_id, span_id, parent_id
        return self._recorder.spans(
            exchange, error, place, children, offset, now, remote=parent is not None, state=state, kept=kept
        )
