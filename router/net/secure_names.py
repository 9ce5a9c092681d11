"""Who a client says that it is by its certificate: one line that can stand in a header field."""

from __future__ import annotations

import hashlib
import ssl
from typing import Any, NamedTuple

__all__ = ["ClientCertificate", "client_certificate", "written_subject"]

#: OpenSSL's long names -> the short ones that RFC 4514 §3 knows. Others stand as they are, as OpenSSL writes them.
_SHORT = {
    "commonName": "CN",
    "localityName": "L",
    "stateOrProvinceName": "ST",
    "organizationName": "O",
    "organizationalUnitName": "OU",
    "countryName": "C",
    "streetAddress": "STREET",
    "domainComponent": "DC",
    "userId": "UID",
}
_SPECIAL = frozenset('"+,;<>\\=')
_UTF8_STRING = 0x0C


class ClientCertificate(NamedTuple):
    """What of a client's certificate is passed on."""

    #: The subject by RFC 4514, in printable ASCII.
    subject: str
    #: SHA-256 of the certificate, in hexadecimal.
    fingerprint: str


def client_certificate(tls: ssl.SSLObject) -> ClientCertificate | None:
    """The certificate that a client has shown and that was verified; None without one.

    Raises:
        ValueError: it cannot be read.
    """
    raw = tls.getpeercert(True)
    if raw is None:
        return None
    read: Any = tls.getpeercert()
    if not read:
        # OpenSSL gives the fields of verified certificates alone.
        return None
    return ClientCertificate(written_subject(read.get("subject", ())), hashlib.sha256(raw).hexdigest())


def written_subject(subject: Any) -> str:
    """A name as ssl.getpeercert gives it, as one line: the last part first (RFC 4514 §2.1)."""
    return ",".join("+".join(_written_pair(*pair) for pair in part) for part in reversed(subject))


def _written_pair(kind: str, value: str) -> str:
    if kind[:1].isdigit():
        # A kind without a name has its value in DER, in hexadecimal (RFC 4514 §2.4).
        data = value.encode()
        return f"{kind}=#{bytes((_UTF8_STRING, *_length(len(data)))).hex()}{data.hex()}"
    return f"{_SHORT.get(kind, kind)}={_escaped(value)}"


def _length(size: int) -> bytes:
    """A length in DER (X.690 §8.1.3)."""
    if size < 0x80:
        return bytes((size,))
    digits = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((0x80 | len(digits),)) + digits


def _escaped(value: str) -> str:
    """RFC 4514 §2.4; whatever is not printable ASCII stands as a backslash and two digits for each of its bytes."""
    last = len(value) - 1
    return "".join(
        _escaped_letter(letter, is_edge=place == 0 or (place == last and letter == " "))
        for place, letter in enumerate(value)
    )


def _escaped_letter(letter: str, *, is_edge: bool) -> str:
    if letter in _SPECIAL or (is_edge and letter in " #"):
        return "\\" + letter
    if " " <= letter <= "~":
        return letter
    return "".join(f"\\{byte:02X}" for byte in letter.encode("utf-8", "surrogatepass"))
