"""A server of twenty lines of HTTP around the parts that an upgrade is made of: what tests start and replace.

    python upgrade_server.py LOOP BIND...

Each response holds the process id. SIGUSR2 upgrades, SIGTERM ends. What ROUTER_TEST holds makes it misbehave.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import time
from typing import cast

import uvloop

from router.configforms import parse_bind
from router.net.sockets import Sockets, StartError
from router.net.systemd import Notifier, inherited_sockets
from router.upgrade import Predecessor, Upgrader

#: Seconds that clients with an open connection get to ask once more, so that none is closed under their hands.
GRACE = 3.0


class Connection(asyncio.Protocol):
    def __init__(self, server: Server) -> None:
        self.server = server
        self.data = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.server.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.server.connections.discard(self)

    def data_received(self, data: bytes) -> None:
        self.data += data
        while b"\r\n\r\n" in self.data:
            _, _, self.data = self.data.partition(b"\r\n\r\n")
            self.answer()

    def answer(self) -> None:
        body = str(os.getpid()).encode()
        close = b"Connection: close\r\n" if self.server.ending.is_set() else b""
        self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n%b\r\n%b" % (len(body), close, body))
        if close:
            self.transport.close()


class Server:
    def __init__(self, sockets: Sockets, predecessor: Predecessor, notifier: Notifier) -> None:
        self.connections: set[Connection] = set()
        self.ending = asyncio.Event()
        self.sockets = sockets
        self.predecessor = predecessor
        self.notifier = notifier
        self.upgrader = Upgrader(
            sockets, notifier, self.ending.set, seconds=float(os.environ.get("ROUTER_SECONDS", 20))
        )

    async def run(self, binds: list[str]) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGUSR2, self.upgrader.begin)
        loop.add_signal_handler(signal.SIGTERM, self.stop)
        if os.environ.get("ROUTER_TEST") == "bind" and self.predecessor.is_there:
            binds = [*binds, "unix:/nowhere/s"]
        opened = self.sockets.open_all([parse_bind(bind) for bind in binds])
        servers = [await loop.create_server(lambda: Connection(self), sock=sock.dup()) for sock in opened]
        if self.predecessor.tell_ready():
            print("dropped", self.sockets.taken_over(), flush=True)
        if not self.predecessor.is_there:
            self.notifier.ready("serving")
        print(
            "serves", os.getpid(), *(sock.getsockname() for sock in opened), "unused", self.sockets.unused, flush=True
        )
        await self.ending.wait()
        if isinstance(loop, asyncio.SelectorEventLoop):
            # Where this loop's server closes between accept() and the transport, it drops the client (Python 3.11).
            for server in servers:
                loop.remove_reader(server.sockets[0].fileno())
            await turns(3)
        for server in servers:
            server.close()
        self.sockets.close_all()
        await self.upgrader.close()
        await self.drain()

    def stop(self) -> None:
        self.notifier.stopping()
        self.ending.set()

    async def drain(self) -> None:
        # The loop tells of a connection only after it has accepted it.
        await turns(3)
        if os.environ.get("ROUTER_TEST") == "hasty":
            for connection in tuple(self.connections):
                connection.transport.close()
        until = time.monotonic() + GRACE
        while self.connections and time.monotonic() < until:  # noqa: ASYNC110 - at most so long
            await asyncio.sleep(0.01)
        for connection in tuple(self.connections):
            connection.transport.close()


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def main(binds: list[str]) -> None:
    notifier, predecessor = Notifier.from_environ(os.environ), Predecessor.from_environ(os.environ)
    sockets = Sockets(inherited_sockets(os.environ))
    misbehave(predecessor)
    try:
        await Server(sockets, predecessor, notifier).run(binds)
    finally:
        sockets.close_all()


def misbehave(predecessor: Predecessor) -> None:
    how = os.environ.get("ROUTER_TEST") if predecessor.is_there else ""
    if how == "exit":
        raise SystemExit(3)
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "stall":
        time.sleep(60)
    if how == "close":
        os.close(predecessor._pipe or 0)
        time.sleep(60)


if __name__ == "__main__":
    logging.basicConfig(level="INFO", format="%(process)d %(levelname)s %(message)s", stream=sys.stdout)
    with contextlib.suppress(KeyboardInterrupt):
        try:
            {"uvloop": uvloop.run, "asyncio": asyncio.run}[sys.argv[1]](main(sys.argv[2:]))
        except StartError as error:
            print("cannot start:", error, flush=True)
            raise SystemExit(1) from None
