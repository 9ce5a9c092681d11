"""The last traces, kept in memory for the page that shows them: an exporter that sends nothing anywhere.

Spans come in the sender's thread, pages read in others: all methods may be called from any, and none holds the lock
while it works. Bounded in traces, in bytes, and in what a single trace may take: a client can send one id for ever.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator

import msgspec

from router_tracing.jaeger import plain
from router_tracing.sender import size_of
from router_tracing.span import Span, Value, Verdict

__all__ = ["Kept", "Store", "Summary"]

#: The part of the store that one trace may fill, and the spans that it may have.
_SHARE = 8
_SPANS = 256


class Summary(msgspec.Struct, frozen=True):
    """One trace in the list: its latest request, and what marks the trace as a whole."""

    id: str
    #: Microseconds since the epoch.
    start: int
    #: Microseconds.
    duration: int
    method: str
    path: str
    route: str
    pool: str
    #: 0 where there was no response.
    status: int
    #: In the order of the attempts; the same one twice if it was tried twice.
    endpoints: tuple[str, ...]
    #: Requests with this trace id.
    requests: int
    error: str
    retried: bool
    hedged: bool
    kept: str


class Kept:
    """One trace: attributes `spans`, in the order of their ends, and `lost`, the spans beyond what a trace may have."""

    __slots__ = ("lost", "size", "spans", "summary")

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.lost = 0
        self.size = 0
        #: None where it has to be made anew.
        self.summary: Summary | None = None


class Store:
    """An Exporter that keeps what it is given.

    Args:
        traces: how many are kept at most; the oldest go first.
        size: bytes that all may take at most, as `size_of` counts them.
    """

    def __init__(self, traces: int = 500, size: int = 16 << 20) -> None:
        self._most = traces
        self._room = size
        self._lock = threading.Lock()
        #: Oldest first.
        self._kept: dict[str, Kept] = {}
        self._size = 0
        self._version = 0

    def export(self, spans: list[Span]) -> tuple[Verdict, str]:
        """Takes every batch."""
        for span in spans:
            size = size_of((span,))
            with self._lock:
                self._add(span, size)
                # Freed once the lock is: that takes a while.
                gone = self._make_room()
            del gone
        with self._lock:
            self._version += 1
        return "taken", ""

    def close(self) -> None:
        """Nothing is to be flushed: what is kept stays readable."""

    @property
    def version(self) -> int:
        """Another number whenever something came."""
        return self._version

    def summaries(self) -> Iterator[Summary]:
        """What the list shows, newest first; made while it is gone through, without what goes meanwhile."""
        for trace_id in self._newest():
            with self._lock:
                kept = self._kept.get(trace_id)
                made, spans = (kept.summary, list(kept.spans)) if kept else (None, [])
            if kept is None:
                continue
            if made is None:
                made = _summed_up(trace_id, spans)
                with self._lock:
                    if len(kept.spans) == len(spans):
                        kept.summary = made
            yield made

    def trace(self, trace_id: str) -> tuple[list[Span], int]:
        """The spans of a trace by their starts, and how many more there were; ([], 0) if it is not kept."""
        with self._lock:
            kept = self._kept.get(trace_id)
            found, lost = (list(kept.spans), kept.lost) if kept else ([], 0)
        return _ordered(found), lost

    def traces(self) -> Iterator[list[Span]]:
        """The spans of each, newest first; looked up while it is gone through, without what goes meanwhile."""
        for trace_id in self._newest():
            spans, _ = self.trace(trace_id)
            if spans:
                yield spans

    def _newest(self) -> list[str]:
        with self._lock:
            return list(reversed(self._kept))

    def _make_room(self) -> list[Kept]:
        """Lets go of the oldest; returns them."""
        gone = []
        while self._kept and (len(self._kept) > self._most or self._size > self._room):
            gone.append(self._kept.pop(next(iter(self._kept))))
            self._size -= gone[-1].size
        return gone

    def _add(self, span: Span, size: int) -> None:
        # A trace that goes on counts as new.
        kept = self._kept.pop(span.trace_id, None) or Kept()
        self._kept[span.trace_id] = kept
        if len(kept.spans) >= _SPANS or (kept.spans and kept.size + size > self._room // _SHARE):
            kept.lost += 1
            return
        kept.spans.append(span)
        kept.size += size
        self._size += size
        kept.summary = None


def _ordered(spans: Iterable[Span]) -> list[Span]:
    """By their starts; a request before its attempts."""
    return sorted(spans, key=lambda span: (span.start, span.kind == "client"))


def _summed_up(trace_id: str, spans: Iterable[Span]) -> Summary:
    ordered = _ordered(spans)
    servers = [span for span in ordered if span.kind == "server"]
    last = servers[-1] if servers else ordered[-1]
    attempts = [span for span in ordered if span.kind == "client" and span.parent_id == last.span_id]
    of: dict[str, Value] = {key: plain(value) for key, value in last.attributes}
    tried = [dict(span.attributes) for span in attempts]
    every = [dict(span.attributes) for span in ordered]
    return Summary(
        id=trace_id,
        start=last.start // 1000,
        duration=max(last.end // 1000 - last.start // 1000, 0),
        method=str(of.get("http.request.method", "")),
        path=str(of.get("url.path", "")),
        route=str(of.get("http.route", "")),
        pool=str(of.get("lb.pool", "")),
        status=_whole(of.get("http.response.status_code")),
        endpoints=tuple(str(plain(attributes.get("lb.endpoint", ""))) for attributes in tried),
        requests=len(servers),
        error=next((plain(span.error or "error") for span in reversed(servers) if span.error is not None), ""),
        retried=any("http.request.resend_count" in own and not own.get("lb.hedge") for own in every),
        hedged=any(bool(own.get("lb.hedge")) for own in every),
        kept=str(next((own["lb.kept"] for own in every if "lb.kept" in own), "")),
    )


def _whole(value: Value | None) -> int:
    return value if isinstance(value, int) else 0
