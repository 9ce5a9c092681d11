"""Heads of responses: status lines, field lines, interim responses, and what of it all the client gets.

RFC 9112, 2.2, 4 and 5. Where the RFC has a proxy mend a response or discard it, it is discarded: 502. Rows as in
test_response_framing.py.
"""

from __future__ import annotations

from typing import Any

import pytest

from router.config import RetryConfig

pytestmark = pytest.mark.asyncio(loop_factories=["uvloop"])

OK = b"HTTP/1.1 200 OK\r\n"
REST = b"Content-Length: 5\r\n\r\nhello"
LENGTH = OK + REST


def line(text: bytes) -> bytes:
    return text + b"\r\n" + REST


def with_fields(*lines: bytes) -> bytes:
    return OK + b"".join(each + b"\r\n" for each in lines) + REST


def same(name: str, raw: bytes) -> tuple[str, bytes, bytes]:
    return name, raw, raw


STATUS_LINES = [
    same("reason-other", line(b"HTTP/1.1 200 Fine, thanks!")),
    same("reason-of-8-bits", line(b"HTTP/1.1 200 D'accord \xe9\xff")),
    same("reason-with-tab", line(b"HTTP/1.1 200 all\tright")),
    same("reason-empty", line(b"HTTP/1.1 200 ")),
    # 4: the blank stands even where no reason follows; it is put in.
    ("reason-missing", line(b"HTTP/1.1 200"), line(b"HTTP/1.1 200 ")),
    same("status-unknown", line(b"HTTP/1.1 299 Odd")),
    same("status-451", line(b"HTTP/1.1 451 Unavailable For Legal Reasons")),
    same("status-599", line(b"HTTP/1.1 599 Odd")),
    # Above 599 is invalid (RFC 9110, 15) and in use; a client takes it for a 5xx, and nobody differs on where it ends.
    same("status-600", line(b"HTTP/1.1 600 Odd")),
    same("status-999", line(b"HTTP/1.1 999 Odd")),
    ("status-500-of-http-1.0", line(b"HTTP/1.0 500 Oops"), line(b"HTTP/1.1 500 Oops"), {"keeps": False}),
    *(
        (f"line-{name}", line(text), 502)
        for name, text in {
            "status-missing": b"HTTP/1.1 OK",
            "status-missing-and-reason": b"HTTP/1.1",
            "status-of-1-digit": b"HTTP/1.1 2 OK",
            "status-of-2-digits": b"HTTP/1.1 20 OK",
            "status-of-4-digits": b"HTTP/1.1 2000 OK",
            "status-99": b"HTTP/1.1 99 OK",
            "status-000": b"HTTP/1.1 000 OK",
            "status-099": b"HTTP/1.1 099 OK",
            "status-1000": b"HTTP/1.1 1000 OK",
            "status-signed": b"HTTP/1.1 +200 OK",
            "status-minus": b"HTTP/1.1 -200 OK",
            "status-hex": b"HTTP/1.1 0xC8 OK",
            "status-fraction": b"HTTP/1.1 200.0 OK",
            "status-word": b"HTTP/1.1 abc OK",
            "status-and-reason-in-one": b"HTTP/1.1 200OK",
            "status-8-bit": b"HTTP/1.1 \xb2\xb0\xb0 OK",
            "two-blanks": b"HTTP/1.1  200 OK",
            "tab": b"HTTP/1.1\t200 OK",
            "blank-before": b" HTTP/1.1 200 OK",
            "version-0.9": b"HTTP/0.9 200 OK",
            "version-1.2": b"HTTP/1.2 200 OK",
            "version-1.10": b"HTTP/1.10 200 OK",
            "version-2": b"HTTP/2 200 OK",
            "version-2.0": b"HTTP/2.0 200 OK",
            "version-3.0": b"HTTP/3.0 200 OK",
            "version-lower-case": b"http/1.1 200 OK",
            "version-short": b"HTTP/1 200 OK",
            "version-none": b"HTTP 200 OK",
            "icy": b"ICY 200 OK",
            "rtsp": b"RTSP/1.0 200 OK",
            "request": b"GET / HTTP/1.1",
            "status-alone": b"200 OK",
            "word": b"hello",
            "html": b"<html>",
            "smtp": b"220 mail.example ESMTP",
            "tls": b"\x15\x03\x01\x00\x02\x02\x46",
            "reason-with-nul": b"HTTP/1.1 200 O\x00K",
            "reason-with-control": b"HTTP/1.1 200 O\x01K",
            "reason-with-escape": b"HTTP/1.1 200 \x1b[31mOK",
            "reason-with-del": b"HTTP/1.1 200 O\x7fK",
            "reason-with-cr": b"HTTP/1.1 200 O\rK",
            "reason-with-lf": b"HTTP/1.1 200 O\nK",
            "status-with-nul": b"HTTP/1.1 20\x000 OK",
            "version-with-nul": b"HTTP/1.\x001 200 OK",
        }.items()
    ),
    # Empty lines are for requests (2.2).
    ("empty-line-before", b"\r\n" + LENGTH, 502),
    ("lf-before", b"\n" + LENGTH, 502),
    ("byte-order-mark", b"\xef\xbb\xbf" + LENGTH, 502),
    ("no-head-at-all", b"hello, world\r\n\r\n", 502, {"ends": True}),
]

ENDS = [
    ("all-lf", LENGTH.replace(b"\r\n", b"\n"), 502),
    ("all-cr", LENGTH.replace(b"\r\n", b"\r") + b"\r\n\r\n", 502),
    ("lf-behind-the-line", b"HTTP/1.1 200 OK\n" + REST, 502),
    ("cr-behind-the-line", b"HTTP/1.1 200 OK\r" + REST, 502),
    ("two-crs-behind-the-line", b"HTTP/1.1 200 OK\r\r\n" + REST, 502),
    ("lf-behind-a-field", OK + b"A: b\n" + REST, 502),
    ("cr-behind-a-field", OK + b"A: b\r" + REST, 502),
    ("two-crs-behind-a-field", OK + b"A: b\r\r\n" + REST, 502),
    ("lf-behind-the-length", OK + b"Content-Length: 5\n\r\nhello\r\n\r\n", 502),
    ("lf-for-the-last-line", OK + b"Content-Length: 5\r\n\nhello\r\n\r\n", 502),
    ("cr-in-the-last-line", OK + b"Content-Length: 5\r\n\r\r\nhello\r\n\r\n", 502),
    ("lf-and-a-cookie", OK + b"A: b\nSet-Cookie: evil\r\n" + REST, 502),
    ("lf-and-a-second-response", OK + b"A: b\n\nHTTP/1.1 200 OK\r\n" + REST, 502),
    ("folded", with_fields(b"A: b", b" c"), 502),
    ("folded-by-tab", with_fields(b"A: b", b"\tc"), 502),
    ("folded-to-a-blank", with_fields(b"A: b", b" "), 502),
    ("folded-first", OK + b" A: b\r\n" + REST, 502),
    ("folded-length", OK + b"Content-Length:\r\n 5\r\n\r\nhello", 502),
]

FIELDS = [
    same("cookies", with_fields(b"Set-Cookie: a=1; Path=/", b"set-cookie: b=2", b"X: y", b"Set-Cookie: a=1; Path=/")),
    same("order-and-case", with_fields(b"x-B: 1", b"X-a: 2", b'ETAG: W/"1"', b"X-A: 3", b"x-b: 4")),
    same("8-bit-values", with_fields(b"A: caf\xe9", b"B: caf\xc3\xa9", b"C: " + bytes(range(128, 256)))),
    same("empty-values", with_fields(b"A:", b"B: ", b"C:\t")),
    same("tab-in-a-value", with_fields(b"A: b\tc")),
    same("value-without-blank", with_fields(b"A:b", b"B:  c  ")),
    same("value-with-colons", with_fields(b"Location: http://h.example:80/", b"A: b: c")),
    same("value-long", with_fields(b"A: " + b"b" * 20_000)),
    same("name-of-all-that-is-allowed", with_fields(b"!#$%&'*+-.^_`|~09azAZ: b")),
    same(
        "fields-twice", with_fields(b"Content-Type: text/html", b"Content-Type: text/plain", b"Server: a", b"Server: b")
    ),
    same("vouched-names-are-for-requests", with_fields(b"X-Forwarded-For: 1", b"Forwarded: for=1", b"X_Request_ID: 1")),
    *(
        (f"name-{name}", with_fields(text, b"C: d"), 502)
        for name, text in {
            "empty": b": b",
            "without-colon": b"A",
            "blank-inside": b"A B: c",
            "blank-behind": b"A : b",
            "tab-behind": b"A\t: b",
            "nul": b"A\x00: b",
            "control": b"A\x01: b",
            "del": b"A\x7f: b",
            "8-bit": b"A\xe9: b",
            "bracket": b"A(b): c",
            "quotes": b'"A": b',
            "slash": b"A/b: c",
            "at": b"A@b: c",
            "a-second-line": b"HTTP/1.1 200 OK",
        }.items()
    ),
    ("length-blank-before-colon", OK + b"Content-Length : 5\r\n\r\nhello", 502),
    *(
        (f"value-with-{byte:02x}", with_fields(b"A: b%bc" % bytes([byte])), 502)
        for byte in (0, 1, 2, 7, 8, 11, 12, 13, 14, 27, 31, 127)
    ),
    ("value-begins-with-nul", with_fields(b"A: \x00b"), 502),
    ("value-ends-with-control", with_fields(b"A: b\x01"), 502),
    ("value-ends-with-vertical-tab", with_fields(b"A: b\x0b"), 502),
    ("head-too-large", with_fields(b"A: " + b"b" * 40_000), 502),
    ("head-too-large-and-unended", OK + b"A: " + b"b" * 40_000, 502),
    ("head-too-large-together", with_fields(*(b"A%d: " % n + b"b" * 1000 for n in range(40))), 502),
    ("line-too-large", line(b"HTTP/1.1 200 " + b"O" * 40_000), 502),
    ("fields-too-many", with_fields(*[b"A: b"] * 128), 502),
    same("fields-128", with_fields(*[b"A: b"] * 127)),
]

HOPS = [
    ("connection-keep-alive", with_fields(b"Connection: keep-alive", b"Keep-Alive: timeout=5"), LENGTH),
    (
        "connection-of-fields",
        with_fields(b"X-A: 1", b"Connection: x-a, X-B", b"x-b: 2", b"X-C: 3"),
        with_fields(b"X-C: 3"),
    ),
    ("connection-of-a-cookie", with_fields(b"Connection: Set-Cookie", b"Set-Cookie: a=1"), LENGTH),
    ("connection-on-two-lines", with_fields(b"Connection: X-A", b"X-A: 1", b"connection: X-B", b"X-B: 2"), LENGTH),
    ("connection-of-all-that-is-added", with_fields(b"Connection: Via, X-Request-ID, Date"), LENGTH),
    ("connection-empty", with_fields(b"Connection:"), LENGTH),
    ("proxy-connection", with_fields(b"Proxy-Connection: keep-alive"), LENGTH),
    ("te", with_fields(b"TE: trailers"), LENGTH),
    (
        "trailer",
        OK + b"Trailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-Sum: 1\r\n\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    ("upgrade", with_fields(b"Upgrade: h2, h2c", b"Connection: Upgrade"), LENGTH),
    (
        "upgrade-426",
        b"HTTP/1.1 426 Upgrade Required\r\nUpgrade: h2c\r\nConnection: Upgrade\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 426 Upgrade Required\r\nContent-Length: 0\r\n\r\n",
    ),
]

SAID_BY_THE_SERVER = [
    ("date", with_fields(b"Date: Sun, 06 Nov 1994 08:49:37 GMT"), {"added": (b"Via", b"X-Request-ID")}),
    ("request-id", with_fields(b"X-Request-ID: theirs"), {"added": (b"Via", b"Date")}),
    ("via", with_fields(b"Via: 1.1 other"), {}),
]

EARLY = b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n"
INTERIM = [
    ("100", b"HTTP/1.1 100 Continue\r\n\r\n" + LENGTH, LENGTH),
    ("100-of-http-1.0", b"HTTP/1.0 100 Continue\r\n\r\n" + LENGTH, LENGTH),
    ("102", b"HTTP/1.1 102 Processing\r\n\r\n" + LENGTH, LENGTH),
    ("104", b"HTTP/1.1 104 Upload Resumption\r\nA: b\r\n\r\n" + LENGTH, LENGTH),
    ("199", b"HTTP/1.1 199 Odd\r\nA: b\r\n\r\n" + LENGTH, LENGTH),
    ("103", EARLY + LENGTH, EARLY + LENGTH),
    ("103-twice", EARLY + EARLY + LENGTH, EARLY + EARLY + LENGTH),
    (
        "100-103-102",
        b"HTTP/1.1 100 Continue\r\n\r\n" + EARLY + b"HTTP/1.1 102 Processing\r\n\r\n" + LENGTH,
        EARLY + LENGTH,
    ),
    (
        "103-to-http-1.0",
        EARLY + LENGTH,
        OK + b"Content-Length: 5\r\nConnection: close\r\n\r\nhello",
        {"version": "1.0"},
    ),
    (
        "103-then-head",
        EARLY + OK + b"Content-Length: 5\r\n\r\n",
        EARLY + OK + b"Content-Length: 5\r\n\r\n",
        {"method": "HEAD"},
    ),
    ("103-with-hop-by-hop", EARLY.replace(b"Link", b"Connection: X-A\r\nX-A: 1\r\nLink") + LENGTH, EARLY + LENGTH),
    # RFC 9110, 8.6 and RFC 9112, 6.1: no framing field in a 1xx; it ends with its head all the same (6.3).
    ("103-with-length", EARLY.replace(b"Link", b"Content-Length: 5\r\nLink") + LENGTH, EARLY + LENGTH),
    ("100-with-length-0", b"HTTP/1.1 100 Continue\r\nContent-Length: 0\r\n\r\n" + LENGTH, LENGTH),
    ("100-with-body", b"HTTP/1.1 100 Continue\r\nContent-Length: 5\r\n\r\nhello" + LENGTH, 502),
    ("102-chunked", b"HTTP/1.1 102 Processing\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + LENGTH, 502),
    # Nobody asked for it (RFC 9110, 15.2.2).
    ("101", b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n", 502),
    ("101-then-200", b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n" + LENGTH, 502),
    (
        "100-then-101",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n",
        502,
    ),
    ("100-then-nothing", b"HTTP/1.1 100 Continue\r\n\r\n", 502, {"ends": True}, "upstream_reset"),
    ("100-then-junk", b"HTTP/1.1 100 Continue\r\n\r\njunk\r\n\r\n", 502),
    ("100-bad", b"HTTP/1.1 100 Continue\r\nA: \x00\r\n\r\n" + LENGTH, 502),
    ("100-lf", b"HTTP/1.1 100 Continue\n\n" + LENGTH, 502),
]

TABLES = (STATUS_LINES, ENDS, FIELDS, HOPS, INTERIM)


@pytest.mark.parametrize(
    ("raw", "outcome", "how"), [pytest.param(raw, what, how, id=name) for t in TABLES for name, raw, what, *how in t]
)
async def test_heads(response_row: Any, raw: bytes, outcome: Any, how: list[Any]) -> None:
    options, *kind = how or [{}]
    await response_row(raw, outcome, *kind, **options)


@pytest.mark.parametrize(("raw", "how"), [pytest.param(raw, how, id=name) for name, raw, how in SAID_BY_THE_SERVER])
async def test_what_the_server_said_itself(response_row: Any, raw: bytes, how: dict[str, Any]) -> None:
    """It is kept in its place; the router adds what is not there, and its own Via to any."""
    await response_row(raw, raw, **how)


async def test_interim_responses_are_not_passed_on_behind_a_bad_one(world: Any) -> None:
    async def script(peer: Any) -> None:
        await peer.request()
        peer.send(EARLY + b"HTTP/1.1 103 Early Hints\r\nLink: a\x00b\r\n\r\n" + LENGTH)
        await peer.gone()

    upstream = await world.upstream(script)
    house = await world.router(upstream, pool={"retry": RetryConfig(attempts=0)})
    client = await world.client(house)
    assert (await client.get()).status == 502
    assert b"\x00" not in client.received
    assert len(client.interim) <= 1


@pytest.mark.parametrize("status", [b"100 Continue", b"102 Processing", b"103 Early Hints"])
async def test_interim_responses_without_end(world: Any, status: bytes) -> None:
    """However many come, an exchange does not live of them: it is given up, and its connection with it."""

    async def script(peer: Any) -> None:
        await peer.request()
        for _ in range(2000):
            peer.send((b"HTTP/1.1 " + status + b"\r\nLink: </a.css>\r\n\r\n") * 10)
            await peer.flush()
        await peer.gone()

    upstream = await world.upstream(script)
    house = await world.router(upstream, pool={"retry": RetryConfig(attempts=0)})
    client = await world.client(house)
    assert (await client.get()).status == 502
    assert len(client.interim) < 1000
    await house.settled(upstream)
    await world.eventually(lambda: upstream.open == 0, "the connection of such a response is closed")
