"""The writing side of a client connection: backpressure, deadlines, and ends that the client can tell apart."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import select
import socket
import struct
import sys
import termios
from collections.abc import Callable
from typing import Any

from router.net.body import RequestBody
from router.net.runtime import Runtime
from router.net.sink import Switch
from router.net.tunnel import Tunnel

__all__ = ["LOOK", "ClientWire"]

#: Seconds that a client gets to read its answer before the connection closes.
_LINGER = 2.0
#: And while it does read.
_LONGEST_LINGER = 60.0
#: Seconds between two looks at whether a client that is not read is still there.
LOOK = 1.0
_NEVER = float("inf")
#: Closing with RST: what the peer has cannot be taken for a whole message.
_RESET = struct.pack("ii", 1, 0)


class ClientWire(asyncio.Protocol):
    """What ClientConnection is made upon; knows bytes and time, no requests."""

    __slots__ = (
        "_linger_until",
        "_lingering",
        "_paused",
        "_runtime",
        "_tail",
        "_tunnel",
        "_unread",
        "body",
        "deadline",
        "forward",
        "grace",
        "is_full",
        "leaves",
        "transport",
    )

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        #: The exchange under way, if any.
        self.forward: Any = None
        #: Of the request under way, until its end.
        self.body: RequestBody | None = None
        #: Whether the connection closes after the next response whose head is yet to be written; and the seconds that
        #: it waits for such a request.
        self.leaves = False
        self.grace = _NEVER
        self._lingering = False
        self._linger_until = _NEVER
        self._paused = False
        #: Bytes received and not looked at yet.
        self._tail = b""
        #: After a switch to WebSocket.
        self._tunnel: Tunnel | None = None
        #: Whether the client takes less than is written to it.
        self.is_full = False
        #: Bytes that the client had not taken at the last look.
        self._unread = 0
        #: When the sweeper is to call `expired`.
        self.deadline = _NEVER
        self.transport: Any = None

    def _due_in(self, seconds: float) -> None:
        self.deadline = self._runtime.clock() + seconds

    def write(self, data: bytes) -> None:
        if self.transport is not None:
            self._runtime.write(self.transport, data)

    def pause(self) -> None:
        """Stops reading from the client until `resume`."""
        if not self._paused and self.transport is not None:
            self._paused = True
            self.transport.pause_reading()
            if not self.is_full:
                self._due_in(LOOK)

    def resume(self) -> None:
        if self._paused and self.transport is not None:
            self._paused = False
            self.transport.resume_reading()

    def may_linger(self) -> bool:
        """Whether a client that is to close still reads its answer; then it gets more time."""
        if not self._lingering or self._runtime.clock() > self._linger_until or not self.is_taking():
            return False
        self._due_in(_LINGER)
        return True

    def is_taking(self) -> bool:
        """Whether the client has taken anything since the last look: slow is not stuck."""
        before, self._unread = self._unread, self.unread()
        return self._unread < before

    def unread(self) -> int:
        """Bytes that the client has not taken: what the transport holds, and what the system has not got rid of."""
        waiting = bytearray(4)
        with contextlib.suppress(OSError):
            fcntl.ioctl(self.transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, waiting)
        return int(self.transport.get_write_buffer_size()) + int.from_bytes(waiting, sys.byteorder)

    def has_left(self) -> bool:
        """Whether the client has stopped sending: for one that is not read, nothing else tells."""
        poll = select.poll()
        poll.register(self.transport.get_extra_info("socket").fileno(), select.POLLRDHUP)
        return bool(poll.poll(0))

    def gone(self) -> None:
        """The transport is closed, or joined to another one that is."""

    def switch(self, switch: Switch, closed: Callable[[Exception | None, tuple[int, int]], None]) -> None:
        """Joins this connection with an endpoint's.

        Args:
            closed: called once, when both are gone, with the bytes that went to the endpoint and to the client.
        """
        self.deadline = _NEVER
        tail, self._tail = self._tail, b""

        def over(error: Exception | None) -> None:
            tunnel, self._tunnel, self.transport = self._tunnel, None, None
            closed(error, (tunnel.to_endpoint, tunnel.to_client) if tunnel is not None else (0, 0))
            self.gone()

        self._tunnel = Tunnel(
            self._runtime,
            self.transport,
            switch.transport,
            idle=switch.idle,
            closed=over,
            early_from_client=tail,
            early_from_endpoint=switch.rest,
        )

    @property
    def is_idle(self) -> bool:
        """Whether no request is under way, or begun."""
        return self.forward is None and self.transport is not None and not self._tail and not self._lingering

    def leave(self, seconds: float) -> None:
        """Closes after a response that says so: that under way, or the next one, which has `seconds` to be asked for.

        A client that sends at the very moment in which its idle connection closes cannot tell whether it was heard.
        """
        self.leaves, self.grace = True, seconds
        if self.is_idle:
            self.deadline = min(self.deadline, self._runtime.clock() + seconds)

    def close_idle(self) -> None:
        """Closes, unless a request is there that the loop has not told yet."""
        poll = select.poll()
        poll.register(self.transport.get_extra_info("socket").fileno(), select.POLLIN)
        self._due_in(LOOK) if poll.poll(0) else self.transport.close()

    def close(self) -> None:
        """Closes after what was written."""
        if self.transport is not None:
            self._runtime.flush()
            self.transport.close()

    def linger(self) -> None:
        """Closes so that the answer arrives: a client that still sends would else be reset before it reads it."""
        if self.transport is None:
            return
        self._runtime.flush()
        self._lingering = True
        self._unread = self.unread()
        self._linger_until = self._runtime.clock() + _LONGEST_LINGER
        self.resume()
        self._due_in(_LINGER)
        self.transport.write_eof()

    def _leave(self) -> None:
        self._tail = b""
        if self.body is None and not self._paused:
            self.close()
        else:
            self.linger()

    def abort(self) -> None:
        """Breaks the connection off so that the client cannot take what it has for a whole response."""
        if self._tunnel is not None:
            self._tunnel.abort()
            return
        if self.transport is None:
            return
        sock = self.transport.get_extra_info("socket")
        if sock is not None and sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.transport.abort()
