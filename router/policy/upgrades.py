"""Switching to WebSocket (RFC 6455 §4): which requests ask for it, and which answers agree to it.

Upgrade and Connection concern one hop, so they never pass: they are read here and written anew. Whatever is not a whole
and plain WebSocket handshake goes on as the ordinary request that it also is, without them (RFC 9110 §7.8).
"""

from __future__ import annotations

import re
from base64 import b64encode
from hashlib import sha1

from router.errors import ProtocolError
from router.policy.headers import BODY_TO_END, RawHeaders, ResponseHead, read_response

__all__ = ["SWITCH_LINES", "accept_of", "read_switch", "websocket_key"]

#: What stands at the end of the fields of either head of a handshake.
SWITCH_LINES = b"Connection: Upgrade\r\nUpgrade: websocket\r\n"

#: 16 bytes in base64.
_KEY = re.compile(rb"[A-Za-z0-9+/]{22}==")
_VERSION = re.compile(rb"[0-9]{1,3}")
#: RFC 6455 §1.3.
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_OF_HANDSHAKE = b"sec-websocket-"
_ASKED = frozenset({b"upgrade", b"sec-websocket-key", b"sec-websocket-version"})
_ANSWERED = frozenset({b"upgrade", b"sec-websocket-accept"})


def websocket_key(
    method: str, version: tuple[int, int], fields: RawHeaders, options: frozenset[bytes], length: int
) -> bytes:
    """The Sec-WebSocket-Key of a request that asks to switch to WebSocket; b"" if it does not (RFC 6455 §4.2.1).

    The version of the protocol is for the endpoint to judge: it answers 426 to one that it does not speak.

    Args:
        method, version: of the request.
        fields: as parsed, Upgrade and Connection among them.
        options, length: what read_request said.
    """
    if b"upgrade" not in options or method != "GET" or version < (1, 1) or length != 0 or _hides_handshake(options):
        return b""
    found = _singles(fields, _ASKED)
    key = found.get(b"sec-websocket-key", b"")
    asks = found.get(b"upgrade", b"").lower() == b"websocket" and _KEY.fullmatch(key) is not None
    return key if asks and _VERSION.fullmatch(found.get(b"sec-websocket-version", b"")) else b""


def read_switch(fields: RawHeaders, lines: bytes, key: bytes) -> ResponseHead:
    """Reads the fields of a 101 response to a request that asked for WebSocket.

    Args:
        fields, lines: as for read_response.
        key: what websocket_key gave for the request.

    Returns:
        As read_response: of length 0, and never closing. The lines are without Connection and Upgrade: SWITCH_LINES
        belong behind them and behind whatever is added to them.

    Raises:
        ProtocolError: this does not agree to what was asked for, or is ambiguous.
    """
    lines, length, _, has_date, has_id = read_response(fields, lines)
    if length != BODY_TO_END:
        raise ProtocolError("a 101 response with Content-Length or Transfer-Encoding")
    options = _options(fields)
    if b"upgrade" not in options or _hides_handshake(options):
        raise ProtocolError("a 101 response whose Connection is not Upgrade")
    found = _singles(fields, _ANSWERED)
    if found.get(b"upgrade", b"").lower() != b"websocket":
        raise ProtocolError("a 101 response that does not switch to websocket")
    if found.get(b"sec-websocket-accept") != accept_of(key):
        raise ProtocolError("a 101 response whose Sec-WebSocket-Accept does not belong to the request's key")
    return lines, 0, False, has_date, has_id


def accept_of(key: bytes) -> bytes:
    """The Sec-WebSocket-Accept that belongs to a Sec-WebSocket-Key (RFC 6455 §4.2.2)."""
    return b64encode(sha1(key + _GUID, usedforsecurity=False).digest())


def _singles(fields: RawHeaders, wanted: frozenset[bytes]) -> dict[bytes, bytes]:
    """Values by lower-case name; b"" for what is there more than once, which no value can be."""
    found: dict[bytes, bytes] = {}
    for name, value in fields:
        lower = name.lower()
        if lower in wanted:
            found[lower] = b"" if lower in found else value
    return found


def _options(fields: RawHeaders) -> frozenset[bytes]:
    values = b",".join(value for name, value in fields if name.lower() == b"connection")
    return frozenset(option.strip(b" \t") for option in values.lower().split(b","))


def _hides_handshake(options: frozenset[bytes]) -> bool:
    """Whether Connection names fields of the handshake: what is to be taken away cannot be agreed to."""
    return any(option.startswith(_OF_HANDSHAKE) for option in options)
