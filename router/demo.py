"""`router demo`: three example servers, the router in front of them, and a line for each request.

The servers are processes of their own, so that one can be killed to see what happens; this file is their
program too, and therefore imports the standard library alone. A server ends when its standard input does: none
outlives the demo, however that ends. The lines come from an observer, which any configuration could name as well.
"""

from __future__ import annotations

import shlex
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from router.config import Config, ListenerTls

__all__ = ["ExampleServer", "ShowRequests", "run_demo"]

_NAMES = ("one", "two", "three")
_COLOURS = {"one": "36", "two": "33", "three": "35"}
#: Seconds that /slow takes: long enough to send more requests meanwhile.
_SLOW = 2.0
#: Where --tls keeps its authority, in the folder that the demo is started in: a browser is told of it only once.
_TLS_FOLDER = "router-tls"
#: Seconds that a server gets to end by itself.
_PATIENCE = 3.0


def run_demo(listen: str, tls: bool = False, trace: str = "") -> int:
    """Runs the servers and the router until Ctrl-C or SIGTERM; returns the exit code.

    Args:
        listen: address of the router, as in a listener's `bind`.
        tls: whether the router answers https, with a certificate of an authority of its own.
        trace: address of a page that shows the requests as traces; "" for none.
    """
    if trace and (trouble := _why_not(trace)):
        return _refuse(f"the page of traces cannot listen on {trace}: {trouble}", "trace", "127.0.0.1:16688")
    servers: list[ExampleServer] = []
    try:
        for name in _NAMES:
            servers.append(ExampleServer(name))
        return _route(listen, servers, tls, trace)
    except KeyboardInterrupt:
        return 0
    finally:
        for server in servers:
            server.stop()


def _refuse(why: str, option: str, other: str) -> int:
    print(f"router: {why}\nChoose another address: router demo --{option} {other}", file=sys.stderr)
    print(f"                    or: make demo {option.upper()}={other}", file=sys.stderr)
    return 1


def _why_not(address: str) -> str:
    """Why nobody can listen there; "" if one can. Of itself the page joins another router's, as upgrades need it."""
    host, _, port = address.rpartition(":")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host.strip("[]"), int(port)), family=family).close()
    except (OSError, ValueError) as error:
        # What create_server adds in brackets is the address again.
        return getattr(error, "strerror", "").partition(" (")[0] or "a page needs host:port"
    return ""


def _route(listen: str, servers: Sequence[ExampleServer], tls: bool, trace: str) -> int:
    from router.app import Router, StartError
    from router.prepare import prepare

    prepared = prepare(_config(listen, servers, tls, trace), None, Path.cwd())
    introduction = iter([_introduction(listen, servers, tls, trace)])

    def announce(_line: str) -> None:
        # The first line comes when the router is up; the demo has its own words for the rest.
        for text in introduction:
            print(text, flush=True)

    try:
        Router(prepared).serve(announce)
    except StartError as error:
        return _refuse(str(error), "listen", "127.0.0.1:8081")
    print("\nStopped: the router and its three servers.", flush=True)
    return 0


def _config(listen: str, servers: Sequence[ExampleServer], tls: bool, trace: str) -> Config:
    from router.config import Config, Duration, ListenerConfig, PoolConfig, RetryConfig, RouteConfig, ServerConfig
    from router.model import EndpointSpec

    endpoints = tuple(EndpointSpec(server.url, id=server.name) for server in servers)
    tracing = {"use": "tracing", "sampling": "always", "export": "none", "viewer": trace}
    return Config(
        server=ServerConfig(shutdown_timeout=Duration(_SLOW + 1)),
        listeners=(ListenerConfig(listen, tls=_tls(listen) if tls else None),),
        routes=(RouteConfig("web", name="web"),),
        pools=(PoolConfig("web", endpoints, retry=RetryConfig(on=("connect", "reset", "timeout", "503"))),),
        observers=("router.demo:ShowRequests", *([tracing] if trace else [])),
    )


def _tls(listen: str) -> ListenerTls:
    from router.config import ListenerTls
    from router.configforms import parse_bind

    host = parse_bind(listen).host
    own = [] if host in ("", "0.0.0.0", "::") else [host]
    names = ["localhost", "127.0.0.1", "::1", *own]
    return ListenerTls(certificates=({"use": "self_signed", "names": names, "folder": _TLS_FOLDER},))


def _introduction(listen: str, servers: Sequence[ExampleServer], tls: bool, trace: str) -> str:
    url = f"https://{listen}" if tls else f"http://{listen}"
    authority = Path.cwd() / _TLS_FOLDER / "ca.pem"
    curl = f"curl --cacert {shlex.quote(str(authority))}" if tls else "curl"
    lines = ["", "Three example servers, and the router in front of them:", ""]
    lines += [f"  {_paint(server.name, 6)}  {server.url}  (process {server.pid})" for server in servers]
    lines += [
        f"  router {url}",
        *([f"  authority to trust, in browsers too: {authority}"] if tls else []),
        *([f"  traces http://{trace}/  (a file for Jaeger: http://{trace}/traces.json)"] if trace else []),
        "",
        "Try in another terminal:",
        "",
        f"  {curl} {url}/hello",
        f"  for i in 1 2 3 4 5 6; do {curl} -s {url}/ | head -n 1; done",
        f"  {curl} {url}/slow & {curl} {url}/slow & {curl} {url}/fast; wait",
        f"  for i in 1 2 3; do {curl} -s {url}/slow & done; sleep 1; kill {servers[2].pid}; wait    # one ends mid-way",
        f"  for i in $(seq 20); do {curl} -s {url}/flaky | head -n 1; done    # fails at two: retries until it is out",
        "",
        "Each request shows here. Ctrl-C stops everything.",
        "",
    ]
    return "\n".join(lines)


def _paint(name: str, width: int = 0) -> str:
    from router.cli_output import is_coloured

    text = f"{name:<{width}}"
    return f"\x1b[{_COLOURS.get(name, 0)}m{text}\x1b[0m" if is_coloured(sys.stdout) else text


class ShowRequests:
    """An observer that prints a line per request: method, path, status, milliseconds, servers tried."""

    def __init__(self, options: Any, tools: Any) -> None:
        self._clock = tools.clock

    def request_started(self, exchange: Any) -> bool:
        return True

    def attempt_started(self, token: bool, exchange: Any, attempt: Any, headers: Any) -> None:
        pass

    def attempt_ended(self, token: bool, exchange: Any, attempt: Any, outcome: Any) -> None:
        pass

    def request_ended(self, token: bool, exchange: Any, error: Exception | None) -> None:
        took = (self._clock() - exchange.started) * 1000
        status = exchange.status or getattr(error, "status", 0) or "-"
        servers = ", then ".join(_paint(endpoint.identity) for endpoint in exchange.tried) or "no server"
        print(f"{exchange.method:<6} {exchange.target:<24} {status}  {took:8.1f} ms  {servers}", flush=True)

    def endpoint_changed(self, endpoint: Any, cause: str) -> None:
        print(f"server {endpoint.identity}: {cause}", flush=True)

    def table_swapped(self, version: int) -> None:
        pass


class ExampleServer:
    """One server in a process of its own, listening on a free port of this machine.

    Raises:
        RuntimeError: if it does not come up.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        # A session of its own: Ctrl-C reaches the router alone, which lets requests under way finish first.
        self._process = subprocess.Popen(
            [sys.executable, "-I", __file__, name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        self._stopping = False
        assert self._process.stdout is not None
        port = self._process.stdout.readline().strip()
        if not port:
            self.stop()
            raise RuntimeError(f"the example server {name} did not start")
        self.url = f"http://127.0.0.1:{int(port)}"
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def _watch(self) -> None:
        assert self._process.stdout is not None
        self._process.stdout.read()
        if not self._stopping:
            print(f"server {_paint(self.name)} has stopped; the router goes on", flush=True)

    def stop(self) -> None:
        """Ends the process; at once if it does not end by itself."""
        self._stopping = True
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if hasattr(self, "_watcher"):
            self._watcher.join()
        assert self._process.stdout is not None
        self._process.stdout.close()


# From here on: the program of an example server.


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "example"
    sys_version = ""
    disable_nagle_algorithm = True
    #: Both head and body leave in one write, at the flush.
    wbufsize = -1
    name = ""

    def answer(self) -> None:
        received = self._read_body()
        path = self.path.partition("?")[0]
        if path == "/slow":
            time.sleep(_SLOW)
        lines = [f"server {self.name} answers {self.command} {self.path}", "", "It received:"]
        lines += [f"  {name}: {value}" for name, value in self.headers.items()]
        lines += [f"  and a body of {received} bytes"] if received else []
        body = "\n".join([*lines, ""]).encode()
        self.send_response(503 if path == "/flaky" and self.name == _NAMES[1] else 200)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = answer  # noqa: N815

    def _read_body(self) -> int:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return len(self.rfile.read(int(self.headers.get("Content-Length") or 0)))
        total = 0
        while size := int(self.rfile.readline().partition(b";")[0], 16):
            total += len(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return total

    def log_message(self, format: str, *args: Any) -> None:
        pass  # the router's lines are what the demo shows


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def server_bind(self) -> None:
        # The base class would look its own address up in the DNS.
        socketserver.TCPServer.server_bind(self)

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # a connection that breaks is no news here


def _serve_example(name: str) -> None:
    _Handler.name = name
    server = _Server(("127.0.0.1", 0), _Handler)
    print(server.server_address[1], flush=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdin.buffer.read()


if __name__ == "__main__":
    _serve_example(sys.argv[1])
