"""The client that makes handshakes: so many connections, each full and new, each with one request or none.

    python tls_handshakes.py PORT PLAN

PLAN is a Plan as JSON. Prints what came of it, a Made as JSON. It trusts anybody, for its own time is not what is
measured; that a session is resumed would be, so that counts as a failure.
"""

import contextlib
import itertools
import json
import socket
import ssl
import sys
import threading
from collections import Counter
from typing import NamedTuple

HOST = "127.0.0.1"
#: Seconds that one connection may take.
PATIENCE = 10.0
#: The protocol of a connection without TLS.
PLAIN = "plain"


class Plan(NamedTuple):
    """What to do: connections in all, threads that share them, "TLSv1.3", "TLSv1.2" or PLAIN, and the name asked for.

    Without `ask` a connection ends after its handshake.
    """

    count: int
    threads: int
    protocol: str
    name: str
    ask: bool


class Made(NamedTuple):
    """What came of it: good connections, how often each protocol and cipher was agreed on, each failure."""

    good: int
    agreed: dict[str, int]
    failed: dict[str, int]


def context(protocol: str) -> ssl.SSLContext:
    """Promises a client's settings for one protocol alone."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname = False
    made.verify_mode = ssl.CERT_NONE
    made.minimum_version = made.maximum_version = ssl.TLSVersion[protocol.replace(".", "_")]
    return made


def made(port: int, plan: Plan) -> Made:
    """Makes all connections; promises what came of them. Failures are counted, never raised."""
    settings = None if plan.protocol == PLAIN else context(plan.protocol)
    numbers = itertools.count()
    agreed: Counter[str] = Counter()
    failed: Counter[str] = Counter()
    lock = threading.Lock()

    def work() -> None:
        own, bad = Counter[str](), Counter[str]()
        while next(numbers) < plan.count:
            try:
                own[_one(port, plan, settings)] += 1
            except (OSError, ValueError) as error:
                bad[f"{type(error).__name__}: {error}"] += 1
        with lock:
            agreed.update(own)
            failed.update(bad)

    threads = [threading.Thread(target=work) for _ in range(plan.threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return Made(agreed.total(), dict(agreed), dict(failed))


def _one(port: int, plan: Plan, settings: ssl.SSLContext | None) -> str:
    """Promises what was agreed on. Raises OSError or ValueError if it was not all as it should be."""
    with socket.create_connection((HOST, port), PATIENCE) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if settings is None:
            _request(sock, plan.name)
            return PLAIN
        with settings.wrap_socket(sock, server_hostname=plan.name) as wrapped:
            if wrapped.session_reused:
                raise ValueError("the session was resumed")
            cipher = wrapped.cipher()
            agreed = f"{wrapped.version()} {cipher[0] if cipher else '?'}"
            if plan.ask:
                _request(wrapped, plan.name)
            else:
                # Not every server says good-bye after ours.
                with contextlib.suppress(ssl.SSLEOFError, ConnectionError):
                    wrapped.unwrap()
            return agreed


def _request(sock: socket.socket, name: str) -> None:
    sock.sendall(f"GET / HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n".encode())
    answer = b""
    while data := sock.recv(1 << 14):
        answer += data
    head, _, body = answer.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200 ") or not body:
        raise ValueError(f"answered with {head[:40]!r} and {len(body)} bytes")


if __name__ == "__main__":
    words = json.loads(sys.argv[2])
    print(json.dumps(made(int(sys.argv[1]), Plan(**words))._asdict()))
