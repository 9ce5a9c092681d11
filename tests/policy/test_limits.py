"""Defaults of a pool's times and numbers, as the README's table of keys gives them."""

from __future__ import annotations

from router.policy.limits import Limits, Timeouts


def test_the_defaults() -> None:
    times, limits = Timeouts(), Limits()
    assert (times.connect, times.head, times.stream) == (2.0, 30.0, 60.0)
    assert limits.in_flight == limits.per_endpoint == float("inf")
    assert (limits.queue, limits.queue_timeout, limits.adaptive) == (0, 1.0, "")


def test_what_is_given_is_kept() -> None:
    times, limits = Timeouts(1, 2, 3), Limits(4, 5, 6, 7, "aimd")
    assert (times.connect, times.head, times.stream) == (1, 2, 3)
    assert (limits.in_flight, limits.per_endpoint, limits.queue, limits.queue_timeout) == (4, 5, 6, 7)
    assert limits.adaptive == "aimd"
