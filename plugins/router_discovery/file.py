"""Endpoints from a file that is watched: TOML, JSON, or one URL per line.

Read in a thread, bounded, and only if it is a regular file: a pipe would keep the reader for ever.
"""

from __future__ import annotations

import os
import stat
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Literal

from router import EndpointSpec, Options, Tools, watch_files
from router_discovery.formats import read_json, read_lines, read_toml
from router_discovery.specs import MOST_BYTES
from router_discovery.trouble import DiscoveryError, Voice, shown

__all__ = ["FileOptions", "FileSource"]

_READERS: dict[str, Callable[[bytes], list[EndpointSpec]]] = {
    "toml": read_toml,
    "json": read_json,
    "lines": read_lines,
}
_OTHERS = (".yaml", ".yml", ".xml", ".ini", ".csv")


class FileOptions(Options, frozen=True):
    """Which file, and how it is read.

    Args:
        path: relative ones start at the configuration's folder.
        format: "auto" goes by the name: .toml, .json, and lines for all others.
        accept_empty: whether a file without endpoints empties the pool. Else the last ones stay.
    """

    path: str
    format: Literal["auto", "toml", "json", "lines"] = "auto"
    accept_empty: bool = False

    def __post_init__(self) -> None:
        if not self.path or "\0" in self.path:
            raise ValueError('path names a file, as in "servers.txt"')
        if self.format == "auto" and Path(self.path).suffix.lower() in _OTHERS:
            raise ValueError('format "auto" knows .toml, .json and lines: set format if the file is one of these')


class FileSource:
    """Yields what the file says, again whenever that changes."""

    __slots__ = ("_accept_empty", "_name", "_path", "_reader", "_voice")

    def __init__(self, options: FileOptions, tools: Tools) -> None:
        self._name = shown(options.path)
        self._path = tools.folder / options.path
        kind = Path(options.path).suffix.lower()[1:] if options.format == "auto" else options.format
        self._reader = _READERS.get(kind, read_lines)
        self._accept_empty = options.accept_empty
        self._voice = Voice()

    async def watch(self) -> AsyncIterator[Sequence[EndpointSpec]]:
        """Each complete set.

        Raises:
            DiscoveryError: the file is missing or wrong. Raised once: the next watch waits until it is otherwise.
        """
        from asyncio import to_thread

        self._voice.begin()
        last: list[EndpointSpec] | None = None
        # Watched before it is read, so that no change falls between.
        async with aclosing(watch_files(self._path)) as changes:
            while True:
                try:
                    specs = await to_thread(self._read)
                except DiscoveryError as trouble:
                    self._voice.tell(trouble)
                else:
                    self._voice.well()
                    if specs != last:
                        yield specs
                        last = specs
                await anext(changes)

    def _read(self) -> list[EndpointSpec]:
        try:
            specs = self._reader(_content(self._path))
            if not specs and not self._accept_empty:
                raise DiscoveryError("names no endpoint; to let it empty the pool, set accept_empty = true")
            return specs
        except FileNotFoundError:
            raise DiscoveryError(f"{self._name} does not exist: write it, it is read as soon as it is there") from None
        except OSError as error:
            raise DiscoveryError(f"{self._name} cannot be read: {error.strerror or error}") from None
        except DiscoveryError as error:
            raise error.within(self._name) from None


def _content(path: Path) -> bytes:
    # Without waiting: to open a pipe would last until somebody writes to it.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise DiscoveryError("no regular file")
        with open(descriptor, "rb", closefd=False) as file:
            content = file.read(MOST_BYTES + 1)
    finally:
        os.close(descriptor)
    if len(content) > MOST_BYTES:
        raise DiscoveryError(f"larger than {MOST_BYTES >> 20} MiB")
    return content
