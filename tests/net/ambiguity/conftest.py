"""How a row of the ambiguity tables is tried: raw bytes on one side of the router, the exact bytes on the other.

The tables beside this file say what is right by RFC 9110 and 9112. Every row is tried on a router that meets it for the
first time and on one that knows heads like it: what it reads fast it must read alike.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import pytest

from router.config import PoolTimeouts, RetryConfig
from router.policy import plain

#: What the router adds to a request: each stands exactly once, whatever the client wrote.
ADDED_TO_REQUESTS = {
    b"X-Forwarded-For": rb"127\.0\.0\.1",
    b"X-Forwarded-Proto": rb"http",
    b"X-Forwarded-Host": rb".*",
    b"Via": rb"1\.[01] router",
    b"X-Request-ID": rb"[A-Za-z0-9._:+/=@-]{1,128}",
}
ADDED_TO_RESPONSES = {
    b"Via": rb"1\.[01] router",
    b"X-Request-ID": rb"[A-Za-z0-9._:+/=@-]{1,128}",
    b"Date": rb"[A-Z][a-z]{2}, \d{2} [A-Z][a-z]{2} \d{4} \d{2}:\d{2}:\d{2} GMT",
}
#: Sent behind every row in the same write: served alone if the row left the connection in a state that is clear to all.
PROBE = b"GET /probe HTTP/1.1\r\nHost: probe.example\r\n\r\n"
#: What the scripted server answers once it has sent a row's bytes.
NEXT = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-Next: yes\r\n\r\nnext!"

Pattern = tuple[tuple[str, Any], ...]


def without_added(head: bytes, added: dict[bytes, bytes]) -> bytes:
    """A head without the router's own lines, each of which must stand in it once."""
    lines = head.split(b"\r\n")
    for name, value in added.items():
        mine = [line for line in lines if re.fullmatch(re.escape(name) + b": " + value, line)]
        assert len(mine) == 1, f"{name!r} stands {len(mine)} times in {head!r}"
        lines.remove(mine[0])
    return b"\r\n".join(lines)


def request_as_sent(raw: bytes) -> bytes:
    head, end, body = raw.partition(b"\r\n\r\n")
    asked = re.findall(rb"(?im)^Host:[ \t]*(.*?)[ \t]*\r?$", head)
    told = re.findall(rb"(?im)^X-Forwarded-Host: (.*?)\r?$", head)
    assert asked == told, "X-Forwarded-Host is the host that was asked for"
    return without_added(head, ADDED_TO_REQUESTS) + end + body


def response_as_sent(raw: bytes, added: Iterable[bytes] = tuple(ADDED_TO_RESPONSES)) -> bytes:
    head, end, body = raw.partition(b"\r\n\r\n")
    return without_added(head, {name: ADDED_TO_RESPONSES[name] for name in added}) + end + body


class Behind:
    """The server behind: writes down each request as it came, to the byte, and answers it with its number."""

    def __init__(self) -> None:
        self.seen: list[bytes] = []

    async def __call__(self, peer: Any) -> None:
        while True:
            start = len(peer.received) - len(peer._buffer)
            head = await peer.ask()
            await peer.body(head)
            self.seen.append(bytes(peer.received[start : len(peer.received) - len(peer._buffer)]))
            body = b"%06d" % len(self.seen)
            peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n" + (b"" if head.method == "HEAD" else body))


async def send(client: Any, data: bytes, pieces: int) -> None:
    """In one write; or the head in so many pieces, each of which comes alone, and then the rest."""
    end = data.find(b"\r\n\r\n") if pieces > 1 else 0
    size = max(1, end // pieces)
    with contextlib.suppress(Exception):  # a router that has refused it takes no more
        for start in range(0, end, size):
            client.send(data[start : min(start + size, end)])
            await client.flush()
            await asyncio.sleep(0)
        client.send(data[end:])


async def a_refusal(client: Any, status: int) -> Any:
    response = await client.response()
    assert response.status == status, f"{response.first} instead of {status}: {response.body!r}"
    assert response.get("X-Request-ID").encode() in response.body, "the router's words, not those of a server behind it"
    return response


@pytest.fixture
def quick_study(monkeypatch: Any) -> None:
    """The router remembers the form of a head once it has met it, and not after many times."""
    monkeypatch.setattr(plain._Shapes, "OFTEN", 0)


async def try_request(house: Any, behind: Behind, client: Any, outcomes: Iterable[Any], unclear: bool) -> None:
    """Reads what comes of a row and the probe behind it, and compares what the server has seen."""
    expected: list[bytes] = []
    response, closes = None, False
    for outcome in outcomes:
        if outcome == "closes":
            assert response is not None
            assert response.get("Connection") == "close"
            closes = True
        elif isinstance(outcome, int):
            response = await a_refusal(client, outcome)
            closes = response.get("Connection") == "close"
            assert closes or not unclear, "nobody knows where such a request ends"
        else:
            expected.append(outcome)
            response = await client.response(outcome.split(b" ")[0].decode("latin-1"))
            assert response.status == 200, f"{response.first}: {response.body!r}"
            assert outcome.startswith(b"HEAD ") or response.body == b"%06d" % len(expected)
    if closes:
        client.writer.write_eof()
        assert await client.rest() == b"", "nothing is answered behind the last response"
    else:
        expected.append(PROBE)
        assert (await client.response()).body == b"%06d" % len(expected)
    await house.settled()
    assert [request_as_sent(request) for request in behind.seen] == expected


@pytest.fixture
def request_row(world: Any, quick_study: None) -> Callable[..., Awaitable[None]]:
    """Tries a row: `await request_row(raw, outcomes, unclear=False)`.

    An outcome is the exact bytes of a request that the server behind sees, or the status of a refusal of which it sees
    nothing; a last "closes" says that the router ends the connection after a request that was served. It may end it
    after a refusal, and must if the row's fault leaves `unclear` where the next request begins.
    """

    async def tried(raw: bytes, outcomes: Iterable[Any], unclear: bool = False) -> None:
        behind = Behind()
        upstream = await world.upstream(behind)
        house = await world.router(upstream)
        before = 0
        # Met for the first time, then known; in one write and in many.
        for pieces in (1, 1, 50):
            behind.seen.clear()
            client = await world.client(house)
            await send(client, raw + PROBE, pieces)
            await try_request(house, behind, client, outcomes, unclear)
            received = sum(len(peer.received) for peer in upstream.peers) - before
            assert received == sum(map(len, behind.seen)), "not a byte more"
            before += received
            client.close()

    return tried


class Server:
    """The server behind: sends the row's bytes to whoever asks for "/row", and a plain response to all others."""

    def __init__(self, raw: bytes, ends: bool) -> None:
        self.raw = raw
        self.ends = ends
        self.asked: list[str] = []

    async def __call__(self, peer: Any) -> None:
        while True:
            head = await peer.request()
            self.asked.append(head.target)
            peer.send(self.raw if head.target == "/row" else NEXT)
            await peer.flush()
            if self.ends and head.target == "/row":
                return


async def try_response(
    house: Any, upstream: Any, clients: list[Any], outcome: Any, kind: str, method: str, added: Iterable[bytes]
) -> None:
    """Reads what comes of a row by the first client, and of a plain request by the last one."""
    client = clients[0]
    if isinstance(outcome, tuple):
        with pytest.raises(Exception, match=r"closed|reset"):
            await client.response(method)
        assert response_as_sent(bytes(client.received), added) == outcome[0]
    elif outcome == 502:
        response = await client.response(method)
        assert response.status == 502, f"{response.raw!r}{response.body!r}"
        assert kind in response.body.decode() or method == "HEAD"
        assert client.interim == []
    else:
        *interim, final = (part for part in re.split(rb"(?=HTTP/1\.1 \d{3} )", outcome) if part)
        await client.response(method)
        assert [head.raw for head in client.interim] == interim
        assert response_as_sent(bytes(client.received)[sum(map(len, interim)) :], added) == final
    await house.settled(upstream)
    before = len(clients[-1].received)
    assert (await clients[-1].get("/next")).get("X-Next") == "yes"
    assert response_as_sent(bytes(clients[-1].received[before:])) == NEXT


@pytest.fixture
def response_row(world: Any, quick_study: None) -> Callable[..., Awaitable[None]]:
    """Tries a row: `await response_row(raw, outcome, keeps=True, ends=False, method="GET", version="1.1")`.

    `outcome` is the exact bytes that the client gets, 502 (and `kind`, the error's name), or a tuple of the bytes of a
    response that is broken off behind them. `keeps`: the connection to the server is used again; None for either.
    `ends`: the server closes behind the bytes.
    """

    async def tried(
        raw: bytes,
        outcome: Any,
        kind: str = "upstream_protocol_error",
        *,
        keeps: bool | None = True,
        ends: bool = False,
        method: str = "GET",
        version: str = "1.1",
        added: Iterable[bytes] = tuple(ADDED_TO_RESPONSES),
    ) -> None:
        server = Server(raw, ends)
        upstream = await world.upstream(server)
        once = {"retry": RetryConfig(attempts=0), "timeouts": PoolTimeouts(head=3, stream=3)}  # type: ignore[arg-type]
        house = await world.router(upstream, pool=once)
        if ends or not isinstance(outcome, bytes):
            keeps = False
        # Met for the first time, then known.
        for _ in range(2):
            server.asked.clear()
            peers = len(upstream.peers) + 1 - upstream.open + (not keeps)
            clients = [await world.client(house)]
            if isinstance(outcome, tuple) or version == "1.0":
                clients.append(await world.client(house))
            clients[0].ask("/row", method=method, version=version)
            await try_response(house, upstream, clients, outcome, kind, method, added)
            assert server.asked == ["/row", "/next"]
            assert keeps is None or len(upstream.peers) == peers, "used again only if it may be"

    return tried
