"""Client connections: heads and bodies in, responses out, one exchange at a time.

A request's bytes are looked at once: a whole head goes to the parser, a body of known length is only counted. What
follows a request on its connection waits unread, so pipelining costs no memory and a bad request harms none before it.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import TYPE_CHECKING, Any

from router.errors import BadRequest, HeadTooLarge, MethodNotAllowed, RequestTimeout, RouterError
from router.model import Exchange
from router.net.deadlines import Deadlines
from router.net.forward import Forward
from router.net.framing import BadFraming, Chunked
from router.net.heads import HEAD_END
from router.net.pages import error_response, plain_response
from router.policy.forwarded import client_of, forwarded_lines
from router.policy.headers import BODY_CHUNKED, VIA, read_request

if TYPE_CHECKING:
    from router.net.server import Listener

__all__ = ["ClientConnection"]

#: Bytes that a client may send ahead of an answer before it is no longer read.
_AHEAD = 64 << 10
#: Closing with RST: the peer cannot take what it has for a whole response.
_RESET = struct.pack("ii", 1, 0)


class ClientConnection(asyncio.Protocol):
    """One client. Between requests it holds no parser, no task and no buffer."""

    __slots__ = (
        "_chunked",
        "_forward",
        "_left",
        "_lingering",
        "_listener",
        "_parsing",
        "_paused",
        "_tail",
        "_vouched",
        "_watch",
        "peer",
        "transport",
    )

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._forward: Forward | None = None
        #: Bytes received and not looked at yet.
        self._tail = b""
        #: Body bytes of the request to come; with `_chunked`, 1 until its end.
        self._left = 0
        self._chunked: Chunked | None = None
        self._lingering = False
        self._parsing = False
        self._paused = False
        #: The lines that say who the client is, the same for every request; None for trusted peers.
        self._vouched: bytes | None = b""
        self._watch: Deadlines | None = None
        self.peer = ""
        self.transport: Any = None

    @property
    def body_done(self) -> bool:
        """Whether the request's body has been received to its end."""
        return self._left == 0

    # Called by the loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        listener = self._listener
        listener.connections.add(self)
        address = transport.get_extra_info("peername")
        self.peer = address[0] if isinstance(address, tuple) else ""
        trusted = listener.runtime.table.trusts(self.peer)
        self._vouched = None if trusted else forwarded_lines(self.peer, listener.scheme)
        self._watch_for(listener.header_watch)

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        self._unwatch()
        self._listener.forget(self)
        if self._forward is not None:
            self._forward.client_gone()

    def eof_received(self) -> bool:
        # A client that has stopped sending is taken to have left, as most proxies do.
        return False

    def data_received(self, data: bytes) -> None:
        if self._lingering:
            return
        if self._forward is None:
            self._requests(self._tail + data if self._tail else data)
        elif self._left:
            self._body(data)
        else:
            self._tail += data
            if len(self._tail) > _AHEAD:
                self.pause()

    def pause_writing(self) -> None:
        self._watch_for(self._listener.stream_watch)
        if self._forward is not None:
            self._forward.client_full()

    def resume_writing(self) -> None:
        self._unwatch()
        if self._forward is not None:
            self._forward.client_drained()

    def expired(self) -> None:
        """Called by the watch."""
        self._watch = None
        if self._forward is not None:
            if self._left and not self.transport.get_write_buffer_size():
                self._forward.client_too_slow()
            else:
                self._abort()
        elif self._lingering:
            self._abort()
        elif self._tail:
            self._refuse(RequestTimeout("the head did not come in time"))
        else:
            self.transport.close()

    # Requests

    def _requests(self, data: bytes) -> None:
        """Takes heads off `data` until one has to wait for its answer or is not whole yet."""
        self._parsing = True
        while self._forward is None and not self._lingering and self.transport is not None:
            while data.startswith(b"\r\n"):
                data = data[2:]
            end = data.find(HEAD_END) + 4
            if end == 3:
                self._incomplete(data)
                break
            if end > self._listener.runtime.max_head:
                self._refuse(HeadTooLarge(f"{end} bytes"))
                break
            if end == len(data):
                head, self._tail = data, b""
            else:
                head, self._tail = data[:end], data[end:]
            self._open(head)
            data = self._tail
        self._parsing = False

    def _incomplete(self, data: bytes) -> None:
        self._tail = data
        if not data:
            return
        if len(data) > self._listener.runtime.max_head:
            self._refuse(HeadTooLarge(f"more than {len(data)} bytes"))
        elif data.count(b"\n") != data.count(b"\r\n"):
            self._refuse(BadRequest("a line of the head ends without CR LF"))
        elif self._watch is not self._listener.header_watch:
            self._watch_for(self._listener.header_watch)

    def _open(self, head: bytes) -> None:
        """Step 2: from bytes to an exchange under way, or refused."""
        runtime = self._listener.runtime
        self._unwatch()
        headers = None
        try:
            message = runtime.request_heads.parse(head)
            headers = message.headers
            forward = self._exchange(message)
        except RouterError as error:
            self._refuse(error, headers)
            return
        if forward is None:
            return
        self._forward = forward
        forward.start()
        if self._left and self._forward is forward:
            self._watch_for(self._listener.stream_watch)
            data, self._tail = self._tail, b""
            if data:
                self._body(data)

    def _exchange(self, message: Any) -> Forward | None:
        listener = self._listener
        runtime = listener.runtime
        target = message.path
        host = message.headers.get("Host", "")
        replaced = None
        if not target.startswith("/") or "#" in target:
            target, host = _other_form(message.method, target, host)
            replaced = host.encode("latin-1") if host else None
        request = read_request(message.raw_headers, replaced)
        version = message.version
        if request.length == BODY_CHUNKED and version < (1, 1):
            raise BadRequest("Transfer-Encoding in HTTP/1.0")
        exchange = Exchange(
            method=message.method,
            target=target,
            host=host,
            headers=message.headers,
            raw_headers=message.raw_headers,
            client=self.peer,
            scheme=listener.scheme,
            started=runtime.clock(),
            version=version,
        )
        exchange.listener = listener.name
        request_id = request.request_id or b"%032x" % runtime.rng.getrandbits(128)
        exchange.id = request_id.decode("latin-1")
        if runtime.table.health_path and exchange.path.startswith(runtime.table.health_path):
            if self._health(exchange, message.should_close or request.length != 0):
                return None
        vouched = self._vouched
        if vouched is None:
            exchange.client, vouched = client_of(self.peer, listener.scheme, request.forwarded, runtime.table.trusts)
        added = b"%bX-Forwarded-Host: %b\r\n%bX-Request-ID: %b\r\n" % (vouched, host.encode("latin-1"), VIA, request_id)
        if not host:
            added += b"Host: %b\r\n" % listener.authority
        self._left = 1 if request.length == BODY_CHUNKED else request.length
        self._chunked = Chunked() if request.length == BODY_CHUNKED else None
        return Forward(self, runtime, exchange, request, added, message.should_close)

    def _health(self, exchange: Exchange, closes: bool) -> bool:
        """Answers the router's own health: ready at the path itself and at /ready, live at /live."""
        runtime = self._listener.runtime
        rest = exchange.path[len(runtime.table.health_path) :]
        if rest not in ("", "/ready", "/live"):
            return False
        ready = rest == "/live" or not runtime.draining
        body = b'{"live":true,"ready":%b}\n' % (b"false" if runtime.draining else b"true")
        extra = b"Connection: close\r\n" if closes else b""
        status = 200 if ready else 503
        self.write(plain_response(status, b"application/json", body, head_only=exchange.method == "HEAD", extra=extra))
        if closes:
            self._linger()
        else:
            self._watch_for(self._listener.idle_watch)
        return True

    def _refuse(self, error: RouterError, headers: Any = None) -> None:
        """Answers a request that never became an exchange, and closes."""
        request_id = "%032x" % self._listener.runtime.rng.getrandbits(128)
        self._listener.refused(error, request_id, self.peer)
        self.write(error_response(error, request_id=request_id, headers=headers, closes=True))
        self._linger()

    def _body(self, data: bytes) -> None:
        forward = self._forward
        assert forward is not None
        if self._chunked is not None:
            try:
                piece = self._chunked.feed(data)
            except BadFraming as error:
                forward.closes = True
                forward.refuse(BadRequest(str(error)))
                return
            if self._chunked.done:
                self._left = 0
                self._tail = self._chunked.extra
        else:
            piece = data[: self._left]
            self._tail = data[self._left :]
            self._left -= len(piece)
        if self._left:
            if self._watch is not None:
                self._watch.add(self)
        else:
            self._chunked = None
            self._unwatch()
        if piece or not self._left:
            forward.feed(piece, not self._left)

    # Used by the exchange

    def write(self, data: bytes) -> None:
        if self.transport is not None:
            self.transport.write(data)

    def writelines(self, pieces: list[bytes]) -> None:
        if self.transport is not None:
            self.transport.writelines(pieces)

    def pause(self) -> None:
        """Stops reading from the client until `resume`."""
        if not self._paused and self.transport is not None:
            self._paused = True
            self._unwatch()
            self.transport.pause_reading()

    def resume(self) -> None:
        if self._paused and self.transport is not None:
            self._paused = False
            self.transport.resume_reading()
            if self._left and self._forward is not None:
                self._watch_for(self._listener.stream_watch)

    def done(self, *, broken: bool) -> None:
        """The exchange is over.

        Args:
            broken: the response is incomplete, which the client must be able to see.
        """
        forward, self._forward = self._forward, None
        if self.transport is None:
            return
        if broken:
            self._abort()
        elif forward is not None and forward.closes:
            self._linger()
        else:
            self.resume()
            self._watch_for(self._listener.idle_watch)
            if self._tail and not self._parsing:
                self._requests(self._tail)

    def close_if_idle(self) -> None:
        """For the end of the process: closes unless a request is under way."""
        if self._forward is None and self.transport is not None and not self._tail:
            self.transport.close()

    # Ends

    def _linger(self) -> None:
        """Closes so that the answer arrives: a client that still sends would else be reset before it reads it."""
        self._tail = b""
        if self.transport is None:
            return
        if self.body_done and not self._paused:
            self.transport.close()
            return
        self._lingering = True
        self.resume()
        self._watch_for(self._listener.linger_watch)
        if self.transport.can_write_eof():
            self.transport.write_eof()

    def _abort(self) -> None:
        if self.transport is None:
            return
        sock = self.transport.get_extra_info("socket")
        if sock is not None and sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.transport.abort()

    abort = _abort

    def _watch_for(self, watch: Deadlines) -> None:
        if self._watch is not None and self._watch is not watch:
            self._watch.discard(self)
        self._watch = watch
        watch.add(self)

    def _unwatch(self) -> None:
        if self._watch is not None:
            self._watch.discard(self)
            self._watch = None


def _other_form(method: str, target: str, host: str) -> tuple[str, str]:
    """Origin-form target and host of a target in another form (RFC 9112 §3.2).

    Raises:
        MethodNotAllowed: CONNECT. BadRequest: none of the forms.
    """
    if method == "CONNECT":
        raise MethodNotAllowed("CONNECT")
    if "#" in target:
        raise BadRequest("a fragment in the request target")
    if target == "*" and method == "OPTIONS":
        return target, host
    scheme, mark, rest = target.partition("://")
    if not mark or scheme.lower() not in ("http", "https"):
        raise BadRequest("the request target is in no known form")
    at = min((rest.find(c) for c in "/?" if c in rest), default=len(rest))
    authority, path = rest[:at], rest[at:]
    if not authority or "@" in authority:
        raise BadRequest("the request target has no host, or a user name")
    return (path if path.startswith("/") else "/" + path), authority
