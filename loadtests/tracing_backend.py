"""A server that is traced by OpenTelemetry's SDK, as an application behind the router would be.

    python tracing_backend.py ADDRESS:PORT NAME ENDPOINT

Answers as the clients of this bench want it, and sends a server span per request to ENDPOINT, of the service NAME.
Prints `ready`; SIGTERM ends it after all its spans are sent.
"""

import signal
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from fault_servers import HEALTH, body_of, head_of
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator


def handler(provider: TracerProvider, name: str) -> type[BaseHTTPRequestHandler]:
    """Promises what answers requests, under a span that belongs to their trace."""
    tracer = provider.get_tracer("bench")
    fields = TraceContextTextMapPropagator()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            posted = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            if self.path == HEALTH:
                return self._send(b"ok", b"")
            context = fields.extract({key.lower(): value for key, value in self.headers.items()})
            with tracer.start_as_current_span(self.command, context, SpanKind.SERVER):
                size = int(self.path[1:])
                return self._send(body_of(self.headers["X-Fault-Key"], size), posted)

        def do_POST(self) -> None:
            self.do_GET()

        def _send(self, body: bytes, posted: bytes) -> None:
            self.wfile.write(head_of(200, name, len(body), posted) + body)

        def log_message(self, format: str, *args: Any) -> None:
            """Says nothing."""

    return Handler


def main(address: str, name: str, endpoint: str) -> None:
    provider = TracerProvider(resource=Resource.create({"service.name": name}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint), schedule_delay_millis=200))
    host, _, port = address.partition(":")
    server = ThreadingHTTPServer((host, int(port)), handler(provider, name))
    server.daemon_threads = True
    # It must not be told to end from within the thread that serves.
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
    print("ready", flush=True)
    server.serve_forever(0.05)
    provider.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
