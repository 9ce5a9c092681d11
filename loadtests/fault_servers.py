"""A server of faults.py that can be made to fail in every way while it runs. Loopback only, no part of the router.

    python fault_servers.py NAME JOURNAL CONTROL ADDRESS:PORT...

Prints `ready` once it listens; `tell` then changes its mode through the socket CONTROL. Each request whose head arrived
stands in JOURNAL before anything is done with it, so that what was received twice shows even after SIGKILL. SIGTERM
ends it as a good server does, SIGINT at once.
"""

import asyncio
import contextlib
import os
import signal
import socket
import struct
import sys
import zlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import NamedTuple

#: Modes in which nothing answers at the address: connections are let finish, or all reset.
REFUSE, DOWN = "refuse", "down"
CLOSED = (REFUSE, DOWN)
IDLE_CLOSE = "idle-close"
#: What probes ask for: it tells of the process, not of what the mode does to other requests.
HEALTH = "/health"
#: Seconds that an ordinary request takes, and those between two parts of an answer that is broken on purpose.
WORK = 0.01
BETWEEN = 0.02
#: Pieces of a slow body.
PIECES = 5
#: Seconds after SIGTERM in which requests under way may finish.
GRACE = 5
#: A reset in place of an ordinary close.
_AT_ONCE = struct.pack("ii", 1, 0)
_BLOCK = bytes(range(32, 127)) * 500


class Request(NamedTuple):
    """One request as the server has read it."""

    method: str
    path: str
    key: str
    body: bytes

    @property
    def size(self) -> int:
        return int(self.path.rpartition("/")[2])


def body_of(key: str, size: int) -> bytes:
    """Promises the only right body of an answer to the request `key`, `size` bytes long (at most 32 KiB).

    No part of it is the body of another request or of another size, so a short one cannot look whole.
    """
    start = zlib.crc32(f"{key} {size}".encode()) % 95
    return (f"{key} {size}\n".encode() + _BLOCK[start : start + size])[:size]


def head_of(status: int, name: str, size: int | None, posted: bytes = b"") -> bytes:
    """Promises the head of an answer; without `size` its body comes in chunks."""
    framing = "Transfer-Encoding: chunked" if size is None else f"Content-Length: {size}"
    lines = (
        f"HTTP/1.1 {status} {'OK' if status == 200 else 'Fault'}",
        "Content-Type: application/octet-stream",
        f"X-Fault-Server: {name}",
        f"X-Fault-Posted: {zlib.crc32(posted)}",
        framing,
    )
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


def is_chunked(key: str) -> bool:
    """Whether the answer to this request comes in chunks: every second one, so that both kinds meet each fault."""
    return zlib.crc32(key.encode()) % 2 == 1


def framed(piece: bytes, chunked: bool) -> bytes:
    return b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece


class Ended(Exception):
    """This connection is over."""


class Server:
    """All listening sockets, connections and the one mode of a process."""

    def __init__(self, name: str, journal: int, addresses: list[tuple[str, int]]) -> None:
        self.name = name
        self.mode = "ok"
        #: Seconds that the modes `slow-head` and `slow-body` take.
        self.delay = 0.0
        self.idle_closes = 0
        #: Probes answered.
        self.probes = 0
        self.connections: dict[asyncio.Task[None], Connection] = {}
        self._journal = journal
        self._addresses = addresses
        self._listening: list[tuple[socket.socket, asyncio.Task[None]]] = []

    def note(self, request: Request) -> None:
        os.write(self._journal, f"{request.method} {request.key} {self.mode} {self.name}\n".encode())

    def open(self) -> None:
        loop = asyncio.get_running_loop()
        for address in self._addresses:
            listener = socket.create_server(address, backlog=1024)
            listener.setblocking(False)
            self._listening.append((listener, loop.create_task(self._accept(listener))))

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            sock, _ = await loop.sock_accept(listener)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection = Connection(self, sock)
            task = loop.create_task(connection.serve())
            self.connections[task] = connection
            task.add_done_callback(self.connections.pop)

    async def close(self) -> None:
        """Listens no longer; what waits to be accepted is reset by the system."""
        for _, task in self._listening:
            task.cancel()
        await asyncio.gather(*(task for _, task in self._listening), return_exceptions=True)
        for listener, _ in self._listening:
            listener.close()
        self._listening.clear()

    async def turn(self, mode: str, delay: float) -> None:
        """Takes on a mode, for requests that come from now on."""
        self.mode, self.delay = mode, delay
        if mode not in CLOSED:
            if not self._listening:
                self.open()
            return
        await self.close()
        for task, connection in list(self.connections.items()):
            if mode == DOWN:
                connection.reset()
            if mode == DOWN or connection.is_idle:
                task.cancel()

    async def end(self) -> None:
        """The end that a good server makes: requests under way finish, idle connections close."""
        await self.turn(REFUSE, 0)
        if self.connections:
            await asyncio.wait(list(self.connections), timeout=GRACE)


class Connection:
    """One connection: requests one after the other, each answered as the mode of its moment says."""

    def __init__(self, server: Server, sock: socket.socket) -> None:
        self.server = server
        self.sock = sock
        self.is_idle = True
        self._buffer = b""
        self._answered = 0

    async def serve(self) -> None:
        try:
            while True:
                self.is_idle = True
                request = await self._read()
                if request.path == HEALTH:
                    self.server.probes += 1
                    await self.write(head_of(200, self.server.name, 2) + b"ok")
                else:
                    await ANSWERS.get(self.server.mode, ok)(self, request)
                self._answered += 1
                if self.server.mode in CLOSED:
                    return
        except (Ended, OSError, asyncio.CancelledError):
            pass
        finally:
            self.sock.close()

    async def write(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self.sock, data)

    def reset(self) -> None:
        """Closes so that the other side sees a reset."""
        with contextlib.suppress(OSError):  # closed already
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)

    async def _read(self) -> Request:
        if not self._buffer:
            await self._readable()
            if self.server.mode == IDLE_CLOSE and self._answered:
                # What came stays unread, so a reset follows: alone, or after an end of stream, in turns.
                self.server.idle_closes += 1
                if self.server.idle_closes % 2:
                    self.sock.shutdown(socket.SHUT_WR)
                raise Ended
        while b"\r\n\r\n" not in self._buffer:
            await self._more()
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        method, path, _ = first.split(" ")
        request = Request(method, path, fields.get("x-fault-key", "-"), b"")
        if path != HEALTH:
            self.server.note(request)
        length = int(fields.get("content-length", 0))
        while len(self._buffer) < length:
            await self._more()
        body, self._buffer = self._buffer[:length], self._buffer[length:]
        return request._replace(body=body)

    async def _readable(self) -> None:
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[None] = loop.create_future()
        loop.add_reader(self.sock, self._told, waiter)
        try:
            await waiter
        finally:
            loop.remove_reader(self.sock)

    def _told(self, waiter: asyncio.Future[None]) -> None:
        asyncio.get_running_loop().remove_reader(self.sock)
        if not waiter.done():
            waiter.set_result(None)

    async def _more(self) -> None:
        data = await asyncio.get_running_loop().sock_recv(self.sock, 1 << 16)
        if not data:
            raise Ended
        self.is_idle = False
        self._buffer += data

    def halves(self, request: Request) -> tuple[bytes, bytes]:
        """The bytes of an ordinary answer, cut within its body."""
        body, chunked = body_of(request.key, request.size), is_chunked(request.key)
        head = head_of(200, self.server.name, None if chunked else len(body), request.body)
        middle = len(body) // 2
        rest = framed(body[middle:], chunked) + (b"0\r\n\r\n" if chunked else b"")
        return head + framed(body[:middle], chunked), rest


# What the modes answer


async def ok(connection: Connection, request: Request) -> None:
    await asyncio.sleep(WORK)
    await connection.write(b"".join(connection.halves(request)))


async def close(connection: Connection, request: Request) -> None:
    raise Ended


async def reset(connection: Connection, request: Request) -> None:
    connection.reset()
    raise Ended


async def reset_head(connection: Connection, request: Request) -> None:
    await connection.write(head_of(200, connection.server.name, 100)[:60])
    await asyncio.sleep(BETWEEN)
    await reset(connection, request)


async def reset_body(connection: Connection, request: Request) -> None:
    await connection.write(connection.halves(request)[0])
    await asyncio.sleep(BETWEEN)
    await reset(connection, request)


async def truncate(connection: Connection, request: Request) -> None:
    """An end of stream in the middle of a body: between two chunks, or before all bytes of the length have come."""
    await connection.write(connection.halves(request)[0])
    raise Ended


async def stall_body(connection: Connection, request: Request) -> None:
    await connection.write(connection.halves(request)[0])
    await connection._more()


async def garbage(connection: Connection, request: Request) -> None:
    await connection.write(b"\x00\xff\x16\x03 this is not HTTP\r\n\r\n" + _BLOCK[:200])
    raise Ended


async def status(connection: Connection, request: Request) -> None:
    """500 or 503, as fast as it goes: such a server would draw all requests to itself."""
    await connection.write(head_of(int(connection.server.mode), connection.server.name, 6) + b"fault\n")


async def slow_head(connection: Connection, request: Request) -> None:
    await asyncio.sleep(connection.server.delay)
    await connection.write(b"".join(connection.halves(request)))


async def slow_body(connection: Connection, request: Request) -> None:
    data = b"".join(connection.halves(request))
    start = data.index(b"\r\n\r\n") + 4
    await connection.write(data[:start])
    step = (len(data) - start) // PIECES + 1
    for place in range(start, len(data), step):
        await asyncio.sleep(connection.server.delay / PIECES)
        await connection.write(data[place : place + step])


ANSWERS: dict[str, Callable[[Connection, Request], Awaitable[None]]] = {
    "close": close,
    "reset": reset,
    "reset-head": reset_head,
    "reset-body": reset_body,
    "truncate": truncate,
    "stall-body": stall_body,
    "garbage": garbage,
    "500": status,
    "503": status,
    "slow-head": slow_head,
    "slow-body": slow_body,
}
MODES = ("ok", *CLOSED, IDLE_CLOSE, *ANSWERS)


# Control


def tell(control: Path, mode: str, delay: float = 0) -> int:
    """Turns a running server to a mode; returns once that holds, with the number of probes answered so far.

    Raises:
        OSError: it does not answer within 5 seconds.
    """
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(5)
        sock.connect(str(control))
        sock.sendall(f"{mode} {delay}\n".encode())
        told = sock.recv(32)
        if not told.endswith(b"\n"):
            raise OSError(f"the server refused the mode {mode}")
        return int(told)


async def main(name: str, journal: str, control: str, *addresses: str) -> None:
    handle = os.open(journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    pairs = [(host, int(port)) for host, _, port in (each.partition(":") for each in addresses)]
    server = Server(name, handle, pairs)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    loop.add_signal_handler(signal.SIGINT, os._exit, 130)

    async def controlled(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        mode, delay = (await reader.readline()).decode().split()
        if mode in MODES:
            await server.turn(mode, float(delay))
            writer.write(f"{server.probes}\n".encode())
            await writer.drain()
        writer.close()

    with contextlib.suppress(FileNotFoundError):
        os.unlink(control)
    await asyncio.start_unix_server(controlled, control)
    server.open()
    print("ready", flush=True)
    await stop.wait()
    await server.end()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
