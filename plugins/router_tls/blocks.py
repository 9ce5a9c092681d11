"""PEM texts taken apart: certificates, private keys and what else stands there, unread.

No file is opened here. Messages begin with the place they are about and never quote what stands there.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["CertificateError", "Pem", "lacking", "read_pem"]

_BEGIN = re.compile(rb"-----BEGIN ([A-Z0-9 ]{1,40})-----")
_CERTIFICATES = ("CERTIFICATE", "X509 CERTIFICATE")
_KEYS = ("PRIVATE KEY", "ENCRYPTED PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY", "DSA PRIVATE KEY")
#: What is taken for a certificate or a key -> how it becomes one.
_CONVERSIONS = {
    "TRUSTED CERTIFICATE": "openssl x509 -in trusted.pem -out certificate.pem",
    "PKCS7": "openssl pkcs7 -print_certs -in bundle.p7b -out certificate.pem",
    "OPENSSH PRIVATE KEY": "ssh-keygen -p -m PEM -f copy-of-key",
}


class CertificateError(ValueError):
    """There is no certificate to serve with; the text says where, why, and what would help."""


class Pem(NamedTuple):
    """What a text holds, each block as a PEM text of its own.

    Attributes:
        chain: certificates, in order.
        keys: private keys, encrypted ones too.
        others: labels of all other blocks.
    """

    chain: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    others: tuple[str, ...] = ()


def read_pem(data: bytes, where: str) -> Pem:
    """Takes a text apart; what stands between its blocks is left out.

    Raises:
        CertificateError: there is no block, or one without its end.
    """
    chain, keys, others = list[str](), list[str](), list[str]()
    label, lines = "", list[bytes]()
    for line in map(bytes.strip, data.splitlines()):
        begin = _BEGIN.search(line)
        if begin and label:
            break
        if begin:
            label, lines = begin[1].decode(), []
        elif label and line == b"-----END %b-----" % label.encode():
            if label in _CERTIFICATES:
                chain.append(_block("CERTIFICATE", lines))
            elif label in _KEYS:
                keys.append(_block(label, lines))
            else:
                others.append(label)
            label = ""
        elif label:
            lines.append(line)
    if label:
        raise CertificateError(f"{where}: cut off, its block {label} has no end: write it again")
    if not (chain or keys or others):
        raise CertificateError(f"{where}: {_no_pem(data)}")
    return Pem(tuple(chain), tuple(keys), tuple(others))


def lacking(what: str, held: Pem) -> str:
    """Why a text without a certificate, or without a private key, will not do: what it holds instead."""
    kinds = ["CERTIFICATE"] * bool(held.chain) + ["PRIVATE KEY"] * bool(held.keys) + sorted(set(held.others))
    text = f"holds no {what}, only {' and '.join(kinds[:4])}"
    remedy = next((_CONVERSIONS[kind] for kind in kinds if kind in _CONVERSIONS), "")
    return f"{text}: convert it with `{remedy}`" if remedy else text


def _block(label: str, lines: Sequence[bytes]) -> str:
    body = b"\n".join(lines).decode("latin-1")
    return f"-----BEGIN {label}-----\n{body}\n-----END {label}-----\n"


def _no_pem(data: bytes) -> str:
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import load_der_private_key

    if not data.strip():
        return "empty: write the certificate or the key into it"
    try:
        x509.load_der_x509_certificate(data)
        return "DER, not PEM: convert it with `openssl x509 -inform DER -in certificate.der -out certificate.pem`"
    except Exception:  # foreign code reads what may be anything
        pass
    try:
        load_der_private_key(data, None, unsafe_skip_rsa_key_validation=True)
        return "DER, not PEM: convert it with `openssl pkey -inform DER -in key.der -out plain.key`"
    except Exception:
        pass
    if data.startswith(b"\x30\x82"):
        return "DER or PKCS #12, not PEM: convert it with `openssl pkcs12 -in bundle.p12 -nodes -out bundle.pem`"
    return "no PEM: there is no line -----BEGIN CERTIFICATE----- or -----BEGIN PRIVATE KEY----- in it"
