"""Spans as OTLP JSON: ids in hexadecimal, 64-bit numbers as text, enums as numbers (OTLP specification, JSON encoding).

For files and for `http/json`. As in otlp_encode.py, no value makes it raise.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from router_tracing.otlp_encode import HIGHEST, KINDS, LOWEST, flags_of, readable
from router_tracing.span import Event, Span

__all__ = ["JsonEncoder"]


def _value(value: Any) -> dict[str, Any]:
    if isinstance(value, str):
        return {"stringValue": readable(value)}
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, int):
        return {"intValue": str(min(max(value, LOWEST), HIGHEST))}
    if isinstance(value, float):
        return {"doubleValue": value if math.isfinite(value) else _words(value)}
    if isinstance(value, Sequence):
        return {"arrayValue": {"values": [_value(each) for each in value]}}
    return {"stringValue": readable(str(value))}


def _words(value: float) -> str:
    """What protobuf's JSON says for numbers that JSON has not."""
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _pairs(attributes: Iterable[tuple[str, Any]]) -> list[dict[str, Any]]:
    return [{"key": readable(key), "value": _value(value)} for key, value in attributes]


def _event(event: Event) -> dict[str, Any]:
    return {"timeUnixNano": str(event.at), "name": readable(event.name), "attributes": _pairs(event.attributes)}


def _span(span: Span) -> dict[str, Any]:
    found: dict[str, Any] = {"traceId": span.trace_id, "spanId": span.span_id}
    if span.parent_id:
        found["parentSpanId"] = span.parent_id
    if span.state:
        found["traceState"] = readable(span.state)
    found |= {
        "flags": flags_of(span),
        "name": readable(span.name),
        "kind": KINDS[span.kind],
        "startTimeUnixNano": str(span.start),
        "endTimeUnixNano": str(span.end),
        "attributes": _pairs(span.attributes),
        "events": [_event(event) for event in span.events],
        "status": {} if span.error is None else {"message": readable(span.error), "code": 2},
    }
    return found


class JsonEncoder:
    """Writes requests for one resource and scope; used as `Encoder` is."""

    __slots__ = ("_resource", "_scope")

    def __init__(self, resource: Mapping[str, Any], scope: tuple[str, str]) -> None:
        """`resource`: its attributes, also lists of values; `scope`: name and version of what makes the spans."""
        self._resource = msgspec.Raw(msgspec.json.encode({"attributes": _pairs(resource.items())}))
        self._scope = {"name": scope[0], "version": scope[1]}

    def request(self, pieces: Iterable[bytes]) -> bytes:
        """An ExportTraceServiceRequest, in one line, of what `encode` returned."""
        spans = msgspec.Raw(b"[%b]" % b",".join(piece for piece in pieces if piece))
        scoped = {"scope": self._scope, "spans": spans}
        return msgspec.json.encode({"resourceSpans": [{"resource": self._resource, "scopeSpans": [scoped]}]})

    def encode(self, spans: Iterable[Span]) -> bytes:
        """Spans as the elements of a list, to be joined by `request`."""
        return b",".join([msgspec.json.encode(_span(span)) for span in spans])
