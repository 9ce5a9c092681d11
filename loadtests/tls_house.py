"""The house of tls.py: an authority and its certificates, proxies that speak TLS, and questions asked over TLS.

Everything is started through a Fleet, so all of it ends in every path. What is measured, and what must hold, stands
with the rows.
"""

import contextlib
import http.client
import os
import shlex
import socket
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import bench_peers as peers
from bench_configs import Site as Place
from bench_peers import Sources
from bench_procs import BenchError, Fleet, Pinning, Running, free_ports, wait_until_serving
from bench_rounds import Bench, Up
from change_client import Mix
from change_house import Record, Site
from fault_client import HOST
from fault_house import PATIENCE
from fault_report import Verdict, ends_well
from tls_configs import Setting, with_tls
from tls_files import NAME, Authority

#: Seconds between two attempts to reach what starts.
LOOK = 0.05


class Pace(NamedTuple):
    """How much of everything."""

    #: Seconds and number of the rounds with wrk; connections and number of the rounds with handshakes.
    seconds: int
    rounds: int
    connections: int
    turns: int
    swaps: int
    #: Seconds of load between two swaps.
    between: float
    #: Whether `testssl.sh` looks at all that it knows, or at protocols, ciphers, headers and a few vulnerabilities.
    thorough: bool
    #: Seconds that certificates of the directory are good for, which makes them due at two thirds of it.
    life: int


FULL = Pace(3, 7, 1500, 7, 100, 0.3, True, 45)
QUICK = Pace(1, 2, 200, 2, 8, 0.2, False, 24)


class Home(Site):
    """A house with an authority, whose router speaks TLS."""

    def __init__(self, fleet: Fleet, pins: Pinning, command: str, label: str = "") -> None:
        super().__init__(fleet, pins, command)
        # Several houses of one fleet have a folder each.
        self.folder = fleet.folder / label
        self.folder.mkdir(exist_ok=True)
        self.file = self.folder / "router.toml"
        self.control = self.folder / "control.sock"
        self.authority = Authority(self.folder / "authority")
        self.tls_port = free_ports(1)[0]

    @property
    def bench(self) -> Bench:
        return Bench(self.fleet, self.pins)

    @property
    def sources(self) -> Sources:
        """Where the other proxies are, which is where side_by_side.py has them."""
        venv = Path(os.environ.get("ROUTER_PEERS_VENV", peers.DEFAULT_VENV))
        return Sources(venv.expanduser(), self.command)

    def start(self, configuration: str, ready: Callable[[], object], label: str = "router") -> Running:
        """Starts the router and waits until `ready` raises nothing.

        Raises:
            BenchError: it does not come to that; with its last lines of output.
        """
        self.look()
        self.file.write_text(configuration)
        self.router = self.fleet.start(label, [*self.pins.proxy, *shlex.split(self.command), "run", str(self.file)])
        self.pids = [self.router.popen.pid]
        self._read = 0
        stand(self.router, ready)
        return self.router

    def ended(self) -> list[Verdict]:
        """Ends the router, if there is one; promises how it ended."""
        if self.router is None:
            return []
        code = self.stop_router()
        return [ends_well(Record([], [], [], self.log, [], Mix(), 0, code))]


def stand(process: Running, ready: Callable[[], object], seconds: float = PATIENCE) -> None:
    """Waits until a question to a process is answered well.

    Raises:
        BenchError: it ended, or `ready` still raised after so many seconds; with its last lines of output.
    """
    deadline, seen = time.monotonic() + seconds, "no answer"
    while process.popen.poll() is None and time.monotonic() < deadline:
        try:
            ready()
        except (OSError, ValueError, http.client.HTTPException) as error:
            seen = f"{type(error).__name__}: {error}"
        else:
            return
        time.sleep(LOOK)
    code = process.popen.poll()
    how = seen if code is None else f"it ended with code {code}"
    raise BenchError(f"{process.name} does not serve: {how}\n{process.last_words()}".rstrip())


def trusting(ca: Path) -> ssl.SSLContext:
    """Promises a client's settings: this authority alone is believed, chain, name and time are verified."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.load_verify_locations(ca)
    return made


def shaken(port: int, settings: ssl.SSLContext, name: str = NAME, seconds: float = 5) -> ssl.SSLSocket:
    """Promises a connection whose handshake is done.

    Raises:
        OSError: it was not; ssl.SSLError among them.
    """
    sock = socket.create_connection((HOST, port), seconds)
    try:
        return settings.wrap_socket(sock, server_hostname=name)
    except BaseException:
        sock.close()
        raise


def fetched(port: int, settings: ssl.SSLContext, path: str = "/", name: str = NAME) -> bytes:
    """Promises the body of a good answer.

    Raises:
        OSError, ValueError, http.client.HTTPException: there was none.
    """
    connection = http.client.HTTPConnection(name, port, timeout=5)
    connection.sock = shaken(port, settings, name)
    with contextlib.closing(connection):
        connection.request("GET", path)
        response = connection.getresponse()
        body = response.read()
    if response.status != 200:
        raise ValueError(f"status {response.status}")
    return body


def start_proxy(
    bench: Bench, name: str, label: str, endpoints: tuple[int, ...], sources: Sources, setting: Setting | None, ca: Path
) -> Up:
    """Starts a proxy in a folder of its own, with TLS if a setting is given, and waits for the right answer.

    Raises:
        BenchError: it is not here, or does not serve.
    """
    place = Place(bench.fleet.folder / label, free_ports(1)[0], endpoints)
    place.folder.mkdir()
    try:
        peer = peers.plan(name, place, sources)
    except peers.Absent as error:
        raise BenchError(f"{name} is not here ({error})") from error
    files = with_tls(name, peer.files, setting, place.port) if setting else peer.files
    for file, text in files.items():
        (place.folder / file).write_text(text)
    process = bench.fleet.start(label, [*bench.pins.proxy, *peer.command], peer.env)
    if setting is None:
        wait_until_serving(process, place.port, "/", 100, 0)
    else:
        settings = trusting(ca)
        stand(process, lambda: fetched(place.port, settings))
    return Up(peer._replace(name=label), process)
