"""The control socket against raw clients: whom it hears, what it answers, what bounds it, and whose path it is."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
import stat
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from router.net import control
from router.net.control import ControlServer
from router.net.sockets import StartError
from router.status import Answer, AskDrain, AskReload, AskStatus, Question

PATIENCE = 8.0
BIG = "x" * 4_000_000


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short path: those of tests are longer than a unix socket's may be."""
    with tempfile.TemporaryDirectory(prefix="rc") as made:
        yield Path(made)


class Handler:
    """Answers with the name of the question, and knows what was asked."""

    def __init__(self) -> None:
        self.asked: list[Question] = []
        self.answer: Callable[[Question], Awaitable[Answer]] | None = None

    async def __call__(self, question: Question) -> Answer:
        self.asked.append(question)
        return await self.answer(question) if self.answer else Answer(True, type(question).__name__)


class Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def answer(self) -> dict[str, Any]:
        async with asyncio.timeout(PATIENCE):
            line = await self.reader.readline()
        assert line.endswith(b"\n"), line
        read: dict[str, Any] = json.loads(line)
        return read

    async def ask(self, raw: bytes) -> dict[str, Any]:
        self.writer.write(raw)
        return await self.answer()

    async def is_closed(self) -> bool:
        """Waits for the end; False if something else comes."""
        async with asyncio.timeout(PATIENCE):
            with contextlib.suppress(ConnectionResetError, BrokenPipeError):
                return await self.reader.read(1) == b""
        return True


class Bench:
    def __init__(self, folder: Path) -> None:
        self.path = folder / "router.sock"
        self.handler = Handler()
        self.server = ControlServer(str(self.path), self.handler)
        self._clients: list[Client] = []

    async def client(self, path: Path | None = None) -> Client:
        reader, writer = await asyncio.open_unix_connection(str(path or self.path), limit=16 << 20)
        self._clients.append(Client(reader, writer))
        return self._clients[-1]

    async def close(self) -> None:
        async with asyncio.timeout(PATIENCE):
            await self.server.close()
        for client in self._clients:
            client.writer.transport.abort()


@pytest.fixture
async def bench(folder: Path) -> AsyncIterator[Bench]:
    made = Bench(folder)
    await made.server.start()
    yield made
    await made.close()
    assert os.listdir(folder) == []


async def eventually(holds: Callable[[], Any]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not holds():  # noqa: ASYNC110 - any condition, not one that tells
            await asyncio.sleep(0.004)


def stale(path: Path) -> None:
    """What a router that was killed leaves behind."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))


# What is answered


async def test_questions_of_one_connection_are_answered_in_order(bench: Bench) -> None:
    client = await bench.client()
    client.writer.write(b'{"do":"status"}\n{"do":"drain","pool":"web","endpoint":"one"}\n')
    assert await client.answer() == {"ok": True, "text": "AskStatus", "result": None}
    assert (await client.answer())["text"] == "AskDrain"
    assert bench.handler.asked == [AskStatus(), AskDrain("web", "one")]


async def test_a_question_may_come_in_pieces(bench: Bench) -> None:
    client = await bench.client()
    for byte in b'{"do":"reload"}':
        client.writer.write(bytes([byte]))
        await asyncio.sleep(0)
    assert bench.handler.asked == []
    assert (await client.ask(b"\n"))["text"] == "AskReload"


async def test_the_last_question_needs_no_line_end(bench: Bench) -> None:
    client = await bench.client()
    client.writer.write(b'{"do":"status"}')
    client.writer.write_eof()
    assert (await client.answer())["text"] == "AskStatus"
    assert await client.is_closed()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"", "no question"),
        (b"GET / HTTP/1.1\r", "no question"),
        (b"{}", "do"),
        (b'{"do":"explode"}', "explode"),
        (b'{"do":1}', "str"),
        (b'{"do":"drain","pool":"web"}', "endpoint"),
        (b'{"do":"drain","pool":"web","endpoint":1}', "$.endpoint"),
        (b'{"do":"status","pools":[]}', "pools"),
        (b'{"do":"weight","pool":"web","endpoint":"one","weight":65536}', "65535"),
        (b'{"do":"weight","pool":"web","endpoint":"one","weight":-1}', ">= 0"),
        (b'{"do":"status"}{"do":"status"}', "trailing"),
        (b'"\xff\xfe"', "no question"),
        (b'{"x":' + b"[" * 50_000, "no question"),
        (b'{"x":"' + b"a" * 60_000 + b'"}', "no question"),
        (b"\x00" * 100, "no question"),
    ],
)
async def test_what_is_no_question_is_said_and_the_next_one_is_answered(bench: Bench, line: bytes, words: str) -> None:
    client = await bench.client()
    answer = await client.ask(line + b"\n")
    assert not answer["ok"]
    assert words in answer["text"]
    assert len(answer["text"]) < 300
    assert (await client.ask(b'{"do":"status"}\n'))["ok"]
    assert bench.handler.asked == [AskStatus()]


async def test_what_is_repeated_of_a_question_is_short_and_without_control_characters(bench: Bench) -> None:
    client = await bench.client()
    answer = await client.ask(json.dumps({"do": "\x1b[31m" + "x" * 10_000}).encode() + b"\n")
    assert "\x1b" not in answer["text"]
    assert len(answer["text"]) < 300


async def test_a_handler_that_raises_is_logged_and_answered(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    async def answer(question: Question) -> Answer:
        raise KeyError("web")

    bench.handler.answer = answer
    client = await bench.client()
    with caplog.at_level(logging.ERROR, "router"):
        told = await client.ask(b'{"do":"reload"}\n')
    assert told == {"ok": False, "text": "the router failed to answer: KeyError: 'web'", "result": None}
    assert [record.getMessage() for record in caplog.records] == [
        "control: a question (AskReload) could not be answered: KeyError('web')"
    ]


@pytest.mark.parametrize("error", [TimeoutError("slow"), ConnectionResetError("gone"), RecursionError("deep")])
async def test_no_error_of_a_handler_ends_the_connection(bench: Bench, error: Exception) -> None:
    async def answer(question: Question) -> Answer:
        if isinstance(question, AskReload):
            raise error
        return Answer(True)

    bench.handler.answer = answer
    client = await bench.client()
    assert type(error).__name__ in (await client.ask(b'{"do":"reload"}\n'))["text"]
    assert (await client.ask(b'{"do":"status"}\n'))["ok"]


@pytest.mark.parametrize("result", [object(), "\ud800"])
async def test_a_result_that_cannot_be_written_is_a_failure(bench: Bench, result: object) -> None:
    async def answer(question: Question) -> Answer:
        return Answer(True, result=result)

    bench.handler.answer = answer
    client = await bench.client()
    assert (await client.ask(b'{"do":"status"}\n'))["text"].startswith("the router failed to answer: ")


async def test_several_connections_are_answered_side_by_side(bench: Bench) -> None:
    release = asyncio.Event()

    async def answer(question: Question) -> Answer:
        if isinstance(question, AskReload):
            await release.wait()
        return Answer(True, type(question).__name__)

    bench.handler.answer = answer
    slow, quick = await bench.client(), await bench.client()
    slow.writer.write(b'{"do":"reload"}\n{"do":"status"}\n')
    assert (await quick.ask(b'{"do":"status"}\n'))["text"] == "AskStatus"
    release.set()
    assert [(await slow.answer())["text"] for _ in range(2)] == ["AskReload", "AskStatus"]


# What bounds it


async def test_a_question_that_is_too_long_is_answered_and_the_last(bench: Bench) -> None:
    client = await bench.client()
    answer = await client.ask(b'{"do":"' + b"x" * (300 << 10))
    assert answer == {"ok": False, "text": "a question has at most 64 KiB", "result": None}
    assert await client.is_closed()
    assert bench.handler.asked == []


async def test_the_seventeenth_connection_is_told_so(bench: Bench) -> None:
    first = [await bench.client() for _ in range(16)]
    for client in first:
        assert (await client.ask(b'{"do":"status"}\n'))["ok"]
    late = await bench.client()
    answer = await late.answer()
    assert not answer["ok"]
    assert "16 others" in answer["text"]
    assert await late.is_closed()
    first[0].writer.transport.abort()
    await eventually(lambda: len(bench.server._connections) < 16)
    assert (await (await bench.client()).ask(b'{"do":"status"}\n'))["ok"]


async def test_who_asks_nothing_is_closed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "_IDLE", 0.05)
    silent, half = await bench.client(), await bench.client()
    half.writer.write(b'{"do":"sta')
    assert await silent.is_closed()
    assert await half.is_closed()
    assert bench.handler.asked == []


async def test_who_does_not_take_an_answer_is_cut(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    async def answer(question: Question) -> Answer:
        return Answer(True, BIG)

    monkeypatch.setattr(control, "_WRITING", 0.2)
    bench.handler.answer = answer
    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.connect(str(bench.path))
        deaf.sendall(b'{"do":"status"}\n' * 100)
        await eventually(lambda: bench.handler.asked and not bench.server._connections)
    assert len(bench.handler.asked) == 1


async def test_a_large_answer_arrives_whole(bench: Bench) -> None:
    async def answer(question: Question) -> Answer:
        return Answer(True, BIG)

    bench.handler.answer = answer
    client = await bench.client()
    assert (await client.ask(b'{"do":"status"}\n'))["text"] == BIG


async def test_a_flood_of_lines_holds_nobody_up(bench: Bench) -> None:
    client = await bench.client()
    client.writer.write(b"\n" * 60_000)
    turns = 0
    while not bench.handler.asked:
        if turns == 20:
            other = await bench.client()
            other.writer.write(b'{"do":"status"}\n')
        await asyncio.sleep(0)
        turns += 1
        assert turns < 2_000
    assert not (await client.answer())["ok"]


async def test_who_leaves_while_it_is_answered_does_no_harm(bench: Bench) -> None:
    left = asyncio.Event()

    async def answer(question: Question) -> Answer:
        await left.wait()
        return Answer(True, BIG)

    bench.handler.answer = answer
    client = await bench.client()
    client.writer.write(b'{"do":"status"}\n')
    await eventually(lambda: bench.handler.asked)
    client.writer.transport.abort()
    await asyncio.sleep(0.01)
    left.set()
    await eventually(lambda: not bench.server._connections)
    bench.handler.answer = None
    assert (await (await bench.client()).ask(b'{"do":"status"}\n'))["ok"]


# Whom it hears


def as_user(bench: Bench, uid: int | OSError) -> None:
    def uid_of(sock: Any) -> int:
        assert control.peer_uid(sock) == os.getuid()
        if isinstance(uid, OSError):
            raise uid
        return uid

    bench.server._uid_of = uid_of


@pytest.mark.parametrize("uid", [0, os.geteuid()])
async def test_root_and_the_routers_own_user_are_heard(bench: Bench, uid: int) -> None:
    as_user(bench, uid)
    assert (await (await bench.client()).ask(b'{"do":"status"}\n'))["ok"]


async def test_another_user_is_turned_away(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    as_user(bench, 4_294_967_294)
    client = await bench.client()
    with caplog.at_level(logging.WARNING, "router"):
        answer = await client.ask(b'{"do":"drain","pool":"web","endpoint":"one"}\n')
    assert not answer["ok"]
    assert "you are user 4294967294" in answer["text"]
    assert await client.is_closed()
    assert bench.handler.asked == []
    assert [record.getMessage() for record in caplog.records] == ["control: user 4294967294 was turned away"]


async def test_who_cannot_be_told_is_turned_away(bench: Bench) -> None:
    as_user(bench, OSError("no credentials"))
    client = await bench.client()
    assert "which user" in (await client.answer())["text"]
    assert await client.is_closed()


# Whose path it is


async def test_nobody_else_may_use_the_socket_whatever_the_umask(folder: Path) -> None:
    before = os.umask(0)
    server = ControlServer(str(folder / "r"), Handler())
    try:
        await server.start()
        mode = os.stat(folder / "r").st_mode
    finally:
        os.umask(before)
        await server.close()
    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) == 0o600


async def test_the_socket_appears_with_its_final_mode(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def rename(source: str, target: str) -> None:
        assert not os.path.lexists(target)
        seen.append(stat.S_IMODE(os.stat(source).st_mode))
        replace(source, target)

    replace = os.rename
    monkeypatch.setattr(control.os, "rename", rename)
    server = ControlServer(str(folder / "r"), Handler())
    await server.start()
    await server.close()
    assert seen == [0o600]


async def test_a_socket_that_was_left_behind_is_replaced(folder: Path) -> None:
    bench = Bench(folder)
    stale(bench.path)
    await bench.server.start()
    assert (await (await bench.client()).ask(b'{"do":"status"}\n'))["ok"]
    await bench.close()
    assert not bench.path.exists()


async def test_a_path_may_be_relative(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    bench = Bench(Path())
    await bench.server.start()
    assert (await (await bench.client()).ask(b'{"do":"status"}\n'))["ok"]
    await bench.close()
    assert os.listdir(folder) == []


async def test_another_router_that_answers_is_left_alone(bench: Bench) -> None:
    with pytest.raises(StartError, match=r"another router answers on .*router\.sock; stop it") as refused:
        await ControlServer(str(bench.path), Handler()).start()
    assert "server.control" in str(refused.value)
    assert (await (await bench.client()).ask(b'{"do":"status"}\n'))["ok"]


async def test_another_router_can_be_taken_over_from(bench: Bench) -> None:
    old = await bench.client()
    new = Bench(bench.path.parent)
    await new.server.start(take_over=True)
    assert (await (await new.client()).ask(b'{"do":"status"}\n'))["ok"]
    assert len(new.handler.asked) == 1
    assert (await old.ask(b'{"do":"status"}\n'))["ok"]
    assert len(bench.handler.asked) == 1
    # The old one ends, and leaves the path to the new one.
    await bench.close()
    assert (await (await new.client()).ask(b'{"do":"status"}\n'))["ok"]
    await new.close()
    assert not new.path.exists()


async def test_a_socket_with_a_full_queue_counts_as_answered(folder: Path) -> None:
    path = str(folder / "r")
    with socket.socket(socket.AF_UNIX) as busy, contextlib.ExitStack() as stack:
        busy.bind(path)
        busy.listen(0)
        with contextlib.suppress(BlockingIOError):
            for _ in range(10):
                waiting = stack.enter_context(socket.socket(socket.AF_UNIX))
                waiting.setblocking(False)
                waiting.connect(path)
        with pytest.raises(StartError, match="another router answers"):
            await ControlServer(path, Handler()).start()


@pytest.mark.parametrize("take_over", [False, True])
@pytest.mark.parametrize("kind", ["file", "folder", "link"])
async def test_what_is_no_socket_is_left_alone(folder: Path, kind: str, take_over: bool) -> None:
    path = folder / "router.toml"
    if kind == "file":
        path.write_text("precious")
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("elsewhere")
    with pytest.raises(StartError, match="there is a file that is no socket"):
        await ControlServer(str(path), Handler()).start(take_over=take_over)
    assert os.listdir(folder) == ["router.toml"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("missing/r", "there is no folder"),
        ("file/r", "is no folder"),
        ("a" * 120, "at most 107 bytes"),
        ("é" * 60, "at most 107 bytes"),
        ("", "no path of a file"),
        ("a\0b", "no path of a file"),
        ("missing\x1b[31m/r", r"missing\x1b"),
    ],
)
async def test_a_path_that_cannot_be_is_said_in_one_sentence(folder: Path, name: str, words: str) -> None:
    (folder / "file").write_text("")
    with pytest.raises(StartError) as refused:
        await ControlServer(f"{folder}/{name}", Handler()).start()
    assert words in str(refused.value)
    assert str(refused.value).startswith("cannot open the control socket ")
    assert "\x1b" not in str(refused.value)
    assert os.listdir(folder) == ["file"]


@pytest.mark.parametrize(
    ("error", "words"),
    [(PermissionError(13, "Permission denied"), "may not create files in"), (OSError(28, "No space left"), "No space")],
)
async def test_a_system_that_refuses_is_repeated(
    folder: Path, monkeypatch: pytest.MonkeyPatch, error: OSError, words: str
) -> None:
    def rename(source: str, target: str) -> None:
        raise error

    monkeypatch.setattr(control.os, "rename", rename)
    with pytest.raises(StartError, match=words):
        await ControlServer(str(folder / "r"), Handler()).start()
    assert os.listdir(folder) == []


# Its end


async def test_close_cuts_what_is_open_and_removes_the_path(bench: Bench) -> None:
    cancelled = asyncio.Event()

    async def answer(question: Question) -> Answer:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        return Answer(True)

    bench.handler.answer = answer
    idle, busy = await bench.client(), await bench.client()
    busy.writer.write(b'{"do":"reload"}\n')
    await eventually(lambda: bench.handler.asked)
    await bench.server.close()
    assert cancelled.is_set()
    assert await idle.is_closed()
    assert await busy.is_closed()
    assert not bench.path.exists()


async def test_close_waits_for_no_handler_that_does_not_end(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "_CLOSING", 0.05)
    release = asyncio.Event()

    async def answer(question: Question) -> Answer:
        while not release.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await release.wait()
        return Answer(True)

    bench.handler.answer = answer
    client = await bench.client()
    client.writer.write(b'{"do":"reload"}\n')
    await eventually(lambda: bench.handler.asked)
    async with asyncio.timeout(PATIENCE):
        await bench.server.close()
    release.set()
    assert await client.is_closed()


async def test_a_handler_may_close_the_server_that_asks_it(bench: Bench) -> None:
    async def answer(question: Question) -> Answer:
        await bench.server.close()
        return Answer(True, "closed")

    bench.handler.answer = answer
    client = await bench.client()
    assert (await client.ask(b'{"do":"reload"}\n{"do":"status"}\n'))["text"] == "closed"
    assert await client.is_closed()
    assert len(bench.handler.asked) == 1


async def test_a_server_that_stops_accepting_finishes_what_is_asked(bench: Bench) -> None:
    release = asyncio.Event()

    async def answer(question: Question) -> Answer:
        await release.wait()
        return Answer(True, "done")

    bench.handler.answer = answer
    idle, busy = await bench.client(), await bench.client()
    busy.writer.write(b'{"do":"reload"}\n{"do":"status"}\n')
    await eventually(lambda: bench.handler.asked)
    bench.server.stop_accepting()
    assert await idle.is_closed()
    with pytest.raises(OSError):
        await bench.client()
    release.set()
    assert (await busy.answer())["text"] == "done"
    assert await busy.is_closed()
    assert len(bench.handler.asked) == 1


async def test_the_path_stays_if_another_socket_stands_there(bench: Bench) -> None:
    bench.path.unlink()
    stale(bench.path)
    await bench.server.close()
    assert bench.path.exists()
    bench.path.unlink()


async def test_a_path_that_is_gone_is_no_fault_and_close_can_be_repeated(bench: Bench) -> None:
    bench.path.unlink()
    await bench.server.close()
    await bench.server.close()
    assert not bench.path.exists()


async def test_close_without_start_does_nothing(folder: Path) -> None:
    (folder / "r").write_text("precious")
    await ControlServer(str(folder / "r"), Handler()).close()
    assert (folder / "r").read_text() == "precious"
