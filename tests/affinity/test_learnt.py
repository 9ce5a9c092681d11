"""Learnt affinities: whom a value leads to, when that is learnt, and that nothing which is sent makes them grow."""

from __future__ import annotations

import gc
import tracemalloc
from collections import OrderedDict
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as some
from router_affinity.app_cookie import AppCookie, AppCookieOptions
from router_affinity.header import Header, HeaderOptions
from router_affinity.learnt import LONGEST, Table
from router_affinity.query import Query, QueryOptions

from router import Affinity, Endpoint, Exchange, Members, Options
from router.contracts import contract_fault
from router.options import PluginFault, read_options
from router.testing import FakeClock, check_affinity, make_endpoints, make_exchange, make_members, make_tools

A, B, C = make_endpoints(1, 1, 1)
ALL = make_members([A, B, C])
#: An answer that sets nothing.
PLAIN = "Content-Type: text/plain"
#: Thu, 01 Jan 2026 00:00:00 GMT.
NOW = 1_767_225_600.0
KINDS: dict[str, tuple[Any, type[Options]]] = {
    "app_cookie": (AppCookie, AppCookieOptions),
    "header": (Header, HeaderOptions),
    "query": (Query, QueryOptions),
}
NAMES = {"app_cookie": "session", "header": "X-Key", "query": "user"}


def made(kind: str, clock: FakeClock | None = None, **options: Any) -> Any:
    factory, struct = KINDS[kind]
    return factory(struct(**{"name": NAMES[kind], **options}), make_tools(clock=clock))


def request(kind: str, value: str, **more: Any) -> Exchange:
    """One that carries the value where the affinity looks for it."""
    if kind == "query":
        return make_exchange(target=f"/p?user={value}", **more)
    name, text = ("Cookie", f"session={value}") if kind == "app_cookie" else ("x-key", value)
    return make_exchange(headers={name: text}, **more)


def answered(affinity: Any, exchange: Exchange, endpoint: Endpoint, *lines: str, members: Members = ALL) -> bool:
    """One exchange as the router does it; whether there was anything to remember."""
    exchange.pinned = affinity.find(members, exchange)
    head = "".join(f"{line}\r\n" for line in ("HTTP/1.1 200 OK", PLAIN, *lines, "")).encode()
    if not affinity.due(endpoint, exchange, head):
        return False
    fields = [line.partition(b": ") for line in head.split(b"\r\n")[1:-2]]
    headers = [(name, value) for name, _, value in fields]
    before = list(headers)
    affinity.remember(endpoint, exchange, headers)
    assert headers == before
    return True


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


# What all three do


def test_the_contract_holds(kind: str) -> None:
    check_affinity(KINDS[kind][0], KINDS[kind][1](name=NAMES[kind]))  # type: ignore[call-arg]
    affinity = made(kind)
    assert isinstance(affinity, Affinity)
    assert contract_fault("affinity", affinity) == ""


def test_a_value_is_learnt_from_the_first_answer_and_leads_there(kind: str) -> None:
    affinity = made(kind)
    assert affinity.find(ALL, request(kind, "one")) is None
    assert answered(affinity, request(kind, "one"), B)
    assert affinity.find(ALL, request(kind, "one")) is B
    assert affinity.find(ALL, request(kind, "two")) is None


def test_where_the_pin_was_followed_nothing_is_due(kind: str) -> None:
    affinity = made(kind)
    answered(affinity, request(kind, "one"), B)
    assert not answered(affinity, request(kind, "one"), B)
    assert not answered(affinity, make_exchange(), B)
    assert not answered(affinity, request(kind, ""), B)


def test_who_answers_in_place_of_the_pinned_one_counts_from_then_on(kind: str) -> None:
    affinity = made(kind)
    answered(affinity, request(kind, "one"), A)
    assert answered(affinity, request(kind, "one"), C)
    assert affinity.find(ALL, request(kind, "one")) is C


def test_an_endpoint_that_is_gone_is_forgotten(kind: str) -> None:
    affinity = made(kind)
    answered(affinity, request(kind, "one"), A)
    rest = make_members([B, C])
    assert affinity.find(rest, request(kind, "one")) is None
    answered(affinity, request(kind, "one"), B, members=rest)
    assert affinity.find(ALL, request(kind, "one")) is B


def test_a_slow_answer_does_not_move_a_session_that_another_one_settled(kind: str) -> None:
    affinity = made(kind)
    slow = request(kind, "one")
    slow.pinned = affinity.find(ALL, slow)
    answered(affinity, request(kind, "one"), B)
    affinity.remember(C, slow, [])
    assert affinity.find(ALL, request(kind, "one")) is B


def test_of_two_that_had_to_move_the_first_one_settles_it(kind: str) -> None:
    affinity = made(kind)
    answered(affinity, request(kind, "one"), A)
    first, second = request(kind, "one"), request(kind, "one")
    first.pinned = second.pinned = affinity.find(ALL, first)
    affinity.remember(B, first, [])
    affinity.remember(C, second, [])
    assert affinity.find(ALL, request(kind, "one")) is B


def test_an_entry_ends_when_it_was_not_used_for_its_ttl(kind: str) -> None:
    clock = FakeClock()
    affinity = made(kind, clock, ttl=64.0)
    answered(affinity, request(kind, "one"), A)
    for _ in range(5):
        clock.advance(63.9)
        assert affinity.find(ALL, request(kind, "one")) is A
    clock.advance(65.01)
    assert affinity.find(ALL, request(kind, "one")) is None
    answered(affinity, request(kind, "one"), B)
    assert affinity.find(ALL, request(kind, "one")) is B


def test_without_a_ttl_an_entry_stays(kind: str) -> None:
    clock = FakeClock()
    affinity = made(kind, clock, ttl=float("inf"))
    answered(affinity, request(kind, "one"), A)
    clock.advance(1e9)
    assert affinity.find(ALL, request(kind, "one")) is A


def test_a_value_of_any_length_and_content_raises_nothing(kind: str) -> None:
    affinity = made(kind)
    for value, is_learnt in (("v" * LONGEST, True), ("v" * (LONGEST + 1), False), ("=" * 30_000, False)):
        assert answered(affinity, request(kind, value), A) is is_learnt
        assert affinity.find(ALL, request(kind, value)) is (A if is_learnt else None)


@given(value=some.text(some.characters(codec="utf-8", exclude_characters="\r\n"), max_size=80))
def test_whatever_a_client_sends_is_found_again_or_ignored(value: str) -> None:
    for kind in KINDS:
        affinity = made(kind)
        is_learnt = answered(affinity, request(kind, value), A)
        assert affinity.find(ALL, request(kind, value)) is (A if is_learnt else None)


def test_hostile_values_push_out_the_oldest_and_memory_stays(kind: str) -> None:
    affinity = made(kind, size=500)
    answered(affinity, request(kind, "mine"), A)
    gc.collect()
    # What other tests have left is not looked through at every count.
    gc.freeze()
    tracemalloc.start()
    try:
        sizes = []
        for number in range(6_000):
            answered(affinity, request(kind, f"{'x' * 500}{number}"), C)
            if number % 100 == 0:
                # A session in use outlives them all.
                assert affinity.find(ALL, request(kind, "mine")) is A
            if number % 2_000 == 1_999:
                gc.collect()
                sizes.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    assert max(sizes) < 500 * 400
    assert max(sizes[1:]) < sizes[0] + 20_000
    numbers = [n for n in range(6_000) if affinity.find(ALL, request(kind, f"{'x' * 500}{n}")) is C]
    assert numbers == list(range(6_000 - 499, 6_000))


# The table


class Model:
    """What the table promises, as simple as can be; the seconds that an entry may be kept are whole steps here."""

    def __init__(self, size: int, ttl: float) -> None:
        self.size, self.ttl = size, ttl
        self.entries: OrderedDict[bytes, tuple[str, float]] = OrderedDict()

    def get(self, key: bytes, now: float) -> str | None:
        self.drop(now)
        if key not in self.entries:
            return None
        self.entries[key] = (self.entries.pop(key)[0], now)
        return self.entries[key][0]

    def put(self, key: bytes, identity: str, now: float) -> None:
        self.drop(now)
        self.entries.pop(key, None)
        self.entries[key] = (identity, now)
        while len(self.entries) > self.size:
            self.entries.popitem(last=False)

    def drop(self, now: float) -> None:
        for key in [key for key, (_, used) in self.entries.items() if now - used > self.ttl]:
            del self.entries[key]


KEYS = some.sampled_from([b"a", b"b", b"c", b"d", b"e", b"f"])
STEPS = some.one_of(
    some.tuples(some.just("get"), KEYS),
    some.tuples(some.just("put"), KEYS, some.sampled_from(["x", "y"])),
    some.tuples(some.just("pop"), KEYS),
    some.tuples(some.just("wait"), some.sampled_from([1, 30, 64, 65, 200])),
)


@given(size=some.integers(1, 5), steps=some.lists(STEPS, max_size=60))
def test_the_table_is_a_list_in_order_of_use(size: int, steps: list[tuple[Any, ...]]) -> None:
    clock = FakeClock(0)
    # A step of time is a second, so an entry is kept for its ttl and the rest of the second in which it was used.
    table, model = Table(size, 64, clock), Model(size, 64)
    for do, *given_ in steps:
        if do == "get":
            assert table.get(given_[0]) == model.get(given_[0], clock.now)
        elif do == "put":
            table.put(given_[0], given_[1])
            model.put(given_[0], given_[1], clock.now)
        elif do == "pop":
            table.pop(given_[0])
            model.entries.pop(given_[0], None)
        else:
            clock.advance(given_[0])
        assert len(table) <= size
    model.drop(clock.now)
    assert [key for key in table._entries if table._entries[key].until > clock.now] == list(model.entries)


def test_expired_entries_go_two_for_each_new_one() -> None:
    clock = FakeClock()
    table = Table(100, 64, clock)
    for number in range(50):
        table.put(table.key(b"%d" % number), "x")
    clock.advance(100)
    for number in range(10):
        table.put(table.key(b"new %d" % number), "x")
    assert len(table) == 50 - 2 * 10 + 10


def test_entries_hold_no_value_and_two_tables_have_no_key_in_common() -> None:
    one, other = Table(10, 60, FakeClock()), Table(10, 60, FakeClock())
    assert one.key(b"secret") == one.key(b"secret") != one.key(b"secreu")
    assert len(one.key(b"secret" * 1000)) == 15
    assert one.key(b"secret") != other.key(b"secret")


# Of the application's cookie


@pytest.mark.parametrize("name", ["Set-Cookie", "set-cookie", "SET-COOKIE"])
def test_a_value_belongs_to_the_endpoint_that_sets_it(name: str) -> None:
    affinity = made("app_cookie")
    assert answered(affinity, make_exchange(), B, "Set-Cookie: other=1", f"{name}: session=abc; Path=/; HttpOnly")
    assert affinity.find(ALL, request("app_cookie", "abc")) is B
    assert affinity.find(ALL, request("app_cookie", "1")) is None


def test_a_session_that_gets_another_id_goes_on_where_that_was_given() -> None:
    affinity = made("app_cookie")
    answered(affinity, request("app_cookie", "old"), A)
    assert answered(affinity, request("app_cookie", "old"), A, "Set-Cookie: session=new")
    assert affinity.find(ALL, request("app_cookie", "new")) is A


def test_an_unknown_value_that_is_replaced_is_not_learnt() -> None:
    affinity = made("app_cookie")
    answered(affinity, request("app_cookie", "old"), A, "Set-Cookie: session=new")
    assert affinity.find(ALL, request("app_cookie", "old")) is None
    assert affinity.find(ALL, request("app_cookie", "new")) is A


@pytest.mark.parametrize(
    "field",
    [
        "session=",
        "session=; Path=/",
        "session=deleted; Max-Age=0",
        "session=deleted; max-age=-1; Expires=Fri, 01 Jan 2100 00:00:00 GMT",
        "session=x; Expires=Thu, 01 Jan 1970 00:00:00 GMT",
        "session=x; expires=Thu, 01-Jan-1970 00:00:01 GMT; path=/",
        "session=x; Expires=Wed, 31 Dec 2025 23:59:59 GMT; Secure",
    ],
)
def test_a_deleted_cookie_is_forgotten(field: str) -> None:
    affinity = AppCookie(AppCookieOptions(name="session"), make_tools(), lambda: NOW)
    answered(affinity, request("app_cookie", "abc"), A)
    assert answered(affinity, request("app_cookie", "abc"), A, f"Set-Cookie: {field}")
    for value in ("abc", "deleted", "x"):
        assert affinity.find(ALL, request("app_cookie", value)) is None


@pytest.mark.parametrize(
    "attributes",
    [
        "",
        "; Max-Age=3600; Expires=Thu, 01 Jan 1970 00:00:00 GMT",
        "; Expires=Thu, 01 Jan 2026 00:00:01 GMT",
        "; Expires=never",
        "; Expires=",
        "; Expires=Thu, 99 Jan 999999999999 99:99:99 GMT",
        "; Max-Age=soon",
        "; Max-Age=" + "9" * 5000,
        ";;;=;=;",
    ],
)
def test_any_other_cookie_is_kept(attributes: str) -> None:
    affinity = AppCookie(AppCookieOptions(name="session"), make_tools(), lambda: NOW)
    answered(affinity, make_exchange(), C, f"Set-Cookie: session=abc{attributes}")
    assert affinity.find(ALL, request("app_cookie", "abc")) is C


@given(text=some.text(some.characters(max_codepoint=255, exclude_characters="\r\n"), max_size=60))
def test_no_date_of_a_cookie_raises(text: str) -> None:
    affinity = made("app_cookie")
    fields = [(b"Set-Cookie", b"session=abc; Expires=" + text.encode("latin-1"))]
    affinity.remember(A, make_exchange(), fields)
    assert affinity.find(ALL, request("app_cookie", "abc")) in (A, None)


def test_one_that_is_set_counts_beside_one_that_is_deleted_elsewhere() -> None:
    affinity = made("app_cookie")
    lines = ("session=one", "session=two", "session=; Max-Age=0; Path=/old")
    answered(affinity, make_exchange(), B, *(f"Set-Cookie: {line}" for line in lines))
    assert affinity.find(ALL, request("app_cookie", "two")) is B
    assert affinity.find(ALL, request("app_cookie", "one")) is None


def test_an_endpoint_cannot_have_too_long_a_value_learnt() -> None:
    affinity = made("app_cookie")
    answered(affinity, request("app_cookie", "abc"), B, f"Set-Cookie: session={'v' * 5000}")
    assert affinity.find(ALL, request("app_cookie", "abc")) is None
    assert affinity.find(ALL, request("app_cookie", "v" * 5000)) is None


@pytest.mark.parametrize(
    ("line", "is_found"),
    [
        ("Cookie: session=abc", True),
        ("cookie:session=abc", True),
        ("COOKIE: \tsession=abc \t", True),
        ("Cookie: a=1; session=abc; b=2", True),
        ("Cookie: a=1;session=abc", True),
        ("Cookie: a; =; ;session=abc;", True),
        ("Cookie: session=abc; session=xyz", True),
        ("Cookie: session=xyz; session=abc", False),
        ("Cookie: xsession=abc", False),
        ("Cookie: a=session=abc", False),
        ('Cookie: a="b session=abc"', False),
        ("Cookie: Session=abc", False),
        ("Cookie: session=abcd", False),
        ("Cookie: session", False),
        ("X-Cookie: session=abc", False),
        ("Referer: http://h/?;session=abc", False),
    ],
)
def test_the_cookie_is_read_where_cookies_stand(line: str, is_found: bool) -> None:
    affinity = made("app_cookie")
    answered(affinity, request("app_cookie", "abc"), A)
    name, _, value = line.partition(":")
    exchange = make_exchange(target="/?a=;session=abc")
    exchange.head = f"GET /?;session=abc HTTP/1.1\r\nHost: h\r\nA: b\r\n{name}:{value}\r\nZ: z\r\n\r\n".encode()
    assert affinity.find(ALL, exchange) is (A if is_found else None)


def test_a_cookie_of_several_lines_is_found() -> None:
    affinity = made("app_cookie")
    answered(affinity, request("app_cookie", "abc"), A)
    assert affinity.find(ALL, make_exchange(headers=[("Cookie", "a=1; b=2"), ("cookie", "session=abc")])) is A


def test_what_looks_like_a_cookie_in_an_answer_is_none() -> None:
    affinity = made("app_cookie")
    for line in (
        "X-Set-Cookie: session=abc",
        "Set-Cookie: a=session=abc",
        "Set-Cookie: Session=abc",
        "Link: session=a",
    ):
        assert not answered(affinity, make_exchange(), A, line)


def test_a_name_is_no_pattern() -> None:
    affinity = made("app_cookie", name="a.*+|^$")
    answered(affinity, make_exchange(), A, "Set-Cookie: a.*+|^$=1")
    assert affinity.find(ALL, make_exchange(headers={"Cookie": "a.*+|^$=1"})) is A
    assert affinity.find(ALL, make_exchange(headers={"Cookie": "abc=1"})) is None


# Of headers and parameters


@pytest.mark.parametrize(
    ("fields", "is_found"),
    [
        ([("X-KEY", "abc")], True),
        ([("x-key", "  abc \t")], True),
        ([("X-Key", "abc"), ("X-Key", "xyz")], True),
        ([("X-Key", "xyz"), ("X-Key", "abc")], False),
        ([("X-Keys", "abc")], False),
        ([("X-Other", "X-Key: abc")], False),
    ],
)
def test_the_first_header_of_the_name_counts(fields: list[tuple[str, str]], is_found: bool) -> None:
    affinity = made("header")
    answered(affinity, request("header", "abc"), A)
    assert affinity.find(ALL, make_exchange(headers=fields)) is (A if is_found else None)


@pytest.mark.parametrize(
    ("target", "is_found"),
    [
        ("/?user=a%20%C3%A4", True),
        ("/?user=a+%c3%a4", True),
        ("/?x=1&us%65r=a+%C3%A4&y", True),
        ("/?%75%73%65%72=a%20%c3%a4&user=other", True),
        ("/?user=other&user=a+%C3%A4", False),
        ("/?user&user=a+%C3%A4", False),
        ("/?user=&user=a+%C3%A4", False),
        ("/?x?user=a+%C3%A4", False),
        ("/?x=1;user=a+%C3%A4", False),
        ("/?User=a+%C3%A4", False),
        ("/?xuser=a+%C3%A4", False),
        ("/?users=a+%C3%A4", False),
        ("/&user=a+%C3%A4", False),
        ("/user=a+%C3%A4", False),
    ],
)
def test_the_first_parameter_of_the_name_counts_however_it_is_written(target: str, is_found: bool) -> None:
    affinity = made("query")
    answered(affinity, make_exchange(target="/first?user=a+%C3%A4"), A)
    assert affinity.find(ALL, make_exchange(target=target)) is (A if is_found else None)


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("a b", "/?a+b=1"),
        ("a b", "/?a%20b=1"),
        ("a&=+%", "/?a%26%3d%2B%25=1"),
        ("ä", "/?%c3%A4=1"),
        ("cart[id]", "/?cart[id]=1"),
        ("cart[id]", "/?cart%5Bid%5d=1"),
    ],
)
def test_a_parameter_may_have_any_name(name: str, target: str) -> None:
    affinity = made("query", name=name)
    assert answered(affinity, make_exchange(target=target), B)
    assert affinity.find(ALL, make_exchange(target=target)) is B
    assert not answered(affinity, make_exchange(target="/?other=1"), B)


# Options


@pytest.mark.parametrize(
    ("kind_", "table", "words"),
    [
        ("app_cookie", {}, "name"),
        ("app_cookie", {"name": ""}, "that of a cookie"),
        ("app_cookie", {"name": "a b"}, "that of a cookie"),
        ("header", {"name": "X Key"}, "that of a header"),
        ("header", {"name": "X-Key\r\n"}, "that of a header"),
        ("query", {"name": ""}, "that of a query parameter"),
        ("query", {"name": "n" * 257}, "that of a query parameter"),
        ("header", {"name": "X", "size": 0}, "size"),
        ("header", {"name": "X", "ttl": "0s"}, "such as"),
        ("header", {"name": "X", "ttl": "often"}, "duration"),
        ("query", {"name": "x", "nmae": 1}, "did you mean"),
    ],
)
def test_an_option_that_cannot_be_is_refused_with_what_would_be_right(
    kind_: str, table: dict[str, Any], words: str
) -> None:
    with pytest.raises(PluginFault) as caught:
        read_options(KINDS[kind_][1], table, f'affinity "{kind_}"')
    assert words in f"{caught.value.message} {caught.value.hint}"


def test_options_have_defaults_but_for_the_name(kind: str) -> None:
    options: Any = read_options(KINDS[kind][1], {"name": "x"}, kind)
    assert (options.size, options.ttl) == (100_000, 3600)
    assert msgspec.structs.asdict(options).keys() == {"name", "size", "ttl"}
