"""Reads the answer to a probe, without I/O: bytes in, and at the first moment it is certain, well or ProbeFailed.

Only as much is read as the verdict needs: the head, and of the body what is searched. RFC 9112 strictly: what the
router itself would refuse as garbage makes no server well.
"""

from __future__ import annotations

import re

from router_health.causes import ProbeFailed, lost_failure, shown
from router_health.http_body import Body, body_of
from router_health.pattern import LONGEST

__all__ = ["Answer", "Wanted"]

#: Bytes of all heads of one answer, and of a body.
_MOST = 64 << 10
_VERSION = b"HTTP/1."
_HEAD_END = b"\r\n\r\n"
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9][0-9])(?: [^\r\n\x00]*)?\r\n")
_FIELDS = re.compile(rb"(?:[!#$%&'*+\-.^_`|~0-9A-Za-z]++:[^\r\n\x00]*+\r\n)*+\r\n")
_WHOLE_HEAD = re.compile(_STATUS_LINE.pattern + _FIELDS.pattern)


class Wanted:
    """What an answer has to be like. Made once per probe.

    Args:
        method: of the request: a response to HEAD has no body.
        statuses: those that pass.
        expected: the same as the configuration has them, for people.
        body: must occur in the first 64 KiB of the body; none if empty.
        pattern: must be found in the first LONGEST bytes of it, read as UTF-8.
    """

    __slots__ = ("_plain", "body", "expected", "limit", "method", "pattern", "statuses")

    def __init__(
        self, method: str, statuses: frozenset[int], expected: str, body: str, pattern: re.Pattern[str] | None
    ) -> None:
        self.method = method
        self.statuses = statuses
        self.expected = expected
        self.body = body.encode()
        self.pattern = pattern
        #: Bytes of a body that are read; 0 where its content does not matter.
        self.limit = _MOST if body else LONGEST if pattern is not None else 0
        final = [status for status in statuses if status >= 200 and not self.limit]
        self._plain = frozenset(b"%d" % status for status in final)

    def is_met_at_once(self, data: bytes) -> bool:
        """Whether these first bytes are all it takes, as they mostly are; if not, nothing is said."""
        found = _WHOLE_HEAD.match(data)
        return found is not None and found[2] in self._plain and found.end() <= _MOST

    def judge_status(self, status: int) -> None:
        if status not in self.statuses:
            raise ProbeFailed(f"status {status}, expected {self.expected}")

    def judge_body(self, body: Body) -> None:
        for limit, found, sought in (
            (_MOST, self.body in body.data[:_MOST], f'"{shown(self.body)}"'),
            (LONGEST, self._is_found(body.data[:LONGEST]), "match of body_regex"),
        ):
            if not found:
                whole = body.is_whole and len(body.data) <= limit
                raise ProbeFailed(f"no {sought} in the {'' if whole else f'first {limit >> 10} KiB of the '}body")

    def _is_found(self, data: bytearray) -> bool:
        return self.pattern is None or self.pattern.search(data.decode("utf-8", "replace")) is not None


class Answer:
    """The response as far as it has come. Interim responses (1xx but 101) are passed over."""

    __slots__ = ("_body", "_head", "_line_is_good", "_passed", "_wanted")

    def __init__(self, wanted: Wanted) -> None:
        self._wanted = wanted
        self._head = bytearray()
        self._line_is_good = False
        #: Bytes of interim heads.
        self._passed = 0
        self._body: Body | None = None

    def feed(self, data: bytes) -> bool:
        """Takes what has come; True if the verdict is certain and the server is well.

        Raises:
            ProbeFailed: the verdict is certain, and it is not.
        """
        if self._body is None:
            searched = max(0, len(self._head) - 3)
            self._head += data
            end = self._head_end(searched)
            while end >= 0 and self._is_interim(end):
                end = self._head_end(0)
            if end < 0:
                return False
            if not self._wanted.limit:
                return True
            data = self._begin_body(end)
        body = self._body
        assert body is not None
        body.feed(data)
        if not body.is_whole and len(body.data) < self._wanted.limit:
            return False
        self._wanted.judge_body(body)
        return True

    def end(self, error: Exception | None) -> None:
        """The connection is over: returns if what had come is an answer, whole and as wanted.

        Args:
            error: what ended it; None if the server closed it.

        Raises:
            ProbeFailed: anything else.
        """
        if error is not None:
            raise lost_failure(error, self._place())
        body = self._body
        if body is None:
            begun = self._head or self._passed
            raise ProbeFailed("closed in the head" if begun else "closed without an answer")
        body.end()
        self._wanted.judge_body(body)

    def _place(self) -> str:
        if self._body is not None:
            return "in the body"
        return "in the head" if self._head or self._passed else "before the head"

    def _head_end(self, searched: int) -> int:
        """Where the head at hand ends, its empty line included; -1 if it is not whole yet."""
        head = self._head
        if not self._line_is_good:
            self._check_line()
        found = head.find(_HEAD_END, searched)
        if (found if found >= 0 else len(head)) + self._passed > _MOST:
            raise ProbeFailed(f"no end of the head in the first {_MOST >> 10} KiB")
        return found + 4 if found >= 0 else -1

    def _check_line(self) -> None:
        """Says of what is no HTTP as soon as it shows, for much of it never ends."""
        head = self._head
        if b"\n" in head:
            self._line_is_good = _STATUS_LINE.match(head) is not None
        if not self._line_is_good and (b"\n" in head or not _may_be_http(head)):
            raise ProbeFailed(f'not HTTP/1: "{shown(bytes(head[:240]))}"')

    def _is_interim(self, end: int) -> bool:
        """Judges the head; an interim one is dropped."""
        head = bytes(self._head[:end])
        line = _STATUS_LINE.match(head)
        assert line is not None
        if _FIELDS.fullmatch(head, line.end()) is None:
            raise ProbeFailed(f'not a header: "{shown(_odd_line(head))}"')
        status = int(line[2])
        if 100 <= status < 200 and status != 101:
            self._passed += end
            del self._head[:end]
            self._line_is_good = False
            return True
        self._wanted.judge_status(status)
        return False

    def _begin_body(self, end: int) -> bytes:
        head, rest = bytes(self._head[:end]), bytes(self._head[end:])
        self._body = body_of(head, has_none=self._wanted.method == "HEAD")
        return rest


def _may_be_http(head: bytearray) -> bool:
    return head.startswith(_VERSION[: len(head)])


def _odd_line(head: bytes) -> bytes:
    lines = head.split(b"\r\n")[1:]
    return next((line for line in lines if _FIELDS.fullmatch(line + _HEAD_END) is None), b"")
