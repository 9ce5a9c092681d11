"""What a pool says of itself, what time makes due, and the limits that endpoints are seated by."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from router import Eject, Endpoint, EndpointSpec, Outcome
from router.policy.health import EjectionRule
from router.policy.limits import Limits
from router.policy.pool import Pool
from router.policy.waiting import Ticket
from router.testing import make_exchange

Build = Callable[..., Pool]
NEVER = float("inf")
FAILED = Outcome("failure", phase="connect")
WELL = Outcome("success", elapsed=0.01)


def spec(name: str, **fields: Any) -> EndpointSpec:
    return EndpointSpec(url=f"http://{name}.test", id=name, **fields)


def specs(names: str, **fields: Any) -> list[EndpointSpec]:
    return [spec(name, **fields) for name in names]


def usable(pool: Pool, now: float) -> str | None:
    """Names of the candidates in order; "" if all are full, None if nothing is ready."""
    found = pool.candidates(make_exchange(), now)
    return None if found is None else "".join(sorted(e.identity for e in found))


# Panic is said


class Probed:
    """A pool whose probes this test plays; it hears what the pool says of itself."""

    def __init__(self, pool: Pool, now: float) -> None:
        self.pool = pool
        self.now = now
        self.heard: list[str] = []
        pool.said = self.heard.append

    def up(self, names: str) -> list[str]:
        return self._told(names, True)

    def down(self, names: str) -> list[str]:
        return self._told(names, False)

    def _told(self, names: str, passed: bool) -> list[str]:
        for name in names:
            self.pool.probed(self.pool.members[name], passed, "x", self.now)
        return self.new()

    def new(self) -> list[str]:
        """What was said since this was asked last."""
        heard = list(self.heard)
        self.heard.clear()
        return heard


@pytest.fixture
def serving(build: Build, now: float) -> Callable[..., Probed]:
    """A pool that serves, with every endpoint up."""

    def make(endpoints: Any = 3, **settings: Any) -> Probed:
        made = Probed(build(endpoints, probe=(1, 1), **settings), now)
        made.up("".join(made.pool.members))
        made.pool.started()
        assert not made.new()
        return made

    return make


def test_the_beginning_and_the_end_are_said_once(serving: Callable[..., Probed]) -> None:
    probes = serving()
    assert probes.down("ab") == []
    assert probes.down("c") == ["0 of 3 endpoints ready: health is ignored, all are tried"]
    assert probes.up("b") == ["1 of 3 endpoints ready again"]
    assert probes.up("ac") == []
    assert probes.down("abc") == ["0 of 3 endpoints ready: health is ignored, all are tried"]


def test_refusing_is_said_too(serving: Callable[..., Probed]) -> None:
    probes = serving(when_few_ready="refuse")
    assert probes.down("abc") == ["0 of 3 endpoints ready: requests are refused"]
    assert usable(probes.pool, probes.now) is None


def test_few_ready_is_where_it_begins(serving: Callable[..., Probed]) -> None:
    probes = serving(4, few_ready=0.5)
    assert probes.down("a") == []
    assert probes.down("b") == ["2 of 4 endpoints ready: health is ignored, all are tried"]
    assert probes.down("cd") == []
    assert probes.up("ab") == []
    assert probes.up("c") == ["3 of 4 endpoints ready again"]


def test_of_several_tiers_each_is_named(serving: Callable[..., Probed]) -> None:
    probes = serving([*specs("ab"), *specs("cd", priority=3)])
    assert probes.down("cd") == ["tier 3: 0 of 2 endpoints ready: health is ignored, all are tried"]
    assert probes.down("ab") == ["tier 0: 0 of 2 endpoints ready: health is ignored, all are tried"]
    assert probes.up("d") == ["tier 3: 1 of 2 endpoints ready again"]
    assert probes.up("c") == []
    assert probes.up("a") == ["tier 0: 1 of 2 endpoints ready again"]


def test_an_ejections_end_and_an_operators_word_end_it(build: Build, now: float, scripted: Any) -> None:
    probes = Probed(build(2, detectors=[scripted], ejection=EjectionRule(base=30)), now)
    pool = probes.pool
    pool.started()
    a, b = pool.members.values()
    scripted.eject(pool, a, now)
    assert probes.new() == []
    pool.operate(b, "drain", now)
    assert probes.new() == ["0 of 1 endpoints ready: health is ignored, all are tried"]
    pool.tick(now + 30)
    assert probes.new() == ["1 of 1 endpoints ready again"]
    # The only one that may serve stays, whatever becomes of its probation.
    pool.told(a, FAILED, now + 31)
    assert probes.new() == []
    pool.operate(b, "up", now + 32)
    assert probes.new() == []


def test_an_update_repeats_nothing_and_may_begin_or_end_it(serving: Callable[..., Probed]) -> None:
    probes = serving(specs("ab"))
    pool, now = probes.pool, probes.now
    pool.update(specs("ba", zone="x"), now)
    assert probes.new() == []
    assert len(probes.down("ab")) == 1
    pool.update(specs("abc"), now)
    assert probes.new() == [], "c is not up yet"
    assert probes.up("c") == ["1 of 3 endpoints ready again"]
    pool.update(specs("ab"), now)
    assert probes.new() == ["0 of 2 endpoints ready: health is ignored, all are tried"]
    pool.update([spec("a", priority=1), spec("b")], now)
    assert probes.new() == ["tier 1: 0 of 1 endpoints ready: health is ignored, all are tried"]


def test_an_update_is_judged_once_it_is_complete(serving: Callable[..., Probed]) -> None:
    """Endpoints take their places one after the other: what is so in between is not said."""
    probes = serving(specs("ab"), few_ready=0.5)
    probes.down("a")
    probes.new()
    probes.up("a")
    probes.new()
    probes.pool.update([spec("b"), spec("a", weight=2)], probes.now)
    assert probes.new() == []


def test_a_pool_without_anybody_says_nothing(serving: Callable[..., Probed]) -> None:
    probes = serving(specs("ab"))
    probes.pool.update([], probes.now)
    assert probes.new() == []
    probes.pool.update(specs("ab", state="drain"), probes.now)
    assert probes.new() == []


def test_whom_the_operator_takes_out_in_panic_does_not_make_anybody_ready(serving: Callable[..., Probed]) -> None:
    probes = serving(specs("ab"))
    probes.down("ab")
    for endpoint in probes.pool.members.values():
        probes.pool.operate(endpoint, "drain", probes.now)
    assert not [words for words in probes.new() if words.endswith("ready again")]


@pytest.mark.parametrize(
    ("up", "said"),
    [("", ["0 of 3 endpoints ready: health is ignored, all are tried"]), ("b", []), ("abc", [])],
)
def test_before_the_first_request_nothing_is_said(build: Build, now: float, up: str, said: list[str]) -> None:
    probes = Probed(build(3, probe=(1, 1)), now)
    probes.down("abc")
    probes.up("abc")
    probes.down("".join(sorted(set("abc") - set(up))))
    assert probes.new() == []
    probes.pool.started()
    assert not probes.pool.starting
    assert probes.new() == said


# Membership is announced


def test_each_update_is_announced_when_it_is_complete(build: Build, now: float) -> None:
    pool = build(specs("ab"))
    seen: list[tuple[str, str | None]] = []
    pool.updated = lambda: seen.append(("".join(pool.members), usable(pool, now)))
    pool.update(specs("bc"), now)
    pool.update(specs("bc"), now)
    with pytest.raises(ValueError, match="twice"):
        pool.update(specs("dd"), now)
    assert seen == [("bc", "bc")], "an update without a change is none"


# What is due


def test_the_next_end_of_an_ejection_is_due(build: Build, now: float, scripted: Any) -> None:
    pool = build(4, detectors=[scripted], ejection=EjectionRule(base=30))
    a, b, c, _ = pool.members.values()
    assert pool.due == NEVER
    scripted.eject(pool, b, now + 5)
    assert pool.due == now + 35
    scripted.eject(pool, a, now)
    assert pool.due == now + 30
    scripted.eject(pool, c, now + 30)
    assert pool.due == now + 30
    assert usable(pool, now + 30) == "ad"
    assert pool.due == now + 35
    assert usable(pool, now + 40) == "abd"
    assert pool.due == now + 60
    pool.tick(now + 60)
    assert pool.due == NEVER
    assert usable(pool, now + 60) == "abcd"


def test_several_that_end_at_once(build: Build, now: float, scripted: Any) -> None:
    pool, heard = build(5, detectors=[scripted]), []
    for name in "abc":
        scripted.eject(pool, pool.members[name], now)
    pool.changed = lambda endpoint, cause: heard.append((endpoint.identity, cause))
    assert usable(pool, now + 30) == "abcde"
    assert sorted(heard) == [(name, "ejection over, on probation") for name in "abc"]
    assert pool.due == NEVER


def test_the_same_run_comes_to_the_same_order(build: Build, now: float, scripted: Any) -> None:
    """Law 7: chance is handed in. Where an object lies in memory must not decide who is chosen."""

    def order() -> list[str]:
        pool = build(10, detectors=[scripted], ejection=EjectionRule(base=30))
        kept.append(pool)
        for name in "hagbfc":
            scripted.eject(pool, pool.members[name], now)
        return [endpoint.identity for endpoint in pool.candidates(make_exchange(), now + 30)]

    kept: list[Any] = []
    first = order()
    for size in range(12):
        kept.append([object()] * (17 * size))
        assert order() == first


def test_whom_panic_tries_may_be_ejected_again(build: Build, now: float, scripted: Any) -> None:
    """The time is over, but nobody has noted it yet: there is one ejection, not two, and it is longer."""
    pool = build(2, detectors=[scripted], ejection=EjectionRule(base=30))
    a = pool.members["a"]
    scripted.eject(pool, a, now)
    scripted.eject(pool, a, now + 31)
    assert a.health.ejection.until == now + 31 + 60
    pool.tick(now + 90)
    assert pool.due == now + 91
    assert usable(pool, now + 91) == "ab"
    assert pool.due == NEVER


def test_a_removed_one_is_not_waited_for(build: Build, now: float, scripted: Any) -> None:
    pool = build(specs("abcd"), detectors=[scripted], ejection=EjectionRule(max_share=0.25))
    a, b = pool.members["a"], pool.members["b"]
    scripted.eject(pool, a, now, connection=False)
    scripted.eject(pool, b, now, connection=False)
    assert not b.health.ejection.lasts(now), "one of four may go"
    pool.update(specs("bcd"), now + 1)
    assert pool.due == NEVER or pool.due <= now + 30
    pool.tick(now + 1)
    assert pool.due == NEVER
    scripted.eject(pool, b, now + 1, connection=False)
    assert b.health.ejection.lasts(now + 1), "who has left takes nobody's place"


def test_who_was_ended_early_takes_nobodys_place(build: Build, now: float, scripted: Any) -> None:
    pool = build(3, detectors=[scripted], probe=(1, 1), ejection=EjectionRule(max_share=0.1))
    a, b, _ = pool.members.values()
    for endpoint in pool.members.values():
        pool.probed(endpoint, True, "", now)
    scripted.eject(pool, a, now, connection=False)
    pool.probed(a, False, "x", now + 1)
    pool.probed(a, True, "", now + 2)
    scripted.eject(pool, b, now + 2, connection=False)
    assert b.health.ejection.lasts(now + 2)
    pool.tick(now + 30)
    assert pool.due == now + 32


# The adaptive limit


def many(pool: Pool, endpoint: Endpoint, outcome: Outcome, now: float, *, times: int, load: int = 0) -> None:
    """Lets requests end one after the other, while `load` of them are open."""
    for _ in range(load):
        pool.acquire(endpoint, now)
    for _ in range(times):
        pool.told(endpoint, outcome, now)
    for _ in range(load):
        pool.release(endpoint, now)


def test_the_limit_of_an_endpoint_follows_its_outcomes(build: Build, now: float) -> None:
    pool = build(2, limits=Limits(adaptive="aimd"))
    a, b = pool.members.values()
    assert a.limit == b.limit == 20
    assert pool.listens
    many(pool, a, FAILED, now, times=20)
    assert a.limit < 20
    low = a.limit
    many(pool, a, FAILED, now, times=200)
    assert 1 <= a.limit < low
    low = a.limit
    many(pool, a, WELL, now, times=200, load=int(low))
    assert a.limit > low
    assert b.limit == 20


@pytest.mark.parametrize("adaptive", ["aimd", "gradient"])
@pytest.mark.parametrize(("per_endpoint", "first", "most"), [(3, 3, 3), (25, 20, 25), (NEVER, 20, 1000)])
def test_it_stays_under_the_fixed_one(
    build: Build, now: float, adaptive: str, per_endpoint: float, first: int, most: int
) -> None:
    pool = build(1, limits=Limits(per_endpoint=per_endpoint, adaptive=adaptive))
    a = pool.members["a"]
    assert a.limit == first
    seen = set()
    for _ in range(40):
        many(pool, a, WELL, now, times=30, load=int(a.limit))
        seen.add(a.limit)
    assert 1 <= min(seen) <= max(seen) <= most
    assert max(seen) == per_endpoint or per_endpoint == NEVER


def test_without_a_name_the_limit_is_fixed(build: Build, now: float) -> None:
    pool = build(1, limits=Limits(per_endpoint=7))
    many(pool, pool.members["a"], FAILED, now, times=300)
    assert pool.members["a"].limit == 7
    assert not pool.listens


def test_neutral_outcomes_move_nothing(build: Build, now: float) -> None:
    pool = build(1, limits=Limits(adaptive="aimd"))
    a = pool.members["a"]
    many(pool, a, Outcome("neutral", elapsed=9.0), now, times=300, load=20)
    assert a.limit == 20


def test_a_full_endpoint_leaves_the_candidates_and_comes_back(build: Build, now: float) -> None:
    pool = build(2, limits=Limits(adaptive="aimd"))
    a, b = pool.members.values()
    for _ in range(15):
        pool.acquire(a, now)
    assert usable(pool, now) == "ab"
    many(pool, a, FAILED, now, times=60)
    assert a.limit < 15
    assert usable(pool, now) == "b", "what is open is more than it may take now"
    pool.release(a, now)
    assert usable(pool, now) == "b"
    while a.load >= a.limit:
        pool.release(a, now)
    assert usable(pool, now) == "ab"
    while a.load < a.limit:
        pool.acquire(a, now)
    assert usable(pool, now) == "b"
    full = a.limit
    many(pool, a, WELL, now, times=60)
    assert a.limit > full
    assert usable(pool, now) == "ab", "its limit rose"
    assert b.limit == 20


def test_a_higher_limit_lets_waiting_ones_go_on(build: Build, now: float) -> None:
    pool = build(1, limits=Limits(queue=5, adaptive="aimd"))
    a = pool.members["a"]
    many(pool, a, FAILED, now, times=300)
    while a.load < a.limit:
        pool.acquire(a, now)
    assert usable(pool, now) == ""
    waiting = [pool.queue.park(Ticket(now + 9, admitted=False)) for _ in range(2)]
    assert pool.grant(now) is None
    before = a.limit
    while a.limit == before:
        pool.told(a, WELL, now)
    assert pool.grant(now) is waiting[0]


def test_an_update_keeps_what_was_found_out(build: Build, now: float) -> None:
    pool = build(specs("ab"), limits=Limits(adaptive="aimd"))
    a, b = pool.members.values()
    many(pool, a, FAILED, now, times=100)
    many(pool, b, FAILED, now, times=100)
    low = a.limit
    pool.update([spec("a", weight=3)], now)
    assert a.limit == low < 20
    pool.update(specs("ab"), now)
    assert a.limit == low
    assert pool.members["b"].limit == 20, "another object, of which nothing is known"


def test_on_probation_the_limit_is_one_all_the_same(build: Build, now: float, scripted: Any) -> None:
    pool = build(2, limits=Limits(adaptive="aimd"), detectors=[scripted], ejection=EjectionRule(base=30, rise=2))
    a = pool.members["a"]
    scripted.eject(pool, a, now)
    pool.tick(now + 30)
    assert a.limit == 1
    pool.told(a, WELL, now + 30)
    assert a.limit == 1
    pool.told(a, WELL, now + 30)
    assert a.limit == 20


def test_on_probation_more_than_one_means_no_more_than_was_found_out(build: Build, now: float, scripted: Any) -> None:
    pool = build(2, limits=Limits(adaptive="aimd"), detectors=[scripted], ejection=EjectionRule(base=30))
    a, b = pool.members.values()
    scripted.eject(pool, a, now)
    pool.operate(b, "drain", now)
    pool.tick(now + 30)
    for _ in range(20):
        assert usable(pool, now + 30) == "a"
        pool.acquire(a, now + 30)
    assert usable(pool, now + 30) == ""


def test_what_becomes_of_a_removed_one_moves_no_limit(build: Build, now: float) -> None:
    pool = build(specs("ab"), limits=Limits(adaptive="aimd"))
    a = pool.members["a"]
    pool.acquire(a, now)
    pool.update(specs("b"), now)
    many(pool, a, FAILED, now, times=300)
    assert a.limit == 20
    pool.release(a, now)
    assert usable(pool, now) == "b"


# Who listens


def test_with_the_last_detector_muted_nobody_listens(build: Build, now: float, scripted: Any) -> None:
    scripted.error = RuntimeError("boom")
    pool = build(2, detectors=[scripted])
    assert pool.listens
    pool.told(pool.members["a"], FAILED, now)
    assert not pool.listens
    other = build(2, detectors=[scripted], limits=Limits(adaptive="gradient"))
    other.told(other.members["a"], FAILED, now)
    assert other.detectors == ()
    assert other.listens, "the limit has to be found out all the same"


def test_a_verdict_of_one_that_has_left_is_no_ejection(build: Build, now: float) -> None:
    """A detector's own `observe` may be what removes an endpoint."""

    class Removing:
        def observe(self, endpoint: Endpoint, outcome: Outcome, now: float) -> Eject:
            pool.update(specs("bc"), now)
            return Eject("too late")

    pool = build(specs("abc"), detectors=[Removing()])
    a, heard = pool.members["a"], []
    pool.changed = lambda endpoint, cause: heard.append(cause)
    pool.told(a, FAILED, now)
    assert not a.health.ejection.lasts(now)
    assert (heard, pool.due) == ([], NEVER)
