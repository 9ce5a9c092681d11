"""Taking connections from a listening socket, up to a limit; what happens to clients above it.

The usual path is the event loop's own server, on a duplicate of the socket, since it costs half of what an own accept
loop does. A loop's server cannot pause: so it is closed at the limit and made anew when there is room and nobody waits.
In between, one connection is taken for each that leaves, and after a second the others are turned away.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import resource
import socket
from collections.abc import Callable

from router.net.runtime import Runtime
from router.net.surplus import Surplus

__all__ = ["Accepting", "free_descriptors"]

log = logging.getLogger("router")

_BACKLOG = 4096
#: Seconds that clients wait at the limit before they are turned away.
_GRACE = 1.0
#: Seconds between two looks while accepting pauses.
_TICK = 0.1
#: Seconds between two pauses that the log is told of: clients who come and go at the limit must not fill it.
_SAY_AGAIN = 10.0
#: Descriptors that are left to connections to endpoints: a part of the allowed ones, and at most.
_RESERVE_PART, _RESERVE_MOST = 8, 256
#: Connections that are turned away at once, and with few descriptors left.
_AT_ONCE, _SHORT_AT_ONCE = 128, 4
#: A connection may take two descriptors, itself and the endpoint's; another two to be safe.
_PER_CONNECTION = 4


def free_descriptors() -> tuple[int, int]:
    """How many files this process may still open, and how many of these are to be held back from clients."""
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if allowed == resource.RLIM_INFINITY:
        allowed = 1 << 30
    reserve = min(allowed // _RESERVE_PART, _RESERVE_MOST)
    try:
        # Linux 6.2 and later tell the number as the folder's size; before, it is 0 and they have to be counted.
        used = os.stat("/proc/self/fd").st_size or len(os.listdir("/proc/self/fd"))
        return allowed - used, reserve
    except OSError as error:
        # Without /proc nothing is known, so nothing is held back.
        return 0 if error.errno in (errno.EMFILE, errno.ENFILE) else allowed, reserve


class Accepting:
    """The way in of one listener. On uvloop the limit is exact; asyncio's own loop takes a whole burst before it asks.

    Args:
        sock: stays open and the caller's: it may be handed on.
        name: of the listener, for the log.
        make: the protocol of a new connection.
        count: how many connections stand.
        limit: how many may.
    """

    __slots__ = (
        "_coming",
        "_count",
        "_last_said",
        "_make",
        "_name",
        "_paused_at",
        "_runtime",
        "_said",
        "_server",
        "_short",
        "_socket",
        "_stopped",
        "_surplus",
        "_timer",
        "_unlooked",
        "limit",
    )

    def __init__(
        self,
        runtime: Runtime,
        sock: socket.socket,
        name: str,
        *,
        make: Callable[[], asyncio.BaseProtocol],
        count: Callable[[], int],
        limit: int,
    ) -> None:
        self._runtime = runtime
        self._socket = sock
        self._name = name
        self._make = make
        self._count = count
        self.limit = limit
        self._server: asyncio.AbstractServer | None = None
        self._surplus = Surplus(runtime.new_id)
        self._timer: asyncio.TimerHandle | None = None
        #: Seconds of the router's clock; None while connections are taken as usual.
        self._paused_at: float | None = None
        self._last_said = -_SAY_AGAIN
        #: Whether the log was told of this pause.
        self._said = False
        #: Whether descriptors, not connections, are what there are too few of.
        self._short = False
        #: Accepted here and not yet among the connections.
        self._coming = 0
        #: Connections to take before descriptors are counted again.
        self._unlooked = 16
        self._stopped = False
        # Python's object of the duplicate is another one, so this has to be said of both.
        sock.setblocking(False)

    @property
    def is_paused(self) -> bool:
        """Whether new clients wait, or are turned away."""
        return self._paused_at is not None

    @property
    def turned_away(self) -> int:
        """Clients that were answered 503 because of the limit."""
        return self._surplus.count

    async def prepare(self) -> None:
        """Makes all that is needed to accept.

        Raises:
            OSError: the system does not let it.
        """
        await self._make_server(self._socket.dup())

    async def start(self) -> None:
        """Begins to accept. Raises OSError as `prepare`, which it calls if that was not done."""
        if self._server is None:
            await self.prepare()
        assert self._server is not None
        await self._server.start_serving()

    async def _make_server(self, copy: socket.socket) -> None:
        try:
            self._server = await self._runtime.loop.create_server(
                self._admit, sock=copy, backlog=_BACKLOG, start_serving=False
            )
        except OSError:
            copy.close()
            raise

    async def _serve(self, copy: socket.socket) -> None:
        await self._make_server(copy)
        assert self._server is not None
        await self._server.start_serving()

    def stop(self) -> None:
        """No new connections. Clients are refused from now on, unless another process has the socket too."""
        self._stopped = True
        if self._server is not None:
            self._close_server()
            self._take_backlog()
        self._socket.close()
        self._surplus.close()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _take_backlog(self) -> None:
        """Those whom the system has let in already are served: closing the socket would reset them."""
        for _ in range(_BACKLOG):
            try:
                sock, _ = self._socket.accept()
            except OSError:
                return
            sock.setblocking(False)
            self._coming += 1
            self._runtime.spawn(self._adopt(sock))

    def left(self) -> None:
        """To be called after a connection has gone."""
        if self._paused_at is not None and not self._short and not self._stopped:
            self._take_one()

    def _admit(self) -> asyncio.BaseProtocol:
        """Called by the loop's server for each connection that it has accepted."""
        self._unlooked -= 1
        if self._count() + 1 >= self.limit:
            # Not at once: the server is in the middle of handing this connection over.
            self._runtime.loop.call_soon(self._pause)
        elif self._unlooked <= 0 and self._is_short():
            self._runtime.loop.call_soon(self._pause)
        return self._make()

    def _is_short(self) -> bool:
        """Counts descriptors. Running out of them would make the loop drop clients in silence."""
        free, reserve = free_descriptors()
        self._short = free <= (2 * reserve if self._short else reserve)
        self._unlooked = max(1, (free - reserve) // _PER_CONNECTION)
        return self._short

    # Pauses

    def _pause(self) -> None:
        if self._paused_at is not None or self._stopped:
            return
        self._close_server()
        now = self._paused_at = self._runtime.clock()
        self._said = now - self._last_said >= _SAY_AGAIN
        if self._said:
            self._last_said = now
            cause = "too few descriptors are left" if self._short else f"max_connections = {self.limit} is reached"
            log.warning("listener %s: %s: new connections wait", self._name, cause)
        self._tick_later()

    def _close_server(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    def _tick_later(self) -> None:
        if self._timer is None:
            self._timer = self._runtime.loop.call_later(_TICK, self._tick)

    def _tick(self) -> None:
        self._timer = None
        now = self._runtime.clock()
        if self._paused_at is not None:
            if not (self._short and self._is_short()) and self._room() > 0:
                self._take_one()
            elif now - self._paused_at >= _GRACE:
                # In want of descriptors, what was held back for endpoints is not spent on turning clients away.
                self._surplus.take(self._socket, now, at_most=_SHORT_AT_ONCE if self._short else _AT_ONCE)
        self._surplus.look(now)
        if self._paused_at is not None or self._surplus:
            self._tick_later()

    def _room(self) -> int:
        return self.limit - self._count() - self._coming

    def _take_one(self) -> None:
        """Gives a place that has become free to who waits longest; if nobody does, all is as usual again."""
        room = self._room()
        if room < 1:
            return
        if room > 1:
            self._resume()
            return
        try:
            sock, _ = self._socket.accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                self._short = True
            else:
                self._resume()
            return
        sock.setblocking(False)
        self._coming += 1
        self._runtime.spawn(self._adopt(sock))

    async def _adopt(self, sock: socket.socket) -> None:
        try:
            await self._runtime.loop.connect_accepted_socket(self._make, sock)
        except OSError:
            sock.close()
        finally:
            self._coming -= 1

    def _resume(self) -> None:
        assert self._paused_at is not None
        try:
            copy = self._socket.dup()
        except OSError:
            self._short = True
            return
        seconds = self._runtime.clock() - self._paused_at
        self._paused_at = None
        self._runtime.spawn(self._serve_again(copy))
        if self._said:
            away = self.turned_away
            log.info("listener %s: accepts again after %.1f s; %d turned away so far", self._name, seconds, away)

    async def _serve_again(self, copy: socket.socket) -> None:
        if self._stopped:
            copy.close()
            return
        try:
            await self._serve(copy)
        except OSError:
            self._short = True
            self._pause()
