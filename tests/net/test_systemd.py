"""What comes by the environment: listening sockets, and notices to a service manager that a test plays."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest

from router.cli import router as command_line
from router.config import ServerConfig
from router.configforms import parse_bind
from router.net import systemd
from router.net.sockets import PassedSocket, StartError
from router.net.systemd import Notifier, inherited_sockets, passed_as


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock


def taken(environ: dict[str, str]) -> list[tuple[int, bool]]:
    """(descriptor, lent) of what is inherited; the descriptors stay open."""
    return [(sock.detach(), lent) for sock, lent in inherited_sockets(environ)]


# Sockets of a service manager. Descriptors 3, 4, ... of the process that runs the tests are others, so 3 is moved.


@pytest.fixture
def first(monkeypatch: pytest.MonkeyPatch, listening: socket.socket) -> int:
    """The descriptor that is taken for the first one that was passed."""
    number = listening.fileno()
    monkeypatch.setattr(systemd, "_FIRST", number)
    return number


def test_sockets_of_a_service_manager_are_lent(first: int) -> None:
    environ = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1", "LISTEN_FDNAMES": "web", "LISTEN_PIDFDID": "7"}
    assert taken(environ | {"HOME": "/"}) == [(first, True)]
    environ["HOME"] = "/"
    taken(environ)
    assert environ == {"HOME": "/"}


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"LISTEN_FDS": "1"},
        {"LISTEN_PID": "{}"},
        {"LISTEN_PID": "1", "LISTEN_FDS": "1"},
        {"LISTEN_PID": "{}", "LISTEN_FDS": "0"},
        {"ROUTER_SOCKETS": ""},
    ],
)
def test_what_is_meant_for_another_process_is_ignored(environ: dict[str, str], first: int) -> None:
    environ = {name: value.format(os.getpid()) for name, value in environ.items()}
    assert taken(environ) == []
    assert environ == {}


def test_sockets_of_a_predecessor_are_given(listening: socket.socket) -> None:
    with listening.dup() as other:
        numbers = listening.fileno(), other.fileno()
        value = passed_as([PassedSocket(listening, False), PassedSocket(other, True)])
        assert value == f"{numbers[0]},lent:{numbers[1]}"
        environ = {"ROUTER_SOCKETS": value}
        assert taken(environ) == [(numbers[0], False), (numbers[1], True)]
        assert environ == {}


def test_one_that_is_named_twice_is_one(listening: socket.socket, first: int) -> None:
    both = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1", "ROUTER_SOCKETS": f"{first},{first},"}
    assert taken(both) == [(first, True)]


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"LISTEN_PID": "{}", "LISTEN_FDS": "one"}, "LISTEN_FDS is not made of numbers: 'one'; remove"),
        ({"LISTEN_PID": "{}", "LISTEN_FDS": "-1"}, "LISTEN_FDS is not made of numbers"),
        ({"LISTEN_PID": "x\x1b", "LISTEN_FDS": "1"}, "LISTEN_PID is not made of numbers: .*x1b"),
        ({"LISTEN_PID": "{}", "LISTEN_FDS": "9" * 100}, "LISTEN_FDS is not made of numbers"),
        ({"LISTEN_PID": "{}", "LISTEN_FDS": "99999999"}, r"LISTEN_FDS: descriptor \d+ is not open; whoever"),
        ({"ROUTER_SOCKETS": "a"}, "ROUTER_SOCKETS is not made of numbers: 'a'"),
        ({"ROUTER_SOCKETS": "lent:lent:5"}, "ROUTER_SOCKETS is not made of numbers"),
        ({"ROUTER_SOCKETS": "999999"}, "ROUTER_SOCKETS: descriptor 999999 is not open"),
        ({"ROUTER_SOCKETS": "\u0663"}, "ROUTER_SOCKETS is not made of numbers"),
    ],
)
def test_a_value_that_makes_no_sense_is_said(
    environ: dict[str, str], message: str, listening: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A copy, since what was taken is closed again, with no open descriptor behind it.
    monkeypatch.setattr(systemd, "_FIRST", fcntl.fcntl(listening.fileno(), fcntl.F_DUPFD_CLOEXEC, 900))
    with pytest.raises(StartError, match=message):
        inherited_sockets({name: value.format(os.getpid()) for name, value in environ.items()})


def test_what_is_no_socket_is_said_and_left_alone(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    with open(tmp_path / "file", "w") as file:
        assert inherited_sockets({"ROUTER_SOCKETS": f"{file.fileno()},2"}) == []
        file.write("still open")
    os.fstat(2)
    assert caplog.text.count("is no socket that was passed to the router: ignored") == 2


# Notices.


class Manager:
    """A service manager that hears notices."""

    def __init__(self, address: str) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.bind("\0" + address[1:] if address.startswith("@") else address)
        self.sock.setblocking(False)

    def heard(self) -> list[str]:
        """The lines of the next notice; none if there is none."""
        with contextlib.suppress(BlockingIOError):
            return self.sock.recv(4096).decode().split("\n")
        return []


@pytest.fixture(params=["path", "abstract"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"{tmp_path}/notify" if request.param == "path" else f"@router-test-{os.getpid()}"


@pytest.fixture
def manager(address: str) -> Iterator[Manager]:
    made = Manager(address)
    with made.sock:
        yield made


def test_each_notice(address: str, manager: Manager) -> None:
    environ = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid()), "HOME": "/"}
    notifier = Notifier.from_environ(environ)
    assert environ == {"HOME": "/"}
    notifier.ready("3 pools")
    assert manager.heard() == ["READY=1", "STATUS=3 pools"]
    notifier.ready()
    assert manager.heard() == ["READY=1"]
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    notifier.reloading()
    first, second = manager.heard()
    assert first == "RELOADING=1"
    assert before <= int(second.removeprefix("MONOTONIC_USEC=")) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    notifier.stopping()
    assert manager.heard() == ["STOPPING=1"]


def test_a_status_is_one_printable_line(address: str, manager: Manager) -> None:
    notifier = Notifier(address)
    notifier.status("two\nMAINPID=1\x1b" + "x" * 500)
    (line,) = manager.heard()
    assert re.fullmatch(r"STATUS=two MAINPID=1\\x1bx+", line)
    assert len(line) < 250


def test_after_the_successor_is_named_nothing_more_is_said(address: str, manager: Manager) -> None:
    """A later STOPPING=1 would end the service, which is the successor by then."""
    notifier = Notifier(address)
    notifier.main_pid(4711)
    lines = manager.heard()
    assert lines[0] == "MAINPID=4711"
    assert {"READY=1", "WATCHDOG=1"} < set(lines)
    notifier.stopping()
    notifier.ready("again")
    assert manager.heard() == []


def test_a_successor_hears_what_this_process_was_told(address: str) -> None:
    environ = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "20000000", "WATCHDOG_PID": str(os.getpid())}
    passed = Notifier.from_environ(environ).environment()
    # Not WATCHDOG_PID, which would be this process's.
    assert passed == {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "20000000"}
    assert Notifier.from_environ(passed).watchdog_interval == 10.0
    assert Notifier(address).environment() == {"NOTIFY_SOCKET": address}
    assert Notifier().environment() == {}


@pytest.mark.parametrize(
    ("period", "pid", "interval"),
    [
        ("1000000", "", 0.5),
        ("1000000", "{}", 0.5),
        ("1000000", "1", None),
        ("", "", None),
        ("0", "", None),
        ("soon", "", None),
        ("-5", "", None),
        ("9" * 40, "", None),
    ],
)
def test_the_watchdog(address: str, period: str, pid: str, interval: float | None) -> None:
    environ = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": period, "WATCHDOG_PID": pid.format(os.getpid())}
    assert Notifier.from_environ(environ).watchdog_interval == interval


async def test_signs_of_life_until_the_successor_gives_them(address: str, manager: Manager) -> None:
    notifier = Notifier(address, watchdog=0.02)
    task = asyncio.ensure_future(notifier.feed_watchdog())
    heard: list[list[str]] = []
    async with asyncio.timeout(8):
        while len(heard) < 3:
            await asyncio.sleep(0.005)
            heard += [lines] if (lines := manager.heard()) else []
        assert heard == [["WATCHDOG=1"]] * 3
        notifier.main_pid(4711)
        await task


async def test_without_a_watchdog_nothing_is_fed() -> None:
    async with asyncio.timeout(8):
        await Notifier("@nobody").feed_watchdog()
        await Notifier().feed_watchdog()


def everything() -> list[Callable[[Notifier], None]]:
    return [
        lambda notifier: notifier.ready("x"),
        Notifier.reloading,
        Notifier.stopping,
        lambda notifier: notifier.status("x"),
        lambda notifier: notifier.main_pid(1),
    ]


@pytest.mark.parametrize("value", [None, "", "vsock:2:1", "relative/path"])
def test_without_a_manager_nothing_happens(value: str | None, caplog: pytest.LogCaptureFixture) -> None:
    notifier = Notifier.from_environ({} if value is None else {"NOTIFY_SOCKET": value})
    for notice in everything():
        notice(notifier)
    assert [record.levelname for record in caplog.records] == (["WARNING"] if value else [])


@pytest.mark.parametrize("value", ["/nowhere/notify", f"/{'x' * 300}", "/nul\0"])
def test_a_manager_that_cannot_be_told_is_said_once(value: str, caplog: pytest.LogCaptureFixture) -> None:
    notifier = Notifier.from_environ({"NOTIFY_SOCKET": value})
    for notice in everything():
        notice(notifier)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "could not be told READY=1" in caplog.text


def test_a_manager_that_does_not_read_keeps_nobody_waiting(
    address: str, manager: Manager, caplog: pytest.LogCaptureFixture
) -> None:
    notifier = Notifier(address)
    for _ in range(10_000):
        notifier.status("x" * 200)
        if caplog.records:
            break
    assert "could not be told" in caplog.text


# The units in examples/systemd.

UNITS = Path(__file__).parents[2] / "examples" / "systemd"


def setting(name: str, unit: str = "router.service") -> list[str]:
    """The values of a setting, in the order in which they stand."""
    return re.findall(rf"^{name}=(.*)$", (UNITS / unit).read_text(), re.MULTILINE)


def test_the_units_fit_the_router() -> None:
    defaults = ServerConfig()
    (stop,), (folder,), (start,), (reload,) = map(
        setting, ("TimeoutStopSec", "RuntimeDirectory", "ExecStart", "ExecReload")
    )
    assert int(stop.removesuffix("s")) > defaults.drain_delay + defaults.shutdown_timeout
    assert setting("Type") == ["notify"]
    page = (UNITS / "README.md").read_text()
    assert f'control = "/run/{folder}/control.sock"' in page
    assert reload.endswith(f"--control /run/{folder}/control.sock")
    for line in (start, reload):
        program, *words = line.split()
        assert program == "/opt/router/bin/router"
        name, command, rest = command_line.resolve_command(click.Context(command_line), words)
        assert command is not None
        command.make_context(name, rest).close()
    assert parse_bind(f":{setting('ListenStream', 'router.socket')[0]}").port == 80


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_takes_the_units(tmp_path: Path) -> None:
    for unit in ("router.service", "router.socket"):
        text = (UNITS / unit).read_text()
        (tmp_path / unit).write_text(text.replace("/opt/router/bin/router", sys.executable))
    units = [str(tmp_path / unit) for unit in ("router.service", "router.socket")]
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", *units], capture_output=True, text=True)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
