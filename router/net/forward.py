"""One exchange: does with real I/O what Dispatch says. Steps 3 to 12 of the README's picture.

Driven by events (a head, a piece of a body, a failure, a timer, a client that leaves), not by a task: the usual request
makes no future and no task at all. Whatever happens, `_close` runs once and leaves no lease open.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from router.errors import BadRequest, ClientGone, InternalError, NoRoute, RequestTimeout, RouterError
from router.model import Attempt, Exchange, Response
from router.net.connections import Connections
from router.net.pages import date_line, error_response, status_line
from router.net.runtime import Runtime, wake
from router.net.upstream import UpstreamConnection
from router.policy.actions import RELAY, RETRY, Answer, Park, Sleep
from router.policy.dispatch import Dispatch
from router.policy.headers import BODY_TO_END, VIA, RequestHead, ResponseHead, request_bytes
from router.policy.retry import IDEMPOTENT
from router.policy.routes import Route

if TYPE_CHECKING:
    from router.net.client import ClientConnection

__all__ = ["Forward"]

log = logging.getLogger("router")

#: A first piece of a body larger than this is written beside its head, not copied behind it.
_LARGE = 16 << 10
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Forward:
    """The driver of one exchange. Made by its client connection, forgotten when it calls `client.done`."""

    __slots__ = (
        "_added",
        "_chunks",
        "_client",
        "_conns",
        "_dispatch",
        "_head",
        "_held",
        "_held_bytes",
        "_over",
        "_passed_on",
        "_runtime",
        "_tasks",
        "_timer",
        "_tokens",
        "closes",
        "exchange",
        "request",
    )

    def __init__(
        self,
        client: ClientConnection,
        runtime: Runtime,
        exchange: Exchange,
        request: RequestHead,
        added: bytes,
        closes: bool,
    ) -> None:
        self._client = client
        self._runtime = runtime
        self.exchange = exchange
        self.request = request
        #: Whole lines that the router adds to the request.
        self._added = added
        #: Whether the client's connection closes after the response.
        self.closes = closes
        self._dispatch: Dispatch | None = None
        self._head = b""
        #: Connections of attempts under way.
        self._conns: list[UpstreamConnection] = []
        #: Body bytes for sending them again; None once there were too many.
        self._held: list[bytes] | None = []
        self._held_bytes = 0
        self._passed_on = False
        self._over = False
        #: Whether pieces of the response are to be framed as chunks here.
        self._chunks = False
        self._tasks: list[asyncio.Task[None]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._tokens: Any = None

    # Matching and filters

    def start(self) -> None:
        """Finds the route; then filters, then the pool."""
        runtime, exchange = self._runtime, self.exchange
        observers = runtime.observers
        if observers.enabled:
            self._tokens = observers.request_started(exchange)
        try:
            route = runtime.table.routes.match(
                exchange.host, exchange.path, exchange.method, exchange.headers, exchange.query
            )
        except ValueError as error:
            self._answer(BadRequest(str(error)))
            return
        if route is None:
            self._answer(NoRoute(f"{exchange.method} {exchange.host}"))
            return
        exchange.route = route
        if route.timeout != float("inf"):
            exchange.deadline = exchange.started + route.timeout
        if route.filters:
            self._tasks.append(runtime.loop.create_task(self._filter(route)))
        else:
            self._enter(route)

    async def _filter(self, route: Route) -> None:
        for plugin in route.filters:
            try:
                answer = plugin.on_request(self.exchange)
                if asyncio.iscoroutine(answer):
                    answer = await answer
            except Exception as error:
                log.error("filter %s failed: %r", type(plugin).__name__, error)
                self._answer(InternalError(f"filter {type(plugin).__name__}"))
                return
            if answer is not None:
                self._answer_with(answer)
                return
        if not self._over:
            self._enter(route)

    def _enter(self, route: Route) -> None:
        pool = route.pool
        self.exchange.pool = pool.name
        self._dispatch = Dispatch(pool, self.exchange, tell=self._tokens is not None)
        self.advance()

    # What Dispatch says

    def advance(self) -> None:
        """Asks for the next step and begins it. Called at the start, by timers, and when a ticket is woken."""
        self._cancel_timer()
        dispatch = self._dispatch
        if dispatch is None or self._over:
            return
        action = dispatch.next(self._runtime.clock())
        if type(action) is Attempt:
            self._try(action)
        elif action is None:
            return
        elif type(action) is Answer:
            self._answer(action.error)
        elif type(action) is Park:
            action.ticket.wake = self.advance
            self._call_at(action.until)
        elif type(action) is Sleep:
            self._call_at(action.until)

    def _call_at(self, when: float) -> None:
        delay = max(0.0, when - self._runtime.clock())
        self._timer = self._runtime.loop.call_later(delay, self.advance)

    def _try(self, attempt: Attempt) -> None:
        endpoint = attempt.endpoint
        connections = endpoint.connections
        if connections is None:
            assert self._dispatch is not None
            pool = self._dispatch.pool
            connections = Connections(self._runtime, endpoint, pool.timeouts, pool.retry.attempt_timeout)
            endpoint.connections = connections
        conn = connections.take(fresh=self.exchange.method not in IDEMPOTENT)
        if attempt.hedge_after is not None and self.request.length == 0:
            self._call_at(attempt.started + attempt.hedge_after)
        if conn is not None:
            self._send(conn, attempt)
        else:
            self._tasks.append(self._runtime.loop.create_task(self._connect(connections, attempt)))

    async def _connect(self, connections: Connections, attempt: Attempt) -> None:
        assert self._dispatch is not None
        try:
            conn = await connections.connect(min(self._dispatch.pool.timeouts.connect, attempt.timeout))
        except RouterError as error:
            if attempt.open:
                self._attempt_failed(attempt, error, sent=False)
            return
        if attempt.open:
            self._send(conn, attempt)
        else:
            connections.put(conn)

    def _send(self, conn: UpstreamConnection, attempt: Attempt) -> None:
        exchange, request = self.exchange, self.request
        if not self._head or self._tokens is not None:
            self._head = request_bytes(exchange.method, exchange.target, request.kept, self._added_for(attempt))
        attempt.sent_at = self._runtime.clock()
        self._conns.append(conn)
        conn.payload_only = exchange.version < (1, 1)
        conn.begin(self, attempt, exchange.method, attempt.timeout)
        if request.length == 0:
            conn.request_done = True
            conn.write(self._head)
            return
        conn.request_done = self._client.body_done
        held = self._held or []
        conn.transport.writelines([self._head, *held])
        self._forget_large_body()
        if request.expects and not held:
            self._client.write(_CONTINUE)
        self._client.resume()

    def _added_for(self, attempt: Attempt) -> bytes:
        if self._tokens is None:
            return self._added
        lines: list[tuple[bytes, bytes]] = []
        self._runtime.observers.attempt_started(self._tokens, self.exchange, attempt, lines)
        return self._added + b"".join(b"%b: %b\r\n" % line for line in lines)

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
                conn.write(data)
                conn.request_done = last
        self._forget_large_body()

    def _forget_large_body(self) -> None:
        dispatch = self._dispatch
        if self._held is not None and dispatch is not None and self._held_bytes > dispatch.pool.retry.buffer:
            self._held = None
            dispatch.body_taken(replayable=False)

    def on_full(self, conn: UpstreamConnection) -> None:
        self._client.pause()

    def on_drained(self, conn: UpstreamConnection) -> None:
        self._client.resume()

    # The response

    def on_interim(self, conn: UpstreamConnection, message: Any) -> None:
        """103 goes on to clients that know it; others of 1xx end here."""
        if message.code == 103 and self.exchange.version >= (1, 1) and not self._passed_on:
            lines = [b"%b: %b\r\n" % field for field in message.raw_headers]
            self._client.write(b"".join((status_line(103, message.reason), *lines, b"\r\n")))

    def on_head(self, conn: UpstreamConnection, message: Any, head: ResponseHead, body: bytes, done: bool) -> None:
        dispatch = self._dispatch
        assert dispatch is not None
        now = self._runtime.clock()
        attempt = conn.attempt
        verdict = dispatch.head(attempt, message.code, now)
        if verdict is RETRY:
            self._drop(conn, done)
            self._attempt_ended(attempt, None, now)
            self.advance()
            return
        if verdict is not RELAY:
            self._cancel(verdict, now)
        self._passed_on = True
        client = self._client
        data = self._response_bytes(message, head, done)
        if body:
            if self._chunks:
                body = b"%x\r\n%b\r\n" % (len(body), body)
            if len(body) > _LARGE:
                client.writelines([data, body])
            else:
                client.write(data + body)
        else:
            client.write(data)
        if done:
            self._conns.remove(conn)
            self._attempt_ended(attempt, None, now)
            self._close(None, now)

    def _response_bytes(self, message: Any, head: ResponseHead, done: bool) -> bytes:
        exchange, client = self.exchange, self._client
        parts = [status_line(message.code, message.reason)]
        route: Route = exchange.route
        dispatch = self._dispatch
        assert dispatch is not None
        kept = head.kept
        if route.filters or dispatch.pool.affinity is not None:
            kept = self._changed_by_plugins(kept, route, dispatch)
        parts += kept
        parts.append(VIA)
        if not head.has_id:
            parts.append(b"X-Request-ID: %b\r\n" % exchange.id.encode("latin-1"))
        if not head.has_date:
            parts.append(date_line())
        modern = exchange.version >= (1, 1)
        if head.length < 0:
            if not modern:
                self.closes = True
            else:
                parts.append(b"Transfer-Encoding: chunked\r\n")
                self._chunks = head.length == BODY_TO_END
        if not client.body_done and done:
            self.closes = True
        if self.closes or self._runtime.draining:
            self.closes = True
            parts.append(b"Connection: close\r\n")
        elif not modern:
            parts.append(b"Connection: keep-alive\r\n")
        parts.append(b"\r\n")
        return b"".join(parts)

    def _changed_by_plugins(self, kept: list[bytes], route: Route, dispatch: Dispatch) -> list[bytes]:
        fields = [(kept[i], kept[i + 2]) for i in range(0, len(kept), 4)]
        affinity = dispatch.pool.affinity
        if affinity is not None:
            affinity.remember(self.exchange.tried[-1], self.exchange, fields)
        for plugin in reversed(route.filters):
            try:
                plugin.on_response(self.exchange, fields)
            except Exception as error:
                log.error("filter %s failed on a response: %r", type(plugin).__name__, error)
        return [b"%b: %b\r\n" % field for field in fields]

    def on_body(self, conn: UpstreamConnection, data: bytes, done: bool) -> None:
        client = self._client
        if self._chunks:
            client.writelines([b"%x\r\n" % len(data), data, b"\r\n"] * bool(data) + [b"0\r\n\r\n"] * done)
        elif data:
            client.write(data)
        if done:
            now = self._runtime.clock()
            self._conns.remove(conn)
            self._attempt_ended(conn.attempt, None, now)
            self._close(None, now)

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
        wake(dispatch.pool)
        self.advance()

    def _attempt_ended(self, attempt: Attempt, error: RouterError | None, now: float) -> None:
        dispatch = self._dispatch
        assert dispatch is not None
        dispatch.ended(attempt, error, now)
        self._tell_ended(attempt)

    def _tell_ended(self, attempt: Attempt) -> None:
        if self._tokens is not None and attempt.final is not None:
            self._runtime.observers.attempt_ended(self._tokens, self.exchange, attempt, attempt.final)

    def _drop(self, conn: UpstreamConnection, done: bool) -> None:
        self._conns.remove(conn)
        if not done:
            conn.abandon()

    def _cancel(self, verdict: Any, now: float) -> None:
        """Ends the attempts that another one has beaten."""
        for attempt in verdict.cancel:
            for conn in [c for c in self._conns if c.attempt is attempt]:
                self._drop(conn, done=False)
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
        lines += [b"Content-Length: %d\r\n" % len(answer.body), date_line()]
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
        self._cancel_timer()
        for conn in self._conns:
            conn.abandon()
        self._conns.clear()
        dispatch = self._dispatch
        if dispatch is not None:
            live = tuple(dispatch.live)
            dispatch.close(now)
            for attempt in live:
                self._tell_ended(attempt)
            if dispatch.pool.queue.waiting:
                wake(dispatch.pool)
        for task in self._tasks:
            task.cancel()
        if self._tokens is not None:
            self._runtime.observers.request_ended(self._tokens, self.exchange, error)
        broken = self._passed_on and isinstance(error, RouterError) and not isinstance(error, ClientGone)
        self._client.done(broken=broken)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
