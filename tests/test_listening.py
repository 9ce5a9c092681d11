"""The listeners of a process: which there are, what becomes of those that go, and a refusal opens nothing."""

from __future__ import annotations

import asyncio
import random
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from router.config import AnswerConfig, Config, ListenerConfig, ListenerTimeouts, PoolConfig, RouteConfig, ServerConfig
from router.configforms import parse_bind
from router.listening import Listening
from router.net.runtime import Runtime
from router.net.sockets import Sockets, StartError
from router.observe import Observers
from router.prepare import prepare

PATIENCE = 8.0


def config_of(*binds: str, seconds: float = PATIENCE, limit: int = 100, idle: float = 60.0) -> Config:
    """Answers everything itself."""
    timeouts = ListenerTimeouts(idle=idle)  # type: ignore[arg-type]
    return Config(
        server=ServerConfig(shutdown_timeout=seconds),  # type: ignore[arg-type]
        listeners=tuple(ListenerConfig(bind, max_connections=limit, timeouts=timeouts) for bind in binds),
        routes=(RouteConfig(answer=AnswerConfig(status=200, body="hi")),),
        pools=(PoolConfig("web", ("http://127.0.0.1:1",)),),
    )


class Bench:
    """One process's listeners."""

    def __init__(self) -> None:
        config = config_of("127.0.0.1:0")
        table = prepare(config, None, Path(), seed=random.randrange(9)).table(1, time.monotonic())
        loop = asyncio.get_running_loop()
        self.runtime = Runtime(loop, table, clock=time.monotonic, observers=Observers())
        self.sockets = Sockets()
        self.listening = Listening(self.sockets)
        self.streams: list[asyncio.StreamWriter] = []

    async def become(self, *binds: str, **more: Any) -> None:
        config = config_of(*binds, **more)
        self.listening.open(config)
        await self.listening.become(config, self.runtime, await self.listening.prepare(config, self.runtime), {})

    async def connect(self, name: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        bind = parse_bind(name)
        if bind.kind == "unix":
            streams = await asyncio.open_unix_connection(bind.path)
        else:
            streams = await asyncio.open_connection(bind.host or "127.0.0.1", bind.port)
        self.streams.append(streams[1])
        return streams

    async def get(self, name: str) -> bytes:
        reader, writer = await self.connect(name)
        return await ask(reader, writer)

    async def refuses(self, name: str) -> bool:
        try:
            await self.connect(name)
        except OSError:
            return True
        return False


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    async with asyncio.timeout(PATIENCE):
        return await reader.readuntil(b"\r\n\r\nhi")


def files(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


@pytest_asyncio.fixture
async def bench() -> AsyncIterator[Bench]:
    made = Bench()
    yield made
    made.listening.stop_accepting(0.0)
    made.listening.cut()
    for stream in made.streams:
        stream.close()
    made.runtime.sweeper.close()
    made.sockets.close_all()
    await asyncio.sleep(0.01)


@pytest.fixture
def ports(house: Any) -> list[str]:
    """Three addresses that nobody listens on."""
    return [f"127.0.0.1:{house.free_port()}" for _ in range(3)]


async def test_what_is_opened_accepts_nothing_before_it_becomes_a_listener(bench: Bench, ports: list[str]) -> None:
    config = config_of(*ports[:2])
    opened = bench.listening.open(config)
    assert [str(bind) for bind in opened] == ports[:2]
    assert bench.listening.open(config) == []
    reader, writer = await bench.connect(ports[0])
    writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    await asyncio.sleep(0.02)
    made = await bench.listening.prepare(config, bench.runtime)
    await asyncio.sleep(0.02)
    assert (list(bench.listening), reader.at_eof()) == ([], False)
    await bench.listening.become(config, bench.runtime, made, {})
    assert (await reader.readuntil(b"hi")).startswith(b"HTTP/1.1 200")
    assert [listener.name for listener in bench.listening] == ports[:2]


async def test_what_is_forgotten_is_closed(bench: Bench, ports: list[str], tmp_path: Path) -> None:
    await bench.become(ports[0])
    config = config_of(ports[0], ports[1], f"unix:{tmp_path}/a")
    opened = bench.listening.open(config)
    assert [str(bind) for bind in opened] == [ports[1], f"unix:{tmp_path}/a"]
    made = await bench.listening.prepare(config, bench.runtime)
    bench.listening.forget(opened, made)
    assert await bench.refuses(ports[1])
    assert files(tmp_path) == []
    assert (await bench.get(ports[0])).startswith(b"HTTP/1.1 200")


async def test_one_address_that_cannot_be_had_opens_none(bench: Bench, ports: list[str], tmp_path: Path) -> None:
    await bench.become(ports[0])
    with socket.create_server(("127.0.0.1", 0)) as taken:
        name = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(StartError, match=f"cannot listen on {name}"):
            bench.listening.open(config_of(ports[0], ports[1], f"unix:{tmp_path}/a", name))
    assert await bench.refuses(ports[1])
    assert files(tmp_path) == []
    assert [str(bind) for bind, _ in bench.sockets.held()] == ports[:1]


async def test_one_that_stays_is_the_same_object_with_its_connections(bench: Bench, ports: list[str]) -> None:
    await bench.become(ports[0], ports[1])
    first, second = bench.listening
    reader, writer = await bench.connect(ports[1])
    await ask(reader, writer)
    await bench.become(ports[1], ports[2], limit=7, idle=9.0)
    assert next(iter(bench.listening.listeners.values())) is second
    assert first not in bench.listening.listeners.values()
    assert second.timeouts.idle == 9.0
    assert second._accepting.limit == 7
    assert b"Connection: close" not in await ask(reader, writer)
    assert await bench.refuses(ports[0])
    assert (await bench.get(ports[2])).startswith(b"HTTP/1.1 200")


async def test_one_that_goes_is_kept_in_sight_until_its_last_connection(bench: Bench, ports: list[str]) -> None:
    await bench.become(ports[0], ports[1])
    gone = next(iter(bench.listening))
    reader, writer = await bench.connect(ports[0])
    await ask(reader, writer)
    await bench.become(ports[1])
    assert gone in list(bench.listening)
    assert b"\r\nConnection: close\r\n" in await ask(reader, writer)
    assert await reader.read() == b""
    async with asyncio.timeout(PATIENCE):
        while gone in list(bench.listening):  # noqa: ASYNC110 - any condition, not one that tells
            await asyncio.sleep(0.002)
    # One at the same address is a new one.
    await bench.become(ports[1], ports[0])
    assert gone not in list(bench.listening)
    assert (await bench.get(ports[0])).startswith(b"HTTP/1.1 200")


async def test_what_outlasts_shutdown_timeout_is_cut_and_said(bench: Bench, ports: list[str], caplog: Any) -> None:
    await bench.become(ports[0], ports[1])
    reader, writer = await bench.connect(ports[0])
    writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Le")
    await asyncio.sleep(0.02)
    await bench.become(ports[1], seconds=0.02)
    with pytest.raises(ConnectionResetError):
        async with asyncio.timeout(PATIENCE):
            await reader.read()
    await asyncio.sleep(0.01)
    said = [each.getMessage() for each in caplog.records if each.levelname == "WARNING"]
    assert said == [f"listener {ports[0]} is gone: 1 cut off after 0.02 s"]


async def test_files_of_unix_listeners_come_and_go(bench: Bench, ports: list[str], tmp_path: Path) -> None:
    a, b = f"unix:{tmp_path}/a", f"unix:{tmp_path}/b"
    await bench.become(ports[0], a)
    assert (await bench.get(a)).startswith(b"HTTP/1.1 200")
    await bench.become(ports[0], b)
    assert files(tmp_path) == ["b"]
    assert (await bench.get(b)).startswith(b"HTTP/1.1 200")
    await bench.become(a, b)
    assert files(tmp_path) == ["a", "b"]
    assert (await bench.get(a)).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(("first", "second"), [("", "127.0.0.1"), ("127.0.0.1", ""), ("0.0.0.0", "127.0.0.1")])
async def test_an_address_that_overlaps_one_that_goes(bench: Bench, ports: list[str], first: str, second: str) -> None:
    port = ports[0].partition(":")[2]
    for host in (first, second, first):
        await bench.become(f"{host}:{port}")
        assert (await bench.get(ports[0])).startswith(b"HTTP/1.1 200")
        assert [str(bind) for bind, _ in bench.sockets.held()] == [f"{host}:{port}"]


async def test_all_of_them_end_together(bench: Bench, ports: list[str]) -> None:
    await bench.become(ports[0], ports[1])
    open_ones = [await bench.connect(name) for name in ports[:2]]
    for reader, writer in open_ones:
        await ask(reader, writer)
    assert bench.listening.under_way() == []
    bench.listening.leave(PATIENCE)
    for reader, writer in open_ones:
        assert b"\r\nConnection: close\r\n" in await ask(reader, writer)
        assert await reader.read() == b""
    assert (await bench.get(ports[0])).startswith(b"HTTP/1.1 200")
    bench.listening.stop_accepting(0.0)
    # The sockets themselves are those of the process.
    assert [str(bind) for bind, _ in bench.sockets.held()] == ports[:2]
    bench.sockets.close_all()
    assert await bench.refuses(ports[0])
    assert await bench.listening.drained(PATIENCE) == 0
