"""What an observer says in advance of nearly all requests: endpoints are told the same, and it is not asked."""

from __future__ import annotations

from typing import Any

import pytest

from router import AtEnd, Foretold
from router.config import RewriteConfig
from router.policy import plain
from tests.net.conftest import Peer


class Foretells:
    """An observer that asks to be asked of every request whose id is not foretold of."""

    whole_lines = True

    def __init__(self, below: str = "0", token: AtEnd | None = None) -> None:
        self.asked: list[Any] = []
        self.ended: list[Any] = []
        self.alike: set[object] = set()
        self.token = token
        self.foretold = Foretold(self.alike, below, (b"X-Trace: ", b"-0\r\n"), token)

    def request_started(self, exchange: Any) -> Any:
        self.asked.append(exchange)
        if exchange.alike is not None:
            self.alike.add(exchange.alike)
        exchange.trace_id = exchange.id
        exchange.added += b"X-Trace: %b-0\r\n" % exchange.id.encode()
        return self.token

    def request_ended(self, token: Any, exchange: Any, error: Exception | None) -> None:
        self.ended.append(exchange)

    def attempt_started(self, *told: Any) -> None: ...
    def attempt_ended(self, *told: Any) -> None: ...
    def endpoint_changed(self, *told: Any) -> None: ...
    def table_swapped(self, *told: Any) -> None: ...


@pytest.fixture(autouse=True)
def quick_study(monkeypatch: Any) -> None:
    """Heads are alike from the third on."""
    monkeypatch.setattr(plain._Shapes, "OFTEN", 2)


def is_told(upstream: Any) -> bool:
    """Whether each request has the line of its own id, once."""
    return all(head.all("X-Trace") == [f"{head.get('X-Request-ID')}-0"] for head in upstream.requests)


@pytest.mark.parametrize("token", [None, AtEnd()])
async def test_it_is_asked_of_the_first_of_a_kind_alone(world: Any, token: AtEnd | None) -> None:
    observer, upstream = Foretells(token=token), await world.upstream()
    client = await world.client(await world.router(upstream, observers=[observer]))
    for number in range(10):
        await client.get(f"/{number}")
    assert 0 < len(observer.asked) < 5
    assert is_told(upstream)
    assert len(observer.ended) == (0 if token is None else 10)
    assert {exchange.trace_id for exchange in observer.ended} == {exchange.id for exchange in observer.ended}
    already = len(observer.asked)
    for _ in range(10):
        await client.get("/", "X-Other: 1")
    assert len(observer.asked) > already
    assert is_told(upstream)


async def test_it_is_asked_of_the_ids_that_come_before(world: Any) -> None:
    observer, upstream = Foretells("8"), await world.upstream()
    client = await world.client(await world.router(upstream, observers=[observer]))
    for _ in range(100):
        await client.get()
    late = [exchange for exchange in observer.asked if exchange.id[16:] >= "8"]
    assert len(late) < 5
    assert len([head for head in upstream.requests if head.get("X-Request-ID")[16:] < "8"]) == sum(
        exchange.id[16:] < "8" for exchange in observer.asked
    )
    assert is_told(upstream)


async def test_a_rewritten_request_has_the_line_once(world: Any) -> None:
    observer, upstream = Foretells(), await world.upstream()
    route = {"rewrite": RewriteConfig("/a", "/b"), "path": ("/a/*",)}
    client = await world.client(await world.router(upstream, route=route, observers=[observer]))
    for _ in range(8):
        assert (await client.get("/a/x")).status == 200
    assert len(observer.asked) < 5
    assert {head.target for head in upstream.requests} == {"/b/x"}
    assert is_told(upstream)


async def test_a_second_attempt_has_it_too(world: Any) -> None:
    async def closes(peer: Peer) -> None:
        await peer.request()

    observer, bad, good = Foretells(), await world.upstream(closes), await world.upstream()
    client = await world.client(await world.router(bad, good, observers=[observer], pool={"detectors": ()}))
    for _ in range(12):
        assert (await client.get()).status == 200
    assert len(observer.asked) < 5
    assert bad.requests
    assert is_told(bad)
    assert is_told(good)


async def test_an_error_page_names_the_trace(world: Any) -> None:
    observer = Foretells()
    client = await world.client(await world.router("http://127.0.0.1:1", observers=[observer]))
    for _ in range(6):
        response = await client.get("/", "Accept: text/plain")
        assert f"trace {response.get('X-Request-ID')}".encode() in response.body


async def test_with_another_observer_it_is_asked_each_time(world: Any) -> None:
    observer, other, upstream = Foretells(), Foretells(), await world.upstream()
    client = await world.client(await world.router(upstream, observers=[observer, other]))
    for _ in range(6):
        await client.get()
    assert len(observer.asked) == len(other.asked) == 6


async def test_one_that_does_not_vouch_for_its_lines_is_asked_each_time(world: Any) -> None:
    observer, upstream = Foretells(), await world.upstream()
    observer.whole_lines = False
    client = await world.client(await world.router(upstream, observers=[observer]))
    for _ in range(6):
        await client.get()
    assert len(observer.asked) == 6
    assert is_told(upstream)
