"""What the bundled strategies say of the choice that comes next, and what is caught if a strategy says it wrongly."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest

from router import Endpoint, Tools
from router.plugins import Registry
from router.testing import check_selector, make_candidates, make_endpoints, make_exchange, make_tools

NAMES = ["least_request", "random", "round_robin"]
EXCHANGE = make_exchange()


def selector(name: str, members: list[Endpoint], seed: int = 1) -> Any:
    made = Registry.load().resolve("selection", name, None).make(make_tools(seed))
    made.update(members)
    return made


def said(chooser: Any, endpoints: Any, limit: int = 10) -> dict[Endpoint, float]:
    return dict(chooser.scores(endpoints, EXCHANGE, limit))


def test_random_says_each_ones_part_of_the_weight() -> None:
    members = make_endpoints(1, 3, 6, 0)
    candidates = make_candidates(members[:3])
    scores = selector("random", members).scores(candidates, EXCHANGE, 2)
    assert scores == [(members[2], 0.6), (members[1], 0.3)]


@pytest.mark.parametrize("name", NAMES)
def test_candidates_that_weigh_nothing_are_alike(name: str) -> None:
    members = make_endpoints(1, 1)
    chooser, candidates = selector(name, members), make_candidates(members)
    for endpoint in members:
        endpoint.weight = 0
    assert said(chooser, candidates) == dict.fromkeys(members, 0.5)


@pytest.mark.parametrize("name", ["least_request", "round_robin"])
def test_before_the_first_turn_chance_decides(name: str) -> None:
    members = make_endpoints(3, 1)
    assert said(selector(name, members), make_candidates(members)) == {members[0]: 0.75, members[1]: 0.25}


@pytest.mark.parametrize("name", ["least_request", "round_robin"])
def test_whose_turn_it_is_is_certain(name: str) -> None:
    members = make_endpoints(3, 1, 2)
    chooser, candidates = selector(name, members), make_candidates(members)
    chooser.choose(candidates, EXCHANGE)
    for _ in range(30):
        scores = chooser.scores(candidates, EXCHANGE, 3)
        assert [share for _, share in scores] == [1.0, 0.0, 0.0]
        assert chooser.choose(candidates, EXCHANGE) is scores[0][0]


def test_newcomers_and_those_that_weigh_nothing_have_no_turn() -> None:
    members = make_endpoints(1, 1, 1)
    chooser, candidates = selector("round_robin", members), make_candidates(members[:2])
    chooser.choose(candidates, EXCHANGE)
    members[0].weight = 0
    candidates.add(members[2])
    assert said(chooser, candidates, 1) == {members[1]: 1.0}


def test_the_least_loaded_is_certain_and_the_others_follow_by_load() -> None:
    members = make_endpoints(1, 2, 1, 1)
    for endpoint, load in zip(members, (3, 2, 2, 4), strict=True):
        endpoint.load = load
    chooser, candidates = selector("least_request", members), make_candidates(members)
    scores = chooser.scores(candidates, EXCHANGE, 3)
    assert scores == [(members[1], 1.0), (members[2], 0.0), (members[0], 0.0)]


def test_those_with_equal_loads_stay_in_their_order_and_who_weighs_nothing_is_last() -> None:
    members = make_endpoints(0, 1, 1, 1, 1, 1)
    for endpoint, load in zip(members, (0, 3, 2, 3, 1, 2), strict=True):
        endpoint.load = load
    scores = selector("least_request", members).scores(make_candidates(members), EXCHANGE, 10)
    assert scores == [(members[4], 1.0), *[(members[number], 0.0) for number in (2, 5, 1, 3, 0)]]


@pytest.mark.parametrize("weighted", [True, False])
def test_of_many_the_best_of_five_draws_is_said_exactly(weighted: bool) -> None:
    rng = random.Random(3)
    members = make_endpoints(*(rng.randint(1, 3) for _ in range(200)))
    for endpoint in members:
        endpoint.load = rng.randint(0, 2)
        endpoint.weight = endpoint.weight * rng.choice((0, 0.5, 1)) if weighted else 0
    chooser, candidates = selector("least_request", members), make_candidates(members)
    scores = said(chooser, candidates, 200)
    assert sum(scores.values()) == pytest.approx(1)
    assert list(scores.values()) == sorted(scores.values(), reverse=True)
    picks = 20_000
    counted = Counter(chooser.choose(candidates, EXCHANGE) for _ in range(picks))
    assert all(abs(counted[endpoint] / picks - share) < 0.005 for endpoint, share in scores.items())
    assert len(chooser.scores(candidates, EXCHANGE, 10)) == 10


# What the published laws catch


class Drawn:
    """A right one: a draw by weight."""

    def __init__(self, options: Any, tools: Tools) -> None:
        self.rng = tools.rng

    def choose(self, candidates: Any, exchange: Any) -> Any:
        return self.rng.choices(candidates, [endpoint.weight for endpoint in candidates])[0]

    def scores(self, candidates: Any, exchange: Any, limit: int) -> Any:
        total = sum(endpoint.weight for endpoint in candidates)
        shares = [(endpoint, endpoint.weight / total) for endpoint in candidates]
        return sorted(shares, key=lambda share: -share[1])[:limit]


class Raises(Drawn):
    def scores(self, candidates: Any, exchange: Any, limit: int) -> Any:
        raise ZeroDivisionError


class SaysAll(Drawn):
    def scores(self, candidates: Any, exchange: Any, limit: int) -> Any:
        return super().scores(candidates, exchange, 99)


class SaysStrangers(Drawn):
    def scores(self, candidates: Any, exchange: Any, limit: int) -> Any:
        return [(make_endpoints(1)[0], 1.0)]


class SaysTwice(Drawn):
    def scores(self, candidates: Any, exchange: Any, limit: int) -> Any:
        return [(candidates[0], 0.5), (candidates[0], 0.5)][:limit]


class SaysWeights(Drawn):
    def scores(self, candidates: Any, exchange: Any, limit: int) -> Any:
        return [(endpoint, endpoint.weight) for endpoint in candidates][:limit]


class SaysTheLeastFirst(Drawn):
    def scores(self, candidates: Any, exchange: Any, limit: int) -> Any:
        return super().scores(candidates, exchange, 99)[::-1][:limit]


class Draws(Drawn):
    def scores(self, candidates: Any, exchange: Any, limit: int) -> Any:
        self.rng.random()
        return super().scores(candidates, exchange, limit)


class TooSure(Drawn):
    def scores(self, candidates: Any, exchange: Any, limit: int) -> Any:
        return [(candidates[0], 1.0)]


class TooEven(Drawn):
    def scores(self, candidates: Any, exchange: Any, limit: int) -> Any:
        return [(endpoint, 1 / len(candidates)) for endpoint in candidates][:limit]


class Sorts(Drawn):
    def scores(self, candidates: Any, exchange: Any, limit: int) -> Any:
        candidates.sort(key=lambda endpoint: endpoint.weight)
        return super().scores(candidates, exchange, limit)


def test_right_scores_pass() -> None:
    check_selector(Drawn)


@pytest.mark.parametrize(
    ("broken", "sentence"),
    [
        (Raises, "scores never raises"),
        (SaysAll, "scores gives no more than it is asked for"),
        (SaysStrangers, "scores gives candidates alone, each once"),
        (SaysTwice, "scores gives candidates alone, each once"),
        (SaysWeights, "scores are probabilities"),
        (SaysTheLeastFirst, "scores gives the likeliest first"),
        (Draws, "scores changes nothing, no later pick either"),
        (TooSure, "who has score 1 is chosen"),
        (TooEven, "a score says how likely a candidate is"),
        (Sorts, "a selector changes neither the candidates nor an endpoint"),
    ],
)
def test_wrong_scores_are_caught(broken: Any, sentence: str) -> None:
    with pytest.raises(AssertionError, match=f"broken law: {sentence}"):
        check_selector(broken, tolerance=0.05)
