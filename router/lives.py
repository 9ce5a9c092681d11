"""The lives of plugin objects: each is started once and closed once, whatever reloads come between.

An object may have `async start(control)` and `async close()`; a service is a context that is open in between. Nothing
that a plugin raises or keeps waiting here ends the router.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from typing import Any

from router.api import Control
from router.net.sockets import StartError
from router.prepare import Prepared

__all__ = ["Lives"]

log = logging.getLogger("router")

#: Seconds that plugins get to close.
_CLOSING = 5.0


class Lives:
    """Every plugin object that has been started and not closed yet, in the order of starting."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self._objects: dict[int, Any] = {}
        self._services: dict[int, _Service] = {}

    async def begin(self, prepared: Prepared) -> list[Any]:
        """Starts what is new, services last.

        Returns:
            The objects that were started.

        Raises:
            StartError: says which one did not start, and why. Nothing has changed then.
        """
        begun: list[Any] = []
        try:
            for made in prepared.plugins():
                if id(made) not in self._objects:
                    # Before it has started: one that fails half way is to be closed too.
                    self._objects[id(made)] = made
                    begun.append(made)
                    await self._start(made)
            for name, service in prepared.services:
                if id(service) not in self._services:
                    running = self._services[id(service)] = _Service(name, service, self._control)
                    await running.begin()
        except BaseException:
            await self.end(begun)
            raise
        return begun

    async def _start(self, made: Any) -> None:
        if hasattr(made, "start"):
            try:
                await made.start(self._control)
            except Exception as error:
                raise StartError(f"plugin {type(made).__name__} did not start: {error!r}") from error

    async def end(self, objects: Iterable[Any]) -> None:
        """Closes these, the last one first."""
        for made in reversed(list(objects)):
            service = self._services.pop(id(made), None)
            if service is not None:
                await service.end()
            if self._objects.pop(id(made), None) is not None and hasattr(made, "close"):
                await _closed(made)

    async def close(self) -> None:
        """Closes everything: services first, then the others, the last one started first."""
        await self.end([made for made in self._objects.values() if id(made) in self._services])
        await self.end(list(self._objects.values()))


class _Service:
    """One service. Its context is entered and left by one task, which some contexts insist on."""

    def __init__(self, name: str, service: Any, control: Control) -> None:
        self._name = name
        self._service = service
        self._control = control
        self._over = asyncio.Event()
        self._entered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._task: asyncio.Task[None] | None = None

    async def begin(self) -> None:
        self._task = asyncio.create_task(self._run())
        try:
            await self._entered
        except Exception as error:
            raise StartError(f"service {self._name} did not start: {error!r}") from error

    async def _run(self) -> None:
        try:
            async with self._service.serve(self._control):
                self._entered.set_result(None)
                await self._over.wait()
        except Exception as error:
            if self._entered.done():
                log.error("service %s did not end well: %r", self._name, error)
            else:
                self._entered.set_exception(error)

    async def end(self) -> None:
        self._over.set()
        if self._task is None:
            return
        _, stuck = await asyncio.wait((self._task,), timeout=_CLOSING)
        if stuck:
            log.error("service %s does not end and is left behind", self._name)
            self._task.cancel()


async def _closed(made: Any) -> None:
    try:
        async with asyncio.timeout(_CLOSING):
            await made.close()
    except Exception as error:
        log.error("plugin %s did not close well: %r", type(made).__name__, error)
