"""Failures in a row: of the connection (connect, reset, timeout, broken body), or a status that counts as one.

One success ends the row. Kept per endpoint: three counts and a phrase, only while its last request failed.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from router import Eject, Endpoint, Options, Outcome, Tools

__all__ = ["Consecutive", "ConsecutiveOptions"]

#: So many lost hedges weigh like one failure: with a delay of p95, one of twenty is lost by a healthy endpoint too.
_LOST = 4

Status = Annotated[int, Meta(ge=400, le=599)]


class ConsecutiveOptions(Options, frozen=True):
    """What counts, and how often. Source: Envoy's outlier detection.

    Args:
        failures: so many in a row eject.
        timeouts: so many late responses in a row do so too: each has cost somebody the whole time already. They count
            against `ejection.max_share`, unless they come to `failures`.
        statuses: of a response, those that count as a failure; any other is a success. (On probation, 500, 502, 503 and
            504 always count.)
    """

    failures: Annotated[int, Meta(ge=1, le=1000)] = 5
    timeouts: Annotated[int, Meta(ge=1, le=1000)] = 2
    statuses: tuple[Status, ...] = (500, 502, 503, 504)


class Consecutive:
    """Ejects after so many failures in a row, and says so again at each further one."""

    __slots__ = ("_failures", "_rows", "_statuses", "_timeouts")

    def __init__(self, options: ConsecutiveOptions, tools: Tools) -> None:
        self._failures = options.failures
        self._timeouts = options.timeouts
        self._statuses = frozenset(options.statuses)
        self._rows: dict[Endpoint, _Row] = {}

    def observe(self, endpoint: Endpoint, outcome: Outcome, now: float) -> Eject | None:
        if outcome.result == "neutral":
            return self._lost(endpoint) if getattr(outcome.error, "kind", "") == "outpaced" else None
        status = outcome.status
        # A body that broke is a failure of the connection, whatever the status before it was.
        answered = outcome.result == "success" or (outcome.phase == "head" and status > 0)
        if answered and status not in self._statuses:
            if self._rows:
                self._rows.pop(endpoint, None)
            return None
        row = self._rows.get(endpoint)
        if row is None:
            row = self._rows[endpoint] = _Row()
        late = getattr(outcome.error, "reason", "") == "timeout"
        row.add(f"status {status}" if answered else outcome.cause, connection=not answered, late=late)
        if row.count < self._failures and row.late < self._timeouts:
            return None
        return Eject(row.describe(), connection=row.connections >= self._failures)

    def _lost(self, endpoint: Endpoint) -> Eject | None:
        """Another endpoint was asked beside it, and answered first. Once may be chance; so often in a row is not."""
        row = self._rows.setdefault(endpoint, _Row())
        row.lost += 1
        return Eject(f"{row.lost} × slower than a hedge") if row.lost >= self._failures * _LOST else None

    def forget(self, endpoint: Endpoint) -> None:
        self._rows.pop(endpoint, None)


class _Row:
    """One row of failures."""

    __slots__ = ("alike", "connections", "count", "last", "late", "lost")

    def __init__(self) -> None:
        self.count = 0
        #: How many of the latest were alike, failures of the connection, and late.
        self.alike = 0
        self.connections = 0
        self.late = 0
        #: Hedges lost.
        self.lost = 0
        self.last = ""

    def add(self, phrase: str, *, connection: bool, late: bool) -> None:
        self.count += 1
        self.late = self.late + 1 if late else 0
        self.connections = self.connections + 1 if connection else 0
        self.alike = self.alike + 1 if phrase == self.last else 1
        self.last = phrase

    def describe(self) -> str:
        if self.alike == self.count:
            return f"{self.count} × {self.last}"
        return f"{self.count} failures in a row, the last: {self.last}"
