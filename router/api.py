"""What a plugin is: one small Protocol per concern. Signatures here are the contract; plugins/README.md explains them.

Everything a plugin needs comes in through its arguments: options, a clock, a seeded generator, the exchange. The
optional methods of a Protocol are listed in its docstring; the core asks once, at the build, whether they exist.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import msgspec

from router.config import EndpointTls
from router.model import (
    Attempt,
    Candidates,
    Certificate,
    Eject,
    Endpoint,
    EndpointSpec,
    Exchange,
    Members,
    Outcome,
    Response,
)
from router.status import Status

__all__ = [
    "Affinity",
    "AtEnd",
    "CertificateSource",
    "Control",
    "Detector",
    "EndpointSource",
    "Factory",
    "Filter",
    "Foretold",
    "Observer",
    "Options",
    "Probe",
    "Register",
    "Selector",
    "Service",
    "Tools",
]


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of a plugin's options: immutable, unknown keys refused, defaults and types shown by `router plugins`."""


class Tools:
    """Time, chance and place, handed in so that the same seed gives the same run.

    Attributes:
        clock: monotonic seconds; the same clock that `now` arguments come from.
        rng: a generator of this plugin's own.
        folder: that of the configuration file; relative file names in options start here.
        tls: how the pool speaks TLS with its servers: ca, server_name, certificate, key, verify, as configured; None
            where nothing is.
    """

    __slots__ = ("clock", "folder", "rng", "tls")

    def __init__(
        self, clock: Callable[[], float], rng: random.Random, folder: Path = Path(), tls: EndpointTls | None = None
    ) -> None:
        self.clock = clock
        self.rng = rng
        self.folder = folder
        self.tls = tls


#: Makes one plugin object of its options and tools.
Factory = Callable[[Any, Tools], Any]


class Register(Protocol):
    """What a hook is given: call it once per name that the plugin offers."""

    def __call__(self, name: str, factory: Factory, options: type[Options] = Options) -> None: ...


class Control(Protocol):
    """What the router gives to `start(control)` of a plugin and to services."""

    def status(self) -> Status:
        """The state of now; see Status for what it holds."""

    async def reload(self, why: str = ...) -> tuple[bool, str]:
        """Reads the configuration again: whether it is in force then, and what is to be said. `why`: for the log."""


@runtime_checkable
class Selector(Protocol):
    """Chooses one of the candidates.

    Optional: `update(endpoints)` when membership or weights changed (state is carried by endpoint);
    `key(exchange) -> int | None`, asked once per exchange; `scores(candidates, exchange, limit)`: (endpoint,
    probability of being chosen now), the likeliest first; for explaining only, never mutates.
    """

    def choose(self, candidates: Candidates, exchange: Exchange) -> Endpoint: ...


@runtime_checkable
class Affinity(Protocol):
    """Keeps a session on its server. `find` sees every member, ready or not; the core alone checks usability.

    Optional attributes: `strip_cookies`, names of cookies that never reach an endpoint; `moves_only`, True if there is
    nothing to remember where `find` was followed and left no note in `exchange.marks`. Optional method:
    `due(endpoint, exchange, head: bytes) -> bool`, asked before `remember` with the raw response head, lines and all;
    False spares the router taking the head apart.
    """

    def find(self, members: Members, exchange: Exchange) -> Endpoint | None: ...

    def remember(self, endpoint: Endpoint, exchange: Exchange, headers: list[tuple[bytes, bytes]]) -> None: ...


@runtime_checkable
class Probe(Protocol):
    """Asks an endpoint whether it is well: returns, or raises with the reason. Probes of one endpoint never overlap."""

    async def check(self, endpoint: Endpoint) -> None: ...


@runtime_checkable
class Detector(Protocol):
    """Watches real traffic. Optional: `tick(endpoints, now)` and `forget(endpoint)`."""

    def observe(self, endpoint: Endpoint, outcome: Outcome, now: float) -> Eject | None: ...


@runtime_checkable
class CertificateSource(Protocol):
    """Yields the complete set of certificates, again whenever it changes.

    `challenges` maps an ACME token path to its body; it is asked before the routes while it is not empty. Optional
    method: `load() -> Sequence[Certificate]`, what stands already, without network and without writing; asked by
    `router check` and before a socket opens, raises ValueError with every bad file. Optional attribute:
    `needs_listeners`, True for a source that is asked back by those it asks: it is begun once listeners accept.
    """

    def watch(self, challenges: dict[str, bytes]) -> AsyncIterator[Sequence[Certificate]]: ...


@runtime_checkable
class EndpointSource(Protocol):
    """Yields the complete set of endpoints, again whenever it changes."""

    def watch(self) -> AsyncIterator[Sequence[EndpointSpec]]: ...


class AtEnd:
    """What an observer's `request_started` returns to hear of the exchange's end alone, which costs least.

    `request_ended` is then given it as the token, with every attempt in `exchange.attempts`. A class made from it may
    say `within`, seconds: an exchange that went well with its first attempt, with a status below 500, and took no
    longer is not told of. As it stands here, all are.
    """

    __slots__ = ()

    within = -1.0


class Foretold(msgspec.Struct, frozen=True, eq=False):
    """What an observer says of nearly all requests: told once, so that the core need not ask at each of them.

    It holds where `exchange.alike` is in `alike`, which the observer adds to as it learns, and the last 16 digits of
    the request's id come not before `below`. Then the id is the trace's too, `exchange.added` is `around` joined by it,
    `exchange.dropped` is empty, and `token` is what `request_started` would return; that is not called.

    Raises:
        TypeError: any of it is something else than it has to be. Better now than at each request.
    """

    alike: set[object]
    below: str
    around: tuple[bytes, ...]
    token: AtEnd | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.alike, set) or not isinstance(self.below, str):
            raise TypeError("Foretold: alike is a set, below is text")
        if not isinstance(self.around, tuple) or not all(type(part) is bytes for part in self.around):
            raise TypeError("Foretold: around is a tuple of bytes")
        if self.token is not None and not isinstance(self.token, AtEnd):
            raise TypeError("Foretold: token is an AtEnd, or None")


@runtime_checkable
class Observer(Protocol):
    """Is told what happens; cannot change it. All methods are synchronous and must be quick.

    `request_started` returns a token, an AtEnd, or None to hear no more of this exchange; it may set `exchange.added`,
    `dropped` and `trace_id`. `attempt_started` may append request headers. Optional method: `explain(token) -> bool`,
    asked before a decision: True has it explained in `exchange.explained`, and in `explained` of the attempt that it
    leads to. Optional attributes: `whole_lines`, True where nothing a client or server has sent comes into what it sets
    as `exchange.added` or appends to headers; then that is not looked through at each request. And of one that says so,
    `foretold`, a Foretold: heeded where there is no other observer, and never changed.
    """

    def request_started(self, exchange: Exchange) -> Any: ...

    def attempt_started(
        self, token: Any, exchange: Exchange, attempt: Attempt, headers: list[tuple[bytes, bytes]]
    ) -> None: ...

    def attempt_ended(self, token: Any, exchange: Exchange, attempt: Attempt, outcome: Outcome) -> None: ...

    def request_ended(self, token: Any, exchange: Exchange, error: Exception | None) -> None: ...

    def endpoint_changed(self, endpoint: Endpoint, cause: str) -> None: ...

    def table_swapped(self, version: int) -> None: ...


@runtime_checkable
class Filter(Protocol):
    """Sees requests of the routes that name it; `on_request` is `def` or `async def`, a Response ends the exchange."""

    def on_request(self, exchange: Exchange) -> Response | Awaitable[Response | None] | None: ...

    def on_response(self, exchange: Exchange, headers: list[tuple[bytes, bytes]]) -> None: ...


@runtime_checkable
class Service(Protocol):
    """Something that lives as long as the process: an admin page, an exporter."""

    def serve(self, control: Control) -> AbstractAsyncContextManager[None]: ...
