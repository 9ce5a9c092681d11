"""The bundled detectors do what their definitions say, alone and in a pool that serves simulated traffic."""

from __future__ import annotations

import heapq
import random
from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest

from router import Eject, Endpoint, EndpointSpec, Outcome, Tools
from router.errors import BodyError, ConnectError, Outpaced, ResetError, UpstreamTimeout
from router.model import Attempt
from router.options import PluginFault
from router.plugins import Registry
from router.policy.dispatch import Dispatch
from router.policy.pool import Pool
from router.testing import check_detector, make_endpoints, make_exchange, make_tools

NAMES = ["consecutive", "error_rate", "latency"]
NOW = 1000.0
REFUSED = Outcome("failure", phase="connect", sent=False, error=ConnectError("refused"))
RESET = Outcome("failure", phase="head", error=ResetError("reset"))
LATE = Outcome("failure", phase="head", error=UpstreamTimeout("late"))
BROKEN = Outcome("failure", phase="body", status=200, elapsed=0.01, error=BodyError("short"))
NEUTRAL = Outcome("neutral", status=503, elapsed=9.0)


def detector(name: str, **options: Any) -> Any:
    return Registry.load(strict=True).resolve("detector", {"use": name, **options}, None).make(make_tools())


def answered(status: int = 200, elapsed: float = 0.01) -> Outcome:
    """As Dispatch tells it: 502, 503 and 504 are failures."""
    if status in (502, 503, 504):
        return Outcome("failure", phase="head", status=status, elapsed=elapsed)
    return Outcome("success", status=status, elapsed=elapsed)


def verdicts(watcher: Any, endpoint: Endpoint, *outcomes: Outcome, now: float = NOW) -> list[Eject | None]:
    return [watcher.observe(endpoint, outcome, now) for outcome in outcomes]


@pytest.fixture
def endpoint() -> Endpoint:
    return make_endpoints(1)[0]


# What all of them have in common.


def test_they_come_through_the_entry_point() -> None:
    registry = Registry.load(strict=True)
    entries = {entry.name: entry for entry in registry.entries if entry.concern == "detector"}
    assert entries.keys() >= set(NAMES)
    assert {entries[name].plugin for name in NAMES} == {"health"}
    assert registry.describe(entries["error_rate"]) == [
        ("window", "duration", '"10s"'),
        ("requests", "int >= 1 <= 1000000", "20"),
        ("over", "share", '"50%"'),
    ]


@pytest.mark.parametrize("name", NAMES)
def test_they_keep_the_published_laws(name: str) -> None:
    entry = Registry.load(strict=True).resolve("detector", name, None).entry
    check_detector(entry.factory, entry.options())


@pytest.mark.parametrize("name", NAMES)
def test_neutral_says_nothing_and_takes_no_memory(name: str, endpoint: Endpoint) -> None:
    watcher = detector(name)
    assert verdicts(watcher, endpoint, *[NEUTRAL] * 100) == [None] * 100
    assert not any(getattr(watcher, kept) for kept in ("_rows", "_windows", "_averages") if hasattr(watcher, kept))


@pytest.mark.parametrize("name", NAMES)
def test_forgetting_leaves_nothing(name: str) -> None:
    watcher, endpoints = detector(name), make_endpoints(*[1] * 9)
    kept = next(getattr(watcher, kept) for kept in ("_rows", "_windows", "_averages") if hasattr(watcher, kept))
    for endpoint in endpoints:
        verdicts(watcher, endpoint, answered(200), REFUSED)
    assert len(kept) == 9
    for endpoint in endpoints:
        watcher.forget(endpoint)
    assert not kept


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("consecutive", {"failures": 0}, "failures"),
        ("consecutive", {"statuses": [200]}, "statuses"),
        ("consecutive", {"statuses": ["503"]}, "statuses"),
        ("consecutive", {"failure": 3}, 'did you mean "failures"?'),
        ("error_rate", {"window": "0s"}, "window must be"),
        ("error_rate", {"window": "none"}, "window must be"),
        ("error_rate", {"over": "100%"}, "over must be below"),
        ("error_rate", {"over": 0.5}, "a share is written like"),
        ("error_rate", {"requests": 0}, "requests"),
        ("latency", {"factor": 1}, "factor"),
        ("latency", {"factor": float("inf")}, "factor must be a finite number"),
        ("latency", {"factor": float("nan")}, "factor"),
        ("latency", {"floor": "none"}, "floor must be a time"),
    ],
)
def test_nonsense_is_refused_with_its_place(name: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(PluginFault) as caught:
        detector(name, **options)
    assert f'detector "{name}"' in str(caught.value)
    assert words in str(caught.value)


# Failures in a row.


@pytest.mark.parametrize(
    ("outcome", "verdict"),
    [
        (REFUSED, Eject("5 × connect failed", connection=True)),
        (RESET, Eject("5 × reset in head", connection=True)),
        (BROKEN, Eject("5 × reset in body", connection=True)),
        (answered(502), Eject("5 × status 502")),
        (answered(504), Eject("5 × status 504")),
        (Outcome("failure"), Eject("5 × failure", connection=True)),
    ],
)
def test_five_in_a_row_eject(outcome: Outcome, verdict: Eject, endpoint: Endpoint) -> None:
    assert verdicts(detector("consecutive"), endpoint, *[outcome] * 5) == [None] * 4 + [verdict]


def test_two_late_answers_in_a_row_eject_within_the_share_and_five_beyond(endpoint: Endpoint) -> None:
    found = verdicts(detector("consecutive"), endpoint, LATE, *[LATE] * 4)
    assert found[:2] == [None, Eject("2 × timeout in head", connection=False)]
    assert found[4] == Eject("5 × timeout in head", connection=True)
    assert verdicts(detector("consecutive"), endpoint, LATE, answered(), LATE, RESET, LATE) == [None] * 5
    mixed = verdicts(detector("consecutive"), endpoint, RESET, LATE, LATE)
    assert mixed == [None, None, Eject("3 failures in a row, the last: timeout in head", connection=False)]
    patient = verdicts(detector("consecutive", timeouts=5), endpoint, *[LATE] * 5)
    assert patient == [None] * 4 + [Eject("5 × timeout in head", connection=True)]


def test_hedges_lost_in_a_row_eject_and_a_success_forgives_them(endpoint: Endpoint) -> None:
    lost = Outcome("neutral", elapsed=0.01, error=Outpaced())
    found = verdicts(detector("consecutive"), endpoint, *[lost] * 20)
    assert found == [None] * 19 + [Eject("20 × slower than a hedge")]
    forgiven = verdicts(detector("consecutive"), endpoint, *[lost] * 19, answered(), *[lost] * 19)
    assert forgiven == [None] * 39


@pytest.mark.parametrize("slow", [0.3, 5.0])
def test_one_slow_answer_is_no_slow_server(slow: float) -> None:
    watcher = detector("latency")
    endpoints = make_endpoints(1, 1, 1)
    for _ in range(40):
        for endpoint in endpoints:
            assert watcher.observe(endpoint, answered(elapsed=0.001), NOW) is None
    watcher.tick(endpoints, NOW)
    assert watcher.observe(endpoints[0], answered(elapsed=slow), NOW) is None
    watcher.tick(endpoints, NOW + 1)
    assert verdicts(watcher, endpoints[0], *[answered(elapsed=0.001)] * 20) == [None] * 20
    found = verdicts(watcher, endpoints[0], *[answered(elapsed=slow)] * 20)
    assert any(found)
    assert found[0] is None


def test_a_success_ends_the_row_and_neutral_does_not(endpoint: Endpoint) -> None:
    watcher = detector("consecutive", failures=2)
    assert verdicts(watcher, endpoint, RESET, answered(200), RESET) == [None] * 3
    assert verdicts(watcher, endpoint, NEUTRAL, RESET)[1] == Eject("2 × reset in head", connection=True)


def test_a_row_of_many_kinds_names_its_last(endpoint: Endpoint) -> None:
    watcher = detector("consecutive", failures=3)
    found = verdicts(watcher, endpoint, answered(503), RESET, REFUSED, REFUSED)
    assert found[2] == Eject("3 failures in a row, the last: connect failed", connection=False)
    assert found[3] == Eject("4 failures in a row, the last: connect failed", connection=True)


def test_which_statuses_count_is_an_option(endpoint: Endpoint) -> None:
    one = {"failures": 1}
    default = verdicts(detector("consecutive", **one), endpoint, answered(501), answered(429), answered(500))
    assert default == [None, None, Eject("1 × status 500")]
    chosen = detector("consecutive", statuses=[429, 503], **one)
    found = verdicts(chosen, endpoint, answered(429), answered(502), answered(503))
    assert found == [Eject("1 × status 429"), None, Eject("1 × status 503")]


# The share of failures.


def test_more_than_half_of_at_least_twenty_eject(endpoint: Endpoint) -> None:
    watcher = detector("error_rate")
    assert verdicts(watcher, endpoint, *[answered(200)] * 10, *[RESET] * 10) == [None] * 20
    assert verdicts(watcher, endpoint, RESET) == [Eject("52% of 21 requests failed within 10 s")]
    assert verdicts(watcher, endpoint, *[RESET] * 19) == [None] * 19, "the verdict starts the count anew"


def test_half_is_not_over_half(endpoint: Endpoint) -> None:
    mixed = [answered(200), RESET] * 500
    assert set(verdicts(detector("error_rate"), endpoint, *mixed)) == {None}


@pytest.mark.parametrize(("later", "ejects"), [(8.9, True), (10.1, False), (500.0, False)])
def test_the_window_slides(later: float, ejects: bool, endpoint: Endpoint) -> None:
    watcher = detector("error_rate")
    verdicts(watcher, endpoint, *[RESET] * 19)
    assert (watcher.observe(endpoint, RESET, NOW + later) is not None) is ejects


def test_sums_agree_with_a_list_of_all_requests(endpoint: Endpoint) -> None:
    """Against the plain way, over random times: to the bucket the same."""
    watcher, rng, now = detector("error_rate", over="99%", window="1s"), random.Random(3), NOW
    seen: list[tuple[int, bool]] = []
    for _ in range(3000):
        now += rng.choice((0.0, 0.01, 0.09, 0.3, 1.2))
        failed = rng.random() < 0.4
        watcher.observe(endpoint, RESET if failed else answered(200), now)
        bucket = int(now / 0.1)
        seen = [(at, bad) for at, bad in seen if at > bucket - 10] + [(bucket, failed)]
        window = watcher._windows[endpoint]
        assert (window.total, window.failed) == (len(seen), sum(bad for _, bad in seen))


# Latency.


def served(watcher: Any, endpoints: list[Endpoint], *seconds: float, times: int = 40) -> list[Eject | None]:
    """Everybody's answers in turn, and a tick before each turn."""
    found = []
    for turn in range(times):
        watcher.tick(endpoints, NOW + turn)
        found += [watcher.observe(e, answered(200, s), NOW + turn) for e, s in zip(endpoints, seconds, strict=True)]
    return [verdict for verdict in found if verdict is not None]


def test_five_times_the_median_ejects() -> None:
    found = served(detector("latency"), make_endpoints(1, 1, 1), 0.02, 0.02, 0.15, times=22)
    assert found == [Eject("average latency 150 ms, over 5 x the pool's median of 20 ms")]


@pytest.mark.parametrize(
    ("options", "seconds", "times"),
    [
        ({}, (0.02, 0.02, 0.09), 100),  # under five times
        ({}, (0.02, 0.2), 100),  # of two, nobody knows which is the odd one
        ({}, (0.02, 0.02, 0.2), 19),  # too few samples
        ({}, (0.0002, 0.0002, 0.009), 100),  # below the floor
        ({"factor": 20}, (0.02, 0.02, 0.2), 100),
    ],
)
def test_what_is_not_too_slow(options: dict[str, Any], seconds: tuple[float, ...], times: int) -> None:
    endpoints = make_endpoints(*[1] * len(seconds))
    assert served(detector("latency", **options), endpoints, *seconds, times=times) == []


def test_half_of_a_pool_may_be_slow() -> None:
    assert len(served(detector("latency"), make_endpoints(1, 1, 1, 1), 0.02, 0.02, 0.5, 0.5, times=22)) == 2


def test_one_slow_answer_is_no_slow_endpoint() -> None:
    watcher, endpoints = detector("latency"), make_endpoints(1, 1, 1)
    assert served(watcher, endpoints, 0.02, 0.02, 0.02) == []
    assert watcher.observe(endpoints[2], answered(200, 0.8), NOW + 41) is None


def test_failures_are_no_samples() -> None:
    watcher, endpoints = detector("latency"), make_endpoints(1, 1, 1, 1, 1)
    for endpoint in endpoints[2:]:
        verdicts(watcher, endpoint, *[answered(503, 0.001)] * 50)
    assert served(watcher, endpoints[:2], 0.2, 0.2) == []


def test_with_too_few_peers_left_nobody_is_judged() -> None:
    watcher, endpoints = detector("latency"), make_endpoints(1, 1, 1)
    served(watcher, endpoints, 0.02, 0.02, 0.02)
    watcher.forget(endpoints[0])
    watcher.tick(endpoints[1:], NOW + 41)
    assert set(verdicts(watcher, endpoints[1], *[answered(200, 9.0)] * 50)) == {None}


# In a pool.


class Traffic:
    """Clients in a closed loop at one pool, on a clock that is a number."""

    def __init__(self, pool: Pool, behaviour: Any) -> None:
        self.pool = pool
        self.behaviour = behaviour
        self.now = NOW
        self.order = count()
        self.under_way: list[tuple[float, int, Dispatch, Attempt, Outcome]] = []

    def send(self) -> None:
        dispatch = Dispatch(self.pool, make_exchange("POST"))
        attempt = dispatch.next(self.now)
        assert isinstance(attempt, Attempt)
        attempt.sent_at = self.now
        outcome = self.behaviour(attempt.endpoint)
        heapq.heappush(self.under_way, (self.now + outcome.elapsed, next(self.order), dispatch, attempt, outcome))

    def run(self, seconds: float, clients: int = 40) -> Iterator[tuple[float, Outcome]]:
        """Yields when each request ended, in seconds from the start, and how."""
        while len(self.under_way) < clients:
            self.send()
        while self.now < NOW + seconds:
            self.now, _, dispatch, attempt, outcome = heapq.heappop(self.under_way)
            dispatch.head(attempt, outcome.status, self.now)
            dispatch.ended(attempt, None, self.now)
            dispatch.close(self.now)
            yield self.now - NOW, outcome
            self.send()


def pool_of(count: int, selection: str, *detectors: Any) -> Pool:
    registry, tools = Registry.load(strict=True), Tools(lambda: NOW, random.Random(5))
    selector = registry.resolve("selection", selection, None).make(tools)
    pool = Pool("web", selector, rng=random.Random(7), detectors=detectors)
    pool.update([EndpointSpec(url=f"http://127.0.0.1:{9001 + n}", id=f"e{n}") for n in range(count)], NOW)
    return pool


@pytest.mark.parametrize("name", ["consecutive", "error_rate"])
@pytest.mark.parametrize("selection", ["least_request", "random", "round_robin"])
def test_a_sinkhole_swallows_under_one_percent(selection: str, name: str) -> None:
    """One of twenty fails each request in 1 ms, so whoever asks for the least busy asks it first."""
    rng = random.Random(11)

    def behaviour(endpoint: Endpoint) -> Outcome:
        return answered(503, 0.001) if endpoint.identity == "e7" else answered(200, rng.uniform(0.01, 0.03))

    pool, changes = pool_of(20, selection, detector(name)), []
    pool.changed = lambda endpoint, cause: changes.append((endpoint.identity, cause))
    ended = list(Traffic(pool, behaviour).run(8))
    failed = [at for at, outcome in ended if outcome.result == "failure"]
    assert failed, "the sinkhole was met"
    assert len(failed) < 0.01 * len(ended)
    assert not [at for at in failed if at > 2.5]
    assert [identity for identity, _ in changes] == ["e7"]
    assert changes[0][1].startswith("ejected for 30 s: ")


def test_without_a_detector_the_sinkhole_swallows_most() -> None:
    """So the test above would notice."""

    def behaviour(endpoint: Endpoint) -> Outcome:
        return answered(503, 0.001) if endpoint.identity == "e7" else answered(200, 0.02)

    ended = list(Traffic(pool_of(20, "least_request"), behaviour).run(1, clients=10))
    assert sum(outcome.result == "failure" for _, outcome in ended) > 0.05 * len(ended)


def test_a_slow_endpoint_leaves_within_seconds() -> None:
    def behaviour(endpoint: Endpoint) -> Outcome:
        return answered(200, 0.3 if endpoint.identity == "e1" else 0.02)

    pool, changes = pool_of(3, "random", detector("latency")), []
    pool.changed = lambda endpoint, cause: changes.append((endpoint.identity, cause))
    assert list(Traffic(pool, behaviour).run(5))
    assert [identity for identity, _ in changes] == ["e1"]
    assert "average latency 300 ms" in changes[0][1]
