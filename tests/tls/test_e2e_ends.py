"""How connections with TLS end, how many there may be, and what a stop and an upgrade leave of them."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import socket
import ssl
import sys
import threading
from collections.abc import Iterator
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
lab, Lab = _help.lab, _help.Lab
NAME = _help.NAME


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


# Ends.


def test_refusals_end_with_close_notify(lab: Any, serve: Any) -> None:
    lab.up(serve().url)
    for data in (b"nonsense\r\n\r\n", b"POST / HTTP/1.1\r\nHost: a b\r\nContent-Length: 100000\r\n\r\nhalf"):
        client = lab.client()
        client.sock.sendall(data)
        assert client.response()[0] == 400
        assert client.rest() == b""


def test_connection_close_ends_with_close_notify(lab: Any, serve: Any) -> None:
    lab.up(serve().url)
    client = lab.client()
    assert client.get("/", "Connection: close")[0] == 200
    assert client.rest() == b""


def test_idle_connections_end_with_close_notify(lab: Any, serve: Any) -> None:
    lab.pair()
    lab.up(serve().url, listener=lab.listener(listener='timeouts = { idle = "200ms" }'))
    client = lab.client()
    assert client.get()[0] == 200
    assert client.rest() == b""


def test_heads_that_come_too_late_are_told_so(lab: Any, serve: Any) -> None:
    lab.pair()
    lab.up(serve().url, listener=lab.listener(listener='timeouts = { header = "200ms" }'))
    client = lab.client()
    client.sock.sendall(b"GET / HT")
    assert client.response()[0] == 408
    assert client.rest() == b""


def test_a_response_that_breaks_off_is_no_whole_one(lab: Any, serve: Any) -> None:
    server = serve()
    lab.up(server.url)
    client = lab.client()
    client.sock.sendall(b"GET /stream HTTP/1.0\r\nHost: a\r\n\r\n")
    client.until(b"half")
    for conn in list(server._open):
        conn.shutdown(socket.SHUT_RDWR)
    with pytest.raises((ssl.SSLError, ConnectionError)):
        _help.read_all(client)


def test_sigterm_lets_requests_finish_and_tells_idle_ones(lab: Any, serve: Any) -> None:
    server = serve()
    lab.up(server.url)
    idle, fresh, busy, slow = (lab.client() for _ in range(4))
    assert idle.get()[0] == 200
    shaking = bare(lab, hello(lab)[:80])
    busy.ask("/stream").until(b"half")
    slow.ask("/slow")
    lab.house.wait(lambda: len(server.heads) == 3)
    lab.house.signal(signal.SIGTERM)
    assert idle.rest() == b""
    assert fresh.rest() == b""
    assert not lab.house.accepts(lab.port)
    server.let_go()
    assert slow.response()[0] == 200
    busy.until(b"0\r\n\r\n")
    assert [client.rest() for client in (slow, busy)] == [b"", b""]
    shaking.rest()
    lab.house.wait(lambda: not lab.house.is_alive)
    assert lab.house.code == 0


def test_the_shutdown_timeout_cuts_what_is_left(lab: Any, serve: Any) -> None:
    server = serve()
    lab.up(server.url, server='shutdown_timeout = "300ms"')
    socket_, busy = lab.client().switch(), lab.client()
    busy.ask("/stream").until(b"half")
    lab.house.signal(signal.SIGTERM)
    lab.house.wait(lambda: not lab.house.is_alive)
    with contextlib.suppress(ssl.SSLError, ConnectionError):
        assert socket_.sock.recv(100) == b""
    with pytest.raises((ssl.SSLError, ConnectionError)):
        busy.until(b"0\r\n\r\n")


# How many.


def test_max_connections_counts_handshakes_and_connections(lab: Any, serve: Any) -> None:
    lab.pair()
    lab.up(serve().url, listener=lab.listener(listener="max_connections = 4"))
    status = lab.house.status
    first = lab.client()
    assert first.get()[0] == 200
    held = [bare(lab, hello(lab)[:50]) for _ in range(2)]
    lab.house.wait(lambda: status().listeners[0].connections == 3, status)
    # Who only shakes hands cannot keep out those who mean it.
    assert [lab.get()[0] for _ in range(3)] == [200] * 3
    for client in held:
        client.sock.close()
    clients = [first, *(lab.client() for _ in range(3))]
    lab.house.wait(lambda: status().listeners[0].paused, status)
    assert status().listeners[0].connections == 4
    assert [client.get()[0] for client in clients] == [200] * 4
    clients[1].sock.close()
    assert lab.get()[0] == 200
    lab.house.wait(lambda: not status().listeners[0].paused, status)


@pytest.mark.parametrize("sent", [0, 80])
def test_sigterm_serves_who_was_let_in_already(lab: Any, serve: Any, sent: int) -> None:
    """As without TLS, where a client that has connected may still ask."""
    lab.up(serve().url)
    client = bare(lab)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    made = lab.context().wrap_bio(incoming, outgoing, server_hostname=NAME)
    with contextlib.suppress(ssl.SSLWantReadError):
        made.do_handshake()
    data = outgoing.read()
    client.sock.sendall(data[:sent])
    lab.house.wait(lambda: lab.house.status().listeners[0].connections == 1, lab.house.status)
    lab.house.signal(signal.SIGTERM)
    lab.house.wait(lambda: not lab.house.accepts(lab.port))
    client.sock.sendall(data[sent:])
    incoming.write(client.sock.recv(65536))
    made.do_handshake()
    made.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    client.sock.sendall(outgoing.read())
    incoming.write(client.sock.recv(65536))
    assert b"HTTP/1.1 200" in _read(client, incoming, made)


def _read(client: Any, incoming: Any, made: Any) -> bytes:
    while True:
        try:
            return bytes(made.read(65536))
        except ssl.SSLWantReadError:
            data = client.sock.recv(65536)
            assert data, "closed"
            incoming.write(data)


def test_places_are_given_back_by_every_kind_of_end(lab: Any, serve: Any) -> None:
    lab.pair()
    lines = 'max_connections = 4\ntimeouts = { handshake = "100ms" }'
    lab.up(serve().url, listener=lab.listener(listener=lines))
    start = hello(lab)
    for data in (b"", b"\x00\x00", start[:70], start, b"GET / HTTP/1.1\r\n\r\n", b"GE"):
        for _ in range(2):
            bare(lab, data).sock.close()
        client = bare(lab, data)
        client.rest()
        client.sock.close()
    lab.house.wait(lambda: lab.house.status().listeners[0].connections == 0, lab.house.status)
    clients = [lab.client() for _ in range(4)]
    assert [client.get()[0] for client in clients] == [200] * 4


# Another process.


@pytest.fixture
def running(process: Any, authority: Any) -> Iterator[Any]:
    """A router in a process of its own, which may hand over to another."""
    made = Lab(process(), authority)
    yield made
    with contextlib.suppress(OSError, AssertionError):
        pid = made.house.status().pid
        if pid != made.house.process.pid:
            os.kill(pid, signal.SIGTERM)


def test_an_upgrade_serves_tls_without_a_gap(running: Any, serve: Any) -> None:
    server = serve()
    running.up(server.url)
    house = running.house
    old = house.status().pid
    context = running.context()
    kept, busy = running.client(context=context), running.client(context=context)
    assert kept.get()[0] == 200
    session = kept.sock.session
    busy.ask("/slow")
    house.wait(lambda: len(server.heads) == 2)
    faults: list[Exception] = []
    count = 0
    done = threading.Event()

    def ask() -> None:
        nonlocal count
        while not done.is_set():
            try:
                assert running.get()[0] == 200
                count += 1
            except Exception as error:
                faults.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    house.signal(signal.SIGUSR2)

    def is_another() -> bool:
        with contextlib.suppress(OSError, AssertionError):
            return bool(house.status().pid != old)
        return False

    house.wait(is_another, house.said)
    # From then on the old one closes what stands after an answer.
    house.says("waiting for")
    server.let_go()
    assert busy.response()[0] == 200
    busy.sock.close()
    assert kept.get()[0] == 200
    assert kept.rest() == b""
    done.set()
    asking.join(_help.PATIENCE)
    assert faults == []
    assert count > 0
    # A ticket of the process before is no good, but no harm either.
    assert running.client(context=context, session=session).get()[0] == 200
    assert house.process.wait(_help.PATIENCE) == 0
    assert [each.names for each in house.status().certificates] == [(NAME,)]
