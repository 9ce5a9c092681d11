"""`router run` and `router proxy` as processes: they serve, they say so, and they end well on signals."""

from __future__ import annotations

import http.client
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from router import demo

PATIENCE = 30


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


class Running:
    """A command under way; `lines` are those of its standard error, where it says what it does."""

    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "router", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.lines: list[str] = []
        self._up = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.came_up = self._up.wait(PATIENCE) and self.process.poll() is None

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line)
            if line.startswith("listener "):
                self._up.set()
        self._up.set()

    def stop(self, number: signal.Signals) -> tuple[int, str]:
        """Sends the signal; returns the exit code and what stood on standard output."""
        self.process.send_signal(number)
        code = self.process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        return code, self._close()

    def _close(self) -> str:
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        with self.process.stdout, self.process.stderr:
            return self.process.stdout.read()


@contextmanager
def running(*arguments: str) -> Iterator[Running]:
    started = Running(*arguments)
    try:
        assert started.came_up, started.lines
        yield started
    finally:
        if started.process.poll() is None:
            started.stop(signal.SIGKILL)


@pytest.fixture(scope="module")
def server() -> Iterator[demo.ExampleServer]:
    made = demo.ExampleServer("one")
    yield made
    made.stop()


def answer(port: int) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        connection.request("GET", "/hello")
        return connection.getresponse().read().decode()
    finally:
        connection.close()


def write(folder: Path, port: int, server: demo.ExampleServer) -> Path:
    file = folder / "router.toml"
    file.write_text(
        f'[[listeners]]\nbind = "127.0.0.1:{port}"\n[[routes]]\npool = "web"\n'
        f'[[pools]]\nname = "web"\nendpoints = ["{server.url}"]\n'
    )
    return file


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_run_serves_a_file_until_a_signal(number: signal.Signals, tmp_path: Path, server: demo.ExampleServer) -> None:
    port = free_port()
    with running("run", str(write(tmp_path, port, server))) as router:
        assert answer(port).startswith("server one answers GET /hello")
        assert router.stop(number) == (0, "")
    said = "".join(router.lines)
    for word in (f"127.0.0.1:{port}", "pool web", "plugin selection"):
        assert word in said
    assert "Traceback" not in said


def test_proxy_needs_no_file(server: demo.ExampleServer) -> None:
    port = free_port()
    short = server.url.rpartition(":")[2]
    with running("proxy", "--listen", str(port), "--selection", "random", short) as router:
        assert answer(port).startswith("server one answers GET /hello")
        assert any("1 endpoint, random" in line for line in router.lines)
        assert router.stop(signal.SIGINT) == (0, "")


def test_a_taken_address_is_one_line_and_exit_1(tmp_path: Path, server: demo.ExampleServer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = subprocess.run(
            [sys.executable, "-m", "router", "run", str(write(tmp_path, port, server))],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith("router: ")
    assert f"127.0.0.1:{port}" in line
