"""The queue: first in, first out, and leaving it."""

from __future__ import annotations

import pytest

from router.policy.waiting import Queue, Ticket
from router.testing import make_endpoints


@pytest.fixture
def queue() -> Queue:
    return Queue()


def parked(queue: Queue, count: int) -> list[Ticket]:
    return [queue.park(Ticket(float(i), admitted=False)) for i in range(count)]


def test_first_in_first_out(queue: Queue) -> None:
    tickets = parked(queue, 3)
    assert queue.waiting == 3
    assert queue.first() is tickets[0]
    for ticket in tickets:
        assert queue.first() is ticket
        assert queue.is_next(ticket)
        queue.take(ticket)
    assert all(ticket.granted for ticket in tickets)
    assert queue.waiting == 0
    assert queue.first() is None


def test_one_that_leaves_lets_the_others_keep_their_order(queue: Queue) -> None:
    first, second, third = parked(queue, 3)
    queue.leave(second)
    assert list(queue.tickets) == [first, third]
    assert not second.granted


def test_leaving_after_being_granted_does_nothing(queue: Queue) -> None:
    first, second = parked(queue, 2)
    queue.take(first)
    queue.leave(first)
    assert list(queue.tickets) == [second]


def test_a_ticket_says_until_when_and_whether_it_counts_already() -> None:
    ticket = Ticket(5.0, admitted=True)
    assert (ticket.until, ticket.admitted, ticket.granted, ticket.wake) == (5.0, True, False, None)


def test_each_endpoint_has_a_line_of_its_own(queue: Queue) -> None:
    a, b = make_endpoints(1, 1)
    first, second = parked(queue, 2)
    pinned = [queue.park(Ticket(9.0, admitted=True, endpoint=endpoint)) for endpoint in (a, b, a)]
    assert queue.waiting == 5
    assert list(queue.tickets) == [first, second]
    assert {endpoint: list(line) for endpoint, line in queue.pinned.items()} == {
        a: [pinned[0], pinned[2]],
        b: [pinned[1]],
    }
    assert [ticket.number for ticket in (first, second, *pinned)] == [1, 2, 3, 4, 5]
    assert not queue.is_next(pinned[2])
    queue.leave(pinned[0])
    assert queue.is_next(pinned[2])
    queue.take(pinned[2])
    queue.take(pinned[1])
    assert not queue.pinned
    assert queue.waiting == 2


def test_only_endpoints_whose_state_has_changed_are_looked_at(queue: Queue) -> None:
    a, b, c = make_endpoints(1, 1, 1)
    tickets = [queue.park(Ticket(9.0, admitted=True, endpoint=endpoint)) for endpoint in (a, b)]
    assert list(queue.stirred()) == []
    queue.stir(c)
    queue.stir(a)
    queue.stir(b)
    assert list(queue.stirred()) == tickets
    queue.settle(tickets[0])
    assert list(queue.stirred()) == tickets[1:]
    queue.leave(tickets[1])
    assert list(queue.stirred()) == []
