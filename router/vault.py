"""The certificates of a process: the sources at work, what they have given, and where it goes.

A source is begun before its listener accepts, so that nobody comes to one without certificates; a source that is asked
back by those it asks (ACME) is begun after it. What one gives later goes to its listener's store in one moment.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Iterator, Mapping, Sequence

from router.model import Certificate
from router.net.certificates import CertificateRun, expiry_warnings
from router.net.sockets import StartError
from router.securing import EndpointSecurity, ListenerSecurity

__all__ = ["Vault"]

log = logging.getLogger("router")

#: Seconds that a start or a reload waits for certificates.
_FIRST = 10.0
#: Seconds between two looks for certificates that end soon.
_DAY = 86_400.0


class Vault:
    """To be made before the loop runs.

    Attributes:
        challenges: ACME token path -> body; filled by sources.
        held: by the identity of sources at work, the certificates that they have.
    """

    def __init__(self) -> None:
        self.challenges: dict[str, bytes] = {}
        self.held: dict[int, tuple[Certificate, ...]] = {}
        self._rng = random.Random()
        self._runs: dict[int, CertificateRun] = {}
        #: Whose certificates a source gives.
        self._homes: dict[int, ListenerSecurity] = {}
        #: Pools that were said to verify nobody.
        self._unverified: set[str] = set()
        self._warner: asyncio.TimerHandle | None = None

    async def prepare(self, wanted: Sequence[tuple[str, ListenerSecurity]]) -> list[int]:
        """Begins the sources of listeners, by their names, that are not at work yet, and waits for what they give.

        Returns:
            What `forget` takes.

        Raises:
            StartError: a listener would have no certificate. Nothing has changed then.
        """
        begun: list[int] = []
        try:
            for name, security in wanted:
                begun += self._begin(name, security)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_FIRST):
                    for key in begun:
                        if key in self._runs:
                            await self._runs[key].first.wait()
            for name, security in wanted:
                self._check(name, security)
        except BaseException:
            await self.forget(begun)
            raise
        return begun

    def _begin(self, name: str, security: ListenerSecurity) -> Iterator[int]:
        for kind, source in security.sources:
            key = id(source)
            if key in self.held:
                continue
            self.held[key] = security.loaded[key]
            self._homes[key] = security
            if not getattr(source, "needs_listeners", False):
                self._run(name, kind, source)
            yield key

    def _run(self, name: str, kind: str, source: object) -> None:
        key = id(source)

        def take(found: tuple[Certificate, ...]) -> None:
            self._take(key, found)

        title = f"listener {name}, certificates {kind}"
        self._runs[key] = CertificateRun(title, source, self.challenges, take, self._rng)  # type: ignore[arg-type]

    def _take(self, key: int, found: tuple[Certificate, ...]) -> None:
        """Raises ValueError if they cannot be used; the old ones stay then."""
        security = self._homes[key]
        others = [self.held[id(source)] for _, source in security.sources if id(source) != key]
        security.store.replace([*found, *(each for others_found in others for each in others_found)])
        self.held[key] = found

    def _check(self, name: str, security: ListenerSecurity) -> None:
        if len(security.store) or any(getattr(source, "needs_listeners", False) for _, source in security.sources):
            return
        whys = {self._runs[id(source)].state for _, source in security.sources if id(source) in self._runs}
        raise StartError(f"listener {name} has no certificate: {'; '.join(sorted(whys))}")

    async def forget(self, begun: list[int]) -> None:
        """Ends sources that are not needed after all."""
        for key in begun:
            self.held.pop(key, None)
            self._homes.pop(key, None)
        ending = [self._runs.pop(key) for key in begun if key in self._runs]
        await asyncio.gather(*(run.close() for run in ending))

    async def become(
        self, wanted: Sequence[tuple[str, ListenerSecurity]], pools: Mapping[str, EndpointSecurity]
    ) -> None:
        """Takes these listeners for those there are; ends the sources of all others.

        Args:
            pools: what speaks TLS with endpoints; said where nobody verifies these.
        """
        unverified = {name for name, security in pools.items() if not security.verified}
        for name in sorted(unverified - self._unverified):
            log.warning('pool %s: tls.verify = "none": its servers may be anybody', name)
        self._unverified = unverified
        used = {id(source): security for _, security in wanted for _, source in security.sources}
        for key, security in used.items():
            if self._homes[key] is not security:
                # What came since it was made.
                security.store.replace([each for _, source in security.sources for each in self.held[id(source)]])
        self._homes.update(used)
        for name, security in wanted:
            for kind, source in security.sources:
                if id(source) not in self._runs:
                    self._run(name, kind, source)
        self._warn()
        await self.forget([key for key in self.held if key not in used])

    @property
    def certificates(self) -> list[Certificate]:
        """All there are."""
        return [each for found in tuple(self.held.values()) for each in found]

    def _warn(self) -> None:
        """Says which certificates end soon: now, and each day."""
        if self._warner is not None:
            self._warner.cancel()
        self._warner = asyncio.get_running_loop().call_later(_DAY, self._warn)
        for line in expiry_warnings(self.certificates, time.time()):
            log.warning("%s", line)

    async def close(self) -> None:
        """Ends all sources."""
        if self._warner is not None:
            self._warner.cancel()
        await self.forget(list(self.held))
