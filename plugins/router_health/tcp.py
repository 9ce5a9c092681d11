"""The probe that only connects: well is who accepts.

It sends nothing, so it learns nothing of what would be answered.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from msgspec import Meta

from router import Endpoint, Options, Tools
from router_health.connecting import Caller, connect

if TYPE_CHECKING:
    import asyncio

__all__ = ["TcpOptions", "TcpProbe"]


class TcpOptions(Options, frozen=True):
    """Where to connect.

    Args:
        port: another one than the endpoint's; 0 for the endpoint's own.
    """

    port: Annotated[int, Meta(ge=0, le=65535)] = 0


class TcpProbe:
    """Connects and closes. TLS is not begun, for https either: use `http` to see the certificate."""

    __slots__ = ("_port",)

    def __init__(self, options: TcpOptions, tools: Tools) -> None:
        self._port = options.port

    async def check(self, endpoint: Endpoint) -> None:
        call = _Call()
        try:
            await connect(call, endpoint.address, self._port)
        finally:
            call.close()


class _Call(Caller):
    __slots__ = ("_transport",)

    def __init__(self) -> None:
        self._transport: asyncio.BaseTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()
