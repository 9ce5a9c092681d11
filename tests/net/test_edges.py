"""Where several parts meet at an unlucky moment: each of these once hung, leaked or broke off."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any

import pytest

from router import Response
from router.config import LimitsConfig, PoolTimeouts
from router.net.heads import split_head


class Answering:
    """A filter whose answer cannot be written."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def on_request(self, exchange: Any) -> Any:
        return self.answer

    def on_response(self, exchange: Any, headers: Any) -> None: ...


@pytest.mark.parametrize("answer", [Response(200, b"x", (("X-A", "b"),)), Response(200, "text", ())])
async def test_a_filter_that_answers_nonsense_is_a_500(world: Any, answer: Any) -> None:
    house = await world.router(await world.upstream(), filters=[Answering(answer)])
    client = await world.client(house)
    assert (await client.get("/")).status == 500


async def test_a_health_answer_arrives_though_a_body_is_unread(world: Any) -> None:
    house = await world.router(await world.upstream(), server={"health_path": "/h"})
    client = await world.client(house)
    client.send(b"POST /h HTTP/1.1\r\nHost: a\r\nContent-Length: 4000000\r\n\r\n" + b"x" * 4_000_000)
    assert (await client.response()).status == 200


async def test_forwarded_does_not_make_a_plain_listener_a_secure_one(world: Any) -> None:
    upstream = await world.upstream()
    client = await world.client(await world.router(upstream, server={"forwarded": True}))
    client.send(b"GET https://x.example/ HTTP/1.1\r\nHost: x.example\r\n\r\n")
    assert (await client.response()).status == 421
    assert upstream.requests == []


async def test_options_of_everything_without_a_host_gets_one(world: Any) -> None:
    upstream = await world.upstream()
    house = await world.router(upstream)
    client = await world.client(house)
    client.send(b"OPTIONS * HTTP/1.0\r\n\r\n")
    await client.response()
    assert upstream.requests[0].all("Host") == upstream.requests[0].all("X-Forwarded-Host") == [house.listener.name]


async def test_an_endpoint_that_stalls_behind_an_upload_is_cut(world: Any) -> None:
    """It began its answer in the middle of the upload, and never ends it."""
    over = asyncio.Event()

    async def script(peer: Any) -> None:
        head = await peer.ask()
        peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n")
        await asyncio.sleep(0.1)
        await peer.body(head)
        await over.wait()

    upstream = await world.upstream(script, window=4096)
    house = await world.router(upstream, pool={"timeouts": PoolTimeouts(stream=0.4)})
    client = await world.client(house)
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 8000000\r\n\r\n" + b"x" * 8_000_000)
    assert (await client.answer_head()).status == 200
    await client.gone()
    over.set()
    await house.settled(upstream)


async def test_the_timeout_of_a_route_holds_for_the_body_too(world: Any) -> None:
    over = asyncio.Event()

    async def script(peer: Any) -> None:
        await peer.ask()
        peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while not over.is_set():
            peer.send(b"2\r\nhi\r\n")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.05):
                    await over.wait()

    upstream = await world.upstream(script)
    house = await world.router(upstream, route={"timeout": 0.3})
    client = await world.client(house)
    client.ask("/")
    assert (await client.answer_head()).status == 200
    await client.gone()
    over.set()
    await house.settled(upstream)


async def test_many_that_waited_too_long_leave_one_by_one(world: Any) -> None:
    """Each that ends lets the next one go on: in a loop, for the stack is not deep enough for all of them."""
    gate = asyncio.Event()

    async def script(peer: Any) -> None:
        while True:
            await peer.ask()
            await gate.wait()
            peer.answer()

    limits = LimitsConfig(in_flight=1, queue=2000, queue_timeout=30.0)
    upstream = await world.upstream(script)
    house = await world.router(upstream, route={"timeout": 0.8}, pool={"limits": limits})
    clients = [await world.client(house) for _ in range(400)]
    clients[0].ask("/")
    await asyncio.sleep(0.2)
    for client in clients[1:]:
        client.ask("/")
    await asyncio.sleep(0.2)
    gate.set()
    await asyncio.sleep(0)
    # The loop is held past every deadline while the answer is on its way.
    time.sleep(1.0)  # noqa: ASYNC251
    await house.settled(upstream)
    assert (await clients[-1].response()).status == 504


async def test_who_waits_for_100_continue_is_not_late(world: Any) -> None:
    gate = asyncio.Event()

    async def script(peer: Any) -> None:
        while True:
            await peer.request()
            await gate.wait()
            peer.answer()

    limits = LimitsConfig(in_flight=1, queue=10, queue_timeout=5.0)
    upstream = await world.upstream(script)
    house = await world.router(upstream, timeouts={"stream": 0.2}, pool={"limits": limits})
    first, second = await world.client(house), await world.client(house)
    first.ask("/")
    await asyncio.sleep(0.1)
    second.send(b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
    asyncio.get_running_loop().call_later(0.5, gate.set)
    assert (await second.head()).status == 100
    assert (await first.response()).status == 200


def test_blank_lines_cost_no_more_than_their_number() -> None:
    request = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
    assert split_head(b"\r\n" * 2_000_000 + request, 1000) == (request, b"")


async def test_a_refusal_of_head_has_no_body(world: Any) -> None:
    client = await world.client(await world.router(await world.upstream()))
    client.send(b"HEAD / HTTP/1.1\r\nHost: a\r\nExpect: foo\r\n\r\n")
    assert await client.gone() == "closed"
    head, _, body = client.received.partition(b"\r\n\r\n")
    assert (head[:12], body) == (b"HTTP/1.1 417", b"")
