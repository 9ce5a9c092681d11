"""What an endpoint connection tells whoever drives its attempt."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from router.errors import RouterError
from router.policy.headers import ResponseHead

if TYPE_CHECKING:
    from router.net.upstream import UpstreamConnection

__all__ = ["Sink"]


class Sink(Protocol):
    """What a connection tells about its attempt (net/forward.py)."""

    def on_head(
        self, conn: UpstreamConnection, message: Any, head: ResponseHead, body: bytes, done: bool, now: float
    ) -> None: ...
    def on_interim(self, conn: UpstreamConnection, message: Any) -> None: ...
    def on_body(self, conn: UpstreamConnection, data: bytes, done: bool, now: float) -> None: ...
    def on_failed(self, conn: UpstreamConnection, error: RouterError) -> None: ...
    def on_full(self) -> None: ...
    def on_drained(self) -> None: ...
