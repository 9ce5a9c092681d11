"""The demo as a user starts it: three servers behind one address, a line per request, and nothing left afterwards."""

from __future__ import annotations

import http.client
import json
import os
import queue
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from router import demo

PATIENCE = 30


class RunningDemo:
    """`router demo` in a process of its own; its lines are read as they come."""

    def __init__(self, *options: str) -> None:
        self.port = free_port()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "router", "demo", "--listen", f"127.0.0.1:{self.port}", *options],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.lines: queue.Queue[str] = queue.Queue()
        self.shown: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        try:
            self.wait_for("Ctrl-C")
        except BaseException:
            self.process.kill()
            print(self.ended())
            raise
        self.children = {name: int(pid) for name, pid in re.findall(r"(\w+) .*\(process (\d+)\)", self.text)}

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.put(line)
        self.lines.put("")

    @property
    def text(self) -> str:
        return "".join(self.shown)

    def wait_for(self, pattern: str) -> str:
        """The next line in which the pattern is found."""
        while True:
            try:
                line = self.lines.get(timeout=PATIENCE)
            except queue.Empty:
                pytest.fail(f"no line with {pattern!r} in:\n{self.text}")
            self.shown.append(line)
            if not line:
                pytest.fail(f"it ended without a line with {pattern!r}:\n{self.text}")
            if re.search(pattern, line):
                return line

    def get(self, path: str, method: str = "GET", body: bytes | None = None) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            connection.request(method, path, body)
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()

    def stop(self, number: signal.Signals = signal.SIGINT) -> tuple[int, str]:
        """Sends the signal; returns the exit code and what stood on stderr."""
        self.process.send_signal(number)
        return self.ended()

    def ended(self) -> tuple[int, str]:
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        code = self.process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        errors = self.process.stderr.read()
        self.process.stdout.close()
        self.process.stderr.close()
        return code, errors


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def is_gone(pid: int) -> bool:
    """Whether the process ends within the time that tests have. A zombie has ended."""
    for _ in range(PATIENCE * 20):
        try:
            with open(f"/proc/{pid}/stat") as file:
                if file.read().rpartition(")")[2].split()[0] == "Z":
                    return True
        except FileNotFoundError:
            return True
        time.sleep(0.05)
    return False


@pytest.fixture
def running() -> Iterator[RunningDemo]:
    started = RunningDemo()
    yield started
    if started.process.poll() is None:
        started.process.kill()
        started.ended()


def test_all_three_answer_and_each_request_is_shown(running: RunningDemo) -> None:
    answers = [running.get(f"/number-{number}") for number in range(30)]
    assert {status for status, _ in answers} == {200}
    assert {body.split()[1] for _, body in answers} == {"one", "two", "three"}
    for number, (_, body) in enumerate(answers):
        line = running.wait_for(rf"/number-{number} ")
        assert line.split()[:3] == ["GET", f"/number-{number}", "200"]
        assert line.split()[-1] == body.split()[1]
    code, errors = running.stop()
    assert (code, errors) == (0, "")
    assert sorted(running.children) == ["one", "three", "two"]
    assert all(is_gone(pid) for pid in running.children.values())


def test_a_server_that_is_killed_is_missed_by_nobody(running: RunningDemo) -> None:
    os.kill(running.children["two"], signal.SIGTERM)
    running.wait_for("server two has stopped")
    answers = [running.get("/") for _ in range(12)]
    assert {status for status, _ in answers} == {200}
    assert {body.split()[1] for _, body in answers} == {"one", "three"}
    assert running.wait_for("two, then ").split()[:3] == ["GET", "/", "200"]
    assert running.stop()[0] == 0


def test_a_killed_demo_leaves_no_server(running: RunningDemo) -> None:
    code, _ = running.stop(signal.SIGKILL)
    assert code == -signal.SIGKILL
    assert len(running.children) == 3
    assert all(is_gone(pid) for pid in running.children.values())


def test_sigterm_stops_it_too(running: RunningDemo) -> None:
    assert running.stop(signal.SIGTERM)[0] == 0
    assert all(is_gone(pid) for pid in running.children.values())


def test_a_taken_port_is_said_with_the_way_out() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = subprocess.run(
            [sys.executable, "-m", "router", "demo", "--listen", f"127.0.0.1:{port}"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
    assert result.returncode == 1
    assert str(port) in result.stderr
    assert "router demo --listen" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.fixture
def traced() -> Iterator[RunningDemo]:
    started = RunningDemo("--trace", f"127.0.0.1:{free_port()}")
    yield started
    if started.process.poll() is None:
        started.process.kill()
        started.ended()


def traces(url: str) -> list[dict[str, Any]]:
    with urllib.request.urlopen(url, timeout=PATIENCE) as response:
        found: list[dict[str, Any]] = json.load(response)["data"]
        return found


def test_traces_show_what_became_of_a_request(traced: RunningDemo) -> None:
    said = re.search(r"traces (\S+)  \(a file for Jaeger: (\S+)\)", traced.text)
    assert said
    page, file = said.groups()
    assert file == f"{page}traces.json"
    with urllib.request.urlopen(page, timeout=PATIENCE) as response:
        assert b"<title>Traces</title>" in response.read()
    answers = [traced.get("/flaky") for _ in range(6)]
    assert {status for status, _ in answers} == {200}
    assert {body.split()[1] for _, body in answers} <= {"one", "three"}
    for _ in range(PATIENCE * 20):
        if len(found := traces(file)) == 6:
            break
        time.sleep(0.05)
    assert len(found) == 6
    sizes = [len(trace["spans"]) for trace in found]
    assert 3 in sizes
    retried = found[sizes.index(3)]["spans"]
    statuses = [tag["value"] for span in retried for tag in span["tags"] if tag["key"] == "http.response.status_code"]
    assert statuses == [200, 503, 200]
    assert traced.stop()[0] == 0


def test_the_page_of_traces_goes_with_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    started = RunningDemo("--tls", "--trace", f"127.0.0.1:{free_port()}")
    try:
        found = re.search(r"traces (http://\S+)", started.text)
        assert found
        assert f"router https://127.0.0.1:{started.port}" in started.text
        assert traces(f"{found[1]}traces.json") == []
    finally:
        assert started.stop()[0] == 0


@pytest.mark.parametrize("taken", [True, False])
def test_a_page_that_cannot_be_had_is_said_with_the_way_out(taken: bool) -> None:
    with socket.create_server(("127.0.0.1", 0), reuse_port=True) as holder:
        address = f"127.0.0.1:{holder.getsockname()[1]}" if taken else "unix:/nowhere"
        result = subprocess.run(
            [sys.executable, "-m", "router", "demo", "--listen", f"127.0.0.1:{free_port()}", "--trace", address],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
    why = "Address already in use" if taken else "a page needs host:port"
    assert result.returncode == 1
    assert result.stderr == (
        f"router: the page of traces cannot listen on {address}: {why}\n"
        "Choose another address: router demo --trace 127.0.0.1:16688\n"
        "                    or: make demo TRACE=127.0.0.1:16688\n"
    )


@pytest.fixture
def example() -> Iterator[demo.ExampleServer]:
    server = demo.ExampleServer("one")
    yield server
    server.stop()


def ask(server: demo.ExampleServer, *requests: tuple[str, str, bytes | None, dict[str, str]]) -> list[tuple[int, str]]:
    """Sends requests over one connection."""
    connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=PATIENCE)
    answers = []
    for method, path, body, headers in requests:
        connection.request(method, path, body, headers, encode_chunked="Transfer-Encoding" in headers)
        response = connection.getresponse()
        answers.append((response.status, response.read().decode()))
    assert connection.sock is not None, "the connection was not kept"
    connection.close()
    return answers


def test_an_example_server_tells_what_it_received_and_keeps_its_connections(example: demo.ExampleServer) -> None:
    get, head, post, chunked, last = ask(
        example,
        ("GET", "/hello?a=b", None, {"X-Colour": "blue"}),
        ("HEAD", "/", None, {}),
        ("POST", "/form", b"12345", {}),
        ("PUT", "/form", b"1234567", {"Transfer-Encoding": "chunked"}),
        ("GET", "/", None, {}),
    )
    assert get[1].startswith("server one answers GET /hello?a=b\n")
    assert "X-Colour: blue" in get[1]
    assert head == (200, "")
    assert "a body of 5 bytes" in post[1]
    assert "a body of 7 bytes" in chunked[1]
    assert last[0] == 200


def test_server_two_fails_where_it_should(example: demo.ExampleServer) -> None:
    two = demo.ExampleServer("two")
    try:
        statuses = [ask(server, ("GET", "/flaky?a", None, {}))[0][0] for server in (example, two)]
        assert statuses == [200, 503]
        assert ask(two, ("GET", "/", None, {}))[0][0] == 200
    finally:
        two.stop()


def test_a_stopped_example_server_is_gone(example: demo.ExampleServer) -> None:
    example.stop()
    assert is_gone(example.pid)
    with pytest.raises(ConnectionRefusedError):
        ask(example, ("GET", "/", None, {}))


def test_an_example_server_that_does_not_start_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(RuntimeError, match="example server one did not start"):
        demo.ExampleServer("one")
