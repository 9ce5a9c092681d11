"""The contract of a probe: it returns or says why not, alone or among others, and a cancelled check leaves nothing."""

from __future__ import annotations

import asyncio
from typing import Any

from router import Endpoint, Options, Probe
from router.testing.law import Made, law, make_plugin

__all__ = ["check_probe"]

#: Seconds in which any check of the servers that are handed in has to end.
_PATIENCE = 10.0
#: A check is cancelled after so many turns of the event loop, each in its own run.
_TURNS = (0, 1, 2, 3, 5, 8, 13, 21)
#: Seconds that what a check has started may outlive its being cancelled.
_LINGER = 1.0
_MOST_TEXT = 200


async def check_probe(
    factory: Made, options: Options | None = None, *, well: Endpoint, ill: Endpoint, silent: Endpoint | None = None
) -> None:
    """Holds a probe to its contract, against servers that the caller runs.

    Outside of an event loop: `asyncio.run(check_probe(…))`.

    Args:
        factory: what the plugin registers, or a class for "module:Name".
        options: its options; the defaults of its nested Options, or none, if left out.
        well: an endpoint that the probe lets pass.
        ill: one that it does not, such as a port that nobody listens on.
        silent: one that never answers, if there is such a thing; its check is cancelled.

    Raises:
        AssertionError: naming the law that is broken.
    """
    probe: Probe = make_plugin(factory, options, 1)
    before = [(e, e.load, e.weight, e.slot) for e in (well, ill)]
    for _ in range(2):
        _passed("an endpoint that is well passes, every time", await _told(probe, well))
        _refused(await _told(probe, ill))
    await _side_by_side(probe, well, ill)
    for turns in _TURNS:
        await _cancelled(probe, silent or well, turns)
    _passed("a cancelled check does not disturb the next", await _told(probe, well))
    after = [(e, e.load, e.weight, e.slot) for e in (well, ill)]
    law(before == after, "a probe changes no endpoint", f"{before} became {after}")


async def _told(probe: Probe, endpoint: Endpoint) -> Any:
    """What the check returned, or the exception that it raised."""
    task = asyncio.ensure_future(probe.check(endpoint))
    await asyncio.wait([task], timeout=_PATIENCE)
    if not task.done():
        task.cancel()
        law(False, "a check ends by itself where the server answers", f"not within {_PATIENCE:g} s")
    law(not task.cancelled(), "a check that nobody cancels does not cancel itself")
    return task.exception() or task.result()


def _passed(sentence: str, told: Any) -> None:
    law(not isinstance(told, BaseException), sentence, f"raised {told!r}")
    law(told is None, "check returns nothing: whatever is returned is no verdict", repr(told))


def _refused(told: Any) -> None:
    law(isinstance(told, BaseException), "check raises where the endpoint is not well", f"returned {told!r}")
    law(isinstance(told, Exception), "what check raises is an Exception", repr(told))
    text = str(told)
    law(bool(text.strip()), "what check raises says why", f"{told!r} has no text")
    fine = text.isprintable() and len(text) <= _MOST_TEXT
    law(fine, f"the reason is one printable line of at most {_MOST_TEXT} characters", repr(text[: 2 * _MOST_TEXT]))


async def _side_by_side(probe: Probe, well: Endpoint, ill: Endpoint) -> None:
    told = await asyncio.gather(*(_told(probe, endpoint) for endpoint in (well, ill, well, ill, well)))
    for endpoint, one in zip((well, ill, well, ill, well), told, strict=True):
        fine = isinstance(one, Exception) if endpoint is ill else one is None
        law(fine, "checks that run side by side do not disturb each other", f"{endpoint.identity}: {one!r}")


async def _cancelled(probe: Probe, endpoint: Endpoint, turns: int) -> None:
    before = asyncio.all_tasks()
    task = asyncio.ensure_future(probe.check(endpoint))
    for _ in range(turns):
        await asyncio.sleep(0)
    if not task.cancel():
        # It was over before; what it came to is none of this law's business.
        _end_of(task)
        return
    await asyncio.wait([task], timeout=_PATIENCE)
    law(task.done(), "a cancelled check ends at once", f"it still ran after {_PATIENCE:g} s")
    law(task.cancelled(), "a cancelled check ends as cancelled: let CancelledError pass", _end_of(task))
    left = asyncio.all_tasks() - before
    if left:
        _, left = await asyncio.wait(left, timeout=_LINGER)
    law(not left, "a cancelled check leaves no task behind", ", ".join(task.get_name() for task in left))


def _end_of(task: asyncio.Future[None]) -> str:
    if task.cancelled():
        return ""
    error = task.exception()
    return f"raised {error!r}" if error else f"returned {task.result()!r}"
