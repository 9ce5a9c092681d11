"""The client's side of an exchange: the response as it is written, relayed or made here. Decides nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from router.errors import RouterError
from router.model import Endpoint, Exchange, Response
from router.net.filtering import changed_by_plugins
from router.net.pages import date_line, error_response, given_response, status_line
from router.net.runtime import Runtime
from router.net.upstream import UpstreamConnection
from router.policy.headers import BODY_TO_END, VIA, ResponseHead

if TYPE_CHECKING:
    from router.net.client import ClientConnection, End

__all__ = ["Reply"]

#: A first piece of a body larger than this is written after its head, not copied behind it.
_LARGE = 16 << 10


class Reply:
    """What Forward is made upon; knows the client and the response, nothing of attempts."""

    __slots__ = ("_chunks", "_client", "_passed_on", "_runtime", "_unframed", "closes", "exchange")

    _client: ClientConnection
    _runtime: Runtime
    exchange: Exchange
    #: Whether the client's connection closes after the response.
    closes: bool
    #: Whether a byte of an endpoint's response has been passed on.
    _passed_on: bool
    #: Whether pieces of the response are to be framed as chunks here.
    _chunks: bool
    #: Whether only the end of the connection ends the response, for an HTTP/1.0 client.
    _unframed: bool

    def on_interim(self, conn: UpstreamConnection, message: Any) -> None:
        """103 goes on to clients that know it; others of 1xx end here."""
        if message.code == 103 and self.exchange.version >= (1, 1) and not self._passed_on:
            lines = [b"%b: %b\r\n" % field for field in message.raw_headers]
            self._client.write(b"".join((status_line(103, message.reason), b"\r\n", *lines, b"\r\n")))

    def _relay_head(self, message: Any, head: ResponseHead, body: bytes, done: bool, endpoint: Endpoint) -> None:
        """Passes an endpoint's response on: its head, and the first piece of its body."""
        self._passed_on = True
        data = self._response_head(message, head, done, endpoint)
        if self._chunks and body:
            data += b"%x\r\n%b\r\n" % (len(body), body)
        elif len(body) > _LARGE:
            self._client.write(data)
            data = body
        elif body:
            data += body
        self._runtime.write(self._client.transport, data)

    def _response_head(self, message: Any, head: ResponseHead, done: bool, endpoint: Endpoint) -> bytes:
        lines, length, _, has_date, has_id = head
        exchange, route = self.exchange, self.exchange.route
        if route.filters or route.pool.affinity is not None:
            lines = changed_by_plugins(lines, exchange, endpoint, route.pool)
        added = VIA if has_id else f"{VIA}X-Request-ID: {exchange.id}\r\n"
        if not has_date:
            added += date_line()
        if length < 0:
            if exchange.version >= (1, 1):
                added += "Transfer-Encoding: chunked\r\n"
                self._chunks = length == BODY_TO_END
            else:
                self.closes = self._unframed = True
        self.closes = self.closes or self._runtime.draining or (done and not self._client.body_done)
        if self.closes or exchange.version < (1, 1):
            added += self._connection()
        return b"".join((status_line(message.code, message.reason), lines, added.encode("latin-1"), b"\r\n"))

    def _connection(self) -> str:
        """The Connection line of the response: none where staying open is understood."""
        if self.closes:
            return "Connection: close\r\n"
        return "" if self.exchange.version >= (1, 1) else "Connection: keep-alive\r\n"

    def _relay_body(self, data: bytes, done: bool) -> None:
        if self._chunks:
            data = (b"%x\r\n%b\r\n" % (len(data), data) if data else b"") + (b"0\r\n\r\n" if done else b"")
        if data:
            self._client.write(data)

    def _answer_error(self, error: RouterError) -> None:
        """A response of the router's own."""
        exchange = self.exchange
        self._close_if_unread()
        exchange.status = error.status
        self._client.write(
            error_response(
                error,
                request_id=exchange.id,
                headers=exchange.headers,
                head_only=exchange.method == "HEAD",
                connection=self._connection().encode(),
            )
        )

    def _answer(self, answer: Response) -> None:
        """A filter's response."""
        self._close_if_unread()
        self.exchange.status = answer.status
        head_only, connection = self.exchange.method == "HEAD", self._connection().encode()
        self._client.write(given_response(answer, head_only=head_only, connection=connection))

    def _close_if_unread(self) -> None:
        self.closes = self.closes or self._runtime.draining or not self._client.body_done

    def _end(self, error: RouterError | None) -> End:
        """How the connection goes on after this exchange."""
        if error is not None and self._passed_on:
            return "reset" if self._unframed else "break"
        return "close" if self.closes or self._runtime.draining or not self._client.body_done else "keep"
