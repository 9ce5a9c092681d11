"""From what the client, the servers and the log tell to figures, verdicts and the table. Pure: no process, no file."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from bench_report import number, table
from fault_client import BROKEN, HANGING, LYING, MALFORMED, OK, Seen
from fault_house import Receipt, Record, about

#: Seconds within which a 503 counts as given at once: a hundred times what it takes, for the sake of busy machines.
AT_ONCE = 0.1


class Verdict(NamedTuple):
    """One thing that must hold, and what was measured."""

    must: str
    measured: str
    held: bool


Check = Callable[[Record], Verdict]


class Result(NamedTuple):
    """What one scenario came to. Times in seconds, p99 in milliseconds; None where there is nothing to tell."""

    name: str
    text: str
    gets: int
    posts: int
    get_errors: int
    post_errors: int
    broken: int
    lying: int
    duplicates: int
    eject: float | None
    recover: float | None
    p99_before: float | None
    p99_during: float | None
    errors: dict[str, int]
    causes: list[str]
    verdicts: list[Verdict]


# Figures


def errors(seen: Iterable[Seen], method: str = "") -> list[Seen]:
    return [each for each in seen if each.kind != OK and method in ("", each.method)]


def duplicates(receipts: Iterable[Receipt]) -> list[str]:
    """Promises the keys of the non-idempotent requests that were received more than once, wherever that was."""
    counts = Counter(receipt.key for receipt in receipts if receipt.method == "POST")
    return [key for key, count in counts.items() if count > 1]


def p99(seen: Iterable[Seen]) -> float | None:
    """Promises the p99 of the good answers in milliseconds, from when their requests were due; None without any."""
    times = sorted(each.ended - each.due for each in seen if each.kind == OK)
    return times[min(len(times) - 1, int(len(times) * 0.99))] * 1000 if times else None


def time_to_eject(record: Record) -> float | None:
    """Promises the seconds from the fault to the log line by which the first of the broken servers is taken out."""
    begin = record.moments.fault
    out = ("ejected", "down")
    lines = [said for each in record.endpoints for said in about(record.log, each, begin) if said.text.startswith(out)]
    return min(said.moment for said in lines) - begin if lines else None


def time_to_recover(record: Record) -> float | None:
    """Promises the seconds from the end of the fault until every broken server answers and none is held back."""
    begin = record.moments.healed
    firsts = []
    for name, endpoint in zip(record.faulty, record.endpoints, strict=True):
        answers = [e.ended for e in record.seen if e.server == name and e.kind == OK and e.sent >= begin]
        if not answers:
            return None
        back = [s.moment for s in about(record.log, endpoint, begin) if s.text.startswith(("back in service", "up:"))]
        firsts.append(max([answers[0], *back]))
    return max(firsts) - begin if firsts else None


def kinds(seen: Iterable[Seen]) -> dict[str, int]:
    """Promises the errors by method and kind, most frequent first."""
    counts = Counter(f"{each.method} {each.kind}{f' {each.status}' if each.status else ''}" for each in errors(seen))
    return dict(counts.most_common())


def result(name: str, text: str, record: Record, checks: Sequence[Check]) -> Result:
    """Promises the figures of a scenario and the verdicts of these checks."""
    seen, moments = record.seen, record.moments
    causes = [said.text for each in record.endpoints for said in about(record.log, each, moments.fault)]
    return Result(
        name,
        text,
        sum(1 for each in seen if each.method == "GET"),
        sum(1 for each in seen if each.method == "POST"),
        len(errors(seen, "GET")),
        len(errors(seen, "POST")),
        sum(1 for each in seen if each.kind == BROKEN),
        sum(1 for each in seen if each.kind == LYING),
        len(duplicates(record.receipts)),
        time_to_eject(record),
        time_to_recover(record),
        p99(each for each in seen if each.ended < moments.fault),
        p99(each for each in seen if each.ended >= moments.fault and each.due < moments.healed),
        kinds(seen),
        causes,
        [check(record) for check in checks],
    )


# What must hold


def no_get_errors(record: Record) -> Verdict:
    found = errors(record.seen, "GET")
    return Verdict("GET: 0 errors", _told(found), not found)


def only_broken(record: Record) -> Verdict:
    """A GET that fails does so in sight; nothing else befalls one."""
    found = [each for each in errors(record.seen, "GET") if each.kind != BROKEN]
    count = sum(1 for each in record.seen if each.kind == BROKEN)
    return Verdict("GET: ok or broken off in sight", _told(found) if found else f"{count} broken off", not found)


def no_lies(record: Record) -> Verdict:
    """In every scenario: no answer that looks whole is short, another's, or malformed, and none hangs."""
    found = [each for each in record.seen if each.kind in (LYING, MALFORMED, HANGING)]
    return Verdict("nothing short that looks whole, nothing hanging", _told(found), not found)


def no_duplicates(record: Record) -> Verdict:
    """In every scenario."""
    found = duplicates(record.receipts)
    return Verdict("no POST received twice", ", ".join(found[:5]) or "0", not found)


def every_server_answers(record: Record) -> Verdict:
    """In every scenario that a fault ends in: nothing stays out."""
    seconds = time_to_recover(record)
    said = "not within the time given" if seconds is None else f"after {seconds:.2f} s"
    return Verdict("back in service after the fault", said, seconds is not None)


def ends_well(record: Record) -> Verdict:
    """In every scenario: the router is still there, ends when it is asked to, and complains of nothing."""
    bad = [said.text for said in record.log if "Traceback" in said.text or " ERROR " in said.text]
    return Verdict(
        "the router ends with exit code 0, without an error in its log",
        f"exit code {record.code}{f', {bad[0]}' if bad else ''}",
        record.code == 0 and not bad,
    )


def ejected(*words: str) -> Check:
    """The broken server is taken out, for a cause with one of these words in it."""

    def check(record: Record) -> Verdict:
        lines = [s.text for each in record.endpoints for s in about(record.log, each, record.moments.fault)]
        causes = [line for line in lines if line.startswith(("ejected", "down"))]
        held = any(word in line for line in causes for word in words or ("",))
        must = f"taken out ({' or '.join(words)})" if words else "taken out"
        return Verdict(must, causes[0] if causes else "never taken out", held)

    return check


def posts_under_way(record: Record) -> Verdict:
    """POSTs that fail were under way in the killed server at that moment."""
    moments = record.moments
    received = {(receipt.key, receipt.server) for receipt in record.receipts}
    found = errors(record.seen, "POST")
    elsewhere = [e for e in found if any(key == e.key and server not in record.faulty for key, server in received)]
    late = [e for e in found if not (e.sent <= moments.broken and e.ended >= moments.fault)]
    wrong = {each.key: each for each in (*elsewhere, *late)}
    must = "POST: none but those under way in the killed server"
    return Verdict(must, f"{len(found)} of them; {len(wrong)} others", not wrong)


def few_slow_answers(seconds: float, most: int = 2) -> Check:
    """At most so many answers of a client connection are later than this."""

    def check(record: Record) -> Verdict:
        slow = Counter(e.connection for e in record.seen if e.ended - e.sent > seconds and e.method == "GET")
        worst = max(slow.values(), default=0)
        must = f"GET: at most {most} answers over {seconds * 1000:.0f} ms on a connection"
        return Verdict(must, f"{worst} on the worst, {slow.total()} in all", worst <= most)

    return check


def few_statuses(status: int, after: int) -> Check:
    """A status from one server reaches clients so many times, and what was then under way; after that it is out.

    Each return to probation is allowed one more.
    """

    def check(record: Record) -> Verdict:
        got = sum(1 for each in record.seen if each.status == status)
        times = sum(1 for each in record.endpoints for s in about(record.log, each) if s.text.startswith("ejected"))
        most = after + len({each.connection for each in record.seen}) + max(0, times - 1)
        return Verdict(f"at most {most} answers with {status}", f"{got}, ejected {times} times", got <= most)

    return check


def only_status(status: int) -> Check:
    """Whatever is answered while all are down is this, and at once."""

    def check(record: Record) -> Verdict:
        moments = record.moments
        during = [e for e in record.seen if moments.broken + AT_ONCE <= e.sent and e.ended <= moments.ending]
        others = [each for each in during if each.status != status]
        # The one in a hundred that a busy machine lets wait says nothing of the router.
        times = sorted(each.ended - each.sent for each in during) or [math.inf]
        late = times[int(len(times) * 0.99)]
        must = f"{status} within {AT_ONCE * 1000:.0f} ms while all are down"
        said = f"{len(during)} answers, {len(others)} others, p99 {late * 1000:.0f} ms"
        return Verdict(must, said, bool(during) and not others and late <= AT_ONCE)

    return check


def served_within(seconds: float, words: str) -> Check:
    """From so many seconds after the return on, every request is served."""

    def check(record: Record) -> Verdict:
        failed = [each.sent for each in errors(record.seen) if each.ended > record.moments.healed]
        took = max([record.moments.healed, *failed]) - record.moments.healed
        must = f"service within {seconds:.2f} s ({words})"
        return Verdict(must, f"the last error {took:.2f} s after the return", took <= seconds)

    return check


def under_way_finish(record: Record) -> Verdict:
    """Requests sent before the router was told to end are answered."""
    asked = record.moments.fault
    under_way = [each for each in record.seen if each.sent < asked <= each.ended]
    failed = errors(each for each in record.seen if each.sent < asked)
    must = "every request under way finishes"
    return Verdict(must, f"{len(under_way)} under way, {_told(failed)} failed", bool(under_way) and not failed)


def small_share(share: float, after: float) -> Check:
    """The share of errors from so many seconds after the fault on."""

    def check(record: Record) -> Verdict:
        later = [each for each in record.seen if each.sent >= record.moments.fault + after]
        failed = len(errors(later))
        must = f"under {share:.0%} errors after {after:g} s"
        said = f"{failed} of {len(later)}"
        return Verdict(must, said, bool(later) and failed < share * len(later))

    return check


def _told(found: Sequence[Seen]) -> str:
    return ", ".join(f"{count} x {what}" for what, count in kinds(found).items()) or "0"


# The table


def report(results: Sequence[Result]) -> str:
    """Promises the table of figures, what had to hold and did or did not, and the sum over all scenarios."""
    heads = ["scenario", "GET", "errors", "POST", "errors", "broken", "lying", "twice", "eject s", "recover s"]
    rows = []
    for each in results:
        counts = (each.gets, each.get_errors, each.posts, each.post_errors, each.broken, each.lying, each.duplicates)
        times = (number(each.eject, 2), number(each.recover, 2), number(each.p99_before, 0), number(each.p99_during, 0))
        missed = sum(not verdict.held for verdict in each.verdicts)
        rows.append([each.name, *map(str, counts), *times, f"{missed} MISSED" if missed else "ok"])
    lines = [table([*heads, "p99 ms before", "during", "all held"], rows), ""]
    for each in results:
        lines.append(f"{each.name}: {each.text}")
        if each.errors:
            lines.append(f"    errors: {', '.join(f'{count} x {what}' for what, count in each.errors.items())}")
        for verdict in each.verdicts:
            lines.append(f"    {'ok    ' if verdict.held else 'MISSED'} {verdict.must}: {verdict.measured}")
    return "\n".join(lines)


def whole(results: Sequence[Result], least: int) -> Verdict:
    """Promises the verdict over all scenarios together: so many non-idempotent requests, none received twice."""
    posts, twice = sum(each.posts for each in results), sum(each.duplicates for each in results)
    must = "no POST received twice in all scenarios together" + (f", of at least {least}" if least else "")
    return Verdict(must, f"{twice} of {posts}", twice == 0 and posts >= least)
