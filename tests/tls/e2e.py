"""What the end-to-end tests of TLS are made of: certificate files, clients with TLS, and a server with TLS.

Loaded by `Path`, since tests have no package. The router itself comes from the fixtures of tests/conftest.py.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

#: Seconds after which a test that waits has failed.
PATIENCE = 15.0
#: The name that most tests ask for.
NAME = "www.example.test"
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class Lab:
    """A router with TLS and the files of its certificates, in the folder of its configuration.

    Attributes:
        house: the router (a House or a Process).
        ca: the file that clients verify the router by.
    """

    def __init__(self, house: Any, authority: Any) -> None:
        self.house = house
        self.authority = authority
        self.folder: Path = house.folder
        self.ca = self.put("ca.pem", authority.root)

    @property
    def port(self) -> int:
        return int(self.house.port)

    def put(self, name: str, content: bytes | str, mode: int = 0o600) -> Path:
        """Writes a file beside its place and renames it, as programs that renew certificates do."""
        file = self.folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        draft = file.with_name(f".draft-{file.name}")
        draft.write_bytes(content.encode() if isinstance(content, str) else content)
        draft.chmod(mode)
        draft.rename(file)
        return file

    def pair(self, name: str = "www", *names: str, **more: Any) -> Any:
        """Writes `name`.pem and `name`.key, for NAME if no other names are given."""
        made = self.authority.issue(*(names or (NAME,)), **{"ends": 90 * 86400.0} | more)
        self.put(f"{name}.key", made.key)
        self.put(f"{name}.pem", made.chain)
        return made

    def listener(self, *paths: str, more: str = "", listener: str = "") -> str:
        """The lines of a listener that shows the certificates of these files.

        Args:
            more: further keys within `tls`.
            listener: further lines of the listener.
        """
        listed = json.dumps(list(paths or ("www.pem",)))
        tail = f", {more}" if more else ""
        return f'tls = {{ certificates = [{{ use = "files", paths = {listed} }}]{tail} }}\n{listener}'

    def up(self, *endpoints: str, tls: str = "", **lines: str) -> Lab:
        """Writes the configuration and starts the router. `tls`: keys within the listener's `tls`."""
        if "listener" not in lines:
            if not (self.folder / "www.pem").exists():
                self.pair()
            lines["listener"] = self.listener(more=tls)
        self.house.write(*endpoints, **lines)
        self.house.up()
        return self

    def context(self, *, cert: str = "", alpn: tuple[str, ...] = (), low: Any = None, high: Any = None) -> Any:
        """A client that verifies the router. `cert`: stem of the files of its own certificate."""
        made = ssl.create_default_context(cafile=str(self.ca))
        if cert:
            made.load_cert_chain(self.folder / f"{cert}.pem", self.folder / f"{cert}.key")
        if alpn:
            made.set_alpn_protocols(list(alpn))
        if low is not None:
            made.minimum_version = low
        if high is not None:
            made.maximum_version = high
        return made

    def client(
        self, name: str | None = NAME, context: Any = None, *, session: Any = None, port: int = 0, **more: Any
    ) -> Any:
        """A raw client whose handshake is over. Further arguments: as of `context`."""
        client = self.house.client(("127.0.0.1", port or self.port))
        made = context or self.context(**more)
        # An end without close_notify is an error of its own, not an end.
        client.sock = made.wrap_socket(client.sock, server_hostname=name, session=session, suppress_ragged_eofs=False)
        return client

    def get(self, path: str = "/", *lines: str, **more: Any) -> tuple[int, bytes, bytes]:
        """Status, head and body of one request on a connection of its own."""
        client = self.client(**more)
        found: tuple[int, bytes, bytes] = client.ask(path, "Connection: close", *lines).response()
        client.sock.close()
        return found

    def shown(self, name: str | None = NAME, **more: Any) -> bytes:
        """The certificate that the router shows for a name, in DER, whatever name it is for."""
        context = self.context(**more)
        context.check_hostname = False
        client = self.client(name, context)
        found: bytes = client.sock.getpeercert(True)
        client.sock.close()
        return found

    def refused(self, name: str | None = NAME, context: Any = None, **more: Any) -> str:
        """Why no handshake succeeds; in TLS 1.3 a client learns it only when it reads."""
        with pytest.raises((ssl.SSLError, ConnectionError)) as caught:
            self.client(name, context, **more).ask().until(b"\r\n\r\n")
        return str(caught.value)


def der(pair: Any) -> bytes:
    """The leaf of a pair, in DER."""
    text = pair.chain.decode()
    return ssl.PEM_cert_to_DER_cert(text[: text.index("-----END CERTIFICATE-----") + 26])


def read_all(client: Any) -> None:
    """Reads until the end; raises what ssl raises for one without close_notify."""
    while client.sock.recv(65536):
        pass


def fields(head: bytes, name: str) -> list[str]:
    """The values of a field of a head, in their order."""
    lines = (line.partition(":") for line in head.decode("latin-1").split("\r\n")[1:])
    return [value.strip() for key, _, value in lines if key.lower() == name.lower()]


class SecureServer:
    """A server that speaks TLS, in threads. The path says how it answers.

    Attributes:
        heads: of the requests; `bodies`: of those that had one.
        asked: for each handshake the name that the client asked for.
        shown: for each connection the client's certificate in DER, or None.
        resumed: for each connection whether it took up a session.
        failed: why handshakes failed.
    """

    def __init__(self, pair: Any, folder: Path, *, client_ca: str = "", name: str = "ok", alpn: str = "") -> None:
        self.name = name
        self.heads: list[bytes] = []
        self.bodies: list[bytes] = []
        self.asked: list[str | None] = []
        self.shown: list[bytes | None] = []
        self.resumed: list[bool | None] = []
        self.failed: list[str] = []
        self.protocols: list[str | None] = []
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        if client_ca:
            self._context.verify_mode = ssl.CERT_REQUIRED
            self._context.load_verify_locations(client_ca)
        self._context.set_alpn_protocols(["http/1.1"])
        self._context.sni_callback = lambda _sock, name, _context: self.asked.append(name)  # type: ignore[assignment]
        file = folder / f"server-{id(self)}.pem"
        file.write_bytes(pair.both)
        self._context.load_cert_chain(file)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.url = f"https://127.0.0.1:{self.port}"
        self._open: set[Any] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def accepted(self) -> int:
        return len(self.shown)

    def end(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.close_all()

    def close_all(self) -> None:
        """Closes every connection without a word."""
        for conn in list(self._open):
            with contextlib.suppress(OSError):
                conn.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            try:
                conn, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._begin, args=(conn,), daemon=True).start()

    def _begin(self, plain: socket.socket) -> None:
        plain.settimeout(PATIENCE)
        try:
            conn = self._context.wrap_socket(plain, server_side=True)
        except OSError as error:
            self.failed.append(str(error))
            plain.close()
            return
        self.shown.append(conn.getpeercert(True))
        self.resumed.append(conn.session_reused)
        self.protocols.append(conn.selected_alpn_protocol())
        self._open.add(conn)
        with conn, contextlib.suppress(OSError, EOFError, ValueError):
            self._serve(conn)
        self._open.discard(conn)

    def _serve(self, conn: ssl.SSLSocket) -> None:
        data = b""
        while True:
            while b"\r\n\r\n" not in data:
                data += _more(conn)
            head, _, data = data.partition(b"\r\n\r\n")
            self.heads.append(head)
            length = int((fields(head, "Content-Length") or ["0"])[0])
            while len(data) < length:
                data += _more(conn)
            body, data = data[:length], data[length:]
            if length:
                self.bodies.append(body)
            self._answer(conn, head, body)

    def _answer(self, conn: ssl.SSLSocket, head: bytes, body: bytes) -> None:
        path = head.split(b" ")[1]
        if path == b"/ws":
            accept = base64.b64encode(hashlib.sha1(fields(head, "Sec-WebSocket-Key")[0].encode() + _GUID).digest())
            switch = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            conn.sendall(b"%bSec-WebSocket-Accept: %b\r\n\r\n" % (switch, accept))
            while True:
                conn.sendall(_more(conn))
        if path in (b"/cut", b"/ended"):
            # Without a length: the end of the connection is the end of the body.
            conn.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhalf of it")
            if path == b"/ended":
                conn.unwrap()
            conn.shutdown(socket.SHUT_RDWR)
            raise EOFError
        if path == b"/goodbye":
            conn.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 3\r\n\r\nbye")
            conn.unwrap()
            raise EOFError
        own = b"Strict-Transport-Security: max-age=0\r\n" if path == b"/strict" else b""
        answer = {b"/echo": head, b"/body": body, b"/large": b"0123456789abcdef" * 65536}.get(path)
        if answer is None:
            answer = self.name.encode()
        conn.sendall(b"HTTP/1.1 200 OK\r\n%bContent-Length: %d\r\n\r\n%b" % (own, len(answer), answer))


def _more(conn: socket.socket) -> bytes:
    data = conn.recv(65536)
    if not data:
        raise EOFError
    return data


@pytest.fixture
def lab(house: Any, authority: Any) -> Lab:
    """A router in this process, not yet begun."""
    return Lab(house, authority)


@pytest.fixture
def secure_serve(tmp_path: Path, authority: Any) -> Iterator[Any]:
    """Starts servers with TLS, for 127.0.0.1 unless other names are given."""
    made: list[SecureServer] = []

    def start(*names: str, pair: Any = None, **more: Any) -> SecureServer:
        made.append(SecureServer(pair or authority.issue(*(names or ("127.0.0.1",))), tmp_path, **more))
        return made[-1]

    yield start
    for server in made:
        server.end()
