"""A pool: membership, places, the one order, leases, the queue, outcomes."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from router import Candidates, Eject, Endpoint, EndpointSpec, Outcome
from router.policy.health import EjectionRule
from router.policy.limits import Limits
from router.policy.pool import Pool
from router.policy.retry import RetryRule
from router.policy.waiting import Ticket
from router.testing import make_exchange

Build = Callable[..., Pool]
FAILED = Outcome("failure", phase="connect")
WELL = Outcome("success")


def spec(name: str, **fields: Any) -> EndpointSpec:
    return EndpointSpec(url=f"http://{name}.test", id=name, **fields)


def specs(names: str, **fields: Any) -> list[EndpointSpec]:
    return [spec(name, **fields) for name in names]


def usable(pool: Pool, now: float) -> str | None:
    """Names of the candidates in order; "" if all are full, None if nothing is ready."""
    found = pool.candidates(make_exchange(), now)
    return None if found is None else "".join(sorted(e.identity for e in found))


def consistent(pool: Pool) -> None:
    for endpoint in pool.members.values():
        if endpoint.home is None:
            assert endpoint.slot == -1
        else:
            assert endpoint.home[endpoint.slot] is endpoint


# Membership


def test_an_empty_pool_has_nobody(build: Build, now: float) -> None:
    pool = build(0)
    assert usable(pool, now) is None
    assert pool.grant(now) is None
    assert "web" in repr(pool)


def test_the_same_identity_keeps_its_object_its_leases_and_its_health(build: Build, now: float, scripted: Any) -> None:
    pool = build(specs("abc"), detectors=[scripted])
    a, b = pool.members["a"], pool.members["b"]
    pool.acquire(a, now)
    scripted.eject(pool, b, now)
    pool.update([spec("b", weight=5), spec("a", weight=3, zone="z"), spec("d")], now)
    assert pool.members["a"] is a
    assert (a.load, a.spec.weight, a.weight, a.spec.zone) == (1, 3, 3, "z")
    assert pool.members["b"] is b
    assert b.health.ejection.lasts(now)
    assert usable(pool, now) == "ad"
    consistent(pool)


def test_the_selector_is_told_of_all_members_at_each_update(build: Build, now: float) -> None:
    pool = build(specs("ab"))
    pool.update(specs("bc"), now)
    told = pool.selector.updates
    assert [[e.identity for e in endpoints] for endpoints in told] == [["a", "b"], ["b", "c"]]
    assert told[0][1] is told[1][0]


def test_a_selector_need_not_listen(build: Build, now: float) -> None:
    class Deaf:
        def choose(self, candidates: Candidates, exchange: object) -> Endpoint:
            return candidates[0]

    assert usable(build(2, Deaf()), now) == "ab"


def test_another_address_under_the_same_identity_is_another_server(build: Build, now: float) -> None:
    pool = build([EndpointSpec(url="http://10.0.0.1:80", id="a")])
    gone: list[Endpoint] = []
    pool.gone = gone.append
    before = pool.members["a"]
    pool.acquire(before, now)
    pool.update([EndpointSpec(url="http://10.0.0.2:81", id="a")], now)
    after = pool.members["a"]
    assert after is not before
    assert str(after.address) == "http://10.0.0.2:81"
    assert (after.load, before.load) == (0, 1)
    assert list(pool.candidates(make_exchange(), now) or ()) == [after]
    assert not gone
    pool.release(before, now)
    assert gone == [before]


def test_another_way_to_write_the_same_address_is_the_same_server(build: Build, now: float) -> None:
    pool = build([EndpointSpec(url="http://10.0.0.1:80", id="a")])
    before = pool.members["a"]
    pool.update([EndpointSpec(url="http://10.0.0.1/", id="a")], now)
    assert pool.members["a"] is before


@pytest.mark.parametrize("again", [spec("a"), spec("a", weight=2)])
def test_the_same_identity_twice_is_refused_and_changes_nothing(build: Build, now: float, again: EndpointSpec) -> None:
    pool = build(specs("xy"))
    with pytest.raises(ValueError, match=r"'a'.*twice"):
        pool.update([spec("a"), again], now)
    assert usable(pool, now) == "xy"


def test_the_very_same_value_twice_is_refused_too(build: Build, now: float) -> None:
    pool, one = build(specs("xy")), spec("a")
    with pytest.raises(ValueError, match=r"'a'.*twice"):
        pool.update([one, one], now)


def test_a_set_with_a_bad_address_changes_nothing(build: Build, now: float) -> None:
    pool = build(specs("ab"))
    with pytest.raises(ValueError, match=r"\w"):
        pool.update([EndpointSpec(url="http://a.test", id="a"), EndpointSpec(url="nonsense", id="c")], now)
    assert usable(pool, now) == "ab"
    assert set(pool.members) == {"a", "b"}


def test_a_removed_endpoint_goes_at_once_if_idle(build: Build, now: float, scripted: Any) -> None:
    pool, gone = build(specs("ab"), detectors=[scripted]), []
    pool.gone = gone.append
    a = pool.members["a"]
    pool.update(specs("b"), now)
    assert gone == [a]
    assert scripted.forgotten == [a]
    assert usable(pool, now) == "b"
    assert (a.home, a.slot) == (None, -1)


@pytest.mark.parametrize("limit", [float("inf"), 2, 1])
def test_a_removed_endpoint_goes_when_its_last_lease_closes(build: Build, now: float, limit: float) -> None:
    pool, gone = build(specs("ab"), limits=Limits(per_endpoint=limit)), []
    pool.gone = gone.append
    a = pool.members["a"]
    leases = int(min(limit, 2))
    for _ in range(leases):
        pool.acquire(a, now)
    pool.update(specs("b"), now)
    for left in range(leases, 0, -1):
        assert (gone, a.load) == ([], left)
        pool.release(a, now)
    assert gone == [a]
    assert usable(pool, now) == "b"


def test_one_that_comes_back_is_a_new_one_beside_its_old_leases(build: Build, now: float) -> None:
    pool, gone = build(specs("ab")), []
    pool.gone = gone.append
    old = pool.members["a"]
    pool.acquire(old, now)
    pool.update(specs("b"), now)
    pool.update(specs("ab"), now)
    new = pool.members["a"]
    assert new is not old
    assert new.load == 0
    pool.release(old, now)
    assert gone == [old]
    assert usable(pool, now) == "ab"
    consistent(pool)


def test_what_is_said_of_a_removed_endpoint_changes_no_list(build: Build, now: float, scripted: Any) -> None:
    pool = build(specs("abc"), detectors=[scripted], probe=(1, 1))
    for endpoint in pool.members.values():
        pool.probed(endpoint, True, "", now)
    a = pool.members["a"]
    pool.update([spec("b", priority=1), spec("c", priority=1)], now)
    pool.operate(a, "drain", now)
    pool.operate(a, "up", now)
    pool.probed(a, False, "x", now)
    pool.probed(a, True, "x", now)
    scripted.eject(pool, a, now)
    assert usable(pool, now) == "bc"
    assert a.home is None


@pytest.mark.parametrize("detectors", [0, 1])
def test_a_detector_need_not_forget(build: Build, now: float, detectors: int) -> None:
    class Watcher:
        def observe(self, endpoint: Endpoint, outcome: Outcome, now: float) -> None:
            return None

    pool = build(specs("ab"), detectors=[Watcher()] * detectors)
    pool.update(specs("b"), now)
    assert usable(pool, now) == "b"


# The one order


def test_the_operator_and_weight_0_come_first(build: Build, now: float) -> None:
    pool = build([spec("a"), spec("b", state="drain"), spec("c", weight=0), spec("d")])
    assert usable(pool, now) == "ad"
    pool.operate(pool.members["a"], "drain", now)
    assert usable(pool, now) == "d"
    pool.operate(pool.members["d"], "drain", now)
    assert usable(pool, now) is None, "no panic asks the draining, nor weight 0"
    pool.operate(pool.members["b"], "up", now)
    assert usable(pool, now) == "b"


def test_a_weight_may_become_0_and_more_again(build: Build, now: float) -> None:
    pool = build(specs("ab"))
    pool.update([spec("a", weight=0), spec("b")], now)
    assert usable(pool, now) == "b"
    pool.update([spec("a", weight=2), spec("b")], now)
    assert usable(pool, now) == "ab"


def test_a_reload_that_says_drain_drains_and_one_that_says_nothing_new_does_not(build: Build, now: float) -> None:
    pool = build(specs("ab"))
    pool.operate(pool.members["b"], "drain", now)
    pool.update([spec("a", state="drain"), spec("b", weight=2)], now)
    assert usable(pool, now) is None
    pool.update([spec("a"), spec("b", weight=2)], now)
    assert usable(pool, now) == "a", "b was drained by hand, and stays so"


def test_an_operators_word_is_announced_once(build: Build, now: float) -> None:
    pool, heard = build(2), []
    pool.changed = lambda endpoint, cause: heard.append((endpoint.identity, cause))
    a = pool.members["a"]
    for state in ("drain", "drain", "up", "up"):
        pool.operate(a, state, now)
    assert heard == [("a", "draining"), ("a", "up again")]


def test_a_pool_with_a_probe_waits_for_the_first_pass(build: Build, now: float) -> None:
    pool = build(2, probe=(3, 2), when_few_ready="refuse")
    heard = []
    pool.changed = lambda endpoint, cause: heard.append(cause)
    assert usable(pool, now) is None
    pool.probed(pool.members["b"], True, "200", now)
    assert usable(pool, now) == "b"
    for _ in range(3):
        pool.probed(pool.members["b"], False, "refused", now)
    assert usable(pool, now) is None
    assert heard == ["up: 1 probe passed", "down: 3 probes failed: refused"]


def test_a_result_for_a_pool_without_a_probe_says_nothing(build: Build, now: float) -> None:
    pool = build(1)
    pool.probed(pool.members["a"], False, "x", now)
    assert usable(pool, now) == "a"


def test_what_the_first_probe_finds_is_said_and_the_rest_only_when_it_changes(build: Build, now: float) -> None:
    pool, heard = build(2, probe=(3, 2)), []
    pool.changed = lambda endpoint, cause: heard.append((endpoint.identity, cause))
    a, b = pool.members["a"], pool.members["b"]
    for passed in (False, False, True, True, False, False, False, False, True, False, True, True, True):
        pool.probed(a, passed, "timeout", now)
    pool.probed(b, False, "refused", now)
    assert heard == [
        ("a", "down: 1 probe failed: timeout"),
        ("a", "up: 1 probe passed"),
        ("a", "down: 3 probes failed: timeout"),
        ("a", "up: 2 probes passed"),
        ("b", "down: 1 probe failed: refused"),
    ]


def test_a_result_for_one_that_left_says_nothing(build: Build, now: float) -> None:
    pool, heard = build(specs("ab"), probe=(1, 1)), []
    a = pool.members["a"]
    pool.update(specs("b"), now)
    pool.update(specs("ab"), now)
    pool.changed = lambda endpoint, cause: heard.append(cause)
    pool.probed(a, True, "", now)
    assert (heard, a.health.probed.known) == ([], False)
    assert not pool.members["a"].health.probed.up


@pytest.mark.parametrize(("when", "found"), [("try_all", "ab"), ("refuse", None)])
def test_panic_is_when_none_of_the_tier_is_ready(build: Build, now: float, when: str, found: str | None) -> None:
    pool = build([*specs("ab"), spec("c", state="drain")], probe=(1, 1), when_few_ready=when)
    assert usable(pool, now) == found
    pool.probed(pool.members["a"], True, "", now)
    assert usable(pool, now) == "a"


@pytest.mark.parametrize(("ready", "found"), [(4, "abcd"), (3, "abc"), (2, "abcd"), (1, "abcd")])
def test_few_ready_raises_the_threshold_of_panic(build: Build, now: float, ready: int, found: str) -> None:
    pool = build(4, probe=(1, 1), few_ready=0.5)
    for endpoint in list(pool.members.values())[:ready]:
        pool.probed(endpoint, True, "", now)
    assert usable(pool, now) == found


def test_a_lower_tier_serves_when_the_higher_is_down(build: Build, now: float) -> None:
    pool = build([*specs("ab"), *specs("cd", priority=1)], probe=(1, 1))
    for endpoint in pool.members.values():
        pool.probed(endpoint, True, "", now)
    assert usable(pool, now) == "ab"
    for name in "ab":
        pool.probed(pool.members[name], False, "", now)
    assert usable(pool, now) == "cd"


def test_tiers_share_by_what_is_ready(build: Build, now: float) -> None:
    pool = build([*specs("ab"), *specs("cd", priority=1)], probe=(1, 1))
    for name in "acd":
        pool.probed(pool.members[name], True, "", now)
    drawn = Counter(usable(pool, now) for _ in range(10_000))
    assert drawn["a"] / 10_000 == pytest.approx(0.7, abs=0.02)
    assert drawn["cd"] / 10_000 == pytest.approx(0.3, abs=0.02)


class Hashing:
    """A selector with a key of its own."""

    def __init__(self) -> None:
        self.key_of: Callable[[Any], int | None] = lambda exchange: int(exchange.headers["x-key"])
        self.asked = 0

    def key(self, exchange: Any) -> int | None:
        self.asked += 1
        return self.key_of(exchange)

    def choose(self, candidates: Candidates, exchange: object) -> Endpoint:
        return candidates[0]


@pytest.fixture
def half_down(build: Build, now: float) -> Pool:
    pool = build([*specs("ab"), *specs("cd", priority=1)], Hashing(), probe=(1, 1))
    for name in "acd":
        pool.probed(pool.members[name], True, "", now)
    return pool


def test_the_selectors_key_draws_the_tier_and_always_the_same(half_down: Pool, now: float) -> None:
    rng, drawn = random.Random(1), Counter()
    for _ in range(5000):
        exchange = make_exchange(headers={"X-Key": str(rng.getrandbits(64))})
        first = half_down.candidates(exchange, now)
        assert all(half_down.candidates(exchange, now) is first for _ in range(3))
        drawn[first[0].spec.priority] += 1
    assert drawn[0] / 5000 == pytest.approx(0.7, abs=0.03)
    assert half_down.selector.asked == 5000, "asked once per exchange"


def test_without_a_key_the_tier_is_drawn_by_chance(half_down: Pool, now: float) -> None:
    half_down.selector.key_of = lambda exchange: None
    drawn = Counter(usable(half_down, now) for _ in range(5000))
    assert drawn["a"] / 5000 == pytest.approx(0.7, abs=0.03)


def test_an_exchange_without_a_key_is_asked_once_too(half_down: Pool, now: float) -> None:
    half_down.selector.key_of = lambda exchange: None
    exchange = make_exchange()
    for _ in range(3):
        half_down.candidates(exchange, now)
    assert half_down.selector.asked == 1


def test_a_selector_whose_key_fails_is_worked_around(half_down: Pool, now: float) -> None:
    def broken(exchange: object) -> int:
        raise RuntimeError("no key")

    half_down.selector.key_of, muted = broken, []
    half_down.muted = lambda plugin, error: muted.append((plugin, error))
    assert half_down.candidates(make_exchange(), now)
    assert muted[0][0] is half_down.selector
    assert str(muted[0][1]) == "no key"


def test_a_key_that_is_no_number_is_worked_around(half_down: Pool, now: float) -> None:
    half_down.selector.key_of, muted = (lambda exchange: "a"), []
    half_down.muted = lambda plugin, error: muted.append(str(error))
    assert half_down.candidates(make_exchange(), now)
    assert muted == ["key returned str, not an int or None"]


def test_a_full_tier_spills_over_to_the_highest_that_has_room(build: Build, now: float) -> None:
    pool = build([spec("a"), spec("b", priority=1), spec("c", priority=2)], limits=Limits(per_endpoint=1))
    assert usable(pool, now) == "a"
    pool.acquire(pool.members["a"], now)
    assert usable(pool, now) == "b"
    pool.acquire(pool.members["b"], now)
    assert usable(pool, now) == "c"
    pool.acquire(pool.members["c"], now)
    assert usable(pool, now) == ""
    pool.release(pool.members["a"], now)
    assert usable(pool, now) == "a"


def test_panic_looks_past_a_tier_that_the_operator_emptied(build: Build, now: float) -> None:
    pool = build([spec("a", state="drain"), spec("b", priority=1)], probe=(1, 1))
    assert usable(pool, now) == "b"


def test_the_own_zone_first(build: Build, now: float) -> None:
    pool = build([*specs("ab", zone="here"), *specs("cd", zone="there")], probe=(1, 1), zone="here")
    for endpoint in pool.members.values():
        pool.probed(endpoint, True, "", now)
    assert usable(pool, now) == "ab"
    pool.probed(pool.members["a"], False, "", now)
    assert usable(pool, now) == "b"
    pool.probed(pool.members["b"], False, "", now)
    assert usable(pool, now) == "cd"


def test_room_comes_after_health(build: Build, now: float) -> None:
    pool = build(2, limits=Limits(per_endpoint=2))
    a, b = pool.members["a"], pool.members["b"]
    pool.acquire(a, now)
    assert usable(pool, now) == "ab"
    pool.acquire(a, now)
    assert usable(pool, now) == "b"
    pool.acquire(b, now)
    pool.acquire(b, now)
    assert usable(pool, now) == "", "full is not the same as nothing ready"
    pool.release(a, now)
    assert usable(pool, now) == "a"
    consistent(pool)


@pytest.mark.parametrize("names", ["abc", "cba", "bac"])
def test_the_order_of_the_endpoints_does_not_matter(build: Build, now: float, names: str) -> None:
    pool = build(specs(names))
    pool.operate(pool.members["b"], "drain", now)
    assert usable(pool, now) == "ac"
    pool.operate(pool.members["b"], "up", now)
    assert usable(pool, now) == "abc"
    consistent(pool)


# Outcomes


def test_an_ejection_takes_out_then_one_at_a_time_then_all(build: Build, now: float, scripted: Any) -> None:
    pool, heard = build(3, detectors=[scripted], ejection=EjectionRule(base=30, rise=2)), []
    pool.changed = lambda endpoint, cause: heard.append(cause)
    a = pool.members["a"]
    scripted.eject(pool, a, now)
    assert usable(pool, now) == "bc"
    assert pool.due == now + 30
    assert usable(pool, now + 29) == "bc"
    assert usable(pool, now + 30) == "abc"
    assert a.limit == 1
    pool.acquire(a, now + 30)
    assert usable(pool, now + 30) == "bc", "on probation: one request at a time"
    pool.release(a, now + 31)
    pool.told(a, WELL, now + 31)
    assert (usable(pool, now + 31), a.limit) == ("abc", 1)
    pool.told(a, Outcome("neutral"), now + 31)
    assert a.limit == 1
    pool.told(a, WELL, now + 32)
    assert a.limit == float("inf")
    assert heard == ["ejected for 30 s: test", "ejection over, on probation", "back in service"]


def test_the_first_failure_on_probation_ejects_for_longer(build: Build, now: float, scripted: Any) -> None:
    pool = build(3, detectors=[scripted])
    a = pool.members["a"]
    scripted.eject(pool, a, now)
    assert usable(pool, now + 30) == "abc"
    pool.told(a, FAILED, now + 30)
    assert usable(pool, now + 89.9) == "bc"
    assert usable(pool, now + 90) == "abc"


def test_leases_from_before_the_ejection_count_as_room(build: Build, now: float, scripted: Any) -> None:
    pool = build(2, detectors=[scripted])
    a = pool.members["a"]
    pool.acquire(a, now)
    pool.acquire(a, now)
    scripted.eject(pool, a, now)
    assert usable(pool, now + 30) == "b"
    pool.release(a, now + 31)
    assert usable(pool, now + 31) == "b"
    pool.release(a, now + 32)
    assert usable(pool, now + 32) == "ab"


@pytest.fixture
def trial(build: Build, now: float, scripted: Any) -> Callable[..., Pool]:
    """A pool of endpoints that take one or two requests at once, the first of them on probation."""

    def make(endpoints: Any = 2, most: float = 2, **settings: Any) -> Pool:
        settings = {"ejection": EjectionRule(base=30, rise=2), **settings}
        pool = build(endpoints, detectors=[scripted], limits=Limits(per_endpoint=most, queue=5), **settings)
        scripted.eject(pool, pool.members["a"], now - 30)
        pool.tick(now)
        return pool

    return make


def test_on_probation_one_takes_just_one_while_others_have_room(trial: Callable[..., Pool], now: float) -> None:
    pool = trial()
    a, b = pool.members.values()
    assert usable(pool, now) == "ab"
    pool.acquire(a, now)
    assert usable(pool, now) == "b"
    pool.acquire(b, now)
    assert usable(pool, now) == "b"


def test_on_probation_one_takes_more_once_all_others_are_full(trial: Callable[..., Pool], now: float) -> None:
    pool = trial()
    a, b = pool.members.values()
    for endpoint in (a, b, b):
        pool.acquire(endpoint, now)
    assert usable(pool, now) == "a"
    pool.acquire(a, now)
    assert usable(pool, now) == "", "its own limit holds"
    pool.release(b, now)
    assert usable(pool, now) == "b"
    pool.release(a, now)
    assert usable(pool, now) == "b", "still one under way"
    pool.release(a, now)
    assert usable(pool, now) == "ab"


def test_the_only_ready_one_serves_though_on_probation(trial: Callable[..., Pool], now: float) -> None:
    pool = trial(most=float("inf"))
    a, b = pool.members.values()
    pool.operate(b, "drain", now)
    for _ in range(10):
        assert usable(pool, now) == "a"
        pool.acquire(a, now)
    assert a.limit == 1
    waiting = ticket(pool)
    assert pool.grant(now) is waiting, "room for those who wait, too"
    pool.operate(a, "drain", now)
    assert usable(pool, now) is None
    waiting = ticket(pool)
    assert pool.grant(now) is None


def test_who_waits_goes_on_when_one_on_probation_is_the_last_with_room(trial: Callable[..., Pool], now: float) -> None:
    pool = trial()
    a, b = pool.members.values()
    for endpoint in (a, a, b, b):
        pool.acquire(endpoint, now)
    waiting = ticket(pool)
    assert pool.grant(now) is None
    pool.release(a, now)
    assert a.load == a.limit == 1
    assert pool.grant(now) is waiting


def test_a_lower_tier_with_room_comes_before_probations_second_request(trial: Callable[..., Pool], now: float) -> None:
    pool = trial([spec("a"), spec("b", priority=1), spec("c", priority=1)])
    a, b, c = pool.members.values()
    pool.acquire(a, now)
    assert usable(pool, now) == "bc"
    for endpoint in (b, b, c, c):
        pool.acquire(endpoint, now)
    assert usable(pool, now) == "a"


def test_panic_ignores_probation_as_it_ignores_all_health(build: Build, now: float, scripted: Any) -> None:
    """Every probe fails, as with a wrong path: what still serves must not serve one at a time."""
    settings = {"detectors": [scripted], "probe": (1, 1), "ejection": EjectionRule(base=30)}
    pool = build(2, limits=Limits(per_endpoint=3, queue=5), **settings)
    a, b = pool.members.values()
    pool.probed(a, True, "", now)
    pool.probed(b, True, "", now)
    scripted.eject(pool, a, now)
    pool.tick(now + 30)
    pool.probed(a, False, "x", now + 30)
    pool.probed(b, False, "x", now + 30)
    for load in range(3):
        assert usable(pool, now + 30) == "ab", load
        pool.acquire(a, now + 30)
        pool.acquire(b, now + 30)
    for _ in range(2):
        pool.release(a, now + 30)
        assert usable(pool, now + 30) == "a"
        assert pool.grant(now) is None
    pool.operate(b, "drain", now + 30)
    assert usable(pool, now + 30) == "a"
    waiting = ticket(pool)
    assert pool.grant(now) is waiting


def test_a_tier_that_refuses_offers_nobody_on_probation_either(build: Build, now: float, scripted: Any) -> None:
    pool = build(
        [*specs("ab"), spec("c", priority=1)],
        detectors=[scripted],
        limits=Limits(per_endpoint=2, queue=5),
        ejection=EjectionRule(base=30),
        when_few_ready="refuse",
        few_ready=0.5,
    )
    a, b, c = pool.members.values()
    scripted.eject(pool, a, now)
    pool.tick(now + 30)
    scripted.eject(pool, b, now + 30)
    for endpoint in (a, c, c):
        pool.acquire(endpoint, now + 30)
    assert usable(pool, now + 30) == ""
    ticket(pool)
    assert pool.grant(now) is None


def test_what_was_cleared_or_ejected_again_is_on_probation_no_more(trial: Callable[..., Pool], now: float) -> None:
    pool = trial()
    a, b = pool.members.values()
    for endpoint in (a, b, b):
        pool.acquire(endpoint, now)
    assert usable(pool, now) == "a"
    pool.told(a, FAILED, now)
    assert usable(pool, now) == ""
    assert usable(pool, now + 60) == "a"
    pool.told(a, WELL, now + 60)
    pool.told(a, WELL, now + 60)
    assert (usable(pool, now + 60), a.limit) == ("a", 2)
    pool.acquire(a, now + 60)
    assert usable(pool, now + 60) == ""


def test_a_failure_on_probation_that_may_not_eject_leaves_it_there(trial: Callable[..., Pool], now: float) -> None:
    pool = trial()
    a, b = pool.members.values()
    pool.detectors[0].eject(pool, b, now)
    pool.told(a, FAILED, now)
    assert not a.health.ejection.lasts(now), "it is the last"
    assert (usable(pool, now), a.limit) == ("a", 1)
    pool.told(a, WELL, now)
    assert a.limit == 1
    pool.told(a, WELL, now)
    assert a.limit == 2


@pytest.mark.parametrize(("status", "longest"), [(0, 1), (503, 0)])
def test_on_probation_too_a_failing_status_ejects_a_share_only(
    build: Build, now: float, scripted: Any, status: int, longest: int
) -> None:
    """Two are on probation and fail: a status may take one of three, a broken connection all but the last."""
    pool = build(3, detectors=[scripted], ejection=EjectionRule(base=30))
    a, b, _ = pool.members.values()
    scripted.eject(pool, a, now)
    scripted.eject(pool, b, now)
    pool.tick(now + 30)
    for endpoint in (a, b):
        pool.told(endpoint, Outcome("failure", phase="head", status=status), now + 30)
    assert [e.health.ejection.lasts(now + 30) for e in (a, b)] == [True, bool(longest)]


# Probes and ejections


def test_a_probe_that_brings_one_back_ends_its_ejection_into_probation(build: Build, now: float, scripted: Any) -> None:
    pool, heard = build(3, detectors=[scripted], probe=(2, 2), ejection=EjectionRule(base=30, rise=2)), []
    for endpoint in pool.members.values():
        pool.probed(endpoint, True, "", now)
    pool.changed = lambda endpoint, cause: heard.append(cause)
    a = pool.members["a"]
    scripted.eject(pool, a, now)
    for passed in (False, False, True):
        pool.probed(a, passed, "refused", now + 1)
    assert a.health.ejection.lasts(now + 1)
    pool.probed(a, True, "", now + 2)
    assert usable(pool, now + 2) == "abc"
    assert (a.limit, a.health.describe(now + 2)) == (1, "on probation")
    pool.told(a, WELL, now + 3)
    pool.told(a, WELL, now + 3)
    assert a.health.describe(now + 3) == "ready"
    assert heard == [
        "ejected for 30 s: test",
        "down: 2 probes failed: refused",
        "up: 2 probes passed, on probation",
        "back in service",
    ]
    assert usable(pool, now + 30) == "abc"
    assert len(heard) == 4, "the ejection does not end a second time"


def test_probes_that_pass_all_along_end_no_ejection(build: Build, now: float, scripted: Any) -> None:
    pool = build(3, detectors=[scripted], probe=(2, 1), ejection=EjectionRule(base=30))
    for endpoint in pool.members.values():
        pool.probed(endpoint, True, "", now)
    a = pool.members["a"]
    scripted.eject(pool, a, now)
    for passed in (True, False, True, True):
        pool.probed(a, passed, "x", now + 1)
    assert a.health.ejection.until == now + 30
    assert usable(pool, now + 29) == "bc"


def test_one_that_goes_down_while_ejected_stays_out_when_its_time_is_over(
    build: Build, now: float, scripted: Any
) -> None:
    pool = build(3, detectors=[scripted], probe=(1, 1), ejection=EjectionRule(base=30))
    for endpoint in pool.members.values():
        pool.probed(endpoint, True, "", now)
    a = pool.members["a"]
    scripted.eject(pool, a, now)
    pool.probed(a, False, "x", now + 1)
    heard = []
    pool.changed = lambda endpoint, cause: heard.append(cause)
    assert usable(pool, now + 31) == "bc"
    assert a.health.ejection.probation
    assert heard == ["ejection over, still down"]
    pool.probed(a, True, "", now + 40)
    assert (usable(pool, now + 40), a.limit) == ("abc", 1)


def test_a_probe_that_brings_one_back_leaves_the_ready_as_they_are(build: Build, now: float, scripted: Any) -> None:
    pool = build(2, detectors=[scripted], probe=(1, 1), limits=Limits(per_endpoint=4))
    a, b = pool.members.values()
    for passed in (True, False, True):
        pool.probed(a, passed, "x", now)
    assert (usable(pool, now), a.limit, a.health.describe(now)) == ("a", 4, "ready")
    assert b.health.describe(now) == "not probed yet"


@pytest.mark.parametrize(
    ("total", "connection", "left"),
    [(1, False, 1), (1, True, 1), (3, False, 2), (3, True, 1), (10, False, 9), (10, True, 1)],
)
def test_how_many_may_be_ejected(
    build: Build, now: float, scripted: Any, total: int, connection: bool, left: int
) -> None:
    pool = build(total, detectors=[scripted])
    for endpoint in pool.members.values():
        scripted.eject(pool, endpoint, now, connection=connection)
    assert len(usable(pool, now)) == left


def test_one_that_is_spared_is_told_of_once_in_a_while(build: Build, now: float, scripted: Any) -> None:
    """It would have been ejected, but enough are out: said for the first of a run of failures, not for each."""
    pool, heard = build(5, detectors=[scripted], ejection=EjectionRule(base=30)), []
    a, b, *_ = pool.members.values()
    scripted.eject(pool, a, now, connection=False)
    pool.changed = lambda endpoint, cause: heard.append((endpoint.identity, cause))
    said = ("b", "stays in, since 1 of 5 are out: test")
    for seconds in (0, 1, 25, 29):
        scripted.eject(pool, b, now + seconds, connection=False)
    assert heard == [said]
    scripted.eject(pool, a, now + 29, connection=False)
    assert heard == [said], "who is out already is not spared"
    pool.tick(now + 30)
    scripted.eject(pool, a, now + 30, connection=False)
    heard.clear()
    scripted.eject(pool, b, now + 58, connection=False)
    assert heard == []
    scripted.eject(pool, b, now + 88, connection=False)
    assert heard == [said], "quiet for as long as an ejection"
    assert not b.health.ejection.times


def test_a_failure_on_probation_says_what_it_was(trial: Callable[..., Pool], now: float) -> None:
    pool, heard = trial(), []
    pool.changed = lambda endpoint, cause: heard.append(cause)
    pool.told(pool.members["a"], Outcome("failure", phase="head", status=503), now)
    assert heard == ["ejected for 60 s: status 503 on probation"]


def test_who_is_out_is_not_ejected_again(build: Build, now: float, scripted: Any) -> None:
    pool = build(3, detectors=[scripted])
    a = pool.members["a"]
    scripted.eject(pool, a, now)
    scripted.eject(pool, a, now + 10)
    assert a.health.ejection.until == now + 30


def test_an_ejection_without_a_cause_ends_too(build: Build, now: float, scripted: Any) -> None:
    pool = build(3, detectors=[scripted])
    scripted.verdict = Eject("")
    pool.told(pool.members["a"], FAILED, now)
    assert usable(pool, now) == "bc"
    assert usable(pool, now + 30) == "abc"


def test_an_ejection_outlasts_an_update(build: Build, now: float, scripted: Any) -> None:
    pool = build(specs("abc"), detectors=[scripted])
    scripted.eject(pool, pool.members["a"], now)
    pool.update(specs("abcd"), now + 1)
    assert usable(pool, now + 1) == "bcd"
    assert usable(pool, now + 30) == "abcd"


def test_detectors_hear_everything(build: Build, now: float, scripted: Any) -> None:
    pool = build(1, detectors=[scripted, scripted])
    a = pool.members["a"]
    neutral = Outcome("neutral")
    for outcome in (WELL, FAILED, neutral):
        pool.told(a, outcome, now)
    assert scripted.observed == [(a, outcome) for outcome in (WELL, FAILED, neutral) for _ in range(2)]


def test_a_detector_that_raises_is_muted_and_the_others_go_on(build: Build, now: float, scripted: Any) -> None:
    broken = type(scripted)()
    broken.error = RuntimeError("boom")
    pool, muted = build(3, detectors=[broken, scripted]), []
    pool.muted = lambda plugin, error: muted.append((plugin, error))
    for _ in range(3):
        eject_by = pool.members["a"]
        pool.told(eject_by, FAILED, now)
    assert muted == [(broken, broken.error)]
    assert len(broken.observed) == 1
    assert len(scripted.observed) == 3


def test_nobody_need_listen(build: Build, now: float, scripted: Any) -> None:
    scripted.error = RuntimeError("boom")
    pool = build(2, detectors=[scripted])
    pool.told(pool.members["a"], FAILED, now)
    pool.operate(pool.members["a"], "drain", now)
    pool.update([], now)
    assert usable(pool, now) is None


def test_a_detector_with_a_tick_is_told_of_time(build: Build, now: float, scripted: Any) -> None:
    """DESIGN's contract of passive health: optional `tick(endpoints, now)`."""
    ticks = []
    scripted.tick = lambda endpoints, now: ticks.append((sorted(e.identity for e in endpoints), now))
    pool = build(2, detectors=[scripted])
    pool.tick(now + 1)
    assert ticks == [(["a", "b"], now + 1)]


def test_a_detector_whose_tick_raises_is_muted(build: Build, now: float, scripted: Any) -> None:
    def broken(endpoints: Any, now: float) -> None:
        raise RuntimeError("why")

    scripted.tick = broken
    pool = build(2, detectors=[scripted])
    told: list[Any] = []
    pool.muted = lambda plugin, error: told.append((plugin, str(error)))
    pool.tick(now + 1)
    pool.tick(now + 2)
    assert told == [(scripted, "why")]
    assert pool.detectors == ()


def test_a_detector_with_a_tick_is_asked_once_a_second_of_traffic(build: Build, now: float, scripted: Any) -> None:
    ticks: list[float] = []
    scripted.tick = lambda endpoints, now: ticks.append(now)
    pool = build(2, detectors=[scripted])
    for step in range(40):
        assert pool.candidates(make_exchange(), now + step * 0.1)
    assert 3 <= len(ticks) <= 4


# How long answers take


def hear(pool: Pool, seconds: float, now: float, *, times: int = 100, result: Any = "success") -> None:
    for _ in range(times):
        pool.told(next(iter(pool.members.values())), Outcome(result, elapsed=seconds), now)


def test_a_quantile_to_hedge_after_is_known_after_enough_answers_and_follows(build: Build, now: float) -> None:
    pool = build(2, retry=RetryRule(hedge_share=0.95))
    assert (pool.hedge_after, pool.listens) == (None, True)
    hear(pool, 0.02, now, times=50)
    assert pool.hedge_after is None
    hear(pool, 0.02, now, times=50)
    assert pool.hedge_after == pytest.approx(0.02, rel=0.04)
    hear(pool, 0.2, now, times=50)
    assert pool.hedge_after == pytest.approx(0.2, rel=0.04), "a third of the answers takes as long now"
    hear(pool, 0.02, now, times=10_000)
    assert pool.hedge_after == pytest.approx(0.02, rel=0.04)


@pytest.mark.parametrize("result", ["neutral", "failure"])
def test_what_was_given_up_is_a_sample_too(build: Build, now: float, result: str) -> None:
    """Losers of a hedge and clients that left: without them the slow answers would be those that nobody counts."""
    pool = build(2, retry=RetryRule(hedge_share=0.5))
    hear(pool, 0.5, now, result=result)
    assert pool.hedge_after == pytest.approx(0.5, rel=0.04)


def test_what_was_never_sent_is_no_sample(build: Build, now: float) -> None:
    pool = build(2, retry=RetryRule(hedge_share=0.5))
    for _ in range(1000):
        pool.told(pool.members["a"], FAILED, now)
    assert pool.hedge_after is None


def test_a_time_to_hedge_after_stays_as_it_was_set(build: Build, now: float) -> None:
    pool = build(2, retry=RetryRule(hedge_after=0.1), limits=Limits(adaptive="aimd"))
    hear(pool, 3.0, now, times=1000)
    assert pool.hedge_after == 0.1


# Affinity's question


def test_affinity_may_keep_to_the_healthy_draining_or_not(build: Build, now: float, scripted: Any) -> None:
    pool = build([*specs("abc"), spec("d", weight=0)], detectors=[scripted])
    a, b, c, d = (pool.members[name] for name in "abcd")
    pool.operate(a, "drain", now)
    scripted.eject(pool, b, now)
    assert [pool.is_usable(e, now) for e in (a, b, c, d)] == [True, False, True, True]
    pool.update(specs("ab"), now)
    assert not pool.is_usable(c, now)
    assert not pool.is_usable(Endpoint(spec("a"), "web"), now), "another pool's endpoint of the same name"


# The queue


def ticket(pool: Pool, *, admitted: bool = False) -> Ticket:
    return pool.queue.park(Ticket(2000.0, admitted=admitted))


def test_room_under_the_pools_limit(build: Build, now: float) -> None:
    pool = build(1, limits=Limits(in_flight=2, queue=5))
    assert pool.has_room()
    pool.in_flight = 2
    assert not pool.has_room()
    pool.in_flight = 1
    waiting = ticket(pool)
    assert not pool.has_room(), "newcomers never pass a waiting one"
    assert pool.grant(now) is waiting
    assert pool.in_flight == 2
    assert waiting.admitted
    assert pool.grant(now) is None


def test_grants_are_first_in_first_out_and_end_at_the_limit(build: Build, now: float) -> None:
    pool = build(1, limits=Limits(in_flight=2, queue=5))
    tickets = [ticket(pool) for _ in range(4)]
    assert [pool.grant(now) for _ in range(3)] == [*tickets[:2], None]
    pool.in_flight -= 1
    assert pool.grant(now) is tickets[2]


def test_an_admitted_ticket_waits_for_an_endpoint_alone(build: Build, now: float) -> None:
    pool = build(1, limits=Limits(in_flight=1, per_endpoint=1, queue=5))
    a = pool.members["a"]
    pool.in_flight = 1
    pool.acquire(a, now)
    waiting = ticket(pool, admitted=True)
    assert pool.grant(now) is None
    pool.release(a, now)
    assert pool.grant(now) is waiting
    assert pool.in_flight == 1


def test_a_grant_looks_at_every_tier(build: Build, now: float) -> None:
    pool = build([spec("a"), spec("b", priority=1)], limits=Limits(per_endpoint=1, queue=5))
    pool.acquire(pool.members["a"], now)
    pool.acquire(pool.members["b"], now)
    waiting = ticket(pool)
    assert pool.grant(now) is None
    pool.release(pool.members["b"], now)
    assert pool.grant(now) is waiting


def test_a_grant_knows_of_panics_wider_choice(build: Build, now: float) -> None:
    """With few_ready, panic may ask those that are not ready: they are room."""
    pool = build(2, probe=(1, 1), few_ready=0.5, limits=Limits(per_endpoint=1, queue=5))
    a, b = pool.members["a"], pool.members["b"]
    pool.probed(a, True, "", now)
    pool.acquire(a, now)
    assert usable(pool, now) == "b"
    pool.acquire(b, now)
    waiting = ticket(pool, admitted=True)
    assert pool.grant(now) is None
    pool.release(b, now)
    assert usable(pool, now) == "b"
    assert pool.grant(now) is waiting


@pytest.mark.parametrize("rest", ["drained", "down"])
def test_the_last_that_can_serve_is_never_ejected(build: Build, now: float, scripted: Any, rest: str) -> None:
    """Members that drain, or are down by their probe, are nobody to leave the rest to."""
    pool, heard = build(3, detectors=[scripted], probe=(1, 1), ejection=EjectionRule(base=30)), []
    a, b, c = pool.members.values()
    for endpoint in (a, b, c):
        pool.probed(endpoint, True, "", now)
    for endpoint in (b, c):
        if rest == "drained":
            pool.operate(endpoint, "drain", now)
        else:
            pool.probed(endpoint, False, "refused", now)
    pool.changed = lambda endpoint, cause: heard.append(cause)
    for _ in range(3):
        scripted.eject(pool, a, now)
    assert usable(pool, now) == "a"
    assert heard == ["stays in, since nobody else is ready: test"]


def test_a_detector_that_returns_nonsense_is_muted(build: Build, now: float) -> None:
    class Confused:
        def observe(self, endpoint: Any, outcome: Any, now: float) -> Any:
            return True

    pool, muted = build(2, detectors=[Confused()]), []
    pool.muted = lambda plugin, error: muted.append((type(plugin).__name__, str(error)))
    for _ in range(3):
        pool.told(pool.members["a"], WELL, now)
    assert muted == [("Confused", "observe returned bool, not Eject or None")]
    assert usable(pool, now) == "ab"


def test_an_affinity_may_say_that_it_has_nothing_to_add(build: Build, now: float) -> None:
    class Sticky:
        answer: object = True

        def find(self, members: object, exchange: object) -> None: ...

        def remember(self, endpoint: object, exchange: object, headers: object) -> None: ...

        def due(self, endpoint: Endpoint, exchange: object, head: bytes) -> bool:
            if isinstance(self.answer, Exception):
                raise self.answer
            return head.startswith(b"HTTP") and bool(self.answer)

    sticky = Sticky()
    pool, muted = build(1, affinity=sticky), []
    pool.muted = lambda plugin, error: muted.append((plugin, error))
    given = (next(iter(pool.members.values())), make_exchange())
    assert pool.marks(*given, b"HTTP/1.1 200 OK\r\n")
    sticky.answer = ""
    assert not pool.marks(*given, b"HTTP/1.1 200 OK\r\n")
    sticky.answer = ValueError("boom")
    assert not pool.marks(*given, b"HTTP/1.1 200 OK\r\n")
    assert muted == [(sticky, sticky.answer)]
    assert not build(1).marks(*given, b"")


def test_an_affinity_may_have_nothing_to_add_where_it_was_followed(build: Build, now: float) -> None:
    class Sticky:
        moves_only = True

        def find(self, members: object, exchange: object) -> None: ...

        def remember(self, endpoint: object, exchange: object, headers: object) -> None: ...

    pool = build(2, affinity=Sticky())
    a, b = pool.members.values()
    exchange = make_exchange()
    assert pool.marks(a, exchange, b"")
    exchange.pinned = a
    assert not pool.marks(a, exchange, b"")
    assert pool.marks(b, exchange, b"")
    exchange.marks = {"sticky": 1}
    assert pool.marks(a, exchange, b"")
