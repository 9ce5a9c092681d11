"""The writing side of a client connection: backpressure, and ends that the client can tell apart."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any

import pytest

from router.net import client as client_module
from router.net import wire

#: More than the kernel's buffers hold between upstream and client on loopback, less than what is sent.
MOST = 48 << 20
#: Bytes that the router itself may hold for one client.
HELD = 2 << 20


async def unread(world: Any, house: Any) -> Any:
    """A client that does not read, with a small window."""
    client = await world.client(house, window=4096)
    client.reader._transport.pause_reading()  # type: ignore[attr-defined]
    return client


def buffered(house: Any) -> int:
    """Bytes that the router holds for its clients."""
    return sum(c.transport.get_write_buffer_size() for c in house.listener.connections if c.transport is not None)


class Source:
    """An upstream that sends without end, and counts what it got rid of."""

    def __init__(self, size: int, chunked: bool = False) -> None:
        self.size = size
        self.chunked = chunked
        self.sent = 0

    async def __call__(self, peer: Any) -> None:
        while True:
            head = await peer.request()
            if head.target != "/huge":
                peer.answer(b"s" * 40_000)
                continue
            framing = "Transfer-Encoding: chunked" if self.chunked else f"Content-Length: {self.size}"
            peer.send(f"HTTP/1.1 200 OK\r\n{framing}\r\n\r\n".encode())
            piece = b"x" * 65536
            while self.sent < self.size:
                peer.send(b"%x\r\n%b\r\n" % (len(piece), piece) if self.chunked else piece)
                await peer.flush()
                self.sent += len(piece)
            if self.chunked:
                peer.send(b"0\r\n\r\n")

    async def stuck(self) -> int:
        """Waits until it gets rid of nothing more; returns how much that was."""
        before = -1
        while before != self.sent or not before:
            before = self.sent
            await asyncio.sleep(0.25)
        return self.sent


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.asyncio(loop_factories=["uvloop"])  # slow: on the loop of production only
async def test_a_slow_client_pauses_the_upstream(world: Any, chunked: bool) -> None:
    source = Source(64 << 20, chunked)
    house = await world.router(await world.upstream(source))
    client = await unread(world, house)
    client.ask("/huge")
    stuck = await source.stuck()
    assert stuck < MOST
    assert buffered(house) < HELD
    client.reader._transport.resume_reading()
    assert len(await client.exactly(MOST)) == MOST
    assert source.sent > stuck
    client.reset()


async def test_a_response_after_others_that_were_not_read_is_paused_too(world: Any) -> None:
    """The connection was full before this exchange began: it must not take that for an empty one."""
    source = Source(64 << 20)
    house = await world.router(await world.upstream(source))
    client = await unread(world, house)
    for _ in range(200):
        client.ask("/small")
        for _ in range(100):
            await asyncio.sleep(0.002)
            if not house.pool.in_flight:
                break
        if house.pool.in_flight or buffered(house) > 70_000:
            break
    assert buffered(house) > 0
    client.ask("/huge")
    await world.eventually(lambda: buffered(house))
    await asyncio.sleep(0.7)
    assert buffered(house) < HELD
    assert source.sent < MOST
    client.reset()


@pytest.mark.parametrize("target", ["/nowhere", "/up"])
@pytest.mark.asyncio(loop_factories=["uvloop"])  # slow: on the loop of production only
async def test_the_routers_own_answers_do_not_pile_up(world: Any, target: str) -> None:
    house = await world.router(await world.upstream(), route={"path": "/only"}, server={"health_path": "/up"})
    client = await unread(world, house)
    data = f"GET {target} HTTP/1.1\r\nHost: a\r\n\r\n".encode() * 500

    async def flood() -> None:
        for _ in range(80):
            client.send(data)
            await client.flush()

    task = asyncio.ensure_future(flood())
    most = 0
    for _ in range(25):
        await asyncio.sleep(0.05)
        most = max(most, buffered(house))
    assert most < HELD, f"the router holds {most} bytes for a client that does not read"
    task.cancel()
    client.reset()


async def test_a_paused_upload_is_not_cut_off_before_its_time(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither side reads for a while, and the router holds a little for the client: `stream` is not over yet."""
    for module in (wire, client_module):
        monkeypatch.setattr(module, "LOOK", 0.3)

    async def both_ways(peer: Any) -> None:
        await peer.ask()
        peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while not buffered(world.houses[0]):
            peer.send(b"2000\r\n" + b"x" * 0x2000 + b"\r\n")
            await peer.flush()
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.8)
        peer.send(b"0\r\n\r\n")
        await peer.flush()

    upstream = await world.upstream(both_ways, window=1 << 16)
    house = await world.router(upstream)
    client = await unread(world, house)
    client.ask("/", "Content-Length: 90000000", method="POST")
    client.send(b"y" * 20_000_000)
    await world.eventually(lambda: buffered(house))
    await asyncio.sleep(0.7)
    assert house.pool.in_flight == 1
    client.reset()


async def test_a_client_that_leaves_while_it_was_paused_leaves_nothing(world: Any) -> None:
    source = Source(64 << 20)
    upstream = await world.upstream(source)
    house = await world.router(upstream)
    client = await unread(world, house)
    client.ask("/huge")
    await source.stuck()
    client.reset()
    await house.settled(upstream)


# Ends


async def broken_off(peer: Any) -> None:
    """Half of what was announced, then the end."""
    head = await peer.request()
    kind = head.target[1:]
    if kind.startswith("length"):
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf ")
    elif kind.startswith("chunked"):
        peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhalf \r\n")
    else:
        peer.send(b"HTTP/1.1 200 OK\r\n\r\nhalf ")
    await peer.flush()
    await asyncio.sleep(0.03)
    if kind.endswith("reset"):
        peer.reset()


@pytest.mark.parametrize("end", ["close", "reset"])
@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_a_truncated_body_never_looks_whole(world: Any, framing: str, end: str, version: str) -> None:
    from_upstream = await world.upstream(broken_off)
    house = await world.router(from_upstream)
    client = await world.client(house)
    client.ask(f"/{framing}-{end}", version=version)
    with pytest.raises(Exception, match=r"closed|reset") as broken:
        await client.response()
    assert type(broken.value).__name__ == "Broken"
    await house.settled(from_upstream)
    # Nothing of the router's own may have landed in the body.
    assert b"HTTP/1.1 502" not in client.received


@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_a_body_without_length_that_is_reset_never_looks_whole(world: Any, version: str) -> None:
    house = await world.router(await world.upstream(broken_off))
    client = await world.client(house)
    client.ask("/close-reset", version=version)
    with pytest.raises(Exception, match=r"closed|reset") as broken:
        await client.response()
    assert type(broken.value).__name__ == "Broken"


@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_a_body_without_length_ends_with_its_connection(world: Any, version: str) -> None:
    house = await world.router(await world.upstream(broken_off))
    client = await world.client(house)
    response = await client.get("/close", version=version)
    assert response.body == b"half "
    assert response.get("Transfer-Encoding") == ("chunked" if version == "1.1" else None)


async def test_an_answer_arrives_although_the_client_still_sends(world: Any) -> None:
    """Closing on unread bytes resets, and a reset takes the answer with it."""
    house = await world.router(await world.upstream(), route={"path": "/only"})
    client = await world.client(house)
    client.ask("/nowhere", "Content-Length: 3000000", method="POST")
    for _ in range(6):
        client.send(b"x" * 500_000)
        await asyncio.sleep(0.01)
    response = await client.response()
    assert (response.status, response.get("Connection")) == (404, "close")
    client.close()


async def test_a_broken_response_on_a_unix_socket(world: Any, tmp_path: Path) -> None:
    upstream = await world.upstream(broken_off)
    house = await world.router(upstream, bind=f"unix:{tmp_path}/s")
    client = await world.client(house)
    assert client.writer.get_extra_info("socket").family == socket.AF_UNIX
    client.ask("/chunked-close")
    with pytest.raises(Exception, match=r"closed|reset"):
        await client.response()
    await house.settled(upstream)


@pytest.mark.asyncio(loop_factories=["uvloop"])  # slow: on the loop of production only
async def test_a_client_that_keeps_an_answered_connection_open_is_closed(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer was sent and the router has closed its side; a client that does nothing is not waited for forever."""
    monkeypatch.setattr(wire, "_LINGER", 0.5)
    house = await world.router(await world.upstream())
    client = await world.client(house)
    client.send(b"junk\r\n\r\n")
    await client.response()
    await world.eventually(lambda: not house.listener.connections)
    assert not house.listener.connections
