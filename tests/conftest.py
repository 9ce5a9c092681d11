"""What tests of a whole router are made of: small servers, raw clients, and a router that is told of changes.

`House` is a router in a thread of this process, to which signals are told by hand; `Process` is a real one.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gc
import hashlib
import importlib.metadata
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import msgspec
import pytest
import uvloop

from router.app import Router
from router.prepare import prepare_file
from router.status import Answer, AskStatus, Question, Status

#: Seconds after which a test that waits has failed.
PATIENCE = 15.0
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_KEY = base64.b64encode(b"0123456789abcdef")


def pytest_configure() -> None:
    # A shell makes what it runs in the background deaf to Ctrl-C, and so all that is run from there.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    importlib.metadata.Distribution.metadata = property(_metadata)  # type: ignore[assignment,method-assign]


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """The collector would go through all tests again and again, though none of them goes before the end."""
    gc.disable()
    try:
        return (yield)  # type: ignore[return-value]
    finally:
        gc.freeze()
        gc.enable()


_parse_metadata = importlib.metadata.Distribution.metadata.fget  # type: ignore[attr-defined]
_parsed: dict[str, Any] = {}


def _metadata(self: importlib.metadata.Distribution) -> Any:
    """Parses a text once: what each load of plugins asks for again is most of what many a test would take."""
    text = self.read_text("METADATA") or self.read_text("PKG-INFO")
    if not text:
        return _parse_metadata(self)
    if text not in _parsed:
        _parsed[text] = _parse_metadata(self)
    return _parsed[text]


def wait(holds: Callable[[], Any], what: Any = "") -> Any:
    """Returns what `holds()` returns as soon as that is true; fails with `what` (or its result) if it never is."""
    end = time.monotonic() + PATIENCE
    while not (found := holds()):
        assert time.monotonic() < end, f"never came true: {what() if callable(what) else what}"
        time.sleep(0.01)
    return found


def hold_port() -> socket.socket:
    """A port that nobody listens on, and that no other gets by chance while this socket is open."""
    sock = socket.socket()
    # Whoever sets this too may bind beside it, since it does not listen.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("127.0.0.1", 0))
    return sock


class Server:
    """A server in threads. The path says how it answers; what is held goes on with `let_go`."""

    def __init__(self, name: str = "ok") -> None:
        self.name = name
        self._held = hold_port()
        self.port: int = self._held.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        #: Connections so far, and the heads of requests.
        self.accepted = 0
        self.heads: list[bytes] = []
        self._open: set[socket.socket] = set()
        self._go_on = threading.Event()
        self._listener: socket.socket | None = None
        self.start()

    @property
    def paths(self) -> list[str]:
        return [head.split(b" ")[1].decode() for head in self.heads]

    def start(self) -> Server:
        self._listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()
        return self

    def stop(self) -> None:
        """Nobody listens any more, and every connection is closed."""
        if self._listener is not None:
            # close() alone would leave accept() in its thread waiting, and the port open.
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None
        self._go_on.set()
        for conn in list(self._open):
            with contextlib.suppress(OSError):
                conn.shutdown(socket.SHUT_RDWR)

    def end(self) -> None:
        self.stop()
        self._held.close()

    def let_go(self) -> None:
        self._go_on.set()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                conn, _ = listener.accept()
            except OSError:
                return
            self.accepted += 1
            self._open.add(conn)
            threading.Thread(target=self._serve, args=(conn,), daemon=True).start()

    def _serve(self, conn: socket.socket) -> None:
        data = b""
        with conn, contextlib.suppress(OSError, EOFError):
            while True:
                while b"\r\n\r\n" not in data:
                    data += _more(conn)
                head, _, data = data.partition(b"\r\n\r\n")
                self.heads.append(head)
                self._answer(conn, head)
        self._open.discard(conn)

    def _answer(self, conn: socket.socket, head: bytes) -> None:
        path = head.split(b" ")[1]
        if path == b"/stream":
            conn.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n")
            self._go_on.wait(PATIENCE)
            conn.sendall(b"4\r\nrest\r\n0\r\n\r\n")
        elif path == b"/sized":
            conn.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nhalf")
            self._go_on.wait(PATIENCE)
            conn.sendall(b"rest")
        elif path == b"/ws":
            accept = base64.b64encode(hashlib.sha1(_KEY + _GUID).digest())
            switch = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            conn.sendall(b"%bSec-WebSocket-Accept: %b\r\n\r\n" % (switch, accept))
            while True:
                conn.sendall(_more(conn))
        else:
            if path == b"/slow":
                self._go_on.wait(PATIENCE)
            body = head if path == b"/echo" else self.name.encode()
            conn.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))


def _more(conn: socket.socket) -> bytes:
    """What comes next.

    Raises:
        EOFError: nothing does.
    """
    data = conn.recv(65536)
    if not data:
        raise EOFError
    return data


class Client:
    """A raw client connection."""

    def __init__(self, address: Any) -> None:
        self.sock = socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET)
        self.sock.settimeout(PATIENCE)
        self.sock.connect(address)
        self._data = b""

    def ask(self, path: str = "/", *lines: str) -> Client:
        fields = "".join(f"{line}\r\n" for line in ("Host: test.example", *lines))
        self.sock.sendall(f"GET {path} HTTP/1.1\r\n{fields}\r\n".encode())
        return self

    def until(self, mark: bytes) -> bytes:
        """All up to and with `mark`. Raises EOFError if it is closed before."""
        while mark not in self._data:
            self._data += _more(self.sock)
        found, _, self._data = self._data.partition(mark)
        return found + mark

    def response(self) -> tuple[int, bytes, bytes]:
        """Status, head and body of a response of known length."""
        head = self.until(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        while len(self._data) < length:
            self._data += _more(self.sock)
        body, self._data = self._data[:length], self._data[length:]
        return int(head.split(b" ")[1]), head, body

    def get(self, path: str = "/", *lines: str) -> tuple[int, bytes]:
        status, _, body = self.ask(path, *lines).response()
        return status, body

    def rest(self) -> bytes:
        """What comes until the other side closes or resets."""
        with contextlib.suppress(ConnectionResetError, EOFError):
            while True:
                self._data += _more(self.sock)
        found, self._data = self._data, b""
        return found

    def switch(self) -> Client:
        """Becomes a WebSocket."""
        fields = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13")
        self.ask("/ws", *fields, f"Sec-WebSocket-Key: {_KEY.decode()}")
        assert b" 101 " in self.until(b"\r\n\r\n")
        return self

    def echo(self, data: bytes = b"ping!") -> bytes:
        self.sock.sendall(data)
        return self.until(data)


class Written:
    """A configuration file, and what is asked of the router that has read it."""

    wait = staticmethod(wait)

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "router.toml"
        self._held: list[socket.socket] = []
        self._clients: list[Client] = []
        self.port = self.free_port()

    def free_port(self) -> int:
        self._held.append(hold_port())
        return int(self._held[-1].getsockname()[1])

    def write(self, *endpoints: str, **lines: str) -> None:
        """Writes one listener, one route and one pool.

        Args:
            endpoints: URLs, or tables as TOML has them.
            lines: further ones for `server`, `listener`, `route`, `pool`, and `more` at the end.
        """
        listed = ", ".join(each if each.startswith("{") else json.dumps(each) for each in endpoints)
        take = {name: lines.get(name, "") for name in ("server", "listener", "route", "pool", "more")}
        detectors = "" if "detectors" in take["pool"] else "detectors = []\n"
        self.text(
            f'[server]\ncontrol = "control"\n{take["server"]}\n'
            f'[[listeners]]\nbind = "127.0.0.1:{self.port}"\n{take["listener"]}\n'
            f'[[routes]]\npool = "web"\n{take["route"]}\n'
            f'[[pools]]\nname = "web"\nselection = "round_robin"\n{detectors}endpoints = [{listed}]\n'
            f"{take['pool']}\n{take['more']}\n"
        )

    def text(self, text: str, name: str = "router.toml") -> None:
        """Writes the configuration, or another file, from one moment to the next: nobody reads half of it."""
        draft = self.folder / "draft"
        draft.write_text(text)
        draft.rename(self.folder / name)

    def plugins(self, text: str) -> str:
        """Writes a module beside the configuration; returns its name, which no other test has."""
        name = f"plugins_{time.monotonic_ns()}"
        (self.folder / f"{name}.py").write_text(text)
        return name

    def noted(self) -> list[str]:
        """The lines that plugins have written to "log"."""
        log = self.folder / "log"
        return log.read_text().splitlines() if log.exists() else []

    def client(self, address: Any = None) -> Client:
        made = Client(address or ("127.0.0.1", self.port))
        self._clients.append(made)
        return made

    def get(self, path: str = "/", port: int = 0) -> tuple[int, bytes]:
        """One request on a connection of its own."""
        client = Client(("127.0.0.1", port or self.port))
        try:
            return client.get(path, "Connection: close")
        finally:
            client.sock.close()

    def accepts(self, port: int) -> bool:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=PATIENCE).close()
        except OSError:
            return False
        return True

    def ask(self, question: Question, path: str = "control") -> Answer:
        """Asks over the control socket."""
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(PATIENCE)
            sock.connect(str(self.folder / path))
            sock.sendall(msgspec.json.encode(question) + b"\n")
            with sock.makefile("rb") as file:
                line = file.readline()
        assert line, "no answer"
        return msgspec.json.decode(line, type=Answer)

    def status(self) -> Status:
        return msgspec.convert(self.ask(AskStatus()).result, Status)

    def endpoints(self, pool: str = "web") -> dict[str, Any]:
        """The status of each endpoint of a pool, by its id."""
        found = next(each for each in self.status().pools if each.name == pool)
        return {each.id: each for each in found.endpoints}

    def leave(self) -> None:
        for sock in (*(client.sock for client in self._clients), *self._held):
            sock.close()


class _Loop(uvloop.Loop):
    """A loop beside the main thread, where no signal handler can be set."""

    def __init__(self) -> None:
        super().__init__()
        self.handlers: dict[int, Callable[[], Any]] = {}

    def add_signal_handler(self, sig: int, callback: Callable[..., Any], *args: Any) -> None:
        self.handlers[sig] = lambda: callback(*args)


class House(Written):
    """A router in a thread. At its end it is looked for what must not be: tracebacks, tasks that failed unseen."""

    def __init__(self, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
        super().__init__(folder)
        self._caplog = caplog
        self._error: BaseException | None = None
        #: What the event loop was told of.
        self._told: list[dict[str, Any]] = []
        self._loop = _Loop()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.announced: list[str] = []
        self.code: int | None = None

    def up(self) -> House:
        self.begin()
        wait(lambda: any("open files" in line for line in self.announced) or not self._thread.is_alive())
        assert self._error is None, self._error
        return self

    def begin(self) -> None:
        self.router = Router(prepare_file(self.file), file=self.file)
        self._thread.start()

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
                runner.get_loop().set_exception_handler(lambda _, context: self._told.append(context))
                self.code = runner.run(self.router._run(self.announced.append))
        except BaseException as error:
            self._error = error
        finally:
            self.router._sockets.close_all()

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def serving(self) -> Any:
        return self.router._serving

    def do(self, work: Callable[[], Any]) -> Any:
        """Calls `work` in the router's loop."""

        async def call() -> Any:
            return work()

        return asyncio.run_coroutine_threadsafe(call(), self._loop).result(PATIENCE)

    def begin_reload(self) -> Future[tuple[bool, str]]:
        return asyncio.run_coroutine_threadsafe(self.router.reload("test"), self._loop)

    def reload(self) -> tuple[bool, str]:
        return self.begin_reload().result(PATIENCE)

    def takes(self) -> None:
        """Reloads, which has to succeed."""
        done, text = self.reload()
        assert done, text

    def signal(self, number: int = signal.SIGTERM) -> None:
        self._loop.call_soon_threadsafe(self._loop.handlers[number])

    def records(self, words: str = "") -> list[str]:
        """Messages of the log, debug left out."""
        found = [each for each in self._caplog.records if each.name.startswith("router") and each.levelname != "DEBUG"]
        return [each.getMessage() for each in found if words in each.getMessage()]

    def end(self) -> None:
        self.leave()
        for _ in range(2):
            if self.is_alive:
                self.signal()
                self._thread.join(PATIENCE)
        if not self._thread.ident:
            self._loop.close()
            return
        assert not self.is_alive, "it does not end"
        assert self._error is None, self._error
        assert not self._told, self._told
        traced = [each for each in self._caplog.records if each.exc_info and each.levelname != "DEBUG"]
        assert not traced, [each.getMessage() for each in traced]


class Process(Written):
    """A real process; what it says on stderr is read on the way."""

    def __init__(self, folder: Path, *options: str, command: str = "run") -> None:
        super().__init__(folder)
        self._options = options
        self._command = command
        self._said = b""
        self.process: Any = None

    def up(self) -> Process:
        what = [str(self.file)] if self._command == "run" else []
        self.process = subprocess.Popen(
            [sys.executable, "-m", "router", self._command, *what, *self._options],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        os.set_blocking(self.process.stderr.fileno(), False)
        self.says("open files")
        return self

    def said(self) -> str:
        self._said += self.process.stderr.read() or b""
        return self._said.decode()

    def says(self, words: str, times: int = 1) -> None:
        """Waits until these words stand on stderr so many times."""
        wait(lambda: self.said().count(words) >= times or self.process.poll() is not None, self.said)
        assert self.said().count(words) >= times, self.said()

    def signal(self, number: int = signal.SIGTERM) -> None:
        self.process.send_signal(number)

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Runs another command of the router."""
        command = [sys.executable, "-m", "router", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)

    def end(self) -> int:
        self.leave()
        self.signal()
        code: int = self.process.wait(PATIENCE)
        assert "Traceback" not in self.said(), self.said()
        return code

    def kill(self) -> None:
        if self.process is not None:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait(PATIENCE)
            self.process.stderr.close()


@pytest.fixture
def serve() -> Iterator[Callable[[str], Server]]:
    """Starts a server of this name, which is what it answers."""
    made: list[Server] = []

    def start(name: str = "ok") -> Server:
        made.append(Server(name))
        return made[-1]

    yield start
    for server in made:
        server.end()


@pytest.fixture
def house(tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Iterator[House]:
    """A router that begins with `up()`."""
    # The collector is this process's too, so a router in it leaves it alone.
    for module in [each for name, each in sys.modules.items() if name.split(".")[0] == "router"]:
        for name in {"freeze_memory", "settle_memory"} & vars(module).keys():
            monkeypatch.setattr(module, name, lambda: None)
    caplog.set_level("DEBUG", "router")
    made = House(tmp_path, caplog)
    yield made
    made.end()


@pytest.fixture
def process(tmp_path: Path) -> Iterator[Callable[..., Process]]:
    """Makes a process that begins with `up()`."""
    made: list[Process] = []

    def make(*options: str, **more: str) -> Process:
        made.append(Process(tmp_path, *options, **more))
        return made[-1]

    yield make
    for each in made:
        each.leave()
        each.kill()
