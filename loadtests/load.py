"""A load test: visitors of a shop, three servers of different weight, and the router before them.

    python loadtests/load.py --help

This file is the command; it runs locust without its page for a bounded time and says whether shares, sessions and
errors are as they must be. Exit code: 0 all held, 1 something did not or could not be done, 2 a wrong option.
"""

import argparse
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlsplit

from bench_machine import machine_line, raise_file_limit
from bench_peers import ROOT
from bench_procs import BenchError, free_ports, workbench
from fault_report import Verdict
from load_house import DEFAULT_VENV, SHOP, House, Plan, Target, configuration, prepared, visited
from load_options import latency, number, share
from load_report import Limits, judge, judge_traces, page, told
from load_traces import drawn, judged, richest

WEIGHTS = {"one": 3, "two": 1, "three": 1}
#: Traces are received, and judged, here.
OWN = True


def weights(text: str) -> dict[str, int]:
    """Reads "one=3,two=1", for argparse."""
    pairs = [pair.partition("=") for pair in text.split(",")]
    read = number(1, 1000)
    names = {name.strip() for name, _, _ in pairs}
    if len(names) < len(pairs) or not all(name.isidentifier() for name in names):
        raise argparse.ArgumentTypeError(f"{text!r} is nothing such as one=3,two=1")
    return {name.strip(): read(weight.strip()) for name, _, weight in pairs}


def url(example: str) -> Callable[[str], str]:
    """Promises a reader of URLs with as much of a path as the example has, for argparse."""
    wanted = urlsplit(example).path

    def read(text: str) -> str:
        try:
            parts = urlsplit(text)
            good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
            good = good and bool(wanted) == bool(parts.path.strip("/")) and not parts.query and text.isprintable()
        except ValueError:
            good = False
        if not good or '"' in text:
            raise argparse.ArgumentTypeError(f"{text!r} is no URL such as {example}")
        return text

    return read


def written(reader: Callable[[str], object]) -> Callable[[str], str]:
    """Promises a reader that refuses what `reader` does and keeps the rest as it was written."""

    def read(text: str) -> str:
        reader(text)
        return text

    return read


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="load.py", description=(__doc__ or "").splitlines()[0])
    made.add_argument("--users", type=number(1, 5000), metavar="N", help="at once (default 30)")
    made.add_argument("--rate", type=number(1, 1000), metavar="N", help="users that come per second (default 15)")
    made.add_argument("--seconds", type=number(1, 3600), metavar="N", help="of load (default 30)")
    made.add_argument("--quick", action="store_true", help="8 seconds, and all users come within one")
    made.add_argument("--errors", type=share, default=0.01, metavar="SHARE", help="allowed errors (default 1%%)")
    made.add_argument("--tolerance", type=share, default=0.03, metavar="SHARE", help="allowed of shares (default 3%%)")
    made.add_argument(
        "--weights", type=weights, metavar="NAME=N,…", help="of the servers (default one=3,two=1,three=1)"
    )
    made.add_argument("--selection", default="round_robin", metavar="NAME", help="of the router (default round_robin)")
    made.add_argument(
        "--latency", type=written(latency), default="lognormal:10ms,0.5", metavar="FORM", help="of the servers"
    )
    made.add_argument(
        "--server-errors", type=written(share), default="0.5%", metavar="SHARE", help="of the servers (default 0.5%%)"
    )
    made.add_argument(
        "--trace",
        nargs="?",
        const=OWN,
        type=url("http://127.0.0.1:4318/v1/traces"),
        metavar="URL",
        help="follow requests from locust through the router to a server; with a URL, leave the spans to that receiver",
    )
    made.add_argument("--trace-ratio", type=share, default=1.0, metavar="SHARE", help="of requests (default 100%%)")
    made.add_argument(
        "--url",
        type=url("http://127.0.0.1:8080"),
        help="load a router that runs already, such as the demo's, and start none",
    )
    made.add_argument("--report", type=Path, default=Path("load-report"), metavar="DIR", help="default ./load-report")
    made.add_argument("--router", default=str(ROOT / ".venv" / "bin" / "router"), metavar="CMD", help="its command")
    venv = Path(os.environ.get("ROUTER_LOAD_VENV", DEFAULT_VENV))
    made.add_argument("--load-venv", type=Path, default=venv, metavar="DIR", help=f"of locust (default {DEFAULT_VENV})")
    made.add_argument("--no-install", action="store_true", help="fail if --load-venv is not there")
    return made


def plan_of(args: argparse.Namespace) -> Plan:
    """Promises how much load this call is about."""
    users = args.users or 30
    rate = args.rate or (users if args.quick else 15)
    return Plan(users, rate, args.seconds or (8 if args.quick else 30), args.report)


def built(args: argparse.Namespace, house: House) -> Target:
    """Starts what is asked for; promises what is to be loaded."""
    if args.trace is OWN:
        house.start_receiver()
    elif args.trace:
        house.endpoint = args.trace
    if args.url:
        return visited(args.url, args.weights or {})
    heavy = args.weights or WEIGHTS
    ports = house.start_servers(heavy, args.latency, args.server_errors)
    port = free_ports(1)[0]
    text = configuration(port, ports, heavy, args.selection, house.endpoint)
    return Target(house.start_router(args.router, text, port), SHOP, heavy)


def traced(house: House, servers: Sequence[str]) -> Verdict:
    """Promises whether traces are whole; prints one that is."""
    spans, dropped = house.spans()
    traces = judged(spans, servers)
    if traces.whole:
        print(f"\n{drawn(richest(traces.whole))}")
    return judge_traces(traces, dropped)


def measured(args: argparse.Namespace) -> int:
    """Loads the router and tells what came of it; promises the exit code."""
    plan, limits = plan_of(args), Limits(args.errors, args.tolerance)
    python = prepared(args.load_venv.expanduser(), not args.no_install)
    with workbench() as fleet:
        house = House(fleet, python)
        target = built(args, house)
        print(f"{plan.users} users for {plan.seconds} s at {target.url} ...", file=sys.stderr, flush=True)
        found = house.load(target, plan, args.trace_ratio)
        verdicts = judge(found, target.weights, limits, "Cart" in target.users)
        code, complaint = house.end_router()
        if not args.url:
            must = "the router ends with exit code 0, without an error in its log"
            verdicts.append(Verdict(must, complaint or f"exit code {code}", code == 0 and not complaint))
        if args.trace is OWN:
            verdicts.append(traced(house, list(target.weights or found["servers"])))
    return concluded(found, target.weights, verdicts, plan.report)


def concluded(found: Mapping[str, Any], heavy: Mapping[str, int], verdicts: Sequence[Verdict], report: Path) -> int:
    """Prints all, and writes it into the report; promises the exit code."""
    text, file = f"{told(found, heavy, verdicts)}\n\n{machine_line()}", report / "report.html"
    file.write_text(page(file.read_text(), text))
    print(f"\n{text}\nreport: {file}")
    return 0 if all(verdict.held for verdict in verdicts) else 1


def _stop(signum: int, _frame: object) -> NoReturn:
    raise SystemExit(128 + signum)


def main(argv: Sequence[str] | None = None) -> int:
    """Promises the exit code; ends all that it started in every path."""
    args = parser().parse_args(argv)
    for each in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, _stop)
    raise_file_limit()
    try:
        return measured(args)
    except BenchError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
