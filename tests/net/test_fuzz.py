"""Random mutations of valid messages on both sides of the router.

Whatever comes in, what goes out is strictly well-formed or visibly broken off; nothing raises, no lease is lost, no
response reaches another exchange, and a client beside the mutated one is served as if nothing were.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import re
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from router.policy import plain

FUZZ = settings(
    max_examples=150,
    deadline=None,
    database=None,
    print_blob=True,
    phases=(Phase.explicit, Phase.generate, Phase.shrink),
    suppress_health_check=list(HealthCheck),
)
TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
FIELD = re.compile(TOKEN + rb":[\t\x20-\x7e\x80-\xff]*")
REQUEST_LINE = re.compile(TOKEN + rb" (?:[/*][\x21-\x7e]*) HTTP/1\.1")
STATUS_LINE = re.compile(rb"HTTP/1\.1 [1-9][0-9]{2} [\t\x20-\x7e\x80-\xff]*")
CHUNK_LINE = re.compile(rb"[0-9a-fA-F]{1,15}\r\n")

CHUNKS = b"5\r\nhello\r\n6;x=y\r\n world\r\n0\r\nA: b\r\n\r\n"
REQUESTS = (
    b"GET /a HTTP/1.1\r\nHost: h.example\r\n\r\n",
    b"GET /a?b=c HTTP/1.1\r\nHost: h.example\r\nConnection: keep-alive, X-A\r\nX-A: 1\r\nTE: trailers\r\n\r\n",
    b"HEAD /a HTTP/1.1\r\nHost: h.example\r\nAccept: */*\r\n\r\n",
    b"POST /a HTTP/1.1\r\nHost: h.example\r\nContent-Length: 11\r\n\r\nhello world",
    b"PUT /a HTTP/1.1\r\nHost: h.example\r\nTransfer-Encoding: chunked\r\n\r\n" + CHUNKS,
    b"POST /a HTTP/1.1\r\nHost: h.example\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\nabc",
    b"GET http://h.example:80/a HTTP/1.1\r\nHost: x.example\r\nX-Forwarded-For: 6.6.6.6\r\nX-Request-ID: mine\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: [::1]:80\r\nVia: 1.0 other\r\n\r\n",
    b"GET /a HTTP/1.0\r\nHost: h.example\r\nConnection: keep-alive\r\n\r\n",
    b"DELETE /a HTTP/1.1\r\nHost: h.example\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n",
)
OK = b"HTTP/1.1 200 OK\r\n"
RESPONSES = (
    OK + b"Content-Length: 11\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n\r\nhello world",
    OK + b"Transfer-Encoding: chunked\r\n\r\n" + CHUNKS,
    OK + b"\r\nhello world",
    b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\nA: b\r\n\r\n",
    b'HTTP/1.1 304 Not Modified\r\nETag: "x"\r\nContent-Length: 5\r\n\r\n',
    b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.1 200 OK\r\nConnection: X-A, close\r\nX-A: 1\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n\r\n",
)
#: What makes messages ambiguous, to be put anywhere.
SPICE = (
    *(
        b"\r\n",
        b"\n",
        b"\r",
        b"\r\n\r\n",
        b"\r\n ",
        b"\x00",
        b"\x01",
        b"\x0b",
        b"\x7f",
        b"\xff",
        b" ",
        b"\t",
        b":",
        b",",
        b";",
    ),
    *(b"0", b"-1", b"+", b"fffffffffffffffff", b"0\r\n\r\n", b"HTTP/1.1 ", b"HTTP/1.0 200 OK\r\n\r\n"),
    b"Content-Length: 3\r\n",
    b"Content-Length: 3\r\nContent-Length: 4\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: identity\r\n",
    b"Connection: close\r\n",
    b"Host: evil.example\r\n",
    b"GET /evil HTTP/1.1\r\nHost: evil.example\r\n\r\n",
    OK + b"Content-Length: 4\r\n\r\nevil",
)


@pytest.fixture(autouse=True)
def quick_study(monkeypatch: Any) -> None:
    """The router remembers the form of a head once it was met a few times: that way in is to be tried as well."""
    monkeypatch.setattr(plain._Shapes, "OFTEN", 2)


PLACE = st.integers(0, 400)
CHANGE = st.one_of(
    st.tuples(st.just("flip"), PLACE, st.integers(1, 255)),
    st.tuples(st.just("delete"), PLACE, st.integers(1, 30)),
    st.tuples(st.just("double"), PLACE, st.integers(1, 60)),
    st.tuples(st.just("insert"), PLACE, st.sampled_from(SPICE)),
    st.tuples(st.just("cut"), PLACE, st.just(0)),
    st.tuples(st.just("move"), PLACE, st.integers(1, 60)),
)


def changed(data: bytes, changes: list[tuple[str, int, Any]]) -> bytes:
    for kind, place, what in changes:
        at = place % (len(data) + 1)
        before, after = data[:at], data[at:]
        if kind == "flip":
            data = before + bytes(byte ^ what for byte in after[:1]) + after[1:]
        elif kind == "delete":
            data = before + after[what:]
        elif kind == "double":
            data = before + after[:what] + after
        elif kind == "insert":
            data = before + what + after
        elif kind == "cut":
            data = before
        else:
            data = after[:what] + before + after[what:]
    return data


def streams(messages: tuple[bytes, ...], most: int) -> st.SearchStrategy[list[bytes]]:
    """Some messages behind one another, changed in some places, cut into pieces that arrive apart."""

    def pieces(parts: list[bytes], changes: list[Any], cuts: list[int]) -> list[bytes]:
        data = changed(b"".join(parts), changes)
        marks = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
        return [data[start:end] for start, end in itertools.pairwise(marks)]

    return st.builds(
        pieces,
        st.lists(st.sampled_from(messages), min_size=1, max_size=most),
        st.lists(CHANGE, max_size=4),
        st.lists(PLACE, max_size=2),
    )


def fields_of(head: bytes, first: re.Pattern[bytes]) -> dict[bytes, list[bytes]]:
    """The fields of a head that breaks no rule; fails if it breaks one."""
    line, *lines = head.removesuffix(b"\r\n\r\n").split(b"\r\n")
    assert first.fullmatch(line), head
    assert all(FIELD.fullmatch(each) for each in lines), head
    fields: dict[bytes, list[bytes]] = {}
    for name, _, value in (each.partition(b":") for each in lines):
        fields.setdefault(name.lower(), []).append(value.strip(b" \t"))
    lengths, codings = fields.get(b"content-length", []), fields.get(b"transfer-encoding", [])
    assert len(lengths) + len(codings) < 2, head
    assert all(length.isdigit() for length in lengths), head
    assert all(coding.lower() == b"chunked" for coding in codings), head
    hops = (b"keep-alive", b"te", b"trailer", b"upgrade", b"proxy-connection")
    assert not any(hop in fields for hop in hops), head
    return fields


async def body_of(wire: Any, fields: dict[bytes, list[bytes]], *, to_the_end: bool) -> bytes:
    if b"content-length" in fields:
        return bytes(await wire.exactly(int(fields[b"content-length"][0])))
    if b"transfer-encoding" not in fields:
        return bytes(await wire.rest()) if to_the_end else b""
    body = b""
    while True:
        line = await wire.until(b"\r\n")
        assert CHUNK_LINE.fullmatch(line), line
        body += await wire.exactly(int(line, 16))
        assert await wire.exactly(2) == b"\r\n"
        if int(line, 16) == 0:
            return body


class Strict:
    """A server that takes nothing but requests without a fault, and numbers its answers."""

    def __init__(self) -> None:
        self.said: list[tuple[str, str]] = []

    async def request(self, peer: Any) -> tuple[str, str]:
        head = await peer.until(b"\r\n\r\n")
        fields = fields_of(head, REQUEST_LINE)
        assert len(fields[b"host"]) == 1, head
        assert all(len(fields[name]) == 1 for name in (b"x-forwarded-for", b"x-forwarded-proto", b"x-request-id")), head
        assert fields[b"x-forwarded-for"] == [b"127.0.0.1"]
        assert b"connection" not in fields, head
        await body_of(peer, fields, to_the_end=False)
        method, target, _ = head.split(b"\r\n")[0].decode().split(" ")
        return method, target

    def answer(self, peer: Any, method: str, target: str) -> None:
        number = len(self.said)
        self.said.append((method, target))
        body = b"" if method == "HEAD" else b"answer %06d" % number
        peer.send(OK + b"Content-Length: 13\r\nX-Number: %d\r\n\r\n" % number + body)

    async def __call__(self, peer: Any) -> None:
        while True:
            self.answer(peer, *await self.request(peer))


@contextlib.contextmanager
def may_break() -> Iterator[None]:
    """A connection may end anywhere; only what is said on it must be right."""
    try:
        yield
    except Exception as error:
        if not isinstance(error, ConnectionError) and type(error).__name__ != "Broken":
            raise


async def send(wire: Any, pieces: list[bytes]) -> None:
    with may_break():
        for piece in pieces:
            wire.send(piece)
            await wire.flush()
            await asyncio.sleep(0.001)


async def quiet(house: Any, client: Any) -> None:
    """Until nothing is under way, or for so long that what is under way must be waiting for the client."""
    for _ in range(10):
        before = len(client.reader._buffer)
        await asyncio.sleep(0.002)
        if before == len(client.reader._buffer) and not any(house.state().values()):
            return


async def leave(world: Any, house: Any, caplog: Any, *clients: Any) -> None:
    """Nothing is left of an example, and nobody complains."""
    for client in clients:
        client.close()
        world.clients.remove(client)
    await house.settled()
    assert not world.told, world.told
    assert not [fault for upstream in world.upstreams for fault in upstream.faults]
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


async def numbers(client: Any, server: Strict) -> list[int]:
    """The numbers of the server's answers that a client has, in order; the router's own answers have none."""
    got = []
    with may_break():
        while client._buffer:
            fields = fields_of(await client.until(b"\r\n\r\n"), STATUS_LINE)
            if b"x-number" in fields:
                number = int(fields[b"x-number"][0])
                got.append(number)
                if server.said[number][0] != "HEAD":
                    assert await client.exactly(13) == b"answer %06d" % number
            elif b"content-length" in fields:  # else an interim response
                length = int(fields[b"content-length"][0])
                is_head = fields[b"x-request-id"][0] not in client._buffer[:length]
                client._buffer = client._buffer[0 if is_head else length :]
    return got


@FUZZ
@given(pieces=streams(REQUESTS, 3))
async def test_any_request(world: Any, caplog: Any, pieces: list[bytes]) -> None:
    if not world.houses:
        world.server = Strict()
        world.beside = await world.client(await world.router(await world.upstream(world.server)))
    house, server = world.houses[0], world.server
    already = len(server.said)
    client = await world.client(house)
    world.beside.ask("/beside")
    await send(client, pieces)
    assert server.said[int((await world.beside.response()).get("X-Number"))] == ("GET", "/beside")
    await quiet(house, client)
    with may_break():
        with contextlib.suppress(RuntimeError, OSError):  # of a transport that is closed, or whose peer has reset it
            client.writer.write_eof()
        await client.rest()
    mine = [number for number in range(already, len(server.said)) if server.said[number][1] != "/beside"]
    got = await numbers(client, server)
    assert got == mine[: len(got)], "its own answers, in order"
    await leave(world, house, caplog, client)


class Mutated(Strict):
    """Sends the given bytes to the next request for /fuzz, and numbered answers to all others."""

    def __init__(self) -> None:
        super().__init__()
        self.pieces: list[bytes] | None = None
        self.sent = asyncio.Event()

    async def __call__(self, peer: Any) -> None:
        patience = None
        while True:
            try:
                async with asyncio.timeout(patience):
                    method, target = await self.request(peer)
            except TimeoutError:
                return
            if target == "/fuzz" and self.pieces is not None:
                pieces, self.pieces = self.pieces, None
                await send(peer, pieces)
                patience = 0.02
                self.sent.set()
            else:
                self.answer(peer, method, target)


async def taken(client: Any, method: str) -> bool:
    """Reads one response, strictly; whether it was whole and the connection goes on."""
    with may_break():
        while True:
            head = await client.until(b"\r\n\r\n")
            fields = fields_of(head, STATUS_LINE)
            status = int(head[9:12])
            if status == 103:
                assert not fields.keys() & {b"content-length", b"transfer-encoding", b"connection"}, head
                continue
            assert status >= 200, head
            if method != "HEAD" and status not in (204, 304):
                await body_of(client, fields, to_the_end=True)
            return fields.get(b"connection") != [b"close"]
    return False


async def asks(client: Any, server: Strict) -> None:
    """The next request gets its own answer."""
    target = f"/next{len(server.said)}"
    response = await client.get(target)
    assert response.get("X-Number") is not None, response.raw
    assert server.said[int(response.get("X-Number"))] == ("GET", target)


@FUZZ
@given(
    pieces=streams(RESPONSES, 2),
    method=st.sampled_from(["GET", "HEAD", "POST"]),
    version=st.sampled_from(["1.1", "1.1", "1.0"]),
)
async def test_any_response(world: Any, caplog: Any, pieces: list[bytes], method: str, version: str) -> None:
    if not world.houses:
        world.server = Mutated()
        await world.router(await world.upstream(world.server))
    house, server = world.houses[0], world.server
    server.pieces = pieces
    server.sent.clear()
    first, second = await world.client(house), await world.client(house)
    first.ask("/fuzz", method=method, version=version)
    goes_on = await taken(first, method)
    # A server that sends more when it is asked again answers that: no proxy could know better.
    await server.sent.wait()
    await asyncio.sleep(0.002)
    if goes_on:
        with may_break():
            await asks(first, server)
    await asks(second, server)
    await leave(world, house, caplog, first, second)
