"""The bench of discovery: sources made as the router makes them, followed as the router follows them, on both loops.

Whatever a test does, at its end no task and no thread runs, no file is open that was not before, and the loop heard of
no error.
"""

from __future__ import annotations

import asyncio
import functools
import os
import random
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import router_discovery
import uvloop
from router_discovery import file
from router_discovery.trouble import DiscoveryError

from router import EndpointSource, EndpointSpec, Tools, watch_files, watching
from router.options import PluginFault
from router.plugins import Registry

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}
#: Seconds after which a test that waits has failed.
PATIENCE = 4.0
REGISTRY = Registry()
REGISTRY.add(router_discovery, "discovery")


def pytest_asyncio_loop_factories(config: Any, item: Any) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    return LOOPS


def printable(text: str) -> str:
    assert text.isprintable()
    assert 0 < len(text) <= 200
    return text


class Follower:
    """Follows a source as the router does: what it yields is kept, what it raises is said, and it is watched anew.

    Attributes:
        sets: what was yielded.
        said: what was raised.
        watches: how many were begun.
    """

    def __init__(self, source: EndpointSource) -> None:
        self.source = source
        self.sets: list[list[EndpointSpec]] = []
        self.said: list[str] = []
        self.watches = 0

    async def run(self) -> None:
        while True:
            self.watches += 1
            try:
                async with aclosing(self.source.watch()) as watch:  # type: ignore[type-var]
                    async for specs in watch:
                        self.sets.append(list(specs))
            except DiscoveryError as error:
                self.said.append(printable(str(error)))
                await asyncio.sleep(0.005)
            else:
                pytest.fail("the watch ended by itself")

    @property
    def urls(self) -> list[str]:
        """Of the last set."""
        return [spec.url for spec in self.sets[-1]]

    async def yields(self, *wanted: str) -> None:
        """Returns once the last set is this one."""
        await eventually(lambda: self.sets and self.urls == list(wanted), lambda: f"{self.sets} {self.said}")

    async def says(self, words: str) -> None:
        """Returns once the last thing that was said has these words."""
        await eventually(lambda: self.said and words in self.said[-1], lambda: f"{self.sets} {self.said}")

    async def goes_on(self) -> None:
        """Returns once another watch has begun and had time for a look."""
        before = self.watches
        await eventually(lambda: self.watches > before)
        await asyncio.sleep(0.1)


async def eventually(holds: Callable[[], Any], seen: Callable[[], str] = str) -> None:
    try:
        async with asyncio.timeout(PATIENCE):
            while not holds():  # noqa: ASYNC110 - any condition, not one that tells
                await asyncio.sleep(0.002)
    except TimeoutError:
        pytest.fail(f"never came true: {seen()}")


class Bench:
    """What the tests use.

    Attributes:
        folder: the configuration's.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    eventually = staticmethod(eventually)

    def make(self, use: str, **options: Any) -> EndpointSource:
        """Made as the router makes it from a configuration."""
        tools = Tools(time.monotonic, random.Random(1), self.folder)
        made: EndpointSource = REGISTRY.resolve("discovery", {"use": use, **options}, self.folder).make(tools)
        return made

    @asynccontextmanager
    async def following(self, use: str, **options: Any) -> AsyncIterator[Follower]:
        follower = Follower(self.make(use, **options))
        task = asyncio.ensure_future(follower.run())
        try:
            yield follower
        finally:
            assert not task.done() or task.result()
            task.cancel()
            await asyncio.wait([task], timeout=1)
            assert task.cancelled(), "a cancelled watch ends at once"

    @staticmethod
    def ensure(waited: Awaitable[Any]) -> asyncio.Future[Any]:
        async def run() -> Any:
            return await waited

        return asyncio.ensure_future(run())

    @staticmethod
    async def ended(task: asyncio.Future[Any]) -> None:
        await asyncio.wait([task], timeout=PATIENCE)
        assert task.cancelled()

    @staticmethod
    def watches() -> bool:
        """Whether some file is watched."""
        return bool([thread for thread in threading.enumerate() if thread.name == "router-watch"])

    @staticmethod
    async def stall() -> float:
        """Seconds that the loop took for one turn."""
        begun = time.perf_counter()
        await asyncio.sleep(0)
        return time.perf_counter() - begun

    def fault(self, use: str, **options: Any) -> str:
        """What `router check` says of these options."""
        with pytest.raises(PluginFault) as caught:
            self.make(use, **options)
        return printable(str(caught.value))


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest_asyncio.fixture
async def bench(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> AsyncIterator[Bench]:
    monkeypatch.setattr(watching, "_STEP", 0.01)
    monkeypatch.setattr(file, "watch_files", functools.partial(watch_files, settle=0.02))
    loop, errors = asyncio.get_running_loop(), []
    loop.set_exception_handler(lambda loop, context: errors.append(context))
    # What a loop opens for itself when it first uses a thread or a socket is no leak.
    await asyncio.to_thread(int)
    (await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)).close()
    await asyncio.sleep(0)
    before = open_files()
    yield Bench(tmp_path)
    await eventually(lambda: asyncio.all_tasks() == {asyncio.current_task()}, lambda: str(asyncio.all_tasks()))
    await eventually(lambda: not [t for t in threading.enumerate() if t.name == "router-watch"])
    await eventually(lambda: open_files() <= before, lambda: f"{open_files()} files, {before} before")
    assert errors == []
