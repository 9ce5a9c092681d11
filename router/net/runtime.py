"""What the data path shares: the loop, the clock, the table of now, parsers and timeouts. One per process."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

from router.model import Endpoint
from router.net.heads import RequestHeads, ResponseHeads
from router.net.secure import Pipes
from router.net.sweeper import Sweeper
from router.observe import Observers
from router.policy.plain import PlainRequests, PlainResponses
from router.policy.pool import Pool
from router.policy.table import Table

__all__ = ["Runtime", "abandon_tasks", "wake", "wake_soon"]

log = logging.getLogger("router")

_NEVER = float("inf")
_ID_BYTES = 16
_IDS_AT_ONCE = 256
#: Bytes that are not held back to be written together with others.
_LARGE = 16 << 10


class Runtime:
    """Handed to every connection. `table` is replaced at a reload: take it once per exchange."""

    __slots__ = (
        "_ids",
        "_outbox",
        "_tasks",
        "challenges",
        "clock",
        "draining",
        "flushes",
        "loop",
        "max_head",
        "observers",
        "pipes",
        "plain_requests",
        "plain_responses",
        "pseudonym",
        "request_heads",
        "response_heads",
        "sweeper",
        "table",
        "via",
        "via_and_id",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        table: Table,
        *,
        clock: Callable[[], float],
        observers: Observers,
        max_head: int = 32 << 10,
        max_fields: int = 128,
        tick: float = 0.5,
        pseudonym: str = "router",
    ) -> None:
        self.loop = loop
        self.table = table
        self.clock = clock
        self.observers = observers
        #: This router's name in Via: a request that holds it already has come round in a circle (RFC 9110 §7.6.3).
        self.pseudonym = pseudonym.encode()
        self.via = b"Via: 1.1 %b\r\n" % self.pseudonym
        #: The same and the name of the line that nearly always follows.
        self.via_and_id = self.via + b"X-Request-ID: "
        self.limit_heads(max_head, max_fields)
        self.sweeper = Sweeper(loop, clock, tick)
        #: Path -> body of ACME's http-01 (RFC 8555 §8.3), which listeners without TLS answer.
        self.challenges: dict[str, bytes] = {}
        #: OpenSSL's, for all connections of this loop.
        self.pipes = Pipes()
        #: True once the process is to end: connections close after their response.
        self.draining = False
        self._ids: list[str] = []
        #: How often the outbox was emptied: tells whether something has been written since.
        self.flushes = 0
        self._outbox: list[tuple[asyncio.Transport, bytes]] = []
        self._tasks: set[asyncio.Task[None]] = set()

    def limit_heads(self, max_head: int, max_fields: int) -> None:
        """Sets the largest head that is read, in bytes, and the most fields in one."""
        self.max_head = max_head
        self.request_heads = RequestHeads(self.loop, max_head, max_fields)
        self.response_heads = ResponseHeads(self.loop, max_head, max_fields)
        self.plain_requests = PlainRequests(max_fields)
        self.plain_responses = PlainResponses(max_fields)

    def new_id(self) -> str:
        """A request id: 128 random bits in hexadecimal, drawn from the system many at a time."""
        ids = self._ids
        if not ids:
            drawn = os.urandom(_ID_BYTES * _IDS_AT_ONCE).hex()
            ids += [drawn[at : at + 2 * _ID_BYTES] for at in range(0, len(drawn), 2 * _ID_BYTES)]
        return ids.pop()

    def write(self, transport: asyncio.Transport, data: bytes) -> None:
        """Writes once what is readable now has been read.

        Writing between two reads would wake the receiver each time; written together, it is woken once and then finds
        more to do. That halves what the system charges for a request. Order per transport is kept as long as nothing
        writes to it directly.
        """
        if not self._outbox:
            self.loop.call_soon(self.flush)
        self._outbox.append((transport, data))
        if len(data) > _LARGE:
            # Backpressure works only on what a transport has been given, and much may be readable at once.
            self.flush()

    def write_pieces(self, transport: asyncio.Transport, pieces: Iterable[bytes]) -> None:
        """Writes a head and a large body at once, without copying one behind the other."""
        self.flush()
        with contextlib.suppress(RuntimeError):
            transport.writelines(pieces)

    def flush(self) -> None:
        """Hands everything to the transports now: needed before one is closed."""
        outbox, self._outbox = self._outbox, []
        self.flushes += 1
        for transport, data in outbox:
            try:
                transport.write(data)
            except RuntimeError:
                # Closed meanwhile: its connection_lost says so to whom it concerns.
                continue

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Runs `work` as a task that outlives whoever asked for it."""
        task = self.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def endpoint_is_gone(self, endpoint: Endpoint) -> None:
        """Closes what is kept open to an endpoint that is in no table any more."""
        if endpoint.connections is not None:
            endpoint.connections.close()


def wake(pool: Pool, now: float) -> None:
    """Lets waiting exchanges go on, first come first served, while there is room."""
    if pool.waking:
        # Called by one that was woken and ended at once: the loop below goes on with what that has freed.
        return
    pool.waking = True
    try:
        while (ticket := pool.grant(now)) is not None:
            if ticket.wake is not None:
                ticket.wake()
    finally:
        pool.waking = False


def wake_soon(pool: Pool, runtime: Runtime) -> None:
    """Exchanges that wait look again whether there is room: soon, and when time alone may make some."""
    if pool.queue.waiting:
        # Not at once: whoever is woken may change the very state that is being told.
        runtime.loop.call_soon(_wake, pool, runtime)
        if pool.due < _NEVER:
            runtime.loop.call_later(pool.due - runtime.clock(), _turn, pool, runtime)


def _wake(pool: Pool, runtime: Runtime) -> None:
    wake(pool, runtime.clock())


def _turn(pool: Pool, runtime: Runtime) -> None:
    now = runtime.clock()
    if pool.queue.waiting and now >= pool.due:
        pool.tick(now)
        wake(pool, now)


async def abandon_tasks(seconds: float) -> None:
    """Ends whatever plugins have left running. What does not let itself be ended is named and left behind.

    Args:
        seconds: how long they get.
    """
    left = asyncio.all_tasks() - {asyncio.current_task()}
    for task in left:
        task.cancel()
    if not left:
        return
    _, stuck = await asyncio.wait(left, timeout=seconds)
    for task in stuck:
        log.error("a task does not end and is left behind: %s", getattr(task.get_coro(), "__qualname__", "?"))
        # Else the event loop would wait for it at its own end, for ever.
        asyncio.tasks._unregister_task(task)
        task._log_destroy_pending = False  # type: ignore[attr-defined]
