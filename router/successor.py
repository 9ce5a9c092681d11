"""Starts the process that is to replace this one, and waits until it serves or has failed.

It gets the listening sockets, and says through a pipe that it accepts. Both share a process group: Ctrl-C ends both.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence

from router.net.sockets import PassedSocket
from router.net.systemd import SOCKETS, passed_as

__all__ = ["READY", "READY_FD", "SECONDS", "UpgradeError", "start_successor"]

#: Descriptor of the pipe by which a successor says that it accepts, and what it says.
READY_FD = "ROUTER_READY_FD"
READY = b"ready\n"
#: Seconds that a successor has until it accepts.
SECONDS = 60.0
#: Seconds that one which is given up has to end by itself.
_ENDING = 10.0
#: Seconds between two looks whether it still runs.
_LOOK = 0.1
#: Stands between us and the successor until it serves, and then steps aside, so that the successor is a child of the
#: service manager: systemd does not wait for a main process that is not, and kills it as soon as the service stops.
#: It tells the successor's number, and ends as the successor does if that is first.
_LAUNCHER = """
import os, select, signal, sys
pipe, command = int(sys.argv[1]), sys.argv[2:]
child = os.fork()
if not child:
    try:
        os.write(pipe, b"%d " % os.getpid())
        os.execvp(command[0], command)
    except BrokenPipeError:
        os._exit(1)
    except OSError as error:
        sys.stderr.write(f"{command[0]}: {error}\\n")
        os._exit(127)
signal.signal(signal.SIGINT, signal.SIG_IGN)
waiting = select.poll()
waiting.register(pipe, 0)
waiting.register(os.pidfd_open(child))
waiting.poll()
done, status = os.waitpid(child, os.WNOHANG)
code = os.waitstatus_to_exitcode(status) if done else 0
if code < 0:
    os.kill(os.getpid(), -code)
os._exit(code if code >= 0 else 128 - code)
"""


class UpgradeError(Exception):
    """The successor does not serve; the message says why. This process serves as before."""


def _start_folder() -> str:
    """Where this process was started, by the name that leads through symbolic links to the release of the day."""
    named = os.environ.get("PWD", "")
    with contextlib.suppress(OSError):
        if os.path.samefile(named, "."):
            return named
    return "."


_FOLDER = _start_folder()


async def start_successor(
    passed: Sequence[PassedSocket],
    *,
    environment: Mapping[str, str] | None = None,
    seconds: float = SECONDS,
    command: Sequence[str] = (),
) -> int:
    """Starts this command line again, in the folder where it was started, and waits until it accepts.

    The interpreter and the arguments are the same; what is installed now is what runs. The event loop turns meanwhile.

    Args:
        passed: listening sockets, which stay open here too.
        environment: set for it in addition to the variables of this process.
        seconds: what it has; then it is terminated, and after ten more killed.
        command: another command line than that of this process.

    Returns:
        Its process id. It goes on when this process ends.

    Raises:
        UpgradeError: it could not be started, has ended, or was not ready in time. It does not run any more.
    """
    try:
        ours, theirs = socket.socketpair()
    except OSError as error:
        raise UpgradeError(f"it could not be started: {error}") from None
    with ours:
        ours.setblocking(False)
        with theirs:
            birth = _Birth(ours, _spawn(list(command) or sys.orig_argv, passed, theirs.fileno(), environment or {}))
        try:
            await birth.ready(seconds)
        except BaseException:
            await birth.end()
            raise
    with contextlib.suppress(asyncio.CancelledError):
        # It serves, whatever happens here.
        await birth.launched()
    return birth.pid


def _spawn(
    command: Sequence[str], passed: Sequence[PassedSocket], pipe: int, environment: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    numbers = [sock.fileno() for sock, _ in passed]
    variables = {**os.environ, **environment, SOCKETS: passed_as(passed), READY_FD: str(pipe)}
    launcher = [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(pipe), *command]
    try:
        # Not the event loop's own way of starting programs: it would kill this one when the loop closes.
        return subprocess.Popen(launcher, cwd=_FOLDER, env=variables, pass_fds=(*numbers, pipe))
    except (OSError, ValueError) as error:
        raise UpgradeError(f"it could not be started: {error}") from None


class _Birth:
    """A successor that does not serve yet.

    Args:
        pipe: on which its number comes, and then that it is ready.
        launcher: runs until the pipe is closed, or ends as the successor does.
    """

    def __init__(self, pipe: socket.socket, launcher: subprocess.Popen[bytes]) -> None:
        self._pipe = pipe
        self._launcher = launcher
        self._heard = b""

    @property
    def pid(self) -> int:
        """0 until it is known."""
        number, blank, _ = self._heard.partition(b" ")
        return int(number) if blank else 0

    async def ready(self, seconds: float) -> None:
        """Returns once it serves.

        Raises:
            UpgradeError: it has ended, or was not ready in time.
        """
        loop = asyncio.get_running_loop()
        readable = asyncio.Event()
        deadline = loop.time() + seconds
        loop.add_reader(self._pipe, readable.set)
        try:
            while loop.time() < deadline:
                # Asked first, since what was said before the end is to be heard.
                code = self._launcher.poll()
                if self._has_said_ready():
                    return
                if code is not None:
                    raise UpgradeError(f"the new process {_fate(code)} before it was ready")
                readable.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_LOOK):
                        await readable.wait()
        finally:
            loop.remove_reader(self._pipe)
        # Whoever comes too late is told so, and does not take the sockets for its own.
        self._pipe.shutdown(socket.SHUT_RD)
        if not self._has_said_ready():
            raise UpgradeError(f"the new process was not ready in time, which is {seconds:g} s at most")

    def _has_said_ready(self) -> bool:
        with contextlib.suppress(BlockingIOError, ConnectionError):
            self._heard += self._pipe.recv(64)
        return self._heard.endswith(b" " + READY)

    async def end(self) -> None:
        """Ends a successor that is given up: it may have accepted requests already, and answers them."""
        # One that has not told its number by now finds that it cannot, and does not even start.
        self._pipe.shutdown(socket.SHUT_RD)
        self._has_said_ready()
        try:
            self._signal(signal.SIGTERM)
            await self._ended()
        finally:
            self._signal(signal.SIGKILL)
            self._launcher.kill()
            self._launcher.wait()

    async def launched(self) -> None:
        """Waits until nothing stands between the successor and the service manager; the pipe has to be closed."""
        try:
            await self._ended()
        finally:
            self._launcher.kill()
            self._launcher.wait()

    def _signal(self, number: int) -> None:
        if self.pid and self._launcher.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    async def _ended(self) -> None:
        """Waits until the launcher has ended, but not for ever."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _ENDING
        while self._launcher.poll() is None and loop.time() < deadline:  # noqa: ASYNC110 - a process
            await asyncio.sleep(_LOOK / 10)


def _fate(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    with contextlib.suppress(ValueError):
        return f"was ended by {signal.Signals(-code).name}"
    return f"was ended by signal {-code}"
