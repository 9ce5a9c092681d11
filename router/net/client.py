"""Client connections: heads and bodies in, responses out, one exchange at a time.

A request's bytes are looked at once: a whole head goes to the parser, a body of known length is only counted. What
follows a request on its connection waits unread, so pipelining costs no memory and a bad request harms none before it.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Literal

from router.errors import RequestTimeout, RouterError
from router.model import Exchange, Headers
from router.net.body import RequestBody
from router.net.forward import Forward
from router.net.heads import HEAD_END, split_head
from router.net.opening import open_exchange, proof_lines, vouched_lines
from router.net.own import own_response
from router.net.pages import error_response
from router.net.wire import LOOK, ClientWire
from router.policy.plain import NO_SHAPE

if TYPE_CHECKING:
    from router.net.server import Listener

__all__ = ["ClientConnection"]

#: How an exchange leaves its connection.
End = Literal["keep", "close", "break", "reset"]
_NEVER = float("inf")
#: Bytes that a client may send ahead of an answer before it is no longer read.
_AHEAD = 64 << 10
#: Bytes of a body that a client has to send within each `timeouts.stream`.
_LEAST = 256


class ClientConnection(ClientWire):
    """One client. Between requests it holds no parser, no task and no buffer."""

    __slots__ = ("_listener", "_parsing", "_vouched", "hsts", "peer", "proof", "scheme", "shape", "via", "via_and_id")

    def __init__(self, listener: Listener, scheme: str = "http") -> None:
        super().__init__(listener.runtime)
        self._listener = listener
        self._parsing = False
        #: The lines that say who the client is, the same for every request; None for trusted peers.
        self._vouched: bytes | None = None
        self.peer = ""
        self.scheme = scheme
        #: The lines that say whose certificate the client has shown.
        self.proof = b""
        #: The router's own lines in every response.
        self.hsts, self.via, self.via_and_id = listener.hsts, listener.via, listener.via_and_id
        #: Of the head that the client sent last.
        self.shape = NO_SHAPE

    # Called by the loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        listener = self._listener
        listener.connections.add(self)
        self.leaves, self.grace = listener.leaves, listener.grace
        listener.runtime.sweeper.add(self)
        address = transport.get_extra_info("peername")
        self.peer = address[0] if isinstance(address, tuple) else ""
        self.proof = proof_lines(getattr(transport, "client_certificate", None))
        self.identify()
        self._due_in(listener.timeouts.header)

    def identify(self) -> None:
        """Works out what is said of the client, again when other proxies are trusted."""
        vouched = vouched_lines(self.peer, self.scheme, self._listener.runtime.table)
        self._vouched = None if vouched is None else self.proof + vouched

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        self.gone()
        if self.forward is not None:
            self.forward.client_gone()

    def gone(self) -> None:
        self._listener.forget(self)

    def eof_received(self) -> bool:
        # A client that has stopped sending is taken to have left, as most proxies do.
        return False

    def data_received(self, data: bytes) -> None:
        if self._lingering:
            return
        if self.forward is None:
            size = data.find(HEAD_END) + 4
            whole = 3 < size == len(data) <= self._runtime.max_head and data[0] != 13
            if whole and not self._tail and not self.is_full:
                # The usual case: one whole head and nothing else.
                self._open(data)
            else:
                self._requests(self._tail + data if self._tail else data)
        elif self.body is not None:
            self._feed(self.body, data)
        else:
            self._tail += data
            if len(self._tail) > _AHEAD:
                self.pause()

    def pause_writing(self) -> None:
        self.is_full = True
        self._unread = self.unread()
        self._due_in(self._listener.timeouts.stream)
        if self.forward is not None:
            self.forward.client_full()

    def resume_writing(self) -> None:
        self.is_full = False
        self.wait_for_client()
        if self.forward is not None:
            self.forward.client_drained()
        elif not self._parsing:
            self._next_request()

    def resume(self) -> None:
        super().resume()
        self.wait_for_client()

    def expired(self) -> None:
        """Called by the sweeper."""
        self.deadline = _NEVER
        if self.transport is None:
            return
        stuck = self._lingering or self.transport.get_write_buffer_size() > 0
        if self._paused and not self.is_full and not self._lingering:
            # Not late with anything: this was only a look at whether it is still there.
            self.abort() if self.has_left() else self._due_in(LOOK)
        elif self.may_linger():
            return
        elif self.is_full and self.is_taking():
            self._due_in(self._listener.timeouts.stream)
        elif self.forward is not None and self.body is not None and not stuck:
            self.forward.fail(RequestTimeout("the body did not come in time"))
        elif self.forward is not None or stuck:
            self.abort()
        elif self._tail:
            self._refuse(RequestTimeout("the head did not come in time"))
        else:
            self.close_idle()

    def wait_for_client(self) -> None:
        """Sets what the client may be late with: a piece of its body, the next request, or nothing."""
        if self.forward is None:
            self._due_in(self._listener.timeouts.idle)
        elif self.body is not None and not self.forward.expects:
            self._due_in(self._listener.timeouts.stream)
        else:
            # A client that waits for "100 Continue" cannot be late.
            self.deadline = _NEVER

    # Requests

    def _requests(self, data: bytes) -> None:
        """Takes heads off `data` until one has to wait for its answer or is not whole yet."""
        self._parsing = True
        max_head = self._runtime.max_head
        while self.forward is None and not self._lingering and self.transport is not None:
            if self.is_full:
                # Answers are not made for a client that does not read them.
                self._tail = data
                self.pause()
                self._due_in(self._listener.timeouts.stream)
                break
            try:
                head, data = split_head(data, max_head)
            except RouterError as error:
                self._refuse(error)
                break
            if not head and data and not self._tail:
                self._due_in(self._listener.timeouts.header)
            self._tail = data
            if not head:
                break
            self._open(head)
            if self.forward is not None:
                break
            data, self._tail = self._tail, b""
            if data:
                # Only what the transport has seen tells how much the client has not taken.
                self._runtime.flush()
        self._parsing = False

    def _open(self, head: bytes) -> None:
        """Step 2: from bytes to an exchange under way, or refused."""
        self.deadline = _NEVER
        runtime = self._runtime
        try:
            opened = open_exchange(head, self, self._listener, self._vouched, runtime)
        except RouterError as error:
            self._refuse(error, head)
            return
        exchange, given, vouched, length, expects, closes, key = opened
        own = runtime.table.health_path or self._listener.redirect or runtime.challenges
        if own and self._own(exchange, closes or length != 0, length != 0):
            return
        forward = self.forward = Forward(self, runtime, exchange, given, vouched, closes)
        if length and not self._begin_body(forward, length, expects):
            return
        if key:
            forward.key = key
        forward.start()
        if self.body is not None and self.forward is forward:
            self.wait_for_client()

    def _own(self, exchange: Exchange, closes: bool, unread: bool) -> bool:
        """Answers what is for the router itself, before any route; False if the request is for somebody else."""
        answer = own_response(exchange, self._listener, closes=closes)
        if answer is None:
            return False
        self.write(answer)
        self.linger() if unread else self._leave() if closes else self.wait_for_client()
        return True

    def _refuse(self, error: RouterError, head: bytes = b"") -> None:
        """Answers a request that never became an exchange, and closes."""
        request_id = self._runtime.new_id()
        self._listener.refused(error, request_id)
        close = b"Connection: close\r\n" + self.hsts
        mute, told = head.startswith(b"HEAD "), Headers(head)
        self.write(error_response(error, request_id=request_id, headers=told, head_only=mute, connection=close))
        self.linger()

    def _begin_body(self, forward: Forward, length: int, expects: bool) -> bool:
        """Takes what of the body has come with the head; False if that is wrong already."""
        body = self.body = RequestBody(length)
        forward.expects = expects
        data, self._tail = self._tail, b""
        try:
            piece = body.feed(data) if data else b""
        except RouterError as error:
            forward.closes = True
            forward.fail(error)
            return False
        if body.done:
            self._tail, self.body = body.extra, None
        forward.expect(body, piece)
        return True

    def _feed(self, body: RequestBody, data: bytes) -> None:
        forward = self.forward
        assert forward is not None
        try:
            piece = body.feed(data)
        except RouterError as error:
            forward.closes = True
            forward.fail(error)
            return
        if body.done:
            self._tail = body.extra
            self.body = None
        body.recent += len(data)
        if body.done or body.recent >= _LEAST:
            # Who sends a few bytes now and then keeps a connection, and an endpoint's, for as long as it likes.
            body.recent = 0
            self.wait_for_client()
        if piece or body.done:
            forward.feed(piece, body.done)

    def done(self, end: End, now: float) -> None:
        """The exchange is over, and so is the connection unless `end` is "keep".

        Args:
            end: "close" after a whole response; "break" where its framing shows that it is not whole; "reset" where
                nothing but a reset shows it.
            now: seconds of the router's clock.
        """
        self.forward = None
        if self.transport is None:
            return
        if end == "keep":
            self.deadline = now + self._listener.timeouts.idle
            if self.leaves:
                self.deadline = min(self.deadline, now + self.grace)
            if (self._tail or self._paused) and not self._parsing:
                self._next_request()
        elif end == "close":
            self._leave()
        elif end == "break":
            self.close()
        else:
            self.abort()

    def _next_request(self) -> None:
        """Goes on with what the client has sent ahead."""
        if self._paused:
            self.resume()
        data, self._tail = self._tail, b""
        if data:
            self._requests(data)
