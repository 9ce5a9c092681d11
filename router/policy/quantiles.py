"""A running quantile of seconds, such as the p95 of a pool's latency: what hedging waits for.

Samples are counted in buckets of about the same relative width, so memory never grows and 1 ms is told as exactly as
10 s (HdrHistogram: each power of two cut in sixteen). Old samples fade by their number; no clock is asked.
"""

from __future__ import annotations

from math import sqrt
from struct import Struct

__all__ = ["Quantile"]

#: Samples are counted in batches: most of them then cost no more than an append. A value needs two batches.
_BATCH = 50
_ENOUGH = 100
#: The weight at which all counts are halved.
_FULL = 2048
#: Samples that lie beyond the quantile after a halving: with fewer of them the value would jump about.
_BEYOND = 20

# The sixteen high bits of a float are its sign, its power of two and the first four bits of what follows the leading
# one. Read as a number they rise with the float, in sixteen steps for each power of two: no logarithm is needed.
_pack = Struct(f"<{_BATCH}d").pack
_high_bits = Struct("<" + "6xH" * _BATCH).unpack
_one = Struct("<d")


def _bits(seconds: float) -> int:
    return int.from_bytes(_one.pack(seconds), "little") >> 48


def _least(bits: int) -> float:
    """The smallest float of a bucket."""
    return float(_one.unpack((bits << 48).to_bytes(8, "little"))[0])


#: The buckets of 50 µs and 120 s. What lies outside counts in one of them.
_FIRST = _bits(50e-6)
_LAST = _bits(120.0)
_INFINITE = _bits(float("inf"))
#: Seconds, 3.1 % or less from either end of the bucket.
_MIDDLES = tuple(sqrt(_least(bits) * _least(bits + 1)) for bits in range(_FIRST, _LAST + 1))


class Quantile:
    """The latency under which a `share` of the recent requests stayed.

    `value` is in seconds, None before 100 samples, and at most 50 samples old. It lies within 3.1 % of the exact
    quantile of what is counted, from 50 µs to 120 s. Counts are halved at 2048, or later where a share is so extreme
    that fewer than 20 samples would stay beyond it; so the newest 2048 make up about three quarters of the weight.
    Once latency has shifted up, `value` follows as soon as 1 - share of the weight is new (p95: some 100 samples);
    down, when no more than that is old (p95: under 5000).

    Args:
        share: between 0 and 1, such as 0.95.

    Raises:
        ValueError: the share is not between 0 and 1.
    """

    __slots__ = ("_at", "_batch", "_counts", "_full", "_weight", "share", "value")

    def __init__(self, share: float) -> None:
        if not 0 < share < 1:
            raise ValueError(f"the share of a quantile lies between 0 and 1, such as 0.95, not at {share}")
        self.share = share
        self.value: float | None = None
        self._batch: list[float] = []
        self._counts = [0.0] * len(_MIDDLES)
        self._weight = 0.0
        self._full = max(_FULL, 2 * _BEYOND / min(share, 1 - share))
        #: The bucket of the last value: the next one is near.
        self._at = 0

    def add(self, seconds: float) -> None:
        """Takes a sample. What is no time (negative, infinite, not a number) is left out."""
        batch = self._batch
        batch.append(seconds)
        if len(batch) == _BATCH:
            self._count(batch)
            batch.clear()

    def _count(self, batch: list[float]) -> None:
        counts, left_out = self._counts, 0
        for bits in _high_bits(_pack(*batch)):
            if _FIRST <= bits <= _LAST:
                counts[bits - _FIRST] += 1.0
            elif bits >= _INFINITE:  # the sign is the highest bit
                left_out += 1
            else:
                counts[0 if bits < _FIRST else -1] += 1.0
        self._weight += len(batch) - left_out
        if self._weight >= _ENOUGH:
            self._measure()
        if self._weight >= self._full:
            # Not rounded: tails consist of single counts, which must not vanish at once.
            self._counts = [count * 0.5 for count in counts]
            self._weight *= 0.5

    def _measure(self) -> None:
        """Walks from the last value to where `share` of the weight lies below."""
        counts, at = self._counts, self._at
        target = self._weight * self.share
        below = sum(counts[:at])
        while below >= target:
            at -= 1
            below -= counts[at]
        while below + counts[at] < target:
            below += counts[at]
            at += 1
        self._at = at
        self.value = _MIDDLES[at]
