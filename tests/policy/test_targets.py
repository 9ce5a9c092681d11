"""Request targets that are not in origin form."""

from __future__ import annotations

import pytest

from router.errors import BadRequest, MethodNotAllowed
from router.policy.targets import origin_form

FIELDS = ((b"Accept", b"*/*"), (b"host", b"old.test"), (b"X-Y", b"1"))


@pytest.mark.parametrize(
    ("target", "origin", "host"),
    [
        ("http://new.test/a%2Fb?q=1", "/a%2Fb?q=1", "new.test"),
        ("HTTPS://new.test:8443/x", "/x", "new.test:8443"),
        ("http://new.test", "/", "new.test"),
        ("http://new.test?q", "/?q", "new.test"),
        ("http://new.test?q=/a", "/?q=/a", "new.test"),
        ("http://[::1]:80/", "/", "[::1]:80"),
        ("http://new.test/http://x@y", "/http://x@y", "new.test"),
    ],
)
def test_absolute_form(target: str, origin: str, host: str) -> None:
    fields = ((b"Host", host.encode()), (b"Accept", b"*/*"), (b"X-Y", b"1"))
    assert origin_form("GET", target, "old.test", FIELDS) == (origin, host, fields)


def test_asterisk_form_is_for_options_alone() -> None:
    assert origin_form("OPTIONS", "*", "a.test", FIELDS) == ("*", "a.test", FIELDS)
    with pytest.raises(BadRequest):
        origin_form("GET", "*", "a.test", FIELDS)


@pytest.mark.parametrize(
    ("target", "origin"), [("http://a.test", "*"), ("http://a.test/", "/"), ("http://a.test?q", "/?q")]
)
def test_options_of_a_whole_server_reach_it_as_an_asterisk(target: str, origin: str) -> None:
    """RFC 9112 §3.2.4: an absolute form without path and query is sent on as "*"."""
    assert origin_form("OPTIONS", target, "a.test", FIELDS)[0] == origin


def test_connect_is_not_allowed() -> None:
    with pytest.raises(MethodNotAllowed):
        origin_form("CONNECT", "a.test:443", "a.test", FIELDS)


@pytest.mark.parametrize(
    "target",
    [
        "",
        "x",
        "a.test/x",
        "ftp://a.test/",
        "http:/a.test/",
        "http:///x",
        "http://",
        "http://?q",
        "http://user@a.test/",
        "http://user:pw@a.test/",
        "http://bücher.test/",
        "http://a.test/#part",
        "/x#part",
        "//a.test/x",
    ],
)
def test_other_forms_are_refused(target: str) -> None:
    with pytest.raises(BadRequest):
        origin_form("GET", target, "a.test", FIELDS)
