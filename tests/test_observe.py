"""Observers hear everything they asked for; one that raises falls silent, and nobody else notices."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from router import Outcome
from router.observe import Observers
from router.testing import make_attempt, make_endpoints, make_exchange

METHODS = ["request_started", "attempt_started", "attempt_ended", "request_ended", "endpoint_changed", "table_swapped"]


class Recorder:
    """Notes what it hears; raises in one method if told to."""

    def __init__(self, token: Any = "token", fails_in: str = "") -> None:
        self.token = token
        self.fails_in = fails_in
        self.heard: list[tuple[Any, ...]] = []

    def _hear(self, method: str, *arguments: Any) -> None:
        self.heard.append((method, *arguments))
        if method == self.fails_in:
            raise RuntimeError("observer is ill")

    def request_started(self, exchange: Any) -> Any:
        self._hear("request_started", exchange)
        return self.token

    def attempt_started(self, token: Any, exchange: Any, attempt: Any, headers: list[Any]) -> None:
        headers.append((b"traceparent", b"00"))
        self._hear("attempt_started", token, exchange, attempt)

    def attempt_ended(self, token: Any, exchange: Any, attempt: Any, outcome: Any) -> None:
        self._hear("attempt_ended", token, exchange, attempt, outcome)

    def request_ended(self, token: Any, exchange: Any, error: Any) -> None:
        self._hear("request_ended", token, exchange, error)

    def endpoint_changed(self, endpoint: Any, cause: str) -> None:
        self._hear("endpoint_changed", endpoint, cause)

    def table_swapped(self, version: int) -> None:
        self._hear("table_swapped", version)

    @property
    def methods(self) -> list[str]:
        return [method for method, *_ in self.heard]


EXCHANGE = make_exchange()
(ENDPOINT,) = make_endpoints(1)
ATTEMPT = make_attempt(ENDPOINT)
OUTCOME = Outcome("success")


def drive(observers: Observers) -> list[tuple[bytes, bytes]]:
    """One exchange from end to end; returns the request headers that were added."""
    headers = [(b"Host", b"x")]
    tokens = observers.request_started(EXCHANGE)
    if tokens:
        observers.attempt_started(tokens, EXCHANGE, ATTEMPT, headers)
        observers.attempt_ended(tokens, EXCHANGE, ATTEMPT, OUTCOME)
        observers.request_ended(tokens, EXCHANGE, None)
    observers.endpoint_changed(ENDPOINT, "ejected")
    observers.table_swapped(2)
    return headers[1:]


def test_without_observers_nothing_is_enabled() -> None:
    observers = Observers()
    assert not observers.enabled
    assert observers.request_started(EXCHANGE) is None
    assert drive(observers) == []


def test_every_step_is_told_with_the_token() -> None:
    one, two = Recorder(token=1), Recorder(token=2)
    observers = Observers([one, two])
    assert observers.enabled
    assert drive(observers) == [(b"traceparent", b"00")] * 2
    assert one.methods == two.methods == METHODS
    assert two.heard[1] == ("attempt_started", 2, EXCHANGE, ATTEMPT)
    assert two.heard[2] == ("attempt_ended", 2, EXCHANGE, ATTEMPT, OUTCOME)
    assert two.heard[4:] == [("endpoint_changed", ENDPOINT, "ejected"), ("table_swapped", 2)]


def test_no_token_means_not_called_again_for_this_exchange() -> None:
    bored, keen = Recorder(token=None), Recorder(token=0)
    observers = Observers([bored, keen])
    assert observers.request_started(EXCHANGE) == [(keen, 0)]
    drive(observers)
    assert "attempt_started" not in bored.methods
    assert "endpoint_changed" in bored.methods
    assert "request_ended" in keen.methods


@pytest.mark.parametrize("method", METHODS)
def test_one_that_raises_is_muted_and_nobody_else_notices(method: str, caplog: pytest.LogCaptureFixture) -> None:
    ill, well = Recorder(fails_in=method), Recorder()
    observers = Observers([ill, well], ["ill", "well"])
    with caplog.at_level(logging.INFO):
        drive(observers)
        assert drive(observers) == [(b"traceparent", b"00")]
    assert ill.methods == METHODS[: METHODS.index(method) + 1]
    assert well.methods == METHODS * 2
    assert observers.enabled
    assert observers.muted == {"ill": f"{method} raised RuntimeError: observer is ill"}
    (record,) = caplog.records
    assert "ill" in record.getMessage()
    assert record.exc_info is None


def test_the_traceback_is_there_at_debug_level(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        drive(Observers([Recorder(fails_in="table_swapped")]))
    assert [bool(record.exc_info) for record in caplog.records] == [False, True]


def test_when_all_are_muted_nothing_is_enabled() -> None:
    observers = Observers([Recorder(fails_in="request_started")])
    assert observers.request_started(EXCHANGE) is None
    assert not observers.enabled
    assert observers.muted.keys() == {"Recorder"}


def test_one_muted_during_an_exchange_is_not_told_its_end() -> None:
    ill = Recorder(fails_in="endpoint_changed")
    observers = Observers([ill])
    tokens = observers.request_started(EXCHANGE)
    assert tokens is not None
    observers.endpoint_changed(ENDPOINT, "ejected")
    observers.request_ended(tokens, EXCHANGE, None)
    assert ill.methods == ["request_started", "endpoint_changed"]


def test_an_observer_that_fails_twice_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    ill = Recorder(fails_in="request_ended")
    observers = Observers([ill])
    tokens = observers.request_started(EXCHANGE)
    assert tokens is not None
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            observers.request_ended(tokens, EXCHANGE, None)
            observers._mute(ill, "request_ended", RuntimeError())
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    "field", [("name", "value"), (b"name",), b"name", (b"", b"x"), (b"x", b"a\r\nb: c"), (b"x\n", b""), (b"x", b"\0")]
)
def test_what_is_no_header_never_reaches_the_request(field: Any) -> None:
    class Sloppy(Recorder):
        def attempt_started(self, token: Any, exchange: Any, attempt: Any, headers: list[Any]) -> None:
            headers.append(field)

    observers = Observers([Sloppy(), Recorder()])
    assert drive(observers) == [(b"traceparent", b"00")]
    assert list(observers.muted) == ["Sloppy"]


def test_headers_of_others_cannot_be_changed() -> None:
    class Rude(Recorder):
        def attempt_started(self, token: Any, exchange: Any, attempt: Any, headers: list[Any]) -> None:
            headers.clear()

    observers = Observers([Recorder(), Rude()])
    assert drive(observers) == [(b"traceparent", b"00")]
    assert list(observers.muted) == ["Rude"]


def test_two_of_a_kind_have_names_of_their_own() -> None:
    observers = Observers([Recorder(fails_in="table_swapped"), Recorder(fails_in="table_swapped")])
    observers.table_swapped(1)
    assert list(observers.muted) == ["Recorder", "Recorder#2"]


def test_names_must_fit() -> None:
    with pytest.raises(ValueError, match="as many names"):
        Observers([Recorder()], ["a", "b"])
