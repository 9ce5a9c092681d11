"""TLS end to end: a router with certificates from files, met by curl, httpx, openssl and Python's own TLS."""

from __future__ import annotations

import importlib.util
import shutil
import socket
import ssl
import subprocess
import sys
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
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
V1_1, V1_2, V1_3 = ssl.TLSVersion.TLSv1_1, ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3


def curl(lab: Any, *arguments: str, host: str = NAME) -> Any:
    """Runs curl against https://`host`, which is the router's address."""
    program = shutil.which("curl") or pytest.skip("there is no curl")
    where = f"{host}:{lab.port}:127.0.0.1"
    command = [program, "-sS", "--noproxy", "*", "--max-time", "10", "--cacert", str(lab.ca), "--resolve", where]
    url = f"https://{host}:{lab.port}"
    return subprocess.run(
        [*command, *(each.replace("URL", url) for each in arguments)], capture_output=True, check=False, timeout=15
    )


def s_client(lab: Any, *arguments: str, name: str = NAME, send: bytes = b"") -> str:
    """What `openssl s_client` says."""
    program = shutil.which("openssl") or pytest.skip("there is no openssl")
    to = ["-connect", f"127.0.0.1:{lab.port}", "-CAfile", str(lab.ca), *(["-servername", name] if name else [])]
    # It would end at the end of what it is to send, so that gets its answer by closing.
    more = ["-ign_eof"] if send else []
    done = subprocess.run(
        [program, "s_client", *to, *more, *arguments], input=send, capture_output=True, check=False, timeout=15
    )
    return (done.stdout + done.stderr).decode("utf-8", "replace")


# Clients.


def test_curl_gets_an_answer_over_https(lab: Any, serve: Any) -> None:
    lab.up(serve("one").url)
    done = curl(lab, "-w", "%{http_code} %{ssl_verify_result} %{http_version}", "URL/")
    assert (done.stdout, done.returncode) == (b"one200 0 1.1", 0), done.stderr


def test_curl_does_not_trust_a_certificate_of_nobody(lab: Any, serve: Any) -> None:
    lab.up(serve().url)
    lab.put("ca.pem", trustme.CA().cert_pem.bytes())
    done = curl(lab, "URL/")
    assert done.returncode == 60, done.stderr


def test_curl_uploads_over_https(lab: Any, secure_serve: Any) -> None:
    body = b"0123456789abcdef" * 50_000
    lab.put("body", body)
    server = secure_serve()
    lab.up(server.url, pool='tls = { ca = "ca.pem" }')
    done = curl(lab, "--data-binary", f"@{lab.folder}/body", "-H", "Expect: 100-continue", "URL/body")
    assert (done.returncode, done.stdout == body, server.bodies == [body]) == (0, True, True), done.stderr


def test_httpx_keeps_one_connection(lab: Any, serve: Any) -> None:
    server = serve("one")
    lab.pair("www", "localhost")
    lab.up(server.url)
    with httpx.Client(verify=lab.context(), trust_env=False) as client:
        answers = [client.get(f"https://localhost:{lab.port}/{number}") for number in range(3)]
        assert [each.text for each in answers] == ["one"] * 3
        assert lab.house.status().listeners[0].connections == 1
    assert server.paths == ["/0", "/1", "/2"]


def test_openssl_verifies_the_chain_and_gets_an_answer(lab: Any, serve: Any) -> None:
    lab.up(serve("one").url)
    request = f"GET / HTTP/1.1\r\nHost: {NAME}\r\nConnection: close\r\n\r\n".encode()
    said = s_client(lab, "-verify_hostname", NAME, "-verify_return_error", send=request)
    assert "Verification: OK" in said
    assert "HTTP/1.1 200 OK" in said
    assert "\r\n\r\none" in said


def test_bodies_of_a_mebibyte_come_whole(lab: Any, secure_serve: Any) -> None:
    lab.up(secure_serve().url, pool='tls = { ca = "ca.pem" }')
    status, _, body = lab.get("/large")
    assert status == 200
    assert body == b"0123456789abcdef" * 65536


def test_the_server_is_told_of_https(lab: Any, serve: Any) -> None:
    server = serve()
    lab.up(server.url)
    lab.get("/", "X-Forwarded-Proto: http", "X-Forwarded-Proto: gopher")
    assert fields(server.heads[-1], "X-Forwarded-Proto") == ["https"]
    assert fields(server.heads[-1], "Host") == ["test.example"]


def test_cookies_of_the_router_are_for_tls_alone(lab: Any, serve: Any) -> None:
    plain = lab.house.free_port()
    lab.up(serve().url, more=f'[[listeners]]\nbind = "127.0.0.1:{plain}"', pool='affinity = "cookie"')
    secure = fields(lab.get()[1], "Set-Cookie")
    client = lab.house.client(("127.0.0.1", plain))
    bare = fields(client.ask().response()[1], "Set-Cookie")
    assert ["secure" in each.lower().split("; ") for each in (*secure, *bare)] == [True, False]


def test_a_target_with_https_is_no_misdirection(lab: Any, serve: Any) -> None:
    server = serve()
    lab.up(server.url)
    client = lab.client()
    client.sock.sendall(f"GET https://{NAME}/whole?q HTTP/1.1\r\nHost: {NAME}\r\n\r\n".encode())
    assert client.response()[0] == 200
    assert server.paths == ["/whole?q"]


# Names.


@pytest.fixture
def named(lab: Any, serve: Any) -> Any:
    """Certificates for an exact name, for wildcards, and one for an address; `lab.made` has them by their file."""
    lab.made = {
        "exact": lab.pair("certs/exact", "www.example.test"),
        "wild": lab.pair("certs/wild", "*.example.test", "example.test"),
        "other": lab.pair("certs/other", "*.other.test", "fallback.test"),
        "address": lab.pair("certs/address", "127.0.0.1"),
    }
    lab.serve = serve
    return lab


def who(lab: Any, name: str | None) -> str:
    """The file of the certificate that is shown for a name."""
    shown = lab.shown(name)
    return next(key for key, pair in lab.made.items() if der(pair) == shown)


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("www.example.test", "exact"),
        ("WWW.Example.TEST", "exact"),
        ("shop.example.test", "wild"),
        ("example.test", "wild"),
        ("a.other.test", "other"),
        (None, "address"),
    ],
)
def test_the_name_chooses_the_certificate(named: Any, name: str, file: str) -> None:
    named.up(named.serve().url, listener=named.listener("certs"))
    assert who(named, name) == file


@pytest.mark.parametrize("name", ["stranger.test", "a.b.example.test", "other.test", "example.test.stranger"])
def test_unknown_names_are_refused_with_an_alert(named: Any, name: str) -> None:
    named.up(named.serve().url, listener=named.listener("certs"))
    assert "unrecognized" in named.refused(name).lower().replace("_", " ")
    assert named.get(name="www.example.test")[0] == 200


@pytest.mark.parametrize("name", ["stranger.test", "a.b.example.test"])
def test_unknown_names_get_the_default(named: Any, name: str) -> None:
    named.up(named.serve().url, listener=named.listener("certs", more='default = "fallback.test"'))
    assert who(named, name) == "other"
    assert who(named, "shop.example.test") == "wild"


def test_no_name_is_refused_without_a_certificate_for_the_address(lab: Any, serve: Any) -> None:
    lab.up(serve().url)
    said = lab.refused(None, _unchecked(lab))
    assert "unrecognized" in said.lower().replace("_", " ")
    assert s_client(lab, "-noservername", name="").count("unrecognized name") > 0


def _unchecked(lab: Any) -> Any:
    context = lab.context()
    context.check_hostname = False
    return context


def test_no_name_gets_the_default(lab: Any, serve: Any) -> None:
    made = lab.pair()
    lab.up(serve().url, tls=f'default = "{NAME}"')
    assert lab.shown(None) == der(made)


def test_names_come_from_all_sources(lab: Any, serve: Any) -> None:
    one, two = lab.pair("one", "one.test"), lab.pair("two", "two.test")
    sources = '[{ use = "files", paths = ["one.pem"] }, { use = "files", paths = ["two.pem"] }]'
    lab.up(serve().url, listener=f"tls = {{ certificates = {sources} }}")
    assert (lab.shown("one.test"), lab.shown("two.test")) == (der(one), der(two))


# Two kinds of keys.


def test_rsa_and_ecdsa_stand_side_by_side(lab: Any, serve: Any) -> None:
    ecdsa = lab.pair("certs/ecdsa")
    rsa = lab.pair("certs/rsa", key_type=trustme.KeyType.RSA)
    lab.up(serve().url, listener=lab.listener("certs"))
    assert lab.shown() == der(ecdsa)
    context = _unchecked(lab)
    context.maximum_version = V1_2
    context.set_ciphers("ECDHE+aRSA")
    assert lab.client(context=context).sock.getpeercert(True) == der(rsa)
    context.set_ciphers("ECDHE+aECDSA")
    assert lab.client(context=context).sock.getpeercert(True) == der(ecdsa)
    said = s_client(lab, "-sigalgs", "rsa_pss_rsae_sha256", "-tls1_3")
    assert "Verification: OK" in said
    assert "rsa" in said.partition("Peer signature type:")[2].splitlines()[0].lower()


# Profiles and ALPN.


@pytest.mark.parametrize(
    ("profile", "version", "taken"),
    [("intermediate", V1_2, True), ("intermediate", V1_3, True), ("modern", V1_2, False), ("modern", V1_3, True)],
)
def test_profiles_bound_the_version(lab: Any, serve: Any, profile: str, version: Any, taken: bool) -> None:
    lab.up(serve().url, tls=f'profile = "{profile}"')
    if taken:
        assert lab.client(low=version, high=version).get()[0] == 200
    else:
        assert "version" in lab.refused(low=version, high=version).lower()


@pytest.mark.parametrize("profile", ["intermediate", "modern"])
def test_tls_1_1_is_refused_always(lab: Any, serve: Any, profile: str) -> None:
    lab.up(serve().url, tls=f'profile = "{profile}"')
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context = lab.context(low=V1_1, high=V1_1)
        # This client is willing: at OpenSSL's usual level it would not even ask.
        context.set_ciphers("ALL:@SECLEVEL=0")
        assert "version" in lab.refused(context=context).lower()


@pytest.mark.parametrize("cipher", ["AES128-GCM-SHA256", "ECDHE-ECDSA-AES128-SHA", "ECDHE-ECDSA-AES256-SHA384"])
def test_weak_ciphers_of_tls_1_2_are_refused(lab: Any, serve: Any, cipher: str) -> None:
    lab.up(serve().url)
    context = lab.context(high=V1_2)
    context.set_ciphers(cipher)
    assert "handshake failure" in lab.refused(context=context).lower().replace("_", " ")


@pytest.mark.parametrize("version", [V1_2, V1_3])
def test_alpn_is_http_1_1(lab: Any, serve: Any, version: Any) -> None:
    lab.up(serve().url)
    client = lab.client(alpn=("h2", "http/1.1"), high=version)
    assert client.sock.selected_alpn_protocol() == "http/1.1"
    assert client.get()[0] == 200
    assert lab.client(high=version).sock.selected_alpn_protocol() is None


# Sessions.


def session_of(client: Any, path: str = "/") -> Any:
    """The session of a connection, which in TLS 1.3 comes with the first answer."""
    assert client.get(path)[0] == 200
    return client.sock.session


@pytest.mark.parametrize("version", [V1_2, V1_3])
def test_sessions_are_resumed(lab: Any, serve: Any, version: Any) -> None:
    lab.up(serve().url)
    context = lab.context(high=version)
    session = session_of(lab.client(context=context))
    again = lab.client(context=context, session=session)
    assert again.sock.session_reused
    assert again.sock.version() == ("TLSv1.3" if version is V1_3 else "TLSv1.2")
    # And so on: each connection gets a session of its own.
    assert lab.client(context=context, session=session_of(again)).sock.session_reused


def test_openssl_resumes_five_times(lab: Any, serve: Any) -> None:
    lab.up(serve().url)
    assert s_client(lab, "-reconnect", "-tls1_2").count("Reused, TLSv1.2") == 5


@pytest.mark.parametrize("version", [V1_2, V1_3])
def test_sessions_outlive_certificates_and_reloads(lab: Any, serve: Any, version: Any) -> None:
    server = serve()
    lab.up(server.url)
    context = lab.context(high=version)
    session = session_of(lab.client(context=context))
    new = lab.pair()
    lab.house.wait(lambda: lab.shown() == der(new))
    again = lab.client(context=context, session=session)
    assert again.sock.session_reused
    session = session_of(again)
    lab.house.write(server.url, listener=lab.listener(), pool='affinity = "cookie"')
    lab.house.takes()
    assert lab.client(context=context, session=session).sock.session_reused
    assert lab.house.status().config.version == 2


def test_a_session_of_one_profile_is_not_taken_up_by_another(lab: Any, serve: Any) -> None:
    server = serve()
    lab.up(server.url)
    context = lab.context(high=V1_2)
    session = session_of(lab.client(context=context))
    lab.house.write(server.url, listener=lab.listener(more='profile = "modern"'))
    lab.house.takes()
    assert "version" in lab.refused(context=context, session=session).lower()


# Listeners beside one another.


def test_a_listener_with_tls_and_one_without(lab: Any, serve: Any) -> None:
    server = serve()
    plain = lab.house.free_port()
    lab.up(server.url, more=f'[[listeners]]\nbind = "127.0.0.1:{plain}"')
    assert lab.house.get(port=plain) == (200, b"ok")
    assert lab.get()[::2] == (200, b"ok")
    assert [fields(head, "X-Forwarded-Proto") for head in server.heads] == [["http"], ["https"]]


def test_tls_over_a_unix_socket(lab: Any, serve: Any) -> None:
    server, path = serve(), lab.folder / "tls.sock"
    lab.pair()
    lab.up(server.url, listener="", more=f'[[listeners]]\nbind = "unix:{path}"\n{lab.listener()}')
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(_help.PATIENCE)
        sock.connect(str(path))
        with lab.context().wrap_socket(sock, server_hostname=NAME) as secure:
            secure.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            assert secure.recv(12) == b"HTTP/1.1 200"
    assert fields(server.heads[-1], "X-Forwarded-Proto") == ["https"]
