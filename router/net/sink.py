"""What an endpoint connection tells whoever drives its attempt."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from router.errors import RouterError
from router.policy.plain import ResponseHead

if TYPE_CHECKING:
    from router.net.upstream import UpstreamConnection

__all__ = ["Sink"]


class Switch(NamedTuple):
    """What is known once an endpoint has agreed to WebSocket."""

    #: What read_switch gave.
    head: Any
    #: The connection to the endpoint, which is nobody's any more.
    transport: Any
    #: Bytes that came behind the head.
    rest: bytes
    #: Seconds without a byte in either direction before it is over.
    idle: float


class Sink(Protocol):
    """What a connection tells about its attempt (net/forward.py)."""

    #: The Sec-WebSocket-Key of a request to switch, b"" of any other.
    key: bytes

    def on_head(self, conn: UpstreamConnection, head: ResponseHead, body: bytes, done: bool, now: float) -> None: ...
    def on_interim(self, conn: UpstreamConnection, message: Any) -> None: ...
    def on_switch(self, conn: UpstreamConnection, switch: Switch, now: float) -> None: ...
    def on_body(self, conn: UpstreamConnection, data: bytes, done: bool, now: float) -> None: ...
    def on_failed(self, conn: UpstreamConnection, error: RouterError) -> None: ...
    def on_full(self) -> None: ...
    def on_drained(self) -> None: ...
