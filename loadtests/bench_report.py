"""From samples to medians, ratios and the table. Pure: numbers in, text and plain dictionaries out."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

#: What is told of a proxy, as field -> (heading, digits after the point).
COLUMNS = {
    "cpu_us": ("CPU µs/request", 1),
    "rps": ("requests/s", 0),
    "p50_ms": ("p50 ms", 2),
    "p99_ms": ("p99 ms", 2),
    "rss_mib": ("RSS MiB", 1),
}


class Sample(NamedTuple):
    """One round of one proxy."""

    cpu_us: float
    rps: float
    p50_ms: float
    p99_ms: float
    rss_mib: float


def medians(samples: Sequence[Sample]) -> dict[str, float]:
    """Promises field -> median over the rounds; empty without samples."""
    if not samples:
        return {}
    return {field: statistics.median(getattr(sample, field) for sample in samples) for field in Sample._fields}


def ratio(one: float, other: float) -> float | None:
    """Promises one / other, or None where that says nothing."""
    if not (math.isfinite(one) and math.isfinite(other)) or other <= 0:
        return None
    return one / other


def ratios(results: Mapping[str, Mapping[str, float]], field: str, subject: str = "router") -> dict[str, float]:
    """Promises peer -> the subject's value of `field` divided by the peer's; empty without the subject."""
    own = results.get(subject, {}).get(field)
    if own is None:
        return {}
    found = {name: ratio(own, values[field]) for name, values in results.items() if name != subject and field in values}
    return {name: value for name, value in found.items() if value is not None}


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Promises plain text in columns: the first to the left, all others to the right."""
    widths = [max(len(line[place]) for line in (heads, *rows)) for place in range(len(heads))]

    def line(cells: Sequence[str]) -> str:
        padded = (cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True))
        return "  ".join((cells[0].ljust(widths[0]), *padded)).rstrip()

    return "\n".join((line(heads), line(["-" * width for width in widths]), *(line(row) for row in rows)))


def results_table(
    results: Mapping[str, Mapping[str, float]], versions: Mapping[str, str], error_counts: Mapping[str, int]
) -> str:
    """Promises a row for each proxy, cheapest first, and the router's CPU ratio to each."""
    against = ratios(results, "cpu_us")
    rows = []
    for name in sorted(results, key=lambda each: results[each].get("cpu_us", math.inf)):
        cells = [number(results[name].get(field), digits) for field, (_, digits) in COLUMNS.items()]
        rows.append(
            [
                name,
                versions.get(name, "?"),
                *cells,
                str(error_counts.get(name, 0)),
                number(against.get(name), 2),
            ]
        )
    return table(["proxy", "version", *(head for head, _ in COLUMNS.values()), "errors", "router's CPU / its"], rows)


def number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def p99_line(results: Mapping[str, Mapping[str, float]], conns: int, rounds: int) -> str:
    """Promises the sentence of the p99 mode: the router's p99 relative to Envoy's."""
    head = f"p99 at {conns} clients, median of {rounds} rounds"
    share = ratios(results, "p99_ms").get("envoy")
    if share is None:
        return f"{head}: router and envoy are both needed for the ratio"
    router, envoy = results["router"]["p99_ms"], results["envoy"]["p99_ms"]
    return f"{head}: router {router:.2f} ms, envoy {envoy:.2f} ms, ratio {share:.2f}"
