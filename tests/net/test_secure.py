"""TLS between a real socket and a protocol: bytes, backpressure, ends that can be told apart, handshakes that fail."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any, cast

import pytest
import pytest_asyncio
import trustme

from router import Certificate
from router.errors import ConnectError
from router.net import secure_server
from router.net.runtime import Runtime
from router.net.secure import Pipes
from router.net.secure_client import SecureClient
from router.net.secure_names import written_subject
from router.net.secure_server import SecureServer
from router.net.tls import Store, endpoint_context
from router.net.tunnel import Tunnel
from router.observe import Observers

PATIENCE = 8.0
CA, OTHER_CA = trustme.CA(), trustme.CA()
CA_TEXT = CA.cert_pem.bytes().decode()
VERSIONS = (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)
BIG = bytes(range(256)) * 4096 * 8


def issue(*names: str, ca: trustme.CA = CA, **more: Any) -> Certificate:
    made = ca.issue_cert(*names, key_type=trustme.KeyType.ECDSA, **more)
    chain = b"".join(each.bytes() for each in made.cert_chain_pems).decode()
    return Certificate(names, chain, made.private_key_pem.bytes().decode(), 4e9)


SHOWN = issue("a.test", "*.b.test", "127.0.0.1")


async def until(holds: Callable[[], Any], what: Any = "") -> None:
    try:
        async with asyncio.timeout(PATIENCE):
            while not holds():  # noqa: ASYNC110 - any condition, not one that tells
                await asyncio.sleep(0.002)
    except TimeoutError:
        pytest.fail(f"never came true: {what}")


class Inner(asyncio.Protocol):
    """The protocol above: notes what it is told, in order; gives back what it gets if `echoes`."""

    def __init__(self, *, echoes: bool = False) -> None:
        self.transport: Any = None
        self.echoes = echoes
        self.received = bytearray()
        self.told: list[Any] = []
        self.full = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.told.append("made")

    def data_received(self, data: bytes) -> None:
        assert self.told[-1] in ("made", "data"), self.told
        assert type(data) is bytes
        if self.told[-1] != "data":
            self.told.append("data")
        self.received += data
        if self.echoes:
            self.transport.write(data)

    def eof_received(self) -> None:
        self.told.append("eof")

    def connection_lost(self, exc: Exception | None) -> None:
        self.told.append(exc)

    def pause_writing(self) -> None:
        self.full += 1

    def resume_writing(self) -> None:
        self.full -= 1

    @property
    def is_gone(self) -> bool:
        return bool(self.told) and (self.told[-1] is None or isinstance(self.told[-1], Exception))


class Bench:
    """A listener of the loop's own with TLS upon it, and clients in threads."""

    def __init__(self) -> None:
        self.runtime = Runtime(
            asyncio.get_running_loop(), cast(Any, None), clock=time.monotonic, observers=Observers(()), tick=0.01
        )
        self.inners: list[Inner] = []
        self.left = 0
        self.echoes = True
        self.pipes = Pipes()
        self.clean: list[Any] = []
        self.told: list[dict[str, Any]] = []
        self.runtime.loop.set_exception_handler(lambda _, context: self.told.append(context))

    def make(self) -> Inner:
        self.inners.append(Inner(echoes=self.echoes))
        return self.inners[-1]

    def _left(self) -> None:
        self.left += 1

    async def listen(self, store: Store | None = None, **more: Any) -> SecureServer:
        if store is None:
            store = Store()
            store.replace([SHOWN])
        self.server = SecureServer(
            self.runtime, store, name="here", make=self.make, left=self._left, pipes=self.pipes, **more
        )
        self._listening = await self.runtime.loop.create_server(self.server.accept, "127.0.0.1", 0)
        self.address = self._listening.sockets[0].getsockname()
        return self.server

    @property
    def inner(self) -> Inner:
        return self.inners[-1]

    def plain(self) -> socket.socket:
        """A client that has connected and said nothing."""
        sock = socket.create_connection(self.address, timeout=PATIENCE)
        self.clean.append(sock)
        return sock

    async def client(self, context: ssl.SSLContext | None = None, name: str | None = "a.test", **more: Any) -> Any:
        """A client of Python's own, after its handshake; its methods block, so call them by `away`."""
        sock = self.plain()

        def shake() -> ssl.SSLSocket:
            wrap = context or trusting()
            return wrap.wrap_socket(sock, server_hostname=name, suppress_ragged_eofs=False, **more)

        made = await away(shake)
        self.clean.append(made)
        return made

    async def streams(self, context: ssl.SSLContext | None = None) -> Callable[[bytes], Awaitable[bytes]]:
        """A client of the loop's own, which may send and read at once: sends bytes and returns as many."""
        reader, writer = await asyncio.open_connection(
            *self.address, ssl=context or trusting(), server_hostname="a.test"
        )
        self.clean.append(writer)

        async def ask(data: bytes) -> bytes:
            async def send() -> None:
                writer.write(data)
                await writer.drain()

            return (await asyncio.gather(reader.readexactly(len(data)), send()))[0]

        return ask

    def openssl(self, *options: str) -> Any:
        """`openssl s_client`, its handshake under way."""
        made = subprocess.Popen(
            ["openssl", "s_client", "-connect", f"127.0.0.1:{self.address[1]}", "-servername", "a.test", *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self.clean.append(made)
        return made

    async def end(self) -> None:
        for each in self.clean:
            if isinstance(each, subprocess.Popen):
                each.kill()
                each.wait()
                for pipe in filter(None, (each.stdin, each.stdout)):
                    with contextlib.suppress(BrokenPipeError):
                        pipe.close()
            else:
                each.close()
        if hasattr(self, "server"):
            self._listening.close()
            self.server.cut()
        for inner in self.inners:
            inner.transport.abort()
        await until(lambda: all(inner.is_gone for inner in self.inners), [inner.told for inner in self.inners])
        if hasattr(self, "server"):
            await until(lambda: len(self.server) == 0, "handshakes left")
        assert not len(self.runtime.sweeper)
        self.runtime.sweeper.close()
        assert self.pipes.incoming.pending == self.pipes.outgoing.pending == 0
        assert not self.told, self.told


def trusting(version: ssl.TLSVersion | None = None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    CA.configure_trust(context)
    if version is not None:
        context.minimum_version = context.maximum_version = version
    return context


async def away(work: Callable[..., Any], *arguments: Any) -> Any:
    return await asyncio.to_thread(work, *arguments)


def exactly(sock: Any, size: int) -> bytes:
    found = bytearray()
    while len(found) < size:
        piece = sock.recv(min(1 << 16, size - len(found)))
        assert piece, f"ended after {len(found)} of {size}"
        found += piece
    return bytes(found)


def rest(sock: socket.socket) -> bytes:
    """What comes until the other side closes or resets."""
    found = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := sock.recv(1 << 16):
            found += piece
    return found


@pytest_asyncio.fixture
async def bench() -> AsyncIterator[Bench]:
    made = Bench()
    yield made
    await made.end()


# Bytes


@pytest.mark.parametrize("version", VERSIONS)
async def test_bytes_go_both_ways(bench: Bench, version: ssl.TLSVersion) -> None:
    server = await bench.listen()
    client = await bench.client(trusting(version))
    for number in range(20):
        await away(client.sendall, b"ping %d" % number)
        assert await away(client.recv, 100) == b"ping %d" % number
    transport = bench.inner.transport
    assert transport.server_name == "a.test"
    assert transport.client_certificate is None
    assert transport.get_extra_info("peername") == client.getsockname()
    assert transport.get_extra_info("sockname") == bench.address
    assert transport.get_extra_info("socket").fileno() > 0
    assert transport.get_extra_info("ssl_object").version() == client.version()
    assert transport.get_extra_info("nothing", 7) == 7
    assert not transport.is_closing()
    assert not transport.can_write_eof()
    assert (server.handshakes, server.failures, len(server)) == (1, 0, 0)


@pytest.mark.parametrize("version", VERSIONS)
async def test_large_bodies_arrive_whole_both_ways(bench: Bench, version: ssl.TLSVersion) -> None:
    await bench.listen()
    client = await bench.streams(trusting(version))
    assert await client(BIG) == BIG
    assert bench.inner.received == BIG


async def test_pieces_are_written_in_order(bench: Bench) -> None:
    bench.echoes = False
    await bench.listen()
    client = await bench.client()
    await until(lambda: bench.inners)
    transport = bench.inner.transport
    pieces: list[Any] = [b"", b"head", BIG[:70_000], memoryview(BIG)[:16_384], bytearray(b"tail")]
    transport.writelines(pieces)
    transport.write(b"")
    transport.write(bytearray(b"!"))
    whole = b"".join(pieces) + b"!"
    assert await away(exactly, client, len(whole)) == whole


async def test_what_comes_with_the_end_of_the_handshake_is_not_lost(bench: Bench) -> None:
    await bench.listen()
    sock = bench.plain()
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = trusting().wrap_bio(incoming, outgoing, server_hostname="a.test")

    def shake() -> None:
        while True:
            try:
                tls.do_handshake()
            except ssl.SSLWantReadError:
                sock.sendall(outgoing.read())
                incoming.write(sock.recv(1 << 16))
            else:
                break
        tls.write(b"at once" * 10_000)
        with contextlib.suppress(ssl.SSLWantReadError):
            tls.unwrap()
        # In one piece: the end of the handshake, 70 KB and the end of it all.
        sock.sendall(outgoing.read())

    await away(shake)
    await until(lambda: bench.inners and bench.inner.is_gone)
    assert bytes(bench.inner.received[:14]) == b"at onceat once"
    assert bench.inner.told[:2] == ["made", "data"]
    assert bench.inner.told[-1] is None


async def test_a_handshake_may_come_byte_by_byte(bench: Bench) -> None:
    await bench.listen()
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = trusting().wrap_bio(incoming, outgoing, server_hostname="a.test")
    sock = bench.plain()
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    hello = outgoing.read()
    for at in range(0, len(hello), 40):
        sock.sendall(hello[at : at + 40])
        await asyncio.sleep(0.002)
    while True:
        try:
            incoming.write(await away(sock.recv, 1 << 16))
            tls.do_handshake()
            break
        except ssl.SSLWantReadError:
            continue
    sock.sendall(outgoing.read())
    await until(lambda: bench.inners)


async def test_many_at_once_do_not_get_in_each_others_way(bench: Bench) -> None:
    await bench.listen()
    clients = await asyncio.gather(*(bench.streams(trusting(VERSIONS[n % 2])) for n in range(12)))

    async def talk(number: int) -> None:
        for _ in range(5):
            data = bytes((number,)) * 100_003
            assert await clients[number](data) == data

    await asyncio.gather(*(talk(number) for number in range(len(clients))))
    assert bench.server.handshakes == 12


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_client_that_does_not_read_stops_the_writer(bench: Bench, version: ssl.TLSVersion) -> None:
    bench.echoes = False
    await bench.listen()
    client = await bench.client(trusting(version))
    await until(lambda: bench.inners)
    inner = bench.inner
    inner.transport.set_write_buffer_limits(high=64 << 10, low=16 << 10)
    sent = 0
    while not inner.full:
        inner.transport.write(BIG[:65_536])
        sent += 65_536
        assert sent < 64 << 20, "it takes without end"
        await asyncio.sleep(0)
    assert inner.transport.get_write_buffer_size() > 64 << 10
    assert await away(exactly, client, sent) == BIG[:65_536] * (sent // 65_536)
    await until(lambda: not inner.full)
    assert inner.transport.get_write_buffer_size() == 0


async def test_a_protocol_that_pauses_stops_the_client(bench: Bench) -> None:
    bench.echoes = False
    await bench.listen()
    client = await bench.client()
    await until(lambda: bench.inners)
    inner = bench.inner
    inner.transport.pause_reading()
    client.settimeout(0.3)

    def send() -> bool:
        try:
            for _ in range(1000):
                client.sendall(BIG[:65_536])
        except TimeoutError:
            return True
        return False

    assert await away(send)
    # What was on its way when reading stopped may still have come.
    assert len(inner.received) <= 256 << 10
    inner.transport.resume_reading()
    await until(lambda: len(inner.received) > 256 << 10)


def test_the_inner_part_of_the_ssl_module_that_is_leant_on() -> None:
    tls: Any = trusting().wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname="a.test")
    inner = tls._sslobj
    assert callable(inner.read)
    assert callable(inner.write)


# Ends


@pytest.mark.parametrize("version", VERSIONS)
async def test_closing_says_so_behind_the_last_byte(bench: Bench, version: ssl.TLSVersion) -> None:
    bench.echoes = False
    await bench.listen()
    client = await bench.client(trusting(version))
    await until(lambda: bench.inners)
    bench.inner.transport.write(BIG[:300_000])
    bench.inner.transport.close()
    bench.inner.transport.close()
    assert bench.inner.transport.is_closing()
    bench.inner.transport.write(b"too late")
    bench.inner.transport.writelines([b"too", b"late"])
    assert await away(exactly, client, 300_000) == BIG[:300_000]
    assert await away(client.recv, 1) == b""
    await until(lambda: bench.inner.is_gone)
    assert bench.inner.told == ["made", None]


async def test_an_abort_cannot_be_taken_for_an_end(bench: Bench) -> None:
    bench.echoes = False
    await bench.listen()
    client = await bench.client()
    await until(lambda: bench.inners)
    bench.inner.transport.abort()
    with pytest.raises((ssl.SSLEOFError, ConnectionResetError)):
        await away(client.recv, 1)
    await until(lambda: bench.inner.is_gone)
    assert bench.inner.told == ["made", None]


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_client_that_says_goodbye_has_ended(bench: Bench, version: ssl.TLSVersion) -> None:
    await bench.listen()
    client = await bench.client(trusting(version))
    await away(client.sendall, b"last")
    assert await away(client.recv, 10) == b"last"
    plain = await away(client.unwrap)
    assert await away(plain.recv, 1) == b""
    await until(lambda: bench.inner.is_gone)
    assert bench.inner.told == ["made", "data", "eof", None]
    plain.close()


@pytest.mark.parametrize("version", VERSIONS)
async def test_one_that_only_hangs_up_is_told_as_a_reset(bench: Bench, version: ssl.TLSVersion) -> None:
    await bench.listen()
    client = await bench.client(trusting(version))
    await away(client.sendall, b"last")
    assert await away(client.recv, 10) == b"last"
    client.shutdown(socket.SHUT_WR)
    await until(lambda: bench.inner.is_gone)
    assert bench.inner.told[:2] == ["made", "data"]
    assert isinstance(bench.inner.told[2], ConnectionResetError)
    assert "close_notify" in str(bench.inner.told[2])


async def test_junk_within_a_connection_ends_it(bench: Bench) -> None:
    await bench.listen()
    client = await bench.client()
    await until(lambda: bench.inners)
    raw = socket.socket(fileno=client.detach())
    raw.settimeout(PATIENCE)
    bench.clean.append(raw)
    raw.sendall(b"\x17\x03\x03\x00\x20" + b"j" * 32)
    assert await away(rest, raw)
    await until(lambda: bench.inner.is_gone)
    assert bench.inner.told[0] == "made"
    assert "TLS broken: decryption failed or bad record mac" in str(bench.inner.told[1])
    assert len(bench.inner.told) == 2


async def test_after_write_eof_what_comes_is_thrown_away(bench: Bench) -> None:
    bench.echoes = False
    await bench.listen()
    client = await bench.client()
    await until(lambda: bench.inners)
    transport = bench.inner.transport
    transport.write(b"all")
    transport.write_eof()
    transport.write_eof()
    assert await away(exactly, client, 3) == b"all"
    assert await away(client.recv, 1) == b""
    await away(client.sendall, BIG[:100_000])
    await asyncio.sleep(0.02)
    assert bench.inner.told == ["made"]
    client.close()
    await until(lambda: bench.inner.is_gone)
    assert bench.inner.told == ["made", None]


async def test_another_protocol_can_take_over(bench: Bench) -> None:
    await bench.listen()
    client = await bench.client()
    await until(lambda: bench.inners)
    before, after = bench.inner, Inner()
    after.told.append("made")
    before.transport.set_protocol(after)
    await away(client.sendall, b"hello")
    await until(lambda: after.received == b"hello")
    before.transport.write(b"there")
    assert await away(client.recv, 10) == b"there"
    assert before.told == ["made"]
    before.told.append(None)


async def test_a_tunnel_may_lead_over_it(bench: Bench) -> None:
    bench.echoes = False
    await bench.listen()
    loop = bench.runtime.loop
    echo = await loop.create_server(lambda: Inner(echoes=True), "127.0.0.1", 0)
    client = await bench.streams()
    await until(lambda: bench.inners)
    plain, _ = await loop.create_connection(Inner, *echo.sockets[0].getsockname())
    closed: list[Any] = []
    Tunnel(bench.runtime, bench.inner.transport, plain, idle=PATIENCE, closed=closed.append)
    bench.inner.told.append(None)
    assert await client(BIG) == BIG
    bench.clean[-1].close()
    await until(lambda: closed)
    assert closed == [None]
    echo.close()


async def test_keys_may_change_on_the_way(bench: Bench) -> None:
    await bench.listen()
    client = bench.openssl("-tls1_3")
    said = b""

    def heard(what: bytes) -> bool:
        return bool(bench.inners) and bench.inner.received == what

    # A line that begins with K or k is a command, if it is all that there is to read.
    for line in (b"one\n", b"K\n", b"two\n", b"k\n", b"three\n"):
        client.stdin.write(line)
        client.stdin.flush()
        said += b"" if len(line) == 2 else line
        await until(partial(heard, said))
        await asyncio.sleep(0.1)
    client.stdin.close()
    said = (await away(client.stdout.read)).decode()
    assert "KEYUPDATE" in said
    assert "three" in said


async def test_nobody_gets_another_handshake_in_a_connection(bench: Bench) -> None:
    await bench.listen()
    client = bench.openssl("-tls1_2")
    client.stdin.write(b"R\n")
    client.stdin.flush()
    said = (await away(client.stdout.read)).decode()
    assert "RENEGOTIATING" in said
    assert "no renegotiation" in said
    await until(lambda: bench.inner.is_gone)
    assert not bench.inner.received


# Handshakes


async def test_a_session_goes_on_after_a_swap_and_so_do_open_connections(bench: Bench) -> None:
    server = await bench.listen()
    context = trusting()
    client = await bench.client(context)
    await away(client.sendall, b"x")
    assert await away(client.recv, 1) == b"x"
    server.store.replace([issue("a.test", "new.test")])
    again = await bench.client(context, session=client.session)
    assert again.session_reused
    fresh = await bench.client()
    assert ("DNS", "new.test") in fresh.getpeercert()["subjectAltName"]
    for each in (client, again, fresh):
        await away(each.sendall, b"y")
        assert await away(each.recv, 1) == b"y"
    assert (server.handshakes, server.resumed) == (3, 1)


async def test_a_clients_certificate_is_told_in_printable_letters(bench: Bench) -> None:
    store = Store(client_auth="optional", client_ca=OTHER_CA.cert_pem.bytes().decode())
    store.replace([SHOWN])
    await bench.listen(store)
    context = trusting()
    OTHER_CA.issue_cert("me@a.test", common_name='Jörg, "x"\r\n', organization_name="A+B").configure_cert(context)
    client = await bench.client(context)
    await until(lambda: bench.inners)
    shown = bench.inner.transport.client_certificate
    assert shown.subject.startswith('CN=J\\C3\\B6rg\\, \\"x\\"\\0D\\0A,OU=Testing cert')
    assert shown.subject.endswith(",O=A\\+B")
    assert len(bytes.fromhex(shown.fingerprint)) == 32
    await away(client.sendall, b"x")
    assert await away(client.recv, 1) == b"x"
    again = await bench.client(context, session=client.session)
    await until(lambda: len(bench.inners) == 2)
    assert again.session_reused
    assert bench.inner.transport.client_certificate == shown
    await bench.client()
    await until(lambda: len(bench.inners) == 3)
    assert bench.inner.transport.client_certificate is None


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_client_without_the_certificate_asked_for_is_refused(bench: Bench, version: ssl.TLSVersion) -> None:
    store = Store(client_auth="required", client_ca=OTHER_CA.cert_pem.bytes().decode())
    store.replace([SHOWN])
    server = await bench.listen(store)

    async def come() -> None:
        client = await bench.client(trusting(version))
        await away(client.recv, 1)

    with pytest.raises((ssl.SSLError, ConnectionResetError)):
        await come()
    await until(lambda: server.failures == 1 and bench.left == 1)
    assert not bench.inners


async def test_plain_http_is_told_where_it_is(bench: Bench) -> None:
    server = await bench.listen()
    for pieces in ([b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"], [b"P", b"OST", b" /", b" HTTP/1.1\r\n\r\n" + b"b" * 9000]):
        sock = bench.plain()
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for piece in pieces:
            await away(sock.sendall, piece)
            await asyncio.sleep(0.01)
        said = await away(rest, sock)
        assert said.startswith(b"HTTP/1.1 400 Bad Request\r\n")
        assert b"\r\nConnection: close\r\n" in said
        assert b"https://" in said.partition(b"\r\n\r\n")[2]
        sock.close()
    await until(lambda: len(server) == 0)
    assert (server.plain, server.failures, bench.left) == (2, 2, 2)


@pytest.mark.parametrize(
    "junk",
    [
        b"\x00",
        b"\x80\x2e\x01\x03\x01",
        b"SSH-2.0-x\r\n",
        b"get / http/1.1\r\n\r\n",
        b"A" * 21,
        b"\x16\x03\x01\x00\x05hello",
        b"\x16" + b"\xff" * 20_000,
        b"\x15\x03\x03\x00\x02\x02\x50",
    ],
)
async def test_junk_is_closed_quietly(bench: Bench, junk: bytes, caplog: Any) -> None:
    server = await bench.listen()
    caplog.set_level(logging.INFO, "router")
    for _ in range(5):
        sock = bench.plain()
        await away(sock.sendall, junk)
        said = await away(rest, sock)
        # Nothing, or an alert.
        assert said[:1] in (b"", b"\x15")
        assert len(said) < 20
        sock.close()
    await until(lambda: len(server) == 0)
    assert (server.failures, bench.left, bench.inners) == (5, 5, [])
    assert len([each for each in caplog.records if each.name == "router"]) == 1


async def test_the_log_has_a_line_a_minute(bench: Bench, caplog: Any) -> None:
    now = 1000.0
    server = await bench.listen()
    bench.runtime.clock = lambda: now
    caplog.set_level(logging.INFO, "router")
    for reason in ("no TLS", "no TLS", "plain HTTP", "no TLS"):
        server.failed(reason, "192.0.2.1")
    now += 61.0
    server.failed("no TLS", "192.0.2.1")
    said = [each.getMessage() for each in caplog.records]
    assert len(said) == 2
    assert said[0].endswith(": 1 × no TLS")
    assert said[1].endswith(": 3 × no TLS, 1 × plain HTTP")
    assert "192.0.2.1" not in caplog.text
    bench.runtime.clock = time.monotonic


async def test_a_name_that_nobody_has_is_refused_and_not_told_raw(bench: Bench, caplog: Any) -> None:
    server = await bench.listen()
    caplog.set_level(logging.DEBUG, "router")
    with pytest.raises(ssl.SSLError, match="UNRECOGNIZED_NAME"):
        await bench.client(name="nobody.test")
    await until(lambda: server.failures == 1)
    assert "no certificate for the name 'nobody.test'" in caplog.text
    with pytest.raises(ssl.SSLError):
        await away(hello_with, bench, b"nobo\ndy\x1b.test")
    await until(lambda: server.failures == 2)
    assert "'nobo\\ndy\\x1b.test'" in caplog.text


async def test_a_name_that_is_no_text_leaves_no_traceback(bench: Bench, capsys: Any) -> None:
    server = await bench.listen()
    with pytest.raises(ssl.SSLError):
        await away(hello_with, bench, b"\xff\xfe\xfd\xfcab.test")
    await until(lambda: server.failures == 1)
    assert capsys.readouterr().err == ""


def hello_with(bench: Bench, name: bytes) -> None:
    """A handshake whose server name is `name`, whatever that is."""
    sock = bench.plain()
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    placeholder = "x" * (len(name) - 5) + ".test"
    tls = trusting().wrap_bio(incoming, outgoing, server_hostname=placeholder)
    with contextlib.suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    sock.sendall(outgoing.read().replace(placeholder.encode(), name))
    incoming.write(sock.recv(1 << 16))
    tls.do_handshake()


@pytest.mark.parametrize("first", [b"", b"\x16\x03\x01", b"GE"])
async def test_a_handshake_has_its_time(bench: Bench, first: bytes) -> None:
    server = await bench.listen(timeout=0.05)
    sock = bench.plain()
    await away(sock.sendall, first)
    assert await away(rest, sock) == b""
    await until(lambda: len(server) == 0)
    assert (server.failures, bench.left) == (1, 1)


async def test_a_client_that_leaves_before_it_has_said_anything_is_no_failure(bench: Bench) -> None:
    server = await bench.listen()
    for first, failures in ((b"", 0), (b"\x16\x03", 1)):
        sock = bench.plain()
        await until(lambda: len(server) == 1)
        await away(sock.sendall, first)
        sock.close()
        await until(lambda: len(server) == 0)
        assert server.failures == failures
    assert bench.left == 2


async def test_so_many_shake_hands_at_once_and_the_oldest_goes_first(bench: Bench) -> None:
    server = await bench.listen(most=2)
    oldest, old = bench.plain(), bench.plain()
    await until(lambda: len(server) == 2)
    client = await bench.client()
    assert await away(rest, oldest) == b""
    assert len(server) == 1
    await away(client.sendall, b"x")
    assert await away(client.recv, 1) == b"x"
    old.setblocking(False)
    with pytest.raises(BlockingIOError):
        old.recv(1)
    assert server.failures == 1


async def test_a_handshake_has_so_many_bytes(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secure_server, "_MOST_BYTES", 50)
    server = await bench.listen()
    sock = bench.plain()
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.sendall(b"\x16\x03\x01\x10\x00\x01")
    with contextlib.suppress(OSError):
        for _ in range(9):
            sock.sendall(b"\0" * 20)
            await asyncio.sleep(0.01)
    await away(rest, sock)
    await until(lambda: server.failures == 1 and len(server) == 0)


async def test_what_is_under_way_can_be_cut(bench: Bench) -> None:
    server = await bench.listen()
    sock = bench.plain()
    await until(lambda: len(server) == 1)
    server.cut()
    assert await away(rest, sock) == b""
    await until(lambda: bench.left == 1)


@pytest.mark.parametrize(
    ("subject", "text"),
    [
        ((), ""),
        (((("countryName", "DE"),), (("commonName", "a"),)), "CN=a,C=DE"),
        (((("commonName", "a"), ("userId", "b")),), "CN=a+UID=b"),
        (((("commonName", " #a  "),),), "CN=\\ #a \\ "),
        (((("commonName", "#"),),), "CN=\\#"),
        (((("commonName", ' "+,;<>\\=\x00\n\x7f'),),), 'CN=\\ \\"\\+\\,\\;\\<\\>\\\\\\=\\00\\0A\\7F'),
        (((("emailAddress", "a@b"),),), "emailAddress=a@b"),
        (((("1.2.3", "ab"),),), "1.2.3=#0c026162"),
        (((("1.2.3", "a" * 200),),), "1.2.3=#0c81c8" + "61" * 200),
        (((("1.2.3", "a" * 300),),), "1.2.3=#0c82012c" + "61" * 300),
        (((("commonName", "€\udc80"),),), "CN=\\E2\\82\\AC\\ED\\B2\\80"),
    ],
)
def test_subjects_are_written_by_rfc_4514(subject: Any, text: str) -> None:
    assert written_subject(subject) == text
    assert all(" " <= letter <= "~" for letter in text)


# To endpoints


def secure_client(bench: Bench, name: str = "a.test", context: ssl.SSLContext | None = None) -> SecureClient:
    return SecureClient(context or endpoint_context(ca=CA_TEXT), name, "http://there", bench.pipes)


async def connected(bench: Bench, client: SecureClient, inner: Inner | None = None) -> Inner:
    inner = inner or Inner()
    loop = bench.runtime.loop
    await client.open(inner, lambda make: loop.create_connection(make, *bench.address))
    return inner


async def test_an_endpoint_is_spoken_to_over_tls(bench: Bench) -> None:
    server = await bench.listen()
    inner = await connected(bench, secure_client(bench))
    assert inner.told == ["made"]
    inner.transport.write(BIG)
    await until(lambda: len(inner.received) == len(BIG))
    assert inner.received == BIG
    assert server.handshakes == 1
    inner.transport.close()
    await until(lambda: inner.is_gone and bench.inner.is_gone)
    assert inner.told == ["made", "data", None]
    assert bench.inner.told == ["made", "data", "eof", None]


@pytest.mark.parametrize("version", VERSIONS)
async def test_sessions_are_taken_up_again(bench: Bench, version: ssl.TLSVersion) -> None:
    server = await bench.listen()
    context = endpoint_context(ca=CA_TEXT)
    context.maximum_version = version
    client = secure_client(bench, context=context)
    for number in range(4):
        inner = await connected(bench, client)
        inner.transport.write(b"x")
        await until(partial(getattr, inner, "received"))
        if number % 2:
            inner.transport.close()
            await until(partial(getattr, inner, "is_gone"))
    assert server.resumed == 3
    for each in bench.inners:
        each.transport.close()


@pytest.mark.parametrize(
    ("name", "context", "why", "word"),
    [
        ("b.test", {}, "certificate verify failed: Hostname mismatch", "certificate refused"),
        ("127.0.0.2", {}, "certificate verify failed: IP address mismatch", "certificate refused"),
        ("a.test", {"ca": ""}, "unable to get local issuer certificate", "certificate refused"),
        ("nobody.test", {"verify": "none"}, "unrecognized name", "TLS failed"),
    ],
)
async def test_an_endpoint_that_is_not_trusted_is_told_with_the_reason(
    bench: Bench, name: str, context: dict[str, str], why: str, word: str
) -> None:
    store = Store(default="refuse" if "verify" in context else "a.test")
    store.replace([SHOWN])
    server = await bench.listen(store)
    client = secure_client(bench, name, endpoint_context(**{"ca": CA_TEXT, **context}))
    with pytest.raises(ConnectError) as caught:
        await connected(bench, client)
    assert why in str(caught.value)
    assert "http://there: TLS handshake failed: " in str(caught.value)
    assert caught.value.word == word
    await until(lambda: server.failures == 1)


async def test_without_verification_any_certificate_will_do(bench: Bench) -> None:
    store = Store()
    store.replace([issue("a.test", ca=OTHER_CA)])
    await bench.listen(store)
    inner = await connected(bench, secure_client(bench, context=endpoint_context(verify="none")))
    inner.transport.close()


@pytest.mark.parametrize(
    ("answer", "why"),
    [(b"HTTP/1.1 400 No\r\n\r\n", "wrong version number"), (b"", "the endpoint closed the connection")],
)
async def test_an_endpoint_without_tls_is_told(bench: Bench, answer: bytes, why: str) -> None:
    class Other(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            transport.write(answer)
            transport.write_eof()

    there = await bench.runtime.loop.create_server(Other, "127.0.0.1", 0)
    bench.address = there.sockets[0].getsockname()
    with pytest.raises(ConnectError, match=why):
        await connected(bench, secure_client(bench))
    there.close()


async def test_nobody_there_is_the_plain_error(bench: Bench) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        bench.address = held.getsockname()
        with pytest.raises(ConnectionRefusedError):
            await connected(bench, secure_client(bench))


async def test_a_handshake_that_is_given_up_leaves_nothing(bench: Bench) -> None:
    gone = asyncio.Event()

    class Silent(asyncio.Protocol):
        def connection_lost(self, exc: Exception | None) -> None:
            gone.set()

    there = await bench.runtime.loop.create_server(Silent, "127.0.0.1", 0)
    bench.address = there.sockets[0].getsockname()
    inner = Inner()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await connected(bench, secure_client(bench), inner)
    await gone.wait()
    assert inner.told == []
    there.close()


@pytest.mark.parametrize("goodbye", [True, False])
async def test_an_endpoint_that_ends_without_a_goodbye_has_broken_off(bench: Bench, goodbye: bool) -> None:
    await bench.listen()
    inner = await connected(bench, secure_client(bench))
    await until(lambda: bench.inners)
    there = bench.inner.transport
    there.write(b"body without a length")
    if goodbye:
        there.close()
    else:
        there._below.close()
    await until(lambda: inner.is_gone)
    assert inner.received == b"body without a length"
    if goodbye:
        assert inner.told == ["made", "data", "eof", None]
    else:
        assert inner.told[:2] == ["made", "data"]
        assert isinstance(inner.told[2], ConnectionResetError)


async def test_an_endpoint_that_wants_a_certificate_is_told_of_with_its_own_word(bench: Bench) -> None:
    store = Store(client_auth="required", client_ca=CA_TEXT)
    store.replace([SHOWN])
    await bench.listen(store)
    inner = await connected(bench, secure_client(bench))
    await until(lambda: inner.is_gone)
    # In TLS 1.3 a client is done before it hears of that.
    assert "certificate required" in str(inner.told[-1])
    mine = issue("router.test")
    context = endpoint_context(ca=CA_TEXT, certificate=mine.chain, key=mine.key)
    inner = await connected(bench, secure_client(bench, context=context))
    inner.transport.write(b"x")
    await until(lambda: inner.received)
    assert bench.inner.transport.client_certificate is not None
    inner.transport.close()


@pytest.mark.parametrize("name", ["", ".a.test", "x" * 300, "a\0b"])
async def test_a_server_name_that_cannot_be_is_refused_early(bench: Bench, name: str) -> None:
    with pytest.raises(ValueError, match="server_name"):
        secure_client(bench, name)
