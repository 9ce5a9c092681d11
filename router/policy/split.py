"""Which of a route's pools takes a request: by chance, or by a value that the client keeps, in shares by weight."""

from __future__ import annotations

import random
import re
from bisect import bisect_right
from collections.abc import Callable, Iterable
from hashlib import blake2b
from itertools import accumulate

from router.model import Exchange
from router.policy.pool import Pool

__all__ = ["Split"]

#: Bytes of a Cookie field that are looked through: browsers keep to 4 KiB for a cookie.
_MOST_COOKIES = 16 << 10


class Split:
    """Several pools with weights.

    The shares are ranges of 0 to 1 in the order of the pools. A value is hashed (BLAKE2b) to a place in 0 to 1 that is
    the same in every route, process and version: who has moved to a new pool in one route has moved in all. Where
    weights change between two pools, no more values move than must.

    Args:
        pools: with weights of 0 or more, one at least above 0.
        by: "random", "client" (its address), "header:x" or "cookie:x". Where the value is missing or empty, the
            client's address is taken; where there is none (a unix socket), chance.
    """

    __slots__ = ("_ends", "_pools", "_total", "_value", "pools")

    def __init__(self, pools: Iterable[tuple[Pool, int]], by: str = "random") -> None:
        weighted = [(pool, weight) for pool, weight in pools]
        total = self._total = sum(weight for _, weight in weighted)
        #: Each pool with its share of 1.
        self.pools = tuple((pool, weight / total) for pool, weight in weighted)
        self._pools = [pool for pool, _ in weighted]
        self._ends = list(accumulate(weight for _, weight in weighted))
        self._value = _reader(by)

    def choose(self, exchange: Exchange, rng: random.Random) -> Pool:
        """The pool for this exchange. `rng` is drawn from only where chance decides."""
        value = self._value(exchange) if self._value is not None else ""
        if value:
            digest = blake2b(value.encode("utf-8", "surrogatepass"), digest_size=8, person=b"router.split").digest()
            place = int.from_bytes(digest, "big") * self._total >> 64
        else:
            place = int(rng.random() * self._total)
        return self._pools[bisect_right(self._ends, place)]


def _reader(by: str) -> Callable[[Exchange], str] | None:
    kind, _, name = by.partition(":")
    if kind == "client":
        return lambda exchange: exchange.client
    if kind == "header":
        return lambda exchange: exchange.headers.get(name) or exchange.client
    if kind == "cookie":
        # RFC 6265 §5.4, and whatever blanks and quotes clients put around.
        find = re.compile(rf'(?:^|;)[ \t]*{re.escape(name)}[ \t]*=[ \t]*"?([^;"]*)').search

        def cookie(exchange: Exchange) -> str:
            found = find((exchange.headers.get("Cookie") or "")[:_MOST_COOKIES])
            return (found[1].rstrip() if found is not None else "") or exchange.client

        return cookie
    return None
