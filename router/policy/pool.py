"""A pool: who can be chosen now, the leases on its members, and the queue of exchanges that wait.

Every count has one writer, which is this file. Time comes in as `now`; what time alone changes is due at `due`. Who is
a member, and in which list, stands in roster.py.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Set
from typing import Any, Literal

from router.api import Affinity, Detector, Selector
from router.model import Candidates, Endpoint, Exchange
from router.policy.cookies import cookie_stripper
from router.policy.health import EjectionRule
from router.policy.judging import Judging
from router.policy.limits import Limits, Timeouts
from router.policy.quantiles import Quantile
from router.policy.retry import Budget, RetryRule
from router.policy.slowstart import SlowStart
from router.policy.tiers import Tier, draw_tier
from router.policy.waiting import Queue, Ticket

__all__ = ["Pool"]

#: What `resettle` takes as it is.
_SETTINGS = (
    "strategy",
    "security",
    "timeouts",
    "retry",
    "attempt_timeout",
    "on_unready",
    "listens",
    "_measures",
    "_selector_key",
    "has_key",
)


class Pool(Judging):
    """One pool. Attributes are read by Dispatch; only methods write them.

    Args:
        rng: for tiers, backoff and whatever else chance decides here.
        probe: (fall, rise) where the pool has a probe.
        few_ready: the share of a tier's endpoints at or below which health is ignored, or the request refused.
        zone: the router's own, "" where zones are not preferred.
        on_unready: what a pin to an endpoint that is not ready comes to.
        security: what connections to endpoints speak TLS with; not looked into here.
    """

    #: Whether waiting exchanges are being woken right now.
    waking = False
    #: Attempts after the first, so far.
    retries = 0
    #: Name of the strategy, as configured.
    strategy = ""

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
        slow_start: SlowStart | None = None,
        security: Any = None,
    ) -> None:
        limits, ejection, slow_start = limits or Limits(), ejection or EjectionRule(), slow_start or SlowStart()
        super().__init__(
            name, selector, detectors, limits, ejection, probe, when_few_ready, few_ready, zone, slow_start
        )
        self.rng = rng
        self.stick(affinity)
        self.timeouts = timeouts or Timeouts()
        self.retry = retry or RetryRule()
        self.budget = budget or Budget()
        #: Seconds that the head of one attempt's response may take.
        self.attempt_timeout = min(self.timeouts.head, self.retry.attempt_timeout)
        self.hedge_after = self.retry.hedge_after
        self._latency = Quantile(self.retry.hedge_share) if self.retry.hedge_share is not None else None
        self.on_unready = on_unready
        self.security = security
        self.queue = Queue()
        #: Exchanges admitted and not yet over.
        self.in_flight = 0
        #: Whether outcomes are samples of latency to anybody.
        self._measures = self._latency is not None or bool(limits.adaptive)
        #: Whether outcomes are wanted.
        self.listens = self._measures or bool(self.detectors)
        self._selector_key: Any = getattr(selector, "key", None)
        #: Whether the selector hashes: it is asked for each exchange's key before it chooses.
        self.has_key = self._selector_key is not None

    def stick(self, affinity: Affinity | None) -> None:
        """Takes the affinity that exchanges are asked of from now on."""
        self.affinity = affinity
        #: Takes the affinity's own cookies out of a request head; None if there are none.
        self.strip = cookie_stripper(getattr(affinity, "strip_cookies", ()))
        #: Whether affinity writes nothing where its word was followed and it left no note.
        self.moves_only = bool(getattr(affinity, "moves_only", False))
        self.find: Any = getattr(affinity, "find", None)
        self._due = getattr(affinity, "due", None)

    def marks(self, endpoint: Endpoint, exchange: Exchange, head: bytes) -> bool:
        """Whether affinity may have something to add to an endpoint's response, of which this is the raw head."""
        if self.moves_only and exchange.pinned is endpoint and exchange.marks is None:
            return False
        if self._due is None:
            return self.affinity is not None
        try:
            return self._due(endpoint, exchange, head)  # type: ignore[no-any-return]
        except Exception as error:
            self.muted(self.affinity, error)
            return False

    def uses(self, plugin: object) -> bool:
        return plugin is self.affinity or super().uses(plugin)

    def resettle(self, fresh: Pool, now: float) -> None:
        """Takes the settings of a pool that was built anew and never used.

        What it knows and counts stays: members, health, leases, the queue, the budget's tokens, latencies.
        """
        if self.retry.hedge_share != fresh.retry.hedge_share:
            self._latency = fresh._latency
        self.hedge_after = fresh.hedge_after if self._latency is None else self._latency.value
        self.budget.share, self.budget.reserve = fresh.budget.share, fresh.budget.reserve
        for name in _SETTINGS:
            setattr(self, name, getattr(fresh, name))
        self.stick(fresh.affinity)
        self._resettle(fresh, now)

    # Time

    def tick(self, now: float) -> None:
        """Does what time alone has made due."""
        for endpoint in [e for e in self._out if e.health.ejection.expire(now)]:
            del self._out[endpoint]
            self.place(endpoint, now)
            down = endpoint.health.probed is not None and not endpoint.health.probed.up
            self.tell(endpoint, "ejection over, still down" if down else "ejection over, on probation", now)
        self.set_due(now)
        for detector in [d for d in self.detectors if hasattr(d, "tick")]:
            try:
                detector.tick(tuple(self.members.values()), now)
            except Exception as error:
                self._mute(detector, error)

    # Candidates

    def candidates(self, exchange: Exchange, now: float) -> Candidates | None:
        """Who can take the exchange now, in the one order; empty if all are full, None if nothing is ready."""
        if now >= self.due:
            self.tick(now)
        elif self.usual:
            return self.usual
        tiers = self.tiers
        tier = tiers[0] if len(tiers) == 1 else draw_tier(tiers, self._chance(exchange))
        found = None if tier is None else self.of_tier(tier)
        # A full tier spills over to the others rather than make anybody wait.
        for other in tiers:
            if found:
                break
            spare = self.of_tier(other)
            found = spare if spare is not None else found
        return self.on_trial() if found is not None and not found else found

    def on_trial(self) -> Candidates:
        """With all others full or out, those on probation may take more than one request at a time."""
        tiers = [tier for tier in self.tiers if not tier.few]
        # One that a session waits for is kept for it: newcomers never pass who waits.
        waited_for = self.queue.pinned
        trial = (e for tier in tiers for e in tier.trial if e not in waited_for)
        return Candidates.of(e for e in trial if e.load < self.limit_of(e))

    def count_ready(self) -> str:
        """How many endpoints are ready, for the log."""
        ready, known = sum(tier.ready_count for tier in self.tiers), len(self.members)
        return f"{ready} of {known} endpoints ready"

    def of_tier(self, tier: Tier) -> Candidates | None:
        """Who of a tier can take a request; empty if all are full, None if too few are ready."""
        if not tier.few:
            return tier.candidates()
        return tier.everyone(self.limit_of) if self.when_few_ready == "try_all" and tier.open_count else None

    def key_of(self, exchange: Exchange) -> int | None:
        """The selector's hash key of this exchange, asked once."""
        if not exchange.keyed and self.has_key:
            exchange.keyed = True
            try:
                key = self._selector_key(exchange)
                if key is not None and not isinstance(key, int):
                    raise TypeError(f"key returned {type(key).__name__}, not an int or None")
                exchange.key = key
            except Exception as error:
                self.muted(self.selector, error)
        return exchange.key

    def _chance(self, exchange: Exchange) -> float:
        # A random draw would move a hashed key to another tier's server.
        key = self.key_of(exchange)
        return self.rng.random() if key is None else (key & 0xFFFFFFFF) / 0x100000000

    def is_usable(self, endpoint: Endpoint, now: float) -> bool:
        """Whether affinity may keep to this endpoint: healthy, draining or not. Room is asked apart."""
        return self.members.get(endpoint.identity) is endpoint and endpoint.health.is_healthy(now)

    def _seat(self, endpoint: Endpoint, tier: Tier, company: Set[Endpoint], now: float) -> None:
        super()._seat(endpoint, tier, company, now)
        if self.queue.pinned:
            self.queue.stir(endpoint)

    def _leave(self, endpoint: Endpoint) -> None:
        super()._leave(endpoint)
        self.queue.stir(endpoint)

    # Leases

    def acquire(self, endpoint: Endpoint, now: float) -> None:
        """Opens a lease; `release` closes it."""
        endpoint.load += 1
        endpoint.requests += 1
        if endpoint.load >= endpoint.limit:
            self.place(endpoint, now)

    def release(self, endpoint: Endpoint, now: float) -> None:
        load = endpoint.load
        endpoint.load = load - 1
        if load >= endpoint.limit:
            self.place(endpoint, now)
        if load == 1 and endpoint.home is None and self.leaving.pop(endpoint, None) is not None:
            self.gone(endpoint)

    # Admission: FIFO, newcomers never pass a waiting one

    def has_room(self) -> bool:
        return not self.queue.tickets and self.in_flight < self.limits.in_flight

    def grant(self, now: float) -> Ticket | None:
        """Takes out of the queue who has waited longest of those that can go on now."""
        queue = self.queue
        found = queue.first()
        if found is not None and not self.can_go(found, now):
            found = None
        for ticket in queue.stirred() if queue.pinned else ():
            if not self.can_go(ticket, now):
                queue.settle(ticket)
            elif found is None or ticket.number < found.number:
                found = ticket
        if found is not None:
            self._grant(found)
        return found

    def grants(self, ticket: Ticket, now: float) -> bool:
        """Takes this one out of the queue if it can go on now and nobody stands before it in its line."""
        if not self.queue.is_next(ticket) or not self.can_go(ticket, now):
            return False
        self._grant(ticket)
        return True

    def _grant(self, ticket: Ticket) -> None:
        self.queue.take(ticket)
        if not ticket.admitted:
            ticket.admitted = True
            self.in_flight += 1

    def can_go(self, ticket: Ticket, now: float) -> bool:
        """Whether there is room now for the exchange that holds this ticket."""
        endpoint = ticket.endpoint
        if endpoint is not None:
            # Where it cannot be used any more, nobody waits for it.
            return endpoint.load < endpoint.limit or not self.is_usable(endpoint, now)
        if not ticket.admitted and self.in_flight >= self.limits.in_flight:
            return False
        return any(self.of_tier(tier) for tier in self.tiers) or bool(self.on_trial())

    def __repr__(self) -> str:
        return f"<Pool {self.name} members={len(self.members)} in_flight={self.in_flight}>"
