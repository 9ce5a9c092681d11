"""A finished span as plain data: what the observer makes, and what every exporter takes. No OpenTelemetry in here.

The words are those of OpenTelemetry; times are nanoseconds since the epoch, ids are lower-case hexadecimal.
"""

from __future__ import annotations

from typing import Literal, Protocol

import msgspec

__all__ = ["Attributes", "Event", "Exporter", "Span", "Value", "Verdict"]

Value = str | bool | int | float
#: In order; no name stands twice.
Attributes = tuple[tuple[str, Value], ...]

#: What became of a batch: taken; to be sent again later; refused for good, so that it is lost.
Verdict = Literal["taken", "later", "refused"]


class Event(msgspec.Struct, frozen=True, gc=False):
    """Something that happened within a span."""

    at: int
    name: str
    attributes: Attributes = ()


class Span(msgspec.Struct, frozen=True, gc=False):
    """One span, over."""

    #: 32 digits.
    trace_id: str
    #: 16 digits.
    span_id: str
    #: 16 digits, or "" for the first span of a trace.
    parent_id: str
    name: str
    kind: Literal["server", "client"]
    start: int
    end: int
    attributes: Attributes
    events: tuple[Event, ...] = ()
    #: Why the span counts as an error, in a few words, or "" if its status code says so; None if it is no error.
    error: str | None = None
    #: Whether the parent stands in another process.
    remote: bool = False
    #: W3C tracestate as it came, "" without one.
    state: str = ""
    #: What `attributes` begin with, if other spans begin with the same: this very tuple, so that one look finds it.
    common: Attributes = ()


class Exporter(Protocol):
    """Takes finished spans away. Both methods run in the sender's thread, never in the event loop's."""

    def export(self, spans: list[Span]) -> tuple[Verdict, str]:
        """What became of the batch; and why, in a few words, where it was not taken. Must not raise."""

    def close(self) -> None: ...
