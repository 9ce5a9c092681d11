"""The process as a whole: plugins started and closed, signals, exit codes; each router is a real process."""

from __future__ import annotations

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

import msgspec
import pytest

from router.app import Router
from router.config import Config, ListenerConfig, PoolConfig, RouteConfig
from router.net.sweeper import timeouts_of
from router.prepare import prepare

PATIENCE = 20.0

#: Plugins that write down what they are told, a line each.
PLUGINS = """
import contextlib, pathlib

LOG = pathlib.Path(__file__).with_name("log")

def note(word):
    with LOG.open("a") as file:
        file.write(word + "\\n")

class Watcher:
    def __init__(self, options, tools): pass
    async def start(self, control):
        self.control = control
        note("start " + str(control.status().draining))
    async def close(self): note("close")
    def request_started(self, exchange):
        note("request")
        return self
    def attempt_started(self, *args): pass
    def attempt_ended(self, *args): note("attempt ended " + str(self.control.status().pool("web").in_flight))
    def request_ended(self, token, exchange, error): note("ended " + type(error).__name__)
    def endpoint_changed(self, endpoint, cause): pass
    def table_swapped(self, version): note("table")

class Service:
    def __init__(self, options, tools): pass
    @contextlib.asynccontextmanager
    async def serve(self, control):
        note("serving")
        yield
        note("served")

class FailsToStart(Watcher):
    async def start(self, control): raise RuntimeError("no database")

class FailsToClose(Watcher):
    async def close(self): raise RuntimeError("no database")
"""


class Slow:
    """A server that answers when it is let go."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.asked = threading.Event()
        self.go_on = threading.Event()
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                conn, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(conn,), daemon=True).start()

    def _answer(self, conn: socket.socket) -> None:
        with conn:
            while conn.recv(65536):
                self.asked.set()
                self.go_on.wait(PATIENCE)
                try:
                    conn.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone")
                except OSError:
                    return


class Running:
    """`router run` with a configuration of these lines."""

    def __init__(self, folder: Path, upstream: str, server: str = "", more: str = "") -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        (folder / "noted.py").write_text(PLUGINS)
        self.log = folder / "log"
        file = folder / "router.toml"
        file.write_text(
            f'[server]\n{server}\n[[listeners]]\nbind = "127.0.0.1:{self.port}"\n[[routes]]\npool = "web"\n'
            f'[[pools]]\nname = "web"\nendpoints = ["{upstream}"]\n{more}\n'
        )
        self.process = subprocess.Popen(
            [sys.executable, "-m", "router", "run", str(file)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        assert self.process.stderr is not None
        os.set_blocking(self.process.stderr.fileno(), False)
        self._said = b""

    def read(self) -> str:
        """What it has said so far."""
        assert self.process.stderr is not None
        self._said += self.process.stderr.read() or b""
        return self._said.decode()

    def up(self) -> Running:
        # Not "a connection is accepted": the system does that before the router minds signals.
        wait(lambda: "open files" in self.read() or self.process.poll() is not None)
        assert self.process.poll() is None, self.read()
        return self

    def accepts(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=5).close()
        except OSError:
            return False
        return True

    def signal(self, number: signal.Signals = signal.SIGTERM) -> None:
        self.process.send_signal(number)

    def end(self) -> tuple[int, str]:
        code = self.process.wait(PATIENCE)
        return code, self.read()

    def noted(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []


def wait(holds: Callable[[], Any], seconds: float = PATIENCE) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "never came true"
        time.sleep(0.02)


@pytest.fixture
def slow() -> Iterator[Slow]:
    made = Slow()
    yield made
    made.go_on.set()
    made.listener.close()


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    made: list[Running] = []

    def start(*args: str, **more: str) -> Running:
        made.append(Running(tmp_path, *args, **more))
        return made[-1]

    yield start
    for running in made:
        if running.process.poll() is None:
            running.process.kill()
            running.process.wait(PATIENCE)
        assert running.process.stderr is not None
        running.process.stderr.close()


def ask(running: Running) -> http.client.HTTPConnection:
    client = http.client.HTTPConnection("127.0.0.1", running.port, timeout=PATIENCE)
    client.request("GET", "/")
    return client


WATCHED = '[[observers]]\nuse = "noted:Watcher"\n[[services]]\nuse = "noted:Service"'


def test_plugins_live_as_long_as_the_process(run: Any, slow: Slow) -> None:
    slow.go_on.set()
    running = run(slow.url, more=WATCHED).up()
    client = ask(running)
    assert client.getresponse().read() == b"done"
    client.close()
    running.signal()
    assert running.end()[0] == 0
    noted = running.noted()
    assert noted[:3] == ["start False", "serving", "table"]
    assert noted[3:6] == ["request", "attempt ended 1", "ended NoneType"]
    assert sorted(noted[6:]) == ["close", "served"]


def test_a_request_that_is_cut_is_told_to_observers_before_they_close(run: Any, slow: Slow) -> None:
    running = run(slow.url, server='shutdown_timeout = "200ms"', more=WATCHED).up()
    client = ask(running)
    assert slow.asked.wait(PATIENCE)
    running.signal()
    code, said = running.end()
    assert code == 1
    assert "1 request" in said
    with pytest.raises((OSError, http.client.HTTPException)):
        client.getresponse()
    client.close()
    noted = running.noted()
    assert noted[-1] == "close"
    assert "ended ClientGone" in noted


def test_a_second_signal_cuts_what_is_under_way(run: Any, slow: Slow) -> None:
    running = run(slow.url).up()
    client = ask(running)
    assert slow.asked.wait(PATIENCE)
    running.signal()
    wait(lambda: not running.accepts())
    assert running.process.poll() is None
    running.signal()
    # A request was cut off, so this is no clean end.
    assert running.end()[0] == 1
    client.close()


def test_drain_delay_goes_on_accepting_but_is_not_ready(run: Any, slow: Slow) -> None:
    slow.go_on.set()
    running = run(slow.url, server='drain_delay = "1500ms"\nhealth_path = "/up"').up()
    assert health(running) == (200, {"live": True, "ready": True})
    running.signal()
    wait(lambda: health(running)[0] == 503)
    assert health(running)[1] == {"live": True, "ready": False}
    client = ask(running)
    assert client.getresponse().read() == b"done"
    client.close()
    assert running.end()[0] == 0


def test_a_second_signal_ends_the_drain_delay(run: Any, slow: Slow) -> None:
    running = run(slow.url, server='drain_delay = "1h"\nhealth_path = "/up"').up()
    running.signal()
    wait(lambda: health(running)[0] == 503)
    running.signal()
    wait(lambda: running.process.poll() is not None, 5)
    assert running.process.returncode in (0, 1)


def health(running: Running) -> tuple[int, Any]:
    client = http.client.HTTPConnection("127.0.0.1", running.port, timeout=PATIENCE)
    try:
        client.request("GET", "/up")
        response = client.getresponse()
        return response.status, json.loads(response.read())
    finally:
        client.close()


def test_a_plugin_that_does_not_start_is_exit_1_and_a_sentence(run: Any, slow: Slow) -> None:
    more = WATCHED + '\n[[observers]]\nuse = "noted:FailsToStart"'
    running = run(slow.url, more=more)
    code, said = running.end()
    assert code == 1
    assert "FailsToStart" in said
    assert "no database" in said
    assert "Traceback" not in said
    # Those that had been started are closed again.
    assert running.noted()[-1] == "close"


def test_a_plugin_that_does_not_close_well_holds_nobody_up(run: Any, slow: Slow) -> None:
    more = '[[observers]]\nuse = "noted:FailsToClose"\n[[observers]]\nuse = "noted:Watcher"'
    running = run(slow.url, more=more).up()
    running.signal()
    code, said = running.end()
    assert code == 0
    assert "FailsToClose" in said
    assert "close" in running.noted()


def test_the_unix_socket_is_gone_afterwards(run: Any, slow: Slow, tmp_path: Path) -> None:
    path = tmp_path / "router.sock"
    running = run(slow.url, more=f'[[listeners]]\nbind = "unix:{path}"').up()
    assert path.exists()
    running.signal(signal.SIGINT)
    assert running.end()[0] == 0
    assert not path.exists()


# Without a process


def test_a_routers_table_and_status_exist_before_it_serves() -> None:
    config = Config(
        listeners=(ListenerConfig("127.0.0.1:0"),),
        routes=(RouteConfig("web"),),
        pools=(PoolConfig("web", ("http://127.0.0.1:1", "http://127.0.0.1:2"), selection={"use": "random"}),),
    )
    router = Router(prepare(config, None, Path()))
    status = router.status()
    assert (status.draining, status.config.version, status.pool("web").selection) == (False, 1, "random")
    assert status.pool("web").endpoints == (), "members come with the start"
    assert list(router.table.pools) == ["web"]
    with pytest.raises(KeyError, match="wbe"):
        status.pool("wbe")
    assert msgspec.json.encode(status)


def test_every_timeout_of_a_configuration_is_watched() -> None:
    config = Config(
        listeners=(ListenerConfig("127.0.0.1:0"),),
        routes=(RouteConfig("web", timeout=0.125),),  # type: ignore[arg-type]
        pools=(PoolConfig("web", ("http://127.0.0.1:1",)),),
    )
    assert {0.125, 10, 75, 60, 30} <= set(timeouts_of(config))
