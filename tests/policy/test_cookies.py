"""The router's own cookies are taken out, and no byte of any other."""

from __future__ import annotations

import pytest

from router import Exchange
from router.policy.cookies import cookie_stripper

HEAD = b"GET /?router=1;router=2 HTTP/1.1\r\nHost: a\r\n%bX-Router: a; router=9\r\n"


def stripped(head: bytes, *names: str) -> bytes:
    strip = cookie_stripper(names)
    assert strip is not None
    cookie, lines = Exchange("GET", "/", head=head).cookie, b"\r\nCookie: %b\r\n"
    places = {0, max(head.find(lines % cookie), head.find(lines.lower() % cookie)) + 10} - {9}
    (found,) = {strip(head, cookie, at) for at in places}
    return found


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"Cookie: router=x\r\n", b""),
        (b"cookie:router=x\r\n", b""),
        (b"COOKIE: a=b; router=x; c=d\r\n", b"COOKIE: a=b; c=d\r\n"),
        (b"Cookie: router=x; a=b\r\n", b"Cookie: a=b\r\n"),
        (b"Cookie: a=b;router=x\r\n", b"Cookie: a=b\r\n"),
        (b"Cookie: router=x; router=y; a=b; router=\r\n", b"Cookie: a=b\r\n"),
        (b"Cookie: a=b\r\nCookie: router=x\r\nCookie: c=d\r\n", b"Cookie: a=b\r\nCookie: c=d\r\n"),
        (b'Cookie: a="b; c" ;  router = x ; d=e\r\n', b'Cookie: a="b; c" ; d=e\r\n'),
        (b"Cookie: xrouter=x; router2=y; a=router=z\r\n", b"Cookie: xrouter=x; router2=y; a=router=z\r\n"),
        (b"Cookie: Router=x\r\n", b"Cookie: Router=x\r\n"),
        (b"Cookie: a=b\r\n", b"Cookie: a=b\r\n"),
        (b"Cookie2: router=x\r\nX-Cookie: router=x\r\n", b"Cookie2: router=x\r\nX-Cookie: router=x\r\n"),
        (b"", b""),
    ],
)
def test_a_cookie_is_taken_out(before: bytes, after: bytes) -> None:
    assert stripped(HEAD % before, "router") == HEAD % after


def test_a_cookie_of_another_name_that_holds_this_one_stays() -> None:
    assert stripped(HEAD % b"Cookie: xa.b=1\r\n", "a.b", "c") == HEAD % b"Cookie: xa.b=1\r\n"


def test_several_names_and_names_with_signs() -> None:
    assert stripped(HEAD % b"Cookie: a.b=1; aXb=2; __Host-x=3\r\n", "a.b", "__Host-x") == HEAD % b"Cookie: aXb=2\r\n"


def test_without_names_there_is_nothing_to_do() -> None:
    assert cookie_stripper(()) is None


@pytest.mark.parametrize(
    "spot",
    [
        "router=x; a=b",
        "router=x;a=b",
        "router=x;  a=b",
        "router=x;",
        "router=x; ",
        "router=x; ;a",
        "router=x;;a",
        "router=x",
        "a=b; router=x",
        "a=b; router=x; c=d",
        "a=1; router=x;c",
        'a="; router=x"',
    ],
)
@pytest.mark.parametrize("field", ["Cookie", "cookie", "COOKIE", "X-Cookie"])
def test_the_short_way_and_the_long_one_agree(field: str, spot: str) -> None:
    head = b"GET / HTTP/1.1\r\nHost: a\r\n%b: %b\r\nAccept: */*\r\n" % (field.encode(), spot.encode())
    assert stripped(head, "router") == stripped(head, "router", "other")


def test_a_head_without_the_name_stays_the_same_object() -> None:
    head = HEAD % b"Cookie: a=b\r\n"
    assert stripped(head, "session") == head
