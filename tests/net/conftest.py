"""The bench that the data path is tested on: scripted upstreams, a router and raw clients in one event loop.

Nothing here knows how the router works inside. Whatever a test does, `World` looks at the end: no lease open, nothing
waiting, no upstream connection in use, no task left, and the event loop was told of no error.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import uvloop

from router.config import Config, ListenerConfig, ListenerTimeouts, PoolConfig, RouteConfig, ServerConfig
from router.configforms import parse_bind
from router.net.runtime import Runtime
from router.net.server import Listener
from router.net.sockets import Sockets
from router.net.sweeper import tick_for, timeouts_of
from router.observe import Observers
from router.plugins import Registry
from router.prepare import Prepared, prepare

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}
#: Seconds after which a test that waits has failed.
PATIENCE = 8.0


def pytest_asyncio_loop_factories(config: Any, item: Any) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    return LOOPS


class Broken(Exception):
    """The other side closed or reset before the message was whole; `args` holds what had come."""


async def eventually(holds: Callable[[], Any], what: Any = "") -> None:
    """Returns as soon as `holds()` is true; fails with `what` (or its result, if it is a function) if it never is."""
    try:
        async with asyncio.timeout(PATIENCE):
            while not holds():  # noqa: ASYNC110 - any condition, not one that tells
                await asyncio.sleep(0.004)
    except TimeoutError:
        pytest.fail(f"never came true: {what() if callable(what) else what}")


def reset(writer: asyncio.StreamWriter) -> None:
    """Closes with RST."""
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


class Head:
    """First line and fields of a message, as sent."""

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        first, *lines = raw.removesuffix(b"\r\n\r\n").split(b"\r\n")
        self.first = first.decode("latin-1")
        parts = [line.decode("latin-1").partition(":") for line in lines]
        self.fields = [(name, value.strip()) for name, _, value in parts]
        self.body = b""

    def all(self, name: str) -> list[str]:
        return [value for field, value in self.fields if field.lower() == name.lower()]

    def get(self, name: str) -> str | None:
        values = self.all(name)
        assert len(values) < 2, f"{name} is there {len(values)} times"
        return values[0] if values else None

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.fields]

    # Of a request

    @property
    def method(self) -> str:
        return self.first.split(" ")[0]

    @property
    def target(self) -> str:
        return self.first.split(" ")[1]

    # Of a response

    @property
    def status(self) -> int:
        return int(self.first.split(" ")[1])

    def framing(self, method: str) -> str:
        if method == "HEAD" or self.status in (204, 304):
            return "none"
        if self.get("Transfer-Encoding") is not None:
            assert self.get("Transfer-Encoding") == "chunked"
            assert self.get("Content-Length") is None
            return "chunked"
        return "length" if self.get("Content-Length") is not None else "close"


class Wire:
    """One end of a connection, read by the framing of messages and not a byte further."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        #: Every byte that came.
        self.received = bytearray()
        self._buffer = bytearray()

    def send(self, data: bytes) -> None:
        if self.writer.is_closing():
            raise Broken("closed", b"")
        self.writer.write(data)

    async def flush(self) -> None:
        await self.writer.drain()

    async def _more(self) -> None:
        try:
            async with asyncio.timeout(PATIENCE):
                data = await self.reader.read(1 << 16)
        except ConnectionError as error:
            raise Broken("reset", bytes(self._buffer)) from error
        if not data:
            raise Broken("closed", bytes(self._buffer))
        self.received += data
        self._buffer += data

    async def exactly(self, count: int) -> bytes:
        pieces, missing = [], count
        while missing:
            if not self._buffer:
                await self._more()
            pieces.append(bytes(self._buffer[:missing]))
            del self._buffer[:missing]
            missing -= len(pieces[-1])
        return b"".join(pieces)

    async def until(self, mark: bytes) -> bytes:
        while mark not in self._buffer:
            await self._more()
        end = self._buffer.index(mark) + len(mark)
        data = bytes(self._buffer[:end])
        del self._buffer[:end]
        return data

    async def head(self) -> Head:
        return Head(await self.until(b"\r\n\r\n"))

    async def chunked(self) -> bytes:
        body = []
        while size := int((await self.until(b"\r\n")).split(b";")[0], 16):
            body.append(await self.exactly(size))
            assert await self.exactly(2) == b"\r\n"
        while await self.until(b"\r\n") != b"\r\n":
            pass
        return b"".join(body)

    async def rest(self) -> bytes:
        """Everything up to a regular close; a reset is `Broken`."""
        while True:
            try:
                await self._more()
            except Broken as error:
                if error.args[0] == "closed":
                    return bytes(self._buffer)
                raise

    async def gone(self) -> str:
        """Waits until the other side has closed; "closed" or "reset"."""
        while True:
            try:
                await self._more()
            except Broken as error:
                return str(error.args[0])

    def close(self) -> None:
        self.writer.close()

    def reset(self) -> None:
        reset(self.writer)


class Peer(Wire):
    """The upstream's end of a connection that the router opened."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> None:
        super().__init__(reader, writer)
        self.number = number
        self.requests: list[Head] = []
        self.open = True

    async def ask(self) -> Head:
        """The next request's head."""
        head = await self.head()
        self.requests.append(head)
        return head

    async def body(self, head: Head) -> bytes:
        if head.get("Transfer-Encoding"):
            head.body = await self.chunked()
        else:
            head.body = await self.exactly(int(head.get("Content-Length") or 0))
        return head.body

    async def request(self) -> Head:
        head = await self.ask()
        await self.body(head)
        return head

    def answer(self, body: bytes = b"ok", *lines: str, status: str = "200 OK") -> None:
        fields = "".join(f"{line}\r\n" for line in lines)
        self.send(f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{fields}\r\n".encode("latin-1") + body)


Script = Callable[[Peer], Awaitable[None]]


async def _answer_ok(peer: Peer) -> None:
    """The plain server: reads a request, answers it, goes on."""
    while True:
        head = await peer.request()
        peer.answer(head.body if head.body else b"ok")


class Upstream:
    """A scripted server: `script(peer)` runs once per connection; when it returns, the connection closes."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.peers: list[Peer] = []
        self.faults: list[BaseException] = []
        self.url = ""
        self._tasks: set[asyncio.Task[Any]] = set()

    async def start(self, path: Path | None = None, window: int = 0) -> None:
        if path is None:
            sock = socket.create_server(("127.0.0.1", 0))
            # What a script sends is on its way at once, whichever loop runs.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if window:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
            self._server = await asyncio.start_server(self._accepted, sock=sock)
            self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        else:
            self._server = await asyncio.start_unix_server(self._accepted, path)
            self.url = f"unix:{path}"

    @property
    def requests(self) -> list[Head]:
        return [head for peer in self.peers for head in peer.requests]

    @property
    def open(self) -> int:
        """Connections that neither side has closed."""
        return sum(peer.open for peer in self.peers)

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        peer = Peer(reader, writer, len(self.peers))
        self.peers.append(peer)
        try:
            await self.script(peer)
        except (Broken, ConnectionError, asyncio.CancelledError):
            pass
        except BaseException as error:
            self.faults.append(error)
        finally:
            peer.open = False
            writer.close()

    async def stop(self) -> None:
        self._server.close()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


class Client(Wire):
    """A client that says exactly what it is told to."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        super().__init__(reader, writer)
        #: Heads of 1xx responses.
        self.interim: list[Head] = []

    async def answer_head(self) -> Head:
        while (head := await self.head()).status < 200:
            self.interim.append(head)
        return head

    async def response(self, method: str = "GET") -> Head:
        """One whole response.

        Raises:
            Broken: it ended before its framing said so.
        """
        head = await self.answer_head()
        framing = head.framing(method)
        if framing == "chunked":
            head.body = await self.chunked()
        elif framing == "length":
            head.body = await self.exactly(int(head.get("Content-Length") or 0))
        elif framing == "close":
            head.body = await self.rest()
        return head

    def ask(self, target: str = "/", *lines: str, method: str = "GET", body: bytes = b"", version: str = "1.1") -> None:
        fields = "".join(f"{line}\r\n" for line in ("Host: test.example", *lines))
        if body:
            fields += f"Content-Length: {len(body)}\r\n"
        self.send(f"{method} {target} HTTP/{version}\r\n{fields}\r\n".encode("latin-1") + body)

    async def get(self, target: str = "/", *lines: str, method: str = "GET", **more: Any) -> Head:
        """Sends a request and reads its response."""
        self.ask(target, *lines, method=method, **more)
        return await self.response(method)


@functools.cache
def installed() -> Prepared:
    """The plugins that are installed, found once. It has no object, so nothing goes from one test to the next."""
    nothing = Config(listeners=(), routes=(), pools=())
    return Prepared(nothing, None, Path(), Registry.load())


class House:
    """A router under test: what router/app.py joins for a process, joined in this loop."""

    def __init__(self, config: Config, filters: Iterable[Any], observers: Iterable[Any], affinity: Any) -> None:
        prepared = prepare(config, None, Path(), seed=7, previous=installed())
        if filters:
            prepared.filters[0] = tuple(filters)
        self.config = config
        self.table = prepared.table(1, time.monotonic())
        self.pool = next(iter(self.table.pools.values()))
        if affinity is not None:
            self.pool.stick(affinity)
        self.runtime = Runtime(
            asyncio.get_running_loop(),
            self.table,
            clock=time.monotonic,
            observers=Observers(observers),
            max_head=config.server.max_header_bytes,
            max_fields=config.server.max_headers,
            tick=tick_for(timeouts_of(config)),
        )
        self.opened = Sockets()
        binds = [parse_bind(listener.bind) for listener in config.listeners]
        self.sockets = [sock.dup() for sock in self.opened.open_all(binds)]
        self.listeners = [
            Listener(self.runtime, sock, listener.timeouts, max_connections=listener.max_connections)
            for sock, listener in zip(self.sockets, config.listeners, strict=True)
        ]
        for pool in self.table.pools.values():
            pool.gone = self.runtime.endpoint_is_gone
            pool.muted = lambda plugin, error: self.muted.append((plugin, error))
        self.muted: list[tuple[Any, Exception]] = []

    @property
    def listener(self) -> Listener:
        return self.listeners[0]

    @property
    def endpoints(self) -> list[Any]:
        return [endpoint for pool in self.table.pools.values() for endpoint in pool.members.values()]

    @property
    def idle(self) -> int:
        """Upstream connections that are kept for later."""
        return sum(len(e.connections) for e in self.endpoints if e.connections is not None)

    def state(self) -> dict[str, Any]:
        """All that must be zero when nothing is under way."""
        pools = self.table.pools.values()
        return {
            "in flight": sum(pool.in_flight for pool in pools),
            "waiting": sum(pool.queue.waiting for pool in pools),
            "loads": sum(endpoint.load for endpoint in self.endpoints),
        }

    async def settled(self, *upstreams: Upstream) -> None:
        """Waits until nothing is under way and no upstream connection is in use."""
        await eventually(lambda: not any(self.state().values()), self.state)
        await eventually(
            lambda: sum(upstream.open for upstream in upstreams) == self.idle if upstreams else True,
            lambda: f"{[u.open for u in upstreams]} upstream connections open, {self.idle} idle",
        )

    def begin_drain(self) -> None:
        """What a signal makes the process do."""
        self.runtime.draining = True
        for listener in self.listeners:
            listener.stop_accepting()
        self.opened.close_all()

    async def drained(self, seconds: float = PATIENCE) -> int:
        return sum(await asyncio.gather(*(listener.drained(seconds) for listener in self.listeners)))

    async def stop(self) -> None:
        self.begin_drain()
        for listener in self.listeners:
            listener.cut()
        for endpoint in self.endpoints:
            self.runtime.endpoint_is_gone(endpoint)
        await asyncio.sleep(0)
        self.runtime.sweeper.close()
        for sock in self.sockets:
            sock.close()
        self.opened.close_all()


class World:
    """Everything of one test; cleans up, and looks for what was left behind."""

    eventually = staticmethod(eventually)

    def __init__(self) -> None:
        self.upstreams: list[Upstream] = []
        self.houses: list[House] = []
        self.clients: list[Client] = []
        #: What the event loop was told of: exceptions in callbacks, tasks that failed unseen.
        self.told: list[dict[str, Any]] = []

    async def upstream(self, script: Script = _answer_ok, *, path: Path | None = None, window: int = 0) -> Upstream:
        """A server on loopback, or on a unix socket at `path`. `window` as for `client`."""
        made = Upstream(script)
        await made.start(path, window)
        self.upstreams.append(made)
        return made

    async def router(
        self,
        *endpoints: Upstream | str | Any,
        bind: str | tuple[str, ...] = "127.0.0.1:0",
        timeouts: dict[str, float] | None = None,
        route: dict[str, Any] | None = None,
        pool: dict[str, Any] | None = None,
        server: dict[str, Any] | None = None,
        filters: Iterable[Any] = (),
        observers: Iterable[Any] = (),
        affinity: Any = None,
    ) -> House:
        """A router in front of `endpoints`; the dicts hold what differs from the defaults of router.config."""
        listening = ListenerTimeouts(**(timeouts or {}))  # type: ignore[arg-type]
        binds = (bind,) if isinstance(bind, str) else bind
        specs = tuple(e.url if isinstance(e, Upstream) else e for e in endpoints)
        config = Config(
            listeners=tuple(ListenerConfig(each, timeouts=listening) for each in binds),
            routes=(RouteConfig("web", **(route or {})),),
            pools=(
                PoolConfig("web", specs, **{"selection": "round_robin", **(pool or {})}),
            ),  # turns, so tests can count
            server=ServerConfig(**(server or {})),
        )
        house = House(config, filters, observers, affinity)
        self.houses.append(house)
        for listener in house.listeners:
            await listener.start()
        return house

    async def client(self, house: House, *, listener: int = 0, window: int = 0) -> Client:
        """A connection to the router. `window`: bytes of the receive buffer, for clients that do not read."""
        kept = house.sockets[listener]
        sock = socket.socket(kept.family, socket.SOCK_STREAM)
        sock.setblocking(False)
        if window:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
        await asyncio.get_running_loop().sock_connect(sock, kept.getsockname())
        if kept.family == socket.AF_UNIX:
            reader, writer = await asyncio.open_unix_connection(sock=sock)
        else:
            reader, writer = await asyncio.open_connection(sock=sock)
        made = Client(reader, writer)
        self.clients.append(made)
        return made

    async def __aenter__(self) -> World:
        loop = asyncio.get_running_loop()
        self._tasks = asyncio.all_tasks()
        loop.set_exception_handler(lambda _, context: self.told.append(context))
        return self

    async def __aexit__(self, kind: Any, error: Any, trace: Any) -> None:
        try:
            for client in self.clients:
                client.close()
            if error is None:
                for house in self.houses:
                    await house.settled()
                await eventually(self._upstreams_rest, self._upstreams_told)
        finally:
            for house in self.houses:
                await house.stop()
            for upstream in self.upstreams:
                await upstream.stop()
        if error is None:
            await eventually(lambda: not self._left(), self._left)
            assert not [fault for upstream in self.upstreams for fault in upstream.faults]
            assert not self.told, self.told

    def _upstreams_rest(self) -> bool:
        return sum(upstream.open for upstream in self.upstreams) <= sum(house.idle for house in self.houses)

    def _upstreams_told(self) -> str:
        busy = [upstream.open for upstream in self.upstreams]
        return f"{busy} upstream connections open, {[house.idle for house in self.houses]} idle"

    def _left(self) -> list[Any]:
        return [task for task in asyncio.all_tasks() - self._tasks if task is not asyncio.current_task()]


@pytest_asyncio.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    async with made:
        yield made
    with contextlib.suppress(RuntimeError):
        asyncio.get_running_loop().set_exception_handler(None)
