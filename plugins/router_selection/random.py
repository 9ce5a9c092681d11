"""A draw by weight for each request, without memory: what many routers in front of the same servers agree on.

Loads are never looked at; the draw itself stands in draw.py.
"""

from collections.abc import Sequence

from router import Candidates, Endpoint, Exchange, Options, Tools
from router_selection.draw import Draw, shares_by_weight

__all__ = ["Random"]


class Random:
    """Each candidate is as likely as its part of the candidates' weight."""

    __slots__ = ("_draw",)

    def __init__(self, options: Options, tools: Tools) -> None:
        self._draw = Draw(tools.rng)

    def update(self, endpoints: Sequence[Endpoint]) -> None:
        self._draw.update(endpoints)

    def choose(self, candidates: Candidates, exchange: Exchange) -> Endpoint:
        return self._draw.pick(candidates)

    def scores(self, candidates: Candidates, exchange: Exchange, limit: int) -> Sequence[tuple[Endpoint, float]]:
        return shares_by_weight(candidates, limit)
