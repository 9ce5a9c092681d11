"""Certificates from an ACME directory (RFC 8555): obtained and renewed with http-01, which the router itself answers.

Never without a certificate once it had one: what the folder holds is shown at once and goes on through every failure.
Nothing here waits for network or disk on the event loop, and nothing here gives up.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from router import Certificate, Tools
from router_tls.acme_options import AcmeOptions
from router_tls.acme_schedule import Pauses, renew_at
from router_tls.acme_store import Store
from router_tls.acme_trouble import AcmeError, log, shown
from router_tls.pem import Examined

if TYPE_CHECKING:
    import ssl

__all__ = ["AcmeOptions", "AcmeSource"]

#: Seconds after which the clock and the folder are looked at again, whatever is due: clocks are set, machines sleep.
_EVERY = 3600.0
#: Seconds until the next look where another source or process is at it.
_BUSY = 10.0
#: Seconds until the next attempt after a certificate that is to be renewed as soon as it comes.
_OLD = 6 * 3600.0
#: Seconds by which clocks may differ before it is said.
_SKEW = 300.0


class AcmeSource:
    """One certificate for the names, kept in the folder and renewed when a third of its life is left.

    Args:
        now: seconds since the epoch.
        pauses: after failures.
    """

    #: The authority comes back to the listener without TLS.
    needs_listeners = True

    def __init__(
        self,
        options: AcmeOptions,
        tools: Tools,
        *,
        now: Callable[[], float] = time.time,
        pauses: Pauses | None = None,
    ) -> None:
        self._options = options
        self._now = now
        self._pauses = pauses or Pauses(tools.rng)
        self._chance = tools.rng.random()
        self._store = Store(tools.folder / options.folder, options.url, options.wanted, options.key_type)
        self._ca = tools.folder / options.ca if options.ca else None
        self._label = shown(", ".join(options.wanted), 200)

    def load(self) -> Sequence[Certificate]:
        """What the folder holds and is valid now; nothing if it holds nothing, for it is obtained later.

        Raises:
            ValueError: the CA file or the folder cannot serve.
        """
        self._context()
        self._store.check()
        now = self._now()
        own = None
        with suppress(ValueError):
            own = self._store.own(mend=False)
        if own is not None and own.certificate.not_after > now:
            return [own.certificate]
        return [held.certificate for held in self._store.others(now)]

    async def watch(self, challenges: dict[str, bytes]) -> AsyncIterator[Sequence[Certificate]]:
        """Each complete set. Nothing as long as there is no certificate at all; never raises."""
        from asyncio import sleep, to_thread

        own: Examined | None = None
        certificates: list[Certificate] = []
        last: list[Certificate] = []
        pause = 0.0
        while True:
            try:
                own, certificates = await to_thread(self._look)
            except (OSError, ValueError) as error:
                pause = self._failed(error, own)
            if certificates and certificates != last:
                last = certificates
                yield certificates
            due = self._due(own) - self._now()
            if pause == 0.0 and due <= 0:
                # Before any pause comes another look: also what is odd is shown at once.
                pause = await self._attempt(challenges, own)
                continue
            await sleep(pause or min(due, _EVERY))
            pause = 0.0

    def _look(self) -> tuple[Examined | None, list[Certificate]]:
        """The certificate for the names, and all that are to be shown."""
        now = self._now()
        self._store.check()
        own = self._store.own()
        shown = [] if own is None else [own.certificate]
        if own is None or own.certificate.not_after <= now:
            shown += [held.certificate for held in self._store.others(now)]
        return own, shown

    def _due(self, own: Examined | None) -> float:
        return 0.0 if own is None else renew_at(own.not_before, own.certificate.not_after, self._chance)

    async def _attempt(self, challenges: dict[str, bytes], seen: Examined | None) -> float:
        """Tries to obtain the certificate; seconds until the next look."""
        from asyncio import to_thread

        from router_tls.acme_order import Attempt

        lock = self._store.lock()
        try:
            await to_thread(self._store.prepare)
            if not await to_thread(lock.take):
                return _BUSY
            if await to_thread(self._store.own) != seen:
                # Another process was quicker.
                return 0.0
            tls = await to_thread(self._context)
            return self._obtained(await Attempt(self._options, self._store, tls, challenges).obtain())
        except Exception as error:
            # Whatever it is: the certificate goes on, and so do the attempts.
            return self._failed(error, seen)
        finally:
            lock.drop()

    def _obtained(self, held: Examined) -> float:
        now, due = self._now(), self._due(held)
        if due <= now:
            # The next would be no better, and authorities count them.
            wait = min(held.certificate.not_after - held.not_before, _OLD)
            wrong = "the one that came is old already: is this machine's clock right?"
            return self._failed(AcmeError(wrong, wait=wait), held)
        self._pauses.well()
        if held.not_before > now + _SKEW:
            log.warning(
                "acme: the certificate for %s is not valid before %s: is this machine's clock right?",
                self._label,
                _date(held.not_before),
            )
        log.info(
            "acme: a certificate for %s, valid until %s; renewed from %s on",
            self._label,
            _date(held.certificate.not_after),
            _date(due),
        )
        return 0.0

    def _failed(self, error: Exception, held: Examined | None) -> float:
        pause = self._pauses.failed(error.wait if isinstance(error, AcmeError) else 0.0)
        log.warning(
            "acme: no new certificate for %s: %s; next attempt in %s; %s",
            self._label,
            _told(error),
            _span(pause),
            self._rest(held),
        )
        return pause

    def _rest(self, held: Examined | None) -> str:
        if held is None:
            return "there is none for all these names yet"
        until = held.certificate.not_after
        if until <= self._now():
            return f"the last one goes on, though it expired {_date(until)}"
        return f"the last one goes on, valid until {_date(until)}"

    def _context(self) -> ssl.SSLContext:
        return _context(self._ca)


def _context(ca: Path | None) -> ssl.SSLContext:
    import ssl

    try:
        return ssl.create_default_context(cafile=ca)
    except ssl.SSLError:
        raise ValueError(f'ca "{shown(str(ca))}" holds no certificate in PEM') from None
    except OSError as error:
        raise ValueError(f'ca "{shown(str(ca))}" cannot be read: {error.strerror or error}') from None


def _told(error: Exception) -> str:
    if isinstance(error, AcmeError | OSError | ValueError) and str(error):
        return shown(str(error), 400)
    return shown(f"{type(error).__name__}: {error}", 400)


def _date(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds))


def _span(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
