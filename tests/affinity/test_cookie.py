"""`cookie`: what it writes, what it knows again, and that pins outlast everything but their server."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import router_affinity
from router_affinity.cookie import Cookie
from router_affinity.cookie_options import CookieOptions

from router import Duration, Endpoint, EndpointSpec, Exchange, Members
from router.plugins import Registry
from router.testing import check_affinity, make_endpoints, make_exchange, make_members, make_tools

SECRET = "a secret of the tests"
OLD = "an old secret of the tests"
HOUR = Duration(3600)


class Wall:
    """Seconds since the epoch that pass when told to."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.5

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def wall() -> Wall:
    return Wall()


@pytest.fixture
def make(wall: Wall) -> Callable[..., Cookie]:
    """A cookie affinity whose time is `wall`."""

    def made(*secrets: str, **options: Any) -> Cookie:
        return Cookie(CookieOptions(secrets=secrets or (SECRET,), **options), make_tools(), wall)

    return made


@pytest.fixture
def endpoints() -> list[Endpoint]:
    return make_endpoints(1, 1, 1)


@pytest.fixture
def members(endpoints: list[Endpoint]) -> Members:
    return make_members(endpoints)


def request(cookie: str | None = None, **more: Any) -> Exchange:
    return make_exchange(headers={} if cookie is None else {"Cookie": cookie}, **more)


def answer(affinity: Cookie, endpoint: Endpoint, exchange: Exchange) -> str | None:
    """The Set-Cookie of an answer of this endpoint; None where nothing is written."""
    headers = [(b"Set-Cookie", b"router=theirs; Path=/"), (b"X", b"y")]
    due = exchange.pinned is not endpoint or exchange.marks is not None
    affinity.remember(endpoint, exchange, headers)
    assert headers[:2] == [(b"Set-Cookie", b"router=theirs; Path=/"), (b"X", b"y")]
    assert [name for name, _ in headers[2:]] == [b"Set-Cookie"] * due
    return headers[2][1].decode() if due else None


def visit(affinity: Cookie, members: Members, at: Endpoint, cookie: str | None = None) -> tuple[Endpoint | None, str]:
    """One request that `at` answers: what was found, and the cookie pair that the client has then."""
    exchange = request(cookie)
    exchange.pinned = found = affinity.find(members, exchange)
    written = answer(affinity, at, exchange)
    return found, pair(written) if written is not None else cookie or ""


def pair(written: str | None) -> str:
    assert written is not None
    return written.partition(";")[0]


def issue(affinity: Cookie, endpoint: Endpoint) -> str:
    """The cookie pair of a new client."""
    return pair(answer(affinity, endpoint, request()))


def found(affinity: Cookie, members: Members, cookie: str) -> Endpoint | None:
    return affinity.find(members, request(cookie))


# Laws


@pytest.mark.parametrize("options", [{}, {"ttl": HOUR}, {"ttl": HOUR, "renew": "absolute"}, {"name": "__Host-x"}])
def test_the_published_laws_hold(options: dict[str, Any]) -> None:
    if "name" in options:
        options = {**options, "secure": "always"}
    check_affinity(Cookie, CookieOptions(secrets=(SECRET,), **options))


def test_it_is_registered() -> None:
    registry = Registry()
    registry.add(router_affinity, "affinity")
    made = registry.resolve("affinity", {"use": "cookie", "secrets": [SECRET], "ttl": "8h"}, None).make(make_tools())
    assert isinstance(made, Cookie)
    assert made.strip_cookies == ("router",)


# What is written


def test_the_value_is_opaque_and_of_one_length(make: Callable[..., Cookie]) -> None:
    urls = ["http://127.0.0.1:1", "https://a-host-with-a-long-name.internal.example.test:8443", "unix:/run/app.sock"]
    for ttl in (Duration("inf"), HOUR):
        affinity = make(ttl=ttl)
        values = {issue(affinity, Endpoint(EndpointSpec(url), "test")).removeprefix("router=") for url in urls}
        assert len(values) == 3
        assert all(re.fullmatch(r"[A-Za-z0-9_-]{40}", value) for value in values)


def test_the_format_does_not_change_by_accident(make: Callable[..., Cookie], endpoints: list[Endpoint]) -> None:
    assert endpoints[0].identity == "http://127.0.0.1:9001"
    assert issue(make(), endpoints[0]) == "router=ouI_g65UAAAAAAAA8e2lcJAaZW3FNkkglpcdAaa7"
    assert issue(make(ttl=HOUR), endpoints[0]) == "router=ouI_g65UAABrSdID_WCHhytNHJKRaPzG8fRffdfJ"


@pytest.mark.parametrize(
    ("options", "scheme", "written"),
    [
        ({}, "http", "; Path=/; HttpOnly; SameSite=Lax"),
        ({}, "https", "; Path=/; HttpOnly; SameSite=Lax; Secure"),
        ({"secure": "never"}, "https", "; Path=/; HttpOnly; SameSite=Lax"),
        ({"secure": "always"}, "http", "; Path=/; HttpOnly; SameSite=Lax; Secure"),
        ({"same_site": "none", "secure": "always"}, "http", "; Path=/; HttpOnly; SameSite=None; Secure"),
        ({"same_site": "strict"}, "http", "; Path=/; HttpOnly; SameSite=Strict"),
        ({"http_only": False}, "http", "; Path=/; SameSite=Lax"),
        (
            {"path": "/shop", "domain": "Example.test"},
            "http",
            "; Path=/shop; Domain=Example.test; HttpOnly; SameSite=Lax",
        ),
        ({"ttl": Duration(90)}, "http", "; Max-Age=90; Path=/; HttpOnly; SameSite=Lax"),
        ({"ttl": Duration(1.5)}, "https", "; Max-Age=2; Path=/; HttpOnly; SameSite=Lax; Secure"),
    ],
)
def test_attributes(
    make: Callable[..., Cookie], endpoints: list[Endpoint], options: dict[str, Any], scheme: str, written: str
) -> None:
    cookie = answer(make(**options), endpoints[0], request(scheme=scheme))
    assert cookie is not None
    assert re.fullmatch(r"router=[A-Za-z0-9_-]{40}" + re.escape(written), cookie)


def test_another_name(make: Callable[..., Cookie], endpoints: list[Endpoint], members: Members) -> None:
    affinity = make(name="a.b+c*")
    cookie = issue(affinity, endpoints[1])
    assert cookie.startswith("a.b+c*=")
    assert found(affinity, members, f"a_b+c*=x; {cookie}; {cookie.swapcase()}") is endpoints[1]
    assert found(affinity, members, cookie.replace("a.b+c*", "axb+ccc")) is None


def test_endpoints_see_it_only_if_they_are_meant_to(make: Callable[..., Cookie]) -> None:
    assert make(name="pin").strip_cookies == ("pin",)
    assert make(name="pin", pass_upstream=True).strip_cookies == ()


# Who comes back


def test_a_returning_client_is_known_and_nothing_is_written(
    make: Callable[..., Cookie], endpoints: list[Endpoint], members: Members
) -> None:
    affinity = make()
    for endpoint in endpoints:
        nobody, cookie = visit(affinity, members, endpoint)
        assert nobody is None
        for _ in range(3):
            exchange = request(cookie)
            exchange.pinned = affinity.find(members, exchange)
            assert exchange.pinned is endpoint
            assert answer(affinity, endpoint, exchange) is None
            assert exchange.marks is None


def test_a_client_that_another_server_answers_is_pinned_anew(
    make: Callable[..., Cookie], endpoints: list[Endpoint], members: Members
) -> None:
    affinity = make()
    cookie = issue(affinity, endpoints[0])
    first, cookie = visit(affinity, members, endpoints[1], cookie)
    assert first is endpoints[0]
    assert visit(affinity, members, endpoints[1], cookie) == (endpoints[1], cookie)


def test_pins_hold_on_another_router_and_after_a_restart(make: Callable[..., Cookie]) -> None:
    here, there = make_endpoints(1, 1, 1), make_endpoints(5, 0, 7, 1)
    cookies = [issue(make(), endpoint) for endpoint in here]
    # Weights, order and membership are others there.
    other, members = make(), make_members(reversed(there))
    assert [found(other, members, cookie) for cookie in cookies] == there[:3]
    assert [visit(other, members, at, cookie)[1] for at, cookie in zip(there, cookies, strict=False)] == cookies


def test_pins_hold_while_endpoints_come_and_go(make: Callable[..., Cookie], endpoints: list[Endpoint]) -> None:
    affinity = make()
    more = make_endpoints(1, 1, first_port=9501)
    cookie = issue(affinity, endpoints[2])
    for now in (endpoints, [*more, *endpoints], endpoints[1:], [endpoints[2]], [*endpoints, *more]):
        assert found(affinity, make_members(now), cookie) is endpoints[2]
    assert found(affinity, make_members(endpoints[:2]), cookie) is None
    # One that comes back, as another object, gets its clients back.
    back = make_endpoints(1, 1, 1)
    assert found(affinity, make_members(back), cookie) is back[2]


def test_the_endpoint_is_its_id_not_its_address(make: Callable[..., Cookie]) -> None:
    affinity = make()
    before = Endpoint(EndpointSpec("http://10.0.0.1:80", id="web-0"), "test")
    moved = Endpoint(EndpointSpec("http://10.9.9.9:80", id="web-0"), "test")
    cookie = issue(affinity, before)
    assert found(affinity, make_members([moved]), cookie) is moved


def test_a_cookie_of_another_pool_or_secret_is_foreign(
    make: Callable[..., Cookie], endpoints: list[Endpoint], members: Members
) -> None:
    affinity = make()
    others = make_endpoints(1, 1, 1, pool="other")
    for foreign in (issue(affinity, others[0]), issue(make("quite another secret"), endpoints[0])):
        nobody, cookie = visit(affinity, members, endpoints[0], foreign)
        assert nobody is None
        assert cookie == issue(affinity, endpoints[0])
    # The length of a pool's name is part of what is signed.
    joined, split = (
        Endpoint(EndpointSpec("http://a:1", id="bc"), "a"),
        Endpoint(EndpointSpec("http://a:1", id="c"), "ab"),
    )
    assert issue(affinity, joined) != issue(affinity, split)


def test_an_endpoint_that_is_gone_when_it_answers(
    make: Callable[..., Cookie], endpoints: list[Endpoint], members: Members
) -> None:
    affinity = make()
    assert found(affinity, make_members(endpoints[1:]), issue(affinity, endpoints[0])) is None
    assert found(affinity, members, issue(affinity, endpoints[0])) is endpoints[0]


def test_names_of_any_characters(make: Callable[..., Cookie]) -> None:
    affinity = make()
    odd = [
        Endpoint(EndpointSpec("http://a:1", id=name), "p\ud800\u00fc") for name in ("\ud800", "\u00fc", "\x00", "; x=")
    ]
    for endpoint in odd:
        assert found(affinity, make_members(odd), issue(affinity, endpoint)) is endpoint


# Secrets


def test_rotation_keeps_the_pins_and_signs_anew(
    make: Callable[..., Cookie], endpoints: list[Endpoint], members: Members
) -> None:
    old = issue(make(OLD), endpoints[1])
    both = make(SECRET, OLD)
    kept, new = visit(both, members, endpoints[1], old)
    assert kept is endpoints[1]
    assert new == issue(make(SECRET), endpoints[1]) != old
    assert visit(both, members, endpoints[1], new) == (endpoints[1], new)
    # As often as the old one comes.
    assert visit(both, members, endpoints[1], old) == (endpoints[1], new)
    # A router that has not heard of the new secret yet knows what one that has it second writes.
    assert found(make(OLD), members, issue(make(OLD, SECRET), endpoints[0])) is endpoints[0]
    assert found(make(SECRET), members, old) is None


# Time


def test_a_sliding_pin_is_written_anew_after_a_tenth(
    make: Callable[..., Cookie], endpoints: list[Endpoint], members: Members, wall: Wall
) -> None:
    affinity = make(ttl=HOUR)
    cookie = issue(affinity, endpoints[0])
    wall.now += 359
    assert visit(affinity, members, endpoints[0], cookie) == (endpoints[0], cookie)
    wall.now += 5
    again, renewed = visit(affinity, members, endpoints[0], cookie)
    assert again is endpoints[0]
    assert renewed != cookie
    # Kept alive by visits for longer than its ttl.
    for _ in range(5):
        wall.now += 3000
        again, renewed = visit(affinity, members, endpoints[0], renewed)
        assert again is endpoints[0]
    assert found(affinity, members, cookie) is None
    wall.now += 3605
    nobody, fresh = visit(affinity, members, endpoints[1], renewed)
    assert nobody is None
    assert found(affinity, members, fresh) is endpoints[1]


def test_an_absolute_pin_ends(
    make: Callable[..., Cookie], endpoints: list[Endpoint], members: Members, wall: Wall
) -> None:
    affinity = make(ttl=HOUR, renew="absolute")
    cookie = issue(affinity, endpoints[0])
    for _ in range(4):
        wall.now += 899
        assert visit(affinity, members, endpoints[0], cookie) == (endpoints[0], cookie)
    wall.now += 10
    assert found(affinity, members, cookie) is None


def test_an_absolute_pin_ends_though_the_secret_changes(
    make: Callable[..., Cookie], endpoints: list[Endpoint], members: Members, wall: Wall
) -> None:
    old = issue(make(OLD, ttl=HOUR, renew="absolute"), endpoints[0])
    wall.now += 3000
    affinity = make(SECRET, OLD, ttl=HOUR, renew="absolute")
    exchange = request(old)
    exchange.pinned = affinity.find(members, exchange)
    written = answer(affinity, endpoints[0], exchange)
    assert re.search("; Max-Age=60[0-4];", written or "")
    assert visit(affinity, members, endpoints[0], pair(written)) == (endpoints[0], pair(written))
    wall.now += 610
    assert found(affinity, members, pair(written)) is None
    # Who is moved to another server begins anew.
    exchange = request(old)
    exchange.pinned = endpoints[0]
    assert "; Max-Age=3600;" in (answer(affinity, endpoints[1], exchange) or "")


@pytest.mark.parametrize("renew", ["sliding", "absolute"])
@pytest.mark.parametrize("hours", [1, 24, 9600])
def test_what_is_just_written_is_not_written_again(
    make: Callable[..., Cookie], endpoints: list[Endpoint], members: Members, wall: Wall, renew: str, hours: int
) -> None:
    affinity = make(ttl=Duration(hours * 3600), renew=renew)
    for _ in range(50):
        wall.now += 17.3
        cookie = issue(affinity, endpoints[0])
        assert visit(affinity, members, endpoints[0], cookie) == (endpoints[0], cookie)
        # Another router's clock may be a little behind.
        wall.now -= 50
        assert visit(affinity, members, endpoints[0], cookie) == (endpoints[0], cookie)
        wall.now += 50


def test_a_pin_without_an_end_gets_one_and_the_other_way_round(
    make: Callable[..., Cookie], endpoints: list[Endpoint], members: Members
) -> None:
    for before, after in (
        (make(), make(ttl=HOUR)),
        (make(ttl=HOUR), make()),
        (make(), make(ttl=HOUR, renew="absolute")),
    ):
        cookie = issue(before, endpoints[2])
        kept, changed = visit(after, members, endpoints[2], cookie)
        assert kept is endpoints[2]
        assert changed == issue(after, endpoints[2]) != cookie
        assert visit(after, members, endpoints[2], changed) == (endpoints[2], changed)


@pytest.mark.parametrize("renew", ["sliding", "absolute"])
def test_a_pin_from_the_future_counts_from_now(
    make: Callable[..., Cookie], endpoints: list[Endpoint], members: Members, wall: Wall, renew: str
) -> None:
    affinity = make(ttl=HOUR, renew=renew)
    wall.now += 7200
    ahead = issue(affinity, endpoints[0])
    wall.now -= 7200
    kept, now = visit(affinity, members, endpoints[0], ahead)
    assert kept is endpoints[0]
    assert now == issue(affinity, endpoints[0])
    wall.now += 3700
    assert found(affinity, members, now) is None


# How clients send it


@pytest.mark.parametrize(
    "header",
    [
        "{}",
        "a=b; {}",
        "a=b;{}",
        "a=b;   {}; c=d",
        "a=b;\t{};",
        ";;{};;",
        "; {}",
        'q="x y"; {}; _ga=1',
        "xrouter=1; {}",
        "router2=1; {}; Router=2; ROUTER=3",
        "a={}; {}",
        "router; {}",
        "a; b=; =; {}",
        "a=" + "x" * 9000 + "; {}",
        "; ".join(f"c{n}=v" for n in range(180)) + "; {}",
    ],
)
def test_where_it_stands(make: Callable[..., Cookie], endpoints: list[Endpoint], members: Members, header: str) -> None:
    affinity = make()
    cookie = issue(affinity, endpoints[1])
    for _ in range(2):
        assert found(affinity, members, header.replace("{}", cookie)) is endpoints[1]


@pytest.mark.parametrize(
    "header",
    [
        "x{}",
        "a=b, {}",
        "a=b {}",
        "a={}",
        "a=b&{}",
        "a=b:{}",
        '"{}"',
        "R{}",
        "$Version=1,{}",
        "{} ",
        "{},",
        "\u00a0{}",
    ],
)
def test_what_only_looks_like_it(
    make: Callable[..., Cookie], endpoints: list[Endpoint], members: Members, header: str
) -> None:
    affinity = make()
    cookie = issue(affinity, endpoints[1])
    assert found(affinity, members, cookie) is endpoints[1]
    assert found(affinity, members, header.replace("{}", cookie)) is None


def test_quotes_are_part_of_a_value(make: Callable[..., Cookie], endpoints: list[Endpoint], members: Members) -> None:
    name, _, value = issue(make(), endpoints[1]).partition("=")
    assert found(make(), members, f'{name}="{value}"') is None
    assert found(make(), members, f"{name} ={value}") is None
    assert found(make(), members, f"{name}= {value}") is None


@pytest.mark.parametrize("name", ["Cookie", "cookie", "COOKIE", "cOOkIe"])
@pytest.mark.parametrize("blank", ["", " ", "\t", "   "])
def test_the_field_in_any_case(
    make: Callable[..., Cookie], endpoints: list[Endpoint], members: Members, name: str, blank: str
) -> None:
    exchange = make_exchange()
    cookie = issue(make(), endpoints[0])
    exchange.head = f"GET /?{cookie}; HTTP/1.1\r\n{name}:{blank}{cookie}\r\nHost: a\r\n\r\n".encode()
    assert make().find(members, exchange) is endpoints[0]


def test_other_fields_and_the_target_do_not_count(
    make: Callable[..., Cookie], endpoints: list[Endpoint], members: Members
) -> None:
    affinity = make()
    cookie = issue(affinity, endpoints[0])
    names = ["X-Cookie", "Cookie2", "Set-Cookie", "Referer", "Cookies"]
    sent = make_exchange(target=f"/?a=1;{cookie};", headers=[(name, f"a=b; {cookie}") for name in names])
    assert affinity.find(members, sent) is None
    own = make_exchange(headers=[*((name, cookie) for name in names), ("Cookie", issue(affinity, endpoints[1]))])
    own.pinned = affinity.find(members, own)
    assert own.pinned is endpoints[1]


def test_several_fields(make: Callable[..., Cookie], endpoints: list[Endpoint], members: Members) -> None:
    affinity = make()
    cookie = issue(affinity, endpoints[2])
    for fields in ([("Cookie", "a=b"), ("cookie", cookie)], [("Cookie", cookie), ("Accept", "*/*"), ("COOKIE", "a=b")]):
        exchange = make_exchange(headers=fields)
        exchange.pinned = affinity.find(members, exchange)
        assert exchange.pinned is endpoints[2]
        assert answer(affinity, endpoints[2], exchange) is None


def test_of_several_the_first_good_one_counts(
    make: Callable[..., Cookie], endpoints: list[Endpoint], members: Members
) -> None:
    affinity = make()
    first, second = issue(affinity, endpoints[0]), issue(affinity, endpoints[1])
    foreign = issue(make("quite another secret"), endpoints[2])

    def told(*cookies: str) -> tuple[Endpoint | None, bool]:
        exchange = make_exchange(headers=[("Cookie", cookie) for cookie in cookies])
        exchange.pinned = named = affinity.find(members, exchange)
        return named, named is None or answer(affinity, named, exchange) is not None

    for _ in range(2):
        assert told(first) == (endpoints[0], False)
        assert told(f"{first}; {first}") == (endpoints[0], False)
        # Where they differ, ours is set again: in one field or in two, whoever comes first.
        assert told(f"{first}; {second}") == told(first, second) == (endpoints[0], True)
        assert told(f"{second}; a=b; {first}") == told(second, first) == (endpoints[1], True)
        assert told(f"{first}; {foreign}") == told(first, "router=x") == (endpoints[0], True)
        # What nobody vouches for does not hide the one behind it.
        assert told(f"{foreign}; {first}") == told("router=x", foreign, first) == (endpoints[0], True)
        assert told(f"{first}; a=b; router=") == (endpoints[0], True)
        assert told(f"router; {first}; xrouter={second}; a={second}") == (endpoints[0], False)
        assert told(foreign, "router=x") == (None, True)


def test_no_more_than_a_few_are_looked_at(
    make: Callable[..., Cookie], endpoints: list[Endpoint], members: Members
) -> None:
    affinity = make()
    good = issue(affinity, endpoints[0])
    wrong = good[:-1] + ("A" if good[-1] != "A" else "B")
    assert found(affinity, members, "; ".join([*[wrong] * 7, good])) is endpoints[0]
    assert found(affinity, members, "; ".join([*[wrong] * 8, good])) is None


# What it keeps


def test_values_with_a_time_do_not_pile_up(make: Callable[..., Cookie], wall: Wall) -> None:
    affinity, endpoints = make(ttl=Duration(1000), renew="absolute"), make_endpoints(*[1] * 6)
    members = make_members(endpoints)
    assert found(affinity, members, issue(affinity, endpoints[0])) is endpoints[0]
    pairs = []
    for _ in range(1000):
        wall.now += 1
        pairs += [(endpoint, issue(affinity, endpoint)) for endpoint in endpoints]
    assert len(set(pairs)) == 6000
    assert all(found(affinity, members, cookie) is endpoint for endpoint, cookie in pairs)
    assert 0 < len(affinity._good) <= 4096
    assert len(affinity._last) == 6
    affinity.find(make_members(endpoints[5:]), request(pairs[-1][1]))
    assert len(affinity._good) == 1
    assert len(affinity._last) == 0


def test_what_is_gone_is_not_kept(make: Callable[..., Cookie], endpoints: list[Endpoint]) -> None:
    affinity = make()
    for port in range(9001, 9101):
        now = make_endpoints(1, 1, first_port=port)
        assert found(affinity, make_members(now), issue(affinity, now[0])) is now[0]
        issue(affinity, endpoints[0])
    assert len(affinity._known_labels) == 2
    assert len(affinity._labels) == 2
    assert len(affinity._last) <= 2
