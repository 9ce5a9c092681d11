"""How wrk is called and what its report says.

Text in, numbers out: nothing here starts a process.
"""

import re
from typing import NamedTuple

MILLISECONDS = {"us": 0.001, "ms": 1.0, "s": 1000.0, "m": 60_000.0, "h": 3_600_000.0}


class Report(NamedTuple):
    """One run of wrk. Times in milliseconds; `errors` are the report's own sentences."""

    requests: int
    rps: float
    p50_ms: float
    p99_ms: float
    errors: tuple[str, ...]
    error_count: int


def command(url: str, conns: int, seconds: int, script: str = "") -> list[str]:
    """Promises the command line for one thread of wrk.

    Args:
        url: what to ask for.
        conns: clients, each with one keep-alive connection.
        seconds: length of the run.
        script: path of a Lua script, or "" for plain GET.
    """
    # A response later than 10 s counts as an error; wrk's own default of 2 s would blame slow machines.
    options = ["-t1", f"-c{conns}", f"-d{seconds}s", "--timeout", "10s", "--latency"]
    return ["wrk", *options, *(["-s", script] if script else []), url]


def post_script(size: int) -> str:
    """Promises the Lua script that makes wrk send POST with a body of `size` bytes."""
    return (
        'wrk.method = "POST"\n'
        f'wrk.body = string.rep("x", {size})\n'
        'wrk.headers["Content-Type"] = "application/octet-stream"\n'
    )


def parse(text: str) -> Report:
    """Reads the report of `wrk --latency`.

    Raises:
        ValueError: the text is no such report; the message carries its last line.
    """
    total = re.search(r"(\d+) requests in ", text)
    rate = re.search(r"Requests/sec:\s+([\d.]+)", text)
    if not (total and rate):
        lines = text.strip().splitlines()
        raise ValueError(f"wrk gave no report: {lines[-1] if lines else 'no output'}")
    errors, count = _errors(text)
    return Report(
        requests=int(total[1]),
        rps=float(rate[1]),
        p50_ms=_quantile(text, 50),
        p99_ms=_quantile(text, 99),
        errors=errors,
        error_count=count,
    )


def _quantile(text: str, percent: int) -> float:
    found = re.search(rf"^\s+{percent}(?:\.0+)?%\s+([\d.]+)(us|ms|s|m|h)\s*$", text, re.MULTILINE)
    if not found:
        raise ValueError(f"wrk gave no {percent}% latency")
    return float(found[1]) * MILLISECONDS[found[2]]


def _errors(text: str) -> tuple[tuple[str, ...], int]:
    sentences = tuple(re.findall(r"^\s*((?:Socket errors|Non-2xx or 3xx responses):.*?)\s*$", text, re.MULTILINE))
    return sentences, sum(
        int(number) for line in sentences for number in re.findall(r"\b\d+\b", line.partition(":")[2])
    )
