"""Three small machines per endpoint (probe, ejection, operator) and the one rule for "ready".

    ready = the probe, if any, is up   and   no ejection lasts   and   the operator says "up"

Each machine is told of events with `now` and says whether anything changed; none knows a clock. The law of ejection: an
endpoint is out for base x times ejected, at most max; after it, one request at a time until `rise` successes; the
first failure before that ejects again, for longer. Source: FIELD notes on Envoy's outlier detection and Finagle.
"""

from __future__ import annotations

from typing import Literal

__all__ = ["Ejection", "EjectionRule", "Health", "Probed"]

_NEVER = float("inf")


class Probed:
    """What active checks say. Starts unknown, which counts as down until the first pass.

    Args:
        fall: failures in a row that take it down.
        rise: passes in a row that bring it back; the very first pass of all is enough.
        up: what it is taken for until the first result: what serves already does not stop when checks begin.
    """

    __slots__ = ("_passed", "_streak", "fall", "known", "rise", "up")

    def __init__(self, fall: int = 3, rise: int = 2, *, up: bool = False) -> None:
        self.fall = fall
        self.rise = rise
        self.up = up
        self.known = False
        self._passed = up
        self._streak = 0

    @property
    def changing(self) -> bool:
        """Whether the last results speak against the state: the next one is wanted soon."""
        return self._streak > 0

    def told(self, passed: bool) -> int:
        """Takes one result.

        Returns:
            How many results in a row have just changed the state, or made it known for the first time; 0 if none did.
        """
        if passed == self.up:
            self._streak = 0
            first, self.known = not self.known, True
            return int(first)
        self._streak += 1
        needed = (self.rise if self._passed else 1) if passed else self.fall
        self.known = True
        if self._streak < needed:
            return 0
        self.up = passed
        self._passed = True
        self._streak = 0
        return needed


class EjectionRule:
    """The pool's settings: seconds and shares."""

    __slots__ = ("base", "longest", "max_share", "rise")

    def __init__(self, base: float = 30.0, longest: float = 300.0, max_share: float = 0.1, rise: int = 2) -> None:
        self.base = base
        self.longest = longest
        self.max_share = max_share
        self.rise = rise

    def may_eject(self, ejected: int, total: int, *, connection: bool) -> bool:
        """Whether one more of `total` may go: failures of the connection itself may take all but the last."""
        if connection:
            return ejected + 1 < total
        return total > 1 and ejected + 1 <= max(1, int(self.max_share * total + 1e-9))


class Ejection:
    """What real traffic says."""

    __slots__ = ("_spared", "_successes", "cause", "count", "out", "probation", "rule", "times", "until")

    def __init__(self, rule: EjectionRule) -> None:
        self.rule = rule
        self.until = 0.0
        #: Ejections in a row, and all.
        self.times = 0
        self.count = 0
        self.probation = False
        self.cause = ""
        self.out = False
        self._successes = 0
        self._spared = -_NEVER

    def eject(self, now: float, cause: str) -> None:
        # A long quiet time since the last one makes the next one short again.
        if not self.probation and now - self.until > self.rule.longest:
            self.times = 0
        self.times += 1
        self.count += 1
        self.until = now + min(self.rule.base * self.times, self.rule.longest)
        self.probation = False
        self.cause = cause
        self.out = True

    def spare(self, now: float) -> bool:
        """It would have been ejected, but too many are out already; True if that has not been said lately."""
        lately, self._spared = now - self._spared < self.rule.base, now
        return not lately

    def lasts(self, now: float) -> bool:
        return now < self.until

    def expire(self, now: float) -> bool:
        """Ends the ejection if its time is over; True if it did, and probation begins."""
        if self.probation or not self.times or now < self.until or not self.out:
            return False
        self.probation = True
        self.out = False
        self._successes = 0
        return True

    def shorten(self, now: float) -> None:
        """Ends an ejection now rather than later: something other than time says that the endpoint is well again."""
        self.until = min(self.until, now)

    def told(self, success: bool) -> Literal["", "cleared", "again"]:
        """Takes an outcome during probation: "cleared" after `rise` successes, "again" at the first failure."""
        if not self.probation:
            return ""
        if not success:
            self._successes = 0
            return "again"
        self._successes += 1
        if self._successes < self.rule.rise:
            return ""
        self.probation = False
        self.cause = ""
        return "cleared"


class Health:
    """The three machines of one endpoint."""

    __slots__ = ("cause", "ejection", "operator", "probed", "since")

    def __init__(
        self, rule: EjectionRule, probed: Probed | None = None, operator: Literal["up", "drain"] = "up"
    ) -> None:
        self.probed = probed
        self.ejection = Ejection(rule)
        #: What the configuration or an operator wants: "up" or "drain".
        self.operator: Literal["up", "drain"] = operator
        #: What was said at the last change of state, and when; "" and None if there was none.
        self.cause = ""
        self.since: float | None = None

    def resettle(self, rule: EjectionRule, probe: tuple[int, int] | None) -> None:
        """Takes other settings: what is known of the endpoint stays, and one that was never probed stays up."""
        self.ejection.rule = rule
        if probe is None:
            self.probed = None
        elif self.probed is None:
            self.probed = Probed(*probe, up=True)
        else:
            self.probed.fall, self.probed.rise = probe

    def is_healthy(self, now: float) -> bool:
        """What checks and traffic say, the operator left aside: what affinity asks of a pinned endpoint."""
        return (self.probed is None or self.probed.up) and not self.ejection.lasts(now)

    def is_ready(self, now: float) -> bool:
        """The one rule."""
        return self.operator == "up" and self.is_healthy(now)

    def due(self) -> float:
        """The next moment at which time alone changes something."""
        ejection = self.ejection
        return ejection.until if ejection.out else _NEVER

    def state(self, now: float) -> str:
        """One word or two for status pages."""
        if self.operator == "drain":
            return "draining"
        if self.probed is not None and not self.probed.up:
            return "down" if self.probed.known else "not probed yet"
        if self.ejection.lasts(now):
            return "ejected"
        return "on probation" if self.ejection.probation else "ready"

    def describe(self, now: float) -> str:
        """The same with the cause of an ejection."""
        state = self.state(now)
        return f"ejected ({self.ejection.cause})" if state == "ejected" else state
