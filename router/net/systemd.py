"""What a service manager and a router's predecessor give by the environment: listening sockets, an address for notices.

The protocols are those of sd_listen_fds(3), sd_notify(3) and sd_watchdog_enabled(3). Each variable is taken out of
the environment, so that no program that the router starts takes it for its own. A notice never harms the router.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import time
from collections.abc import Iterable, Mapping, MutableMapping

from router.faults import visible
from router.net.sockets import PassedSocket, StartError

__all__ = ["SOCKETS", "Notifier", "inherited_sockets", "passed_as"]

log = logging.getLogger("router")

#: Descriptors of listening sockets that a router passes to its successor: "5,lent:7".
SOCKETS = "ROUTER_SOCKETS"
_LENT = "lent:"
#: Descriptor of the first socket that a service manager passes, sd_listen_fds(3).
_FIRST = 3
_LISTEN = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID")
#: Seconds that a notice may take when the service manager is slow to read.
_PATIENCE = 0.05
#: Characters of a status line.
_STATUS = 200
_MICROSECONDS = 1_000_000


def inherited_sockets(environ: MutableMapping[str, str]) -> list[PassedSocket]:
    """The listening sockets that this process was started with.

    Args:
        environ: LISTEN_PID and LISTEN_FDS of a service manager and ROUTER_SOCKETS of a predecessor are taken out.

    Raises:
        StartError: a variable makes no sense, or names what is no socket.
    """
    given = {name: environ.pop(name, "") for name in (*_LISTEN, SOCKETS)}
    found: dict[int, PassedSocket] = {}
    try:
        for number in _lent(given):
            _add(found, number, "LISTEN_FDS", lent=True)
        for word in filter(None, given[SOCKETS].split(",")):
            number = _number(word.removeprefix(_LENT), SOCKETS)
            if number not in found:
                _add(found, number, SOCKETS, lent=word.startswith(_LENT))
    except StartError:
        for passed in found.values():
            passed.sock.close()
        raise
    return list(found.values())


def passed_as(passed: Iterable[PassedSocket]) -> str:
    """The value of ROUTER_SOCKETS for sockets that a program is started with."""
    return ",".join(f"{_LENT if lent else ''}{sock.fileno()}" for sock, lent in passed)


def _lent(given: Mapping[str, str]) -> range:
    if not given["LISTEN_FDS"] or not given["LISTEN_PID"]:
        return range(0)
    count, pid = _number(given["LISTEN_FDS"], "LISTEN_FDS"), _number(given["LISTEN_PID"], "LISTEN_PID")
    if pid != os.getpid():
        log.info("LISTEN_FDS is meant for process %d, not for this one: ignored", pid)
        return range(0)
    return range(_FIRST, _FIRST + count)


def _number(text: str, name: str) -> int:
    if text.isascii() and text.isdigit() and len(text) < 10:
        return int(text)
    raise StartError(f"{name} is not made of numbers: {visible(text[:_STATUS])!r}; remove the variable, or correct it")


def _add(found: dict[int, PassedSocket], number: int, name: str, *, lent: bool) -> None:
    try:
        # Standard input, output and error may be sockets too, and are not to be closed.
        sock = socket.socket(fileno=number) if number >= _FIRST else None
    except OSError as error:
        if error.errno == errno.EBADF:
            raise StartError(
                f"{name}: descriptor {number} is not open; whoever starts the router has to pass it"
            ) from None
        sock = None
    if sock is None:
        log.warning("%s: descriptor %d is no socket that was passed to the router: ignored", name, number)
    else:
        found[number] = PassedSocket(sock, lent)


class Notifier:
    """Tells the service manager how this process fares. Without one, nothing happens.

    Args:
        address: of the service manager's socket; "" if there is none.
        watchdog: seconds within which it wants to hear of this process; None if it does not.
    """

    def __init__(self, address: str = "", watchdog: float | None = None) -> None:
        self._address = address
        self._watchdog = watchdog
        self._silent = not address
        self._complained = False

    @classmethod
    def from_environ(cls, environ: MutableMapping[str, str]) -> Notifier:
        """Takes NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID out of the environment."""
        address, period, pid = (environ.pop(name, "") for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"))
        is_ours = pid in ("", str(os.getpid()))
        is_number = period.isascii() and period.isdigit() and len(period) < 19
        watchdog = int(period) / _MICROSECONDS if is_ours and is_number and int(period) else None
        if not address.startswith(("/", "@")):
            if address:
                log.warning("NOTIFY_SOCKET is no unix socket: the service manager is told nothing")
            return cls()
        return cls(address, watchdog)

    @property
    def watchdog_interval(self) -> float | None:
        """Seconds between two signs of life, half of what is allowed; None if nobody asks for them."""
        return None if self._watchdog is None else self._watchdog / 2

    def environment(self) -> dict[str, str]:
        """The variables that a successor of this process needs. WATCHDOG_PID is left out: its number is not known."""
        found = {"NOTIFY_SOCKET": self._address} if self._address else {}
        if self._watchdog is not None:
            found["WATCHDOG_USEC"] = str(round(self._watchdog * _MICROSECONDS))
        return found

    def ready(self, status: str = "") -> None:
        """The process serves: at the start, and after each `reloading`, also where the new configuration is refused."""
        self._send("READY=1", *_status(status))

    def reloading(self) -> None:
        """A reload begins. Type=notify-reload needs the time of it."""
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._send("RELOADING=1", f"MONOTONIC_USEC={now}")

    def stopping(self) -> None:
        """The process begins to end."""
        self._send("STOPPING=1")

    def status(self, text: str) -> None:
        """What `systemctl status` shows."""
        self._send(*_status(text))

    def main_pid(self, pid: int) -> None:
        """Another process is the service from now on; this one says no more.

        What this one said later would be taken for the service's: its "stopping" would end the successor. The sign of
        life gives the successor a whole period until its first own one.
        """
        self._send(f"MAINPID={pid}", "READY=1", "WATCHDOG=1", *_status(f"upgraded: process {pid} serves"))
        self._silent = True

    async def feed_watchdog(self) -> None:
        """Gives signs of life until it is cancelled: the event loop turns, so the process lives."""
        interval = self.watchdog_interval
        while interval is not None and not self._silent:
            await asyncio.sleep(interval)
            self._send("WATCHDOG=1")

    def _send(self, *lines: str) -> None:
        if self._silent:
            return
        address = f"\0{self._address[1:]}" if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                sock.settimeout(_PATIENCE)
                sock.sendto("\n".join(lines).encode(), address)
        except (OSError, ValueError) as error:
            if not self._complained:
                log.warning("the service manager could not be told %s: %s", lines[0], error)
                self._complained = True


def _status(text: str) -> list[str]:
    """At most one line: more would be read as further variables."""
    line = visible(" ".join(text.split()))[:_STATUS]
    return [f"STATUS={line}"] if line else []
