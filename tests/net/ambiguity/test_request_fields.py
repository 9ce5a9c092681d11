"""Field lines of requests: names, values, folding (RFC 9112, 5), and which of them end here (RFC 9110, 7.6).

Hop-by-hop fields and those that Connection lists go no further, those that tell where a message ends always do. What
the router vouches for is its own word, whatever a client wrote and however it spelled it.
"""

from __future__ import annotations

from typing import Any

import pytest

pytestmark = pytest.mark.asyncio(loop_factories=["uvloop"])


def get(*lines: bytes) -> bytes:
    return b"\r\n".join((b"GET /p HTTP/1.1", b"Host: h.example", *lines, b"", b""))


def post(body: bytes, *lines: bytes) -> bytes:
    return b"\r\n".join((b"POST /p HTTP/1.1", b"Host: h.example", *lines, b"", b"")) + body


def same(name: str, *lines: bytes) -> tuple[str, bytes, bytes]:
    return name, get(*lines), get(*lines)


PLAIN = get()
CHUNKED = b"5\r\nhello\r\n0\r\n\r\n"

NAMES = [
    same("name-of-all-that-is-allowed", b"!#$%&'*+-.^_`|~09azAZ: b"),
    same("name-of-one", b"A: b"),
    same("name-long", b"A" * 3000 + b": b"),
    same("name-with-underscore", b"my_field: b"),
    same("names-in-all-cases", b"X-a: 1", b"x-A: 2", b"X-A: 3"),
    same("names-often", *(b"A: %d" % n for n in range(30))),
    *(
        (f"name-{name}", get(line, b"C: d"), 400)
        for name, line in {
            "empty": b": b",
            "empty-blank": b" : b",
            "missing": b"b",
            "without-colon": b"Name value",
            "blank-inside": b"A B: c",
            "tab-inside": b"A\tB: c",
            "blank-behind": b"A : b",
            "tab-behind": b"A\t: b",
            "vertical-tab-behind": b"A\x0b: b",
            "blank-before": b" A: b",
            "tab-before": b"\tA: b",
            "nul": b"A\x00: b",
            "control": b"A\x01: b",
            "del": b"A\x7f: b",
            "8-bit": b"A\xe9: b",
            "8-bit-alone": b"\xff: b",
            "utf-8": b"caf\xc3\xa9: b",
            "round-bracket": b"A(B): c",
            "square-bracket": b"A[0]: b",
            "brace": b"A{B}: c",
            "angle": b"<A>: b",
            "at": b"A@B: c",
            "comma": b"A,B: c",
            "semicolon": b"A;B: c",
            "slash": b"A/B: c",
            "backslash": b"A\\B: c",
            "quotes": b'"A": b',
            "equals": b"A=B: c",
            "question": b"A?: b",
        }.items()
    ),
    ("first-field-folded", b"GET /p HTTP/1.1\r\n Host: h.example\r\n\r\n", 400),
    ("first-field-behind-a-blank-line", b"GET /p HTTP/1.1\r\n \r\nHost: h.example\r\n\r\n", 400),
]

VALUES = [
    same("value-empty", b"A:"),
    same("value-blank", b"A: "),
    same("value-tabs", b"A:\t \t"),
    same("value-without-blank", b"A:b"),
    same("value-among-blanks", b"A:  \tb\t "),
    same("value-with-tab", b"A: b\tc"),
    same("value-with-colon", b"A: b: c"),
    same("value-of-colons", b"A::::"),
    same("value-latin-1", b"A: caf\xe9"),
    same("value-utf-8", b"A: caf\xc3\xa9 \xf0\x9f\x8d\xb0"),
    same("value-of-all-high-bytes", b"A: " + bytes(range(128, 256))),
    same("value-of-all-that-is-printed", b"A: " + bytes(range(32, 127)).strip()),
    same("value-that-looks-like-a-field", b"A: Content-Length: 5"),
    same("value-in-quotes", b'A: "b, c"; d="\\""'),
    same("value-long", b"A: " + b"b" * 20_000),
    *(
        (f"value-with-{byte:02x}", get(b"A: b%bc" % bytes([byte]), b"C: d"), 400)
        for byte in (*range(9), *range(10, 32), 127)
    ),
    ("value-begins-with-nul", get(b"A: \x00b"), 400),
    ("value-ends-with-nul", get(b"A: b\x00"), 400),
    ("value-ends-with-vertical-tab", get(b"A: b\x0b"), 400),
    ("value-ends-with-cr", get(b"A: b\r"), 400),
    ("value-of-cr", get(b"A:\r"), 400),
    ("folded-by-blank", get(b"A: b", b" c"), 400),
    ("folded-by-tab", get(b"A: b", b"\tc"), 400),
    ("folded-to-a-blank", get(b"A: b", b" "), 400),
    ("folded-behind-an-empty-value", get(b"A:", b" b"), 400),
    ("folded-by-lf", get(b"A: b\n c"), 400),
    ("folded-host", b"GET /p HTTP/1.1\r\nHost: h.example\r\n evil.example\r\n\r\n", 400),
    ("folded-at-the-end", get(b"A: b", b" c: d"), 400),
]

#: Fields of which a second line would mean nothing or something else.
SINGLETONS = [
    *(
        (f"twice-{name}", get(b"%b: %b" % (name.encode(), first), b"%b: %b" % (name.encode(), second)), 400)
        for name, first, second in (
            ("Content-Type", b"text/html", b"text/plain"),
            ("content-type", b"text/html", b"text/html"),
            ("User-Agent", b"a", b"b"),
            ("Max-Forwards", b"1", b"2"),
        )
    ),
    same("cookies-on-two-lines", b"Cookie: a=1", b"Cookie: b=2"),
    same("accepts-on-two-lines", b"Accept: text/html", b"Accept: */*"),
]

CONNECTION = [
    ("connection-keep-alive", get(b"Connection: keep-alive", b"A: b"), get(b"A: b")),
    ("connection-close", get(b"A: b", b"Connection: close"), get(b"A: b"), "closes"),
    ("connection-close-in-capitals", get(b"CONNECTION: CLOSE"), PLAIN, "closes"),
    ("connection-close-in-a-list", get(b"Connection: foo, close"), PLAIN, "closes"),
    ("connection-close-and-keep-alive", get(b"Connection: keep-alive, close"), PLAIN, "closes"),
    ("connection-close-on-a-second-line", get(b"Connection: keep-alive", b"Connection: close"), PLAIN, "closes"),
    ("connection-close-without-blanks", get(b"Connection: keep-alive,close"), PLAIN, "closes"),
    ("connection-close-among-commas", get(b"Connection: ,,close,"), PLAIN, "closes"),
    ("connection-closed", get(b"Connection: closed"), PLAIN),
    ("connection-empty", get(b"Connection:"), PLAIN),
    ("connection-commas", get(b"Connection: ,, ,"), PLAIN),
    ("connection-of-a-field", get(b"Connection: X-A", b"X-A: 1", b"X-B: 2"), get(b"X-B: 2")),
    ("connection-of-fields", get(b"X-A: 1", b"Connection: x-a ,X-B", b"x-b: 2", b"X-A: 3", b"X-C: 4"), get(b"X-C: 4")),
    ("connection-on-two-lines", get(b"Connection: X-A", b"X-A: 1", b"connection: X-B", b"X-B: 2"), PLAIN),
    ("connection-behind-its-field", get(b"X-A: 1", b"Connection: X-A"), PLAIN),
    ("connection-of-nothing-there", get(b"Connection: X-A", b"X-B: 1"), get(b"X-B: 1")),
    ("connection-of-a-part-of-a-name", get(b"Connection: X", b"X-A: 1"), get(b"X-A: 1")),
    ("connection-of-itself", get(b"Connection: Connection", b"A: b"), get(b"A: b")),
    ("connection-of-host", get(b"Connection: Host"), PLAIN),
    ("connection-of-host-in-capitals", get(b"Connection: close, HOST"), PLAIN, "closes"),
    (
        "connection-of-content-length",
        post(b"hello", b"Connection: content-length", b"Content-Length: 5"),
        post(b"hello", b"Content-Length: 5"),
    ),
    (
        "connection-of-transfer-encoding",
        post(CHUNKED, b"Connection: Transfer-Encoding", b"Transfer-Encoding: chunked"),
        post(CHUNKED, b"Transfer-Encoding: chunked"),
    ),
    # Each of the added lines is looked for by the test itself: none can be talked away.
    (
        "connection-of-all-that-is-added",
        get(b"Connection: Via, X-Forwarded-For, X-Forwarded-Proto, X-Forwarded-Host, X-Request-ID"),
        PLAIN,
    ),
    ("keep-alive", get(b"Keep-Alive: timeout=5, max=100"), PLAIN),
    ("proxy-connection", get(b"Proxy-Connection: keep-alive"), PLAIN),
    # Taken at its word, which any connection may be (RFC 9112, C.2.2 knows no such field).
    ("proxy-connection-close", get(b"Proxy-Connection: close"), PLAIN, "closes"),
    ("proxy-authorization", get(b"Proxy-Authorization: Basic eA=="), PLAIN),
    ("te-trailers", get(b"TE: trailers"), PLAIN),
    ("te-listed", get(b"TE: trailers, gzip;q=0.5", b"Connection: TE"), PLAIN),
    ("te-chunked", get(b"TE: chunked"), PLAIN),
    (
        "trailer",
        post(CHUNKED, b"Transfer-Encoding: chunked", b"Trailer: X-Sum"),
        post(CHUNKED, b"Transfer-Encoding: chunked"),
    ),
    (
        "trailer-of-framing",
        post(CHUNKED, b"Trailer: Content-Length, Transfer-Encoding", b"Transfer-Encoding: chunked"),
        post(CHUNKED, b"Transfer-Encoding: chunked"),
    ),
    (
        "upgrade-h2c",
        get(b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAAQAAP__"),
        PLAIN,
    ),
    ("upgrade-tls", get(b"Connection: Upgrade", b"Upgrade: TLS/1.0"), PLAIN),
    ("upgrade-made-up", get(b"Upgrade: foo/2, bar", b"Connection: upgrade"), PLAIN),
    ("upgrade-without-connection", get(b"Upgrade: h2c"), PLAIN),
    (
        "upgrade-of-http-1.0",
        b"GET /p HTTP/1.0\r\nHost: h.example\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
        PLAIN,
        "closes",
    ),
    (
        "upgrade-with-body",
        post(b"hello", b"Connection: Upgrade", b"Upgrade: h2c", b"Content-Length: 5"),
        post(b"hello", b"Content-Length: 5"),
    ),
]

VOUCHED = [
    ("forwarded-for", get(b"X-Forwarded-For: 6.6.6.6"), PLAIN),
    ("forwarded-for-twice", get(b"X-Forwarded-For: 6.6.6.6", b"A: b", b"x-forwarded-for: 7.7.7.7"), get(b"A: b")),
    ("forwarded-proto", get(b"X-Forwarded-Proto: https"), PLAIN),
    ("forwarded-host", get(b"X-Forwarded-Host: evil.example"), PLAIN),
    ("forwarded", get(b"Forwarded: for=6.6.6.6;proto=https"), PLAIN),
    # Behind CGI "_" and "-" are the same.
    *(
        (f"underscore-{name.decode()}", get(name + b": 6.6.6.6", b"A: b"), get(b"A: b"))
        for name in (
            b"X_Forwarded_For X-Forwarded_For x_forwarded-for X_FORWARDED_PROTO X_Forwarded-Host X_Request_ID "
            b"X-Request_ID Transfer_Encoding Content_Length"
        ).split()
    ),
    ("request-id-kept", get(b"X-Request-ID: abc.DEF-1"), PLAIN),
    ("request-id-too-long", get(b"X-Request-ID: " + b"x" * 129), PLAIN),
    ("request-id-of-8-bits", get(b"X-Request-ID: \xff"), PLAIN),
    ("request-id-with-blank", get(b"X-Request-ID: a b"), PLAIN),
    ("request-ids", get(b"X-Request-ID: a", b"x-request-id: b"), PLAIN),
    ("via-of-this-router", get(b"Via: 1.1 other, 1.1 router"), 508),
    same("via-of-a-name-like-ours", b"Via: 1.1 my-router.example, 1.0 router2"),
    same("via-that-speaks-of-us", b"Via: 1.1 other (not the router)"),
    ("via-of-others", get(b"Via: 1.0 fred, 1.1 example.com"), get(b"Via: 1.0 fred, 1.1 example.com")),
    same("fields-that-only-look-so", b"X-Forwarded-Port: 1", b"X-Forwarded-For-Me: 2", b"Not-Forwarded: 3"),
]

EXPECT = [
    ("expect", post(b"hello", b"Expect: 100-continue", b"Content-Length: 5"), post(b"hello", b"Content-Length: 5")),
    (
        "expect-in-capitals",
        post(b"hello", b"EXPECT: 100-CONTINUE", b"Content-Length: 5"),
        post(b"hello", b"Content-Length: 5"),
    ),
    (
        "expect-chunked",
        post(CHUNKED, b"Expect: 100-continue", b"Transfer-Encoding: chunked"),
        post(CHUNKED, b"Transfer-Encoding: chunked"),
    ),
    # RFC 9110, 10.1.1: without a body there is nothing to wait for.
    ("expect-without-body", get(b"Expect: 100-continue"), PLAIN),
    ("expect-of-length-0", post(b"", b"Expect: 100-continue", b"Content-Length: 0"), post(b"", b"Content-Length: 0")),
    ("expect-other", get(b"Expect: wonders"), 417),
    ("expect-empty", get(b"Expect:"), 417),
    ("expect-200", get(b"Expect: 200-ok"), 417),
    ("expect-and-more", post(b"hello", b"Expect: 100-continue, wonders", b"Content-Length: 5"), 417),
    ("expect-with-parameter", post(b"hello", b"Expect: 100-continue;q=1", b"Content-Length: 5"), 417),
    # 10.1.1 has servers ignore what HTTP/1.0 expects.
    (
        "expect-of-http-1.0",
        b"POST /p HTTP/1.0\r\nHost: h.example\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nok",
        b"POST /p HTTP/1.1\r\nHost: h.example\r\nContent-Length: 2\r\n\r\nok",
        "closes",
    ),
]

MAX_FORWARDS = [
    # RFC 9110, 7.6.2: of TRACE and OPTIONS each intermediary takes one; other methods may be left alone.
    (
        "max-forwards-of-options",
        get(b"Max-Forwards: 5").replace(b"GET", b"OPTIONS"),
        get(b"Max-Forwards: 4").replace(b"GET", b"OPTIONS"),
    ),
    (
        "max-forwards-of-trace",
        get(b"Max-Forwards: 1").replace(b"GET", b"TRACE"),
        get(b"Max-Forwards: 0").replace(b"GET", b"TRACE"),
    ),
    same("max-forwards-of-get", b"Max-Forwards: 5"),
]

TABLES = (NAMES, VALUES, SINGLETONS, CONNECTION, VOUCHED, EXPECT, MAX_FORWARDS)


@pytest.mark.parametrize(
    ("raw", "outcomes"), [pytest.param(raw, outcomes, id=name) for table in TABLES for name, raw, *outcomes in table]
)
async def test_fields(request_row: Any, raw: bytes, outcomes: list[Any]) -> None:
    await request_row(raw, outcomes)


async def test_a_sane_request_id_is_the_one_that_goes_on(world: Any) -> None:
    upstream = await world.upstream()
    client = await world.client(await world.router(upstream))
    response = await client.get("/", "X-Request-ID: abc.DEF-1")
    assert upstream.requests[0].get("X-Request-ID") == response.get("X-Request-ID") == "abc.DEF-1"


@pytest.mark.parametrize("method", ["OPTIONS", "TRACE"])
async def test_at_the_end_of_max_forwards_the_router_is_the_recipient(world: Any, method: str) -> None:
    """RFC 9110, 7.6.2: it must not be forwarded, and must be answered."""
    upstream = await world.upstream()
    client = await world.client(await world.router(upstream))
    response = await client.get("/p", "Max-Forwards: 0", method=method)
    assert response.status in ((200, 204) if method == "OPTIONS" else (200, 405, 501))
    assert upstream.requests == []
