"""Listeners: an address that the router accepts on, and the connections that came in by it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket

from router.config import ListenerTimeouts
from router.errors import RouterError
from router.net.accepting import Accepting
from router.net.client import ClientConnection
from router.net.runtime import Runtime

__all__ = ["Listener"]

log = logging.getLogger("router")


class Listener:
    """One address: accepts, and knows its connections.

    Args:
        sock: bound and listening; it stays the caller's, and open until `stop_accepting`.
        max_connections: at so many accepting pauses; clients that have waited for a second get 503.
    """

    def __init__(
        self,
        runtime: Runtime,
        sock: socket.socket,
        timeouts: ListenerTimeouts,
        scheme: str = "http",
        *,
        max_connections: int = 10_000,
    ) -> None:
        self.runtime = runtime
        self.scheme = scheme
        self.connections: set[ClientConnection] = set()
        self.timeouts = timeouts
        self._empty: asyncio.Event | None = None
        name = sock.getsockname()
        if sock.family == socket.AF_UNIX:
            self.name = f"unix:{name}"
            self.authority = b"localhost"
        else:
            host = f"[{name[0]}]" if ":" in name[0] else name[0]
            self.name = f"{host}:{name[1]}"
            #: What stands for a Host field that a client left out.
            self.authority = self.name.encode()
        self.refusals = 0
        self._broken_off = 0
        self._accepting = Accepting(
            runtime,
            sock,
            self.name,
            make=lambda: ClientConnection(self),
            connections=self.connections,
            limit=max_connections,
        )

    @property
    def is_paused(self) -> bool:
        """Whether new clients wait, or are turned away, because there are too many already."""
        return self._accepting.is_paused

    @property
    def turned_away(self) -> int:
        """Clients that were answered 503 instead of being let in."""
        return self._accepting.turned_away

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
        self._accepting.left()
        if self._empty is not None and not self.connections:
            self._empty.set()

    def stop_accepting(self) -> None:
        """No new connections; those without a request close now, the others after their response."""
        self._accepting.stop()
        for connection in tuple(self.connections):
            connection.close_if_idle()

    async def drained(self, seconds: float) -> int:
        """Waits until the last request under way is answered.

        Returns:
            How many connections had to be cut because `seconds` were over.
        """
        self._empty = asyncio.Event()
        if self.connections:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._empty.wait()
        self.cut()
        return self._broken_off

    def cut(self) -> None:
        """Breaks off what is still under way."""
        for connection in tuple(self.connections):
            connection.abort()
            self._broken_off += 1
