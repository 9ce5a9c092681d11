"""From what the client, the servers and the log tell to verdicts and the table. Pure: no process, no file."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from bench_report import number, table
from change_client import LEFT, STANDING, Tunnel
from change_house import Phase, Record
from change_servers import SLOW
from change_stall import Late
from fault_client import BROKEN, LYING, OK, Seen
from fault_house import Said
from fault_report import Verdict, duplicates, ends_well, errors, kinds, p99

Check = Callable[[Record], Verdict]

#: What a share of requests may be off.
SLACK = 0.06
#: What part of the load that was asked for must have come.
LOADED = 0.7
#: Seconds within which what is cut at a moment must be gone.
SOON = 1.0
MIB = 1 << 20


class Result(NamedTuple):
    """What one scenario came to. Times in milliseconds; None where there is nothing to tell."""

    name: str
    text: str
    changes: int
    requests: int
    posts: int
    errors: int
    lying: int
    duplicates: int
    tunnels: int
    closed: int
    ends: int
    slowest: float | None
    p99: float | None
    client_cores: float
    kinds: dict[str, int]
    verdicts: list[Verdict]


# Figures


def closed(tunnels: Iterable[Tunnel]) -> list[Tunnel]:
    """Promises the WebSockets that ended otherwise than by the client's will."""
    return [each for each in tunnels if each.end not in (LEFT, STANDING)]


def is_slow(seen: Seen) -> bool:
    return seen.key.startswith(SLOW)


def slowest(seen: Iterable[Seen]) -> float | None:
    """Promises the milliseconds of the slowest good answer, downloads left out."""
    times = [each.ended - each.due for each in seen if each.kind == OK and not is_slow(each)]
    return max(times) * 1000 if times else None


def result(name: str, text: str, record: Record, checks: Sequence[Check]) -> Result:
    """Promises the figures of a scenario and the verdicts of these checks."""
    seen, tunnels = record.seen, record.tunnels
    return Result(
        name,
        text,
        record.changes,
        len(seen),
        sum(1 for each in seen if each.method == "POST"),
        len(errors(seen)),
        sum(1 for each in seen if each.kind == LYING),
        len(duplicates(record.receipts)),
        len(tunnels),
        len(closed(tunnels)),
        record.ends,
        slowest(seen),
        p99(each for each in seen if not is_slow(each)),
        record.client_cores,
        kinds(seen),
        [check(record) for check in checks],
    )


# What must hold


def held(must: str, wrong: Sequence[str], well: str = "0") -> Verdict:
    """Promises a verdict that holds if nothing is wrong; else the first of it is said."""
    said = f"{len(wrong)}: {'; '.join(wrong[:3])}" if wrong else well
    return Verdict(must, said, not wrong)


def no_errors(record: Record) -> Verdict:
    found = kinds(record.seen)
    return held("0 errors", [f"{count} x {what}" for what, count in found.items()])


def no_tunnel_closed(record: Record) -> Verdict:
    found = closed(record.tunnels)
    return held("0 WebSockets closed", [f"{each.end} after {each.ended - each.begun:.1f} s" for each in found])


def all_kept(record: Record) -> Verdict:
    """Clients whose listener did not change keep their connections."""
    return Verdict("0 connections ended between requests", str(record.ends), not record.ends)


def loaded(record: Record) -> Verdict:
    """Without load, nothing would be proved."""
    mix, moments = record.mix, [each.sent for each in record.seen]
    seconds = max(moments, default=0) - min(moments, default=0)
    rate = len(moments) / seconds if seconds > 0 else 0
    standing = sum(1 for each in record.tunnels if each.end == STANDING)
    must = f"at least {LOADED * mix.per_second:.0f} requests/s, {mix.tunnels} WebSockets at the end"
    said = f"{rate:.0f} requests/s for {seconds:.1f} s, {standing} WebSockets"
    return Verdict(must, said, rate >= LOADED * mix.per_second and standing >= mix.tunnels)


def no_strays(record: Record) -> Verdict:
    """No request and no WebSocket reaches a server while it is out of service."""
    wrong = []
    for phase in record.phases:
        strays = [each for each in served(record, phase) if not phase.weights.get(each)]
        wrong += [f"{count} at {name} ({phase.what})" for name, count in Counter(strays).items()]
    return held("requests at servers out of service", wrong)


def none_starved(record: Record) -> Verdict:
    """Every server in service gets requests."""
    wrong = []
    for phase in record.phases:
        counts = Counter(served(record, phase))
        wrong += [f"{name} ({phase.what})" for name, weight in phase.weights.items() if weight and not counts[name]]
    return held("servers in service without a request", wrong, f"0, in {len(record.phases)} phases")


def fair_shares(record: Record) -> Verdict:
    """Requests follow the weights."""
    worst, where = 0.0, "nowhere"
    for phase in record.phases:
        counts = Counter(served(record, phase))
        for name, weight in phase.weights.items():
            share = weight / sum(phase.weights.values())
            off = abs(counts[name] / max(1, counts.total()) - share)
            if off > worst:
                worst, where = off, f"{name} ({phase.what})"
    return Verdict(f"shares within {SLACK:.0%} of the weights", f"off by {worst:.1%} at most, {where}", worst <= SLACK)


def served(record: Record, phase: Phase) -> list[str]:
    """Promises the server of everything that began and was decided within a phase."""
    answers = [each.server for each in record.seen if phase.begin <= each.sent and each.ended <= phase.end]
    stood = [each.server for each in record.tunnels if phase.begin <= each.begun and 0 < each.stood <= phase.end]
    return [name for name in (*answers, *stood) if name]


# An endpoint that leaves with work under way


class Leaving(NamedTuple):
    """Which server left, and when: before the file was written, and once it was in force."""

    name: str
    asked: float
    gone: float

    def downloads(self, record: Record) -> list[Seen]:
        """Promises the downloads that were under way there."""
        there = {receipt.key for receipt in record.receipts if receipt.server == self.name}
        return [e for e in record.seen if is_slow(e) and e.key in there and e.sent < self.asked and e.ended > self.gone]

    def tunnels(self, record: Record) -> list[Tunnel]:
        return [e for e in record.tunnels if e.server == self.name and 0 < e.stood < self.asked and e.ended > self.gone]

    def finishes(self, record: Record) -> Verdict:
        """All of them end well, however long they take."""
        downloads, tunnels = self.downloads(record), self.tunnels(record)
        wrong = [f"download {each.kind}" for each in downloads if each.kind != OK]
        wrong += [f"WebSocket {each.end}" for each in closed(tunnels)]
        if not (downloads and tunnels):
            wrong.append("nothing was under way")
        last = max((each.ended - self.gone for each in downloads), default=0)
        well = f"{len(downloads)} downloads, the last {last:.1f} s later; {len(tunnels)} WebSockets"
        return held("what is under way at the removed endpoint finishes", wrong, well)

    def is_cut(self, record: Record, seconds: float) -> Verdict:
        """All that takes longer is cut after so many seconds, and not before."""
        ends = [each.ended for each in self.downloads(record) if each.kind == BROKEN]
        cut = [each.ended for each in closed(self.tunnels(record))]
        wrong = [f"cut after {end - self.asked:.2f} s" for end in (*ends, *cut) if end < self.asked + seconds]
        wrong += [f"cut after {end - self.gone:.2f} s" for end in (*ends, *cut) if end > self.gone + seconds + SOON]
        wrong += ["WebSocket not cut"] * (len(self.tunnels(record)) - len(cut))
        if not (ends and cut):
            wrong.append("nothing was cut")
        well = f"{len(ends)} downloads and {len(cut)} WebSockets"
        return held(f"cut after drain_timeout ({seconds:g} s), neither before nor much later", wrong, well)

    def else_well(self, record: Record) -> Verdict:
        """Nothing but what was under way there notices."""
        keys = {each.key for each in self.downloads(record)}
        others = [f"{each.method} {each.kind}" for each in errors(record.seen) if each.key not in keys]
        mine = set(self.tunnels(record))
        return held("0 errors elsewhere", [*others, *(each.end for each in closed(record.tunnels) if each not in mine)])


# The router's log

_RECORD = re.compile(r"\d{4}-\d\d-\d\d \S+ ([A-Z]+) \S+ (.*)")


def messages(log: Sequence[Said]) -> list[str]:
    """Promises what the log warns of. The lines behind the first of a message belong to it."""
    found: list[tuple[str, str]] = []
    for said in log:
        match = _RECORD.fullmatch(said.text)
        if match:
            found.append((match[1], match[2]))
        elif found:
            level, text = found.pop()
            found.append((level, f"{text}\n{said.text}"))
    return [text for level, text in found if level in ("WARNING", "ERROR", "CRITICAL")]


def ends_well_but(words: str) -> Check:
    """The router ends well, and its log holds no error but those with these words."""

    def check(record: Record) -> Verdict:
        return ends_well(record._replace(log=[said for said in record.log if words not in said.text]))

    return check


# Stalls and memory


class Window(NamedTuple):
    """One reload that was watched, or the calm before."""

    begin: float
    end: float
    #: Seconds until it was in force.
    took: float = 0


def longest(late: Iterable[Late], window: Window) -> float:
    """Promises the milliseconds of the longest stall that overlaps a window."""
    return max(
        (1000 * e.seconds for e in late if e.moment - e.seconds <= window.end and e.moment >= window.begin), default=0
    )


def short_stalls(
    inside: Sequence[Late], outside: Sequence[Late], calm: Window, watched: Sequence[Window], most: float
) -> Verdict:
    """At most so many milliseconds, as the loop itself saw it; what a client saw is told beside it."""
    stalls = [longest(inside, each) for each in watched]
    told = ", ".join(f"{each:.0f}" for each in stalls)
    answers = max((longest(outside, each) for each in watched), default=0)
    took = max((each.took for each in watched), default=0)
    said = (
        f"{told} ms; slowest answer {answers:.0f} ms; in force within {took:.1f} s; "
        f"without a reload {longest(inside, calm):.0f} and {longest(outside, calm):.0f} ms"
    )
    return Verdict(f"longest stall of the loop at most {most:.0f} ms", said, bool(stalls) and max(stalls) <= most)


def flat(sizes: Sequence[tuple[int, int]], since: int, most: float) -> Verdict:
    """Memory grows by less than so many MiB from one count of reloads to the last.

    Args:
        sizes: reloads and bytes.
    """
    (last, end), begin = sizes[-1], dict(sizes)[since]
    told = ", ".join(f"{size / MIB:.1f} after {count}" for count, size in sizes)
    grown = (end - begin) / MIB
    return Verdict(
        f"grows by less than {most:g} MiB from reload {since} to {last}", f"{grown:+.1f}: {told}", grown < most
    )


# The table


def report(results: Sequence[Result]) -> str:
    """Promises the table of figures, and what had to hold and did or did not."""
    heads = ["scenario", "changes", "requests", "errors", "POST", "twice", "lying", "WebSockets", "closed", "ended"]
    rows = []
    for each in results:
        counts = (each.changes, each.requests, each.errors, each.posts, each.duplicates, each.lying, each.tunnels)
        missed = sum(not verdict.held for verdict in each.verdicts)
        times = (number(each.p99, 0), number(each.slowest, 0), number(each.client_cores, 2))
        rows.append(
            [each.name, *map(str, (*counts, each.closed, each.ends)), *times, f"{missed} MISSED" if missed else "ok"]
        )
    lines = [table([*heads, "p99 ms", "slowest", "client cores", "all held"], rows), ""]
    for each in results:
        lines.append(f"{each.name}: {each.text}")
        for verdict in each.verdicts:
            lines.append(f"    {'ok    ' if verdict.held else 'MISSED'} {verdict.must}: {verdict.measured}")
    return "\n".join(lines)
