"""The fault bench in its short form: what clients see while servers fail, and that its own eyes are sharp.

The scenarios run in three processes side by side, since most of their time is waiting. Counts are asserted, times
never.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

LOADTESTS = Path(__file__).resolve().parent.parent / "loadtests"
#: What each process plays, about as long as the others.
PLAYED = (("kill", "restart", "503"), ("stop", "idle-close"), ("reset-body", "truncate"))
NAMES = tuple(name for names in PLAYED for name in names)


def load(name: str) -> ModuleType:
    if str(LOADTESTS) not in sys.path:
        sys.path.append(str(LOADTESTS))
    return importlib.import_module(name)


faults = load("faults")
cost = load("fault_cost")
client = load("fault_client")
house = load("fault_house")
report = load("fault_report")
scenarios = load("fault_scenarios")
servers = load("fault_servers")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("faults")
    running = []
    for number, names in enumerate(PLAYED):
        command = [sys.executable, str(LOADTESTS / "faults.py"), "--quick", "--json", str(folder / f"{number}.json")]
        command += ["--router", f"{sys.executable} -m router", "--only", *names]
        running.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))
    try:
        # The exit code is 1 where a time was missed too, which a busy machine may do.
        said = [process.communicate(timeout=55)[0] for process in running]
    finally:
        for process in running:
            process.terminate()
            process.wait(20)
    files = [folder / f"{number}.json" for number in range(len(PLAYED))]
    assert all(file.exists() for file in files), "\n".join(said)
    played = [result for file in files for result in json.loads(file.read_text())["results"]]
    return {result["name"]: result for result in played}


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_sent_twice_and_nothing_short_looks_whole(results: dict[str, dict[str, Any]], name: str) -> None:
    result = results[name]
    assert result["gets"] >= 50
    assert result["posts"] >= 30
    assert result["duplicates"] == 0
    assert result["lying"] == 0
    assert not [what for what in result["errors"] if "malformed" in what or "hanging" in what]


@pytest.mark.parametrize("name", ["kill", "restart", "stop", "idle-close"])
def test_a_get_never_fails(results: dict[str, dict[str, Any]], name: str) -> None:
    assert results[name]["get_errors"] == 0, results[name]["errors"]


@pytest.mark.parametrize("name", ["kill", "stop", "503", "reset-body", "truncate"])
def test_the_broken_server_is_taken_out(results: dict[str, dict[str, Any]], name: str) -> None:
    out = [cause for cause in results[name]["causes"] if cause.startswith(("ejected for", "down"))]
    assert out, results[name]


@pytest.mark.parametrize("name", NAMES)
def test_a_server_that_is_well_again_serves_again(results: dict[str, dict[str, Any]], name: str) -> None:
    assert results[name]["recover"] is not None, results[name]["causes"]


def test_only_posts_under_way_in_the_killed_server_fail(results: dict[str, dict[str, Any]]) -> None:
    assert verdict(results["kill"], "POST")["held"], results["kill"]


def test_a_status_counts_five_times(results: dict[str, dict[str, Any]]) -> None:
    assert "5 × status 503" in verdict(results["503"], "taken out")["measured"]
    assert verdict(results["503"], "at most")["held"], results["503"]


@pytest.mark.parametrize("name", ["reset-body", "truncate"])
def test_a_body_that_ends_early_breaks_in_sight(results: dict[str, dict[str, Any]], name: str) -> None:
    result = results[name]
    assert result["broken"] >= 1
    assert result["broken"] == result["get_errors"] + result["post_errors"], result["errors"]


@pytest.mark.parametrize("name", NAMES)
def test_the_router_ends_well(results: dict[str, dict[str, Any]], name: str) -> None:
    assert verdict(results[name], "the router ends")["held"], results[name]


def verdict(result: dict[str, Any], words: str) -> dict[str, Any]:
    (found,) = [each for each in result["verdicts"] if each["must"].startswith(words)]
    return found


# Its parts: the client before a server that fails, without a router between


async def seen_of(mode: str, folder: Path, method: str = "GET", count: int = 4) -> list[Any]:
    """What a client sees of so many requests to a server in this mode."""
    host, _, port = house.free_addresses(1)[0].partition(":")
    with (folder / "journal").open("wb") as file, pytest.MonkeyPatch.context() as patch:
        patch.setattr(client, "HOST", host)
        server = servers.Server("one", file.fileno(), [(host, int(port))])
        await server.turn(mode, 0.02)
        load = client.Load(int(port), "x", 100, most=count)
        await load.connection(0, method, 0)
        await server.turn("down", 0)
        await asyncio.gather(*server.connections, return_exceptions=True)
    found: list[Any] = load.seen
    return found


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize(
    ("mode", "kinds"),
    [
        ("ok", {"ok"}),
        ("slow-head", {"ok"}),
        ("slow-body", {"ok"}),
        ("close", {"closed"}),
        ("reset", {"closed"}),
        ("reset-head", {"broken"}),
        ("reset-body", {"broken"}),
        ("truncate", {"broken"}),
        ("garbage", {"malformed"}),
        ("500", {"status"}),
        ("503", {"status"}),
        ("idle-close", {"ok", "closed"}),
        ("down", {"refused"}),
        ("refuse", {"refused"}),
    ],
)
async def test_the_client_sees_each_fault_for_what_it_is(
    mode: str, kinds: set[str], method: str, tmp_path: Path
) -> None:
    seen = await seen_of(mode, tmp_path, method)
    assert {each.kind for each in seen} == kinds
    if mode == "idle-close":
        assert [each.kind for each in seen] == ["ok", "closed", "ok", "closed"]


async def test_a_server_notes_what_it_received_before_it_fails(tmp_path: Path) -> None:
    await seen_of("reset", tmp_path, "POST")
    lines = (tmp_path / "journal").read_text().splitlines()
    assert lines[0] == "POST x.0 reset one"
    await seen_of("idle-close", tmp_path, "POST")
    keys = [line.split()[1] for line in (tmp_path / "journal").read_text().splitlines()]
    assert {"x.0", "x.2"} <= set(keys)
    assert not {"x.1", "x.3"} & set(keys)


@pytest.mark.parametrize("mode", ["ok", "503", "reset", "truncate", "slow-head", "idle-close"])
async def test_health_is_well_whatever_else_fails(mode: str, tmp_path: Path) -> None:
    host, _, port = house.free_addresses(1)[0].partition(":")
    with (tmp_path / "journal").open("wb") as file:
        server = servers.Server("one", file.fileno(), [(host, int(port))])
        await server.turn(mode, 9)
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
        assert server.probes == 1
        writer.close()
        await server.turn("down", 0)
        await asyncio.gather(*server.connections, return_exceptions=True)
    assert (tmp_path / "journal").read_bytes() == b""


async def kind_of(*pieces: bytes) -> str:
    """How the client calls an answer of these bytes and an end of stream; BODY stands for the right one."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        size = int(head.split(b" ")[1][1:])
        body = servers.body_of("x.0", size)
        for piece in pieces:
            writer.write(piece.replace(b"SIZE", b"%d" % size).replace(b"BODY", body).replace(b"HALF", body[:-1]))
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        load = client.Load(server.sockets[0].getsockname()[1], "x", 100, most=1)
        await load.connection(0, "GET", 0)
    kind: str = load.seen[0].kind
    return kind


WHOLE = b"HTTP/1.1 200 OK\r\nX-Fault-Posted: 0\r\n"


@pytest.mark.parametrize(
    ("kind", "pieces"),
    [
        ("ok", (WHOLE + b"Content-Length: SIZE\r\n\r\n", b"BODY")),
        ("broken", (WHOLE + b"Content-Length: SIZE\r\n\r\n", b"HALF")),
        ("lying", (WHOLE + b"Content-Length: 4\r\n\r\n", b"x.0 ")),
        ("lying", (WHOLE + b"Transfer-Encoding: chunked\r\n\r\n", b"4\r\nx.0 \r\n0\r\n\r\n")),
        ("broken", (WHOLE + b"Transfer-Encoding: chunked\r\n\r\n", b"4\r\nx.0 \r\n")),
        ("malformed", (WHOLE + b"Transfer-Encoding: chunked\r\n\r\n", b"4\r\nx.0 BODY\r\n0\r\n\r\n")),
        ("malformed", (WHOLE + b"\r\n", b"BODY")),
        ("malformed", (WHOLE + b"Content-Length: SIZE\r\n\r\n", b"BODY", b"more")),
        ("broken", (b"HTTP/1.1 200 OK\r\n",)),
        ("closed", ()),
    ],
)
async def test_the_client_reads_strictly(kind: str, pieces: tuple[bytes, ...]) -> None:
    assert await kind_of(*pieces) == kind


# Its parts: the verdicts


def seen(key: str, method: str = "GET", kind: str = "ok", **more: Any) -> Any:
    given: dict[str, Any] = {"connection": 0, "due": 1.0, "sent": 1.0, "ended": 1.1, "status": 200, "server": "s1"}
    return client.Seen(key=key, method=method, kind=kind, **{**given, **more})


def record(*all_seen: Any, receipts: tuple[str, ...] = (), log: tuple[tuple[float, str], ...] = ()) -> Any:
    """A fault from 2 to 5 in the server s1 at http://a, there at 2.1."""
    return house.Record(
        list(all_seen),
        [house.Receipt(*line.split()) for line in receipts],
        [house.Said(moment, f"pool web, endpoint http://a: {text}") for moment, text in log],
        house.Moments(2, 2.1, 4.9, 5),
        ("s1",),
        ("http://a",),
        0,
    )


def test_a_post_that_two_servers_received_is_a_duplicate() -> None:
    twice = record(receipts=("POST a ok s1", "GET b ok s1", "POST a ok s2", "GET b ok s2", "POST c ok s1"))
    assert report.duplicates(twice.receipts) == ["a"]
    assert not report.no_duplicates(twice).held


@pytest.mark.parametrize(
    ("failed", "receipts", "held"),
    [
        (seen("a", "POST", "status", sent=2.0, ended=2.2), ("POST a ok s1",), True),
        (seen("a", "POST", "status", sent=2.0, ended=2.2), (), True),
        (seen("a", "POST", "status", sent=2.0, ended=2.2), ("POST a ok s2",), False),
        (seen("a", "POST", "status", sent=2.5, ended=2.6), ("POST a ok s1",), False),
        (seen("a", "POST", "status", sent=1.5, ended=1.9), ("POST a ok s1",), False),
        (seen("a", "POST", sent=2.5, ended=2.6), ("POST a ok s2",), True),
    ],
)
def test_a_post_may_fail_only_if_it_was_under_way_where_it_failed(
    failed: Any, receipts: tuple[str, ...], held: bool
) -> None:
    assert report.posts_under_way(record(failed, receipts=receipts)).held is held


def test_times_to_eject_and_to_recover_are_those_of_log_and_answers() -> None:
    log = ((1, "ejected for 1 s: before"), (2.5, "ejected for 2 s: 5 x"), (5.5, "back in service"))
    found = record(seen("a", server="s1", sent=5.1, ended=5.2), seen("b", server="s2", sent=5.0, ended=9.0), log=log)
    assert report.time_to_eject(found) == pytest.approx(0.5)
    assert report.time_to_recover(found) == pytest.approx(0.5)
    assert report.time_to_recover(record(seen("b", server="s2", sent=6.0))) is None
    assert not report.every_server_answers(record()).held


@pytest.mark.parametrize(
    ("said", "out"),
    [
        ((), False),
        (("ejected for 1 s: x",), True),
        (("ejected for 1 s: x", "ejection over, on probation"), True),
        (("ejected for 1 s: x", "ejection over, on probation", "back in service"), False),
        (("down: 3 probes failed",), True),
        (("down: 3 probes failed", "ejected for 1 s: x", "up: 2 probes passed"), True),
        (("down: 3 probes failed", "up: 2 probes passed"), False),
    ],
)
def test_an_endpoint_is_out_until_the_log_says_that_it_is_back(said: tuple[str, ...], out: bool) -> None:
    found = record(log=tuple((float(number), text) for number, text in enumerate(said)))
    assert house.is_out(found.log, "http://a") is out
    assert not house.is_out(found.log, "http://ab")


def test_slow_answers_are_counted_by_connection() -> None:
    slow = [seen(str(n), connection=n % 2, ended=2.0) for n in range(4)]
    assert report.few_slow_answers(0.5)(record(*slow)).held
    assert not report.few_slow_answers(0.5)(record(*slow, seen("x", ended=2.0))).held


def test_while_all_are_down_only_a_quick_503_will_do() -> None:
    quick = seen("a", kind="status", status=503, sent=3.0, ended=3.01)
    assert report.only_status(503)(record(quick)).held
    for other in (quick._replace(ended=3.5), quick._replace(status=502)):
        assert not report.only_status(503)(record(quick, other)).held
    assert not report.only_status(503)(record()).held


def test_service_is_back_with_the_last_error() -> None:
    late = seen("a", kind="status", sent=5.4, ended=5.5)
    assert report.served_within(0.5, "")(record(late)).held
    assert not report.served_within(0.3, "")(record(late)).held


def test_the_share_of_errors_is_taken_after_the_time_given() -> None:
    early = [seen(str(n), kind="status", sent=3.0) for n in range(50)]
    good = [seen(str(n), sent=4.5) for n in range(100)]
    assert report.small_share(0.01, 2)(record(*early, *good)).held
    assert not report.small_share(0.01, 2)(record(*early, *good[1:], seen("x", kind="status", sent=4.5))).held
    assert not report.small_share(0.01, 2)(record(*early)).held


def test_what_was_missed_is_said_in_the_table_and_by_the_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    good = report.result("good", "nothing", record(seen("a")), [report.no_get_errors])
    bad = report.result("bad", "much", record(seen("a", kind="status", status=502)), [report.no_get_errors])
    text = report.report([good, bad])
    assert "1 MISSED" in text
    assert "MISSED GET: 0 errors: 1 x GET status 502" in text
    pins = faults.Pinning((), (), "")
    args = faults.parser().parse_args(["--quick"])
    assert faults.told(args, [good], pins) == 0
    assert faults.told(args, [good, bad], pins) == 1
    # The full form has to have sent ten thousand POSTs.
    assert faults.told(faults.parser().parse_args([]), [good], pins) == 1
    assert "of at least 10000" in capsys.readouterr().out


def test_probes_that_cost_too_much_or_never_come_are_missed() -> None:
    assert all(each.held for each in cost.verdicts(1.05, 0.09, 500))
    for figures in ((1.06, 0.09, 500), (1.0, 0.1, 500), (1.0, 0.01, 0)):
        assert [each.held for each in cost.verdicts(*figures)].count(False) == 1


# Its parts: the scenarios


def test_every_pool_is_written_as_toml_that_says_what_the_scenario_is_about() -> None:
    assert len(set(faults.names())) == len(faults.names())
    for scenario in scenarios.scenarios():
        made = tomllib.loads(scenarios.pool("web", ["127.0.0.2:80"], scenario.pool))["pools"][0]
        assert made["endpoints"] == ["http://127.0.0.2:80"]
        assert ("attempt_timeout" in made.get("retry", {})) == ("attempt_timeout" in scenario.text)
        assert ("5xx" in made.get("retry", {}).get("on", ())) == ("5xx retried" in scenario.text)


def test_the_short_form_plays_some_scenarios_and_names_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert set(faults.BRIEF) < set(faults.names())
    with pytest.raises(SystemExit) as stop:
        faults.parser().parse_args(["--only", "nothing"])
    assert stop.value.code == 2
    assert "sinkhole-503" in capsys.readouterr().err
