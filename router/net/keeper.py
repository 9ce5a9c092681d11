"""One pool at work: its members as they are wanted, its probes, its discovery, and what removed endpoints leave behind.

Joins what policy announces to what net and observers do about it. A change of settings is taken in place, so that what
did not change goes on: the same keeper lives as long as its pool.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Coroutine, Mapping, Set
from typing import Any

from router.corekeys import ProbeKeys
from router.errors import RouterError, UpstreamTimeout
from router.model import Endpoint, EndpointSpec
from router.net.connections import drop_connections
from router.net.forward import Forward
from router.net.probes import Prober
from router.net.runtime import Runtime, wake_soon
from router.net.sources import SourceRun
from router.policy.membership import Membership
from router.policy.plain import NO_SHAPE
from router.policy.pool import Pool

__all__ = ["Keeper"]

log = logging.getLogger("router")

_NEVER = float("inf")
#: Seconds that endpoints which are to leave wait for those that come in their place.
_HANDOVER = 5.0
#: Seconds between two looks whether a pool that is gone is still in use.
_LOOK = 0.1
#: Seconds by which a timer comes after its time, so that it need not come twice; names in one line of the log.
_LATE, _NAMED = 0.01, 5


class Keeper:
    """To be made while the loop runs.

    Args:
        muted: told of each plugin that raised.
        break_off: ends what is under way at endpoints, and says how many exchanges that were.
        closing: runs what ends a probe or a source, in the background.
        rng: for jitter.
    """

    def __init__(
        self,
        pool: Pool,
        runtime: Runtime,
        membership: Membership,
        *,
        muted: Callable[[Any, Exception], None],
        break_off: Callable[[Set[Endpoint], RouterError], int],
        closing: Callable[[Coroutine[Any, Any, None]], None] | None = None,
        rng: random.Random,
    ) -> None:
        self.pool = pool
        self.membership = membership
        self._runtime = runtime
        self._break_off = break_off
        self._closing = closing or runtime.spawn
        self._rng = rng
        self._drain_timeout = _NEVER
        self._probe: Any = None
        self._timing: ProbeKeys | None = None
        self._prober: Prober | None = None
        self._discovery: Any = None
        self.source: SourceRun | None = None
        self._handover: asyncio.TimerHandle | None = None
        self._cutting: asyncio.Handle | None = None
        self._closed = False
        pool.changed = self._changed
        pool.said = self._said
        pool.updated = self._updated
        pool.gone = runtime.endpoint_is_gone
        pool.left = self._left
        pool.muted = muted

    # Settings

    def settle(
        self,
        configured: Mapping[str, EndpointSpec],
        *,
        probe: Any,
        timing: ProbeKeys,
        discovery: Any,
        discovery_name: str,
        drain_timeout: float,
    ) -> None:
        """Takes what is configured, for the first time or again."""
        self._drain_timeout = drain_timeout
        self._look_at_leaving()
        self.membership.configured = configured
        self._watch(discovery, discovery_name)
        # Before members change: those that come are asked by the probe that is to be.
        self._ask(probe, timing)
        self.apply()

    def _watch(self, discovery: Any, name: str) -> None:
        if discovery is self._discovery:
            return
        self._discovery = discovery
        if self.source is not None:
            self._closing(self.source.close())
            self.source = None
        if discovery is None:
            self.membership.found = {}
        else:
            # What was found before stays until the new source has found something.
            name = f"pool {self.pool.name}, discovery {name}"
            self.source = SourceRun(name, discovery, self._found, self._rng)

    def _ask(self, probe: Any, timing: ProbeKeys) -> None:
        if probe is self._probe and timing == self._timing:
            return
        self._probe, self._timing = probe, timing
        if self._prober is not None:
            self._closing(self._prober.close())
            self._prober = None
        if probe is not None:
            leaving = {e for name, e in self.pool.members.items() if name not in self.membership.wanted()}
            clock, rng = self._runtime.clock, self._rng
            self._prober = Prober(self.pool, probe, timing, clock=clock, rng=rng, spared=leaving)
            self._prober.sync()

    def resettle(self, fresh: Pool, now: float, configured: Mapping[str, EndpointSpec]) -> None:
        """Gives the pool other settings; see Pool.resettle. Endpoints that are not `configured` now speak as before."""
        if fresh.security is not self.pool.security:
            drop_connections(self.pool, self._runtime, self.membership.configured.keys() - configured.keys())
        self.pool.resettle(fresh, now)
        for endpoint in self.pool.members.values():
            if endpoint.connections is not None:
                endpoint.connections.stream_timeout = self.pool.timeouts.stream
        # Limits may be wider now.
        wake_soon(self.pool, self._runtime)

    def forget_shapes(self) -> None:
        """Heads are held to other limits: none is taken for good because of the one before."""
        for endpoint in self.pool.members.values():
            if endpoint.connections is not None:
                endpoint.connections.shape = NO_SHAPE

    @property
    def has_to_wait(self) -> bool:
        """Whether there is anything that `ready` waits for."""
        return self.source is not None or self._prober is not None

    async def ready(self) -> None:
        """Waits until the discovery has answered and each endpoint was probed once."""
        if self.source is not None:
            await self.source.first.wait()
        if self._prober is not None:
            await self._prober.first_round()

    async def close(self) -> None:
        """Ends the discovery and the probes. The pool still serves what it has taken."""
        self._closed = True
        if self._handover is not None:
            self._handover.cancel()
        for work in (self.source, self._prober):
            if work is not None:
                await work.close()

    async def retire(self, exchanges: list[Forward]) -> None:
        """The pool is in no table any more.

        Args:
            exchanges: those that have taken it, or may yet; they go on, up to drain_timeout.
        """
        await self.close()
        clock = self._runtime.clock
        over = clock() + self._drain_timeout
        while clock() < over and any(not each.is_over for each in exchanges):  # noqa: ASYNC110
            await asyncio.sleep(_LOOK)
        self._drain_timeout = 0.0
        self.pool.replace({}, clock())

    # Members

    def apply(self) -> None:
        """Makes the pool have the members that are wanted now."""
        pool, wanted = self.pool, self.membership.wanted()
        if self._closed:
            return
        now = self._runtime.clock()
        before = dict(pool.members.items())
        pending = self._handover is not None
        if self._prober is not None and not pool.starting and (pending or self._would_be_alone(wanted, now)):
            # Nobody who stays is ready: those that leave serve until those that come were asked.
            kept = {i: e.spec for i, e in before.items() if not _serves(wanted.get(i))}
            pool.replace({**kept, **{i: spec for i, spec in wanted.items() if i not in kept}}, now)
            if not pending:
                self._handover = self._runtime.loop.call_later(_HANDOVER, self._finish)
                self._runtime.spawn(self._finish_soon(self._prober))
        else:
            pool.replace(wanted, now)
        if not pool.starting:
            self._tell(before)

    def _would_be_alone(self, wanted: Mapping[str, EndpointSpec], now: float) -> bool:
        members = self.pool.members
        ready = [identity for identity, endpoint in members.items() if endpoint.health.is_ready(now)]
        new = any(identity not in members for identity in wanted)
        return new and bool(ready) and not any(_serves(wanted.get(identity)) for identity in ready)

    async def _finish_soon(self, prober: Prober) -> None:
        await prober.first_round()
        if prober is self._prober:
            self._finish()

    def _finish(self) -> None:
        """Those that were to leave do."""
        if self._handover is not None:
            self._handover.cancel()
            self._handover = None
            if not self._closed:
                before = dict(self.pool.members.items())
                self.pool.replace(self.membership.wanted(), self._runtime.clock())
                self._tell(before)

    def _found(self, specs: dict[str, EndpointSpec]) -> None:
        clashes = [identity for identity in specs if identity in self.membership.configured]
        if clashes:
            log.info("pool %s: %s: found and configured: the configuration counts", self.pool.name, _listed(clashes))
        self.membership.found = specs
        self.apply()

    def _tell(self, before: Mapping[str, Endpoint]) -> None:
        now = self.pool.members
        parts = {
            "added": [identity for identity in now if identity not in before],
            "removed": [identity for identity in before if identity not in now],
        }
        said = [f"{word} {_listed(names)}" for word, names in parts.items() if names]
        if said:
            log.info("pool %s: %s", self.pool.name, "; ".join(said))

    # What policy announces

    def _changed(self, endpoint: Endpoint, cause: str) -> None:
        runtime, pool = self._runtime, self.pool
        healthy = endpoint.health.is_healthy(runtime.clock())
        # That everything is well at the start is no news.
        level = logging.DEBUG if healthy and pool.starting else logging.INFO if healthy else logging.WARNING
        log.log(level, "pool %s, endpoint %s: %s", endpoint.pool, endpoint.identity, cause)
        runtime.observers.endpoint_changed(endpoint, cause)
        if not healthy and endpoint.connections is not None:
            endpoint.connections.drop_idle()
        wake_soon(pool, runtime)

    def _said(self, what: str) -> None:
        level = logging.WARNING if any(tier.few for tier in self.pool.tiers) else logging.INFO
        log.log(level, "pool %s: %s", self.pool.name, what)

    def _updated(self) -> None:
        if self._prober is not None:
            self._prober.sync()
        wake_soon(self.pool, self._runtime)

    def _left(self, endpoint: Endpoint) -> None:
        # Soon, and once for all that leave together.
        if self._cutting is not None:
            self._cutting.cancel()
        self._cutting = self._runtime.loop.call_soon(self._look_at_leaving)

    def _look_at_leaving(self) -> None:
        """Cuts off what is under way at removed endpoints whose time is over, and comes again for the next one."""
        if self._cutting is not None:
            self._cutting.cancel()
            self._cutting = None
        now = self._runtime.clock()
        over = {endpoint for endpoint, since in self.pool.leaving.items() if now >= since + self._drain_timeout}
        if over:
            count = self._break_off(over, UpstreamTimeout("its endpoint was removed, and drain_timeout is over"))
            what = f"{count} request{'s' * (count != 1)} cut off"
            names = _listed([endpoint.identity for endpoint in over])
            log.warning("pool %s: drain_timeout is over for removed %s: %s", self.pool.name, names, what)
        rest = [since for endpoint, since in self.pool.leaving.items() if endpoint not in over]
        if rest and self._drain_timeout < _NEVER:
            seconds = min(rest) + self._drain_timeout - now
            self._cutting = self._runtime.loop.call_later(max(seconds, 0.0) + _LATE, self._look_at_leaving)


def _serves(spec: EndpointSpec | None) -> bool:
    return spec is not None and spec.state == "up" and spec.weight > 0


def _listed(names: list[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")
