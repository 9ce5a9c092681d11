"""Where requests would go: `router check --request` and `--requests`.

Asks the very table that the running router asks, compiled from the same file, and shows what it says. Malformed header
fields, what filters answer and which endpoint is chosen are no matter of routes, and not told.
"""

from __future__ import annotations

import random
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import msgspec
from msgspec.structs import replace

from router.cli_cases import Case, load_cases
from router.cli_check import prepare_file, show_faults
from router.cli_output import print_faults, print_json, print_table, table
from router.cli_requests import Request
from router.errors import BadRequest, BodyTooLarge, ClientError, MethodNotAllowed, NoRoute
from router.faults import ConfigFaults, Fault, Source, did_you_mean
from router.model import Exchange, Response
from router.net.pages import health_response
from router.options import share_text
from router.policy.routes import Route
from router.policy.table import Table

__all__ = ["Verdict", "check_requests", "decide"]

_LENGTH = re.compile(r"[0-9]{1,18}")


class PoolPart(msgspec.Struct, frozen=True):
    """A pool that may get a request, and how likely: 0 to 1."""

    name: str
    share: float


class Verdict(msgspec.Struct, frozen=True):
    """What the routes say of one request."""

    request: str
    #: "" if none takes it.
    route: str = ""
    #: file:line of the route.
    place: str = ""
    #: Empty if the router answers itself; several if chance decides.
    pools: tuple[PoolPart, ...] = ()
    #: Path and query that the endpoint sees.
    target: str = ""
    #: Of the router's own answer; None if a pool answers.
    status: int | None = None
    #: Why the router answers itself.
    reason: str = ""

    @property
    def goal(self) -> str:
        """Where it goes, in words."""
        if self.status is not None:
            return f"{self.status}, {self.reason}"
        rewritten = f", as {self.target}" if self.target else ""
        if len(self.pools) == 1:
            return f"pool {self.pools[0].name}{rewritten}"
        return "pools " + ", ".join(f"{pool.name} {share_text(pool.share)}" for pool in self.pools) + rewritten

    def __str__(self) -> str:
        route = f"takes route {self.route!r}{f' ({self.place})' if self.place else ''}: " if self.route else "gets "
        return f"{self.request} {route}{self.goal}"


class _ChanceDecides(Exception):
    """Which pool a request goes to is not settled by the request."""


class _NoChance(random.Random):
    """The generator for a question whose answer must not depend on luck."""

    def random(self) -> float:
        raise _ChanceDecides

    def getrandbits(self, k: int) -> int:
        raise _ChanceDecides


def check_requests(file: Path, requests: Sequence[Request], tests: Path | None, as_json: bool) -> int:
    """Says where requests go; checks those of a file against what it expects.

    Args:
        file: the configuration.
        requests: of the command line.
        tests: a file of requests.

    Returns:
        The exit code: 0; 1 if a request of the file goes elsewhere; 2 if a file is faulty.
    """
    try:
        prepared = prepare_file(file)
        cases, source = load_cases(tests) if tests else ([], None)
    except ConfigFaults as error:
        return show_faults(error.faults, as_json)
    routes = prepared.table(1, 0.0)
    asked = [decide(routes, request, prepared.source) for request in requests]
    tested = [decide(routes, case.request, prepared.source) for case in cases]
    faults: list[list[Fault]] = []
    if source is not None:
        faults = [list(_mismatches(*pair, routes, source)) for pair in zip(cases, tested, strict=True)]
    if as_json:
        _print_json(asked, tested, faults)
    else:
        _print_table(asked)
        _print_result(tests, faults)
    return int(any(faults))


def decide(table: Table, request: Request, source: Source | None) -> Verdict:
    """What the routes of `table` say of a request.

    Args:
        source: the configuration, for the places of routes.
    """
    exchange = Exchange(
        method=request.method,
        target=request.target,
        host=request.host,
        head=request.head,
        client=request.client,
        scheme=request.scheme,
    )
    try:
        return _decide(table, request, exchange, source)
    except ClientError as error:
        return Verdict(request.text, status=error.status, reason=error.detail or error.title)
    except ValueError as error:
        return Verdict(request.text, status=BadRequest.status, reason=str(error))


def _decide(table: Table, request: Request, exchange: Exchange, source: Source | None) -> Verdict:
    """As `decide`. Raises what the router turns into answers: ClientError, and ValueError for 400."""
    if request.method == "CONNECT":
        raise MethodNotAllowed("the router is no tunnel")
    path = table.health_path
    if path and health_response(exchange, path, draining=False, closes=False) is not None:
        return Verdict(request.text, status=200, reason="the router's own health")
    route = table.routes.match(exchange)
    if route is None:
        raise NoRoute("no route")
    place = f"{source.name}:{source.positions.key(('routes', route.index))[0]}" if source else ""
    found = Verdict(request.text, route.name, place)
    if route.answer is not None:
        return _answered(found, route.answer.response(exchange))
    length = exchange.header("Content-Length") or ""
    if _LENGTH.fullmatch(length) and int(length) > route.max_body:
        return replace(found, status=BodyTooLarge.status, reason="the body is larger than max_body")
    return replace(found, pools=_pools(route, exchange), target=_rewritten(route, exchange))


def _answered(found: Verdict, answer: Response) -> Verdict:
    places = [value.decode("latin-1") for name, value in answer.headers if name.lower() == b"location"]
    reason = f"sent to {places[0]}" if places else "answered by the route"
    return replace(found, status=answer.status, reason=reason)


def _pools(route: Route, exchange: Exchange) -> tuple[PoolPart, ...]:
    if route.split is None:
        return (PoolPart(route.pool.name, 1.0),)
    try:
        return (PoolPart(route.split.choose(exchange, _NoChance()).name, 1.0),)
    except _ChanceDecides:
        return tuple(PoolPart(pool.name, share) for pool, share in route.split.pools if share)


def _rewritten(route: Route, exchange: Exchange) -> str:
    """The target that the endpoint sees, if it is another than the client's."""
    if route.rewriting is None:
        return ""
    lines = exchange.head[exchange.head.find(b"\r\n") : -2]
    target = route.rewriting.request(exchange.target, lines)[0]
    return target if target != exchange.target else ""


def _mismatches(case: Case, verdict: Verdict, routes: Table, source: Source) -> Iterator[Fault]:
    """What a request of a file comes to instead of what the file says."""
    for key, expected in case.expected.items():
        if key == "pool":
            agrees, known = expected in [pool.name for pool in verdict.pools], list(routes.pools)
        elif key == "route":
            agrees, known = expected == verdict.route, [route.name for route in routes.routes.routes]
        else:
            agrees, known = expected == verdict.status, []
        if not agrees:
            hint = _unknown(key, str(expected), known)
            yield source.fault(("requests", case.index, key), str(verdict), hint, at_value=True)


def _unknown(key: str, name: str, known: Iterable[str]) -> str:
    if not known or name in known:
        return ""
    near = did_you_mean(name, known)
    return f"there is no such {key}" + (f", {near}" if near else "")


def _print_table(verdicts: Sequence[Verdict]) -> None:
    if not verdicts:
        return
    from rich.text import Text

    shown = table("request", "route", "goes to")
    for verdict in verdicts:
        route = f"{verdict.route} ({verdict.place})" if verdict.route else "none"
        # Text, for brackets in a URL are no markup.
        shown.add_row(*map(Text, (verdict.request, route, verdict.goal)))
    print_table(shown)


def _print_result(tests: Path | None, faults: Sequence[Sequence[Fault]]) -> None:
    if tests is None:
        return
    wrong = sum(map(bool, faults))
    if wrong:
        print_faults([fault for each in faults for fault in each], sys.stdout)
    count = f"{len(faults)} request" + "s" * (len(faults) != 1)
    print(f"{tests}: {count}: " + (f"{wrong} not as expected" if wrong else "ok"))


def _print_json(asked: Sequence[Verdict], tested: Sequence[Verdict], faults: Sequence[Sequence[Fault]]) -> None:
    rows = [msgspec.to_builtins(verdict) for verdict in asked]
    rows += [{**msgspec.to_builtins(verdict), "ok": not wrong} for verdict, wrong in zip(tested, faults, strict=True)]
    print_json({"ok": not any(faults), "faults": [fault for each in faults for fault in each], "requests": rows})
