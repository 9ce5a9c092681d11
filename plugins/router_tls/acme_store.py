"""What an ACME source keeps in its folder: account, certificates, the order under way. No network, no event loop.

One folder per directory; in it one account for all sources, and per set of names one certificate file (chain and key
together, so that no crash leaves halves), one order file and one lock. What is corrupt is said, set aside and obtained
anew. No message shows what is in a file.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from router_tls.acme_trouble import log, shown
from router_tls.keeping import KeepingError, create_file, find_folder, make_folder, read_file, write_file
from router_tls.pem import CertificateError, Examined, examine

__all__ = ["Lock", "Pending", "Store"]

_ACCOUNT, _CONTACT = "account.pem", "account.json"
_SUFFIX = ".pem"
#: Files of other sets of names that are looked at for a stopgap.
_MOST_OTHERS = 100
_warned: set[Path] = set()


class Pending(NamedTuple):
    """An order under way: where it stands, and the key of its certificate as PEM."""

    url: str
    key: bytes


class Store:
    """The files of one set of names with one directory.

    Args:
        folder: of all ACME sources; made when first written to.
        directory: the directory's URL.
        names: what the certificate is for.
        key_type: "ecdsa" or "rsa".
    """

    def __init__(self, folder: Path, directory: str, names: tuple[str, ...], key_type: str) -> None:
        self._folder = folder
        self._names = frozenset(names)
        host = re.sub(r"[^a-z0-9.-]", "_", urlsplit(directory).netloc.lower())[:80]
        self._base = folder / f"{host}-{_digest(directory)}"
        first = re.sub(r"[^a-z0-9.-]", "_", names[0])[:80]
        self._stem = f"{first}-{_digest(' '.join(sorted(names)))}-{key_type}"
        self.path = self._base / f"{self._stem}{_SUFFIX}"
        self._order = self._base / f"{self._stem}.order"

    def check(self) -> None:
        """Whether the folder can serve, without writing.

        Raises:
            ValueError: with path and remedy.
        """
        if find_folder(self._folder):
            find_folder(self._base)
        elif not self._folder.parent.is_dir():
            raise KeepingError(f"{self._folder.parent} is not there: make it, or set another folder")

    def prepare(self) -> None:
        """Makes the folders.

        Raises:
            KeepingError: they cannot be made or trusted.
        """
        make_folder(self._folder)
        make_folder(self._base)

    def own(self, mend: bool = True) -> Examined | None:
        """The certificate for these names.

        Args:
            mend: whether a corrupt file is said and set aside; else it is passed over.

        Raises:
            KeepingError: the file is there, but cannot be read or trusted.
        """
        return self._held(self.path, mend)

    def others(self, now: float) -> list[Examined]:
        """Valid certificates for other sets of names that cover some of these: the old ones after a change."""
        found = []
        with suppress(OSError):
            paths = sorted(path for path in self._base.glob(f"*{_SUFFIX}") if path.name != _ACCOUNT)
            for path in paths[:_MOST_OTHERS]:
                with suppress(KeepingError):
                    held = self._held(path, mend=False) if path != self.path else None
                    if held and held.certificate.not_after > now and self._names & set(held.certificate.names):
                        found.append(held)
        return found

    def keep(self, chain: bytes, key: bytes) -> Examined:
        """Writes a certificate that was obtained; its order is over.

        Raises:
            CertificateError: it is not for these names, or not with this key.
            KeepingError: it cannot be written.
        """
        held = examine(chain, key, "the certificate that came")
        missing = self._names - set(held.certificate.names)
        if missing:
            raise CertificateError(f"the certificate that came does not name {shown(', '.join(sorted(missing)))}")
        write_file(self.path, (held.certificate.chain + held.certificate.key).encode())
        self.drop_pending()
        return held

    def account(self, make: Callable[[], bytes]) -> bytes:
        """The account's key as PEM, made if there is none. Whoever asks first makes it, and all others get the same.

        Raises:
            KeepingError: it can be neither kept nor read.
        """
        path = self._base / _ACCOUNT
        found = _read(path)
        if found is not None and not _is_key(found):
            _set_aside(path, "holds no account key")
            found = None
        if found is None:
            create_file(path, make())
            found = _read(path)
        if found is None:
            raise KeepingError(f"{path} vanished: leave it there")
        return found

    def contact(self) -> list[str] | None:
        """The addresses that the directory was told last; None if it was told nothing yet."""
        table = _table(read_file(self._base / _CONTACT))
        listed = table.get("contact") if table else None
        return [str(item) for item in listed] if isinstance(listed, list) else None

    def keep_contact(self, contact: list[str]) -> None:
        write_file(self._base / _CONTACT, json.dumps({"contact": contact}).encode())

    def pending(self) -> Pending | None:
        """The order that an attempt before this one has left."""
        found = _read(self._order)
        if found is None:
            return None
        table = _table(found) or {}
        url, key = table.get("order"), table.get("key")
        if not isinstance(url, str) or not isinstance(key, str) or not _is_key(key.encode()):
            _set_aside(self._order, "holds no order")
            return None
        return Pending(url, key.encode())

    def keep_pending(self, pending: Pending) -> None:
        write_file(self._order, json.dumps({"order": pending.url, "key": pending.key.decode()}).encode())

    def drop_pending(self) -> None:
        with suppress(OSError):
            os.unlink(self._order)

    def lock(self) -> Lock:
        """Examined while an order is under way, so that two sources or processes do not both ask."""
        return Lock(self._base / f"{self._stem}.lock")

    def _held(self, path: Path, mend: bool) -> Examined | None:
        content = _read(path)
        if content is None:
            return None
        where = shown(str(path), 200)
        try:
            held = examine(content, content, where)
        except CertificateError as error:
            if mend:
                _set_aside(path, str(error).removeprefix(f"{where}: "))
            return None
        return held


class Lock:
    """A lock among threads and processes; `drop` may come from another thread than `take`, even before it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._guard = threading.Lock()
        self._descriptor: int | None = None
        self._dropped = False

    def take(self) -> bool:
        """Whether it is ours now. Never waits for another holder.

        Raises:
            OSError: the file cannot be opened.
        """
        with self._guard:
            if self._dropped:
                return False
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BaseException as error:
                os.close(descriptor)
                if isinstance(error, BlockingIOError):
                    return False
                raise
            self._descriptor = descriptor
            return True

    def drop(self) -> None:
        with self._guard:
            self._dropped = True
            if self._descriptor is not None:
                os.close(self._descriptor)
                self._descriptor = None


def _read(path: Path) -> bytes | None:
    """What a file with a key holds. That others may read it is no reason to be without a certificate; said once."""
    content = read_file(path, secret=False)
    if content is not None and path not in _warned:
        with suppress(OSError):
            if os.stat(path).st_mode & 0o077:
                _warned.add(path)
                log.warning("acme: others may read the key in %s: chmod 600 it", shown(str(path), 200))
    return content


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _is_key(content: bytes) -> bool:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        load_pem_private_key(content, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return False
    return True


def _table(content: bytes | None) -> dict[str, Any] | None:
    try:
        table = json.loads(content or b"null")
    except (ValueError, RecursionError):
        return None
    return table if isinstance(table, dict) else None


def _set_aside(path: Path, why: str) -> None:
    aside = path.with_name(f"{path.name}.broken")
    with suppress(OSError):
        os.replace(path, aside)
    log.warning(
        "acme: %s: %s; it is set aside as %s and obtained anew",
        shown(str(path), 200),
        shown(why, 200),
        shown(aside.name),
    )
