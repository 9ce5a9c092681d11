"""From a head to an exchange: loops are seen, Via gives the version, and plain heads go on as parsed ones do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from router.config import RewriteConfig

LOOPS = [
    ("Via: 1.1 router",),
    ("via: 1.1 router",),
    ("VIA: 1.0 router",),
    ("Via: 1.1 other, 1.1 router",),
    ("Via: 1.1 router, 1.1 other",),
    ("Via: 1.1 other,1.1 router (a comment)",),
    ("Via: HTTP/1.1 router",),
    ("Via: 1.1 other", "Via: 1.1 router"),
    ("Via: 1.1 router", "Via: 1.1 other"),
    ("Via: 1.1 router", "Connection: via"),
]


async def asked(world: Any, *lines: str, version: str = "1.1", **more: Any) -> tuple[Any, Any]:
    """The answer, and the request as the endpoint got it (None if it got none)."""
    upstream = await world.upstream()
    house = await world.router(upstream)
    client = await world.client(house)
    response = await client.get("/x", *lines, version=version, **more)
    return response, upstream.requests[0] if upstream.requests else None


# Via (RFC 9110 §7.6.3)


@pytest.mark.parametrize("lines", LOOPS)
async def test_a_request_that_went_through_this_router_already_is_refused(world: Any, lines: tuple[str, ...]) -> None:
    response, seen = await asked(world, *lines)
    assert (response.status, "loop_detected" in response.body.decode()) == (508, True)
    assert response.get("Connection") == "close"
    assert response.get("X-Request-ID")
    assert seen is None


async def test_a_loop_is_seen_on_a_connection_that_sent_plain_heads_before(world: Any) -> None:
    upstream = await world.upstream()
    client = await world.client(await world.router(upstream))
    for _ in range(60):
        assert (await client.get()).status == 200
    assert (await client.get("/", "Via: 1.1 router")).status == 508
    assert len(upstream.requests) == 60


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_loop_with_a_body_is_refused_too(world: Any, method: str) -> None:
    response, seen = await asked(world, "Via: 1.1 router", method=method, body=b"abc")
    assert response.status == 508
    assert seen is None


@pytest.mark.parametrize("lines", [("Via: 1.1 other",), ("Via: 1.0 a, HTTP/1.1 b (c)", "via: 1.1 d"), ("Via: ",), ()])
async def test_what_others_wrote_into_via_goes_on_before_ones_own(world: Any, lines: tuple[str, ...]) -> None:
    response, seen = await asked(world, *lines)
    assert response.status == 200
    assert seen.all("Via") == [*(line.partition(":")[2].strip() for line in lines), "1.1 router"]


async def test_via_connection_cannot_remove_ones_own(world: Any) -> None:
    response, seen = await asked(world, "Via: 1.1 other", "Connection: via")
    assert response.status == 200
    assert seen.all("Via") == ["1.1 router"]


@pytest.mark.parametrize(("version", "via"), [("1.0", "1.0 router"), ("1.1", "1.1 router")])
async def test_via_gives_the_version_received(world: Any, version: str, via: str) -> None:
    response, seen = await asked(world, version=version)
    assert response.status == 200
    assert seen.all("Via") == [via]
    assert seen.first == "GET /x HTTP/1.1", "the request itself goes on in the router's own version"


async def test_routers_of_other_names_in_a_row_are_no_loop(world: Any) -> None:
    upstream = await world.upstream()
    inner = await world.router(upstream)
    inner.runtime.pseudonym = b"inner"
    host, port = inner.sockets[0].getsockname()
    outer = await world.router(f"http://{host}:{port}")
    assert (await (await world.client(outer)).get()).status == 200
    assert upstream.requests[0].all("Via") == ["1.1 router", "1.1 inner"]


async def test_a_router_that_is_its_own_endpoint_answers_at_once(world: Any, tmp_path: Path) -> None:
    house = await world.router(f"unix:{tmp_path / 'own.sock'}", bind=f"unix:{tmp_path / 'own.sock'}")
    client = await world.client(house)
    for _ in range(60):
        response = await client.get()
        assert (response.status, "loop_detected" in response.body.decode()) == (508, True)


# Plain heads and parsed ones

REQUESTS = [
    ("GET", "/a%2Fb?c", ("Accept: */*", "X-A: \xff")),
    ("GET", "//a?", ("connection: keep-alive", "Cookie: a=1; b=2", "X-A: 1", "x-a:  2 ")),
    ("HEAD", "/", ("User-Agent: x",)),
    ("DELETE", "/?", ("Content-Length: 0",)),
    ("OPTIONS", "/a", ("Origin: http://a.test", "Content-Type: text/plain")),
]


@pytest.mark.parametrize(("method", "target", "lines"), REQUESTS)
async def test_a_head_goes_on_the_same_whether_it_was_met_often_or_never(
    world: Any, method: str, target: str, lines: tuple[str, ...]
) -> None:
    upstream = await world.upstream()
    house = await world.router(upstream)
    client = await world.client(house)
    answers = []
    for _ in range(60):
        response = await client.get(target, *lines, method=method)
        answers.append([field for field in response.fields if field[0] != "X-Request-ID"])
    assert len(house.runtime.plain_requests) == 1
    first, last = upstream.requests[0], upstream.requests[-1]
    ids = [head.get("X-Request-ID") for head in upstream.requests]
    assert len({*ids}) == 60
    assert first.raw.replace(ids[0].encode(), b"?") == last.raw.replace(ids[-1].encode(), b"?")
    assert [name for name, _ in answers[0]] == [name for name, _ in answers[-1]]


async def test_a_plain_head_that_closes_closes(world: Any) -> None:
    upstream = await world.upstream()
    house = await world.router(upstream)
    for _ in range(60):
        client = await world.client(house)
        response = await client.get("/", "Connection: close")
        assert response.get("Connection") == "close"
        assert await client.gone() == "closed"
    assert {head.get("Connection") for head in upstream.requests} == {None}


async def test_a_trusted_peer_is_heard_however_often_it_asks(world: Any) -> None:
    upstream = await world.upstream()
    house = await world.router(upstream, server={"trusted_proxies": ("127.0.0.0/8",)})
    client = await world.client(house)
    for n in range(60):
        await client.get()
        await client.get("/", f"X-Forwarded-For: 192.0.2.{n}")
    assert [head.get("X-Forwarded-For") for head in upstream.requests[-2:]] == ["127.0.0.1", "192.0.2.59, 127.0.0.1"]


# What is known of where a request comes from


class Notes:
    """An observer that keeps the exchanges."""

    def __init__(self) -> None:
        self.exchanges: list[Any] = []

    def request_started(self, exchange: Any) -> None:
        self.exchanges.append(exchange)

    def attempt_started(self, *told: Any) -> None: ...
    def attempt_ended(self, *told: Any) -> None: ...
    def request_ended(self, *told: Any) -> None: ...
    def endpoint_changed(self, *told: Any) -> None: ...
    def table_swapped(self, *told: Any) -> None: ...


@pytest.mark.parametrize(
    ("trusted", "lines", "known"),
    [
        ((), (), ("127.0.0.1", "", False, False)),
        ((), ("X-Forwarded-For: 192.0.2.7",), ("127.0.0.1", "", False, False)),
        ((), ("X-Request-ID: mine",), ("127.0.0.1", "", False, True)),
        ((), ("X-Request-ID: not mine",), ("127.0.0.1", "", False, False)),
        (("127.0.0.1",), (), ("127.0.0.1", "", True, False)),
        (("127.0.0.1",), ("X-Forwarded-For: 192.0.2.7",), ("192.0.2.7", "127.0.0.1", True, False)),
        (("127.0.0.1",), ("X-Forwarded-For: 192.0.2.7", "X-Request-ID: mine"), ("192.0.2.7", "127.0.0.1", True, True)),
        (("192.0.2.0/24",), ("X-Forwarded-For: 192.0.2.7",), ("127.0.0.1", "", False, False)),
    ],
)
async def test_client_peer_and_trust_are_known_however_often_it_asks(
    world: Any, trusted: tuple[str, ...], lines: tuple[str, ...], known: tuple[Any, ...]
) -> None:
    notes = Notes()
    house = await world.router(await world.upstream(), server={"trusted_proxies": trusted}, observers=[notes])
    client = await world.client(house)
    for _ in range(40):
        await client.get("/", *lines)
    assert {(e.client, e.peer, e.trusted, e.named) for e in notes.exchanges} == {known}
    assert {e.id for e in notes.exchanges if e.named} <= {"mine"}


async def test_what_a_route_makes_of_the_target_is_known(world: Any) -> None:
    notes = Notes()
    route = {"rewrite": RewriteConfig("/a", "/b"), "path": ("/a/*", "/c")}
    client = await world.client(await world.router(await world.upstream(), route=route, observers=[notes]))
    for target in ("/a/x?y=1", "/c"):
        assert (await client.get(target)).status == 200
    moved, same = notes.exchanges
    assert (moved.target, moved.rewritten) == ("/a/x?y=1", "/b/x?y=1")
    assert (same.target, same.rewritten or same.target) == ("/c", "/c")


@pytest.mark.parametrize("trusted", [(), ("127.0.0.1",)])
async def test_who_asks_for_an_explanation_is_known_however_often_he_asks(world: Any, trusted: tuple[str, ...]) -> None:
    notes, upstream = Notes(), await world.upstream()
    house = await world.router(upstream, server={"trusted_proxies": trusted}, observers=[notes])
    client = await world.client(house)
    for _ in range(40):
        responses = [await client.get("/", "X-Router-Explain: 1"), await client.get("/")]
        assert [bool(response.get("X-Router-Explain")) for response in responses] == [bool(trusted), False]
    assert [e.asks for e in notes.exchanges] == [bool(trusted), False] * 40
    assert {head.get("X-Router-Explain") for head in upstream.requests} == {None}
