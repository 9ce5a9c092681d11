"""Which route a request takes: host, path, method, headers and query, compiled to one lookup.

The first route in file order that matches wins. Hosts and paths are found in dictionaries, so a thousand routes cost
what ten cost; only the other conditions are tried one by one, and only for routes whose host and path already match.
Paths are matched in normal form (RFC 3986 §6.2.2): an encoded slash never counts as a slash, dots cannot climb. A path
that takes another route if read loosely is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import parse_qsl

from router.model import Exchange
from router.policy.normal import AmbiguousPath, loose_forms, may_climb, normal_path, split_host
from router.policy.rewriting import Rewriting

__all__ = ["Route", "RouteTable", "normal_path", "split_host"]

_NEVER = float("inf")
_REMEMBERED_HOSTS = 1024
#: Of a name (RFC 1035 §2.3.4): longer ones are looked up each time.
_LONGEST_REMEMBERED = 253


class Route:
    """One compiled route. Plain data: matching is done by the table."""

    __slots__ = (
        "answer",
        "filters",
        "headers",
        "hosts",
        "index",
        "max_body",
        "methods",
        "name",
        "paths",
        "plain",
        "pool",
        "query",
        "rewriting",
        "split",
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
        timeout: float = _NEVER,
        filters: tuple[Any, ...] = (),
        split: Any = None,
        answer: Any = None,
        max_body: float = _NEVER,
        rewriting: Rewriting | None = None,
    ) -> None:
        self.name = name
        self.index = index
        #: The only pool, or the first one of a split; None for a route that answers itself.
        self.pool = pool
        self.hosts = tuple(host.lower() for host in hosts)
        self.paths = tuple(paths)
        self.methods = frozenset(methods)
        self.headers = tuple((headers or {}).items())
        self.query = tuple((query or {}).items())
        self.timeout = timeout
        self.filters = filters
        #: A Split if there are several pools.
        self.split = split
        #: A GivenAnswer if the route answers itself.
        self.answer = answer
        #: Bytes.
        self.max_body = max_body
        self.rewriting = rewriting
        #: True if a request only has to be passed on to the pool as it came.
        self.plain = not (split or answer or rewriting or filters) and max_body == _NEVER
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

    @property
    def pools(self) -> tuple[Any, ...]:
        """Where its requests may go; none if it answers itself."""
        if self.split is not None:
            return tuple(pool for pool, _ in self.split.pools)
        return (self.pool,) if self.pool is not None else ()

    def leads_to(self, plugin: object) -> bool:
        """Whether a pool of this route calls a plugin object."""
        return any(pool.uses(plugin) for pool in self.pools)


class _Paths:
    """The routes that one host can reach, by path."""

    __slots__ = ("_everywhere", "_exact", "_lengths", "_matters", "_prefixes", "only")

    def __init__(self, routes: list[Route]) -> None:
        self._everywhere: list[Route] = []
        self._exact: dict[str, list[Route]] = {}
        self._prefixes: dict[str, list[Route]] = {}
        for route in routes:
            if not route.paths or "/*" in route.paths:
                self._everywhere.append(route)
                continue
            for path in route.paths:
                if path.endswith("/*"):
                    self._prefixes.setdefault(path[:-1], []).append(route)
                else:
                    self._exact.setdefault(path, []).append(route)
        self._lengths = sorted({len(prefix) for prefix in self._prefixes})
        #: Whether the path changes anything.
        self._matters = bool(self._exact or self._prefixes) or any(map(_moves, routes))
        alone = not self._matters and bool(self._everywhere) and self._everywhere[0].unconditional
        #: Set when every request of this host takes the same route, whatever its path.
        self.only = self._everywhere[0] if alone else None

    def match(self, exchange: Exchange) -> Route | None:
        path = exchange.path
        if not self._matters or not ("%" in path or "/." in path or "//" in path or ";" in path or "\\" in path):
            return self._first(path, exchange)
        found = self._first(normal_path(path), exchange)
        if found is not None:
            self._check(found, path, exchange)
        return found

    def _check(self, found: Route, path: str, exchange: Exchange) -> None:
        """Refuses a path by which a server might understand what another route is there for."""
        forms = loose_forms(path)
        for form in sorted(forms):
            other = self._first(form, exchange)
            if other is not found:
                loosely = f"route {other.name}" if other is not None else "none"
                raise AmbiguousPath(f"the path leads to route {found.name}, or to {loosely} if read loosely")
        if forms and _moves(found) and may_climb(path):
            raise AmbiguousPath(f"the path may climb out of the prefix that route {found.name} gives it")

    def _first(self, path: str, exchange: Exchange) -> Route | None:
        """The first route in file order that takes the exchange, if this is its path."""
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


def _moves(route: Route) -> bool:
    return route.rewriting is not None and route.rewriting.moves


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
            ValueError: the Host field is not a host (RFC 9110 §7.2); "" stands for none, as in HTTP/1.0. Or the path
                might mean another route's to a server (AmbiguousPath).
        """
        paths = self._seen.get(exchange.host)
        if paths is None:
            paths = self._find_host(exchange.host)
        return paths.only or paths.match(exchange)

    def _find_host(self, host: str) -> _Paths:
        paths = self._lookup(split_host(host) if host else "")
        if len(host) <= _LONGEST_REMEMBERED:
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
