"""How many requests an endpoint takes at once, found out from what comes of them: two algorithms of one shape.

A limit moves only while it matters: light traffic teaches nothing about heavy traffic. Time is counted in rounds of
samples, about as many as the limit; no clock is asked. A failed sample never raises a limit.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from math import sqrt
from typing import Literal

__all__ = ["AdaptiveLimit", "Aimd", "Gradient", "make_limit"]

#: Seconds; nothing that took longer is a sample, so sums and averages stay finite.
_LONGEST = 86400.0
#: Samples of the shortest round: fewer have no average to speak of.
_ROUND = 10


class AdaptiveLimit(ABC):
    """A limit that is judged anew after each round of samples.

    `limit` is a whole number from `least` to `most`. It moves only after a round in which half of it or more was in
    use, or half of the samples or more were failures.

    Args:
        most: the limit never rises above this.
        least: it never falls below this.
        initial: where it begins, if that lies between the two.

    Raises:
        ValueError: not 1 <= least <= most.
    """

    __slots__ = ("_count", "_failures", "_length", "_load", "_seconds", "_timed", "least", "limit", "most")

    def __init__(self, most: int, *, least: int = 1, initial: int = 20) -> None:
        if not 1 <= least <= most:
            raise ValueError(f"a limit needs 1 <= least <= most, not least {least} and most {most}")
        self.most = most
        self.least = least
        self.limit = max(least, min(initial, most))
        #: Samples of this round, of failures among them and of those with a time; how many it takes.
        self._count = self._failures = self._timed = 0
        self._length = _ROUND
        #: The highest load of the round, and the sum of its times.
        self._load = 0
        self._seconds = 0.0

    def sample(self, elapsed: float | None, load: int, failed: bool) -> bool:
        """Takes what came of one request; True if `limit` has changed.

        Args:
            elapsed: seconds from sending to the response head, None if there was none. That of a failure is left out,
                and so is what is no time: negative, a day or more, not a number.
            load: requests that were open at the endpoint when this one ended, itself included.
            failed: whether it failed: refused, reset, timed out, or answered with a status that counts as failure.
        """
        self._count += 1
        if load > self._load:
            self._load = load
        if failed:
            self._failures += 1
            # Waits for a success: a limit that a round has earned must not rise at the moment of a failure.
            if self._count < self._length or not self._mostly_failed():
                return False
        else:
            if elapsed is not None and 0 <= elapsed < _LONGEST:
                self._timed += 1
                self._seconds += elapsed
            if self._count < self._length:
                return False
        before = self.limit
        self._length = self._judge()
        self._count = self._failures = self._timed = self._load = 0
        self._seconds = 0.0
        return self.limit != before

    def _mostly_failed(self) -> bool:
        return self._failures * 2 >= self._count

    def _matters(self) -> bool:
        return self._load * 2 >= self.limit or self._mostly_failed()

    @abstractmethod
    def _judge(self) -> int:
        """Sets `limit` after a round; the length of the next one."""


class Aimd(AdaptiveLimit):
    """Additive increase, multiplicative decrease: up by one after a round without failures, to 0.9 after one with any.

    Only failures hold it down, so it needs a timeout that an overloaded endpoint exceeds (`attempt_timeout`): else it
    rises to `most`. Where a share p of requests fails by chance it swings around the square root of 10 / p.

    Source: Chiu, Jain: "Analysis of the Increase and Decrease Algorithms for Congestion Avoidance in Computer
    Networks", Computer Networks and ISDN Systems 17 (1989).
    """

    __slots__ = ()

    _DECREASE = 0.9

    def _judge(self) -> int:
        if self._matters():
            if self._failures:
                self.limit = max(self.least, min(self.limit - 1, int(self.limit * self._DECREASE)))
            else:
                self.limit = min(self.most, self.limit + 1)
        return max(_ROUND, self.limit)


class Gradient(AdaptiveLimit):
    """Compares a round's average time with the long-term one: what grows above 1.5 times that is a queue.

    After each round the limit moves a fifth of the way to limit x gradient + root of limit, where gradient is
    1.5 x long / short, from 0.5 to 1. A share f of failures makes gradient and root smaller by 1 - f.

    Without probes the long-term average takes a lasting queue for the normal state, and the limit rises without end.
    So, while the limit holds requests back, every 100 rounds (10 after a probe that found the average far off) it is
    quartered until 30 requests have shown how long they take then. It settles near 1.5 x workers + root of limit of an
    endpoint with so many workers, somewhat above where times vary much, as long as most of its load comes from here.

    Source: Gradient2Limit of Netflix's concurrency-limits; tolerance and probes are those of its GradientLimit.
    """

    __slots__ = ("_estimate", "_long", "_phase", "_rounds", "_until_probe")

    _TOLERANCE = 1.5
    _SMOOTHING = 0.2
    _STEEPEST = 0.5
    #: Rounds of the long-term average, and those in which it is the plain mean.
    _LONG = 600
    _WARM_UP = 10
    _SOON = 10
    _FAR = 100
    _PROBE_SAMPLES = 30
    #: Half of a limit that is twice too high still makes a queue: the probe would find that nothing is wrong.
    _CUT = 4

    def __init__(self, most: int, *, least: int = 1, initial: int = 20) -> None:
        super().__init__(most, least=least, initial=initial)
        self._estimate = float(self.limit)
        #: Seconds.
        self._long = 0.0
        self._rounds = 0
        self._until_probe = self._SOON
        #: A probe first waits until what was sent before the cut has ended.
        self._phase: Literal["", "draining", "probing"] = ""

    def _judge(self) -> int:
        if self._phase == "draining":
            self._phase = "probing"
            return max(self._PROBE_SAMPLES, self.limit)
        if self._phase == "probing":
            self._end_probe()
            return max(_ROUND, self.limit)
        is_held = self._load >= self.limit
        short = self._measure()
        if self._matters():
            self._move(short)
        self._until_probe -= is_held
        if self._until_probe <= 0:
            self._phase = "draining"
            self.limit = max(self.least, self.limit // self._CUT)
            return self._load
        return max(_ROUND, self.limit)

    def _measure(self) -> float:
        """The round's average, which also goes into the long-term one; 0 if nothing was timed."""
        if not self._timed:
            return 0.0
        short = self._seconds / self._timed
        self._rounds += 1
        share = 1 / self._rounds if self._rounds <= self._WARM_UP else 2 / (self._LONG + 1)
        self._long += (short - self._long) * share
        if self._long > 2 * short:
            # An overload is over: its times are forgotten sooner than by the average, and before the limit grows on.
            self._long *= 0.9
            self._until_probe = min(self._until_probe, self._SOON)
        return short

    def _move(self, short: float) -> None:
        passed = 1 - self._failures / self._count
        gradient = min(1.0, self._TOLERANCE * self._long / short) if short else 1.0
        # Without a time nothing says that there is room for more.
        room = sqrt(self._estimate) * passed if self._timed else 0.0
        wanted = self._estimate * max(self._STEEPEST, gradient * passed) + room
        moved = self._estimate + (wanted - self._estimate) * self._SMOOTHING
        self._estimate = max(float(self.least), min(float(self.most), moved))
        self.limit = int(self._estimate)

    def _end_probe(self) -> None:
        self._phase = ""
        self._until_probe = self._FAR
        if self._mostly_failed():
            self._estimate = float(self.limit)
            return
        if self._timed:
            found = self._seconds / self._timed
            if max(found, self._long) > self._TOLERANCE * min(found, self._long):
                self._until_probe = self._SOON
            self._long = found
        self.limit = int(self._estimate)


def make_limit(name: Literal["gradient", "aimd"], most: int) -> AdaptiveLimit:
    """The limit of one endpoint, by the name of its algorithm.

    Raises:
        ValueError: there is no such name, or `most` is less than 1.
    """
    if name == "gradient":
        return Gradient(most)
    if name == "aimd":
        return Aimd(most)
    raise ValueError(f"there is no adaptive limit {name!r}; there are 'gradient' and 'aimd'")
