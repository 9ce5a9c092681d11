"""Header fields on their way through: what is kept, what is removed, what the router adds. Raw bytes in, raw bytes out.

Order, case and duplicates of what is kept stay as they came. One loop over the fields finds all that the framing of the
message needs too, and refuses what is ambiguous (RFC 9112 §6.3, §11). Client-made values never survive in fields that
the router vouches for.
"""

from __future__ import annotations

import re
from itertools import product
from typing import NamedTuple

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
    "request_bytes",
]

RawHeaders = tuple[tuple[bytes, bytes], ...]

#: Lengths that are no length.
BODY_CHUNKED = -1
BODY_TO_END = -2

VIA = b"Via: 1.1 router\r\n"

_DROP, _CONNECTION, _LENGTH, _CODING, _EXPECT, _ID, _FORWARDED, _DATE, _HOST = range(9)


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
    b"host": _HOST,
}
_RESPONSE = {**_COMMON, b"date": _DATE}

#: Connection options that need nothing removed, and fields that stay even if Connection names them: the message would
#: mean something else without them.
_NOT_REMOVED = frozenset({b"close", b"keep-alive", b"upgrade", b"host", b"content-length", b"transfer-encoding"})
_OPTIONS = {b"keep-alive": frozenset({b"keep-alive"}), b"close": frozenset({b"close"})}

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:+/=@-]{1,128}")
_CONTROLS = bytes(c for c in (*range(32), 127) if c not in b"\t\r\n")


class RequestHead(NamedTuple):
    """What a request's fields say."""

    #: Fields that go on, each three pieces and a line end, ready to join.
    kept: list[bytes]
    #: Bytes of the body, or BODY_CHUNKED.
    length: int
    #: The client waits for "100 Continue".
    expects: bool
    #: X-Request-ID as sent, if it is a valid one.
    request_id: bytes
    #: X-Forwarded-* as sent, lower-case names: of use only if the peer is trusted.
    forwarded: list[tuple[bytes, bytes]]
    #: Connection options, lower case.
    options: frozenset[bytes]


class ResponseHead(NamedTuple):
    """What a response's fields say."""

    kept: list[bytes]
    #: Bytes of the body, BODY_CHUNKED or BODY_TO_END.
    length: int
    #: The endpoint closes after this response.
    closes: bool
    has_date: bool
    has_id: bool


_NO_OPTIONS: frozenset[bytes] = frozenset()
_NO_FORWARDED: list[tuple[bytes, bytes]] = []


def read_request(fields: RawHeaders, host: bytes | None = None) -> RequestHead:
    """Reads a request's fields.

    Args:
        fields: as parsed; names and values without the colon and blanks around.
        host: replaces the Host field, for an absolute-form target (RFC 9112 §3.2.2).

    Raises:
        BadRequest: ambiguous framing. NotImplementedMethod: a transfer coding besides chunked.
    """
    kept: list[bytes] = []
    length = 0
    seen_length = chunked = expects = False
    request_id = b""
    options = _NO_OPTIONS
    forwarded = _NO_FORWARDED
    find = _REQUEST.get
    for name, value in fields:
        code = find(name.lower())
        if code is None or code == _HOST:
            kept += (name, b": ", value if code is None or host is None else host, b"\r\n")
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
            request_id = value if _REQUEST_ID.fullmatch(value) else b""
        elif code == _FORWARDED:
            forwarded = [*forwarded, (name.lower(), value)]
    if chunked:
        if seen_length:
            raise BadRequest("both Content-Length and Transfer-Encoding")
        length = BODY_CHUNKED
        kept.append(b"Transfer-Encoding: chunked\r\n")
    if options and not options <= _NOT_REMOVED:
        return read_request(_without_listed(fields, options), host)._replace(options=options)
    return RequestHead(kept, length, expects, request_id, forwarded, options)


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
    find = _RESPONSE.get
    for name, value in fields:
        code = find(name.lower())
        if code is None:
            kept += (name, b": ", value, b"\r\n")
        elif code == _LENGTH:
            if length != BODY_TO_END or not value.isdigit() or len(value) > 18:
                raise ProtocolError("Content-Length is repeated or not a number")
            length = int(value)
            kept += (name, b": ", value, b"\r\n")
        elif code == _DATE:
            has_date = True
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
        return read_response(_without_listed(fields, options), status, method)._replace(closes=closes)
    if method == "HEAD" or status in (204, 304):
        length = 0
    return ResponseHead(kept, length, closes, has_date, has_id)


def _tokens(value: bytes) -> frozenset[bytes]:
    known = _OPTIONS.get(value)
    return frozenset(t for t in re.split(rb"[ \t]*,[ \t]*", value.lower()) if t) if known is None else known


def _without_listed(fields: RawHeaders, options: frozenset[bytes]) -> RawHeaders:
    """Drops Connection and what it names (RFC 9110 §7.6.1)."""
    listed = (options - _NOT_REMOVED) | {b"connection"}
    return tuple(field for field in fields if field[0].lower() not in listed)


def request_bytes(method: str, target: str, kept: list[bytes], added: bytes) -> bytes:
    """The head as it goes to an endpoint.

    Args:
        target: origin form; its bytes are those that the client sent.
        added: whole lines, each with its line end.
    """
    line = f"{method} {target} HTTP/1.1\r\n".encode("utf-8", "surrogateescape")
    return b"".join((line, *kept, added, b"\r\n"))


def has_control_bytes(head: bytes) -> bool:
    """Whether a head holds control bytes, or line ends other than CR LF: parsers disagree on what those mean."""
    lines = head.count(b"\r\n")
    return head.count(b"\n") != lines or head.count(b"\r") != lines or len(head.translate(None, _CONTROLS)) != len(head)
