"""The address of the page of traces: read, opened, and told to people. Nothing is served here."""

from __future__ import annotations

import ipaddress
import logging
import re
import socket
from typing import Any, NamedTuple

__all__ = ["Address", "listen", "read_address"]

log = logging.getLogger("router.tracing.viewer")

_LABEL = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,62}")
_BACKLOG = 64


class Address(NamedTuple):
    """Attributes: `host`, "" for all interfaces, IPv6 without brackets; `port`, 0 lets the system choose."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        """Where a browser on this machine finds the page."""
        address = as_ip(self.host)
        if not self.host or (address is not None and address.is_unspecified):
            return f"http://{Address('::1' if ':' in self.host else '127.0.0.1', self.port)}/"
        return f"http://{self}/"

    @property
    def is_local(self) -> bool:
        """Whether only this machine reaches it."""
        address = as_ip(self.host)
        return address.is_loopback if address is not None else self.host == "localhost"

    def is_named_by(self, host: str) -> bool:
        """Whether a Host field is this page's: an IP address, a name of this machine, or the one it is bound to.

        A page elsewhere may point a name of its own here (DNS rebinding), and would read what it gets.
        """
        name = host.rpartition(":")[0] if re.search(r":\d*$", host) else host
        name = name.lower()
        if name.startswith("[") and name.endswith("]"):
            return as_ip(name[1:-1]) is not None
        own = name == "localhost" or name.endswith(".localhost") or name == self.host
        return bool(name) and (own or as_ip(name) is not None)


def read_address(bind: str) -> Address:
    """Reads "127.0.0.1:16687", "localhost:16687", "[::1]:16687" or ":16687" (all interfaces).

    Raises:
        ValueError: with one sentence that says what would be right.
    """
    host, colon, port = bind.rpartition(":")
    bare = host.removeprefix("[").removesuffix("]")
    named = all(map(_LABEL.fullmatch, host.split(".")))
    known = not host or named or (host == f"[{bare}]" and ":" in bare and as_ip(bare) is not None)
    if not colon or not known or not (port.isascii() and port.isdigit() and len(port) <= 5 and int(port) <= 65535):
        raise ValueError(f'{bind!a} is no address for a page; write host:port, such as "127.0.0.1:16687"')
    return Address(bare.lower(), int(port))


def listen(address: Address) -> socket.socket:
    """A socket that listens. A process that this one replaces may listen there still.

    Raises:
        ValueError: says which address, why, and what to do.
    """
    try:
        found = socket.getaddrinfo(address.host or "0.0.0.0", address.port, type=socket.SOCK_STREAM)
        family, kind, _, _, place = found[0]
        sock = socket.socket(family, kind)
    except OSError as error:
        raise _unavailable(address, error) from None
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        _bind(sock, place, address)
        # For the process that will replace this one.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.listen(_BACKLOG)
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        raise _unavailable(address, error) from None
    return sock


def as_ip(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _bind(sock: socket.socket, place: Any, address: Address) -> None:
    try:
        sock.bind(place)
    except OSError:
        # Lets us in beside another router of the same user, and beside nobody else.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(place)
        log.info("another router shows traces on %s too: until it ends, a browser may meet either", address)


def _unavailable(address: Address, error: OSError) -> ValueError:
    why = error.strerror or str(error)
    return ValueError(f'the page of traces cannot listen on {address}: {why}; choose another `viewer`, or "" for none')
