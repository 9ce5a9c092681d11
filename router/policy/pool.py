"""A pool: who can be chosen now, the leases on its members, and the queue of exchanges that wait.

Every count has one writer, which is this file. Time comes in as `now`; what time alone changes is due at `due`. Who is
a member, and in which list, stands in roster.py.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import Any, Literal

from router.api import Affinity, Detector, Selector
from router.model import Candidates, Eject, Endpoint, Exchange, Outcome
from router.policy.health import EjectionRule, Health
from router.policy.limits import Limits, Timeouts
from router.policy.quantiles import Quantile
from router.policy.retry import Budget, RetryRule
from router.policy.roster import Roster
from router.policy.slowstart import SlowStart
from router.policy.tiers import Tier, draw_tier
from router.policy.waiting import Queue, Ticket

__all__ = ["Pool"]


class Pool(Roster):
    """One pool. Attributes are read by Dispatch; only methods write them.

    Args:
        rng: for tiers, backoff and whatever else chance decides here.
        probe: (fall, rise) where the pool has a probe.
        few_ready: the share of a tier's endpoints at or below which health is ignored, or the request refused.
        zone: the router's own, "" where zones are not preferred.
        on_unready: what a pin to an endpoint that is not ready comes to.
    """

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
    ) -> None:
        limits, ejection, slow_start = limits or Limits(), ejection or EjectionRule(), slow_start or SlowStart()
        super().__init__(
            name, selector, detectors, limits, ejection, probe, when_few_ready, few_ready, zone, slow_start
        )
        self.rng = rng
        self.affinity = affinity
        self.timeouts = timeouts or Timeouts()
        self.retry = retry or RetryRule()
        self.budget = budget or Budget()
        #: Seconds that the head of one attempt's response may take.
        self.attempt_timeout = min(self.timeouts.head, self.retry.attempt_timeout)
        self.hedge_after = self.retry.hedge_after
        self._latency = Quantile(self.retry.hedge_share) if self.retry.hedge_share is not None else None
        self.on_unready = on_unready
        self.queue = Queue()
        #: Whether waiting exchanges are being woken right now.
        self.waking = False
        #: Exchanges admitted and not yet over.
        self.in_flight = 0
        #: Whether outcomes are samples of latency to anybody.
        self._measures = self._latency is not None or bool(limits.adaptive)
        #: Whether outcomes are wanted.
        self.listens = self._measures or bool(self.detectors)
        #: Called with a plugin that raised.
        self.muted: Callable[[Any, Exception], None] = lambda plugin, error: None
        self._selector_key = getattr(selector, "key", None)

    # Time

    def tick(self, now: float) -> None:
        """Does what time alone has made due."""
        for endpoint in [e for e in self._out if e.health.ejection.expire(now)]:
            del self._out[endpoint]
            self.place(endpoint, now)
            down = endpoint.health.probed is not None and not endpoint.health.probed.up
            self.tell(endpoint, "ejection over, still down" if down else "ejection over, on probation")
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
        elif self._usual:
            return self._usual
        tiers = self.tiers
        tier = tiers[0] if len(tiers) == 1 else draw_tier(tiers, self._chance(exchange))
        found = None if tier is None else self._of_tier(tier)
        # A full tier spills over to the others rather than make anybody wait.
        for other in tiers:
            if found:
                break
            spare = self._of_tier(other)
            found = spare if spare is not None else found
        return self._on_trial() if found is not None and not found else found

    def _on_trial(self) -> Candidates:
        """With all others full or out, those on probation may take more than one request at a time."""
        tiers = [tier for tier in self.tiers if not tier.few]
        return Candidates.of(e for tier in tiers for e in tier.trial if e.load < self._limit_of(e))

    def count_ready(self) -> str:
        """How many endpoints are ready, for the log."""
        ready, known = sum(tier.ready_count for tier in self.tiers), len(self.members)
        return f"{ready} of {known} endpoints ready"

    def _of_tier(self, tier: Tier) -> Candidates | None:
        if not tier.few:
            return tier.candidates()
        return tier.everyone(self._limit_of) if self.when_few_ready == "try_all" and tier.open_count else None

    def key_of(self, exchange: Exchange) -> int | None:
        """The selector's hash key of this exchange, asked once."""
        if not exchange.keyed and self._selector_key is not None:
            exchange.keyed = True
            try:
                exchange.key = self._selector_key(exchange)
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
        if endpoint.home is None and load == 1 and self.members.get(endpoint.identity) is not endpoint:
            self.gone(endpoint)

    # Admission: FIFO, newcomers never pass a waiting one

    def has_room(self) -> bool:
        return not self.queue.tickets and self.in_flight < self.limits.in_flight

    def grant(self) -> Ticket | None:
        """Takes the first waiting exchange out of the queue if it can go on now."""
        ticket = self.queue.first()
        if ticket is None or (not ticket.admitted and self.in_flight >= self.limits.in_flight):
            return None
        if not any(self._of_tier(tier) for tier in self.tiers) and not self._on_trial():
            return None
        self.queue.pop()
        if not ticket.admitted:
            ticket.admitted = True
            self.in_flight += 1
        return ticket

    # Outcomes and changes of state

    def told(self, endpoint: Endpoint, outcome: Outcome, now: float) -> None:
        """Takes the outcome of a closed lease: probation first, then the detectors."""
        # Of one that left the pool, a detector would keep what nobody ever makes it forget.
        if endpoint.home is None and self.members.get(endpoint.identity) is not endpoint:
            return
        if endpoint.health.ejection.probation and outcome.result != "neutral":
            self._tried(endpoint, outcome, now)
        if self._measures:
            self._measure(endpoint, outcome, now)
        for detector in self.detectors:
            try:
                verdict = detector.observe(endpoint, outcome, now)
            except Exception as error:
                self._mute(detector, error)
                continue
            if isinstance(verdict, Eject):
                self._eject(endpoint, verdict, now)
            elif verdict is not None:
                self._mute(detector, TypeError(f"observe returned {type(verdict).__name__}, not Eject or None"))

    def _tried(self, endpoint: Endpoint, outcome: Outcome, now: float) -> None:
        """Takes an outcome during probation."""
        verdict = endpoint.health.ejection.told(outcome.result == "success")
        if verdict == "again":
            cause = f"{outcome.cause} on probation"
            self._eject(endpoint, Eject(cause, outcome.phase != "head" or not outcome.status), now)
        elif verdict == "cleared":
            self.place(endpoint, now)
            self.tell(endpoint, "back in service")

    def _measure(self, endpoint: Endpoint, outcome: Outcome, now: float) -> None:
        """Takes an outcome as a sample of latency."""
        elapsed = outcome.elapsed
        if self._latency is not None and elapsed is not None:
            # Of one that was given up, it is a lower bound; to leave it out would make the slow ones vanish.
            self._latency.add(elapsed)
            self.hedge_after = self._latency.value
        adaptive = self._adaptive.get(endpoint)
        if adaptive is None or outcome.result == "neutral":
            return
        if adaptive.sample(elapsed, endpoint.load + 1, outcome.result == "failure"):
            self.place(endpoint, now)

    def _mute(self, detector: Detector, error: Exception) -> None:
        self.detectors = tuple(d for d in self.detectors if d is not detector)
        self.listens = self._measures or bool(self.detectors)
        self.muted(detector, error)

    def _eject(self, endpoint: Endpoint, verdict: Eject, now: float) -> None:
        health: Health = endpoint.health
        if health.ejection.lasts(now) or self.members.get(endpoint.identity) is not endpoint:
            return
        ejected = sum(1 for e in self._out if e.health.ejection.lasts(now))
        total = sum(tier.open_count for tier in self.tiers)
        # Those that drain, or that a probe has found down, are nobody to leave the rest to.
        alone = not any(self._serves(other, now) for other in self.members.values() if other is not endpoint)
        if alone or not self.ejection.may_eject(ejected, total, connection=verdict.connection):
            if health.ejection.spare(now):
                reason = "nobody else is ready" if alone else f"{ejected} of {total} are out"
                self.changed(endpoint, f"stays in, since {reason}: {verdict.cause}")
            return
        health.ejection.eject(now, verdict.cause)
        self._out[endpoint] = None
        self.due = min(self.due, health.due())
        self.place(endpoint, now)
        self.tell(endpoint, f"ejected for {health.ejection.until - now:g} s: {verdict.cause}")

    def probed(self, endpoint: Endpoint, passed: bool, cause: str, now: float) -> None:
        """Takes one result of an active check."""
        machine = endpoint.health.probed
        if machine is None or self.members.get(endpoint.identity) is not endpoint:
            return
        count = machine.told(passed)
        if not count:
            return
        words = f"{count} probe{'s' * (count != 1)} " + ("passed" if passed else f"failed: {cause}")
        if passed and endpoint in self._out:
            # It was down and is up again: the ejection was about what is over now (so does Envoy).
            endpoint.health.ejection.shorten(now)
            endpoint.health.ejection.expire(now)
            del self._out[endpoint]
        self.place(endpoint, now)
        probation = ", on probation" if passed and endpoint.health.ejection.probation else ""
        self.tell(endpoint, f"{'up' if passed else 'down'}: {words}{probation}")

    def operate(self, endpoint: Endpoint, state: Literal["up", "drain"], now: float) -> None:
        """Takes an operator's word."""
        if endpoint.health.operator != state:
            endpoint.health.operator = state
            self.place(endpoint, now)
            self.tell(endpoint, "draining" if state == "drain" else "up again")

    def __repr__(self) -> str:
        return f"<Pool {self.name} members={len(self.members)} in_flight={self.in_flight}>"
