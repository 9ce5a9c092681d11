"""The http probe over real sockets: what it asks, what it takes for well, and what it leaves behind."""

from __future__ import annotations

import asyncio
import errno
import resource
import socket
from pathlib import Path
from typing import Any

import pytest
from router_health.causes import connect_failure, lost_failure, shown
from router_health.http import HttpProbe, _authority

from router import Address, Endpoint, EndpointSpec
from router.options import PluginFault
from router.plugins import Registry
from router.testing import check_probe, make_tools

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\n"


# The request


async def test_what_it_asks(bench: Any) -> None:
    server = await bench.serve(OK)
    await bench.passes(server.endpoint)
    assert server.requests == [
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUser-Agent: router-probe\r\nConnection: close\r\n\r\n" % server.port
    ]


async def test_every_part_of_the_request_is_an_option(bench: Any) -> None:
    server = await bench.serve(OK)
    fields = {"User-Agent": "me/1", "X-Key": "a b\t\u00fc"}
    await bench.passes(server.endpoint, method="OPTIONS", path="/h?x=%20", host="shop.test:81", headers=fields)
    assert server.requests == [
        b"OPTIONS /h?x=%20 HTTP/1.1\r\nHost: shop.test:81\r\nUser-Agent: me/1\r\nX-Key: a b\t\xc3\xbc\r\n"
        b"Connection: close\r\n\r\n"
    ]


async def test_another_port_is_asked_and_named(bench: Any) -> None:
    server, health = await bench.serve(OK), await bench.serve(OK)
    await bench.passes(server.endpoint, port=health.port)
    assert server.requests == []
    assert b"\r\nHost: 127.0.0.1:%d\r\n" % health.port in health.requests[0]


async def test_a_unix_socket(bench: Any, tmp_path: Path) -> None:
    server = await bench.serve(OK, at=tmp_path / "s")
    await bench.passes(server.endpoint)
    assert b"\r\nHost: localhost\r\n" in server.requests[0]
    assert await bench.failure(server.endpoint, port=80) == "a unix socket has no port: this pool's probe sets one"
    missing = Endpoint(EndpointSpec(f"unix:{tmp_path}/none"))
    assert await bench.failure(missing) == "connect failed: no such file or directory"


async def test_ipv6_and_names(bench: Any) -> None:
    server = await bench.serve(OK, at="::1")
    await bench.passes(server.endpoint)
    assert b"\r\nHost: [::1]:%d\r\n" % server.port in server.requests[0]
    other = await bench.serve(OK)
    await bench.passes(Endpoint(EndpointSpec(f"http://localhost:{other.port}")))
    assert b"\r\nHost: localhost:%d\r\n" % other.port in other.requests[0]


@pytest.mark.parametrize(
    ("address", "port", "authority"),
    [
        (Address("http", "h.test", 80), 0, b"h.test"),
        (Address("https", "h.test", 443), 0, b"h.test"),
        (Address("https", "h.test", 80), 0, b"h.test:80"),
        (Address("http", "h.test", 8000), 80, b"h.test"),
        (Address("http", "fe80::1%eth0", 80), 81, b"[fe80::1]:81"),
        (Address("http", "b\u00fccher.test", 80), 0, b"xn--bcher-kva.test"),
        (Address("unix", "", 0, "/s"), 0, b"localhost"),
    ],
)
def test_the_host_field(address: Address, port: int, authority: bytes) -> None:
    assert _authority(address, port) == authority


async def test_each_check_has_a_connection_of_its_own_and_closes_it(bench: Any) -> None:
    server = await bench.serve(OK, then="wait")
    probe = bench.probe()
    for _ in range(3):
        await probe.check(server.endpoint)
    await bench.eventually(lambda: server.open == 0)
    assert len(server.calls) == 3


async def test_many_at_once_do_not_mix(bench: Any) -> None:
    well, ill = await bench.serve(0.001, OK), await bench.serve(b"HTTP/1.1 503 Busy\r\n\r\n")
    probe = bench.probe(body="ok")
    came = await asyncio.gather(
        *(probe.check(server.endpoint) for _ in range(20) for server in (well, ill)), return_exceptions=True
    )
    assert came[::2] == [None] * 20
    assert {str(error) for error in came[1::2]} == {"status 503, expected 200-399"}


# Status


@pytest.mark.parametrize(
    ("status", "statuses", "failure"),
    [
        (200, None, ""),
        (302, None, ""),
        (404, None, "status 404, expected 200-399"),
        (101, None, "status 101, expected 200-399"),
        (204, [204], ""),
        (200, [204], "status 200, expected 204"),
        (404, ["2xx", 404], ""),
        (403, ["2xx", 404, "500-501"], "status 403, expected 2xx, 404, 500-501"),
        (299, ["2xx"], ""),
        (300, ["2xx"], "status 300, expected 2xx"),
        (500, ["499-500"], ""),
        (999, None, "status 999, expected 200-399"),
    ],
)
async def test_the_status(bench: Any, status: int, statuses: list[Any] | None, failure: str) -> None:
    server = await bench.serve(b"HTTP/1.1 %d Whatever\r\nA: b\r\n\r\n" % status)
    options = {"statuses": statuses} if statuses else {}
    if failure:
        assert await bench.failure(server.endpoint, **options) == failure
    else:
        await bench.passes(server.endpoint, **options)


async def test_the_head_is_enough_where_no_body_is_wanted(bench: Any) -> None:
    server = await bench.serve(b"HTTP/1.0 200\r\nContent-Length: 99999999\r\n\r\n", then="wait")
    await bench.passes(server.endpoint)
    await bench.passes(server.endpoint, method="HEAD")
    await bench.eventually(lambda: server.open == 0)


# The body


@pytest.mark.parametrize(
    ("options", "failure"),
    [
        ({"body": "alive"}, ""),
        ({"body": "caf\u00e9"}, ""),
        ({"body": "dead"}, 'no "dead" in the body'),
        ({"body": 'a\n"b'}, 'no "a\\n"b" in the body'),
        ({"body_regex": r"db=\d+;"}, ""),
        ({"body_regex": "^it is caf.$"}, ""),
        ({"body_regex": r"db=\s"}, "no match of body_regex in the body"),
        ({"body": "alive", "body_regex": "db"}, ""),
        ({"body": "alive", "body_regex": "dead"}, "no match of body_regex in the body"),
        ({"body": "dead", "body_regex": "db"}, 'no "dead" in the body'),
    ],
)
async def test_what_the_body_has_to_hold(bench: Any, options: dict[str, str], failure: str) -> None:
    body = "it is caf\u00e9" if "caf" in str(options) else "alive; db=17;"
    encoded = body.encode()
    server = await bench.serve(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(encoded), encoded))
    if failure:
        assert await bench.failure(server.endpoint, **options) == failure
    else:
        await bench.passes(server.endpoint, **options)


@pytest.mark.parametrize("framing", [b"Content-Length: 100000000", b"Transfer-Encoding: chunked", b"A: b"])
async def test_a_body_without_end_is_read_up_to_its_limit(bench: Any, framing: bytes) -> None:
    piece = b"ok and more of it " * 500
    if b"chunked" in framing:
        piece = b"%x\r\n%b\r\n" % (len(piece), piece)

    async def flood(call: Any) -> None:
        await call.send(b"HTTP/1.1 200 OK\r\n%b\r\n\r\n" % framing)
        while True:
            await call.send(piece)

    server = await bench.serve(script=flood)
    await bench.passes(server.endpoint, body="ok", body_regex="m.re")
    assert await bench.failure(server.endpoint, body="dead") == 'no "dead" in the first 64 KiB of the body'
    text = await bench.failure(server.endpoint, body_regex="dead")
    assert text == "no match of body_regex in the first 4 KiB of the body"
    await bench.eventually(lambda: server.open == 0)


async def test_a_regex_sees_less_than_a_word(bench: Any) -> None:
    server = await bench.serve(b"HTTP/1.1 200 OK\r\n\r\n" + b"." * 5000 + b"ok")
    await bench.passes(server.endpoint, body="ok")
    assert "first 4 KiB" in await bench.failure(server.endpoint, body_regex="ok")
    assert "first 4 KiB" in await bench.failure(server.endpoint, body_regex="ok", body="ok")


async def test_bytes_that_are_no_text_are_read_as_some(bench: Any) -> None:
    server = await bench.serve(b"HTTP/1.1 200 OK\r\n\r\n\xff\xfe ok \x00")
    await bench.passes(server.endpoint, body="ok \0", body_regex="ok")


# What goes wrong


async def test_refused(bench: Any) -> None:
    assert await bench.failure(bench.refusing()) == "connect refused"
    named = Endpoint(EndpointSpec(f"http://localhost:{bench.refusing().address.port}"))
    assert await bench.failure(named) == "connect refused"


@pytest.mark.parametrize(
    ("pieces", "then", "failure"),
    [
        ((), "close", "closed without an answer"),
        ((b"HTTP/1.1 200 OK\r\nA", 0.01), "close", "closed in the head"),
        ((b"HTTP/1.1 100 Continue\r\n\r\n", 0.01), "close", "closed in the head"),
        ((b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok", 0.01), "close", "closed after 2 of 9 bytes of the body"),
        ((), "reset", "reset before the head"),
        ((b"HTTP/1.1 200 OK\r\nA", 0.05), "reset", "reset in the head"),
        ((b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok", 0.05), "reset", "reset in the body"),
        ((b"HTTP/1.1 200 OK\r\n\r\nok", 0.05), "reset", "reset in the body"),
        ((b"SSH-2.0-OpenSSH_9.9\r\n",), "wait", 'not HTTP/1: "SSH-2.0-OpenSSH_9.9\\r\\n"'),
        ((b"\x16\x03\x01\xff\x1b[31m",), "wait", 'not HTTP/1: "\\x16\\x03\\x01\\xff\\x1b[31m"'),
    ],
)
async def test_broken_answers(bench: Any, pieces: tuple[Any, ...], then: str, failure: str) -> None:
    server = await bench.serve(*pieces, then=then)
    assert await bench.failure(server.endpoint, body="ok") == failure


async def test_an_endless_head_is_not_read_to_its_end(bench: Any) -> None:
    async def flood(call: Any) -> None:
        await call.send(b"HTTP/1.1 200 OK\r\n")
        while True:
            await call.send(b"X-More: and more\r\n" * 1000)

    server = await bench.serve(script=flood)
    assert await bench.failure(server.endpoint) == "no end of the head in the first 64 KiB"
    await bench.eventually(lambda: server.open == 0)


async def test_a_head_in_drops_passes(bench: Any) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    server = await bench.serve(*(part for byte in head for part in (bytes([byte]), 0.0)))
    await bench.passes(server.endpoint, body="ok")


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 200 OK\r\nA: ", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nok"])
async def test_a_cancelled_check_closes_its_connection(bench: Any, said: bytes) -> None:
    server = await bench.serve(said, then="wait")
    await bench.cancelled(server.endpoint, lambda: any(server.requests), body="ok")
    await bench.eventually(lambda: server.open == 0)


async def test_a_check_cancelled_while_it_connects_leaves_no_socket(bench: Any) -> None:
    # A full backlog: the kernel answers no further SYN.
    with socket.socket() as full, socket.socket() as first, socket.socket() as second:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for other in (first, second):
            other.setblocking(False)
            other.connect_ex(full.getsockname())
        endpoint = Endpoint(EndpointSpec(f"http://127.0.0.1:{full.getsockname()[1]}"))
        turns = iter(range(20))
        await bench.cancelled(endpoint, lambda: next(turns) == 19)
        await bench.cancelled(endpoint, lambda: True, use="tcp")


@pytest.mark.parametrize("use", [{"use": "http"}, {"use": "tcp"}, {"use": "command", "command": ["true"]}])
async def test_what_the_router_lacks_says_nothing_about_the_endpoint(bench: Any, use: dict[str, Any]) -> None:
    server = await bench.serve(OK)
    probe = bench.probe(**use)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.socket() as lowest:
        free = lowest.fileno()
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    try:
        with pytest.raises(OSError, match="Too many open files") as caught:
            await probe.check(server.endpoint)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert caught.value.errno == errno.EMFILE


async def test_names_that_cannot_be_looked_up(bench: Any) -> None:
    endpoint = Endpoint(EndpointSpec(f"http://{'a' * 64}.test:80"))
    assert await bench.failure(endpoint, use="tcp") != ""
    endpoint = Endpoint(EndpointSpec(f"http://{chr(252) * 64}.test:80"))
    assert "is no host name" in await bench.failure(endpoint)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (socket.gaierror(-2, "Name or service not known"), "name lookup failed: Name or service not known"),
        (OSError(errno.EHOSTUNREACH, "x"), "connect failed: no route to host"),
        (OSError(errno.ETIMEDOUT, "x"), "connect timed out"),
        (OSError(errno.EAGAIN, "x"), "connect refused: the backlog is full"),
        (OSError("Multiple exceptions: [Errno 99] a, [Errno 111] b"), "connect refused"),
        (OSError("odd\r\nthing"), "connect failed: odd\\r\\nthing"),
        (OSError(), "connect failed: no reason given"),
    ],
)
def test_words_for_what_connecting_came_to(error: OSError, text: str) -> None:
    assert str(connect_failure(error, tls=False)) == text


def test_words_for_what_ended_a_connection() -> None:
    assert str(lost_failure(BrokenPipeError(), "in the head")) == "reset in the head"
    assert str(lost_failure(OSError(errno.ENETDOWN, "x"), "in the head")) == "connection lost in the head: x"
    assert str(lost_failure(OSError(), "in the body")) == "connection lost in the body: OSError"


@pytest.mark.parametrize(
    ("text", "limit", "line"),
    [
        ("plain", 60, "plain"),
        ("a\r\n\x1b[0m\u202e\ud800", 60, "a\\r\\n\\x1b[0m\\u202e\\ud800"),
        (b"\xff\xc3\xa9\x00", 60, "\\xff\u00e9\\x00"),
        ("x" * 60, 60, "x" * 60),
        ("x" * 61, 60, "x" * 57 + "..."),
        (b"\x00" * 1000, 10, "\\x00\\x0..."),
    ],
)
def test_what_others_said_is_shown_on_one_line(text: str | bytes, limit: int, line: str) -> None:
    assert shown(text, limit) == line


# Options


def faults(use: str, **options: Any) -> list[str]:
    with pytest.raises(PluginFault) as caught:
        Registry.load(strict=True).resolve("probe", {"use": use, **options}, None)
    return [str(fault) for fault in caught.value.all]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"method": "GE T"}, 'method "GE T" is none that a probe can send'),
        ({"method": ""}, "such as GET or HEAD"),
        ({"method": "CONNECT"}, "such as GET or HEAD"),
        ({"path": "health"}, 'path starts with "/"'),
        ({"path": ""}, 'path starts with "/"'),
        ({"path": "/a b"}, "neither blanks"),
        ({"path": "/a\r\nX: y"}, "neither blanks"),
        ({"path": "/a#b"}, '"#"'),
        ({"path": "/\u00fc"}, "beyond ASCII"),
        ({"host": "http://h"}, "host is a name with or without a port"),
        ({"host": "a b"}, "host is a name"),
        ({"host": "a\r\nb"}, "host is a name"),
        ({"headers": {"A B": "c"}}, 'headers: "A B" is no name of a header field'),
        ({"headers": {"": "c"}}, "is no name"),
        ({"headers": {"hOst": "c"}}, 'the probe writes "hOst" itself; the option host sets it'),
        ({"headers": {"Connection": "c"}}, 'the probe writes "Connection" itself'),
        ({"headers": {"Content-Length": "1"}}, "itself"),
        ({"headers": {"Transfer-Encoding": "x"}}, "itself"),
        ({"headers": {"A": "b\r\nC: d"}}, "the value of A holds a line end"),
        ({"headers": {"A": "b\0"}}, "control character"),
        ({"headers": {"A": 1}}, "headers"),
        ({"statuses": []}, "statuses is empty"),
        ({"statuses": ["ok"]}, "statuses: 'ok' is none; write 204"),
        ({"statuses": [99]}, "statuses: 99 is none"),
        ({"statuses": [600]}, "statuses: 600 is none"),
        ({"statuses": ["6xx"]}, "is none"),
        ({"statuses": ["300-200"]}, '"300-200" ends before it begins'),
        ({"statuses": [True]}, "statuses"),
        ({"statuses": 200}, "statuses"),
        ({"method": "HEAD", "body": "x"}, "a response to HEAD has no body"),
        ({"method": "HEAD", "body_regex": "x"}, "a response to HEAD has no body"),
        ({"body_regex": "a(b"}, "body_regex: no regular expression: missing ), unterminated subpattern at character 2"),
        ({"body_regex": "(a+)+"}, "body_regex: matching could take minutes"),
        ({"port": 65536}, "port"),
        ({"port": -1}, "port"),
        ({"tls": {"enabled": "yes"}}, "tls.enabled"),
        ({"tls": {"verify": "half"}}, "tls.verify"),
        ({"tls": {"sni": "x"}}, "tls"),
        ({"tls": {"ca": "no-such.pem"}}, 'tls: ca "no-such.pem" cannot be read: No such file or directory'),
        ({"tls": {"ca": __file__}}, "holds no certificate in PEM"),
        ({"tls": {"ca": "/"}}, "tls: ca"),
        ({"tls": {"ca": "a\0b"}}, "tls: ca"),
        ({"tls": {"enabled": False, "verify": "none"}}, "enabled is false, so the others mean nothing"),
        ({"tls": {"verify": "none", "ca": "x"}}, 'verify is "none", so ca means nothing'),
        ({"tls": {"server_name": "a b"}}, "server_name is a host name"),
        ({"pth": "/"}, 'did you mean "path"?'),
    ],
)
def test_nonsense_is_refused(options: dict[str, Any], words: str) -> None:
    (fault,) = faults("http", **options)
    assert words in fault
    assert 'probe "http"' in fault
    assert fault.isprintable()


def test_the_options_are_listed() -> None:
    registry = Registry.load(strict=True)
    entries = {entry.name: entry for entry in registry.entries if entry.concern == "probe"}
    assert entries.keys() >= {"http", "tcp", "command"}
    assert {entries[name].plugin for name in ("http", "tcp", "command")} == {"health"}
    described = registry.describe(entries["http"])
    assert ("statuses", "list of int or str", '["200-399"]') in described
    assert ("tls", "TlsOptions", '{"enabled":"auto","verify":"full","server_name":"","ca":""}') in described
    assert isinstance(registry.resolve("probe", "http", None).make(make_tools()), HttpProbe)


# The published laws


@pytest.mark.parametrize("name", ["http", "tcp"])
async def test_the_published_laws_hold(bench: Any, name: str) -> None:
    entry = Registry.load(strict=True).resolve("probe", name, None).entry
    well, silent = await bench.serve(OK), await bench.serve(then="wait")
    await check_probe(entry.factory, entry.options(), well=well.endpoint, ill=bench.refusing(), silent=silent.endpoint)
    await check_probe(entry.factory, entry.options(), well=well.endpoint, ill=bench.refusing())
