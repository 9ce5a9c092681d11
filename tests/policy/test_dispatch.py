"""The proxy loop without I/O: one exchange after another, step by step, by hand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from router import Attempt, Eject, Endpoint, EndpointSpec, Exchange
from router.errors import (
    BodyError,
    ClientGone,
    ConnectError,
    InternalError,
    NothingReady,
    Overloaded,
    ProtocolError,
    ResetError,
    RouterError,
    UpstreamTimeout,
)
from router.policy.actions import RELAY, RETRY, Answer, Park, Relay, Sleep
from router.policy.dispatch import Dispatch
from router.policy.health import EjectionRule
from router.policy.limits import Limits, Timeouts
from router.policy.pool import Pool
from router.policy.retry import Budget, RetryRule
from router.testing import make_exchange

Build = Callable[..., Pool]


def start(pool: Pool, method: str = "GET", deadline: float = float("inf"), **kwargs: Any) -> Dispatch:
    exchange = make_exchange(method)
    exchange.deadline = deadline
    return Dispatch(pool, exchange, **kwargs)


def sent(dispatch: Dispatch, now: float) -> Attempt:
    """Asks for an attempt and sends it."""
    attempt = dispatch.next(now)
    assert isinstance(attempt, Attempt)
    attempt.sent_at = now
    return attempt


def answered(dispatch: Dispatch, now: float) -> RouterError:
    action = dispatch.next(now)
    assert isinstance(action, Answer)
    assert action.status == action.error.status
    return action.error


def idle(pool: Pool) -> bool:
    return pool.in_flight == 0 and not pool.queue.waiting and not any(e.load for e in pool.members.values())


def wake(pool: Pool, now: float) -> list[Any]:
    woken = []
    while (ticket := pool.grant(now)) is not None:
        woken.append(ticket)
    return woken


# The usual way


def test_one_attempt_from_lease_to_end(build: Build, now: float, scripted: Any) -> None:
    pool = build(2, detectors=[scripted])
    dispatch = start(pool)
    attempt = sent(dispatch, now)
    endpoint = attempt.endpoint
    assert (attempt.number, attempt.started, attempt.timeout, attempt.hedge_after) == (0, now, 30.0, None)
    assert (endpoint.load, pool.in_flight, dispatch.live) == (1, 1, [attempt])
    assert dispatch.exchange.tried == (endpoint,)
    assert dispatch.next(now) is None, "nothing to do but wait"
    assert dispatch.head(attempt, 200, now + 0.5) is RELAY
    assert dispatch.exchange.status == 200
    assert endpoint.load == 1, "a request counts until its body ends"
    dispatch.ended(attempt, None, now + 2)
    assert (endpoint.load, attempt.open) == (0, False)
    outcome = attempt.final
    assert (outcome.result, outcome.elapsed, outcome.status, outcome.sent) == ("success", 0.5, 200, True)
    assert scripted.observed == [(endpoint, outcome)]
    dispatch.close(now + 2)
    assert idle(pool)


def test_a_second_end_and_a_second_close_do_nothing(build: Build, now: float, scripted: Any) -> None:
    pool = build(1, detectors=[scripted])
    other, dispatch = start(pool), start(pool)
    kept = sent(other, now)
    attempt = sent(dispatch, now)
    for _ in range(2):
        dispatch.ended(attempt, None, now)
        dispatch.ended(attempt, ResetError(), now)
    for _ in range(2):
        dispatch.close(now)
    assert (kept.endpoint.load, pool.in_flight, len(scripted.observed)) == (1, 1, 1)
    assert attempt.final.result == "success"


def test_an_exchange_closed_before_it_began_leaves_nothing(build: Build, now: float) -> None:
    pool = build(1)
    start(pool).close(now)
    assert idle(pool)


def test_an_attempts_outcome_is_there_for_all_who_ask(build: Build, now: float, scripted: Any) -> None:
    def final(pool: Pool, error: RouterError | None = None, **kwargs: Any) -> object:
        dispatch = start(pool, **kwargs)
        attempt = sent(dispatch, now)
        dispatch.head(attempt, 200, now)
        assert attempt.final is None
        dispatch.ended(attempt, error, now)
        assert attempt.final is not None
        return attempt.final.result, attempt.final.status

    for pool in (build(1), build(1, detectors=[scripted])):
        for tell in (False, True):
            assert final(pool, tell=tell) == ("success", 200)
            assert final(pool, ClientGone(), tell=tell) == ("neutral", 200)


def test_the_attempts_time_is_bounded_by_deadline_and_settings(build: Build, now: float) -> None:
    pool = build(1, timeouts=Timeouts(head=10))
    assert sent(start(pool), now).timeout == 10
    assert sent(start(pool, deadline=now + 4), now).timeout == pytest.approx(4)
    pool = build(1, timeouts=Timeouts(head=10), retry=RetryRule(attempt_timeout=3))
    assert sent(start(pool, deadline=now + 4), now).timeout == 3


@pytest.mark.parametrize("late", [0, 5])
def test_an_exchange_that_comes_too_late_is_not_begun(build: Build, now: float, late: float) -> None:
    """A filter may have taken all the time there was."""
    pool = build(1)
    dispatch = start(pool, deadline=now - late)
    assert isinstance(answered(dispatch, now), UpstreamTimeout)
    dispatch.close(now)
    assert idle(pool)


# Failures and retries


def test_a_refused_connection_is_tried_elsewhere_at_once(build: Build, now: float) -> None:
    pool = build(3)
    dispatch = start(pool, "POST")
    tried = []
    for _ in range(3):
        attempt = sent(dispatch, now)
        tried.append(attempt.endpoint)
        dispatch.failed(attempt, ConnectError(), False, now)
    assert len(set(tried)) == 3
    assert dispatch.exchange.tried == tuple(tried)
    error = answered(dispatch, now)
    assert (type(error), error.status) == (ConnectError, 503)
    dispatch.close(now)
    assert idle(pool)


@pytest.mark.parametrize(
    ("error", "status"), [(ResetError, 502), (ProtocolError, 502), (UpstreamTimeout, 504), (ConnectError, 503)]
)
@pytest.mark.parametrize("method", ["GET", "PUT"])
def test_idempotent_requests_are_tried_up_to_three_times(
    build: Build, now: float, error: type[RouterError], status: int, method: str
) -> None:
    pool = build(5)
    dispatch = start(pool, method)
    for number in range(3):
        attempt = sent(dispatch, now)
        assert attempt.number == number
        dispatch.failed(attempt, error(), error is not ConnectError, now)
    assert answered(dispatch, now).status == status
    assert len(dispatch.exchange.tried) == 3


@pytest.mark.parametrize("method", ["POST", "PATCH", "X"])
def test_what_was_sent_is_never_sent_twice(build: Build, now: float, method: str) -> None:
    dispatch = start(build(3), method)
    dispatch.failed(sent(dispatch, now), ResetError(), True, now)
    assert answered(dispatch, now).status == 502


def test_a_body_that_is_gone_is_not_sent_again(build: Build, now: float) -> None:
    dispatch = start(build(3), "PUT")
    attempt = sent(dispatch, now)
    dispatch.body_taken(replayable=True)
    dispatch.failed(attempt, ResetError(), True, now)
    attempt = sent(dispatch, now)
    dispatch.body_taken(replayable=False)
    dispatch.failed(attempt, ResetError(), True, now)
    assert answered(dispatch, now).status == 502


@pytest.mark.parametrize(
    ("on", "error", "again"),
    [
        (("connect",), ConnectError, True),
        (("connect",), ResetError, False),
        (("reset",), ResetError, True),
        (("reset",), ProtocolError, True),
        (("reset",), UpstreamTimeout, False),
        (("timeout",), UpstreamTimeout, True),
        ((), ResetError, False),
        # Nothing of it was sent, so nothing can have come of it.
        ((), ConnectError, True),
    ],
)
def test_only_what_retry_on_names_is_retried(
    build: Build, now: float, on: tuple[str, ...], error: type[RouterError], again: bool
) -> None:
    dispatch = start(build(3, retry=RetryRule(on=on)))
    dispatch.failed(sent(dispatch, now), error(), error is not ConnectError, now)
    assert isinstance(dispatch.next(now), Attempt if again else Answer)


@pytest.mark.parametrize(("sent_some", "again"), [(False, True), (True, False)])
def test_what_was_never_sent_goes_on_whatever_the_reason(
    build: Build, now: float, sent_some: bool, again: bool
) -> None:
    dispatch = start(build(3, retry=RetryRule(on=("reset",))), "POST")
    dispatch.failed(sent(dispatch, now), UpstreamTimeout(), sent_some, now)
    assert isinstance(dispatch.next(now), Attempt if again else Answer)


def test_no_retries_at_all(build: Build, now: float) -> None:
    dispatch = start(build(3, retry=RetryRule(attempts=0)))
    dispatch.failed(sent(dispatch, now), ConnectError(), False, now)
    assert answered(dispatch, now).status == 503


def test_a_fault_that_is_not_the_endpoints_is_not_retried(build: Build, now: float) -> None:
    dispatch = start(build(3))
    dispatch.failed(sent(dispatch, now), InternalError(), False, now)
    assert answered(dispatch, now).status == 500


def test_the_gravest_failure_is_what_the_client_is_told(build: Build, now: float) -> None:
    dispatch = start(build(3))
    for error in (ConnectError(), UpstreamTimeout(), ConnectError()):
        dispatch.failed(sent(dispatch, now), error, error.phase != "connect", now)
    assert answered(dispatch, now).status == 504


def test_near_the_deadline_nothing_is_tried_again(build: Build, now: float) -> None:
    dispatch = start(build(3), deadline=now + 1)
    dispatch.failed(sent(dispatch, now), ResetError(), True, now + 0.999)
    assert answered(dispatch, now + 0.999).status == 502


def test_an_empty_budget_stops_what_was_sent_but_not_what_was_not(build: Build, now: float) -> None:
    pool = build(3, budget=Budget(share=0, reserve=1))
    first = start(pool)
    first.failed(sent(first, now), ResetError(), True, now)
    first.failed(sent(first, now), ResetError(), True, now)
    assert answered(first, now).status == 502
    second = start(pool)
    second.failed(sent(second, now), ConnectError(), False, now)
    assert isinstance(second.next(now), Attempt)


def test_a_retry_takes_one_token_and_a_refused_connection_none(build: Build, now: float) -> None:
    pool = build(3, budget=Budget(share=0, reserve=5))
    dispatch = start(pool)
    dispatch.failed(sent(dispatch, now), ConnectError(), False, now)
    dispatch.failed(sent(dispatch, now), ResetError(), True, now)
    assert pool.budget.balance(now) == 5
    sent(dispatch, now)
    assert pool.budget.balance(now) == 4


def test_each_request_deposits_once(build: Build, now: float) -> None:
    pool = build(3, budget=Budget(share=0.5, reserve=0))
    dispatch = start(pool)
    for _ in range(3):
        dispatch.next(now)
    assert pool.budget.balance(now) == 0.5


def test_before_an_endpoint_is_tried_again_there_is_one_wait(build: Build, now: float) -> None:
    pool = build(1, retry=RetryRule(attempts=3))
    dispatch = start(pool)
    waits = []
    for number in range(4):
        attempt = sent(dispatch, now)
        assert attempt.number == number
        dispatch.failed(attempt, ConnectError(), False, now)
        if number < 3:
            action = dispatch.next(now)
            assert isinstance(action, Sleep)
            waits.append(action.until - now)
            now = action.until
    assert all(0 <= wait <= most for wait, most in zip(waits, (0.025, 0.05, 0.1), strict=True))
    assert isinstance(dispatch.next(now), Answer)


@pytest.mark.parametrize("endpoints", [1, 2, 3])
def test_the_wait_comes_once_however_many_were_tried_at_once(build: Build, now: float, endpoints: int) -> None:
    dispatch = start(build(endpoints, retry=RetryRule(attempts=5)))
    for _ in range(endpoints):
        dispatch.failed(sent(dispatch, now), ConnectError(), False, now)
    action = dispatch.next(now)
    assert isinstance(action, Sleep)
    assert 0 <= action.until - now <= 0.025, "the first wait of this exchange"
    assert isinstance(dispatch.next(action.until), Attempt)


def test_an_endpoint_that_went_meanwhile_leaves_the_failure_to_be_told(build: Build, now: float) -> None:
    pool = build(2)
    dispatch = start(pool)
    dispatch.failed(sent(dispatch, now), ResetError(), True, now)
    pool.update([], now)
    assert answered(dispatch, now).status == 502


def test_nothing_ready(build: Build, now: float) -> None:
    dispatch = start(build(0))
    assert isinstance(answered(dispatch, now), NothingReady)


# Outcomes


def test_what_each_end_comes_to(build: Build, now: float) -> None:
    def final(end: Callable[[Dispatch, Attempt], object]) -> tuple:
        dispatch = start(build(2), tell=True)
        attempt = sent(dispatch, now)
        end(dispatch, attempt)
        outcome = attempt.final
        return outcome.result, outcome.phase, outcome.sent, outcome.elapsed, outcome.status

    def headed(status: int, error: RouterError | None) -> Callable[[Dispatch, Attempt], object]:
        def end(dispatch: Dispatch, attempt: Attempt) -> None:
            assert dispatch.head(attempt, status, now + 1) is RELAY
            dispatch.ended(attempt, error, now + 3)

        return end

    assert final(lambda d, a: d.failed(a, ConnectError(), False, now)) == ("failure", "connect", False, None, 0)
    assert final(lambda d, a: d.failed(a, ResetError(), True, now)) == ("failure", "head", True, None, 0)
    assert final(lambda d, a: d.failed(a, ProtocolError(), True, now)) == ("failure", "head", True, None, 0)
    assert final(headed(200, None)) == ("success", "", True, 1, 200)
    assert final(headed(404, None)) == ("success", "", True, 1, 404)
    assert final(headed(501, None)) == ("success", "", True, 1, 501)
    for status in (500, 502, 503, 504):
        assert final(headed(status, None)) == ("failure", "head", True, 1, status)
        assert final(headed(status, ClientGone())) == ("failure", "head", True, 1, status), "final at the head"
    assert final(headed(200, ClientGone())) == ("neutral", "", True, 1, 200)
    assert final(lambda d, a: d.close(now + 2)) == ("neutral", "", True, 2, 0)


def test_a_response_that_breaks_off_is_a_failure_in_the_body_of_what_was_sent(build: Build, now: float) -> None:
    dispatch = start(build(2), tell=True)
    attempt = sent(dispatch, now)
    dispatch.head(attempt, 200, now + 1)
    dispatch.ended(attempt, BodyError(), now + 2)
    assert (attempt.final.result, attempt.final.phase, attempt.final.elapsed) == ("failure", "body", 1)
    assert attempt.final.sent, "its head was here, so the request was sent"


def test_switching_protocols_is_a_success_at_the_head_whatever_ends_the_tunnel(build: Build, now: float) -> None:
    for error in (None, ClientGone(), BodyError(), ResetError()):
        dispatch = start(build(2), tell=True)
        attempt = sent(dispatch, now)
        assert dispatch.head(attempt, 101, now + 1) is RELAY
        dispatch.ended(attempt, error, now + 1000)
        assert (attempt.final.result, attempt.final.elapsed) == ("success", 1)


def test_a_client_that_leaves_before_anything_was_sent_is_no_sample(build: Build, now: float) -> None:
    dispatch = start(build(2), tell=True)
    attempt = dispatch.next(now)
    dispatch.close(now + 2)
    assert (attempt.final.result, attempt.final.elapsed, attempt.final.sent) == ("neutral", None, False)


# Statuses that retry.on names


def test_a_named_status_is_tried_elsewhere(build: Build, now: float, scripted: Any) -> None:
    pool = build(2, retry=RetryRule(on=("503",)), detectors=[scripted])
    dispatch = start(pool)
    first = sent(dispatch, now)
    assert dispatch.head(first, 503, now) is RETRY
    dispatch.ended(first, None, now)
    assert scripted.observed[0][1].result == "failure"
    second = sent(dispatch, now)
    assert second.endpoint is not first.endpoint
    assert dispatch.head(second, 503, now) is RELAY, "nobody is left to ask: the client gets what there is"
    dispatch.ended(second, None, now)
    dispatch.close(now)
    assert idle(pool)
    assert pool.budget.balance(now) == pytest.approx(10.2 - 1)


@pytest.mark.parametrize(
    ("on", "status", "again"),
    [
        (("5xx",), 500, True),
        (("5xx",), 599, True),
        (("500",), 500, True),
        (("500",), 503, False),
        (("connect", "reset", "timeout"), 503, False),
        (("5xx",), 404, False),
    ],
)
def test_only_named_statuses_are(build: Build, now: float, on: tuple[str, ...], status: int, again: bool) -> None:
    dispatch = start(build(2, retry=RetryRule(on=on)))
    assert dispatch.head(sent(dispatch, now), status, now) is (RETRY if again else RELAY)


def test_a_named_status_of_a_post_is_passed_on(build: Build, now: float) -> None:
    pool = build(2, retry=RetryRule(on=("5xx",)))
    dispatch = start(pool, "POST", tell=True)
    attempt = sent(dispatch, now)
    assert dispatch.head(attempt, 500, now) is RELAY
    dispatch.ended(attempt, None, now)
    assert attempt.final.result == "failure"


def test_a_named_status_is_passed_on_once_tries_or_endpoints_are_used_up(build: Build, now: float) -> None:
    dispatch = start(build(3, retry=RetryRule(attempts=1, on=("5xx",))))
    first = sent(dispatch, now)
    assert dispatch.head(first, 500, now) is RETRY
    dispatch.ended(first, None, now)
    assert dispatch.head(sent(dispatch, now), 500, now) is RELAY
    pool = build(1, retry=RetryRule(on=("5xx",)))
    alone = start(pool)
    attempt = sent(alone, now)
    assert alone.head(attempt, 500, now) is RELAY
    gone = start(pool)
    attempt = sent(gone, now)
    pool.update([], now)
    assert gone.head(attempt, 500, now) is RELAY


def test_after_a_named_status_the_budget_may_be_gone(build: Build, now: float) -> None:
    pool = build(2, retry=RetryRule(on=("5xx",)), budget=Budget(0, 1))
    dispatch = start(pool)
    attempt = sent(dispatch, now)
    assert dispatch.head(attempt, 500, now) is RETRY
    dispatch.ended(attempt, None, now)
    pool.budget.withdraw(now)
    assert answered(dispatch, now).status == 502


# The selector


class Broken:
    def __init__(self, result: Any) -> None:
        self.result = result

    def choose(self, candidates: Any, exchange: Exchange) -> Any:
        if isinstance(self.result, Exception):
            raise self.result
        return self.result


STRANGER = Endpoint(EndpointSpec(url="http://stranger.test"), "web")


@pytest.mark.parametrize("result", [RuntimeError("boom"), None, STRANGER, "a"])
def test_a_selector_that_fails_is_worked_around_evenly(build: Build, now: float, result: Any) -> None:
    pool, muted = build(3, Broken(result)), []
    pool.muted = lambda plugin, error: muted.append(plugin)
    chosen = Counter()
    for _ in range(3000):
        dispatch = start(pool)
        chosen[sent(dispatch, now).endpoint.identity] += 1
        dispatch.close(now)
    assert all(count / 3000 == pytest.approx(1 / 3, abs=0.05) for count in chosen.values())
    assert len(chosen) == 3
    assert muted == [pool.selector] * 3000


def test_a_selector_may_not_return_what_was_tried(build: Build, now: float) -> None:
    pool = build(2)
    muted = []
    pool.muted = lambda plugin, error: muted.append(error)
    dispatch = start(pool)
    first = sent(dispatch, now)
    pool.selector = Broken(first.endpoint)
    dispatch.failed(first, ConnectError(), False, now)
    assert sent(dispatch, now).endpoint is not first.endpoint
    assert len(muted) == 1


# Affinity


def test_the_pinned_endpoint_is_taken(build: Build, now: float, scripted: Any) -> None:
    pool = build(3, affinity=scripted)
    scripted.pin = pool.members["c"]
    for _ in range(3):
        dispatch = start(pool)
        assert sent(dispatch, now).endpoint is scripted.pin
        assert dispatch.exchange.pinned is scripted.pin
    scripted.pin = None
    assert {sent(start(pool), now).endpoint.identity for _ in range(6)} == {"a", "b", "c"}


def test_a_draining_endpoint_keeps_its_sessions(build: Build, now: float, scripted: Any) -> None:
    pool = build(2, affinity=scripted, on_unready="refuse")
    scripted.pin = pool.members["a"]
    pool.operate(scripted.pin, "drain", now)
    assert sent(start(pool), now).endpoint is scripted.pin


@pytest.mark.parametrize("way", ["ejected", "removed"])
def test_a_dead_pin_is_reselected_or_refused(build: Build, now: float, scripted: Any, way: str) -> None:
    for on_unready in ("reselect", "refuse"):
        pool = build(3, affinity=scripted, on_unready=on_unready)
        scripted.pin = pool.members["a"]
        if way == "removed":
            pool.update([pool.members[name].spec for name in "bc"], now)
        else:
            pool.members["a"].health.ejection.eject(now, "x")
            pool.place(pool.members["a"], now)
        dispatch = start(pool)
        if on_unready == "refuse":
            assert isinstance(answered(dispatch, now), NothingReady)
        else:
            assert sent(dispatch, now).endpoint.identity in "bc"


def test_a_retry_does_not_hit_the_dead_pin_again(build: Build, now: float, scripted: Any) -> None:
    pool = build(3, affinity=scripted)
    scripted.pin = pool.members["a"]
    dispatch = start(pool)
    first = sent(dispatch, now)
    dispatch.failed(first, ConnectError(), False, now)
    assert sent(dispatch, now).endpoint is not first.endpoint
    assert scripted.found == 1


def test_an_ejections_end_is_noted_before_a_pin_is_followed(build: Build, now: float, scripted: Any) -> None:
    """Where all requests are pinned, nobody else looks at the time: probation is one at a time for them too."""
    pool = build(2, affinity=scripted, detectors=[scripted], ejection=EjectionRule(base=30))
    a, b = pool.members.values()
    scripted.eject(pool, a, now)
    scripted.pin = a
    assert [sent(start(pool), now + 30).endpoint for _ in range(3)] == [a, b, b]
    assert a.health.ejection.probation


def test_where_nobody_may_wait_a_full_pin_is_passed_by(build: Build, now: float, scripted: Any) -> None:
    pool = build(2, affinity=scripted, limits=Limits(per_endpoint=1))
    scripted.pin = pool.members["a"]
    assert sent(start(pool), now).endpoint.identity == "a"
    assert sent(start(pool), now).endpoint.identity == "b"


def test_a_session_waits_for_its_full_server(build: Build, now: float, scripted: Any) -> None:
    pool = build(2, affinity=scripted, limits=Limits(per_endpoint=1, queue=2))
    scripted.pin = pool.members["a"]
    busy = start(pool)
    under_way = sent(busy, now)
    waiting = [start(pool) for _ in range(2)]
    parked = [dispatch.next(now) for dispatch in waiting]
    assert [action.ticket.endpoint for action in parked] == [scripted.pin] * 2
    assert wake(pool, now) == []
    # The others are not held up by them.
    scripted.pin = None
    other = start(pool)
    assert sent(other, now).endpoint.identity == "b"
    busy.ended(under_way, None, now)
    assert pool.grant(now) is parked[0].ticket
    assert sent(waiting[0], now).endpoint.identity == "a"
    assert wake(pool, now) == []
    assert waiting[1].next(now + 0.5) == parked[1]


def test_a_session_that_has_waited_long_enough_goes_elsewhere(build: Build, now: float, scripted: Any) -> None:
    pool = build(3, affinity=scripted, limits=Limits(per_endpoint=1, queue=2))
    scripted.pin = pool.members["a"]
    sent(start(pool), now)
    waiting = [start(pool) for _ in range(2)]
    assert all(isinstance(dispatch.next(now), Park) for dispatch in waiting)
    # The queue is full: who comes now goes elsewhere at once.
    elsewhere = [sent(start(pool), now), sent(waiting[0], now + 1)]
    assert {attempt.endpoint.identity for attempt in elsewhere} == {"b", "c"}
    assert isinstance(answered(waiting[1], now + 1), Overloaded), "it has waited once"
    assert pool.queue.waiting == 0


def test_a_session_that_must_not_move_is_refused_in_the_end(build: Build, now: float, scripted: Any) -> None:
    pool = build(2, affinity=scripted, on_unready="refuse", limits=Limits(per_endpoint=1, queue=1))
    scripted.pin = pool.members["a"]
    sent(start(pool), now)
    waiting = start(pool)
    assert isinstance(waiting.next(now), Park)
    assert isinstance(answered(start(pool), now), Overloaded)
    assert isinstance(answered(waiting, now + 1), Overloaded)


@pytest.mark.parametrize("way", ["out", "removed"])
def test_nobody_waits_for_a_server_that_is_down(build: Build, now: float, scripted: Any, way: str) -> None:
    pool = build(2, affinity=scripted, detectors=[scripted], limits=Limits(per_endpoint=1, queue=1))
    a = scripted.pin = pool.members["a"]
    sent(start(pool), now)
    waiting = start(pool)
    action = waiting.next(now)
    assert isinstance(action, Park)
    if way == "out":
        scripted.eject(pool, a, now)
    else:
        pool.update([pool.members["b"].spec], now)
    assert wake(pool, now) == [action.ticket]
    assert sent(waiting, now).endpoint.identity == "b"


def test_who_has_waited_longest_gets_the_place(build: Build, now: float, scripted: Any) -> None:
    """Those that wait for any server and those that wait for one are served in the order in which they came."""
    pool = build(1, affinity=scripted, limits=Limits(per_endpoint=1, queue=3))
    a = pool.members["a"]
    scripted.pin = a
    busy = start(pool)
    under_way = sent(busy, now)
    parked = []
    for pin in (a, None, a):
        scripted.pin = pin
        dispatch = start(pool)
        parked.append((dispatch, dispatch.next(now)))
    for dispatch, action in parked:
        busy.ended(under_way, None, now)
        assert pool.grant(now) is action.ticket
        busy, under_way = dispatch, sent(dispatch, now)


@pytest.mark.parametrize("freed", [("a", "b"), ("b", "a")])
def test_whichever_place_is_free_first(build: Build, now: float, scripted: Any, freed: tuple[str, str]) -> None:
    pool = build(2, affinity=scripted, limits=Limits(per_endpoint=1, queue=2))
    parked = []
    for name in ("a", "b"):
        scripted.pin = pool.members[name]
        pool.acquire(scripted.pin, now)
        parked.append(start(pool).next(now))
    for name in freed:
        pool.release(pool.members[name], now)
    assert wake(pool, now) == [action.ticket for action in parked]


def test_an_affinity_that_raises_is_worked_around(build: Build, now: float, scripted: Any) -> None:
    pool, muted = build(2, affinity=scripted), []
    pool.muted = lambda plugin, error: muted.append((plugin, error))
    scripted.error = RuntimeError("boom")
    assert sent(start(pool), now)
    assert muted == [(scripted, scripted.error)]


def test_an_affinity_that_names_no_endpoint_is_worked_around(build: Build, now: float, scripted: Any) -> None:
    pool, muted = build(2, affinity=scripted), []
    pool.muted = lambda plugin, error: muted.append(str(error))
    scripted.pin = "http://10.0.0.1"
    assert sent(start(pool), now)
    assert muted == ["find returned str, not an Endpoint or None"]


def test_a_selector_that_hashes_finds_the_key_at_every_choice(build: Build, now: float) -> None:
    class Hashing:
        seen: list[int | None] = []

        def key(self, exchange: Any) -> int:
            return 77

        def choose(self, candidates: Any, exchange: Any) -> Endpoint:
            self.seen.append(exchange.key)
            return candidates[0]

    pool = build(2, Hashing())
    dispatch = start(pool)
    first = sent(dispatch, now)
    dispatch.failed(first, ConnectError("refused"), False, now)
    assert sent(dispatch, now)
    assert Hashing.seen == [77, 77]


# Limits and the queue


def test_over_the_limit_without_a_queue(build: Build, now: float) -> None:
    pool = build(1, limits=Limits(in_flight=1))
    first, second = start(pool), start(pool)
    sent(first, now)
    assert isinstance(answered(second, now), Overloaded)
    second.close(now)
    first.close(now)
    assert idle(pool)
    assert sent(start(pool), now)


def test_the_queue_is_bounded_and_first_in_first_out(build: Build, now: float) -> None:
    pool = build(1, limits=Limits(in_flight=1, queue=2, queue_timeout=5))
    first, second, third, fourth = (start(pool) for _ in range(4))
    sent(first, now)
    parked = [second.next(now), third.next(now)]
    assert all(isinstance(action, Park) and action.until == now + 5 for action in parked)
    assert isinstance(answered(fourth, now), Overloaded)
    assert wake(pool, now) == []
    first.close(now + 1)
    assert wake(pool, now) == [parked[0].ticket]
    assert sent(second, now + 1)
    late = start(pool)
    assert isinstance(late.next(now + 1), Park), "newcomers never pass a waiting one"
    second.close(now + 2)
    assert wake(pool, now) == [parked[1].ticket]
    assert sent(third, now + 2)


def test_a_parked_exchange_that_is_asked_early_stays_where_it_is(build: Build, now: float) -> None:
    pool = build(1, limits=Limits(in_flight=1, queue=2))
    first, second, third = (start(pool) for _ in range(3))
    sent(first, now)
    parked = second.next(now)
    third.next(now)
    assert second.next(now + 0.5) == parked
    first.close(now + 0.6)
    assert wake(pool, now) == [parked.ticket]


def test_waiting_too_long(build: Build, now: float) -> None:
    pool = build(1, limits=Limits(in_flight=1, queue=1, queue_timeout=1))
    first, second = start(pool), start(pool)
    sent(first, now)
    until = second.next(now).until
    assert isinstance(answered(second, until), Overloaded)
    second.close(until)
    first.close(until)
    assert idle(pool)


def test_waiting_past_the_deadline(build: Build, now: float) -> None:
    pool = build(1, limits=Limits(in_flight=1, queue=1, queue_timeout=10))
    first, second = start(pool), start(pool, deadline=now + 2)
    sent(first, now)
    until = second.next(now).until
    assert until == now + 2
    assert isinstance(answered(second, until), UpstreamTimeout)
    second.close(until)
    assert not pool.queue.waiting


@pytest.mark.parametrize("granted", [False, True])
def test_a_parked_client_that_leaves(build: Build, now: float, granted: bool) -> None:
    pool = build(1, limits=Limits(in_flight=1, queue=2))
    first, second, third = (start(pool) for _ in range(3))
    sent(first, now)
    second.next(now)
    parked = third.next(now)
    if granted:
        first.close(now)
        assert len(wake(pool, now)) == 1
    second.close(now)
    if not granted:
        first.close(now)
    assert wake(pool, now) == [parked.ticket]
    third.close(now)
    assert idle(pool)


def test_an_admitted_exchange_waits_for_an_endpoint(build: Build, now: float) -> None:
    pool = build(1, limits=Limits(per_endpoint=1, queue=1))
    first, second = start(pool), start(pool)
    attempt = sent(first, now)
    parked = second.next(now)
    assert isinstance(parked, Park)
    assert pool.in_flight == 2
    assert parked.ticket.admitted
    first.ended(attempt, None, now)
    assert wake(pool, now) == [parked.ticket]
    assert sent(second, now).endpoint is attempt.endpoint
    first.close(now)
    second.close(now)
    assert idle(pool)


def test_a_place_in_the_queue_that_was_free_again_is_taken_directly(build: Build, now: float) -> None:
    """A driver that asks again, after the limit had been reached and left, needs no queue."""
    pool = build(1, limits=Limits(in_flight=1))
    first, second = start(pool), start(pool)
    sent(first, now)
    assert isinstance(second.next(now), Answer)
    first.close(now)
    assert sent(second, now)
    assert pool.in_flight == 1


def test_a_waiting_exchange_is_served_when_an_ejections_end_makes_room(build: Build, now: float, scripted: Any) -> None:
    """The driver knows only what Park says; time alone must not leave a server idle beside a queue."""
    pool = build(
        2,
        detectors=[scripted],
        ejection=EjectionRule(base=1),
        limits=Limits(per_endpoint=1, queue=1, queue_timeout=10),
    )
    scripted.verdict = Eject("x")
    failing = start(pool, "POST")
    attempt = sent(failing, now)
    failing.failed(attempt, ResetError(), True, now)
    failing.close(now)
    scripted.verdict = None
    busy = start(pool)
    assert sent(busy, now).endpoint is not attempt.endpoint
    waiting = start(pool)
    action = waiting.next(now)
    while isinstance(action, Park):
        now = action.until
        action = waiting.next(now)
    assert isinstance(action, Attempt)
    assert action.endpoint is attempt.endpoint


def test_a_waiting_exchange_is_woken_by_a_limit_that_rises(build: Build, now: float) -> None:
    pool = build(1, limits=Limits(queue=1, queue_timeout=99, adaptive="aimd"))
    a = pool.members["a"]
    running = [start(pool) for _ in range(20)]
    attempts = [sent(dispatch, now) for dispatch in running]
    late = start(pool)
    parked = late.next(now)
    assert isinstance(parked, Park)
    for dispatch, attempt in list(zip(running, attempts, strict=True))[:10]:
        assert a.limit == 20
        dispatch.head(attempt, 200, now + 1)
        dispatch.ended(attempt, None, now + 1)
        # The other half of its room is taken again at once.
        pool.acquire(a, now + 1)
    assert a.limit == 21
    assert wake(pool, now) == [parked.ticket]
    assert isinstance(late.next(now + 1), Attempt)


def test_on_probation_an_outcome_is_told_though_nobody_else_listens(build: Build, now: float, scripted: Any) -> None:
    pool = build(2, detectors=[scripted], ejection=EjectionRule(base=30, rise=1))
    a, b = pool.members.values()
    scripted.eject(pool, a, now)
    pool.operate(b, "drain", now)
    scripted.error = RuntimeError("muted from now on")
    pool.told(b, scripted.observed[0][1], now)
    assert not pool.listens
    dispatch = start(pool)
    attempt = sent(dispatch, now + 30)
    assert (attempt.endpoint, a.limit) == (a, 1)
    dispatch.head(attempt, 200, now + 31)
    dispatch.ended(attempt, None, now + 31)
    assert a.limit == float("inf")


def test_rather_than_refuse_one_on_probation_serves_more_than_one(build: Build, now: float, scripted: Any) -> None:
    pool = build(2, detectors=[scripted], ejection=EjectionRule(base=30))
    a, b = pool.members.values()
    scripted.eject(pool, a, now)
    pool.operate(b, "drain", now)
    attempts = [sent(start(pool), now + 30) for _ in range(3)]
    assert [attempt.endpoint for attempt in attempts] == [a] * 3
    assert a.health.ejection.probation


# Hedging


HEDGING = RetryRule(hedge_after=0.1)


def test_a_slow_attempt_gets_a_second_one_beside_it(build: Build, now: float, scripted: Any) -> None:
    pool = build(3, retry=HEDGING, detectors=[scripted])
    dispatch = start(pool)
    slow = sent(dispatch, now)
    assert slow.hedge_after == 0.1
    assert dispatch.next(now + 0.05) is None, "not yet"
    quick = sent(dispatch, now + 0.11)
    assert quick.endpoint is not slow.endpoint
    assert (len(dispatch.live), pool.in_flight) == (2, 1)
    verdict = dispatch.head(quick, 200, now + 0.2)
    assert verdict == Relay((slow,))
    assert dispatch.next(now + 0.3) is None, "the head was passed on"
    dispatch.ended(slow, ClientGone(), now + 0.2)
    dispatch.ended(quick, None, now + 0.3)
    (loser, winner) = (outcome for _, outcome in scripted.observed)
    assert (loser.result, loser.elapsed) == ("neutral", pytest.approx(0.2)), "how long it was waited for"
    assert (winner.result, winner.elapsed) == ("success", pytest.approx(0.09))
    dispatch.close(now + 0.3)
    assert idle(pool)


def test_a_quantile_decides_how_slow_is_slow_once_it_is_known(build: Build, now: float) -> None:
    pool = build(3, retry=RetryRule(hedge_share=0.95))
    for turn in range(100):
        dispatch = start(pool)
        attempt = sent(dispatch, now + turn)
        assert attempt.hedge_after is None
        assert dispatch.next(now + turn + 9) is None
        dispatch.head(attempt, 200, now + turn + 0.05)
        dispatch.ended(attempt, None, now + turn + 0.05)
        dispatch.close(now + turn + 0.05)
    now += 200
    dispatch = start(pool)
    slow = sent(dispatch, now)
    assert slow.hedge_after == pytest.approx(0.05, rel=0.04)
    assert dispatch.next(now + 0.04) is None
    quick = sent(dispatch, now + 0.06)
    dispatch.head(quick, 200, now + 0.07)
    dispatch.ended(slow, ClientGone(), now + 0.07)
    dispatch.ended(quick, None, now + 0.07)
    dispatch.close(now + 0.07)
    assert idle(pool)


def test_the_losers_of_hedges_keep_the_quantile_up(build: Build, now: float) -> None:
    """Each exchange is won by the second endpoint, in no time: the quantile must not sink until all are hedged."""
    pool = build(2, retry=RetryRule(hedge_share=0.5), budget=Budget(1, 1000))
    for turn in range(200):
        dispatch = start(pool)
        slow = sent(dispatch, now + turn)
        if slow.hedge_after is None:
            dispatch.head(slow, 200, now + turn + 0.4)
            winner, end = slow, now + turn + 0.4
        else:
            assert slow.hedge_after == pytest.approx(0.4, rel=0.04)
            winner = sent(dispatch, now + turn + 0.42)
            end = now + turn + 0.421
            assert dispatch.head(winner, 200, end) == Relay((slow,))
            dispatch.ended(slow, ClientGone(), end)
        dispatch.ended(winner, None, end)
        dispatch.close(end)
    assert idle(pool)


def test_hedges_count_as_tries(build: Build, now: float) -> None:
    dispatch = start(build(5, retry=RetryRule(attempts=2, hedge_after=0.1)))
    attempts = [sent(dispatch, now + i) for i in range(3)]
    assert [attempt.hedge_after for attempt in attempts] == [0.1, 0.1, None]
    assert dispatch.next(now + 10) is None


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_only_safe_methods_are_hedged(build: Build, now: float, method: str) -> None:
    dispatch = start(build(3, retry=HEDGING), method)
    assert sent(dispatch, now).hedge_after is None
    assert dispatch.next(now + 1) is None


def test_no_hedge_without_another_endpoint_a_token_or_a_body(build: Build, now: float) -> None:
    alone = start(build(1, retry=HEDGING))
    sent(alone, now)
    assert alone.next(now + 1) is None
    poor = start(build(2, retry=HEDGING, budget=Budget(0, 0)))
    sent(poor, now)
    assert poor.next(now + 1) is None
    bodied = start(build(2, retry=HEDGING))
    sent(bodied, now)
    bodied.body_taken(replayable=False)
    assert bodied.next(now + 1) is None
    pool = build(2, retry=HEDGING)
    left = start(pool)
    sent(left, now)
    pool.update([], now)
    assert left.next(now + 1) is None
    spent = start(build(3, retry=HEDGING))
    slow = sent(spent, now)
    spent._tries = 3
    assert slow.hedge_after is not None
    assert spent.next(now + 1) is None


def test_a_hedge_takes_one_token(build: Build, now: float) -> None:
    pool = build(3, retry=HEDGING, budget=Budget(0, 5))
    dispatch = start(pool)
    sent(dispatch, now)
    sent(dispatch, now + 0.2)
    assert pool.budget.balance(now + 0.2) == 4


def test_a_hedge_after_a_failure_takes_one_token_too(build: Build, now: float) -> None:
    pool = build(3, retry=HEDGING, budget=Budget(0, 5))
    dispatch = start(pool)
    dispatch.failed(sent(dispatch, now), ResetError(), True, now)
    sent(dispatch, now)
    assert pool.budget.balance(now) == 4, "the retry"
    sent(dispatch, now + 0.2)
    assert pool.budget.balance(now) == 3, "and its hedge"


def test_past_the_deadline_there_is_no_hedge(build: Build, now: float) -> None:
    dispatch = start(build(3, retry=HEDGING), deadline=now + 0.05)
    sent(dispatch, now)
    assert dispatch.next(now + 0.2) is None


def test_one_of_two_fails_and_the_other_goes_on(build: Build, now: float) -> None:
    pool = build(3, retry=HEDGING)
    dispatch = start(pool)
    slow = sent(dispatch, now)
    quick = sent(dispatch, now + 0.2)
    dispatch.failed(quick, ResetError(), True, now + 0.3)
    assert dispatch.head(slow, 200, now + 0.4) is RELAY
    dispatch.ended(slow, None, now + 0.5)
    dispatch.close(now + 0.5)
    assert idle(pool)


def test_a_client_that_leaves_closes_both(build: Build, now: float) -> None:
    pool = build(3, retry=HEDGING)
    dispatch = start(pool)
    attempts = [sent(dispatch, now), sent(dispatch, now + 0.2)]
    dispatch.close(now + 0.3)
    assert idle(pool)
    assert not any(attempt.open for attempt in attempts)


# What observers are told


def notes(dispatch: Dispatch) -> list[tuple[str, str, str]]:
    return [(note.name, note.reason, note.endpoint) for note in dispatch.exchange.notes]


def test_attempts_are_kept_in_order_for_observers_alone(build: Build, now: float) -> None:
    for tell in (False, True):
        pool = build(3, retry=RetryRule(2))
        dispatch = start(pool, tell=tell)
        made = [sent(dispatch, now)]
        dispatch.failed(made[0], ConnectError("refused"), False, now + 0.1)
        made.append(sent(dispatch, now + 0.2))
        dispatch.head(made[1], 200, now + 0.3)
        assert dispatch.exchange.attempts == (tuple(made) if tell else ())
        dispatch.ended(made[1], None, now + 0.5)
        dispatch.close(now + 0.6)
        if tell:
            assert [attempt.ended_at for attempt in made] == [now + 0.1, now + 0.5]
        assert [attempt.hedge for attempt in made] == [False, False]
        assert notes(dispatch) == ([("retry", "refused", made[1].endpoint.identity)] if tell else [])


def test_an_end_that_was_told_stays(build: Build, now: float) -> None:
    dispatch = start(build(1), tell=True)
    attempt = sent(dispatch, now)
    assert attempt.ended_at == 0
    dispatch.ended(attempt, None, now + 1)
    dispatch.ended(attempt, ResetError(), now + 2)
    dispatch.close(now + 3)
    assert attempt.ended_at == now + 1


def test_a_client_that_leaves_ends_the_attempts(build: Build, now: float) -> None:
    dispatch = start(build(1), tell=True)
    attempt = sent(dispatch, now)
    dispatch.close(now + 3)
    assert (attempt.ended_at, dispatch.exchange.notes) == (now + 3, ())


@pytest.mark.parametrize(
    ("why", "settings", "method", "error", "more"),
    [
        ("no attempts left", {"retry": RetryRule(0)}, "GET", ResetError(), {}),
        ("not in retry.on", {"retry": RetryRule(2, ("timeout",))}, "GET", ResetError(), {}),
        ("not idempotent", {}, "POST", ResetError(), {}),
        ("budget empty", {"budget": Budget(0, 0)}, "GET", ResetError(), {}),
        (InternalError.title, {}, "GET", InternalError(), {}),
    ],
)
def test_why_there_is_no_retry(
    build: Build, now: float, why: str, settings: Any, method: str, error: RouterError, more: Any
) -> None:
    dispatch = start(build(3, **settings), method, tell=True, **more)
    dispatch.failed(sent(dispatch, now), error, True, now + 0.1)
    answered(dispatch, now + 0.1)
    assert notes(dispatch) == [("no retry", why, "")]


def test_why_a_named_status_is_not_retried(build: Build, now: float) -> None:
    for pool, why in (
        (build(1, retry=RetryRule(2, ("503",))), "nobody else is ready"),
        (build(2, retry=RetryRule(0, ("503",))), "no attempts left"),
    ):
        dispatch = start(pool, tell=True)
        assert dispatch.head(sent(dispatch, now), 503, now + 0.1) is RELAY
        assert notes(dispatch) == [("no retry", why, "")]


def test_a_named_status_that_is_retried(build: Build, now: float) -> None:
    dispatch = start(build(2, retry=RetryRule(2, ("503",))), tell=True)
    first = sent(dispatch, now)
    assert dispatch.head(first, 503, now + 0.1) is RETRY
    dispatch.ended(first, None, now + 0.1)
    second = sent(dispatch, now + 0.1)
    assert notes(dispatch) == [("retry", "status 503", second.endpoint.identity)]


def test_a_status_that_nobody_retries_is_nothing_to_tell(build: Build, now: float) -> None:
    dispatch = start(build(2), tell=True)
    dispatch.head(sent(dispatch, now), 503, now + 0.1)
    assert notes(dispatch) == []


def test_an_attempt_after_one_that_did_not_fail_is_no_retry(build: Build, now: float) -> None:
    """No I/O that there is brings it about; it takes no token, and nothing is made up about it."""
    dispatch = start(build(2), tell=True)
    dispatch.ended(sent(dispatch, now), None, now)
    tokens = dispatch.pool.budget.balance(now)
    sent(dispatch, now)
    assert (notes(dispatch), dispatch.pool.budget.balance(now)) == ([], tokens)


def test_the_pause_before_one_is_tried_again_is_no_second_retry(build: Build, now: float) -> None:
    dispatch = start(build(1), tell=True)
    dispatch.failed(sent(dispatch, now), ConnectError("refused"), False, now)
    pause = dispatch.next(now)
    assert isinstance(pause, Sleep)
    sent(dispatch, pause.until)
    assert dispatch.exchange.notes == ((pause.until, "retry", "refused", "a"),)


def test_a_hedge_is_marked_and_told(build: Build, now: float) -> None:
    dispatch = start(build(2, retry=HEDGING), tell=True)
    slow = sent(dispatch, now)
    quick = sent(dispatch, now + 0.11)
    assert (slow.hedge, quick.hedge) == (False, True)
    assert notes(dispatch) == [("hedge", "no head within 0.1 s", quick.endpoint.identity)]
    assert dispatch.exchange.attempts == (slow, quick)


def test_a_retry_after_a_hedge_is_none(build: Build, now: float) -> None:
    dispatch = start(build(3, retry=RetryRule(3, hedge_after=0.1)), tell=True)
    attempts = [sent(dispatch, now), sent(dispatch, now + 0.11)]
    for attempt in attempts:
        dispatch.failed(attempt, ConnectError("refused"), False, now + 0.12)
    attempts.append(sent(dispatch, now + 0.12))
    assert [attempt.hedge for attempt in attempts] == [False, True, False]
    assert [name for name, *_ in notes(dispatch)] == ["hedge", "retry"]


@pytest.mark.parametrize("way", ["ejected", "removed", "full"])
def test_a_broken_pin_is_told(build: Build, now: float, scripted: Any, way: str) -> None:
    pool = build(3, affinity=scripted, limits=Limits(per_endpoint=1))
    a = scripted.pin = pool.members["a"]
    if way == "removed":
        pool.update([pool.members[name].spec for name in "bc"], now)
    elif way == "full":
        pool.acquire(a, now)
    else:
        a.health.ejection.eject(now, "x")
        pool.place(a, now)
    dispatch = start(pool, tell=True)
    sent(dispatch, now)
    why = "not ready" if way == "removed" else way
    assert notes(dispatch) == [("pin broken", f"the session's server is {why}", "a")]


def test_a_pin_is_broken_once(build: Build, now: float, scripted: Any) -> None:
    pool = build(3, affinity=scripted)
    scripted.pin = pool.members["a"]
    pool.update([pool.members[name].spec for name in "bc"], now)
    dispatch = start(pool, tell=True)
    dispatch.failed(sent(dispatch, now), ConnectError("refused"), False, now)
    sent(dispatch, now)
    assert [name for name, *_ in notes(dispatch)] == ["pin broken", "retry"]


def test_a_pin_that_is_refused_is_not_broken(build: Build, now: float, scripted: Any) -> None:
    pool = build(3, affinity=scripted, on_unready="refuse")
    scripted.pin = pool.members["a"]
    pool.update([pool.members[name].spec for name in "bc"], now)
    dispatch = start(pool, tell=True)
    answered(dispatch, now)
    assert notes(dispatch) == []


def test_a_session_whose_server_has_failed_moves(build: Build, now: float, scripted: Any) -> None:
    pool = build(3, affinity=scripted, retry=RetryRule(3))
    scripted.pin = pool.members["a"]
    dispatch = start(pool, tell=True)
    for _ in range(2):
        dispatch.failed(sent(dispatch, now), ConnectError("refused"), False, now)
    last = sent(dispatch, now)
    moved = dispatch.exchange.attempts[1].endpoint.identity
    assert notes(dispatch) == [
        ("retry", "refused", moved),
        ("pin broken", "the session's server has failed", "a"),
        ("retry", "refused", last.endpoint.identity),
    ]


def test_one_who_keeps_to_his_server_breaks_nothing(build: Build, now: float, scripted: Any) -> None:
    pool = build(1, affinity=scripted)
    scripted.pin = pool.members["a"]
    dispatch = start(pool, tell=True)
    dispatch.failed(sent(dispatch, now), ConnectError("refused"), False, now)
    pause = dispatch.next(now)
    assert sent(dispatch, pause.until).endpoint is scripted.pin
    assert [name for name, *_ in notes(dispatch)] == ["retry"]


def test_where_health_is_ignored_that_is_told(build: Build, now: float) -> None:
    pool = build(2, probe=(1, 1))
    dispatch = start(pool, tell=True)
    attempt = sent(dispatch, now)
    assert notes(dispatch) == [("panic", "health is ignored", attempt.endpoint.identity)]
    pool.probed(pool.members["a"], True, "", now)
    pool.probed(pool.members["b"], True, "", now)
    well = start(pool, tell=True)
    sent(well, now)
    assert notes(well) == []


def test_a_full_endpoint_that_drains_is_no_panic(build: Build, now: float, scripted: Any) -> None:
    pool = build(2, affinity=scripted)
    scripted.pin = pool.members["a"]
    pool.operate(scripted.pin, "drain", now)
    dispatch = start(pool, tell=True)
    assert sent(dispatch, now).endpoint is scripted.pin
    assert notes(dispatch) == []
