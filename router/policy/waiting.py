"""The queue of exchanges that wait for room: first in, first out, bounded, each with a deadline of its own.

Most wait for any endpoint. Those whose session is on one that is full wait for that one: each such endpoint has a line
of its own, so that nobody else is held up behind them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

from router.model import Endpoint

__all__ = ["Queue", "Ticket"]


class Ticket:
    """A parked exchange's place in the queue. The driver sets `wake`; the pool grants, the driver then calls it."""

    __slots__ = ("admitted", "endpoint", "granted", "number", "until", "wake")

    def __init__(self, until: float, *, admitted: bool, endpoint: Endpoint | None = None) -> None:
        self.until = until
        #: Whether this exchange already counts as under way and only waits for an endpoint with room.
        self.admitted = admitted
        #: The one that it waits for; None for any.
        self.endpoint = endpoint
        self.granted = False
        self.wake: Callable[[], None] | None = None
        #: Earlier ones have lower ones.
        self.number = 0


class Queue:
    """Parked exchanges. Written through Pool and Dispatch. Attributes: `waiting`, how many there are."""

    __slots__ = ("_parked", "_stirred", "pinned", "tickets", "waiting")

    def __init__(self) -> None:
        self.waiting = 0
        #: Those that wait for any endpoint, in order of arrival.
        self.tickets: deque[Ticket] = deque()
        #: Those that wait for one.
        self.pinned: dict[Endpoint, deque[Ticket]] = {}
        #: Endpoints that somebody waits for, and whose state has changed since they were looked at.
        self._stirred: dict[Endpoint, None] = {}
        self._parked = 0

    def park(self, ticket: Ticket) -> Ticket:
        self._parked += 1
        ticket.number = self._parked
        self.waiting += 1
        line = self.tickets if ticket.endpoint is None else self.pinned.setdefault(ticket.endpoint, deque())
        line.append(ticket)
        return ticket

    def stir(self, endpoint: Endpoint) -> None:
        """Has those who wait for this endpoint considered again. To be called at each change of its state."""
        if endpoint in self.pinned:
            self._stirred[endpoint] = None

    def first(self) -> Ticket | None:
        """Who of those that wait for any endpoint has waited longest."""
        return self.tickets[0] if self.tickets else None

    def stirred(self) -> Iterator[Ticket]:
        """The first ones in the lines of endpoints whose state has changed."""
        return (self.pinned[endpoint][0] for endpoint in tuple(self._stirred))

    def settle(self, ticket: Ticket) -> None:
        """Nothing has changed for this one, nor for those who wait behind it for the same endpoint."""
        self._stirred.pop(ticket.endpoint, None)  # type: ignore[arg-type]

    def is_next(self, ticket: Ticket) -> bool:
        """Whether nobody stands before it in its own line."""
        line = self.tickets if ticket.endpoint is None else self.pinned[ticket.endpoint]
        return line[0] is ticket

    def take(self, ticket: Ticket) -> None:
        """Grants a place."""
        self.leave(ticket)
        ticket.granted = True

    def leave(self, ticket: Ticket) -> None:
        """Gives the place up. Safe to call for one that was granted."""
        if ticket.granted:
            return
        self.waiting -= 1
        if ticket.endpoint is None:
            self.tickets.remove(ticket)
            return
        line = self.pinned[ticket.endpoint]
        line.remove(ticket)
        if not line:
            del self.pinned[ticket.endpoint]
            self._stirred.pop(ticket.endpoint, None)
