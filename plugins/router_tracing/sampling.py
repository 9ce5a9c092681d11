"""Which requests are recorded: decided at the start from ids alone, at the end from what they came to."""

from __future__ import annotations

from typing import Literal

from router import Exchange
from router_tracing.contexts import Context
from router_tracing.options import Keep

__all__ = ["Sampler", "kept_because"]


class Sampler:
    """Decides at the start.

    Args:
        sampling: the share of traces, 0 to 1; "always" or "never", which ask no sender.
        parent_based: whether a share is that of new traces alone: what the sender decided holds for others.

    The share goes by the trace id, as the SDK's TraceIdRatioBased has it: all that see one trace decide alike.
    """

    __slots__ = ("below", "parent_based", "ratio")

    def __init__(self, sampling: float | Literal["always", "never"], *, parent_based: bool = True) -> None:
        ratio = {"always": 1.0, "never": 0.0}.get(sampling, 0.0) if isinstance(sampling, str) else sampling
        self.ratio = ratio
        bound = round(ratio * (1 << 64))
        #: The last 16 digits of a trace id that is recorded come before these. As texts, which costs least.
        self.below = "g" if bound >> 64 else f"{bound:016x}"
        self.parent_based = parent_based and not isinstance(sampling, str)

    def records(self, trace_id: str, parent: Context | None) -> bool:
        """Whether this trace is recorded."""
        if parent is not None and self.parent_based and parent.sampled is not None:
            return parent.sampled
        return trace_id[16:] < self.below


def kept_because(keep: Keep, exchange: Exchange, error: Exception | None, now: float) -> str:
    """Why an exchange that is over is recorded whatever was decided at its start: the rule's name, "" if it is not."""
    if keep.errors and (exchange.status >= 500 or getattr(error, "source", "client") != "client"):
        return "errors"
    if keep.retried and len(exchange.tried) > 1:
        return "retried"
    if exchange.relayed is not None and exchange.attempts:
        # A WebSocket is to last; what may be slow is its opening.
        now = exchange.attempts[-1].head_at or now
    return "slower" if now - exchange.started > keep.slower else ""
