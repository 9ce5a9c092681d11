"""Reads the configuration again: because of a signal, a command, or a file that has changed. One at a time.

What cannot be taken is said once, in the words of `router check`, and what was in force stays.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path

from router.faults import ConfigFaults, listed
from router.net.sockets import StartError
from router.net.systemd import Notifier
from router.prepare import prepare_file
from router.serving import Serving
from router.staging import Staged, stage
from router.watching import watch_files

__all__ = ["Reloading"]

log = logging.getLogger("router")


class Reloading:
    """Of one process.

    Args:
        file: where the configuration was read from; None if it was never written down.
        notifier: told of the beginning and the end of each reload.
        taken: called after another configuration was taken.
        stopped: set when the process is to end: then nothing is waited for.
    """

    def __init__(
        self,
        file: Path | None,
        serving: Serving,
        *,
        notifier: Notifier,
        taken: Callable[[], Awaitable[None]],
        stopped: asyncio.Event,
    ) -> None:
        self._file = file
        self._serving = serving
        self._notifier = notifier
        self._taken = taken
        self._stopped = stopped
        self._lock = asyncio.Lock()
        #: The reload that has not begun yet: whoever asks now is answered by it.
        self._next: asyncio.Task[tuple[bool, str]] | None = None
        self._tasks: set[asyncio.Task[tuple[bool, str]]] = set()
        #: Why the last one was refused; "" if it was not.
        self.refused = ""

    def begin(self, why: str) -> asyncio.Task[tuple[bool, str]]:
        """Asks for a reload and does not wait for it. `why`: for the log."""
        if self._next is None:
            self._next = asyncio.create_task(self._run(why))
            self._tasks.add(self._next)
            self._next.add_done_callback(self._tasks.discard)
        return self._next

    async def reload(self, why: str) -> tuple[bool, str]:
        """Reloads, also where whoever asked leaves meanwhile.

        Returns:
            Whether what is written is in force now, and what is to be said of it.
        """
        return await asyncio.shield(self.begin(why))

    async def watch(self) -> None:
        """Reloads whenever the file changes, until it is cancelled."""
        if self._file is None:
            return
        async for _ in watch_files(self._file):
            await self.reload("the file has changed")

    async def close(self) -> None:
        """No more reloads; one that is under way ends first."""
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _run(self, why: str) -> tuple[bool, str]:
        async with self._lock:
            self._next = None
            if self._file is None:
                log.warning("%s: nothing to read again: the configuration came from the command line", why)
                return False, "there is nothing to read again: the configuration came from the command line"
            self._notifier.reloading()
            try:
                done, text = await self._take(self._file, why)
            finally:
                self._notifier.ready(f"configuration {self._serving.table.version} is in force")
            return done, text

    async def _take(self, file: Path, why: str) -> tuple[bool, str]:
        serving = self._serving
        try:
            changed = await serving.take(lambda before: _read(file, before), self._stopped)
        except ConfigFaults as error:
            return self._refuse(why, listed(error.faults))
        except StartError as error:
            return self._refuse(why, str(error))
        except Exception as error:
            log.debug("traceback of the reload", exc_info=error)
            return self._refuse(why, f"internal error: {type(error).__name__}: {error}")
        self.refused = ""
        version = serving.table.version
        if not changed:
            log.info("%s: nothing is different, configuration %d stays in force", why, version)
            return True, f"nothing is different: configuration {version} stays in force"
        await self._taken()
        log.info("%s: configuration %d is in force", why, version)
        return True, f"configuration {version} is in force"

    def _refuse(self, why: str, text: str) -> tuple[bool, str]:
        self.refused = text
        version = self._serving.table.version
        log.error("%s: not taken, configuration %d stays in force:\n%s", why, version, text)
        return False, f"not taken, configuration {version} stays in force:\n{text}"


def _read(file: Path, before: Staged) -> Staged | None:
    prepared = prepare_file(file, before.prepared)
    return None if prepared.config == before.prepared.config else stage(prepared, before)
