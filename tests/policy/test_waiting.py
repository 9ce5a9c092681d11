"""The queue: first in, first out, and leaving it."""

from __future__ import annotations

import pytest

from router.policy.waiting import Queue, Ticket


@pytest.fixture
def queue() -> Queue:
    return Queue()


def parked(queue: Queue, count: int) -> list[Ticket]:
    return [queue.park(Ticket(float(i), admitted=False)) for i in range(count)]


def test_first_in_first_out(queue: Queue) -> None:
    tickets = parked(queue, 3)
    assert queue.waiting == 3
    assert queue.first() is tickets[0]
    assert [queue.pop() for _ in range(3)] == tickets
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
    assert queue.pop() is first
    queue.leave(first)
    assert list(queue.tickets) == [second]


def test_a_ticket_says_until_when_and_whether_it_counts_already() -> None:
    ticket = Ticket(5.0, admitted=True)
    assert (ticket.until, ticket.admitted, ticket.granted, ticket.wake) == (5.0, True, False, None)
