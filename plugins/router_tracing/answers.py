"""What the page of traces is answered with: JSON, made piece by piece.

Runs in threads. A piece is made in less than a millisecond, since all other threads wait for it, and it is all of an
answer that is in memory, however slowly that is read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import msgspec

from router_tracing.jaeger import listed, plain, to_jaeger
from router_tracing.span import Attributes, Span
from router_tracing.store import Store

__all__ = ["Answers", "NotKept", "in_pieces"]

#: Bytes from which on a piece is worth a turn.
_PIECE = 32 * 1024


class NotKept(Exception):
    """There is no such trace, or not any more."""


class Answers:
    """Makes them; nothing is done before the first piece is asked for.

    Args:
        store: what they tell of.
        resource: says what this process is in the file for Jaeger, its service.name first of all; asked once.
    """

    def __init__(self, store: Store, resource: Callable[[], Mapping[str, Any]]) -> None:
        self._store = store
        self._resource = resource
        self._process: tuple[str, Attributes] | None = None

    def listed(self) -> Iterator[bytes]:
        """The list of all traces."""
        yield b'{"traces":['
        yield from listed(self._store.summaries())
        yield b"]}"

    def trace(self, trace_id: str) -> Iterator[bytes]:
        """One trace as the page reads it; raises NotKept."""
        spans, lost = self._spans(trace_id)
        yield b'{"id":%b,"lost":%d,"spans":[' % (msgspec.json.encode(trace_id), lost)
        yield from listed(map(_shown, spans))
        yield b"]}"

    def file(self, trace_id: str = "") -> Iterator[bytes]:
        """One trace, or all, as Jaeger's UI opens them; raises NotKept."""
        if self._process is None:
            self._process = _described(self._resource())
        traces = [self._spans(trace_id)[0]] if trace_id else self._store.traces()
        yield from to_jaeger(traces, *self._process)

    def _spans(self, trace_id: str) -> tuple[list[Span], int]:
        spans, lost = self._store.trace(trace_id)
        if not spans:
            raise NotKept
        return spans, lost


def in_pieces(parts: Iterable[bytes]) -> Iterator[bytes]:
    """The same, in pieces that are worth a turn."""
    held: list[bytes] = []
    size = 0
    for part in parts:
        held.append(part)
        size += len(part)
        if size >= _PIECE:
            yield b"".join(held)
            held, size = [], 0
    if held:
        yield b"".join(held)


def _described(resource: Mapping[str, Any]) -> tuple[str, Attributes]:
    """The name of a process, and what else stands of it; lists as JSON, since tags hold none."""
    tags = {
        key: value if isinstance(value, str | bool | int | float) else msgspec.json.encode(value).decode()
        for key, value in resource.items()
    }
    return str(tags.pop("service.name", "router")), tuple(tags.items())


def _shown(span: Span) -> dict[str, Any]:
    """A span as the page reads it; times are microseconds."""
    return {
        "id": span.span_id,
        "parent": span.parent_id,
        "remote": span.remote,
        "name": plain(span.name),
        "kind": span.kind,
        "start": span.start // 1000,
        "duration": max(span.end - span.start, 0) / 1000,
        "error": plain(span.error),
        "attributes": _pairs(span.attributes),
        "events": [
            {"at": (event.at - span.start) / 1000, "name": plain(event.name), "attributes": _pairs(event.attributes)}
            for event in span.events
        ],
    }


def _pairs(attributes: Attributes) -> dict[str, Any]:
    return {key: plain(value) for key, value in attributes}
