"""The body of one message as it comes in: where it ends, and how much of it there may be."""

from __future__ import annotations

from router.errors import BadRequest, BodyError, BodyTooLarge, ResetError
from router.net.framing import BadFraming, Chunked
from router.policy.plain import BODY_CHUNKED

__all__ = ["Body", "RequestBody", "broken_off", "late_piece", "no_head"]

_NO_LIMIT = float("inf")
#: A server that was kept waiting for so long is not to blame for giving up (seconds).
_LONG = 1.0


class Body:
    """Finds the end.

    Args:
        length: bytes, BODY_CHUNKED or BODY_TO_END.
        payload_only: chunks come without their framing, for an HTTP/1.0 client.
    """

    __slots__ = ("_chunked", "_held_since", "done", "extra", "held", "left")

    def __init__(self, length: int, *, payload_only: bool = False) -> None:
        #: Bytes to come where the length is known, else what `length` says.
        self.left = length
        self.done = False
        #: Bytes behind the end.
        self.extra = b""
        self._chunked = Chunked(payload_only=payload_only) if length == BODY_CHUNKED else None
        #: Seconds for which nobody wanted more of it, and since when that is so.
        self.held = 0.0
        self._held_since = 0.0

    def feed(self, data: bytes) -> bytes:
        """Takes the next bytes as they arrived; returns what to pass on.

        Raises:
            BadFraming: the chunks are no chunks.
        """
        chunked = self._chunked
        if chunked is not None:
            piece = chunked.feed(data)
            self.done, self.extra = chunked.done, chunked.extra
            return piece
        if self.left < 0:
            return data
        self.left -= len(data)
        if self.left > 0:
            return data
        self.done = True
        if self.left < 0:
            self.extra = data[self.left :]
            return data[: self.left]
        return data

    def hold(self, now: float) -> None:
        """Whoever it is for cannot take more."""
        self._held_since = self._held_since or now

    def let_go(self, now: float) -> None:
        """More of it is wanted."""
        if self._held_since:
            self.held += now - self._held_since
            self._held_since = 0.0


class RequestBody(Body):
    """A body that a client sends, up to a limit."""

    __slots__ = ("_most", "_told", "recent")

    def __init__(self, length: int) -> None:
        super().__init__(length)
        self._told = length
        #: Bytes since the client was last found to be sending fast enough.
        self.recent = 0
        self._most = _NO_LIMIT

    def allow(self, most: float) -> bool:
        """Sets the limit, in bytes; False if there is more already, or the head told of more."""
        self._most = most
        return (self._told if self._chunked is None else self._chunked.payload) <= most

    def feed(self, data: bytes) -> bytes:
        """As Body.feed.

        Raises:
            BadRequest: the chunks are no chunks. BodyTooLarge.
        """
        try:
            piece = super().feed(data)
        except BadFraming as error:
            raise BadRequest(str(error)) from None
        if self._chunked is not None and self._chunked.payload > self._most:
            raise BodyTooLarge(f"more than max_body = {self._most:g} bytes")
        return piece


def _why(exc: Exception | None) -> str:
    """Why a connection ended, for the log."""
    return "end of stream" if exc is None else getattr(exc, "strerror", None) or type(exc).__name__


def no_head(exc: Exception | None) -> ResetError:
    """The error of a response whose connection ended before its head was whole."""
    return ResetError(f"closed before the response's head was complete ({_why(exc)})")


def broken_off(exc: Exception | None, body: Body) -> BodyError:
    """The error of a response whose connection ended before its body did."""
    word = "truncated" if exc is None else "reset"
    error = BodyError(f"closed before the response's body was complete ({_why(exc)})", word=word)
    # A server may well give up one who does not read.
    error.excused = body.held >= _LONG
    return error


def late_piece(*, over: bool) -> BodyError:
    """The error of a body that is late; `over`: it is the whole exchange that is."""
    error = BodyError("the route's timeout is over" if over else "no further piece of the body in time", word="timeout")
    error.excused = over
    return error
