"""Chunked bodies, cut anywhere: the same comes out, and nothing ambiguous does."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.net.framing import BadFraming, Chunked, Replay


def encoded(pieces: list[bytes]) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces if piece) + b"0\r\n\r\n"


def decoded(data: bytes) -> bytes:
    """A plain reader of what Chunked gives out: no extensions, no trailers, nothing behind."""
    body = []
    while True:
        line, _, data = data.partition(b"\r\n")
        size = int(line, 16)
        if not size:
            assert data == b"\r\n"
            return b"".join(body)
        body.append(data[:size])
        assert data[size : size + 2] == b"\r\n"
        data = data[size + 2 :]


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[a:b] for a, b in pairwise(edges)]


pieces = st.lists(st.binary(min_size=1, max_size=40), max_size=6)
places = st.lists(st.integers(min_value=0, max_value=400), max_size=12)


@given(pieces, places, st.booleans(), st.binary(max_size=5))
def test_any_cut_gives_the_same_body(parts: list[bytes], at: list[int], payload_only: bool, extra: bytes) -> None:
    reader = Chunked(payload_only=payload_only)
    out = b""
    got_extra = b""
    for piece in cut(encoded(parts) + extra, at):
        if reader.done:
            got_extra += piece
        else:
            out += reader.feed(piece)
            got_extra += reader.extra
    assert reader.done
    assert (out if payload_only else decoded(out)) == b"".join(parts)
    assert got_extra == extra


@given(pieces, st.integers(min_value=0, max_value=400))
def test_a_prefix_is_never_done(parts: list[bytes], end: int) -> None:
    data = encoded(parts)
    reader = Chunked(payload_only=True)
    out = reader.feed(data[: min(end, len(data) - 1)])
    assert not reader.done
    assert b"".join(parts).startswith(out)


@given(st.binary(max_size=60))
def test_junk_is_refused_or_incomplete_or_a_body(data: bytes) -> None:
    reader = Chunked()
    try:
        out = reader.feed(data)
    except BadFraming:
        return
    if reader.done:
        assert isinstance(decoded(out), bytes)


@pytest.mark.parametrize(
    "data",
    [
        b"\r\nabc",
        b"g\r\n",
        b"0x3\r\nabc\r\n",
        b"+3\r\nabc\r\n",
        b"3 \r\nabc\r\n",
        b"3\nabc\r\n",
        b"3\rabc\r\n",
        b"3\r\nabcd\r\n",
        b"3\r\nabc\n",
        b"1000000000000000\r\n",
        b"3;a\x00b\r\nabc\r\n",
        b"0\r\n\n",
        b"1" * 5000,
        b"0\r\n" + b"X: " + b"y" * 5000,
        b"0\r\n" + b"X: y\r\n" * 5000,
    ],
)
def test_what_is_ambiguous_or_endless_is_refused(data: bytes) -> None:
    with pytest.raises(BadFraming):
        Chunked().feed(data)


def test_extensions_and_trailers_are_dropped() -> None:
    reader = Chunked()
    assert reader.feed(b'3;a="b;c"\r\nabc\r\n0;last\r\nX-T: 1\r\n\r\nnext') == b"3\r\nabc\r\n0\r\n\r\n"
    assert (reader.done, reader.extra) == (True, b"next")


def test_a_piece_of_a_chunk_is_passed_on_before_the_chunk_is_whole() -> None:
    assert Chunked().feed(b"ff\r\nsome") == b"ff\r\nsome"


def test_nothing_of_the_end_is_passed_on_before_all_of_it_is_here() -> None:
    body = Chunked()
    assert [body.feed(bytes([byte])) for byte in b"0\r\nA: b\r\n\r"] == [b""] * 10
    assert (body.feed(b"\n"), body.done) == (b"0\r\n\r\n", True)


def test_replay_holds_what_is_small() -> None:
    replay = Replay()
    replay.add(b"abc")
    replay.add(b"def")
    assert not replay.trim(6)
    assert replay.pieces == [b"abc", b"def"]
    assert replay.trim(5)
    assert replay.pieces == []
    replay.add(b"more")
    assert replay.pieces == []
    assert replay.trim(1000)
