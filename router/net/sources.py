"""Runs one source of endpoints: keeps its last good set, says what is wrong, and asks again after a while.

What a source yields is looked at here, before anything else sees it; what a set means for a pool is the caller's.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any

from router.api import EndpointSource
from router.endpoints import index_specs
from router.model import EndpointSpec
from router.net.probes import cause_of, one_line

__all__ = ["SourceRun"]

log = logging.getLogger("router")

#: Seconds until a source that has failed is asked again: first, and at most.
_FIRST, _LONGEST = 1.0, 30.0
#: The part by which that is varied, so that many routers do not ask at once.
_JITTER = 0.2
#: Endpoints that one source may name.
_MOST = 100_000
#: Characters of an endpoint's id.
_LONGEST_NAME = 255
#: Seconds that a source gets to clean up at the end.
_GRACE = 2.0


class SourceRun:
    """One source at work; to be made while the loop runs.

    Args:
        name: for the log, such as "pool web, discovery file".
        take: called with each new set, by identity.
        rng: for jitter.

    Attributes:
        first: set once there was a first set, or a first failure.
        state: for people: "ok", or what is wrong.
    """

    def __init__(
        self, name: str, source: EndpointSource, take: Callable[[dict[str, EndpointSpec]], None], rng: random.Random
    ) -> None:
        self._name = name
        self._source = source
        self._take = take
        self._rng = rng
        self._last: dict[str, EndpointSpec] | None = None
        #: Whether there was a good set since it was begun.
        self._worked = False
        self._closed = False
        self.first = asyncio.Event()
        self.state = "no answer yet"
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def close(self) -> None:
        """Ends the source; waits a little for it to clean up."""
        self._closed = True
        self._task.cancel()
        await asyncio.wait((self._task,), timeout=_GRACE)

    async def _run(self) -> None:
        pause = _FIRST
        while not self._closed:
            self._worked = False
            try:
                await self._watch()
                self._fails("it ended, which a source never does")
            except BaseException as error:
                if self._closed:
                    raise
                # SystemExit too: a plugin may end its own work, never the router.
                self._fails(cause_of(error))
            pause = _FIRST if self._worked else min(2 * pause, _LONGEST)
            await asyncio.sleep(pause * (1 - _JITTER + 2 * _JITTER * self._rng.random()))

    async def _watch(self) -> None:
        watching = self._source.watch()
        try:
            async for specs in watching:
                self._took(specs)
        finally:
            close = getattr(watching, "aclose", None)
            if close is not None:
                await close()

    def _took(self, specs: Any) -> None:
        if self._closed:
            # A source that did not notice that it was cancelled.
            return
        try:
            found = _checked(specs)
        except (TypeError, ValueError) as error:
            self._fails(one_line(str(error)))
            return
        if self.state not in ("ok", "no answer yet"):
            log.info("%s: works again", self._name)
        self.state = "ok"
        self._worked = True
        if found != self._last:
            self._last = found
            self._take(found)
        self.first.set()

    def _fails(self, why: str) -> None:
        """Says what is wrong, once."""
        rest = "no endpoints so far" if self._last is None else "the last good endpoints stay"
        level = logging.DEBUG if why == self.state else logging.WARNING
        log.log(level, "%s: %s; %s", self._name, why, rest)
        self.state = why
        self.first.set()


def _checked(specs: Any) -> dict[str, EndpointSpec]:
    if not isinstance(specs, Iterable) or isinstance(specs, str | bytes):
        raise TypeError(f"it gave a {type(specs).__name__}; a source gives a list of EndpointSpec")
    listed = list(islice(specs, _MOST + 1))
    wrong = next((type(item).__name__ for item in listed if not isinstance(item, EndpointSpec)), "")
    if wrong:
        raise TypeError(f"it gave a {wrong} among the endpoints; each is an EndpointSpec")
    if len(listed) > _MOST:
        raise ValueError(f"it gave more than {_MOST} endpoints, which is the most that are taken")
    found = index_specs(listed)
    for identity, spec in found.items():
        if not identity.isprintable() or len(identity) > _LONGEST_NAME:
            raise ValueError(f"an endpoint's id is printable and has at most {_LONGEST_NAME} characters: {identity!r}")
        if spec.address.scheme == "https":
            raise ValueError(f"{spec.url}: TLS to endpoints is not supported yet")
    return found
