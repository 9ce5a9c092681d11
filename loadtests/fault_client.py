"""The client of faults.py: a constant load of GET and POST over keep-alive connections, every answer read strictly.

    python fault_client.py PORT LABEL GETS POSTS RATE FILE [HEADER]

GETS and POSTS are connections, RATE the requests per second of each. Prints `ready`, goes on until SIGTERM, lets what
is under way finish and writes one line of JSON per request into FILE. It never repeats a request: what it sees, a
user sees.
"""

import asyncio
import contextlib
import itertools
import json
import re
import signal
import sys
import time
import zlib
from pathlib import Path
from typing import NamedTuple

from fault_servers import body_of

HOST = "127.0.0.1"
#: Seconds after which an answer is said to hang.
PATIENCE = 15
#: Seconds before a connection is tried again after it could not be opened.
AGAIN = 0.05
#: Bytes of the answers' bodies in turn: within one packet, and beyond one read.
SIZES = (200, 3000, 20000)
#: Bytes of a POST's body.
POSTED = 600
_STATUS = re.compile(rb"HTTP/1\.1 ([1-5]\d\d) [^\r\n]*")
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\r\n]*)")
_CHUNK = re.compile(rb"[0-9a-fA-F]{1,8}\r\n")

#: How a request can end. An answer that breaks off in sight is "broken"; one that looks whole but is not the right one
#: is "lying", and none may ever be.
OK, STATUS, BROKEN, LYING, CLOSED, REFUSED, MALFORMED, HANGING = (
    "ok",
    "status",
    "broken",
    "lying",
    "closed",
    "refused",
    "malformed",
    "hanging",
)


class Seen(NamedTuple):
    """One request as the client saw it; moments in seconds of the system's monotonic clock."""

    key: str
    method: str
    connection: int
    #: When it should have been sent, and when it was.
    due: float
    sent: float
    ended: float
    kind: str
    status: int
    server: str


class Answer(NamedTuple):
    """A response whose framing was kept to its end."""

    status: int
    fields: dict[str, str]
    body: bytes
    closes: bool


class Malformed(Exception):
    """What came is no HTTP response, or two at once."""


class Cut(Exception):
    """The connection ended inside a response; `begun` says whether any byte of it had come."""

    def __init__(self, begun: bool) -> None:
        super().__init__()
        self.begun = begun


class Wire:
    """Reads responses off one connection, strictly (RFC 9112 §6 and §7.1)."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader = reader
        self._buffer = b""
        self._begun = False

    async def answer(self) -> Answer:
        """Promises the next response, read to the end that its framing gives.

        Raises:
            Cut: the connection ended before that.
            Malformed: it is no response, or there is something behind it.
        """
        self._begun = False
        head = await self._until(b"\r\n\r\n", 1 << 15)
        first, *lines = head[:-4].split(b"\r\n")
        status = _STATUS.fullmatch(first)
        found = [_FIELD.fullmatch(line) for line in lines]
        if status is None or not all(found):
            raise Malformed
        pairs = [(field[1].decode().lower(), field[2].decode("latin-1").strip()) for field in found if field]
        fields = dict(pairs)
        framing = [name for name, _ in pairs if name in ("content-length", "transfer-encoding")]
        if len(framing) != 1:
            raise Malformed
        if framing == ["transfer-encoding"]:
            body = await self._chunks()
        else:
            body = await self._exactly(int(fields["content-length"]))
        if self._buffer:
            raise Malformed
        return Answer(int(status[1]), fields, body, fields.get("connection", "").lower() == "close")

    async def _chunks(self) -> bytes:
        pieces: list[bytes] = []
        while True:
            line = await self._until(b"\r\n", 64)
            if not _CHUNK.fullmatch(line):
                raise Malformed
            size = int(line, 16)
            piece = await self._exactly(size + 2)
            if piece[size:] != b"\r\n":
                raise Malformed
            if not size:
                return b"".join(pieces)
            pieces.append(piece[:size])

    async def _until(self, end: bytes, most: int) -> bytes:
        while end not in self._buffer:
            if len(self._buffer) > most:
                raise Malformed
            await self._more()
        whole, _, self._buffer = self._buffer.partition(end)
        return whole + end

    async def _exactly(self, size: int) -> bytes:
        while len(self._buffer) < size:
            await self._more()
        whole, self._buffer = self._buffer[:size], self._buffer[size:]
        return whole

    async def _more(self) -> None:
        try:
            data = await self._reader.read(1 << 16)
        except OSError:
            data = b""
        if not data:
            raise Cut(self._begun)
        self._begun = True
        self._buffer += data


class Load:
    """Everything that one process of this file does.

    Args:
        rate: requests per second of a connection.
        field: a header line that every request carries besides, with its end.
        most: requests after which it ends by itself; 0 for none.
    """

    def __init__(self, port: int, label: str, rate: float, field: str = "", most: int = 0) -> None:
        self.port = port
        self.label = label
        self.pause = 1 / rate
        self.field = field
        self.most = most
        self.stop = asyncio.Event()
        self.seen: list[Seen] = []
        self._numbers = itertools.count()

    async def connection(self, number: int, method: str, first: float) -> None:
        """One client connection, opened anew after each end, with a request every `pause` seconds."""
        stream: tuple[Wire, asyncio.StreamWriter] | None = None
        due = first
        while True:
            # Waking late is this process's fault; only an answer that is late delays the start of those behind it.
            in_time = due > time.monotonic()
            if await self._wait(due - time.monotonic()):
                break
            key = f"{self.label}.{next(self._numbers)}"
            sent = time.monotonic()
            due = sent if in_time else due
            try:
                if stream is None:
                    reader, writer = await asyncio.open_connection(HOST, self.port)
                    stream = (Wire(reader), writer)
                kind, answer = await self._ask(*stream, method, key)
            except OSError:
                kind, answer = REFUSED, None
            server = answer.fields.get("x-fault-server", "") if answer else ""
            status = answer.status if answer else 0
            self.seen.append(Seen(key, method, number, due, sent, time.monotonic(), kind, status, server))
            if len(self.seen) == self.most:
                self.stop.set()
            if stream is not None and (answer is None or answer.closes):
                stream[1].transport.abort()
                stream = None
            due = due + self.pause if kind != REFUSED else time.monotonic() + AGAIN
        if stream is not None:
            stream[1].transport.abort()

    async def _wait(self, seconds: float) -> bool:
        """Waits, and says whether it is all over."""
        if seconds > 0 and not self.stop.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.stop.wait(), seconds)
        return self.stop.is_set()

    async def _ask(self, wire: Wire, writer: asyncio.StreamWriter, method: str, key: str) -> tuple[str, Answer | None]:
        size = SIZES[zlib.crc32(key.encode()) // 7 % len(SIZES)]
        body = body_of(key, POSTED) if method == "POST" else b""
        length = f"Content-Length: {len(body)}\r\n" if body else ""
        head = f"{method} /{size} HTTP/1.1\r\nHost: fault\r\nX-Fault-Key: {key}\r\n{self.field}{length}\r\n"
        writer.write(head.encode() + body)
        try:
            async with asyncio.timeout(PATIENCE):
                answer = await wire.answer()
        except TimeoutError:
            return HANGING, None
        except Malformed:
            return MALFORMED, None
        except Cut as cut:
            return BROKEN if cut.begun else CLOSED, None
        if answer.status != 200:
            return STATUS, answer
        right = answer.body == body_of(key, size) and answer.fields.get("x-fault-posted") == str(zlib.crc32(body))
        return (OK if right else LYING), answer


async def run(port: int, label: str, gets: int, posts: int, rate: float, field: str) -> list[Seen]:
    load = Load(port, label, rate, field)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, load.stop.set)
    methods = ["GET"] * gets + ["POST"] * posts
    start = time.monotonic() + 0.02
    everybody = [
        asyncio.ensure_future(load.connection(number, method, start + load.pause * number / len(methods)))
        for number, method in enumerate(methods)
    ]
    print("ready", flush=True)
    await asyncio.gather(*everybody)
    return load.seen


def main(words: list[str]) -> None:
    port, label, gets, posts, rate, file, *field = words
    seen = asyncio.run(run(int(port), label, int(gets), int(posts), float(rate), f"{field[0]}\r\n" if field else ""))
    Path(file).write_text("".join(json.dumps(each) + "\n" for each in seen))


if __name__ == "__main__":
    main(sys.argv[1:])
