"""Where requests would go: `router check --request` and `--requests`.

Asks the very table that the running router asks, compiled from the same file, and shows what it says. Malformed header
fields and what filters answer are not told; of endpoints it is said who could be chosen were all of them up.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import msgspec

from router.cli_cases import Case, load_cases
from router.cli_check import show_faults
from router.cli_explain import print_explanation
from router.cli_output import print_faults, print_json, print_table, table
from router.cli_requests import Request
from router.explanation import Explanation
from router.faults import ConfigFaults, Fault, Source, did_you_mean
from router.model import Exchange
from router.options import share_text
from router.policy.destination import find_destination
from router.policy.explaining import explain
from router.policy.routes import Route
from router.policy.table import Table
from router.prepare import prepare_file

__all__ = ["Verdict", "check_requests", "decide"]


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
    why = [_explained(routes, request) for request in requests]
    tested = [decide(routes, case.request, prepared.source) for case in cases]
    faults: list[list[Fault]] = []
    if source is not None:
        faults = [list(_mismatches(*pair, routes, source)) for pair in zip(cases, tested, strict=True)]
    if as_json:
        _print_json(asked, why, tested, faults)
    else:
        _print_table(asked)
        for explanation in why:
            print()
            print_explanation(msgspec.to_builtins(explanation), as_json=False)
        _print_result(tests, faults)
    return int(any(faults))


def decide(table: Table, request: Request, source: Source | None) -> Verdict:
    """What the routes of `table` say of a request.

    Args:
        source: the configuration, for the places of routes.
    """
    found = find_destination(table, _exchange(request))
    route = found.route
    return Verdict(
        request.text,
        route.name if route is not None else "",
        route_place(route, source) if route is not None else "",
        tuple(PoolPart(pool.name, share) for pool, share in found.pools),
        found.target,
        found.status,
        found.reason,
    )


def _exchange(request: Request) -> Exchange:
    return Exchange(
        method=request.method,
        target=request.target,
        host=request.host,
        head=request.head,
        client=request.client,
        scheme=request.scheme,
    )


def _explained(table: Table, request: Request) -> Explanation:
    """Where the request would go, and why, were every endpoint of the configuration up and without work."""
    for pool in table.pools.values():
        for endpoint in tuple(pool.members.values()):
            pool.probed(endpoint, True, "", 0.0)
    return explain(table, _exchange(request), 0.0)


def route_place(route: Route, source: Source | None) -> str:
    """file:line of a route; "" if it was never written down."""
    return f"{source.name}:{source.positions.key(('routes', route.index))[0]}" if source is not None else ""


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


def _print_json(
    asked: Sequence[Verdict], why: Sequence[Explanation], tested: Sequence[Verdict], faults: Sequence[Sequence[Fault]]
) -> None:
    rows = [
        {**msgspec.to_builtins(verdict), "explained": msgspec.to_builtins(explanation)}
        for verdict, explanation in zip(asked, why, strict=True)
    ]
    rows += [{**msgspec.to_builtins(verdict), "ok": not wrong} for verdict, wrong in zip(tested, faults, strict=True)]
    print_json({"ok": not any(faults), "faults": [fault for each in faults for fault in each], "requests": rows})
