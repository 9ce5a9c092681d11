"""Client connections: heads and bodies in, keep-alive, pipelining, timeouts, and what is refused."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

HEAD = b"GET / HTTP/1.1\r\nHost: test.example\r\n\r\n"


async def refused(world: Any, data: bytes, status: int, kind: str, **router: Any) -> None:
    """Sends `data`; the answer is this error, the connection closes, and no endpoint hears of it."""
    upstream = await world.upstream()
    house = await world.router(upstream, **router)
    client = await world.client(house)
    client.send(data)
    response = await client.response()
    assert (response.status, kind in response.body.decode()) == (status, True), response.body
    assert response.get("Connection") == "close"
    assert response.get("X-Request-ID") in response.body.decode()
    client.writer.write_eof()
    assert await client.gone() == "closed"
    assert upstream.requests == []


# How bytes arrive


async def test_a_head_in_tiny_pieces(world: Any) -> None:
    upstream = await world.upstream()
    house = await world.router(upstream)
    client = await world.client(house)
    for byte in HEAD:
        client.send(bytes([byte]))
        await client.flush()
        await asyncio.sleep(0)
    assert (await client.response()).body == b"ok"


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_in_tiny_pieces(world: Any, chunked: bool) -> None:
    upstream = await world.upstream()
    house = await world.router(upstream)
    client = await world.client(house)
    framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: 7"
    body = b"3;x=y\r\nabc\r\n4\r\ndefg\r\n0\r\nTrailer: no\r\n\r\n" if chunked else b"abcdefg"
    for byte in b"POST / HTTP/1.1\r\nHost: test.example\r\n" + framing + b"\r\n\r\n" + body:
        client.send(bytes([byte]))
        await asyncio.sleep(0.001)
    assert (await client.response()).body == b"abcdefg"
    assert upstream.requests[0].body == b"abcdefg"
    assert (await client.get()).body == b"ok"


async def test_empty_lines_before_a_request_are_skipped(world: Any) -> None:
    house = await world.router(await world.upstream())
    client = await world.client(house)
    client.send(b"\r\n\r\n" + HEAD)
    assert (await client.response()).status == 200
    client.send(b"\r\n" + HEAD)
    assert (await client.response()).status == 200


# Bodies


@pytest.mark.parametrize("size", [1, 1000, 100_000])
async def test_a_body_of_known_length_goes_on_with_its_length(world: Any, size: int) -> None:
    upstream = await world.upstream()
    house = await world.router(upstream)
    client = await world.client(house)
    body = bytes(i * 7 % 256 for i in range(size))
    assert (await client.get(method="POST", body=body)).body == body
    (head,) = upstream.requests
    assert head.get("Content-Length") == str(size)
    assert head.get("Transfer-Encoding") is None


async def test_a_chunked_body_goes_on_chunked(world: Any) -> None:
    upstream = await world.upstream()
    house = await world.router(upstream)
    client = await world.client(house)
    client.ask("/", "Transfer-Encoding: chunked", method="PUT")
    for piece in (b"one", b"two" * 5000, b"three"):
        client.send(b"%x\r\n%b\r\n" % (len(piece), piece))
        await asyncio.sleep(0.005)
    client.send(b"0\r\n\r\n")
    response = await client.response()
    assert response.body == b"one" + b"two" * 5000 + b"three"
    (head,) = upstream.requests
    assert head.get("Transfer-Encoding") == "chunked"
    assert head.get("Content-Length") is None


async def test_an_upload_is_passed_on_while_it_comes(world: Any) -> None:
    """The endpoint sees the first piece before the client has sent the last one."""
    seen = asyncio.Event()

    async def script(peer: Any) -> None:
        await peer.ask()
        first = await peer.exactly(5)
        seen.set()
        peer.answer(first + await peer.exactly(5))
        await peer.gone()

    house = await world.router(await world.upstream(script))
    client = await world.client(house)
    client.ask("/", "Content-Length: 10", method="POST")
    client.send(b"first")
    await asyncio.wait_for(seen.wait(), 5)
    client.send(b"later")
    assert (await client.response()).body == b"firstlater"


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_large_upload(world: Any, chunked: bool) -> None:
    size = 10 << 20

    async def count(peer: Any) -> None:
        while True:
            head = await peer.ask()
            peer.answer(str(len(await peer.body(head))).encode())

    house = await world.router(await world.upstream(count))
    client = await world.client(house)
    framing = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {size}"
    client.ask("/", framing, method="POST")
    piece = b"x" * (256 << 10)
    for _ in range(size // len(piece)):
        client.send(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
        await client.flush()
    if chunked:
        client.send(b"0\r\n\r\n")
    assert (await client.response()).body == str(size).encode()
    assert (await client.get()).status == 200


@pytest.mark.parametrize("chunked", [False, True])
async def test_an_upstream_that_does_not_read_pauses_the_client(world: Any, chunked: bool) -> None:
    go_on = asyncio.Event()

    async def lazy(peer: Any) -> None:
        await go_on.wait()
        head = await peer.ask()
        peer.answer(str(len(await peer.body(head))).encode())
        await peer.gone()

    house = await world.router(await world.upstream(lazy, window=1 << 16))
    # Inherited by what is accepted: the kernel's own buffers may grow to tens of megabytes.
    house.sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
    client = await world.client(house)
    size, sent = 32 << 20, 0
    client.ask("/", "Transfer-Encoding: chunked" if chunked else f"Content-Length: {size}", method="POST")
    piece = b"x" * (256 << 10)

    async def upload() -> None:
        nonlocal sent
        while sent < size:
            client.send(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
            await client.flush()
            sent += len(piece)
        if chunked:
            client.send(b"0\r\n\r\n")

    task = asyncio.ensure_future(upload())
    before = -1
    while before != sent:
        before = sent
        await asyncio.sleep(0.25)
    # What the sockets' own buffers hold, and no more.
    assert sent < 16 << 20
    go_on.set()
    await task
    assert (await client.response()).body == str(size).encode()


# Pipelining


async def test_pipelined_requests_are_answered_in_order(world: Any) -> None:
    async def late_first(peer: Any) -> None:
        while True:
            head = await peer.request()
            await asyncio.sleep(0.05 if head.target == "/0" else 0)
            peer.answer(head.target.encode())

    upstream = await world.upstream(late_first)
    house = await world.router(upstream)
    client = await world.client(house)
    client.send(b"".join(HEAD.replace(b"/ ", b"/%d " % n) for n in range(10)))
    assert [(await client.response()).body for _ in range(10)] == [b"/%d" % n for n in range(10)]


async def test_pipelined_bodies_do_not_run_into_each_other(world: Any) -> None:
    upstream = await world.upstream()
    house = await world.router(upstream)
    client = await world.client(house)
    for body in (b"one", b"", b"three" * 30_000, b"four"):
        client.ask("/", method="PUT", body=body)
    answers = [(await client.response()).body for _ in range(4)]
    assert answers == [b"one", b"ok", b"three" * 30_000, b"four"]


@pytest.mark.parametrize(
    "bad", [b"GET / HTTP/1.1\r\nbroken\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\r\n\r\n", b"GET /\n\n"]
)
async def test_a_bad_request_harms_none_before_it(world: Any, bad: bytes) -> None:
    async def slow(peer: Any) -> None:
        while True:
            await peer.request()
            await asyncio.sleep(0.03)
            peer.answer(b"good")

    upstream = await world.upstream(slow)
    house = await world.router(upstream)
    client = await world.client(house)
    client.send(HEAD + HEAD + bad)
    assert [(await client.response()).body for _ in range(2)] == [b"good", b"good"]
    assert (await client.response()).status == 400
    client.writer.write_eof()
    assert await client.gone() == "closed"
    assert len(upstream.requests) == 2


async def test_nothing_behind_a_last_request_is_served(world: Any) -> None:
    upstream = await world.upstream()
    house = await world.router(upstream)
    client = await world.client(house)
    client.ask("/", "Connection: close")
    client.ask("/smuggled")
    assert (await client.response()).get("Connection") == "close"
    client.writer.write_eof()
    await client.gone()
    assert [head.target for head in upstream.requests] == ["/"]


@pytest.mark.asyncio(loop_factories=["uvloop"])  # slow: on the loop of production only
async def test_a_client_that_only_sends_is_not_read_without_end(world: Any) -> None:
    """The pipelined-memory attack: requests by the thousand, answers never read."""
    big = b"z" * 6000

    async def script(peer: Any) -> None:
        while True:
            await peer.request()
            peer.answer(big)

    upstream = await world.upstream(script)
    house = await world.router(upstream)
    client = await world.client(house, window=4096)
    client.reader._transport.pause_reading()  # type: ignore[attr-defined]

    async def flood() -> None:
        while True:
            client.send(HEAD * 400)
            await client.flush()

    task = asyncio.ensure_future(flood())
    try:
        for _ in range(10):
            await asyncio.sleep(0.1)
            # The kernel's buffers take some 4 MB of answers; past that the router must stop asking.
            asked = len(upstream.requests) * len(big)
            assert asked < 16 << 20, "the router goes on asking for a client that does not read"
        assert asked > 0
    finally:
        task.cancel()
        client.reset()


# HTTP/1.0


async def test_http_1_0_closes_after_its_response(world: Any) -> None:
    upstream = await world.upstream()
    house = await world.router(upstream)
    client = await world.client(house)
    response = await client.get(version="1.0")
    assert (response.status, response.get("Connection")) == (200, "close")
    assert await client.gone() == "closed"
    assert upstream.requests[0].first == "GET / HTTP/1.1"


async def test_http_1_0_may_keep_its_connection(world: Any) -> None:
    house = await world.router(await world.upstream())
    client = await world.client(house)
    for _ in range(3):
        response = await client.get("/", "Connection: keep-alive", version="1.0")
        assert (response.body, response.get("Connection")) == (b"ok", "keep-alive")


async def test_a_kept_http_1_0_connection_is_told_so_in_errors_too(world: Any) -> None:
    """Without the word an HTTP/1.0 client waits for the close that never comes."""
    house = await world.router(await world.upstream(), route={"path": "/only"})
    client = await world.client(house)
    response = await client.get("/other", "Connection: keep-alive", version="1.0")
    assert response.status == 404
    if response.get("Connection") != "keep-alive":
        assert await client.gone() == "closed"


async def test_http_1_0_needs_no_host(world: Any) -> None:
    upstream = await world.upstream()
    house = await world.router(upstream)
    client = await world.client(house)
    client.send(b"GET / HTTP/1.0\r\n\r\n")
    assert (await client.response()).status == 200
    assert len(upstream.requests[0].all("Host")) == 1


async def test_http_1_0_with_a_transfer_coding_is_refused(world: Any) -> None:
    data = b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    await refused(world, data, 400, "bad_request")


# Expect


async def test_expect_is_answered_by_the_router_and_goes_no_further(world: Any) -> None:
    upstream = await world.upstream()
    house = await world.router(upstream)
    client = await world.client(house)
    client.ask("/", "Content-Length: 4", "Expect: 100-continue", method="POST")
    assert (await client.head()).first == "HTTP/1.1 100 Continue"
    client.send(b"body")
    assert (await client.response()).body == b"body"
    assert upstream.requests[0].get("Expect") is None


async def test_expect_of_a_client_that_does_not_wait(world: Any) -> None:
    house = await world.router(await world.upstream())
    client = await world.client(house)
    client.ask("/", "Expect: 100-continue", method="POST", body=b"body")
    assert (await client.response()).body == b"body"
    assert (await client.get()).body == b"ok"


async def test_expect_gets_no_continue_where_no_endpoint_stands(world: Any) -> None:
    house = await world.router("http://127.0.0.1:1")
    client = await world.client(house)
    client.ask("/", "Content-Length: 4", "Expect: 100-continue", method="POST")
    assert (await client.response()).status == 503
    assert client.interim == []


async def test_expect_in_http_1_0_is_ignored(world: Any) -> None:
    """RFC 9110, 10.1.1: such a client would take the 100 for its answer."""
    house = await world.router(await world.upstream())
    client = await world.client(house)
    client.ask("/", "Content-Length: 4", "Expect: 100-continue", method="POST", version="1.0")
    await asyncio.sleep(0.05)
    client.send(b"body")
    assert (await client.response()).body == b"body"
    assert client.interim == []


async def test_another_expectation_is_refused(world: Any) -> None:
    await refused(world, b"GET / HTTP/1.1\r\nHost: a\r\nExpect: wonders\r\n\r\n", 417, "expectation_failed")


# What is refused


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nHost: a\r\nbroken line\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nName : blank before the colon\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nA: one\r\n folded\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nA: nul\0here\r\n\r\n",
        b"GET / HTTP/1.1\nHost: a\n\n",
        b"GET / HTTP/1.1\r\nHost: a\nB: c\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx",
        b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\nx",
        b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\nx",
        b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 1\r\n\r\nx",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET nonsense HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET http://user@host/ HTTP/1.1\r\nHost: host\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"{} junk\r\n\r\n",
    ],
)
async def test_what_is_not_one_clear_request_is_refused(world: Any, data: bytes) -> None:
    await refused(world, data, 400, "bad_request")


@pytest.mark.parametrize("host", [b"a b", b"caf\xe9.example", b"a/b", b"a:b:c", b"a\tb"])
async def test_a_host_that_is_none_is_refused(world: Any, host: bytes) -> None:
    upstream = await world.upstream()
    client = await world.client(await world.router(upstream))
    client.send(b"GET / HTTP/1.1\r\nHost: %b\r\n\r\n" % host)
    assert (await client.response()).status == 400
    assert upstream.requests == []


@pytest.mark.parametrize(
    ("data", "status", "kind"),
    [
        (b"CONNECT example.com:443 HTTP/1.1\r\nHost: example.com\r\n\r\n", 405, "method_not_allowed"),
        (b"FROBNICATE / HTTP/1.1\r\nHost: a\r\n\r\n", 501, "method_not_implemented"),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 501, "coding_not_implemented"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, "version_not_supported"),
        (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505, "version_not_supported"),
        (b"GET / HTTP/3.0\r\nHost: a\r\n\r\n", 505, "version_not_supported"),
    ],
)
async def test_other_refusals_have_their_own_status(world: Any, data: bytes, status: int, kind: str) -> None:
    await refused(world, data, status, kind)


async def test_405_says_what_is_allowed(world: Any) -> None:
    client = await world.client(await world.router(await world.upstream()))
    client.send(b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n")
    assert "GET" in str((await client.response()).get("Allow"))


@pytest.mark.parametrize("ended", [True, False])
async def test_a_head_that_is_too_large(world: Any, ended: bool) -> None:
    data = HEAD[:-2] + b"X-Long: " + b"x" * 5000 + (b"\r\n\r\n" if ended else b"")
    await refused(world, data, 431, "head_too_large", server={"max_header_bytes": 4096})


async def test_a_long_request_line(world: Any) -> None:
    data = b"GET /" + b"x" * 5000 + b" HTTP/1.1\r\nHost: a\r\n\r\n"
    await refused(world, data, 414, "target_too_long", server={"max_header_bytes": 4096})


async def test_a_head_up_to_the_limit_is_served(world: Any) -> None:
    """The parser's own limits of some 8 KB must not show."""
    upstream = await world.upstream()
    house = await world.router(upstream, server={"max_header_bytes": 64 << 10})
    client = await world.client(house)
    response = await client.get("/" + "y" * 20_000, "X-Long: " + "x" * 30_000)
    assert response.status == 200
    assert len(upstream.requests[0].get("X-Long")) == 30_000


async def test_too_many_fields(world: Any) -> None:
    data = HEAD[:-2] + b"".join(b"X-%d: y\r\n" % n for n in range(40)) + b"\r\n"
    await refused(world, data, 431, "head_too_large", server={"max_headers": 20})


@pytest.mark.parametrize(
    "body", [b"zz\r\nabc\r\n", b"-3\r\nabc\r\n", b"3\nabc\n0\n\n", b"3\r\nabcd\r\n", b" 3\r\nabc\r\n"]
)
async def test_a_body_that_is_not_chunked_as_it_says(world: Any, body: bytes) -> None:
    async def script(peer: Any) -> None:
        await peer.ask()
        await peer.gone()

    upstream = await world.upstream(script)
    house = await world.router(upstream)
    client = await world.client(house)
    client.ask("/", "Transfer-Encoding: chunked", method="POST")
    client.send(body)
    response = await client.response()
    assert (response.status, response.get("Connection")) == (400, "close")
    await house.settled(upstream)


# Time


async def test_a_client_that_sends_nothing_is_closed(world: Any) -> None:
    house = await world.router(await world.upstream(), timeouts={"header": 0.1})
    client = await world.client(house)
    assert await client.gone() == "closed"
    assert client.received == b""


async def test_a_head_that_never_ends_gets_408(world: Any) -> None:
    house = await world.router(await world.upstream(), timeouts={"header": 0.15})
    client = await world.client(house)
    client.send(HEAD[:-2])

    async def drip() -> None:
        for n in range(200):
            client.send(b"X-%d: y\r\n" % n)
            await asyncio.sleep(0.02)

    dripping = asyncio.ensure_future(drip())
    response = await client.response()
    dripping.cancel()
    assert (response.status, response.get("Connection")) == (408, "close")


async def test_an_idle_connection_closes_without_a_word(world: Any) -> None:
    house = await world.router(await world.upstream(), timeouts={"idle": 0.1})
    client = await world.client(house)
    await client.get()
    before = len(client.received)
    assert await client.gone() == "closed"
    assert len(client.received) == before


async def test_the_header_timeout_holds_on_a_kept_connection(world: Any) -> None:
    house = await world.router(await world.upstream(), timeouts={"header": 0.1})
    client = await world.client(house)
    await client.get()
    client.send(HEAD[:10])
    assert (await client.response()).status == 408


@pytest.mark.parametrize("first", ["/", "/none"])
async def test_the_header_timeout_holds_for_half_a_head_behind_a_request(world: Any, first: str) -> None:
    """Both came in one piece: the half one is waited for `header`, not for `idle`."""
    house = await world.router(await world.upstream(), timeouts={"header": 0.1}, route={"path": "/"})
    client = await world.client(house)
    client.send(HEAD.replace(b"/ ", first.encode() + b" ") + HEAD[:10])
    await client.response()
    async with asyncio.timeout(4):
        assert (await client.response()).status == 408


async def test_a_body_that_stops_coming_gets_408(world: Any) -> None:
    async def script(peer: Any) -> None:
        await peer.ask()
        await peer.gone()

    upstream = await world.upstream(script)
    house = await world.router(upstream, timeouts={"stream": 0.1})
    client = await world.client(house)
    client.ask("/", "Content-Length: 10", method="POST")
    client.send(b"12345")
    response = await client.response()
    assert (response.status, response.get("Connection")) == (408, "close")
    await house.settled(upstream)


async def test_a_slow_body_is_waited_for_while_it_comes(world: Any) -> None:
    house = await world.router(await world.upstream(), timeouts={"stream": 0.3})
    client = await world.client(house)
    client.ask("/", "Content-Length: 3000", method="POST")
    for _ in range(10):
        await asyncio.sleep(0.06)
        client.send(b"x" * 300)
    assert (await client.response()).body == b"x" * 3000


async def test_a_body_that_drips_gets_408(world: Any) -> None:
    """Each byte comes in time; all of them together do not."""
    upstream = await world.upstream()
    house = await world.router(upstream, timeouts={"stream": 0.3})
    client = await world.client(house)
    client.ask("/", "Transfer-Encoding: chunked", method="POST")
    for _ in range(20):
        await asyncio.sleep(0.06)
        if client.reader._buffer:
            break
        client.send(b"1\r\nx\r\n")
    assert (await client.response()).status == 408
    await house.settled(upstream)


async def test_a_client_that_stops_reading_is_cut_off(world: Any) -> None:
    async def endless(peer: Any) -> None:
        await peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n")
        while True:
            peer.send(b"x" * 65536)
            await peer.flush()

    upstream = await world.upstream(endless)
    house = await world.router(upstream, timeouts={"stream": 0.2})
    client = await world.client(house, window=4096)
    client.reader._transport.pause_reading()  # type: ignore[attr-defined]
    client.ask()
    await world.eventually(lambda: house.pool.in_flight)
    await house.settled(upstream)


async def test_a_client_that_reads_slowly_but_steadily_is_not(world: Any) -> None:
    """What is buffered for it takes several times `stream` to read, but each look finds that it took some."""
    size = 5_000_000

    async def large(peer: Any) -> None:
        await peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + b"x" * size)
        await peer.gone()

    house = await world.router(await world.upstream(large), timeouts={"stream": 0.25})
    reader, writer = await asyncio.open_connection(*house.listener.name.split(":"), limit=4096)
    writer.write(HEAD)
    read = 0
    while read < size and (piece := await reader.read(8192)):
        read += len(piece)
        await asyncio.sleep(0.003)
    assert read >= size
    writer.close()
    await writer.wait_closed()


# Leaving


async def test_a_client_that_leaves_without_a_word_leaves_nothing(world: Any) -> None:
    house = await world.router(await world.upstream())
    for data in (b"", HEAD[:7], HEAD + HEAD[:7]):
        client = await world.client(house)
        client.send(data)
        await client.flush()
        client.reset()
    await world.eventually(lambda: not house.listener.connections)
    assert house.listener.connections == set()
