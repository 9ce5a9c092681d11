"""A table: everything that requests are decided by, compiled from one configuration. Immutable; swapped whole.

Built here from what is already loaded and checked: configuration structs and plugin objects.
"""

from __future__ import annotations

import ipaddress
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from router.config import AnswerConfig, Config, HeadersConfig, PoolConfig, RouteConfig
from router.corekeys import ProbeKeys
from router.policy.answering import GivenAnswer
from router.policy.health import EjectionRule
from router.policy.limits import Limits, Timeouts
from router.policy.pool import Pool
from router.policy.retry import Budget, RetryRule
from router.policy.rewriting import FieldRules, Rewriting
from router.policy.routes import Route, RouteTable
from router.policy.slowstart import SlowStart
from router.policy.split import Split

__all__ = ["Parts", "Table", "build_pool", "build_table"]

_NEVER = float("inf")
_TIMING = ProbeKeys()
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class Parts:
    """The plugin objects of one pool or route, made by the composition root."""

    selector: Any = None
    selector_name: str = ""
    affinity: Any = None
    on_unready: Any = "reselect"
    detectors: tuple[Any, ...] = ()
    #: The probe, and when it is asked: config's interval, timeout, fall and rise.
    probe: Any = None
    timing: ProbeKeys = _TIMING
    #: The source of further endpoints, and what it is called.
    discovery: Any = None
    discovery_name: str = ""


class Table:
    """What an exchange takes once at its start."""

    __slots__ = ("_place_of", "forwarded", "health_path", "pools", "routes", "trusted", "version")

    def __init__(
        self,
        version: int,
        routes: RouteTable,
        pools: Mapping[str, Pool],
        trusted: tuple[Network, ...] = (),
        health_path: str = "",
        forwarded: bool = False,
        place_of: Callable[[Route], str] = lambda route: "",
    ) -> None:
        self.version = version
        self._place_of = place_of
        self.routes = routes
        self.pools = pools
        #: Networks whose X-Forwarded-* fields are believed.
        self.trusted = trusted
        self.health_path = health_path
        #: Whether the Forwarded field is written too.
        self.forwarded = forwarded

    def place_of(self, route: Route) -> str:
        """file:line of a route; "" if it was never written down."""
        return self._place_of(route)

    def trusts(self, address: str) -> bool:
        """Whether a peer's word about the client is believed."""
        if not self.trusted:
            return False
        try:
            peer = ipaddress.ip_address(address)
        except ValueError:
            return False
        if peer.version == 6 and peer.ipv4_mapped is not None:
            peer = peer.ipv4_mapped
        return any(peer in network for network in self.trusted)


def build_table(
    config: Config,
    *,
    version: int,
    pools: Mapping[str, Pool],
    filters: Mapping[int, tuple[Any, ...]],
    place_of: Callable[[Route], str] = lambda route: "",
) -> Table:
    """Compiles a checked configuration.

    Args:
        pools: by name, of this configuration or kept from the one before.
        filters: those of each route by its place in the file.
        place_of: says where a route is written.
    """
    routes = [_build_route(index, route, pools, filters) for index, route in enumerate(config.routes)]
    trusted = tuple(ipaddress.ip_network(net, strict=False) for net in config.server.trusted_proxies)
    server = config.server
    if routes and (config.observers or trusted):
        # They may have requests explained, none of which is to wait until the file was looked through.
        place_of(routes[0])
    return Table(version, RouteTable(routes), pools, trusted, server.health_path, server.forwarded, place_of)


def _build_route(
    index: int, route: RouteConfig, pools: Mapping[str, Pool], filters: Mapping[int, tuple[Any, ...]]
) -> Route:
    split = [(pools[share.name], share.weight) for share in route.pools]
    first = pools[route.pool] if route.pool else split[0][0] if split else None
    return Route(
        route.name or f"route-{index + 1}",
        index,
        first,
        hosts=_listed(route.host),
        paths=_listed(route.path),
        methods=route.methods,
        headers=route.headers,
        query=route.query,
        timeout=route.timeout,
        filters=filters.get(index, ()),
        split=Split(split, route.split_by) if len(split) > 1 else None,
        answer=_build_answer(route.answer, route.response_headers) if route.answer is not None else None,
        max_body=route.max_body,
        rewriting=_build_rewriting(route) if route.answer is None else None,
    )


def _build_answer(answer: AnswerConfig, fields: HeadersConfig) -> GivenAnswer:
    status = answer.status or (308 if answer.redirect else 200)
    return GivenAnswer(status, answer.body, answer.redirect, FieldRules(fields.set, fields.remove))


def _build_rewriting(route: RouteConfig) -> Rewriting | None:
    rewrite, request, response = route.rewrite, route.request_headers, route.response_headers
    rewriting = Rewriting(
        rewrite.strip_prefix,
        rewrite.replace_prefix,
        rewrite.host,
        request=FieldRules(request.set, request.remove, of_request=True),
        response=FieldRules(response.set, response.remove),
    )
    return rewriting or None


def _listed(value: str | tuple[str, ...]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else value


def build_pool(pool: PoolConfig, zone: str, parts: Parts, rng: random.Random, security: Any = None) -> Pool:
    """A pool without members.

    Args:
        zone: the router's own.
        rng: seeds the pool's own generator.
        security: what connections to https:// endpoints speak TLS with; only net/ looks into it.
    """
    limits, retry, ejection, timing = pool.limits, pool.retry, pool.ejection, parts.timing
    made = Pool(
        pool.name,
        parts.selector,
        rng=random.Random(rng.getrandbits(64)),
        affinity=parts.affinity,
        on_unready=parts.on_unready,
        detectors=parts.detectors,
        timeouts=Timeouts(pool.timeouts.connect, pool.timeouts.head, pool.timeouts.stream),
        limits=Limits(
            limits.in_flight or _NEVER,
            limits.in_flight_per_endpoint or _NEVER,
            limits.queue,
            limits.queue_timeout,
            "" if limits.adaptive == "none" else limits.adaptive,
        ),
        retry=RetryRule(
            retry.attempts,
            retry.on,
            retry.attempt_timeout,
            retry.buffer,
            retry.hedge_after.seconds,
            retry.hedge_after.share,
        ),
        budget=Budget(retry.budget, retry.reserve),
        ejection=EjectionRule(ejection.base, ejection.max, ejection.max_share, timing.rise),
        probe=(timing.fall, timing.rise) if parts.probe is not None else None,
        slow_start=SlowStart(pool.slow_start.window, pool.slow_start.min),
        when_few_ready=pool.when_few_ready,
        few_ready=pool.few_ready,
        zone=zone if pool.prefer_zone else "",
        security=security,
    )
    made.strategy = parts.selector_name
    return made
