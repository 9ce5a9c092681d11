"""Header fields on their way through, path by path of the code."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.errors import BadRequest, ExpectationFailed, NotImplementedCoding, ProtocolError, RouterError
from router.policy import fields as fields_by_name
from router.policy import headers
from router.policy.headers import (
    BODY_CHUNKED,
    BODY_TO_END,
    has_control_bytes,
    lines_of,
    read_interim,
    read_request,
    read_response,
    without_fields,
    without_hsts,
)

Fields = tuple[tuple[bytes, bytes], ...]

#: How a field may be written: as usual, and with other blanks, which the parser takes off.
WRITINGS = (b"%b: %b\r\n", b"%b:%b\r\n", b"%b:\t %b \r\n")


def fields(*lines: str) -> Fields:
    """ "Name: value" each."""
    parts = (line.partition(":") for line in lines)
    return tuple((name.encode("latin-1"), value.strip().encode("latin-1")) for name, _, value in parts)


def written(given: Fields, how: bytes) -> bytes:
    return b"\r\n" + b"".join(how % field for field in given)


def request(given: Fields) -> tuple:
    """read_request, which must not depend on how the fields were written."""
    heads = [read_request(given, written(given, how)) for how in WRITINGS]
    assert all((kept(head), head[1:]) == (kept(heads[0]), heads[0][1:]) for head in heads)
    return heads[0]


def response(given: Fields) -> tuple:
    """read_response, likewise."""
    heads = [read_response(given, written(given, how)) for how in WRITINGS]
    assert all((kept(head), head[1:]) == (kept(heads[0]), heads[0][1:]) for head in heads)
    return heads[0]


def kept(head: tuple) -> list[str]:
    """The lines that go on, written as usual."""
    lines = head[0].decode("latin-1")
    assert lines.startswith("\r\n")
    assert lines.endswith("\r\n")
    parts = (line.partition(":") for line in lines.split("\r\n") if line)
    return [": ".join((name, value.strip(" \t"))) for name, _, value in parts]


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
    assert kept(request(given)) == ["A: 1", "B: 2"]
    assert kept(response(given)) == ["A: 1", "B: 2"]


def test_what_stands_once_and_via_go_on_as_they_came() -> None:
    lines = ["Host: a.test", "via: 1.0 other", "User-Agent: x", "CONTENT-type: text/plain", "Via: 1.1 third", "ETag: 1"]
    assert kept(request(fields(*lines))) == lines
    assert kept(response(fields(*lines))) == lines


def test_order_case_duplicates_and_bytes_are_kept() -> None:
    lines = ["Set-Cookie: a=1", "x-B: \xff\xfe", "Set-Cookie: b=2", "X-b: ", 'ETag: W/"1"', "Set-cookie: a=1"]
    assert kept(request(fields(*lines))) == lines
    assert kept(response(fields(*lines))) == lines


def test_a_request_without_anything_special() -> None:
    head = request(fields("Host: a.test", "Accept: */*"))
    assert kept(head) == ["Host: a.test", "Accept: */*"]
    assert head[1:] == (0, False, "", [], frozenset(), False)


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
    assert kept(request(given)) == left
    assert kept(response(given)) == left


def test_several_connection_fields_add_up() -> None:
    given = fields("Connection: X-A", "X-A: 1", "connection: close, X-B", "x-b: 2", "X-C: 3")
    head = request(given)
    assert kept(head) == ["X-C: 3"]
    assert head[5] == {b"x-a", b"close", b"x-b"}
    answer = response(given)
    assert kept(answer) == ["X-C: 3"]
    assert answer[2], "it closes, for one of them said so"


@pytest.mark.parametrize("name", ["Host", "Content-Length", "hOST"])
def test_connection_cannot_remove_what_the_message_means(name: str) -> None:
    head = request(fields("Host: a.test", "Content-Length: 3", f"Connection: {name}, X-A", "X-A: 1"))
    assert kept(head) == ["Host: a.test", "Content-Length: 3"]
    assert head[1] == 3


def test_connection_cannot_remove_the_framing_of_a_response() -> None:
    length = response(fields("Content-Length: 3", "Connection: content-length, x-a"))
    assert (kept(length), length[1]) == (["Content-Length: 3"], 3)
    chunked = response(fields("Transfer-Encoding: chunked", "Connection: transfer-encoding"))
    assert chunked[1] == BODY_CHUNKED


def test_connection_transfer_encoding_leaves_a_chunked_request_chunked() -> None:
    head = request(fields("Transfer-Encoding: chunked", "Connection: transfer-encoding, x-a", "X-A: 1"))
    assert (kept(head), head[1]) == (["Transfer-Encoding: chunked"], BODY_CHUNKED)


def test_connection_naming_a_vouched_field_lets_none_of_it_through() -> None:
    head = request(
        fields("X-Forwarded-For: 6.6.6.6", "X-Request-ID: mine", "Connection: X-Forwarded-For, X-Request-ID, close")
    )
    assert kept(head) == []
    assert head[5] == {b"x-forwarded-for", b"x-request-id", b"close"}


def test_connection_naming_date_or_id_of_a_response() -> None:
    head = response(fields("Date: now", "X-Request-ID: 1", "Connection: date, x-request-id, close"))
    assert (kept(head), head[2:]) == ([], (True, False, False))


def test_refused_framing_is_refused_with_listed_fields_too() -> None:
    with pytest.raises(BadRequest):
        request(fields("Connection: x-a", "Content-Length: 1", "Content-Length: 1"))
    with pytest.raises(BadRequest):
        request(fields("Connection: content-length, x", "Content-Length: 1", "Transfer-Encoding: chunked"))


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
    ],
)
def test_spellings_that_cgi_cannot_tell_apart_never_go_on(name: str) -> None:
    head = request(fields("A: 1", f"{name}: 6"))
    assert kept(head) == ["A: 1"]
    assert head[1:] == (0, False, "", [], frozenset(), False)


def test_forwarded_fields_are_taken_out_and_handed_over() -> None:
    head = request(
        fields(
            *("X-Forwarded-For: 1", "X-FORWARDED-proto: https", "x-forwarded-host: h", "X-Forwarded-For: 2"),
            "FORWARDED: for=1",
        )
    )
    assert kept(head) == []
    assert head[4] == [
        (b"x-forwarded-for", b"1"),
        (b"x-forwarded-proto", b"https"),
        (b"x-forwarded-host", b"h"),
        (b"x-forwarded-for", b"2"),
        (b"forwarded", b"for=1"),
    ]
    assert request(fields("A: 1"))[4] == [], "one request's fields never reach another"


@pytest.mark.parametrize("name", ["X-Router-Explain", "x-router-explain", "X-ROUTER-EXPLAIN", "x-Router-eXPLAIN"])
def test_who_asks_for_an_explanation_is_heard_and_the_field_stays_here(name: str) -> None:
    for value, asks in (("1", True), ("0", False), ("", False), ("true", False), ("1 1", False), ("11", False)):
        head = request(fields("A: 1", f"{name}: {value}", "B: 2"))
        assert (kept(head), head[6]) == (["A: 1", "B: 2"], asks)
    assert request(fields(f"{name}: 1", "A: 1", f"{name}: 1"))[6]
    assert not request(fields("A: 1"))[6], "one request's fields never reach another"


@pytest.mark.parametrize("name", ["X_Router_Explain", "X-Router_Explain", "x_router-explain", "X_ROUTER_EXPLAIN"])
def test_spellings_of_it_do_not_ask_and_do_not_go_on(name: str) -> None:
    head = request(fields("A: 1", f"{name}: 1"))
    assert (kept(head), head[6]) == (["A: 1"], False)


def test_one_that_the_connection_names_is_heard_too() -> None:
    head = request(fields("Connection: X-Router-Explain", "X-Router-Explain: 1", "A: 1"))
    assert kept(head) == ["A: 1"]


def test_a_response_may_hold_it() -> None:
    assert kept(response(fields("X-Router-Explain: 1"))) == ["X-Router-Explain: 1"]


def test_a_response_may_say_what_it_likes_of_forwarding() -> None:
    lines = ["X-Forwarded-For: 1", "Forwarded: for=1", "X_Request_ID: 2", "Expect: x"]
    assert kept(response(fields(*lines))) == lines


@pytest.mark.parametrize("value", ["a", "A-z_0.9:+/=@", "x" * 128])
def test_a_valid_request_id_is_kept(value: str) -> None:
    head = request(fields(f"X-Request-Id: {value}"))
    assert head[3] == value
    assert kept(head) == [], "the router writes the line itself"


@pytest.mark.parametrize("value", ["", "x" * 129, "a b", "a,b", "<x>", 'a"b', "\xff", "a;b", "a\x00"])
def test_another_one_is_replaced(value: str) -> None:
    head = request(fields(f"X-Request-ID: {value}"))
    assert (kept(head), head[3]) == ([], "")


def test_of_several_request_ids_one_remains() -> None:
    assert request(fields("X-Request-ID: a", "X-Request-ID: b"))[3] in ("a", "b", "")


# Framing of requests


@pytest.mark.parametrize(("value", "length"), [("0", 0), ("5", 5), ("007", 7), ("9" * 18, int("9" * 18))])
def test_a_length_is_read_and_kept_as_it_came(value: str, length: int) -> None:
    head = request(fields(f"Content-Length: {value}"))
    assert (kept(head), head[1]) == ([f"Content-Length: {value}"], length)


BAD_LENGTHS = ["", "-1", "+1", "1.0", "0x1", "1, 1", "1 1", "a", "\xb2", "9" * 19, "1_0"]


@pytest.mark.parametrize("value", BAD_LENGTHS)
def test_what_is_no_length_is_refused(value: str) -> None:
    with pytest.raises(BadRequest):
        request(fields(f"Content-Length: {value}"))
    with pytest.raises(ProtocolError):
        response(fields(f"Content-Length: {value}"))


@pytest.mark.parametrize(
    "lines", [("Content-Length: 1", "content-length: 1"), ("Content-Length: 0", "Content-Length: 0")]
)
def test_a_length_said_twice_is_refused(lines: tuple[str, ...]) -> None:
    with pytest.raises(BadRequest):
        request(fields(*lines))
    with pytest.raises(ProtocolError):
        response(fields(*lines))


@pytest.mark.parametrize("value", ["chunked", "Chunked", "CHUNKED"])
def test_chunked(value: str) -> None:
    head = request(fields(f"transfer-encoding: {value}", "A: 1"))
    assert (kept(head), head[1]) == ([f"transfer-encoding: {value}", "A: 1"], BODY_CHUNKED)
    answer = response(fields(f"transfer-encoding: {value}", "A: 1"))
    assert (kept(answer), answer[1]) == (["A: 1"], BODY_CHUNKED)


@pytest.mark.parametrize("value", ["gzip, chunked", "GZIP ,\tChunked", "identity, chunked", ", chunked"])
def test_codings_under_chunks_are_not_implemented(value: str) -> None:
    with pytest.raises(NotImplementedCoding):
        request(fields(f"Transfer-Encoding: {value}"))
    with pytest.raises(ProtocolError):
        response(fields(f"Transfer-Encoding: {value}"))


@pytest.mark.parametrize(
    "value",
    [
        "gzip",
        "identity",
        "",
        "chunked;x",
        "xchunked",
        "chunked, chunked",
        "chunked, gzip, chunked",
        "chunked,",
        "chunked, x",
    ],
)
def test_codings_that_do_not_say_where_the_message_ends_are_refused(value: str) -> None:
    with pytest.raises(BadRequest):
        request(fields(f"Transfer-Encoding: {value}"))
    with pytest.raises(ProtocolError):
        response(fields(f"Transfer-Encoding: {value}"))


def test_a_coding_said_twice_is_refused() -> None:
    twice = fields("Transfer-Encoding: chunked", "Transfer-Encoding: chunked")
    with pytest.raises(BadRequest):
        request(twice)
    with pytest.raises(ProtocolError):
        response(twice)


@pytest.mark.parametrize("order", [1, -1])
def test_both_length_and_chunked_are_refused(order: int) -> None:
    both = fields("Content-Length: 0", "Transfer-Encoding: chunked")[::order]
    with pytest.raises(BadRequest):
        request(both)
    with pytest.raises(ProtocolError):
        response(both)


@pytest.mark.parametrize("value", ["100-continue", "100-Continue"])
def test_expect_is_answered_here_and_removed(value: str) -> None:
    head = request(fields("A: 1", f"Expect: {value}"))
    assert (kept(head), head[2]) == (["A: 1"], True)


@pytest.mark.parametrize("value", ["", "102-processing", "100-continue, x"])
def test_other_expectations_fail(value: str) -> None:
    with pytest.raises(ExpectationFailed):
        request(fields(f"Expect: {value}"))


# Framing of responses


@pytest.mark.parametrize(
    ("lines", "length"),
    [
        ((), BODY_TO_END),
        (("Content-Length: 7",), 7),
        (("content-LENGTH: 0",), 0),
        (("Content-Length: 7", "Connection: x-a, close"), 7),
        (("Transfer-Encoding: chunked",), BODY_CHUNKED),
        (("Transfer-Encoding: chunked", "Connection: x-a"), BODY_CHUNKED),
        (("Connection: x-a",), BODY_TO_END),
        (("Content_Length: 7", "Date: now"), BODY_TO_END),
    ],
)
def test_how_long_a_response_is(lines: tuple[str, ...], length: int) -> None:
    assert response(fields(*lines))[1] == length


def test_the_length_of_a_response_is_kept() -> None:
    assert kept(response(fields("A: 1", "Content-Length: 7"))) == ["A: 1", "Content-Length: 7"]


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
    assert response(fields(*lines))[2:] == (closes, has_date, has_id)


def test_date_and_id_of_a_response_stay_in_their_place() -> None:
    lines = ["A: 1", "Date: now", "B: 2", "X-Request-ID: 1", "C: 3"]
    assert kept(response(fields(*lines))) == lines


def test_an_interim_response_has_no_framing_whatever_it_says() -> None:
    given = fields(
        *("Link: </a>", "Content-Length: 3", "Content-Length: x", "transfer-encoding: gzip", "Connection: x-a, close"),
        *("X-A: 1", "Keep-Alive: 5", "Link: </b>", "Date: now"),
    )
    assert read_interim(given) == b"\r\nLink: </a>\r\nLink: </b>\r\nDate: now\r\n"
    assert read_interim(()) == b"\r\n"
    with pytest.raises(ProtocolError):
        read_interim(((b"X A", b"1"),))


# Lines


def test_lines_of_fields() -> None:
    assert lines_of(()) == b"\r\n"
    assert lines_of(fields("A: 1", "B: ")) == b"\r\nA: 1\r\nB: \r\n"


def test_what_is_kept_is_kept_to_the_byte() -> None:
    given, lines = fields("A: 1", "b: 2", "C:", "Connection: close"), b"\r\nA:1\r\nb: \t2 \r\nC:\r\n"
    assert read_request(given[:3], lines)[0] == lines
    assert read_response(given[:3], lines)[0] == lines
    assert read_request(given, lines + b"Connection: close\r\n")[0] == lines


def test_a_removed_line_is_found_only_where_it_stands() -> None:
    given = fields("A: TE: x", "X-TE: x", "TE: x", "B: 1\tTE: x", "te: x")
    assert kept(request(given)) == ["A: TE: x", "X-TE: x", "B: 1\tTE: x"]
    assert kept(response(given)) == ["A: TE: x", "X-TE: x", "B: 1\tTE: x"]


def test_the_same_line_twice_is_removed_twice() -> None:
    given = fields("TE: x", "TE: x", "A: 1", "TE: x")
    assert kept(request(given)) == ["A: 1"]


def test_a_head_without_fields() -> None:
    assert read_request((), b"\r\n") == (b"\r\n", 0, False, "", [], frozenset(), False)
    assert read_response((), b"\r\n") == (b"\r\n", BODY_TO_END, False, False, False)


MENU = [
    "Host: a.test",
    "Accept: */*",
    "X-A: 1",
    "Set-Cookie: a=1",
    "Date: now",
    "Content-Length: 3",
    "content-length: 3",
    "Connection: close",
    "connection: X-A",
    "TE: x",
    "X-Request-ID: 1",
    "Transfer-Encoding: chunked",
    "X-Forwarded-For: 1",
]


def said(read: Callable[..., object], *args: object) -> object:
    try:
        return read(*args)
    except RouterError as error:
        return type(error)


@given(st.lists(st.sampled_from(MENU), max_size=6))
def test_one_more_field_that_goes_no_further_changes_nothing(lines: list[str]) -> None:
    given = fields(*lines)
    more = (*given, (b"TE", b"y"))
    assert said(read_request, given, lines_of(given)) == said(read_request, more, lines_of(more))
    assert said(read_response, given, lines_of(given)) == said(read_response, more, lines_of(more))


# Names


@pytest.mark.parametrize("name", ["", " A", "A ", "A B", "A\t", "A(", "A@b", "\xe4", "A/b", '"A"'])
def test_a_name_that_is_no_token_is_refused(name: str) -> None:
    given = ((b"B", b"1"), (name.encode("latin-1"), b"1"))
    for _ in range(2):
        with pytest.raises(BadRequest):
            request(given)
        with pytest.raises(ProtocolError):
            response(given)


def test_the_memory_of_spellings_is_bounded_and_changes_no_answer() -> None:
    codes = fields_by_name._Codes(fields_by_name._REQUEST, BadRequest)
    for n in range(3000):
        assert codes[b"x-made-up-%d" % n] == fields_by_name.PLAIN
        assert codes[b"x" * 41 + b"%d" % n] == fields_by_name.PLAIN
    assert len(codes) <= codes.MOST
    assert not any(len(name) > 40 for name in codes)
    assert codes[b"CONTENT-length"] == codes[b"content-length"] != fields_by_name.PLAIN


@given(st.sampled_from(sorted(fields_by_name._REQUEST)), st.data())
def test_case_makes_no_difference(name: bytes, data: st.DataObject) -> None:
    spelled = bytes(data.draw(st.sampled_from((c, ord(chr(c).upper())))) for c in name)
    codes = fields_by_name._Codes(fields_by_name._REQUEST, BadRequest)
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


@pytest.mark.parametrize(
    ("name", "value", "valid"),
    [
        (b"X-A", b"two words", True),
        (b"X-A", b"\xfftab\there", True),
        (b"X-A", b"a\r\nX-B: 1", False),
        (b"X-A", b"a\nb", False),
        (b"X-A", b"a\x00b", False),
        (b"X A", b"1", False),
        (b"", b"1", False),
        (b"Content-LENGTH", b"1", False),
        (b"transfer-encoding", b"chunked", False),
        (b"Connection", b"close", False),
    ],
)
def test_a_field_made_by_a_plugin_is_one_line_and_no_framing(name: bytes, value: bytes, valid: bool) -> None:
    assert headers.is_valid_field(name, value) is valid


# Fields that are taken out by name


@pytest.mark.parametrize("how", WRITINGS)
@pytest.mark.parametrize("names", [(b"a",), (b"a", b"b-c"), (b"b-c", b"a")])
def test_named_fields_are_taken_out_whole(names: tuple[bytes, ...], how: bytes) -> None:
    given = fields("A: 1", "X: a: 2", "B-C: 3", "a:", "AA: 4", "B-c: 5", "B.C: 6", "Y: \xff")
    rest = tuple(field for field in given if field[0].lower() not in names)
    assert without_fields(written(given, how), names) == written(rest, how)


def test_the_first_line_is_no_field_and_the_end_stays() -> None:
    head = b"GET /a: HTTP/1.1\r\nA: 1\r\nHost: a: b\r\n"
    assert without_fields(head, (b"a", b"get /a")) == b"GET /a: HTTP/1.1\r\nHost: a: b\r\n"
    assert without_fields(b"\r\n", (b"a",)) == b"\r\n"
    assert without_fields(b"\r\nA : 1\r\n", (b"a",)) == b"\r\n"


def test_a_name_is_no_pattern() -> None:
    lines = b"\r\nabc: 1\r\na.c: 2\r\n"
    assert without_fields(lines, (b"a.c",)) == b"\r\nabc: 1\r\n"
    assert without_fields(lines, (b".*",)) == lines


@given(st.lists(st.tuples(st.sampled_from([b"A", b"a", b"B", b"AB", b"C-A"]), st.sampled_from([b"", b"1", b"a: 1"]))))
def test_nothing_else_is_taken(given: list[tuple[bytes, bytes]]) -> None:
    rest = tuple(field for field in given if field[0].lower() != b"a")
    assert without_fields(written(tuple(given), b"%b: %b\r\n"), (b"a",)) == written(rest, b"%b: %b\r\n")


def test_of_hsts_nothing_is_left() -> None:
    lines = b"\r\nA: 1\r\nStrict-Transport-Security: max-age=1\r\nstrict-transport-security:x\r\nB: 2\r\n"
    assert without_hsts(lines) == b"\r\nA: 1\r\nB: 2\r\n"
    assert without_hsts(b"\r\nA: Strict-Transport-Security: 1\r\n") == b"\r\nA: Strict-Transport-Security: 1\r\n"
