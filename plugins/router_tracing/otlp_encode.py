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
_FLAGS = (SAMPLED | KNOWN, SAMPLED | KNOWN | REMOTE)
#: SpanKind.
KINDS = {"server": 2, "client": 3}
#: What fits an int64.
LOWEST, HIGHEST = -(1 << 63), (1 << 63) - 1
#: Kept encoded: so many names of spans, so many of events, none of them longer.
_NAMES, _LONGEST = 256, 128
#: Kept: what stands before texts of so many lengths, for each of so many keys; and before spans of so many lengths.
_LENGTHS, _KEYS, _SIZES = 1024, 512, 4096
#: Kept encoded as a whole: so many tuples of attributes that spans share.
_BLOCKS = 2048
_from_hex = bytes.fromhex
_HALVES = re.compile("[\ud800-\udfff]")
_pack_double = struct.Struct("<d").pack
_pack_fixed64 = struct.Struct("<Q").pack
#: By flags and kind: both, and the tag of the start. The order of fields in a message is free.
_BEFORE_TIMES = tuple(
    {kind: struct.pack("<cB2sIc", b"\x30", number, b"\x85\x01", flags, b"\x39") for kind, number in KINDS.items()}
    for flags in _FLAGS
)
_pack_times = struct.Struct("<9sQcQ").pack


def readable(text: str) -> str:
    """The text without halves of surrogate pairs, which no UTF-8 can hold."""
    return _HALVES.sub("\ufffd", text)


def flags_of(span: Span) -> int:
    """The field `flags` of a span: every one that is exported was sampled, and where its parent stands is known."""
    return _FLAGS[span.remote]


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
    return b"".join((tag, _varint(len(data)), data))


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

    __slots__ = ("_make", "_most")

    def __init__(self, make: Callable[[Any], bytes], most: int) -> None:
        self._make = make
        self._most = most

    def __missing__(self, key: Any) -> bytes:
        made = self._make(key)
        if len(made) <= _LONGEST and len(self) < self._most:
            self[key] = made
        return made


def _before_text(key: str, length: int) -> bytes:
    """An attribute of a span up to its text, which takes so many bytes."""
    text = b"\x0a" + _varint(length)
    pair = b"%b\x12%b%b" % (_field(b"\x0a", _bytes_of(key)), _varint(len(text) + length), text)
    return b"\x4a%b%b" % (_varint(len(pair) + length), pair)


class Encoder:
    """Writes requests for one resource and scope. For one thread at a time: what repeats is kept encoded."""

    __slots__ = ("_blocks", "_moments", "_names", "_scope", "_sizes", "_start", "_texts")

    def __init__(self, resource: Mapping[str, Any], scope: tuple[str, str]) -> None:
        """`resource`: its attributes, also lists of values; `scope`: name and version of what makes the spans."""
        self._start = _field(b"\x0a", b"".join(_pair(b"\x0a", *each) for each in resource.items()))
        name, version = (_bytes_of(each) for each in scope)
        self._scope = _field(b"\x0a", _field(b"\x0a", name) + _field(b"\x12", version))
        #: What stands before texts, by key and length: those repeat where texts do not.
        self._texts: dict[str, dict[int, bytes]] = {}
        #: As long as a tuple stands in here, no other has its id.
        self._blocks: dict[int, tuple[Attributes, bytes]] = {}
        self._names = _Kept(lambda name: _field(b"\x2a", _bytes_of(name)), _NAMES)
        self._moments = _Kept(_before_time, _NAMES)
        self._sizes = _Kept(lambda size: b"\x12" + _varint(size), _SIZES)

    def request(self, pieces: Iterable[bytes]) -> bytes:
        """An ExportTraceServiceRequest of what `encode` returned."""
        scoped = self._scope + b"".join(pieces)
        return _field(b"\x0a", self._start + _field(b"\x12", scoped))

    def encode(self, spans: Iterable[Span]) -> bytes:
        """Spans as fields of a ScopeSpans, to be joined by `request`."""
        out: list[bytes] = []
        for span in spans:
            data = self._span(span)
            out.append(self._sizes[len(data)])
            out.append(data)
        return b"".join(out)

    def _span(self, span: Span) -> bytes:
        common, attributes, parent = span.common, span.attributes, span.parent_id
        ids = f"0a10{span.trace_id}1208{span.span_id}"
        kept = self._blocks.get(id(common))
        out = [
            kept[1] if kept is not None else self._shared(common),
            self._names[span.name],
            _from_hex(f"{ids}2208{parent}" if parent else ids),
            _pack_times(_BEFORE_TIMES[span.remote][span.kind], span.start, b"\x41", span.end),
            b"\x7a\x00" if span.error is None else _status(span.error),
        ]
        self._add_pairs(out, attributes[len(common) :] if common else attributes)
        if span.state:
            out.append(_field(b"\x1a", _bytes_of(span.state)))
        for event in span.events:
            if event.attributes:
                out.append(_event(event))
            else:
                out.append(self._moments[event.name])
                out.append(_pack_fixed64(event.at))
        return b"".join(out)

    def _add_pairs(self, out: list[bytes], attributes: Attributes) -> None:
        texts = self._texts
        for key, value in attributes:
            try:
                data = value.encode()  # type: ignore[union-attr]  # nearly all are texts; to ask costs as much again
                before = texts[key][len(data)]
            except (AttributeError, UnicodeEncodeError, KeyError):
                out.append(self._unusual(key, value))
            else:
                out.append(before)
                out.append(data)

    def _unusual(self, key: str, value: Any) -> bytes:
        """An attribute whose value is no text, or holds half a surrogate pair, or is the first of its length."""
        if not isinstance(value, str):
            return _pair(b"\x4a", key, value)
        data = _bytes_of(value)
        before = _before_text(key, len(data))
        kept = self._texts.get(key, {})
        if len(kept) < _LENGTHS and (kept or len(self._texts) < _KEYS):
            kept[len(data)] = before
            self._texts[key] = kept
        return before + data

    def _shared(self, common: Attributes) -> bytes:
        """Encodes a tuple that comes again: it is then found by what it is, without a look at what is in it."""
        if len(self._blocks) >= _BLOCKS:
            self._blocks.clear()
        out: list[bytes] = []
        self._add_pairs(out, common)
        data = b"".join(out)
        self._blocks[id(common)] = common, data
        return data


def _before_time(name: str) -> bytes:
    """An event without attributes, but for its time, which comes last."""
    field = _field(b"\x12", _bytes_of(name))
    return b"\x5a%b%b\x09" % (_varint(len(field) + 9), field)


def _event(event: Event) -> bytes:
    pairs = b"".join([_pair(b"\x1a", *each) for each in event.attributes])
    return _field(b"\x5a", b"\x09" + _pack_fixed64(event.at) + _field(b"\x12", _bytes_of(event.name)) + pairs)


def _status(message: str) -> bytes:
    return _field(b"\x7a", _field(b"\x12", _bytes_of(message)) + b"\x18\x02")
