"""Heads in plain form: nothing passes that the parser would refuse, and both read the same. What is kept is bounded.

The parser's side is the one of the data path, which is only computed here: no loop runs.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Iterator
from itertools import product
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.errors import RouterError
from router.net.heads import final_head
from router.net.opening import open_exchange
from router.net.runtime import Runtime
from router.observe import Observers
from router.policy import plain
from router.policy.plain import BODY_CHUNKED, BODY_TO_END, NO_SHAPE, PlainRequests, PlainResponses, Shape

Reader = PlainRequests | PlainResponses


class EagerRequests(PlainRequests):
    OFTEN = 1


class EagerResponses(PlainResponses):
    OFTEN = 1


class Sender:
    """A client, an endpoint."""

    peer = "192.0.2.1"
    scheme = "http"
    proof = b""

    def __init__(self, shape: Shape = NO_SHAPE) -> None:
        self.shape = shape


def learned(reader: Reader, head: bytes) -> Any:
    """What `reader` says of a head once it has met that sequence of names often enough."""
    sender = Sender()
    for _ in range(reader.OFTEN + 1):
        reader.read(head, sender)
    return reader.read(head, sender)


def shape_of(reader: Reader, head: bytes) -> Shape:
    sender = Sender()
    for _ in range(reader.OFTEN + 2):
        assert reader.read(head, sender) is None or sender.shape is not NO_SHAPE
    assert sender.shape is not NO_SHAPE, head
    return sender.shape


def head_of(first: str, *lines: str) -> bytes:
    return "".join(f"{line}\r\n" for line in (first, *lines, "")).encode("latin-1")


def get(*lines: str) -> bytes:
    return head_of("GET /x HTTP/1.1", *lines)


def ok(*lines: str) -> bytes:
    return head_of("HTTP/1.1 200 OK", *lines)


# The law

VOUCHED = b"X-Forwarded-For: 192.0.2.1\r\nX-Forwarded-Host: "
#: A field whose value stands apart by one blank, and nothing behind it.
_USUAL = re.compile(rb"(?:[^\r\n:]+: (?![\t ])(?:[^\r\n]*[^\t \r\n])?\r\n)*")


class Both:
    """A head read in plain form and by the parser, up to what the rest of the router gets to see of it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._listener: Any = SimpleNamespace(scheme="http", name="web", authority=b"127.0.0.1:80")
        #: How many heads were plain.
        self.plain: int
        self._parsing = self._runtime()
        self._parsing.plain_requests = SimpleNamespace(read=lambda head, sender: None)  # type: ignore[assignment]
        self._plain = self._runtime()
        self.renew()

    def _runtime(self) -> Runtime:
        table: Any = SimpleNamespace(trusts=lambda address: False, forwarded=False)
        return Runtime(self._loop, table, clock=lambda: 5.0, observers=Observers(()))

    def renew(self) -> None:
        """Forgets all shapes."""
        self.plain = 0
        self._plain.plain_requests = EagerRequests(128)
        self.responses = EagerResponses(128)

    @property
    def requests(self) -> PlainRequests:
        return self._plain.plain_requests

    def request_fault(self, head: bytes, shape: Shape = NO_SHAPE) -> str:
        """What is wrong with the law for a request head, "" if it holds. `shape`: what its sender sent before."""
        sender = Sender(shape)
        if learned(self.requests, head) is None and self.requests.read(head, sender) is None:
            return ""
        self.plain += 1
        try:
            parsed = self._opened(self._parsing, head, Sender())
            fields = self._parsing.request_heads.parse(head)
        except RouterError as error:
            return f"plain, but refused: {error!r}"
        found = self._opened(self._plain, head, sender)
        # Of several fields with one name, the first.
        parsed["headers"] = {name.lower(): fields.headers[name] for name in fields.headers}
        parsed["raw_headers"] = fields.raw_headers
        return _difference(found, parsed)

    def _opened(self, runtime: Runtime, head: bytes, sender: Any) -> dict[str, Any]:
        exchange, lines, added, *rest = open_exchange(head, sender, self._listener, VOUCHED, runtime)
        assert re.fullmatch("[0-9a-f]{32}", exchange.id)
        names = ("method", "target", "host", "client", "scheme", "listener", "version", "started", "raw_headers")
        return {
            **{name: getattr(exchange, name) for name in names},
            "headers": {name.lower(): value for name, value in exchange.headers.items()},
            "lines": lines,
            "added": added.replace(exchange.id.encode(), b"?"),
            "length, waits, closes": rest,
        }

    def response_fault(self, head: bytes, shape: Shape = NO_SHAPE) -> str:
        """The same for a response head."""
        found = learned(self.responses, head) or self.responses.read(head, Sender(shape))
        if found is None:
            return ""
        self.plain += 1
        try:
            parsed = final_head(self._parsing.response_heads.parse(head), head)
        except RouterError as error:
            return f"plain, but refused: {error!r}"
        return _difference(_said(found, head), _said(parsed, head))


def _said(found: plain.ResponseHead, source: bytes) -> dict[str, Any]:
    status, length, head, closes, has_date, has_id = found
    if not _USUAL.fullmatch(source[source.find(b"\n") + 1 : -2]):
        # Where a field that goes no further has blanks behind its value, the parser's side writes all of them anew.
        head = re.sub(rb":[\t ]*([^\r\n]*?)[\t ]*\r\n", rb": \1\r\n", head)
    return {
        "status": status,
        "length": length,
        "head": head,
        # The end of the connection is the end of the body.
        "closes": closes or length == BODY_TO_END,
        "has_date": has_date,
        "has_id": has_id,
    }


def _difference(found: dict[str, Any], parsed: dict[str, Any]) -> str:
    return "; ".join(f"{key}: {found[key]!r} is not {parsed[key]!r}" for key in found if found[key] != parsed[key])


@pytest.fixture(scope="module")
def sides() -> Iterator[Both]:
    loop = asyncio.new_event_loop()
    yield Both(loop)
    loop.close()


@pytest.fixture
def both(sides: Both) -> Both:
    sides.renew()
    return sides


def faults(check: Callable[[bytes], str], heads: list[bytes]) -> list[tuple[bytes, str]]:
    return [(head, fault) for head in heads if (fault := check(head))]


#: Lines of every kind that a head may hold, and that it may not.
LINES = [
    *("Host: a.test", "host: b.test", "HOST: a", "Host: ", "Host:  a", "Host: a\t ", "Host: a b", "Host: \xe4"),
    *(
        "Host: a@b",
        "Host: a,b",
        "Host: [::1]:80",
        "Host: a:x",
        "Host: a/b",
        "Host: <>",
        "Host: a%41",
        "H\xf6st: a",
        "Host : a",
    ),
    *("Content-Length: 3", "content-length: 3", "Content-Length: 0", "Content-Length: 007", "Content-Length: +3"),
    *("Content-Length: -3", "Content-Length: 3, 3", "Content-Length: 3 ", "Content-Length:  3", "Content-Length: "),
    *("Content-Length: 0x3", "Content-Length: 3\t", "Content-Length: \xb2", "Content-Length:3", "Content_Length: 4"),
    *(f"Content-Length: {'9' * 18}", f"Content-Length: {'9' * 19}", f"Content-Length: {'0' * 19}"),
    *("Transfer-Encoding: chunked", "transfer-encoding: chunked", "Transfer-Encoding: Chunked", "Transfer-Encoding: "),
    *("Transfer-Encoding: gzip, chunked", "Transfer-Encoding: chunked ", "Transfer-Encoding: identity", "TE: trailers"),
    *("Transfer-Encoding : chunked", "Transfer_Encoding: chunked", "Transfer-Encoding: chunked, chunked"),
    *(
        "Connection: keep-alive",
        "Connection: close",
        "connection: close",
        "Connection: Close",
        "Connection: Keep-Alive",
    ),
    *("Connection: close, X-A", "Connection: X-A", "Connection: ", "Connection: close ", "Connection:  close"),
    *("Connection: upgrade", "Connection: keep-alive, Upgrade", "Connection: content-length", "Connection: closed"),
    *("Keep-Alive: timeout=5", "Keep-Alive: x ", "Proxy-Connection: close", "Proxy-Connection: keep-alive"),
    *("proxy-connection: upgrade", "Proxy-Authenticate: Basic", "Proxy-Authorization: Basic eA==", "Trailer: X-A"),
    *("Upgrade: websocket", "Upgrade: h2c", "HTTP2-Settings: x", "Sec-WebSocket-Key: x", "Sec-WebSocket-Version: 13"),
    *("Sec-WebSocket-Key1: x", "sec-websocket-KEY1: x", "Expect: 100-continue", "Expect: x", "Via: 1.1 router"),
    *("Via: 1.0 other", "Forwarded: for=1", "X-Forwarded-For: 1", "X-Forwarded-Proto: https", "X_Forwarded_For: 1"),
    *("X-Request-ID: 1", "x-request-id: 2", "X_Request_ID: 1", "X-Request-ID: a b", "Date: now", "date: then"),
    *("Content-Type: a", "content-type: b", "Server: a", "SERVER: b", "ETag: 1", "etag: 2", "User-Agent: a"),
    *("user-agent: b", "Max-Forwards: 1", "max-forwards: 2", "Content-Range: 1", "content-range: 2"),
    *("Content-Location: 1", "content-location: 2", "Content-Encoding: gzip", "Content-Encoding: zstd"),
    *("Set-Cookie: a=1", "Set-Cookie: b=2", "Cookie: a=1", "X-A: 1", "x-a: 1", "X-A: ", "X-A:", "X-A:1", "X-A:  1"),
    *("X-A: 1 ", "X-A: \t1\t", "X-A: \xff\x80", "X-A: \xc3\xa4", "X-A: a: b", "X-A: :", "X-A : 1", "X-A\t: 1", "X-A"),
    *(" X-A: 1", "\tfolded", " folded", ": 1", ":", "", "X A: 1", "X(A): 1", "X@A: 1", '"X": 1', "!#$%&'*+.^_`|~: 1"),
    *("X-A: a\rb", "X-A: a\nX-B: b", "X-A: a\n", "X-A: a\r", "X-A: \x00", "X-A: a\x01b", "X-A: \x7f", "X-\x00A: 1"),
    f"X-A: {'x' * 9000}",
    f"X-{'A' * 300}: 1",
]
FIRST = "GET /x HTTP/1.1"
TARGETS = [
    *("/", "//", "//x", "///", "/x?", "/?", "/??", "/x?a=b&c", "/x??y", "/%", "/%zz", "/%2e%2e/", "/a%2Fb", "/..//x"),
    *("//a@b:x/", "//[::1", "/[", "/]", "/:80", "/@", '/"<>\\^`{|}', "/~", "/;x", "/x#y", "/#", "/?#", "/x y", "/x\ty"),
    *(
        "",
        "x",
        "*",
        "a.test:80",
        "http://a.test/x",
        "http:///x",
        "?x",
        "#",
        "\\x",
        "/\xff",
        "/\xc3\xa4",
        "/\x00",
        "/\x7f",
    ),
    *("/" + "x" * 9000, "/?" + "x" * 9000, "/" * 5000),
]
FIRST_LINES = [
    *(f"{verb} /x HTTP/1.1" for verb in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")),
    *(f"{verb} /x HTTP/1.1" for verb in ("CONNECT", "TRACE", "QUERY", "PRI", "get", "GETT")),
    *(f"{verb} /x HTTP/1.1" for verb in ("", " GET", "GET ", "G\x00T", "M-SEARCH", "PROPFIND", "GET\t")),
    *(f"GET /x HTTP/{version}" for version in ("1.0", "0.9", "1.2", "2.0", "1.10", "1,1", "11", "")),
    *("GET /x", "GET /x HTTP/1.1 ", "GET  /x HTTP/1.1", "GET /x  HTTP/1.1", "GET\t/x\tHTTP/1.1", "GET /x HTTP/1.1\r"),
    *(
        "GET /x HTTP/1.1\n",
        "\r\nGET /x HTTP/1.1",
        "\nGET /x HTTP/1.1",
        "GET /x RTSP/1.1",
        "GET /x http/1.1",
        "GET /x HTTP/1.1 HTTP/1.1",
    ),
    *(f"GET {target} HTTP/1.1" for target in TARGETS),
    *(f"OPTIONS {target} HTTP/1.1" for target in TARGETS),
]
STATUS_LINES = [
    *(f"HTTP/1.1 {code} Said" for code in (200, 204, 205, 206, 301, 304, 404, 499, 500, 503, 599, 600, 777, 999)),
    *(f"HTTP/1.1 {code} Said" for code in ("20", "2000", "020", "+20", "2x0", "", "-200", " 200", "\xb2\xb2\xb2")),
    *("HTTP/1.1 200", "HTTP/1.1 200 ", "HTTP/1.1 200  OK", "HTTP/1.1 200 OK ", "HTTP/1.1 200\tOK", "HTTP/1.1  200 OK"),
    *("HTTP/1.1 200 \xff", "HTTP/1.1 200 \xc3\xa4", "HTTP/1.1 200 \tO\tK", "HTTP/1.1 200 O\x00K", "HTTP/1.1 200 O\rK"),
    *("HTTP/1.1 200 O\nK", "HTTP/1.1 200 \x7f", "HTTP/1.1 200 \x1f", "HTTP/1.1 200 OK\r", "HTTP/1.1 200 OK\n"),
    *(f"{version} 200 OK" for version in ("HTTP/1.0", "HTTP/0.9", "HTTP/1.2", "HTTP/2", "HTTP/2.0", "http/1.1", "ICY")),
    *("\r\nHTTP/1.1 200 OK", " HTTP/1.1 200 OK", "GET / HTTP/1.1", "", "HTTP/1.1 200 " + "x" * 9000),
]


def test_each_pair_of_lines_is_read_as_the_parser_reads_it(both: Both) -> None:
    heads = [get("Host: a.test", *pair) for pair in product(LINES, LINES)] + [get(line) for line in LINES]
    assert faults(both.request_fault, heads) == []
    assert 1000 < both.plain < len(heads) / 2


def test_each_pair_of_lines_of_a_response_likewise(both: Both) -> None:
    heads = [ok(*pair) for pair in product(LINES, LINES)] + [ok("Content-Length: 5", line) for line in LINES]
    assert faults(both.response_fault, heads) == []
    assert 1000 < both.plain < len(heads) / 2


def test_each_line_with_each_method_is_read_as_the_parser_reads_it(both: Both) -> None:
    verbs = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PURGE", "get")
    heads = [head_of(f"{verb} /x HTTP/1.1", "Host: a.test", line) for verb in verbs for line in LINES]
    assert faults(both.request_fault, heads) == []
    assert both.plain > 7 * 20


def test_first_lines_are_read_as_the_parser_reads_them(both: Both) -> None:
    usual = ("Host: a.test", "Accept: */*")
    heads = [head_of(first, *lines) for first in FIRST_LINES for lines in (usual, (*usual, "Content-Length: 3"), ())]
    assert faults(both.request_fault, heads) == []
    assert 50 < both.plain < len(heads) / 2
    both.plain = 0
    heads = [
        head_of(first, *lines)
        for first in STATUS_LINES
        for lines in ((), ("Content-Length: 3",), ("Transfer-Encoding: chunked", "Date: now"), ("Connection: close",))
    ]
    assert faults(both.response_fault, heads) == []
    assert 50 < both.plain < len(heads)


def test_each_byte_at_each_place_is_read_as_the_parser_reads_it(both: Both) -> None:
    request, response = get("Host: a", "Content-Length: 3", "X: y"), ok("Connection: close", "X: y")
    for head, check in ((request, both.request_fault), (response, both.response_fault)):
        places = range(len(head))
        put = [head[:at] + b"%c" % byte + head[at:] for at in places for byte in range(0, 256, 1 if at % 3 else 5)]
        changed = [head[:at] + b"%c" % byte + head[at + 1 :] for at in places for byte in range(0, 256, 7)]
        cut = [head[:at] + head[to:] for at in places for to in places if at < to]
        both.plain = 0
        assert faults(check, [*put, *changed, *cut]) == []
        assert both.plain > 1000


SPICE = [
    b"\r\n",
    b"\n",
    b"\r",
    b"\r\n ",
    b"\x00",
    b"\x7f",
    b"\xff",
    b" ",
    b"\t",
    b":",
    b": ",
    b",",
    b"#",
    b"?",
    b"/",
    b"0",
]
NAME = st.one_of(
    st.sampled_from([line.partition(":")[0].encode("latin-1") for line in LINES if ":" in line]),
    st.text("!#$%&'*+.^_`|~09AZaz-", min_size=1, max_size=12).map(str.encode),
    st.binary(max_size=4),
)
VALUE = st.one_of(
    st.sampled_from([b"", b"1", b"close", b"keep-alive", b"chunked", b"a.test", b"a, b", b" 1", b"1\t"]),
    st.binary(max_size=8),
    st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=20).map(lambda text: text.encode("latin-1")),
)
LINE = st.one_of(
    st.sampled_from([line.encode("latin-1") for line in LINES]),
    st.tuples(NAME, st.sampled_from([b": ", b":", b" :", b":  "]), VALUE).map(b"".join),
)
CHANGES = st.lists(st.tuples(st.integers(0, 300), st.integers(0, 4), st.sampled_from(SPICE)), max_size=2)


def spiced(head: bytes, changes: list[tuple[int, int, bytes]]) -> bytes:
    for place, cut, put in changes:
        at = place % len(head)
        head = head[:at] + put + head[at + cut :]
    return head if head.endswith(b"\r\n\r\n") else head.rstrip(b"\r\n") + b"\r\n\r\n"


def drawn(firsts: list[str], always: list[bytes]) -> st.SearchStrategy[tuple[bytes, bytes]]:
    """A head, and the same head changed in some places."""
    lines = st.tuples(st.sampled_from(always), st.lists(LINE, max_size=5)).map(lambda parts: [parts[0], *parts[1]])
    first = st.one_of(st.just(firsts[0]), st.sampled_from(firsts)).map(lambda text: text.encode("latin-1"))
    head = st.tuples(first, lines).map(lambda parts: b"\r\n".join([parts[0], *parts[1], b"", b""]))
    return st.tuples(head, CHANGES).map(lambda parts: (parts[0], spiced(*parts)))


@settings(max_examples=600, deadline=None)
@given(drawn(FIRST_LINES, [b"Host: a.test", b"host: b", b"Accept: */*"]))
def test_any_request_is_read_as_the_parser_reads_it(sides: Both, heads: tuple[bytes, bytes]) -> None:
    sides.renew()
    before, head = heads
    sender = Sender()
    for _ in range(3):
        sides.requests.read(before, sender)
    assert sides.request_fault(before) == ""
    assert sides.request_fault(head, sender.shape) == ""


@settings(max_examples=600, deadline=None)
@given(drawn(STATUS_LINES, [b"Content-Length: 3", b"Transfer-Encoding: chunked", b"Date: now", b"Connection: close"]))
def test_any_response_is_read_as_the_parser_reads_it(sides: Both, heads: tuple[bytes, bytes]) -> None:
    sides.renew()
    before, head = heads
    sender = Sender()
    for _ in range(3):
        sides.responses.read(before, sender)
    assert sides.response_fault(before) == ""
    assert sides.response_fault(head, sender.shape) == ""


HOSTS = [
    *(
        "a",
        "A.Test",
        "a.test.",
        "a..b",
        ".",
        "-",
        "_",
        "~",
        "a_b",
        "xn--a",
        "192.0.2.1",
        "192.0.2.256",
        "1",
        "a.",
        "a:",
    ),
    *(
        "a:0",
        "a:9",
        "a:80",
        "a:080",
        "a:8080",
        "a:9999",
        "a:00000",
        "a:10000",
        "a:59999",
        "a:60999",
        "a:64999",
        "a:65000",
    ),
    *("a:65535", "a:65536", "a:66000", "a:70000", "a:99999", "a:123456", "a:08080", "a:+80", "a:-1", "a:8o", "a:80:80"),
    *(
        "a::80",
        ":80",
        ":",
        "",
        "a b",
        "a,b",
        "a;b",
        "a@b",
        "a/b",
        "a\\b",
        "a?b",
        "a#b",
        "a%2eb",
        "a%",
        "a!b",
        "a$",
        "a&b",
    ),
    *(
        "a'",
        "(a)",
        "a*",
        "*",
        "a+b",
        "a=b",
        "<a>",
        '"a"',
        "a|b",
        "a^b",
        "a`b",
        "{a}",
        "[a]",
        "[::1]",
        "[::1]:80",
        "::1",
    ),
    *(
        "[::1",
        "::1]",
        "[::g]",
        "[1.2.3.4]",
        "[::1%25x]",
        "[]",
        "a\x00",
        "a\x7f",
        "\xe4",
        "a\xff",
        "a\t",
        "a  ",
        "a\tb",
        "\ta",
    ),
    *("a" * 300, "a." * 200, "http://a", "a:80/x"),
]


def test_hosts_are_read_as_the_parser_reads_them(both: Both) -> None:
    assert faults(both.request_fault, [get(f"Host: {host}") for host in HOSTS]) == []
    assert 25 < both.plain < len(HOSTS) / 2


def test_ports_are_read_as_the_parser_reads_them(both: Both) -> None:
    ports = [
        *range(0, 66000, 97),
        *range(9990, 10010),
        *range(59990, 60010),
        *range(64990, 65010),
        *range(65530, 65540),
    ]
    assert faults(both.request_fault, [get(f"Host: a:{port}") for port in ports]) == []
    assert both.plain > 650


@settings(max_examples=200, deadline=None)
@given(st.text("aA0.-_~:[]%@,/!", max_size=12))
def test_any_host_is_read_as_the_parser_reads_it(sides: Both, host: str) -> None:
    assert sides.request_fault(get(f"Host: {host}")) == ""


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=40), st.booleans())
def test_any_target_is_read_as_the_parser_reads_it(sides: Both, text: str, apart: bool) -> None:
    sides.renew()
    assert sides.request_fault(head_of(f"GET /{'/' * apart}{text} HTTP/1.1", "Host: a.test")) == ""
    assert sides.plain == ("#" not in text)


# What is plain, and what it says


@pytest.mark.parametrize(
    ("head", "said"),
    [
        (get("Host: a.test"), (b"GET", b"/x", b"a.test", 0, get("Host: a.test"), False)),
        (
            head_of("POST /a%2Fb?c HTTP/1.1", "Host: a:80", "Content-Length: 12", "X-A: \xff", "Content-Type: a"),
            (
                *(b"POST", b"/a%2Fb?c", b"a:80", 12),
                head_of("POST /a%2Fb?c HTTP/1.1", "Host: a:80", "Content-Length: 12", "X-A: \xff", "Content-Type: a"),
                False,
            ),
        ),
        (get("Host: a \t", "X-A: 1 "), (b"GET", b"/x", b"a", 0, get("Host: a \t", "X-A: 1 "), False)),
        (
            get("Connection: close", "Host: a", "X-A: 1"),
            (b"GET", b"/x", b"a", 0, get("Host: a", "X-A: 1"), True),
        ),
        (
            get("Host: a", "connection: keep-alive", "X-A: 1", "X-A: 1"),
            (b"GET", b"/x", b"a", 0, get("Host: a", "X-A: 1", "X-A: 1"), False),
        ),
        (
            get("content-length: 0", "HOST: a", "Connection: close"),
            (b"GET", b"/x", b"a", 0, get("content-length: 0", "HOST: a"), True),
        ),
    ],
)
def test_what_a_request_says(head: bytes, said: tuple[Any, ...]) -> None:
    assert learned(PlainRequests(128), head) == (*said, 0, b"")


@pytest.mark.parametrize(
    ("lines", "cookie"),
    [
        (["Cookie: a=b"], b"a=b"),
        (["cookie: a=b; c=d ", "X-Cookie: e"], b"a=b; c=d "),
        (["Cookie: a=\xff"], b"a=\xff"),
        # Several are joined where somebody asks for them.
        (["Cookie: a=b", "Cookie: c=d"], b""),
        ([], b""),
        (["Cookie: a=b", "Connection: close"], b"a=b"),
        (["Connection: keep-alive", "Cookie: a=b", "Accept: */*"], b"a=b"),
    ],
)
def test_the_cookie_field_is_taken_out_of_a_request(lines: list[str], cookie: bytes) -> None:
    found = learned(PlainRequests(128), get("Host: a", *lines))
    assert found is not None
    _, _, _, _, given, _, at, value = found
    assert value == cookie
    assert given[at : at + len(value)] == value
    assert bool(at) == bool(value)
    assert not at or given[at - 10 : at].lower() == b"\r\ncookie: "


@pytest.mark.parametrize("line", ["Cookie: ", "Cookie:  a=b"])
def test_a_cookie_field_that_begins_with_a_blank_is_left_to_the_parser(line: str) -> None:
    assert learned(PlainRequests(128), get("Host: a", line)) is None


@pytest.mark.parametrize(
    ("head", "said"),
    [
        (ok(), (200, BODY_TO_END, ok(), False, False, False)),
        (ok("Content-Length: 5"), (200, 5, ok("Content-Length: 5"), False, False, False)),
        (
            ok("Date: now", "Transfer-Encoding: chunked", "X-A: 1", "Connection: keep-alive", "X-Request-ID: 7"),
            (200, BODY_CHUNKED, ok("Date: now", "X-A: 1", "X-Request-ID: 7"), False, True, True),
        ),
        (
            ok("Keep-Alive: timeout=5", "Set-Cookie: a", "connection: close", "Set-Cookie: a", "Upgrade: h2c, h3"),
            (200, BODY_TO_END, ok("Set-Cookie: a", "Set-Cookie: a"), True, False, False),
        ),
        (
            head_of("HTTP/1.1 404 ", "trailer: x", "Content-Length: 0", "TE: x \t"),
            (404, 0, head_of("HTTP/1.1 404 ", "Content-Length: 0"), False, False, False),
        ),
        (
            head_of("HTTP/1.1 304 Not Modified", "Content-Length: 9", "Server: a", "Server: b"),
            (
                *(304, 9, head_of("HTTP/1.1 304 Not Modified", "Content-Length: 9", "Server: a", "Server: b")),
                *(False, False, False),
            ),
        ),
    ],
)
def test_what_a_response_says(head: bytes, said: tuple[Any, ...]) -> None:
    assert learned(PlainResponses(128), head) == said


@pytest.mark.parametrize(
    "lines",
    [
        (),
        ("X-A: 1",),
        ("Host: a", "Host: a"),
        ("Host: a", "HOST: b"),
        ("Host: ",),
        ("Host: a b",),
        ("Host: \xe4",),
        ("Host: a@b",),
        ("Host: a:65536",),
        ("Host: [::1]",),
        ("Host: a", "Content-Length: 1", "Content-Length: 1"),
        ("Host: a", "Content-Length: +1"),
        ("Host: a", "Content-Length: 1 "),
        ("Host: a", "Transfer-Encoding: chunked"),
        ("Host: a", "Content-Length: 1", "Transfer-Encoding: chunked"),
        ("Host: a", "Connection: x-a"),
        ("Host: a", "Connection: close, x-a"),
        ("Host: a", "Connection: close", "Connection: close"),
        ("Host: a", "Upgrade: websocket"),
        ("Host: a", "TE: trailers"),
        ("Host: a", "Expect: 100-continue"),
        ("Host: a", "Via: 1.1 router"),
        ("Host: a", "Max-Forwards: 1"),
        ("Host: a", "X-Request-ID: 1"),
        ("Host: a", "X_Request_ID: 1"),
        ("Host: a", "X-Forwarded-For: 1"),
        ("Host: a", "Forwarded: for=1"),
        ("Host: a", "Sec-WebSocket-Key1: x"),
        ("Host: a", "Content-Type: a", "content-type: a"),
        ("Host: a", "User-Agent: a", "User-Agent: a"),
        ("Host: a", "X-A: 1", " folded"),
        ("Host: a", "X-A : 1"),
        ("Host: a", "X-A:1"),
        ("Host: a", "X-A: \x00"),
        ("Host: a", "X-A: b\nX-B: c"),
        ("Host: a", "X-A: b\rc"),
    ],
)
def test_a_request_that_asks_for_a_decision_is_left_to_the_parser(lines: tuple[str, ...]) -> None:
    reader = PlainRequests(128)
    assert learned(reader, get(*lines)) is None
    usual = shape_of(reader, get("Host: a"))
    assert reader.read(get(*lines), Sender(usual)) is None


@pytest.mark.parametrize(
    "lines",
    [
        ("Content-Length: 1", "Content-Length: 1"),
        ("Content-Length: 1", "Transfer-Encoding: chunked"),
        ("Transfer-Encoding: chunked", "transfer-encoding: chunked"),
        ("Transfer-Encoding: gzip",),
        ("Content-Length: -1",),
        ("Connection: x-a",),
        ("Proxy-Connection: close",),
        ("Sec-WebSocket-Key1: x",),
        ("Date: now", "Date: now"),
        ("X-Request-ID: 1", "X-Request-ID: 1"),
        ("X-A: \x01",),
        ("X-A: b", "\tfolded"),
    ],
)
def test_a_response_that_asks_for_a_decision_is_left_to_the_parser(lines: tuple[str, ...]) -> None:
    reader = PlainResponses(128)
    assert learned(reader, ok(*lines)) is None
    usual = shape_of(reader, ok())
    assert reader.read(ok(*lines), Sender(usual)) is None


@pytest.mark.parametrize("status", [100, 101, 103, 199, 600, 999])
def test_only_final_responses_are_plain(status: int) -> None:
    reader = PlainResponses(128)
    assert learned(reader, head_of(f"HTTP/1.1 {status} Said", "X-A: 1")) is None
    assert learned(reader, head_of("HTTP/1.1 204 Said", "X-A: 1")) is not None


# Shapes


def test_values_and_first_lines_make_no_other_shape() -> None:
    reader, sender = PlainRequests(128), Sender()
    shape_of(reader, get("Host: a", "X-A: 1"))
    for n in range(100):
        said = reader.read(head_of(f"PUT /{n} HTTP/1.1", f"Host: h{n}", f"X-A: {'x' * n}"), sender)
        assert said is not None
        assert said[1:3] == (b"/%d" % n, b"h%d" % n)
    assert len(reader) == 1


SHAPES: list[tuple[str, ...]] = [
    ("Host: a",),
    ("host: a",),
    ("Host: a", "X-A: 1"),
    ("Host: a", "X-A: 1", "X-A: 2"),
    ("X-A: 1", "Host: a"),
    ("Host: a", "X-B: 1"),
    ("Host: a", "Content-Length: 3"),
    ("Content-Length: 4", "Host: a"),
    ("Host: a", "Connection: close"),
    ("Connection: keep-alive", "Host: a", "Content-Length: 5"),
    ("Connection: close", "Content-Length: 6", "Host: a"),
    ("Host: a", "X-A: Content-Length: 7"),
    ("Host: a", "X.A: 1"),
    ("Host: a", "X+A: 1"),
    ("Host: a", "X-A: Host: b"),
]


@pytest.mark.parametrize("make", [get, lambda *lines: ok(*(line.replace("Host", "Date") for line in lines))])
def test_what_a_sender_sent_before_changes_nothing(make: Callable[..., bytes]) -> None:
    reader: Reader = PlainRequests(128) if make is get else PlainResponses(128)
    heads = [make(*lines) for lines in SHAPES]
    shapes = [shape_of(reader, head) for head in heads]
    alone = [reader.read(head, Sender()) for head in heads]
    assert None not in alone
    for (head, said), shape in product(zip(heads, alone, strict=True), shapes):
        sender = Sender(shape)
        assert reader.read(head, sender) == said
        assert reader.read(head, sender) == said
        assert sender.shape is shapes[heads.index(head)]


def test_a_sender_may_change_its_shape_with_each_head() -> None:
    reader, sender = PlainRequests(128), Sender()
    for n in range(4 * reader.OFTEN):
        for lines in SHAPES[:4]:
            said = reader.read(head_of(f"GET /{n} HTTP/1.1", *lines), sender)
            assert said is None or (said[1], said[4].count(b"X-A")) == (b"/%d" % n, len(lines) - 1)
            assert said is not None or n <= reader.OFTEN


def test_a_head_that_is_not_plain_leaves_the_shape_and_the_next_head_alone() -> None:
    reader, head = PlainRequests(128), get("Host: a", "Connection: close")
    sender = Sender(shape_of(reader, head))
    for odd in (get("Host: a", "Connection: x"), get("Host: a", "TE: x"), get("Host: \xe4"), b"\r\n\r\n", b""):
        assert reader.read(odd, sender) is None
        said = reader.read(head, sender)
        assert said is not None
        assert said[5]


def test_case_of_a_name_is_kept_and_means_the_same() -> None:
    reader = PlainRequests(128)
    for name in ("Content-Length", "content-length", "CONTENT-LENGTH", "cOnTeNt-LeNgTh"):
        head = get("Host: a", f"{name}: 8")
        said = learned(reader, head)
        assert said[3:5] == (8, head)


# Bounds


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The patterns that were compiled."""
    patterns: list[bytes] = []

    def compile(pattern: bytes) -> re.Pattern[bytes]:
        patterns.append(pattern)
        return re.compile(pattern)

    monkeypatch.setattr(plain, "re", SimpleNamespace(compile=compile, escape=re.escape))
    return patterns


KINDS = pytest.mark.parametrize(("kind", "make"), [(PlainRequests, get), (PlainResponses, ok)])


@KINDS
def test_a_shape_is_made_once_and_not_before_its_names_were_met_often(
    kind: type[Reader], make: Callable[..., bytes], compiled: list[bytes]
) -> None:
    reader, head = kind(128), make("Host: a", "X-A: 1")
    for _ in range(reader.OFTEN):
        assert reader.read(head, Sender()) is None
    assert not compiled
    reader.read(head, Sender())
    once = len(compiled)
    assert once > 0
    for _ in range(100):
        assert reader.read(head, Sender()) is not None
    assert len(compiled) == once


@KINDS
def test_names_that_are_made_up_make_no_regular_expression_and_take_no_more_room(
    kind: type[Reader], make: Callable[..., bytes], compiled: list[bytes]
) -> None:
    reader, sender, most = kind(128), Sender(), 0
    for n in range(3 * reader.SHAPES):
        assert reader.read(make("Host: a", f"X-Made-Up-{n}: 1"), sender) is None
        most = max(most, len(reader))
    assert most == reader.SHAPES
    assert not compiled
    assert sender.shape is NO_SHAPE
    assert learned(reader, make("Host: a")) is not None, "there is room again"


def test_shapes_take_no_more_room_either() -> None:
    reader, most = EagerRequests(128), 0
    for n in range(reader.SHAPES + 20):
        assert learned(reader, get("Host: a", f"X-{n}: 1")) is not None
        most = max(most, len(reader))
    assert most == reader.SHAPES
    assert learned(reader, get("Host: a", "X-0: 1")) is not None, "a forgotten one is made again"


def test_names_that_were_met_already_drive_nothing_out() -> None:
    reader, sender = PlainRequests(128), Sender()
    head = get("Host: a", "X-0: 1")
    for n in range(reader.SHAPES):
        reader.read(get("Host: a", f"X-{n}: 1"), sender)
    assert len(reader) == reader.SHAPES
    for _ in range(reader.OFTEN + 1):
        reader.read(head, sender)
    assert len(reader) == reader.SHAPES
    assert reader.read(head, sender) is not None


@KINDS
def test_long_names_are_not_kept(kind: type[Reader], make: Callable[..., bytes]) -> None:
    reader = kind(128)
    fits = make("Host: a", f"X-{'y' * (reader.LONGEST - 6)}: 1")
    assert learned(reader, fits) is not None
    longer = make("Host: a", f"X-{'y' * (reader.LONGEST - 5)}: 1")
    assert learned(reader, longer) is None
    parts = make("Host: a", *(f"X-{n:098}: 1" for n in range(reader.LONGEST // 100 + 1)))
    assert learned(reader, parts) is None
    assert max(sum(map(len, names)) for names in reader) == reader.LONGEST


@KINDS
def test_more_fields_than_allowed_are_never_plain(kind: type[Reader], make: Callable[..., bytes]) -> None:
    reader = kind(3)
    assert learned(reader, make("Host: a", "X-A: 1", "X-A: 1")) is not None
    assert learned(reader, make("Host: a", "X-A: 1", "X-A: 1", "X-A: 1")) is None
    assert [len(names) for names in reader] == [3]


@pytest.mark.parametrize("count", [39, 40, 41, 128, 129])
def test_heads_of_many_fields_are_left_to_the_parser(both: Both, count: int) -> None:
    head = get("Host: a", *(f"X-{n}: 1" for n in range(count - 1)))
    answer = ok("Content-Length: 0", *(f"X-{n}: 1" for n in range(count - 1)))
    assert both.request_fault(head) == both.response_fault(answer) == ""
    assert both.plain == (2 if count <= PlainRequests.FIELDS else 0)


@pytest.mark.parametrize(
    "lines", [("TE: x",), ("Host: a", "Host: b"), ("X-Forwarded-For: 1",), ("Sec-WebSocket-Key1: x",)]
)
def test_names_that_can_have_no_shape_are_looked_at_once(lines: tuple[str, ...], compiled: list[bytes]) -> None:
    reader = PlainRequests(128)
    for _ in range(3 * reader.OFTEN):
        assert reader.read(get(*lines), Sender()) is None
    assert not compiled
    assert [*reader.values()] == [-1]


def test_readers_share_nothing() -> None:
    one, other = PlainRequests(128), PlainRequests(128)
    assert learned(one, get("Host: a")) is not None
    assert len(other) == 0
    assert other.read(get("Host: a"), Sender()) is None


# Time


def test_no_repeat_gives_back_what_it_took() -> None:
    everything = ("Host: a", "Content-Length: 1", "Connection: close", "X-A: 1", "X-A: 2", "Date: now", "Keep-Alive: x")
    chunked = ("Transfer-Encoding: chunked", "Connection: close", "TE: x", "X-Request-ID: 1", "X-A: 1")
    shapes = [
        shape_of(PlainRequests(128), get(*everything[:5])),
        shape_of(PlainResponses(128), ok(*everything)),
        shape_of(PlainResponses(128), ok(*chunked)),
    ]
    for shape in shapes:
        pattern = shape.match.__self__.pattern  # type: ignore[attr-defined]
        # Characters and classes of them taken off, repeats and groups remain.
        bare = re.sub(rb"\\.|\[[^\]]*\]", b"x", pattern).replace(b"(?:", b"(")
        repeats = re.findall(rb"[*+?}]\+?", re.sub(rb"\{\d+\}", b"", bare))
        assert len(repeats) > 2
        assert {*repeats} <= {b"*+", b"++", b"?+", b"}+"}


HOSTILE: list[Callable[[int], bytes]] = [
    lambda n: get("Host: a" + " \t" * n + "b", "X-A: 1"),
    lambda n: get("Host: " + "a" * n + "\x00", "X-A: 1"),
    lambda n: get("Host: a", "X-A: " + " " * n + "\x00"),
    lambda n: get("Host: a", "X-A: " + ": " * n + "\r"),
    lambda n: head_of("GET /" + "/?" * n + " HTTP/1.1 ", "Host: a", "X-A: 1"),
    lambda n: b"GET / HTTP/1.1\r\n" + b"X: 1\r" * n + b"\n\r\n",
    lambda n: b"GET / HTTP/1.1\r\n" + b"\n" * n + b"\r\n\r\n",
    lambda n: b"GET / HTTP/1.1\r\n" + b"x" * n + b"\r\n\r\n",
    lambda n: b"GET / HTTP/1.1\r\n" + b"x\n" * n + b"\r\n\r\n",
]


@pytest.mark.parametrize("make", HOSTILE)
def test_time_grows_no_faster_than_the_head(make: Callable[[int], bytes]) -> None:
    reader = PlainRequests(128)
    sender = Sender(shape_of(reader, get("Host: a", "X-A: 1")))

    def cost(head: bytes) -> float:
        def once() -> float:
            start = time.process_time()
            for _ in range(5):
                assert reader.read(head, sender) is None
            return time.process_time() - start

        return min(once() for _ in range(7))

    # Were it quadratic, it would be a thousandfold.
    assert cost(make(64_000)) < 250 * max(cost(make(2_000)), 1e-5)
