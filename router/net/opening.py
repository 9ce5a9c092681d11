"""Step 2 of a request: from a whole head to an exchange, or a refusal. Nothing is read or written here."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from router.errors import BadRequest, LoopDetected
from router.model import Exchange
from router.net.runtime import Runtime
from router.net.secure_names import ClientCertificate
from router.policy.forwarded import client_of, forwarded_lines
from router.policy.headers import BODY_CHUNKED, lines_of, read_request
from router.policy.normal import split_host
from router.policy.table import Table
from router.policy.targets import one_hop_less, origin_form
from router.policy.upgrades import SWITCH_LINES, websocket_key

if TYPE_CHECKING:
    from router.net.client import ClientConnection
    from router.net.server import Listener

__all__ = ["Opened", "open_exchange", "proof_lines", "vouched_lines"]

_HTTP_1_1 = (1, 1)
#: What a client says itself of whose certificate it has shown: neither servers nor routes are to believe it.
_FORGED = re.compile(rb"\r\n(?i:x[-_]client[-_]cert[-_](?:subject|fingerprint))[ \t]*:[^\r\n]*")

#: The exchange; its head as it goes on, without the empty line; the lines that the router vouches for, with the empty
#: line; bytes of the body or BODY_CHUNKED; whether the client waits for "100 Continue"; whether its connection closes
#: after the response; the Sec-WebSocket-Key if it asks to switch to WebSocket, or b"".
Opened = tuple[Exchange, bytes, bytes, int, bool, bool, bytes]


def vouched_lines(peer: str, scheme: str, table: Table) -> bytes | None:
    """The lines that say who the client is, up to X-Forwarded-Host; None where each request has to be asked."""
    if table.forwarded or table.trusts(peer):
        return None
    return forwarded_lines(peer, scheme).encode() + b"X-Forwarded-Host: "


def open_exchange(
    head: bytes, client: ClientConnection, listener: Listener, vouched: bytes | None, runtime: Runtime
) -> Opened:
    """Reads a request.

    Args:
        head: whole, with its empty line.
        vouched: the lines that say who the client is, up to X-Forwarded-Host; None if each request has to be asked.

    Raises:
        ClientError: the request is ambiguous, or not meant for a proxy like this one.
    """
    plain = runtime.plain_requests.read(head, client)
    if plain is None or vouched is None:
        return _open_parsed(runtime.request_heads.parse(head), head, listener, client, vouched, runtime)
    method, target, host, length, given, closes, cookie_at, cookie = plain
    request_id = runtime.new_id()
    exchange = Exchange(
        method.decode(),
        target.decode(),
        host.decode("latin-1"),
        head[:-2] + client.proof + b"\r\n" if client.proof else head,
        client.peer,
        client.scheme,
        listener.name,
        _HTTP_1_1,
        runtime.clock(),
        request_id,
    )
    exchange.alike = client.shape
    if cookie_at:
        exchange.cookie_at = cookie_at
        exchange._cookie = cookie
    named, more, foretold = request_id.encode(), b"", runtime.observers.foretold
    if foretold is not None and client.shape in foretold.alike and request_id[16:] >= foretold.below:
        exchange.trace_id = request_id
        exchange.added = more = named.join(foretold.around)
    added = b"%b%b%b\r\n%b%b\r\n\r\n" % (more, vouched, host, runtime.via_and_id, named)
    return exchange, given[:-2], added, length, False, closes, b""


def proof_lines(shown: ClientCertificate | None) -> bytes:
    """The lines that say whose certificate a client has shown; b"" without one."""
    if shown is None:
        return b""
    return f"X-Client-Cert-Subject: {shown.subject}\r\nX-Client-Cert-Fingerprint: {shown.fingerprint}\r\n".encode()


def _names(via: bytes, pseudonym: bytes) -> bool:
    return any(hop.split()[1:2] == [pseudonym] for hop in via.split(b","))


def _check_host(host: str) -> None:
    """Raises BadRequest if it is none."""
    try:
        split_host(host)
    except ValueError as error:
        raise BadRequest(str(error)) from None


def _open_parsed(
    message: Any, head: bytes, listener: Listener, conn: ClientConnection, vouched: bytes | None, runtime: Runtime
) -> Opened:
    """open_exchange for what is not in plain form."""
    peer, scheme = conn.peer, conn.scheme
    target, fields, version = message.path, message.raw_headers, message.version
    host = message.headers.get("Host", "")
    if host or version >= _HTTP_1_1:
        # Before the target's host takes its place: one that is none is refused whatever the target (RFC 9112 §3.2).
        _check_host(host)
    if target[0] != "/" or "#" in target or message.method == "CONNECT":
        secured = scheme == "https" or runtime.table.trusts(peer)
        target, host, fields = origin_form(message.method, target, host, fields, secured)
        lines = lines_of(fields)
        if host:
            _check_host(host)
    else:
        lines = head[head.find(b"\r\n") : -2]
    if not host:
        # HTTP/1.0 may leave it out; HTTP/1.1, in which the request goes on, may not.
        fields = (*(field for field in fields if field[0].lower() != b"host"), (b"Host", listener.authority))
        lines = lines_of(fields)
    if not host.isascii():
        raise BadRequest("the Host field is not ASCII")
    authority = listener.authority.decode()
    first = f"{message.method} {target} HTTP/1.1".encode("utf-8", "surrogateescape")
    sent = first + _FORGED.sub(b"", lines) + conn.proof
    lines, length, expects, request_id, forwarded, options, asks = read_request(fields, lines)
    if message.method in ("OPTIONS", "TRACE"):
        lines = one_hop_less(message.method, lines)
    key = websocket_key(message.method, version, fields, options, length) if b"upgrade" in options else b""
    if key:
        lines += SWITCH_LINES
    if length == BODY_CHUNKED and version < _HTTP_1_1:
        raise BadRequest("Transfer-Encoding in HTTP/1.0")
    if any(name.lower() == b"via" and _names(value, runtime.pseudonym) for name, value in fields):
        raise LoopDetected(f"Via holds {runtime.pseudonym.decode()}")
    trusted = False
    if vouched is None:
        table = runtime.table
        trusted = table.trusts(peer)
        heard = forwarded if trusted else []
        client, said = client_of(peer, scheme, host or authority, heard, table.trusts, forwarded=table.forwarded)
        said = conn.proof.decode("latin-1") + said
    else:
        client, said = peer, vouched.decode("latin-1") + f"{host or authority}\r\n"
    named, request_id = bool(request_id), request_id or runtime.new_id()
    exchange = Exchange(
        message.method,
        target,
        host,
        sent,
        client,
        scheme,
        listener.name,
        version,
        runtime.clock(),
        request_id,
    )
    exchange.named, exchange.trusted, exchange.peer = named, trusted, peer if peer != client else ""
    exchange.asks = asks and trusted and runtime.table.trusts(client)
    expects = expects and version >= _HTTP_1_1
    via = f"Via: {version.major}.{version.minor} {runtime.pseudonym.decode()}\r\n"
    added = f"{said}{via}X-Request-ID: {request_id}\r\n\r\n".encode("latin-1")
    return exchange, first + lines, added, length, expects, message.should_close or b"close" in options, key
