"""A selector, driven as the pool drives it; every pick and every score is held to the laws that concern it alone.

The laws about many picks stand in selection.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from router import Candidates, Endpoint, Exchange, Selector
from router.testing.law import law, unraised
from router.testing.make import make_candidates

__all__ = ["Arrange", "Run"]

Arrange = Callable[[Sequence[Endpoint]], list[Endpoint]]


class Run:
    """One selector, driven as the pool drives it; every pick is held to the laws that concern one pick."""

    def __init__(self, selector: Selector, members: Sequence[Endpoint], exchange: Callable[[int], Exchange]) -> None:
        self.selector = selector
        self.has_update = callable(getattr(selector, "update", None))
        self.hashes = callable(getattr(selector, "key", None))
        self.has_scores = callable(getattr(selector, "scores", None))
        self.number = 0
        self._exchange = exchange
        self.update(members)

    def update(self, members: Sequence[Endpoint]) -> None:
        if self.has_update:
            unraised("update never raises", self.selector.update, list(members))  # type: ignore[attr-defined]

    def pick(self, candidates: Candidates) -> Endpoint:
        chosen = self._held("choose never raises", self.selector.choose, candidates, self._asked())
        self.number += 1
        law(any(chosen is e for e in candidates), "only candidates are returned", f"{chosen!r} is none of them")
        assert isinstance(chosen, Endpoint)
        return chosen

    def scores(self, candidates: Candidates, limit: int) -> dict[Endpoint, float]:
        """What is said of the pick that comes next."""
        asked = self.selector.scores  # type: ignore[attr-defined]
        given = list(self._held("scores never raises", asked, candidates, self._asked(), limit))
        law(len(given) <= limit, "scores gives no more than it is asked for", f"{len(given)} of {limit}")
        known = all(any(endpoint is e for e in candidates) for endpoint, _ in given)
        law(known and len(given) == len(dict(given)), "scores gives candidates alone, each once", f"{given}")
        shares = [share for _, share in given]
        law(
            all(0 <= share <= 1 for share in shares) and sum(shares) <= 1 + 1e-6,
            "scores are probabilities",
            f"{shares}",
        )
        law(shares == sorted(shares, reverse=True), "scores gives the likeliest first", f"{shares}")
        return dict(given)

    def _asked(self) -> Exchange:
        exchange = self._exchange(self.number)
        if self.hashes:
            exchange.key = unraised("key never raises", self.selector.key, exchange)  # type: ignore[attr-defined]
        return exchange

    def _held(self, sentence: str, call: Callable[..., Any], candidates: Candidates, *arguments: Any) -> Any:
        """The call's result; it must change neither the candidates nor an endpoint."""
        before = [(endpoint, endpoint.load, endpoint.weight, endpoint.slot) for endpoint in candidates]
        result = unraised(sentence, call, candidates, *arguments)
        after = [(endpoint, endpoint.load, endpoint.weight, endpoint.slot) for endpoint in candidates]
        law(before == after, "a selector changes neither the candidates nor an endpoint", f"{before} became {after}")
        return result

    def count(self, endpoints: Sequence[Endpoint], arrange: Arrange, picks: int) -> Counter[str]:
        return Counter(self.pick(make_candidates(arrange(endpoints))).identity for _ in range(picks))
