"""Plain data with slots: what the router talks about. No decisions, no I/O.

The words are those of the README: endpoint, exchange, attempt, outcome. Whoever holds one of these objects may read
it; each has one writer, which its docstring names. The endpoint's own classes stand in endpoints.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple

import msgspec

from router.endpoints import Address, Candidates, Endpoint, EndpointSpec, Members, parse_address
from router.explanation import Explanation

__all__ = [
    "Address",
    "Attempt",
    "Candidates",
    "Certificate",
    "Eject",
    "Endpoint",
    "EndpointSpec",
    "Exchange",
    "Headers",
    "Members",
    "Note",
    "Outcome",
    "Response",
    "parse_address",
]

RawHeaders = tuple[tuple[bytes, bytes], ...]

_COOKIE = re.compile(rb"\r\n(?i:cookie):[ \t]*([^\r\n]*)")


class Headers(Mapping[str, str]):
    """The fields of a request by name in any case; of several with one name the first. Immutable.

    Args:
        head: a whole request head, already found to be valid.
    """

    __slots__ = ("_values", "raw")

    def __init__(self, head: bytes) -> None:
        parts = [line.partition(b":") for line in head.split(b"\r\n")[1:] if line]
        #: All fields as sent, in order, without the blanks around their values.
        self.raw: RawHeaders = tuple((name, value.strip(b" \t")) for name, _, value in parts)
        self._values: dict[str, tuple[str, str]] = {}
        for name, value in self.raw:
            said = name.decode("latin-1")
            self._values.setdefault(said.lower(), (said, value.decode("utf-8", "surrogateescape")))

    def __getitem__(self, name: str) -> str:
        return self._values[name.lower()][1]

    def __iter__(self) -> Iterator[str]:
        return (name for name, _ in self._values.values())

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"Headers({dict(self)!r})"


class Note(NamedTuple):
    """Something out of the ordinary that happened to an exchange, for observers."""

    #: Seconds of the router's clock.
    at: float
    #: "queued", "left queue", "retry", "no retry", "hedge", "pin broken" or "panic".
    name: str
    #: In a few words.
    reason: str = ""
    #: The endpoint that it is about; "" for none.
    endpoint: str = ""


class Exchange(msgspec.Struct, eq=False):
    """One client request and its response, with what was decided about it.

    Written by net/ and policy/dispatch.py; plugins read it, and may keep notes of their own in `marks`.
    """

    method: str
    #: The request target in origin form: path and query, bytes unchanged.
    target: str
    #: The Host field, or the host of an absolute-form target; port and all.
    host: str = ""
    #: The head as it was sent; in origin form, and never without Host.
    head: bytes = b""
    #: Address of the client: the peer, or what trusted proxies vouch for.
    client: str = ""
    scheme: str = "http"
    #: Name of the listener.
    listener: str = ""
    version: tuple[int, int] = (1, 1)
    #: Seconds of the router's clock.
    started: float = 0.0
    #: X-Request-ID.
    id: str = ""
    deadline: float = float("inf")
    route: Any = None
    #: Name of the pool.
    pool: str = ""
    #: Endpoints tried so far, in order.
    tried: tuple[Endpoint, ...] = ()
    #: What affinity named, whether usable or not.
    pinned: Endpoint | None = None
    #: The selector's hash key, asked once.
    key: int | None = None
    keyed: bool = False
    #: Of the response; 0 before there is one.
    status: int = 0
    marks: dict[str, Any] | None = None
    #: Whole field lines, such as b"traceparent: 00-...\r\n", that go to endpoints beside the client's own, and names,
    #: in lower case, of the client's that do not; an observer sets them in `request_started`.
    added: bytes = b""
    dropped: tuple[bytes, ...] = ()
    #: Of the trace that it belongs to, in 32 hex digits; an observer sets it; error pages and the log tell it.
    trace_id: str = ""
    #: Whether X-Request-ID is the client's own word, and not the router's.
    named: bool = False
    #: The same object for all requests whose heads have the same fields, whatever their values: what an observer finds
    #: out about names once, it need not look for again. None where that is not known.
    alike: object | None = None
    #: Address at the other end of the connection, where that is not the client's; else "".
    peer: str = ""
    #: Whether it is that of a trusted proxy, whose word is believed.
    trusted: bool = False
    #: The target that endpoints see, where the route makes it another.
    rewritten: str = ""
    #: Whether the client asks why, and may be told (X-Router-Explain).
    asks: bool = False
    #: Why it went where it went last, where the client or an observer wanted to know.
    explained: Explanation | None = None
    #: For observers, and kept only where there is one that listens: every attempt, and what was out of the ordinary.
    attempts: tuple[Attempt, ...] = ()
    notes: tuple[Note, ...] = ()
    #: Bytes to the endpoint and to the client after a switch to WebSocket.
    relayed: tuple[int, int] | None = None
    _headers: Headers | None = None
    _cookie: bytes | None = None
    #: Where the value of the one Cookie field begins in the head that goes on; 0 if it has to be looked for.
    cookie_at: int = 0

    @property
    def cookie(self) -> bytes:
        """The value of the Cookie field as sent, b"" without one; several fields are joined (RFC 9113 §8.2.3)."""
        found = self._cookie
        if found is None:
            fields = _COOKIE.findall(self.head)
            found = self._cookie = b"; ".join(fields) if fields else b""
        return found

    @property
    def headers(self) -> Headers:
        """The fields: case-insensitive; of several with one name the first."""
        found = self._headers
        if found is None:
            # Most requests are never asked for them.
            found = self._headers = Headers(self.head)
        return found

    @property
    def raw_headers(self) -> RawHeaders:
        """All fields as sent, in order."""
        return self.headers.raw

    @property
    def path(self) -> str:
        """The target up to the question mark, as sent."""
        return self.target.partition("?")[0]

    @property
    def query(self) -> str | None:
        """What follows the question mark: None without one, "" after a bare one."""
        _, mark, query = self.target.partition("?")
        return query if mark else None

    def header(self, name: str) -> str | None:
        """First value of a request header, or None. `name` in any case."""
        return self.headers.get(name)

    def __repr__(self) -> str:
        return f"<Exchange {self.id} {self.method} {self.target!r} pool={self.pool!r} tried={len(self.tried)}>"


class Attempt(msgspec.Struct, eq=False):
    """One try of an exchange at one endpoint; while `open`, it is the lease. Written by policy/dispatch.py.

    Dispatch hands it to the driver as the order to send: there is no other object for that.
    """

    endpoint: Endpoint
    #: 0 for the first try.
    number: int
    started: float
    #: Seconds that the response head may take, from now.
    timeout: float
    #: Seconds after which `next` wants to be asked again, or None.
    hedge_after: float | None = None
    open: bool = True
    sent_at: float = 0.0
    #: Whether the request is sent to its last byte.
    whole: bool = True
    head_at: float | None = None
    status: int = 0
    _final: Outcome | None = None
    #: Whether it was begun beside a slow one that was still under way.
    hedge: bool = False
    #: When the lease closed.
    ended_at: float = 0.0
    #: Whether its response is the one that the client gets.
    passed_on: bool = False
    #: Why it went to this endpoint, where the client or an observer wanted to know.
    explained: Explanation | None = None

    @property
    def final(self) -> Outcome | None:
        """What it came to: decided at the head for a failing one, else when the lease closes; None until then."""
        found = self._final
        if found is None and not self.open:
            # Nobody wants to know of most successes.
            elapsed = None if self.head_at is None else self.head_at - self.sent_at
            found = self._final = Outcome("success", elapsed=elapsed, status=self.status)
        return found

    @final.setter
    def final(self, outcome: Outcome) -> None:
        self._final = outcome

    def __repr__(self) -> str:
        state = "open" if self.open else "closed"
        return f"<Attempt {self.number} at {self.endpoint.identity} {state} status={self.status}>"


class Outcome(msgspec.Struct, eq=False):
    """What an attempt came to; told once, when its lease closes."""

    result: Literal["success", "failure", "neutral"]
    #: "connect", "head" or "body" for a failure, else "".
    phase: str = ""
    sent: bool = True
    #: Seconds from send to head; None if there was no head.
    elapsed: float | None = None
    status: int = 0
    error: Exception | None = None

    @property
    def cause(self) -> str:
        """What went wrong, in a few words: "status 503", "connect refused", "timeout in head", "truncated in body"."""
        if self.phase == "head" and self.status:
            return f"status {self.status}"
        word = getattr(self.error, "word", "failure")
        if self.phase == "connect":
            return {"connect": "connect failed", "timeout": "connect timed out"}.get(word, word)
        return f"{word} in {self.phase}" if self.phase else word

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
