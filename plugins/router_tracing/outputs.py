"""Where spans go: `make_exporter`, the outputs that need no network, and who is said to send them (the resource).

What spans carry came from clients: on a terminal it is shown escaped.
"""

from __future__ import annotations

import datetime
import errno
import importlib.metadata
import json
import os
import stat
import sys
import uuid
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from router_tracing.environment import Environment, Headers, split_credentials
from router_tracing.otlp_encode import Encoder
from router_tracing.otlp_json import JsonEncoder
from router_tracing.span import Attributes, Exporter, Span, Verdict

__all__ = ["Console", "File", "Nowhere", "make_exporter", "resource_of"]

KINDS = ("otlp", "grpc", "console", "file", "none")
SCOPE = "router_tracing"
#: Where a receiver listens by the specification.
_PORTS = {"otlp": 4318, "grpc": 4317}


def make_exporter(kind: str, *, endpoint: str, file: Path | None, service: str, environment: Environment) -> Exporter:
    """The exporter of this kind. "" or None leaves a matter to the environment, then to the default.

    kind: otlp, grpc, console, file or none. endpoint: the whole URL. file: for the kind `file`. service: service.name.
    Raises ValueError, with the place and the remedy, for anything that cannot work.
    """
    kind = kind or environment.export or "otlp"
    if kind == "console":
        return Console()
    if kind == "none":
        return Nowhere()
    if kind not in KINDS:
        raise ValueError(f"export: {kind!r} is not known; one of {', '.join(KINDS)}")
    resource, scope = resource_of(service, environment), (SCOPE, _version())
    if kind == "file":
        if file is None:
            raise ValueError('file: names none, but export is "file"; set file = "traces.jsonl"')
        return File(file, JsonEncoder(resource, scope))
    # These bring libraries that take a while to import.
    from router_tracing.otlp import OtlpHttp

    target = _target(kind, endpoint, environment)
    if kind == "otlp":
        return OtlpHttp(target, (JsonEncoder if environment.json else Encoder)(resource, scope))
    from router_tracing.grpc import OtlpGrpc

    return OtlpGrpc(target, Encoder(resource, scope))


def _target(kind: str, endpoint: str, environment: Environment) -> Any:
    from router_tracing.otlp import Target

    url, place, login = _url(kind, endpoint, environment)
    _check_url(url, place)
    return Target(
        endpoint=url,
        headers=Headers(login | environment.headers),
        timeout=environment.timeout,
        compression=environment.compression,
        certificate=environment.certificate,
        client_key=environment.client_key,
        client_certificate=environment.client_certificate,
    )


def _url(kind: str, endpoint: str, environment: Environment) -> tuple[str, str, Headers]:
    """The URL of the receiver, what set it, and the header for a user and password in it."""
    path = "/v1/traces" if kind == "otlp" else ""
    if endpoint:
        url, login = split_credentials(endpoint)
        return url, "endpoint", login
    if environment.traces_endpoint:
        return (
            _with_scheme(kind, environment.traces_endpoint, environment),
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
            Headers(),
        )
    if environment.base_endpoint:
        base = _with_scheme(kind, environment.base_endpoint, environment)
        # As it was written, or the remedy would name a path that is added to it.
        _check_url(base, "OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{_PORTS[kind]}")
        return base.rstrip("/") + path, "OTEL_EXPORTER_OTLP_ENDPOINT", Headers()
    return f"http://localhost:{_PORTS[kind]}{path}", "endpoint", Headers()


def _with_scheme(kind: str, url: str, environment: Environment) -> str:
    """For gRPC a bare `host:port` is usual; OTEL_EXPORTER_OTLP_INSECURE says then whether TLS is spoken."""
    if kind == "otlp" or "://" in url:
        return url
    return f"http{'' if environment.insecure else 's'}://{url}"


def _check_url(url: str, place: str, example: str = "http://127.0.0.1:4318/v1/traces") -> None:
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.hostname and (parts.port is None or parts.port > 0)
    except ValueError:
        usable = False
    if not usable or not url.isascii() or not url.isprintable() or " " in url:
        raise ValueError(f"{place}: {url[:200]!r} is no URL of a receiver, such as {example}")


def _version() -> str:
    try:
        return importlib.metadata.version("edge-router")
    except importlib.metadata.PackageNotFoundError:  # run from a source tree that was never installed
        return "0"


#: One for all that this process sends, whatever observer it is from.
_INSTANCE = str(uuid.uuid4())


def resource_of(service: str, environment: Environment) -> dict[str, Any]:
    """The attributes of the resource. What OTEL_RESOURCE_ATTRIBUTES says holds, but for the configured service name."""
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource

    own = {"service.version": _version(), "service.instance.id": _INSTANCE}
    found = {**Resource.create(own).attributes, **OTELResourceDetector().detect().attributes}
    if service or environment.service:
        found["service.name"] = service or environment.service
    elif str(found.get("service.name", "")).startswith("unknown_service"):
        found["service.name"] = "router"
    return found


class Nowhere:
    """Takes spans to nobody."""

    def export(self, spans: list[Span]) -> tuple[Verdict, str]:
        return "taken", ""

    def close(self) -> None: ...


class Console:
    """One line per span on stdout, where OpenTelemetry's console exporters write; the log goes to stderr."""

    def __init__(self, stream: IO[str] | None = None) -> None:
        """`stream`: another than the stdout of the moment."""
        self._stream = stream

    def export(self, spans: list[Span]) -> tuple[Verdict, str]:
        stream = self._stream or sys.stdout
        try:
            stream.write("".join([line_of(span) + "\n" for span in spans]))
            stream.flush()
        except (OSError, ValueError, AttributeError) as error:  # full, closed, or none at all
            return "refused", f"stdout: {getattr(error, 'strerror', None) or type(error).__name__}"
        return "taken", ""

    def close(self) -> None: ...


def line_of(span: Span) -> str:
    """A span as one line of printable ASCII."""
    at = datetime.datetime.fromtimestamp(span.start / 1e9, datetime.UTC).isoformat(timespec="milliseconds")
    words = [
        at.replace("+00:00", "Z"),
        f"{(span.end - span.start) / 1e6:.1f}ms",
        span.kind,
        json.dumps(span.name),
        *([f"error={_shown(span.error)}"] if span.error is not None else []),
        f"trace={span.trace_id}",
        f"span={span.span_id}",
        *([f"parent={span.parent_id}"] if span.parent_id else []),
        *_shown_all(span.attributes),
        *(_event(event.name, event.at - span.start, event.attributes) for event in span.events),
    ]
    return " ".join(words)


def _event(name: str, after: int, attributes: Attributes) -> str:
    inner = "".join(f" {each}" for each in _shown_all(attributes))
    return f"[{_shown(name)} +{after / 1e6:.1f}ms{inner}]"


def _shown_all(attributes: Attributes) -> list[str]:
    return [f"{_shown(key)}={_shown(value)}" for key, value in attributes]


def _shown(value: Any) -> str:
    """Bare where it reads as one word; else as JSON, which escapes whatever a terminal might obey."""
    if isinstance(value, str) and value.isascii() and value.isprintable() and not set(value) & set(' "[]'):
        return value or '""'
    return json.dumps(value)


class File:
    """Appends one request of OTLP JSON a line. Opened for each batch, so that a rotated file is let go of."""

    def __init__(self, file: Path, encoder: JsonEncoder) -> None:
        """Raises ValueError if the file cannot be written."""
        self._file = file
        self._encoder = encoder
        # Nothing is written yet: `router check` makes this object too.
        target = file if file.exists() else file.parent
        why = "" if target.exists() else os.strerror(errno.ENOENT)
        if not why and not os.access(target, os.W_OK):
            why = os.strerror(errno.EACCES)
        if not why and target is file and not (file.is_file() or file.is_char_device()):
            why = os.strerror(errno.EISDIR) if file.is_dir() else "it is no regular file"
        if why:
            raise ValueError(f"file: {str(file)!r} cannot be written: {why}; name a file in a folder that is there")

    def _open(self) -> int:
        # Without blocking, as a pipe that nobody reads would; nor is any pipe taken, for a line may end in its middle.
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
        found = os.open(self._file, flags, 0o640)
        mode = os.fstat(found).st_mode
        if stat.S_ISREG(mode) or stat.S_ISCHR(mode):
            return found
        os.close(found)
        raise OSError(errno.EINVAL, "it is no regular file")

    def export(self, spans: list[Span]) -> tuple[Verdict, str]:
        pieces = [self._encoder.encode([span]) for span in spans]
        try:
            found = self._open()
            try:
                _append(found, self._encoder.request(pieces) + b"\n")
            finally:
                os.close(found)
        except OSError as error:
            return "later", f"{str(self._file)!r}: {error.strerror or type(error).__name__}"
        return "taken", ""

    def close(self) -> None: ...


def _append(found: int, data: bytes) -> None:
    """Writes all or nothing: what did not fit is taken back, for it will be written again whole."""
    before = os.fstat(found).st_size
    rest = memoryview(data)
    try:
        while rest:
            rest = rest[os.write(found, rest) :]
    except OSError:
        if stat.S_ISREG(os.fstat(found).st_mode):
            os.ftruncate(found, before)
        raise
