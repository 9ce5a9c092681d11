"""What outcomes and probes come to: detectors asked, endpoints ejected and brought back, latencies measured.

The part of Pool that judges; it decides by the machines of health.py, and places by seating.py.
"""

from __future__ import annotations

from router.api import Detector
from router.model import Eject, Endpoint, Outcome
from router.policy.health import Health
from router.policy.quantiles import Quantile
from router.policy.roster import Roster

__all__ = ["Judging"]

#: The part of a new sample in an endpoint's average latency.
_SMOOTHING = 0.1


class Judging(Roster):
    """What Pool is made upon. See Pool for the arguments."""

    #: Of the pool's heads, where hedging goes by a quantile of it.
    _latency: Quantile | None
    hedge_after: float | None
    #: Whether outcomes are samples of latency to anybody.
    _measures: bool
    #: Whether outcomes are wanted.
    listens: bool

    def told(self, endpoint: Endpoint, outcome: Outcome, now: float) -> None:
        """Takes the outcome of a closed lease: probation first, then the detectors."""
        # Of one that left the pool, a detector would keep what nobody ever makes it forget.
        if endpoint.home is None and self.members.get(endpoint.identity) is not endpoint:
            return
        if endpoint.health.ejection.probation and outcome.result != "neutral":
            self._tried(endpoint, outcome, now)
        if outcome.elapsed is not None:
            before = endpoint.latency
            endpoint.latency = outcome.elapsed if before is None else before + (outcome.elapsed - before) * _SMOOTHING
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
            self.tell(endpoint, "back in service", now)

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
        self.silenced = (*self.silenced, detector)
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
        self.tell(endpoint, f"ejected for {health.ejection.until - now:g} s: {verdict.cause}", now)

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
        self.tell(endpoint, f"{'up' if passed else 'down'}: {words}{probation}", now)
