"""Listening sockets and the limit of open files: what is asked of the system before anything is served.

`Sockets` owns each listening socket for as long as the process lives, wherever it comes from: opened here, lent by a
service manager, or given by the process that this one replaces. Nothing here accepts.
"""

from __future__ import annotations

import logging
import resource
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from router.configforms import Bind
from router.net.binding import (
    SocketFile,
    file_of,
    listens_on,
    name_of,
    open_tcp,
    open_unix,
    reason,
    remove_file,
)

__all__ = ["PassedSocket", "Sockets", "StartError", "raise_open_files"]

log = logging.getLogger("router")


class StartError(Exception):
    """The router cannot start, for a reason outside its configuration; the message says which and what to do."""


class PassedSocket(NamedTuple):
    """A socket that one process passes to another."""

    sock: socket.socket
    #: Whether a service manager keeps it too: its file and its queue outlive every router.
    lent: bool


@dataclass(slots=True, eq=False)
class _Owned:
    sock: socket.socket
    #: "bound" here, "given" by the process before this one, "lent" by a service manager.
    origin: Literal["bound", "given", "lent"]
    #: What it was opened for; None while no listener asks for it.
    bind: Bind | None
    #: Of a unix socket.
    file: SocketFile | None

    @property
    def is_spare(self) -> bool:
        return self.bind is None


class Sockets:
    """The listening sockets of one process.

    Args:
        inherited: sockets from outside, which become this object's. What is no listening stream socket is said,
            closed and ignored. The others become non-blocking, and programs that are started do not get them.
    """

    def __init__(self, inherited: Iterable[PassedSocket] = ()) -> None:
        self._owned: list[_Owned] = []
        self.adopt(inherited)
        #: Whether files of given sockets are this process's to remove; whether none is any more.
        self._has_taken_over = self._has_handed_over = False

    def adopt(self, inherited: Iterable[PassedSocket]) -> None:
        """Takes sockets from outside, as at the beginning."""
        for sock, lent in inherited:
            if _is_usable(sock):
                self._owned.append(_Owned(sock, "lent" if lent else "given", None, file_of(sock)))

    @property
    def unused(self) -> list[str]:
        """The inherited sockets that no listener asks for, by address."""
        return [name_of(owned.sock) for owned in self._owned if owned.is_spare]

    def held(self) -> list[tuple[Bind, socket.socket]]:
        """What is open for a listener, in the order of opening."""
        return [(owned.bind, owned.sock) for owned in self._owned if owned.bind is not None]

    def to_pass(self) -> list[PassedSocket]:
        """What a successor gets: all but those that this process is about to close itself."""
        kept = (owned for owned in self._owned if not owned.is_spare or owned.origin == "lent")
        return [PassedSocket(owned.sock, owned.origin == "lent") for owned in kept]

    def open(self, bind: Bind) -> socket.socket:
        """The socket that listens on an address: the one that is held already, an inherited one, or a new one.

        Raises:
            StartError: says which address, why, and what to do.
        """
        return self._open([bind], [])[0]

    def open_all(self, binds: Sequence[Bind]) -> list[socket.socket]:
        """The same for all addresses there are to be, all or none. What else is held should be closed soon.

        So a new address may overlap one that is left, such as ":80" and "127.0.0.1:80": until that is closed both
        listen, and no client is refused. Port 0 may stand several times.

        Raises:
            StartError: as `open`. Nothing has changed then.
        """
        leaving = [owned for owned in self._owned if owned.bind is not None]
        for bind in binds:
            owned = _opened_for(bind, leaving)
            if owned is not None:
                leaving.remove(owned)
        return self._open(binds, leaving)

    def close(self, bind: Bind) -> None:
        """Nobody listens there any more. A unix socket leaves no file, unless another process serves it.

        A lent socket stays open, ready for another `open`: its lender would keep clients waiting anyway.
        """
        owned = _opened_for(bind, self._owned[::-1])
        if owned is not None:
            self._end(owned)

    def close_all(self) -> None:
        """For the end of the process: closes everything, lent and unused ones too."""
        for owned in self._owned:
            self._close(owned)
        self._owned.clear()

    def taken_over(self) -> list[str]:
        """To be called when the process that gave its sockets has left them to this one.

        Returns:
            The addresses that nobody listens on any more: given, and of no use here.
        """
        self._has_taken_over = True
        dropped = [owned for owned in self._owned if owned.is_spare and owned.origin == "given"]
        names = [name_of(owned.sock) for owned in dropped]
        for owned in dropped:
            self._end(owned)
        return names

    def handed_over(self) -> None:
        """To be called when a successor serves: from now on closing removes no file."""
        self._has_handed_over = True

    def _open(self, binds: Sequence[Bind], leaving: Sequence[_Owned]) -> list[socket.socket]:
        free = [owned for owned in self._owned if owned not in leaving]
        found: dict[int, socket.socket] = {}
        begun: list[_Owned] = []
        # Who takes any port must not get an inherited socket that another one asks for.
        for index in sorted(range(len(binds)), key=lambda index: _takes_any_port(binds[index])):
            bind = binds[index]
            owned = _opened_for(bind, free)
            if owned is not None:
                free.remove(owned)
            else:
                try:
                    owned = self._begin(bind, leaving)
                except OSError as error:
                    for done in begun:
                        self._end(done)
                    raise StartError(f"cannot listen on {bind}: {self._reason(error, bind)}") from None
                begun.append(owned)
            found[index] = owned.sock
        return [found[index] for index in range(len(binds))]

    def _begin(self, bind: Bind, leaving: Iterable[_Owned]) -> _Owned:
        for owned in self._owned:
            if owned.is_spare and listens_on(owned.sock, bind):
                owned.bind = bind
                return owned
        sock = open_unix(bind.path) if bind.kind == "unix" else open_tcp(bind, [owned.sock for owned in leaving])
        self._owned.append(_Owned(sock, "bound", bind, file_of(sock)))
        return self._owned[-1]

    def _end(self, owned: _Owned) -> None:
        owned.bind = None
        still_served = owned.origin == "given" and not self._has_taken_over
        if owned.origin != "lent" and not still_served:
            self._owned.remove(owned)
            self._close(owned)

    def _close(self, owned: _Owned) -> None:
        owned.sock.close()
        is_ours = owned.origin == "bound" or (owned.origin == "given" and self._has_taken_over)
        if owned.file is not None and is_ours and not self._has_handed_over:
            remove_file(owned.file)

    def _reason(self, error: OSError, bind: Bind) -> str:
        if self.unused and "in use" in str(error):
            return f"{error.strerror}; the sockets passed to the router are others: {', '.join(self.unused)}"
        return reason(error, bind)


def _opened_for(bind: Bind, among: Iterable[_Owned]) -> _Owned | None:
    return next((owned for owned in among if owned.bind == bind), None)


def _is_usable(sock: socket.socket) -> bool:
    """Makes an inherited socket one of ours, or says why not and closes it."""
    name = name_of(sock)
    families = (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX)
    if sock.family not in families or sock.type != socket.SOCK_STREAM:
        log.warning("%s was passed to the router and is no stream socket: ignored", name)
    elif not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        log.warning("%s was passed to the router and does not listen: ignored", name)
    else:
        sock.setblocking(False)
        sock.set_inheritable(False)
        return True
    sock.close()
    return False


def _takes_any_port(bind: Bind) -> bool:
    return bind.kind == "tcp" and bind.port == 0


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
