"""What the end-to-end tests of tracing are made of: a collector, scripted servers, a router, raw clients.

Loaded by path, since tests have no package. Nothing here knows how the tracing plugin works: spans are what a receiver
of OTLP was sent, headers are what a server was sent.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import importlib.util
import json
import logging
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest

#: Seconds after which a test that waits has failed.
PATIENCE = 10.0
#: The address that the routers here trust; every other client comes from 127.0.0.1.
TRUSTED = "127.0.0.2"
HOST = "shop.example:8080"
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


def load(name: str, file: Path) -> ModuleType:
    """A module of the tests, once per run."""
    key = f"tracing_{name}"
    if key not in sys.modules:
        spec = importlib.util.spec_from_file_location(key, file)
        assert spec
        assert spec.loader
        sys.modules[key] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[key])
    return sys.modules[key]


_bench = load("bench", Path(__file__).parent.parent / "conftest.py")


def wait(holds: Callable[[], Any], what: Any = "") -> Any:
    """Returns what `holds()` returns as soon as that is true; fails with `what` (or its result) if it never is."""
    end = time.monotonic() + PATIENCE
    while not (found := holds()):
        assert time.monotonic() < end, f"never came true: {what() if callable(what) else what}"
        time.sleep(0.002)
    return found


# What a collector has seen.


class Event(NamedTuple):
    at: int
    name: str
    attributes: dict[str, Any]


class Seen(NamedTuple):
    """A span as the collector got it; times in nanoseconds since the epoch."""

    trace_id: str
    span_id: str
    parent_id: str
    name: str
    kind: str
    start: int
    end: int
    attributes: dict[str, Any]
    events: tuple[Event, ...]
    #: "unset", "ok" or "error".
    status: str
    message: str
    state: str
    flags: int
    #: Attributes of the resource.
    resource: dict[str, Any]
    #: Name and version of what wrote it.
    scope: tuple[str, str]

    def __getitem__(self, key: Any) -> Any:
        return self.attributes[key]

    def get(self, key: str, default: Any = None) -> Any:
        return self.attributes.get(key, default)

    def event(self, name: str) -> Event:
        """The only event of that name."""
        found = [each for each in self.events if each.name == name]
        assert len(found) == 1, [each.name for each in self.events]
        return found[0]

    @property
    def event_names(self) -> list[str]:
        return [each.name for each in self.events]

    def texts(self) -> Iterator[str]:
        """Every word of it but the ids."""
        for attributes in (self.attributes, *(event.attributes for event in self.events)):
            for key, value in attributes.items():
                yield key
                yield str(value)
        yield from (self.name, self.message, self.state, *self.event_names, str(self.resource), *self.scope)


def _seen(raw: dict[str, Any]) -> Seen:
    events = (Event(**event) for event in raw["events"])
    return Seen(**{name: raw[name] for name in Seen._fields} | {"events": tuple(events)})


class Trace(NamedTuple):
    """One server span and the client spans below it, in the order of their attempts."""

    server: Seen
    clients: list[Seen]

    @property
    def client(self) -> Seen:
        """The only client span."""
        assert len(self.clients) == 1, self.clients
        return self.clients[0]

    @property
    def spans(self) -> list[Seen]:
        return [self.server, *self.clients]


class Collector:
    """A receiver of OTLP over HTTP, and what it got."""

    def __init__(self, receiver: Any) -> None:
        self.receiver = receiver
        self.endpoint: str = receiver.endpoint
        self._seen: list[Seen] = []
        self._by_trace: dict[str, list[Seen]] = {}

    def spans(self) -> list[Seen]:
        """All, in the order in which they came."""
        for raw in self.receiver.spans[len(self._seen) :]:
            seen = _seen(raw)
            self._seen.append(seen)
            self._by_trace.setdefault(seen.trace_id, []).append(seen)
        return self._seen

    def of(self, trace_id: str) -> list[Seen]:
        """The spans of one trace that have come so far."""
        self.spans()
        return self._by_trace.get(trace_id, [])

    def tree(self, trace_id: str, count: int) -> list[Seen]:
        """All spans of a trace, once so many have come."""
        wait(lambda: len(self.of(trace_id)) >= count, lambda: self.of(trace_id))
        return self.of(trace_id)

    def trace(self, trace_id: str) -> Trace:
        """The trace of one request through one router, once it is whole."""
        found = self.tree(trace_id, 1)
        wait(lambda: any(span.kind == "server" for span in self.of(trace_id)), lambda: found)
        (server,) = [span for span in self.of(trace_id) if span.kind == "server"]
        wait(lambda: len(self.of(trace_id)) > server.get("lb.attempts", 0), lambda: self.of(trace_id))
        clients = [span for span in self.of(trace_id) if span is not server]
        return Trace(server, sorted(clients, key=lambda span: int(span.get("lb.attempt", -1))))


# Servers.


class Request(NamedTuple):
    """What a server got: the first line's parts, the fields, the body."""

    method: str
    target: str
    fields: list[tuple[str, str]]
    body: bytes
    raw: bytes

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.fields if key.lower() == name.lower()]

    def only(self, name: str) -> str:
        (value,) = self.all(name)
        return value

    @property
    def carrier(self) -> dict[str, str]:
        """For propagators: names in lower case."""
        return {key.lower(): value for key, value in self.fields}


class Backend:
    """A server in threads; the last segment of a path says how it answers, unless `mode` does for all paths.

    hold: waits before the head until let_go(). half: likewise in the middle of the body. delay-80: after so many
    milliseconds. status-503, reset, garbage, ws, ws-80, large: as they say. All else: 200.
    """

    def __init__(self, name: str = "ok", address: Any = ("127.0.0.1", 0)) -> None:
        self.name = name
        self.mode = ""
        self.requests: list[Request] = []
        #: Lines that every answer has besides.
        self.extra: list[str] = []
        #: What requests that have come wait for.
        self._gate = threading.Event()
        self._open: set[socket.socket] = set()
        if isinstance(address, str):
            self._listener = socket.socket(socket.AF_UNIX)
            self._listener.bind(address)
            self._listener.listen()
            self.url, self.port = f"unix:{address}", 0
        else:
            v6 = ":" in address[0]
            self._listener = socket.create_server(address, family=socket.AF_INET6 if v6 else socket.AF_INET)
            self.port = self._listener.getsockname()[1]
            self.url = f"http://[{address[0]}]:{self.port}" if v6 else f"http://{address[0]}:{self.port}"
        threading.Thread(target=self._accept, daemon=True).start()

    def let_go(self) -> None:
        """Those that wait go on; those that come later wait anew."""
        gate, self._gate = self._gate, threading.Event()
        gate.set()

    def got(self, mark: str) -> Request:
        """The only request with these letters in its target or its fields, once it is there."""
        found = wait(lambda: self.all(mark), mark)
        assert len(found) == 1, found
        return found[0]

    def all(self, mark: str) -> list[Request]:
        return [each for each in list(self.requests) if mark.encode() in each.raw]

    def end(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.let_go()
        for conn in list(self._open):
            with contextlib.suppress(OSError):
                conn.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            try:
                conn, _ = self._listener.accept()
            except OSError:
                return
            self._open.add(conn)
            threading.Thread(target=self._serve, args=(conn,), daemon=True).start()

    def _serve(self, conn: socket.socket) -> None:
        reader = Reader(conn)
        with conn, contextlib.suppress(OSError, EOFError):
            while True:
                first, fields, raw = reader.head()
                body = reader.body(fields, 0)
                method, target = first.split(" ")[:2]
                request, gate = Request(method, target, fields, body, raw), self._gate
                self.requests.append(request)
                self._answer(conn, request, gate)
        self._open.discard(conn)

    def _answer(self, conn: socket.socket, request: Request, gate: threading.Event) -> None:
        way = self.mode or request.target.partition("?")[0].rpartition("/")[2]
        word, _, number = way.partition("-")
        status, body = 200, self.name.encode()
        if word == "hold":
            gate.wait(PATIENCE)
        elif word == "delay":
            time.sleep(int(number) / 1000)
        elif word == "status":
            status = int(number)
        elif word == "reset":
            conn.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            raise EOFError
        elif word == "garbage":
            conn.sendall(b"what?\r\n\r\n")
            raise EOFError
        elif word == "large":
            body = b"0123456789abcdef" * 65536
        elif word == "half":
            conn.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n")
            gate.wait(PATIENCE)
            conn.sendall(b"4\r\nrest\r\n0\r\n\r\n")
            return
        elif word == "cut":
            conn.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nnot all")
            raise EOFError
        elif word == "ws":
            time.sleep(int(number or 0) / 1000)
            self._switch(conn, request)
        extra = "".join(f"{line}\r\n" for line in self.extra)
        head = f"HTTP/1.1 {status} Word\r\n{extra}Content-Length: {len(body)}\r\n\r\n".encode("latin-1")
        conn.sendall(head if request.method == "HEAD" else head + body)

    def _switch(self, conn: socket.socket, request: Request) -> None:
        """Answers every piece with twice as much, until the client leaves."""
        key = request.only("Sec-WebSocket-Key").encode()
        accept = base64.b64encode(hashlib.sha1(key + _GUID).digest())
        switch = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        conn.sendall(b"%bSec-WebSocket-Accept: %b\r\n\r\n" % (switch, accept))
        while data := conn.recv(65536):
            conn.sendall(data + data)
        raise EOFError


class Reader:
    """Reads messages from a socket."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._data = b""

    def _more(self) -> None:
        data = self._sock.recv(65536)
        if not data:
            raise EOFError
        self._data += data

    def exactly(self, count: int) -> bytes:
        while len(self._data) < count:
            self._more()
        found, self._data = self._data[:count], self._data[count:]
        return found

    def until(self, mark: bytes) -> bytes:
        while mark not in self._data:
            self._more()
        found, _, self._data = self._data.partition(mark)
        return found

    def head(self) -> tuple[str, list[tuple[str, str]], bytes]:
        raw = self.until(b"\r\n\r\n")
        first, *lines = raw.decode("latin-1").split("\r\n")
        parts = (line.partition(":") for line in lines)
        return first, [(name, value.strip(" \t")) for name, _, value in parts], raw

    def body(self, fields: list[tuple[str, str]], otherwise: int | None) -> bytes:
        """As the fields say; without a length `otherwise` bytes, or for None all there is."""
        known = {name.lower(): value for name, value in fields}
        if known.get("transfer-encoding") == "chunked":
            pieces = []
            while size := int(self.until(b"\r\n"), 16):
                pieces.append(self.exactly(size))
                self.until(b"\r\n")
            self.until(b"\r\n")
            return b"".join(pieces)
        if "content-length" in known:
            return self.exactly(int(known["content-length"]))
        return self.rest() if otherwise is None else self.exactly(otherwise)

    def rest(self) -> bytes:
        with contextlib.suppress(EOFError, ConnectionResetError):
            while True:
                self._more()
        found, self._data = self._data, b""
        return found


# Clients.


class Answer(NamedTuple):
    status: int
    fields: list[tuple[str, str]]
    body: bytes

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.fields if key.lower() == name.lower()]

    def only(self, name: str) -> str:
        (value,) = self.all(name)
        return value

    @property
    def id(self) -> str:
        return self.only("X-Request-ID")


class Client:
    """A raw connection to a router; `address` is a port, a pair or a path."""

    def __init__(self, address: Any, source: str = "127.0.0.1") -> None:
        if isinstance(address, str):
            self.sock = socket.socket(socket.AF_UNIX)
            self.sock.connect(address)
        else:
            pair = address if isinstance(address, tuple) else ("127.0.0.1", address)
            own = None if ":" in pair[0] else (source, 0)
            self.sock = socket.create_connection(pair, PATIENCE, source_address=own)
        self.sock.settimeout(PATIENCE)
        self.reader = Reader(self.sock)

    def send(
        self, target: str, *lines: str, method: str = "GET", body: bytes = b"", host: str = HOST, version: str = "1.1"
    ) -> None:
        fields = [f"Host: {host}", *lines, *([f"Content-Length: {len(body)}"] if body else [])]
        head = f"{method} {target} HTTP/{version}\r\n" + "".join(f"{line}\r\n" for line in fields)
        self.sock.sendall(head.encode("latin-1") + b"\r\n" + body)

    def receive(self, method: str = "GET") -> Answer:
        first, fields, _ = self.reader.head()
        status = int(first.split(" ")[1])
        none = method == "HEAD" or status in (101, 204, 304)
        return Answer(status, fields, b"" if none else self.reader.body(fields, None))

    def ask(self, target: str, *lines: str, method: str = "GET", **more: Any) -> Answer:
        self.send(target, *lines, method=method, **more)
        return self.receive(method)

    def reset(self) -> None:
        """Leaves without a word."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *error: object) -> None:
        self.sock.close()


# The router.


class Log(logging.Handler):
    """What the router has logged, from DEBUG on."""

    def __init__(self) -> None:
        super().__init__("DEBUG")
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        record.getMessage()
        self.records.append(record)


def toml(**options: Any) -> str:
    return "".join(f"{name} = {json.dumps(value)}\n" for name, value in options.items())


class Bench:
    """A router in a thread, with servers and a collector; its observer is what `tracing` says.

    Args:
        sites: routes and pools in TOML.
        server, listener: further lines of those tables.
    """

    def __init__(self, folder: Path, collector: Collector, *, server: str = "") -> None:
        self.collector = collector
        self.log = Log()
        self.house = _bench.House(folder, self.log)
        self.folder = folder
        self.port: int = self.house.port
        self.server = server
        self.sites = ""
        self.listeners = ""
        self.samples_nothing = False
        self._written = ""
        self._servers: list[Backend] = []

    def backend(self, name: str = "ok", address: Any = ("127.0.0.1", 0)) -> Backend:
        self._servers.append(Backend(name, address))
        return self._servers[-1]

    def plugins(self, text: str) -> str:
        return str(self.house.plugins(text))

    def text(self, observers: str = "", *, server: str | None = None) -> str:
        return (
            f'[server]\ncontrol = "control"\ntrusted_proxies = ["{TRUSTED}"]\n'
            f"{self.server if server is None else server}\n"
            f'[[listeners]]\nbind = "127.0.0.1:{self.port}"\n{self.listeners}\n{self.sites}\n{observers}'
        )

    def tracing(self, **options: Any) -> None:
        """Runs with this observer: everything is sampled, the collector is told, unless the options say otherwise."""
        given = {"sampling": "always", "endpoint": self.collector.endpoint} | options
        kept = {name: value for name, value in given.items() if value is not None}
        self.samples_nothing = given["sampling"] == "never"
        self.run(self.text(f'[[observers]]\nuse = "tracing"\n{toml(**kept)}'))

    def plain(self) -> None:
        """Runs without an observer."""
        self.run(self.text())

    def run(self, text: str) -> None:
        if text == self._written:
            return
        self.house.text(text)
        if self._written:
            self.house.takes()
        else:
            self.house.up()
        self._written = text

    def client(self, address: Any = None, source: str = "127.0.0.1") -> Client:
        return Client(address or self.port, source)

    def ask(self, target: str, *lines: str, source: str = "127.0.0.1", address: Any = None, **more: Any) -> Answer:
        """One request on a connection of its own."""
        with self.client(address, source) as client:
            return client.ask(target, *lines, "Connection: close", **more)

    def trace(self, answer: Answer) -> Trace:
        """The trace that began with the request that was answered so."""
        return self.collector.trace(answer.id)

    def seen(self, target: str, *lines: str, **more: Any) -> tuple[Answer, Trace]:
        """Asks, and waits for the trace."""
        answer = self.ask(target, *lines, **more)
        return answer, self.trace(answer)

    def named(self, name: str) -> list[Seen]:
        """Server span, then client spans, of the request with this X-Request-ID, as far as they have come."""
        servers = [span for span in self.collector.spans() if span.get("lb.request_id") == name]
        below = [span for one in servers for span in self.collector.of(one.trace_id) if span.parent_id == one.span_id]
        return [*servers, *below]

    def seen_by_name(self, target: str, *lines: str, **more: Any) -> tuple[Answer, Trace]:
        """The same for answers that do not name the request."""
        name = f"named-{time.monotonic_ns()}"
        answer = self.ask(target, f"X-Request-ID: {name}", *lines, **more)
        server = wait(lambda: self.named(name), "no span")[0]
        return answer, self.collector.trace(server.trace_id)

    def flushed(self, target: str = "/barrier") -> None:
        """Returns once every span of requests that have ended is with the collector."""
        if self.samples_nothing:
            # Nothing can be asked for that would come last.
            time.sleep(0.08)
            return
        trace = f"{time.monotonic_ns():032x}"
        self.ask(target, f"traceparent: 00-{trace}-00000000000000b1-01")
        self.collector.trace(trace)

    def said(self, words: str) -> list[str]:
        """Lines of the log that an operator sees, with these words."""
        found = [each for each in self.log.records if each.levelno > logging.DEBUG]
        return [each.getMessage() for each in found if words in each.getMessage()]

    def end(self) -> None:
        for server in self._servers:
            server.let_go()
        self.house.end()
        for server in self._servers:
            server.end()


@contextlib.contextmanager
def running(folder: Path, collector: Collector, **more: Any) -> Iterator[Bench]:
    """A bench that is cleaned up; everything that a router changes in its process stays as it is."""
    with pytest.MonkeyPatch.context() as patch:
        for module in [each for name, each in sys.modules.items() if name.split(".")[0] == "router"]:
            for name in {"freeze_memory", "settle_memory"} & vars(module).keys():
                patch.setattr(module, name, lambda: None)
        # What waits is sent at once, so that no test does.
        patch.setenv("OTEL_BSP_SCHEDULE_DELAY", "5")
        loggers = [logging.getLogger(name) for name in ("router", "router_tracing")]
        levels = [logger.level for logger in loggers]
        bench = Bench(folder, collector, **more)
        for logger in loggers:
            logger.addHandler(bench.log)
            logger.setLevel("DEBUG")
        try:
            yield bench
            bench.end()
        finally:
            for server in bench._servers:
                server.end()
            for logger, level in zip(loggers, levels, strict=True):
                logger.removeHandler(bench.log)
                logger.setLevel(level)


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    receivers = load("otlp_receiver", Path(__file__).with_name("otlp_receiver.py"))
    with receivers.Receiver() as receiver:
        yield Collector(receiver)


def bench_of(build: Callable[[Bench], None], **more: Any) -> Any:
    """A fixture: one router for all tests of a module. `build` writes its sites."""

    @pytest.fixture(scope="module")
    def bench(collector: Collector, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
        with running(tmp_path_factory.mktemp("tracing"), collector, **more) as made:
            build(made)
            yield made

    return bench


FIRST = """
import router

class First:
    "Always the first by name; what is tried already is no candidate any more."
    def choose(self, candidates, exchange):
        return min(candidates, key=lambda endpoint: endpoint.identity)

class Strict:
    "Takes an endpoint out at its first failure."
    def observe(self, endpoint, outcome, now):
        return router.Eject("broke") if outcome.result == "failure" else None

class Guard:
    "Answers in place of the endpoint."
    def on_request(self, exchange):
        return router.Response(401, b"a key is needed")
    def on_response(self, exchange, headers):
        pass
"""
