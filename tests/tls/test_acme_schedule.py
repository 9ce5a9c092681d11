"""When `acme` renews, and how long it waits after failures."""

from __future__ import annotations

import random

import pytest
from router_tls.acme_schedule import Pauses, renew_at

DAY = 86400.0


@pytest.mark.parametrize("life", [6 * DAY, 90 * DAY, 600.0])
@pytest.mark.parametrize("chance", [0.0, 0.5, 1.0])
def test_a_third_of_the_life_is_left_or_a_little_less(life: float, chance: float) -> None:
    left = 1000 + life - renew_at(1000, 1000 + life, chance)
    assert life / 3 - life / 50 <= left * 1.000001
    assert left <= life / 3 * 1.000001


def test_chance_spreads() -> None:
    assert renew_at(0, 90 * DAY, 1.0) - renew_at(0, 90 * DAY, 0.0) == pytest.approx(1.8 * DAY)


def test_a_life_that_ends_before_it_begins_is_renewed_at_its_end() -> None:
    assert renew_at(100, 50, 0.5) == 50


def test_pauses_double_up_to_the_longest() -> None:
    pauses = Pauses(random.Random(1))
    waited = [pauses.failed() for _ in range(40)]
    for number, pause in enumerate(waited):
        whole = min(60.0 * 2**number, 6 * 3600)
        assert 0.8 * whole <= pause <= whole
    assert len(set(waited[20:])) > 1


def test_a_success_begins_anew() -> None:
    pauses = Pauses(random.Random(1), 8.0, 1000.0)
    assert [pauses.failed() > 8 for _ in range(3)] == [False, True, True]
    pauses.well()
    assert pauses.failed() <= 8


def test_what_the_authority_asks_for_is_never_undercut() -> None:
    pauses = Pauses(random.Random(1))
    assert all(3600 <= Pauses(random.Random(seed)).failed(3600) <= 1.1 * 3600 for seed in range(20))
    assert pauses.failed(1) >= 48


def test_nobody_makes_it_wait_for_ever() -> None:
    assert 86400 <= Pauses(random.Random(1)).failed(1e9) <= 1.1 * 86400
