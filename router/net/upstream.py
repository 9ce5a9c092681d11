"""A connection to an endpoint: one attempt at a time, foreign exceptions mapped to ours.

A connection is idle, or belongs to one attempt until the last byte of its response. Bytes that arrive on an idle one, or
after a response's end, close it: they never reach another exchange. Bodies of known length pass from socket to socket.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Protocol

from router.errors import BodyError, ProtocolError, ResetError, RouterError, UpstreamTimeout
from router.model import Attempt
from router.net.deadlines import Deadlines
from router.net.framing import BadFraming, Chunked
from router.net.heads import HEAD_END
from router.policy.headers import BODY_CHUNKED, BODY_TO_END, ResponseHead, has_control_bytes, read_response

if TYPE_CHECKING:
    from router.net.connections import Connections

__all__ = ["Sink", "UpstreamConnection"]

_NO_ATTEMPT: Any = None


class Sink(Protocol):
    """What a connection tells about its attempt (net/forward.py)."""

    def on_head(self, conn: UpstreamConnection, message: Any, head: ResponseHead, body: bytes, done: bool) -> None: ...
    def on_interim(self, conn: UpstreamConnection, message: Any) -> None: ...
    def on_body(self, conn: UpstreamConnection, data: bytes, done: bool) -> None: ...
    def on_failed(self, conn: UpstreamConnection, error: RouterError) -> None: ...
    def on_full(self, conn: UpstreamConnection) -> None: ...
    def on_drained(self, conn: UpstreamConnection) -> None: ...


class UpstreamConnection(asyncio.Protocol):
    """One connection. Its phases: idle, waiting for a head, relaying a body."""

    __slots__ = (
        "_buffer",
        "_chunked",
        "_closes",
        "_home",
        "_left",
        "_sink",
        "_timer",
        "_watch",
        "attempt",
        "idle_since",
        "method",
        "payload_only",
        "request_done",
        "transport",
    )

    def __init__(self, home: Connections) -> None:
        self._home = home
        self._buffer = b""
        self._chunked: Chunked | None = None
        self._closes = False
        #: Body bytes to come, or None while waiting for a head.
        self._left: float | None = None
        self._sink: Sink | None = None
        self._watch: Deadlines | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.attempt: Attempt = _NO_ATTEMPT
        self.idle_since = 0.0
        self.method = ""
        #: Chunked bodies come without their framing, for an HTTP/1.0 client.
        self.payload_only = False
        #: Whether the whole request was written: else the connection cannot be used again.
        self.request_done = True
        self.transport: Any = None

    # Used by the driver

    def begin(self, sink: Sink, attempt: Attempt, method: str, timeout: float) -> None:
        """Takes the connection for one attempt; the driver then writes the request.

        Args:
            timeout: seconds until the head must be here.
        """
        self._sink = sink
        self.attempt = attempt
        self.method = method
        self._left = None
        runtime = self._home.runtime
        watch = runtime.watches.get(timeout)
        if watch is not None:
            self._watch = watch
            watch.add(self)
        elif timeout != float("inf"):
            self._timer = runtime.loop.call_later(max(timeout, 0), self.expired)

    def write(self, data: bytes) -> None:
        self.transport.write(data)

    def abandon(self) -> None:
        """The attempt is over from the driver's side: closes at once, nothing more is told."""
        self._finish()
        if self.transport is not None:
            self.transport.abort()

    def is_alive(self) -> bool:
        return self.transport is not None and not self.transport.is_closing()

    def pause(self) -> None:
        """Stops reading until `resume`; the endpoint is not blamed for the client's slowness meanwhile."""
        self._unwatch()
        if self.is_alive():
            self.transport.pause_reading()

    def resume(self) -> None:
        if self.is_alive() and self._sink is not None:
            self.transport.resume_reading()
            self._watch_stream()

    # Called by the loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        if self._sink is None:
            # Nobody asked: whatever this is, it must not become the next client's answer.
            self._home.drop(self)
            self.transport.abort()
        elif self._left is None:
            self._head(data)
        else:
            self._body(data)

    def eof_received(self) -> None:
        self._ended(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        self._ended(exc)

    def pause_writing(self) -> None:
        if self._sink is not None:
            self._sink.on_full(self)

    def resume_writing(self) -> None:
        if self._sink is not None:
            self._sink.on_drained(self)

    def expired(self) -> None:
        """Called by the watch: no head, or no further piece of the body, in time."""
        if self._left is None:
            self._fail(UpstreamTimeout("no response head in time"))
        else:
            self._fail(BodyError("no further piece of the body in time"))

    # Heads

    def _head(self, data: bytes) -> None:
        if self._buffer:
            data, self._buffer = self._buffer + data, b""
        try:
            while (end := data.find(HEAD_END) + 4) > 3:
                head = data if end == len(data) else data[:end]
                data = data[end:]
                if self._one_head(head, data):
                    return
        except ProtocolError as error:
            self._fail(error)
            return
        if len(data) > self._home.runtime.max_head:
            self._fail(ProtocolError("the response's head is too large"))
        elif data:
            self._buffer = data

    def _one_head(self, head: bytes, rest: bytes) -> bool:
        """Takes one whole head; False if it was an interim one and the final one is still to come."""
        if has_control_bytes(head):
            raise ProtocolError("control bytes or bare line ends in the response's head")
        runtime = self._home.runtime
        message = runtime.response_heads.parse(head)
        status = message.code
        if status < 200:
            if status == 101:
                raise ProtocolError("101 without having been asked to switch protocols")
            if self._sink is not None:
                self._sink.on_interim(self, message)
            return False
        fields = read_response(message.raw_headers, status, self.method)
        # HTTP/1.0 closes unless it says otherwise; so does what ends by closing.
        self._closes = message.should_close or fields.closes or fields.length == BODY_TO_END
        self._unwatch()
        self._begin_body(message, fields, rest)
        return True

    def _begin_body(self, message: Any, fields: ResponseHead, rest: bytes) -> None:
        length = fields.length
        if length >= 0:
            body = self._cut(length, rest)
            done = self._left == 0
        elif length == BODY_CHUNKED:
            self._chunked = Chunked(payload_only=self.payload_only)
            self._left = float("inf")
            body, done = self._unchunk(rest)
        else:
            self._left = float("inf")
            body, done = rest, False
        sink = self._sink
        if sink is None:
            return
        if done:
            self._settle()
        else:
            self._watch_stream()
        sink.on_head(self, message, fields, body, done)

    def _cut(self, length: int, data: bytes) -> bytes:
        """The part of `data` that belongs to a body of which `length` bytes are to come."""
        over = len(data) - length
        if over > 0:
            self._closes = True
            data = data[:length]
        self._left = length - len(data)
        return data

    # Bodies

    def _body(self, data: bytes) -> None:
        if self._chunked is not None:
            try:
                data, done = self._unchunk(data)
            except ProtocolError as error:
                self._fail(BodyError(error.detail))
                return
        elif self._left == float("inf"):
            done = False
        else:
            assert self._left is not None
            data = self._cut(int(self._left), data)
            done = self._left == 0
        sink = self._sink
        if sink is None:
            return
        if done:
            self._settle()
        elif self._watch is not None:
            self._watch.add(self)
        if data or done:
            sink.on_body(self, data, done)

    def _unchunk(self, data: bytes) -> tuple[bytes, bool]:
        assert self._chunked is not None
        try:
            data = self._chunked.feed(data)
        except BadFraming as error:
            raise ProtocolError(str(error)) from None
        if self._chunked.extra:
            self._closes = True
        return data, self._chunked.done

    # Ends

    def _settle(self) -> None:
        """The response is complete: back to the idle ones, or close."""
        self._finish()
        if self._closes or not self.request_done or not self.is_alive():
            if self.transport is not None:
                self.transport.close()
        else:
            self._home.put(self)

    def _ended(self, exc: Exception | None) -> None:
        """The endpoint closed, or the connection broke."""
        if self._sink is None:
            self._home.drop(self)
        elif self._left is None:
            self._fail(ResetError(f"closed before the response's head was complete ({_why(exc)})"))
        elif self._left == float("inf") and self._chunked is None and exc is None:
            sink = self._sink
            self._settle()
            sink.on_body(self, b"", True)
        else:
            self._fail(BodyError(f"closed before the response's body was complete ({_why(exc)})"))

    def _fail(self, error: RouterError) -> None:
        sink = self._sink
        self.abandon()
        if sink is not None:
            sink.on_failed(self, error)

    def _finish(self) -> None:
        self._unwatch()
        self._sink = None
        self._chunked = None
        self._left = None
        self._buffer = b""

    def _watch_stream(self) -> None:
        self._watch = self._home.stream_watch
        self._watch.add(self)

    def _unwatch(self) -> None:
        if self._watch is not None:
            self._watch.discard(self)
            self._watch = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _why(exc: Exception | None) -> str:
    if exc is None:
        return "end of stream"
    return getattr(exc, "strerror", None) or type(exc).__name__
