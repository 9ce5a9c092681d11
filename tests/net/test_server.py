"""Listeners: accepting, keep-alive, unix sockets, and the end of a process."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any

import pytest


async def test_it_accepts_on_an_address_of_its_own_and_says_which(world: Any) -> None:
    house = await world.router(await world.upstream())
    host, port = house.sockets[0].getsockname()
    assert house.listener.name == f"{host}:{port}"
    assert (await (await world.client(house)).get()).body == b"ok"


async def test_a_unix_socket_serves_and_names_no_client_address(world: Any, tmp_path: Path) -> None:
    upstream = await world.upstream()
    house = await world.router(upstream, bind=f"unix:{tmp_path}/router.sock")
    assert house.listener.name == f"unix:{tmp_path}/router.sock"
    client = await world.client(house)
    assert (await client.get()).status == 200
    assert upstream.requests[0].get("X-Forwarded-For") is None
    assert upstream.requests[0].get("X-Forwarded-Proto") == "http"


async def test_several_listeners_lead_to_the_same_pool(world: Any, tmp_path: Path) -> None:
    upstream = await world.upstream()
    house = await world.router(upstream, bind=("127.0.0.1:0", f"unix:{tmp_path}/router.sock"))
    for listener in (0, 1):
        client = await world.client(house, listener=listener)
        assert (await client.get()).status == 200
    assert len(upstream.requests) == 2


async def test_connections_are_known_while_they_last(world: Any) -> None:
    house = await world.router(await world.upstream())
    client = await world.client(house)
    await client.get()
    assert len(house.listener.connections) == 1
    client.close()
    await client.gone()
    await world.eventually(lambda: not house.listener.connections)


async def test_one_connection_carries_many_requests(world: Any) -> None:
    upstream = await world.upstream()
    house = await world.router(upstream)
    client = await world.client(house)
    for number in range(20):
        response = await client.get(f"/{number}")
        assert response.status == 200
        assert response.get("Connection") is None
    assert [head.target for head in upstream.requests] == [f"/{n}" for n in range(20)]
    assert len(upstream.peers) == 1


async def test_many_clients_share_upstream_connections_without_mixing_answers(world: Any) -> None:
    async def echo(peer: Any) -> None:
        while True:
            head = await peer.request()
            await asyncio.sleep(0.001)
            peer.answer(head.target.encode())

    upstream = await world.upstream(echo)
    house = await world.router(upstream)

    async def talk(name: int) -> None:
        client = await world.client(house)
        for number in range(15):
            assert (await client.get(f"/{name}/{number}")).body == f"/{name}/{number}".encode()

    await asyncio.gather(*(talk(name) for name in range(12)))
    assert len(upstream.requests) == 180
    assert len(upstream.peers) <= 12


# The end of a process


async def test_draining_closes_idle_connections_and_refuses_new_ones(world: Any) -> None:
    house = await world.router(await world.upstream())
    idle, silent = await world.client(house), await world.client(house)
    await idle.get()
    address = house.sockets[0].getsockname()
    house.begin_drain()
    assert await idle.gone() == "closed"
    assert await silent.gone() == "closed"
    assert await house.drained() == 0
    assert not answers(address)


def answers(address: tuple[str, int]) -> bool:
    """The backlog of the system may still take a connection; what counts is whether anybody answers on it."""
    try:
        with socket.create_connection(address, timeout=5) as late:
            late.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            return bool(late.recv(1))
    except ConnectionError:
        return False


async def test_draining_lets_a_request_under_way_finish_and_says_close(world: Any) -> None:
    go_on = asyncio.Event()

    async def slow(peer: Any) -> None:
        await peer.request()
        await go_on.wait()
        peer.answer(b"done")
        await peer.gone()

    upstream = await world.upstream(slow)
    house = await world.router(upstream)
    client = await world.client(house)
    client.ask()
    await world.eventually(lambda: upstream.requests)
    house.begin_drain()
    ending = asyncio.ensure_future(house.drained())
    await asyncio.sleep(0.05)
    assert not ending.done()
    go_on.set()
    response = await client.response()
    assert (response.body, response.get("Connection")) == (b"done", "close")
    assert await client.gone() == "closed"
    assert await ending == 0


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_response_begun_before_the_drain_ends_its_connection_too(world: Any, chunked: bool) -> None:
    """Its head could not say `close` any more; the connection must not stay until the time is over."""
    go_on = asyncio.Event()

    async def streaming(peer: Any) -> None:
        await peer.request()
        peer.send(
            b"HTTP/1.1 200 OK\r\n" + (b"Transfer-Encoding: chunked" if chunked else b"Content-Length: 6") + b"\r\n\r\n"
        )
        peer.send(b"3\r\none\r\n" if chunked else b"one")
        await go_on.wait()
        peer.send(b"3\r\ntwo\r\n0\r\n\r\n" if chunked else b"two")
        await peer.gone()

    house = await world.router(await world.upstream(streaming))
    client = await world.client(house)
    client.ask()
    await client.until(b"one")
    house.begin_drain()
    ending = asyncio.ensure_future(house.drained(3))
    await asyncio.sleep(0.02)
    go_on.set()
    await client.until(b"two")
    assert await client.gone() == "closed"
    assert await ending == 0


async def test_what_does_not_finish_in_time_is_cut_and_counted(world: Any) -> None:
    async def never(peer: Any) -> None:
        await peer.request()
        await peer.gone()

    upstream = await world.upstream(never)
    house = await world.router(upstream)
    client = await world.client(house)
    client.ask()
    await world.eventually(lambda: upstream.requests)
    house.begin_drain()
    assert await house.drained(0.05) == 1
    assert await client.gone() in ("reset", "closed")
    await house.settled(upstream)


async def test_a_draining_router_says_close_in_its_own_answers_too(world: Any) -> None:
    house = await world.router(await world.upstream(), route={"path": "/only"})
    client = await world.client(house)
    house.listeners[0].leave(5)
    response = await client.get("/elsewhere")
    assert (response.status, response.get("Connection")) == (404, "close")
    assert await client.gone() == "closed"


# The router's own health


@pytest.mark.parametrize("target", ["/up", "/up/ready", "/up/live", "/up?x=1"])
async def test_health_path_answers_before_any_route(world: Any, target: str) -> None:
    upstream = await world.upstream()
    house = await world.router(upstream, server={"health_path": "/up"})
    client = await world.client(house)
    response = await client.get(target)
    assert response.status == 200
    assert b'"ready":true' in response.body
    assert (await client.get(target, method="HEAD")).body == b""
    assert (await client.get("/upper")).body == b"ok"
    assert [head.target for head in upstream.requests] == ["/upper"]


async def test_while_draining_the_router_is_live_but_not_ready(world: Any) -> None:
    house = await world.router(await world.upstream(), server={"health_path": "/up"})
    client = await world.client(house)
    house.runtime.draining = True
    live, ready = await client.get("/up/live"), await client.get("/up/ready")
    assert (live.status, ready.status) == (200, 503)
    assert b'"ready":false' in ready.body


async def test_health_of_several_pipelined_questions(world: Any) -> None:
    house = await world.router(await world.upstream(), server={"health_path": "/up"})
    client = await world.client(house)
    for target in ("/up", "/other", "/up/live"):
        client.ask(target)
    assert [(await client.response()).status for _ in range(3)] == [200, 200, 200]
