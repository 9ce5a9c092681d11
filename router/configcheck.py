"""What must hold across a configuration's tables, and of its values: everything that needs no plugin and no socket.

Each check yields what it finds and changes nothing; `check` turns that into faults with places. Shapes and types have
been settled by configdecode.py before.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path as FilePath
from typing import Any

import msgspec

from router.config import Config, Duration, ListenerConfig, PoolConfig, SizeLimit
from router.configfile import load
from router.configfill import Problem
from router.configforms import (
    Bind,
    bind_problem,
    control_problem,
    name_problem,
    network_problem,
    parse_bind,
    path_problem,
    retry_problem,
)
from router.configfound import Found, check_each, check_longer_than_zero, check_plugin, check_plugins
from router.configroutes import check_routes
from router.configtls import check_listener_tls, check_pool_tls
from router.faults import ConfigFaults, Fault, Source
from router.model import EndpointSpec, parse_address
from router.positions import Path

__all__ = ["Bind", "as_data", "check", "endpoint_specs", "load_checked", "parse_bind"]

_NONE = Duration("inf")
_QUOTED = re.compile(r" (['\"]).*\1 ")

_ROUTE_POOL = re.compile(r"routes\[\d+\]\.(pool|pools\[\d+\]\.name)")

#: Keys that are checked together with their neighbours in one table.
_TOGETHER = re.compile(r"(?<=\.limits)\.queue$|(?<=\.ejection)\.(base|max)$")


def load_checked(path: FilePath | str, env: Mapping[str, str] = os.environ) -> tuple[Config, Source]:
    """Reads and checks a configuration file, like `load` and `check` in one.

    Raises:
        ConfigFaults: with every fault of both, but for what may only follow from another.
    """
    try:
        config, source = load(path, env)
    except ConfigFaults as broken:
        if broken.partial is None or broken.source is None:
            raise
        raise ConfigFaults([*broken.faults, *_further(broken)], broken.partial, broken.source) from None
    faults = check(config, source)
    if faults:
        raise ConfigFaults(faults, config, source)
    return config, source


def check(config: Config, source: Source | None) -> list[Fault]:
    """All faults of a configuration that show without plugins, in the order of the file.

    Args:
        config: as decoded.
        source: where it came from; None if it was never written down: then faults have line 0.
    """
    found = list(_findings(config))
    if found and source is None:
        source = Source("", "", "toml", as_data(config))
    faults = [source.fault(*item) for item in found if source is not None]
    return sorted(faults, key=lambda fault: (fault.line, fault.column))


def _further(broken: ConfigFaults) -> list[Fault]:
    """What is wrong in what could be read; never what may only follow from a fault that is known already."""
    faulty = {fault.key for fault in broken.faults}
    around = {above for key in faulty for above in _above(key)}
    nameless = not broken.partial.pools or any(not pool.name for pool in broken.partial.pools)
    further = []
    for fault in check(broken.partial, broken.source):
        key = _TOGETHER.sub("", fault.key)
        follows = key in faulty or key in around or not faulty.isdisjoint(_above(key))
        if not follows and not (nameless and _ROUTE_POOL.fullmatch(key)):
            further.append(fault)
    return further


def _above(key: str) -> list[str]:
    """a.b[0].c -> a, a.b, a.b[0]"""
    return [key[: found.start()] for found in re.finditer(r"[.\[]", key)]


def endpoint_specs(pool: PoolConfig) -> tuple[EndpointSpec, ...]:
    """The pool's endpoints as specs: a bare URL is one with every default."""
    return tuple(EndpointSpec(item) if isinstance(item, str) else item for item in pool.endpoints)


def as_data(config: Config) -> Any:
    """A configuration that was never written down, as plain data that faults can show."""
    return msgspec.to_builtins(config, enc_hook=_unit)


def _unit(value: object) -> str:
    if value == _NONE:
        return "none"
    return f"{value:g}s" if isinstance(value, Duration) else str(int(value) if isinstance(value, SizeLimit) else value)


def _findings(config: Config) -> Iterator[Found]:
    for name, items in (("listeners", config.listeners), ("routes", config.routes), ("pools", config.pools)):
        if not items:
            yield Found((name,), f"at least one {name[:-1]} is needed")
    yield from _check_server(config)
    yield from _check_listeners(config.listeners)
    yield from check_routes(config)
    for index, pool in enumerate(config.pools):
        yield from _check_pool(pool, ("pools", index))
    yield from _check_names("pools", [pool.name for pool in config.pools])
    yield from _check_names("routes", [route.name for route in config.routes])
    yield from check_plugins(config.observers, ("observers",))
    yield from check_plugins(config.services, ("services",))


def _check_server(config: Config) -> Iterator[Found]:
    server = config.server
    yield from check_each(network_problem, server.trusted_proxies, ("server", "trusted_proxies"))
    if server.health_path:
        problem = path_problem(server.health_path)
        if problem is None and server.health_path.endswith("*"):
            problem = Problem("this is one path, without '*'", "such as '/-/health'")
        if problem is not None:
            yield Found(("server", "health_path"), *problem)
    if server.control:
        problem = control_problem(server.control)
        if problem is not None:
            yield Found(("server", "control"), *problem)
    if server.drain_delay == Duration("inf"):
        yield Found(("server", "drain_delay"), "the router would never stop: this needs a limit")
    if server.max_header_bytes == 0:
        yield Found(("server", "max_header_bytes"), "every request has a head: this must be more than zero")


def _check_listeners(listeners: tuple[ListenerConfig, ...]) -> Iterator[Found]:
    binds: dict[int, Bind] = {}
    for index, listener in enumerate(listeners):
        path: Path = ("listeners", index)
        waits = ("handshake", "header", "idle", "stream")
        yield from check_longer_than_zero(listener.timeouts, (*path, "timeouts"), waits)
        yield from check_listener_tls(listener, listeners, path)
        problem = bind_problem(listener.bind)
        if problem is not None:
            yield Found((*path, "bind"), *problem)
            continue
        bind = parse_bind(listener.bind)
        for earlier, other in binds.items():
            if bind.overlaps(other):
                yield Found((*path, "bind"), f"this address is taken by listeners[{earlier}]")
                break
        binds[index] = bind


def _check_pool(pool: PoolConfig, path: Path) -> Iterator[Found]:
    yield from _check_endpoints(pool, (*path, "endpoints"))
    yield from check_pool_tls(pool, path)
    yield from check_longer_than_zero(pool.timeouts, (*path, "timeouts"), ("connect", "head", "stream"))
    yield from check_longer_than_zero(pool.limits, (*path, "limits"), ("queue_timeout",))
    yield from check_longer_than_zero(pool.retry, (*path, "retry"), ("attempt_timeout",))
    yield from check_longer_than_zero(pool.ejection, (*path, "ejection"), ("base", "max"))
    yield from check_each(retry_problem, pool.retry.on, (*path, "retry", "on"))
    if pool.ejection.base > pool.ejection.max:
        # Point at the one that was written: the other may be a default.
        key = "base" if pool.ejection.base != type(pool.ejection)().base else "max"
        yield Found((*path, "ejection", key), "ejection.base is longer than ejection.max")
    limits = pool.limits
    if limits.queue and not (limits.in_flight or limits.in_flight_per_endpoint or limits.adaptive != "none"):
        hint = "set limits.in_flight, limits.in_flight_per_endpoint or limits.adaptive"
        yield Found((*path, "limits", "queue"), "a queue has no effect without a limit", hint)
    if pool.selection == "":
        yield Found((*path, "selection"), "a pool needs a selection", "leave it out for 'least_request'")
    yield from check_plugin(pool.selection, (*path, "selection"))
    yield from check_plugin(pool.discovery, (*path, "discovery"))
    yield from check_plugin(pool.affinity, (*path, "affinity"))
    yield from check_plugin(pool.probe, (*path, "probe"))
    yield from check_plugins(pool.detectors, (*path, "detectors"))
    if pool.slow_start.window == _NONE:
        yield Found((*path, "slow_start", "window"), "an endpoint would never have its whole weight", "'0s' is none")
    if not pool.slow_start.min:
        yield Found((*path, "slow_start", "min"), "an endpoint without weight is never asked: this is at least '1%'")


def _check_endpoints(pool: PoolConfig, path: Path) -> Iterator[Found]:
    if not pool.endpoints:
        if not pool.discovery:
            yield Found(path, "a pool needs at least one endpoint", "or 'discovery', which finds them")
        return
    seen: dict[str, int] = {}
    for index, (item, spec) in enumerate(zip(pool.endpoints, endpoint_specs(pool), strict=True)):
        entry: Path = (*path, index)
        url = entry if isinstance(item, str) else (*entry, "url")
        try:
            address = parse_address(spec.url)
        except ValueError as error:
            # The value stands before the message already, unless it is secret.
            yield Found(url, _QUOTED.sub(" ", str(error)))
            continue
        earlier = seen.setdefault(spec.id or str(address), index)
        if earlier != index:
            what = (*entry, "id") if spec.id else url
            yield Found(what, f"this is the same endpoint as endpoints[{earlier}]", "give one of them another id")
    if not pool.discovery and not any(spec.weight for spec in endpoint_specs(pool)):
        yield Found(path, "every endpoint has weight 0, so none would take a request")


def _check_names(table: str, names: list[str]) -> Iterator[Found]:
    seen: dict[str, int] = {}
    for index, name in enumerate(names):
        path: Path = (table, index, "name")
        if not name and table == "routes":
            continue
        problem = name_problem(name)
        if problem is not None:
            yield Found(path, *problem)
        earlier = seen.setdefault(name, index)
        if earlier != index:
            yield Found(path, f"this name is taken by {table}[{earlier}]")
