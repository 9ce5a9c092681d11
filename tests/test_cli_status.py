"""How a status looks: at 80 columns and fewer, in a pipe, with hostile names, with many endpoints; and its watch."""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import os
import pty
import re
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from rich.cells import cell_len
from rich.console import Console

from router import cli_watch
from router.cli_client import Unanswered
from router.cli_status import ROWS, layout, print_status, show_age, show_latency
from router.status import (
    Answer,
    CertificateStatus,
    ConfigStatus,
    EndpointStatus,
    ListenerStatus,
    PoolStatus,
    Status,
)

PATIENCE = 20.0
HOUR, DAY = 3600.0, 86_400.0


def endpoint(id: str = "http://10.0.0.1:9001", state: str = "ready", **more: Any) -> EndpointStatus:
    return EndpointStatus(id, more.pop("url", id), state, **more)


def pool(*endpoints: EndpointStatus, name: str = "web", **more: Any) -> PoolStatus:
    ready = sum(each.state == "ready" for each in endpoints)
    values = {"ready": ready, "in_flight": 3, "queue": 0, "retries": 4, "budget": 10.7} | more
    return PoolStatus(name=name, selection="least_request", endpoints=endpoints, **values)


def status(*pools: PoolStatus, **more: Any) -> Status:
    values: dict[str, Any] = {
        "version": "0.1.0",
        "pid": 4711,
        "uptime": 3 * HOUR + 720,
        "draining": False,
        "config": ConfigStatus("router.toml", 7, 240.0),
        "listeners": (),
    }
    return Status(pools=pools, **(values | more))


def lines(shown: Status, width: int = 80, rows: int = ROWS) -> list[str]:
    """What stands on the screen, without blanks at the ends of lines."""
    console = Console(file=io.StringIO(), width=width, color_system=None, highlight=False, markup=False, emoji=False)
    console.print(layout(shown, width, rows))
    assert isinstance(console.file, io.StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def test_a_whole_status_at_80_columns() -> None:
    shown = status(
        pool(
            endpoint("one", url="http://10.0.0.1:9001", since=240.0, load=2, requests=12_034, latency=0.0031),
            endpoint(
                "http://10.0.0.2:9001",
                "ejected",
                cause="5 failures in a row: status 500",
                since=12.4,
                requests=9_001,
                latency=0.0123,
                ejections=2,
            ),
            endpoint(
                "http://10.0.0.3:9001", load=1, weight=0.333, configured_weight=3, requests=1_234_567, latency=1.52
            ),
            endpoint("http://10.0.0.4:9001", "draining", since=90_000.0, overrides=("drain",)),
            endpoint("http://10.0.0.5:9001", "not probed yet"),
            discovery="dns",
            discovery_state="5 endpoints, 20 s old",
        ),
        listeners=(ListenerStatus("127.0.0.1:8080", 12), ListenerStatus("unix:/run/r.sock", 1, True, 2, 1)),
        certificates=(CertificateStatus(("shop.example", "*.shop.example"), 29 * DAY),),
    )
    assert lines(shown) == [
        "router 0.1.0, process 4711, up for 3 h 12 min",
        "configuration 7 of router.toml, 4 min old",
        "",
        "listener 127.0.0.1:8080: 12 connections",
        "listener unix:/run/r.sock: 1 connection, paused: as many as it may have, 2",
        "clients turned away, 1 request refused",
        "",
        "pool web (least_request): 2 of 5 ready, 3 in flight, 4 retries, budget 10",
        "discovery dns: 5 endpoints, 20 s old",
        "  endpoint              load  weight  latency   requests  state",
        "  one                      2       1   3.1 ms     12 034  ready for 4 min",
        "  http://10.0.0.2:9001     0       1    12 ms      9 001  ejected for 12 s",
        "      5 failures in a row: status 500; ejected 2 times",
        "  http://10.0.0.3:9001     1    0.33    1.5 s  1 234 567  ready",
        "      weight 3 is configured",
        "  http://10.0.0.4:9001     0       1        -          0  draining for 1 d 1 h",
        "      by command: drain",
        "  http://10.0.0.5:9001     0       1        -          0  not probed yet",
        "",
        "certificate shop.example, *.shop.example: valid for 29 d",
    ]


def test_where_there_is_room_an_endpoint_is_one_line_with_its_particulars() -> None:
    shown = status(
        pool(
            endpoint(
                "one", "down", url="http://10.0.0.1:9001", cause="probe: timeout", since=5.0, zone="eu", priority=1
            ),
            endpoint(source="dns"),
        )
    )
    assert lines(shown, 400)[3:] == [
        "pool web (least_request): 1 of 2 ready, 3 in flight, 4 retries, budget 10",
        "  endpoint              load  weight  latency  requests  state",
        "  one                      0       1        -         0  down for 5 s: probe: timeout"
        " (http://10.0.0.1:9001, zone eu, priority 1)",
        "  http://10.0.0.1:9001     0       1        -         0  ready (from dns)",
    ]


@pytest.mark.parametrize("width", [20, 40, 60, 80, 120, 400])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    shown = status(
        pool(
            endpoint("http://a-long-name.internal.example.com:8080", "ejected", cause="status 500 " * 20, ejections=1),
            endpoint("東京サーバー", "down", cause="東京 " * 30, since=HOUR),
        ),
        config=ConfigStatus("/etc/" + "x" * 90, 7, 1.0, "bad: " + "y" * 200),
        listeners=(ListenerStatus("unix:/" + "z" * 100, 1),),
    )
    shown_lines = lines(shown, width)
    assert max(map(cell_len, shown_lines)) <= width
    assert "ejected once" in " ".join(" ".join(shown_lines).split())


def test_a_name_that_is_too_long_for_its_column_stands_whole_on_its_own_line() -> None:
    long = "http://a-long-name.internal.example.com:8080"
    shown = lines(status(pool(endpoint(long, since=1.0), endpoint("b"))))
    assert shown[5] == f"  {long}"
    assert shown[6].split() == ["0", "1", "-", "0", "ready", "for", "1", "s"]
    assert shown[6].index("ready") == shown[7].index("ready") == shown[4].index("state")


def test_columns_of_wide_characters_stay_straight() -> None:
    shown = lines(status(pool(endpoint("東京"), endpoint("tokyo"))))
    assert cell_len(shown[5].partition("ready")[0]) == cell_len(shown[6].partition("ready")[0])


def test_a_narrow_terminal_keeps_the_state() -> None:
    shown = lines(status(pool(endpoint("one", since=5.0))), 40)
    assert shown[-2:] == ["  endpoint      load  state", "  one              0  ready for 5 s"]


@pytest.mark.parametrize(
    ("state", "more", "words"),
    [
        ("ready", {"since": 59.9, "cause": "probe is up"}, "ready for 59 s"),
        ("ready", {"overrides": ("up",)}, "ready: by command: up"),
        ("ready", {"weight": 5, "overrides": ("weight",)}, "ready: weight 1 is configured; by command: weight"),
        ("ready", {"weight": 0.5}, "ready: weight 1 is configured"),
        ("ready", {"ejections": 1200}, "ready: ejected 1 200 times"),
        ("ejected", {"cause": "status 500", "since": 12.0}, "ejected for 12 s: status 500"),
        ("on probation", {"since": 0.2, "ejections": 1}, "on probation for 0 s: ejected once"),
        ("removed", {}, "removed"),
        ("unheard of", {"cause": "x"}, "unheard of: x"),
    ],
)
def test_a_state_is_told_with_its_cause_and_since_when(state: str, more: dict[str, Any], words: str) -> None:
    assert lines(status(pool(endpoint("one", state, **more))), 400)[-1].partition("0  ")[2].endswith(words)


def test_a_pool_of_many_shows_first_who_is_not_ready_and_counts_the_rest() -> None:
    many = [endpoint(f"e{n}", "down" if n in (700, 9000) else "ready") for n in range(10_000)]
    many[500] = endpoint("e500", overrides=("weight",))
    rows = lines(status(pool(*many)), 100)[5:]
    assert [row.split()[0] for row in rows[:4]] == ["e500", "e700", "e9000", "e0"]
    assert rows[-1] == "  and 9 960 more, ready"
    assert len([row for row in rows if row.startswith("  e")]) == 40


def test_the_rest_is_counted_by_state() -> None:
    many = [endpoint(f"e{n}", "down" if n % 2 else "ready") for n in range(100)]
    assert lines(status(pool(*many)))[-1] == "  and 60 more: 10 down, 50 ready"


def test_forty_are_shown_in_their_order() -> None:
    shown = lines(status(pool(*(endpoint(f"e{n}", "down" if n == 39 else "ready") for n in range(40)))))
    assert [row.split()[0] for row in shown[5:]] == [f"e{n}" for n in range(40)]


def test_what_an_operator_should_know_comes_first() -> None:
    refused = "router.toml:3:8: no such pool\n  pool = 'wbe'\n         ^\n\n1 fault"
    shown = lines(
        status(
            draining=True,
            config=ConfigStatus("", 7, 3.0, refused),
            muted={"tracing": "KeyError: 'x'"},
        )
    )
    assert shown == [
        "router 0.1.0, process 4711, up for 3 h 12 min",
        "configuration 7 of the command line, 3 s old",
        "draining: no new connections, requests under way finish",
        "the last reload was refused, configuration 7 stays in force:",
        "  router.toml:3:8: no such pool",
        "    pool = 'wbe'",
        "           ^",
        "",
        "  1 fault",
        "plugin tracing is muted: KeyError: 'x'",
    ]


def test_pools_without_endpoints_and_discoveries_without_news() -> None:
    shown = lines(status(pool(name="new", discovery="file")), 120)
    assert shown[3:] == [
        "pool new (least_request): 0 of 0 ready, 3 in flight, 4 retries, budget 10",
        "discovery file: nothing heard yet",
    ]


def test_removed_endpoints_are_not_of_the_pool_any_more() -> None:
    assert "1 of 1 ready" in "".join(lines(status(pool(endpoint("a"), endpoint("b", "removed")))))


def test_certificates_come_in_the_order_of_their_end() -> None:
    certificates = tuple(CertificateStatus((f"{n}.example",), n * DAY) for n in range(30, -2, -1))
    shown = lines(status(certificates=certificates))[3:]
    assert shown[0] == "certificate -1.example: ended 1 d ago"
    assert shown[1] == "certificate 0.example: ended 0 s ago"
    assert shown[2] == "certificate 1.example: valid for 1 d"
    assert shown[10] == "and 22 more, valid for 9 d or longer"


def test_names_are_neither_markup_nor_control_characters() -> None:
    evil = "[red]a[/red] :smile: \x1b[31m\x07\r\u202e"
    shown = "\n".join(
        lines(
            status(
                pool(
                    endpoint(evil, evil, url=evil + "u", cause=evil, zone=evil, source=evil, overrides=(evil,)),
                    name=evil,
                    discovery=evil,
                    discovery_state=evil,
                ),
                version=evil,
                config=ConfigStatus(evil, 1, 1.0, evil),
                listeners=(ListenerStatus(evil, 0),),
                certificates=(CertificateStatus((evil,), 1.0),),
                muted={evil: evil},
            ),
            1_000,
        )
    )
    assert not [char for char in shown.replace("\n", "") if not char.isprintable()]
    assert shown.count("[red]a[/red] :smile: \\x1b[31m\\x07\\r\\u202e") == 17


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5.0, "0 s"),
        (0.9, "0 s"),
        (59.9, "59 s"),
        (60.0, "1 min"),
        (3599.0, "59 min"),
        (HOUR, "1 h"),
        (HOUR + 60, "1 h 1 min"),
        (DAY - 1, "23 h 59 min"),
        (DAY, "1 d"),
        (400 * DAY + HOUR, "400 d 1 h"),
    ],
)
def test_ages(seconds: float, text: str) -> None:
    assert show_age(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "-"),
        (0.0, "0.0 ms"),
        (0.00042, "0.4 ms"),
        (0.0094, "9.4 ms"),
        (0.0096, "10 ms"),
        (0.12, "120 ms"),
        (0.9999, "1.0 s"),
        (1.0, "1.0 s"),
        (12.34, "12.3 s"),
    ],
)
def test_latencies(seconds: float | None, text: str) -> None:
    assert show_latency(seconds) == text


def test_in_a_pipe_there_are_no_codes_and_no_folds(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    print_status(status(pool(endpoint("x" * 200, "down", cause="y" * 100)), draining=True))
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert f"{'x' * 200}     0       1        -         0  down: {'y' * 100}\n" in out


def test_what_a_status_may_leave_out_is_enough() -> None:
    least = msgspec.convert(
        {
            "version": "1",
            "pid": 1,
            "uptime": 0,
            "draining": False,
            "config": {"file": "", "version": 1, "age": 0},
            "listeners": [{"name": "a", "connections": 0}],
            "pools": [
                {
                    "name": "web",
                    "selection": "random",
                    "ready": 0,
                    "in_flight": 0,
                    "queue": 0,
                    "retries": 0,
                    "budget": 0,
                    "endpoints": [{"id": "a", "url": "a", "state": "down"}],
                }
            ],
        },
        Status,
    )
    assert lines(least)[-1].split() == ["a", "0", "1", "-", "0", "down"]


# Watching


class Router:
    """Gives each of `turns` in its turn: a status, or an error to raise; then ends the watch like Ctrl-C."""

    def __init__(self, *turns: Status | str) -> None:
        self.turns = list(turns)

    def __call__(self) -> Status:
        if not self.turns:
            raise KeyboardInterrupt
        turn = self.turns.pop(0)
        if isinstance(turn, str):
            raise Unanswered(turn)
        return turn


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli_watch, "_EVERY", 0.001)


def test_each_status_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    shown: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        cli_watch.watch_lines(Router(status(pid=1), status(pid=2)), lambda each: shown.append(each.pid))
    assert shown == [1, 2]
    assert capsys.readouterr() == ("", "")


def test_a_router_that_goes_away_is_said_once_and_waited_for(capsys: pytest.CaptureFixture[str]) -> None:
    shown: list[int] = []
    router = Router(status(pid=1), "it is gone", "it is gone", status(pid=2), "it is gone", status(pid=3))
    with pytest.raises(KeyboardInterrupt):
        cli_watch.watch_lines(router, lambda each: shown.append(each.pid))
    assert shown == [1, 2, 3]
    assert capsys.readouterr().err == "router: it is gone; asking again\n" * 2


def test_a_router_that_stays_away_ends_the_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli_watch, "_PATIENCE", 0.02)
    router = Router(status(), *["it is gone"] * 1000)
    with pytest.raises(Unanswered, match="it is gone"):
        cli_watch.watch_lines(router, lambda each: None)
    assert len(router.turns) < 1000


def test_a_router_that_was_never_there_is_not_waited_for() -> None:
    router = Router("it is gone", status())
    with pytest.raises(Unanswered, match=r"^it is gone$"):
        cli_watch.watch_lines(router, lambda each: None)


@pytest.mark.parametrize(
    ("height", "pools", "rows"), [(24, 1, 13), (24, 2, 4), (24, 9, 3), (1, 1, 3), (500, 1, 40), (24, 0, 13)]
)
def test_a_small_screen_shows_fewer_endpoints(height: int, pools: int, rows: int) -> None:
    assert cli_watch.rows_for(status(*(pool(name=str(n)) for n in range(pools))), height) == rows


class Terminal:
    """`router status --watch` in a terminal, and what it writes there."""

    def __init__(self, *arguments: str, **extra: str) -> None:
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        environment = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "router", "status", *arguments],
            env=environment | {"TERM": "xterm-256color"} | extra,
            stdin=subprocess.DEVNULL,
            stdout=theirs,
            stderr=subprocess.PIPE,
            text=True,
        )
        os.close(theirs)
        self.written = b""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        try:
            while piece := os.read(self._ours, 65_536):
                self.written += piece
        except OSError:  # Linux: the other side is closed
            pass

    def wait_for(self, words: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while words.encode() not in self.written:
            assert time.monotonic() < deadline, self.written
            assert self.process.poll() is None, self.written
            time.sleep(0.01)

    def end(self, number: signal.Signals | None = None) -> tuple[int, str]:
        """Exit code and standard error."""
        if number is not None:
            self.process.send_signal(number)
        _, err = self.process.communicate(timeout=PATIENCE)
        self._reader.join(PATIENCE)
        os.close(self._ours)
        return self.process.returncode, err


class Answering:
    """A unix server that answers the first line of each connection with a status."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.status = status(pool(endpoint("one"), endpoint("two", "down")))
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                connection.recv(1000)
                connection.sendall(msgspec.json.encode(Answer(True, result=self.status)) + b"\n")

    def close(self) -> None:
        # Ends accept(), which close() alone would not.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(PATIENCE)
        self._listener.close()
        self.path.unlink(missing_ok=True)


@pytest.fixture
def answering() -> Iterator[Answering]:
    with tempfile.TemporaryDirectory(prefix="rc") as folder:
        made = Answering(Path(folder, "r"))
        yield made
        made.close()


@pytest.mark.parametrize("extra", [{}, {"NO_COLOR": "1"}])
def test_a_watch_fills_the_terminal_and_ends_quietly(answering: Answering, extra: dict[str, str]) -> None:
    terminal = Terminal("--watch", "--control", str(answering.path), **extra)
    terminal.wait_for("1 of 2 ready")
    answering.status = status(pool(endpoint("one"), endpoint("two")))
    terminal.wait_for("2 of 2 ready")
    assert terminal.end(signal.SIGINT) == (0, "")
    written = terminal.written.decode()
    # The other screen and no cursor; at the end this screen and the cursor.
    assert written.index("\x1b[?1049h") < written.index("1 of 2 ready") < written.index("\x1b[?1049l")
    assert written.rindex("\x1b[?25l") < written.rindex("\x1b[?25h")
    assert bool(re.search(r"\x1b\[[0-9;]*m", written)) is not bool(extra)


def test_a_watch_that_is_ended_gives_the_terminal_back(answering: Answering) -> None:
    terminal = Terminal("--watch", "--control", str(answering.path))
    terminal.wait_for("1 of 2 ready")
    assert terminal.end(signal.SIGTERM) == (128 + signal.SIGTERM, "")
    assert b"\x1b[?1049l" in terminal.written
    assert b"\x1b[?25h" in terminal.written


def test_a_watch_shows_that_the_router_is_gone_and_goes_on(answering: Answering) -> None:
    terminal = Terminal("--watch", "--control", str(answering.path))
    terminal.wait_for("1 of 2 ready")
    answering.close()
    terminal.wait_for("asking again")
    again = Answering(answering.path)
    again.status = status(pool(endpoint("three")))
    terminal.wait_for("1 of 1 ready")
    again.close()
    assert terminal.end(signal.SIGINT) == (0, "")


def test_a_watch_of_nothing_ends_at_once(answering: Answering) -> None:
    terminal = Terminal("--watch", "--control", str(answering.path) + "x")
    code, err = terminal.end()
    assert code == 1
    assert "no router listens at" in err
    assert b"1049" not in terminal.written


@pytest.mark.parametrize("arguments", [(), ("--json",)])
def test_a_watch_in_a_pipe_is_one_status_after_the_other(answering: Answering, arguments: tuple[str, ...]) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "router", "status", "--watch", "--control", str(answering.path), *arguments],
        env=os.environ | {"FORCE_COLOR": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    begun = [process.stdout.readline() for _ in range(2 if arguments else 10)]
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, err) == (0, "")
    assert "\x1b" not in "".join(begun)
    if arguments:
        assert [json.loads(line)["pid"] for line in begun] == [4711, 4711]
    else:
        assert [line for line in begun if line.startswith("router ")] == [begun[0], begun[8]]
        assert begun[7] == "\n"


@pytest.mark.parametrize(
    ("terminal", "term", "is_screen"),
    [(True, "xterm", True), (True, "dumb", False), (True, "", False), (False, "xterm", False)],
)
def test_only_a_terminal_with_a_cursor_is_a_screen(
    monkeypatch: pytest.MonkeyPatch, terminal: bool, term: str, is_screen: bool
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal, raising=False)
    monkeypatch.setenv("TERM", term)
    assert cli_watch.is_screen() is is_screen
