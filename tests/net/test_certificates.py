"""A source of certificates at work: its last good set stays whatever it does, and nothing tells a key."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_asyncio

from router import Certificate
from router.net import certificates, sourcing
from router.net.certificates import CertificateRun, expiry_warnings

NEVER = 3600.0
DAY = 86_400.0
SECRET = "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n"


def certificate(*names: str, **more: Any) -> Certificate:
    fields: dict[str, Any] = {"chain": "-----BEGIN CERTIFICATE-----", "key": SECRET, "not_after": 4e9, **more}
    return Certificate(names or ("a.test",), **fields)


def some(names: str) -> list[Certificate]:
    return [certificate(f"{name}.test") for name in names]


class Scripted:
    """Yields these, one whenever `more` is set but for the first; then hangs. What is an exception is raised."""

    def __init__(self, *sets: Any) -> None:
        self.sets = list(sets)
        self.more = asyncio.Event()
        self.watched = 0
        self.given: Any = None
        self.more.set()

    async def watch(self, challenges: dict[str, bytes]) -> AsyncIterator[Any]:
        self.watched += 1
        self.given = challenges
        while self.sets:
            await self.more.wait()
            self.more.clear()
            each = self.sets.pop(0)
            if isinstance(each, BaseException):
                raise each
            yield each
        await asyncio.sleep(NEVER)


class Bench:
    def __init__(self) -> None:
        self.taken: list[str] = []
        self.refuses: ValueError | None = None
        self.challenges: dict[str, bytes] = {}
        self.runs: list[CertificateRun] = []

    def begin(self, source: Any) -> CertificateRun:
        name = "listener 127.0.0.1:8443, certificates test"
        self.runs.append(CertificateRun(name, source, self.challenges, self._take, random.Random(7)))
        return self.runs[-1]

    def _take(self, found: tuple[Certificate, ...]) -> None:
        if self.refuses is not None:
            raise self.refuses
        self.taken.append("".join(each.names[0][0] for each in found))


async def turns(holds: Callable[[], Any]) -> None:
    async with asyncio.timeout(8):
        while not holds():  # noqa: ASYNC110 - any condition, not one that tells
            await asyncio.sleep(0.001)


async def goes_on(source: Scripted) -> None:
    source.more.set()
    await turns(lambda: not source.more.is_set())
    await asyncio.sleep(0)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asks again soon."""
    monkeypatch.setattr(sourcing, "_FIRST", 0.001)
    monkeypatch.setattr(sourcing, "_LONGEST", 0.01)


@pytest_asyncio.fixture
async def bench() -> AsyncIterator[Bench]:
    before = asyncio.all_tasks()
    made = Bench()
    yield made
    for run in made.runs:
        await run.close()
    assert not asyncio.all_tasks() - before - {asyncio.current_task()}


def warned(caplog: Any) -> list[str]:
    return [each.getMessage() for each in caplog.records if each.levelname == "WARNING"]


async def test_each_new_set_is_taken_and_the_same_one_is_not(bench: Bench) -> None:
    source = Scripted(some("ab"), tuple(some("ab")), some("c"), [])
    run = bench.begin(source)
    assert (run.state, run.certificates) == ("no answer yet", ())
    await run.first.wait()
    assert source.given is bench.challenges
    assert (run.state, bench.taken) == ("ok", ["ab"])
    assert run.certificates == tuple(some("ab"))
    await goes_on(source)
    assert bench.taken == ["ab"]
    await goes_on(source)
    await goes_on(source)
    await turns(lambda: len(bench.taken) == 3)
    assert bench.taken == ["ab", "c", ""]
    assert (source.watched, run.certificates) == (1, ())


@pytest.mark.parametrize("field", ["chain", "key"])
async def test_what_paths_lead_to_may_be_new(bench: Bench, field: str) -> None:
    paths = [certificate(**{field: "/certs/a.pem"})]
    source = Scripted(paths, paths)
    await bench.begin(source).first.wait()
    await goes_on(source)
    await turns(lambda: bench.taken == ["a", "a"])


@pytest.mark.parametrize(
    ("junk", "why"),
    [
        (None, "it gave a NoneType; a source gives a list of Certificate"),
        (SECRET, "it gave a str; a source gives a list of Certificate"),
        (b"x", "it gave a bytes"),
        ([SECRET], "it gave a str among the certificates; each is a Certificate"),
        ([*some("a"), 7], "it gave a int among"),
        ([Certificate((), "", SECRET, 0.0)], "the names of a certificate are"),
        ([Certificate(SECRET, "", SECRET, 0.0)], "the names of a certificate are"),  # type: ignore[arg-type]
        ([Certificate(("a\nb",), "", SECRET, 0.0)], "the names of a certificate are"),
        ([Certificate(("x" * 254,), "", SECRET, 0.0)], "the names of a certificate are"),
        ([certificate(chain=7)], "certificate for a.test: chain and key are text"),
        ([certificate(key=SECRET.encode())], "certificate for a.test: chain and key are text"),
        ([certificate(not_after=SECRET)], "certificate for a.test: not_after is seconds"),
        ([certificate(not_after=float("nan"))], "certificate for a.test: not_after is seconds"),
    ],
)
async def test_junk_keeps_the_last_good_set_and_is_said_once(bench: Bench, caplog: Any, junk: Any, why: str) -> None:
    source = Scripted(some("a"), junk, junk, some("b"))
    run = bench.begin(source)
    await run.first.wait()
    await goes_on(source)
    await turns(lambda: run.state != "ok")
    await goes_on(source)
    assert why in run.state
    assert (bench.taken, run.certificates) == (["a"], tuple(some("a")))
    await goes_on(source)
    await turns(lambda: run.state == "ok")
    assert bench.taken == ["a", "b"]
    assert len(warned(caplog)) == 1
    assert "the last good certificates stay" in warned(caplog)[0]
    assert "c2VjcmV0" not in caplog.text
    assert source.watched == 1


async def test_a_set_that_the_store_refuses_is_not_the_last_good_one(bench: Bench, caplog: Any) -> None:
    source = Scripted(some("a"), some("b"), some("b"))
    run = bench.begin(source)
    await run.first.wait()
    bench.refuses = ValueError("b.test: the key does not belong to the certificate")
    await goes_on(source)
    await turns(lambda: run.state == str(bench.refuses))
    assert run.certificates == tuple(some("a"))
    bench.refuses = None
    await goes_on(source)
    await turns(lambda: run.state == "ok")
    assert bench.taken == ["a", "b"]
    assert len(warned(caplog)) == 1


async def test_a_set_may_be_so_large_and_no_larger(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certificates, "_MOST", 3)
    source = Scripted(some("abc"), some("abcd"))
    run = bench.begin(source)
    await run.first.wait()
    assert bench.taken == ["abc"]
    await goes_on(source)
    await turns(lambda: run.state != "ok")
    assert run.state == "it gave more than 3 certificates, which is the most that are taken"


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (RuntimeError("no directory"), "RuntimeError: no directory"),
        (OSError(111, "Connection refused"), "Connection refused"),
        (SystemExit("I quit"), "I quit"),
        (ValueError(f"cannot read {SECRET}"), "it raised an error that holds a private key"),
        (RuntimeError("a\n\x1b[31m" + "x" * 9999), "RuntimeError: a [31mxxx"),
    ],
)
@pytest.mark.usefixtures("quick")
async def test_one_that_raises_is_asked_again(bench: Bench, caplog: Any, error: BaseException, why: str) -> None:
    caplog.set_level("INFO", "router")
    source = Scripted(some("a"), error, error, some("b"))
    run = bench.begin(source)
    await run.first.wait()
    for _ in range(3):
        await goes_on(source)
    await turns(lambda: bench.taken == ["a", "b"])
    assert source.watched == 3
    said = [each.getMessage() for each in caplog.records]
    assert len(warned(caplog)) == 1
    assert why in said[0]
    assert "the last good certificates stay" in said[0]
    assert all(each.isprintable() and len(each) < 400 for each in said)
    assert "c2VjcmV0" not in caplog.text
    assert said[-1] == "listener 127.0.0.1:8443, certificates test: works again"


@pytest.mark.usefixtures("quick")
async def test_one_that_ends_or_is_none_is_asked_again(bench: Bench, caplog: Any) -> None:
    class Odd:
        watched = 0

        def watch(self, challenges: dict[str, bytes]) -> Any:
            self.watched += 1
            if self.watched == 1:
                return None
            return self._sets()

        async def _sets(self) -> AsyncIterator[Any]:
            if self.watched > 2:
                yield some("a")
                await asyncio.sleep(NEVER)

    run = bench.begin(Odd())
    await run.first.wait()
    assert run.state not in ("ok", "no answer yet")
    await turns(lambda: bench.taken == ["a"])
    assert any("it ended, which a source never does; no certificates so far" in each for each in warned(caplog))


async def test_it_can_be_closed_before_it_has_begun(bench: Bench) -> None:
    source = Scripted(some("a"))
    await bench.begin(source).close()
    assert (bench.taken, source.watched) == ([], 0)


def test_certificates_that_end_soon_are_told_of_the_most_urgent_first() -> None:
    now = 1_700_000_000.0
    ends = {"late": 15, "edge": 14, "days": 3.5, "one": 1, "hours": 0.5, "now": 0, "gone": -2}
    said = expiry_warnings(
        [certificate(f"{name}.test", not_after=now + days * DAY) for name, days in ends.items()], now
    )
    assert said == [
        "the certificate for gone.test has expired on 2023-11-12 22:13 UTC",
        "the certificate for now.test has expired on 2023-11-14 22:13 UTC",
        "the certificate for hours.test expires in less than a day, on 2023-11-15 10:13 UTC",
        "the certificate for one.test expires in 1 day, on 2023-11-15 22:13 UTC",
        "the certificate for days.test expires in 3 days, on 2023-11-18 10:13 UTC",
        "the certificate for edge.test expires in 14 days, on 2023-11-28 22:13 UTC",
    ]


def test_a_certificate_of_many_names_is_told_by_the_first() -> None:
    many = certificate("a.test", "b.test", "c.test", "d.test", not_after=0.0)
    assert expiry_warnings([many], 1.0)[0].startswith("the certificate for a.test, b.test, c.test, ... has expired")
