"""The attributes that many spans share: made once for all requests that were answered alike, so encoded once too."""

from __future__ import annotations

from typing import NamedTuple

from router import EndpointSpec
from router_tracing.span import Attributes, Value

__all__ = ["PORTS", "Shared", "of_attempt", "of_request"]

#: The methods of RFC 9110 and PATCH (RFC 5789): others have no name of their own.
_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"))
PORTS = {"http": 80, "https": 443}


class Shared(NamedTuple):
    """What many spans share: made once, so that it is encoded once too."""

    name: str
    attributes: Attributes
    #: What a URL begins with.
    base: str = ""


def of_request(
    method: str,
    scheme: str,
    host: str,
    version: tuple[int, int],
    listener: str,
    route: str,
    pool: str,
    answered: str,
    status: int,
    attempts: int,
) -> Shared:
    """Of spans of requests. `answered`: the endpoint whose response was passed on, "" if the router's own was."""
    name, port = _split(host, PORTS.get(scheme, 0))
    optional: list[tuple[str, Value]] = [
        ("server.address", name),
        ("server.port", port),
        ("http.route", route),
        ("http.response.status_code", status),
        ("lb.pool", pool),
        ("lb.endpoint", answered),
    ]
    pairs: Attributes = (
        *_method(method),
        ("url.scheme", scheme),
        ("network.protocol.version", f"{version[0]}.{version[1]}"),
        ("lb.listener", listener),
        ("lb.attempts", attempts),
        *((key, value) for key, value in optional if value),
    )
    known = method if method in _METHODS else "HTTP"
    return Shared(f"{known} {route}" if route else known, pairs)


def of_attempt(method: str, url: str, endpoint: str, number: int, hedge: bool, status: int, result: str) -> Shared:
    """Of spans of attempts. `result`: that of the outcome, "" without one."""
    address = EndpointSpec(url).address
    pairs: list[tuple[str, Value]] = [*_method(method), ("server.address", address.path or address.host)]
    if address.port:
        pairs.append(("server.port", address.port))
    pairs += [("lb.endpoint", endpoint), ("lb.attempt", number)]
    if number:
        pairs.append(("http.request.resend_count", number))
    if hedge:
        pairs.append(("lb.hedge", True))
    if status:
        pairs.append(("http.response.status_code", status))
    if result:
        pairs.append(("lb.outcome", result))
    known = method if method in _METHODS else "HTTP"
    return Shared(known, tuple(pairs), "" if address.path else str(address))


def _method(method: str) -> Attributes:
    if method in _METHODS:
        return (("http.request.method", method),)
    return (("http.request.method", "_OTHER"), ("http.request.method_original", method))


def _split(host: str, default: int) -> tuple[str, int]:
    """Host and port of a Host field."""
    name, colon, port = host.rpartition(":")
    if colon and port.isdigit() and not (host.startswith("[") and host.endswith("]")):
        return name.strip("[]"), int(port)
    return host.strip("[]"), default if host else 0
