"""The request as an endpoint sees it: the client's own bytes, and what the router vouches for."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest

from router import AtEnd
from router.config import RewriteConfig


async def seen(world: Any, *lines: str, target: str = "/", trusted: tuple[str, ...] = (), **ask: Any) -> Any:
    upstream = await world.upstream()
    client = await world.client(await world.router(upstream, server={"trusted_proxies": trusted}))
    assert (await client.get(target, *lines, **ask)).status == 200
    (head,) = upstream.requests
    return head


@pytest.mark.parametrize(
    "target",
    [
        "/",
        "/a%2Fb",
        "/x?",
        "/x?a=1&a=2&b=%20+;",
        "//double//slash",
        "/./a/../b",
        "/%e4%BD%A0",
        "/a%00b",
        '/{}|^`"<>',
        "/;p=1,2",
        "/?" + "q" * 4000,
        "/a?b?c=/../d",
        "/:@!$'()*+",
    ],
)
async def test_path_and_query_go_on_unchanged(world: Any, target: str) -> None:
    assert (await seen(world, target=target)).first == f"GET {target} HTTP/1.1"


async def test_bytes_over_127_in_a_target_stay_or_are_refused(world: Any) -> None:
    upstream = await world.upstream()
    client = await world.client(await world.router(upstream))
    client.send(b"GET /caf\xc3\xa9\xff?x=\xe9 HTTP/1.1\r\nHost: a\r\n\r\n")
    status = (await client.response()).status
    assert status in (200, 400)
    targets = [head.raw.split(b" ")[1] for head in upstream.requests]
    assert targets == ([b"/caf\xc3\xa9\xff?x=\xe9"] if status == 200 else [])


@pytest.mark.parametrize(
    ("target", "path"),
    [("http://other.example/a?b", "/a?b"), ("http://other.example", "/"), ("HTTP://other.example?x=1", "/?x=1")],
)
async def test_an_absolute_target_becomes_its_path_and_host(world: Any, target: str, path: str) -> None:
    head = await seen(world, target=target)
    assert head.target == path
    assert head.all("Host") == ["other.example"]
    assert head.get("X-Forwarded-Host") == "other.example"


async def test_options_of_the_whole_server(world: Any) -> None:
    assert (await seen(world, target="*", method="OPTIONS")).first == "OPTIONS * HTTP/1.1"


async def test_order_case_and_duplicates_of_fields_stay(world: Any) -> None:
    head = await seen(world, "x-Zeta: 1", "ACCEPT: a/b", "cookie: a=1", "X-Alpha: 2", "cookie: b=2", "x-zeta: 3")
    assert head.fields[:7] == [
        ("Host", "test.example"),
        ("x-Zeta", "1"),
        ("ACCEPT", "a/b"),
        ("cookie", "a=1"),
        ("X-Alpha", "2"),
        ("cookie", "b=2"),
        ("x-zeta", "3"),
    ]


async def test_values_keep_their_bytes(world: Any) -> None:
    head = await seen(world, "X-Eight: caf\xe9 \xff\x80", "X-Empty:", "X-Tab: a\tb")
    assert b"X-Eight: caf\xe9 \xff\x80\r\n" in head.raw
    assert head.get("X-Empty") == ""
    assert head.get("X-Tab") == "a\tb"


async def test_hop_by_hop_fields_end_here(world: Any) -> None:
    head = await seen(
        world,
        "Connection: keep-alive, X-Listed",
        "X-Listed: 1",
        "Keep-Alive: timeout=5",
        "Proxy-Connection: keep-alive",
        "TE: trailers",
        "Trailer: X-T",
        "Proxy-Authorization: Basic eA==",
        "X-Kept: 1",
    )
    gone = {"connection", "x-listed", "keep-alive", "proxy-connection", "te", "trailer", "proxy-authorization"}
    assert not gone & {name.lower() for name in head.names}
    assert head.get("X-Kept") == "1"


@pytest.mark.parametrize("listed", ["Host", "Content-Length", "X-Forwarded-For", "X-Request-ID", "Via"])
async def test_connection_cannot_remove_what_matters(world: Any, listed: str) -> None:
    head = await seen(world, f"Connection: {listed}, close", method="POST", body=b"four")
    assert len(head.all("Host")) == 1
    assert head.body == b"four"
    assert head.get("X-Forwarded-For") == "127.0.0.1"
    assert head.get("X-Request-ID")
    assert "1.1 router" in head.all("Via")


async def test_via_is_added_to_what_was_there(world: Any) -> None:
    assert (await seen(world, "Via: 1.0 before")).all("Via") == ["1.0 before", "1.1 router"]


async def test_a_request_id_is_made_or_kept(world: Any) -> None:
    made = (await seen(world)).get("X-Request-ID")
    assert len(made) == 32
    assert (await seen(world)).get("X-Request-ID") != made
    assert (await seen(world, "X-Request-ID: mine-1")).get("X-Request-ID") == "mine-1"


@pytest.mark.parametrize("bad", ["", "a b", "<script>", "x" * 200])
async def test_a_request_id_that_is_none_is_replaced(world: Any, bad: str) -> None:
    assert len((await seen(world, f"X-Request-ID: {bad}")).get("X-Request-ID")) == 32


# Who the client is


@pytest.mark.parametrize("joint", ["-", "_"])
async def test_a_client_cannot_say_who_it_is(world: Any, joint: str) -> None:
    head = await seen(
        world,
        f"X-Forwarded{joint}For: 1.2.3.4",
        f"x-forwarded{joint}proto: https",
        f"X-Forwarded{joint}Host: evil.example",
        "Forwarded: for=1.2.3.4",
    )
    assert head.get("X-Forwarded-For") == "127.0.0.1"
    assert head.get("X-Forwarded-Proto") == "http"
    assert head.get("X-Forwarded-Host") == "test.example"
    assert b"1.2.3.4" not in head.raw
    assert b"evil" not in head.raw


async def test_a_trusted_proxy_is_believed_and_extended(world: Any) -> None:
    head = await seen(
        world,
        "X-Forwarded-For: 1.2.3.4, 10.0.0.1",
        "X-Forwarded-Proto: https",
        trusted=("127.0.0.0/8",),
    )
    assert head.get("X-Forwarded-For") == "1.2.3.4, 10.0.0.1, 127.0.0.1"
    assert head.get("X-Forwarded-Proto") == "https"


async def test_a_trusted_proxys_host_is_kept(world: Any) -> None:
    head = await seen(world, "X-Forwarded-Host: public.example", trusted=("127.0.0.1",))
    assert head.get("X-Forwarded-Host") == "public.example"


async def test_a_trusted_proxy_that_says_nothing(world: Any) -> None:
    head = await seen(world, trusted=("127.0.0.1",))
    assert (head.get("X-Forwarded-For"), head.get("X-Forwarded-Proto")) == ("127.0.0.1", "http")


# Bodies


async def test_a_request_without_a_body_gets_no_framing(world: Any) -> None:
    head = await seen(world)
    assert head.get("Content-Length") is None
    assert head.get("Transfer-Encoding") is None


async def test_an_empty_body_stays_one(world: Any) -> None:
    head = await seen(world, "Content-Length: 0", method="POST")
    assert head.get("Content-Length") == "0"


async def test_extensions_and_trailers_of_chunks_are_dropped(world: Any) -> None:
    upstream = await world.upstream()
    client = await world.client(await world.router(upstream))
    client.ask("/", "Transfer-Encoding: chunked", method="POST")
    client.send(b'3;name="x"\r\nabc\r\n0\r\nX-Trailer: 1\r\nContent-Length: 9\r\n\r\n')
    assert (await client.response()).body == b"abc"
    assert b"X-Trailer" not in upstream.peers[0].received
    assert b"name=" not in upstream.peers[0].received


# What observers set


class Sets:
    """An observer that sets what goes on, and hears of no more."""

    def __init__(self, added: bytes = b"", dropped: tuple[bytes, ...] = (), token: Any = None) -> None:
        self.added, self.dropped, self.token = added, dropped, token

    def request_started(self, exchange: Any) -> Any:
        exchange.added += self.added
        exchange.dropped += self.dropped
        return self.token

    def attempt_started(self, token: Any, exchange: Any, attempt: Any, headers: list[tuple[bytes, bytes]]) -> None:
        headers.append((b"X-Attempt", b"%d" % attempt.number))

    def attempt_ended(self, *told: Any) -> None: ...
    def request_ended(self, *told: Any) -> None: ...
    def endpoint_changed(self, *told: Any) -> None: ...
    def table_swapped(self, *told: Any) -> None: ...


@pytest.mark.parametrize("token", [None, "token", AtEnd()])
@pytest.mark.parametrize("target", ["/", "http://test.example/"])
async def test_lines_of_observers_take_the_place_of_the_clients(world: Any, token: Any, target: str) -> None:
    observers = [
        Sets(b"traceparent: 00-new\r\nb3: 1\r\n", (b"traceparent", b"b3"), token),
        Sets(b"uber-trace-id: 7\r\n", (b"x-b3-traceid",)),
    ]
    upstream = await world.upstream()
    client = await world.client(await world.router(upstream, observers=observers))
    for _ in range(2):
        await client.get(
            target,
            *(
                "traceparent: 00-old",
                "X-Kept: 1",
                "TraceParent:  00-older",
                "b3:",
                "X-B3-TraceId: 9",
                "tracestate: a=1",
            ),
        )
    for head in upstream.requests:
        assert head.all("traceparent") == ["00-new"]
        assert (head.all("b3"), head.all("X-B3-TraceId"), head.get("uber-trace-id")) == (["1"], [], "7")
        assert (head.get("X-Kept"), head.get("tracestate")) == ("1", "a=1")
        assert head.all("X-Forwarded-Host") == ["test.example"]
        assert head.get("X-Attempt") == ("0" if token == "token" else None)


async def test_dropping_a_cookie_before_affinity_takes_its_own_out(world: Any) -> None:
    upstream = await world.upstream()
    pool = {"affinity": {"use": "cookie", "secrets": ["a secret that is long enough to be one"]}}
    house = await world.router(upstream, pool=pool, observers=[Sets(dropped=(b"cookie",))])
    client = await world.client(house)
    for _ in range(2):
        await client.get("/", "Cookie: a=1; router=x; b=2")
    assert [head.get("Cookie") for head in upstream.requests] == [None, None]


async def test_with_a_body_and_another_target_too(world: Any) -> None:
    upstream = await world.upstream()
    route = {"rewrite": RewriteConfig("/a", "/b")}
    house = await world.router(upstream, route=route, observers=[Sets(b"traceparent: new\r\n", (b"traceparent",))])
    response = await (await world.client(house)).get("/a/x", "traceparent: old", method="POST", body=b"the body")
    (head,) = upstream.requests
    assert (head.target, head.get("traceparent"), head.body, response.body) == (
        "/b/x",
        "new",
        b"the body",
        b"the body",
    )


async def test_every_attempt_carries_the_lines(world: Any) -> None:
    async def reset(peer: Any) -> None:
        await peer.ask()
        peer.reset()

    bad, good = await world.upstream(reset), await world.upstream()
    house = await world.router(bad, good, observers=[Sets(b"traceparent: new\r\n", (b"traceparent",), "token")])
    client = await world.client(house)
    for _ in range(2):
        assert (await client.get("/", "traceparent: old")).status == 200
    assert {head.get("traceparent") for head in bad.requests + good.requests} == {"new"}
    assert sorted(head.get("X-Attempt") for head in bad.requests + good.requests) == ["0", "0", "1"]


@pytest.mark.parametrize("garbage", [b"\r\n", b"garbage", b"a: b\nc: d\r\n", b"\r\n\r\nGET / HTTP/1.1\r\nHost: h\r\n"])
async def test_an_observer_that_sets_garbage_breaks_no_request(world: Any, garbage: bytes) -> None:
    upstream = await world.upstream()
    house = await world.router(upstream, observers=[Sets(garbage)])
    client = await world.client(house)
    for _ in range(2):
        assert (await client.get("/", "X-Kept: 1")).status == 200
    assert [head.names.count("X-Kept") for head in upstream.requests] == [1, 1]
    assert {line for head in upstream.requests for line in head.names} <= {
        *("Host", "X-Kept", "Via", "X-Request-ID", "X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host")
    }
    assert list(house.runtime.observers.muted) == ["Sets"]


# The log


async def failed(world: Any, caplog: pytest.LogCaptureFixture, observer: Any) -> tuple[Any, str]:
    """A request that nobody could answer, and the line that the log has of it."""
    house = await world.router("http://127.0.0.1:1", observers=[observer])
    with caplog.at_level(logging.WARNING, "router"):
        response = await (await world.client(house)).get("/", "X-Request-ID: mine", "Accept: application/json")
    (line,) = [record.getMessage() for record in caplog.records if record.getMessage().startswith("request mine")]
    return response, line


async def test_the_log_and_the_page_lead_to_the_trace(world: Any, caplog: pytest.LogCaptureFixture) -> None:
    trace = "0af7651916cd43dd8448eb211c80319c"
    response, line = await failed(world, caplog, Traced(trace))
    assert line.startswith(f"request mine, trace {trace}, pool 'web', tried http://127.0.0.1:1")
    error = json.loads(response.body)["error"]
    assert (error["request"], error["trace"]) == ("mine", trace)


async def test_without_a_trace_there_is_none(world: Any, caplog: pytest.LogCaptureFixture) -> None:
    response, line = await failed(world, caplog, Sets())
    assert line.startswith("request mine, pool 'web'")
    assert "trace" not in json.loads(response.body)["error"]


async def test_a_trace_id_never_forges_a_line(world: Any, caplog: pytest.LogCaptureFixture) -> None:
    response, line = await failed(world, caplog, Traced("x\r\n\x1b[31mrequest forged"))
    assert line.startswith(r"request mine, trace x\r\n\x1b[31mrequest forged, pool")
    assert json.loads(response.body)["error"]["request"] == "mine"


class Traced(Sets):
    """An observer that gives requests a trace."""

    def __init__(self, trace_id: str) -> None:
        super().__init__()
        self.trace_id = trace_id

    def request_started(self, exchange: Any) -> Any:
        exchange.trace_id = self.trace_id
        return super().request_started(exchange)
