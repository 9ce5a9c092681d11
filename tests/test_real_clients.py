"""Clients that people really use through a real `router run`: httpx, requests, curl, websockets and Chromium.

In front of httpbin, each answer is compared with the one that the same request gets without the router between.
"""

from __future__ import annotations

import asyncio
import html
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
import requests
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect as connect_sync

PATIENCE = 20.0
#: The same on both ways, so that what httpbin says of itself is the same too.
HOST = "httpbin.test"

needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
needs_chromium = pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed")


class Site(NamedTuple):
    """Where the servers are, and where the router in front of them is."""

    direct: str
    routed: str
    routed_ws: str


def process(*command: str, **more: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, *command], stdin=subprocess.PIPE, **more)


def ended(running: subprocess.Popen[bytes]) -> None:
    running.kill()
    running.communicate(timeout=PATIENCE)


@pytest.fixture(scope="module")
def site(tmp_path_factory: Any) -> Iterator[Site]:
    servers = process(
        str(Path(__file__).with_name("real_servers.py")), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert servers.stdout is not None
    try:
        http, websocket = servers.stdout.readline().split()
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        file = tmp_path_factory.mktemp("site") / "router.toml"
        file.write_text(
            f'[[listeners]]\nbind = "127.0.0.1:{port}"\n'
            '[[routes]]\npath = "/ws/*"\npool = "websocket"\n[[routes]]\npool = "http"\n'
            f'[[pools]]\nname = "http"\nendpoints = ["http://127.0.0.1:{int(http)}"]\n'
            f'[[pools]]\nname = "websocket"\nendpoints = ["http://127.0.0.1:{int(websocket)}"]\n'
        )
        log = file.with_name("log")
        environment = {**os.environ, "NO_COLOR": "1"}
        with log.open("wb") as out:
            router = process("-m", "router", "run", str(file), stdout=out, stderr=subprocess.STDOUT, env=environment)
        try:
            end = time.monotonic() + PATIENCE
            while "open files" not in log.read_text():
                assert router.poll() is None, log.read_text()
                assert time.monotonic() < end, log.read_text()
                time.sleep(0.02)
            yield Site(f"http://127.0.0.1:{int(http)}", f"http://127.0.0.1:{port}", f"ws://127.0.0.1:{port}")
            assert router.poll() is None
            assert "Traceback" not in log.read_text()
        finally:
            ended(router)
    finally:
        ended(servers)


# What is compared

#: What the router adds to a request, and what belongs to one connection.
ADDED = {"via", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-request-id"}
HOP = {"connection", "expect", "keep-alive", "proxy-authenticate", "te"}
#: Made anew for each answer.
FRESH = {"date", "etag", "last-modified"}


def plain(value: Any) -> Any:
    """What httpbin says of a request, without what legitimately differs."""
    if not isinstance(value, dict):
        return value
    found = {name: plain(item) for name, item in value.items()}
    if isinstance(headers := found.get("headers"), dict):
        found["headers"] = {n: v for n, v in headers.items() if n.lower() not in ADDED | HOP}
    return found


def body_of(content_type: str, body: bytes) -> Any:
    if "json" not in content_type or not body:
        return body
    try:
        return plain(json.loads(body))
    except ValueError:
        return [plain(json.loads(line)) for line in body.splitlines()]


class Answer(NamedTuple):
    status: int
    reason: str
    fields: list[tuple[str, str]]
    body: Any


def answer(status: int, reason: str, fields: Any, body: bytes, method: str) -> Answer:
    """An answer as it can be compared: order, case and duplicates of its fields matter."""
    lower = {name.lower(): value for name, value in fields}
    read = body_of(lower.get("content-type", ""), body)
    about = "headers" in read if isinstance(read, dict) else isinstance(read, list)
    # What tells of a request's fields is longer by those that the router adds.
    left_out = ADDED | HOP | FRESH | ({"content-length"} if about or method == "HEAD" else set())
    kept = [(n, re.sub(r'(nonce|opaque)="\w+"', "", v)) for n, v in fields if n.lower() not in left_out]
    if method != "HEAD" and "content-length" in lower and "content-encoding" not in lower:
        assert len(body) == int(lower["content-length"])
    return Answer(status, reason, kept, read)


class Case(NamedTuple):
    method: str
    target: str
    headers: dict[str, str] = {}
    form: dict[str, str] | None = None
    json: Any = None
    raw: bytes | None = None
    file: bytes | None = None


def get(target: str, **headers: str) -> Case:
    return Case("GET", target, {name.replace("_", "-"): value for name, value in headers.items()})


FORM = {"a": "1", "ä b": "ö&="}
CASES = [
    get("/get?a=1&a=2&b=%C3%BC+x&empty="),
    get("/get", X_Custom="one", Accept_Language="de, en;q=0.5", Cookie="a=1; b=2"),
    get("/get?show=1", TE="trailers", Connection="te", X_Other="stays"),
    get("/headers", X_Empty="", X_Long="l" * 6000),
    get("/ip"),
    get("/user-agent", User_Agent="Somebody/1.0 (of the tests)"),
    Case("POST", "/post", form=FORM),
    Case("POST", "/post", json={"a": [1, 2, {"b": None}], "ü": "ö"}),
    Case("POST", "/post", raw=b"\x00\x01\xff" * 1000),
    Case("POST", "/post", raw=b"x" * (1 << 20), headers={"Content-Type": "application/octet-stream"}),
    Case("POST", "/post", raw=b"waits", headers={"Expect": "100-continue"}),
    Case("POST", "/post", raw=b""),
    Case("POST", "/post", file=b"content of a file\r\n" * 100),
    Case("PUT", "/put", raw=b"put"),
    Case("PATCH", "/patch", json={"patched": True}),
    Case("DELETE", "/delete"),
    Case("DELETE", "/delete", raw=b"with a body"),
    *(Case(method, "/anything/some/thing?x=y") for method in ("GET", "POST", "PUT", "PATCH", "DELETE", "TRACE")),
    get("/anything/a%2Fb"),
    get("/anything/a%20b/%C3%BC//c;d=e,f?q=a/b?c"),
    *(Case("HEAD", target) for target in ("/get", "/html", "/bytes/1000?seed=1", "/status/404", "/gzip", "/stream/3")),
    Case("OPTIONS", "/get", {"Origin": "http://a.example", "Access-Control-Request-Headers": "x-a"}),
    Case("OPTIONS", "/post"),
    Case("POST", "/get"),
    get("/html"),
    get("/xml"),
    get("/json"),
    get("/robots.txt"),
    get("/deny"),
    get("/forms/post"),
    get("/encoding/utf8"),
    get("/gzip"),
    get("/deflate"),
    get("/brotli"),
    get("/base64/SFRUUEJJTiBpcyBhd2Vzb21l"),
    get("/bytes/10240?seed=7"),
    get("/bytes/0?seed=7"),
    get("/stream-bytes/50000?seed=7&chunk_size=999"),
    get("/stream/20"),
    get("/stream/0"),
    get("/drip?duration=0.2&numbytes=20"),
    get("/drip?duration=0.1&numbytes=5&code=206&delay=0.1"),
    get("/delay/0.3"),
    get("/range/1024"),
    get("/range/1024?chunk_size=100", Range="bytes=100-299"),
    get("/range/1024", Range="bytes=-24"),
    get("/range/1024", Range="bytes=2000-"),
    get("/image/png"),
    get("/image/jpeg"),
    get("/image/webp"),
    get("/image/svg"),
    get("/image", Accept="image/webp"),
    get("/image", Accept="text/plain"),
    get("/links/5/2"),
    get("/links/3"),
    get("/redirect/3"),
    get("/relative-redirect/2"),
    get("/absolute-redirect/2"),
    get("/redirect-to?url=http%3A%2F%2Fexample.com%2F&status_code=307"),
    Case("POST", "/redirect-to", form={"url": "/get", "status_code": "308"}),
    get("/cookies", Cookie="a=1; b=two"),
    get("/cookies/set/name/value"),
    get("/cookies/set?a=1&b=2&c=3"),
    get("/cookies/delete?a=&b=", Cookie="a=1; b=2"),
    get("/basic-auth/user/secret", Authorization="Basic dXNlcjpzZWNyZXQ="),
    get("/basic-auth/user/secret"),
    get("/hidden-basic-auth/user/secret"),
    get("/bearer", Authorization="Bearer token"),
    get("/bearer"),
    get("/digest-auth/auth/user/secret"),
    get("/etag/tag"),
    get("/etag/tag", If_None_Match='"tag"'),
    get("/etag/tag", If_Match='"other"'),
    get("/cache"),
    get("/cache", If_Modified_Since="Sat, 01 Jan 2022 00:00:00 GMT"),
    get("/cache/60"),
    get("/response-headers?X-Twice=1&X-Twice=2&Server=other&Set-Cookie=a%3D1"),
    *(get(f"/status/{status}") for status in (200, 201, 204, 206, 304, 400, 401, 402, 404, 406, 407, 410, 418, 429)),
    *(get(f"/status/{status}") for status in (301, 303, 500, 501, 502, 503, 504, 511, 599)),
    Case("POST", "/status/201", raw=b"new"),
    Case("PUT", "/status/409", raw=b"conflict"),
    Case("DELETE", "/status/204"),
    get("/no/such/path"),
]
IDS = [f"{number}-{case.method} {case.target}"[:60] for number, case in enumerate(CASES)]


def test_enough_of_httpbin_is_compared() -> None:
    assert len({case.target.split("?")[0].split("/")[1] for case in CASES}) >= 40
    assert len({(case.method, case.target.split("?")[0]) for case in CASES}) >= 80
    assert {case.method for case in CASES} >= {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"}


# httpx and requests


@pytest.fixture(scope="module")
def with_httpx() -> Iterator[httpx.Client]:
    with httpx.Client(timeout=PATIENCE, trust_env=False) as client:
        yield client


@pytest.fixture(scope="module")
def with_requests() -> Iterator[requests.Session]:
    with requests.Session() as session:
        session.trust_env = False
        yield session


def by_httpx(client: httpx.Client, base: str, case: Case) -> Answer:
    client.cookies.clear()
    headers = {"Host": HOST, **case.headers}
    files = None
    if case.file is not None:
        headers["Content-Type"] = "multipart/form-data; boundary=between"
        files = {"upload": ("name.txt", case.file, "text/plain")}
    found = client.request(
        case.method, base + case.target, headers=headers, data=case.form, json=case.json, content=case.raw, files=files
    )
    return answer(found.status_code, found.reason_phrase, found.headers.multi_items(), found.content, case.method)


def by_requests(session: requests.Session, base: str, case: Case) -> Answer:
    session.cookies.clear()
    prepared = requests.Request(
        case.method,
        base + case.target,
        headers={"Host": HOST, **case.headers},
        data=case.form if case.raw is None else case.raw,
        json=case.json,
        files=None if case.file is None else {"upload": ("name.txt", case.file, "text/plain")},
    ).prepare()
    if case.file is not None:
        between = prepared.headers["Content-Type"].partition("boundary=")[2]
        prepared.body = prepared.body.replace(between.encode(), b"-" * len(between))  # type: ignore[union-attr, arg-type]
        prepared.headers["Content-Type"] = "multipart/form-data; boundary=" + "-" * len(between)
    found = session.send(prepared, allow_redirects=False, timeout=PATIENCE)
    fields = found.raw.headers.items()
    return answer(found.status_code, found.reason, list(fields), found.content, case.method)


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_httpx_sees_what_it_sees_without_the_router(site: Site, with_httpx: httpx.Client, case: Case) -> None:
    routed = by_httpx(with_httpx, site.routed, case)
    assert routed == by_httpx(with_httpx, site.direct, case)


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_requests_sees_what_it_sees_without_the_router(site: Site, with_requests: requests.Session, case: Case) -> None:
    routed = by_requests(with_requests, site.routed, case)
    assert routed == by_requests(with_requests, site.direct, case)


def test_what_the_router_adds(site: Site, with_httpx: httpx.Client) -> None:
    found = with_httpx.get(f"{site.routed}/headers?show_env=1", headers={"Host": HOST, "X-Forwarded-For": "6.6.6.6"})
    headers = found.json()["headers"]
    assert {name.lower() for name in headers} >= ADDED
    assert (headers["X-Forwarded-For"], headers["X-Forwarded-Host"], headers["X-Forwarded-Proto"]) == (
        "127.0.0.1",
        HOST,
        "http",
    )
    assert found.headers["X-Request-ID"] == headers["X-Request-Id"]
    assert "router" in found.headers["Via"]


@pytest.mark.parametrize("kind", ["httpx", "requests"])
def test_redirects_are_followed_through_the_router(site: Site, kind: str) -> None:
    client: Any = httpx.Client(follow_redirects=True, trust_env=False) if kind == "httpx" else requests.Session()
    with client:
        for path in ("/redirect/4", "/absolute-redirect/2", "/relative-redirect/3"):
            found = client.get(site.routed + path, timeout=PATIENCE)
            assert (found.status_code, str(found.url)) == (200, f"{site.routed}/get")
            assert len(found.history) == int(path[-1])


@pytest.mark.parametrize("kind", ["httpx", "requests"])
def test_a_session_keeps_its_cookies(site: Site, kind: str) -> None:
    client: Any = httpx.Client(follow_redirects=True, trust_env=False) if kind == "httpx" else requests.Session()
    with client:
        assert client.get(f"{site.routed}/cookies/set?a=1&b=2", timeout=PATIENCE).json() == {
            "cookies": {"a": "1", "b": "2"}
        }
        client.get(f"{site.routed}/cookies/delete?a=", timeout=PATIENCE)
        assert client.get(f"{site.routed}/cookies", timeout=PATIENCE).json() == {"cookies": {"b": "2"}}


@pytest.mark.parametrize("qop", ["auth", "auth-int"])
def test_digest_authentication(site: Site, with_httpx: httpx.Client, with_requests: requests.Session, qop: str) -> None:
    url = f"{site.routed}/digest-auth/{qop}/user/secret"
    by_session = with_requests.get(url, auth=requests.auth.HTTPDigestAuth("user", "secret"), timeout=PATIENCE)
    assert by_session.status_code == (200 if qop == "auth" else 401)
    if qop == "auth":
        assert with_httpx.get(url, auth=httpx.DigestAuth("user", "secret")).json()["authenticated"] is True
    assert with_httpx.get(url, auth=httpx.DigestAuth("user", "wrong") if qop == "auth" else None).status_code == 401


def test_streams_come_piece_by_piece(site: Site, with_httpx: httpx.Client, with_requests: requests.Session) -> None:
    with with_requests.get(f"{site.routed}/stream/30", stream=True, timeout=PATIENCE) as found:
        assert [json.loads(line)["id"] for line in found.iter_lines()] == list(range(30))
    with with_httpx.stream("GET", f"{site.routed}/stream-bytes/90000?seed=3&chunk_size=1000") as streamed:
        size = sum(len(piece) for piece in streamed.iter_bytes())
    assert size == 90000


def test_server_sent_events_are_not_held_back(site: Site, with_httpx: httpx.Client) -> None:
    """The third one is sent only when the second one has been seen."""
    with with_httpx.stream("GET", f"{site.routed}/page/events?id=httpx") as found:
        assert found.headers["Content-Type"].startswith("text/event-stream")
        seen = []
        for line in found.iter_lines():
            seen += [line] if line else []
            if line == "data: 2":
                assert httpx.get(f"{site.routed}/page/go-on?id=httpx", trust_env=False).status_code == 204
    assert seen == ["data: 1", "data: 2", "data: 3"]


async def test_httpx_with_many_requests_at_once(site: Site) -> None:
    async with httpx.AsyncClient(timeout=PATIENCE, trust_env=False) as client:
        found = await asyncio.gather(*(client.get(f"{site.routed}/anything/{n}?n={n}") for n in range(60)))
    assert [each.json()["args"]["n"] for each in found] == [str(n) for n in range(60)]


def test_an_upgrade_to_anything_else_is_an_ordinary_request(site: Site, with_httpx: httpx.Client) -> None:
    asking = {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": "h2c", "HTTP2-Settings": "AAMAAABkAAQCAAAAAAIAAAAA"}
    found = with_httpx.get(f"{site.routed}/headers?show_env=1", headers=asking)
    assert found.status_code == 200
    assert not {"upgrade", "http2-settings"} & {name.lower() for name in found.json()["headers"]}


# curl

CURLS = {
    "form": ["-d", "a=1&b=x y", "URL/post"],
    "multipart": ["-F", "k=v", "-F", "f=@FILE;filename=f.txt", "URL/post"],
    "upload": ["-T", "FILE", "URL/put"],
    "chunked head": ["-I", "URL/stream/5"],
    "redirects": ["-L", "-w", "%{num_redirects} %{http_code}", "URL/redirect/3"],
    "compressed": ["--compressed", "URL/gzip"],
    "brotli or not": ["--compressed", "URL/brotli"],
    "range": ["-r", "10-19", "URL/range/100"],
    "options": ["-X", "OPTIONS", "-w", "%{http_code} %{content_type}", "URL/get"],
    "digest": ["--digest", "-u", "user:secret", "-w", "%{http_code}", "URL/digest-auth/auth/user/secret"],
    "basic": ["-u", "user:secret", "URL/basic-auth/user/secret"],
    "cookie": ["-b", "a=1; b=2", "URL/cookies"],
    "cookie jar": ["-L", "-c", "-", "-b", "", "URL/cookies/set?x=y"],
    "query": ["-G", "--data-urlencode", "q=ä & /ö", "URL/get"],
    "raw path": ["--path-as-is", "URL/anything/a%2Fb/%2e%2e/c?x"],
    "http 1.0": ["--http1.0", "URL/stream/5"],
    "http 1.0 length": ["--http1.0", "-i", "URL/bytes/100?seed=1"],
    "conditional": ["-w", "%{http_code}", "-H", 'If-None-Match: "t"', "URL/etag/t"],
    "fail": ["-f", "-w", "%{http_code}", "URL/status/503"],
    "drip": ["-N", "URL/drip?duration=0.2&numbytes=10"],
    "several": ["URL/ip", "URL/json", "URL/bytes/10?seed=2"],
}
#: Fields of a head, fields that httpbin tells of, and what is drawn anew: as above, in text.
OF_ITSELF = re.compile(
    rb"(?im)^(date|via|x-request-id|connection|keep-alive|content-length|transfer-encoding): .*\r\n|-{6,}\w+|"
    rb'\s*"(x-forwarded-\w+|via|x-request-id|connection|expect|content-length)": "[^"]*",?'
)


@needs_curl
@pytest.mark.parametrize("name", CURLS)
def test_curl_sees_what_it_sees_without_the_router(site: Site, tmp_path: Path, name: str) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"of a file\n" * 3000)

    def run(base: str) -> tuple[int, bytes]:
        words = [word.replace("URL", base).replace("FILE", str(file)) for word in CURLS[name]]
        # Where it goes is as if there were one server only; nothing of the environment reaches it.
        command = ["curl", "-q", "-sS", "--noproxy", "*", "-m", str(PATIENCE), "-H", f"Host: {HOST}", *words]
        done = subprocess.run(command, capture_output=True, timeout=PATIENCE + 5, check=False)
        said = re.sub(rb",\s*}", b"}", re.sub(rb"\s+}", b"}", OF_ITSELF.sub(b"", done.stdout)))
        # HTTP/1.0 is answered in the version of whoever answers.
        return done.returncode, re.sub(rb"(?m)^HTTP/1\.[01] ", b"HTTP/1.x ", said)

    routed = run(site.routed)
    assert routed == run(site.direct)
    assert routed[0] == (22 if name == "fail" else 0)
    assert routed[1]


# WebSocket


@asynccontextmanager
async def socket_to(site: Site, path: str, **more: Any) -> AsyncIterator[ClientConnection]:
    more = {"max_size": None, "proxy": None, "open_timeout": PATIENCE, "ping_interval": None, **more}
    async with asyncio.timeout(PATIENCE), connect(site.routed_ws + path, **more) as made:
        yield made


async def end_of(site: Site, name: str) -> list[Any]:
    """How the server saw the connection of this id end: code, reason."""
    async with socket_to(site, f"/ws/ended?of={name}") as asking:
        found: list[Any] = json.loads(await asking.recv())
        return found


@pytest.mark.parametrize("compression", [None, "deflate"])
async def test_websocket_echoes(site: Site, compression: str | None) -> None:
    messages: list[Any] = [
        "",
        "text",
        "ünïcödé 🎉",
        b"",
        b"\x00\xff" * 100,
        "a" * 125,
        "b" * 126,
        "c" * 65535,
        b"d" * 65536,
    ]
    messages += ["m" * (1 << 20), os.urandom(1 << 20)]
    async with socket_to(site, "/ws/echo", compression=compression) as echo:
        assert ("permessage-deflate" in echo.response.headers.get("Sec-WebSocket-Extensions", "")) is bool(compression)
        for message in messages:
            await echo.send(message)
            assert await echo.recv() == message


async def test_websocket_fragments_stay_fragments(site: Site) -> None:
    async with socket_to(site, "/ws/fragments", compression=None) as told:
        # The library ends a fragmented message with an empty frame.
        assert [piece async for piece in told.recv_streaming()] == ["one ", "two ", "three", ""]
    async with socket_to(site, "/ws/count-fragments", compression=None) as telling:
        await telling.send([b"a" * size for size in (1, 2000, 300000, 0)])
        assert await telling.recv() == "5"
    async with socket_to(site, "/ws/echo") as echo:
        await echo.send(["x" * 1000] * 50)
        assert await echo.recv() == "x" * 50000


async def test_websocket_pings_from_both_sides(site: Site) -> None:
    async with socket_to(site, "/ws/echo") as echo:
        assert await (await echo.ping(b"there?")) >= 0
        await echo.pong(b"unasked")
        await echo.send("after")
        assert await echo.recv() == "after"
    async with socket_to(site, "/ws/ping") as asked:
        assert await asked.recv() == "answered"


@pytest.mark.parametrize(
    ("offered", "chosen"), [(["other", "chat"], "chat"), (["superchat"], "superchat"), (["other"], None), (None, None)]
)
async def test_websocket_subprotocols(site: Site, offered: Any, chosen: str | None) -> None:
    async with socket_to(site, "/ws/echo", subprotocols=offered) as echo:
        assert echo.subprotocol == chosen


@pytest.mark.parametrize(("code", "reason"), [(1000, ""), (1001, "going"), (4002, "enough ü"), (3999, "r" * 123)])
async def test_websocket_client_closes_first(site: Site, code: int, reason: str) -> None:
    name = f"closing-{code}"
    async with socket_to(site, f"/ws/echo?id={name}") as echo:
        await echo.send("hello")
        assert await echo.recv() == "hello"
        await echo.close(code, reason)
        assert (echo.close_code, echo.close_reason) == (code, reason)
    assert await end_of(site, name) == [code, reason]


@pytest.mark.parametrize(("code", "reason"), [(1000, ""), (1011, "trouble"), (4001, "over")])
async def test_websocket_server_closes_first(site: Site, code: int, reason: str) -> None:
    async with socket_to(site, f"/ws/close?code={code}&reason={reason}&id=server-{code}") as closed:
        with pytest.raises(ConnectionClosed):
            await closed.recv()
        await closed.wait_closed()
        assert (closed.close_code, closed.close_reason) == (code, reason)
    assert await end_of(site, f"server-{code}") == [code, reason]


async def test_websocket_client_vanishes(site: Site) -> None:
    async with socket_to(site, "/ws/echo?id=vanished") as echo:
        await echo.send("x")
        await echo.recv()
        echo.transport.abort()
    assert await end_of(site, "vanished") == [1006, ""]


async def test_websocket_server_vanishes(site: Site) -> None:
    async with socket_to(site, "/ws/vanish") as left:
        assert await left.recv() == "last words"
        with pytest.raises(ConnectionClosed):
            await left.recv()
        assert left.close_code == 1006


async def test_websocket_fifty_at_once(site: Site) -> None:
    all_open = asyncio.Barrier(50)

    async def talk(number: int) -> int:
        async with socket_to(site, f"/ws/echo?n={number}") as echo:
            await all_open.wait()
            for turn in range(20):
                await echo.send(f"{number} {turn}")
                assert await echo.recv() == f"{number} {turn}"
        return number

    assert await asyncio.gather(*(talk(number) for number in range(50))) == list(range(50))


async def test_websocket_a_slow_reader_gets_all(site: Site) -> None:
    """256 messages of 64 KiB, of which nothing is read until the server has had to wait."""
    async with socket_to(site, "/ws/push?count=256", compression=None, max_queue=1) as pushed:
        await asyncio.sleep(0.2)
        for number in range(256):
            assert await pushed.recv() == number.to_bytes(4, "big") * (16 << 10)


async def test_websocket_uploads_while_downloading(site: Site) -> None:
    message = os.urandom(128 << 10)
    async with socket_to(site, "/ws/echo", compression=None) as echo:

        async def say() -> None:
            for _ in range(60):
                await echo.send(message)

        saying = asyncio.create_task(say())
        for _ in range(60):
            assert await echo.recv() == message
        await saying


async def test_websocket_heads_of_both_sides(site: Site) -> None:
    more = {"Cookie": "c=1", "X-Custom": "kept", "X-Forwarded-For": "6.6.6.6"}
    async with socket_to(site, "/ws/headers", origin="http://a.example", additional_headers=more) as told:
        asked = [(name.lower(), value) for name, value in json.loads(await told.recv())]
        fields = dict(asked)
        assert len(fields) == len(asked)
        assert (fields["connection"], fields["upgrade"]) == ("Upgrade", "websocket")
        assert (fields["cookie"], fields["x-custom"], fields["origin"]) == ("c=1", "kept", "http://a.example")
        assert fields["x-forwarded-for"] == "127.0.0.1"
        assert fields["host"] == site.routed_ws.removeprefix("ws://")
        assert "router" in fields["via"]
        answered = [(name.lower(), value) for name, value in told.response.headers.raw_items()]
        assert [value for name, value in answered if name == "set-cookie"] == ["a=1", "b=2"]
        assert [value.lower() for name, value in answered if name == "connection"] == ["upgrade"]
        assert [value for name, value in answered if name == "upgrade"] == ["websocket"]
        assert not {"content-length", "transfer-encoding"} & {name for name, _ in answered}


async def test_websocket_that_the_server_refuses(site: Site) -> None:
    with pytest.raises(InvalidStatus) as refused:
        async with socket_to(site, "/ws/forbidden"):
            pass
    found = refused.value.response
    assert (found.status_code, found.body) == (403, b"not for you\n")


def test_websocket_without_asyncio(site: Site) -> None:
    with connect_sync(f"{site.routed_ws}/ws/echo", proxy=None, open_timeout=PATIENCE) as echo:
        for message in ("one", b"two", "3" * 100000):
            echo.send(message)
            assert echo.recv(PATIENCE) == message


async def test_requests_go_on_while_websockets_are_open(site: Site) -> None:
    async with socket_to(site, "/ws/echo") as echo, httpx.AsyncClient(trust_env=False, timeout=PATIENCE) as client:
        for number in range(10):
            await echo.send(str(number))
            assert (await client.get(f"{site.routed}/get?n={number}")).json()["args"] == {"n": str(number)}
            assert await echo.recv() == str(number)


# Chromium


@needs_chromium
def test_chromium_loads_a_page_with_events_and_a_websocket(site: Site, tmp_path: Path) -> None:
    command = [
        "chromium",
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--no-first-run",
        "--no-proxy-server",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-default-apps",
        "--disable-sync",
        # It may speak to the router alone.
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
        f"--user-data-dir={tmp_path / 'profile'}",
        "--dump-dom",
        f"{site.routed}/page?id=chromium-{time.monotonic_ns()}",
    ]
    environment = {**os.environ, "HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False, env=environment)
    assert "<title>done</title>" in done.stdout, (done.stdout, done.stderr[-2000:])
    outcome = re.search(r"<pre>(.*)</pre>", done.stdout)
    assert outcome is not None
    assert json.loads(html.unescape(outcome[1])) == {
        "events": ["1", "2", "3"],
        "messages": ["text", 300000],
        "protocol": "chat",
        "close": [4100, "seen enough", True],
    }
