"""May this attempt be repeated? One function with four reasons to say no, a token budget, and the backoff.

The law (RFC 9110 §9.2.2): what may have had an effect is never sent twice. Reasons are asked in a fixed order:
the response was begun; the body is gone; something was sent and the method is not idempotent; budget or deadline.
"""

from __future__ import annotations

import random
from collections import deque
from copy import copy
from typing import Literal

__all__ = ["IDEMPOTENT", "SAFE", "Budget", "RetryRule", "Verdict", "backoff", "may_retry"]

SAFE = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
IDEMPOTENT = SAFE | {"PUT", "DELETE"}

#: Why not, or "" for yes.
Verdict = Literal["", "head passed on", "body not replayable", "not idempotent", "budget empty", "deadline near"]

#: Seconds before the deadline in which a new attempt is not worth starting.
_NEAR = 0.005
_BACKOFF_FIRST = 0.025
_BACKOFF_MOST = 0.25


class RetryRule:
    """A pool's settings for retries."""

    __slots__ = ("attempt_timeout", "attempts", "buffer", "hedge_after", "hedge_share", "reasons", "statuses", "words")

    def __init__(
        self,
        attempts: int = 2,
        on: tuple[str, ...] = ("connect", "reset", "timeout"),
        attempt_timeout: float = float("inf"),
        buffer: int = 64 << 10,
        hedge_after: float | None = None,
        hedge_share: float | None = None,
    ) -> None:
        self.attempts = attempts
        self.reasons = frozenset(word for word in on if not word.isdigit() and word != "5xx")
        five = range(500, 600) if "5xx" in on else ()
        self.statuses = frozenset(five) | {int(word) for word in on if word.isdigit()}
        #: What is retried, as it may be written in the configuration: reasons, then statuses.
        named = sorted({int(word) for word in on if word.isdigit()} - set(five))
        self.words = (*sorted(self.reasons), *(["5xx"] if five else []), *map(str, named))
        self.attempt_timeout = attempt_timeout
        #: Bytes of a request body that may be kept for sending it again.
        self.buffer = buffer
        #: Seconds after which a second endpoint is asked, or the share of answers that come sooner.
        self.hedge_after = hedge_after
        self.hedge_share = hedge_share


class Budget:
    """A token bucket: each request deposits `share` of a token that lives 10 s, and `reserve` tokens come per second.

    Deposits are counted in whole requests per second of time, so a usual request pays a comparison and an addition.
    A deposit dies with its second: what retries took in that time dies with it.
    """

    __slots__ = ("_deposited", "_past", "_second", "_spent", "_taken", "_this", "reserve", "share")

    LIFETIME = 10

    def __init__(self, share: float = 0.2, reserve: int = 10) -> None:
        self.share = share
        self.reserve = reserve
        self._second = -1
        self._this = 0
        self._spent = 0
        #: (second, deposits, withdrawals) of the last ten seconds.
        self._past: deque[tuple[int, int, int]] = deque()
        #: What they come to: deposits, and what was taken beyond the reserve of each second.
        self._deposited = self._taken = 0

    def deposit(self, now: float) -> None:
        """Called once per request."""
        if int(now) != self._second:
            self._turn(int(now))
        self._this += 1

    def _turn(self, second: int) -> None:
        if self._this or self._spent:
            self._past.append((self._second, self._this, self._spent))
        self._second, self._this, self._spent = second, 0, 0
        while self._past and self._past[0][0] <= second - self.LIFETIME:
            self._past.popleft()
        self._deposited = sum(entry[1] for entry in self._past)
        self._taken = sum(entry[2] - self.reserve if entry[2] > self.reserve else 0 for entry in self._past)

    def balance(self, now: float) -> float:
        """Tokens left: what was deposited in the last ten seconds and this second's reserve, less what was taken."""
        second = int(now)
        if second != self._second:
            self._turn(second)
        left = (self._this + self._deposited) * self.share - self._taken
        return (left if left > 0.0 else 0.0) + self.reserve - self._spent

    def peek(self, now: float) -> float:
        """The same, and nothing is changed: a page that is to be turned is turned in a copy."""
        if int(now) == self._second:
            return self.balance(now)
        other = copy(self)
        other._past = self._past.copy()
        return other.balance(now)

    def withdraw(self, now: float) -> bool:
        """Takes one token; False if there is none."""
        if self.balance(now) < 1:
            return False
        self._spent += 1
        return True

    def has_token(self, now: float) -> bool:
        return self.balance(now) >= 1


def may_retry(
    *,
    head_passed: bool,
    replayable: bool,
    sent: bool,
    method: str,
    budget: Budget,
    now: float,
    deadline: float,
) -> Verdict:
    """Why an exchange may not be tried again, or "" if it may.

    Args:
        head_passed: whether any byte of a response was passed on.
        replayable: whether all body bytes taken from the client are still held.
        sent: whether anything of this attempt had been written to the endpoint.
        now, deadline: seconds of the same clock.
    """
    if head_passed:
        return "head passed on"
    if not replayable:
        return "body not replayable"
    if sent and method not in IDEMPOTENT:
        return "not idempotent"
    if sent and not budget.has_token(now):
        return "budget empty"
    if deadline - now < _NEAR:
        return "deadline near"
    return ""


def backoff(times: int, rng: random.Random) -> float:
    """Seconds to wait before an endpoint is tried again: full jitter, doubling from 25 ms up to 250 ms.

    Args:
        times: how many waits this exchange has had already.
    """
    return rng.uniform(0.0, min(_BACKOFF_MOST, _BACKOFF_FIRST * 2**times))
