"""The processes of a benchmark: started on their core, waited for, and ended in every path.

Everything that the harness starts goes through a Fleet; `workbench()` closes it and removes its folder, whatever
happened. No measuring here.
"""

import contextlib
import http.client
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from bench_usage import members

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class BenchError(Exception):
    """The benchmark cannot go on as asked; the message says why and what would help."""


class Pinning(NamedTuple):
    """Command prefixes for the proxies and for load and backends, and a sentence that says what holds."""

    proxy: tuple[str, ...]
    load: tuple[str, ...]
    note: str


def pinning(taskset: str | None, cores: Sequence[int]) -> Pinning:
    """Promises proxies on the first core and the rest on the second, or nothing pinned and the reason.

    Args:
        taskset: path of the program, None if it is missing.
        cores: numbers of the cores this process may use.
    """
    if taskset is None:
        return Pinning((), (), "not pinned: taskset is missing (Debian: apt install util-linux)")
    if len(cores) < 2:
        return Pinning((), (), "not pinned: there is only one core, so proxy, load and backends share it")
    first, second = sorted(cores)[:2]
    prefix = (taskset, "-c")
    return Pinning(
        (*prefix, str(first)), (*prefix, str(second)), f"proxies on core {first}, wrk and backends on core {second}"
    )


def available_pinning() -> Pinning:
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else ()
    return pinning(shutil.which("taskset"), sorted(cores))


@contextlib.contextmanager
def signals_deferred() -> Iterator[None]:
    """Promises that a stop signal takes effect only after the block, so that no step is left half done."""
    caught: list[int] = []
    old = {number: signal.signal(number, lambda got, _frame: caught.append(got)) for number in STOPPING}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
    if caught:
        signal.raise_signal(caught[0])


class Running(NamedTuple):
    """A started process: leader of its own session, output in a file."""

    name: str
    popen: subprocess.Popen[bytes]
    log: Path

    @property
    def session(self) -> int:
        return self.popen.pid

    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def last_words(self) -> str:
        return "\n".join(self.output().strip().splitlines()[-8:])


class Fleet:
    """All processes of one benchmark and the folder for their files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._running: list[Running] = []
        self._started = 0

    def start(self, name: str, command: Sequence[str], env: Mapping[str, str] | None = None) -> Running:
        """Starts a command in a session of its own.

        Raises:
            BenchError: the program cannot be executed.
        """
        self._started += 1
        log = self.folder / f"{self._started}-{name}.log"
        with signals_deferred(), log.open("wb") as out:
            try:
                popen = subprocess.Popen(
                    list(command),
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, **(env or {})},
                    start_new_session=True,
                )
            except OSError as error:
                raise BenchError(f"{name}: {error.strerror}: {command[0]}") from error
            running = Running(name, popen, log)
            self._running.append(running)
        return running

    def run(self, name: str, command: Sequence[str], timeout: float) -> tuple[int, str]:
        """Runs a command to its end, `timeout` seconds at most; returns exit code and output.

        Raises:
            BenchError: it cannot be executed, or took too long.
        """
        running = self.start(name, command)
        try:
            code = running.popen.wait(timeout)
        except subprocess.TimeoutExpired:
            raise BenchError(f"{name}: no end after {timeout:.0f} s") from None
        finally:
            self.end(running)
        return code, running.output()

    def end(self, *processes: Running) -> None:
        """Ends these processes: asked first, forced after 5 seconds."""
        with signals_deferred():
            for process in processes:
                _signal_group(process, signal.SIGTERM)
            deadline = time.monotonic() + 5
            for process in processes:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.popen.wait(max(0.0, deadline - time.monotonic()))
                _signal_group(process, signal.SIGKILL)
                process.popen.wait()
                _wait_until_gone(process.session)
                self._running.remove(process)

    def close(self) -> None:
        self.end(*self._running)


def _signal_group(process: Running, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.popen.pid, number)


def _wait_until_gone(session: int) -> None:
    # The leader was waited for; the others were killed with it, but die a moment later.
    deadline = time.monotonic() + 2
    while members(session) and time.monotonic() < deadline:
        time.sleep(0.005)


@contextlib.contextmanager
def workbench() -> Iterator[Fleet]:
    """Promises a Fleet with a fresh folder; afterwards its processes are ended and the folder is gone."""
    folder = Path(tempfile.mkdtemp(prefix="side-by-side-"))
    fleet = Fleet(folder)
    try:
        yield fleet
    finally:
        with signals_deferred():
            fleet.close()
            shutil.rmtree(folder, ignore_errors=True)


def free_ports(count: int) -> list[int]:
    """Promises distinct ports of 127.0.0.1 that were free a moment ago."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def wait_until_serving(process: Running, port: int, path: str, size: int, post: int, timeout: float = 20) -> None:
    """Waits for the right answer: status 200 and `size` bytes, to GET or to POST of `post` bytes.

    Raises:
        BenchError: it ended, or did not answer so within `timeout` seconds; with its last lines of output.
    """
    deadline = time.monotonic() + timeout
    seen = "no answer"
    while process.popen.poll() is None and time.monotonic() < deadline:
        try:
            status, length = ask(port, path, post)
        except (OSError, http.client.HTTPException) as error:
            seen = f"{type(error).__name__}: {error}"
        else:
            if (status, length) == (200, size):
                return
            seen = f"status {status} with {length} bytes in place of 200 with {size}"
        time.sleep(0.05)
    code = process.popen.poll()
    how = seen if code is None else f"it ended with code {code}"
    raise BenchError(f"{process.name} does not serve: {how}\n{process.last_words()}".rstrip())


def ask(port: int, path: str, post: int = 0) -> tuple[int, int]:
    """Promises status and body length of one request to a port of 127.0.0.1."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    with contextlib.closing(connection):
        connection.request("POST" if post else "GET", path, b"x" * post or None)
        response = connection.getresponse()
        return response.status, len(response.read())


def is_chunked(port: int, path: str) -> bool:
    """Promises whether the answer comes in chunks."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    with contextlib.closing(connection):
        connection.request("GET", path)
        response = connection.getresponse()
        response.read()
        return response.getheader("Transfer-Encoding") == "chunked"
