"""The connections to one endpoint that are kept alive between requests, and how another one is opened."""

from __future__ import annotations

import asyncio
from collections import deque

from router.errors import ConnectError
from router.model import Endpoint
from router.net.runtime import Runtime
from router.net.upstream import UpstreamConnection
from router.policy.pool import Timeouts

__all__ = ["Connections"]

#: A connection idle for less than this may carry a request that must not be sent twice (seconds).
_FRESH = 1.0
#: Idle connections close after this; below the keep-alive time of common servers (seconds).
_IDLE = 55.0
#: Most idle connections kept per endpoint.
_MOST_IDLE = 1024


class Connections:
    """The idle connections to one endpoint, and how to make another. The last one used is the first one taken."""

    __slots__ = ("_closed", "_endpoint", "_idle", "_sweeper", "runtime", "stream_watch")

    def __init__(self, runtime: Runtime, endpoint: Endpoint, timeouts: Timeouts, attempt_timeout: float) -> None:
        self.runtime = runtime
        self.stream_watch = runtime.watch(timeouts.stream)
        # Made here so that attempts find them; a timeout that a deadline cut short gets a timer of its own.
        for seconds in (timeouts.head, attempt_timeout):
            runtime.watch(seconds)
        self._endpoint = endpoint
        #: In order of becoming idle, the oldest first.
        self._idle: deque[UpstreamConnection] = deque()
        self._sweeper: asyncio.TimerHandle | None = None
        self._closed = False

    def take(self, *, fresh: bool) -> UpstreamConnection | None:
        """An idle connection, or None.

        Args:
            fresh: for a request that must not be sent twice: only one that was idle for under a second.
        """
        idle = self._idle
        while idle:
            conn = idle[-1]
            if fresh and self.runtime.clock() - conn.idle_since > _FRESH:
                # All others have been idle for longer still.
                return None
            idle.pop()
            if conn.is_alive():
                return conn
        return None

    def put(self, conn: UpstreamConnection) -> None:
        """Takes a connection back whose response is complete."""
        if self._closed or len(self._idle) >= _MOST_IDLE:
            conn.transport.close()
            return
        conn.idle_since = self.runtime.clock()
        self._idle.append(conn)
        if self._sweeper is None:
            self._sweeper = self.runtime.loop.call_later(_IDLE, self._sweep)

    def drop(self, conn: UpstreamConnection) -> None:
        """Forgets an idle connection that has closed."""
        if conn in self._idle:
            self._idle.remove(conn)

    async def connect(self, seconds: float) -> UpstreamConnection:
        """Opens a connection.

        Args:
            seconds: how long it may take, name lookup included.

        Raises:
            ConnectError: refused, unreachable, unknown name, or too late. Nothing was sent.
        """
        loop, address = self.runtime.loop, self._endpoint.address
        conn = UpstreamConnection(self)
        try:
            async with asyncio.timeout(seconds):
                if address.scheme == "unix":
                    await loop.create_unix_connection(lambda: conn, address.path)
                else:
                    await loop.create_connection(lambda: conn, address.host, address.port)
        except TimeoutError:
            raise ConnectError(f"{address}: no connection within {seconds:g} s") from None
        except OSError as error:
            raise ConnectError(f"{address}: {error.strerror or error}") from None
        return conn

    def close(self) -> None:
        """Closes what is idle; connections in use close after their response."""
        self._closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        while self._idle:
            self._idle.pop().abandon()

    def __len__(self) -> int:
        return len(self._idle)

    def _sweep(self) -> None:
        self._sweeper = None
        oldest = self.runtime.clock() - _IDLE
        while self._idle and self._idle[0].idle_since <= oldest:
            self._idle.popleft().abandon()
        if self._idle:
            self._sweeper = self.runtime.loop.call_later(self._idle[0].idle_since - oldest + 0.001, self._sweep)
