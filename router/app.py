"""The composition root: one process from its start to its end, and the signals between. No decision about a request.

Life of a process: prepared configuration -> sockets -> plugins started -> pools probed -> accepting -> reloads ->
a signal -> not ready -> no new connections -> requests under way finish -> plugins closed -> end.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import uvloop

from router.net.control import ControlServer
from router.net.runtime import abandon_tasks
from router.net.sockets import Sockets, StartError, raise_open_files
from router.net.systemd import Notifier, inherited_sockets
from router.operating import Operating, handed_over, to_hand_over
from router.policy.table import Table
from router.prepare import Prepared
from router.reloading import Reloading
from router.securing import secure
from router.serving import Serving
from router.staging import stage
from router.status import Status
from router.statuses import describe, status_of
from router.upgrade import Predecessor, Upgrader

__all__ = ["Router", "StartError"]

log = logging.getLogger("router")

#: Seconds that plugins get to close, and to start once that is no longer wanted.
_CLOSING, _STOPPING = 5.0, 0.5
#: Seconds in which idle connections may ask once more, at the end and when a successor serves already.
_GRACE, _LONG_GRACE = 1.0, 5.0
_NEVER = float("inf")


class Router:
    """One process that serves one configuration after another.

    Args:
        file: where the configuration was read from, and is read again; None if it was never written down.
        watch: whether it is read again when the file changes.
    """

    def __init__(self, prepared: Prepared, *, file: Path | None = None, watch: bool = False) -> None:
        self._file = file
        self._watch = watch
        self._sockets = Sockets()
        self._serving = Serving(stage(prepared, None, secure(prepared)), self._sockets, self)
        self._notifier = Notifier()
        self._predecessor = Predecessor()
        #: Whether the control socket may be taken from a router that answers there.
        self._takes_over = False
        self._started = time.monotonic()
        self._stopped = asyncio.Event()
        #: Set by a second signal: nothing is waited for any more.
        self._hurry = asyncio.Event()
        #: Whether another process has taken over.
        self._is_succeeded = False
        #: Sockets from outside that no listener asks for, as the log was told.
        self._unused: set[str] = set()
        #: Signals to stop so far.
        self._signals = 0
        self._reloading: Reloading | None = None
        self._upgrader: Upgrader | None = None
        self._reopening: asyncio.Task[None] | None = None
        self._control: ControlServer | None = None
        self._old_controls: list[ControlServer] = []

    @property
    def table(self) -> Table:
        return self._serving.table

    def serve(self, announce: Callable[[str], None]) -> int:
        """Serves until SIGTERM or SIGINT; blocks.

        Args:
            announce: called with one readable line per listener, pool and plugin once the router accepts.

        Returns:
            The exit code: 0, or 1 if requests had to be cut off at the end.

        Raises:
            StartError: a socket or a plugin does not let it.
        """
        self._notifier = Notifier.from_environ(os.environ)
        self._predecessor = Predecessor.from_environ(os.environ)
        self._takes_over = self._predecessor.is_there
        if self._predecessor.is_there:
            self._serving.overrides.update(handed_over(os.environ))
        self._sockets.adopt(inherited_sockets(os.environ))
        try:
            return uvloop.run(self._run(announce))
        finally:
            self._sockets.close_all()

    async def _run(self, announce: Callable[[str], None]) -> int:
        serving, loop = self._serving, asyncio.get_running_loop()
        reloading = self._reloading = Reloading(
            self._file, serving, notifier=self._notifier, taken=self._taken, stopped=self._stopped
        )
        upgrader = self._upgrader = Upgrader(
            self._sockets,
            self._notifier,
            self._hand_over,
            failed=self._serve_on,
            environment=lambda: to_hand_over(serving.overrides),
            lock=reloading.lock,
        )
        loop.add_signal_handler(signal.SIGTERM, self.stop)
        loop.add_signal_handler(signal.SIGINT, self.stop)
        early: list[str] = []
        loop.add_signal_handler(signal.SIGHUP, early.append, "SIGHUP")
        loop.add_signal_handler(signal.SIGUSR2, log.warning, "no upgrade: the router is starting")
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(serving.close)
            await self._begin()
            stack.push_async_callback(self._close_control)
            if not self._stopped.is_set():
                await self._open_control()
                self._is_ready(announce)
            loop.add_signal_handler(signal.SIGHUP, reloading.begin, "SIGHUP")
            loop.add_signal_handler(signal.SIGUSR2, upgrader.begin)
            if early:
                reloading.begin("SIGHUP")
            tasks = [asyncio.create_task(self._notifier.feed_watchdog())]
            if self._watch:
                tasks.append(asyncio.create_task(reloading.watch()))
            await self._stopped.wait()
            for task in tasks:
                task.cancel()
            await reloading.close()
            await upgrader.close()
            code = await self._end()
        await abandon_tasks(_CLOSING)
        return code

    async def _begin(self) -> None:
        """Makes everything ready; a signal to stop ends that, whatever a plugin waits for."""
        begun = asyncio.create_task(self._serving.begin(self._stopped))
        stopped = asyncio.create_task(self._stopped.wait())
        await asyncio.wait((begun, stopped), return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if not begun.done():
            await asyncio.wait((begun,), timeout=_STOPPING)
            begun.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await begun

    def _is_ready(self, announce: Callable[[str], None]) -> None:
        for line in (*self.describe(), raise_open_files()):
            announce(line)
        self._tell_unused()
        if self._predecessor.tell_ready():
            for name in self._sockets.taken_over():
                log.info("nobody listens on %s any more", name)
        if not self._predecessor.is_there:
            # Of a successor, the process before it says so: only that one is heard yet.
            self._notifier.ready(f"configuration {self.table.version} is in force")

    def _tell_unused(self) -> None:
        """Clients of a socket that a service manager holds open hang where nobody accepts."""
        unused = set(self._sockets.unused)
        for name in sorted(unused - self._unused):
            log.warning("%s was passed to the router and no listener asks for it: its clients wait in vain", name)
        self._unused = unused

    # The end

    def stop(self) -> None:
        """Begins the end: called by signals. A second call cuts what is still under way."""
        self._signals += 1
        if self._signals > 1:
            self._hurry.set()
            self._serving.listening.cut()
        self._stopped.set()

    def _hand_over(self) -> None:
        """A successor serves: what is under way here finishes."""
        self._is_succeeded = True
        self._stopped.set()

    def _serve_on(self) -> None:
        """The successor does not serve, but may have taken the control socket's path."""
        if self._control is not None and self._control.is_lost:
            self._old_controls.append(self._control)
            self._control = None
            self._reopening = asyncio.create_task(self._open_control())

    async def _end(self) -> int:
        serving, server, hurry = self._serving, self._serving.config.server, self._hurry
        assert serving.runtime is not None
        self._notifier.stopping()
        if self._control is not None and self._is_succeeded:
            self._control.stop_accepting()
        # After an upgrade the address is served as well as ever.
        serving.runtime.draining = not self._is_succeeded
        serving.listening.leave(_NEVER)
        if not self._is_succeeded:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(server.drain_delay):
                    await hurry.wait()
        began = time.monotonic()
        grace = _LONG_GRACE if self._is_succeeded else _GRACE
        serving.listening.stop_accepting(0.0 if hurry.is_set() else grace)
        # Whoever connects from now on is to be refused, or served by the successor, rather than kept waiting.
        self._sockets.close_all()
        self._say_waiting(server.shutdown_timeout)
        cut = await serving.listening.drained(server.shutdown_timeout)
        serving.drop_connections()
        if cut:
            count = f"{cut} request{'s were' if cut > 1 else ' was'}"
            log.warning("%s cut off after %.1f s", count, time.monotonic() - began)
        return 1 if cut else 0

    def _say_waiting(self, seconds: float) -> None:
        count = len(self._serving.listening.under_way())
        if count:
            requests = f"{count} request{'s' * (count != 1)}"
            log.info("waiting for %s under way, %g s at most; a second signal cuts them off", requests, seconds)

    # The control socket

    async def _taken(self) -> None:
        self._tell_unused()
        await self._open_control()

    async def _open_control(self) -> None:
        """Makes the control socket be the configured one."""
        wanted = self._serving.config.server.control
        path = str(self._serving.staged.prepared.folder / wanted) if wanted else ""
        before = self._control
        if (before.path if before is not None else "") == path and not (before and before.is_lost):
            return
        operating = Operating(self._serving, self.status, self.reload, self._busy)
        control = ControlServer(path, operating.answer) if path else None
        if control is not None:
            # Only at the start may it take the path over, from the process that this one replaces.
            await control.start(take_over=self._takes_over)
        self._takes_over = False
        self._control = control
        if before is not None:
            # Whoever has asked for this very reload is answered yet.
            before.stop_accepting()
            self._old_controls.append(before)

    def _busy(self) -> str:
        upgrading = self._upgrader is not None and self._upgrader.is_busy
        return "an upgrade is under way: ask again in a moment" if upgrading else ""

    async def _close_control(self) -> None:
        for control in (*self._old_controls, self._control):
            if control is not None:
                await control.close()

    # For plugins (api.Control) and people

    async def reload(self, why: str = "a plugin") -> tuple[bool, str]:
        """Reads the configuration again. See Reloading.reload."""
        assert self._reloading is not None
        return await self._reloading.reload(why)

    def status(self) -> Status:
        """The state of now."""
        return status_of(
            self._serving,
            now=time.monotonic(),
            started=self._started,
            file=str(self._file or ""),
            refused=self._reloading.refused if self._reloading is not None else "",
        )

    def describe(self) -> list[str]:
        """One line per listener, pool and plugin."""
        return describe(self._serving)
