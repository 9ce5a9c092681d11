"""From parsed data to the structs of config.py, collecting every fault on the way instead of stopping at the first.

One typed walk fills in ${VAR} and { file = ... }, checks types, keys and ranges, and leaves out what is faulty; msgspec
then builds the structs from what the walk has passed. Checks across tables stand in configcheck.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path as FilePath
from typing import Any, Final

import msgspec
from msgspec import inspect as kinds

from router.config import (
    Config,
    Duration,
    HedgeDelay,
    Share,
    Size,
    SizeLimit,
    parse_duration,
    parse_hedge_delay,
    parse_share,
    parse_size,
    parse_size_limit,
)
from router.configfill import Problem, fill, is_file_table, is_unicode, read_file
from router.faults import ConfigFaults, Fault, Source, did_you_mean
from router.positions import MAX_DEPTH, MAX_PLACES, Path

__all__ = ["decode"]

_PARSERS: dict[Any, Callable[[object], Any]] = {
    Duration: parse_duration,
    HedgeDelay: parse_hedge_delay,
    Share: parse_share,
    Size: parse_size,
    SizeLimit: parse_size_limit,
}
_ROOT = kinds.type_info(Config)


class _Bad:
    """Marks what could not be read; its fault is on the list."""


_BAD: Final = _Bad()


def decode(source: Source, folder: FilePath, env: Mapping[str, str]) -> Config:
    """The configuration that `source.data` describes.

    Args:
        source: its `filled` is written here.
        folder: what { file = ... } is relative to.
        env: what ${VAR} is looked up in.

    Raises:
        ConfigFaults: with every fault, and with what the configuration is without the faulty parts.
    """
    walk = _Walk(source, folder, env)
    data = walk.value(_ROOT, source.data, ())
    config = None
    if not isinstance(data, _Bad):
        try:
            config = msgspec.convert(data, Config, dec_hook=_as_parsed)
        except (msgspec.ValidationError, UnicodeError) as error:
            if not walk.faults:
                walk.faults.append(source.fault((), str(error)))
    if walk.faults or config is None:
        raise ConfigFaults(walk.faults, config, source)
    return config


def _as_parsed(kind: type, value: Any) -> Any:
    if not isinstance(value, kind):
        raise ValueError(f"expected {kind.__name__}")
    return value


class _Walk:
    def __init__(self, source: Source, folder: FilePath, env: Mapping[str, str]) -> None:
        self.source = source
        self.folder = folder
        self.env = env
        self.faults: list[Fault] = []
        self._count = 0

    def value(self, kind: kinds.Type, data: Any, path: Path) -> Any:
        """What `data` reads as, or _BAD; faults go on the list."""
        self._count += 1
        if len(path) > MAX_DEPTH or self._count > MAX_PLACES:
            # An alias of YAML can stand for an endless tree: say so once.
            if self._count <= MAX_PLACES + 1:
                self._bad(path, "this is nested too deeply or repeats itself")
            self._count = max(self._count, MAX_PLACES + 1)
            return _BAD
        match kind:
            case kinds.StructType():
                return self._struct(kind, data, path)
            case kinds.VarTupleType():
                return self._tuple(kind, data, path)
            case kinds.UnionType():
                member = _member(kind, data)
                if member is None:
                    return self._wrong(path, _expected(kind), data)
                return self.value(member, data, path)
            case kinds.DictType():
                return self._dict(kind, data, path)
            case kinds.StrType():
                return self._text(data, path)
            case kinds.CustomType():
                return self._custom(kind, data, path)
            case kinds.LiteralType():
                return self._literal(kind, data, path)
            case kinds.IntType():
                return self._int(kind, data, path)
            case kinds.BoolType():
                return data if isinstance(data, bool) else self._wrong(path, "true or false", data)
        return self._any(data, path)

    def _bad(self, path: Path, message: str, hint: str = "") -> _Bad:
        self.faults.append(self.source.fault(path, message, hint, at_value=True))
        return _BAD

    def _wrong(self, path: Path, expected: str, data: Any, hint: str = "") -> _Bad:
        return self._bad(path, f"expected {expected}, not {_describe(data)}", hint)

    def _struct(self, kind: kinds.StructType, data: Any, path: Path) -> Any:
        if not isinstance(data, dict):
            return self._wrong(path, "a table", data)
        fields = {field.name: field for field in kind.fields}
        for key in data:
            if key not in fields:
                self._unknown(key, list(fields), path)
        read: dict[str, Any] = {}
        for name, field in fields.items():
            if name not in data:
                value = _BAD
                if field.required:
                    self.faults.append(self._missing(name, path))
            else:
                value = self.value(field.type, data[name], (*path, name))
            if value is not _BAD:
                read[name] = value
            elif field.required:
                read[name] = _stand_in(field.type)
        return read

    def _unknown(self, key: Any, allowed: list[str], path: Path) -> None:
        hint = did_you_mean(str(key), allowed) or "known here: " + ", ".join(allowed)
        self.faults.append(self.source.fault((*path, str(key)), f"unknown key {str(key)!r}", hint))

    def _missing(self, name: str, path: Path) -> Fault:
        hint = "" if path else f"add at least one [[{name}]]" if self.source.format == "toml" else ""
        return self.source.fault((*path, name), f"the key {name!r} is missing", hint)

    def _tuple(self, kind: kinds.VarTupleType, data: Any, path: Path) -> Any:
        if not isinstance(data, list):
            # [pools] for [[pools]] is the slip that everybody makes once.
            double = isinstance(data, dict) and len(path) == 1 and self.source.format == "toml"
            hint = f"write [[{path[0]}]]" if double else ""
            return self._wrong(path, "a list", data, hint)
        read = [self.value(kind.item_type, item, (*path, index)) for index, item in enumerate(data)]
        if isinstance(kind.item_type, kinds.StructType):
            return [_stand_in(kind.item_type) if item is _BAD else item for item in read]
        return [item for item in read if item is not _BAD]

    def _dict(self, kind: kinds.DictType, data: Any, path: Path) -> Any:
        if not isinstance(data, dict):
            return self._wrong(path, "a table", data)
        read: dict[str, Any] = {}
        for key, item in data.items():
            if not isinstance(key, str) or not is_unicode(key):
                below = self._bad((*path, str(key)), "this key is not a string")
            else:
                below = self.value(kind.value_type, item, (*path, key))
            if below is not _BAD:
                read[key] = below
        return read

    def _any(self, data: Any, path: Path) -> Any:
        """An option of a plugin: its type is the plugin's business, strings are filled in all the same."""
        if isinstance(data, str) or is_file_table(data):
            return self._text(data, path)
        if isinstance(data, dict):
            return self._dict(_OPTIONS, data, path)
        if isinstance(data, list):
            return self._tuple(_ITEMS, data, path)
        return data

    def _literal(self, kind: kinds.LiteralType, data: Any, path: Path) -> Any:
        words = [str(word) for word in kind.values]
        expected = " or ".join(repr(word) for word in words)
        text = self._text(data, path)
        if text is _BAD or text in words:
            return text
        return self._bad(path, f"expected {expected}", did_you_mean(text, words))

    def _int(self, kind: kinds.IntType, data: Any, path: Path) -> Any:
        low, high = kind.ge, kind.le
        expected = "a whole number"
        if isinstance(data, bool) or not isinstance(data, int):
            return self._wrong(path, expected, data)
        if (low is None or data >= low) and data <= (high or 1 << 62):
            return data
        return self._bad(
            path,
            f"expected {expected} of {low} or more" if high is None else f"expected {expected} from {low} to {high}",
        )

    def _custom(self, kind: kinds.CustomType, data: Any, path: Path) -> Any:
        if isinstance(data, str) or is_file_table(data):
            data = self._text(data, path)
        if data is _BAD:
            return _BAD
        try:
            return _PARSERS[kind.cls](data)
        except ValueError as error:
            return self._bad(path, str(error))

    def _text(self, data: Any, path: Path) -> Any:
        """A string with ${VAR} filled in, or what { file = "path" } holds."""
        if not isinstance(data, str) and not is_file_table(data):
            return self._wrong(path, "a string", data)
        text, problems = fill(data if isinstance(data, str) else data["file"], self.env)
        if not problems and not isinstance(data, str):
            content = read_file(self.folder, text)
            if isinstance(content, Problem):
                problems.append(content)
            else:
                text = content
        if problems:
            self.faults.extend(self.source.fault(path, *problem, at_value=True) for problem in problems)
            return _BAD
        if text != data:
            self.source.filled[path] = text
        return text


_STRING = kinds.StrType()
_OPTIONS = kinds.DictType(_STRING, kinds.AnyType())
_ITEMS = kinds.VarTupleType(kinds.AnyType())


def _stand_in(kind: kinds.Type) -> Any:
    """An empty value in place of a required one that is faulty, so that the rest can be checked, places unchanged."""
    if isinstance(kind, kinds.StructType):
        return {field.name: _stand_in(field.type) for field in kind.fields if field.required}
    return [] if isinstance(kind, kinds.VarTupleType) else ""


def _member(kind: kinds.UnionType, data: Any) -> kinds.Type | None:
    """The member of a union that data of this shape is meant for."""
    shape: Any = None
    if isinstance(data, str) or is_file_table(data):
        shape = kinds.StrType
    elif isinstance(data, dict):
        shape = kinds.StructType | kinds.DictType
    elif isinstance(data, list):
        shape = kinds.VarTupleType
    elif isinstance(data, int):
        shape = kinds.IntType
    return next((member for member in kind.types if shape and isinstance(member, shape)), None)


def _expected(kind: kinds.UnionType) -> str:
    words = {kinds.StrType: "a string", kinds.VarTupleType: "a list", kinds.IntType: "a whole number"}
    # None stands for a key that is left out; no file can write it.
    types = [type(member) for member in kind.types if not isinstance(member, kinds.NoneType)]
    return " or ".join(words.get(kind, "a table") for kind in types)


def _describe(data: Any) -> str:
    for kind, words in (
        (bool, "true or false"),
        (str, "a string"),
        (int, "a number"),
        (float, "a number"),
        (dict, "a table"),
        (list, "a list"),
        (type(None), "nothing"),
    ):
        if isinstance(data, kind):
            return words
    return f"a {type(data).__name__}"
