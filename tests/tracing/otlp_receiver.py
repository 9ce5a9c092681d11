"""A receiver of spans for tests: OTLP over HTTP on loopback in threads of its own, read with opentelemetry-proto.

    with Receiver() as r:                  # or: async with
        ...                                # something that exports to r.endpoint
        r.wait(2)                          # or: await r.arrived(2)
        r.spans                            # plain dicts, oldest first

`r.mode` says how it answers from now on: "ok", a status ("400", "413", "429", "503", "302", ...), "hang" (reads, never
answers), "cut" (reads, then closes). Only "ok" takes spans. Tests load this file by its place, as test_sender.py does.
"""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import ssl
import threading
import time
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from google.protobuf import json_format
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

#: Seconds after which a test that waits has failed.
PATIENCE = 15.0
KINDS = {0: "unspecified", 1: "internal", 2: "server", 3: "client", 4: "producer", 5: "consumer"}
STATUSES = {0: "unset", 1: "ok", 2: "error"}


def value_of(any_value: Any) -> Any:
    """The plain value of an AnyValue; None where none is set."""
    which = any_value.WhichOneof("value")
    if which == "array_value":
        return [value_of(each) for each in any_value.array_value.values]
    if which == "kvlist_value":
        return attributes_of(any_value.kvlist_value.values)
    return getattr(any_value, which) if which else None


def attributes_of(pairs: Any) -> dict[str, Any]:
    """Attributes as a dict; a key that stands twice is a fault of the sender."""
    found = {pair.key: value_of(pair.value) for pair in pairs}
    assert len(found) == len(pairs), f"a key stands twice: {[pair.key for pair in pairs]}"
    return found


def span_of(span: Any, resource: dict[str, Any], scope: Any) -> dict[str, Any]:
    """Every field of a span that the router sets, with its resource and scope."""
    return {
        "trace_id": span.trace_id.hex(),
        "span_id": span.span_id.hex(),
        "parent_id": span.parent_span_id.hex(),
        "state": span.trace_state,
        "flags": span.flags,
        "name": span.name,
        "kind": KINDS[span.kind],
        "start": span.start_time_unix_nano,
        "end": span.end_time_unix_nano,
        "attributes": attributes_of(span.attributes),
        "events": [
            {"at": each.time_unix_nano, "name": each.name, "attributes": attributes_of(each.attributes)}
            for each in span.events
        ],
        "status": STATUSES[span.status.code],
        "message": span.status.message,
        "resource": resource,
        "scope": (scope.name, scope.version),
    }


def spans_of(request: ExportTraceServiceRequest) -> list[dict[str, Any]]:
    """The spans of one request as plain dicts."""
    return [
        span_of(span, attributes_of(group.resource.attributes), scoped.scope)
        for group in request.resource_spans
        for scoped in group.scope_spans
        for span in scoped.spans
    ]


def read_json(body: bytes | str) -> ExportTraceServiceRequest:
    """Reads OTLP JSON, which writes ids as hexadecimal where protobuf's own JSON has base64."""

    def turn(node: Any) -> Any:
        if isinstance(node, list):
            return [turn(each) for each in node]
        if not isinstance(node, dict):
            return node
        ids = {"traceId", "spanId", "parentSpanId"}
        return {k: base64.b64encode(bytes.fromhex(v)).decode() if k in ids else turn(v) for k, v in node.items()}

    return json_format.ParseDict(turn(json.loads(body)), ExportTraceServiceRequest())


def decode(body: bytes, headers: Any) -> ExportTraceServiceRequest:
    """One request as it came; raises on anything that is no OTLP."""
    coding = headers.get("Content-Encoding", "")
    body = gzip.decompress(body) if coding == "gzip" else zlib.decompress(body) if coding == "deflate" else body
    if headers["Content-Type"] == "application/json":
        return read_json(body)
    assert headers["Content-Type"] == "application/x-protobuf", headers["Content-Type"]
    request = ExportTraceServiceRequest()
    request.ParseFromString(body)
    return request


class Receiver:
    """Takes what is sent to `endpoint`.

    Attributes:
        spans: all that was taken.
        batches: the number of spans of each request that was taken.
        requests: how many requests came, taken or not.
        headers: those of the last request, as a dict with lower-case names.
        faults: what was wrong with requests that could not be read; leaving the block fails on any.
        mode: see above.
        retry_after: value of Retry-After with any status but 200; "" for none.
        most: requests with more spans are answered 413.
        partial: so many spans of each request are said to be rejected, with `message`.
    """

    def __init__(self, *, port: int = 0, context: ssl.SSLContext | None = None, path: str = "/v1/traces") -> None:
        self.mode, self.retry_after, self.path = "ok", "", path
        self.most, self.partial, self.message = 1_000_000, 0, ""
        self.spans: list[dict[str, Any]] = []
        self.batches: list[int] = []
        self.requests = 0
        self.headers: dict[str, str] = {}
        self.faults: list[str] = []
        self._let_go = threading.Event()
        self._server = _Server(("127.0.0.1", port), _Handler)
        self._server.receiver = self
        if context is not None:
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.port = self._server.server_address[1]
        self.endpoint = f"http{'s' if context else ''}://127.0.0.1:{self.port}{path}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)

    def __enter__(self) -> Receiver:
        self._thread.start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._let_go.set()
        self._server.shutdown()
        self._thread.join()
        self._server.cut()
        self._server.server_close()
        assert kind or not self.faults, self.faults

    async def __aenter__(self) -> Receiver:
        return self.__enter__()

    async def __aexit__(self, kind: object, *rest: object) -> None:
        await asyncio.to_thread(self.__exit__, kind, *rest)

    def wait(self, count: int) -> list[dict[str, Any]]:
        """Waits until at least `count` spans were taken, and returns them all."""
        end = time.monotonic() + PATIENCE
        while len(self.spans) < count:
            assert time.monotonic() < end, f"{len(self.spans)} of {count} spans came: {self.faults}"
            time.sleep(0.005)
        return self.spans

    async def arrived(self, count: int) -> list[dict[str, Any]]:
        """The same without blocking the loop."""
        return await asyncio.to_thread(self.wait, count)

    def trace(self, trace_id: str) -> list[dict[str, Any]]:
        """The spans of one trace, parents before children as far as start times tell."""
        found = [span for span in self.spans if span["trace_id"] == trace_id]
        return sorted(found, key=lambda span: (span["start"], span["parent_id"] != ""))


class _Server(ThreadingHTTPServer):
    daemon_threads, block_on_close, request_queue_size = True, False, 128
    receiver: Receiver

    def __init__(self, *arguments: Any) -> None:
        self.open: set[Any] = set()
        super().__init__(*arguments)

    def process_request(self, request: Any, client_address: Any) -> None:
        self.open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self.open.discard(request)
        super().shutdown_request(request)

    def cut(self) -> None:
        """Ends the connections that are open, as a receiver that goes away does."""
        for each in list(self.open):
            self.shutdown_request(each)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that leaves is no fault of the receiver."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def log_message(self, *_: Any) -> None: ...

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        receiver, mode = self.server.receiver, self.server.receiver.mode
        receiver.requests += 1
        receiver.headers = {name.lower(): value for name, value in self.headers.items()}
        if mode == "hang":
            receiver._let_go.wait(PATIENCE)
        if mode in ("hang", "cut"):
            self.close_connection = True
        elif self.path != receiver.path:
            self._answer(404)
        elif mode != "ok":
            self._answer(int(mode))
        else:
            self._take(body)

    def _take(self, body: bytes) -> None:
        receiver = self.server.receiver
        try:
            spans = spans_of(decode(body, self.headers))
        except Exception as error:
            receiver.faults.append(repr(error))
            status = 400
        else:
            status = 413 if len(spans) > receiver.most else 200
        if status == 200:
            receiver.batches.append(len(spans))
            receiver.spans += spans
        self._answer(status)

    def _answer(self, status: int) -> None:
        receiver, answer = self.server.receiver, ExportTraceServiceResponse()
        if receiver.partial and status == 200:
            answer.partial_success.rejected_spans = receiver.partial
            answer.partial_success.error_message = receiver.message
        body = answer.SerializeToString()
        self.send_response(status)
        self.send_header("Content-Type", "application/x-protobuf")
        self.send_header("Content-Length", str(len(body)))
        if status != 200 and receiver.retry_after:
            self.send_header("Retry-After", receiver.retry_after)
        if 300 <= status < 400:
            self.send_header("Location", receiver.endpoint)
        self.end_headers()
        self.wfile.write(body)
