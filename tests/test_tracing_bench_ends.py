"""The bench of tracing: its receiver, its client and its traced server, each met by others and without a router."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import http.client
import importlib
import json
import os
import sys
import threading
import zlib
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

LOADTESTS = Path(__file__).resolve().parent.parent / "loadtests"


def load(name: str) -> ModuleType:
    if str(LOADTESTS) not in sys.path:
        sys.path.append(str(LOADTESTS))
    return importlib.import_module(name)


backend = load("tracing_backend")
client = load("tracing_client")
fault_client = load("fault_client")
house = load("tracing_house")
peers = load("tracing_peers")
procs = load("bench_procs")
receiver = load("tracing_receiver")
servers = load("fault_servers")
spans = load("tracing_spans")


def made() -> list[ReadableSpan]:
    """A server span, and a client span below it that failed."""
    memory = InMemorySpanExporter()
    provider = TracerProvider(resource=Resource({"service.name": "shop", "service.instance.id": "one"}))
    provider.add_span_processor(SimpleSpanProcessor(memory))
    tracer = provider.get_tracer("test")
    with tracer.start_as_current_span("GET all", kind=SpanKind.SERVER) as server:
        server.set_attributes({"lb.attempts": 1, "text": "x", "yes": True, "half": 0.5, "many": ["a"]})
        server.add_event("queued")
        with tracer.start_as_current_span("GET", kind=SpanKind.CLIENT) as below:
            below.set_status(StatusCode.ERROR, "no")
    found = list(memory.get_finished_spans())
    provider.shutdown()
    return found


MADE = made()
BODY = encode_spans(MADE).SerializePartialToString()


def test_every_field_of_otlp_is_read() -> None:
    below, server = spans.spans_of(spans.parsed(BODY))
    by_sdk = {"client": MADE[0], "server": MADE[1]}
    for each in (below, server):
        own = by_sdk[each.kind]
        assert own.context is not None
        assert (each.trace, each.span) == (f"{own.context.trace_id:032x}", f"{own.context.span_id:016x}")
        assert (each.start, each.end, each.name) == (own.start_time, own.end_time, own.name)
        assert (each.service, each.instance) == ("shop", "one")
    assert (server.parent, below.parent) == ("", server.span)
    assert (server.status, below.status) == ("unset", "error")
    assert (server.events, below.events) == (["queued"], [])
    assert {name: server.attributes[name] for name in ("lb.attempts", "text", "yes", "half")} == {
        "lb.attempts": 1,
        "text": "x",
        "yes": True,
        "half": 0.5,
    }
    assert spans.counted(spans.parsed(BODY)) == 2


# The receiver


@contextlib.asynccontextmanager
async def listening(at: Any) -> Any:
    server = await asyncio.get_running_loop().create_server(lambda: receiver.Connection(at), "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def asked(port: int, *words: bytes, pause: float = 0) -> bytes:
    """What comes back within a moment."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for word in words:
        writer.write(word)
        await writer.drain()
        await asyncio.sleep(pause)
    got = b""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.15):
            while data := await reader.read(1 << 16):
                got += data
    writer.transport.abort()
    return got


def post(body: bytes, *fields: str) -> bytes:
    head = "\r\n".join(("POST /v1/traces HTTP/1.1", "Host: x", f"content-length: {len(body)}", *fields))
    return head.encode() + b"\r\n\r\n" + body


async def test_the_receiver_takes_what_the_sdk_sends(tmp_path: Path) -> None:
    at = receiver.Receiver(str(tmp_path / "spans"))
    async with listening(at) as port:
        exporter = OTLPSpanExporter(f"http://127.0.0.1:{port}/v1/traces", timeout=5)
        assert await asyncio.to_thread(exporter.export, MADE) is SpanExportResult.SUCCESS
        assert not (tmp_path / "spans").exists()
        told = json.loads((await asked(port, b"GET /told HTTP/1.1\r\nHost: x\r\n\r\n")).partition(b"\r\n\r\n")[2])
        await asyncio.to_thread(exporter.shutdown)
    assert (told["spans"], told["bodies"], told["malformed"]) == (2, 1, 0)
    lines = (tmp_path / "spans").read_text().splitlines()
    assert [spans.Span(*json.loads(line)) for line in lines] == list(spans.spans_of(spans.parsed(BODY)))


async def test_bodies_come_in_pieces_or_several_at_once_or_packed() -> None:
    at = receiver.Receiver("-")
    one = post(BODY)
    async with listening(at) as port:
        got = await asked(port, one[:10], one[10 : len(one) - 7], one[-7:], pause=0.01)
        assert got.count(b"HTTP/1.1 200 ") == 1
        got = await asked(port, one + one + one[:-1])
        assert got.count(b"HTTP/1.1 200 ") == 2
        assert await asked(port, post(gzip.compress(BODY), "Content-Encoding: gzip"))
    assert at.read() == receiver.Told(8, 4, 3 * len(BODY) + len(gzip.compress(BODY)), 0, 0, 0)


async def test_what_is_no_otlp_is_counted_apart() -> None:
    at = receiver.Receiver("-")
    async with listening(at) as port:
        await asked(port, post(b"\xff\xff"), post(b"junk", "Content-Encoding: gzip"), post(BODY))
        # A request without a length, or too large, is none of an exporter's.
        assert await asked(port, b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n") == b""
        assert await asked(port, b"POST / HTTP/1.1\r\nContent-Length: 999999999999\r\n\r\n") == b""
    told = at.read()
    assert (told.malformed, told.spans, told.bodies) == (2, 2, 3)


async def test_modes_hold_until_the_next_one() -> None:
    at = receiver.Receiver("-", receiver.REFUSE)
    async with listening(at) as port:
        assert (await asked(port, post(BODY))).startswith(b"HTTP/1.1 503 ")
        assert (await asked(port, b"PUT /mode/hang HTTP/1.1\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
        assert await asked(port, post(BODY), post(BODY)) == b""
        assert (await asked(port, b"PUT /mode/no HTTP/1.1\r\n\r\n")).startswith(b"HTTP/1.1 400 ")
        assert at.mode == receiver.HANG
        await asked(port, b"PUT /mode/answer HTTP/1.1\r\n\r\n")
        assert (await asked(port, post(BODY))).startswith(b"HTTP/1.1 200 ")
    assert at.read() == receiver.Told(2, 1, len(BODY), 0, 1, 2)


# The client


async def test_each_request_carries_its_own_traceparent() -> None:
    got: list[tuple[str, str]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                fields = dict(line.split(": ", 1) for line in head.splitlines()[1:] if line)
                posted = await reader.readexactly(int(fields.get("Content-Length", 0)))
                key, size = fields["X-Fault-Key"], int(head.split(" ")[1][1:])
                got.append((key, fields["traceparent"]))
                writer.write(servers.head_of(200, "s1", size, posted) + servers.body_of(key, size))
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        seen = await client.run(server.sockets[0].getsockname()[1], "t", 5, 3, 200, 40)
    assert {each.kind for each in seen} == {fault_client.OK}
    assert 40 <= len(seen) < 48
    assert sorted(key for key, _ in got) == sorted(each.key for each in seen)
    assert all(field == spans.parent_of(key) for key, field in got)


# The traced server


@pytest.fixture
def traced() -> Iterator[tuple[int, InMemorySpanExporter]]:
    memory = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(memory))
    server = ThreadingHTTPServer(("127.0.0.1", 0), backend.handler(provider, "shop"))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server.server_address[1], memory
    server.shutdown()
    thread.join()
    server.server_close()
    provider.shutdown()


def test_the_server_goes_on_with_the_trace(traced: tuple[int, InMemorySpanExporter]) -> None:
    port, memory = traced
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    with contextlib.closing(connection):
        connection.request("POST", "/300", b"abc", {"X-Fault-Key": "k.1", "TraceParent": spans.parent_of("k.1")})
        response = connection.getresponse()
        assert response.read() == servers.body_of("k.1", 300)
        assert response.getheader("X-Fault-Posted") == str(zlib.crc32(b"abc"))
        connection.request("GET", servers.HEALTH)
        assert connection.getresponse().read() == b"ok"
    (span,) = memory.get_finished_spans()
    assert span.context is not None
    assert span.parent is not None
    assert (f"{span.context.trace_id:032x}", f"{span.parent.span_id:016x}") == spans.ids_of("k.1")
    assert (span.name, span.kind) == ("POST", SpanKind.SERVER)


# The house


@pytest.fixture
def den() -> Iterator[Any]:
    command = f"{sys.executable} -m router"
    with procs.workbench() as fleet, contextlib.closing(house.Den(fleet, procs.Pinning((), (), ""), command)) as made:
        yield made


def sent(port: int, body: bytes) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    with contextlib.closing(connection):
        connection.request("POST", "/v1/traces", body, {"Content-Type": "application/x-protobuf"})
        return connection.getresponse().status


def test_a_collector_goes_and_comes_back_with_what_it_took(den: Any) -> None:
    collector = den.collector()
    assert sent(collector.port, BODY) == 200
    assert collector.settled(2).spans == 2
    assert sent(collector.port, BODY) == 200
    collector.end()
    with pytest.raises(ConnectionRefusedError):
        sent(collector.port, BODY)
    collector.start(receiver.REFUSE)
    assert sent(collector.port, BODY) == 503
    assert collector.told() == receiver.Told(0, 0, 0, 0, 1, 0)
    collector.turn(receiver.ANSWER)
    assert len(collector.spans()) == 4
    with pytest.raises(procs.BenchError, match="400"):
        collector.turn("nonsense")
    collector.end()
    with pytest.raises(procs.BenchError, match="does not answer"):
        collector.told()


def has_rotel() -> bool:
    try:
        peers.rotel_program()
    except procs.BenchError:
        return False
    return True


@pytest.mark.skipif(not has_rotel(), reason="rotel is not installed")
def test_rotel_and_the_own_receiver_see_the_same(den: Any) -> None:
    running, ports = peers._start_rotel(den, peers.rotel_program(), "test")
    assert sent(ports["otlp"], BODY) == 200
    den.wait(5, lambda: len(peers._logged(running)) == 2)
    theirs = {each.span: each for each in peers._logged(running)}
    for own in spans.spans_of(spans.parsed(BODY)):
        own.attributes.pop("many", None)
        assert theirs[own.span] == own
    den.fleet.end(running)
    assert not os.path.exists(f"/proc/{running.popen.pid}")
