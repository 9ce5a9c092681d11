"""The body of an answer by its framing (RFC 9112 §6.3): of known length, in chunks, or up to the connection's end.

Holds what has come, without framing. Bytes after the body's end are nobody's, and are not looked at.
"""

from __future__ import annotations

import re

from router_health.causes import ProbeFailed, shown

__all__ = ["Body", "body_of"]

_SIZE = re.compile(rb"([0-9A-Fa-f]{1,16})[ \t]*(?:;[^\r\n]*)?")
#: Bytes of chunk extensions and trailers in one body: whoever sends more has something else in mind.
_MOST_AROUND = 16 << 10


class Body:
    """A body that ends with the connection; base of the others."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.is_whole = False

    def feed(self, data: bytes) -> None:
        """Takes what has come. Raises ProbeFailed if it cannot be a body."""
        self.data += data

    def end(self) -> None:
        """The connection is over. Raises ProbeFailed if the body is not whole."""
        self.is_whole = True


class _Counted(Body):
    """A body of known length."""

    def __init__(self, length: int) -> None:
        super().__init__()
        self._length = length
        self.is_whole = not length

    def feed(self, data: bytes) -> None:
        self.data += data[: self._length - len(self.data)]
        self.is_whole = len(self.data) == self._length

    def end(self) -> None:
        raise ProbeFailed(f"closed after {len(self.data)} of {self._length} bytes of the body")


class _Chunked(Body):
    """A body in chunks (RFC 9112 §7.1)."""

    def __init__(self) -> None:
        super().__init__()
        self._rest = bytearray()
        #: Bytes that are missing of the chunk under way.
        self._left = 0
        #: What the next line is: "size", "end" of a chunk, or "trailer".
        self._next = "size"
        self._around = 0

    def feed(self, data: bytes) -> None:
        self._rest += data
        while not self.is_whole and (self._take_data() if self._left else self._take_line()):
            pass

    def end(self) -> None:
        raise ProbeFailed(f"closed within the chunks of the body, after {len(self.data)} bytes")

    def _take_data(self) -> bool:
        piece = self._rest[: self._left]
        self.data += piece
        self._left -= len(piece)
        del self._rest[: len(piece)]
        return not self._left

    def _take_line(self) -> bool:
        end = self._rest.find(b"\r\n")
        if (len(self._rest) if end < 0 else end) + self._around > _MOST_AROUND:
            raise ProbeFailed("too much around the chunks of the body")
        if end < 0:
            return False
        line = bytes(self._rest[:end])
        del self._rest[: end + 2]
        if self._next == "size":
            self._begin_chunk(line)
        elif self._next == "trailer":
            self._around += end
            self.is_whole = not line
        elif line:
            raise ProbeFailed(f'a chunk ends with "{shown(line)}"')
        else:
            self._next = "size"
        return True

    def _begin_chunk(self, line: bytes) -> None:
        size = _SIZE.fullmatch(line)
        if size is None:
            raise ProbeFailed(f'no chunk size: "{shown(line)}"')
        self._around += len(line) - size.end(1)
        self._left = int(size[1], 16)
        self._next = "end" if self._left else "trailer"


def body_of(head: bytes, *, has_none: bool) -> Body:
    """The body that a final response's head announces.

    Args:
        head: checked, with its empty line.
        has_none: whether the method was HEAD.

    Raises:
        ProbeFailed: its framing is ambiguous or of an unknown kind.
    """
    if has_none or head[9:12] in (b"204", b"304"):
        return _Counted(0)
    fields = [line.partition(b":") for line in head.split(b"\r\n")[1:-2]]
    lengths = {value.strip(b" \t") for name, _, value in fields if name.lower() == b"content-length"}
    codings = [value.strip(b" \t").lower() for name, _, value in fields if name.lower() == b"transfer-encoding"]
    if codings:
        if lengths:
            raise ProbeFailed("both Content-Length and Transfer-Encoding")
        if codings != [b"chunked"] or head[7:8] == b"0":
            raise ProbeFailed(f'the body is in "{shown(b", ".join(codings))}", which is not understood')
        return _Chunked()
    if not lengths:
        return Body()
    length = lengths.pop()
    if lengths or not (length.isdigit() and len(length) < 19):
        raise ProbeFailed(f'Content-Length is "{shown(length)}"' if not lengths else "more than one Content-Length")
    return _Counted(int(length))
