"""What the machine of test_dispatch_machine.py plays with, and the account that it keeps of each endpoint by itself.

The account knows the law from DESIGN and FIELD, not the code: it is told of results, verdicts and time, and says what
state the endpoint must be in and what must have been announced.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from typing import Any

from router import Attempt, Candidates, Eject, Endpoint, Exchange, Members, Outcome
from router.policy.dispatch import Dispatch
from router.policy.retry import Budget
from router.policy.waiting import Ticket

#: The settings of every pool that the machine makes.
FALL, RISE, BASE, LONGEST, MAX_SHARE = 2, 2, 0.5, 1.25, 0.5


class CountingBudget(Budget):
    """Remembers what was asked of it."""

    paid = 0

    def withdraw(self, now: float) -> bool:
        got = super().withdraw(now)
        self.paid += got
        return got


class Plugins:
    """Selector, affinity and detector of the pool: chance decides what they say."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        #: The results after which the detector wants the endpoint out.
        self.ejects: tuple[str, ...] = ()
        self.heard: Counter[Outcome] = Counter()
        #: Called with each outcome and what the detector said of it.
        self.said: Callable[[Endpoint, Outcome, Eject | None, float], None] = lambda *args: None

    def choose(self, candidates: Candidates, exchange: Exchange) -> Endpoint:
        assert candidates
        assert not set(candidates) & set(exchange.tried) or set(candidates) <= set(exchange.tried)
        return self.rng.choice(candidates)

    def find(self, members: Members, exchange: Exchange) -> Endpoint | None:
        return members.get(exchange.headers["x-pin"])

    def remember(self, *args: object) -> None:
        raise AssertionError("policy/ does not call this")

    def observe(self, endpoint: Endpoint, outcome: Outcome, now: float) -> Eject | None:
        self.heard[outcome] += 1
        verdict = Eject("chance", connection=self.rng.random() < 0.5) if outcome.result in self.ejects else None
        self.said(endpoint, outcome, verdict, now)
        return verdict


class Driven:
    """One exchange and its driver's notes."""

    def __init__(self, dispatch: Dispatch) -> None:
        self.dispatch = dispatch
        self.ticket: Ticket | None = None
        self.timer: float | None = None
        self.attempts: list[Attempt] = []
        self.on_wire: set[int] = set()
        self.relayed = False
        self.over = False
        #: What failed since the last attempt was opened, by whether anything of it was sent.
        self.failures: list[bool] = []
        self.body_gone = False
        #: Attempts at an endpoint that is out of order.
        self.panics = 0
        #: Tokens that its tries must and may have cost.
        self.least = self.most = 0

    @property
    def open(self) -> list[Attempt]:
        return [attempt for attempt in self.attempts if attempt.open]


class Account:
    """One endpoint's state, worked out anew."""

    def __init__(self, endpoint: Endpoint, *, probed: bool, now: float) -> None:
        self.endpoint = endpoint
        self.spec = endpoint.spec
        self.operator: Any = endpoint.spec.state
        #: All results of its probe; None where there is none.
        self.results: list[bool] | None = [] if probed else None
        self.up = not probed
        self.until = 0.0
        self.spared = float("-inf")
        self.times = 0
        self.successes = 0
        self.state = "in"
        #: What must have been announced, and what was.
        self.expected: list[str] = []
        self.announced: list[str] = []
        #: When it was last seen not ready, or changed.
        self.since = now

    def respecified(self, spec: Any, now: float) -> None:
        if spec.state != self.spec.state:
            self.operate(spec.state)
            self.since = now
        if not self.spec.weight:
            self.since = now
        self.spec = spec

    # The three machines

    def probe(self, passed: bool, now: float) -> None:
        assert self.results is not None
        first = not self.results
        ever = any(self.results)
        self.results.append(passed)
        row = next((n for n, result in enumerate(reversed(self.results)) if result is not passed), len(self.results))
        if passed and not self.up and (not ever or row >= RISE):
            self.up = True
            many = RISE if ever else 1
            if self.state == "out":
                self.state, self.successes, self.until = "trial", 0, min(self.until, now)
            probation = ", on probation" if self.state == "trial" else ""
            self.expected.append(f"up: {many} probe{'s' if many > 1 else ''} passed{probation}")
        elif not passed and (first or (self.up and row >= FALL)):
            self.up = False
            many = 1 if first else FALL
            self.expected.append(f"down: {many} probe{'s' if many > 1 else ''} failed: why")

    def operate(self, state: Any) -> None:
        if self.operator != state:
            self.operator = state
            self.expected.append("draining" if state == "drain" else "up again")

    def told(
        self, outcome: Outcome, verdict: Eject | None, others_out: int, total: int, alone: bool, now: float
    ) -> None:
        """An outcome, and what the detector said of it. `alone`: nobody else is ready."""
        if self.state == "trial" and outcome.result == "failure":
            self.successes = 0
            connection = outcome.phase != "head" or not outcome.status
            self._eject(Eject(f"{outcome.cause} on probation", connection), others_out, total, alone, now)
        elif self.state == "trial" and outcome.result == "success":
            self.successes += 1
            if self.successes == RISE:
                self.state = "in"
                self.expected.append("back in service")
        if verdict is not None:
            self._eject(verdict, others_out, total, alone, now)

    def _eject(self, verdict: Eject, others_out: int, total: int, alone: bool, now: float) -> None:
        most = total - 1 if verdict.connection else min(total - 1, max(1, int(MAX_SHARE * total)))
        if self.is_out(now):
            return
        if alone or others_out + 1 > most:
            if now - self.spared >= BASE:
                reason = "nobody else is ready" if alone else f"{others_out} of {total} are out"
                self.expected.append(f"stays in, since {reason}: {verdict.cause}")
            self.spared = now
            return
        if self.state != "trial" and now - self.until > LONGEST:
            self.times = 0
        self.times += 1
        seconds = min(BASE * self.times, LONGEST)
        self.state, self.until = "out", now + seconds
        self.expected.append(f"ejected for {self.until - now:g} s: {verdict.cause}")

    def ended(self, now: float) -> None:
        """The pool says that the ejection is over."""
        assert self.state == "out"
        assert now >= self.until, "before its time"
        self.state, self.successes = "trial", 0
        self.expected.append("ejection over, on probation" if self.up else "ejection over, still down")

    # What follows

    def is_out(self, now: float) -> bool:
        return self.state == "out" and now < self.until

    def is_healthy(self, now: float) -> bool:
        return self.up and not self.is_out(now)

    @property
    def is_open(self) -> bool:
        return self.operator == "up" and self.spec.weight > 0

    def is_ready(self, now: float) -> bool:
        return self.is_open and self.is_healthy(now)

    def describe(self, now: float) -> str:
        if self.operator == "drain":
            return "draining"
        if not self.up:
            return "down" if self.results else "not probed yet"
        if self.is_out(now):
            return "ejected"
        return "on probation" if self.state == "trial" else "ready"
