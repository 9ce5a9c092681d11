"""The endpoint's side of an exchange: the request as it is written, head and body. Decides nothing else."""

from __future__ import annotations

import logging
from typing import Any

from router.errors import RouterError
from router.model import Attempt
from router.net.framing import Replay
from router.net.reply import Reply
from router.net.upstream import UpstreamConnection
from router.policy.dispatch import Dispatch
from router.policy.headers import VIA

__all__ = ["Ask"]

log = logging.getLogger("router")

_NEVER = float("inf")
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Ask(Reply):
    """What Forward is made upon, together with Reply; knows the request and the connections that it goes to."""

    __slots__ = (
        "_conns",
        "_dispatch",
        "_head",
        "_lines",
        "_over",
        "_replay",
        "_tokens",
        "_vouched",
        "expects",
        "has_body",
    )

    #: Field lines of the request that go on.
    _lines: bytes
    #: The lines that say who the client is.
    _vouched: str
    #: The head as it was sent, for sending it again.
    _head: bytes
    has_body: bool
    #: Whether the client waits for "100 Continue".
    expects: bool
    #: The body so far, where there is one.
    _replay: Replay | None
    #: Connections of attempts under way.
    _conns: list[UpstreamConnection]
    _dispatch: Dispatch
    #: What observers gave at the start; None if none listens.
    _tokens: Any
    _over: bool

    def _request_head(self, attempt: Attempt) -> bytes:
        """The head as it goes to an endpoint: the client's own bytes, and after them what the router vouches for."""
        exchange = self.exchange
        first = f"{exchange.method} {exchange.target} HTTP/1.1"
        added = f"{self._vouched}{VIA}X-Request-ID: {exchange.id}\r\n\r\n"
        pieces = [first.encode("utf-8", "surrogateescape"), self._lines, added.encode("latin-1")]
        if self._tokens is not None:
            more: list[tuple[bytes, bytes]] = []
            self._runtime.observers.attempt_started(self._tokens, exchange, attempt, more)
            pieces[2:2] = [b"%b: %b\r\n" % field for field in more]
        return b"".join(pieces)

    def _send_with_body(self, conn: UpstreamConnection, head: bytes) -> None:
        conn.request_done = self._client.body_done
        if not conn.request_done:
            # The head cannot be late before the request is whole; until then the client's own time counts.
            conn.deadline = _NEVER
        replay = self._replay
        assert replay is not None
        self._runtime.write(conn.transport, b"".join((head, *replay.pieces)))
        if self.expects and not replay.pieces:
            self._client.write(_CONTINUE)
        self._trim(replay)
        self._client.resume()

    # The request's body

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

    def _tell_over(self, error: RouterError | None) -> None:
        """Tells observers that the exchange is over, and the log why it failed, under the id that the client saw."""
        if self._tokens is not None:
            self._runtime.observers.request_ended(self._tokens, self.exchange, error)
        if error is not None:
            level = logging.DEBUG if error.source == "client" else logging.WARNING
            exchange = self.exchange
            log.log(level, "request %s, pool %r: %s: %r", exchange.id, exchange.pool, error.kind, error.detail)
