"""From a configuration to everything it needs: plugins found, their options read, their objects made, faults collected.

What `router check` and `router run` share, so that the one refuses exactly what the other would. Opens no socket and
imports nothing that does.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from router.api import Tools
from router.config import Config, PluginRef, PoolConfig
from router.configcheck import as_data, check, endpoint_specs
from router.corekeys import CORE_KEYS, read_core_keys, without_core_keys
from router.faults import ConfigFaults, Fault, Source
from router.options import PluginFault
from router.plugins import Registry
from router.policy.table import Parts, Table, build_table

__all__ = ["Prepared", "prepare"]

log = logging.getLogger("router")

Key = tuple[str | int, ...]


class Prepared:
    """A checked configuration with its plugin objects."""

    __slots__ = ("config", "filters", "folder", "observers", "parts", "registry", "rng", "services", "source")

    def __init__(self, config: Config, source: Source | None, folder: Path, registry: Registry) -> None:
        self.config = config
        self.source = source
        self.folder = folder
        self.registry = registry
        self.rng = random.Random()
        self.parts: dict[str, Parts] = {}
        self.filters: dict[int, tuple[Any, ...]] = {}
        self.observers: list[tuple[str, Any]] = []
        self.services: list[tuple[str, Any]] = []

    def table(self, version: int, now: float) -> Table:
        """Compiles the table. `now`: seconds of the router's clock."""
        specs = {pool.name: endpoint_specs(pool) for pool in self.config.pools}
        return build_table(
            self.config,
            version=version,
            specs=specs,
            parts=self.parts,
            filters=self.filters,
            rng=self.rng,
            now=now,
        )

    def plugins(self) -> Iterator[Any]:
        """Every plugin object, each once."""
        seen: set[int] = set()
        for made in self._all():
            if made is not None and id(made) not in seen:
                seen.add(id(made))
                yield made

    def _all(self) -> Iterator[Any]:
        for parts in self.parts.values():
            yield from (parts.selector, parts.affinity, parts.probe, *parts.detectors)
        for filters in self.filters.values():
            yield from filters
        yield from (made for _, made in self.observers)
        yield from (made for _, made in self.services)


def prepare(config: Config, source: Source | None, folder: Path, *, seed: int | None = None) -> Prepared:
    """Checks a configuration across its tables and makes its plugin objects.

    Args:
        source: where it came from, for the places of faults; None if it was never written down.
        folder: where "module:Name" references are looked for.
        seed: makes every random choice repeatable.

    Raises:
        ConfigFaults: with every fault.
    """
    faults = check(config, source)
    maker = _Maker(config, source or Source("", "", "toml", as_data(config)), folder)
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


class _Maker:
    """Collects what is made, and what could not be."""

    def __init__(self, config: Config, source: Source, folder: Path) -> None:
        self.source = source
        self.faults: list[Fault] = []
        registry = Registry()
        try:
            registry = Registry.load(config.plugins.disable, config.plugins.strict)
        except PluginFault as fault:
            self._fault(("plugins", *fault.key), fault)
        self.made = Prepared(config, source, folder, registry)

    def make(self) -> None:
        made = self.made
        for index, pool in enumerate(made.config.pools):
            made.parts[pool.name] = self._parts(pool, ("pools", index))
        for index, route in enumerate(made.config.routes):
            if route.filters:
                made.filters[index] = self._several("filter", route.filters, ("routes", index, "filters"))
        config = made.config
        made.observers = self._named("observer", config.observers, ("observers",))
        made.services = self._named("service", config.services, ("services",))

    def _parts(self, pool: PoolConfig, at: Key) -> Parts:
        sticky, affinity = self._with_core_keys("affinity", pool.affinity, at)
        timing, probe = self._with_core_keys("probe", pool.probe, at)
        return Parts(
            selector=self._one("selection", pool.selection, (*at, "selection")),
            affinity=affinity,
            on_unready=sticky.on_unready,
            probe=probe,
            timing=timing,
            detectors=self._several("detector", pool.detectors, (*at, "detectors")),
        )

    def _with_core_keys(self, concern: str, ref: PluginRef, at: Key) -> tuple[Any, Any]:
        """The core's keys of a reference, and the plugin object; the defaults and None where there is none."""
        core: Any = CORE_KEYS[concern]()
        if not ref:
            return core, None
        try:
            core = read_core_keys(concern, ref)
        except PluginFault as fault:
            self._all_faults((*at, concern), fault)
        return core, self._one(concern, without_core_keys(concern, ref), (*at, concern))

    def _several(self, concern: str, refs: tuple[PluginRef, ...], at: Key) -> tuple[Any, ...]:
        return tuple(self._one(concern, ref, (*at, index)) for index, ref in enumerate(refs))

    def _named(self, concern: str, refs: tuple[PluginRef, ...], at: Key) -> list[tuple[str, Any]]:
        names = [ref if isinstance(ref, str) else str(ref.get("use", "")) for ref in refs]
        return list(zip(names, self._several(concern, refs, at), strict=True))

    def _one(self, concern: str, ref: PluginRef, at: Key) -> Any:
        made = self.made
        tools = Tools(time.monotonic, random.Random(made.rng.getrandbits(64)))
        try:
            return made.registry.resolve(concern, ref, made.folder).make(tools)
        except PluginFault as fault:
            self._all_faults(at, fault)
        return None

    def _all_faults(self, at: Key, fault: PluginFault) -> None:
        for each in fault.all:
            self._fault((*at, *each.key), each)

    def _fault(self, at: Key, fault: PluginFault) -> None:
        self.faults.append(self.source.fault(at, fault.message, fault.hint, at_value=True))
