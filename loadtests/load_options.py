"""How options of the load tests are written: times, shares, whole numbers, distributions. Standard library only.

Each reader is for argparse: what it cannot read is refused with the form that it should have.
"""

import argparse
import random
import re
from collections.abc import Callable

#: Seconds; no answer takes longer than this, whatever a distribution draws.
LONGEST = 30.0
UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}

Draw = Callable[[random.Random], float]


def seconds(text: str) -> float:
    """Reads "5ms", "0.5s" or "200us"; raises ValueError."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(us|ms|s)", text.strip())
    if not found:
        raise ValueError(f"{text.strip()!r} is no time such as 5ms or 0.5s")
    return float(found[1]) * UNITS[found[2]]


def positive(text: str) -> float:
    if not re.fullmatch(r"\d+(\.\d+)?", text.strip()) or float(text) <= 0:
        raise ValueError(f"{text.strip()!r} is no number above 0")
    return float(text)


def fixed(value: float) -> Draw:
    return lambda _rng: value


def normal(mean: float, deviation: float) -> Draw:
    return lambda rng: max(0.0, rng.gauss(mean, deviation))


def lognormal(median: float, sigma: float) -> Draw:
    return lambda rng: median * rng.lognormvariate(0.0, sigma)


def pareto(least: float, shape: float) -> Draw:
    return lambda rng: least * rng.paretovariate(shape)


#: Distribution -> what it is made of, the readers of its values, and what these are called.
LATENCIES: dict[str, tuple[Callable[..., Draw], tuple[Callable[[str], float], ...], str]] = {
    "fixed": (fixed, (seconds,), "TIME"),
    "normal": (normal, (seconds, seconds), "MEAN,DEVIATION"),
    "lognormal": (lognormal, (seconds, positive), "MEDIAN,SIGMA"),
    "pareto": (pareto, (seconds, positive), "LEAST,SHAPE"),
}
FORMS = ", ".join(f"{name}:{values}" for name, (_, _, values) in LATENCIES.items())


def latency(text: str) -> Draw:
    """Reads a distribution such as "lognormal:20ms,0.5", for argparse: it draws seconds, LONGEST at most."""
    name, _, rest = text.partition(":")
    values = rest.split(",")
    made = LATENCIES.get(name)
    if made is None or len(values) != len(made[1]):
        raise argparse.ArgumentTypeError(f"{text!r} is none of {FORMS}")
    try:
        draw = made[0](*(read(value) for read, value in zip(made[1], values, strict=True)))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {error}") from None
    return lambda rng: min(LONGEST, draw(rng))


def share(text: str) -> float:
    """Reads "1%" as 0.01, for argparse."""
    found = re.fullmatch(r"(\d{1,3}(?:\.\d+)?)%", text)
    if not found or float(found[1]) > 100:
        raise argparse.ArgumentTypeError(f"{text!r} is no share such as 1%")
    return float(found[1]) / 100


def number(low: int, high: int) -> Callable[[str], int]:
    """Promises a reader of whole numbers from `low` to `high`, for argparse."""

    def read(text: str) -> int:
        if not (text.isascii() and text.isdigit() and low <= int(text) <= high):
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number from {low} to {high}")
        return int(text)

    return read
