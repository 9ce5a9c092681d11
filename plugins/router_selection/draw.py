"""A weighted draw from the candidates at hand: O(1) or O(log n), never a walk over all of them.

The table is built over the members, when membership or weights change, and holds configured weights. A draw is thrown
away if its endpoint is no candidate now, or in the measure in which slow start has lowered its weight: what remains
follows the weights of the candidates exactly.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from random import Random

from router import Candidates, Endpoint

__all__ = ["Draw", "shares_by_weight"]

#: After so many draws thrown away (a small tier of a large pool), a walk over the candidates is cheaper.
_TRIES = 16


class Draw:
    """Draws by weight, each time anew."""

    __slots__ = ("_bounds", "_even", "_members", "_random", "_rng", "_top", "_total")

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._random = rng.random
        self.update(())

    def update(self, endpoints: Sequence[Endpoint]) -> None:
        """Builds the table: O(n), when membership or configured weights changed."""
        self._members = [endpoint for endpoint in endpoints if endpoint.spec.weight]
        self._bounds = list(accumulate(endpoint.spec.weight for endpoint in self._members))
        self._total = self._bounds[-1] if self._bounds else 0
        self._top = max((endpoint.spec.weight for endpoint in self._members), default=0)
        # With near equal weights an even draw is kept at least every second time, and needs no table.
        self._even = self._top * len(self._members) <= 2 * self._total

    def pick(self, candidates: Candidates) -> Endpoint:
        """One candidate, drawn in proportion to its weight now; of nothing but weight 0 any one."""
        if not self._total:
            return self._walk(candidates)
        return self._from_candidates(candidates) if self._even else self._from_members(candidates)

    def _from_candidates(self, candidates: Candidates) -> Endpoint:
        random, top, count = self._random, self._top, len(candidates)
        for _ in range(_TRIES):
            endpoint = candidates[int(random() * count)]
            if endpoint.weight >= top or random() * top < endpoint.weight:
                return endpoint
        return self._walk(candidates)

    def _from_members(self, candidates: Candidates) -> Endpoint:
        random, bounds, total = self._random, self._bounds, self._total
        for _ in range(_TRIES):
            endpoint = self._members[bisect_right(bounds, random() * total)]
            if endpoint in candidates:
                configured = endpoint.spec.weight
                if endpoint.weight >= configured or random() * configured < endpoint.weight:
                    return endpoint
        return self._walk(candidates)

    def _walk(self, candidates: Candidates) -> Endpoint:
        weights = [endpoint.weight for endpoint in candidates]
        return self._rng.choices(candidates, weights if any(weights) else None)[0]


def shares_by_weight(endpoints: Sequence[Endpoint], limit: int) -> list[tuple[Endpoint, float]]:
    """The likeliest `limit` endpoints of a draw by weight, each with its probability."""
    total = sum(endpoint.weight for endpoint in endpoints)
    even = 1 / len(endpoints)
    heaviest = sorted(endpoints, key=lambda endpoint: endpoint.weight, reverse=True)[:limit]
    return [(endpoint, endpoint.weight / total if total else even) for endpoint in heaviest]
