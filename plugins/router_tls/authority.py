"""A small certificate authority in a folder, for development: made once whoever comes first, and never replaced here.

Its key is never in a message, a repr or a log. Everything blocks, most of it for milliseconds: call it in a thread.
"""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from router_tls.keeping import create_file, find_folder, make_folder, read_file

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec, rsa

    PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey

__all__ = ["CERTIFICATE", "KEY", "Authority", "AuthorityError", "KeyType", "load_authority", "make_authority"]

KeyType = Literal["ecdsa", "rsa"]

#: File names within the folder.
CERTIFICATE = "ca.pem"
KEY = "ca.key"
#: Seconds.
LIFE = 10 * 365.25 * 86400
#: Seconds by which a certificate begins early, for clients whose clock is late.
_EARLY = 3600
_RSA_BITS = 2048
_USAGES = ["digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement"]
_USAGES += ["key_cert_sign", "crl_sign", "encipher_only", "decipher_only"]
_REMEDY = f"remove {CERTIFICATE} and {KEY} for a new authority"


class AuthorityError(ValueError):
    """What the folder holds is no authority that can be used; the text says which file, why and what would help."""


class Authority:
    """Signs certificates of servers.

    Attributes:
        path: of its own certificate, which clients are told to trust.
        not_after: its end, in seconds since the epoch.
    """

    __slots__ = ("_certificate", "_key", "not_after", "path")

    def __init__(self, path: Path, certificate: x509.Certificate, key: PrivateKey) -> None:
        self.path = path
        self.not_after = certificate.not_valid_after_utc.timestamp()
        self._certificate = certificate
        self._key = key

    def __repr__(self) -> str:
        return f"<Authority {self.path}>"

    def issue(self, names: Sequence[str], key_type: KeyType, now: float, life: float) -> tuple[bytes, bytes]:
        """A new key and a certificate for it (RFC 5280, for servers alone).

        Args:
            names: DNS names and IP addresses.
            now: seconds since the epoch.
            life: seconds from `now`; the certificate ends with the authority if that is earlier.

        Returns:
            The certificate and the key, both PEM.
        """
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.x509.oid import ExtendedKeyUsageOID

        key = _new_key(key_type)
        signer = self._certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        identifier = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(signer)
        certificate = (
            _begin(_name("router development certificate"), self._certificate.subject, key, now, life, self.not_after)
            .add_extension(x509.SubjectAlternativeName([_general(name) for name in names]), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(digital_signature=True, key_encipherment=key_type == "rsa"), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(identifier, critical=False)
            .sign(self._key, hashes.SHA256())
        )
        return certificate.public_bytes(serialization.Encoding.PEM), _to_pem(key)

    def has_issued(self, chain: bytes) -> bool:
        """Whether the first certificate of this PEM bears the authority's signature."""
        from cryptography import x509
        from cryptography.exceptions import InvalidSignature

        try:
            x509.load_pem_x509_certificate(chain).verify_directly_issued_by(self._certificate)
        except (ValueError, TypeError, InvalidSignature):
            return False
        return True


def load_authority(folder: Path, now: float) -> Authority | None:
    """The authority that the folder holds; None if there is none, or one that was not finished. Writes nothing.

    Args:
        now: seconds since the epoch.

    Raises:
        AuthorityError: it cannot be used.
        KeepingError: it cannot be read, or others could have had or changed it.
    """
    if not find_folder(folder):
        return None
    path, key_path = folder / CERTIFICATE, folder / KEY
    # The certificate first: it is made last, so whoever sees it finds the key too.
    pem = read_file(path, secret=False)
    key_pem = read_file(key_path)
    key = None if key_pem is None else _read_key(key_path, key_pem)
    if pem is None:
        return None
    if key is None:
        raise AuthorityError(f"{key_path} is missing: put it back, or remove {CERTIFICATE} for a new authority")
    certificate = _read_certificate(path, pem)
    if certificate.public_key() != key.public_key():
        raise AuthorityError(f"{path} is not for {key_path}: put back what belongs together, or {_REMEDY}")
    _check(path, certificate, now)
    return Authority(path, certificate, key)


def make_authority(folder: Path, now: float, life: float = LIFE) -> Authority:
    """The authority of this folder, made if there is none. Whoever asks first makes it, and all others get the same.

    Args:
        folder: made too if it is not there, but not what it stands in.
        now: seconds since the epoch.
        life: of a new one, in seconds.

    Raises:
        AuthorityError: what is there cannot be used.
        KeepingError: it cannot be read or written, or others could have had or changed it.
    """
    make_folder(folder)
    found = load_authority(folder, now)
    if found is not None:
        return found
    # Two files cannot be made at once. The key settles who was first; any certificate for it is as good as another.
    key_path = folder / KEY
    key_pem = read_file(key_path)
    if key_pem is None:
        create_file(key_path, _to_pem(_new_key("ecdsa")))
        key_pem = read_file(key_path)
    if key_pem is not None:
        create_file(folder / CERTIFICATE, _self_signed(_read_key(key_path, key_pem), now, life), 0o644)
    found = load_authority(folder, now)
    if found is None:
        raise AuthorityError(f"{folder / CERTIFICATE} is gone as soon as it is made: let nobody else write there")
    return found


def _self_signed(key: PrivateKey, now: float, life: float) -> bytes:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization

    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    # Some clients find an authority by its name alone: another key, another name.
    name = _name(f"router development CA {identifier.digest.hex()[:8]}")
    authority = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)
    return (
        _begin(name, name, key, now, life)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(key_cert_sign=True, crl_sign=True), critical=True)
        .add_extension(authority, critical=False)
        .sign(key, hashes.SHA256())
        .public_bytes(serialization.Encoding.PEM)
    )


def _begin(
    subject: x509.Name, issuer: x509.Name, key: PrivateKey, now: float, life: float, most: float = float("inf")
) -> x509.CertificateBuilder:
    from cryptography import x509

    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_time(now - _EARLY))
        .not_valid_after(_time(min(now + life, most)))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _name(text: str) -> x509.Name:
    from cryptography import x509

    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])


def _general(name: str) -> x509.GeneralName:
    from cryptography import x509

    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _usage(**used: bool) -> x509.KeyUsage:
    from cryptography import x509

    return x509.KeyUsage(**{name: used.get(name, False) for name in _USAGES})


def _time(seconds: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(int(seconds), datetime.UTC)


def _new_key(key_type: KeyType) -> PrivateKey:
    from cryptography.hazmat.primitives.asymmetric import ec, rsa

    if key_type == "rsa":
        return rsa.generate_private_key(public_exponent=65537, key_size=_RSA_BITS)
    return ec.generate_private_key(ec.SECP256R1())


def _to_pem(key: PrivateKey) -> bytes:
    from cryptography.hazmat.primitives import serialization

    plain = serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)


def _read_key(path: Path, pem: bytes) -> PrivateKey:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec, rsa

    try:
        key = serialization.load_pem_private_key(pem, None)
    except TypeError:
        raise AuthorityError(f"{path} is encrypted: decrypt it, or {_REMEDY}") from None
    except (ValueError, UnsupportedAlgorithm):
        raise AuthorityError(f"{path} holds no key in PEM: {_REMEDY}") from None
    if not isinstance(key, (ec.EllipticCurvePrivateKey, rsa.RSAPrivateKey)):
        raise AuthorityError(f"{path} is neither an ECDSA nor an RSA key: {_REMEDY}")
    return key


def _read_certificate(path: Path, pem: bytes) -> x509.Certificate:
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm

    try:
        certificate = x509.load_pem_x509_certificate(pem)
        certificate.public_key()
    except (ValueError, UnsupportedAlgorithm):
        raise AuthorityError(f"{path} holds no certificate in PEM that can be read: {_REMEDY}") from None
    return certificate


def _check(path: Path, certificate: x509.Certificate, now: float) -> None:
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature

    try:
        certificate.verify_directly_issued_by(certificate)
        extensions = certificate.extensions
        extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
        may_sign = extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        may_sign &= extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
    except (ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound, x509.DuplicateExtension):
        may_sign = False
    if not may_sign:
        raise AuthorityError(f"{path} is no authority that signed itself: {_REMEDY}")
    if now >= certificate.not_valid_after_utc.timestamp():
        raise AuthorityError(f"{path} expired on {certificate.not_valid_after_utc:%Y-%m-%d}: {_REMEDY}, and trust that")
    if now < certificate.not_valid_before_utc.timestamp():
        begin = certificate.not_valid_before_utc
        raise AuthorityError(f"{path} begins on {begin:%Y-%m-%d %H:%M} UTC: set the clock, or {_REMEDY}")
