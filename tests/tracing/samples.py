"""Spans as the observer makes them, for the page and the file: requests with attempts, retries, hedges and decisions.

Loaded by path, since tests have no package.
"""

from __future__ import annotations

from typing import Any

import msgspec
from router_tracing.span import Attributes, Event, Span

from router.explanation import Choice, Explanation, LeftEndpoint, LeftOut, Option, PoolVerdict, Retries

MS = 1_000_000
#: Nanoseconds since the epoch, and not a whole number of microseconds.
BEGAN = 1_700_000_000_000_000_999


def decision(chosen: str, *, tried: tuple[str, ...] = (), left: dict[str, str] | None = None, status: int = 0) -> str:
    """The JSON of an Explanation among one, two and three. `left`: those left out, and why."""
    out = dict.fromkeys(tried, "tried") | (left or {})
    ready = [name for name in ("one", "two", "three") if name not in out]
    options = tuple(Option(name, 2, 0.5, share=1 / len(ready)) for name in ready)
    pool = PoolVerdict(
        "web",
        1.0,
        "least_request",
        3,
        len(ready),
        4,
        f"{status}: {len(ready)} of 3 endpoints ready" if status else f"one of {len(ready)}, by chance",
        status=status or None,
        left_out=tuple(LeftOut(why, 1, (LeftEndpoint(name, "back in 21 s"),)) for name, why in out.items()),
        choices=(Choice(0, 1.0, len(options), options),) if options else (),
        retries=Retries(2, ("connect", "reset"), 11.4),
    )
    return msgspec.json.encode(Explanation("GET http://shop.example/", "web", pools=(pool,), chosen=chosen)).decode()


def attempt(number: int, endpoint: str, start: float, took: float, status: int = 200, **own: Any) -> Span:
    """A client span. Times in milliseconds after the request's start; `own`: attributes, "__" for ".", and `error`."""
    error = own.pop("error", None)
    attributes: list[tuple[str, Any]] = [("lb.endpoint", endpoint), ("lb.attempt", number)]
    attributes += [("http.response.status_code", status)] if status else []
    attributes += [("lb.outcome", "failure" if error else "success")] if "lb__outcome" not in own else []
    attributes += [("http.request.resend_count", number)] if number else []
    attributes += [(key.replace("__", "."), value) for key, value in own.items()]
    return Span(
        "",
        f"{number + 1:016x}",
        f"{255:016x}",
        "GET",
        "client",
        BEGAN + int(start * MS),
        BEGAN + int((start + took) * MS),
        tuple(attributes),
        error=error,
    )


def request(
    trace: int,
    path: str = "/",
    *attempts: Span,
    status: int = 200,
    took: float = 10,
    error: str | None = None,
    events: tuple[Event, ...] = (),
    more: Attributes = (),
    parent: str = "",
) -> list[Span]:
    """The spans of one request in the order in which the observer hands them on. `trace`: a number for its id."""
    of = f"{trace:032x}"
    attributes: Attributes = (
        ("http.request.method", "GET"),
        ("url.path", path),
        ("http.route", "web"),
        ("lb.pool", "web"),
        *((("http.response.status_code", status),) if status else ()),
        *((("lb.endpoint", dict(attempts[-1].attributes)["lb.endpoint"]),) if attempts else ()),
        *more,
    )
    end = BEGAN + int(took * MS)
    server = Span(
        of, f"{255:016x}", parent, "GET web", "server", BEGAN, end, attributes, events, error, remote=bool(parent)
    )
    return [server, *(msgspec.structs.replace(one, trace_id=of) for one in attempts)]


def retried(trace: int, path: str = "/slow") -> list[Span]:
    """Two broke off after 3 s, one answered 1 s later."""
    first = attempt(0, "two", 0, 3000, 0, error="reset", lb__cause="reset in head", lb__explain=decision("two"))
    second = attempt(1, "one", 3000, 1000, lb__explain=decision("one", tried=("two",), left={"three": "ejected"}))
    retry = Event(BEGAN + 3000 * MS, "retry", (("lb.reason", "connection closed"),))
    return request(trace, path, first, second, took=4000, events=(retry,))
