"""Header fields by name: which the router takes, keeps from passing, or has to look at. A table and its memory."""

from __future__ import annotations

import re
from itertools import product

from router.errors import BadRequest, ProtocolError

__all__ = [
    "CODING",
    "CONNECTION",
    "COOKIE",
    "DATE",
    "DROP",
    "EXPECT",
    "EXPLAIN",
    "FORWARDED",
    "HOST",
    "ID",
    "LENGTH",
    "ONCE",
    "PLAIN",
    "REQUEST_CODES",
    "RESPONSE_CODES",
    "TEXT",
    "TOKEN",
    "VIA",
]

#: What a head may hold besides its line ends.
TEXT = bytes(c for c in range(256) if c >= 32 and c != 127) + b"\t"
#: A field's name (RFC 9110 §5.6.2).
TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")

#: What is to be done with a field. Zero, the usual one: nothing. From HOST on: it goes on as it is.
PLAIN, DROP, CONNECTION, LENGTH, CODING, EXPECT, ID, FORWARDED, DATE, EXPLAIN, HOST, ONCE, VIA, HOPS, COOKIE = range(15)


def _spellings(*names: bytes) -> dict[bytes, int]:
    """A field that CGI-like servers cannot tell from one that the router vouches for is one (X_Forwarded_For)."""
    found: dict[bytes, int] = {}
    for name in names:
        parts = name.split(b"-")
        for marks in product((b"-", b"_"), repeat=len(parts) - 1):
            spelled = parts[0] + b"".join(mark + part for mark, part in zip(marks, parts[1:], strict=True))
            found[spelled] = DROP
    return found


_HOP_BY_HOP = dict.fromkeys(
    (b"keep-alive", b"proxy-connection", b"te", b"trailer", b"upgrade", b"proxy-authenticate", b"proxy-authorization"),
    DROP,
)
_COMMON = {
    **_HOP_BY_HOP,
    b"connection": CONNECTION,
    b"content-length": LENGTH,
    b"transfer-encoding": CODING,
    b"x-request-id": ID,
}
_VOUCHED = (b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"x-request-id")
#: What says whose certificate a client has shown: the router alone says it.
_PROOF = (b"x-client-cert-subject", b"x-client-cert-fingerprint")
#: Fields of which a request may hold one at most, beside those that are looked at anyway.
_ONCE = (b"content-location", b"content-range", b"content-type", b"etag", b"server", b"user-agent")
_REQUEST = {
    **dict.fromkeys(_ONCE, ONCE),
    b"host": HOST,
    b"cookie": COOKIE,
    b"via": VIA,
    b"max-forwards": HOPS,
    **_spellings(*_VOUCHED),
    **_COMMON,
    **dict.fromkeys(_VOUCHED[:3], FORWARDED),
    b"forwarded": FORWARDED,
    b"content_length": DROP,
    b"transfer_encoding": DROP,
    **_spellings(*_PROOF),
    **dict.fromkeys(_PROOF, DROP),
    b"expect": EXPECT,
    **_spellings(b"x-router-explain"),
    b"x-router-explain": EXPLAIN,
}
_RESPONSE = {**_COMMON, b"date": DATE}


class _Codes(dict[bytes, int]):
    """Name of a field, in any spelling, to what is to be done with it. Remembers the spellings that it has met."""

    MOST = 1024

    def __init__(self, lower: dict[bytes, int], error: type[BadRequest] | type[ProtocolError]) -> None:
        super().__init__(lower)
        self._lower = dict(lower)
        self._error = error

    def __missing__(self, name: bytes) -> int:
        if not TOKEN.fullmatch(name):
            raise self._error("a field's name is not a token")
        code = self._lower.get(name.lower(), PLAIN)
        # Senders may make names up: what is not remembered is only looked up a little more slowly.
        if len(self) < self.MOST and len(name) <= 40:
            self[name] = code
        return code


REQUEST_CODES = _Codes(_REQUEST, BadRequest)
RESPONSE_CODES = _Codes(_RESPONSE, ProtocolError)
