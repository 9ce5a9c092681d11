"""Files that hold keys: only their user can read them, they are written whole or not at all, and they outlive a crash.

What others could have read or written is refused with the path and the remedy. No message shows what is in a file.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["KeepingError", "create_file", "find_folder", "make_folder", "read_file", "write_file"]

#: Bytes that a kept file has at most: a chain with its key has a tenth of that.
MOST_BYTES = 1 << 16


class KeepingError(ValueError):
    """Something cannot be kept, or what is kept cannot be trusted; the text says what, why and what would help."""


def find_folder(folder: Path) -> bool:
    """Whether the folder is there. Writes nothing.

    Raises:
        KeepingError: it is there, but no folder, somebody else's, or others may write to it.
    """
    with _explained(folder):
        try:
            found = os.stat(folder)
        except FileNotFoundError:
            return False
        if not stat.S_ISDIR(found.st_mode):
            raise KeepingError(f"{folder} is no folder: remove it, or set another folder")
        _check_owner(folder, found)
        if found.st_mode & 0o022:
            raise KeepingError(f"others may write to {folder} (mode {stat.S_IMODE(found.st_mode):04o}): chmod 700 it")
    return True


def make_folder(folder: Path) -> None:
    """Makes the folder for its user alone if it is not there, but not what it stands in.

    Raises:
        KeepingError: as `find_folder`, or it cannot be made.
    """
    if find_folder(folder):
        return
    with _explained(folder):
        try:
            os.mkdir(folder, 0o700)
        except FileExistsError:  # another process was quicker
            if not find_folder(folder):
                raise KeepingError(f"{folder} is a link that leads nowhere: remove it, or set another folder") from None
        else:
            # Configurations stand under version control; what is in here must not.
            with suppress(FileExistsError):
                _write(folder / ".gitignore", b"*\n", 0o600)


def read_file(path: Path, *, secret: bool = True) -> bytes | None:
    """What the file holds; None if it is not there.

    Args:
        secret: whether others must not be able to read it. Nobody else may be able to write it either way.

    Raises:
        KeepingError: it cannot be read or trusted.
    """
    with _explained(path):
        try:
            # Without waiting: to open a pipe would last until somebody writes to it.
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        except OSError:
            if path.is_symlink():
                raise KeepingError(f"{path} is a symbolic link: put the file itself there") from None
            raise
        try:
            _check_file(path, os.fstat(descriptor), secret)
            content = os.read(descriptor, MOST_BYTES + 1)
        finally:
            os.close(descriptor)
    if len(content) > MOST_BYTES:
        raise KeepingError(f"{path} is larger than {MOST_BYTES >> 10} KiB: remove it")
    return content


def write_file(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Writes the file, or replaces it: whoever reads meanwhile sees all of the old or all of the new.

    Raises:
        KeepingError: it cannot be written; what was there is still there.
    """
    with _explained(path), _beside(path, content, mode) as new:
        os.replace(new, path)
        _settle(path.parent)


def create_file(path: Path, content: bytes, mode: int = 0o600) -> bool:
    """Writes the file whole and at once, never over one that is there.

    Returns:
        False if one is there, which is left as it is.

    Raises:
        KeepingError: it cannot be written.
    """
    with _explained(path), _beside(path, content, mode) as new:
        try:
            # Unlike a rename, a link never replaces what another process has begun to use.
            os.link(new, path)
        except FileExistsError:
            return False
        _settle(path.parent)
    return True


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise KeepingError(f"{path}: {reason}; let the router read and write there, or set another folder") from None


@contextmanager
def _beside(path: Path, content: bytes, mode: int) -> Iterator[Path]:
    """A new file in the same folder, gone at the end unless it was renamed."""
    new = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
    try:
        _write(new, content, mode)
        yield new
    finally:
        with suppress(OSError):
            os.unlink(new)


def _write(path: Path, content: bytes, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with open(descriptor, "wb") as file:
        # The umask may have taken more, but a file that anybody may read is meant to be read.
        os.fchmod(descriptor, mode)
        file.write(content)
        file.flush()
        os.fsync(descriptor)


def _settle(folder: Path) -> None:
    """A name in a folder is on the disk only when the folder is."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _check_file(path: Path, found: os.stat_result, secret: bool) -> None:
    mode = stat.S_IMODE(found.st_mode)
    if not stat.S_ISREG(found.st_mode):
        raise KeepingError(f"{path} is no regular file: remove it")
    _check_owner(path, found)
    if secret and mode & 0o077:
        raise KeepingError(f"others may read {path} (mode {mode:04o}): chmod 600 it, or remove it if they may have")
    if mode & 0o022:
        raise KeepingError(f"others may write {path} (mode {mode:04o}): chmod 644 it, or remove it if they may have")


def _check_owner(path: Path, found: os.stat_result) -> None:
    if found.st_uid != os.geteuid():
        raise KeepingError(
            f"{path} belongs to user {found.st_uid}, and the router runs as {os.geteuid()}: chown it, or set another"
            " folder"
        )
