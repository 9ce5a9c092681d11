"""From a configuration to what TLS needs: files read, certificates loaded, contexts made, faults collected.

What `router check` and `router run` share for TLS. Reads files and opens no socket; may run in a thread. Nothing is
made for a configuration without TLS.
"""

from __future__ import annotations

import logging
import os
import stat
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any

from router.config import EndpointTls, ListenerTls, PoolConfig
from router.configcheck import endpoint_specs
from router.faults import ConfigFaults, Fault
from router.model import Certificate
from router.net.tls import Store, endpoint_context
from router.positions import Path
from router.prepare import Prepared

__all__ = ["EndpointSecurity", "ListenerSecurity", "Secured", "secure"]

log = logging.getLogger("router")

_NO_TLS = EndpointTls()
#: Bytes of a file of certificates.
_MOST = 4 << 20


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class ListenerSecurity:
    """What a listener speaks TLS with. The same object over reloads that change nothing of it."""

    #: What the store was made of besides its certificates.
    settings: tuple[str, ...]
    store: Store
    #: Names and sources of certificates.
    sources: tuple[tuple[str, Any], ...]
    #: By the identity of a source: what it had before it was ever asked to watch.
    loaded: dict[int, tuple[Certificate, ...]]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class EndpointSecurity:
    """What connections to the endpoints of a pool speak TLS with; the same object while nothing changes."""

    settings: tuple[str, ...]
    context: Any
    #: "" for the host of each endpoint.
    server_name: str
    verified: bool


@dataclass(frozen=True, slots=True)
class Secured:
    """The TLS of one configuration: by the listener's place in the file, and by the pool's name."""

    listeners: dict[int, ListenerSecurity]
    pools: dict[str, EndpointSecurity]


def secure(
    prepared: Prepared, before: Secured | None = None, held: Mapping[int, tuple[Certificate, ...]] | None = None
) -> Secured:
    """Reads all that TLS needs.

    Args:
        before: of the configuration in force: what is made of the same is kept. Equal results mean: nothing to change.
        held: by the identity of sources at work, what they have. They are not asked again: a file that is half written
            now must not keep a configuration from being taken.

    Raises:
        ConfigFaults: with every fault.
    """
    work = _Work(prepared, before or Secured({}, {}), held or {})
    listeners = dict(work.listeners())
    pools = {name: found for name, found in work.pools() if found is not None}
    if work.faults:
        raise ConfigFaults(work.faults, prepared.config, prepared.source)
    return Secured(listeners, pools)


class _Work:
    def __init__(self, prepared: Prepared, before: Secured, held: Mapping[int, tuple[Certificate, ...]]) -> None:
        self._prepared = prepared
        self._held = held
        self.faults: list[Fault] = []
        self._known = {(each.settings, _identities(each.sources)): each for each in before.listeners.values()}
        #: By settings: pools that agree share one.
        self._made = {each.settings: each for each in before.pools.values()}

    # Listeners

    def listeners(self) -> Iterator[tuple[int, ListenerSecurity]]:
        for index, listener in enumerate(self._prepared.config.listeners):
            if listener.tls is not None:
                yield index, self._listener(index, listener.tls, ("listeners", index, "tls"))

    def _listener(self, index: int, tls: ListenerTls, at: Path) -> ListenerSecurity:
        sources = tuple(self._prepared.certificates.get(index, ()))
        ca = self._text(tls.client_ca, (*at, "client_ca"))
        # Without its CAs nobody can be asked; that was told, and the rest is to be looked at all the same.
        asked = tls.client_auth if ca else "off"
        settings = (tls.profile, tls.default, asked, ca)
        known = self._known.get((settings, _identities(sources)))
        if known is not None:
            return known
        try:
            store = Store(tls.profile, default=tls.default, client_auth=asked, client_ca=ca)
        except ValueError as error:
            self._fault((*at, "client_ca"), str(error).removeprefix("client_ca: "))
            store = Store(tls.profile, default=tls.default)
        made = ListenerSecurity(settings, store, sources, {})
        if all(other.tls is not None for other in self._prepared.config.listeners):
            self._needs_plain(sources, at)
        places = [(*at, "certificates", number) for number in range(len(sources))]
        # Each is asked, for the faults of all.
        complete = [self._loads(made, source, place) for (_, source), place in zip(sources, places, strict=True)]
        try:
            store.replace([each for found in made.loaded.values() for each in found])
        except ValueError as error:
            self._fault((*at, "certificates"), str(error))
        else:
            if all(complete) and tls.default != "refuse" and store.lookup(tls.default) is None:
                self._fault((*at, "default"), "no certificate is for this name")
        return made

    def _needs_plain(self, sources: tuple[tuple[str, Any], ...], at: Path) -> None:
        for number, (name, source) in enumerate(sources):
            if getattr(source, "needs_listeners", False):
                hint = "add a listener without tls, on port 80"
                self._fault(
                    (*at, "certificates", number), f"{name} is asked back in plain HTTP, and all have tls", hint
                )

    def _loads(self, made: ListenerSecurity, source: Any, at: Path) -> bool:
        """Takes what a source has already; whether it has any."""
        load = getattr(source, "load", tuple)
        try:
            found = self._held[id(source)] if id(source) in self._held else tuple(load())
        except ValueError as error:
            self._fault(at, str(error))
        except Exception as error:
            self._fault(at, f"{type(source).__name__} raised {type(error).__name__}: {error}")
        else:
            made.loaded[id(source)] = found
            return bool(found)
        return False

    # Pools

    def pools(self) -> Iterator[tuple[str, EndpointSecurity | None]]:
        for index, pool in enumerate(self._prepared.config.pools):
            if _speaks_tls(pool):
                yield pool.name, self._pool(pool.tls or _NO_TLS, ("pools", index, "tls"))

    def _pool(self, tls: EndpointTls, at: Path) -> EndpointSecurity | None:
        before = len(self.faults)
        texts = {key: self._text(getattr(tls, key), (*at, key)) for key in ("ca", "certificate", "key")}
        if len(self.faults) > before:
            return None
        settings = (*texts.values(), tls.server_name, tls.verify)
        known = self._made.get(settings)
        if known is not None:
            return known
        try:
            context = endpoint_context(**texts, verify=tls.verify)
        except ValueError as error:
            key = "ca" if str(error).startswith("ca") else "certificate"
            self._fault((*at, key), str(error).removeprefix(f"{key}: "))
            return None
        ended = _end_of(texts["certificate"])
        if ended:
            self._fault((*at, "certificate"), f"expired on {ended}", "renew it")
        made = self._made[settings] = EndpointSecurity(settings, context, tls.server_name, tls.verify == "full")
        return made

    # Both

    def _text(self, name: str, at: Path) -> str:
        """What a file holds; "" for none."""
        if not name:
            return ""
        try:
            found = _content(self._prepared.folder / name)
        except (OSError, ValueError) as error:
            self._fault(at, f"cannot be read: {getattr(error, 'strerror', None) or error}")
            return ""
        begin = found.find(b"-----BEGIN")
        if begin < 0 or len(found) > _MOST:
            self._fault(at, "expected a file in PEM form, with -----BEGIN in it", "of at most 4 MiB")
            return ""
        # Only remarks before and between the parts have other letters.
        return found[begin:].decode("ascii", "ignore")

    def _fault(self, at: Path, message: str, hint: str = "") -> None:
        source = self._prepared.source
        if source is None:
            from router.configcheck import as_data
            from router.faults import Source

            source = Source("", "", "toml", as_data(self._prepared.config))
        self.faults.append(source.fault(at, message, hint, at_value=True))


def _identities(sources: tuple[tuple[str, Any], ...]) -> tuple[int, ...]:
    return tuple(id(source) for _, source in sources)


def _content(path: FilePath) -> bytes:
    """Raises OSError; ValueError for what is no regular file."""
    # Without waiting: to open a pipe would last until somebody writes to it.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise ValueError("it is no regular file")
        content = file.read(_MOST + 1)
    if found.st_mode & 0o077 and b"PRIVATE KEY-----" in content:
        log.warning(
            "%s holds a private key, and others may read it (mode %04o): chmod 600", path, found.st_mode & 0o7777
        )
    return content


def _end_of(text: str) -> str:
    """When a certificate has expired; "" if it has not, or there is none."""
    if not text:
        return ""
    from cryptography import x509

    end = x509.load_pem_x509_certificate(text.encode()).not_valid_after_utc
    return f"{end:%Y-%m-%d %H:%M} UTC" if end.timestamp() < time.time() else ""


def _speaks_tls(pool: PoolConfig) -> bool:
    """Whether endpoints may be asked over TLS: those of a discovery are not known yet."""
    return (
        pool.tls is not None
        or bool(pool.discovery)
        or any(spec.url.lower().startswith("https:") for spec in endpoint_specs(pool))
    )
