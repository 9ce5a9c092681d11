"""The key of a router without secrets: made once whoever comes first, kept, and refused if others could have had it."""

from __future__ import annotations

import logging
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from router_affinity import secrets
from router_affinity.cookie import Cookie
from router_affinity.cookie_options import CookieOptions
from router_affinity.secrets import KeyRefusedError, keep_key

from router import Control, Tools
from router.testing import make_endpoints, make_exchange, make_members, make_tools

CONTROL = cast(Control, None)
PROGRAM = """
import os, sys, time
from pathlib import Path
from router_affinity.secrets import keep_key
print("ready", flush=True)
while not os.path.exists(sys.argv[2]):
    time.sleep(0.0005)
print(keep_key(Path(sys.argv[1])))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / ".router"


def made(folder: Path, **options: Any) -> Cookie:
    tools = make_tools()
    return Cookie(CookieOptions(**options), Tools(tools.clock, tools.rng, folder))


def mode(path: Path) -> int:
    return stat.S_IMODE(os.stat(path).st_mode)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def refusal(folder: Path) -> str:
    with pytest.raises(KeyRefusedError) as refused:
        keep_key(folder)
    text = str(refused.value)
    assert text.isprintable()
    assert str(folder) in text
    return text


# The file


def test_it_is_made_once_and_for_its_user_alone(folder: Path) -> None:
    before = os.umask(0)
    try:
        key = keep_key(folder)
    finally:
        os.umask(before)
    assert mode(folder) == 0o700
    assert mode(folder / "cookie.key") == 0o600
    assert names(folder) == [".gitignore", "cookie.key"]
    assert (folder / ".gitignore").read_text() == "*\n"
    assert len(bytes.fromhex(key)) == 32
    assert keep_key(folder) == key
    # As a secret of another router's configuration, which leaves out the last line end.
    assert (folder / "cookie.key").read_text() == f"{key}\n"


def test_every_folder_has_its_own(tmp_path: Path) -> None:
    assert keep_key(tmp_path / "a") != keep_key(tmp_path / "b")


def test_a_folder_that_is_there(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    assert keep_key(tmp_path) == keep_key(tmp_path)
    assert names(tmp_path) == ["cookie.key"]


@pytest.mark.parametrize("allowed", [0o400, 0o600, 0o700])
def test_modes_that_are_fine(folder: Path, allowed: int) -> None:
    key = keep_key(folder)
    (folder / "cookie.key").chmod(allowed)
    assert keep_key(folder) == key


def test_processes_that_start_at_once_agree(tmp_path: Path) -> None:
    for name in ("a", "b"):
        folder, go = tmp_path / name, tmp_path / f"go-{name}"
        arguments = [sys.executable, "-c", PROGRAM, str(folder), str(go)]
        started = [subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) for _ in range(4)]
        assert [process.stdout and process.stdout.readline() for process in started] == ["ready\n"] * 4
        go.touch()
        keys = {process.communicate(timeout=30)[0].strip() for process in started}
        assert [process.returncode for process in started] == [0] * 4
        assert keys == {(folder / "cookie.key").read_text().strip()}
        assert names(folder) == [".gitignore", "cookie.key"]


def test_whoever_comes_between_is_believed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link, other = os.link, "ab" * 32

    def late(source: Path, target: Path) -> None:
        target.write_text(f"{other}\n")
        target.chmod(0o600)
        link(source, target)

    monkeypatch.setattr(secrets.os, "link", late)
    assert keep_key(folder) == other
    assert names(folder) == [".gitignore", "cookie.key"]


def test_threads_agree(tmp_path: Path) -> None:
    for number in range(10):
        folder = tmp_path / str(number)
        keys: list[str] = []
        threads = [threading.Thread(target=lambda f=folder, k=keys: k.append(keep_key(f))) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(keys) == 8
        assert len(set(keys)) == 1


# What is refused


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (0o640, "others may read"),
        (0o604, "(mode 0604): remove it for a new key, or chmod 600 it"),
        (0o620, "(mode 0620)"),
        (0o602, "(mode 0602)"),
        (0o610, "(mode 0610)"),
    ],
)
def test_a_mode_for_others(folder: Path, wrong: int, said: str) -> None:
    keep_key(folder)
    (folder / "cookie.key").chmod(wrong)
    assert said in refusal(folder)


@pytest.mark.parametrize("content", [b"", b"x", b"ab" * 32, b"ab" * 33, b"a" * 100_000])
def test_another_size(folder: Path, content: bytes) -> None:
    keep_key(folder)
    (folder / "cookie.key").write_bytes(content)
    assert f"cookie.key holds {len(content)} bytes, not the 65 of a key: remove it for a new one" in refusal(folder)


@pytest.mark.parametrize("content", [b"AB" * 32 + b"\n", b"g" * 64 + b"\n", b"a" * 65, b"\xff" * 65, b"\n" * 65])
def test_something_else_of_its_size(folder: Path, content: bytes) -> None:
    keep_key(folder)
    (folder / "cookie.key").write_bytes(content)
    said = refusal(folder)
    assert said.endswith("does not hold a key: remove it for a new one, which ends all sessions")
    assert "gggg" not in said


def test_another_user_s(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep_key(folder)
    own = os.geteuid()
    monkeypatch.setattr(secrets.os, "geteuid", lambda: own + 1)
    assert f"belongs to user {own}, and the router runs as {own + 1}: chown it" in refusal(folder)
    monkeypatch.setattr(secrets, "_prepare", lambda folder: None)
    assert f"cookie.key belongs to user {own}" in refusal(folder)


def test_one_that_cannot_be_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep_key(folder)

    def refuse(*_: object, **__: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(secrets.os, "open", refuse)
    assert refusal(folder).endswith("cookie.key: permission denied; set secrets, or another state_dir")


def make_link(path: Path) -> None:
    target = path.with_name("elsewhere")
    target.write_text("ab" * 32 + "\n")
    target.chmod(0o600)
    path.symlink_to(target)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (make_link, "is a symbolic link: put the file itself there, or name it in secrets"),
        (lambda path: path.symlink_to(path.with_name("nowhere")), "is a symbolic link"),
        (Path.mkdir, "is no regular file"),
        (os.mkfifo, "is no regular file"),
    ],
)
def test_no_file(folder: Path, make: Callable[[Path], None], said: str) -> None:
    folder.mkdir(0o700)
    make(folder / "cookie.key")
    assert said in refusal(folder)


@pytest.mark.parametrize("wrong", [0o770, 0o777, 0o1777])
def test_a_folder_that_others_write_to(folder: Path, wrong: int) -> None:
    folder.mkdir()
    folder.chmod(wrong)
    assert f"(mode {wrong:04o}): chmod 700 it" in refusal(folder)
    assert names(folder) == []


def test_a_folder_that_is_none_or_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "is no folder: set another state_dir" in refusal(tmp_path / "file")
    assert "no such file or directory; set secrets, or another state_dir" in refusal(tmp_path / "no" / "folder")


def test_a_disk_that_is_full_leaves_nothing_half(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    folder.mkdir(0o700)
    with monkeypatch.context() as patch:
        patch.setattr(secrets.os, "fsync", full)
        assert "no space left on device" in refusal(folder)
    assert names(folder) == []
    assert keep_key(folder)


# The plugin


async def test_nothing_is_written_or_known_before_the_start(tmp_path: Path) -> None:
    affinity, endpoints = made(tmp_path), make_endpoints(1, 1)
    headers: list[tuple[bytes, bytes]] = []
    affinity.remember(endpoints[0], make_exchange(), headers)
    assert headers == []
    sent = make_exchange(headers={"Cookie": "router=" + "A" * 40})
    members = make_members(endpoints)
    assert affinity.find(members, sent) is None
    assert names(tmp_path) == []
    await affinity.start(CONTROL)
    affinity.remember(endpoints[0], make_exchange(), headers)
    cookie = headers[0][1].decode().partition(";")[0]
    assert affinity.find(members, make_exchange(headers={"Cookie": cookie})) is endpoints[0]


async def test_pins_hold_over_a_restart_and_become_secrets(tmp_path: Path) -> None:
    endpoints = make_endpoints(1, 1, 1)
    headers: list[tuple[bytes, bytes]] = []
    first = made(tmp_path)
    await first.start(CONTROL)
    first.remember(endpoints[1], make_exchange(), headers)
    sent = make_exchange(headers={"Cookie": headers[0][1].decode().partition(";")[0]})
    again = made(tmp_path)
    await again.start(CONTROL)
    assert again.find(make_members(endpoints), sent) is endpoints[1]
    told = made(tmp_path, secrets=((tmp_path / ".router/cookie.key").read_text().removesuffix("\n"),))
    assert told.find(make_members(endpoints), sent) is endpoints[1]
    elsewhere = made(tmp_path, state_dir="other")
    await elsewhere.start(CONTROL)
    assert elsewhere.find(make_members(endpoints), sent) is None


async def test_with_secrets_no_key_is_made(tmp_path: Path) -> None:
    await made(tmp_path, secrets=("0123456789abcdef",)).start(CONTROL)
    assert names(tmp_path) == []


async def test_it_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "router"):
        for _ in range(3):
            await made(tmp_path).start(CONTROL)
    path = tmp_path / ".router/cookie.key"
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("INFO", f"affinity cookie: without secrets, its key is made and kept in {path}; other routers need the same")
    ]
    assert path.read_text().strip() not in caplog.text


async def test_a_start_that_is_refused_says_so(tmp_path: Path) -> None:
    (tmp_path / ".router").touch()
    with pytest.raises(KeyRefusedError, match=r"\.router is no folder: set another state_dir"):
        await made(tmp_path).start(CONTROL)
