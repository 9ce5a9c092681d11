"""What must hold after a load test, and how it is told. Pure: figures in, verdicts and text out."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

from bench_report import number, table
from fault_report import Verdict
from load_sessions import shares
from load_traces import Traces

#: A share of a few requests strays by chance; so many standard deviations are none of the router's doing.
SIGMAS = 3.0
#: Kinds of errors that are told.
MOST = 8


class Limits(NamedTuple):
    """What is allowed: shares of 1."""

    errors: float
    #: How far a server's share may be off.
    tolerance: float


def judge(found: Mapping[str, Any], weights: Mapping[str, int], limits: Limits, sticky: bool) -> list[Verdict]:
    """Promises what must hold, and whether it did.

    Args:
        found: what load_sessions.figures promises.
        weights: of the servers by name; empty asks for shares as even as can be.
        sticky: whether there were visitors with carts.
    """
    verdicts = [_errors(found, limits), _shares("requests", found["servers"], weights, limits)]
    if sticky:
        verdicts += [_shares("new sessions", found["sessions_at"], weights, limits), _sessions(found)]
    return verdicts


def _errors(found: Mapping[str, Any], limits: Limits) -> Verdict:
    requests, failures = found["requests"], found["failures"]
    ratio = failures / requests if requests else 1.0
    measured = f"{failures} of {requests} ({ratio:.2%})" if requests else "no request was answered"
    return Verdict(f"at most {limits.errors:.1%} of the requests fail", measured, ratio <= limits.errors)


def _shares(what: str, counts: Mapping[str, int], weights: Mapping[str, int], limits: Limits) -> Verdict:
    wanted = shares(weights or dict.fromkeys(counts, 1))
    had, total = shares(counts), sum(counts.values())
    rows = [(name, part, had.get(name, 0.0)) for name, part in sorted(wanted.items())]
    off = [abs(part - got) > allowed(part, total, limits.tolerance) for _, part, got in rows]
    strangers = sorted(set(counts) - set(wanted))
    told = [f"{name} {got:.1%} of {part:.1%}" for name, part, got in rows] + [
        f"{name} is unknown" for name in strangers
    ]
    measured = f"{', '.join(told)} (of {total})" if total else "nobody says where it came from"
    return Verdict(
        f"{what} follow the weights to {limits.tolerance:.1%}", measured, bool(total) and not strangers and not any(off)
    )


def allowed(part: float, total: int, tolerance: float) -> float:
    """Promises how far a share may be off: the tolerance, or what chance makes of so few."""
    chance = SIGMAS * (part * (1 - part) / total) ** 0.5 if total else 0.0
    return max(tolerance, chance)


def _sessions(found: Mapping[str, Any]) -> Verdict:
    kept, broken = found["sessions"]["kept"], found["sessions"]["broken"]
    begun = sum(found["sessions_at"].values())
    measured = f"{begun} begun, {kept} kept to their end, {broken} broken"
    return Verdict("every session stays where its cart is", measured, begun > 0 and not broken)


def judge_traces(traces: Traces, dropped: int) -> Verdict:
    """Promises whether a trace runs from the load through the router to a server."""
    lacking = "".join(f"; {count}: {why}" for why, count in sorted(traces.lacking.items()))
    more = f"; {dropped} spans had no room" if dropped else ""
    measured = f"{len(traces.whole)} of {traces.begun} traces{lacking}{more}"
    return Verdict("a trace runs from locust through the router to a server", measured, bool(traces.whole))


def told(found: Mapping[str, Any], weights: Mapping[str, int], verdicts: Sequence[Verdict]) -> str:
    """Promises the tables of requests and servers, the errors and the verdicts."""
    lines = [_requests(found["rows"]), "", _servers(found, weights)]
    lines += ["", *_told_errors(found["errors"])] if found["errors"] else []
    lines += ["", *(f"{'ok    ' if v.held else 'MISSED'} {v.must}: {v.measured}" for v in verdicts)]
    return "\n".join(lines)


def page(html: str, text: str) -> str:
    """Promises locust's page with `text` above it."""
    before, mark, after = html.rpartition("<body>")
    style = "max-width: 1200px; margin: 2em auto; padding: 1em; overflow-x: auto; background: #fff; color: #222"
    return f'{before}{mark}<pre style="{style}">{escape(text)}</pre>{after}' if mark else html


def _requests(rows: Sequence[Mapping[str, Any]]) -> str:
    cells = [
        [
            row["name"],
            str(row["requests"]),
            str(row["failures"]),
            number(row["p50_ms"] or None, 0),
            number(row["p99_ms"] or None, 0),
        ]
        for row in rows
    ]
    return table(["request", "number", "failed", "p50 ms", "p99 ms"], cells)


def _servers(found: Mapping[str, Any], weights: Mapping[str, int]) -> str:
    names = sorted({*found["servers"], *found["sessions_at"], *weights})
    wanted = shares(weights or dict.fromkeys(names, 1))
    columns = [wanted, shares(found["servers"]), shares(found["sessions_at"])]
    rows = [[name, *(f"{part[name]:.1%}" if name in part else "-" for part in columns)] for name in names]
    return table(["server", "by weight", "requests", "new sessions"], rows)


def _told_errors(errors: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = [f"{each['count']} × {each['error']}" for each in errors[:MOST]]
    return lines + [f"and {len(errors) - MOST} other kinds of errors"] * (len(errors) > MOST)
