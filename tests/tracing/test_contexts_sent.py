"""Contexts that servers get of requests that are not recorded, or that two observers trace: always valid, only one."""

from __future__ import annotations

import asyncio
import re
import time
from pathlib import Path
from random import Random
from typing import Any

import pytest
import tracing_support as _help
from opentelemetry import trace as api
from opentelemetry.propagators.b3 import B3MultiFormat, B3SingleFormat
from opentelemetry.propagators.jaeger import JaegerPropagator
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from router_tracing.options import TracingOptions
from router_tracing.tracing import Tracing

from router import Exchange, Tools

collector = _help.collector
toml = _help.toml
PARENT = "b7ad6b7169203331"
FORMATS = {
    "tracecontext": TraceContextTextMapPropagator(),
    "b3": B3SingleFormat(),
    "b3multi": B3MultiFormat(),
    "jaeger": JaegerPropagator(),
}
_count = iter(range(1, 10000))


def build(bench: Any) -> None:
    bench.web = bench.backend()
    bench.sites = (
        '[[routes]]\nname = "web"\npool = "web"\n[[pools]]\nname = "web"\ndetectors = []\nretry = { attempts = 0 }\n'
        f'endpoints = [{{ url = "{bench.web.url}", id = "one" }}]\n'
    )


bench = _help.bench_of(build)


def sent(bench: Any, *lines: str, way: str = "") -> Any:
    """What the server gets of a request with these lines; `way`: how it answers."""
    mark = f"/mark-{next(_count)}-/{way}"
    bench.ask(mark, *lines)
    return bench.web.got(mark)


def told(name: str, request: Any) -> Any:
    """The context of a request in this format."""
    return api.get_current_span(FORMATS[name].extract(request.carrier)).get_span_context()


def short_id() -> str:
    """A trace id of 64 bits."""
    return f"4bf92f35{next(_count):08x}"


# Ids of 64 bits.


@pytest.mark.parametrize("keep", [[], ["slower:1h"]])
@pytest.mark.parametrize(
    ("sampling", "line"),
    [
        (0.0, "b3: {}-b7ad6b7169203331"),
        (0.0, "X-B3-TraceId: {}\r\nX-B3-SpanId: b7ad6b7169203331"),
        ("never", "b3: {}-b7ad6b7169203331-1"),
        ("never", "uber-trace-id: {}:b7ad6b7169203331:0:1"),
        ("never", "traceparent: 00-0000000000000000{}-b7ad6b7169203331-01"),
    ],
)
def test_a_trace_id_of_64_bits_goes_on_with_a_span_id(bench: Any, sampling: Any, line: str, keep: list[str]) -> None:
    bench.tracing(sampling=sampling, keep=keep, propagators=list(FORMATS))
    trace_id = short_id()
    request = sent(bench, line.format(trace_id))
    found = {name: told(name, request) for name in FORMATS}
    assert all(each.is_valid for each in found.values()), request.fields
    assert {f"{each.trace_id:032x}" for each in found.values()} == {trace_id.rjust(32, "0")}
    assert len({each.span_id for each in found.values()}) == 1
    assert found["b3"].span_id != int(PARENT, 16)
    assert not any(each.trace_flags.sampled for each in found.values())


@pytest.mark.parametrize("propagators", [("tracecontext",), ("b3", "tracecontext")])
def test_a_minted_id_that_begins_with_naughts_has_a_span_id_all_the_same(propagators: Any) -> None:
    made = Tracing(
        TracingOptions(sampling="never", export="none", propagators=propagators),
        Tools(time.monotonic, Random(1), Path()),
    )
    exchange = Exchange("GET", "/", head=b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", id="0" * 31 + "7")
    made.request_started(exchange)
    (line,) = [line for line in exchange.added.decode().split("\r\n") if line.startswith("traceparent")]
    (span_id,) = re.findall(r"traceparent: 00-0{31}7-([0-9a-f]{16})-00", line)
    assert int(span_id, 16)


# What a rule keeps is what the server was told of.


@pytest.mark.parametrize(
    ("sampling", "line"),
    [
        (0.0, "b3: {}-b7ad6b7169203331"),
        ("never", "b3: {}-b7ad6b7169203331-1"),
        ("never", "traceparent: 00-0123456789abcdef{}-b7ad6b7169203331-01"),
        ("never", "X-Anything: {}"),
        ("never", "X-Request-ID: {}"),
        ("never", "tracestate: a={}"),
    ],
)
def test_a_span_that_is_kept_is_the_one_that_the_server_was_told_of(bench: Any, sampling: Any, line: str) -> None:
    bench.tracing(sampling=sampling, keep=["errors"], propagators=["b3", "tracecontext"])
    request = sent(bench, line.format(short_id()), way="status-503")
    found = told("tracecontext", request)
    server = bench.collector.trace(f"{found.trace_id:032x}").server
    assert server.span_id == f"{found.span_id:016x}"
    assert server.parent_id == (PARENT if PARENT in line else "")


def test_where_the_clients_word_goes_on_a_kept_span_has_an_id_of_its_own(bench: Any) -> None:
    bench.tracing(sampling=0.0, keep=["errors"])
    trace_id = f"{short_id()}{short_id()}"
    request = sent(bench, f"traceparent: 00-{trace_id}-{PARENT}-00", way="status-503")
    assert request.only("traceparent") == f"00-{trace_id}-{PARENT}-00"
    server = bench.collector.trace(trace_id).server
    assert server.parent_id == PARENT
    assert server.span_id not in (PARENT, trace_id[:16])


# Two observers.


def both(bench: Any, first: dict[str, Any], second: dict[str, Any]) -> None:
    given = {"endpoint": bench.collector.endpoint}
    tables = [given | options | {"service": name} for name, options in (("one", first), ("two", second))]
    bench.samples_nothing = False
    bench.run(bench.text("".join(f'[[observers]]\nuse = "tracing"\n{toml(**table)}' for table in tables)))


def by_service(bench: Any, trace_id: str, count: int) -> dict[str, list[Any]]:
    """Server spans first."""
    found: dict[str, list[Any]] = {}
    for span in sorted(bench.collector.tree(trace_id, count), key=lambda span: span.kind, reverse=True):
        found.setdefault(span.resource["service.name"], []).append(span)
    return found


ALWAYS, NEVER = {"sampling": "always"}, {"sampling": "never"}
LINES = ["", "X-Request-ID: mine-{}", "traceparent: 00-{}{}-b7ad6b7169203331-01", "tracestate: a={}"]


@pytest.mark.parametrize("line", LINES)
def test_of_two_observers_the_first_tells_the_server_and_both_record_one_trace(bench: Any, line: str) -> None:
    both(bench, ALWAYS, ALWAYS)
    request = sent(bench, line.format(short_id(), short_id()))
    found = told("tracecontext", request)
    assert len(request.all("traceparent")) == 1
    spans = by_service(bench, f"{found.trace_id:032x}", 4)
    assert [[span.kind for span in each] for each in (spans["one"], spans["two"])] == [["server", "client"]] * 2
    assert spans["one"][1].span_id == f"{found.span_id:016x}"
    ids = [span.span_id for each in spans.values() for span in each]
    assert len(set(ids)) == 4
    for server, client in spans.values():
        assert client.parent_id == server.span_id
        assert server.parent_id == (PARENT if PARENT in line else "")


@pytest.mark.parametrize("line", LINES)
def test_the_second_observer_samples_for_itself(bench: Any, line: str) -> None:
    for first, second, service in ((NEVER, ALWAYS, "two"), (ALWAYS, NEVER, "one")):
        both(bench, first, second)
        request = sent(bench, line.format(short_id(), short_id()))
        found = told("tracecontext", request)
        assert len(request.all("traceparent")) == 1
        assert found.trace_flags.sampled == (first is ALWAYS)
        spans = by_service(bench, f"{found.trace_id:032x}", 2)
        assert {name: len(each) for name, each in spans.items()} == {service: 2}
        assert spans[service][0].parent_id == (PARENT if PARENT in line else "")


@pytest.mark.parametrize("line", LINES)
def test_the_second_observer_keeps_by_its_own_rules(bench: Any, line: str) -> None:
    both(bench, ALWAYS, NEVER | {"keep": ["errors"]})
    request = sent(bench, line.format(short_id(), short_id()), way="status-503")
    spans = by_service(bench, f"{told('tracecontext', request).trace_id:032x}", 4)
    assert [len(each) for each in spans.values()] == [2, 2]
    assert spans["two"][0]["lb.kept"] == "errors"
    assert len({each[0].parent_id for each in spans.values()}) == 1


def test_the_second_observer_takes_no_parent_of_another_trace(bench: Any) -> None:
    both(bench, ALWAYS | {"parent": "ignore"}, ALWAYS)
    request = sent(bench, f"traceparent: 00-{short_id()}{short_id()}-{PARENT}-01")
    spans = by_service(bench, request.only("X-Request-ID"), 4)
    assert [each[0].parent_id for each in spans.values()] == ["", ""]


# Its end.


async def test_the_page_and_the_last_spans_take_their_time_together(monkeypatch: pytest.MonkeyPatch) -> None:
    options = TracingOptions(sampling="never", export="none", viewer="127.0.0.1:0")
    made = Tracing(options, Tools(time.monotonic, Random(1), Path()))
    page, spans = asyncio.Event(), asyncio.Event()

    async def close_page() -> None:
        page.set()
        await spans.wait()

    async def close_sender(seconds: float) -> None:
        assert seconds < 4.5
        spans.set()
        await page.wait()

    assert len(made._senders) == 1
    monkeypatch.setattr(made._viewer, "close", close_page)
    monkeypatch.setattr(made._senders[0], "aclose", close_sender)
    await asyncio.wait_for(made.close(), _help.PATIENCE)
