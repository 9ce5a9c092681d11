"""Chunked bodies (RFC 9112 §7.1): finds their end, refuses what is ambiguous, drops extensions and trailers.

No I/O. What comes out is either the same chunks, sizes spelled in one way, or the payload alone for an HTTP/1.0 client.
"""

from __future__ import annotations

import re
from collections.abc import Callable

__all__ = ["BadFraming", "Chunked", "Replay"]

_TRAILER = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t\x20-\x7e\x80-\xff]*")
_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})(?:[ \t]*;[\t\x20-\x7e\x80-\xff]*)?")
#: Bytes of a chunk's size line, and of all trailers together, that are read before giving up.
_LONGEST_LINE = 4096
_MOST_TRAILERS = 16 << 10
#: Bytes of all extensions together (RFC 9112 §7.1.1).
_MOST_EXTENSIONS = 16 << 10
#: The last chunk, and no trailers.
_END = b"0\r\n\r\n"


class BadFraming(ValueError):
    """Not a chunked body."""


class Chunked:
    """Reads one chunked body piece by piece."""

    __slots__ = (
        "_extensions",
        "_from",
        "_left",
        "_payload_only",
        "_step",
        "_tail",
        "_trailers",
        "done",
        "extra",
        "payload",
    )

    def __init__(self, *, payload_only: bool = False) -> None:
        self._payload_only = payload_only
        self._tail = b""
        self._left = 0
        self._trailers = self._extensions = 0
        #: Where, in the bytes at hand, that begins which is passed on as it came.
        self._from = 0
        self._step: Callable[[bytes, int, list[bytes]], int] = self._size
        self.done = False
        #: Bytes of the body so far, without its framing.
        self.payload = 0
        #: Bytes after the end of the body.
        self.extra = b""

    def feed(self, data: bytes) -> bytes:
        """Takes the next bytes as they arrived; returns what to pass on.

        Raises:
            BadFraming: with one sentence.
        """
        if self._tail:
            data, self._tail = self._tail + data, b""
        out: list[bytes] = []
        at = self._from = 0
        while not self.done:
            reached = self._step(data, at, out)
            if reached < 0:
                self._tail = data[at:]
                break
            at = reached
        if self.done and at < len(data):
            self.extra = data[at:]
        if self._payload_only:
            return b"".join(out)
        if not out and at == len(data):
            return data
        self._skip(data, at, at, out)
        return b"".join(out)

    def _skip(self, data: bytes, start: int, end: int, out: list[bytes]) -> None:
        """Leaves out what stands between two places."""
        if not self._payload_only:
            out.append(data[self._from : start])
            self._from = end

    # Each step returns where the next one starts, or -1 if it needs more bytes than there are.

    def _line(self, data: bytes, at: int) -> int:
        end = data.find(b"\n", at)
        if (end if end >= 0 else len(data)) - at > _LONGEST_LINE:
            raise BadFraming("a line of the chunked body is too long")
        if end < 0:
            return -1
        if end == at or data[end - 1] != 13:
            raise BadFraming("a line of the chunked body ends without CR LF")
        return end - 1

    def _size(self, data: bytes, at: int, out: list[bytes]) -> int:
        end = self._line(data, at)
        if end < 0:
            return -1
        found = _SIZE.fullmatch(data, at, end)
        if found is None:
            raise BadFraming("a chunk's size is not a hexadecimal number")
        self._left = int(found[1], 16)
        self._extensions += end - found.end(1)
        if self._extensions > _MOST_EXTENSIONS:
            raise BadFraming("the extensions of the chunked body are too large")
        if not self._left:
            return self._last(data, at, end, out)
        plain = b"%x" % self._left
        if data[at:end] != plain and not self._payload_only:
            self._skip(data, at, end, out)
            out.append(plain)
        self._step = self._data
        return end + 2

    def _last(self, data: bytes, at: int, end: int, out: list[bytes]) -> int:
        if data.startswith(_END, at):
            self.done = True
            return at + len(_END)
        # Nothing of the end is passed on before all of it is here: half an end may look like a whole one.
        self._skip(data, at, end + 2, out)
        self._step = self._trailer
        return end + 2

    def _data(self, data: bytes, at: int, out: list[bytes]) -> int:
        size = min(self._left, len(data) - at)
        if not size:
            return -1
        self._left -= size
        self.payload += size
        if self._payload_only:
            out.append(data[at : at + size])
        if not self._left:
            self._step = self._data_end
        return at + size

    def _data_end(self, data: bytes, at: int, out: list[bytes]) -> int:
        end = data[at : at + 2]
        if len(end) < 2 and b"\r\n".startswith(end):
            return -1
        if end != b"\r\n":
            raise BadFraming("a chunk is longer than its size")
        self._step = self._size
        return at + 2

    def _trailer(self, data: bytes, at: int, out: list[bytes]) -> int:
        end = self._line(data, at)
        if end < 0:
            return -1
        if end == at:
            self.done = True
            self._skip(data, at, end + 2, out)
            if not self._payload_only:
                out.append(_END)
            return end + 2
        self._trailers += end - at
        if self._trailers > _MOST_TRAILERS:
            raise BadFraming("the trailers of the chunked body are too large")
        if _TRAILER.fullmatch(data, at, end) is None:
            raise BadFraming("a trailer of the chunked body is no field")
        self._skip(data, at, end + 2, out)
        return end + 2


class Replay:
    """A request's body so far, held for another attempt; given up once it is large."""

    __slots__ = ("_size", "pieces")

    def __init__(self) -> None:
        #: Empty after it was given up.
        self.pieces: list[bytes] = []
        self._size = 0

    def add(self, data: bytes) -> None:
        if data and self._size >= 0:
            self.pieces.append(data)
            self._size += len(data)

    def trim(self, limit: int) -> bool:
        """Gives up what is larger than `limit` bytes; True if it was given up, now or before."""
        if self._size > limit:
            self.pieces = []
            self._size = -1
        return self._size < 0
