"""TLS over a transport of the loop's: a protocol to the transport below, a transport to the protocol above.

All connections of one side share one pair of OpenSSL's buffers, which is empty between two events: it holds 65 KiB for
each that has its own. So whatever came is deciphered before anybody above is told, and what was enciphered goes out.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ssl
from collections.abc import Iterable
from typing import Any

from router.net.keypairs import reason_of

__all__ = ["CLOSED", "CLOSING", "OPEN", "SHAKING", "Pipes", "SecureConnection", "Truncated"]

#: In the handshake; open; told to close, and what still comes is thrown away; gone.
SHAKING, OPEN, CLOSING, CLOSED = range(4)
#: The most that one record holds (RFC 8446 §5.1): OpenSSL reads and writes one at a time.
_RECORD = 16 << 10
#: Bytes enciphered before they go on: with more at once memory is asked of the system, at three times the cost.
_AT_ONCE = 64 << 10
#: Bytes that are deciphered in one go: two records and what is around them.
_SLICE = 34 << 10
#: Bytes in a row that say nothing: TLS's own messages, which cost much; one record may wait for its end.
_MOST_IDLE = 64 << 10


class Truncated(ConnectionResetError):
    """The peer ended without saying so within TLS."""


class Pipes:
    """OpenSSL's two ends: one pair for all connections of a loop, and for one loop alone."""

    __slots__ = ("incoming", "outgoing")

    def __init__(self) -> None:
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()


class SecureConnection(asyncio.Transport, asyncio.Protocol):
    """One connection. What differs between client and server is how it begins.

    Backpressure is the transport's below: its buffer is the only one, and its limits are in bytes of cipher text.
    A peer that ends without saying so within TLS is told upward as a reset: anybody may have ended it (RFC 8446 §6.1).
    """

    __slots__ = ("_below", "_ciphered", "_deciphered", "_error", "_idle_bytes", "_inner", "_pipes", "_state", "_tls")

    def __init__(self, pipes: Pipes) -> None:
        super().__init__()
        self._pipes = pipes
        self._state = SHAKING
        self._below: Any = None
        #: The protocol above; None until the handshake is over.
        self._inner: Any = None
        self._tls: Any = None
        self._deciphered: Any = None
        self._ciphered: Any = None
        #: Bytes since the last one for the protocol above, and what that is to be told at the end.
        self._idle_bytes = 0
        self._error: Exception | None = None

    # Called by the transport below

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._below = transport

    def data_received(self, data: bytes) -> None:
        if self._state != OPEN:
            self._early(data)
        elif len(data) <= _SLICE:
            self._take(data)
        else:
            # One call of OpenSSL's goes through all of TLS's own messages that it is given.
            for at in range(0, len(data), _SLICE):
                self._take(data[at : at + _SLICE])

    def _take(self, data: bytes) -> None:
        if self._state != OPEN:
            return
        self._pipes.incoming.write(data)
        plain, ended = self._decipher()
        if plain:
            self._idle_bytes = 0
            self._inner.data_received(plain)
        elif not ended:
            self._idle_bytes += len(data)
            if self._idle_bytes > _MOST_IDLE and self._state == OPEN:
                self._break(ssl.SSLError(0, "nothing but messages of TLS itself"))
        if ended and self._state == OPEN:
            self._peer_ended()

    def eof_received(self) -> bool:
        if self._state == OPEN:
            self._error = Truncated(errno.ECONNRESET, "closed without TLS close_notify")
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._state = CLOSED
        self._deciphered = self._ciphered = None
        inner, self._inner = self._inner, None
        if inner is not None:
            inner.connection_lost(self._error or exc)

    def pause_writing(self) -> None:
        if self._inner is not None:
            self._inner.pause_writing()

    def resume_writing(self) -> None:
        if self._inner is not None:
            self._inner.resume_writing()

    # Within

    def _early(self, data: bytes) -> None:
        """What comes when it is not open."""

    def _wrapped(self, tls: ssl.SSLObject) -> None:
        self._tls = tls
        # The object within is called a fifth faster than by way of its methods of the same names.
        quick = getattr(tls, "_sslobj", None) or tls
        self._deciphered, self._ciphered = quick.read, quick.write

    def _handshake(self, data: bytes) -> bool:
        """Goes on with the handshake; whether it is over.

        Raises:
            OSError: it has failed.
        """
        pipes = self._pipes
        if data:
            pipes.incoming.write(data)
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        except OSError:
            # What is left of it must not become another connection's.
            pipes.incoming.read()
            raise
        finally:
            self._send()
        self._state = OPEN
        return True

    def _open(self, inner: asyncio.Protocol) -> None:
        """Gives the connection to the protocol above, and what has come behind the handshake."""
        # Before anybody above can use the buffers for another connection.
        plain, ended = self._decipher() if self._pipes.incoming.pending else (b"", False)
        self._inner = inner
        inner.connection_made(self)
        if plain and self._state == OPEN:
            self._inner.data_received(plain)
        if ended and self._state == OPEN:
            self._peer_ended()

    def _decipher(self) -> tuple[bytes, bool]:
        """What has come, in plain; and whether that is the end."""
        pipes, read = self._pipes, self._deciphered
        incoming = pipes.incoming
        pieces: list[bytes] = []
        ended = False
        try:
            plain = read(_RECORD)
            # The usual case: one record that came whole, and no error that says that there is no other.
            while plain and incoming.pending:
                pieces.append(plain)
                plain = read(_RECORD)
            ended = not plain
            pieces.append(plain)
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            ended = True
        except ssl.SSLError as error:
            incoming.read()
            self._break(error)
            return b"", False
        if ended:
            incoming.read()
        if pipes.outgoing.pending:
            # Answers of TLS itself, to a change of keys for one.
            self._send()
        return (pieces[0] if len(pieces) == 1 else b"".join(pieces)), ended

    def _send(self) -> None:
        """Passes on what OpenSSL has written."""
        data = self._pipes.outgoing.read()
        if data and self._below is not None and not self._below.is_closing():
            self._below.write(data)

    def _peer_ended(self) -> None:
        """The peer says that it sends no more; in TLS that ends both ways."""
        self._inner.eof_received()
        self.close()

    def _break(self, error: OSError) -> None:
        """What came is no TLS of this connection's: whoever sent it, nothing more can be believed."""
        self._error = ConnectionResetError(errno.ECONNRESET, f"TLS broken: {reason_of(error)}")
        stuck = self._below.get_write_buffer_size() > 0
        self._send()
        self._state = CLOSING
        self._below.abort() if stuck else self._below.close()

    def _say_goodbye(self) -> None:
        """Sends close_notify. The peer's own is not waited for."""
        with contextlib.suppress(OSError):
            self._tls.unwrap()
        self._send()

    # Called by the protocol above

    def write(self, data: Any) -> None:
        if self._state != OPEN or not data:
            return
        try:
            if len(data) > _RECORD:
                self._encipher(data)
            else:
                self._ciphered(data)
        except ssl.SSLError as error:
            self._break(error)
            return
        if rest := self._pipes.outgoing.read():
            self._below.write(rest)

    def writelines(self, pieces: Iterable[Any]) -> None:
        if self._state != OPEN:
            return
        try:
            for piece in pieces:
                self._encipher(piece)
        except ssl.SSLError as error:
            self._break(error)
            return
        self._send()

    def _encipher(self, data: Any) -> None:
        """All of it, a record at a time; what does not make a round sum stays for the caller to send."""
        outgoing, cipher = self._pipes.outgoing, self._ciphered
        rest = memoryview(data).cast("B")
        while rest and self._state == OPEN:
            rest = rest[cipher(rest[:_RECORD]) :]
            if outgoing.pending >= _AT_ONCE:
                self._below.write(outgoing.read())

    def can_write_eof(self) -> bool:
        return False

    def write_eof(self) -> None:
        """Says that nothing more is sent; what still comes is thrown away until the peer closes."""
        if self._state == OPEN:
            self._say_goodbye()
            self._state = CLOSING
            if self._below.can_write_eof() and not self._below.is_closing():
                self._below.write_eof()

    def close(self) -> None:
        """Closes after what was written, and says so within TLS."""
        if self._state == OPEN:
            self._say_goodbye()
        self._state = max(self._state, CLOSING)
        if self._below is not None:
            self._below.close()

    def abort(self) -> None:
        """Closes now. The peer is not told within TLS, and so cannot take what it has for all that there was."""
        self._state = max(self._state, CLOSING)
        if self._below is not None:
            self._below.abort()

    def is_closing(self) -> bool:
        return self._state > OPEN or self._below is None or bool(self._below.is_closing())

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._inner = protocol

    def pause_reading(self) -> None:
        self._below.pause_reading()

    def resume_reading(self) -> None:
        self._below.resume_reading()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._below.set_write_buffer_limits(high=high, low=low)

    def get_write_buffer_size(self) -> int:
        """Bytes of cipher text that the system has not taken."""
        return int(self._below.get_write_buffer_size())

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """As of the transport below: "socket" is the plain one; and "ssl_object"."""
        if name == "ssl_object":
            return self._tls or default
        return default if self._below is None else self._below.get_extra_info(name, default)
