"""Endpoints from DNS: the addresses of a name (A, AAAA), or the servers of a service (SRV, RFC 2782).

Asked again when the shortest time to live ends, within bounds. An answer without records is no reason to empty a pool.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Sequence
from ipaddress import ip_address
from typing import Annotated, Literal

from msgspec import Meta

from router import Duration, EndpointSpec, Options, Tools
from router_discovery.trouble import DiscoveryError, Voice, shown

__all__ = ["DnsOptions", "DnsSource"]

_LABEL = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
#: With a port, an IPv6 address stands in brackets.
_SERVER = re.compile(r"(?:\[([^]]*)\]|([^:]*)):([0-9]{1,5})")
_KINDS = {"A": ("A",), "AAAA": ("AAAA",), "A+AAAA": ("A", "AAAA"), "SRV": ("SRV",)}
_LEAST_INTERVAL = 0.01


class DnsOptions(Options, frozen=True):
    """What is asked, whom, and how often.

    Args:
        name: with its domain, as in "web.example.test" or "_http._tcp.example.test". A short one is searched for as
            /etc/resolv.conf says.
        records: "A" and "AAAA" give one endpoint per address, "SRV" one per target, at its host name.
        port: of the endpoints; SRV records have their own.
        scheme: of the endpoints.
        resolver: addresses of name servers, as in "127.0.0.1:5353"; those of /etc/resolv.conf if there are none.
        timeout: of one look-up, its repetitions included.
        min_interval: no look-up sooner after the last, however short the time to live; after a failure just then.
        max_interval: none later.
        accept_empty: whether an answer without records empties the pool. Else the last ones stay.
    """

    name: str
    records: Literal["A", "AAAA", "A+AAAA", "SRV"] = "A"
    port: Annotated[int, Meta(ge=0, le=65535)] = 0
    scheme: Literal["http", "https"] = "http"
    resolver: tuple[str, ...] = ()
    timeout: Duration = Duration(5)
    min_interval: Duration = Duration(5)
    max_interval: Duration = Duration(300)
    accept_empty: bool = False

    def __post_init__(self) -> None:
        _check_name(self.name)
        if self.records == "SRV" and self.port:
            raise ValueError("SRV records name the port: leave port out")
        if self.records != "SRV" and not self.port:
            raise ValueError(f"{self.records} records name no port: set port, as in 8080")
        if self.scheme == "https":
            raise ValueError("scheme: TLS to endpoints is not supported yet; use http for now")
        for server in self.resolver:
            _server(server)
        if not 0 < self.timeout < float("inf"):
            raise ValueError('timeout is a time above 0, such as "5s"')
        if not _LEAST_INTERVAL <= self.min_interval <= self.max_interval < float("inf"):
            raise ValueError("min_interval is at least 10 ms, and at most max_interval")


class DnsSource:
    """Yields what the records say, again whenever that changes."""

    __slots__ = ("_options", "_voice")

    def __init__(self, options: DnsOptions, tools: Tools) -> None:
        self._options = options
        self._voice = Voice()

    async def watch(self) -> AsyncIterator[Sequence[EndpointSpec]]:
        """Each complete set.

        Raises:
            DiscoveryError: no name server answers, or there are no records. Raised once, while it looks on.
        """
        from asyncio import sleep, to_thread
        from importlib import import_module

        self._voice.begin()
        # Its modules take a fifth of a second to load.
        await to_thread(import_module, "router_discovery.dns_lookup")
        options, last = self._options, None
        while True:
            wait = float(options.min_interval)
            try:
                specs, lifetime = await self._look_up()
                wait = min(max(lifetime, wait), options.max_interval)
            except DiscoveryError as trouble:
                self._voice.tell(trouble.within(shown(options.name)))
            else:
                self._voice.well()
                if specs != last:
                    yield specs
                    last = specs
            await sleep(wait)

    async def _look_up(self) -> tuple[list[EndpointSpec], float]:
        """The endpoints, and for how many seconds they may be believed."""
        from router_discovery.dns_lookup import Lookup

        options = self._options
        lookup = await Lookup.ready([_server(text) for text in options.resolver], options.timeout)
        specs: list[EndpointSpec] = []
        lifetime = float(options.max_interval)
        for kind in _KINDS[options.records]:
            records, seconds = await lookup.ask(options.name, kind)
            specs += _services(records, options) if kind == "SRV" else _addresses(records, options)
            lifetime = min(lifetime, seconds)
        if not specs and not options.accept_empty:
            raise DiscoveryError(f"no {options.records} records; to let that empty the pool, set accept_empty = true")
        return specs, lifetime


def _addresses(records: Sequence[str], options: DnsOptions) -> list[EndpointSpec]:
    # In one order, for servers turn the records round at each answer.
    found = sorted({ip_address(record) for record in records})
    hosts = (f"[{address}]" if address.version == 6 else str(address) for address in found)
    return [EndpointSpec(f"{options.scheme}://{host}:{options.port}") for host in hosts]


def _services(records: Sequence[tuple[int, int, int, str]], options: DnsOptions) -> list[EndpointSpec]:
    """Priorities become 0, 1, 2 ... in their order. A weight of 0 is a very small one, or all are alike (RFC 2782)."""
    ranks = {priority: rank for rank, priority in enumerate(sorted({record[0] for record in records}))}
    found: dict[str, EndpointSpec] = {}
    for priority, weight, port, target in sorted(records):
        if target and not _is_name(target):
            raise DiscoveryError(f'the target "{shown(target)}" of a record is no host name')
        url = f"{options.scheme}://{target}:{port}"
        # A target of "." says that there is no such service; port 0 can only mean the same.
        if target and port and url not in found:
            found[url] = EndpointSpec(url, weight=weight or 1, priority=min(ranks[priority], 255))
    return list(found.values())


def _check_name(name: str) -> None:
    bare = name.removesuffix(".")
    if not name.isascii():
        raise ValueError("name stands in its ASCII form, as in xn--bcher-kva.example")
    if _is_address(bare):
        raise ValueError("name is an address already: write it into the pool's endpoints")
    if not _is_name(bare):
        raise ValueError('name is a host name, as in "web.example.test", without scheme and port')


def _is_name(text: str) -> bool:
    return len(text) <= 253 and all(map(_LABEL.fullmatch, text.split(".")))


def _server(text: str) -> tuple[str, int]:
    """Reads "127.0.0.1", "127.0.0.1:5353", "::1" or "[::1]:5353"."""
    found = _SERVER.fullmatch(text)
    host, port = (found[1] or found[2], found[3]) if found else (text, "53")
    if not _is_address(host) or not 0 < int(port) < 65536:
        raise ValueError(f'resolver: "{shown(text)}" is no address, as in "127.0.0.1:5353" or "[::1]:53"')
    return host, int(port)


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True
