"""What a configuration refers to: a plugin's name, or "package.module:Name", with its options.

A first strategy is a class in a file beside router.toml and needs no packaging. The configuration's folder is searched
first while its import runs, and last ever after: a file of the user's that is called like a module of Python's can so
never take its place for the rest of the process.
"""

from __future__ import annotations

import importlib
import re
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import msgspec

from router.api import Factory, Options, Tools
from router.contracts import contract_fault
from router.options import Key, PluginFault, check_options, did_you_mean, encode_options

__all__ = ["Entry", "Resolved", "load_class", "split_reference", "told"]

_REFERENCE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")


class Entry(msgspec.Struct, frozen=True, eq=False):
    """One named offer of a plugin."""

    concern: str
    name: str
    factory: Factory
    options: type[Options]
    #: "" for a class on the path.
    distribution: str
    version: str
    #: Name of the entry point, or of the module.
    plugin: str

    def __str__(self) -> str:
        source = f' of {self.distribution} (plugin "{self.plugin}")' if self.distribution else ""
        return f'{self.concern} "{self.name}"{source}'


class Resolved(msgspec.Struct, frozen=True, eq=False):
    """A reference of the configuration: which plugin, with which options."""

    entry: Entry
    options: Options

    @property
    def key(self) -> tuple[str, str, bytes]:
        """Equal for the same name and options: then a reload keeps the object and its state."""
        return (self.entry.concern, self.entry.name, encode_options(self.options))

    def make(self, tools: Tools) -> Any:
        """Calls the factory, and checks that what it made fits the concern's Protocol.

        A class without an `__init__` of its own is called with nothing.

        Raises:
            PluginFault: the factory raised, or a method is missing or has other parameters.
        """
        factory = cast(Callable[..., Any], self.entry.factory)
        try:
            made = factory() if _takes_nothing(factory) else factory(self.options, tools)
        except Exception as error:
            # A ValueError is for who wrote the options; what else a factory raises, its author wants to know of.
            why = " ".join(str(error).split()) if type(error) is ValueError else told(error)
            raise PluginFault(f"{self.entry} could not be made: {why}") from error
        fault = contract_fault(self.entry.concern, made)
        if fault:
            raise PluginFault(f"{self.entry}: {fault}")
        return made


def split_reference(concern: str, ref: str | dict[str, Any]) -> tuple[str, dict[str, Any]]:
    if isinstance(ref, str):
        return ref, {}
    name = ref.get("use")
    if isinstance(name, str):
        return name, {key: value for key, value in ref.items() if key != "use"}
    if "use" in ref:
        raise PluginFault(f"the {concern}'s `use` is a name, not {name!r}", key=("use",))
    raise PluginFault(f'the {concern} needs a name, as in {{ use = "name" }}', hint=_near_use(ref))


def _near_use(ref: dict[str, Any]) -> str:
    return 'did you mean "use"?' if {"name", "type", "kind", "plugin"} & ref.keys() else ""


def load_class(reference: str, folder: Path | None, key: Key = ()) -> tuple[Factory, type[Options]]:
    """Finds the class and the Options nested in it, or the base Options if it has none.

    Args:
        reference: "package.module:Name".
        folder: searched first; None searches Python's path alone.
        key: what faults name as their place.

    Raises:
        PluginFault: no such module or name, an import that fails, or Options of another kind.
    """
    if not _REFERENCE.fullmatch(reference):
        raise PluginFault(f'"{reference}" is not written like "package.module:Name"', key=key)
    module_name, _, name = reference.partition(":")
    module = _module(module_name, folder, key)
    factory = getattr(module, name, None)
    if not callable(factory):
        known = [n for n, value in vars(module).items() if callable(value) and not n.startswith("_")]
        raise PluginFault(f'module "{module_name}" has no class "{name}"', hint=did_you_mean(name, known), key=key)
    options = getattr(factory, "Options", Options)
    try:
        check_options(options, f"the Options of {reference}")
    except PluginFault as fault:
        raise PluginFault(fault.message, key=key) from fault
    return cast(Factory, factory), options


def _module(name: str, folder: Path | None, key: Key) -> ModuleType:
    try:
        return _import(name, folder)
    except ModuleNotFoundError as error:
        if error.name and f"{name}.".startswith(f"{error.name}."):
            beside = [path.stem for path in folder.glob("*.py")] if folder else []
            where = f" in {folder} or" if folder else ""
            message = f'no module "{name}"{where} on the path'
            raise PluginFault(message, hint=did_you_mean(name, beside), key=key) from error
        raise _failed(name, error, key) from error
    except (Exception, SystemExit) as error:
        raise _failed(name, error, key) from error


def _failed(name: str, error: BaseException, key: Key) -> PluginFault:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    # A syntax error says its file and line itself; the last frame is Python's own importer.
    place = "" if isinstance(error, SyntaxError) else f" ({Path(frame.filename).name}:{frame.lineno})"
    return PluginFault(f'importing "{name}" failed: {type(error).__name__}: {error}{place}', key=key)


def _import(name: str, folder: Path | None) -> ModuleType:
    importlib.invalidate_caches()
    if folder is None:
        return importlib.import_module(name)
    place = str(folder.resolve())
    known = place in sys.path
    sys.path.insert(0, place)
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(place)
        if not known:
            sys.path.append(place)


def _takes_nothing(factory: object) -> bool:
    if not isinstance(factory, type):
        return False
    own = [c.__dict__ for c in factory.__mro__ if c is not object and not c.__dict__.get("_is_protocol", False)]
    # typing gives a class that derives from a Protocol object's __init__ when it is first called.
    return all(c.get("__init__", object.__init__) is object.__init__ and "__new__" not in c for c in own)


def told(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
