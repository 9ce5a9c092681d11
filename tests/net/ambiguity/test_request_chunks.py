"""Chunked bodies of requests (RFC 9112, 7.1): sizes, line ends, extensions, trailers, and what stands behind them.

Extensions and trailers never go on: servers that read them differently would part company there. A body that is not
chunked as it says is refused before a byte of its request goes upstream, if the fault came with the head; if it came
later, the server sees a request without end whose connection closes.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

pytestmark = pytest.mark.asyncio(loop_factories=["uvloop"])

HEAD = b"POST /p HTTP/1.1\r\nHost: h.example\r\nTransfer-Encoding: chunked\r\n\r\n"
PLAIN = b"5\r\nhello\r\n0\r\n\r\n"
GOOD = b"GET /good HTTP/1.1\r\nHost: h.example\r\n\r\n"

#: id, body as sent, body as the server behind sees it (or the status), and what comes of the bytes behind it.
ROWS = [
    ("one", PLAIN, PLAIN),
    ("two", b"3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n", b"3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n"),
    ("none", b"0\r\n\r\n", b"0\r\n\r\n"),
    ("upper-case-size", b"A\r\n0123456789\r\n0\r\n\r\n", b"a\r\n0123456789\r\n0\r\n\r\n"),
    ("lower-case-size", b"a\r\n0123456789\r\n0\r\n\r\n", b"a\r\n0123456789\r\n0\r\n\r\n"),
    ("size-with-zeros", b"0005\r\nhello\r\n0\r\n\r\n", PLAIN),
    ("last-size-with-zeros", b"5\r\nhello\r\n000\r\n\r\n", PLAIN),
    ("line-ends-as-data", b"4\r\n\r\n\r\n\r\n0\r\n\r\n", b"4\r\n\r\n\r\n\r\n0\r\n\r\n"),
    ("a-last-chunk-as-data", b"5\r\n0\r\n\r\n\r\n0\r\n\r\n", b"5\r\n0\r\n\r\n\r\n0\r\n\r\n"),
    ("nul-as-data", b"3\r\na\x00b\r\n0\r\n\r\n", b"3\r\na\x00b\r\n0\r\n\r\n"),
    # Sizes
    *(
        (f"size-{name}", size + b"\r\nhello\r\n0\r\n\r\n", 400)
        for name, size in {
            "missing": b"",
            "17-digits": b"10000000000000005",
            "17-f": b"f" * 17,
            "2-to-64": b"10000000000000000",
            "16-f": b"f" * 16,
            "2-to-63": b"8000000000000000",
            "100-digits": b"1" * 100,
            # 1*HEXDIG allows it; bounded all the same, for a size is no place to send data.
            "400-zeros": b"0" * 400 + b"5",
            "minus": b"-5",
            "minus-0": b"-0",
            "plus": b"+5",
            "0x": b"0x5",
            "0X": b"0X5",
            "h": b"5h",
            "underscore": b"0_5",
            "fraction": b"5.0",
            "comma": b"5,5",
            "blank-before": b" 5",
            "tab-before": b"\t5",
            "blank-behind": b"5 ",
            "tab-behind": b"5\t",
            "blank-inside": b"0 5",
            "no-hex": b"g",
            "word": b"five",
            "vertical-tab-before": b"\x0b5",
            "vertical-tab-behind": b"5\x0b",
            "form-feed-behind": b"5\x0c",
            "nul-behind": b"5\x00",
            "nul-before": b"\x005",
            "no-break-space": b"5\xa0",
            "fullwidth": b"\xef\xbc\x95",
            "in-quotes": b'"5"',
            "cr-behind": b"5\r",
            "semicolon-alone": b";",
            "extension-alone": b";ext=1",
        }.items()
    ),
    # Line ends
    ("lf-behind-size", b"5\nhello\r\n0\r\n\r\n", 400),
    ("cr-behind-size", b"5\rhello\r\n0\r\n\r\n", 400),
    ("lf-cr-behind-size", b"5\n\rhello\r\n0\r\n\r\n", 400),
    ("lf-behind-data", b"5\r\nhello\n0\r\n\r\n", 400),
    ("cr-behind-data", b"5\r\nhello\r0\r\n\r\n", 400),
    ("two-crs-behind-data", b"5\r\nhello\r\r\n0\r\n\r\n", 400),
    ("blank-behind-data", b"5\r\nhello \r\n0\r\n\r\n", 400),
    ("nothing-behind-data", b"5\r\nhello0\r\n\r\n", 400),
    ("two-line-ends-behind-data", b"5\r\nhello\r\n\r\n0\r\n\r\n", 400),
    ("line-end-before-the-first-size", b"\r\n" + PLAIN, 400),
    ("lf-before-the-first-size", b"\n" + PLAIN, 400),
    ("data-too-long", b"5\r\nhello!\r\n0\r\n\r\n", 400),
    ("data-too-short", b"5\r\nhell\r\n0\r\n\r\n", 400),
    ("lf-behind-last-size", b"5\r\nhello\r\n0\n\r\n", 400),
    ("cr-behind-last-size", b"5\r\nhello\r\n0\r\r\n", 400),
    ("lf-at-the-end", b"5\r\nhello\r\n0\r\n\n", 400),
    ("two-lfs-at-the-end", b"5\r\nhello\r\n0\n\n", 400),
    ("cr-and-other-at-the-end", b"5\r\nhello\r\n0\r\n\rX", 400),
    ("all-lf", b"5\nhello\n0\n\n", 400),
    ("lf-only-on-none", b"0\n\n", 400),
    # Extensions are dropped
    ("extension", b"5;a\r\nhello\r\n0\r\n\r\n", PLAIN),
    ("extension-with-value", b"5;a=b;c=d\r\nhello\r\n0\r\n\r\n", PLAIN),
    ("extension-in-quotes", b'5;a="b;c=\\"d"\r\nhello\r\n0\r\n\r\n', PLAIN),
    ("extension-of-the-last", b"5\r\nhello\r\n0;a=b\r\n\r\n", PLAIN),
    ("extension-that-looks-like-a-size", b"5;5\r\nhello\r\n0\r\n\r\n", PLAIN),
    ("extension-of-8-bits", b'5;a="\xe9"\r\nhello\r\n0\r\n\r\n', PLAIN),
    # 7.1.1: blanks are bad here, and a recipient must take them off.
    ("extension-among-blanks", b"5 ;\ta = b\r\nhello\r\n0\r\n\r\n", PLAIN),
    # Where another parser sees the end of the line in it.
    ("extension-with-lf", b"5;a\nhello\r\n0\r\n\r\n", 400),
    ("extension-with-lf-and-a-chunk", b"5;\n5\r\nhello\r\n0\r\n\r\n", 400),
    ("extension-with-cr", b"5;a\rb\r\nhello\r\n0\r\n\r\n", 400),
    ("extension-with-quoted-lf", b'5;a="\n"\r\nhello\r\n0\r\n\r\n', 400),
    ("extension-with-nul", b"5;a\x00\r\nhello\r\n0\r\n\r\n", 400),
    ("extension-with-control", b"5;a\x01\r\nhello\r\n0\r\n\r\n", 400),
    ("extension-with-del", b"5;a\x7f\r\nhello\r\n0\r\n\r\n", 400),
    ("extension-too-long", b"5;" + b"a" * 40_000 + b"\r\nhello\r\n0\r\n\r\n", 400),
    # 7.1.1: the total over a request is to be limited too.
    ("extensions-too-many", b"".join(b"1;" + b"a" * 1000 + b"\r\nx\r\n" for _ in range(400)) + b"0\r\n\r\n", 400),
    # Trailers are dropped
    ("trailer", b"5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n", PLAIN),
    ("trailers", b"5\r\nhello\r\n0\r\nX-Sum: 1\r\nX-Other: 2\r\n\r\n", PLAIN),
    ("trailer-content-length", b"5\r\nhello\r\n0\r\nContent-Length: 50\r\n\r\n", PLAIN),
    ("trailer-transfer-encoding", b"5\r\nhello\r\n0\r\nTransfer-Encoding: chunked\r\n\r\n", PLAIN),
    ("trailer-host", b"5\r\nhello\r\n0\r\nHost: evil.example\r\n\r\n", PLAIN),
    ("trailer-connection", b"5\r\nhello\r\n0\r\nConnection: close\r\n\r\n", PLAIN),
    ("trailer-forwarded", b"5\r\nhello\r\n0\r\nX-Forwarded-For: 6.6.6.6\r\n\r\n", PLAIN),
    ("trailer-with-lf", b"5\r\nhello\r\n0\r\nX: 1\n\r\n", 400),
    ("trailer-ended-by-lf", b"5\r\nhello\r\n0\r\nX: 1\r\n\n", 400),
    ("trailer-with-cr", b"5\r\nhello\r\n0\r\nX: a\rb\r\n\r\n", 400),
    ("trailer-with-nul", b"5\r\nhello\r\n0\r\nX: a\x00b\r\n\r\n", 400),
    # 5: a trailer section is field lines; what is none may be the next request to somebody else.
    ("trailer-without-colon", b"5\r\nhello\r\n0\r\njunk\r\n\r\n", 400),
    ("trailer-that-is-a-request", b"5\r\nhello\r\n0\r\nGET /smuggled HTTP/1.1\r\nHost: evil.example\r\n\r\n", 400),
    ("trailer-without-name", b"5\r\nhello\r\n0\r\n: 1\r\n\r\n", 400),
    ("trailer-blank-before-colon", b"5\r\nhello\r\n0\r\nX : 1\r\n\r\n", 400),
    ("trailer-folded", b"5\r\nhello\r\n0\r\nX: 1\r\n 2\r\n\r\n", 400),
    ("trailer-blank-at-first", b"5\r\nhello\r\n0\r\n X: 1\r\n\r\n", 400),
    ("trailer-too-long", b"5\r\nhello\r\n0\r\nX: " + b"y" * 40_000 + b"\r\n\r\n", 400),
    ("trailers-too-many", b"5\r\nhello\r\n0\r\n" + b"X: y\r\n" * 8000 + b"\r\n", 400),
    # What stands behind the body is the next request
    ("then-a-request", PLAIN + GOOD, PLAIN, GOOD),
    ("then-a-chunked-request", PLAIN + HEAD + PLAIN, PLAIN, HEAD + PLAIN),
    ("then-an-empty-line", PLAIN + b"\r\n" + GOOD, PLAIN, GOOD),
    ("then-junk", PLAIN + b"junk\r\n\r\n", PLAIN, 400),
    ("then-another-chunk", PLAIN + b"5\r\nworld\r\n0\r\n\r\n", PLAIN, 400),
    ("then-a-second-end", PLAIN + b"0\r\n\r\n", PLAIN, 400),
    ("then-control-bytes", PLAIN + b"\x00\x00", PLAIN, 400),
    ("second-body-bad", PLAIN + HEAD + b"x\r\n", PLAIN, 400),
]


@pytest.mark.parametrize(("body", "outcomes"), [pytest.param(body, rest, id=name) for name, body, *rest in ROWS])
async def test_chunked(request_row: Any, body: bytes, outcomes: list[Any]) -> None:
    first = HEAD + outcomes[0] if isinstance(outcomes[0], bytes) else outcomes[0]
    await request_row(HEAD + body, [first, *outcomes[1:]], unclear=True)


#: Faults behind a part that is already with the server: id, what comes first, what follows, what the server has seen.
LATE = [
    ("bad-size", b"5\r\nhello\r\n", b"x\r\n", b"5\r\nhello\r\n"),
    ("huge-size", b"5\r\nhello\r\n", b"1" * 17 + b"\r\n", b"5\r\nhello\r\n"),
    ("negative-size", b"5\r\nhello\r\n", b"-1\r\n", b"5\r\nhello\r\n"),
    ("lf-behind-size", b"5\r\nhello\r\n", b"5\nworld\r\n0\r\n\r\n", b"5\r\nhello\r\n"),
    ("no-line-end-behind-data", b"5\r\nhello\r\n", b"5\r\nworld0\r\n\r\n", b"5\r\nhello\r\n5\r\nworld\r\n"),
    ("lf-at-the-end", b"5\r\nhello\r\n", b"0\r\n\n", b"5\r\nhello\r\n"),
    ("lf-in-an-extension", b"5\r\nhello\r\n", b"0;\n\r\n\r\n", b"5\r\nhello\r\n"),
    ("bad-trailer", b"5\r\nhello\r\n", b"0\r\nX: a\x00\r\n\r\n", b"5\r\nhello\r\n"),
    ("end-of-connection", b"5\r\nhello\r\n", None, b"5\r\nhello\r\n"),
    ("end-of-connection-inside-a-chunk", b"5\r\nhello\r\n", b"5\r\nwor", b"5\r\nhello\r\n5\r\nwor"),
    ("end-of-connection-before-the-last-line", b"5\r\nhello\r\n", b"0\r\n", b"5\r\nhello\r\n"),
]


@pytest.mark.parametrize(("early", "late", "seen"), [pytest.param(*row, id=name) for name, *row in LATE])
async def test_a_fault_behind_what_is_on_its_way(world: Any, early: bytes, late: bytes | None, seen: bytes) -> None:
    """The server behind sees at most this, never an end of the body, and its connection closes."""
    bodies = []

    async def script(peer: Any) -> None:
        await peer.ask()
        with pytest.raises(Exception, match=r"closed|reset"):
            await peer.chunked()
        bodies.append(bytes(peer.received).partition(b"\r\n\r\n")[2])

    upstream = await world.upstream(script)
    house = await world.router(upstream)
    client = await world.client(house)
    client.send(HEAD + early)
    await world.eventually(lambda: upstream.peers and early in upstream.peers[0].received, "the first chunk")
    if late is not None:
        client.send(late)
    await asyncio.sleep(0.01)
    client.writer.write_eof()
    rest = await client.rest()
    assert rest == b"" or rest.startswith(b"HTTP/1.1 400 ")
    await house.settled(upstream)
    await world.eventually(lambda: bodies, "the server's connection closed")
    assert len(bodies) == len(upstream.peers) == 1
    assert seen.startswith(bodies[0])
    assert bodies[0].startswith(early)


LENGTH = b"POST /p HTTP/1.1\r\nHost: h.example\r\nContent-Length: 10\r\n\r\nhello"


@pytest.mark.parametrize("leaves", ["ends", "resets"])
async def test_a_body_shorter_than_its_length(world: Any, leaves: str) -> None:
    """RFC 9112, 8: an incomplete request is never made whole, and nothing is sent behind it."""
    seen = []

    async def script(peer: Any) -> None:
        await peer.ask()
        with pytest.raises(Exception, match=r"closed|reset"):
            await peer.exactly(10)
        seen.append(bytes(peer.received).partition(b"\r\n\r\n")[2])

    upstream = await world.upstream(script)
    house = await world.router(upstream)
    client = await world.client(house)
    client.send(LENGTH)
    await world.eventually(lambda: upstream.peers and upstream.peers[0].received.endswith(b"hello"), "the first part")
    if leaves == "ends":
        client.writer.write_eof()
        rest = await client.rest()
        assert rest == b"" or rest.startswith(b"HTTP/1.1 400 ")
    else:
        client.reset()
    await house.settled(upstream)
    await world.eventually(lambda: seen, "the server's connection closed")
    assert seen == [b"hello"]
