"""What the system knows about listening sockets: opening one, its address, its file. No object lives here."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from collections.abc import Iterable
from typing import NamedTuple

from router.configforms import Bind
from router.faults import visible

__all__ = ["SocketFile", "file_of", "listens_on", "name_of", "open_tcp", "open_unix", "reason", "remove_file"]

_BACKLOG = 4096


class SocketFile(NamedTuple):
    """What a unix socket is found by."""

    path: str
    device: int
    inode: int


def name_of(sock: socket.socket) -> str:
    """The address that a socket is bound to, as a listener's is written."""
    address = sock.getsockname()
    if sock.family == socket.AF_UNIX:
        return f"unix:{visible(os.fsdecode(address))}"
    if sock.family in (socket.AF_INET, socket.AF_INET6):
        return str(Bind("tcp", address[0], address[1]))
    return f"a socket of family {int(sock.family)}"


def file_of(sock: socket.socket) -> SocketFile | None:
    """Where a unix socket's file stands now; None if it has none any more."""
    path = sock.getsockname() if sock.family == socket.AF_UNIX else ""
    # Abstract addresses come as bytes and have no file, unix(7).
    if not path or isinstance(path, bytes):
        return None
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return SocketFile(path, found.st_dev, found.st_ino)


def remove_file(file: SocketFile) -> None:
    """Removes a socket's file, unless somebody has put another one there."""
    with contextlib.suppress(OSError):
        found = os.lstat(file.path)
        if (found.st_dev, found.st_ino) == (file.device, file.inode):
            os.unlink(file.path)


def listens_on(sock: socket.socket, bind: Bind) -> bool:
    """Whether clients of this address come to this socket."""
    address = sock.getsockname()
    if bind.kind == "unix":
        # Without its file nobody finds it.
        same = sock.family == socket.AF_UNIX and address and os.path.normpath(address) == os.path.normpath(bind.path)
        return bool(same) and file_of(sock) is not None
    if sock.family == socket.AF_UNIX or (bind.port and address[1] != bind.port):
        return False
    if not bind.host:
        return address[0] in ("::", "0.0.0.0")
    # Host and scope; the flow label of IPv6 is no part of where one listens.
    return any((address[0], *address[3:]) == (other[0], *other[3:]) for _, other in _resolved(bind))


def _resolved(bind: Bind) -> list[tuple[socket.AddressFamily, tuple[str, int] | tuple[str, int, int, int]]]:
    found = socket.getaddrinfo(bind.host or "::", bind.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return [(family, address) for family, _, _, _, address in found]  # type: ignore[misc]


def reason(error: OSError, bind: Bind) -> str:
    """Why an address could not be listened on, and what to do."""
    text = error.strerror or str(error)
    if isinstance(error, PermissionError) and bind.kind == "tcp":
        return f"{text}; ports below 1024 need the capability CAP_NET_BIND_SERVICE"
    return f"{text}; is another server running there?" if "in use" in text else text


def open_tcp(bind: Bind, leaving: Iterable[socket.socket] = ()) -> socket.socket:
    """Listens on an address, though sockets that are about to close may overlap it."""
    family, address = _resolved(bind)[0]
    beside = [old for old in leaving if old.family != socket.AF_UNIX and old.getsockname()[1] == bind.port]
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Clients' sockets inherit it. Without it each later piece of a response would wait for the client's word that
        # it has the one before, 40 ms or so (RFC 9293 §3.7.4); asyncio, unlike uvloop, does not see to that here.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(bool(bind.host)))
        # Not otherwise: nobody else is to come in beside us by mistake.
        for each in (*beside, sock) if beside else ():
            each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(address)
        sock.listen(_BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock


def open_unix(path: str) -> socket.socket:
    """Listens on a path, in place of a socket that nobody answers on any more."""
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
        # One whose queue is full would keep us waiting.
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
        except BlockingIOError:
            return
