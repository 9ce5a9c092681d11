"""`router schema`: the JSON Schema (draft 2020-12) of a whole configuration, the options of installed plugins included.

Made from the structs of config.py and of the plugins, so that no key stands here. It takes what `router check` takes,
${VAR} and { file = ... } included; it cannot know what holds across tables, which stays with `check`.
"""

from __future__ import annotations

import inspect
import re
from typing import Any

import msgspec
from msgspec import inspect as kinds

from router.cli_init import explanations
from router.cli_output import print_json, say
from router.config import Config, Duration, HedgeDelay, Share, Size, SizeLimit
from router.corekeys import CORE_KEYS
from router.options import duration_text, share_text, size_text
from router.plugins import CONCERNS, Entry, Registry

__all__ = ["make_schema", "show_schema"]

Schema = dict[str, Any]
#: The keys that lead to a place, list indexes left out: ("pools", "retry", "attempts").
Keys = tuple[str, ...]

_DRAFT = "https://json-schema.org/draft/2020-12/schema"
_FILLED: Schema = {"$ref": "#/$defs/filled"}
_CLASS: Schema = {"$ref": "#/$defs/class"}

_NOT_IN_A_NAME = re.compile(r"[^\w.-]")
_BYTES = "[0-9]{1,9}(B|KiB|MiB|GiB)"
_COUNT: Schema = {"type": "integer", "minimum": 0}


def _unit(description: str, pattern: str, *others: Schema) -> Schema:
    return {
        "description": description,
        "anyOf": [{"type": "string", "pattern": pattern}, *others, _FILLED],
    }


#: What every configuration may refer to.
_COMMON: dict[str, Schema] = {
    "filled": {
        "description": "A string that holds ${NAME} of the environment, or that a file holds.",
        "anyOf": [
            {"type": "string", "pattern": r"\$\{"},
            {
                "type": "object",
                "properties": {"file": {"type": "string"}},
                "required": ["file"],
                "additionalProperties": False,
            },
        ],
    },
    "string": {"anyOf": [{"type": "string"}, _FILLED]},
    "class": {
        "description": '"module:Name" of a class on the path, the folder of the configuration included.',
        "type": "string",
        "pattern": r"^[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*$",
    },
    "Duration": _unit('A time such as "250ms", "2s", "5m", "1h", or "none".', r"^(none|[0-9]+(\.[0-9]+)?(ms|s|m|h))$"),
    "Size": _unit('Bytes, such as "512B", "64KiB", "10MiB", or a whole number.', f"^{_BYTES}$", _COUNT),
    "SizeLimit": _unit('Bytes, such as "10MiB", or a whole number, or "none".', f"^(none|{_BYTES})$", _COUNT),
    "HedgeDelay": _unit(
        'A time such as "50ms", "none", or a quantile of the pool\'s latency such as "p95".',
        r"^(none|p([5-8][0-9](\.[0-9]{1,3})?|9[0-8](\.[0-9]{1,3})?|99(\.[0-8][0-9]{0,2}|\.90{0,2})?)"
        r"|(?=.*[1-9])[0-9]+(\.[0-9]+)?(ms|s|m|h))$",
    ),
    "Share": _unit('A part such as "10%".', r"^0*(100(\.0+)?|[0-9]{1,2}(\.[0-9]+)?)%$"),
}
_UNITS = (Duration, HedgeDelay, Size, SizeLimit, Share)


def show_schema() -> None:
    """Prints the schema on stdout; says on stderr which plugins are missing in it."""
    registry = Registry.load()
    for broken in registry.broken:
        reason = " ".join(broken.reason.split())
        say(f"router: the schema lacks plugin {broken.plugin!r}, which is broken: {reason}")
    print_json(make_schema(registry))


def make_schema(registry: Registry) -> Schema:
    """The schema of a configuration for which the plugins of `registry` are installed."""
    return _Writer(registry).whole()


class _Writer:
    """Walks the types of the structs, and keeps each struct once under $defs."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._defs: dict[str, Schema] = dict(_COMMON)
        self._names: dict[type, str] = {}
        self._explained = explanations()

    def whole(self) -> Schema:
        config = self._struct(_struct_type(Config), ())
        return {"$schema": _DRAFT, "title": "Configuration of the router", **config, "$defs": self._defs}

    def _value(self, kind: kinds.Type, at: Keys | None) -> Schema:
        """What a value of this type may be. `at`: where it stands in the configuration; None in a plugin's options."""
        match kind:
            case kinds.Metadata():
                return {**self._value(kind.type, at), **(kind.extra_json_schema or {})}
            case kinds.StructType():
                return self._named(kind, at)
            case kinds.CustomType():
                return {"$ref": f"#/$defs/{kind.cls.__name__}"} if kind.cls in _UNITS else {}
            case kinds.UnionType():
                return self._union(kind, at)
            case kinds.TupleType():
                items = [self._value(item, at) for item in kind.item_types]
                return {"type": "array", "prefixItems": items, "minItems": len(items), "maxItems": len(items)}
            case kinds.DictType() | kinds.FrozenDictType():
                length = _bounds(kind, min_length="minProperties", max_length="maxProperties")
                return {"type": "object", "additionalProperties": self._value(kind.value_type, at), **length}
        if isinstance(kind, kinds.CollectionType):
            length = _bounds(kind, min_length="minItems", max_length="maxItems")
            return {"type": "array", "items": self._value(kind.item_type, at), **length}
        return _scalar(kind)

    def _union(self, kind: kinds.UnionType, at: Keys | None) -> Schema:
        # In the configuration None stands for a key that is left out; a plugin may take the null of JSON.
        members = [member for member in kind.types if at is None or not isinstance(member, kinds.NoneType)]
        schemas = [self._value(member, at) for member in members]
        return {"anyOf": schemas} if len(schemas) > 1 else schemas[0]

    def _named(self, kind: kinds.StructType, at: Keys | None) -> Schema:
        name = self._names.get(kind.cls)
        if name is None:
            name = kind.cls.__name__
            if name in self._defs:
                name = _NOT_IN_A_NAME.sub("_", f"{kind.cls.__module__}.{kind.cls.__qualname__}")
            self._names[kind.cls] = name
            # Taken before the walk goes on, for a struct may hold its own kind.
            self._defs[name] = {}
            self._defs[name] = self._struct(kind, at)
        return {"$ref": f"#/$defs/{name}"}

    def _struct(self, kind: kinds.StructType, at: Keys | None) -> Schema:
        properties = {field.encode_name: self._field(field, at) for field in kind.fields}
        required = [field.encode_name for field in kind.fields if field.required]
        return {
            "type": "object",
            "properties": properties,
            **({"required": required} if required else {}),
            **({"additionalProperties": False} if kind.forbid_unknown_fields else {}),
        }

    def _field(self, field: kinds.Field, at: Keys | None) -> Schema:
        concern = None
        if at is not None:
            at = (*at, field.encode_name)
            concern = _concern(field)
        schema = self._value(field.type, at) if concern is None else self._references(concern, field)
        if at is not None and at in self._explained:
            schema = {**schema, "description": self._explained[at]}
        default = _default(field)
        if default is msgspec.NODEFAULT or (default is None and at is not None):
            return schema
        return {**schema, "default": default}

    # Plugins

    def _references(self, concern: str, field: kinds.Field) -> Schema:
        """What a key that names a plugin takes, or a list of such."""
        one: Schema = {"$ref": f"#/$defs/{concern}"}
        if concern not in self._defs:
            self._defs[concern] = self._reference(concern)
        if isinstance(field.type, kinds.CollectionType):
            return {"type": "array", "items": one}
        return {"anyOf": [{"const": ""}, one]} if field.default == "" else one

    def _reference(self, concern: str) -> Schema:
        names = self._registry.names(concern)
        core = self._core(concern)
        unknown = {"use": {"anyOf": [_CLASS, _FILLED]}, **core}
        tables = [self._options(entry, core) for entry in self._registry.entries if entry.concern == concern]
        return {
            "anyOf": [
                *([{"enum": names}] if names else []),
                _CLASS,
                _FILLED,
                *tables,
                {"type": "object", "properties": unknown, "required": ["use"]},
            ]
        }

    def _core(self, concern: str) -> Schema:
        """Keys of the core that stand among the options of such a plugin."""
        kind = CORE_KEYS.get(concern)
        return {} if kind is None else self._struct(_struct_type(kind), None)["properties"]

    def _options(self, entry: Entry, core: Schema) -> Schema:
        """A table { use = name, ...options } of one plugin."""
        made = self._struct(_struct_type(entry.options), None)
        properties = {"use": {"const": entry.name}, **core, **made["properties"]}
        source = f" ({entry.distribution})" if entry.distribution else ""
        summary = _summary(entry.factory)
        return {
            **made,
            "title": f'{entry.concern} "{entry.name}"{source}',
            **({"description": summary} if summary else {}),
            "properties": properties,
            "required": ["use", *made.get("required", ())],
        }


def _summary(factory: object) -> str:
    """The first paragraph of what a plugin says about itself."""
    # Other callables have their type's docstring.
    named = inspect.isclass(factory) or inspect.isroutine(factory)
    text = inspect.cleandoc(factory.__doc__ or "") if named else ""
    return " ".join(text.partition("\n\n")[0].split())


def _struct_type(struct: type[msgspec.Struct]) -> kinds.StructType:
    kind = kinds.type_info(struct)
    assert isinstance(kind, kinds.StructType)
    return kind


def _concern(field: kinds.Field) -> str | None:
    """Which kind of plugin a key of the configuration names; None for every other key."""
    kind = field.type.item_type if isinstance(field.type, kinds.CollectionType) else field.type
    members = kind.types if isinstance(kind, kinds.UnionType) else ()
    if not any(isinstance(member, kinds.DictType) for member in members):
        return None
    return next((name for name in (field.name, field.name.removesuffix("s")) if name in CONCERNS), None)


def _scalar(kind: kinds.Type) -> Schema:
    match kind:
        case kinds.StrType():
            bounds = _bounds(kind, min_length="minLength", max_length="maxLength", pattern="pattern")
            return {"anyOf": [{"type": "string", **bounds}, _FILLED]} if bounds else {"$ref": "#/$defs/string"}
        case kinds.LiteralType() | kinds.EnumType():
            return _words(kind)
        case kinds.IntType() | kinds.FloatType():
            bounds = _bounds(kind, ge="minimum", gt="exclusiveMinimum", le="maximum", lt="exclusiveMaximum")
            return {"type": "integer" if isinstance(kind, kinds.IntType) else "number", **bounds}
        case kinds.BoolType():
            return {"type": "boolean"}
        case kinds.NoneType():
            return {"type": "null"}
    return {}


def _words(kind: kinds.LiteralType | kinds.EnumType) -> Schema:
    words = list(kind.values) if isinstance(kind, kinds.LiteralType) else [member.value for member in kind.cls]
    enum: Schema = {"enum": words}
    return {"anyOf": [enum, _FILLED]} if any(isinstance(word, str) for word in words) else enum


def _bounds(kind: Any, **names: str) -> Schema:
    """The limits of a type under the names that JSON Schema has for them."""
    return {name: limit for key, name in names.items() if (limit := getattr(kind, key)) is not None}


def _default(field: kinds.Field) -> Any:
    """As a configuration file has it; NODEFAULT if there is none, or if the keys below have their own."""
    default = field.default
    if field.default_factory is not msgspec.NODEFAULT:
        default = field.default_factory()
    if default is msgspec.NODEFAULT or isinstance(default, msgspec.Struct):
        return msgspec.NODEFAULT
    try:
        return _written(default)
    except TypeError:  # of a type of the plugin's own
        return msgspec.NODEFAULT


def _written(value: Any) -> Any:
    match value:
        case Duration():
            return duration_text(value)
        case HedgeDelay():
            return str(value)
        case Size():
            return size_text(value)
        case SizeLimit():
            return "none" if value == float("inf") else size_text(int(value))
        case Share():
            return share_text(value)
        case list() | tuple():
            return [_written(item) for item in value]
        case dict():
            return {str(key): _written(item) for key, item in value.items()}
    return msgspec.to_builtins(value)
