"""Certificates for development: of an authority of one's own, kept in a folder, for the names that are asked for.

Nobody outside knows this authority, so nothing of it belongs in production. Whatever reads, writes or signs runs in a
thread; `load` alone does not, and does not write.
"""

from __future__ import annotations

import hashlib
import ipaddress
import logging
import os
import re
import shlex
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path

from router import Certificate, Options, Tools
from router_tls.authority import Authority, KeyType, load_authority, make_authority
from router_tls.keeping import KeepingError, read_file, write_file
from router_tls.pem import make_certificate

__all__ = ["SelfSigned", "SelfSignedOptions"]

log = logging.getLogger("router_tls")

#: Seconds that a certificate lives, and the share of them that is left when the next one is made.
_LIFE = 90 * 86400.0
_LEFT = 1 / 3
#: Seconds between two looks into the folder: a changed authority is found, and so is the morning after a long sleep.
_LOOK = 60.0
_MOST_NAMES = 100
# RFC 1123, section 2.1. The underscore is none of it, but names of containers have it and clients take it.
_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")
_BEGIN = b"-----BEGIN CERTIFICATE-----"
_said: set[Path] = set()


class SelfSignedOptions(Options, frozen=True):
    """Which names, and where the authority is kept.

    Args:
        names: DNS names and IP addresses that clients will ask for, as in "localhost", "*.dev.example", "127.0.0.1".
        folder: for the authority and its certificates; relative ones start at the configuration's folder.
        key_type: of the certificate's key: "ecdsa" is P-256, "rsa" has 2048 bits.
    """

    names: tuple[str, ...] = ("localhost", "127.0.0.1", "::1")
    folder: str = "router-tls"
    key_type: KeyType = "ecdsa"

    def __post_init__(self) -> None:
        if not 1 <= len(self.names) <= _MOST_NAMES:
            raise ValueError(f'names holds 1 to {_MOST_NAMES} names, as in ["localhost", "127.0.0.1"]')
        if faults := [f"{_shown(name)} {fault}" for name in self.names if (fault := _fault(name))]:
            raise ValueError(f"names: {'; '.join(faults[:5])}")
        if not self.folder or not self.folder.isprintable():
            raise ValueError('folder names a folder, as in "router-tls"')


class SelfSigned:
    """One certificate for all names, the same after a restart, and a new one when a third of its life is left.

    Args:
        wall: seconds since the epoch; certificates end by it.
        sleep: waits so many seconds.
        life: of a certificate, in seconds.
    """

    __slots__ = ("_folder", "_key_type", "_life", "_names", "_path", "_sleep", "_told", "_wall")

    def __init__(
        self,
        options: SelfSignedOptions,
        tools: Tools,
        *,
        wall: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] | None = None,
        life: float = _LIFE,
    ) -> None:
        self._folder = tools.folder / options.folder
        self._names = sorted({_normal(name) for name in options.names})
        self._key_type = options.key_type
        # Sources that ask for other names may share the folder and its authority.
        text = " ".join([options.key_type, *self._names])
        self._path = self._folder / f"leaf-{hashlib.sha256(text.encode()).hexdigest()[:12]}.pem"
        self._wall = wall
        self._sleep = sleep
        self._life = life
        self._told = ""

    def load(self) -> Sequence[Certificate]:
        """What the folder holds; nothing if there is nothing yet, or nothing that is still good. Writes nothing.

        Raises:
            ValueError: the authority cannot be used or trusted, or there is no place for one; the text says why and
                what would help.
        """
        if not os.path.isdir(self._folder.parent):
            raise KeepingError(f"{self._folder.parent} is no folder: make it, or set another folder")
        authority = load_authority(self._folder, self._wall())
        with suppress(ValueError):
            kept = self._kept(authority) if authority else None
            return (kept,) if kept else ()
        return ()

    async def watch(self, challenges: dict[str, bytes]) -> AsyncIterator[Sequence[Certificate]]:
        """The certificate, and again each new one.

        Raises:
            ValueError: there is none, and none can be made; the text says why and what would help.
        """
        from asyncio import sleep, to_thread

        served: Certificate | None = None
        while True:
            try:
                certificate = await to_thread(self._settle)
            except ValueError as error:
                if served is None:
                    raise
                self._tell(f"{error}; the last certificate stays")
            else:
                if certificate != served:
                    served = certificate
                    yield (certificate,)
            await (self._sleep or sleep)(self._pause(served))

    def _pause(self, served: Certificate | None) -> float:
        left = self._due(served) - self._wall() if served else 0.0
        # What is overdue failed just now, or cannot be bettered.
        return min(max(left, 1.0), _LOOK) if left > 0 else _LOOK

    def _settle(self) -> Certificate:
        authority = make_authority(self._folder, self._wall())
        _say(authority.path, self._names)
        try:
            kept = self._kept(authority)
        except ValueError as error:
            kept = None
            log.warning("self_signed: %s; a new one takes its place", error)
        # One that ends with its authority cannot be bettered.
        if kept and (self._wall() < self._due(kept) or kept.not_after >= authority.not_after):
            self._tell(self._end_of(authority))
            return kept
        try:
            return self._make(authority)
        except KeepingError as error:
            if kept is None:
                raise
            self._tell(f"{error}; the last certificate stays")
            return kept

    def _due(self, certificate: Certificate) -> float:
        return certificate.not_after - self._life * _LEFT

    def _kept(self, authority: Authority) -> Certificate | None:
        """The certificate in the folder, unless it is for other names or of another authority.

        Raises:
            ValueError: it is broken or expired, or others could have had its key.
        """
        content = read_file(self._path)
        if content is None:
            return None
        key, begin, rest = content.partition(_BEGIN)
        chain = begin + rest
        certificate = make_certificate(chain, key, str(self._path), now=self._wall())
        wanted = sorted(certificate.names) == self._names and authority.has_issued(chain)
        return certificate if wanted else None

    def _make(self, authority: Authority) -> Certificate:
        chain, key = authority.issue(self._names, self._key_type, self._wall(), self._life)
        # One file, so that no crash leaves a certificate beside the key of another.
        write_file(self._path, key + chain)
        _sweep(self._path, self._wall() - self._life)
        certificate = make_certificate(chain, key, str(self._path))
        log.info("self_signed: new certificate for %s", ", ".join(self._names))
        return certificate

    def _end_of(self, authority: Authority) -> str:
        if authority.not_after - self._wall() >= self._life:
            return ""
        day = time.strftime("%Y-%m-%d", time.gmtime(authority.not_after))
        return f"{authority.path} ends on {day}: remove it and its key for a new authority, and trust that"

    def _tell(self, text: str) -> None:
        """Says it once, not at every look that finds the same; "" if there is nothing to say any more."""
        if text and text != self._told:
            log.warning("self_signed: %s", text)
        self._told = text


def _say(path: Path, names: Sequence[str]) -> None:
    # Once for all listeners and reloads of this process.
    if path in _said:
        return
    _said.add(path)
    name = "localhost" if "localhost" in names else next((name for name in names if name[0] != "*"), "localhost")
    host = f"[{name}]" if ":" in name else name
    log.info(
        "self_signed: for development only; the authority to trust is %s: curl --cacert %s https://%s:PORT/, or import"
        " it into the browser",
        path,
        shlex.quote(str(path)),
        host,
    )


def _sweep(made: Path, before: float) -> None:
    """Removes others that were written before: they have ended, and nobody asks for their names any more."""
    for path in made.parent.glob("leaf-*.pem"):
        with suppress(OSError):
            if path != made and path.lstat().st_mtime < before:
                path.unlink()


def _normal(name: str) -> str:
    with suppress(ValueError):
        return str(ipaddress.ip_address(name))
    return name.lower()


def _fault(name: str) -> str:
    """Why a certificate cannot be for this name; "" if it can."""
    with suppress(ValueError):
        return "has a zone: leave out what follows the %" if "%" in str(ipaddress.ip_address(name)) else ""
    if not name.isascii():
        return 'is not ASCII: write its ASCII form, as in "xn--bcher-kva.example"'
    labels = name.lower().split(".")
    if labels[0] == "*":
        labels = labels[1:]
        if len(labels) < 2:
            return 'stands for too much, and no client takes it: write it as in "*.dev.example"'
    if len(name) > 253 or not all(map(_LABEL.fullmatch, labels)) or labels[-1].isdigit():
        return 'is no host name and no IP address: write it as in "localhost", "*.dev.example" or "127.0.0.1"'
    return ""


def _shown(name: str) -> str:
    text = name if len(name) <= 60 else f"{name[:57]}..."
    return f'"{text}"' if text.isprintable() else ascii(text)
