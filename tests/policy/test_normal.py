"""Hosts and paths in the forms in which they are compared."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.policy.normal import AmbiguousPath, after_prefix, loose_forms, may_climb, normal_path, split_host


@pytest.mark.parametrize(
    ("field", "name"),
    [
        ("example.com", "example.com"),
        ("EXAMPLE.Com", "example.com"),
        ("example.com:8080", "example.com"),
        ("example.com:", "example.com"),
        ("example.com.", "example.com"),
        ("example.com.:443", "example.com"),
        ("127.0.0.1:80", "127.0.0.1"),
        ("[::1]", "[::1]"),
        ("[2001:DB8::1]:443", "[2001:db8::1]"),
        ("a_b-c.test", "a_b-c.test"),
        ("[::1]:65535", "[::1]"),
    ],
)
def test_the_name_in_a_host_field(field: str, name: str) -> None:
    assert split_host(field) == name


@pytest.mark.parametrize(
    "field",
    [
        "",
        " ",
        "a b",
        "a/b",
        "user@a",
        "a:b",
        "a:1:2",
        "a:123456",
        "::1",
        "[::1",
        "[::1]x",
        "[g::1]",
        ":80",
        "a\n",
        "a,b c",
        "a?b",
        "bücher.test",
        "a\\b",
        "a:٣",
        "a:65536",
        "a,b",
        "x%20y",
        "[:::]",
        "[1.2.3.4]",
    ],
)
def test_what_is_not_a_host_is_refused(field: str) -> None:
    with pytest.raises(ValueError, match=r"host|'"):
        split_host(field)


@pytest.mark.parametrize(
    ("path", "normal"),
    [
        ("/", "/"),
        ("/a", "/a"),
        ("/a/", "/a/"),
        ("//a", "/a"),
        ("/a//b", "/a/b"),
        ("/a//", "/a/"),
        ("//", "/"),
        ("/.", "/"),
        ("/..", "/"),
        ("/../..", "/"),
        ("/a/.", "/a/"),
        ("/a/..", "/"),
        ("/a/b/..", "/a/"),
        ("/a/./b", "/a/b"),
        ("/a/../b", "/b"),
        ("/../a", "/a"),
        ("/a/%2e%2E/b", "/b"),
        ("/a/%2e/b", "/a/b"),
        ("/.a/..b/...", "/.a/..b/..."),
        ("/a%2Fb", "/a%2Fb"),
        ("/a%2fb", "/a%2Fb"),
        ("/a/..%2Fb", "/a/..%2Fb"),
        ("/%41%7e", "/A~"),
        ("/a%252Fb", "/a%252Fb"),
        ("/a%25", "/a%25"),
        ("/a%zz%", "/a%zz%"),
        ("/a%3Fb", "/a?b"),
    ],
)
def test_the_normal_form_of_a_path(path: str, normal: str) -> None:
    assert normal_path(path) == normal


PIECES = st.sampled_from(["/", "a", "b", ".", "..", "%2e", "%2F", "%2f", "%61", "%25", "//"])


@given(st.lists(PIECES, max_size=8))
def test_a_normal_form_is_its_own_and_holds_nothing_that_climbs(pieces: list[str]) -> None:
    normal = normal_path("/" + "".join(pieces))
    assert normal_path(normal) == normal
    assert normal.startswith("/")
    assert "//" not in normal
    assert not {".", ".."} & set(normal.split("/"))


@given(st.lists(PIECES, max_size=6))
def test_an_encoded_slash_never_makes_or_takes_a_segment(pieces: list[str]) -> None:
    path = "/" + "".join(pieces)
    # As an unreserved letter in its place would do, so does the encoded slash.
    plain = path.replace("%2f", "%2F")
    assert normal_path(path) == normal_path(plain)
    assert normal_path(plain).count("%2F") <= plain.count("%2F")
    assert normal_path(plain.replace("%2F", "_")).replace("_", "%2F") == normal_path(plain)


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/a/b",
        "/a//b/",
        "/A",
        "/a/../b",
        "/a/%2e%2e/b",
        "//a",
        "/a%20b",
        "/caf%C3%A9",
        "/%61/%7E",
        "/a./b..",
        "/...",
        "*",
    ],
)
def test_what_all_servers_read_alike_has_no_loose_form(path: str) -> None:
    assert loose_forms(path) == set()


@pytest.mark.parametrize(
    ("path", "forms"),
    [
        ("/a%2Fb", {"/a%2Fb", "/a/b"}),
        ("/a%2fb%2F", {"/a%2Fb%2F", "/a/b/"}),
        ("/a%2F", {"/a%2F", "/a/"}),
        ("/%2Fa", {"/%2Fa", "/a"}),
        ("/a\\b", {"/a\\b", "/a/b"}),
        ("/a%5Cb%5cc", {"/a\\b\\c", "/a/b/c"}),
        ("/a;x=1/b;", {"/a;x=1/b;", "/a/b"}),
        ("/;x/a", {"/;x/a", "/a"}),
        ("/a%3Bx/b", {"/a;x/b", "/a/b"}),
        ("/a%00/b", {"/a\0/b", "/a"}),
        ("/a%3Fb", {"/a?b", "/a"}),
        ("/a%23b", {"/a#b", "/a"}),
        ("/%00", {"/\0", "/"}),
        ("/a%252Fb", {"/a%252Fb", "/a%2Fb", "/a/b"}),
        ("/%2561", {"/%2561", "/%61", "/a"}),
        ("/100%25", {"/100%25", "/100%"}),
        ("/100%", {"/100%"}),
        ("/%zz%2", {"/%zz%2"}),
        ("/a//../b", {"/b", "/a/b"}),
        ("/a//%2e%2E/b", {"/b", "/a/b"}),
        ("//..", {"/"}),
        ("/a/..%2Fb", {"/a/..%2Fb", "/b"}),
        ("/a%2F../b", {"/a%2F../b", "/b"}),
        ("/a/..\\b", {"/a/..\\b", "/b"}),
        ("/a/..;x=1", {"/a/..;x=1", "/"}),
        ("/a/..%00", {"/a/..\0", "/"}),
        ("/a%00/../b", {"/b", "/a"}),
        ("/a/%252e%252e/b", {"/a/%252e%252e/b", "/a/%2e%2e/b", "/b"}),
        ("/a%2Fb/../c", {"/c", "/a/c"}),
        # What one leniency hides shows in another.
        ("/a;/..%2Fb", {"/a;/..%2Fb", "/a/..%2Fb", "/b"}),
        ("/;%2Fx/a", {"/;%2Fx/a", "/;/x/a", "/x/a", "/a"}),
    ],
)
def test_the_loose_forms_of_a_path(path: str, forms: set[str]) -> None:
    assert loose_forms(path) == forms


def test_escapes_are_undone_three_times_at_most() -> None:
    assert "/a/b" in loose_forms("/a%25252Fb")
    for path in ("/a%2525252Fb", "/%" + "25" * 4000 + "2F"):
        with pytest.raises(AmbiguousPath, match="over and over"):
            loose_forms(path)
    # What a parameter hides from some.
    with pytest.raises(AmbiguousPath, match="over and over"):
        loose_forms("/a;%25252561")


@pytest.mark.parametrize(
    ("path", "climbs"),
    [
        ("/a/b", False),
        ("/a/..b/c..", False),
        ("/a/.../b", False),
        ("/a..%2Fb", False),
        ("/a/../b", True),
        ("/..", True),
        ("/a/%2e./b", True),
        ("/a/..%2Fb", True),
        ("/a%2F..", True),
        ("/a%5C..%5Cb", True),
        ("/a/..;x", True),
        ("/a/..%00", True),
        ("/a/..%3F", True),
        ("/a/%25252e%25252e/b", True),
    ],
)
def test_paths_in_which_a_server_may_find_a_segment_that_climbs(path: str, climbs: bool) -> None:
    assert may_climb(path) is climbs


@pytest.mark.parametrize(
    "piece", [";", ";%", "%3b/", "/", "../", "%2F", "%25", "a;b/", ";/", "%00", "\\", "//..", "%2F..;/."]
)
def test_long_paths_are_read_once_and_not_over_and_over(piece: str) -> None:
    """Work that grows with the square of a path would take minutes here, not a moment."""
    path = "/" + piece * (200_000 // len(piece))
    assert normal_path(path).startswith("/")
    assert after_prefix(path, ("no",)) is None
    assert may_climb(path) is (".." in piece)
    with suppress(AmbiguousPath):
        assert len(loose_forms(path[:8192])) <= 64


def test_long_paths_with_one_reading_pass_and_others_do_not() -> None:
    assert loose_forms("/a%20b/." * 10000) == set()
    assert loose_forms("/" + "a" * 8188 + "%2F") == {"/" + "a" * 8188 + "%2F", "/" + "a" * 8188 + "/"}
    with pytest.raises(AmbiguousPath, match="too long"):
        loose_forms("/" + "a" * 8189 + "%2F")


@pytest.mark.parametrize(
    ("path", "prefix", "rest"),
    [
        ("/api", "/api", ""),
        ("/api/", "/api", "/"),
        ("/api/x", "/api", "/x"),
        ("/apix", "/api", None),
        ("/ap", "/api", None),
        ("/x/api/y", "/api", None),
        ("/API/x", "/api", None),
        ("/api/v1/x", "/api/v1", "/x"),
        ("/api/v2/x", "/api/v1", None),
        ("/%61pi/%78", "/api", "/%78"),
        ("//api//x", "/api", "//x"),
        ("/a/../api/x", "/api", "/x"),
        ("/../api/x", "/api", "/x"),
        ("/./api/./x", "/api", "/./x"),
        ("/api/../api/x", "/api", "/x"),
        ("/api/x/../../api/y", "/api", "/y"),
        ("/api/x/../y", "/api", "/x/../y"),
        ("/api/../x", "/api", None),
        ("/api/x/../../y", "/api", None),
        ("/api/%2e%2E/x", "/api", None),
        ("/api%2Fx", "/api", None),
        ("/api/..%2Fx", "/api", "/..%2Fx"),
        ("/api/v1/../v1/x", "/api/v1", "/x"),
        ("/x", "", "/x"),
        ("/../x", "", "/x"),
        ("/x/../../y/..", "", "/y/.."),
        ("/x/..", "", "/x/.."),
        ("/..", "", ""),
    ],
)
def test_where_what_lies_below_a_prefix_begins(path: str, prefix: str, rest: str | None) -> None:
    at = after_prefix(path, tuple(prefix.split("/")[1:]))
    assert (None if at is None else path[at:]) == rest


@given(st.lists(PIECES, max_size=8), st.lists(st.sampled_from("ab"), max_size=2))
def test_what_follows_a_prefix_is_the_rest_of_the_normal_form(pieces: list[str], prefix: list[str]) -> None:
    path, base = "/" + "".join(pieces), "".join(f"/{name}" for name in prefix)
    at, normal = after_prefix(path, tuple(prefix)), normal_path(path)
    below = normal == base or normal.startswith(f"{base}/")
    assert (at is not None) is below
    if at is not None:
        rest = path[at:]
        assert rest[:1] in ("", "/")
        assert normal_path(rest or "/") == (normal[len(base) :] or "/")
        # Below a prefix of the endpoint's it stays below.
        assert normal_path(f"/v2{rest}").startswith("/v2")
        assert (normal_path(f"/v2{rest}") + "/").startswith("/v2/")
