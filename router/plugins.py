"""Finds plugins and knows what they offer: (concern, name) -> factory and options. The only file that calls pluggy.

Entry points load one by one, and what is wrong about one is told with its distribution, plugin, hook and argument, and
does not stop the others. Runs at start and at reload, never while a request is served.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec
import pluggy

from router.api import Factory, Options
from router.corekeys import CORE_KEYS, core_keys
from router.hooks import PROJECT, HookSpecs
from router.options import PluginFault, check_options, describe_options, did_you_mean, read_options
from router.references import Entry, Resolved, load_class, split_reference, told

__all__ = ["CONCERNS", "GROUP", "Broken", "Entry", "PluginFault", "Registry", "Resolved"]

GROUP = "router.plugins"

#: Concern -> the hook that registers its factories.
CONCERNS = {
    "selection": "register_selectors",
    "affinity": "register_affinities",
    "probe": "register_probes",
    "detector": "register_detectors",
    "certificates": "register_certificates",
    "discovery": "register_discovery",
    "observer": "register_observers",
    "filter": "register_filters",
    "service": "register_services",
}
_COMMANDS = "register_commands"

#: Loaded first, so that installing something can never change what a bundled name means.
_OWN_DISTRIBUTION = "edge-router"

_NAME = re.compile(r"[a-z0-9_]+")
_UNKNOWN_HOOK = re.compile(r"unknown hook '(\w+)'")


class Broken(msgspec.Struct, frozen=True):
    """A plugin that could not be loaded, and why."""

    plugin: str
    distribution: str
    reason: str


class Registry:
    """Everything that the loaded plugins offer.

    Attributes:
        entries: all offers, sorted by concern and name.
        broken: the plugins that could not be loaded; whoever starts the router says so.
    """

    def __init__(self) -> None:
        self.broken: list[Broken] = []
        self._entries: dict[tuple[str, str], Entry] = {}
        self._commands: list[tuple[pluggy.PluginManager, str, str]] = []

    @classmethod
    def load(cls, disable: Sequence[str] = (), strict: bool = False) -> Registry:
        """Loads the entry points of the group "router.plugins".

        Args:
            disable: names of entry points or distributions to leave out.
            strict: whether a broken plugin is a fault rather than an item of `broken`.

        Raises:
            PluginFault: `disable` names something that is not installed, or a plugin is broken and `strict` is set.
        """
        points = _found()
        off = _disabled(disable, points)
        registry = cls()
        for point in points:
            if point not in off:
                registry._load(point, strict)
        return registry

    @property
    def entries(self) -> list[Entry]:
        order = list(CONCERNS)
        return sorted(self._entries.values(), key=lambda entry: (order.index(entry.concern), entry.name))

    def names(self, concern: str) -> list[str]:
        return sorted(name for kind, name in self._entries if kind == concern)

    def describe(self, entry: Entry) -> list[tuple[str, str, str]]:
        """(name, type, default) of each option, as text; those that the core reads for every such plugin come last."""
        core = CORE_KEYS.get(entry.concern)
        return describe_options(entry.options) + ([] if core is None else describe_options(core))

    def resolve(self, concern: str, ref: str | dict[str, Any], folder: Path | None) -> Resolved:
        """Finds what a reference names and reads its options.

        Args:
            concern: a key of CONCERNS.
            ref: "name", "package.module:Name", or { use = one of these, ...options }.
            folder: where the configuration file stands; classes are looked for there first.

        Raises:
            PluginFault: the first fault, its `key` relative to the reference, further ones in `others`.
        """
        name, table = split_reference(concern, ref)
        key = ("use",) if isinstance(ref, dict) else ()
        if ":" in name:
            factory, options = load_class(name, folder, key)
            entry = Entry(concern, name, factory, options, "", "", name.partition(":")[0])
            _check_own(concern, options, f"the Options of {name}")
        else:
            entry = self._find(concern, name, key)
        return Resolved(entry, read_options(entry.options, table, f'{concern} "{name}"', core_keys(concern)))

    def add(self, plugin: object, name: str, distribution: str = "", version: str = "") -> None:
        """Registers one plugin, all of it or nothing.

        Raises:
            PluginFault: says which hook, argument or name is wrong.
        """
        manager = _manager(plugin, name)
        offered: dict[tuple[str, str], Entry] = {}
        for concern, hook in CONCERNS.items():
            register = _Register(
                self._entries, offered, Entry(concern, "", Options, Options, distribution, version, name)
            )
            _call(manager, hook, register=register)
        self._entries.update(offered)
        if getattr(manager.hook, _COMMANDS).get_hookimpls():
            self._commands.append((manager, name, distribution))

    def add_commands(self, group: Any) -> None:
        """Lets plugins add their subcommands to the click group; one that fails is recorded as broken."""
        for manager, name, distribution in self._commands:
            try:
                _call(manager, _COMMANDS, group=group)
            except PluginFault as fault:
                self.broken.append(Broken(name, distribution, str(fault)))

    def _load(self, point: metadata.EntryPoint, strict: bool) -> None:
        distribution, version = _origin(point)
        try:
            self.add(_import(point), point.name, distribution, version)
        except PluginFault as fault:
            if strict:
                raise PluginFault(f'plugin "{point.name}" of {distribution} is broken: {fault}') from fault
            self.broken.append(Broken(point.name, distribution, str(fault)))

    def _find(self, concern: str, name: str, key: tuple[str, ...]) -> Entry:
        entry = self._entries.get((concern, name))
        if entry is None:
            names = self.names(concern)
            listed = f"known: {', '.join(names)}" if names else "none is installed"
            lost = ", ".join(f'"{broken.plugin}" of {broken.distribution}' for broken in self.broken)
            also = f" (broken plugins: {lost})" if lost else ""
            raise PluginFault(f'no {concern} "{name}"; {listed}{also}', hint=did_you_mean(name, names), key=key)
        return entry


class _Register:
    """The `register` argument of a hook: keeps what is offered, refuses what is malformed or taken."""

    def __init__(
        self, taken: dict[tuple[str, str], Entry], offered: dict[tuple[str, str], Entry], source: Entry
    ) -> None:
        self._taken = taken
        self._offered = offered
        self._source = source

    def __call__(self, name: str, factory: Factory, options: type[Options] = Options) -> None:
        concern = self._source.concern
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise PluginFault(f"the name {name!r} has other characters than a-z, 0-9 and _")
        if not callable(factory):
            raise PluginFault(f'the factory of "{name}" is not callable: {factory!r}')
        check_options(options, f'the options of "{name}"')
        _check_own(concern, options, f'the options of "{name}"')
        other = self._taken.get((concern, name)) or self._offered.get((concern, name))
        if other is not None:
            both = f"{other.distribution or other.plugin} and {self._source.distribution or self._source.plugin}"
            raise PluginFault(f'{concern} "{name}" is registered twice, by {both}; disable one of them')
        entry = msgspec.structs.replace(self._source, name=name, factory=factory, options=options)
        self._offered[concern, name] = entry


def _check_own(concern: str, options: type[Options], owner: str) -> None:
    """Refuses an option that the plugin would never be told, because the core takes a key of that name."""
    taken = set(options.__struct_fields__) & set(core_keys(concern))
    if taken:
        names = ", ".join(sorted(taken))
        raise PluginFault(f"{owner} have the name of a key that the router itself reads for every {concern}: {names}")


def _found() -> list[metadata.EntryPoint]:
    def rank(point: metadata.EntryPoint) -> tuple[bool, str, str]:
        distribution = _origin(point)[0]
        return (distribution != _OWN_DISTRIBUTION, distribution, point.name)

    return sorted(metadata.entry_points(group=GROUP), key=rank)


def _origin(point: metadata.EntryPoint) -> tuple[str, str]:
    return (point.dist.name, point.dist.version) if point.dist else ("", "")


def _disabled(names: Sequence[str], points: Iterable[metadata.EntryPoint]) -> list[metadata.EntryPoint]:
    off: list[metadata.EntryPoint] = []
    for index, name in enumerate(names):
        matching = [p for p in points if name == p.name or _canonical(name) == _canonical(_origin(p)[0])]
        if not matching:
            known = sorted({p.name for p in points} | {_origin(p)[0] for p in points})
            message = f'no plugin or distribution "{name}" to disable; installed: {", ".join(known)}'
            raise PluginFault(message, hint=did_you_mean(name, known), key=("disable", index))
        off += matching
    return off


def _canonical(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()


def _import(point: metadata.EntryPoint) -> object:
    try:
        return point.load()
    except (Exception, SystemExit) as error:
        raise PluginFault(f'importing "{point.value}" failed: {told(error)}') from error


def _manager(plugin: object, name: str) -> pluggy.PluginManager:
    """A manager of this plugin's own, so that one plugin's faults are never another's."""
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(HookSpecs)
    try:
        manager.register(plugin, name)
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        text = " ".join(str(error).split())
        unknown = _UNKNOWN_HOOK.search(text)
        hint = did_you_mean(unknown[1], [*CONCERNS.values(), _COMMANDS]) if unknown else ""
        raise PluginFault(text, hint=hint) from error
    except Exception as error:  # attributes of a plugin object may run its code
        raise PluginFault(f"reading its hooks failed: {told(error)}") from error
    if not manager.get_hookcallers(plugin):
        raise PluginFault("it implements no hook; mark a function with @router.hookimpl")
    return manager


def _call(manager: pluggy.PluginManager, hook: str, **arguments: Any) -> None:
    try:
        results = getattr(manager.hook, hook)(**arguments)
    except PluginFault as fault:
        raise PluginFault(f"{hook}: {fault}") from fault
    except (Exception, SystemExit) as error:
        raise PluginFault(f"{hook} raised {told(error)}") from error
    for result in results:
        if inspect.iscoroutine(result):
            result.close()
        raise PluginFault(f"{hook} returned a {type(result).__name__}; a hook calls its argument and returns nothing")
