"""How a failed probe is put into words: one short printable line that a log can show as it is.

What a server sent is quoted escaped and cut. Nothing here opens anything.
"""

from __future__ import annotations

import errno
import os
import re
import socket
import ssl

__all__ = ["ProbeFailed", "connect_failure", "is_shortage", "lost_failure", "shown", "unreadable_name"]

#: The router's own want, never an endpoint's fault: too few descriptors, or too little memory for sockets.
_SHORTAGE = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_WORDS = {
    errno.ECONNREFUSED: "connect refused",
    errno.ECONNRESET: "connect reset",
    errno.ETIMEDOUT: "connect timed out",
    # Of a unix socket.
    errno.EAGAIN: "connect refused: the backlog is full",
}
#: Several addresses of one name failed, each in its own way: asyncio then gives their texts alone.
_ERRNO = re.compile(r"\[Errno (\d+)\]")


class ProbeFailed(Exception):
    """The endpoint is not well; the text says why."""


def shown(text: str | bytes, limit: int = 60) -> str:
    """Text of somebody else, on one line: what does not print is escaped, what is longer than `limit` is cut.

    Args:
        limit: most characters, the dots of a cut included.
    """
    if isinstance(text, bytes):
        text = text[: 4 * limit].decode("utf-8", "backslashreplace")
    line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[: limit + 1])
    return line if len(line) <= limit else f"{line[: limit - 3]}..."


def is_shortage(error: OSError) -> bool:
    """Whether the router itself lacks what it needs to ask; says nothing about the endpoint."""
    return _errno_of(error) in _SHORTAGE


def connect_failure(error: OSError, *, tls: bool) -> ProbeFailed:
    """Why no connection came about. `tls`: whether a TLS handshake was part of it."""
    if isinstance(error, ssl.SSLError):
        return ProbeFailed(_tls_words(error))
    if isinstance(error, socket.gaierror):
        return ProbeFailed(f"name lookup failed: {shown(error.strerror or str(error))}")
    code = _errno_of(error)
    if tls and isinstance(error, ConnectionError) and code not in _WORDS.keys() - {errno.ECONNRESET}:
        return ProbeFailed("TLS: connection lost in the handshake")
    if code in _WORDS:
        return ProbeFailed(_WORDS[code])
    reason = os.strerror(code) if code else shown(str(error)) or "no reason given"
    return ProbeFailed(f"connect failed: {reason[:1].lower()}{reason[1:]}")


def unreadable_name(error: ValueError) -> ProbeFailed:
    """A host name that cannot even be looked up: an empty or overlong label."""
    return ProbeFailed(f"name lookup failed: {shown(str(error))}")


def lost_failure(error: Exception, where: str) -> ProbeFailed:
    """Why a connection broke. `where`: "before the head", "in the body"."""
    if isinstance(error, ssl.SSLError):
        return ProbeFailed(_tls_words(error))
    if isinstance(error, ConnectionResetError | BrokenPipeError):
        return ProbeFailed(f"reset {where}")
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return ProbeFailed(f"connection lost {where}: {shown(reason)}")


def _errno_of(error: OSError) -> int:
    if isinstance(error, ssl.SSLError | socket.gaierror):
        return 0
    # The last is the one of IPv4, where a machine without IPv6 fails in two ways.
    return error.errno or int((_ERRNO.findall(str(error)) or [0])[-1])


def _tls_words(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"TLS: {shown(error.verify_message.rstrip('.'), 100)}"
    return f"TLS: {(error.reason or 'handshake failed').replace('_', ' ').lower()}"
