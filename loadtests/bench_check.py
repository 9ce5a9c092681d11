"""How long `router check` takes on a large file: wall time, start of the interpreter included."""

import shlex
import statistics
import time

from bench_configs import router_large
from bench_procs import BenchError, Fleet

RUNS = 5
#: Seconds for one run.
LIMIT = 60.0


def check_seconds(fleet: Fleet, router: str) -> list[float]:
    """Promises the times of RUNS runs in seconds; one run before them is not counted.

    Raises:
        BenchError: the command failed; with its last lines of output.
    """
    file = fleet.folder / "large.toml"
    file.write_text(router_large())
    command = [*shlex.split(router), "check", str(file)]
    times = []
    for _ in range(RUNS + 1):
        start = time.perf_counter()
        code, text = fleet.run("check", command, LIMIT)
        times.append(time.perf_counter() - start)
        if code:
            tail = "\n".join(text.strip().splitlines()[-8:])
            raise BenchError(f"router check ended with code {code}\n{tail}".rstrip())
    return times[1:]


def check_line(times: list[float]) -> str:
    return f"router check, 1000 routes, 1000 endpoints: median of {len(times)}: {statistics.median(times):.2f} s"
