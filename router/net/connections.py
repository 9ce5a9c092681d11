"""The connections to one endpoint that are kept alive between requests, and how another one is opened."""

from __future__ import annotations

import asyncio
import errno
import select
from collections import deque
from collections.abc import Set
from typing import Any

from router.errors import ConnectError, Overloaded
from router.model import Endpoint
from router.net.runtime import Runtime
from router.net.secure_client import SecureClient
from router.net.upstream import UpstreamConnection
from router.policy.plain import NO_SHAPE
from router.policy.pool import Pool

__all__ = ["SHORTAGE", "Connections", "drop_connections"]

#: A connection idle for less than this may carry a request that must not be sent twice (seconds).
_FRESH = 1.0
#: Idle connections close after this; below the keep-alive time of common servers (seconds).
_IDLE = 55.0
#: After an idle connection was closed under a request, so long none carries what must not be sent twice (seconds).
_DISTRUST = 10.0
#: Most idle connections kept per endpoint.
_MOST_IDLE = 1024

#: Too few descriptors, or too little memory for sockets.
SHORTAGE = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class Connections:
    """All connections to one endpoint. The last one used is the first one taken.

    Args:
        security: with `context` and `server_name`, for an endpoint with https.
    """

    __slots__ = (
        "_closed",
        "_distrusted",
        "_endpoint",
        "_idle",
        "_secure",
        "_security",
        "runtime",
        "shape",
        "stream_timeout",
    )

    def __init__(self, runtime: Runtime, endpoint: Endpoint, stream_timeout: float, security: Any = None) -> None:
        self.runtime = runtime
        #: Seconds between two pieces of a body.
        self.stream_timeout = stream_timeout
        #: Of the head that the endpoint sent last.
        self.shape = NO_SHAPE
        self._endpoint = endpoint
        self._security = security
        #: What connections speak TLS by; made with the first.
        self._secure: SecureClient | None = None
        #: In order of becoming idle, the oldest first. All are open: one that closes drops itself.
        self._idle: deque[UpstreamConnection] = deque()
        self._closed = False
        #: Until when an idle connection is no place for a request that must not be sent twice.
        self._distrusted = 0.0

    def take(self, now: float, *, fresh: bool) -> UpstreamConnection | None:
        """An idle connection, or None.

        Args:
            fresh: for a request that must not be sent twice: only one that was idle for under a second, and that the
                endpoint has not closed in this very moment.
        """
        if not self._idle:
            return None
        if fresh:
            return self._take_fresh(now)
        return self._idle.pop()

    def _take_fresh(self, now: float) -> UpstreamConnection | None:
        if now < self._distrusted:
            return None
        # The last one became idle last: if it is not fresh, none is.
        while self._idle and now - self._idle[-1].idle_since <= _FRESH:
            conn = self._idle.pop()
            if not _has_news(conn):
                return conn
            conn.abandon()
        return None

    def put(self, conn: UpstreamConnection, now: float) -> None:
        """Takes a connection back whose response is complete."""
        if self._closed or len(self._idle) >= _MOST_IDLE:
            conn.transport.close()
            return
        conn.idle_since = now
        conn.deadline = now + _IDLE
        self._idle.append(conn)

    def distrust(self) -> None:
        """The endpoint has just closed an idle connection that a request was sent on; it may well do so again."""
        self._distrusted = self.runtime.clock() + _DISTRUST

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
                elif address.scheme == "https":
                    secure = self._secure = self._secure or self._made_secure()
                    await secure.open(conn, lambda make: loop.create_connection(make, address.host, address.port))
                else:
                    await loop.create_connection(lambda: conn, address.host, address.port)
        except TimeoutError:
            what = "no TLS connection" if address.scheme == "https" else "no connection"
            raise ConnectError(f"{address}: {what} within {seconds:g} s", word="connect timed out") from None
        except OSError as error:
            if error.errno in SHORTAGE:
                # The router's own want, not the endpoint's fault.
                raise Overloaded(f"{address}: {error.strerror}") from None
            word = "connect refused" if isinstance(error, ConnectionRefusedError) else "connect failed"
            raise ConnectError(f"{address}: {error.strerror or error}", word=word) from None
        except ValueError as error:
            # A host name that cannot be written for a look-up (an empty or overlong label).
            raise ConnectError(f"{address}: {error}") from None
        return conn

    def _made_secure(self) -> SecureClient:
        """Raises ValueError if the host cannot be the name of a server."""
        address, security = self._endpoint.address, self._security
        if security is None:
            raise ValueError("the pool does not speak TLS any more")
        # A name by itself: not the dot that ends it (RFC 6066 §3), not the zone of an address.
        name = security.server_name or address.host.removesuffix(".").partition("%")[0]
        return SecureClient(security.context, name, str(address), self.runtime.pipes)

    def close(self) -> None:
        """Closes what is idle; connections in use close after their response."""
        self._closed = True
        self.drop_idle()

    def drop_idle(self) -> None:
        """Closes what is idle: of an endpoint that is not well, no old connection is to be trusted later."""
        while self._idle:
            self._idle.pop().abandon()

    def __len__(self) -> int:
        """How many are idle."""
        return len(self._idle)


def _has_news(conn: UpstreamConnection) -> bool:
    """Whether anything waits to be read that the loop has not told yet: on an idle connection, its end."""
    poll = select.poll()
    poll.register(conn.transport.get_extra_info("socket").fileno(), select.POLLIN | select.POLLRDHUP)
    return bool(poll.poll(0))


def drop_connections(pool: Pool, runtime: Runtime, spared: Set[str] = frozenset()) -> None:
    """Closes connections to a pool's endpoints as they become idle; those of the spared ones go on as they are.

    Args:
        spared: identities of endpoints that are about to leave: they go on to speak as the pool does now.
    """
    for name, endpoint in pool.members.items():
        if name not in spared:
            runtime.endpoint_is_gone(endpoint)
            endpoint.connections = None
        elif endpoint.connections is None:
            endpoint.connections = Connections(runtime, endpoint, pool.timeouts.stream, pool.security)
