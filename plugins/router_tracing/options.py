"""What `tracing` can be told, and every reason to refuse it. What is left out, the OTEL_* variables say."""

from __future__ import annotations

import re
from typing import Annotated, Literal
from urllib.parse import urlsplit

import msgspec

from router import Options
from router_tracing.address import read_address
from router_tracing.contexts import FORMATS

__all__ = ["Keep", "TracingOptions"]

_MOST_BUFFER = 1 << 20
_DURATION = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(ms|s|m|h)")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_RULES = 'keep holds "errors", "retried" and "slower:500ms", with any duration'

Kind = Literal["otlp", "grpc", "console", "file", "none"]


class Keep(msgspec.Struct, frozen=True):
    """Which exchanges are kept whatever the ratio."""

    errors: bool = False
    retried: bool = False
    #: Seconds.
    slower: float = float("inf")

    @classmethod
    def read(cls, words: tuple[str, ...]) -> Keep:
        """Reads words such as "slower:500ms".

        Raises:
            ValueError: one of them is no rule.
        """
        slower = float("inf")
        for word in words:
            name, colon, rest = word.partition(":")
            if word in ("errors", "retried"):
                continue
            if name != "slower" or not colon:
                raise ValueError(f'{_RULES}; "{word[:40]}" is none of them')
            slower = min(slower, _duration(rest))
        return cls("errors" in words, "retried" in words, slower)

    def __bool__(self) -> bool:
        return self.errors or self.retried or self.slower != float("inf")


def _duration(text: str) -> float:
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError(f'{_RULES}; "slower:{text[:40]}" has no duration')
    return float(match[1]) * _UNITS[match[2]]


class TracingOptions(Options, frozen=True):
    """Which requests are traced, and where their spans go.

    Args:
        sampling: the share of new traces that is recorded, 0 to 1, where the client says nothing; "always" and "never"
            ask no client. OTEL_TRACES_SAMPLER, else 0.01.
        keep: what is recorded whatever the ratio, decided at the end: "errors", "retried", "slower:500ms".
        export: "otlp" (HTTP), "grpc", "console", "file" or "none". OTEL_TRACES_EXPORTER, else otlp.
        endpoint: URL of the collector, path and all. OTEL_EXPORTER_OTLP_ENDPOINT, else http://localhost:4318/v1/traces.
        file: with export = "file": one OTLP request in JSON a line; relative ones start at the configuration's folder.
        service: the name that traces show. OTEL_SERVICE_NAME, else "router".
        propagators: "tracecontext", "b3", "b3multi", "jaeger". OTEL_PROPAGATORS, else tracecontext.
        parent: whose trace context is believed: everybody's ("honour"), that of trusted proxies ("trusted"), nobody's
            ("ignore").
        query: what becomes of the values of queries: "redact", "keep", or "drop" with their names.
        viewer: an address such as "127.0.0.1:16687": a page of the last traces, kept in memory.
        buffer: spans that wait for the collector. OTEL_BSP_MAX_QUEUE_SIZE, else 8192.
    """

    sampling: Annotated[float, msgspec.Meta(ge=0, le=1)] | Literal["always", "never"] | None = None
    keep: tuple[str, ...] = ()
    export: Kind | None = None
    endpoint: str = ""
    file: str = ""
    service: str = ""
    propagators: tuple[Literal["tracecontext", "b3", "b3multi", "jaeger"], ...] | None = None
    parent: Literal["honour", "trusted", "ignore"] = "honour"
    query: Literal["redact", "keep", "drop"] = "redact"
    viewer: str = ""
    buffer: Annotated[int, msgspec.Meta(ge=1, le=_MOST_BUFFER)] | None = None

    def __post_init__(self) -> None:
        Keep.read(self.keep)
        if self.propagators is not None and not set(self.propagators) <= FORMATS.keys():
            raise ValueError(f"propagators holds some of {', '.join(FORMATS)}")
        if self.endpoint:
            _check_endpoint(self.endpoint)
        if self.endpoint and self.export not in (None, "otlp", "grpc"):
            raise ValueError(f'endpoint means nothing with export = "{self.export}": leave one of them out')
        if bool(self.file) != (self.export == "file"):
            raise ValueError('export = "file" and file = "traces.jsonl" go together: set both, or leave both out')
        if "\0" in self.file or not self.service.isprintable() or len(self.service) > 255:
            raise ValueError("file names a file, and service is a name of at most 255 printable characters")
        if self.viewer:
            read_address(self.viewer)


def _check_endpoint(url: str) -> None:
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good or re.search(r"[^!-~]|#", url):
        raise ValueError('endpoint is a URL such as "http://127.0.0.1:4318/v1/traces"')
    if "@" in parts.netloc:
        raise ValueError("endpoint holds no user name or password: put them into OTEL_EXPORTER_OTLP_HEADERS")
