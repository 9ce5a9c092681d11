"""Header fields on their way through: what is kept, what is removed, what the router adds. Raw bytes in, raw bytes out.

Order, case and duplicates of what is kept stay as they came. One loop over the fields finds all that the framing of the
message needs too, and refuses what is ambiguous (RFC 9112 §6.3, §11). Client-made values never survive in fields that
the router vouches for.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from operator import itemgetter

from router.errors import BadRequest, ExpectationFailed, NotImplementedMethod, ProtocolError, RouterError
from router.policy.fields import (
    CODING,
    CONNECTION,
    DATE,
    DROP,
    EXPECT,
    FORWARDED,
    ID,
    LENGTH,
    REQUEST_CODES,
    RESPONSE_CODES,
    TOKEN,
)

__all__ = [
    "BODY_CHUNKED",
    "BODY_TO_END",
    "FRAMING",
    "VIA",
    "RequestHead",
    "ResponseHead",
    "has_control_bytes",
    "is_valid_field",
    "lines_of",
    "read_request",
    "read_response",
]

RawHeaders = tuple[tuple[bytes, bytes], ...]

#: Lengths that are no length.
BODY_CHUNKED = -1
BODY_TO_END = -2

VIA = "Via: 1.1 router\r\n"

#: Connection options that need nothing removed, and fields that stay even if Connection names them: the message would
#: mean something else without them.
_NOT_REMOVED = frozenset({b"close", b"keep-alive", b"upgrade", b"host", b"content-length", b"transfer-encoding"})
_OPTIONS = {b"keep-alive": frozenset({b"keep-alive"}), b"close": frozenset({b"close"})}

#: Fields that say where a message ends; only the core writes them.
FRAMING = frozenset({b"content-length", b"transfer-encoding", b"connection"})
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:+/=@-]{1,128}")
_TEXT = bytes(c for c in range(256) if c >= 32 and c != 127) + b"\t"


#: What a request's fields say: the lines that go on; bytes of the body, or BODY_CHUNKED; whether the client waits for
#: "100 Continue"; X-Request-ID if it is a valid one; X-Forwarded-* by lower-case name, of use only if the peer is
#: trusted; the options in Connection.
RequestHead = tuple[bytes, int, bool, str, list[tuple[bytes, bytes]], frozenset[bytes]]

#: What a response's fields say: the lines that go on; bytes of the body, BODY_CHUNKED or BODY_TO_END; whether the
#: endpoint closes after it; whether it has a Date; whether it has an X-Request-ID.
ResponseHead = tuple[bytes, int, bool, bool, bool]

_NO_OPTIONS: frozenset[bytes] = frozenset()
_NO_FORWARDED: list[tuple[bytes, bytes]] = []


#: Where Content-Length and Connection stand (-1: nowhere), and whether there is a Date and an X-Request-ID.
_Plan = tuple[int, int, bool, bool]


class _Plans(dict[tuple[bytes, ...], "_Plan | None"]):
    """Names of all fields of a response to what is to be done with them; None where each field has to be looked at.

    Servers repeat themselves: most heads have the same names in the same order, whatever their values. So the usual
    head costs one look-up however many fields it has (12 fields: a third of the time). Bounded; made anew when full.
    """

    MOST = 512
    LONGEST = 1024

    def __missing__(self, names: tuple[bytes, ...]) -> _Plan | None:
        found = [RESPONSE_CODES[name] for name in names]
        plan: _Plan | None = None
        if not {DROP, CODING} & {*found} and found.count(LENGTH) < 2 and found.count(CONNECTION) < 2:
            at = {code: place for place, code in enumerate(found)}
            plan = at.get(LENGTH, -1), at.get(CONNECTION, -1), DATE in at, ID in at
        if sum(map(len, names)) <= self.LONGEST:
            if len(self) >= self.MOST:
                self.clear()
            self[names] = plan
        return plan


_NAME = itemgetter(0)
_PLANS = _Plans()
#: What most servers say.
_KEEP_ALIVE = (b"Connection", b"keep-alive")
_KEEP_ALIVE_LINE = b"\r\nConnection: keep-alive\r\n"


def read_request(fields: RawHeaders, lines: bytes) -> RequestHead:
    """Reads a request's fields.

    Args:
        fields: as parsed; names and values without the colon and blanks around.
        lines: the same fields as they came, from the end of the first line to the end of the last field.

    Raises:
        BadRequest: ambiguous framing. NotImplementedMethod: a transfer coding besides chunked.
        ExpectationFailed: an expectation besides 100-continue.
    """
    length, request_id = 0, ""
    seen_length = expects = False
    options, forwarded = _NO_OPTIONS, _NO_FORWARDED
    dropped: list[tuple[bytes, bytes]] = []
    for field in fields:
        name, value = field
        code = REQUEST_CODES[name]
        if not code:
            continue
        if code == LENGTH:
            if seen_length or length:
                raise BadRequest("Content-Length is repeated, or stands beside Transfer-Encoding")
            seen_length, length = True, _length(value, BadRequest)
        elif code == CODING:
            if seen_length or length:
                raise BadRequest("Transfer-Encoding is repeated, or stands beside Content-Length")
            _check_coding(value, NotImplementedMethod)
            length = BODY_CHUNKED
        else:
            dropped.append(field)
        if code == CONNECTION:
            options |= _tokens(value)
        elif code == EXPECT:
            if value.lower() != b"100-continue":
                raise ExpectationFailed(f"Expect: {value!r}")
            expects = True
        elif code == ID:
            request_id = value.decode() if _REQUEST_ID.fullmatch(value) else ""
        elif code == FORWARDED:
            forwarded = [*forwarded, (name.lower(), value)]
    return _without(lines, fields, dropped, options), length, expects, request_id, forwarded, options


def read_response(fields: RawHeaders, lines: bytes, status: int, method: str) -> ResponseHead:
    """Reads a response's fields and decides how its body is framed (RFC 9112 §6.3).

    Args:
        fields, lines: as for read_request.
        method: of the request; a response to HEAD has no body whatever its fields say.

    Raises:
        ProtocolError: the framing is ambiguous.
    """
    plan = _PLANS[tuple(map(_NAME, fields))]
    if plan is None:
        lines, length, closes, has_date, has_id = _read_response(fields, lines)
    else:
        at_length, at_connection, has_date, has_id = plan
        length = BODY_TO_END if at_length < 0 else _length(fields[at_length][1], ProtocolError)
        closes = False
        if at_connection >= 0 and fields[at_connection] == _KEEP_ALIVE and _KEEP_ALIVE_LINE in lines:
            lines = lines.replace(_KEEP_ALIVE_LINE, b"\r\n", 1)
        elif at_connection >= 0:
            field = fields[at_connection]
            options = _tokens(field[1])
            closes = b"close" in options
            lines = _without(lines, fields, [field], options)
            has_date, has_id = has_date and b"date" not in options, has_id and b"x-request-id" not in options
    if method == "HEAD" or status == 204 or status == 304:
        length = 0
    return lines, length, closes, has_date, has_id


def _read_response(fields: RawHeaders, lines: bytes) -> ResponseHead:
    """read_response field by field, for heads with more than the usual fields."""
    length, options = BODY_TO_END, _NO_OPTIONS
    dropped: list[tuple[bytes, bytes]] = []
    found: set[int] = set()
    for field in fields:
        code = RESPONSE_CODES[field[0]]
        found.add(code)
        if code in (LENGTH, CODING) and length != BODY_TO_END:
            raise ProtocolError("more than one of Content-Length and Transfer-Encoding")
        if code == LENGTH:
            length = _length(field[1], ProtocolError)
        elif code == CODING:
            _check_coding(field[1], ProtocolError)
            length = BODY_CHUNKED
            dropped.append(field)
        elif code in (DROP, CONNECTION):
            dropped.append(field)
            options |= _tokens(field[1]) if code == CONNECTION else _NO_OPTIONS
    lines = _without(lines, fields, dropped, options)
    has_date, has_id = DATE in found and b"date" not in options, ID in found and b"x-request-id" not in options
    return lines, length, b"close" in options, has_date, has_id


def _length(value: bytes, error: type[RouterError]) -> int:
    if not value.isdigit() or len(value) > 18:
        raise error("Content-Length is not a number")
    return int(value)


def _check_coding(value: bytes, error: type[RouterError]) -> None:
    if value.lower() != b"chunked":
        raise error(f"transfer coding {value!r}")


def lines_of(fields: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Fields as lines: from the end of a first line to the end of the last field."""
    return b"\r\n" + b"".join(b"%b: %b\r\n" % field for field in fields)


def is_valid_field(name: bytes, value: bytes) -> bool:
    """Whether a field made by a plugin can be written: one line, no framing."""
    return TOKEN.fullmatch(name) is not None and not value.translate(None, _TEXT) and name.lower() not in FRAMING


def _without(lines: bytes, fields: RawHeaders, dropped: list[tuple[bytes, bytes]], options: frozenset[bytes]) -> bytes:
    """The lines without the dropped fields and those that Connection names (RFC 9110 §7.6.1)."""
    if not options <= _NOT_REMOVED:
        listed = options - _NOT_REMOVED
        dropped = [field for field in fields if field in dropped or field[0].lower() in listed]
    for field in dropped:
        # A value holds no line end, so a whole line is found nowhere but where it stands.
        shorter = lines.replace(b"\r\n%b: %b\r\n" % field, b"\r\n", 1)
        if len(shorter) == len(lines):
            # Written with other blanks than usual.
            return lines_of(field for field in fields if field not in dropped)
        lines = shorter
    return lines


def _tokens(value: bytes) -> frozenset[bytes]:
    known = _OPTIONS.get(value)
    return frozenset(t for t in re.split(rb"[ \t]*,[ \t]*", value.lower()) if t) if known is None else known


def has_control_bytes(head: bytes, lines: int) -> bool:
    """Whether a head holds control bytes, or line ends other than CR LF: parsers disagree on what those mean.

    Args:
        lines: how many lines the parser found, the first and the empty one included.
    """
    return head.count(b"\r\n") != lines or head.translate(None, _TEXT) != b"\r\n" * lines
