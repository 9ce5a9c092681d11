"""What a route answers itself; nothing that a client sends leads a browser to a host of its choice."""

from __future__ import annotations

from typing import Any
from urllib.parse import urljoin, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.errors import BadRequest
from router.model import Response
from router.policy.answering import GivenAnswer
from router.policy.rewriting import FieldRules
from router.testing import make_exchange

TEXT = (b"Content-Type", b"text/plain; charset=utf-8")


def location(redirect: str, target: str = "/a/b?c=d", **fields: Any) -> str:
    answer = GivenAnswer(308, redirect=redirect).response(make_exchange(target=target, **fields))
    [(name, value)] = answer.headers
    assert name == b"Location"
    return value.decode()


def test_a_status_and_a_body() -> None:
    answer = GivenAnswer(503, "back soon\u2026\n")
    assert answer.response(make_exchange()) == Response(503, "back soon\u2026\n".encode(), (TEXT,))
    assert answer.response(make_exchange()) is answer.response(make_exchange(target="/x"))


def test_without_a_body_there_is_no_type() -> None:
    assert GivenAnswer(204).response(make_exchange()) == Response(204)


def test_fields_go_with_it() -> None:
    html = GivenAnswer(200, "<p>", fields=FieldRules({"content-type": "text/html", "X-A": "1"}, ()))
    assert html.response(make_exchange()).headers == ((b"content-type", b"text/html"), (b"X-A", b"1"))
    bare = GivenAnswer(200, "x", fields=FieldRules({}, ["Content-Type"]))
    assert bare.response(make_exchange()).headers == ()
    moved = GivenAnswer(307, "moved", "/x", FieldRules({"X-A": "1"}, ()))
    assert moved.response(make_exchange()) == Response(307, b"moved", ((b"Location", b"/x"), (b"X-A", b"1"), TEXT))


@pytest.mark.parametrize(
    ("redirect", "target", "expected"),
    [
        ("https://{host}{uri}", "/a/b?c=d", "https://example.test/a/b?c=d"),
        ("https://{host}{uri}", "/", "https://example.test/"),
        ("https://{host}{uri}", "/a?", "https://example.test/a?"),
        ("https://{host}:8443{path}", "/a?c", "https://example.test:8443/a"),
        ("{scheme}://www.{host}{uri}", "/a%2Fb//c?d", "http://www.example.test/a%2Fb//c?d"),
        ("https://other.test/x?{query}", "/a?b=c&d", "https://other.test/x?b=c&d"),
        ("https://other.test/x?{query}", "/a", "https://other.test/x?"),
        ("{path}/", "/a?b", "/a/"),
        ("/new{path}", "/a", "/new/a"),
        ("/fixed", "/a", "/fixed"),
        # As the value of a parameter.
        ("/login?next={uri}", "/a?b=c&d=+", "/login?next=/a%3Fb%3Dc%26d%3D%2B"),
        ("/login?next={path}&x={query}", "/a;b%20c?d", "/login?next=/a%3Bb%2520c&x=d"),
        ("/app#{path}", "/a?b", "/app#/a"),
        # Nothing ends the field, and what is no URL becomes one.
        ("https://{host}{uri}", "/a\r\nX: y", "https://example.test/a%0D%0AX:%20y"),
        ("https://{host}{uri}", '/<">\\^`{|}\x7f', "https://example.test/%3C%22%3E%5C%5E%60%7B%7C%7D%7F"),
        ("https://{host}{uri}", "/ü\udcff", "https://example.test/%C3%BC%FF"),
        # Nothing names another host.
        ("{uri}", "//evil.test/x", "/evil.test/x"),
        ("{path}/", "///evil.test", "/evil.test/"),
        ("/{path}", "/evil.test", "/evil.test"),
        ("/{path}", "//evil.test", "/evil.test"),
        ("{uri}", "/\\evil.test", "/%5Cevil.test"),
        ("{uri}", "/\t/evil.test", "/%09/evil.test"),
        ("https://a.test{uri}", "//evil.test", "https://a.test//evil.test"),
        ("https://a.test{uri}", "/@evil.test", "https://a.test/@evil.test"),
        # OPTIONS *
        ("https://{host}{uri}", "*", "https://example.test/"),
        ("{path}", "*", "/"),
    ],
)
def test_redirects(redirect: str, target: str, expected: str) -> None:
    exchange = make_exchange()
    exchange.target = target
    [(name, value)] = GivenAnswer(308, redirect=redirect).response(exchange).headers
    assert (name, value.decode()) == (b"Location", expected)


@pytest.mark.parametrize(
    ("host", "shown"),
    [("Example.TEST", "example.test"), ("a.test:8080", "a.test"), ("[::1]:80", "[::1]"), ("a.test.", "a.test")],
)
def test_the_host_is_the_name_without_its_port(host: str, shown: str) -> None:
    assert location("https://{host}/", host=host) == f"https://{shown}/"


def test_a_redirect_to_no_host_is_a_bad_request() -> None:
    with pytest.raises(BadRequest, match="there is none"):
        location("https://{host}/", host="")
    assert location("/x", host="") == "/x"


def test_what_is_no_host_never_becomes_one() -> None:
    for host in ("a@evil.test", "a/b", "a\\b", 'a"', "a b"):
        with pytest.raises(ValueError, match="not a host"):
            location("https://{host}/", host=host)


TEMPLATES = [
    "{uri}",
    "{path}",
    "/{path}",
    "{path}/x",
    "/a{uri}",
    "https://{host}{uri}",
    "{scheme}://{host}:8443{path}?{query}",
]
TARGETS = st.text(alphabet="/\\.:@?#%ab\t\r\n ;&=\udc80ü", max_size=12).map(lambda text: "/" + text)


@given(st.sampled_from(TEMPLATES), TARGETS)
def test_no_target_leads_elsewhere_or_breaks_the_field(template: str, target: str) -> None:
    exchange = make_exchange(host="shop.test")
    exchange.target = target
    value = GivenAnswer(302, redirect=template).response(exchange).headers[0][1].decode("ascii")
    assert not set(value) & set("\r\n\t \\")
    assert urlsplit(urljoin("http://shop.test/", value)).hostname == "shop.test"
    assert not value.startswith("//")
