"""Tells when files may have changed: written, replaced, deleted and made again, or reached by a symlink that turned.

Folders are listened to, never files, and what counts is what a path leads to now. All looking is done by a thread of
its own, so that no file system, however slow, holds up the event loop. Where nothing can be heard (a folder that does
not exist, a network's file system, no watches left), looking once a second has to do.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import closing
from pathlib import Path
from time import monotonic

__all__ = ["watch_files"]

#: Seconds from one look to the next where nothing is heard.
_EVERY = 1.0
#: Seconds in which the thread notices what it heard, or that it has to end. 50 ms would cost twice the CPU.
_STEP = 0.1
#: Seconds after which a change is told though the writing goes on.
_LONGEST = 2.0
#: Seconds until listening is tried again where it failed.
_DEAF = 30.0
#: Symlinks that are followed in one path, as in Linux.
_HOPS = 40

_Print = tuple[int, ...]


def watch_files(*paths: str | Path, settle: float = 0.2) -> AsyncGenerator[None, None]:
    """Yields once whenever one of the files may have changed; never ends by itself.

    What changes after the call counts: call it, read the files, then iterate, and nothing is missed. Changes that come
    while nobody iterates are told together, at the next turn. Other files of the same folders cause nothing.

    Args:
        paths: files, which need not exist. Relative ones start at the folder of now.
        settle: seconds without a further change until it yields, so that no half-written file is read. Where the
            writing goes on, it yields after two seconds.

    Raises:
        ValueError: there is no path, or one holds a NUL.
    """
    if not paths or any("\0" in str(path) for path in paths):
        raise ValueError("watch_files needs at least one path, and none with a NUL")
    # Not a generator itself: it would look for the first time only when it is iterated.
    return _changes(_Watch([os.path.join(os.getcwd(), path) for path in paths], settle))


async def _changes(watch: _Watch) -> AsyncGenerator[None, None]:
    from asyncio import Event, get_running_loop

    loop, changed = get_running_loop(), Event()
    watch.start(lambda: loop.call_soon_threadsafe(changed.set))
    try:
        while True:
            await changed.wait()
            changed.clear()
            yield
    finally:
        watch.stop()


class _Watch:
    """What one call of watch_files watches, and its thread."""

    __slots__ = ("_paths", "_seen", "_settle", "_stopped", "_tell")

    def __init__(self, paths: list[str], settle: float) -> None:
        self._paths = paths
        self._settle = settle
        self._seen = self._prints()
        self._stopped = threading.Event()
        self._tell: Callable[[], object] = self.stop

    def start(self, tell: Callable[[], object]) -> None:
        """Begins to look. `tell` is called in the thread, after each change."""
        self._tell = tell
        # No daemon: Python would end it in the midst of foreign code, which aborts the process.
        threading.Thread(target=self._run, name="router-watch").start()

    def stop(self) -> None:
        """Returns at once; the thread ends within a step."""
        self._stopped.set()

    def is_set(self) -> bool:
        """Whether to end: told so, or the process is ending. watchfiles asks this at each step."""
        return self._stopped.is_set() or not threading.main_thread().is_alive()

    def _run(self) -> None:
        deaf_until = 0.0
        while not self.is_set():
            self._look()
            folders = self._folders()
            if folders and monotonic() >= deaf_until:
                try:
                    self._listen(folders)
                    continue
                except Exception:
                    # No watches left, no right to read the folder, or it is gone: looking does without.
                    deaf_until = monotonic() + _DEAF
            self._rest(_EVERY)

    def _listen(self, folders: dict[str, _Print]) -> None:
        """Looks at each event and each second, until the way to the files leads through other folders."""
        import watchfiles

        log = logging.getLogger("watchfiles.main")
        if log.level == logging.NOTSET:
            # It logs every event at INFO; where the log lies in the folder, each line would make the next.
            log.setLevel(logging.WARNING)
        events = watchfiles.watch(
            *folders,
            watch_filter=None,
            debounce=round(2000 * _STEP),
            step=round(1000 * _STEP),
            stop_event=self,
            rust_timeout=round(1000 * _EVERY),
            yield_on_timeout=True,
            debug=False,
            raise_interrupt=False,
            force_polling=False,
            recursive=False,
        )
        with closing(events):
            for _ in events:
                self._look()
                if self._folders() != folders:
                    return

    def _look(self) -> None:
        """Tells of a change, once it has settled."""
        seen = self._prints()
        if seen == self._seen:
            return
        until = monotonic() + _LONGEST
        while seen != self._seen and not self.is_set():
            self._seen = seen
            self._rest(min(self._settle, until - monotonic()))
            if monotonic() < until:
                seen = self._prints()
        try:
            self._tell()
        except RuntimeError:  # the loop is closed
            self.stop()

    def _rest(self, seconds: float) -> None:
        until = monotonic() + seconds
        while not self.is_set() and (left := until - monotonic()) > 0:
            self._stopped.wait(min(left, _STEP))

    def _prints(self) -> list[_Print]:
        return [_print(path) for path in self._paths]

    def _folders(self) -> dict[str, _Print]:
        """The folders to listen to, with what tells whether they are still the same."""
        ways: dict[tuple[str, ...], list[str]] = {}
        for path in self._paths:
            # For all files of a folder that are no symlinks it is the same; there may be thousands.
            same = (path,) if os.path.islink(path) else (os.path.dirname(path), "")
            if same not in ways:
                ways[same] = list(_way(path))
        found = dict.fromkeys(folder for way in ways.values() for folder in way)
        return {folder: _print(folder)[:2] for folder in found if os.path.isdir(folder)}


def _print(path: str) -> _Print:
    """What differs after any change of a file or of the way to it; its rights too, which may have been in the way."""
    try:
        found = os.stat(path)
    except OSError as error:
        return (error.errno or 0,)
    rights = (found.st_mode, found.st_uid, found.st_gid)
    return (found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size, *rights)


def _way(path: str) -> Iterator[str]:
    """The folders of the symlinks that lead to a file, and its own."""
    for _ in range(_HOPS):
        link = next((at for at in (*reversed(Path(path).parents), Path(path)) if os.path.islink(at)), None)
        if link is None:
            break
        yield str(link.parent)
        try:
            target = os.readlink(link)
        except OSError:  # it is gone again
            break
        path = os.path.normpath(os.path.join(link.parent, target, Path(path).relative_to(link)))
    yield os.path.dirname(path)
