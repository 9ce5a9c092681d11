"""Files read whole, bounded and without waiting, and their names written for people.

A pipe, a device or a socket is never read; what is in a file is never quoted.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import NamedTuple

from router_tls.blocks import CertificateError, Pem, read_pem

__all__ = ["File", "open_file", "reason_of", "shown"]

#: Bytes of a file: two hundred times those of a chain with its key.
_MOST_BYTES = 1 << 20
#: Characters of a name in a message.
_MOST_NAME = 200


class File(NamedTuple):
    """A file that was looked at.

    Attributes:
        name: the path for messages.
        pem: what it holds; nothing if there is a fault.
        fault: a sentence that begins with the name, or "".
        mode: the rights of st_mode.
    """

    path: Path
    name: str
    data: bytes = b""
    pem: Pem = Pem()
    fault: str = ""
    mode: int = 0


def open_file(path: Path, name: str) -> File:
    """Reads a file; what is wrong about it stands in `fault`."""
    try:
        data, mode = _content(path, name)
        return File(path, name, data, read_pem(data, name), mode=mode)
    except CertificateError as error:
        return File(path, name, fault=str(error))
    except OSError as error:
        return File(path, name, fault=f"{name}: {reason_of(error)}")


def _content(path: Path, name: str) -> tuple[bytes, int]:
    # Without waiting: to open a pipe would last until somebody writes to it.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise CertificateError(f"{name}: no regular file: put the PEM text itself there")
        with open(descriptor, "rb", closefd=False) as file:
            data = file.read(_MOST_BYTES + 1)
    finally:
        os.close(descriptor)
    if len(data) > _MOST_BYTES:
        raise CertificateError(f"{name}: larger than {_MOST_BYTES >> 20} MiB: that is no certificate")
    return data, stat.S_IMODE(found.st_mode)


def reason_of(error: OSError) -> str:
    """Why a file or folder cannot be read, and what would help."""
    if isinstance(error, FileNotFoundError):
        return "does not exist: put it there, or take it out of paths"
    if isinstance(error, PermissionError):
        return f"may not be read by user {os.geteuid()}, as whom the router runs: give it the right"
    return f"cannot be read: {(error.strerror or str(error)).lower()}"


def shown(path: str | Path) -> str:
    """A path on one printable line, cut if it is very long."""
    text = str(path)
    if "-----BEGIN" in text:
        return "a PEM text, where the path of a file is wanted"
    line = text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
    return line if len(line) <= _MOST_NAME else f"{line[: _MOST_NAME - 3]}..."
