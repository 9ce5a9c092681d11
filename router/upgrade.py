"""Binary upgrade: another process of the version that is installed now takes over, and this one may end.

Both sides of it: what a process does that is to be replaced, and what one does that replaces another. Until the
successor serves, and if it fails, nothing changes for the process that serves.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

from router.net.sockets import Sockets
from router.net.systemd import Notifier
from router.successor import READY, READY_FD, SECONDS, UpgradeError, start_successor

__all__ = ["Predecessor", "Upgrader"]

log = logging.getLogger("router")


class Predecessor:
    """The process that has started this one in order to be replaced by it, or nobody.

    Args:
        pipe: where it waits for word of this process; None if there is no predecessor.
    """

    def __init__(self, pipe: int | None = None) -> None:
        self._pipe = pipe
        #: Whether there is one, even after it was told.
        self.is_there = pipe is not None

    @classmethod
    def from_environ(cls, environ: MutableMapping[str, str]) -> Predecessor:
        """Takes ROUTER_READY_FD out of the environment. A value that makes no sense is said, and is no predecessor."""
        text = environ.pop(READY_FD, "")
        if not text:
            return cls()
        try:
            os.set_inheritable(int(text), False)
        except (ValueError, OSError, OverflowError):
            log.warning("%s names no open descriptor: ignored", READY_FD)
            return cls()
        return cls(int(text))

    def tell_ready(self) -> bool:
        """To be called once this process accepts; the predecessor then stops.

        Returns:
            Whether the sockets belong to this process alone from now on: true also where nobody gave them. False if the
            predecessor has given this process up, or is gone.
        """
        if self._pipe is None:
            return True
        pipe, self._pipe = self._pipe, None
        try:
            os.write(pipe, READY)
        except OSError as error:
            log.warning("the process that started this one does not listen any more: %s", error)
            return False
        finally:
            with contextlib.suppress(OSError):
                os.close(pipe)
        return True


class Upgrader:
    """One upgrade at a time, asked for by a signal.

    Args:
        sockets: handed on; their files are left alone afterwards.
        notifier: names the successor to the service manager.
        succeeded: called once the successor serves: this process is to stop accepting, and to end.
        failed: called if it does not serve: this process goes on.
        environment: further variables for the successor.
        lock: held meanwhile: what the successor is given must not change.
        command, seconds: as of `start_successor`.
    """

    def __init__(
        self,
        sockets: Sockets,
        notifier: Notifier,
        succeeded: Callable[[], None],
        *,
        failed: Callable[[], None] = lambda: None,
        environment: Callable[[], Mapping[str, str]] = dict,
        lock: AbstractAsyncContextManager[Any] | None = None,
        command: Sequence[str] = (),
        seconds: float = SECONDS,
    ) -> None:
        self._sockets = sockets
        self._notifier = notifier
        self._succeeded = succeeded
        self._environment = environment
        self._failed = failed
        self._lock = lock or contextlib.nullcontext()
        self._command = command
        self._seconds = seconds
        self._task: asyncio.Task[None] | None = None
        #: Why there is no upgrade any more; "" while there may be one.
        self._refusal = ""
        if os.getpid() == 1:
            self._refusal = (
                "this process is the first of its container, which would end with it: start another container"
            )

    def begin(self) -> None:
        """Starts a successor, in the background. To be called by the loop's signal handler."""
        if self._refusal:
            log.warning("no upgrade: %s", self._refusal)
        elif self._task is not None:
            log.warning("an upgrade is under way already")
        else:
            self._task = asyncio.get_running_loop().create_task(self._run())

    @property
    def is_busy(self) -> bool:
        """Whether an upgrade is under way."""
        return self._task is not None

    async def close(self) -> None:
        """This process is to end: a successor that is not ready yet ends too."""
        self._refusal = self._refusal or "this process is ending"
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        try:
            async with self._lock:
                await self._upgrade()
        finally:
            self._task = None

    async def _upgrade(self) -> None:
        log.info("upgrade: starting the version that is installed now")
        try:
            pid = await start_successor(
                self._sockets.to_pass(),
                environment={**self._notifier.environment(), **self._environment()},
                seconds=self._seconds,
                command=self._command,
            )
        except UpgradeError as error:
            log.error("no upgrade, this process serves on: %s", error)
            self._notifier.status(f"upgrade failed: {error}")
            self._failed()
        else:
            self._refusal = f"process {pid} has taken over already"
            self._sockets.handed_over()
            self._notifier.main_pid(pid)
            log.info("upgrade: process %d serves; this one ends once its requests are answered", pid)
            self._succeeded()
