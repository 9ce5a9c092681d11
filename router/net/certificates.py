"""Runs one source of certificates, and says which certificates end soon.

What a source yields is looked at here for its shape; whether keys and certificates fit is found out by the store
(net/tls.py), which `take` leads to. Nothing of a chain or a key is ever repeated in a message.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from itertools import islice
from math import isfinite
from time import gmtime, strftime
from typing import Any

from router.api import CertificateSource
from router.model import Certificate
from router.net.sourcing import Sourcing

__all__ = ["CertificateRun", "expiry_warnings"]

#: Certificates that one source may give: each takes 22 KB.
_MOST = 20_000
#: Characters of a DNS name (RFC 1035 §2.3.4).
_LONGEST_NAME = 253
#: Seconds before its end within which a certificate is warned of.
_SOON = 14 * 86_400.0
_DAY = 86_400.0
#: Names of one certificate that a message lists.
_LISTED = 3
_PEM = "-----BEGIN"
_SECRET = "PRIVATE KEY"


class CertificateRun(Sourcing[tuple[Certificate, ...]]):
    """One source of certificates at work; to be made while the loop runs.

    Args:
        name: for the log, such as "listener 0.0.0.0:443, certificates files".
        challenges: ACME token path -> body; what the source puts there is answered on plain listeners.
        take: called with each complete set; raises ValueError if it cannot be used: the last good one stays.
        rng: for jitter.

    Attributes:
        first, state: as of Sourcing.
    """

    def __init__(
        self,
        name: str,
        source: CertificateSource,
        challenges: dict[str, bytes],
        take: Callable[[tuple[Certificate, ...]], None],
        rng: random.Random,
    ) -> None:
        super().__init__(name, "certificates", lambda: source.watch(challenges), _checked, take, rng)

    @property
    def certificates(self) -> tuple[Certificate, ...]:
        """The last good set."""
        return self._last or ()

    def is_same(self, found: tuple[Certificate, ...]) -> bool:
        # What a path leads to may be new while the path is not.
        return found == self._last and all(_is_text(each.chain) and _is_text(each.key) for each in found)

    def _fails(self, why: str) -> None:
        # A plugin may put into an error what it was reading.
        super()._fails("it raised an error that holds a private key" if _SECRET in why else why)


def expiry_warnings(certificates: Iterable[Certificate], now: float) -> list[str]:
    """What is to be said of certificates that end within 14 days or have ended, the most urgent first.

    Args:
        now: seconds since the epoch.
    """
    due = sorted((each for each in certificates if each.not_after - now <= _SOON), key=lambda each: each.not_after)
    return list(dict.fromkeys(_warning(each, each.not_after - now) for each in due))


def _warning(certificate: Certificate, left: float) -> str:
    names = ", ".join(certificate.names[:_LISTED]) + (", ..." if len(certificate.names) > _LISTED else "")
    date = strftime("%Y-%m-%d %H:%M UTC", gmtime(certificate.not_after))
    if left <= 0:
        return f"the certificate for {names} has expired on {date}"
    days = int(left // _DAY)
    time = f"{days} day{'s' * (days != 1)}" if days else "less than a day"
    return f"the certificate for {names} expires in {time}, on {date}"


def _is_text(value: str) -> bool:
    return _PEM in value


def _checked(value: Any) -> tuple[Certificate, ...]:
    if not isinstance(value, Iterable) or isinstance(value, str | bytes):
        raise TypeError(f"it gave a {type(value).__name__}; a source gives a list of Certificate")
    found = tuple(islice(value, _MOST + 1))
    wrong = next((type(item).__name__ for item in found if not isinstance(item, Certificate)), "")
    if wrong:
        raise TypeError(f"it gave a {wrong} among the certificates; each is a Certificate")
    if len(found) > _MOST:
        raise ValueError(f"it gave more than {_MOST} certificates, which is the most that are taken")
    for each in found:
        _check(each)
    return found


def _check(certificate: Certificate) -> None:
    names: Any = certificate.names
    if not isinstance(names, tuple | list) or not names or not all(map(_is_name, names)):
        raise ValueError("the names of a certificate are a tuple of DNS names and addresses, at least one")
    if not isinstance(certificate.chain, str) or not isinstance(certificate.key, str):
        raise TypeError(f"certificate for {names[0]}: chain and key are text, PEM or a path each")
    ends: Any = certificate.not_after
    if not isinstance(ends, int | float) or not isfinite(ends):
        raise TypeError(f"certificate for {names[0]}: not_after is seconds since the epoch")


def _is_name(name: Any) -> bool:
    return isinstance(name, str) and 0 < len(name) <= _LONGEST_NAME and name.isprintable()
