"""What every source keeps to, whatever its sets consist of: complete sets, one watch after the other, no leftovers.

A source's own contract hands in how a watch is begun and what a right set is.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable
from typing import Any

from router.testing.law import law, unraised

__all__ = ["Watched", "check_left", "check_reason"]

#: Seconds in which a source has to yield where there is something to yield, and to end when it is told to.
_PATIENCE = 10.0
#: A watch is cancelled after so many turns of the event loop, each in its own run.
_TURNS = (0, 1, 2, 3, 5, 8, 13, 21)
#: Seconds that what a watch has started may outlive it.
_LINGER = 1.0


class Watched:
    """A source under its laws.

    Args:
        begin: begins a watch.
        checked: a copy of a set that was yielded; raises AssertionError if it is not right.
        what: that the sets consist of, as in "endpoints".
        most: characters of the reason for which there is no set.
        over: asked after each watch that is over; raises AssertionError if something of it is left.
    """

    def __init__(
        self,
        begin: Callable[[], Any],
        checked: Callable[[Any], list[Any]],
        what: str,
        most: int,
        over: Callable[[], object] = bool,
    ) -> None:
        self._begin = begin
        self._checked = checked
        self._what = what
        self._most = most
        self._over = over

    async def check(self, change: Callable[[], object] | None) -> None:
        """All laws of a source that finds something.

        Raises:
            AssertionError: naming the law that is broken.
        """
        first = await self._first()
        again = await self._first()
        law(again == first, "a second watch begins with the set of now", f"{first} became {again}")
        for turns in _TURNS:
            await self._cancelled(turns)
        again = await self._first()
        law(again == first, "a cancelled watch does not disturb the next", f"{first} became {again}")
        if change is not None:
            await self._changed(change)

    async def refuses(self) -> None:
        """The law of one that finds nothing: its first watch says why.

        Raises:
            AssertionError: it does not.
        """
        watch = self._watch()
        task = asyncio.ensure_future(_pulled(watch))
        await asyncio.wait([task], timeout=_PATIENCE)
        if not task.done():
            task.cancel()
            law(False, "a watch that finds nothing says so: it raises", f"not within {_PATIENCE:g} s")
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        law(error is not None, "a watch that finds nothing says so: it raises", "it yielded")
        check_reason(error, "what a watch raises", self._most)
        await self._closed(watch)

    def _watch(self) -> AsyncIterator[Any]:
        watch = unraised("watch() returns and raises nothing itself: only its iteration does", self._begin)
        if inspect.iscoroutine(watch):
            watch.close()
        fine = isinstance(watch, AsyncIterator)
        law(fine, "watch() is an asynchronous iterator: an `async def` that yields", type(watch).__name__)
        return watch  # type: ignore[no-any-return]

    async def _first(self) -> list[Any]:
        """The first set of a new watch, which is then closed."""
        watch = self._watch()
        found = await self._next(watch)
        await self._closed(watch)
        return found

    async def _next(self, watch: AsyncIterator[Any]) -> list[Any]:
        """A copy of the next set, after it was checked."""
        task = asyncio.ensure_future(_pulled(watch))
        await asyncio.wait([task], timeout=_PATIENCE)
        if not task.done():
            task.cancel()
            law(False, f"a source that finds {self._what} yields them", f"nothing within {_PATIENCE:g} s")
        law(not task.cancelled(), "a watch that nobody cancels does not cancel itself")
        error = task.exception()
        law(not isinstance(error, StopAsyncIteration), "a watch does not end by itself: it waits for the next change")
        law(error is None, "a watch raises only where there is no set to yield", f"raised {error!r}")
        return self._checked(task.result())

    async def _closed(self, watch: Any) -> None:
        """Ends a watch between two sets, as a reload does."""
        if hasattr(watch, "aclose"):
            task = asyncio.ensure_future(watch.aclose())
            await asyncio.wait([task], timeout=_PATIENCE)
            law(task.done(), "a watch that is closed ends at once", f"not within {_PATIENCE:g} s")
            error = None if task.cancelled() else task.exception()
            law(error is None, "a watch that is closed raises nothing", repr(error))
        self._over()

    async def _cancelled(self, turns: int) -> None:
        """Ends a watch while it is asked for more: for its first set, or for the second."""
        watch = self._watch()
        task = asyncio.ensure_future(_all(watch))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task], timeout=_PATIENCE)
        law(task.done(), "a cancelled watch ends at once", f"it still ran after {_PATIENCE:g} s")
        if not task.cancelled():
            seen = repr(task.exception() or "ended")
            law(False, "a cancelled watch ends as cancelled: let CancelledError pass", seen)
        await self._closed(watch)

    async def _changed(self, change: Callable[[], object]) -> None:
        watch = self._watch()
        kept = await anext(watch)
        first = list(kept)
        made = change()
        if inspect.isawaitable(made):
            await made
        second = await self._next(watch)
        law(second != first, "a set is yielded again when it has changed", f"{first} twice")
        law(list(kept) == first, "a set that was yielded stays as it was", f"{first} became {list(kept)}")
        await self._closed(watch)


async def check_left(before: set[asyncio.Task[Any]]) -> None:
    """That no task runs but those from before.

    Raises:
        AssertionError: naming those that do.
    """
    left = asyncio.all_tasks() - before
    if left:
        _, left = await asyncio.wait(left, timeout=_LINGER)
    law(not left, "a watch that is over leaves no task behind", ", ".join(task.get_name() for task in left))


def check_reason(error: object, what: str, most: int) -> None:
    """That an error can be shown to people: an Exception, with a text on one printable line.

    Raises:
        AssertionError: it cannot.
    """
    law(isinstance(error, Exception), f"{what} is an Exception", repr(error))
    text = str(error)
    law(bool(text.strip()), f"{what} says why", f"{error!r} has no text")
    fine = text.isprintable() and len(text) <= most
    law(fine, f"the reason is one printable line of at most {most} characters", repr(text[: 2 * most]))


async def _pulled(watch: AsyncIterator[Any]) -> Any:
    return await anext(watch)


async def _all(watch: AsyncIterator[Any]) -> None:
    async for _ in watch:
        pass
