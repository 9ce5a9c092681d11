"""Which of a pool's lists an endpoint stands in: kept up at every change of state, so a request never filters anything.

The part of Pool that knows tiers and places; who is a member at all is roster.py's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Set
from typing import Any, Literal

from router.api import Detector, Selector
from router.model import Candidates, Endpoint, Members
from router.policy.adaptive import AdaptiveLimit
from router.policy.health import EjectionRule, Health
from router.policy.limits import Limits
from router.policy.slowstart import SlowStart
from router.policy.tiers import Tier

__all__ = ["Seating"]

_NEVER = float("inf")
#: Seconds between two asks of a detector's `tick`.
_TICK = 1.0


class Seating:
    """What Roster is made upon: tiers and places. See Pool for the arguments."""

    #: Detectors that raised and are asked no more.
    silenced: tuple[Detector, ...] = ()

    def __init__(
        self,
        name: str,
        selector: Selector,
        detectors: Iterable[Detector],
        limits: Limits,
        ejection: EjectionRule,
        probe: tuple[int, int] | None,
        when_few_ready: Literal["try_all", "refuse"],
        few_ready: float,
        zone: str,
        slow_start: SlowStart,
    ) -> None:
        self.name = name
        self.selector = selector
        self.detectors = tuple(detectors)
        self.limits = limits
        self.ejection = ejection
        self.probe = probe
        self.when_few_ready = when_few_ready
        self.few_ready = few_ready
        self.zone = zone
        self.slow_start = slow_start
        #: Until `started`, nobody is served: what is found out about endpoints is no change, and nobody starts slowly.
        self.starting = True
        self.members = Members({})
        self.tiers: tuple[Tier, ...] = ()
        #: The next moment at which time alone changes something.
        self.due = _NEVER
        #: The one list that usually answers `candidates`; always empty where tiers, zones or shares matter.
        self.usual = Candidates()
        #: Endpoints whose ejection lasts, and those that are ready.
        self._out: dict[Endpoint, None] = {}
        self._ready: set[Endpoint] = set()
        self._adaptive: dict[Endpoint, AdaptiveLimit] = {}
        #: Removed endpoints with open leases, and since when.
        self.leaving: dict[Endpoint, float] = {}
        #: Called when the set of members may have changed.
        self.updated: Callable[[], None] = lambda: None
        #: Called with what has changed about the pool as a whole.
        self.said: Callable[[str], None] = lambda what: None
        #: Called with the endpoint and a cause at each change of state.
        self.changed: Callable[[Endpoint, str], None] = lambda endpoint, cause: None
        #: Called with a removed endpoint whose last lease has closed.
        self.gone: Callable[[Endpoint], None] = lambda endpoint: None
        #: Called with a removed endpoint that still has leases.
        self.left: Callable[[Endpoint], None] = lambda endpoint: None
        #: Called with a plugin that raised.
        self.muted: Callable[[Any, Exception], None] = lambda plugin, error: None

    def started(self) -> None:
        """Requests come from now on. To be called once, after the first round of probes."""
        self.starting = False
        for tier in self.tiers:
            self._tell_few(tier)

    def _tier_of(self, endpoint: Endpoint) -> Tier | None:
        for tier in self.tiers:
            if tier.priority == endpoint.spec.priority:
                return tier if self.members.get(endpoint.identity) is endpoint else None
        return None

    def _unplace(self, endpoint: Endpoint) -> None:
        if endpoint.home is not None:
            endpoint.home.discard(endpoint)
            endpoint.home = None

    def _seat_all(self, endpoints: Iterable[Endpoint], company: Set[Endpoint], now: float) -> None:
        """Seats those that are new or different. `company`: those that were ready before."""
        levels = {tier.priority: tier for tier in self.tiers}
        for endpoint in endpoints:
            self._seat(endpoint, levels[endpoint.spec.priority], company, now)
        for tier in self.tiers:
            self._tell_few(tier)
        self.set_due(now)

    def set_due(self, now: float) -> None:
        """Writes the weights of now, and finds the next moment at which time alone changes something."""
        # Detectors that measure over time are asked about once a second, as long as requests come.
        ticking = any(hasattr(detector, "tick") for detector in self.detectors)
        ended = min((endpoint.health.due() for endpoint in self._out), default=_NEVER)
        self.due = min(now + _TICK if ticking else _NEVER, ended, self.slow_start.step(now))

    def place(self, endpoint: Endpoint, now: float) -> None:
        """Puts the endpoint where its state says; called at every change of state."""
        tier = self._tier_of(endpoint)
        if tier is not None:
            self._seat(endpoint, tier, self._ready, now)

    def tell(self, endpoint: Endpoint, cause: str, now: float) -> None:
        """Says that the endpoint's state has changed, and then what follows for the pool."""
        health: Health = endpoint.health
        health.cause, health.since = cause, now
        self.changed(endpoint, cause)
        for tier in self.tiers:
            self._tell_few(tier)

    def _tell_few(self, tier: Tier) -> None:
        """Says when health begins to be ignored, or requests to be refused, and when that is over."""
        few = tier.few
        if few == tier.few_told or self.starting or not tier.open_count:
            return
        tier.few_told = few
        which = f"tier {tier.priority}: " if len(self.tiers) > 1 else ""
        then = ": health is ignored, all are tried" if self.when_few_ready == "try_all" else ": requests are refused"
        count = f"{which}{tier.ready_count} of {tier.open_count} endpoints ready"
        self.said(f"{count}{then}" if few else f"{count} again")

    def limit_of(self, endpoint: Endpoint) -> float:
        """How many leases an endpoint may have at once when it is well."""
        adaptive = self._adaptive.get(endpoint)
        return self.limits.per_endpoint if adaptive is None else adaptive.limit

    def _turn(self, endpoint: Endpoint, ready: bool, company: Set[Endpoint], now: float) -> None:
        """The endpoint has become ready, or is not any more. `company`: those that were ready before it."""
        if not ready:
            self._ready.discard(endpoint)
            self.slow_start.drop(endpoint)
            return
        # Without anybody else to take the rest, less weight would be nothing but words.
        others = any(other.spec.priority == endpoint.spec.priority for other in company)
        self._ready.add(endpoint)
        if others and not self.starting:
            self.due = min(self.due, self.slow_start.begin(endpoint, now))

    def _serves(self, endpoint: Endpoint, now: float) -> bool:
        health: Health = endpoint.health
        return endpoint.spec.weight > 0 and health.is_ready(now)

    def _seat(self, endpoint: Endpoint, tier: Tier, company: Set[Endpoint], now: float) -> None:
        health: Health = endpoint.health
        endpoint.limit = 1 if health.ejection.probation else self.limit_of(endpoint)
        ready = self._serves(endpoint, now)
        open_to_all = health.operator == "up" and endpoint.spec.weight > 0
        tier.note(endpoint, ready=ready, open_to_all=open_to_all, on_trial=health.ejection.probation)
        if ready != (endpoint in self._ready):
            self._turn(endpoint, ready, company, now)
        home = tier.list_for(endpoint) if ready and endpoint.load < endpoint.limit else None
        if home is not endpoint.home:
            self._unplace(endpoint)
            if home is not None:
                home.add(endpoint)
                endpoint.home = home
        tier.touch()
