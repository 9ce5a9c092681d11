"""Whether a chain and a key in PEM make a certificate to serve with, and which key belongs to which certificate.

No file is opened here but one in memory. Messages begin with the place they are about and never quote what stands
there.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from router import Certificate
from router_tls.blocks import CertificateError, Pem, lacking, read_pem

if TYPE_CHECKING:  # a tenth of a second that a router without TLS does not pay
    from cryptography.x509 import Certificate as Leaf

__all__ = [
    "CertificateError",
    "Examined",
    "Pem",
    "examine",
    "is_authority",
    "key_of_certificate",
    "key_of_private",
    "make_certificate",
    "read_pem",
]

#: OpenSSL's reasons in words.
_REASONS = {
    "EE_KEY_TOO_SMALL": "the key is too small: RSA takes 2048 bits, ECDSA 256; make a new one",
    "CA_KEY_TOO_SMALL": "an issuer in the chain has a key of less than 2048 bits (ECDSA: 256): get another chain",
    "CA_MD_TOO_WEAK": "a certificate is signed with SHA-1 or MD5: get it issued anew",
}


class Examined(NamedTuple):
    """A certificate that is right whatever the time.

    Attributes:
        not_before: seconds since the epoch.
    """

    certificate: Certificate
    not_before: float

    def date_fault(self, now: float) -> str:
        """Why it is not to be served at this time, or "". `now`: seconds since the epoch."""
        if now > self.certificate.not_after:
            return f"expired on {_date(self.certificate.not_after)}: renew it"
        if now < self.not_before:
            return f"not valid before {_date(self.not_before)}: wait, or set this machine's clock"
        return ""


def make_certificate(chain: bytes, key: bytes, where: str, *, now: float | None = None) -> Certificate:
    """A certificate with its key, after a look at everything that would fail in a handshake.

    Args:
        chain: PEM, the server's own certificate first, then its issuers. Other blocks are left out.
        key: PEM, not encrypted; may be the same text. Of several keys, that of the certificate.
        where: what messages begin with, on one printable line.
        now: seconds since the epoch; if given, a certificate that is expired or not yet valid is refused.

    Returns:
        With PEM texts, not paths. Its names are in lower case: DNS names and addresses of the SAN (RFC 5280, section
        4.2.1.6); where there are none, the common name.

    Raises:
        CertificateError: why it cannot be served.
    """
    examined = examine(chain, key, where)
    fault = "" if now is None else examined.date_fault(now)
    if fault:
        raise CertificateError(f"{where}: {fault}")
    return examined.certificate


def examine(chain: bytes, key: bytes, where: str) -> Examined:
    """As make_certificate, whatever the time. Takes a few milliseconds.

    Raises:
        CertificateError: why it cannot be served.
    """
    held, keys = read_pem(chain, where), read_pem(key, where)
    if not held.chain:
        raise CertificateError(f"{where}: {lacking('certificate', held)}")
    if not keys.keys:
        raise CertificateError(f"{where}: {lacking('private key', keys)}")
    certificates = [_loaded(text, where, number) for number, text in enumerate(held.chain, 1)]
    leaf = certificates[0]
    key_text = _matching(certificates, keys.keys, where)
    names = _names(leaf, where)
    whole = "".join(held.chain)
    _check_signs(leaf, key_text, where)
    _check_loads(whole, key_text, where)
    after, before = leaf.not_valid_after_utc.timestamp(), leaf.not_valid_before_utc.timestamp()
    return Examined(Certificate(names, whole, key_text, after), before)


def key_of_certificate(text: str, where: str) -> bytes:
    """The public key of a certificate's PEM text: SubjectPublicKeyInfo in DER, equal for equal keys.

    Raises:
        CertificateError: it cannot be read.
    """
    return _public(_loaded(text, where), where)


def key_of_private(text: str, where: str) -> bytes:
    """The public half of a private key's PEM text, in the same form.

    Raises:
        CertificateError: encrypted, of a kind that TLS does not use, or no key at all.
    """
    return _der(_private(text, where).public_key())


def is_authority(text: str) -> bool:
    """Whether a certificate's PEM text is that of an issuer of others (basicConstraints, RFC 5280, section 4.2.1.9)."""
    from cryptography import x509

    try:
        constraints = _extension(_loaded(text, ""), x509.BasicConstraints, "")
    except CertificateError:
        return False
    return constraints is not None and bool(constraints.ca)


def _loaded(text: str, where: str, number: int = 1) -> Leaf:
    from cryptography.x509 import load_pem_x509_certificate

    try:
        return load_pem_x509_certificate(text.encode())
    except Exception:  # foreign code reads what may be anything
        raise CertificateError(f"{where}: certificate {number} of it cannot be read: write it again") from None


def _private(text: str, where: str) -> Any:
    from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    if text.startswith("-----BEGIN ENCRYPTED") or "\nProc-Type: 4,ENCRYPTED" in text:
        raise CertificateError(
            f"{where}: the key is encrypted: decrypt it with `openssl pkey -in encrypted.key -out plain.key`"
        )
    try:
        # Whether an RSA key's factors are prime takes 45 ms to find out; _check_signs shows in 2 whether it works.
        found = load_pem_private_key(text.encode(), None, unsafe_skip_rsa_key_validation=True)
    except Exception:  # foreign code reads what may be anything
        raise CertificateError(f"{where}: the private key cannot be read: write it again") from None
    if not isinstance(
        found, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey
    ):
        raise CertificateError(
            f"{where}: the private key is of a kind that TLS does not use: make one for ECDSA or RSA"
        )
    return found


def _public(certificate: Leaf, where: str) -> bytes:
    try:
        return _der(certificate.public_key())
    except Exception:  # foreign code reads what may be anything
        raise CertificateError(
            f"{where}: the certificate's key cannot be read: get it issued for ECDSA or RSA"
        ) from None


def _der(public: Any) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    der: bytes = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return der


def _matching(certificates: Sequence[Leaf], keys: Sequence[str], where: str) -> str:
    """The key of the first certificate."""
    held = {key_of_private(text, where): text for text in keys}
    found = held.get(_public(certificates[0], where))
    if found is not None:
        return found
    number = next((n for n, each in enumerate(certificates, 1) if _public(each, where) in held), 0)
    if number:
        raise CertificateError(
            f"{where}: the key is that of certificate {number}: put this one first and its issuers after it"
        )
    raise CertificateError(f"{where}: the key does not match the certificate: take the key it was requested with")


def _names(leaf: Leaf, where: str) -> tuple[str, ...]:
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    found: list[str] = []
    names = _extension(leaf, x509.SubjectAlternativeName, where)
    if names is not None:
        found += names.get_values_for_type(x509.DNSName)
        found += map(str, names.get_values_for_type(x509.IPAddress))
    if not found:
        found = [str(each.value) for each in leaf.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    # What does not print is never asked for, and would stand in logs.
    printable = dict.fromkeys(name.lower() for name in found if name.isprintable() and name.strip())
    if not printable:
        raise CertificateError(f"{where}: the certificate names no host: get one with subject alternative names")
    return tuple(printable)


def _extension(certificate: Leaf, kind: type[Any], where: str) -> Any:
    from cryptography.x509 import ExtensionNotFound

    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except ExtensionNotFound:
        return None
    except Exception:  # foreign code reads what may be anything
        raise CertificateError(f"{where}: the certificate's extensions cannot be read: get it issued anew") from None


def _check_signs(leaf: Leaf, key: str, where: str) -> None:
    """That an RSA key's private half is that of its public one: nothing else looks at it before a handshake fails."""
    from cryptography.hazmat.primitives.asymmetric import padding, rsa
    from cryptography.hazmat.primitives.hashes import SHA256

    found, public = _private(key, where), leaf.public_key()
    if not isinstance(found, rsa.RSAPrivateKey) or not isinstance(public, rsa.RSAPublicKey):
        return
    try:
        public.verify(found.sign(b"", padding.PKCS1v15(), SHA256()), b"", padding.PKCS1v15(), SHA256())
    except Exception:  # InvalidSignature, and what OpenSSL says of numbers that are no key
        raise CertificateError(f"{where}: the private key does not work: write it again") from None


def _check_loads(chain: str, key: str, where: str) -> None:
    """That OpenSSL takes them for a server, by its own rules of this machine."""
    import ssl

    if not hasattr(os, "memfd_create"):  # a key is never written to a disk for a check
        return
    descriptor = os.memfd_create("certificate", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, (chain + key).encode())
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(f"/proc/self/fd/{descriptor}")
    except FileNotFoundError:  # there is no /proc
        pass
    except ssl.SSLError as error:
        reason = error.reason or "no reason given"
        text = _REASONS.get(reason, f"OpenSSL refuses it ({reason.lower().replace('_', ' ')}): get it issued anew")
        raise CertificateError(f"{where}: {text}") from None
    finally:
        os.close(descriptor)


def _date(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M} UTC"
