"""Header fields on their way through, path by path of the code."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.errors import BadRequest, ExpectationFailed, NotImplementedMethod, ProtocolError
from router.policy import headers
from router.policy.headers import BODY_CHUNKED, BODY_TO_END, VIA, has_control_bytes, read_request, read_response

Fields = tuple[tuple[bytes, bytes], ...]


def fields(*lines: str) -> Fields:
    """"Name: value" each."""
    return tuple((name.encode("latin-1"), value.strip().encode("latin-1")) for name, _, value in (x.partition(":") for x in lines))


def kept(head: tuple) -> list[str]:
    return [line for line in b"".join(head[0]).decode("latin-1").split("\r\n") if line]


HOP_BY_HOP = [
    "Connection: keep-alive",
    "Keep-Alive: timeout=5",
    "Proxy-Connection: close",
    "Proxy-Authenticate: Basic",
    "Proxy-Authorization: Basic eA==",
    "TE: trailers",
    "te: gzip, trailers;q=0.5",
    "Trailer: X-Sum",
    "Upgrade: websocket",
]


@pytest.mark.parametrize("line", [*HOP_BY_HOP, *(line.upper() for line in HOP_BY_HOP)])
def test_hop_by_hop_fields_end_here_in_both_directions(line: str) -> None:
    given = fields("A: 1", line, "B: 2")
    assert kept(read_request(given)) == ["A: 1", "B: 2"]
    assert kept(read_response(given, 200, "GET")) == ["A: 1", "B: 2"]


def test_order_case_duplicates_and_bytes_are_kept() -> None:
    lines = ["Set-Cookie: a=1", "x-B: \xff\xfe", "Set-Cookie: b=2", "X-b: ", "ETag: W/\"1\"", "Set-cookie: a=1"]
    assert kept(read_request(fields(*lines))) == lines
    assert kept(read_response(fields(*lines), 200, "GET")) == lines


def test_a_request_without_anything_special() -> None:
    head = read_request(fields("Host: a.test", "Accept: */*"))
    assert kept(head) == ["Host: a.test", "Accept: */*"]
    assert head[1:] == (0, False, "", [], frozenset())


# Connection


@pytest.mark.parametrize(
    ("connection", "gone"),
    [
        ("X-A", {"X-A"}),
        ("x-a, X-B", {"X-A", "X-B"}),
        ("close, X-A", {"X-A"}),
        ("keep-alive ,\tX-B\t, ,", {"X-B"}),
        ("Close", set()),
        ("close", set()),
        ("keep-alive", set()),
        ("Keep-Alive", set()),
        ("upgrade", set()),
        ("", set()),
        ("X-Not-There", set()),
    ],
)
def test_what_connection_lists_is_removed(connection: str, gone: set[str]) -> None:
    given = fields("X-A: 1", f"Connection: {connection}", "X-B: 2", "X-C: 3")
    left = [line for line in ["X-A: 1", "X-B: 2", "X-C: 3"] if line[:3] not in gone]
    assert kept(read_request(given)) == left
    assert kept(read_response(given, 200, "GET")) == left


def test_several_connection_fields_add_up() -> None:
    given = fields("Connection: X-A", "X-A: 1", "connection: close, X-B", "x-b: 2", "X-C: 3")
    head = read_request(given)
    assert kept(head) == ["X-C: 3"]
    assert head[5] == {b"x-a", b"close", b"x-b"}
    answer = read_response(given, 200, "GET")
    assert kept(answer) == ["X-C: 3"]
    assert answer[2], "it closes, for one of them said so"


@pytest.mark.parametrize("name", ["Host", "Content-Length", "hOST"])
def test_connection_cannot_remove_what_the_message_means(name: str) -> None:
    head = read_request(fields("Host: a.test", "Content-Length: 3", f"Connection: {name}, X-A", "X-A: 1"))
    assert kept(head) == ["Host: a.test", "Content-Length: 3"]
    assert head[1] == 3


def test_connection_cannot_remove_the_framing_of_a_response() -> None:
    length = read_response(fields("Content-Length: 3", "Connection: content-length, x-a"), 200, "GET")
    assert (kept(length), length[1]) == (["Content-Length: 3"], 3)
    chunked = read_response(fields("Transfer-Encoding: chunked", "Connection: transfer-encoding"), 200, "GET")
    assert chunked[1] == BODY_CHUNKED


def test_connection_transfer_encoding_leaves_a_chunked_request_chunked() -> None:
    head = read_request(fields("Transfer-Encoding: chunked", "Connection: transfer-encoding, x-a", "X-A: 1"))
    assert (kept(head), head[1]) == (["Transfer-Encoding: chunked"], BODY_CHUNKED)


def test_connection_naming_a_vouched_field_takes_the_clients_word_away_only() -> None:
    head = read_request(
        fields("X-Forwarded-For: 6.6.6.6", "X-Request-ID: mine", "Connection: X-Forwarded-For, X-Request-ID, close")
    )
    assert kept(head) == []
    assert (head[3], head[4]) == ("", [])
    assert b"close" in head[5]


def test_connection_naming_date_or_id_of_a_response() -> None:
    head = read_response(fields("Date: now", "X-Request-ID: 1", "Connection: date, x-request-id, close"), 200, "GET")
    assert (kept(head), head[2:]) == ([], (True, False, False))


def test_refused_framing_is_refused_with_listed_fields_too() -> None:
    with pytest.raises(BadRequest):
        read_request(fields("Connection: x-a", "Content-Length: 1", "Content-Length: 1"))
    with pytest.raises(BadRequest):
        read_request(fields("Connection: content-length, x", "Content-Length: 1", "Transfer-Encoding: chunked"))


# What the router vouches for


@pytest.mark.parametrize(
    "name",
    [
        "X_Forwarded_For",
        "X-Forwarded_For",
        "x_forwarded-for",
        "X_Forwarded_Proto",
        "X_FORWARDED-HOST",
        "X_Request_ID",
        "x-request_id",
        "Content_Length",
        "TRANSFER_ENCODING",
        "Forwarded",
    ],
)
def test_spellings_that_cgi_cannot_tell_apart_never_go_on(name: str) -> None:
    head = read_request(fields("A: 1", f"{name}: 6"))
    assert kept(head) == ["A: 1"]
    assert head[1:] == (0, False, "", [], frozenset())


def test_forwarded_fields_are_taken_out_and_handed_over() -> None:
    head = read_request(fields("X-Forwarded-For: 1", "X-FORWARDED-proto: https", "x-forwarded-host: h", "X-Forwarded-For: 2"))
    assert kept(head) == []
    assert head[4] == [
        (b"x-forwarded-for", b"1"),
        (b"x-forwarded-proto", b"https"),
        (b"x-forwarded-host", b"h"),
        (b"x-forwarded-for", b"2"),
    ]
    assert read_request(fields("A: 1"))[4] == [], "one request's fields never reach another"


def test_a_response_may_say_what_it_likes_of_forwarding() -> None:
    lines = ["X-Forwarded-For: 1", "Forwarded: for=1", "X_Request_ID: 2", "Expect: x"]
    assert kept(read_response(fields(*lines), 200, "GET")) == lines


@pytest.mark.parametrize("value", ["a", "A-z_0.9:+/=@", "x" * 128])
def test_a_valid_request_id_is_kept(value: str) -> None:
    head = read_request(fields(f"X-Request-Id: {value}"))
    assert head[3] == value
    assert kept(head) == [], "the router writes the line itself"


@pytest.mark.parametrize("value", ["", "x" * 129, "a b", "a,b", "<x>", "a\"b", "\xff", "a;b", "a\x00"])
def test_another_one_is_replaced(value: str) -> None:
    head = read_request(fields(f"X-Request-ID: {value}"))
    assert (kept(head), head[3]) == ([], "")


def test_of_several_request_ids_one_remains() -> None:
    assert read_request(fields("X-Request-ID: a", "X-Request-ID: b"))[3] in ("a", "b", "")


# Framing of requests


@pytest.mark.parametrize(("value", "length"), [("0", 0), ("5", 5), ("007", 7), ("9" * 18, int("9" * 18))])
def test_a_length_is_read_and_kept_as_it_came(value: str, length: int) -> None:
    head = read_request(fields(f"Content-Length: {value}"))
    assert (kept(head), head[1]) == ([f"Content-Length: {value}"], length)


BAD_LENGTHS = ["", "-1", "+1", "1.0", "0x1", "1, 1", "1 1", "a", "\xb2", "9" * 19, "1_0"]


@pytest.mark.parametrize("value", BAD_LENGTHS)
def test_what_is_no_length_is_refused(value: str) -> None:
    with pytest.raises(BadRequest):
        read_request(fields(f"Content-Length: {value}"))
    with pytest.raises(ProtocolError):
        read_response(fields(f"Content-Length: {value}"), 200, "GET")


@pytest.mark.parametrize("lines", [("Content-Length: 1", "content-length: 1"), ("Content-Length: 0", "Content-Length: 0")])
def test_a_length_said_twice_is_refused(lines: tuple[str, ...]) -> None:
    with pytest.raises(BadRequest):
        read_request(fields(*lines))
    with pytest.raises(ProtocolError):
        read_response(fields(*lines), 200, "GET")


@pytest.mark.parametrize("value", ["chunked", "Chunked", "CHUNKED"])
def test_chunked(value: str) -> None:
    head = read_request(fields(f"transfer-encoding: {value}", "A: 1"))
    assert head[1] == BODY_CHUNKED
    assert sorted(kept(head)) == ["A: 1", "Transfer-Encoding: chunked"]
    answer = read_response(fields(f"transfer-encoding: {value}", "A: 1"), 200, "GET")
    assert (kept(answer), answer[1]) == (["A: 1"], BODY_CHUNKED)


@pytest.mark.parametrize("value", ["gzip", "gzip, chunked", "chunked, chunked", "identity", "", "chunked;x", "xchunked"])
def test_other_codings_are_refused(value: str) -> None:
    with pytest.raises(NotImplementedMethod):
        read_request(fields(f"Transfer-Encoding: {value}"))
    with pytest.raises(ProtocolError):
        read_response(fields(f"Transfer-Encoding: {value}"), 200, "GET")


def test_a_coding_said_twice_is_refused() -> None:
    twice = fields("Transfer-Encoding: chunked", "Transfer-Encoding: chunked")
    with pytest.raises(BadRequest):
        read_request(twice)
    with pytest.raises(ProtocolError):
        read_response(twice, 200, "GET")


@pytest.mark.parametrize("order", [1, -1])
def test_both_length_and_chunked_are_refused(order: int) -> None:
    both = fields("Content-Length: 0", "Transfer-Encoding: chunked")[::order]
    with pytest.raises(BadRequest):
        read_request(both)
    with pytest.raises(ProtocolError):
        read_response(both, 200, "GET")


@pytest.mark.parametrize("value", ["100-continue", "100-Continue"])
def test_expect_is_answered_here_and_removed(value: str) -> None:
    head = read_request(fields("A: 1", f"Expect: {value}"))
    assert (kept(head), head[2]) == (["A: 1"], True)


@pytest.mark.parametrize("value", ["", "102-processing", "100-continue, x"])
def test_other_expectations_fail(value: str) -> None:
    with pytest.raises(ExpectationFailed):
        read_request(fields(f"Expect: {value}"))


# Framing of responses


@pytest.mark.parametrize(
    ("lines", "status", "method", "length"),
    [
        ((), 200, "GET", BODY_TO_END),
        (("Content-Length: 7",), 200, "GET", 7),
        (("Transfer-Encoding: chunked",), 200, "GET", BODY_CHUNKED),
        ((), 200, "HEAD", 0),
        (("Content-Length: 7",), 200, "HEAD", 0),
        (("Transfer-Encoding: chunked",), 200, "HEAD", 0),
        (("Content-Length: 7",), 304, "GET", 0),
        (("Transfer-Encoding: chunked",), 304, "GET", 0),
        ((), 204, "GET", 0),
        ((), 304, "HEAD", 0),
        (("Content-Length: 0",), 205, "GET", 0),
        (("Content-Length: 7", "Connection: x-a"), 304, "GET", 0),
        (("Connection: x-a",), 200, "HEAD", 0),
        ((), 404, "POST", BODY_TO_END),
    ],
)
def test_how_long_a_response_is(lines: tuple[str, ...], status: int, method: str, length: int) -> None:
    assert read_response(fields(*lines), status, method)[1] == length


def test_the_length_that_a_head_or_304_names_is_kept() -> None:
    for status, method in ((200, "HEAD"), (304, "GET")):
        assert kept(read_response(fields("Content-Length: 7"), status, method)) == ["Content-Length: 7"]


@pytest.mark.parametrize(
    ("lines", "closes", "has_date", "has_id"),
    [
        ((), False, False, False),
        (("Connection: close",), True, False, False),
        (("Connection: Keep-Alive, Close",), True, False, False),
        (("Connection: keep-alive",), False, False, False),
        (("DATE: now",), False, True, False),
        (("x-request-id: 1",), False, False, True),
        (("Connection: x-y", "Date: now", "X-Request-ID: 1", "X-Y: 1"), False, True, True),
    ],
)
def test_what_else_a_response_says(lines: tuple[str, ...], closes: bool, has_date: bool, has_id: bool) -> None:
    assert read_response(fields(*lines), 200, "GET")[2:] == (closes, has_date, has_id)


def test_date_and_id_of_a_response_stay_in_their_place() -> None:
    lines = ["A: 1", "Date: now", "B: 2", "X-Request-ID: 1", "C: 3"]
    assert kept(read_response(fields(*lines), 200, "GET")) == lines


# Spellings


def test_the_memory_of_spellings_is_bounded_and_changes_no_answer() -> None:
    codes = headers._Codes(headers._REQUEST)
    for n in range(3000):
        assert codes[b"x-made-up-%d" % n] == headers._PLAIN
        assert codes[b"x" * 41 + b"%d" % n] == headers._PLAIN
    assert len(codes) <= codes.MOST
    assert not any(len(name) > 40 for name in codes)
    assert codes[b"CONTENT-length"] == codes[b"content-length"] != headers._PLAIN
    for n in range(3000):
        read_request(fields(f"X-Other-{n}: 1"))
    assert len(headers._REQUEST_CODES) <= codes.MOST


@given(st.sampled_from(sorted(headers._REQUEST)), st.data())
def test_case_makes_no_difference(name: bytes, data: st.DataObject) -> None:
    spelled = bytes(data.draw(st.sampled_from((c, ord(chr(c).upper())))) for c in name)
    codes = headers._Codes(headers._REQUEST)
    assert codes[spelled] == codes[name]


# Control bytes


@pytest.mark.parametrize(
    ("head", "lines", "bad"),
    [
        (b"HTTP/1.1 200 OK\r\nA: b\r\n\r\n", 3, False),
        (b"HTTP/1.1 200 OK\r\nA: \tb\xff\x80\r\n\r\n", 3, False),
        (b"HTTP/1.1 200 OK\nA: b\r\n\r\n", 3, True),
        (b"HTTP/1.1 200 OK\r\nA: b\n\n", 3, True),
        (b"HTTP/1.1 200 OK\r\nA: b\r\r\n\r\n", 3, True),
        (b"HTTP/1.1 200 OK\r\nA: b\rc\r\n\r\n", 3, True),
        (b"HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n", 3, True),
        (b"HTTP/1.1 200 OK\r\nA: \x00\r\n\r\n", 3, True),
        (b"HTTP/1.1 200 OK\r\nA: \x01\r\n\r\n", 3, True),
        (b"HTTP/1.1 200 OK\r\nA: \x7f\r\n\r\n", 3, True),
        (b"HTTP/1.1 200 \x1fK\r\n\r\n", 2, True),
    ],
)
def test_control_bytes_and_other_line_ends(head: bytes, lines: int, bad: bool) -> None:
    assert has_control_bytes(head, lines) is bad


@given(st.integers(0, 255))
def test_of_all_bytes_only_text_and_tab_pass(byte: int) -> None:
    text = byte == 9 or (byte >= 32 and byte != 127)
    assert has_control_bytes(b"A: %c\r\n\r\n" % byte, 2) is not text


def test_via_is_a_line() -> None:
    assert VIA == "Via: 1.1 router\r\n"
