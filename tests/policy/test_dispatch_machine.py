"""Pool and Dispatch together, driven through whatever order of events I/O can produce, with a clock that jumps.

The machine is the driver: it does what `next` says, reports what happened, and wakes what `grant` yields. It keeps its
own account of endpoints, leases, places in the queue and tokens (accounts.py), and compares after each step.
"""

from __future__ import annotations

import importlib.util
import random
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from router import Attempt, Eject, Endpoint, EndpointSpec, Exchange, Outcome
from router.errors import BodyError, ClientGone, ConnectError, ProtocolError, ResetError, RouterError, UpstreamTimeout
from router.policy.actions import Answer, Park, Relay, Retry, Sleep
from router.policy.dispatch import Dispatch
from router.policy.health import EjectionRule
from router.policy.limits import Limits
from router.policy.pool import Pool
from router.policy.retry import IDEMPOTENT, SAFE, Budget, RetryRule
from router.policy.slowstart import SlowStart
from router.policy.waiting import Ticket
from router.testing import make_exchange

_spec = importlib.util.spec_from_file_location("policy_accounts", Path(__file__).with_name("accounts.py"))
assert _spec is not None
assert _spec.loader is not None
accounts = sys.modules[_spec.name] = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(accounts)
Account, CountingBudget, Driven, Plugins = accounts.Account, accounts.CountingBudget, accounts.Driven, accounts.Plugins

NAMES = "abcde"
METHODS = ["GET", "GET", "HEAD", "PUT", "DELETE", "POST", "PATCH"]
NEVER = float("inf")
WINDOW = 6.0
#: Results after which the detector ejects.
EJECTING = [(), (), (), ("failure",), ("failure", "neutral"), ("failure", "success", "neutral")]
#: Weight, priority, zone and state of an endpoint.
SPEC = st.tuples(
    st.sampled_from([1, 1, 1, 2, 2, 2, 0]),
    st.integers(0, 1),
    st.booleans(),
    st.sampled_from(["up", "up", "up", "up", "up", "up", "drain"]),
)
#: Name, how often, and when it can be.
EVENTS: list[tuple[str, int, Callable[[Any], Any]]] = []


def happens(often: int, when: Callable[[Any], Any] = lambda machine: True) -> Callable[[Any], Any]:
    def noted(event: Any) -> Any:
        EVENTS.append((event.__name__, often, when))
        return event

    return noted


def sent(machine: Any) -> Any:
    return machine.under_way(on_wire=True)


def unsent(machine: Any) -> Any:
    return machine.under_way(on_wire=False)


class Traffic(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.driven: list[Any] = []
        self.known: dict[Endpoint, Any] = {}
        self.gone: Counter[Endpoint] = Counter()
        #: Tickets in the order in which they were parked, by the endpoint that they wait for; None for any.
        self.lines: dict[Endpoint | None, list[Ticket]] = {}

    @initialize(
        seed=st.integers(0, 1 << 16),
        specs=st.lists(SPEC, min_size=1, max_size=4),
        per_endpoint=st.sampled_from([NEVER, 1, 1, 2]),
        in_flight=st.sampled_from([NEVER, 1, 2, 4]),
        queue=st.integers(0, 3),
        adaptive=st.sampled_from(["", "", "aimd", "gradient"]),
        attempts=st.integers(0, 3),
        hedge=st.sampled_from(["", "time", "quantile"]),
        statuses=st.booleans(),
        tokens=st.integers(0, 4),
        probe=st.booleans(),
        sticky=st.booleans(),
        shape=st.sampled_from(["flat", "flat", "tiers", "zones"]),
        few_ready=st.sampled_from([0.0, 0.0, 0.5]),
        refuse=st.booleans(),
        refuse_pins=st.booleans(),
        slow=st.booleans(),
        found=st.lists(st.sampled_from([True, True, False]), min_size=4, max_size=4),
        started=st.sampled_from([True, True, False]),
    )
    def begin(self, seed: int, specs: list[Any], shape: str, found: list[bool], started: bool, **drawn: Any) -> None:
        self.shape, self.plugins = shape, Plugins(random.Random(seed))
        self.plugins.said = self.heard
        self.budget = CountingBudget(0.5, drawn["tokens"])
        self.limits = Limits(drawn["in_flight"], drawn["per_endpoint"], drawn["queue"], 1.0, drawn["adaptive"])
        on = ("connect", "reset", "timeout", *(("503",) if drawn["statuses"] else ()))
        hedge = {"": {}, "time": {"hedge_after": 0.05}, "quantile": {"hedge_share": 0.9}}[drawn["hedge"]]
        self.probing = drawn["probe"]
        self.settings = {
            "affinity": self.plugins if drawn["sticky"] else None,
            "detectors": [self.plugins],
            "limits": self.limits,
            "retry": RetryRule(drawn["attempts"], on, **hedge),
            "ejection": EjectionRule(accounts.BASE, accounts.LONGEST, accounts.MAX_SHARE, accounts.RISE),
            "probe": (accounts.FALL, accounts.RISE) if self.probing else None,
            "when_few_ready": "refuse" if drawn["refuse"] else "try_all",
            "few_ready": drawn["few_ready"],
            "zone": "here" if shape == "zones" else "",
            "on_unready": "refuse" if drawn["refuse_pins"] else "reselect",
            "slow_start": SlowStart(WINDOW if drawn["slow"] else 0),
        }
        self.pool = Pool("web", self.plugins, rng=random.Random(seed), budget=self.budget, **self.settings)
        self.pool.gone = lambda endpoint: self.gone.update([endpoint])
        self.pool.muted = self.fault
        self.pool.changed = self.announced
        self.join(dict(zip(NAMES, specs, strict=False)))
        self.warm()
        for account, passed in zip(self.members if self.probing else [], found, strict=False):
            self.probe(account, [passed])
        if started:
            self.pool.started()

    def warm(self) -> None:
        """Enough answers for a quantile, and failures that bring an adaptive limit down."""
        detectors, self.pool.detectors = self.pool.detectors, ()
        members = list(self.pool.members.values())
        for _ in range(100 if self.pool.retry.hedge_share else 0):
            self.pool.told(members[0], Outcome("neutral", elapsed=0.05), self.now)
        while self.limits.adaptive and any(endpoint.limit > 2 for endpoint in members):
            for endpoint in members:
                self.pool.told(endpoint, Outcome("failure", phase="head"), self.now)
        self.pool.detectors = detectors

    def fault(self, plugin: object, error: Exception) -> None:
        raise error

    def join(self, specs: dict[str, Any]) -> None:
        made = [
            EndpointSpec(
                url=f"http://{name}.test",
                id=name,
                weight=weight,
                priority=priority if self.shape == "tiers" else 0,
                zone="here" if own else "there",
                state=state,
            )
            for name, (weight, priority, own, state) in specs.items()
        ]
        self.pool.update(made, self.now)
        for endpoint in self.pool.members.values():
            if endpoint not in self.known:
                self.known[endpoint] = Account(endpoint, probed=self.probing, now=self.now)
            self.known[endpoint].respecified(endpoint.spec, self.now)

    # The account

    @property
    def present(self) -> list[Any]:
        return [driven for driven in self.driven if not driven.over]

    @property
    def relaying(self) -> list[Any]:
        return [driven for driven in self.present if driven.relayed]

    def pick(self) -> Any:
        """An endpoint, rarely one that has left."""
        return self.draw([*self.members * 4, *self.known.values()])

    @property
    def members(self) -> list[Any]:
        return [self.known[endpoint] for endpoint in self.pool.members.values()]

    def announced(self, endpoint: Endpoint, cause: str) -> None:
        account = self.known[endpoint]
        if cause.startswith("ejection over"):
            account.ended(self.now)
        account.announced.append(cause)
        account.since = self.now

    def heard(self, endpoint: Endpoint, outcome: Outcome, verdict: Eject | None, now: float) -> None:
        assert now == self.now
        out = sum(other.is_out(now) for other in self.members)
        account = self.known[endpoint]
        alone = not any(other.is_ready(now) for other in self.members if other is not account)
        account.told(outcome, verdict, out, sum(other.is_open for other in self.members), alone, now)

    def tier_of(self, account: Any) -> list[Any]:
        return [other for other in self.members if other.spec.priority == account.spec.priority]

    def few(self, tier: list[Any]) -> bool:
        ready = sum(account.is_ready(self.now) for account in tier)
        return ready <= self.pool.few_ready * sum(account.is_open for account in tier)

    def offered(self) -> list[Any]:
        """Whom a request may be sent to as far as health goes, room left aside."""
        found = []
        for account in self.members:
            few = self.few(self.tier_of(account))
            if account.is_open if few and self.pool.when_few_ready == "try_all" else account.is_ready(self.now):
                found += [] if few and self.pool.when_few_ready == "refuse" else [account]
        return found

    def most(self, endpoint: Endpoint) -> float:
        adaptive = self.pool._adaptive.get(endpoint)
        return self.limits.per_endpoint if adaptive is None else adaptive.limit

    # The driver

    def wake(self) -> None:
        while (ticket := self.pool.grant(self.now)) is not None:
            for endpoint, line in self.lines.items():
                passed = line and line[0].number < ticket.number
                assert not (passed and endpoint is not None and self.is_free(endpoint)), "one that waits longer"
            self.granted(ticket)
            assert ticket.wake is not None
            ticket.wake()

    def advance(self, driven: Any) -> None:
        driven.timer = None
        action = driven.dispatch.next(self.now)
        ticket = driven.ticket
        if ticket is not None and ticket.granted and ticket in self.line_of(ticket):
            self.granted(ticket)
        elif ticket is not None and getattr(action, "ticket", None) is not ticket and ticket in self.line_of(ticket):
            assert self.now >= ticket.until
            self.line_of(ticket).remove(ticket)
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

    def parked(self, driven: Any, action: Park) -> None:
        assert self.now < action.ticket.until
        assert action.until <= action.ticket.until
        assert not driven.open
        if driven.ticket is not action.ticket:
            self.line_of(action.ticket).append(action.ticket)
        driven.ticket, driven.timer = action.ticket, action.until
        action.ticket.wake = lambda: self.advance(driven)

    def opened(self, driven: Any, attempt: Attempt) -> None:
        exchange, retry = driven.dispatch.exchange, self.pool.retry
        hedge = bool(driven.open)
        earlier = [a for a in driven.attempts if a.endpoint is attempt.endpoint]
        assert attempt.hedge == hedge
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
            assert self.now >= driven.open[-1].started + driven.open[-1].hedge_after
            driven.least += 1
            driven.most += 1
        elif driven.attempts:
            driven.least += all(driven.failures)
            driven.most += any(driven.failures)
        self.admissible(exchange, attempt.endpoint)
        driven.failures = []
        driven.attempts.append(attempt)
        driven.panics += not self.known[attempt.endpoint].is_healthy(self.now)
        if attempt.hedge_after is not None:
            assert attempt.hedge_after == self.pool.hedge_after
            driven.timer = self.now + attempt.hedge_after

    def admissible(self, exchange: Exchange, endpoint: Endpoint) -> None:
        account = self.known[endpoint]
        assert self.pool.members.get(endpoint.identity) is endpoint
        if exchange.pinned is endpoint and account.is_healthy(self.now) and endpoint.load <= endpoint.limit:
            return
        assert account.is_open, "drained, or of weight 0"
        if not account.is_ready(self.now):
            assert self.few(self.tier_of(account)), "panic without need"
        assert account in self.offered()
        if endpoint.load > endpoint.limit:
            assert account.state == "trial"
            assert endpoint.load <= self.most(endpoint)
            if not self.few(self.tier_of(account)):
                others = [other for other in self.offered() if other is not account]
                assert not any(map(self.has_room, others)), "more than one on trial without need"

    def has_room(self, account: Any) -> bool:
        """Where health is ignored, probation is."""
        endpoint = account.endpoint
        return endpoint.load < (self.most(endpoint) if self.few(self.tier_of(account)) else endpoint.limit)

    def finish(self, driven: Any) -> None:
        if driven.over:
            return
        driven.over = True
        driven.timer = None
        if driven.ticket is not None and driven.ticket in self.line_of(driven.ticket):
            self.line_of(driven.ticket).remove(driven.ticket)
        driven.dispatch.close(self.now)
        driven.dispatch.close(self.now)
        self.wake()

    def line_of(self, ticket: Ticket) -> list[Ticket]:
        return self.lines.setdefault(ticket.endpoint, [])

    def granted(self, ticket: Ticket) -> None:
        assert ticket is self.line_of(ticket).pop(0), "not the first in the line"
        if ticket.endpoint is not None:
            assert self.is_free(ticket.endpoint)

    def is_free(self, endpoint: Endpoint) -> bool:
        """Whether nobody has to wait for this endpoint: it has room, or cannot be used anyway."""
        member = self.pool.members.get(endpoint.identity) is endpoint
        return endpoint.load < endpoint.limit or not member or not self.known[endpoint].is_healthy(self.now)

    def under_way(self, *, on_wire: bool) -> list[tuple[Any, Attempt]]:
        """What waits for a response head, or to be sent."""
        return [
            (driven, attempt)
            for driven in self.driven
            for attempt in driven.open
            if (attempt.number in driven.on_wire) is on_wire and attempt.head_at is None
        ]

    def send(self, driven: Any, attempt: Attempt, *, body: bool) -> None:
        attempt.sent_at = self.now
        driven.on_wire.add(attempt.number)
        if driven.dispatch.exchange.method not in SAFE:
            driven.body_gone = driven.body_gone or body
            driven.dispatch.body_taken(replayable=not driven.body_gone)

    def failed(self, driven: Any, attempt: Attempt, error: RouterError, sent: bool) -> None:
        driven.failures.append(sent)
        driven.dispatch.failed(attempt, error, sent, self.now)
        assert not attempt.open
        assert attempt.final is not None
        assert attempt.final.result == "failure"
        self.go_on(driven)

    def go_on(self, driven: Any) -> None:
        """After an attempt that came to nothing."""
        if not driven.open:
            driven.timer = None
        self.wake()
        if not driven.over:
            self.advance(driven)

    # What may happen

    @rule(data=st.data())
    def something_happens(self, data: st.DataObject) -> None:
        """One rule: with one for each event, hypothesis leaves most of them out of most runs."""
        self.drawn = data
        names = [name for name, often, when in EVENTS for _ in range(often) if when(self)]
        getattr(self, self.draw(names))()
        self.wake()
        self.pass_time(0.0)

    def draw(self, values: Any) -> Any:
        return self.drawn.draw(st.sampled_from(values))

    @happens(10)
    def arrive(self) -> None:
        method, pin, time = self.draw(METHODS), self.draw(NAMES), self.draw([NEVER, NEVER, 0.03, 2.0])
        goes_out, tell = self.draw([True, True, False]), self.draw([False, True])
        for _ in range(self.draw([1, 1, 2, 4])):
            exchange = make_exchange(method, headers={"X-Pin": pin})
            exchange.deadline = self.now + time
            driven = Driven(Dispatch(self.pool, exchange, tell))
            self.driven.append(driven)
            # Nobody waits any more for one that is out: they are about to be woken.
            waiting = {e for e, line in self.lines.items() if line and (e is None or not self.is_free(e))}
            self.advance(driven)
            assert not (driven.attempts and {None, driven.attempts[0].endpoint} & waiting), "passed those who wait"
            if goes_out and driven.open:
                self.send(driven, driven.open[0], body=False)

    @happens(5, unsent)
    def is_sent(self) -> None:
        self.send(*self.draw(unsent(self)), body=self.draw([False, True]))

    @happens(4, unsent)
    def refuse_connection(self) -> None:
        self.plugins.ejects = self.draw(EJECTING)
        self.failed(*self.draw(unsent(self)), ConnectError(), sent=False)

    @happens(4, sent)
    def break_off(self) -> None:
        self.plugins.ejects = self.draw(EJECTING)
        error = self.draw([ResetError, ProtocolError, UpstreamTimeout])()
        self.failed(*self.draw(sent(self)), error, sent=True)

    @happens(4, sent)
    def answer(self) -> None:
        self.plugins.ejects = self.draw(EJECTING)
        self.answered(*self.draw(sent(self)), self.draw([200, 404, 500, 501, 503, 503, 101]))

    @happens(6, sent)
    def answer_whole(self) -> None:
        """The way most exchanges go."""
        self.plugins.ejects = self.draw(EJECTING)
        for driven, attempt in sent(self)[: self.draw([1, 2, 4])]:
            if attempt.open and not driven.relayed:
                self.answered(driven, attempt, 200)
                self.body_ended(driven, None)

    def answered(self, driven: Any, attempt: Attempt, status: int) -> None:
        verdict = driven.dispatch.head(attempt, status, self.now)
        final = {500: "failure", 503: "failure", 101: "success"}.get(status)
        assert (attempt.final and attempt.final.result) == final
        if isinstance(verdict, Retry):
            assert status in self.pool.retry.statuses
            assert driven.dispatch.exchange.method in IDEMPOTENT
            driven.failures.append(True)
            driven.dispatch.ended(attempt, None, self.now)
            self.go_on(driven)
            return
        assert isinstance(verdict, Relay)
        assert set(verdict.cancel) == {a for a in driven.open if a is not attempt}
        driven.relayed, driven.timer = True, None
        for beaten in verdict.cancel:
            driven.dispatch.ended(beaten, ClientGone("beaten"), self.now)
            assert beaten.final.result == "neutral"
        self.wake()

    @happens(4, lambda self: self.relaying)
    def end_body(self) -> None:
        self.plugins.ejects = self.draw(EJECTING)
        self.body_ended(self.draw(self.relaying), self.draw([None, BodyError()]))

    def body_ended(self, driven: Any, error: RouterError | None) -> None:
        (attempt,) = driven.open
        driven.dispatch.ended(attempt, error, self.now)
        driven.dispatch.ended(attempt, ResetError(), self.now)
        self.finish(driven)

    @happens(2, lambda self: self.present)
    def client_leaves(self) -> None:
        self.plugins.ejects = self.draw(EJECTING)
        self.finish(self.draw(self.present))

    @happens(3, lambda self: self.known)
    def others_are_served(self) -> None:
        """Outcomes of exchanges that the machine does not drive: they clear probation, move limits and eject."""
        self.plugins.ejects = self.draw(EJECTING)
        account, times, head = self.pick(), self.draw([1, 2, 20]), self.draw([True, False])
        result = self.draw(["success", "success", "failure", "neutral"])
        before = sum(self.plugins.heard.values())
        for _ in range(times):
            phase = "head" if result == "failure" else ""
            outcome = Outcome(result, phase=phase, status=503 * head, elapsed=0.04 if head else None)
            self.pool.told(account.endpoint, outcome, self.now)
        assert sum(self.plugins.heard.values()) - before == times * (account in self.members)
        self.wake()

    @happens(2, lambda self: [driven for driven in self.present if driven.open or driven.ticket])
    def ask_early(self) -> None:
        """A timer that was late in being cancelled asks `next` once more."""
        driven = self.draw([driven for driven in self.present if driven.open or driven.ticket])
        timer = driven.timer
        self.advance(driven)
        if not driven.over and driven.timer is None:
            driven.timer = timer

    @happens(8)
    def time_passes(self) -> None:
        self.pass_time(self.draw([0.0, 0.01, 0.06, 0.3, 1.0, 2.0, 10.0]))

    def pass_time(self, seconds: float) -> None:
        end, fired = self.now + seconds, 0
        while True:
            timed = [driven for driven in self.driven if driven.timer is not None]
            until = min((driven.timer for driven in timed), default=NEVER)
            if until > end:
                break
            fired = fired + 1 if until <= self.now else 0
            assert fired < 100, "timers that fire again and again"
            self.now = max(self.now, until)
            # Those that are due at once fire in any order.
            self.advance(self.plugins.rng.choice([driven for driven in timed if driven.timer <= self.now]))
            self.wake()
        self.now = end

    @happens(1)
    def somebody_looks(self) -> None:
        self.pool.tick(self.now)
        self.wake()

    @happens(4, lambda self: self.probing and self.known)
    def probes_end(self) -> None:
        self.probe(self.pick(), self.draw([[True], [False], [True, True], [False, False], [True, False]]))

    def probe(self, account: Any, results: list[bool]) -> None:
        for passed in results:
            if account in self.members:
                account.probe(passed, self.now)
            self.pool.probed(account.endpoint, passed, "why", self.now)
            self.wake()

    @happens(2, lambda self: self.known)
    def operator_speaks(self) -> None:
        account, state = self.pick(), self.draw(["up", "up", "drain"])
        account.operate(state)
        self.pool.operate(account.endpoint, state, self.now)
        self.wake()

    @happens(1, lambda self: len(self.known) < 15)
    def reload(self) -> None:
        """Another set of endpoints; some of them are given other settings."""
        self.join(self.drawn.draw(st.dictionaries(st.sampled_from(NAMES), SPEC, max_size=5)))
        self.wake()

    @happens(2, lambda self: len(self.known) < 15)
    def reload_a_little(self) -> None:
        """One more, one less, or one with other settings."""
        specs = {name: self.as_it_is(endpoint) for name, endpoint in self.pool.members.items()}
        name = self.draw(NAMES)
        if specs.pop(name, None) is None or self.draw([True, False]):
            specs[name] = self.drawn.draw(SPEC)
        self.join(specs)
        self.wake()

    @happens(1)
    def resettle(self) -> None:
        """A reload that changes something about the pool, and leaves what the account goes by as it was."""
        budget = Budget(self.budget.share, self.budget.reserve)
        self.pool.resettle(Pool("web", self.plugins, rng=random.Random(0), budget=budget, **self.settings), self.now)
        self.wake()

    def as_it_is(self, endpoint: Endpoint) -> tuple[Any, ...]:
        spec = endpoint.spec
        return spec.weight, spec.priority, spec.zone == "here", spec.state

    # What must hold, whatever happened

    @precondition(lambda self: hasattr(self, "pool"))
    @invariant()
    def all_is_well(self) -> None:
        self.leases_are_the_open_attempts()
        self.outcomes_are_told_once()
        self.in_flight_counts_the_admitted()
        self.the_queue_is_the_line()
        self.nobody_waits_while_there_is_room()
        self.health_is_as_accounted_for()
        self.endpoints_stand_where_their_state_says()
        self.weights_rise_to_what_is_configured()
        self.tokens_are_paid_for_what_was_sent()
        self.the_removed_go_once_when_idle()
        self.observers_can_tell_what_has_happened()

    def leases_are_the_open_attempts(self) -> None:
        open_now = Counter(attempt.endpoint for driven in self.driven for attempt in driven.open)
        for endpoint in self.known:
            assert endpoint.load == open_now[endpoint]
        for driven in self.driven:
            assert set(driven.dispatch.live) == set(driven.open)
            assert not (driven.over and driven.open)

    def outcomes_are_told_once(self) -> None:
        for driven in self.driven:
            for attempt in driven.attempts:
                told = 0 if attempt.open else self.plugins.heard[attempt.final]
                member = self.known[attempt.endpoint] in self.members
                assert told == (not attempt.open) if member else told <= 1

    def in_flight_counts_the_admitted(self) -> None:
        admitted = [driven for driven in self.present if driven.ticket is None or driven.ticket.admitted]
        assert self.pool.in_flight == len(admitted) <= self.limits.in_flight

    def the_queue_is_the_line(self) -> None:
        queue, everybody = self.pool.queue, [ticket for line in self.lines.values() for ticket in line]
        assert list(queue.tickets) == self.lines.get(None, [])
        pinned = {endpoint: line for endpoint, line in self.lines.items() if endpoint is not None and line}
        assert {endpoint: list(line) for endpoint, line in queue.pinned.items()} == pinned
        assert len(everybody) == queue.waiting <= self.limits.queue
        waiting = {driven.ticket: driven.timer for driven in self.present if driven.ticket}
        for ticket in everybody:
            assert self.now < ticket.until or self.now == waiting[ticket], "forgotten"
            assert waiting[ticket] is not None, "nobody would wake it"

    def nobody_waits_while_there_is_room(self) -> None:
        if self.now >= self.pool.due:
            # What became due after they were parked is noted when somebody looks, which their own end is at the latest.
            return
        assert not any(
            line and endpoint is not None and self.is_free(endpoint) for endpoint, line in self.lines.items()
        )
        line = self.lines.get(None)
        if not line or (not line[0].admitted and self.pool.in_flight >= self.limits.in_flight):
            return
        for account in self.offered():
            endpoint = account.endpoint
            assert endpoint.load >= (self.most(endpoint) if account.state == "trial" else endpoint.limit), "room"

    def health_is_as_accounted_for(self) -> None:
        for account in self.known.values():
            assert account.announced == account.expected
            ejection = account.endpoint.health.ejection
            assert ejection.until - self.now <= accounts.LONGEST
            assert account.endpoint.health.describe(self.now).partition(" (")[0] == account.describe(self.now)
        for account in self.members:
            assert account.endpoint.health.ejection.out == (account.state == "out")
            assert account.state != "out" or self.pool.due <= account.until, "nobody would end it"

    def endpoints_stand_where_their_state_says(self) -> None:
        homes = {id(e.home): e.home for e in self.known if e.home is not None}
        for home in homes.values():
            assert all(e.home is home and home[e.slot] is e and e in home for e in home)
        for endpoint, account in self.known.items():
            if account not in self.members:
                assert (endpoint.home, endpoint.slot) == (None, -1)
            elif self.now < self.pool.due:
                usable = account.is_ready(self.now) and endpoint.load < endpoint.limit
                assert (endpoint.home is not None) is usable
                assert (endpoint.slot >= 0) is usable
                assert endpoint.limit == (1 if account.state == "trial" else self.most(endpoint))
                assert 1 <= endpoint.limit <= self.limits.per_endpoint
        if self.now < self.pool.due and not self.pool.starting:
            for tier in self.pool.tiers:
                assert tier.few_told == self.few([self.known[e] for e in tier.members]) or not tier.open_count

    def weights_rise_to_what_is_configured(self) -> None:
        slow = self.pool.slow_start
        for account in self.members:
            weight, whole = account.endpoint.weight, account.spec.weight
            assert whole * slow.least <= weight <= whole
            if not account.is_ready(self.now):
                account.since = self.now
            full = not slow.window or self.pool.starting or account.state == "out" or not account.is_open
            if self.now < self.pool.due and (full or self.now - account.since >= slow.window):
                assert weight == whole
            assert weight == whole or self.pool.due <= self.now + 1 or self.now >= self.pool.due

    def tokens_are_paid_for_what_was_sent(self) -> None:
        assert sum(driven.least for driven in self.driven) <= self.budget.paid
        assert self.budget.paid <= sum(driven.most for driven in self.driven)
        seconds = int(self.now) - 1000 + 1
        assert self.budget.paid <= self.budget.share * len(self.driven) + self.budget.reserve * seconds

    def the_removed_go_once_when_idle(self) -> None:
        for endpoint, account in self.known.items():
            assert self.gone[endpoint] == (account not in self.members and endpoint.load == 0)

    def observers_can_tell_what_has_happened(self) -> None:
        for driven in self.driven:
            exchange = driven.dispatch.exchange
            if not driven.dispatch.tell:
                assert (exchange.attempts, exchange.notes) == ((), ())
                continue
            assert exchange.attempts == tuple(driven.attempts)
            self.attempts_follow_each_other(exchange.attempts)
            self.notes_tell_of_what_was_done(driven, exchange)

    def attempts_follow_each_other(self, attempts: tuple[Attempt, ...]) -> None:
        for before, attempt in zip((None, *attempts), attempts, strict=False):
            assert attempt.ended_at == 0 if attempt.open else attempt.started <= attempt.ended_at <= self.now
            if before is not None:
                assert before.started <= attempt.started
                earlier = attempts[: attempt.number]
                still = [a for a in earlier if a.open or a.ended_at >= attempt.started]
                assert still if attempt.hedge else not any(a.open or a.ended_at > attempt.started for a in earlier)
        assert not (attempts and attempts[0].hedge)

    def notes_tell_of_what_was_done(self, driven: Any, exchange: Exchange) -> None:
        notes, told = exchange.notes, Counter(note.name for note in exchange.notes)
        assert [note.at for note in notes] == sorted(note.at for note in notes)
        assert not notes or exchange.started <= notes[0].at <= notes[-1].at <= self.now
        more = [(note.name, note.endpoint) for note in notes if note.name in ("retry", "hedge")]
        assert more == [("hedge" if a.hedge else "retry", a.endpoint.identity) for a in driven.attempts[1:]]
        assert told["panic"] == driven.panics
        waits = [note.name for note in notes if note.name in ("queued", "left queue")]
        assert waits == ["queued", "left queue"] * (len(waits) // 2) + ["queued"] * (len(waits) % 2)
        assert driven.over or len(waits) % 2 == (driven.ticket is not None)
        broken = {note.endpoint for note in notes if note.name == "pin broken"}
        assert broken <= ({exchange.pinned.identity} if exchange.pinned is not None else set())
        assert not told["no retry"] or driven.over or driven.relayed
        assert told.total() == len(more) + len(waits) + sum(told[name] for name in ("panic", "pin broken", "no retry"))

    def teardown(self) -> None:
        if not hasattr(self, "pool"):
            return
        self.pass_time(10.0)
        assert not any(self.lines.values()), "nobody waits for ever"
        for driven in self.driven:
            self.finish(driven)
        self.somebody_looks()
        assert not any(account.state == "out" for account in self.members if account.until <= self.now)
        assert self.pool.in_flight == 0
        assert not self.pool.queue.waiting
        assert not any(endpoint.load for endpoint in self.known)
        for driven in self.driven:
            assert all(attempt.final is not None for attempt in driven.attempts)


#: On a busy machine it takes four times as long as on a quiet one.
pytestmark = pytest.mark.timeout(300)
TestTraffic = Traffic.TestCase
TestTraffic.settings = settings(
    max_examples=40,
    stateful_step_count=50,
    deadline=None,
    report_multiple_bugs=False,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
