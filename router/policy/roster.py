"""Who is in a pool, and in which of its lists: the part of Pool that changes when membership or state does.

Endpoints stand in lists kept by swap-remove, so a request never filters anything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from router.api import Detector, Selector
from router.model import Candidates, Endpoint, EndpointSpec, Members
from router.policy.health import EjectionRule, Health, Probed
from router.policy.limits import Limits
from router.policy.tiers import Tier

__all__ = ["Roster"]

_NEVER = float("inf")
#: Seconds between two asks of a detector's `tick`.
_TICK = 1.0


class Roster:
    """What Pool is made upon: members, tiers and places. See Pool for the arguments."""

    def __init__(
        self,
        name: str,
        selector: Selector,
        detectors: Iterable[Detector],
        limits: Limits,
        ejection: EjectionRule,
        probe: tuple[int, int] | None,
        few_ready: float,
        zone: str,
    ) -> None:
        self.name = name
        self.selector = selector
        self.detectors = tuple(detectors)
        self.limits = limits
        self.ejection = ejection
        self.probe = probe
        self.few_ready = few_ready
        self.zone = zone
        self.members = Members({})
        self.tiers: tuple[Tier, ...] = ()
        #: The next moment at which time alone changes something.
        self.due = _NEVER
        #: The one list that usually answers `candidates`; always empty where tiers, zones or shares matter.
        self._usual = Candidates()
        #: Called with the endpoint and a cause at each change of state.
        self.changed: Callable[[Endpoint, str], None] = lambda endpoint, cause: None
        #: Called with a removed endpoint whose last lease has closed.
        self.gone: Callable[[Endpoint], None] = lambda endpoint: None

    def update(self, specs: Iterable[EndpointSpec], now: float) -> None:
        """Takes the complete set of endpoints. The same identity keeps its object, its leases and its health.

        Raises:
            ValueError: two specs have the same identity.
        """
        wanted: dict[str, EndpointSpec] = {}
        for spec in specs:
            # Asked before anything changes: a bad address must leave the pool as it was.
            identity, _ = spec.identity, spec.address
            if identity in wanted:
                raise ValueError(f"pool {self.name!r} has the endpoint {identity!r} twice")
            wanted[identity] = spec
        left = [endpoint for identity, endpoint in self.members.items() if identity not in wanted]
        for endpoint in left:
            self._unplace(endpoint)
        members = {identity: self._member(identity, spec) for identity, spec in wanted.items()}
        self.members = Members(members)
        levels = sorted({endpoint.spec.priority for endpoint in members.values()})
        for endpoint in members.values():
            self._unplace(endpoint)
        self.tiers = tuple(
            Tier([e for e in members.values() if e.spec.priority == level], self.zone) for level in levels
        )
        plain = len(self.tiers) == 1 and self.tiers[0].is_plain and not self.few_ready
        self._usual = self.tiers[0].candidates() if plain else Candidates()
        self._place_all(now)
        self._tell_selector()
        for endpoint in left:
            self._forget(endpoint)

    def _member(self, identity: str, spec: EndpointSpec) -> Endpoint:
        endpoint = self.members.get(identity)
        if endpoint is None:
            endpoint = Endpoint(spec, self.name)
            probed = Probed(*self.probe) if self.probe is not None else None
            endpoint.health = Health(self.ejection, probed, spec.state)
        elif endpoint.spec != spec:
            if endpoint.spec.state != spec.state:
                endpoint.health.operator = spec.state
            endpoint.spec = spec
            endpoint.address = spec.address
        endpoint.weight = spec.weight
        return endpoint

    def _tell_selector(self) -> None:
        update = getattr(self.selector, "update", None)
        if update is not None:
            update(tuple(self.members.values()))

    def _forget(self, endpoint: Endpoint) -> None:
        for detector in self.detectors:
            forget = getattr(detector, "forget", None)
            if forget is not None:
                forget(endpoint)
        if endpoint.load == 0:
            self.gone(endpoint)

    # Places: which list an endpoint stands in

    def _tier_of(self, endpoint: Endpoint) -> Tier | None:
        for tier in self.tiers:
            if tier.priority == endpoint.spec.priority:
                return tier if self.members.get(endpoint.identity) is endpoint else None
        return None

    def _unplace(self, endpoint: Endpoint) -> None:
        if endpoint.home is not None:
            endpoint.home.discard(endpoint)
            endpoint.home = None

    def _place_all(self, now: float) -> None:
        # Detectors that measure over time are asked about once a second, as long as requests come.
        self.due = now + _TICK if any(hasattr(detector, "tick") for detector in self.detectors) else _NEVER
        for endpoint in self.members.values():
            self.place(endpoint, now)

    def place(self, endpoint: Endpoint, now: float) -> None:
        """Puts the endpoint where its state says; called at every change of state."""
        tier = self._tier_of(endpoint)
        if tier is None:
            return
        health: Health = endpoint.health
        endpoint.limit = 1 if health.ejection.probation else self.limits.per_endpoint
        self._seat(endpoint, tier, now)
        self.due = min(self.due, health.due())

    def _seat(self, endpoint: Endpoint, tier: Tier, now: float) -> None:
        ready = endpoint.health.is_ready(now) and endpoint.spec.weight > 0
        tier.note(endpoint, ready=ready, open_to_all=endpoint.health.operator == "up" and endpoint.spec.weight > 0)
        home = tier.list_for(endpoint) if ready and endpoint.load < endpoint.limit else None
        if home is not endpoint.home:
            self._unplace(endpoint)
            if home is not None:
                home.add(endpoint)
                endpoint.home = home
        tier.touch()
