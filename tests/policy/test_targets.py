"""Request targets that are not in origin form."""

from __future__ import annotations

import pytest

from router.errors import BadRequest, LastHop, MethodNotAllowed, Misdirected
from router.policy.targets import one_hop_less, origin_form

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
    assert origin_form("GET", target, "old.test", FIELDS, True) == (origin, host, fields)


def test_asterisk_form_is_for_options_alone() -> None:
    assert origin_form("OPTIONS", "*", "a.test", FIELDS, True) == ("*", "a.test", FIELDS)
    with pytest.raises(BadRequest):
        origin_form("GET", "*", "a.test", FIELDS, True)


@pytest.mark.parametrize(
    ("target", "origin"), [("http://a.test", "*"), ("http://a.test/", "/"), ("http://a.test?q", "/?q")]
)
def test_options_of_a_whole_server_reach_it_as_an_asterisk(target: str, origin: str) -> None:
    """RFC 9112 §3.2.4: an absolute form without path and query is sent on as "*"."""
    assert origin_form("OPTIONS", target, "a.test", FIELDS, True)[0] == origin


def test_connect_is_not_allowed() -> None:
    with pytest.raises(MethodNotAllowed):
        origin_form("CONNECT", "a.test:443", "a.test", FIELDS, True)


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
        origin_form("GET", target, "a.test", FIELDS, True)


def test_https_is_for_listeners_with_tls() -> None:
    """RFC 9110 §7.4; whoever is trusted to have ended TLS may name it."""
    with pytest.raises(Misdirected):
        origin_form("GET", "https://a.test/", "a.test", FIELDS, False)
    assert origin_form("GET", "http://a.test/", "a.test", FIELDS, False)[0] == "/"


@pytest.mark.parametrize(
    ("sent", "goes_on"),
    [
        (b"\r\nA: b\r\n", b"\r\nA: b\r\n"),
        (b"\r\nMax-Forwards: 5\r\nA: b\r\n", b"\r\nMax-Forwards: 4\r\nA: b\r\n"),
        (b"\r\nA: b\r\nmax-forwards:10 \r\n", b"\r\nA: b\r\nmax-forwards:9 \r\n"),
        (b"\r\nMax-Forwards: no\r\n", b"\r\nMax-Forwards: no\r\n"),
    ],
)
def test_each_hop_takes_one(sent: bytes, goes_on: bytes) -> None:
    assert one_hop_less("OPTIONS", sent) == goes_on
    assert one_hop_less("TRACE", sent) == goes_on


def test_the_last_hop_is_the_recipient() -> None:
    with pytest.raises(LastHop):
        one_hop_less("OPTIONS", b"\r\nMax-Forwards: 0\r\n")
    with pytest.raises(MethodNotAllowed):
        one_hop_less("TRACE", b"\r\nMax-Forwards: 0\r\n")
