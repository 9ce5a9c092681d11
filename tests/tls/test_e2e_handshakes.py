"""What comes to a port with TLS besides good clients: plain HTTP, junk, and handshakes that are slow or many."""

from __future__ import annotations

import contextlib
import importlib.util
import random
import select
import socket
import ssl
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


def helper(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"tls_{name}", Path(__file__).with_name(f"{name}.py"))
    assert spec
    assert spec.loader
    made = sys.modules[f"tls_{name}"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


_help = sys.modules.get("tls_e2e") or helper("e2e")
lab = _help.lab
NAME, fields = _help.NAME, _help.fields


def bare(lab: Any, data: bytes = b"") -> Any:
    """A connection without TLS, on which `data` was sent."""
    client = lab.house.client(("127.0.0.1", lab.port))
    client.sock.sendall(data)
    return client


def hello(lab: Any) -> bytes:
    """The first bytes of a good client."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    made = lab.context().wrap_bio(incoming, outgoing, server_hostname=NAME)
    with contextlib.suppress(ssl.SSLWantReadError):
        made.do_handshake()
    return outgoing.read()


def failed(house: Any) -> int:
    """Handshakes that came to nothing so far."""
    return sum(each.secure.failures for each in house.serving.listening if each.secure is not None)


# Plain HTTP.


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
        b"OPTIONS * HTTP/1.0\r\n\r\n",
        b"PROPFIND / HTTP/1.1\r\nHost: a\r\n\r\n",
    ],
)
def test_plain_http_is_told_of_https(lab: Any, serve: Any, data: bytes) -> None:
    server = serve()
    lab.up(server.url)
    client = bare(lab, data)
    status, head, body = client.response()
    assert status == 400
    assert b"https" in body.lower()
    assert fields(head, "Connection") == ["close"]
    assert fields(head, "Content-Type")[0].startswith("text/plain")
    assert client.rest() == b""
    assert server.heads == []


def test_plain_http_that_comes_byte_by_byte_is_told_too(lab: Any, serve: Any) -> None:
    lab.up(serve().url)
    client = bare(lab)
    client.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for byte in b"GET / HT":
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            client.sock.sendall(bytes((byte,)))
    assert client.response()[0] == 400


# Junk.

JUNK = [
    b"\x00" * 64,
    b"\r\n\r\n",
    b"SSH-2.0-OpenSSH_9.2\r\n",
    b"\x16\x03\x01\xff\xff" + b"x" * 64,
    b"\x16\x03\x01\x00\x05hello",
    b"\x16\x03\x01\x00\x04\x01\x00\x00\x00",
    b"\x15\x03\x01\x00\x02\x02\x28",
    b"\x17\x03\x03\x00\x10" + b"y" * 16,
    b"\x80\x2e\x01\x00\x02\x00\x15\x00\x00\x00\x10" + b"\x01" * 32,
    "Grüße\n".encode(),
    b"\x05\x01\x00",
    bytes(range(256)) * 8,
]


@pytest.mark.parametrize("junk", JUNK, ids=range(len(JUNK)))
def test_junk_ends_its_own_connection_alone(lab: Any, serve: Any, junk: bytes) -> None:
    lab.up(serve().url)
    standing = lab.client()
    client = bare(lab, junk)
    with contextlib.suppress(OSError):
        client.sock.shutdown(socket.SHUT_WR)
    answer = client.rest()
    # Nothing, an alert of TLS, or, to what looks like it, a word about HTTPS.
    assert len(answer) < 500
    assert standing.get()[0] == 200
    assert lab.get()[0] == 200


def test_a_scan_of_junk_does_not_fill_the_log(lab: Any, serve: Any) -> None:
    lab.up(serve().url)
    before = len(lab.house.records())
    rng = random.Random(7)
    start = hello(lab)
    kinds = [*JUNK, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", start, start[:40], b""]
    for _ in range(150):
        client = bare(lab, rng.choice(kinds))
        client.sock.close()
    lab.house.wait(lambda: failed(lab.house) > 100)
    assert len(lab.house.records()) - before <= 3
    assert lab.get()[0] == 200


def test_no_junk_appears_raw_in_the_log(lab: Any, serve: Any) -> None:
    lab.up(serve().url)
    for junk in (b"\x1b[31mGET\x07", b"GET /\x1b[31mred HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x00\x10\x1b[31m" + b"z" * 20):
        client = bare(lab, junk)
        client.sock.shutdown(socket.SHUT_WR)
        client.rest()
    context = lab.context()
    context.check_hostname = False
    lab.refused("evil-name.test", context)
    everything = [each.getMessage() for each in lab.house._caplog.records]
    assert all(line.isprintable() for line in everything), everything


def test_mutated_hellos_harm_nobody(lab: Any, serve: Any) -> None:
    lab.up(serve().url)
    good, rng = hello(lab), random.Random(1)
    for _ in range(100):
        data = bytearray(good)
        for _ in range(rng.randint(1, 6)):
            data[rng.randrange(5, len(data))] = rng.randrange(256)
        client = bare(lab, bytes(data))
        client.sock.shutdown(socket.SHUT_WR)
        client.rest()
        client.sock.close()
    assert lab.get()[0] == 200


# Slow ones.


@pytest.mark.parametrize("kind", ["nothing", "a byte", "half a hello", "a hello", "half a method"])
def test_slow_handshakes_end(lab: Any, serve: Any, kind: str) -> None:
    lab.pair()
    lab.up(
        serve().url, listener=lab.listener(listener='timeouts = { handshake = "300ms", header = "1h", idle = "1h" }')
    )
    start = hello(lab)
    data = {"nothing": b"", "a byte": start[:1], "half a hello": start[:90], "a hello": start, "half a method": b"GE"}
    client = bare(lab, data[kind])
    client.rest()
    assert lab.get()[0] == 200


def test_a_handshake_byte_by_byte_is_not_given_more_time(lab: Any, serve: Any) -> None:
    lab.pair()
    lab.up(
        serve().url, listener=lab.listener(listener='timeouts = { handshake = "500ms", header = "1h", idle = "1h" }')
    )
    client = bare(lab)
    start = hello(lab)

    def drip() -> None:
        for byte in start:
            client.sock.sendall(bytes((byte,)))
            # Ends early where the router does.
            select.select([client.sock], [], [], 0.02)

    assert len(start) * 0.02 > 2
    with pytest.raises(ConnectionError):
        drip()


def test_many_open_handshakes_do_not_stop_others(lab: Any, serve: Any) -> None:
    lab.up(serve().url)
    start = hello(lab)
    held = [bare(lab, start[: 60 + number % 60]) for number in range(200)]
    assert lab.get()[0] == 200
    assert len(held) == 200
    assert lab.house.records("handshake") == []


def test_a_handshake_in_pieces_succeeds(lab: Any, serve: Any) -> None:
    lab.up(serve().url)
    client = bare(lab)
    client.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    made = lab.context().wrap_bio(incoming, outgoing, server_hostname=NAME)

    def step(work: Any) -> Any:
        while True:
            try:
                found = work()
            except ssl.SSLWantReadError:
                found = None
            data = outgoing.read()
            for place in range(0, len(data), 7):
                client.sock.sendall(data[place : place + 7])
            if found is not None:
                return found
            incoming.write(client.sock.recv(11))

    step(lambda: made.do_handshake() or True)
    made.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert step(lambda: made.read(1000)).startswith(b"HTTP/1.1 200")


def test_a_request_may_come_with_the_end_of_the_handshake(lab: Any, serve: Any) -> None:
    lab.up(serve().url)
    client = bare(lab)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    made = lab.context().wrap_bio(incoming, outgoing, server_hostname=NAME)
    while True:
        try:
            made.do_handshake()
            break
        except ssl.SSLWantReadError:
            client.sock.sendall(outgoing.read())
            incoming.write(client.sock.recv(65536))
    made.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    client.sock.sendall(outgoing.read())
    data = b""
    while b"ok" not in data:
        incoming.write(client.sock.recv(65536))
        with contextlib.suppress(ssl.SSLWantReadError):
            data += made.read(65536)
    assert data.startswith(b"HTTP/1.1 200")
