"""Who the client is, and what the router says of it."""

from __future__ import annotations

import pytest

from router.policy.forwarded import client_of, forwarded_lines


def trusts(address: str) -> bool:
    return address.startswith("10.")


def said(*values: bytes, name: bytes = b"x-forwarded-for") -> list[tuple[bytes, bytes]]:
    return [(name, value) for value in values]


def test_a_peer_that_speaks_for_itself() -> None:
    lines = forwarded_lines("192.0.2.1", "https")
    assert lines == "X-Forwarded-For: 192.0.2.1\r\nX-Forwarded-Proto: https\r\n"
    assert forwarded_lines("::1", "http").startswith("X-Forwarded-For: ::1\r\n")


def test_a_peer_without_an_address_gets_no_for_line() -> None:
    assert forwarded_lines("", "http") == "X-Forwarded-Proto: http\r\n"


@pytest.mark.parametrize(
    ("fields", "client", "chain"),
    [
        ([], "10.0.0.1", "10.0.0.1"),
        ([b"192.0.2.1"], "192.0.2.1", "192.0.2.1, 10.0.0.1"),
        ([b"6.6.6.6, 192.0.2.1"], "192.0.2.1", "6.6.6.6, 192.0.2.1, 10.0.0.1"),
        ([b"6.6.6.6, 192.0.2.1, 10.9.9.9"], "192.0.2.1", "6.6.6.6, 192.0.2.1, 10.9.9.9, 10.0.0.1"),
        ([b"192.0.2.1", b"10.9.9.9"], "192.0.2.1", "192.0.2.1, 10.9.9.9, 10.0.0.1"),
        ([b"10.1.1.1, 10.2.2.2"], "10.1.1.1", "10.1.1.1, 10.2.2.2, 10.0.0.1"),
        ([b" , 192.0.2.1 ,, "], "192.0.2.1", "192.0.2.1, 10.0.0.1"),
        ([b""], "10.0.0.1", "10.0.0.1"),
        ([b"2001:db8::1"], "2001:db8::1", "2001:db8::1, 10.0.0.1"),
    ],
)
def test_the_client_is_the_last_that_no_trusted_proxy_put_its_name_to(
    fields: list[bytes], client: str, chain: str
) -> None:
    found, lines = client_of("10.0.0.1", "http", "a.test", said(*fields), trusts)
    assert found == client
    assert lines.startswith(f"X-Forwarded-For: {chain}\r\n")
    assert lines.count("X-Forwarded-For") == 1


def test_a_trusted_peer_without_an_address_adds_none() -> None:
    assert client_of("", "http", "a.test", said(b"192.0.2.1"), trusts) == (
        "192.0.2.1",
        "X-Forwarded-For: 192.0.2.1\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: a.test\r\n",
    )


@pytest.mark.parametrize(
    ("values", "proto"),
    [
        ([], "http"),
        ([b"https"], "https"),
        ([b" HTTPS "], "https"),
        ([b"https", b"http"], "http"),
        ([b"gopher"], "http"),
        ([b""], "http"),
    ],
)
def test_the_scheme_is_believed_if_it_is_one(values: list[bytes], proto: str) -> None:
    lines = client_of("10.0.0.1", "http", "a.test", said(*values, name=b"x-forwarded-proto"), trusts)[1]
    assert f"X-Forwarded-Proto: {proto}\r\n" in lines


def test_bytes_beyond_ascii_do_not_break_it() -> None:
    client, lines = client_of("10.0.0.1", "http", "a.test", said(b"\xff\xfe"), trusts)
    assert client.encode("latin-1") == b"\xff\xfe"
    assert lines.encode("latin-1").startswith(b"X-Forwarded-For: \xff\xfe, 10.0.0.1\r\n")


def test_the_host_that_a_trusted_peer_was_asked_for_is_kept() -> None:
    given = said(b"shop.test", name=b"x-forwarded-host")
    assert client_of("10.0.0.1", "http", "a.test", given, trusts)[1].endswith("X-Forwarded-Host: shop.test\r\n")
    assert client_of("10.0.0.1", "http", "a.test", [], trusts)[1].endswith("X-Forwarded-Host: a.test\r\n")
