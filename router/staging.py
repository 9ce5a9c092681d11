"""What a configuration changes, worked out before anything is changed: runs in a thread while the old one serves.

Touches no pool that serves: it builds new ones, and for each old one what it is to be told at the swap.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from router.config import Duration, PoolConfig
from router.configcheck import endpoint_specs
from router.endpoints import index_specs
from router.model import EndpointSpec
from router.net.tls import Store
from router.policy.pool import Pool
from router.policy.table import Parts, Table
from router.prepare import Prepared
from router.securing import EndpointSecurity, ListenerSecurity, Secured

__all__ = ["Staged", "stage"]

_NO_DURATION = Duration(0)
_NO_TLS = Secured({}, {})


@dataclass(frozen=True, slots=True)
class Staged:
    """A configuration that is ready to be taken."""

    prepared: Prepared
    table: Table
    #: Pools that there were not before.
    made: dict[str, Pool]
    #: For pools whose settings are others: one that was built with them, and never serves.
    fresh: dict[str, Pool]
    #: The configured endpoints of each pool, by identity.
    specs: dict[str, dict[str, EndpointSpec]]
    #: Pools whose endpoints, probe, discovery or drain_timeout are others, the new ones included.
    settled: list[str]
    secured: Secured

    @property
    def secure_listeners(self) -> list[tuple[str, ListenerSecurity]]:
        """The listeners with TLS, by what they are called."""
        listeners = self.prepared.config.listeners
        return [(listeners[index].bind, security) for index, security in self.secured.listeners.items()]

    @property
    def stores(self) -> dict[int, Store]:
        """Their certificates, by their place in the file."""
        return {index: security.store for index, security in self.secured.listeners.items()}


def stage(prepared: Prepared, before: Staged | None, secured: Secured = _NO_TLS) -> Staged:
    """Builds the table of a configuration, and finds what is different from the one before.

    Args:
        before: what is in force; None at the start.
        secured: what the configuration speaks TLS with.
    """
    known: Mapping[str, Pool] = before.table.pools if before is not None else {}
    specs = {pool.name: index_specs(endpoint_specs(pool)) for pool in prepared.config.pools}
    made, fresh, pools, settled = {}, {}, {}, []
    for config in prepared.config.pools:
        name = config.name
        if before is None or name not in known:
            pools[name] = made[name] = prepared.pool(config, secured.pools.get(name))
            settled.append(name)
            continue
        pools[name] = known[name]
        then = before.prepared.pools[name]
        security = secured.pools.get(name)
        if _settings(prepared, config, security) != _settings(before.prepared, then, before.secured.pools.get(name)):
            fresh[name] = prepared.pool(config, security)
        if list(specs[name].items()) != list(before.specs[name].items()) or _work(prepared, config) != _work(
            before.prepared, then
        ):
            settled.append(name)
    version = before.table.version + 1 if before is not None else 1
    table = prepared.compile(version, pools)
    return Staged(prepared, table, made, fresh, specs, settled, secured)


def _settings(prepared: Prepared, config: PoolConfig, security: EndpointSecurity | None) -> tuple[Any, ...]:
    """All that a pool is built of. Plugin objects count, not how they were written: they are kept where equal."""
    parts: Parts = prepared.parts[config.name]
    plain = msgspec.structs.replace(
        config,
        endpoints=(),
        selection="",
        affinity="",
        probe="",
        detectors=(),
        discovery="",
        drain_timeout=_NO_DURATION,
    )
    objects = [id(part) for part in (parts.selector, parts.affinity, *parts.detectors)]
    rules = (parts.on_unready, parts.probe is not None, parts.timing.fall, parts.timing.rise)
    return (plain, prepared.config.server.zone, objects, rules, security)


def _work(prepared: Prepared, config: PoolConfig) -> tuple[Any, ...]:
    """What is done for a pool beside serving it."""
    parts: Parts = prepared.parts[config.name]
    return (id(parts.probe), parts.timing, id(parts.discovery), config.drain_timeout)
