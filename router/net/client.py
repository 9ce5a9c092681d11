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
from router.net.forward import Forward
from router.net.framing import BadFraming, Chunked
from router.net.heads import HEAD_END
from router.net.pages import error_response, plain_response
from router.policy.forwarded import client_of, forwarded_lines
from router.policy.headers import BODY_CHUNKED, read_request

if TYPE_CHECKING:
    from router.net.server import Listener

__all__ = ["ClientConnection"]

#: Bytes that a client may send ahead of an answer before it is no longer read.
_AHEAD = 64 << 10
#: Seconds that a client gets to read its answer after which the connection closes.
_LINGER = 2.0
_NEVER = float("inf")
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
        "deadline",
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
        self._vouched: str | None = None
        #: When the sweeper is to call `expired`.
        self.deadline = _NEVER
        self.peer = ""
        self.transport: Any = None

    @property
    def body_done(self) -> bool:
        """Whether the request's body has been received to its end."""
        return self._left == 0

    def _due_in(self, seconds: float) -> None:
        self.deadline = self._listener.runtime.clock() + seconds

    # Called by the loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        listener = self._listener
        listener.connections.add(self)
        listener.runtime.sweeper.add(self)
        address = transport.get_extra_info("peername")
        self.peer = address[0] if isinstance(address, tuple) else ""
        if not listener.runtime.table.trusts(self.peer):
            self._vouched = forwarded_lines(self.peer, listener.scheme)
        self._due_in(listener.timeouts.header)

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
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
        self._due_in(self._listener.timeouts.stream)
        if self._forward is not None:
            self._forward.client_full()

    def resume_writing(self) -> None:
        self._await_body()
        if self._forward is not None:
            self._forward.client_drained()

    def expired(self) -> None:
        """Called by the sweeper."""
        self.deadline = _NEVER
        if self.transport is None:
            return
        if self._forward is not None and self._left and not self.transport.get_write_buffer_size():
            self._forward.client_too_slow()
        elif self._forward is not None or self._lingering:
            self.abort()
        elif self._tail:
            self._refuse(RequestTimeout("the head did not come in time"))
        else:
            self.transport.close()

    def _await_body(self) -> None:
        """While a body is to come, each piece has to come in time; else the client has nothing to be late with."""
        if self._left and self._forward is not None:
            self._due_in(self._listener.timeouts.stream)
        else:
            self.deadline = _NEVER

    # Requests

    def _requests(self, data: bytes) -> None:
        """Takes heads off `data` until one has to wait for its answer or is not whole yet."""
        self._parsing = True
        while self._forward is None and not self._lingering and self.transport is not None:
            end = data.find(HEAD_END) + 4
            if end == 4:
                # Empty lines before a request (RFC 9112 §2.2).
                data = data[4:]
                continue
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
        if data in (b"", b"\r\n", b"\r"):
            self._tail = data
            return
        if len(data) > self._listener.runtime.max_head:
            self._refuse(HeadTooLarge(f"more than {len(data)} bytes"))
        elif data.count(b"\n") != data.count(b"\r\n"):
            self._refuse(BadRequest("a line of the head ends without CR LF"))
        else:
            if not self._tail:
                self._due_in(self._listener.timeouts.header)
            self._tail = data

    def _open(self, head: bytes) -> None:
        """Step 2: from bytes to an exchange under way, or refused."""
        self.deadline = _NEVER
        headers = None
        try:
            message = self._listener.runtime.request_heads.parse(head)
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
            self._await_body()
            data, self._tail = self._tail, b""
            if data:
                self._body(data)

    def _exchange(self, message: Any) -> Forward | None:
        listener = self._listener
        runtime = listener.runtime
        target, fields = message.path, message.raw_headers
        host = message.headers.get("Host", "")
        if target[0] != "/" or "#" in target:
            target, host, fields = _other_form(message, host)
        kept, length, expects, request_id, forwarded, _ = read_request(fields)
        vouched, client = self._vouched, self.peer
        if vouched is None:
            client, vouched = client_of(self.peer, listener.scheme, forwarded, runtime.table.trusts)
        exchange = Exchange(
            message.method,
            target,
            host,
            message.headers,
            fields,
            client,
            listener.scheme,
            listener.name,
            message.version,
            runtime.clock(),
            request_id or runtime.new_id(),
        )
        health = runtime.table.health_path
        if health and target.startswith(health) and self._health(exchange, message.should_close or length != 0):
            return None
        forward = Forward(self, runtime, exchange, kept, vouched)
        forward.closes = message.should_close
        if length:
            self._expect_body(forward, length, expects)
        return forward

    def _expect_body(self, forward: Forward, length: int, expects: bool) -> None:
        forward.has_body = True
        forward.expects = expects
        if length == BODY_CHUNKED:
            if forward.exchange.version < (1, 1):
                raise BadRequest("Transfer-Encoding in HTTP/1.0")
            self._left, self._chunked = 1, Chunked()
        else:
            self._left = length

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
            self._due_in(self._listener.timeouts.idle)
        return True

    def _refuse(self, error: RouterError, headers: Any = None) -> None:
        """Answers a request that never became an exchange, and closes."""
        request_id = self._listener.runtime.new_id()
        self._listener.refused(error, request_id)
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
        if not self._left:
            self._chunked = None
        self._await_body()
        if piece or not self._left:
            forward.feed(piece, not self._left)

    # Used by the exchange

    def write(self, data: bytes) -> None:
        if self.transport is not None:
            self._listener.runtime.write(self.transport, data)

    def pause(self) -> None:
        """Stops reading from the client until `resume`."""
        if not self._paused and self.transport is not None:
            self._paused = True
            self.deadline = _NEVER
            self.transport.pause_reading()

    def resume(self) -> None:
        if self._paused and self.transport is not None:
            self._paused = False
            self.transport.resume_reading()
            self._await_body()

    def done(self, closes: bool, broken: bool) -> None:
        """The exchange is over.

        Args:
            closes: the connection closes after this response.
            broken: the response is incomplete, which the client must be able to see.
        """
        self._forward = None
        if self.transport is None:
            return
        if broken:
            self.abort()
        elif closes:
            self._linger()
        else:
            if self._paused:
                self.resume()
            self._due_in(self._listener.timeouts.idle)
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
        self._listener.runtime.flush()
        if self.body_done and not self._paused:
            self.transport.close()
            return
        self._lingering = True
        self.resume()
        self._due_in(_LINGER)
        if self.transport.can_write_eof():
            self.transport.write_eof()

    def abort(self) -> None:
        """Breaks the connection off so that the client cannot take what it has for a whole response."""
        if self.transport is None:
            return
        sock = self.transport.get_extra_info("socket")
        if sock is not None and sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.transport.abort()


def _other_form(message: Any, host: str) -> tuple[str, str, tuple[tuple[bytes, bytes], ...]]:
    """Origin-form target, host and fields of a request whose target is in another form (RFC 9112 §3.2).

    Raises:
        MethodNotAllowed: CONNECT. BadRequest: none of the forms.
    """
    method, target, fields = message.method, message.path, message.raw_headers
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
    return (path if path.startswith("/") else "/" + path), authority, fields
