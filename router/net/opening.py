"""Step 2 of a request: from a parsed head to an exchange, or a refusal. Nothing is read or written here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from router.errors import BadRequest
from router.model import Exchange
from router.net.runtime import Runtime
from router.policy.forwarded import client_of
from router.policy.headers import BODY_CHUNKED, lines_of, read_request
from router.policy.targets import origin_form

if TYPE_CHECKING:
    from router.net.server import Listener

__all__ = ["open_exchange"]


def open_exchange(
    message: Any, head: bytes, listener: Listener, peer: str, vouched: str | None, runtime: Runtime
) -> tuple[Exchange, bytes, str, int, bool]:
    """Reads a request.

    Args:
        message: what the parser made of `head`.
        peer: address at the other end of the connection, "" for a unix socket.
        vouched: the lines that say who the client is; None if the peer is trusted to say it.

    Returns:
        The exchange; its field lines that go on; the lines that the router vouches for; bytes of the body or
        BODY_CHUNKED; whether the client waits for "100 Continue".

    Raises:
        ClientError: the request is ambiguous, or not meant for a proxy like this one.
    """
    target, fields, version = message.path, message.raw_headers, message.version
    host = message.headers.get("Host", "")
    if target[0] != "/" or "#" in target:
        target, host, fields = origin_form(message.method, target, host, fields)
        lines = lines_of(fields)
    elif not host:
        # HTTP/1.0 may leave it out; HTTP/1.1, in which the request goes on, may not.
        fields = (*(field for field in fields if field[0].lower() != b"host"), (b"Host", listener.authority))
        lines = lines_of(fields)
    else:
        lines = head[head.find(b"\r\n") : -2]
    lines, length, expects, request_id, forwarded, _ = read_request(fields, lines)
    if length == BODY_CHUNKED and version < (1, 1):
        raise BadRequest("Transfer-Encoding in HTTP/1.0")
    if vouched is None:
        client, vouched = client_of(peer, listener.scheme, host, forwarded, runtime.table.trusts)
    else:
        client, vouched = peer, f"{vouched}X-Forwarded-Host: {host}\r\n"
    exchange = Exchange(
        message.method,
        target,
        host,
        message.headers,
        fields,
        client,
        listener.scheme,
        listener.name,
        version,
        runtime.clock(),
        request_id or runtime.new_id(),
    )
    return exchange, lines, vouched, length, expects and version >= (1, 1)
