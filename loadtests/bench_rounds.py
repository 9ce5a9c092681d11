"""Backends and proxies brought up on loopback, then measured in interleaved rounds.

Here things are started and timed; what the numbers mean stands in bench_report.py.
"""

import contextlib
import os
import re
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import bench_peers as peers
import bench_wrk as wrk
from bench_configs import CHUNKED, PAGES, Site, backends
from bench_peers import Peer, Sources
from bench_procs import BenchError, Fleet, Pinning, Running, free_ports, is_chunked, wait_until_serving
from bench_report import Sample
from bench_usage import cpu_seconds, rss_bytes, usage

ENDPOINTS = 3
MIB = 1 << 20


class Load(NamedTuple):
    """What wrk asks for: path, keep-alive clients, seconds per round, rounds, bytes of a POST body (0 for GET)."""

    path: str
    conns: int
    seconds: int
    rounds: int
    post: int


class Bench(NamedTuple):
    """The processes and where they run."""

    fleet: Fleet
    pins: Pinning


class Up(NamedTuple):
    """A proxy that serves."""

    peer: Peer
    process: Running


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def need(program: str, package: str) -> None:
    """Raises BenchError if a program is missing without which nothing can be measured."""
    if not (shutil.which(program) or shutil.which(program, path=peers.SBIN)):
        raise BenchError(f"{program} is needed to measure anything (Debian: apt install {package})")


def start_backends(bench: Bench, load: Load) -> tuple[int, ...]:
    """Promises the ports of the endpoints, all played by one nginx."""
    need("nginx", "nginx-light")
    site = Site(bench.fleet.folder, 0, tuple(free_ports(ENDPOINTS)), room=max(8192, load.conns * 4))
    pages = site.folder / "pages"
    pages.mkdir(exist_ok=True)
    for path, size in PAGES.items():
        if path != "/":
            (pages / path[1:]).write_bytes(os.urandom(size))
    # nginx answers from here even when it runs under a user of its own.
    site.folder.chmod(0o755)
    conf = site.folder / "backends.conf"
    conf.write_text(backends(site, post=load.post > 0))
    nginx = shutil.which("nginx") or shutil.which("nginx", path=peers.SBIN) or "nginx"
    process = bench.fleet.start("backends", [*bench.pins.load, nginx, "-c", str(conf)])
    for port in site.endpoints:
        _wait_for(process, port, load)
    return site.endpoints


def start_peer(bench: Bench, name: str, endpoints: tuple[int, ...], sources: Sources, load: Load, room: int) -> Up:
    """Starts one proxy and waits for the right answer.

    Raises:
        BenchError: it does not serve, with its last lines of output.
    """
    site = Site(bench.fleet.folder, free_ports(1)[0], endpoints, room)
    peer = peers.plan(name, site, sources)
    for file, text in peer.files.items():
        (site.folder / file).write_text(text)
    process = bench.fleet.start(name, [*bench.pins.proxy, *peer.command], peer.env)
    _wait_for(process, peer.port, load)
    return Up(peer, process)


def _wait_for(process: Running, port: int, load: Load) -> None:
    """Waits for the right answer, framed in the way that is to be measured; raises BenchError."""
    wait_until_serving(process, port, load.path, PAGES[load.path], load.post)
    if not load.post and is_chunked(port, load.path) != (load.path in CHUNKED):
        how = "not chunked" if load.path in CHUNKED else "chunked"
        raise BenchError(f"{process.name}: the answer to {load.path} is {how}, so it would measure something else")


@contextlib.contextmanager
def one_peer(bench: Bench, name: str, endpoints: tuple[int, ...], sources: Sources, room: int) -> Iterator[Up]:
    """Promises one proxy that serves, ended after the block."""
    up = start_peer(bench, name, endpoints, sources, Load("/", 1, 1, 1, 0), room)
    try:
        yield up
    finally:
        bench.fleet.end(up.process)


def version(bench: Bench, peer: Peer) -> str:
    """Promises the version that the program tells of itself, or "?"."""
    try:
        _, text = bench.fleet.run(f"{peer.name}-version", peer.version, timeout=20)
    except BenchError:
        return "?"
    # Envoy puts the hash of a commit before its version.
    found = re.search(r"(?<![\w.])v?(\d+\.\d+(?:\.\d+)*)", text)
    return found[1] if found else "?"


def rotated(names: Sequence[str], turn: int) -> list[str]:
    """Promises the names in an order that begins one further each turn, so that none is always first."""
    start = turn % len(names) if names else 0
    return [*names[start:], *names[:start]]


class Tally:
    """Samples and errors by proxy."""

    def __init__(self) -> None:
        self.samples: dict[str, list[Sample]] = {}
        self.errors: dict[str, list[str]] = {}
        self.error_counts: dict[str, int] = {}

    def blame(self, name: str, sentences: Sequence[str], count: int) -> None:
        if sentences:
            self.errors.setdefault(name, []).extend(sentences)
            self.error_counts[name] = self.error_counts.get(name, 0) + max(count, 1)


def run_rounds(bench: Bench, up: dict[str, Up], load: Load, scripts: Mapping[str, str] = MappingProxyType({})) -> Tally:
    """Promises the samples of all rounds; a warm-up round comes first and leaves only its errors.

    Args:
        scripts: files for wrk, by the name of the proxy that is asked by them; others are asked as `load` says.
    """
    tally = Tally()
    script = ""
    if load.post:
        file = bench.fleet.folder / "post.lua"
        file.write_text(wrk.post_script(load.post))
        script = str(file)
    for turn in range(load.rounds + 1):
        say(f"round {turn} of {load.rounds}" if turn else "warm-up")
        seconds = load.seconds if turn else min(load.seconds, 2)
        for name in rotated(list(up), turn):
            asked = scripts.get(name, script)
            sample = _measure(bench, up[name], load._replace(seconds=seconds), asked, tally)
            if sample and turn:
                tally.samples.setdefault(name, []).append(sample)
    return tally


def _measure(bench: Bench, up: Up, load: Load, script: str, tally: Tally) -> Sample | None:
    session = up.process.session
    command = wrk.command(f"http://127.0.0.1:{up.peer.port}{load.path}", load.conns, load.seconds, script)
    before = usage(session)
    try:
        _, text = bench.fleet.run("wrk", [*bench.pins.load, *command], timeout=load.seconds + 30)
        after = usage(session)
        report = wrk.parse(text)
    except (BenchError, ValueError) as error:
        tally.blame(up.peer.name, [str(error)], 1)
        return None
    tally.blame(up.peer.name, report.errors, report.error_count)
    code = up.process.popen.poll()
    if code is not None:
        tally.blame(up.peer.name, [f"it ended with code {code}: {up.process.last_words()}"], 1)
        return None
    if not report.requests:
        tally.blame(up.peer.name, ["no request was answered"], 1)
        return None
    cpu = cpu_seconds(before, after) / report.requests * 1e6
    return Sample(cpu, report.rps, report.p50_ms, report.p99_ms, rss_bytes(session) / MIB)
