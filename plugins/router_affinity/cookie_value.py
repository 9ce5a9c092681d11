"""What stands in the cookie: a label that finds the endpoint, the time of issue, and the proof of both.

    value = label (8 characters) + time (8) + proof (24), base64url without padding

Pure: no clock, no table, no I/O. The lengths leave no unused bits, so no two texts mean the same bytes; values are
compared as text and only those that were proved are ever decoded.
"""

from __future__ import annotations

import hmac
from base64 import urlsafe_b64decode, urlsafe_b64encode

from router import Endpoint

__all__ = ["LABEL", "LENGTH", "PUBLIC", "Signer", "issued_at", "time_text"]

LABEL = 8
#: Label and time: what may be looked up in a dictionary, for it is no secret. The proof never is.
PUBLIC = 16
LENGTH = 40

_LABEL_BYTES = 6
_TIME_BYTES = 6
_PROOF_BYTES = 18
#: Changes with the format, so that no value of one is ever one of another.
_DOMAIN = b"edge-router affinity cookie 1: "


class Signer:
    """Makes labels and proofs with one secret (HMAC-SHA-256, RFC 2104), by a key of its own for each."""

    __slots__ = ("_label_key", "_proof_key")

    def __init__(self, secret: bytes) -> None:
        self._label_key = hmac.digest(secret, _DOMAIN + b"label", "sha256")
        self._proof_key = hmac.digest(secret, _DOMAIN + b"proof", "sha256")

    def label(self, endpoint: Endpoint) -> bytes:
        """Stands for the endpoint without saying what it is; the same for all clients."""
        return urlsafe_b64encode(hmac.digest(self._label_key, _subject(endpoint), "sha256")[:_LABEL_BYTES])

    def proof(self, endpoint: Endpoint, time: bytes) -> bytes:
        """What only somebody with the secret can say of this endpoint and this `time_text`."""
        digest = hmac.digest(self._proof_key, time + _subject(endpoint), "sha256")
        return urlsafe_b64encode(digest[:_PROOF_BYTES])


def time_text(seconds: int) -> bytes:
    """Seconds since the epoch as they stand in a value; 0 for a pin without an end."""
    return urlsafe_b64encode(seconds.to_bytes(_TIME_BYTES, "big"))


def issued_at(time: bytes) -> int:
    """The seconds that a `time_text` was made of; for proved ones alone."""
    return int.from_bytes(urlsafe_b64decode(time), "big")


def _subject(endpoint: Endpoint) -> bytes:
    """Pool and identity. The length says where the one ends, so that no two endpoints share a subject."""
    pool = endpoint.pool.encode("utf-8", "surrogatepass")
    return b"%d:%b%b" % (len(pool), pool, endpoint.identity.encode("utf-8", "surrogatepass"))
