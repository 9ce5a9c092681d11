"""Why a request went where it went: on its span, and in a header for clients that are trusted and ask."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
import tracing_support as _help

from router.explanation import Explanation
from router.status import AskDrain, AskExplain, AskUndrain

collector = _help.collector
wait, TRUSTED = _help.wait, _help.TRUSTED
ASK = "X-Router-Explain: 1"
MANY = 10_000
#: What usual clients take for one field, such as aiohttp (8190 bytes), nginx and Node.js (8 KiB).
FIELD = 8190


def build(bench: Any) -> None:
    own = bench.plugins(_help.FIRST)
    bench.a, bench.b, bench.c = bench.backend("a"), bench.backend("b"), bench.backend("c")
    three = ", ".join(f'{{ url = "{each.url}", id = "{each.name}" }}' for each in (bench.a, bench.b, bench.c))
    first = f'selection = "{own}:First"\n'
    bench.sites = f"""
[[routes]]
name = "fixed"
path = "/fixed"
answer = {{ status = 410, body = "gone" }}
[[routes]]
name = "web"
path = ["/web/*", "/barrier"]
pool = "web"
[[routes]]
name = "guarded"
path = "/guarded/*"
pool = "web"
filters = ["{own}:Guard"]
[[routes]]
name = "ejects"
path = "/ejects/*"
pool = "ejects"
[[routes]]
name = "full"
path = "/full/*"
pool = "full"
[[routes]]
name = "waits"
path = "/waits/*"
pool = "waits"
[[routes]]
name = "out"
path = "/out/*"
pool = "out"
[[routes]]
name = "sticky"
path = "/sticky/*"
pool = "sticky"
[[routes]]
name = "tiers"
path = "/tiers/*"
pool = "tiers"
[[pools]]
name = "web"
detectors = []
selection = "round_robin"
endpoints = [{three}]
[[pools]]
name = "ejects"
{first}detectors = ["{own}:Strict"]
ejection = {{ base = "60s", max_share = "100%" }}
retry = {{ on = ["connect", "reset", "timeout", "503"] }}
endpoints = [{three}]
[[pools]]
name = "full"
{first}detectors = []
endpoints = [{three}]
limits = {{ in_flight_per_endpoint = 1 }}
[[pools]]
name = "waits"
{first}detectors = []
endpoints = [{three}]
limits = {{ in_flight = 1, queue = 1, queue_timeout = "80ms" }}
retry = {{ hedge_after = "10s" }}
[[pools]]
name = "out"
detectors = []
endpoints = [{{ url = "{bench.a.url}", id = "a", state = "drain" }}]
[[pools]]
name = "sticky"
{first}detectors = []
endpoints = [{three}]
affinity = {{ use = "header", name = "X-User" }}
[[pools]]
name = "tiers"
{first}detectors = []
endpoints = [{{ url = "{bench.a.url}", id = "a" }}, {{ url = "{bench.b.url}", id = "b", priority = 1 }}]
"""


def build_many(bench: Any) -> None:
    """A pool of many servers, every other one of which drains; names are as long as those of clusters."""
    bench.a = bench.backend("a")
    states = ("", ', state = "drain"')
    many = ", ".join(
        f'{{ url = "http://127.1.{n // 250}.{n % 250 + 1}:9", id = "server-{n:05}-{"x" * 40}"{states[n % 2]} }}'
        for n in range(MANY)
    )
    bench.sites = f"""
[[routes]]
name = "many"
pool = "many"
[[pools]]
name = "many"
detectors = []
selection = "{bench.plugins(_help.FIRST)}:First"
endpoints = [{{ url = "{bench.a.url}", id = "a" }}, {many}]
"""


bench = _help.bench_of(build)
crowd = _help.bench_of(build_many)


@pytest.fixture(autouse=True)
def _traced(bench: Any) -> None:
    bench.tracing()
    bench.a.mode = ""


def asked(bench: Any, target: str, *lines: str, **more: Any) -> tuple[Any, Explanation]:
    """The answer to a trusted client that asks, and what it was told."""
    answer = bench.ask(target, ASK, *lines, **{"source": TRUSTED} | more)
    said = answer.only("X-Router-Explain")
    assert said.isascii()
    assert said.isprintable()
    return answer, msgspec.json.decode(said, type=Explanation, strict=True)


def left_out(said: Explanation) -> dict[str, tuple[int, list[str]]]:
    (pool,) = said.pools
    return {each.reason: (each.count, [endpoint.id for endpoint in each.endpoints]) for each in pool.left_out}


def candidates(said: Explanation) -> list[str]:
    (pool,) = said.pools
    return sorted(option.id for choice in pool.choices for option in choice.options)


# Who is told.


@pytest.mark.parametrize("traced", [True, False])
def test_a_trusted_client_that_asks_is_told(bench: Any, traced: bool) -> None:
    if not traced:
        bench.plain()
    answer, said = asked(bench, "/web/x")
    assert answer.status == 200
    assert (said.route, said.pools[0].name, said.pools[0].selection) == ("web", "web", "round_robin")
    assert candidates(said) == ["a", "b", "c"]
    assert "/web/x" in said.request
    # The decision that was made, not one that would be made now.
    assert said.chosen == answer.body.decode()


@pytest.mark.parametrize("traced", [True, False])
@pytest.mark.parametrize("target", ["/web/untold", "/fixed", "/nowhere", "/out/x"])
def test_nobody_else_is_told(bench: Any, traced: bool, target: str) -> None:
    if not traced:
        bench.plain()
    assert bench.ask(target, ASK).all("X-Router-Explain") == []
    assert bench.ask(target, source=TRUSTED).all("X-Router-Explain") == []


def test_a_client_behind_a_trusted_proxy_is_not_trusted(bench: Any) -> None:
    """An edge proxy passes on fields that it does not know: whoever they come from is not told for that."""
    answer = bench.ask("/web/x", ASK, "X-Forwarded-For: 203.0.113.7", source=TRUSTED)
    assert answer.all("X-Router-Explain") == []


@pytest.mark.parametrize("value", ["", "0", "yes please", "1, 1"])
def test_only_one_asks(bench: Any, value: str) -> None:
    assert bench.ask("/web/x", f"X-Router-Explain: {value}", source=TRUSTED).all("X-Router-Explain") == []


def test_the_question_does_not_go_on(bench: Any) -> None:
    for number, traced in enumerate((True, False)):
        if not traced:
            bench.plain()
        asked(bench, f"/web/asks-{number}")
        (request,) = [each for server in (bench.a, bench.b, bench.c) for each in server.all(f"asks-{number}")]
        assert request.all("X-Router-Explain") == []


def test_a_server_that_speaks_of_it_is_not_mistaken_for_the_router(bench: Any) -> None:
    bench.a.extra = ["X-Router-Explain: forged"]
    try:
        answer, said = asked(bench, "/ejects/x")
        assert said.chosen == "a"
        assert len(answer.all("X-Router-Explain")) == 1
    finally:
        bench.a.extra = []


@pytest.mark.parametrize(
    ("target", "status", "route"),
    [("/fixed", 410, "fixed"), ("/nowhere", 404, ""), ("/guarded/x", 401, "guarded")],
)
def test_the_routers_own_answers_are_explained_too(bench: Any, target: str, status: int, route: str) -> None:
    answer, said = asked(bench, target)
    assert answer.status == status
    assert said.route == route
    if target != "/guarded/x":
        assert said.status == status
    assert said.chosen == ""


def test_a_head_request_is_told_as_well(bench: Any) -> None:
    _, said = asked(bench, "/web/x", method="HEAD")
    assert said.request.startswith("HEAD ")


# What is told.


def test_the_span_holds_the_same(bench: Any) -> None:
    answer, said = asked(bench, "/sticky/x", "X-User: ann")
    on_span = msgspec.json.decode(bench.trace(answer).client["lb.explain"], type=Explanation)
    assert on_span == said
    answer, said = asked(bench, "/out/x")
    on_span = msgspec.json.decode(bench.trace(answer).server["lb.explain"], type=Explanation)
    assert on_span == said


def test_it_is_what_router_explain_says(bench: Any) -> None:
    """But for what the two moments and the two clients differ in."""
    _, said = asked(bench, "/tiers/x")
    live = bench.house.ask(AskExplain(method="GET", url=f"http://{_help.HOST}/tiers/x")).result
    told = json.loads(msgspec.json.encode(said))
    for key in ("route", "place", "target", "status", "reason"):
        assert told[key] == live[key], key
    for key in ("name", "selection", "members", "ready", "left_out"):
        assert told["pools"][0][key] == live["pools"][0][key], key
    options = [[option["id"] for option in choice["options"]] for choice in told["pools"][0]["choices"]]
    assert options == [[option["id"] for option in choice["options"]] for choice in live["pools"][0]["choices"]]


def test_those_that_drain_are_left_out(bench: Any) -> None:
    bench.house.ask(AskDrain("web", "b"))
    try:
        _, said = asked(bench, "/web/x")
        assert candidates(said) == ["a", "c"]
        assert left_out(said) == {"draining": (1, ["b"])}
    finally:
        bench.house.ask(AskUndrain("web", "b"))


def test_those_of_another_tier_are_left_out(bench: Any) -> None:
    _, said = asked(bench, "/tiers/x")
    assert (candidates(said), left_out(said)) == (["a"], {"other tier": (1, ["b"])})
    assert said.pools[0].endpoint == said.chosen == "a"


def test_those_that_are_full_are_left_out(bench: Any) -> None:
    with bench.client() as holder:
        holder.send("/full/hold?e")
        bench.a.got("/full/hold?e")
        _, said = asked(bench, "/full/x")
        assert left_out(said) == {"full": (1, ["a"])}
        assert (candidates(said), said.chosen) == (["b", "c"], "b")
        bench.a.let_go()
        holder.receive()


def test_those_that_were_tried_or_ejected_are_left_out_with_the_reason(bench: Any) -> None:
    bench.a.mode = "status-503"
    answer, said = asked(bench, "/ejects/y")
    assert answer.body == b"b"
    # That of the attempt that was answered: the first one has been tried, and its failure ejected it.
    first, second = bench.trace(answer).clients
    told = left_out(said)
    assert [ids for _, ids in told.values()] == [["a"]]
    assert set(told) <= {"tried", "ejected"}
    assert candidates(msgspec.json.decode(first["lb.explain"], type=Explanation)) == ["a", "b", "c"]
    assert msgspec.json.decode(second["lb.explain"], type=Explanation) == said
    _, said = asked(bench, "/ejects/y")
    assert left_out(said) == {"ejected": (1, ["a"])}
    (out,) = said.pools[0].left_out
    assert "broke" in out.endpoints[0].detail


def test_affinity_is_told(bench: Any) -> None:
    asked(bench, "/sticky/x", "X-User: bob")
    answer, said = asked(bench, "/sticky/x", "X-User: bob")
    assert said.pools[0].affinity == "pinned to a"
    assert bench.trace(answer).server["lb.affinity"] == "pinned to a"


def test_retries_and_weights_are_told(bench: Any) -> None:
    _, said = asked(bench, "/web/x")
    (pool,) = said.pools
    assert pool.retries is not None
    assert pool.retries.attempts == 2
    assert {option.weight for choice in pool.choices for option in choice.options} == {1.0}
    assert (pool.members, pool.ready) == (3, 3)


def test_waiting_is_told_with_its_limits(bench: Any) -> None:
    """Times are configured, and come as the seconds that they are."""
    with bench.client() as holder:
        holder.send("/waits/hold?w")
        bench.a.got("/waits/hold?w")
        answer, said = asked(bench, "/waits/x")
        bench.a.let_go()
        holder.receive()
    assert answer.status == 503
    assert said.chosen == ""
    (pool,) = said.pools
    assert pool.waiting is not None
    assert (pool.waiting.places, pool.waiting.seconds) == (1, 0.08)
    assert bench.trace(answer).server["lb.explain"]
    answer, said = asked(bench, "/waits/x")
    assert said.pools[0].retries is not None
    assert said.pools[0].retries.hedge_after == 10.0
    assert bench.trace(answer).client["lb.explain"]


# Bounds.


def check_short(said: Explanation) -> None:
    """At most ten in any list."""

    def look(node: Any) -> None:
        if isinstance(node, list):
            assert len(node) <= 10
        for each in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
            look(each)

    look(json.loads(msgspec.json.encode(said)))


def test_ten_thousand_servers_are_told_in_ten(crowd: Any) -> None:
    crowd.tracing()
    answer, said = asked(crowd, "/many/x")
    assert answer.status == 200
    check_short(said)
    (pool,) = said.pools
    assert pool.members == MANY + 1
    assert left_out(said)["draining"][0] == MANY // 2
    assert sum(choice.count for choice in pool.choices) == MANY // 2 + 1
    assert said.chosen == "a"
    assert len(answer.only("X-Router-Explain")) <= FIELD
    span = crowd.trace(answer).client
    check_short(msgspec.json.decode(span["lb.explain"], type=Explanation))


@pytest.mark.parametrize("target", ["/web/" + "p" * 16000, "/web/x?q=" + "v" * 16000, "/nowhere/" + "p" * 16000])
def test_a_long_target_makes_no_long_field(bench: Any, target: str) -> None:
    answer, said = asked(bench, target)
    assert len(answer.only("X-Router-Explain")) <= FIELD
    assert said.request


def test_odd_bytes_make_no_odd_field(bench: Any) -> None:
    _, said = asked(bench, "/web/%00%0d%0a%ff'<script>{}|^`", "X-Odd: \xff\xfe", "User-Agent: \xff")
    assert said.route == "web"


def test_what_is_not_sampled_nor_asked_is_not_explained(bench: Any) -> None:
    bench.tracing(sampling="never", keep=["slower:30ms"])
    answer = bench.ask("/web/delay-50", "X-Request-ID: unexplained")
    assert answer.status == 200
    server, client = _help.wait(lambda: bench.named("unexplained"), "not kept")
    assert server["lb.kept"] == "slower"
    assert "lb.explain" not in server.attributes | client.attributes
