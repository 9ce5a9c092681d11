"""Both encodings, read back with opentelemetry-proto and compared with what the library makes of equal spans."""

from __future__ import annotations

import importlib.util
import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event as SdkEvent
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState
from router_tracing.otlp_encode import Encoder, flags_of, readable
from router_tracing.otlp_json import JsonEncoder
from router_tracing.span import Event, Span

_spec = importlib.util.spec_from_file_location("otlp_receiver", Path(__file__).with_name("otlp_receiver.py"))
assert _spec is not None
assert _spec.loader is not None
otlp_receiver = sys.modules[_spec.name] = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(otlp_receiver)

RESOURCE = {"service.name": "röuter", "service.instance.id": "1", "process.command_args": ["a", "b"], "n": 3}
SCOPE = ("router_tracing", "0.1")
TRACE, SPAN, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", "00f067aa0ba902b7"
NOW = 1_700_000_000_123_456_789

ENCODERS = [Encoder, JsonEncoder]


def make_span(**changes: Any) -> Span:
    """A span with every field set."""
    fields: dict[str, Any] = {
        "trace_id": TRACE,
        "span_id": SPAN,
        "parent_id": PARENT,
        "name": "GET web",
        "kind": "server",
        "start": NOW,
        "end": NOW + 1_500_000,
        "attributes": (("a", "b"), ("n", 200), ("yes", True), ("no", False), ("share", 0.25), ("none", "")),
        "events": (Event(NOW + 1, "queued"), Event(NOW + 2, "left queue", (("lb.seconds", 0.5), ("again", 1)))),
        "error": "status 503",
        "remote": True,
        "state": "vendor=1,other=2",
    }
    return Span(**fields | changes)


def read(encoder: Any, *groups: list[Span]) -> ExportTraceServiceRequest:
    """What a receiver reads of spans that were encoded in these groups."""
    data = encoder.request([encoder.encode(group) for group in groups])
    if isinstance(encoder, JsonEncoder):
        assert b"\n" not in data
        return otlp_receiver.read_json(data)  # type: ignore[no-any-return]
    request = ExportTraceServiceRequest()
    request.ParseFromString(data)
    return request


def by_library(spans: list[Span]) -> ExportTraceServiceRequest:
    return encode_spans([as_readable(span) for span in spans])


def as_readable(span: Span) -> ReadableSpan:
    trace_id = int(span.trace_id, 16)
    state = TraceState.from_header([span.state]) if span.state else None
    context = SpanContext(trace_id, int(span.span_id, 16), False, TraceFlags(1), state)
    parent = SpanContext(trace_id, int(span.parent_id, 16), span.remote) if span.parent_id else None
    return ReadableSpan(
        span.name,
        context,
        parent,
        Resource(RESOURCE),
        dict(span.attributes),
        [SdkEvent(event.name, dict(event.attributes), event.at) for event in span.events],
        kind=SpanKind.SERVER if span.kind == "server" else SpanKind.CLIENT,
        status=Status(StatusCode.UNSET) if span.error is None else Status(StatusCode.ERROR, span.error),
        start_time=span.start,
        end_time=span.end,
        instrumentation_scope=InstrumentationScope(*SCOPE),
    )


def compare(encoder: Any, spans: list[Span]) -> None:
    """Field by field, but for the sampled bit, which the library leaves out."""
    expected = MessageToDict(by_library(spans))
    for span in expected["resourceSpans"][0]["scopeSpans"][0]["spans"]:
        span["flags"] |= 1
    assert MessageToDict(read(encoder, spans)) == expected


TEXTS = st.text(st.characters(codec="utf-8"), max_size=300)
IDS = st.integers(1, 2**64 - 1).map("{:016x}".format)
TIMES = st.integers(1, 2**63)
NUMBERS = st.integers(-(2**63), 2**63 - 1)
VALUES = st.one_of(TEXTS, st.booleans(), NUMBERS, st.floats(allow_nan=False))
PAIRS = st.dictionaries(TEXTS.filter(bool), VALUES, max_size=6).map(lambda pairs: tuple(pairs.items()))
EVENTS = st.lists(st.builds(Event, TIMES, TEXTS, PAIRS), max_size=3).map(tuple)
SPANS = st.builds(
    Span,
    trace_id=st.integers(1, 2**128 - 1).map("{:032x}".format),
    span_id=IDS,
    parent_id=st.one_of(st.just(""), IDS),
    name=TEXTS,
    kind=st.sampled_from(["server", "client"]),
    start=TIMES,
    end=TIMES,
    attributes=PAIRS,
    events=EVENTS,
    error=st.one_of(st.none(), TEXTS.filter(bool)),
    remote=st.booleans(),
    state=st.sampled_from(["", "vendor=1", "a=x,b=y"]),
).map(lambda span: span if span.parent_id else Span(**{**_fields(span), "remote": False}))


def _fields(span: Span) -> dict[str, Any]:
    return {name: getattr(span, name) for name in span.__struct_fields__}


@pytest.mark.parametrize("kind", ENCODERS)
@settings(max_examples=40, deadline=None)
@given(spans=st.lists(SPANS, min_size=1, max_size=4))
def test_means_what_the_library_writes(kind: Any, spans: list[Span]) -> None:
    encoder = kind(RESOURCE, SCOPE)
    compare(encoder, spans)
    compare(encoder, spans)  # from what it kept


@pytest.mark.parametrize("kind", ENCODERS)
def test_a_full_span(kind: Any) -> None:
    compare(kind(RESOURCE, SCOPE), [make_span(), make_span(kind="client", parent_id="", remote=False, error=None)])


@pytest.mark.parametrize("kind", ENCODERS)
def test_groups_make_one_request(kind: Any) -> None:
    spans = [make_span(name=str(number)) for number in range(5)]
    encoder = kind(RESOURCE, SCOPE)
    assert read(encoder, spans[:2], [], spans[2:]) == read(kind(RESOURCE, SCOPE), spans)
    assert [span.name for span in read(encoder, spans).resource_spans[0].scope_spans[0].spans] == list("01234")


@pytest.mark.parametrize("kind", ENCODERS)
@settings(max_examples=50, deadline=None)
@given(text=st.text(st.characters(), max_size=40))
def test_no_text_makes_it_raise(kind: Any, text: str) -> None:
    """Half a surrogate pair is what undecodable bytes of a client become."""
    odd = text + "\udc80"
    event = Event(NOW, odd, ((odd, odd),))
    span = make_span(name=odd, attributes=((odd, odd),), events=(event,), error=odd, state=odd)
    (made,) = otlp_receiver.spans_of(read(kind({odd: odd}, SCOPE), [span]))
    clean = readable(odd)
    assert clean.endswith("\ufffd")
    clean.encode()
    assert made["name"] == made["message"] == made["state"] == clean
    assert made["attributes"] == made["resource"] == made["events"][0]["attributes"] == {clean: clean}


@pytest.mark.parametrize("kind", ENCODERS)
@pytest.mark.parametrize(
    ("value", "read_back"),
    [(2**63, 2**63 - 1), (-(2**63) - 1, -(2**63)), (10**6000, 2**63 - 1), (math.inf, math.inf), (-math.inf, -math.inf)],
    ids=["above", "below", "huge", "infinite", "infinite-below"],
)
def test_numbers_beyond_the_format(kind: Any, value: float, read_back: float) -> None:
    (made,) = otlp_receiver.spans_of(read(kind({}, SCOPE), [make_span(attributes=(("n", value),))]))
    assert made["attributes"] == {"n": read_back}


@pytest.mark.parametrize("kind", ENCODERS)
def test_not_a_number(kind: Any) -> None:
    (made,) = otlp_receiver.spans_of(read(kind({}, SCOPE), [make_span(attributes=(("n", math.nan),))]))
    assert math.isnan(made["attributes"]["n"])


@pytest.mark.parametrize("kind", ENCODERS)
@pytest.mark.parametrize("values", [(1, True, 1.0, "1"), (0, False, 0.0, "0"), ("", 0, False)])
def test_equal_values_of_other_types_are_kept_apart(kind: Any, values: tuple[Any, ...]) -> None:
    spans = [make_span(attributes=(("key", value),)) for value in values]
    made = otlp_receiver.spans_of(read(kind({}, SCOPE), spans))
    assert [(type(each["attributes"]["key"]), each["attributes"]["key"]) for each in made] == [
        (type(value), value) for value in values
    ]


def test_what_is_kept_is_bounded() -> None:
    encoder = Encoder({}, SCOPE)
    for number in range(2000):
        attributes = (("path", f"/{number}"), ("long", f"{number}" * 300), ("n", number), (f"key {number}", 1))
        encoder.encode([make_span(name=f"name {number}", attributes=attributes)])
    for length in range(1500):
        encoder.encode([make_span(attributes=(("path", "x" * length), (f"text {length}", "x")))])
    kept = [len(lengths) for lengths in encoder._texts.values()]
    assert max(kept) == 1024
    assert len(kept) == 512
    assert len(encoder._names) <= 256
    assert len(encoder._sizes) <= 4096
    last = make_span(name="name 5000", attributes=(("path", "/5000"), ("key 5000", 1)))
    assert otlp_receiver.spans_of(read(encoder, [last]))[0]["attributes"] == {"path": "/5000", "key 5000": 1}


@pytest.mark.parametrize("letter", ["x", "é", "\U0001f600"])
def test_texts_of_any_length(letter: str) -> None:
    """Lengths around those from which on a number takes one byte more, of the text and of what is around it."""
    encoder, width = Encoder(RESOURCE, SCOPE), len(letter.encode())
    for length in (*range(140), *range(16_370, 16_400), 300_000):
        text = letter * (length // width) + "-" * (length % width)
        for _ in range(2):  # the second from what it kept
            compare(encoder, [make_span(attributes=(("key", text), ("n", 1)))])


@pytest.mark.parametrize("text", ["", "a", "é", "a" * 500])
def test_events_with_and_without_attributes(text: str) -> None:
    events = (Event(NOW, text), Event(NOW + 1, text, ((text or "key", text),)), Event(NOW + 2, text))
    encoder = Encoder(RESOURCE, SCOPE)
    for _ in range(2):
        compare(encoder, [make_span(events=events)])


def test_what_spans_share_is_encoded_once_and_stands_in_each() -> None:
    encoder = Encoder({}, SCOPE)
    shared = (("http.route", "web"), ("n", 200))
    first = make_span(attributes=(*shared, ("path", "/1")), common=shared)
    second = make_span(attributes=(*shared, ("path", "/2")), common=shared)
    other = (("http.route", "other"), ("n", 500))
    third = make_span(attributes=other, common=other)
    plain = make_span(attributes=(("path", "/4"),))
    for group in ([first, second], [third, plain, first]):
        found = [each["attributes"] for each in otlp_receiver.spans_of(read(encoder, group))]
        assert found == [dict(span.attributes) for span in group]
    for number in range(3000):
        own = (("n", number),)
        (made,) = otlp_receiver.spans_of(read(encoder, [make_span(attributes=own, common=own)]))
        assert made["attributes"] == {"n": number}
    assert len(encoder._blocks) <= 2048


@pytest.mark.parametrize(
    ("remote", "flags"), [(True, 0x301), (False, 0x101)], ids=["parent elsewhere", "parent here or none"]
)
def test_flags(remote: bool, flags: int) -> None:
    assert flags_of(make_span(remote=remote)) == flags


def test_json_is_the_official_mapping() -> None:
    """Ids in hexadecimal, 64-bit numbers as text, enums as numbers."""
    encoder = JsonEncoder({"service.name": "r"}, SCOPE)
    (group,) = json.loads(encoder.request([encoder.encode([make_span()])]))["resourceSpans"]
    assert group["resource"] == {"attributes": [{"key": "service.name", "value": {"stringValue": "r"}}]}
    (scoped,) = group["scopeSpans"]
    assert scoped["scope"] == {"name": "router_tracing", "version": "0.1"}
    (span,) = scoped["spans"]
    assert (span["traceId"], span["spanId"], span["parentSpanId"]) == (TRACE, SPAN, PARENT)
    assert (span["startTimeUnixNano"], span["kind"], span["flags"]) == (str(NOW), 2, 0x301)
    assert span["status"] == {"message": "status 503", "code": 2}
    assert span["attributes"][:5] == [
        {"key": "a", "value": {"stringValue": "b"}},
        {"key": "n", "value": {"intValue": "200"}},
        {"key": "yes", "value": {"boolValue": True}},
        {"key": "no", "value": {"boolValue": False}},
        {"key": "share", "value": {"doubleValue": 0.25}},
    ]
