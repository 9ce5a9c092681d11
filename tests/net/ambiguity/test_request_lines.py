"""Request lines: methods, versions, blanks, and bytes that have no place in them (RFC 9112, 2.2 and 3)."""

from __future__ import annotations

from typing import Any

import pytest

pytestmark = pytest.mark.asyncio(loop_factories=["uvloop"])

FIELDS = b"\r\nHost: h.example\r\n\r\n"
GET = b"GET /p HTTP/1.1" + FIELDS


def line(text: bytes) -> bytes:
    return text + FIELDS


def same(name: str, text: bytes) -> tuple[str, bytes, bytes]:
    return name, line(text), line(text)


BLANKS = [
    ("tab-behind-the-method", line(b"GET\t/p HTTP/1.1"), 400),
    ("tab-behind-the-target", line(b"GET /p\tHTTP/1.1"), 400),
    ("vertical-tab-behind-the-target", line(b"GET /p\x0bHTTP/1.1"), 400),
    ("blank-before-the-method", line(b" GET /p HTTP/1.1"), 400),
    ("tab-before-the-method", line(b"\tGET /p HTTP/1.1"), 400),
    ("blank-behind-the-version", line(b"GET /p HTTP/1.1 "), 400),
    ("tab-behind-the-version", line(b"GET /p HTTP/1.1\t"), 400),
    ("blank-in-the-target", line(b"GET /p q HTTP/1.1"), 400),
    ("a-second-version-in-the-target", line(b"GET /p HTTP/1.1 /q HTTP/1.1"), 400),
    ("tab-in-the-target", line(b"GET /p\tq HTTP/1.1"), 400),
    ("no-target", line(b"GET HTTP/1.1"), 400),
    ("two-blanks-and-no-target", line(b"GET  HTTP/1.1"), 400),
    # What HTTP/0.9 looked like.
    ("no-version", line(b"GET /p"), 505),
    ("no-version-but-a-blank", line(b"GET /p "), 400),
    ("method-alone", line(b"GET"), 400),
    ("no-method", line(b"/p HTTP/1.1"), 400),
    ("blank-for-a-method", line(b" /p HTTP/1.1"), 400),
    ("a-response", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 400),
    ("fields-without-a-line", b"Host: h.example\r\n\r\n", 400),
    # 2.2: empty lines before a request are skipped.
    ("empty-line-before", b"\r\n" + GET, GET),
    ("empty-lines-before", b"\r\n\r\n\r\n" + GET, GET),
    ("blank-line-before", b" \r\n" + GET, 400),
    # Several blanks may be taken for one (3), and go on as one.
    ("two-blanks-behind-the-method", line(b"GET  /p HTTP/1.1"), GET),
    ("two-blanks-behind-the-target", line(b"GET /p  HTTP/1.1"), GET),
]

ENDS = [
    ("lf-before", b"\n" + GET, 400),
    ("cr-before", b"\r" + GET, 400),
    ("two-crs-before", b"\r\r\n" + GET, 400),
    ("lf-behind-the-line", b"GET /p HTTP/1.1\nHost: h.example\r\n\r\n", 400),
    ("cr-behind-the-line", b"GET /p HTTP/1.1\rHost: h.example\r\n\r\n", 400),
    ("two-crs-behind-the-line", b"GET /p HTTP/1.1\r\r\nHost: h.example\r\n\r\n", 400),
    ("lf-cr-behind-the-line", b"GET /p HTTP/1.1\n\rHost: h.example\r\n\r\n", 400),
    ("lf-in-the-target", line(b"GET /p\nq HTTP/1.1"), 400),
    ("cr-in-the-target", line(b"GET /p\rq HTTP/1.1"), 400),
    ("lf-behind-the-method", line(b"GET\n/p HTTP/1.1"), 400),
    ("cr-behind-the-method", line(b"GET\r/p HTTP/1.1"), 400),
    ("line-end-inside-the-line", line(b"GET /p\r\nHTTP/1.1"), 400),
    ("all-lf", b"GET /p HTTP/1.1\nHost: h.example\n\n", 400),
    ("all-cr", b"GET /p HTTP/1.1\rHost: h.example\r\r", 400),
    ("lf-behind-a-field", b"GET /p HTTP/1.1\r\nHost: h.example\nA: b\r\n\r\n", 400),
    ("cr-behind-a-field", b"GET /p HTTP/1.1\r\nHost: h.example\rA: b\r\n\r\n", 400),
    ("lf-behind-the-last-field", b"GET /p HTTP/1.1\r\nHost: h.example\n\r\n", 400),
    ("cr-behind-the-last-field", b"GET /p HTTP/1.1\r\nHost: h.example\r\r\n\r\n", 400),
    ("lf-for-the-last-line", b"GET /p HTTP/1.1\r\nHost: h.example\r\n\n", 400),
    ("cr-for-the-last-line", b"GET /p HTTP/1.1\r\nHost: h.example\r\n\r", 400),
    ("cr-in-the-last-line", b"GET /p HTTP/1.1\r\nHost: h.example\r\n\r\r\n", 400),
    ("two-lfs-at-the-end", b"GET /p HTTP/1.1\r\nHost: h.example\n\n", 400),
    ("cr-in-a-value", b"GET /p HTTP/1.1\r\nHost: h.example\r\nA: b\rc\r\n\r\n", 400),
    ("lf-in-a-value", b"GET /p HTTP/1.1\r\nHost: h.example\r\nA: b\nc: d\r\n\r\n", 400),
    ("cr-in-a-name", b"GET /p HTTP/1.1\r\nHost: h.example\r\nA\rB: c\r\n\r\n", 400),
    ("lf-in-a-name", b"GET /p HTTP/1.1\r\nHost: h.example\r\nA\nB: c\r\n\r\n", 400),
    ("cr-behind-a-colon", b"GET /p HTTP/1.1\r\nHost: h.example\r\nA:\rb\r\n\r\n", 400),
    ("lf-behind-a-colon", b"GET /p HTTP/1.1\r\nHost: h.example\r\nA:\nb\r\n\r\n", 400),
    ("lf-and-a-second-request", b"GET /p HTTP/1.1\r\nHost: h.example\r\nA: b\n\nGET /smuggled HTTP/1.1\r\n\r\n", 400),
]

BYTES = [
    *(
        (f"{place}-{byte[0]:02x}", line(form % byte), 400)
        for byte in (b"\x00", b"\x01", b"\x0b", b"\x1b", b"\x7f")
        for place, form in (
            ("in-the-method", b"GE%bT /p HTTP/1.1"),
            ("before-the-method", b"%bGET /p HTTP/1.1"),
            ("in-the-target", b"GET /p%bq HTTP/1.1"),
            ("behind-the-target", b"GET /p%b HTTP/1.1"),
            ("in-the-version", b"GET /p HTTP%b/1.1"),
            ("behind-the-version", b"GET /p HTTP/1.1%b"),
        )
    ),
    ("8-bit-in-the-method", line(b"G\xc9T /p HTTP/1.1"), 400),
    ("8-bit-in-the-version", line(b"GET /p HTTP/\xb9.1"), 400),
    ("byte-order-mark", b"\xef\xbb\xbf" + GET, 400),
    ("tls-hello", b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03\r\n\r\n", 400),
    ("proxy-protocol", b"PROXY TCP4 192.0.2.1 192.0.2.2 5 6\r\n" + GET, 501),
    ("proxy-protocol-2", b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c" + GET, 400),
]

METHODS = [
    *(
        same(f"method-{name.decode()}", name + b" /p HTTP/1.1")
        for name in b"GET HEAD POST PUT PATCH DELETE OPTIONS TRACE PROPFIND REPORT".split()
    ),
    # 3.1 and RFC 9110, 9.1: methods are compared with their case, and what is not known is not implemented.
    *(
        (f"method-{name.decode()}", line(name + b" /p HTTP/1.1"), 501)
        for name in b"get Get post GETT GE G FROBNICATE X-GET GET! 1".split()
    ),
    ("method-long", line(b"A" * 300 + b" /p HTTP/1.1"), 501),
    ("method-very-long", line(b"A" * 8000 + b" /p HTTP/1.1"), 501),
    # What is no token is no method.
    *(
        (f"method-{name.decode()}", line(name + b" /p HTTP/1.1"), 400)
        for name in b'"GET" GET, GET/ GET: (GET) GET= {GET}'.split()
    ),
]

VERSIONS = [
    *(
        (f"version-{text.decode()}", line(b"GET /p " + text), 400)
        for text in (
            *b"http/1.1 Http/1.1 HTTP/1. HTTP/.1 HTTP/1 HTTP/11 HTTP/1.10 HTTP/1.1.1 HTTP/01.1 HTTP/1.01".split(),
            *b"HTTP/1,1 HTTP/+1.1 HTTP/-1.1 HTTP/1.1x xHTTP/1.1 HTTP/a.b HTTPS/1.1 HTTP HTTP/ HTTP//1.1 1.1".split(),
            *(b"HTTP 1.1", b"HTTP/ 1.1", b"HTTP /1.1", b"HTTP/1 .1", b"HTTP/1. 1"),
            *(b"ICE/1.0", b"RTSP/1.0", b"SIP/2.0", b"HTP/1.1"),
        )
    ),
    ("version-0.9", line(b"GET /p HTTP/0.9"), 505),
    ("version-2.0", line(b"GET /p HTTP/2.0"), 505),
    ("version-3.0", line(b"GET /p HTTP/3.0"), 505),
    ("version-9.9", line(b"GET /p HTTP/9.9"), 505),
    # RFC 9110, 2.5 would have 1.2 served as 1.1; nobody speaks it, so whoever writes it is up to something.
    ("version-1.2", line(b"GET /p HTTP/1.2"), 505),
    ("version-1.9", line(b"GET /p HTTP/1.9"), 505),
    ("http-2-preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00", 505),
    ("http-0.9", b"GET /p\r\n", 400),
    # Served as what it is, asked of the server behind as HTTP/1.1 (RFC 9110, 2.5).
    ("version-1.0", line(b"GET /p HTTP/1.0"), GET, "closes"),
    ("version-1.0-kept", b"GET /p HTTP/1.0\r\nHost: h.example\r\nConnection: keep-alive\r\n\r\n", GET),
    ("version-1.0-closed", b"GET /p HTTP/1.0\r\nHost: h.example\r\nConnection: close\r\n\r\n", GET, "closes"),
    ("version-1.0-both", b"GET /p HTTP/1.0\r\nHost: h.example\r\nConnection: close, keep-alive\r\n\r\n", GET, "closes"),
    (
        "version-1.0-with-body",
        b"POST /p HTTP/1.0\r\nHost: h.example\r\nContent-Length: 2\r\n\r\nok",
        b"POST /p HTTP/1.1\r\nHost: h.example\r\nContent-Length: 2\r\n\r\nok",
        "closes",
    ),
    ("version-1.0-two-hosts", b"GET /p HTTP/1.0\r\nHost: a.example\r\nHost: b.example\r\n\r\n", 400),
]

LIMITS = [
    # 3: a target longer than any that is served is 414; the rest of a head that is too large is 431 (RFC 6585, 5).
    ("target-too-long", line(b"GET /" + b"p" * 40_000 + b" HTTP/1.1"), 414),
    ("target-too-long-and-unended", b"GET /" + b"p" * 40_000, 414),
    same("target-long", b"GET /" + b"p" * 20_000 + b" HTTP/1.1"),
    ("field-too-long", GET[:-2] + b"A: " + b"b" * 40_000 + b"\r\n\r\n", 431),
    ("field-too-long-and-unended", GET[:-2] + b"A: " + b"b" * 40_000, 431),
    ("name-too-long", GET[:-2] + b"A" * 40_000 + b": b\r\n\r\n", 431),
    (
        "fields-too-long-together",
        GET[:-2] + b"".join(b"A%d: " % n + b"b" * 1000 + b"\r\n" for n in range(40)) + b"\r\n",
        431,
    ),
    ("fields-129", GET[:-2] + b"A: b\r\n" * 128 + b"\r\n", 431),
    ("fields-5000", GET[:-2] + b"A: b\r\n" * 5000 + b"\r\n", 431),
    ("fields-128", GET[:-2] + b"A: b\r\n" * 127 + b"\r\n", GET[:-2] + b"A: b\r\n" * 127 + b"\r\n"),
]

TABLES = (BLANKS, ENDS, BYTES, METHODS, VERSIONS, LIMITS)


@pytest.mark.parametrize(
    ("raw", "outcomes"), [pytest.param(raw, outcomes, id=name) for table in TABLES for name, raw, *outcomes in table]
)
async def test_lines(request_row: Any, raw: bytes, outcomes: list[Any]) -> None:
    await request_row(raw, outcomes, unclear=True)


async def test_via_names_the_version_that_was_received(world: Any) -> None:
    """RFC 9110, 7.6.3: the received protocol, which is not what the server behind is spoken to in."""
    upstream = await world.upstream()
    house = await world.router(upstream)
    for version in ("1.0", "1.1"):
        client = await world.client(house)
        await client.get(version=version)
    assert [head.get("Via") for head in upstream.requests] == ["1.0 router", "1.1 router"]
