"""After a switch of protocols: bytes from one transport to the other, both ways, and never a look at what they mean.

Nothing is held here but what the transports hold, and those are kept small: a side that takes slowly stops the other
from being read. Each way ends by itself; a reset goes through at once, a clean end only behind all that was sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import socket
import struct
import sys
import termios
from collections.abc import Callable
from typing import Any

from router.net.runtime import Runtime
from router.net.secure import Truncated

__all__ = ["Tunnel"]

#: Bytes that a transport holds before the other side is no longer read, and at which that begins again.
_HIGH, _LOW = 64 << 10, 16 << 10
#: Seconds without a byte, at most, once one side has said that it sends no more.
_HALF_CLOSED = 60.0
#: Closing with RST: what the peer has cannot be taken for all that there was.
_RESET = struct.pack("ii", 1, 0)


class Tunnel:
    """Two transports joined. Once made it owns both: the protocols that they had are told nothing more.

    Args:
        client, endpoint: open transports, of which no connection_lost has been told yet; either may be paused.
        idle: seconds without a byte in either direction after which both close; infinity for none. A side that still
            takes what it was sent before is not idle.
        closed: called once, when both are gone, with None after a clean end; else the OSError of the side that was
            reset, TimeoutError after idling, ConnectionAbortedError after `abort`.
        early_from_client, early_from_endpoint: bytes that were read behind the heads; they go first.

    What the driver has written through the runtime before, a head for one, goes ahead of all this.
    """

    __slots__ = (
        "_aborted",
        "_client",
        "_closed",
        "_endpoint",
        "_error",
        "_look",
        "deadline",
        "idle",
        "runtime",
    )

    def __init__(
        self,
        runtime: Runtime,
        client: asyncio.Transport,
        endpoint: asyncio.Transport,
        *,
        idle: float,
        closed: Callable[[Exception | None], None],
        early_from_client: bytes = b"",
        early_from_endpoint: bytes = b"",
    ) -> None:
        self.runtime = runtime
        #: Seconds without a byte that are borne now.
        self.idle = idle
        self.deadline = runtime.clock() + idle
        self._closed = closed
        self._error: Exception | None = None
        #: Bytes relayed, and bytes that neither side had taken, at the last look.
        self._look = (-1, 0)
        self._client = _End(self, client)
        self._endpoint = _End(self, endpoint)
        self._client.peer, self._endpoint.peer = self._endpoint, self._client
        runtime.sweeper.add(self)
        runtime.flush()
        self._client.take_over()
        self._endpoint.take_over()
        for end, early in ((self._client, early_from_client), (self._endpoint, early_from_endpoint)):
            if early:
                end.data_received(early)
            end.read_while_peer_takes()

    @property
    def to_endpoint(self) -> int:
        """Bytes that the client has sent, the early ones included."""
        return self._client.received

    @property
    def to_client(self) -> int:
        """Bytes that the endpoint has sent, the early ones included."""
        return self._endpoint.received

    def __repr__(self) -> str:
        return f"<Tunnel client {self._client.state()}, endpoint {self._endpoint.state()}>"

    def close(self) -> None:
        """Ends both sides cleanly, after what has been read so far."""
        self._ends_soon()
        self._client.close()
        self._endpoint.close()

    def abort(self) -> None:
        """Resets both sides now."""
        self._break(ConnectionAbortedError("the router ended"))

    def expired(self) -> None:
        """Called by the sweeper: no byte has come from either side for `idle` seconds."""
        moved, unread = self.to_client + self.to_endpoint, self._client.unread() + self._endpoint.unread()
        (moved_before, unread_before), self._look = self._look, (moved, unread)
        if unread and (moved != moved_before or unread < unread_before):
            # The first look at what is left to take, or less is left than at the last one.
            self.deadline = self.runtime.clock() + self.idle
        elif unread:
            self._break(TimeoutError("what was sent has not been taken"))
        else:
            self._error = self._error or TimeoutError("idle")
            self.close()

    # Called by the two ends

    def ended(self, end: _End) -> None:
        """One side sends no more: the other hears of it behind the last byte."""
        self._ends_soon()
        if end.peer.at_eof or not end.peer.can_half_close():
            self.close()
        else:
            end.peer.end_writing()

    def lost(self, end: _End, exc: Exception | None) -> None:
        """One side is gone."""
        # A WebSocket says its end itself: what came before one that TLS was not told of is passed on all the same.
        said = None if isinstance(exc, Truncated) else exc
        self._error = self._error or said
        if end.peer.gone:
            self.deadline = float("inf")
            self.runtime.sweeper.discard(self)
            self._closed(self._error)
        elif said is not None:
            end.peer.reset()
        else:
            self.close()

    def _ends_soon(self) -> None:
        self.idle = min(self.idle, _HALF_CLOSED)
        self.deadline = self.runtime.clock() + self.idle

    def _break(self, error: Exception) -> None:
        self._error = self._error or error
        self._ends_soon()
        self._client.reset()
        self._endpoint.reset()


class _End(asyncio.Protocol):
    """One side: what comes from it goes to its peer."""

    __slots__ = ("_paused", "_transport", "_tunnel", "at_eof", "gone", "is_full", "peer", "received")

    peer: _End

    def __init__(self, tunnel: Tunnel, transport: Any) -> None:
        self._tunnel = tunnel
        self._transport = transport
        self.received = 0
        #: Whether this side sends no more.
        self.at_eof = False
        self.gone = False
        #: Whether this side takes less than is written to it.
        self.is_full = False

    def state(self) -> str:
        return "gone" if self.gone else "at its end" if self.at_eof else "open"

    def take_over(self) -> None:
        transport = self._transport
        transport.set_protocol(self)
        # The protocol before may have been told already that the transport is full. Nothing says so, but what holds
        # anything with a limit of nothing is full, and will say when it is no longer.
        transport.set_write_buffer_limits(high=0)
        self.is_full = transport.get_write_buffer_size() > 0
        transport.set_write_buffer_limits(high=_HIGH, low=_LOW)

    # Called by the loop

    def data_received(self, data: bytes) -> None:
        tunnel = self._tunnel
        self.received += len(data)
        tunnel.deadline = tunnel.runtime.clock() + tunnel.idle
        tunnel.runtime.write(self.peer._transport, data)

    def eof_received(self) -> bool:
        self.at_eof = True
        stays = self.can_half_close()
        self._tunnel.ended(self)
        return stays

    def connection_lost(self, exc: Exception | None) -> None:
        self.gone = True
        self._tunnel.lost(self, exc)

    def pause_writing(self) -> None:
        self.is_full = True
        self.peer.read_while_peer_takes()

    def resume_writing(self) -> None:
        self.is_full = False
        self.peer.read_while_peer_takes()

    # Called by the tunnel and the peer

    def read_while_peer_takes(self) -> None:
        # At its end a transport reads no more by itself, and one that is resumed there would tell of its end again.
        if self.at_eof or self._transport.is_closing():
            return
        if self.peer.is_full:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    def can_half_close(self) -> bool:
        """TLS cannot."""
        return bool(self._transport.can_write_eof())

    def end_writing(self) -> None:
        self._tunnel.runtime.flush()
        if not self._transport.is_closing():
            self._transport.write_eof()

    def close(self) -> None:
        """Closes after what was written."""
        self._tunnel.runtime.flush()
        self._transport.close()

    def reset(self) -> None:
        if self.gone:
            return
        sock = self._transport.get_extra_info("socket")
        if sock is not None and sock.family != socket.AF_UNIX:
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._transport.abort()

    def unread(self) -> int:
        """Bytes that this side has not taken: what the transport holds, and what the system has not got rid of."""
        if self.gone:
            return 0
        waiting = bytearray(4)
        with contextlib.suppress(OSError):
            fcntl.ioctl(self._transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, waiting)
        return int(self._transport.get_write_buffer_size()) + int.from_bytes(waiting, sys.byteorder)
