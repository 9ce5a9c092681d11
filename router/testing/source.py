"""The contract of an endpoint source: complete sets, one watch after the other, and one that is over leaves nothing."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from router import EndpointSource, EndpointSpec, Options
from router.testing.law import Made, law, make_plugin, unraised

__all__ = ["check_source"]

#: Seconds in which a source has to yield where there is something to yield, and to end when it is told to.
_PATIENCE = 10.0
#: A watch is cancelled after so many turns of the event loop, each in its own run.
_TURNS = (0, 1, 2, 3, 5, 8, 13, 21)
#: Seconds that what a watch has started may outlive it.
_LINGER = 1.0
_MOST_TEXT = 200


async def check_source(
    factory: Made,
    options: Options | None = None,
    *,
    change: Callable[[], object] | None = None,
    ill: Options | None = None,
) -> None:
    """Holds a source of endpoints to its contract.

    Outside of an event loop: `asyncio.run(check_source(…))`.

    Args:
        factory: what the plugin registers, or a class for "module:Name".
        options: its options, with which it finds endpoints; the defaults of its nested Options, or none, if left out.
        change: makes the next set another one, as by writing to a file; what it returns is awaited if it can be.
        ill: options with which there is nothing to find, such as a file that does not exist.

    Raises:
        AssertionError: naming the law that is broken.
    """
    before = asyncio.all_tasks()
    source: EndpointSource = make_plugin(factory, options, 1)
    first = await _first(source)
    again = await _first(source)
    law(again == first, "a second watch begins with the set of now", f"{first} became {again}")
    for turns in _TURNS:
        await _cancelled(source, turns)
    again = await _first(source)
    law(again == first, "a cancelled watch does not disturb the next", f"{first} became {again}")
    if change is not None:
        await _changed(source, change)
    if ill is not None:
        await _refused(make_plugin(factory, ill, 1))
    left = asyncio.all_tasks() - before
    if left:
        _, left = await asyncio.wait(left, timeout=_LINGER)
    law(not left, "a watch that is over leaves no task behind", ", ".join(task.get_name() for task in left))


def _watch(source: EndpointSource) -> AsyncIterator[Sequence[EndpointSpec]]:
    watch = unraised("watch() returns and raises nothing itself: only its iteration does", source.watch)
    if inspect.iscoroutine(watch):
        watch.close()
    fine = isinstance(watch, AsyncIterator)
    law(fine, "watch() is an asynchronous iterator: an `async def` that yields", type(watch).__name__)
    return watch  # type: ignore[no-any-return]


async def _first(source: EndpointSource) -> Any:
    """The first set of a new watch, which is then closed."""
    watch = _watch(source)
    found = await _next(watch)
    await _closed(watch)
    return found


async def _next(watch: AsyncIterator[Sequence[EndpointSpec]]) -> Any:
    """A copy of the next set, after it was checked."""
    task = asyncio.ensure_future(_pulled(watch))
    await asyncio.wait([task], timeout=_PATIENCE)
    if not task.done():
        task.cancel()
        law(False, "a source that finds endpoints yields them", f"nothing within {_PATIENCE:g} s")
    law(not task.cancelled(), "a watch that nobody cancels does not cancel itself")
    error = task.exception()
    law(not isinstance(error, StopAsyncIteration), "a watch does not end by itself: it waits for the next change")
    law(error is None, "a watch raises only where there is no set to yield", f"raised {error!r}")
    return _checked(task.result())


async def _pulled(watch: AsyncIterator[Sequence[EndpointSpec]]) -> Any:
    return await anext(watch)


def _checked(specs: Any) -> list[EndpointSpec]:
    fine = isinstance(specs, Sequence) and not isinstance(specs, str | bytes)
    law(fine, "what is yielded is the complete set, as a list or tuple", type(specs).__name__)
    stranger = next((spec for spec in specs if not isinstance(spec, EndpointSpec)), None)
    law(stranger is None, "a set consists of EndpointSpec alone", repr(stranger))
    seen = set()
    for spec in specs:
        identity = unraised("a URL has scheme, host and port only, or is unix:", lambda at: str(at.address), spec)
        name = spec.id or identity
        law(name not in seen, "no identity is there twice in a set", name)
        seen.add(name)
    return list(specs)


async def _closed(watch: Any) -> None:
    """Ends a watch between two sets, as a reload does."""
    if not hasattr(watch, "aclose"):
        return
    task = asyncio.ensure_future(watch.aclose())
    await asyncio.wait([task], timeout=_PATIENCE)
    law(task.done(), "a watch that is closed ends at once", f"not within {_PATIENCE:g} s")
    error = None if task.cancelled() else task.exception()
    law(error is None, "a watch that is closed raises nothing", repr(error))


async def _cancelled(source: EndpointSource, turns: int) -> None:
    """Ends a watch while it is asked for more: for its first set, or for the second."""
    watch = _watch(source)
    task = asyncio.ensure_future(_all(watch))
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task], timeout=_PATIENCE)
    law(task.done(), "a cancelled watch ends at once", f"it still ran after {_PATIENCE:g} s")
    if not task.cancelled():
        law(False, "a cancelled watch ends as cancelled: let CancelledError pass", repr(task.exception() or "ended"))
    await _closed(watch)


async def _all(watch: AsyncIterator[Sequence[EndpointSpec]]) -> None:
    async for _ in watch:
        pass


async def _changed(source: EndpointSource, change: Callable[[], object]) -> None:
    watch = _watch(source)
    kept = await anext(watch)
    first = list(kept)
    made = change()
    if inspect.isawaitable(made):
        await made
    second = await _next(watch)
    law(second != first, "a set is yielded again when it has changed", f"{first} twice")
    law(list(kept) == first, "a set that was yielded stays as it was", f"{first} became {list(kept)}")
    await _closed(watch)


async def _refused(source: EndpointSource) -> None:
    """The first watch says why there is nothing."""
    watch = _watch(source)
    task = asyncio.ensure_future(_pulled(watch))
    await asyncio.wait([task], timeout=_PATIENCE)
    if not task.done():
        task.cancel()
        law(False, "a watch that finds nothing says so: it raises", f"not within {_PATIENCE:g} s")
    error = asyncio.CancelledError() if task.cancelled() else task.exception()
    law(error is not None, "a watch that finds nothing says so: it raises", "it yielded")
    law(isinstance(error, Exception), "what a watch raises is an Exception", repr(error))
    text = str(error)
    law(bool(text.strip()), "what a watch raises says why", f"{error!r} has no text")
    fine = text.isprintable() and len(text) <= _MOST_TEXT
    law(fine, f"the reason is one printable line of at most {_MOST_TEXT} characters", repr(text[: 2 * _MOST_TEXT]))
    await _closed(watch)
