"""From what rows of tracing.py measured to verdicts. Pure: no process, no file, no clock."""

import itertools
import math
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from change_report import held
from fault_client import OK, Seen
from fault_report import Verdict, kinds, p99
from tls_report import ratios
from tracing_spans import CLIENT, SERVER, Span, ids_of

#: The sampled share of new traces where CPU is measured with one.
RATIO = 0.01
#: By which CPU per request of two routers that are alike may differ, in parts of it.
TWINS = 0.03
#: Bytes that memory may grow by while the collector hangs.
GROWTH = 64 << 20
#: Seconds by which an answer may be later than the slowest one of the quiet phase.
LATER = 0.2
#: The least part of the requests that were asked for.
LOADED = 0.7
MIB = 1 << 20
#: What the log says when it begins to drop spans, and how many it says they were.
DROPPING, DROPPED = "spans are dropped", re.compile(r"\b(\d+) spans? were dropped")


# CPU


class Figure(NamedTuple):
    """The largest CPU per request in parts of that without tracing: what must hold, and what is aimed at."""

    what: str
    must: float
    aim: float


def cheap(figure: Figure, cpu: Sequence[float], without: Sequence[float]) -> Verdict:
    """One way to trace, beside none.

    Args:
        cpu, without: µs per request in each round.
    """
    must = f"{figure.what}: CPU per request at most {figure.must:.2f} x that without tracing (aim {figure.aim:.2f})"
    middle, said = _compared(cpu, without)
    return Verdict(must, said, middle <= figure.must)


def off_by(cpu: Sequence[float], without: Sequence[float]) -> Verdict:
    """The same of two routers that differ in nothing: where these are far apart, the other figures say nothing."""
    middle, said = _compared(cpu, without)
    must = f"no tracing, measured again: within {TWINS:.2f} of the first, or nothing here means anything"
    return Verdict(must, said, abs(middle - 1) <= TWINS)


def _compared(cpu: Sequence[float], without: Sequence[float]) -> tuple[float, str]:
    found = ratios(cpu, without)
    middle = statistics.median(found)
    quarters = statistics.quantiles(found, n=4) if len(found) > 1 else [middle] * 3
    own, other = statistics.median(cpu), statistics.median(without)
    return middle, f"{middle:.3f} x ({own:.1f} to {other:.1f} µs; middle half {quarters[0]:.3f} to {quarters[2]:.3f})"


def drawn(what: str, requests: int, spans: int) -> Verdict:
    """As many traces as the ratio says, within five standard deviations; two spans each."""
    due, came = requests * RATIO, spans / 2
    slack = 5 * math.sqrt(due) + 1
    must = f"{what}: the receiver got {RATIO:.0%} of the traces"
    return Verdict(must, f"{came:.0f} of {requests} ({came / requests:.2%})", abs(came - due) <= slack)


def complete(what: str, requests: int, spans: int, log: Iterable[str]) -> Verdict:
    """The receiver got two spans for each request: a figure that leaves some out is none."""
    said = f"{spans} spans of {requests} requests"
    if spans < 2 * requests:
        said += f"; the router's log: {'; '.join(drops(log)) or 'nothing about it'}"
    return Verdict(f"{what}: the receiver got all spans", said, spans >= 2 * requests)


def drops(log: Iterable[str]) -> list[str]:
    """Promises the lines about spans that were dropped."""
    return [line for line in log if "dropped" in line]


# What arrives


def by_trace(spans: Iterable[Span]) -> dict[str, list[Span]]:
    found: dict[str, list[Span]] = {}
    for span in spans:
        found.setdefault(span.trace, []).append(span)
    return found


def is_whole(spans: Sequence[Span]) -> bool:
    """Whether these are the server span of one request and the client spans of all its attempts."""
    different = {span.span: span for span in spans}.values()
    servers = [span for span in different if span.kind == SERVER]
    clients = [span for span in different if span.kind == CLIENT]
    return len(servers) == 1 and len(clients) == servers[0].attributes.get("lb.attempts")


def lost(seen: Iterable[Seen], spans: Iterable[Span]) -> list[str]:
    """Promises the keys of the requests whose spans did not all arrive."""
    traces = by_trace(spans)
    return [each.key for each in seen if not is_whole(traces.get(ids_of(each.key)[0], ()))]


def none_lost(what: str, seen: Sequence[Seen], spans: Sequence[Span]) -> Verdict:
    """Every request was answered well, and all its spans arrived."""
    missing, traces = lost(seen, spans), {ids_of(each.key)[0] for each in seen}
    own = [(span.trace, span.span) for span in spans if span.trace in traces]
    twice = len(own) - len(set(own))
    wrong = [f"{count} x {kind}" for kind, count in kinds(seen).items()]
    wrong += [f"{len(missing)} traces are not whole ({', '.join(missing[:3])})"] if missing else []
    said = f"{len(seen)} requests, {len(own)} spans" + (f", {twice} of them more than once" if twice else "")
    return held(f"{what}: no span is lost", wrong or ([] if seen else ["no request"]), said)


# A collector that hangs


class Phases(NamedTuple):
    """When it began to hang, and when it was over; seconds of the clients' clock."""

    hang: float
    over: float


def unaffected(seen: Sequence[Seen], twin: Sequence[Seen], phases: Phases) -> list[Verdict]:
    """No request fails or is late because of the collector.

    Args:
        twin: the same load to a router whose collector always answers, which tells a busy machine from a collector.
    """
    quiet = [each for each in seen if each.ended < phases.hang]
    rest, beside = ([each for each in all_of if each.ended >= phases.hang] for all_of in (seen, twin))
    hung = [each for each in rest if each.due < phases.over]
    bound = max((each.ended - each.due for each in (*quiet, *beside)), default=0) + LATER
    late = [each for each in rest if each.kind == OK and each.ended - each.due > bound]
    wrong = [f"{count} x {kind}" for kind, count in kinds(seen).items()]
    wrong += [f"{len(late)} later than {bound * 1000:.0f} ms"] if late else []
    slowest = max((each.ended - each.due for each in hung), default=math.inf)
    said = f"0 of {len(seen)}; slowest while it hung {slowest * 1000:.0f} ms, allowed {bound * 1000:.0f} ms"
    before, during, other = p99(quiet) or 0, p99(hung) or math.inf, p99(beside) or 0
    near = Verdict(
        "p99 while it hangs at most twice that of before, or of its twin, and 5 ms",
        f"{during:.1f} ms; before {before:.1f} ms, its twin {other:.1f} ms",
        during <= 2 * max(before, other) + 5,
    )
    return [held("0 requests are affected", wrong if hung else ["no request"], said), near]


def loaded(seen: Sequence[Seen], rate: float, seconds: float) -> Verdict:
    least = round(rate * seconds * LOADED)
    return Verdict(f"at least {LOADED:.0%} of the load", f"{len(seen)} requests, {least} needed", len(seen) >= least)


def slim(what: str, before: Sequence[int], since: Sequence[int]) -> Verdict:
    """Memory grows by less than it may."""
    grown = max(since, default=GROWTH) - max(before, default=0)
    said = f"{grown / MIB:.1f} MiB (from {max(before, default=0) / MIB:.1f} MiB)"
    return Verdict(f"{what}: memory grows by less than {GROWTH // MIB} MiB", said, grown < GROWTH)


def said_once(log: Iterable[str], missing: int) -> list[Verdict]:
    """What finds no room is dropped, counted, and said once.

    Args:
        log: the router's, from when the collector began to hang.
        missing: spans that did not arrive.
    """
    lines = list(log)
    begun = sum(DROPPING in line for line in lines)
    count = sum(int(found[1]) for line in lines for found in DROPPED.finditer(line))
    must = "as many spans are said to be dropped as did not arrive"
    return [
        Verdict("that spans are dropped is said once", f"{begun} times", begun == 1),
        Verdict(must, f"{count} said, {missing} did not arrive", missing == count > 0),
    ]


# Fields


class Setting(NamedTuple):
    """What spans have to agree with: the clients' clock, the servers' addresses by name, names of route and pool."""

    epoch: int
    addresses: Mapping[str, str]
    route: str
    pool: str
    #: What clients call the router.
    host: str


#: Seconds by which a span may begin before its request was sent, or end after its answer was read.
SLACK = 0.25


def unlike(seen: Seen, spans: Sequence[Span], setting: Setting) -> list[str]:
    """Promises what is wrong with the spans of one request that took one attempt; nothing if they tell the truth."""
    servers = [span for span in spans if span.kind == SERVER]
    clients = [span for span in spans if span.kind == CLIENT]
    if len(servers) != 1 or len(clients) != 1:
        return [f"{seen.key}: {len(servers)} server spans and {len(clients)} client spans"]
    server, client = servers[0], clients[0]
    address = setting.addresses.get(seen.server, "?")
    host, _, port = address.partition(":")
    path = str(server.attributes.get("url.path", ""))
    method = {"http.request.method": seen.method, "http.response.status_code": seen.status}
    of_server = {
        **method,
        "url.scheme": "http",
        "http.route": setting.route,
        "network.protocol.version": "1.1",
        "client.address": "127.0.0.1",
        "server.address": setting.host,
        "lb.pool": setting.pool,
        "lb.attempts": 1,
        "lb.endpoint": client.attributes.get("lb.endpoint", "?"),
    }
    of_client = {
        **method,
        "server.address": host,
        "server.port": int(port or 0),
        "url.full": f"http://{address}{path}",
        "lb.attempt": 0,
        "lb.outcome": "success",
    }
    facts = {
        "name": (server.name, f"{seen.method} {setting.route}"),
        "name of the client span": (client.name, seen.method),
        "parent": (server.parent, ids_of(seen.key)[1]),
        "parent of the client span": (client.parent, server.span),
        "status": (server.status, "unset"),
        "status of the client span": (client.status, "unset"),
        **{name: (server.attributes.get(name), value) for name, value in of_server.items()},
        **{f"client's {name}": (client.attributes.get(name), value) for name, value in of_client.items()},
    }
    wrong = [f"{seen.key}: {name} is {got!r}, not {due!r}" for name, (got, due) in facts.items() if got != due]
    begin, end = (setting.epoch + round(moment * 1e9) for moment in (seen.sent - SLACK, seen.ended + SLACK))
    if not begin <= server.start <= client.start <= client.end <= server.end <= end:
        wrong.append(f"{seen.key}: the times of its spans are not within each other and the request")
    return wrong


def faithful(what: str, seen: Sequence[Seen], spans: Iterable[Span], setting: Setting) -> Verdict:
    """Every span says what its client knows."""
    traces = by_trace(spans)
    wrong = [fault for each in seen for fault in unlike(each, traces.get(ids_of(each.key)[0], ()), setting)]
    return held(f"{what}: names, ids and attributes are what was sent", wrong, f"{len(seen)} traces compared")


# A tree


def branches(key: str, spans: Sequence[Span], chain: Sequence[tuple[str, str]]) -> list[str]:
    """Promises what is wrong with a trace that must be one branch.

    Args:
        chain: service and kind of each span, the first one's parent being the client's.
    """
    found = {(span.service, span.kind): span for span in spans}
    if len(spans) != len(chain) or set(found) != set(chain):
        return [f"{key}: {', '.join(f'{span.service} {span.kind}' for span in spans) or 'nothing'}"]
    wrong, parent = [], ids_of(key)[1]
    for link in chain:
        if found[link].parent != parent:
            wrong.append(f"{key}: {' '.join(link)} hangs elsewhere")
        parent = found[link].span
    slack = round(SLACK * 1e9)
    for outer, inner in itertools.pairwise(chain):
        if not found[outer].start - slack <= found[inner].start <= found[inner].end <= found[outer].end + slack:
            wrong.append(f"{key}: {' '.join(inner)} is not within {' '.join(outer)}")
    return wrong


def one_tree(seen: Sequence[Seen], spans: Iterable[Span], chain: Sequence[tuple[str, str]]) -> Verdict:
    traces = by_trace(spans)
    wrong = [fault for each in seen for fault in branches(each.key, traces.get(ids_of(each.key)[0], ()), chain)]
    said = f"{len(seen)} traces of {len(chain)} spans"
    return held("client, both routers and the server are one tree", wrong if seen else ["no request"], said)
