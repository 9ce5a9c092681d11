"""The client of changes.py: a constant load of requests, downloads and WebSockets, each watched until its end.

    python change_client.py PORT FILE MIX

MIX is a Mix as JSON. Prints `ready` once every WebSocket stands, goes on until SIGTERM, and writes what it saw: a line
of JSON per request into FILE; into files beside it, which `beside` names, one per WebSocket, and one with the number of
connections that were closed between requests. It repeats nothing: what it sees, a user sees.
"""

import asyncio
import contextlib
import json
import signal
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from change_servers import ACCEPT, CLOSE, KEY, SLOW, TEXT, TUNNEL, framed
from fault_client import AGAIN, CLOSED, HANGING, HOST, LYING, PATIENCE, REFUSED, STATUS, Answer, Load, Wire

#: Labels of requests on connections that stay, and on one connection each.
KEPT, FRESH = "kept", "fresh"
#: How a WebSocket can end, besides what befalls requests: the client left it, or it stood when all was over.
LEFT, STANDING = "left", "standing"
_MASK = b"\x01\x02\x03\x04"
_FIRST = 0.02


class Mix(NamedTuple):
    """The load. Connections of each kind, their requests per second, and seconds."""

    gets: int = 10
    posts: int = 6
    #: Connections whose every request takes a new one; half of them POST.
    fresh: int = 4
    #: Of each of these connections.
    rate: float = 15
    #: Connections that download slowly, and the seconds between the begins of two downloads.
    slow: int = 4
    slow_every: float = 2.5
    tunnels: int = 200
    #: Seconds between two echoes of a WebSocket.
    echo: float = 1
    #: Seconds after which every second one is left for a new one.
    life: float = 5

    @property
    def per_second(self) -> float:
        """Requests of all connections together."""
        return (self.gets + self.posts + self.fresh) * self.rate + self.slow / self.slow_every


class Tunnel(NamedTuple):
    """One WebSocket; moments in seconds of the system's monotonic clock, `stood` 0 if it never did."""

    number: int
    server: str
    begun: float
    stood: float
    ended: float
    end: str


class Client(Load):
    """Does as every client does: a connection that has ended while nothing was under way is not used again.

    These ends are counted, and so are answers that announce one.
    """

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.ends = 0

    async def _ask(self, wire: Wire, writer: asyncio.StreamWriter, method: str, key: str) -> tuple[str, Answer | None]:
        if not wire._reader.at_eof():
            kind, answer = await super()._ask(wire, writer, method, key)
            self.ends += answer is not None and answer.closes
            return kind, answer
        self.ends += 1
        reader, anew = await asyncio.open_connection(HOST, self.port)
        try:
            kind, answer = await super()._ask(Wire(reader), anew, method, key)
        finally:
            anew.transport.abort()
        # The caller still holds the connection that has ended; so it lets go of that.
        return kind, answer._replace(closes=True) if answer else None


class Refused(Exception):
    """The handshake was answered with something else."""


class Tunnels:
    """All WebSockets, each opened anew after its end."""

    def __init__(self, port: int, mix: Mix) -> None:
        self.port, self.mix = port, mix
        self.seen: list[Tunnel] = []
        #: Set once all stand, or one has ended.
        self.settled = asyncio.Event()
        self._standing = 0

    async def hold(self, number: int) -> None:
        life = self.mix.life * (0.5 + number / self.mix.tunnels) if number % 2 else float("inf")
        # So that they neither come nor speak all at once.
        await asyncio.sleep(self.mix.echo * number / self.mix.tunnels)
        while True:
            tunnel = await self._one(number, life)
            self.seen.append(tunnel)
            self.settled.set()
            if tunnel.end == STANDING:
                return
            if tunnel.end != LEFT:
                await asyncio.sleep(AGAIN)

    async def _one(self, number: int, life: float) -> Tunnel:
        begun = time.monotonic()
        writer, server, stood, end = None, "", 0.0, REFUSED
        try:
            reader, writer = await asyncio.open_connection(HOST, self.port)
            end = CLOSED
            server = await self._agree(reader, writer)
            stood = time.monotonic()
            self._stands()
            end = await self._speak(reader, writer, stood + life)
        except asyncio.CancelledError:
            end = STANDING
        except TimeoutError:
            end = HANGING
        except Refused:
            end = STATUS
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            if writer is not None:
                writer.transport.abort()
        return Tunnel(number, server, begun, stood, time.monotonic(), end)

    def _stands(self) -> None:
        self._standing += 1
        if self._standing == self.mix.tunnels:
            self.settled.set()

    async def _agree(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str:
        """Promises the name of the server that agreed."""
        lines = (
            f"GET {TUNNEL} HTTP/1.1",
            "Host: fault",
            "Connection: Upgrade",
            "Upgrade: websocket",
            "Sec-WebSocket-Version: 13",
            f"Sec-WebSocket-Key: {KEY}",
        )
        writer.write("\r\n".join(lines).encode() + b"\r\n\r\n")
        async with asyncio.timeout(PATIENCE):
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        if not head.startswith("HTTP/1.1 101 ") or ACCEPT not in head:
            raise Refused
        return head.lower().partition("x-fault-server: ")[2].partition("\r\n")[0]

    async def _speak(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, until: float) -> str:
        """Sends and reads back, now and then; promises how it ended."""
        for count in range(sys.maxsize):
            payload = f"{count}".encode()
            writer.write(framed(TEXT, payload, _MASK))
            async with asyncio.timeout(PATIENCE):
                got = await reader.readexactly(2 + len(payload))
            if got != framed(TEXT, payload):
                return LYING
            # Nothing may come now; an end that does is seen at once.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.mix.echo):
                    return LYING if await reader.read(1) else CLOSED
            if time.monotonic() >= until:
                writer.write(framed(CLOSE, b"", _MASK))
                return LEFT
        raise AssertionError


def beside(file: Path) -> tuple[Path, Path]:
    """Promises the files of WebSockets, and of ends of connections."""
    return file.with_suffix(".tunnels"), file.with_suffix(".ends")


def connections(load: Load, methods: list[str]) -> Iterator[asyncio.Future[None]]:
    """Promises a running connection for each method, their requests spread over the pause between two."""
    start = time.monotonic() + _FIRST
    for number, method in enumerate(methods):
        yield asyncio.ensure_future(load.connection(number, method, start + load.pause * number / len(methods)))


def write(file: Path, seen: Iterable[tuple[object, ...]]) -> None:
    file.write_text("".join(json.dumps(each) + "\n" for each in seen))


async def run(port: int, file: Path, mix: Mix) -> None:
    tunnels = Tunnels(port, mix)
    held = [asyncio.ensure_future(tunnels.hold(number)) for number in range(mix.tunnels)]
    if held:
        await tunnels.settled.wait()
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    kept = Client(port, KEPT, mix.rate)
    fresh = Client(port, FRESH, mix.rate, "Connection: close\r\n")
    slow = Client(port, SLOW, 1 / mix.slow_every)
    kept.stop = fresh.stop = slow.stop = stop
    running = [
        *connections(kept, ["GET"] * mix.gets + ["POST"] * mix.posts),
        *connections(fresh, ["GET", "POST"] * (mix.fresh // 2) + ["GET"] * (mix.fresh % 2)),
        *connections(slow, ["GET"] * mix.slow),
    ]
    print("ready", flush=True)
    await stop.wait()
    await asyncio.gather(*running)
    for each in held:
        each.cancel()
    await asyncio.gather(*held, return_exceptions=True)
    write(file, [*kept.seen, *fresh.seen, *slow.seen])
    of_tunnels, of_ends = beside(file)
    write(of_tunnels, tunnels.seen)
    write(of_ends, [(kept.ends + slow.ends,)])


def main(words: list[str]) -> None:
    port, file, mix = words
    asyncio.run(run(int(port), Path(file), Mix(**json.loads(mix))))


if __name__ == "__main__":
    main(sys.argv[1:])
