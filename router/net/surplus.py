"""Connections over a listener's limit: each is told 503 and closed, a bounded number at a time. Nothing else.

They get no protocol object and no transport. What they send is looked at for its first bytes and thrown away; their
sockets are looked at by the caller's clock, not by the event loop, so that they can cost only so much.
"""

from __future__ import annotations

import socket
from collections.abc import Callable

from router.errors import Overloaded
from router.net.pages import error_response

__all__ = ["Surplus"]

#: Seconds that a client gets for the first bytes of its request, and then, to take the answer and close.
_PATIENCE = 1.0
_THROWN_AWAY = 64 << 10
_CLOSE = b"Connection: close\r\n"
#: The first byte of a TLS handshake, and what ends one: a fatal alert, internal_error (RFC 8446 §6.2).
_TLS, _ALERT = 22, bytes((21, 3, 3, 0, 2, 2, 80))


class _Leaving:
    """One connection on its way out."""

    __slots__ = ("answered", "sock", "until")

    def __init__(self, sock: socket.socket, until: float) -> None:
        self.sock = sock
        self.until = until
        self.answered = False


class Surplus:
    """Turns clients away."""

    __slots__ = ("_buffer", "_leaving", "_new_id", "count")

    def __init__(self, new_id: Callable[[], str]) -> None:
        self._new_id = new_id
        self._leaving: list[_Leaving] = []
        self._buffer = bytearray(_THROWN_AWAY)
        #: How many have been answered so.
        self.count = 0

    def __len__(self) -> int:
        """How many are on their way out."""
        return len(self._leaving)

    def take(self, listening: socket.socket, now: float, *, at_most: int) -> None:
        """Accepts what waits, until `at_most` are on their way out.

        Args:
            now: seconds of any steady clock, the same as for `look`.
        """
        while len(self._leaving) < at_most:
            try:
                sock, _ = listening.accept()
            except OSError:
                # Nothing waits, or there is no descriptor to take it with: at the next look there may be.
                return
            sock.setblocking(False)
            self._leaving.append(_Leaving(sock, now + _PATIENCE))

    def look(self, now: float) -> None:
        """Answers those that have begun to ask, closes those that have left or are too slow."""
        self._leaving = [leaving for leaving in self._leaving if self._stays(leaving, now)]

    def _stays(self, leaving: _Leaving, now: float) -> bool:
        try:
            stays = self._goes_on(leaving, now)
        except OSError:
            stays = False
        if not stays:
            leaving.sock.close()
        return stays

    def _goes_on(self, leaving: _Leaving, now: float) -> bool:
        """Raises OSError if the client has broken off."""
        try:
            size = leaving.sock.recv_into(self._buffer)
        except BlockingIOError:
            size = -1
        if size == 0 or (leaving.answered and now >= leaving.until):
            return False
        if not leaving.answered and (size > 0 or now >= leaving.until):
            # An answer before the first byte of a request may find nobody who waits for it.
            if size < 0:
                self._buffer[0] = 0
            self._answer(leaving.sock, is_head=self._buffer.startswith(b"HEAD "))
            leaving.answered = True
            leaving.until = now + _PATIENCE
        return True

    def _answer(self, sock: socket.socket, *, is_head: bool) -> None:
        if self._buffer[0] == _TLS:
            sock.send(_ALERT)
            self.count += 1
            sock.shutdown(socket.SHUT_WR)
            return
        error = Overloaded("the listener has as many connections as it may")
        sock.send(error_response(error, request_id=self._new_id(), headers=None, head_only=is_head, connection=_CLOSE))
        self.count += 1
        # Closed later: with bytes unread, closing would reset the connection before the answer is read.
        sock.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Leaves nobody."""
        for leaving in self._leaving:
            leaving.sock.close()
        self._leaving.clear()
