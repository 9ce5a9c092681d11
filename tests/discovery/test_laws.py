"""check_source holds for the bundled sources, and catches what it says it catches: a broken source for each law."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from router_discovery.dns import DnsOptions, DnsSource
from router_discovery.file import FileOptions, FileSource
from router_discovery.http import HttpOptions, HttpSource

from router import Duration, EndpointSpec, Options
from router.testing import check_source, watched

ONE, TWO = EndpointSpec("http://127.0.0.1:9001"), EndpointSpec("http://127.0.0.1:9002")


async def test_the_file_source(bench: Any) -> None:
    file = bench.folder / "servers.txt"

    def change(text: str = TWO.url) -> None:
        file.write_text(text)

    change(ONE.url)
    missing = FileOptions(path=str(bench.folder / "missing"))
    await check_source(FileSource, FileOptions(path=str(file)), change=change, ill=missing)


async def test_the_dns_source(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its look-ups are those of dnspython, which its own tests run against a name server."""
    from router_discovery.dns_lookup import Lookup

    addresses = ["127.0.0.1"]

    async def ask(lookup: Lookup, name: str, kind: str) -> tuple[list[str], float]:
        await asyncio.sleep(0.001)
        return (list(addresses) if name == "web.test" else []), 0.0

    monkeypatch.setattr(Lookup, "ask", ask)
    more: dict[str, Any] = {"port": 80, "resolver": ("127.0.0.1:1",), "min_interval": Duration(0.01)}
    await check_source(
        DnsSource,
        DnsOptions("web.test", **more),
        change=lambda: addresses.append("127.0.0.2"),
        ill=DnsOptions("else.test", **more),
    )


async def test_the_http_source(bench: Any) -> None:
    servers = [ONE.url]

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            body = str(servers).replace("'", '"').encode()
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        except asyncio.IncompleteReadError:
            pass
        writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    quick = Duration(0.01)
    await check_source(
        HttpSource,
        HttpOptions(url, interval=quick),
        change=lambda: servers.append(TWO.url),
        ill=HttpOptions("http://127.0.0.1:1/", interval=quick),
    )
    server.close()


class Right:
    """A right source, which each broken one changes in one point."""

    class Options(Options, frozen=True):
        ill: bool = False

    def __init__(self, options: Any, tools: Any) -> None:
        self.ill = options.ill
        self.specs = [ONE]
        self.watches = 0
        changing.append(self)
        self.news = asyncio.Event()

    def add(self) -> None:
        self.specs = [*self.specs, TWO]
        self.news.set()

    async def watch(self) -> Any:
        self.watches += 1
        await asyncio.sleep(0)
        if self.ill:
            raise OSError(self.why())
        while True:
            yield self.set()
            await self.wait()

    def why(self) -> str:
        return "nobody is there"

    def set(self) -> Any:
        return self.specs

    async def wait(self) -> None:
        await self.news.wait()
        self.news.clear()


#: The sources that were made; of one check, the first is the one that finds something.
changing: list[Any] = []


@pytest.fixture(autouse=True)
def forgotten() -> None:
    changing.clear()


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watched, "_PATIENCE", 0.2)
    monkeypatch.setattr(watched, "_LINGER", 0.05)


class Coroutine(Right):
    async def watch(self) -> Any:
        return [ONE]


class Raises(Right):
    def watch(self) -> Any:
        raise OSError("not yet")


class Plain(Right):
    def watch(self) -> Any:
        return [[ONE]]


class Ends(Right):
    async def watch(self) -> Any:
        for _ in ():
            yield []


class EndsLater(Right):
    async def watch(self) -> Any:
        yield [ONE]


class Fails(Right):
    async def watch(self) -> Any:
        raise OSError("down")
        yield []


class Silent(Right):
    async def watch(self) -> Any:
        await asyncio.Event().wait()
        yield []


class Cancels(Right):
    async def watch(self) -> Any:
        raise asyncio.CancelledError
        yield []


class OneByOne(Right):
    def set(self) -> Any:
        return ONE


class Urls(Right):
    def set(self) -> Any:
        return [ONE.url]


class Twice(Right):
    def set(self) -> Any:
        return [ONE, EndpointSpec("http://127.0.0.1:9001/")]


class SameId(Right):
    def set(self) -> Any:
        return (EndpointSpec(ONE.url, id="a"), EndpointSpec(TWO.url, id="a"))


class NoUrl(Right):
    def set(self) -> Any:
        return [EndpointSpec("127.0.0.1")]


class OnlyOnce(Right):
    def set(self) -> Any:
        return [ONE] if self.watches == 1 else []


class Exhausted(Right):
    async def watch(self) -> Any:
        self.watches += 1
        if self.watches > 1:
            await asyncio.Event().wait()
        yield [ONE]


class Spoilt(Right):
    def set(self) -> Any:
        return [ONE] if self.watches < 5 else [TWO]


class Stubborn(Right):
    async def wait(self) -> None:
        try:
            await super().wait()
        except asyncio.CancelledError:
            await asyncio.sleep(0.5)
            raise


class Swallows(Right):
    async def watch(self) -> Any:
        try:
            async for specs in super().watch():
                yield specs
        except asyncio.CancelledError:
            pass


#: Tasks that nobody ends.
kept: list[Any] = []


class Leaves(Right):
    async def wait(self) -> None:
        kept.append(asyncio.ensure_future(asyncio.sleep(0.3)))
        await super().wait()


class Clings(Right):
    async def watch(self) -> Any:
        try:
            yield [ONE]
            await self.wait()
        finally:
            await asyncio.sleep(0.5)


class Complains(Right):
    async def watch(self) -> Any:
        try:
            yield [ONE]
            await self.wait()
        finally:
            raise OSError("why was I closed?")


class Deaf(Right):
    def add(self) -> None:
        pass


class Repeats(Right):
    def add(self) -> None:
        self.news.set()


class Reuses(Right):
    def add(self) -> None:
        self.specs.append(TWO)
        self.news.set()


class IllYields(Right):
    async def watch(self) -> Any:
        self.ill = False
        async for specs in super().watch():
            yield specs


class IllWaits(Right):
    async def watch(self) -> Any:
        if self.ill:
            await asyncio.Event().wait()
        async for specs in super().watch():
            yield specs


class IllExits(Right):
    async def watch(self) -> Any:
        if self.ill:
            raise asyncio.CancelledError
        async for specs in super().watch():
            yield specs


class IllMute(Right):
    def why(self) -> str:
        return ""


class IllQuotes(Right):
    def why(self) -> str:
        return "said\n\x1b[2J"


class IllTalks(Right):
    def why(self) -> str:
        return "x" * 500


async def check(source: type[Any]) -> None:
    await check_source(source, change=lambda: changing[0].add(), ill=Right.Options(ill=True))


async def test_a_right_source_passes(bench: Any) -> None:
    await check(Right)
    await check_source(Right)


async def test_a_change_may_be_awaited(bench: Any) -> None:
    async def change() -> None:
        await asyncio.sleep(0)
        changing[0].add()

    await check_source(Right, change=change)


async def test_an_iterator_without_aclose_will_do(bench: Any) -> None:
    class Simple:
        def __init__(self) -> None:
            self.told = False

        def __aiter__(self) -> Any:
            return self

        async def __anext__(self) -> Any:
            if self.told:
                await asyncio.Event().wait()
            self.told = True
            return (ONE,)

    class Source:
        def watch(self) -> Any:
            return Simple()

    await check_source(Source)


@pytest.mark.parametrize(
    ("source", "law"),
    [
        (Coroutine, "is an asynchronous iterator"),
        (Raises, "returns and raises nothing itself"),
        (Plain, "is an asynchronous iterator"),
        (Ends, "does not end by itself"),
        (EndsLater, "ends as cancelled"),
        (Fails, "raises only where there is no set"),
        (Silent, "that finds endpoints yields them"),
        (Cancels, "does not cancel itself"),
        (OneByOne, "is the complete set"),
        (Urls, "consists of EndpointSpec alone"),
        (Twice, "no identity is there twice"),
        (SameId, "no identity is there twice"),
        (NoUrl, "scheme, host and port only"),
        (OnlyOnce, "a second watch begins with the set of now"),
        (Exhausted, "that finds endpoints yields them"),
        (Spoilt, "does not disturb the next"),
        (Stubborn, "a cancelled watch ends at once"),
        (Swallows, "ends as cancelled"),
        (Leaves, "leaves no task behind"),
        (Clings, "that is closed ends at once"),
        (Complains, "that is closed raises nothing"),
        (Deaf, "that finds endpoints yields them"),
        (Repeats, "yielded again when it has changed"),
        (Reuses, "stays as it was"),
        (IllYields, "says so: it raises"),
        (IllWaits, "says so: it raises"),
        (IllExits, "is an Exception"),
        (IllMute, "says why"),
        (IllQuotes, "one printable line"),
        (IllTalks, "one printable line"),
    ],
)
def test_a_broken_law_is_named(hurried: None, source: type[Any], law: str) -> None:
    """In a loop of its own: what a broken source leaves behind ends with it."""

    async def run() -> None:
        with pytest.raises(AssertionError, match=f"broken law: .*{law}"):
            await check(source)
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()

    asyncio.run(run())
