"""Requests behind one another: each is answered in its turn, and where one ends the next begins (RFC 9112, 9.3).

The good ones before a bad one are answered first; behind a bad one, or one that closes, nothing is served.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

pytestmark = pytest.mark.asyncio(loop_factories=["uvloop"])


def get(target: bytes, *lines: bytes, version: bytes = b"1.1") -> bytes:
    return b"\r\n".join((b"GET %b HTTP/%b" % (target, version), b"Host: h.example", *lines, b"", b""))


def post(body: bytes, *lines: bytes) -> bytes:
    return b"\r\n".join((b"POST /p HTTP/1.1", b"Host: h.example", *lines, b"", b"")) + body


A, B, C = get(b"/a"), get(b"/b"), get(b"/c")
HEAD = A.replace(b"GET", b"HEAD")
LENGTH = post(b"hello", b"Content-Length: 5")
CHUNKED = post(b"5\r\nhello\r\n0\r\n\r\n", b"Transfer-Encoding: chunked")
BAD = b"GET / HTTP/1.1\r\nbroken\r\n\r\n"
EVIL = get(b"/smuggled")

ROWS = [
    ("two", A + B, A, B),
    ("three", A + B + C, A, B, C),
    ("twenty", b"".join(get(b"/%d" % n) for n in range(20)), *(get(b"/%d" % n) for n in range(20))),
    ("empty-lines-between", A + b"\r\n\r\n" + B, A, B),
    ("head-then-get", HEAD + A, HEAD, A),
    ("body-then-get", LENGTH + A, LENGTH, A),
    ("get-then-body", A + LENGTH, A, LENGTH),
    ("chunked-then-get", CHUNKED + A, CHUNKED, A),
    ("chunked-then-chunked", CHUNKED + CHUNKED, CHUNKED, CHUNKED),
    ("all-kinds", LENGTH + A + CHUNKED + HEAD + LENGTH, LENGTH, A, CHUNKED, HEAD, LENGTH),
    ("length-0-then-get", post(b"", b"Content-Length: 0") + A, post(b"", b"Content-Length: 0"), A),
    ("no-length-then-get", post(b"") + A, post(b""), A),
    (
        "get-as-body-then-get",
        post(EVIL, b"Content-Length: %d" % len(EVIL)) + A,
        post(EVIL, b"Content-Length: %d" % len(EVIL)),
        A,
    ),
    (
        "body-of-a-get-then-get",
        get(b"/a", b"Content-Length: 5") + b"hello" + B,
        get(b"/a", b"Content-Length: 5") + b"hello",
        B,
    ),
    (
        "body-one-byte-short",
        post(b"hello" + EVIL[:1], b"Content-Length: 6") + EVIL[1:],
        post(b"helloG", b"Content-Length: 6"),
        501,
    ),
    # A body without a length is none: it is the next request.
    ("body-without-length", A + b"hello\r\n\r\n", A, 400),
    ("body-without-length-of-post", post(b"a=b&c=d\r\n\r\n"), post(b""), 400),
    ("body-longer-than-its-length", post(b"hello, world\r\n\r\n", b"Content-Length: 5"), LENGTH, 400),
    ("json-without-length", post(b'{"a": 1}\r\n\r\n'), post(b""), 400),
    ("a-chunk-without-coding", post(b"5\r\nhello\r\n0\r\n\r\n"), post(b""), 400),
    ("a-chunk-behind-length-0", post(b"0\r\n\r\n", b"Content-Length: 0"), post(b"", b"Content-Length: 0"), 400),
    ("nul-behind", A + b"\x00", A, 400),
    ("lf-behind", A + b"\n", A, 400),
    ("cr-behind", A + b"\r", A, 400),
    ("blank-behind", A + b" ", A, 400),
    # Refusals
    ("good-bad", A + BAD, A, 400),
    ("good-good-bad", A + B + BAD, A, B, 400),
    ("good-bad-good", A + BAD + B, A, 400),
    ("bad-good", BAD + A, 400),
    ("bad-with-a-body-that-is-a-request", post(EVIL, b"Content-Length: 5", b"Content-Length: 5"), 400),
    (
        "both-framings-and-a-request",
        post(b"0\r\n\r\n" + EVIL, b"Content-Length: 5", b"Transfer-Encoding: chunked"),
        400,
    ),
    (
        "both-framings-behind-a-good-one",
        A + post(b"0\r\n\r\n" + EVIL, b"Content-Length: 5", b"Transfer-Encoding: chunked"),
        A,
        400,
    ),
    ("body-good-then-bad", LENGTH + BAD, LENGTH, 400),
    ("chunked-good-then-bad", CHUNKED + BAD, CHUNKED, 400),
    ("chunked-bad-then-good", post(b"x\r\n", b"Transfer-Encoding: chunked") + A, 400),
    ("good-then-chunked-bad", A + post(b"x\r\n", b"Transfer-Encoding: chunked") + B, A, 400),
    ("unknown-method-behind", A + b"FOO / HTTP/1.1\r\nHost: h.example\r\n\r\n", A, 501),
    ("unknown-version-behind", A + get(b"/", version=b"2.0"), A, 505),
    ("preface-behind", A + b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", A, 505),
    ("expect-behind", A + get(b"/", b"Expect: wonders"), A, 417),
    ("fields-too-large-behind", A + get(b"/", b"A: " + b"b" * 40_000), A, 431),
    ("connect-behind", A + b"CONNECT h.example:443 HTTP/1.1\r\nHost: h.example:443\r\n\r\n", A, 405),
    ("coding-unknown-behind", A + post(b"hello", b"Transfer-Encoding: gzip, chunked"), A, 501),
    # Ends
    ("close-then-get", get(b"/a", b"Connection: close") + EVIL, A, "closes"),
    ("get-then-close-then-get", A + get(b"/b", b"Connection: close") + EVIL, A, B, "closes"),
    ("close-then-bad", get(b"/a", b"Connection: close") + BAD, A, "closes"),
    ("close-with-body-then-get", post(b"hello", b"Content-Length: 5", b"Connection: close") + EVIL, LENGTH, "closes"),
    ("http-1.0-then-get", get(b"/a", version=b"1.0") + EVIL, A, "closes"),
    ("http-1.0-kept-then-get", get(b"/a", b"Connection: keep-alive", version=b"1.0") + B, A, B),
    (
        "http-1.0-kept-then-http-1.0",
        get(b"/a", b"Connection: keep-alive", version=b"1.0") + get(b"/b", version=b"1.0"),
        A,
        B,
        "closes",
    ),
    ("http-1.1-then-http-1.0", A + get(b"/b", version=b"1.0"), A, B, "closes"),
    # What a request asks for is not asked for by the next one.
    (
        "close-is-for-one-connection",
        get(b"/a", b"Connection: X-A", b"X-A: 1") + get(b"/b", b"X-A: 2"),
        A,
        get(b"/b", b"X-A: 2"),
    ),
    ("upgrade-then-get", get(b"/a", b"Connection: Upgrade", b"Upgrade: h2c") + B, A, B),
    (
        "upgrade-then-preface",
        get(b"/a", b"Connection: Upgrade", b"Upgrade: h2c") + b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        A,
        505,
    ),
    ("expect-then-get", post(b"hello", b"Expect: 100-continue", b"Content-Length: 5") + A, LENGTH, A),
]


@pytest.mark.parametrize(("raw", "outcomes"), [pytest.param(raw, rest, id=name) for name, raw, *rest in ROWS])
async def test_pipelines(request_row: Any, raw: bytes, outcomes: list[Any]) -> None:
    await request_row(raw, outcomes)


@pytest.mark.parametrize("raw", [A + B, CHUNKED + A], ids=["heads", "chunked"])
async def test_wherever_it_is_cut(world: Any, raw: bytes) -> None:
    """How bytes are parted on their way means nothing: each cut gives the same two requests."""
    upstream = await world.upstream()
    client = await world.client(await world.router(upstream))
    for cut in range(1, len(raw)):
        client.send(raw[:cut])
        await client.flush()
        await asyncio.sleep(0.002)
        client.send(raw[cut:])
        assert [(await client.response()).status for _ in range(2)] == [200, 200], f"cut behind {raw[:cut]!r}"
    assert len(upstream.requests) == 2 * (len(raw) - 1)
    assert {head.target for head in upstream.requests[1::2]} == {raw.split(b" ")[-3].decode()}
    assert {head.body for head in upstream.requests[::2]} == {b"hello" if raw.startswith(b"POST") else b""}
