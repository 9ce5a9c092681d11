"""Heads: where one ends, and which are refused. One parser serves any number of connections."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.errors import (
    BadRequest,
    ClientError,
    HeadTooLarge,
    NotImplementedMethod,
    ProtocolError,
    RouterError,
    TargetTooLong,
    VersionNotSupported,
)
from router.net.heads import RequestHeads, ResponseHeads, split_head
from router.policy.destination import METHODS

GET = b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    made = asyncio.new_event_loop()
    yield made
    made.close()


# split_head


@given(st.integers(min_value=0, max_value=len(GET) - 1))
def test_a_part_of_a_head_is_no_head(end: int) -> None:
    assert split_head(GET[:end], 1000) == (b"", GET[:end])


@given(st.binary(max_size=20))
def test_what_follows_a_head_is_left(rest: bytes) -> None:
    assert split_head(GET + rest, 1000) == (GET, rest)


def test_empty_lines_before_a_head_are_dropped() -> None:
    assert split_head(b"\r\n\r\n" + GET, 1000) == (GET, b"")
    assert split_head(b"\r\n", 1000) == (b"", b"")


@pytest.mark.parametrize("data", [b"G" * 101, b"G" * 98 + b"\r\n\r\n", b"G" * 300 + b"\r\n\r\n"])
def test_a_head_over_the_limit(data: bytes) -> None:
    """Told apart from a first line over the limit, as RFC 9112 §3 asks for."""
    with pytest.raises(HeadTooLarge):
        split_head(b"GET / HTTP/1.1\r\n" + data, 100)
    with pytest.raises(TargetTooLong):
        split_head(data[:95] + b"G" * 20 + data[95:], 100)


def test_a_head_of_exactly_the_limit() -> None:
    assert split_head(b"G" * 96 + b"\r\n\r\n", 100)[1] == b""


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\nHost: a", b"\n\n", b"GET / HTTP/1.1\n\n"])
def test_bare_line_ends_are_refused_at_once(data: bytes) -> None:
    with pytest.raises(BadRequest):
        split_head(data, 1000)


# Requests


def test_a_request_head(loop: asyncio.AbstractEventLoop) -> None:
    message = RequestHeads(loop, 8192, 100).parse(GET)
    assert (message.method, message.path, message.should_close) == ("GET", "/x", False)
    assert message.raw_headers == ((b"Host", b"a"),)


@pytest.mark.parametrize(
    "bad",
    [
        b"junk\r\n\r\n",
        b"GET / HTTP/1.1\r\nA : b\r\n\r\n",
        b"FOO / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 100\r\n\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"GET / HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.0\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\n",
        GET[:-2],
        GET + GET,
    ],
)
def test_no_head_leaves_a_trace_in_the_parser(loop: asyncio.AbstractEventLoop, bad: bytes) -> None:
    """Heads of different connections go through one parser: the next one must be read as if it were the first."""
    parser = RequestHeads(loop, 8192, 100)
    for _ in range(3):
        with contextlib.suppress(ClientError):
            parser.parse(bad)
        message = parser.parse(GET)
        assert (message.path, message.raw_headers) == ("/x", ((b"Host", b"a"),))


@pytest.mark.parametrize(
    ("head", "error"),
    [
        (b"FOO / HTTP/1.1\r\n\r\n", NotImplementedMethod),
        (b"GET / HTTP/2.0\r\n\r\n", VersionNotSupported),
        (b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 20 + b"\r\n", HeadTooLarge),
        (b"GET / HTTP/1.1\r\nA\r\n\r\n", BadRequest),
    ],
)
def test_refusals_of_requests(loop: asyncio.AbstractEventLoop, head: bytes, error: type[RouterError]) -> None:
    with pytest.raises(error):
        RequestHeads(loop, 8192, 10).parse(head)


@given(st.binary(max_size=80))
def test_any_bytes_are_a_head_or_refused(data: bytes) -> None:
    loop = asyncio.new_event_loop()
    try:
        parser = RequestHeads(loop, 8192, 100)
        with contextlib.suppress(BadRequest, HeadTooLarge, NotImplementedMethod, VersionNotSupported):
            assert parser.parse(data + b"\r\n\r\n").method
    finally:
        loop.close()


# Responses


def test_a_response_head(loop: asyncio.AbstractEventLoop) -> None:
    message = ResponseHeads(loop, 8192, 100).parse(b"HTTP/1.1 404 Not Here\r\nSet-Cookie: a\r\nSet-Cookie: b\r\n\r\n")
    assert (message.code, message.reason) == (404, "Not Here")
    assert message.raw_headers == ((b"Set-Cookie", b"a"), (b"Set-Cookie", b"b"))


@pytest.mark.parametrize(
    "odd",
    [
        b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.0 200 OK\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 304 Not Modified\r\n\r\n",
        b"HTTP/2.0 200 OK\r\n\r\n",
        b"junk\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA",
    ],
)
def test_no_response_leaves_a_trace_in_the_parser(loop: asyncio.AbstractEventLoop, odd: bytes) -> None:
    parser = ResponseHeads(loop, 8192, 100)
    for _ in range(3):
        with contextlib.suppress(ProtocolError):
            parser.parse(odd)
        message = parser.parse(b"HTTP/1.1 201 Made\r\nX: y\r\n\r\n")
        assert (message.code, message.raw_headers) == (201, ((b"X", b"y"),))


@pytest.mark.parametrize(
    "head", [b"junk\r\n\r\n", b"HTTP/2.0 200 OK\r\n\r\n", b"HTTP/1.1 200 OK\r\nA : b\r\n\r\n", GET]
)
def test_refusals_of_responses(loop: asyncio.AbstractEventLoop, head: bytes) -> None:
    with pytest.raises(ProtocolError):
        ResponseHeads(loop, 8192, 100).parse(head)


async def test_the_methods_that_explain_knows_are_those_that_are_read() -> None:
    heads = RequestHeads(asyncio.get_running_loop(), 32 << 10, 128)
    for method in METHODS:
        assert heads.parse(f"{method} /x HTTP/1.1\r\nHost: a\r\n\r\n".encode()).method == method
    for method in ("BREW", "LIST", "get"):
        assert method not in METHODS
        with pytest.raises(RouterError):
            heads.parse(f"{method} /x HTTP/1.1\r\nHost: a\r\n\r\n".encode())
