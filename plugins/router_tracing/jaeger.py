"""Spans as the JSON file that Jaeger's UI opens by upload, without any backend behind it.

Follows Jaeger's UI model (internal/uimodel in jaegertracing/jaeger): times are whole microseconds, parents are
references, values carry their types. A parent that is not in the file stays named: the UI shows such a span as a root,
and finds the parent where the file of the other service is opened too.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

import msgspec

from router_tracing.span import Attributes, Event, Span, Value

__all__ = ["listed", "plain", "to_jaeger"]

#: What names the author of a span, as instrumentation scope.
SCOPE = "router"
#: The largest whole number that a browser keeps exact; Jaeger writes larger ones as text.
_EXACT = (1 << 53) - 1


class _Tag(msgspec.Struct):
    key: str
    type: Literal["string", "bool", "int64", "float64"]
    value: Value


class _Reference(msgspec.Struct):
    refType: Literal["CHILD_OF"]  # noqa: N815
    traceID: str  # noqa: N815
    spanID: str  # noqa: N815


class _Log(msgspec.Struct):
    timestamp: int
    fields: list[_Tag]


class _Span(msgspec.Struct):
    traceID: str  # noqa: N815
    spanID: str  # noqa: N815
    operationName: str  # noqa: N815
    references: list[_Reference]
    startTime: int  # noqa: N815
    duration: int
    tags: list[_Tag]
    logs: list[_Log]
    processID: str  # noqa: N815
    warnings: list[str] | None = None


class _Process(msgspec.Struct):
    serviceName: str  # noqa: N815
    tags: list[_Tag]


def to_jaeger(traces: Iterable[Sequence[Span]], service: str, tags: Attributes = ()) -> Iterator[bytes]:
    """The file that holds the traces, in order and in many small pieces, each made when it is asked for.

    Args:
        traces: the spans of one after the other; none is empty.
        service: the name under which Jaeger shows the process.
        tags: what else is known of the process (a resource's attributes).
    """
    processes = msgspec.json.encode({"p1": _Process(plain(service), _tags(tags))})
    yield b'{"data":['
    comma = b""
    for spans in traces:
        yield b'%b{"traceID":%b,"spans":[' % (comma, msgspec.json.encode(spans[0].trace_id))
        yield from listed(_span(span) for span in spans)
        yield b'],"processes":%b,"warnings":null}' % processes
        comma = b","
    yield b"]}"


def listed(items: Iterable[Any]) -> Iterator[bytes]:
    """What stands within the brackets of a list in JSON, each item by itself: one long call would hold all threads."""
    comma = b""
    for item in items:
        yield comma + msgspec.json.encode(item)
        comma = b","


def plain(value: Any) -> Any:
    """The value as JSON can hold it: half a surrogate pair becomes "?", and what is no number becomes text."""
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-8", "replace").decode()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def _span(span: Span) -> _Span:
    start = span.start // 1000
    parent = [_Reference("CHILD_OF", span.trace_id, span.parent_id)] if span.parent_id else []
    return _Span(
        traceID=span.trace_id,
        spanID=span.span_id,
        operationName=plain(span.name),
        references=parent,
        startTime=start,
        # Both ends are rounded the same way: an attempt never sticks out of its request.
        duration=max(span.end // 1000 - start, 0),
        tags=_tags(span.attributes) + _tags(_standing(span)),
        logs=[_log(event) for event in span.events],
        processID="p1",
    )


def _standing(span: Span) -> Attributes:
    """What Jaeger keeps in tags for want of fields of their own."""
    standing: list[tuple[str, Value]] = [("span.kind", span.kind), ("otel.scope.name", SCOPE)]
    # The UI of today reads the older of the two names.
    standing.append(("otel.library.name", SCOPE))
    if span.state:
        standing.append(("w3c.tracestate", span.state))
    if span.error is not None:
        standing += [("error", True), ("otel.status_code", "ERROR")]
        standing += [("otel.status_description", span.error)] if span.error else []
    return tuple(standing)


def _log(event: Event) -> _Log:
    return _Log(event.at // 1000, [_Tag("event", "string", plain(event.name)), *_tags(event.attributes)])


def _tags(attributes: Attributes) -> list[_Tag]:
    return [_tag(key, plain(value)) for key, value in attributes]


def _tag(key: str, value: Value) -> _Tag:
    if isinstance(value, bool):
        return _Tag(key, "bool", value)
    if isinstance(value, int):
        return _Tag(key, "int64", value if abs(value) <= _EXACT else str(value))
    if isinstance(value, float):
        return _Tag(key, "float64", value)
    return _Tag(key, "string", value)
