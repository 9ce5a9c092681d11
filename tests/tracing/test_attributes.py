"""What spans say that is seldom so in a whole router."""

from __future__ import annotations

from typing import Any

from router_tracing.attributes import Recorder

from router import Attempt, Endpoint, EndpointSpec
from router.errors import ResetError
from router.testing import make_exchange


def server_span(**exchange: Any) -> dict[str, Any]:
    asked = make_exchange()
    for name, value in exchange.items():
        setattr(asked, name, value)
    ids = ["2" * 16 for _ in asked.attempts]
    place = ("1" * 32, "1" * 16, "")
    spans = Recorder("redact").spans(asked, asked_error(asked), place, ids, 0.0, 9.0, remote=False, state="", kept="")
    return dict(spans[0].attributes)


def asked_error(exchange: Any) -> Exception | None:
    return ResetError() if exchange.status == 502 else None


def attempt(name: str, number: int, status: int, *, passed_on: bool) -> Attempt:
    made = Attempt(Endpoint(EndpointSpec(f"http://{name}:1", id=name)), number, 1.0 + number, 5.0)
    made.status, made.head_at, made.passed_on = status, 1.5 + number if status else None, passed_on
    return made


def test_the_endpoint_is_the_one_whose_response_was_passed_on() -> None:
    attempts = (attempt("a", 0, 502, passed_on=False), attempt("b", 1, 200, passed_on=True))
    assert server_span(status=200, attempts=attempts)["lb.endpoint"] == "b"


def test_an_own_answer_is_no_endpoints_even_if_one_had_answered_the_same() -> None:
    attempts = (attempt("a", 0, 502, passed_on=False), attempt("b", 1, 0, passed_on=False))
    assert "lb.endpoint" not in server_span(status=502, attempts=attempts)


def test_the_sets_that_spans_share_are_bounded() -> None:
    recorder = Recorder("redact")
    for number in range(5000):
        asked = make_exchange(host=f"h{number}.example:{number}")
        (span,) = recorder.spans(asked, None, ("1" * 32, "1" * 16, ""), [], 0.0, 9.0, remote=False, state="", kept="")
        assert dict(span.attributes)["server.address"] == f"h{number}.example"
        assert span.attributes[: len(span.common)] == span.common
    assert len(recorder._common) <= 2048
