"""What the http probe takes for an answer, byte by byte and without any socket."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from router_health.causes import ProbeFailed
from router_health.http_answer import Answer, Wanted

STATUSES = frozenset(range(200, 400))
OK = b"HTTP/1.1 200 OK\r\n"


def wanted(body: str = "", regex: str = "", method: str = "GET") -> Wanted:
    return Wanted(method, STATUSES, "200-399", body, re.compile(regex) if regex else None)


def verdict(want: Wanted, pieces: list[bytes], error: Exception | None = None) -> str:
    """ "" for well, else why not; the connection ends after the last piece."""
    answer, text = Answer(want), ""
    try:
        if not any(answer.feed(piece) for piece in pieces):
            answer.end(error)
    except ProbeFailed as failure:
        text = str(failure) or "no reason"
    assert text.isprintable()
    assert len(text) <= 160
    return text


ANSWERS: list[tuple[bytes, str]] = [
    (OK + b"\r\nall is ok", ""),
    (b"HTTP/1.0 200 OK\r\n\r\nall is ok", ""),
    (b"HTTP/1.1 200\r\nContent-Length: 9\r\n\r\nall is ok", ""),
    (OK + b"content-length:\t9 \r\nContent-Length: 9\r\n\r\nall is ok and more", ""),
    (OK + b"Transfer-Encoding: chunked\r\n\r\n4;a=b\r\nall \r\n5 \r\nis ok\r\n0\r\nTrailer: x\r\n\r\n", ""),
    (OK + b"Transfer-Encoding: Chunked\r\n\r\n00000009\r\nall is ok\r\n000\r\n\r\nmore", ""),
    (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nLink: x\r\n\r\n" + OK + b"\r\nok", ""),
    (OK + b"\r\n", 'no "ok" in the body'),
    (OK + b"Content-Length: 0\r\n\r\nok", 'no "ok" in the body'),
    (OK + b"Content-Length: 1\r\n\r\nok", 'no "ok" in the body'),
    (b"HTTP/1.1 204 No Content\r\n\r\nok", 'no "ok" in the body'),
    (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 2\r\n\r\nok", 'no "ok" in the body'),
    (b"HTTP/1.1 503 ok\r\nContent-Length: 2\r\n\r\nok", "status 503, expected 200-399"),
    (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 500 x\r\n\r\n", "status 500, expected 200-399"),
    (OK + b"Content-Length: 10\r\n\r\nok", "closed after 2 of 10 bytes of the body"),
    (OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n", "closed within the chunks of the body, after 2 bytes"),
    (OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n", "closed within the chunks of the body, after 2 bytes"),
    (OK + b"Transfer-Encoding: chunked\r\n\r\nok\r\n", 'no chunk size: "ok"'),
    (OK + b"Transfer-Encoding: chunked\r\n\r\n-2\r\nok\r\n", 'no chunk size: "-2"'),
    (OK + b"Transfer-Encoding: chunked\r\n\r\n0x2\r\nok\r\n", 'no chunk size: "0x2"'),
    (OK + b"Transfer-Encoding: chunked\r\n\r\n\r\n", 'no chunk size: ""'),
    (OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nokay\r\n", 'a chunk ends with "ay"'),
    (OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n", 'the body is in "gzip, chunked", which is not understood'),
    (b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", 'the body is in "chunked", which is not understood'),
    (OK + b"Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n", "both Content-Length and Transfer-Encoding"),
    (OK + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n", "more than one Content-Length"),
    (OK + b"Content-Length: 2, 2\r\n\r\n", 'Content-Length is "2, 2"'),
    (OK + b"Content-Length: -2\r\n\r\n", 'Content-Length is "-2"'),
    (OK + b"Content-Length: \r\n\r\n", 'Content-Length is ""'),
    (OK + b"Content-Length: 9999999999999999999\r\n\r\n", 'Content-Length is "9999999999999999999"'),
    (OK + b"A : b\r\n\r\n", 'not a header: "A : b"'),
    (OK + b"A: b\r\n c\r\n\r\n", 'not a header: " c"'),
    (OK + b"nothing\r\n\r\n", 'not a header: "nothing"'),
    (OK + b"A: b\x00\r\n\r\n", 'not a header: "A: b\\x00"'),
    (OK + b"A: b\nC: d\r\n\r\n", 'not a header: "A: b\\nC: d"'),
    (b"HTTP/1.1 100 Go\r\nA\r\n\r\n" + OK + b"\r\nok", 'not a header: "A"'),
    (b"", "closed without an answer"),
    (b"HTTP", "closed in the head"),
    (OK, "closed in the head"),
    (b"HTTP/1.1 100 Continue\r\n\r\n", "closed in the head"),
]

GARBAGE = [
    b"\r\n" + OK + b"\r\n",
    b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok",
    b"HTTP/2 200 OK\r\n\r\n",
    b"HTTP/1.2 200 OK\r\n\r\n",
    b"HTTP/1.1 20 OK\r\n\r\n",
    b"HTTP/1.1 2000 OK\r\n\r\n",
    b"HTTP/1.1 -20 OK\r\n\r\n",
    b"HTTP/1.1  200 OK\r\n\r\n",
    b"HTTP/1.1 200 O\x00K\r\n\r\n",
    b"http/1.1 200 OK\r\n\r\n",
    b"<html>hello</html>\r\n",
    b"ICY 200 OK\r\n\r\n",
    b"220 mail.test ESMTP\r\n",
    b"\x00\x00\x12\x04\x00\x00\x00\x00\x00",
]


@pytest.mark.parametrize(("sent", "failure"), ANSWERS)
def test_the_verdict_is_the_same_however_the_answer_is_split(sent: bytes, failure: str) -> None:
    want = wanted("ok")
    assert verdict(want, [sent]) == failure
    assert verdict(want, [sent[i : i + 1] for i in range(len(sent))]) == failure
    for cut in range(len(sent)):
        assert verdict(want, [sent[:cut], sent[cut:]]) == failure


@pytest.mark.parametrize("sent", GARBAGE)
def test_garbage_is_told_as_soon_as_it_shows(sent: bytes) -> None:
    for pieces in ([sent], [sent[i : i + 1] for i in range(len(sent))]):
        answer = Answer(wanted())
        with pytest.raises(ProbeFailed, match="not HTTP/1: "):
            assert [answer.feed(piece) for piece in pieces] == []


@pytest.mark.parametrize("sent", [sent for sent, _ in ANSWERS] + GARBAGE)
def test_the_short_way_says_nothing_that_the_long_one_would_not(sent: bytes) -> None:
    met, told = wanted().is_met_at_once(sent), verdict(wanted(), [sent])
    assert not (met and told)
    assert not wanted("ok").is_met_at_once(sent)
    assert met == (not told and sent[8:13] != b" 100 ")


def test_without_a_wanted_body_its_framing_does_not_matter() -> None:
    assert verdict(wanted(), [OK + b"Content-Length: x\r\nTransfer-Encoding: y\r\n\r\n"]) == ""


def test_a_response_to_head_has_no_body() -> None:
    want = wanted(method="HEAD")
    want.limit = 10
    assert verdict(want, [OK + b"Content-Length: 9\r\n\r\n"]) == ""


def test_heads_have_a_limit_all_of_them_together() -> None:
    line = b"A: " + b"x" * 995 + b"\r\n"
    tells = "no end of the head in the first 64 KiB"
    assert verdict(wanted(), [OK + line * 65 + b"\r\n"]) == ""
    assert wanted().is_met_at_once(OK + line * 65 + b"\r\n")
    assert verdict(wanted(), [OK + line * 66 + b"\r\n"]) == tells
    assert not wanted().is_met_at_once(OK + line * 66 + b"\r\n")
    assert verdict(wanted(), [OK, *[line] * 70]) == tells
    assert verdict(wanted(), [b"HTTP/1.1 103 x\r\n" + line * 20 + b"\r\n"] * 5) == tells
    assert verdict(wanted(), [b"HTTP/1.1 200 " + b"x" * 70000]) == tells
    interim = b"HTTP/1.1 100 Continue\r\n\r\n"
    assert verdict(wanted(), [interim * 3000]) == tells


def test_a_body_has_a_limit() -> None:
    size = 64 << 10
    assert verdict(wanted("ok"), [OK + b"\r\n" + b"x" * (size - 2) + b"ok"]) == ""
    assert verdict(wanted("ok"), [OK + b"\r\n" + b"x" * (size - 1), b"ok"]) == 'no "ok" in the first 64 KiB of the body'
    answer = Answer(wanted("ok"))
    assert not answer.feed(OK + b"Transfer-Encoding: chunked\r\n\r\nfffffffffffffff\r\nok")
    assert not answer.feed(b"x" * 100)
    assert answer.feed(b"x" * size)


def test_what_stands_around_chunks_has_a_limit() -> None:
    chunked, tells = OK + b"Transfer-Encoding: chunked\r\n\r\n", "too much around the chunks of the body"
    assert verdict(wanted("ok"), [chunked + b"2\r\nok\r\n" + b"1\r\nx\r\n" * 20_000 + b"0\r\n\r\n"]) == ""
    assert verdict(wanted("ok"), [chunked + b"1;" + b"a" * 20_000]) == tells
    assert verdict(wanted("ok"), [chunked, *[b"1;" + b"a" * 1000 + b"\r\nx\r\n"] * 20]) == tells
    assert verdict(wanted("ok"), [chunked + b"0\r\n" + b"A: b\r\n" * 5000]) == tells


_PARTS = [
    OK,
    b"\r\n",
    b"A: b\r\n",
    b"Content-Length: 3\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"3\r\nabc\r\n",
    b"0\r\n",
]
_PARTS += [b"HTTP/1.1 100 x\r\n", b"HTTP/1.1 503 x\r\n", b"abc", b"\n", b"\x00", b"\xff", b" ", b"ok"]


@given(st.lists(st.sampled_from(_PARTS), max_size=9).map(b"".join) | st.binary(max_size=40), st.data())
def test_any_bytes_come_to_a_verdict(sent: bytes, data: Any) -> None:
    cut = data.draw(st.integers(0, len(sent)))
    for want in (wanted(), wanted("ok"), wanted(regex="o.?k")):
        whole = verdict(want, [sent])
        assert bool(whole) == bool(verdict(want, [sent[:cut], sent[cut:]]))
        assert not (whole and want.is_met_at_once(sent))
