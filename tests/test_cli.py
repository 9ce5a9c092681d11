"""The command line as a user meets it: help, exit codes, streams, colours, Ctrl-C. No test opens a listener."""

from __future__ import annotations

import logging
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import rich_click as click
from click.testing import CliRunner

from router import cli, cli_output
from router.cli import router

COMMANDS = ("run", "proxy", "check", "init", "schema", "plugins", "demo", "version", "completion")
COMMANDS += ("status", "reload", "drain", "undrain", "weight", "explain")


def environment(**extra: str) -> dict[str, str]:
    unwanted = ("NO_COLOR", "FORCE_COLOR", "PY_COLORS", "GITHUB_ACTIONS", "ROUTER_DEBUG", "TTY_COMPATIBLE")
    return {name: value for name, value in os.environ.items() if name not in unwanted} | extra


def run(*arguments: str, cwd: Path | None = None, **extra: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "router", *arguments],
        cwd=cwd,
        env=environment(**extra),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=50,
    )


def run_in_terminal(*arguments: str, **extra: str) -> str:
    """What the command writes on stdout where that is a terminal."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "router", *arguments],
        env=environment(TERM="xterm-256color", **extra),
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=subprocess.DEVNULL,
    )
    os.close(theirs)
    pieces = []
    try:
        while piece := os.read(ours, 65536):
            pieces.append(piece)
    except OSError:  # Linux: the other side is closed
        pass
    os.close(ours)
    process.wait(50)
    return b"".join(pieces).decode()


@pytest.fixture
def faulty_command() -> Iterator[str]:
    """A command that ends in an unexpected exception."""

    @click.command("explode")
    def explode() -> None:
        raise ZeroDivisionError("first line\nsecond line")

    router.add_command(explode)
    yield "explode"
    del router.commands["explode"]


def test_help_lists_every_command() -> None:
    result = CliRunner().invoke(router, ["--help"])
    assert result.exit_code == 0
    for command in COMMANDS:
        assert command in result.output


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str) -> None:
    result = CliRunner().invoke(router, [command, "--help"])
    assert result.exit_code == 0
    assert f"router {command}" in result.output
    assert len(router.commands[command].help or "") > 20


def test_without_a_command_the_help_is_shown_and_the_usage_is_wrong() -> None:
    result = run()
    assert result.returncode == 2
    assert "proxy" in result.stdout + result.stderr


def test_an_unknown_command_is_answered_with_the_nearest() -> None:
    result = run("chekc")
    assert result.returncode == 2
    assert result.stderr == "router: no command 'chekc'; did you mean 'check'?\nTry 'router --help'.\n"
    assert result.stdout == ""


def test_an_unknown_option_names_the_command_to_ask_for_help() -> None:
    result = run("run", "--log-levle", "info")
    assert result.returncode == 2
    assert "--log-levle" in result.stderr
    assert "Try 'router run --help'." in result.stderr


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("proxy",), "URL"),
        (("proxy", "ftp://127.0.0.1"), "http://"),
        (("proxy", "http://127.0.0.1:9001/path"), "path"),
        (("proxy", "99999"), "65535"),
        (("proxy", "--listen", "no such place", "9001"), "no such place"),
        (("demo", "--listen", "127.0.0.1:many"), "many"),
        (("completion", "tcsh"), "tcsh"),
    ],
)
def test_wrong_arguments_are_named_and_exit_2(arguments: tuple[str, ...], word: str) -> None:
    result = run(*arguments)
    assert result.returncode == 2
    assert word in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script_for_the_shell(shell: str) -> None:
    result = run("completion", shell)
    assert result.returncode == 0
    assert "_ROUTER_COMPLETE" in result.stdout


def test_completion_knows_the_commands() -> None:
    result = run(_ROUTER_COMPLETE="bash_complete", COMP_WORDS="router che", COMP_CWORD="1")
    assert result.stdout.split(",")[1:] == ["check\n"]


def test_completion_knows_the_options() -> None:
    result = run(_ROUTER_COMPLETE="bash_complete", COMP_WORDS="router check --req", COMP_CWORD="2")
    assert [line.split(",")[-1] for line in result.stdout.splitlines()] == ["--request", "--requests"]


def test_completion_of_an_unknown_command_is_empty() -> None:
    result = run(_ROUTER_COMPLETE="bash_complete", COMP_WORDS="router nonsense x", COMP_CWORD="2")
    assert (result.stdout.strip(), result.stderr) == ("", "")


def test_version_names_what_counts() -> None:
    result = run("version")
    assert result.returncode == 0
    for word in ("router", "Python", "aiohttp", "uvloop", "plugin selection"):
        assert word in result.stdout
    assert run("--version").stdout.split()[0] == "router"


def test_help_in_a_terminal_is_coloured_unless_no_color_is_set() -> None:
    assert "\x1b[" in run_in_terminal("--help")
    assert "\x1b[" not in run_in_terminal("--help", NO_COLOR="1")
    assert "\x1b[" not in run("--help").stdout


def test_plugins_in_a_terminal_are_coloured_unless_no_color_is_set() -> None:
    assert "\x1b[" in run_in_terminal("plugins")
    assert "\x1b[" not in run_in_terminal("plugins", NO_COLOR="1")
    assert "\x1b[" not in run("plugins").stdout


@pytest.mark.parametrize(
    "arguments", [("--help",), ("plugins", "--json"), ("schema",), ("init", "-"), ("version",), ()]
)
def test_a_closed_pipe_ends_quietly(arguments: tuple[str, ...]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    process = subprocess.run(
        [sys.executable, "-m", "router", *arguments],
        env=environment(),
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        timeout=50,
    )
    os.close(writer)
    assert "Traceback" not in process.stderr
    assert "BrokenPipe" not in process.stderr
    assert process.returncode in (1, 2)


def test_an_unexpected_exception_is_one_line(
    faulty_command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ROUTER_DEBUG", raising=False)
    assert cli.main([faulty_command]) == 1
    first, hint = capsys.readouterr().err.splitlines()
    assert first == "router: internal error: ZeroDivisionError: first line second line"
    assert "ROUTER_DEBUG=1" in hint


def test_an_unexpected_exception_is_traced_for_who_asks(
    faulty_command: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROUTER_DEBUG", "1")
    with caplog.at_level(logging.CRITICAL, "router"):
        assert cli.main([faulty_command]) == 1
    assert caplog.records[0].exc_info is not None


def test_an_interrupt_is_no_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    @click.command("wait")
    def wait() -> None:
        raise KeyboardInterrupt

    router.add_command(wait)
    try:
        assert cli.main(["wait"]) == 130
    finally:
        del router.commands["wait"]
    assert capsys.readouterr().err.strip() == ""


def test_a_failure_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    @click.command("fail")
    def fail() -> None:
        raise click.ClickException("127.0.0.1:8080 is taken")

    router.add_command(fail)
    try:
        assert cli.main(["fail"]) == 1
    finally:
        del router.commands["fail"]
    assert capsys.readouterr().err == "router: 127.0.0.1:8080 is taken\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ("--help",),
        ("check", "good.toml"),
        ("check", "good.toml", "--request", "GET http://h/", "--client", "192.0.2.7"),
        ("init", "new.toml"),
        ("schema",),
        ("plugins",),
        ("version",),
    ],
)
def test_quick_commands_load_no_server(arguments: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "good.toml").write_text(
        '[[listeners]]\nbind = "127.0.0.1:8080"\n[[routes]]\npool = "web"\n'
        '[[pools]]\nname = "web"\nendpoints = ["http://127.0.0.1:9001"]\n'
    )
    program = (
        "import sys; from router.cli import main; code = main(sys.argv[1:]);"
        "print([name for name in ('aiohttp', 'uvloop', 'asyncio') if name in sys.modules], file=sys.stderr);"
        "sys.exit(code)"
    )
    result = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr == "[]\n"


class _Stream:
    def __init__(self, terminal: bool) -> None:
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal


@pytest.mark.parametrize(
    ("terminal", "variables", "coloured"),
    [
        (True, {}, True),
        (True, {"NO_COLOR": ""}, True),
        (True, {"NO_COLOR": "1"}, False),
        (True, {"TERM": "dumb"}, False),
        (False, {}, False),
    ],
)
def test_colour_needs_a_terminal_and_no_wish_against_it(
    terminal: bool, variables: dict[str, str], coloured: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert cli_output.is_coloured(_Stream(terminal)) is coloured  # type: ignore[arg-type]


def test_a_painted_fault_keeps_its_text() -> None:
    text = "router.toml:3:8: no such pool; did you mean 'web'?\n  pool = 'wbe'\n         ^"
    painted = cli_output.paint_fault(text)
    assert painted.plain == text
    red = [painted.plain[span.start : span.end] for span in painted.spans if "red" in str(span.style)]
    assert red == ["         ^"]
