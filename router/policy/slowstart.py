"""Slow start: an endpoint that comes back, or is new, gets its weight little by little, so that it is not flooded.

Scanning strategies read `endpoint.weight`, which is written here while a window lasts; table strategies use the
configured weight and ask `Candidates.admits`. Source: Envoy's slow start with aggression 1, HAProxy's `slowstart`.
"""

from __future__ import annotations

from router.model import Endpoint

__all__ = ["SlowStart"]

_NEVER = float("inf")
#: Steps in which a weight rises over a window, and the longest time between two (seconds).
_STEPS = 60
_LONGEST_STEP = 1.0


class SlowStart:
    """The endpoints of one pool that are being started slowly.

    Args:
        window: seconds until the full weight; 0 for no slow start.
        least: the share of its weight that an endpoint begins with.
    """

    __slots__ = ("_began", "_step", "least", "window")

    def __init__(self, window: float = 0.0, least: float = 0.1) -> None:
        self.window = window
        self.least = least
        self._step = min(_LONGEST_STEP, window / _STEPS)
        #: Endpoint -> when its window began.
        self._began: dict[Endpoint, float] = {}

    def resettle(self, fresh: SlowStart) -> None:
        """Takes the settings of another one; windows that have begun go on, by the new measure."""
        self.window, self.least, self._step = fresh.window, fresh.least, fresh._step

    def begin(self, endpoint: Endpoint, now: float) -> float:
        """The endpoint has just become ready. Returns when `step` is due; infinity without a window."""
        if not self.window:
            return _NEVER
        self._began[endpoint] = now
        endpoint.weight = endpoint.spec.weight * self.least
        return now + self._step

    def drop(self, endpoint: Endpoint) -> None:
        """The endpoint is not ready any more, or has left: it has its whole weight, which is nothing to nobody."""
        if self._began.pop(endpoint, None) is not None:
            endpoint.weight = endpoint.spec.weight

    def step(self, now: float) -> float:
        """Writes the weights of `now`.

        Returns:
            When to be asked again; infinity if no window lasts.
        """
        over = [endpoint for endpoint, began in self._began.items() if now - began >= self.window]
        for endpoint in over:
            self.drop(endpoint)
        for endpoint, began in self._began.items():
            part = max(self.least, (now - began) / self.window)
            endpoint.weight = endpoint.spec.weight * part
        return now + self._step if self._began else _NEVER
