"""Requests as the command line writes them: what is read from each, and what is said of those that are none."""

from __future__ import annotations

import pytest
import rich_click as click
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from router.cli import router
from router.cli_requests import completed, parse_client, parse_field, parse_request


@pytest.mark.parametrize(
    ("text", "method", "scheme", "host", "target"),
    [
        ("GET https://shop.example/cart/7", "GET", "https", "shop.example", "/cart/7"),
        ("http://shop.example", "GET", "http", "shop.example", "/"),
        ("  POST   HTTP://h:8080/x?a=b&a=c ", "POST", "http", "h:8080", "/x?a=b&a=c"),
        ("GET http://h?x=/y", "GET", "http", "h", "/?x=/y"),
        ("GET http://[::1]:80//a/../b%2Fc%zz;{}|?", "GET", "http", "[::1]:80", "//a/../b%2Fc%zz;{}|?"),
        ("PURGE http://H.Example./", "PURGE", "http", "H.Example.", "/"),
    ],
)
def test_a_request_keeps_its_bytes(text: str, method: str, scheme: str, host: str, target: str) -> None:
    request = parse_request(text)
    assert (request.method, request.scheme, request.host, request.target) == (method, scheme, host, target)
    assert request.text == text
    assert request.head == f"{method} {target} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()


WRONG = [
    ("", 'is written like "GET https://shop.example/cart/7"'),
    ("GET", "the URL has no scheme and host"),
    ("GET /cart/7", "the URL has no scheme and host"),
    ("GET http://h/a b", "a blank in the URL is %20"),
    ("get http://h/", "did you mean 'GET'?"),
    ("GE:T http://h/", "a method is one word"),
    ("GET ftp://h/", "http:// or https://"),
    ("GET http://h/#top", "leave out what begins with '#'"),
    ("GET http://me@h/", "no user name"),
    ("GET http:///x", "not a host name"),
    ("GET http://h:port/x", "not a host name"),
    ("GET http://b\u00fccher.example/", "not a host name"),
    ("GET http://h/b\u00fccher?q=\u20ac&%41", "write /b%C3%BCcher?q=%E2%82%AC&%41"),
    ("GET http://h/\ud800", "control characters"),
    ("GET http://h/\x1b[31m", "control characters"),
    ("GET http://h/\r\nX: y", "control characters"),
    ("GET http://h/\x7f", "control characters"),
    ("GET http://h/\x00", "control characters"),
]


@pytest.mark.parametrize(("text", "words"), WRONG)
def test_what_is_no_request_is_refused(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        parse_request(text)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@given(st.text())
def test_whatever_is_written_is_read_or_refused(text: str) -> None:
    try:
        request = parse_request(text)
    except ValueError:
        return
    assert request.head.count(b"\r\n") == 3
    assert request.target.startswith("/")


def test_fields_are_added_and_a_host_takes_the_place_of_the_urls() -> None:
    fields = [parse_field("X-Beta", " 1 "), parse_field("x-beta", ""), parse_field("HOST", "other.example")]
    request = parse_request("GET http://h/").with_more(fields, "192.0.2.7")
    assert request.head == b"GET / HTTP/1.1\r\nHost: other.example\r\nX-Beta: 1\r\nx-beta: \r\n\r\n"
    assert (request.host, request.client) == ("other.example", "192.0.2.7")
    with pytest.raises(ValueError, match="one Host field"):
        request.with_more([("Host", "a"), ("host", "b")], "")


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("", "x", "one word"),
        ("a b", "x", "one word"),
        ("X-\u00c4", "x", "one word"),
        ("X-A", "a\r\nX-B: c", "control characters"),
        ("X-A", "a\x00", "control characters"),
        ("X-A", "\ud800", "control characters"),
    ],
)
def test_what_is_no_field_is_refused(name: str, value: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse_field(name, value)


def test_a_field_may_hold_tabs_and_letters_of_every_script() -> None:
    assert parse_field("X-A", "\ta\tb\u00fc ") == ("X-A", "a\tb\u00fc")


def test_a_client_is_an_address() -> None:
    assert parse_client("192.0.2.7") == "192.0.2.7"
    assert parse_client("2001:DB8::0") == "2001:db8::"
    with pytest.raises(ValueError, match=r"such as '192\.0\.2\.7'"):
        parse_client("localhost")


def test_what_belongs_to_a_request_needs_one() -> None:
    request = parse_request("http://h")
    assert completed([], [], None) == []
    assert completed([request], [], None) == [request]
    (with_client,) = completed([request], [("X-A", "1")], "192.0.2.7")
    assert (with_client.fields, with_client.client) == ((("X-A", "1"),), "192.0.2.7")
    for requests, fields, client in (([], [("X-A", "1")], None), ([], [], "192.0.2.7")):
        with pytest.raises(click.UsageError, match="belong to a --request"):
            completed(requests, fields, client)
    with pytest.raises(click.UsageError, match="one Host"):
        completed([request], [("Host", "a"), ("Host", "b")], None)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--request", "GET http://h/\x1b[31m"), "'GET http://h/\\x1b[31m'"),
        (("--request", "http://h", "-H", "X-A"), "'X-A': a header is written like 'Name: value'"),
        (("--request", "http://h", "-H", "X A: 1"), "one word"),
        (("--request", "http://h", "--client", "here"), "'here': a client is an IP address"),
        (("-H", "X-A: 1"), "belong to a --request"),
    ],
)
def test_wrong_arguments_are_usage_errors(arguments: tuple[str, ...], words: str) -> None:
    result = CliRunner().invoke(router, ["check", "no-such-file.toml", *arguments], terminal_width=200)
    assert result.exit_code == 2
    assert words in " ".join(result.stderr.replace("│", " ").split())
    assert "\x1b[31m" not in result.stderr
    assert result.stdout == ""
