"""The composition root: opens sockets, holds the table, starts and ends everything. No decision about a request.

Life of a process: prepared configuration -> sockets bound -> plugins started -> accepting -> a signal -> not ready ->
no new connections -> requests under way finish -> plugins closed -> end.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import uvloop

from router.config import Config
from router.configforms import parse_bind
from router.model import Endpoint
from router.net.memory import settle_memory
from router.net.probes import Prober
from router.net.runtime import Runtime, abandon_tasks, wake_soon
from router.net.server import Listener
from router.net.sockets import StartError, close_socket, open_sockets, raise_open_files
from router.net.sweeper import tick_for
from router.observe import Observers
from router.policy.pool import Pool
from router.policy.table import Table
from router.prepare import Prepared

__all__ = ["Router", "StartError"]

log = logging.getLogger("router")

#: Seconds that plugins get to close.
_CLOSING = 5.0
#: Seconds that requests are kept waiting for the first round of probes.
_FIRST_ROUND = 10.0
#: After which it is said that they are.
_SOON = 1.0


class Router:
    """One process that serves one configuration."""

    def __init__(self, prepared: Prepared) -> None:
        self._prepared = prepared
        self._runtime: Runtime | None = None
        self._listeners: list[Listener] = []
        self._stop: asyncio.Event | None = None
        #: Set by a second signal: nothing is waited for any more.
        self._hurry: asyncio.Event | None = None
        self.table: Table = prepared.table(1, time.monotonic())

    def serve(self, announce: Callable[[str], None]) -> int:
        """Serves until SIGTERM or SIGINT; blocks.

        Args:
            announce: called with one readable line per listener, pool and plugin once the router accepts.

        Returns:
            The exit code: 0, or 1 if requests had to be cut off at the end.

        Raises:
            StartError: a socket could not be opened.
        """
        binds = [parse_bind(listener.bind) for listener in self._prepared.config.listeners]
        sockets = open_sockets(binds)
        try:
            return uvloop.run(self._run(sockets, announce))
        finally:
            for sock, bind in zip(sockets, binds, strict=True):
                close_socket(sock, bind)

    async def _run(self, sockets: list[socket.socket], announce: Callable[[str], None]) -> int:
        loop = asyncio.get_running_loop()
        prepared, config = self._prepared, self._prepared.config
        self._stop, self._hurry = asyncio.Event(), asyncio.Event()
        observers = Observers([made for _, made in prepared.observers], [name for name, _ in prepared.observers])
        runtime = self._runtime = Runtime(
            loop,
            self.table,
            clock=time.monotonic,
            observers=observers,
            max_head=config.server.max_header_bytes,
            max_fields=config.server.max_headers,
            tick=tick_for(timeouts_of(config)),
            pseudonym=f"router-{os.urandom(6).hex()}",
        )
        self._connect_table(runtime)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        settle_memory()
        async with contextlib.AsyncExitStack() as stack:
            stack.callback(runtime.sweeper.close)
            await self._start_plugins(stack)
            await self._start_probes(stack)
            for sock, listener_config in zip(sockets, config.listeners, strict=True):
                limit = listener_config.max_connections
                listener = Listener(runtime, sock, listener_config.timeouts, max_connections=limit)
                await listener.start()
                self._listeners.append(listener)
            observers.table_swapped(self.table.version)
            for line in [] if self._stop.is_set() else self.describe():
                announce(line)
            await self._stop.wait()
            code = await self._end(runtime)
        await abandon_tasks(_CLOSING)
        return code

    def stop(self) -> None:
        """Begins the end: called by signals. A second call cuts what is still under way."""
        assert self._stop is not None
        assert self._hurry is not None
        if self._stop.is_set():
            self._hurry.set()
            for listener in self._listeners:
                listener.cut()
        self._stop.set()

    async def _end(self, runtime: Runtime) -> int:
        server = self._prepared.config.server
        runtime.draining = True
        assert self._hurry is not None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(server.drain_delay):
                await self._hurry.wait()
        for listener in self._listeners:
            listener.stop_accepting()
        began = runtime.clock()
        cut = await asyncio.gather(*(listener.drained(server.shutdown_timeout) for listener in self._listeners))
        for pool in self.table.pools.values():
            for endpoint in pool.members.values():
                runtime.endpoint_is_gone(endpoint)
        if sum(cut):
            count = f"{sum(cut)} request{'s were' if sum(cut) > 1 else ' was'}"
            log.warning("%s cut off after %.1f s", count, runtime.clock() - began)
        return 1 if sum(cut) else 0

    def _connect_table(self, runtime: Runtime) -> None:
        """Joins what policy announces to what net and observers do about it."""

        def changed(endpoint: Endpoint, cause: str) -> None:
            pool, healthy = self.table.pools[endpoint.pool], endpoint.health.is_healthy(runtime.clock())
            # That everything is well at the start is no news.
            level = logging.DEBUG if healthy and pool.starting else logging.INFO if healthy else logging.WARNING
            log.log(level, "pool %s, endpoint %s: %s", endpoint.pool, endpoint.identity, cause)
            runtime.observers.endpoint_changed(endpoint, cause)
            if not healthy and endpoint.connections is not None:
                endpoint.connections.drop_idle()
            wake_soon(pool, runtime)

        told: set[int] = set()

        def muted(plugin: Any, error: Exception) -> None:
            # Once per plugin object: a selector that fails on every request must not fill the log.
            if id(plugin) not in told:
                told.add(id(plugin))
                log.error("plugin %s failed and is worked around: %r", type(plugin).__name__, error)

        for pool in self.table.pools.values():
            pool.changed = changed
            pool.said = functools.partial(_say, pool)
            pool.updated = functools.partial(wake_soon, pool, runtime)
            pool.gone = runtime.endpoint_is_gone
            pool.muted = muted

    async def _start_plugins(self, stack: contextlib.AsyncExitStack) -> None:
        for made in self._prepared.plugins():
            if hasattr(made, "close"):
                stack.push_async_callback(_closed, made)
            if hasattr(made, "start"):
                try:
                    await made.start(self)
                except Exception as error:
                    raise StartError(f"plugin {type(made).__name__} did not start: {error!r}") from error
        for name, service in self._prepared.services:
            try:
                await stack.enter_async_context(service.serve(self))
            except Exception as error:
                raise StartError(f"service {name} did not start: {error!r}") from error

    async def _start_probes(self, stack: contextlib.AsyncExitStack) -> None:
        """The first round of probes comes before the first request: nobody is sent to a server that is down."""
        assert self._runtime is not None
        assert self._stop is not None
        probers = [self._prober(pool) for pool in self.table.pools.values() if self._prepared.parts[pool.name].probe]
        for prober in probers:
            stack.push_async_callback(prober.close)
            prober.sync()
        if probers:
            rounds = [asyncio.create_task(prober.first_round()) for prober in probers]
            stopped = asyncio.create_task(self._stop.wait())
            waiting = asyncio.gather(*rounds)
            said = self._runtime.loop.call_later(_SOON, log.info, "waiting for the first answers to probes")
            await asyncio.wait((waiting, stopped), timeout=_FIRST_ROUND, return_when=asyncio.FIRST_COMPLETED)
            said.cancel()
            stopped.cancel()
            waiting.cancel()
            await asyncio.gather(waiting, stopped, return_exceptions=True)
        for pool in self.table.pools.values():
            pool.started()

    def _prober(self, pool: Pool) -> Prober:
        assert self._runtime is not None
        parts = self._prepared.parts[pool.name]
        prober = Prober(pool, parts.probe, parts.timing, clock=self._runtime.clock, rng=self._prepared.rng)
        look_again = pool.updated

        def updated() -> None:
            prober.sync()
            look_again()

        pool.updated = updated
        return prober

    # For plugins (api.Control) and people

    def status(self) -> Mapping[str, Any]:
        """The state of now, as plain data."""
        return {
            "version": self.table.version,
            "draining": self._runtime is not None and self._runtime.draining,
            "connections": {listener.name: len(listener.connections) for listener in self._listeners},
            "pools": {
                name: {
                    "in_flight": pool.in_flight,
                    "waiting": pool.queue.waiting,
                    "endpoints": {
                        identity: {"load": e.load, "weight": e.weight, "state": e.health.describe(time.monotonic())}
                        for identity, e in pool.members.items()
                    },
                }
                for name, pool in self.table.pools.items()
            },
        }

    def describe(self) -> list[str]:
        """One line per listener, pool and plugin."""
        config = self._prepared.config
        lines = [f"listener {listener.name} (http)" for listener in self._listeners]
        for pool in config.pools:
            use = pool.selection if isinstance(pool.selection, str) else pool.selection.get("use")
            count = len(pool.endpoints)
            line = f"pool {pool.name}: {count} endpoint{'s' * (count != 1)}, {use}"
            lines.append(line + self._describe_probe(pool.name))
        for broken in self._prepared.registry.broken:
            lines.append(f"plugin {broken.plugin} of {broken.distribution} is broken: {broken.reason}")
        used: dict[tuple[str, str, str], list[str]] = {}
        for entry in self._prepared.registry.entries:
            used.setdefault((entry.distribution, entry.version, entry.plugin), []).append(entry.name)
        for (distribution, version, plugin), names in used.items():
            lines.append(f"plugin {plugin} ({distribution} {version}): {', '.join(names)}")
        lines.append(raise_open_files())
        return lines

    def _describe_probe(self, name: str) -> str:
        parts, pool = self._prepared.parts[name], self.table.pools[name]
        if parts.probe is None:
            return ""
        ready = sum(tier.ready_count for tier in pool.tiers)
        return f", probed every {parts.timing.interval:g} s, {ready} ready"


def _say(pool: Pool, what: str) -> None:
    log.log(logging.WARNING if any(tier.few for tier in pool.tiers) else logging.INFO, "pool %s: %s", pool.name, what)


async def _closed(made: Any) -> None:
    try:
        async with asyncio.timeout(_CLOSING):
            await made.close()
    except Exception as error:
        log.error("plugin %s did not close well: %r", type(made).__name__, error)


def timeouts_of(config: Config) -> Iterator[float]:
    """Every timeout of a configuration that connections are watched for, in seconds."""
    for listener in config.listeners:
        yield from (listener.timeouts.header, listener.timeouts.idle, listener.timeouts.stream)
    for pool in config.pools:
        yield from (pool.timeouts.head, pool.timeouts.stream, pool.retry.attempt_timeout)
    yield from (route.timeout for route in config.routes)
