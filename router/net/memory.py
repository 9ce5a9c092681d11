"""How the process keeps its memory once it serves: settings of the collector and the allocator, and work set aside."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import sys
from collections.abc import Callable
from typing import Any

__all__ = ["aside", "freeze_memory", "settle_memory"]

#: Allocations, less what was freed, between two runs of the collector.
_COLLECT_AFTER = 20_000
#: New objects that the collector looks at within some milliseconds.
_MUCH = 50_000
#: Seconds that a thread may hold the interpreter while requests wait: a tenth of what is usual.
_SWITCH = 0.0005
#: mallopt(3): parameters, and the bytes of free memory that are kept.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEPT = 32 << 20


def settle_memory() -> None:
    """What stands at the start stays for good: the collector need not look at it again, nor look very often.

    An exchange leaves no cycles behind, so what it allocates goes by itself.
    """
    freeze_memory()
    gc.set_threshold(_COLLECT_AFTER, 20, 20)
    # Else pieces of bodies are given back to the system and asked for again, each page with a fault: a third of what
    # 1 MiB costs. Only the GNU library has this.
    with contextlib.suppress(AttributeError, OSError):
        library = ctypes.CDLL(None)
        library.mallopt(_M_TRIM_THRESHOLD, _KEPT)
        library.mallopt(_M_MMAP_THRESHOLD, _KEPT // 4)


def freeze_memory() -> None:
    """Takes what stands now out of the collector's sight.

    What is new is cleaned before, unless it is so much that every request would feel it.
    """
    if gc.get_count()[0] < _MUCH:
        gc.collect()
    gc.freeze()


async def aside(work: Callable[[Any], Any], given: Any) -> Any:
    """Runs `work` in a thread, so that requests are served meanwhile. The collector stays out of it: a look at all that
    is being made would be felt by every one of them."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(_SWITCH)
    gc.disable()
    try:
        return await asyncio.to_thread(work, given)
    finally:
        sys.setswitchinterval(interval)
        freeze_memory()
        gc.enable()
