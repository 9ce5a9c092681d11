"""Runs one source of endpoints (net/sourcing.py).

What a source yields is looked at here, before anything else sees it; what a set means for a pool is the caller's.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any

from router.api import EndpointSource
from router.endpoints import index_specs
from router.model import EndpointSpec
from router.net.sourcing import Sourcing

__all__ = ["SourceRun"]

#: Endpoints that one source may name.
_MOST = 100_000
#: Characters of an endpoint's id.
_LONGEST_NAME = 255


class SourceRun(Sourcing[dict[str, EndpointSpec]]):
    """One source of endpoints at work; to be made while the loop runs.

    Args:
        name: for the log, such as "pool web, discovery file".
        take: called with each new set, by identity.
        rng: for jitter.

    Attributes:
        first, state: as of Sourcing.
    """

    def __init__(
        self, name: str, source: EndpointSource, take: Callable[[dict[str, EndpointSpec]], None], rng: random.Random
    ) -> None:
        super().__init__(name, "endpoints", lambda: source.watch(), _checked, take, rng)


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
    for identity in found:
        if not identity.isprintable() or len(identity) > _LONGEST_NAME:
            raise ValueError(f"an endpoint's id is printable and has at most {_LONGEST_NAME} characters: {identity!r}")
    return found
