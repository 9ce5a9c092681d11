"""The lives of plugin objects: each is started once and closed once, whatever reloads come between.

An object may have `async start(control)` and `async close()`; a service is a context that is open in between. Nothing
that a plugin raises or keeps waiting here ends the router.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from router.api import Control
from router.net.sockets import StartError
from router.prepare import Prepared

__all__ = ["Lives"]

log = logging.getLogger("router")

#: Seconds that plugins get to start, and to close.
_STARTING, _CLOSING = 60.0, 5.0


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
            error = await _outcome(lambda: made.start(self._control), _STARTING)
            if error is not None:
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
            async with asyncio.timeout(_STARTING):
                await asyncio.shield(self._entered)
        except Exception as error:
            raise StartError(f"service {self._name} did not start: {error!r}") from error

    async def _run(self) -> None:
        try:
            async with self._service.serve(self._control):
                if not self._entered.done():
                    self._entered.set_result(None)
                await self._over.wait()
        except BaseException as error:
            if not self._entered.done():
                # Whatever it is, SystemExit included, the start is told.
                self._entered.set_exception(RuntimeError(repr(error)))
            elif isinstance(error, Exception):
                log.error("service %s did not end well: %r", self._name, error)

    async def end(self) -> None:
        self._over.set()
        if self._task is None:
            return
        if not self._entered.done():
            self._task.cancel()
        _, stuck = await asyncio.wait((self._task,), timeout=_CLOSING)
        if stuck:
            log.error("service %s does not end and is left behind", self._name)
            self._task.cancel()
        if self._entered.done() and not self._entered.cancelled():
            # Looked at, though nobody may have waited for it.
            self._entered.exception()


async def _closed(made: Any) -> None:
    error = await _outcome(made.close, _CLOSING)
    if error is not None:
        log.error("plugin %s did not close well: %r", type(made).__name__, error)


async def _outcome(work: Callable[[], Awaitable[Any]], seconds: float) -> BaseException | None:
    """Lets a plugin work in a task of its own: what it raised, SystemExit and the like included, or that it is late."""
    task = asyncio.create_task(_caught(work))
    try:
        await asyncio.wait((task,), timeout=seconds)
    finally:
        task.cancel()
    if not task.done():
        return TimeoutError(f"not done within {seconds:g} s")
    return asyncio.CancelledError() if task.cancelled() else task.result()


async def _caught(work: Callable[[], Awaitable[Any]]) -> BaseException | None:
    try:
        await work()
    except BaseException as error:
        return error
    return None
