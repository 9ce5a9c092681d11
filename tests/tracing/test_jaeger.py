"""The file for Jaeger's UI: every field of it, against the model that the UI reads."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from router_tracing.jaeger import to_jaeger
from router_tracing.span import Attributes, Event, Span, Value

_spec = importlib.util.spec_from_file_location("tracing_samples", Path(__file__).with_name("samples.py"))
assert _spec
assert _spec.loader
samples = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(samples)

TRACE, PARENT, CHILD, REMOTE = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", "00f067aa0ba902b7", "a" * 16
TYPES = {"string": str, "bool": bool, "int64": (int, str), "float64": float}


def span(**fields: Any) -> Span:
    standing: dict[str, Any] = {"name": "GET web", "kind": "server", "start": samples.BEGAN, "end": samples.BEGAN}
    return Span(**({"trace_id": TRACE, "span_id": PARENT, "parent_id": "", "attributes": ()} | standing | fields))


def opened(*spans: Span, service: str = "edge", tags: Attributes = ()) -> list[dict[str, Any]]:
    """The traces of the file, after all that the UI relies on was checked."""
    traces: dict[str, list[Span]] = {}
    for each in spans:
        traces.setdefault(each.trace_id, []).append(each)
    content = json.loads(b"".join(to_jaeger(traces.values(), service, tags)))
    assert content.keys() == {"data"}
    for trace in content["data"]:
        assert trace.keys() == {"traceID", "spans", "processes", "warnings"}
        assert len(trace["traceID"]) == 32
        for one in trace["spans"]:
            check_span(one, trace)
        for process in trace["processes"].values():
            check_tags(process["tags"])
    return list(content["data"])


def check_span(one: dict[str, Any], trace: dict[str, Any]) -> None:
    assert one.keys() == {
        *("traceID", "spanID", "operationName", "references", "startTime", "duration"),
        *("tags", "logs", "processID", "warnings"),
    }
    assert one["traceID"] == trace["traceID"]
    assert one["processID"] in trace["processes"]
    assert len(one["spanID"]) == 16
    assert type(one["startTime"]) is int
    assert type(one["duration"]) is int
    assert one["duration"] >= 0
    for reference in one["references"]:
        assert reference.keys() == {"refType", "traceID", "spanID"}
        assert reference["refType"] == "CHILD_OF"
    check_tags(one["tags"])
    for entry in one["logs"]:
        assert entry.keys() == {"timestamp", "fields"}
        assert type(entry["timestamp"]) is int
        check_tags(entry["fields"])


def check_tags(tags: list[dict[str, Any]]) -> None:
    for tag in tags:
        assert tag.keys() == {"key", "type", "value"}
        assert isinstance(tag["value"], TYPES[tag["type"]])
        assert isinstance(tag["value"], bool) == (tag["type"] == "bool")
    # The UI warns of doubles.
    assert len({tag["key"] for tag in tags}) == len(tags)


def tags_of(one: dict[str, Any]) -> dict[str, Any]:
    return {tag["key"]: tag["value"] for tag in one["tags"]}


def test_every_field_of_a_request_and_its_attempt() -> None:
    facts: Attributes = (("url.path", "/a"), ("lb.attempts", 1), ("lb.hedge", True), ("lb.seconds", 0.5))
    event = Event(samples.BEGAN + 2001, "left queue", (("lb.seconds", 0.25),))
    server = span(attributes=facts, events=(event,), end=samples.BEGAN + 5_000_001, state="a=b")
    client = span(span_id=CHILD, parent_id=PARENT, name="GET", kind="client", error="upstream_reset")
    (trace,) = opened(server, client, tags=(("service.instance.id", "7"),))
    assert trace["processes"] == {
        "p1": {
            "serviceName": "edge",
            "tags": [{"key": "service.instance.id", "type": "string", "value": "7"}],
        }
    }
    first, second = trace["spans"]
    assert first == {
        "traceID": TRACE,
        "spanID": PARENT,
        "operationName": "GET web",
        "references": [],
        "startTime": 1_700_000_000_000_000,
        "duration": 5001,
        "tags": [
            {"key": "url.path", "type": "string", "value": "/a"},
            {"key": "lb.attempts", "type": "int64", "value": 1},
            {"key": "lb.hedge", "type": "bool", "value": True},
            {"key": "lb.seconds", "type": "float64", "value": 0.5},
            {"key": "span.kind", "type": "string", "value": "server"},
            {"key": "otel.scope.name", "type": "string", "value": "router"},
            {"key": "otel.library.name", "type": "string", "value": "router"},
            {"key": "w3c.tracestate", "type": "string", "value": "a=b"},
        ],
        "logs": [
            {
                "timestamp": 1_700_000_000_000_003,
                "fields": [
                    {"key": "event", "type": "string", "value": "left queue"},
                    {"key": "lb.seconds", "type": "float64", "value": 0.25},
                ],
            }
        ],
        "processID": "p1",
        "warnings": None,
    }
    assert second["references"] == [{"refType": "CHILD_OF", "traceID": TRACE, "spanID": PARENT}]
    assert {"span.kind": "client", "error": True, "otel.status_code": "ERROR"}.items() <= tags_of(second).items()
    assert tags_of(second)["otel.status_description"] == "upstream_reset"


def test_a_span_without_fault_has_no_red_mark() -> None:
    (trace,) = opened(span(attributes=(("http.response.status_code", 404),)))
    assert not {"error", "otel.status_code", "otel.status_description"} & tags_of(trace["spans"][0]).keys()


def test_a_parent_that_is_elsewhere_stays_named() -> None:
    """The UI takes the first reference that it can follow; without any, the span is a root."""
    server = span(parent_id=REMOTE, remote=True)
    (trace,) = opened(server, span(span_id=CHILD, parent_id=PARENT, kind="client"))
    known = {one["spanID"] for one in trace["spans"]}
    roots = [one for one in trace["spans"] if not {ref["spanID"] for ref in one["references"]} & known]
    assert [one["spanID"] for one in roots] == [PARENT]
    assert roots[0]["references"] == [{"refType": "CHILD_OF", "traceID": TRACE, "spanID": REMOTE}]


def test_traces_stand_apart_in_the_order_in_which_they_come() -> None:
    spans = [*samples.retried(2), *samples.request(1), *samples.request(2)]
    traces = opened(*spans)
    assert [(trace["traceID"], len(trace["spans"])) for trace in traces] == [(f"{2:032x}", 4), (f"{1:032x}", 1)]


def test_no_spans_are_a_file_without_traces() -> None:
    assert opened() == []


@pytest.mark.parametrize("start", [0, 1, 500, 999])
def test_rounding_keeps_an_attempt_within_its_request(start: int) -> None:
    whole = span(start=samples.BEGAN, end=samples.BEGAN + 10_400)
    part = span(span_id=CHILD, kind="client", start=samples.BEGAN + start, end=samples.BEGAN + 10_400)
    (trace,) = opened(whole, part)
    request, attempt = trace["spans"]
    assert request["startTime"] <= attempt["startTime"]
    assert attempt["startTime"] + attempt["duration"] <= request["startTime"] + request["duration"]


@pytest.mark.parametrize(
    ("value", "type_", "shown"),
    [
        (1 << 53, "int64", str(1 << 53)),
        (-(1 << 60), "int64", str(-(1 << 60))),
        ((1 << 53) - 1, "int64", (1 << 53) - 1),
        (float("inf"), "string", "inf"),
        ("\u00e9\u4e16", "string", "\u00e9\u4e16"),
        ("half \ud800 of a pair", "string", "half ? of a pair"),
    ],
)
def test_values_that_json_or_a_browser_would_spoil(value: Value, type_: str, shown: Any) -> None:
    (trace,) = opened(span(attributes=(("a", value),)))
    assert trace["spans"][0]["tags"][0] == {"key": "a", "type": type_, "value": shown}


def test_a_clock_that_was_set_back_makes_no_negative_duration() -> None:
    (trace,) = opened(span(end=samples.BEGAN - 5_000_000))
    assert trace["spans"][0]["duration"] == 0


def test_what_stands_in_the_texts_is_of_no_account() -> None:
    hostile = '"</script>\n\x00'
    server = msgspec.structs.replace(samples.request(1)[0], name=hostile, error=hostile)
    (trace,) = opened(server, service=hostile)
    assert trace["spans"][0]["operationName"] == hostile
    assert trace["processes"]["p1"]["serviceName"] == hostile
