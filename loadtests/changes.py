"""The router while everything about it changes, on loopback: what clients see of it.

    python loadtests/changes.py --help

This file is the command; what is changed and what must hold stands in change_scenarios.py and change_limits.py.
Exit code: 0 all held, 1 a
row was missed or something went wrong while measuring, 2 a wrong option.
"""

import argparse
import contextlib
import json
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from bench_machine import machine, machine_line, raise_file_limit
from bench_peers import ROOT
from bench_procs import BenchError, Pinning, available_pinning, workbench
from change_house import FULL, QUICK, Site
from change_report import Result, report
from change_scenarios import SCENARIOS, Scenario, play


def names() -> list[str]:
    return [scenario.name for scenario in SCENARIOS]


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="changes.py", description=(__doc__ or "").splitlines()[0])
    made.add_argument(
        "--only", choices=names(), nargs="+", action="extend", metavar="NAME", help=f"some of {', '.join(names())}"
    )
    made.add_argument("--quick", action="store_true", help="short times and few changes")
    made.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    made.add_argument(
        "--router",
        default=str(ROOT / ".venv" / "bin" / "router"),
        metavar="CMD",
        help="the router's command; its subcommands are put after it (default .venv/bin/router)",
    )
    return made


def play_one(args: argparse.Namespace, pins: Pinning, scenario: Scenario) -> Result:
    """Plays a scenario with processes and a folder of its own.

    Raises:
        BenchError: see `play`.
    """
    print(f"{scenario.name} ...", file=sys.stderr, flush=True)
    with workbench() as fleet, contextlib.closing(Site(fleet, pins, args.router)) as site:
        return play(site, QUICK if args.quick else FULL, scenario)


def main(argv: Sequence[str] | None = None) -> int:
    """Promises the exit code; ends all that it started in every path."""
    args = parser().parse_args(argv)
    for each in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, lambda number, _frame: sys.exit(128 + number))
    raise_file_limit()
    pins, results, failed = available_pinning(), [], []
    try:
        for scenario in SCENARIOS:
            if scenario.name in (args.only or names()):
                try:
                    results.append(play_one(args, pins, scenario))
                except BenchError as error:
                    # What the others come to is worth knowing all the same.
                    failed.append(f"{scenario.name}: {error}")
    except KeyboardInterrupt:
        failed.append("interrupted")
    return told(args, results, pins, failed)


def told(args: argparse.Namespace, results: list[Result], pins: Pinning, failed: Sequence[str] = ()) -> int:
    """Prints and writes all figures, also those before something went wrong; promises the exit code."""
    held = not failed and all(verdict.held for each in results for verdict in each.verdicts)
    print(f"\n{report(results)}\n\n{machine_line()}\n{pins.note}")
    for each in failed:
        print(each, file=sys.stderr)
    if args.json:
        figures = [{**each._asdict(), "verdicts": [v._asdict() for v in each.verdicts]} for each in results]
        facts = {"machine": machine(), "pinning": pins.note, "quick": args.quick, "held": held, "failed": list(failed)}
        args.json.write_text(json.dumps({**facts, "results": figures}, indent=2) + "\n")
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
