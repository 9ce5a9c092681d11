"""The bench of certificates from files: an authority, files as programs write them, and a source that is followed.

Whatever a test of it does, at its end no task and no thread runs, and no file is open that was not before.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import random
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import pytest_asyncio
import router_tls
import trustme
from router_tls import files, standing
from router_tls.files import FilesSource

from router import Certificate, Tools, watch_files, watching
from router.options import PluginFault
from router.plugins import Registry

#: Seconds after which a test that waits has failed.
PATIENCE = 10.0
#: Seconds for which something has to be wrong until it counts, and after which nothing more comes of it.
SETTLED, QUIET = 0.2, 0.4


class Issued(NamedTuple):
    """A certificate with its key, in PEM."""

    chain: bytes
    key: bytes

    @property
    def both(self) -> bytes:
        return self.key + self.chain


class Authority:
    """Issues certificates, keys of P-256 unless told otherwise."""

    def __init__(self) -> None:
        self._root = trustme.CA()
        self._below = self._root.create_child_ca()
        #: The root, in PEM.
        self.root: bytes = self._root.cert_pem.bytes()

    def issue(self, *names: str, begins: float = -3600.0, ends: float = 86400.0, **more: Any) -> Issued:
        """`begins`, `ends`: seconds from now. The chain holds the one between leaf and root, too."""
        now = datetime.now(UTC)
        dates = {"not_before": now + timedelta(seconds=begins), "not_after": now + timedelta(seconds=ends)}
        made = self._below.issue_cert(*names, **dates, **more)
        return Issued(b"".join(blob.bytes() for blob in made.cert_chain_pems), made.private_key_pem.bytes())


@pytest.fixture(scope="session")
def authority() -> Authority:
    return Authority()


@pytest.fixture(scope="session")
def rsa_pair(authority: Authority) -> Issued:
    """One for rsa.test, with a key of 2048 bits."""
    return authority.issue("rsa.test", key_type=trustme.KeyType.RSA)


class Follower:
    """Follows a source as the router does: what it yields is kept, what it raises is said, and it is watched anew.

    Attributes:
        sets: what was yielded.
        said: what was raised.
        watches: how many were begun.
    """

    def __init__(self, source: FilesSource) -> None:
        self.source = source
        self.sets: list[list[Certificate]] = []
        self.said: list[str] = []
        self.watches = 0

    async def run(self) -> None:
        while True:
            self.watches += 1
            try:
                async with aclosing(self.source.watch({})) as watch:  # type: ignore[type-var]
                    async for found in watch:
                        self.sets.append(list(found))
            except ValueError as error:
                self.said.append(printable(str(error)))
                await asyncio.sleep(0.005)
            else:
                pytest.fail("the watch ended by itself")

    @property
    def names(self) -> list[str]:
        """The first names of the last set."""
        return sorted(each.names[0] for each in self.sets[-1]) if self.sets else []

    async def serves(self, *wanted: str) -> None:
        """Returns once the last set has these first names."""
        await eventually(lambda: self.names == sorted(wanted), lambda: f"{self.sets} {self.said}")

    async def serves_chain(self, *wanted: Issued) -> None:
        """Returns once the last set is of these."""
        chains = {pair.chain.decode() for pair in wanted}
        await eventually(
            lambda: self.sets and {each.chain for each in self.sets[-1]} == chains, lambda: f"{self.sets} {self.said}"
        )

    async def says(self, words: str) -> None:
        """Returns once the last thing that was raised has these words."""
        await eventually(lambda: self.said and words in self.said[-1], lambda: f"{self.sets} {self.said}")


def printable(text: str) -> str:
    assert text.isprintable()
    assert 0 < len(text) <= 500
    return text


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

    def __init__(self, folder: Path, authority: Authority, caplog: pytest.LogCaptureFixture) -> None:
        self.folder = folder
        self.issue = authority.issue
        self.root = authority.root
        self._caplog = caplog
        self._registry = Registry()
        self._registry.add(router_tls, "tls")
        self._held: float | None = None
        self._ahead = 0.0

    eventually = staticmethod(eventually)

    def wall(self) -> float:
        """Seconds since the epoch, as the source reads them."""
        return time.time() + self._ahead if self._held is None else self._held

    def hold_time(self) -> None:
        """Holds the time of day, so that what is to come does not come while a test still looks at what is."""
        self._held = self.wall()

    def let_time_go(self) -> None:
        """Half a second ahead: what was 1.3 s away when the time was held is there after a second."""
        self._held, self._ahead = None, 0.5

    @staticmethod
    async def stays_so() -> None:
        """Waits until what was wrong at the call has counted, and another look has followed."""
        await asyncio.sleep(QUIET)

    def put(self, name: str, content: bytes, mode: int = 0o600) -> Path:
        """Writes a file in place, as an editor or `cp` does."""
        file = self.folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        file.chmod(mode)
        return file

    def pair(self, name: str, *names: str, **more: Any) -> Issued:
        """Writes a certificate for `names`, with its key beside it in a file of the same stem."""
        made = self.issue(*names, **more)
        self.renew(name, made)
        return made

    def renew(self, name: str, made: Issued) -> None:
        self.put(name, made.chain)
        self.put(os.path.splitext(name)[0] + ".key", made.key)

    def make(self, *paths: Any) -> FilesSource:
        """Made as the router makes it from a configuration."""
        tools = Tools(time.monotonic, random.Random(1), self.folder)
        options = {"use": "files", "paths": list(paths)}
        made: FilesSource = self._registry.resolve("certificates", options, self.folder).make(tools)
        return made

    def load(self, *paths: Any) -> list[str]:
        """The first names of what stands there."""
        return sorted(each.names[0] for each in self.make(*paths).load())

    def refused(self, *paths: Any) -> str:
        """Why `router check` refuses these paths."""
        with pytest.raises(ValueError) as caught:
            self.make(*paths).load()
        text = str(caught.value)
        assert text.isprintable()
        return text

    def fault(self, *paths: Any) -> str:
        """What `router check` says of these options."""
        with pytest.raises(PluginFault) as caught:
            self.make(*paths)
        return printable(str(caught.value))

    @asynccontextmanager
    async def following(self, *paths: Any) -> AsyncIterator[Follower]:
        follower = Follower(self.make(*paths))
        task = asyncio.ensure_future(follower.run())
        try:
            yield follower
        finally:
            assert not task.done() or task.result()
            task.cancel()
            await asyncio.wait([task], timeout=PATIENCE)
            assert task.cancelled(), "a cancelled watch ends at once"

    def logged(self, level: int = logging.WARNING) -> list[str]:
        """What was logged, at least that grave."""
        return [each.getMessage() for each in self._caplog.records if each.levelno >= level]

    async def logs(self, words: str, times: int = 1) -> None:
        """Returns once these words were logged; not more than so many times."""
        await eventually(lambda: [text for text in self.logged() if words in text], lambda: str(self.logged()))
        assert len([text for text in self.logged() if words in text]) == times


@pytest.fixture
def still(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, authority: Authority, caplog: pytest.LogCaptureFixture
) -> Bench:
    """The bench for what needs no event loop."""
    monkeypatch.setattr(files, "_warned", set())
    caplog.set_level("INFO", "router_tls")
    return Bench(tmp_path, authority, caplog)


@pytest_asyncio.fixture
async def bench(still: Bench, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    monkeypatch.setattr(watching, "_STEP", 0.01)
    monkeypatch.setattr(watching, "_EVERY", 0.2)
    monkeypatch.setattr(files, "time", still.wall)
    monkeypatch.setattr(files, "watch_files", functools.partial(watch_files, settle=0.02))
    monkeypatch.setattr(standing, "_SETTLED", SETTLED)
    loop, errors = asyncio.get_running_loop(), list[Any]()
    loop.set_exception_handler(lambda loop, context: errors.append(context))
    # What a loop opens for itself when it first uses a thread is no leak.
    await asyncio.to_thread(int)
    before = len(os.listdir("/proc/self/fd"))
    yield still
    await eventually(lambda: asyncio.all_tasks() == {asyncio.current_task()}, lambda: str(asyncio.all_tasks()))
    await eventually(lambda: not [t for t in threading.enumerate() if t.name == "router-watch"])
    await eventually(lambda: len(os.listdir("/proc/self/fd")) <= before)
    assert errors == []
