"""The bench of changes: that its own eyes are sharp, and what clients see of a few changes.

Its clients stand before servers without a router between, its verdicts before records made by hand. Counts are
asserted, times never.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib
import json
import sys
import time
import tomllib
from collections.abc import AsyncIterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

LOADTESTS = Path(__file__).resolve().parent.parent / "loadtests"


def load(name: str) -> ModuleType:
    if str(LOADTESTS) not in sys.path:
        sys.path.append(str(LOADTESTS))
    return importlib.import_module(name)


changes = load("changes")
client = load("change_client")
configs = load("change_configs")
house = load("change_house")
pulse = load("change_pulse")
report = load("change_report")
scenarios = load("change_scenarios")
servers = load("change_servers")
stall = load("change_stall")
faulty = load("fault_house")
requests = load("fault_client")

# The client before servers


@contextlib.asynccontextmanager
async def serving(folder: Path, mode: str = "change", slow: float = 0.05) -> AsyncIterator[tuple[Any, int]]:
    """A server, at 127.0.0.1 like every listener of the router."""
    port = house.free_port()
    with (folder / "journal").open("wb") as file:
        server = servers.Server("s1", file.fileno(), [("127.0.0.1", port)])
        await server.turn(mode, slow)
        yield server, port
        await server.end()


def few(**more: Any) -> Any:
    return client.Mix(**{"tunnels": 2, "echo": 0.02, "life": 600, **more})


async def held(port: int, mix: Any, count: int, seconds: float = 5) -> list[Any]:
    """What the client tells of its WebSockets once so many have ended, and of those that then stand."""
    tunnels = client.Tunnels(port, mix)
    running = [asyncio.ensure_future(tunnels.hold(number)) for number in range(mix.tunnels)]
    await tunnels.settled.wait()
    for _ in range(int(seconds / 0.01)):
        if len(tunnels.seen) < count:
            await asyncio.sleep(0.01)
    for each in running:
        each.cancel()
    await asyncio.gather(*running, return_exceptions=True)
    found: list[Any] = tunnels.seen
    return found


async def test_websockets_that_stand_to_the_end_are_not_closed(tmp_path: Path) -> None:
    async with serving(tmp_path) as (_, port):
        found = await held(port, few(), 1, 0.1)
    assert [each.end for each in found] == ["standing"] * 2
    assert {each.server for each in found} == {"s1"}
    assert all(each.begun <= each.stood <= each.ended for each in found)
    assert report.closed(found) == []


async def test_every_second_websocket_is_left_for_a_new_one(tmp_path: Path) -> None:
    async with serving(tmp_path) as (_, port):
        found = await held(port, few(life=0.02), 3)
    assert {(each.number, each.end) for each in found} >= {(1, "left"), (0, "standing")}
    assert report.closed(found) == []


async def test_a_websocket_that_the_other_side_ends_is_seen_at_once(tmp_path: Path) -> None:
    async with serving(tmp_path) as (server, port):
        asyncio.get_running_loop().call_later(0.1, lambda: [task.cancel() for task in server.connections])
        # The next echo would be long after the patience of this test.
        found = await held(port, few(echo=0.2, tunnels=1), 1)
    assert found[0].end == "closed"
    assert len(report.closed(found)) == 1


@pytest.mark.parametrize(
    ("answers", "kinds", "ends"),
    [
        ([b"", b""], ["ok", "ok"], 0),
        ([b"close", b""], ["ok", "ok"], 1),
        ([b"Connection: close", b""], ["ok", "ok"], 1),
        ([b"reset", b""], ["closed", "ok"], 0),
    ],
)
async def test_a_connection_that_ended_between_requests_is_not_used_and_counts(
    answers: list[bytes], kinds: list[str], ends: int
) -> None:
    """Each answer says how its connection goes on."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while answers:
            await reader.readuntil(b"\r\n\r\n")
            how = answers.pop(0)
            line = how + b"\r\n" if b":" in how else b""
            if how != b"reset":
                writer.write(b"HTTP/1.1 200 OK\r\nX-Fault-Posted: 0\r\n" + line + b"Content-Length: 200\r\n\r\n")
                writer.write(servers_body(f"kept.{1 - len(answers)}"))
            if how:
                break
        writer.close()

    def servers_body(key: str) -> bytes:
        body: bytes = load("fault_servers").body_of(key, 200)
        return body

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(requests, "SIZES", (200,))
            made = client.Client(server.sockets[0].getsockname()[1], client.KEPT, 20, "", 2)
            await made.connection(0, "GET", time.monotonic() + 0.01)
    assert [each.kind for each in made.seen] == kinds
    assert made.ends == ends
    assert report.all_kept(record(ends=made.ends)).held is not bool(ends)


@pytest.mark.parametrize(
    ("pieces", "end"),
    [
        ((b"HTTP/1.1 503 Fault\r\n\r\n",), "status"),
        ((b"HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: x\r\n\r\n",), "status"),
        ((b"HTTP/1.1 101",), "closed"),
        ((), "closed"),
        ((servers.handshake("s1"), servers.framed(servers.TEXT, b"1")), "lying"),
        ((servers.handshake("s1"), servers.framed(servers.TEXT, b"0") * 2), "lying"),
        ((servers.handshake("s1"), servers.framed(servers.TEXT, b"0")), "closed"),
    ],
)
async def test_the_client_tells_how_a_websocket_fails(pieces: tuple[bytes, ...], end: str) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        found = await held(server.sockets[0].getsockname()[1], few(tunnels=1), 1)
    assert found[0].end == end


async def test_nobody_listening_is_a_refused_websocket() -> None:
    found = await held(house.free_port(), few(tunnels=1), 1)
    assert found[0].end == "refused"
    assert found[0].stood == 0


async def test_downloads_take_their_time_and_the_others_do_not(tmp_path: Path) -> None:
    async with serving(tmp_path, slow=0.2) as (_, port):
        quick = client.Client(port, client.KEPT, 100, "", 1)
        slow = client.Client(port, client.SLOW, 100, "", 1)
        fresh = client.Client(port, client.FRESH, 100, "Connection: close\r\n", 1)
        await asyncio.gather(*(load.connection(0, "GET", 0) for load in (quick, slow, fresh)))
        assert [each.kind for load in (quick, slow, fresh) for each in load.seen] == ["ok"] * 3
        assert slow.seen[0].ended - slow.seen[0].sent > quick.seen[0].ended - quick.seen[0].sent
        assert [report.is_slow(load.seen[0]) for load in (quick, slow, fresh)] == [False, True, False]


async def test_the_load_is_of_all_kinds_and_its_files_tell_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mix = few(gets=1, posts=1, fresh=2, rate=50, slow=1, slow_every=0.1)
    handlers: list[Any] = []
    loop = asyncio.get_running_loop()
    monkeypatch.setattr(loop, "add_signal_handler", lambda _number, handler: handlers.append(handler), raising=False)
    async with serving(tmp_path) as (_, port):
        running = asyncio.ensure_future(client.run(port, tmp_path / "load.seen", mix))
        await asyncio.sleep(0.3)
        handlers[0]()
        await running
    seen = [requests.Seen(*json.loads(line)) for line in (tmp_path / "load.seen").read_text().splitlines()]
    told = [client.Tunnel(*json.loads(line)) for line in (tmp_path / "load.tunnels").read_text().splitlines()]
    assert {each.kind for each in seen} == {"ok"}
    assert {(each.key.partition(".")[0], each.method) for each in seen} == {
        ("kept", "GET"),
        ("kept", "POST"),
        ("fresh", "GET"),
        ("fresh", "POST"),
        ("slow", "GET"),
    }
    assert len({each.key for each in seen}) == len(seen)
    assert [each.end for each in told] == ["standing"] * 2
    assert (tmp_path / "load.ends").read_text() == "[0]\n"


def test_frames_are_masked_from_the_client_only() -> None:
    assert servers.framed(servers.TEXT, b"abc") == b"\x81\x03abc"
    sent = servers.framed(servers.TEXT, b"abcde", b"\x01\x02\x03\x04")
    assert sent[:2] == b"\x81\x85"
    assert servers.masked(sent[6:], sent[2:6]) == b"abcde"


# Stalls


async def test_a_loop_that_stands_still_is_seen_from_inside(tmp_path: Path) -> None:
    file = tmp_path / "late"
    begin = time.monotonic()
    async with stall.Stall(stall.Stall.Options(file=str(file)), None).serve(None):
        await asyncio.sleep(0.01)
        time.sleep(0.1)  # noqa: ASYNC251
        await asyncio.sleep(0.01)
    found = stall.read(file)
    assert max(late.seconds for late in found) > 0.09
    assert report.longest(found, report.Window(begin, time.monotonic())) > 90
    assert report.longest(found, report.Window(begin - 2, begin - 1)) == 0
    assert stall.read(tmp_path / "none") == []


async def test_a_router_that_stands_still_is_seen_from_outside() -> None:
    seen: list[Any] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for number in range(5):
            await reader.readuntil(b"\r\n\r\n")
            await asyncio.sleep(0.1 if number == 2 else 0)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        with pytest.raises(OSError):
            await asyncio.to_thread(pulse.ask, server.sockets[0].getsockname()[1], "/", seen)
    assert max(late.seconds for late in seen) > 0.09


@pytest.mark.parametrize(("inside", "held"), [(0.049, True), (0.051, False)])
def test_the_longest_stall_of_a_reload_counts_and_others_are_told(inside: float, held: bool) -> None:
    calm, watched = report.Window(0, 1), [report.Window(1, 2, 0.4), report.Window(2, 3, 0.5)]
    late = [stall.Late(0.5, 0.2), stall.Late(1.5, 0.01), stall.Late(2.5, inside)]
    found = report.short_stalls(late, [stall.Late(1.7, 0.3)], calm, watched, 50)
    assert found.held is held
    for word in (f"10, {inside * 1000:.0f} ms", "slowest answer 300 ms", "within 0.5 s", "reload 200 and 0 ms"):
        assert word in found.measured
    assert not report.short_stalls([], [], calm, [], 50).held


@pytest.mark.parametrize(("last", "held"), [(101, True), (99, True), (102.5, False)])
def test_memory_is_flat_from_a_mark_on(last: float, held: bool) -> None:
    sizes = [(50, 90 << 20), (250, 100 << 20), (1000, int(last * report.MIB))]
    assert report.flat(sizes, 250, 2).held is held


# Verdicts


def seen(key: str = "kept.1", kind: str = "ok", **more: Any) -> Any:
    given: dict[str, Any] = {"method": "GET", "connection": 0, "due": 1.0, "sent": 1.0, "ended": 1.1}
    return requests.Seen(key=key, kind=kind, **{**given, "status": 200, "server": "s1", **more})


def tunnel(end: str = "standing", **more: Any) -> Any:
    return client.Tunnel(**{"number": 0, "server": "s1", "begun": 0.0, "stood": 0.1, "ended": 9.0, "end": end, **more})


def record(*found: Any, tunnels: tuple[Any, ...] = (), **more: Any) -> Any:
    given = {"receipts": [], "log": [], "phases": [], "mix": few(), "changes": 1, "code": 0}
    return house.Record(**{"seen": list(found), "tunnels": list(tunnels), **given, **more})


def test_every_error_and_every_closed_websocket_is_told() -> None:
    good = record(seen(), tunnels=(tunnel(), tunnel("left")))
    assert report.no_errors(good).held
    assert report.no_tunnel_closed(good).held
    bad = record(seen(), seen(kind="refused", status=0), tunnels=(tunnel(), tunnel("closed", begun=2.0)))
    assert report.no_errors(bad).measured == "1: 1 x GET refused"
    assert report.no_tunnel_closed(bad).measured == "1: closed after 7.0 s"


def test_too_little_load_proves_nothing() -> None:
    mix = few(gets=1, posts=0, fresh=0, rate=10, slow=0)
    enough = [seen(sent=float(number) / 10) for number in range(10)]
    both = (tunnel(), tunnel())
    assert report.loaded(record(*enough, tunnels=both, mix=mix)).held
    assert not report.loaded(record(*enough[::2], tunnels=both, mix=mix)).held
    assert not report.loaded(record(*enough, tunnels=(tunnel(), tunnel("closed")), mix=mix)).held
    assert not report.loaded(record(mix=mix)).held


PHASE = house.Phase("s2 removed", 2, 4, {"s1": 1, "s3": 1})


@pytest.mark.parametrize(
    ("found", "held"),
    [
        (seen(server="s2", sent=2.1, ended=2.2), False),
        (seen(server="s2", sent=1.9, ended=2.1), True),
        (seen(server="s2", sent=3.9, ended=4.1), True),
        (seen(server="s1", sent=2.1, ended=2.2), True),
    ],
)
def test_a_request_that_a_removed_server_gets_is_a_stray(found: Any, held: bool) -> None:
    assert report.no_strays(record(found, phases=[PHASE])).held is held


def test_a_websocket_that_a_removed_server_gets_is_a_stray() -> None:
    late, early = tunnel(server="s2", begun=2.1, stood=2.2), tunnel(server="s2", begun=1.9, stood=2.2)
    assert not report.no_strays(record(tunnels=(late,), phases=[PHASE])).held
    assert report.no_strays(record(tunnels=(early,), phases=[PHASE])).held


def test_servers_in_service_get_their_share() -> None:
    def verdicts(one: int, three: int) -> tuple[bool, bool]:
        found = [seen(server="s1", sent=3.0, ended=3.1)] * one + [seen(server="s3", sent=3.0, ended=3.1)] * three
        made = record(*found, phases=[PHASE])
        return report.none_starved(made).held, report.fair_shares(made).held

    assert verdicts(10, 10) == (True, True)
    assert verdicts(18, 2) == (True, False)
    assert verdicts(20, 0) == (False, False)


def leaving(*found: Any, tunnels: tuple[Any, ...], receipts: tuple[str, ...] = ("slow.1",)) -> tuple[Any, Any]:
    made = [faulty.Receipt("GET", key, "change", "s1") for key in receipts]
    return report.Leaving("s1", 2.0, 2.1), record(*found, tunnels=tunnels, receipts=made)


def test_what_is_under_way_may_finish() -> None:
    download, socket = seen("slow.1", sent=1.5, ended=8.0), tunnel(stood=1.0, ended=9.0)
    left, made = leaving(download, tunnels=(socket,))
    assert left.finishes(made).held
    assert left.else_well(made).held
    for found, tunnels in (
        ((download._replace(kind="broken", server=""),), (socket,)),
        ((download,), (socket._replace(end="closed"),)),
        ((), (socket,)),
        ((download,), ()),
        ((download._replace(sent=3.0),), (socket,)),
    ):
        left, made = leaving(*found, tunnels=tunnels)
        assert not left.finishes(made).held


@pytest.mark.parametrize(("moment", "held"), [(4.15, True), (3.9, False), (5.5, False)])
def test_what_takes_longer_is_cut_in_time(moment: float, held: bool) -> None:
    download = seen("slow.1", "broken", sent=1.5, ended=moment, server="")
    socket = tunnel("closed", stood=1.0, ended=moment)
    left, made = leaving(download, tunnels=(socket,))
    assert left.is_cut(made, 2).held is held
    assert left.else_well(made).held


def test_a_cut_that_does_not_come_or_hits_others_is_seen() -> None:
    download, socket = seen("slow.1", "broken", sent=1.5, ended=4.2, server=""), tunnel("closed", stood=1.0, ended=4.2)
    left, made = leaving(download, tunnels=(socket, tunnel(stood=1.0)))
    assert not left.is_cut(made, 2).held
    left, made = leaving(seen("slow.1", sent=1.5, ended=9.0), tunnels=(socket,))
    assert not left.is_cut(made, 2).held
    for other in (seen(kind="closed", ended=4.2), seen("slow.2", "broken", sent=1.5, ended=4.2)):
        left, made = leaving(download, other, tunnels=(socket,))
        assert not left.else_well(made).held
    left, made = leaving(download, tunnels=(socket, tunnel("closed", server="s2")))
    assert not left.else_well(made).held


def test_a_message_of_several_lines_counts_once() -> None:
    lines = (
        "2030-01-02 03:04:05,678 INFO router: all is well",
        "2030-01-02 03:04:05,679 ERROR router: router.toml:3:8: route 'load': pool = \"wbe\"",
        '  pool = "wbe"',
        "         ^",
        "2030-01-02 03:04:06,000 WARNING router: once more",
    )
    log = [faulty.Said(float(number), line) for number, line in enumerate(lines)]
    first = "\n".join(["router.toml:3:8: route 'load': pool = \"wbe\"", *lines[2:4]])
    assert report.messages(log) == [first, "once more"]
    assert report.messages(log[2:4]) == []


def test_errors_that_had_to_be_told_do_not_count() -> None:
    expected = faulty.Said(1, "2030-01-02 03:04:05,679 ERROR router: not taken")
    other = faulty.Said(2, "2030-01-02 03:04:05,679 ERROR router: plugin x failed")
    check = report.ends_well_but("not taken")
    assert check(record(log=[expected])).held
    assert not check(record(log=[expected, other])).held
    assert not check(record(code=1)).held


def test_what_was_missed_or_went_wrong_is_told_by_the_exit_code(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    good = report.result("good", "nothing", record(seen(), tunnels=(tunnel(),)), [report.no_errors])
    bad = report.result("bad", "much", record(seen(kind="status", status=502)), [report.no_errors])
    text = report.report([good, bad])
    assert "1 MISSED" in text
    assert "MISSED 0 errors: 1: 1 x GET status 502" in text
    args = changes.parser().parse_args(["--json", str(tmp_path / "figures")])
    pins = changes.Pinning((), (), "")
    assert changes.told(args, [good], pins) == 0
    assert changes.told(args, [good, bad], pins) == 1
    assert changes.told(args, [good], pins, ["upgrade: no process"]) == 1
    assert "upgrade: no process" in capsys.readouterr().err
    figures = json.loads((tmp_path / "figures").read_text())
    assert figures["failed"] == ["upgrade: no process"]
    assert figures["results"][0]["tunnels"] == 1


# Configurations


@pytest.fixture
def site(tmp_path: Path) -> Any:
    fleet = argparse.Namespace(folder=tmp_path, close=lambda: None)
    made = house.Site(fleet, changes.Pinning((), (), ""), "router")
    made.addresses = {f"s{number}": f"127.0.0.{number}:80" for number in range(1, 5)}
    return made


def test_elsewhere_one_thing_changes_at_a_time(site: Any) -> None:
    def parts(step: int) -> list[Any]:
        text = configs.configuration(site, step, configs.all_alike(site), more=configs.elsewhere(site, 1, step))
        made = tomllib.loads(text)
        (other,) = [each for each in made["routes"] if each["name"] == "other"]
        pools = {each["name"]: each for each in made["pools"]}
        assert made["routes"][-1] == {"name": "load", "pool": "web"}
        assert [each["weight"] for each in pools["web"]["endpoints"]] == [1] * 4
        assert made["routes"][0]["answer"]["body"] == "." * step
        return [made["listeners"][1], other, pools["other"]]

    changed = []
    for step in range(1, 8):
        differ = [number for number in range(3) if parts(step)[number] != parts(step + 1)[number]]
        assert len(differ) == 1
        changed += differ
    assert set(changed) == {0, 1, 2}


def test_large_configurations_are_of_their_size_and_differ_in_one_endpoint(site: Any) -> None:
    def urls(step: int) -> list[Any]:
        text = "\n".join(f"p{n} = {configs.many(10, n * 10, step)}" for n in range(1000))
        return [each for found in tomllib.loads(text).values() for each in found]

    one, two = urls(1), urls(2)
    assert len({each if isinstance(each, str) else each["url"] for each in one}) == 10_000
    assert [number for number, each in enumerate(one) if each != two[number]] == [0]


def test_endpoints_are_written_with_their_state(site: Any) -> None:
    text = configs.pool("web", f"endpoints = {configs.endpoints(site.addresses, {'s1': 2, 's2': 1}, 's2')}")
    (made,) = tomllib.loads(text)["pools"]
    assert [(each["id"], each["weight"], each["state"]) for each in made["endpoints"]] == [
        ("s1", 2, "up"),
        ("s2", 1, "drain"),
    ]


# With the router


@pytest.mark.parametrize(
    ("name", "count"),
    [("reload", 2), ("leaving-cut", 1)],
)
def test_a_few_changes_disturb_nobody(name: str, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    mix = few(gets=2, posts=2, fresh=2, rate=10, slow=1, slow_every=0.5, tunnels=4, echo=0.1)
    monkeypatch.setattr(house, "Mix", lambda: mix)
    pace = house.QUICK._replace(around=0.2, told=2, download=1.5, cut=0.5)
    (scenario,) = [each for each in scenarios.SCENARIOS if each.name == name]
    command = f"{sys.executable} -m router"
    with changes.workbench() as fleet:
        made = house.Site(fleet, changes.Pinning((), (), ""), command)
        with contextlib.closing(made):
            result = scenarios.play(made, pace, scenario)
    assert result.changes == count
    assert result.requests >= 5
    assert result.duplicates == result.lying == 0
    if name == "reload":
        assert (result.errors, result.closed, result.ends) == (0, 0, 0), result
    else:
        assert result.closed >= 1, result


def test_each_scenario_has_a_name_and_an_unknown_one_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert len(set(changes.names())) == len(changes.names())
    with pytest.raises(SystemExit) as stop:
        changes.parser().parse_args(["--only", "nothing"])
    assert stop.value.code == 2
    assert "upgrade" in capsys.readouterr().err
