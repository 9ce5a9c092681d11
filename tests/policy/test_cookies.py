"""The router's own cookies are taken out, and no byte of any other."""

from __future__ import annotations

import pytest

from router.policy.cookies import cookie_stripper

HEAD = b"GET /?router=1;router=2 HTTP/1.1\r\nHost: a\r\n%bX-Router: a; router=9\r\n"


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
    strip = cookie_stripper(["router"])
    assert strip is not None
    assert strip(HEAD % before) == HEAD % after


def test_a_cookie_of_another_name_that_holds_this_one_stays() -> None:
    strip = cookie_stripper(["a.b", "c"])
    assert strip is not None
    assert strip(HEAD % b"Cookie: xa.b=1\r\n") == HEAD % b"Cookie: xa.b=1\r\n"


def test_several_names_and_names_with_signs() -> None:
    strip = cookie_stripper(["a.b", "__Host-x"])
    assert strip is not None
    assert strip(HEAD % b"Cookie: a.b=1; aXb=2; __Host-x=3\r\n") == HEAD % b"Cookie: aXb=2\r\n"


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
    short, long = cookie_stripper(["router"]), cookie_stripper(["router", "other"])
    assert short is not None
    assert long is not None
    assert short(head) == long(head)


def test_a_head_without_the_name_stays_the_same_object() -> None:
    strip = cookie_stripper(["session"])
    assert strip is not None
    head = HEAD % b"Cookie: a=b\r\n"
    assert strip(head) is head
