"""Tunnels on real sockets: order, backpressure, half-close, resets, idling, and one end that is told once."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import random
import socket
import struct
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_asyncio

from router.net.runtime import Runtime
from router.net.tunnel import Tunnel
from router.observe import Observers

PATIENCE = 8.0
IDLE = 5.0
MIB = 1 << 20
#: What a transport may hold: its limit, and one piece read from the other side.
HELD = (64 << 10) + (256 << 10)
WAYS = pytest.mark.parametrize("way", ["to_endpoint", "to_client"])


def noise(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


class Before(asyncio.Protocol):
    """The protocol that a transport has until its take-over."""

    def __init__(self) -> None:
        self.full = False
        self.told: list[str] = []

    def pause_writing(self) -> None:
        self.full = True

    def resume_writing(self) -> None:
        self.full = False

    def data_received(self, data: bytes) -> None:
        self.told.append("data")

    def eof_received(self) -> None:
        self.told.append("eof")

    def connection_lost(self, exc: Exception | None) -> None:
        self.told.append("lost")


class Far:
    """The other end of one of the two connections."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.loop = asyncio.get_running_loop()

    async def send(self, data: bytes) -> None:
        async with asyncio.timeout(PATIENCE):
            await self.loop.sock_sendall(self.sock, data)

    async def read(self, most: int = 1 << 16) -> bytes:
        async with asyncio.timeout(PATIENCE):
            return await self.loop.sock_recv(self.sock, most)

    async def exactly(self, size: int) -> bytes:
        pieces = []
        while size:
            pieces.append(await self.read(min(size, 1 << 18)))
            assert pieces[-1], "ended early"
            size -= len(pieces[-1])
        return b"".join(pieces)

    async def rest(self) -> bytes:
        pieces = []
        while piece := await self.read(1 << 18):
            pieces.append(piece)
        return b"".join(pieces)

    def end(self) -> None:
        self.sock.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    async def is_reset(self) -> bool:
        try:
            await self.rest()
        except ConnectionResetError:
            return True
        return False


class Bench:
    """Two connections and the tunnel between them, on a clock that stands still."""

    def __init__(self) -> None:
        self.now = 100.0
        self.loop = asyncio.get_running_loop()
        none: Any = None
        self.runtime = Runtime(self.loop, none, clock=lambda: self.now, observers=Observers(()), tick=0.01)
        self.closed: list[Exception | None] = []
        self.fars: list[Far] = []
        self.befores: list[Before] = []
        self.told: list[dict[str, Any]] = []
        self.loop.set_exception_handler(lambda _, context: self.told.append(context))

    async def connection(self, *, unix: bool = False, window: int = 0) -> tuple[Far, asyncio.Transport]:
        """A far end, and the transport of the near one. `window`: bytes of both socket buffers, for small amounts."""
        if unix:
            one, other = socket.socketpair()
        else:
            with socket.create_server(("127.0.0.1", 0)) as server:
                if window:
                    server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
                one = socket.socket()
                if window:
                    one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
                one.connect(server.getsockname())
                other, _ = server.accept()
        if window:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, window)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, window)
        other.setblocking(False)
        make = self.loop.create_unix_connection if unix else self.loop.create_connection
        transport, protocol = await make(Before, sock=other)
        self.fars.append(Far(one))
        self.befores.append(protocol)
        return self.fars[-1], transport

    async def connect(self, **more: Any) -> None:
        self.client, self.near_client = await self.connection(**more)
        self.endpoint, self.near_endpoint = await self.connection(**more)

    async def connect_one(self, side: str) -> tuple[OneClose, Far]:
        """Joins a transport of TLS in the place of `side` with a real one: that, and the other's far end."""
        secured = OneClose()
        far, transport = await self.connection()
        self.near_client = self.near_endpoint = transport
        setattr(self, side, secured)
        self.join()
        return secured, far

    def join(self, idle: float = IDLE, **more: Any) -> Tunnel:
        self.tunnel = Tunnel(
            self.runtime, self.near_client, self.near_endpoint, idle=idle, closed=self.closed.append, **more
        )
        return self.tunnel

    def sides(self, way: str) -> tuple[Far, Far, asyncio.Transport]:
        """Of the bytes that go this way: the sender, the receiver, and the transport to the receiver."""
        if way == "to_endpoint":
            return self.client, self.endpoint, self.near_endpoint
        return self.endpoint, self.client, self.near_client

    async def until(self, holds: Callable[[], Any]) -> None:
        async with asyncio.timeout(PATIENCE):
            while not holds():  # noqa: ASYNC110 - any condition, not one that tells
                await asyncio.sleep(0.004)

    async def still(self) -> int:
        """Waits until no byte has moved for a while; the bytes that have."""
        before, same = -1, 0
        async with asyncio.timeout(PATIENCE):
            while same < 10:
                await asyncio.sleep(0.01)
                moved = self.tunnel.to_client + self.tunnel.to_endpoint
                same = same + 1 if moved == before else 0
                before = moved
        return before

    async def over(self) -> Exception | None:
        """Waits for the end; what it was told with."""
        await self.until(lambda: self.closed)
        self.tunnel.close()
        self.tunnel.abort()
        await asyncio.sleep(0.03)
        assert len(self.closed) == 1
        assert len(self.runtime.sweeper) == 0
        assert self.near_client.is_closing()
        assert self.near_endpoint.is_closing()
        return self.closed[0]

    async def sweep(self, seconds: float) -> None:
        """Lets time pass, and timeouts be looked at."""
        self.now += seconds
        await asyncio.sleep(0.05)


@pytest_asyncio.fixture
async def bench() -> AsyncIterator[Bench]:
    made = Bench()
    yield made
    for far in made.fars:
        far.sock.close()
    for transport in (made.near_client, made.near_endpoint):
        if not transport.is_closing():
            transport.abort()
    await asyncio.sleep(0.01)
    made.runtime.sweeper.close()
    assert [before.told for before in made.befores if before.told] == []
    assert made.told == []


@contextlib.asynccontextmanager
async def running(work: Any) -> AsyncIterator[asyncio.Task[Any]]:
    task = asyncio.get_running_loop().create_task(work)
    yield task
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


# Relaying


@pytest.mark.parametrize("unix", [False, True])
async def test_bytes_go_both_ways_and_are_counted(bench: Bench, unix: bool) -> None:
    await bench.connect(unix=unix)
    tunnel = bench.join()
    await bench.client.send(b"question")
    assert await bench.endpoint.exactly(8) == b"question"
    await bench.endpoint.send(b"an answer")
    assert await bench.client.exactly(9) == b"an answer"
    assert (tunnel.to_endpoint, tunnel.to_client) == (8, 9)
    assert repr(tunnel) == "<Tunnel client open, endpoint open>"
    bench.client.end()
    assert await bench.endpoint.read() == b""
    assert repr(tunnel) == "<Tunnel client at its end, endpoint open>"
    bench.endpoint.end()
    assert await bench.over() is None
    assert repr(tunnel) == "<Tunnel client gone, endpoint gone>"


async def test_the_head_goes_first_then_early_bytes_then_the_rest(bench: Bench) -> None:
    await bench.connect()
    await bench.client.send(b" late")
    await bench.endpoint.send(b" late too")
    bench.runtime.write(bench.near_client, b"head")
    bench.runtime.write(bench.near_endpoint, b"request")
    tunnel = bench.join(early_from_client=b" early", early_from_endpoint=b" early too")
    assert await bench.endpoint.exactly(18) == b"request early late"
    assert await bench.client.exactly(23) == b"head early too late too"
    assert (tunnel.to_endpoint, tunnel.to_client) == (11, 19)
    bench.client.end()
    bench.endpoint.end()
    assert await bench.over() is None


async def test_transports_that_were_not_read_are_read_again(bench: Bench) -> None:
    await bench.connect()
    bench.near_client.pause_reading()
    bench.near_endpoint.pause_reading()
    bench.join()
    await bench.client.send(b"ping")
    await bench.endpoint.send(b"pong")
    assert await bench.endpoint.exactly(4) == b"ping"
    assert await bench.client.exactly(4) == b"pong"
    bench.tunnel.abort()
    await bench.over()


async def test_many_small_pieces_keep_their_order(bench: Bench) -> None:
    await bench.connect()
    bench.join()
    pieces = [b"%d," % number for number in range(2000)]

    async def say(far: Far) -> None:
        for piece in pieces:
            await far.send(piece)

    whole = b"".join(pieces)
    async with running(say(bench.client)), running(say(bench.endpoint)):
        assert await bench.endpoint.exactly(len(whole)) == whole
        assert await bench.client.exactly(len(whole)) == whole
    bench.tunnel.close()
    assert await bench.over() is None


# Backpressure


@WAYS
@pytest.mark.parametrize("unix", [False, True])
async def test_a_side_that_does_not_read_stops_the_other(bench: Bench, way: str, unix: bool) -> None:
    await bench.connect(unix=unix, window=32 << 10)
    bench.join()
    sender, receiver, transport = bench.sides(way)
    data = noise(8 * MIB)
    async with running(sender.send(data)) as sending:
        moved = await bench.still()
        assert moved < 2 * MIB
        assert 0 < transport.get_write_buffer_size() <= HELD
        assert not sending.done()
        # The other direction is not held up by it.
        await receiver.send(b"still here")
        assert await sender.exactly(10) == b"still here"
        got = await receiver.exactly(len(data))
    assert hashlib.sha256(got).digest() == hashlib.sha256(data).digest()
    assert transport.get_write_buffer_size() == 0
    bench.client.end()
    bench.endpoint.end()
    assert await bench.over() is None


async def test_both_ways_at_once(bench: Bench) -> None:
    await bench.connect(window=32 << 10)
    bench.join()
    up, down = noise(4 * MIB, 1), noise(4 * MIB, 2)
    async with running(bench.client.send(up)), running(bench.endpoint.send(down)):
        assert await bench.still() < 2 * MIB
        got_up, got_down = await asyncio.gather(bench.endpoint.exactly(len(up)), bench.client.exactly(len(down)))
    assert got_up == up
    assert got_down == down
    bench.tunnel.close()
    assert await bench.over() is None


@WAYS
@pytest.mark.parametrize(("held", "drained"), [(40, 40), (300, 300), (300, 60)])
async def test_a_transport_that_was_full_before_is_known_to_be(bench: Bench, way: str, held: int, drained: int) -> None:
    """Whether its protocol had been told or had not, and wherever between the two limits it stands now (in KiB)."""
    await bench.connect(window=4 << 10)
    sender, receiver, transport = bench.sides(way)
    while transport.get_write_buffer_size() < held << 10:
        while transport.get_write_buffer_size() < held << 10:
            transport.write(b"b" * (2 << 10))
        # The system may take some more of it yet.
        await asyncio.sleep(0.02)
    while transport.get_write_buffer_size() > (drained << 10) + (8 << 10):
        await receiver.read(1 << 10)
        await asyncio.sleep(0)
    assert transport.get_write_buffer_size() > 17 << 10
    told = bench.befores[1 if way == "to_endpoint" else 0].full
    assert told is (held > 64)
    bench.join()
    near_sender = bench.near_client if way == "to_endpoint" else bench.near_endpoint
    assert not near_sender.is_reading()
    data = noise(2 * MIB)
    async with running(sender.send(data)):
        await bench.still()
        assert transport.get_write_buffer_size() <= HELD
        got = bytearray()
        while not got.endswith(data[-99:]):
            got += await receiver.read(1 << 18)
    assert bytes(got).endswith(data)
    bench.tunnel.close()
    assert await bench.over() is None


# Ends


@WAYS
async def test_one_way_ends_and_the_other_goes_on(bench: Bench, way: str) -> None:
    await bench.connect()
    bench.join()
    sender, receiver, _ = bench.sides(way)
    await sender.send(b"last words")
    sender.end()
    assert await receiver.rest() == b"last words"
    data = noise(2 * MIB)
    async with running(receiver.send(data)):
        assert await sender.exactly(len(data)) == data
    assert bench.closed == []
    receiver.end()
    assert await sender.read() == b""
    assert await bench.over() is None


@WAYS
async def test_an_end_comes_behind_what_is_still_held(bench: Bench, way: str) -> None:
    await bench.connect(window=32 << 10)
    bench.join()
    sender, receiver, transport = bench.sides(way)
    data = noise(MIB)

    async def say() -> None:
        await sender.send(data)
        sender.end()

    async with running(say()):
        await bench.still()
        assert transport.get_write_buffer_size() > 0
        receiver.end()
        assert await sender.rest() == b""
        assert bench.closed == []
        assert await receiver.rest() == data
    assert await bench.over() is None


async def test_both_end_at_once_with_bytes_under_way(bench: Bench) -> None:
    await bench.connect()
    bench.join()
    await bench.client.send(b"bye")
    await bench.endpoint.send(b"good bye")
    bench.client.end()
    bench.endpoint.end()
    assert await bench.endpoint.rest() == b"bye"
    assert await bench.client.rest() == b"good bye"
    assert await bench.over() is None


@WAYS
async def test_a_reset_goes_through(bench: Bench, way: str) -> None:
    await bench.connect()
    bench.join()
    sender, receiver, _ = bench.sides(way)
    await sender.send(b"half a mess")
    assert await receiver.exactly(11) == b"half a mess"
    sender.reset()
    assert await receiver.is_reset()
    assert isinstance(await bench.over(), ConnectionResetError)


@WAYS
async def test_a_reset_after_a_half_close_goes_through(bench: Bench, way: str) -> None:
    await bench.connect()
    bench.join()
    sender, receiver, _ = bench.sides(way)
    sender.end()
    assert await receiver.rest() == b""
    receiver.reset()
    assert await sender.is_reset()
    assert isinstance(await bench.over(), OSError)


@WAYS
async def test_a_side_that_leaves_while_it_is_written_to(bench: Bench, way: str) -> None:
    await bench.connect(window=32 << 10)
    bench.join()
    sender, receiver, _ = bench.sides(way)
    async with running(sender.send(noise(8 * MIB))) as sending:
        await bench.still()
        receiver.sock.close()
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            await sending
    assert isinstance(await bench.over(), OSError)


async def test_a_transport_that_closes_by_itself_ends_both(bench: Bench) -> None:
    await bench.connect()
    bench.join()
    await bench.endpoint.send(b"whole")
    assert await bench.client.exactly(5) == b"whole"
    bench.near_endpoint.close()
    assert await bench.client.rest() == b""
    assert await bench.endpoint.rest() == b""
    assert await bench.over() is None


async def test_a_take_over_of_a_transport_that_is_closing(bench: Bench) -> None:
    await bench.connect()
    bench.near_client.close()
    bench.join(early_from_endpoint=b"for nobody")
    assert await bench.endpoint.rest() == b""
    assert await bench.over() is None


async def test_closing_passes_on_what_was_read(bench: Bench) -> None:
    await bench.connect()
    tunnel = bench.join(early_from_client=b"up", early_from_endpoint=b"down")
    tunnel.close()
    assert await bench.endpoint.rest() == b"up"
    assert await bench.client.rest() == b"down"
    assert await bench.over() is None


@pytest.mark.parametrize("unix", [False, True])
async def test_aborting_resets_both(bench: Bench, unix: bool) -> None:
    await bench.connect(unix=unix)
    tunnel = bench.join()
    tunnel.abort()
    # A unix socket has no reset: its end is one.
    assert [await bench.client.is_reset(), await bench.endpoint.is_reset()] == [not unix] * 2
    assert isinstance(await bench.over(), ConnectionAbortedError)


async def test_aborting_does_not_wait_for_who_does_not_read(bench: Bench) -> None:
    await bench.connect(window=32 << 10)
    tunnel = bench.join()
    async with running(bench.client.send(noise(8 * MIB))):
        await bench.still()
        tunnel.close()
        await asyncio.sleep(0.02)
        assert bench.closed == []
        tunnel.abort()
        assert isinstance(await bench.over(), ConnectionAbortedError)
        assert await bench.endpoint.is_reset()


# Time


async def test_idling_closes_both(bench: Bench) -> None:
    await bench.connect()
    bench.join()
    await bench.sweep(IDLE * 0.9)
    assert bench.closed == []
    await bench.sweep(IDLE * 0.2)
    assert await bench.client.rest() == b""
    assert await bench.endpoint.rest() == b""
    assert isinstance(await bench.over(), TimeoutError)


async def test_any_byte_in_either_direction_renews(bench: Bench) -> None:
    await bench.connect()
    bench.join()
    for way in itertools.islice(itertools.cycle(["to_client", "to_endpoint", "to_endpoint"]), 6):
        sender, receiver, _ = bench.sides(way)
        await bench.sweep(IDLE * 0.9)
        await sender.send(b"x")
        assert await receiver.read() == b"x"
    assert bench.closed == []
    await bench.sweep(IDLE * 1.1)
    assert isinstance(await bench.over(), TimeoutError)


async def test_without_a_timeout_it_stays(bench: Bench) -> None:
    await bench.connect()
    bench.join(idle=float("inf"))
    await bench.sweep(1e9)
    await bench.client.send(b"still")
    assert await bench.endpoint.exactly(5) == b"still"
    await bench.sweep(1e9)
    assert bench.closed == []


@WAYS
async def test_half_a_tunnel_does_not_live_for_ever(bench: Bench, way: str) -> None:
    await bench.connect()
    bench.join(idle=float("inf"))
    sender, receiver, _ = bench.sides(way)
    sender.end()
    assert await receiver.rest() == b""
    await bench.sweep(50)
    await receiver.send(b"more")
    assert await sender.exactly(4) == b"more"
    await bench.sweep(50)
    assert bench.closed == []
    await bench.sweep(11)
    assert isinstance(await bench.over(), TimeoutError)


@WAYS
async def test_slow_is_not_idle(bench: Bench, way: str) -> None:
    # With TCP, the system tells only in large steps what a receiver has taken.
    await bench.connect(unix=True, window=32 << 10)
    bench.join()
    sender, receiver, transport = bench.sides(way)
    await sender.send(noise(96 << 10))
    moved = await bench.still()
    assert transport.get_write_buffer_size() > 0
    for _ in range(2):
        await bench.sweep(IDLE * 1.1)
        await receiver.exactly(40 << 10)
        assert (await bench.still(), bench.closed) == (moved, [])
    await bench.sweep(IDLE * 1.1)
    assert bench.closed == []
    await bench.sweep(IDLE * 1.1)
    assert isinstance(await bench.over(), TimeoutError)


@WAYS
async def test_who_takes_nothing_is_cut(bench: Bench, way: str) -> None:
    await bench.connect(window=32 << 10)
    bench.join()
    sender, receiver, _ = bench.sides(way)
    async with running(sender.send(noise(8 * MIB))):
        await bench.still()
        # The system may have got rid of some more at the first looks.
        for _ in range(6):
            await bench.sweep(IDLE * 1.1)
        assert isinstance(await bench.over(), TimeoutError)
    # What it has must not look like all that there was.
    assert await receiver.is_reset()


async def test_a_close_that_nobody_reads_is_bounded(bench: Bench) -> None:
    await bench.connect(window=32 << 10)
    bench.join(idle=float("inf"))
    async with running(bench.client.send(noise(8 * MIB))):
        await bench.still()
        bench.tunnel.close()
        assert bench.closed == []
        # The system may have got rid of some more at the first looks.
        for _ in range(6):
            await bench.sweep(61)
        assert isinstance(await bench.over(), TimeoutError)
        assert await bench.endpoint.is_reset()


# Transports that cannot close one direction, as TLS


class OneClose(asyncio.Transport):
    """A transport of TLS, as far as a tunnel sees it."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Any] = []

    def can_write_eof(self) -> bool:
        return False

    def is_closing(self) -> bool:
        return "close" in self.calls

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol: Any = protocol

    def resume_reading(self) -> None: ...

    def write(self, data: Any) -> None:
        self.calls.append(data)

    def close(self) -> None:
        self.calls.append("close")


@pytest.mark.parametrize("side", ["near_client", "near_endpoint"])
async def test_an_end_towards_tls_closes_both(bench: Bench, side: str) -> None:
    secured, open_far = await bench.connect_one(side)
    await open_far.send(b"all")
    open_far.end()
    await bench.until(lambda: secured.calls[:2] == [b"all", "close"])
    secured.protocol.connection_lost(None)
    assert await open_far.rest() == b""
    assert await bench.over() is None


@pytest.mark.parametrize("side", ["near_client", "near_endpoint"])
async def test_an_end_from_tls_goes_on_as_an_end(bench: Bench, side: str) -> None:
    secured, open_far = await bench.connect_one(side)
    secured.protocol.data_received(b"all")
    assert not secured.protocol.eof_received()
    assert await open_far.rest() == b"all"
    secured.protocol.connection_lost(None)
    assert await bench.over() is None
