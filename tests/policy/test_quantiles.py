"""The running quantile: as exact as its docstring says, forgetting, bounded, and unharmed by what is no time."""

from __future__ import annotations

import math
import random
import statistics
import sys
from collections.abc import Callable, Iterable

import pytest

from router.policy.quantiles import Quantile

#: What the docstring promises.
ERROR = 0.031
SHARES = [0.05, 0.5, 0.9, 0.95, 0.99]
DRAWS: dict[str, Callable[[random.Random], float]] = {
    "uniform": lambda rng: rng.uniform(0.001, 0.2),
    "exponential": lambda rng: rng.expovariate(100.0) + 60e-6,
    "lognormal": lambda rng: min(100.0, max(60e-6, rng.lognormvariate(-4.0, 1.2))),
    "heavy tail": lambda rng: min(100.0, 0.002 * rng.paretovariate(1.1)),
    "two modes": lambda rng: rng.gauss(0.005, 0.0005) if rng.random() < 0.8 else rng.gauss(2.0, 0.1),
    "constant": lambda rng: 0.0123,
}


def after(share: float, samples: Iterable[float]) -> Quantile:
    quantile = Quantile(share)
    for seconds in samples:
        quantile.add(seconds)
    return quantile


def exact(share: float, samples: list[float]) -> float:
    return sorted(samples)[math.ceil(share * len(samples)) - 1]


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("name", DRAWS)
def test_it_is_as_exact_as_promised(name: str, share: float) -> None:
    rng = random.Random(f"{name} {share}")
    for count in (100, 1000, 2000):
        samples = [DRAWS[name](rng) for _ in range(count)]
        assert after(share, samples).value == pytest.approx(exact(share, samples), rel=ERROR)


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("name", DRAWS)
def test_it_stays_true_when_old_samples_fade(name: str, share: float) -> None:
    rng = random.Random(f"{name} {share}")
    samples = [DRAWS[name](rng) for _ in range(30_000)]
    value = after(share, samples).value
    # Only a part of the samples is held: chance moves the share by four standard deviations of 1024 at most.
    away = 4 * math.sqrt(share * (1 - share) / 1024)
    assert value is not None
    assert value >= exact(max(0.001, share - away), samples) * (1 - ERROR)
    assert value <= exact(min(1.0, share + away), samples) * (1 + ERROR)


@pytest.mark.parametrize("share", [0.99, 0.999])
def test_a_rare_tail_neither_vanishes_by_fading_nor_jumps_about(share: float) -> None:
    """The mean of many values, so that a bias would show and chance would not."""
    rng = random.Random(3)
    quantile, values = Quantile(share), []
    for _ in range(400_000):
        quantile.add(rng.expovariate(10.0))
        values.append(quantile.value or 0.0)
    late = values[100_000:]
    assert statistics.fmean(late) == pytest.approx(-math.log(1 - share) / 10.0, rel=0.05)
    assert statistics.pstdev(late) < 0.06 * statistics.fmean(late)


def test_it_says_nothing_before_a_hundred_samples_and_then_every_fifty() -> None:
    quantile = after(0.95, [0.01] * 99)
    assert quantile.value is None
    quantile.add(0.01)
    first = quantile.value
    assert first == pytest.approx(0.01, rel=ERROR)
    for _ in range(49):
        quantile.add(1.0)
    assert quantile.value == first
    quantile.add(1.0)
    assert quantile.value == pytest.approx(1.0, rel=ERROR)


def test_it_follows_a_shift_up_within_few_samples() -> None:
    rng = random.Random(5)
    quantile = after(0.95, (rng.uniform(0.009, 0.011) for _ in range(20_000)))
    for _ in range(200):
        quantile.add(rng.uniform(0.9, 1.1))
    assert quantile.value is not None
    assert 0.9 * (1 - ERROR) <= quantile.value <= 1.1 * (1 + ERROR)


@pytest.mark.parametrize("samples", range(20_000, 21_050, 150))
def test_it_follows_a_shift_down_once_the_old_has_faded(samples: int) -> None:
    rng = random.Random(5)
    quantile = after(0.95, (rng.uniform(0.9, 1.1) for _ in range(samples)))
    for _ in range(5000):
        quantile.add(rng.uniform(0.009, 0.011))
    assert quantile.value is not None
    assert 0.009 * (1 - ERROR) <= quantile.value <= 0.011 * (1 + ERROR)
    for _ in range(10_000):
        quantile.add(rng.uniform(0.009, 0.011))
    assert quantile.value == pytest.approx(0.0109, rel=0.05)


def test_the_newest_samples_make_up_three_quarters() -> None:
    for count in range(20_000, 21_050, 50):
        samples = [0.1] * count + [0.01] * 2048
        assert after(0.72, samples).value == pytest.approx(0.01, rel=ERROR)
        # An old quarter counts too, or what is left of it right before the next halving.
        assert after(0.88, samples).value == pytest.approx(0.1, rel=ERROR)


@pytest.mark.parametrize(
    ("samples", "value"),
    [
        ([0.0] * 100, 50e-6),
        ([-0.0] * 50 + [0.0] * 150, 50e-6),
        ([1e-9, 5e-324] * 50, 50e-6),
        ([3600.0, 1e300] * 50, 120.0),
        ([120.0] * 100, 120.0),
        ([50e-6] * 100, 50e-6),
        ([1] * 100, 1.0),
    ],
)
def test_what_lies_outside_counts_at_the_edge(samples: list[float], value: float) -> None:
    assert after(0.5, samples).value == pytest.approx(value, rel=0.04)


@pytest.mark.parametrize("nonsense", [-1.0, -1e-12, math.nan, -math.nan, math.inf, -math.inf])
def test_what_is_no_time_is_left_out(nonsense: float) -> None:
    assert after(0.5, [nonsense] * 10_000).value is None
    rng = random.Random(1)
    quantile = after(0.95, (nonsense if rng.random() < 0.5 else rng.uniform(0.01, 0.02) for _ in range(20_000)))
    assert quantile.value == pytest.approx(0.0195, rel=0.05)
    assert after(0.95, [nonsense] * 50 + [0.01] * 50 + [nonsense] * 50).value is None
    assert after(0.95, [nonsense] * 50 + [0.01] * 100).value == pytest.approx(0.01, rel=ERROR)


def test_memory_does_not_grow() -> None:
    rng = random.Random(2)
    quantile = Quantile(0.95)

    def size() -> int:
        held = [getattr(quantile, name) for name in Quantile.__slots__]
        return sum(sys.getsizeof(one) + (sum(map(sys.getsizeof, one)) if isinstance(one, list) else 0) for one in held)

    sizes = []
    for _ in range(3):
        for _ in range(20_000):
            quantile.add(rng.lognormvariate(-4, 3))
        sizes.append(size())
    assert sizes[1] == sizes[2] < 20_000


def test_it_never_fails_on_any_mixture() -> None:
    rng = random.Random(9)
    odd = [0.0, -1.0, math.nan, math.inf, -math.inf, 1e-300, 1e300, 50e-6, 120.0, 119.999, 49e-6]
    for share in (1e-9, 0.001, 0.5, 0.999, 1 - 1e-9):
        quantile = Quantile(share)
        for _ in range(20_000):
            quantile.add(rng.choice(odd) if rng.random() < 0.5 else rng.lognormvariate(-4, 4))
        assert quantile.value is not None
        assert 48e-6 <= quantile.value <= 125.0


@pytest.mark.parametrize("share", [0.0, 1.0, -0.5, 95.0, math.nan, math.inf])
def test_a_share_that_is_none_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match=r"between 0 and 1, such as 0\.95"):
        Quantile(share)
