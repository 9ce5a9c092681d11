"""Observers hear everything they asked for; one that raises falls silent, and nobody else notices."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from router import AtEnd, Foretold, Outcome
from router.errors import ClientGone
from router.observe import Observers, Tokens
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
    tokens, listeners = observers.request_started(EXCHANGE) or (None, None)
    if tokens:
        observers.attempt_started(tokens, EXCHANGE, ATTEMPT, headers)
        observers.attempt_ended(tokens, EXCHANGE, ATTEMPT, OUTCOME)
    if listeners:
        observers.request_ended(listeners, EXCHANGE, None)
    observers.endpoint_changed(ENDPOINT, "ejected")
    observers.table_swapped(2)
    return headers[1:]


def begun(observers: Observers) -> Tokens:
    """The tokens of those who hear of the exchange's end."""
    heard = observers.request_started(EXCHANGE)
    assert heard is not None
    return heard[1]


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
    assert observers.request_started(EXCHANGE) == ([(keen, 0)], [(keen, 0)])
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
    tokens = begun(observers)
    observers.endpoint_changed(ENDPOINT, "ejected")
    observers.request_ended(tokens, EXCHANGE, None)
    assert ill.methods == ["request_started", "endpoint_changed"]


def test_an_observer_that_fails_twice_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    ill = Recorder(fails_in="request_ended")
    observers = Observers([ill])
    tokens = begun(observers)
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


# Those who hear of the end alone


def test_who_wants_the_end_alone_hears_of_nothing_between() -> None:
    late, keen, bored = Recorder(token=AtEnd()), Recorder(token=1), Recorder(token=None)
    observers = Observers([late, bored, keen])
    drive(observers)
    assert late.methods == ["request_started", "request_ended", "endpoint_changed", "table_swapped"]
    assert late.heard[1] == ("request_ended", late.token, EXCHANGE, None)
    assert keen.methods == METHODS
    assert "request_ended" not in bored.methods


def test_with_nobody_else_attempts_are_told_to_nobody() -> None:
    late = Recorder(token=AtEnd())
    assert Observers([late, Recorder(token=None)]).request_started(EXCHANGE) == (None, [(late, late.token)])


class Ends(AtEnd):
    """A token of an observer's own, with what it wants to keep."""


def test_a_token_may_be_made_from_it() -> None:
    late = Recorder(token=Ends())
    assert Observers([late]).request_started(EXCHANGE) == (None, [(late, late.token)])


class Unusual(AtEnd):
    """Of what went well within half a second there is nothing to say."""

    within = 0.5


@pytest.mark.parametrize(
    ("token", "status", "tries", "error", "seconds", "told"),
    [
        (Unusual(), 200, 1, None, 0.5, False),
        (Unusual(), 499, 1, None, 0.5, False),
        (Unusual(), 200, 1, None, 0.75, True),
        (Unusual(), 200, 2, None, 0.0, True),
        (Unusual(), 500, 1, None, 0.0, True),
        (Unusual(), 200, 1, ClientGone(), 0.0, True),
        (AtEnd(), 200, 1, None, 0.0, True),
        ("a token with no such wish", 200, 1, None, 0.0, True),
    ],
)
def test_what_went_well_in_time_need_not_be_told(
    token: Any, status: int, tries: int, error: Exception | None, seconds: float, told: bool
) -> None:
    late, other = Recorder(token=token), Recorder(token=AtEnd())
    observers, exchange = Observers([late, other]), make_exchange()
    (_, listeners) = observers.request_started(exchange) or (None, [])
    exchange.started, exchange.status, exchange.tried = 1000.0, status, (ENDPOINT,) * tries
    observers.request_ended(listeners, exchange, error, 1000.0 + seconds)
    assert ("request_ended" in late.methods) == told
    assert "request_ended" in other.methods


def test_a_token_holds_nothing_and_costs_nothing() -> None:
    assert not hasattr(AtEnd(), "__dict__")


def test_only_one_that_vouches_and_is_alone_foretells() -> None:
    said = Foretold(set(), "0", (b"",), AtEnd())

    def one(foretold: Any = said, *, vouches: bool = True) -> Recorder:
        made = Recorder(AtEnd(), fails_in="request_ended")
        made.foretold, made.whole_lines = foretold, vouches  # type: ignore[attr-defined]
        return made

    alone = one()
    observers = Observers([alone])
    assert (observers.foretold, observers.unasked) == (said, (None, [(alone, said.token)]))
    for others in ([one(), one()], [one(), Recorder()], [one(vouches=False)], [one({"alike": ()})], []):
        none = Observers(others)
        assert (none.foretold, none.unasked) == (None, None)
    drive(observers)
    assert (observers.foretold, observers.unasked) == (None, None), "it is muted"
    observers.replace(Observers([one(said)]))
    assert observers.foretold is said


@pytest.mark.parametrize(
    "said",
    [
        ({object(): 1}, "0", (b"",), None),
        (set(), 0, (b"",), None),
        (set(), "0", b"x", None),
        (set(), "0", ("x",), None),
        (set(), "0", None, None),
        (set(), "0", (b"",), "token"),
    ],
)
def test_what_could_not_be_done_at_a_request_is_refused_at_once(said: Any) -> None:
    with pytest.raises(TypeError, match="Foretold: "):
        Foretold(*said)


def test_one_of_the_end_alone_that_raises_is_muted(caplog: pytest.LogCaptureFixture) -> None:
    ill, well = Recorder(token=AtEnd(), fails_in="request_ended"), Recorder(token=AtEnd())
    observers = Observers([ill, well], ["ill", "well"])
    drive(observers)
    drive(observers)
    assert list(observers.muted) == ["ill"]
    assert well.methods.count("request_ended") == 2
    assert ill.methods.count("request_started") == 1


# Explanations


class Curious(Recorder):
    """Wants to know why, or not."""

    def __init__(self, token: Any, wants: Any) -> None:
        super().__init__(token)
        self.wants = wants
        self.asked: list[Any] = []

    def explain(self, token: Any) -> Any:
        self.asked.append(token)
        if isinstance(self.wants, Exception):
            raise self.wants
        return self.wants


@pytest.mark.parametrize("wants", [True, 1, "yes"])
def test_one_who_wants_to_know_is_enough(wants: Any) -> None:
    not_me, me, last = Curious(0, False), Curious(1, wants), Curious(2, True)
    observers = Observers([Recorder(), not_me, me, last])
    assert observers.explains(begun(observers), EXCHANGE) is True
    assert (not_me.asked, me.asked, last.asked) == ([0], [1], []), "each with its own token, and no more than needed"


@pytest.mark.parametrize("wants", [False, None, 0])
def test_where_nobody_wants_to_know_nothing_is_explained(wants: Any) -> None:
    curious, silent = Curious("token", wants), Recorder()
    observers = Observers([silent, curious])
    assert observers.explains(begun(observers), EXCHANGE) is False
    assert curious.asked == ["token"]
    assert Observers([silent]).explains([(silent, 1)], EXCHANGE) is False


def test_one_who_raises_when_asked_is_muted_and_the_next_is_asked() -> None:
    ill, well = Curious(0, RuntimeError("observer is ill")), Curious(1, True)
    observers = Observers([ill, well], ["ill", "well"])
    tokens = begun(observers)
    assert observers.explains(tokens, EXCHANGE) is True
    assert observers.muted == {"ill": "explain raised RuntimeError: observer is ill"}
    observers.explains(tokens, EXCHANGE)
    assert ill.asked == [0], "a muted one is not asked again"
    observers.request_ended(tokens, EXCHANGE, None)
    assert "request_ended" not in ill.methods


# Lines that an observer adds


class Adds(Recorder):
    """Sets what goes to endpoints, and raises after it if told to."""

    def __init__(self, added: Any = b"", dropped: Any = (), fails_in: str = "", trace_id: Any = "") -> None:
        super().__init__(fails_in=fails_in)
        self.added, self.dropped, self.trace_id = added, dropped, trace_id

    def request_started(self, exchange: Any) -> Any:
        exchange.added += self.added
        exchange.dropped = self.dropped or exchange.dropped
        exchange.trace_id = self.trace_id or exchange.trace_id
        return super().request_started(exchange)


GOOD = b"traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n"
BAD = [
    b"\r\n",
    b"name",
    b"name: value",
    b"name: value\n",
    b"name: value\r",
    b"no colon\r\n",
    b": value\r\n",
    b"a b: value\r\n",
    b"name : value\r\n",
    b" name: value\r\n",
    b"name: \0\r\n",
    b"name: a\x7f\r\n",
    b"name: a\nX-Forwarded-For: 192.0.2.9\r\n",
    b"name: a\rX-Forwarded-For: 192.0.2.9\r\n",
    b"name: value\r\n\r\n",
    b"name: value\r\n\r\nGET / HTTP/1.1\r\n",
    b"name: value\r\n folded\r\n",
    b"name: value\r\nother",
]


@pytest.mark.parametrize(
    "added",
    [
        GOOD,
        GOOD + b"tracestate: a=1,b=2\r\n",
        b"b3: 0\r\n" * 3,
        b"name: caf\xe9\t(!)\r\n",
        b"n: \r\n",
        b"n: " + b"v" * 9000 + b"\r\n",
    ],
)
def test_whole_lines_stand(added: bytes) -> None:
    observers, exchange = Observers([Adds(added)]), make_exchange()
    assert observers.request_started(exchange) is not None
    assert (exchange.added, observers.muted) == (added, {})


@pytest.mark.parametrize("added", BAD)
def test_what_is_no_line_is_taken_back_and_its_author_muted(added: bytes) -> None:
    well = Recorder()
    observers, exchange = Observers([Adds(added), well]), make_exchange()
    heard = observers.request_started(exchange)
    assert exchange.added == b""
    assert list(observers.muted) == ["Adds"]
    assert heard == ([(well, "token")], [(well, "token")])


@pytest.mark.parametrize("added", BAD)
def test_the_lines_of_others_stay(added: bytes) -> None:
    observers, exchange = (
        Observers([Adds(GOOD, (b"tracestate",)), Adds(added, (b"b3",))], ["good", "bad"]),
        make_exchange(),
    )
    observers.request_started(exchange)
    assert (exchange.added, exchange.dropped) == (GOOD, (b"tracestate",))
    assert list(observers.muted) == ["bad"]


def test_what_one_has_set_before_it_raised_is_taken_back() -> None:
    for added in (GOOD, b"garbage"):
        observers, exchange = Observers([Adds(added, (b"b3",), "request_started")]), make_exchange()
        assert observers.request_started(exchange) is None
        assert (exchange.added, exchange.dropped) == (b"", ())


class Types(Recorder):
    """Sets one field of an exchange to what it is not."""

    def __init__(self, field: str, value: Any) -> None:
        super().__init__()
        self.field, self.value = field, value

    def request_started(self, exchange: Any) -> Any:
        setattr(exchange, self.field, self.value)
        return 1


@pytest.mark.parametrize("value", ["traceparent: 00\r\n", None, 7, [GOOD]])
def test_lines_of_another_type_never_reach_the_request(value: Any) -> None:
    observers, exchange = Observers([Types("added", value)]), make_exchange()
    observers.request_started(exchange)
    assert exchange.added == b""
    assert list(observers.muted) == ["Types"]


@pytest.mark.parametrize("value", ["traceparent", b"traceparent", [b"traceparent"], ("traceparent",), (None,), None, 7])
def test_names_of_another_type_never_reach_the_request(value: Any) -> None:
    observers, exchange = Observers([Types("dropped", value)]), make_exchange()
    observers.request_started(exchange)
    assert exchange.dropped == ()
    assert list(observers.muted) == ["Types"]


@pytest.mark.parametrize("value", [b"0af7651916cd43dd8448eb211c80319c", 7, None])
def test_a_trace_id_of_another_type_never_reaches_the_log(value: Any) -> None:
    observers, exchange = Observers([Types("trace_id", value)]), make_exchange()
    observers.request_started(exchange)
    assert exchange.trace_id == ""
    assert list(observers.muted) == ["Types"]


# Reloads


def test_a_reload_takes_the_new_ones_and_the_old_ones_hear_the_end() -> None:
    old, late, new = Recorder(1), Recorder(AtEnd()), Recorder(2)
    observers = Observers([old, late], ["old", "late"])
    heard = observers.request_started(EXCHANGE)
    assert heard == ([(old, 1)], [(old, 1), (late, late.token)])
    observers.replace(Observers([new], ["new"]))
    observers.request_ended(heard[1], EXCHANGE, None)
    observers.table_swapped(2)
    assert old.methods == late.methods == ["request_started", "request_ended"]
    assert new.methods == ["table_swapped"]
    observers.replace(Observers())
    assert not observers.enabled


def test_one_that_has_gone_and_raises_is_said_once_and_heard_no_more(caplog: pytest.LogCaptureFixture) -> None:
    ill = Curious(1, RuntimeError("observer is ill"))
    observers = Observers([ill])
    tokens = begun(observers)
    observers.replace(Observers([Recorder(2)]))
    for _ in range(2):
        assert observers.explains(tokens, EXCHANGE) is False
    observers.request_ended(tokens, EXCHANGE, None)
    assert (ill.asked, ill.methods, observers.muted) == ([1], ["request_started"], {})
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == [
        "an observer that is no longer configured is muted"
    ]


def test_one_that_is_muted_stays_so_over_a_reload() -> None:
    ill, well = Recorder(fails_in="table_swapped"), Recorder()
    observers = Observers([ill, well], ["ill", "well"])
    observers.table_swapped(1)
    observers.replace(Observers([well, ill], ["well", "ill"]))
    observers.table_swapped(2)
    assert (list(observers.muted), ill.methods) == (["ill"], ["table_swapped"])
    observers.replace(Observers([well], ["well"]))
    assert observers.muted == {}


class Vouches(Adds):
    """Says that its lines need not be looked through."""

    whole_lines = True


@pytest.mark.parametrize("others", [0, 1])
def test_lines_that_an_observer_vouches_for_are_not_looked_through(others: int) -> None:
    observers, exchange = Observers([Vouches(b"no line"), *[Recorder() for _ in range(others)]]), make_exchange()
    assert observers.request_started(exchange) is not None
    assert (exchange.added, observers.muted) == (b"no line", {})


def test_the_only_one_is_muted_too_and_what_it_has_set_is_taken_back() -> None:
    class Fails(Vouches):
        def request_started(self, exchange: Any) -> Any:
            super().request_started(exchange)
            exchange.trace_id, exchange.dropped = "1", (b"a",)
            raise ValueError

    observers, exchange = Observers([Fails(b"a: b\r\n")]), make_exchange()
    assert observers.request_started(exchange) is None
    assert (exchange.added, exchange.dropped, exchange.trace_id) == (b"", (), "")
    assert (list(observers.muted), observers.enabled) == (["Fails"], False)
