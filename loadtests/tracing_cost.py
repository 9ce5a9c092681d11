"""What tracing costs the router: CPU per request beside a router that differs in nothing else.

wrk sends, nginx plays the servers. All routers are loaded at the same time and share one core, a few milliseconds each:
so whatever else the machine does befalls all alike, which in turns of a second it does not (single turns are off by a
third, these by a hundredth). CPU is measured from the end of one round to the end of the next, so that what is sent to
the receiver later counts too.

Two processes of the very same router differ by some percent for as long as they live, by where their memory happens to
lie. So all are started anew for each of several sittings; and there are two without tracing: the others are held
against what both take, and how far they are apart tells what is left of that.
"""

import json
import subprocess
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import bench_rounds
import bench_wrk as wrk
import tracing_report as must
from bench_main import Result
from bench_peers import Peer
from bench_procs import BenchError, free_ports
from bench_rounds import Bench, Load, Up, rotated
from bench_usage import cpu_seconds, usage
from change_configs import POOL, configuration, listener, pool, route
from fault_client import HOST
from fault_house import PATIENCE
from fault_servers import HEALTH
from tracing_house import Collector, Den, Pace, observer
from tracing_report import Figure

#: Clients of each router, each with one connection; seconds of a round; how often all routers are started.
CLIENTS, SECONDS, SITTINGS = 64, 4, 5
#: More spans than an exporter sends at once.
BATCH = 600
PATH = "/?page=2&sort=price"
AGENT = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"
ABSENT, AGAIN = "absent", "absent again"
SAMPLED, KEPT, ALWAYS = "ratio 0.01", "ratio 0.01 with keep", "100 %"
#: What must hold of each, beside the router without tracing.
FIGURES = {
    SAMPLED: Figure(SAMPLED, 1.08, 1.04),
    KEPT: Figure(KEPT, 1.12, 1.06),
    ALWAYS: Figure(f"{ALWAYS} into a live receiver", 4.0, 2.5),
}
_RULES = 'keep = ["errors", "retried", "slower:500ms"]'
_OPTIONS = {SAMPLED: (str(must.RATIO), ()), KEPT: (str(must.RATIO), (_RULES,)), ALWAYS: ('"always"', ())}


class Target(NamedTuple):
    """A router, and what receives its spans."""

    up: Up
    collector: Collector | None


class Tally(NamedTuple):
    """What all sittings came to: µs per request of each turn; and requests, spans and words about lost ones in all."""

    cpu: dict[str, list[float]]
    requests: Counter[str]
    spans: Counter[str]
    log: list[str]


def play_cost(den: Den, pace: Pace) -> Result:
    bench_rounds.need("wrk", "wrk")
    ports, script = nginx(den), _script(den.folder)
    tally = Tally({name: [] for name in (ABSENT, AGAIN, *FIGURES)}, Counter(), Counter(), [])
    sittings = min(SITTINGS, pace.turns // 3)
    for sitting in range(sittings):
        targets = {name: _start(den, name, ports, sitting) for name in tally.cpu}
        _sit(targets, den, pace.turns // sittings, script, tally)
        for target in targets.values():
            den.fleet.end(target.up.process)
            if target.collector is not None:
                target.collector.end()
    cpu, requests, spans = tally.cpu, tally.requests, tally.spans
    without = [(one + other) / 2 for one, other in zip(cpu[ABSENT], cpu[AGAIN], strict=True)]
    verdicts = [must.cheap(figure, cpu[name], without) for name, figure in FIGURES.items()]
    verdicts.append(must.off_by(cpu[AGAIN], cpu[ABSENT]))
    verdicts += [must.drawn(name, requests[name], spans[name]) for name in (SAMPLED, KEPT)]
    verdicts.append(must.complete(ALWAYS, requests[ALWAYS], spans[ALWAYS], tally.log))
    return Result("cost", "", {"cpu_us": cpu, "requests": requests, "spans": spans}, verdicts)


def _sit(targets: dict[str, Target], den: Den, turns: int, script: str, tally: Tally) -> None:
    """Starts with a round that is not counted."""
    requests: Counter[str] = Counter()
    last = {name: usage(target.up.process.session) for name, target in targets.items()}
    for turn in range(turns + 1):
        bench_rounds.say(f"round {turn} of {turns}" if turn else "warm-up")
        made = at_once(den, {name: target.up.peer.port for name, target in targets.items()}, turn, script)
        requests.update(made)
        collector = targets[ALWAYS].collector
        assert collector is not None
        # What still has to be sent would fall into the next round. Less than a batch waits for some seconds.
        collector.settled(2 * requests[ALWAYS] - BATCH)
        for name, target in targets.items():
            now = usage(target.up.process.session)
            if turn:
                tally.cpu[name].append(cpu_seconds(last[name], now) / made[name] * 1e6)
            last[name] = now

    tally.requests.update(requests)
    collectors = {name: each.collector for name, each in targets.items() if each.collector}
    # Nobody else has anything left to send then.
    collectors[ALWAYS].settled()
    tally.spans.update({name: collector.told().spans for name, collector in collectors.items()})
    tally.log.extend(targets[ALWAYS].up.process.output().splitlines())


def nginx(den: Den) -> tuple[int, ...]:
    """Promises the ports of servers that cost little, and that are in good health."""
    ports = bench_rounds.start_backends(Bench(den.fleet, den.pins), Load("/", CLIENTS, SECONDS, 1, 0))
    (den.folder / "pages" / HEALTH[1:]).write_text("ok")
    return ports


def members(ports: tuple[int, ...]) -> str:
    return f"endpoints = {json.dumps([f'http://{HOST}:{port}' for port in ports])}"


def loaded(den: Den, port: int, seconds: int, script: str = "") -> int:
    """Promises the number of requests that wrk made.

    Raises:
        BenchError: some of them were not answered well.
    """
    _, text = den.fleet.run("wrk", _asking(den, port, seconds, script), timeout=seconds + PATIENCE)
    return requests_of(text)


def at_once(den: Den, ports: dict[str, int], turn: int, script: str) -> Counter[str]:
    """Loads several routers at the same time; promises the number of requests of each.

    Args:
        ports: by name. turn: another one begins another time.

    Raises:
        BenchError: as `loaded`.
    """
    deadline = time.monotonic() + SECONDS + PATIENCE
    # Who is first has the core for itself for a moment.
    order = rotated(list(ports), turn)
    running = {name: den.fleet.start("wrk", _asking(den, ports[name], SECONDS, script)) for name in order}
    try:
        for each in running.values():
            each.popen.wait(max(0.0, deadline - time.monotonic()))
        return Counter({name: requests_of(each.output()) for name, each in running.items()})
    except subprocess.TimeoutExpired:
        raise BenchError("wrk does not end") from None
    finally:
        den.fleet.end(*running.values())


def _asking(den: Den, port: int, seconds: int, script: str) -> list[str]:
    return [*den.pins.load, *wrk.command(f"http://{HOST}:{port}{PATH}", CLIENTS, seconds, script)]


def requests_of(text: str) -> int:
    """Promises the number of requests that a report of wrk tells of.

    Raises:
        BenchError: it is none, or tells of errors.
    """
    try:
        report = wrk.parse(text)
    except ValueError as error:
        raise BenchError(str(error)) from error
    if report.errors or not report.requests:
        raise BenchError("; ".join(report.errors) or "no request was answered")
    return report.requests


def _script(folder: Path) -> str:
    file = folder / "head.lua"
    file.write_text(f'wrk.headers["User-Agent"] = "{AGENT}"\nwrk.headers["Accept"] = "*/*"\n')
    return str(file)


def _start(den: Den, name: str, ports: tuple[int, ...], sitting: int) -> Target:
    """Starts one of several routers that differ in nothing but whether and how they are traced."""
    label = f"{name.replace(' ', '-').replace('%', 'percent')}-{sitting}"
    collector = den.collector(f"receiver-{label}", keep=False) if name in _OPTIONS else None
    port, more = free_ports(1)[0], ""
    if collector:
        sampling, lines = _OPTIONS[name]
        more = observer(collector.endpoint, *lines, sampling=sampling)
    text = "\n".join((more, listener(port), route("all", f'pool = "{POOL}"'), pool(POOL, members(ports))))
    process = den.beside(label, text, port)
    return Target(Up(Peer(name, (), (), {}, {}, port), process), collector)


def behind(den: Den, ports: tuple[int, ...], more: str) -> str:
    """Promises the house's usual configuration in front of these servers."""
    return configuration(den, den.step, members(ports), more=more)
