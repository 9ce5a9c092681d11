"""Reads the configuration again: because of a signal, a command, or a file that has changed. One at a time.

What cannot be taken is said once, in the words of `router check`, and what was in force stays.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

from router.faults import ConfigFaults, listed
from router.model import Certificate
from router.net.sockets import StartError
from router.net.systemd import Notifier
from router.prepare import prepare_file
from router.securing import secure
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
        #: Held while anything changes as a whole: by a reload, and by an upgrade.
        self.lock = asyncio.Lock()
        #: Set at the end of the process.
        self._closed = False
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
        changes = watch_files(self._file)
        if self._is_stale(self._file):
            # Saved while the router was starting.
            self.begin("the file has changed")
        async for _ in changes:
            # Not waited for: whatever becomes of this reload, the next change is seen.
            self.begin("the file has changed")

    def _is_stale(self, file: Path) -> bool:
        source = self._serving.staged.prepared.source
        try:
            text = file.read_text("utf-8", "surrogateescape")
            return source is not None and text.splitlines() != source.text.splitlines()
        except OSError:
            return True

    async def close(self) -> None:
        """No more reloads; one that is under way is given up."""
        self._closed = True
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _run(self, why: str) -> tuple[bool, str]:
        async with self.lock:
            self._next = None
            if self._closed or self._stopped.is_set():
                return False, "the router is ending"
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
            changed = await serving.take(lambda before: _read(file, before, serving.vault.held), self._stopped)
        except ConfigFaults as error:
            return self._refuse(why, listed(error.faults))
        except StartError as error:
            return self._refuse(why, str(error))
        except Exception as error:
            log.debug("traceback of the reload", exc_info=error)
            return self._refuse(why, f"internal error: {type(error).__name__}: {error}")
        self.refused = ""
        version = serving.table.version
        done = (
            f"configuration {version} is in force"
            if changed
            else f"nothing is different: configuration {version} stays in force"
        )
        log.info("%s: %s", why, done)
        try:
            # Asked again where nothing is different: what could not be had before may be there now.
            await self._taken()
        except StartError as error:
            self.refused = f"no control socket: {error}"
            log.error("%s", self.refused)
            return False, f"{done}, but for this: {self.refused}"
        return True, done

    def _refuse(self, why: str, text: str) -> tuple[bool, str]:
        self.refused = text
        version = self._serving.table.version
        log.error("%s: not taken, configuration %d stays in force:\n%s", why, version, text)
        return False, f"not taken, configuration {version} stays in force:\n{text}"


def _read(file: Path, before: Staged, held: Mapping[int, tuple[Certificate, ...]]) -> Staged | None:
    if file.exists() and not file.is_file():
        # A pipe would keep the reload waiting for ever.
        raise StartError(f"{file} is no regular file: put the configuration back")
    prepared = prepare_file(file, before.prepared)
    secured = secure(prepared, before.secured, held)
    if prepared.config != before.prepared.config or secured != before.secured:
        return stage(prepared, before, secured)
    # Nothing is different but, maybe, the lines that things stand in.
    before.prepared.source = prepared.source
    return None
