"""Header fields on their way through: what is kept, what is removed, what the router adds. Raw bytes in, raw bytes out.

Order, case and duplicates of what is kept stay as they came. One loop over the fields finds all that the framing of the
message needs too, and refuses what is ambiguous (RFC 9112 §6.3, §11). Client-made values never survive in fields that
the router vouches for.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from router.errors import BadRequest, ExpectationFailed, NotImplementedCoding, ProtocolError, RouterError
from router.policy.fields import (
    CODING,
    CONNECTION,
    DATE,
    DROP,
    EXPECT,
    EXPLAIN,
    FORWARDED,
    HOST,
    ID,
    LENGTH,
    REQUEST_CODES,
    RESPONSE_CODES,
    TEXT,
    TOKEN,
)
from router.policy.plain import BODY_CHUNKED, BODY_TO_END

__all__ = [
    "BODY_CHUNKED",
    "BODY_TO_END",
    "FRAMING",
    "RequestHead",
    "ResponseHead",
    "has_control_bytes",
    "is_valid_field",
    "lines_of",
    "read_interim",
    "read_request",
    "read_response",
    "without_fields",
    "without_hsts",
]

RawHeaders = tuple[tuple[bytes, bytes], ...]

#: Connection options that need nothing removed, and fields that stay even if Connection names them: the message would
#: mean something else without them.
_NOT_REMOVED = frozenset(
    {
        b"close",
        b"keep-alive",
        b"upgrade",
        b"host",
        b"content-length",
        b"transfer-encoding",
        b"traceparent",
        b"tracestate",
    }
)
_OPTIONS = {b"keep-alive": frozenset({b"keep-alive"}), b"close": frozenset({b"close"})}

#: Fields that say where a message ends; only the core writes them.
FRAMING = frozenset({b"content-length", b"transfer-encoding", b"connection"})
_HSTS = re.compile(rb"\r\n(?i:strict-transport-security):[^\r\n]*")
#: Names of fields -> what finds their lines; plugins have few sets of names.
_finders: dict[tuple[bytes, ...], re.Pattern[bytes]] = {}
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:+/=@-]{1,128}")


#: What a request's fields say: the lines that go on; bytes of the body, or BODY_CHUNKED; whether the client waits for
#: "100 Continue"; X-Request-ID if it is a valid one; X-Forwarded-* by lower-case name, of use only if the peer is
#: trusted; the options in Connection; whether it asks for X-Router-Explain, which is heard only from whom is trusted.
RequestHead = tuple[bytes, int, bool, str, list[tuple[bytes, bytes]], frozenset[bytes], bool]

#: What a response's fields say: the lines that go on; bytes of the body, BODY_CHUNKED or BODY_TO_END; whether the
#: endpoint closes after it; whether it has a Date; whether it has an X-Request-ID.
ResponseHead = tuple[bytes, int, bool, bool, bool]

_NO_OPTIONS: frozenset[bytes] = frozenset()
_NO_FORWARDED: list[tuple[bytes, bytes]] = []


def read_request(fields: RawHeaders, lines: bytes) -> RequestHead:
    """Reads a request's fields.

    Args:
        fields: as parsed; names and values without the colon and blanks around.
        lines: the same fields as they came, from the end of the first line to the end of the last field.

    Raises:
        BadRequest: ambiguous framing. NotImplementedCoding: a transfer coding besides chunked.
        ExpectationFailed: an expectation besides 100-continue.
    """
    length, request_id = 0, ""
    seen_length = expects = asks = False
    options, forwarded = _NO_OPTIONS, _NO_FORWARDED
    dropped: list[tuple[bytes, bytes]] = []
    for field in fields:
        name, value = field
        code = REQUEST_CODES[name]
        if not code or code >= HOST:
            continue
        if code == LENGTH:
            if seen_length or length:
                raise BadRequest("Content-Length is repeated, or stands beside Transfer-Encoding")
            seen_length, length = True, _length(value, BadRequest)
        elif code == CODING:
            if seen_length or length:
                raise BadRequest("Transfer-Encoding is repeated, or stands beside Content-Length")
            _check_coding(value, NotImplementedCoding if _last(value) == b"chunked" else BadRequest)
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
        elif code == EXPLAIN:
            asks = value == b"1"
        elif code == FORWARDED:
            forwarded = [*forwarded, (name.lower(), value)]
    return _without(lines, fields, dropped, options), length, expects, request_id, forwarded, options, asks


def read_response(fields: RawHeaders, lines: bytes) -> ResponseHead:
    """Reads a response's fields and says how its body is framed (RFC 9112 §6.3), the method and the status apart.

    Args:
        fields, lines: as for read_request.

    Raises:
        ProtocolError: the framing is ambiguous.
    """
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


def read_interim(fields: RawHeaders) -> bytes:
    """The lines of a 1xx response that go on. It has no body and no framing, whatever it says (RFC 9112 §6.3).

    Raises:
        ProtocolError: a name is no token.
    """
    fields = tuple(field for field in fields if RESPONSE_CODES[field[0]] not in (LENGTH, CODING))
    return read_response(fields, lines_of(fields))[0]


def _length(value: bytes, error: type[RouterError]) -> int:
    if not value.isdigit() or len(value) > 18:
        raise error("Content-Length is not a number")
    return int(value)


def _last(value: bytes) -> bytes:
    """The last of a list: where it is not chunked, nobody knows where the request ends (RFC 9112 §6.3)."""
    *before, last = (coding.strip(b" \t").lower() for coding in value.split(b","))
    return b"" if b"chunked" in before else last


def _check_coding(value: bytes, error: type[RouterError]) -> None:
    if value.lower() != b"chunked":
        raise error(f"transfer coding {value!r}")


def lines_of(fields: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Fields as lines: from the end of a first line to the end of the last field."""
    return b"\r\n" + b"".join(b"%b: %b\r\n" % field for field in fields)


def is_valid_field(name: bytes, value: bytes) -> bool:
    """Whether a field made by a plugin can be written: one line, no framing."""
    return TOKEN.fullmatch(name) is not None and not value.translate(None, TEXT) and name.lower() not in FRAMING


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
    return head.count(b"\r\n") != lines or head.translate(None, TEXT) != b"\r\n" * lines


def without_hsts(lines: bytes) -> bytes:
    """Lines without Strict-Transport-Security: a browser heeds the first alone (RFC 6797 §8.1)."""
    return _HSTS.sub(b"", lines)


def without_fields(lines: bytes, names: tuple[bytes, ...]) -> bytes:
    """Lines without the fields of these names, which are in lower case."""
    found = _finders.get(names)
    if found is None:
        choice = b"|".join(map(re.escape, names))
        found = _finders[names] = re.compile(rb"\r\n(?i:%b)[ \t]*:[^\r\n]*" % choice)
    return found.sub(b"", lines)
