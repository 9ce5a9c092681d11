"""The probe that runs a program: well is who makes it exit with the right status. No shell, ever.

The program leads a session of its own, so that nothing that it started outlives the check.
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
from typing import Annotated

from msgspec import Meta

from router import Endpoint, Options, Tools
from router_health.causes import ProbeFailed, is_shortage, shown
from router_health.program import Program

__all__ = ["CommandOptions", "CommandProbe"]

#: Seconds that a killed program may take to be gone before the check ends without it.
_PATIENCE = 1.0


class CommandOptions(Options, frozen=True):
    """What to run.

    Args:
        command: the program, found on PATH, and its arguments.
        statuses: exit statuses that pass.
    """

    command: tuple[str, ...]
    statuses: tuple[Annotated[int, Meta(ge=0, le=255)], ...] = (0,)

    def __post_init__(self) -> None:
        if not self.command or not self.command[0]:
            raise ValueError('command is empty: write a program and its arguments, as in ["check-db", "--fast"]')
        if any("\0" in word for word in self.command):
            raise ValueError("command: no argument can hold a NUL")
        if shutil.which(self.command[0]) is None:
            raise ValueError(f'command: there is no program "{shown(self.command[0])}" on PATH that may be run')
        if not self.statuses:
            raise ValueError("statuses is empty: no exit could pass; write [0]")


class CommandProbe:
    """Runs the program once per check.

    Its environment is the router's, and ROUTER_POOL, ROUTER_ENDPOINT (identity), ROUTER_URL, ROUTER_HOST and
    ROUTER_PORT (both empty for a unix socket).
    """

    __slots__ = ("_command", "_statuses")

    def __init__(self, options: CommandOptions, tools: Tools) -> None:
        # Found once: a PATH with many folders is not searched at every check.
        self._command = [shutil.which(options.command[0]) or options.command[0], *options.command[1:]]
        self._statuses = frozenset(options.statuses)

    async def check(self, endpoint: Endpoint) -> None:
        """Runs the program to its end. Cancelled, it kills the program and everything in its session's group.

        Raises:
            ProbeFailed: it exited otherwise, was killed, or could not be run; the text says why.
            OSError: the router lacks what it needs to run anything.
        """
        import asyncio

        program = self._start(endpoint)
        try:
            status = await asyncio.shield(program.exited)
        finally:
            if not program.exited.done():
                program.kill()
                await asyncio.wait([program.exited], timeout=_PATIENCE)
        if status not in self._statuses:
            raise ProbeFailed(f"{_exit_words(status)}{_said(program.output)}")

    def _start(self, endpoint: Endpoint) -> Program:
        try:
            return Program(self._command, {**os.environ, **_about(endpoint)})
        except OSError as error:
            if is_shortage(error):
                raise
            if error.errno == errno.EAGAIN:
                # What fork says where there are too many processes: the router's own want, too.
                raise OSError(errno.ENOMEM, "too many processes") from None
            raise ProbeFailed(f"cannot run {shown(self._command[0])}: {error.strerror}") from None
        except ValueError as error:
            # An endpoint's id with a NUL in it.
            raise ProbeFailed(f"cannot run {shown(self._command[0])}: {shown(str(error))}") from None


def _about(endpoint: Endpoint) -> dict[str, str]:
    address = endpoint.address
    return {
        "ROUTER_POOL": endpoint.pool,
        "ROUTER_ENDPOINT": endpoint.identity,
        "ROUTER_URL": str(address),
        "ROUTER_HOST": address.host,
        "ROUTER_PORT": str(address.port or ""),
    }


def _exit_words(status: int) -> str:
    if status >= 0:
        return f"exit status {status}"
    try:
        return f"killed by {signal.Signals(-status).name}"
    except ValueError:  # a real-time signal has no name
        return f"killed by signal {-status}"


def _said(output: bytes) -> str:
    """The first line that is not blank."""
    line = next((line.strip() for line in output.splitlines() if line.strip()), b"")
    return f": {shown(line, 80)}" if line else ""
