"""What an operator's commands do to a router that serves, asked over its control socket."""

from __future__ import annotations

from typing import Any

import pytest

from router.status import AskDrain, AskExplain, AskReload, AskUndrain, AskWeight

FINDS = """
import asyncio, pathlib
import router
class Finds:
    def __init__(self, options, tools): self.file = tools.folder / "found"
    async def watch(self):
        before = None
        while True:
            if (text := self.file.read_text()) != before:
                before = text
                yield [router.EndpointSpec(url) for url in text.split()]
            await asyncio.sleep(0.01)
"""


@pytest.fixture
def pair(house: Any, serve: Any) -> tuple[str, str]:
    """A router before two servers, "a" and "b"."""
    a, b = serve("a").url, serve("b").url
    house.write(a, f'{{ id = "b", url = "{b}" }}')
    house.up()
    return a, b


def answered(house: Any, count: int = 6) -> set[bytes]:
    return {house.get()[1] for _ in range(count)}


def test_drain_and_undrain(house: Any, pair: tuple[str, str]) -> None:
    a, _ = pair
    answer = house.ask(AskDrain("web", "b"))
    assert (answer.ok, answer.text) == (
        True,
        "pool web, endpoint b: draining: no new requests but those of its sessions",
    )
    assert answered(house) == {b"a"}
    found = house.endpoints()["b"]
    assert (found.state, found.overrides) == ("draining", ("drain",))
    assert house.ask(AskDrain("web", "b")).text.endswith("already")
    assert house.ask(AskUndrain("web", "b")).text == "pool web, endpoint b: up again"
    assert answered(house) == {b"a", b"b"}
    assert house.endpoints()["b"].overrides == ()
    assert any("draining" in each for each in house.records("endpoint b"))
    assert any("up again" in each for each in house.records("endpoint b"))
    assert house.endpoints()[a].overrides == ()


def test_weight(house: Any, pair: tuple[str, str]) -> None:
    assert house.ask(AskWeight("web", "b", 0)).text == "pool web, endpoint b: weight 0"
    assert answered(house) == {b"a"}
    assert house.ask(AskWeight("web", "b", 7)).ok
    found = house.endpoints()["b"]
    assert (found.weight, found.configured_weight, found.overrides) == (7, 1, ("weight",))
    assert house.ask(AskWeight("web", "b", 7)).text.endswith("weight 7 already")
    assert house.ask(AskWeight("web", "b", None)).text == "pool web, endpoint b: weight 1 as configured"
    found = house.endpoints()["b"]
    assert (found.weight, found.overrides) == (1, ())
    assert answered(house) == {b"a", b"b"}


def test_an_endpoint_is_named_by_its_url_too(house: Any, pair: tuple[str, str]) -> None:
    a, b = pair
    for name, identity in ((a, a), (b, "b"), ("b", "b")):
        assert house.ask(AskDrain("web", name)).text.startswith(f"pool web, endpoint {identity}: draining")
        assert house.ask(AskUndrain("web", name)).ok


@pytest.mark.parametrize(
    ("question", "said"),
    [
        (AskDrain("wbe", "b"), "no pool 'wbe'; did you mean"),
        (AskDrain("", "b"), "no pool ''; there are web"),
        (AskWeight("web", "c", 3), "pool web: no endpoint 'c'; "),
        (AskUndrain("web", "a\nb\x1b[31m"), "pool web: no endpoint"),
        (AskDrain("web", "x" * 5000), "pool web: no endpoint"),
    ],
)
def test_what_is_not_there_is_said_with_what_is(house: Any, pair: tuple[str, str], question: Any, said: str) -> None:
    answer = house.ask(question)
    assert not answer.ok
    assert answer.text.startswith(said)
    assert answer.text.isprintable()
    assert house.records("endpoint") == []


def test_many_endpoints_are_not_all_named(house: Any, serve: Any) -> None:
    url = serve().url
    house.write(*(f'{{ id = "e{number}", url = "{url}" }}' for number in range(9)))
    house.up()
    assert house.ask(AskDrain("web", "?")).text == "pool web: no endpoint '?'; there are e0, e1, e2, e3, e4 and 4 more"


def test_overrides_outlive_reloads_and_absence(house: Any, pair: tuple[str, str]) -> None:
    a, b = pair
    house.ask(AskDrain("web", "b"))
    house.ask(AskWeight("web", a, 5))
    house.write(f'{{ url = "{a}", weight = 2 }}', f'{{ id = "b", url = "{b}" }}', pool="retry = { attempts = 1 }")
    house.takes()
    found = house.endpoints()
    assert (found["b"].state, found["b"].overrides) == ("draining", ("drain",))
    assert (found[a].weight, found[a].configured_weight, found[a].overrides) == (5, 2, ("weight",))
    house.write(a)
    house.takes()
    assert list(house.endpoints()) == [a]
    house.write(a, f'{{ id = "b", url = "{b}" }}')
    house.takes()
    assert house.endpoints()["b"].state == "draining"
    assert answered(house) == {b"a"}
    # The whole pool too.
    text = house.file.read_text()
    house.text(text.replace('"web"', '"other"'))
    house.takes()
    house.text(text)
    house.takes()
    assert house.endpoints()["b"].state == "draining"
    assert house.ask(AskUndrain("web", "b")).ok
    assert house.ask(AskWeight("web", a, None)).ok
    house.write(a, f'{{ id = "b", url = "{b}", weight = 3 }}')
    house.takes()
    assert [(each.weight, each.overrides) for each in house.endpoints().values()] == [(1, ()), (3, ())]


def test_an_operators_word_counts_against_the_file(house: Any, pair: tuple[str, str]) -> None:
    a, b = pair
    house.write(a, f'{{ id = "b", url = "{b}", state = "drain" }}')
    house.takes()
    assert house.endpoints()["b"].state == "draining"
    assert house.ask(AskUndrain("web", "b")).ok
    found = house.endpoints()["b"]
    assert (found.state, found.overrides) == ("ready", ("up",))
    house.write(a, f'{{ id = "b", url = "{b}", state = "drain", weight = 2 }}')
    house.takes()
    assert house.endpoints()["b"].state == "ready"
    assert house.ask(AskDrain("web", "b")).ok
    assert house.endpoints()["b"].overrides == ()


def test_what_is_discovered_is_operated_alike(house: Any, serve: Any) -> None:
    kinds = house.plugins(FINDS)
    a, b = serve("a").url, serve("b").url
    house.text(f"{a} {b}", "found")
    house.write(pool=f'discovery = "{kinds}:Finds"')
    house.up()
    assert house.ask(AskDrain("web", b)).ok
    assert answered(house) == {b"a"}
    house.text(a, "found")
    house.wait(lambda: list(house.endpoints()) == [a])
    house.text(f"{b} {a}", "found")
    house.wait(lambda: len(house.endpoints()) == 2)
    assert house.endpoints()[b].overrides == ("drain",)
    assert answered(house) == {b"a"}


def test_what_is_under_way_goes_on_while_an_endpoint_drains(house: Any, serve: Any) -> None:
    server, other = serve("a"), serve("b")
    house.write(server.url, other.url)
    house.up()
    sockets = [house.client().switch() for _ in range(2)]
    house.ask(AskDrain("web", server.url))
    assert [socket.echo() for socket in sockets] == [b"ping!"] * 2
    assert answered(house) == {b"b"}


def test_explain_names_the_route_and_where_a_request_would_go(house: Any, pair: tuple[str, str]) -> None:
    house.ask(AskDrain("web", "b"))
    before = house.endpoints()
    answer = house.ask(AskExplain("GET", "http://shop.example/cart?x=1", (("X-A", "b"),)))
    assert answer.ok, answer
    told = str(answer.result)
    assert pair[0] in told
    assert "web" in told
    assert "router.toml:" in told
    assert "drain" in told
    after = house.endpoints()
    assert [each.requests for each in after.values()] == [each.requests for each in before.values()]


@pytest.mark.parametrize(
    "question",
    [
        AskExplain("", "http://a/"),
        AskExplain("GET", "a/b"),
        AskExplain("GET", ""),
        AskExplain("GET", "http:///x"),
        AskExplain("GE T", "http://a/"),
        AskExplain("GET", "http://a/ HTTP/1.1\r\nX: y"),
        AskExplain("GET", "http://a/", (("X", "a\r\nY: b"),)),
        AskExplain("GET", "http://a/", (("", "a"),)),
    ],
)
def test_explain_refuses_what_is_no_request(house: Any, pair: tuple[str, str], question: AskExplain) -> None:
    answer = house.ask(question)
    assert (answer.ok, answer.text.startswith("this is no request")) == (False, True)


def test_reload_by_command(house: Any, pair: tuple[str, str], serve: Any) -> None:
    assert house.ask(AskReload()).text.startswith("nothing is different")
    house.write(serve("c").url)
    assert house.ask(AskReload()).text == "configuration 2 is in force"
    assert house.get() == (200, b"c")
    house.text("[")
    answer = house.ask(AskReload())
    assert not answer.ok
    assert answer.text.startswith("not taken, configuration 2 stays in force:\n")
    assert "router.toml:1:" in answer.text
    assert house.records("router reload: not taken")
