"""Request targets in forms other than the origin form (RFC 9112 §3.2)."""

from __future__ import annotations

import re

from router.errors import BadRequest, LastHop, MethodNotAllowed, Misdirected

__all__ = ["one_hop_less", "origin_form"]

RawHeaders = tuple[tuple[bytes, bytes], ...]


_HOPS = re.compile(rb"(\r\nmax-forwards:[ \t]*)([0-9]{1,9})(?=[ \t]*\r\n)", re.IGNORECASE)


def one_hop_less(method: str, lines: bytes) -> bytes:
    """The lines of an OPTIONS or TRACE request with its Max-Forwards lowered by one (RFC 9110 §7.6.2).

    Raises:
        LastHop: it may go no further. MethodNotAllowed: likewise, of TRACE.
    """
    found = _HOPS.search(lines)
    if found is None:
        return lines
    left = int(found[2])
    if not left:
        raise LastHop("Max-Forwards: 0") if method == "OPTIONS" else MethodNotAllowed("TRACE with Max-Forwards: 0")
    return b"%b%b%d%b" % (lines[: found.start()], found[1], left - 1, lines[found.end() :])


def origin_form(method: str, target: str, host: str, fields: RawHeaders, secured: bool) -> tuple[str, str, RawHeaders]:
    """Target, host and fields of the same request in origin form; the target's host replaces the Host field.

    Raises:
        MethodNotAllowed: CONNECT. BadRequest: none of the forms.
    """
    if method == "CONNECT":
        raise MethodNotAllowed("CONNECT")
    if "#" in target:
        raise BadRequest("a fragment in the request target")
    if target == "*" and method == "OPTIONS":
        return target, host, fields
    scheme, mark, rest = target.partition("://")
    if not mark or scheme.lower() not in ("http", "https"):
        raise BadRequest("the request target is in no known form")
    if scheme.lower() == "https" and not secured:
        raise Misdirected("https without TLS")
    at = min((rest.find(c) for c in "/?" if c in rest), default=len(rest))
    authority, path = rest[:at], rest[at:]
    if not authority or "@" in authority or not authority.isascii():
        raise BadRequest("the request target has no host, or a user name")
    fields = ((b"Host", authority.encode()), *(field for field in fields if field[0].lower() != b"host"))
    if method == "OPTIONS" and not path:
        # RFC 9112 §3.2.4
        return "*", authority, fields
    return (path if path.startswith("/") else "/" + path), authority, fields
