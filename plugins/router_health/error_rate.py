"""The share of failures among the requests of the last seconds.

Requests are counted in ten buckets per endpoint, so memory does not grow with traffic: the window is exact to a tenth.
"""

from __future__ import annotations

from math import isfinite
from typing import Annotated

from msgspec import Meta

from router import Duration, Eject, Endpoint, Options, Outcome, Share, Tools

__all__ = ["ErrorRate", "ErrorRateOptions"]

_BUCKETS = 10


class ErrorRateOptions(Options, frozen=True):
    """Defaults: FIELD's, from Envoy and Linkerd.

    Args:
        window: seconds that are looked at.
        requests: fewer in the window are never judged.
        over: a larger share of failures ejects.
    """

    window: Duration = Duration(10)
    requests: Annotated[int, Meta(ge=1, le=1_000_000)] = 20
    over: Share = Share(0.5)

    def __post_init__(self) -> None:
        if not (isfinite(self.window) and self.window >= 0.01):
            raise ValueError('window must be a time of at least "10ms", such as "10s"')
        if self.over >= 1:
            raise ValueError('over must be below "100%": no share is larger than that')


class ErrorRate:
    """Ejects an endpoint of whose requests too large a share failed; what it has counted starts anew with that."""

    __slots__ = ("_over", "_requests", "_width", "_window", "_windows")

    def __init__(self, options: ErrorRateOptions, tools: Tools) -> None:
        self._window = options.window
        self._width = options.window / _BUCKETS
        self._requests = options.requests
        self._over = options.over
        self._windows: dict[Endpoint, _Window] = {}

    def observe(self, endpoint: Endpoint, outcome: Outcome, now: float) -> Eject | None:
        if outcome.result == "neutral":
            return None
        window = self._windows.get(endpoint)
        if window is None:
            window = self._windows[endpoint] = _Window()
        failed = outcome.result == "failure"
        window.add(int(now / self._width), failed)
        # Only a failure can raise the share.
        if not failed or window.total < self._requests or window.failed <= self._over * window.total:
            return None
        del self._windows[endpoint]
        share = f"{100 * window.failed / window.total:.0f}%"
        return Eject(f"{share} of {window.total} requests failed within {self._window:g} s")

    def forget(self, endpoint: Endpoint) -> None:
        self._windows.pop(endpoint, None)


class _Window:
    """Counts of the last buckets, and their sums."""

    __slots__ = ("_bucket", "_failed", "_total", "failed", "total")

    def __init__(self) -> None:
        self._bucket = 0
        self._clear()

    def _clear(self) -> None:
        self._total = [0] * _BUCKETS
        self._failed = [0] * _BUCKETS
        self.total = 0
        self.failed = 0

    def add(self, bucket: int, failed: bool) -> None:
        """Counts a request in this bucket of time."""
        if bucket > self._bucket:
            self._move(bucket)
        place = self._bucket % _BUCKETS
        self._total[place] += 1
        self.total += 1
        if failed:
            self._failed[place] += 1
            self.failed += 1

    def _move(self, bucket: int) -> None:
        if bucket - self._bucket >= _BUCKETS:
            self._clear()
        else:
            for passed in range(self._bucket + 1, bucket + 1):
                place = passed % _BUCKETS
                self.total -= self._total[place]
                self.failed -= self._failed[place]
                self._total[place] = self._failed[place] = 0
        self._bucket = bucket
