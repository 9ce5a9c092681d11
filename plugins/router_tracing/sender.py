"""From the event loop to the exporter: a bounded buffer, and a thread that empties it.

`put` is all that the event loop runs; nothing it does waits for the thread, and no lock is held meanwhile. Each count
has one writer. A batch stays until it is taken or refused: while the buffer has room, an outage loses nothing.
"""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from router_tracing.reports import Reports
from router_tracing.span import Exporter, Span, Verdict

__all__ = ["Sender", "size_of"]

#: Bytes, as `size_of` counts them, of a batch: receivers take 4 MiB over gRPC and 20 MiB over HTTP by default.
BATCH_BYTES = 2 * 1024 * 1024
#: Seconds before a batch is sent again: at first, and at most; and at most where the receiver names a time.
FIRST, LONGEST, ASKED = 0.5, 15.0, 60.0
#: Bytes of a span as such, of an attribute without its value, and of an event without attributes.
_SPAN, _PAIR, _EVENT = 560, 80, 110


def size_of(spans: Sequence[Span]) -> int:
    """Bytes of memory that these spans hold, about: counted as if no text were shared but names and `common`."""
    total = 0
    for span in spans:
        total += _SPAN
        # One character can make a text four times as large: what it takes is asked for, not its length.
        for _, value in span.attributes[len(span.common) :]:
            total += value.__sizeof__() + _PAIR
        if span.state:
            total += len(span.state)
        for event in span.events:
            total += _EVENT
            if event.attributes:
                total += sum(value.__sizeof__() + _PAIR for _, value in event.attributes)
    return total


class Sender:
    """Spans on their way out.

    Besides the verdict an exporter may tell by attributes, all of them of the last batch: `retry_after`, the seconds
    for which the receiver asked to be spared; `too_large`, that a batch was refused for its size alone: it is halved;
    `rejected`, the number of spans that the receiver took, but did not keep.

    Attributes:
        most, batch: spans that may wait, and that are sent at once.
        delay: seconds that spans wait here for a batch to be full.
    """

    def __init__(
        self,
        exporter: Exporter,
        *,
        most: int = 8192,
        most_bytes: int = 16 * 1024 * 1024,
        batch: int = 512,
        delay: float = 5.0,
        first: float = FIRST,
        longest: float = LONGEST,
        clock: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
    ) -> None:
        """`most`, `most_bytes`: spans that wait, the batch under way included. `batch`: spans that are sent at once.

        `first`, `longest`: seconds before a batch is sent again, at first and at most. `clock`: monotonic seconds.
        """
        self._exporter = exporter
        self.most, self._most_bytes, self.batch = most, most_bytes, max(1, min(batch, most))
        self.delay, self._first, self._longest = delay, first, longest
        self._clock = clock
        self._rng = rng or random.Random()
        self._buffer: deque[tuple[Sequence[Span], int]] = deque()
        # Written by the loop's thread alone: what came, and what found no room.
        self._put = self._put_bytes = self._overflown = 0
        # Written by the sender's thread alone: what became of what came.
        self._sent = self._refused = self._done_bytes = self._seen = 0
        # Written once, at the end.
        self._left = 0
        self._wake, self._closing, self._over = threading.Event(), threading.Event(), threading.Event()
        self._ends = 0.0
        self._thread: threading.Thread | None = None
        self._reports = Reports(clock)

    @property
    def waiting(self) -> int:
        """Spans that are still to be sent."""
        return self._put - self._sent - self._refused - self._left

    @property
    def sent(self) -> int:
        """Spans that were taken."""
        return self._sent

    @property
    def dropped(self) -> int:
        """Spans that are lost: there was no room, or they were refused."""
        return self._overflown + self._refused + self._left

    def put(self, spans: Sequence[Span]) -> None:
        """Takes the spans of one request, whole or, without room, not at all. For the loop's thread; never waits."""
        count, size = len(spans), size_of(spans)
        waiting = self._put - self._sent - self._refused + count
        if waiting > self.most or self._put_bytes - self._done_bytes + size > self._most_bytes or self._over.is_set():
            self._overflown += count
            return
        if not count:
            return
        self._buffer.append((spans, size))
        self._put += count
        self._put_bytes += size
        if waiting >= self.batch and not self._wake.is_set():
            self._wake.set()

    def start(self) -> None:
        """Begins to send. Threads do not survive a fork: call it in the process that serves."""
        self._thread = threading.Thread(target=self._run, name="router-tracing", daemon=True)
        self._thread.start()

    def close(self, seconds: float) -> None:
        """Sends what waits, for at most so many seconds, and ends. What is left then counts as dropped, and is said.

        Blocks; see `aclose` for the event loop.
        """
        if self._over.is_set():
            return
        self._ends = self._clock() + seconds
        self._closing.set()
        self._wake.set()
        if self._thread is None:
            self._exporter.close()
        else:
            self._thread.join(seconds)
        self._over.set()
        self._left = self.waiting
        self._watch()
        self._reports.end(self._left)

    async def aclose(self, seconds: float) -> None:
        """`close` without blocking the loop."""
        import asyncio  # commands that serve nothing come by here too, and are to be quick

        await asyncio.to_thread(self.close, seconds)

    # The rest runs in the sender's thread.

    def _run(self) -> None:
        due = self._clock() + self.delay
        while not self._closing.is_set():
            self._wake.wait(max(0.0, due - self._clock()))
            self._wake.clear()
            least = self.batch
            if self._clock() >= due:
                least, due = 1, self._clock() + self.delay
            self._send(least)
            self._watch()
        while self._buffer and not self._is_over():
            self._send(1)
        self._exporter.close()

    def _send(self, least: int) -> None:
        """Batch after batch of what waits now, as long as that is at least so many."""
        until = self._put
        while self._buffer and self.waiting >= least and self._sent + self._refused < until and not self._is_over():
            spans, size = self._take()
            self._deliver(spans)
            self._done_bytes += size

    def _take(self) -> tuple[list[Span], int]:
        """The next batch and its size. The spans of one request stay together."""
        spans: list[Span] = []
        total, buffer = 0, self._buffer
        while buffer and total < BATCH_BYTES and (not spans or len(spans) + len(buffer[0][0]) <= self.batch):
            more, size = buffer.popleft()
            spans += more
            total += size
        return spans, total

    def _deliver(self, spans: list[Span]) -> None:
        """Until each of these is taken or refused, or time is up."""
        parts = [spans]
        while parts:
            part = parts.pop()
            verdict, why = self._persist(part)
            if verdict == "later" or self._over.is_set():
                return
            if verdict == "taken":
                self._count(part, why)
            elif self._told("too_large") and len(part) > 1:
                half = len(part) // 2
                parts += (part[half:], part[:half])
                self.batch = max(1, half)
            else:
                self._refused += len(part)
                self._reports.lost(len(part), "they were refused", f"they are refused ({self._from(why)})")

    def _count(self, spans: list[Span], why: str) -> None:
        rejected = min(int(self._told("rejected")), len(spans))
        self._sent += len(spans) - rejected
        self._refused += rejected
        self._reports.taken()
        if rejected:
            self._reports.lost(rejected, "the receiver kept only some", f"the receiver keeps only some ({why})")

    def _persist(self, spans: list[Span]) -> tuple[Verdict, str]:
        """Sends these again until the verdict is not "later", or time is up."""
        wait = self._first
        while True:
            verdict, why = self._export(spans)
            if verdict != "later" or self._is_over():
                return verdict, why
            self._reports.later(self._from(why))
            self._watch()
            asked = min(float(self._told("retry_after")), ASKED)
            self._rest(max(wait * self._rng.uniform(0.8, 1.2), asked))
            wait = min(wait * 2, self._longest)

    def _rest(self, seconds: float) -> None:
        """Waits; the call to close ends it at once, and from then on it is short."""
        if not self._closing.is_set():
            self._closing.wait(seconds)
        else:
            self._over.wait(max(0.0, min(seconds, self._first, self._ends - self._clock())))

    def _is_over(self) -> bool:
        """Whether nothing more is to be sent."""
        return self._closing.is_set() and (self._over.is_set() or self._clock() >= self._ends)

    def _watch(self) -> None:
        """Says what was lost for want of room, and what is over."""
        if new := self._overflown - self._seen:
            self._seen += new
            self._reports.lost(new, "too many waited", f"{self.waiting} wait already, and there is no room for more")
        self._reports.settle()

    def _export(self, spans: list[Span]) -> tuple[Verdict, str]:
        try:
            return self._exporter.export(spans)
        except Exception as error:  # it must not, but the spans of one batch are not worth the others
            return "refused", f"{type(error).__name__} in the exporter"

    def _from(self, why: str) -> str:
        """What the exporter said, and of whom."""
        place = getattr(self._exporter, "place", "")
        return f"{place}: {why}" if place else why

    def _told(self, name: str) -> Any:
        return getattr(self._exporter, name, 0)
