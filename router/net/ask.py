"""The endpoint's side of an exchange: the request as it is written, head and body. Decides nothing else."""

from __future__ import annotations

import logging

from router.errors import RouterError
from router.faults import visible
from router.model import Attempt
from router.net.body import RequestBody
from router.net.framing import Replay
from router.net.reply import Reply
from router.net.upstream import UpstreamConnection
from router.observe import Tokens
from router.policy.headers import without_fields

__all__ = ["Ask"]

log = logging.getLogger("router")

_NEVER = float("inf")
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Ask(Reply, eq=False):
    """What Forward is made upon, together with Reply; knows the request and the connections that it goes to."""

    #: The head as it was sent, for sending it again.
    _head: bytes = b""
    #: Whether the client waits for "100 Continue".
    expects: bool = False
    #: The Sec-WebSocket-Key of a request to switch to WebSocket, b"" of any other.
    key: bytes = b""
    #: The body as it comes in, and what came of it so far; None where there is none.
    body: RequestBody | None = None
    _replay: Replay | None = None
    #: Connections of attempts under way.
    _conns: list[UpstreamConnection] = []
    #: What those observers gave at the start that hear of every attempt; None if none does.
    _tokens: Tokens | None = None
    _over: bool = False

    def _observed_head(self, attempt: Attempt) -> bytes:
        """The head as it goes to an endpoint, with what observers add."""
        assert self._tokens is not None
        more: list[tuple[bytes, bytes]] = []
        self._runtime.observers.attempt_started(self._tokens, self.exchange, attempt, more)
        given, rewriting = self._given, self.exchange.route.rewriting
        if rewriting is not None and more:
            # What the route sets under the same name would stand beside it.
            given = without_fields(given, tuple(name.lower() for name, _ in more))
        return b"".join([given, *(b"%b: %b\r\n" % field for field in more), self._vouched])

    def _send_with_body(self, conn: UpstreamConnection, head: bytes) -> None:
        conn.request_done = conn.attempt.whole = self._client.body is None
        if not conn.request_done:
            # The head cannot be late before the request is whole; until then the client's own time counts.
            conn.deadline = _NEVER
        replay = self._replay
        assert replay is not None
        if replay.pieces:
            self._runtime.write_pieces(conn.transport, (head, *replay.pieces))
        else:
            self._runtime.write(conn.transport, head)
        if self.expects:
            self.expects = False
            if not replay.pieces:
                self._client.write(_CONTINUE)
            self._client.wait_for_client()
        self._trim(replay)
        self._client.resume()

    # The request's body

    def expect(self, body: RequestBody, piece: bytes) -> None:
        """The request has a body, which begins with this piece. To be called before `start`."""
        self.has_body = True
        self.body = body
        self._replay = Replay()
        self._replay.add(piece)

    def feed(self, data: bytes, last: bool) -> None:
        """Takes the next piece of the request's body, framed as it goes on."""
        replay = self._replay
        if self._over or replay is None:
            return
        replay.add(data)
        if not self._conns:
            # Nobody to send to yet: what came is held, and no more is read.
            self._client.pause()
            return
        for conn in self._conns:
            self._runtime.write(conn.transport, data)
            if last:
                conn.request_sent()
        self._trim(replay)

    def _trim(self, replay: Replay) -> None:
        """What has been sent is held for another attempt only while it is small."""
        dispatch = self._dispatch
        if dispatch is not None and replay.trim(dispatch.pool.retry.buffer):
            dispatch.body_taken(replayable=False)

    def on_full(self) -> None:
        self._client.pause()

    def on_drained(self) -> None:
        self._client.resume()

    def _tell_ended(self, attempt: Attempt) -> None:
        if self._tokens is not None and attempt.final is not None:
            self._runtime.observers.attempt_ended(self._tokens, self.exchange, attempt, attempt.final)

    def _tell_over(self, error: RouterError | None, now: float) -> None:
        """Tells observers that the exchange is over, and the log why it failed, under the id that the client saw."""
        exchange = self.exchange
        if self._listeners is not None:
            self._runtime.observers.request_ended(self._listeners, exchange, error, now)
        if error is not None:
            level = logging.DEBUG if error.source == "client" else logging.WARNING
            tried = ", then ".join(endpoint.identity for endpoint in exchange.tried) or "none"
            trace = f", trace {visible(exchange.trace_id)}" if exchange.trace_id else ""
            said = "request %s%s, pool %r, tried %s: %s: %r"
            log.log(level, said, exchange.id, trace, exchange.pool, tried, error.kind, error.detail)
