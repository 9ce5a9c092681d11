"""The listeners of a process: made, changed and dropped as configurations come, and the exchanges that they hold."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator

from router.config import Config
from router.configforms import Bind, parse_bind
from router.errors import RouterError
from router.model import Endpoint
from router.net.forward import Forward
from router.net.runtime import Runtime
from router.net.server import Listener
from router.net.sockets import Sockets

__all__ = ["Listening"]

log = logging.getLogger("router")

#: Seconds in which idle connections of a listener that is gone may ask once more.
_GRACE = 5.0


class Listening:
    """Attributes: `listeners`, by address in the order of the configuration."""

    def __init__(self, sockets: Sockets) -> None:
        self.listeners: dict[Bind, Listener] = {}
        self._sockets = sockets
        #: Listeners that are gone and still have connections.
        self._leaving: set[Listener] = set()

    def __iter__(self) -> Iterator[Listener]:
        """All that have connections, those that are gone included."""
        return iter((*self.listeners.values(), *self._leaving))

    def open(self, config: Config) -> list[Bind]:
        """Opens the sockets that a configuration needs, and accepts nothing yet.

        Returns:
            Those that were not open before.

        Raises:
            StartError: an address cannot be had. Nothing has changed then.
        """
        held = {bind for bind, _ in self._sockets.held()}
        binds = _binds(config)
        self._sockets.open_all(binds)
        return [bind for bind in binds if bind not in held]

    def forget(self, opened: list[Bind]) -> None:
        """Closes sockets that are not needed after all."""
        for bind in opened:
            self._sockets.close(bind)

    async def become(self, config: Config, runtime: Runtime) -> None:
        """Drops, changes and begins listeners until they are those of the configuration."""
        binds = _binds(config)
        for bind in [bind for bind in self.listeners if bind not in binds]:
            self._drop(bind, config.server.shutdown_timeout, runtime)
        open_now = dict(self._sockets.held())
        ordered: dict[Bind, Listener] = {}
        for bind, wanted in zip(binds, config.listeners, strict=True):
            listener = self.listeners.get(bind)
            if listener is not None:
                listener.change(wanted.timeouts, wanted.max_connections)
            else:
                # The listener closes what it is given; the socket itself may be handed on.
                sock = open_now[bind].dup()
                listener = Listener(runtime, sock, wanted.timeouts, max_connections=wanted.max_connections)
                await listener.start()
            ordered[bind] = listener
        self.listeners = ordered

    def _drop(self, bind: Bind, seconds: float, runtime: Runtime) -> None:
        listener = self.listeners.pop(bind)
        listener.stop_accepting(_GRACE)
        self._sockets.close(bind)
        self._leaving.add(listener)
        runtime.spawn(self._leave(listener, seconds))

    async def _leave(self, listener: Listener, seconds: float) -> None:
        cut = await listener.drained(seconds)
        self._leaving.discard(listener)
        if cut:
            log.warning("listener %s is gone: %d cut off after %g s", listener.name, cut, seconds)

    # Exchanges

    def under_way(self) -> list[Forward]:
        """The exchanges of now."""
        every = (connection.forward for listener in self for connection in listener.connections)
        return [exchange for exchange in every if exchange is not None]

    def break_off(self, endpoint: Endpoint, error: RouterError) -> int:
        """Ends what is under way at an endpoint; returns how many exchanges that were."""
        return sum(listener.break_off(endpoint, error) for listener in self)

    def leave(self, seconds: float) -> None:
        """Goes on accepting, but connections close after their response; idle ones after `seconds`."""
        for listener in self:
            listener.leave(seconds)

    def stop_accepting(self, grace: float) -> None:
        """Idle connections may ask once more for `grace` seconds."""
        for listener in self:
            listener.stop_accepting(grace)

    async def drained(self, seconds: float) -> int:
        """Waits until the last exchange is over; returns how many had to be cut off after `seconds`."""
        return sum(await asyncio.gather(*(listener.drained(seconds) for listener in self)))

    def cut(self) -> None:
        """Breaks off what is under way."""
        for listener in self:
            listener.cut()


def _binds(config: Config) -> list[Bind]:
    return [parse_bind(listener.bind) for listener in config.listeners]
