"""The processes of hostile.py: the endpoints, the ordinary clients that are timed, and the hostile ones. Loopback only.

    python hostile_peers.py upstream|dumping PORT
    python hostile_peers.py ordinary PORT SECONDS
    python hostile_peers.py drip|upload|reader|idle|pipeline|up|down PORT COUNT SIZE SECONDS

Each prints `ready` once it stands, and one line of JSON at its end or at SIGTERM. All are bounded in number and time.
"""

import asyncio
import collections
import contextlib
import json
import math
import os
import signal
import socket
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

#: Ordinary requests per second, and the connections that they come by.
RATE = 250
WORKERS = 25
#: Seconds that a p99 is taken over.
WINDOW = 1.0
#: Seconds between two bytes of a header that drips, two pieces of a slow upload, two sips of a slow reader.
DRIP = 0.5
#: Bytes of such a piece and such a sip.
PIECE = 1 << 10
SIP = 4 << 10
#: Hostile connections that are opened in a second.
OPENING = 1500
BLOCK = bytes(256 << 10)
HOST = "127.0.0.1"


def say(text: str) -> None:
    print(text, flush=True)


# The endpoint


class Endpoint(asyncio.Protocol):
    """GET /N gives N bytes; a body is counted and thrown away; the answer waits for its end."""

    def __init__(self) -> None:
        self.head = b""
        self.left = 0
        self.owed = 0
        self.is_full = False

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        while data:
            if self.left:
                taken = min(self.left, len(data))
                self.left -= taken
                data = data[taken:]
                if not self.left:
                    self.answer(2)
                continue
            head, end, data = (self.head + data).partition(b"\r\n\r\n")
            if not end:
                self.head = head
                return
            self.head = b""
            self.begin(head)

    def begin(self, head: bytes) -> None:
        path = head.split(b" ", 2)[1]
        lengths = [line[15:] for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")]
        self.left = int(lengths[0]) if lengths else 0
        if not self.left:
            self.answer(int(path[1:] or 100))

    def answer(self, size: int) -> None:
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: {size}\r\n\r\n".encode()
        self.owed = size
        if size < len(BLOCK):
            self.owed = 0
            self.transport.write(head + BLOCK[:size])
        else:
            self.transport.write(head)
            self.pour()

    def pour(self) -> None:
        while self.owed and not self.is_full:
            piece = BLOCK[: self.owed]
            self.owed -= len(piece)
            self.transport.write(piece)

    def pause_writing(self) -> None:
        self.is_full = True

    def resume_writing(self) -> None:
        self.is_full = False
        self.pour()

    def connection_lost(self, exc: Exception | None) -> None:
        self.owed = 0


async def upstream(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Endpoint, HOST, port, backlog=4096)
    say("ready")
    await server.serve_forever()


# Ordinary clients


async def ordinary(port: int, seconds: float) -> None:
    """Small requests at a constant rate; ends after `seconds`, or at SIGTERM with what there is."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    times: list[tuple[float, float]] = []
    faults: list[str] = []
    start = time.perf_counter() + 0.05
    workers = [asyncio.ensure_future(_asks(port, start + n / RATE, times, faults)) for n in range(WORKERS)]
    say("ready")
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), seconds)
    for worker in workers:
        worker.cancel()
    await asyncio.gather(*workers, return_exceptions=True)
    say(json.dumps({"count": len(times), **quantiles(times), "faults": faults}))


def quantiles(times: list[tuple[float, float]]) -> dict[str, float]:
    """Promises p50 and p99 in milliseconds out of (moment, seconds); NaN of nothing.

    `p99_ms` is the median of the p99 of each second: a machine that others use too stops everything for some tens of
    milliseconds now and then, and one such moment would be the p99 of the whole. That one is `p99_whole_ms`.
    """
    windows: dict[int, list[float]] = {}
    for moment, seconds in times:
        windows.setdefault(int((moment - times[0][0]) / WINDOW), []).append(seconds)
    full = [each for each in windows.values() if len(each) >= RATE * WINDOW / 2] or list(windows.values())
    whole = [seconds for _, seconds in times]
    return {
        "p50_ms": rank(whole, 0.5),
        "p99_ms": statistics.median([rank(each, 0.99) for each in full]) if full else math.nan,
        "p99_whole_ms": rank(whole, 0.99),
    }


def rank(times: list[float], part: float) -> float:
    """Promises that quantile in milliseconds; NaN of nothing."""
    return sorted(times)[min(len(times) - 1, int(len(times) * part))] * 1000 if times else math.nan


async def _asks(port: int, first: float, times: list[tuple[float, float]], faults: list[str]) -> None:
    reader, writer = await asyncio.open_connection(HOST, port)
    due = first
    try:
        while True:
            begun = due
            late = time.perf_counter() - due
            if late < 0:
                # Waking late is this process's fault; only an answer that is late delays the next request's start.
                await asyncio.sleep(-late)
                begun = time.perf_counter()
            writer.write(b"GET /100 HTTP/1.1\r\nHost: ordinary\r\n\r\n")
            head = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(100 if head.startswith(b"HTTP/1.1 200") else 0)
            if not head.startswith(b"HTTP/1.1 200"):
                faults.append(head.split(b"\r\n")[0].decode("latin-1"))
                return
            now = time.perf_counter()
            times.append((now, now - begun))
            due += WORKERS / RATE
    except (OSError, asyncio.IncompleteReadError) as error:
        faults.append(repr(error))
    finally:
        writer.close()


# Hostile clients


class Ends:
    """How connections of hostile clients ended, and the moment at which all have to."""

    def __init__(self, seconds: float) -> None:
        self.counts: collections.Counter[str] = collections.Counter()
        self.seconds = seconds
        self.over = asyncio.Event()
        self.standing = 0
        self.moved = 0

    async def connect(self, port: int, window: int = 0) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        sock = socket.socket()
        sock.setblocking(False)
        if window:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
        await asyncio.get_running_loop().sock_connect(sock, (HOST, port))
        # A limit far below asyncio's own: what a slow reader does not take has to stay outside this process.
        return await asyncio.open_connection(sock=sock, limit=SIP)

    async def pause(self, seconds: float) -> bool:
        """Waits, and says whether it goes on."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.over.wait(), seconds)
        return not self.over.is_set()

    async def answered(self, reader: asyncio.StreamReader) -> None:
        """Waits for the router's answer and its close, and counts them."""
        line = b""
        try:
            line = await reader.readline()
            while await reader.read(SIP):
                pass
        except (OSError, ValueError):
            pass
        self.counts[line.split(b" ")[1].decode("latin-1") if line.count(b" ") > 1 else "closed without answer"] += 1

    def leave(self, answer: asyncio.Future[None]) -> None:
        """Counts one that was still connected when all was over."""
        if answer.cancel() and self.over.is_set():
            self.counts["not cut"] += 1


Client = Callable[[Ends, int, int], Awaitable[None]]


async def drip(ends: Ends, port: int, _size: int) -> None:
    """Sends a header byte by byte; cut off, it comes again."""
    while not ends.over.is_set():
        reader, writer = await ends.connect(port)
        ends.standing += 1
        answer = asyncio.ensure_future(ends.answered(reader))
        try:
            writer.write(b"GET /100 HTTP/1.1\r\nHost: hostile\r\nX-Drip: ")
            while not answer.done() and await ends.pause(DRIP):
                writer.write(b"x")
        finally:
            ends.leave(answer)
            writer.transport.abort()


async def upload(ends: Ends, port: int, size: int) -> None:
    """Sends a body in small pieces."""
    reader, writer = await ends.connect(port)
    answer = asyncio.ensure_future(ends.answered(reader))
    try:
        writer.write(f"POST / HTTP/1.1\r\nHost: hostile\r\nContent-Length: {size}\r\n\r\n".encode())
        ends.standing += 1
        while size > 0 and not answer.done() and await ends.pause(DRIP):
            writer.write(BLOCK[: min(size, PIECE)])
            size -= PIECE
    finally:
        ends.leave(answer)
        writer.transport.abort()


async def reader(ends: Ends, port: int, size: int) -> None:
    """Asks for much and takes little."""
    answer, writer = await ends.connect(port, window=SIP)
    try:
        writer.write(f"GET /{size} HTTP/1.1\r\nHost: hostile\r\n\r\n".encode())
        line = await answer.readline()
        ends.standing += 1
        while await ends.pause(DRIP):
            data = await answer.read(SIP)
            if not data:
                ends.counts[f"{line.split(b' ')[1].decode()}, then cut off"] += 1
                return
            ends.moved += len(data)
        ends.counts["not cut"] += 1
    except OSError:
        ends.counts["reset"] += 1
    finally:
        writer.transport.abort()


async def idle(ends: Ends, port: int, _size: int) -> None:
    """Asks once, then stays."""
    reader, writer = await ends.connect(port)
    try:
        writer.write(b"GET /100 HTTP/1.1\r\nHost: hostile\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(100)
        ends.standing += 1
        await ends.over.wait()
        ends.counts["closed" if reader.at_eof() else "not cut"] += 1
    finally:
        writer.transport.abort()


async def pipeline(ends: Ends, port: int, size: int) -> None:
    """Sends requests without end and reads none of the answers."""
    _, writer = await ends.connect(port, window=SIP)
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    ends.standing += 1
    request = b"GET /100 HTTP/1.1\r\nHost: hostile\r\n\r\n"
    writer.write(request * (size // len(request)))
    await ends.over.wait()
    left = writer.transport.get_write_buffer_size()
    ends.moved = size - left
    ends.counts["closed" if writer.transport.is_closing() else "held back" if left else "sent in full"] += 1
    writer.transport.abort()


async def up(ends: Ends, port: int, size: int) -> None:
    """Sends one large body as fast as it is taken."""
    reader, writer = await ends.connect(port)
    writer.write(f"POST / HTTP/1.1\r\nHost: hostile\r\nContent-Length: {size}\r\n\r\n".encode())
    ends.standing += 1
    while ends.moved < size:
        piece = BLOCK[: size - ends.moved]
        writer.write(piece)
        await writer.drain()
        ends.moved += len(piece)
    line = await reader.readline()
    ends.counts[line.split(b" ")[1].decode()] += 1
    writer.close()


async def down(ends: Ends, port: int, size: int) -> None:
    """Takes one large body as fast as it comes."""
    loop = asyncio.get_running_loop()
    sock = socket.socket()
    sock.setblocking(False)
    await loop.sock_connect(sock, (HOST, port))
    await loop.sock_sendall(sock, f"GET /{size} HTTP/1.1\r\nHost: hostile\r\n\r\n".encode())
    ends.standing += 1
    buffer = bytearray(len(BLOCK))
    got = await loop.sock_recv_into(sock, buffer)
    status, body = bytes(buffer[9:12]).decode(), got - buffer.index(b"\r\n\r\n") - 4
    while body < size and (got := await loop.sock_recv_into(sock, buffer)):
        body += got
    ends.moved = body
    ends.counts[status if body == size else f"{status}, then cut off"] += 1
    sock.close()


CLIENTS: dict[str, Client] = {
    "drip": drip,
    "upload": upload,
    "reader": reader,
    "idle": idle,
    "pipeline": pipeline,
    "up": up,
    "down": down,
}
#: Those that end by themselves; `seconds` is the most that they may take.
ENDING = ("up", "down")


async def hostile(kind: str, port: int, count: int, size: int, seconds: float) -> None:
    ends = Ends(seconds)
    faults: collections.Counter[str] = collections.Counter()

    async def one(number: int) -> None:
        await asyncio.sleep(number / OPENING)
        try:
            await CLIENTS[kind](ends, port, size)
        except (OSError, EOFError, ValueError, IndexError) as error:
            faults[repr(error)] += 1

    everybody = [asyncio.ensure_future(one(number)) for number in range(count)]
    waited = 0.0
    while ends.standing < count and waited < 30 and not all(task.done() for task in everybody):
        await asyncio.sleep(0.01)
        waited += 0.01
    begun = time.perf_counter()
    say("ready")
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, ends.over.set)
    loop.call_later(seconds, ends.over.set)
    everything = asyncio.gather(*everybody)
    await asyncio.wait([everything, asyncio.ensure_future(ends.over.wait())], return_when=asyncio.FIRST_COMPLETED)
    took = time.perf_counter() - begun
    ends.over.set()
    await asyncio.wait([everything], timeout=5)
    say(
        json.dumps(
            {
                "stood": ends.standing,
                "ends": dict(ends.counts),
                "faults": dict(faults),
                "mib": ends.moved / (1 << 20),
                "seconds": took,
            }
        )
    )


def main(words: list[str]) -> None:
    kind, port, *numbers = words
    if kind not in ("upstream", "ordinary"):
        # Where cores are few, what is timed comes first.
        os.nice(19)
    if kind in ("upstream", "dumping"):
        work = upstream(int(port))
    elif kind == "ordinary":
        work = ordinary(int(port), float(numbers[0]))
    else:
        work = hostile(kind, int(port), int(numbers[0]), int(numbers[1]), float(numbers[2]))
    try:
        import uvloop
    except ImportError:
        asyncio.run(work)
    else:
        uvloop.run(work)


if __name__ == "__main__":
    main(sys.argv[1:])
