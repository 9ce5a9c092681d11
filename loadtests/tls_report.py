"""From what rows of tls.py measured to verdicts. Pure: no process, no file, no clock."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from change_report import held
from fault_report import Verdict

#: The largest CPU per request, in parts of a proxy's, that is to be had over TLS; None if it is told for information.
KEEPALIVE = {"envoy": 1.0, "traefik": 0.8, "caddy": 0.65, "nginx": None, "haproxy": None}
#: The largest CPU per handshake, in parts of nginx's.
HANDSHAKE = 1.5
#: Seconds after which new connections must have the new certificate.
SOON = 5.0

# CPU


def ratios(ones: Sequence[float], others: Sequence[float]) -> list[float]:
    """Promises the ratio of each round."""
    return [one / other for one, other in zip(ones, others, strict=True)]


def keeps_up(cpu: Mapping[str, Sequence[float]], missing: Mapping[str, str]) -> list[Verdict]:
    """CPU per request over connections that stay, beside each proxy that a figure is set for.

    Args:
        cpu: µs per request in each round.
        missing: proxy -> why it was not measured.
    """
    found = []
    for name, most in KEEPALIVE.items():
        if most is None:
            continue
        must = f"CPU per request over TLS at most {most:.2f} x {name}"
        if name not in cpu:
            found.append(Verdict(must, f"not measured: {missing.get(name, 'not asked for')}", False))
            continue
        ratio = statistics.median(ratios(cpu["router"], cpu[name]))
        own, other = (statistics.median(cpu[each]) for each in ("router", name))
        found.append(Verdict(must, f"{ratio:.2f} x ({own:.1f} to {other:.1f} µs)", ratio <= most))
    return found


class Shaken(NamedTuple):
    """One kind of handshake: µs per connection in each round, and what was agreed on."""

    what: str
    cpu: Mapping[str, Sequence[float]]
    agreed: Mapping[str, Iterable[str]]
    #: The same connections that end after the handshake.
    bare: Mapping[str, Sequence[float]]


def cheap_handshakes(kind: Shaken, plain: Mapping[str, Sequence[float]]) -> list[Verdict]:
    """CPU per connection with a full handshake and one request, beside nginx; nothing is taken off.

    Args:
        plain: the same connections without TLS.
    """
    ratio = statistics.median(ratios(kind.cpu["router"], kind.cpu["nginx"]))
    whole = [statistics.median(kind.cpu[name]) for name in ("router", "nginx")]
    without = [statistics.median(plain[name]) for name in ("router", "nginx")]
    added = [one - other for one, other in zip(whole, without, strict=True)]
    said = (
        f"{ratio:.2f} x ({_pair(whole)} µs); without TLS {_pair(without)}, so TLS adds {_pair(added)}"
        f" ({added[0] / added[1]:.2f} x)"
    )
    if kind.bare:
        alone = statistics.median(ratios(kind.bare["router"], kind.bare["nginx"]))
        both = [statistics.median(kind.bare[name]) for name in ("router", "nginx")]
        said += f"; handshake without a request {alone:.2f} x ({_pair(both)})"
    agreed = {name: sorted(set(words)) for name, words in kind.agreed.items()}
    return [
        Verdict(f"{kind.what}: CPU per full handshake at most {HANDSHAKE:.1f} x nginx", said, ratio <= HANDSHAKE),
        Verdict(
            f"{kind.what}: the same is agreed on",
            "; ".join(f"{name}: {', '.join(words)}" for name, words in agreed.items()),
            agreed["router"] == agreed["nginx"] and len(agreed["router"]) == 1,
        ),
    ]


def _pair(numbers: Sequence[float]) -> str:
    return " to ".join(f"{number:.0f}" for number in numbers)


# Swaps


class Swap(NamedTuple):
    """Another certificate was put in place between two moments; `seen` is when it was first served, or None."""

    serial: str
    begun: float
    done: float
    seen: float | None


class Shake(NamedTuple):
    """One new connection: when it began and ended, whose certificate came, and what befell it: "ok" if nothing."""

    begun: float
    ended: float
    serial: str
    end: str


class Held(NamedTuple):
    """A connection that stays: its kind, when it stood and ended, how it ended, and good answers on it."""

    what: str
    stood: float
    ended: float
    end: str
    answers: int


#: How a connection ended that was still there when all was over.
STANDING = "standing"


def in_force(swaps: Sequence[Swap], count: int) -> Verdict:
    """New connections get the new certificate soon."""
    late = [f"swap {number}: {_lag(swap)}" for number, swap in enumerate(swaps, 1) if not _is_soon(swap)]
    late += [f"{len(swaps)} swaps were made"] if len(swaps) != count else []
    lags = [swap.seen - swap.done for swap in swaps if swap.seen is not None]
    well = f"median {statistics.median(lags):.2f} s, slowest {max(lags):.2f} s" if lags else "never"
    return held(f"{count} swaps: in force for new connections within {SOON:g} s", late, well)


def _is_soon(swap: Swap) -> bool:
    return swap.seen is not None and swap.seen - swap.done <= SOON


def _lag(swap: Swap) -> str:
    return "never served" if swap.seen is None else f"after {swap.seen - swap.done:.2f} s"


def none_failed(shakes: Sequence[Shake], least: int) -> Verdict:
    """No new connection failed, and there were enough of them to tell."""
    wrong = [f"{each.end} at {each.begun:.2f}" for each in shakes if each.end != "ok"]
    wrong += [f"only {len(shakes)} of at least {least} were made"] if len(shakes) < least else []
    return held("0 of the new connections failed", wrong, f"0 of {len(shakes)}")


def old_or_new(shakes: Sequence[Shake], first: str, swaps: Sequence[Swap]) -> Verdict:
    """Each new connection gets the certificate that is in place, or one that was so until a moment ago.

    Args:
        first: the serial number of the certificate that was there from the start.
    """
    begins = {first: float("-inf")} | {swap.serial: swap.begun for swap in swaps}
    replaced = [swap.done for swap in swaps]
    until = dict(zip([first, *(swap.serial for swap in swaps)], [*replaced, float("inf")], strict=True))
    wrong = []
    for each in shakes:
        if each.end != "ok":
            continue
        if each.serial not in begins:
            wrong.append(f"{each.serial} is none of them")
        elif each.ended < begins[each.serial]:
            wrong.append(f"{each.serial} before it was there")
        elif each.begun > until[each.serial] + SOON:
            wrong.append(f"{each.serial} {each.begun - until[each.serial]:.2f} s after it was replaced")
    return held("every new connection gets the old certificate or the new one", wrong, "yes")


def stays(connections: Sequence[Held], counts: Mapping[str, int]) -> Verdict:
    """Connections that were open before the first swap are open after the last, and answer."""
    wrong = [f"{each.what} ended: {each.end}" for each in connections if each.end != STANDING]
    wrong += [f"a {each.what} had {each.answers} answers" for each in connections if each.answers < 2]
    for what, count in counts.items():
        found = sum(each.what == what for each in connections)
        wrong += [f"{found} of {count} {what}s"] if found != count else []
    said = ", ".join(f"{count} {what}s" for what, count in counts.items())
    return held("no open connection closed", wrong, f"0 of {said}; {sum(each.answers for each in connections)} answers")


# testssl.sh

#: What is no fault of a server: the beginning of the name of a finding -> why.
EXCUSED = {
    "cipher_order": "both profiles leave the choice to the client, as all ciphers are good",
    "cert_revocation": "a private authority has no lists of revoked certificates",
    "cert_ocspRevoked": "the same",
    "security_headers": "those are the application's",
    "DNS_CAArecord": "there is no DNS here",
}
#: Lines that the router may log during one scan.
LINES = 100
_BAD = ("MEDIUM", "HIGH", "CRITICAL", "FATAL")


class Finding(NamedTuple):
    name: str
    severity: str
    text: str


def findings(entries: Any) -> list[Finding]:
    """Reads the flat JSON of `testssl.sh`.

    Raises:
        ValueError: it is no such thing.
    """
    try:
        found = [Finding(each["id"], each["severity"], " ".join(each["finding"].split())) for each in entries]
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"testssl.sh gave something else than a list of findings: {error!r}") from error
    if not found:
        raise ValueError("testssl.sh found nothing")
    return found


def excuse(finding: Finding) -> str:
    """Promises why a finding does not count; "" if it does."""
    return next((why for begin, why in EXCUSED.items() if finding.name.startswith(begin)), "")


#: Findings that show that a section was played to its end: protocols, ciphers, header, vulnerabilities.
_EACH = ("SSLv3", "TLS1", "TLS1_3", "cipherlist_NULL", "HSTS_time", "heartbleed", "ROBOT")


def no_weakness(profile: str, found: Sequence[Finding]) -> list[Verdict]:
    """No vulnerability, no weak protocol or cipher: nothing above LOW."""
    bad = [f"{each.name} {each.severity}: {each.text}" for each in found if each.severity in _BAD and not excuse(each)]
    names = {each.name for each in found}
    bad += [f"nothing about {name}" for name in _EACH if name not in names]
    excused = sorted({each.name for each in found if each.severity in _BAD and excuse(each)})
    low = [f"{each.name}: {each.text}" for each in found if each.severity in ("LOW", "WARN")]
    well = f"0 of {len(found)} findings"
    well += f"; LOW: {'; '.join(low)}" if low else ""
    well += f"; excused: {', '.join(excused)}" if excused else ""
    hsts = [each for each in found if each.name == "HSTS_time"]
    return [
        held(f"{profile}: no vulnerability, no weak protocol or cipher", bad, well),
        Verdict(
            f"{profile}: HSTS", hsts[0].text if hsts else "none", bool(hsts) and all(e.severity == "OK" for e in hsts)
        ),
        Verdict(f"{profile}: overall grade (aim: A+)", grade(found), True),
    ]


def says_little(profile: str, lines: Sequence[str]) -> Verdict:
    """What a scanner sends does not fill the log."""
    most = max(lines, key=len, default="")
    said = f"{len(lines)} lines, the longest of {len(most)} letters"
    return Verdict(f"{profile}: a scan leaves at most {LINES} lines in the log", said, len(lines) <= LINES)


def grade(found: Sequence[Finding]) -> str:
    """Promises the overall grade, and what capped it; versions before 3.1 give none."""
    marks = [each.text for each in found if each.name == "overall_grade"]
    caps = [each.text for each in found if each.name.startswith("grade_cap_reason")]
    if not marks:
        return "none: this version of testssl.sh gives no grades"
    return marks[0] + (f" ({'; '.join(caps)})" if caps else "")


# ACME


class Probe(NamedTuple):
    """One handshake of the prober: when it began, whose certificate came, and what befell it.

    `end` is "ok"; "down" if nobody listened; else what was wrong.
    """

    begun: float
    serial: str
    end: str


def never_without(probes: Sequence[Probe], downs: Sequence[tuple[float, float]]) -> Verdict:
    """Once there was a certificate there always is a good one; only while the router itself is down nobody answers.

    Args:
        downs: from the moment at which the router was ended until it listens again.
    """
    first = next((place for place, each in enumerate(probes) if each.end == "ok"), None)
    if first is None:
        return Verdict("never without a certificate once it had one", f"never had one in {len(probes)} probes", False)
    after = probes[first:]
    wrong = [
        f"{each.end} at {each.begun:.2f}"
        for each in after
        if each.end != "ok" and not (_is_cut(each) and any(begin - 1 <= each.begun <= end for begin, end in downs))
    ]
    serials = len({each.serial for each in after if each.end == "ok"})
    well = f"{len(after)} handshakes, {serials} certificates"
    return held("never without a certificate once it had one", wrong, well)


#: How a probe can end: well, or as when the process at the other end is killed; else with what was wrong.
OK, DOWN = "ok", "down"


def _is_cut(probe: Probe) -> bool:
    return probe.end == DOWN


def serves_on(asked: Sequence[Probe], downs: Sequence[tuple[float, float]]) -> Verdict:
    """Plain requests are answered all the while, from the very first."""
    wrong = [
        f"{each.end} at {each.begun:.2f}"
        for each in asked
        if each.end != "ok" and not (_is_cut(each) and any(begin - 1 <= each.begun <= end for begin, end in downs))
    ]
    wrong += ["nothing was asked"] if not asked else []
    return held("requests are answered all the while", wrong, f"0 of {len(asked)} failed")
