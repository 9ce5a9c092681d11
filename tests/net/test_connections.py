"""Connections kept alive to one endpoint: which one is taken, which are closed, and errors mapped at the border."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from router.errors import ConnectError
from router.model import Endpoint, EndpointSpec
from router.net.connections import Connections


async def two_idle(world: Any) -> tuple[Any, Any]:
    """A router with two idle upstream connections."""

    async def slow(peer: Any) -> None:
        while True:
            head = await peer.request()
            await asyncio.sleep(0.03 if head.target == "/slow" else 0)
            peer.answer(b"%d" % peer.number)

    upstream = await world.upstream(slow)
    house = await world.router(upstream)
    clients = [await world.client(house) for _ in range(2)]
    await asyncio.gather(*(client.get("/slow") for client in clients))
    assert house.idle == 2
    return house, upstream


async def test_the_last_one_used_is_taken_first(world: Any) -> None:
    house, _ = await two_idle(world)
    client = await world.client(house)
    first = (await client.get()).body
    assert [(await client.get()).body for _ in range(5)] == [first] * 5


async def test_a_post_takes_one_that_was_just_used(world: Any) -> None:
    house, upstream = await two_idle(world)
    client = await world.client(house)
    await client.get()
    assert (await client.get(method="POST", body=b"x")).status == 200
    assert len(upstream.peers) == 2


async def test_one_idle_for_long_carries_no_post(world: Any) -> None:
    upstream = await world.upstream()
    house = await world.router(upstream)
    now = [0.0]
    house.runtime.clock = lambda: now[0]
    client = await world.client(house)
    await client.get()
    now[0] = 5.0
    await client.get(method="POST", body=b"x")
    assert len(upstream.peers) == 2
    now[0] = 10.0
    await client.get()
    assert len(upstream.peers) == 2


async def test_an_endpoint_that_is_gone_keeps_no_connection(world: Any) -> None:
    house, upstream = await two_idle(world)
    house.runtime.endpoint_is_gone(house.endpoints[0])
    assert house.idle == 0
    await house.settled(upstream)
    assert upstream.open == 0


async def test_a_connection_in_use_outlives_its_endpoint_by_one_response(world: Any) -> None:
    go_on = asyncio.Event()

    async def script(peer: Any) -> None:
        await peer.request()
        await go_on.wait()
        peer.answer(b"late")
        await peer.gone()

    upstream = await world.upstream(script)
    house = await world.router(upstream)
    client = await world.client(house)
    client.ask()
    await world.eventually(lambda: upstream.requests)
    house.runtime.endpoint_is_gone(house.endpoints[0])
    go_on.set()
    assert (await client.response()).body == b"late"
    await house.settled(upstream)
    assert (house.idle, upstream.open) == (0, 0)


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:1", "unix:/nowhere/at/all.sock", "http://name.invalid:80", "http://a..b:80"]
)
async def test_what_cannot_be_reached_is_a_connect_error(world: Any, url: str) -> None:
    house = await world.router(url)
    connections = Connections(house.runtime, Endpoint(EndpointSpec(url)), 60)
    with pytest.raises(ConnectError) as error:
        await connections.connect(2)
    assert not error.value.sent
    assert error.value.detail
    assert len(connections) == 0
