"""What of a client's trace context is taken, and what servers get: W3C Trace Context, B3 and Jaeger against oracles."""

from __future__ import annotations

import re
from typing import Any

import pytest
import tracing_support as _help
from opentelemetry import trace as api
from opentelemetry.propagators.b3 import B3MultiFormat, B3SingleFormat
from opentelemetry.propagators.jaeger import JaegerPropagator
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

collector = _help.collector
TRUSTED = _help.TRUSTED
W3C = re.compile("00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")
PARENT = "b7ad6b7169203331"


def build(bench: Any) -> None:
    bench.web = bench.backend()
    own = '{ traceparent = "00-11111111111111111111111111111111-2222222222222222-01" }'
    bench.sites = (
        f'[[routes]]\nname = "sets"\npath = "/sets/*"\npool = "web"\nrequest_headers = {{ set = {own} }}\n'
        '[[routes]]\nname = "web"\npath = "/*"\npool = "web"\n'
        f'[[pools]]\nname = "web"\ndetectors = []\nendpoints = [{{ url = "{bench.web.url}", id = "one" }}]\n'
    )


bench = _help.bench_of(build)
_count = iter(range(1, 10000))


def new_id() -> str:
    """A trace id that no other test has."""
    return f"4bf92f3577b34da6a3ce{next(_count):012x}"


def sent(bench: Any, *lines: str, **more: Any) -> Any:
    """What the server gets of a request with these lines."""
    mark = f"/mark-{next(_count)}-"
    assert bench.ask(mark, *lines, **more).status == 200
    return bench.web.got(mark)


def split(request: Any) -> tuple[str, str, str]:
    """Trace id, parent id and flags of the one traceparent that a server got."""
    found = W3C.fullmatch(request.only("traceparent"))
    assert found, request.only("traceparent")
    trace_id, span_id, flags = found.groups()
    assert set(trace_id) != {"0"}
    assert set(span_id) != {"0"}
    return trace_id, span_id, flags


# W3C: a new trace.


def test_a_server_gets_the_client_spans_id_of_a_new_trace(bench: Any) -> None:
    bench.tracing()
    answer = bench.ask("/new-1")
    request = bench.web.got("/new-1")
    trace = bench.trace(answer)
    assert request.only("traceparent") == f"00-{answer.id}-{trace.client.span_id}-01"
    assert request.only("X-Request-ID") == answer.id
    assert request.all("tracestate") == []
    assert (trace.server.parent_id, trace.server.state) == ("", "")


def test_a_request_that_is_not_sampled_says_so_in_a_context_of_its_own(bench: Any) -> None:
    bench.tracing(sampling="never")
    request = sent(bench)
    trace_id, _, flags = split(request)
    assert flags == "00"
    assert trace_id == request.only("X-Request-ID")
    assert len({split(sent(bench))[0] for _ in range(5)}) == 5


def test_a_request_id_of_the_client_is_no_trace_id(bench: Any) -> None:
    for sampling in ("always", "never"):
        bench.tracing(sampling=sampling)
        request = sent(bench, "X-Request-ID: 0123456789abcdef0123456789abcdef")
        assert split(request)[0] != "0123456789abcdef0123456789abcdef"
        assert request.only("X-Request-ID") == "0123456789abcdef0123456789abcdef"


# W3C: a client's trace.

SAMPLED = ["01", "03", "05", "ff", "09"]
UNSAMPLED = ["00", "02", "0c", "fe"]


@pytest.mark.parametrize("flags", SAMPLED)
@pytest.mark.parametrize("sampling", [1.0, 0.0])
def test_a_sampled_trace_goes_on_whatever_the_ratio(bench: Any, flags: str, sampling: str) -> None:
    bench.tracing(sampling=sampling)
    given = new_id()
    trace_id, span_id, out = split(sent(bench, f"traceparent: 00-{given}-{PARENT}-{flags}"))
    trace = bench.collector.trace(given)
    assert (trace_id, span_id) == (given, trace.client.span_id)
    # Bits beyond sampled and random are not for passing on.
    assert int(out, 16) & ~2 == 1
    assert trace.server.parent_id == PARENT
    # Whether the parent is of another process is known (OTLP, SpanFlags).
    assert trace.server.flags & 0x300 == 0x300
    assert trace.client.flags & 0x300 in (0, 0x100)


@pytest.mark.parametrize("flags", UNSAMPLED)
@pytest.mark.parametrize("sampling", [1.0, 0.0])
def test_a_trace_that_is_not_sampled_passes_as_it_is(bench: Any, flags: str, sampling: str) -> None:
    bench.tracing(sampling=sampling)
    given = new_id()
    value = f"00-{given}-{PARENT}-{flags}"
    request = sent(bench, f"traceparent: {value}", "tracestate: rojo=00f067aa0ba902b7,congo=t61rcWkgMzE")
    assert request.only("traceparent") == value
    assert request.only("tracestate") == "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"
    bench.flushed()
    assert bench.collector.of(given) == []


@pytest.mark.parametrize("turn", [str.title, str.upper, str.swapcase])
def test_names_come_in_any_case_and_one_goes_out(bench: Any, turn: Any) -> None:
    bench.tracing()
    given = new_id()
    request = sent(bench, f"{turn('traceParent')}: 00-{given}-{PARENT}-01", f"{turn('traceState')}: a=1")
    assert split(request)[0] == given
    assert request.only("tracestate") == "a=1"
    assert [key for key, _ in request.fields if key.lower() == "traceparent"] == ["traceparent"]


@pytest.mark.parametrize(
    "value",
    [
        "cc-{}-b7ad6b7169203331-01",
        "01-{}-b7ad6b7169203331-01-what-the-future-will-be-like",
        "fe-{}-b7ad6b7169203331-09-",
        " \t00-{}-b7ad6b7169203331-01 \t",
    ],
)
def test_future_versions_and_blanks_are_read_as_far_as_they_are_known(bench: Any, value: str) -> None:
    bench.tracing(sampling=0.0)
    given = new_id()
    trace_id, span_id, flags = split(sent(bench, f"traceparent: {value.format(given)}"))
    trace = bench.collector.trace(given)
    assert (trace_id, span_id, flags) == (given, trace.client.span_id, "01")
    assert trace.server.parent_id == PARENT


BAD = [
    "00-{}-b7ad6b7169203331-01.",
    "00-{}-b7ad6b7169203331-01-more",
    "00-{}-b7ad6b7169203331-01-",
    "cc-{}-b7ad6b7169203331-01.more",
    "cc-{}-b7ad6b7169203331-011",
    "ff-{}-b7ad6b7169203331-01",
    ".0-{}-b7ad6b7169203331-01",
    "0-{}-b7ad6b7169203331-01",
    "000-{}-b7ad6b7169203331-01",
    "0X-{}-b7ad6b7169203331-01",
    "00-{}-0000000000000000-01",
    "00-{}-b7ad6b716920333-01",
    "00-{}-b7ad6b71692033311-01",
    "00-{}-B7AD6B7169203331-01",
    "00-{}-b7ad6b716920333g-01",
    "00-{}-b7ad6b7169203331-1",
    "00-{}-b7ad6b7169203331-001",
    "00-{}-b7ad6b7169203331-0.",
    "00-{}-b7ad6b7169203331-0X",
    "00-{}-b7ad6b7169203331",
    "00-{}1-b7ad6b7169203331-01",
    "00_{}_b7ad6b7169203331_01",
    "00-{}-b7ad6b7169203331-01, 00-{}-b7ad6b7169203331-01",
    "00-{}-\xb27ad6b7169203331-01",
    "{}",
    "",
]


@pytest.mark.parametrize("sampling", ["always", "never"])
def test_contexts_that_are_none_restart_the_trace_and_drop_its_state(bench: Any, sampling: str) -> None:
    bench.tracing(sampling=sampling)
    for value in BAD:
        given = new_id()
        request = sent(bench, f"traceparent: {value.format(given, given)}", "tracestate: rojo=1")
        trace_id, _, flags = split(request)
        assert trace_id == request.only("X-Request-ID"), value
        assert flags == ("01" if sampling == "always" else "00")
        assert request.all("tracestate") == [], value
        if sampling == "always":
            assert bench.collector.trace(trace_id).server.parent_id == ""
            assert bench.collector.of(given) == []


@pytest.mark.parametrize("given", ["0" * 32, "4BF92F3577B34DA6A3CE929D0E0E4736", "g" * 32])
def test_trace_ids_that_are_none_restart_the_trace(bench: Any, given: str) -> None:
    bench.tracing()
    trace_id, _, _ = split(sent(bench, f"traceparent: 00-{given}-{PARENT}-01"))
    assert trace_id not in (given, given.lower())


@pytest.mark.parametrize("sampling", ["always", "never"])
def test_of_two_traceparents_neither_counts_and_one_goes_on(bench: Any, sampling: str) -> None:
    bench.tracing(sampling=sampling)
    one, two = new_id(), new_id()
    for flags in ("01", "00"):
        lines = [f"traceparent: 00-{each}-{PARENT}-{flags}" for each in (one, two)]
        trace_id, _, _ = split(sent(bench, *lines, "tracestate: a=1"))
        assert trace_id not in (one, two)


@pytest.mark.parametrize("flags", ["00", "01"])
def test_a_route_that_sets_the_field_does_not_make_two_of_it(bench: Any, flags: str) -> None:
    bench.tracing(sampling=1.0)
    bench.ask("/sets/a", f"traceparent: 00-{new_id()}-{PARENT}-{flags}")
    assert len(bench.web.requests[-1].all("traceparent")) == 1


def test_a_client_that_calls_it_hop_by_hop_does_not_part_it_from_its_state(bench: Any) -> None:
    for sampling in (0.0, 1.0):
        bench.tracing(sampling=sampling)
        for flags in ("00", "01"):
            lines = (f"traceparent: 00-{new_id()}-{PARENT}-{flags}", "tracestate: a=1", "Connection: traceparent")
            request = sent(bench, *lines)
            assert len(request.all("traceparent")) == 1 or request.all("tracestate") == []


# W3C: tracestate.


@pytest.mark.parametrize(
    ("lines", "state"),
    [
        (["rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"], "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"),
        (["foo=1,bar=2", "rojo=1,congo=2", "baz=3"], "foo=1,bar=2,rojo=1,congo=2,baz=3"),
        (["foo=1 \t , \t bar=2, \t baz=3"], "foo=1,bar=2,baz=3"),
        (["foo=1", ""], "foo=1"),
        (["", "foo=1"], "foo=1"),
        (["tenant@vendor=a b c"], "tenant@vendor=a b c"),
        (["a=" + "x" * 200 + ",b=" + "y" * 200], "a=" + "x" * 200 + ",b=" + "y" * 200),
        ([], ""),
        ([""], ""),
    ],
)
@pytest.mark.parametrize("flags", ["01", "00"])
def test_the_state_goes_on_with_its_order_kept(bench: Any, lines: list[str], state: str, flags: str) -> None:
    bench.tracing()
    given = new_id()
    fields = [f"tracestate: {line}" for line in lines]
    request = sent(bench, f"traceparent: 00-{given}-{PARENT}-{flags}", *fields)
    out = [member.strip() for line in request.all("tracestate") for member in line.split(",")]
    assert [member for member in out if member] == [member for member in state.split(",") if member]
    if flags == "01":
        assert members(bench.collector.trace(given).server.state) == members(state)


def members(state: str) -> list[str]:
    return [member.strip() for member in state.split(",") if member.strip()]


def test_a_state_without_a_context_is_dropped(bench: Any) -> None:
    for sampling in ("always", "never"):
        bench.tracing(sampling=sampling)
        assert sent(bench, "tracestate: foo=1").all("tracestate") == []


@pytest.mark.parametrize(
    "state", ["x" * 20000, ",".join(f"k{n}=v" for n in range(3000)), "\xff=1", "a=\x7f", "=", "A=1"]
)
def test_a_state_that_is_none_does_not_harm_the_context(bench: Any, state: str) -> None:
    bench.tracing()
    given = new_id()
    with bench.client() as client:
        answer = client.ask(f"/odd-{given}", f"traceparent: 00-{given}-{PARENT}-01", f"tracestate: {state}")
    if answer.status == 200:
        assert split(bench.web.got(f"/odd-{given}"))[0] == given
        trace = bench.collector.trace(given)
        assert len(trace.server.state) <= 8192
    else:
        # What no field may hold at all.
        assert answer.status == 400


# Whose context is taken.


def test_by_default_everybodys_context_counts(bench: Any) -> None:
    bench.tracing(parent=None)
    for source in ("127.0.0.1", TRUSTED):
        given = new_id()
        assert split(sent(bench, f"traceparent: 00-{given}-{PARENT}-01", source=source))[0] == given


@pytest.mark.parametrize("flags", ["00", "01"])
@pytest.mark.parametrize("sampling", ["always", "never"])
def test_only_trusted_clients_contexts_count_where_that_is_asked_for(bench: Any, flags: str, sampling: str) -> None:
    bench.tracing(parent="trusted", sampling=sampling)
    lines = ("tracestate: a=1",)
    given = new_id()
    request = sent(bench, f"traceparent: 00-{given}-{PARENT}-{flags}", *lines, source=TRUSTED)
    assert split(request)[0] == given
    assert request.only("tracestate") == "a=1"
    given = new_id()
    request = sent(bench, f"traceparent: 00-{given}-{PARENT}-{flags}", *lines)
    trace_id, _, out = split(request)
    assert trace_id == request.only("X-Request-ID")
    assert out == ("01" if sampling == "always" else "00")
    assert request.all("tracestate") == []


def test_nobodys_context_counts_where_that_is_asked_for(bench: Any) -> None:
    for sampling in ("always", "never"):
        bench.tracing(parent="ignore", sampling=sampling)
        for source in ("127.0.0.1", TRUSTED):
            given = new_id()
            request = sent(bench, f"traceparent: 00-{given}-{PARENT}-01", "tracestate: a=1", source=source)
            assert split(request)[0] not in (given, PARENT)
            assert request.all("tracestate") == []
            assert split(request)[2] == ("01" if sampling == "always" else "00")


# Other formats, held against the propagators of OpenTelemetry.

S = "00f067aa0ba902b7"


def extracted(oracle: Any, lines: list[tuple[str, str]]) -> Any:
    """What the oracle says of these fields."""
    from opentelemetry.propagators.textmap import DefaultGetter

    carrier: dict[str, str] = {}
    for name, value in lines:
        carrier.setdefault(name.lower(), value)
    return api.get_current_span(oracle.extract(carrier, getter=DefaultGetter())).get_span_context()


FORMATS = {
    "tracecontext": TraceContextTextMapPropagator(),
    "b3": B3SingleFormat(),
    "b3multi": B3MultiFormat(),
    "jaeger": JaegerPropagator(),
}
NAMES = {
    "tracecontext": {"traceparent"},
    "b3": {"b3"},
    "b3multi": {"x-b3-traceid", "x-b3-spanid", "x-b3-sampled"},
    "jaeger": {"uber-trace-id"},
}
EVERY = {
    "traceparent",
    "tracestate",
    "b3",
    "x-b3-traceid",
    "x-b3-spanid",
    "x-b3-sampled",
    "x-b3-flags",
    "uber-trace-id",
}


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("sampling", ["always", "never"])
def test_each_format_tells_the_server_what_its_oracle_reads(bench: Any, name: str, sampling: str) -> None:
    bench.tracing(propagators=[name], sampling=sampling)
    request = sent(bench)
    found = extracted(FORMATS[name], request.fields)
    assert found.is_valid
    assert f"{found.trace_id:032x}" == request.only("X-Request-ID")
    assert found.trace_flags.sampled == (sampling == "always")
    assert {key.lower() for key, _ in request.fields} & EVERY >= NAMES[name]
    for key in NAMES[name]:
        request.only(key)
    if sampling == "always":
        assert f"{found.span_id:016x}" == bench.collector.trace(f"{found.trace_id:032x}").client.span_id


def inbound(name: str, t: str) -> list[list[tuple[str, str]]]:
    """Fields of requests in a format, sound and broken; `t`: a trace id of 30 digits to which two are added."""
    single = [f"{t}01-{S}-1", f"{t}02-{S}-0", f"{t}03-{S}-d", f"{t}04-{S}-1-{S}", f"{t}05-{S}", f"{t[:14]}06-{S}-1"]
    single += ["0", "1", "d", f"{t}07-{S[:-1]}-1", f"{'0' * 32}-{S}-1", f"{t}09-{'0' * 16}-1", "-"]
    single += [f"{t.upper()}0A-{S.upper()}-1", "x" * 200]
    if name == "b3":
        return [[("b3", value)] for value in single]
    if name == "b3multi":
        ids = [("X-B3-TraceId", f"{t}11"), ("X-B3-SpanId", S)]
        rest = [[("X-B3-Sampled", value)] for value in ("1", "0", "true", "false", "d")]
        found = [[(ids[0][0], f"{t}{20 + n}"), ids[1], *each] for n, each in enumerate([*rest, [("X-B3-Flags", "1")]])]
        found += [[ids[0], ("X-B3-Sampled", "1")], [ids[1], ("X-B3-Sampled", "1")], [("X-B3-Sampled", "1")]]
        return [*found, [("X-B3-TraceId", f"{t[:14]}12"), ids[1], ("X-B3-Sampled", "1")]]
    if name == "jaeger":
        values = [f"{t}31:{S}:0:1", f"{t}32:{S}:0:0", f"{t}33:{S}:{S}:3", f"{t}34:{S}:0:2", f"{t[:14]}35:{S}:0:1"]
        values += ["4bf92f:67aa:0:1", f"{t}36:{S}:0", f"{t}37:{S}:0:x", f"0:{S}:0:1", f"{t}38:0:0:1", "x:y:z:1", ":::"]
        return [[("uber-trace-id", value)] for value in values]
    values = [f"00-{t}41-{S}-01", f"00-{t}42-{S}-00", f"ff-{t}43-{S}-01"]
    return [[("traceparent", value)] for value in values]


@pytest.mark.parametrize("name", FORMATS)
def test_each_format_is_read_as_its_oracle_reads_it(bench: Any, name: str) -> None:
    """Where the oracle finds a context, it is the parent; where it finds none, the trace is new."""
    bench.tracing(propagators=[name], sampling=1.0)
    for lines in inbound(name, f"5{new_id()[3:]}"):
        expected = extracted(FORMATS[name], lines)
        request = sent(bench, *(f"{key}: {value}" for key, value in lines))
        found = extracted(FORMATS[name], request.fields)
        assert found.is_valid, lines
        if not expected.is_valid:
            assert f"{found.trace_id:032x}" == request.only("X-Request-ID"), lines
            continue
        assert found.trace_id == expected.trace_id, lines
        assert found.trace_flags.sampled == expected.trace_flags.sampled, lines
        if expected.trace_flags.sampled:
            trace = bench.collector.trace(f"{expected.trace_id:032x}")
            assert trace.server.parent_id == f"{expected.span_id:016x}", lines
            assert f"{found.span_id:016x}" == trace.client.span_id


def test_b3_is_read_in_both_spellings_whichever_is_written(bench: Any) -> None:
    """OpenTelemetry's API specification, "B3 Extract": both are tried, the single field first."""
    for name in ("b3", "b3multi"):
        bench.tracing(propagators=[name])
        one, two = new_id(), new_id()
        multi = (f"X-B3-TraceId: {one}", f"X-B3-SpanId: {S}", "X-B3-Sampled: 1")
        assert f"{extracted(FORMATS[name], sent(bench, *multi).fields).trace_id:032x}" == one
        request = sent(bench, *multi, f"b3: {two}-{S}-1")
        assert f"{extracted(FORMATS[name], request.fields).trace_id:032x}" == two


def test_all_formats_together_agree(bench: Any) -> None:
    bench.tracing(propagators=list(FORMATS))
    given = new_id()
    request = sent(bench, f"traceparent: 00-{given}-{PARENT}-01")
    span = bench.collector.trace(given).client
    for oracle in FORMATS.values():
        found = extracted(oracle, request.fields)
        assert (f"{found.trace_id:032x}", f"{found.span_id:016x}") == (given, span.span_id)
        assert found.trace_flags.sampled
    for key in set().union(*NAMES.values()):
        request.only(key)


def test_no_servers_context_differs_from_another_of_the_same_request(bench: Any) -> None:
    """A client that names several traces in several formats: one of them goes on, in every format."""
    bench.tracing(propagators=list(FORMATS))
    ids = [new_id() for _ in range(3)]
    lines = (f"traceparent: 00-{ids[0]}-{PARENT}-01", f"b3: {ids[1]}-{S}-1", f"uber-trace-id: {ids[2]}:{S}:0:1")
    request = sent(bench, *lines)
    told = {extracted(oracle, request.fields).trace_id for oracle in FORMATS.values()}
    assert len(told) == 1
    assert f"{told.pop():032x}" in ids


@pytest.mark.parametrize("name", FORMATS)
def test_what_is_not_sampled_passes_in_every_format(bench: Any, name: str) -> None:
    bench.tracing(propagators=[name], sampling=1.0)
    given = new_id()
    lines = {
        "tracecontext": [f"traceparent: 00-{given}-{S}-00"],
        "b3": [f"b3: {given}-{S}-0"],
        "b3multi": [f"X-B3-TraceId: {given}", f"X-B3-SpanId: {S}", "X-B3-Sampled: 0"],
        "jaeger": [f"uber-trace-id: {given}:{S}:0:0"],
    }[name]
    found = extracted(FORMATS[name], sent(bench, *lines).fields)
    assert (f"{found.trace_id:032x}", found.trace_flags.sampled) == (given, False)
    bench.tracing()
    bench.flushed()
    assert bench.collector.of(given) == []


def test_what_a_trace_is_named_by_the_environment(bench: Any, monkeypatch: Any) -> None:
    monkeypatch.setenv("OTEL_PROPAGATORS", "b3,baggage")
    bench.tracing(buffer=300)
    request = sent(bench)
    assert re.fullmatch(f"{request.only('X-Request-ID')}-[0-9a-f]{{16}}-1", request.only("b3"))
    bench.tracing(buffer=301, propagators=["tracecontext"])
    request = sent(bench)
    assert request.all("b3") == []
    split(request)
