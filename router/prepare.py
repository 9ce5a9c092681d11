"""From a configuration to everything it needs: plugins found, their options read, their objects made, faults collected.

What `router check` and `router run` share, so that the one refuses exactly what the other would. Opens no socket and
imports nothing that does.
"""

from __future__ import annotations

import logging
import os
import random
import re
import time
from collections.abc import Mapping
from itertools import accumulate, count, pairwise
from pathlib import Path
from typing import Any

from router.api import Tools
from router.config import Config, PluginRef, PoolConfig
from router.configcheck import as_data, check, endpoint_specs, load_checked
from router.configfile import load
from router.corekeys import CORE_KEYS, read_core_keys, without_core_keys
from router.faults import ConfigFaults, Fault, Source
from router.options import PluginFault
from router.plugins import Registry
from router.policy.pool import Pool
from router.policy.routes import Route
from router.policy.table import Parts, Table, build_pool, build_table

__all__ = ["Prepared", "prepare", "prepare_file", "reference_name"]

log = logging.getLogger("router")

_PLUGIN_KEYS = {
    "selection",
    "affinity",
    "probe",
    "discovery",
    "detectors",
    "filters",
    "observers",
    "services",
    "disable",
    "certificates",
}

Key = tuple[str | int, ...]
#: In a text without strings over several lines it is nothing but what it looks like.
_ROUTE = re.compile(r"^[ \t]*\[\[[ \t]*routes[ \t]*\]\]", re.MULTILINE)


class Prepared:
    """A checked configuration with its plugin objects."""

    __slots__ = (
        "_route_lines",
        "certificates",
        "config",
        "filters",
        "folder",
        "objects",
        "observers",
        "parts",
        "pools",
        "registry",
        "rng",
        "services",
        "source",
    )

    def __init__(self, config: Config, source: Source | None, folder: Path, registry: Registry) -> None:
        self.config = config
        self.source = source
        self.folder = folder
        self.registry = registry
        self.rng = random.Random()
        self.pools = {pool.name: pool for pool in config.pools}
        self.parts: dict[str, Parts] = {}
        self.filters: dict[int, tuple[Any, ...]] = {}
        #: Of each listener with TLS by its place in the file: names and sources.
        self.certificates: dict[int, list[tuple[str, Any]]] = {}
        self.observers: list[tuple[str, Any]] = []
        self.services: list[tuple[str, Any]] = []
        #: Every plugin object, by what it is for, what it is called, its options, and which of several such it is.
        self.objects: dict[tuple[Any, ...], Any] = {}
        self._route_lines: tuple[Source | None, list[int]] = None, []

    def table(self, version: int, now: float) -> Table:
        """Compiles a table of its own, with the configured endpoints alone. `now`: seconds of the router's clock."""
        pools = {pool.name: self.pool(pool) for pool in self.config.pools}
        for config in self.config.pools:
            pools[config.name].update(endpoint_specs(config), now)
        return self.compile(version, pools)

    def compile(self, version: int, pools: Mapping[str, Pool]) -> Table:
        """The table over these pools, which stand there by name."""
        return build_table(self.config, version=version, pools=pools, filters=self.filters, place_of=self.place_of)

    def pool(self, config: PoolConfig, security: Any = None) -> Pool:
        """One pool, without members. `security`: what its connections speak TLS with."""
        return build_pool(config, self.config.server.zone, self.parts[config.name], self.rng, security)

    def place_of(self, route: Route) -> str:
        """file:line of a route; "" if it was never written down."""
        source = self.source
        if source is None or not source.text:
            return ""
        if self._route_lines[0] is not source:
            # The first one, or another: where nothing but the lines is different, a reload brings its source alone.
            self._route_lines = source, _lines_of_routes(source, len(self.config.routes))
        return f"{source.name}:{self._route_lines[1][route.index]}"

    def plugins(self) -> list[Any]:
        """Every plugin object, each once."""
        return list({id(made): made for made in self.objects.values()}.values())


def _lines_of_routes(source: Source, count: int) -> list[int]:
    """Looks for headers alone where that is as sure: all the rest may be a hundred times as much."""
    text = source.text
    if source.format == "toml" and '"""' not in text and "'''" not in text:
        starts = [match.start() for match in _ROUTE.finditer(text)]
        if len(starts) == count:
            return list(accumulate((text.count("\n", a, b) for a, b in pairwise([0, *starts])), initial=1))[1:]
    return [source.positions.key(("routes", index))[0] for index in range(count)]


def prepare(
    config: Config,
    source: Source | None,
    folder: Path,
    *,
    seed: int | None = None,
    previous: Prepared | None = None,
) -> Prepared:
    """Checks a configuration across its tables and makes its plugin objects.

    Args:
        source: where it came from, for the places of faults; None if it was never written down.
        folder: where "module:Name" references are looked for.
        seed: makes every random choice repeatable.
        previous: whose objects are taken over where name and options are the same.

    Raises:
        ConfigFaults: with every fault.
    """
    faults = check(config, source)
    maker = _Maker(config, source or Source("", "", "toml", as_data(config)), folder, previous)
    if seed is not None:
        maker.made.rng.seed(seed)
    if not maker.faults:
        maker.make()
    # What the shape of a reference already says need not be said again by its plugin.
    known = {fault.key for fault in faults}
    faults += [fault for fault in maker.faults if fault.key not in known]
    if faults:
        raise ConfigFaults(faults, config, source)
    return maker.made


def prepare_file(file: Path, previous: Prepared | None = None) -> Prepared:
    """Reads and checks one configuration file; its folder is where plugins beside it are looked for.

    Args:
        previous: as of `prepare`.

    Raises:
        ConfigFaults: with every fault, but for what may only follow from another.
    """
    folder = file.absolute().parent
    try:
        config, source = load(file, os.environ)
    except ConfigFaults as error:
        raise _completed(error, file, folder) from None
    return prepare(config, source, folder, previous=previous)


def _completed(unread: ConfigFaults, file: Path, folder: Path) -> ConfigFaults:
    """The same with all that is wrong in the parts that could be read."""
    if unread.partial is None:
        return unread
    faults = list(unread.faults)
    try:
        load_checked(file, os.environ)
    except ConfigFaults as error:
        faults = list(error.faults)
    known = {fault.key for fault in faults}
    try:
        prepare(unread.partial, unread.source, folder)
    except ConfigFaults as error:
        faults += [fault for fault in error.faults if fault.key not in known and _is_about_plugin(fault)]
    return ConfigFaults(faults, unread.partial, unread.source)


def _is_about_plugin(fault: Fault) -> bool:
    return not _PLUGIN_KEYS.isdisjoint(re.split(r"[.\[]", fault.key))


def reference_name(ref: PluginRef) -> str:
    """The name in a reference to a plugin."""
    return ref if isinstance(ref, str) else str(ref.get("use", ""))


class _Maker:
    """Collects what is made, and what could not be."""

    def __init__(self, config: Config, source: Source, folder: Path, previous: Prepared | None) -> None:
        self.source = source
        self._before = previous.objects if previous is not None else {}
        #: Whose plugins are being made: a pool, a route, or the process.
        self._owner = ""
        self.faults: list[Fault] = []
        if previous is not None and previous.config.plugins == config.plugins:
            # Python loads code once per process: a second look would find the same, and leave cycles behind.
            registry = previous.registry
        else:
            registry = self._registry(config)
        self.made = Prepared(config, source, folder, registry)

    def _registry(self, config: Config) -> Registry:
        try:
            return Registry.load(config.plugins.disable, config.plugins.strict)
        except PluginFault as fault:
            self._fault(("plugins", *fault.key), fault)
        return Registry()

    def make(self) -> None:
        made = self.made
        for index, pool in enumerate(made.config.pools):
            self._owner = f"pool {pool.name}"
            made.parts[pool.name] = self._parts(pool, ("pools", index))
        for index, listener in enumerate(made.config.listeners):
            if listener.tls is not None:
                self._owner = f"listener {listener.bind}"
                at: Key = ("listeners", index, "tls", "certificates")
                made.certificates[index] = self._named("certificates", listener.tls.certificates, at)
        for index, route in enumerate(made.config.routes):
            if route.filters:
                # A route without a name is known by what it matches: its place in the file may change.
                matches = (route.host, route.path, route.methods, route.headers, route.query)
                self._owner = f"route {route.name or matches}"
                made.filters[index] = self._several("filter", route.filters, ("routes", index, "filters"))
        config, self._owner = made.config, ""
        made.observers = self._named("observer", config.observers, ("observers",))
        made.services = self._named("service", config.services, ("services",))

    def _parts(self, pool: PoolConfig, at: Key) -> Parts:
        sticky, affinity = self._with_core_keys("affinity", pool.affinity, at)
        timing, probe = self._with_core_keys("probe", pool.probe, at, pool.tls)
        return Parts(
            selector=self._one("selection", pool.selection, (*at, "selection")),
            affinity=affinity,
            on_unready=sticky.on_unready,
            probe=probe,
            timing=timing,
            detectors=self._several("detector", pool.detectors, (*at, "detectors")),
            discovery=self._one("discovery", pool.discovery, (*at, "discovery")) if pool.discovery else None,
            discovery_name=reference_name(pool.discovery),
            selector_name=reference_name(pool.selection),
        )

    def _with_core_keys(self, concern: str, ref: PluginRef, at: Key, tls: Any = None) -> tuple[Any, Any]:
        """The core's keys of a reference, and the plugin object; the defaults and None where there is none."""
        core: Any = CORE_KEYS[concern]()
        if not ref:
            return core, None
        try:
            core = read_core_keys(concern, ref)
        except PluginFault as fault:
            self._all_faults((*at, concern), fault)
        return core, self._one(concern, without_core_keys(concern, ref), (*at, concern), tls)

    def _several(self, concern: str, refs: tuple[PluginRef, ...], at: Key) -> tuple[Any, ...]:
        return tuple(self._one(concern, ref, (*at, index)) for index, ref in enumerate(refs))

    def _named(self, concern: str, refs: tuple[PluginRef, ...], at: Key) -> list[tuple[str, Any]]:
        return list(zip(map(reference_name, refs), self._several(concern, refs, at), strict=True))

    def _one(self, concern: str, ref: PluginRef, at: Key, tls: Any = None) -> Any:
        made = self.made
        tools = Tools(time.monotonic, random.Random(made.rng.getrandbits(64)), made.folder, tls)
        try:
            resolved = made.registry.resolve(concern, ref, made.folder)
            known = (self._owner, *resolved.key, tls)
            key = next((*known, n) for n in count() if (*known, n) not in made.objects)
            found = self._before.get(key)
            made.objects[key] = found if found is not None else resolved.make(tools)
            return made.objects[key]
        except PluginFault as fault:
            self._all_faults(at, fault)
        return None

    def _all_faults(self, at: Key, fault: PluginFault) -> None:
        for each in fault.all:
            self._fault((*at, *each.key), each)

    def _fault(self, at: Key, fault: PluginFault) -> None:
        self.faults.append(self.source.fault(at, fault.message, fault.hint, at_value=True))
