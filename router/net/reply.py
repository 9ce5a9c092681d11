"""The client's side of an exchange: the response as it is written, relayed or made here. Decides nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import msgspec

from router.errors import RouterError
from router.model import Endpoint, Exchange, Response
from router.net.filtering import changed_by_plugins
from router.net.pages import date_line, error_response, given_response, status_line
from router.net.runtime import Runtime
from router.net.sink import Switch
from router.net.upstream import UpstreamConnection
from router.observe import Tokens
from router.policy.explaining import explain_answer
from router.policy.headers import read_interim, without_fields, without_hsts
from router.policy.plain import BODY_TO_END, ResponseHead
from router.policy.upgrades import SWITCH_LINES

if TYPE_CHECKING:
    from router.net.client import ClientConnection, End

__all__ = ["Reply"]

#: A first piece of a body larger than this is written after its head, not copied behind it.
_LARGE = 16 << 10
_HTTP_1_1 = (1, 1)
_EXPLAINED = (b"x-router-explain",)
#: Bytes of the field that explains: others between here and the client have limits for whole heads.
_LONGEST_EXPLAINED = 4096


class Reply(msgspec.Struct, eq=False):
    """What Forward is made upon; knows the client and the response, nothing of attempts.

    A struct, since one is made per request: its constructor costs a tenth of one written in Python.
    """

    _client: ClientConnection
    _runtime: Runtime
    exchange: Exchange
    #: The client's head as it goes on, without the empty line.
    _given: bytes
    #: The lines that the router vouches for, and the empty line.
    _vouched: bytes
    #: Whether the client's connection closes after the response.
    closes: bool
    has_body: bool = False
    #: None until the pool is known.
    _dispatch: Any = None
    #: Whether anything changes the fields of an endpoint's response.
    _edits: bool = False
    #: Whether nothing does where affinity's word was followed.
    _follows: bool = False
    #: Whether a byte of an endpoint's response has been passed on.
    _passed_on: bool = False
    #: Whether pieces of the response are to be framed as chunks here.
    _chunks: bool = False
    #: What all observers gave at the start; None if none listens.
    _listeners: Tokens | None = None
    #: Whether only the end of the connection ends the response, for an HTTP/1.0 client.
    _unframed: bool = False

    def on_interim(self, conn: UpstreamConnection, message: Any) -> None:
        """103 goes on to clients that know it; others of 1xx end here."""
        if message.code == 103 and self.exchange.version >= _HTTP_1_1 and not self._passed_on:
            lines = read_interim(message.raw_headers)
            self._client.write(b"".join((status_line(103, message.reason), lines, b"\r\n")))

    def _relay_head(self, head: ResponseHead, body: bytes, done: bool, endpoint: Endpoint) -> None:
        """Passes an endpoint's response on: its head, and the first piece of its body."""
        self._passed_on = True
        _, length, given, _, has_date, has_id = head
        exchange, runtime, client = self.exchange, self._runtime, self._client
        if self._edits and not (self._follows and exchange.pinned is endpoint and exchange.marks is None):
            given = self._edited_head(given, endpoint)
        if client.hsts:
            given = without_hsts(given)
        if client.leaves or (self.has_body and done and client.body is not None):
            self.closes = True
        if has_id or not has_date or length < 0 or self.closes or exchange.version < _HTTP_1_1:
            data = b"".join((given[:-2], self._added_lines(length, has_date, has_id), b"\r\n"))
            if self._chunks and body:
                body = b"%x\r\n%b\r\n" % (len(body), body)
        else:
            data = b"%b%b%b\r\n\r\n" % (given[:-2], client.via_and_id, exchange.id.encode())
        if len(body) > _LARGE:
            runtime.write_pieces(client.transport, (data, body))
        else:
            runtime.write(client.transport, data + body if body else data)

    def _edited_head(self, head: bytes, endpoint: Endpoint) -> bytes:
        """An endpoint's head after affinity, filters, and what the route sets and removes."""
        marked = self._dispatch.pool.marks(endpoint, self.exchange, head)
        if not marked and self.exchange.route.plain and not self.exchange.asks:
            return head
        at = head.find(b"\r\n")
        return head[:at] + self._edited(head[at:-2], endpoint, marked) + b"\r\n"

    def _edited(self, lines: bytes, endpoint: Endpoint, marked: bool) -> bytes:
        """The same for field lines alone.

        Args:
            marked: whether affinity may have something to add.
        """
        exchange = self.exchange
        route, pool = exchange.route, self._dispatch.pool
        if route.filters or marked:
            lines = changed_by_plugins(lines, exchange, endpoint, pool, marked)
        if exchange.asks:
            # What the endpoint says of itself under this name is not the router's word.
            lines = without_fields(lines, _EXPLAINED) + self._explained_line()
        return lines if route.rewriting is None else cast(bytes, route.rewriting.response(lines))

    def _explained_line(self) -> bytes:
        """What a client that may ask is told of how the router decided; b"" for others."""
        exchange = self.exchange
        if not exchange.asks or exchange.explained is None:
            return b""
        return b"X-Router-Explain: %b\r\n" % exchange.explained.text(_LONGEST_EXPLAINED).encode()

    def _explain_answer(self, error: RouterError | None) -> None:
        """Says why there is no endpoint's response, to whoever wants to know."""
        exchange, runtime = self.exchange, self._runtime
        told = self._listeners is not None and runtime.observers.explains(self._listeners, exchange)
        if exchange.explained is None and (exchange.asks or told):
            exchange.explained = explain_answer(runtime.table, exchange, error)

    def _relay_switch(self, switch: Switch, endpoint: Endpoint) -> None:
        """Passes on that the endpoint switches to WebSocket."""
        self._passed_on = True
        lines, _, _, _, has_id = switch.head
        if self._edits:
            lines = self._edited(lines, endpoint, self._dispatch.pool.marks(endpoint, self.exchange, lines))
        client = self._client
        lines = without_hsts(lines) if client.hsts else lines
        added = client.via if has_id else b"%b%b\r\n" % (client.via_and_id, self.exchange.id.encode())
        self._client.write(b"".join((status_line(101), lines, added, SWITCH_LINES, b"\r\n")))

    def _added_lines(self, length: int, has_date: bool, has_id: bool) -> bytes:
        """The router's own lines in an endpoint's response; decides how its body is framed for this client."""
        exchange, client = self.exchange, self._client
        added = client.via if has_id else b"%b%b\r\n" % (client.via_and_id, exchange.id.encode())
        if not has_date:
            added += date_line()
        if length < 0 and exchange.version >= _HTTP_1_1:
            added += b"Transfer-Encoding: chunked\r\n"
            self._chunks = length == BODY_TO_END
        elif length < 0:
            self.closes = self._unframed = True
        return added + self._connection()

    def _connection(self) -> bytes:
        """The Connection line of the response: none where staying open is understood."""
        if self.closes:
            return b"Connection: close\r\n"
        return b"" if self.exchange.version >= _HTTP_1_1 else b"Connection: keep-alive\r\n"

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
        self._explain_answer(error)
        self._client.write(
            error_response(
                error,
                request_id=exchange.id,
                headers=exchange.headers,
                head_only=exchange.method == "HEAD",
                connection=self._connection() + self._client.hsts + self._explained_line(),
                trace_id=exchange.trace_id,
            )
        )

    def _answer(self, answer: Response) -> None:
        """The response of a filter, or of the route."""
        self._close_if_unread()
        exchange = self.exchange
        exchange.status = answer.status
        self._explain_answer(None)
        own = b"X-Request-ID: %b\r\n" % exchange.id.encode() + self._connection() + self._explained_line()
        data = given_response(answer, head_only=exchange.method == "HEAD", connection=own, hsts=self._client.hsts)
        self._client.write(data)

    def _close_if_unread(self) -> None:
        self.closes = self.closes or self._client.leaves or self._client.body is not None

    def _end(self, error: RouterError | None) -> End:
        """How the connection goes on after this exchange."""
        if error is not None and self._passed_on:
            return "reset" if self._unframed else "break"
        return "close" if self.closes or self._client.body is not None else "keep"
