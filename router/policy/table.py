"""A table: everything that requests are decided by, compiled from one configuration. Immutable; swapped whole.

Built here from what is already loaded and checked: configuration structs and plugin objects.
"""

from __future__ import annotations

import ipaddress
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from router.config import Config, PoolConfig, RouteConfig
from router.model import EndpointSpec
from router.policy.health import EjectionRule
from router.policy.limits import Limits, Timeouts
from router.policy.pool import Pool
from router.policy.retry import Budget, RetryRule
from router.policy.routes import Route, RouteTable

__all__ = ["Parts", "Table", "build_table"]

_NEVER = float("inf")
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class Parts:
    """The plugin objects of one pool or route, made by the composition root."""

    selector: Any = None
    affinity: Any = None
    on_unready: Any = "reselect"
    detectors: tuple[Any, ...] = ()


class Table:
    """What an exchange takes once at its start."""

    __slots__ = ("health_path", "pools", "routes", "trusted", "version")

    def __init__(
        self,
        version: int,
        routes: RouteTable,
        pools: Mapping[str, Pool],
        trusted: tuple[Network, ...] = (),
        health_path: str = "",
    ) -> None:
        self.version = version
        self.routes = routes
        self.pools = pools
        #: Networks whose X-Forwarded-* fields are believed.
        self.trusted = trusted
        self.health_path = health_path

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
    specs: Mapping[str, tuple[EndpointSpec, ...]],
    parts: Mapping[str, Parts],
    filters: Mapping[int, tuple[Any, ...]],
    rng: random.Random,
    now: float,
) -> Table:
    """Compiles a checked configuration.

    Args:
        specs: the endpoints of each pool by its name.
        parts: the plugin objects of each pool by its name.
        filters: those of each route by its place in the file.
        rng: seeds each pool's own generator.
        now: seconds of the router's clock.
    """
    pools = {pool.name: _build_pool(pool, config, parts[pool.name], rng) for pool in config.pools}
    for name, pool in pools.items():
        pool.update(specs[name], now)
    routes = [_build_route(index, route, pools, filters) for index, route in enumerate(config.routes)]
    trusted = tuple(ipaddress.ip_network(net, strict=False) for net in config.server.trusted_proxies)
    return Table(version, RouteTable(routes), pools, trusted, config.server.health_path)


def _build_route(
    index: int, route: RouteConfig, pools: Mapping[str, Pool], filters: Mapping[int, tuple[Any, ...]]
) -> Route:
    return Route(
        route.name or f"route-{index + 1}",
        index,
        pools[route.pool],
        hosts=_listed(route.host),
        paths=_listed(route.path),
        methods=route.methods,
        headers=route.headers,
        query=route.query,
        timeout=route.timeout,
        filters=filters.get(index, ()),
    )


def _listed(value: str | tuple[str, ...]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else value


def _build_pool(pool: PoolConfig, config: Config, parts: Parts, rng: random.Random) -> Pool:
    limits, retry, ejection = pool.limits, pool.retry, pool.ejection
    return Pool(
        pool.name,
        parts.selector,
        rng=random.Random(rng.getrandbits(64)),
        affinity=parts.affinity,
        on_unready=parts.on_unready,
        detectors=parts.detectors,
        timeouts=Timeouts(pool.timeouts.connect, pool.timeouts.head, pool.timeouts.stream),
        limits=Limits(
            limits.in_flight or _NEVER, limits.in_flight_per_endpoint or _NEVER, limits.queue, limits.queue_timeout
        ),
        retry=RetryRule(
            retry.attempts,
            retry.on,
            retry.attempt_timeout,
            retry.buffer,
            retry.hedge_after if retry.hedge_after != _NEVER else None,
        ),
        budget=Budget(retry.budget, retry.reserve),
        ejection=EjectionRule(ejection.base, ejection.max, ejection.max_share),
        when_few_ready=pool.when_few_ready,
        few_ready=pool.few_ready,
        zone=config.server.zone if pool.prefer_zone else "",
    )
