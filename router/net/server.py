"""Listeners: an address that the router accepts on, and the connections that came in by it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Set

from router.config import ListenerTimeouts
from router.errors import RouterError
from router.model import Endpoint
from router.net.accepting import Accepting
from router.net.client import ClientConnection
from router.net.runtime import Runtime
from router.net.secure_server import SecureServer
from router.net.tls import Store
from router.policy.plain import NO_SHAPE

__all__ = ["Listener"]

log = logging.getLogger("router")

#: Handshakes under way.
_MOST_HANDSHAKES = 1024
#: Turns of the loop after which an accepted socket is a connection.
_TURNS = 5


class Listener:
    """One address: accepts, and knows its connections.

    Args:
        sock: bound and listening; it stays the caller's, and open until `stop_accepting`.
        max_connections: at so many accepting pauses; clients that have waited for a second get 503.
    """

    def __init__(
        self, runtime: Runtime, sock: socket.socket, timeouts: ListenerTimeouts, *, max_connections: int = 10_000
    ) -> None:
        self.runtime = runtime
        self.scheme = "http"
        #: The line by which browsers stay with https (RFC 6797), and those that follow Via in every response.
        self.hsts = b""
        self.via, self.via_and_id = runtime.via, runtime.via_and_id
        #: The port of https that clients are sent to; 0 for none.
        self.redirect = 0
        #: Handshakes, where this listener speaks TLS.
        self.secure: SecureServer | None = None
        self.connections: set[ClientConnection] = set()
        self.timeouts = timeouts
        self._empty: asyncio.Event | None = None
        name = sock.getsockname()
        if sock.family == socket.AF_UNIX:
            self.name = f"unix:{name}"
            self.authority = b"localhost"
            self.port: int = 0
        else:
            host = f"[{name[0]}]" if ":" in name[0] else name[0]
            self.name = f"{host}:{name[1]}"
            self.port = name[1]
            #: What stands for a Host field that a client left out.
            self.authority = self.name.encode()
        self.refusals = 0
        #: Whether connections close after their response.
        self.leaves = False
        self.grace = float("inf")
        self._broken_off = 0
        self._accepting = Accepting(
            runtime,
            sock,
            self.name,
            make=self._make,
            count=lambda: self.count,
            limit=max_connections,
        )

    def _make(self) -> asyncio.BaseProtocol:
        plain = self.secure is None or self.scheme == "http"
        return ClientConnection(self, "http") if plain or self.secure is None else self.secure.accept()

    @property
    def count(self) -> int:
        """Connections, and handshakes under way."""
        return len(self.connections) + (0 if self.secure is None else len(self.secure))

    def speak(self, store: Store | None, *, hsts: str = "", redirect: int = 0) -> None:
        """Says how new connections speak; those that stand go on as they began.

        Args:
            store: certificates for TLS; None for plain HTTP.
            hsts: the value of Strict-Transport-Security.
            redirect: the port of https that clients are sent to; 0 for none.
        """
        runtime = self.runtime
        self.scheme = "http" if store is None else "https"
        self.hsts = f"Strict-Transport-Security: {hsts}\r\n".encode() if hsts else b""
        self.via, self.via_and_id = runtime.via + self.hsts, runtime.via + self.hsts + b"X-Request-ID: "
        self.redirect = redirect
        if store is not None and self.secure is None:
            self.secure = SecureServer(
                runtime,
                store,
                name=self.name,
                make=lambda: ClientConnection(self, "https"),
                left=self._left,
                pipes=runtime.pipes,
            )
        if self.secure is not None and store is not None:
            self.secure.store, self.secure.timeout = store, self.timeouts.handshake
            # Who only begins handshakes must not keep all others out.
            self.secure.most = max(1, min(_MOST_HANDSHAKES, self._accepting.limit // 2))

    @property
    def is_paused(self) -> bool:
        """Whether new clients wait, or are turned away, because there are too many already."""
        return self._accepting.is_paused

    @property
    def turned_away(self) -> int:
        """Clients that were answered 503 instead of being let in."""
        return self._accepting.turned_away

    async def prepare(self) -> None:
        """Makes all that is needed to accept. Raises OSError if the system does not let it."""
        await self._accepting.prepare()

    async def start(self) -> None:
        """Begins to accept."""
        await self._accepting.start()

    def refused(self, error: RouterError, request_id: str) -> None:
        """Counts a request that was not valid HTTP. The log has it at debug level only: junk must not fill it."""
        self.refusals += 1
        log.debug("request %s refused: %s: %r", request_id, error.kind, error.detail)

    def forget(self, connection: ClientConnection) -> None:
        self.connections.discard(connection)
        self.runtime.sweeper.discard(connection)
        self._left()

    def _left(self) -> None:
        self._accepting.left()
        if self._empty is not None and not self.count:
            self._empty.set()

    def change(self, timeouts: ListenerTimeouts, max_connections: int) -> None:
        """Takes other settings; what is under way goes by those that it began with."""
        self.timeouts = timeouts
        self._accepting.limit = max_connections

    def identify_clients(self) -> None:
        """Other proxies are trusted, or other heads allowed: what was worked out about connections is asked again."""
        for connection in self.connections:
            connection.identify()
            connection.shape = NO_SHAPE

    def break_off(self, endpoints: Set[Endpoint], error: RouterError) -> int:
        """Ends what is under way at endpoints; returns how many exchanges that were."""
        exchanges = [connection.forward for connection in self.connections if connection.forward is not None]
        found = [exchange for exchange in exchanges if exchange.is_at(endpoints)]
        for exchange in found:
            exchange.fail(error)
        return len(found)

    def leave(self, seconds: float) -> None:
        """Connections close after the response under way or the next one; idle ones after `seconds`."""
        self.leaves, self.grace = True, seconds
        for connection in self.connections:
            connection.leave(seconds)

    def stop_accepting(self, grace: float = 0.0) -> None:
        """No new connections; those without a request close within `grace` seconds, the others after their response."""
        self._accepting.stop()
        if self.secure is not None:
            self.secure.hurry(grace)
        self.leave(grace)
        for connection in tuple(self.connections):
            if connection.is_idle and not grace:
                connection.close_idle()

    async def drained(self, seconds: float) -> int:
        """Waits until the last request under way is answered.

        Returns:
            How many connections had to be cut because `seconds` were over.
        """
        self._empty = self._empty or asyncio.Event()
        for _ in range(_TURNS):
            # What the system has accepted already becomes a connection in the next turns.
            await asyncio.sleep(0)
        if self.count:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._empty.wait()
        self.cut()
        return self._broken_off

    def cut(self) -> None:
        """Breaks off what is still under way."""
        if self.secure is not None:
            self.secure.cut()
        for connection in tuple(self.connections):
            self._broken_off += not connection.is_idle
            connection.abort()
