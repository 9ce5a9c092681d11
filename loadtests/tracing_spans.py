"""Spans as the bench of tracing sees them, read from OTLP or from the log of another receiver.

Pure: bytes or text in, plain data out. No clock, no file, no process.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

#: Numbers of OTLP's enumerations (opentelemetry/proto/trace/v1/trace.proto).
KINDS = ("unspecified", "internal", "server", "client", "producer", "consumer")
STATUSES = ("unset", "ok", "error")
SERVER, CLIENT = "server", "client"


class Span(NamedTuple):
    """One span that arrived. Ids are lower-case hexadecimal, times nanoseconds since the epoch."""

    service: str
    #: `service.instance.id` of the process.
    instance: str
    trace: str
    span: str
    #: "" for the first one of a trace.
    parent: str
    name: str
    kind: str
    start: int
    end: int
    status: str
    attributes: dict[str, Any]
    events: list[str]


def ids_of(key: str) -> tuple[str, str]:
    """Promises the trace id and the span id that the client of this bench gives its request `key`."""
    digits = hashlib.blake2b(key.encode(), digest_size=24).hexdigest()
    return digits[:32], digits[32:]


def parent_of(key: str) -> str:
    """Promises the value of `traceparent`, sampled (W3C Trace Context, 3.2)."""
    trace, span = ids_of(key)
    return f"00-{trace}-{span}-01"


# OTLP


def parsed(body: bytes) -> ExportTraceServiceRequest:
    """Promises the message.

    Raises:
        google.protobuf.message.DecodeError: it is none.
    """
    return ExportTraceServiceRequest.FromString(body)


def counted(message: ExportTraceServiceRequest) -> int:
    return sum(len(scope.spans) for resource in message.resource_spans for scope in resource.scope_spans)


def spans_of(message: ExportTraceServiceRequest) -> Iterator[Span]:
    for whole in message.resource_spans:
        resource = _attributes(whole.resource.attributes)
        service, instance = (str(resource.get(f"service.{name}", "")) for name in ("name", "instance.id"))
        for span in (span for scope in whole.scope_spans for span in scope.spans):
            yield Span(
                service,
                instance,
                span.trace_id.hex(),
                span.span_id.hex(),
                span.parent_span_id.hex(),
                span.name,
                KINDS[span.kind],
                span.start_time_unix_nano,
                span.end_time_unix_nano,
                STATUSES[span.status.code],
                _attributes(span.attributes),
                [event.name for event in span.events],
            )


def _attributes(pairs: Iterable[Any]) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: Any) -> Any:
    which = value.WhichOneof("value")
    plain = which in ("string_value", "bool_value", "int_value", "double_value")
    return getattr(value, which) if plain else str(value).strip()


# rotel


_FIELD = re.compile(r"(?:    )?(Trace ID|Parent ID|ID|Name|Kind|Start time|End time|Status code) *: ?(.*)")
_ATTRIBUTE = re.compile(r" {5,}-> ([^:]+): (Str|Int|Double|Bool)\((.*)\)")
_READ = {"Str": str, "Int": int, "Double": float, "Bool": lambda text: text == "true"}


def spans_of_log(lines: Iterable[str]) -> list[Span]:
    """Promises the spans that `rotel` writes with `--debug-log traces --debug-log-verbosity detailed`."""
    found: list[tuple[dict[str, Any], dict[str, str], dict[str, Any], list[str]]] = []
    resource: dict[str, Any] = {}
    into: dict[str, Any] = {}
    for line in lines:
        if line.startswith("ResourceSpans #"):
            resource = into = {}
        elif line.startswith("Span #"):
            into = {}
            found.append((resource, {}, into, []))
        elif line.startswith("SpanEvent #"):
            # What belongs to an event is not compared.
            into = {}
        elif attribute := _ATTRIBUTE.fullmatch(line):
            into[attribute[1]] = _READ[attribute[2]](attribute[3])
        elif found and line.startswith("     -> Name: "):
            found[-1][3].append(line.removeprefix("     -> Name: "))
        elif found and (field := _FIELD.fullmatch(line)):
            found[-1][1][field[1]] = field[2]
    return [_logged(*each) for each in found]


def _logged(resource: dict[str, Any], fields: dict[str, str], attributes: dict[str, Any], events: list[str]) -> Span:
    return Span(
        str(resource.get("service.name", "")),
        str(resource.get("service.instance.id", "")),
        fields.get("Trace ID", ""),
        fields.get("ID", ""),
        fields.get("Parent ID", ""),
        fields.get("Name", ""),
        fields.get("Kind", "").removeprefix("SPAN_KIND_").lower(),
        int(fields.get("Start time") or 0),
        int(fields.get("End time") or 0),
        fields.get("Status code", "").removeprefix("STATUS_CODE_").lower(),
        attributes,
        events,
    )
