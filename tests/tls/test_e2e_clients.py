"""Who a client is by its certificate, where clients without TLS are sent, and what browsers are told of https."""

from __future__ import annotations

import hashlib
import importlib.util
import ssl
import subprocess
import sys
from datetime import UTC, datetime, timedelta
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
SUBJECT, FINGERPRINT = "X-Client-Cert-Subject", "X-Client-Cert-Fingerprint"
BOTH = (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)
#: What a client might write so that a server takes it for the router's word.
FORGED = (
    "X-Client-Cert-Subject: CN=root",
    "x-client-cert-fingerprint: 00",
    "X_Client_Cert_Subject: CN=root",
    "X-Client_Cert-Fingerprint: 00",
    "x_client-cert_subject: CN=root",
    "X-CLIENT-CERT-SUBJECT:CN=root",
)


def told(head: bytes) -> list[str]:
    """All that a server may take for what a certificate says."""
    lines = head.decode("latin-1").split("\r\n")[1:]
    return [line for line in lines if line.lower().replace("_", "-").startswith("x-client-cert")]


@pytest.fixture
def server(serve: Any) -> Any:
    return serve()


class Clients:
    """An authority of clients."""

    def __init__(self, lab: Any) -> None:
        self.lab = lab
        self.ca = trustme.CA()
        lab.put("clients.pem", self.ca.cert_pem.bytes())
        self.der = self.issue("alice")

    def issue(self, name: str, ca: Any = None, **more: Any) -> bytes:
        made = (ca or self.ca).issue_cert(common_name=name, organization_name="Example, Inc.", **more)
        self.lab.put(f"{name}.pem", b"".join(each.bytes() for each in made.cert_chain_pems))
        self.lab.put(f"{name}.key", made.private_key_pem.bytes())
        return ssl.PEM_cert_to_DER_cert(made.cert_chain_pems[0].bytes().decode())


@pytest.fixture
def clients(lab: Any) -> Clients:
    return Clients(lab)


def auth(kind: str) -> str:
    return f'client_auth = "{kind}", client_ca = "clients.pem"'


@pytest.mark.parametrize("version", BOTH)
@pytest.mark.parametrize("kind", ["optional", "required"])
def test_the_server_learns_who_the_client_is(lab: Any, server: Any, clients: Clients, kind: str, version: Any) -> None:
    lab.up(server.url, tls=auth(kind))
    assert lab.get("/", *FORGED, cert="alice", high=version)[0] == 200
    (subject,) = fields(server.heads[-1], SUBJECT)
    assert "CN=alice" in subject
    assert "Example\\, Inc." in subject
    assert fields(server.heads[-1], FINGERPRINT) == [hashlib.sha256(clients.der).hexdigest()]
    assert len(told(server.heads[-1])) == 2


@pytest.mark.parametrize("version", BOTH)
def test_a_resumed_session_is_still_the_clients(lab: Any, server: Any, clients: Clients, version: Any) -> None:
    lab.up(server.url, tls=auth("required"))
    context = lab.context(cert="alice", high=version)
    first = lab.client(context=context)
    first.get()
    again = lab.client(context=context, session=first.sock.session)
    assert again.sock.session_reused
    again.get("/", *FORGED)
    assert fields(server.heads[-1], FINGERPRINT) == [hashlib.sha256(clients.der).hexdigest()]
    assert told(server.heads[0]) == told(server.heads[1])


def test_every_request_of_a_connection_says_so_in_any_form(lab: Any, server: Any, clients: Clients) -> None:
    lab.up(server.url, tls=auth("optional"))
    client = lab.client(cert="alice")
    forms = [("/",), ("/", "X-Odd: \xe4"), ("/", "Cookie: a=b"), ("/", "Connection: x-client-cert-subject, keep-alive")]
    for path, *lines in forms:
        client.get(path, *lines, *FORGED)
    client.sock.sendall(f"GET https://{NAME}/ HTTP/1.1\r\nHost: {NAME}\r\n{FORGED[0]}\r\n\r\n".encode())
    client.response()
    assert len(server.heads) >= 4
    for head in server.heads:
        assert len(told(head)) == 2, head
        assert "CN=alice" in fields(head, SUBJECT)[0]


@pytest.mark.parametrize("trusted", ["", 'trusted_proxies = ["127.0.0.0/8"]'])
def test_no_client_vouches_for_itself(lab: Any, server: Any, clients: Clients, trusted: str) -> None:
    plain = lab.house.free_port()
    more = f'[[listeners]]\nbind = "127.0.0.1:{plain}"'
    lab.up(server.url, tls=auth("optional"), server=trusted, more=more)
    assert lab.get("/", *FORGED)[0] == 200
    lab.house.client(("127.0.0.1", plain)).get("/", *FORGED)
    assert len(server.heads) == 2
    if not trusted:
        assert [told(head) for head in server.heads] == [[], []]
    else:
        # Over TLS the router knows better than anybody whether there was a certificate.
        assert told(server.heads[0]) == []


def test_client_auth_off_asks_nobody(lab: Any, server: Any, clients: Clients) -> None:
    lab.up(server.url)
    assert lab.get("/", *FORGED, cert="alice")[0] == 200
    assert told(server.heads[-1]) == []


@pytest.mark.parametrize("version", BOTH)
def test_required_refuses_clients_without_a_certificate(lab: Any, server: Any, clients: Clients, version: Any) -> None:
    lab.up(server.url, tls=auth("required"))
    lab.refused(high=version)
    assert lab.get(cert="alice")[0] == 200
    assert len(server.heads) == 1


@pytest.mark.parametrize("kind", ["optional", "required"])
@pytest.mark.parametrize("version", BOTH)
def test_certificates_of_strangers_are_refused(
    lab: Any, server: Any, clients: Clients, kind: str, version: Any
) -> None:
    clients.issue("mallory", trustme.CA())
    lab.up(server.url, tls=auth(kind))
    lab.refused(cert="mallory", high=version)
    assert server.heads == []


def test_an_expired_client_certificate_is_refused(lab: Any, server: Any, clients: Clients) -> None:
    past = datetime.now(UTC) - timedelta(days=1)
    clients.issue("late", not_after=past)
    lab.up(server.url, tls=auth("optional"))
    lab.refused(cert="late")
    assert server.heads == []


def test_subjects_cannot_begin_a_field_of_their_own(lab: Any, server: Any, clients: Clients) -> None:
    name = "eve\r\nX-Admin: yes"
    made = clients.ca.issue_cert(common_name=name)
    lab.put("eve.pem", b"".join(each.bytes() for each in made.cert_chain_pems))
    lab.put("eve.key", made.private_key_pem.bytes())
    lab.up(server.url, tls=auth("required"))
    assert lab.get(cert="eve")[0] == 200
    assert fields(server.heads[-1], "X-Admin") == []
    assert len(fields(server.heads[-1], SUBJECT)) == 1


def test_openssl_shows_a_certificate(lab: Any, server: Any, clients: Clients) -> None:
    lab.up(server.url, tls=auth("required"))
    own = ["-cert", str(lab.folder / "alice.pem"), "-key", str(lab.folder / "alice.key")]
    to = ["-connect", f"127.0.0.1:{lab.port}", "-servername", NAME, "-CAfile", str(lab.ca), "-ign_eof"]
    done = subprocess.run(
        ["openssl", "s_client", *to, *own],
        input=f"GET /echo HTTP/1.1\r\nHost: {NAME}\r\nConnection: close\r\n\r\n".encode(),
        capture_output=True,
        timeout=15,
        check=False,
    )
    assert hashlib.sha256(clients.der).hexdigest().encode() in done.stdout, done.stderr


def test_both_directions_of_a_websocket_know_the_client(lab: Any, server: Any, clients: Clients) -> None:
    lab.up(server.url, tls=auth("required"))
    assert lab.client(cert="alice").switch().echo() == b"ping!"
    assert "CN=alice" in fields(server.heads[-1], SUBJECT)[0]


# Redirects.


@pytest.fixture
def doors(lab: Any, server: Any) -> Any:
    """A plain listener that sends clients to the one with TLS; `lab.plain` is its port."""
    lab.plain = lab.house.free_port()
    lab.up(server.url, more=f'[[listeners]]\nbind = "127.0.0.1:{lab.plain}"\nredirect_to_https = true')
    return lab


def raw(lab: Any, data: bytes) -> tuple[int, bytes, bytes]:
    client = lab.house.client(("127.0.0.1", lab.plain))
    client.sock.sendall(data)
    found: tuple[int, bytes, bytes] = client.response()
    return found


@pytest.mark.parametrize(
    ("host", "target"),
    [
        ("www.example.test", "/"),
        ("www.example.test:80", "/a%2Fb//c/../d;x?q=%20+&%7e&a=b=c?"),
        ("www.example.test:8080", "/?"),
        ("[::1]:80", "/v6"),
        ("10.1.2.3", "/~'!$&()*+,=:@;-._"),
    ],
)
def test_plain_clients_are_sent_to_https(doors: Any, server: Any, host: str, target: str) -> None:
    status, head, _ = raw(doors, f"GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode("latin-1"))
    bare = host.rpartition(":")[0] if host.endswith(("80", "8080")) else host
    assert status == 308
    assert fields(head, "Location") == [f"https://{bare}:{doors.port}{target}"]
    assert server.heads == []


def test_every_method_is_sent_on(doors: Any, server: Any) -> None:
    for method in (b"POST", b"PUT", b"DELETE", b"OPTIONS"):
        status, head, _ = raw(doors, method + b" /x HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc")
        assert (status, fields(head, "Location")) == (308, [f"https://a:{doors.port}/x"])
    assert server.heads == []


def test_head_gets_no_body_and_the_connection_goes_on(doors: Any) -> None:
    client = doors.house.client(("127.0.0.1", doors.plain))
    client.sock.sendall(b"HEAD /x HTTP/1.1\r\nHost: a\r\n\r\n")
    assert b" 308 " in client.until(b"\r\n\r\n")
    assert client.get("/y")[0] == 308


def test_the_standard_port_is_left_out(doors: Any) -> None:
    secure = next(each for each in doors.house.serving.listening if each.secure is not None)
    plain = next(each for each in doors.house.serving.listening if each.secure is None)
    assert plain.redirect == secure.port
    # As on a machine where 443 may be bound.
    doors.house.do(lambda: setattr(plain, "redirect", 443))
    _, head, _ = raw(doors, b"GET /x?y HTTP/1.1\r\nHost: a:80\r\n\r\n")
    assert fields(head, "Location") == ["https://a/x?y"]


@pytest.mark.parametrize("target", ["https://evil.test/x", "http://other.test/x", "//evil.test/x", "/\\evil.test"])
def test_odd_targets_lead_nowhere_else(doors: Any, target: str) -> None:
    status, head, _ = raw(doors, f"GET {target} HTTP/1.1\r\nHost: a.test\r\n\r\n".encode())
    where = fields(head, "Location")
    if status == 308:
        (location,) = where
        host = "other.test" if target.startswith("http://other") else "a.test"
        assert location.startswith(f"https://{host}:{doors.port}/")
    else:
        assert status in (400, 421)
        assert where == []


@pytest.mark.parametrize("host", ["a.test\x0b", "a b", "a/b", "user@a.test", "a.test\r\nX: y", "", 'a"b', "a\xe4"])
def test_odd_hosts_do_not_reach_the_location(doors: Any, host: str) -> None:
    status, head, _ = raw(doors, f"GET /x HTTP/1.1\r\nHost: {host}\r\n\r\n".encode("latin-1"))
    if status == 308:
        (location,) = fields(head, "Location")
        assert location in (f"https://a.test:{doors.port}/x", f"https://localhost:{doors.port}/x")
    else:
        assert (status, fields(head, "Location")) == (400, [])


def test_challenges_of_acme_are_answered_before_the_redirect(doors: Any, server: Any) -> None:
    path = "/.well-known/acme-challenge/dG9rZW4"
    doors.house.do(lambda: doors.house.serving.runtime.challenges.update({path: b"dG9rZW4.thumb"}))
    assert raw(doors, f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())[::2] == (200, b"dG9rZW4.thumb")
    # What is no challenge of ours is a request like all others.
    assert raw(doors, f"GET {path}x HTTP/1.1\r\nHost: a\r\n\r\n".encode())[0] == 308
    assert doors.get(path)[0] == 200
    assert server.paths == [path]


def test_the_health_of_the_router_is_no_redirect(lab: Any, server: Any) -> None:
    plain = lab.house.free_port()
    more = f'[[listeners]]\nbind = "127.0.0.1:{plain}"\nredirect_to_https = true'
    lab.up(server.url, more=more, server='health_path = "/-/health"')
    assert lab.house.get("/-/health", plain)[0] == 200
    assert lab.get("/-/health")[0] == 200


def test_redirects_come_and_go_with_a_reload(doors: Any, server: Any) -> None:
    more = f'[[listeners]]\nbind = "127.0.0.1:{doors.plain}"\n'
    kept = doors.house.client(("127.0.0.1", doors.plain))
    assert kept.get()[0] == 308
    doors.house.write(server.url, listener=doors.listener(), more=more)
    doors.house.takes()
    assert kept.get()[0] == 200
    doors.house.write(server.url, listener=doors.listener(), more=f"{more}redirect_to_https = true")
    doors.house.takes()
    assert kept.get()[0] == 308


# HSTS.

HSTS = "max-age=31536000; includeSubDomains"


@pytest.fixture
def strict(lab: Any, server: Any) -> Any:
    lab.pair()
    plain = lab.plain = lab.house.free_port()
    listener = lab.listener(listener=f'hsts = "{HSTS}"')
    more = (
        f'[[listeners]]\nbind = "127.0.0.1:{plain}"\n'
        '[[pools]]\nname = "down"\nendpoints = ["http://127.0.0.1:1"]\ndetectors = []\n'
    )
    old = '[[routes]]\npath = "/old"\nanswer = { redirect = "/new" }\n'
    gone = '[[routes]]\npath = "/gone"\nanswer = { status = 410, body = "gone" }\n'
    down = '[[routes]]\npath = "/down"\npool = "down"\n'
    lab.up(server.url, listener=f"{listener}\n{old}{gone}{down}", more=more)
    return lab


@pytest.mark.parametrize(
    ("path", "statuses"), [("/", {200}), ("/old", {301, 302, 307, 308}), ("/down", {502, 503}), ("/gone", {410})]
)
def test_hsts_is_on_whatever_is_answered(strict: Any, path: str, statuses: set[int]) -> None:
    status, head, _ = strict.get(path)
    assert status in statuses
    assert fields(head, "Strict-Transport-Security") == [HSTS]


@pytest.mark.parametrize(
    "data", [b"GET / HTTP/1.1\r\n\r\n", b"nonsense\r\n\r\n", b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n"]
)
def test_hsts_is_on_refusals(strict: Any, data: bytes) -> None:
    client = strict.client()
    client.sock.sendall(data)
    status, head, _ = client.response()
    assert (status, fields(head, "Strict-Transport-Security")) == (400, [HSTS])


def test_hsts_stands_once_though_the_server_has_its_own(lab: Any, secure_serve: Any) -> None:
    """RFC 6797 §7.1: no more than one field; §8.1: browsers heed the first alone."""
    lab.pair()
    listener = lab.listener(listener=f'hsts = "{HSTS}"')
    lab.up(secure_serve().url, listener=listener, pool='tls = { ca = "ca.pem" }')
    _, head, _ = lab.get("/strict")
    assert fields(head, "Strict-Transport-Security") == [HSTS]


def test_hsts_stands_once_though_a_filter_has_its_own(lab: Any, server: Any, house: Any) -> None:
    name = house.plugins(
        "class Says:\n    def __init__(self, options, tools): pass\n    def on_request(self, exchange): pass\n"
        "    def on_response(self, exchange, headers):\n"
        '        headers.append((b"Strict-Transport-Security", b"max-age=0"))\n'
    )
    lab.pair()
    listener = lab.listener(listener=f'hsts = "{HSTS}"')
    lab.up(server.url, listener=listener, route=f'filters = ["{name}:Says"]')
    assert fields(lab.get()[1], "Strict-Transport-Security") == [HSTS]


def test_hsts_is_never_on_plain_http(strict: Any) -> None:
    for path in ("/", "/old", "/down"):
        client = strict.house.client(("127.0.0.1", strict.plain))
        _, head, _ = client.ask(path).response()
        assert fields(head, "Strict-Transport-Security") == []


def test_hsts_is_on_a_switch_and_on_http_1_0(strict: Any) -> None:
    client = strict.client()
    fields_ = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13")
    client.ask("/ws", *fields_, "Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==")
    assert fields(client.until(b"\r\n\r\n"), "Strict-Transport-Security") == [HSTS]
    client = strict.client()
    client.sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
    assert fields(client.until(b"\r\n\r\n"), "Strict-Transport-Security") == [HSTS]


def test_no_hsts_unless_asked_for(lab: Any, server: Any) -> None:
    lab.up(server.url)
    assert fields(lab.get()[1], "Strict-Transport-Security") == []
