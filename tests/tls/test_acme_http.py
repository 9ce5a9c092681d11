"""One request to an ACME server: what is refused, what bounds it, and that `stop` ends it wherever it is."""

from __future__ import annotations

import importlib.util
import socket
import ssl
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from email.utils import formatdate
from pathlib import Path
from time import time
from types import ModuleType

import pytest
from requests import Request, Response
from router_tls import acme_http
from router_tls.acme_http import Line
from router_tls.acme_trouble import AcmeError


def helper(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"tls_{name}", Path(__file__).with_name(f"{name}.py"))
    assert spec
    assert spec.loader
    made = sys.modules[f"tls_{name}"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


self_made = helper("pebble").self_made
#: Seconds after which a test that waits has failed.
PATIENCE = 5.0


class Server:
    """Accepts one connection at a time; `says` is what it sends after a request.

    Attributes:
        heads: of the requests.
        reached: set when a connection stands, and when a request is there.
    """

    def __init__(self, folder: Path, says: bytes | None, certificate: tuple[bytes, bytes], mute: bool) -> None:
        (folder / "ca.pem").write_bytes(certificate[0])
        (folder / "both.pem").write_bytes(b"".join(certificate))
        self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.tls.load_cert_chain(folder / "both.pem")
        self.trust = ssl.create_default_context(cafile=folder / "ca.pem")
        self.says = says
        self.mute = mute
        self.heads: list[bytes] = []
        self.connected, self.reached = threading.Event(), threading.Event()
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"https://localhost:{self.listening.getsockname()[1]}/dir?a=b"

    def run(self) -> None:
        with suppress(OSError):
            while True:
                plain, _ = self.listening.accept()
                with plain, suppress(OSError):
                    self.connected.set()
                    plain.settimeout(PATIENCE)
                    self.serve(plain)

    def serve(self, plain: socket.socket) -> None:
        if self.mute:
            while plain.recv(1000):
                pass
            return
        with self.tls.wrap_socket(plain, server_side=True) as wrapped:
            head = b""
            while b"\r\n\r\n" not in head:
                head += wrapped.recv(1000)
            if b"Content-Length: 4" in head and not head.endswith(b"sent"):
                head += wrapped.recv(4)
            self.heads.append(head)
            self.reached.set()
            if self.says is None:
                wrapped.recv(1)
            else:
                wrapped.sendall(self.says)


@contextmanager
def server(
    folder: Path, says: bytes | None, certificate: tuple[bytes, bytes] | None = None, mute: bool = False
) -> Iterator[Server]:
    made = Server(folder, says, certificate or self_made(), mute)
    thread = threading.Thread(target=made.run)
    thread.start()
    try:
        yield made
    finally:
        with suppress(OSError):
            made.listening.shutdown(socket.SHUT_RDWR)
        made.listening.close()
        thread.join(PATIENCE)
        assert not thread.is_alive()


def ask(line: Line, url: str, body: bytes | None = None) -> Response:
    return line.send(Request("POST" if body else "GET", url, data=body, headers={"X-One": "two"}).prepare())


def fault(line: Line, url: str) -> str:
    with pytest.raises(AcmeError) as caught:
        ask(line, url)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300
    return str(caught.value)


def answer(status: str = "200 OK", *fields: str, body: bytes = b"{}") -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *fields, "", ""]).encode() + body


def test_an_answer_comes_whole(tmp_path: Path) -> None:
    with server(tmp_path, answer("404 No", "Replay-Nonce: n", body=b'{"a": 1}')) as there:
        line = Line(there.trust)
        got = ask(line, there.url, b"sent")
    assert (got.status_code, got.ok, got.json(), got.headers["replay-nonce"]) == (404, False, {"a": 1}, "n")
    assert there.heads[0].startswith(b"POST /dir?a=b HTTP/1.1\r\nHost: localhost:")
    assert b"X-One: two\r\n" in there.heads[0]
    assert (line.status, line.wait) == (404, 0)


@pytest.mark.parametrize(
    ("field", "least", "most"),
    [
        ("120", 120, 120),
        ("date +36000", 30000, 36000),
        ("date -600", 0, 0),
        ("soon", 0, 0),
        ("-5", 0, 0),
        ("9" * 50, 0, 0),
        ("Thu, 99 Foo 99999 00:00:00 GMT", 0, 0),
    ],
)
def test_what_it_asks_to_wait(tmp_path: Path, field: str, least: float, most: float) -> None:
    if field.startswith("date "):
        field = formatdate(time() + float(field[5:]), usegmt=True)
    with server(tmp_path, answer("503 Later", f"Retry-After: {field}")) as there:
        line = Line(there.trust)
        ask(line, there.url)
        assert least <= line.wait <= most


def test_what_is_too_large_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acme_http, "_MOST_BYTES", 1 << 20)
    endless = b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * (3 << 20)
    with server(tmp_path, endless) as there:
        assert "larger than 1 MiB" in fault(Line(there.trust), there.url)


@pytest.mark.parametrize(
    ("says", "words"),
    [
        (b"\x1b[31m no HTTP \r\n\r\n", "no HTTP answer"),
        (b"", "no connection"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort", "no HTTP answer"),
        (b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 200 + b"\r\n", "no HTTP answer"),
        (answer("302 Found", "Location: https://elsewhere.test/"), "redirects"),
    ],
)
def test_what_is_no_answer(tmp_path: Path, says: bytes, words: str) -> None:
    with server(tmp_path, says) as there:
        assert words in fault(Line(there.trust), there.url)


def test_only_tls_is_spoken() -> None:
    line = Line(ssl.create_default_context())
    prepared = Request("GET", "https://localhost/").prepare()
    for url in ("http://localhost:1/dir", "ftp://localhost/", "https:///dir"):
        prepared.url = url
        with pytest.raises(AcmeError, match="not https"):
            line.send(prepared)


def test_nobody_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    assert "connection refused" in fault(Line(ssl.create_default_context()), f"https://127.0.0.1:{port}/dir")


def test_an_unknown_authority_is_refused_with_the_remedy(tmp_path: Path) -> None:
    with server(tmp_path, answer()) as there:
        assert "named in ca" in fault(Line(ssl.create_default_context()), there.url)


def test_another_name_is_refused(tmp_path: Path) -> None:
    with server(tmp_path, answer(), self_made("other.test")) as there:
        assert "mismatch" in fault(Line(there.trust), there.url)


@pytest.mark.parametrize("dates", [(-7200.0, -3600.0), (3600.0, 7200.0)])
def test_dates_that_do_not_fit_make_one_think_of_the_clock(tmp_path: Path, dates: tuple[float, float]) -> None:
    with server(tmp_path, answer(), self_made("localhost", *dates)) as there:
        assert "clock" in fault(Line(there.trust), there.url)


def test_silence_is_waited_for_in_vain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acme_http, "_PATIENCE", 0.05)
    with server(tmp_path, None) as there:
        assert "no answer within 0.05 s" in fault(Line(there.trust), there.url)
    with server(tmp_path, None, mute=True) as there:
        assert "no answer within 0.05 s" in fault(Line(there.trust), there.url)


@pytest.mark.parametrize("where", ["handshake", "answer"])
def test_stop_ends_what_is_under_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    monkeypatch.setattr(acme_http, "_PATIENCE", 100 * PATIENCE)
    with server(tmp_path, None, mute=where == "handshake") as there:
        line = Line(there.trust)
        said: list[str] = []
        asking = threading.Thread(target=lambda: said.append(fault(line, there.url)))
        asking.start()
        waited: Callable[[float], bool] = (there.connected if where == "handshake" else there.reached).wait
        assert waited(PATIENCE)
        # The connection stands before the line knows of it.
        while not line._socket and asking.is_alive():
            threading.Event().wait(0.001)
        line.stop()
        asking.join(PATIENCE)
        assert not asking.is_alive()
    assert len(said) == 1


def test_nothing_is_asked_after_stop(tmp_path: Path) -> None:
    with server(tmp_path, answer()) as there:
        line = Line(there.trust)
        line.stop()
        line.stop()
        assert "stopped" in fault(line, there.url)
        assert there.heads == []
