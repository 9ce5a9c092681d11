"""An endpoint much slower than its peers: its average time to the response head against the median of the pool.

Averages are geometric and follow about the last `requests` successes: one answer that takes a hundred times as long
moves them by half, so it takes several in a row. The median is taken once a second, in `tick`.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, isfinite, log
from statistics import median_low
from typing import Annotated

from msgspec import Meta

from router import Duration, Eject, Endpoint, Options, Outcome, Tools

__all__ = ["Latency", "LatencyOptions"]

_NEVER = float("inf")
#: Anything shorter counts as this (seconds): a logarithm has no end downwards.
_SHORTEST = 1e-5
_LEAST = log(_SHORTEST)
#: Of fewer endpoints the median says nothing about who is the odd one.
_LEAST_ENDPOINTS = 3


class LatencyOptions(Options, frozen=True):
    """What is far too slow.

    Args:
        factor: so many times the median ejects.
        requests: an endpoint with fewer samples is not judged, and is no part of the median.
        floor: an average up to this is never too slow: five times nearly nothing is still nothing.
    """

    factor: Annotated[float, Meta(gt=1)] = 5.0
    requests: Annotated[int, Meta(ge=1, le=10_000)] = 20
    floor: Duration = Duration(0.01)

    def __post_init__(self) -> None:
        if not isfinite(self.factor):
            raise ValueError("factor must be a finite number above 1")
        if not isfinite(self.floor):
            raise ValueError('floor must be a time, such as "10ms"')


class Latency:
    """Ejects an endpoint whose average is over `factor` x the median; it is measured anew after that.

    Failures are no samples: an endpoint that refuses at once is not a fast one. A client that left after a long wait,
    or a hedge that was faster, gives a sample too: it would have taken even longer.
    """

    __slots__ = ("_averages", "_factor", "_floor", "_limit", "_median", "_requests", "_step")

    def __init__(self, options: LatencyOptions, tools: Tools) -> None:
        self._factor = options.factor
        self._floor = options.floor
        self._requests = options.requests
        self._step = 2 / (options.requests + 1)
        self._averages: dict[Endpoint, _Average] = {}
        #: Logarithms of seconds.
        self._median = 0.0
        self._limit = _NEVER

    def observe(self, endpoint: Endpoint, outcome: Outcome, now: float) -> Eject | None:
        elapsed = outcome.elapsed
        if elapsed is None or outcome.result == "failure":
            return None
        sample = log(elapsed) if elapsed > _SHORTEST else _LEAST
        average = self._averages.get(endpoint)
        if outcome.result == "neutral" and (average is None or sample <= average.log):
            return None
        if average is None:
            average = self._averages[endpoint] = _Average()
        average.count += 1
        # The plain mean at first: the very first sample must not weigh for long.
        average.log += (sample - average.log) * max(self._step, 1 / average.count)
        if average.log <= self._limit or average.count < self._requests:
            return None
        del self._averages[endpoint]
        own, others = _written(exp(average.log)), _written(exp(self._median))
        return Eject(f"average latency {own}, over {self._factor:g} x the pool's median of {others}")

    def tick(self, endpoints: Sequence[Endpoint], now: float) -> None:
        """Takes the median anew: the lower of the middle two, so that even half of a pool may be slow."""
        averages = self._averages
        known = [averages[e].log for e in endpoints if e in averages and averages[e].count >= self._requests]
        if len(known) < _LEAST_ENDPOINTS:
            self._limit = _NEVER
            return
        self._median = median_low(known)
        self._limit = log(max(self._floor, self._factor * exp(self._median)))

    def forget(self, endpoint: Endpoint) -> None:
        self._averages.pop(endpoint, None)


class _Average:
    """Exponentially weighted, of the logarithm of seconds."""

    __slots__ = ("count", "log")

    def __init__(self) -> None:
        self.count = 0
        self.log = 0.0


def _written(seconds: float) -> str:
    return f"{seconds * 1000:.3g} ms" if seconds < 0.9995 else f"{seconds:.3g} s"
