"""Plain data with slots: what the router talks about. No decisions, no I/O.

The words are those of the README: endpoint, exchange, attempt, outcome. Whoever holds one of these objects may read
it; each has one writer, which its docstring names. The endpoint's own classes stand in endpoints.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import msgspec

from router.endpoints import Address, Candidates, Endpoint, EndpointSpec, Members, parse_address

__all__ = [
    "Address",
    "Attempt",
    "Candidates",
    "Certificate",
    "Eject",
    "Endpoint",
    "EndpointSpec",
    "Exchange",
    "Members",
    "Outcome",
    "Response",
    "parse_address",
]

RawHeaders = tuple[tuple[bytes, bytes], ...]


class Exchange:
    """One client request and its response, with what was decided about it.

    Written by net/forward.py and policy/dispatch.py; plugins read it, and may keep notes of their own in `marks`.
    """

    __slots__ = (
        "client",
        "deadline",
        "headers",
        "host",
        "id",
        "key",
        "listener",
        "marks",
        "method",
        "path",
        "pinned",
        "pool",
        "query",
        "raw_headers",
        "route",
        "scheme",
        "started",
        "status",
        "target",
        "tried",
        "version",
    )

    def __init__(
        self,
        *,
        method: str,
        target: str,
        host: str = "",
        headers: Mapping[str, str] | None = None,
        raw_headers: RawHeaders = (),
        client: str = "",
        scheme: str = "http",
        started: float = 0.0,
        version: tuple[int, int] = (1, 1),
    ) -> None:
        self.method = method
        #: The request target as the client sent it, in origin form: path and query, bytes unchanged.
        self.target = target
        path, mark, query = target.partition("?")
        self.path = path
        #: None without a question mark, "" after a bare one.
        self.query: str | None = query if mark else None
        self.host = host
        #: Case-insensitive mapping; several fields of one name are all in `raw_headers`.
        self.headers: Mapping[str, str] = {} if headers is None else headers
        self.raw_headers = raw_headers
        #: Address of the client: the peer, or what trusted proxies vouch for.
        self.client = client
        self.scheme = scheme
        #: Seconds of the router's clock.
        self.started = started
        self.deadline = float("inf")
        self.version = version
        self.id = ""
        self.listener = ""
        self.route: Any = None
        #: Name of the pool.
        self.pool = ""
        #: Endpoints tried so far, in order.
        self.tried: tuple[Endpoint, ...] = ()
        #: What affinity named, whether usable or not.
        self.pinned: Endpoint | None = None
        #: The selector's hash key, asked once.
        self.key: int | None = None
        self.status = 0
        self.marks: dict[str, Any] | None = None

    def header(self, name: str) -> str | None:
        """First value of a request header, or None. `name` in any case."""
        return self.headers.get(name)

    def __repr__(self) -> str:
        return f"<Exchange {self.id} {self.method} {self.target!r} pool={self.pool!r} tried={len(self.tried)}>"


class Attempt:
    """One try of an exchange at one endpoint; while `open`, it is the lease. Written by policy/dispatch.py.

    Dispatch hands it to the driver as the order to send: there is no other object for that.
    """

    __slots__ = (
        "endpoint",
        "final",
        "head_at",
        "hedge_after",
        "number",
        "open",
        "sent_at",
        "started",
        "status",
        "timeout",
    )

    def __init__(
        self,
        endpoint: Endpoint,
        number: int,
        started: float,
        timeout: float,
        hedge_after: float | None = None,
    ) -> None:
        self.endpoint = endpoint
        #: 0 for the first try.
        self.number = number
        self.started = started
        #: Seconds that the response head may take, from now.
        self.timeout = timeout
        #: Seconds after which `next` wants to be asked again, or None.
        self.hedge_after = hedge_after
        self.open = True
        self.sent_at = started
        self.head_at: float | None = None
        self.status = 0
        #: Set at the head if that already decides the outcome.
        self.final: Outcome | None = None

    def __repr__(self) -> str:
        state = "open" if self.open else "closed"
        return f"<Attempt {self.number} at {self.endpoint.identity} {state} status={self.status}>"


class Outcome:
    """What an attempt came to; told once, when its lease closes."""

    __slots__ = ("elapsed", "error", "phase", "result", "sent", "status")

    def __init__(
        self,
        result: Literal["success", "failure", "neutral"],
        *,
        phase: str = "",
        sent: bool = True,
        elapsed: float | None = None,
        status: int = 0,
        error: Exception | None = None,
    ) -> None:
        self.result = result
        #: "connect", "head" or "body" for a failure, else "".
        self.phase = phase
        self.sent = sent
        #: Seconds from send to head; None if there was no head.
        self.elapsed = elapsed
        self.status = status
        self.error = error

    def __repr__(self) -> str:
        where = f" in {self.phase}" if self.phase else ""
        return f"<Outcome {self.result}{where} status={self.status} error={self.error!r}>"


class Eject(NamedTuple):
    """A detector's verdict: take this endpoint out for a while. The core decides for how long."""

    cause: str
    #: True for failures of the connection itself: those may eject all but the last endpoint.
    connection: bool = False


class Response(msgspec.Struct, frozen=True):
    """An answer that a filter gives in place of an endpoint."""

    status: int
    body: bytes = b""
    headers: tuple[tuple[bytes, bytes], ...] = ()


class Certificate(msgspec.Struct, frozen=True):
    """A certificate chain and its key, as PEM text or as paths. Its repr never shows the key."""

    names: tuple[str, ...]
    chain: str
    key: str
    #: Seconds since the epoch.
    not_after: float

    def __repr__(self) -> str:
        return f"Certificate(names={self.names!r}, not_after={self.not_after:.0f})"
