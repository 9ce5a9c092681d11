"""What an attempt's end comes to for its endpoint, beyond what test_dispatch.py shows."""

from __future__ import annotations

import pytest

from router import Attempt
from router.errors import BodyError, ClientGone, ConnectError, ProtocolError, ResetError, RouterError, UpstreamTimeout
from router.policy.outcomes import outcome_of
from router.testing import make_endpoints


def attempt(*, sent_at: float = 10.0, head_at: float | None = None, whole: bool = True, status: int = 0) -> Attempt:
    (endpoint,) = make_endpoints(1)
    return Attempt(endpoint, 0, 10.0, 5.0, sent_at=sent_at, head_at=head_at, whole=whole, status=status)


def test_an_excused_error_says_nothing_about_the_endpoint() -> None:
    error = BodyError("the client did not read")
    error.excused = True
    outcome = outcome_of(attempt(head_at=10.5, status=200), error, 20.0)
    assert (outcome.result, outcome.elapsed, outcome.error) == ("neutral", 0.5, error)


def test_the_time_of_a_clients_upload_is_not_the_endpoints() -> None:
    assert outcome_of(attempt(), ClientGone(), 17.0).elapsed == 7.0
    assert outcome_of(attempt(whole=False), ClientGone(), 17.0).elapsed is None
    early = outcome_of(attempt(whole=False, head_at=12.0), ResetError(), 17.0)
    assert (early.elapsed, early.sent) == (None, True)


@pytest.mark.parametrize(
    ("error", "status", "cause"),
    [
        (ConnectError(), 0, "connect failed"),
        (ConnectError(word="connect refused"), 0, "connect refused"),
        (ResetError(), 0, "reset in head"),
        (ProtocolError(), 0, "garbage in head"),
        (UpstreamTimeout(), 0, "timeout in head"),
        (BodyError(word="truncated"), 200, "truncated in body"),
    ],
)
def test_the_cause_in_a_few_words(error: RouterError, status: int, cause: str) -> None:
    assert outcome_of(attempt(status=status), error, 11.0).cause == cause
