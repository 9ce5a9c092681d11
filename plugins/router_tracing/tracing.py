"""The observer: decides at the start what is recorded, hands the context on, and at the end makes spans of it.

A request that is not recorded costs two comparisons and one line; no object is made for it, and its head is looked
through only where no earlier one had the same fields.
"""

from __future__ import annotations

import logging
import os
import time
from typing import Any

from router import AtEnd, Attempt, Control, Endpoint, Exchange, Outcome, Tools
from router_tracing.attributes import Recorder
from router_tracing.contexts import Context, Contexts
from router_tracing.environment import Environment
from router_tracing.options import Keep, TracingOptions
from router_tracing.outputs import make_exporter, resource_of
from router_tracing.sampling import Sampler, kept_because
from router_tracing.sender import Sender

__all__ = ["Tracing"]

log = logging.getLogger("router_tracing")

_DEFAULT_RATIO = 0.01
_DEFAULT_BUFFER = 8192
#: More than there are kinds of heads that the core knows.
_MOST_BARE = 1024
#: Seconds that the last spans get at the end; the core gives five.
_LAST = 4.0
#: Seconds after which the page shows a trace.
_SHOWN_AFTER = 0.2


#: Span ids that nobody has yet, drawn from the system many at a time.
_fresh: list[str] = []
_FRESH, _NO_SPAN = 256, "0" * 16


def new_span_id() -> str:
    """16 digits, not all of them 0."""
    if not _fresh:
        _fresh.extend({*os.urandom(8 * _FRESH).hex(" ", 8).split()} - {_NO_SPAN})
    return _fresh.pop()


class _Recorded:
    """An exchange that is recorded from its start. `writes`: whether endpoints are told of it."""

    __slots__ = ("children", "parent", "span_id", "trace_id", "writes")

    def __init__(self, trace_id: str, parent: Context | None, *, writes: bool = True) -> None:
        self.trace_id = trace_id
        self.span_id = new_span_id()
        self.parent = parent
        self.writes = writes
        self.children: list[str] = []


class _Perhaps(AtEnd):
    """An exchange that a rule may keep at its end: an unusual one, or one that took longer than `within`.

    `span_id`: what went on names this span; "" where that is the observer's own, or names none of ours.
    """

    __slots__ = ("parent", "span_id", "within")

    def __init__(self, within: float, parent: Context | None = None, span_id: str = "") -> None:
        self.within = within
        self.parent = parent
        self.span_id = span_id


def _nothing(exchange: Exchange) -> None:
    """What a request is told with OTEL_SDK_DISABLED."""


class Tracing:
    """Observer `tracing`."""

    #: Ids are written anew from their digits, and nothing else goes into the lines.
    whole_lines = True

    def __init__(self, options: TracingOptions, tools: Tools) -> None:
        environment = Environment.read(os.environ)
        sampling = options.sampling if options.sampling is not None else environment.sampling
        parent_based = environment.parent_based or options.sampling is not None
        self._sampler = Sampler(_DEFAULT_RATIO if sampling is None else sampling, parent_based=parent_based)
        self._below = self._sampler.below
        self._keep = Keep.read(options.keep)
        self._unrecorded = _Perhaps(self._keep.slower) if self._keep else None
        names = options.propagators if options.propagators is not None else environment.propagators
        self._contexts = Contexts(("tracecontext",) if names is None else names)
        self._hint = self._contexts.hint
        #: What stands for heads without a context's field.
        self._bare: set[object] = set()
        #: The span of every request that is not recorded and began its trace. One id will do, as none of these traces
        #: has two of them; and around the trace id, what is sent to endpoints instead.
        self._own = new_span_id()
        self._around = self._contexts.lines("\0", self._own, sampled=False).decode().split("\0")
        self._parents = options.parent
        self._recorder = Recorder(options.query, environment.value_limit)
        self._clock = tools.clock
        self._senders: list[Sender] = []
        self._viewer: Any = None
        self._about = ""
        if environment.disabled:
            self._about = "no traces: OTEL_SDK_DISABLED is true"
            self.request_started = _nothing  # type: ignore[method-assign]
        else:
            self._make_outputs(options, tools, environment)

    def _make_outputs(self, options: TracingOptions, tools: Tools, environment: Environment) -> None:
        file = tools.folder / options.file if options.file else None
        most = options.buffer or environment.buffer or _DEFAULT_BUFFER
        kind = options.export or environment.export or "otlp"
        if kind != "none":
            made = make_exporter(
                kind, endpoint=options.endpoint, file=file, service=options.service, environment=environment
            )
            self._senders.append(Sender(made, most=most, batch=environment.batch, delay=environment.delay))
            kept = f", and kept if {' or '.join(options.keep)}" if options.keep else ""
            share = "every trace is" if self._below == "g" else f"{self._sampler.ratio:.3g} of the traces are"
            self._about = f"{share} recorded{kept}; sent to {getattr(made, 'place', kind)}"
        if options.viewer:
            from router_tracing.store import Store
            from router_tracing.viewer import Viewer

            store = Store()
            self._viewer = Viewer(store, options.viewer, lambda: resource_of(options.service, environment))
            self._senders.append(Sender(store, delay=_SHOWN_AFTER))

    async def start(self, control: Control) -> None:
        if self._about:
            log.info("%s", self._about)
        for sender in self._senders:
            sender.start()
        if self._viewer is not None:
            await self._viewer.start()

    async def close(self) -> None:
        import asyncio  # commands that serve nothing come by here too, and are to be quick

        closing = [sender.aclose(_LAST) for sender in self._senders]
        if self._viewer is not None:
            # At the same time: whoever reads the page slowly takes no time from the last spans.
            closing.append(self._viewer.close())
        await asyncio.gather(*closing)

    # What the core tells

    def request_started(self, exchange: Exchange) -> Any:
        if exchange.trace_id or exchange.alike not in self._bare:
            return self._looked_at(exchange)
        trace_id = exchange.trace_id = exchange.id
        # One digit tells of most that they are not recorded.
        if trace_id[16] <= self._below[0] and trace_id[16:] < self._below:
            return _Recorded(trace_id, None)
        exchange.added += trace_id.join(self._around).encode()
        return self._unrecorded

    def _looked_at(self, exchange: Exchange) -> Any:
        """The same for a head that may hold a context, or a request id that is not the router's own."""
        if exchange.trace_id:
            return self._beside(exchange)
        if exchange.alike is not None and not self._hint(exchange.head):
            if len(self._bare) >= _MOST_BARE:
                self._bare.clear()
            self._bare.add(exchange.alike)
            return self.request_started(exchange)
        believed = self._parents == "honour" or (self._parents == "trusted" and exchange.trusted)
        parent = self._contexts.read(exchange.head) if believed else None
        if parent is not None:
            trace_id = parent.trace_id
        else:
            trace_id = new_span_id() + new_span_id() if exchange.named else exchange.id
        exchange.trace_id = trace_id
        records, span_id = self._sampler.records(trace_id, parent), ""
        if records or parent is None or parent.sampled is not False:
            # What goes on says this, and nothing besides.
            exchange.dropped += self._contexts.replaced if parent is not None else self._contexts.fields
            if not records:
                span_id = self._own if parent is None else new_span_id()
                exchange.added += self._contexts.lines(trace_id, span_id, sampled=False)
        return self._token(trace_id, parent, span_id, records=records)

    def _beside(self, exchange: Exchange) -> Any:
        """The same after another observer that has begun the trace: what endpoints are told is up to that one."""
        trace_id = exchange.trace_id
        parent = self._contexts.read(exchange.head) if self._hint(exchange.head) else None
        if parent is not None and parent.trace_id != trace_id:
            parent = None
        records = self._sampler.records(trace_id, parent)
        # That one may put many requests into a trace: none of them is told of under an id that another may have.
        return self._token(trace_id, parent, new_span_id(), records=records, writes=False)

    def _token(
        self, trace_id: str, parent: Context | None, span_id: str, *, records: bool, writes: bool = True
    ) -> _Recorded | _Perhaps | None:
        if records:
            return _Recorded(trace_id, parent, writes=writes)
        usual = not self._keep or (parent is None and writes)
        return self._unrecorded if usual else _Perhaps(self._keep.slower, parent, span_id)

    def attempt_started(
        self, token: _Recorded, exchange: Exchange, attempt: Attempt, headers: list[tuple[bytes, bytes]]
    ) -> None:
        if not token.writes:
            return
        # An attempt that never got a connection is told of by nobody; its place is kept.
        while len(token.children) <= attempt.number:
            token.children.append(new_span_id())
        child = token.children[attempt.number]
        headers += self._contexts.write(token.trace_id, child, sampled=True)

    def attempt_ended(self, token: _Recorded, exchange: Exchange, attempt: Attempt, outcome: Outcome) -> None:
        pass

    def request_ended(self, token: _Recorded | _Perhaps, exchange: Exchange, error: Exception | None) -> None:
        now, kept = self._clock(), ""
        if type(token) is not _Recorded:
            kept = kept_because(self._keep, exchange, error, now)
            if not kept:
                return
        self._record(token, exchange, error, now, kept)

    def explain(self, token: _Recorded | _Perhaps) -> bool:
        """Whether a decision is worth explaining: always where it is recorded; else once something has gone wrong."""
        return type(token) is _Recorded or self._keep.errors or self._keep.retried

    def endpoint_changed(self, endpoint: Endpoint, cause: str) -> None:
        pass

    def table_swapped(self, version: int) -> None:
        pass

    # The end

    def _record(
        self, token: _Recorded | _Perhaps, exchange: Exchange, error: Exception | None, now: float, kept: str
    ) -> None:
        parent, trace_id = token.parent, exchange.trace_id
        if isinstance(token, _Recorded):
            span_id, children = token.span_id, token.children
        else:
            span_id, children = token.span_id or (self._own if parent is None else new_span_id()), []
        children += [new_span_id() for _ in exchange.attempts[len(children) :]]
        parent_id, state = (parent.span_id, parent.state) if parent is not None else ("", "")
        spans = self._recorder.spans(
            exchange,
            error,
            (trace_id, span_id, parent_id),
            children,
            time.time() - now,
            now,
            remote=parent is not None,
            state=state,
            kept=kept,
        )
        for sender in self._senders:
            sender.put(spans)
