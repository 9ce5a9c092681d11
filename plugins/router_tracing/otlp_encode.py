"""Spans as OTLP protobuf, written by hand: a tenth of what the library's encoder costs, in the same process.

The layout is opentelemetry/proto/trace/v1/trace.proto; the tests read every field back with opentelemetry-proto. No
value makes it raise: half a surrogate pair becomes U+FFFD, a whole number beyond 64 bits the nearest.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from router_tracing.span import Attributes, Event, Span

__all__ = ["HIGHEST", "KINDS", "LOWEST", "Encoder", "flags_of", "readable"]

#: SpanFlags: sampled (W3C), "is_remote is known", and is_remote.
SAMPLED, KNOWN, REMOTE = 0x1, 0x100, 0x200
#: SpanKind.
KINDS = {"server": 2, "client": 3}
#: What fits an int64.
LOWEST, HIGHEST = -(1 << 63), (1 << 63) - 1
#: Kept encoded for the next span, by key: so many values, none of them longer; and so many keys.
_VALUES, _LONGEST, _KEYS = 256, 128, 512
#: Kept encoded as a whole: so many tuples of attributes that spans share.
_BLOCKS = 2048
_HALVES = re.compile("[\ud800-\udfff]")
# Tags and fields of fixed length. Their order in a message is free, so they stand together.
_pack_parent = struct.Struct("<2s8s").pack
_pack_fixed = struct.Struct("<2s16s2s8scBcQcQ2sI").pack
_pack_double = struct.Struct("<d").pack
_pack_fixed64 = struct.Struct("<Q").pack


def readable(text: str) -> str:
    """The text without halves of surrogate pairs, which no UTF-8 can hold."""
    return _HALVES.sub("\ufffd", text)


def flags_of(span: Span) -> int:
    """The field `flags` of a span: every one that is exported was sampled, and where its parent stands is known."""
    return SAMPLED | KNOWN | (REMOTE if span.remote else 0)


def _bytes_of(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        return readable(text).encode()


def _write_varint(number: int) -> bytes:
    number &= (1 << 64) - 1
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)


_SMALL = tuple(_write_varint(number) for number in range(1024))


def _varint(number: int) -> bytes:
    """A whole number of at most 64 bits; a negative one as its two's complement."""
    return _SMALL[number] if 0 <= number < 1024 else _write_varint(number)


def _field(tag: bytes, data: bytes) -> bytes:
    """A field with a length."""
    return b"%b%b%b" % (tag, _varint(len(data)), data)


def _value(value: Any) -> bytes:
    """An AnyValue; a bool is asked for before int, whose subclass it is."""
    if isinstance(value, str):
        return _field(b"\x0a", _bytes_of(value))
    if isinstance(value, bool):
        return b"\x10\x01" if value else b"\x10\x00"
    if isinstance(value, int):
        return b"\x18" + _varint(min(max(value, LOWEST), HIGHEST))
    if isinstance(value, float):
        return b"\x21" + _pack_double(value)
    if isinstance(value, Sequence):
        return _field(b"\x2a", b"".join(_field(b"\x0a", _value(each)) for each in value))
    return _field(b"\x0a", _bytes_of(str(value)))


def _pair(tag: bytes, key: str, value: Any) -> bytes:
    """A KeyValue as the field `tag` of what holds it."""
    return _field(tag, _field(b"\x0a", _bytes_of(key)) + _field(b"\x12", _value(value)))


class _Kept(dict[Any, bytes]):
    """Makes what is asked for, and keeps the first so many short ones: what repeats is nearly always among them."""

    __slots__ = ("_make",)

    def __init__(self, make: Callable[[Any], bytes]) -> None:
        self._make = make

    def __missing__(self, key: Any) -> bytes:
        made = self._make(key)
        if len(made) <= _LONGEST and len(self) < _VALUES:
            self[key] = made
        return made


class _Keys(dict[str, _Kept]):
    """The encoded attributes of spans by key, then value: a text, or a type with a value (True == 1 == 1.0)."""

    __slots__ = ()

    def __missing__(self, key: str) -> _Kept:
        head = _field(b"\x0a", _bytes_of(key))

        def make(value: Any) -> bytes:
            if type(value) is not str:
                return _pair(b"\x4a", key, value[1])
            data = _bytes_of(value)
            length = _varint(len(data))
            whole = _varint(1 + len(length) + len(data))
            size = len(head) + 2 + len(whole) + len(length) + len(data)
            return b"\x4a%b%b\x12%b\x0a%b%b" % (_varint(size), head, whole, length, data)

        kept = _Kept(make)
        if len(self) < _KEYS:
            self[key] = kept
        return kept


class Encoder:
    """Writes requests for one resource and scope. For one thread at a time: what repeats is kept encoded."""

    __slots__ = ("_blocks", "_event_names", "_keys", "_names", "_scope", "_start")

    def __init__(self, resource: Mapping[str, Any], scope: tuple[str, str]) -> None:
        """`resource`: its attributes, also lists of values; `scope`: name and version of what makes the spans."""
        self._start = _field(b"\x0a", b"".join(_pair(b"\x0a", *each) for each in resource.items()))
        name, version = (_bytes_of(each) for each in scope)
        self._scope = _field(b"\x0a", _field(b"\x0a", name) + _field(b"\x12", version))
        self._keys = _Keys()
        #: As long as a tuple stands in here, no other has its id.
        self._blocks: dict[int, tuple[Attributes, bytes]] = {}
        self._names = _Kept(lambda name: _field(b"\x2a", _bytes_of(name)))
        self._event_names = _Kept(lambda name: _field(b"\x12", _bytes_of(name)))

    def request(self, pieces: Iterable[bytes]) -> bytes:
        """An ExportTraceServiceRequest of what `encode` returned."""
        scoped = self._scope + b"".join(pieces)
        return _field(b"\x0a", self._start + _field(b"\x12", scoped))

    def encode(self, spans: Iterable[Span]) -> bytes:
        """Spans as fields of a ScopeSpans, to be joined by `request`."""
        return b"".join([_field(b"\x12", self._span(span)) for span in spans])

    def _span(self, span: Span) -> bytes:
        common, attributes = span.common, span.attributes
        kept = self._blocks.get(id(common))
        out = [
            kept[1] if kept is not None else self._shared(common),
            self._names[span.name],
            _pack_fixed(
                b"\x0a\x10", bytes.fromhex(span.trace_id), b"\x12\x08", bytes.fromhex(span.span_id),
                b"\x30", KINDS[span.kind], b"\x39", span.start, b"\x41", span.end, b"\x85\x01", flags_of(span),
            ),
            *self._pairs(attributes[len(common) :] if common else attributes),
            b"\x7a\x00" if span.error is None else _status(span.error),
        ]  # fmt: skip
        if span.parent_id:
            out.append(_pack_parent(b"\x22\x08", bytes.fromhex(span.parent_id)))
        if span.state:
            out.append(_field(b"\x1a", _bytes_of(span.state)))
        if span.events:
            out += map(self._event, span.events)
        return b"".join(out)

    def _pairs(self, attributes: Attributes) -> list[bytes]:
        keys = self._keys
        return [keys[key][value if type(value) is str else (type(value), value)] for key, value in attributes]

    def _event(self, event: Event) -> bytes:
        tail = self._event_names[event.name]
        if event.attributes:
            tail += b"".join([_pair(b"\x1a", *each) for each in event.attributes])
        return b"\x5a%b\x09%b%b" % (_varint(9 + len(tail)), _pack_fixed64(event.at), tail)

    def _shared(self, common: Attributes) -> bytes:
        """Encodes a tuple that comes again: it is then found by what it is, without a look at what is in it."""
        if len(self._blocks) >= _BLOCKS:
            self._blocks.clear()
        data = b"".join(self._pairs(common))
        self._blocks[id(common)] = common, data
        return data


def _status(message: str) -> bytes:
    return _field(b"\x7a", _field(b"\x12", _bytes_of(message)) + b"\x18\x02")
