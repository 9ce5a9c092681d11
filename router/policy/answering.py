"""What a route answers itself: a status and a body, or a redirect. No endpoint is asked.

What a client sent becomes part of a Location only where it cannot end the field, and cannot name another host.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from urllib.parse import quote

from router.configactions import PLACEHOLDER
from router.errors import BadRequest
from router.model import Exchange, Response
from router.policy.normal import split_host
from router.policy.rewriting import FieldRules

__all__ = ["GivenAnswer"]

#: What stands in a URL as it is (RFC 3986 §2.2, §2.3), an escape's "%" with it. Everything else is escaped: controls,
#: what is not ASCII, and the backslash, which browsers take for a slash.
_IN_URL = "!$&'()*+,-./:;=?@[]_~%#"
#: What may stand in the value of a parameter, and nothing that could end it.
_IN_VALUE = "/-._~:@!$'()*,"

_SLASHES = re.compile(r"^/{2,}")
_CONTENT_TYPE = (b"Content-Type", b"text/plain; charset=utf-8")


class GivenAnswer:
    """One route's answer.

    Args:
        status: 200 to 599.
        body: plain text, unless the fields say another type.
        redirect: the Location; {scheme}, {host}, {path}, {query} and {uri} stand for those of the request. "" for none.
        fields: rules for the response's fields.
    """

    __slots__ = ("_fixed", "_location", "_parts")

    def __init__(self, status: int, body: str = "", redirect: str = "", fields: FieldRules | None = None) -> None:
        fields = fields or FieldRules({}, ())
        headers = list(fields.values.values())
        if body and not fields.drops(b"Content-Type"):
            headers.append(_CONTENT_TYPE)
        self._fixed = Response(status, body.encode(), tuple(headers))
        self._location = bool(redirect)
        self._parts = _compiled(redirect)

    def response(self, exchange: Exchange) -> Response:
        """The answer to this exchange; its framing is the writer's.

        Raises:
            BadRequest: the redirect needs a host, and the request (of HTTP/1.0) has none.
        """
        fixed = self._fixed
        if not self._location:
            return fixed
        location = "".join(part if isinstance(part, str) else part(exchange) for part in self._parts)
        # At the start of a Location, two slashes would name another host.
        field = (b"Location", _SLASHES.sub("/", location).encode())
        return Response(fixed.status, fixed.body, (field, *fixed.headers))


def _compiled(redirect: str) -> list[str | Callable[[Exchange], str]]:
    parts: list[str | Callable[[Exchange], str]] = []
    in_query = False
    for index, part in enumerate(PLACEHOLDER.split(redirect)):
        if index % 2:
            value = _VALUES[part]
            parts.append(_escaped(value) if in_query and part != "query" else value)
        else:
            parts.append(part)
            in_query = in_query or "?" in part or "#" in part
    return parts


def _escaped(value: Callable[[Exchange], str]) -> Callable[[Exchange], str]:
    """As the value of a parameter: `?next={uri}` holds the whole target, whatever stands in it."""
    return lambda exchange: quote(value(exchange), _IN_VALUE)


def _in_url(text: str) -> str:
    return quote(text.encode("utf-8", "surrogateescape"), _IN_URL)


def _scheme(exchange: Exchange) -> str:
    return exchange.scheme


def _host(exchange: Exchange) -> str:
    if not exchange.host:
        raise BadRequest("a redirect to the request's host, and there is none")
    return split_host(exchange.host)


def _path(exchange: Exchange) -> str:
    return _in_url(exchange.path) if exchange.path.startswith("/") else "/"


def _query(exchange: Exchange) -> str:
    return _in_url(exchange.query or "")


def _uri(exchange: Exchange) -> str:
    return _in_url(exchange.target) if exchange.target.startswith("/") else "/"


_VALUES: dict[str, Callable[[Exchange], str]] = {
    "scheme": _scheme,
    "host": _host,
    "path": _path,
    "query": _query,
    "uri": _uri,
}
