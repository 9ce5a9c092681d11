"""The bench of affinities: that its own eyes are sharp, and what a few visitors and forgers see of the router.

Its verdicts stand before records made by hand, its clients before a server without a router between. Counts are
asserted, times never.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

LOADTESTS = Path(__file__).resolve().parent.parent / "loadtests"


def load(name: str) -> ModuleType:
    if str(LOADTESTS) not in sys.path:
        sys.path.append(str(LOADTESTS))
    return importlib.import_module(name)


bench = load("affinity")
client = load("affinity_client")
cost = load("affinity_cost")
house = load("affinity_house")
report = load("affinity_report")
scenarios = load("affinity_scenarios")
changing = load("change_house")
requests = load("fault_client")

VALUES = ["AAAAbbbb0000-_xyAAAAbbbb0000-_xyAAAAbbbb", "CCCCdddd1111-_zwCCCCdddd1111-_zwCCCCdddd"]


def seen(visitor: int, server: str, sent: float, kind: str = "ok", status: int = 200) -> Any:
    return requests.Seen(f"{visitor}.{sent}", "GET", visitor, sent, sent, sent + 0.1, kind, status, server)


# Mutations


def test_mutations_are_many_different_near_and_never_good() -> None:
    made = list(client.mutations(client.Forgery("router", VALUES, 2000)))
    assert len(set(made)) == 2000
    assert not set(made) & set(VALUES)
    assert not [value for value in made if set(value) - set(client.ALPHABET)]
    assert sum(len(value) == 40 and sum(map(str.__ne__, value, VALUES[0])) == 1 for value in made) > 100
    assert max(map(len, made)) > 4096
    assert "" in made
    assert made == list(client.mutations(client.Forgery("router", VALUES, 2000)))


# Clients


async def served(answers: list[str], work: Any) -> list[str]:
    """Runs clients before a server that sets cookies in turn; promises the cookies that it was sent."""
    sent: list[str] = []
    serving: list[Any] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.append(asyncio.current_task())
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                sent.append(head.partition("\r\nCookie: ")[2].partition("\r\n")[0])
                fields = f"{answers.pop(0)}X-Fault-Server: s1\r\nContent-Length: 0\r\n"
                writer.write(f"HTTP/1.1 404 No\r\n{fields}\r\n".encode())
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        await work(server.sockets[0].getsockname()[1])
        await asyncio.gather(*serving)
    return sent


async def test_a_visitor_sends_back_what_was_set() -> None:
    answers = ["Set-Cookie: router=a; Path=/\r\n", "", "Set-Cookie: x=1\r\n", "Set-Cookie: router=b\r\n", ""]

    async def visit(port: int) -> None:
        await client.Visitor(port, 0, client.Visits(1, 0, 5, 1e9)).connection(0, "GET", 0)

    assert await served(answers, visit) == ["", "router=a", "router=a", "router=a; x=1", "router=b; x=1"]


async def test_a_forger_notes_what_came_of_each_value() -> None:
    forger: Any = None

    async def forge(port: int) -> None:
        nonlocal forger
        forger = client.Forger(port, 0, "router", ["one", "two"])
        await forger.connection(0, "GET", 0)

    assert await served(["Set-Cookie: router=a\r\n", ""], forge) == ["router=one", "router=two"]
    assert forger.sent == [client.Sent("one", 404, "s1", True), client.Sent("two", 404, "s1", False)]


# Verdicts


def test_a_change_of_server_needs_a_server_that_is_down() -> None:
    down = report.Down("s1", 2.0, 4.0)
    for before, at, after, held in (
        ("s1", 3.0, "s2", True),
        ("s1", 1.95, "s2", True),
        ("s1", 3.95, "s2", True),
        ("s1", 1.0, "s2", False),
        ("s1", 4.5, "s2", False),
        ("s2", 3.0, "s1", False),
    ):
        found = [seen(1, before, 0.5), seen(1, after, at), seen(2, "s3", 0.6), seen(2, "s3", 3.0)]
        assert report.loyal(found, [down]).held is held, (before, at, after)
    assert not report.loyal([seen(1, "s1", 0), seen(1, "s2", 3), seen(1, "s1", 5)], [down]).held


def test_somebody_has_to_have_moved() -> None:
    down = report.Down("s1", 2.0, 4.0)
    assert report.moved_on([seen(1, "s1", 0), seen(1, "s2", 3)], [down]).held
    assert not report.moved_on([seen(1, "s1", 0), seen(1, "s1", 3)], [down]).held


def test_every_visitor_makes_all_requests_without_an_error() -> None:
    good = [seen(visitor, "s1", float(moment)) for visitor in (1, 2) for moment in (1, 2)]
    assert report.all_came(good, 2, 2).held
    assert not report.all_came(good, 3, 2).held
    assert not report.all_came(good[1:], 2, 2).held
    assert not report.all_came([*good[:3], seen(2, "s1", 2, "status", 503)], 2, 2).held


PHASE = changing.Phase("s3 drained", 1, 9, {"s1": 3, "s2": 1})


def test_new_visitors_are_shared_out_by_weight() -> None:
    def verdict(*servers: str) -> bool:
        # Each comes again, which does not count.
        found = [seen(n, s, 2 + again) for n, s in enumerate(servers) for again in (0, 1)]
        held: bool = report.fair_choices(found, [PHASE]).held
        return held

    assert verdict(*["s1"] * 15, *["s2"] * 5)
    assert verdict(*["s1"] * 12, *["s2"] * 8)
    assert not verdict(*["s1"] * 10, *["s2"] * 10)


def test_a_drained_server_keeps_who_was_there_and_gets_nobody_new() -> None:
    old = [seen(1, "s3", 0.5), seen(1, "s3", 5)]
    assert report.no_stray_choices(old, [PHASE]).held
    assert report.keeps_sessions(old, PHASE, "s3").held
    assert not report.no_stray_choices([*old, seen(2, "s3", 5)], [PHASE]).held
    assert not report.keeps_sessions(old[:1], PHASE, "s3").held
    assert report.takes_new([*old, seen(2, "s1", 5)], PHASE, "s1").held
    assert not report.takes_new(old, PHASE, "s3").held


def test_an_accepted_forgery_is_seen_by_its_server_or_by_what_is_not_replaced() -> None:
    good = [client.Sent("a", 200, "s3", True), client.Sent("b", 200, "s3", True)]
    assert report.none_accepted(good, 2, ["s1", "s2"]).held
    assert not report.none_accepted(good, 3, ["s1", "s2"]).held
    for other in (
        client.Sent("c", 200, "s2", True),
        client.Sent("c", 200, "s3", False),
        client.Sent("c", 400, "", True),
        client.Sent("c", 500, "", True),
    ):
        assert not report.none_accepted([*good, other], 3, ["s1", "s2"]).held
    assert report.good_ones_count([("s1", "s1")]).held
    assert not report.good_ones_count([("s1", "s1"), ("s2", "s3")]).held
    assert not report.nothing_said(["affinity cookie failed"]).held


@pytest.mark.parametrize(
    ("sizes", "held"),
    [
        ([(0, 50), (1000, 52), (5000, 53), (9000, 54)], [True, True]),
        ([(0, 50), (1000, 52), (5000, 53), (9000, 57)], [True, False]),
        ([(0, 50), (1000, 60), (5000, 60), (9000, 60)], [False, True]),
        ([(0, 50), (1000, 52), (2000, 52)], [True, False]),
    ],
)
def test_memory_is_bounded_by_the_entries(sizes: list[tuple[int, int]], held: list[bool]) -> None:
    found = report.bounded([(ids, size * report.MIB) for ids, size in sizes], 1000)
    assert [verdict.held for verdict in found] == held


def test_what_affinity_knows_is_what_it_has_to_know() -> None:
    assert report.oldest_first({"old": (False, False), "used": (True, True)}).held
    assert not report.oldest_first({"old": (True, False)}).held
    assert not report.oldest_first({"used": (False, True)}).held


def test_a_cookie_that_costs_too_much_is_missed() -> None:
    assert report.cheap(1.06, 2, 2).held
    assert not report.cheap(1.061, 1, 1).held


def test_what_was_missed_or_went_wrong_is_told_by_the_exit_code(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    good = report.Result("cost", "little", 10, {"cpu_us": {}}, [report.cheap(1, 1, 1)])
    bad = good._replace(verdicts=[report.cheap(2, 2, 2)])
    assert "1 MISSED" in report.report([good, bad])
    args = bench.parser().parse_args(["--json", str(tmp_path / "figures")])
    pins = bench.Pinning((), (), "")
    assert bench.told(args, [good], pins) == 0
    assert bench.told(args, [good, bad], pins) == 1
    assert bench.told(args, [good], pins, ["forged: no process"]) == 1
    assert "forged: no process" in capsys.readouterr().err
    assert json.loads((tmp_path / "figures").read_text())["failed"] == ["forged: no process"]


def test_rows_have_names_and_an_unknown_one_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.names() == ["visitors", "hostile-cookie", "hostile-header", "forged", "cost"]
    with pytest.raises(SystemExit) as stop:
        bench.parser().parse_args(["--only", "nothing"])
    assert stop.value.code == 2
    assert "visitors" in capsys.readouterr().err


def test_the_scripts_say_what_is_sent() -> None:
    assert '{["Cookie"] = "a=1; SESSION=xx" .. number}' in cost.ids_script("Cookie", "a=1; SESSION=", "xx")
    assert 'cookies, made, turn = {"r=a", "r=b"}, {}, 0' in cost.cookies_script(["r=a", "r=b"])


# With the router


@pytest.mark.parametrize("name", ["visitors", "forged"])
def test_a_few_visitors_and_forgers_see_what_many_see(name: str) -> None:
    pace = house.QUICK._replace(visits=client.Visits(40, 0.15, 6, 10), phase=0.4, mutations=60)
    (row,) = [each for each in scenarios.ROWS if each.name == name]
    with bench.workbench() as fleet:
        site = house.Abode(fleet, bench.Pinning((), (), ""), f"{sys.executable} -m router")
        with contextlib.closing(site):
            result = scenarios.play(site, pace, row)
    assert result.requests == (240 if name == "visitors" else 60)
    # So few visitors may all be elsewhere when one server is killed or drained, or gone before it is back.
    maybe = ("visitors of a server that is down", "s2 keeps", "s1 gets")
    missed = [each for each in result.verdicts if not each.held and not each.must.startswith(maybe)]
    assert missed == []
