"""An exchange's place in its pool: under way, or in the queue. What Dispatch is made upon."""

from __future__ import annotations

import msgspec

from router.errors import Overloaded
from router.model import Endpoint, Exchange, Note
from router.policy.actions import Action, Park
from router.policy.outcomes import answer
from router.policy.pool import Pool
from router.policy.waiting import Ticket

__all__ = ["Admission"]


class Admission(msgspec.Struct, eq=False):
    """Knows the pool's limits and its queue, nothing of attempts.

    Args:
        tell: whether there is an observer that listens.
    """

    pool: Pool
    exchange: Exchange
    tell: bool = False
    #: Whether it counts as under way in the pool.
    admitted: bool = False
    _ticket: Ticket | None = None
    #: Whether it has waited for the session's server, which is full, for long enough.
    _unpinned: bool = False

    def note(self, now: float, name: str, reason: str = "", endpoint: Endpoint | None = None) -> None:
        """Tells observers of something out of the ordinary."""
        if self.tell:
            exchange, named = self.exchange, endpoint.identity if endpoint is not None else ""
            exchange.notes = (*exchange.notes, Note(now, name, reason, named))

    def leaves_queue(self, now: float) -> bool:
        """Whether its turn has come, or is over: `next` goes on to choose then. Changes nothing."""
        ticket, queue = self._ticket, self.pool.queue
        if ticket is None or ticket.granted:
            return ticket is not None
        return (queue.is_next(ticket) and self.pool.can_go(ticket, now)) or self.gives_up(now)

    def gives_up(self, now: float) -> bool:
        """Whether it waits no longer for the session's server, if it has: for that it has waited long enough."""
        ticket = self._ticket
        return self._unpinned or (ticket is not None and ticket.endpoint is not None and now >= ticket.until)

    def _admit(self, now: float) -> Action:
        """The pool's limit: None when admitted, else what to do instead."""
        pool, ticket = self.pool, self._ticket
        if ticket is not None:
            if not ticket.granted and now >= pool.due:
                pool.tick(now)
            if ticket.granted or pool.grants(ticket, now):
                self._ticket = None
                self.admitted = True
                self.note(now, "left queue")
                return None
            if now < ticket.until:
                return Park(ticket, min(ticket.until, pool.due))
            pool.queue.leave(ticket)
            self._ticket = None
            self._unpinned = ticket.endpoint is not None
            self.note(now, "left queue", "waited for too long")
            return None if self._unpinned else answer(Overloaded("waited in the queue for too long"))
        if pool.has_room():
            pool.in_flight += 1
            self.admitted = True
            return None
        return self._park(now)

    def _park(self, now: float, endpoint: Endpoint | None = None) -> Action:
        """Waits for room: at this endpoint, or at any."""
        pool = self.pool
        until = min(now + pool.limits.queue_timeout, self.exchange.deadline)
        if self._unpinned:
            return answer(Overloaded("waited for the session's server, and the others are full"))
        if pool.queue.waiting >= pool.limits.queue:
            return answer(Overloaded(f"the limit is reached, and {pool.limits.queue or 'none'} may wait"))
        self._ticket = pool.queue.park(Ticket(until, admitted=self.admitted, endpoint=endpoint))
        waits_for = "an endpoint" if self.admitted else "the pool's limit"
        self.note(now, "queued", "waits for the session's server" if endpoint else f"waits for {waits_for}", endpoint)
        return Park(self._ticket, min(until, pool.due))
