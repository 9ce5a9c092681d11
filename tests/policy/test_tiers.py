"""Tiers: shares of requests, own zone or everywhere, and whom panic may ask."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router import Endpoint
from router.policy.tiers import Tier, draw_tier, tier_shares
from router.testing import make_endpoints


@pytest.mark.parametrize(
    ("health", "shares"),
    [
        ([(72, 100), (100, 100)], [1.0, 0.0]),
        ([(50, 100), (100, 100)], [0.7, 0.3]),
        ([(25, 100), (25, 100)], [0.5, 0.5]),
        ([(0, 3), (3, 3)], [0.0, 1.0]),
        ([(3, 3)], [1.0]),
        ([(1, 3)], [1.0]),
        ([(0, 3), (0, 3)], [0.0, 0.0]),
        ([(10, 100), (10, 100), (80, 100)], [0.14, 0.14, 0.72]),
        ([], []),
    ],
)
def test_shares(health: list[tuple[int, int]], shares: list[float]) -> None:
    assert tier_shares(health) == pytest.approx(shares)


@given(st.lists(st.integers(1, 50).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), max_size=5))
def test_shares_sum_to_one_unless_nothing_is_ready(health: list[tuple[int, int]]) -> None:
    shares = tier_shares(health)
    assert all(0 <= share <= 1 + 1e-9 for share in shares)
    assert sum(shares) == pytest.approx(1.0 if any(ready for ready, _ in health) else 0.0)
    assert all(not share for share, (ready, _) in zip(shares, health, strict=True) if not ready)


def tier_of(endpoints: list[Endpoint], zone: str = "", few_ready: float = 0.0) -> Tier:
    made = Tier(endpoints[0].spec.priority, zone, few_ready)
    for endpoint in endpoints:
        made.add(endpoint)
    return made


def tier(size: int, ready: int, priority: int = 0) -> Tier:
    endpoints = make_endpoints(*[1] * size, priority=priority, first_port=9001 + 100 * priority)
    made = tier_of(endpoints)
    for index, endpoint in enumerate(endpoints):
        made.note(endpoint, ready=index < ready, open_to_all=True)
    return made


def test_requests_are_drawn_by_the_shares() -> None:
    tiers = [tier(10, 5, 0), tier(10, 10, 1), tier(10, 10, 2)]
    rng = random.Random(3)
    drawn = Counter(draw_tier(tiers, rng.random()).priority for _ in range(20_000))
    assert drawn[0] / 20_000 == pytest.approx(0.7, abs=0.02)
    assert drawn[1] / 20_000 == pytest.approx(0.3, abs=0.02)
    assert drawn[2] == 0


def test_the_same_chance_takes_the_same_tier() -> None:
    tiers = [tier(10, 5, 0), tier(10, 10, 1)]
    assert [draw_tier(tiers, chance).priority for chance in (0.0, 0.69, 0.71, 0.999999)] == [0, 0, 1, 1]


def test_no_tier_is_none_and_nothing_ready_is_the_first() -> None:
    assert draw_tier([], 0.5) is None
    tiers = [tier(2, 0, 0), tier(2, 0, 1)]
    assert draw_tier(tiers, 0.9) is tiers[0]


def test_a_chance_that_rounding_leaves_over_takes_the_last_ready_tier() -> None:
    tiers = [tier(3, 1, 0), tier(3, 1, 1), tier(3, 0, 2)]
    assert draw_tier(tiers, 1.0) is tiers[1]


# One tier


def placed(made: Tier, *endpoints: Endpoint) -> None:
    for endpoint in endpoints:
        made.note(endpoint, ready=True, open_to_all=True)
        made.list_for(endpoint).add(endpoint)
    made.touch()


def test_without_zones_there_is_one_list() -> None:
    endpoints = make_endpoints(1, 1, 1, zone="x")
    made = tier_of(endpoints)
    placed(made, *endpoints)
    assert made.is_plain
    assert made.candidates() is made.candidates()
    assert set(made.candidates()) == set(endpoints)
    assert (made.ready_count, made.open_count, made.priority) == (3, 3, 0)


@pytest.mark.parametrize(
    ("own_ready", "own_alone"),
    [(4, True), (3, True), (2, True), (1, False), (0, False)],
)
def test_the_own_zone_alone_while_half_of_it_is_ready(own_ready: int, own_alone: bool) -> None:
    own = make_endpoints(1, 1, 1, 1, zone="here")
    other = make_endpoints(1, 1, zone="there", first_port=9101)
    made = tier_of([*own, *other], "here")
    placed(made, *own[:own_ready], *other)
    assert not made.is_plain
    expected = own[:own_ready] if own_alone else [*own[:own_ready], *other]
    assert set(made.candidates()) == set(expected)
    assert made.candidates() is made.candidates()


def test_a_full_own_zone_is_left_for_the_others() -> None:
    own = make_endpoints(1, 1, zone="here")
    other = make_endpoints(1, zone="there", first_port=9101)
    made = tier_of([*own, *other], "here")
    for endpoint in own:
        made.note(endpoint, ready=True, open_to_all=True)
    placed(made, *other)
    assert list(made.candidates()) == other


def test_what_was_merged_follows_the_next_change() -> None:
    own, other = make_endpoints(1, 1, 1, zone="here"), make_endpoints(1, zone="there", first_port=9101)
    made = tier_of([*own, *other], "here")
    placed(made, *other)
    assert list(made.candidates()) == other
    placed(made, own[0])
    assert set(made.candidates()) == {own[0], *other}


def test_panic_asks_all_with_room_that_the_operator_left_in() -> None:
    endpoints = make_endpoints(1, 1, 1)
    made = tier_of(endpoints)
    for endpoint in endpoints[:2]:
        made.note(endpoint, ready=False, open_to_all=True)
    made.note(endpoints[2], ready=False, open_to_all=False)
    endpoints[0].load = 1

    def one(endpoint: Endpoint) -> float:
        return 1

    assert list(made.everyone(one)) == [endpoints[1]]
    assert made.everyone(one) is made.everyone(one)
    endpoints[0].load = 0
    made.touch()
    assert set(made.everyone(one)) == set(endpoints[:2])
    assert (made.ready_count, made.open_count) == (0, 2)


@pytest.mark.parametrize(
    ("ready", "size", "share", "few"),
    [(0, 3, 0.0, True), (1, 3, 0.0, False), (2, 4, 0.5, True), (3, 4, 0.5, False), (4, 4, 1.0, True)],
)
def test_panic_begins_at_the_share_or_below_it(ready: int, size: int, share: float, few: bool) -> None:
    endpoints = make_endpoints(*[1] * size)
    made = tier_of(endpoints, few_ready=share)
    for index, endpoint in enumerate(endpoints):
        made.note(endpoint, ready=index < ready, open_to_all=True)
    assert made.few is few


def test_whom_the_operator_took_out_counts_for_nothing() -> None:
    endpoints = make_endpoints(1, 1, 1, 1)
    made = tier_of(endpoints, few_ready=0.5)
    for endpoint in endpoints[:2]:
        made.note(endpoint, ready=True, open_to_all=True)
    assert not made.few
    for endpoint in endpoints[2:]:
        made.note(endpoint, ready=False, open_to_all=True)
    assert made.few
