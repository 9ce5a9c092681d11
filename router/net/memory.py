"""How the process keeps its memory once it serves: settings of the collector and of the allocator, made once."""

from __future__ import annotations

import contextlib
import ctypes
import gc

__all__ = ["freeze_memory", "settle_memory"]

#: Allocations, less what was freed, between two runs of the collector.
_COLLECT_AFTER = 20_000
#: New objects that the collector looks at within some milliseconds.
_MUCH = 50_000
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
