"""Where a response ends (RFC 9112, 6.3): lengths, chunks, statuses without a body, and what stands behind the end.

A row: id, what the server behind sends to the first request, what comes of it, and how it is asked (`response_row`).
An outcome is the exact bytes that the client gets, 502, or in a tuple the bytes of a response that is broken off: what
is not whole never looks whole. Only a connection whose response was clear to the last byte is used again.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from router.config import RetryConfig

pytestmark = pytest.mark.asyncio(loop_factories=["uvloop"])

OK = b"HTTP/1.1 200 OK\r\n"
EVIL = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
HELLO = CHUNKED + b"5\r\nhello\r\n0\r\n\r\n"
LENGTH = OK + b"Content-Length: 5\r\n\r\nhello"

LENGTHS = [
    ("length", LENGTH, LENGTH),
    ("length-0", OK + b"Content-Length: 0\r\n\r\n", OK + b"Content-Length: 0\r\n\r\n"),
    ("length-with-zeros", OK + b"Content-Length: 005\r\n\r\nhello", OK + b"Content-Length: 005\r\n\r\nhello"),
    ("length-among-blanks", OK + b"Content-Length:\t5 \r\n\r\nhello", OK + b"Content-Length:\t5 \r\n\r\nhello"),
    # RFC 9110, 8.6 lets a list of equal lengths pass as one; requests are not granted it either.
    ("lengths-equal", OK + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello", 502),
    ("lengths-in-a-list", OK + b"Content-Length: 5, 5\r\n\r\nhello", 502),
    ("lengths-differ", OK + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!", 502),
    ("lengths-differ-in-a-list", OK + b"Content-Length: 5, 6\r\n\r\nhello!", 502),
    ("lengths-in-two-cases", OK + b"content-length: 5\r\nA: b\r\nCONTENT-LENGTH: 0\r\n\r\nhello", 502),
    *(
        (f"length-{name}", OK + b"Content-Length: " + value + b"\r\n\r\nhello", 502)
        for name, value in {
            "plus": b"+5",
            "minus": b"-5",
            "minus-0": b"-0",
            "hex": b"0x5",
            "fraction": b"5.0",
            "exponent": b"5e0",
            "underscore": b"0_5",
            "empty": b"",
            "word": b"five",
            "two-words": b"5 5",
            "trailing-comma": b"5,",
            "with-semicolon": b"5;",
            "in-quotes": b'"5"',
            "superscript": b"\xb2",
            "vertical-tab": b"5\x0b",
            "nul": b"5\x00",
            "19-digits": b"9" * 19,
            "2-to-64-and-5": b"18446744073709551621",
        }.items()
    ),
    ("both", OK + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 502),
    ("both-the-other-way", OK + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", 502),
    ("both-of-gzip", OK + b"Transfer-Encoding: gzip\r\nContent-Length: 5\r\n\r\nhello", 502),
    ("both-in-a-304", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", 502),
    ("connection-names-the-length", OK + b"Connection: Content-Length\r\nContent-Length: 5\r\n\r\nhello", LENGTH),
    (
        "connection-names-the-coding",
        OK + b"Connection: Transfer-Encoding\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        HELLO,
    ),
]

CODINGS = [
    ("chunked", HELLO, HELLO),
    ("chunked-capital", OK + b"transfer-encoding: Chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", HELLO),
    ("chunked-empty", CHUNKED + b"0\r\n\r\n", CHUNKED + b"0\r\n\r\n"),
    *(
        (f"coding-{name}", OK + b"Transfer-Encoding: " + value + b"\r\n\r\n5\r\nhello\r\n0\r\n\r\n", 502)
        for name, value in {
            "gzip": b"gzip",
            "gzip-chunked": b"gzip, chunked",
            "chunked-gzip": b"chunked, gzip",
            "chunked-identity": b"chunked, identity",
            "identity": b"identity",
            "xchunked": b"xchunked",
            "twice": b"chunked, chunked",
            "with-parameter": b"chunked;q=1",
            "in-quotes": b'"chunked"',
            "trailing-comma": b"chunked,",
            "empty": b"",
            "vertical-tab": b"\x0bchunked",
            "nul": b"chunked\x00",
        }.items()
    ),
    ("codings-on-two-lines", OK + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 502),
    ("codings-that-differ", OK + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n", 502),
    ("coding-of-http-1.0", b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", 502),
    ("coding-blank-before-colon", OK + b"Transfer-Encoding : chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", 502),
    ("coding-folded", OK + b"Transfer-Encoding:\r\n chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", 502),
]

CHUNKS = [
    ("chunks", CHUNKED + b"3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n", CHUNKED + b"3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n"),
    (
        "chunk-sizes-spelled-otherwise",
        CHUNKED + b"000A\r\n0123456789\r\n00\r\n\r\n",
        CHUNKED + b"a\r\n0123456789\r\n0\r\n\r\n",
    ),
    ("chunk-extension", CHUNKED + b'5;a=b;c="d"\r\nhello\r\n0;e\r\n\r\n', HELLO),
    ("chunk-extension-among-blanks", CHUNKED + b"5 ; a\r\nhello\r\n0\r\n\r\n", HELLO),
    ("trailer", CHUNKED + b"5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n", HELLO),
    ("trailer-of-framing", CHUNKED + b"5\r\nhello\r\n0\r\nContent-Length: 9\r\nSet-Cookie: a=1\r\n\r\n", HELLO),
    # Nothing of the response is with the client yet, so it can be told.
    *(
        (f"chunk-{name}", CHUNKED + body, 502)
        for name, body in {
            "size-missing": b"\r\nhello\r\n0\r\n\r\n",
            "size-no-hex": b"x\r\nhello\r\n0\r\n\r\n",
            "size-minus": b"-5\r\nhello\r\n0\r\n\r\n",
            "size-plus": b"+5\r\nhello\r\n0\r\n\r\n",
            "size-0x": b"0x5\r\nhello\r\n0\r\n\r\n",
            "size-underscore": b"0_5\r\nhello\r\n0\r\n\r\n",
            "size-17-digits": b"10000000000000005\r\nhello\r\n0\r\n\r\n",
            "size-16-f": b"f" * 16 + b"\r\nhello\r\n0\r\n\r\n",
            "size-behind-a-blank": b" 5\r\nhello\r\n0\r\n\r\n",
            "size-before-a-blank": b"5 \r\nhello\r\n0\r\n\r\n",
            "lf-behind-size": b"5\nhello\r\n0\r\n\r\n",
            "cr-behind-size": b"5\rhello\r\n0\r\n\r\n",
            "lf-in-an-extension": b"5;a\nb\r\nhello\r\n0\r\n\r\n",
            "nul-in-an-extension": b"5;a\x00\r\nhello\r\n0\r\n\r\n",
            "extension-too-long": b"5;" + b"a" * 40_000 + b"\r\nhello\r\n0\r\n\r\n",
            "lf-behind-last-size": b"0\n\r\n",
            "lf-at-the-end": b"0\r\n\n",
            "trailer-with-nul": b"0\r\nX: a\x00\r\n\r\n",
            "trailer-with-lf": b"0\r\nX: a\n\r\n",
            "trailer-too-long": b"0\r\nX: " + b"y" * 40_000 + b"\r\n\r\n",
        }.items()
    ),
]

TO_THE_END = [
    ("to-the-end", OK + b"\r\nhello", HELLO, {"ends": True}),
    ("to-the-end-of-nothing", OK + b"\r\n", CHUNKED + b"0\r\n\r\n", {"ends": True}),
    (
        "to-the-end-to-http-1.0",
        OK + b"\r\nhello",
        OK + b"Connection: close\r\n\r\nhello",
        {"ends": True, "version": "1.0"},
    ),
    ("to-the-end-of-http-1.0", b"HTTP/1.0 200 OK\r\n\r\nhello", HELLO, {"ends": True}),
    (
        "to-the-end-of-http-1.0-that-would-be-kept",
        b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n\r\nhello",
        HELLO,
        {"ends": True},
    ),
    ("http-1.0", b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello", LENGTH, {"keeps": False}),
    ("http-1.0-kept", b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 5\r\n\r\nhello", LENGTH),
    (
        "http-1.0-closed",
        b"HTTP/1.0 200 OK\r\nConnection: close, keep-alive\r\nContent-Length: 5\r\n\r\nhello",
        LENGTH,
        {"keeps": False},
    ),
    ("closed", OK + b"Connection: close\r\nContent-Length: 5\r\n\r\nhello", LENGTH, {"keeps": False}),
    ("closed-in-a-list", OK + b"Connection: foo ,Close\r\nContent-Length: 5\r\n\r\nhello", LENGTH, {"keeps": False}),
    ("chunked-to-http-1.0", HELLO, OK + b"Connection: close\r\n\r\nhello", {"version": "1.0"}),
    (
        "chunked-with-extension-to-http-1.0",
        CHUNKED + b"5;a\r\nhello\r\n0\r\nX: y\r\n\r\n",
        OK + b"Connection: close\r\n\r\nhello",
        {"version": "1.0"},
    ),
    ("length-to-http-1.0", LENGTH, OK + b"Content-Length: 5\r\nConnection: close\r\n\r\nhello", {"version": "1.0"}),
    (
        "chunked-and-closed",
        OK + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        HELLO,
        {"keeps": False},
    ),
]

CUT = [
    # Nothing came of which a client could make something.
    ("nothing", b"", 502, {"ends": True}, "upstream_reset"),
    ("half-a-line", b"HTTP/1.1 20", 502, {"ends": True}, "upstream_reset"),
    ("half-a-head", OK + b"Content-Length: 5\r\n", 502, {"ends": True}, "upstream_reset"),
    (
        "length-short",
        OK + b"Content-Length: 10\r\n\r\nhello",
        (OK + b"Content-Length: 10\r\n\r\nhello",),
        {"ends": True},
    ),
    ("length-without-body", OK + b"Content-Length: 10\r\n\r\n", (OK + b"Content-Length: 10\r\n\r\n",), {"ends": True}),
    ("chunked-short", CHUNKED + b"5\r\nhello\r\n", (CHUNKED + b"5\r\nhello\r\n",), {"ends": True}),
    (
        "chunked-short-of-the-last-line",
        CHUNKED + b"5\r\nhello\r\n0\r\n",
        (CHUNKED + b"5\r\nhello\r\n",),
        {"ends": True},
    ),
    ("chunked-short-in-a-chunk", CHUNKED + b"5\r\nhel", (CHUNKED + b"5\r\nhel",), {"ends": True}),
    ("chunked-without-a-chunk", CHUNKED, (CHUNKED,), {"ends": True}),
    (
        "chunked-short-to-http-1.0",
        CHUNKED + b"5\r\nhello\r\n",
        (OK + b"Connection: close\r\n\r\nhello",),
        {"ends": True, "version": "1.0"},
    ),
]

NO_BODY = [
    ("204", b"HTTP/1.1 204 No Content\r\nA: b\r\n\r\n", b"HTTP/1.1 204 No Content\r\nA: b\r\n\r\n"),
    # RFC 9110, 8.6 and RFC 9112, 6.1: neither field in a 204, whoever wrote it.
    ("204-with-length-0", b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", b"HTTP/1.1 204 No Content\r\n\r\n"),
    (
        "204-with-length-and-body",
        b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.1 204 No Content\r\n\r\n",
        {"keeps": False},
    ),
    ("204-with-body", b"HTTP/1.1 204 No Content\r\n\r\nhello", b"HTTP/1.1 204 No Content\r\n\r\n", {"keeps": False}),
    (
        "204-chunked",
        b"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\n\r\n",
        {"keeps": False},
    ),
    (
        "204-and-another",
        b"HTTP/1.1 204 No Content\r\n\r\n" + EVIL,
        b"HTTP/1.1 204 No Content\r\n\r\n",
        {"keeps": False},
    ),
    (
        "304",
        b"HTTP/1.1 304 Not Modified\r\nContent-Length: 500\r\n\r\n",
        b"HTTP/1.1 304 Not Modified\r\nContent-Length: 500\r\n\r\n",
    ),
    (
        "304-with-body",
        b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n",
        {"keeps": False},
    ),
    (
        "304-chunked-with-body",
        b"HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        b"HTTP/1.1 304 Not Modified\r\n\r\n",
        {"keeps": False},
    ),
    (
        "304-and-another",
        b"HTTP/1.1 304 Not Modified\r\n\r\n" + EVIL,
        b"HTTP/1.1 304 Not Modified\r\n\r\n",
        {"keeps": False},
    ),
    ("head", OK + b"Content-Length: 500\r\n\r\n", OK + b"Content-Length: 500\r\n\r\n", {"method": "HEAD"}),
    # Without a framing field the server may mean to close: whether its connection is relied on is left open.
    ("head-without-length", OK + b"A: b\r\n\r\n", OK + b"A: b\r\n\r\n", {"method": "HEAD", "keeps": None}),
    ("head-chunked", CHUNKED, OK + b"\r\n", {"method": "HEAD"}),
    ("head-with-body", LENGTH, OK + b"Content-Length: 5\r\n\r\n", {"method": "HEAD", "keeps": False}),
    (
        "head-and-another",
        OK + b"Content-Length: 4\r\n\r\n" + EVIL,
        OK + b"Content-Length: 4\r\n\r\n",
        {"method": "HEAD", "keeps": False},
    ),
    ("head-chunked-with-body", HELLO, OK + b"\r\n", {"method": "HEAD", "keeps": False}),
    ("head-with-bad-length", OK + b"Content-Length: -1\r\n\r\n", 502, {"method": "HEAD"}),
    # RFC 9112, 6.3 gives a 205 no length of its own: as it is framed, so it is.
    (
        "205",
        b"HTTP/1.1 205 Reset Content\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 205 Reset Content\r\nContent-Length: 0\r\n\r\n",
    ),
    (
        "205-with-body",
        b"HTTP/1.1 205 Reset Content\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.1 205 Reset Content\r\nContent-Length: 5\r\n\r\nhello",
    ),
    (
        "404-without-body",
        b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
    ),
]

BEYOND = [
    ("byte-behind", LENGTH + b"!", LENGTH, {"keeps": False}),
    ("line-end-behind", LENGTH + b"\r\n", LENGTH, {"keeps": False}),
    ("another-behind", LENGTH + EVIL, LENGTH, {"keeps": False}),
    (
        "another-behind-length-0",
        OK + b"Content-Length: 0\r\n\r\n" + EVIL,
        OK + b"Content-Length: 0\r\n\r\n",
        {"keeps": False},
    ),
    ("another-behind-chunked", HELLO + EVIL, HELLO, {"keeps": False}),
    ("another-behind-a-trailer", CHUNKED + b"5\r\nhello\r\n0\r\nX: y\r\n\r\n" + EVIL, HELLO, {"keeps": False}),
    ("chunk-behind-chunked", HELLO + b"5\r\nworld\r\n0\r\n\r\n", HELLO, {"keeps": False}),
    ("interim-behind", LENGTH + b"HTTP/1.1 103 Early Hints\r\nLink: evil\r\n\r\n", LENGTH, {"keeps": False}),
    ("many-behind", LENGTH + EVIL * 1000, LENGTH, {"keeps": False}),
]

TABLES = (LENGTHS, CODINGS, CHUNKS, TO_THE_END, CUT, NO_BODY, BEYOND)


@pytest.mark.parametrize(
    ("raw", "outcome", "how"), [pytest.param(raw, what, how, id=name) for t in TABLES for name, raw, what, *how in t]
)
async def test_framing(response_row: Any, raw: bytes, outcome: Any, how: list[Any]) -> None:
    options, *kind = how or [{}]
    await response_row(raw, outcome, *kind, **options)


LATE = [
    ("bad-size", b"x\r\n"),
    ("huge-size", b"1" * 17 + b"\r\n"),
    ("lf-behind-size", b"5\nworld\r\n0\r\n\r\n"),
    ("no-line-end-behind-data", b"5\r\nworld0\r\n\r\n"),
    ("lf-at-the-end", b"0\r\n\n"),
    ("nul-in-a-trailer", b"0\r\nX: \x00\r\n\r\n"),
]


@pytest.mark.parametrize("version", ["1.1", "1.0"])
@pytest.mark.parametrize("late", [pytest.param(late, id=name) for name, late in LATE])
async def test_a_fault_behind_what_the_client_has(world: Any, late: bytes, version: str) -> None:
    """The response is broken off: no last chunk, no regular end, nothing of the router's own in its middle."""
    go_on = asyncio.Event()

    async def script(peer: Any) -> None:
        await peer.request()
        peer.send(CHUNKED + b"5\r\nhello\r\n")
        await go_on.wait()
        peer.send(late)
        await peer.gone()

    upstream = await world.upstream(script)
    house = await world.router(upstream, pool={"retry": RetryConfig(attempts=0)})
    client = await world.client(house)
    client.ask(version=version)
    await world.eventually(lambda: b"hello" in client._buffer or client.reader._buffer, "the first chunk")
    go_on.set()
    with pytest.raises(Exception, match=r"closed|reset"):
        await client.response()
    assert b" 502 " not in client.received
    assert not client.received.endswith(b"0\r\n\r\n")
    await house.settled(upstream)
    await world.eventually(lambda: upstream.open == 0, "the connection of such a response is closed")


async def test_a_server_that_speaks_first_is_heard_by_one_exchange_at_most(world: Any) -> None:
    """Bytes that were there before anybody asked are no answer to anybody who asks later."""

    async def script(peer: Any) -> None:
        peer.send(LENGTH + EVIL)
        await peer.request()
        peer.answer(b"right")
        await peer.gone()

    upstream = await world.upstream(script)
    house = await world.router(upstream, pool={"retry": RetryConfig(attempts=0)})
    client = await world.client(house)
    for number in range(1, 4):
        assert (await client.get()).status in (200, 502)
        await house.settled(upstream)
        await world.eventually(lambda: upstream.open == 0, "such a connection is closed")
        assert len(upstream.peers) == number
    assert b"evil" not in client.received


@pytest.mark.parametrize("junk", [EVIL, b"\r\n", b"x", b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\n\r\n"])
async def test_bytes_on_an_idle_connection_end_it(world: Any, junk: bytes) -> None:
    async def script(peer: Any) -> None:
        await peer.request()
        peer.answer(b"first")
        await peer.flush()
        await asyncio.sleep(0.01)
        peer.send(junk)
        await peer.gone()

    upstream = await world.upstream(script)
    house = await world.router(upstream, pool={"retry": RetryConfig(attempts=0)})
    client = await world.client(house)
    for number in range(1, 3):
        assert (await client.get(method="POST")).body == b"first"
        await world.eventually(lambda: upstream.open == 0, "the idle connection is closed")
        assert len(upstream.peers) == number
    assert b"evil" not in client.received
