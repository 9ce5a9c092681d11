"""What the data path shares: the loop, the clock, the table of now, and the timeouts being watched. One per process."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

from router.model import Endpoint
from router.net.deadlines import Deadlines
from router.net.heads import RequestHeads, ResponseHeads
from router.observe import Observers
from router.policy.pool import Pool
from router.policy.table import Table

__all__ = ["Runtime", "wake"]


class Runtime:
    """Handed to every connection. `table` is replaced at a reload: take it once per exchange."""

    __slots__ = (
        "clock",
        "draining",
        "loop",
        "max_head",
        "observers",
        "request_heads",
        "response_heads",
        "rng",
        "table",
        "watches",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        table: Table,
        *,
        clock: Callable[[], float],
        rng: random.Random,
        observers: Observers,
        max_head: int = 32 << 10,
        max_fields: int = 128,
    ) -> None:
        self.loop = loop
        self.table = table
        self.clock = clock
        self.rng = rng
        self.observers = observers
        self.max_head = max_head
        self.request_heads = RequestHeads(loop, max_head, max_fields)
        self.response_heads = ResponseHeads(loop, max_head, max_fields)
        #: True once the process is to end: connections close after their response.
        self.draining = False
        self.watches: dict[float, Deadlines] = {}

    def watch(self, seconds: float) -> Deadlines:
        """The watch for things that may take this long; each thing's `expired()` is called when its time is over.

        Args:
            seconds: a value from the configuration. (Values made up per request would grow this table.)
        """
        found = self.watches.get(seconds)
        if found is None:
            found = self.watches[seconds] = Deadlines(self.loop, seconds, _expire)
        return found

    def endpoint_is_gone(self, endpoint: Endpoint) -> None:
        """Closes what is kept open to an endpoint that is in no table any more."""
        if endpoint.connections is not None:
            endpoint.connections.close()

    def close(self) -> None:
        for watch in self.watches.values():
            watch.close()


def _expire(thing: Any) -> None:
    thing.expired()


def wake(pool: Pool) -> None:
    """Lets waiting exchanges go on, first come first served, while there is room."""
    while (ticket := pool.grant()) is not None:
        if ticket.wake is not None:
            ticket.wake()
