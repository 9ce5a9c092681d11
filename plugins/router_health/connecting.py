"""A probe's own connection: opened for one check, never one of the traffic's, and closed whatever happens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from router import Address
from router_health.causes import ProbeFailed, connect_failure, is_shortage, unreadable_name

if TYPE_CHECKING:
    import asyncio
    import ssl

__all__ = ["Caller", "connect"]


class Caller:
    """What an event loop asks of a protocol. None of asyncio's own, so that `router check`, which makes probes too,
    need not load an event loop."""

    __slots__ = ()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        pass

    def data_received(self, data: bytes) -> None:
        pass

    def eof_received(self) -> None:
        pass

    def connection_lost(self, exc: Exception | None) -> None:
        pass

    def pause_writing(self) -> None:
        pass

    def resume_writing(self) -> None:
        pass


async def connect(
    caller: Caller,
    address: Address,
    port: int = 0,
    *,
    tls: ssl.SSLContext | None = None,
    server_name: str = "",
) -> None:
    """Opens a connection that talks to `caller`; whoever calls closes its transport.

    Args:
        port: another one than the endpoint's; 0 for the endpoint's own.
        server_name: what the certificate has to name; the endpoint's host if empty.

    Raises:
        ProbeFailed: refused, unreachable, unknown name, or TLS did not come about.
        OSError: the router lacks descriptors, memory or ports, which says nothing about the endpoint.
    """
    from asyncio import get_running_loop

    loop = get_running_loop()
    protocol = cast(Any, caller)
    name = (server_name or address.host or "localhost") if tls is not None else None
    try:
        if address.scheme != "unix":
            host, at = address.host, port or address.port
            await loop.create_connection(lambda: protocol, host, at, ssl=tls, server_hostname=name)
        elif port:
            raise ProbeFailed("a unix socket has no port: this pool's probe sets one")
        else:
            await loop.create_unix_connection(lambda: protocol, address.path, ssl=tls, server_hostname=name)
    except OSError as error:
        if is_shortage(error):
            raise
        raise connect_failure(error, tls=tls is not None) from None
    except ValueError as error:
        raise unreadable_name(error) from None
