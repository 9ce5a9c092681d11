"""A pool: its members, who of them can be chosen now, the leases on them, and the queue of exchanges that wait.

Endpoints stand in lists kept by swap-remove when their state changes, so a request never filters anything. Every count
has one writer, which is this file. Time comes in as `now`; what time alone changes is due at `due`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import Any, Literal

from router.api import Affinity, Detector, Selector
from router.model import Candidates, Eject, Endpoint, EndpointSpec, Exchange, Members, Outcome
from router.policy.health import EjectionRule, Health, Probed
from router.policy.limits import Limits, Timeouts
from router.policy.retry import Budget, RetryRule
from router.policy.tiers import Tier, draw_tier
from router.policy.waiting import Queue, Ticket

__all__ = ["Pool"]

_NEVER = float("inf")


class Pool:
    """See the module's first lines. Attributes are read by Dispatch; only methods here write them."""

    def __init__(
        self,
        name: str,
        selector: Selector,
        *,
        rng: random.Random,
        affinity: Affinity | None = None,
        detectors: Iterable[Detector] = (),
        timeouts: Timeouts | None = None,
        limits: Limits | None = None,
        retry: RetryRule | None = None,
        budget: Budget | None = None,
        ejection: EjectionRule | None = None,
        probe: tuple[int, int] | None = None,
        when_few_ready: Literal["try_all", "refuse"] = "try_all",
        few_ready: float = 0.0,
        zone: str = "",
        on_unready: Literal["reselect", "refuse"] = "reselect",
    ) -> None:
        self.name = name
        self.selector = selector
        self.rng = rng
        self.affinity = affinity
        self.detectors = tuple(detectors)
        self.timeouts, self.limits = timeouts or Timeouts(), limits or Limits()
        self.retry, self.budget = retry or RetryRule(), budget or Budget()
        self.ejection = ejection or EjectionRule()
        #: Seconds that the head of one attempt's response may take.
        self.attempt_timeout = min(self.timeouts.head, self.retry.attempt_timeout)
        #: (fall, rise) where the pool has a probe.
        self.probe = probe
        self.when_few_ready = when_few_ready
        self.few_ready = few_ready
        #: The router's own zone, "" where zones are not preferred.
        self.zone = zone
        self.on_unready = on_unready
        self.members = Members({})
        self.tiers: tuple[Tier, ...] = ()
        self.in_flight = 0
        self.due = _NEVER
        #: The one list that usually answers `candidates`; always empty where tiers, zones or shares matter.
        self._usual = Candidates()
        #: Called with the endpoint and a cause at each change of state.
        self.changed: Callable[[Endpoint, str], None] = lambda endpoint, cause: None
        #: Called with a removed endpoint whose last lease has closed.
        self.gone: Callable[[Endpoint], None] = lambda endpoint: None
        #: Called with a plugin that raised.
        self.muted: Callable[[Any, Exception], None] = lambda plugin, error: None
        self.queue = Queue()
        self._selector_key = getattr(selector, "key", None)

    # Membership

    def update(self, specs: Iterable[EndpointSpec], now: float) -> None:
        """Takes the complete set of endpoints. The same identity keeps its object, its leases and its health.

        Raises:
            ValueError: two specs have the same identity.
        """
        wanted: dict[str, EndpointSpec] = {}
        for spec in specs:
            if wanted.setdefault(spec.identity, spec) is not spec:
                raise ValueError(f"pool {self.name!r} has the endpoint {spec.identity!r} twice")
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
        self.due = _NEVER
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

    def tick(self, now: float) -> None:
        """Does what time alone has made due."""
        for endpoint in self.members.values():
            if endpoint.health.ejection.expire(now):
                self.changed(endpoint, "ejection over, on probation")
        self._place_all(now)

    # Candidates

    def candidates(self, exchange: Exchange, now: float) -> Candidates | None:
        """Who can take the exchange now, in the one order; empty if all are full, None if nothing is ready."""
        if now >= self.due:
            self.tick(now)
        elif self._usual:
            return self._usual
        tiers = self.tiers
        tier = tiers[0] if len(tiers) == 1 else draw_tier(tiers, self._chance(exchange))
        found = None if tier is None else self._of_tier(tier)
        # A full tier spills over to the others rather than make anybody wait.
        for other in tiers if found is not None and not found else ():
            found = self._of_tier(other) or found
        return found

    def _of_tier(self, tier: Tier) -> Candidates | None:
        if tier.ready_count > self.few_ready * len(tier.members):
            return tier.candidates()
        return tier.everyone() if self.when_few_ready == "try_all" and tier.open_count else None

    def _chance(self, exchange: Exchange) -> float:
        if self._selector_key is None:
            return self.rng.random()
        if exchange.key is None:
            exchange.key = self._selector_key(exchange)
        # A random draw would move a hashed key to another tier's server.
        return self.rng.random() if exchange.key is None else (exchange.key & 0xFFFFFFFF) / 0x100000000

    def is_usable(self, endpoint: Endpoint, now: float) -> bool:
        """Whether affinity may keep to this endpoint: healthy, draining or not. Room is asked apart."""
        return self.members.get(endpoint.identity) is endpoint and endpoint.health.is_healthy(now)

    # Leases

    def acquire(self, endpoint: Endpoint, now: float) -> None:
        """Opens a lease; `release` closes it."""
        endpoint.load += 1
        if endpoint.load >= endpoint.limit:
            self.place(endpoint, now)

    def release(self, endpoint: Endpoint, now: float) -> None:
        load = endpoint.load
        endpoint.load = load - 1
        if load >= endpoint.limit:
            self.place(endpoint, now)
        elif endpoint.home is None and load == 1 and self.members.get(endpoint.identity) is not endpoint:
            self.gone(endpoint)

    # Admission: FIFO, newcomers never pass a waiting one

    def has_room(self) -> bool:
        return not self.queue.tickets and self.in_flight < self.limits.in_flight

    def grant(self) -> Ticket | None:
        """Takes the first waiting exchange out of the queue if it can go on now."""
        ticket = self.queue.first()
        if ticket is None or (not ticket.admitted and self.in_flight >= self.limits.in_flight):
            return None
        if not any(tier.has_free() for tier in self.tiers):
            return None
        self.queue.pop()
        if not ticket.admitted:
            ticket.admitted = True
            self.in_flight += 1
        return ticket

    # Outcomes and changes of state

    def told(self, endpoint: Endpoint, outcome: Outcome, now: float) -> None:
        """Takes the outcome of a closed lease: probation first, then the detectors."""
        if outcome.result == "neutral":
            return
        again = endpoint.health.ejection.told(outcome.result == "success")
        if again == "again":
            self._eject(endpoint, Eject("failed on probation", outcome.phase != "head" or not outcome.status), now)
        elif again == "cleared":
            self.place(endpoint, now)
            self.changed(endpoint, "back in service")
        for detector in self.detectors:
            try:
                verdict = detector.observe(endpoint, outcome, now)
            except Exception as error:
                self.detectors = tuple(d for d in self.detectors if d is not detector)
                self.muted(detector, error)
                continue
            if verdict is not None:
                self._eject(endpoint, verdict, now)

    def _eject(self, endpoint: Endpoint, verdict: Eject, now: float) -> None:
        health: Health = endpoint.health
        if health.ejection.lasts(now) or self.members.get(endpoint.identity) is not endpoint:
            return
        ejected = sum(1 for e in self.members.values() if e.health.ejection.lasts(now))
        if not self.ejection.may_eject(ejected, len(self.members), connection=verdict.connection):
            return
        health.ejection.eject(now, verdict.cause)
        self.place(endpoint, now)
        self.changed(endpoint, f"ejected for {health.ejection.until - now:g} s: {verdict.cause}")

    def probed(self, endpoint: Endpoint, passed: bool, cause: str, now: float) -> None:
        """Takes one result of an active check."""
        machine = endpoint.health.probed
        if machine is not None and machine.told(passed):
            self.place(endpoint, now)
            self.changed(endpoint, f"up: {cause}" if passed else f"down: {cause}")

    def operate(self, endpoint: Endpoint, state: Literal["up", "drain"], now: float) -> None:
        """Takes an operator's word."""
        if endpoint.health.operator != state:
            endpoint.health.operator = state
            self.place(endpoint, now)
            self.changed(endpoint, "draining" if state == "drain" else "up again")

    def __repr__(self) -> str:
        return f"<Pool {self.name} members={len(self.members)} in_flight={self.in_flight}>"
