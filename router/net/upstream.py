"""A connection to an endpoint: one attempt at a time, foreign exceptions mapped to ours.

A connection is idle, or belongs to one attempt until the last byte of its response. Bytes that arrive on an idle
one, or after its end, close it: they never reach another exchange. Bodies of known length go from socket to socket.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from router.errors import BodyError, ProtocolError, ResetError, RouterError, UpstreamTimeout
from router.model import Attempt, Exchange
from router.net.body import Body, broken_off, late_piece, no_head
from router.net.framing import BadFraming
from router.net.heads import HEAD_END, final_head, without_body
from router.net.sink import Sink, Switch
from router.policy.plain import BODY_TO_END, ResponseHead
from router.policy.upgrades import read_switch

if TYPE_CHECKING:
    from router.net.connections import Connections

__all__ = ["UpstreamConnection"]

_NEVER = float("inf")
_NO_ATTEMPT: Any = None
#: Responses of 1xx before the final one.
_MOST_INTERIM = 64


class UpstreamConnection(asyncio.Protocol):
    """One connection. Its phases: idle, waiting for a head, relaying a body."""

    __slots__ = (
        "_begun",
        "_body",
        "_buffer",
        "_closes",
        "_exchange",
        "_home",
        "_interim",
        "_sink",
        "attempt",
        "deadline",
        "idle_since",
        "request_done",
        "transport",
    )

    def __init__(self, home: Connections) -> None:
        self._home = home
        self._begun = 0
        self._buffer = b""
        self._closes = False
        #: Of the response under way; None until its head is here.
        self._body: Body | None = None
        #: None while idle.
        self._sink: Sink | None = None
        self.attempt: Attempt = _NO_ATTEMPT
        self.deadline = _NEVER
        self.idle_since = 0.0
        self._exchange: Exchange = _NO_ATTEMPT
        #: Whether the whole request was written: else the connection cannot be used again.
        self.request_done = True
        self.transport: Any = None

    # Used by the driver

    def begin(self, sink: Sink, attempt: Attempt, exchange: Exchange, now: float) -> None:
        """Takes the connection for one attempt; the driver then writes the request."""
        self._sink = sink
        self.attempt = attempt
        self._interim = 0
        self._exchange = exchange
        self._begun = self._home.runtime.flushes
        self.deadline = now + attempt.timeout

    def was_sent(self) -> bool:
        """Whether the attempt's request has been handed to the transport."""
        return self._begun != self._home.runtime.flushes

    def request_sent(self) -> None:
        """The request is whole: from now on its head may be late."""
        self.request_done = self.attempt.whole = True
        if self._body is None:
            self.attempt.sent_at = now = self._home.runtime.clock()
            self.deadline = now + self.attempt.timeout

    def abandon(self) -> None:
        """Over from the driver's side: closes at once, nothing more is told."""
        self._finish()
        if self.transport is not None:
            self.transport.abort()

    def is_alive(self) -> bool:
        return self.transport is not None and not self.transport.is_closing()

    def pause(self) -> None:
        """Stops reading until `resume`, without blame for it; not if it is idle already, to hear of its end."""
        if self._sink is not None and self.is_alive():
            self.deadline = _NEVER
            if self._body is not None:
                self._body.hold(self._home.runtime.clock())
            self.transport.pause_reading()

    def resume(self) -> None:
        if self.is_alive() and self._sink is not None:
            self.transport.resume_reading()
            self.deadline = self._body_due(now := self._home.runtime.clock())
            if self._body is not None:
                self._body.let_go(now)

    # Called by the loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self._home.runtime.sweeper.add(self)

    def data_received(self, data: bytes) -> None:
        if self._sink is None:
            # Nobody asked: whatever this is, it must not become the next client's answer.
            self._home.drop(self)
            self.transport.abort()
        elif self._begun == self._home.runtime.flushes:
            self._fail(ResetError("bytes before the request was sent"))
        elif self._body is not None:
            self._feed(self._body, data)
        else:
            self._heads(self._buffer + data if self._buffer else data)

    def eof_received(self) -> None:
        self._ended(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        self._home.runtime.sweeper.discard(self)
        self._ended(exc)

    def pause_writing(self) -> None:
        if self._sink is not None:
            # Now it is the endpoint that has to take the next piece in time.
            self.deadline = self._home.runtime.clock() + self._home.stream_timeout
            self._sink.on_full()

    def resume_writing(self) -> None:
        if self._sink is not None:
            self.deadline = self._body_due(self._home.runtime.clock()) if self._body is not None else _NEVER
            if self.request_done:
                self.request_sent()
            self._sink.on_drained()

    def expired(self) -> None:
        """Called by the sweeper: idle for long; or no head, or no further piece of a body, in time."""
        if self._sink is None:
            self._home.drop(self)
            self.abandon()
        elif self._body is None:
            self._fail(UpstreamTimeout(f"no response head within {self.attempt.timeout:g} s"))
        else:
            self._fail(late_piece(over=self._exchange.deadline <= self._home.runtime.clock()))

    # Heads

    def _heads(self, data: bytes) -> None:
        """Takes heads off `data` until the final one, and the first piece of the body behind it."""
        runtime = self._home.runtime
        try:
            while (end := data.find(HEAD_END) + 4) > 3:
                if end > runtime.max_head:
                    raise ProtocolError("the response's head is too large")
                head = data[:end]
                data = data[end:]
                found = runtime.plain_responses.read(head, self._home) or self._parsed(head, data)
                if found is not None:
                    self._final(found, data)
                if found is not None or self._sink is None:
                    return
            if len(data) > runtime.max_head:
                raise ProtocolError("the response's head is too large")
            if data.count(b"\n") != data.count(b"\r\n"):
                raise ProtocolError("a line of the response's head ends without CR LF")
            self._buffer = data
        except ProtocolError as error:
            self._fail(error)

    def _parsed(self, head: bytes, rest: bytes) -> ResponseHead | None:
        """A head that is not in plain form; None after one that is not final."""
        sink = self._sink
        assert sink is not None
        message = self._home.runtime.response_heads.parse(head)
        if message.code < 100:
            raise ProtocolError("no such status")
        if message.code >= 200:
            return final_head(message, head)
        self._interim += 1
        if self._interim > _MOST_INTERIM:
            raise ProtocolError("interim responses without end")
        if message.code == 101:
            self._switch(sink, message, head, rest)
        else:
            sink.on_interim(self, message)
        return None

    def _switch(self, sink: Sink, message: Any, head: bytes, rest: bytes) -> None:
        """Gives the transport away: this connection is over, its transport is not."""
        if not sink.key:
            raise ProtocolError("101 without having been asked to switch protocols")
        answer = read_switch(message.raw_headers, head[head.find(b"\r\n") : -2], sink.key)
        runtime, transport = self._home.runtime, self.transport
        self._finish()
        self.transport = None
        runtime.sweeper.discard(self)
        sink.on_switch(self, Switch(answer, transport, rest, self._home.stream_timeout), runtime.clock())

    def _final(self, head: ResponseHead, rest: bytes) -> None:
        status, length, _, closes, _, _ = head
        if status in (204, 304) or self._exchange.method == "HEAD":  # no body, whatever is said (RFC 9112 §6.3)
            length, head = 0, without_body(head)
        self._closes = closes or length == BODY_TO_END
        now = self._home.runtime.clock()
        sink = self._sink
        assert sink is not None
        if length == len(rest):
            # The usual case: a small response that came whole.
            self._settle(now)
            sink.on_head(self, head, rest, True, now)
            return
        body = Body(length, payload_only=self._exchange.version < (1, 1))
        try:
            rest = body.feed(rest)
        except BadFraming as error:
            raise ProtocolError(str(error)) from None
        self._go_on(body, now)
        sink.on_head(self, head, rest, body.done, now)

    # Bodies

    def _feed(self, body: Body, data: bytes) -> None:
        try:
            data = body.feed(data)
        except BadFraming as error:
            self._fail(BodyError(str(error), word="garbage"))
            return
        now = self._home.runtime.clock()
        sink = self._sink
        assert sink is not None
        self._go_on(body, now)
        if data or body.done:
            sink.on_body(self, data, body.done, now)

    def _go_on(self, body: Body, now: float) -> None:
        if body.done:
            self._closes = self._closes or bool(body.extra)
            self._settle(now)
        else:
            self._body = body
            self.deadline = self._body_due(now)

    def _body_due(self, now: float) -> float:
        """When the next piece of the response is late: it, or the whole exchange."""
        return min(now + self._home.stream_timeout, self._exchange.deadline)

    # Ends

    def _settle(self, now: float) -> None:
        """The response is complete: back to the idle ones, or close."""
        self._finish()
        if self._closes or not self.request_done:
            if self.transport is not None:
                self.transport.close()
        else:
            self._home.put(self, now)

    def _ended(self, exc: Exception | None) -> None:
        """The endpoint closed, or the connection broke."""
        if self._sink is None:
            self._home.drop(self)
        elif self._body is None:
            if self.idle_since and not self._buffer:
                self._home.distrust()
            self._fail(no_head(exc))
        elif self._body.left == BODY_TO_END and exc is None:
            sink, now = self._sink, self._home.runtime.clock()
            self._settle(now)
            sink.on_body(self, b"", True, now)
        else:
            self._fail(broken_off(exc, self._body))

    def _fail(self, error: RouterError) -> None:
        sink = self._sink
        self.abandon()
        if sink is not None:
            sink.on_failed(self, error)

    def _finish(self) -> None:
        self._sink = None
        self._body = None
        self._buffer = b""
        self.deadline = _NEVER
