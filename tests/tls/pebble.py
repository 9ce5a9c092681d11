"""Pebble, an ACME server for tests, on ports of its own on loopback, with names that lead to loopback."""

from __future__ import annotations

import asyncio
import functools
import json
import os
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

__all__ = ["Answers", "Pebble", "Proxy", "answers", "free_port", "needs_pebble", "pebble", "self_made"]

needs_pebble = pytest.mark.skipif(
    not (shutil.which("pebble") and shutil.which("pebble-challtestsrv")),
    reason="pebble is not installed (Debian's package pebble)",
)
#: Seconds until a server that was started has to listen.
_PATIENCE = 10.0


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@functools.cache
def self_made(
    name: str = "localhost", begins: float = -3600.0, ends: float = 86400.0, rsa: bool = False
) -> tuple[bytes, bytes]:
    """A certificate that vouches for itself, and its key, as PEM. `begins`, `ends`: seconds from now."""
    from cryptography.hazmat.primitives.asymmetric import rsa as kinds

    key: Any = kinds.generate_private_key(65537, 2048) if rsa else ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + timedelta(seconds=begins))
        .not_valid_after(now + timedelta(seconds=ends))
        .add_extension(
            x509.SubjectAlternativeName([x509.DNSName(name), x509.IPAddress(ip_address("127.0.0.1"))]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, SHA256())
    )
    return made.public_bytes(Encoding.PEM), key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


class Pebble:
    """One server and its name server.

    Attributes:
        url: of its directory.
        ca: the file to trust for it.
        http_port: where it looks for the answers to http-01.
        log: what it has written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port, self.http_port, self._dns, self._manage = (free_port() for _ in range(4))
        self.url = f"https://localhost:{self.port}/dir"
        self.ca = folder / "ca.pem"
        self._log = folder / "pebble.log"
        self._processes: list[subprocess.Popen[bytes]] = []

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def start(self, *, env: dict[str, str] | None = None, **config: Any) -> None:
        """Starts both; everything that the server knew is forgotten.

        Args:
            env: as {"PEBBLE_WFE_NONCEREJECT": "50"}.
            config: keys of its configuration file, as certificateValidityPeriod in seconds.
        """
        chain, key = self_made()
        self.ca.write_bytes(chain)
        (self.folder / "key.pem").write_bytes(key)
        table = {
            "listenAddress": f"127.0.0.1:{self.port}",
            "managementListenAddress": "",
            "certificate": str(self.ca),
            "privateKey": str(self.folder / "key.pem"),
            "httpPort": self.http_port,
            "tlsPort": free_port(),
            "ocspResponderURL": "",
            "externalAccountBindingRequired": False,
        }
        written = self.folder / "pebble.json"
        written.write_text(json.dumps({"pebble": table | config}))
        names = [f"-dns01=127.0.0.1:{self._dns}", f"-management=127.0.0.1:{self._manage}", "-defaultIPv6="]
        self._run(["pebble-challtestsrv", *names, "-http01=", "-https01=", "-tlsalpn01="], {})
        settings = {"PEBBLE_VA_NOSLEEP": "1", "PEBBLE_WFE_NONCEREJECT": "0", "PEBBLE_AUTHZREUSE": "0"}
        command = ["pebble", "-config", str(written), "-dnsserver", f"127.0.0.1:{self._dns}"]
        self._run(command, settings | (env or {}))
        for port in (self.port, self._manage):
            _listens(port)

    def stop(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait()
        self._processes.clear()

    def _run(self, command: list[str], env: dict[str, str]) -> None:
        with self._log.open("ab") as log:
            self._processes.append(
                subprocess.Popen(command, env=os.environ | env, stdout=log, stderr=log, cwd=self.folder)
            )


@contextmanager
def pebble(folder: Path, *, env: dict[str, str] | None = None, **config: Any) -> Iterator[Pebble]:
    folder.mkdir(exist_ok=True)
    made = Pebble(folder)
    try:
        made.start(env=env, **config)
        yield made
    finally:
        made.stop()


class Answers:
    """What the router does with `challenges`: answers their paths on a plain port.

    Attributes:
        asked: (path, status) of each request.
    """

    def __init__(self) -> None:
        self.challenges: dict[str, bytes] = {}
        self.asked: list[tuple[str, int]] = []


@contextmanager
def answers(port: int) -> Iterator[Answers]:
    made = Answers()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = made.challenges.get(self.path)
            status = 404 if body is None else 200
            made.asked.append((self.path, status))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body or b"")

        def log_message(self, format: str, *args: Any) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield made
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Proxy:
    """Stands before a directory and sees each request; what `hold` says of one may keep it from its answer.

    It ends TLS on both sides, so `hold` sees method and path. Pebble's URLs follow the Host field, so all go through.

    Attributes:
        url: of the directory, through here.
        seen: "METHOD path" of each request, in order.
        hold: called with that text: "pass", "cut" (sent on, but the answer never comes back), "stall", or the bytes
            of an answer.
    """

    def __init__(self, behind: Pebble) -> None:
        self._behind = behind
        self._server: asyncio.Server | None = None
        self._open: dict[asyncio.Task[Any], asyncio.StreamWriter] = {}
        self.seen: list[str] = []
        self.url = ""
        self.hold: Any = lambda text: "pass"

    async def __aenter__(self) -> Proxy:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(self._behind.ca, self._behind.folder / "key.pem")
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, ssl=tls)
        self.url = f"https://localhost:{self._server.sockets[0].getsockname()[1]}/dir"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for writer in self._open.values():
            writer.transport.abort()
        if self._open:
            await asyncio.wait(list(self._open))

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._open[task] = writer
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = next((int(x[15:]) for x in head.lower().split(b"\r\n") if x.startswith(b"content-length:")), 0)
            body = await reader.readexactly(length)
            text = " ".join(head.decode().split(" ")[:2])
            self.seen.append(text)
            said = self.hold(text)
            if said == "stall":
                await reader.read()
                return
            answer = said if isinstance(said, bytes) else await self._ask(head + body)
            if said != "cut":
                writer.write(answer)
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
            pass
        finally:
            writer.close()
            del self._open[task]

    async def _ask(self, request: bytes) -> bytes:
        tls = ssl.create_default_context(cafile=self._behind.ca)
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", self._behind.port, ssl=tls, server_hostname="localhost"
        )
        writer.write(request)
        answer = await reader.read()
        writer.close()
        return answer


def _listens(port: int) -> None:
    until = time.monotonic() + _PATIENCE
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            assert time.monotonic() < until, f"nothing listens on port {port}"
            time.sleep(0.01)
