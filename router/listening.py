"""The listeners of a process: made, changed and dropped as configurations come, and the exchanges that they hold."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import Counter
from collections.abc import Iterator, Mapping, Set

from router.config import Config
from router.configforms import Bind, parse_bind
from router.errors import RouterError
from router.model import Endpoint
from router.net.forward import Forward
from router.net.runtime import Runtime
from router.net.server import Listener
from router.net.sockets import Sockets, StartError
from router.net.tls import Store

__all__ = ["Listening"]

log = logging.getLogger("router")

#: An address, and which of several listeners on it.
Key = tuple[Bind, int]

#: Seconds in which idle connections of a listener that is gone may ask once more.
_GRACE = 5.0


class Listening:
    """Attributes: `listeners`, by address in the order of the configuration."""

    def __init__(self, sockets: Sockets) -> None:
        self.listeners: dict[Key, Listener] = {}
        self._sockets = sockets
        #: What `open` has opened, in the order of the configuration.
        self._opened: list[socket.socket] = []
        #: Listeners that are gone and still have connections.
        self._leaving: set[Listener] = set()

    def __iter__(self) -> Iterator[Listener]:
        """All that have connections, those that are gone included."""
        return iter((*self.listeners.values(), *self._leaving))

    def open(self, config: Config) -> list[Bind]:
        """Opens the sockets that a configuration needs, and accepts nothing yet. May run in a thread.

        Returns:
            Those that were not open before.

        Raises:
            StartError: an address cannot be had. Nothing has changed then.
        """
        held = Counter(bind for bind, _ in self._sockets.held())
        self._opened = self._sockets.open_all([bind for bind, _ in _keys(config)])
        return list((Counter(bind for bind, _ in self._sockets.held()) - held).elements())

    def forget(self, opened: list[Bind], made: Mapping[Key, Listener]) -> None:
        """Closes sockets and listeners that are not needed after all."""
        for listener in made.values():
            listener.stop_accepting()
        for bind in opened:
            self._sockets.close(bind)

    async def prepare(self, config: Config, runtime: Runtime) -> dict[Key, Listener]:
        """Makes the listeners that are new, on what `open` has opened. They accept nothing yet.

        Raises:
            StartError: the system does not let it. Nothing has changed then.
        """
        made: dict[Key, Listener] = {}
        try:
            for key, wanted, opened in zip(_keys(config), config.listeners, self._opened, strict=True):
                if key not in self.listeners:
                    # The listener closes what it is given; the socket itself may be handed on.
                    listener = Listener(runtime, opened.dup(), wanted.timeouts, max_connections=wanted.max_connections)
                    made[key] = listener
                    await listener.prepare()
        except OSError as error:
            for listener in made.values():
                listener.stop_accepting()
            raise StartError(f"cannot listen: {error.strerror or error}") from None
        return made

    async def become(
        self,
        config: Config,
        runtime: Runtime,
        made: dict[Key, Listener],
        stores: Mapping[int, Store],
        *,
        announce: bool = True,
    ) -> None:
        """Drops, changes and begins listeners until they are those of the configuration.

        Args:
            made: by `prepare`.
            stores: certificates of the listeners that speak TLS, by their place in the file.
            announce: whether the log is told of those that begin.
        """
        keys = _keys(config)
        gone = {key: self.listeners.pop(key) for key in list(self.listeners) if key not in keys}
        self.listeners = {key: self.listeners.get(key) or made[key] for key in keys}
        for key, wanted in zip(keys, config.listeners, strict=True):
            self.listeners[key].change(wanted.timeouts, wanted.max_connections)
        self._speak(config, stores)
        for (bind, _), listener in gone.items():
            self._drop(bind, listener, config.server.shutdown_timeout, runtime)
        for listener in made.values():
            if announce:
                log.info("listener %s: accepts", listener.name)
            try:
                await listener.start()
            except OSError as error:
                log.error("listener %s does not accept: %s", listener.name, error.strerror or error)

    def _speak(self, config: Config, stores: Mapping[int, Store]) -> None:
        """Tells listeners which speak TLS; those without may send clients to the first that does."""
        listeners = list(self.listeners.values())
        secure = [port for index in sorted(stores) if (port := listeners[index].port)]
        for index, (listener, wanted) in enumerate(zip(listeners, config.listeners, strict=True)):
            redirect = secure[0] if wanted.redirect_to_https and secure else 0
            listener.speak(stores.get(index), hsts=wanted.hsts, redirect=redirect)

    def _drop(self, bind: Bind, listener: Listener, seconds: float, runtime: Runtime) -> None:
        listener.stop_accepting(_GRACE)
        self._sockets.close(bind)
        log.info("listener %s: accepts no more", listener.name)
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

    def break_off(self, endpoints: Set[Endpoint], error: RouterError) -> int:
        """Ends what is under way at endpoints; returns how many exchanges that were."""
        return sum(listener.break_off(endpoints, error) for listener in self)

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


def _keys(config: Config) -> list[Key]:
    """What tells listeners apart: the address, and which of several with that address (port 0) it is."""
    seen: Counter[Bind] = Counter()
    keys = []
    for listener in config.listeners:
        bind = parse_bind(listener.bind)
        keys.append((bind, seen[bind]))
        seen[bind] += 1
    return keys
