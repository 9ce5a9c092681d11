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


def test_where_no_address_is_known_there_is_no_for_line() -> None:
    assert client_of("", "http", "a.test", [], trusts, forwarded=True) == (
        "",
        'X-Forwarded-Proto: http\r\nX-Forwarded-Host: a.test\r\nForwarded: for=unknown;proto=http;host="a.test"\r\n',
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


# Forwarded (RFC 7239)


def believed(*values: bytes, **options: bool) -> tuple[str, list[str]]:
    """The client, and the values of For, Proto, Host and, by option, Forwarded."""
    client, lines = client_of("10.0.0.1", "http", "a.test", said(*values, name=b"forwarded"), trusts, **options)
    assert lines.endswith("\r\n")
    return client, [line.partition(": ")[2] for line in lines.split("\r\n")[:-1]]


@pytest.mark.parametrize(
    ("values", "client", "chain", "proto", "host"),
    [
        ([b"for=192.0.2.1"], "192.0.2.1", "192.0.2.1, 10.0.0.1", "http", "a.test"),
        ([b"for=192.0.2.1;proto=https;host=b.test"], "192.0.2.1", "192.0.2.1, 10.0.0.1", "https", "b.test"),
        ([b'For="192.0.2.1:4711" ; PROTO=HTTPS ;'], "192.0.2.1", "192.0.2.1, 10.0.0.1", "https", "a.test"),
        ([b'for="[2001:db8::1]:80";host="b.test:8080"'], "2001:db8::1", "2001:db8::1, 10.0.0.1", "http", "b.test:8080"),
        ([b'for="192.0.2.\\1"'], "192.0.2.1", "192.0.2.1, 10.0.0.1", "http", "a.test"),
        (
            [b"for=6.6.6.6;proto=https, for=192.0.2.1;host=b.test, for=10.9.9.9;host=c.test"],
            "192.0.2.1",
            "6.6.6.6, 192.0.2.1, 10.9.9.9, 10.0.0.1",
            "http",
            "b.test",
        ),
        ([b"for=192.0.2.1", b"for=10.9.9.9"], "192.0.2.1", "192.0.2.1, 10.9.9.9, 10.0.0.1", "http", "a.test"),
        ([b"for=10.1.1.1;proto=https,for=10.2.2.2"], "10.1.1.1", "10.1.1.1, 10.2.2.2, 10.0.0.1", "https", "a.test"),
        ([b"for=unknown;proto=https"], "unknown", "unknown, 10.0.0.1", "https", "a.test"),
        ([b"for=_hidden"], "_hidden", "_hidden, 10.0.0.1", "http", "a.test"),
        ([b'for="evil\x01;x"'], "unknown", "unknown, 10.0.0.1", "http", "a.test"),
        ([b"proto=https"], "10.0.0.1", "10.0.0.1", "https", "a.test"),
        ([b"by=10.9.9.9;secret=x"], "10.0.0.1", "10.0.0.1", "http", "a.test"),
        ([b'for=192.0.2.1;proto=ftp;host="a/b"'], "192.0.2.1", "192.0.2.1, 10.0.0.1", "http", "a.test"),
        ([b" , for=192.0.2.1 ,, "], "192.0.2.1", "192.0.2.1, 10.0.0.1", "http", "a.test"),
        # What is no Forwarded field is as if it was not sent.
        ([b"for=192.0.2.1;for=192.0.2.2"], "10.0.0.1", "10.0.0.1", "http", "a.test"),
        ([b"for=2001:db8::1"], "10.0.0.1", "10.0.0.1", "http", "a.test"),
        ([b'for="192.0.2.1'], "10.0.0.1", "10.0.0.1", "http", "a.test"),
        ([b"for"], "10.0.0.1", "10.0.0.1", "http", "a.test"),
        ([b"for = 192.0.2.1"], "10.0.0.1", "10.0.0.1", "http", "a.test"),
        ([b""], "10.0.0.1", "10.0.0.1", "http", "a.test"),
        ([b'for="' + b"\\" * 20_000], "10.0.0.1", "10.0.0.1", "http", "a.test"),
    ],
)
def test_a_trusted_peer_that_sends_forwarded_alone_is_believed(
    values: list[bytes], client: str, chain: str, proto: str, host: str
) -> None:
    assert believed(*values) == (client, [chain, proto, host])


def test_what_a_trusted_peer_sent_is_extended() -> None:
    assert believed(b"for=192.0.2.1;by=_x", b'for="[::2]"', forwarded=True)[1][3] == (
        'for=192.0.2.1;by=_x, for="[::2]", for=10.0.0.1;proto=http;host="a.test"'
    )
    assert believed(b"broken;;=", forwarded=True)[1][3] == 'for=10.0.0.1;proto=http;host="a.test"'


def test_x_forwarded_fields_outweigh_forwarded_and_stand_in_for_it() -> None:
    both = [*said(b"192.0.2.7, ::7, spoof\xfed"), (b"forwarded", b"for=192.0.2.1;proto=https;host=b.test")]
    client, lines = client_of("10.0.0.1", "http", "a.test", both, trusts, forwarded=True)
    assert client == "spoof\xfed"
    assert "X-Forwarded-Proto: http\r\nX-Forwarded-Host: a.test\r\n" in lines
    assert lines.endswith('Forwarded: for=192.0.2.1;proto=https;host=b.test, for=10.0.0.1;proto=http;host="a.test"\r\n')
    lines = client_of("", "http", "", both[:1], trusts, forwarded=True)[1]
    assert lines.endswith('Forwarded: for=192.0.2.7, for="[::7]", for=unknown, for=unknown;proto=http\r\n')
    proto = [(b"x-forwarded-proto", b"http"), (b"forwarded", b"for=192.0.2.1;proto=https")]
    assert "X-Forwarded-Proto: http\r\n" in client_of("10.0.0.1", "https", "a.test", proto, trusts)[1]
