"""curl and httpx through a real `router run`: what people actually use, against a real process."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

PATIENCE = 20.0
BIG = 24 << 20

needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    slow_asked = threading.Event()
    slow_go_on = threading.Event()
    peers: set[Any] = set()

    def log_message(self, *args: Any) -> None: ...

    def do_GET(self) -> None:
        self.peers.add(self.client_address)
        if self.path == "/big":
            self._whole(b"0123456789abcdef" * (BIG // 16))
        elif self.path == "/chunked":
            self._chunked()
        elif self.path == "/slow":
            self.slow_asked.set()
            self.slow_go_on.wait(PATIENCE)
            self._whole(b"finished")
        elif self.path == "/trickle":
            self.send_response(200)
            self.send_header("Content-Length", "8")
            self.end_headers()
            self.wfile.write(b"fini")
            self.slow_asked.set()
            self.slow_go_on.wait(PATIENCE)
            self.wfile.write(b"shed")
        else:
            self._whole(f"{self.command} {self.path}".encode())

    do_HEAD = do_GET  # noqa: N815

    def do_POST(self) -> None:
        length = self.headers["Content-Length"]
        if length is None:
            size = 0
            while piece := int(self.rfile.readline(), 16):
                size += len(self.rfile.read(piece))
                self.rfile.readline()
            self.rfile.readline()
        else:
            size = len(self.rfile.read(int(length)))
        self._whole(f"took {size}".encode())

    do_PUT = do_POST  # noqa: N815

    def _whole(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Set-Cookie", "a=1")
        self.send_header("Set-Cookie", "b=2")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _chunked(self) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for number in range(50):
            piece = b"%d," % number * 100
            self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        self.wfile.write(b"0\r\n\r\n")


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None: ...


class Router:
    """A `router run` under way."""

    def __init__(self, file: Path, port: int) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.process = subprocess.Popen(
            [sys.executable, "-m", "router", "run", str(file)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, "NO_COLOR": "1"},
        )
        os.set_blocking(self.process.stdout.fileno(), False)  # type: ignore[union-attr]
        self.said = b""
        wait(lambda: b"open files" in self.read() or self.process.poll() is not None)

    def read(self) -> bytes:
        self.said += self.process.stdout.read() or b""  # type: ignore[union-attr]
        return self.said

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(PATIENCE)

    def refuses(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=5).close()
        except ConnectionRefusedError:
            return True
        return False


def wait(holds: Callable[[], Any]) -> None:
    end = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < end, "never came true"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def upstream() -> Iterator[str]:
    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    Handler.slow_go_on.set()
    server.shutdown()
    server.server_close()
    thread.join(PATIENCE)


def configuration(folder: Path, upstream: str) -> tuple[Path, int]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    file = folder / "router.toml"
    file.write_text(
        f'[[listeners]]\nbind = "127.0.0.1:{port}"\n[[routes]]\npool = "web"\n'
        f'[[pools]]\nname = "web"\nendpoints = ["{upstream}"]\n'
    )
    return file, port


def start(folder: Path, upstream: str) -> Iterator[Router]:
    router = Router(*configuration(folder, upstream))
    assert router.process.poll() is None, router.read()
    yield router
    if router.process.poll() is None:
        router.process.kill()
        router.process.wait(PATIENCE)
    router.process.stdout.close()  # type: ignore[union-attr]


@pytest.fixture(scope="module")
def shared(upstream: str, tmp_path_factory: Any) -> Iterator[Router]:
    yield from start(tmp_path_factory.mktemp("router"), upstream)


@pytest.fixture
def own(upstream: str, tmp_path: Path) -> Iterator[Router]:
    Handler.slow_asked.clear()
    Handler.slow_go_on.clear()
    yield from start(tmp_path, upstream)
    Handler.slow_go_on.set()


def curl(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        ["curl", "-sS", "-m", str(PATIENCE), *arguments], capture_output=True, timeout=PATIENCE + 5, check=False
    )


# curl


@needs_curl
def test_curl_gets(shared: Router) -> None:
    result = curl("-i", f"{shared.url}/hello?a=b")
    head, _, body = result.stdout.partition(b"\r\n\r\n")
    assert (result.returncode, body) == (0, b"GET /hello?a=b")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert head.count(b"Set-Cookie: ") == 2


@needs_curl
def test_curl_head(shared: Router) -> None:
    result = curl("-I", f"{shared.url}/big")
    assert result.returncode == 0
    assert b"Content-Length: %d" % BIG in result.stdout


@needs_curl
def test_curl_over_http_1_0(shared: Router) -> None:
    for path in ("/hello", "/chunked"):
        result = curl("--http1.0", shared.url + path)
        assert result.returncode == 0
        assert len(result.stdout) > 5
        assert b"\r\n" not in result.stdout


@needs_curl
def test_curl_downloads(shared: Router, tmp_path: Path) -> None:
    result = curl("-o", str(tmp_path / "big"), f"{shared.url}/big")
    assert result.returncode == 0
    assert (tmp_path / "big").read_bytes() == b"0123456789abcdef" * (BIG // 16)


@needs_curl
@pytest.mark.parametrize("framing", [[], ["-H", "Transfer-Encoding: chunked"]])
@pytest.mark.parametrize("expect", [[], ["-H", "Expect: 100-continue"], ["-H", "Expect:"]])
def test_curl_uploads(shared: Router, tmp_path: Path, framing: list[str], expect: list[str]) -> None:
    file = tmp_path / "up"
    file.write_bytes(b"u" * (10 << 20))
    result = curl("-T", str(file), *framing, *expect, f"{shared.url}/up")
    assert (result.returncode, result.stdout) == (0, b"took %d" % (10 << 20))


@needs_curl
def test_curl_keeps_its_connection(shared: Router) -> None:
    result = curl("-w", "%{num_connects}", *[f"{shared.url}/{n}" for n in range(3)])
    assert result.stdout == b"GET /01GET /10GET /20"


@needs_curl
def test_curl_stops_in_the_middle(shared: Router) -> None:
    result = curl("--range", "0-", "--max-filesize", "1000", f"{shared.url}/big")
    assert result.returncode == 63
    assert curl(f"{shared.url}/after").stdout == b"GET /after"


@needs_curl
def test_curl_does_not_touch_the_path(shared: Router) -> None:
    assert curl("--path-as-is", f"{shared.url}/a%2Fb/../c?x%20y").stdout == b"GET /a%2Fb/../c?x%20y"


# httpx


def test_httpx_gets_posts_and_heads(shared: Router) -> None:
    with httpx.Client(base_url=shared.url, timeout=PATIENCE, trust_env=False) as client:
        assert client.get("/a", params={"q": "ü"}).text == "GET /a?q=%C3%BC"
        assert client.post("/p", content=b"x" * 1000).text == "took 1000"
        assert client.post("/p", content=(b"y" * 1000 for _ in range(20))).text == "took 20000"
        head = client.head("/big")
        assert (head.headers["Content-Length"], head.content) == (str(BIG), b"")
        assert client.get("/a").headers.get_list("Set-Cookie") == ["a=1", "b=2"]
        assert len(client.get("/big").content) == BIG
        assert client.get("/chunked").text == "".join(f"{n}," * 100 for n in range(50))


async def test_httpx_with_many_requests_at_once(shared: Router) -> None:
    async with httpx.AsyncClient(base_url=shared.url, timeout=PATIENCE, trust_env=False) as client:
        answers = await asyncio.gather(*(client.get(f"/{n}") for n in range(60)))
    assert [answer.text for answer in answers] == [f"GET /{n}" for n in range(60)]


def test_upstream_connections_are_kept(shared: Router) -> None:
    Handler.peers.clear()
    with httpx.Client(base_url=shared.url, timeout=PATIENCE, trust_env=False) as client:
        for number in range(30):
            assert client.get(f"/{number}").status_code == 200
    assert len(Handler.peers) == 1


# Start and end


def test_start_says_what_it_serves(own: Router) -> None:
    lines = own.read().decode().splitlines()
    assert any(line.startswith("listener ") and f"127.0.0.1:{own.port}" in line for line in lines)
    assert any(line.startswith("pool web: 1 endpoint, least_request") for line in lines)
    assert any(line.startswith("plugin selection") and "least_request" in line for line in lines)
    assert any(line.startswith("open files: ") for line in lines)
    assert "Traceback" not in own.said.decode()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_idle_router_ends_at_once(own: Router, number: signal.Signals) -> None:
    with httpx.Client(base_url=own.url, timeout=PATIENCE, trust_env=False) as client:
        assert client.get("/").status_code == 200
        # The client keeps its connection open: it is idle, so nothing is waited for.
        assert own.stop(number) == 0
    assert own.refuses()


@pytest.mark.parametrize("path", ["/slow", "/trickle"])
def test_sigterm_lets_a_slow_request_finish(own: Router, path: str) -> None:
    answers: list[Any] = []

    def ask() -> None:
        with httpx.Client(base_url=own.url, timeout=PATIENCE, trust_env=False) as client:
            answers.append(client.get(path).text)
            # As a browser does: the connection stays open, and the router must not wait for it.
            own.process.wait(PATIENCE)

    asking = threading.Thread(target=ask)
    asking.start()
    assert Handler.slow_asked.wait(PATIENCE)
    own.process.send_signal(signal.SIGTERM)
    wait(own.refuses)
    assert own.process.poll() is None
    Handler.slow_go_on.set()
    try:
        code = own.process.wait(8)
    finally:
        own.process.kill()
        asking.join(PATIENCE)
    assert (code, answers) == (0, ["finished"])


def test_a_taken_port_is_exit_1_and_a_sentence(tmp_path: Path, upstream: str) -> None:
    file, port = configuration(tmp_path, upstream)
    with socket.create_server(("127.0.0.1", port)):
        result = subprocess.run(
            [sys.executable, "-m", "router", "run", str(file)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
    assert (result.returncode, result.stdout) == (1, "")
    assert f"127.0.0.1:{port}" in result.stderr
    assert "in use" in result.stderr
    assert "Traceback" not in result.stderr
