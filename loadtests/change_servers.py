"""The servers of changes.py: several in one process, each with a name, an address and a WebSocket that echoes.

    python change_servers.py JOURNAL SECONDS NAME=ADDRESS:PORT...

What they answer and note is that of fault_servers.py. Besides, a request whose key begins with `slow` gets its body in
pieces over SECONDS, and TUNNEL is a WebSocket. Prints `ready` once all listen; SIGTERM ends them.
"""

import asyncio
import base64
import hashlib
import os
import signal
import sys

from fault_servers import ANSWERS, Connection, Ended, Request, Server, ok, slow_body

#: Where the WebSocket is.
TUNNEL = "/tunnel"
#: What the keys of requests begin with whose answers take their time.
SLOW = "slow"
#: Every client of this bench sends this key, so every handshake has the same answer (RFC 6455 §4.2.2).
KEY = base64.b64encode(b"changes.py bench").decode()
ACCEPT = base64.b64encode(hashlib.sha1(f"{KEY}258EAFA5-E914-47DA-95CA-C5AB0DC85B11".encode()).digest()).decode()
#: First bytes of whole frames (RFC 6455 §5.2).
TEXT, CLOSE = 0x81, 0x88
_MODE = "change"


def framed(opcode: int, payload: bytes, mask: bytes = b"") -> bytes:
    """Promises a frame of at most 125 bytes, masked if a mask of four bytes is given."""
    assert len(payload) < 126
    return bytes([opcode, len(payload) | (0x80 if mask else 0)]) + mask + masked(payload, mask or bytes(4))


def masked(payload: bytes, mask: bytes) -> bytes:
    return bytes(byte ^ mask[place % 4] for place, byte in enumerate(payload))


def handshake(name: str) -> bytes:
    """Promises the head that agrees to a WebSocket."""
    lines = (
        "HTTP/1.1 101 Switching Protocols",
        "Connection: Upgrade",
        "Upgrade: websocket",
        f"Sec-WebSocket-Accept: {ACCEPT}",
        f"X-Fault-Server: {name}",
    )
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


async def echo(connection: Connection) -> None:
    """Sends every frame back, until one says that it is over."""
    await connection.write(handshake(connection.server.name))
    loop, buffer = asyncio.get_running_loop(), b""
    while True:
        while len(buffer) < 6 or len(buffer) < 6 + (buffer[1] & 127):
            data = await loop.sock_recv(connection.sock, 1 << 12)
            if not data:
                raise Ended
            buffer += data
        end = 6 + (buffer[1] & 127)
        await connection.write(framed(buffer[0], masked(buffer[6:end], buffer[2:6])))
        if buffer[0] == CLOSE:
            raise Ended
        buffer = buffer[end:]


async def answer(connection: Connection, request: Request) -> None:
    if request.path == TUNNEL:
        await echo(connection)
    await (slow_body if request.key.startswith(SLOW) else ok)(connection, request)


ANSWERS[_MODE] = answer


async def main(journal: str, seconds: str, *names: str) -> None:
    handle = os.open(journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    servers = []
    for each in names:
        name, _, address = each.partition("=")
        host, _, port = address.partition(":")
        servers.append(Server(name, handle, [(host, int(port))]))
        await servers[-1].turn(_MODE, float(seconds))
    print("ready", flush=True)
    await stop.wait()
    await asyncio.gather(*(server.end() for server in servers))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
