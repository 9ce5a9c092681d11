"""What is said of a request is what the router does with it, and saying it changes nothing."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest

from router import Candidates, Eject, Endpoint, EndpointSpec, Exchange, Members, Outcome
from router.config import Duration
from router.errors import ConnectError, NoRoute, ResetError
from router.explanation import Choice, Explanation, LeftEndpoint, LeftOut, PoolVerdict, Waiting
from router.model import Attempt
from router.plugins import Registry
from router.policy.actions import Answer, Park, Sleep
from router.policy.answering import GivenAnswer
from router.policy.dispatch import Dispatch
from router.policy.explaining import explain, explain_answer, explain_decision
from router.policy.limits import Limits
from router.policy.pool import Pool
from router.policy.retry import Budget, RetryRule
from router.policy.rewriting import Rewriting
from router.policy.routes import Route, RouteTable
from router.policy.slowstart import SlowStart
from router.policy.split import Split
from router.policy.standing import line_up
from router.policy.table import Table
from router.policy.waiting import Ticket
from router.testing import make_exchange, make_tools

Build = Callable[..., Pool]
NAMES = ["least_request", "random", "round_robin"]
FAILED = Outcome("failure", phase="connect")


def spec(name: str, **fields: Any) -> EndpointSpec:
    return EndpointSpec(url=f"http://{name}.test", id=name, **fields)


def specs(names: str, **fields: Any) -> list[EndpointSpec]:
    return [spec(name, **fields) for name in names]


def bundled(name: str, seed: int = 1) -> Any:
    return Registry.load().resolve("selection", name, None).make(make_tools(seed))


def table_of(*routes: Route, health: str = "", place: Callable[[Route], str] = lambda route: "") -> Table:
    return Table(1, RouteTable(routes), {}, health_path=health, place_of=place)


def verdict(pool: Pool, now: float, exchange: Exchange | None = None, **route: Any) -> PoolVerdict:
    """What is said of an exchange in a pool that a route sends everything to."""
    explanation = explain(table_of(Route("all", 0, pool, **route)), exchange or make_exchange(), now)
    (said,) = explanation.pools
    return said


def choice(said: PoolVerdict) -> Choice:
    (only,) = said.choices
    return only


def left(said: PoolVerdict) -> dict[str, dict[str, str]]:
    """Reason -> endpoint -> detail."""
    return {group.reason: {e.id: e.detail for e in group.endpoints} for group in said.left_out}


class Says:
    """A selector whose scores are scripted."""

    def __init__(self, scores: Any) -> None:
        self.scores = scores

    def choose(self, candidates: Candidates, exchange: Exchange) -> Endpoint:
        return candidates[0]


class Hashes:
    """A selector that hashes; chooses the first."""

    def __init__(self, key: Any) -> None:
        self.given = key

    def key(self, exchange: Exchange) -> Any:
        if isinstance(self.given, Exception):
            raise self.given
        return self.given

    def choose(self, candidates: Candidates, exchange: Exchange) -> Endpoint:
        return candidates[0]


# The route


def test_the_routers_own_answers() -> None:
    given = Route("gone", 0, None, paths=["/gone"], answer=GivenAnswer(410, "gone"))
    away = Route("away", 1, None, paths=["/away"], answer=GivenAnswer(308, redirect="https://{host}/"))
    small = Route("small", 2, None, paths=["/small"], max_body=5)
    table = table_of(given, away, small, health="/-/health", place=lambda route: f"at {route.index}")

    def answer(target: str, method: str = "GET", **fields: Any) -> tuple[str, int | None, str]:
        said = explain(table, make_exchange(method, target, **fields), 0.0)
        assert (said.pools, said.filters) == ((), ())
        return f"{said.route} {said.place}".strip(), said.status, said.reason

    assert answer("/gone") == ("gone at 0", 410, "answered by the route")
    assert answer("/away", host="shop.example") == ("away at 1", 308, "sent to https://shop.example/")
    assert answer("/away", host="") == ("", 400, "a redirect to the request's host, and there is none")
    assert answer("/small", "PUT", headers={"Content-Length": "6"})[1:] == (413, "the body is larger than max_body")
    assert answer("/nobody") == ("", 404, "no route")
    assert answer("/-/health/live") == ("", 200, "the router's own health")
    assert answer("/", "CONNECT") == ("", 405, "the router is no tunnel")
    assert answer("/", host="a b")[:2] == ("", 400)


def test_the_request_the_route_and_what_it_changes(build: Build, now: float) -> None:
    moved = Route("api", 0, build(1), paths=["/api/*"], rewriting=Rewriting("/api", "/v2"), filters=(Says(None),))
    same = Route("same", 1, build(1), paths=["/same"], rewriting=Rewriting("/api", "/v2"))
    table = table_of(moved, same, place=lambda route: f"router.toml:{route.index + 7}")
    said = explain(table, make_exchange("POST", "/api/x?y", scheme="https"), now)
    assert (said.request, said.target) == ("POST https://example.test/api/x?y", "/v2/x?y")
    assert (said.route, said.place, said.status, said.filters) == ("api", "router.toml:7", None, ("Says",))
    assert explain(table, make_exchange(target="/same"), now).target == ""


@pytest.mark.parametrize("length", ["5", "", "much"])
def test_a_body_that_may_be_small_enough_goes_on(build: Build, now: float, length: str) -> None:
    exchange = make_exchange("PUT", headers={"Content-Length": length})
    assert verdict(build(1), now, exchange, max_body=5).decision == "a"


def test_each_pool_that_chance_may_name_is_explained(build: Build, now: float) -> None:
    one, other, spare = build(1), build(2), build(1)
    for pool, name in zip((one, other, spare), ("one", "other", "spare"), strict=True):
        pool.name = name
    one.strategy = "first"
    lucky = Route("luck", 0, one, split=Split([(one, 1), (other, 3), (spare, 0)]))
    said = explain(table_of(lucky), make_exchange(), now)
    assert [(p.name, p.share, p.selection, p.members) for p in said.pools] == [
        ("one", 0.25, "first", 1),
        ("other", 0.75, "Rotating", 2),
    ]
    steady = Route("tenant", 0, one, split=Split([(one, 1), (other, 3)], "header:X-Tenant"))
    (chosen,) = explain(table_of(steady), make_exchange(headers={"X-Tenant": "7"}), now).pools
    assert chosen.share == 1


def test_what_is_said_can_be_sent(build: Build, now: float) -> None:
    pool = build(specs("abc"), limits=Limits(1, queue=2, queue_timeout=float("inf")))
    pool.in_flight = 1
    said = explain(table_of(Route("\x1b[31m", 0, pool)), make_exchange(target="/\udc80\x07"), now)
    assert said.request == r"GET http://example.test/\udc80\x07"
    assert msgspec.json.decode(msgspec.json.encode(said), type=Explanation) == said


def test_times_as_the_configuration_gives_them_can_be_sent(build: Build, now: float) -> None:
    """They are floats of a type of their own, which msgspec does not write."""
    pool = build(
        specs("abc"),
        limits=Limits(1, queue=2, queue_timeout=Duration(2)),
        retry=RetryRule(2, ("connect",), hedge_after=Duration(0.5)),
    )
    pool.in_flight = 1
    for timeout in (Duration(1), Duration(9), Duration("inf")):
        said = explain(table_of(Route("all", 0, pool, timeout=timeout)), make_exchange(), now)
        text = msgspec.json.encode(said)
        assert text == said.text(len(text)).encode()
        assert said.pools[0].waiting == Waiting(
            "the pool's limit of 1 requests is reached", 0, 2, float(min(timeout, 2))
        )


# Left out


def test_everybody_that_is_left_out_and_why(build: Build, now: float, scripted: Any) -> None:
    drained = spec("drained", state="drain")
    pool = build(
        [*specs("abcd"), drained, spec("light", weight=0), spec("new"), spec("later", priority=1)],
        detectors=[scripted],
        probe=(1, 1),
        limits=Limits(per_endpoint=2),
    )
    members = pool.members
    for name in ("a", "b", "c", "d", "drained", "light", "later"):
        pool.probed(members[name], True, "", now)
    pool.probed(members["b"], False, "status 500", now)
    scripted.eject(pool, members["c"], now)
    pool.acquire(members["d"], now)
    pool.acquire(members["d"], now)
    said = verdict(pool, now + 9)
    assert left(said) == {
        "draining": {"drained": ""},
        "weight 0": {"light": ""},
        "not probed yet": {"new": ""},
        "down": {"b": "1 probe failed: status 500"},
        "ejected": {"c": "test; back in 21 s"},
        "full": {"d": "2 of 2 under way"},
    }
    pool.operate(members["b"], "drain", now)
    pool.operate(members["b"], "up", now)
    assert left(verdict(pool, now))["down"] == {"b": ""}
    assert (said.members, said.ready, said.in_flight) == (8, 3, 0)
    assert {o.id: c.share for c in said.choices for o in c.options} == {
        "a": pytest.approx(0.56),
        "later": pytest.approx(0.44),
    }


def test_ten_names_stand_for_many(build: Build, now: float) -> None:
    pool = build([EndpointSpec(url=f"http://h:{port}", state="drain") for port in range(1, 31)])
    (group,) = verdict(pool, now).left_out
    assert group == LeftOut("draining", 30, tuple(LeftEndpoint(f"http://h:{port}") for port in range(1, 11)))


def test_on_probation_one_at_a_time(build: Build, now: float, scripted: Any) -> None:
    pool = build(specs("ab"), detectors=[scripted])
    a = pool.members["a"]
    scripted.eject(pool, a, now)
    over = a.health.ejection.until
    assert left(verdict(pool, over - 1)) == {"ejected": {"a": "test; back in 1 s"}}
    # Nobody has ticked yet, and nobody is made to.
    said = verdict(pool, over)
    assert {o.id: o.state for o in choice(said).options} == {"a": "on probation", "b": "ready"}
    assert a.health.ejection.out
    pool.tick(over)
    pool.acquire(a, over)
    assert left(verdict(pool, over)) == {"on probation and busy": {"a": "1 of 1 under way"}}


def test_with_all_others_full_those_on_probation_take_more(build: Build, now: float, scripted: Any) -> None:
    pool = build(specs("ab"), detectors=[scripted], limits=Limits(per_endpoint=2))
    a, b = pool.members.values()
    scripted.eject(pool, a, now)
    over = a.health.ejection.until
    pool.tick(over)
    for endpoint in (a, b, b):
        pool.acquire(endpoint, over)
    said = verdict(pool, over)
    assert (said.decision, choice(said).why) == (
        "a",
        "all others are full or out: those on probation may take more than one request",
    )
    assert left(said) == {"full": {"b": "2 of 2 under way"}}


def test_few_ready_health_is_ignored(build: Build, now: float) -> None:
    pool = build([*specs("abc"), spec("d", state="drain")], probe=(1, 1), limits=Limits(per_endpoint=1))
    pool.probed(pool.members["a"], False, "refused", now)
    pool.acquire(pool.members["c"], now)
    said = verdict(pool, now)
    assert choice(said).why == "health is ignored: 0 of 3 endpoints ready"
    assert {o.id: o.state for o in choice(said).options} == {"a": "down", "b": "not probed yet"}
    assert left(said) == {"draining": {"d": ""}, "full": {"c": "1 of 1 under way"}}


def test_few_ready_nobody_is_asked(build: Build, now: float) -> None:
    pool = build(specs("abc"), probe=(1, 1), when_few_ready="refuse", few_ready=0.5)
    pool.probed(pool.members["a"], True, "", now)
    said = verdict(pool, now)
    assert (said.status, said.decision, said.choices) == (503, "503: 1 of 3 endpoints ready", ())
    assert left(said)["too few of its tier are ready"] == {"a": ""}


def test_an_empty_pool(build: Build, now: float) -> None:
    assert verdict(build(0), now).decision == "503: 0 of 0 endpoints ready"


# Tiers and zones


def test_a_tier_that_is_not_asked(build: Build, now: float) -> None:
    pool = build([*specs("ab"), *specs("cd", priority=1)])
    said = verdict(pool, now)
    assert (choice(said).priority, choice(said).share) == (0, 1)
    assert left(said) == {"other tier": {"c": "tier 1", "d": "tier 1"}}


def test_a_full_tier_spills_over(build: Build, now: float) -> None:
    pool = build([*specs("a"), *specs("bc", priority=1)], limits=Limits(per_endpoint=1))
    pool.acquire(pool.members["a"], now)
    said = verdict(pool, now)
    assert (choice(said).priority, choice(said).share, choice(said).count) == (1, 1, 2)
    assert left(said) == {"full": {"a": "1 of 1 under way"}}


@pytest.mark.parametrize(("key", "tier"), [(0, 0), (0xFFFFFFFF, 1)])
def test_a_key_draws_the_tier(build: Build, now: float, key: int, tier: int) -> None:
    pool = build([*specs("ab"), *specs("cd", priority=1)], selector=Hashes(key))
    pool.operate(pool.members["a"], "drain", now)
    pool.members["b"].health.ejection.eject(now, "test")
    pool.update([*specs("abe"), *specs("cd", priority=1)], now)
    said = verdict(pool, now)
    assert (choice(said).priority, choice(said).share) == (tier, 1)


@pytest.mark.parametrize("key", [ValueError("no"), "garbage", None])
def test_without_a_key_chance_draws_the_tier(build: Build, now: float, key: Any) -> None:
    pool = build([*specs("abc"), *specs("d", priority=1)], selector=Hashes(key), probe=(1, 1))
    for name in "ad":
        pool.probed(pool.members[name], True, "", now)
    said = verdict(pool, now)
    shares = {c.priority: c.share for c in said.choices}
    assert shares == {0: pytest.approx(1.4 / 3), 1: pytest.approx(1 - 1.4 / 3)}
    assert (said.decision, said.endpoint) == ("one of 2, by chance", "")


def test_the_own_zone(build: Build, now: float) -> None:
    pool = build([*specs("ab", zone="z"), *specs("c", zone="y"), *specs("d")], zone="z")
    said = verdict(pool, now)
    assert (choice(said).why, choice(said).count) == ("zone z alone", 2)
    assert left(said) == {"other zone": {"c": "zone y", "d": "no zone"}}
    for name in "ab":
        pool.operate(pool.members[name], "drain", now)
    assert choice(verdict(pool, now)).count == 2


# Affinity


def test_no_affinity_says_nothing(build: Build, now: float) -> None:
    assert verdict(build(1), now).affinity == ""


def test_a_pin_decides(build: Build, now: float, scripted: Any) -> None:
    pool = build(3, affinity=scripted)
    assert verdict(pool, now).affinity == "names none"
    scripted.pin = pool.members["b"]
    said = verdict(pool, now)
    assert (said.affinity, said.endpoint, said.decision, said.choices) == ("pinned to b", "b", "b", ())
    pool.operate(scripted.pin, "drain", now)
    assert verdict(pool, now).affinity == "pinned to b, which is draining"


def test_a_pin_that_cannot_be_kept(build: Build, now: float, scripted: Any) -> None:
    pool = build(3, affinity=scripted, detectors=[scripted], limits=Limits(per_endpoint=1))
    scripted.pin = pool.members["b"]
    pool.acquire(scripted.pin, now)
    said = verdict(pool, now)
    assert (said.affinity, said.decision) == (
        "pinned to b: full, so another is chosen",
        "one of 2, as Rotating chooses",
    )
    pool.limits.queue = 1
    said = verdict(pool, now)
    assert (said.affinity, said.decision, said.status) == (
        "pinned to b: full, so it waits for it, and then another is chosen",
        "waits up to 1 s: the session's server is full; 0 of 1 places of the queue taken",
        None,
    )
    pool.limits.queue = 0
    pool.on_unready = "refuse"
    said = verdict(pool, now)
    assert (said.affinity, said.decision, said.status) == (
        "pinned to b: full, so it is refused",
        "503: the session's server is full",
        503,
    )
    pool.on_unready = "reselect"
    scripted.eject(pool, scripted.pin, now)
    assert verdict(pool, now).affinity == "pinned to b: ejected, so another is chosen"
    pool.on_unready = "refuse"
    said = verdict(pool, now)
    assert said.affinity == "pinned to b: ejected, so it is refused"
    assert (said.status, said.decision) == (503, "503: the session's server is not ready")
    pool.update(specs("ac"), now)
    assert verdict(pool, now).affinity == "pinned to b: not in the pool any more, so it is refused"


def test_an_affinity_that_fails_names_nobody(build: Build, now: float, scripted: Any) -> None:
    pool = build(1, affinity=scripted)
    scripted.error = ValueError("\x1b no\udc80" + "o" * 300)
    assert verdict(pool, now).affinity == r"raised ValueError: \x1b no\udc80" + "o" * 195 + "; taken for none"
    scripted.error = None
    scripted.pin = "b"
    assert verdict(pool, now).affinity == "named a str, which is no endpoint"
    assert verdict(pool, now).endpoint == "a"


# The choice


def test_a_strategy_that_says_nothing(build: Build, now: float) -> None:
    said = verdict(build(10), now)
    assert (said.decision, said.endpoint) == ("one of 10, as Rotating chooses", "")
    assert {o.share for o in choice(said).options} == {None}
    assert verdict(build(1), now).endpoint == "a"


def test_ten_candidates_stand_for_many(build: Build, now: float) -> None:
    pool = build([EndpointSpec(url=f"http://h:{port}") for port in range(1, 31)], selector=bundled("random"))
    said = verdict(pool, now)
    assert (choice(said).count, len(choice(said).options)) == (30, 10)
    assert {o.share for o in choice(said).options} == {1 / 30}
    assert said.decision == "one of 30, by chance"


def test_the_likeliest_first_and_all_shares_of_one(build: Build, now: float) -> None:
    pool = build([spec("a"), spec("b", weight=3), spec("c", priority=1, weight=5)], selector=bundled("random"))
    pool.operate(pool.members["a"], "drain", now)
    pool.members["a"].health.operator = "up"
    said = verdict(pool, now)
    assert [(o.id, o.share, o.weight, o.load) for o in choice(said).options] == [("b", 0.75, 3, 0), ("a", 0.25, 1, 0)]
    assert said.decision == "one of 2, by chance"


def test_some_are_likely_and_the_others_not_asked_about(build: Build, now: float) -> None:
    pool = build(3, selector=Says(lambda candidates, exchange, limit: [(e, 0.5) for e in candidates[:2]]))
    said = verdict(pool, now)
    assert [(o.id, o.share) for o in choice(said).options] == [("a", 0.5), ("b", 0.5), ("c", None)]
    assert said.decision == "one of 2, by chance"
    pool.selector.scores = lambda candidates, exchange, limit: [(candidates[2], 0.5)]  # type: ignore[attr-defined]
    assert verdict(pool, now).decision == "one of 3, as Says chooses"


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError


def raising(error: Exception) -> Any:
    def scores(candidates: Any, exchange: Any, limit: int) -> Any:
        raise error

    return scores


def endless(candidates: Any, exchange: Any, limit: int) -> Iterator[Any]:
    while True:
        yield candidates[0], 1


@pytest.mark.parametrize(
    ("scores", "failed"),
    [
        (raising(ValueError("no")), "Says.scores raised ValueError: no"),
        (raising(Mute()), "Says.scores raised Mute"),
        (lambda c, e, n: [("a", 1)], "Says.scores raised LookupError: 'a' is not a candidate"),
        (lambda c, e, n: [(c[0], 2)], "Says.scores raised ValueError: 2 is no probability"),
        (lambda c, e, n: [(c[0], float("nan"))], "Says.scores raised ValueError: nan is no probability"),
        (lambda c, e, n: 7, "Says.scores raised TypeError: 'int' object is not iterable"),
        (endless, ""),
        (lambda c, e, n: c.clear() or (), ""),
    ],
)
def test_wrong_scores_are_told_and_never_felt(build: Build, now: float, scores: Any, failed: str) -> None:
    said = verdict(build(3, selector=Says(scores)), now)
    assert (choice(said).failed, choice(said).count) == (failed, 3)
    assert bool(said.endpoint) == (scores is endless)


def test_the_exchange_stays_as_it_is(build: Build, now: float, scripted: Any) -> None:
    pool, exchange = build(3, selector=Hashes(7), affinity=scripted), make_exchange()
    scripted.pin, exchange.marks = pool.members["a"], {"mine": 1}
    before = msgspec.structs.astuple(exchange)
    assert verdict(pool, now, exchange).endpoint == "a"
    assert msgspec.structs.astuple(exchange) == before


def test_ten_thousand_endpoints_cost_little(build: Build, now: float) -> None:
    many = [EndpointSpec(url=f"http://h{n % 100}:{n + 1}", weight=1 + n % 3) for n in range(10_000)]
    pool = build(many, selector=bundled("least_request"))
    for endpoint in list(pool.members.values())[::2]:
        pool.operate(endpoint, "drain", now)
    said = verdict(pool, now)
    assert (choice(said).count, said.left_out[0].count) == (5_000, 5_000)
    assert len(msgspec.json.encode(said)) < 5_000


# Limits, the queue and retries


def test_where_the_pool_is_full(build: Build, now: float) -> None:
    pool = build(2, limits=Limits(in_flight=5, queue=3))
    pool.in_flight = 5
    pool.queue.park(Ticket(now + 1, admitted=False))
    said = verdict(pool, now)
    assert said.status is None
    assert said.decision == (
        "waits up to 1 s: the pool's limit of 5 requests is reached; 1 of 3 places of the queue taken"
    )
    assert verdict(pool, now, timeout=0.25).waiting.seconds == 0.25  # type: ignore[union-attr]
    pool.limits.queue = 1
    said = verdict(pool, now)
    assert said.status == 503
    assert said.decision == "503: the pool's limit of 5 requests is reached, and the queue of 1 is full"
    pool.limits.queue = 0
    assert verdict(pool, now).decision == "503: the pool's limit of 5 requests is reached, and none may wait"


def test_newcomers_never_pass_those_that_wait(build: Build, now: float) -> None:
    pool = build(2, limits=Limits(queue=3, queue_timeout=float("inf")))
    pool.queue.park(Ticket(now + 1, admitted=False))
    assert verdict(pool, now).decision == "waits: others wait already; 1 of 3 places of the queue taken"


def test_where_all_endpoints_are_full(build: Build, now: float, scripted: Any) -> None:
    pool = build(1, limits=Limits(per_endpoint=1, queue=3, queue_timeout=2), affinity=scripted)
    pool.acquire(pool.members["a"], now)
    said = verdict(pool, now)
    words = "waits up to 2 s: all endpoints that are ready are full; 0 of 3 places of the queue taken"
    assert (said.status, said.decision, said.choices) == (None, words, ())


def test_retries(build: Build, now: float) -> None:
    rule = RetryRule(3, ("timeout", "connect", "5xx", "429"), hedge_after=0.5)
    pool = build(1, retry=rule, budget=Budget(0.5, 3))
    for _ in range(4):
        pool.budget.deposit(now)
    said = verdict(pool, now).retries
    assert said is not None
    assert (said.attempts, said.on, said.budget) == (3, ("connect", "timeout", "5xx", "429"), 5)
    assert (said.only_unsent, said.hedge_after) == (False, 0.5)
    said = verdict(pool, now + 11, make_exchange("POST")).retries
    assert said is not None
    assert (said.budget, said.only_unsent, said.hedge_after) == (3, True, None)
    plain = verdict(build(1, retry=RetryRule(0, ("503",), hedge_after=1)), now).retries
    assert plain is not None
    assert (plain.attempts, plain.on, plain.hedge_after) == (0, ("503",), None)


# Requests that are under way


def begin(pool: Pool, tell: bool = True) -> Dispatch:
    exchange = make_exchange()
    exchange.route = Route("all", 0, pool)
    return Dispatch(pool, exchange, tell)


def again(dispatch: Dispatch, now: float) -> PoolVerdict:
    """What is said of what comes next."""
    exchange = dispatch.exchange
    before = msgspec.structs.astuple(exchange), msgspec.structs.astuple(dispatch)[3:]
    (said,) = explain_decision(table_of(exchange.route), exchange, dispatch, now).pools
    assert (msgspec.structs.astuple(exchange), msgspec.structs.astuple(dispatch)[3:]) == before
    return said


def tried(dispatch: Dispatch, now: float, *, sent: bool = False) -> Endpoint:
    """One attempt more, and it fails."""
    attempt = dispatch.next(now)
    if isinstance(attempt, Sleep):
        attempt = dispatch.next(attempt.until)
    assert isinstance(attempt, Attempt)
    attempt.sent_at = now
    dispatch.failed(attempt, ResetError() if sent else ConnectError(), sent, now)
    return attempt.endpoint


class Unasked:
    """A selector whose scores must not be asked for."""

    def choose(self, candidates: Candidates, exchange: Exchange) -> Endpoint:
        return candidates[0]

    def scores(self, candidates: Candidates, exchange: Exchange, limit: int) -> Any:
        raise AssertionError


@pytest.mark.parametrize("state", ["ready", "drained", "full", "down", "refused", "tiers", "zone"])
def test_a_large_pool_is_told_of_in_numbers_to_a_request_under_way(build: Build, now: float, state: str) -> None:
    many = [
        EndpointSpec(
            url=f"http://h:{n + 1}",
            priority=n % 2 if state == "tiers" else 0,
            zone="ab"[n % 2] if state == "zone" else "",
        )
        for n in range(300)
    ]
    settings: dict[str, Any] = {"zone": "a"} if state == "zone" else {}
    if state in ("down", "refused"):
        settings |= {"probe": (1, 1), "when_few_ready": "try_all" if state == "down" else "refuse"}
    pool = build(
        many, selector=Unasked(), limits=Limits(per_endpoint=1, queue=1, queue_timeout=Duration(2)), **settings
    )
    able = 300
    for endpoint in list(pool.members.values()):
        if state == "drained" and endpoint.spec.url.endswith("7"):
            pool.operate(endpoint, "drain", now)
            able -= 1
        elif state == "full":
            pool.acquire(endpoint, now)
    dispatch = begin(pool)
    said = again(dispatch, now)
    shown = {"full": [], "refused": [], "tiers": [(0, 150)], "zone": [(0, 150)]}.get(state, [(0, able)])
    assert [(each.priority, each.count) for each in said.choices] == shown
    for each in said.choices:
        assert [option.share for option in each.options] == [None] * 10
        assert len({option.id for option in each.options} & set(pool.members)) == 10
        assert "a large pool" in each.why
    assert (said.members, said.ready, said.left_out) == (300, 0 if state in ("down", "refused") else able, ())
    action = dispatch.next(now)
    if isinstance(action, Park):
        assert state == "full"
        assert said.decision.startswith("waits up to 2 s: all endpoints that are ready are full")
    elif isinstance(action, Attempt):
        assert said.decision == f"one of {shown[0][1]}, as Unasked chooses"
    else:
        assert (state, said.status) == ("refused", 503)
    assert said.status is None or state == "refused"


def test_who_asks_is_told_one_by_one_however_large_the_pool_is(build: Build, now: float) -> None:
    dispatch = begin(
        build([EndpointSpec(url=f"http://h:{n + 1}") for n in range(300)], selector=bundled("round_robin"))
    )
    dispatch.exchange.asks = True
    shown = choice(again(dispatch, now)).options
    assert (len(shown), None in {option.share for option in shown}) == (10, False)


@pytest.mark.parametrize("ticked", [True, False])
def test_a_large_pool_where_one_is_on_trial(build: Build, now: float, ticked: bool) -> None:
    many = [EndpointSpec(url=f"http://h:{n + 1}", id=f"e{n}") for n in range(300)]
    pool = build(many, limits=Limits(per_endpoint=2, queue=1, queue_timeout=Duration(2)))
    trial = pool.members["e7"]
    pool._eject(trial, Eject("no"), now)
    for endpoint in pool.members.values():
        for _ in range(1 if endpoint is trial else 2):
            pool.acquire(endpoint, now)
    now += 60
    if ticked:
        pool.tick(now)
    dispatch = begin(pool)
    said = again(dispatch, now)
    action = dispatch.next(now)
    assert isinstance(action, Attempt)
    assert (action.endpoint, said.endpoint, said.decision) == (trial, "e7", "e7")


def test_a_request_under_way_is_named_without_its_query(build: Build, now: float) -> None:
    route = Route("web", 4, build(1))
    table = table_of(route, place=lambda route: f"router.toml:{route.index}")

    def said(target: str) -> Explanation:
        exchange = make_exchange("POST", target, scheme="https")
        exchange.route = route
        return explain_decision(table, exchange, Dispatch(route.pool, exchange), now)

    found = said("/caf\x1b?password=7")
    assert found.request == r"POST https://example.test/caf\x1b"
    assert (found.route, found.place, found.chosen, found.target, found.status) == (
        "web",
        "router.toml:4",
        "",
        "",
        None,
    )
    assert len(said("/" + "x" * 9_000).request) == 200


def test_what_the_router_answers_itself(build: Build, now: float) -> None:
    exchange = make_exchange("PUT", "/a?password=7")
    exchange.status = 404
    found = explain_answer(table_of(), exchange, NoRoute("where?"))
    assert found == Explanation("PUT http://example.test/a", status=404, reason=NoRoute.title)
    exchange.status, exchange.route = 403, Route("web", 4, build(1))
    table = table_of(exchange.route, place=lambda route: f"router.toml:{route.index}")
    found = explain_answer(table, exchange, None)
    assert (found.route, found.place, found.status) == ("web", "router.toml:4", 403)
    assert found.reason == "answered by the route or its filters"
    assert found.pools == ()


def test_those_tried_before_are_left_out(build: Build, now: float) -> None:
    pool = build(3, retry=RetryRule(3, ("connect",)))
    dispatch = begin(pool)
    first = tried(dispatch, now)
    said = again(dispatch, now)
    assert left(said) == {"tried": {first.identity: ""}}
    assert {o.id for o in choice(said).options} == set("abc") - {first.identity}
    second = tried(dispatch, now)
    said = again(dispatch, now)
    assert left(said) == {"tried": {first.identity: "", second.identity: ""}}
    assert said.endpoint in set("abc") - {first.identity, second.identity}
    tried(dispatch, now)
    said = again(dispatch, now)
    assert (left(said), choice(said).count) == ({}, 3), "with nobody else left they are asked again"


def test_one_tried_before_that_is_out_for_another_reason_too(build: Build, now: float, scripted: Any) -> None:
    pool = build(3, detectors=[scripted], retry=RetryRule(3, ("connect",)))
    dispatch = begin(pool)
    first = tried(dispatch, now)
    scripted.eject(pool, first, now)
    pool.operate(next(e for e in pool.members.values() if e is not first), "drain", now)
    said = again(dispatch, now)
    assert [(group.reason, group.count) for group in said.left_out] == [("draining", 1), ("tried", 1)]
    assert said.endpoint


def test_one_tried_before_that_has_left_the_pool(build: Build, now: float) -> None:
    pool = build(specs("a"), retry=RetryRule(3, ("connect",)))
    dispatch = begin(pool)
    tried(dispatch, now)
    tried(dispatch, now)
    pool.update(specs("b"), now)
    said = again(dispatch, now)
    assert (said.endpoint, said.members) == ("b", 1)
    assert sum(group.count for group in said.left_out) == 0, "a is no member any more"


def test_those_that_have_tried_stay_in_the_tier_that_is_drawn(build: Build, now: float) -> None:
    """Its only endpoint is asked again, after a pause, rather than one of a tier that waits."""
    pool = build([*specs("ab"), *specs("cd", priority=1)], retry=RetryRule(3, ("connect",)))
    pool.operate(pool.members["b"], "drain", now)
    dispatch = begin(pool)
    assert tried(dispatch, now).identity == "a"
    said = again(dispatch, now)
    assert (said.endpoint, choice(said).priority) == ("a", 0)
    assert left(said) == {"draining": {"b": ""}, "other tier": {"c": "tier 1", "d": "tier 1"}}
    assert tried(dispatch, now).identity == "a"


def test_several_tiers_may_be_drawn_for_those_that_have_tried(build: Build, now: float) -> None:
    pool = build([*specs("abcd"), *specs("ef", priority=1)], probe=(1, 1), retry=RetryRule(9, ("connect",)))
    for name in "abef":
        pool.probed(pool.members[name], True, "", now)
    dispatch, met = begin(pool), set()
    for _ in range(9):
        said = again(dispatch, now)
        untried = {name for name in "abef" if name not in {e.identity for e in dispatch.exchange.tried}}
        for tier, names in ((0, set("ab")), (1, set("ef"))):
            (part,) = [part for part in said.choices if part.priority == tier]
            assert {option.id for option in part.options} == (names & untried or names)
        assert sum(part.share for part in said.choices) == pytest.approx(1)
        met.add(tried(dispatch, now).identity)
    assert len(met) > 2


def test_a_pin_is_asked_for_once(build: Build, now: float, scripted: Any) -> None:
    pool = build(3, affinity=scripted, retry=RetryRule(3, ("connect",)))
    scripted.pin = pool.members["b"]
    dispatch = begin(pool)
    assert tried(dispatch, now) is scripted.pin
    scripted.pin = pool.members["c"]
    asked = scripted.found
    said = again(dispatch, now)
    assert scripted.found == asked
    assert said.affinity == "pinned to b: tried before, so another is chosen"
    assert left(said) == {"tried": {"b": ""}}
    unpinned = begin(pool)
    scripted.pin = None
    tried(unpinned, now)
    assert again(unpinned, now).affinity == "names none"


@pytest.mark.parametrize("on_unready", ["reselect", "refuse"])
def test_a_pin_that_is_back_takes_the_next_attempt(build: Build, now: float, scripted: Any, on_unready: str) -> None:
    pool = build(3, affinity=scripted, retry=RetryRule(3, ("connect",)), limits=Limits(per_endpoint=1))
    b = scripted.pin = pool.members["b"]
    pool.acquire(b, now)
    dispatch = begin(pool)
    assert tried(dispatch, now) is not b
    pool.on_unready = on_unready
    full = "another is chosen" if on_unready == "reselect" else "it is refused"
    said = again(dispatch, now)
    assert (said.affinity, said.status) == (f"pinned to b: full, so {full}", None if on_unready == "reselect" else 503)
    pool.release(b, now)
    said = again(dispatch, now)
    assert (said.affinity, said.endpoint) == ("pinned to b", "b")
    attempt = dispatch.next(now)
    assert isinstance(attempt, Attempt)
    assert attempt.endpoint is b


def test_one_in_the_pool_does_not_wait_behind_others(build: Build, now: float) -> None:
    pool = build(2, limits=Limits(in_flight=1, queue=3), retry=RetryRule(3, ("connect",)))
    dispatch = begin(pool)
    tried(dispatch, now)
    pool.queue.park(Ticket(now + 1, admitted=False))
    assert again(dispatch, now).waiting is None
    assert again(begin(pool), now).waiting is not None
    assert isinstance(dispatch.next(now), Attempt)


@pytest.mark.parametrize("granted", [True, False])
def test_one_whose_place_in_the_queue_has_come(build: Build, now: float, granted: bool) -> None:
    pool = build(2, limits=Limits(in_flight=1, queue=1))
    busy, waits = begin(pool), begin(pool)
    busy.next(now)
    assert isinstance(waits.next(now), Park)
    said = again(waits, now)
    assert said.waiting is not None
    assert said.waiting.reason == "the pool's limit of 1 requests is reached"
    busy.close(now)
    if granted:
        assert pool.grant(now) is not None
        assert isinstance(begin(pool).next(now), Park), "another one waits after it"
    said = again(waits, now)
    assert (said.status, said.waiting, said.decision) == (None, None, "one of 2, as Rotating chooses")
    assert isinstance(waits.next(now), Attempt)


def test_one_that_has_waited_for_its_server(build: Build, now: float, scripted: Any) -> None:
    limits = Limits(per_endpoint=1, queue=3, queue_timeout=1)
    pool = build(3, affinity=scripted, limits=limits)
    scripted.pin = pool.members["b"]
    pool.acquire(scripted.pin, now)
    waits = begin(pool)
    assert isinstance(waits.next(now), Park)
    assert again(waits, now + 0.5).waiting is not None
    said = again(waits, now + 1)
    assert (said.status, said.waiting, said.affinity) == (None, None, "pinned to b: full, so another is chosen")
    assert isinstance(waits.next(now + 1), Attempt)


def test_affinity_has_no_say_in_a_hedge(build: Build, now: float, scripted: Any) -> None:
    pool = build(4, affinity=scripted, limits=Limits(per_endpoint=1), retry=RetryRule(2, hedge_after=0.1))
    scripted.pin = pool.members["b"]
    pool.acquire(scripted.pin, now)
    dispatch = begin(pool)
    slow = dispatch.next(now)
    assert isinstance(slow, Attempt)
    pool.release(scripted.pin, now)
    said = again(dispatch, now + 0.11)
    assert said.affinity == "not asked for a hedge"
    assert {option.id for option in choice(said).options} == set("abcd") - {slow.endpoint.identity}
    hedge = dispatch.next(now + 0.11)
    assert isinstance(hedge, Attempt)
    assert hedge.hedge


def test_one_in_the_pool_waits_where_all_are_full(build: Build, now: float) -> None:
    pool = build(2, limits=Limits(per_endpoint=1, queue=3), retry=RetryRule(3, ("connect",)))
    dispatch = begin(pool)
    tried(dispatch, now)
    for endpoint in tuple(pool.members.values()):
        pool.acquire(endpoint, now)
    said = again(dispatch, now)
    assert said.status is None
    assert said.waiting is not None
    assert said.waiting.reason == "all endpoints that are ready are full"
    assert isinstance(dispatch.next(now), Park)


def test_health_is_ignored_for_those_that_have_tried(build: Build, now: float) -> None:
    pool = build(3, probe=(1, 1), retry=RetryRule(3, ("connect",)))
    dispatch = begin(pool)
    first = tried(dispatch, now)
    said = again(dispatch, now)
    assert choice(said).why == "health is ignored: 0 of 3 endpoints ready"
    assert left(said) == {"tried": {first.identity: ""}}
    assert {o.state for o in choice(said).options} == {"not probed yet"}
    second = tried(dispatch, now)
    assert second is not first
    assert [note.name for note in dispatch.exchange.notes] == ["panic", "panic", "retry"]


# What is said is what is done, and saying it changes nothing


class World:
    """A pool that anything may happen to; the same seed gives the same world, whether it is asked about or not."""

    def __init__(self, seed: int, *, asked: bool) -> None:
        self.rng = random.Random(seed)
        self.asked = asked
        self.now = 1000.0
        rng = self.rng
        self.pool = Pool(
            "web",
            self._selector(seed),
            rng=random.Random(seed),
            affinity=self if rng.random() < 0.5 else None,
            detectors=[self],
            limits=Limits(rng.choice((3, float("inf"))), rng.choice((1, 2, float("inf"))), rng.choice((0, 2))),
            probe=rng.choice((None, (1, 1))),
            when_few_ready=rng.choice(("try_all", "refuse")),
            few_ready=rng.choice((0.0, 0.4)),
            zone=rng.choice(("", "z")),
            on_unready=rng.choice(("reselect", "refuse")),
            slow_start=SlowStart(rng.choice((0.0, 5.0)), 0.1),
            retry=RetryRule(rng.choice((1, 3)), ("connect", "reset")),
        )
        self.tiers = rng.choice((1, 1, 3))
        self.pool.update(self._specs(), self.now)
        self.pool.started()
        self.route = Route("all", 0, self.pool)
        self.table = table_of(self.route)
        self.live: deque[tuple[Dispatch, Attempt]] = deque()
        self.ejects = False
        self.pin = ""

    def _selector(self, seed: int) -> Any:
        name = self.rng.choice([*NAMES, "hashes"])
        return bundled(name, seed) if name != "hashes" else Hashes(self.rng.getrandbits(64))

    def _specs(self) -> list[EndpointSpec]:
        rng = self.rng
        return [
            spec(name, weight=rng.randint(0, 3), priority=rng.randrange(self.tiers), zone=rng.choice(("z", "y")))
            for name in "abcdefghi"
            if rng.random() < 0.8
        ]

    # Its plugins

    def remember(self, endpoint: Endpoint, exchange: Exchange, headers: list[tuple[bytes, bytes]]) -> None:
        raise AssertionError("policy/ does not call this")

    def find(self, members: Members, exchange: Exchange) -> Endpoint | None:
        return members.get(self.pin)

    def observe(self, endpoint: Endpoint, outcome: Outcome, now: float) -> Eject | None:
        return Eject("test", True) if self.ejects else None

    # What happens

    def step(self) -> str:
        """Something happens, then a request comes; tells what came of it."""
        rng, pool = self.rng, self.pool
        self.now += rng.choice((0.0, 0.1, 1.0, 31.0))
        members = list(pool.members.values())
        event = rng.randrange(10)
        if event == 0:
            pool.update(self._specs(), self.now)
        elif event == 1 and members:
            pool.operate(rng.choice(members), rng.choice(("up", "drain")), self.now)
        elif event in (2, 3) and members:
            pool.probed(rng.choice(members), rng.random() < 0.7, "why", self.now)
        elif event in (4, 5) and self.live:
            self.ejects = rng.random() < 0.5
            dispatch, attempt = self.live.popleft()
            dispatch.ended(attempt, None, self.now)
            dispatch.close(self.now)
            self.ejects = False
        elif event > 7 and self.live:
            return self._fail()
        if pool.slow_start.window and self.now >= pool.due:
            # The next step of a slow start is not foreseen.
            pool.tick(self.now)
        self.pin = rng.choice("abc-")
        return self._request()

    def _request(self) -> str:
        exchange = make_exchange()
        told = None
        if self.asked:
            before = digest(self.pool)
            told = explain(self.table, exchange, self.now).pools[0]
            exchange.route = self.route
        dispatch = Dispatch(self.pool, exchange, True)
        if self.asked:
            assert explain_decision(self.table, exchange, dispatch, self.now).pools == (told,)
            assert digest(self.pool) == before
        action = dispatch.next(self.now)
        if isinstance(action, Attempt):
            self.live.append((dispatch, action))
        elif isinstance(action, Park):
            dispatch.close(self.now)
        if told is not None:
            agrees(told, action)
        return action.endpoint.identity if isinstance(action, Attempt) else type(action).__name__

    def _fail(self) -> str:
        """An attempt fails; tells what comes of that."""
        dispatch, attempt = self.live.popleft()
        sent, self.ejects = self.rng.random() < 0.5, self.rng.random() < 0.5
        attempt.sent_at = attempt.started
        dispatch.failed(attempt, ResetError() if sent else ConnectError(), sent, self.now)
        self.ejects = False
        return self._go_on(dispatch)

    def _go_on(self, dispatch: Dispatch) -> str:
        exchange, told = dispatch.exchange, None
        if self.pool.slow_start.window and self.now >= self.pool.due:
            self.pool.tick(self.now)
        if self.asked:
            exchange.route = self.route
            before = digest(self.pool), msgspec.structs.astuple(exchange)
            (told,) = explain_decision(self.table, exchange, dispatch, self.now).pools
            assert (digest(self.pool), msgspec.structs.astuple(exchange)) == before
        action = dispatch.next(self.now)
        if told is not None:
            agrees_again(told, action, exchange)
        if isinstance(action, Sleep):
            self.now = action.until
            return self._go_on(dispatch)
        if isinstance(action, Attempt):
            self.live.append((dispatch, action))
            return f"again {action.endpoint.identity}"
        dispatch.close(self.now)
        return f"again {type(action).__name__}"


def agrees_again(told: PoolVerdict, action: Any, exchange: Exchange) -> None:
    """The same for one that has tried: it may have to stop, or pause, for what is not said."""
    tried = {endpoint.identity for endpoint in exchange.tried[: len(exchange.attempts)]}
    if isinstance(action, Answer):
        assert told.status == 503 or exchange.notes[-1].name == "no retry", told.decision
    elif isinstance(action, Sleep):
        assert {o.id for c in told.choices for o in c.options} & tried, "there were others"
    else:
        agrees(told, action)
    left_out = {e.id for group in told.left_out if group.reason == "tried" for e in group.endpoints}
    assert left_out <= tried


def agrees(told: PoolVerdict, action: Any) -> None:
    if isinstance(action, Answer):
        assert told.status == action.status, told.decision
        return
    assert told.status is None, told.decision
    assert (told.waiting is not None) == isinstance(action, Park), told.decision
    if isinstance(action, Park):
        return
    chosen = action.endpoint.identity
    assert chosen not in {e.id for group in told.left_out for e in group.endpoints} or chosen == told.endpoint
    if told.endpoint:
        assert chosen == told.endpoint, told.decision
        return
    shares = {option.id: option.share for part in told.choices for option in part.options}
    assert shares[chosen] != 0, told.decision


def digest(thing: Any, seen: dict[int, int] | None = None) -> Any:
    """The whole state of an object and of all that it holds."""
    seen = {} if seen is None else seen
    if thing is None or isinstance(thing, int | float | str | bytes | EndpointSpec) or callable(thing):
        return thing
    if id(thing) in seen:
        return seen[id(thing)]
    seen[id(thing)] = len(seen)
    if isinstance(thing, World):
        return None
    if isinstance(thing, random.Random):
        return thing.getstate()
    if isinstance(thing, dict):
        return [(digest(key, seen), digest(value, seen)) for key, value in thing.items()]
    parts: list[Any] = [type(thing).__name__]
    if isinstance(thing, list | tuple | set | frozenset | deque):
        parts += [digest(each, seen) for each in thing]
    slots = [name for kind in type(thing).__mro__ for name in getattr(kind, "__slots__", ())]
    names = [*slots, *getattr(thing, "__dict__", ())]
    return parts + [(name, digest(getattr(thing, name), seen)) for name in names if hasattr(thing, name)]


@pytest.mark.parametrize("seed", range(24))
def test_what_is_said_is_done_and_saying_it_changes_nothing(seed: int) -> None:
    asked, other = World(seed, asked=True), World(seed, asked=False)
    for _ in range(60):
        assert asked.step() == other.step()
    assert asked.pool.rng.getstate() == other.pool.rng.getstate()


@pytest.mark.parametrize("seed", range(24))
def test_the_candidates_are_those_of_the_pool(seed: int) -> None:
    world = World(seed, asked=False)
    for _ in range(60):
        world.step()
        pool, exchange = world.pool, make_exchange()
        told = line_up(pool, pool.key_of(exchange), world.now)
        found = pool.candidates(exchange, world.now)
        assert (found is None) == (not told.parts and not told.full)
        if found is not None:
            assert set(found) in ([set(part.candidates) for part in told.parts] or [set()])


def test_a_method_that_is_never_read_goes_nowhere() -> None:
    table = Table(1, RouteTable([Route("all", 0, None)]), {})
    found = explain(table, make_exchange(method="BREW"), 1000.0)
    assert (found.status, found.route) == (501, "")
