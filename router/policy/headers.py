"""Header fields on their way through: what is kept, what is removed, what the router adds. Raw bytes in, raw bytes out.

Order, case and duplicates of what is kept stay as they came. One loop over the fields finds all that the framing of the
message needs too, and refuses what is ambiguous (RFC 9112 §6.3, §11). Client-made values never survive in fields that
the router vouches for.
"""

from __future__ import annotations

import re
from itertools import product

from router.errors import BadRequest, ExpectationFailed, NotImplementedMethod, ProtocolError

__all__ = [
    "BODY_CHUNKED",
    "BODY_TO_END",
    "VIA",
    "RequestHead",
    "ResponseHead",
    "has_control_bytes",
    "read_request",
    "read_response",
]

RawHeaders = tuple[tuple[bytes, bytes], ...]

#: Lengths that are no length.
BODY_CHUNKED = -1
BODY_TO_END = -2

VIA = "Via: 1.1 router\r\n"

#: What is to be done with a field. Zero, the usual one: nothing.
_PLAIN, _DROP, _CONNECTION, _LENGTH, _CODING, _EXPECT, _ID, _FORWARDED, _DATE = range(9)


def _spellings(*names: bytes) -> dict[bytes, int]:
    """A field that CGI-like servers cannot tell from one that the router vouches for is one (X_Forwarded_For)."""
    found: dict[bytes, int] = {}
    for name in names:
        parts = name.split(b"-")
        for marks in product((b"-", b"_"), repeat=len(parts) - 1):
            spelled = parts[0] + b"".join(mark + part for mark, part in zip(marks, parts[1:], strict=True))
            found[spelled] = _DROP
    return found


_HOP_BY_HOP = dict.fromkeys(
    (b"keep-alive", b"proxy-connection", b"te", b"trailer", b"upgrade", b"proxy-authenticate", b"proxy-authorization"),
    _DROP,
)
_COMMON = {
    **_HOP_BY_HOP,
    b"connection": _CONNECTION,
    b"content-length": _LENGTH,
    b"transfer-encoding": _CODING,
    b"x-request-id": _ID,
}
_VOUCHED = (b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"x-request-id")
_REQUEST = {
    **_spellings(*_VOUCHED),
    **_COMMON,
    **dict.fromkeys(_VOUCHED[:3], _FORWARDED),
    b"forwarded": _DROP,
    b"content_length": _DROP,
    b"transfer_encoding": _DROP,
    b"expect": _EXPECT,
}
_RESPONSE = {**_COMMON, b"date": _DATE}

#: Connection options that need nothing removed, and fields that stay even if Connection names them: the message would
#: mean something else without them.
_NOT_REMOVED = frozenset({b"close", b"keep-alive", b"upgrade", b"host", b"content-length", b"transfer-encoding"})
_OPTIONS = {b"keep-alive": frozenset({b"keep-alive"}), b"close": frozenset({b"close"})}

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:+/=@-]{1,128}")
_TEXT = bytes(c for c in range(256) if c >= 32 and c != 127) + b"\t"


#: What a request's fields say: the fields that go on, in pieces ready to join; bytes of the body, or BODY_CHUNKED;
#: whether the client waits for "100 Continue"; X-Request-ID if it is a valid one; X-Forwarded-* by lower-case name, of
#: use only if the peer is trusted; the options in Connection.
RequestHead = tuple[list[bytes], int, bool, str, list[tuple[bytes, bytes]], frozenset[bytes]]

#: What a response's fields say: the fields that go on; bytes of the body, BODY_CHUNKED or BODY_TO_END; whether the
#: endpoint closes after it; whether it has a Date; whether it has an X-Request-ID.
ResponseHead = tuple[list[bytes], int, bool, bool, bool]

_NO_OPTIONS: frozenset[bytes] = frozenset()
_NO_FORWARDED: list[tuple[bytes, bytes]] = []


class _Codes(dict[bytes, int]):
    """Name of a field, in any spelling, to what is to be done with it. Remembers the spellings that it has met."""

    MOST = 1024

    def __init__(self, lower: dict[bytes, int]) -> None:
        super().__init__(lower)
        self._lower = dict(lower)

    def __missing__(self, name: bytes) -> int:
        code = self._lower.get(name.lower(), _PLAIN)
        # Senders may make names up: what is not remembered is only looked up a little more slowly.
        if len(self) < self.MOST and len(name) <= 40:
            self[name] = code
        return code


_REQUEST_CODES = _Codes(_REQUEST)
_RESPONSE_CODES = _Codes(_RESPONSE)


def read_request(fields: RawHeaders) -> RequestHead:
    """Reads a request's fields.

    Args:
        fields: as parsed; names and values without the colon and blanks around.

    Raises:
        BadRequest: ambiguous framing. NotImplementedMethod: a transfer coding besides chunked.
        ExpectationFailed: an expectation besides 100-continue.
    """
    kept: list[bytes] = []
    length, request_id = 0, ""
    seen_length = chunked = expects = False
    options, forwarded, codes = _NO_OPTIONS, _NO_FORWARDED, _REQUEST_CODES
    for name, value in fields:
        code = codes[name]
        if not code:
            kept += (name, b": ", value, b"\r\n")
        elif code == _LENGTH:
            if seen_length or not value.isdigit() or len(value) > 18:
                raise BadRequest("Content-Length is repeated or not a number")
            seen_length, length = True, int(value)
            kept += (name, b": ", value, b"\r\n")
        elif code == _CONNECTION:
            options |= _tokens(value)
        elif code == _CODING:
            if value.lower() != b"chunked":
                raise NotImplementedMethod(f"transfer coding {value!r}")
            if chunked:
                raise BadRequest("Transfer-Encoding is repeated")
            chunked = True
        elif code == _EXPECT:
            if value.lower() != b"100-continue":
                raise ExpectationFailed(f"Expect: {value!r}")
            expects = True
        elif code == _ID:
            request_id = value.decode() if _REQUEST_ID.fullmatch(value) else ""
        elif code == _FORWARDED:
            forwarded = [*forwarded, (name.lower(), value)]
    if chunked:
        if seen_length:
            raise BadRequest("both Content-Length and Transfer-Encoding")
        length = BODY_CHUNKED
        kept += (b"Transfer-Encoding", b": ", b"chunked", b"\r\n")
    if options and not options <= _NOT_REMOVED:
        again = read_request(_without_listed(fields, options))
        return (*again[:5], options)
    return kept, length, expects, request_id, forwarded, options


def read_response(fields: RawHeaders, status: int, method: str) -> ResponseHead:
    """Reads a response's fields and decides how its body is framed (RFC 9112 §6.3).

    Args:
        method: of the request; a response to HEAD has no body whatever its fields say.

    Raises:
        ProtocolError: the framing is ambiguous.
    """
    kept: list[bytes] = []
    length = BODY_TO_END
    chunked = closes = has_date = has_id = False
    options = _NO_OPTIONS
    codes = _RESPONSE_CODES
    for name, value in fields:
        code = codes[name]
        if not code:
            kept += (name, b": ", value, b"\r\n")
        elif code == _DATE:
            has_date = True
            kept += (name, b": ", value, b"\r\n")
        elif code == _LENGTH:
            if length != BODY_TO_END or not value.isdigit() or len(value) > 18:
                raise ProtocolError("Content-Length is repeated or not a number")
            length = int(value)
            kept += (name, b": ", value, b"\r\n")
        elif code == _CONNECTION:
            options |= _tokens(value)
            closes = b"close" in options
        elif code == _CODING:
            if chunked or value.lower() != b"chunked":
                raise ProtocolError("a transfer coding that is not chunked alone")
            chunked = True
        elif code == _ID:
            has_id = True
            kept += (name, b": ", value, b"\r\n")
    if chunked:
        if length != BODY_TO_END:
            raise ProtocolError("both Content-Length and Transfer-Encoding")
        length = BODY_CHUNKED
    if options and not options <= _NOT_REMOVED:
        again = read_response(_without_listed(fields, options), status, method)
        return (*again[:2], closes, *again[3:])
    if method == "HEAD" or status == 204 or status == 304:
        length = 0
    return kept, length, closes, has_date, has_id


def _tokens(value: bytes) -> frozenset[bytes]:
    known = _OPTIONS.get(value)
    return frozenset(t for t in re.split(rb"[ \t]*,[ \t]*", value.lower()) if t) if known is None else known


def _without_listed(fields: RawHeaders, options: frozenset[bytes]) -> RawHeaders:
    """Drops Connection and what it names (RFC 9110 §7.6.1)."""
    listed = (options - _NOT_REMOVED) | {b"connection"}
    return tuple(field for field in fields if field[0].lower() not in listed)


def has_control_bytes(head: bytes, lines: int) -> bool:
    """Whether a head holds control bytes, or line ends other than CR LF: parsers disagree on what those mean.

    Args:
        lines: how many lines the parser found, the first and the empty one included.
    """
    return head.translate(None, _TEXT) != b"\r\n" * lines
