"""The shape of a configuration: frozen structs, one per table, with every default.

Only shapes live here. Reading files stands in configfile.py, checks across tables in configcheck.py. Keys that have no
effect yet do not exist here, so they are refused rather than ignored.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from router.model import EndpointSpec
from router.units import (
    Duration,
    HedgeDelay,
    Share,
    Size,
    SizeLimit,
    parse_duration,
    parse_hedge_delay,
    parse_share,
    parse_size,
    parse_size_limit,
)

__all__ = [
    "AnswerConfig",
    "Config",
    "Duration",
    "EjectionConfig",
    "EndpointTls",
    "HeadersConfig",
    "HedgeDelay",
    "LimitsConfig",
    "ListenerConfig",
    "ListenerTimeouts",
    "ListenerTls",
    "PluginRef",
    "PluginsConfig",
    "PoolConfig",
    "PoolShare",
    "PoolTimeouts",
    "RetryConfig",
    "RewriteConfig",
    "RouteConfig",
    "ServerConfig",
    "Share",
    "Size",
    "SizeLimit",
    "SlowStartConfig",
    "parse_duration",
    "parse_hedge_delay",
    "parse_share",
    "parse_size",
    "parse_size_limit",
]

#: A name, "package.module:Name", or a table { use = name, ...options }.
PluginRef = str | dict[str, Any]


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    def __repr__(self) -> str:
        # Options of plugins hold secrets.
        name = getattr(self, "name", "")
        return f"{type(self).__name__}({name!r}, ...)" if name else f"{type(self).__name__}(...)"


class ServerConfig(_Table, frozen=True):
    shutdown_timeout: Duration = Duration(30)
    drain_delay: Duration = Duration(0)
    zone: str = ""
    trusted_proxies: tuple[str, ...] = ()
    #: Whether the Forwarded field (RFC 7239) is written beside X-Forwarded-*.
    forwarded: bool = False
    health_path: str = ""
    #: The socket that `router status` and its like ask; relative to the configuration's folder; "" for none.
    control: str = ""
    max_header_bytes: Size = Size(32 << 10)
    max_headers: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 128


class ListenerTimeouts(_Table, frozen=True):
    handshake: Duration = Duration(10)
    header: Duration = Duration(10)
    idle: Duration = Duration(75)
    stream: Duration = Duration(60)


class ListenerTls(_Table, frozen=True):
    """How a listener speaks TLS. Files are relative to the configuration's folder."""

    certificates: tuple[PluginRef, ...]
    #: Mozilla's: TLS 1.2 and 1.3, or 1.3 alone.
    profile: Literal["intermediate", "modern"] = "intermediate"
    #: A name whose certificate is shown to clients that ask for an unknown name or none.
    default: str = "refuse"
    client_auth: Literal["off", "optional", "required"] = "off"
    client_ca: str = ""


class ListenerConfig(_Table, frozen=True):
    bind: str
    tls: ListenerTls | None = None
    #: Answers everything with the same address on the first listener with TLS.
    redirect_to_https: bool = False
    #: The value of Strict-Transport-Security (RFC 6797).
    hsts: str = ""
    max_connections: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 10_000
    timeouts: ListenerTimeouts = ListenerTimeouts()


class PoolShare(_Table, frozen=True):
    """A pool's part of a route's requests, as large as its weight among all of the route's."""

    name: str
    weight: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 1


class RewriteConfig(_Table, frozen=True):
    """What an endpoint is asked for in place of what the client asked for."""

    strip_prefix: str = ""
    #: What stands in place of the stripped prefix; without one, what is put before every path.
    replace_prefix: str = ""
    host: str = ""


class HeadersConfig(_Table, frozen=True):
    set: dict[str, str] = {}
    remove: tuple[str, ...] = ()


class AnswerConfig(_Table, frozen=True):
    """What a route answers itself."""

    #: None: 308 with a redirect, else 200.
    status: Annotated[int, msgspec.Meta(ge=200, le=599)] | None = None
    body: str = ""
    redirect: str = ""


class RouteConfig(_Table, frozen=True):
    #: A route has exactly one of `pool`, `pools` and `answer`.
    pool: str = ""
    name: str = ""
    host: str | tuple[str, ...] = ()
    path: str | tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    headers: dict[str, str] = {}
    query: dict[str, str] = {}
    timeout: Duration = Duration("inf")
    filters: tuple[PluginRef, ...] = ()
    pools: tuple[PoolShare, ...] = ()
    #: "random", "client", "header:x" or "cookie:x"
    split_by: str = "random"
    max_body: SizeLimit = SizeLimit("inf")
    rewrite: RewriteConfig = RewriteConfig()
    request_headers: HeadersConfig = HeadersConfig()
    response_headers: HeadersConfig = HeadersConfig()
    answer: AnswerConfig | None = None


class PoolTimeouts(_Table, frozen=True):
    connect: Duration = Duration(2)
    head: Duration = Duration(30)
    stream: Duration = Duration(60)


class RetryConfig(_Table, frozen=True):
    attempts: Annotated[int, msgspec.Meta(ge=0, le=20)] = 2
    on: tuple[str, ...] = ("connect", "reset", "timeout")
    attempt_timeout: Duration = Duration("inf")
    buffer: Size = Size(64 << 10)
    budget: Share = Share(0.2)
    reserve: Annotated[int, msgspec.Meta(ge=0, le=100_000)] = 10
    hedge_after: HedgeDelay = HedgeDelay("none")


class LimitsConfig(_Table, frozen=True):
    #: 0 stands for "no limit".
    in_flight: Annotated[int, msgspec.Meta(ge=0)] = 0
    in_flight_per_endpoint: Annotated[int, msgspec.Meta(ge=0)] = 0
    queue: Annotated[int, msgspec.Meta(ge=0)] = 0
    queue_timeout: Duration = Duration(1)
    #: Finds the limit of each endpoint out; in_flight_per_endpoint then is what it may rise to.
    adaptive: Literal["none", "gradient", "aimd"] = "none"


class SlowStartConfig(_Table, frozen=True):
    #: How long an endpoint that comes back takes to its full weight; 0 for at once.
    window: Duration = Duration(0)
    #: The share of its weight that it begins with.
    min: Share = Share(0.1)


class EjectionConfig(_Table, frozen=True):
    base: Duration = Duration(30)
    max: Duration = Duration(300)
    max_share: Share = Share(0.1)


class EndpointTls(_Table, frozen=True):
    """How endpoints with https:// are verified, and what the router shows them."""

    #: A file of CAs; the system's without one.
    ca: str = ""
    #: The name that certificates have to be for; the host of the endpoint's URL without one.
    server_name: str = ""
    certificate: str = ""
    key: str = ""
    verify: Literal["full", "none"] = "full"


class PoolConfig(_Table, frozen=True):
    name: str
    #: May be empty where `discovery` finds some; both mix.
    endpoints: tuple[str | EndpointSpec, ...] = ()
    discovery: PluginRef = ""
    selection: PluginRef = "least_request"
    affinity: PluginRef = ""
    probe: PluginRef = ""
    detectors: tuple[PluginRef, ...] = ("consecutive",)
    ejection: EjectionConfig = EjectionConfig()
    when_few_ready: Literal["try_all", "refuse"] = "try_all"
    few_ready: Share = Share(0)
    slow_start: SlowStartConfig = SlowStartConfig()
    #: How long requests under way at an endpoint that was removed may take.
    drain_timeout: Duration = Duration(60)
    prefer_zone: bool = False
    timeouts: PoolTimeouts = PoolTimeouts()
    limits: LimitsConfig = LimitsConfig()
    retry: RetryConfig = RetryConfig()
    tls: EndpointTls | None = None


class PluginsConfig(_Table, frozen=True):
    disable: tuple[str, ...] = ()
    strict: bool = False


class Config(_Table, frozen=True):
    """One complete configuration. Equal values mean: nothing to reload."""

    listeners: tuple[ListenerConfig, ...]
    routes: tuple[RouteConfig, ...]
    pools: tuple[PoolConfig, ...]
    server: ServerConfig = ServerConfig()
    observers: tuple[PluginRef, ...] = ()
    services: tuple[PluginRef, ...] = ()
    plugins: PluginsConfig = PluginsConfig()
