"""The store of certificates: whose certificate a client is shown, what stays over a swap, and what is refused."""

from __future__ import annotations

import os
import ssl
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography.hazmat.primitives import serialization as form
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from router import Certificate
from router.net import tls
from router.net.keypairs import read_pair
from router.net.tls import ServerObject, Store, endpoint_context, profile_context

CA = trustme.CA()
OTHER_CA = trustme.CA()
ECDSA, RSA = trustme.KeyType.ECDSA, trustme.KeyType.RSA
LATE, LATER = datetime(2990, 1, 1, tzinfo=UTC), datetime(3000, 1, 1, tzinfo=UTC)
VERSIONS = (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)
SECRET = "c2VjcmV0LXRoYXQtbXVzdC1ub3QtYmUtdG9sZA"


def issue(*names: str, kind: Any = ECDSA, ends: datetime = LATER, ca: trustme.CA = CA, **more: Any) -> Certificate:
    made = ca.issue_cert(*names, key_type=kind, not_after=ends, **more)
    chain = b"".join(each.bytes() for each in made.cert_chain_pems).decode()
    return Certificate(names, chain, made.private_key_pem.bytes().decode(), ends.timestamp())


def parts(certificate: Certificate, **other: Any) -> Certificate:
    """The same with something else in it."""
    fields = {name: getattr(certificate, name) for name in Certificate.__struct_fields__}
    return Certificate(**{**fields, **other})


def store(*certificates: Certificate, **more: Any) -> Store:
    made = Store(**more)
    made.replace(certificates)
    return made


def trusting(version: ssl.TLSVersion | None = None, ciphers: str = "") -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    CA.configure_trust(context)
    context.set_alpn_protocols(["h2", "http/1.1"])
    if version is not None:
        context.minimum_version = context.maximum_version = version
    if ciphers:
        context.set_ciphers(ciphers)
    return context


class Meeting:
    """A client and a server that shake hands in memory. Raises whatever either of them raises."""

    def __init__(
        self,
        store: Store,
        name: str | None,
        context: ssl.SSLContext | None = None,
        *,
        session: Any = None,
        local: str = "",
        now: float = 0.0,
    ) -> None:
        self.to_server, self.to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
        context = context or trusting()
        if name is None:
            context.check_hostname = False
        self.client = context.wrap_bio(self.to_client, self.to_server, server_hostname=name, session=session)
        self.server = store.wrap(self.to_server, self.to_client, local, now)
        waiting = [self.client, self.server]
        for _ in range(8):
            for each in tuple(waiting):
                try:
                    each.do_handshake()
                except ssl.SSLWantReadError:
                    continue
                waiting.remove(each)
        assert not waiting

    @property
    def shown(self) -> set[str]:
        """Names of the certificate that the client was shown."""
        names: Any = self.client.getpeercert()["subjectAltName"]  # type: ignore[index]
        return {name for _, name in names}

    @property
    def key(self) -> str:
        """Kind of the key that the client was shown."""
        cipher = self.client.cipher()
        assert cipher is not None
        return "RSA" if "-RSA-" in cipher[0] else "ECDSA"

    def session(self) -> Any:
        with pytest.raises(ssl.SSLWantReadError):
            self.client.read(1)
        return self.client.session


# Profiles


@pytest.mark.parametrize(("profile", "lowest"), [("intermediate", VERSIONS[0]), ("modern", VERSIONS[1])])
def test_a_profile_is_mozillas(profile: str, lowest: ssl.TLSVersion) -> None:
    context = profile_context(profile)
    assert context.minimum_version == lowest
    assert context.options & ssl.OP_NO_COMPRESSION
    assert context.options & ssl.OP_NO_RENEGOTIATION
    assert not context.options & ssl.OP_NO_TICKET
    assert not context.options & ssl.OP_CIPHER_SERVER_PREFERENCE
    assert context.num_tickets == 1
    older = {each["name"] for each in context.get_ciphers() if each["protocol"] == "TLSv1.2"}
    assert len(older) == 6
    assert all(name.startswith("ECDHE-") and ("GCM" in name or "POLY1305" in name) for name in older)


def test_there_is_no_other_profile() -> None:
    with pytest.raises(ValueError, match="no TLS profile 'old'; there are intermediate and modern"):
        profile_context("old")


def test_modern_leaves_1_2_out() -> None:
    certificates = (issue("a.test"),)
    assert Meeting(store(*certificates), "a.test", trusting(VERSIONS[0])).client.version() == "TLSv1.2"
    with pytest.raises(ssl.SSLError):
        Meeting(store(*certificates, profile="modern"), "a.test", trusting(VERSIONS[0]))
    assert Meeting(store(*certificates, profile="modern"), "a.test").client.version() == "TLSv1.3"


def test_http_1_1_is_agreed_on() -> None:
    assert Meeting(store(issue("a.test")), "a.test").client.selected_alpn_protocol() == "http/1.1"


# Who is shown what


@pytest.mark.parametrize(
    ("asked", "local", "default", "found"),
    [
        ("a.test", "", "refuse", "a.test"),
        ("A.TEST", "", "refuse", "a.test"),
        ("a.test.", "", "refuse", "a.test"),
        ("b.test", "", "refuse", "*.test"),
        ("c.b.test", "", "refuse", "*.b.test"),
        ("d.c.b.test", "", "refuse", None),
        ("test", "", "refuse", None),
        ("", "", "refuse", None),
        (None, "", "refuse", None),
        (None, "192.0.2.1", "refuse", "192.0.2.1"),
        (None, "::ffff:192.0.2.1", "refuse", "192.0.2.1"),
        (None, "2001:db8:0::1", "refuse", "2001:db8::1"),
        (None, "192.0.2.2", "refuse", None),
        ("192.0.2.1", "", "refuse", "192.0.2.1"),
        ("x.other", "192.0.2.1", "refuse", None),
        ("x.other", "", "a.test", "a.test"),
        ("x.other", "", "any.test", "*.test"),
        ("x.other", "", "gone.other", None),
        (None, "192.0.2.1", "a.test", "192.0.2.1"),
        (None, "192.0.2.2", "A.test", "a.test"),
        ("1.2.3.a9", "", "refuse", None),
    ],
)
def test_the_name_goes_before_the_wildcard_and_that_before_the_default(
    asked: str | None, local: str, default: str, found: str | None
) -> None:
    all_of_them = ("a.test", "*.test", "*.b.test", "192.0.2.1", "2001:db8::1")
    made = store(*(issue(name) for name in all_of_them), default=default)
    context = made.lookup(asked, local)
    if found is None:
        assert context is None
    else:
        assert context is not None
        assert context is made.lookup(found)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_client_is_shown_the_certificate_of_the_name(version: ssl.TLSVersion) -> None:
    made = store(issue("a.test", "also.test"), issue("*.b.test"))
    assert Meeting(made, "also.test", trusting(version)).shown == {"a.test", "also.test"}
    meeting = Meeting(made, "x.b.test", trusting(version))
    assert meeting.shown == {"*.b.test"}
    assert meeting.server.server_name == "x.b.test"


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", ["b.test", None])
def test_who_asks_for_an_unknown_name_is_told_so(version: ssl.TLSVersion, name: str | None) -> None:
    made = store(issue("a.test"))
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = trusting(version)
    context.check_hostname = name is not None
    client = context.wrap_bio(to_client, to_server, server_hostname=name)
    server = made.wrap(to_server, to_client, "", 0.0)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    with pytest.raises(ssl.SSLError):
        server.do_handshake()
    assert server.refused
    with pytest.raises(ssl.SSLError, match="UNRECOGNIZED_NAME"):
        client.do_handshake()


def test_no_name_will_do_for_a_certificate_of_the_address() -> None:
    assert Meeting(store(issue("127.0.0.1")), None, local="127.0.0.1").shown == {"127.0.0.1"}


def test_an_empty_store_refuses_everybody() -> None:
    with pytest.raises(ssl.SSLError):
        Meeting(store(), "a.test")


@pytest.mark.parametrize("turned", [False, True])
def test_rsa_and_ecdsa_stand_side_by_side(turned: bool) -> None:
    both = [issue("a.test", "only-ec.test"), issue("a.test", kind=RSA)]
    made = store(*(reversed(both) if turned else both))
    for kind in ("RSA", "ECDSA"):
        ciphers = f"ECDHE-{kind}-AES128-GCM-SHA256"
        assert Meeting(made, "a.test", trusting(VERSIONS[0], ciphers)).key == kind
    with pytest.raises(ssl.SSLError):
        Meeting(made, "only-ec.test", trusting(VERSIONS[0], "ECDHE-RSA-AES128-GCM-SHA256"))


@pytest.mark.parametrize("turned", [False, True])
def test_of_two_the_one_that_lasts_longer_is_shown(turned: bool) -> None:
    two = [issue("a.test", "short.test", ends=LATE), issue("a.test", "long.test", ends=LATER)]
    made = store(*(reversed(two) if turned else two))
    assert Meeting(made, "a.test").shown == {"a.test", "long.test"}
    assert Meeting(made, "short.test").shown == {"a.test", "short.test"}


# Swaps


@pytest.mark.parametrize("version", VERSIONS)
def test_a_session_goes_on_after_a_swap(version: ssl.TLSVersion) -> None:
    made, context = store(issue("a.test")), trusting(version)
    first = Meeting(made, "a.test", context)
    session = first.session() if version == VERSIONS[1] else first.client.session
    assert not first.client.session_reused
    made.replace([issue("a.test", "new.test")])
    second = Meeting(made, "a.test", context, session=session)
    assert second.client.session_reused
    assert second.server.session_reused
    assert Meeting(made, "a.test", context).shown == {"a.test", "new.test"}


def test_keys_of_tickets_change_once_a_day() -> None:
    made, context = store(issue("a.test")), trusting()
    session = Meeting(made, "a.test", context, now=50.0).session()
    day = tls._TICKET_KEYS
    assert Meeting(made, "a.test", context, session=session, now=day + 49.0).client.session_reused
    assert not Meeting(made, "a.test", context, session=session, now=day + 51.0).client.session_reused
    session = Meeting(made, "a.test", context, now=day + 52.0).session()
    assert Meeting(made, "a.test", context, session=session, now=day + 53.0).client.session_reused


def test_what_has_not_changed_is_not_made_again() -> None:
    one, two = issue("a.test"), issue("b.test")
    made = store(one, two)
    before = made.lookup("a.test")
    made.replace([one])
    assert made.lookup("a.test") is before
    assert made.lookup("b.test") is None
    assert len(made) == 1
    made.replace([issue("a.test")])
    assert made.lookup("a.test") is not before


def test_a_set_can_be_built_before_it_is_used() -> None:
    made = store(issue("a.test"))
    built = made.build([issue("b.test")])
    assert made.lookup("b.test") is None
    made.swap(built)
    assert made.lookup("a.test") is None
    assert made.lookup("b.test") is not None


# What cannot be


def broken() -> dict[str, tuple[Certificate, str]]:
    good, other = issue("a.test"), issue("b.test")
    key = form.load_pem_private_key(good.key.encode(), None)
    locked = key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.BestAvailableEncryption(b"x")).decode()
    old = key.private_bytes(
        form.Encoding.PEM, form.PrivateFormat.TraditionalOpenSSL, form.BestAvailableEncryption(b"x")
    ).decode()
    first, *_, last = good.key.splitlines()
    return {
        "another's key": (parts(good, key=other.key), "a.test: the key does not belong to the certificate"),
        "no key": (parts(good, key=good.chain), "a.test: the key is no private key in PEM form"),
        "a locked key": (parts(good, key=locked), "a.test: the key is encrypted"),
        "an old locked key": (parts(good, key=old), "a.test: the key is encrypted"),
        "half a key": (
            parts(good, key=f"{first}\n{good.key.splitlines()[1]}\n{last}\n"),
            "a.test: the certificate or the key is damaged",
        ),
        "no certificate": (parts(good, chain=good.key), "a.test: the chain holds no certificate in PEM form"),
        "half a certificate": (parts(good, chain=good.chain[:300]), "a.test: the certificate or the key is damaged"),
        "no file": (parts(good, chain="/nowhere/c.pem"), "a.test: the chain cannot be read: No such file"),
        "no path": (parts(good, key="\0" + SECRET), "a.test: the key cannot be read: no PEM text, and no path"),
        "no names": (parts(good, names=()), "a certificate without names"),
    }


@pytest.mark.parametrize("what", broken())
def test_what_is_not_usable_is_named_and_the_old_ones_stay(what: str) -> None:
    wrong, why = broken()[what]
    made = store(issue("old.test"))
    kept = made.lookup("old.test")
    with pytest.raises(ValueError) as caught:
        made.replace([issue("good.test"), wrong])
    text = str(caught.value)
    assert text.startswith(why), text
    assert "\n" not in text
    assert SECRET not in text
    assert not any(line in text for line in wrong.key.splitlines()[1:-1] if line)
    assert made.lookup("old.test") is kept
    assert made.lookup("good.test") is None


def test_all_that_is_wrong_is_told_at_once() -> None:
    mixed = [parts(issue(f"{n}.test"), key=issue("x.test").key) for n in range(3)]
    with pytest.raises(ValueError, match=r"^0.test: .*; 1.test: .*; 2.test: [^;]*$"):
        store(*mixed)


def test_one_that_another_outlasts_is_still_looked_at() -> None:
    wrong = parts(issue("a.test", ends=LATE), key=issue("x.test").key)
    with pytest.raises(ValueError, match="does not belong"):
        store(issue("a.test"), wrong)


def test_certificates_may_be_paths_and_no_descriptor_stays_open(tmp_path: Path) -> None:
    one = issue("a.test")
    (tmp_path / "chain.pem").write_text("Some words before it.\n" + one.chain)
    (tmp_path / "key.pem").write_text(one.key)
    (tmp_path / "both.pem").write_text(one.chain + one.key)
    before = len(os.listdir("/proc/self/fd"))
    made = store(parts(one, chain=str(tmp_path / "chain.pem"), key=str(tmp_path / "key.pem")))
    assert Meeting(made, "a.test").shown == {"a.test"}
    made.replace([parts(one, chain=str(tmp_path / "both.pem"), key=str(tmp_path / "both.pem"))])
    assert Meeting(made, "a.test").shown == {"a.test"}
    assert len(os.listdir("/proc/self/fd")) == before
    assert {each.name for each in tmp_path.iterdir()} == {"chain.pem", "key.pem", "both.pem"}


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        (ec.generate_private_key(ec.SECP256R1()), "ECDSA"),
        (ec.generate_private_key(ec.SECP384R1()), "ECDSA"),
        (rsa.generate_private_key(65537, 2048), "RSA"),
        (ed25519.Ed25519PrivateKey.generate(), "Ed25519"),
    ],
)
def test_the_kind_of_a_key_is_read_from_it(key: Any, kind: str) -> None:
    formats = [form.PrivateFormat.PKCS8]
    if kind != "Ed25519":
        formats.append(form.PrivateFormat.TraditionalOpenSSL)
    for each in formats:
        text = key.private_bytes(form.Encoding.PEM, each, form.NoEncryption()).decode()
        pair = read_pair(Certificate(("a.test",), issue("a.test").chain, text, 0.0))
        assert pair.kind == kind
        assert text.splitlines()[1] not in repr(pair)


def test_a_key_of_no_kind_is_left_to_openssl() -> None:
    wrong = "-----BEGIN PRIVATE KEY-----\n%%%%\n-----END PRIVATE KEY-----\n"
    assert read_pair(Certificate(("a.test",), issue("a.test").chain, wrong, 0.0)).kind == "unknown"


# Clients' certificates


def with_certificate(ca: trustme.CA) -> ssl.SSLContext:
    context = trusting()
    ca.issue_cert("me@a.test").configure_cert(context)
    return context


@pytest.mark.parametrize("client_auth", ["optional", "required"])
def test_a_clients_certificate_is_verified(client_auth: str, tmp_path: Path) -> None:
    text = OTHER_CA.cert_pem.bytes().decode()
    (tmp_path / "ca.pem").write_text("Autorité: remarks are let be\n" + text)
    for ca in (text, "A remark\n" + text, str(tmp_path / "ca.pem")):
        made = store(issue("a.test"), client_auth=client_auth, client_ca=ca)
        assert Meeting(made, "a.test", with_certificate(OTHER_CA)).server.getpeercert()
        with pytest.raises(ssl.SSLError, match="certificate verify failed"):
            Meeting(made, "a.test", with_certificate(CA))
        if client_auth == "optional":
            assert Meeting(made, "a.test").server.getpeercert(True) is None
        else:
            with pytest.raises(ssl.SSLError, match="peer did not return a certificate"):
                Meeting(made, "a.test")


def test_clients_certificates_are_not_asked_for_by_default() -> None:
    assert Meeting(store(issue("a.test")), "a.test", with_certificate(OTHER_CA)).server.getpeercert(True) is None


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"client_auth": "maybe"}, "client_auth is one of off, optional, required, not 'maybe'"),
        ({"client_auth": "required"}, "needs client_ca"),
        ({"client_auth": "required", "client_ca": "/nowhere/ca.pem"}, "client_ca '/nowhere/ca.pem': No such file"),
        ({"client_auth": "optional", "client_ca": "-----BEGIN NOTHING-----"}, "client_ca: no CA certificates"),
        ({"client_auth": "optional", "client_ca": "\0"}, "client_ca is no PEM text, and as a path: embedded null"),
        ({"profile": "old"}, "no TLS profile"),
    ],
)
def test_settings_that_cannot_be_are_refused(options: dict[str, str], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Store(**options)


def test_an_empty_file_of_authorities_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("")
    with pytest.raises(ValueError, match="client_ca: no CA certificates in PEM form"):
        Store(client_auth="required", client_ca=str(tmp_path / "ca.pem"))


# Connections to endpoints


def test_endpoints_are_verified_by_the_authorities_told() -> None:
    made = store(issue("a.test"))
    ca = CA.cert_pem.bytes().decode()
    assert Meeting(made, "a.test", endpoint_context(ca=ca)).client.selected_alpn_protocol() == "http/1.1"
    with pytest.raises(ssl.SSLCertVerificationError):
        Meeting(made, "a.test", endpoint_context(ca=OTHER_CA.cert_pem.bytes().decode()))
    with pytest.raises(ssl.SSLCertVerificationError):
        Meeting(made, "a.test", endpoint_context())
    assert Meeting(made, "a.test", endpoint_context(verify="none")).client.version() == "TLSv1.3"


def test_an_endpoint_is_shown_the_routers_certificate(tmp_path: Path) -> None:
    asks = store(issue("a.test"), client_auth="required", client_ca=OTHER_CA.cert_pem.bytes().decode())
    mine = issue("router.test", ca=OTHER_CA)
    (tmp_path / "both.pem").write_text(mine.chain + mine.key)
    ca = CA.cert_pem.bytes().decode()
    for shown in ({"certificate": mine.chain, "key": mine.key}, {"certificate": str(tmp_path / "both.pem")}):
        assert Meeting(asks, "a.test", endpoint_context(ca=ca, **shown)).server.getpeercert()


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"verify": "half"}, "verify"),
        ({"ca": "/nowhere/ca.pem"}, "ca '/nowhere/ca.pem': No such file"),
        ({"ca": "-----BEGIN x"}, "ca: no CA certificates"),
        ({"key": "x"}, "a key without its certificate"),
        ({"certificate": "/nowhere/c.pem"}, "the client certificate: the chain cannot be read"),
    ],
)
def test_what_cannot_be_told_of_endpoints_is_refused(options: dict[str, str], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        endpoint_context(**options)


def test_the_object_of_a_client_knows_where_it_came_in() -> None:
    made = store(issue("a.test")).wrap(ssl.MemoryBIO(), ssl.MemoryBIO(), "192.0.2.1", 0.0)
    assert isinstance(made, ServerObject)
    assert (made.local, made.server_name, made.refused) == ("192.0.2.1", None, False)
