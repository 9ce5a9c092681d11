"""The load test: its servers over real sockets, its sessions and verdicts before records made by hand, its spans.

locust itself is only needed by the last test, which is left out where `make load` has never run.
"""

from __future__ import annotations

import argparse
import ast
import asyncio
import hashlib
import importlib
import io
import json
import random
import re
import statistics
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import RawTestServer, TestServer

from router.configfile import parse
from router.prepare import prepare

ROOT = Path(__file__).resolve().parent.parent
LOADTESTS = ROOT / "loadtests"


def load(name: str) -> ModuleType:
    if str(LOADTESTS) not in sys.path:
        sys.path.append(str(LOADTESTS))
    return importlib.import_module(name)


bench = load("load")
house = load("load_house")
options = load("load_options")
procs = load("bench_procs")
receiver = load("load_receiver")
report = load("load_report")
sessions = load("load_sessions")
traces = load("load_traces")
spans = load("load_tracing")
upstream = load("upstream")

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331"


# Options


@pytest.mark.parametrize(
    ("text", "low", "median", "high"),
    [
        ("fixed:5ms", 0.005, 0.005, 0.005),
        ("normal:20ms,5ms", 0.0, 0.02, 0.1),
        ("lognormal:20ms,0.5", 0.001, 0.02, 0.4),
        ("pareto:10ms,2", 0.01, 0.01 * 2**0.5, 30.0),
        ("fixed:90s", 30.0, 30.0, 30.0),
    ],
)
def test_a_latency_has_its_median_and_its_bounds(text: str, low: float, median: float, high: float) -> None:
    draw, rng = options.latency(text), random.Random(1)
    drawn = [draw(rng) for _ in range(4000)]
    assert min(drawn) >= low
    assert max(drawn) <= high
    assert statistics.median(drawn) == pytest.approx(median, rel=0.05)


@pytest.mark.parametrize("text", ["", "fixed", "fixed:5", "fixed:1ms,2ms", "normal:1ms", "lognormal:1ms,0", "even:1ms"])
def test_a_latency_that_is_none_is_refused_with_the_form(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=re.escape(repr(text))):
        options.latency(text)


def test_shares_and_numbers_are_read_or_refused() -> None:
    assert [options.share(text) for text in ("0%", "0.5%", "100%")] == [0.0, 0.005, 1.0]
    for text in ("1", "101%", "-1%", "1e2%"):
        with pytest.raises(argparse.ArgumentTypeError):
            options.share(text)
    for text in ("0", "10", "1.5", "\u0662"):
        with pytest.raises(argparse.ArgumentTypeError):
            options.number(1, 9)(text)


# The servers


@asynccontextmanager
async def serving(*words: str, traced: Any = None) -> AsyncIterator[tuple[Any, aiohttp.ClientSession]]:
    args = upstream.parser().parse_args(["--latency", "fixed:0ms", *words])
    shop = upstream.Upstream(args, traced or spans.Tracing())
    jar = aiohttp.CookieJar(unsafe=True)  # of hosts without a name too
    async with RawTestServer(shop.answer) as server, aiohttp.ClientSession(cookie_jar=jar) as client:
        yield server, client


async def test_a_server_has_pages_and_an_echo_and_says_its_name() -> None:
    async with serving("--name", "two") as (server, client):
        for method, path, status in (
            ("GET", "/", 200),
            ("GET", "/items/7", 200),
            ("GET", "/nothing", 404),
            ("GET", "/ws", 426),
            ("GET", "/slow-body?bytes=x", 400),
        ):
            async with client.request(method, server.make_url(path)) as response:
                assert (response.status, response.headers["X-Upstream"]) == (status, "two"), path
        body = random.randbytes(100_000)
        async with client.post(server.make_url("/echo"), data=body) as response:
            assert await response.read() == body
        async with client.post(server.make_url("/echo"), data=io.BytesIO(bytes(upstream.LARGEST + 1))) as response:
            assert response.status == 413
        async with client.get(server.make_url("/slow-body?bytes=1001&seconds=0")) as response:
            assert (response.content_length, len(await response.read())) == (1001, 1001)


async def test_a_websocket_echoes() -> None:
    async with serving() as (server, client), client.ws_connect(server.make_url("/ws")) as talk:
        await talk.send_str("word")
        assert await talk.receive_str() == "word"
        await talk.send_bytes(b"\x00\xff")
        assert await talk.receive_bytes() == b"\x00\xff"


async def test_a_cart_is_known_to_its_server_alone() -> None:
    """So a visitor who is sent elsewhere sees a broken session."""
    async with serving("--name", "one") as (one, client), serving("--name", "two") as (two, _):
        visit = sessions.Session(9)
        for server, method, adds, wanted in (
            (one, "POST", 1, ""),
            (one, "POST", 1, ""),
            (one, "GET", 0, ""),
            (two, "GET", 0, "from one to two"),
        ):
            # The port is no part of a cookie's place (RFC 6265 §8.5), so both servers are sent it.
            async with client.request(method, server.make_url("/cart")) as response:
                name, body = sessions.server_of(response), await response.read()
            assert visit.answered(name, body, adds) == wanted
        assert (visit.over, visit.verdict) == (True, "broken")


def test_carts_are_bounded_and_the_oldest_goes_first() -> None:
    carts = upstream.Carts(most=2)
    for visitor in ("a", "b", "a", "c"):
        carts.add(visitor)
    assert [carts.count(visitor) for visitor in "abc"] == [2, 0, 1]


@pytest.mark.parametrize(("over", "wanted"), [("queue", [200, 200, 200]), ("refuse", [200, 503, 503])])
async def test_more_than_the_capacity_wait_or_are_refused(over: str, wanted: list[int]) -> None:
    async with serving("--capacity", "1", "--over", over, "--latency", "fixed:100ms") as (server, client):

        async def status() -> int:
            async with client.get(server.make_url("/")) as response:
                return response.status

        assert sorted(await asyncio.gather(status(), status(), status())) == wanted


async def test_errors_are_drawn_from_the_seed() -> None:
    async def statuses(seed: str) -> list[int]:
        async with serving("--errors", "50%", "--seed", seed) as (server, client):
            return [(await client.get(server.make_url("/"))).status for _ in range(20)]

    first = await statuses("1")
    assert set(first) == {200, 500}
    assert await statuses("1") == first
    assert await statuses("2") != first


def test_a_server_that_cannot_listen_says_so() -> None:
    command = [sys.executable, str(LOADTESTS / "upstream.py"), "--host", "203.0.113.1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.returncode == 1
    assert done.stderr.startswith("upstream.py: ")
    assert "Traceback" not in done.stderr


# Spans


@asynccontextmanager
async def received() -> AsyncIterator[tuple[str, Any]]:
    """The URL of a receiver, and a function that promises what came."""
    kept = receiver.Receiver(100)
    app = web.Application()
    app.add_routes([web.post("/v1/traces", kept.take), web.get("/spans.json", kept.show)])
    async with TestServer(app) as server, aiohttp.ClientSession() as client:

        async def all_of_them() -> list[dict[str, Any]]:
            async with client.get(server.make_url("/spans.json")) as response:
                return list((await response.json())["spans"])

        yield str(server.make_url("/v1/traces")), all_of_them


async def test_a_request_goes_on_with_the_trace_of_the_load() -> None:
    async with received() as (url, all_of_them):
        load_spans, server_spans = spans.tracing("locust", url), spans.tracing("one", url)
        async with serving("--errors", "100%", traced=server_spans) as (server, client):
            with load_spans.client("GET", "/", "http://shop.test/") as span:
                async with client.get(server.make_url("/"), headers=span.headers) as response:
                    span.status(response.status)
        for each in (load_spans, server_spans):
            await asyncio.to_thread(each.close)
        first, second = sorted(await all_of_them(), key=lambda each: each["start"])
    assert (first["service"], first["name"], first["parent"]) == ("locust", "GET /", "")
    assert (second["service"], second["name"], second["parent"]) == ("one", "GET", first["span"])
    assert second["trace"] == first["trace"]
    assert [each["attributes"]["http.response.status_code"] for each in (first, second)] == [500, 500]
    assert first["error"]
    assert second["error"]
    made = traces.tree([first, second])
    assert "    one: GET" in traces.drawn(made)


async def test_what_is_not_sampled_makes_no_span() -> None:
    async with received() as (url, all_of_them):
        own = spans.tracing("one", url, 0.0)
        async with serving(traced=own) as (server, client):
            for headers in (
                {},
                {"traceparent": f"{PARENT}-00"},
                {"traceparent": "junk"},
                {"traceparent": f"{PARENT}-03"},
            ):
                await client.get(server.make_url("/"), headers=headers)
            with own.client("GET", "/", "http://shop.test/") as span:
                assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-0[02]", span.headers["traceparent"])
        await asyncio.to_thread(own.close)
        assert [each["parent"] for each in await all_of_them()] == [PARENT.rpartition("-")[2]]


async def test_the_receiver_refuses_what_is_no_span_and_keeps_so_many() -> None:
    kept = receiver.Receiver(0)
    app = web.Application()
    app.add_routes([web.post("/", kept.take), web.get("/", kept.show)])
    async with TestServer(app) as server, aiohttp.ClientSession() as client:
        protobuf = {"Content-Type": "application/x-protobuf"}
        assert (await client.post(server.make_url("/"), data=b"{}")).status == 415
        assert (await client.post(server.make_url("/"), data=b"\xff", headers=protobuf)).status == 400
        own = spans.tracing("one", str(server.make_url("/")))
        with own.client("GET", "/", "http://shop.test/"):
            pass
        await asyncio.to_thread(own.close)
        assert await (await client.get(server.make_url("/"))).json() == {"spans": [], "dropped": 1}


def test_nobody_who_asks_for_no_traces_imports_opentelemetry() -> None:
    code = "import sys, upstream; upstream.tracing('one').close(); sys.exit('opentelemetry' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=LOADTESTS, env={"PATH": "/usr/bin"}, timeout=30)
    assert done.returncode == 0


# Trees


def a_span(service: str, name: str, parent: str = "", at: int = 0, **attributes: Any) -> dict[str, Any]:
    return {
        "service": service,
        "trace": "t",
        "span": name,
        "parent": parent,
        "name": name,
        "start": at,
        "end": at + 2_000_000,
        "error": False,
        "attributes": attributes,
        "events": [],
    }


WHOLE = [
    a_span("one", "d", "c", 3),
    a_span("router", "c", "b", 2),
    a_span("router", "b", "a", 1),
    a_span("locust", "a"),
]


def test_a_trace_is_whole_with_all_three_in_one_tree() -> None:
    found = traces.judged(WHOLE, ["one", "two"])
    assert (found.begun, len(found.whole), found.lacking) == (1, 1, {})
    lines = traces.drawn(found.whole[0]).splitlines()
    assert [line.split()[:2] for line in lines[1:]] == [
        ["locust:", "a"],
        ["router:", "b"],
        ["router:", "c"],
        ["one:", "d"],
    ]
    assert report.judge_traces(found, 0).held


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (WHOLE[1:], "no span of a server"),
        ([WHOLE[3]], "no span of the router"),
        ([*WHOLE[:2], WHOLE[3]], "a parent is missing"),
        ([*WHOLE, a_span("router", "e")], "2 roots"),
        ([*WHOLE, WHOLE[0]], "two spans have the same id"),
        ([*WHOLE, a_span("one", "x", "y"), a_span("one", "y", "x")], "a circle"),
        ([a_span("locust", "a", **{"error.type": traces.CUT})], "cut off at the end of the load"),
    ],
)
def test_a_trace_that_is_not_whole_is_told_with_the_reason(given: list[dict[str, Any]], why: str) -> None:
    found = traces.judged(given, ["one"])
    assert (found.begun, len(found.whole), found.lacking) == (1, 0, {why: 1})
    verdict = report.judge_traces(found, 3)
    assert not verdict.held
    assert why in verdict.measured
    assert "3 spans had no room" in verdict.measured


def test_spans_that_the_load_did_not_begin_are_nobodys_business() -> None:
    assert traces.judged(WHOLE[:3], ["one"]).begun == 0


# Sessions and statistics


def cart(count: object) -> bytes:
    return json.dumps({"count": count}).encode()


def test_a_session_is_kept_when_all_its_requests_went_well() -> None:
    visit = sessions.Session(3)
    assert [visit.answered("one", cart(1), 1), visit.answered("one", cart(2), 1), visit.over] == ["", "", False]
    visit.failed(0)
    assert (visit.over, visit.verdict, visit.server) == (True, "kept", "one")


@pytest.mark.parametrize(
    ("server", "body", "how"),
    [
        ("two", cart(2), "from one to two"),
        ("one", cart(1), "things in the cart got lost or doubled"),
        ("one", cart(3), "things in the cart got lost or doubled"),
        ("", cart(2), "the answer names no server or no count"),
        ("one", b"<html>", "the answer names no server or no count"),
        ("one", cart("2"), "the answer names no server or no count"),
    ],
)
def test_a_broken_session_is_seen(server: str, body: bytes, how: str) -> None:
    visit = sessions.Session(9)
    assert visit.answered("one", cart(1), 1) == ""
    assert visit.answered(server, body, 1) == how
    assert (visit.over, visit.verdict) == (True, "broken")


def test_after_a_failed_post_nothing_is_said_of_the_rest() -> None:
    visit = sessions.Session(9)
    visit.failed(1)
    assert (visit.over, visit.verdict) == (True, "")


def test_the_server_is_named_by_its_header_or_by_the_demos_body() -> None:
    named = SimpleNamespace(headers={"X-Upstream": "one"}, content=b"server two answers GET /\n")
    demo = SimpleNamespace(headers={}, content=b"server two answers GET /\n")
    silent = SimpleNamespace(headers={}, content=None)
    assert [sessions.server_of(each) for each in (named, demo, silent, None)] == ["one", "two", "", ""]


def an_entry(requests: int, failures: int = 0) -> Any:
    return SimpleNamespace(
        num_requests=requests, num_failures=failures, get_response_time_percentile=lambda part: round(100 * part)
    )


def test_figures_keep_requests_and_what_was_counted_beside_them_apart() -> None:
    entries = {
        ("/", "GET"): an_entry(10, 1),
        ("server one", "SERVER"): an_entry(6),
        ("server server", "SERVER"): an_entry(3),
        ("sessions at one", "BEGUN"): an_entry(2),
        ("sessions broken", "SESSION"): an_entry(1),
    }
    fault = SimpleNamespace(to_name=lambda: "GET /: code=500", occurrences=1)
    found = sessions.figures(SimpleNamespace(entries=entries, total=an_entry(10, 1), errors={"x": fault}))
    assert [row["name"] for row in found["rows"]] == ["GET /", "all"]
    assert found["servers"] == {"one": 6, "server": 3}
    assert (found["sessions_at"], found["sessions"]) == ({"one": 2}, {"kept": 0, "broken": 1})
    assert found["errors"] == [{"error": "GET /: code=500", "count": 1}]
    said = sessions.summary(found)
    assert "66.7%" in said
    assert "0 kept, 1 broken" in said


# Verdicts

WEIGHTS = {"one": 3, "two": 1, "three": 1}
GOOD = {
    "requests": 1000,
    "failures": 10,
    "rows": [{"name": "GET /", "requests": 1000, "failures": 10, "p50_ms": 5, "p99_ms": None}],
    "servers": {"one": 3000, "two": 1020, "three": 980},
    "sessions_at": {"one": 60, "two": 20, "three": 20},
    "sessions": {"kept": 100, "broken": 0},
    "errors": [],
}
LIMITS = report.Limits(0.01, 0.03)


def missed(weights: dict[str, int] = WEIGHTS, sticky: bool = True, **changes: Any) -> list[str]:
    return [each.must for each in report.judge({**GOOD, **changes}, weights, LIMITS, sticky) if not each.held]


def test_good_figures_hold() -> None:
    assert missed() == []
    assert len(report.judge(GOOD, WEIGHTS, LIMITS, False)) == 2
    even = {"one": 100, "two": 101, "three": 99}
    assert missed({}, False, servers=even) == []


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"failures": 11}, "requests fail"),
        ({"requests": 0, "failures": 0}, "requests fail"),
        ({"servers": {"one": 2600, "two": 1200, "three": 1200}}, "requests follow"),
        ({"servers": {"one": 3750, "two": 1250}}, "requests follow"),
        ({"servers": {"one": 3000, "two": 1000, "three": 1000, "four": 1}}, "requests follow"),
        ({"servers": {}}, "requests follow"),
        ({"sessions_at": {"one": 20, "two": 60, "three": 20}}, "new sessions follow"),
        ({"sessions": {"kept": 99, "broken": 1}}, "every session"),
    ],
)
def test_what_is_missed_is_told(changes: dict[str, Any], word: str) -> None:
    (found,) = missed(**changes)
    assert word in found


def test_visitors_with_carts_must_have_come() -> None:
    assert [each.split(" ")[:2] for each in missed(sessions_at={})] == [["new", "sessions"], ["every", "session"]]


def test_a_few_requests_may_stray_by_chance_and_many_may_not() -> None:
    assert report.allowed(0.5, 100, 0.03) == pytest.approx(0.15)
    assert report.allowed(0.5, 1_000_000, 0.03) == 0.03


def test_the_report_tells_shares_errors_and_verdicts_and_stands_in_the_page() -> None:
    errors = [{"error": f"GET /{place}: <b>", "count": 9 - place} for place in range(9)]
    said = report.told({**GOOD, "errors": errors}, WEIGHTS, report.judge(GOOD, WEIGHTS, LIMITS, True))
    assert re.search(r"one +60\.0% +60\.0% +60\.0%", said)
    assert "9 × GET /0" in said
    assert "and 1 other kinds of errors" in said
    page = report.page('<script>"<body>"</script><body>\n<div></div></body>', said)
    assert page.index("<pre") > page.index("</script>")
    assert "<b>" not in page
    assert report.page("no page", said) == "no page"


# The command


@pytest.mark.parametrize(
    "argv",
    [
        ["--users", "0"],
        ["--seconds", "3601"],
        ["--errors", "2"],
        ["--weights", "one"],
        ["--weights", "one=1,one=2"],
        ["--weights", 'o"=1'],
        ["--latency", "slow"],
        ["--url", "127.0.0.1:8080"],
        ["--url", "http://127.0.0.1/path"],
        ["--trace", "http://127.0.0.1:4318"],
        ["--trace", 'http://127.0.0.1:4318/"x'],
    ],
)
def test_wrong_options_are_refused(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        bench.parser().parse_args(argv)
    assert refused.value.code == 2
    assert argv[0] in capsys.readouterr().err


def test_options_and_their_defaults() -> None:
    args = bench.parser().parse_args(["--weights", "a=2,b=1", "--trace"])
    assert (args.weights, args.trace, bench.plan_of(args)[:3]) == ({"a": 2, "b": 1}, bench.OWN, (30, 15, 30))
    assert bench.plan_of(bench.parser().parse_args(["--quick", "--users", "5"]))[:3] == (5, 5, 8)
    assert bench.parser().parse_args(["--trace", "http://h:4318/v1/traces"]).trace == "http://h:4318/v1/traces"


@pytest.mark.parametrize("trace", ["", "http://127.0.0.1:4318/v1/traces"])
def test_the_routers_file_is_sound(trace: str, tmp_path: Path) -> None:
    text = house.configuration(8080, {"one": 9001, "two": 9002}, WEIGHTS, "round_robin", trace)
    config, source = parse(text, "router.toml", "toml", tmp_path, {})
    made = prepare(config, source, tmp_path)
    assert [[each.weight for each in pool.endpoints] for pool in config.pools] == [[3, 1], [3, 1]]
    assert [route.pool for route in config.routes] == ["carts", "shop"]
    assert made.parts["carts"].affinity is not None
    assert made.parts["shop"].affinity is None
    assert len(made.observers) == bool(trace)


def test_an_environment_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(procs.BenchError, match="leave --no-install out"):
        house.prepared(tmp_path / "none", install=False)


def test_an_environment_is_known_by_its_versions(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").touch()
    (tmp_path / ".installed").write_text(hashlib.sha256(house.CONSTRAINTS.read_bytes()).hexdigest())
    assert house.prepared(tmp_path, install=False) == tmp_path / "bin" / "python"
    (tmp_path / ".installed").write_text("older")
    with pytest.raises(procs.BenchError):
        house.prepared(tmp_path, install=False)


def test_a_router_that_does_not_answer_is_told() -> None:
    port = procs.free_ports(1)[0]
    with pytest.raises(procs.BenchError, match="does not answer"):
        house.visited(f"http://127.0.0.1:{port}", {})


async def test_the_visitors_suit_the_target() -> None:
    async def demo(_request: web.BaseRequest) -> web.Response:
        return web.Response(text="server one answers GET /\n")

    async def other(_request: web.BaseRequest) -> web.Response:
        return web.Response(text="hello")

    async with serving() as (shop, _), RawTestServer(demo) as shown, RawTestServer(other) as silent:
        urls = [str(server.make_url("/")) for server in (shop, shown, silent)]
        found = [await asyncio.to_thread(house.visited, url, {}) for url in urls[:2]]
        assert [each.users for each in found] == [house.SHOP, house.PLAIN]
        with pytest.raises(procs.BenchError, match="which server"):
            await asyncio.to_thread(house.visited, urls[2], {})


def test_the_visitors_of_the_locustfile_are_those_that_are_asked_for() -> None:
    tree = ast.parse((LOADTESTS / "locustfile.py").read_text())
    made = {
        node.name: [ast.unparse(base) for base in node.bases] for node in tree.body if isinstance(node, ast.ClassDef)
    }
    assert {name for name, bases in made.items() if bases == ["Shopper"]} == set(house.SHOP)
    assert set(house.PLAIN) < set(house.SHOP)
    # Methods of locust's own that a task would hide.
    tasks = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.decorator_list}
    assert tasks & {"start", "stop", "run", "wait", "client", "host"} == set()


def test_every_version_of_the_environment_is_exact() -> None:
    lines = [line for line in house.CONSTRAINTS.read_text().splitlines() if not line.startswith("#")]
    assert [line for line in lines if not re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.]*", line)] == []
    assert lines == sorted(lines, key=lambda line: line.partition("==")[0].lower())
    assert set(house.PACKAGES) <= {line.partition("==")[0] for line in lines}


def has_locust() -> bool:
    try:
        house.prepared(house.DEFAULT_VENV.expanduser(), install=False)
    except procs.BenchError:
        return False
    return True


@pytest.mark.skipif(not has_locust(), reason="needs what `make load` installs")
def test_a_short_load(tmp_path: Path) -> None:
    router = f"{sys.executable} -m router"
    little = ["--seconds", "2", "--users", "8", "--rate", "50", "--server-errors", "0%", "--latency", "fixed:2ms"]
    words = [
        *little,
        "--weights",
        "one=2,two=1",
        "--no-install",
        "--router",
        router,
        "--report",
        str(tmp_path),
        "--trace",
    ]
    done = subprocess.run(
        [sys.executable, str(LOADTESTS / "load.py"), *words], capture_output=True, text=True, timeout=55
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(re.findall(r"^ok ", done.stdout, re.MULTILINE)) == 6
    assert "  locust: " in done.stdout
    assert {"report.html", "load_stats.csv", "figures.json"} <= {file.name for file in tmp_path.iterdir()}
