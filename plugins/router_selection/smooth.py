"""Smooth weighted round robin: each endpoint earns its weight per pick, the richest is picked and pays for all.

Earned credit is kept by endpoint, over updates. The order of the candidates never decides: credits differ by a random
fraction from the start. A new pool starts at a random phase, so a reload favours neither the first nor the heaviest.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from math import gcd
from operator import itemgetter

from router import Endpoint, Exchange, Options, Tools
from router_selection.draw import shares_by_weight

__all__ = ["Smooth"]

_NEVER = float("-inf")
_EARNED = itemgetter(0)
#: Credits earned in advance to find a random phase: about a millisecond.
_START_LIMIT = 10_000


class Smooth:
    """Turns by weight, spread evenly (the algorithm of nginx's round robin); O(n) per pick."""

    __slots__ = ("_credit", "_rng", "_weights")

    def __init__(self, options: Options, tools: Tools) -> None:
        self._rng = tools.rng
        self._credit: dict[Endpoint, float] = {}
        #: Configured weights that the credits were earned with.
        self._weights: dict[Endpoint, int] = {}

    def update(self, endpoints: Sequence[Endpoint]) -> None:
        """Forgets endpoints that left, keeps the credit of the others; new ones join when they first are candidates."""
        weights = {endpoint: endpoint.spec.weight for endpoint in endpoints if endpoint in self._credit}
        scale = _scale(self._weights, weights)
        self._credit = {endpoint: self._credit[endpoint] * scale for endpoint in weights}
        self._weights = weights

    def rotate(self, candidates: Sequence[Endpoint], exchange: Exchange | None = None) -> Endpoint:
        """Picks the next by turn."""
        credit = self._credit
        total: float = 0
        most = _NEVER
        chosen = candidates[0]
        try:
            for endpoint in candidates:
                weight = endpoint.weight
                total += weight
                credit[endpoint] = earned = credit[endpoint] + weight
                if earned > most:
                    most = earned
                    chosen = endpoint
        except KeyError:
            self._admit(candidates)
            return self.rotate(candidates)
        if not chosen.weight:
            return self._rotate_weighted(candidates, total)
        credit[chosen] = most - total
        return chosen

    def turns(self, candidates: Sequence[Endpoint], limit: int) -> list[tuple[Endpoint, float]]:
        """Whom `rotate` would pick, with probability 1, and those who have earned the most after it.

        Where none has had a turn yet, the phase of the cycle is still to be drawn, so each is as likely as its weight.
        """
        if len(candidates) == 1:
            return [(candidates[0], 1.0)]
        credit = self._credit
        ranked: list[tuple[float, Endpoint]] = []
        for endpoint in candidates:
            weight = endpoint.weight
            # Newcomers wait behind those that are known.
            ranked.append((credit.get(endpoint, _NEVER) + weight if weight else _NEVER, endpoint))
        ranked.sort(key=_EARNED, reverse=True)
        if ranked[0][0] == _NEVER:
            return shares_by_weight(candidates, limit)
        said, share = [], 1.0
        for _, endpoint in ranked[:limit]:
            said.append((endpoint, share))
            share = 0.0
        return said

    def _admit(self, candidates: Sequence[Endpoint]) -> None:
        """Gives credit to candidates never seen before. Its measure is what these candidates weigh, not the pool:
        a tier of light endpoints would wait thousands of turns for credits measured by heavy ones."""
        credit = self._credit
        for endpoint in takewhile(credit.__contains__, candidates):
            credit[endpoint] -= endpoint.weight  # earned in the turn that met the stranger
        strangers = [endpoint for endpoint in candidates if endpoint not in credit]
        self._weights.update((endpoint, endpoint.spec.weight) for endpoint in strangers)
        if len(strangers) == len(candidates):
            self._start(strangers)
        else:
            self._wait(strangers, max(credit[e] + e.weight for e in candidates if e in credit), candidates)

    def _start(self, endpoints: Sequence[Endpoint]) -> None:
        """A random phase of the cycle, or in a pool whose cycle is long, one endpoint drawn by weight is next."""
        weights = [endpoint.spec.weight for endpoint in endpoints]
        cycle = sum(weights) // (gcd(*weights) or 1)
        if cycle * len(endpoints) > _START_LIMIT:
            (first,) = self._rng.choices(endpoints, weights)
            self._wait(endpoints, 0.0, endpoints)
            self._credit[first] = -first.weight
            return
        for endpoint in endpoints:
            self._credit[endpoint] = self._rng.random() / 2
        for _ in range(self._rng.randrange(cycle or 1)):
            self.rotate(endpoints)

    def _wait(self, newcomers: Sequence[Endpoint], threshold: float, candidates: Sequence[Endpoint]) -> None:
        """The first turn of each newcomer falls evenly into its period.

        Args:
            newcomers: get their first credit.
            threshold: credit with which an endpoint would be picked about now.
            candidates: whose weight says how long a period is.
        """
        total = sum(endpoint.weight for endpoint in candidates)
        for endpoint in newcomers:
            self._credit[endpoint] = threshold - endpoint.weight - total * self._rng.random()

    def _rotate_weighted(self, candidates: Sequence[Endpoint], total: float) -> Endpoint:
        """The richest has weight 0, so it must not be picked; of nothing but weight 0 any one may be."""
        weighted = [endpoint for endpoint in candidates if endpoint.weight]
        if not weighted:
            return self._rng.choice(candidates)
        chosen = max(weighted, key=self._credit.__getitem__)
        self._credit[chosen] -= total
        return chosen


def _scale(before: dict[Endpoint, int], after: dict[Endpoint, int]) -> float:
    """Credit is measured in weights: weights of 30 000 lowered to 1 would leave debts of 30 000 turns."""
    old, new = sum(before[endpoint] for endpoint in after), sum(after.values())
    return new / old if old and new else 1.0
