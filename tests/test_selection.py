"""The bundled strategies do exactly what their definitions say, as shares over many seeded picks."""

from __future__ import annotations

import random
from collections import Counter
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router import Candidates, Endpoint, Options
from router.plugins import Registry
from router.testing import make_candidates, make_endpoints, make_exchange, make_tools

NAMES = ["least_request", "random", "round_robin"]
TURNS = ["least_request", "round_robin"]
EXCHANGE = make_exchange()


def selector(name: str, seed: int = 1) -> Any:
    return Registry.load().resolve("selection", name, None).make(make_tools(seed))


def pool(*weights: int) -> Candidates:
    return make_candidates(make_endpoints(*weights))


def picks(chooser: Any, candidates: Candidates, count: int) -> list[int]:
    """Places of the endpoints picked, by port."""
    ports = sorted(endpoint.address.port for endpoint in candidates)
    return [ports.index(chooser.choose(candidates, EXCHANGE).address.port) for _ in range(count)]


def shares(chooser: Any, candidates: Candidates, count: int = 4000) -> list[float]:
    counted = Counter(picks(chooser, candidates, count))
    return [counted[place] / count for place in range(len(candidates))]


def reweigh(endpoint: Endpoint, weight: int) -> None:
    endpoint.spec = msgspec.structs.replace(endpoint.spec, weight=weight)
    endpoint.weight = weight


@pytest.mark.parametrize("name", NAMES)
def test_they_take_no_options_and_no_attributes(name: str) -> None:
    assert Registry.load().resolve("selection", name, None).entry.options is Options
    with pytest.raises(AttributeError):
        selector(name).anything = 1


@pytest.mark.parametrize("name", TURNS)
def test_smooth_turns_from_zero_state(name: str) -> None:
    chooser, candidates = selector(name), pool(5, 1, 1)
    chooser.update(candidates)
    chooser._credit = dict.fromkeys(candidates, 0)
    assert "".join("abc"[place] for place in picks(chooser, candidates, 7)) == "aabacaa"
    assert set(chooser._credit.values()) == {0}


@pytest.mark.parametrize("name", TURNS)
def test_every_cycle_has_the_exact_shares(name: str) -> None:
    for seed in range(20):
        chooser, candidates = selector(name, seed), pool(3, 1, 2)
        chooser.update(candidates)
        for _ in range(5):
            assert Counter(picks(chooser, candidates, 6)) == {0: 3, 1: 1, 2: 2}


@pytest.mark.parametrize("name", TURNS)
def test_heavy_turns_are_spread_over_the_cycle(name: str) -> None:
    chooser, candidates = selector(name), pool(4, 4, 1, 1)
    chooser.update(candidates)
    sequence = picks(chooser, candidates, 500)
    for place, weight in enumerate((4, 4, 1, 1)):
        turns = [index for index, picked in enumerate(sequence) if picked == place]
        gaps = [later - earlier for earlier, later in pairwise(turns)]
        assert max(gaps) <= 2 * 10 / weight


@pytest.mark.parametrize("name", TURNS)
def test_equal_weights_go_round(name: str) -> None:
    chooser, candidates = selector(name), pool(1, 1, 1)
    chooser.update(candidates)
    sequence = picks(chooser, candidates, 30)
    assert sequence == sequence[:3] * 10
    assert set(sequence[:3]) == {0, 1, 2}


def test_different_seeds_start_at_different_turns() -> None:
    firsts = Counter()
    for seed in range(700):
        chooser, candidates = selector_of_pool("round_robin", seed)
        firsts.update(picks(chooser, candidates, 1))
    assert firsts[0] / 700 == pytest.approx(5 / 7, abs=0.06)
    assert firsts[1] / 700 == pytest.approx(1 / 7, abs=0.05)


def selector_of_pool(name: str, seed: int) -> tuple[Any, Candidates]:
    chooser, candidates = SELECTORS[name](Options(), make_tools(seed)), pool(5, 1, 1)
    chooser.update(candidates)
    return chooser, candidates


SELECTORS = {entry.name: entry.factory for entry in Registry.load().entries if entry.concern == "selection"}


@pytest.mark.parametrize("name", TURNS)
def test_an_update_keeps_the_turns(name: str) -> None:
    plain, updated = (selector_of_pool(name, 3) for _ in range(2))
    sequence = picks(*plain, 40)
    again = []
    for _ in range(40):
        updated[0].update(list(reversed(updated[1])))
        again += picks(*updated, 1)
    assert again == sequence


@pytest.mark.parametrize("name", TURNS)
def test_a_newcomer_gets_its_share_and_no_more(name: str) -> None:
    for seed in range(30):
        chooser = SELECTORS[name](Options(), make_tools(seed))
        endpoints = make_endpoints(1, 1, 1, 1)
        chooser.update(endpoints[:3])
        picks(chooser, make_candidates(endpoints[:3]), 10)
        chooser.update(endpoints)
        first_cycles = Counter(picks(chooser, make_candidates(endpoints), 8))
        assert 1 <= first_cycles[3] <= 3


@pytest.mark.parametrize("name", TURNS)
def test_departed_endpoints_are_forgotten(name: str) -> None:
    chooser = selector(name)
    endpoints = make_endpoints(1, 1, 1)
    chooser.update(endpoints)
    picks(chooser, make_candidates(endpoints), 5)
    assert len(chooser._credit) == 3
    chooser.update(endpoints[:1])
    assert list(chooser._credit) == endpoints[:1]
    assert list(chooser._weights) == endpoints[:1]


@pytest.mark.parametrize("name", NAMES)
def test_lower_weights_leave_no_debts(name: str) -> None:
    chooser, candidates = selector(name), pool(60_000, 30_000, 10_000)
    chooser.update(candidates)
    picks(chooser, candidates, 5)
    for endpoint in candidates:
        reweigh(endpoint, 1)
    chooser.update(candidates)
    assert shares(chooser, candidates, 300) == pytest.approx([1 / 3] * 3, abs=0.09)


@pytest.mark.parametrize("name", NAMES)
def test_slow_start_takes_effect_without_an_update(name: str) -> None:
    chooser, candidates = selector(name), pool(10, 10)
    chooser.update(candidates)
    candidates[0].weight = 1.0
    assert shares(chooser, candidates, 2200) == pytest.approx([1 / 11, 10 / 11], abs=0.03)
    candidates[0].weight = 5.0
    assert shares(chooser, candidates, 3000) == pytest.approx([1 / 3, 2 / 3], abs=0.03)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("weights", [(1, 1, 1, 1, 1, 1), (9, 9, 9, 1, 1, 1), (1, 1, 1, 9, 9, 9), (1, 2, 3, 4, 5, 6)])
def test_shares_of_a_part_follow_the_weights_of_that_part(name: str, weights: tuple[int, ...]) -> None:
    endpoints = make_endpoints(*weights)
    chooser = selector(name)
    chooser.update(endpoints)
    part = make_candidates(endpoints[2:5])
    total = sum(weights[2:5])
    assert shares(chooser, part) == pytest.approx([weight / total for weight in weights[2:5]], abs=0.03)


@pytest.mark.parametrize("name", NAMES)
def test_a_small_tier_of_a_large_pool(name: str) -> None:
    endpoints = make_endpoints(*[50] * 60, 2, 1)
    chooser = selector(name)
    chooser.update(endpoints)
    assert shares(chooser, make_candidates(endpoints[60:])) == pytest.approx([2 / 3, 1 / 3], abs=0.03)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("updated", [True, False])
def test_weight_0_is_never_picked_while_there_is_another(name: str, updated: bool) -> None:
    chooser, candidates = selector(name), pool(0, 2, 0, 1)
    if updated:
        chooser.update(candidates)
    assert shares(chooser, candidates) == pytest.approx([0, 2 / 3, 0, 1 / 3], abs=0.03)


@pytest.mark.parametrize("name", NAMES)
def test_weight_that_falls_to_0_under_way(name: str) -> None:
    for seed in range(12):
        chooser, candidates = SELECTORS[name](Options(), make_tools(seed)), pool(1, 1, 1)
        chooser.update(candidates)
        picks(chooser, candidates, 1 + seed % 3)
        candidates[1].weight = 0
        counted = Counter(picks(chooser, candidates, 200))
        assert set(counted) == {0, 2}
        assert counted[0] == pytest.approx(100, abs=2 if name in TURNS else 30)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("updated", [True, False])
def test_of_nothing_but_weight_0_any_one_is_picked(name: str, updated: bool) -> None:
    chooser, candidates = selector(name), pool(0, 0, 0)
    if updated:
        chooser.update(candidates)
    assert shares(chooser, candidates, 900) == pytest.approx([1 / 3] * 3, abs=0.06)
    for endpoint in candidates:
        reweigh(endpoint, 1)
    chooser.update(candidates)
    assert shares(chooser, candidates, 900) == pytest.approx([1 / 3] * 3, abs=0.06)


@pytest.mark.parametrize("name", NAMES)
def test_without_any_update_the_shares_hold(name: str) -> None:
    chooser, candidates = selector(name), pool(5, 1, 1)
    assert shares(chooser, candidates) == pytest.approx([5 / 7, 1 / 7, 1 / 7], abs=0.03)


@pytest.mark.parametrize("name", TURNS)
def test_a_new_pool_too_large_for_a_walk_starts_anywhere_too(name: str) -> None:
    weights = [300, *[1] * 100]
    firsts = Counter()
    for seed in range(400):
        chooser, candidates = SELECTORS[name](Options(), make_tools(seed)), pool(*weights)
        chooser.update(candidates)
        firsts.update(picks(chooser, candidates, 1))
    assert firsts[0] / 400 == pytest.approx(0.75, abs=0.06)
    assert shares(chooser, candidates, 1600)[0] == pytest.approx(0.75, abs=0.01)


@given(
    weights=st.lists(st.integers(0, 9), min_size=1, max_size=8),
    loads=st.lists(st.integers(0, 5), min_size=8, max_size=8),
    order=st.randoms(use_true_random=False),
)
def test_least_request_picks_the_smallest_load_per_weight(
    weights: list[int], loads: list[int], order: random.Random
) -> None:
    endpoints = make_endpoints(*weights)
    for endpoint, load in zip(endpoints, loads, strict=False):
        endpoint.load = load
    chooser = SELECTORS["least_request"](Options(), make_tools())
    candidates = make_candidates(order.sample(endpoints, len(endpoints)))
    chosen = chooser.choose(candidates, EXCHANGE)
    weighted = [endpoint for endpoint in endpoints if endpoint.weight]
    if weighted:
        assert chosen.load / chosen.weight == min(endpoint.load / endpoint.weight for endpoint in weighted)


def test_least_request_shares_ties_by_weight_one_request_at_a_time() -> None:
    chooser, candidates = selector("least_request"), pool(3, 1, 1)
    chooser.update(candidates)
    assert shares(chooser, candidates, 500) == [0.6, 0.2, 0.2]


def test_least_request_ties_among_the_loaded_take_turns_too() -> None:
    chooser, candidates = selector("least_request"), pool(2, 1, 1, 1)
    chooser.update(candidates)
    for endpoint, load in zip(candidates, (2, 1, 1, 9), strict=True):
        endpoint.load = load
    assert shares(chooser, candidates, 400) == [0.5, 0.25, 0.25, 0]


def large(count: int) -> tuple[Any, Candidates]:
    chooser, candidates = selector("least_request"), pool(*[1] * count)
    chooser.update(candidates)
    for endpoint in candidates:
        endpoint.load = 1
    return chooser, candidates


def test_least_request_scans_up_to_128_and_draws_above() -> None:
    chooser, candidates = large(128)
    candidates[77].load = 0
    assert set(picks(chooser, candidates, 50)) == {77}
    chooser, candidates = large(129)
    candidates[77].load = 0
    found = picks(chooser, candidates, 4000).count(77) / 4000
    assert found == pytest.approx(1 - (128 / 129) ** 5, abs=0.012)


def test_least_request_draws_by_weight_above_128() -> None:
    chooser, candidates = selector("least_request"), pool(*[3] * 70, *[1] * 70)
    chooser.update(candidates)
    heavy = sum(place < 70 for place in picks(chooser, candidates, 4000)) / 4000
    assert heavy == pytest.approx(0.75, abs=0.03)


def test_least_request_avoids_the_busy_half_above_128() -> None:
    chooser, candidates = selector("least_request"), pool(*[1] * 200)
    chooser.update(candidates)
    for endpoint in list(candidates)[:100]:
        endpoint.load = 9
    busy = sum(place < 100 for place in picks(chooser, candidates, 4000)) / 4000
    assert busy == pytest.approx(0.5**5, abs=0.012)


def test_above_128_nothing_but_weight_0_breaks_nothing() -> None:
    chooser, candidates = selector("least_request"), pool(*[0] * 130)
    chooser.update(candidates)
    assert len(set(picks(chooser, candidates, 300))) > 50


def test_random_draws_are_independent() -> None:
    chooser, candidates = selector("random"), pool(1, 1)
    chooser.update(candidates)
    sequence = picks(chooser, candidates, 4000)
    repeats = sum(a == b for a, b in pairwise(sequence)) / 4000
    assert repeats == pytest.approx(0.5, abs=0.03)
