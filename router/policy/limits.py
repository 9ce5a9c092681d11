"""A pool's settings of time and number."""

from __future__ import annotations

from typing import Literal

__all__ = ["Limits", "Timeouts"]

_NEVER = float("inf")


class Timeouts:
    """Seconds: to connect, until the response head, and between two pieces of a body."""

    __slots__ = ("connect", "head", "stream")

    def __init__(self, connect: float = 2.0, head: float = 30.0, stream: float = 60.0) -> None:
        self.connect = connect
        self.head = head
        self.stream = stream


class Limits:
    """How much may be under way and wait; infinity for no limit.

    Args:
        adaptive: how the limit of each endpoint is found out, "gradient" or "aimd"; "" for a fixed one.
    """

    __slots__ = ("adaptive", "in_flight", "per_endpoint", "queue", "queue_timeout")

    def __init__(
        self,
        in_flight: float = _NEVER,
        per_endpoint: float = _NEVER,
        queue: int = 0,
        queue_timeout: float = 1.0,
        adaptive: Literal["", "gradient", "aimd"] = "",
    ) -> None:
        self.adaptive = adaptive
        self.in_flight = in_flight
        self.per_endpoint = per_endpoint
        self.queue = queue
        self.queue_timeout = queue_timeout
