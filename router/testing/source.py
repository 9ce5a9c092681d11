"""The contract of an endpoint source: complete sets, one watch after the other, and one that is over leaves nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from router import EndpointSource, EndpointSpec, Options
from router.testing.law import Made, law, make_plugin, unraised
from router.testing.watched import Watched, check_left

__all__ = ["check_source"]

#: Characters of the reason for which there is no set.
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
    await _watched(make_plugin(factory, options, 1)).check(change)
    if ill is not None:
        await _watched(make_plugin(factory, ill, 1)).refuses()
    await check_left(before)


def _watched(source: EndpointSource) -> Watched:
    return Watched(lambda: source.watch(), _checked, "endpoints", _MOST_TEXT)


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
