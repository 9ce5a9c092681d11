"""The TLS of a listener: handshakes, bounded in time and number, and what comes in place of one.

Junk is counted and told at debug level; the log gets one line a minute at most. A client that speaks plain HTTP is told
so in plain HTTP. The protocol above is made once the handshake is over.
"""

from __future__ import annotations

import asyncio
import logging
import re
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

from router.net.keypairs import reason_of
from router.net.pages import plain_response
from router.net.runtime import Runtime
from router.net.secure import CLOSING, SHAKING, Pipes, SecureConnection
from router.net.secure_names import ClientCertificate, client_certificate
from router.net.tls import ServerObject, Store

__all__ = ["SecureServer", "ServerSide"]

log = logging.getLogger("router")

#: Bytes of a handshake: OpenSSL itself takes up to 100 KiB of a client's certificates.
_MOST_BYTES = 128 << 10
#: The first byte of all TLS (RFC 8446 §5.1: a record of type handshake).
_HANDSHAKE = 22
_HTTP = re.compile(rb"[A-Z]{3,20} ")
_MAYBE_HTTP = re.compile(rb"[A-Z]{1,20}")
#: Seconds that a client gets to take what it is told at the end.
_LINGER = 2.0
#: Seconds between two lines of the log about handshakes that failed, and reasons that one names.
_SAY_AGAIN = 60.0
_REASONS = 3
_PLAIN_HTTP = (
    b"400 plain_http: This port speaks HTTPS, and the request came as plain HTTP. Use https:// in its address.\n"
)


class SecureServer:
    """Takes the connections of one listener through their handshakes. Its length is how many are under way.

    Args:
        store: the certificates; may be replaced at any time.
        name: of the listener, for the log.
        make: the protocol of a connection whose handshake is over.
        left: called when a connection has gone for which there was none.
        timeout: seconds for a handshake.
        most: handshakes under way; another one ends the oldest.
        pipes: of this loop.
    """

    def __init__(
        self,
        runtime: Runtime,
        store: Store,
        *,
        name: str,
        make: Callable[[], asyncio.Protocol],
        left: Callable[[], None],
        timeout: float = 10.0,
        most: int = 1024,
        pipes: Pipes | None = None,
    ) -> None:
        self.runtime = runtime
        self.store = store
        self.timeout = timeout
        self.most = most
        self.make = make
        self.pipes = pipes or Pipes()
        #: Handshakes that succeeded, those of them that resumed a session, those that failed, plain HTTP among these.
        self.handshakes = self.resumed = self.failures = self.plain = 0
        self._name = name
        self._left = left
        #: The oldest first.
        self._under_way: dict[ServerSide, None] = {}
        self._reasons: Counter[str] = Counter()
        self._said_at = -_SAY_AGAIN

    def __len__(self) -> int:
        return len(self._under_way)

    def accept(self) -> ServerSide:
        """The protocol of a new connection, to be given to the loop."""
        return ServerSide(self)

    def hurry(self, seconds: float) -> None:
        """Handshakes under way have so long from now on."""
        until = self.runtime.clock() + seconds
        for connection in tuple(self._under_way):
            connection.deadline = min(connection.deadline, until)

    def cut(self) -> None:
        """Breaks off the handshakes under way."""
        for connection in tuple(self._under_way):
            connection.abort()

    # Called by connections

    def began(self, connection: ServerSide) -> None:
        self._under_way[connection] = None
        self.runtime.sweeper.add(connection)
        if len(self._under_way) > self.most:
            # Not the newest: who only holds places open would else keep everybody out.
            oldest = next(iter(self._under_way))
            self._forget(oldest)
            oldest.give_up("too many at once")

    def shaken(self, connection: ServerSide, *, resumed: bool) -> None:
        """Its handshake is over."""
        self._forget(connection)
        self.handshakes += 1
        self.resumed += resumed

    def gone(self, connection: ServerSide) -> None:
        """It has closed without ever having been open."""
        self._forget(connection)
        self._left()

    def _forget(self, connection: ServerSide) -> None:
        self._under_way.pop(connection, None)
        self.runtime.sweeper.discard(connection)

    def failed(self, reason: str, peer: str, detail: str = "") -> None:
        """Counts a handshake that came to nothing.

        Args:
            reason: one of a few; `detail`: what else is known of it, for the log at debug level.
        """
        self.failures += 1
        self._reasons[reason] += 1
        log.debug("listener %s: TLS handshake with %s failed: %s%s", self._name, peer or "a client", reason, detail)
        now = self.runtime.clock()
        if now - self._said_at < _SAY_AGAIN:
            return
        self._said_at = now
        most = ", ".join(f"{count} × {each}" for each, count in self._reasons.most_common(_REASONS))
        log.info("listener %s: TLS handshakes that failed since this was last said: %s", self._name, most)
        self._reasons.clear()


class ServerSide(SecureConnection):
    """A client's connection, from its first byte on."""

    __slots__ = ("_head", "_peer", "_seen", "_server", "client_certificate", "deadline")

    def __init__(self, server: SecureServer) -> None:
        super().__init__(server.pipes)
        self._server = server
        self._peer = ""
        #: The first bytes, as long as they may be anything.
        self._head = b""
        #: Bytes of the handshake so far.
        self._seen = 0
        #: When the sweeper is to call `expired`.
        self.deadline = float("inf")
        #: Who the client has shown to be; None if nobody has asked or it has not said.
        self.client_certificate: ClientCertificate | None = None

    @property
    def server_name(self) -> str | None:
        """The name that the client asked for, if any."""
        return None if self._tls is None else self._tls.server_name

    # Called by the loop and the sweeper

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._peer = _host(transport.get_extra_info("peername"))
        self.deadline = self._server.runtime.clock() + self._server.timeout
        self._server.began(self)

    def eof_received(self) -> bool:
        if self._state == SHAKING and (self._seen or self._head):
            self._fail("the client left")
        return super().eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._state == SHAKING and (self._seen or self._head):
            self._fail("the client left")
        if self._inner is None:
            self._server.gone(self)
        super().connection_lost(exc)

    def expired(self) -> None:
        """Too late with its handshake, or with taking what it was told."""
        self.deadline = float("inf")
        if self._state == SHAKING:
            self._server.failed("not over in time", self._peer)
        self.abort()

    def give_up(self, reason: str) -> None:
        """Ends a handshake that is under way."""
        if self._state == SHAKING:
            self._server.failed(reason, self._peer)
        self.abort()

    # The handshake

    def _early(self, data: bytes) -> None:
        if self._state != SHAKING:
            return
        if self._tls is None:
            data = self._head + data
            if data[0] != _HANDSHAKE:
                self._not_tls(data)
                return
            self._wrapped(self._wrap())
        if self._seen > _MOST_BYTES:
            self._fail("too many bytes")
            return
        self._seen += len(data)
        try:
            over = _quietly(self._handshake, data)
        except OSError as error:
            self._fail(*self._why(error))
            return
        if over:
            self._shaken()

    def _wrap(self) -> ServerObject:
        server = self._server
        local = _host(self._below.get_extra_info("sockname"))
        return server.store.wrap(self._pipes.incoming, self._pipes.outgoing, local, server.runtime.clock())

    def _shaken(self) -> None:
        server = self._server
        try:
            self.client_certificate = client_certificate(self._tls)
        except (ValueError, OSError):
            # What came behind the handshake must not become another connection's.
            self._state = SHAKING
            self._pipes.incoming.read()
            self._fail("the client's certificate cannot be read")
            return
        server.shaken(self, resumed=bool(self._tls.session_reused))
        self._open(server.make())

    def _why(self, error: OSError) -> tuple[str, str]:
        if self._tls.refused:
            # OpenSSL has checked that it is ASCII, nobody that it is a name.
            name = self._tls.server_name
            return "no certificate for the name", f" {name[:80]!r}" if name else " of none"
        return reason_of(error), ""

    def _fail(self, reason: str, detail: str = "") -> None:
        """Ends quietly: the alert that TLS has for it is on its way already, and gets a little time."""
        self._server.failed(reason, self._peer, detail)
        self._state = CLOSING
        self.deadline = self._server.runtime.clock() + _LINGER
        self._below.close()

    def _not_tls(self, data: bytes) -> None:
        if _HTTP.match(data):
            self._tell_of_https()
        elif _MAYBE_HTTP.fullmatch(data):
            self._head = data
        else:
            self._fail("no TLS")

    def _tell_of_https(self) -> None:
        server = self._server
        server.plain += 1
        server.failed("plain HTTP", self._peer)
        self._state = CLOSING
        self.deadline = server.runtime.clock() + _LINGER
        self._below.write(
            plain_response(400, b"text/plain; charset=utf-8", _PLAIN_HTTP, extra=b"Connection: close\r\n")
        )
        # Not closed yet: a client that still sends would be reset before it reads this.
        self._below.write_eof()


def _host(address: Any) -> str:
    return str(address[0]) if isinstance(address, tuple) else ""


def _quietly(shake: Callable[[bytes], bool], data: bytes) -> bool:
    """Shakes hands without a traceback on stderr for each client whose server name is not ASCII.

    The ssl module writes one, past the log and the handshake's own failure, as it does with exceptions in destructors.
    """
    usual = sys.unraisablehook

    def told(unraisable: Any) -> None:
        if not isinstance(unraisable.exc_value, UnicodeDecodeError) or not isinstance(unraisable.object, bytes):
            usual(unraisable)

    sys.unraisablehook = told
    try:
        return shake(data)
    finally:
        sys.unraisablehook = usual
