"""One exchange: does with real I/O what Dispatch says. Steps 3 to 12 of the README's picture.

Driven by events (a head, a piece of a body, a failure, a timer, a client that leaves), not by a task: the usual request
makes no future and no task at all. Whatever happens, `_close` runs once and leaves no lease open.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from typing import TYPE_CHECKING, Any

from router.errors import BadRequest, ClientGone, ConnectError, InternalError, NoRoute, RequestTimeout, RouterError
from router.model import Attempt, Exchange, Response
from router.net.connections import Connections
from router.net.pages import date_line, error_response, status_line
from router.net.runtime import Runtime, wake
from router.net.upstream import UpstreamConnection
from router.policy.actions import Answer, Park, Relay, Retry, Sleep
from router.policy.dispatch import Dispatch
from router.policy.headers import BODY_TO_END, VIA, ResponseHead
from router.policy.pool import Pool
from router.policy.retry import IDEMPOTENT
from router.policy.routes import Route

if TYPE_CHECKING:
    from router.net.client import ClientConnection

__all__ = ["Forward"]

log = logging.getLogger("router")

#: A first piece of a body larger than this is written beside its head, not copied behind it.
_LARGE = 16 << 10
_NEVER = float("inf")
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Forward:
    """The driver of one exchange. Made by its client connection, forgotten when it calls `client.done`."""

    __slots__ = (
        "_chunks",
        "_client",
        "_conns",
        "_dispatch",
        "_filtering",
        "_head",
        "_held",
        "_held_bytes",
        "_kept",
        "_over",
        "_passed_on",
        "_runtime",
        "_timer",
        "_tokens",
        "_vouched",
        "closes",
        "exchange",
        "expects",
        "has_body",
    )

    def __init__(
        self, client: ClientConnection, runtime: Runtime, exchange: Exchange, kept: list[bytes], vouched: str
    ) -> None:
        self._client = client
        self._runtime = runtime
        self.exchange = exchange
        #: Fields of the request that go on.
        self._kept = kept
        #: The lines that say who the client is.
        self._vouched = vouched
        #: Whether the client's connection closes after the response.
        self.closes = False
        self.has_body = False
        #: Whether the client waits for "100 Continue".
        self.expects = False
        self._dispatch: Dispatch | None = None
        self._head = b""
        #: Connections of attempts under way.
        self._conns: list[UpstreamConnection] = []
        #: Body bytes for sending them again; None once there were too many.
        self._held: list[bytes] | None = None
        self._held_bytes = 0
        self._passed_on = False
        self._over = False
        #: Whether pieces of the response are to be framed as chunks here.
        self._chunks = False
        self._filtering: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._tokens: Any = None

    # Matching and filters

    def start(self) -> None:
        """Finds the route; then filters, then the pool."""
        runtime, exchange = self._runtime, self.exchange
        if self.has_body:
            self._held = []
        if runtime.observers.enabled:
            self._tokens = runtime.observers.request_started(exchange)
        try:
            route: Route | None = runtime.table.routes.match(exchange)
        except ValueError as error:
            self._answer(BadRequest(str(error)))
            return
        if route is None:
            self._answer(NoRoute(f"{exchange.method} {exchange.host}"))
            return
        exchange.route = route
        if route.timeout != _NEVER:
            exchange.deadline = exchange.started + route.timeout
        if route.filters:
            self._filtering = runtime.loop.create_task(self._filter(route))
        else:
            self._enter(route, exchange.started)

    async def _filter(self, route: Route) -> None:
        result: RouterError | Response | None = None
        for plugin in route.filters:
            try:
                answer = plugin.on_request(self.exchange)
                result = await answer if inspect.isawaitable(answer) else answer
            except Exception as error:
                name = type(plugin).__name__
                log.error("filter %s failed on request %s: %r", name, self.exchange.id, error)
                result = InternalError(f"filter {name}")
            if result is not None:
                break
        self._filtering = None
        if isinstance(result, RouterError):
            self._answer(result)
        elif result is not None:
            self._answer_with(result)
        elif not self._over:
            self._enter(route, self._runtime.clock())

    def _enter(self, route: Route, now: float) -> None:
        pool = route.pool
        self.exchange.pool = pool.name
        self._dispatch = Dispatch(pool, self.exchange, self._tokens is not None)
        self._advance(now)

    # What Dispatch says

    def advance(self) -> None:
        """Asks for the next step and begins it. Called by timers, and when a ticket is woken."""
        self._cancel_timer()
        if not self._over:
            self._advance(self._runtime.clock())

    def _advance(self, now: float) -> None:
        dispatch = self._dispatch
        assert dispatch is not None
        action = dispatch.next(now)
        if type(action) is Attempt:
            self._try(action, dispatch.pool, now)
        elif type(action) is Answer:
            self._answer(action.error)
        elif type(action) is Park:
            action.ticket.wake = self.advance
            self._call_later(action.until - now)
        elif type(action) is Sleep:
            self._call_later(action.until - now)

    def _call_later(self, seconds: float) -> None:
        self._timer = self._runtime.loop.call_later(max(0.0, seconds), self.advance)

    def _try(self, attempt: Attempt, pool: Pool, now: float) -> None:
        endpoint = attempt.endpoint
        connections: Connections = endpoint.connections
        if connections is None:
            connections = endpoint.connections = Connections(self._runtime, endpoint, pool.timeouts.stream)
        if attempt.hedge_after is not None and not self.has_body:
            self._call_later(attempt.hedge_after)
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
        now = self._runtime.clock()
        if attempt.open and conn.is_alive():
            self._send(conn, attempt, now)
        elif attempt.open:
            self._attempt_failed(attempt, ConnectError("closed as soon as it was open"), sent=False)
        else:
            connections.put(conn, now)

    def _send(self, conn: UpstreamConnection, attempt: Attempt, now: float) -> None:
        exchange = self.exchange
        head = self._head
        if not head or self._tokens is not None:
            head = self._head = self._request_head(attempt)
        attempt.sent_at = now
        self._conns.append(conn)
        conn.payload_only = exchange.version < (1, 1)
        conn.begin(self, attempt, exchange.method, now)
        if not self.has_body:
            conn.request_done = True
            self._runtime.write(conn.transport, head)
        else:
            self._send_with_body(conn, head)

    def _request_head(self, attempt: Attempt) -> bytes:
        """The head as it goes to an endpoint: the client's own bytes, and after them what the router vouches for."""
        exchange = self.exchange
        first = f"{exchange.method} {exchange.target} HTTP/1.1\r\n"
        added = f"{self._vouched}X-Forwarded-Host: {exchange.host}\r\n{VIA}X-Request-ID: {exchange.id}\r\n"
        if not exchange.host:
            added += f"Host: {exchange.listener}\r\n"
        if self._tokens is not None:
            lines: list[tuple[bytes, bytes]] = []
            self._runtime.observers.attempt_started(self._tokens, exchange, attempt, lines)
            added += "".join(f"{name.decode('latin-1')}: {value.decode('latin-1')}\r\n" for name, value in lines)
        return b"".join((first.encode("utf-8", "surrogateescape"), *self._kept, added.encode("latin-1"), b"\r\n"))

    def _send_with_body(self, conn: UpstreamConnection, head: bytes) -> None:
        conn.request_done = self._client.body_done
        held = self._held or []
        self._runtime.write(conn.transport, b"".join((head, *held)))
        self._forget_large_body()
        if self.expects and not held:
            self._client.write(_CONTINUE)
        self._client.resume()

    # The request's body

    def feed(self, data: bytes, last: bool) -> None:
        """Takes the next piece of the request's body, framed as it goes on."""
        if self._over:
            return
        if self._held is not None:
            self._held.append(data)
            self._held_bytes += len(data)
        if not self._conns:
            # Nobody to send to yet: what came is held, and no more is read.
            self._client.pause()
            return
        for conn in self._conns:
            if conn.is_alive():
                self._runtime.write(conn.transport, data)
                conn.request_done = last
        self._forget_large_body()

    def _forget_large_body(self) -> None:
        dispatch = self._dispatch
        if self._held is not None and dispatch is not None and self._held_bytes > dispatch.pool.retry.buffer:
            self._held = None
            dispatch.body_taken(replayable=False)

    def on_full(self) -> None:
        self._client.pause()

    def on_drained(self) -> None:
        self._client.resume()

    # The response

    def on_interim(self, conn: UpstreamConnection, message: Any) -> None:
        """103 goes on to clients that know it; others of 1xx end here."""
        if message.code == 103 and self.exchange.version >= (1, 1) and not self._passed_on:
            lines = [b"%b: %b\r\n" % field for field in message.raw_headers]
            self._client.write(b"".join((status_line(103, message.reason), *lines, b"\r\n")))

    def on_head(
        self, conn: UpstreamConnection, message: Any, head: ResponseHead, body: bytes, done: bool, now: float
    ) -> None:
        dispatch, attempt = self._dispatch, conn.attempt
        assert dispatch is not None
        verdict = dispatch.head(attempt, message.code, now)
        if isinstance(verdict, Retry):
            self._let_go(conn, attempt, done, now)
            return
        if verdict.cancel:
            self._cancel(verdict, now)
        self._passed_on = True
        data = self._response_head(message, head, done)
        if self._chunks and body:
            data += b"%x\r\n%b\r\n" % (len(body), body)
        elif len(body) > _LARGE:
            self._client.write(data)
            data = body
        elif body:
            data += body
        self._client.write(data)
        if done:
            self._conns.remove(conn)
            self._complete(attempt, now)

    def _let_go(self, conn: UpstreamConnection, attempt: Attempt, done: bool, now: float) -> None:
        """This response is not the one: tries again."""
        self._conns.remove(conn)
        if not done:
            conn.abandon()
        self._attempt_ended(attempt, None, now)
        self._advance(now)

    def _response_head(self, message: Any, head: ResponseHead, done: bool) -> bytes:
        kept, length, _, has_date, has_id = head
        exchange, dispatch = self.exchange, self._dispatch
        assert dispatch is not None
        if exchange.route.filters or dispatch.pool.affinity is not None:
            kept = self._changed_by_plugins(kept, exchange.route, dispatch)
        added = VIA if has_id else f"{VIA}X-Request-ID: {exchange.id}\r\n"
        if not has_date:
            added += date_line()
        modern = exchange.version >= (1, 1)
        if length < 0:
            if modern:
                added += "Transfer-Encoding: chunked\r\n"
                self._chunks = length == BODY_TO_END
            else:
                self.closes = True
        if self.closes or self._runtime.draining or (done and not self._client.body_done):
            self.closes = True
            added += "Connection: close\r\n"
        elif not modern:
            added += "Connection: keep-alive\r\n"
        return b"".join((status_line(message.code, message.reason), *kept, added.encode("latin-1"), b"\r\n"))

    def _changed_by_plugins(self, kept: list[bytes], route: Route, dispatch: Dispatch) -> list[bytes]:
        fields = [(kept[i], kept[i + 2]) for i in range(0, len(kept), 4)]
        affinity = dispatch.pool.affinity
        if affinity is not None:
            try:
                affinity.remember(self.exchange.tried[-1], self.exchange, fields)
            except Exception as error:
                dispatch.pool.muted(affinity, error)
        for plugin in reversed(route.filters):
            try:
                plugin.on_response(self.exchange, fields)
            except Exception as error:
                dispatch.pool.muted(plugin, error)
        return [b"%b: %b\r\n" % field for field in fields]

    def on_body(self, conn: UpstreamConnection, data: bytes, done: bool, now: float) -> None:
        if self._chunks:
            data = (b"%x\r\n%b\r\n" % (len(data), data) if data else b"") + (b"0\r\n\r\n" if done else b"")
        if data:
            self._client.write(data)
        if done:
            self._conns.remove(conn)
            self._complete(conn.attempt, now)

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
            self._attempt_failed(conn.attempt, error, sent=True)

    def _attempt_failed(self, attempt: Attempt, error: RouterError, *, sent: bool) -> None:
        dispatch = self._dispatch
        assert dispatch is not None
        now = self._runtime.clock()
        dispatch.failed(attempt, error, sent, now)
        self._tell_ended(attempt)
        if not dispatch.live:
            # A hedge's timer or a sleep of this exchange's own: what comes next is decided anew.
            self._cancel_timer()
        wake(dispatch.pool)
        if not self._over:
            self._advance(now)

    def _complete(self, attempt: Attempt, now: float) -> None:
        """The response has been passed on to its last byte."""
        self._attempt_ended(attempt, None, now)
        self._close(None, now)

    def _attempt_ended(self, attempt: Attempt, error: RouterError | None, now: float) -> None:
        dispatch = self._dispatch
        assert dispatch is not None
        dispatch.ended(attempt, error, now)
        self._tell_ended(attempt)

    def _tell_ended(self, attempt: Attempt) -> None:
        if self._tokens is not None and attempt.final is not None:
            self._runtime.observers.attempt_ended(self._tokens, self.exchange, attempt, attempt.final)

    def _cancel(self, verdict: Relay, now: float) -> None:
        """Ends the attempts that another one has beaten."""
        for attempt in verdict.cancel:
            for conn in [c for c in self._conns if c.attempt is attempt]:
                self._conns.remove(conn)
                conn.abandon()
            self._attempt_ended(attempt, ClientGone("another attempt was faster"), now)

    def client_gone(self) -> None:
        """The client left: nothing more can be written."""
        self._close(ClientGone(), self._runtime.clock())

    def client_too_slow(self) -> None:
        """The client's body did not come in time."""
        self._answer(RequestTimeout("the body did not come in time"))

    def refuse(self, error: RouterError) -> None:
        """The request turned out not to be valid HTTP while its body came."""
        self._answer(error)

    def _answer(self, error: RouterError) -> None:
        if self._over:
            return
        if not self._passed_on:
            exchange, client = self.exchange, self._client
            self.closes = self.closes or self._runtime.draining or not client.body_done
            exchange.status = error.status
            client.write(
                error_response(
                    error,
                    request_id=exchange.id,
                    headers=exchange.headers,
                    head_only=exchange.method == "HEAD",
                    closes=self.closes,
                )
            )
        self._close(error, self._runtime.clock())

    def _answer_with(self, answer: Response) -> None:
        """A filter's own answer."""
        if self._over:
            return
        exchange, client = self.exchange, self._client
        self.closes = self.closes or self._runtime.draining or not client.body_done
        exchange.status = answer.status
        lines = [b"%b: %b\r\n" % field for field in answer.headers]
        lines += [b"Content-Length: %d\r\n" % len(answer.body), date_line().encode()]
        if self.closes:
            lines.append(b"Connection: close\r\n")
        body = b"" if exchange.method == "HEAD" else answer.body
        client.write(b"".join((status_line(answer.status), *lines, b"\r\n", body)))
        self._close(None, self._runtime.clock())

    def _close(self, error: RouterError | None, now: float) -> None:
        """Step 12: runs once, in every path."""
        if self._over:
            return
        self._over = True
        if self._timer is not None:
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
            if dispatch.pool.queue.tickets:
                wake(dispatch.pool)
        if self._tokens is not None:
            self._runtime.observers.request_ended(self._tokens, self.exchange, error)
        self._client.done(self.closes, self._passed_on and error is not None)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
