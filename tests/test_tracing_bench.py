"""The bench of tracing: that its verdicts are sharp.

They stand before spans, answers and logs made by hand. Counts are asserted, times never.
"""

from __future__ import annotations

import importlib
import math
import sys
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

LOADTESTS = Path(__file__).resolve().parent.parent / "loadtests"


def load(name: str) -> ModuleType:
    if str(LOADTESTS) not in sys.path:
        sys.path.append(str(LOADTESTS))
    return importlib.import_module(name)


bench = load("tracing")
configs = load("change_configs")
cost = load("tracing_cost")
house = load("tracing_house")
peers = load("tracing_peers")
procs = load("bench_procs")
report = load("tracing_report")
requests = load("fault_client")
spans = load("tracing_spans")

SECOND = 1_000_000_000
SERVERS = {"s1": "127.0.0.2:81"}
SETTING = report.Setting(0, SERVERS, "load", "web", "fault")


def seen(key: str, due: float = 1.0, kind: str = "ok", took: float = 0.01, method: str = "GET") -> Any:
    return requests.Seen(key, method, 0, due, due, due + took, kind, 200 if kind == "ok" else 0, "s1")


def span(key: str, kind: str, own: str, parent: str, **fields: Any) -> Any:
    trace = spans.ids_of(key)[0]
    made = spans.Span(
        "router", "one", trace, own, parent, "GET load", kind, SECOND, SECOND + 9_000_000, "unset", {}, []
    )
    return made._replace(**fields)


def request(key: str, attempts: int = 1) -> list[Any]:
    """The spans of one request, as they should be."""
    of_server = {
        "http.request.method": "GET",
        "http.response.status_code": 200,
        "url.path": "/200",
        "url.scheme": "http",
        "http.route": "load",
        "network.protocol.version": "1.1",
        "client.address": "127.0.0.1",
        "server.address": "fault",
        "lb.pool": "web",
        "lb.attempts": attempts,
        "lb.endpoint": "s1",
    }
    of_client = {
        "http.request.method": "GET",
        "http.response.status_code": 200,
        "server.address": "127.0.0.2",
        "server.port": 81,
        "url.full": "http://127.0.0.2:81/200",
        "lb.attempt": 0,
        "lb.outcome": "success",
        "lb.endpoint": "s1",
    }
    server = span(key, "server", f"{key}-s", spans.ids_of(key)[1], attributes=of_server)
    clients = [
        span(key, "client", f"{key}-{number}", server.span, name="GET", attributes=of_client)
        for number in range(attempts)
    ]
    return [server, *clients]


def test_each_request_has_ids_of_its_own_and_is_sampled() -> None:
    version, trace, parent, flags = spans.parent_of("load.1").split("-")
    assert (version, flags) == ("00", "01")
    assert (trace, parent) == spans.ids_of("load.1")
    assert len({spans.ids_of(f"load.{number}") for number in range(100)}) == 100
    assert (len(trace), len(parent)) == (32, 16)
    assert int(trace, 16)
    assert int(parent, 16)


# CPU


FIGURE = report.Figure("it", 1.08, 1.04)


def test_cpu_is_the_median_of_the_rounds_ratios() -> None:
    assert report.cheap(FIGURE, [1.08, 2.0, 1.0], [1.0, 1.0, 1.0]).held
    assert not report.cheap(FIGURE, [1.09, 2.0, 1.0], [1.0, 1.0, 1.0]).held
    assert report.cheap(FIGURE, [1.08, 2.0, 2.0], [1.0, 2.0, 2.0]).measured.startswith("1.000 x")
    assert report.cheap(FIGURE, [1.0], [1.0]).held


def test_twins_that_are_far_apart_make_the_figures_none() -> None:
    assert report.off_by([1.02, 1.0, 0.98], [1.0, 1.0, 1.0]).held
    assert report.off_by([1.029, 1.029, 2.0], [1.0, 1.0, 1.0]).held
    assert not report.off_by([1.04, 1.04, 1.0], [1.0, 1.0, 1.0]).held
    assert not report.off_by([0.96, 0.96, 1.0], [1.0, 1.0, 1.0]).held


def test_the_issues_figures_stand() -> None:
    figures = [(each.must, each.aim) for each in cost.FIGURES.values()]
    assert figures == [(1.08, 1.04), (1.12, 1.06), (4.0, 2.5)]


def test_a_hundredth_is_a_hundredth() -> None:
    assert report.drawn("it", 100_000, 2000).held
    assert report.drawn("it", 100_000, 2 * (1000 + 5 * 31)).held
    assert not report.drawn("it", 100_000, 2 * (1000 + 5 * 33)).held
    assert not report.drawn("it", 100_000, 1400).held
    assert not report.drawn("it", 100_000, 0).held


def test_spans_that_did_not_arrive_make_the_figure_none() -> None:
    assert report.complete("it", 10, 20, []).held
    # What wrk has given up is traced all the same.
    assert report.complete("it", 10, 22, []).held
    missed = report.complete("it", 10, 19, ["x 1 span dropped y", "z"])
    assert not missed.held
    assert missed.measured.endswith("x 1 span dropped y")


@pytest.mark.parametrize("text", ["", "no report", "10 requests in 1s\nRequests/sec: 10\n 50% 1ms\n99% 2ms"])
def test_what_is_no_report_of_wrk_is_refused(text: str) -> None:
    with pytest.raises(procs.BenchError):
        cost.requests_of(text)


GOOD_WRK = (
    "     50.000%    1.00ms\n     99.000%    2.00ms\n  {} requests in 1.00s, 1MB read\n{}Requests/sec:     10.00\n"
)


def test_errors_of_wrk_are_errors() -> None:
    assert cost.requests_of(GOOD_WRK.format(10, "")) == 10
    with pytest.raises(procs.BenchError, match="Non-2xx"):
        cost.requests_of(GOOD_WRK.format(10, "  Non-2xx or 3xx responses: 2\n"))
    with pytest.raises(procs.BenchError, match="no request"):
        cost.requests_of(GOOD_WRK.format(0, ""))


# Loss


def test_a_trace_is_whole_with_all_its_attempts() -> None:
    assert report.is_whole(request("a"))
    assert report.is_whole(request("a", 3))
    assert report.is_whole(request("a") * 2)
    assert not report.is_whole(request("a", 3)[:-1])
    assert not report.is_whole(request("a")[:1])
    assert not report.is_whole(request("a")[1:])
    assert not report.is_whole([])
    assert not report.is_whole([*request("a"), *request("b")])


def test_a_lost_span_shows() -> None:
    whole = [*request("a"), *request("b")]
    keys = [seen("a"), seen("b")]
    assert report.none_lost("it", keys, whole).held
    assert "2 of them more than once" in report.none_lost("it", keys, whole + request("a")).measured
    for place in range(len(whole)):
        assert not report.none_lost("it", keys, whole[:place] + whole[place + 1 :]).held
    assert report.lost(keys, request("b")) == ["a"]


def test_a_request_that_failed_is_a_miss_and_so_is_none_at_all() -> None:
    assert not report.none_lost("it", [seen("a", kind="closed")], request("a")).held
    assert not report.none_lost("it", [], []).held


# A collector that hangs


PHASES = report.Phases(10, 20)
CALM = [seen("q1", 1, took=0.05), seen("q2", 2, took=0.02)]


def hung(*more: Any, twin: tuple[Any, ...] = ()) -> list[bool]:
    return [verdict.held for verdict in report.unaffected([*CALM, seen("h", 12), *more], twin, PHASES)]


def test_a_request_is_affected_if_it_fails_or_is_late() -> None:
    assert hung() == [True, True]
    assert hung(seen("x", 13, kind="hanging")) == [False, True]
    assert hung(seen("x", 21, kind="closed")) == [False, True]
    # Allowed is the slowest of before, 50 ms, and LATER.
    assert hung(seen("x", 13, took=0.05 + report.LATER - 0.01)) == [True, False]
    assert hung(seen("x", 13, took=0.05 + report.LATER + 0.01)) == [False, False]
    assert hung(seen("x", 21, took=0.05 + report.LATER + 0.01)) == [False, True]


def test_without_a_request_while_it_hung_nothing_is_known() -> None:
    assert [verdict.held for verdict in report.unaffected(CALM, CALM, PHASES)] == [False, False]


def test_what_befalls_its_twin_too_is_the_machine() -> None:
    late = seen("x", 13, took=0.6)
    assert hung(late) == [False, False]
    assert hung(late, twin=(seen("c", 14, took=0.5),)) == [True, True]
    assert hung(late, twin=(seen("c", 14, took=0.3),)) == [False, True]
    # What it was before says nothing of now.
    assert hung(late, twin=(seen("c", 1, took=0.5),)) == [False, False]
    # A failure is one, whatever happened elsewhere.
    assert hung(seen("x", 13, kind="status"), twin=(seen("c", 13, kind="status"),))[0] is False


def test_too_little_load_is_a_miss() -> None:
    assert report.loaded(CALM, 1, 2 / report.LOADED).held
    assert not report.loaded(CALM, 1, 4 / report.LOADED).held


def test_memory_may_grow_by_so_much() -> None:
    mib = report.MIB
    assert report.slim("it", [9 * mib, 10 * mib], [70 * mib, 73 * mib]).held
    assert not report.slim("it", [9 * mib, 10 * mib], [74 * mib, 20 * mib]).held
    assert not report.slim("it", [0], []).held


# Fields


def faults(of: list[Any], key: str = "a") -> int:
    return len(report.unlike(seen(key), of, SETTING))


def test_spans_that_tell_the_truth_are_faithful() -> None:
    assert report.unlike(seen("a"), request("a"), SETTING) == []
    assert report.faithful("it", [seen("a"), seen("b")], [*request("a"), *request("b")], SETTING).held
    assert not report.faithful("it", [seen("a"), seen("b")], request("a"), SETTING).held


@pytest.mark.parametrize("place", [0, 1])
def test_each_attribute_that_is_gone_or_wrong_shows(place: int) -> None:
    good = request("a")
    for name in set(good[place].attributes) - {"url.path"}:
        attributes = {**good[place].attributes, name: "wrong"}
        bad = [*good[:place], good[place]._replace(attributes=attributes), *good[place + 1 :]]
        assert faults(bad) >= 1, name
        del attributes[name]
        assert faults(bad) >= 1, name


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize(
    "change",
    [
        {"name": "x"},
        {"parent": "0" * 16},
        {"status": "error"},
        {"kind": "internal"},
        {"start": 0},
        {"end": 9 * SECOND},
        {"start": SECOND + 5_000_000, "end": SECOND + 4_000_000},
    ],
)
def test_each_field_that_is_wrong_shows(place: int, change: dict[str, Any]) -> None:
    bad = request("a")
    bad[place] = bad[place]._replace(**change)
    assert faults(bad) >= 1


# A tree


def tree(key: str) -> list[Any]:
    parent, made = spans.ids_of(key)[1], []
    for number, (service, kind) in enumerate(peers.CHAIN):
        made.append(span(key, kind, f"{key}-{number}", parent, service=service))
        parent = f"{key}-{number}"
    return made


def is_tree(made: list[Any]) -> bool:
    return bool(report.one_tree([seen("a")], made, peers.CHAIN).held)


def test_a_tree_is_one_branch_from_the_client_to_the_server() -> None:
    good = tree("a")
    assert len(good) == 5
    assert is_tree(good)
    assert is_tree([*good[::-1], *tree("b")])
    assert not is_tree([])
    for place in range(len(good)):
        assert not is_tree(good[:place] + good[place + 1 :])
        assert not is_tree([*good, good[place]._replace(span="another")])
        for change in ({"parent": "f" * 16}, {"service": "other"}, {"start": 0, "end": 1}):
            bad = [*good]
            bad[place] = bad[place]._replace(**change)
            # The time of the outermost span alone may be anything that holds the others.
            assert not is_tree(bad), (place, change)


def test_two_trees_are_not_one() -> None:
    assert not report.one_tree([seen("a"), seen("b")], tree("a"), peers.CHAIN).held
    assert not report.one_tree([], tree("a"), peers.CHAIN).held


# Drops


def dropped(missing: int, *lines: str) -> list[bool]:
    return [verdict.held for verdict in report.said_once(lines, missing)]


def test_drops_are_said_once_and_counted() -> None:
    begin = "2026-01-01 00:00:00,000 WARNING router_tracing: spans are dropped: there is no room"
    end = "2026-01-01 00:00:00,000 WARNING router_tracing: 30 spans were dropped while there was no room"
    assert dropped(30, begin, end) == [True, True]
    assert dropped(37, begin, end, "7 spans were dropped: not taken before the end") == [True, True]
    assert dropped(31, begin, end) == [True, False]
    assert dropped(30, begin, begin, end) == [False, True]
    assert dropped(30, end) == [False, True]
    # A row in which there was room for all has not shown it.
    assert dropped(0) == [False, False]


# rotel


LOG = """\x1b[2m2026-01-01T00:00:00Z\x1b[0m \x1b[32m INFO\x1b[0m Starting Rotel. grpc_endpoint="127.0.0.1:1"
ResourceSpans #0
Resource SchemaURL:\x20
Resource attributes:
     -> service.name: Str(router)
     -> service.instance.id: Str(one)
ScopeSpans #0
ScopeSpans SchemaURL:\x20
InstrumentationScope x 1
Span #0
    Trace ID       : ffd728e406883a76f51f3560e089cae2
    Parent ID      :\x20
    ID             : 0b6d80f47ac7d516
    Name           : GET load
    Kind           : SPAN_KIND_SERVER
Start time: 5
End time: 7
    Status code    : STATUS_CODE_UNSET
    Status message :\x20
Attributes:
     -> lb.attempts: Int(2)
     -> lb.explain: Str({"a": "(b)"})
     -> lb.hedge: Bool(true)
     -> f: Double(1.5)
Events:
SpanEvent #0
     -> Name: left queue
     -> Timestamp: 6
     -> DroppedAttributesCount: 0
     -> Attributes::
          -> lb.seconds: Double(0.25)
Span #1
    Trace ID       : ffd728e406883a76f51f3560e089cae2
    Parent ID      : 0b6d80f47ac7d516
    ID             : cc14f9f65ab7d0b3
    Name           : GET
    Kind           : SPAN_KIND_CLIENT
Start time: 5
End time: 6
    Status code    : STATUS_CODE_ERROR
    Status message : boom
"""


def test_rotels_log_is_read() -> None:
    first, second = spans.spans_of_log(LOG.splitlines())
    trace = "ffd728e406883a76f51f3560e089cae2"
    attributes = {"lb.attempts": 2, "lb.explain": '{"a": "(b)"}', "lb.hedge": True, "f": 1.5}
    assert first == spans.Span(
        *("router", "one", trace, "0b6d80f47ac7d516", "", "GET load", "server", 5, 7, "unset"),
        attributes,
        ["left queue"],
    )
    assert second == spans.Span(
        *("router", "one", trace, "cc14f9f65ab7d0b3", first.span, "GET", "client", 5, 6, "error"), {}, []
    )
    # A log that is being written may end anywhere.
    for end in range(len(LOG)):
        spans.spans_of_log(LOG[:end].splitlines())
    assert spans.spans_of_log([]) == []


# Configurations and the command


def test_the_observers_text_is_what_is_meant() -> None:
    text = house.observer("http://h/v1/traces", "buffer = 9", sampling="0.01", export="grpc")
    assert tomllib.loads(text)["observers"] == [
        {"use": "tracing", "sampling": 0.01, "export": "grpc", "endpoint": "http://h/v1/traces", "buffer": 9}
    ]
    for name, (sampling, lines) in cost._OPTIONS.items():
        (made,) = tomllib.loads(house.observer("http://h/", *lines, sampling=sampling))["observers"]
        assert made["sampling"] == ("always" if name == cost.ALWAYS else 0.01)
        assert ("keep" in made) == (name == cost.KEPT)


def test_a_pause_leaves_room_in_the_buffer() -> None:
    loss = load("tracing_loss")
    gets, posts, rate = loss.CALM
    for pace in (house.FULL, house.QUICK):
        seconds = pace.gone + pace.refusing + house.AGAIN + 2 * loss.AFTERWARDS
        # By default 8192 spans fit in, and 16 MiB, which 7000 of these fill. Each request has two.
        assert 2 * (gets + posts) * rate * seconds < 7000
        assert 2 * pace.burst < 7000
    assert math.isclose(house.FULL.hang, 60)


def test_the_command_knows_its_rows(capsys: pytest.CaptureFixture[str]) -> None:
    assert [row.name for row in bench.ROWS] == ["cost", "collector", "loss", "rotel", "tree"]
    with pytest.raises(SystemExit) as ended:
        bench.main(["--only", "nothing"])
    assert ended.value.code == 2
    assert "invalid choice" in capsys.readouterr().err
