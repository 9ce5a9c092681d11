"""One run of a program: started in a session of its own, its output drained, its whole group killed at its end.

Its leader is reaped last, and only after the kill: till then the kernel gives its number to nobody else, so that the
kill meets no stranger.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio

__all__ = ["Program"]

#: Bytes of output that are kept.
_KEPT = 1024
_PIECE = 64 << 10


class Program:
    """A running program.

    Attributes:
        exited: its exit status, or minus the signal that killed it; done when it is reaped.
        output: the first bytes of what it wrote, to either stream.

    Raises:
        OSError: it could not be started. ValueError: an argument or variable holds a NUL.
    """

    __slots__ = ("_lifeline", "_loop", "_pipe", "_process", "exited", "output")

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        from asyncio import get_running_loop

        loop = self._loop = get_running_loop()
        self.exited: asyncio.Future[int] = loop.create_future()
        self.output = b""
        self._process = process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            bufsize=0,
            start_new_session=True,
        )
        assert process.stdout is not None
        self._pipe = process.stdout.fileno()
        os.set_blocking(self._pipe, False)
        loop.add_reader(self._pipe, self._read)
        try:
            self._lifeline = os.pidfd_open(process.pid)
        except OSError:
            self._lifeline = -1
            self._end()
            raise
        loop.add_reader(self._lifeline, self._end)

    def kill(self) -> None:
        """Kills it and its group; `exited` is done a moment later."""
        if self._process.returncode is None:
            # A program of another user, as by its set-user-ID bit, cannot be killed.
            with suppress(PermissionError, ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def _read(self) -> None:
        """Takes one piece, of which only the first is kept: a full pipe would stop the program."""
        with suppress(BlockingIOError):
            data = os.read(self._pipe, _PIECE)
            self.output += data[: _KEPT - len(self.output)]
            if not data:
                self._loop.remove_reader(self._pipe)

    def _end(self) -> None:
        """The leader is dead, or cannot be watched: ends what is left of its group, and reaps it."""
        self.kill()
        self._read()
        loop = self._loop
        loop.remove_reader(self._pipe)
        assert self._process.stdout is not None
        self._process.stdout.close()
        if self._lifeline >= 0:
            loop.remove_reader(self._lifeline)
            os.close(self._lifeline)
        status = self._process.wait()
        if not self.exited.done():
            self.exited.set_result(status)
