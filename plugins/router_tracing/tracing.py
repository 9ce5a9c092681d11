"""The observer: decides at the start what is recorded, hands the context on, and at the end makes spans of it.

A request that is not recorded costs two comparisons and one line, which the core knows in advance; no object is made
for it, and its head is looked through only where no earlier one had the same fields.
"""

from __future__ import annotations

import logging
import os
from typing import Any

from router import Attempt, Control, Endpoint, Exchange, Foretold, Outcome, Tools
from router_tracing.attributes import Recorder
from router_tracing.contexts import Context, Contexts
from router_tracing.environment import Environment
from router_tracing.finishing import Finisher
from router_tracing.options import Keep, TracingOptions
from router_tracing.outputs import make_exporter, resource_of
from router_tracing.sampling import Sampler, kept_because
from router_tracing.sender import Sender
from router_tracing.tokens import Perhaps, Recorded, new_span_id

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
        self._unrecorded = Perhaps(self._keep.slower) if self._keep else None
        names = options.propagators if options.propagators is not None else environment.propagators
        self._contexts = Contexts(("tracecontext",) if names is None else names)
        self._hint = self._contexts.hint
        #: What stands for heads without a context's field.
        self._bare: set[object] = set()
        #: The span of every request that is not recorded and began its trace. One id will do, as none of these traces
        #: has two of them; and around the trace id, what is sent to endpoints instead.
        self._own = new_span_id()
        self._around = tuple(self._contexts.lines("\0", self._own, sampled=False).split(b"\0"))
        self.foretold: Foretold | None = Foretold(self._bare, self._below, self._around, self._unrecorded)
        self._parents = options.parent
        self._clock = tools.clock
        self._finisher = Finisher(Recorder(options.query, environment.value_limit), self._own, tools.clock)
        self._senders = self._finisher.senders
        self._viewer: Any = None
        self._about = ""
        if environment.disabled:
            self._about = "no traces: OTEL_SDK_DISABLED is true"
            self.request_started = _nothing  # type: ignore[method-assign]
            self.foretold = None
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
        import asyncio  # commands that serve nothing come by here too, and are to be quick

        self._finisher.start(asyncio.get_running_loop())
        if self._about:
            log.info("%s", self._about)
        for sender in self._senders:
            sender.start()
        if self._viewer is not None:
            await self._viewer.start()

    async def close(self) -> None:
        import asyncio

        self._finisher.end()
        closing = [sender.aclose(_LAST) for sender in self._senders]
        if self._viewer is not None:
            # At the same time: whoever reads the page slowly takes no time from the last spans.
            closing.append(self._viewer.close())
        await asyncio.gather(*closing)

    # What the core tells

    def request_started(self, exchange: Exchange) -> Any:
        # Where nobody else observes, the core does by itself what stands here, but for those that are recorded.
        if exchange.trace_id:
            return self._beside(exchange)
        if exchange.alike is None or not self._is_bare(exchange):
            return self._looked_at(exchange)
        trace_id = exchange.trace_id = exchange.id
        if trace_id[16:] < self._below:
            return Recorded(trace_id, None)
        exchange.added += trace_id.encode().join(self._around)
        return self._unrecorded

    def _is_bare(self, exchange: Exchange) -> bool:
        """Whether no head of this kind has a context's field."""
        bare = self._bare
        if exchange.alike not in bare:
            if self._hint(exchange.head):
                return False
            if len(bare) >= _MOST_BARE:
                bare.clear()
            bare.add(exchange.alike)
        return True

    def _looked_at(self, exchange: Exchange) -> Any:
        """The same for a head that may hold a context, or a request id that is not the router's own."""
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
    ) -> Recorded | Perhaps | None:
        if records:
            return Recorded(trace_id, parent, writes=writes)
        usual = not self._keep or (parent is None and writes)
        return self._unrecorded if usual else Perhaps(self._keep.slower, parent, span_id)

    def attempt_started(
        self, token: Recorded, exchange: Exchange, attempt: Attempt, headers: list[tuple[bytes, bytes]]
    ) -> None:
        if not token.writes:
            return
        # An attempt that never got a connection is told of by nobody; its place is kept.
        while len(token.children) <= attempt.number:
            token.children.append(new_span_id())
        child = token.children[attempt.number]
        headers += self._contexts.write(token.trace_id, child, sampled=True)

    def attempt_ended(self, token: Recorded, exchange: Exchange, attempt: Attempt, outcome: Outcome) -> None:
        pass

    def request_ended(self, token: Recorded | Perhaps, exchange: Exchange, error: Exception | None) -> None:
        now, kept = self._clock(), ""
        if type(token) is not Recorded:
            kept = kept_because(self._keep, exchange, error, now)
            if not kept:
                return
        self._finisher.add(token, exchange, error, now, kept)

    def explain(self, token: Recorded | Perhaps) -> bool:
        """Whether a decision is worth explaining: always where it is recorded; else once something has gone wrong."""
        return type(token) is Recorded or self._keep.errors or self._keep.retried

    def endpoint_changed(self, endpoint: Endpoint, cause: str) -> None:
        pass

    def table_swapped(self, version: int) -> None:
        pass
