"""What the router answers before any route: its health, challenges of ACME, and where https is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from router.model import Exchange
from router.net.pages import health_response, plain_response
from router.policy.normal import split_host

if TYPE_CHECKING:
    from router.net.server import Listener

__all__ = ["own_response"]

_TEXT = b"text/plain; charset=utf-8"
_HTTPS = 443
_CLOSE = b"Connection: close\r\n"


def own_response(exchange: Exchange, listener: Listener, *, closes: bool) -> bytes | None:
    """The whole answer; None if the request is for somebody else.

    Args:
        closes: whether the connection ends after it.
    """
    runtime = listener.runtime
    path, extra = runtime.table.health_path, _CLOSE + listener.hsts if closes else listener.hsts
    answer = health_response(exchange, path, draining=runtime.draining, extra=extra) if path else None
    if answer is not None:
        return answer
    head_only = exchange.method == "HEAD"
    if runtime.challenges and exchange.scheme == "http" and exchange.target in runtime.challenges:
        # RFC 8555 §8.3: plain HTTP, and before any redirect of ours.
        body = runtime.challenges[exchange.target]
        return plain_response(200, b"application/octet-stream", body, head_only=head_only, extra=extra)
    if not listener.redirect:
        return None
    location = f"Location: {_https(exchange, listener)}\r\n".encode("utf-8", "surrogateescape")
    return plain_response(308, _TEXT, b"", head_only=head_only, extra=location + extra)


def _https(exchange: Exchange, listener: Listener) -> str:
    # HTTP/1.0 may leave the host out: then it is this listener's address.
    host, port = split_host(exchange.host or listener.authority.decode()), listener.redirect
    # "*" is about the server as a whole and has no address (RFC 9110 §9.3.7).
    target = exchange.target if exchange.target.startswith("/") else "/"
    return f"https://{host}{'' if port == _HTTPS else f':{port}'}{target}"
