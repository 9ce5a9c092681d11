"""What the tests of policy/ are made of: a pool at a fixed moment, selectors and plugins that do as they are told."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from router import Candidates, Eject, Endpoint, EndpointSpec, Exchange, Members, Outcome
from router.policy.pool import Pool

#: The moment at which the pools of these tests are made.
NOW = 1000.0


class Rotating:
    """Takes the candidates in turn."""

    def __init__(self) -> None:
        self.turn = -1
        self.updates: list[tuple[Endpoint, ...]] = []

    def update(self, endpoints: Iterable[Endpoint]) -> None:
        self.updates.append(tuple(endpoints))

    def choose(self, candidates: Candidates, exchange: Exchange) -> Endpoint:
        assert candidates, "a selector never sees an empty list"
        self.turn += 1
        return candidates[self.turn % len(candidates)]


class Scripted:
    """An affinity and a detector in one, that answers what a test has set."""

    def __init__(self) -> None:
        self.pin: Endpoint | None = None
        self.verdict: Eject | None = None
        self.error: Exception | None = None
        self.found = 0
        self.observed: list[tuple[Endpoint, Outcome]] = []
        self.forgotten: list[Endpoint] = []

    def find(self, members: Members, exchange: Exchange) -> Endpoint | None:
        self.found += 1
        if self.error is not None:
            raise self.error
        return self.pin

    def remember(self, endpoint: Endpoint, exchange: Exchange, headers: list[tuple[bytes, bytes]]) -> None:
        raise AssertionError("policy/ does not call this")

    def observe(self, endpoint: Endpoint, outcome: Outcome, now: float) -> Eject | None:
        self.observed.append((endpoint, outcome))
        if self.error is not None:
            raise self.error
        return self.verdict

    def forget(self, endpoint: Endpoint) -> None:
        self.forgotten.append(endpoint)

    def eject(self, pool: Pool, endpoint: Endpoint, now: float, *, connection: bool = True) -> None:
        """Lets the pool hear of a failure, and says that the endpoint should go for it."""
        self.verdict = Eject("test", connection)
        pool.told(endpoint, Outcome("failure", phase="connect"), now)
        self.verdict = None


def _specs(endpoints: int | Iterable[EndpointSpec]) -> tuple[EndpointSpec, ...]:
    if isinstance(endpoints, int):
        return tuple(EndpointSpec(url=f"http://127.0.0.1:{9001 + i}", id="abcdefghij"[i]) for i in range(endpoints))
    return tuple(endpoints)


@pytest.fixture
def scripted() -> Scripted:
    return Scripted()


@pytest.fixture
def now() -> float:
    return NOW


@pytest.fixture
def build() -> Callable[..., Pool]:
    """build(3) or build([EndpointSpec(...)]), and what else Pool takes: a pool, its endpoints called a, b, c."""

    def build(endpoints: int | Iterable[EndpointSpec] = 3, selector: Any = None, **settings: Any) -> Pool:
        pool = Pool("web", selector or Rotating(), rng=random.Random(7), **settings)
        pool.update(_specs(endpoints), NOW)
        return pool

    return build
