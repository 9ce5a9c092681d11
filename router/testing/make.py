"""What tests are made of: a clock, endpoints, candidates, exchanges, as the router itself would make them.

Nothing here asserts; the laws stand beside it, a file per concern.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from router import Attempt, Candidates, Endpoint, EndpointSpec, Exchange, Members, Tools

__all__ = [
    "FakeClock",
    "make_attempt",
    "make_candidates",
    "make_endpoints",
    "make_exchange",
    "make_members",
    "make_tools",
    "varied_exchange",
]


class FakeClock:
    """Monotonic seconds that pass only when told to."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> float:
        """Lets time pass, and returns the new now."""
        if seconds < 0:
            raise ValueError("time does not run backwards")
        self.now += seconds
        return self.now


def make_tools(seed: int = 0, clock: Callable[[], float] | None = None) -> Tools:
    """Tools with a seeded generator, and a FakeClock unless another clock is given."""
    return Tools(clock or FakeClock(), random.Random(seed))


def make_endpoints(*weights: int, pool: str = "test", first_port: int = 9001, **fields: Any) -> list[Endpoint]:
    """One endpoint per weight, at 127.0.0.1 and successive ports.

    Args:
        weights: configured weights; three endpoints of weight 1 if none is given.
        pool: name of the pool.
        first_port: port of the first one; other ports make other identities.
        fields: further fields of every EndpointSpec, as in zone="a".
    """
    return [
        Endpoint(EndpointSpec(url=f"http://127.0.0.1:{first_port + index}", weight=weight, **fields), pool)
        for index, weight in enumerate(weights or (1, 1, 1))
    ]


def make_candidates(endpoints: Iterable[Endpoint]) -> Candidates:
    """Candidates as the pool makes them: each endpoint knows its slot, so it is in one such list at a time."""
    candidates = Candidates()
    for endpoint in endpoints:
        candidates.add(endpoint)
    return candidates


def make_members(endpoints: Iterable[Endpoint]) -> Members:
    """All endpoints of a pool by identity, as an affinity sees them."""
    return Members({endpoint.identity: endpoint for endpoint in endpoints})


def make_exchange(
    method: str = "GET",
    target: str = "/",
    *,
    headers: Mapping[str, str] | Iterable[tuple[str, str]] = (),
    host: str = "example.test",
    client: str = "192.0.2.1",
    scheme: str = "http",
    started: float = 1000.0,
) -> Exchange:
    """An exchange as the router would build it from such a request.

    Raises:
        ValueError: a line end in a field or in the target.
    """
    fields = [("Host", host), *(headers.items() if isinstance(headers, Mapping) else headers)]
    exchange = Exchange(
        method=method,
        target=target,
        host=host,
        head=_head(method, target, fields),
        client=client,
        scheme=scheme,
        started=started,
    )
    exchange.id = f"test-{target}"
    exchange.pool = "test"
    return exchange


def _head(method: str, target: str, fields: Iterable[tuple[str, str]]) -> bytes:
    lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in fields)]
    if any(end in line for line in lines for end in "\r\n"):
        raise ValueError("no part of a request's head can hold a line end")
    return "".join(f"{line}\r\n" for line in [*lines, ""]).encode("utf-8", "surrogateescape")


def make_attempt(endpoint: Endpoint, number: int = 0, started: float = 1000.0) -> Attempt:
    """An open attempt at an endpoint, without a deadline."""
    return Attempt(endpoint, number, started, float("inf"), None)


def varied_exchange(number: int) -> Exchange:
    """The n-th of many exchanges that differ in client, path, query, cookie and the header X-Key."""
    return make_exchange(
        target=f"/items/{number}?user={number}",
        headers={"Cookie": f"session=s{number}", "X-Key": f"k{number}", "User-Agent": f"test/{number % 7}"},
        client=f"198.51.{number // 250 % 250}.{number % 250}",
    )
