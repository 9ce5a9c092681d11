"""Sends spans by OTLP over gRPC; needs the extra `grpc`. The same bytes as over HTTP, and the same verdicts.

The library's gRPC exporter is not used, for the reasons in otlp.py: it tells no refusal from an outage.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from router_tracing.otlp import Target, check_tls, encode_gently, rejected_in
from router_tracing.otlp_encode import Encoder
from router_tracing.span import Span, Verdict

__all__ = ["OtlpGrpc"]

METHOD = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
#: OTLP specification, OTLP/gRPC: failures. RESOURCE_EXHAUSTED is a full queue, unless it is the size of the message.
RETRYABLE = frozenset(
    {
        "CANCELLED",
        "DEADLINE_EXCEEDED",
        "RESOURCE_EXHAUSTED",
        "ABORTED",
        "OUT_OF_RANGE",
        "UNAVAILABLE",
        "DATA_LOSS",
    }
)
#: The sender waits between tries; that the channel does so as well, up to two minutes, would only add to it.
_OPTIONS = (
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 1000),
)


class OtlpGrpc:
    """An exporter. Attributes: as those of OtlpHttp; `retry_after` stays 0."""

    __slots__ = ("_call", "_channel", "_encoder", "_metadata", "_rpc_error", "_timeout", "rejected", "too_large")

    retry_after = 0.0

    def __init__(self, target: Target, encoder: Encoder) -> None:
        """Raises ValueError without the package, and for a file that cannot be used."""
        try:
            # Not by statement: the package is not there to be checked where the extra is not installed.
            library: Any = importlib.import_module("grpc")
        except ImportError:
            raise ValueError("spans by gRPC need a package: pip install 'edge-router[grpc]'") from None
        self._encoder = encoder
        self._timeout = target.timeout
        self._metadata = tuple(target.headers.items())
        self._rpc_error: type[Exception] = library.RpcError
        self._channel = _open(library, target)
        # Neither way a serializer: what goes out is bytes already, what comes back has two fields.
        self._call = self._channel.unary_unary(METHOD)
        self.rejected, self.too_large = 0, False

    def export(self, spans: list[Span]) -> tuple[Verdict, str]:
        """Sends one batch once; see Exporter."""
        self.rejected, self.too_large = 0, False
        try:
            answer = self._call(encode_gently(self._encoder, spans), timeout=self._timeout, metadata=self._metadata)
        except self._rpc_error as error:
            return self._judge(error)
        except Exception as error:  # such as a header that gRPC does not take
            return "refused", f"{type(error).__name__} while it was sent"
        self.rejected, why = rejected_in(answer, "")
        return "taken", why

    def close(self) -> None:
        self._channel.close()

    def _judge(self, error: Any) -> tuple[Verdict, str]:
        name, details = error.code().name, error.details() or ""
        self.too_large = name == "RESOURCE_EXHAUSTED" and "larger than max" in details
        verdict: Verdict = "later" if name in RETRYABLE and not self.too_large else "refused"
        return verdict, f"gRPC status {name}"


def _open(library: Any, target: Target) -> Any:
    parts = urlsplit(target.endpoint)
    compression = library.Compression.Gzip if target.compression == "gzip" else library.Compression.NoCompression
    settings = {"options": _OPTIONS, "compression": compression}
    if parts.scheme != "https":
        return library.insecure_channel(parts.netloc, **settings)
    check_tls(target)
    names = target.certificate, target.client_key or target.client_certificate, target.client_certificate
    files = [Path(name).read_bytes() if name else None for name in names]
    return library.secure_channel(parts.netloc, library.ssl_channel_credentials(*files), **settings)
