"""Pool and Dispatch together, driven through whatever order of events I/O can produce, with a clock that jumps.

The machine is the driver: it does what `next` says, reports what happened, and wakes what `grant` yields. It keeps its
own account of leases, places in the queue and tokens, and compares after each step.
"""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from router import Attempt, Candidates, Eject, Endpoint, EndpointSpec, Exchange, Members, Outcome
from router.errors import BodyError, ClientGone, ConnectError, ProtocolError, ResetError, RouterError, UpstreamTimeout
from router.policy.actions import Answer, Park, Relay, Retry, Sleep
from router.policy.dispatch import Dispatch
from router.policy.health import EjectionRule
from router.policy.limits import Limits
from router.policy.pool import Pool
from router.policy.retry import IDEMPOTENT, SAFE, Budget, RetryRule
from router.policy.waiting import Ticket
from router.testing import make_exchange

NAMES = "abcde"
METHODS = ["GET", "GET", "HEAD", "PUT", "DELETE", "POST", "PATCH"]
NEVER = float("inf")


class CountingBudget(Budget):
    """Remembers what was asked of it."""

    paid = 0
    refused = 0

    def withdraw(self, now: float) -> bool:
        got = super().withdraw(now)
        self.paid += got
        self.refused += not got
        return got


class Plugins:
    """Selector, affinity and detector of the pool: chance decides what they say."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.ejects = False

    def choose(self, candidates: Candidates, exchange: Exchange) -> Endpoint:
        assert candidates
        assert not set(candidates) & set(exchange.tried) or set(candidates) <= set(exchange.tried)
        return self.rng.choice(candidates)

    def find(self, members: Members, exchange: Exchange) -> Endpoint | None:
        return members.get(exchange.headers["x-pin"])

    def remember(self, *args: object) -> None:
        raise AssertionError("policy/ does not call this")

    def observe(self, endpoint: Endpoint, outcome: Outcome, now: float) -> Eject | None:
        assert outcome.result != "neutral"
        if outcome.result == "failure" and self.ejects:
            return Eject("chance", connection=self.rng.random() < 0.5)
        return None


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
        #: Tokens that its tries must and may have cost.
        self.least = self.most = 0

    @property
    def open(self) -> list[Attempt]:
        return [attempt for attempt in self.attempts if attempt.open]


class Traffic(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.driven: list[Driven] = []
        self.known: list[Endpoint] = []
        self.gone: Counter[Endpoint] = Counter()
        #: Tickets in the order in which they were parked.
        self.line: list[Ticket] = []
        self.granting = False

    @initialize(
        seed=st.integers(0, 1 << 16),
        names=st.integers(1, 4),
        per_endpoint=st.sampled_from([NEVER, 1, 1, 2]),
        in_flight=st.sampled_from([NEVER, 1, 2, 4]),
        queue=st.integers(0, 3),
        attempts=st.integers(0, 3),
        hedge=st.booleans(),
        statuses=st.booleans(),
        tokens=st.integers(0, 4),
        probe=st.booleans(),
        sticky=st.booleans(),
        shape=st.sampled_from(["flat", "flat", "tiers", "zones"]),
        refuse=st.booleans(),
        refuse_pins=st.booleans(),
    )
    def begin(self, seed: int, names: int, shape: str, **drawn: Any) -> None:
        self.shape, self.plugins = shape, Plugins(random.Random(seed))
        self.budget = CountingBudget(0.5, drawn["tokens"])
        self.limits = Limits(drawn["in_flight"], drawn["per_endpoint"], drawn["queue"], 1.0)
        on = ("connect", "reset", "timeout", *(("503",) if drawn["statuses"] else ()))
        self.pool = Pool(
            "web",
            self.plugins,
            rng=random.Random(seed),
            affinity=self.plugins if drawn["sticky"] else None,
            detectors=[self.plugins],
            limits=self.limits,
            retry=RetryRule(drawn["attempts"], on, hedge_after=0.05 if drawn["hedge"] else None),
            budget=self.budget,
            ejection=EjectionRule(base=2, longest=8, max_share=0.5),
            probe=(2, 1) if drawn["probe"] else None,
            when_few_ready="refuse" if drawn["refuse"] else "try_all",
            zone="here" if shape == "zones" else "",
            on_unready="refuse" if drawn["refuse_pins"] else "reselect",
        )
        self.pool.gone = lambda endpoint: self.gone.update([endpoint])
        self.pool.muted = self.fault
        self.join(NAMES[:names])

    def fault(self, plugin: object, error: Exception) -> None:
        raise error

    def join(self, names: str) -> None:
        def spec(index: int, name: str) -> EndpointSpec:
            return EndpointSpec(
                url=f"http://{name}.test",
                id=name,
                weight=1 + index % 2,
                priority=index % 2 if self.shape == "tiers" else 0,
                zone="here" if index < 2 else "there",
            )

        self.pool.update([spec(NAMES.index(name), name) for name in names], self.now)
        self.known += [e for e in self.pool.members.values() if e not in self.known]

    # The driver

    def wake(self) -> None:
        while (ticket := self.pool.grant()) is not None:
            assert ticket is self.line.pop(0), "not the first in the line"
            assert ticket.wake is not None
            ticket.wake()

    def advance(self, driven: Driven) -> None:
        driven.timer = None
        action = driven.dispatch.next(self.now)
        if isinstance(action, Attempt):
            self.opened(driven, action)
        elif isinstance(action, Answer):
            assert action.status == action.error.status
            assert not driven.open
            assert not driven.relayed
            self.finish(driven)
        elif isinstance(action, Park):
            self.parked(driven, action)
        elif isinstance(action, Sleep):
            assert self.now <= action.until <= self.now + 0.25
            assert driven.attempts
            assert not driven.open
            driven.ticket = None
            driven.timer = action.until
        else:
            assert driven.open, "nothing under way, and nothing to do"

    def parked(self, driven: Driven, action: Park) -> None:
        assert action.until > self.now
        assert not driven.open
        if driven.ticket is not action.ticket:
            self.line.append(action.ticket)
        driven.ticket, driven.timer = action.ticket, action.until
        action.ticket.wake = lambda: self.advance(driven)

    def opened(self, driven: Driven, attempt: Attempt) -> None:
        exchange, retry = driven.dispatch.exchange, self.pool.retry
        hedge = bool(driven.open)
        earlier = [a for a in driven.attempts if a.endpoint is attempt.endpoint]
        driven.ticket = None
        assert attempt.number == len(driven.attempts) <= retry.attempts
        assert not driven.relayed
        assert attempt.timeout > 0
        assert self.now < exchange.deadline
        if driven.attempts:
            assert not driven.body_gone
            assert exchange.method in IDEMPOTENT or not driven.on_wire, "sent twice"
        if hedge:
            assert exchange.method in SAFE
            assert not earlier
            assert self.now >= driven.open[-1].started + retry.hedge_after
            driven.least += 1
            driven.most += 1
        elif driven.attempts:
            driven.least += all(driven.failures)
            driven.most += any(driven.failures)
        self.admissible(exchange, attempt.endpoint)
        driven.failures = []
        driven.attempts.append(attempt)
        if attempt.hedge_after is not None:
            driven.timer = self.now + attempt.hedge_after

    def admissible(self, exchange: Exchange, endpoint: Endpoint) -> None:
        pool, health = self.pool, endpoint.health
        assert pool.members.get(endpoint.identity) is endpoint
        assert endpoint.load <= endpoint.limit
        if exchange.pinned is endpoint and health.is_healthy(self.now):
            return
        assert health.operator == "up"
        if not health.is_ready(self.now):
            tier = [e for e in pool.members.values() if e.spec.priority == endpoint.spec.priority]
            assert pool.when_few_ready == "try_all"
            assert not any(e.health.is_ready(self.now) for e in tier), "panic without need"

    def finish(self, driven: Driven) -> None:
        if driven.over:
            return
        driven.over = True
        driven.timer = None
        if driven.ticket is not None and driven.ticket in self.line:
            self.line.remove(driven.ticket)
        driven.dispatch.close(self.now)
        driven.dispatch.close(self.now)
        self.wake()

    def pick(self, data: st.DataObject, *, on_wire: bool) -> tuple[Driven, Attempt] | None:
        open_now = [
            (driven, attempt)
            for driven in self.driven
            for attempt in driven.open
            if (attempt.number in driven.on_wire) is on_wire and attempt.head_at is None
        ]
        return data.draw(st.sampled_from(open_now)) if open_now else None

    def failed(self, driven: Driven, attempt: Attempt, error: RouterError, sent: bool) -> None:
        driven.failures.append(sent)
        driven.dispatch.failed(attempt, error, sent, self.now)
        assert not attempt.open
        assert attempt.final is not None
        assert attempt.final.result == "failure"
        if not driven.open:
            driven.timer = None
        self.wake()
        if not driven.over:
            self.advance(driven)

    # What may happen

    @rule(
        method=st.sampled_from(METHODS),
        pin=st.sampled_from(NAMES),
        time=st.sampled_from([NEVER, NEVER, 0.03, 2.0]),
    )
    def arrive(self, method: str, pin: str, time: float) -> None:
        exchange = make_exchange(method, headers={"X-Pin": pin})
        exchange.deadline = self.now + time
        driven = Driven(Dispatch(self.pool, exchange))
        self.driven.append(driven)
        waiting = bool(self.line)
        self.advance(driven)
        assert not (waiting and driven.attempts), "passed those who wait"

    @rule(data=st.data(), body=st.booleans())
    def send(self, data: st.DataObject, body: bool) -> None:
        picked = self.pick(data, on_wire=False)
        if picked is not None:
            driven, attempt = picked
            attempt.sent_at = self.now
            driven.on_wire.add(attempt.number)
            if driven.dispatch.exchange.method not in SAFE:
                driven.body_gone = driven.body_gone or body
                driven.dispatch.body_taken(replayable=not driven.body_gone)

    @rule(data=st.data(), ejects=st.booleans())
    def refuse_connection(self, data: st.DataObject, ejects: bool) -> None:
        picked = self.pick(data, on_wire=False)
        if picked is not None:
            self.plugins.ejects = ejects
            self.failed(*picked, ConnectError(), sent=False)

    @rule(data=st.data(), ejects=st.booleans(), error=st.sampled_from([ResetError, ProtocolError, UpstreamTimeout]))
    def break_off(self, data: st.DataObject, ejects: bool, error: type[RouterError]) -> None:
        picked = self.pick(data, on_wire=True)
        if picked is not None:
            self.plugins.ejects = ejects
            self.failed(*picked, error(), sent=True)

    @rule(data=st.data(), status=st.sampled_from([200, 200, 404, 500, 503]), ejects=st.booleans())
    def answer(self, data: st.DataObject, status: int, ejects: bool) -> None:
        picked = self.pick(data, on_wire=True)
        if picked is None:
            return
        self.plugins.ejects = ejects
        driven, attempt = picked
        verdict = driven.dispatch.head(attempt, status, self.now)
        if isinstance(verdict, Retry):
            assert status in self.pool.retry.statuses
            assert driven.dispatch.exchange.method in IDEMPOTENT
            driven.failures.append(True)
            driven.dispatch.ended(attempt, None, self.now)
            if not driven.open:
                driven.timer = None
            self.wake()
            if not driven.over:
                self.advance(driven)
            return
        assert isinstance(verdict, Relay)
        assert set(verdict.cancel) == {a for a in driven.open if a is not attempt}
        driven.relayed, driven.timer = True, None
        for beaten in verdict.cancel:
            driven.dispatch.ended(beaten, ClientGone("beaten"), self.now)
            assert beaten.final.result == "neutral"
        self.wake()

    @rule(data=st.data(), well=st.booleans())
    def end_body(self, data: st.DataObject, well: bool) -> None:
        relaying = [driven for driven in self.driven if driven.relayed and not driven.over]
        if relaying:
            driven = data.draw(st.sampled_from(relaying))
            (attempt,) = driven.open
            driven.dispatch.ended(attempt, None if well else BodyError(), self.now)
            driven.dispatch.ended(attempt, ResetError(), self.now)
            self.finish(driven)

    @rule(data=st.data())
    def client_leaves(self, data: st.DataObject) -> None:
        present = [driven for driven in self.driven if not driven.over]
        if present:
            self.finish(data.draw(st.sampled_from(present)))

    @rule(data=st.data())
    def ask_early(self, data: st.DataObject) -> None:
        """A timer that was late in being cancelled asks `next` once more."""
        present = [driven for driven in self.driven if not driven.over and (driven.open or driven.ticket)]
        if present:
            driven = data.draw(st.sampled_from(present))
            timer = driven.timer
            self.advance(driven)
            if not driven.over and driven.timer is None:
                driven.timer = timer

    @rule(seconds=st.sampled_from([0.0, 0.01, 0.06, 0.3, 1.0, 2.0, 10.0]))
    def time_passes(self, seconds: float) -> None:
        end = self.now + seconds
        while True:
            timers = [(driven.timer, n) for n, driven in enumerate(self.driven) if driven.timer is not None]
            until, n = min([*timers, (self.pool.due, -1)])
            if until > end:
                break
            self.now = max(self.now, until)
            if n < 0:
                self.pool.tick(self.now)
                self.wake()
            else:
                self.advance(self.driven[n])
        self.now = end

    @rule(data=st.data(), passed=st.booleans())
    def probe_ends(self, data: st.DataObject, passed: bool) -> None:
        self.pool.probed(data.draw(st.sampled_from(self.known)), passed, "probe", self.now)
        self.wake()

    @rule(data=st.data(), state=st.sampled_from(["up", "up", "drain"]))
    def operator_speaks(self, data: st.DataObject, state: Any) -> None:
        self.pool.operate(data.draw(st.sampled_from(self.known)), state, self.now)
        self.wake()

    @precondition(lambda self: len(self.known) < 12)
    @rule(names=st.sets(st.sampled_from(NAMES), max_size=4))
    def members_change(self, names: set[str]) -> None:
        self.join("".join(sorted(names)))
        self.wake()

    # What must hold, whatever happened

    def ready(self) -> bool:
        return hasattr(self, "pool")

    @precondition(ready)
    @invariant()
    def leases_are_the_open_attempts(self) -> None:
        open_now = Counter(attempt.endpoint for driven in self.driven for attempt in driven.open)
        for endpoint in self.known:
            assert endpoint.load == open_now[endpoint]
        for driven in self.driven:
            assert set(driven.dispatch.live) == set(driven.open)
            assert not (driven.over and driven.open)

    @precondition(ready)
    @invariant()
    def in_flight_counts_the_admitted(self) -> None:
        present = [driven for driven in self.driven if not driven.over]
        admitted = [driven for driven in present if driven.ticket is None or driven.ticket.admitted]
        assert self.pool.in_flight == len(admitted) <= self.limits.in_flight

    @precondition(ready)
    @invariant()
    def the_queue_is_the_line(self) -> None:
        assert list(self.pool.queue.tickets) == self.line
        assert len(self.line) <= self.limits.queue

    @precondition(ready)
    @invariant()
    def nobody_waits_while_there_is_room(self) -> None:
        if not self.line:
            return
        if not self.line[0].admitted and self.pool.in_flight >= self.limits.in_flight:
            return
        members = list(self.pool.members.values())
        for endpoint in members:
            if endpoint.health.operator == "up" and endpoint.load < endpoint.limit:
                tier = [e for e in members if e.spec.priority == endpoint.spec.priority]
                panic = self.pool.when_few_ready == "try_all" and not any(e.health.is_ready(self.now) for e in tier)
                assert not endpoint.health.is_ready(self.now), "room beside a queue"
                assert not panic, "room in panic beside a queue"

    @precondition(ready)
    @invariant()
    def endpoints_stand_where_their_state_says(self) -> None:
        homes = {id(e.home): e.home for e in self.known if e.home is not None}
        for home in homes.values():
            assert all(e.home is home and home[e.slot] is e and e in home for e in home)
        for endpoint in self.known:
            member = self.pool.members.get(endpoint.identity) is endpoint
            usable = member and endpoint.health.is_ready(self.now) and endpoint.load < endpoint.limit
            assert (endpoint.home is not None) is usable
            assert (endpoint.slot >= 0) is usable

    @precondition(ready)
    @invariant()
    def tokens_are_paid_for_what_was_sent(self) -> None:
        assert sum(driven.least for driven in self.driven) <= self.budget.paid
        assert self.budget.paid <= sum(driven.most for driven in self.driven)

    @precondition(ready)
    @invariant()
    def the_removed_go_once_when_idle(self) -> None:
        for endpoint in self.known:
            removed = self.pool.members.get(endpoint.identity) is not endpoint
            assert self.gone[endpoint] == (removed and endpoint.load == 0)

    def teardown(self) -> None:
        if not self.ready():
            return
        for driven in self.driven:
            self.finish(driven)
        assert self.pool.in_flight == 0
        assert not self.pool.queue.tickets
        assert not any(endpoint.load for endpoint in self.known)
        for driven in self.driven:
            assert all(attempt.final is not None for attempt in driven.attempts)


TestTraffic = Traffic.TestCase
TestTraffic.settings = settings(
    max_examples=120,
    stateful_step_count=50,
    deadline=None,
    report_multiple_bugs=False,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
