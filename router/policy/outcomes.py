"""How an attempt's end is told: to the client as an answer, to health as an outcome."""

from __future__ import annotations

from router.errors import RouterError, UpstreamError
from router.model import Attempt, Outcome
from router.policy.actions import Answer

__all__ = ["StatusError", "answer", "outcome_of"]


class StatusError(UpstreamError):
    """A whole response whose status `retry.on` names."""

    reason = "status"


def answer(error: RouterError) -> Answer:
    """The action that gives up with this error."""
    return Answer(error.status, error)


def outcome_of(attempt: Attempt, error: RouterError, now: float) -> Outcome:
    """What an attempt came to that ended with an error."""
    head_at = attempt.head_at
    elapsed = None if head_at is None else head_at - attempt.sent_at
    if not attempt.whole:
        # The time that the client took to send its request is none of the endpoint's.
        elapsed = None
    if isinstance(error, UpstreamError) and not error.excused:
        return Outcome(
            "failure",
            phase=error.phase,
            sent=error.sent or head_at is not None,
            elapsed=elapsed,
            status=attempt.status,
            error=error,
        )
    # A client that leaves says nothing about the endpoint, but how long it was waited for is a sample of latency.
    waited = now - attempt.sent_at if head_at is None and attempt.sent_at and attempt.whole else elapsed
    return Outcome("neutral", sent=attempt.sent_at > 0, elapsed=waited, status=attempt.status, error=error)
