"""The state of a running router, gathered: a Status for commands and plugins, and the lines of a start."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from functools import cache
from importlib.metadata import version
from typing import Any

from router.model import Endpoint
from router.net.keeper import Keeper
from router.net.server import Listener
from router.policy.health import Health
from router.policy.membership import Membership
from router.policy.pool import Pool
from router.prepare import reference_name
from router.serving import Serving
from router.staging import Staged
from router.status import CertificateStatus, ConfigStatus, EndpointStatus, ListenerStatus, PoolStatus, Status

__all__ = ["describe", "status_of"]

_NO_MEMBERSHIP = Membership()


def status_of(serving: Serving, *, now: float, started: float, file: str, refused: str) -> Status:
    """The whole state. Reads only, so a thread may do it.

    Args:
        now, started: seconds of the router's clock.
        file: of the configuration; "" if there is none.
        refused: why the last reload was; "" if it was not.
    """
    # Taken once: a reload may come in between.
    staged, keepers, runtime = serving.staged, serving.keepers, serving.runtime
    muted = {type(made).__name__: why for made, why in tuple(serving.muted.values())}
    return Status(
        version=_version(),
        pid=os.getpid(),
        uptime=now - started,
        draining=runtime is not None and runtime.draining,
        config=ConfigStatus(file, staged.table.version, now - serving.since, refused),
        listeners=tuple(
            ListenerStatus(each.name, each.count, each.is_paused, each.turned_away, each.refusals)
            for each in tuple(serving.listening)
        ),
        pools=tuple(_pool(staged, keepers.get(name), pool, now) for name, pool in staged.table.pools.items()),
        certificates=tuple(
            CertificateStatus(each.names, each.not_after - time.time()) for each in tuple(serving.vault.certificates)
        ),
        muted={**(runtime.observers.muted if runtime is not None else {}), **muted},
    )


@cache
def _version() -> str:
    return version("edge-router")


def _pool(staged: Staged, keeper: Keeper | None, pool: Pool, now: float) -> PoolStatus:
    source = keeper.source if keeper is not None else None
    config = staged.prepared.pools[pool.name]
    return PoolStatus(
        name=pool.name,
        selection=reference_name(config.selection),
        ready=sum(tier.ready_count for tier in pool.tiers),
        in_flight=pool.in_flight,
        queue=pool.queue.waiting,
        retries=pool.retries,
        budget=pool.budget.peek(now),
        endpoints=tuple(_endpoints(pool, keeper, reference_name(config.discovery), now)),
        discovery=reference_name(config.discovery),
        discovery_state=source.state if source is not None else "",
    )


def _endpoints(pool: Pool, keeper: Keeper | None, discovery: str, now: float) -> Iterator[EndpointStatus]:
    membership = keeper.membership if keeper is not None else _NO_MEMBERSHIP
    for identity, endpoint in pool.members.items():
        found = identity in membership.found and identity not in membership.configured
        override = membership.overrides.get(identity)
        words = override.words if override is not None else ()
        plain = membership.configured.get(identity) or membership.found.get(identity) or endpoint.spec
        source = discovery if found else "configuration"
        yield _endpoint(endpoint, now, plain.weight, words, source)
    for endpoint, since in tuple(pool.leaving.items()):
        yield _endpoint(endpoint, now, endpoint.spec.weight, (), "configuration", since)


def _endpoint(
    endpoint: Endpoint, now: float, weight: int, overrides: tuple[str, ...], source: str, removed: float | None = None
) -> EndpointStatus:
    health: Health = endpoint.health
    state, since = health.state(now), health.since
    if state == "ready" and not endpoint.spec.weight:
        state = "weight 0"
    if removed is not None:
        state, since = "removed", removed
    return EndpointStatus(
        id=endpoint.identity,
        url=str(endpoint.address),
        state=state,
        cause=_cause(health.cause, state) if removed is None else "requests under way finish",
        since=None if since is None else now - since,
        load=endpoint.load,
        weight=endpoint.weight,
        configured_weight=weight,
        priority=endpoint.spec.priority,
        zone=endpoint.spec.zone,
        requests=endpoint.requests,
        latency=endpoint.latency,
        ejections=health.ejection.count,
        overrides=overrides,
        source=source,
    )


def _cause(said: str, state: str) -> str:
    """What was said at the last change, without the word that the state says already."""
    if state == "draining" and said.startswith("up"):
        return ""
    return said.removeprefix(state).removeprefix(":").strip()


def describe(serving: Serving) -> list[str]:
    """One line per listener, pool and plugin, for the start."""
    prepared: Any = serving.staged.prepared
    lines = [_describe_listener(listener) for listener in serving.listening]
    lines += [_describe_pool(serving, pool) for pool in serving.table.pools.values()]
    for broken in prepared.registry.broken:
        lines.append(f"plugin {broken.plugin} of {broken.distribution} is broken: {broken.reason}")
    used: dict[tuple[str, str, str], list[str]] = {}
    for entry in prepared.registry.entries:
        used.setdefault((entry.distribution, entry.version, entry.plugin), []).append(entry.name)
    for (distribution, version_, plugin), names in used.items():
        lines.append(f"plugin {plugin} ({distribution} {version_}): {', '.join(names)}")
    return lines


def _describe_pool(serving: Serving, pool: Pool) -> str:
    config, parts = serving.staged.prepared.pools[pool.name], serving.staged.prepared.parts[pool.name]
    count = len(pool.members)
    line = f"pool {pool.name}: {count} endpoint{'s' * (count != 1)}, {reference_name(config.selection)}"
    if parts.discovery is not None:
        line += f", discovery {parts.discovery_name}"
    if parts.probe is None:
        return line
    ready = sum(tier.ready_count for tier in pool.tiers)
    return f"{line}, probed every {parts.timing.interval:g} s, {ready} ready"


def _describe_listener(listener: Listener) -> str:
    if listener.secure is None:
        return f"listener {listener.name} (http{', sends clients to https' if listener.redirect else ''})"
    count = len(listener.secure.store)
    names = f"certificates for {count} name{'s' * (count != 1)}" if count else "no certificate yet"
    return f"listener {listener.name} (https, {names})"
