"""Options of plugins: from a plain table to a frozen struct and back to text for people. No plugin parses anything.

Every fault of one table is found at once and names its key; unknown keys get "did you mean". Nothing here knows pluggy.
"""

from __future__ import annotations

import difflib
import re
import types
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec

from router.api import Options
from router.config import Duration, Share, Size, parse_duration, parse_share, parse_size

__all__ = ["PluginFault", "check_options", "describe_options", "did_you_mean", "encode_options", "read_options"]

Key = tuple[str | int, ...]

_PARSERS = {Duration: parse_duration, Size: parse_size, Share: parse_share}
_WORDS = {Duration: "duration", Size: "size", Share: "share", type(None): "none", Any: "anything"}
_PATH = re.compile(r" - at `\$(?P<path>[^`]*)`$")
_TYPE = re.compile(r"`(\w+)`")
#: msgspec's names of types -> those of a configuration file.
_TOML = {
    "object": "a table",
    "array": "a list",
    "str": "a string",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "null": "nothing",
}
_NAME = re.compile(r"[a-z_]+")
_STEP = re.compile(r"\.([^.\[]+)|\[(\d+)\]")


class PluginFault(Exception):
    """Something is wrong about a plugin or about a reference to one; said at start, never while serving.

    Args:
        message: one sentence that names the plugin, the value and what would be right.
        hint: 'did you mean "x"?', or "".
        key: the path within the reference that is at fault, as in ("use",) or ("tau",); () for all of it.
        others: further faults of the same reference.
    """

    def __init__(self, message: str, *, hint: str = "", key: Key = (), others: Sequence[PluginFault] = ()) -> None:
        super().__init__(f"{message}; {hint}" if hint else message)
        self.message = message
        self.hint = hint
        self.key = key
        self.others = tuple(others)

    @property
    def all(self) -> tuple[PluginFault, ...]:
        """This fault and the others of the same reference."""
        return (self, *self.others)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """'did you mean "x"?' for the closest of the known words, or "" if none is close."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f'did you mean "{close[0]}"?' if close else ""


def check_options(kind: object, owner: str) -> None:
    """Refuses what cannot serve as options: another class, or annotations that Python or msgspec cannot read.

    Raises:
        PluginFault: naming the owner and the reason.
    """
    if not (isinstance(kind, type) and issubclass(kind, Options)):
        raise PluginFault(f"{owner} are not a subclass of router.Options: {kind!r}")
    try:
        describe_options(kind)
        msgspec.convert({}, kind, dec_hook=_decode)
    except msgspec.ValidationError:  # an option that is required
        return
    except Exception as error:
        raise PluginFault(f"{owner} cannot be read: {type(error).__name__}: {error}") from error


def read_options(kind: type[Options], table: dict[str, Any], owner: str, beside: Sequence[str] = ()) -> Options:
    """Converts a table to a plugin's Options.

    Args:
        kind: the struct that the plugin registered.
        table: keys and values as the configuration file has them.
        owner: who is named in messages, as in 'selection "peak_ewma"'.
        beside: keys that may stand beside the options, for messages about unknown ones.

    Raises:
        PluginFault: the first fault, with all others in `others`.
    """
    faults = _faults(kind, table, owner, beside)
    if faults:
        first = faults[0]
        raise PluginFault(first.message, hint=first.hint, key=first.key, others=faults[1:])
    try:
        return msgspec.convert(table, kind, dec_hook=_decode)
    except msgspec.ValidationError as error:  # a check across fields, in the struct's __post_init__
        fault = _from_validation(error, (), owner)
        # It may begin with the name of the option that it is about: then it stands there.
        word = _NAME.match(str(error))
        if not fault.key and word is not None and word[0] in table:
            fault.key = (word[0],)
        raise fault from error


def encode_options(options: Options) -> bytes:
    """Bytes that are equal for equal options: what tells whether a reload may keep an object."""
    return msgspec.msgpack.encode((type(options).__qualname__, _plain(options)), order="deterministic", enc_hook=repr)


@cache
def fields_of(kind: type[msgspec.Struct]) -> tuple[msgspec.structs.FieldInfo, ...]:
    """The fields of a struct. Kept: each look makes closures that refer to themselves, and reloads look often."""
    return msgspec.structs.fields(kind)


def describe_options(kind: type[Options]) -> list[tuple[str, str, str]]:
    """(name, type, default) of each option, written as a configuration file would have them."""
    return [(f.encode_name, type_text(f.type), _default_text(f)) for f in fields_of(kind)]


def type_text(kind: Any) -> str:
    """A type in words: "duration", "int >= 1", '"a" or "b"', "list of str"."""
    origin, args = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return " ".join([type_text(args[0]), *(text for meta in args[1:] for text in _bounds(meta))])
    if origin is Literal:
        return " or ".join(_value_text(value) for value in args)
    if origin in (Union, types.UnionType):
        return " or ".join(type_text(part) for part in args)
    if origin is dict:
        return f"table of {type_text(args[1])}"
    if origin is not None and args:
        return f"list of {type_text(args[0])}"
    return _WORDS.get(kind) or str(getattr(kind, "__name__", kind))


def _faults(kind: type[Options], table: dict[str, Any], owner: str, beside: Sequence[str]) -> list[PluginFault]:
    fields = {field.encode_name: field for field in fields_of(kind)}
    faults = []
    for name, value in table.items():
        if name not in fields:
            faults.append(_unknown(name, [*fields, *beside], owner))
            continue
        try:
            msgspec.convert(value, fields[name].type, dec_hook=_decode)
        except msgspec.ValidationError as error:
            faults.append(_from_validation(error, (name,), owner, fields[name].type))
    for name, field in fields.items():
        if field.required and name not in table:
            faults.append(PluginFault(f'{owner} needs "{name}", of type {type_text(field.type)}'))
    return faults


def _unknown(name: str, known: list[str], owner: str) -> PluginFault:
    listed = ", ".join(sorted(known)) if known else "none"
    return PluginFault(
        f'{owner} has no option "{name}"; its options: {listed}', hint=did_you_mean(name, known), key=(name,)
    )


def _from_validation(error: msgspec.ValidationError, prefix: Key, owner: str, kind: Any = Any) -> PluginFault:
    text = str(error)
    key = prefix
    found = _PATH.search(text)
    if found:
        text = text[: found.start()]
        key = (*prefix, *(name or int(index) for name, index in _STEP.findall(found["path"]) if name or index))
    text = _in_words(text, kind, key[1:])
    where = ".".join(str(part) for part in key)
    return PluginFault(f"{owner}: {where}: {text}" if where else f"{owner}: {text}", key=key)


def _in_words(text: str, kind: Any, path: Key) -> str:
    """msgspec's message in the words of a configuration file."""
    if text.startswith("Invalid enum value"):
        for step in path:
            kind = _inside(kind, step)
        return f"expected {type_text(kind)}, not{text.removeprefix('Invalid enum value')}"
    return (
        _TYPE.sub(lambda found: _TOML.get(found[1], found[1]), text)
        .replace("Expected", "expected")
        .replace(", got", ", not")
    )


def _inside(kind: Any, step: str | int) -> Any:
    """The type of what stands at a key, or at a place of a list."""
    if get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return next((field.type for field in fields_of(kind) if field.encode_name == step), Any)
    return get_args(kind)[0] if get_args(kind) and isinstance(step, int) else Any


def _decode(kind: type[Any], value: object) -> Any:
    parse = _PARSERS.get(kind)
    if parse is None:
        raise ValueError(f"options of type {kind.__name__} cannot be written in a configuration file")
    return parse(value)


def _plain(value: Any) -> Any:
    if isinstance(value, msgspec.Struct):
        return {field: _plain(getattr(value, field)) for field in value.__struct_fields__}
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, (Duration, Share)):
        return float(value)
    return int(value) if isinstance(value, Size) else value


def _bounds(meta: Any) -> list[str]:
    signs = (("gt", ">"), ("ge", ">="), ("lt", "<"), ("le", "<="))
    return [f"{sign} {getattr(meta, name)}" for name, sign in signs if getattr(meta, name, None) is not None]


def _default_text(field: msgspec.structs.FieldInfo) -> str:
    if field.required:
        return "required"
    if field.default_factory is not msgspec.NODEFAULT:
        return _value_text(field.default_factory())
    kinds = get_args(field.type) or (field.type,)
    for kind, text in ((Duration, duration_text), (Size, size_text), (Share, share_text)):
        if kind in kinds and field.default is not None:
            return f'"{text(field.default)}"'
    return _value_text(field.default)


def _value_text(value: Any) -> str:
    if value is None:
        return "none"
    return repr(value) if isinstance(value, float) else msgspec.json.encode(value, enc_hook=str).decode()


def duration_text(seconds: float) -> str:
    """Seconds as a configuration file has them: "250ms", "2s", "5m", "none"."""
    if seconds == float("inf"):
        return "none"
    for unit, size in (("h", 3600), ("m", 60), ("s", 1)):
        if seconds >= size and seconds % size == 0:
            return f"{seconds / size:g}{unit}"
    return f"{seconds:g}s" if seconds >= 1 or not seconds else f"{seconds * 1000:g}ms"


def size_text(count: int) -> str:
    """Bytes as a configuration file has them: "64KiB"."""
    for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if count >= size and count % size == 0:
            return f"{count // size}{unit}"
    return f"{count}B"


def share_text(share: float) -> str:
    """A share as a configuration file has it: "10%"."""
    return f"{share * 100:g}%"
