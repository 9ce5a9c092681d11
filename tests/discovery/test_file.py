"""Discovery by a file: followed through every change, said once where it is wrong, and never believed half."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ONE, TWO, THREE = "http://127.0.0.1:9001", "http://127.0.0.1:9002", "http://127.0.0.1:9003"


def write(folder: Path, text: str | bytes, name: str = "servers.txt") -> Path:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


async def test_servers_come_and_go(bench: Any) -> None:
    file = write(bench.folder, f"{ONE}\n{TWO} weight=3\n")
    async with bench.following("file", path="servers.txt") as follower:
        await follower.yields(ONE, TWO)
        assert [spec.weight for spec in follower.sets[0]] == [1, 3]
        write(bench.folder, f"{ONE}\n{TWO} weight=3\n{THREE}\n")
        await follower.yields(ONE, TWO, THREE)
        write(bench.folder, f"{THREE}\n", "new").replace(file)
        await follower.yields(THREE)
        file.unlink()
        await follower.says("servers.txt does not exist: write it")
        write(bench.folder, ONE)
        await follower.yields(ONE)
    assert len(follower.said) == 1


@pytest.mark.parametrize(
    ("name", "options", "text"),
    [
        ("servers.toml", {}, f'endpoints = ["{ONE}"]'),
        ("SERVERS.JSON", {}, f'["{ONE}"]'),
        ("servers", {}, ONE),
        ("servers.list", {"format": "json"}, f'{{"endpoints": ["{ONE}"]}}'),
        ("servers.json", {"format": "lines"}, ONE),
        ("servers.yaml", {"format": "toml"}, f'endpoints = ["{ONE}"]'),
    ],
)
async def test_the_format_goes_by_the_name_or_by_the_option(
    bench: Any, name: str, options: dict[str, str], text: str
) -> None:
    write(bench.folder, text, name)
    async with bench.following("file", path=name, **options) as follower:
        await follower.yields(ONE)


async def test_an_absolute_path(bench: Any) -> None:
    (bench.folder / "else").mkdir()
    file = write(bench.folder / "else", ONE)
    async with bench.following("file", path=str(file)) as follower:
        await follower.yields(ONE)


async def test_the_same_set_is_not_yielded_twice(bench: Any) -> None:
    write(bench.folder, ONE)
    async with bench.following("file", path="servers.txt") as follower:
        await follower.yields(ONE)
        write(bench.folder, f"# a remark\n{ONE} weight=1\n")
        write(bench.folder, TWO, "new").replace(bench.folder / "servers.txt")
        await follower.yields(TWO)
        assert len(follower.sets) == 2


BAD = [
    (f"{ONE}\nhttp://127.0.0.1:9002/x\n", "servers.txt:2: an endpoint has scheme, host and port only"),
    (f"{ONE}\n{ONE}\n", "servers.txt:2: the same endpoint as in line 1"),
    ("", "servers.txt: names no endpoint; to let it empty the pool, set accept_empty = true"),
    ("# all commented out\n", "servers.txt: names no endpoint"),
    (b"\xa6\xb9X\xe6\xc5\x1e{/&\x7f", "servers.txt:1: no text in UTF-8"),
    (b"\0" * 4096, "servers.txt:1: "),
    (f"{ONE}\nhttp://127.0.0.1:9002 weigh", "servers.txt:2: "),
]


@pytest.mark.parametrize(("text", "said"), BAD, ids=range(len(BAD)))
async def test_a_bad_file_is_said_once_and_the_last_good_set_stays(bench: Any, text: str | bytes, said: str) -> None:
    write(bench.folder, ONE)
    async with bench.following("file", path="servers.txt") as follower:
        await follower.yields(ONE)
        write(bench.folder, text)
        await follower.says(said)
        await follower.goes_on()
        write(bench.folder, f"{ONE}\n{TWO}")
        await follower.yields(ONE, TWO)
    assert len(follower.said) == 1
    assert len(follower.sets) == 2


async def test_a_file_that_is_bad_at_first(bench: Any) -> None:
    write(bench.folder, "{", "servers.json")
    async with bench.following("file", path="servers.json") as follower:
        await follower.says("servers.json: no JSON: it breaks off")
        await follower.goes_on()
        write(bench.folder, "[3]", "servers.json")
        await follower.says("servers.json: endpoints[0]: expected a table, not a whole number")
        write(bench.folder, f'["{ONE}"]', "servers.json")
        await follower.yields(ONE)
    assert len(follower.said) == 2


async def test_twenty_times_bad_are_twenty_messages(bench: Any) -> None:
    write(bench.folder, "http://127.0.0.1:9000")
    async with bench.following("file", path="servers.txt") as follower:
        for round_ in range(20):
            write(bench.folder, f"http://127.0.0.1:{9000 + round_}", "new").replace(bench.folder / "servers.txt")
            await follower.yields(f"http://127.0.0.1:{9000 + round_}")
            (bench.folder / "servers.txt").unlink()
            await follower.says("does not exist")
            await bench.eventually(lambda count=round_: len(follower.said) == count + 1)
    assert len(follower.sets) == 20


async def test_nobody_hears_again_what_was_said_but_a_new_listener(bench: Any) -> None:
    source = bench.make("file", path="servers.txt")
    with pytest.raises(Exception, match="does not exist"):
        await anext(source.watch())
    silent = source.watch()
    waiting = bench.ensure(anext(silent))
    await bench.eventually(bench.watches)
    waiting.cancel()
    await bench.ended(waiting)
    with pytest.raises(Exception, match="does not exist"):
        await anext(source.watch())


async def test_an_empty_file_may_empty_the_pool(bench: Any) -> None:
    write(bench.folder, ONE)
    async with bench.following("file", path="servers.txt", accept_empty=True) as follower:
        await follower.yields(ONE)
        write(bench.folder, "")
        await follower.yields()
    assert follower.said == []


def directory(path: Path) -> None:
    path.mkdir()


def pipe(path: Path) -> None:
    os.mkfifo(path)


def unix_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


def endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


def circle(path: Path) -> None:
    path.symlink_to(path.name)


def huge(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate((16 << 20) + 1)


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (directory, "servers.txt: no regular file"),
        (pipe, "servers.txt: no regular file"),
        (unix_socket, "servers.txt cannot be read: No such device"),
        (endless, "servers.txt: no regular file"),
        (circle, "servers.txt cannot be read: Too many levels"),
        (huge, "servers.txt: larger than 16 MiB"),
    ],
)
async def test_what_is_no_file_to_read(bench: Any, made: Callable[[Path], None], said: str) -> None:
    made(bench.folder / "servers.txt")
    async with bench.following("file", path="servers.txt") as follower:
        await follower.says(said)
        await follower.goes_on()
        write(bench.folder, ONE, "new").rename(bench.folder / "aside")
        if made is directory:
            (bench.folder / "servers.txt").rmdir()
        (bench.folder / "aside").replace(bench.folder / "servers.txt")
        await follower.yields(ONE)
    assert len(follower.said) == 1


async def test_a_file_that_may_not_be_read(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*arguments: object, **options: object) -> int:
        raise PermissionError(13, "Permission denied")

    write(bench.folder, ONE)
    with monkeypatch.context() as patched:
        patched.setattr(os, "open", forbidden)
        async with bench.following("file", path="servers.txt") as follower:
            await follower.says("servers.txt cannot be read: Permission denied")


async def test_a_big_file_does_not_hold_up_the_loop(bench: Any) -> None:
    write(bench.folder, "\n".join(f"http://10.{n >> 16}.{n >> 8 & 255}.{n & 255}:80" for n in range(10_000)))
    longest = 0.0
    async with bench.following("file", path="servers.txt") as follower:
        while not follower.sets:
            longest = max(longest, await bench.stall())
    assert len(follower.sets[0]) == 10_000
    assert longest < 0.5


async def test_a_config_map(bench: Any) -> None:
    """Kubernetes: servers.txt -> ..data/servers.txt, and ..data turns."""
    for name, text in (("..1", ONE), ("..2", TWO)):
        (bench.folder / name).mkdir()
        write(bench.folder / name, text)
    (bench.folder / "..data").symlink_to("..1")
    (bench.folder / "servers.txt").symlink_to("..data/servers.txt")
    async with bench.following("file", path="servers.txt") as follower:
        await follower.yields(ONE)
        (bench.folder / "..tmp").symlink_to("..2")
        (bench.folder / "..tmp").replace(bench.folder / "..data")
        await follower.yields(TWO)
    assert follower.said == []
