"""Heads in plain form: what every parser reads alike, read at a fraction of a parser's price.

A head is plain if it is written as nearly all are: a known method, HTTP/1.1, whole CR LF lines of `Name: value`, no
control bytes, no special field twice, none that asks for a decision. Whatever is not plain is left to the parser, which
alone refuses; nothing is let through here that the parser would refuse (tests compare the two).

Senders repeat themselves: most heads have the same names in the same order, whatever their values. Such a sequence of
names is a shape, and a shape that was met often enough becomes one regular expression that checks and takes apart.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Protocol

import msgspec

from router.policy.fields import (
    CODING,
    CONNECTION,
    COOKIE,
    DATE,
    DROP,
    HOST,
    ID,
    LENGTH,
    ONCE,
    PLAIN,
    REQUEST_CODES,
    RESPONSE_CODES,
)

__all__ = [
    "BODY_CHUNKED",
    "BODY_TO_END",
    "NO_SHAPE",
    "PlainRequests",
    "PlainResponses",
    "ResponseHead",
    "Sender",
    "Shape",
]

#: Lengths that are no length.
BODY_CHUNKED = -1
BODY_TO_END = -2

#: Status; bytes of the body, BODY_CHUNKED or BODY_TO_END; the head without the fields that do not go on, empty line
#: included; whether the endpoint closes after it; whether it has a Date; whether it has an X-Request-ID.
ResponseHead = tuple[int, int, bytes, bool, bool, bool]

#: Method, target, Host, bytes of the body, the head without the fields that do not go on, and whether the client's
#: connection closes after the response; where in that head the value of the one Cookie field begins, and the value: 0
#: and b"" if it has to be looked for.
RequestHead = tuple[bytes, bytes, bytes, int, bytes, bool, int, bytes]

#: The name of each field; one that is written in another way is not found.
_NAMES = re.compile(rb"(?<=\n)([!#$%&'*+.^_`|~0-9A-Za-z-]++): [^\r\n]*+\r\n").findall
_VALUE = rb"[\t -~\x80-\xff]*+"
_VALUES = {
    # A name or an IPv4 address, and a port up to 64999: whatever else is a host, split_host (normal.py) decides.
    HOST: rb"([0-9A-Za-z._~-]++(?::(?:[1-5][0-9]{4}|6[0-4][0-9]{3}|[0-9]{0,4}+))?+)[\t ]*+",
    LENGTH: rb"([0-9]{1,18}+)",
    CODING: rb"chunked",
    CONNECTION: rb"(?:keep-alive|(close))",
    COOKIE: rb"([!-~][\t -~\x80-\xff]*+)",
}
#: What parsers take for more than it is: they refuse a WebSocket of before the standard, and some close for the other.
_ODD = frozenset({b"sec-websocket-key1", b"proxy-connection"})


class Shape(msgspec.Struct, frozen=True, eq=False):
    """One sequence of names, equal to none but itself. Numbers are groups of the match, 0 for none."""

    match: Callable[[bytes], re.Match[bytes] | None]
    host: int = 0
    length: int = 0
    chunked: bool = False
    close: int = 0
    #: Whole lines that do not go on, the last one first.
    dropped: tuple[int, ...] = ()
    has_date: bool = False
    has_id: bool = False
    #: Of the one Cookie field.
    cookie: int = 0


NO_SHAPE = Shape(re.compile(rb"(?!)").match)


class Sender(Protocol):
    """Who sends heads of mostly one shape: a client connection, an endpoint."""

    shape: Shape


class _Shapes(dict[tuple[bytes, ...], "Shape | int"]):
    """Shapes by their names; for those not met often enough yet, how often they were. Bounded; made anew when full.

    Making one costs as much as some twenty requests, so names that senders make up must not make one each.

    Args:
        most: fields in a head.
    """

    SHAPES = 512
    OFTEN = 100
    LONGEST = 2048
    #: Fields; an expression for more takes milliseconds to make.
    FIELDS = 40

    #: The first line, with the groups that every match has.
    first: bytes
    codes: dict[bytes, int]
    allowed: frozenset[int]
    dropped: frozenset[int]

    def __init__(self, most: int) -> None:
        super().__init__()
        self._most = min(most, self.FIELDS)

    def find(self, head: bytes) -> Shape | None:
        """The shape of a head, if it is known by now."""
        names = tuple(_NAMES(head))
        met = self.get(names, 0)
        if isinstance(met, Shape):
            return met
        if len(names) > self._most or sum(map(len, names)) > self.LONGEST or met < 0:
            return None
        if not met and len(self) >= self.SHAPES:
            self.clear()
        self[names] = met + 1 if met < self.OFTEN else self._shape(names) or -1
        return None

    def _other(self, head: bytes, sender: Sender) -> re.Match[bytes] | None:
        """The match of a head that is not of the shape that its sender's last one had."""
        shape = self.find(head)
        match = shape.match(head) if shape is not None else None
        if match is not None and shape is not None:
            sender.shape = shape
        return match

    def _shape(self, names: tuple[bytes, ...]) -> Shape | None:
        codes = [self.codes[name] for name in names]
        if codes.count(COOKIE) > 1:
            codes = [PLAIN if code == COOKIE else code for code in codes]
        once = [name.lower() for name, code in zip(names, codes, strict=True) if code != PLAIN]
        if not self.allowed.issuperset(codes) or len({*once}) != len(once) or {LENGTH, CODING} <= {*codes}:
            return None
        if not _ODD.isdisjoint(map(bytes.lower, names)):
            return None
        pattern, group = self.first, re.compile(self.first).groups
        at: dict[int, int] = {}
        dropped: list[int] = []
        for name, code in zip(names, codes, strict=True):
            line = b"%b: %b\r\n" % (re.escape(name), _VALUES.get(code, _VALUE))
            if code in self.dropped:
                line = b"(%b)" % line
                group += 1
                dropped.insert(0, group)
            if code in (HOST, LENGTH, CONNECTION, COOKIE):
                group += 1
            at[code] = group
            pattern += line
        match = re.compile(pattern + b"\r\n").fullmatch
        return Shape(
            match,
            at.get(HOST, 0),
            at.get(LENGTH, 0),
            CODING in at,
            at.get(CONNECTION, 0),
            tuple(dropped),
            DATE in at,
            ID in at,
            at.get(COOKIE, 0),
        )


class PlainRequests(_Shapes):
    """Reads request heads in plain form."""

    first = rb"(GET|HEAD|POST|PUT|PATCH|DELETE|OPTIONS) (/[!\"$-~]*+) HTTP/1\.1\r\n"
    codes = REQUEST_CODES
    allowed = frozenset({PLAIN, ONCE, HOST, LENGTH, CONNECTION, COOKIE})
    dropped = frozenset({CONNECTION})

    def read(self, head: bytes, sender: Sender) -> RequestHead | None:
        """What a whole head says, or None if the parser has to be asked."""
        match = sender.shape.match(head) or self._other(head, sender)
        if match is None:
            return None
        shape = sender.shape
        host, length, close, dropped, cookie = shape.host, shape.length, shape.close, shape.dropped, shape.cookie
        if not host:
            return None
        at = match.start(cookie) if cookie else 0
        if dropped:
            start, end = match.span(dropped[0])
            head = head[:start] + head[end:]
            at -= end - start if start < at else 0
        size = int(match[length]) if length else 0
        sent = match[cookie] if cookie else b""
        return match[1], match[2], match[host], size, head, bool(close and match[close]), at, sent


class PlainResponses(_Shapes):
    """Reads the heads of final responses in plain form."""

    first = rb"HTTP/1\.1 ([2-5][0-9][0-9]) " + _VALUE + rb"\r\n"
    codes = RESPONSE_CODES
    allowed = frozenset({PLAIN, DROP, LENGTH, CODING, CONNECTION, DATE, ID})
    dropped = frozenset({DROP, CODING, CONNECTION})

    def read(self, head: bytes, sender: Sender) -> ResponseHead | None:
        """What a whole head says, or None if the parser has to be asked."""
        match = sender.shape.match(head) or self._other(head, sender)
        if match is None:
            return None
        shape = sender.shape
        length, close = shape.length, shape.close
        for group in shape.dropped:
            start, end = match.span(group)
            head = head[:start] + head[end:]
        size = int(match[length]) if length else BODY_CHUNKED if shape.chunked else BODY_TO_END
        return int(match[1]), size, head, bool(close and match[close]), shape.has_date, shape.has_id
