"""The standard OTEL_* variables, read once into one frozen struct. Nothing else here looks at the environment.

A value that makes no sense is said in the log with the variable's name, never with a secret, and the default holds:
"the implementation MUST generate a warning and gracefully ignore the setting" (OpenTelemetry, environment variables).
"""

from __future__ import annotations

import base64
import logging
import math
from collections.abc import Mapping
from typing import Literal
from urllib.parse import unquote, urlsplit

import msgspec

__all__ = ["Environment", "Headers", "split_credentials"]

Kind = Literal["otlp", "grpc", "console", "none"]
log = logging.getLogger("router_tracing")

PROPAGATORS = ("tracecontext", "b3", "b3multi", "jaeger")
#: What OTEL_TRACES_SAMPLER may say, and what that means here; None: the ratio of OTEL_TRACES_SAMPLER_ARG.
SAMPLERS: dict[str, Literal["always", "never"] | None] = {
    "always_on": "always",
    "always_off": "never",
    "traceidratio": None,
    "parentbased_always_on": "always",
    "parentbased_always_off": "never",
    "parentbased_traceidratio": None,
}
#: Milliseconds; below, whoever set it most likely meant seconds, as some libraries read it.
_SHORT_TIMEOUT = 100


class Headers(dict[str, str]):
    """Fields sent with every request: they carry keys, so that no text of this object shows any."""

    def __repr__(self) -> str:
        return f"<{len(self)} headers>"

    __str__ = __repr__


def split_credentials(url: str) -> tuple[str, Headers]:
    """A URL without `user:password@`, so that it may be shown, and the header that stands for them."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "", Headers()
    user, at, place = parts.netloc.rpartition("@")
    if not at:
        return url, Headers()
    token = base64.b64encode(unquote(user).encode("utf-8", "replace")).decode()
    return parts._replace(netloc=place).geturl(), Headers(authorization=f"Basic {token}")


class Environment(msgspec.Struct, frozen=True, kw_only=True):
    """What the standard variables say; None or "" where they say nothing. Times are seconds."""

    #: OTEL_SDK_DISABLED.
    disabled: bool = False
    #: OTEL_TRACES_EXPORTER with OTEL_EXPORTER_OTLP_[TRACES_]PROTOCOL.
    export: Kind | None = None
    #: OTEL_EXPORTER_OTLP_[TRACES_]PROTOCOL is http/json.
    json: bool = False
    #: OTEL_TRACES_SAMPLER with OTEL_TRACES_SAMPLER_ARG: a ratio, or a word.
    sampling: Literal["always", "never"] | float | None = None
    #: Whether that sampler asks the parent first.
    parent_based: bool = True
    #: OTEL_PROPAGATORS, in order, as far as the router knows them.
    propagators: tuple[str, ...] | None = None
    #: OTEL_SERVICE_NAME.
    service: str = ""
    #: OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT, else OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT: characters.
    value_limit: int | None = None
    #: OTEL_BSP_MAX_QUEUE_SIZE, OTEL_BSP_MAX_EXPORT_BATCH_SIZE: spans.
    buffer: int | None = None
    batch: int = 512
    #: OTEL_BSP_SCHEDULE_DELAY.
    delay: float = 5.0
    #: OTEL_EXPORTER_OTLP_[TRACES_]TIMEOUT, at most OTEL_BSP_EXPORT_TIMEOUT.
    timeout: float = 10.0
    #: OTEL_EXPORTER_OTLP_TRACES_ENDPOINT, and OTEL_EXPORTER_OTLP_ENDPOINT, to which a path is added; user and password
    #: stand in the headers.
    traces_endpoint: str = ""
    base_endpoint: str = ""
    #: OTEL_EXPORTER_OTLP_[TRACES_]HEADERS, COMPRESSION, CERTIFICATE, CLIENT_KEY, CLIENT_CERTIFICATE, INSECURE.
    headers: Headers = msgspec.field(default_factory=Headers)
    compression: Literal["", "gzip", "deflate"] = ""
    certificate: str = ""
    client_key: str = ""
    client_certificate: str = ""
    insecure: bool = False

    @classmethod
    def read(cls, variables: Mapping[str, str]) -> Environment:
        """Reads variables such as `os.environ`; warns of bad values and never raises."""
        read = _Reader(variables)
        export, json = _export(read)
        timeouts = read.milliseconds(10_000, "OTLP_TIMEOUT"), read.milliseconds(30_000, "OTEL_BSP_EXPORT_TIMEOUT")
        queue = read.whole(None, "OTEL_BSP_MAX_QUEUE_SIZE")
        own, own_login = split_credentials(read.text("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"))
        base, base_login = split_credentials(read.text("OTEL_EXPORTER_OTLP_ENDPOINT"))
        return cls(
            disabled=read.true("OTEL_SDK_DISABLED"),
            export=export,
            json=json,
            sampling=_sampling(read),
            parent_based=not read.text("OTEL_TRACES_SAMPLER").startswith(("always", "traceid")),
            propagators=_propagators(read),
            service=read.text("OTEL_SERVICE_NAME"),
            value_limit=_value_limit(read),
            buffer=queue,
            batch=min(read.whole(512, "OTEL_BSP_MAX_EXPORT_BATCH_SIZE") or 512, queue or 8192),
            delay=read.milliseconds(5_000, "OTEL_BSP_SCHEDULE_DELAY"),
            timeout=min(timeouts),
            traces_endpoint=own,
            base_endpoint=base,
            headers=Headers((own_login if own else base_login) | _headers(read)),
            compression=_compression(read),
            certificate=read.text("OTLP_CERTIFICATE"),
            client_key=read.text("OTLP_CLIENT_KEY"),
            client_certificate=read.text("OTLP_CLIENT_CERTIFICATE"),
            insecure=read.true("OTLP_INSECURE"),
        )


class _Reader:
    """Variables by name; "OTLP_X" stands for OTEL_EXPORTER_OTLP_TRACES_X, else OTEL_EXPORTER_OTLP_X. Empty is unset."""

    __slots__ = ("variables",)

    def __init__(self, variables: Mapping[str, str]) -> None:
        self.variables = variables

    def name(self, name: str) -> str:
        """The name of the variable that counts, for messages."""
        if not name.startswith("OTLP_"):
            return name
        word = name.removeprefix("OTLP_")
        own = f"OTEL_EXPORTER_OTLP_TRACES_{word}"
        return own if self.variables.get(own, "").strip() else f"OTEL_EXPORTER_OTLP_{word}"

    def text(self, name: str) -> str:
        return self.variables.get(self.name(name), "").strip()

    def true(self, name: str) -> bool:
        word = self.text(name).lower()
        if word not in ("", "true", "false"):
            self.warn(name, f"{word[:40]!r} is neither true nor false", "false")
        return word == "true"

    def whole(self, default: int | None, name: str, least: int = 1) -> int | None:
        """A whole number of at least `least`."""
        text = self.text(name)
        if not text:
            return default
        if text.isascii() and text.isdecimal() and len(text) < 16 and int(text) >= least:
            return int(text)
        self.warn(name, f"{text[:40]!r} is no whole number from {least} on", default)
        return default

    def milliseconds(self, default: int, name: str) -> float:
        """Seconds of a variable in milliseconds."""
        number = self.whole(default, name) or default
        if number < _SHORT_TIMEOUT and name.endswith("TIMEOUT"):
            log.warning("%s=%d counts milliseconds: few collectors answer so soon", self.name(name), number)
        return number / 1000

    def words(self, name: str) -> list[str]:
        """The words of a comma-separated list."""
        return [word for each in self.text(name).split(",") if (word := each.strip())]

    def warn(self, name: str, what: str, default: object) -> None:
        held = "it is ignored" if default is None else f"{default} holds"
        log.warning("the environment variable %s is not usable: %s; %s", self.name(name), what, held)


def _export(read: _Reader) -> tuple[Kind | None, bool]:
    """Where to, and whether in JSON."""
    protocol = read.text("OTLP_PROTOCOL").lower()
    if protocol not in ("", "grpc", "http/protobuf", "http/json"):
        read.warn("OTLP_PROTOCOL", f"{protocol[:40]!r} is none of grpc, http/protobuf, http/json", "http/protobuf")
    over: Kind = "grpc" if protocol == "grpc" else "otlp"
    kinds: dict[str, Kind] = {"otlp": over, "console": "console", "none": "none"}
    words = [word.lower() for word in read.words("OTEL_TRACES_EXPORTER")]
    known = [word for word in words if word in kinds]
    if len(known) > 1 or known != words:
        read.warn("OTEL_TRACES_EXPORTER", "one of otlp, console, none is understood", known[0] if known else "otlp")
    chosen = kinds[known[0]] if known else over if protocol else None
    return chosen, protocol == "http/json"


def _sampling(read: _Reader) -> Literal["always", "never"] | float | None:
    name = read.text("OTEL_TRACES_SAMPLER").lower()
    if not name:
        return None
    if name not in SAMPLERS:
        read.warn("OTEL_TRACES_SAMPLER", f"{name[:40]!r} is none of {', '.join(SAMPLERS)}", None)
        return None
    return SAMPLERS[name] or _ratio(read)


def _ratio(read: _Reader) -> float:
    text = read.text("OTEL_TRACES_SAMPLER_ARG")
    try:
        ratio = float(text or 1.0)
    except ValueError:
        ratio = math.nan
    if 0.0 <= ratio <= 1.0:
        return ratio
    read.warn("OTEL_TRACES_SAMPLER_ARG", f"{text[:40]!r} is no number from 0 to 1", 1.0)
    return 1.0


def _propagators(read: _Reader) -> tuple[str, ...] | None:
    """Those that the router knows; baggage needs nobody: its field is passed on as it is."""
    words = [word.lower() for word in read.words("OTEL_PROPAGATORS")]
    if not words:
        return None
    unknown = [word for word in words if word not in (*PROPAGATORS, "baggage", "none")]
    if unknown:
        read.warn("OTEL_PROPAGATORS", f"{', '.join(unknown)[:80]!r} is not known here", "the rest")
    known = tuple(dict.fromkeys(word for word in words if word in PROPAGATORS))
    return None if unknown and not known else known


def _value_limit(read: _Reader) -> int | None:
    own = read.whole(None, "OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT", least=0)
    return own if own is not None else read.whole(None, "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", least=0)


def _compression(read: _Reader) -> Literal["", "gzip", "deflate"]:
    word = read.text("OTLP_COMPRESSION").lower()
    known: dict[str, Literal["", "gzip", "deflate"]] = {"": "", "none": "", "gzip": "gzip", "deflate": "deflate"}
    if word not in known:
        read.warn("OTLP_COMPRESSION", f"{word[:40]!r} is none of none, gzip, deflate", "none")
    return known.get(word, "")


def _headers(read: _Reader) -> Headers:
    """`name=value,name=value`, values percent-encoded (W3C baggage). A bad one is told by its place only."""
    found = Headers()
    for place, word in enumerate(read.words("OTLP_HEADERS"), 1):
        name, equals, value = (each.strip() for each in word.partition("="))
        value = unquote(value)
        usable = equals and name.isascii() and name.replace("-", "").replace("_", "").replace(".", "").isalnum()
        if usable and value.isascii() and value.isprintable():
            found[name.lower()] = value
        else:
            read.warn("OTLP_HEADERS", f"entry {place} is no name=value that a header can hold", None)
    return found
