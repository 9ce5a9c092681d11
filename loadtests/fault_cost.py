"""What probes and detectors cost the router: CPU per request under load, and the share of a core without any.

Two routers stand side by side, one with an http probe and the default detectors, one with neither; wrk loads them in
turns, so that whatever else the machine does befalls both.
"""

import contextlib
import json
import shlex
import statistics
import time
from pathlib import Path

import bench_rounds
from bench_machine import machine, machine_line
from bench_peers import Peer
from bench_procs import BenchError, Fleet, Pinning, free_ports, wait_until_serving
from bench_report import number, table
from bench_rounds import Load, Up, run_rounds
from bench_usage import cpu_seconds, usage
from fault_house import House
from fault_report import Verdict
from fault_scenarios import pool
from fault_servers import HEALTH

#: The largest CPU per request with health checks, in parts of that without, and the largest share of a core.
RATIO, SHARE = 1.05, 0.1
WITHOUT, WITH = "without", "with"
#: Endpoints that are probed without traffic, and seconds between two probes of each.
MANY, INTERVAL = 1000, 2
PROBE = 'probe = { use = "http", path = "%s", interval = "2s" }'


def measure(fleet: Fleet, pins: Pinning, command: str, *, quick: bool, file: Path | None) -> int:
    """Measures both, prints and writes them; promises the exit code.

    Raises:
        BenchError: wrk or nginx is missing, or a router does not serve.
    """
    load = Load("/", 64, 2, 3, 0) if quick else Load("/", 64, 3, 15, 0)
    pairs = cpu_per_request(fleet, pins, command, load)
    ratio = statistics.median(one / other for other, one in pairs)
    least = min(one for _, one in pairs) / min(other for other, _ in pairs)
    share, probes = probing_share(fleet, pins, command, seconds=4 if quick else 20)
    said = verdicts(ratio, share, probes)
    print(table(["round", WITHOUT, WITH, "ratio"], [_row(str(n + 1), *pair) for n, pair in enumerate(pairs)]))
    print(f"CPU µs/request; 3 endpoints, 64 clients; ratio of the cheapest rounds {least:.3f}\n")
    for each in said:
        print(f"{'ok    ' if each.held else 'MISSED'} {each.must}: {each.measured}")
    print(f"{machine_line()}\n{pins.note}")
    if file:
        figures = {"ratio": ratio, "ratio_of_least": least, "pairs": pairs, "share": share, "probes_per_second": probes}
        file.write_text(json.dumps({"machine": machine(), "pinning": pins.note, **figures}, indent=2) + "\n")
    return 0 if all(each.held for each in said) else 1


def verdicts(ratio: float, share: float, probes: float) -> list[Verdict]:
    """Promises what must hold of the median ratio, the share of a core, and the probes per second that it bought."""
    expected = MANY / INTERVAL
    return [
        Verdict(f"CPU per request at most {RATIO:.2f} x", f"median of the rounds {ratio:.3f} x", ratio <= RATIO),
        Verdict(
            f"{MANY} endpoints probed every {INTERVAL} s take under {SHARE:.0%} of a core",
            f"{share:.1%}",
            share < SHARE,
        ),
        Verdict(f"about {expected:.0f} probes/s come", f"{probes:.0f}", 0.8 * expected < probes < 1.2 * expected),
    ]


def _row(name: str, other: float, one: float) -> list[str]:
    return [name, number(other, 1), number(one, 1), number(one / other, 3)]


def cpu_per_request(fleet: Fleet, pins: Pinning, command: str, load: Load) -> list[tuple[float, float]]:
    """Promises the CPU time per request in µs, without and with health checks, of each round."""
    bench_rounds.need("wrk", "wrk")
    bench = bench_rounds.Bench(fleet, pins)
    endpoints = [f"127.0.0.1:{port}" for port in bench_rounds.start_backends(bench, load)]
    # In nothing else do the two differ.
    settings = {WITHOUT: "detectors = []", WITH: PROBE % load.path}
    up = {}
    for name, lines in settings.items():
        port = free_ports(1)[0]
        listener = f'[[listeners]]\nbind = "127.0.0.1:{port}"\n[[routes]]\npool = "web"\n'
        config = fleet.folder / f"{name}.toml"
        config.write_text(listener + pool("web", endpoints, lines))
        line = (*shlex.split(command), "run", str(config))
        process = fleet.start(name, [*pins.proxy, *line])
        wait_until_serving(process, port, load.path, 100, 0)
        up[name] = Up(Peer(name, line, (), {}, {}, port), process)
    tally = run_rounds(bench, up, load)
    fleet.end(*(each.process for each in up.values()))
    if tally.errors:
        raise BenchError("\n".join(f"{name}: {said}" for name, all_said in tally.errors.items() for said in all_said))
    return [(a.cpu_us, b.cpu_us) for a, b in zip(tally.samples[WITHOUT], tally.samples[WITH], strict=True)]


def probing_share(fleet: Fleet, pins: Pinning, command: str, seconds: float) -> tuple[float, float]:
    """Promises the share of a core that a router takes which only probes, and its probes per second.

    All endpoints are one process that listens at as many addresses.
    """
    house = House(fleet, pins, command)
    with contextlib.closing(house):
        house.serve(MANY)
        (server,) = house.servers
        house.route('[[routes]]\npool = "web"\n' + pool("web", server.addresses, PROBE % HEALTH))
        assert house.router is not None
        house.wait(2 * INTERVAL)
        answered, spent, begun = server.tell("ok"), usage(house.router.session), time.monotonic()
        house.wait(seconds)
        took = time.monotonic() - begun
        cpu = cpu_seconds(spent, usage(house.router.session))
        return cpu / took, (server.tell("ok") - answered) / took
