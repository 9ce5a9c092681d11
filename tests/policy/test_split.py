"""A route's pools take their shares, and a value stays where it is."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from router import Exchange
from router.policy.pool import Pool
from router.policy.split import Split
from router.testing import make_exchange

RNG = random.Random(3)
Build = Callable[..., Split]


class Unused(random.Random):
    def random(self) -> float:
        raise AssertionError("a value decides here, not chance")


@pytest.fixture
def split(build: Callable[..., Pool]) -> Build:
    """split("client", a=90, b=10)"""

    def make(by: str = "random", **weights: int) -> Split:
        pools = []
        for name, weight in weights.items():
            pool = build(1)
            pool.name = name
            pools.append((pool, weight))
        return Split(pools, by)

    return make


def taken(split: Split, exchange: Exchange, rng: Any = None) -> str:
    return split.choose(exchange, rng or Unused()).name


def clients(count: int) -> list[Exchange]:
    return [make_exchange(client=f"2001:db8::{n:x}") for n in range(count)]


def test_it_tells_its_pools_and_their_shares(split: Build) -> None:
    assert [(pool.name, share) for pool, share in split(a=3, b=1, c=0).pools] == [("a", 0.75), ("b", 0.25), ("c", 0)]


@pytest.mark.parametrize("by", ["random", "client"])
@pytest.mark.parametrize("weights", [{"a": 90, "b": 10}, {"a": 1, "b": 2, "c": 5}, {"a": 0, "b": 1, "c": 0, "d": 1}])
def test_shares_follow_the_weights(split: Build, by: str, weights: dict[str, int]) -> None:
    made, rng = split(by, **weights), random.Random(5)
    counts = Counter(taken(made, exchange, rng) for exchange in clients(20_000))
    for pool, share in made.pools:
        assert counts[pool.name] / 20_000 == pytest.approx(share, abs=0.015)
        assert (counts[pool.name] == 0) is (share == 0)


def test_the_ends_of_chance_stay_within(split: Build) -> None:
    class Fixed(random.Random):
        value = 0.0

        def random(self) -> float:
            return self.value

    rng, made = Fixed(), split(z=0, a=1, b=3, y=0)
    places = {0.0: "a", 0.2499: "a", 0.25: "b", 1 - 2**-53: "b"}
    for rng.value, name in places.items():
        assert taken(made, make_exchange(), rng) == name


def test_the_same_value_takes_the_same_pool_in_every_process(split: Build) -> None:
    made = split("header:X-User", a=1, b=1)
    found = "".join(taken(made, make_exchange(headers={"X-User": f"user-{n}"})) for n in range(24))
    # Fixed for good: over a restart, an upgrade or another machine nobody moves.
    assert found == "baaabaabbbabaabbbbaabbba"
    assert found == "".join(taken(split("cookie:u", a=7, b=7), cookies(f"u=user-{n}")) for n in range(24))


def cookies(text: str, **more: Any) -> Exchange:
    return make_exchange(headers={"Cookie": text}, **more)


def test_only_those_move_that_must(split: Build) -> None:
    before, after = split("client", a=90, b=10), split("client", a=80, b=20)
    moves = Counter((taken(before, exchange), taken(after, exchange)) for exchange in clients(20_000))
    assert moves["b", "a"] == 0
    assert moves["a", "b"] / 20_000 == pytest.approx(0.1, abs=0.01)


def test_a_missing_value_falls_back_to_the_client_and_then_to_chance(split: Build) -> None:
    by_client = split("client", a=1, b=1)
    for by in ("header:X-User", "cookie:user"):
        made = split(by, a=1, b=1)
        for exchange in clients(50):
            assert taken(made, exchange) == taken(by_client, exchange)
        empty = make_exchange(headers={"X-User": "", "Cookie": "user="}, client="2001:db8::7")
        assert taken(made, empty) == taken(by_client, empty)
        nowhere = Counter(taken(made, make_exchange(client=""), RNG) for _ in range(2000))
        assert min(nowhere["a"], nowhere["b"]) > 850


@pytest.mark.parametrize(
    "text",
    [
        "user=u7",
        "a=b; user=u7; c=d",
        "a=b;user=u7",
        'a=b;  user = "u7" ; c',
        "user=u7; user=u8",
        ";;; =x; user=u7",
        "xuser=u8; user=u7",
        "a=user; b=xuser=u8; user=u7;",
        "User=u8; user=u7",
        "user=u7   ",
    ],
)
def test_cookies_are_read_as_clients_write_them(split: Build, text: str) -> None:
    by_cookie, by_header = split("cookie:user", **POOLS), split("header:X-User", **POOLS)
    assert taken(by_cookie, cookies(text)) == taken(by_header, make_exchange(headers={"X-User": "u7"}))


POOLS = dict.fromkeys("abcdefghijklmnopqrstuvwxyz", 1)


def test_a_name_with_signs_is_no_pattern(split: Build) -> None:
    made, by_client = split("cookie:a.b", **POOLS), split("client", **POOLS)
    elsewhere = cookies("axb=1", client="198.51.100.9")
    assert taken(made, elsewhere) == taken(by_client, elsewhere)


def test_endless_cookies_and_odd_bytes_do_no_harm(split: Build) -> None:
    made, by_client = split("cookie:user", **POOLS), split("client", **POOLS)
    far = cookies("x" * 20_000 + "; user=u7", client="198.51.100.9")
    assert taken(made, far) == taken(by_client, far)
    for text in ("user=" + ";" * 30_000, " ;\t" * 10_000, "user=\udcff\udc80", "user=ü"):
        assert taken(made, cookies(text)) in POOLS
