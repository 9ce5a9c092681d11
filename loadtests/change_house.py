"""The house that changes.py rebuilds while it is lived in: servers, router and client, and every way to change things.

What is changed, and what must hold meanwhile, stands in change_scenarios.py.
"""

import contextlib
import http.client
import json
import os
import shlex
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from bench_procs import BenchError, Running, ask, free_ports, wait_until_serving
from bench_usage import PROC, TICKS_PER_SECOND, usage
from change_client import Mix, Tunnel, beside
from change_configs import VERSION
from fault_client import Seen
from fault_house import HERE, PATIENCE, House, Receipt, Said, free_addresses
from fault_servers import HEALTH

#: What `router run` calls for so that a changed file alone changes nothing.
UNWATCHED = "--no-watch"
#: Seconds between two looks at whether a change is in force.
LOOK = 0.01


#: The text of a configuration, by its number.
Text = Callable[[int], str]


class Pace(NamedTuple):
    """How often, and for how many seconds."""

    #: Load before the first change and after the last; load between two changes.
    around: float
    between: float
    told: int
    watched: int
    #: Rounds of all that can be done to members; sets of discovered ones.
    rounds: int
    sets: int
    listeners: int
    upgrades: int
    #: Of each kind of bad file.
    bad: int
    #: Seconds that a download takes on the endpoint that leaves, and after which it is cut in the second part.
    download: float
    cut: float
    large: int
    #: Reloads after which memory is read, and from which of these on it must be flat.
    marks: tuple[int, ...]
    since: int


FULL = Pace(1, 1.5, 67, 33, 2, 50, 20, 10, 20, 10, 2, 5, (50, 250, 500, 1000), 250)
QUICK = Pace(0.3, 0.5, 8, 4, 1, 6, 3, 2, 2, 2.5, 1, 2, (20, 60), 20)


class Phase(NamedTuple):
    """A time in which nothing changed: what was said to be in force, and the weights of the servers in service."""

    what: str
    begin: float
    end: float
    weights: Mapping[str, int]


class Record(NamedTuple):
    """All that one scenario left behind."""

    seen: list[Seen]
    tunnels: list[Tunnel]
    receipts: list[Receipt]
    log: list[Said]
    phases: list[Phase]
    mix: Mix
    #: Changes made.
    changes: int
    #: Exit code of the router.
    code: int
    #: Client connections that were closed, or announced to be, though the client would have gone on.
    ends: int = 0
    #: Cores that the client took on average.
    client_cores: float = 0


class Site(House):
    """A house whose configuration changes. Servers are named s1, s2, …, which are the ids of their endpoints too."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.folder = self.fleet.folder
        self.file = self.folder / "router.toml"
        self.control = self.folder / "control.sock"
        self.addresses: dict[str, str] = {}
        self.phases: list[Phase] = []
        #: Made so far; the configuration in force has this number, unless it was refused.
        self.step = 1
        self.changes = 0
        self.mix = Mix()
        #: Main processes of the router, the one that serves last.
        self.pids: list[int] = []
        #: Those of them that were still there when nothing was under way any more.
        self.survivors: list[int] = []
        self._begun = 0.0
        self._journal = self.folder / "servers.journal"

    # Processes

    def serve(self, count: int, slow: float = 2) -> None:
        """Starts so many servers, in one process; a slow download takes `slow` seconds."""
        self.addresses = {f"s{number + 1}": each for number, each in enumerate(free_addresses(count))}
        script = [sys.executable, str(HERE / "change_servers.py"), str(self._journal), str(slow)]
        pairs = [f"{name}={address}" for name, address in self.addresses.items()]
        self.wait_for("ready", self.fleet.start("servers", [*self.pins.load, *script, *pairs]))

    def route(self, configuration: str, *options: str) -> None:
        """Starts the router with the words of `run` and waits until it serves."""
        self.file.write_text(configuration)
        words = [*shlex.split(self.command), "run", *options, str(self.file)]
        self.router = self.fleet.start("router", [*self.pins.proxy, *words])
        self.pids = [self.router.popen.pid]
        wait_until_serving(self.router, self.port, HEALTH, 2, 0, PATIENCE)

    def load(self, mix: Mix) -> None:
        """Starts the client and waits until all its WebSockets stand."""
        self.mix = mix
        file = self.folder / "load.seen"
        script = [sys.executable, str(HERE / "change_client.py"), str(self.port), str(file), json.dumps(mix._asdict())]
        running = self.fleet.start("load", [*self.pins.load, *script])
        self._clients.append((running, file))
        self.wait_for("ready", running)
        self._begun = time.monotonic()

    def pulse(self, path: str) -> tuple[Running, Path]:
        """Starts a client that asks the router itself all the time; what is late will stand in the file."""
        file = self.folder / "pulse.late"
        script = [sys.executable, str(HERE / "change_pulse.py"), str(self.port), path, str(file)]
        running = self.fleet.start("pulse", [*self.pins.load, *script])
        self.wait_for("ready", running)
        return running, file

    def record(self) -> Record:
        """Ends the client, then the router; promises what all of them saw."""
        assert self.router is not None
        if self.router.popen.poll() is not None:
            raise BenchError(f"the router ended\n{self.router.last_words()}")
        cores = self._client_cores()
        seen = self.seen()
        tunnels, ends = (
            [json.loads(line) for file in of for line in file.read_text().splitlines()] for of in self._besides()
        )
        code = self.stop_router()
        return Record(
            seen,
            [Tunnel(*each) for each in tunnels],
            self.receipts(),
            self.log,
            self.phases,
            self.mix,
            self.changes,
            code,
            sum(count for (count,) in ends),
            cores,
        )

    def _besides(self) -> tuple[list[Path], list[Path]]:
        pairs = [beside(file) for _, file in self._clients]
        return [tunnels for tunnels, _ in pairs], [ends for _, ends in pairs]

    def _client_cores(self) -> float:
        used = [usage(running.session).ticks / TICKS_PER_SECOND for running, _ in self._clients]
        return sum(used) / (time.monotonic() - self._begun) if used else 0

    def stop_router(self) -> int:
        """Asks the router to end; promises its exit code. After an upgrade: that of the first process."""
        *old, pid = self.pids
        if not old:
            return super().stop_router()
        self.wait(PATIENCE, lambda: not alive(*old))
        self.survivors = alive(*old)
        os.kill(pid, signal.SIGTERM)
        self.wait(PATIENCE, lambda: not alive(pid))
        self.end_processes()
        assert self.router is not None
        return self.router.popen.wait()

    def end_processes(self) -> None:
        """Kills what is left of the router's processes: an upgrade starts some that the fleet does not know."""
        for pid in alive(*self.pids):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def close(self) -> None:
        self.end_processes()
        super().close()

    def receipts(self) -> list[Receipt]:
        text = self._journal.read_text() if self._journal.exists() else ""
        return [Receipt(*line.split(" ")) for line in text.splitlines()]

    # Changes

    def begin(self, pace: Pace, text: Text, *options: str, mix: Mix | None = None) -> None:
        """Starts the router and the load, and lets both run for a while."""
        self.route(text(self.step), *options)
        self.load(mix or Mix())
        self.wait(pace.around)

    def change(self, text: Text) -> None:
        """Writes the next configuration."""
        self.step += 1
        self.changes += 1
        self.write(text(self.step))

    def write(self, configuration: str) -> None:
        """Puts another file in its place, as careful editors do: nobody sees a part of it."""
        made = self.file.with_suffix(".new")
        made.write_text(configuration)
        made.replace(self.file)

    def hup(self) -> None:
        assert self.router is not None
        self.router.popen.send_signal(signal.SIGHUP)

    def upgrade(self) -> None:
        """Has the process that serves replaced by a new one, and waits until that one says so itself."""
        os.kill(self.pids[-1], signal.SIGUSR2)
        self.until("another process serves", lambda: self.pid() not in (0, *self.pids))
        self.pids.append(self.pid())

    def pid(self) -> int:
        """Promises the process that answers at the control socket; 0 while none does."""
        try:
            return int(self.ask("status")["pid"])
        except (OSError, ValueError):
            return 0

    def call(self, *words: str) -> str:
        """Runs a command of the router against this one, as an operator would; promises its output.

        Raises:
            BenchError: it failed.
        """
        command = [*self.pins.load, *shlex.split(self.command), *words, "--control", str(self.control)]
        code, output = self.fleet.run(f"router {words[0]}", command, PATIENCE)
        if code:
            raise BenchError(f"`router {' '.join(words)}` ended with code {code}: {output.strip()}")
        return output

    def ask(self, do: str) -> Any:
        """Promises the result of a question to the control socket.

        Raises:
            OSError, ValueError: nobody answers there.
            BenchError: the answer is no.
        """
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(PATIENCE)
            sock.connect(str(self.control))
            sock.sendall(json.dumps({"do": do}).encode() + b"\n")
            with sock.makefile("rb") as file:
                answer = json.loads(file.readline())
        if not answer["ok"]:
            raise BenchError(f"the router refused to {do}: {answer['text']}")
        return answer["result"]

    # What is in force

    def version(self) -> int:
        """Promises the number of the configuration that requests meet now."""
        try:
            status, size = ask(self.port, VERSION)
        except (OSError, http.client.HTTPException) as error:
            raise BenchError(f"the router did not answer {VERSION}: {error!r}") from error
        return size if status == 200 else -status

    def until(self, what: str, condition: Callable[[], bool], seconds: float = PATIENCE) -> None:
        """Waits while reading the log.

        Raises:
            BenchError: it did not become true in time; with what the router said last.
        """
        deadline = time.monotonic() + seconds
        while not condition():
            assert self.router is not None
            if time.monotonic() > deadline:
                raise BenchError(f"not within {seconds:g} s: {what}\n{self.router.last_words()}")
            self.look()
            time.sleep(LOOK)

    def in_force(self, size: int = 0) -> None:
        """Waits until requests meet the configuration that was written last.

        Args:
            size: what that one answers at VERSION, if it is not its number.
        """
        self.until(f"change {self.step} in force", lambda: self.version() == (size or self.step))

    def all_taken(self) -> None:
        """Raises BenchError if not every configuration that was written was taken, or another was besides."""
        version = self.ask("status")["config"]["version"]
        if version != self.step:
            raise BenchError(f"{version} configurations were taken in place of {self.step}")

    def phase(self, what: str, weights: Mapping[str, int], seconds: float) -> None:
        """Lets time pass in which nothing changes."""
        begin = time.monotonic()
        self.wait(seconds)
        self.phases.append(Phase(what, begin, time.monotonic(), weights))


def free_port() -> int:
    return free_ports(1)[0]


def alive(*pids: int) -> list[int]:
    """Promises those of these processes that run."""
    return [pid for pid in pids if _state(pid) not in "ZX"]


def _state(pid: int) -> str:
    try:
        return (PROC / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()[0]
    except OSError:
        return "X"
