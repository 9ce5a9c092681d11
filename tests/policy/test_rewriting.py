"""What a route changes in requests and responses, byte for byte."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.policy.normal import normal_path
from router.policy.rewriting import FieldRules, Rewriting

LINES = b"\r\nHost: a.test\r\nX-A: 1\r\nAccept: */*\r\nx-a: 2\r\n"


def moved(target: str, strip: str, replace: str = "") -> str:
    return Rewriting(strip, replace).request(target, LINES)[0]


@pytest.mark.parametrize(
    ("target", "strip", "replace", "sent"),
    [
        ("/api/x%2Fy?q", "/api", "", "/x%2Fy?q"),
        ("/api", "/api", "", "/"),
        ("/api?q", "/api", "", "/?q"),
        ("/api/", "/api", "", "/"),
        ("/api/?", "/api", "", "/?"),
        ("/api/x?/api/y", "/api", "", "/x?/api/y"),
        ("/apix", "/api", "", "/apix"),
        ("/apix/y", "/api", "", "/apix/y"),
        ("/x/api/y", "/api", "", "/x/api/y"),
        ("/API/x", "/api", "", "/API/x"),
        ("/", "/api", "", "/"),
        ("*", "/api", "/v2", "*"),
        # What follows is kept to the byte, but never looks like a host.
        ("/api/a//b/./c;d=%7E/", "/api", "", "/a//b/./c;d=%7E/"),
        ("/api//evil.test/x", "/api", "", "/evil.test/x"),
        ("/api///evil.test", "/api", "", "/evil.test"),
        ("/api//", "/api", "", "/"),
        ("//evil.test", "/api", "", "//evil.test"),
        ("/api/.//x", "/api", "", "/.//x"),
        # What lies below the prefix in normal form alone.
        ("/%61pi/x%20y", "/api", "", "/x%20y"),
        ("//api/x", "/api", "", "/x"),
        ("/a/../api/x", "/api", "", "/x"),
        ("/../api/x/../y", "/api", "", "/x/../y"),
        ("/api/../api/x", "/api", "", "/x"),
        ("/api/x/../../api/y?q", "/api", "", "/y?q"),
        ("/api/..", "/api", "", "/api/.."),
        ("/api/../x", "/api", "", "/api/../x"),
        ("/api/%2e%2e/x", "/api", "", "/api/%2e%2e/x"),
        ("/api%2Fx", "/api", "", "/api%2Fx"),
        ("/a/b/c", "/a/b", "", "/c"),
        ("/a/c/b", "/a/b", "", "/a/c/b"),
        # Another prefix in its place, or before everything.
        ("/api/x", "/api", "/v2", "/v2/x"),
        ("/api", "/api", "/v2", "/v2"),
        ("/api/", "/api", "/v2/b", "/v2/b/"),
        ("/api//x", "/api", "/v2", "/v2//x"),
        ("/apix", "/api", "/v2", "/apix"),
        ("/x?q", "", "/v2", "/v2/x?q"),
        ("/", "", "/v2", "/v2/"),
        ("//x", "", "/v2", "/v2//x"),
        ("/../x", "", "/v2", "/v2/x"),
        ("/x/../../y", "", "/v2", "/v2/y"),
        ("/..", "", "/v2", "/v2"),
        ("/x", "", "/my%20app", "/my%20app/x"),
    ],
)
def test_prefixes(target: str, strip: str, replace: str, sent: str) -> None:
    assert moved(target, strip, replace) == sent


PIECES = st.sampled_from(["/", "/api", "api", "x", "..", "/../", ".", "%2e", "%2E%2e", "%61", "pi", "%2F", "//"])


@given(st.lists(PIECES, max_size=9), st.sampled_from(["", "/api", "/api/x"]), st.sampled_from(["", "/v2"]))
def test_no_path_climbs_out_of_its_prefix_or_becomes_a_host(pieces: list[str], strip: str, replace: str) -> None:
    path = "/" + "".join(pieces)
    sent, normal = moved(path, strip, replace), normal_path(path)
    below = f"{normal}/".startswith(f"{strip}/")
    assert sent.startswith("/")
    if not below or not (strip or replace):
        assert sent == path
    else:
        assert not sent.startswith("//")
        assert f"{normal_path(sent)}/".startswith(f"{replace}/")
        assert normal_path(sent).strip("/") == f"{replace}{normal[len(strip) :]}".strip("/")


def test_the_host_is_replaced_where_it_stands() -> None:
    rewriting = Rewriting(host="b.test:8080")
    assert rewriting.request("/x", LINES) == ("/x", LINES.replace(b"a.test", b"b.test:8080"))
    lines = b"\r\nX-Host: a\r\nhOST:a\r\nA: Host: a\r\n"
    assert rewriting.request("/x", lines)[1] == b"\r\nX-Host: a\r\nhOST: b.test:8080\r\nA: Host: a\r\n"
    assert rewriting.request("/x", b"\r\nA: 1\r\n")[1] == b"\r\nHost: b.test:8080\r\nA: 1\r\n"
    assert not rewriting.moves


def test_fields_are_removed_and_set() -> None:
    rules = FieldRules({"X-New": "n", "Accept": "text/html"}, ["x-A"])
    assert rules.apply(LINES) == b"\r\nHost: a.test\r\nX-New: n\r\nAccept: text/html\r\n"
    assert rules.apply(b"\r\n") == b"\r\nX-New: n\r\nAccept: text/html\r\n"
    assert [rules.drops(name) for name in (b"X-a", b"ACCEPT", b"Host", b"X-Ab", b"X")] == [
        True,
        True,
        False,
        False,
        False,
    ]
    assert rules


def test_no_rules_change_nothing() -> None:
    rules = FieldRules({}, ())
    assert rules.apply(LINES) == LINES
    assert not rules.drops(b"X-A")
    assert not rules
    assert not Rewriting()
    assert Rewriting().request("/x//y?z", LINES) == ("/x//y?z", LINES)
    assert Rewriting().response(LINES) == LINES


def test_only_whole_names_are_found() -> None:
    rules = FieldRules({}, ["A", "B.C"])
    kept = b"\r\nAA: 1\r\nX-A: 2\r\nA-B: 3\r\nBxC: 4\r\nV: A: 5\r\n"
    assert rules.apply(kept) == kept
    assert rules.apply(b"\r\na: 1\r\nA:\r\nb.c:2\r\nA\t : 3\r\n") == b"\r\n"


def test_a_name_that_servers_cannot_tell_apart_goes_too() -> None:
    lines = b"\r\nX_User-Name: admin\r\nx-user_name: root\r\nX-User: a\r\n"
    of_request = FieldRules({"X-User-Name": "guest"}, ["X_User"], of_request=True)
    assert of_request.apply(lines) == b"\r\nX-User-Name: guest\r\n"
    of_response = FieldRules({"X-User-Name": "guest"}, ["X_User"])
    assert of_response.apply(lines) == lines + b"X-User-Name: guest\r\n"


def test_prefix_and_host_come_before_the_fields() -> None:
    rewriting = Rewriting(
        "/api",
        "/v2",
        "b.test",
        request=FieldRules({"X-A": "3"}, ["Accept"], of_request=True),
        response=FieldRules({"X-Frame-Options": "DENY"}, ["Server"]),
    )
    assert rewriting
    assert rewriting.moves
    assert rewriting.request("/api/x", LINES) == ("/v2/x", b"\r\nHost: b.test\r\nX-A: 3\r\n")
    assert rewriting.response(b"\r\nServer: s\r\nA: 1\r\n") == b"\r\nA: 1\r\nX-Frame-Options: DENY\r\n"


@pytest.mark.parametrize(
    "rewriting",
    [
        Rewriting("/a"),
        Rewriting(replace="/a"),
        Rewriting(host="a"),
        Rewriting(request=FieldRules({}, ["a"])),
        Rewriting(response=FieldRules({"a": "b"}, ())),
    ],
)
def test_a_single_change_makes_a_rewriting(rewriting: Rewriting) -> None:
    assert rewriting
