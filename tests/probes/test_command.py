"""The command probe: what the program learns, what its end means, and that nothing of it stays."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from router_health import program
from router_health.command import CommandOptions, CommandProbe, _exit_words

from router import Endpoint, EndpointSpec
from router.options import PluginFault
from router.plugins import Registry
from router.testing import check_probe

WEB = Endpoint(EndpointSpec("http://127.0.0.1:9001", id="a"), "web")


def shell(text: str) -> dict[str, Any]:
    return {"use": "command", "command": ["sh", "-c", text]}


def runs(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def exists(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


class Written:
    """Numbers of processes that a program writes to a file, one a line."""

    def __init__(self, folder: Path, count: int) -> None:
        self.file = folder / "numbers"
        self.count = count

    def __bool__(self) -> bool:
        return self.file.exists() and self.file.read_text().count("\n") == self.count

    @property
    def numbers(self) -> list[int]:
        return [int(line) for line in self.file.read_text().split()]


async def test_what_the_program_learns(bench: Any, tmp_path: Path) -> None:
    names = ["POOL", "ENDPOINT", "URL", "HOST", "PORT"]
    script = "".join(f'echo "$ROUTER_{name}" >> {tmp_path}/told;' for name in names)
    await bench.passes(WEB, **shell(script))
    assert (tmp_path / "told").read_text().split("\n") == ["web", "a", "http://127.0.0.1:9001", "127.0.0.1", "9001", ""]
    (tmp_path / "told").unlink()
    await bench.passes(Endpoint(EndpointSpec("unix:/run/x"), "web"), **shell(script))
    assert (tmp_path / "told").read_text().split("\n") == ["web", "unix:/run/x", "unix:/run/x", "", "", ""]


async def test_the_rest_of_the_environment_is_inherited(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAMPLE_SETTING", "blue")
    await bench.passes(WEB, **shell('test "$SAMPLE_SETTING" = blue && test -n "$PATH"'))


async def test_no_shell_reads_the_arguments(bench: Any) -> None:
    check = "import sys; sys.exit(sys.argv[1:] != ['$HOME', 'a b', ';exit 1'])"
    await bench.passes(WEB, "command", command=[sys.executable, "-c", check, "$HOME", "a b", ";exit 1"])


async def test_it_has_no_input_and_a_session_of_its_own(bench: Any) -> None:
    await bench.passes(WEB, **shell("read line; test $? = 1"))
    check = f"import os, sys; sys.exit(os.getsid(0) != os.getpid() or os.getsid(0) == {os.getsid(0)})"
    await bench.passes(WEB, "command", command=[sys.executable, "-c", check])


@pytest.mark.parametrize(
    ("script", "failure"),
    [
        ("exit 0", ""),
        ("exit 1", "exit status 1"),
        ("exit 255", "exit status 255"),
        ("echo disk full; echo more; exit 2", "exit status 2: disk full"),
        ("echo disk full >&2; exit 2", "exit status 2: disk full"),
        ("printf '\\n  \\n  far down  \\n'; exit 2", "exit status 2: far down"),
        ("printf 'no end'; exit 2", "exit status 2: no end"),
        ("printf 'a\\033[31m\\rb\\377'; exit 2", "exit status 2: a\\x1b[31m"),
        ("printf '%0200d' 1; exit 2", f"exit status 2: {'0' * 77}..."),
        ("kill -TERM $$", "killed by SIGTERM"),
        ("echo last words; kill -KILL $$", "killed by SIGKILL: last words"),
    ],
)
async def test_what_its_end_means(bench: Any, script: str, failure: str) -> None:
    if failure:
        assert await bench.failure(WEB, **shell(script)) == failure
    else:
        await bench.passes(WEB, **shell(script))


async def test_other_statuses_can_pass(bench: Any) -> None:
    await bench.passes(WEB, **shell("exit 3"), statuses=[0, 3])
    assert await bench.failure(WEB, **shell("exit 0"), statuses=[3]) == "exit status 0"


def test_a_signal_without_a_name() -> None:
    assert _exit_words(-40) == "killed by signal 40"


async def test_a_flood_of_output_stops_nobody(bench: Any) -> None:
    flood = "import sys; sys.stdout.write('out of paper\\n' * 200_000); sys.stdout.flush(); sys.exit(4)"
    text = await bench.failure(WEB, "command", command=[sys.executable, "-c", flood])
    assert text == "exit status 4: out of paper"


async def test_an_endless_flood_can_be_cancelled(bench: Any) -> None:
    await bench.cancelled(WEB, bench_turns(30), "command", command=["yes"])


def bench_turns(count: int) -> Any:
    turns = iter(range(count))
    return lambda: next(turns, count) >= count - 1


async def test_a_program_that_closes_its_output_is_waited_for(bench: Any) -> None:
    assert await bench.failure(WEB, **shell("exec >&- 2>&-; sleep 0.05; exit 5")) == "exit status 5"


async def test_a_cancelled_check_kills_the_program_and_what_it_started(bench: Any, tmp_path: Path) -> None:
    written = Written(tmp_path, 3)
    nested = f"(trap '' TERM; sleep 600 & echo $! >> {written.file}; wait) & echo $! >> {written.file}"
    script = f"trap '' TERM; echo $$ >> {written.file}; {nested}; wait"
    await bench.cancelled(WEB, lambda: bool(written), **shell(script))
    # The program itself is reaped before the check ends; the others are init's, which takes its time.
    assert not exists(written.numbers[0])
    await bench.eventually(lambda: not any(runs(pid) for pid in written.numbers))


async def test_a_stopped_program_can_be_cancelled(bench: Any, tmp_path: Path) -> None:
    written = Written(tmp_path, 1)
    await bench.cancelled(WEB, lambda: bool(written), **shell(f"echo $$ > {written.file}; kill -STOP $$"))
    assert not exists(written.numbers[0])


async def test_what_a_program_leaves_behind_ends_with_it(bench: Any, tmp_path: Path) -> None:
    written = Written(tmp_path, 1)
    await bench.passes(WEB, **shell(f"sleep 600 & echo $! > {written.file}"))
    assert written
    await bench.eventually(lambda: not runs(written.numbers[0]))


async def test_what_cannot_be_run(bench: Any, tmp_path: Path) -> None:
    file = tmp_path / "check"
    file.write_text("#!/bin/sh\nexit 0\n")
    file.chmod(0o755)
    probe = bench.probe("command", command=[str(file)])
    await probe.check(WEB)
    file.write_text("#!/no/such/interpreter\n")
    assert "cannot run" in await bench.failure_of(probe, WEB)
    file.unlink()
    text = await bench.failure_of(probe, WEB)
    assert text.startswith("cannot run ")
    assert text.endswith(": No such file or directory")
    odd = Endpoint(EndpointSpec("http://127.0.0.1:9001", id="a\0b"), "web")
    assert await bench.failure(odd, **shell("exit 0")) == f"cannot run {shown_sh()}: embedded null byte"


def shown_sh() -> str:
    probe = CommandProbe(CommandOptions(("sh",)), None)  # type: ignore[arg-type]
    return probe._command[0]


async def test_who_cannot_watch_runs_nothing(bench: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fails(pid: int) -> int:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(program.os, "pidfd_open", fails)
    text = await bench.failure(WEB, **shell(f"sleep 600; touch {tmp_path}/done"))
    assert text == f"cannot run {shown_sh()}: Function not implemented"


async def test_a_program_of_another_user_may_refuse_to_die(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    kill, asked = os.killpg, list[tuple[int, int]]()

    def refused(group: int, number: int) -> None:
        asked.append((group, number))
        raise PermissionError

    monkeypatch.setattr(program.os, "killpg", refused)
    running: list[program.Program] = []

    def kept(*of: Any) -> program.Program:
        running.append(program.Program(*of))
        return running[-1]

    monkeypatch.setattr("router_health.command.Program", kept)
    monkeypatch.setattr("router_health.command._PATIENCE", 0.01)
    await bench.cancelled(WEB, lambda: running, **shell("sleep 600"))
    assert asked[0][1] == signal.SIGKILL
    assert not running[0].exited.done()
    kill(asked[0][0], signal.SIGKILL)
    await bench.eventually(running[0].exited.done)
    assert running[0].exited.result() == -signal.SIGKILL


async def test_many_at_once(bench: Any) -> None:
    entry = Registry.load(strict=True).resolve("probe", shell("exit ${ROUTER_PORT#900}"), None)
    well, ill = (Endpoint(EndpointSpec(f"http://127.0.0.1:{port}"), "web") for port in (9000, 9001))
    await check_probe(entry.entry.factory, entry.options, well=well, ill=ill)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, 'probe "command" needs "command", of type list of str'),
        ({"command": []}, "command is empty: write a program and its arguments"),
        ({"command": [""]}, "command is empty"),
        ({"command": "true"}, "command"),
        ({"command": ["no-such-program"]}, 'there is no program "no-such-program" on PATH that may be run'),
        ({"command": ["/"]}, 'there is no program "/" on PATH'),
        ({"command": ["true", "a\0b"]}, "no argument can hold a NUL"),
        ({"command": ["a\0b"]}, "no argument can hold a NUL"),
        ({"command": ["true"], "statuses": []}, "statuses is empty"),
        ({"command": ["true"], "statuses": [256]}, "statuses"),
        ({"command": ["true"], "statuses": ["0"]}, "statuses"),
        ({"command": ["true"], "shell": True}, 'no option "shell"'),
    ],
)
def test_nonsense_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(PluginFault) as caught:
        Registry.load(strict=True).resolve("probe", {"use": "command", **options}, None)
    assert words in str(caught.value)
    assert str(caught.value).isprintable()
