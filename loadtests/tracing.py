"""The router's tracing on loopback: what it costs, and whether every span arrives while collectors come, hang and go.

    python loadtests/tracing.py --help

This file is the command; what is done and what must hold stands in the modules that it names. Exit code: 0 all held,
1 a row was missed or something went wrong while measuring, 2 a wrong option.
"""

import argparse
import contextlib
import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple

import bench_main
from bench_main import Result
from bench_procs import Pinning, workbench
from tracing_collector import play_collector
from tracing_cost import play_cost
from tracing_house import FULL, QUICK, Den, Pace
from tracing_loss import play_loss
from tracing_peers import play_rotel, play_tree


class Row(NamedTuple):
    """One row of the table."""

    name: str
    text: str
    play: Callable[[Den, Pace], Result]


ROWS = (
    Row("cost", "CPU per request, beside a router without tracing", play_cost),
    Row("collector", "the collector hangs under load and comes back", play_collector),
    Row("loss", "the router ends, is upgraded, and outlives a pause of its collector", play_loss),
    Row("rotel", "what a receiver written by others understands", play_rotel),
    Row("tree", "two routers in a row and a traced server", play_tree),
)


def play(args: argparse.Namespace, pins: Pinning, row: Row) -> Result:
    """Plays a row with processes and a folder of its own.

    Raises:
        BenchError: something did not do its part.
    """
    with workbench() as fleet, contextlib.closing(Den(fleet, pins, args.router)) as den:
        return row.play(den, QUICK if args.quick else FULL)._replace(name=row.name, text=row.text)


def main(argv: Sequence[str] | None = None) -> int:
    """Promises the exit code; ends all that it started in every path."""
    few = "few rounds and requests, and a collector that hangs for seconds"
    return bench_main.run(bench_main.parser("tracing.py", __doc__ or "", ROWS, few).parse_args(argv), ROWS, play)


if __name__ == "__main__":
    sys.exit(main())
