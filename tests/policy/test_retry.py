"""The retry law, its budget against an account kept token by token, and the backoff."""

from __future__ import annotations

import itertools
import random
from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.policy.retry import IDEMPOTENT, SAFE, Budget, RetryRule, backoff, may_retry

FULL = Budget()


def empty() -> Budget:
    return Budget(share=0, reserve=0)


def verdict(**changed) -> str:
    usual = {
        "head_passed": False,
        "replayable": True,
        "sent": True,
        "method": "GET",
        "budget": Budget(),
        "now": 1000.0,
        "deadline": float("inf"),
    }
    return may_retry(**{**usual, **changed})


def test_yes() -> None:
    assert verdict() == ""
    assert verdict(sent=False, method="POST") == ""


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE"])
def test_idempotent_methods_may_go_again_after_something_was_sent(method: str) -> None:
    assert verdict(method=method) == ""


@pytest.mark.parametrize("method", ["POST", "PATCH", "CONNECT", "LOCK", "get", "X"])
def test_other_methods_never(method: str) -> None:
    assert verdict(method=method) == "not idempotent"
    assert verdict(method=method, sent=False) == ""


def test_the_sets_of_rfc_9110() -> None:
    assert {"GET", "HEAD", "OPTIONS", "TRACE"} == SAFE
    assert {"PUT", "DELETE"} == IDEMPOTENT - SAFE


def test_what_was_not_sent_takes_no_token() -> None:
    assert verdict(budget=empty(), sent=False) == ""
    assert verdict(budget=empty()) == "budget empty"


def test_near_the_deadline_nothing_is_begun() -> None:
    assert verdict(deadline=1000.0) == "deadline near"
    assert verdict(deadline=999.0, sent=False) == "deadline near"
    assert verdict(deadline=1001.0) == ""


REASONS = {
    "head passed on": {"head_passed": True},
    "body not replayable": {"replayable": False},
    "not idempotent": {"method": "POST"},
    "budget empty": {"budget": empty()},
    "deadline near": {"deadline": 1000.0},
}


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5])
def test_the_first_reason_in_the_laws_order_is_given(size: int) -> None:
    for chosen in itertools.combinations(REASONS, size):
        changed = {key: value for reason in chosen for key, value in REASONS[reason].items()}
        assert verdict(**changed) == chosen[0]


# Settings


def test_words_and_statuses_of_retry_on() -> None:
    rule = RetryRule(on=("connect", "reset", "503", "429"))
    assert rule.reasons == {"connect", "reset"}
    assert rule.statuses == {503, 429}
    assert RetryRule().statuses == frozenset()
    assert RetryRule(on=("5xx",)).statuses == set(range(500, 600))
    assert RetryRule(on=("5xx",)).reasons == frozenset()


def test_the_defaults() -> None:
    rule = RetryRule()
    assert (rule.attempts, rule.attempt_timeout, rule.buffer, rule.hedge_after) == (2, float("inf"), 65536, None)
    assert rule.reasons == {"connect", "reset", "timeout"}


# Budget


def taken(budget: Budget, now: float, most: int = 1000) -> int:
    """How many tokens can be had now."""
    for count in range(most):
        if not budget.withdraw(now):
            return count
    return most


@pytest.mark.parametrize(("requests", "tokens"), [(0, 10), (4, 10), (5, 11), (100, 30)])
def test_a_fifth_of_the_requests_and_ten_a_second(requests: int, tokens: int) -> None:
    budget = Budget()
    for _ in range(requests):
        budget.deposit(1000.0)
    assert budget.has_token(1000.0)
    assert taken(budget, 1000.0) == tokens
    assert not budget.has_token(1000.0)


def test_asking_takes_nothing() -> None:
    budget = Budget(share=0, reserve=1)
    assert all(budget.has_token(1000.0) for _ in range(5))
    assert budget.withdraw(1000.0)


@pytest.mark.parametrize(("later", "tokens"), [(0, 20), (5, 20), (9, 20), (10, 0), (1000, 0)])
def test_a_deposit_lives_ten_seconds(later: int, tokens: int) -> None:
    budget = Budget(reserve=0)
    for _ in range(100):
        budget.deposit(1000.5)
    assert taken(budget, 1000.0 + later) == tokens


def test_what_was_taken_stays_taken() -> None:
    budget = Budget(share=0.5, reserve=0)
    for _ in range(10):
        budget.deposit(1000.0)
    assert [budget.withdraw(1000.0 + i) for i in range(6)] == [True] * 5 + [False]


def test_the_reserve_comes_anew_each_second() -> None:
    budget = Budget(share=0.2, reserve=3)
    assert [taken(budget, 1000.0 + second) for second in range(20)] == [3] * 20


def test_the_reserve_comes_each_second_whatever_was_taken_of_deposits_that_are_dead() -> None:
    budget = Budget(share=0.2, reserve=10)
    for _ in range(100):
        budget.deposit(1000.0)
    assert taken(budget, 1009.0) == 30
    assert [taken(budget, 1010.0 + second) for second in range(12)] == [10] * 12


class Account:
    """The same law, token by token: this second's reserve first, then the oldest deposit that lives."""

    def __init__(self, share: float, reserve: int) -> None:
        self.share, self.reserve = share, reserve
        self.deposits: deque[list[float]] = deque()
        self.second, self.left = -1, 0.0

    def turn(self, now: int) -> None:
        if now != self.second:
            self.second, self.left = now, self.reserve
        while self.deposits and self.deposits[0][0] <= now - 10:
            self.deposits.popleft()

    def deposit(self, now: int) -> None:
        self.turn(now)
        self.deposits.append([now, self.share])

    def balance(self, now: int) -> float:
        self.turn(now)
        return self.left + sum(amount for _, amount in self.deposits)

    def pay(self) -> None:
        wanted = 1.0
        part = min(self.left, wanted)
        self.left -= part
        wanted -= part
        for entry in self.deposits:
            part = min(entry[1], wanted)
            entry[1] -= part
            wanted -= part


@given(
    st.sampled_from([0.0, 0.125, 0.25, 0.5]),
    st.integers(0, 3),
    st.lists(st.tuples(st.sampled_from("dddwwt"), st.integers(1, 12)), max_size=60),
)
def test_it_is_never_overspent(share: float, reserve: int, steps: list[tuple[str, int]]) -> None:
    budget, account, now = Budget(share, reserve), Account(share, reserve), 1000
    for step, count in steps:
        if step == "t":
            now += count
            continue
        for _ in range(count):
            if step == "d":
                budget.deposit(now)
                account.deposit(now)
            elif budget.withdraw(now):
                assert account.balance(now) >= 1
                account.pay()


def state(budget: Budget) -> tuple:
    return budget._second, budget._this, budget._spent, tuple(budget._past)


@given(
    st.sampled_from([0.0, 0.25, 0.5]),
    st.integers(0, 3),
    st.lists(st.tuples(st.sampled_from("ddwwt"), st.integers(1, 12)), max_size=40),
)
def test_looking_changes_nothing(share: float, reserve: int, steps: list[tuple[str, int]]) -> None:
    budget, now = Budget(share, reserve), 1000.5
    for step, count in steps:
        if step == "t":
            now += count / 3
        for _ in range(count if step != "t" else 0):
            (budget.deposit if step == "d" else budget.withdraw)(now)
        before = state(budget)
        seen = budget.peek(now)
        assert state(budget) == before
        assert seen == budget.balance(now)


# Backoff


@pytest.mark.parametrize(("times", "most"), [(0, 0.025), (1, 0.05), (2, 0.1), (3, 0.2), (4, 0.25), (19, 0.25)])
def test_full_jitter_doubles_up_to_its_cap(times: int, most: float) -> None:
    rng = random.Random(5)
    drawn = [backoff(times, rng) for _ in range(2000)]
    assert min(drawn) >= 0
    assert max(drawn) <= most
    assert min(drawn) < most * 0.05
    assert max(drawn) > most * 0.95
    assert abs(sum(drawn) / len(drawn) - most / 2) < most * 0.05


def test_the_same_seed_waits_the_same() -> None:
    assert [backoff(n, random.Random(1)) for n in range(4)] == [backoff(n, random.Random(1)) for n in range(4)]
