"""Binary upgrade: a successor that serves, one that fails, and clients that notice neither."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import logging
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop

from router import successor
from router.configforms import parse_bind
from router.net.sockets import PassedSocket, Sockets
from router.net.systemd import Notifier
from router.successor import UpgradeError, start_successor
from router.upgrade import Predecessor, Upgrader

SERVER = Path(__file__).parent / "upgrade_server.py"
Run = Callable[[Coroutine[Any, Any, Any]], Any]
#: Seconds after which a test that waits has failed.
PATIENCE = 30.0
#: The code of a successor that is ready.
READY = "os.write(pipe, b'ready\\n')"


@pytest.fixture(params=["uvloop", "asyncio"])
def run(request: pytest.FixtureRequest) -> Run:
    """Runs a coroutine on one of the loops."""
    chosen: Run = {"uvloop": uvloop.run, "asyncio": asyncio.run}[request.param]
    return chosen


@pytest.fixture
def listening() -> Iterator[PassedSocket]:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield PassedSocket(sock, False)


def program(code: str) -> list[str]:
    """A command line of one that starts quickly: without this project's modules."""
    return [
        sys.executable,
        "-S",
        "-c",
        f"import os, signal, sys, time\npipe = int(os.environ['ROUTER_READY_FD'])\n{code}",
    ]


def is_running(pid: int) -> bool:
    """Zombies, whose exit code nobody has asked for, do not run."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def eventually(holds: Callable[[], Any]) -> Any:
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        if found := holds():
            return found
        time.sleep(0.01)
    return pytest.fail("never came true")


# One successor.


def test_a_successor_that_is_ready_goes_on_when_the_loop_closes(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "out"
    code = f"{READY}\nfor _ in range(1000):\n time.sleep(0.01)\n os.path.exists({str(out)!r}) and sys.exit()"
    pid = run(start_successor([], command=program(code)))
    try:
        assert is_running(pid)
    finally:
        out.touch()
    eventually(lambda: not is_running(pid))


def test_it_gets_sockets_variables_and_the_folder_of_the_start(
    run: Run, tmp_path: Path, listening: PassedSocket
) -> None:
    out = tmp_path / "out"
    lent = PassedSocket(listening.sock.dup(), True)
    code = f"""
import socket
given = os.environ["ROUTER_SOCKETS"].replace("lent:", "").split(",")
ports = [socket.socket(fileno=int(number)).getsockname()[1] for number in given]
with open({str(out)!r}, "w") as file:
    print(os.environ["ROUTER_SOCKETS"], ports, os.environ["WATCHDOG_USEC"], os.getcwd(), sep="|", file=file, flush=True)
os.write(pipe, b"ready\\n")
"""
    with lent.sock:
        numbers = f"{listening.sock.fileno()},lent:{lent.sock.fileno()}"
        run(start_successor([listening, lent], environment={"WATCHDOG_USEC": "7"}, command=program(code)))
    port = listening.sock.getsockname()[1]
    assert out.read_text() == f"{numbers}|{[port, port]}|7|{os.getcwd()}\n"
    assert "ROUTER_SOCKETS" not in os.environ


def test_it_is_nobodys_child_once_it_serves(run: Run, tmp_path: Path) -> None:
    """But that of the service manager, which would not wait for the end of another's."""
    out = tmp_path / "out"
    code = f"{READY}\nwhile not os.path.exists({str(out)!r}):\n time.sleep(0.01)"
    pid = run(start_successor([], command=program(code)))
    try:
        parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        assert parent != os.getpid()
        assert b"waiting.poll()" not in Path(f"/proc/{parent}/cmdline").read_bytes()
    finally:
        out.touch()


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("sys.exit(3)", "exit code 3 before"),
        ("os.close(pipe)\nsys.exit()", "exit code 0 before"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "ended by SIGKILL before"),
        ("os.kill(os.getpid(), 40)", "ended by signal 40 before"),
        ("os.kill(os.getpid(), signal.SIGINT)\ntime.sleep(60)", "exit code 130 before"),
        ("os.write(pipe, b'never\\n')\nsys.exit(4)", "exit code 4 before"),
    ],
)
def test_one_that_ends_early_is_said(run: Run, code: str, reason: str) -> None:
    with pytest.raises(UpgradeError, match=reason):
        run(start_successor([], command=program(code)))


def test_one_that_is_never_ready_is_ended(run: Run, started: list[subprocess.Popen[bytes]]) -> None:
    with pytest.raises(UpgradeError, match=r"not ready in time, which is 0.2 s at most"):
        run(start_successor([], seconds=0.2, command=program("time.sleep(60)")))
    # On a busy machine it had not begun by then.
    assert started[0].returncode in (-signal.SIGTERM, 1)


@pytest.mark.parametrize(("deaf", "code"), [(False, -signal.SIGTERM), (True, -signal.SIGKILL)])
def test_it_ends_when_the_waiting_is_given_up(
    run: Run, deaf: bool, code: int, started: list[subprocess.Popen[bytes]], tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(successor, "_ENDING", 0.3 if deaf else PATIENCE)
    begin = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" * deaf + f"open({str(tmp_path / 'out')!r}, 'w')\n"
    run(given_up(f"{begin}time.sleep(60)", tmp_path / "out"))
    assert [child.returncode for child in started] == [code]


async def given_up(code: str, out: Path) -> None:
    """Starts a successor, and gives it up once it has written to `out`."""
    task = asyncio.ensure_future(start_successor([], command=program(code)))
    while not out.exists():  # noqa: ASYNC110, ASYNC240 - a file of another process
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_one_that_is_given_up_at_once_never_begins(
    run: Run, started: list[subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    async def give_up() -> None:
        task = asyncio.ensure_future(start_successor([], command=program(f"open({str(tmp_path / 'out')!r}, 'w')")))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(give_up())
    assert [child.returncode for child in started] == [1]
    assert os.listdir(tmp_path) == []


def test_word_that_comes_too_late_is_refused(run: Run, tmp_path: Path) -> None:
    """It must not take the sockets for its own: it would remove files that the old process serves."""
    begun, out = tmp_path / "begun", tmp_path / "out"
    code = f"""
def late(*_):
    try:
        os.write(pipe, b"ready\\n")
    except OSError as error:
        with open({str(out)!r}, "w") as file:
            print(type(error).__name__, file=file)
    sys.exit()
signal.signal(signal.SIGTERM, late)
open({str(begun)!r}, "w")
time.sleep(60)
"""
    run(given_up(code, begun))
    assert out.read_text() == "BrokenPipeError\n"


def test_what_cannot_be_started_is_said(
    run: Run, listening: PassedSocket, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UpgradeError, match="exit code 127 before"):
        run(start_successor([], command=["/nowhere/router"]))
    assert "/nowhere/router: " in capfd.readouterr().err
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(UpgradeError, match=r"could not be started: .*No such file"):
        run(start_successor([], command=["true"]))
    listening.sock.close()
    with pytest.raises(UpgradeError, match="could not be started"):
        run(start_successor([listening], command=["true"]))

    def full() -> Any:
        raise OSError(24, "Too many open files")

    async def attempt() -> None:
        with monkeypatch.context() as patched:
            patched.setattr(socket, "socketpair", full)
            await start_successor([], command=["true"])

    with pytest.raises(UpgradeError, match="Too many open files"):
        run(attempt())


def test_the_loop_turns_while_it_starts(run: Run) -> None:
    async def count() -> int:
        turns = 0
        task = asyncio.ensure_future(start_successor([], command=program(f"time.sleep(0.2)\n{READY}")))
        while not task.done():
            await asyncio.sleep(0)
            turns += 1
        await task
        return turns

    assert run(count()) > 20


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen[bytes]]:
    """The processes that are started from now on. Each ends as the successor behind it does."""
    children: list[subprocess.Popen[bytes]] = []
    real = subprocess.Popen

    def start(*args: Any, **options: Any) -> subprocess.Popen[bytes]:
        children.append(real(*args, **options))
        return children[-1]

    monkeypatch.setattr(subprocess, "Popen", start)
    return children


# What the new process does.


def test_without_a_predecessor_nobody_is_told() -> None:
    nobody = Predecessor.from_environ({})
    assert not nobody.is_there
    assert nobody.tell_ready()


def test_a_predecessor_is_told_once() -> None:
    ours, theirs = socket.socketpair()
    with ours:
        environ = {"ROUTER_READY_FD": str(theirs.detach()), "OTHER": "stays"}
        predecessor = Predecessor.from_environ(environ)
        assert environ == {"OTHER": "stays"}
        assert predecessor.is_there
        assert predecessor.tell_ready()
        assert predecessor.tell_ready()
        assert ours.recv(100) == b"ready\n"
        assert ours.recv(100) == b""
        assert predecessor.is_there


def test_a_predecessor_that_has_gone_leaves_nothing_for_certain(caplog: pytest.LogCaptureFixture) -> None:
    ours, theirs = socket.socketpair()
    ours.close()
    predecessor = Predecessor.from_environ({"ROUTER_READY_FD": str(theirs.detach())})
    assert not predecessor.tell_ready()
    assert "does not listen any more" in caplog.text


@pytest.mark.parametrize("text", ["", "x", "-1", "999999", "9" * 30])
def test_a_variable_that_makes_no_sense_is_no_predecessor(text: str, caplog: pytest.LogCaptureFixture) -> None:
    assert not Predecessor.from_environ({"ROUTER_READY_FD": text}).is_there
    assert ("ignored" in caplog.text) is bool(text)


@pytest.mark.parametrize("named", ["", "/nowhere", "/"])
def test_the_folder_of_the_start_is_where_we_are(named: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PWD", named)
    assert successor._start_folder() == "."


def test_the_folder_of_the_start_keeps_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A link that leads to another release at the time of the upgrade."""
    (tmp_path / "one").mkdir()
    (tmp_path / "current").symlink_to("one")
    monkeypatch.chdir(tmp_path / "one")
    monkeypatch.setenv("PWD", str(tmp_path / "current"))
    assert successor._start_folder() == str(tmp_path / "current")


# One upgrade at a time.


class Upgraded:
    """An upgrader with its sockets, and what it did."""

    def __init__(self, *code: str) -> None:
        self.sockets = Sockets()
        self.done = asyncio.Event()
        command = program("\n".join(code))
        self.upgrader = Upgrader(self.sockets, Notifier(), self.done.set, command=command, seconds=PATIENCE)

    async def idle(self) -> None:
        async with asyncio.timeout(PATIENCE):
            while self.upgrader._task is not None:  # noqa: ASYNC110 - nobody else needs to know
                await asyncio.sleep(0.01)


def test_one_upgrade_at_a_time_and_none_after_it(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "router")

    async def upgrades() -> None:
        upgraded = Upgraded(READY)
        upgraded.upgrader.begin()
        upgraded.upgrader.begin()
        assert "under way already" in caplog.text
        await upgraded.done.wait()
        await upgraded.idle()
        assert "serves; this one ends" in caplog.text
        upgraded.upgrader.begin()
        assert "has taken over already" in caplog.text
        await upgraded.upgrader.close()

    run(upgrades())
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO", "INFO", "WARNING"]


def test_after_a_failure_it_can_be_tried_again(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    async def upgrades() -> None:
        upgraded = Upgraded("sys.exit(1)")
        for _ in range(2):
            upgraded.upgrader.begin()
            await upgraded.idle()
        assert not upgraded.done.is_set()

    run(upgrades())
    assert [record.levelname for record in caplog.records] == ["ERROR", "ERROR"]
    assert caplog.text.count("this process serves on: the new process") == 2


def test_the_end_of_the_process_ends_the_upgrade(
    run: Run, started: list[subprocess.Popen[bytes]], caplog: pytest.LogCaptureFixture
) -> None:

    async def upgrades() -> None:
        upgraded = Upgraded("time.sleep(60)")
        upgraded.upgrader.begin()
        while not started:  # noqa: ASYNC110 - a patched class
            await asyncio.sleep(0.01)
        await upgraded.upgrader.close()
        assert not upgraded.done.is_set()
        upgraded.upgrader.begin()

    run(upgrades())
    assert [bool(child.returncode) for child in started] == [True]
    assert "no upgrade: this process is ending" in caplog.text


def test_the_first_process_of_a_container_is_not_replaced(monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(os, "getpid", lambda: 1)
        upgrader = Upgrader(Sockets(), Notifier(), lambda: None)
    upgrader.begin()
    assert "first of its container" in caplog.text


# A server that is upgraded.


class Service:
    """The stand-in server and its successors, by process id. All that it has started has ended in the end."""

    def __init__(self, tmp_path: Path, loop: str, *binds: str, **environ: str) -> None:
        self.output = tmp_path / "output"
        self.pids: list[int] = []
        with self.output.open("w") as output:
            self.first = subprocess.Popen(
                [sys.executable, str(SERVER), loop, *binds],
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **environ},
                cwd=tmp_path,
            )
        try:
            self.await_line("serves")
        except BaseException:
            self.stop()
            raise

    def lines(self, word: str) -> list[str]:
        return [line for line in self.output.read_text().splitlines() if word in line]

    @property
    def starts(self) -> list[list[str]]:
        """What each process has said once it served: its number and its addresses."""
        return [line.split(maxsplit=2)[1:] for line in self.lines("serves ") if line.startswith("serves ")]

    def await_line(self, word: str, count: int = 1) -> str:
        found: list[str] = eventually(lambda: found if len(found := self.lines(word)) >= count else None)
        return found[-1]

    @property
    def pid(self) -> int:
        """Of the process that has said last that it serves."""
        return int(self.starts[-1][0])

    @property
    def address(self) -> tuple[str, int]:
        return ("127.0.0.1", int(self.starts[0][1].partition("('127.0.0.1', ")[2].partition(")")[0]))

    def upgrade(self) -> None:
        old = self.pid
        os.kill(old, signal.SIGUSR2)
        eventually(lambda: self.pid != old)
        eventually(lambda: not is_running(old))

    def answers(self, path: str = "") -> int:
        """The process that answers a request."""
        with socket.socket(socket.AF_UNIX if path else socket.AF_INET) as sock:
            sock.settimeout(PATIENCE)
            sock.connect(path or self.address)
            sock.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            return int(sock.recv(1000).rpartition(b"\n")[2])

    def stop(self) -> None:
        pids = {self.first.pid, *(int(words[0]) for words in self.starts)}
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                # By a descriptor: the number of one that has ended long ago may be another's.
                if is_running(pid) and b"upgrade_server" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    descriptor = os.pidfd_open(pid)
                    signal.pidfd_send_signal(descriptor, signal.SIGTERM)
                    if not select.select([descriptor], [], [], PATIENCE)[0]:
                        signal.pidfd_send_signal(descriptor, signal.SIGKILL)
                    os.close(descriptor)
        self.first.wait(PATIENCE)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Service]]:
    services: list[Service] = []

    def start(loop: str, *binds: str, **environ: str) -> Service:
        services.append(Service(tmp_path, loop, *binds, **environ))
        return services[-1]

    yield start
    for service in services:
        service.stop()


class Clients:
    """Clients that never pause: some with a new connection for each request, some that keep theirs."""

    def __init__(self, service: Service, path: str) -> None:
        self.service, self.path = service, path
        self.faults: collections.Counter[str] = collections.Counter()
        self.answers: collections.Counter[int] = collections.Counter()
        self.stopped = False

    async def ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Whether the connection stays open."""
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.partition(b"Content-Length: ")[2].partition(b"\r\n")[0])
        self.answers[int(await reader.readexactly(length))] += 1
        return b"Connection: close" not in head

    async def connect(self, path: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await (asyncio.open_unix_connection(path) if path else asyncio.open_connection(*self.service.address))

    async def work(self, name: str, path: str, *, keep: bool) -> None:
        streams: Any = None
        while not self.stopped:
            try:
                streams = streams or await self.connect(path)
                if not await self.ask(*streams) or not keep:
                    streams[1].close()
                    streams = None
            except (OSError, EOFError) as error:
                self.faults[f"{name}: {error!r}"] += 1
                streams = None
            await asyncio.sleep(0.001)
        if streams:
            streams[1].close()

    async def during(self, work: Callable[[], None]) -> None:
        kinds = [("fresh", "", False), ("unix", self.path, False), ("keep", "", True)]
        tasks = [asyncio.ensure_future(self.work(n, p, keep=k)) for n, p, k in kinds for _ in range(4)]
        try:
            await asyncio.to_thread(work)
        finally:
            self.stopped = True
            await asyncio.gather(*tasks)


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_five_upgrades_that_no_client_notices(start: Callable[..., Service], tmp_path: Path, loop: str) -> None:
    path = str(tmp_path / "s")
    service = start(loop, "127.0.0.1:0", f"unix:{path}")
    clients = Clients(service, path)

    def upgrade_often() -> None:
        for _ in range(5):
            service.upgrade()
            time.sleep(0.1)

    asyncio.run(clients.during(upgrade_often))
    assert clients.faults == {}
    assert len(clients.answers) == 6, "each process has answered"
    assert service.answers() == service.answers(path) == service.pid
    service.stop()
    assert not os.path.exists(path)


@pytest.mark.parametrize(("how", "why"), [("exit", "exit code 3"), ("kill", "SIGKILL"), ("close", "in time")])
def test_a_failing_successor_changes_nothing(start: Callable[..., Service], tmp_path: Path, how: str, why: str) -> None:
    path = str(tmp_path / "s")
    seconds = "1" if how == "close" else "30"
    service = start("uvloop", "127.0.0.1:0", f"unix:{path}", ROUTER_TEST=how, ROUTER_SECONDS=seconds)
    old = service.pid
    for count in (1, 2):
        os.kill(old, signal.SIGUSR2)
        said = service.await_line("serves on", count)
        assert why in said
        assert service.answers() == service.answers(path) == old


def test_a_stalled_successor_keeps_nobody_waiting(start: Callable[..., Service]) -> None:
    service = start("uvloop", "127.0.0.1:0", ROUTER_TEST="stall", ROUTER_SECONDS="60")
    old = service.pid
    os.kill(old, signal.SIGUSR2)
    service.await_line("starting the version")
    for _ in range(20):
        assert service.answers() == old
    os.kill(old, signal.SIGUSR2)
    service.await_line("under way already")


def test_a_successor_that_cannot_use_the_addresses_harms_nobody(start: Callable[..., Service], tmp_path: Path) -> None:
    """An own file is not removed by a successor that has the socket, but never came to serve."""
    path = str(tmp_path / "s")
    service = start("uvloop", f"unix:{path}", "127.0.0.1:0", ROUTER_TEST="bind")
    old = service.pid
    os.kill(old, signal.SIGUSR2)
    assert "exit code 1" in service.await_line("serves on")
    assert "cannot start: cannot listen on" in service.await_line("cannot start")
    assert service.answers(path) == old


def test_sockets_of_a_service_manager_are_passed_on(tmp_path: Path) -> None:
    """They keep their file, and who has lent them can start the next router with them."""
    path, output = str(tmp_path / "s"), tmp_path / "output"
    with socket.socket(socket.AF_UNIX) as lent:
        lent.bind(path)
        lent.listen()
        # What a service manager does between fork and exec: the process id is the one that the program will have.
        program = [sys.executable, str(SERVER), "uvloop", f"unix:{path}"]
        code = f"os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1'); os.dup2({lent.fileno()}, 3)"
        line = f"import os; {code}; os.execv({sys.executable!r}, {program})"
        with output.open("w") as out:
            first = subprocess.Popen([sys.executable, "-c", line], stdout=out, pass_fds=[lent.fileno()])
        service = Service.__new__(Service)
        service.output, service.first = output, first
        try:
            service.await_line("serves")
            for _ in range(2):
                service.upgrade()
                assert service.answers(path) == service.pid
        finally:
            service.stop()
    assert os.path.exists(path)


def test_an_address_that_is_wanted_no_more_is_given_up(tmp_path: Path) -> None:
    """Of what it was given a new process closes what its configuration does not name, once it has taken over."""
    inherited = Sockets()
    gone, kept = inherited.open_all([parse_bind(f"unix:{tmp_path}/gone"), parse_bind(f"unix:{tmp_path}/kept")])
    sockets = Sockets([PassedSocket(sock.dup(), False) for sock in (gone, kept)])
    sockets.open_all([parse_bind(f"unix:{tmp_path}/kept")])
    assert os.path.exists(tmp_path / "gone")
    assert sockets.taken_over() == [f"unix:{tmp_path}/gone"]
    assert not os.path.exists(tmp_path / "gone")
    inherited.handed_over()
    inherited.close_all()
    assert os.path.exists(tmp_path / "kept")
    sockets.close_all()
    assert not os.path.exists(tmp_path / "kept")
