"""One look-up of records with dnspython, whose errors become sentences here. Loaded when first needed."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

import dns.asyncresolver
import dns.exception
import dns.nameserver
import dns.resolver

from router_discovery.trouble import DiscoveryError, shown

__all__ = ["Lookup"]

#: Bytes of an answer by UDP that pass everywhere in one piece.
_PAYLOAD = 1232
#: Seconds after which a question is asked again.
_PATIENCE = 2.0
#: Seconds after which a cancellation that had no effect is taken for lost.
_LOST = 0.05

T = TypeVar("T")


class Lookup:
    """Asks name servers. Make one with `ready`."""

    __slots__ = ("_resolver", "_search")

    def __init__(self, resolver: dns.asyncresolver.Resolver, search: bool) -> None:
        self._resolver = resolver
        self._search = search

    @classmethod
    async def ready(cls, servers: Sequence[tuple[str, int]], lifetime: float) -> Lookup:
        """Made in a thread, for it may read /etc/resolv.conf: anew each time, since that changes too.

        Args:
            servers: address and port of each; the system's if there are none.
            lifetime: seconds for one question, its repetitions included.
        """
        try:
            resolver = await asyncio.to_thread(dns.asyncresolver.Resolver, configure=not servers)
        except (dns.resolver.NoResolverConfiguration, OSError, ValueError):
            raise DiscoveryError('no name servers in /etc/resolv.conf: set resolver, as in ["127.0.0.1:53"]') from None
        if servers:
            resolver.nameservers = [dns.nameserver.Do53Nameserver(host, port) for host, port in servers]
        resolver.lifetime = lifetime
        resolver.timeout = min(_PATIENCE, lifetime / 2)
        resolver.use_edns(0, 0, _PAYLOAD)
        return cls(resolver, not servers)

    async def ask(self, name: str, kind: str) -> tuple[list[Any], float]:
        """The records, and for how many seconds they hold.

        Args:
            kind: "A" and "AAAA" give addresses, "SRV" (priority, weight, port, target), the target "" for none.

        Returns:
            No records where the name or its records do not exist.

        Raises:
            DiscoveryError: nobody answered, or only with errors.
        """
        try:
            answer = await _ended(self._resolver.resolve(name, kind, raise_on_no_answer=False, search=self._search))
        except dns.resolver.NXDOMAIN:
            return [], 0.0
        except dns.exception.Timeout:
            raise DiscoveryError(f"no name server answered within {self._resolver.lifetime:g} s") from None
        except dns.resolver.NoNameservers as error:
            raise DiscoveryError(_refusal(error)) from None
        except (dns.exception.DNSException, OSError, ValueError) as error:
            raise DiscoveryError(f"the look-up failed: {shown(str(error) or type(error).__name__, 80)}") from None
        records = [_plain(record) for record in answer.rrset or ()]
        return records, float(answer.chaining_result.minimum_ttl)


async def _ended(asking: Coroutine[Any, Any, T]) -> T:
    """Its result, in a task of its own that is cancelled until it is over.

    dnspython waits by asyncio.wait_for, which in Python 3.11 loses a cancellation that comes together with the result.
    """
    task = asyncio.ensure_future(asking)
    try:
        await asyncio.wait([task])
    finally:
        while not task.done():
            task.cancel()
            await asyncio.wait([task], timeout=_LOST)
        if not task.cancelled():
            # Looked at, so that nobody complains of it where we were cancelled.
            task.exception()
    return task.result()


def _refusal(error: dns.resolver.NoNameservers) -> str:
    """What each server said last: "127.0.0.1 port 53: SERVFAIL"."""
    said = {f"{host} port {port}": str(why) or type(why).__name__ for host, _, port, why, _ in _errors(error)}
    told = "; ".join(f"{_address(server)}: {shown(why, 60)}" for server, why in list(said.items())[:3])
    return f"no name server gave an answer ({shown(told, 80) or 'none could be asked'})"


def _errors(error: dns.resolver.NoNameservers) -> list[Any]:
    return list(error.kwargs.get("errors", ()))


def _address(server: str) -> str:
    """Of a name server as dnspython writes it, "Do53:127.0.0.1@53"."""
    return server.removeprefix("Do53:").partition("@")[0] + server[server.rfind(" port ") :]


def _plain(record: Any) -> Any:
    if hasattr(record, "target"):
        target = record.target.to_text(omit_final_dot=True).lower()
        return record.priority, record.weight, record.port, "" if target in ("", ".") else target
    return record.address
