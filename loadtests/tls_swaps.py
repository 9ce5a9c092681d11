"""Certificates that are swapped under load: new connections all the time, others that stay throughout."""

import json
import ssl
import sys
import time
from pathlib import Path

import tls_report as must
from bench_main import Result
from bench_procs import BenchError, Running
from change_configs import all_alike, configuration, listener
from fault_client import PATIENCE as HANGS
from fault_house import HERE, PATIENCE
from tls_configs import from_files, tls
from tls_files import NAME, NAMES, Pair, serial
from tls_house import Home, Pace, fetched, shaken, trusting
from tls_report import SOON, Held, Shake, Swap
from tls_swap_client import KEPT, TUNNEL, Plan, beside

#: New connections: workers, and the seconds from one to the next of each.
WORKERS, PAUSE = 6, 0.1
#: What stays.
COUNTS = {KEPT: 50, TUNNEL: 20}
#: Seconds between two answers on it, and between two looks at which certificate is served.
EVERY, LOOK = 1.0, 0.05
#: Every so many swaps the new certificate stands beside the old key for so many seconds, or the other way round.
HALF_EVERY, HALF = 5, 0.4
#: The least part of the new connections that were asked for.
LOADED = 0.7


def play_swaps(home: Home, pace: Pace) -> Result:
    home.serve(3)
    shown = home.authority.sign(home.folder / "shown", "bench", *NAMES)
    first = serial(shown.certificate)
    spare = [home.authority.sign(home.folder / f"next-{number}", "bench", *NAMES) for number in range(pace.swaps)]
    secure = listener(home.tls_port, tls(from_files(shown)))
    settings = trusting(home.authority.file)
    text = configuration(home, home.step, all_alike(home), more=secure)
    home.start(text, lambda: fetched(home.tls_port, settings, "/200"))
    running, file = _load(home)
    begun = time.monotonic()
    home.wait(1)
    swaps = []
    for number, pair in enumerate(spare, 1):
        swaps.append(_swap(home, pair, shown, settings, number))
        home.wait(pace.between)
    seconds = time.monotonic() - begun
    shakes, held = _told(home, running, file)
    verdicts = [
        must.in_force(swaps, pace.swaps),
        must.none_failed(shakes, round(seconds * WORKERS / PAUSE * LOADED)),
        must.old_or_new(shakes, first, swaps),
        must.stays(held, COUNTS),
        *home.ended(),
    ]
    lags = [None if swap.seen is None else swap.seen - swap.done for swap in swaps]
    return Result("swaps", "", {"connections": len(shakes), "lags": lags, "seconds": seconds}, verdicts)


def _load(home: Home) -> tuple[Running, Path]:
    file = home.folder / "swaps.seen"
    plan = Plan(str(home.authority.file), NAME, WORKERS, PAUSE, COUNTS[KEPT], COUNTS[TUNNEL], EVERY)
    script = [sys.executable, str(HERE / "tls_swap_client.py"), str(home.tls_port), str(file)]
    running = home.fleet.start("client", [*home.pins.load, *script, json.dumps(plan._asdict())])
    home.wait_for("ready", running)
    return running, file


def _swap(home: Home, pair: Pair, shown: Pair, settings: ssl.SSLContext, number: int) -> Swap:
    """Puts another pair in place, each file by a rename; promises when it was served, if it was."""
    new = serial(pair.certificate)
    # Whichever comes first, the pair does not match for a moment.
    order = (0, 1) if number % 2 else (1, 0)
    begun = time.monotonic()
    for place in order:
        pair[place].replace(shown[place])
        if number % HALF_EVERY == 0 and place == order[0]:
            home.wait(HALF)
    done = time.monotonic()
    while time.monotonic() < done + 2 * SOON:
        if _served(home.tls_port, settings) == new:
            return Swap(new, begun, done, time.monotonic())
        home.wait(LOOK)
    return Swap(new, begun, done, None)


def _served(port: int, settings: ssl.SSLContext) -> str:
    try:
        with shaken(port, settings) as sock:
            return str((sock.getpeercert() or {}).get("serialNumber", ""))
    except OSError:
        # The client notes such failures; here it is only not the new one.
        return ""


def _told(home: Home, running: Running, file: Path) -> tuple[list[Shake], list[Held]]:
    """Ends the client; promises what it saw."""
    running.popen.terminate()
    home.wait(HANGS + PATIENCE, lambda: running.popen.poll() is not None)
    if running.popen.poll() != 0:
        raise BenchError(f"the client did not end well\n{running.last_words()}")
    shakes, held = ([json.loads(line) for line in each.read_text().splitlines()] for each in (file, beside(file)))
    return [Shake(*each) for each in shakes], [Held(*each) for each in held]
