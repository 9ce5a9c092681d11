"""An explanation as text: JSON in ASCII, never longer than it may be, and whole wherever there is room."""

from __future__ import annotations

import json
import random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router import EndpointSpec, Explanation
from router.explanation import Choice, LeftEndpoint, LeftOut, Option, PoolVerdict, Retries, Waiting
from router.policy.dispatch import Dispatch
from router.policy.explaining import explain_decision
from router.policy.limits import Limits
from router.policy.pool import Pool
from router.policy.retry import RetryRule
from router.policy.routes import Route, RouteTable
from router.policy.table import Table
from router.testing import make_exchange

#: What the response field may be long.
FIELD = 4096
WIDE = "\U0001f9ed"
#: Names as a registry, a file or a plugin may give them.
NAMES = st.text(st.characters(exclude_categories=("Cs",)), max_size=60)


def pool(name: str, count: int, *, named: str = "server-{}") -> PoolVerdict:
    """A verdict with as much in it as explaining.py ever says, with ten endpoints in each list."""
    shown = [named.format(number) for number in range(min(count, 10))]
    options = tuple(Option(each, 3, 1.5, share=1 / count) for each in shown)
    out = tuple(LeftEndpoint(each, "5 failures in a row; back in 21 s") for each in shown)
    return PoolVerdict(
        name=name,
        share=0.5,
        selection="least_request",
        members=2 * count,
        ready=count,
        in_flight=7,
        decision=f"one of {count}, by chance",
        affinity="names none",
        left_out=(LeftOut("ejected", count, out), LeftOut("draining", count, out)),
        choices=(Choice(0, 0.5, count, options), Choice(1, 0.5, count, options)),
        waiting=Waiting("others wait already", 1, 8, 1.0),
        retries=Retries(2, ("connect", "timeout"), 10.0),
    )


def read(text: str, limit: int) -> Explanation:
    """The text read again; looks at what holds of each."""
    assert text.isascii()
    assert text.isprintable(), "it stands in a header field"
    assert len(text) <= limit
    return msgspec.json.decode(text, type=Explanation)


def test_where_there_is_room_all_of_it_stands() -> None:
    said = Explanation("GET http://h/", "web", "router.toml:7", pools=(pool("web", 3),), chosen="server-1")
    assert read(said.text(FIELD), FIELD) == said
    assert read(said.text(len(said.text(FIELD))), FIELD) == said
    assert said.text(1 << 20) == said.text(FIELD)


def test_where_there_is_none_the_lists_are_cut_first() -> None:
    said = Explanation("GET http://h/", "web", pools=(pool("web", 5000),), chosen="server-1")
    whole, lengths = len(said.text(1 << 20)), set()
    for limit in range(whole, 1100, -50):
        cut = read(said.text(limit), limit)
        (verdict,) = cut.pools
        lengths.add(tuple(len(choice.options) for choice in verdict.choices))
        assert cut.chosen == "server-1"
        assert (verdict.decision, verdict.members, verdict.ready) == ("one of 5000, by chance", 10_000, 5000)
        assert {group.count for group in verdict.left_out} == {5000}
        assert all(choice.count == 5000 for choice in verdict.choices)
    assert lengths >= {(10, 10), (3, 3), (1, 1)}


def test_the_more_room_the_more_is_said() -> None:
    said = Explanation("GET http://h/", pools=tuple(pool(f"pool-{n}", 40) for n in range(12)))
    sizes = [len(said.text(limit)) for limit in range(200, 40_000, 200)]
    assert sizes == sorted(sizes)
    assert sizes[-1] == len(msgspec.json.encode(said))


@pytest.mark.parametrize("limit", [64, 100, 200, 512, 1024, FIELD])
@pytest.mark.parametrize("letter", ["x", "\u00e9", "\u4f60", WIDE, '"', "\\", "\x00", "\x1b", "\x7f", "\u2028"])
def test_no_name_makes_it_longer_than_it_may_be(letter: str, limit: int) -> None:
    long = letter * 5000
    for said in (
        Explanation(long),
        Explanation("GET /", long, long, long, None, long, (long,), (), long),
        Explanation("GET /", chosen=long, pools=(pool(long, 30, named=long + "{}"),)),
        Explanation(long, chosen=long, pools=tuple(pool(letter * 20, 30) for _ in range(300))),
    ):
        read(said.text(limit), limit)


def test_letters_that_are_not_ascii_come_back_as_they_were() -> None:
    said = Explanation("GET http://h/", "caf\u00e9", chosen=f"\u4f60{WIDE}", pools=(pool("p\u00f6l", 2),))
    assert read(said.text(FIELD), FIELD) == said


@pytest.mark.parametrize("limit", [100, FIELD])
def test_half_a_letter_is_no_trouble(limit: int) -> None:
    """What a plugin read from a file or from the wire may hold lone surrogates."""
    said = Explanation("GET /", "\ud83e", chosen="\udced", reason="\udc80" * 400)
    text = said.text(limit)
    assert text.isascii()
    assert len(text) <= limit
    assert json.loads(text)["chosen"] == "\udced"


@settings(max_examples=60, deadline=None)
@given(
    st.integers(64, 6000),
    st.lists(st.tuples(NAMES, st.integers(1, 10_000), NAMES), max_size=5),
    NAMES,
    NAMES,
)
def test_whatever_it_says(limit: int, pools: list[tuple[str, int, str]], request: str, chosen: str) -> None:
    made = tuple(pool(name, count, named=f"{plain(named)}{{}}") for name, count, named in pools)
    said = Explanation(request, pools=made, chosen=chosen)
    cut = read(said.text(limit), limit)
    assert cut == said or len(cut.pools) <= len(made)


def plain(name: str) -> str:
    """Without what str.format reads."""
    return name.replace("{", "").replace("}", "")


# As it is made


@pytest.mark.parametrize("named", ["server-{}", "caf\u00e9-" * 30 + "{}", WIDE * 40 + "{}", "\x7f{}"])
@pytest.mark.parametrize("state", ["up", "drain"])
def test_ten_thousand_endpoints(named: str, state: str) -> None:
    class First:
        def choose(self, candidates, exchange):
            return candidates[0]

    many = [EndpointSpec(url=f"http://h:{n + 1}", id=named.format(n), state=state) for n in range(10_000)]
    full = Pool("web", First(), rng=random.Random(1), limits=Limits(per_endpoint=1), retry=RetryRule(2, ("connect",)))
    full.update(many, 1000.0)
    exchange = make_exchange("GET", "/" + "x" * 9000)
    exchange.route = Route("r" * 300, 0, full)
    exchange.tried, exchange.asks = tuple(full.members.values())[:3], True
    table = Table(1, RouteTable([exchange.route]), {}, place_of=lambda route: "/etc/" + "d" * 300 + "/router.toml:7")
    said = explain_decision(table, exchange, Dispatch(full, exchange), 1000.0)
    for limit in (FIELD, 512, 100):
        read(said.text(limit), limit)
    (verdict,) = read(said.text(FIELD), FIELD).pools
    assert verdict.members == 10_000
    counts = {group.reason: group.count for group in verdict.left_out}
    assert counts == ({"tried": 3} if state == "up" else {"draining": 9_997, "tried": 3})
