"""Trace contexts in header fields: read from a request's head, and written for the next one. No OpenTelemetry in here.

W3C Trace Context (levels 1 and 2), B3 in one field and in several, Jaeger's uber-trace-id. What a client sends is
believed only if it is whole and valid; a context that is not is as good as none.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple, Protocol
from urllib.parse import unquote_to_bytes

__all__ = ["FORMATS", "Context", "Contexts"]

#: Characters of tracestate that are kept (W3C: at least 512).
_LONGEST_STATE = 512
_NO_TRACE, _NO_SPAN = b"0" * 32, b"0" * 16

Fields = list[tuple[bytes, bytes]]


class Context(NamedTuple):
    """Where a request belongs, as its sender says."""

    trace_id: str
    span_id: str
    #: Whether the sender records it; None if it leaves that to whom it calls (B3).
    sampled: bool | None
    #: tracestate.
    state: str = ""


class Format(Protocol):
    """One way of writing contexts. `names` are the fields, in lower case; those in `extra` mean nothing alone."""

    names: tuple[bytes, ...]
    extra: tuple[bytes, ...]

    def read(self, head: bytes) -> Context | None:
        """What a whole request head says; None if it says nothing valid."""

    def write(self, trace_id: str, span_id: str, sampled: bool) -> Fields: ...


def _values(head: bytes, name: bytes) -> list[bytes]:
    pattern = _fields.get(name)
    if pattern is None:
        pattern = _fields[name] = re.compile(rb"\r\n(?i:%b)[ \t]*:[ \t]*([^\r\n]*)" % re.escape(name))
    return [value.rstrip(b" \t") for value in pattern.findall(head)]


#: What finds a field; names are those of the formats below.
_fields: dict[bytes, re.Pattern[bytes]] = {}


def _only(head: bytes, name: bytes) -> bytes:
    """The value of a field that stands there once; b"" otherwise."""
    found = _values(head, name)
    return found[0] if len(found) == 1 else b""


class TraceContext:
    """traceparent and tracestate. Source: W3C Trace Context."""

    names: tuple[bytes, ...] = (b"traceparent",)
    extra: tuple[bytes, ...] = (b"tracestate",)

    _PARENT = re.compile(rb"(?!ff)([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-[^\r\n]*)?")

    def read(self, head: bytes) -> Context | None:
        match = self._PARENT.fullmatch(_only(head, b"traceparent"))
        if match is None or match[2] == _NO_TRACE or match[3] == _NO_SPAN or (match[5] and match[1] == b"00"):
            return None
        state = b",".join(value for value in _values(head, b"tracestate") if value)
        known = state.decode("latin-1") if len(state) <= _LONGEST_STATE and state.isascii() else ""
        return Context(match[2].decode(), match[3].decode(), bool(int(match[4], 16) & 1), known)

    def write(self, trace_id: str, span_id: str, sampled: bool) -> Fields:
        return [(b"traceparent", f"00-{trace_id}-{span_id}-0{int(sampled)}".encode())]


class B3:
    """B3 in one field; read in several too, as OpenTelemetry asks for. Source: openzipkin/b3-propagation."""

    names: tuple[bytes, ...] = (b"b3", b"x-b3-traceid")
    extra: tuple[bytes, ...] = (b"x-b3-spanid", b"x-b3-parentspanid", b"x-b3-sampled", b"x-b3-flags")

    _WHOLE = re.compile(rb"([0-9a-f]{32}|[0-9a-f]{16})-([0-9a-f]{16})(?:-([01d])(?:-[0-9a-f]{16})?)?", re.IGNORECASE)

    def read(self, head: bytes) -> Context | None:
        match = self._WHOLE.fullmatch(_only(head, b"b3"))
        found = None if match is None else _of_b3(match[1], match[2], match[3])
        return found or self._read_several(head)

    def write(self, trace_id: str, span_id: str, sampled: bool) -> Fields:
        return [(b"b3", f"{trace_id}-{span_id}-{int(sampled)}".encode())]

    _TRACE = re.compile(rb"[0-9a-f]{32}|[0-9a-f]{16}", re.IGNORECASE)
    _SPAN = re.compile(rb"[0-9a-f]{16}", re.IGNORECASE)
    _SAMPLED = {b"1": b"1", b"true": b"1", b"0": b"0", b"false": b"0", b"d": b"d"}

    def _read_several(self, head: bytes) -> Context | None:
        trace, span = _only(head, b"x-b3-traceid"), _only(head, b"x-b3-spanid")
        if not self._TRACE.fullmatch(trace) or not self._SPAN.fullmatch(span):
            return None
        debug = _only(head, b"x-b3-flags") == b"1"
        said = self._SAMPLED.get(_only(head, b"x-b3-sampled").lower())
        return _of_b3(trace, span, b"d" if debug else said)


class B3Multi(B3):
    """The same, written in several fields."""

    def write(self, trace_id: str, span_id: str, sampled: bool) -> Fields:
        said = b"1" if sampled else b"0"
        return [(b"x-b3-traceid", trace_id.encode()), (b"x-b3-spanid", span_id.encode()), (b"x-b3-sampled", said)]


def _of_b3(trace: bytes, span: bytes, said: bytes | None) -> Context | None:
    trace, span = trace.lower().rjust(32, b"0"), span.lower()
    if trace == _NO_TRACE or span == _NO_SPAN:
        return None
    return Context(trace.decode(), span.decode(), None if said is None else said in b"1dD")


class Jaeger:
    """uber-trace-id. Source: Jaeger, propagation format; deprecated there in favour of W3C Trace Context."""

    names: tuple[bytes, ...] = (b"uber-trace-id",)
    extra: tuple[bytes, ...] = ()

    _WHOLE = re.compile(rb"([0-9a-f]{1,32}):([0-9a-f]{1,16}):[0-9a-f]{1,16}:([0-9a-f]{1,2})", re.IGNORECASE)

    def read(self, head: bytes) -> Context | None:
        value = _only(head, b"uber-trace-id")
        match = self._WHOLE.fullmatch(unquote_to_bytes(value) if b"%" in value else value)
        if match is None:
            return None
        trace, span = match[1].lower().rjust(32, b"0"), match[2].lower().rjust(16, b"0")
        if trace == _NO_TRACE or span == _NO_SPAN:
            return None
        return Context(trace.decode(), span.decode(), bool(int(match[3], 16) & 1))

    def write(self, trace_id: str, span_id: str, sampled: bool) -> Fields:
        return [(b"uber-trace-id", f"{trace_id}:{span_id}:0:{int(sampled)}".encode())]


def _hint(name: bytes) -> bytes:
    """An expression for the name behind its line's end, in any case. The first byte after it rules most lines out."""
    first = name[:1]
    return rb"\n[%b%b](?i:%b)" % (first, first.upper(), re.escape(name[1:]))


def _nothing(head: bytes) -> None:
    """The hint of no format at all."""


FORMATS: dict[str, type[Format]] = {"tracecontext": TraceContext, "b3": B3, "b3multi": B3Multi, "jaeger": Jaeger}


class Contexts:
    """The formats that are in use.

    Args:
        names: of FORMATS; the first one that a request has a valid context of is believed, all are written.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._formats: list[Format] = [FORMATS[name]() for name in names]
        found = (name for each in self._formats for name in (*each.names, *each.extra))
        #: All fields that are written or read, in lower case.
        self.fields = tuple(dict.fromkeys(found))
        #: Those that go when a valid context is followed by another of the same trace: its state stays.
        self.replaced = tuple(name for name in self.fields if name != b"tracestate")
        #: Finds what may be a context's field in a head; never misses one, and seldom finds what is none.
        self.hint = re.compile(b"|".join(map(_hint, self.fields))).search if self.fields else _nothing

    def read(self, head: bytes) -> Context | None:
        """The context of a request; None if it has none that is valid."""
        for each in self._formats:
            found = each.read(head)
            if found is not None:
                return found
        return None

    def write(self, trace_id: str, span_id: str, *, sampled: bool) -> Fields:
        """The fields that say so in every format."""
        if len(self._formats) == 1:
            return self._formats[0].write(trace_id, span_id, sampled)
        return [field for each in self._formats for field in each.write(trace_id, span_id, sampled)]

    def lines(self, trace_id: str, span_id: str, *, sampled: bool) -> bytes:
        """The same as whole lines."""
        return b"".join(b"%b: %b\r\n" % field for field in self.write(trace_id, span_id, sampled=sampled))
