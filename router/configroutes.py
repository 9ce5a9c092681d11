"""What must hold of routes: where they lead, what they match, what they do to a request and its response.

Each check yields what it finds, like those of configcheck.py, and needs no plugin and no socket.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from router.config import AnswerConfig, Config, HeadersConfig, RouteConfig
from router.configactions import (
    REDIRECTS,
    authority_problem,
    field_value_problem,
    redirect_problem,
    replacement_problem,
    request_field_problem,
    response_field_problem,
    split_problem,
    strip_problem,
)
from router.configfill import Problem
from router.configforms import header_name_problem, host_problem, method_problem, path_problem
from router.configfound import Found, check_each, check_longer_than_zero, check_plugins, listed
from router.faults import did_you_mean
from router.positions import Path

__all__ = ["check_routes"]

#: Statuses whose responses have no body (RFC 9110 §15.3.5, §15.3.6, §15.4.5).
_BODILESS = (204, 205, 304)


def check_routes(config: Config) -> Iterator[Found]:
    """All faults of the routes; their names are checked with those of pools."""
    pools = {pool.name for pool in config.pools}
    for index, route in enumerate(config.routes):
        path: Path = ("routes", index)
        yield from _check_target(route, path, pools)
        yield from check_each(host_problem, route.host, (*path, "host"))
        yield from check_each(path_problem, route.path, (*path, "path"))
        yield from check_each(method_problem, route.methods, (*path, "methods"))
        for name in route.headers:
            yield from check_each(header_name_problem, name, (*path, "headers", name))
        yield from check_longer_than_zero(route, path, ("timeout",))
        yield from check_plugins(route.filters, (*path, "filters"))
        yield from _check_rewrite(route, (*path, "rewrite"))
        yield from _check_headers(route.request_headers, request_field_problem, (*path, "request_headers"))
        yield from _check_headers(route.response_headers, response_field_problem, (*path, "response_headers"))
        if route.answer is not None:
            yield from _check_answer(route, route.answer, path)
    yield from _check_reach(config.routes)


def _check_target(route: RouteConfig, path: Path, pools: set[str]) -> Iterator[Found]:
    given = [key for key in ("pool", "pools", "answer") if getattr(route, key) not in ("", (), None)]
    if not given:
        hint = "add pool = …, with the name of a pool"
        yield Found(
            path, "this route leads nowhere: it needs one of 'pool', 'pools' and 'answer'", hint, at_value=False
        )
    for key in given[1:]:
        message = f"the route has a {given[0]!r} already; it leads to one of 'pool', 'pools' and 'answer'"
        yield Found((*path, key), message, "leave one of them out")
    if route.pool and route.pool not in pools:
        yield _no_such_pool(route.pool, pools, (*path, "pool"))
    seen: set[str] = set()
    for index, share in enumerate(route.pools):
        at: Path = (*path, "pools", index, "name")
        if share.name not in pools:
            yield _no_such_pool(share.name, pools, at)
        elif share.name in seen:
            yield Found(at, "this pool stands here twice", "add its weights up")
        seen.add(share.name)
    if route.pools and not any(share.weight for share in route.pools):
        yield Found((*path, "pools"), "every pool has weight 0, so none would take a request")
    yield from check_each(split_problem, route.split_by, (*path, "split_by"))
    if route.split_by != "random" and given and not route.pools and not split_problem(route.split_by):
        yield Found((*path, "split_by"), "there is nothing to split", "it belongs to 'pools'")


def _no_such_pool(name: str, pools: Iterable[str], path: Path) -> Found:
    names = sorted(pools)
    known = "the pools are " + ", ".join(map(repr, names[:5])) + (", …" if len(names) > 5 else "") if names else ""
    return Found(path, "there is no such pool", did_you_mean(name, names) or known)


def _check_rewrite(route: RouteConfig, path: Path) -> Iterator[Found]:
    rewrite = route.rewrite
    for key, problem_of in (
        ("strip_prefix", strip_problem),
        ("replace_prefix", replacement_problem),
        ("host", authority_problem),
    ):
        problem = problem_of(getattr(rewrite, key)) if getattr(rewrite, key) else None
        if problem is not None:
            yield Found((*path, key), *problem)
    prefix = rewrite.strip_prefix
    patterns = listed(route.path) or ("/*",)
    sound = prefix and not strip_problem(prefix) and not any(map(path_problem, patterns))
    if sound and not any(_meets(pattern, prefix) for pattern in patterns):
        yield Found((*path, "strip_prefix"), "no path of this route begins with this prefix")


def _meets(pattern: str, prefix: str) -> bool:
    """Whether a path can match the pattern and begin with the prefix."""
    base = pattern.removesuffix("/*")
    return f"{base}/".startswith(f"{prefix}/") or (base != pattern and prefix.startswith(f"{base}/"))


def _check_headers(headers: HeadersConfig, problem_of: Callable[[str], Problem | None], path: Path) -> Iterator[Found]:
    seen: dict[str, str] = {}
    for name, value in headers.set.items():
        at: Path = (*path, "set", name)
        problem = problem_of(name) or field_value_problem(value)
        earlier = seen.setdefault(name.lower(), name)
        if problem is not None:
            yield Found(at, *problem)
        elif earlier != name:
            yield Found(at, "this field is set twice: names differ in more than case")
    yield from check_each(problem_of, headers.remove, (*path, "remove"))
    for index, name in enumerate(headers.remove):
        if name.lower() in seen and not problem_of(name):
            yield Found((*path, "remove", index), "this field is set too, which replaces it", "leave it out here")


def _check_answer(route: RouteConfig, answer: AnswerConfig, path: Path) -> Iterator[Found]:
    default = RouteConfig()
    for key in ("timeout", "max_body", "rewrite", "request_headers"):
        if getattr(route, key) != getattr(default, key):
            message = "this has no effect: a route with an answer sends nothing on"
            yield Found((*path, key), message, "leave it out")
    at: Path = (*path, "answer")
    if answer == AnswerConfig():
        yield Found(at, "an answer needs a status, a body or a redirect", "such as { status = 404 }")
    if answer.body and answer.status in _BODILESS:
        yield Found((*at, "body"), f"a response with status {answer.status} has no body")
    located = answer.redirect or "location" in map(str.lower, route.response_headers.set)
    if answer.redirect:
        problem = redirect_problem(answer.redirect)
        if problem is not None:
            yield Found((*at, "redirect"), *problem)
        if answer.status is not None and answer.status not in REDIRECTS:
            yield Found((*at, "status"), "a redirect has one of the statuses 301, 302, 303, 307 and 308")
        if "location" in map(str.lower, (*route.response_headers.set, *route.response_headers.remove)):
            yield Found((*at, "redirect"), "the key 'response_headers' has a Location too", "leave one of them out")
    elif answer.status in REDIRECTS and not located:
        yield Found((*at, "status"), "this status sends the client elsewhere", "say where in 'redirect'")


def _check_reach(routes: tuple[RouteConfig, ...]) -> Iterator[Found]:
    for index, route in enumerate(routes[:-1]):
        paths = listed(route.path)
        if route.host or (paths and "/*" not in paths) or route.methods or route.headers or route.query:
            continue
        rest = len(routes) - index - 1
        after = f"routes[{index + 1}]" if rest == 1 else f"routes[{index + 1}] and the {rest - 1} after it"
        message = f"this route takes every request, so {after} can never be reached"
        yield Found(("routes", index), message, "move it to the end, or give it a host or path", at_value=False)
        return
