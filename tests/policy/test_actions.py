"""What Dispatch tells its driver can be told apart by type and by value."""

from __future__ import annotations

from router.errors import NothingReady
from router.policy.actions import RELAY, RETRY, Answer, Park, Relay, Retry, Sleep
from router.policy.waiting import Ticket


def test_actions_are_told_apart() -> None:
    ticket = Ticket(3.0, admitted=False)
    error = NothingReady()
    assert Park(ticket, 3.0).ticket is ticket
    assert Sleep(3.0).until == Park(ticket, 3.0).until
    assert Answer(error.status, error) == (503, error)
    assert type(RELAY) is Relay
    assert type(RETRY) is Retry
    assert RELAY.cancel == ()
