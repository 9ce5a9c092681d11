"""Certificates from files: any number of them, with their keys, alone or in folders, watched for renewals.

What is found, and what is said of it, stand in folders.py and standing.py. All reading is done in a thread, but for the
one look before a socket opens. No file is ever written.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from pathlib import Path
from time import time

from router import Certificate, Options, Tools, watch_files
from router_tls.blocks import CertificateError
from router_tls.folders import Fault, Match, Pair, find_pairs
from router_tls.pem import Examined, examine
from router_tls.standing import Look, Standing

__all__ = ["FilesOptions", "FilesSource"]

log = logging.getLogger("router_tls")

#: Characters of a reason that ends a watch: the log takes one line.
_MOST_SAID = 500
#: Keys that others can read and of which that was said: once for all listeners and reloads of this process.
_warned: set[tuple[Path, int]] = set()


class FilesOptions(Options, frozen=True):
    """Where certificates and keys stand.

    Args:
        paths: each a PEM file with a certificate, a folder of them, or { certificate = "…", key = "…" }. Relative
            ones start at the configuration's folder. A key stands in the certificate's file or beside it.
    """

    paths: tuple[str | Pair, ...]

    def __post_init__(self) -> None:
        if not self.paths:
            raise ValueError('paths names at least one file or folder, as in paths = ["certificates"]')
        for path in self.paths:
            names = (path,) if isinstance(path, str) else (path.certificate, path.key)
            if any(not name or "\0" in name for name in names):
                raise ValueError('paths names files and folders, as in "certificates" or "example.org.pem"')


class FilesSource:
    """Yields the certificates that stand in the files, again whenever these change."""

    __slots__ = ("_clock", "_entries", "_folder", "_known", "_raised", "_standing")

    def __init__(self, options: FilesOptions, tools: Tools) -> None:
        self._entries = options.paths
        self._folder = Path(os.path.abspath(tools.folder))
        self._clock = tools.clock
        self._standing = Standing()
        #: What was examined in the last look, by a digest of it: to examine takes milliseconds.
        self._known: dict[bytes, Examined] = {}
        #: Why the last watch ended.
        self._raised = ""

    def load(self) -> Sequence[Certificate]:
        """What stands there now. Reads files, and nothing else.

        Raises:
            CertificateError: naming everything that is wrong, and certificates that are out of date while no other has
                their names.
        """
        look, wall = self._look(), time()
        complaints = look.complaints(wall)
        if complaints:
            raise CertificateError("; ".join(complaints))
        if not self._standing.certificates():
            self._standing.take(look, self._clock(), wall)
        return look.certificates(wall)

    async def watch(self, challenges: dict[str, bytes]) -> AsyncIterator[Sequence[Certificate]]:
        """Each complete set.

        Raises:
            CertificateError: there never was a certificate. Raised once: the next watch waits until it is otherwise.
        """
        from asyncio import to_thread

        said, self._raised = self._raised, ""
        last: list[Certificate] = []
        watched = {self._folder}
        while True:
            # Watched before it is read, so that no change falls between.
            async with aclosing(await to_thread(watch_files, *sorted(watched))) as changes:
                while True:
                    look = await to_thread(self._look)
                    due = self._standing.take(look, self._clock(), time())
                    certificates = self._standing.certificates()
                    if not certificates and (trouble := _in_short(look.complaints(time()))) != said:
                        self._raised = trouble
                        raise CertificateError(trouble)
                    if certificates != last:
                        last = certificates
                        yield list(certificates)
                    if look.watched != watched or not await _changed(changes, due):
                        break
            watched = look.watched

    def _look(self) -> Look:
        found = find_pairs(self._entries, self._folder)
        made: dict[Path, tuple[str, Examined]] = {}
        known = {}
        faults = list(found.faults)
        for match in found.matches:
            digest = hashlib.sha256(b"%d %b %b" % (len(match.chain), match.chain, match.key)).digest()
            try:
                known[digest] = self._known.get(digest) or examine(match.chain, match.key, match.name)
            except CertificateError as error:
                faults.append(Fault(str(error), match.path))
                continue
            made[match.path] = (match.name, known[digest])
            _warn(match)
        # Swapped, never changed: a look that was given up may still be going on in its thread.
        self._known = known
        return Look(made, faults, found.watched)


async def _changed(changes: AsyncIterator[None], due: float | None) -> bool:
    """Waits for a change; False if the time came first, after which `changes` has ended."""
    from asyncio import timeout

    try:
        async with timeout(due):
            await anext(changes)
    except TimeoutError:
        return False
    return True


def _in_short(complaints: list[str]) -> str:
    """As many of them as one line holds."""
    text = "; ".join(complaints)
    if len(text) <= _MOST_SAID:
        return text
    rest = f"; and {len(complaints) - 1} more" if len(complaints) > 1 else ""
    return f"{complaints[0][: _MOST_SAID - len(rest)]}{rest}"


def _warn(match: Match) -> None:
    """Says once of a key that others than its owner may read or write it."""
    file = match.key_file
    if file.mode & 0o066 and (file.path, file.mode) not in _warned:
        _warned.add((file.path, file.mode))
        log.warning("%s: others than its owner can read this key (mode %04o): chmod 600 it", file.name, file.mode)
