"""TLS to endpoints: whom the router believes, what it shows of itself, and what goes through in both directions."""

from __future__ import annotations

import importlib.util
import socket
import ssl
import sys
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import trustme


def helper(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"tls_{name}", Path(__file__).with_name(f"{name}.py"))
    assert spec
    assert spec.loader
    made = sys.modules[f"tls_{name}"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


_help = sys.modules.get("tls_e2e") or helper("e2e")
lab, secure_serve = _help.lab, _help.secure_serve
NAME, der, fields = _help.NAME, _help.der, _help.fields
CA = 'tls = { ca = "ca.pem" }'


def plain(lab: Any, *endpoints: str, **lines: str) -> Any:
    """Starts a router whose clients come without TLS."""
    return lab.up(*endpoints, listener="", **lines).house


# Whom it believes.


def test_an_endpoint_with_a_known_ca_is_believed(lab: Any, secure_serve: Any) -> None:
    server = secure_serve(name="one")
    house = plain(lab, server.url, pool=CA)
    assert house.get("/x") == (200, b"one")
    assert server.protocols == ["http/1.1"]


def test_a_system_store_is_what_stands_without_a_ca(
    lab: Any, secure_serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(lab.ca))
    assert plain(lab, secure_serve(name="one").url).get() == (200, b"one")


def test_an_unknown_ca_is_refused_and_said_why(lab: Any, secure_serve: Any) -> None:
    server = secure_serve(name="secret-body")
    house = plain(lab, server.url)
    status, body = house.get("/x")
    assert status in (502, 503)
    assert b"secret-body" not in body
    assert server.heads == []
    (line,) = house.records("127.0.0.1")
    assert "unable to get local issuer certificate" in line or "self-signed certificate" in line


def said(house: Any) -> list[str]:
    """All lines of the log, debug too."""
    return [each.getMessage() for each in house._caplog.records]


@pytest.mark.parametrize(
    ("kind", "word"),
    [("stranger", "certificate verify failed"), ("name", "certificate verify failed"), ("late", "expired")],
)
def test_why_is_readable_in_the_log(lab: Any, secure_serve: Any, authority: Any, kind: str, word: str) -> None:
    pair = {
        "stranger": lambda: _pair_of(trustme.CA()),
        "name": lambda: authority.issue("somebody-else.test"),
        "late": lambda: authority.issue("127.0.0.1", begins=-90000.0, ends=-3600.0),
    }[kind]()
    server = secure_serve(pair=pair)
    house = plain(lab, server.url, pool=CA)
    assert house.get()[0] in (502, 503)
    lines = [line for line in said(house) if "TLS" in line or "certificate" in line]
    assert any(word in line and f"127.0.0.1:{server.port}" in line for line in lines), said(house)
    assert server.heads == []


def _pair_of(ca: Any) -> Any:
    made = ca.issue_cert("127.0.0.1")

    class Pair:
        both = made.private_key_and_cert_chain_pem.bytes()

    return Pair


def test_it_is_tried_elsewhere(lab: Any, secure_serve: Any) -> None:
    stranger = secure_serve(pair=_pair_of(trustme.CA()))
    good = secure_serve(name="good")
    house = plain(lab, stranger.url, good.url, pool=CA)
    assert [house.get() for _ in range(4)] == [(200, b"good")] * 4
    assert stranger.heads == []
    assert stranger.failed


def test_a_body_that_was_not_sent_is_sent_elsewhere(lab: Any, secure_serve: Any) -> None:
    """A handshake that failed sent nothing, so even a POST may go to another."""
    good = secure_serve(name="good")
    house = plain(lab, secure_serve(pair=_pair_of(trustme.CA())).url, good.url, pool=CA)
    for _ in range(2):
        client = house.client()
        client.sock.sendall(b"POST /body HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello")
        assert client.response()[::2] == (200, b"hello")
    assert good.bodies == [b"hello"] * 2


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b""])
def test_a_plain_endpoint_is_no_tls_endpoint(lab: Any, answer: bytes) -> None:
    """Many such servers wait for the end of a head that never comes."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        held = []

        def serve() -> None:
            while True:
                try:
                    conn, _ = listener.accept()
                except OSError:
                    return
                held.append(conn)
                if answer:
                    conn.sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        port = listener.getsockname()[1]
        house = plain(lab, f"https://127.0.0.1:{port}", pool=f'{CA}\ntimeouts = {{ connect = "200ms" }}')
        status = house.get()[0]
        listener.shutdown(socket.SHUT_RDWR)
    for conn in held:
        conn.close()
    assert status in (502, 503, 504)
    (line,) = house.records(str(port))
    assert "TLS" in line


def test_server_name_is_verified_and_asked_for(lab: Any, secure_serve: Any) -> None:
    server = secure_serve("inside.example.test")
    house = plain(lab, server.url, pool='tls = { ca = "ca.pem", server_name = "inside.example.test" }')
    assert house.get()[0] == 200
    assert server.asked == ["inside.example.test"]


def test_a_wrong_server_name_is_refused(lab: Any, secure_serve: Any) -> None:
    server = secure_serve()
    house = plain(lab, server.url, pool='tls = { ca = "ca.pem", server_name = "inside.example.test" }')
    assert house.get()[0] in (502, 503)
    assert server.heads == []


def test_the_name_in_the_url_is_asked_for(lab: Any, secure_serve: Any) -> None:
    server = secure_serve("localhost")
    house = plain(lab, f"https://localhost:{server.port}", pool=CA)
    assert house.get("/echo")[0] == 200
    assert server.asked == ["localhost"]
    # The client's Host is the server's business, not that of TLS.
    assert fields(server.heads[0], "Host") == ["test.example"]


def test_addresses_are_no_names_to_ask_for(lab: Any, secure_serve: Any) -> None:
    server = secure_serve()
    assert plain(lab, server.url, pool=CA).get()[0] == 200
    assert server.asked == [None]


def test_a_client_certificate_is_shown(lab: Any, secure_serve: Any, authority: Any) -> None:
    pair = lab.pair("own", "router.test")
    server = secure_serve(client_ca=str(lab.ca))
    house = plain(lab, server.url, pool='tls = { ca = "ca.pem", certificate = "own.pem", key = "own.key" }')
    assert house.get()[0] == 200
    assert server.shown == [der(pair)]


def test_certificate_and_key_may_stand_in_one_file(lab: Any, secure_serve: Any) -> None:
    pair = lab.authority.issue("router.test")
    lab.put("both.pem", pair.both)
    server = secure_serve(client_ca=str(lab.ca))
    assert plain(lab, server.url, pool='tls = { ca = "ca.pem", certificate = "both.pem" }').get()[0] == 200
    assert server.shown == [der(pair)]


def test_without_the_client_certificate_that_it_wants_it_fails(lab: Any, secure_serve: Any) -> None:
    """In TLS 1.3 the endpoint refuses when the router has begun to send already."""
    house = plain(lab, secure_serve(client_ca=str(lab.ca)).url, pool=CA)
    assert house.get()[0] in (502, 503)


def test_verify_none_takes_anybody_and_is_warned_of(lab: Any, secure_serve: Any) -> None:
    server = secure_serve(pair=_pair_of(trustme.CA()), name="anybody")
    house = plain(lab, server.url, pool='tls = { verify = "none" }')
    assert house.get() == (200, b"anybody")
    warned = [each for each in house._caplog.records if each.levelname == "WARNING" and "verify" in each.getMessage()]
    assert len(warned) == 1
    assert "web" in warned[0].getMessage()
    house.write(server.url, pool='tls = { verify = "none" }', more="\n# other", listener="max_connections = 9")
    house.takes()
    assert len(house.records("verify")) == 1


# Connections.


def test_connections_are_kept(lab: Any, secure_serve: Any) -> None:
    server = secure_serve()
    house = plain(lab, server.url, pool=CA)
    assert [house.get(f"/{number}")[0] for number in range(5)] == [200] * 5
    assert server.accepted == 1
    assert len(server.heads) == 5


@pytest.mark.parametrize("path", ["/goodbye", "/ended"])
def test_sessions_are_resumed(lab: Any, secure_serve: Any, path: str) -> None:
    server = secure_serve()
    house = plain(lab, server.url, pool=CA)
    assert [house.client().ask(path).until(b"\r\n\r\n")[9:12] for _ in range(4)] == [b"200"] * 4
    house.wait(lambda: server.accepted == 4, lambda: server.resumed)
    assert server.resumed == [False, True, True, True]


def test_a_server_that_closed_an_idle_connection_is_asked_on_another(lab: Any, secure_serve: Any) -> None:
    server = secure_serve()
    house = plain(lab, server.url, pool=CA)
    assert house.get()[0] == 200
    server.close_all()
    house.wait(lambda: not server._open)
    assert [house.get()[0] for _ in range(3)] == [200] * 3
    assert server.accepted == 2


def test_bodies_go_both_ways(lab: Any, secure_serve: Any) -> None:
    server = secure_serve()
    lab.up(server.url, pool=CA)
    body = b"0123456789abcdef" * 65536
    client = lab.client()
    client.sock.sendall(b"PUT /body HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    status, _, answer = client.response()
    assert (status, answer == body, server.bodies == [body]) == (200, True, True)
    assert client.get("/large")[1] == body


def test_a_websocket_goes_through_tls_on_both_sides(lab: Any, secure_serve: Any) -> None:
    lab.up(secure_serve().url, pool=CA)
    client = lab.client().switch()
    for size in (1, 100, 20_000, 300_000):
        data = b"%d:" % size + b"x" * size + b"!"
        client.sock.sendall(data)
        assert client.until(b"!") == data


def test_the_end_of_a_websocket_is_told_through(lab: Any, secure_serve: Any) -> None:
    server = secure_serve()
    lab.up(server.url, pool=CA)
    client = lab.client().switch()
    assert client.echo() == b"ping!"
    client.sock.unwrap()
    lab.house.wait(lambda: not server._open)


def test_a_body_that_ends_with_close_notify_is_whole(lab: Any, secure_serve: Any) -> None:
    lab.up(secure_serve().url, pool=CA)
    client = lab.client().ask("/ended")
    assert b" 200 " in client.until(b"\r\n\r\n")
    assert b"half of it" in client.until(b"half of it")
    # HTTP/1.1 clients are told the end by the last chunk.
    client.until(b"0\r\n\r\n")


def test_a_body_that_ends_without_close_notify_is_broken(lab: Any, secure_serve: Any) -> None:
    """RFC 8446 §6.1: anybody may have ended it, so a client must not take it for the whole."""
    lab.up(secure_serve().url, pool=CA)
    client = lab.client().ask("/cut")
    with pytest.raises((ssl.SSLError, ConnectionError, EOFError)):
        client.until(b"0\r\n\r\n")
    client = lab.client()
    client.sock.sendall(b"GET /cut HTTP/1.0\r\nHost: a\r\n\r\n")
    with pytest.raises((ssl.SSLError, ConnectionError)):
        _help.read_all(client)


def test_an_idle_end_without_close_notify_is_nothing_to_tell(lab: Any, secure_serve: Any) -> None:
    server = secure_serve()
    house = plain(lab, server.url, pool=CA)
    house.get()
    server.close_all()
    house.wait(lambda: not server._open)
    assert house.get()[0] == 200
    assert [line for line in house.records("close_notify") if line] == []


# Probes.


def test_probes_ask_over_tls(lab: Any, secure_serve: Any) -> None:
    good, stranger = secure_serve(name="good"), secure_serve(pair=_pair_of(trustme.CA()))
    probe = 'probe = { use = "http", path = "/up", interval = "100ms" }'
    house = plain(lab, good.url, stranger.url, pool=f"{CA}\n{probe}")
    states = house.endpoints()
    assert states[f"https://127.0.0.1:{good.port}"].state == "ready"
    assert states[f"https://127.0.0.1:{stranger.port}"].state != "ready"
    assert "certificate" in str(states[f"https://127.0.0.1:{stranger.port}"])
    house.wait(lambda: len(good.heads) >= 3)
    assert stranger.heads == []
    assert {head.split(b" ")[1] for head in good.heads} == {b"/up"}
    assert [house.get("/x") for _ in range(3)] == [(200, b"good")] * 3


def test_probes_ask_for_the_server_name_with_the_certificate(lab: Any, secure_serve: Any) -> None:
    pair = lab.pair("own", "router.test")
    server = secure_serve("inside.test", client_ca=str(lab.ca))
    tls = 'tls = { ca = "ca.pem", server_name = "inside.test", certificate = "own.pem", key = "own.key" }'
    house = plain(lab, server.url, pool=f'{tls}\nprobe = {{ use = "http", path = "/up", interval = "100ms" }}')
    house.wait(lambda: len(server.heads) >= 2)
    assert set(server.asked) == {"inside.test"}
    assert set(server.shown) == {der(pair)}
    assert [each.state for each in house.endpoints().values()] == ["ready"]


# Reloads.


def test_a_reload_with_another_ca(lab: Any, secure_serve: Any) -> None:
    stranger = trustme.CA()
    lab.put("other.pem", stranger.cert_pem.bytes())
    server = secure_serve(name="one")
    house = plain(lab, server.url, pool='tls = { ca = "other.pem" }')
    assert house.get()[0] in (502, 503)
    house.write(server.url, pool=CA)
    house.takes()
    assert house.get() == (200, b"one")
    # And back: a connection that was verified by an authority of before is not used.
    house.write(server.url, pool='tls = { ca = "other.pem" }')
    house.takes()
    assert house.get()[0] in (502, 503)


def test_a_reload_reads_files_again(lab: Any, secure_serve: Any) -> None:
    lab.put("used.pem", trustme.CA().cert_pem.bytes())
    server = secure_serve(name="one")
    house = plain(lab, server.url, pool='tls = { ca = "used.pem" }')
    assert house.get()[0] in (502, 503)
    lab.put("used.pem", lab.authority.root)
    house.takes()
    assert house.get() == (200, b"one")


def test_a_reload_that_changes_nothing_of_tls_keeps_connections(lab: Any, secure_serve: Any) -> None:
    server = secure_serve()
    house = plain(lab, server.url, pool=CA)
    assert house.get()[0] == 200
    house.write(server.url, pool=CA, listener="max_connections = 77")
    house.takes()
    assert house.get()[0] == 200
    assert server.accepted == 1


def test_a_reload_from_http_to_https_and_back(lab: Any, serve: Any, secure_serve: Any) -> None:
    old, new = serve("old"), secure_serve(name="new")
    house = plain(lab, old.url)
    client = house.client()
    assert client.get() == (200, b"old")
    house.write(new.url, pool=CA)
    house.takes()
    assert client.get() == (200, b"new")
    house.write(old.url)
    house.takes()
    assert client.get() == (200, b"old")


def test_requests_under_way_finish_through_a_change_of_ca(lab: Any, secure_serve: Any) -> None:
    lab.put("other.pem", trustme.CA().cert_pem.bytes())
    server = secure_serve()
    lab.up(server.url, pool=CA)
    client = lab.client().switch()
    assert client.echo() == b"ping!"
    lab.house.write(server.url, listener=lab.listener(), pool='tls = { ca = "other.pem" }')
    lab.house.takes()
    assert client.echo() == b"ping!"
    assert lab.get()[0] in (502, 503)
