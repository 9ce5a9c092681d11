"""TLS at its edges: odd targets and hosts, pipes for files, ends without goodbye, changes under way."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import socket
import ssl
import sys
import threading
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import router_tls.files
import trustme
from cryptography import x509

from router import watch_files, watching
from router.faults import ConfigFaults
from router.prepare import prepare_file

DAY = 86400.0


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


# Redirects.


@pytest.mark.parametrize(
    "head",
    [
        b"GET http://a,b/ HTTP/1.1\r\nHost: x",
        b"GET http:///x HTTP/1.1\r\nHost: x",
        b"GET http://[::1/ HTTP/1.1\r\nHost: x",
        b"OPTIONS * HTTP/1.1\r\nHost: x",
        b"GET / HTTP/1.0",
        b"CONNECT x:443 HTTP/1.1\r\nHost: x:443",
    ],
)
def test_odd_requests_to_a_redirecting_listener_are_answered(lab: Any, serve: Any, head: bytes) -> None:
    server, plain = serve(), lab.house.free_port()
    lab.up(server.url, more=f'[[listeners]]\nbind = "127.0.0.1:{plain}"\nredirect_to_https = true')
    client = lab.house.client(("127.0.0.1", plain))
    client.sock.sendall(head + b"\r\n\r\n")
    status, answer, _ = client.response()
    assert status in (308, 400, 405)
    for location in fields(answer, "Location"):
        assert location.startswith("https://")
        assert location.partition("://")[2].partition("/")[1] == "/", location
    assert server.heads == []


def test_a_redirect_never_fails_open(lab: Any, serve: Any) -> None:
    """Where TLS is spoken on a unix socket alone, there is no address to send clients to."""
    server = serve()
    lab.pair()
    more = f'[[listeners]]\nbind = "unix:{lab.folder}/s"\n{lab.listener()}'
    lab.house.write(server.url, listener="redirect_to_https = true", more=more)
    with pytest.raises(ConfigFaults, match="redirect_to_https"):
        prepare_file(lab.house.file)


# Files.


def test_a_pipe_in_place_of_a_file_holds_up_nobody(lab: Any, serve: Any) -> None:
    server = serve()
    lab.pair()
    os.mkfifo(lab.folder / "pipe")
    lab.up(server.url, listener=lab.listener())
    for more in ('client_auth = "required", client_ca = "pipe"', ""):
        pool = "" if more else 'tls = { ca = "pipe" }'
        endpoint = server.url if more else "https://127.0.0.1:9"
        lab.house.write(endpoint, listener=lab.listener(more=more), pool=pool)
        done, text = lab.house.reload()
        assert not done
        assert "pipe" in text
    assert lab.get()[0] == 200


def test_remarks_before_certificates_are_no_fault(lab: Any, secure_serve: Any) -> None:
    """Bundles of CAs begin with them, and what `openssl x509 -text` writes."""
    lab.put("remarked.pem", "\n# Issuer: Grüße\nCertificate:\n    Data:\n".encode() + lab.authority.root)
    own = lab.pair("own", "router.test")
    lab.put("own.pem", b"Certificate:\n  Data:\n" + own.chain)
    lab.put("own.key", b"Key:\n" + own.key)
    server = secure_serve(client_ca=str(lab.ca))
    lab.up(
        server.url,
        tls='client_auth = "optional", client_ca = "remarked.pem"',
        pool='tls = { ca = "remarked.pem", certificate = "own.pem", key = "own.key" }',
    )
    assert lab.get()[0] == 200
    assert server.shown == [der(own)]


def test_the_next_certificate_may_stand_beside_the_one_in_use(
    lab: Any, serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "_STEP", 0.01)
    monkeypatch.setattr(router_tls.files, "watch_files", functools.partial(watch_files, settle=0.02))
    now = lab.pair("certs/now")
    lab.pair("certs/other", "other.test")
    lab.up(serve().url, listener=lab.listener("certs"))
    lab.pair("certs/next", begins=DAY, ends=400 * DAY)
    new = lab.pair("certs/other", "other.test")
    lab.house.wait(lambda: lab.shown("other.test") == der(new))
    assert lab.shown() == der(now)
    assert lab.get()[0] == 200


# Ends.


def test_what_a_websocket_sent_arrives_though_nobody_said_goodbye(lab: Any, serve: Any) -> None:
    """Browsers close without close_notify; the frame that says so is WebSocket's own."""
    got, whole = bytearray(), b"0123456789abcdef" * 200_000
    with socket.create_server(("127.0.0.1", 0)) as listener:
        lab.up(f"http://127.0.0.1:{listener.getsockname()[1]}")
        client = lab.client()
        upgrade = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13")
        client.ask("/ws", *upgrade, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")
        conn, _ = listener.accept()
        with conn:
            conn.settimeout(_help.PATIENCE)
            conn.recv(65536)
            # RFC 6455 §1.3 has this pair.
            accept = b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"
            lines = b"Upgrade: websocket\r\nConnection: Upgrade\r\n" + accept
            conn.sendall(b"HTTP/1.1 101 Switching Protocols\r\n" + lines + b"\r\n")
            client.until(b"\r\n\r\n")

            def read() -> None:
                with contextlib.suppress(OSError):
                    while data := conn.recv(65536):
                        got.extend(data)
                        # Slower than they come, so that some of it waits in the router when the client has gone.
                        time.sleep(0.002)

            reading = threading.Thread(target=read)
            reading.start()
            client.sock.sendall(whole)
            client.sock.close()
            reading.join(_help.PATIENCE)
    assert len(got) == len(whole)
    assert got == whole


def test_a_request_whose_client_left_without_goodbye_ends(lab: Any, serve: Any) -> None:
    server = serve()
    lab.up(server.url)
    client = lab.client().ask("/slow")
    lab.house.wait(lambda: server.heads)
    client.sock.close()
    lab.house.wait(lambda: lab.house.status().pools[0].in_flight == 0, lab.house.status)
    assert lab.get()[0] == 200


# Endpoints.


@pytest.mark.parametrize("host", ["a..b", ".a", "x" * 64])
def test_hosts_that_are_no_names_do_no_harm(lab: Any, host: str) -> None:
    house = lab.house
    house.write(f"https://{host}:1", pool=CA)
    try:
        prepare_file(house.file)
    except ConfigFaults as refused:
        told = str(refused)
    else:
        told = f"{house.up().get()[0]} {host}"
        assert told[:3] in ("502", "503")
    assert host in told


def test_tls_of_a_pool_without_https_is_refused(lab: Any) -> None:
    with pytest.raises(ConfigFaults, match="https"):
        lab.up("http://127.0.0.1:9", listener="", pool=CA)


def test_a_probed_pool_goes_from_https_to_http_and_back(lab: Any, serve: Any, secure_serve: Any) -> None:
    """The old servers are asked until the new ones were probed."""
    old, new = secure_serve(name="old"), serve("new")
    probe = 'probe = { use = "http", path = "/up", interval = "100ms" }'
    house = lab.up(old.url, listener="", pool=f"{CA}\n{probe}").house
    house.write(new.url, pool=probe)
    house.takes()
    assert house.get()[0] == 200
    house.wait(lambda: house.get() == (200, b"new"))
    house.write(old.url, pool=f"{CA}\n{probe}")
    house.takes()
    assert house.get()[0] == 200
    house.wait(lambda: house.get() == (200, b"old"))


def test_another_ca_comes_with_other_servers(lab: Any, secure_serve: Any) -> None:
    ca = trustme.CA()
    lab.put("other.pem", ca.cert_pem.bytes())
    made = ca.issue_cert("127.0.0.1")

    class Pair:
        both = made.private_key_and_cert_chain_pem.bytes()

    old, new = secure_serve(name="old"), secure_serve(name="new", pair=Pair)
    probe = 'probe = { use = "http", path = "/up", interval = "100ms" }'
    house = lab.up(old.url, listener="", pool=f"{CA}\n{probe}").house
    house.write(new.url, pool=f'tls = {{ ca = "other.pem" }}\n{probe}')
    house.takes()
    answers = [house.get() for _ in range(5)]
    assert {status for status, _ in answers} == {200}
    house.wait(lambda: house.get() == (200, b"new"))


# Clients' certificates.


def test_routes_cannot_be_fooled_by_forged_subjects(lab: Any, serve: Any) -> None:
    """What is stripped from clients must not choose a route either."""
    web, admin, plain = serve("web"), serve("admin"), lab.house.free_port()
    clients = trustme.CA()
    made = clients.issue_cert(common_name="admin")
    lab.put("clients.pem", clients.cert_pem.bytes())
    lab.put("admin.pem", made.cert_chain_pems[0].bytes())
    lab.put("admin.key", made.private_key_pem.bytes())
    lab.pair()
    listener = lab.listener(more='client_auth = "optional", client_ca = "clients.pem"')
    subject = _subject(made)
    route = f'[[routes]]\npool = "admin"\nheaders = {{ "X-Client-Cert-Subject" = "{subject}" }}\n'
    pool = f'[[pools]]\nname = "admin"\nendpoints = ["{admin.url}"]\ndetectors = []\n'
    more = f'{pool}[[listeners]]\nbind = "127.0.0.1:{plain}"\n'
    lab.house.write(web.url, listener=f"{listener}\n{route}", more=more)
    try:
        prepare_file(lab.house.file)
    except ConfigFaults as refused:
        told = str(refused)
    else:
        told = ""
    if told:
        # No route at all is as good.
        assert "X-Client-Cert-Subject" in told
        return
    lab.house.up()
    forged = f"X-Client-Cert-Subject: {subject}"
    assert lab.get("/", forged)[2] == b"web"
    assert lab.house.client(("127.0.0.1", plain)).get("/", forged)[1] == b"web"
    assert lab.get("/", cert="admin")[2] == b"admin"


def _subject(made: Any) -> str:
    read = x509.load_pem_x509_certificate(made.cert_chain_pems[0].bytes())
    return read.subject.rfc4514_string().replace("\\", "\\\\")


# Handshakes.


def test_turned_away_clients_are_not_spoken_to_in_plain_text(lab: Any, serve: Any) -> None:
    lab.pair()
    lab.up(serve().url, listener=lab.listener(listener="max_connections = 2"))
    clients = [lab.client() for _ in range(2)]
    assert [client.get()[0] for client in clients] == [200] * 2
    waiting = [lab.house.client() for _ in range(3)]
    for client in waiting:
        client.sock.settimeout(3)
        client.sock.sendall(b"\x16\x03\x01")
    for client in waiting:
        try:
            answer = client.sock.recv(100)
        except (TimeoutError, ConnectionError):
            continue
        assert not answer.startswith(b"HTTP")
    assert [client.get()[0] for client in clients] == [200] * 2


def test_a_name_that_is_no_ascii_is_only_a_failed_handshake(lab: Any, serve: Any, capfd: Any) -> None:
    lab.up(serve().url)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    made = lab.context().wrap_bio(incoming, outgoing, server_hostname="xxxxxxxx.test")
    with pytest.raises(ssl.SSLWantReadError):
        made.do_handshake()
    hello = outgoing.read()
    for name in (b"\xff\xfe\x00\x01yyyy.test", b"xxxx\x00xxx.test", b"\r\nX: yyy.test"):
        client = lab.house.client()
        client.sock.sendall(hello.replace(b"xxxxxxxx.test", name))
        client.sock.shutdown(socket.SHUT_WR)
        client.rest()
    assert lab.get()[0] == 200
    assert "Traceback" not in "".join(capfd.readouterr())
