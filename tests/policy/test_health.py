"""Probe, ejection and operator, and the one rule for "ready"."""

from __future__ import annotations

import itertools

import pytest

from router.policy.health import Ejection, EjectionRule, Health, Probed

NEVER = float("inf")


@pytest.mark.parametrize(
    ("results", "up"),
    [
        ("+", "u"),
        ("+--", "uuu"),
        ("+---", "uuu."),
        ("+--+--", "uuuuuu"),
        ("+---+", "uuu.."),
        ("+---++", "uuu..u"),
        ("+---+-+", "uuu...."),
        ("-", "."),
        ("---", "..."),
        # Usable after its first pass, however late that comes.
        ("-+", ".u"),
        ("----+", "....u"),
    ],
)
def test_rise_and_fall(results: str, up: str) -> None:
    probed = Probed(fall=3, rise=2)
    said = ""
    for result in results:
        before = probed.known, probed.up
        count = probed.told(result == "+")
        assert (count > 0) is ((probed.known, probed.up) != before)
        said += "u" if probed.up else "."
    assert said == up


@pytest.mark.parametrize(
    ("results", "counts"),
    [
        ("+", [1]),
        # The first failure of one that has never passed is news, though "up" was not true before.
        ("--", [1, 0]),
        ("-+", [1, 1]),
        ("+--+", [1, 0, 0, 0]),
        ("+----", [1, 0, 0, 3, 0]),
        ("+---+++", [1, 0, 0, 3, 0, 2, 0]),
    ],
)
def test_a_change_says_how_many_results_made_it(results: str, counts: list[int]) -> None:
    probed = Probed(fall=3, rise=2)
    assert [probed.told(result == "+") for result in results] == counts


@pytest.mark.parametrize(
    ("results", "changing"),
    [
        ("", ""),
        ("+", "."),
        ("---", "..."),
        ("+--+", ".cc."),
        ("+---", ".cc."),
        ("+---+-", ".cc.c."),
        ("+---++", ".cc.c."),
    ],
)
def test_the_next_result_is_wanted_soon_while_results_speak_against_the_state(results: str, changing: str) -> None:
    probed = Probed(fall=3, rise=2)
    said = ""
    assert not probed.changing
    for result in results:
        probed.told(result == "+")
        said += "c" if probed.changing else "."
    assert said == changing


def test_nothing_is_known_before_the_first_result() -> None:
    probed = Probed()
    assert (probed.up, probed.known, probed.fall, probed.rise) == (False, False, 3, 2)
    assert probed.told(False) == 1
    assert (probed.up, probed.known) == (False, True)


@pytest.mark.parametrize(("fall", "rise"), [(1, 1), (2, 3), (5, 1)])
def test_fall_and_rise_are_counted_in_a_row(fall: int, rise: int) -> None:
    probed = Probed(fall, rise)
    probed.told(True)
    assert [probed.told(False) for _ in range(fall)] == [0] * (fall - 1) + [fall]
    assert [probed.told(True) for _ in range(rise)] == [0] * (rise - 1) + [rise]


# Ejection


@pytest.mark.parametrize(
    ("total", "share", "allowed"),
    [(2, 0.1, 1), (5, 0.1, 1), (10, 0.1, 1), (20, 0.1, 2), (30, 0.1, 3), (10, 0.5, 5), (10, 1.0, 10), (3, 0.0, 1)],
)
def test_max_share_bounds_ejections_but_lets_one_go(total: int, share: float, allowed: int) -> None:
    rule = EjectionRule(max_share=share)
    assert [rule.may_eject(n, total, connection=False) for n in range(total)] == [n < allowed for n in range(total)]


@pytest.mark.parametrize("percent", range(1, 101))
def test_a_share_of_a_hundred_is_that_many(percent: int) -> None:
    rule = EjectionRule(max_share=percent / 100)
    assert rule.may_eject(percent - 1, 100, connection=False)
    assert not rule.may_eject(percent, 100, connection=False)


@pytest.mark.parametrize("total", [1, 2, 3, 10])
def test_failures_of_the_connection_may_take_all_but_the_last(total: int) -> None:
    rule = EjectionRule()
    assert [rule.may_eject(n, total, connection=True) for n in range(total)] == [n < total - 1 for n in range(total)]


def failing_on_probation(ejection: Ejection, now: float, times: int) -> list[float]:
    """Seconds of each ejection of an endpoint that fails as soon as it is back."""
    seconds = []
    for _ in range(times):
        ejection.eject(now, "x")
        seconds.append(ejection.until - now)
        now = ejection.until
        assert ejection.expire(now)
        assert ejection.told(False) == "again"
    return seconds


def test_each_ejection_is_longer_up_to_the_cap() -> None:
    ejection = Ejection(EjectionRule(base=30, longest=100))
    assert failing_on_probation(ejection, 1000.0, 5) == [30, 60, 90, 100, 100]


def test_a_long_quiet_time_makes_the_next_one_short_again() -> None:
    ejection = Ejection(EjectionRule(base=30, longest=300))
    failing_on_probation(ejection, 1000.0, 3)
    ejection.told(True)
    ejection.told(True)
    later = ejection.until + 301
    ejection.eject(later, "x")
    assert ejection.until == later + 30


def test_a_failure_on_probation_ejects_for_longer_however_late_it_comes() -> None:
    ejection = Ejection(EjectionRule(base=30, longest=300))
    ejection.eject(1000.0, "x")
    ejection.expire(1030.0)
    late = 1030.0 + 1000
    assert ejection.told(False) == "again"
    ejection.eject(late, "x")
    assert ejection.until == late + 60


def test_it_lasts_then_expires_once_into_probation() -> None:
    ejection = Ejection(EjectionRule(base=30))
    assert not ejection.expire(0.0)
    ejection.eject(1000.0, "x")
    assert ejection.lasts(1029.9)
    assert not ejection.expire(1029.9)
    assert not ejection.lasts(1030.0)
    assert ejection.expire(1030.0)
    assert ejection.probation
    assert not ejection.expire(1031.0)


def test_probation_ends_after_rise_successes() -> None:
    ejection = Ejection(EjectionRule(rise=3))
    assert ejection.told(True) == ""
    assert ejection.told(False) == ""
    ejection.eject(1000.0, "x")
    assert ejection.told(True) == "", "an outcome while ejected says nothing yet"
    ejection.expire(1030.0)
    assert [ejection.told(True) for _ in range(3)] == ["", "", "cleared"]
    assert (ejection.probation, ejection.cause) == (False, "")
    assert ejection.told(True) == ""


def test_successes_of_an_earlier_probation_do_not_count() -> None:
    ejection = Ejection(EjectionRule(base=30, rise=2))
    ejection.eject(1000.0, "x")
    ejection.expire(1030.0)
    ejection.told(True)
    assert ejection.told(False) == "again"
    ejection.eject(1030.0, "x")
    ejection.expire(1090.0)
    assert [ejection.told(True), ejection.told(True)] == ["", "cleared"]


def test_an_ejection_can_be_ended_before_its_time_but_never_later() -> None:
    ejection = Ejection(EjectionRule(base=30))
    ejection.eject(1000.0, "x")
    ejection.shorten(1010.0)
    assert not ejection.lasts(1010.0)
    assert ejection.out, "until somebody notes it"
    ejection.shorten(1020.0)
    assert ejection.until == 1010.0
    assert ejection.expire(1010.0)
    assert (ejection.probation, ejection.out) == (True, False)
    assert ejection.told(False) == "again"
    ejection.eject(1011.0, "x")
    assert ejection.until == 1071.0, "it still counts"


def test_a_failure_that_could_not_eject_takes_the_successes_before_it_away() -> None:
    ejection = Ejection(EjectionRule(base=30, rise=2))
    ejection.eject(1000.0, "x")
    ejection.expire(1030.0)
    assert [ejection.told(result) for result in (True, False, True, True)] == ["", "again", "", "cleared"]


def test_an_ejection_without_a_cause_ends_too() -> None:
    health = Health(EjectionRule(base=30))
    health.ejection.eject(1000.0, "")
    assert health.due() == 1030.0
    assert health.ejection.expire(1030.0)


# The one rule


@pytest.mark.parametrize(
    ("probe", "ejected", "operator"),
    list(itertools.product((None, "up", "down"), (False, True), ("up", "drain"))),
)
def test_ready(probe: str | None, ejected: bool, operator: str) -> None:
    health = Health(EjectionRule(base=30), None if probe is None else Probed(), operator)
    if probe == "up":
        health.probed.told(True)
    if ejected:
        health.ejection.eject(1000.0, "x")
    healthy = probe != "down" and not ejected
    assert health.is_healthy(1001.0) is healthy
    assert health.is_ready(1001.0) is (healthy and operator == "up")
    assert health.is_healthy(1030.0) is (probe != "down")


def test_due_is_the_end_of_an_ejection() -> None:
    health = Health(EjectionRule(base=30))
    assert health.due() == NEVER
    health.ejection.eject(1000.0, "x")
    assert health.due() == 1030.0
    health.ejection.expire(1030.0)
    assert health.due() == NEVER


def test_the_phrase_for_each_state() -> None:
    health = Health(EjectionRule(base=30), Probed(fall=1, rise=1))
    assert health.describe(1000.0) == "not probed yet"
    health.probed.told(False)
    assert health.describe(1000.0) == "down"
    health.probed.told(True)
    assert health.describe(1000.0) == "ready"
    health.ejection.eject(1000.0, "5 failures")
    assert health.describe(1001.0) == "ejected (5 failures)"
    health.ejection.expire(1030.0)
    assert health.describe(1030.0) == "on probation"
    health.operator = "drain"
    assert health.describe(1030.0) == "draining"
