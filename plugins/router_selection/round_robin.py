"""Smooth weighted round robin: the candidates take turns by weight, heavy ones spread over the cycle.

Loads are never looked at. A pick costs O(n); for thousands of endpoints `random` is the cheap one.
"""

from collections.abc import Sequence

from router import Candidates, Endpoint, Exchange
from router_selection.smooth import Smooth

__all__ = ["RoundRobin"]


class RoundRobin(Smooth):
    """Weights {5,1,1} give one turn to b and one to c in every seven, apart; it starts anywhere in the cycle."""

    __slots__ = ()

    # One call less per request than a method that calls it.
    choose = Smooth.rotate

    def scores(self, candidates: Candidates, exchange: Exchange, limit: int) -> Sequence[tuple[Endpoint, float]]:
        return self.turns(candidates, limit)
