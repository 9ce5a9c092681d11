"""When a certificate is renewed, and how long to wait after a failure. Pure: clock and chance are handed in."""

from __future__ import annotations

import random

__all__ = ["Pauses", "renew_at"]

#: Part of its life that a certificate has left when it is renewed. Authorities and other clients recommend it.
_LEFT = 1 / 3
#: Part of its life by which that comes later at most, so that what was issued together is not renewed together.
_SPREAD = 1 / 50
#: Seconds of the first pause after a failure, and of the longest.
_FIRST, _LONGEST = 60.0, 6 * 3600.0
#: Part by which a pause is shortened at most.
_JITTER = 0.2
#: Seconds for which an authority's word is taken; it may ask for more, but not that nobody ever asks again.
_MOST_ASKED = 24 * 3600.0


def renew_at(not_before: float, not_after: float, chance: float) -> float:
    """Seconds since the epoch: when a third of the life is left, or a little later.

    Args:
        chance: from 0 to 1, the same as long as one looks at the same certificate.
    """
    life = max(not_after - not_before, 0.0)
    return not_after - life * (_LEFT - _SPREAD * chance)


class Pauses:
    """How long to wait after each failure in a row: doubled each time, with jitter, never more than `longest`.

    Args:
        rng: for jitter.
        first: seconds of the first pause.
        longest: seconds.
    """

    __slots__ = ("_failures", "_first", "_longest", "_rng")

    def __init__(self, rng: random.Random, first: float = _FIRST, longest: float = _LONGEST) -> None:
        self._rng = rng
        self._first = first
        self._longest = longest
        self._failures = 0

    def failed(self, asked: float = 0.0) -> float:
        """Seconds until the next attempt.

        Args:
            asked: seconds that the authority asked for (Retry-After, RFC 8555 §6.6): never sooner, but a day at most.
        """
        pause = min(self._first * 2.0 ** min(self._failures, 30), self._longest)
        self._failures += 1
        asked = min(asked, _MOST_ASKED)
        return max(pause * (1 - _JITTER * self._rng.random()), asked * (1 + _JITTER / 2 * self._rng.random()))

    def well(self) -> None:
        """After a success: the next failure is the first again."""
        self._failures = 0
