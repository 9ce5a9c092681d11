"""Canary: a fixed share of the requests goes to the endpoints that carry a mark, the rest to the others.

The share is kept exactly, not on average: of every hundred requests, five at 5 %. A retry goes to the others while
there is one, so that a bad canary costs nobody a second failure.
"""

from collections.abc import Sequence

from router import Candidates, Endpoint, Exchange, Options, Register, Share, Tools, hookimpl

__all__ = ["Canary", "CanaryOptions", "register_selectors"]


class CanaryOptions(Options, frozen=True):
    """Which endpoints are canaries, and how much they get."""

    share: Share = Share(0.05)
    #: The mark: endpoints with metadata = { track = "canary" }.
    track: str = "canary"


class Canary:
    """Keeps the share, and within each group picks the least loaded; equals are drawn by weight."""

    def __init__(self, options: CanaryOptions, tools: Tools) -> None:
        self._options = options
        self._rng = tools.rng
        # A random start: many routers that start at once do not all send their first request to the canary.
        self._due = tools.rng.random()

    def choose(self, candidates: Candidates, exchange: Exchange) -> Endpoint:
        marked = [e for e in candidates if e.spec.metadata.get("track") == self._options.track]
        if not marked or len(marked) == len(candidates):
            return self._least_loaded(candidates)
        others = [e for e in candidates if e.spec.metadata.get("track") != self._options.track]
        return self._least_loaded(marked if self._is_due(exchange) else others)

    def _is_due(self, exchange: Exchange) -> bool:
        if exchange.tried:
            return False
        self._due += self._options.share
        if self._due < 1:
            return False
        self._due -= 1
        return True

    def _least_loaded(self, group: Sequence[Endpoint]) -> Endpoint:
        least = min(endpoint.load / endpoint.weight for endpoint in group)
        equals = [endpoint for endpoint in group if endpoint.load / endpoint.weight == least]
        return self._rng.choices(equals, [endpoint.weight for endpoint in equals])[0]


@hookimpl
def register_selectors(register: Register) -> None:
    register("canary", Canary, CanaryOptions)
