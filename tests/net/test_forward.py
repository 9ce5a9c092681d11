"""One exchange: tries, retries, hedges, the queue, filters, observers and affinity, through real sockets."""

from __future__ import annotations

import asyncio
import socket
import time
from typing import Any

import pytest

from router.config import HedgeDelay, LimitsConfig, PoolTimeouts, RetryConfig
from router.model import EndpointSpec, Response


def closed_port() -> str:
    """The URL of a port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return f"http://127.0.0.1:{sock.getsockname()[1]}"


async def reset_at_once(peer: Any) -> None:
    await peer.request()
    peer.reset()


async def close_at_once(peer: Any) -> None:
    await peer.request()


async def half_a_head(peer: Any) -> None:
    await peer.request()
    peer.send(b"HTTP/1.1 200 OK\r\nContent-Le")
    await peer.flush()


async def never(peer: Any) -> None:
    await peer.request()
    await peer.gone()


async def garbage(peer: Any) -> None:
    await peer.request()
    peer.send(b"\x00\x01 this is not HTTP\r\n\r\n")
    await peer.gone()


# Status


@pytest.mark.parametrize(
    ("script", "status", "kind"),
    [
        (reset_at_once, 502, "upstream_reset"),
        (close_at_once, 502, "upstream_reset"),
        (half_a_head, 502, "upstream_reset"),
        (garbage, 502, "upstream_protocol_error"),
        (never, 504, "upstream_timeout"),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_upstream_failures_have_their_status(
    world: Any, script: Any, status: int, kind: str, method: str
) -> None:
    upstream = await world.upstream(script)
    house = await world.router(upstream, pool={"timeouts": PoolTimeouts(head=0.1)})  # type: ignore[arg-type]
    client = await world.client(house)
    response = await client.get(method=method, body=b"body" if method == "POST" else b"")
    assert (response.status, kind in response.body.decode()) == (status, True)
    # The client is not at fault: its connection goes on.
    assert response.get("Connection") is None
    assert (await client.get(method=method)).status == status
    await house.settled(upstream)


async def test_all_refused_is_503_with_retry_after(world: Any) -> None:
    house = await world.router(closed_port(), closed_port())
    client = await world.client(house)
    for method in ("GET", "POST"):
        response = await client.get(method=method)
        assert response.status == 503
        assert "connect_failed" in response.body.decode()
        assert int(response.get("Retry-After")) > 0


async def test_what_the_client_saw_leads_to_the_log(world: Any, caplog: Any) -> None:
    client = await world.client(await world.router("http://127.0.0.1:1", "http://a..b:1"))
    response = await client.get()
    assert (response.status, b"127.0.0.1" in response.body) == (503, False)
    lines = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert [line for line in lines if response.get("X-Request-ID") in line and "connect_failed" in line]


async def test_no_endpoint_in_service_is_503(world: Any) -> None:
    upstream = await world.upstream()
    house = await world.router(EndpointSpec(upstream.url, state="drain"))
    response = await (await world.client(house)).get()
    assert (response.status, "nothing_ready" in response.body.decode()) == (503, True)
    assert response.get("Retry-After") is not None
    assert upstream.peers == []


async def test_no_route_is_404_and_no_upstream_hears_of_it(world: Any) -> None:
    upstream = await world.upstream()
    house = await world.router(upstream, route={"path": "/app/*"})
    client = await world.client(house)
    response = await client.get("/other")
    assert (response.status, "no_route" in response.body.decode()) == (404, True)
    assert (await client.get("/app/x")).status == 200
    assert len(upstream.requests) == 1


async def test_an_endpoint_that_cannot_be_reached_in_time(world: Any) -> None:
    """A listener whose backlog is full answers no handshake."""
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        waiting = []
        for _ in range(3):
            other = socket.socket()
            other.setblocking(False)
            other.connect_ex(full.getsockname())
            waiting.append(other)
        house = await world.router(
            f"http://127.0.0.1:{full.getsockname()[1]}",
            pool={"timeouts": PoolTimeouts(connect=0.1), "retry": RetryConfig(attempts=0)},  # type: ignore[arg-type]
        )
        response = await (await world.client(house)).get()
        assert response.status == 503
        for other in waiting:
            other.close()


async def test_a_name_that_does_not_resolve_is_503(world: Any) -> None:
    house = await world.router("http://does-not-exist.invalid:1", pool={"retry": RetryConfig(attempts=0)})
    response = await (await world.client(house)).get()
    assert (response.status, "invalid" in response.body.decode()) == (503, False)


# Retries


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_refused_connection_moves_on_to_another_endpoint(world: Any, method: str) -> None:
    upstream = await world.upstream()
    house = await world.router(closed_port(), upstream, closed_port())
    client = await world.client(house)
    for _ in range(9):
        response = await client.get(method=method, body=b"once" if method == "POST" else b"")
        assert response.status == 200
    assert len(upstream.requests) == 9
    assert {head.body for head in upstream.requests} == {b"once" if method == "POST" else b""}


@pytest.mark.parametrize("script", [reset_at_once, close_at_once, half_a_head, never])
@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "PUT", "DELETE"])
async def test_an_idempotent_request_is_tried_elsewhere(world: Any, script: Any, method: str) -> None:
    bad, good = await world.upstream(script), await world.upstream()
    house = await world.router(bad, good, pool={"timeouts": PoolTimeouts(head=0.1)})  # type: ignore[arg-type]
    client = await world.client(house)
    body = b"the body" if method == "PUT" else b""
    for _ in range(4):
        assert (await client.get(method=method, body=body)).status == 200
    assert len(good.requests) == 4
    assert len(bad.requests) == 2
    assert {head.body for head in good.requests + bad.requests} == {body}


@pytest.mark.parametrize("script", [reset_at_once, close_at_once, half_a_head, never])
async def test_a_post_is_never_sent_twice(world: Any, script: Any) -> None:
    bad, good = await world.upstream(script), await world.upstream()
    house = await world.router(bad, good, pool={"timeouts": PoolTimeouts(head=0.1)})  # type: ignore[arg-type]
    client = await world.client(house)
    # Few enough that the bad one is not taken out.
    statuses = [(await client.get(f"/{n}", method="POST", body=b"x")).status for n in range(4)]
    sent = [head.target for head in bad.requests + good.requests]
    assert sorted(sent) == [f"/{n}" for n in range(4)]
    assert statuses.count(200) == len(good.requests) == 2


async def test_a_body_larger_than_the_buffer_is_not_tried_again(world: Any) -> None:
    bad, good = await world.upstream(close_at_once), await world.upstream()
    house = await world.router(bad, good, pool={"retry": RetryConfig(buffer=1000)})  # type: ignore[arg-type]
    client = await world.client(house)
    small = [(await client.get(method="PUT", body=b"x" * 900)).status for _ in range(4)]
    large = [(await client.get(method="PUT", body=b"x" * 5000)).status for _ in range(4)]
    assert small == [200] * 4
    assert sorted(large) == [200, 200, 502, 502]


async def test_retries_end(world: Any) -> None:
    bad = [await world.upstream(reset_at_once) for _ in range(5)]
    house = await world.router(*bad, pool={"retry": RetryConfig(attempts=2)})
    response = await (await world.client(house)).get()
    assert response.status == 502
    assert [len(each.requests) for each in bad].count(1) == 3
    assert sum(len(each.requests) for each in bad) == 3


async def test_without_retries_the_first_failure_is_the_answer(world: Any) -> None:
    bad, good = await world.upstream(reset_at_once), await world.upstream()
    house = await world.router(bad, good, pool={"retry": RetryConfig(attempts=0)})
    client = await world.client(house)
    assert sorted([(await client.get()).status for _ in range(4)]) == [200, 200, 502, 502]


async def test_a_5xx_is_passed_on_unless_named(world: Any) -> None:
    async def ill(peer: Any) -> None:
        while True:
            await peer.request()
            peer.answer(b"ill", status="503 Service Unavailable")

    bad, good = await world.upstream(ill), await world.upstream()
    plain = await world.router(bad, good)
    client = await world.client(plain)
    assert sorted([(await client.get()).status for _ in range(4)]) == [200, 200, 503, 503]
    retrying = await world.router(bad, good, pool={"retry": RetryConfig(on=("503",))})
    client = await world.client(retrying)
    assert [(await client.get()).status for _ in range(4)] == [200] * 4
    # With nobody left to ask, the endpoint's own answer is better than one of the router's.
    alone = await world.router(bad, pool={"retry": RetryConfig(on=("5xx",))})
    assert (await (await world.client(alone)).get()).body == b"ill"


async def test_a_retried_status_with_a_long_body_is_let_go(world: Any) -> None:
    async def ill(peer: Any) -> None:
        await peer.request()
        peer.send(b"HTTP/1.1 500 Oops\r\nContent-Length: 1000000\r\n\r\npart")
        await peer.gone()

    bad, good = await world.upstream(ill), await world.upstream()
    house = await world.router(bad, good, pool={"retry": RetryConfig(on=("500",))})
    client = await world.client(house)
    for _ in range(4):
        assert (await client.get()).body == b"ok"
    await house.settled(bad, good)


async def test_the_routes_timeout_ends_everything(world: Any) -> None:
    slow = [await world.upstream(never) for _ in range(3)]
    house = await world.router(*slow, route={"timeout": 0.15})
    response = await (await world.client(house)).get()
    assert response.status == 504
    assert sum(len(each.requests) for each in slow) == 1
    await house.settled(*slow)


async def test_a_slow_upload_is_not_late(world: Any) -> None:
    """The head timeout runs from the request's end: before it, the endpoint has nothing to answer."""
    upstream = await world.upstream()
    house = await world.router(upstream, pool={"timeouts": PoolTimeouts(head=0.2)})  # type: ignore[arg-type]
    client = await world.client(house)
    client.ask("/", "Content-Length: 8", method="POST")
    for _ in range(8):
        client.send(b"x")
        await asyncio.sleep(0.06)
    response = await client.response()
    assert (response.status, response.body) == (200, b"x" * 8)


async def test_the_body_goes_again_even_if_the_first_endpoint_failed_in_its_middle(world: Any) -> None:
    seen = asyncio.Event()

    async def breaks(peer: Any) -> None:
        await peer.ask()
        await peer.exactly(4)
        seen.set()
        peer.reset()

    bad, good = await world.upstream(breaks), await world.upstream()
    house = await world.router(bad, good)
    for _ in range(2):
        seen.clear()
        client = await world.client(house)
        client.ask("/", "Content-Length: 8", method="PUT")
        client.send(b"half")
        await asyncio.sleep(0.05)
        client.send(b"rest")
        assert (await client.response()).body == b"halfrest"
    assert len(bad.peers) == 1


# Early responses


@pytest.mark.parametrize("reads", [True, False])
async def test_an_early_response_is_passed_on(world: Any, reads: bool) -> None:
    async def early(peer: Any) -> None:
        await peer.ask()
        peer.answer(b"too much", status="413 Content Too Large")
        if reads:
            await peer.gone()
        else:
            await asyncio.sleep(0.3)

    upstream = await world.upstream(early)
    house = await world.router(upstream)
    client = await world.client(house)
    client.ask("/", "Content-Length: 50000000", method="POST")
    client.send(b"x" * 1_000_000)
    response = await client.response()
    assert (response.status, response.body) == (413, b"too much")
    assert response.get("Connection") == "close"
    client.close()
    await house.settled(upstream)


async def test_a_response_that_begins_before_the_request_ends(world: Any) -> None:
    """Both bodies at once, as an echo does."""

    async def echo(peer: Any) -> None:
        await peer.ask()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n")
        for _ in range(3):
            peer.send(await peer.exactly(3))
        await peer.gone()

    house = await world.router(await world.upstream(echo))
    client = await world.client(house)
    client.ask("/", "Content-Length: 9", method="POST")
    await client.until(b"\r\n\r\n")
    for piece in (b"one", b"two", b"six"):
        client.send(piece)
        assert await client.exactly(3) == piece
    await house.settled()


# Hedging


def hedged(delay: str = "50ms") -> dict[str, Any]:
    return {"retry": RetryConfig(hedge_after=HedgeDelay(delay), reserve=1000)}


async def test_a_slow_endpoint_is_hedged_and_let_go(world: Any) -> None:
    slow, fast = await world.upstream(never), await world.upstream()
    house = await world.router(slow, fast, pool=hedged())
    client = await world.client(house)
    for _ in range(4):
        assert (await client.get()).body == b"ok"
    assert len(fast.requests) == 4
    assert len(slow.requests) == 2
    assert slow.open == 0
    await house.settled(slow, fast)


async def test_a_hedge_is_never_forgotten(world: Any) -> None:
    """Timers may fire a little before their time by the router's clock (uvloop's do, now and then)."""
    slow, fast = await world.upstream(never), await world.upstream()
    house = await world.router(slow, fast, pool=hedged("15.1ms"))
    house.runtime.clock = lambda: int(time.monotonic() * 100) / 100
    client = await world.client(house)
    async with asyncio.timeout(4):
        assert [(await client.get()).body for _ in range(6)] == [b"ok"] * 6


async def test_the_first_of_two_may_still_win(world: Any) -> None:
    async def late(peer: Any) -> None:
        while True:
            await peer.request()
            await asyncio.sleep(0.15)
            peer.answer(b"late")

    remembered: list[str] = []

    class Remembers:
        def find(self, members: Any, exchange: Any) -> None:
            return None

        def remember(self, endpoint: Any, exchange: Any, headers: Any) -> None:
            remembered.append(endpoint.identity)

    first, second = await world.upstream(late), await world.upstream(never)
    house = await world.router(first, second, pool=hedged(), affinity=Remembers())
    for _ in range(2):
        assert (await (await world.client(house)).get()).body == b"late"
    assert second.open == 0
    # Affinity pins the endpoint that answered, not the one that was asked last.
    assert remembered == [first.url, first.url]
    await house.settled(first, second)


async def test_both_of_two_may_fail(world: Any) -> None:
    async def late_reset(peer: Any) -> None:
        await peer.request()
        await asyncio.sleep(0.1)
        peer.reset()

    both = [await world.upstream(late_reset) for _ in range(2)]
    house = await world.router(*both, pool={"retry": RetryConfig(attempts=1, hedge_after=HedgeDelay("30ms"))})
    assert (await (await world.client(house)).get()).status == 502
    await house.settled(*both)


async def test_a_post_is_not_hedged(world: Any) -> None:
    async def late(peer: Any) -> None:
        while True:
            await peer.request()
            await asyncio.sleep(0.15)
            peer.answer(b"late")

    both = [await world.upstream(late) for _ in range(2)]
    house = await world.router(*both, pool=hedged("20ms"))
    assert (await (await world.client(house)).get(method="POST", body=b"x")).body == b"late"
    assert sum(len(each.requests) for each in both) == 1


# Limits


class Gate:
    """An upstream that answers when it is told to."""

    def __init__(self) -> None:
        self.open = asyncio.Event()

    async def __call__(self, peer: Any) -> None:
        while True:
            head = await peer.request()
            await self.open.wait()
            peer.answer(head.target.encode())


async def asked(world: Any, house: Any, count: int) -> list[Any]:
    clients = []
    for number in range(count):
        client = await world.client(house)
        client.ask(f"/{number}")
        await client.flush()
        await asyncio.sleep(0.02)
        clients.append(client)
    return clients


async def test_over_the_limit_503_with_retry_after(world: Any) -> None:
    gate = Gate()
    upstream = await world.upstream(gate)
    house = await world.router(upstream, pool={"limits": LimitsConfig(in_flight=2)})
    clients = await asked(world, house, 3)
    response = await clients[2].response()
    assert (response.status, "overloaded" in response.body.decode()) == (503, True)
    assert response.get("Retry-After") is not None
    gate.open.set()
    assert [(await client.response()).status for client in clients[:2]] == [200, 200]


@pytest.mark.parametrize("limits", [{"in_flight": 1}, {"in_flight_per_endpoint": 1}])
async def test_the_queue_is_first_in_first_out(world: Any, limits: dict[str, int]) -> None:
    gate = Gate()
    upstream = await world.upstream(gate)
    house = await world.router(
        upstream,
        pool={"limits": LimitsConfig(**limits, queue=3, queue_timeout=5)},  # type: ignore[arg-type]
    )
    clients = await asked(world, house, 5)
    assert (await clients[4].response()).status == 503
    assert house.pool.queue.waiting == 3
    gate.open.set()
    assert [(await client.response()).body for client in clients[:4]] == [b"/0", b"/1", b"/2", b"/3"]
    assert [head.target for head in upstream.requests] == ["/0", "/1", "/2", "/3"]


async def test_the_queue_has_a_time_limit(world: Any) -> None:
    gate = Gate()
    house = await world.router(
        await world.upstream(gate),
        pool={"limits": LimitsConfig(in_flight=1, queue=3, queue_timeout=0.1)},  # type: ignore[arg-type]
    )
    clients = await asked(world, house, 2)
    assert (await clients[1].response()).status == 503
    assert house.pool.queue.waiting == 0
    gate.open.set()
    assert (await clients[0].response()).status == 200
    assert (await clients[1].get()).status == 200


async def test_who_leaves_the_queue_makes_room(world: Any) -> None:
    gate = Gate()
    upstream = await world.upstream(gate)
    house = await world.router(upstream, pool={"limits": LimitsConfig(in_flight=1, queue=2, queue_timeout=5)})  # type: ignore[arg-type]
    clients = await asked(world, house, 3)
    clients[1].reset()
    gate.open.set()
    assert (await clients[2].response()).body == b"/2"
    assert [head.target for head in upstream.requests] == ["/0", "/2"]


async def test_a_body_waits_with_its_request(world: Any) -> None:
    gate = Gate()
    upstream = await world.upstream(gate)
    house = await world.router(upstream, pool={"limits": LimitsConfig(in_flight=1, queue=2, queue_timeout=5)})  # type: ignore[arg-type]
    (first,) = await asked(world, house, 1)
    second = await world.client(house)
    second.ask("/up", method="POST", body=b"b" * 200_000)
    await asyncio.sleep(0.05)
    gate.open.set()
    assert (await first.response()).status == 200
    assert (await second.response()).status == 200
    assert upstream.requests[-1].body == b"b" * 200_000


# Filters


class Filter:
    def on_request(self, exchange: Any) -> Any:
        return None

    def on_response(self, exchange: Any, headers: list[tuple[bytes, bytes]]) -> None:
        return None


class Answers(Filter):
    def on_request(self, exchange: Any) -> Any:
        return Response(418, b"short and stout", ((b"X-Filter", b"yes"),)) if exchange.path == "/tea" else None


class AnswersLater(Answers):
    async def on_request(self, exchange: Any) -> Any:
        await asyncio.sleep(0.01)
        return super().on_request(exchange)


class Raises(Filter):
    def on_request(self, exchange: Any) -> Any:
        raise RuntimeError("secret words")


class RaisesLater(Filter):
    async def on_request(self, exchange: Any) -> Any:
        await asyncio.sleep(0)
        raise RuntimeError("secret words")


class Misbehaves(Filter):
    def on_request(self, exchange: Any) -> Any:
        return "not a Response"


@pytest.mark.parametrize("plugin", [Answers, AnswersLater])
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
async def test_a_filter_may_answer(world: Any, plugin: Any, method: str) -> None:
    upstream = await world.upstream()
    house = await world.router(upstream, filters=[plugin()])
    client = await world.client(house)
    response = await client.get("/tea", method=method)
    assert (response.status, response.get("X-Filter")) == (418, "yes")
    assert response.body == (b"" if method == "HEAD" else b"short and stout")
    assert (await client.get("/coffee", method=method)).status == 200
    assert [head.target for head in upstream.requests] == ["/coffee"]


async def test_a_filter_that_waits_holds_the_body(world: Any) -> None:
    upstream = await world.upstream()
    house = await world.router(upstream, filters=[AnswersLater()])
    client = await world.client(house)
    assert (await client.get(method="POST", body=b"y" * 300_000)).body == b"y" * 300_000


@pytest.mark.parametrize("plugin", [Raises, RaisesLater, Misbehaves])
async def test_a_filter_that_fails_is_a_500_without_its_words(world: Any, plugin: Any, caplog: Any) -> None:
    upstream = await world.upstream()
    house = await world.router(upstream, filters=[plugin()])
    client = await world.client(house)
    response = await client.get()
    assert (response.status, "internal_error" in response.body.decode()) == (500, True)
    assert b"secret" not in response.body
    assert plugin.__name__ in caplog.text
    assert upstream.peers == []


async def test_filters_see_a_response_in_reverse_order(world: Any) -> None:
    class Marks(Filter):
        def __init__(self, name: bytes) -> None:
            self.name = name

        def on_response(self, exchange: Any, headers: list[tuple[bytes, bytes]]) -> None:
            headers[:] = [field for field in headers if field[0] != b"X-Secret"]
            headers.append((b"X-Mark", self.name))

    async def script(peer: Any) -> None:
        await peer.request()
        peer.answer(b"ok", "X-Secret: 1", "Set-Cookie: a=1", "Set-Cookie: b=2")
        await peer.gone()

    house = await world.router(await world.upstream(script), filters=[Marks(b"outer"), Marks(b"inner")])
    response = await (await world.client(house)).get()
    assert response.all("X-Mark") == ["inner", "outer"]
    assert response.get("X-Secret") is None
    assert response.all("Set-Cookie") == ["a=1", "b=2"]


async def test_a_filter_that_fails_on_a_response_breaks_nothing(world: Any) -> None:
    class Bad(Filter):
        def on_response(self, exchange: Any, headers: list[tuple[bytes, bytes]]) -> None:
            raise RuntimeError("secret words")

    house = await world.router(await world.upstream(), filters=[Bad()])
    client = await world.client(house)
    assert (await client.get()).status in (200, 500)
    assert len(house.muted) == 1


# Observers


class Observer:
    def __init__(self) -> None:
        self.told: list[Any] = []

    def request_started(self, exchange: Any) -> Any:
        self.told.append(("request", exchange.target))
        return self

    def attempt_started(self, token: Any, exchange: Any, attempt: Any, headers: list[tuple[bytes, bytes]]) -> None:
        self.told.append(("attempt", attempt.number))
        headers.append((b"X-Attempt", str(attempt.number).encode()))

    def attempt_ended(self, token: Any, exchange: Any, attempt: Any, outcome: Any) -> None:
        self.told.append(("outcome", attempt.number, outcome.result, outcome.phase))

    def request_ended(self, token: Any, exchange: Any, error: Any) -> None:
        self.told.append(("end", exchange.status, type(error).__name__))

    def endpoint_changed(self, endpoint: Any, cause: str) -> None:
        self.told.append(("changed", cause))

    def table_swapped(self, version: int) -> None:
        self.told.append(("table", version))


async def test_an_observer_hears_each_step_in_order(world: Any) -> None:
    observer = Observer()
    upstream = await world.upstream()
    house = await world.router(upstream, observers=[observer])
    assert (await (await world.client(house)).get("/seen")).status == 200
    assert observer.told == [
        ("request", "/seen"),
        ("attempt", 0),
        ("outcome", 0, "success", ""),
        ("end", 200, "NoneType"),
    ]
    assert upstream.requests[0].get("X-Attempt") == "0"


async def test_an_observer_hears_of_each_attempt(world: Any) -> None:
    observer = Observer()
    bad, good = await world.upstream(reset_at_once), await world.upstream()
    house = await world.router(bad, good, observers=[observer])
    client = await world.client(house)
    await client.get()
    await client.get()
    assert ("outcome", 0, "failure", "head") in observer.told
    assert ("outcome", 1, "success", "") in observer.told
    # Headers of an earlier attempt do not go to the next endpoint.
    assert sorted(head.all("X-Attempt") for head in good.requests) == [["0"], ["1"]]


async def test_an_observer_hears_of_refused_connections(world: Any) -> None:
    observer = Observer()
    house = await world.router(closed_port(), observers=[observer], pool={"retry": RetryConfig(attempts=0)})
    await (await world.client(house)).get()
    assert ("outcome", 0, "failure", "connect") in observer.told
    assert observer.told[-1] == ("end", 503, "ConnectError")


async def test_an_observer_hears_of_a_client_that_left(world: Any) -> None:
    observer = Observer()
    upstream = await world.upstream(never)
    house = await world.router(upstream, observers=[observer])
    client = await world.client(house)
    client.ask()
    await world.eventually(lambda: upstream.requests)
    client.reset()
    await house.settled(upstream)
    assert observer.told[-2:][0] == ("outcome", 0, "neutral", "")
    assert observer.told[-1][0] == "end"
    assert observer.told[-1][2] == "ClientGone"


async def test_an_observer_hears_of_a_broken_body(world: Any) -> None:
    async def breaks(peer: Any) -> None:
        await peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf ")

    observer = Observer()
    house = await world.router(await world.upstream(breaks), observers=[observer])
    client = await world.client(house)
    client.ask()
    await client.gone()
    assert observer.told[-2:] == [("outcome", 0, "failure", "body"), ("end", 200, "BodyError")]


async def test_an_observer_hears_of_a_request_without_route(world: Any) -> None:
    observer = Observer()
    house = await world.router(await world.upstream(), observers=[observer], route={"path": "/x"})
    await (await world.client(house)).get("/y")
    assert observer.told == [("request", "/y"), ("end", 404, "NoRoute")]


async def test_an_observer_that_raises_harms_nobody(world: Any) -> None:
    class Raises(Observer):
        def attempt_started(self, *args: Any) -> None:
            raise RuntimeError

    good = Observer()
    house = await world.router(await world.upstream(), observers=[Raises(), good])
    client = await world.client(house)
    assert [(await client.get()).status for _ in range(3)] == [200] * 3
    assert good.told.count(("end", 200, "NoneType")) == 3


# Affinity


class Pins:
    """Pins to the endpoint named in a request header, and says who answered."""

    def find(self, members: Any, exchange: Any) -> Any:
        return members.get(exchange.header("X-Pin") or "")

    def remember(self, endpoint: Any, exchange: Any, headers: list[tuple[bytes, bytes]]) -> None:
        headers.append((b"X-Served-By", endpoint.identity.encode()))


async def test_affinity_names_the_endpoint_and_marks_the_response(world: Any) -> None:
    both = [await world.upstream() for _ in range(3)]
    house = await world.router(*both, affinity=Pins())
    client = await world.client(house)
    for each in both:
        for _ in range(3):
            assert (await client.get("/", f"X-Pin: {each.url}")).get("X-Served-By") == each.url
    assert [len(each.requests) for each in both] == [3, 3, 3]


async def test_affinity_to_a_dead_endpoint_moves_on(world: Any) -> None:
    dead, good = closed_port(), await world.upstream()
    house = await world.router(dead, good, affinity=Pins())
    response = await (await world.client(house)).get("/", f"X-Pin: {dead}")
    assert (response.status, response.get("X-Served-By")) == (200, good.url)


async def test_affinity_that_raises_is_worked_around(world: Any) -> None:
    class Raises:
        def find(self, members: Any, exchange: Any) -> Any:
            raise RuntimeError

        def remember(self, endpoint: Any, exchange: Any, headers: Any) -> None:
            raise RuntimeError

    house = await world.router(await world.upstream(), affinity=Raises())
    assert (await (await world.client(house)).get()).status == 200
    assert len(house.muted) == 2


async def test_a_client_that_does_not_read_ejects_no_server(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server gives up one who does not read, as its own time-out demands: that is no fault of the server's."""
    monkeypatch.setattr("router.net.body._LONG", 0.05)

    async def gives_up(peer: Any) -> None:
        await peer.head()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 90000000\r\n\r\n" + b"x" * 30_000_000)
        await asyncio.sleep(0.3)
        peer.writer.close()

    servers = [await world.upstream(gives_up) for _ in range(3)]
    house = await world.router(*servers)
    outcomes = []
    pool = house.table.pools["web"]
    told = pool.told
    pool.told = lambda endpoint, outcome, now: (outcomes.append(outcome), told(endpoint, outcome, now))
    for _ in range(3):
        client = await world.client(house)
        client.reader._transport.pause_reading()
        client.ask("/")
        await asyncio.sleep(0.5)
        client.reader._transport.resume_reading()
        await client.gone()
    await world.eventually(lambda: len(outcomes) == 3)
    assert [outcome.result for outcome in outcomes] == ["neutral"] * 3
