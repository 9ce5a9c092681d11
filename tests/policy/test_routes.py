"""Which route a request takes: hosts, paths and conditions, one by one and against a naive matcher."""

from __future__ import annotations

import random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from router.policy.normal import AmbiguousPath, loose_forms, normal_path
from router.policy.rewriting import Rewriting
from router.policy.routes import Route, RouteTable
from router.testing import make_exchange


def table(*routes: dict) -> RouteTable:
    return RouteTable(Route(str(i), i, None, **fields) for i, fields in enumerate(routes))


def taken(routes: RouteTable, target: str = "/", host: str = "example.test", **fields) -> int | None:
    route = routes.match(make_exchange(target=target, host=host, **fields))
    return None if route is None else route.index


@pytest.mark.parametrize("field", ["a b", "[::1", "a:b", "user@a"])
def test_a_bad_host_is_refused_by_the_table_every_time(field: str) -> None:
    routes = table({})
    for _ in range(2):
        with pytest.raises(ValueError, match="host"):
            taken(routes, host=field)


def test_a_missing_host_reaches_the_routes_without_one() -> None:
    assert taken(table({"hosts": ["a.test"]}, {}), host="") == 1
    assert taken(table({"hosts": ["a.test"]}), host="") is None


@pytest.mark.parametrize(
    ("host", "index"),
    [
        ("a.test", 0),
        ("A.TEST:8080", 0),
        ("a.test.", 0),
        ("b.a.test", 1),
        ("c.b.a.test", 1),
        ("test", 3),
        ("xa.test", 3),
        ("[::1]:80", 2),
        ("[::2]", 3),
        ("127.0.0.1", 3),
    ],
)
def test_exact_hosts_wildcards_and_addresses(host: str, index: int) -> None:
    routes = table({"hosts": ["A.test"]}, {"hosts": ["*.A.test"]}, {"hosts": ["[::1]"]}, {})
    assert taken(routes, host=host) == index


def test_the_first_in_file_order_wins_over_the_more_specific_host() -> None:
    assert taken(table({"hosts": ["*.test"]}, {"hosts": ["a.test"]}), host="a.test") == 0
    assert taken(table({}, {"hosts": ["a.test"]}), host="a.test") == 0
    assert taken(table({"hosts": ["*.test"]}, {"hosts": ["*.a.test"]}), host="b.a.test") == 0
    assert taken(table({"hosts": ["*.a.test"]}, {"hosts": ["*.test"]}), host="a.test") == 1


def test_a_route_may_name_several_hosts_and_paths() -> None:
    routes = table({"hosts": ["a.test", "*.b.test"], "paths": ["/x", "/y/*"]})
    assert taken(routes, "/x", "a.test") == 0
    assert taken(routes, "/y/z", "c.b.test") == 0
    assert taken(routes, "/y", "a.test") is None
    assert taken(routes, "/x", "b.test") is None


@pytest.mark.parametrize("order", [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)])
def test_the_first_in_file_order_wins_across_exact_prefix_and_catch_all(order: tuple[int, ...]) -> None:
    kinds = ({"paths": ["/a/b"]}, {"paths": ["/a/*"]}, {})
    routes = table(*(kinds[i] for i in order))
    assert taken(routes, "/a/b") == 0
    first_of_two = min(order.index(1), order.index(2))
    assert taken(routes, "/a/c") == first_of_two
    assert taken(routes, "/b") == order.index(2)


@pytest.mark.parametrize(
    ("path", "target", "matches"),
    [
        ("/x", "/x", True),
        ("/x", "/x?y", True),
        ("/x", "/x/", False),
        ("/x", "/X", False),
        ("/x/*", "/x/", True),
        ("/x/*", "/x/y/z?q", True),
        ("/x/*", "/x", False),
        ("/x/*", "/xy", False),
        ("/*", "/", True),
        ("/*", "/anything", True),
        ("/x", "/%78", True),
        ("/x/*", "/x/%2e%2e/y", False),
        ("/x/*", "/x/y/%2e%2e/z", True),
        ("/x/*", "/x//y", True),
        ("/x/*", "/x/../x/z", True),
        ("/a/*", "/a%2Fb", False),
        ("/a b", "/a%20b", True),
        ("/x", "*", False),
        ("/*", "*", True),
    ],
)
def test_paths(path: str, target: str, matches: bool) -> None:
    assert (taken(table({"paths": [path]}), target) == 0) is matches


def test_methods_headers_and_query_are_conditions() -> None:
    routes = table(
        {"methods": ["POST", "PUT"]},
        {"headers": {"X-Version": "2"}},
        {"headers": {"X-Beta": "*"}},
        {"query": {"q": "a b"}},
        {"query": {"debug": "*", "x": "1"}},
        {"paths": ["/last"]},
    )
    assert taken(routes, method="PUT") == 0
    assert taken(routes, headers={"x-version": "2"}) == 1
    assert taken(routes, headers={"X-Version": "3"}) is None
    assert taken(routes, headers={"X-Beta": ""}) == 2
    assert taken(routes, "/?q=a+b") == 3
    assert taken(routes, "/?q=a%20b&z") == 3
    assert taken(routes, "/?q=c&q=a%20b") == 3
    assert taken(routes, "/?q=") is None
    assert taken(routes, "/?debug&x=1") == 4
    assert taken(routes, "/?debug&x=2") is None
    assert taken(routes, "/last?debug") == 5
    assert taken(routes, "/?") is None


def test_a_route_that_declines_leaves_the_request_to_the_next_one() -> None:
    routes = table(
        {"paths": ["/a/*"], "methods": ["POST"]},
        {"paths": ["/a/b"], "methods": ["PUT"]},
        {"paths": ["/a/*"]},
        {"paths": ["/a/b"]},
        {},
    )
    assert [taken(routes, "/a/b", method=m) for m in ("POST", "PUT", "GET")] == [0, 1, 2]
    assert [taken(routes, "/a/c", method=m) for m in ("POST", "PUT")] == [0, 2]
    assert taken(routes, "/c", method="POST") == 4


def test_a_catch_all_with_conditions_is_not_taken_blindly() -> None:
    routes = table({"methods": ["POST"]})
    assert taken(routes) is None
    assert taken(routes, method="POST") == 0


def test_no_routes_match_nothing() -> None:
    assert taken(RouteTable([])) is None


def test_the_memory_of_hosts_is_bounded_and_changes_no_answer() -> None:
    routes = table({"hosts": ["*.a.test"]}, {})
    for n in range(3000):
        assert taken(routes, host=f"h{n}.a.test") == 0
        assert taken(routes, host=f"h{n}.b.test") == 1
    assert 0 < len(routes._seen) <= 1024


def test_long_hosts_are_looked_up_and_not_remembered() -> None:
    routes = table({"hosts": ["*.a.test"]}, {})
    for label in ("x" * 245, "x" * 246, "x" * 5000):
        assert taken(routes, host=f"{label}.a.test") == 0
    assert [len(host) for host in routes._seen] == [252, 253]


def test_a_route_that_only_passes_on_is_plain() -> None:
    assert Route("a", 0, None, timeout=3.0, methods=["GET"]).plain
    for action in (
        {"split": object()},
        {"answer": object()},
        {"rewriting": Rewriting("/a")},
        {"filters": ("f",)},
        {"max_body": 0.0},
    ):
        route = Route("a", 0, None, **action)
        assert not route.plain
        assert {name: getattr(route, name) for name in action} == action


def test_a_route_says_what_it_is() -> None:
    route = Route("api", 3, None, hosts=["A.test"], paths=["/x"], timeout=2.0, filters=("f",))
    assert "api" in repr(route)
    assert "a.test" in repr(route)
    assert (route.timeout, route.filters, route.unconditional) == (2.0, ("f",), True)


# Against a matcher that tries one route after another

HOSTS = ["a.test", "b.test", "x.a.test", "y.x.a.test", "[::1]", "test"]
PATTERNS = ["a.test", "b.test", "x.a.test", "*.a.test", "*.test", "*.x.a.test", "[::1]"]
PATHS = ["/", "/a", "/a/", "/a/b", "/a/b/c", "/b", "/b/a", "/a%2Fb", "/x/../a", "//b", "/a;x", "/a/..\\b", "/a//../b"]
PATH_PATTERNS = ["/", "/a", "/a/", "/a/b", "/a/*", "/a/b/*", "/b", "/b/*", "/*"]
METHODS = ["GET", "POST", "PUT"]


def naive(routes: RouteTable, host: str, path: str, method: str) -> int | str | None:
    """The first that fits; "refused" where another reading of the path leads elsewhere."""

    def host_fits(pattern: str) -> bool:
        return host.endswith(pattern[1:]) if pattern[0] == "*" else host == pattern

    def first(path: str) -> int | None:
        def path_fits(pattern: str) -> bool:
            return path.startswith(pattern[:-1]) if pattern.endswith("/*") else path == pattern

        for route in routes.routes:
            if (
                (not route.hosts or any(map(host_fits, route.hosts)))
                and (not route.paths or any(map(path_fits, route.paths)))
                and (not route.methods or method in route.methods)
            ):
                return route.index
        return None

    found = first(normal_path(path))
    if found is not None and any(first(form) != found for form in loose_forms(path)):
        return "refused"
    return found


def taken_or_refused(routes: RouteTable, target: str, host: str, **fields) -> int | str | None:
    try:
        return taken(routes, target, host, **fields)
    except AmbiguousPath:
        return "refused"


routes_drawn = st.lists(
    st.fixed_dictionaries(
        {
            "hosts": st.lists(st.sampled_from(PATTERNS), max_size=2),
            "paths": st.lists(st.sampled_from(PATH_PATTERNS), max_size=2),
            "methods": st.lists(st.sampled_from(METHODS), max_size=1),
        }
    ),
    max_size=8,
)


@settings(deadline=None)
@given(routes_drawn)
def test_a_few_routes_agree_with_a_naive_matcher(drawn: list[dict]) -> None:
    routes = table(*drawn)
    for host in HOSTS:
        for path in PATHS:
            for method in METHODS:
                assert taken_or_refused(routes, path, host, method=method) == naive(routes, host, path, method)


def many_routes(seed: int) -> RouteTable:
    rng = random.Random(seed)
    labels = ["a", "b", "c", "d"]

    def host() -> str:
        name = ".".join(rng.choices(labels, k=rng.randint(1, 4)))
        return f"*.{name}" if rng.random() < 0.4 else name

    def path() -> str:
        name = "/" + "/".join(rng.choices(labels, k=rng.randint(1, 4)))
        return f"{name}/*" if rng.random() < 0.4 else name

    return table(
        *(
            {
                "hosts": [host() for _ in range(rng.choice((0, 1, 1, 2)))],
                "paths": [path() for _ in range(rng.choice((1, 1, 2)))],
                "methods": rng.choice(([], [], ["POST"])),
            }
            for _ in range(1000)
        )
    )


THOUSAND = many_routes(1)
labels_drawn = st.lists(st.sampled_from("abcd"), min_size=1, max_size=5)


@settings(max_examples=300, deadline=None)
@given(labels_drawn, labels_drawn, st.sampled_from(["GET", "POST"]))
@example(["a"], ["a"], "GET")
def test_a_thousand_routes_agree_with_a_naive_matcher(host: list[str], path: list[str], method: str) -> None:
    where, target = ".".join(host), "/" + "/".join(path)
    assert taken(THOUSAND, target, where, method=method) == naive(THOUSAND, where, target, method)
