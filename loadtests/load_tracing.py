"""Spans of the load and of the example servers, by OpenTelemetry's SDK; nothing of it is imported unless asked for.

The sampling is the first one's: the load draws, everybody behind it follows the sampled bit of `traceparent`
(W3C Trace Context §3.2.2.5). A server span is made only for a request whose trace is sampled.
"""

import contextlib
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

#: Milliseconds that a span waits for others, and seconds that a receiver has for a batch.
DELAY, PATIENCE = 500, 3
#: What says, by OpenTelemetry's own conventions, that traces are wanted.
WANTED = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_SAMPLED = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f][13579bdf](-.*)?")


class TracingError(Exception):
    """Traces were asked for and cannot be had; the message says what would help."""


class Span:
    """One span under way; this one is none."""

    #: What the next one gets, to go on with the trace.
    headers: Mapping[str, str] = {}

    def status(self, code: int) -> None:
        """Notes the status of the answer."""

    def failed(self, why: str) -> None:
        """Notes that there was no good answer."""


class Tracing:
    """Makes no spans at all."""

    def client(self, method: str, name: str, url: str) -> contextlib.AbstractContextManager[Span]:
        """The span of a request of our own; its `headers` are to be sent."""
        return contextlib.nullcontext(Span())

    def server(self, method: str, path: str, headers: Mapping[str, str]) -> contextlib.AbstractContextManager[Span]:
        """The span of a request that came with these fields."""
        return contextlib.nullcontext(Span())

    def close(self) -> None:
        """Sends what waits, for some seconds at most."""


class _Real(Span):
    def __init__(self, span: Any, server: bool) -> None:
        self._span, self._server = span, server
        context = span.get_span_context()
        flags = int(context.trace_flags)
        self.headers = {"traceparent": f"00-{context.trace_id:032x}-{context.span_id:016x}-{flags:02x}"}

    def status(self, code: int) -> None:
        self._span.set_attribute("http.response.status_code", code)
        if code >= (500 if self._server else 400):
            self.failed(str(code))

    def failed(self, why: str) -> None:
        from opentelemetry.trace import StatusCode

        self._span.set_attribute("error.type", why)
        self._span.set_status(StatusCode.ERROR)


class _Exported(Tracing):
    def __init__(self, provider: Any) -> None:
        from opentelemetry.trace import SpanKind
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider = provider
        self._tracer = provider.get_tracer("loadtests")
        self._kinds = SpanKind
        self._read = TraceContextTextMapPropagator().extract

    @contextlib.contextmanager
    def client(self, method: str, name: str, url: str) -> Iterator[Span]:
        facts = {"http.request.method": method, "url.full": url}
        with self._span(f"{method} {name}", self._kinds.CLIENT, facts, None) as span:
            yield span

    def server(self, method: str, path: str, headers: Mapping[str, str]) -> contextlib.AbstractContextManager[Span]:
        parent = headers.get("traceparent", "")
        if not _SAMPLED.fullmatch(parent):
            return contextlib.nullcontext(Span())
        context = self._read({"traceparent": parent, "tracestate": headers.get("tracestate", "")})
        facts = {"http.request.method": method, "url.path": path}
        return self._span(method, self._kinds.SERVER, facts, context)

    @contextlib.contextmanager
    def _span(self, name: str, kind: Any, facts: Mapping[str, str], context: Any) -> Iterator[Span]:
        span = self._tracer.start_span(name, context=context, kind=kind, attributes=facts)
        made = _Real(span, kind is self._kinds.SERVER)
        try:
            yield made
        except BaseException as error:
            made.failed(type(error).__name__)
            raise
        finally:
            span.end()

    def close(self) -> None:
        self._provider.shutdown()


def tracing(service: str, endpoint: str = "", ratio: float = 1.0) -> Tracing:
    """Promises spans of this service, sent to an OTLP receiver over HTTP; none if nobody asks for them.

    Args:
        service: `service.name` of the spans.
        endpoint: the receiver's full URL, such as "http://127.0.0.1:4318/v1/traces"; without one, what the variables
            OTEL_EXPORTER_OTLP_TRACES_ENDPOINT and OTEL_EXPORTER_OTLP_ENDPOINT say.
        ratio: share of new traces that are sampled, 0 to 1.

    Raises:
        TracingError: they are asked for, and OpenTelemetry is not installed.
    """
    if not endpoint and not any(map(os.environ.get, WANTED)):
        return Tracing()
    try:
        return _Exported(_provider(service, endpoint, ratio))
    except ImportError as error:
        wanted = "opentelemetry-sdk opentelemetry-exporter-otlp-proto-http"
        raise TracingError(f"traces need OpenTelemetry: pip install {wanted} ({error})") from None


def _provider(service: str, endpoint: str, ratio: float) -> Any:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

    # The variables are read by the exporter itself.
    exporter = OTLPSpanExporter(endpoint=endpoint or None, timeout=PATIENCE)
    sampler = ParentBased(TraceIdRatioBased(ratio))
    provider = TracerProvider(resource=Resource.create({"service.name": service}), sampler=sampler)
    provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=DELAY))
    return provider
