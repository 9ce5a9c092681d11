"""The http probe over TLS: whom it trusts, and how it says whom not."""

from __future__ import annotations

import ssl
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from router_health.http_tls import Tls, TlsOptions

from router import Address, Endpoint, EndpointSpec
from router.testing import make_tools

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\n"


class Certificates(NamedTuple):
    folder: Path

    @property
    def ca(self) -> str:
        return str(self.folder / "ca.pem")

    def server(self, name: str) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.folder / f"{name}.pem", self.folder / "key.pem")
        return context


def openssl(folder: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True, timeout=30)


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """An authority, and three certificates of it for one key."""
    folder = tmp_path_factory.mktemp("certificates")
    openssl(folder, "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", "key.pem")
    usage = ["-addext", "keyUsage=critical,keyCertSign"]
    openssl(folder, "req", "-x509", "-key", "key.pem", "-subj", "/CN=test", "-days", "2", "-out", "ca.pem", *usage)
    openssl(folder, "req", "-new", "-key", "key.pem", "-subj", "/CN=server", "-out", "server.csr")
    for name, names, days in (
        ("good", "DNS:localhost,IP:127.0.0.1", "2"),
        ("expired", "DNS:localhost,IP:127.0.0.1", "-1"),
        ("other", "DNS:other.test", "2"),
    ):
        (folder / "extensions").write_text(f"subjectAltName={names}\nauthorityKeyIdentifier=keyid\n")
        signed = ["-CA", "ca.pem", "-CAkey", "key.pem", "-CAcreateserial", "-extfile", "extensions", "-days", days]
        openssl(folder, "x509", "-req", "-in", "server.csr", *signed, "-out", f"{name}.pem")
    return Certificates(folder)


@pytest.mark.parametrize(
    ("certificate", "tls", "failure"),
    [
        ("good", {"ca": True}, ""),
        ("good", {}, "TLS: unable to get local issuer certificate"),
        ("good", {"verify": "none"}, ""),
        ("expired", {"ca": True}, "TLS: certificate has expired"),
        ("expired", {"verify": "none"}, ""),
        ("other", {"ca": True}, "TLS: IP address mismatch, certificate is not valid for '127.0.0.1'"),
        ("other", {"ca": True, "server_name": "other.test"}, ""),
        (
            "good",
            {"ca": True, "server_name": "x.test"},
            "TLS: Hostname mismatch, certificate is not valid for 'x.test'",
        ),
        ("other", {"verify": "none"}, ""),
    ],
)
async def test_whom_it_trusts(
    bench: Any, certificates: Certificates, certificate: str, tls: dict[str, Any], failure: str
) -> None:
    server = await bench.serve(OK, tls=certificates.server(certificate))
    options = {key: certificates.ca if value is True else value for key, value in tls.items()}
    if failure:
        assert await bench.failure(server.endpoint, tls=options, body="ok") == failure
    else:
        await bench.passes(server.endpoint, tls=options, body="ok")


async def test_the_server_hears_the_name_and_the_protocol(bench: Any, certificates: Certificates) -> None:
    context, names = certificates.server("other"), []
    context.sni_callback = lambda _, name, __: names.append(name)
    context.set_alpn_protocols(["h2", "http/1.1"])
    server = await bench.serve(OK, tls=context)
    await bench.passes(server.endpoint, tls={"ca": certificates.ca, "server_name": "other.test"}, host="shop.test")
    assert names == ["other.test"]
    assert server.calls[0].writer.get_extra_info("ssl_object").selected_alpn_protocol() == "http/1.1"
    assert b"\r\nHost: shop.test\r\n" in server.requests[0]


async def test_it_can_be_switched_on_and_off(bench: Any, certificates: Certificates, tmp_path: Path) -> None:
    tls = certificates.server("good")
    secure, plain = await bench.serve(OK, tls=tls), await bench.serve(OK)
    http = Endpoint(EndpointSpec(secure.url.replace("https:", "http:")))
    await bench.passes(http, tls={"enabled": True, "ca": certificates.ca})
    https = Endpoint(EndpointSpec(plain.url.replace("http:", "https:")))
    await bench.passes(https, tls={"enabled": False})
    unix = await bench.serve(OK, tls=tls, at=tmp_path / "s")
    await bench.passes(unix.endpoint, tls={"enabled": True, "ca": certificates.ca})


async def test_tls_where_there_is_none_and_the_other_way_round(bench: Any, certificates: Certificates) -> None:
    plain = await bench.serve(b"HTTP/1.1 400 Bad Request\r\n\r\n", asks=False, then="wait")
    assert (await bench.failure(plain.endpoint, tls={"enabled": True, "verify": "none"})).startswith("TLS: ")
    closing = await bench.serve(asks=False)
    text = await bench.failure(closing.endpoint, tls={"enabled": True, "verify": "none"})
    assert text == "TLS: connection lost in the handshake"
    resetting = await bench.serve(0.01, asks=False, then="reset")
    text = await bench.failure(resetting.endpoint, tls={"enabled": True, "verify": "none"})
    assert text == "TLS: connection lost in the handshake"
    assert await bench.failure(bench.refusing(), tls={"enabled": True, "verify": "none"}) == "connect refused"


async def test_a_server_that_wants_a_certificate_says_so(bench: Any, certificates: Certificates) -> None:
    context = certificates.server("good")
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(certificates.ca)
    server = await bench.serve(OK, tls=context)
    text = await bench.failure(server.endpoint, tls={"ca": certificates.ca})
    assert "certificate required" in text or "reset" in text or "closed" in text
    bench.errors.clear()  # the server's loop hears of it


@pytest.mark.parametrize("ready", [True, False])
async def test_a_cancelled_check_leaves_no_socket(bench: Any, certificates: Certificates, ready: bool) -> None:
    """Cancelled within the handshake, and after it."""
    tls = certificates.server("good") if ready else None
    server = await bench.serve(then="wait", tls=tls, asks=ready, script=None)
    options = {"enabled": True, "ca": certificates.ca}
    holds = (lambda: any(server.requests)) if ready else (lambda: server.open)
    await bench.cancelled(server.endpoint, holds, tls=options)
    await bench.eventually(lambda: server.open == 0)


async def test_a_body_over_tls_that_ends_with_the_connection(bench: Any, certificates: Certificates) -> None:
    server = await bench.serve(b"HTTP/1.1 200 OK\r\n\r\nall is ", 0.01, b"ok", tls=certificates.server("good"))
    await bench.passes(server.endpoint, tls={"ca": certificates.ca}, body="is ok")


def test_the_system_s_authorities_are_read_when_needed_and_once() -> None:
    tls = Tls(TlsOptions(), make_tools())
    assert tls.context(Address("http", "h", 80)) is None
    made = tls.context(Address("https", "h", 443))
    assert made is not None
    assert tls.context(Address("https", "i", 443)) is made
    assert (made.verify_mode, made.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert Tls(TlsOptions(enabled=True), make_tools()).context(Address("unix", "", 0, "/s")) is not None
