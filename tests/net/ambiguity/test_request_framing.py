"""Content-Length and Transfer-Encoding of requests: two servers that count differently are how requests are smuggled.

RFC 9112, 6.1 to 6.3. A row: id, what the client sends, what comes of it (see `request_row`). Where the RFC leaves a
choice, the row says why it is made so.
"""

from __future__ import annotations

from typing import Any

import pytest

pytestmark = pytest.mark.asyncio(loop_factories=["uvloop"])

CHUNKED = b"5\r\nhello\r\n0\r\n\r\n"
NOTHING = b"0\r\n\r\n"
#: A request that must never be taken for one: it stands in a body.
INNER = b"GET /smuggled HTTP/1.1\r\nHost: evil.example\r\n\r\n"


def post(fields: bytes, body: bytes = b"", line: bytes = b"POST /p HTTP/1.1") -> bytes:
    return line + b"\r\nHost: h.example\r\n" + fields + b"\r\n\r\n" + body


def same(name: str, raw: bytes) -> tuple[str, bytes, bytes]:
    return name, raw, raw


BOTH = [
    ("length-then-chunked", post(b"Content-Length: 5\r\nTransfer-Encoding: chunked", NOTHING), 400),
    ("chunked-then-length", post(b"Transfer-Encoding: chunked\r\nContent-Length: 5", NOTHING), 400),
    ("length-that-fits-and-chunked", post(b"Content-Length: 15\r\nTransfer-Encoding: chunked", CHUNKED), 400),
    ("length-0-and-chunked", post(b"Content-Length: 0\r\nTransfer-Encoding: chunked", NOTHING), 400),
    ("length-and-chunked-in-other-case", post(b"CONTENT-LENGTH: 5\r\ntransfer-ENCODING: CHUNKED", NOTHING), 400),
    ("length-and-identity", post(b"Content-Length: 5\r\nTransfer-Encoding: identity", b"hello"), 400),
    ("length-and-xchunked", post(b"Content-Length: 5\r\nTransfer-Encoding: xchunked", b"hello"), 400),
    ("length-and-empty-coding", post(b"Content-Length: 5\r\nTransfer-Encoding:", b"hello"), 400),
    ("length-and-gzip-chunked", post(b"Content-Length: 5\r\nTransfer-Encoding: gzip, chunked", b"hello"), 400),
    ("length-apart-from-chunked", post(b"Content-Length: 5\r\nA: b\r\nTransfer-Encoding: chunked", NOTHING), 400),
    ("bad-length-and-chunked", post(b"Content-Length: x\r\nTransfer-Encoding: chunked", NOTHING), 400),
    (
        "connection-names-the-length",
        post(b"Connection: Content-Length\r\nContent-Length: 5\r\nTransfer-Encoding: chunked", NOTHING),
        400,
    ),
    (
        "connection-names-the-coding",
        post(b"Connection: Transfer-Encoding\r\nContent-Length: 5\r\nTransfer-Encoding: chunked", NOTHING),
        400,
    ),
    ("both-in-http-1.0", post(b"Content-Length: 5\r\nTransfer-Encoding: chunked", NOTHING, b"POST /p HTTP/1.0"), 400),
    # Servers behind CGI read "_" as "-": such a spelling goes no further.
    (
        "length-with-underscore-and-chunked",
        post(b"Content_Length: 5\r\nTransfer-Encoding: chunked", CHUNKED),
        post(b"Transfer-Encoding: chunked", CHUNKED),
    ),
    (
        "coding-with-underscore-and-length",
        post(b"Transfer_Encoding: chunked\r\nContent-Length: 5", b"hello"),
        post(b"Content-Length: 5", b"hello"),
    ),
    same(
        "a-name-that-only-ends-so",
        post(b"X-Content-Length: 9\r\nX-Transfer-Encoding: chunked\r\nContent-Length: 5", b"hello"),
    ),
]

CODINGS = [
    same("chunked", post(b"Transfer-Encoding: chunked", CHUNKED)),
    # Codings are compared without case, blanks around a value are none of it (RFC 9110, 5.5): kept as they came.
    same("chunked-capital", post(b"Transfer-Encoding: Chunked", CHUNKED)),
    same("chunked-upper", post(b"TRANSFER-ENCODING: CHUNKED", CHUNKED)),
    same("chunked-without-blank", post(b"Transfer-Encoding:chunked", CHUNKED)),
    same("chunked-behind-tab", post(b"Transfer-Encoding:\tchunked", CHUNKED)),
    same("chunked-among-blanks", post(b"Transfer-Encoding:  chunked \t", CHUNKED)),
    same("chunked-of-get", post(b"Transfer-Encoding: chunked", CHUNKED, b"GET /p HTTP/1.1")),
    same("chunked-of-delete", post(b"Transfer-Encoding: chunked", CHUNKED, b"DELETE /p HTTP/1.1")),
    same("chunked-and-empty", post(b"Transfer-Encoding: chunked", NOTHING)),
    same(
        "a-request-inside-a-chunk", post(b"Transfer-Encoding: chunked", b"%x\r\n%b\r\n0\r\n\r\n" % (len(INNER), INNER))
    ),
    (
        "connection-names-the-coding-alone",
        post(b"Connection: Transfer-Encoding\r\nTransfer-Encoding: chunked", CHUNKED),
        post(b"Transfer-Encoding: chunked", CHUNKED),
    ),
    # 6.3: chunked is not the last coding, so nobody can tell the length: 400, and not 501.
    *(
        (f"coding-{name}", post(b"Transfer-Encoding: " + value, CHUNKED), 400)
        for name, value in {
            "identity": b"identity",
            "gzip": b"gzip",
            "xchunked": b"xchunked",
            "chunkedx": b"chunkedx",
            "chunk": b"chunk",
            "cow": b"cow",
            "chunked-identity": b"chunked, identity",
            "chunked-gzip": b"chunked, gzip",
            "chunked-cow": b"chunked, cow",
            "in-quotes": b'"chunked"',
            "in-single-quotes": b"'chunked'",
            "with-parameter": b"chunked;q=1",
            "with-semicolon": b"chunked;",
            "two-words": b"chunked chunked",
            "parted-by-tab": b"chunked\tidentity",
            "behind-no-break-space": b"\xa0chunked",
            "before-no-break-space": b"chunked\xa0",
            "with-8-bit-k": b"chun\xe2\x84\xaaed",
            "empty": b"",
            "blank": b" \t ",
            "comma": b",",
            # No sender may apply it twice (6.1).
            "chunked-twice": b"chunked, chunked",
            # Strict: an empty element could be skipped (RFC 9110, 5.6.1), but no client writes one.
            "trailing-comma": b"chunked,",
        }.items()
    ),
    # 6.1: a coding that is not understood, chunked being the last.
    ("coding-gzip-chunked", post(b"Transfer-Encoding: gzip, chunked", CHUNKED), 501),
    ("coding-identity-chunked", post(b"Transfer-Encoding: identity, chunked", CHUNKED), 501),
    ("coding-leading-comma", post(b"Transfer-Encoding: ,chunked", CHUNKED), 501),
    # Control bytes that other parsers trim, end a value at, or take for a line end.
    *(
        (f"coding-{where}-{byte[0]:02x}", post(b"Transfer-Encoding: " + form % byte, CHUNKED), 400)
        for byte in (b"\x0b", b"\x0c", b"\x00", b"\x01", b"\x1f", b"\x7f", b"\x08")
        for where, form in (("behind", b"%bchunked"), ("before", b"chunked%b"))
    ),
    ("codings-on-two-lines", post(b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", CHUNKED), 400),
    (
        "codings-chunked-identity-on-two-lines",
        post(b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity", CHUNKED),
        400,
    ),
    (
        "codings-identity-chunked-on-two-lines",
        post(b"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked", CHUNKED),
        400,
    ),
    ("codings-gzip-chunked-on-two-lines", post(b"Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked", CHUNKED), 400),
    ("codings-far-apart", post(b"transfer-encoding: chunked\r\nA: b\r\nTransfer-Encoding: cow", CHUNKED), 400),
    ("coding-of-http-1.0", post(b"Transfer-Encoding: chunked", CHUNKED, b"POST /p HTTP/1.0"), 400),
    (
        "coding-of-http-1.0-kept",
        post(b"Connection: keep-alive\r\nTransfer-Encoding: chunked", CHUNKED, b"POST /p HTTP/1.0"),
        400,
    ),
    # Spellings of the name and of the line.
    ("blank-before-the-colon", post(b"Transfer-Encoding : chunked\r\nContent-Length: 5", b"hello"), 400),
    ("tab-before-the-colon", post(b"Transfer-Encoding\t: chunked", CHUNKED), 400),
    ("vertical-tab-before-the-colon", post(b"Transfer-Encoding\x0b: chunked", CHUNKED), 400),
    ("nul-before-the-colon", post(b"Transfer-Encoding\x00: chunked\r\nContent-Length: 5", b"hello"), 400),
    ("nul-in-the-name", post(b"Transfer\x00-Encoding: chunked\r\nContent-Length: 5", b"hello"), 400),
    ("long-s-in-the-name", post(b"Tran\xc5\xbffer-Encoding: chunked\r\nContent-Length: 5", b"hello"), 400),
    ("blank-before-the-name", post(b" Transfer-Encoding: chunked\r\nContent-Length: 5", b"hello"), 400),
    ("folded-behind-the-colon", post(b"Transfer-Encoding:\r\n chunked", CHUNKED), 400),
    ("folded-behind-the-value", post(b"Transfer-Encoding: chunked\r\n , identity", CHUNKED), 400),
    ("folded-to-hide", post(b"A: b\r\n Transfer-Encoding: chunked\r\nContent-Length: 5", b"hello"), 400),
    ("bare-cr-to-hide", post(b"A: b\rTransfer-Encoding: chunked\r\nContent-Length: 5", b"hello"), 400),
    ("bare-lf-to-hide", post(b"A: b\nTransfer-Encoding: chunked\r\nContent-Length: 5", b"hello"), 400),
    ("bare-lf-behind-the-coding", post(b"Transfer-Encoding: chunked\nA: b", CHUNKED), 400),
    ("bare-cr-behind-the-coding", post(b"Transfer-Encoding: chunked\rA: b", CHUNKED), 400),
    ("two-crs-behind-the-coding", post(b"Transfer-Encoding: chunked\r\r\nA: b", CHUNKED), 400),
    ("semicolon-for-a-colon", post(b"Transfer-Encoding; chunked\r\nContent-Length: 5", b"hello"), 400),
    ("two-colons", post(b"Transfer-Encoding:: chunked", CHUNKED), 400),
]

LENGTHS = [
    same("length", post(b"Content-Length: 5", b"hello")),
    same("length-0", post(b"Content-Length: 0")),
    same("length-without-blank", post(b"Content-Length:5", b"hello")),
    same("length-among-blanks", post(b"Content-Length: \t5 \t", b"hello")),
    # 1*DIGIT (RFC 9110, 8.6): leading zeros are odd and clear.
    same("length-with-zeros", post(b"Content-Length: 0005", b"hello")),
    same("length-of-get", post(b"Content-Length: 5", b"hello", b"GET /p HTTP/1.1")),
    same("length-of-head", post(b"Content-Length: 5", b"hello", b"HEAD /p HTTP/1.1")),
    same("length-of-options", post(b"Content-Length: 5", b"hello", b"OPTIONS /p HTTP/1.1")),
    same("no-length-of-post", b"POST /p HTTP/1.1\r\nHost: h.example\r\n\r\n"),
    same("a-request-as-body", post(b"Content-Length: %d" % len(INNER), INNER)),
    same("a-request-as-body-of-get", post(b"Content-Length: %d" % len(INNER), INNER, b"GET /p HTTP/1.1")),
    same("line-ends-as-body", post(b"Content-Length: 4", b"\r\n\r\n")),
    (
        "connection-names-the-length-alone",
        post(b"Connection: content-length\r\nContent-Length: 5", b"hello"),
        post(b"Content-Length: 5", b"hello"),
    ),
    ("lengths-equal", post(b"Content-Length: 5\r\nContent-Length: 5", b"hello"), 400),
    ("lengths-0-twice", post(b"Content-Length: 0\r\nContent-Length: 0"), 400),
    ("lengths-differ", post(b"Content-Length: 5\r\nContent-Length: 6", b"hello!"), 400),
    ("lengths-0-and-5", post(b"Content-Length: 0\r\nContent-Length: 5", b"hello"), 400),
    ("lengths-in-two-cases", post(b"content-length: 5\r\nA: b\r\nCONTENT-LENGTH: 5", b"hello"), 400),
    ("lengths-three", post(b"Content-Length: 5\r\nContent-Length: 5\r\nContent-Length: 5", b"hello"), 400),
    ("lengths-one-empty", post(b"Content-Length:\r\nContent-Length: 5", b"hello"), 400),
    *(
        (f"length-{name}", post(b"Content-Length: " + value, b"hello"), 400)
        for name, value in {
            "list-equal": b"5, 5",
            "list-differs": b"5, 6",
            "list-without-blank": b"5,5",
            "trailing-comma": b"5,",
            "leading-comma": b",5",
            "plus": b"+5",
            "minus": b"-5",
            "minus-0": b"-0",
            "hex": b"0x5",
            "hex-digit": b"a",
            "octal": b"0o5",
            "binary": b"0b101",
            "fraction": b"5.0",
            "exponent": b"5e0",
            "underscore": b"0_5",
            "empty": b"",
            "blank": b" \t ",
            "word": b"five",
            "with-unit": b"5B",
            "with-semicolon": b"5;",
            "in-quotes": b'"5"',
            "two-words": b"5 5",
            "two-words-by-tab": b"0\t5",
            "arabic-digit": b"\xd9\xa5",
            "superscript": b"\xb2",
            "fullwidth": b"\xef\xbc\x95",
            "no-break-space": b"\xa05",
            "behind-vertical-tab": b"\x0b5",
            "before-vertical-tab": b"5\x0b",
            "before-form-feed": b"5\x0c",
            "before-nul": b"5\x00",
            "nul-between": b"5\x000",
            "19-digits": b"9" * 19,
            "above-32-bits-signed": b"-4294967291",
            "2-to-64-and-5": b"18446744073709551621",
            "2-to-64": b"18446744073709551616",
            "2-to-63": b"9223372036854775808",
            "100-digits": b"5" * 100,
        }.items()
    ),
    ("length-blank-before-colon", post(b"Content-Length : 5", b"hello"), 400),
    ("length-tab-before-colon", post(b"Content-Length\t: 5", b"hello"), 400),
    ("length-folded", post(b"Content-Length:\r\n 5", b"hello"), 400),
    ("length-folded-digits", post(b"Content-Length: 5\r\n 0", b"hello"), 400),
    ("length-behind-bare-cr", post(b"A: b\rContent-Length: 5", b"hello"), 400),
    ("length-behind-bare-lf", post(b"A: b\nContent-Length: 5", b"hello"), 400),
    ("length-before-bare-cr", post(b"Content-Length: 5\r", b"hello"), 400),
    ("length-in-a-name-of-8-bits", post(b"Content-Length\xa0: 5", b"hello"), 400),
]

ROWS = [pytest.param(raw, outcomes, id=name) for name, raw, *outcomes in (*BOTH, *CODINGS, *LENGTHS)]


@pytest.mark.parametrize(("raw", "outcomes"), ROWS)
async def test_framing(request_row: Any, raw: bytes, outcomes: list[Any]) -> None:
    await request_row(raw, outcomes, unclear=True)
