"""From a request to its pool: the route, its filters, and what it changes or answers itself. Steps 2 and 3."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from router.errors import BadRequest, BodyTooLarge, InternalError, NoRoute, RouterError
from router.explanation import Explanation
from router.net.ask import Ask
from router.net.filtering import run_filters
from router.observe import Tokens
from router.policy.dispatch import Dispatch
from router.policy.headers import without_fields
from router.policy.pool import Pool
from router.policy.routes import Route

__all__ = ["Entry"]

log = logging.getLogger("router")

_NEVER = float("inf")


class Entry(Ask, eq=False):
    """What Forward is made upon, together with Ask and Reply; knows the route, nothing of attempts."""

    #: The task that asks the route's filters.
    _filtering: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Finds the route; then filters, then the pool."""
        runtime, exchange = self._runtime, self.exchange
        if runtime.observers.enabled:
            # What was foretold stands in the head already.
            if exchange.trace_id:
                heard = runtime.observers.unasked
            else:
                heard = runtime.observers.request_started(exchange)
                if exchange.dropped:
                    self._given = without_fields(self._given, exchange.dropped)
                    exchange.cookie_at = 0
                if exchange.added:
                    self._vouched = exchange.added + self._vouched
            if heard is not None:
                tokens, self._listeners = heard
                if tokens is not None:
                    self._tokens = tokens
        try:
            route: Route | None = runtime.table.routes.match(exchange)
        except ValueError as error:
            self.fail(BadRequest(str(error)))
            return
        if route is None:
            self.fail(NoRoute(f"{exchange.method} {exchange.host}"))
            return
        exchange.route = route
        if route.timeout != _NEVER:
            exchange.deadline = exchange.started + route.timeout
        if route.plain:
            self._enter(route.pool, exchange.started)
        elif self.body is not None and not self.body.allow(route.max_body):
            self.fail(BodyTooLarge(f"more than max_body = {route.max_body:g} bytes"))
        elif route.filters:
            self._filtering = runtime.loop.create_task(self._filter(route))
        else:
            self._act(route)

    async def _filter(self, route: Route) -> None:
        result = await run_filters(route.filters, self.exchange)
        self._filtering = None
        try:
            if isinstance(result, RouterError):
                self.fail(result)
            elif result is not None and not self._over:
                self._answer(result)
                self._close(None, self._runtime.clock())
            elif not self._over:
                self._act(route)
        except Exception as error:
            # Nobody waits for this task: without an answer the client would wait for ever.
            log.error("request %s: what a filter answered cannot be written: %r", self.exchange.id, error)
            self.fail(InternalError("a filter's answer"))

    def _act(self, route: Route) -> None:
        """Does what the route says besides naming a pool."""
        exchange = self.exchange
        now = self._runtime.clock()
        self._edits = True
        if route.answer is not None:
            try:
                self._answer(route.answer.response(exchange))
            except RouterError as error:
                self.fail(error)
            else:
                self._close(None, now)
            return
        if route.rewriting is not None:
            self._rewrite(route.rewriting)
        self._enter(route.pool if route.split is None else route.split.choose(exchange, route.pool.rng), now)

    def _rewrite(self, rewriting: Any) -> None:
        given, exchange = self._given, self.exchange
        at = given.find(b"\r\n")
        target, lines = rewriting.request(exchange.target, given[at:])
        self._given = f"{exchange.method} {target} HTTP/1.1".encode("utf-8", "surrogateescape") + lines
        if exchange.added:
            names = tuple(line.partition(b":")[0].lower() for line in exchange.added.splitlines())
            self._given = without_fields(self._given, names)
        exchange.rewritten = target
        exchange.cookie_at = 0

    def _enter(self, pool: Pool, now: float) -> None:
        self.exchange.pool = pool.name
        if pool.affinity is not None:
            self._follows = pool.moves_only and not self._edits
            self._edits = True
            if pool.strip is not None and (cookie := self.exchange.cookie):
                self._given = pool.strip(self._given, cookie, self.exchange.cookie_at)
        self._dispatch = Dispatch(pool, self.exchange, self._listeners is not None)
        if self._tokens is not None or self.exchange.asks:
            self._edits, self._follows = self._edits or self.exchange.asks, self._follows and not self.exchange.asks
            self._advance(now, self._explained(self._tokens, now))
        else:
            self._advance(now)

    # Forward's

    def fail(self, error: RouterError) -> None: ...
    def _close(self, error: RouterError | None, now: float) -> None: ...
    def _advance(self, now: float, explained: Explanation | None = None) -> None: ...
    def _explained(self, tokens: Tokens | None, now: float) -> Explanation | None: ...
