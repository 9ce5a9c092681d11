"""Request targets in forms other than the origin form (RFC 9112 §3.2)."""

from __future__ import annotations

from router.errors import BadRequest, MethodNotAllowed

__all__ = ["origin_form"]

RawHeaders = tuple[tuple[bytes, bytes], ...]


def origin_form(method: str, target: str, host: str, fields: RawHeaders) -> tuple[str, str, RawHeaders]:
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
    at = min((rest.find(c) for c in "/?" if c in rest), default=len(rest))
    authority, path = rest[:at], rest[at:]
    if not authority or "@" in authority or not authority.isascii():
        raise BadRequest("the request target has no host, or a user name")
    fields = ((b"Host", authority.encode()), *(field for field in fields if field[0].lower() != b"host"))
    if method == "OPTIONS" and not path:
        # RFC 9112 §3.2.4
        return "*", authority, fields
    return (path if path.startswith("/") else "/" + path), authority, fields
