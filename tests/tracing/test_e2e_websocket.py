"""The spans of a WebSocket: they last as long as the connection and count what went over it."""

from __future__ import annotations

import time
from typing import Any

import pytest
import tracing_support as _help

collector = _help.collector
wait = _help.wait
FIELDS = (
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==",
)


def build(bench: Any) -> None:
    own = bench.plugins(_help.FIRST)
    bench.web = bench.backend()
    dead = f"http://127.0.0.1:{bench.house.free_port()}"
    bench.sites = f"""
[[routes]]
name = "again"
path = "/again/*"
pool = "again"
[[routes]]
name = "web"
pool = "web"
[[pools]]
name = "web"
detectors = []
endpoints = [{{ url = "{bench.web.url}", id = "one" }}]
[[pools]]
name = "again"
selection = "{own}:First"
detectors = []
endpoints = [{{ url = "{dead}", id = "a" }}, {{ url = "{bench.web.url}", id = "b" }}]
"""


bench = _help.bench_of(build)


@pytest.fixture(autouse=True)
def _traced(bench: Any) -> None:
    bench.tracing()


def switch(bench: Any, path: str, name: str) -> Any:
    client = bench.client()
    assert client.ask(path, *FIELDS, f"X-Request-ID: {name}").status == 101
    return client


def spans_of(bench: Any, name: str) -> list[Any]:
    """Server span, then client spans, once the server span is there."""
    found = wait(lambda: [span for span in bench.collector.spans() if span.get("lb.request_id") == name], "no span")
    wait(lambda: len(bench.collector.of(found[0].trace_id)) > found[0]["lb.attempts"], "client spans are missing")
    below = [span for span in bench.collector.of(found[0].trace_id) if span.kind == "client"]
    return [found[0], *sorted(below, key=lambda span: int(span["lb.attempt"]))]


def test_a_websocket_is_one_span_from_its_handshake_to_its_end(bench: Any) -> None:
    begun = time.time_ns()
    with switch(bench, "/chat/ws", "ws-1") as client:
        for size in (5, 5000, 200_000):
            client.sock.sendall(b"x" * size)
            client.reader.exactly(2 * size)
        time.sleep(0.05)
        bench.flushed("/barrier")
        assert not [span for span in bench.collector.spans() if span.get("lb.request_id") == "ws-1"]
        ended = time.time_ns()
    server, below = spans_of(bench, "ws-1")
    assert server.name == "GET web"
    assert (server["lb.bytes_to_endpoint"], server["lb.bytes_to_client"]) == (205_005, 410_010)
    assert type(server["lb.bytes_to_client"]) is int
    assert server["http.response.status_code"] == below["http.response.status_code"] == 101
    assert server.status == below.status == "unset"
    assert server.start >= begun - 50_000_000
    for span in (server, below):
        assert span.end >= ended - 50_000_000
        assert span.end - span.start >= 49_000_000
    assert below.parent_id == server.span_id
    assert bench.web.got("ws-1").only("traceparent") == f"00-{server.trace_id}-{below.span_id}-01"


def test_a_websocket_without_a_byte(bench: Any) -> None:
    switch(bench, "/quiet/ws", "ws-2").sock.close()
    server, below = spans_of(bench, "ws-2")
    assert (server["lb.bytes_to_endpoint"], server["lb.bytes_to_client"]) == (0, 0)
    assert below["lb.outcome"] in ("success", "neutral")


def test_a_websocket_that_is_reset_by_its_client_is_no_error(bench: Any) -> None:
    client = switch(bench, "/reset/ws", "ws-3")
    client.sock.sendall(b"12345")
    client.reader.exactly(10)
    client.reset()
    server, below = spans_of(bench, "ws-3")
    assert (server["lb.bytes_to_endpoint"], server["lb.bytes_to_client"]) == (5, 10)
    assert server.status == below.status == "unset"


def test_a_handshake_that_the_server_refuses_is_an_ordinary_answer(bench: Any) -> None:
    with bench.client() as client:
        assert client.ask("/chat/status-403", *FIELDS, "X-Request-ID: ws-4").status == 403
    server, below = spans_of(bench, "ws-4")
    assert server["http.response.status_code"] == 403
    assert not {"lb.bytes_to_endpoint", "lb.bytes_to_client"} & server.attributes.keys()
    assert (server.status, below.status) == ("unset", "error")


def test_a_handshake_that_is_tried_elsewhere_shows_both_tries(bench: Any) -> None:
    with switch(bench, "/again/ws", "ws-5") as client:
        client.sock.sendall(b"12345")
        client.reader.exactly(10)
    server, first, second = spans_of(bench, "ws-5")
    assert (first["lb.outcome"], second["http.request.resend_count"]) == ("failure", 1)
    assert first.end < second.end
    assert (server["lb.endpoint"], server["lb.bytes_to_endpoint"]) == ("b", 5)


def test_a_websocket_under_way_at_a_reload_keeps_its_trace(bench: Any) -> None:
    with switch(bench, "/kept/ws", "ws-6") as client:
        bench.tracing(service="later")
        client.sock.sendall(b"12345")
        client.reader.exactly(10)
    server, below = spans_of(bench, "ws-6")
    assert server.resource["service.name"] == "router"
    assert (server["lb.bytes_to_endpoint"], below.parent_id) == (5, server.span_id)


def test_a_websocket_is_slow_if_its_opening_is(bench: Any) -> None:
    """They all last long."""
    bench.tracing(sampling="never", keep=["slower:50ms"])
    with switch(bench, "/chat/ws-80", "ws-7"):
        pass
    with switch(bench, "/chat/ws", "ws-8"):
        time.sleep(0.07)
    server, _ = spans_of(bench, "ws-7")
    assert server["lb.kept"] == "slower"
    bench.flushed()
    assert bench.named("ws-8") == []
