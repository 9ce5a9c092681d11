"""One exchange: does with real I/O what Dispatch says. Steps 3 to 12 of the README's picture.

Driven by events (a head, a piece of a body, a failure, a timer, a client that leaves), not by a task: the usual request
makes no future and no task at all. Whatever happens, `_close` runs once and leaves no lease open.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Set

from msgspec.structs import replace

from router.errors import ClientGone, ConnectError, Outpaced, RouterError
from router.explanation import Explanation
from router.model import Attempt, Endpoint
from router.net.connections import Connections
from router.net.entry import Entry
from router.net.runtime import wake
from router.net.sink import Switch
from router.net.upstream import UpstreamConnection
from router.observe import Tokens
from router.policy.actions import RELAY, Answer, Park, Relay, Retry, Sleep
from router.policy.explaining import explain_decision
from router.policy.plain import ResponseHead
from router.policy.pool import Pool
from router.policy.retry import IDEMPOTENT

__all__ = ["Forward"]

log = logging.getLogger("router")


class Forward(Entry, eq=False):
    """The driver of one exchange. Made by its client connection, forgotten when it calls `client.done`."""

    _timer: asyncio.TimerHandle | None = None

    # What Dispatch says

    def advance(self) -> None:
        """Asks for the next step and begins it. Called by timers, and when a ticket is woken."""
        self._cancel_timer()
        if not self._over:
            now = self._runtime.clock()
            self._advance(now, self._explained(self._listeners, now))

    def _advance(self, now: float, explained: Explanation | None = None) -> None:
        """The same. `explained`: why it will go where it goes, where somebody wants to know."""
        dispatch = self._dispatch
        action = dispatch.next(now)
        if type(action) is Attempt:
            if explained is not None:
                chosen = replace(explained, chosen=action.endpoint.identity)
                self.exchange.explained = action.explained = chosen
            self._try(action, dispatch.pool, now)
        elif type(action) is Answer:
            self._explain_end(explained or self._explained(self._listeners, now))
            self.fail(action.error)
        elif type(action) is Park or type(action) is Sleep:
            if type(action) is Park:
                action.ticket.wake = self.advance
                self._explain_end(explained)
            self._call_later(action.until - now)
        elif dispatch.live:
            self._call_for_hedge(dispatch.live[-1], now)

    def _explained(self, tokens: Tokens | None, now: float) -> Explanation | None:
        """Why the exchange goes where it goes next, if somebody wants to know: as things are before that is decided."""
        exchange, runtime = self.exchange, self._runtime
        if exchange.asks or (tokens is not None and runtime.observers.explains(tokens, exchange)):
            try:
                return explain_decision(runtime.table, exchange, self._dispatch, now)
            except Exception as error:
                log.error("request %s: the decision cannot be explained: %r", exchange.id, error)
        return None

    def _explain_end(self, explained: Explanation | None) -> None:
        """Keeps why nothing is sent now, but never in place of why something was."""
        self.exchange.explained = self.exchange.explained or explained

    def _call_later(self, seconds: float) -> None:
        self._timer = self._runtime.loop.call_later(max(0.0, seconds), self.advance)

    def _call_for_hedge(self, slow: Attempt, now: float) -> None:
        """Timers may fire a little before their time, so this is asked again until it is over."""
        left = 0.0 if slow.hedge_after is None or self.has_body else slow.started + slow.hedge_after - now
        if left > 0:
            self._call_later(left + 0.001)

    def _try(self, attempt: Attempt, pool: Pool, now: float) -> None:
        endpoint = attempt.endpoint
        connections: Connections = endpoint.connections
        if connections is None:
            connections = endpoint.connections = Connections(
                self._runtime, endpoint, pool.timeouts.stream, pool.security
            )
        if attempt.hedge_after is not None:
            self._call_for_hedge(attempt, now)
        conn = connections.take(now, fresh=self.exchange.method not in IDEMPOTENT)
        if conn is not None:
            self._send(conn, attempt, now)
        else:
            self._runtime.spawn(self._connect(connections, attempt, pool.timeouts.connect))

    async def _connect(self, connections: Connections, attempt: Attempt, seconds: float) -> None:
        try:
            conn = await connections.connect(min(seconds, attempt.timeout))
        except RouterError as error:
            if attempt.open:
                self._attempt_failed(attempt, error, sent=False)
            return
        if attempt.open and conn.is_alive():
            self._send(conn, attempt, self._runtime.clock())
        elif conn.is_alive():
            connections.put(conn, self._runtime.clock())
        elif attempt.open:
            self._attempt_failed(attempt, ConnectError("closed as soon as it was open"), sent=False)

    def _send(self, conn: UpstreamConnection, attempt: Attempt, now: float) -> None:
        if self._tokens is not None:
            head = self._head = self._observed_head(attempt)
        else:
            # The client's own bytes, and after them what the router vouches for.
            head = self._head or self._given + self._vouched
            self._head = head
        attempt.sent_at = now
        self._conns.append(conn)
        conn.begin(self, attempt, self.exchange, now)
        if not self.has_body:
            self._runtime.write(conn.transport, head)
        else:
            self._send_with_body(conn, head)

    @property
    def is_over(self) -> bool:
        return self._over

    def is_at(self, endpoints: Set[Endpoint]) -> bool:
        """Whether an attempt at one of these endpoints is under way."""
        return self._dispatch is not None and any(attempt.endpoint in endpoints for attempt in self._dispatch.live)

    def leads_to(self, pool: Pool) -> bool:
        """Whether this exchange uses a pool, or may yet."""
        route = self.exchange.route
        return route is not None and pool in route.pools

    def needs(self, plugin: object) -> bool:
        """Whether this exchange may still call a plugin object."""
        if any(observer is plugin for observer, _ in self._listeners or ()):
            return True
        route = self.exchange.route
        return route is not None and (any(each is plugin for each in route.filters) or route.leads_to(plugin))

    # The response

    def on_head(self, conn: UpstreamConnection, head: ResponseHead, body: bytes, done: bool, now: float) -> None:
        dispatch, attempt = self._dispatch, conn.attempt
        verdict = dispatch.head(attempt, head[0], now)
        if verdict is not RELAY:
            if isinstance(verdict, Retry):
                self._let_go(conn, attempt, done, now)
                return
            self._cancel(verdict, now)
        self._relay_head(head, body, done, attempt.endpoint)
        if done:
            self._complete(conn, now)
        elif self._client.is_full:
            conn.pause()

    def on_switch(self, conn: UpstreamConnection, switch: Switch, now: float) -> None:
        """The endpoint has agreed to WebSocket: from here on, bytes go from socket to socket."""
        dispatch, attempt = self._dispatch, conn.attempt
        verdict = dispatch.head(attempt, 101, now)
        if isinstance(verdict, Relay):
            self._cancel(verdict, now)
        self._conns.remove(conn)

        def closed(error: Exception | None, relayed: tuple[int, int]) -> None:
            now = self._runtime.clock()
            self.exchange.relayed = relayed
            self._attempt_ended(attempt, None, now)
            self._close(None, now)

        self._relay_switch(switch, attempt.endpoint)
        self._client.switch(switch, closed)

    def _let_go(self, conn: UpstreamConnection, attempt: Attempt, done: bool, now: float) -> None:
        """This response is not the one: tries again."""
        self._conns.remove(conn)
        if not done:
            conn.abandon()
        self._attempt_ended(attempt, None, now)
        self._advance(now, self._explained(self._listeners, now))

    def on_body(self, conn: UpstreamConnection, data: bytes, done: bool, now: float) -> None:
        self._relay_body(data, done)
        if done:
            self._complete(conn, now)

    def client_full(self) -> None:
        """The client reads more slowly than the endpoint sends."""
        for conn in self._conns:
            conn.pause()

    def client_drained(self) -> None:
        for conn in self._conns:
            conn.resume()

    # Ends

    def on_failed(self, conn: UpstreamConnection, error: RouterError) -> None:
        if conn in self._conns:
            self._conns.remove(conn)
        if self._passed_on:
            now = self._runtime.clock()
            self._attempt_ended(conn.attempt, error, now)
            self._close(error, now)
        else:
            self._attempt_failed(conn.attempt, error, sent=conn.was_sent())

    def _attempt_failed(self, attempt: Attempt, error: RouterError, *, sent: bool) -> None:
        dispatch = self._dispatch
        now = self._runtime.clock()
        dispatch.failed(attempt, error, sent, now)
        self._tell_ended(attempt)
        wake(dispatch.pool, now)
        self.advance()

    def _complete(self, conn: UpstreamConnection, now: float) -> None:
        """The response has been passed on to its last byte: `_close` without what only a failure leaves to do."""
        self._conns.remove(conn)
        dispatch = self._dispatch
        dispatch.ended(conn.attempt, None, now)
        if self._tokens is not None:
            self._tell_ended(conn.attempt)
        if dispatch.live or self._timer is not None:
            self._close(None, now)
            return
        self._over = True
        dispatch.close(now)
        if self._listeners is not None:
            self._runtime.observers.request_ended(self._listeners, self.exchange, None, now)
        if dispatch.pool.queue.waiting:
            wake(dispatch.pool, now)
        closes = self.closes or (self.has_body and self._client.body is not None)
        self._client.done("close" if closes else "keep", now)

    def _attempt_ended(self, attempt: Attempt, error: RouterError | None, now: float) -> None:
        dispatch = self._dispatch
        dispatch.ended(attempt, error, now)
        self._tell_ended(attempt)
        wake(dispatch.pool, now)

    def _cancel(self, verdict: Relay, now: float) -> None:
        """Ends the attempts that another one has beaten."""
        for attempt in verdict.cancel:
            for conn in [c for c in self._conns if c.attempt is attempt]:
                self._conns.remove(conn)
                conn.abandon()
            self._attempt_ended(attempt, Outpaced(), now)

    def client_gone(self) -> None:
        """The client left: nothing more can be written."""
        self._close(ClientGone(), self._runtime.clock())

    def fail(self, error: RouterError) -> None:
        """Ends the exchange: with an answer, or by breaking off the response that was begun."""
        if self._over:
            return
        if not self._passed_on:
            self._answer_error(error)
        self._close(error, self._runtime.clock())

    def _close(self, error: RouterError | None, now: float) -> None:
        """Step 12: runs once, in every path."""
        if self._over:
            return
        self._over = True
        self._cancel_timer()
        for conn in self._conns:
            conn.abandon()
        if self._filtering is not None:
            self._filtering.cancel()
        dispatch = self._dispatch
        if dispatch is not None:
            live = tuple(dispatch.live)
            dispatch.close(now)
            for attempt in live:
                self._tell_ended(attempt)
            if dispatch.pool.queue.waiting:
                wake(dispatch.pool, now)
        self._tell_over(error, now)
        self._client.done(self._end(error), now)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
