"""The commands that ask a running router, against a control server in a thread: what they ask, say and end with."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import pytest
import rich_click as click

from router import cli, cli_client, cli_control
from router.cli_client import Unanswered, ask, find_control, read_status
from router.net.control import ControlServer
from router.status import (
    Answer,
    AskDrain,
    AskExplain,
    AskReload,
    AskStatus,
    AskUndrain,
    AskWeight,
    ConfigStatus,
    EndpointStatus,
    PoolStatus,
    Question,
    Status,
)

PATIENCE = 10.0
REST = '[[listeners]]\nbind = "127.0.0.1:8080"\n[[routes]]\npool = "web"\n[[pools]]\nname = "web"\nendpoints = ["http://h:1"]\n'
STATUS = Status(
    version="0.1.0",
    pid=7,
    uptime=1.0,
    draining=False,
    config=ConfigStatus("router.toml", 1, 1.0),
    listeners=(),
    pools=(
        PoolStatus(
            "web",
            "random",
            1,
            0,
            0,
            0,
            10.0,
            (EndpointStatus("one", "http://h:1", "ready"), EndpointStatus("two", "http://h:2", "ready")),
        ),
        PoolStatus("api", "random", 0, 0, 0, 0, 10.0, ()),
    ),
)


class Fake:
    """A control server in a thread; `answers` holds what it says to which kind of question."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.asked: list[Question] = []
        self.answers: dict[type, Answer] = {AskStatus: Answer(True, result=STATUS)}
        self._loop = asyncio.new_event_loop()
        self._server = ControlServer(str(path), self._handle)
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._do(self._server.start())

    async def _handle(self, question: Question) -> Answer:
        self.asked.append(question)
        return self.answers.get(type(question), Answer(True, f"{type(question).__name__} is done"))

    def _do(self, work: Any) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(PATIENCE)

    def close(self) -> None:
        self._do(self._server.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE)
        self._loop.close()


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a short path and a configuration, in which the commands run."""
    with tempfile.TemporaryDirectory(prefix="rc") as made:
        monkeypatch.chdir(made)
        Path("router.toml").write_text(f'{REST}[server]\ncontrol = "r.sock"\n')
        yield Path(made)


@pytest.fixture
def fake(folder: Path) -> Iterator[Fake]:
    made = Fake(folder / "r.sock")
    yield made
    made.close()


@contextlib.contextmanager
def listening(path: Path, serve: Callable[[socket.socket], None]) -> Iterator[None]:
    """A unix server that treats its first connection as `serve` does."""

    def accept() -> None:
        with listener.accept()[0] as connection:
            serve(connection)

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield
        thread.join(PATIENCE)
        assert not thread.is_alive()


# What each command asks


@pytest.mark.parametrize(
    ("arguments", "question"),
    [
        (["reload"], AskReload()),
        (["drain", "web", "one"], AskDrain("web", "one")),
        (["undrain", "web", "http://10.0.0.1:80"], AskUndrain("web", "http://10.0.0.1:80")),
        (["weight", "web", "one", "0"], AskWeight("web", "one", 0)),
        (["weight", "web", "one", "65535"], AskWeight("web", "one", 65535)),
        (["weight", "web", "one", "configured"], AskWeight("web", "one", None)),
    ],
)
def test_a_command_asks_its_question_and_prints_the_answer(
    fake: Fake, capsys: pytest.CaptureFixture[str], arguments: list[str], question: Question
) -> None:
    assert cli.main(arguments) == 0
    assert fake.asked == [question]
    assert capsys.readouterr() == (f"{type(question).__name__} is done\n", "")


def test_status_as_json_is_the_status(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["status", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["pools"][0]["endpoints"][1]["id"] == "two"
    assert shown["config"] == {"file": "router.toml", "version": 1, "age": 1.0, "refused": ""}


def test_status_shows_pools_and_endpoints(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["status"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    for words in ("router 0.1.0, process 7", "pool web (random): 1 of 2 ready", "one", "two", "pool api"):
        assert words in out


@pytest.mark.parametrize(
    "arguments",
    [["status"], ["status", "--json"], ["reload"], ["drain", "web", "nine"], ["explain", "GET http://h/"]],
)
def test_a_refusal_is_printed_on_stderr_and_exits_1(
    fake: Fake, capsys: pytest.CaptureFixture[str], arguments: list[str], explanations: list[Any]
) -> None:
    refusal = Answer(False, "router.toml:3:8: there is no such \x1b[31mpool\n  pool = 'wbe'\n         ^")
    fake.answers = dict.fromkeys((AskStatus, AskReload, AskDrain, AskExplain), refusal)
    assert cli.main(arguments) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "router: router.toml:3:8: there is no such \\x1b[31mpool\n  pool = 'wbe'\n         ^\n"
    assert explanations == []


@pytest.fixture
def explanations(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What is given to print_explanation."""
    given: list[Any] = []
    module = ModuleType("router.cli_explain")
    module.print_explanation = lambda explanation, as_json: given.append((explanation, as_json))  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "router.cli_explain", module)
    return given


@pytest.mark.parametrize(
    ("arguments", "question"),
    [
        (["GET https://shop.example/cart/7?a=b"], AskExplain("GET", "https://shop.example/cart/7?a=b")),
        (["http://shop.example"], AskExplain("GET", "http://shop.example/")),
        (
            ["POST http://h/", "-H", "Cookie: a=b", "-H", "X-A:1", "--client", "192.0.2.7"],
            AskExplain("POST", "http://h/", (("Cookie", "a=b"), ("X-A", "1")), "192.0.2.7"),
        ),
        (["GET http://127.0.0.1:8080/", "-H", "Host: shop.example"], AskExplain("GET", "http://shop.example/")),
    ],
)
def test_explain_asks_about_the_request(
    fake: Fake, explanations: list[Any], arguments: list[str], question: Question
) -> None:
    fake.answers[AskExplain] = Answer(True, result={"pool": "web"})
    assert cli.main(["explain", *arguments]) == 0
    assert cli.main(["explain", "--json", *arguments]) == 0
    assert fake.asked == [question, question]
    assert explanations == [({"pool": "web"}, False), ({"pool": "web"}, True)]


def test_explain_has_what_prints() -> None:
    assert importlib.util.find_spec("router.cli_explain") is not None


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["drain"], "POOL"),
        (["drain", "web"], "ENDPOINT"),
        (["undrain", "web", "one", "two"], "two"),
        (["weight", "web", "one"], "N"),
        (["weight", "web", "one", "65536"], "from 0 to 65535, or 'configured'"),
        (["weight", "web", "one", "1.5"], "'1.5'"),
        (["weight", "web", "one", "²"], "from 0 to 65535"),
        (["weight", "web", "one", "9" * 5000], "from 0 to 65535"),
        (["reload", "now"], "now"),
        (["explain"], "METHOD URL"),
        (["explain", "GET /cart"], "scheme and host"),
        (["explain", "GET http://h/", "-H", "x"], "'Name: value'"),
        (["explain", "GET http://h/", "-H", "a b: c"], "'a b: c'"),
        (["explain", "GET http://h/", "-H", "Host: a", "-H", "Host: b"], "one Host"),
        (["explain", "GET http://h/", "--client", "me"], "IP address"),
    ],
)
def test_wrong_usage_exits_2_and_asks_nothing(
    fake: Fake, capsys: pytest.CaptureFixture[str], arguments: list[str], word: str
) -> None:
    assert cli.main(arguments) == 2
    assert word in capsys.readouterr().err
    assert fake.asked == []


# Which router is asked


def test_a_socket_that_is_named_needs_no_file(
    fake: Fake, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["reload", "--control", str(fake.path)]) == 0
    assert cli.main(["reload", "--control", str(fake.path), "-f", "missing.toml"]) == 0
    assert len(fake.asked) == 2


def test_the_path_in_a_file_is_relative_to_its_folder(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    assert cli.main(["reload", "--file", str(fake.path.parent / "router.toml")]) == 0
    assert fake.asked == [AskReload()]


FORMS = [
    ("router.toml", 'server.control = "x/r.sock"\n' + REST),
    ("router.toml", 'server = { zone = "a", control = "x/r.sock" }\n' + REST),
    ("router.toml", "[server]\ncontrol = 'x/r.sock'\n" + REST),
    ("router.toml", '[server]\ncontrol = "${FOLDER}/r.sock"\n' + REST),
    ("router.toml", '[server]\ncontrol = { file = "where" }\n' + REST),
    ("router.json", '{"server": {"control": "x/r.sock"}}'),
    ("router.yaml", "server:\n  control: x/r.sock\n"),
    # Faulty in other places, but readable
    ("router.toml", '[server]\ncontrol = "x/r.sock"\nzoen = 1\n[[pools]]\nname = 7\n'),
    ("router.toml", '[server]\ncontrol = "x/r.sock"\nzone = "${NOT_SET_ANYWHERE}"\n'),
    ("router.json", '{"server": {"control": "x/r.sock"}, "pools": 7}'),
    # No parser reads these
    ("router.toml", '[server]\nzone = \ncontrol = "x/r.sock"  # here\n' + REST),
    ("router.toml", "[[pools]\nname = 'a'\n[ server ]\ncontrol = 'x/r.sock'\n[[routes]]\n"),
    ("router.toml", '[[services]]\ncontrol = "no"\n[server]\n# control = "no"\ncontrol="${FOLDER}/r.sock"\n[[routes\n'),
    ("router.toml", 'server = { control = "x/r.sock"\n'),
    ("router.toml", '[server]\ncontrol = "\\u0078/r.sock"\nx = \n'),
    ("router.toml", '[server]\ncontrol = "x/r.sock"\ncontrol = "x/other.sock"\n'),
    ("router.json", '{"server": {"control" : "x\\/r.sock",}}'),
    ("router.json", '{"server": {"zone": "", "control":"x/r.sock"}'),
    ("router.yaml", "server:\n  control: x/r.sock # here\n  zone: [\n"),
    ("router.yaml", 'server: {control: "x/r.sock"\n'),
    ("router.yaml", "server:\n\tcontrol: 'x/r.sock'\n"),
]


@pytest.mark.parametrize(("name", "text"), FORMS)
def test_the_control_socket_is_found_in_sound_and_in_faulty_files(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    (tmp_path / "where").write_text("x/r.sock\n")
    assert find_control(tmp_path / name, {"FOLDER": "x"}) == tmp_path / "x" / "r.sock"


def test_an_absolute_path_stays(tmp_path: Path) -> None:
    (tmp_path / "router.toml").write_text('server.control = "/run/router/control.sock"\n')
    assert find_control(tmp_path / "router.toml") == Path("/run/router/control.sock")


def test_bytes_that_are_no_text_do_not_lock_anybody_out(tmp_path: Path) -> None:
    (tmp_path / "router.toml").write_bytes(b'# caf\xe9\n[server]\ncontrol = "r.sock"\n')
    assert find_control(tmp_path / "router.toml") == tmp_path / "r.sock"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "there is no such file"),
        (REST, "names no control socket"),
        (f'{REST}[server]\ncontrol = ""\n', "names no control socket"),
        (f"{REST}[server]\ncontrol = 7\n", "expected a string"),
        (f'{REST}[server]\ncontrol = "${{NOWHERE_SET}}"\n', "NOWHERE_SET is not set"),
        (f'{REST}[server]\ncontrol = {{ file = "missing" }}\n', "cannot be read"),
        ("[[pools\n", "not valid TOML"),
    ],
)
def test_a_file_that_leads_to_no_socket_says_so_and_what_to_do(
    folder: Path, capsys: pytest.CaptureFixture[str], text: str | None, words: str
) -> None:
    Path("router.toml").unlink()
    if text is not None:
        Path("router.toml").write_text(text)
    assert cli.main(["status"]) == 1
    err = capsys.readouterr().err
    assert err.startswith("router: router.toml")
    assert words in err
    assert "--control PATH" in err


def test_a_file_that_may_not_be_read_says_so(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(Unanswered, match="may not be read; name the configuration of the running router"):
        find_control(Path("router.toml"))


def test_a_name_cannot_write_to_the_terminal(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["status", "-f", "a\x1b[31m.toml"]) == 1
    assert cli.main(["status", "--control", "a\x1b[31m.sock"]) == 1
    err = capsys.readouterr().err
    assert err.count("\\x1b") == 2
    assert "\x1b" not in err


# A router that does not answer


def failure(path: Path, seconds: float = 5.0) -> str:
    with pytest.raises(Unanswered) as told:
        ask(path, AskStatus(), seconds)
    assert told.value.exit_code == 1
    return told.value.message


def test_no_router_runs(folder: Path) -> None:
    assert "no router listens at" in failure(folder / "r.sock")
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(folder / "r.sock"))
    assert "is it running?" in failure(folder / "r.sock")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (PermissionError(13, "Permission denied"), "as the user whom the router runs as"),
        (BlockingIOError(11, "Resource temporarily unavailable"), "too many others"),
        (OSError(91, "Protocol wrong type for socket"), "Protocol wrong type"),
    ],
)
def test_what_the_system_says_is_put_into_words(
    folder: Path, monkeypatch: pytest.MonkeyPatch, error: OSError, words: str
) -> None:
    def refuse(self: socket.socket, address: str) -> None:
        raise error

    monkeypatch.setattr(socket.socket, "connect", refuse)
    assert words in failure(folder / "r.sock")


def test_a_path_that_is_too_long_is_said(folder: Path) -> None:
    assert "too long" in failure(folder / ("x" * 120))


def test_a_router_that_keeps_silent_is_not_waited_for_longer(folder: Path) -> None:
    done = threading.Event()
    with listening(folder / "r.sock", lambda _: done.wait(PATIENCE) and None):
        assert "does not answer within 0.1 s" in failure(folder / "r.sock", 0.1)
        done.set()


def test_a_router_that_drips_is_not_waited_for_longer(folder: Path) -> None:
    done = threading.Event()

    def drip(connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while not done.wait(0.02):
                connection.sendall(b" ")

    with listening(folder / "r.sock", drip):
        assert "does not answer within 0.2 s" in failure(folder / "r.sock", 0.2)
        done.set()


@pytest.mark.parametrize("answer", [b"", b'{"ok":true,"te'])
def test_a_router_that_closes_is_said(folder: Path, answer: bytes) -> None:
    def serve(connection: socket.socket) -> None:
        connection.recv(100)
        connection.sendall(answer)

    with listening(folder / "r.sock", serve):
        assert "closed the connection without an answer" in failure(folder / "r.sock")


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n", b"[]\n", b'{"text":""}\n', b"[" * 5000 + b"\n"])
def test_what_speaks_another_language_is_no_router(folder: Path, answer: bytes) -> None:
    def serve(connection: socket.socket) -> None:
        connection.recv(100)
        connection.sendall(answer)

    with listening(folder / "r.sock", serve):
        assert "is no router, or one of another version" in failure(folder / "r.sock")


def test_who_is_turned_away_before_asking_hears_why(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = threading.Event()

    def serve(connection: socket.socket) -> None:
        connection.sendall(b'{"ok":false,"text":"only user 1 may ask"}\n')
        connection.close()
        closed.set()

    send = cli_client._send

    def late(sock: socket.socket, asked: bytes) -> None:
        assert closed.wait(PATIENCE)
        send(sock, asked)

    monkeypatch.setattr(cli_client, "_send", late)
    with listening(folder / "r.sock", serve):
        assert ask(folder / "r.sock", AskStatus(), PATIENCE) == Answer(False, "only user 1 may ask")


@pytest.mark.parametrize("result", [None, {}, {"version": 7}, []])
def test_a_status_of_another_version_is_said(result: Any) -> None:
    with pytest.raises(Unanswered, match="another version than this command"):
        read_status(Answer(True, result=result))


def test_a_status_with_more_than_is_known_is_read(fake: Fake) -> None:
    answer = ask(fake.path, AskStatus(), PATIENCE)
    more = {**answer.result, "weather": "fine"}
    assert read_status(Answer(True, result=more)) == STATUS


@pytest.mark.parametrize("arguments", [["status"], ["status", "--json"], ["drain", "web", "one"]])
def test_the_commands_load_no_server(fake: Fake, arguments: list[str]) -> None:
    program = (
        "import sys; from router.cli import main; code = main(sys.argv[1:]);"
        "print([name for name in ('aiohttp', 'uvloop', 'asyncio') if name in sys.modules], file=sys.stderr);"
        "sys.exit(code)"
    )
    command = [sys.executable, "-c", program, *arguments]
    result = subprocess.run(command, cwd=fake.path.parent, capture_output=True, text=True, timeout=50)
    assert (result.returncode, result.stderr) == (0, "[]\n")


# Completion


def completed(folder: Path, *words: str) -> list[str]:
    """What bash is offered in place of the last word."""
    result = subprocess.run(
        [sys.executable, "-m", "router"],
        cwd=folder,
        env={
            **os.environ,
            "_ROUTER_COMPLETE": "bash_complete",
            "COMP_WORDS": " ".join(("router", *words)),
            "COMP_CWORD": str(len(words)),
        },
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert result.stderr == ""
    return [line.split(",")[-1] for line in result.stdout.split()]


def test_pools_and_endpoints_are_completed(fake: Fake, folder: Path) -> None:
    assert completed(folder, "drain", "w") == ["web"]
    assert completed(folder, "weight", "web", "t") == ["two"]
    assert completed(folder, "drain", "--control", "r.sock", "web", "o") == ["one"]


def test_without_a_router_nothing_is_completed_and_nothing_said(folder: Path) -> None:
    assert completed(folder, "drain", "w") == []


def test_names_that_a_shell_could_not_take_are_not_offered(fake: Fake, folder: Path) -> None:
    (web, api) = STATUS.pools
    odd = PoolStatus("odd\nname", "random", 0, 0, 0, 0, 0.0, ())
    fake.answers[AskStatus] = Answer(
        True, result={**msgspec.to_builtins(STATUS), "pools": [msgspec.to_builtins(each) for each in (odd, web, api)]}
    )
    with click.Context(cli.router.commands["drain"], info_name="drain") as context:
        parameter = context.command.params[0]
        assert cli_control._complete(context, parameter, "") == ["web", "api"]


def test_the_commands_are_in_the_help_after_those_that_serve() -> None:
    names = list(cli.router.commands)
    wanted = ["status", "reload", "drain", "undrain", "weight", "explain"]
    assert names[names.index("proxy") + 1 :][: len(wanted)] == wanted
