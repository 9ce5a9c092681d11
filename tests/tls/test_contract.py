"""check_certificates holds for certificates from files, and catches what it says: a broken source for each law."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from typing import Any

import pytest
import uvloop
from router_tls.files import FilesOptions, FilesSource

from router import Certificate, Options
from router.testing import certificates as laws
from router.testing import check_certificates, watched

log = logging.getLogger("router_tls.broken")


async def test_the_files_source(bench: Any) -> None:
    bench.pair("certs/a.pem", "a.test")
    missing = FilesOptions(paths=(str(bench.folder / "missing"),))
    await check_certificates(
        FilesSource,
        FilesOptions(paths=(str(bench.folder / "certs"),)),
        change=lambda: bench.pair("certs/b.pem", "b.test"),
        ill=missing,
    )


def test_the_files_source_on_uvloop(still: Any) -> None:
    still.pair("certs/a.pem", "a.test")
    options = FilesOptions(paths=(str(still.folder / "certs"),))

    def change() -> None:
        still.pair("certs/a.pem", "a.test")

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(check_certificates(FilesSource, options, change=change))


class Right:
    """A right source, which each broken one changes in one point."""

    class Options(Options, frozen=True):
        ill: bool = False

    def __init__(self, options: Any, tools: Any) -> None:
        self.ill = options.ill
        self.found = list(standing)
        self.news = asyncio.Event()
        made.append(self)

    def add(self) -> None:
        self.found = [*self.found, coming[0]]
        self.news.set()

    def load(self) -> Any:
        if self.ill:
            raise ValueError(self.why())
        return list(self.found)

    async def watch(self, challenges: Any) -> Any:
        await asyncio.sleep(0)
        if self.ill:
            raise OSError(self.why())
        challenges["/.well-known/acme-challenge/token"] = b"answer"
        try:
            while True:
                yield self.set()
                await self.news.wait()
                self.news.clear()
        finally:
            challenges.clear()

    def why(self) -> str:
        return "there is nothing"

    def set(self) -> Any:
        return self.found


#: Of one check, the first that was made is the one that finds something.
made: list[Any] = []
standing: list[Certificate] = []
coming: list[Certificate] = []


@pytest.fixture(autouse=True)
def issued(authority: Any) -> None:
    made.clear()
    for several, name in ((standing, "a.test"), (coming, "b.test")):
        pair = authority.issue(name)
        several[:] = [Certificate((name,), pair.chain.decode(), pair.key.decode(), time.time() + 1000)]


def with_other(**fields: Any) -> list[Certificate]:
    """What stands, with other fields."""
    one = standing[0]
    whole = {"names": one.names, "chain": one.chain, "key": one.key, "not_after": one.not_after, **fields}
    return [Certificate(**whole)]


class Awaited(Right):
    async def load(self) -> Any:  # type: ignore[override]
        return []


class LoadRaises(Right):
    def load(self) -> Any:
        raise ValueError("no")


class LoadText(Right):
    def load(self) -> Any:
        return "certificates"


class Stranger(Right):
    def set(self) -> Any:
        return [*self.found, "certificate"]


class Single(Right):
    def set(self) -> Any:
        return self.found[0]


class Empty(Right):
    def set(self) -> Any:
        return []


class Nameless(Right):
    def set(self) -> Any:
        return with_other(names=())


class Upper(Right):
    def set(self) -> Any:
        return with_other(names=("A.test",))


class Timeless(Right):
    def set(self) -> Any:
        return with_other(not_after=float("inf"))


class Swapped(Right):
    def set(self) -> Any:
        return with_other(chain=standing[0].key, key=standing[0].chain)


class Mismatched(Right):
    def set(self) -> Any:
        return with_other(key=coming[0].key)


class Der(Right):
    def set(self) -> Any:
        return with_other(chain="0\x82")


class Twice(Right):
    def set(self) -> Any:
        return [*self.found, *self.found]


class Talks(Right):
    def set(self) -> Any:
        log.warning("the key is %s", standing[0].key)
        return self.found


class Leaves(Right):
    async def watch(self, challenges: Any) -> Any:
        challenges["/.well-known/acme-challenge/token"] = b"answer"
        yield self.found
        await self.news.wait()


class Elsewhere(Right):
    async def watch(self, challenges: Any) -> Any:
        challenges["/token"] = b"answer"
        yield self.found


class Text(Right):
    async def watch(self, challenges: Any) -> Any:
        challenges["/.well-known/acme-challenge/token"] = "answer"
        yield self.found


class Coroutine(Right):
    async def watch(self, challenges: Any) -> Any:
        return self.found


class Raises(Right):
    def watch(self, challenges: Any) -> Any:
        raise OSError("no")


class Ends(Right):
    async def watch(self, challenges: Any) -> Any:
        if self.ill:
            raise OSError("no")
        yield self.found


class Fails(Right):
    async def watch(self, challenges: Any) -> Any:
        raise OSError("no")
        yield


class Forgets(Right):
    """Each watch begins with another set."""

    watches = 0

    def set(self) -> Any:
        self.watches += 1
        return with_other(not_after=1e9 + self.watches)


class Mutates(Right):
    def add(self) -> None:
        self.found.append(coming[0])
        self.news.set()


class Repeats(Right):
    def add(self) -> None:
        self.news.set()


class Exits(Right):
    """Takes being cancelled for an end."""

    async def watch(self, challenges: Any) -> Any:
        try:
            async for found in super().watch(challenges):
                yield found
        except asyncio.CancelledError:
            pass


class Task(Right):
    async def watch(self, challenges: Any) -> Any:
        tasks.append(asyncio.ensure_future(asyncio.sleep(60)))
        async for found in super().watch(challenges):
            yield found


class IllLoads(Right):
    def load(self) -> Any:
        return list(standing)


class IllOther(Right):
    def load(self) -> Any:
        if self.ill:
            raise OSError("no")
        return list(standing)


class IllQuiet(Right):
    async def watch(self, challenges: Any) -> Any:
        self.ill = False
        async for found in super().watch(challenges):
            yield found


class IllMute(Right):
    def why(self) -> str:
        return ""


class IllLines(Right):
    def why(self) -> str:
        return "one\ntwo"


class IllLong(Right):
    def load(self) -> Any:
        if self.ill:
            raise ValueError("no")
        return list(standing)

    def why(self) -> str:
        return "x" * 600


tasks: list[Any] = []


async def check(source: type[Any]) -> None:
    made.clear()
    await check_certificates(source, change=lambda: made[0].add(), ill=Right.Options(ill=True))


async def test_a_right_source_passes() -> None:
    await check(Right)
    await check_certificates(Right)


async def test_load_is_optional_and_may_find_nothing() -> None:
    class Without(Right):
        load = None

    class Nothing(Right):
        def load(self) -> Sequence[Certificate]:
            return ()

    await check(Without)
    await check(Nothing)


async def test_paths_in_place_of_texts(tmp_path: Any) -> None:
    chain, key = tmp_path / "chain.pem", tmp_path / "key.pem"
    chain.write_text(standing[0].chain)
    key.write_text(standing[0].key)
    standing[:] = with_other(chain=str(chain), key=str(key))
    await check(Right)


@pytest.mark.parametrize(
    ("source", "law"),
    [
        (Awaited, "load() is a plain `def`"),
        (LoadRaises, "load() raises only where something is wrong"),
        (LoadText, "a set is complete, and a list or tuple"),
        (Single, "a set is complete, and a list or tuple"),
        (Stranger, "a set consists of Certificate alone"),
        (Empty, "a set holds at least one certificate"),
        (Nameless, "a certificate has names"),
        (Upper, "a name is printable and in lower case"),
        (Timeless, "not_after is in seconds since the epoch"),
        (Swapped, "the chain holds no key"),
        (Mismatched, "a TLS server can load each certificate with its key"),
        (Der, "chain and key are PEM texts"),
        (Twice, "no certificate is there twice"),
        (Talks, "no key is written to the log"),
        (Leaves, "takes its challenges back"),
        (Elsewhere, "a challenge's path begins with"),
        (Text, "a challenge's answer is bytes"),
        (Coroutine, "is an asynchronous iterator"),
        (Raises, "returns and raises nothing itself"),
        (Ends, "a cancelled watch ends as cancelled"),
        (Fails, "raises only where there is no set"),
        (Forgets, "a second watch begins with the set of now"),
        (Mutates, "a set that was yielded stays as it was"),
        (Repeats, "yielded again when it has changed"),
        (Exits, "a cancelled watch ends as cancelled"),
        (Task, "leaves no task behind"),
        (IllLoads, "load() gives what stands already, or says what is wrong"),
        (IllOther, "what load() raises is a ValueError"),
        (IllQuiet, "a watch that finds nothing says so"),
        (IllMute, "says why"),
        (IllLines, "one printable line"),
        (IllLong, "at most 500 characters"),
    ],
)
async def test_each_law_is_enforced(source: type[Any], law: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watched, "_LINGER", 0.01)
    with pytest.raises(AssertionError) as caught:
        await check(source)
    assert law in str(caught.value)
    assert str(caught.value).startswith("broken law: ")
    assert "PRIVATE KEY" not in str(caught.value).replace(laws.__name__, "")
    for task in tasks:
        task.cancel()
    tasks.clear()


async def test_an_encrypted_key_is_refused_without_a_question() -> None:
    from cryptography.hazmat.primitives.serialization import (
        BestAvailableEncryption,
        Encoding,
        PrivateFormat,
        load_pem_private_key,
    )

    key = load_pem_private_key(standing[0].key.encode(), None)
    data = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"password"))
    standing[:] = with_other(key=data.decode())
    with pytest.raises(AssertionError, match="which is not encrypted"):
        await check(Right)


async def test_a_source_that_waits_for_ever_is_said_to(monkeypatch: pytest.MonkeyPatch) -> None:
    class Waits(Right):
        async def watch(self, challenges: Any) -> Any:
            await asyncio.Event().wait()
            yield

    monkeypatch.setattr(watched, "_PATIENCE", 0.05)
    with pytest.raises(AssertionError, match="a source that finds certificates yields them"):
        await check_certificates(Waits)
    await asyncio.sleep(0.01)
