"""What must hold across a configuration's tables, and of its values: everything that needs no plugin and no socket.

Each check yields what it finds and changes nothing; `check` turns that into faults with places. Shapes and types have
been settled by configdecode.py before.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path as FilePath
from typing import Any, NamedTuple

import msgspec

from router.config import Config, Duration, ListenerConfig, PluginRef, PoolConfig, RouteConfig
from router.configfile import load
from router.configfill import Problem
from router.configforms import (
    Bind,
    bind_problem,
    header_name_problem,
    host_problem,
    method_problem,
    name_problem,
    network_problem,
    parse_bind,
    path_problem,
    retry_problem,
)
from router.faults import ConfigFaults, Fault, Source, did_you_mean
from router.model import EndpointSpec, parse_address
from router.positions import Path

__all__ = ["Bind", "as_data", "check", "endpoint_specs", "load_checked", "parse_bind"]

_QUOTED = re.compile(r" (['\"]).*\1 ")

_ROUTE_POOL = re.compile(r"routes\[\d+\]\.pool")

#: Keys that are checked together with their neighbours in one table.
_TOGETHER = re.compile(r"(?<=\.limits)\.queue$|(?<=\.ejection)\.(base|max)$")


class _Found(NamedTuple):
    path: Path
    message: str
    hint: str = ""
    at_value: bool = True


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
    return f"{value:g}s" if isinstance(value, Duration) else str(value)


def _findings(config: Config) -> Iterator[_Found]:
    for name, items in (("listeners", config.listeners), ("routes", config.routes), ("pools", config.pools)):
        if not items:
            yield _Found((name,), f"at least one {name[:-1]} is needed")
    yield from _check_server(config)
    yield from _check_listeners(config.listeners)
    yield from _check_routes(config)
    for index, pool in enumerate(config.pools):
        yield from _check_pool(pool, ("pools", index))
    yield from _check_names("pools", [pool.name for pool in config.pools])
    yield from _check_names("routes", [route.name for route in config.routes])
    yield from _plugins(config.observers, ("observers",))
    yield from _plugins(config.services, ("services",))


def _check_server(config: Config) -> Iterator[_Found]:
    server = config.server
    yield from _each(network_problem, server.trusted_proxies, ("server", "trusted_proxies"))
    if server.health_path:
        problem = path_problem(server.health_path)
        if problem is None and server.health_path.endswith("*"):
            problem = Problem("this is one path, without '*'", "such as '/-/health'")
        if problem is not None:
            yield _Found(("server", "health_path"), *problem)
    if server.drain_delay == Duration("inf"):
        yield _Found(("server", "drain_delay"), "the router would never stop: this needs a limit")
    if server.max_header_bytes == 0:
        yield _Found(("server", "max_header_bytes"), "every request has a head: this must be more than zero")


def _check_listeners(listeners: tuple[ListenerConfig, ...]) -> Iterator[_Found]:
    binds: dict[int, Bind] = {}
    for index, listener in enumerate(listeners):
        path: Path = ("listeners", index)
        yield from _positive(listener.timeouts, (*path, "timeouts"), ("header", "idle", "stream"))
        problem = bind_problem(listener.bind)
        if problem is not None:
            yield _Found((*path, "bind"), *problem)
            continue
        bind = parse_bind(listener.bind)
        for earlier, other in binds.items():
            if bind.overlaps(other):
                yield _Found((*path, "bind"), f"this address is taken by listeners[{earlier}]")
                break
        binds[index] = bind


def _check_routes(config: Config) -> Iterator[_Found]:
    pools = {pool.name for pool in config.pools}
    for index, route in enumerate(config.routes):
        path: Path = ("routes", index)
        if route.pool not in pools:
            yield _Found((*path, "pool"), "there is no such pool", did_you_mean(route.pool, pools) or _known(pools))
        yield from _each(host_problem, route.host, (*path, "host"))
        yield from _each(path_problem, route.path, (*path, "path"))
        yield from _each(method_problem, route.methods, (*path, "methods"))
        for name in route.headers:
            problem = header_name_problem(name)
            if problem is not None:
                yield _Found((*path, "headers", name), *problem)
        yield from _positive(route, path, ("timeout",))
        yield from _plugins(route.filters, (*path, "filters"))
    yield from _check_reach(config.routes)


def _known(pools: Iterable[str]) -> str:
    names = sorted(pools)
    return "the pools are " + ", ".join(map(repr, names[:5])) + (", …" if len(names) > 5 else "") if names else ""


def _check_reach(routes: tuple[RouteConfig, ...]) -> Iterator[_Found]:
    for index, route in enumerate(routes[:-1]):
        hosts, paths = _listed(route.host), _listed(route.path)
        if hosts or (paths and "/*" not in paths) or route.methods or route.headers or route.query:
            continue
        rest = len(routes) - index - 1
        after = f"routes[{index + 1}]" if rest == 1 else f"routes[{index + 1}] and the {rest - 1} after it"
        message = f"this route takes every request, so {after} can never be reached"
        yield _Found(("routes", index), message, "move it to the end, or give it a host or path", at_value=False)
        return


def _check_pool(pool: PoolConfig, path: Path) -> Iterator[_Found]:
    yield from _check_endpoints(pool, (*path, "endpoints"))
    yield from _positive(pool.timeouts, (*path, "timeouts"), ("connect", "head", "stream"))
    yield from _positive(pool.limits, (*path, "limits"), ("queue_timeout",))
    yield from _positive(pool.retry, (*path, "retry"), ("attempt_timeout", "hedge_after"))
    yield from _positive(pool.ejection, (*path, "ejection"), ("base", "max"))
    yield from _each(retry_problem, pool.retry.on, (*path, "retry", "on"))
    if pool.ejection.base > pool.ejection.max:
        # Point at the one that was written: the other may be a default.
        key = "base" if pool.ejection.base != type(pool.ejection)().base else "max"
        yield _Found((*path, "ejection", key), "ejection.base is longer than ejection.max")
    limits = pool.limits
    if limits.queue and not (limits.in_flight or limits.in_flight_per_endpoint):
        hint = "set limits.in_flight or limits.in_flight_per_endpoint"
        yield _Found((*path, "limits", "queue"), "a queue has no effect without a limit", hint)
    if pool.selection == "":
        yield _Found((*path, "selection"), "a pool needs a selection", "leave it out for 'least_request'")
    yield from _plugin(pool.selection, (*path, "selection"))
    yield from _plugin(pool.affinity, (*path, "affinity"))
    yield from _plugins(pool.detectors, (*path, "detectors"))


def _check_endpoints(pool: PoolConfig, path: Path) -> Iterator[_Found]:
    if not pool.endpoints:
        yield _Found(path, "a pool needs at least one endpoint")
        return
    seen: dict[str, int] = {}
    for index, (item, spec) in enumerate(zip(pool.endpoints, endpoint_specs(pool), strict=True)):
        entry: Path = (*path, index)
        url = entry if isinstance(item, str) else (*entry, "url")
        try:
            address = parse_address(spec.url)
        except ValueError as error:
            # The value stands before the message already, unless it is secret.
            yield _Found(url, _QUOTED.sub(" ", str(error)))
            continue
        if address.scheme == "https":
            yield _Found(url, "TLS to endpoints is not supported yet", "use http:// for now")
        earlier = seen.setdefault(spec.id or str(address), index)
        if earlier != index:
            what = (*entry, "id") if spec.id else url
            yield _Found(what, f"this is the same endpoint as endpoints[{earlier}]", "give one of them another id")
    if not any(spec.weight for spec in endpoint_specs(pool)):
        yield _Found(path, "every endpoint has weight 0, so none would take a request")


def _check_names(table: str, names: list[str]) -> Iterator[_Found]:
    seen: dict[str, int] = {}
    for index, name in enumerate(names):
        path: Path = (table, index, "name")
        if not name and table == "routes":
            continue
        problem = name_problem(name)
        if problem is not None:
            yield _Found(path, *problem)
        earlier = seen.setdefault(name, index)
        if earlier != index:
            yield _Found(path, f"this name is taken by {table}[{earlier}]")


def _plugins(refs: tuple[PluginRef, ...], path: Path) -> Iterator[_Found]:
    for index, ref in enumerate(refs):
        entry: Path = (*path, index)
        if not ref:
            yield _Found(entry, "a plugin is a name or a table { use = name, ... }")
        else:
            yield from _plugin(ref, entry)


def _plugin(ref: PluginRef, path: Path) -> Iterator[_Found]:
    if isinstance(ref, str):
        return
    use = ref.get("use")
    if "use" not in ref:
        yield _Found(path, "the key 'use' is missing: it names the plugin")
    elif not isinstance(use, str) or not use:
        yield _Found((*path, "use"), "expected the name of a plugin")


def _positive(table: Any, path: Path, keys: Iterable[str]) -> Iterator[_Found]:
    for key in keys:
        if getattr(table, key) == 0:
            yield _Found((*path, key), "this must be longer than zero", "'none' means no limit")


def _each(problem_of: Callable[[str], Problem | None], texts: str | Iterable[str], path: Path) -> Iterator[_Found]:
    """Checks one string, or each of a list."""
    if isinstance(texts, str):
        problem = problem_of(texts)
        if problem is not None:
            yield _Found(path, *problem)
        return
    for index, text in enumerate(texts):
        yield from _each(problem_of, text, (*path, index))


def _listed(texts: str | tuple[str, ...]) -> tuple[str, ...]:
    return (texts,) if isinstance(texts, str) else texts
