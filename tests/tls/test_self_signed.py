"""The source of development certificates: the same after a restart, renewed in time, and never without one it had."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import shlex
import shutil
import ssl
import subprocess
import sys
import threading
import time
from asyncio.subprocess import DEVNULL, PIPE, STDOUT
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from router_tls import self_signed
from router_tls.authority import load_authority, make_authority
from router_tls.self_signed import SelfSigned, SelfSignedOptions

from router import Certificate, Tools
from router.options import PluginFault, read_options
from router.testing import make_tools

DAY = 86400.0
LIFE = 90 * DAY


@pytest.fixture(autouse=True)
def unsaid() -> Iterator[None]:
    self_signed._said.clear()
    yield
    self_signed._said.clear()


class Bench:
    """A source whose clock stands still until it sleeps, and whose sleeps end when the test says so.

    Attributes:
        now: seconds since the epoch.
        slept: how long it meant to sleep, each time.
    """

    def __init__(self, place: Path) -> None:
        self.place = place
        self.folder = place / "router-tls"
        self.now = float(int(time.time()))
        self.slept: list[float] = []

    def make(self, life: float = LIFE, **options: Any) -> SelfSigned:
        tools = make_tools()
        placed = Tools(tools.clock, tools.rng, self.place)
        chosen = read_options(SelfSignedOptions, options, "source")
        assert isinstance(chosen, SelfSignedOptions)
        return SelfSigned(chosen, placed, wall=lambda: self.now, sleep=self.sleep, life=life)

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
        await asyncio.sleep(0)

    def leaves(self) -> list[Path]:
        return sorted(self.folder.glob("leaf-*.pem"))

    def leaf(self) -> Path:
        (path,) = self.leaves()
        return path


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


class Watch:
    """One watch of a source: it stands still between two sets, but for a look that found nothing new."""

    def __init__(self, bench: Bench, source: SelfSigned) -> None:
        self._bench = bench
        self._sets = source.watch({})
        self._pending: asyncio.Task[Sequence[Certificate]] | None = None

    async def next(self) -> Certificate:
        """The next certificate."""
        (certificate,) = await asyncio.wait_for(self._begin(), 20)
        self._pending = None
        return certificate

    async def looks(self, count: int) -> None:
        """Lets the source look into its folder so often, and find nothing new."""
        pending, until = self._begin(), len(self._bench.slept) + count
        while len(self._bench.slept) < until:
            await asyncio.sleep(0.001)
            assert not pending.done(), "it has yielded"

    def _begin(self) -> asyncio.Task[Sequence[Certificate]]:
        if self._pending is None:
            self._pending = asyncio.ensure_future(anext(self._sets))  # type: ignore[arg-type]
        return self._pending

    async def __aenter__(self) -> Watch:
        return self

    async def __aexit__(self, *error: object) -> None:
        if self._pending is not None:
            self._pending.cancel()
            await asyncio.gather(self._pending, return_exceptions=True)
        await self._sets.aclose()  # type: ignore[attr-defined]


async def first(source: SelfSigned) -> Certificate:
    async with aclosing(source.watch({})) as watch:  # type: ignore[type-var]
        (certificate,) = await anext(watch)
    return certificate


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


# The certificate


async def test_it_is_made_and_the_same_after_a_restart(bench: Bench) -> None:
    source = bench.make()
    assert source.load() == ()
    assert not bench.folder.exists()
    made = await first(source)
    assert set(made.names) == {"localhost", "127.0.0.1", "::1"}
    assert made.not_after == bench.now + LIFE
    assert made.chain.startswith("-----BEGIN CERTIFICATE")
    assert bench.leaf().stat().st_mode & 0o777 == 0o600
    before = contents(bench.folder)
    again = bench.make()
    assert again.load() == (made,)
    assert await first(again) == made
    assert contents(bench.folder) == before


async def test_nothing_shows_its_key(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    source = bench.make()
    made = await first(source)
    body = made.key.splitlines()[1]
    assert body not in caplog.text
    assert body not in repr(made) + repr(source)


@asynccontextmanager
async def serving(bench: Bench, certificate: Certificate) -> AsyncIterator[int]:
    """A server on loopback that answers every request; its port."""
    pair = bench.place / "pair.pem"
    pair.write_text(certificate.key + certificate.chain)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 11\r\n")
            writer.write(b"Connection: close\r\n\r\n<p>well</p>")
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def output(*command: object, home: Path) -> str:
    """What a program prints, in 30 s; asked for input, it gets none."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(home)}
    process = await asyncio.create_subprocess_exec(
        *map(str, command), env=environment, stdin=DEVNULL, stdout=PIPE, stderr=STDOUT
    )
    try:
        printed, _ = await asyncio.wait_for(process.communicate(), 30)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return printed.decode(errors="replace")


@pytest.mark.parametrize("key_type", ["ecdsa", "rsa"])
async def test_a_client_that_trusts_the_authority_accepts_it(bench: Bench, key_type: str) -> None:
    """Python's, with what it verifies by default, and strictly."""
    made = await first(bench.make(names=["localhost", "*.dev.example", "127.0.0.1"], key_type=key_type))
    asking = ssl.create_default_context(cafile=str(bench.folder / "ca.pem"))
    asking.verify_flags |= ssl.VERIFY_X509_STRICT
    async with serving(bench, made) as port:
        for name in ("localhost", "a.dev.example", "127.0.0.1"):
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=asking, server_hostname=name)
            writer.write(b"GET / HTTP/1.1\r\n\r\n")
            assert (await reader.read()).endswith(b"<p>well</p>")
            writer.close()
            await writer.wait_closed()
        with pytest.raises(ssl.SSLCertVerificationError):
            await asyncio.open_connection("127.0.0.1", port, ssl=asking, server_hostname="other.example")


@pytest.mark.skipif(not shutil.which("curl"), reason="without curl")
async def test_the_command_that_is_said_works(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    made = await first(bench.make())
    said = re.search(r"curl --cacert \S+ https://localhost:PORT/", caplog.text)
    assert said
    async with serving(bench, made) as port:
        command = shlex.split(said[0].replace("PORT", str(port)))
        assert (await output(*command, "-sS", home=bench.place)).endswith("<p>well</p>")
        assert "certificate" in await output("curl", "-sS", f"https://localhost:{port}/", home=bench.place)


@pytest.mark.skipif(not (shutil.which("chromium") and shutil.which("certutil")), reason="without Chromium or certutil")
async def test_chromium_accepts_it_once_the_authority_is_imported(bench: Bench) -> None:
    database = bench.place / ".pki" / "nssdb"
    database.mkdir(parents=True)
    (bench.place / "password").write_text("\n")
    certutil = ("certutil", "-d", f"sql:{database}")
    browser = (
        "chromium",
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--no-proxy-server",
    )
    browser += ("--disable-background-networking", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost")
    assert await output(*certutil, "-N", "--empty-password", home=bench.place) == ""
    async with serving(bench, await first(bench.make())) as port:
        ask = (*browser, f"--user-data-dir={bench.place / 'profile'}", "--dump-dom", f"https://localhost:{port}/")
        assert "ERR_CERT_AUTHORITY_INVALID" in await output(*ask, home=bench.place)
        imported = ("-A", "-f", bench.place / "password", "-t", "C,,", "-n", "router", "-i", bench.folder / "ca.pem")
        assert await output(*certutil, *imported, home=bench.place) == ""
        assert "<p>well</p>" in await output(*ask, home=bench.place)


async def test_the_names_are_those_of_the_certificate(bench: Bench) -> None:
    names = ["LocalHost", "*.Dev.Example", "0:0:0:0:0:0:0:1", "my_app", "localhost", "10.0.0.1"]
    made = await first(bench.make(names=names))
    assert sorted(made.names) == ["*.dev.example", "10.0.0.1", "::1", "localhost", "my_app"]
    assert bench.make(names=[*reversed(names), "my_app"]).load() == (made,)


async def test_other_names_or_keys_are_another_certificate_of_the_same_authority(bench: Bench) -> None:
    one, other = bench.make(names=["one.example"]), bench.make(names=["other.example"])
    made = [await first(one), await first(other), await first(bench.make(names=["one.example"], key_type="rsa"))]
    assert [certificate.names for certificate in made] == [("one.example",), ("other.example",), ("one.example",)]
    assert len(bench.leaves()) == 3
    assert (one.load(), other.load()) == ((made[0],), (made[1],))
    authority = load_authority(bench.folder, bench.now)
    assert authority is not None
    assert all(authority.has_issued(certificate.chain.encode()) for certificate in made)


async def test_a_certificate_for_other_names_under_this_name_is_replaced(bench: Bench) -> None:
    await first(bench.make(names=["one.example"]))
    stranger = bench.leaf().read_bytes()
    source = bench.make(names=["other.example"])
    made = await first(source)
    source._path.write_bytes(stranger)
    assert source.load() == ()
    again = await first(source)
    assert (again.names, again == made) == (("other.example",), False)


# Renewal


async def test_it_is_renewed_when_a_third_of_its_life_is_left(bench: Bench) -> None:
    source = bench.make(life=180)
    begun = bench.now
    async with Watch(bench, source) as watch:
        one = await watch.next()
        two = await watch.next()
        assert bench.now == begun + 120
        three = await watch.next()
        assert bench.now == begun + 240
    assert [certificate.not_after - begun for certificate in (one, two, three)] == [180, 300, 420]
    assert len({certificate.key for certificate in (one, two, three)}) == 3
    assert bench.make(life=180).load() == (three,)


async def test_between_renewals_it_looks_into_the_folder_each_minute(bench: Bench) -> None:
    async with Watch(bench, bench.make()) as watch:
        await watch.next()
        await watch.looks(5)
    assert set(bench.slept) == {60.0}


async def test_a_machine_that_slept_renews_at_its_first_look(bench: Bench) -> None:
    async with Watch(bench, bench.make()) as watch:
        one = await watch.next()
        bench.now += 61 * DAY
        two = await watch.next()
    assert two.not_after > one.not_after
    assert sum(bench.slept) <= 60


async def test_an_expired_one_is_not_loaded_but_replaced(bench: Bench) -> None:
    one = await first(bench.make())
    bench.now += 91 * DAY
    assert bench.make().load() == ()
    two = await first(bench.make())
    assert two.not_after == bench.now + LIFE
    assert one.key != two.key


async def test_one_that_is_due_is_loaded_until_the_next_is_there(bench: Bench) -> None:
    one = await first(bench.make())
    bench.now += 70 * DAY
    assert bench.make().load() == (one,)
    assert (await first(bench.make())).not_after == bench.now + LIFE


async def test_another_authority_means_another_certificate(bench: Bench) -> None:
    async with Watch(bench, bench.make()) as watch:
        one = await watch.next()
        (bench.folder / "ca.pem").unlink()
        (bench.folder / "ca.key").unlink()
        two = await watch.next()
    authority = load_authority(bench.folder, bench.now)
    assert authority is not None
    assert [authority.has_issued(certificate.chain.encode()) for certificate in (one, two)] == [False, True]


async def test_what_another_router_made_is_served_too(bench: Bench) -> None:
    async with Watch(bench, bench.make()) as watch:
        await watch.next()
        bench.leaf().unlink()
        theirs = await first(bench.make())
        assert await watch.next() == theirs


async def test_one_that_ends_with_its_authority_is_not_made_again_and_again(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    make_authority(bench.folder, bench.now, life=300)
    async with Watch(bench, bench.make()) as watch:
        made = await watch.next()
        assert made.not_after == bench.now + 300
        await watch.looks(3)
        assert caplog.text.count("remove it and its key for a new authority, and trust that") == 1
        # Past its end nothing better is there: it stays, and that is said once.
        await watch.looks(6)
    assert caplog.text.count("the last certificate stays") == 1
    assert "expired on" in caplog.text


async def test_certificates_that_have_ended_are_removed(bench: Bench) -> None:
    await first(bench.make(names=["old.example"]))
    old = bench.leaf()
    os.utime(old, (bench.now - LIFE - 1, bench.now - LIFE - 1))
    await first(bench.make(names=["new.example"]))
    assert old not in bench.leaves()
    assert len(bench.leaves()) == 1


# Trouble


@pytest.mark.parametrize("content", [b"", b"junk", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
async def test_a_broken_certificate_is_replaced(bench: Bench, content: bytes) -> None:
    await first(bench.make())
    path = bench.leaf()
    path.write_bytes(content)
    assert bench.make().load() == ()
    assert path.read_bytes() == content
    made = await first(bench.make())
    assert bench.make().load() == (made,)


async def test_a_key_that_others_could_read_is_not_served_again(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    one = await first(bench.make())
    bench.leaf().chmod(0o644)
    assert bench.make().load() == ()
    two = await first(bench.make())
    assert one.key != two.key
    assert "others may read" in caplog.text
    assert bench.leaf().stat().st_mode & 0o777 == 0o600


async def test_an_authority_that_cannot_be_trusted(bench: Bench) -> None:
    await first(bench.make())
    (bench.folder / "ca.key").chmod(0o644)
    before = contents(bench.folder)
    with pytest.raises(ValueError, match=r"others may read .*ca\.key"):
        bench.make().load()
    with pytest.raises(ValueError, match=r"others may read .*ca\.key"):
        await first(bench.make())
    assert contents(bench.folder) == before


def test_a_folder_in_no_folder(bench: Bench) -> None:
    with pytest.raises(ValueError, match="missing is no folder: make it, or set another folder"):
        bench.make(folder="missing/router-tls").load()


async def test_trouble_while_serving_keeps_the_last_and_is_said_once(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    async with Watch(bench, bench.make()) as watch:
        await watch.next()
        key = bench.folder / "ca.key"
        key.chmod(0o644)
        await watch.looks(4)
        assert caplog.text.count("the last certificate stays") == 1
    async with Watch(bench, bench.make()) as watch:
        key.chmod(0o600)
        assert await watch.next()


async def test_it_is_said_again_when_it_was_well_between(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    source = bench.make()
    await first(source)
    key = bench.folder / "ca.key"
    for _ in range(2):
        async with Watch(bench, source) as watch:
            key.chmod(0o600)
            await watch.next()
            key.chmod(0o644)
            await watch.looks(2)
    assert caplog.text.count("the last certificate stays") == 2


async def test_a_full_disk_at_renewal_keeps_the_last(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    one = await first(bench.make())
    bench.now += 70 * DAY

    def fsync(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        source = bench.make()
        async with Watch(bench, source) as watch:
            assert await watch.next() == one
            await watch.looks(3)
            assert set(bench.slept) == {60.0}
            assert caplog.text.count("no space left on device") == 1
            patch.undo()
            assert (await watch.next()).not_after > one.not_after


async def test_a_full_disk_at_the_start(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    make_authority(bench.folder, bench.now)

    def fsync(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(ValueError, match="no space left on device"):
        await first(bench.make())


async def test_sources_that_start_together(bench: Bench) -> None:
    made = await asyncio.gather(*(first(bench.make(names=[f"{n % 3}.example"])) for n in range(6)))
    authority = load_authority(bench.folder, bench.now)
    assert authority is not None
    assert all(authority.has_issued(certificate.chain.encode()) for certificate in made)
    assert len(bench.leaves()) == 3


async def test_the_loop_is_never_held_up(bench: Bench) -> None:
    """All that reads, writes or signs runs in another thread."""
    main = threading.get_ident()
    threads: list[int] = []
    source = bench.make()

    def wall() -> float:
        threads.append(threading.get_ident())
        return bench.now

    source._wall = wall
    await first(source)
    assert threads
    assert main not in threads


# What is said


async def test_where_the_authority_is_and_how_to_trust_it(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    await first(bench.make())
    await first(bench.make(names=["other.example"]))
    said = [text for text in caplog.messages if "the authority to trust" in text]
    assert len(said) == 1
    assert f"curl --cacert {bench.folder / 'ca.pem'} https://localhost:" in said[0]
    assert {record.name for record in caplog.records if "self_signed" in record.message} == {"router_tls"}


@pytest.mark.parametrize(
    ("names", "host"),
    [(["::1"], "https://[::1]:"), (["*.dev.example", "b.example"], "https://b.example:"), (["*.a.b"], "//localhost:")],
)
async def test_the_command_names_what_the_certificate_does(
    bench: Bench, caplog: pytest.LogCaptureFixture, names: list[str], host: str
) -> None:
    caplog.set_level(logging.INFO)
    await first(bench.make(names=names))
    assert host in caplog.text


# Options


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("", "is no host name"),
        ("a..b", "is no host name"),
        ("localhost.", "is no host name"),
        ("-a.example", "is no host name"),
        ("a-.example", "is no host name"),
        ("a" * 64, "is no host name"),
        (".".join(["a" * 60] * 5), "is no host name"),
        ("localhost:8443", "is no host name"),
        ("https://localhost", "is no host name"),
        ("a b", "is no host name"),
        ("a\nb", r"'a\nb' is no host name"),
        ("[::1]", "is no host name"),
        ("127.1", "is no host name"),
        ("300.0.0.1", "is no host name"),
        ("10.0.0.0/8", "is no host name"),
        ("a.*.example", "is no host name"),
        ("a*.dev.example", "is no host name"),
        ("*.127.0.0.1", "is no host name"),
        ("*", "stands for too much"),
        ("*.localhost", "stands for too much"),
        ("b\u00fccher.example", "xn--bcher-kva.example"),
        ("fe80::1%eth0", "has a zone"),
    ],
)
def test_names_that_no_certificate_can_have(name: str, words: str) -> None:
    with pytest.raises(PluginFault) as refused:
        read_options(SelfSignedOptions, {"names": ["localhost", name]}, "source")
    assert words in str(refused.value)
    assert '"localhost" is' not in str(refused.value)
    assert str(refused.value).isprintable()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"names": []}, "names holds 1 to 100 names"),
        ({"names": ["a"] * 101}, "names holds 1 to 100 names"),
        ({"folder": ""}, "folder names a folder"),
        ({"folder": "a\0b"}, "folder names a folder"),
        ({"key_type": "dsa"}, '"ecdsa" or "rsa"'),
    ],
)
def test_options_that_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(PluginFault) as refused:
        read_options(SelfSignedOptions, options, "source")
    assert words in str(refused.value)


def test_an_absolute_folder(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "elsewhere")
    make_authority(tmp_path / "there", bench.now)
    (tmp_path / "there").chmod(0o770)
    with pytest.raises(ValueError, match="others may write to"):
        bench.make(folder=str(tmp_path / "there")).load()


def test_to_import_it_is_cheap() -> None:
    """The router's start pays for cryptography only where it is used."""
    program = "import sys, router_tls.self_signed; print(*[m for m in sys.modules if m.startswith('cryptography')])"
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        check=True,
        timeout=20,
    )
    assert done.stdout.strip() == ""
