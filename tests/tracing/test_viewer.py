"""What the page of traces is served from, and how: the bounded store, the answers, and who may not have them."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import logging
import random
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, closing
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from router_tracing import store as store_module
from router_tracing import viewer as viewer_module
from router_tracing.address import Address, read_address
from router_tracing.answers import Answers, in_pieces
from router_tracing.options import TracingOptions
from router_tracing.sender import size_of
from router_tracing.span import Event
from router_tracing.store import Store
from router_tracing.tracing import Tracing
from router_tracing.viewer import Viewer

from router import Tools

_spec = importlib.util.spec_from_file_location("tracing_samples", Path(__file__).with_name("samples.py"))
assert _spec
assert _spec.loader
samples = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(samples)

request, attempt, retried, MS, BEGAN = (
    samples.request,
    samples.attempt,
    samples.retried,
    samples.MS,
    samples.BEGAN,
)
PAGE = Path(viewer_module.__file__).with_name("page")


def spans_of(store: Store) -> list[Any]:
    return [span for spans in store.traces() for span in spans]


def ids(store: Store) -> list[int]:
    return [int(summary.id, 16) for summary in store.summaries()]


# The store


def test_the_newest_trace_stands_first_and_the_oldest_goes() -> None:
    store = Store(traces=3)
    for number in (1, 2, 3, 4):
        assert store.export(request(number)) == ("taken", "")
    assert ids(store) == [4, 3, 2]
    assert store.trace(f"{1:032x}") == ([], 0)
    assert [int(span.trace_id, 16) for span in spans_of(store)] == [4, 3, 2]


def test_a_trace_that_goes_on_is_new_again() -> None:
    store = Store(traces=2)
    for number in (1, 2, 1, 3):
        store.export(request(number))
    assert ids(store) == [3, 1]
    assert len(store.trace(f"{1:032x}")[0]) == 2


def test_the_bytes_are_bounded() -> None:
    store = Store(size=200_000)
    for number in range(100):
        store.export(request(number, "/" + "a" * 10_000))
    assert 10 < len(ids(store)) < 20
    assert size_of(spans_of(store)) <= 200_000
    assert ids(store)[0] == 99


@pytest.mark.parametrize("path", ["/", "/" + "a" * 5_000])
def test_one_trace_id_for_ever_takes_its_share_and_pushes_nobody_out(path: str) -> None:
    store = Store(size=1_000_000)
    store.export(request(1))
    for _ in range(1000):
        store.export(request(2, path))
    assert ids(store) == [2, 1]
    kept, lost = store.trace(f"{2:032x}")
    assert len(kept) + lost == 1000
    assert len(kept) <= 256
    assert size_of(kept) <= 1_000_000 / 8


def test_a_span_that_is_too_large_for_a_share_is_kept_if_there_is_room() -> None:
    store = Store(size=100_000)
    store.export(request(1, "/" + "a" * 50_000))
    assert ids(store) == [1]
    store.export(request(2, "/" + "a" * 200_000))
    assert ids(store) == []


def test_spans_stand_by_their_starts() -> None:
    store = Store()
    spans = retried(1)
    store.export(spans[::-1])
    assert store.trace(f"{1:032x}")[0] == spans
    assert spans_of(store) == spans


def test_a_summary_tells_the_latest_request_and_what_marks_the_trace() -> None:
    store = Store()
    store.export(retried(1, "/slow"))
    (summary,) = store.summaries()
    assert summary.id == f"{1:032x}"
    assert (summary.method, summary.path, summary.route, summary.pool) == ("GET", "/slow", "web", "web")
    assert (summary.status, summary.endpoints, summary.requests) == (200, ("two", "one"), 1)
    assert (summary.start, summary.duration) == (BEGAN // 1000, 4_000_000)
    assert (summary.retried, summary.hedged, summary.kept, summary.error) == (True, False, "", "")


def test_marks_of_a_summary() -> None:
    store = Store()
    hedge = attempt(1, "two", 1, 2, lb__hedge=True)
    store.export(request(1, "/", attempt(0, "one", 0, 3, lb__outcome="neutral"), hedge))
    store.export(request(2, "/", status=503, error="nothing_ready", more=(("lb.kept", "errors"),)))
    store.export(request(3, "/", attempt(0, "one", 0, 5, 0), status=0))
    third, second, first = store.summaries()
    assert (first.hedged, first.retried) == (True, False)
    assert (second.error, second.kept, second.endpoints) == ("nothing_ready", "errors", ())
    assert (third.status, third.error) == (0, "")


def test_attempts_without_their_request_are_shown_too() -> None:
    store = Store()
    store.export(retried(1)[1:])
    (summary,) = store.summaries()
    assert (summary.requests, summary.retried) == (0, True)


def test_it_is_filled_and_read_from_several_threads() -> None:
    store, errors = Store(traces=20), []

    def run(first: int, work: Any) -> None:
        try:
            for number in range(first, first + 150):
                work(number)
        except Exception as error:
            errors.append(error)

    def read(_: int) -> None:
        for summary in store.summaries():
            store.trace(summary.id)
        spans_of(store)

    works = [(0, lambda n: store.export(retried(n))), (1000, lambda n: store.export(request(n))), (0, read), (0, read)]
    threads = [threading.Thread(target=run, args=work) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert errors == []
    assert len(ids(store)) == 20
    assert store.version == 300


def test_the_size_is_right_after_any_history() -> None:
    rng, store = random.Random(5), Store(traces=7, size=60_000)
    for _ in range(500):
        store.export(request(rng.randrange(20), "/" + "a" * rng.randrange(3000)))
        assert store._size == sum(size_of((span,)) for span in spans_of(store)) <= 60_000


def test_nothing_is_summed_up_sized_or_sorted_under_the_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    store, seen = Store(), []

    def unlocked(name: str) -> None:
        work = getattr(store_module, name)

        def watched(*arguments: Any) -> Any:
            seen.append((name, store._lock.locked()))
            return work(*arguments)

        monkeypatch.setattr(store_module, name, watched)

    for name in ("_summed_up", "_ordered", "size_of"):
        unlocked(name)
    store.export(retried(1) + request(2))
    assert ids(store) == [2, 1]
    assert len(spans_of(store)) == 4
    assert {name for name, _ in seen} == {"_summed_up", "_ordered", "size_of"}
    assert not any(locked for _, locked in seen)


def test_a_summary_is_made_once_and_anew_when_the_trace_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    store, made, sum_up = Store(), [], store_module._summed_up

    def summed_up(trace_id: str, spans: Any) -> Any:
        made.append(trace_id)
        if len(made) == 2:
            # Meanwhile.
            store.export(request(2))
        return sum_up(trace_id, spans)

    monkeypatch.setattr(store_module, "_summed_up", summed_up)
    for number in (1, 2, 3):
        store.export(request(number))
    assert [summary.requests for summary in store.summaries()] == [1, 1, 1]
    assert len(made) == 3
    assert {int(summary.id, 16): summary.requests for summary in store.summaries()} == {1: 1, 2: 2, 3: 1}
    assert len(made) == 4
    list(store.summaries())
    assert len(made) == 4


def test_what_goes_while_the_list_is_read_is_left_out() -> None:
    store = Store(traces=2)
    store.export(request(1) + request(2))
    listed, traces = store.summaries(), store.traces()
    assert int(next(listed).id, 16) == int(next(traces)[0].trace_id, 16) == 2
    store.export(request(3) + request(4))
    assert list(listed) == list(traces) == []


# Its address


@pytest.mark.parametrize(
    ("text", "address", "url"),
    [
        ("127.0.0.1:16687", Address("127.0.0.1", 16687), "http://127.0.0.1:16687/"),
        ("localhost:1", Address("localhost", 1), "http://localhost:1/"),
        ("[::1]:80", Address("::1", 80), "http://[::1]:80/"),
        (":8080", Address("", 8080), "http://127.0.0.1:8080/"),
        ("0.0.0.0:0", Address("0.0.0.0", 0), "http://127.0.0.1:0/"),
        ("[::]:7", Address("::", 7), "http://[::1]:7/"),
        ("Traces.Example:65535", Address("traces.example", 65535), "http://traces.example:65535/"),
    ],
)
def test_addresses(text: str, address: Address, url: str) -> None:
    assert read_address(text) == address
    assert read_address(text).url == url


NO_ADDRESSES = """
    127.0.0.1 16687 127.0.0.1: 127.0.0.1:x 127.0.0.1:65536 127.0.0.1:-1 ::1:80 [x]:80 http://127.0.0.1:80 unix:/run/x
    [::1] [::1:80 -:1 \u0661:\u0661 a..b:1 .:1 a.:1 [127.0.0.1]:80
"""


@pytest.mark.parametrize("text", ["", "a b:80", "a\n:80", *NO_ADDRESSES.split()])
def test_no_addresses(text: str) -> None:
    with pytest.raises(ValueError, match=r"write host:port, such as \"127\.0\.0\.1:16687\""):
        read_address(text)


def test_reading_an_address_takes_no_time_however_it_is_written() -> None:
    with pytest.raises(ValueError, match="host:port"):
        read_address("a." * 50_000 + "!:80")


@pytest.mark.parametrize(
    ("host", "named"),
    [
        *(("127.0.0.1:1", True), ("127.0.0.1", True), ("localhost:99", True), ("LOCALHOST", True), ("[::1]:1", True)),
        *(("a.localhost", True), ("10.1.2.3:80", True), ("traces.example:1", True), ("[::1]", True)),
        *(("evil.example", False), ("127.0.0.1.evil.example", False), ("", False), (":1", False), ("[x]", False)),
        *(("localhost.evil.example", False), ("evil.example:127.0.0.1", False), ("xlocalhost", False)),
        *(("evil@localhost", False), ("traces.example.evil:1", False)),
    ],
)
def test_which_hosts_are_its_own(host: str, named: bool) -> None:
    assert Address("traces.example", 1).is_named_by(host) is named


# The server


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
async def viewer(store: Store) -> AsyncIterator[Viewer]:
    made = Viewer(store, "127.0.0.1:0", lambda: {"service.instance.id": "7", "service.name": "edge"})
    await made.start()
    yield made
    await made.close()


async def ask(viewer: Viewer, path: str, method: str = "GET", **headers: str) -> tuple[int, bytes, dict[str, str]]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, f"{viewer.url.rstrip('/')}{path}", headers=named) as response,
    ):
        return response.status, await response.read(), {name.lower(): v for name, v in response.headers.items()}


async def raw(viewer: Viewer, request: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", int(viewer.url.rstrip("/").rpartition(":")[2]))
    writer.write(request)
    try:
        return await asyncio.wait_for(reader.read(), 10)
    finally:
        writer.close()
        await writer.wait_closed()


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("path", ["/", "/page.js", "/words.js", "/detail.js", "/page.css", "/icon.svg"])
async def test_the_page_may_load_what_is_its_own_and_nothing_else(viewer: Viewer, path: str) -> None:
    status, body, headers = await ask(viewer, path)
    assert (status, body) == (200, (PAGE / (path[1:] or "index.html")).read_bytes())
    kinds = {"js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}
    assert headers["content-type"] == kinds.get(path.rpartition(".")[2], "text/html") + "; charset=utf-8"
    check_safe(headers)


def check_safe(headers: dict[str, str]) -> None:
    policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert {value for name, value in policy.items() if name.endswith("-src")} == {"'none'", "'self'"}
    assert policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert headers["cache-control"] == "no-store"
    assert headers["server"] == "router"
    assert not [name for name in headers if name.startswith("access-control-")]


async def test_the_list(viewer: Viewer, store: Store) -> None:
    store.export(request(1, "/<b>"))
    store.export(retried(2))
    status, body, headers = await ask(viewer, "/api/traces", Origin="http://evil.example")
    assert status == 200
    check_safe(headers)
    second, first = json.loads(body)["traces"]
    assert (first["path"], first["endpoints"], second["endpoints"]) == ("/<b>", [], ["two", "one"])
    tag = headers["etag"]
    status, body, headers = await ask(viewer, "/api/traces", If_None_Match=tag)
    assert (status, body, headers["etag"]) == (304, b"", tag)
    store.export(request(3))
    status, _, headers = await ask(viewer, "/api/traces", If_None_Match=tag)
    assert status == 200
    assert headers["etag"] != tag


async def test_another_process_has_other_tags(viewer: Viewer) -> None:
    other = Viewer(Store(), "127.0.0.1:0")
    await other.start()
    try:
        tags = [(await ask(one, "/api/traces"))[2]["etag"] for one in (viewer, other)]
    finally:
        await other.close()
    assert tags[0] != tags[1]


async def test_one_trace(viewer: Viewer, store: Store) -> None:
    event = Event(BEGAN + 2_500_000, "queued", (("lb.pool", "web"),))
    store.export(request(1, "/a", attempt(0, "one", 1, 2), events=(event,), parent="a" * 16))
    status, body, _ = await ask(viewer, f"/api/traces/{1:032x}")
    trace = json.loads(body)
    assert status == 200
    assert (trace["id"], trace["lost"], len(trace["spans"])) == (f"{1:032x}", 0, 2)
    server, client = trace["spans"]
    assert (server["kind"], server["parent"], server["remote"], server["error"]) == ("server", "a" * 16, True, None)
    assert (server["start"], server["duration"]) == (BEGAN // 1000, 10_000)
    assert server["events"] == [{"at": 2500, "name": "queued", "attributes": {"lb.pool": "web"}}]
    assert server["attributes"]["url.path"] == "/a"
    assert (client["kind"], client["parent"]) == ("client", server["id"])
    assert client["attributes"]["lb.endpoint"] == "one"


async def test_the_file_for_jaeger_holds_all_traces_or_one(viewer: Viewer, store: Store) -> None:
    store.export(request(1))
    store.export(retried(2))
    status, body, headers = await ask(viewer, "/traces.json")
    content = json.loads(body)["data"]
    assert status == 200
    assert headers["content-disposition"] == 'attachment; filename="traces.json"'
    assert [(trace["traceID"], len(trace["spans"])) for trace in content] == [(f"{2:032x}", 3), (f"{1:032x}", 1)]
    assert content[0]["processes"]["p1"] == {
        "serviceName": "edge",
        "tags": [{"key": "service.instance.id", "type": "string", "value": "7"}],
    }
    _, body, headers = await ask(viewer, f"/traces.json?trace={1:032x}")
    assert [trace["traceID"] for trace in json.loads(body)["data"]] == [f"{1:032x}"]
    assert headers["content-disposition"] == f'attachment; filename="trace-{1:032x}.json"'


@pytest.mark.parametrize(
    "path",
    [
        *("/nothing", "/page", "/page.js/", "//page.js", "/index.html", "/..%2f..%2f__init__.py"),
        *("/api/traces/", f"/api/traces/{7:032x}", "/api/traces/%22%3E", "/traces.json?trace=x"),
    ],
)
async def test_what_is_not_there(viewer: Viewer, store: Store, path: str) -> None:
    store.export(request(1))
    status, body, headers = await ask(viewer, path)
    assert status == 404
    assert headers["content-type"] == "text/plain; charset=utf-8"
    assert body.decode().startswith(("There is no such page", "This trace is not kept"))
    check_safe(headers)


@pytest.mark.parametrize("method", ["POST", "HEAD", "OPTIONS", "DELETE", "TRACE"])
async def test_it_can_only_be_read(viewer: Viewer, method: str) -> None:
    status, _, headers = await ask(viewer, "/api/traces", method)
    assert (status, headers["allow"]) == (405, "GET")
    check_safe(headers)


@pytest.mark.parametrize("path", ["/", "/api/traces", "/traces.json", "/nothing"])
async def test_a_name_that_points_here_gets_nothing(viewer: Viewer, store: Store, path: str) -> None:
    """DNS rebinding: a page of evil.example whose name resolves to this machine."""
    store.export(request(1))
    status, body, headers = await ask(viewer, path, Host="evil.example:16687")
    assert status == 403
    assert body.decode() == f"This page goes by its address alone: open {viewer.url}\n"
    check_safe(headers)


@pytest.mark.parametrize("hosts", [b"", b"Host: 127.0.0.1\r\nHost: evil.example\r\n", b"Host:\r\n"])
async def test_a_request_names_one_host(viewer: Viewer, hosts: bytes) -> None:
    answer = await raw(viewer, b"GET /api/traces HTTP/1.1\r\n" + hosts + b"Connection: close\r\n\r\n")
    assert answer.split()[1] in (b"400", b"403")
    assert b"traces" not in answer


@pytest.mark.parametrize(
    "rubbish", [b"\x16\x03\x01\x02\x00\x01\xfc\r\n\r\n", b"GET / HTTP/9 <secret>\r\n\r\n", b"\r\n"]
)
async def test_rubbish_never_reaches_a_log(viewer: Viewer, rubbish: bytes, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    answer = await raw(viewer, rubbish + b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    assert answer.split()[1] in (b"400", b"200")
    assert not [record for record in caplog.records if "secret" in record.getMessage() or record.exc_info]


async def test_a_fault_of_its_own_is_one_line_and_no_traceback(
    viewer: Viewer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Store, "summaries", lambda self: 1 / 0)
    status, body, _ = await ask(viewer, "/api/traces")
    assert (status, body) == (500, b"The page failed; the router's log says how.\n")
    errors = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert [record.getMessage() for record in errors] == ["the page of traces failed: ZeroDivisionError"]


async def test_texts_that_json_cannot_hold_are_shown_all_the_same(viewer: Viewer, store: Store) -> None:
    store.export(request(1, "/\udcff", error="\udcff", more=(("a", float("nan")),)))
    for path in ("/api/traces", f"/api/traces/{1:032x}", "/traces.json"):
        status, body, _ = await ask(viewer, path)
        assert status == 200
        assert b'"/?"' in body


async def test_few_are_served_at_a_time(viewer: Viewer, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = threading.Event()
    monkeypatch.setattr(Store, "summaries", lambda self: gate.wait(10) and [])
    asked = [asyncio.ensure_future(ask(viewer, "/api/traces")) for _ in range(20)]
    await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
    await until(lambda: sum(task.done() for task in asked) >= 12)
    assert {task.result()[0] for task in asked if task.done()} == {503}
    gate.set()
    answers = await asyncio.gather(*asked)
    assert sorted(status for status, _, _ in answers) == [200] * 8 + [503] * 12
    assert all(headers["retry-after"] == "1" for status, _, headers in answers if status == 503)


async def test_idle_connections_keep_nobody_out(viewer: Viewer) -> None:
    def count() -> int:
        return len(viewer._http.connections) if viewer._http is not None else 0

    port = int(viewer.url.rstrip("/").rpartition(":")[2])
    async with AsyncExitStack() as stack:
        idle = []
        for _ in range(200):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            stack.callback(writer.close)
            idle.append(reader)
        await until(lambda: count() == 64)
        assert (await ask(viewer, "/"))[0] == 200
        assert await asyncio.wait_for(idle[0].read(), 10) == b""
        assert not idle[-1].at_eof()
    await until(lambda: count() == 0)


# Readers that take their time


class Slow:
    """Asks and reads nothing."""

    def __init__(self, viewer: Viewer, path: str) -> None:
        self.sock = socket.socket()
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.sock.connect(("127.0.0.1", int(viewer.url.rstrip("/").rpartition(":")[2])))
        self.sock.setblocking(False)
        self.sock.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())

    async def head(self) -> bytes:
        """The answer's first line, and fields."""
        return await asyncio.wait_for(asyncio.get_running_loop().sock_recv(self.sock, 2000), 10)

    async def rest(self) -> bytes:
        found = b""
        async with asyncio.timeout(10):
            while True:
                try:
                    data = await asyncio.get_running_loop().sock_recv(self.sock, 1 << 16)
                except ConnectionResetError:
                    return found
                if not data:
                    return found
                found += data


@pytest.fixture
def full(store: Store) -> Store:
    """Some 8 MB."""
    for number in range(400):
        store.export(request(number, "/" + "a" * 20_000))
    return store


async def test_few_download_at_a_time_and_the_page_goes_on(viewer: Viewer, full: Store) -> None:
    slow = [Slow(viewer, "/traces.json") for _ in range(8)]
    heads = [await each.head() for each in slow]
    assert sorted(head.split()[1] for head in heads) == [b"200"] * 2 + [b"503"] * 6
    assert all(b"Retry-After: 1\r\n" in head for head in heads if b" 503 " in head)
    for path in ("/", "/page.js", f"/api/traces/{7:032x}"):
        assert (await ask(viewer, path))[0] == 200
    for each in slow:
        each.sock.close()
    await until(lambda: not viewer._under_way["file"])
    status, body, _ = await ask(viewer, "/traces.json")
    assert (status, len(json.loads(body)["data"])) == (200, 400)


async def test_what_a_slow_reader_has_not_taken_is_not_made_yet(
    viewer: Viewer, full: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, trace = [], Store.trace
    monkeypatch.setattr(Store, "trace", lambda self, trace_id: made.append(trace_id) or trace(self, trace_id))
    slow = Slow(viewer, "/traces.json")
    await slow.head()
    seen = -1
    while seen != len(made):
        seen = len(made)
        await asyncio.sleep(0.1)
    # The system's buffers hold up to some megabytes of it.
    assert 0 < seen < 390
    slow.sock.close()


@pytest.mark.parametrize("path", ["/traces.json", f"/api/traces/{1:032x}", "/api/traces"])
async def test_an_answer_that_is_left_unread_is_given_up(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, path: str
) -> None:
    # More than the system's buffers take, as a list and as one trace.
    store = Store(size=1 << 30)
    for number in range(250):
        store.export(request(number, "/" + "a" * 50_000) + request(1, "/" + "a" * 50_000))
    viewer = Viewer(store, "127.0.0.1:0")
    await viewer.start()
    monkeypatch.setattr(viewer_module, "_READING", 0.5)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(viewer.close)
        slow = [Slow(viewer, path) for _ in range(2)]
        for each in slow:
            stack.callback(each.sock.close)
            await each.head()
        assert viewer._under_way.total() == 2
        await until(lambda: not viewer._under_way.total())
        assert not (await slow[0].rest()).endswith(b"0\r\n\r\n")
        monkeypatch.undo()
        for other in ("/", f"/traces.json?trace={2:032x}"):
            assert (await ask(viewer, other))[0] == 200
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_half_an_answer_is_followed_by_no_other(
    viewer: Viewer, full: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    made, trace = [], Store.trace

    def failing(self: Store, trace_id: str) -> Any:
        made.append(trace_id)
        return trace(self, trace_id) if len(made) < 50 else 1 / 0

    monkeypatch.setattr(Store, "trace", failing)
    answer = await raw(viewer, b"GET /traces.json HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    assert answer.count(b"HTTP/1.1") == 1
    assert not answer.endswith(b"0\r\n\r\n")
    errors = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert errors == ["the page of traces failed: ZeroDivisionError"]


def test_no_piece_is_longer_than_a_span_and_a_turn(store: Store) -> None:
    for number in range(40):
        store.export(request(number, "/" + "a" * 3_000))
    for _ in range(100):
        store.export(request(1, "/" + "a" * 3_000))
    answers = Answers(store, dict)
    for parts in (answers.file(), answers.file(f"{1:032x}"), answers.trace(f"{1:032x}"), answers.listed()):
        pieces = list(in_pieces(parts))
        assert json.loads(b"".join(pieces))
        assert len(pieces) > 1
        assert max(map(len, pieces)) < 32 * 1024 + 4_000


@pytest.mark.parametrize("path", ["/api/traces", f"/api/traces/{1:032x}", f"/traces.json?trace={1:032x}"])
async def test_the_loop_never_waits_for_whoever_holds_the_store(viewer: Viewer, store: Store, path: str) -> None:
    store.export(request(1))
    held, gate, freed = threading.Event(), threading.Event(), []

    def hold() -> None:
        with store._lock:
            held.set()
            freed.append(gate.wait(5))

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait(10)
    asked = asyncio.ensure_future(ask(viewer, path))
    await until(lambda: bool(viewer._under_way.total()))
    await asyncio.sleep(0.05)
    gate.set()
    assert (await asked)[0] == 200
    holder.join(10)
    assert freed == [True]


async def test_the_file_for_jaeger_tells_what_the_environment_says_of_the_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=shop%20one,service.name=edge")
    tools = Tools(time.monotonic, random.Random(1), Path())
    made = Tracing(TracingOptions(export="none", viewer="127.0.0.1:0"), tools)
    await made.start(None)  # type: ignore[arg-type]
    try:
        made._senders[0]._exporter.export(request(1))  # type: ignore[arg-type]
        _, body, _ = await ask(made._viewer, "/traces.json")
    finally:
        await made.close()
    process = json.loads(body)["data"][0]["processes"]["p1"]
    assert process["serviceName"] == "edge"
    tags = {tag["key"]: tag["value"] for tag in process["tags"]}
    assert tags["deployment.environment.name"] == "shop one"
    assert "service.name" not in tags


def test_lists_among_what_is_known_of_the_process_are_shown_as_json(store: Store) -> None:
    store.export(request(1))
    known = {"process.command_args": ("router", "run"), "host.cpus": 4, "container": True}
    (trace,) = json.loads(b"".join(Answers(store, lambda: known).file()))["data"]
    assert trace["processes"]["p1"] == {
        "serviceName": "router",
        "tags": [
            {"key": "process.command_args", "type": "string", "value": '["router","run"]'},
            {"key": "host.cpus", "type": "int64", "value": 4},
            {"key": "container", "type": "bool", "value": True},
        ],
    }


# Its life


async def test_a_taken_address_is_said_with_the_way_out() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        bind = f"127.0.0.1:{taken.getsockname()[1]}"
        viewer = Viewer(Store(), bind)
        with pytest.raises(
            ValueError, match=rf"cannot listen on {bind}: Address already in use; choose another `viewer`"
        ):
            await viewer.start()
        await viewer.close()


async def test_an_address_of_another_machine_is_said() -> None:
    with pytest.raises(ValueError, match=r"cannot listen on 192\.0\.2\.1:16687: .*choose another"):
        await Viewer(Store(), "192.0.2.1:16687").start()


async def test_the_next_process_of_an_upgrade_comes_in_beside(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    old, new = Store(), Store()
    new.export(request(1))
    first = Viewer(old, "127.0.0.1:0")
    await first.start()
    second = Viewer(new, first.url.removeprefix("http://").rstrip("/"))
    await second.start()
    assert "another router shows traces on" in caplog.text
    await first.close()
    _, body, _ = await ask(second, "/api/traces")
    await second.close()
    assert len(json.loads(body)["traces"]) == 1


async def test_closing_frees_the_address_and_ends_connections(store: Store) -> None:
    viewer = Viewer(store, "127.0.0.1:0")
    await viewer.start()
    port = int(viewer.url.rstrip("/").rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /api/traces HTTP/1.1\r\nHost: localhost\r\n\r\n")
    await reader.readuntil(b"\r\n\r\n")
    await viewer.close()
    await viewer.close()
    with closing(writer):
        await asyncio.wait_for(reader.read(), 10)
    with socket.create_server(("127.0.0.1", port)):
        pass


async def test_a_viewer_that_never_started_can_be_closed(store: Store) -> None:
    viewer = Viewer(store, "127.0.0.1:16687")
    await viewer.close()
    assert viewer.url == "http://127.0.0.1:16687/"


@pytest.mark.parametrize(("bind", "warned"), [("127.0.0.1:0", 0), ("localhost:0", 0), ("0.0.0.0:0", 1), (":0", 1)])
async def test_a_public_address_is_warned_of_once(bind: str, warned: int, caplog: pytest.LogCaptureFixture) -> None:
    viewer = Viewer(Store(), bind)
    await viewer.start()
    await ask(viewer, "/")
    await viewer.close()
    assert len([record for record in caplog.records if record.levelno == logging.WARNING]) == warned
    assert ("whoever reaches this address sees what clients ask for" in caplog.text) is bool(warned)
