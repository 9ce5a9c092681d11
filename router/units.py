"""Values with a unit, as configurations and plugin options write them: durations, sizes, shares.

Each is a number that knows how it was meant; each parser raises ValueError with one sentence that shows the right form.
"""

from __future__ import annotations

import re

__all__ = [
    "Duration",
    "HedgeDelay",
    "Share",
    "Size",
    "SizeLimit",
    "parse_duration",
    "parse_hedge_delay",
    "parse_share",
    "parse_size",
    "parse_size_limit",
]


class Duration(float):
    """Seconds; written as "250ms", "2s", "5m", "1h", or "none" for no limit."""


class Size(int):
    """Bytes; written as "512B", "64KiB", "1MiB", "1GiB", or a bare whole number."""


class SizeLimit(float):
    """Bytes, infinity for no limit; written like a size, or "none"."""


class Share(float):
    """A part of a whole, 0 to 1; written as "10%"."""


class HedgeDelay(str):
    """As written: a duration, "none", or the quantile of the pool's latency, such as "p95"."""

    __slots__ = ()

    @property
    def seconds(self) -> float | None:
        """None for "none" and for a quantile."""
        return None if self == "none" or self.startswith("p") else float(parse_duration(str(self)))

    @property
    def share(self) -> float | None:
        """The quantile, 0 to 1; None where there is none."""
        return float(self[1:]) / 100 if self.startswith("p") else None


_QUANTILE = re.compile(r"p[0-9]{2}(\.[0-9]{1,3})?")
_DURATIONS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_SIZES = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


def parse_duration(value: object) -> Duration:
    """Reads "250ms", "2s", "5m", "1h" or "none" into seconds.

    Raises:
        ValueError: with one sentence that shows the right form.
    """
    if value == "none":
        return Duration("inf")
    if isinstance(value, str):
        for unit in ("ms", "s", "m", "h"):
            number = value.removesuffix(unit)
            if number != value and _is_number(number):
                return Duration(float(number) * _DURATIONS[unit])
    raise ValueError('a duration is written like "250ms", "2s", "5m" or "1h"')


def parse_size(value: object) -> Size:
    """Reads "64KiB" or a whole number into bytes. Raises ValueError like parse_duration."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 62:
        return Size(value)
    if isinstance(value, str):
        for unit in ("KiB", "MiB", "GiB", "B"):
            number = value.removesuffix(unit)
            if number != value and number.isascii() and number.isdigit() and len(number) < 10:
                return Size(int(number) * _SIZES[unit])
    raise ValueError('a size is written like "512B", "64KiB" or "10MiB"')


def parse_size_limit(value: object) -> SizeLimit:
    """Reads "64KiB", a whole number or "none" into bytes. Raises ValueError like parse_duration."""
    if value == "none":
        return SizeLimit("inf")
    try:
        return SizeLimit(parse_size(value))
    except ValueError as error:
        raise ValueError(f'{error}, or "none"') from None


def parse_hedge_delay(value: object) -> HedgeDelay:
    """Reads a duration, "none" or "p95". Raises ValueError like parse_duration."""
    if isinstance(value, str) and _QUANTILE.fullmatch(value) and 50 <= float(value[1:]) <= 99.9:
        return HedgeDelay(value)
    try:
        if parse_duration(value) > 0:
            return HedgeDelay(value)
    except ValueError:
        pass
    raise ValueError('a time to wait is written like "50ms", "none", or "p95", from "p50" to "p99.9"')


def parse_share(value: object) -> Share:
    """Reads "10%" into 0.1. Raises ValueError like parse_duration."""
    if isinstance(value, str) and value.endswith("%") and _is_number(value[:-1]):
        share = float(value[:-1]) / 100
        if share <= 1:
            return Share(share)
    raise ValueError('a share is written like "10%", from "0%" to "100%"')


def _is_number(text: str) -> bool:
    whole, _, part = text.partition(".")
    return text.isascii() and whole.isdigit() and (part.isdigit() or "." not in text) and len(text) < 16
