"""Adaptive limits: their laws over any samples, and what they come to at a simulated server (an M/M/k queue)."""

from __future__ import annotations

import heapq
import math
import random
from collections import deque
from collections.abc import Callable
from itertools import count

import pytest

from router.policy.adaptive import AdaptiveLimit, Aimd, Gradient, make_limit

BOTH = pytest.mark.parametrize("name", ["gradient", "aimd"])
NEVER = float("inf")


def feed(limit: AdaptiveLimit, samples: int, elapsed: float | None = 0.01, failed: bool = False, load: int = 0) -> None:
    """So many samples of one kind, the limit in full use where no load is given."""
    for _ in range(samples):
        limit.sample(elapsed, load or limit.limit, failed)


class Request:
    """One that was sent at a moment; `is_open` until its lease closes."""

    def __init__(self, sent: float) -> None:
        self.sent = sent
        self.is_open = True


class Simulation:
    """Clients, a limit, and a server of k workers with a queue of its own; the clock is the event heap.

    Open loop: `rate` requests per second come whatever becomes of them, what the limit does not take is turned away.
    Closed loop: so many `clients` send again once they were answered, and wait where the limit is reached. What takes
    longer than `timeout` has failed; the server finishes what it has begun, and leaves out what was given up before.
    """

    def __init__(
        self,
        limit: AdaptiveLimit | None,
        workers: int,
        service: float,
        *,
        rate: float = 0.0,
        clients: int = 0,
        timeout: float = NEVER,
        spread: Callable[[random.Random], float] = lambda rng: rng.expovariate(1.0),
        seed: int = 1,
    ) -> None:
        self.limit, self.workers, self.service, self.timeout, self.spread = limit, workers, service, timeout, spread
        self.rate, self.is_closed = rate, clients > 0
        self.rng = random.Random(seed)
        self.now = 0.0
        self.numbers = count()
        self.events: list[tuple[float, int, Callable[[], None]]] = []
        self.queue: deque[Request] = deque()
        self.busy = self.load = self.waiting = 0
        self.forget()
        if rate:
            self.after(0.0, self.arrive)
        for _ in range(clients):
            self.after(self.rng.uniform(0, service), self.arrive)

    def forget(self) -> None:
        self.times: list[float] = []
        self.limits: list[int] = []
        self.refused = self.failed = 0

    def run(self, seconds: float) -> Simulation:
        """Goes on for so long; the records are those of this time alone."""
        self.forget()
        self.began, until = self.now, self.now + seconds
        while self.events and self.events[0][0] <= until:
            self.now, _, event = heapq.heappop(self.events)
            event()
        self.now = until
        return self

    # What came of it

    def mean_limit(self) -> float:
        return sum(self.limits) / len(self.limits)

    def p99(self) -> float:
        """Seconds; what timed out counts with the timeout."""
        times = sorted(self.times + [self.timeout] * self.failed)
        return times[int(0.99 * len(times))]

    def share_of_capacity(self) -> float:
        """Of what the workers could do, how much reached somebody."""
        return len(self.times) * self.service / (self.workers * (self.now - self.began))

    # Events

    def after(self, seconds: float, event: Callable[[], None]) -> None:
        heapq.heappush(self.events, (self.now + seconds, next(self.numbers), event))

    def has_room(self) -> bool:
        return self.limit is None or self.load < self.limit.limit

    def arrive(self) -> None:
        if not self.is_closed:
            self.after(self.rng.expovariate(self.rate), self.arrive)
        if self.has_room():
            self.send()
        elif self.is_closed:
            self.waiting += 1
        else:
            self.refused += 1

    def send(self) -> None:
        self.load += 1
        request = Request(self.now)
        self.queue.append(request)
        if self.timeout < NEVER:
            self.after(self.timeout, lambda: self.close(request, failed=True))
        self.serve()

    def serve(self) -> None:
        while self.busy < self.workers and self.queue:
            request = self.queue.popleft()
            if request.is_open:
                self.busy += 1
                self.after(self.service * self.spread(self.rng), lambda request=request: self.served(request))  # type: ignore[misc]

    def served(self, request: Request) -> None:
        self.busy -= 1
        self.close(request, failed=False)
        self.serve()

    def close(self, request: Request, *, failed: bool) -> None:
        if not request.is_open:
            return
        request.is_open = False
        elapsed = self.now - request.sent
        if self.limit is not None:
            self.limit.sample(None if failed else elapsed, self.load, failed)
            self.limits.append(self.limit.limit)
        self.load -= 1
        if failed:
            self.failed += 1
        else:
            self.times.append(elapsed)
        if self.is_closed:
            self.after(0.0, self.arrive)
            while self.waiting and self.has_room():
                self.waiting -= 1
                self.send()


def even(rng: random.Random) -> float:
    return rng.uniform(0.8, 1.2)


def mixed(rng: random.Random) -> float:
    """Three of a hundred take some fifty times as long as the others; the mean is 1."""
    return rng.uniform(0, 50) if rng.random() < 0.03 else rng.uniform(0, 0.5)


# Laws, whatever comes


@BOTH
@pytest.mark.parametrize("seed", range(8))
def test_the_laws_hold_over_any_samples(name: str, seed: int) -> None:
    rng = random.Random(f"{name} {seed}")
    most, least = rng.choice([(1, 1), (7, 3), (30, 1), (1000, 1), (1000, 20)])
    limit: AdaptiveLimit = {"gradient": Gradient, "aimd": Aimd}[name](most, least=least)
    odd = [None, math.nan, math.inf, -math.inf, -1.0, 0.0, 5e-324, 1e308, 86399.0]
    for _ in range(40):
        failures, odds, base = rng.choice([0, 0, 0.05, 0.4, 0.6, 1]), rng.choice([0, 0.1, 1]), rng.choice([0.001, 1.0])
        use = rng.choice([0.1, 0.6, 1.0, 1.5])
        for _ in range(200):
            before, failed = limit.limit, rng.random() < failures
            elapsed = rng.choice(odd) if rng.random() < odds else rng.expovariate(1 / base)
            changed = limit.sample(elapsed, rng.randint(-1, max(1, int(limit.limit * use))), failed)
            assert changed == (limit.limit != before)
            assert least <= limit.limit <= most
            assert isinstance(limit.limit, int)
            assert not (failed and limit.limit > before), "a failure raised the limit"


@BOTH
@pytest.mark.parametrize(("most", "initial"), [(1, 1), (5, 5), (20, 20), (1000, 20)])
def test_it_begins_at_twenty_or_what_is_allowed(name: str, most: int, initial: int) -> None:
    assert make_limit(name, most).limit == initial  # type: ignore[arg-type]


def test_make_limit_knows_two_names() -> None:
    assert type(make_limit("gradient", 9)) is Gradient
    assert type(make_limit("aimd", 9)) is Aimd
    with pytest.raises(ValueError, match="no adaptive limit 'vegas'; there are 'gradient' and 'aimd'"):
        make_limit("vegas", 9)  # type: ignore[arg-type]


@pytest.mark.parametrize(("most", "least"), [(0, 1), (-3, 1), (5, 6), (5, 0)])
def test_bounds_that_leave_nothing_are_refused(most: int, least: int) -> None:
    with pytest.raises(ValueError, match=rf"least {least} and most {most}"):
        Aimd(most, least=least)


@BOTH
def test_failures_that_come_at_once_lower_it_to_one_and_never_raise_it(name: str) -> None:
    for load in (0, 1):
        limit = make_limit(name, 1000)  # type: ignore[arg-type]
        seen = [limit.limit]
        for _ in range(1000):
            limit.sample(0.001, load or limit.limit, True)
            seen.append(limit.limit)
        assert seen == sorted(seen, reverse=True)
        assert seen[-1] == 1
        feed(limit, 3000)
        assert limit.limit > 20, "it recovers"


@BOTH
@pytest.mark.parametrize("every", [0, 20, 3])
def test_light_traffic_moves_nothing(name: str, every: int) -> None:
    """A drop in traffic: what the limit was at the time of much traffic stays, whatever the few requests come to."""
    rng = random.Random(1)
    limit = make_limit(name, 1000)  # type: ignore[arg-type]
    feed(limit, 2000)
    before = limit.limit
    assert before > 20
    # A round that began in heavy traffic may end in light traffic.
    feed(limit, before, load=3)
    before = limit.limit
    for number in range(5000):
        few = rng.randint(1, before // 2 - 1)
        failed = every > 0 and number % every == 0
        assert not limit.sample(rng.uniform(0.001, 0.5), few, failed)
    assert limit.limit == before


@BOTH
def test_it_never_outgrows_twice_the_load_that_there_is(name: str) -> None:
    limit = make_limit(name, 1000)  # type: ignore[arg-type]
    feed(limit, 50_000, load=30)
    assert 55 <= limit.limit <= 62


@BOTH
def test_it_reaches_most_and_one(name: str) -> None:
    limit = make_limit(name, 40)  # type: ignore[arg-type]
    top = 0
    for _ in range(5000):
        limit.sample(0.01, limit.limit, False)
        top = max(top, limit.limit)
    assert top == 40
    feed(limit, 5000, None, failed=True)
    assert limit.limit == 1


@BOTH
def test_a_success_without_a_time_is_no_reason_to_raise_a_gradient(name: str) -> None:
    limit = make_limit(name, 1000)  # type: ignore[arg-type]
    feed(limit, 2000, math.nan)
    assert (limit.limit > 20) == (name == "aimd")


# Each algorithm


def test_aimd_goes_up_by_one_and_down_to_nine_tenths() -> None:
    limit = Aimd(1000)
    seen = []
    for number in range(10):
        feed(limit, 9)
        changed = limit.sample(0.01, limit.limit, False)
        seen.append((number, changed, limit.limit))
        if changed:
            break
    assert seen == [(0, True, 21)]
    feed(limit, 21)
    assert limit.limit == 22
    feed(limit, 1, None, failed=True)
    feed(limit, 20)
    assert limit.limit == 22, "a burst of failures counts once, at the end of its round"
    feed(limit, 1)
    assert limit.limit == 19


def test_a_round_waits_for_a_success_unless_it_mostly_failed() -> None:
    limit = Aimd(1000)
    feed(limit, 9)
    assert not limit.sample(None, 20, True)
    assert limit.limit == 20
    assert limit.sample(0.01, 20, False)
    assert limit.limit == 18


def test_gradient_moves_a_fifth_of_the_way() -> None:
    limit = Gradient(1000)
    feed(limit, 10)
    assert limit.limit == int(20 + 0.2 * math.sqrt(20))
    limit = Gradient(1000)
    feed(limit, 10, load=9)
    for _ in range(9):
        feed(limit, 20, load=9)
    assert limit.limit == 20


def test_gradient_moves_down_by_a_tenth_at_most() -> None:
    limit = Gradient(1000, initial=100)
    feed(limit, 10, load=1)
    for _ in range(9):
        feed(limit, 100, load=1)
    assert limit.limit == 100
    feed(limit, 100, elapsed=1.0)
    assert limit.limit == int(100 + 0.2 * (100 * 0.5 + math.sqrt(100) - 100))


def test_gradient_soon_forgets_an_overload_that_is_over() -> None:
    limit = Gradient(1000)
    feed(limit, 2000, elapsed=0.1, load=1)
    feed(limit, 600, elapsed=0.01, load=1)
    feed(limit, 100, elapsed=0.06)
    assert limit.limit < 20


@pytest.mark.parametrize("nonsense", [1e308, 86400.0, math.inf, math.nan, -1.0])
def test_times_that_are_none_do_not_make_a_gradient_blind(nonsense: float) -> None:
    limit = Gradient(1000)
    feed(limit, 600, load=1)
    feed(limit, 600, elapsed=nonsense, load=1)
    feed(limit, 100, elapsed=0.04)
    assert limit.limit < 20


def test_gradient_forgives_half_as_much_again() -> None:
    calm, slow = Gradient(1000), Gradient(1000)
    for limit, elapsed in ((calm, 0.0145), (slow, 0.025)):
        feed(limit, 200, load=1)
        for _ in range(5):
            feed(limit, limit.limit, elapsed=elapsed)
    assert slow.limit < 20 < calm.limit


def test_gradient_takes_few_failures_lightly() -> None:
    limit = Gradient(1000)
    for number in range(20_000):
        limit.sample(0.01, limit.limit, number % 50 == 0)
    assert limit.limit > 100


def probes(limit: Gradient, samples: int, elapsed: float = 0.01) -> list[int]:
    """The numbers of the samples after which a probe began."""
    found, before = [], limit.limit
    for number in range(samples):
        limit.sample(elapsed, limit.limit, False)
        if limit.limit * 3 <= before:
            found.append(number)
        before = limit.limit
    return found


def test_gradient_probes_seldom_and_comes_back_to_where_it_was() -> None:
    limit = Gradient(50)
    assert 5 <= len(probes(limit, 40_000)) <= 9
    assert limit.limit == 50


def test_gradient_does_not_probe_where_the_limit_holds_nobody_back() -> None:
    limit = Gradient(50)
    seen = set()
    for _ in range(40_000):
        limit.sample(0.01, limit.limit - 1, False)
        seen.add(limit.limit)
    assert min(seen) == 20


def to_the_probe(limit: Gradient) -> int:
    """Up to the first probe, past the requests sent before it; the limit before it."""
    before = limit.limit
    while limit.limit >= before:
        before = limit.limit
        limit.sample(0.01, limit.limit, False)
    feed(limit, before)
    assert limit.limit == before // 4
    return before


@pytest.mark.parametrize("elapsed", [0.01, 0.001, None])
def test_a_probe_ends_where_it_began(elapsed: float | None) -> None:
    limit = Gradient(1000)
    before = to_the_probe(limit)
    feed(limit, 29, elapsed)
    assert limit.limit == before // 4
    feed(limit, 1, elapsed)
    # The round in which the probe began has earned its step.
    assert before <= limit.limit <= before + 1


def test_a_probe_that_mostly_failed_leaves_the_limit_low() -> None:
    limit = Gradient(1000)
    before = to_the_probe(limit)
    feed(limit, 30, None, failed=True)
    assert limit.limit == before // 4
    feed(limit, 10)
    assert limit.limit <= before // 4 + 1


def test_a_probe_that_finds_the_average_far_off_is_soon_followed_by_another() -> None:
    first = []
    for elapsed in (0.01, 0.005):
        limit = Gradient(50)
        to_the_probe(limit)
        feed(limit, 30, elapsed)
        first.append(probes(limit, 10_000, elapsed)[0])
    assert first[1] < first[0] / 5


# At a simulated server


@pytest.mark.parametrize(
    ("workers", "service", "overload"), [(4, 0.01, 3.0), (10, 0.01, 2.0), (10, 0.01, 1.2), (50, 0.02, 2.0)]
)
@pytest.mark.parametrize("spread", [None, even])
def test_gradient_converges_under_overload(
    workers: int, service: float, overload: float, spread: Callable[[random.Random], float] | None
) -> None:
    kind = {"spread": spread} if spread else {}
    simulation = Simulation(Gradient(1000), workers, service, rate=overload * workers / service, **kind)
    simulation.run(10)
    simulation.run(15)
    assert 1.0 * workers <= simulation.mean_limit() <= 3.5 * workers
    assert simulation.share_of_capacity() > 0.92
    assert simulation.p99() < 9 * service


@pytest.mark.parametrize(("workers", "service", "overload"), [(4, 0.01, 3.0), (10, 0.01, 2.0), (10, 0.01, 1.2)])
@pytest.mark.parametrize(("spread", "timeout"), [(None, 0.05), (even, 0.03)])
def test_aimd_converges_under_overload_where_there_is_a_timeout(
    workers: int,
    service: float,
    overload: float,
    spread: Callable[[random.Random], float] | None,
    timeout: float,
) -> None:
    kind = {"spread": spread} if spread else {}
    rate = overload * workers / service
    simulation = Simulation(Aimd(1000), workers, service, rate=rate, timeout=timeout, **kind)
    simulation.run(10)
    simulation.run(15)
    assert 1.0 * workers <= simulation.mean_limit() <= 3.5 * workers
    assert simulation.share_of_capacity() > 0.8
    assert simulation.failed < 0.2 * len(simulation.times)


@BOTH
def test_latency_stays_bounded_where_it_does_not_without_a_limit(name: str) -> None:
    found = {}
    for limit in (make_limit(name, 1000), None):  # type: ignore[arg-type]
        timeout = NEVER if name == "gradient" else 0.05
        simulation = Simulation(limit, 10, 0.01, rate=1500.0, timeout=timeout)
        simulation.run(10)
        found[limit is not None] = simulation.run(10)
    assert found[True].p99() < 0.1
    assert found[True].share_of_capacity() > 0.9
    if name == "gradient":
        assert found[False].p99() > 5.0
    else:
        # All that is sent waits until shortly before its timeout, and most of it is given up.
        assert found[False].failed > 4 * len(found[False].times)


@pytest.mark.parametrize("start", [2, 400])
def test_gradient_converges_from_wherever_it_begins(start: int) -> None:
    simulation = Simulation(Gradient(1000, initial=start), 10, 0.01, rate=2000.0)
    simulation.run(40)
    assert 10 <= simulation.run(10).mean_limit() <= 35


@BOTH
@pytest.mark.parametrize("shape", ["open", "closed"])
def test_it_follows_a_server_that_slows_down_five_times_and_recovers(name: str, shape: str) -> None:
    kind = {"rate": 2000.0} if shape == "open" else {"clients": 60}
    timeout = NEVER if name == "gradient" else 0.15
    simulation = Simulation(make_limit(name, 1000), 10, 0.01, timeout=timeout, **kind)  # type: ignore[arg-type]
    simulation.run(20)
    usual = simulation.run(10)
    level = usual.mean_limit()
    simulation.service *= 5
    simulation.run(2)
    at_once = simulation.run(3)
    assert min(at_once.limits) < 0.75 * level
    slow = simulation.run(30)
    if name == "gradient":
        assert 10 <= slow.mean_limit() <= 35
        assert slow.share_of_capacity() > 0.9
        assert slow.p99() < 9 * 0.05
    else:
        assert slow.mean_limit() < 0.5 * level
    simulation.service /= 5
    simulation.run(3)
    back = simulation.run(15)
    assert 0.6 * level <= back.mean_limit() <= 1.6 * level
    assert back.share_of_capacity() > 0.9


def test_gradient_bears_times_that_vary_much() -> None:
    simulation = Simulation(Gradient(1000), 10, 0.01, rate=2000.0, spread=mixed)
    simulation.run(10)
    simulation.run(40)
    assert 10 <= simulation.mean_limit() <= 40
    assert simulation.share_of_capacity() > 0.75


@BOTH
def test_it_stays_out_of_the_way_of_a_server_that_keeps_up(name: str) -> None:
    timeout = NEVER if name == "gradient" else 0.25
    simulation = Simulation(make_limit(name, 1000), 10, 0.01, rate=600.0, timeout=timeout)  # type: ignore[arg-type]
    simulation.run(5)
    simulation.run(20)
    assert simulation.refused < 0.001 * len(simulation.times)


@BOTH
def test_the_same_seed_is_the_same_run(name: str) -> None:
    def limits(seed: int) -> list[int]:
        limit = make_limit(name, 1000)  # type: ignore[arg-type]
        return Simulation(limit, 4, 0.01, rate=800.0, timeout=0.04, seed=seed).run(3).limits

    assert limits(1) == limits(1) != limits(2)
