"""The key of a router without configured secrets: made once, kept in a file that only its user can read.

Runs in a thread when a plugin starts, never for `router check`. What others could have read or written is refused, and
no message shows what is in the file.
"""

from __future__ import annotations

import logging
import os
import re
import stat
from contextlib import suppress
from pathlib import Path

__all__ = ["KeyRefusedError", "keep_key"]

log = logging.getLogger("router")

_FILE = "cookie.key"
_BYTES = 32
_KEY = re.compile(rb"([0-9a-f]{%d})\n" % (2 * _BYTES))
_SIZE = 2 * _BYTES + 1
_said: set[Path] = set()


class KeyRefusedError(Exception):
    """There is no key that can be trusted; the text says why and what would help."""


def keep_key(folder: Path) -> str:
    """The key of this folder, made if there is none. Whoever asks first makes it, and all others get the same.

    Args:
        folder: made too if it is not there, but not what it stands in.

    Returns:
        64 characters. A secret like those of a configuration: the file can be named there on other routers.

    Raises:
        KeyRefusedError: with the path and the remedy.
    """
    path = folder / _FILE
    try:
        _prepare(folder)
        made = not os.path.lexists(path) and _make(path)
        key = _read(path)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise KeyRefusedError(
            f"the cookie's key cannot be kept in {path}: {reason}; set secrets, or another state_dir"
        ) from None
    _say(path, made)
    return key


def _say(path: Path, made: bool) -> None:
    # Once for all pools and reloads of this process.
    if path in _said:
        return
    _said.add(path)
    verb = "made and kept" if made else "kept"
    log.info("affinity cookie: without secrets, its key is %s in %s; other routers need the same", verb, path)


def _prepare(folder: Path) -> None:
    try:
        os.mkdir(folder, 0o700)
    except FileExistsError:
        found = os.stat(folder)
        if not stat.S_ISDIR(found.st_mode):
            raise KeyRefusedError(f"{folder} is no folder: set another state_dir") from None
        _check_owner(folder, found)
        if found.st_mode & 0o022:
            raise KeyRefusedError(
                f"others may write to {folder} (mode {stat.S_IMODE(found.st_mode):04o}): chmod 700 it"
            ) from None
    else:
        # Configurations stand under version control; what is in here must not.
        _write(folder / ".gitignore", b"*\n")


def _make(path: Path) -> bool:
    """Makes the file, whole and at once; False if somebody else was first."""
    new = path.with_name(f".{_FILE}.{os.getpid()}.{os.urandom(4).hex()}")
    try:
        _write(new, os.urandom(_BYTES).hex().encode() + b"\n")
        # Unlike a rename, a link never replaces the key that another process has begun to use.
        os.link(new, path)
    except FileExistsError:
        return False
    finally:
        with suppress(OSError):
            os.unlink(new)
    return True


def _write(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(descriptor)


def _read(path: Path) -> str:
    if path.is_symlink():
        raise KeyRefusedError(f"{path} is a symbolic link: put the file itself there, or name it in secrets")
    # Without waiting: to open a pipe would last until somebody writes to it.
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        _check_file(path, os.fstat(descriptor))
        content = os.read(descriptor, _SIZE + 1)
    finally:
        os.close(descriptor)
    key = _KEY.fullmatch(content)
    if key is None:
        raise KeyRefusedError(f"{path} does not hold a key: remove it for a new one, which ends all sessions")
    return key[1].decode()


def _check_file(path: Path, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise KeyRefusedError(f"{path} is no regular file: remove it")
    _check_owner(path, found)
    if found.st_mode & 0o077:
        mode = stat.S_IMODE(found.st_mode)
        raise KeyRefusedError(f"others may read {path} (mode {mode:04o}): remove it for a new key, or chmod 600 it")
    if found.st_size != _SIZE:
        raise KeyRefusedError(
            f"{path} holds {found.st_size} bytes, not the {_SIZE} of a key: remove it for a new one, which ends all"
            " sessions"
        )


def _check_owner(path: Path, found: os.stat_result) -> None:
    if found.st_uid != os.geteuid():
        raise KeyRefusedError(
            f"{path} belongs to user {found.st_uid}, and the router runs as {os.geteuid()}: chown it, or set another"
            " state_dir"
        )
