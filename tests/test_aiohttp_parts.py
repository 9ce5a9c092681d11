"""The inner parts of aiohttp that router/net/heads.py leans on, each named with the behaviour it needs.

A failure here after an update of aiohttp names what changed before anything on the data path does.
"""

from __future__ import annotations

import ast
import asyncio
import re
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import http_parser
from aiohttp.http import HttpRequestParser, HttpResponseParser
from aiohttp.http_exceptions import BadHttpMethod, HttpProcessingError

ROOT = Path(__file__).parent.parent
HEADS = ast.parse((ROOT / "router" / "net" / "heads.py").read_text())
PARTS = {
    "aiohttp.http": {"HttpRequestParser", "HttpResponseParser"},
    "aiohttp.http_exceptions": {"BadHttpMethod", "HttpProcessingError"},
}
#: What a parser is made with; the limits come from the configuration.
OPTIONS: dict[str, Any] = {"response_with_body": False, "auto_decompress": False}
LIMITS = {"max_line_size": 100, "max_field_size": 100, "max_headers": 4}

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"
UPGRADE = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"

Make = Callable[[type[Any]], Any]


@pytest.fixture
def make() -> Iterator[Make]:
    loop = asyncio.new_event_loop()
    yield lambda kind: kind(None, loop, 1 << 16, **OPTIONS, **LIMITS)
    loop.close()


@pytest.fixture
def requests(make: Make) -> Any:
    return make(HttpRequestParser)


@pytest.fixture
def responses(make: Make) -> Any:
    return make(HttpResponseParser)


def fed(parser: Any, head: bytes) -> tuple[Any, bool]:
    """The one message of a head, and whether the parser takes the connection for upgraded."""
    messages, upgraded, rest = parser.feed_data(head)
    assert rest == b""
    ((message, _),) = messages
    return message, upgraded


# What is used, and of which series.


def test_the_parts_named_here_are_the_parts_in_use() -> None:
    used = {n.module: {a.name for a in n.names} for n in ast.walk(HEADS) if isinstance(n, ast.ImportFrom)}
    assert {module: names for module, names in used.items() if str(module).startswith("aiohttp")} == PARTS


def test_parsers_are_made_as_here() -> None:
    calls = [n for n in ast.walk(HEADS) if isinstance(n, ast.Call) and ast.unparse(n.func).startswith("Http")]
    made = {ast.unparse(n.func): {k.arg: ast.unparse(k.value) for k in n.keywords if k.arg} for n in calls}
    written = {name: str(value) for name, value in OPTIONS.items()}
    assert made == {"HttpRequestParser": written, "HttpResponseParser": written}
    limits = [{ast.literal_eval(k) for k in n.keys if k} for n in ast.walk(HEADS) if isinstance(n, ast.Dict)]
    assert limits == [set(LIMITS), set(LIMITS)]


def test_the_series_is_pinned() -> None:
    """Inner parts may change with any series: the upper bound is the next one."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (pin,) = [line for line in project["dependencies"] if line.startswith("aiohttp")]
    low, series, above = re.fullmatch(r"aiohttp>=((3\.\d+)\.\d+),<(3\.\d+)", pin).groups()  # type: ignore[union-attr]
    assert int(above.split(".")[1]) == int(series.split(".")[1]) + 1
    assert aiohttp.__version__.startswith(f"{series}.")
    assert int(aiohttp.__version__.split(".")[2]) >= int(low.split(".")[2])


def test_the_parsers_are_those_in_c() -> None:
    """The ones in Python are many times slower, and read some heads otherwise."""
    assert HttpRequestParser.__module__ == HttpResponseParser.__module__ == "aiohttp._http_parser"
    assert HttpRequestParser is not http_parser.HttpRequestParserPy


@pytest.mark.parametrize("kind", [HttpRequestParser, HttpResponseParser])
def test_an_unknown_option_is_refused(kind: type[Any]) -> None:
    """So a renamed option shows at once, rather than being ignored."""
    with pytest.raises(TypeError, match="nonsense"):
        kind(None, None, 1 << 16, nonsense=True)


def test_errors_are_one_family_with_a_message() -> None:
    assert issubclass(BadHttpMethod, HttpProcessingError)
    assert HttpProcessingError(message="first\nsecond").message == "first\nsecond"


# What a message has.


def test_a_request(requests: Any) -> None:
    message, upgraded = fed(requests, b"POST /a?b=%20 HTTP/1.1\r\nHost: h\r\nX-a:  1 \r\nx-A: 2\r\n\r\n")
    assert (message.method, message.path, upgraded) == ("POST", "/a?b=%20", False)
    assert (message.version.major, message.version.minor) == tuple(message.version) == (1, 1)
    assert message.raw_headers == ((b"Host", b"h"), (b"X-a", b"1"), (b"x-A", b"2"))
    assert (message.headers.get("host"), message.headers.getall("X-A")) == ("h", ["1", "2"])
    assert message.should_close is False


def test_a_response(responses: Any) -> None:
    message, upgraded = fed(responses, b"HTTP/1.1 404 Not Here\r\nContent-Length: 0\r\nX: \xe9\r\n\r\n")
    assert (message.code, message.reason, upgraded) == (404, "Not Here", False)
    assert message.raw_headers == ((b"Content-Length", b"0"), (b"X", b"\xe9"))
    assert (tuple(message.version), message.should_close) == ((1, 1), False)


def test_bytes_of_fields_are_passed_on_as_they_came(requests: Any) -> None:
    message, _ = fed(requests, b"GET / HTTP/1.1\r\nHost: a\r\nX: \xff\x80\r\n\r\n")
    assert type(message.raw_headers) is tuple
    assert [(type(name), type(value)) for name, value in message.raw_headers] == [(bytes, bytes)] * 2
    assert message.raw_headers[1][1] == b"\xff\x80"


# Heads only: bodies are framed elsewhere.


@pytest.mark.parametrize(
    "head",
    [POST, b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", GET],
    ids=["length", "chunked", "none"],
)
def test_one_parser_serves_many_requests_without_their_bodies(requests: Any, head: bytes) -> None:
    for _ in range(3):
        assert fed(requests, head)[0].should_close is False
    assert fed(requests, GET)[0].method == "GET"


@pytest.mark.parametrize(
    "head",
    [
        OK,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n",
    ],
    ids=["length", "chunked", "204", "304", "100"],
)
def test_one_parser_serves_many_responses_without_their_bodies(responses: Any, head: bytes) -> None:
    for _ in range(3):
        assert fed(responses, head)[0].should_close is False
    assert fed(responses, OK)[0].code == 200


def test_bytes_of_a_body_would_be_taken_for_a_head(requests: Any, responses: Any) -> None:
    """Why nothing but whole heads is fed."""
    for parser, head in ((requests, POST), (responses, OK)):
        with pytest.raises(HttpProcessingError):
            parser.feed_data(head + b"hello")


def test_a_response_without_a_length_ends_by_closing(responses: Any) -> None:
    assert fed(responses, b"HTTP/1.1 200 OK\r\n\r\n")[0].should_close is True


def test_what_is_no_whole_head_gives_no_message(requests: Any) -> None:
    assert list(requests.feed_data(GET[:-2])[0]) == []


def test_two_heads_give_two_messages(requests: Any) -> None:
    assert len(requests.feed_data(GET * 2)[0]) == 2


def test_the_preface_of_http_2_gives_no_message(requests: Any) -> None:
    assert list(requests.feed_data(b"PRI * HTTP/2.0\r\n\r\n")[0]) == []


def test_unknown_codings_are_left_to_the_router(requests: Any) -> None:
    message, _ = fed(requests, POST.replace(b"Content-Length: 5", b"Transfer-Encoding: gzip"))
    assert message.raw_headers[1] == (b"Transfer-Encoding", b"gzip")


@pytest.mark.parametrize("version", ["0.9", "2.0"])
def test_other_versions_are_left_to_the_router(requests: Any, version: str) -> None:
    message, _ = fed(requests, f"GET / HTTP/{version}\r\nHost: a\r\n\r\n".encode())
    assert message.version.major == int(version[0])


# After these a parser must be renewed.


@pytest.mark.parametrize(
    ("kind", "last", "head"),
    [
        (HttpRequestParser, b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", GET),
        (HttpRequestParser, b"GET / HTTP/1.0\r\n\r\n", GET),
        (HttpResponseParser, b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\n", OK),
        (HttpResponseParser, b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\n", OK),
    ],
    ids=["request-close", "request-1.0", "response-close", "response-1.0"],
)
def test_the_last_message_of_a_connection_says_so_and_no_other_follows(
    make: Make, kind: type[Any], last: bytes, head: bytes
) -> None:
    parser = make(kind)
    assert fed(parser, last)[0].should_close is True
    with pytest.raises(HttpProcessingError, match="close"):
        parser.feed_data(head)


@pytest.mark.parametrize(
    ("kind", "last", "head"),
    [
        (HttpRequestParser, UPGRADE, GET),
        (HttpRequestParser, b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n", GET),
        (HttpResponseParser, b"HTTP/1.1 101 S\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n", OK),
    ],
    ids=["upgrade", "connect", "101"],
)
def test_an_upgrade_stays_set(make: Make, kind: type[Any], last: bytes, head: bytes) -> None:
    """The plain head after it is told as upgraded too."""
    parser = make(kind)
    assert fed(parser, last)[1] is True
    assert fed(parser, head)[1] is True


@pytest.mark.parametrize(
    ("kind", "bad", "head"),
    [(HttpRequestParser, GET.replace(b"Host:", b"Host :"), GET), (HttpResponseParser, b"HTTP/1.1 abc\r\n\r\n", OK)],
    ids=["request", "response"],
)
def test_an_error_stays_set(make: Make, kind: type[Any], bad: bytes, head: bytes) -> None:
    parser = make(kind)
    for data in (bad, head):
        with pytest.raises(HttpProcessingError):
            parser.feed_data(data)
    assert fed(make(kind), head)


# What is refused, and how.


@pytest.mark.parametrize("method", [b"FROB", b"get"])
def test_an_unknown_method_has_its_own_error(requests: Any, method: bytes) -> None:
    with pytest.raises(BadHttpMethod):
        requests.feed_data(GET.replace(b"GET", method))


@pytest.mark.parametrize(
    "head",
    [
        POST.replace(b"\r\n\r\n", b"\r\nTransfer-Encoding: chunked\r\n\r\n"),
        POST.replace(b": 5", b": +5"),
        POST.replace(b": 5", b": 5\r\nContent-Length: 6"),
        GET.replace(b"Host: a", b"Host: a\r\n folded"),
        GET.replace(b"Host: a", b"Ho st: a"),
        GET.replace(b"Host: a", b"Host: a\x00"),
        GET.replace(b"/ ", b"/\x01 "),
        GET.replace(b"Host: a", b"X:" + b"x" * 101),
        GET.replace(b"/", b"/" + b"x" * 101),
        GET.replace(b"Host: a", b"X: 1\r\n" * 5 + b"Host: a"),
    ],
    ids=["both", "sign", "lengths", "fold", "space", "nul", "control", "field", "target", "many"],
)
def test_an_ambiguous_or_outsized_request_is_refused(requests: Any, head: bytes) -> None:
    with pytest.raises(HttpProcessingError) as caught:
        requests.feed_data(head)
    assert not isinstance(caught.value, BadHttpMethod)
    assert isinstance(caught.value.message, str)
