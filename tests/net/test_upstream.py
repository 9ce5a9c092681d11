"""Connections to endpoints: what comes back, in every framing, and what must never reach another exchange."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any

import pytest

from router.config import PoolTimeouts, RetryConfig


def sends(*pieces: bytes | float, then: str = "wait") -> Any:
    """A script: answers each request with these bytes; numbers are seconds to wait."""

    async def script(peer: Any) -> None:
        while True:
            await peer.request()
            for piece in pieces:
                if isinstance(piece, bytes):
                    peer.send(piece)
                    await peer.flush()
                else:
                    await asyncio.sleep(piece)
            if then == "close":
                return
            if then == "reset":
                peer.reset()
                return

    return script


OK = b"HTTP/1.1 200 OK\r\n"


# Framing


@pytest.mark.parametrize("size", [0, 1, 1000, 16_384, 70_000, 1 << 20])
async def test_a_response_of_known_length(world: Any, size: int) -> None:
    body = bytes(n * 11 % 251 for n in range(size))
    upstream = await world.upstream(sends(OK + b"Content-Length: %d\r\n\r\n" % size + body))
    client = await world.client(await world.router(upstream))
    for _ in range(3):
        response = await client.get()
        assert response.body == body
        assert response.get("Content-Length") == str(size)
    assert len(upstream.peers) == 1


@pytest.mark.parametrize(
    "pieces",
    [
        [b"3\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\n"],
        [b"3\r\nab", 0.01, b"c\r\n4", 0.01, b"\r\ndefg\r", 0.01, b"\n0\r\n\r", 0.01, b"\n"],
        [b"3;ext=1\r\nabc\r\n4;\r\ndefg\r\n0\r\nX-Trailer: dropped\r\n\r\n"],
        [b"0003\r\nabc\r\n4\r\ndefg\r\n000\r\n\r\n"],
    ],
)
async def test_a_chunked_response(world: Any, pieces: list[Any]) -> None:
    head = OK + b"Transfer-Encoding: chunked\r\n\r\n"
    upstream = await world.upstream(sends(head, *pieces))
    client = await world.client(await world.router(upstream))
    for _ in range(2):
        response = await client.get()
        assert (response.body, response.get("Transfer-Encoding")) == (b"abcdefg", "chunked")
    assert b"X-Trailer" not in client.received
    assert len(upstream.peers) == 1


async def test_a_head_in_tiny_pieces(world: Any) -> None:
    data = OK + b"Content-Length: 2\r\nX-A: b\r\n\r\nok"
    upstream = await world.upstream(sends(*[p for byte in data for p in (bytes([byte]), 0.001)]))
    client = await world.client(await world.router(upstream))
    assert (await client.get()).body == b"ok"
    assert (await client.get()).get("X-A") == "b"


async def test_events_are_passed_on_as_they_come(world: Any) -> None:
    go_on = asyncio.Event()

    async def stream(peer: Any) -> None:
        await peer.request()
        peer.send(OK + b"Content-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        peer.send(b"9\r\ndata: 1\n\n\r\n")
        await go_on.wait()
        peer.send(b"9\r\ndata: 2\n\n\r\n0\r\n\r\n")
        await peer.gone()

    client = await world.client(await world.router(await world.upstream(stream)))
    client.ask()
    await client.until(b"data: 1\n\n")
    go_on.set()
    await client.until(b"data: 2\n\n")


async def test_a_response_that_ends_with_its_connection(world: Any) -> None:
    upstream = await world.upstream(sends(OK + b"\r\nsome", 0.01, b"more", then="close"))
    client = await world.client(await world.router(upstream))
    for _ in range(2):
        response = await client.get()
        assert (response.body, response.get("Transfer-Encoding")) == (b"somemore", "chunked")
    assert len(upstream.peers) == 2


async def test_chunked_becomes_close_delimited_for_http_1_0(world: Any) -> None:
    upstream = await world.upstream(
        sends(OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", 0.01, b"4;x\r\ndefg\r\n0\r\n\r\n")
    )
    client = await world.client(await world.router(upstream))
    response = await client.get("/", "Connection: keep-alive", version="1.0")
    assert response.body == b"abcdefg"
    assert response.get("Transfer-Encoding") is None
    assert response.get("Connection") == "close"


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b'HTTP/1.1 304 Not Modified\r\nETag: "x"\r\n\r\n',
        b"HTTP/1.1 304 Not Modified\r\nContent-Length: 500\r\n\r\n",
    ],
)
async def test_statuses_without_a_body(world: Any, head: bytes) -> None:
    upstream = await world.upstream(sends(head))
    client = await world.client(await world.router(upstream))
    for _ in range(2):
        assert (await client.get()).status in (204, 304)
    assert len(upstream.peers) == 1


@pytest.mark.parametrize("framing", [b"Content-Length: 500", b"Transfer-Encoding: chunked", b"X-None: 1"])
async def test_head_has_no_body_whatever_the_fields_say(world: Any, framing: bytes) -> None:
    upstream = await world.upstream(sends(OK + framing + b"\r\n\r\n"))
    client = await world.client(await world.router(upstream))
    for _ in range(2):
        response = await client.get(method="HEAD")
        assert response.status == 200
        if framing.startswith(b"Content"):
            assert response.get("Content-Length") == "500"


@pytest.mark.parametrize("status", [b"204 No Content", b"304 Not Modified"])
async def test_a_stray_body_ends_its_connection_and_reaches_nobody(world: Any, status: bytes) -> None:
    upstream = await world.upstream(sends(b"HTTP/1.1 " + status + b"\r\nContent-Length: 5\r\n\r\nstray"))
    client = await world.client(await world.router(upstream))
    for _ in range(3):
        response = await client.get()
        assert response.status == int(status[:3])
    assert b"stray" not in client.received
    assert len(upstream.peers) == 3


# Keep-alive


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nconnection: Foo, Close\r\nContent-Length: 2\r\n\r\nok",
    ],
)
async def test_a_connection_that_is_to_close_is_not_used_again(world: Any, head: bytes) -> None:
    upstream = await world.upstream(sends(head))
    client = await world.client(await world.router(upstream))
    for _ in range(3):
        response = await client.get()
        assert response.body == b"ok"
        # The upstream's connection is no matter of the client's.
        assert response.get("Connection") is None
    assert len(upstream.peers) == 3
    assert upstream.open == 0


async def test_http_1_0_that_keeps_its_connection(world: Any) -> None:
    upstream = await world.upstream(sends(b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok"))
    client = await world.client(await world.router(upstream))
    assert [(await client.get()).body for _ in range(3)] == [b"ok"] * 3
    assert len(upstream.peers) == 1


async def test_a_connection_that_closed_while_idle_is_not_used(world: Any) -> None:
    async def once(peer: Any) -> None:
        await peer.request()
        peer.answer(b"once")

    upstream = await world.upstream(once)
    house = await world.router(upstream, pool={"retry": RetryConfig(attempts=0)})
    client = await world.client(house)
    for method in ("GET", "POST", "GET", "POST"):
        assert (await client.get(method=method)).body == b"once"
        await house.settled(upstream)
    assert len(upstream.peers) == 4


async def test_a_stale_connection_is_retried_for_get(world: Any) -> None:
    """Closed on the second request, before a byte of its answer."""

    async def one_answer(peer: Any) -> None:
        await peer.request()
        peer.answer(b"once")
        await peer.request()

    upstream = await world.upstream(one_answer)
    house = await world.router(upstream)
    client = await world.client(house)
    assert [(await client.get(f"/{n}")).body for n in range(4)] == [b"once"] * 4
    await house.settled(upstream)


@pytest.mark.parametrize("close_first", [True, False])
async def test_a_post_does_not_take_a_connection_that_is_at_its_end(world: Any, close_first: bool) -> None:
    """Both happen before the router looks: nothing was sent when the end was there to be seen."""

    async def script(peer: Any) -> None:
        await peer.request()
        peer.answer(b"ok")
        await peer.gone()

    upstream = await world.upstream(script)
    house = await world.router(upstream)
    client = await world.client(house)
    await client.get()
    old, raw = upstream.peers[0], client.writer.get_extra_info("socket")
    ending = socket.socket(fileno=socket.dup(old.writer.get_extra_info("socket").fileno()))
    asking = socket.socket(fileno=socket.dup(raw.fileno()))
    request = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody"
    if close_first:
        ending.shutdown(socket.SHUT_WR)
        asking.send(request)
    else:
        asking.send(request)
        ending.shutdown(socket.SHUT_WR)
    ending.close()
    asking.close()
    assert (await client.response()).status == 200
    assert [len(peer.requests) for peer in upstream.peers] == [1, 1]


async def test_unsolicited_bytes_never_reach_the_next_client(world: Any) -> None:
    async def script(peer: Any) -> None:
        await peer.request()
        peer.answer(b"first")
        await peer.flush()
        await asyncio.sleep(0.03)
        peer.answer(b"evil")
        await peer.gone()

    upstream = await world.upstream(script)
    house = await world.router(upstream)
    assert (await (await world.client(house)).get()).body == b"first"
    await house.settled(upstream)
    await asyncio.sleep(0.08)
    assert upstream.open == 0
    assert (await (await world.client(house)).get()).body == b"first"


@pytest.mark.parametrize("framing", ["length", "chunked", "head"])
@pytest.mark.parametrize("pause", [0.0, 0.02])
async def test_bytes_beyond_a_response_close_its_connection(world: Any, framing: str, pause: float) -> None:
    evil = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
    whole = {
        "length": OK + b"Content-Length: 4\r\n\r\ngood",
        "chunked": OK + b"Transfer-Encoding: chunked\r\n\r\n4\r\ngood\r\n0\r\n\r\n",
        "head": OK + b"Content-Length: 4\r\n\r\n",
    }[framing]
    upstream = await world.upstream(sends(whole + evil) if not pause else sends(whole, pause, evil))
    house = await world.router(upstream)
    method = "HEAD" if framing == "head" else "GET"
    for number in range(3):
        client = await world.client(house)
        response = await client.get(f"/{number}", method=method)
        assert response.body == (b"" if method == "HEAD" else b"good")
        await asyncio.sleep(pause * 3)
        client.writer.write_eof()
        await client.gone()
        assert b"evil" not in client.received
    assert len(upstream.peers) == 3
    assert upstream.open == 0


# 1xx


async def test_103_is_passed_on_and_other_1xx_are_not(world: Any) -> None:
    upstream = await world.upstream(
        sends(
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n",
            0.01,
            b"HTTP/1.1 102 Processing\r\n\r\n" + OK + b"Content-Length: 2\r\n\r\nok",
        )
    )
    client = await world.client(await world.router(upstream))
    assert (await client.get()).body == b"ok"
    assert [(head.status, head.get("Link")) for head in client.interim] == [(103, "</a.css>")]
    old = await world.client(world.houses[0])
    assert (await old.get(version="1.0")).body == b"ok"
    assert old.interim == []


async def test_101_is_not_passed_to_a_client_that_has_not_asked(world: Any) -> None:
    upstream = await world.upstream(
        sends(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n")
    )
    client = await world.client(await world.router(upstream, pool={"retry": RetryConfig(attempts=0)}))
    assert (await client.get()).status == 502


# What is not one clear response


@pytest.mark.parametrize(
    "data",
    [
        b"nonsense\r\n\r\n",
        b"HTTP/2.0 200 OK\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX-A: b\x01c\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX-A: b\x00c\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX-A: b\nSet-Cookie: evil\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX-A : b\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
async def test_what_is_not_one_clear_response_is_502(world: Any, data: bytes) -> None:
    upstream = await world.upstream(sends(data))
    client = await world.client(await world.router(upstream, pool={"retry": RetryConfig(attempts=0)}))
    response = await client.get()
    assert (response.status, "upstream_protocol_error" in response.body.decode()) == (502, True)
    assert b"evil" not in client.received
    await world.houses[0].settled(upstream)
    assert upstream.open == 0


async def test_a_response_head_that_is_too_large_is_502(world: Any) -> None:
    upstream = await world.upstream(sends(OK + b"X-Long: " + b"x" * 9000))
    house = await world.router(upstream, server={"max_header_bytes": 4096}, pool={"retry": RetryConfig(attempts=0)})
    assert (await (await world.client(house)).get()).status == 502


async def test_a_long_response_head_within_the_limit(world: Any) -> None:
    upstream = await world.upstream(sends(OK + b"X-Long: " + b"x" * 20_000 + b"\r\nContent-Length: 0\r\n\r\n"))
    client = await world.client(await world.router(upstream))
    assert len((await client.get()).get("X-Long")) == 20_000


async def test_a_chunked_body_that_goes_wrong_breaks_the_response(world: Any) -> None:
    upstream = await world.upstream(sends(OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", 0.02, b"zz\r\n"))
    client = await world.client(await world.router(upstream))
    client.ask()
    with pytest.raises(Exception, match=r"closed|reset"):
        await client.response()
    assert b"502" not in client.received


# Time


async def test_a_body_that_stops_coming_breaks_the_response(world: Any) -> None:
    upstream = await world.upstream(sends(OK + b"Content-Length: 10\r\n\r\nhalf "))
    house = await world.router(upstream, pool={"timeouts": PoolTimeouts(stream=0.1)})  # type: ignore[arg-type]
    client = await world.client(house)
    client.ask()
    with pytest.raises(Exception, match=r"closed|reset"):
        await client.response()
    await house.settled(upstream)
    assert upstream.open == 0


async def test_a_slow_body_is_waited_for_while_it_comes(world: Any) -> None:
    upstream = await world.upstream(sends(OK + b"Content-Length: 8\r\n\r\n", *[0.06, b"x"] * 8))
    house = await world.router(upstream, pool={"timeouts": PoolTimeouts(stream=0.3)})  # type: ignore[arg-type]
    assert (await (await world.client(house)).get()).body == b"x" * 8


@pytest.mark.asyncio(loop_factories=["uvloop"])  # slow: on the loop of production only
async def test_a_slow_client_is_not_held_against_the_endpoint(world: Any) -> None:
    body = b"x" * (12 << 20)
    upstream = await world.upstream(sends(OK + b"Content-Length: %d\r\n\r\n" % len(body) + body))
    house = await world.router(upstream, pool={"timeouts": PoolTimeouts(stream=0.15)})  # type: ignore[arg-type]
    client = await world.client(house, window=4096)
    client.reader._transport.pause_reading()
    client.ask()
    await asyncio.sleep(0.6)
    client.reader._transport.resume_reading()
    assert len((await client.response()).body) == len(body)


@pytest.mark.asyncio(loop_factories=["uvloop"])  # slow: on the loop of production only
async def test_an_upstream_that_takes_no_body_is_late(world: Any) -> None:
    """It neither reads nor answers: the exchange must not hang for good."""

    async def lazy(peer: Any) -> None:
        await asyncio.sleep(0.7)

    house = await world.router(await world.upstream(lazy), pool={"timeouts": PoolTimeouts(head=0.15, stream=0.15)})  # type: ignore[arg-type]
    client = await world.client(house)
    client.ask("/", "Content-Length: 40000000", method="POST")
    client.send(b"x" * 20_000_000)
    response = await client.response()
    assert response.status == 504
    client.close()


# Where endpoints live


async def test_an_endpoint_on_a_unix_socket(world: Any, tmp_path: Path) -> None:
    upstream = await world.upstream(path=tmp_path / "app.sock")
    client = await world.client(await world.router(upstream))
    assert [(await client.get()).body for _ in range(2)] == [b"ok"] * 2
    assert len(upstream.peers) == 1


async def test_a_unix_socket_that_is_not_there_is_503(world: Any, tmp_path: Path) -> None:
    client = await world.client(await world.router(f"unix:{tmp_path}/none.sock"))
    response = await client.get()
    assert response.status == 503
    assert str(tmp_path) not in response.body.decode()


async def test_an_endpoint_by_name(world: Any) -> None:
    upstream = await world.upstream()
    client = await world.client(await world.router(upstream.url.replace("127.0.0.1", "localhost")))
    assert (await client.get()).body == b"ok"


async def test_after_a_restart_of_the_endpoint_gets_go_on(world: Any) -> None:
    """Every kept connection is reset at once, as when its process is killed."""
    upstream = await world.upstream()
    house = await world.router(upstream)
    clients = [await world.client(house) for _ in range(6)]
    await asyncio.gather(*(client.get() for client in clients))
    for peer in upstream.peers:
        peer.reset()
    answers = await asyncio.gather(*(client.get() for client in clients))
    assert [answer.status for answer in answers] == [200] * 6
