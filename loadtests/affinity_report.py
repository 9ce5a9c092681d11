"""From what visitors, forgers and memory tell to verdicts and the table. Pure: no process, no file."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from affinity_client import Sent
from bench_report import number, table
from change_house import Phase
from change_report import held
from fault_client import OK, Seen
from fault_report import Verdict

#: Visitors by which the share of a server may be off: those chosen while a phase begins or ends are not counted, and
#: what a turn of the selector has begun with them it goes on with others.
SLACK = 3
#: Bytes of the process for each entry of a table, at most, and MiB that it may grow by besides, and once it is full.
#: Python makes the index of a table anew now and then: 2 MiB for 100 000 entries. Ids that stayed would take 100 MiB.
PER_ENTRY, BESIDES, GROWTH = 400, 8.0, 4.0
#: The largest CPU per request with the cookie, in parts of that without.
RATIO = 1.06
MIB = 1 << 20


class Played(NamedTuple):
    """What was done and measured; `figures` are for the file of --json."""

    requests: int
    figures: dict[str, object]
    verdicts: list[Verdict]


class Result(NamedTuple):
    """What one row came to."""

    name: str
    text: str
    requests: int
    figures: dict[str, object]
    verdicts: list[Verdict]


class Down(NamedTuple):
    """A server was down, as seen by clients: until the router says that it is in service again."""

    name: str
    begin: float
    end: float


class Choice(NamedTuple):
    """A visitor came to a server: the first time, or from another one."""

    visitor: str
    before: Seen | None
    seen: Seen


# Visitors


def visitor_of(seen: Seen) -> str:
    return seen.key.partition(".")[0]


def choices(all_seen: Iterable[Seen]) -> list[Choice]:
    """Promises every moment at which a visitor came to a server, in order of time."""
    last: dict[str, Seen] = {}
    found = []
    for seen in sorted((each for each in all_seen if each.kind == OK), key=lambda each: each.sent):
        visitor = visitor_of(seen)
        before = last.get(visitor)
        if before is None or before.server != seen.server:
            found.append(Choice(visitor, before, seen))
        last[visitor] = seen
    return found


def loyal(all_seen: Sequence[Seen], downs: Sequence[Down]) -> Verdict:
    """Nobody changes their server but for its being down."""
    moved = [each for each in choices(all_seen) if each.before is not None]
    wrong = [
        f"visitor {each.visitor} from {each.before.server} to {each.seen.server}"
        for each in moved
        if each.before is not None and not any(_explains(down, each.before.server, each.seen) for down in downs)
    ]
    return held("a client changes its server only when its own is down", wrong, f"0; {len(moved)} had to")


def _explains(down: Down, server: str, seen: Seen) -> bool:
    return down.name == server and down.begin <= seen.ended and seen.sent <= down.end


def moved_on(all_seen: Sequence[Seen], downs: Sequence[Down]) -> Verdict:
    """Without anybody who had to move, nothing would be proved."""
    moved = Counter(each.before.server for each in choices(all_seen) if each.before is not None)
    wrong = [f"nobody left {down.name}" for down in downs if not moved[down.name]]
    return held("visitors of a server that is down go to others", wrong, f"{moved.total()}")


def all_came(all_seen: Sequence[Seen], count: int, requests: int) -> Verdict:
    """Every visitor makes all of their requests, and each is answered well."""
    made = Counter(visitor_of(each) for each in all_seen)
    bad = Counter(f"{each.kind}{f' {each.status}' if each.status else ''}" for each in all_seen if each.kind != OK)
    wrong = [f"{times} x {what}" for what, times in bad.items()]
    wrong += [f"visitor {name} made {times}" for name, times in made.items() if times != requests]
    wrong += [f"{len(made)} visitors"] if len(made) != count else []
    return held(f"{count} visitors with {requests} requests each, 0 errors", wrong, str(made.total()))


def fair_choices(all_seen: Sequence[Seen], phases: Sequence[Phase]) -> Verdict:
    """Who is new, and who has to move, is shared out by weight."""
    worst, where, found = 0.0, "nowhere", choices(all_seen)
    for phase in phases:
        counts = Counter(e.seen.server for e in found if phase.begin <= e.seen.sent and e.seen.ended <= phase.end)
        whole = sum(phase.weights.values())
        for name, weight in phase.weights.items():
            off = abs(counts[name] - counts.total() * weight / whole)
            if off > worst:
                worst, where = off, f"{name} ({phase.what}: {dict(sorted(counts.items()))})"
    must = f"shares of new clients within {SLACK} of the weights"
    return Verdict(must, f"off by {worst:.1f} at most, {where}", worst <= SLACK)


def no_stray_choices(all_seen: Sequence[Seen], phases: Sequence[Phase]) -> Verdict:
    """A server that is drained or down gets nobody new."""
    wrong = [
        f"visitor {each.visitor} at {each.seen.server} ({phase.what})"
        for phase in phases
        for each in choices(all_seen)
        if phase.begin <= each.seen.sent and each.seen.ended <= phase.end and not phase.weights.get(each.seen.server)
    ]
    return held("new clients at servers that are drained or down", wrong)


def keeps_sessions(all_seen: Sequence[Seen], phase: Phase, name: str) -> Verdict:
    """A draining server goes on with those that it has."""
    seen = [e for e in all_seen if phase.begin <= e.sent and e.ended <= phase.end and e.server == name]
    who = len({visitor_of(each) for each in seen})
    return Verdict(f"{name} keeps its sessions while it is drained", f"{len(seen)} requests of {who}", bool(seen))


def takes_new(all_seen: Sequence[Seen], phase: Phase, name: str) -> Verdict:
    """A server that is back gets its share again."""
    found = [e for e in choices(all_seen) if e.seen.server == name and phase.begin <= e.seen.sent <= phase.end]
    return Verdict(f"{name} gets new clients once it is started again", str(len(found)), bool(found))


# Forgers


def none_accepted(sent: Sequence[Sent], count: int, servers: Sequence[str]) -> Verdict:
    """No made-up value leads to the server that it was made from, and each is replaced.

    Args:
        servers: drained, so that nobody comes there but by a good cookie.
    """
    wrong = [f"{each.value!r} led to {each.server}" for each in sent if each.server in servers]
    wrong += [f"{each.value!r} was not replaced" for each in sent if not each.replaced]
    wrong += [f"{each.value!r} had status {each.status}" for each in sent if each.status != 200]
    wrong += [f"{len(sent)} were sent"] if len(sent) != count else []
    return held(f"{count} mutations: none accepted, each replaced", wrong, f"0 of {len({e.value for e in sent})}")


def good_ones_count(answers: Sequence[tuple[str, str]]) -> Verdict:
    """The values that were mutated are good, before and after.

    Args:
        answers: whose a value is, and who answered to it.
    """
    wrong = [f"that of {name} led to {found or 'no one'}" for name, found in answers if name != found]
    return held("the cookies that they were made from are good", wrong, f"{len(answers)} times")


def nothing_said(messages: Sequence[str]) -> Verdict:
    return held("nothing raises: 0 messages in the router's log", messages)


# Memory


def bounded(sizes: Sequence[tuple[int, int]], entries: int) -> list[Verdict]:
    """Memory grows with the option, not with the ids.

    Args:
        sizes: ids sent so far and bytes of the process, the first before any.
        entries: of the table at most.
    """
    (_, begin), (last, end) = sizes[0], sizes[-1]
    most = entries * PER_ENTRY / MIB + BESIDES
    # A table of Python's grows twice more after it is full: places of entries that are gone are used up first.
    settled = max(3 * entries, last // 2)
    full = next(((ids, size) for ids, size in sizes if ids >= settled), sizes[-1])
    grown, later = (end - begin) / MIB, (end - full[1]) / MIB
    told = ", ".join(f"{size / MIB:.1f} after {ids}" for ids, size in sizes)
    return [
        Verdict(
            f"{last} ids, {entries} entries: memory grows by at most {most:.0f} MiB", f"{grown:+.1f}", grown <= most
        ),
        Verdict(
            f"and by less than {GROWTH:g} MiB over the second half, when the table has long been full",
            f"{later:+.1f}: {told}",
            later < GROWTH and last > full[0],
        ),
    ]


def oldest_first(pins: Mapping[str, tuple[bool, bool]]) -> Verdict:
    """What affinity still knows of a few ids.

    Args:
        pins: what the id is -> (whether it is pinned, whether it has to be).
    """
    wrong = [f"{what} is {'' if found else 'not '}pinned" for what, (found, wanted) in pins.items() if found != wanted]
    return held("the oldest go first, those in use stay", wrong, "; ".join(pins))


# CPU


def cheap(ratio: float, least: float, same: float) -> Verdict:
    """The cookie costs little.

    Args:
        ratio: median over the rounds of CPU per request with the cookie to that without affinity and without a cookie.
        least: the same of the cheapest rounds.
        same: the median where the router without affinity gets the same cookies.
    """
    said = f"median of the rounds {ratio:.3f} x, cheapest {least:.3f} x; to one that gets the same cookies {same:.3f} x"
    return Verdict(f"CPU per request with the cookie at most {RATIO:.2f} x", said, ratio <= RATIO)


# The table


def report(results: Sequence[Result]) -> str:
    """Promises the table, and what had to hold and did or did not."""
    rows = []
    for each in results:
        missed = sum(not verdict.held for verdict in each.verdicts)
        rows.append([each.name, number(each.requests, 0), f"{missed} MISSED" if missed else "ok"])
    lines = [table(["row", "requests", "all held"], rows), ""]
    for each in results:
        lines.append(f"{each.name}: {each.text}")
        lines += [f"    {'ok    ' if v.held else 'MISSED'} {v.must}: {v.measured}" for v in each.verdicts]
    return "\n".join(lines)
