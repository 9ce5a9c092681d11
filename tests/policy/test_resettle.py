"""A reload that changes a pool's settings: all that it knows and counts stays."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from router import Eject, EndpointSpec, Outcome
from router.policy.adaptive import AdaptiveLimit
from router.policy.health import EjectionRule
from router.policy.limits import Limits, Timeouts
from router.policy.pool import Pool
from router.policy.retry import Budget, RetryRule
from router.policy.routes import Route
from router.policy.slowstart import SlowStart
from router.policy.split import Split
from router.testing import make_exchange

NAMES = "abc"


class First:
    def __init__(self) -> None:
        self.updates: list[int] = []

    def choose(self, candidates: Any, exchange: Any) -> Any:
        return candidates[0]

    def update(self, endpoints: Any) -> None:
        self.updates.append(len(endpoints))


def pool_of(selector: Any = None, **settings: Any) -> Pool:
    return Pool("web", selector or First(), rng=random.Random(1), **settings)


@pytest.fixture
def serving(now: float) -> Callable[..., Pool]:
    def make(**settings: Any) -> Pool:
        pool = pool_of(**settings)
        pool.update([EndpointSpec(url=f"http://{name}.test", id=name) for name in NAMES], now)
        pool.started()
        return pool

    return make


def usable(pool: Pool, now: float) -> str:
    return "".join(sorted(e.identity for e in pool.candidates(make_exchange(), now) or ()))


def test_plain_settings_are_taken_and_what_is_counted_stays(serving: Callable[..., Pool], now: float) -> None:
    pool = serving(budget=Budget(0.5, 3))
    a = pool.members["a"]
    pool.acquire(a, now)
    pool.in_flight = 1
    assert pool.budget.withdraw(now)
    limits, timeouts, retry = Limits(in_flight=7), Timeouts(head=3), RetryRule(attempts=9, attempt_timeout=1)
    fresh = pool_of(limits=limits, timeouts=timeouts, retry=retry, budget=Budget(0.1, 8), on_unready="refuse")
    pool.resettle(fresh, now)
    assert (pool.limits, pool.timeouts, pool.retry) == (limits, timeouts, retry)
    assert (pool.attempt_timeout, pool.on_unready) == (1, "refuse")
    assert pool.members["a"] is a
    assert (a.load, pool.in_flight, a.requests) == (1, 1, 1)
    assert (pool.budget.share, pool.budget.reserve) == (0.1, 8)
    assert pool.budget.balance(now) == 7, "what was taken stays taken"
    assert usable(pool, now) == NAMES


def test_only_another_selector_is_told_of_the_members(serving: Callable[..., Pool], now: float) -> None:
    selector = First()
    pool = serving(selector=selector)
    pool.resettle(pool_of(selector=selector), now)
    assert selector.updates == [3]
    other = First()
    pool.resettle(pool_of(selector=other), now)
    assert other.updates == [3]
    assert pool.selector is other


def test_a_selector_whose_update_fails_is_told_of_and_the_rest_goes_on(
    serving: Callable[..., Pool], now: float
) -> None:
    class Broken(First):
        def update(self, endpoints: Any) -> None:
            raise RuntimeError("no")

    pool, told = serving(), []
    pool.muted = lambda plugin, error: told.append((plugin, str(error)))
    broken = Broken()
    pool.resettle(pool_of(selector=broken), now)
    assert told == [(broken, "no")]
    assert usable(pool, now) == NAMES


def test_a_detector_whose_forget_fails_keeps_nobody_in(serving: Callable[..., Pool], now: float) -> None:
    class Clinging:
        def observe(self, endpoint: Any, outcome: Any, now: float) -> None: ...

        def forget(self, endpoint: Any) -> None:
            raise RuntimeError("no")

    clinging = Clinging()
    pool, told, gone = serving(detectors=[clinging]), [], []
    pool.muted = lambda plugin, error: told.append(plugin)
    pool.gone = gone.append
    before = pool.members["a"]
    pool.update([pool.members["b"].spec], now)
    assert told == [clinging, clinging]
    assert before in gone


def test_an_ejection_outlasts_new_settings_and_the_next_one_goes_by_them(
    serving: Callable[..., Pool], now: float
) -> None:
    class Strict:
        def observe(self, endpoint: Any, outcome: Outcome, now: float) -> Eject | None:
            return Eject("one failure", True) if outcome.result == "failure" else None

    pool = serving(detectors=[Strict()])
    a = pool.members["a"]
    pool.told(a, Outcome("failure", phase="connect"), now)
    assert usable(pool, now) == "bc"
    rule = EjectionRule(base=2, longest=4)
    pool.resettle(pool_of(ejection=rule), now)
    assert usable(pool, now + 1) == "bc"
    assert a.health.ejection.rule is rule
    assert usable(pool, now + 31) == NAMES


def test_a_probe_that_is_new_takes_nobody_out(serving: Callable[..., Pool], now: float) -> None:
    pool = serving()
    pool.resettle(pool_of(probe=(2, 2)), now)
    assert usable(pool, now) == NAMES
    a = pool.members["a"]
    pool.probed(a, False, "refused", now)
    assert usable(pool, now) == NAMES
    pool.probed(a, False, "refused", now)
    assert usable(pool, now) == "bc"
    pool.resettle(pool_of(probe=(2, 3)), now)
    assert usable(pool, now) == "bc", "what is known stays known"
    assert (a.health.probed.fall, a.health.probed.rise) == (2, 3)
    pool.resettle(pool_of(), now)
    assert usable(pool, now) == NAMES, "without a probe nobody is down"


def test_zones_and_panic_are_asked_anew(serving: Callable[..., Pool], now: float) -> None:
    pool = pool_of()
    zones = {"a": "here", "b": "there"}
    pool.update([EndpointSpec(url=f"http://{name}.test", id=name, zone=zone) for name, zone in zones.items()], now)
    pool.started()
    assert usable(pool, now) == "ab"
    pool.resettle(pool_of(zone="here"), now)
    assert usable(pool, now) == "a"
    pool.resettle(pool_of(zone="elsewhere"), now)
    assert usable(pool, now) == "ab"
    said: list[str] = []
    pool.said = said.append
    pool.resettle(pool_of(few_ready=1.0), now)
    assert len(said) == 1
    pool.resettle(pool_of(few_ready=1.0, when_few_ready="refuse"), now)
    assert len(said) == 1, "it goes on as it was"
    pool.resettle(pool_of(), now)
    assert len(said) == 2


def test_adaptive_limits_are_kept_unless_their_rule_is_another(serving: Callable[..., Pool], now: float) -> None:
    pool = serving(limits=Limits(adaptive="aimd"))
    a = pool.members["a"]
    for _ in range(50):
        pool.told(a, Outcome("failure", phase="head"), now)
    low = a.limit
    pool.resettle(pool_of(limits=Limits(adaptive="aimd", queue=3)), now)
    assert a.limit == low
    pool.resettle(pool_of(limits=Limits(adaptive="gradient")), now)
    assert a.limit > low
    pool.resettle(pool_of(limits=Limits(per_endpoint=4)), now)
    assert a.limit == 4
    assert not any(isinstance(kept, AdaptiveLimit) for kept in pool._adaptive.values())


def test_a_measured_hedge_delay_is_kept_while_its_share_is_the_same(serving: Callable[..., Pool], now: float) -> None:
    pool = serving(retry=RetryRule(hedge_share=0.95))
    for _ in range(200):
        pool.told(pool.members["a"], Outcome("success", elapsed=0.05), now)
    measured = pool.hedge_after
    assert measured is not None
    pool.resettle(pool_of(retry=RetryRule(hedge_share=0.95, attempts=1)), now)
    assert pool.hedge_after == measured
    pool.resettle(pool_of(retry=RetryRule(hedge_share=0.5)), now)
    assert pool.hedge_after is None
    pool.resettle(pool_of(retry=RetryRule(hedge_after=0.2)), now)
    assert pool.hedge_after == 0.2


def test_a_slow_start_goes_on_by_the_new_measure(serving: Callable[..., Pool], now: float) -> None:
    pool = serving(slow_start=SlowStart(60))
    a = pool.members["a"]
    pool.operate(a, "drain", now)
    pool.operate(a, "up", now)
    assert a.weight == pytest.approx(0.1)
    pool.resettle(pool_of(slow_start=SlowStart(20)), now + 10)
    assert a.weight == pytest.approx(0.5)
    pool.resettle(pool_of(), now + 11)
    assert a.weight == 1


def test_a_large_pool_pays_for_what_is_different_alone(now: float) -> None:
    pool = pool_of()
    specs = [EndpointSpec(url=f"http://10.0.{n // 250}.{n % 250 + 1}:80") for n in range(1000)]
    pool.update(specs, now)
    seated: list[str] = []
    seat = pool._seat

    def counted(endpoint: Any, *rest: Any) -> None:
        seated.append(endpoint.identity)
        seat(endpoint, *rest)

    pool._seat = counted  # type: ignore[method-assign]
    pool.update([EndpointSpec(url=specs[0].url, weight=2), *specs[1:]], now)
    assert seated == ["http://10.0.0.1:80"]
    pool.update([*specs[:-1], EndpointSpec(url="http://new.test")], now)
    assert seated[1:] == ["http://new.test:80", "http://10.0.0.1:80"]
    assert len(pool.candidates(make_exchange(), now) or ()) == 1000


def test_what_has_left_is_known_until_its_last_lease_closes(serving: Callable[..., Pool], now: float) -> None:
    pool = serving()
    left: list[str] = []
    gone: list[str] = []
    pool.left = lambda endpoint: left.append(endpoint.identity)
    pool.gone = lambda endpoint: gone.append(endpoint.identity)
    a = pool.members["a"]
    pool.acquire(a, now)
    pool.acquire(a, now)
    pool.update([pool.members["c"].spec], now + 1)
    assert (left, gone, pool.leaving) == (["a"], ["b"], {a: now + 1})
    pool.release(a, now)
    assert gone == ["b"]
    pool.release(a, now)
    assert (gone, pool.leaving) == (["b", "a"], {})


def test_a_route_knows_which_plugins_its_requests_may_call(serving: Callable[..., Pool]) -> None:
    one, two, strict, sticky = serving(detectors=[First()]), serving(), First(), First()
    two.stick(sticky)  # type: ignore[arg-type]
    plain = Route("plain", 0, one)
    split = Route("split", 1, one, split=Split([(one, 1), (two, 1)]))
    answer = Route("answer", 2, None)
    assert (plain.pools, split.pools, answer.pools) == ((one,), (one, two), ())
    assert plain.leads_to(one.selector)
    assert plain.leads_to(one.detectors[0])
    assert not plain.leads_to(sticky)
    assert split.leads_to(sticky)
    assert not split.leads_to(strict)
