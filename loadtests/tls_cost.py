"""What TLS costs the router, beside other proxies: CPU per request on connections that stay, and per full handshake.

Everybody has the same certificate and the same endpoints. CPU is measured in turns, so that whatever else the machine
does befalls all alike.
"""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import bench_rounds
import bench_wrk as wrk
import tls_report as must
from bench_main import Result
from bench_procs import BenchError
from bench_report import Sample, medians, results_table
from bench_rounds import Load, Up, rotated
from bench_usage import cpu_seconds, rss_bytes, usage
from fault_client import HOST
from fault_house import HERE
from side_by_side import present
from tls_configs import Setting
from tls_files import NAME, NAMES, Pair
from tls_handshakes import PLAIN, Made, Plan
from tls_house import Home, Pace, shaken, start_proxy, trusting
from tls_report import Shaken

#: Clients with wrk, and threads of the client that makes handshakes.
CLIENTS, THREADS = 64, 8
#: Most seconds of one turn beyond what it is meant to take.
MOST = 60.0
MIB = 1 << 20
#: What handshakes are made with: what is said of it -> kind of key, protocol.
KINDS = {
    "ECDSA P-256, TLS 1.3": ("ecdsa", "TLSv1.3"),
    "ECDSA P-256, TLS 1.2": ("ecdsa", "TLSv1.2"),
    "RSA 2048, TLS 1.3": ("rsa", "TLSv1.3"),
}
BOTH = ("router", "nginx")

T = TypeVar("T")


def setting(home: Home, kind: str, modern: bool) -> Setting:
    """Promises a certificate that every proxy of a row shows."""
    folder = home.folder / f"shown-{kind}"
    pair = home.authority.sign(folder, "bench", *NAMES, kind=kind)
    both = home.folder / f"{kind}-both.pem"
    both.touch(0o600)
    both.write_text(pair.certificate.read_text() + pair.key.read_text())
    return Setting(Pair(*pair), both, modern)


def spent(up: Up, work: Callable[[], T]) -> tuple[float, T]:
    """Promises the seconds of CPU that a proxy spent while something was done.

    Raises:
        BenchError: it did not live through that.
    """
    before = usage(up.process.session)
    came = work()
    after = usage(up.process.session)
    code = up.process.popen.poll()
    if code is not None:
        raise BenchError(f"{up.peer.name} ended with code {code}: {up.process.last_words()}")
    return cpu_seconds(before, after), came


def in_turns(turns: int, names: Sequence[str], one: Callable[[str, bool], None]) -> None:
    """Does something with each name, so many times; once more before, which is not to be counted."""
    for turn in range(turns + 1):
        bench_rounds.say(f"round {turn} of {turns}" if turn else "warm-up")
        order = rotated(names, turn)
        # Forth and back: who follows whom, after how long a rest, would favour one of them otherwise.
        for name in reversed(order) if turn % 2 else order:
            one(name, bool(turn))


# Connections that stay


def play_keepalive(home: Home, pace: Pace) -> Result:
    bench_rounds.need("wrk", "wrk")
    names, missing = present(["router", *must.KEEPALIVE], home.sources, install=True)
    if "router" not in names:
        raise BenchError(missing["router"])
    load = Load("/", CLIENTS, pace.seconds, pace.rounds, 0)
    endpoints = bench_rounds.start_backends(home.bench, load)
    shown = setting(home, "ecdsa", modern=True)
    up: dict[str, Up] = {}
    for name in names:
        try:
            up[name] = start_proxy(home.bench, name, name, endpoints, home.sources, shown, home.authority.file)
        except BenchError as error:
            if name == "router":
                raise
            missing[name] = str(error)
    samples: dict[str, list[Sample]] = {name: [] for name in up}
    errors: dict[str, int] = {}

    def one(name: str, counted: bool) -> None:
        sample, failed = _loaded(home, up[name], load)
        errors[name] = errors.get(name, 0) + failed
        if counted:
            samples[name].append(sample)

    in_turns(pace.rounds, list(up), one)
    versions = {name: bench_rounds.version(home.bench, each.peer) for name, each in up.items()}
    print(results_table({name: medians(each) for name, each in samples.items()}, versions, errors))
    cpu = {name: [sample.cpu_us for sample in each] for name, each in samples.items()}
    agreed = {name: _agreed(each, home.authority.file) for name, each in up.items()}
    wrong = [f"{name}: {count}" for name, count in errors.items() if count]
    wrong += [f"{name} agreed on {what}" for name, what in agreed.items() if not what.startswith("TLSv1.3 ")]
    verdicts = [*must.keeps_up(cpu, missing), must.held("0 errors, and all speak TLS 1.3", wrong)]
    return Result("keepalive", "", {"cpu_us": cpu, "agreed": agreed, "versions": versions}, verdicts)


def _loaded(home: Home, up: Up, load: Load) -> tuple[Sample, int]:
    command = wrk.command(f"https://{HOST}:{up.peer.port}{load.path}", load.conns, load.seconds)

    def work() -> str:
        return home.fleet.run("wrk", [*home.pins.load, *command], timeout=load.seconds + MOST)[1]

    cpu, text = spent(up, work)
    try:
        report = wrk.parse(text)
    except ValueError as error:
        raise BenchError(f"{up.peer.name}: {error}") from error
    if not report.requests:
        raise BenchError(f"{up.peer.name}: no request was answered: {'; '.join(report.errors)}")
    rss = rss_bytes(up.process.session) / MIB
    return Sample(cpu / report.requests * 1e6, report.rps, report.p50_ms, report.p99_ms, rss), report.error_count


def _agreed(up: Up, ca: Path) -> str:
    with shaken(up.peer.port, trusting(ca)) as sock:
        cipher = sock.cipher()
        return f"{sock.version()} {cipher[0] if cipher else '?'}"


# Handshakes


class Target(NamedTuple):
    """A proxy, and how it is met."""

    up: Up
    plan: Plan


def play_handshake(home: Home, pace: Pace) -> Result:
    endpoints = bench_rounds.start_backends(home.bench, Load("/", CLIENTS, 1, 1, 0))
    targets = _targets(home, pace, endpoints)
    cpu: dict[str, list[float]] = {name: [] for name in targets}
    agreed: dict[str, list[str]] = {name: [] for name in targets}
    failed: dict[str, int] = {}

    def one(name: str, counted: bool) -> None:
        seconds, made = spent(targets[name].up, lambda: _made(home, targets[name]))
        if not made.good:
            raise BenchError(f"{name}: no connection was good: {made.failed}\n{targets[name].up.process.last_words()}")
        agreed[name] += made.agreed
        failed.update({f"{name}: {what}": count for what, count in made.failed.items()})
        if counted:
            cpu[name].append(seconds / (made.good + sum(made.failed.values())) * 1e6)

    in_turns(pace.turns, list(targets), one)
    plain = _of(cpu, PLAIN)
    verdicts = []
    for what in KINDS:
        kind = Shaken(what, _of(cpu, what), _of(agreed, what), _of(cpu, f"{what}, bare"))
        verdicts += must.cheap_handshakes(kind, plain)
    wrong = [f"{count} x {what}" for what, count in failed.items()]
    verdicts.append(must.held("0 connections failed, none resumed a session", wrong))
    return Result("handshake", "", {"cpu_us": cpu, "agreed": agreed}, verdicts)


def _of(values: Mapping[str, Any], what: str) -> dict[str, Any]:
    return {name: values[f"{name}, {what}"] for name in BOTH}


def _targets(home: Home, pace: Pace, endpoints: tuple[int, ...]) -> dict[str, Target]:
    """Starts each of the two with each kind of key and without any; promises all that is measured."""
    shown = {kind: setting(home, kind, modern=False) for kind in ("ecdsa", "rsa")}
    found = {}
    for name in BOTH:
        plan = Plan(pace.connections, THREADS, PLAIN, NAME, ask=True)
        up = start_proxy(home.bench, name, f"{name}-plain", endpoints, home.sources, None, home.authority.file)
        found[f"{name}, {PLAIN}"] = Target(up, plan)
        ups = {
            kind: start_proxy(home.bench, name, f"{name}-{kind}", endpoints, home.sources, each, home.authority.file)
            for kind, each in shown.items()
        }
        for what, (kind, protocol) in KINDS.items():
            found[f"{name}, {what}"] = Target(ups[kind], plan._replace(protocol=protocol))
            found[f"{name}, {what}, bare"] = Target(ups[kind], plan._replace(protocol=protocol, ask=False))
    return found


def _made(home: Home, target: Target) -> Made:
    script = [sys.executable, str(HERE / "tls_handshakes.py"), str(target.up.peer.port)]
    command = [*home.pins.load, *script, json.dumps(target.plan._asdict())]
    code, text = home.fleet.run("handshakes", command, timeout=target.plan.count / 20 + MOST)
    if code:
        raise BenchError(f"the client that makes handshakes ended with code {code}: {text[-500:]}")
    return Made(**json.loads(text))
