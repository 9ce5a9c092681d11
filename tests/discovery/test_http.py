"""Discovery over HTTP, against servers of the test's own: polled, long-polled, slow, wrong and hostile."""

from __future__ import annotations

import asyncio
import gzip
import json
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

ONE, TWO = "http://127.0.0.1:9001", "http://127.0.0.1:9002"
SECRET = "hush"


def answer(body: object, *fields: str, status: str = "200 OK") -> bytes:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = [f"HTTP/1.1 {status}", f"Content-Length: {len(data)}", *fields]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + data


class Registry:
    """Answers each request with `says`: bytes, or what a function makes of the request; None for silence.

    Attributes:
        asked: the head of each request.
    """

    def __init__(self) -> None:
        self.says: bytes | Callable[[str], Any] | None = answer([ONE])
        self.asked: list[str] = []
        self.port = 0
        self.url = ""
        self.open = 0

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open += 1
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            self.asked.append(head)
            said = self.says(head) if callable(self.says) else self.says
            said = await self.unless_left(said, reader) if asyncio.iscoroutine(said) else said
            if said is None:
                await reader.read()
                return
            for piece in said if isinstance(said, list) else [said]:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0.01 if isinstance(said, list) else 0)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError, RuntimeError):
            # The last is what uvloop says of a connection that is closed while it drains.
            pass
        finally:
            self.open -= 1
            writer.close()

    @staticmethod
    async def unless_left(saying: Any, reader: asyncio.StreamReader) -> Any:
        """What is said, or b"" as soon as nobody listens any more."""
        said, left = asyncio.ensure_future(saying), asyncio.ensure_future(reader.read())
        await asyncio.wait({said, left}, return_when=asyncio.FIRST_COMPLETED)
        left.cancel()
        if said.done():
            return said.result()
        said.cancel()
        return b""

    @property
    def targets(self) -> list[str]:
        return [head.split(" ")[1] for head in self.asked]


@asynccontextmanager
async def registry(tls: ssl.SSLContext | None = None) -> AsyncIterator[Registry]:
    made = Registry()
    server = await asyncio.start_server(made.accept, "127.0.0.1", 0, ssl=tls)
    made.port = server.sockets[0].getsockname()[1]
    made.url = f"http{'s' if tls else ''}://{'localhost' if tls else '127.0.0.1'}:{made.port}/servers"
    try:
        yield made
    finally:
        server.close()
        async with asyncio.timeout(5):
            while made.open:  # noqa: ASYNC110
                await asyncio.sleep(0.005)


def options(at: Registry, **more: Any) -> dict[str, Any]:
    return {"url": at.url, "interval": "20ms", "timeout": "1s", **more}


async def test_servers_come_and_go(bench: Any) -> None:
    async with registry() as at:
        async with bench.following("http", **options(at, headers={"X-Token": SECRET})) as follower:
            await follower.yields(ONE)
            at.says = answer({"endpoints": [ONE, {"url": TWO, "weight": 3, "id": "b", "metadata": {"a": "b"}}]})
            await follower.yields(ONE, TWO)
            at.says = answer([TWO])
            await follower.yields(TWO)
            count = len(at.asked)
            await bench.eventually(lambda: len(at.asked) > count + 2)
        assert len(follower.sets) == 3
        assert follower.sets[1][1].metadata == {"a": "b"}
        head = at.asked[0].lower()
    assert head.startswith("get /servers http/1.1\r\n")
    for field in ("x-token: hush", "accept: application/json", "accept-encoding: identity"):
        assert f"\r\n{field}\r\n" in head


async def test_a_tag_spares_the_body(bench: Any) -> None:
    tag, body = '"v1"', [ONE]

    def says(head: str) -> bytes:
        unchanged = f"if-none-match: {tag}" in head.lower()
        return b"HTTP/1.1 304 Not Modified\r\n\r\n" if unchanged else answer(body, f"ETag: {tag}")

    async with registry() as at:
        at.says = says
        async with bench.following("http", **options(at)) as follower:
            await follower.yields(ONE)
            await bench.eventually(lambda: len(at.asked) > 3)
            tag, body = '"v2"', [TWO]
            await follower.yields(TWO)
        assert "if-none-match" not in at.asked[0].lower()
        assert 'if-none-match: "v1"' in at.asked[1].lower()
    assert follower.said == []


async def test_the_tag_of_a_bad_answer_is_not_kept(bench: Any) -> None:
    async with registry() as at:
        at.says = answer([ONE], 'ETag: "good"')
        async with bench.following("http", **options(at)) as follower:
            await follower.yields(ONE)
            at.says = answer([3], 'ETag: "bad"')
            await follower.says("expected a table")
            await follower.goes_on()
            assert '"bad"' not in "".join(at.asked)
            at.says = answer([ONE], 'ETag: "good"')
            await bench.eventually(lambda: len(follower.sets) == 2)


async def test_an_unasked_304_is_no_answer(bench: Any) -> None:
    async with registry() as at:
        at.says = b"HTTP/1.1 304 Not Modified\r\n\r\n"
        async with bench.following("http", **options(at)) as follower:
            await follower.says("/servers: answered 304")


def instance(number: int, **service: Any) -> dict[str, Any]:
    """As Consul's /v1/health/service/NAME?passing has it."""
    address = f"127.0.0.{number}"
    return {
        "Node": {"ID": "40e4a748", "Node": f"node{number}", "Address": address, "Meta": {"rack": "3"}},
        "Service": {"ID": "web", "Service": "web", "Tags": [], "Address": "", "Port": 8000, **service},
        "Checks": [{"Node": f"node{number}", "Status": "passing"}],
    }


async def test_consul(bench: Any) -> None:
    async with registry() as at:
        at.says = answer(
            [
                instance(1),
                instance(
                    2, Address="10.0.0.9", Port=80, Weights={"Passing": 7, "Warning": 1}, Meta={"track": "canary"}
                ),
                instance(3, Address="::1", ID="", Meta=None, Weights=None),
                {"Service": {"Address": "web.example.test", "Port": 1, "Weights": {"Passing": 100_000}}},
            ]
        )
        async with bench.following("http", **options(at)) as follower:
            await bench.eventually(lambda: follower.sets, lambda: str(follower.said))
    assert [(s.url, s.id, s.weight, s.metadata) for s in follower.sets[0]] == [
        ("http://127.0.0.1:8000", "node1/web", 1, {}),
        ("http://10.0.0.9:80", "node2/web", 7, {"track": "canary"}),
        ("http://[::1]:8000", "node3", 1, {}),
        ("http://web.example.test:1", "", 65535, {}),
    ]


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ([instance(1), instance(2, Port=0)], "[1]: Service.Port: expected a whole number >= 1"),
        ([instance(1), instance(2, Port="80")], "[1]: Service.Port: expected a whole number, not a string"),
        ([{"Service": {"Port": 80}}], "[0]: the service has no address"),
        ([{"Service": {"Address": "h"}}], "[0]: the service has no port"),
        ([{"Service": None}], "[0]: Service: expected a table, not nothing"),
        ([instance(1, Address="h/x")], "[0]: an endpoint has scheme, host and port only"),
        ([instance(1, Address="h\n")], "[0]: url: not printable text"),
        ([instance(1, Weights={"Passing": -1})], "[0]: weight: expected a whole number >= 0"),
        ([instance(1, Meta={"a": 1})], "[0]: Service.Meta[...]: expected a string"),
        ([instance(1), instance(1)], '[1] is the same instance as [0]: "node1/web"'),
        ([instance(1), ONE], "endpoints[0]: an endpoint has no"),
    ],
)
async def test_what_consul_does_not_say(bench: Any, entries: list[Any], said: str) -> None:
    async with registry() as at:
        at.says = answer(entries)
        async with bench.following("http", **options(at)) as follower:
            await follower.says(f"/servers: {said}")
        assert follower.sets == []


class Consul:
    """Holds a question with the index of now until there is a newer one."""

    def __init__(self) -> None:
        self.index = 7
        self.servers = [ONE]
        self.news = asyncio.Event()

    async def says(self, head: str) -> bytes:
        if f"index={self.index}&" in head:
            self.news.clear()
            await self.news.wait()
        return answer(self.servers, f"X-Consul-Index: {self.index}")

    def tell(self, index: int, *servers: str) -> None:
        self.index, self.servers = index, list(servers)
        self.news.set()


async def test_a_long_poll(bench: Any) -> None:
    consul = Consul()
    async with registry() as at:
        at.says, at.url = consul.says, f"{at.url}?passing"
        async with bench.following("http", **options(at, long_poll="consul", wait="5s", interval="10ms")) as follower:
            await follower.yields(ONE)
            await bench.eventually(lambda: len(at.asked) == 2)
            await asyncio.sleep(0.1)
            assert at.targets == ["/servers?passing", "/servers?passing&index=7&wait=5000ms"]
            consul.tell(8, ONE, TWO)
            await follower.yields(ONE, TWO)
            await bench.eventually(lambda: len(at.asked) == 3)
            # Its history begins anew: what is asked next is asked without an index.
            consul.tell(3, TWO)
            await follower.yields(TWO)
            await bench.eventually(lambda: len(at.asked) == 5)
            indexes = [target.partition("index=")[2].partition("&")[0] for target in at.targets]
            assert indexes == ["", "7", "8", "", "3"]
    assert follower.said == []


@pytest.mark.parametrize("index", ["", "0", "-1", "9" * 30, "x", "1e3"])
async def test_without_a_usable_index_it_is_a_plain_poll(bench: Any, index: str) -> None:
    async with registry() as at:
        at.says = answer([ONE], f"X-Consul-Index: {index}")
        async with bench.following("http", **options(at, long_poll="consul", interval="30ms")) as follower:
            await follower.yields(ONE)
            await bench.eventually(lambda: len(at.asked) > 2)
        assert set(at.targets) == {"/servers"}


async def test_a_registry_in_turmoil_is_not_stormed(bench: Any) -> None:
    count = 0

    def says(head: str) -> bytes:
        nonlocal count
        count += 1
        return answer([ONE], f"X-Consul-Index: {count}")

    async with registry() as at:
        at.says = says
        async with bench.following("http", **options(at, long_poll="consul", interval="100ms")) as follower:
            await follower.yields(ONE)
            begun, count = asyncio.get_running_loop().time(), 1
            await bench.eventually(lambda: count >= 4)
            assert asyncio.get_running_loop().time() - begun >= 0.2


WRONG: list[tuple[Any, str]] = [
    (answer(b"busy", status="503 Service Unavailable"), "answered 503"),
    (answer(b"", status="500 Oops"), "answered 500"),
    (answer(b"", status="204 No Content"), "answered 204"),
    (answer(b"", status="401 Unauthorized"), "answered 401"),
    (answer(b""), "no JSON: it breaks off"),
    (answer(b'["http://127.0.0.1:9001", "htt'), "no JSON: it breaks off"),
    (answer(b"<html>\x1b[2J</html>"), "no JSON: invalid character"),
    (answer(b"\x00\xff\xfe"), "no JSON: "),
    (answer(b"[" * 300_000), "no JSON that can be read: it nests too deep"),
    (answer(b'{"a":' * 300_000), "no JSON that can be read: it nests too deep"),
    (answer([]), "names no endpoint; to let it empty the pool, set accept_empty = true"),
    (answer({"endpoints": []}), "names no endpoint"),
    (answer({"servers": [ONE]}), 'unknown key "servers"'),
    (answer(3), "expected a list of endpoints"),
    (answer([ONE, 3]), "endpoints[1]: expected a table, not a whole number"),
    (answer([ONE, ONE]), "endpoints[1] is the same endpoint as endpoints[0]"),
    (answer([{"url": ONE, "wieght": 3}]), 'endpoints[0]: an endpoint has no "wieght"; did you mean "weight"?'),
    (answer(["unix:/run/docker.sock"]), "endpoints[0]: a socket of this machine is not for others to name"),
    (answer(["http://u:p@h"]), "carries no user name"),
    (answer(gzip.compress(b"[]"), "Content-Encoding: gzip"), "is compressed"),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n[", "the answer breaks off"),
    (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n[]", "the answer breaks off"),
    (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "what came is no HTTP answer"),
    (b"", "the connection was lost before an answer came"),
    (b"HTTP/1.1 2", "the connection was lost before an answer came"),
    (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "what came is no HTTP answer"),
    (b"\x15\x03\x01\x00\x02\x02\x46\r\n\r\n", "what came is no HTTP answer"),
    (b"HTTP/1.1 200 OK\r\n" + b"A: " + b"x" * 100_000, "what came is no HTTP answer"),
    (None, "no whole answer within 0.15 s"),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", "the answer breaks off"),
    ([b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n", *[b"["] * 90], "no whole answer within 0.15 s"),
    ([*(bytes([c]) for c in b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]")], "no whole answer within 0.15 s"),
]


@pytest.mark.parametrize(("says", "said"), WRONG, ids=range(len(WRONG)))
async def test_a_wrong_answer_is_said_once_and_the_last_good_set_stays(bench: Any, says: Any, said: str) -> None:
    async with registry() as at:
        at.url = at.url.replace("//", f"//user:{SECRET}@") + f"?token={SECRET}"
        async with bench.following("http", **options(at, timeout="150ms")) as follower:
            await follower.yields(ONE)
            at.says = says
            await follower.says(said)
            count = len(at.asked)
            await bench.eventually(lambda: len(at.asked) > count + 2)
            at.says = answer([ONE])
            await bench.eventually(lambda: len(follower.sets) == 2)
        assert follower.urls == [ONE]
        assert len(follower.said) == 1
        assert follower.said[0].startswith(f"http://127.0.0.1:{at.port}/servers: ")
        assert SECRET not in follower.said[0]


async def test_more_than_is_read(bench: Any) -> None:
    """However it is framed, and with or without its end."""
    async with registry() as at:
        piece = b"100000\r\n" + b" " * (1 << 20) + b"\r\n"
        at.says = [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", *[piece] * 20]
        async with bench.following("http", **options(at, timeout="5s")) as follower:
            await follower.says("the answer is larger than 16 MiB")


async def test_nobody_is_there(bench: Any) -> None:
    async with registry() as at:
        pass
    async with bench.following("http", **options(at)) as follower:
        await follower.says(f"http://127.0.0.1:{at.port}/servers: no connection: Connection refused")
        await follower.goes_on()
        assert len(follower.said) == 1


async def test_a_name_that_does_not_exist(bench: Any) -> None:
    async with bench.following("http", url="http://x.invalid/", interval="20ms") as follower:
        await follower.says("http://x.invalid/: no")


async def test_a_cancelled_question_leaves_no_connection(bench: Any) -> None:
    async with registry() as at:
        at.says = None
        async with bench.following("http", **options(at, timeout="60s")):
            await bench.eventually(lambda: at.asked)
        await bench.eventually(lambda: not at.open)


async def test_an_empty_list_may_empty_the_pool(bench: Any) -> None:
    async with registry() as at, bench.following("http", **options(at, accept_empty=True)) as follower:
        await follower.yields(ONE)
        at.says = answer([])
        await follower.yields()
    assert follower.said == []


def moved(location: str) -> Callable[[str], bytes]:
    def says(head: str) -> bytes:
        if head.startswith("GET /servers"):
            return answer(b"", f"Location: {location}", status="302 Found")
        return answer([ONE])

    return says


@pytest.mark.parametrize("location", ["/elsewhere", "elsewhere", "?", "http://127.0.0.1:{port}/else?x=1"])
async def test_a_redirect_within_the_host_is_followed(bench: Any, location: str) -> None:
    async with registry() as at:
        if location == "?":
            at.says = lambda head: answer([ONE]) if "?a=1" in head else moved("?a=1")(head)
        else:
            at.says = moved(location.format(port=at.port))
        async with bench.following("http", **options(at, headers={"Authorization": SECRET})) as follower:
            await follower.yields(ONE)
    assert follower.said == []


@pytest.mark.parametrize(
    ("location", "said"),
    [
        ("http://localhost:{port}/else", "redirects to another place, http://localhost: ask there"),
        ("//localhost:{port}/else", "redirects to another place"),
        ("http://127.0.0.1:{other}/else", "redirects to another place"),
        ("http://u:p@127.0.0.1:{port}/else", "redirects to another place"),
        ("file:///etc/passwd", "redirects to another place, file://"),
        ("http://[::1/", "redirects to what is no URL"),
        ("http://127.0.0.1:99999/", "redirects to what is no URL"),
        ("", "more than 5 redirects"),
        ("/servers", "more than 5 redirects"),
    ],
)
async def test_a_redirect_to_another_place_is_not_followed(bench: Any, location: str, said: str) -> None:
    async with registry() as other, registry() as at:
        at.says = moved(location.format(port=at.port, other=other.port))
        async with bench.following("http", **options(at, headers={"X-Token": SECRET})) as follower:
            await follower.says(said)
        assert other.asked == []
        assert all(target == "/servers" for target in at.targets)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with localhost.pem and else.test.pem, each its own authority and with its key."""
    folder = tmp_path_factory.mktemp("certificates")
    for name in ("localhost", "else.test"):
        made = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
        named = ["-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name}"]
        files = ["-out", f"{name}.pem", "-keyout", f"{name}.key"]
        subprocess.run(["openssl", *made, *named, *files], cwd=folder, check=True, capture_output=True, timeout=30)
    return folder


def serving(folder: Path, name: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / f"{name}.pem", folder / f"{name}.key")
    return context


async def test_tls(bench: Any, certificates: Path) -> None:
    bench.folder = certificates
    async with registry(serving(certificates, "localhost")) as at:
        async with bench.following("http", **options(at, ca="localhost.pem")) as follower:
            await follower.yields(ONE)
        async with bench.following("http", **options(at)) as follower:
            await follower.says("/servers: TLS: self-signed certificate")
        at.says = moved(f"http://localhost:{at.port}/else")
        async with bench.following("http", **options(at, ca="localhost.pem")) as follower:
            await follower.says("redirects to another place, http://localhost")


async def test_tls_with_another_name(bench: Any, certificates: Path) -> None:
    bench.folder = certificates
    context = serving(certificates, "else.test")
    async with registry(context) as at, bench.following("http", **options(at, ca="else.test.pem")) as follower:
        await follower.says("/servers: TLS: ")
        assert "Hostname mismatch, certificate is not valid for 'localhost'" in follower.said[0]


async def test_tls_where_none_is_spoken(bench: Any) -> None:
    async with registry() as at:
        url = at.url.replace("http:", "https:")
        async with bench.following("http", **options(at, url=url, timeout="200ms")) as follower:
            await follower.says("/servers: no whole answer within 0.2 s")


async def test_tls_where_another_protocol_is_spoken(bench: Any) -> None:
    def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail.example.test ready\r\n")
        writer.close()

    server = await asyncio.start_server(greet, "127.0.0.1", 0)
    url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    async with bench.following("http", url=url, interval="20ms") as follower:
        await follower.says(f"{url}: TLS: ")
        assert "(_ssl" not in follower.said[0]
    server.close()


async def test_the_user_of_the_url_is_sent_and_no_cookie_is_kept(bench: Any) -> None:
    async with registry() as at:
        at.url = at.url.replace("//", "//us%40er:pa%3Ass@")
        at.says = answer([ONE], "Set-Cookie: a=b")
        async with bench.following("http", **options(at)) as follower:
            await follower.yields(ONE)
            await bench.eventually(lambda: len(at.asked) > 2)
        assert "authorization: basic dxnazxi6" in at.asked[0].lower()
        assert all("cookie" not in head.lower() for head in at.asked)


async def test_the_proxy_of_the_environment_is_not_asked(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    async with registry() as at, bench.following("http", **options(at)) as follower:
        await follower.yields(ONE)
