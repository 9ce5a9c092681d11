"""Slow start: by itself, and as a pool begins, rewrites and ends it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from router import Endpoint, EndpointSpec, Outcome
from router.policy.health import EjectionRule
from router.policy.pool import Pool
from router.policy.slowstart import SlowStart
from router.testing import make_endpoints, make_exchange

Build = Callable[..., Pool]
NEVER = float("inf")
#: The shares of its weight that an endpoint has at these seconds of a window of a minute.
FIGURES = {0.0: 0.1, 6.0: 0.1, 15.0: 0.25, 30.0: 0.5, 59.0: 59 / 60, 60.0: 1.0, 61.0: 1.0}


def spec(name: str, **fields: Any) -> EndpointSpec:
    return EndpointSpec(url=f"http://{name}.test", id=name, **fields)


def specs(names: str, **fields: Any) -> list[EndpointSpec]:
    return [spec(name, **fields) for name in names]


def share(endpoint: Endpoint) -> float:
    return endpoint.weight / endpoint.spec.weight


def shares_over_time(pool: Pool, endpoint: Endpoint, since: float) -> dict[float, float]:
    """The endpoint's share of its weight at the moments of FIGURES, as requests find it."""
    found = {}
    for seconds in FIGURES:
        pool.candidates(make_exchange(), since + seconds)
        found[seconds] = share(endpoint)
    return found


# By itself


def test_a_window_begins_at_the_least_and_ends_at_the_whole_weight() -> None:
    slow = SlowStart(60)
    (endpoint,) = make_endpoints(10)
    slow.begin(endpoint, 1000.0)
    assert endpoint.weight == 1
    weights = []
    for seconds in (0, 3, 15, 30, 45, 59.9):
        assert slow.step(1000.0 + seconds) == 1001.0 + seconds, "asked again a second later"
        weights.append(endpoint.weight)
    assert weights == pytest.approx([1, 1, 2.5, 5, 7.5, 9.98], abs=0.01)
    assert slow.step(1060.0) == NEVER
    assert endpoint.weight == 10


@pytest.mark.parametrize("window", [0.06, 1.0, 6.0, 60.0, 3600.0])
def test_a_weight_rises_in_sixty_steps_and_at_least_once_a_second(window: float) -> None:
    slow = SlowStart(window)
    (endpoint,) = make_endpoints(1)
    now = 0.0
    slow.begin(endpoint, now)
    weights = [endpoint.weight]
    while (after := slow.step(now)) != NEVER:
        assert 0 < after - now <= 1
        now = after
        weights.append(endpoint.weight)
    assert len(weights) == pytest.approx(max(60, window), abs=2)
    assert weights == sorted(weights)
    assert max(b - a for a, b in zip(weights, [*weights[1:], endpoint.weight], strict=True)) < 0.04


def test_without_a_window_nothing_begins() -> None:
    slow = SlowStart()
    (endpoint,) = make_endpoints(4)
    slow.begin(endpoint, 1000.0)
    assert (endpoint.weight, slow.step(1000.0)) == (4, NEVER)


@pytest.mark.parametrize(("least", "weights"), [(0.3, [3, 3, 5]), (1.0, [10, 10, 10]), (0.0, [0, 1.5, 5])])
def test_the_least_share_is_the_settings(least: float, weights: list[float]) -> None:
    slow = SlowStart(60, least)
    (endpoint,) = make_endpoints(10)
    slow.begin(endpoint, 1000.0)
    found = []
    for seconds in (0, 9, 30):
        slow.step(1000.0 + seconds)
        found.append(endpoint.weight)
    assert found == pytest.approx(weights)


def test_each_endpoint_has_a_window_of_its_own() -> None:
    slow = SlowStart(60)
    a, b = make_endpoints(1, 1)
    slow.begin(a, 1000.0)
    slow.begin(b, 1030.0)
    slow.step(1045.0)
    assert (a.weight, b.weight) == pytest.approx((0.75, 0.25))
    assert slow.step(1060.0) == 1061.0
    assert (a.weight, b.weight) == pytest.approx((1, 0.5))
    assert slow.step(1090.0) == NEVER


def test_one_that_is_dropped_has_its_weight_again() -> None:
    slow = SlowStart(60)
    a, b = make_endpoints(3, 3)
    slow.begin(a, 1000.0)
    slow.drop(a)
    b.weight = 2.0
    slow.drop(b)
    assert (a.weight, slow.step(1000.0)) == (3, NEVER)
    assert b.weight == 2.0, "what was never begun is left alone"


# In a pool


@pytest.fixture
def slow_pool(build: Build) -> Callable[..., Pool]:
    """A pool of a, b and c with a window of a minute, that serves already."""

    def make(endpoints: Any = 3, **settings: Any) -> Pool:
        pool = build(endpoints, slow_start=SlowStart(60), **settings)
        for endpoint in pool.members.values():
            pool.probed(endpoint, True, "", 900.0)
        pool.started()
        return pool

    return make


def test_one_that_comes_back_by_its_probe(slow_pool: Build, now: float) -> None:
    pool = slow_pool(probe=(1, 2))
    b = pool.members["b"]
    pool.probed(b, False, "x", now - 9)
    pool.probed(b, True, "", now - 1)
    assert b.weight == 1, "not ready yet"
    pool.probed(b, True, "", now)
    assert shares_over_time(pool, b, now) == pytest.approx(FIGURES)
    assert [share(pool.members[name]) for name in "ac"] == [1, 1]
    assert pool.due == NEVER


@pytest.mark.parametrize("rise", [1, 2])
def test_one_whose_probation_is_cleared(slow_pool: Build, now: float, scripted: Any, rise: int) -> None:
    pool = slow_pool(detectors=[scripted], ejection=EjectionRule(base=30, rise=rise))
    b = pool.members["b"]
    scripted.eject(pool, b, now - 30)
    pool.tick(now)
    for _ in range(rise):
        assert b.health.ejection.probation
        pool.told(b, Outcome("success"), now)
    assert not b.health.ejection.probation
    assert shares_over_time(pool, b, now) == pytest.approx(FIGURES)
    assert [share(pool.members[name]) for name in "ac"] == [1, 1]


def test_the_window_runs_while_probation_lasts(slow_pool: Build, now: float, scripted: Any) -> None:
    pool = slow_pool(detectors=[scripted], ejection=EjectionRule(base=30))
    b = pool.members["b"]
    scripted.eject(pool, b, now - 30)
    pool.tick(now)
    assert (share(b), b.limit) == (0.1, 1)
    pool.tick(now + 30)
    assert (share(b), b.limit) == (0.5, 1)


def test_one_that_the_operator_puts_back(slow_pool: Build, now: float) -> None:
    pool = slow_pool()
    b = pool.members["b"]
    pool.operate(b, "drain", now - 9)
    assert b.weight == 1
    pool.operate(b, "up", now)
    assert shares_over_time(pool, b, now) == pytest.approx(FIGURES)


def test_one_that_is_new(slow_pool: Build, now: float) -> None:
    pool = slow_pool(specs("ab"))
    pool.update([*specs("ab"), spec("c", weight=8)], now)
    assert shares_over_time(pool, pool.members["c"], now) == pytest.approx(FIGURES)
    assert [share(pool.members[name]) for name in "ab"] == [1, 1]


def test_one_whose_weight_was_0(slow_pool: Build, now: float) -> None:
    pool = slow_pool([spec("a"), spec("b", weight=0)])
    b = pool.members["b"]
    pool.update([spec("a"), spec("b", weight=6)], now)
    assert shares_over_time(pool, b, now) == pytest.approx(FIGURES)
    pool.update([spec("a"), spec("b", weight=0)], now + 99)
    assert b.weight == 0


def test_a_new_one_with_a_probe_begins_with_its_first_pass(slow_pool: Build, now: float) -> None:
    pool = slow_pool(specs("ab"), probe=(3, 2))
    pool.update(specs("abc"), now - 50)
    c = pool.members["c"]
    pool.tick(now - 20)
    pool.probed(c, True, "", now)
    assert shares_over_time(pool, c, now) == pytest.approx(FIGURES)


def test_nobody_starts_slowly_at_the_start(build: Build, now: float) -> None:
    pool = build(3, probe=(1, 1), slow_start=SlowStart(60))
    for endpoint in pool.members.values():
        pool.probed(endpoint, True, "", now)
    pool.started()
    assert [share(endpoint) for endpoint in pool.members.values()] == [1, 1, 1]
    assert pool.due == NEVER


def test_with_nobody_else_to_serve_there_is_no_slow_start(slow_pool: Build, now: float) -> None:
    pool = slow_pool(probe=(1, 1))
    a, b, c = pool.members.values()
    for endpoint in (a, b, c):
        pool.probed(endpoint, False, "x", now - 1)
    pool.probed(a, True, "", now)
    assert (share(a), pool.due) == (1, NEVER)
    pool.probed(b, True, "", now)
    assert (share(a), share(b)) == (1, 0.1)


@pytest.mark.parametrize("before", ["", "a", "ab"])
def test_those_that_come_in_the_place_of_all_others_share_evenly(slow_pool: Build, now: float, before: str) -> None:
    pool = slow_pool(specs(before))
    pool.update(specs("xyz"), now)
    assert len({share(endpoint) for endpoint in pool.members.values()}) == 1
    pool.update(specs("c"), now + 1)
    assert share(pool.members["c"]) == 1, "who has left serves nobody"


def test_another_tier_is_nobody_else(slow_pool: Build, now: float) -> None:
    pool = slow_pool([*specs("a"), *specs("bc", priority=1)])
    a = pool.members["a"]
    pool.operate(a, "drain", now - 1)
    pool.operate(a, "up", now)
    assert share(a) == 1
    b = pool.members["b"]
    pool.operate(b, "drain", now - 1)
    pool.operate(b, "up", now)
    assert share(b) == 0.1


def test_without_slow_start_weights_stay(build: Build, now: float) -> None:
    pool = build(3)
    pool.started()
    b = pool.members["b"]
    pool.operate(b, "drain", now)
    pool.operate(b, "up", now)
    assert (share(b), pool.due) == (1, NEVER)


def test_a_weight_that_changes_meanwhile_counts_at_once(slow_pool: Build, now: float) -> None:
    pool = slow_pool(specs("ab"))
    b = pool.members["b"]
    pool.operate(b, "drain", now)
    pool.operate(b, "up", now)
    pool.update([spec("a"), spec("b", weight=40)], now + 30)
    assert b.weight == pytest.approx(20)
    pool.candidates(make_exchange(), now + 45)
    assert b.weight == pytest.approx(30)
    pool.update([spec("a"), spec("b", weight=40), spec("c")], now + 46)
    assert b.weight == pytest.approx(40 * 46 / 60), "an update alone does not begin it anew, nor end it"
    pool.candidates(make_exchange(), now + 60)
    assert b.weight == 40


def test_one_that_goes_down_again_begins_anew(slow_pool: Build, now: float) -> None:
    pool = slow_pool(probe=(1, 1))
    b = pool.members["b"]
    pool.probed(b, False, "x", now - 50)
    pool.probed(b, True, "", now - 40)
    pool.tick(now - 10)
    assert share(b) == pytest.approx(0.5)
    pool.probed(b, False, "x", now - 10)
    assert share(b) == 1, "in panic all count in full"
    pool.tick(now - 5)
    assert (share(b), pool.due) == (1, NEVER)
    pool.probed(b, True, "", now)
    assert shares_over_time(pool, b, now) == pytest.approx(FIGURES)


def test_an_ejection_ends_a_window_too(slow_pool: Build, now: float, scripted: Any) -> None:
    pool = slow_pool(detectors=[scripted], ejection=EjectionRule(base=30))
    b = pool.members["b"]
    pool.operate(b, "drain", now)
    pool.operate(b, "up", now)
    scripted.eject(pool, b, now + 5)
    assert (share(b), pool.due) == (1, now + 1), "the step that was due comes still"
    pool.tick(now + 6)
    assert (share(b), pool.due) == (1, now + 35)
    pool.tick(now + 35)
    assert share(b) == 0.1


def test_a_removed_one_is_forgotten(slow_pool: Build, now: float) -> None:
    pool = slow_pool(specs("ab"))
    b = pool.members["b"]
    pool.operate(b, "drain", now)
    pool.operate(b, "up", now)
    pool.update(specs("a"), now + 1)
    pool.tick(now + 1)
    assert (share(b), pool.due) == (1, NEVER)
    pool.update(specs("ab"), now + 2)
    assert pool.members["b"] is not b
    assert share(pool.members["b"]) == 0.1


def test_who_moves_to_another_tier_goes_on(slow_pool: Build, now: float) -> None:
    pool = slow_pool(specs("abc"))
    b = pool.members["b"]
    pool.operate(b, "drain", now)
    pool.operate(b, "up", now)
    pool.update([spec("a"), spec("b", priority=1), spec("c")], now + 30)
    assert share(b) == pytest.approx(0.5)


def test_time_steps_the_weights_when_requests_come(slow_pool: Build, now: float) -> None:
    pool = slow_pool()
    b = pool.members["b"]
    pool.operate(b, "drain", now)
    pool.operate(b, "up", now)
    assert pool.due == now + 1
    found = []
    for step in range(200):
        at = now + 6 + step * 0.1
        pool.candidates(make_exchange(), at)
        assert at < pool.due <= at + 1
        found.append(b.weight)
    assert found == sorted(found)
    assert len(set(found)) == pytest.approx(20, abs=2), "once a second"


def test_meanwhile_a_table_strategy_may_stop_there_for_a_part_of_the_keys(slow_pool: Build, now: float) -> None:
    pool = slow_pool()
    a, b = pool.members["a"], pool.members["b"]
    pool.operate(b, "drain", now)
    pool.operate(b, "up", now)
    parts = []
    for seconds in (0, 30, 60):
        candidates = pool.candidates(make_exchange(), now + seconds)
        assert all(candidates.admits(a, key) for key in range(0, 0x10000, 64))
        parts.append(sum(candidates.admits(b, key) for key in range(0, 0x10000, 64)) / 1024)
    assert parts == pytest.approx([0.1, 0.5, 1.0], abs=0.01)
