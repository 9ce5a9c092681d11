"""Listening sockets and the limit of open files: what is asked of the system before anything is served."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import stat

from router.configforms import Bind

__all__ = ["StartError", "close_socket", "open_sockets", "raise_open_files"]

_BACKLOG = 4096


class StartError(Exception):
    """The router cannot start, for a reason outside its configuration; the message says which and what to do."""


def open_sockets(binds: list[Bind]) -> list[socket.socket]:
    """Binds every address or none.

    Raises:
        StartError: says which address, why, and what to do.
    """
    opened: list[socket.socket] = []
    for bind in binds:
        try:
            opened.append(_open_unix(bind.path) if bind.kind == "unix" else _open_tcp(bind))
        except OSError as error:
            for sock, done in zip(opened, binds, strict=False):
                close_socket(sock, done)
            raise StartError(f"cannot listen on {bind}: {_reason(error)}") from None
    return opened


def _reason(error: OSError) -> str:
    text = error.strerror or str(error)
    if isinstance(error, PermissionError):
        return f"{text}; ports below 1024 need the capability CAP_NET_BIND_SERVICE"
    return f"{text}; is another server running there?" if "in use" in text else text


def _open_tcp(bind: Bind) -> socket.socket:
    host = bind.host or "::"
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    found = socket.getaddrinfo(bind.host or "::", bind.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, address = found[0][0], found[0][4]
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(bool(bind.host)))
        sock.bind(address)
        sock.listen(_BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock


def _open_unix(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_stale(path)
        sock.bind(path)
        sock.listen(_BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock


def _remove_stale(path: str) -> None:
    """Removes a socket that a process left behind; one that somebody answers on stays."""
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            return
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)


def close_socket(sock: socket.socket, bind: Bind) -> None:
    """Closes a listening socket; a unix one leaves no file."""
    sock.close()
    if bind.kind == "unix":
        with contextlib.suppress(OSError):
            os.unlink(bind.path)


def raise_open_files() -> str:
    """Raises the soft limit of open files to the hard one, and says so."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == hard:
        return f"open files: at most {soft}"
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):
        return f"open files: at most {soft} (could not be raised to {hard})"
    return f"open files: at most {hard} (raised from {soft})"
