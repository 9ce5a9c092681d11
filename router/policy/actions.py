"""What Dispatch tells its driver to do. Plain values."""

from __future__ import annotations

from typing import NamedTuple

from router.errors import RouterError
from router.model import Attempt
from router.policy.waiting import Ticket

__all__ = ["RELAY", "RETRY", "Action", "Answer", "Park", "Relay", "Retry", "Sleep"]


class Park(NamedTuple):
    """Wait until the ticket is woken or the time has come, then ask `next`."""

    ticket: Ticket
    until: float


class Sleep(NamedTuple):
    """Wait until then, then ask `next`."""

    until: float


class Answer(NamedTuple):
    """Give up: answer this."""

    status: int
    error: RouterError


class Relay(NamedTuple):
    """Pass this response on, and end the attempts that it has beaten."""

    cancel: tuple[Attempt, ...] = ()


class Retry(NamedTuple):
    """Let this response go, end the attempt, and ask `next`."""


RELAY = Relay()
RETRY = Retry()
#: None: nothing to do but wait for the attempts under way.
Action = Attempt | Park | Sleep | Answer | None
