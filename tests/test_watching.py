"""watch_files: told of everything that may change what a path leads to, of nothing else, and gone when it is closed."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import uvloop
import watchfiles

from router import watching
from router.watching import watch_files

#: Seconds after which a test that waits has failed.
PATIENCE = 8.0
#: Seconds in which nothing may come; several times what a change takes.
QUIET = 0.3


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "_STEP", 0.01)


class Told:
    """How often a watch has yielded."""

    def __init__(self) -> None:
        self.times = 0
        self._more = asyncio.Event()

    async def run(self, changes: AsyncIterator[None]) -> None:
        async for _ in changes:
            self.times += 1
            self._more.set()

    async def once_more(self) -> None:
        async with asyncio.timeout(PATIENCE):
            await self._more.wait()
        self._more.clear()

    async def never(self) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(QUIET):
                await self._more.wait()


@asynccontextmanager
async def watching_files(*paths: str | Path, settle: float = 0.02) -> AsyncIterator[Told]:
    told = Told()
    task = asyncio.ensure_future(told.run(watch_files(*paths, settle=settle)))
    await asyncio.sleep(0.1)
    try:
        yield told
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        await eventually(lambda: not threads())


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "router-watch"]


async def eventually(holds: Callable[[], Any]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "servers.txt"
    path.write_text("one")
    return path


def replace(file: Path) -> None:
    new = file.with_name("new")
    new.write_text("two")
    new.replace(file)


def written(file: Path) -> None:
    file.write_text("three")


def appended(file: Path) -> None:
    with file.open("a") as more:
        more.write("and more")


def emptied(file: Path) -> None:
    os.truncate(file, 0)


def touched(file: Path) -> None:
    os.utime(file, (1, 1))


def forbidden(file: Path) -> None:
    file.chmod(0o200)


@pytest.mark.parametrize("change", [written, appended, emptied, touched, forbidden, Path.unlink, replace])
async def test_each_change_is_told_once(file: Path, change: Callable[[Path], object]) -> None:
    async with watching_files(file) as told:
        change(file)
        await told.once_more()
        await told.never()
        assert told.times == 1


async def test_deleted_and_made_again(file: Path) -> None:
    async with watching_files(str(file)) as told:
        Path.unlink(file)
        await told.once_more()
        written(file)
        await told.once_more()
        replace(file)
        await told.once_more()


async def test_other_files_of_the_folder_cause_nothing(file: Path) -> None:
    async with watching_files(file) as told:
        for number in range(50):
            file.with_name(f"other{number}").write_text("x")
            file.with_name("other").write_text("x" * number)
        Path.read_text(file)
        await told.never()


async def test_several_files_are_one_watch(tmp_path: Path) -> None:
    files = [tmp_path / "a", tmp_path / "b" / "c"]
    files[1].parent.mkdir()
    async with watching_files(*files) as told:
        for file in files:
            file.write_text("new")
            await told.once_more()


def config_map(folder: Path, version: int, text: str) -> Path:
    """A folder as Kubernetes makes it: servers.txt -> ..data/servers.txt, ..data -> ..version."""
    data = folder / f"..{version}"
    data.mkdir(parents=True)
    (data / "servers.txt").write_text(text)
    (folder / "..data_tmp").symlink_to(data.name)
    (folder / "..data_tmp").replace(folder / "..data")
    if not (folder / "servers.txt").is_symlink():
        (folder / "servers.txt").symlink_to("..data/servers.txt")
    return folder / "servers.txt"


async def test_a_config_map_that_turns(tmp_path: Path) -> None:
    file = config_map(tmp_path, 1, "same")
    async with watching_files(file) as told:
        for version in range(2, 5):
            config_map(tmp_path, version, "same")
            await told.once_more()
        # The folder that it leads to now is the one that is listened to.
        (tmp_path / "..4" / "servers.txt").write_text("else")
        await told.once_more()
        (tmp_path / "..1" / "servers.txt").write_text("nobody reads this")
        await told.never()


async def test_a_symlink_far_above_turns(tmp_path: Path) -> None:
    for name in ("old", "new"):
        (tmp_path / name / "etc").mkdir(parents=True)
        (tmp_path / name / "etc" / "servers.txt").write_text(name)
    (tmp_path / "current").symlink_to(tmp_path / "old")
    async with watching_files(tmp_path / "current" / "etc" / "servers.txt") as told:
        (tmp_path / "next").symlink_to("new")
        (tmp_path / "next").replace(tmp_path / "current")
        await told.once_more()


async def test_symlinks_in_a_circle_are_an_absent_file(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    async with watching_files(tmp_path / "a") as told:
        await told.never()
        (tmp_path / "a").unlink()
        (tmp_path / "a").write_text("out of it")
        await told.once_more()


async def test_a_folder_that_is_not_there_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "_EVERY", 0.05)
    async with watching_files(tmp_path / "later" / "deep" / "servers.txt") as told:
        await told.never()
        (tmp_path / "later" / "deep").mkdir(parents=True)
        (tmp_path / "later" / "deep" / "servers.txt").write_text("at last")
        await told.once_more()


async def test_a_folder_that_goes_and_comes_back(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "_EVERY", 0.05)
    folder = file.parent
    async with watching_files(file) as told:
        folder.rename(folder.with_name("aside"))
        await told.once_more()
        folder.mkdir()
        written(file)
        await told.once_more()
        appended(file)
        await told.once_more()


async def test_no_watches_left(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    def refused(*paths: str, **options: object) -> None:
        tried.append(paths)
        raise OSError(28, "no space left on device")

    monkeypatch.setattr(watchfiles, "watch", refused)
    monkeypatch.setattr(watching, "_EVERY", 0.05)
    async with watching_files(file) as told:
        written(file)
        await told.once_more()
        replace(file)
        await told.once_more()
        assert len(tried) == 1, "it is not tried at every look"
        monkeypatch.setattr(watching, "_DEAF", 0.0)
    assert tried == [(str(file.parent),)]


async def test_what_changes_before_the_first_turn_counts(file: Path) -> None:
    changes = watch_files(file, settle=0.01)
    written(file)
    async with asyncio.timeout(PATIENCE):
        await anext(changes)
    await changes.aclose()


async def test_changes_between_two_turns_are_told_together(file: Path) -> None:
    changes = watch_files(file, settle=0.01)
    written(file)
    await anext(changes)
    for _ in range(3):
        appended(file)
        await asyncio.sleep(0.1)
    await anext(changes)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(QUIET):
            await anext(changes)
    await changes.aclose()


async def test_it_waits_until_the_writing_is_over(file: Path) -> None:
    async with watching_files(file, settle=0.4) as told:
        for _ in range(8):
            appended(file)
            await asyncio.sleep(0.1)
            assert told.times == 0
        await told.once_more()
        assert told.times == 1


async def test_it_does_not_wait_for_ever(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "_LONGEST", 0.3)

    async def scribble() -> None:
        while True:
            appended(file)
            await asyncio.sleep(0.02)

    async with watching_files(file, settle=0.2) as told:
        scribbling = asyncio.ensure_future(scribble())
        await told.once_more()
        await told.once_more()
        scribbling.cancel()


async def test_a_relative_path_is_of_the_folder_at_the_call(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(file.parent)
    async with watching_files(file.name) as told:
        monkeypatch.chdir("/")
        written(file)
        await told.once_more()


@pytest.mark.parametrize("paths", [(), ("a\0b",)])
def test_what_is_no_path_is_refused(paths: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="at least one path"):
        watch_files(*paths)


@pytest.mark.parametrize("every", [0.05, 5.0])
async def test_a_cancelled_watch_ends_at_once_and_leaves_no_thread(
    tmp_path: Path, every: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "_EVERY", every)
    for path in (tmp_path / "file", tmp_path / "no" / "folder"):
        task = asyncio.ensure_future(Told().run(watch_files(path)))
        await eventually(threads)
        task.cancel()
        await asyncio.wait([task], timeout=1)
        assert task.cancelled()
        await eventually(lambda: not threads())


async def test_a_watch_that_never_began_has_no_thread(file: Path) -> None:
    changes = watch_files(file)
    await changes.aclose()
    assert threads() == []


@pytest.mark.parametrize("loop", ["asyncio.new_event_loop", "uvloop.new_event_loop"])
def test_a_watch_that_nobody_closes_does_not_keep_the_process(file: Path, loop: str) -> None:
    code = f"""
import asyncio, sys, uvloop
from router.watching import watch_files

async def main():
    changes = watch_files(sys.argv[1])
    changes.__anext__().send(None)
    return changes

loop = {loop}()
kept = loop.run_until_complete(main())
print("over", flush=True)
"""
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, str(file)], capture_output=True, text=True, timeout=PATIENCE
    )
    assert (run.stdout, run.returncode, run.stderr) == ("over\n", 0, "")


async def test_a_loop_that_is_gone_ends_the_thread(file: Path) -> None:
    watch = watching._Watch([str(file)], 0.0)

    def gone() -> None:
        raise RuntimeError("Event loop is closed")

    watch.start(gone)
    written(file)
    await eventually(lambda: not threads())


async def test_it_logs_nothing(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        async with watching_files(file) as told:
            written(file)
            await told.once_more()
    assert [record.getMessage() for record in caplog.records if record.name.startswith("watchfiles")] == []


async def test_the_loop_never_waits_for_the_file_system(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All looking but the first is done by another thread."""
    seen = set()
    look: Callable[[str], tuple[int, ...]] = watching._print

    def noted(path: str) -> tuple[int, ...]:
        seen.add(threading.current_thread().name)
        return look(path)

    changes = watch_files(file, settle=0.0)
    monkeypatch.setattr(watching, "_print", noted)
    written(file)
    await anext(changes)
    await changes.aclose()
    assert seen == {"router-watch"}


def test_it_runs_on_uvloop(file: Path) -> None:
    async def scene() -> None:
        async with watching_files(file) as told:
            written(file)
            await told.once_more()
            replace(file)
            await told.once_more()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(scene())
