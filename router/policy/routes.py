"""Which route a request takes: host, path, method, headers and query, compiled to one lookup.

The first route in file order that matches wins. Hosts and paths are found in dictionaries, so a thousand routes cost
what ten cost; only the other conditions are tried one by one, and only for routes whose host and path already match.
Paths are matched in normal form (RFC 3986 §6.2.2): an encoded slash never counts as a slash, dots cannot climb.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import parse_qsl

from router.model import Exchange

__all__ = ["Route", "RouteTable", "normal_path", "split_host"]

# RFC 3986 §3.2.2: a registered name, an IPv4 address or a bracketed IPv6 address, and a port.
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~!$&'()*+,;=%-]+)(?::[0-9]{0,5})?")
_ESCAPE = re.compile(r"%([0-9A-Fa-f]{2})")
_REMEMBERED_HOSTS = 1024


class Route:
    """One compiled route. Plain data: matching is done by the table."""

    __slots__ = (
        "filters",
        "headers",
        "hosts",
        "index",
        "methods",
        "name",
        "paths",
        "pool",
        "query",
        "timeout",
        "unconditional",
    )

    def __init__(
        self,
        name: str,
        index: int,
        pool: Any,
        *,
        hosts: Iterable[str] = (),
        paths: Iterable[str] = (),
        methods: Iterable[str] = (),
        headers: Mapping[str, str] | None = None,
        query: Mapping[str, str] | None = None,
        timeout: float = float("inf"),
        filters: tuple[Any, ...] = (),
    ) -> None:
        self.name = name
        self.index = index
        self.pool = pool
        self.hosts = tuple(host.lower() for host in hosts)
        self.paths = tuple(paths)
        self.methods = frozenset(methods)
        self.headers = tuple((headers or {}).items())
        self.query = tuple((query or {}).items())
        self.timeout = timeout
        self.filters = filters
        #: True if host and path alone decide.
        self.unconditional = not (self.methods or self.headers or self.query)

    def accepts(self, exchange: Exchange) -> bool:
        """Whether the conditions besides host and path hold. A value "*" asks only for presence."""
        if self.methods and exchange.method not in self.methods:
            return False
        for name, wanted in self.headers:
            value = exchange.headers.get(name)
            if value is None or (wanted != "*" and value != wanted):
                return False
        if self.query:
            given = parse_qsl(exchange.query or "", keep_blank_values=True)
            return all(any(n == name and wanted in ("*", v) for n, v in given) for name, wanted in self.query)
        return True

    def __repr__(self) -> str:
        return f"<Route {self.name} hosts={self.hosts} paths={self.paths}>"


class _Paths:
    """The routes that one host can reach, by path."""

    __slots__ = ("_everywhere", "_exact", "_lengths", "_prefixes", "only")

    def __init__(self, routes: list[Route]) -> None:
        self._everywhere: list[Route] = []
        self._exact: dict[str, list[Route]] = {}
        self._prefixes: dict[str, list[Route]] = {}
        for route in routes:
            self._add(route)
        self._lengths = sorted({len(prefix) for prefix in self._prefixes})
        first = self._everywhere[0] if self._everywhere else None
        alone = first is not None and first.unconditional and not self._exact and not self._prefixes
        #: Set when every request of this host takes the same route.
        self.only = first if alone else None

    def _add(self, route: Route) -> None:
        if not route.paths or "/*" in route.paths:
            self._everywhere.append(route)
            return
        for path in route.paths:
            if path.endswith("/*"):
                self._prefixes.setdefault(path[:-1], []).append(route)
            else:
                self._exact.setdefault(path, []).append(route)

    def match(self, exchange: Exchange) -> Route | None:
        path = exchange.path
        if "%" in path or "//" in path or "/." in path:
            path = normal_path(path)
        best: Route | None = None
        for routes in self._reachable(path):
            for route in routes:
                if best is not None and route.index > best.index:
                    break
                if route.unconditional or route.accepts(exchange):
                    best = route
                    break
        return best

    def _reachable(self, path: str) -> Iterable[list[Route]]:
        exact = self._exact.get(path)
        if exact is not None:
            yield exact
        for length in self._lengths:
            if length > len(path):
                break
            under = self._prefixes.get(path[:length])
            if under is not None:
                yield under
        yield self._everywhere


class RouteTable:
    """All routes of a configuration. Immutable but for a bounded memory of Host values already looked up."""

    __slots__ = ("_by_host", "_everyhost", "_seen", "_wildcards", "routes")

    def __init__(self, routes: Iterable[Route]) -> None:
        self.routes = tuple(routes)
        exact = {host for route in self.routes for host in route.hosts if not host.startswith("*.")}
        wild = {host[1:] for route in self.routes for host in route.hosts if host.startswith("*.")}
        self._everyhost = _Paths([route for route in self.routes if not route.hosts])
        self._by_host = {host: _Paths(self._reached_by(host)) for host in exact}
        self._wildcards = {suffix: _Paths(self._reached_by("*" + suffix)) for suffix in wild}
        self._seen: dict[str, _Paths] = {}

    def _reached_by(self, host: str) -> list[Route]:
        wild = {"*" + host[i:] for i, c in enumerate(host) if c == "."} | {host}
        return [route for route in self.routes if not route.hosts or not wild.isdisjoint(route.hosts)]

    def match(self, exchange: Exchange) -> Route | None:
        """The first route in file order that matches.

        Raises:
            ValueError: the Host field is not a host (RFC 9110 §7.2); "" stands for none, as in HTTP/1.0.
        """
        paths = self._seen.get(exchange.host)
        if paths is None:
            paths = self._find_host(exchange.host)
        return paths.only or paths.match(exchange)

    def _find_host(self, host: str) -> _Paths:
        paths = self._lookup(split_host(host) if host else "")
        if len(self._seen) >= _REMEMBERED_HOSTS:
            self._seen.clear()
        self._seen[host] = paths
        return paths

    def _lookup(self, host: str) -> _Paths:
        paths = self._by_host.get(host)
        if paths is not None:
            return paths
        dot = host.find(".")
        while dot != -1:
            paths = self._wildcards.get(host[dot:])
            if paths is not None:
                return paths
            dot = host.find(".", dot + 1)
        return self._everyhost


def split_host(host: str) -> str:
    """The name in a Host field: lower case, without port, brackets kept, without a trailing dot.

    Raises:
        ValueError: not a host.
    """
    found = _HOST.fullmatch(host)
    if found is None:
        raise ValueError("the Host field is not a host name or address")
    return found[1].lower().removesuffix(".")


def normal_path(path: str) -> str:
    """The path that routes are matched against: escapes decoded but for the slash, empty and dot segments resolved.

    `/a%2Fb` stays apart from `/a/b`; `/x/../y`, `/x/%2e%2e/y` and `//y` all are `/y`.
    """
    path = _ESCAPE.sub(_decoded, path)
    done: list[str] = []
    segments = path.split("/")[1:]
    for segment in segments:
        if segment == "..":
            del done[-1:]
        elif segment not in ("", "."):
            done.append(segment)
    tail = "/" if segments and segments[-1] in ("", ".", "..") and done else ""
    return "/" + "/".join(done) + tail


def _decoded(found: re.Match[str]) -> str:
    char = chr(int(found[1], 16))
    return "%2F" if char == "/" else "%25" if char == "%" else char
