"""The bench of the probes: scripted servers and probes in one event loop, on asyncio's loop and on uvloop.

Whatever a test does, at its end no task runs, no file is open that was not before, and the loop heard of no error.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import uvloop
from router_health.causes import ProbeFailed

from router import Endpoint, EndpointSpec, Probe
from router.plugins import Registry
from router.testing import make_tools

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}
#: Seconds after which a test that waits has failed.
PATIENCE = 8.0
REGISTRY = Registry.load(strict=True)


def pytest_asyncio_loop_factories(config: Any, item: Any) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    return LOOPS


class Call:
    """One connection to a server, and the request on it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.request = b""

    async def send(self, *pieces: bytes | float) -> None:
        """Bytes to send, seconds to wait."""
        for piece in pieces:
            if isinstance(piece, bytes):
                self.writer.write(piece)
                await self.writer.drain()
            else:
                await asyncio.sleep(piece)

    def reset(self) -> None:
        self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def gone(self) -> None:
        """Returns when the other side has closed."""
        try:
            while await self.reader.read(1 << 16):
                pass
        except ConnectionError:
            pass


Script = Callable[[Call], Awaitable[None]]


class Server:
    """Runs `script(call)` once per request; the connection closes when it returns."""

    def __init__(self, script: Script, *, asks: bool) -> None:
        self.script = script
        self.asks = asks
        self.calls: list[Call] = []
        self.open = 0
        self.url = ""
        self.server: asyncio.Server
        self._tasks: set[asyncio.Task[Any]] = set()

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint(EndpointSpec(self.url), "web")

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    @property
    def requests(self) -> list[bytes]:
        return [call.request for call in self.calls]

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        call = Call(reader, writer)
        self.calls.append(call)
        self.open += 1
        try:
            if self.asks:
                call.request = await reader.readuntil(b"\r\n\r\n")
            await self.script(call)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self.open -= 1
            writer.close()

    async def stop(self) -> None:
        self.server.close()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def script_of(pieces: tuple[bytes | float, ...], then: str) -> Script:
    async def script(call: Call) -> None:
        await call.send(*pieces)
        if then == "wait":
            await call.gone()
        elif then == "reset":
            call.reset()

    return script


class Bench:
    """What the tests use."""

    def __init__(self) -> None:
        self.servers: list[Server] = []
        self.errors: list[dict[str, Any]] = []

    async def serve(
        self,
        *pieces: bytes | float,
        then: str = "close",
        script: Script | None = None,
        asks: bool = True,
        at: str | Path = "127.0.0.1",
        tls: ssl.SSLContext | None = None,
    ) -> Server:
        """A server that answers each request with these pieces, then does "close", "wait" or "reset"."""
        server = Server(script or script_of(pieces, then), asks=asks)
        if isinstance(at, Path):
            server.server = await asyncio.start_unix_server(server.accept, at, ssl=tls)
            server.url = f"unix:{at}"
        else:
            server.server = await asyncio.start_server(server.accept, at, 0, ssl=tls)
            port = server.server.sockets[0].getsockname()[1]
            host = f"[{at}]" if ":" in at else at
            server.url = f"{'https' if tls else 'http'}://{host}:{port}"
        self.servers.append(server)
        return server

    @staticmethod
    def probe(use: str = "http", **options: Any) -> Probe:
        """Made as the router makes it from a configuration."""
        made: Probe = REGISTRY.resolve("probe", {"use": use, **options}, None).make(make_tools())
        return made

    async def passes(self, endpoint: Endpoint, use: str = "http", **options: Any) -> None:
        async with asyncio.timeout(PATIENCE):
            assert await self.probe(use, **options).check(endpoint) is None  # type: ignore[func-returns-value]

    async def failure(self, endpoint: Endpoint, use: str = "http", **options: Any) -> str:
        """Why the check failed."""
        return await self.failure_of(self.probe(use, **options), endpoint)

    @staticmethod
    async def failure_of(probe: Probe, endpoint: Endpoint) -> str:
        with pytest.raises(ProbeFailed) as caught:
            async with asyncio.timeout(PATIENCE):
                await probe.check(endpoint)
        text = str(caught.value)
        assert text.isprintable()
        assert 0 < len(text) <= 160
        return text

    async def cancelled(self, endpoint: Endpoint, holds: Callable[[], Any], use: str = "http", **options: Any) -> None:
        """Cancels a check as soon as `holds()`; it has to end as cancelled."""
        task = asyncio.ensure_future(self.probe(use, **options).check(endpoint))
        await self.eventually(holds)
        assert not task.done()
        task.cancel()
        await asyncio.wait([task], timeout=PATIENCE)
        assert task.cancelled()

    @staticmethod
    def refusing() -> Endpoint:
        """Nobody listens there."""
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
        return Endpoint(EndpointSpec(f"http://127.0.0.1:{port}"), "web")

    @staticmethod
    async def eventually(holds: Callable[[], Any]) -> None:
        try:
            async with asyncio.timeout(PATIENCE):
                while not holds():  # noqa: ASYNC110 - any condition, not one that tells
                    await asyncio.sleep(0.002)
        except TimeoutError:
            pytest.fail("never came true")


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest_asyncio.fixture
async def bench() -> AsyncIterator[Bench]:
    loop = asyncio.get_running_loop()
    # What a loop opens for itself when it first serves or looks up is no leak.
    (await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)).close()
    await asyncio.sleep(0)
    bench, files = Bench(), open_files()
    loop.set_exception_handler(lambda _, context: bench.errors.append(context))
    yield bench
    await bench.eventually(lambda: not any(server.open for server in bench.servers))
    for server in bench.servers:
        await server.stop()
    await bench.eventually(lambda: open_files() <= files)
    await bench.eventually(lambda: asyncio.all_tasks() == {asyncio.current_task()})
    assert bench.errors == []
