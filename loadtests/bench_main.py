"""The frame of a bench whose rows are played one by one: its command line, its table, what it writes, its exit code.

What is done in a row, and what must then hold, stands with the rows. A row that cannot be played does not keep the
others from it.
"""

import argparse
import json
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from bench_machine import machine, machine_line, raise_file_limit
from bench_peers import ROOT
from bench_procs import BenchError, Pinning, available_pinning
from bench_report import table
from fault_report import Verdict


class Result(NamedTuple):
    """What one row came to; `figures` are for the file of --json."""

    name: str
    text: str
    figures: dict[str, Any]
    verdicts: list[Verdict]


class Row(Protocol):
    """One row of the table; no more is asked of it here."""

    @property
    def name(self) -> str: ...


#: Plays a row, with processes and a folder of its own; raises BenchError if something did not do its part.
Play = Callable[[argparse.Namespace, Pinning, Any], Result]


def parser(file: str, doc: str, rows: Sequence[Row], quick: str) -> argparse.ArgumentParser:
    """Promises the options that every such bench has; the caller may add some.

    Args:
        file: name of the script.
        doc: its docstring, whose first line is shown.
        quick: what --quick makes little of.
    """
    names = [row.name for row in rows]
    made = argparse.ArgumentParser(prog=file, description=doc.splitlines()[0])
    made.add_argument(
        "--only", choices=names, nargs="+", action="extend", metavar="NAME", help=f"some of {', '.join(names)}"
    )
    made.add_argument("--quick", action="store_true", help=quick)
    made.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    made.add_argument(
        "--router",
        default=str(ROOT / ".venv" / "bin" / "router"),
        metavar="CMD",
        help="the router's command; its subcommands are put after it (default .venv/bin/router)",
    )
    return made


def run(args: argparse.Namespace, rows: Sequence[Row], play: Play) -> int:
    """Plays the rows asked for and tells what they came to; promises the exit code."""
    for each in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, lambda number, _frame: sys.exit(128 + number))
    raise_file_limit()
    pins, results, failed = available_pinning(), [], []
    try:
        for row in rows:
            if row.name in (args.only or [row.name]):
                print(f"{row.name} ...", file=sys.stderr, flush=True)
                try:
                    results.append(play(args, pins, row))
                except BenchError as error:
                    # What the others come to is worth knowing all the same.
                    failed.append(f"{row.name}: {error}")
    except KeyboardInterrupt:
        failed.append("interrupted")
    return told(args, results, pins.note, failed)


def told(args: argparse.Namespace, results: Sequence[Result], note: str, failed: Sequence[str] = ()) -> int:
    """Prints and writes all figures, also those before something went wrong; promises the exit code."""
    held = not failed and all(verdict.held for each in results for verdict in each.verdicts)
    print(f"\n{report(results)}\n\n{machine_line()}\n{note}")
    for each in failed:
        print(each, file=sys.stderr)
    if args.json:
        figures = [{**each._asdict(), "verdicts": [v._asdict() for v in each.verdicts]} for each in results]
        facts = {"machine": machine(), "pinning": note, "quick": args.quick, "held": held, "failed": list(failed)}
        args.json.write_text(json.dumps({**facts, "results": figures}, indent=2) + "\n")
    return 0 if held else 1


def report(results: Sequence[Result]) -> str:
    """Promises the table, and what had to hold and did or did not."""
    lines = [table(["row", "all held"], [[each.name, _sum(each.verdicts)] for each in results])]
    for each in results:
        lines += ["", f"{each.name}: {each.text}"]
        lines += [f"    {'ok    ' if v.held else 'MISSED'} {v.must}: {v.measured}" for v in each.verdicts]
    return "\n".join(lines)


def _sum(verdicts: Sequence[Verdict]) -> str:
    missed = sum(not verdict.held for verdict in verdicts)
    return f"{missed} of {len(verdicts)} MISSED" if missed else f"ok ({len(verdicts)})"
