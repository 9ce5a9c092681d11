"""Where a request goes by its route alone: to a pool, to several by chance, or to an answer of the router's own.

Asked by people, not by requests: it changes nothing, draws nothing and never raises. Malformed header fields are no
matter of routes; filters are not asked.
"""

from __future__ import annotations

import random
import re
from typing import NamedTuple

from router.errors import BadRequest, BodyTooLarge, ClientError, MethodNotAllowed, NoRoute, NotImplementedMethod
from router.model import Exchange, Response
from router.policy.pool import Pool
from router.policy.routes import Route
from router.policy.table import Table

__all__ = ["Destination", "find_destination"]

_LENGTH = re.compile(r"[0-9]{1,18}")


class Destination(NamedTuple):
    """What the routes say of one request."""

    #: None if no route takes it.
    route: Route | None = None
    #: Each with its share of 1; several if chance decides, none if the router answers itself.
    pools: tuple[tuple[Pool, float], ...] = ()
    #: Path and query that the endpoint sees, if not those of the request; else "".
    target: str = ""
    #: Of the router's own answer; None if a pool takes it.
    status: int | None = None
    #: Why the router answers itself.
    reason: str = ""


class _ChanceDecides(Exception):
    """Which pool a request goes to is not settled by the request."""


class _NoChance(random.Random):
    """The generator for a question whose answer must not depend on luck."""

    def random(self) -> float:
        raise _ChanceDecides


#: What the parser of heads takes; a test holds the two together.
_METHODS = (
    "ACL BIND CHECKOUT CONNECT COPY DELETE GET HEAD LINK LOCK M-SEARCH MERGE MKACTIVITY MKCALENDAR MKCOL MOVE NOTIFY"
    " OPTIONS PATCH POST PROPFIND PROPPATCH PURGE PUT QUERY REBIND REPORT SEARCH SOURCE SUBSCRIBE TRACE UNBIND UNLINK"
    " UNLOCK UNSUBSCRIBE"
)
METHODS = frozenset(_METHODS.split())
_NO_CHANCE = _NoChance(0)


def find_destination(table: Table, exchange: Exchange) -> Destination:
    """What the routes of `table` say of an exchange."""
    try:
        return _found(table, exchange)
    except ClientError as error:
        return Destination(status=error.status, reason=error.detail or error.title)
    except ValueError as error:
        return Destination(status=BadRequest.status, reason=str(error))


def _found(table: Table, exchange: Exchange) -> Destination:
    """Raises what the router turns into answers: ClientError, and ValueError for 400."""
    if exchange.method not in METHODS:
        raise NotImplementedMethod("the request's method is not known")
    if exchange.method == "CONNECT":
        raise MethodNotAllowed("the router is no tunnel")
    if _asks_for_health(exchange, table.health_path):
        return Destination(status=200, reason="the router's own health")
    route = table.routes.match(exchange)
    if route is None:
        raise NoRoute("no route")
    if route.answer is not None:
        return _answered(route, route.answer.response(exchange))
    length = exchange.header("Content-Length") or ""
    if _LENGTH.fullmatch(length) and int(length) > route.max_body:
        return Destination(route, status=BodyTooLarge.status, reason="the body is larger than max_body")
    return Destination(route, _pools(route, exchange), _rewritten(route, exchange))


def _asks_for_health(exchange: Exchange, path: str) -> bool:
    """As pages.py has it, which answers these before any route is asked."""
    return bool(path) and exchange.path in (path, f"{path}/ready", f"{path}/live")


def _answered(route: Route, answer: Response) -> Destination:
    places = [value.decode("latin-1") for name, value in answer.headers if name.lower() == b"location"]
    reason = f"sent to {places[0]}" if places else "answered by the route"
    return Destination(route, status=answer.status, reason=reason)


def _pools(route: Route, exchange: Exchange) -> tuple[tuple[Pool, float], ...]:
    if route.split is None:
        return ((route.pool, 1.0),)
    try:
        return ((route.split.choose(exchange, _NO_CHANCE), 1.0),)
    except _ChanceDecides:
        return tuple((pool, share) for pool, share in route.split.pools if share)


def _rewritten(route: Route, exchange: Exchange) -> str:
    """The target that the endpoint sees, if it is another than the client's."""
    if route.rewriting is None:
        return ""
    lines = exchange.head[exchange.head.find(b"\r\n") : -2]
    target = route.rewriting.request(exchange.target, lines)[0]
    return target if target != exchange.target else ""
