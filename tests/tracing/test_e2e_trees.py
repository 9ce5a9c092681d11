"""Traces of requests with more than one try, that wait, stick, or pass several routers: one tree, told in events."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
import tracing_support as _help

collector = _help.collector
wait = _help.wait


def build(bench: Any) -> None:
    own = bench.plugins(_help.FIRST)
    bench.a, bench.b = bench.backend("a"), bench.backend("b")
    bench.dead = f"http://127.0.0.1:{bench.house.free_port()}"
    both = f'endpoints = [{{ url = "{bench.a.url}", id = "a" }}, {{ url = "{bench.b.url}", id = "b" }}]'
    half = f'endpoints = [{{ url = "{bench.dead}", id = "a" }}, {{ url = "{bench.b.url}", id = "b" }}]'
    first = f'selection = "{own}:First"\ndetectors = []\n'
    bench.listeners = f'[[listeners]]\nbind = "127.0.0.1:{bench.house.free_port()}"\n'
    bench.sites = "".join(
        f'[[routes]]\nname = "{name}"\npath = "/{name}/*"\npool = "{name}"\n'
        for name in ("web", "refused", "tries", "hedged", "sticky", "full", "loses", "fallen", "poor", "panicky")
    )
    bench.sites += f"""
[[routes]]
path = "/barrier"
pool = "web"
[[pools]]
name = "web"
{first}endpoints = [{{ url = "{bench.b.url}", id = "b" }}]
[[pools]]
name = "refused"
{first}{half}
retry = {{ attempts = 2, reserve = 1000 }}
[[pools]]
name = "tries"
{first}{both}
retry = {{ on = ["connect", "reset", "timeout", "503"], attempts = 2 }}
[[pools]]
name = "hedged"
{first}{both}
retry = {{ attempts = 1, hedge_after = "40ms" }}
[[pools]]
name = "sticky"
{first}{both}
affinity = {{ use = "header", name = "X-User" }}
[[pools]]
name = "full"
{first}endpoints = [{{ url = "{bench.a.url}", id = "a" }}]
limits = {{ in_flight = 1, queue = 5, queue_timeout = "5s" }}
[[pools]]
name = "loses"
{first}endpoints = [{{ url = "{bench.a.url}", id = "a" }}]
limits = {{ in_flight = 1, queue = 1, queue_timeout = "60ms" }}
[[pools]]
name = "fallen"
selection = "{own}:First"
detectors = ["{own}:Strict"]
ejection = {{ base = "60s", max_share = "100%" }}
{both}
affinity = {{ use = "header", name = "X-User" }}
[[pools]]
name = "poor"
{first}{half}
retry = {{ attempts = 2, budget = "0%", reserve = 0 }}
[[pools]]
name = "panicky"
selection = "{own}:First"
detectors = ["{own}:Strict"]
ejection = {{ base = "60s", max_share = "100%" }}
{both}
few_ready = "50%"
retry = {{ attempts = 0 }}
"""


bench = _help.bench_of(build)


@pytest.fixture(autouse=True)
def _traced(bench: Any) -> None:
    bench.tracing()
    bench.a.mode = bench.b.mode = ""


def outcomes(trace: Any) -> list[tuple[str, int, str, Any]]:
    return [
        (span["lb.endpoint"], span["lb.attempt"], span["lb.outcome"], span.get("http.request.resend_count"))
        for span in trace.clients
    ]


def check_within(trace: Any) -> None:
    """That the spans and events of a trace lie within its server span, and hang below it."""
    server = trace.server
    for span in trace.clients:
        assert span.parent_id == server.span_id
        assert server.start <= span.start <= span.end <= server.end
    for event in server.events:
        assert server.start <= event.at <= server.end, event
    assert list(server.events) == sorted(server.events, key=lambda event: event.at)


# Retries.


def test_a_refused_connection_is_tried_elsewhere_and_both_tries_show(bench: Any) -> None:
    answer, trace = bench.seen("/refused/x")
    assert (answer.status, answer.body) == (200, b"b")
    assert outcomes(trace) == [("a", 0, "failure", None), ("b", 1, "success", 1)]
    first, second = trace.clients
    assert (first.status, second.status) == ("error", "unset")
    assert first["lb.cause"] == "connect refused"
    assert "error.type" not in trace.server.attributes
    assert trace.server.status == "unset"
    assert (trace.server["lb.attempts"], trace.server["lb.endpoint"]) == (2, "b")
    event = trace.server.event("retry")
    assert event.attributes["lb.reason"]
    assert first.end <= event.at + 1_000_000
    assert event.at <= second.start + 1_000_000
    check_within(trace)


def test_a_reset_connection_is_tried_elsewhere(bench: Any) -> None:
    bench.a.mode = "reset"
    answer, trace = bench.seen("/tries/x")
    assert answer.body == b"b"
    assert outcomes(trace) == [("a", 0, "failure", None), ("b", 1, "success", 1)]
    assert "reset" in trace.clients[0]["lb.cause"] or "closed" in trace.clients[0]["lb.cause"]
    assert trace.server.event_names == ["retry"]


def test_a_503_that_is_tried_elsewhere(bench: Any) -> None:
    bench.a.mode = "status-503"
    answer, trace = bench.seen("/tries/x")
    assert answer.body == b"b"
    first, second = trace.clients
    assert (first["http.response.status_code"], first["lb.cause"], first["error.type"]) == (503, "status 503", "503")
    assert (second["http.response.status_code"], second["http.request.resend_count"]) == (200, 1)
    assert trace.server["http.response.status_code"] == 200
    assert trace.server.status == "unset"


def test_both_tries_fail(bench: Any) -> None:
    bench.a.mode = bench.b.mode = "status-503"
    answer, trace = bench.seen("/tries/x")
    assert answer.status == 503
    assert [span["http.response.status_code"] for span in trace.clients] == [503] * len(trace.clients)
    assert [span.get("http.request.resend_count") for span in trace.clients][:2] == [None, 1]
    assert {span.status for span in trace.spans} == {"error"}
    check_within(trace)


def test_a_retry_that_may_not_be_says_why(bench: Any) -> None:
    """A POST that was sent is not sent again; without a budget nothing is."""
    bench.a.mode = "reset"
    answer, trace = bench.seen("/tries/x", method="POST", body=b"x")
    assert answer.status == 502
    assert outcomes(trace) == [("a", 0, "failure", None)]
    assert trace.server.event("no retry").attributes["lb.reason"]
    bench.a.mode = "status-503"
    answer, trace = bench.seen("/poor/x")
    assert trace.server["lb.attempts"] in (1, 2)


def test_each_try_has_its_own_context_and_reason(bench: Any) -> None:
    """What a server gets names the span of its own attempt; the second decision leaves out who was tried."""
    bench.a.mode = "status-503"
    answer, trace = bench.seen("/tries/mark-7")
    for server, span in ((bench.a, trace.clients[0]), (bench.b, trace.clients[1])):
        request = next(each for each in server.all("mark-7") if answer.id in each.only("traceparent"))
        assert request.only("traceparent") == f"00-{answer.id}-{span.span_id}-01"
    first, second = (json.loads(span["lb.explain"])["pools"][0] for span in trace.clients)
    assert {option["id"] for choice in first["choices"] for option in choice["options"]} == {"a", "b"}
    assert {left["reason"]: left["count"] for left in second["left_out"]} == {"tried": 1}
    assert [option["id"] for choice in second["choices"] for option in choice["options"]] == ["b"]


def test_requests_at_once_do_not_mix(bench: Any) -> None:
    """Each trace has its own tries, and each server was told its own."""
    answers: list[Any] = []

    def ask(number: int) -> None:
        with bench.client() as client:
            for _ in range(6):
                answers.append((number, client.ask(f"/refused/at-once-{number}", method="POST", body=b"x" * number)))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(1, 13)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(_help.PATIENCE)
    assert len(answers) == 72
    told = {request.only("X-Request-ID"): request for request in bench.b.all("/refused/at-once-")}
    for number, answer in answers:
        trace = bench.trace(answer)
        assert trace.server["url.path"] == f"/refused/at-once-{number}"
        assert outcomes(trace) == [("a", 0, "failure", None), ("b", 1, "success", 1)]
        assert told[answer.id].only("traceparent") == f"00-{answer.id}-{trace.clients[1].span_id}-01"
        assert len(told[answer.id].body) == number
        check_within(trace)


# Hedges.


def test_a_hedge_shows_as_such_and_the_slower_one_is_no_failure(bench: Any) -> None:
    bench.a.mode = "delay-400"
    answer, trace = bench.seen("/hedged/x")
    assert answer.body == b"b"
    assert outcomes(trace) == [("a", 0, "neutral", None), ("b", 1, "success", 1)]
    slow, hedge = trace.clients
    assert (slow.get("lb.hedge"), hedge["lb.hedge"]) == (None, True)
    assert slow.status == "unset"
    assert "hedge" in trace.server.event_names
    assert slow.start < hedge.start < slow.end
    assert trace.server.status == "unset"
    check_within(trace)


# Affinity.


def test_the_verdict_of_affinity_stands_on_the_server_span(bench: Any) -> None:
    _, trace = bench.seen("/sticky/x", "X-User: ann")
    assert trace.server["lb.affinity"]
    _, trace = bench.seen("/sticky/x", "X-User: ann")
    assert "pinned to a" in trace.server["lb.affinity"]
    assert "ann" not in trace.server["lb.affinity"]
    assert "pin broken" not in trace.server.event_names


def test_a_broken_pin_is_an_event_with_server_and_reason(bench: Any) -> None:
    for name in ("eve", "kim"):
        assert bench.ask("/fallen/x", f"X-User: {name}").body == b"a"
    bench.a.mode = "reset"
    # The server fails with this one, another takes it; the next one meets a server that is out already.
    reasons = []
    for name, attempts in (("eve", 2), ("kim", 1)):
        answer, trace = bench.seen("/fallen/x", f"X-User: {name}")
        assert (answer.body, len(trace.clients)) == (b"b", attempts)
        event = trace.server.event("pin broken")
        assert event.attributes["lb.endpoint"] == "a"
        reasons.append(event.attributes["lb.reason"])
        assert trace.server["lb.endpoint"] == "b"
        check_within(trace)
    assert all(reasons)
    assert "ejected" in reasons[1]
    # From then on they stay with the other one.
    _, trace = bench.seen("/fallen/x", "X-User: kim")
    assert "pin broken" not in trace.server.event_names
    assert "pinned to b" in trace.server["lb.affinity"]


# The queue.


def test_waiting_in_the_queue_is_told_with_its_time(bench: Any) -> None:
    with bench.client() as holder:
        holder.send("/full/hold")
        wait(lambda: bench.a.all("/full/hold"), "held")
        answers: list[Any] = []
        thread = threading.Thread(target=lambda: answers.append(bench.ask("/full/x")))
        thread.start()
        wait(lambda: bench.house.status().pool("full").queue, lambda: bench.house.status().pool("full"))
        bench.a.let_go()
        thread.join(_help.PATIENCE)
        assert holder.receive().status == 200
    trace = bench.trace(answers[0])
    assert trace.server.event_names == ["queued", "left queue"]
    queued, left = trace.server.events
    seconds = left.attributes["lb.seconds"]
    assert type(seconds) is float
    assert abs(seconds - (left.at - queued.at) / 1e9) < 0.005
    assert trace.client.start >= left.at - 1_000_000
    check_within(trace)


def test_waiting_in_vain_is_a_503_with_the_queue_in_its_trace(bench: Any) -> None:
    with bench.client() as holder:
        holder.send("/loses/hold")
        wait(lambda: bench.a.all("/loses/hold"), "held")
        answer, trace = bench.seen("/loses/x")
        assert answer.status == 503
        assert trace.clients == []
        assert "queued" in trace.server.event_names
        assert trace.server.status == "error"
        assert trace.server.end - trace.server.start >= 50_000_000
        bench.a.let_go()
        holder.receive()
    check_within(trace)


def test_panic_is_an_event(bench: Any) -> None:
    """With too few ready, all are tried, whatever is known of them."""
    bench.a.mode = "reset"
    bench.ask("/panicky/x", method="POST", body=b"x")
    wait(lambda: bench.house.status().pool("panicky").ready == 1, lambda: bench.house.status().pool("panicky"))
    bench.a.mode = ""
    answer, trace = bench.seen("/panicky/x")
    assert answer.status == 200
    assert "panic" in trace.server.event_names


# Several routers, and a server that traces too.


def test_two_routers_and_a_traced_server_make_one_tree(bench: Any, tmp_path: Path) -> None:
    from opentelemetry import trace as api
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    with _help.running(tmp_path, bench.collector) as front:
        front.sites = (
            '[[routes]]\nname = "front"\npool = "next"\n[[pools]]\nname = "next"\n'
            f'endpoints = ["http://127.0.0.1:{bench.port}"]\n'
        )
        front.tracing(service="front")
        answer = front.ask("/web/tree")
        assert answer.status == 200
        context = TraceContextTextMapPropagator().extract(bench.b.got("/web/tree").carrier)
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter(endpoint=bench.collector.endpoint)))
        with provider.get_tracer("app").start_as_current_span("work", context, kind=api.SpanKind.SERVER):
            pass
        provider.shutdown()
        spans = bench.collector.tree(answer.id, 5)
    assert len(spans) == 5
    parents = {span.span_id: span.parent_id for span in spans}
    (root,) = [span for span in spans if not span.parent_id]
    (leaf,) = [span for span in spans if span.name == "work"]
    line, at = [], leaf.span_id
    while at:
        line.append(next(span for span in spans if span.span_id == at))
        at = parents[at]
    assert [span.kind for span in reversed(line)] == ["server", "client", "server", "client", "server"]
    assert line[-1] is root
    assert [span.resource["service.name"] for span in reversed(line)][:4] == ["front", "front", "router", "router"]


# Changes while requests are under way.


def test_the_same_options_keep_the_observer_and_others_lose_no_span(bench: Any) -> None:
    with bench.client() as one, bench.client() as two:
        one.send("/web/half?reload-1")
        one.reader.until(b"half\r\n")
        bench.house.takes()
        bench.b.let_go()
        one.reader.until(b"0\r\n\r\n")
        two.send("/web/half?reload-2")
        two.reader.until(b"half\r\n")
        bench.tracing(service="other", buffer=100)
        _, after = bench.seen("/web/x")
        bench.b.let_go()
        two.reader.until(b"0\r\n\r\n")
    assert after.server.resource["service.name"] == "other"
    for name in ("reload-1", "reload-2"):
        trace_id = bench.b.got(name).only("traceparent").split("-")[1]
        trace = bench.collector.trace(trace_id)
        assert len(trace.clients) == 1
        assert trace.server.resource["service.name"] == "router"


def test_spans_of_just_before_a_reload_arrive(bench: Any) -> None:
    bench.tracing(buffer=200)
    with bench.client() as client:
        before = [client.ask("/web/x") for _ in range(20)]
        bench.tracing(buffer=201)
        after = [client.ask("/web/x") for _ in range(20)]
    for answer in before + after:
        assert bench.trace(answer).client["lb.outcome"] == "success"


def test_without_an_observer_nothing_is_traced_and_nothing_is_lost(bench: Any) -> None:
    traced = bench.ask("/web/x")
    bench.plain()
    answer = bench.ask("/web/plain-1")
    assert answer.status == 200
    assert bench.b.got("plain-1").all("traceparent") == []
    assert bench.trace(traced).client
    bench.tracing()
    bench.flushed()
    assert bench.collector.of(answer.id) == []
