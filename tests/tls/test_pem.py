"""PEM texts: what makes a certificate, what is refused, and that a refusal names the place and never quotes it."""

from __future__ import annotations

import datetime
import ssl
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    pkcs12,
)
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st
from router_tls.pem import (
    CertificateError,
    is_authority,
    key_of_certificate,
    key_of_private,
    make_certificate,
    read_pem,
)

HOUR = 3600.0
PLAIN = NoEncryption()


def written(key: Any, form: PrivateFormat = PrivateFormat.PKCS8, encryption: Any = PLAIN) -> bytes:
    data: bytes = key.private_bytes(Encoding.PEM, form, encryption)
    return data


def certified(key: Any, *names: x509.GeneralName, common: str = "", by: Any = None, authority: bool = False) -> bytes:
    """A certificate of a key by itself, or by another one."""
    now = datetime.datetime.now(datetime.UTC)
    attributes = [x509.NameAttribute(NameOID.COMMON_NAME, common)] if common else []
    made = (
        x509.CertificateBuilder()
        .subject_name(x509.Name(attributes))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "issuer")]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
    )
    if names:
        made = made.add_extension(x509.SubjectAlternativeName(names), critical=False)
    if authority:
        made = made.add_extension(x509.BasicConstraints(True, None), critical=True)
    signer = by or key
    return made.sign(signer, None if isinstance(signer, ed25519.Ed25519PrivateKey) else hashes.SHA256()).public_bytes(
        Encoding.PEM
    )


@pytest.fixture(scope="module")
def key() -> Any:
    return ec.generate_private_key(ec.SECP256R1())


@pytest.fixture(scope="module")
def rsa_key() -> Any:
    return rsa.generate_private_key(65537, 2048)


def refused(chain: bytes, key: bytes, **more: Any) -> str:
    """Why these make no certificate; begins with the place, and quotes nothing."""
    with pytest.raises(CertificateError) as caught:
        make_certificate(chain, key, "certs/a.pem", **more)
    assert caught.value.__cause__ is None
    text = str(caught.value)
    assert text.startswith("certs/a.pem: ")
    assert text.isprintable()
    quoted = [line for line in (chain + key).decode("latin-1").splitlines() if len(line) > 30 and "-----" not in line]
    assert not [line for line in quoted if line in text]
    return text


# What it is made of


def test_names_dates_and_texts(authority: Any) -> None:
    made = authority.issue("WWW.Example.test", "*.example.test", "127.0.0.1", "::1", ends=HOUR)
    certificate = make_certificate(made.chain, made.key, "here", now=time.time())
    assert certificate.names == ("www.example.test", "*.example.test", "127.0.0.1", "::1")
    assert certificate.chain.encode() == made.chain
    assert certificate.chain.count("BEGIN CERTIFICATE") == 2
    assert certificate.key.encode() == made.key
    assert 0 < certificate.not_after - time.time() <= HOUR
    assert certificate.key.splitlines()[1] not in repr(certificate)


def test_without_alternative_names_the_common_name_counts(key: Any) -> None:
    chain = certified(key, common="Old.example.test")
    assert make_certificate(chain, written(key), "here").names == ("old.example.test",)


def test_alternative_names_of_other_kinds_leave_the_common_name(key: Any) -> None:
    chain = certified(key, x509.RFC822Name("me@example.test"), common="example.test")
    assert make_certificate(chain, written(key), "here").names == ("example.test",)


def test_names_that_do_not_print_are_left_out(key: Any) -> None:
    chain = certified(key, x509.DNSName("a.test"), x509.DNSName("b\n.test"), x509.DNSName(""), x509.DNSName("A.test"))
    assert make_certificate(chain, written(key), "here").names == ("a.test",)


def test_a_certificate_without_names_is_refused(key: Any) -> None:
    assert "names no host" in refused(certified(key), written(key))
    assert "names no host" in refused(certified(key, x509.DNSName("\x1b[2J")), written(key))


@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
def test_line_ends_and_text_between_the_blocks(authority: Any, ends: str) -> None:
    made = authority.issue("a.test")
    text = "\ufeffBag Attributes\n    friendlyName: a\n" + made.both.decode().replace(
        "-----\n", "-----  \nbetween\n", 0
    )
    data = text.replace("\n", ends).encode()
    certificate = make_certificate(data, data, "here")
    assert certificate.chain.encode() == made.chain
    assert certificate.key.encode() == made.key


def test_keys_of_all_kinds_and_forms(key: Any, rsa_key: Any, tmp_path: Path) -> None:
    forms = [
        (each, form) for each in (key, rsa_key) for form in (PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL)
    ]
    for made, form in [*forms, (ed25519.Ed25519PrivateKey.generate(), PrivateFormat.PKCS8)]:
        chain = certified(made, x509.DNSName("a.test"))
        certificate = make_certificate(chain, written(made, form), "here")
        both = tmp_path / "both.pem"
        both.write_text(certificate.chain + certificate.key)
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(both)


def test_parameters_before_a_key_are_left_out(key: Any) -> None:
    parameters = b"-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"
    data = parameters + written(key, PrivateFormat.TraditionalOpenSSL)
    certificate = make_certificate(certified(key, x509.DNSName("a.test")), data, "here")
    assert certificate.key.startswith("-----BEGIN EC PRIVATE KEY-----")


def test_of_several_keys_the_one_that_matches_is_taken(authority: Any) -> None:
    one, two = authority.issue("one.test"), authority.issue("two.test")
    assert make_certificate(two.chain, one.key + two.key, "here").key.encode() == two.key


def test_public_keys_tell_what_belongs_together(authority: Any) -> None:
    one, two = authority.issue("one.test"), authority.issue("two.test")
    leaf, issuer = read_pem(one.chain, "here").chain
    assert key_of_certificate(leaf, "here") == key_of_private(one.key.decode(), "here")
    assert key_of_certificate(leaf, "here") != key_of_private(two.key.decode(), "here")
    assert [is_authority(text) for text in (leaf, issuer, "nonsense")] == [False, True, False]


# What is refused


@pytest.mark.parametrize(
    ("begins", "ends", "words"),
    [(-2 * HOUR, -HOUR, "expired on "), (HOUR, 2 * HOUR, "not valid before ")],
)
def test_dates_count_if_the_time_is_given(authority: Any, begins: float, ends: float, words: str) -> None:
    made = authority.issue("a.test", begins=begins, ends=ends)
    assert words in refused(made.chain, made.key, now=time.time())
    assert make_certificate(made.chain, made.key, "here").names == ("a.test",)
    assert make_certificate(made.chain, made.key, "here", now=time.time() + (begins + ends) / 2)


def test_a_key_that_does_not_match(authority: Any) -> None:
    one, two = authority.issue("one.test"), authority.issue("two.test")
    assert "the key does not match the certificate" in refused(one.chain, two.key)


def test_a_chain_in_the_wrong_order(authority: Any) -> None:
    made = authority.issue("a.test")
    leaf, issuer = (text.encode() for text in read_pem(made.chain, "here").chain)
    assert "the key is that of certificate 2: put this one first" in refused(issuer + leaf, made.key)


@pytest.mark.parametrize("form", [PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL])
def test_an_encrypted_key(key: Any, form: PrivateFormat) -> None:
    chain, data = certified(key, x509.DNSName("a.test")), written(key, form, BestAvailableEncryption(b"password"))
    assert "encrypted: decrypt it with `openssl pkey -in " in refused(chain, data)


def test_an_encrypted_key_can_be_decrypted_as_is_said(key: Any, tmp_path: Path) -> None:
    chain, data = certified(key, x509.DNSName("a.test")), written(key, encryption=BestAvailableEncryption(b"password"))
    (tmp_path / "encrypted.key").write_bytes(data)
    command = refused(chain, data).split("`")[1].split()
    subprocess.run([*command, "-passin", "pass:password"], cwd=tmp_path, check=True, timeout=30)
    assert make_certificate(chain, (tmp_path / "plain.key").read_bytes(), "here").names == ("a.test",)


def test_what_is_missing_is_said_with_what_is_there(authority: Any, key: Any) -> None:
    made = authority.issue("a.test")
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    assert refused(made.key, made.key).endswith("holds no certificate, only PRIVATE KEY")
    assert refused(made.chain, made.chain).endswith("holds no private key, only CERTIFICATE")
    assert refused(made.chain, public).endswith("holds no private key, only PUBLIC KEY")


@pytest.mark.parametrize(
    ("label", "command"),
    [("TRUSTED CERTIFICATE", "openssl x509"), ("PKCS7", "openssl pkcs7"), ("OPENSSH PRIVATE KEY", "ssh-keygen")],
)
def test_what_can_be_converted(authority: Any, label: str, command: str) -> None:
    other = f"-----BEGIN {label}-----\nAAAA\n-----END {label}-----\n".encode()
    made = authority.issue("a.test")
    chain, key = (made.chain, other) if "KEY" in label else (other, made.key)
    assert f"convert it with `{command} " in refused(chain, key)


def test_der_and_pkcs_12(authority: Any, key: Any, rsa_key: Any) -> None:
    made = authority.issue("a.test")
    leaf = x509.load_pem_x509_certificate(made.chain)
    assert "DER, not PEM: convert it with `openssl x509 " in refused(leaf.public_bytes(Encoding.DER), made.key)
    for each in (key, rsa_key):
        data = each.private_bytes(Encoding.DER, PrivateFormat.PKCS8, PLAIN)
        assert "DER, not PEM: convert it with `openssl pkey " in refused(made.chain, data)
    bundle = pkcs12.serialize_key_and_certificates(b"a", rsa_key, None, [leaf], PLAIN)
    assert "PKCS #12" in refused(bundle, made.key)


@pytest.mark.parametrize("data", [b"", b" \n\t\n"])
def test_an_empty_file(authority: Any, data: bytes) -> None:
    assert "empty" in refused(data, authority.issue("a.test").key)


@pytest.mark.parametrize("data", [b"hello", b"\0" * 1000, b"\xff\xfe-\0-\0", b"-----END CERTIFICATE-----", b"{}"])
def test_garbage(authority: Any, data: bytes) -> None:
    assert "no PEM: there is no line -----BEGIN" in refused(data, authority.issue("a.test").key)


def test_a_file_that_is_cut_off(authority: Any) -> None:
    made = authority.issue("a.test")
    for length in (30, 300, len(made.chain) - 5):
        assert "cut off, its block CERTIFICATE has no end" in refused(made.chain[:length], made.key)
    assert "cut off" in refused(made.chain, made.key[:-10])
    assert "cut off" in refused(made.chain[:300] + made.chain, made.key)


def test_a_block_that_is_no_certificate_and_no_key(authority: Any) -> None:
    made = authority.issue("a.test")
    leaf, issuer = read_pem(made.chain, "here").chain
    broken = issuer.replace("\nMII", "\nMIA")
    assert broken != issuer
    assert "certificate 2 of it cannot be read" in refused((leaf + broken).encode(), made.key)
    assert "the private key cannot be read" in refused(made.chain, made.key[:40] + b"A" * 60 + made.key[100:])


def test_a_kind_of_key_that_tls_does_not_use(authority: Any) -> None:
    key = dsa.generate_private_key(2048)
    assert "of a kind that TLS does not use" in refused(authority.issue("a.test").chain, written(key))


def test_a_key_that_is_too_small() -> None:
    key = rsa.generate_private_key(65537, 1024)
    assert "too small: RSA takes 2048 bits" in refused(certified(key, x509.DNSName("a.test")), written(key))


def test_an_issuer_whose_key_is_too_small(key: Any) -> None:
    small = rsa.generate_private_key(65537, 1024)
    chain = certified(key, x509.DNSName("a.test"), by=small) + certified(small, common="issuer")
    assert "an issuer in the chain has a key of less than 2048 bits" in refused(chain, written(key))


def test_another_reason_of_openssl(authority: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*arguments: Any) -> None:
        error = ssl.SSLError(1, "secret words")
        error.reason = "NO_SUCH_THING"
        raise error

    monkeypatch.setattr(ssl, "SSLContext", lambda protocol: type("Context", (), {"load_cert_chain": load})())
    made = authority.issue("a.test")
    assert "OpenSSL refuses it (no such thing)" in refused(made.chain, made.key)


def test_an_rsa_key_whose_private_half_is_wrong(rsa_key: Any) -> None:
    numbers = rsa_key.private_numbers()
    wrong = rsa.RSAPrivateNumbers(
        numbers.p, numbers.q, numbers.d ^ 4, numbers.dmp1 ^ 4, numbers.dmq1, numbers.iqmp, numbers.public_numbers
    ).private_key(unsafe_skip_rsa_key_validation=True)
    chain = certified(rsa_key, x509.DNSName("a.test"))
    assert "the private key does not work" in refused(chain, written(wrong))


def test_extensions_that_cannot_be_read(key: Any) -> None:
    extension = x509.UnrecognizedExtension(x509.SubjectAlternativeName.oid, b"\x30\x03nonsense")
    now = datetime.datetime.now(datetime.UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a.test")])
    made = x509.CertificateBuilder(name, name, key.public_key(), 5, now, now + datetime.timedelta(hours=1))
    chain = made.add_extension(extension, critical=False).sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)
    assert "extensions cannot be read" in refused(chain, written(key))
    assert not is_authority(chain.decode())


def test_a_public_key_of_an_unknown_kind(key: Any) -> None:
    text = certified(key, x509.DNSName("a.test"))
    der = x509.load_pem_x509_certificate(text).public_bytes(Encoding.DER)
    # The object identifier of elliptic curves' keys, and one that nobody has.
    strange = der.replace(bytes.fromhex("2a8648ce3d0201"), bytes.fromhex("2a8648ce3d7f7f"), 1)
    chain = ssl.DER_cert_to_PEM_cert(strange).encode()
    assert "the certificate's key cannot be read" in refused(chain, written(key))


# Whatever comes


def test_many_beginnings_take_no_longer_than_their_length() -> None:
    """Else this would last hours."""
    for ends in (b"", b"\n"):
        with pytest.raises(CertificateError, match="cut off"):
            read_pem((b"-----BEGIN CERTIFICATE-----" + ends) * 38_000, "here")


@settings(max_examples=150, deadline=None)
@given(at=st.integers(0, 1500), put=st.binary(max_size=40), cut=st.integers(0, 80))
def test_a_damaged_file_makes_a_certificate_or_a_refusal(at: int, put: bytes, cut: int) -> None:
    damaged = SAMPLE[:at] + put + SAMPLE[at + cut :]
    names, text = ("",), "here: "
    try:
        names = make_certificate(damaged, damaged, "here").names
    except CertificateError as error:
        text = str(error)
    assert all(name.isprintable() for name in names)
    assert text.startswith("here: ")
    assert text.isprintable()


_key = ec.generate_private_key(ec.SECP256R1())
SAMPLE = certified(_key, x509.DNSName("a.test"), common="a.test") + written(_key)
