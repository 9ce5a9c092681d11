"""The house that faults.py sets on fire: servers, the router and the client as processes, and what they left behind.

Everything is started through a Fleet, so all of it ends in every path. What is broken and what must then hold stands in
fault_scenarios.py.
"""

import contextlib
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import fault_client
from bench_procs import BenchError, Fleet, Pinning, Running, free_ports, wait_until_serving
from fault_client import Seen
from fault_servers import HEALTH, tell

HERE = Path(__file__).resolve().parent
#: Seconds between two looks at the router's log, which is how exact "time to eject" is.
LOOK = 0.01
#: Seconds that a process may take to start or to end.
PATIENCE = 30


class Pace(NamedTuple):
    """Seconds before the fault, of the fault, after recovery, most until recovery; and the load."""

    before: float
    fault: float
    after: float
    most: float
    gets: int
    posts: int
    #: Requests per second of each connection.
    rate: float
    #: Settings of the pools, as durations of the configuration.
    interval: str
    timeout: str
    base: str
    #: Seconds that sinkholes are measured once they must be out.
    sink: float


FULL = Pace(2, 5, 1, 9, 10, 6, 15, "500ms", "300ms", "2s", 4)
QUICK = Pace(0.4, 1.1, 0.2, 6, 10, 6, 12, "300ms", "300ms", "700ms", 1.5)


class Moments(NamedTuple):
    """When the fault began, was there, began to end, and was over: seconds of the monotonic clock."""

    fault: float
    broken: float
    ending: float
    healed: float


class Said(NamedTuple):
    """A line of the router's log, and when it was first seen."""

    moment: float
    text: str


class Receipt(NamedTuple):
    """A request that a server received, in whatever state it then was."""

    method: str
    key: str
    mode: str
    server: str


class Record(NamedTuple):
    """All that one scenario left behind."""

    seen: list[Seen]
    receipts: list[Receipt]
    log: list[Said]
    moments: Moments
    #: Names of the servers that were broken, and their endpoints as the log names them.
    faulty: tuple[str, ...]
    endpoints: tuple[str, ...]
    #: Exit code of the router, which is asked to end after all.
    code: int


class Server:
    """One server process; killed, stopped and started again under the same address."""

    def __init__(self, house: "House", name: str, addresses: Sequence[str]) -> None:
        self.name = name
        self.addresses = addresses
        self._house = house
        self._control = house.fleet.folder / f"{name}.sock"
        self.journal = house.fleet.folder / f"{name}.journal"
        self.running: Running | None = None

    @property
    def endpoint(self) -> str:
        return f"http://{self.addresses[0]}"

    def start(self) -> None:
        script = [sys.executable, str(HERE / "fault_servers.py"), self.name, str(self.journal), str(self._control)]
        self.running = self._house.fleet.start(self.name, [*self._house.pins.load, *script, *self.addresses])

    def stand(self) -> None:
        """Waits until it listens. Raises BenchError if it does not."""
        assert self.running is not None
        self._house.wait_for("ready", self.running)

    def tell(self, mode: str, delay: float = 0) -> int:
        """Turns it to a mode; promises the probes answered so far. Raises BenchError if it does not obey."""
        try:
            return tell(self._control, mode, delay)
        except OSError as error:
            raise BenchError(f"server {self.name} does not obey: {error}") from error

    def send(self, number: signal.Signals) -> None:
        assert self.running is not None
        self.running.popen.send_signal(number)

    def end(self, number: signal.Signals) -> None:
        """Sends the signal and waits until the process is gone."""
        assert self.running is not None
        self.send(number)
        try:
            self.running.popen.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            raise BenchError(f"server {self.name} did not end") from None
        self._house.fleet.end(self.running)
        self.running = None

    def receipts(self) -> list[Receipt]:
        text = self.journal.read_text() if self.journal.exists() else ""
        return [Receipt(*line.split(" ")) for line in text.splitlines()]


class House:
    """Servers, the router in front of them, and one client or several."""

    def __init__(self, fleet: Fleet, pins: Pinning, command: str) -> None:
        self.fleet, self.pins, self.command = fleet, pins, command
        self.servers: list[Server] = []
        self.router: Running | None = None
        self.port = free_ports(1)[0]
        #: What the router has logged, as far as it was looked at.
        self.log: list[Said] = []
        self._read = 0
        self._clients: list[tuple[Running, Path]] = []

    # Processes

    def serve(self, *sizes: int) -> None:
        """Starts a server process for each number, listening at so many addresses."""
        addresses = iter(free_addresses(sum(sizes)))
        for number, size in enumerate(sizes):
            self.servers.append(Server(self, f"s{number + 1}", [next(addresses) for _ in range(size)]))
        for server in self.servers:
            server.start()
        for server in self.servers:
            server.stand()

    def route(self, configuration: str) -> None:
        """Starts the router and waits until it serves."""
        file = self.fleet.folder / "router.toml"
        file.write_text(f'[[listeners]]\nbind = "127.0.0.1:{self.port}"\n{configuration}')
        self.router = self.fleet.start("router", [*self.pins.proxy, *shlex.split(self.command), "run", str(file)])
        wait_until_serving(self.router, self.port, HEALTH, 2, 0)

    def load(self, label: str, gets: int, posts: int, rate: float, field: str = "") -> None:
        """Starts a client."""
        file = self.fleet.folder / f"{label}.seen"
        script = [sys.executable, str(HERE / "fault_client.py"), str(self.port), label, str(gets), str(posts)]
        command = [*self.pins.load, *script, str(rate), str(file), *([field] if field else [])]
        running = self.fleet.start(label, command)
        self._clients.append((running, file))
        self.wait_for("ready", running)

    def wait_for(self, word: str, running: Running) -> None:
        deadline = time.monotonic() + PATIENCE
        while not running.output().startswith(word):
            if running.popen.poll() is not None or time.monotonic() > deadline:
                raise BenchError(f"{running.name} did not start\n{running.last_words()}")
            self.look()
            time.sleep(LOOK)

    def stop_router(self) -> int:
        """Asks the router to end; promises its exit code, -9 if it did not end."""
        assert self.router is not None
        router = self.router.popen
        router.terminate()
        if not self.wait(PATIENCE, lambda: router.poll() is not None):
            router.kill()
        code = router.wait()
        self.look()
        return code

    def seen(self) -> list[Seen]:
        """Ends the clients and promises what they saw, in order of time.

        Raises:
            BenchError: one of them did not end well.
        """
        found: list[Seen] = []
        for running, _ in self._clients:
            running.popen.terminate()
        # What is under way may hang, and the client itself says so in the end.
        self.wait(fault_client.PATIENCE + 10, lambda: all(one.popen.poll() is not None for one, _ in self._clients))
        for running, file in self._clients:
            if running.popen.poll() != 0:
                raise BenchError(f"{running.name} did not end well\n{running.last_words()}")
            found += [Seen(*json.loads(line)) for line in file.read_text().splitlines()]
        return sorted(found, key=lambda each: each.sent)

    def close(self) -> None:
        """Lets servers that were stopped go on, so that they can end."""
        for server in self.servers:
            if server.running is not None:
                with contextlib.suppress(OSError):
                    server.send(signal.SIGCONT)
        self.fleet.close()

    # Time

    def wait(self, seconds: float, until: Callable[[], bool] = lambda: False) -> bool:
        """Waits while reading the log; promises whether it became true in time."""
        deadline = time.monotonic() + seconds
        while not until():
            if time.monotonic() >= deadline:
                return False
            self.look()
            time.sleep(LOOK)
        return True

    def look(self) -> None:
        """Reads what the router has logged since the last look."""
        if self.router is None:
            return
        with self.router.log.open("rb") as file:
            file.seek(self._read)
            data = file.read()
        whole, newline, _ = data.rpartition(b"\n")
        self._read += len(whole) + len(newline)
        now = time.monotonic()
        self.log += [Said(now, line) for line in whole.decode(errors="replace").splitlines()]

    def is_well(self) -> bool:
        """Whether the router's log says that every endpoint is in service."""
        self.look()
        return not any(is_out(self.log, server.endpoint) for server in self.servers)

    def receipts(self) -> list[Receipt]:
        return [receipt for server in self.servers for receipt in server.receipts()]


def is_out(log: Sequence[Said], endpoint: str) -> bool:
    """Whether, by the log, this endpoint is ejected, on probation or down."""
    ejected = down = False
    for said in about(log, endpoint):
        what = said.text
        ejected = what.startswith(("ejected", "ejection over")) or (ejected and not what.startswith("back in service"))
        down = what.startswith("down") or (down and not what.startswith("up:"))
    return ejected or down


def about(log: Sequence[Said], endpoint: str, begin: float = 0) -> list[Said]:
    """Promises what the log says of an endpoint from a moment on: the words behind its name."""
    mark = f"endpoint {endpoint}: "
    return [
        Said(said.moment, said.text.partition(mark)[2]) for said in log if mark in said.text and said.moment >= begin
    ]


def free_addresses(count: int) -> list[str]:
    """Promises distinct addresses of a network of this process's own, with a port that is free at all of them.

    Nobody else connects from there, so the port of a server that is down is neither taken nor reached by chance.
    """
    own = os.getpid()
    second, third = own >> 8 & 63 | 64, own & 255
    addresses = [f"127.{second}.{(third + number // 250) % 256}.{number % 250 + 2}" for number in range(count)]
    for _ in range(20):
        port = free_ports(1)[0]
        try:
            with contextlib.ExitStack() as stack:
                for address in addresses:
                    stack.enter_context(socket.create_server((address, port)))
        except OSError:
            continue
        return [f"{address}:{port}" for address in addresses]
    raise BenchError(f"no port is free at {addresses[0]} and those behind it")
