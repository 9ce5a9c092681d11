"""`router run` with probes: nobody is sent to a server that is down, and nothing a probe does stops the process."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

PATIENCE = 20.0

PLUGINS = """
import asyncio, pathlib
import router

HERE = pathlib.Path(__file__).parent

def note(word):
    with (HERE / "log").open("a") as file:
        file.write(word + "\\n")

class Connects:
    '''Connects to the endpoint; waits for the file "go" before, if it is told to.'''
    class Options(router.Options, frozen=True):
        gate: bool = False

    def __init__(self, options, tools):
        self.gate = options.gate

    async def check(self, endpoint):
        note("probe")
        while self.gate and not (HERE / "go").exists():
            await asyncio.sleep(0.01)
        address = endpoint.address
        _, writer = await asyncio.open_connection(address.host, address.port)
        writer.close()

    async def close(self):
        note("closed")

class Hangs(Connects):
    async def check(self, endpoint):
        note("probe")
        await asyncio.sleep(3600)

class Stubborn(Connects):
    async def check(self, endpoint):
        note("probe")
        while True:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                note("cancelled")

class Exits(Connects):
    async def check(self, endpoint):
        raise SystemExit(f"I quit\\n\\x1b[31m{'x' * 9999}")

class Watcher:
    def __init__(self, options, tools): pass
    async def start(self, control):
        self.control = control
    def request_started(self, exchange): note("request")
    def attempt_started(self, *args): pass
    def attempt_ended(self, *args): pass
    def request_ended(self, *args): pass
    def endpoint_changed(self, endpoint, cause):
        states = self.control.status().pool("web").endpoints
        note("changed " + cause + " | " + ", ".join(sorted(each.state for each in states)))
    def table_swapped(self, version): note("table")
"""


#: What runs with other times than usual: module.name -> seconds.
HURRIED = """
import importlib, sys
for path, seconds in {times!r}.items():
    module, _, name = path.rpartition(".")
    module = importlib.import_module(module)
    assert isinstance(getattr(module, name), float), path
    setattr(module, name, seconds)
from router.cli import main
sys.exit(main(["run", {file!r}]))
"""
#: Seconds that a task which cannot be cancelled is waited for at the end.
SOON = {"router.net.probes._GRACE": 0.2, "router.app._CLOSING": 0.2}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
        return port


class Server:
    """A plain server that can be stopped and started again on its port."""

    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.requests = 0
        self._listener: socket.socket | None = None
        self._open: set[socket.socket] = set()

    def start(self) -> Server:
        self._listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()
        return self

    def stop(self) -> None:
        if self._listener is not None:
            # close() alone would leave accept() in its thread waiting, and the port open.
            self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None
        for conn in list(self._open):
            with contextlib.suppress(OSError):
                conn.shutdown(socket.SHUT_RDWR)

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                conn, _ = listener.accept()
            except OSError:
                return
            self._open.add(conn)
            threading.Thread(target=self._answer, args=(conn,), daemon=True).start()

    def _answer(self, conn: socket.socket) -> None:
        with conn, contextlib.suppress(OSError):
            while conn.recv(65536):
                self.requests += 1
                conn.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        self._open.discard(conn)


class Running:
    """`router run` in front of these servers, with these lines for its pool. `times`: as HURRIED has them."""

    def __init__(
        self,
        folder: Path,
        *urls: str,
        pool: str = "",
        server: str = "",
        more: str = "",
        times: dict[str, float] | None = None,
    ) -> None:
        self.port = free_port()
        (folder / "noted.py").write_text(PLUGINS)
        self.folder = folder
        file = folder / "router.toml"
        file.write_text(
            f'[server]\n{server}\n[[listeners]]\nbind = "127.0.0.1:{self.port}"\n[[routes]]\npool = "web"\n'
            f'[[pools]]\nname = "web"\nendpoints = {json.dumps(urls)}\nselection = "round_robin"\ndetectors = []\n'
            f"{pool}\n{more}\n"
        )
        command = ["-m", "router", "run", str(file)]
        if times:
            command = ["-c", HURRIED.format(times=times, file=str(file))]
        self.process = subprocess.Popen(
            [sys.executable, *command], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        assert self.process.stderr is not None
        os.set_blocking(self.process.stderr.fileno(), False)
        self._said = b""

    def read(self) -> str:
        """What it has said so far."""
        assert self.process.stderr is not None
        self._said += self.process.stderr.read() or b""
        return self._said.decode()

    def lines(self, words: str) -> list[str]:
        return [line for line in self.read().splitlines() if words in line]

    def says(self, words: str) -> str:
        """Waits until a line with these words stands on stderr."""
        wait(lambda: self.lines(words) or self.process.poll() is not None)
        assert self.lines(words), self.read()
        return self.lines(words)[0]

    def up(self) -> Running:
        self.says("open files")
        return self

    def end(self, seconds: float = PATIENCE) -> tuple[int, str]:
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(seconds)
        return code, self.read()

    def get(self, path: str = "/") -> tuple[int, bytes]:
        client = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            client.request("GET", path)
            response = client.getresponse()
            return response.status, response.read()
        finally:
            client.close()

    def noted(self) -> list[str]:
        log = self.folder / "log"
        return log.read_text().splitlines() if log.exists() else []


def wait(holds: Callable[[], Any], seconds: float = PATIENCE) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "never came true"
        time.sleep(0.02)


@pytest.fixture
def servers() -> Iterator[list[Server]]:
    made = [Server().start(), Server().start()]
    yield made
    for server in made:
        server.stop()


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    made: list[Running] = []

    def start(*urls: str, **more: Any) -> Running:
        made.append(Running(tmp_path, *urls, **more))
        return made[-1]

    yield start
    for running in made:
        if running.process.poll() is None:
            running.process.kill()
            running.process.wait(PATIENCE)
        assert running.process.stderr is not None
        running.process.stderr.close()


QUICK = 'probe = { use = "noted:Connects", interval = "50ms", timeout = "5s", fall = 2, rise = 3 }'
WATCHED = '[[observers]]\nuse = "noted:Watcher"'


def probe(kind: str, options: str = "") -> str:
    return f'probe = {{ use = "noted:{kind}", {options} }}'


# The first round


def test_a_server_that_is_down_at_the_start_gets_no_request(run: Any, servers: list[Server]) -> None:
    servers[1].stop()
    running = run(*(server.url for server in servers), pool=QUICK, more=WATCHED).up()
    line = running.says(f"pool web, endpoint {servers[1].url}: down: 1 probe failed: ")
    assert " WARNING router: " in line
    assert "onnect" in line
    running.says("pool web: 2 endpoints, round_robin, probed every 0.05 s, 1 ready")
    assert [running.get() for _ in range(10)] == [(200, b"ok")] * 10
    assert (servers[0].requests, servers[1].requests) == (10, 0)
    # That all is well at the start is no news.
    assert running.lines(": up: ") == []
    assert any("changed up: 1 probe passed | " in noted for noted in running.noted())
    # The round was over before anybody was accepted; the table is announced in between.
    noted = running.noted()
    assert noted.index("table") > max(index for index, word in enumerate(noted) if word.startswith("changed "))


def test_a_client_that_comes_too_early_waits_for_the_first_round(run: Any, servers: list[Server]) -> None:
    pool = probe("Connects", 'gate = true, interval = "50ms", timeout = "1h"')
    running = run(*(server.url for server in servers), pool=pool, server='health_path = "/up"', more=WATCHED)
    wait(lambda: running.noted().count("probe") == 2)
    client = http.client.HTTPConnection("127.0.0.1", running.port, timeout=PATIENCE)
    client.request("GET", "/up/ready")
    time.sleep(0.2)
    assert running.lines("open files") == []
    assert "request" not in running.noted()
    (running.folder / "go").touch()
    response = client.getresponse()
    assert (response.status, json.loads(response.read())) == (200, {"live": True, "ready": True})
    client.close()
    assert running.get() == (200, b"ok")
    assert running.up().end()[0] == 0
    assert running.noted().count("closed") == 1


def test_the_first_round_keeps_requests_waiting_for_so_long_and_no_longer(run: Any, servers: list[Server]) -> None:
    times = {"router.serving._FIRST_ROUND": 0.3}
    running = run(servers[0].url, pool=probe("Hangs", 'timeout = "1h"'), times=times).up()
    running.says("pool web: 0 of 1 endpoints ready: health is ignored, all are tried")
    assert running.get() == (200, b"ok")
    assert running.end()[0] == 0


@pytest.mark.parametrize("kind", ["Hangs", "Stubborn"])
def test_a_signal_during_a_first_round_that_hangs_ends_the_process(run: Any, servers: list[Server], kind: str) -> None:
    options = 'timeout = "1h", interval = "1h"'
    times = SOON | {"router.serving._FIRST_ROUND": 3600.0}
    running = run(servers[0].url, pool=probe(kind, options), times=times)
    wait(lambda: "probe" in running.noted())
    code, said = running.end()
    assert code == 0
    assert "Traceback" not in said


def test_a_probe_that_cannot_be_cancelled_does_not_keep_the_process(run: Any, servers: list[Server]) -> None:
    pool = probe("Stubborn", 'timeout = "50ms", interval = "50ms"')
    running = run(servers[0].url, pool=pool, times=SOON).up()
    assert running.get() == (200, b"ok")
    code, said = running.end()
    assert code == 0
    assert "Traceback" not in said


def test_a_probe_that_ends_the_process_ends_only_itself(run: Any, servers: list[Server]) -> None:
    running = run(servers[0].url, pool=probe("Exits", 'interval = "20ms"')).up()
    line = running.says("down: 1 probe failed: SystemExit: I quit [31mxxxx")
    assert len(line) < 400
    for _ in range(3):
        assert running.get() == (200, b"ok")
        time.sleep(0.03)
    code, said = running.end()
    assert code == 0
    assert "\x1b" not in said
    assert "Traceback" not in said
    # It was down all the time: said once.
    assert said.count("I quit") == 1


# While it runs


def test_a_server_that_dies_is_taken_out_and_comes_back(run: Any, servers: list[Server]) -> None:
    one, other = servers
    running = run(one.url, other.url, pool=QUICK, more=WATCHED).up()
    for _ in range(4):
        assert running.get()[0] == 200
    assert one.requests == other.requests == 2
    one.stop()
    line = running.says(f"pool web, endpoint {one.url}: down: 2 probes failed: ")
    assert " WARNING router: " in line
    for _ in range(6):
        assert running.get() == (200, b"ok")
    assert (one.requests, other.requests) == (2, 8)
    one.start()
    line = running.says(f"pool web, endpoint {one.url}: up: 3 probes passed")
    assert " INFO router: " in line
    for _ in range(4):
        assert running.get()[0] == 200
    assert (one.requests, other.requests) == (4, 10)
    changes = [noted for noted in running.noted() if noted.startswith("changed")]
    assert changes[2].startswith("changed down: 2 probes failed: ")
    assert changes[2].endswith(" | down, ready")
    assert changes[3] == "changed up: 3 probes passed | ready, ready"
    code, said = running.end()
    assert code == 0
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("few", "then", "status"),
    [("try_all", "health is ignored, all are tried", 503), ("refuse", "requests are refused", 503)],
)
def test_all_down_and_back(run: Any, servers: list[Server], few: str, then: str, status: int) -> None:
    for server in servers:
        server.stop()
    pool = f'{QUICK}\nwhen_few_ready = "{few}"'
    running = run(*(server.url for server in servers), pool=pool).up()
    line = running.says("pool web: 0 of 2 endpoints ready")
    assert line.endswith(then)
    assert " WARNING router: " in line
    assert running.get()[0] == status
    servers[0].start()
    running.says(f"endpoint {servers[0].url}: up: 1 probe passed")
    running.says("pool web: 1 of 2 endpoints ready again")
    for _ in range(4):
        assert running.get() == (200, b"ok")
    assert servers[0].requests == 4
    assert len([line for line in running.lines("endpoints ready") if " router: pool web: " in line]) == 2


def test_a_pool_without_a_probe_says_nothing_of_one(run: Any, servers: list[Server]) -> None:
    running = run(servers[0].url).up()
    line = running.says("pool web: 1 endpoint")
    assert line.endswith("round_robin")
    assert running.get() == (200, b"ok")
    assert running.end()[0] == 0


def test_probes_go_on_while_the_end_waits_for_requests(run: Any, servers: list[Server]) -> None:
    running = run(servers[0].url, pool=QUICK, server='drain_delay = "1h"').up()
    running.process.send_signal(signal.SIGTERM)
    before = running.noted().count("probe")
    wait(lambda: running.noted().count("probe") > before + 3)
    assert running.process.poll() is None
    code, said = running.end()
    assert code == 0
    assert "closed" in running.noted()
    assert "Traceback" not in said
