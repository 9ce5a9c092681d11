"""Plain data does what its docstrings promise."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router import Address, Candidates, Certificate, Endpoint, EndpointSpec, Members, Outcome
from router.model import Exchange, Headers, parse_address
from router.testing import make_attempt, make_candidates, make_endpoints, make_exchange


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("http://127.0.0.1:9001", ("http", "127.0.0.1", 9001, "")),
        ("http://127.0.0.1:9001/", ("http", "127.0.0.1", 9001, "")),
        ("http://app", ("http", "app", 80, "")),
        ("http://app:", ("http", "app", 80, "")),
        ("https://app", ("https", "app", 443, "")),
        ("http://[::1]:81", ("http", "::1", 81, "")),
        ("https://[::1]", ("https", "::1", 443, "")),
        ("unix:/run/app.sock", ("unix", "", 0, "/run/app.sock")),
    ],
)
def test_addresses(url: str, address: tuple[str, str, int, str]) -> None:
    parsed = parse_address(url)
    assert parsed == Address(*address)
    assert parse_address(str(parsed)) == parsed


@pytest.mark.parametrize(
    "url",
    [
        "",
        "app:80",
        "ftp://app",
        "unix:run/app.sock",
        "http://",
        "http://app/x",
        "http://app?x",
        "http://app#x",
        "http://user@app",
        "http://::1:80",
        "http://[::1",
        "http://[app]:80",
        "http://[::1]x",
        "http://a b",
        "http://app:0",
        "http://app:65536",
        "http://app:٣",
        "http://app:x",
        "http://app:8\n0",
    ],
)
def test_urls_that_are_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"\w+ \w+"):
        parse_address(url)


@given(st.text())
def test_any_text_is_an_address_or_a_value_error(text: str) -> None:
    try:
        parsed = parse_address(f"http://{text}")
    except ValueError:
        return
    assert 0 < parsed.port < 65536
    assert parsed.host


def test_the_same_address_is_the_same_server_unless_it_has_an_id() -> None:
    assert EndpointSpec("http://app").identity == EndpointSpec("http://app:80/").identity == "http://app:80"
    assert EndpointSpec("http://app", id="blue").identity == "blue"
    assert repr(Endpoint(EndpointSpec("http://app"), "web")) == "<Endpoint web/http://app:80 out load=0 weight=1>"


def test_candidates_know_their_members() -> None:
    a, b, c = make_endpoints()
    candidates = make_candidates([a, b, c])
    assert all(endpoint in candidates for endpoint in (a, b, c))
    candidates.discard(a)
    assert a not in candidates
    assert a.slot == -1
    assert sorted(e.identity for e in candidates) == sorted(e.identity for e in (b, c))
    assert "b" not in candidates
    candidates.discard(candidates[-1])
    assert len(candidates) == 1


def test_candidates_without_the_tried_ones() -> None:
    a, b, c = make_endpoints()
    candidates = make_candidates([a, b, c])
    rest = candidates.without((a,))
    assert list(rest) == [b, c]
    assert a not in rest
    assert b in rest
    least = rest.without((b,))
    assert list(least) == [c]
    assert a not in least
    assert c in least
    assert not least.without((c,))


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 9)), max_size=60))
def test_slots_stay_right_under_any_changes(steps: list[tuple[bool, int]]) -> None:
    endpoints = make_endpoints(*[1] * 10)
    candidates = Candidates()
    meant: set[int] = set()
    for adds, number in steps:
        if adds and number not in meant:
            candidates.add(endpoints[number])
            meant.add(number)
        elif not adds and number in meant:
            candidates.discard(endpoints[number])
            meant.discard(number)
        assert {i for i, endpoint in enumerate(endpoints) if endpoint in candidates} == meant
        assert [endpoint.slot for endpoint in candidates] == list(range(len(meant)))


def test_slow_start_admits_a_share_of_the_keys_and_the_same_ones_each_time() -> None:
    (endpoint,) = make_endpoints(4)
    candidates = make_candidates([endpoint])
    rng = random.Random(1)
    keys = [rng.getrandbits(64) for _ in range(4000)]
    assert all(candidates.admits(endpoint, key) for key in keys)
    endpoint.weight = 1
    admitted = [key for key in keys if candidates.admits(endpoint, key)]
    assert len(admitted) / len(keys) == pytest.approx(0.25, abs=0.03)
    endpoint.weight = 2
    assert all(candidates.admits(endpoint, key) for key in admitted)
    candidates.discard(endpoint)
    assert not candidates.admits(endpoint, admitted[0])


def test_members_are_found_by_identity() -> None:
    a, b = make_endpoints(1, 1)
    members = Members({a.identity: a, b.identity: b})
    assert members.get(b.identity) is b
    assert members.get("nobody") is None
    assert list(members) == [a.identity, b.identity]
    assert len(members) == 2


@pytest.mark.parametrize(
    ("target", "path", "query"), [("/a%2Fb?x=1?y", "/a%2Fb", "x=1?y"), ("/a?", "/a", ""), ("/a", "/a", None)]
)
def test_path_and_query_are_the_clients_own(target: str, path: str, query: str | None) -> None:
    exchange = make_exchange(target=target)
    assert (exchange.target, exchange.path, exchange.query) == (target, path, query)


HEAD = b"GET / HTTP/1.1\r\nHost: h\r\nX-Key: 1\r\nAccept:\r\nx-KEY:\t 2 \r\nX-Path: a: b\r\n\r\n"


@pytest.mark.parametrize("head", [HEAD, HEAD[:-2], HEAD[:-4]])
def test_headers_are_found_in_any_case_and_the_first_counts(head: bytes) -> None:
    headers = Headers(head)
    assert headers["x-key"] == headers["X-Key"] == headers.get("X-KEY") == "1"
    assert headers["accept"] == ""
    assert headers["x-path"] == "a: b"
    assert "hOST" in headers
    assert "X-Other" not in headers
    assert headers.get("X-Other") is None
    with pytest.raises(KeyError):
        headers["X-Other"]
    assert list(headers) == ["Host", "X-Key", "Accept", "X-Path"], "names are spelled as they were sent"
    assert dict(headers.items()) == {"Host": "h", "X-Key": "1", "Accept": "", "X-Path": "a: b"}
    assert len(headers) == 4
    assert headers.raw == ((b"Host", b"h"), (b"X-Key", b"1"), (b"Accept", b""), (b"x-KEY", b"2"), (b"X-Path", b"a: b"))
    assert repr(headers) == "Headers({'Host': 'h', 'X-Key': '1', 'Accept': '', 'X-Path': 'a: b'})"


def test_headers_cannot_be_changed() -> None:
    headers = Headers(HEAD)
    with pytest.raises(TypeError):
        headers["Host"] = "other"  # type: ignore[index]
    with pytest.raises(AttributeError):
        headers.other = 1  # type: ignore[attr-defined]


def test_values_that_are_no_utf_8_lose_nothing() -> None:
    headers = Headers("X-A: ä\r\n".encode("latin-1").join([b"GET / HTTP/1.1\r\n", "X-B: ä\r\n\r\n".encode()]))
    assert headers["x-b"] == "ä"
    assert headers["x-a"].encode("utf-8", "surrogateescape") == b"\xe4"
    assert headers.raw == ((b"X-A", b"\xe4"), (b"X-B", b"\xc3\xa4"))


@pytest.mark.parametrize("head", [b"", b"GET / HTTP/1.1", b"GET / HTTP/1.1\r\n", b"GET / HTTP/1.1\r\n\r\n"])
def test_a_head_without_fields_has_no_headers(head: bytes) -> None:
    assert dict(Headers(head)) == {}
    assert Headers(head).raw == ()


@given(st.binary(max_size=80), st.binary(max_size=80))
def test_the_headers_of_any_bytes_can_be_asked_for(name: bytes, value: bytes) -> None:
    headers = Headers(b"GET / HTTP/1.1\r\n" + name + b":" + value + b"\r\n\r\n")
    assert all(headers[found] == said for found, said in headers.items())
    assert len(headers) == len({found.lower() for found, _ in headers.items()}) <= len(headers.raw)


def test_an_exchange_reads_its_headers_once_and_only_if_asked() -> None:
    exchange = Exchange("GET", "/", head=HEAD)
    assert exchange._headers is None
    assert exchange.header("X-KEY") == "1"
    assert exchange.headers is exchange.headers
    assert exchange.raw_headers is exchange.headers.raw
    assert exchange.header("X-Other") is None
    assert Exchange("GET", "/").raw_headers == ()


def test_reprs_say_the_state_and_never_a_key() -> None:
    (endpoint,) = make_endpoints(1)
    attempt = make_attempt(endpoint)
    assert "open" in repr(attempt)
    attempt.open = False
    assert "closed" in repr(attempt)
    assert repr(Outcome("failure", phase="head", status=503)) == "<Outcome failure in head status=503 error=None>"
    assert "GET '/'" in repr(make_exchange())
    assert "secret" not in repr(Certificate(("a",), "chain", "secret", 1.0))
