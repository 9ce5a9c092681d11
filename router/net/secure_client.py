"""TLS to an endpoint: the handshake, what it failed by in words, and sessions that are taken up again."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from typing import Any

from router.errors import ConnectError
from router.net.keypairs import reason_of
from router.net.secure import OPEN, SHAKING, Pipes, SecureConnection

__all__ = ["ClientSide", "SecureClient"]


class SecureClient:
    """What the connections to one endpoint share.

    Args:
        context: of tls.endpoint_context; many endpoints may share one.
        server_name: the name (or address) that the endpoint's certificate has to be for; sent to it as SNI.
        where: the endpoint, for messages.
        pipes: of this loop.

    Raises:
        ValueError: `server_name` cannot be one.
    """

    __slots__ = ("_context", "_last", "_pipes", "_server_name", "_session", "_where")

    def __init__(self, context: ssl.SSLContext, server_name: str, where: str, pipes: Pipes) -> None:
        self._context = context
        self._server_name = server_name
        self._where = where
        self._pipes = pipes
        self._session: ssl.SSLSession | None = None
        #: The connection that was opened last: the endpoint gives tickets when it likes, so they are looked for late.
        self._last: ClientSide | None = None
        try:
            context.wrap_bio(pipes.incoming, pipes.outgoing, server_hostname=server_name)
        except (TypeError, ValueError) as error:
            raise ValueError(f"server_name = {server_name!r}: {error}") from None

    async def open(
        self, inner: asyncio.Protocol, connect: Callable[[Callable[[], asyncio.Protocol]], Awaitable[Any]]
    ) -> None:
        """Opens a connection; `inner` has been told of it by the end.

        Args:
            connect: makes the plain connection, such as loop.create_connection with an address.

        Raises:
            ConnectError: the handshake failed; names the reason. Else whatever `connect` raises.
        """
        made = ClientSide(self, inner, self._pipes)
        try:
            await connect(lambda: made)
            await made.shaken
        except BaseException:
            made.shaken.cancel()
            made.abort()
            raise

    # Called by connections

    def wrap(self) -> ssl.SSLObject:
        """The TLS of a new connection, which offers the last session."""
        if self._last is not None:
            self._remember(self._last)
        pipes = self._pipes
        return self._context.wrap_bio(
            pipes.incoming, pipes.outgoing, server_hostname=self._server_name, session=self._session
        )

    def opened(self, connection: ClientSide) -> None:
        self._last = connection

    def gone(self, connection: ClientSide) -> None:
        if connection is self._last:
            self._remember(connection)
            self._last = None

    def _remember(self, connection: ClientSide) -> None:
        session = connection.session
        if session is not None and session.has_ticket:
            self._session = session

    def failed(self, error: OSError | None) -> ConnectError:
        """What a handshake that failed is told as; None: the endpoint closed."""
        self._session = None
        reason = "the endpoint closed the connection" if error is None else reason_of(error)
        word = "certificate refused" if isinstance(error, ssl.SSLCertVerificationError) else "TLS failed"
        return ConnectError(f"{self._where}: TLS handshake failed: {reason}", word=word)


class ClientSide(SecureConnection):
    """A connection to an endpoint. `shaken` is done once the protocol above has the connection, or never will."""

    __slots__ = ("_client", "_waiting", "shaken")

    def __init__(self, client: SecureClient, inner: asyncio.Protocol, pipes: Pipes) -> None:
        super().__init__(pipes)
        self._client = client
        self._waiting = inner
        self.shaken: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def session(self) -> ssl.SSLSession | None:
        return None if self._tls is None else self._tls.session

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._wrapped(self._client.wrap())
        self._shake(b"")

    def eof_received(self) -> bool:
        super().eof_received()
        if self._state == OPEN:
            # Not only closed: what the endpoint has not taken yet would hold up what is to be told above.
            self.abort()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        if self._state == SHAKING:
            self._fail(exc if isinstance(exc, OSError) else None)
        self._client.gone(self)
        super().connection_lost(exc)

    def _early(self, data: bytes) -> None:
        if self._state == SHAKING:
            self._shake(data)

    def _shake(self, data: bytes) -> None:
        try:
            if not self._handshake(data):
                return
        except OSError as error:
            self._fail(error)
            self.close()
            return
        self._client.opened(self)
        self._open(self._waiting)
        if not self.shaken.done():
            self.shaken.set_result(None)

    def _fail(self, error: OSError | None) -> None:
        told = self._client.failed(error)
        if not self.shaken.done():
            self.shaken.set_exception(told)
