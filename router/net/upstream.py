"""A connection to an endpoint: one attempt at a time, foreign exceptions mapped to ours.

A connection is idle, or belongs to one attempt until the last byte of its response. Bytes that arrive on an idle
one, or after its end, close it: they never reach another exchange. Bodies of known length go from socket to socket.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from router.errors import BodyError, ProtocolError, ResetError, RouterError, UpstreamTimeout
from router.model import Attempt
from router.net.framing import BadFraming, Chunked
from router.net.heads import HEAD_END
from router.net.sink import Sink
from router.policy.headers import BODY_CHUNKED, BODY_TO_END, has_control_bytes, read_response

if TYPE_CHECKING:
    from router.net.connections import Connections

__all__ = ["UpstreamConnection"]

_NEVER = float("inf")
#: Of `_left`: a head is awaited; the body's framing says where it ends; the end of the connection says it.
_HEAD, _FRAMED, _TO_END = -1, -2, -3
_NO_ATTEMPT: Any = None


class UpstreamConnection(asyncio.Protocol):
    """One connection. Its phases: idle, waiting for a head, relaying a body."""

    __slots__ = (
        "_begun",
        "_buffer",
        "_chunked",
        "_closes",
        "_home",
        "_left",
        "_sink",
        "attempt",
        "deadline",
        "idle_since",
        "method",
        "payload_only",
        "request_done",
        "transport",
    )

    def __init__(self, home: Connections) -> None:
        self._home = home
        self._begun = 0
        self._buffer = b""
        self._chunked: Chunked | None = None
        self._closes = False
        #: Body bytes to come, or one of the phases above.
        self._left = _HEAD
        #: None while idle.
        self._sink: Sink | None = None
        self.attempt: Attempt = _NO_ATTEMPT
        self.deadline = _NEVER
        self.idle_since = 0.0
        self.method = ""
        #: Chunked bodies come without their framing, for an HTTP/1.0 client.
        self.payload_only = False
        #: Whether the whole request was written: else the connection cannot be used again.
        self.request_done = True
        self.transport: Any = None

    # Used by the driver

    def begin(self, sink: Sink, attempt: Attempt, method: str, now: float) -> None:
        """Takes the connection for one attempt; the driver then writes the request."""
        self._sink = sink
        self.attempt = attempt
        self.method = method
        self._begun = self._home.runtime.flushes
        self.deadline = now + attempt.timeout

    def was_sent(self) -> bool:
        """Whether the attempt's request has been handed to the transport."""
        return self._begun != self._home.runtime.flushes

    def request_sent(self) -> None:
        """The request is whole: from now on its head may be late."""
        self.request_done = True
        if self._left == _HEAD:
            self.deadline = self._home.runtime.clock() + self.attempt.timeout

    def abandon(self) -> None:
        """Over from the driver's side: closes at once, nothing more is told."""
        self._finish()
        if self.transport is not None:
            self.transport.abort()

    def is_alive(self) -> bool:
        return self.transport is not None and not self.transport.is_closing()

    def pause(self) -> None:
        """Stops reading until `resume`; the endpoint is not blamed for the client's slowness meanwhile."""
        # One whose response is complete is idle already, and has to hear of its end.
        if self._sink is not None and self.is_alive():
            self.deadline = _NEVER
            self.transport.pause_reading()

    def resume(self) -> None:
        if self.is_alive() and self._sink is not None:
            self.transport.resume_reading()
            self.deadline = self._home.runtime.clock() + self._home.stream_timeout

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
        elif self._left == _HEAD:
            self._heads(self._buffer + data if self._buffer else data)
        else:
            self._body(data)

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
            self.deadline = _NEVER
            if self.request_done:
                self.request_sent()
            self._sink.on_drained()

    def expired(self) -> None:
        """Called by the sweeper: idle for long; or no head, or no further piece of a body, in time."""
        if self._sink is None:
            self._home.drop(self)
            self.abandon()
        elif self._left == _HEAD:
            self._fail(UpstreamTimeout("no response head in time"))
        else:
            self._fail(BodyError("no further piece of the body in time"))

    # Heads

    def _heads(self, data: bytes) -> None:
        """Takes heads off `data` until the final one, and the first piece of the body behind it."""
        runtime = self._home.runtime
        try:
            while (end := data.find(HEAD_END) + 4) > 3:
                head = data if end == len(data) else data[:end]
                message = runtime.response_heads.parse(head)
                if has_control_bytes(head, len(message.raw_headers) + 2):
                    raise ProtocolError("control bytes or bare line ends in the response's head")
                data = data[end:]
                if message.code >= 200:
                    self._final(message, head, data)
                    return
                if message.code == 101:
                    raise ProtocolError("101 without having been asked to switch protocols")
                assert self._sink is not None
                self._sink.on_interim(self, message)
            if len(data) > runtime.max_head:
                raise ProtocolError("the response's head is too large")
            self._buffer = data
        except ProtocolError as error:
            self._fail(error)

    def _final(self, message: Any, head: bytes, rest: bytes) -> None:
        lines = head[head.find(b"\r\n") : -2]
        fields = read_response(message.raw_headers, lines, message.code, self.method)
        length = fields[1]
        # HTTP/1.0 closes unless it says otherwise; so does what ends by closing.
        self._closes = fields[2] or length == BODY_TO_END or message.should_close
        now = self._home.runtime.clock()
        sink = self._sink
        assert sink is not None
        if length == len(rest):
            # The usual case: a small response that came whole.
            self._settle(now)
            sink.on_head(self, message, fields, rest, True, now)
            return
        if length >= 0:
            rest, done = self._cut(length, rest)
        elif length == BODY_CHUNKED:
            self._left = _FRAMED
            self._chunked = Chunked(payload_only=self.payload_only)
            rest, done = self._unchunk(rest)
        else:
            self._left, done = _TO_END, False
        self._go_on(done, now)
        sink.on_head(self, message, fields, rest, done, now)

    # Bodies

    def _body(self, data: bytes) -> None:
        now = self._home.runtime.clock()
        done = False
        if self._left >= 0:
            data, done = self._cut(self._left, data)
        elif self._chunked is not None:
            try:
                data, done = self._unchunk(data)
            except ProtocolError as error:
                self._fail(BodyError(error.detail))
                return
        sink = self._sink
        assert sink is not None
        self._go_on(done, now)
        if data or done:
            sink.on_body(self, data, done, now)

    def _cut(self, length: int, data: bytes) -> tuple[bytes, bool]:
        """The part of `data` that belongs to a body of which `length` bytes are to come, and whether that is all."""
        self._left = length - len(data)
        if self._left >= 0:
            return data, self._left == 0
        self._closes = True
        return data[:length], True

    def _unchunk(self, data: bytes) -> tuple[bytes, bool]:
        chunked = self._chunked
        assert chunked is not None
        try:
            data = chunked.feed(data)
        except BadFraming as error:
            raise ProtocolError(str(error)) from None
        self._closes = self._closes or bool(chunked.extra)
        return data, chunked.done

    def _go_on(self, done: bool, now: float) -> None:
        if done:
            self._settle(now)
        else:
            self.deadline = now + self._home.stream_timeout

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
        elif self._left == _HEAD:
            self._fail(ResetError(f"closed before the response's head was complete ({_why(exc)})"))
        elif self._left == _TO_END and exc is None:
            sink, now = self._sink, self._home.runtime.clock()
            self._settle(now)
            sink.on_body(self, b"", True, now)
        else:
            self._fail(BodyError(f"closed before the response's body was complete ({_why(exc)})"))

    def _fail(self, error: RouterError) -> None:
        sink = self._sink
        self.abandon()
        if sink is not None:
            sink.on_failed(self, error)

    def _finish(self) -> None:
        self._sink = None
        self._chunked = None
        self._left = _HEAD
        self._buffer = b""
        self.deadline = _NEVER


def _why(exc: Exception | None) -> str:
    if exc is None:
        return "end of stream"
    return getattr(exc, "strerror", None) or type(exc).__name__
