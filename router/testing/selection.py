"""The laws of selection, each a method that drives a selector as the pool does and says what was broken.

Distribution is asserted as shares over many seeded picks, never over one; the order of the candidates is a parameter.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence

from router import Candidates, Endpoint, EndpointSpec, Exchange, Options
from router.testing.drive import Arrange, Run
from router.testing.law import Made, law, make_plugin
from router.testing.make import make_candidates, make_endpoints, varied_exchange

__all__ = ["check_selector"]

_PICKS = 1400
#: What chance alone moves a share by in so many picks.
_SAMPLING = 0.02
_WEIGHTS = ((1, 1, 1), (3, 1, 1), (5, 1, 1), (1, 2, 3, 4))


def check_selector(
    factory: Made,
    options: Options | None = None,
    *,
    exchange: Callable[[int], Exchange] = varied_exchange,
    tolerance: float = 0.1,
    by_weight: bool = True,
) -> None:
    """Holds a selector to the laws of selection; takes about a second.

    Args:
        factory: what the plugin registers, or a class for "module:Name".
        options: its options; the defaults of its nested Options, or none, if left out.
        exchange: makes the n-th exchange, for a selector that hashes something uncommon; the default varies client,
            path, query, and the headers Cookie and X-Key.
        tolerance: how far an endpoint's share may be from its part of the weight. A selector that is less exact by
            design, as one that hashes, passes its error here.
        by_weight: False for a strategy that does not mean to share by weight, such as filling servers in order.

    Raises:
        AssertionError: naming the law that is broken.
    """
    laws = _Laws(factory, options, exchange, tolerance)
    laws.only_candidates()
    laws.same_seed_same_picks()
    laws.changes_break_nothing(by_weight)
    laws.update_keeps_state()
    laws.scores_say_how_likely_each_is()
    laws.scores_change_nothing()
    if by_weight:
        laws.shares_follow_weights()
        laws.no_position_is_favoured()
        laws.a_rebuild_favours_nobody()
        laws.a_change_favours_nobody()


class _Laws:
    def __init__(
        self, factory: Made, options: Options | None, exchange: Callable[[int], Exchange], tolerance: float
    ) -> None:
        self._factory = factory
        self._options = options
        self._exchange = exchange
        self._tolerance = tolerance

    def _run(self, seed: int, members: Sequence[Endpoint], first: int = 0) -> Run:
        selector = make_plugin(self._factory, self._options, seed)
        run = Run(selector, members, self._exchange)
        run.number = first
        return run

    def only_candidates(self) -> None:
        endpoints = make_endpoints(2, 1, 1, 3, 1)
        run, rng = self._run(1, endpoints), random.Random(1)
        for _ in range(200):
            some = make_candidates(rng.sample(endpoints, rng.randint(1, len(endpoints))))
            tried = run.pick(some)
            tried.load = rng.randint(0, 4)
            rest = some.without((tried,))
            if rest:
                run.pick(rest)
            _leave(some)

    def same_seed_same_picks(self) -> None:
        first, second = (self._picks(seed=5, updates=False, disturb=noise) for noise in (1, 2))
        law(
            first == second,
            "the same seed gives the same picks; chance comes from tools.rng alone",
            _where(first, second),
        )

    def update_keeps_state(self) -> None:
        plain, updated = (self._picks(seed=6, updates=updates, disturb=1) for updates in (False, True))
        law(plain == updated, "an update in which nothing changed changes no pick", _where(plain, updated))

    def scores_change_nothing(self) -> None:
        plain, asked = (self._picks(seed=6, updates=False, disturb=1, scores=scores) for scores in (False, True))
        law(plain == asked, "scores changes nothing, no later pick either", _where(plain, asked))

    def scores_say_how_likely_each_is(self) -> None:
        """For selectors that offer them: what was said of each pick, added up, is what the picks came to."""
        endpoints = make_endpoints(3, 1, 2, 1, 1)
        run, rng = self._run(10, endpoints), random.Random(6)
        said: Counter[Endpoint] = Counter()
        for _ in range(_PICKS if run.has_scores else 0):
            candidates = make_candidates(rng.sample(endpoints, rng.randint(1, len(endpoints))))
            run.scores(candidates, 1)
            scores = run.scores(candidates, len(candidates))
            chosen = run.pick(candidates)
            certain = [endpoint for endpoint, share in scores.items() if share == 1]
            law(certain in ([], [chosen]), "who has score 1 is chosen", f"{certain} had it, {chosen} was chosen")
            said.update(scores)
            said[chosen] -= 1
            rng.choice(endpoints).load = rng.randint(0, 3)
            _leave(candidates)
        off = max(map(abs, said.values()), default=0) / _PICKS
        law(
            off <= self._tolerance + _SAMPLING, "a score says how likely a candidate is", f"shares are off by {off:.0%}"
        )

    def _picks(self, seed: int, updates: bool, disturb: int, scores: bool = False) -> list[int]:
        endpoints = make_endpoints(3, 1, 2, 1)
        run, rng = self._run(seed, endpoints), random.Random(2)
        candidates = make_candidates(endpoints)
        kept = random.getstate()
        random.seed(disturb)
        picks = []
        for _ in range(200):
            if updates:
                run.update(endpoints)
            if scores and run.has_scores:
                run.scores(candidates, 3)
            picks.append(endpoints.index(run.pick(candidates)))
            rng.choice(endpoints).load = rng.randint(0, 3)
        random.setstate(kept)
        return picks

    def changes_break_nothing(self, by_weight: bool) -> None:
        """Members of weight 0, slow start, endpoints that come and go; afterwards the shares are right again."""
        rng = random.Random(3)
        members = make_endpoints(4, 0, 1, 2, 0, 3)
        run = self._run(1, members)
        for step in range(150):
            if step % 3 == 0:
                members = _changed(members, step, rng)
                run.update(members)
            usable = [endpoint for endpoint in members if endpoint.spec.weight]
            for endpoint in usable:
                endpoint.weight = endpoint.spec.weight * rng.choice((0.1, 0.5, 1, 1))
                endpoint.load = rng.randint(0, 3)
            if usable:
                candidates = make_candidates(rng.sample(usable, rng.randint(1, len(usable))))
                run.pick(candidates)
                _leave(candidates)
        if by_weight:
            settled = _reset(members[:3], (5, 1, 1))
            run.update(settled)
            self._assert_shares(
                run.count(settled, list, _PICKS), settled, "shares follow weights again after any changes"
            )

    def shares_follow_weights(self) -> None:
        rng = random.Random(4)
        orders: dict[str, Arrange] = {
            "in order": list,
            "reversed": lambda endpoints: list(reversed(endpoints)),
            "shuffled": lambda endpoints: rng.sample(endpoints, len(endpoints)),
        }
        for weights in _WEIGHTS:
            endpoints = make_endpoints(*weights)
            for order, arrange in orders.items():
                counted = self._run(7, endpoints).count(endpoints, arrange, _PICKS)
                self._assert_shares(counted, endpoints, f"shares follow weights, whatever the order ({order})")

    def no_position_is_favoured(self) -> None:
        endpoints = make_endpoints(1, 1, 1, 1)
        run, rng = self._run(8, endpoints), random.Random(5)
        places: Counter[int] = Counter()
        for _ in range(_PICKS):
            candidates = make_candidates(rng.sample(endpoints, len(endpoints)))
            places[candidates.index(run.pick(candidates))] += 1
        shares = [places[place] / _PICKS for place in range(len(endpoints))]
        even = 1 / len(endpoints)
        fair = all(abs(share - even) <= self._tolerance + _SAMPLING for share in shares)
        law(fair, "no position among the candidates is favoured", f"shares by position: {_percent(shares)}")

    def a_rebuild_favours_nobody(self) -> None:
        """The first picks of many fresh selectors: a reload must not send all that waits to one server."""
        for weights in ((1, 1, 1, 1, 1), (5, 1, 1), (1, 1, 5)):
            endpoints = make_endpoints(*weights)
            counted: Counter[str] = Counter()
            # A table is the same in every build: a few builds, asked for many keys, say as much.
            builds, picks = (4, 100) if self._run(1, endpoints).hashes else (400, 1)
            for seed in range(builds):
                counted += self._run(seed, endpoints, first=seed * picks).count(endpoints, list, picks)
            sentence = "a rebuild favours neither the first nor the heaviest"
            self._assert_shares(counted, endpoints, sentence, slack=0.06)

    def a_change_favours_nobody(self) -> None:
        """Another endpoint joins and leaves all the time; it is never ready, so the shares of the others hold."""
        endpoints = make_endpoints(5, 1, 1)
        other = make_endpoints(1, first_port=9900)
        run = self._run(9, endpoints)
        counted: Counter[str] = Counter()
        for turn in range(_PICKS // 2):
            run.update([*endpoints, *other] if turn % 2 else endpoints)
            counted += run.count(endpoints, list, 2)
        self._assert_shares(counted, endpoints, "a change of membership favours neither the first nor the heaviest")

    def _assert_shares(
        self, counted: Counter[str], endpoints: Sequence[Endpoint], sentence: str, slack: float = 0.0
    ) -> None:
        total = sum(endpoint.weight for endpoint in endpoints)
        meant = [endpoint.weight / total for endpoint in endpoints]
        shares = [counted[endpoint.identity] / counted.total() for endpoint in endpoints]
        near = all(abs(a - b) <= self._tolerance + slack for a, b in zip(shares, meant, strict=True))
        law(near, sentence, f"weights mean {_percent(meant)}, picks came to {_percent(shares)}")


def _changed(members: list[Endpoint], step: int, rng: random.Random) -> list[Endpoint]:
    """One endpoint replaced, one reweighted; now and then everything has weight 0, or only one is left."""
    weights = [0] * len(members) if step % 30 == 0 else [rng.choice((0, 1, 2, 60_000)) for _ in members]
    changed = _reset([*members[1:], *make_endpoints(1, first_port=10_000 + step)], weights)
    return changed if step % 21 else [*changed[:1], *make_endpoints(1, 1, 1, 1, 1, first_port=20_000 + step * 8)]


def _reset(endpoints: Sequence[Endpoint], weights: Sequence[int]) -> list[Endpoint]:
    """The same endpoints with other configured weights, idle."""
    for endpoint, weight in zip(endpoints, weights, strict=True):
        endpoint.spec = EndpointSpec(url=endpoint.spec.url, weight=weight)
        endpoint.weight = weight
        endpoint.load = 0
    return list(endpoints)


def _leave(candidates: Candidates) -> None:
    """Takes all endpoints out again, so that their slots say so."""
    while candidates:
        candidates.discard(candidates[-1])


def _where(first: Sequence[int], second: Sequence[int]) -> str:
    differ = [i for i, (a, b) in enumerate(zip(first, second, strict=True)) if a != b]
    return f"{len(differ)} of {len(first)} picks differ, first at pick {differ[0] + 1}" if differ else ""


def _percent(shares: Sequence[float]) -> str:
    return " ".join(f"{share:.0%}" for share in shares)
