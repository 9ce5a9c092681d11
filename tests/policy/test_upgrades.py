"""Handshakes of WebSocket: which requests ask for it, which answers agree, and what stays ordinary."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.errors import BadRequest, ProtocolError
from router.policy.headers import lines_of, read_request
from router.policy.upgrades import SWITCH_LINES, accept_of, read_switch, websocket_key

Fields = tuple[tuple[bytes, bytes], ...]

#: The example of RFC 6455 §1.3.
KEY = "dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="

ASK = ("Host: a", "Connection: Upgrade", "Upgrade: websocket", f"Sec-WebSocket-Key: {KEY}", "Sec-WebSocket-Version: 13")
AGREE = ("Connection: Upgrade", "Upgrade: websocket", f"Sec-WebSocket-Accept: {ACCEPT}")


def fields(*lines: str) -> Fields:
    """ "Name: value" each."""
    parts = (line.partition(":") for line in lines)
    return tuple((name.encode("latin-1"), value.strip().encode("latin-1")) for name, _, value in parts)


def changed(lines: tuple[str, ...], **swapped: str | None) -> tuple[str, ...]:
    """The lines with others for the named ones (`_` for `-`); None leaves one out."""
    names = {name.replace("_", "-").lower(): line for name, line in swapped.items()}
    found = [names.get(line.partition(":")[0].lower(), line) for line in lines]
    return tuple(line for line in found if line is not None)


def key_of(*lines: str, method: str = "GET", version: tuple[int, int] = (1, 1)) -> bytes:
    """What the router makes of a request: its options and length are those that read_request finds."""
    given_fields = fields(*lines)
    _, length, _, _, _, options, _ = read_request(given_fields, lines_of(given_fields))
    return websocket_key(method, version, given_fields, options, length)


# Requests


def test_the_example_of_the_rfc_asks_for_websocket() -> None:
    assert key_of(*ASK) == KEY.encode()


@pytest.mark.parametrize(
    "line",
    [
        "Connection: upgrade",
        "Connection: keep-alive, Upgrade",
        "connection: UPGRADE , keep-alive",
        "Upgrade: WebSocket",
        "UPGRADE: WEBSOCKET",
        "Sec-WebSocket-Version: 8",
        "sec-websocket-version: 13",
        "Host: b:80",
    ],
)
def test_what_may_be_written_otherwise(line: str) -> None:
    name = line.partition(":")[0].replace("-", "_")
    assert key_of(*changed(ASK, **{name: line})) == KEY.encode()


@pytest.mark.parametrize(
    "more",
    [
        "Sec-WebSocket-Protocol: chat, superchat",
        "Sec-WebSocket-Extensions: permessage-deflate",
        "Origin: http://a",
        "Connection: keep-alive",
        "Content-Length: 0",
        "Cookie: a=1",
    ],
)
def test_what_may_stand_beside_it(more: str) -> None:
    assert key_of(*ASK, more) == KEY.encode()


@pytest.mark.parametrize(
    "lines",
    [
        changed(ASK, connection=None),
        changed(ASK, connection="Connection: keep-alive"),
        changed(ASK, connection="Connection: Upgrades"),
        changed(ASK, connection="Connection: upgrade, sec-websocket-key"),
        changed(ASK, connection="Connection: upgrade, Sec-WebSocket-Version"),
        changed(ASK, upgrade=None),
        changed(ASK, upgrade="Upgrade:"),
        changed(ASK, upgrade="Upgrade: h2c"),
        changed(ASK, upgrade="Upgrade: websocket, h2c"),
        changed(ASK, upgrade="Upgrade: h2c, websocket"),
        changed(ASK, upgrade="Upgrade: websocket/13"),
        (*ASK, "Upgrade: websocket"),
        (*ASK, "upgrade: h2c"),
        changed(ASK, sec_websocket_key=None),
        changed(ASK, sec_websocket_key="Sec-WebSocket-Key:"),
        changed(ASK, sec_websocket_key="Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ="),
        changed(ASK, sec_websocket_key="Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==, x"),
        changed(ASK, sec_websocket_key="Sec-WebSocket-Key: AAAA"),
        (*ASK, f"Sec-WebSocket-Key: {KEY}"),
        (*ASK, "SEC-WEBSOCKET-KEY: x"),
        changed(ASK, sec_websocket_version=None),
        changed(ASK, sec_websocket_version="Sec-WebSocket-Version: 13, 8"),
        changed(ASK, sec_websocket_version="Sec-WebSocket-Version: +13"),
        changed(ASK, sec_websocket_version="Sec-WebSocket-Version: 1300"),
        (*ASK, "Sec-WebSocket-Version: 13"),
        (*ASK, "Content-Length: 1"),
        (*ASK, "Transfer-Encoding: chunked"),
        ("Host: a", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk"),
        ("Host: a",),
    ],
)
def test_what_is_no_plain_handshake_stays_an_ordinary_request(lines: tuple[str, ...]) -> None:
    assert key_of(*lines) == b""


@pytest.mark.parametrize("lines", [ASK, changed(ASK, upgrade="Upgrade: h2c", connection="Connection: Upgrade, X-Gone")])
def test_upgrade_and_connection_never_go_on_by_themselves(lines: tuple[str, ...]) -> None:
    given_fields = fields(*lines, "X-Gone: 1")
    kept = read_request(given_fields, lines_of(given_fields))[0].lower()
    assert b"connection" not in kept
    assert b"\r\nupgrade" not in kept
    assert b"\r\nsec-websocket-key: " in kept


@pytest.mark.parametrize(
    ("method", "version"), [("POST", (1, 1)), ("HEAD", (1, 1)), ("get", (1, 1)), ("GET", (1, 0)), ("GET", (0, 9))]
)
def test_only_get_of_http_1_1_asks(method: str, version: tuple[int, int]) -> None:
    assert key_of(*ASK, method=method, version=version) == b""


def test_framing_that_is_ambiguous_is_refused_before_anything_else() -> None:
    with pytest.raises(BadRequest):
        key_of(*ASK, "Content-Length: 0", "Content-Length: 0")


@given(st.lists(st.tuples(st.binary(max_size=20), st.binary(max_size=30)), max_size=6), st.sampled_from(["GET", "PUT"]))
def test_no_fields_are_too_strange_to_be_asked_about(strange: list[tuple[bytes, bytes]], method: str) -> None:
    options = frozenset({b"upgrade"})
    assert websocket_key(method, (1, 1), tuple(strange), options, 0) == b""
    asked = (*fields(*ASK), *((b"x" + name, value) for name, value in strange))
    assert websocket_key(method, (1, 1), asked, options, 0) == (KEY.encode() if method == "GET" else b"")


# Responses


def switch(*lines: str) -> tuple[bytes, int, bool, bool, bool]:
    given_fields = fields(*lines)
    return read_switch(given_fields, lines_of(given_fields), KEY.encode())


def test_the_accept_of_the_rfc() -> None:
    assert accept_of(KEY.encode()) == ACCEPT.encode()


def test_an_answer_that_agrees_keeps_all_but_what_concerns_one_hop() -> None:
    lines, *rest = switch(
        "Server: s",
        "Connection: keep-alive, Upgrade, X-Gone",
        "Upgrade: WebSocket",
        "Keep-Alive: 5",
        "X-Gone: 1",
        f"Sec-WebSocket-Accept: {ACCEPT}",
        "Sec-WebSocket-Protocol: chat",
        "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits=12",
        "Set-Cookie: a=1",
        "Set-Cookie: b=2",
        "Date: now",
        "X-Request-ID: 1",
    )
    assert lines == lines_of(
        fields(
            "Server: s",
            f"Sec-WebSocket-Accept: {ACCEPT}",
            "Sec-WebSocket-Protocol: chat",
            "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits=12",
            "Set-Cookie: a=1",
            "Set-Cookie: b=2",
            "Date: now",
            "X-Request-ID: 1",
        )
    )
    assert rest == [0, False, True, True]


def test_the_plainest_answer() -> None:
    assert switch(*AGREE) == (f"\r\nSec-WebSocket-Accept: {ACCEPT}\r\n".encode(), 0, False, False, False)


def test_the_switch_is_written_as_lines_of_a_head() -> None:
    assert lines_of(fields("Connection: Upgrade", "Upgrade: websocket")) == b"\r\n" + SWITCH_LINES


@pytest.mark.parametrize(
    "lines",
    [
        changed(AGREE, connection="connection: upgrade"),
        changed(AGREE, connection="Connection: close ,\tUPGRADE"),
        (*AGREE, "Connection: keep-alive"),
        changed(AGREE, upgrade="upgrade: WEBSOCKET"),
        changed(AGREE, sec_websocket_accept=f"SEC-WEBSOCKET-ACCEPT: {ACCEPT}"),
    ],
)
def test_what_an_answer_may_write_otherwise(lines: tuple[str, ...]) -> None:
    kept = switch(*lines)[0].lower()
    assert kept == f"\r\nSec-WebSocket-Accept: {ACCEPT}\r\n".lower().encode()


@pytest.mark.parametrize(
    ("lines", "fault"),
    [
        ((*AGREE, "Content-Length: 0"), "Content-Length or"),
        ((*AGREE, "Transfer-Encoding: chunked"), "or Transfer-Encoding"),
        ((*AGREE, "Content-Length: 0", "Content-Length: 0"), "more than one"),
        ((*AGREE, "Bad Name: x"), "not a token"),
        (changed(AGREE, connection=None), "Connection is not Upgrade"),
        (changed(AGREE, connection="Connection: close"), "Connection is not Upgrade"),
        (changed(AGREE, connection="Connection: upgrade, sec-websocket-accept"), "Connection is not Upgrade"),
        (changed(AGREE, upgrade=None), "does not switch to websocket"),
        (changed(AGREE, upgrade="Upgrade: h2c"), "does not switch to websocket"),
        (changed(AGREE, upgrade="Upgrade: websocket, h2c"), "does not switch to websocket"),
        ((*AGREE, "Upgrade: websocket"), "does not switch to websocket"),
        (changed(AGREE, sec_websocket_accept=None), "does not belong"),
        (changed(AGREE, sec_websocket_accept=f"Sec-WebSocket-Accept: {KEY}"), "does not belong"),
        (changed(AGREE, sec_websocket_accept=f"Sec-WebSocket-Accept: {ACCEPT.lower()}"), "does not belong"),
        ((*AGREE, f"Sec-WebSocket-Accept: {ACCEPT}"), "does not belong"),
        ((), "Connection is not Upgrade"),
    ],
)
def test_an_answer_that_does_not_agree_is_no_switch(lines: tuple[str, ...], fault: str) -> None:
    with pytest.raises(ProtocolError, match=fault) as caught:
        switch(*lines)
    assert caught.value.status == 502
