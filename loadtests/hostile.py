"""The router under hostile clients, on loopback: its memory, and what ordinary requests feel of them.

    python loadtests/hostile.py --help

This file says what is done to the router and what came of it; the clients stand in hostile_peers.py, each kind in a
process of its own. Exit code: 0 all well, 1 an error while measuring, 2 a wrong option.
"""

import argparse
import json
import math
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from bench_machine import machine, machine_line, raise_file_limit
from bench_peers import ROOT
from bench_procs import (
    BenchError,
    Fleet,
    Pinning,
    Running,
    available_pinning,
    free_ports,
    wait_until_serving,
    workbench,
)
from bench_report import number, table
from bench_usage import cpu_seconds, rss_bytes, usage

PEERS = Path(__file__).resolve().parent / "hostile_peers.py"
MIB = 1 << 20
#: Seconds between two readings of the memory.
LOOK = 0.05


class Scenario(NamedTuple):
    """What is done: `count` clients of one kind, each with `size` bytes. No clients: the baseline."""

    name: str
    text: str
    kind: str = ""
    count: int = 0
    size: int = 0
    #: Whether they come by the listener with a short header timeout.
    strict: bool = False


SCENARIOS = (
    Scenario("baseline", "nobody else"),
    Scenario("drip", "{count} clients that drip a header, a byte per half second", "drip", 1000, 0, strict=True),
    Scenario("uploads", "{count} uploads of {mib:g} MiB, 2 KiB/s", "upload", 300, MIB),
    Scenario("readers", "{count} readers of {mib:g} MiB, 8 KiB/s", "reader", 100, 10 * MIB),
    Scenario("idle", "{count} idle connections", "idle", 3000),
    Scenario("pipeline", "{mib:g} MiB of pipelined requests, answers never read", "pipeline", 1, 4 * MIB),
    Scenario("up", "{mib:g} MiB up", "up", 1, 1024 * MIB),
    Scenario("down", "{mib:g} MiB down", "down", 1, 1024 * MIB),
)
TRANSFERS = ("up", "down")
#: Seconds that a transfer may take, and any other part.
MOST = 120
#: What `--quick` divides: clients, or the bytes of a single one.
QUICK = 10


class Pace(NamedTuple):
    """Seconds: of ordinary requests before, of them under the hostile clients, until memory is read again, and the
    header timeout of the strict listener."""

    before: float
    during: float
    settle: float
    header: float


FULL, BRIEF = Pace(5, 8, 2, 2), Pace(0.3, 0.6, 0.2, 0.3)


class Result(NamedTuple):
    """What one scenario came to. Memory in MiB, times in milliseconds, `cpu` as the share of one core."""

    name: str
    text: str
    rss_before: float
    rss_max: float
    rss_after: float
    p50_before: float
    p50_during: float
    p99_before: float
    p99_during: float
    p99_whole_before: float
    p99_whole_during: float
    requests: int
    cpu: float
    moved_mib: float
    seconds: float
    ends: dict[str, int]
    faults: list[str]

    @property
    def ratio(self) -> float:
        return self.p99_during / self.p99_before if self.p99_before > 0 else math.nan


class House:
    """The router and the endpoints behind it, as processes."""

    def __init__(self, fleet: Fleet, pins: Pinning, command: str, pace: Pace) -> None:
        self.fleet, self.pins, self.pace = fleet, pins, pace
        endpoint, dumping, self.usual, self.strict = free_ports(4)
        file = fleet.folder / "hostile.toml"
        file.write_text(configuration(endpoint, dumping, self.usual, self.strict, pace.header))
        self.router = fleet.start("router", [*pins.proxy, *command.split(), "run", str(file)])
        self.endpoints = (self.peer("upstream", endpoint), self.peer("dumping", dumping))
        for port in (self.usual, self.strict):
            wait_until_serving(self.router, port, "/100", 100, 0)
        self.calm = self.told(self.peer("ordinary", self.usual, pace.before), pace.before + 30)
        self.look()

    def peer(self, kind: str, *words: object) -> Running:
        """Starts a process of hostile_peers.py and waits until it stands.

        Raises:
            BenchError: it does not within a minute.
        """
        command = [*self.pins.load, sys.executable, str(PEERS), kind, *map(str, words)]
        running = self.fleet.start(kind, command)
        deadline = time.monotonic() + 60
        while not running.output().startswith("ready"):
            if running.popen.poll() is not None or time.monotonic() > deadline:
                raise BenchError(f"{kind} did not start\n{running.last_words()}")
            self.look()
            time.sleep(0.01)
        return running

    #: What ordinary requests were like before any hostile client came.
    calm: dict[str, Any]
    #: The largest resident memory seen since it was last set to 0, in bytes.
    highest = 0

    def look(self) -> int:
        now = rss_bytes(self.router.session)
        self.highest = max(self.highest, now)
        return now

    def told(self, running: Running, seconds: float) -> dict[str, Any]:
        """Waits for the end of a peer, watching the router's memory, and reads what it says.

        Raises:
            BenchError: it did not end in time, or said nothing.
        """
        deadline = time.monotonic() + seconds
        while running.popen.poll() is None and time.monotonic() < deadline:
            self.look()
            time.sleep(LOOK)
        lines = running.output().strip().splitlines()
        if running.popen.poll() != 0 or not lines[-1].startswith("{"):
            raise BenchError(f"{running.name} did not end well\n{running.last_words()}")
        told: dict[str, Any] = json.loads(lines[-1])
        return told

    def close(self) -> None:
        self.fleet.end(self.router, *self.endpoints)


def configuration(endpoint: int, dumping: int, usual: int, strict: int, header: float) -> str:
    """Promises the defaults but for the header timeout of the second listener; hostile clients have an endpoint of
    their own, so that ordinary requests wait for nothing but the router."""
    return f"""[[listeners]]
bind = "127.0.0.1:{usual}"

[[listeners]]
bind = "127.0.0.1:{strict}"
timeouts = {{ header = "{header:g}s" }}

[[routes]]
host = "hostile"
pool = "dumping"

[[routes]]
pool = "web"

[[pools]]
name = "web"
endpoints = ["http://127.0.0.1:{endpoint}"]

[[pools]]
name = "dumping"
endpoints = ["http://127.0.0.1:{dumping}"]
"""


def reduced(scenario: Scenario) -> Scenario:
    """Promises a tenth of it."""
    if scenario.count > 1:
        return scenario._replace(count=scenario.count // QUICK)
    return scenario._replace(size=scenario.size // QUICK)


def play(house: House, scenario: Scenario) -> Result:
    """Promises what one scenario came to.

    Raises:
        BenchError: the router ended, or a peer did not do its part.
    """
    pace = house.pace
    house.highest = 0
    before, rss_before = house.calm, house.look()
    port = house.strict if scenario.strict else house.usual
    spent, begun = usage(house.router.session), time.monotonic()
    told: dict[str, Any] = {"ends": {}, "faults": {}, "mib": 0.0, "seconds": 0.0}
    if not scenario.kind:
        during = house.told(house.peer("ordinary", house.usual, pace.during), MOST)
    elif scenario.kind in TRANSFERS:
        # They begin at once and end when they are done, so those who are timed come first.
        ordinary = house.peer("ordinary", house.usual, MOST)
        told = house.told(house.peer(scenario.kind, port, scenario.count, scenario.size, MOST), MOST + 30)
        ordinary.popen.send_signal(signal.SIGTERM)
        during = house.told(ordinary, MOST)
    else:
        hostile = house.peer(scenario.kind, port, scenario.count, scenario.size, MOST)
        during = house.told(house.peer("ordinary", house.usual, pace.during), MOST)
        # Only now: that many connections ending at once is another matter.
        hostile.popen.send_signal(signal.SIGTERM)
        told = house.told(hostile, MOST)
    cpu = cpu_seconds(spent, usage(house.router.session)) / (time.monotonic() - begun)
    time.sleep(pace.settle)
    faults = [*before["faults"], *during["faults"], *(f"{count} x {what}" for what, count in told["faults"].items())]
    if house.router.popen.poll() is not None:
        raise BenchError(f"the router ended\n{house.router.last_words()}")
    return Result(
        scenario.name,
        scenario.text.format(count=scenario.count, mib=round(scenario.size / MIB, 1)),
        rss_before / MIB,
        house.highest / MIB,
        house.look() / MIB,
        before["p50_ms"],
        during["p50_ms"],
        before["p99_ms"],
        during["p99_ms"],
        before["p99_whole_ms"],
        during["p99_whole_ms"],
        during["count"],
        cpu,
        told["mib"],
        told["seconds"],
        told["ends"],
        faults,
    )


def cut_with(ends: Mapping[str, int]) -> str:
    """Promises how hostile clients ended, most frequent first."""
    return ", ".join(f"{what}: {ends[what]}" for what in sorted(ends, key=lambda each: -ends[each])) or "-"


def report(results: Sequence[Result], pace: Pace) -> str:
    heads = ["scenario", "RSS before", "max", "after", "p50 before", "during", "p99 before", "during", "ratio", "CPU"]
    rows = []
    for result in results:
        memory = (result.rss_before, result.rss_max, result.rss_after)
        times = (result.p50_before, result.p50_during, result.p99_before, result.p99_during, result.ratio)
        cells = [*(number(each, 1) for each in memory), *(number(each, 2) for each in times), f"{result.cpu:.0%}"]
        rows.append([result.name, *cells, cut_with(result.ends)])
    lines = [table([*heads, "ends"], rows), ""]
    lines += [f"{result.name}: {result.text}{_speed(result)}" for result in results]
    lines.append("memory in MiB; times of ordinary requests in ms, p99 as the median of the p99 of each second")
    lines.append("CPU: of the router, as share of a core, from the first hostile client to the last")
    lines.append(f"router: defaults, but for the listener of the dripping clients: timeouts.header = {pace.header:g}s")
    return "\n".join(lines)


def _speed(result: Result) -> str:
    if result.name == "pipeline":
        return f", {result.moved_mib:.1f} MiB of it sent"
    if result.name not in TRANSFERS or result.seconds <= 0:
        return ""
    return f" in {result.seconds:.1f} s, {result.moved_mib / result.seconds:.0f} MiB/s"


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="hostile.py", description=(__doc__ or "").splitlines()[0])
    names = [scenario.name for scenario in SCENARIOS]
    made.add_argument(
        "--only", choices=names, action="append", metavar="NAME", help=f"one of {', '.join(names)}; again"
    )
    made.add_argument("--quick", action="store_true", help="a tenth of the numbers, seconds, one router for all")
    made.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    made.add_argument(
        "--router",
        default=str(ROOT / ".venv" / "bin" / "router"),
        metavar="CMD",
        help="the router's command; `run FILE` is put after it (default .venv/bin/router)",
    )
    return made


def play_all(args: argparse.Namespace, fleet: Fleet, pins: Pinning) -> list[Result]:
    """Plays the scenarios asked for; a fresh router for each, since memory that was used is used again.

    Raises:
        BenchError: see `play`.
    """
    wanted = [scenario for scenario in SCENARIOS if not args.only or scenario.name in args.only]
    pace = BRIEF if args.quick else FULL
    results: list[Result] = []
    house = None
    for scenario in wanted:
        print(f"{scenario.name} ...", file=sys.stderr, flush=True)
        if house is None:
            house = House(fleet, pins, args.router, pace)
        results.append(play(house, reduced(scenario) if args.quick else scenario))
        if not args.quick:
            house.close()
            house = None
    return results


def _stop(signum: int, _frame: object) -> NoReturn:
    raise SystemExit(128 + signum)


def main(argv: Sequence[str] | None = None) -> int:
    """Promises the exit code; ends all that it started in every path."""
    args = parser().parse_args(argv)
    for each in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, _stop)
    raise_file_limit()
    pins = available_pinning()
    try:
        with workbench() as fleet:
            results = play_all(args, fleet, pins)
    except BenchError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    print(f"\n{report(results, BRIEF if args.quick else FULL)}\n{machine_line()}\n{pins.note}")
    faults = [f"{result.name}: {fault}" for result in results for fault in result.faults]
    for fault in dict.fromkeys(faults):
        print(f"error: {fault}")
    if args.json:
        figures = [{**result._asdict(), "p99_ratio": result.ratio} for result in results]
        figures = [{k: None if v != v else v for k, v in each.items()} for each in figures]
        whole = {"machine": machine(), "pinning": pins.note, "quick": args.quick, "results": figures}
        args.json.write_text(json.dumps(whole, indent=2) + "\n")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
