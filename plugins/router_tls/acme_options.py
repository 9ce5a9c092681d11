"""What `acme` can be told, and every reason to refuse it. Reads no file and never shows a secret."""

from __future__ import annotations

import ipaddress
import re
from base64 import urlsafe_b64decode
from typing import Any, Literal
from urllib.parse import urlsplit

from router import Options
from router_tls.acme_trouble import shown

__all__ = ["AcmeOptions"]

_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(?:\.{_LABEL})*")
_ADDRESS = re.compile(r"[!-~]{1,64}@[!-~]{1,255}")
_BASE64 = re.compile(r"[A-Za-z0-9_-]{2,1024}={0,2}")
#: More than an authority takes in one certificate.
_MOST_NAMES = 100
#: One word for an address that does not change.
_KNOWN = {
    "letsencrypt": "https://acme-v02.api.letsencrypt.org/directory",
    "letsencrypt-staging": "https://acme-staging-v02.api.letsencrypt.org/directory",
}


class AcmeOptions(Options, frozen=True):
    """Who is asked, and what for.

    Args:
        directory: the URL of the authority's ACME directory; or "letsencrypt" or "letsencrypt-staging".
        names: what one certificate is for: host names, or IP addresses if the authority takes them.
        agree_tos: whether you agree to the authority's terms of service.
        email: where the authority may write to: one address or several.
        folder: keeps account, keys and certificates; relative ones start at the configuration's folder.
        ca: PEM file of what is trusted for the directory itself, in place of the system's authorities.
        key_type: of the certificate's key: "ecdsa" is P-256, "rsa" has 2048 bits.
        eab_kid: the key id of an account that the authority knows already, if it wants one.
        eab_hmac_key: the key that goes with it, in base64url as the authority gives it.
    """

    directory: str
    names: tuple[str, ...]
    agree_tos: bool = False
    email: str | tuple[str, ...] = ()
    folder: str = "router-acme"
    ca: str = ""
    key_type: Literal["ecdsa", "rsa"] = "ecdsa"
    eab_kid: str = ""
    eab_hmac_key: str = ""

    def __post_init__(self) -> None:
        _check_url(self.url)
        if not self.agree_tos:
            raise ValueError(
                "agree_tos: an authority gives certificates to those alone who agree to its terms of service: read"
                " them, then set agree_tos = true"
            )
        if not 1 <= len(self.names) <= _MOST_NAMES:
            raise ValueError(f"names: a certificate is for at least one name and at most {_MOST_NAMES}")
        for name in self.names:
            _check_name(name)
        for address in self.addresses:
            if not _ADDRESS.fullmatch(address):
                raise ValueError(f'email: "{shown(address)}" is no address such as "admin@example.org"')
        if not self.folder or "\0" in self.folder or "\0" in self.ca:
            raise ValueError("folder names a folder, such as router-acme")
        _check_eab(self.eab_kid, self.eab_hmac_key)

    @property
    def url(self) -> str:
        """The directory's."""
        return _KNOWN.get(self.directory, self.directory)

    @property
    def wanted(self) -> tuple[str, ...]:
        """The names as certificates have them: in lower case, addresses in their shortest form, each once."""
        return tuple(dict.fromkeys(map(_normal, self.names)))

    @property
    def addresses(self) -> tuple[str, ...]:
        """The e-mail addresses."""
        return ((self.email,) if self.email else ()) if isinstance(self.email, str) else self.email

    @property
    def eab(self) -> tuple[str, str] | None:
        """Key id and key of an external account."""
        return (self.eab_kid, self.eab_hmac_key) if self.eab_kid else None

    # Both, for rich has a way of its own.

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        shown = [(name, getattr(self, name)) for name in self.__struct_fields__ if name != "eab_hmac_key"]
        return [*shown, ("eab_hmac_key", "set" if self.eab_hmac_key else "")]

    def __repr__(self) -> str:
        return f"AcmeOptions({', '.join(f'{name}={value!r}' for name, value in self.__rich_repr__())})"


def _normal(name: str) -> str:
    try:
        return str(ipaddress.ip_address(name))
    except ValueError:
        return name.lower()


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        good = parts.scheme == "https" and bool(parts.hostname) and parts.port != 0 and "@" not in parts.netloc
    except ValueError:
        good = False
    if not good or not all("!" <= c <= "~" for c in url) or "#" in url:
        words = " or ".join(f'"{word}"' for word in _KNOWN)
        raise ValueError(f'directory is {words}, or a URL such as "https://acme.example.org/directory" (https alone)')


def _check_name(name: str) -> None:
    lower = _normal(name)
    if "*" in lower:
        raise ValueError(
            f'names: "{shown(name)}" is a wildcard, which http-01 cannot prove: list the names, or use "files"'
        )
    if not name.isascii():
        raise ValueError(f'names: "{shown(name)}" goes beyond ASCII: write it as in the DNS, "xn--..."')
    if not _NAME.fullmatch(lower) and (":" not in lower or not _is_address(lower)):
        raise ValueError(f'names: "{shown(name)}" is no host name such as "www.example.org"')


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return "%" not in text


def _check_eab(kid: str, key: str) -> None:
    if bool(kid) != bool(key):
        raise ValueError("eab_kid and eab_hmac_key go together: set both, or leave both out")
    if not kid.isprintable() or len(kid) > 1024:
        raise ValueError("eab_kid is the key id as the authority gives it")
    if key:
        try:
            # The key itself is in no message.
            good = bool(_BASE64.fullmatch(key) and urlsafe_b64decode(key.rstrip("=") + "=="))
        except ValueError:
            good = False
        if not good:
            raise ValueError("eab_hmac_key is not base64url: copy it as the authority gives it")
