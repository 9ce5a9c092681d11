"""X-Router-Explain: who hears why a request went where it went, and what nobody else ever sees of it."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
from typing import Any

import pytest

from router import AtEnd, Exchange, Response
from router.config import Duration, HeadersConfig, HedgeDelay, LimitsConfig, RetryConfig, RewriteConfig

ASK = "X-Router-Explain: 1"
TRUSTED = {"trusted_proxies": ("127.0.0.0/8",)}
WORDS = (("X", "Router", "Explain"), ("x", "router", "explain"), ("X", "ROUTER", "eXPLAIN"))
SPELLINGS = [
    f"{a}{first}{b}{second}{c}" for a, b, c in WORDS for first, second in itertools.product(("-", "_"), repeat=2)
]
KEY = base64.b64encode(b"sixteen bytes ok").decode()


def told(response: Any) -> Any:
    """What the response says of how it came about; the field stands there once."""
    return json.loads(response.get("X-Router-Explain"))


def says(*lines: str, status: str = "200 OK") -> Any:
    async def script(peer: Any) -> None:
        while True:
            await peer.request()
            peer.answer(b"ok", *lines, status=status)

    return script


async def reset_at_once(peer: Any) -> None:
    await peer.ask()
    peer.reset()


async def never(peer: Any) -> None:
    await peer.ask()
    await peer.gone()


class Early:
    """A filter that answers itself."""

    def on_request(self, exchange: Exchange) -> Response | None:
        return Response(202, b"", ((b"X-Filter", b"yes"),))

    def on_response(self, exchange: Exchange, headers: list[tuple[bytes, bytes]]) -> None: ...


class Boasts:
    """A filter that says what the router alone says."""

    def on_request(self, exchange: Exchange) -> Response | None: ...

    def on_response(self, exchange: Exchange, headers: list[tuple[bytes, bytes]]) -> None:
        headers.append((b"X-Router-Explain", b"mine"))


class Listens:
    """An observer that hears of the end alone, or of every step, and may want to know why."""

    def __init__(self, token: Any, why: Any = lambda asked: True) -> None:
        self.token = token
        self.why = why
        self.asked = 0
        self.exchange: Any = None
        self.at_attempts: list[Any] = []

    def request_started(self, exchange: Exchange) -> Any:
        self.exchange = exchange
        return self.token

    def explain(self, token: Any) -> bool:
        assert token is self.token
        self.asked += 1
        return bool(self.why(self.asked))

    def attempt_started(self, token: Any, exchange: Exchange, attempt: Any, headers: list[Any]) -> None:
        self.at_attempts.append(attempt.explained)

    def attempt_ended(self, token: Any, exchange: Exchange, attempt: Any, outcome: Any) -> None: ...
    def request_ended(self, token: Any, exchange: Exchange, error: Any) -> None: ...
    def endpoint_changed(self, endpoint: Any, cause: str) -> None: ...
    def table_swapped(self, version: int) -> None: ...

    @property
    def names(self) -> list[str]:
        return [note.name for note in self.exchange.notes]


# Who is told


async def test_a_trusted_client_that_asks_is_told(world: Any) -> None:
    upstream = await world.upstream()
    house = await world.router(upstream, server=TRUSTED, route={"name": "shop"})
    client = await world.client(house)
    response = await client.get("/here?secret=1", ASK)
    said = told(response)
    assert (said["request"], said["route"]) == ("GET http://test.example/here", "shop")
    assert said["chosen"] == said["pools"][0]["decision"] == upstream.url
    assert b"secret" not in response.raw
    assert (response.status, response.body) == (200, b"ok")
    assert (await client.get("/")).get("X-Router-Explain") is None, "the next one does not ask"


@pytest.mark.parametrize("value", ["0", "", "2", "true", "1, 1", "11", "\xb9"])
async def test_only_a_one_asks(world: Any, value: str) -> None:
    upstream = await world.upstream()
    client = await world.client(await world.router(upstream, server=TRUSTED))
    assert (await client.get("/", f"X-Router-Explain: {value}")).get("X-Router-Explain") is None
    assert upstream.requests[0].get("X-Router-Explain") is None


@pytest.mark.parametrize("trusted", [(), ("192.0.2.0/24",)])
async def test_others_are_told_nothing(world: Any, trusted: tuple[str, ...]) -> None:
    route = {"path": ("/here", "/filtered"), "filters": ()}
    house = await world.router(await world.upstream(), server={"trusted_proxies": trusted}, route=route)
    client = await world.client(house)
    statuses = set()
    for target, more in itertools.product(
        ("/here", "http://test.example/here", "/nothing"),
        ((), ("X-Forwarded-For: 127.0.0.1",), ("Forwarded: for=127.0.0.1",), (ASK,)),
    ):
        response = await client.get(target, ASK, *more)
        statuses.add(response.status)
        assert b"explain" not in response.raw.lower()
    assert statuses == {200, 404}


async def test_a_client_behind_a_trusted_proxy_is_told_nothing(world: Any) -> None:
    client = await world.client(await world.router(await world.upstream(), server=TRUSTED))
    for chain in ("192.0.2.7", "127.0.0.1, 192.0.2.7", "unknown", "192.0.2.7, 127.0.0.1"):
        response = await client.get("/", ASK, f"X-Forwarded-For: {chain}")
        assert b"explain" not in response.raw.lower(), chain
    assert told(await client.get("/", ASK, "X-Forwarded-For: 127.0.0.9"))["chosen"]


# What the endpoint sees


@pytest.mark.parametrize("server", [{}, TRUSTED, {**TRUSTED, "forwarded": True}])
async def test_no_spelling_reaches_an_endpoint(world: Any, server: dict[str, Any]) -> None:
    upstream = await world.upstream()
    client = await world.client(await world.router(upstream, server=server))
    for name, value in itertools.product(SPELLINGS, ("1", "0", " \t1\t ")):
        await client.get("/", f"{name}:{value}", "X-Other: stays", f"{name}:{value}")
    assert len(upstream.requests) == 3 * len(SPELLINGS)
    assert not [head.raw for head in upstream.requests if b"explain" in head.raw.lower()]
    assert {head.get("X-Other") for head in upstream.requests} == {"stays"}


async def test_an_underscore_does_not_ask(world: Any) -> None:
    client = await world.client(await world.router(await world.upstream(), server=TRUSTED))
    for name in SPELLINGS:
        assert bool((await client.get("/", f"{name}: 1")).get("X-Router-Explain")) == ("_" not in name), name


@pytest.mark.parametrize("line", ["X-Router-Explain : 1", " X-Router-Explain: 1", "X-Router-Explain\x00: 1"])
async def test_what_is_no_field_is_refused(world: Any, line: str) -> None:
    upstream = await world.upstream()
    client = await world.client(await world.router(upstream, server=TRUSTED))
    client.send(f"GET / HTTP/1.1\r\nHost: test.example\r\n{line}\r\n\r\n".encode("latin-1"))
    assert (await client.response()).status == 400
    assert upstream.requests == []


async def test_a_trailer_does_not_reach_an_endpoint(world: Any) -> None:
    upstream = await world.upstream()
    client = await world.client(await world.router(upstream, server=TRUSTED))
    client.ask("/", "Transfer-Encoding: chunked", "Trailer: X-Router-Explain", method="PUT")
    client.send(b"2\r\nhi\r\n0\r\nX-Router-Explain: 1\r\n\r\n")
    response = await client.response()
    assert response.get("X-Router-Explain") is None
    assert not [peer for peer in upstream.peers if b"explain" in peer.received.lower()]


# What the endpoint says


@pytest.mark.parametrize("name", ["X-Router-Explain", "x-router-explain", "X-ROUTER-EXPLAIN"])
async def test_an_endpoints_word_never_stands_beside_the_routers(world: Any, name: str) -> None:
    lines = (f"{name}: {{}}", "X-Kept: 1", f"{name}:\t", f"{name}: last")
    upstream = await world.upstream(says(*lines))
    client = await world.client(await world.router(upstream, server=TRUSTED))
    response = await client.get("/", ASK)
    assert told(response)["chosen"] == upstream.url
    assert response.get("X-Kept") == "1"
    assert (await client.get("/")).all(name) == ["{}", "", "last"], "nobody asked, so it is the endpoint's own"


async def test_nor_does_a_filters(world: Any) -> None:
    upstream = await world.upstream()
    client = await world.client(await world.router(upstream, server=TRUSTED, filters=[Boasts()]))
    assert told(await client.get("/", ASK))["chosen"] == upstream.url


async def test_with_all_that_changes_a_response(world: Any) -> None:
    route = {"rewrite": RewriteConfig("/a", "/b"), "response_headers": HeadersConfig(set={"X-Set": "1"})}
    upstream = await world.upstream(says("X-Router-Explain: no"))
    house = await world.router(upstream, server=TRUSTED, route=route)
    response = await (await world.client(house)).get("/a/x", ASK)
    assert told(response)["chosen"] == upstream.url
    assert response.get("X-Set") == "1"
    assert upstream.requests[0].target == "/b/x"


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_whatever_the_response_is_like(world: Any, version: str, method: str) -> None:
    async def script(peer: Any) -> None:
        await peer.request()
        peer.send(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"2\r\nhi\r\n0\r\n\r\n" * (method == "GET")
        )

    client = await world.client(await world.router(await world.upstream(script), server=TRUSTED))
    response = await client.get("/", ASK, method=method, version=version)
    assert told(response)["chosen"]
    assert response.body == (b"hi" if method == "GET" else b"")


async def test_a_websocket_is_told_too(world: Any) -> None:
    async def script(peer: Any) -> None:
        await peer.ask()
        accept = base64.b64encode(hashlib.sha1(f"{KEY}258EAFA5-E914-47DA-95CA-C5AB0DC85B11".encode()).digest())
        peer.send(
            b"HTTP/1.1 101 Switching Protocols\r\nX-Router-Explain: no\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: %b\r\n\r\n" % accept
        )
        assert await peer.exactly(5) == b"hello"
        peer.send(b"bye")

    upstream, listens = await world.upstream(script), Listens(AtEnd(), lambda asked: False)
    house = await world.router(upstream, server=TRUSTED, observers=[listens])
    client = await world.client(house)
    fields = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", f"Sec-WebSocket-Key: {KEY}")
    client.ask("/ws", ASK, *fields)
    head = await client.head()
    assert (head.status, told(head)["chosen"]) == (101, upstream.url)
    client.send(b"hello")
    assert await client.exactly(3) == b"bye"
    client.close()
    await house.settled(upstream)
    await world.eventually(lambda: listens.exchange.relayed == (5, 3), lambda: listens.exchange.relayed)
    assert [attempt.ended_at > 0 for attempt in listens.exchange.attempts] == [True]


# What the router itself answers


async def test_where_no_endpoint_is_asked(world: Any) -> None:
    house = await world.router(await world.upstream(), server=TRUSTED, route={"path": "/here"})
    response = await (await world.client(house)).get("/nothing", ASK)
    assert (response.status, told(response)["pools"]) == (404, [])
    filtered = await world.router(await world.upstream(), server=TRUSTED, filters=[Early()])
    response = await (await world.client(filtered)).get("/", ASK)
    assert (response.status, response.get("X-Filter")) == (202, "yes")
    assert told(response)["request"] == "GET http://test.example/"


async def test_a_request_that_never_became_one(world: Any) -> None:
    client = await world.client(await world.router(await world.upstream(), server=TRUSTED))
    response = await client.get("/", ASK, "Content-Length: x")
    assert (response.status, response.get("X-Router-Explain")) == (400, None)


async def test_an_empty_pool(world: Any) -> None:
    house = await world.router(await world.upstream(), server=TRUSTED)
    house.pool.update([], 0.0)
    response = await (await world.client(house)).get("/", ASK)
    assert response.status == 503
    assert told(response)["pools"][0]["decision"] == "503: 0 of 0 endpoints ready"


# Retries and the queue


async def test_the_last_decision_is_told(world: Any) -> None:
    bad, good = await world.upstream(reset_at_once), await world.upstream()
    house = await world.router(bad, good, server=TRUSTED)
    client = await world.client(house)
    said = [told(await client.get("/", ASK)) for _ in range(2)]
    (retried,) = [one for one in said if one["pools"][0]["left_out"]]
    assert retried["chosen"] == retried["pools"][0]["endpoint"] == good.url
    assert retried["pools"][0]["left_out"] == [
        {"reason": "tried", "count": 1, "endpoints": [{"id": bad.url, "detail": ""}]}
    ]


async def test_a_retried_status_is_told(world: Any) -> None:
    bad, good = await world.upstream(says(status="503 No")), await world.upstream()
    house = await world.router(bad, good, server=TRUSTED, pool={"retry": RetryConfig(on=("503",))})
    client = await world.client(house)
    for _ in range(4):
        assert told(await client.get("/", ASK))["chosen"] == good.url or len(bad.requests) == 0


async def test_a_failure_is_explained_by_where_it_went(world: Any) -> None:
    bad, other = await world.upstream(reset_at_once), await world.upstream(reset_at_once)
    house = await world.router(bad, other, server=TRUSTED, pool={"retry": RetryConfig(attempts=0)})
    response = await (await world.client(house)).get("/", ASK)
    assert response.status == 502
    (asked,) = [each.url for each in (bad, other) if each.requests]
    assert told(response)["chosen"] == asked, "not where it never went"


async def test_who_waited_for_too_long_is_told_why_it_waited(world: Any) -> None:
    slow = await world.upstream(never)
    limits = LimitsConfig(in_flight=1, queue=1, queue_timeout=Duration(0.05))
    house = await world.router(slow, server=TRUSTED, pool={"limits": limits})
    first = await world.client(house)
    first.ask("/")
    await world.eventually(lambda: slow.requests)
    response = await (await world.client(house)).get("/", ASK)
    (verdict,) = told(response)["pools"]
    assert response.status == 503
    assert verdict["waiting"]["reason"] == "the pool's limit of 1 requests is reached"
    assert (verdict["decision"].split(":")[0], verdict["endpoint"]) == ("waits up to 0.05 s", "")
    first.close()
    await house.settled(slow)


async def test_ten_thousand_endpoints_make_a_short_field(world: Any) -> None:
    house = await world.router(
        *(f"http://127.0.0.{1 + n % 250}:{n % 60000 + 1}" for n in range(10_000)),
        server=TRUSTED,
        pool={"retry": RetryConfig(attempts=0)},
    )
    for endpoint in list(house.pool.members.values())[:9_000]:
        house.pool.operate(endpoint, "drain", 0.0)
    upstream = await world.upstream()
    house.pool.update(
        [*(e.spec for e in house.pool.members.values()), type(house.endpoints[0].spec)(upstream.url)], 0.0
    )
    for endpoint in house.endpoints:
        house.pool.operate(endpoint, "up" if endpoint.identity == upstream.url else "drain", 0.0)
    response = await (await world.client(house)).get("/", ASK)
    said = told(response)
    assert said["chosen"] == upstream.url
    assert said["pools"][0]["left_out"][0]["count"] == 10_000
    assert len(response.get("X-Router-Explain")) <= 4096


# Observers


async def test_an_observer_of_every_step_is_asked_before_the_first_decision(world: Any) -> None:
    listens = Listens("token")
    upstream = await world.upstream()
    house = await world.router(upstream, observers=[listens])
    assert (await (await world.client(house)).get("/")).get("X-Router-Explain") is None
    (attempt,) = listens.exchange.attempts
    assert listens.at_attempts == [attempt.explained]
    assert attempt.explained is listens.exchange.explained
    assert attempt.explained.chosen == upstream.url
    assert (attempt.hedge, listens.exchange.notes) == (False, ())
    await world.eventually(lambda: attempt.ended_at > attempt.started)


async def test_one_of_the_end_alone_is_asked_from_the_second_on(world: Any) -> None:
    listens = Listens(AtEnd())
    bad, good = await world.upstream(reset_at_once), await world.upstream()
    client = await world.client(await world.router(bad, good, observers=[listens]))
    for _ in range(2):
        assert (await client.get("/")).status == 200
        first, *more = listens.exchange.attempts
        assert first.explained is None
        assert [attempt.explained.chosen for attempt in more] == [good.url] * len(more)
        assert listens.asked == len(more)
        assert listens.names == ["retry"] * len(more)
        if more:
            break
    assert listens.at_attempts == []


async def test_where_nobody_wants_to_know_nothing_is_explained(world: Any) -> None:
    listens = Listens("token", lambda asked: False)
    house = await world.router(await world.upstream(), observers=[listens])
    await (await world.client(house)).get("/", ASK)
    assert listens.exchange.explained is None
    assert listens.exchange.asks is False
    assert [attempt.explained for attempt in listens.exchange.attempts] == [None]


async def test_an_answer_of_the_routers_own_is_explained_to_observers(world: Any) -> None:
    listens = Listens(AtEnd())
    house = await world.router(await world.upstream(), observers=[listens])
    house.pool.update([], 0.0)
    assert (await (await world.client(house)).get("/")).status == 503
    assert listens.exchange.explained.pools[0].status == 503
    assert listens.exchange.attempts == ()


async def test_a_hedge_is_marked_and_explained(world: Any) -> None:
    listens = Listens("token")
    slow, fast = await world.upstream(never), await world.upstream()
    house = await world.router(
        slow, fast, pool={"retry": RetryConfig(hedge_after=HedgeDelay("20ms"), reserve=1000)}, observers=[listens]
    )
    client = await world.client(house)
    for _ in range(2):
        assert (await client.get("/")).body == b"ok"
        if slow.requests:
            break
    first, hedge = listens.exchange.attempts
    assert (first.hedge, hedge.hedge) == (False, True)
    assert (first.explained.chosen, hedge.explained.chosen) == (slow.url, fast.url)
    assert listens.exchange.explained is hedge.explained
    assert listens.names == ["hedge"]
    assert first.started < hedge.started <= first.ended_at
    await house.settled(slow, fast)


async def test_a_hedge_timer_that_finds_nobody_leaves_what_was_said(world: Any) -> None:
    async def slowly(peer: Any) -> None:
        await peer.request()
        await world.eventually(lambda: listens.asked > 1)
        peer.answer(b"ok")

    listens = Listens("token")
    upstream = await world.upstream(slowly)
    house = await world.router(
        upstream, pool={"retry": RetryConfig(hedge_after=HedgeDelay("20ms"), reserve=1000)}, observers=[listens]
    )
    assert (await (await world.client(house)).get("/")).status == 200
    (attempt,) = listens.exchange.attempts
    assert listens.exchange.explained is attempt.explained
    assert attempt.explained.chosen == upstream.url
