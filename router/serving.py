"""All that a process serves with: table, pools at work, listeners, plugins. Takes one configuration after another.

A start is a reload from nothing: everything new is made and made ready first, then all is swapped in one turn of the
loop, then what is left over ends in peace. A configuration that cannot be taken changes nothing.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import time
from collections.abc import Callable, Coroutine
from typing import Any

from router.api import Control
from router.config import Config
from router.listening import Key, Listening
from router.lives import Lives
from router.net.connections import drop_connections
from router.net.forward import Forward
from router.net.keeper import Keeper
from router.net.memory import aside, settle_memory
from router.net.runtime import Runtime
from router.net.server import Listener
from router.net.sockets import Sockets
from router.net.sweeper import tick_for, timeouts_of
from router.observe import Observers
from router.policy.membership import Membership, Override
from router.policy.table import Table
from router.staging import Staged
from router.vault import Vault

__all__ = ["Serving"]

log = logging.getLogger("router")

#: Seconds that a configuration waits for discoveries and the first round of probes, and after which that is said.
_FIRST_ROUND, _SOON = 10.0, 1.0
#: Seconds between two looks whether old exchanges are over.
_LOOK = 0.25


class Serving:
    """To be made before the loop runs.

    Args:
        staged: the first configuration.
        control: what plugins are given.
    """

    def __init__(self, staged: Staged, sockets: Sockets, control: Control) -> None:
        self.staged = staged
        self.listening = Listening(sockets)
        self.keepers: dict[str, Keeper] = {}
        #: Pool -> identity -> what an operator has set; outlives pools and reloads.
        self.overrides: dict[str, dict[str, Override]] = {}
        #: Plugins that failed and are worked around, with the reason.
        self.muted: dict[int, tuple[Any, str]] = {}
        self.runtime: Runtime | None = None
        #: When the configuration was taken, on the router's clock.
        self.since = time.monotonic()
        self._lives = Lives(control)
        self.vault = Vault()
        self._rng = random.Random()
        #: Plugin objects of before a reload, and the exchanges that may still call them.
        self._unused: list[tuple[Any, list[Forward]]] = []
        self._ending: asyncio.Task[None] | None = None
        #: Probes and sources that are ending.
        self._closings: set[asyncio.Task[None]] = set()

    @property
    def table(self) -> Table:
        return self.staged.table

    @property
    def config(self) -> Config:
        return self.staged.prepared.config

    # Taking a configuration

    async def begin(self, stopped: asyncio.Event) -> None:
        """Serves the first configuration; accepts nobody if `stopped` is set meanwhile.

        Raises:
            StartError: a socket or a plugin does not let it.
        """
        config = self.config
        self.runtime = Runtime(
            asyncio.get_running_loop(),
            self.table,
            clock=time.monotonic,
            observers=self._observers(),
            max_head=config.server.max_header_bytes,
            max_fields=config.server.max_headers,
            tick=tick_for(timeouts_of(config)),
            pseudonym=f"router-{os.urandom(6).hex()}",
        )
        self.runtime.challenges = self.vault.challenges
        self.listening.open(config)
        settle_memory()
        await self._lives.begin(self.staged.prepared)
        await self.vault.prepare(self.staged.secure_listeners)
        self.keepers = self._keepers(self.staged)
        await self._ready(self.keepers, stopped)
        for pool in self.table.pools.values():
            pool.started()
        made = await self.listening.prepare(config, self.runtime)
        if not stopped.is_set():
            await self.listening.become(config, self.runtime, made, self.staged.stores, announce=False)
            await self.vault.become(self.staged.secure_listeners, self.staged.secured.pools)
            self.runtime.observers.table_swapped(self.table.version)
        else:
            self.listening.forget([], made)

    async def take(self, prepare: Callable[[Staged], Staged | None], stopped: asyncio.Event) -> bool:
        """Serves another configuration in place of the one of now; one call at a time.

        Args:
            prepare: reads and stages it, given what is in force; runs in a thread. None if nothing is different.

        Returns:
            Whether anything is different.

        Raises:
            StartError: a socket or a plugin does not let it. Nothing has changed then.
            Exception: whatever `prepare` raised.
        """
        staged = await aside(prepare, self.staged)
        if staged is None:
            return False
        assert self.runtime is not None
        config = staged.prepared.config
        keepers: dict[str, Keeper] = {}
        begun: list[Any] = []
        sources: list[int] = []
        made: dict[Key, Listener] = {}
        opened = await aside(self.listening.open, config)
        try:
            made = await self.listening.prepare(config, self.runtime)
            begun = await self._lives.begin(staged.prepared)
            sources = await self.vault.prepare(staged.secure_listeners)
            keepers = self._keepers(staged)
            await self._ready(keepers, stopped)
        except BaseException:
            await self.vault.forget(sources)
            for keeper in keepers.values():
                await keeper.close()
            await self._lives.end(begun)
            for plugin in begun:
                self.muted.pop(id(plugin), None)
            self.listening.forget(opened, made)
            raise
        under_way = self.listening.under_way()
        before = [self._swap(staged, keepers, under_way)]
        await self.listening.become(config, self.runtime, made, staged.stores)
        await self.vault.become(staged.secure_listeners, staged.secured.pools)
        self.runtime.observers.table_swapped(staged.table.version)
        self._retire(before[0], under_way)
        # Thousands of small objects: whoever lets go of them last pays for it.
        await aside(lambda gone: gone.clear(), before)
        return True

    def _observers(self) -> Observers:
        named = self.staged.prepared.observers
        return Observers([made for _, made in named], [name for name, _ in named])

    def _keepers(self, staged: Staged) -> dict[str, Keeper]:
        """What works for the pools that are new."""
        assert self.runtime is not None
        keepers = {}
        for name, pool in staged.made.items():
            membership = Membership(self.overrides.setdefault(name, {}))
            keepers[name] = Keeper(
                pool,
                self.runtime,
                membership,
                muted=self._mute,
                break_off=self.listening.break_off,
                closing=self._close_soon,
                rng=self._rng,
            )
            self._settle(keepers[name], staged)
        return keepers

    def _settle(self, keeper: Keeper, staged: Staged) -> None:
        name = keeper.pool.name
        parts = staged.prepared.parts[name]
        keeper.settle(
            staged.specs[name],
            probe=parts.probe,
            timing=parts.timing,
            discovery=parts.discovery,
            discovery_name=parts.discovery_name,
            drain_timeout=staged.prepared.pools[name].drain_timeout,
        )

    async def _ready(self, keepers: dict[str, Keeper], stopped: asyncio.Event) -> None:
        """Nobody is sent to a server before it was probed: waits for that, though not for ever."""
        works = [asyncio.create_task(keeper.ready()) for keeper in keepers.values() if keeper.has_to_wait]
        if not works:
            return
        stop = asyncio.create_task(stopped.wait())
        waiting = asyncio.gather(*works)
        loop = asyncio.get_running_loop()
        said = loop.call_later(_SOON, log.info, "waiting for discovery and the first answers to probes")
        await asyncio.wait((waiting, stop), timeout=_FIRST_ROUND, return_when=asyncio.FIRST_COMPLETED)
        said.cancel()
        stop.cancel()
        waiting.cancel()
        await asyncio.gather(waiting, stop, return_exceptions=True)

    def _swap(self, staged: Staged, keepers: dict[str, Keeper], under_way: list[Forward]) -> Staged:
        """The one moment in which everything changes, but for exchanges under way. Returns what was in force."""
        runtime, before = self.runtime, self.staged
        assert runtime is not None
        now = runtime.clock()
        for name, fresh in staged.fresh.items():
            self.keepers[name].resettle(fresh, now, staged.specs[name])
        self.staged, self.since = staged, now
        runtime.table = staged.table
        for pool in staged.made.values():
            pool.started()
        for name in staged.settled:
            if name in self.keepers:
                self._settle(self.keepers[name], staged)
        gone = [keeper for name, keeper in self.keepers.items() if name not in staged.table.pools]
        self.keepers = {name: keepers.get(name) or self.keepers[name] for name in staged.table.pools}
        for keeper in gone:
            self._close_soon(keeper.close())
            runtime.spawn(keeper.retire([each for each in under_way if each.leads_to(keeper.pool)]))
        self._take_server(before)
        return before

    def _take_server(self, before: Staged) -> None:
        """What of the process itself is another."""
        runtime, config, old = self.runtime, self.config, before.prepared.config
        assert runtime is not None
        if before.prepared.observers != self.staged.prepared.observers:
            runtime.observers.replace(self._observers())
        runtime.sweeper.tick = tick_for(timeouts_of(config))
        if config.server != old.server:
            runtime.limit_heads(config.server.max_header_bytes, config.server.max_headers)
            for listener in self.listening:
                listener.identify_clients()
            for keeper in self.keepers.values():
                keeper.forget_shapes()

    # What is left over

    def _retire(self, before: Staged, under_way: list[Forward]) -> None:
        """Each plugin object of before that has no use any more ends once the exchanges that may call it are over."""
        used = {id(made) for made in self.staged.prepared.plugins()}
        unused = [made for made in before.prepared.plugins() if id(made) not in used]
        self._unused += [(made, [each for each in under_way if each.needs(made)]) for made in unused]
        if self._unused and (self._ending is None or self._ending.done()):
            self._ending = asyncio.create_task(self._end_unused())

    async def _end_unused(self) -> None:
        while self._unused:
            waiting = [(made, [each for each in users if not each.is_over]) for made, users in self._unused]
            self._unused = [(made, users) for made, users in waiting if users]
            over = [made for made, users in waiting if not users]
            for made in over:
                self.muted.pop(id(made), None)
            if over and self._closings:
                # A probe or a source may still be asking.
                await asyncio.wait(self._closings)
            await self._lives.end(over)
            if self._unused:
                await asyncio.sleep(_LOOK)

    def _close_soon(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._closings.add(task)
        task.add_done_callback(self._closings.discard)

    def _mute(self, plugin: Any, error: Exception) -> None:
        # Once per plugin object: a selector that fails on every request must not fill the log.
        if id(plugin) not in self.muted:
            self.muted[id(plugin)] = (plugin, repr(error))
            log.error("plugin %s failed and is worked around: %r", type(plugin).__name__, error)

    # The end

    def drop_connections(self) -> None:
        """Closes connections to endpoints as they become idle."""
        assert self.runtime is not None
        for pool in self.table.pools.values():
            drop_connections(pool, self.runtime)

    async def close(self) -> None:
        """Ends probes, discoveries and plugins."""
        for keeper in self.keepers.values():
            await keeper.close()
        await self.vault.close()
        await self._lives.close()
        if self.runtime is not None:
            self.runtime.sweeper.close()
