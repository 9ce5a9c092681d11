"""The queue of exchanges that wait for room: first in, first out, bounded, each with a deadline of its own."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

__all__ = ["Queue", "Ticket"]


class Ticket:
    """A parked exchange's place in the queue. The driver sets `wake`; the pool grants, the driver then calls it."""

    __slots__ = ("admitted", "granted", "until", "wake")

    def __init__(self, until: float, *, admitted: bool) -> None:
        self.until = until
        #: Whether this exchange already counts as under way and only waits for an endpoint with room.
        self.admitted = admitted
        self.granted = False
        self.wake: Callable[[], None] | None = None


class Queue:
    """Parked exchanges. Written through Pool and Dispatch."""

    __slots__ = ("tickets",)

    def __init__(self) -> None:
        #: In order of arrival.
        self.tickets: deque[Ticket] = deque()

    @property
    def waiting(self) -> int:
        return len(self.tickets)

    def first(self) -> Ticket | None:
        return self.tickets[0] if self.tickets else None

    def park(self, ticket: Ticket) -> Ticket:
        self.tickets.append(ticket)
        return ticket

    def pop(self) -> Ticket:
        ticket = self.tickets.popleft()
        ticket.granted = True
        return ticket

    def leave(self, ticket: Ticket) -> None:
        """Gives the place up. Safe to call for one that was granted."""
        if not ticket.granted:
            self.tickets.remove(ticket)
