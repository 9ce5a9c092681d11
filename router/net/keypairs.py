"""Certificates with their keys on the way into OpenSSL: read, told apart by the kind of key, loaded by way of memory.

No key ever stands in a file, a message or a repr. Whether names and dates are right is the business of sources.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import re
import ssl
from pathlib import Path

from router.model import Certificate

__all__ = ["KeyPair", "load_pair", "read_pair", "reason_of"]

_PEM = "-----BEGIN"
_KEY = re.compile(rb"-----BEGIN ((?:[A-Z]+ )?)PRIVATE KEY-----(.*?)-----END ", re.DOTALL)
#: What begins a key whose kind stands in its label; and the object identifiers of PKCS #8 (RFC 5208, 8410).
_LABELS = {b"RSA ": "RSA", b"EC ": "ECDSA"}
_IDENTIFIERS = {
    "2a864886f70d010101": "RSA",
    "2a864886f70d01010a": "RSA-PSS",
    "2a8648ce3d0201": "ECDSA",
    "2b6570": "Ed25519",
    "2b6571": "Ed448",
}
#: Letters of a key's base64 text within which its kind is told, and bytes before the identifier, at most.
_TOLD_WITHIN, _BEFORE = 64, 16
#: Where in Python's own code an error arose.
_PLACE = re.compile(r"^\[[^]]*\] | \(_ssl\.c:\d+\)$")
#: OpenSSL's words that people would not understand.
_MEANINGS = {
    "key values mismatch": "the key does not belong to the certificate",
    "wrong version number": "wrong version number: is that TLS?",
    "ee key too small": "the key is too short",
    "ca key too small": "the key of a CA in the chain is too short",
    "ca md too weak": "a signature in the chain is too weak",
    "PEM lib": "the certificate or the key is damaged",
}


class KeyPair:
    """One certificate chain and its key, ready to be loaded."""

    __slots__ = ("digest", "kind", "name", "not_after", "pem")

    def __init__(self, name: str, kind: str, pem: bytes, not_after: float) -> None:
        #: For messages.
        self.name = name
        #: Of the key: two kinds stand side by side in one context.
        self.kind = kind
        #: The key, and the chain behind it.
        self.pem = pem
        self.digest = hashlib.sha256(pem).digest()
        self.not_after = not_after

    def __repr__(self) -> str:
        return f"<KeyPair {self.name} {self.kind}>"


def read_pair(certificate: Certificate) -> KeyPair:
    """Reads a certificate and its key.

    Raises:
        ValueError: what of it is not usable; begins with its names.
    """
    name = ", ".join(certificate.names[:3]) or "a certificate without names"
    if not certificate.names:
        raise ValueError(f"{name}: it would never be found")
    chain, key = _text(certificate.chain, name, "chain"), _text(certificate.key, name, "key")
    if b"-----BEGIN CERTIFICATE-----" not in chain:
        raise ValueError(f"{name}: the chain holds no certificate in PEM form")
    found = _KEY.search(key)
    if found is None:
        raise ValueError(f"{name}: the key is no private key in PEM form")
    if b"ENCRYPTED" in found[0]:
        raise ValueError(f"{name}: the key is encrypted; the router takes keys without a password")
    pem = key if key == chain else key.rstrip() + b"\n" + chain
    return KeyPair(name, _LABELS.get(found[1]) or _kind(found[2]), pem, certificate.not_after)


def _text(value: str, name: str, what: str) -> bytes:
    """PEM text as it is, or out of the file that `value` names."""
    if _PEM in value:
        return value.encode("utf-8", "replace")
    try:
        return Path(value).read_bytes()
    except (OSError, ValueError) as error:
        # What was meant as PEM text may be anything, a key too: it is not repeated.
        reason = error.strerror if isinstance(error, OSError) else "no PEM text, and no path"
        raise ValueError(f"{name}: the {what} cannot be read: {reason}") from None


def _kind(body: bytes) -> str:
    """The kind of a PKCS #8 key, by the object identifier near its beginning."""
    letters = b"".join(body.split())[:_TOLD_WITHIN]
    try:
        start = base64.b64decode(letters[: len(letters) // 4 * 4])
    except binascii.Error:
        return "unknown"
    at = start.find(b"\x06", 5, _BEFORE)
    return _IDENTIFIERS.get(start[at + 2 : at + 2 + start[at + 1]].hex(), "unknown") if at > 0 else "unknown"


def load_pair(context: ssl.SSLContext, pair: KeyPair) -> None:
    """Adds a pair to a context.

    Raises:
        ValueError: OpenSSL does not take it; says why, and begins with its names.
    """
    # OpenSSL takes no key but from a file. This one is in memory, has no name, and ends here.
    file = os.memfd_create("certificate", os.MFD_CLOEXEC)
    try:
        with open(file, "wb", closefd=False) as out:
            out.write(pair.pem)
        context.load_cert_chain(f"/proc/self/fd/{file}", password=_no_password)
    except ssl.SSLError as error:
        raise ValueError(f"{pair.name}: {reason_of(error)}") from None
    except OSError as error:
        raise ValueError(f"{pair.name}: it cannot be loaded: {error.strerror}") from None
    finally:
        os.close(file)


def _no_password() -> str:
    """Without this OpenSSL would ask for it on the terminal."""
    return ""


def reason_of(error: OSError) -> str:
    """OpenSSL's reason in plain words, without its places in code."""
    if isinstance(error, ssl.SSLCertVerificationError) and error.verify_message:
        return f"certificate verify failed: {error.verify_message}"
    reason = str(getattr(error, "reason", None) or "").lower().replace("_", " ")
    reason = reason or _PLACE.sub("", error.strerror or "").strip() or type(error).__name__
    return _MEANINGS.get(reason, reason)
