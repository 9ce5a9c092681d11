"""An exchange's way through the pool's limit and its queue, as observers are told of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from router import Attempt, Note
from router.errors import Overloaded
from router.policy.actions import Answer, Park
from router.policy.admission import Admission
from router.policy.dispatch import Dispatch
from router.policy.limits import Limits
from router.policy.pool import Pool
from router.testing import make_exchange

Build = Callable[..., Pool]


def start(pool: Pool, *, tell: bool = True, deadline: float = float("inf")) -> Dispatch:
    exchange = make_exchange()
    exchange.deadline = deadline
    return Dispatch(pool, exchange, tell)


def notes(dispatch: Dispatch) -> list[tuple[str, str, str]]:
    return [(note.name, note.reason, note.endpoint) for note in dispatch.exchange.notes]


def test_a_note_is_kept_where_an_observer_listens_and_nowhere_else(build: Build, now: float) -> None:
    pool = build(1)
    for tell in (False, True):
        admission = Admission(pool, make_exchange(), tell)
        admission.note(now, "retry", "why", pool.members["a"])
        admission.note(now + 1, "hedge")
        told = (Note(now, "retry", "why", "a"), Note(now + 1, "hedge", "", ""))
        assert admission.exchange.notes == (told if tell else ())


def test_who_need_not_wait_is_told_nothing_of(build: Build, now: float) -> None:
    dispatch = start(build(1))
    assert isinstance(dispatch.next(now), Attempt)
    assert dispatch.exchange.notes == ()
    assert start(build(1), tell=False).exchange.attempts == ()


def test_waiting_for_the_pool(build: Build, now: float) -> None:
    pool = build(2, limits=Limits(in_flight=1, queue=2))
    busy, waits = start(pool), start(pool)
    busy.next(now)
    assert isinstance(waits.next(now + 0.1), Park)
    assert isinstance(waits.next(now + 0.2), Park), "asked early, it says nothing new"
    busy.close(now + 0.3)
    assert pool.grant(now + 0.3) is not None
    assert isinstance(waits.next(now + 0.4), Attempt)
    assert waits.exchange.notes == (
        Note(now + 0.1, "queued", "waits for the pool's limit"),
        Note(now + 0.4, "left queue"),
    )


def test_taking_ones_place_oneself(build: Build, now: float) -> None:
    pool = build(1, limits=Limits(in_flight=1, queue=2))
    busy, waits = start(pool), start(pool)
    busy.next(now)
    waits.next(now)
    busy.close(now)
    assert isinstance(waits.next(now), Attempt)
    assert [name for name, *_ in notes(waits)] == ["queued", "left queue"]


def test_waiting_for_too_long(build: Build, now: float) -> None:
    pool = build(1, limits=Limits(in_flight=1, queue=2, queue_timeout=1))
    start(pool).next(now)
    waits = start(pool)
    waits.next(now)
    action = waits.next(now + 1)
    assert isinstance(action, Answer)
    assert isinstance(action.error, Overloaded)
    assert notes(waits) == [
        ("queued", "waits for the pool's limit", ""),
        ("left queue", "waited for too long", ""),
    ]


def test_waiting_for_any_endpoint(build: Build, now: float) -> None:
    pool = build(1, limits=Limits(per_endpoint=1, queue=2))
    busy, waits = start(pool), start(pool)
    attempt = busy.next(now)
    assert isinstance(attempt, Attempt)
    waits.next(now)
    busy.ended(attempt, None, now)
    assert isinstance(waits.next(now), Attempt)
    assert notes(waits) == [("queued", "waits for an endpoint", ""), ("left queue", "", "")]


def test_waiting_for_the_sessions_server_and_then_for_no_longer(build: Build, now: float, scripted: Any) -> None:
    pool = build(2, affinity=scripted, limits=Limits(per_endpoint=1, queue=2, queue_timeout=1))
    scripted.pin = pool.members["b"]
    start(pool).next(now)
    waits = start(pool)
    assert isinstance(waits.next(now), Park)
    attempt = waits.next(now + 1)
    assert isinstance(attempt, Attempt)
    assert attempt.endpoint.identity == "a"
    assert notes(waits) == [
        ("queued", "waits for the session's server", "b"),
        ("left queue", "waited for too long", ""),
        ("pin broken", "the session's server is full", "b"),
    ]


def test_a_full_queue_is_no_queue(build: Build, now: float) -> None:
    pool = build(1, limits=Limits(in_flight=1, queue=0))
    start(pool).next(now)
    refused = start(pool)
    assert isinstance(refused.next(now), Answer)
    assert notes(refused) == []


@pytest.mark.parametrize("tell", [False, True])
def test_a_client_that_leaves_while_it_waits(build: Build, now: float, tell: bool) -> None:
    pool = build(1, limits=Limits(in_flight=1, queue=2))
    start(pool).next(now)
    waits = start(pool, tell=tell)
    waits.next(now)
    waits.close(now)
    assert [name for name, *_ in notes(waits)] == ["queued"] * tell
    assert pool.queue.waiting == 0
