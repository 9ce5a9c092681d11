"""A receiver of OTLP over HTTP that hardly costs anything while requests come: it keeps bodies, and reads them later.

    python tracing_receiver.py PORT FILE [MODE]

Prints `ready` once it listens. `PUT /mode/MODE` turns it: `answer` takes every body, `refuse` answers with 503, `hang`
reads and never answers. `GET /told` has it read what came so far: a line of JSON per span goes to the end of FILE
("-": spans are only counted), and what came in all is told. SIGTERM ends it after the same.
"""

import asyncio
import gzip
import json
import re
import signal
import sys
import zlib
from pathlib import Path
from typing import NamedTuple, cast

import tracing_spans
import uvloop
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

ANSWER, REFUSE, HANG = "answer", "refuse", "hang"
HOST = "127.0.0.1"
#: What an exporter of this bench sends at most.
MOST = 64 << 20
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)
_PACKED = re.compile(rb"\r\ncontent-encoding: *gzip\r\n", re.IGNORECASE)
_TAKEN = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-protobuf\r\nContent-Length: 0\r\n\r\n"
_REFUSED = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"


class Told(NamedTuple):
    """What came in all; bodies that were refused or never answered are not among `bodies`, nor are their spans."""

    spans: int
    bodies: int
    size: int
    malformed: int
    refused: int
    hung: int


class Receiver:
    """What came, and how the next one is answered."""

    def __init__(self, file: str, mode: str = ANSWER) -> None:
        self.mode = mode
        self.told = Told(0, 0, 0, 0, 0, 0)
        self._file = None if file == "-" else Path(file)
        self._waiting: list[tuple[bytes, bool]] = []

    def take(self, body: bytes, packed: bool) -> bytes:
        """Promises the answer to a body; b"" where there is none."""
        if self.mode == REFUSE:
            self.told = self.told._replace(refused=self.told.refused + 1)
            return _REFUSED
        if self.mode == HANG:
            self.told = self.told._replace(hung=self.told.hung + 1)
            return b""
        self._waiting.append((body, packed))
        return _TAKEN

    def turn(self, mode: str) -> bool:
        """Promises whether there is such a mode, which then holds."""
        if mode not in (ANSWER, REFUSE, HANG):
            return False
        self.mode = mode
        return True

    def read(self) -> Told:
        """Reads what came since the last time; promises what came in all."""
        bodies, self._waiting = self._waiting, []
        lines: list[str] = []
        spans = malformed = 0
        for body, packed in bodies:
            try:
                message = tracing_spans.parsed(gzip.decompress(body) if packed else body)
            except (DecodeError, OSError, EOFError, zlib.error):
                malformed += 1
                continue
            spans += tracing_spans.counted(message)
            if self._file:
                lines += [json.dumps(span) + "\n" for span in tracing_spans.spans_of(message)]
        if self._file:
            with self._file.open("a") as file:
                file.writelines(lines)
        told = self.told
        self.told = told._replace(
            spans=told.spans + spans,
            bodies=told.bodies + len(bodies),
            size=told.size + sum(len(body) for body, _ in bodies),
            malformed=told.malformed + malformed,
        )
        return self.told


class Connection(asyncio.Protocol):
    """Reads requests with a Content-Length, one after the other."""

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._buffer = bytearray()
        #: Bytes of the head and of the whole request that is under way; 0 before the head is there.
        self._head = self._whole = 0
        self._transport: asyncio.WriteTransport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are of no class of asyncio's.
        self._transport = cast(asyncio.WriteTransport, transport)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while self._measure() and len(self._buffer) >= self._whole:
            head, body = bytes(self._buffer[: self._head]), bytes(self._buffer[self._head : self._whole])
            del self._buffer[: self._whole]
            self._head = self._whole = 0
            self._transport.write(self._answer(head, body))

    def _measure(self) -> bool:
        """Whether the head of the next request is there; a request that cannot be one ends the connection."""
        if self._whole:
            return True
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return False
        self._head = end + 4
        length = _LENGTH.search(self._buffer, 0, self._head)
        self._whole = self._head + (int(length[1]) if length else 0)
        if self._whole > MOST or b"\r\ntransfer-encoding:" in self._buffer[: self._head].lower():
            self._transport.abort()
            self._buffer.clear()
            self._head = self._whole = 0
            return False
        return True

    def _answer(self, head: bytes, body: bytes) -> bytes:
        method, path = head.split(b" ", 2)[:2]
        if method == b"POST":
            return self._receiver.take(body, _PACKED.search(head) is not None)
        if method == b"PUT":
            known = self._receiver.turn(path.decode("latin-1").rpartition("/")[2])
            return _answer_with(200 if known else 400, b"")
        return _answer_with(200, json.dumps(self._receiver.read()._asdict()).encode())


def _answer_with(status: int, body: bytes) -> bytes:
    return f"HTTP/1.1 {status} -\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


async def serve(port: int, receiver: Receiver) -> None:
    """Serves until SIGTERM."""
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    server = await loop.create_server(lambda: Connection(receiver), HOST, port)
    print("ready", flush=True)
    await stop.wait()
    server.close()
    receiver.read()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), Receiver(*sys.argv[2:4])))
