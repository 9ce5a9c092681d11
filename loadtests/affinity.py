"""The router's affinities on loopback: who stays where while servers come and go, and what made-up cookies come to.

    python loadtests/affinity.py --help

This file is the command; what is done and what must hold stands in affinity_scenarios.py and affinity_cost.py. Exit
code: 0 all held, 1 a row was missed or something went wrong while measuring, 2 a wrong option.
"""

import argparse
import contextlib
import json
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from affinity_house import FULL, QUICK, Abode
from affinity_report import Result, report
from affinity_scenarios import ROWS, Row, play
from bench_machine import machine, machine_line, raise_file_limit
from bench_peers import ROOT
from bench_procs import BenchError, Pinning, available_pinning, workbench


def names() -> list[str]:
    return [row.name for row in ROWS]


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="affinity.py", description=(__doc__ or "").splitlines()[0])
    made.add_argument(
        "--only", choices=names(), nargs="+", action="extend", metavar="NAME", help=f"some of {', '.join(names())}"
    )
    made.add_argument("--quick", action="store_true", help="few visitors, ids, mutations and rounds")
    made.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    made.add_argument(
        "--router",
        default=str(ROOT / ".venv" / "bin" / "router"),
        metavar="CMD",
        help="the router's command; its subcommands are put after it (default .venv/bin/router)",
    )
    return made


def play_one(args: argparse.Namespace, pins: Pinning, row: Row) -> Result:
    """Plays a row with processes and a folder of its own.

    Raises:
        BenchError: see `play`.
    """
    print(f"{row.name} ...", file=sys.stderr, flush=True)
    with workbench() as fleet, contextlib.closing(Abode(fleet, pins, args.router)) as site:
        return play(site, QUICK if args.quick else FULL, row)


def main(argv: Sequence[str] | None = None) -> int:
    """Promises the exit code; ends all that it started in every path."""
    args = parser().parse_args(argv)
    for each in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, lambda number, _frame: sys.exit(128 + number))
    raise_file_limit()
    pins, results, failed = available_pinning(), [], []
    try:
        for row in ROWS:
            if row.name in (args.only or names()):
                try:
                    results.append(play_one(args, pins, row))
                except BenchError as error:
                    # What the others come to is worth knowing all the same.
                    failed.append(f"{row.name}: {error}")
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
