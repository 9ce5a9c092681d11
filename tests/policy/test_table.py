"""A table is compiled from a configuration and plugin objects; whom it trusts."""

from __future__ import annotations

import random
from typing import Any

import pytest

from router import EndpointSpec
from router.config import (
    AnswerConfig,
    Config,
    Duration,
    EjectionConfig,
    HeadersConfig,
    HedgeDelay,
    LimitsConfig,
    ListenerConfig,
    PoolConfig,
    PoolShare,
    PoolTimeouts,
    RetryConfig,
    RewriteConfig,
    RouteConfig,
    ServerConfig,
    Share,
    Size,
    SizeLimit,
    SlowStartConfig,
)
from router.corekeys import ProbeKeys
from router.model import Response
from router.policy.table import Parts, Table, build_pool, build_table
from router.testing import make_exchange

NEVER = float("inf")


class Chooser:
    def choose(self, candidates: Any, exchange: Any) -> Any:
        return candidates[0]


def config(pools: tuple[PoolConfig, ...], routes: tuple[RouteConfig, ...], **server: Any) -> Config:
    return Config((ListenerConfig("127.0.0.1:0"),), routes, pools, ServerConfig(**server))


def built(made: Config, *, filters: dict | None = None, **parts: Any) -> Table:
    given = Parts(selector=Chooser(), **parts)
    pools = {pool.name: build_pool(pool, made.server.zone, given, random.Random(1)) for pool in made.pools}
    for pool in made.pools:
        pools[pool.name].update([EndpointSpec(url=str(e)) for e in pool.endpoints], 1000.0)
    return build_table(made, version=3, pools=pools, filters=filters or {})


ONE = PoolConfig("one", ("http://a.test", "http://b.test"))
TWO = PoolConfig("two", ("http://a.test",))


def test_routes_name_their_pools() -> None:
    table = built(
        config(
            (ONE, TWO),
            (
                RouteConfig("two", host="a.test", path=("/x", "/y/*"), methods=("GET",), timeout=Duration(3)),
                RouteConfig("one", name="rest", headers={"X-A": "1"}, query={"q": "*"}),
            ),
        ),
        filters={1: ("f",)},
    )
    first, second = table.routes.routes
    assert (first.name, first.hosts, first.paths, first.timeout, first.filters) == (
        "route-1",
        ("a.test",),
        ("/x", "/y/*"),
        3,
        (),
    )
    assert (second.name, second.timeout, second.filters) == ("rest", NEVER, ("f",))
    assert first.pool is table.pools["two"]
    assert second.pool is table.pools["one"]
    assert table.routes.match(make_exchange(target="/y/z", host="a.test")) is first
    assert table.routes.match(make_exchange(target="/?q", headers={"X-A": "1"})) is second
    assert table.routes.match(make_exchange()) is None
    assert (table.version, table.health_path) == (3, "")


def route_of(**settings: Any) -> Any:
    [route] = built(config((ONE, TWO), (RouteConfig(**settings),))).routes.routes
    return route


def test_a_route_that_only_passes_on_has_no_actions() -> None:
    route = route_of(pool="one")
    assert (route.split, route.answer, route.rewriting, route.max_body, route.plain) == (None, None, None, NEVER, True)


def test_a_route_may_split_its_requests() -> None:
    route = route_of(pools=(PoolShare("two", 1), PoolShare("one", 3)), split_by="client")
    assert [(pool.name, share) for pool, share in route.split.pools] == [("two", 0.25), ("one", 0.75)]
    assert route.pool.name == "two"
    assert not route.plain
    assert route.split.choose(make_exchange(), random.Random(1)).name in ("one", "two")
    alone = route_of(pools=(PoolShare("two", 9),))
    assert (alone.pool.name, alone.split, alone.plain) == ("two", None, True)


def test_a_route_may_answer_itself() -> None:
    fields = HeadersConfig({"X-A": "1"}, ("Content-Type",))
    route = route_of(answer=AnswerConfig(body="x"), response_headers=fields)
    assert (route.pool, route.split, route.rewriting, route.plain) == (None, None, None, False)
    assert route.answer.response(make_exchange()) == Response(200, b"x", ((b"X-A", b"1"),))
    for answer, status in (
        (AnswerConfig(410), 410),
        (AnswerConfig(redirect="/x"), 308),
        (AnswerConfig(302, redirect="/x"), 302),
    ):
        assert route_of(answer=answer).answer.response(make_exchange()).status == status


def test_a_route_may_rewrite_and_limit() -> None:
    lines = b"\r\nHost: a\r\nx_user: b\r\nA: c\r\n"
    route = route_of(
        pool="one",
        max_body=SizeLimit(7),
        rewrite=RewriteConfig("/a", "/b", "c.test"),
        request_headers=HeadersConfig({"X-User": "d"}, ("A",)),
        response_headers=HeadersConfig({"B": "1"}, ("x-user",)),
    )
    assert (route.max_body, route.plain) == (7, False)
    assert route.rewriting.request("/a/x", lines) == ("/b/x", b"\r\nHost: c.test\r\nX-User: d\r\n")
    assert route.rewriting.response(lines) == lines + b"B: 1\r\n"
    assert route_of(pool="one", max_body=SizeLimit(0)).plain is False
    assert route_of(pool="one", response_headers=HeadersConfig(remove=("A",))).rewriting.moves is False


def test_whether_forwarded_is_written_is_a_setting() -> None:
    assert [built(config((ONE,), (), forwarded=on)).forwarded for on in (True, False)] == [True, False]
    assert built(config((ONE,), ())).forwarded is False


def test_pools_hold_their_endpoints_ready_to_go() -> None:
    pool = built(config((ONE,), ()), affinity="sticky", on_unready="refuse", detectors=("d",)).pools["one"]
    assert sorted(pool.members) == ["http://a.test:80", "http://b.test:80"]
    assert len(pool.candidates(make_exchange(), 1000.0)) == 2
    assert (pool.affinity, pool.on_unready, pool.detectors) == ("sticky", "refuse", ("d",))


def test_settings_reach_the_pool() -> None:
    pool = PoolConfig(
        "one",
        ("http://a.test",),
        ejection=EjectionConfig(Duration(5), Duration(50), Share(0.5)),
        when_few_ready="refuse",
        few_ready=Share(0.25),
        prefer_zone=True,
        timeouts=PoolTimeouts(Duration(1), Duration(20), Duration(40)),
        slow_start=SlowStartConfig(Duration(60), Share(0.2)),
        limits=LimitsConfig(7, 3, 4, Duration(2), "aimd"),
        retry=RetryConfig(1, ("503",), Duration(9), Size(10), Share(0.3), 4, HedgeDelay("100ms")),
    )
    made = built(config((pool,), (), zone="here")).pools["one"]
    assert (made.ejection.base, made.ejection.longest, made.ejection.max_share) == (5, 50, 0.5)
    assert (made.when_few_ready, made.few_ready, made.zone) == ("refuse", 0.25, "here")
    assert (made.timeouts.connect, made.timeouts.head, made.timeouts.stream) == (1, 20, 40)
    assert (made.limits.in_flight, made.limits.per_endpoint) == (7, 3)
    assert (made.limits.queue, made.limits.queue_timeout, made.limits.adaptive) == (4, 2, "aimd")
    assert (made.slow_start.window, made.slow_start.least) == (60, 0.2)
    assert (made.retry.attempts, made.retry.statuses, made.retry.buffer) == (1, {503}, 10)
    assert (made.retry.attempt_timeout, made.attempt_timeout) == (9, 9)
    assert (made.retry.hedge_after, made.retry.hedge_share, made.hedge_after) == (0.1, None, 0.1)
    assert (made.budget.share, made.budget.reserve) == (0.3, 4)


def test_what_is_left_out_is_no_limit() -> None:
    made = built(config((ONE,), (), zone="here")).pools["one"]
    assert made.limits.in_flight == made.limits.per_endpoint == NEVER
    assert (made.retry.hedge_after, made.retry.hedge_share, made.hedge_after) == (None, None, None)
    assert (made.limits.adaptive, made.slow_start.window) == ("", 0)
    assert (made.probe, made.ejection.rise) == (None, 2)
    assert made.attempt_timeout == 30
    assert made.zone == "", "zones are not preferred unless the pool says so"


def test_a_quantile_to_hedge_after_is_not_known_yet() -> None:
    pool = PoolConfig("one", ("http://a.test",), retry=RetryConfig(hedge_after=HedgeDelay("p95")))
    made = built(config((pool,), ())).pools["one"]
    assert (made.retry.hedge_share, made.hedge_after) == (0.95, None)
    assert made.listens, "somebody has to hear how long answers take"


def test_a_probes_timing_reaches_the_pool() -> None:
    made = built(config((ONE,), ()), probe=object(), timing=ProbeKeys(fall=4, rise=5)).pools["one"]
    assert (made.probe, made.ejection.rise) == ((4, 5), 5)
    assert made.starting, "nobody is served before the first round of probes"
    (machine, _) = (endpoint.health.probed for endpoint in made.members.values())
    assert (machine.fall, machine.rise, machine.up) == (4, 5, False)


def test_each_pool_draws_on_its_own_and_the_same_seed_draws_the_same() -> None:
    first, again = (built(config((ONE, TWO), ())).pools for _ in range(2))
    assert first["one"].rng.random() == again["one"].rng.random()
    assert first["one"].rng.random() != first["two"].rng.random()


@pytest.mark.parametrize(
    ("address", "trusted"),
    [
        ("10.0.0.1", True),
        ("10.255.0.1", True),
        ("11.0.0.1", False),
        ("192.0.2.7", True),
        ("192.0.2.8", False),
        ("2001:db8::1", True),
        ("2001:db9::1", False),
        ("", False),
        ("unknown", False),
        ("10.0.0.1:80", False),
        # How a socket that takes both families names an IPv4 peer.
        ("::ffff:10.0.0.1", True),
        ("::ffff:11.0.0.1", False),
    ],
)
def test_trusted_networks(address: str, trusted: bool) -> None:
    table = built(config((), (), trusted_proxies=("10.0.0.0/8", "192.0.2.7", "2001:db8::/32"), health_path="/ok"))
    assert table.trusts(address) is trusted
    assert table.health_path == "/ok"


def test_nobody_is_trusted_by_default() -> None:
    assert not built(config((), ())).trusts("127.0.0.1")
