"""Which traces are kept: the ratio, the parent, and rules that keep whole traces; what servers are told of it."""

from __future__ import annotations

import os
from typing import Any

import pytest
import tracing_support as _help
from opentelemetry.sdk.trace.sampling import Decision, TraceIdRatioBased

collector = _help.collector
#: How often a sum of coins may be farther from its mean than this: once in 10^9 runs.
SIGMAS = 6.1
PARENT = "b7ad6b7169203331"
KEEP = ["errors", "retried", "slower:50ms"]


def build(bench: Any) -> None:
    own = bench.plugins(_help.FIRST)
    bench.web = bench.backend()
    dead = f"http://127.0.0.1:{bench.house.free_port()}"
    bench.sites = f"""
[[routes]]
name = "fixed"
path = "/fixed"
answer = {{ status = 404, body = "no" }}
[[routes]]
name = "broken"
path = "/broken"
answer = {{ status = 500, body = "oh" }}
[[routes]]
name = "web"
path = ["/web/*", "/barrier"]
pool = "web"
[[routes]]
name = "retried"
path = "/retried/*"
pool = "retried"
[[routes]]
name = "dead"
path = "/dead/*"
pool = "dead"
[[pools]]
name = "web"
detectors = []
endpoints = [{{ url = "{bench.web.url}", id = "one" }}]
retry = {{ attempts = 0 }}
[[pools]]
name = "retried"
selection = "{own}:First"
detectors = []
endpoints = [{{ url = "{dead}", id = "a" }}, {{ url = "{bench.web.url}", id = "b" }}]
retry = {{ attempts = 2, budget = "100%", reserve = 1000 }}
[[pools]]
name = "dead"
detectors = []
endpoints = [{{ url = "{dead}", id = "a" }}]
retry = {{ attempts = 0 }}
"""


bench = _help.bench_of(build)
_count = iter(range(1, 100000))


def new_id() -> str:
    """A trace id that no ratio below 1 would keep."""
    return f"4bf92f3577b34da6ffffffff{next(_count):08x}"


def kept(bench: Any, *targets: str, parent: str = "") -> list[Any]:
    """For each request its spans as the collector has them, the server span first."""
    lines = [f"traceparent: {parent}"] if parent else []
    names = [f"kept-{next(_count)}" for _ in targets]
    for name, target in zip(names, targets, strict=True):
        bench.ask(target, f"X-Request-ID: {name}", *lines)
    bench.flushed()
    return [bench.named(name) for name in names]


def ask_many(bench: Any, count: int) -> None:
    """On one connection, a hundred at a time."""
    bench.web.requests.clear()
    with bench.client() as client:
        for _ in range(count // 100):
            client.sock.sendall(f"GET /web/r HTTP/1.1\r\nHost: {_help.HOST}\r\n\r\n".encode() * 100)
            for _ in range(100):
                assert client.receive().status == 200


# The ratio.


@pytest.mark.parametrize(("ratio", "count"), [(0.5, 2000), (0.1, 1000)])
def test_the_ratio_is_right_and_picks_what_other_tracers_would_pick(bench: Any, ratio: float, count: int) -> None:
    bench.tracing(sampling=ratio)
    ask_many(bench, count)
    told = [request.only("traceparent").split("-") for request in bench.web.requests]
    sampled = {trace_id for _, trace_id, _, flags in told if flags == "01"}
    assert abs(len(sampled) - count * ratio) < SIGMAS * (count * ratio * (1 - ratio)) ** 0.5
    assert len({trace_id for _, trace_id, _, _ in told}) == count
    sampler = TraceIdRatioBased(ratio)
    for _, trace_id, _, flags in told:
        found = sampler.should_sample(None, int(trace_id, 16), "GET").decision
        assert (found is Decision.RECORD_AND_SAMPLE) == (flags == "01"), trace_id
    bench.flushed()
    assert {span.trace_id for span in bench.collector.spans()} & {trace for _, trace, _, _ in told} == sampled
    for trace_id in sampled:
        assert len(bench.collector.of(trace_id)) == 2


def test_a_ratio_keeps_what_a_larger_one_keeps(bench: Any) -> None:
    """As the decision depends on the trace id alone, routers with other ratios agree."""
    assert TraceIdRatioBased(0.1).bound < TraceIdRatioBased(0.5).bound
    for ratio in (1.0, 0.0):
        bench.tracing(sampling=ratio)
        found = kept(bench, *["/web/a"] * 20)
        assert [len(spans) for spans in found] == [2 * int(ratio)] * 20


@pytest.mark.parametrize(("sampling", "spans"), [("always", 2), ("never", 0), (1, 2), (0, 0)])
def test_always_and_never(bench: Any, sampling: Any, spans: int) -> None:
    bench.tracing(sampling=sampling)
    assert [len(each) for each in kept(bench, *["/web/a"] * 10)] == [spans] * 10


def test_a_hundredth_is_the_default(bench: Any) -> None:
    bench.tracing(sampling=None)
    ask_many(bench, 1000)
    told = sum(request.only("traceparent").endswith("-01") for request in bench.web.requests)
    # Of 1000, ten; none at all once in 23 000 runs, fifty never.
    assert told < 50


@pytest.mark.parametrize(("sampling", "counts"), [(1.0, (2, 0)), (0.0, (2, 0)), (0.3, (2, 0)), ("always", (2, 2))])
def test_a_parents_decision_stands_above_the_ratio_and_below_always(
    bench: Any, sampling: Any, counts: tuple[int, int]
) -> None:
    bench.tracing(sampling=sampling)
    for flags, spans in zip(("01", "00"), counts, strict=True):
        (found,) = kept(bench, "/web/a", parent=f"00-{new_id()}-{PARENT}-{flags}")
        assert len(found) == spans


# Rules.


@pytest.mark.parametrize(
    ("rule", "target", "spans", "why"),
    [
        ("errors", "/web/status-503", 2, "errors"),
        ("errors", "/web/garbage", 2, "errors"),
        ("errors", "/dead/x", 2, "errors"),
        ("errors", "/broken", 1, "errors"),
        ("retried", "/retried/x", 3, "retried"),
        ("slower:50ms", "/web/delay-80", 2, "slower"),
    ],
)
@pytest.mark.parametrize("sampling", ["never", 0.0])
def test_each_rule_keeps_the_whole_trace(
    bench: Any, rule: str, target: str, spans: int, why: str, sampling: Any
) -> None:
    bench.tracing(sampling=sampling, keep=[rule])
    (found,) = kept(bench, target)
    server, *clients = found
    assert (server.kind, len(found)) == ("server", spans)
    assert server["lb.kept"] == why
    assert {span.parent_id for span in clients} <= {server.span_id}
    assert [span["lb.attempt"] for span in sorted(clients, key=lambda span: span.start)] == list(range(spans - 1))
    for span in clients:
        assert server.start <= span.start <= span.end <= server.end


@pytest.mark.parametrize(
    ("rule", "targets"),
    [
        ("errors", ["/web/a", "/web/status-404", "/fixed", "/nowhere", "/retried/x", "/web/delay-60"]),
        ("retried", ["/web/a", "/web/status-503", "/dead/x", "/web/delay-60"]),
        ("slower:50ms", ["/web/a", "/web/status-503", "/retried/x", "/nowhere"]),
        ("slower:1h", ["/web/delay-60"]),
    ],
)
def test_what_no_rule_names_is_not_kept(bench: Any, rule: str, targets: list[str]) -> None:
    bench.tracing(sampling="never", keep=[rule])
    assert kept(bench, *targets) == [[]] * len(targets)


def test_rules_together_keep_each_trace_once(bench: Any) -> None:
    bench.tracing(sampling="never", keep=KEEP)
    found = kept(bench, "/web/status-503", "/retried/x", "/web/delay-80", "/web/a", "/retried/delay-80")
    assert [len(spans) for spans in found] == [2, 3, 2, 0, 3]
    assert [spans[0]["lb.kept"] for spans in found if spans][:3] == ["errors", "retried", "slower"]
    for spans in found:
        assert len({span.span_id for span in spans}) == len(spans)


def test_what_is_sampled_anyway_is_not_called_kept(bench: Any) -> None:
    bench.tracing(keep=KEEP)
    for spans in kept(bench, "/web/status-503", "/retried/x", "/web/delay-80"):
        assert "lb.kept" not in spans[0].attributes


def test_a_kept_trace_has_all_that_a_sampled_one_has(bench: Any) -> None:
    bench.tracing(keep=[])
    (sampled,) = kept(bench, "/retried/status-503?a=b")
    bench.tracing(sampling="never", keep=KEEP)
    (late,) = kept(bench, "/retried/status-503?a=b")
    for one, two in zip(by_attempt(sampled), by_attempt(late), strict=True):
        # Whether decisions are explained is known before they are made; whether a trace is kept is not.
        extra = {"lb.kept", "lb.explain"}
        assert one.attributes.keys() - extra == two.attributes.keys() - extra
        assert one.event_names == two.event_names
        assert (one.name, one.kind, one.status) == (two.name, two.kind, two.status)


def by_attempt(spans: list[Any]) -> list[Any]:
    return sorted(spans, key=lambda span: int(span.get("lb.attempt", -1)))


def test_servers_are_told_that_what_may_be_kept_is_not_sampled(bench: Any) -> None:
    """The decision comes after they have been asked; the trace keeps the ids that they were told."""
    bench.tracing(sampling="never", keep=KEEP)
    answer = bench.ask("/web/status-503?told")
    bench.flushed()
    version, trace_id, span_id, flags = bench.web.got("?told").only("traceparent").split("-")
    assert (version, trace_id, flags) == ("00", answer.id, "00")
    _help.wait(lambda: len(bench.collector.of(trace_id)) == 2, lambda: bench.collector.of(trace_id))
    server, client = (
        bench.collector.of(trace_id)
        if bench.collector.of(trace_id)[0].kind == "server"
        else reversed(bench.collector.of(trace_id))
    )
    assert span_id in (client.span_id, server.span_id)


def test_rules_hold_for_traces_of_others_too(bench: Any) -> None:
    """ "Every such trace is kept whatever the ratio": the client's span is its parent, kept there or not."""
    bench.tracing(sampling="never", keep=["errors"])
    given = new_id()
    (found,) = kept(bench, "/web/status-503", parent=f"00-{given}-{PARENT}-00")
    assert [span.kind for span in found] == ["server", "client"]
    assert found[0].parent_id == PARENT
    assert found[0]["lb.kept"] == "errors"


def test_a_client_that_leaves_is_not_kept_as_an_error(bench: Any) -> None:
    bench.tracing(sampling="never", keep=["errors", "retried"])
    with bench.client() as client:
        client.send("/web/hold?gone", "X-Request-ID: gone-1")
        bench.web.got("?gone")
        client.reset()
    _help.wait(lambda: bench.house.status().pool("web").in_flight == 0, "still under way")
    bench.web.let_go()
    bench.flushed()
    assert not [span for span in bench.collector.spans() if span.get("lb.request_id") == "gone-1"]


# The environment.


@pytest.mark.parametrize(
    ("name", "argument", "spans"),
    [
        ("always_on", "", 2),
        ("always_off", "", 0),
        ("parentbased_always_on", "", 2),
        ("parentbased_always_off", "", 0),
        ("traceidratio", "1.0", 2),
        ("parentbased_traceidratio", "1.0", 2),
        ("parentbased_traceidratio", "0.0", 0),
    ],
)
def test_the_environment_names_the_sampler_where_the_configuration_does_not(
    bench: Any, monkeypatch: Any, name: str, argument: str, spans: int
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", name)
    if argument:
        monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", argument)
    bench.tracing(sampling=None, buffer=next(_count) + 100)
    answers = [bench.ask("/web/a") for _ in range(10)]
    bench.tracing()
    bench.flushed()
    assert [len(bench.collector.of(answer.id)) for answer in answers] == [spans] * 10


def test_the_configuration_stands_above_the_environment(bench: Any, monkeypatch: Any) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    bench.tracing(sampling="always", buffer=next(_count) + 100)
    assert [len(spans) for spans in kept(bench, "/web/a")] == [2]
    assert os.environ["OTEL_TRACES_SAMPLER"] == "always_off"
