"""One client of changes.py that asks all the time, so that the slowest answer shows how long the router stood still.

    python change_pulse.py PORT PATH FILE

Asks every 2 ms on one connection, with a plain blocking socket; each begins when it is due or when the answer before it
came. Prints `ready`; at SIGTERM it writes a line per late answer into FILE, in the form of change_stall.py.
"""

import contextlib
import signal
import socket
import sys
import time
from pathlib import Path

from change_stall import WORTH, Late
from fault_client import HOST, PATIENCE

EVERY = 0.002


def ask(port: int, path: str, seen: list[Late]) -> None:
    """Asks until the process is told to end.

    Raises:
        OSError: the router did not answer, or not with 200.
    """
    with socket.create_connection((HOST, port), PATIENCE) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        request = f"GET {path} HTTP/1.1\r\nHost: pulse\r\n\r\n".encode()
        due = time.monotonic()
        while True:
            time.sleep(max(0.0, due - time.monotonic()))
            sent = time.monotonic()
            sock.sendall(request)
            # One small answer at a time: it comes in one piece, or the router is at fault.
            if not sock.recv(1 << 12).startswith(b"HTTP/1.1 200 "):
                raise OSError("the router did not answer with 200")
            now = time.monotonic()
            if now - sent >= WORTH:
                seen.append(Late(now, now - sent))
            due = max(due + EVERY, now)


def stop(_signum: int, _frame: object) -> None:
    raise KeyboardInterrupt


def main(port: str, path: str, file: str) -> None:
    seen: list[Late] = []
    signal.signal(signal.SIGTERM, stop)
    print("ready", flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        ask(int(port), path, seen)
    Path(file).write_text("".join(f"{late.moment:.6f} {late.seconds:.6f}\n" for late in seen))


if __name__ == "__main__":
    main(*sys.argv[1:])
