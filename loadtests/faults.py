"""The router before servers that fail, on loopback: what clients see of it, and how soon it is out and back.

    python loadtests/faults.py --help

This file is the command; what is broken and what must hold stands in fault_scenarios.py. Exit code: 0 all held, 1 a row
was missed or something went wrong while measuring, 2 a wrong option.
"""

import argparse
import contextlib
import json
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

import fault_cost
from bench_machine import machine, machine_line, raise_file_limit
from bench_peers import ROOT
from bench_procs import BenchError, Pinning, available_pinning, workbench
from fault_house import FULL, QUICK, Pace
from fault_report import Result, report, whole
from fault_scenarios import SINKHOLE, SINKHOLES, STOPS, Bench, play, play_end, play_sinkholes, scenarios

#: Non-idempotent requests that the full form sends at least.
POSTS = 10_000


#: What `--quick` plays.
BRIEF = (*(scenario.name for scenario in scenarios() if scenario.brief), "end", f"{SINKHOLE}-503")


def names() -> list[str]:
    return [*(scenario.name for scenario in scenarios()), *STOPS, *(f"{SINKHOLE}-{form}" for form in SINKHOLES)]


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="faults.py", description=(__doc__ or "").splitlines()[0])
    made.add_argument(
        "--only", choices=names(), nargs="+", action="extend", metavar="NAME", help=f"some of {', '.join(names())}"
    )
    made.add_argument("--quick", action="store_true", help="short times and fewer scenarios")
    made.add_argument("--without-probe", action="store_true", help="leave the http probe out of the pools")
    made.add_argument("--cost", action="store_true", help="measure what probes and detectors cost, and nothing else")
    made.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    made.add_argument(
        "--router",
        default=str(ROOT / ".venv" / "bin" / "router"),
        metavar="CMD",
        help="the router's command; `run FILE` is put after it (default .venv/bin/router)",
    )
    return made


def selectors(command: str) -> list[str]:
    """Promises the names of the selectors that this router's own distribution brings.

    Raises:
        BenchError: the command does not tell.
    """
    try:
        told = subprocess.run([*shlex.split(command), "plugins", "--json"], capture_output=True, text=True, timeout=30)
        offers = json.loads(told.stdout)["plugins"]
    except (OSError, ValueError, KeyError, subprocess.TimeoutExpired) as error:
        raise BenchError(f"{command} does not list its plugins: {error}") from error
    bundled = [each for each in offers if each["kind"] == "selection" and each["distribution"] == "edge-router"]
    return [each["name"] for each in bundled]


def play_all(args: argparse.Namespace, pins: Pinning, pace: Pace) -> Iterator[Result]:
    """Plays what is asked for, each scenario with processes and a folder of its own.

    Raises:
        BenchError: see `play`.
    """
    every = scenarios(float(pace.interval.removesuffix("ms")) / 1000)
    wanted = args.only or [name for name in names() if not args.quick or name in BRIEF]

    @contextlib.contextmanager
    def bench(name: str) -> Iterator[Bench]:
        print(f"{name} ...", file=sys.stderr, flush=True)
        with workbench() as fleet:
            yield Bench(fleet, pins, args.router, pace, not args.without_probe)

    for scenario in every:
        if scenario.name in wanted:
            with bench(scenario.name) as made:
                yield play(made, scenario)
    for name in STOPS:
        if name in wanted:
            with bench(name) as made:
                yield play_end(made, name)
    for form in SINKHOLES:
        if f"{SINKHOLE}-{form}" in wanted:
            with bench(f"{SINKHOLE}-{form}") as made:
                yield from play_sinkholes(made, form, selectors(args.router))


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
        if args.cost:
            with workbench() as fleet:
                return fault_cost.measure(fleet, pins, args.router, quick=args.quick, file=args.json)
        return told(args, list(play_all(args, pins, QUICK if args.quick else FULL)), pins)
    except BenchError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def told(args: argparse.Namespace, results: list[Result], pins: Pinning) -> int:
    """Prints and writes all figures; promises the exit code."""
    total = whole(results, 0 if args.quick or args.only else POSTS)
    held = total.held and all(verdict.held for each in results for verdict in each.verdicts)
    print(f"\n{report(results)}\n\n{'ok    ' if total.held else 'MISSED'} {total.must}: {total.measured}")
    print(f"{machine_line()}\n{pins.note}")
    if args.json:
        figures = [{**each._asdict(), "verdicts": [v._asdict() for v in each.verdicts]} for each in results]
        facts = {"machine": machine(), "pinning": pins.note, "quick": args.quick, "held": held}
        args.json.write_text(json.dumps({**facts, "total": total._asdict(), "results": figures}, indent=2) + "\n")
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
