"""What the observer remembers of an exchange while it is under way, and the ids of spans."""

from __future__ import annotations

import os

from router import AtEnd
from router_tracing.contexts import Context

__all__ = ["Perhaps", "Recorded", "new_span_id"]

#: Span ids that nobody has yet, drawn from the system many at a time.
_fresh: list[str] = []
_FRESH, _NO_SPAN = 256, "0" * 16


def new_span_id() -> str:
    """16 digits, not all of them 0."""
    if not _fresh:
        _fresh.extend({*os.urandom(8 * _FRESH).hex(" ", 8).split()} - {_NO_SPAN})
    return _fresh.pop()


class Recorded:
    """An exchange that is recorded from its start. `writes`: whether endpoints are told of it."""

    __slots__ = ("children", "parent", "span_id", "trace_id", "writes")

    def __init__(self, trace_id: str, parent: Context | None, *, writes: bool = True) -> None:
        self.trace_id = trace_id
        self.span_id = new_span_id()
        self.parent = parent
        self.writes = writes
        self.children: list[str] = []


class Perhaps(AtEnd):
    """An exchange that a rule may keep at its end: an unusual one, or one that took longer than `within`.

    `span_id`: what went on names this span; "" where that is the observer's own, or names none of ours.
    """

    __slots__ = ("parent", "span_id", "within")

    def __init__(self, within: float, parent: Context | None = None, span_id: str = "") -> None:
        self.within = within
        self.parent = parent
        self.span_id = span_id
