"""The kit catches what it says it catches: a deliberately broken plugin for each law."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

import router
from router import Eject, Options, Tools
from router.testing import (
    FakeClock,
    check_affinity,
    check_detector,
    check_selector,
    make_candidates,
    make_endpoints,
    make_exchange,
    make_members,
    make_tools,
)


class Drawn:
    """A right selector, which each broken one changes in one point."""

    def __init__(self, options: Any, tools: Tools) -> None:
        self.options = options
        self.rng = tools.rng

    def choose(self, candidates: Any, exchange: Any) -> Any:
        return self.rng.choices(candidates, [endpoint.weight for endpoint in candidates])[0]


class Remembers(Drawn):
    def __init__(self, options: Any, tools: Tools) -> None:
        super().__init__(options, tools)
        self.members: Any = []

    def update(self, endpoints: Any) -> None:
        self.members = endpoints


class AnyMember(Remembers):
    def choose(self, candidates: Any, exchange: Any) -> Any:
        return self.rng.choices(self.members, [endpoint.spec.weight for endpoint in self.members])[0]


class Nobody(Drawn):
    def choose(self, candidates: Any, exchange: Any) -> Any:
        return None


class AlwaysFirst(Drawn):
    def choose(self, candidates: Any, exchange: Any) -> Any:
        return candidates[0]


class IgnoresWeights(Drawn):
    def choose(self, candidates: Any, exchange: Any) -> Any:
        return self.rng.choice(candidates)


class StarvesLight(Drawn):
    """(load + 1) / weight: an idle light endpoint never wins against an idle heavy one."""

    def choose(self, candidates: Any, exchange: Any) -> Any:
        least = min((e.load + 1) / e.weight for e in candidates)
        return self.rng.choice([e for e in candidates if (e.load + 1) / e.weight == least])


class Heaviest(Drawn):
    def choose(self, candidates: Any, exchange: Any) -> Any:
        return max(candidates, key=lambda endpoint: endpoint.weight)


class GlobalChance(Drawn):
    def choose(self, candidates: Any, exchange: Any) -> Any:
        return random.choices(candidates, [endpoint.weight for endpoint in candidates])[0]


class TakesLoad(Drawn):
    def choose(self, candidates: Any, exchange: Any) -> Any:
        chosen = super().choose(candidates, exchange)
        chosen.load += 1
        return chosen


class Sorts(Drawn):
    def choose(self, candidates: Any, exchange: Any) -> Any:
        candidates.sort(key=lambda endpoint: -endpoint.address.port)
        return super().choose(candidates, exchange)


class DividesByWeights(Remembers):
    def update(self, endpoints: Any) -> None:
        self.members = [1 / endpoint.weight for endpoint in endpoints]


class CannotShrink(Remembers):
    def update(self, endpoints: Any) -> None:
        self.size = len(endpoints)

    def choose(self, candidates: Any, exchange: Any) -> Any:
        return candidates[int(self.rng.random() * self.size)]


class ChangingTurns(Drawn):
    """Smooth turns that start again, from zero, whenever `_restarts` says so."""

    def __init__(self, options: Any, tools: Tools) -> None:
        super().__init__(options, tools)
        self.credit: dict[Any, float] = {}

    def choose(self, candidates: Any, exchange: Any) -> Any:
        for endpoint in candidates:
            self.credit[endpoint] = self.credit.get(endpoint, 0) + endpoint.weight
        chosen = max(candidates, key=lambda endpoint: (self.credit[endpoint], -endpoint.address.port))
        self.credit[chosen] -= sum(endpoint.weight for endpoint in candidates)
        return chosen


class ForgetsOnUpdate(ChangingTurns):
    def update(self, endpoints: Any) -> None:
        self.credit = {endpoint: self.rng.random() for endpoint in endpoints}


class ForgetsOnChange(ChangingTurns):
    members: tuple[Any, ...] = ()

    def update(self, endpoints: Any) -> None:
        if tuple(endpoints) != self.members:
            self.members = tuple(endpoints)
            self.credit = {endpoint: self.rng.random() / 2 for endpoint in endpoints}


class DrawsOnUpdate(Drawn):
    def update(self, endpoints: Any) -> None:
        self.rng.random()


class LastPlace(Drawn):
    """Right shares in every fixed order, by weight; among equals it follows the place."""

    def choose(self, candidates: Any, exchange: Any) -> Any:
        weights = [endpoint.weight for endpoint in candidates]
        if len(candidates) == 4 and len(set(weights)) == 1:
            return candidates[-1]
        return self.rng.choices(candidates, weights)[0]


class Keyed(Drawn):
    """Hashes a key that is the same for everybody."""

    def key(self, exchange: Any) -> int:
        return 7

    def choose(self, candidates: Any, exchange: Any) -> Any:
        ordered = sorted(candidates, key=lambda endpoint: str(endpoint.identity))
        return ordered[exchange.key % len(ordered)]


@pytest.mark.parametrize(
    ("broken", "sentence"),
    [
        (AnyMember, "only candidates are returned"),
        (Nobody, "only candidates are returned"),
        (AlwaysFirst, "shares follow weights"),
        (IgnoresWeights, "shares follow weights"),
        (StarvesLight, "shares follow weights"),
        (Heaviest, "shares follow weights"),
        (Keyed, "shares follow weights"),
        (GlobalChance, "the same seed gives the same picks"),
        (TakesLoad, "changes neither the candidates nor an endpoint"),
        (Sorts, "changes neither the candidates nor an endpoint"),
        (DividesByWeights, "update never raises"),
        (CannotShrink, "choose never raises"),
        (ForgetsOnUpdate, "an update in which nothing changed changes no pick"),
        (DrawsOnUpdate, "an update in which nothing changed changes no pick"),
        (LastPlace, "shares follow weights, whatever the order|no position among the candidates"),
        (ChangingTurns, "a rebuild favours neither the first nor the heaviest"),
        (ForgetsOnChange, "neither the first nor the heaviest"),
    ],
)
def test_each_law_catches_what_breaks_it(broken: Any, sentence: str) -> None:
    with pytest.raises(AssertionError, match=f"broken law: .*({sentence})"):
        check_selector(broken)


class ByPlaceOnce(Drawn):
    """Even over any fixed order, uneven over positions when the order changes under it."""

    def choose(self, candidates: Any, exchange: Any) -> Any:
        ports = [endpoint.address.port for endpoint in candidates]
        if len(ports) == 4 and len({e.weight for e in candidates}) == 1 and ports != sorted(ports):
            return candidates[self.rng.choices(range(4), [1, 1, 1, 3])[0]]
        return super().choose(candidates, exchange)


def test_the_law_of_positions_stands_alone() -> None:
    with pytest.raises(AssertionError, match="no position among the candidates is favoured"):
        check_selector(ByPlaceOnce)


class FreshTurns(ForgetsOnChange):
    """Starts well, but any change of membership starts it again with the heaviest."""

    started = False

    def update(self, endpoints: Any) -> None:
        super().update(endpoints)
        if not self.started:
            self.started = True
            for _ in range(self.rng.randrange(70)):
                self.choose(endpoints, None) if any(e.weight for e in endpoints) else None


def test_the_law_of_changes_stands_alone() -> None:
    with pytest.raises(AssertionError, match="a change of membership favours neither the first nor the heaviest"):
        check_selector(FreshTurns)


class Bare:
    def choose(self, candidates: Any, exchange: Any) -> Any:
        return max(candidates, key=lambda endpoint: endpoint.address.port)


class Rendezvous:
    """A right selector that hashes."""

    class Options(Options, frozen=True):
        salt: int = 1

    def __init__(self, options: Any, tools: Tools) -> None:
        self.salt = options.salt

    def key(self, exchange: Any) -> int:
        return random.Random(exchange.client + exchange.target).getrandbits(64)

    def choose(self, candidates: Any, exchange: Any) -> Any:
        def score(endpoint: Any) -> float:
            draw = random.Random(f"{exchange.key}{endpoint.identity}{self.salt}").random()
            return float(draw ** (1 / endpoint.weight))

        return max(candidates, key=score)


class Typed(router.Selector):
    def choose(self, candidates: Any, exchange: Any) -> Any:
        return max(candidates, key=lambda endpoint: endpoint.address.port)


def test_right_selectors_pass() -> None:
    check_selector(Drawn)
    check_selector(Remembers, Options())
    check_selector(Rendezvous, tolerance=0.05)
    check_selector(Bare, by_weight=False)
    check_selector(Typed, by_weight=False)
    check_selector(lambda options, tools: Drawn(options, tools), exchange=lambda n: make_exchange(target=f"/{n}"))


def test_a_check_leaves_the_global_generator_alone() -> None:
    random.seed(3)
    before = random.getstate()
    check_selector(Drawn)
    assert random.getstate() == before


class Session:
    """A right affinity: a cookie that names the endpoint."""

    def find(self, members: Any, exchange: Any) -> Any:
        return members.get((exchange.header("Cookie") or "").partition("id=")[2])

    def remember(self, endpoint: Any, exchange: Any, headers: Any) -> None:
        headers.append((b"Set-Cookie", b"id=" + endpoint.identity.encode() + b"; HttpOnly"))


def affinity(**methods: Callable[..., Any]) -> type[Any]:
    return type("Broken", (Session,), methods)


def _clear(self: Any, endpoint: Any, exchange: Any, headers: Any) -> None:
    headers.clear()


def _text(self: Any, endpoint: Any, exchange: Any, headers: Any) -> None:
    headers.append(("Set-Cookie", "id=1"))


def _wrong(self: Any, endpoint: Any, exchange: Any, headers: Any) -> None:
    headers.append((b"Set-Cookie", b"id=nobody"))


def _fails(self: Any, *arguments: Any) -> None:
    raise KeyError("id")


@pytest.mark.parametrize(
    ("broken", "sentence"),
    [
        (affinity(find=_fails), "find never raises"),
        (affinity(remember=_fails), "remember never raises"),
        (affinity(find=lambda self, members, exchange: make_endpoints(1)[0]), "find returns a member or None"),
        (affinity(find=lambda self, members, exchange: next(iter(members))), "find never raises|returns a member"),
        (
            affinity(find=lambda self, members, exchange: random.choice([None, *members.values()])),
            "the same request finds the same endpoint",
        ),
        (affinity(remember=_clear), "leaves the others alone"),
        (affinity(remember=_text), "pairs of bytes"),
        (affinity(remember=_wrong), "a client that returns its cookie finds its endpoint"),
    ],
)
def test_affinity_laws(broken: Any, sentence: str) -> None:
    check_affinity(Session)
    with pytest.raises(AssertionError, match=sentence):
        check_affinity(broken)


class Consecutive:
    """A right detector: three failures in a row."""

    def __init__(self) -> None:
        self.failures: dict[Any, int] = {}

    def observe(self, endpoint: Any, outcome: Any, now: float) -> Eject | None:
        count = self.failures.get(endpoint, 0) + 1 if outcome.result == "failure" else 0
        self.failures[endpoint] = count
        return Eject("three failures") if count >= 3 else None

    def tick(self, endpoints: Any, now: float) -> None:
        pass

    def forget(self, endpoint: Any) -> None:
        self.failures.pop(endpoint, None)


def detector(**methods: Callable[..., Any]) -> Any:
    kind = type("Broken", (Consecutive,), methods)
    return lambda options, tools: kind()


def _shares_one_count(self: Any, endpoint: Any, outcome: Any, now: float) -> Eject | None:
    self.failures[0] = self.failures.get(0, 0) + (outcome.result == "failure")
    return Eject("many failures") if self.failures[0] >= 3 else None


def _lowers_weight(self: Any, endpoint: Any, outcome: Any, now: float) -> None:
    endpoint.weight = 0.5


@pytest.mark.parametrize(
    ("broken", "sentence"),
    [
        (detector(observe=_fails), "observe never raises"),
        (detector(observe=lambda self, endpoint, outcome, now: True), "observe returns Eject or None"),
        (detector(observe=_shares_one_count), "an endpoint that only succeeds is not ejected"),
        (detector(observe=_lowers_weight), "a detector changes no endpoint"),
        (detector(tick=_fails), "tick never raises"),
        (detector(forget=lambda self, endpoint: None), "forget drops what was observed"),
        (detector(forget=lambda self, endpoint: self.failures.pop(endpoint)), "for an unknown endpoint either"),
    ],
)
def test_detector_laws(broken: Any, sentence: str) -> None:
    with pytest.raises(AssertionError, match=sentence):
        check_detector(broken)


def test_right_detectors_pass() -> None:
    check_detector(lambda options, tools: Consecutive())
    check_detector(detector(forget=None))  # type: ignore[arg-type]


def test_the_clock_moves_only_when_told() -> None:
    clock = FakeClock(5)
    assert clock() == clock() == 5
    assert clock.advance(2.5) == clock() == 7.5
    with pytest.raises(ValueError, match="backwards"):
        clock.advance(-1)


def test_tools_repeat_with_the_same_seed() -> None:
    assert make_tools(3).rng.random() == make_tools(3).rng.random() != make_tools(4).rng.random()
    assert make_tools(clock=FakeClock(9)).clock() == 9


def test_made_endpoints() -> None:
    endpoints = make_endpoints(5, 0, pool="web", zone="a")
    assert [(e.weight, e.spec.weight, e.pool, e.spec.zone, e.load) for e in endpoints] == [
        (5, 5, "web", "a", 0),
        (0, 0, "web", "a", 0),
    ]
    assert len({endpoint.identity for endpoint in endpoints}) == 2
    assert len(make_endpoints()) == 3
    candidates = make_candidates(endpoints)
    assert all(endpoint in candidates for endpoint in endpoints)
    assert list(make_members(endpoints).values()) == endpoints


def test_made_exchanges() -> None:
    exchange = make_exchange("POST", "/a?b", headers=[("X-Key", "1"), ("x-key", "2")], host="h", client="::1")
    assert (exchange.method, exchange.path, exchange.query, exchange.host, exchange.client) == (
        "POST",
        "/a",
        "b",
        "h",
        "::1",
    )
    assert exchange.header("x-KEY") == "1"
    assert exchange.header("nothing") is None
    assert exchange.raw_headers == ((b"Host", b"h"), (b"X-Key", b"1"), (b"x-key", b"2"))
    assert list(make_exchange(headers={"A": "1"}).headers) == ["Host", "A"]
    assert len(exchange.headers) == 2


def test_a_made_exchange_has_the_head_of_its_request() -> None:
    exchange = make_exchange("PUT", "/a%2Fb?c", headers={"X-A": " 1 ", "x-b": "ä\udcff"}, host="h:1")
    assert exchange.head == b"PUT /a%2Fb?c HTTP/1.1\r\nHost: h:1\r\nX-A:  1 \r\nx-b: \xc3\xa4\xff\r\n\r\n"
    assert dict(exchange.headers) == {"Host": "h:1", "X-A": "1", "x-b": "ä\udcff"}
    assert exchange.raw_headers == ((b"Host", b"h:1"), (b"X-A", b"1"), (b"x-b", b"\xc3\xa4\xff"))


@pytest.mark.parametrize(
    "parts",
    [
        {"headers": {"X-A": "1\r\nX-B: 2"}},
        {"headers": [("X-A", "1\n")]},
        {"headers": {"X-A\r": "1"}},
        {"target": "/ HTTP/1.1\r\nX-A: 1"},
        {"method": "GET\n"},
        {"host": "a\r"},
    ],
)
def test_an_exchange_that_no_request_can_make_is_not_made(parts: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="line end"):
        make_exchange(**parts)
