"""Endpoints: what a source names, what runs, and the lists to choose from. Plain data; public through model.py.

Written by policy/pool.py alone. A URL has scheme, host and port only, or is `unix:`; a host name is one endpoint.
"""

from __future__ import annotations

from collections.abc import Container, ItemsView, Iterable, Iterator, Mapping, ValuesView
from typing import Annotated, Any, Literal, NamedTuple

import msgspec

__all__ = ["Address", "Candidates", "Endpoint", "EndpointSpec", "Members", "index_specs", "parse_address"]


class Address(NamedTuple):
    """Where to connect: `host` and `port` for "http" and "https", `path` for "unix"."""

    scheme: str
    host: str
    port: int
    path: str = ""

    def __str__(self) -> str:
        if self.scheme == "unix":
            return f"unix:{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"


def parse_address(url: str) -> Address:
    """Reads an endpoint's URL: scheme, host and port only, or `unix:/path`.

    Raises:
        ValueError: with one sentence that says what is wrong and what would be right.
    """
    if url.startswith("unix:"):
        path = url[5:]
        if not path.startswith("/"):
            raise ValueError("a unix endpoint needs an absolute path, as in unix:/run/app.sock")
        return Address("unix", "", 0, path)
    scheme, mark, rest = url.partition("://")
    if not mark or scheme not in ("http", "https"):
        raise ValueError("an endpoint starts with http://, https:// or unix:")
    if rest.endswith("/") and rest.count("/") == 1:
        rest = rest[:-1]
    if any(c in rest for c in "/?#"):
        raise ValueError("an endpoint has scheme, host and port only; paths belong into a route")
    if "@" in rest:
        raise ValueError("an endpoint's URL carries no user name or password")
    return Address(scheme, *_host_and_port(rest, 443 if scheme == "https" else 80))


def _host_and_port(text: str, default: int) -> tuple[str, int]:
    if text.startswith("["):
        host, mark, port = text[1:].partition("]")
        if not mark or ":" not in host:
            raise ValueError("an IPv6 address stands in brackets, as in http://[::1]:9001")
        port = port.removeprefix(":") if port.startswith(":") else ("" if not port else "?")
    else:
        host, _, port = text.partition(":")
        if ":" in port:
            raise ValueError("an IPv6 address stands in brackets, as in http://[::1]:9001")
    last = host.rstrip(".").rpartition(".")[2]
    if last.isdigit() and not _is_ipv4(host):
        raise ValueError("the host ends in a number and is no IPv4 address")
    if not host or any(c <= " " or c == "\x7f" for c in host):
        raise ValueError("the host is missing or has blanks in it")
    if not port:
        return host, default
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and 0 < int(port) < 65536):
        raise ValueError(f"the port {port[:20]!r} is not a number from 1 to 65535")
    return host, int(port)


def _is_ipv4(host: str) -> bool:
    parts = host.split(".")
    return len(parts) == 4 and all(
        part.isascii() and part.isdigit() and len(part) < 4 and int(part) < 256 for part in parts
    )


class EndpointSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One server as sources name it. An immutable value: two equal ones are the same server."""

    url: str
    id: str = ""
    weight: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 1
    priority: Annotated[int, msgspec.Meta(ge=0, le=255)] = 0
    zone: str = ""
    state: Literal["up", "drain"] = "up"
    metadata: dict[str, str] = {}

    @property
    def address(self) -> Address:
        return parse_address(self.url)

    def altered(self, state: Literal["", "up", "drain"], weight: int | None) -> EndpointSpec:
        """The same with another state, unless that is "", and another weight, unless that is None."""
        new_weight = self.weight if weight is None else weight
        return msgspec.structs.replace(self, state=state or self.state, weight=new_weight)

    @property
    def identity(self) -> str:
        """What makes an endpoint of a pool the same over reloads: its id, or else its address."""
        return self.id or str(parse_address(self.url))


def index_specs(specs: Iterable[EndpointSpec]) -> dict[str, EndpointSpec]:
    """Specs by their identity, in order.

    Raises:
        ValueError: two have the same identity, or an address is none.
    """
    wanted: dict[str, EndpointSpec] = {}
    for spec in specs:
        # Both are asked before anything changes: a bad address must leave a pool as it was.
        identity, _ = spec.identity, spec.address
        if identity in wanted:
            raise ValueError(f"the endpoint {identity!r} is there twice")
        wanted[identity] = spec
    return wanted


class Endpoint:
    """One server at run time; kept over reloads, its `spec` replaced at the swap.

    Written by policy/pool.py alone, but for `connections`, which belongs to net/upstream.py.
    """

    __slots__ = (
        "address",
        "connections",
        "health",
        "home",
        "identity",
        "latency",
        "limit",
        "load",
        "pool",
        "requests",
        "slot",
        "spec",
        "weight",
    )

    def __init__(self, spec: EndpointSpec, pool: str = "") -> None:
        self.spec = spec
        self.pool = pool
        self.identity = spec.identity
        self.address = spec.address
        #: Weight as of now: the configured one, less while slow start lasts.
        self.weight: float = spec.weight
        #: Leases open now.
        self.load = 0
        #: Leases so far.
        self.requests = 0
        #: Moving average of the seconds from sending a request to its response head; None before the first.
        self.latency: float | None = None
        #: Leases that may be open at once.
        self.limit = float("inf")
        #: The list of usable endpoints that this one stands in, and its place there; None and -1 while in none.
        self.home: Candidates | None = None
        self.slot = -1
        self.health: Any = None
        self.connections: Any = None

    def __repr__(self) -> str:
        usable = "usable" if self.slot >= 0 else "out"
        return f"<Endpoint {self.pool}/{self.identity} {usable} load={self.load} weight={self.weight:g}>"


class Candidates(list[Endpoint]):
    """The endpoints to choose from, in no promised order; never empty when a selector sees it.

    `len`, `[i]` and iteration run at C speed and `in` is O(1): each endpoint knows its slot. Lists made for one request
    (a retry leaves out what was tried) carry a set instead.
    """

    __slots__ = ()

    @staticmethod
    def of(endpoints: Iterable[Endpoint]) -> Candidates:
        """A list of its own that leaves the endpoints' slots alone. O(n), so never on the usual path."""
        return _Apart(endpoints)

    def __contains__(self, endpoint: object) -> bool:
        slot = getattr(endpoint, "slot", -1)
        return 0 <= slot < len(self) and self[slot] is endpoint

    def admits(self, endpoint: Endpoint, key: int) -> bool:
        """Whether a table strategy may stop at `endpoint` for this key.

        During slow start only a share of the keys is admitted, drawn by the key itself so that the same key always
        gets the same answer.

        Args:
            endpoint: the one that the table names.
            key: the hash of the exchange's key, 64 bits.
        """
        if endpoint not in self:
            return False
        configured = endpoint.spec.weight
        return endpoint.weight >= configured or (key & 0xFFFF) < endpoint.weight / configured * 0x10000

    def without(self, tried: Container[Endpoint]) -> Candidates:
        """A new list that leaves out the tried ones; empty if none remain."""
        return Candidates.of(endpoint for endpoint in self if endpoint not in tried)

    # The pool keeps its lists by swap-remove: O(1), and no request ever filters them.

    def add(self, endpoint: Endpoint) -> None:
        endpoint.slot = len(self)
        self.append(endpoint)

    def discard(self, endpoint: Endpoint) -> None:
        last = self.pop()
        if last is not endpoint:
            self[endpoint.slot] = last
            last.slot = endpoint.slot
        endpoint.slot = -1


class Members(Mapping[str, Endpoint]):
    """All endpoints of a pool, ready or not, by identity; what an affinity sees. `get` is O(1)."""

    __slots__ = ("_by_identity",)

    def __init__(self, endpoints: Mapping[str, Endpoint]) -> None:
        self._by_identity = dict(endpoints)

    def __getitem__(self, identity: str) -> Endpoint:
        return self._by_identity[identity]

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_identity)

    def __len__(self) -> int:
        return len(self._by_identity)

    # The dictionary's own views are ten times faster than what Mapping makes of __getitem__.

    def items(self) -> ItemsView[str, Endpoint]:
        return self._by_identity.items()

    def values(self) -> ValuesView[Endpoint]:
        return self._by_identity.values()


class _Apart(Candidates):
    """Candidates of one request alone."""

    __slots__ = ("_among",)

    def __init__(self, endpoints: Iterable[Endpoint]) -> None:
        super().__init__(endpoints)
        self._among = frozenset(self)

    def __contains__(self, endpoint: object) -> bool:
        return endpoint in self._among
