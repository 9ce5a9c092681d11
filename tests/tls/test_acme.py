"""`acme` against pebble: issue, renew, and never without a certificate once it had one, whatever goes wrong."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import logging
import os
import random
import re
import shutil
import signal
import ssl
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from router_tls import acme, acme_http, acme_order
from router_tls.acme import AcmeOptions, AcmeSource
from router_tls.acme_schedule import Pauses
from router_tls.acme_store import Store
from router_tls.acme_trouble import AcmeError
from router_tls.keeping import KeepingError

from router import Certificate, Tools


def helper(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"tls_{name}", Path(__file__).with_name(f"{name}.py"))
    assert spec
    assert spec.loader
    made = sys.modules[f"tls_{name}"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


_help = helper("pebble")
needs_pebble, pebble, answers, Proxy, self_made = (
    _help.needs_pebble,
    _help.pebble,
    _help.answers,
    _help.Proxy,
    _help.self_made,
)
#: Seconds after which a test that waits has failed.
PATIENCE = 15.0
SECRET = "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LXNlY3JldA"


class Follower:
    """Follows a source as the router does.

    Attributes:
        sets: what was yielded.
    """

    def __init__(self, source: AcmeSource, challenges: dict[str, bytes]) -> None:
        self.sets: list[list[Certificate]] = []
        self.challenges = challenges
        self.task = asyncio.ensure_future(self._run(source))

    async def _run(self, source: AcmeSource) -> None:
        async with aclosing(source.watch(self.challenges)) as watching:  # type: ignore[type-var]
            async for certificates in watching:
                self.sets.append(list(certificates))

    async def yields(self, count: int = 1) -> Certificate:
        """The last certificate, once there were so many sets."""
        await eventually(lambda: self.task.done() or len(self.sets) >= count)
        assert not self.task.done(), self.task
        return self.sets[-1][0]

    async def end(self) -> None:
        self.task.cancel()
        await asyncio.wait([self.task], timeout=PATIENCE)
        assert self.task.cancelled()
        assert self.challenges == {}, "nothing is left to be answered"


async def eventually(holds: Callable[[], Any], seen: Callable[[], object] = str) -> None:
    try:
        async with asyncio.timeout(PATIENCE):
            while not holds():  # noqa: ASYNC110 - any condition, not one that tells
                await asyncio.sleep(0.005)
    except TimeoutError:
        pytest.fail(f"never came true: {seen()}")


class Bench:
    """What the tests use.

    Attributes:
        folder: the configuration's.
        said: lines of the log.
    """

    def __init__(self, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
        self.folder = folder
        self.caplog = caplog

    @property
    def said(self) -> list[str]:
        lines = [record.getMessage() for record in self.caplog.records if record.name == "router_tls"]
        assert all(line.isprintable() for line in lines)
        return lines

    def source(self, directory: str, *, now: Callable[[], float] = time.time, **options: Any) -> AcmeSource:
        table = {"names": ("www.example.test",), "agree_tos": True, "ca": "pebble/ca.pem"} | options
        made = AcmeOptions(directory=directory, **table)
        pauses = Pauses(random.Random(1), 0.02, 0.2)
        return AcmeSource(made, Tools(time.monotonic, random.Random(1), self.folder), now=now, pauses=pauses)

    @asynccontextmanager
    async def following(
        self, directory: str, challenges: dict[str, bytes] | None = None, **options: Any
    ) -> AsyncIterator[Follower]:
        follower = Follower(self.source(directory, **options), {} if challenges is None else challenges)
        try:
            yield follower
        finally:
            await follower.end()

    async def says(self, words: str) -> str:
        """The first line with these words."""
        await eventually(lambda: [line for line in self.said if words in line], lambda: self.said)
        return next(line for line in self.said if words in line)

    async def obtains(self, directory: str, challenges: dict[str, bytes], **options: Any) -> Certificate:
        async with self.following(directory, challenges, **options) as follower:
            return await follower.yields()

    def files(self, ending: str) -> list[Path]:
        return sorted((self.folder / "router-acme").rglob(f"*{ending}"))


@pytest.fixture
def bench(tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Bench:
    caplog.set_level(logging.INFO, "router_tls")
    monkeypatch.setattr(acme_order, "_FIRST_LOOK", 0.02)
    return Bench(tmp_path, caplog)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """To start one takes longer than most tests do."""
    with pebble(tmp_path_factory.mktemp("acme") / "pebble") as made:
        yield made


@pytest.fixture
def server(tmp_path: Path, shared: Any) -> Any:
    """A server that knows others' accounts, which no test can see."""
    return Part(shared, tmp_path)


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[Any]:
    """One that a test may stop."""
    with pebble(tmp_path / "pebble") as made:
        yield made


@pytest.fixture
def answering(request: pytest.FixtureRequest) -> Iterator[Any]:
    name = "own_server" if "own_server" in request.fixturenames else "server"
    with answers(request.getfixturevalue(name).http_port) as made:
        yield made


class Part:
    """What one test sees of a server that many use: what was written since the test began, and files of its own."""

    def __init__(self, whole: Any, folder: Path) -> None:
        self._whole = whole
        self._before = len(whole.log)
        self.had = accounts(whole)
        self.url, self.port, self.http_port = whole.url, whole.port, whole.http_port
        self.folder = folder / "pebble"
        shutil.copytree(whole.folder, self.folder)
        self.ca = self.folder / "ca.pem"

    @property
    def log(self) -> str:
        return str(self._whole.log[self._before :])


def leaf(certificate: Certificate) -> x509.Certificate:
    return x509.load_pem_x509_certificate(certificate.chain.encode())


def issued(server: Any) -> int:
    return int(server.log.count("Issued certificate serial"))


def accounts(server: Any) -> int:
    found = re.findall(r"There are now (\d+) accounts", server.log)
    return int(found[-1]) - getattr(server, "had", 0) if found else 0


@needs_pebble
@pytest.mark.parametrize(("key_type", "kind"), [("ecdsa", ec.EllipticCurvePublicKey), ("rsa", rsa.RSAPublicKey)])
async def test_issue(bench: Bench, server: Any, answering: Any, key_type: str, kind: type) -> None:
    names = ("Example.test", "www.example.test", "127.0.0.1")
    made = await bench.obtains(server.url, answering.challenges, names=names, key_type=key_type, email="a@example.test")
    assert set(made.names) == {"example.test", "www.example.test", "127.0.0.1"}
    assert isinstance(leaf(made).public_key(), kind)
    assert made.chain.count("BEGIN CERTIFICATE") == 2
    bench.folder.joinpath("both.pem").write_text(made.chain + made.key)
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(bench.folder / "both.pem")
    assert {status for _, status in answering.asked} == {200}, "each answer is there before it is looked for"
    assert len({path for path, _ in answering.asked}) == 3
    [line] = bench.said
    assert "a certificate for example.test, www.example.test, 127.0.0.1, valid until" in line
    assert list(bench.source(server.url, names=names, key_type=key_type).load()) == [made]


@needs_pebble
async def test_the_next_start_needs_no_network(bench: Bench, own_server: Any, answering: Any) -> None:
    made = await bench.obtains(own_server.url, answering.challenges)
    own_server.stop()
    async with bench.following(own_server.url) as follower:
        assert await follower.yields() == made
        await asyncio.sleep(0.1)
        assert len(follower.sets) == 1
    assert len(bench.said) == 1


@needs_pebble
async def test_renewal_before_the_end(bench: Bench, tmp_path: Path) -> None:
    with pebble(tmp_path / "pebble", certificateValidityPeriod=3) as server, answers(server.http_port) as answering:
        async with bench.following(server.url, answering.challenges) as follower:
            await follower.yields(2)
            first, second = follower.sets[0][0], follower.sets[1][0]
            assert time.time() < first.not_after, "while the first is valid"
        assert second.not_after > first.not_after
        assert leaf(second).serial_number != leaf(first).serial_number
        assert second.key != first.key
        assert accounts(server) == 1
    assert bench.files(".order") == []


@needs_pebble
async def test_directory_down_then_up(bench: Bench, own_server: Any, answering: Any) -> None:
    own_server.stop()
    async with bench.following(own_server.url, answering.challenges) as follower:
        line = await bench.says("connection refused")
        assert "no new certificate for www.example.test" in line
        assert "next attempt in 0 s; there is none" in line
        await eventually(lambda: len(bench.said) >= 3)
        assert follower.sets == []
        own_server.start()
        await follower.yields()
    assert "valid until" in bench.said[-1]


@needs_pebble
async def test_the_last_one_goes_on_while_the_directory_is_down(bench: Bench, tmp_path: Path) -> None:
    with pebble(tmp_path / "pebble", certificateValidityPeriod=3) as server, answers(server.http_port) as answering:
        async with bench.following(server.url, answering.challenges) as follower:
            first = await follower.yields()
            server.stop()
            assert "the last one goes on, valid until" in await bench.says("connection refused")
            await bench.says("the last one goes on, though it expired")
            assert len(follower.sets) == 1
        assert list(bench.source(server.url).load()) == [], "what is expired is not there before a start"
        async with bench.following(server.url, answering.challenges) as follower:
            assert await follower.yields() == first, "but better than nothing while it runs"
            server.start()
            assert (await follower.yields(2)).not_after > first.not_after


@needs_pebble
async def test_order_refused(bench: Bench, tmp_path: Path) -> None:
    with (
        pebble(tmp_path / "pebble", domainBlocklist=["refused.test"]) as server,
        answers(server.http_port) as answering,
    ):
        async with bench.following(server.url, answering.challenges, names=("refused.test",)) as follower:
            line = await bench.says("rejectedIdentifier: ")
            await eventually(lambda: len(bench.said) >= 3)
            assert follower.sets == []
        assert "refused.test" in line.partition("rejectedIdentifier")[2]
        assert accounts(server) == 1
        assert bench.files(".order") == []


@needs_pebble
async def test_a_challenge_that_fails_needs_a_new_order(bench: Bench, server: Any) -> None:
    made: dict[str, bytes] = {}
    async with bench.following(server.url, made) as follower:
        line = await bench.says("the authorization is invalid")
        assert line.startswith("acme: no new certificate for www.example.test: www.example.test: the authorization")
        assert "unauthorized" in line or "connection" in line
        assert follower.sets == []
        with answers(server.http_port) as answering:
            answering.challenges = made
            await follower.yields()
    assert bench.files(".order") == []


@needs_pebble
async def test_wrong_tls_of_the_directory(bench: Bench, server: Any, answering: Any) -> None:
    (bench.folder / "other.pem").write_bytes(self_made("localhost", rsa=True)[0])
    async with bench.following(server.url, ca="other.pem") as follower:
        assert "private authority's PEM file is named in ca" in await bench.says("TLS: ")
        (bench.folder / "other.pem").unlink()
        await bench.says("cannot be read")
        assert follower.sets == []
    assert accounts(server) == 0


@needs_pebble
async def test_nonces_refused(bench: Bench, tmp_path: Path) -> None:
    env = {"PEBBLE_WFE_NONCEREJECT": "50"}
    with pebble(tmp_path / "pebble", env=env) as server, answers(server.http_port) as answering:
        await bench.obtains(server.url, answering.challenges)
        assert len(bench.said) == 1
        assert issued(server) == 1


@needs_pebble
async def test_external_account(bench: Bench, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = {"externalAccountBindingRequired": True, "externalAccountMACKeys": {"kid-1": SECRET}}
    caplog.set_level(logging.DEBUG)
    with pebble(tmp_path / "pebble", **config) as server, answers(server.http_port) as answering:
        async with bench.following(server.url):
            await bench.says("set eab_kid and eab_hmac_key")
        async with bench.following(server.url, eab_kid="kid-2", eab_hmac_key=SECRET):
            await bench.says("unauthorized: the field 'kid'")
        made = await bench.obtains(server.url, answering.challenges, eab_kid="kid-1", eab_hmac_key=SECRET)
    assert SECRET not in caplog.text
    [account] = bench.files("account.pem")
    for secret in (made.key, account.read_text()):
        assert secret.splitlines()[1] not in caplog.text


@needs_pebble
async def test_a_changed_address_is_told(bench: Bench, server: Any, answering: Any) -> None:
    async with Proxy(server) as proxy:
        for email in ("a@example.test", "a@example.test", ("b@example.test", "c@example.test")):
            proxy.seen.clear()
            await bench.obtains(proxy.url, answering.challenges, email=email)
            for path in bench.files("-ecdsa.pem"):
                path.unlink()
            told = [text for text in proxy.seen if "/my-account/" in text]
            assert len(told) == (1 if isinstance(email, tuple) else 0)
    assert accounts(server) == 1


@needs_pebble
async def test_changed_names(bench: Bench, server: Any, answering: Any) -> None:
    old = await bench.obtains(server.url, answering.challenges)
    names = ("new.example.test", "www.example.test")
    assert list(bench.source(server.url, names=names).load()) == [old]
    async with bench.following(server.url, answering.challenges, names=names) as follower:
        new = await follower.yields(2)
        assert follower.sets == [[old], [new]]
        assert set(new.names) == set(names)
    async with bench.following(server.url, answering.challenges, names=("other.test",)) as follower:
        assert (await follower.yields()).names == ("other.test",)
    assert accounts(server) == 1


@needs_pebble
async def test_a_corrupt_certificate_is_obtained_anew(bench: Bench, server: Any, answering: Any) -> None:
    await bench.obtains(server.url, answering.challenges)
    [path] = bench.files("-ecdsa.pem")
    path.write_bytes(path.read_bytes()[:700])
    assert list(bench.source(server.url).load()) == []
    await bench.obtains(server.url, answering.challenges)
    assert "set aside" in bench.said[1]
    assert issued(server) == 2


@needs_pebble
async def test_two_who_want_the_same_order_once(
    bench: Bench, server: Any, answering: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acme, "_BUSY", 0.02)
    async with (
        bench.following(server.url, answering.challenges) as one,
        bench.following(server.url, answering.challenges) as other,
    ):
        assert await one.yields() == await other.yields()
    assert issued(server) == 1


@needs_pebble
async def test_a_clock_that_is_ahead_makes_no_storm(bench: Bench, server: Any, answering: Any) -> None:
    async with bench.following(
        server.url, answering.challenges, now=lambda: time.time() + 10 * 365 * 86400
    ) as follower:
        line = await bench.says("is this machine's clock right?")
        await follower.yields()
        await asyncio.sleep(0.2)
        assert "next attempt in 3" in line
        assert " min; the last one goes on, though it expired" in line
        assert issued(server) == 1


@needs_pebble
async def test_a_clock_that_is_behind_is_said(bench: Bench, server: Any, answering: Any) -> None:
    async with bench.following(server.url, answering.challenges, now=lambda: time.time() - 86400) as follower:
        await follower.yields()
        assert "is not valid before" in bench.said[0]
        await asyncio.sleep(0.1)
        assert len(bench.said) == 2


@needs_pebble
async def test_restart_after_every_request(bench: Bench, server: Any, answering: Any) -> None:
    """Ended at each request, whether the server has heard it or not: no second account, no second certificate."""
    async with Proxy(server) as proxy:
        await bench.obtains(proxy.url, answering.challenges, folder="whole")
        steps = len(proxy.seen)
        assert 10 <= steps <= 30
        for heard in ("cut", "stall"):
            for step in range(steps - 4):
                await restarted(bench, server, answering, proxy, heard, step)
    assert all("www.example.test" in line for line in bench.said)


async def restarted(bench: Bench, server: Any, answering: Any, proxy: Any, heard: str, step: int) -> None:
    had, made, folder = accounts(server), issued(server), f"{heard}-{step}"
    proxy.seen.clear()
    proxy.hold = lambda text: heard if len(proxy.seen) == step + 1 else "pass" if len(proxy.seen) <= step else "stall"
    async with bench.following(proxy.url, answering.challenges, folder=folder):
        await eventually(lambda: len(proxy.seen) > step, lambda: (step, proxy.seen, bench.said))
        if heard == "cut":
            await asyncio.sleep(0.05)
    proxy.hold = lambda text: "pass"
    await bench.obtains(proxy.url, answering.challenges, folder=folder)
    assert accounts(server) - had == 1, (heard, step)
    assert issued(server) - made == 1, (heard, step)


KILLED = """
import asyncio, json, random, sys, time
from pathlib import Path
from router import Tools
from router_tls.acme import AcmeOptions, AcmeSource

async def main(table):
    options = AcmeOptions(names=("www.example.test",), agree_tos=True, **table["options"])
    source = AcmeSource(options, Tools(time.monotonic, random.Random(1), Path(table["folder"])))
    async for found in source.watch({}):
        pass

asyncio.run(main(json.loads(sys.argv[1])))
"""


@needs_pebble
@pytest.mark.parametrize("path", ["/sign-me-up", "/order-plz", "/certZ/"])
async def test_killed(bench: Bench, tmp_path: Path, path: str) -> None:
    """By SIGKILL, when the server has heard of the account, the order, the wish for the certificate."""
    env = {"PEBBLE_VA_ALWAYS_VALID": "1"}
    with pebble(tmp_path / "pebble", env=env) as server:
        async with Proxy(server) as proxy:
            proxy.hold = lambda text: "cut" if path in text else "pass"
            options = {"directory": proxy.url, "ca": "pebble/ca.pem"}
            table = json.dumps({"folder": str(bench.folder), "options": options})
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-c", KILLED, table, env=os.environ | {"PYTHONPATH": where()}
            )
            try:
                await eventually(lambda: any(path in text for text in proxy.seen), lambda: proxy.seen)
                await asyncio.sleep(0.05)
            finally:
                process.send_signal(signal.SIGKILL)
                await process.wait()
            proxy.hold = lambda text: "pass"
            await bench.obtains(proxy.url, {})
            assert accounts(server) == 1
            assert issued(server) == 1


def where() -> str:
    return os.pathsep.join(path for path in sys.path if path)


@needs_pebble
@pytest.mark.parametrize("path", ["/dir", "/sign-me-up", "/chalZ/", "/finalize-order/"])
async def test_a_cancelled_watch_leaves_nothing_behind(
    bench: Bench, server: Any, answering: Any, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setattr(acme_http, "_PATIENCE", 100 * PATIENCE)
    async with Proxy(server) as proxy:
        proxy.hold = lambda text: "stall" if path in text else "pass"
        async with bench.following(proxy.url, answering.challenges):
            await eventually(lambda: any(path in text for text in proxy.seen), lambda: proxy.seen)
            if path == "/chalZ/":
                assert len(answering.challenges) == 1
        # What a loop waits for when it ends.
        async with asyncio.timeout(PATIENCE):
            await asyncio.get_running_loop().shutdown_default_executor()


@needs_pebble
async def test_a_directory_that_is_silent_or_drips(
    bench: Bench, server: Any, answering: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acme_order, "STEP", 0.2)
    async with Proxy(server) as proxy:
        proxy.hold = lambda text: "stall"
        async with bench.following(proxy.url, answering.challenges) as follower:
            await bench.says("no whole answer within 0.2 s")
            await eventually(lambda: len(proxy.seen) > 1)
            monkeypatch.setattr(acme_order, "STEP", 30.0)
            proxy.hold = lambda text: "pass"
            await follower.yields()


def problem(status: str, body: object, *fields: str) -> bytes:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = [f"HTTP/1.1 {status}", "Content-Type: application/problem+json", f"Content-Length: {len(data)}", *fields]
    return "\r\n".join([*head, "", ""]).encode() + data


ERROR = "urn:ietf:params:acme:error:"


@needs_pebble
@pytest.mark.parametrize(
    ("said", "words"),
    [
        (
            problem("429 Slow", {"type": f"{ERROR}rateLimited", "detail": "a\x1b[31m\n" + "b" * 9000}),
            "rateLimited: a\\x",
        ),
        (problem("503 Busy", b"<html>busy</html>"), "answered 503"),
        (problem("500 Oops", {"detail": ["no", "text"]}), "about:blank: ('no'"),
        (problem("400 Bad", {"type": 7, "detail": None}), "7: no detail"),
        (problem("200 OK", b"[]"), "no ACME answer: MissingNonce"),
        (problem("200 OK", b"{}", "Replay-Nonce: n"), "no ACME answer: BadNonce"),
        (problem("201 OK", b"\xff\xfe", "Replay-Nonce: !"), "does not say where"),
        (problem("409 Conflict", b"{}"), "no ACME answer"),
        (b"\x16\x03\x01 nothing", "no HTTP answer"),
    ],
)
async def test_what_a_directory_may_say(bench: Bench, server: Any, answering: Any, said: bytes, words: str) -> None:
    async with Proxy(server) as proxy:
        proxy.hold = lambda text: said if "/order-plz" in text else "pass"
        async with bench.following(proxy.url, answering.challenges) as follower:
            line = await bench.says(words)
            assert len(line) < 700
            proxy.hold = lambda text: "pass"
            await follower.yields()
    assert accounts(server) == 1


@needs_pebble
async def test_retry_after_is_honoured(bench: Bench, server: Any, answering: Any) -> None:
    limited = problem("429 Slow", {"type": f"{ERROR}rateLimited", "detail": "too many"}, "Retry-After: 7200")
    async with Proxy(server) as proxy:
        proxy.hold = lambda text: limited if "/order-plz" in text else "pass"
        async with bench.following(proxy.url, answering.challenges):
            line = await bench.says("too many")
            asked = len(proxy.seen)
            await asyncio.sleep(0.3)
            assert len(proxy.seen) == asked
    minutes = re.search(r"next attempt in (\d+) min", line)
    assert minutes
    assert 120 <= int(minutes[1]) <= 132


@needs_pebble
async def test_an_order_that_the_server_forgot_is_begun_anew(bench: Bench, own_server: Any, answering: Any) -> None:
    async with Proxy(own_server) as proxy:
        proxy.hold = lambda text: "stall" if "/finalize-order/" in text else "pass"
        async with bench.following(proxy.url, answering.challenges):
            await eventually(lambda: any("/finalize-order/" in text for text in proxy.seen))
        assert len(bench.files(".order")) == 1
        own_server.stop()
        own_server.start()
        proxy.hold = lambda text: "pass"
        await bench.obtains(proxy.url, answering.challenges)
    assert bench.said == [line for line in bench.said if "valid until" in line], "and no failure for it"


@needs_pebble
@pytest.mark.parametrize(
    "said",
    [
        problem("200 OK", b"{}", "Replay-Nonce: aaaa"),
        problem("404 Not Found", b"{}"),
        problem("403 Forbidden", {"type": f"{ERROR}unauthorized", "detail": "not yours"}),
        problem("200 OK", {"status": "odd"}, "Replay-Nonce: aaaa"),
    ],
)
async def test_an_order_that_makes_no_sense_is_begun_anew(
    bench: Bench, server: Any, answering: Any, said: bytes
) -> None:
    async with Proxy(server) as proxy:
        proxy.hold = lambda text: "stall" if "/finalize-order/" in text else "pass"
        async with bench.following(proxy.url, answering.challenges):
            await eventually(lambda: any("/finalize-order/" in text for text in proxy.seen))
        [order] = bench.files(".order")
        left = json.loads(order.read_text())["order"].rpartition("/")[2]
        proxy.hold = lambda text: said if f"/my-order/{left}" in text else "pass"
        await bench.obtains(proxy.url, answering.challenges)
    assert issued(server) == 1


@needs_pebble
async def test_a_certificate_that_could_not_be_kept_is_fetched_again(
    bench: Bench, server: Any, answering: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = [OSError(28, "No space left on device"), KeepingError("disk full")]
    keep = Store.keep

    def failing(self: Store, chain: bytes, key: bytes) -> Any:
        if full:
            raise full.pop()
        return keep(self, chain, key)

    monkeypatch.setattr(Store, "keep", failing)
    await bench.obtains(server.url, answering.challenges)
    assert [words in line for words, line in zip(("disk full", "No space", "valid"), bench.said, strict=True)] == [
        True
    ] * 3
    assert issued(server) == 1


@needs_pebble
async def test_what_came_instead_of_the_certificate_is_not_kept(bench: Bench, server: Any, answering: Any) -> None:
    async with Proxy(server) as proxy:
        other = self_made("www.example.test")[0]
        proxy.hold = lambda text: problem("200 OK", other, "Replay-Nonce: aaaa") if "/certZ/" in text else "pass"
        async with bench.following(proxy.url, answering.challenges) as follower:
            await bench.says("does not match")
            assert follower.sets == []
            proxy.hold = lambda text: "pass"
            await follower.yields()


@needs_pebble
async def test_an_order_that_fails_at_the_end(bench: Bench, server: Any, answering: Any) -> None:
    error = {"type": f"{ERROR}caa", "detail": "CAA forbids"}
    body = {"status": "invalid", "error": error, "authorizations": ["https://localhost/x"], "finalize": "https://x"}
    said = problem("200 OK", body, "Replay-Nonce: aaaa")
    async with Proxy(server) as proxy:
        proxy.hold = lambda text: said if "/finalize-order/" in text else "pass"
        async with bench.following(proxy.url, answering.challenges) as follower:
            await bench.says("the order is invalid: caa: CAA forbids; next attempt")
            proxy.hold = lambda text: "pass"
            await follower.yields()


@needs_pebble
async def test_a_server_that_never_looks_is_asked_again(
    bench: Bench, server: Any, answering: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acme_order, "_PATIENCE", 0.1)
    said = problem("200 OK", {}, "Replay-Nonce: aaaa", "Retry-After: 0")
    async with Proxy(server) as proxy:
        proxy.hold = lambda text: said if "/chalZ/" in text else "pass"
        async with bench.following(proxy.url, answering.challenges) as follower:
            await bench.says("has not looked at the challenges yet, after 0.1 s")
            assert len(bench.files(".order")) == 1, "the order goes on"
            monkeypatch.setattr(acme_order, "_PATIENCE", 300.0)
            proxy.hold = lambda text: "pass"
            await follower.yields()
    assert sum("/order-plz" in text for text in proxy.seen) == 1


@needs_pebble
async def test_no_http_01_offered(bench: Bench, server: Any, answering: Any) -> None:
    offer = {"type": "dns-01", "url": "https://localhost/x", "status": "pending", "token": "a" * 43}
    body = {"status": "pending", "identifier": {"type": "dns", "value": "x\ny"}, "challenges": [offer]}
    async with Proxy(server) as proxy:
        proxy.hold = lambda text: problem("200 OK", body, "Replay-Nonce: aaaa") if "/authZ/" in text else "pass"
        async with bench.following(proxy.url, answering.challenges):
            assert "x\\ny: the directory offers no http-01 challenge" in await bench.says("offers no")


async def test_a_fault_of_any_kind_ends_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    faults = [RuntimeError("odd\n"), AcmeError("refused", wait=0.01), OSError(28, "no space left"), KeyError("x")]

    async def obtain(self: object) -> None:
        raise faults.pop() if faults else AcmeError("the end")

    monkeypatch.setattr(acme_order.Attempt, "obtain", obtain)
    async with bench.following("https://localhost:1/dir", ca=""):
        await bench.says("the end")
    for words in ("KeyError: ", "no space left", "refused", "RuntimeError: odd\\n"):
        assert any(words in line for line in bench.said), words


async def test_a_folder_that_cannot_be_used_is_said(bench: Bench) -> None:
    (bench.folder / "router-acme").write_text("a file")
    async with bench.following("https://localhost:1/dir", ca="") as follower:
        assert "is no folder" in await bench.says("no new certificate")
        await eventually(lambda: len(bench.said) > 2)
        assert follower.sets == []
