"""From an exchange that is over to its spans: names, attributes and events. Values that clients chose are bounded.

Attributes follow OpenTelemetry's stable semantic conventions for HTTP; the router's own begin with `lb.`.
"""

from __future__ import annotations

import re
from typing import Any, Literal

from router import Attempt, Exchange
from router_tracing.shared import PORTS, Shared, of_attempt, of_request
from router_tracing.span import Event, Span, Value

__all__ = ["Recorder"]

# Nearly all that name themselves write it so, and bytes are found much faster than expressions.
_USUAL_AGENT = b"\r\nUser-Agent: "
_AGENT = re.compile(rb"\r\n(?i:user-agent)[ \t]*:[ \t]*([^\r\n]*)")
_REDACTED = "REDACTED"
#: Characters of a value that a client chose, and of an explanation.
_LONGEST, _LONGEST_EXPLAINED = 1024, 8192
#: Characters of a host: more than any name has (RFC 1035, 3.1).
_LONGEST_HOST = 255
#: Characters of a method.
_LONGEST_METHOD = 64
#: Sets of attributes that are kept, as most spans have one that an earlier span had.
_MOST_COMMON = 2048

Pairs = list[tuple[str, Value]]


class Recorder:
    """Makes spans.

    Args:
        query: what becomes of the values of queries.
        longest: characters of a value at most.
    """

    __slots__ = ("_common", "_longest", "_query")

    def __init__(self, query: Literal["redact", "keep", "drop"], longest: int | None = None) -> None:
        self._query = query
        self._common: dict[tuple[Any, ...], Shared] = {}
        self._longest = _LONGEST if longest is None else min(longest, _LONGEST)

    def spans(
        self,
        exchange: Exchange,
        error: Exception | None,
        place: tuple[str, str, str],
        children: list[str],
        offset: float,
        now: float,
        *,
        remote: bool,
        state: str,
        kept: str,
    ) -> tuple[Span, ...]:
        """One for the request, then one for each attempt.

        Args:
            place: trace id, span id and the parent's, "" without one.
            children: the span ids of attempts, in their order.
            offset: seconds that the router's clock is behind the time of day.
            now: when the exchange was over, on the router's clock.
            remote: whether the parent stands in another process. state: tracestate. kept: why, if by a rule.
        """
        trace_id, span_id, _ = place
        shown, failure = self._target(exchange.target), None
        if error is not None or exchange.status >= 500:
            failure = _failure(exchange, error)
        name, common, _ = self._route(exchange)
        own = self._of_request(exchange, error, kept, shown)
        if failure is not None:
            own.append(("error.type", failure))
        begun, over = int((exchange.started + offset) * 1e9), int((now + offset) * 1e9)
        events = _events(exchange, error, offset, over) if exchange.notes or error is not None else ()
        said = _described(failure)
        found = [Span(*place, name, "server", begun, over, (*common, *own), events, said, remote, state, common)]
        for attempt, child in zip(exchange.attempts, children, strict=False):
            found.append(self._of_attempt(exchange, attempt, (trace_id, child, span_id), state, offset, over, shown))
        return tuple(found)

    def _route(self, exchange: Exchange) -> Shared:
        """What requests have in common that were answered alike."""
        method, host = exchange.method, exchange.host
        route = exchange.route.name if exchange.route is not None else ""
        if len(host) > _LONGEST_HOST or len(method) > _LONGEST_METHOD:
            host, method = host[:_LONGEST_HOST], method[:_LONGEST_METHOD]
        answered = ""
        for attempt in exchange.attempts:
            if attempt.passed_on:
                answered = attempt.endpoint.identity
        scheme = _scheme(exchange) if exchange.trusted else exchange.scheme
        key = (
            method, scheme, host, exchange.version, exchange.listener, route, exchange.pool, answered,
            exchange.status, len(exchange.tried),
        )  # fmt: skip
        return self._common.get(key) or self._keep(key, of_request(*key))

    def _of_request(self, exchange: Exchange, error: Exception | None, kept: str, shown: tuple[str, str]) -> Pairs:
        path, query = shown
        client, agent, affinity = exchange.client, _agent(exchange.head), _affinity(exchange)
        pairs: Pairs = [("url.path", path), ("lb.request_id", exchange.id)]
        if query:
            pairs.append(("url.query", query))
        if client:
            pairs.append(("client.address", client))
            pairs.append(("network.peer.address", exchange.peer or client))
        if agent:
            pairs.append(("user_agent.original", self._text(agent)))
        if affinity:
            pairs.append(("lb.affinity", affinity))
        if kept:
            pairs.append(("lb.kept", kept))
        if error is not None:
            pairs.append(("lb.error", f"{getattr(error, 'kind', type(error).__name__)}: {error}"[:300]))
        if exchange.relayed is not None:
            pairs += zip(("lb.bytes_to_endpoint", "lb.bytes_to_client"), exchange.relayed, strict=True)
        if exchange.explained is not None and not exchange.explained.chosen:
            pairs.append(("lb.explain", exchange.explained.text(_LONGEST_EXPLAINED)))
        return pairs

    def _of_attempt(
        self,
        exchange: Exchange,
        attempt: Attempt,
        place: tuple[str, str, str],
        state: str,
        offset: float,
        over: int,
        shown: tuple[str, str],
    ) -> Span:
        endpoint, outcome, method = attempt.endpoint, attempt.final, exchange.method
        if len(method) > _LONGEST_METHOD:
            method = method[:_LONGEST_METHOD]
        result = outcome.result if outcome is not None else ""
        key = (method, endpoint.spec.url, endpoint.identity, attempt.number, attempt.hedge, attempt.status, result)
        name, common, base = self._common.get(key) or self._keep(key, of_attempt(*key))
        path, query = self._target(exchange.rewritten) if exchange.rewritten else shown
        base = base or f"http://{exchange.host[:_LONGEST_HOST]}"
        url = f"{base}{path}?{query}" if query else f"{base}{path}"
        own: Pairs = [("url.full", url if len(url) <= 2 * self._longest else url[: 2 * self._longest])]
        failure = None
        if result != "success" or attempt.status >= 400:
            failure = _call_failure(attempt)
        if failure is not None:
            own.append(("error.type", failure))
        if outcome is not None and result == "failure":
            own.append(("lb.cause", outcome.cause))
        if attempt.explained is not None:
            own.append(("lb.explain", attempt.explained.text(_LONGEST_EXPLAINED)))
        events: list[Event] = []
        if attempt.sent_at:
            events.append(Event(int((attempt.sent_at + offset) * 1e9), "sent"))
        if attempt.head_at:
            events.append(Event(int((attempt.head_at + offset) * 1e9), "head"))
        begun = int((attempt.started + offset) * 1e9)
        ended = int((attempt.ended_at + offset) * 1e9) if attempt.ended_at else over
        said = _described(failure)
        return Span(*place, name, "client", begun, ended, (*common, *own), tuple(events), said, False, state, common)

    def _keep(self, key: tuple[Any, ...], made: Shared) -> Shared:
        if len(self._common) >= _MOST_COMMON:
            self._common.clear()
        self._common[key] = made
        return made

    # Texts that clients chose

    def _text(self, value: str | bytes) -> str:
        if len(value) <= self._longest and value.isascii():
            return value if isinstance(value, str) else value.decode()
        raw = value[: 4 * self._longest]
        data = raw if isinstance(raw, bytes) else raw.encode("utf-8", "surrogateescape")
        return data.decode("utf-8", "replace")[: self._longest]

    def _target(self, target: str) -> tuple[str, str]:
        """Path, and query as it may be shown."""
        path, _, query = target.partition("?")
        return self._text(path), self._shown(query) if query else ""

    def _shown(self, query: str) -> str:
        if self._query == "keep":
            return self._text(query)
        if self._query == "drop":
            return ""
        shown = []
        for part in query[: self._longest].split("&"):
            # What has no value may be a secret itself, "=" at its end or not: only the name of a value is shown.
            name, _, value = part.partition("=")
            shown.append(f"{name}={_REDACTED}" if value.strip("=") else name and _REDACTED)
        return self._text("&".join(shown))


def _agent(head: bytes) -> bytes:
    """The value of User-Agent in a whole request head."""
    start = head.find(_USUAL_AGENT)
    if start >= 0:
        return head[start + len(_USUAL_AGENT) : head.index(b"\r\n", start + 2)].strip(b" \t")
    found = _AGENT.search(head)
    return found[1].rstrip(b" \t") if found is not None else b""


def _scheme(exchange: Exchange) -> str:
    """That of a trusted proxy's client, as far as it is known."""
    said = exchange.header("X-Forwarded-Proto")
    return said if said in PORTS else exchange.scheme


def _failure(exchange: Exchange, error: Exception | None) -> str | None:
    """error.type of the request; None if it is no error: what clients do wrong, and their leaving, is none."""
    if error is not None and getattr(error, "source", "") != "client":
        return str(getattr(error, "kind", type(error).__name__))
    return str(exchange.status) if exchange.status >= 500 else None


def _described(failure: str | None) -> str | None:
    """What stands beside the status of a span: nothing where a status code says it."""
    return "" if failure is not None and failure.isdigit() else failure


def _call_failure(attempt: Attempt) -> str | None:
    """error.type of an attempt."""
    outcome = attempt.final
    if outcome is not None and outcome.result == "failure" and outcome.error is not None:
        return str(getattr(outcome.error, "kind", type(outcome.error).__name__))
    return str(attempt.status) if attempt.status >= 400 else None


def _affinity(exchange: Exchange) -> str:
    explained = exchange.attempts[0].explained if exchange.attempts else None
    if explained is None:
        explained = next((a.explained for a in exchange.attempts if a.explained is not None), exchange.explained)
    if explained is not None and explained.pools:
        return explained.pools[0].affinity
    return f"pinned to {exchange.pinned.identity}" if exchange.pinned is not None else ""


def _events(exchange: Exchange, error: Exception | None, offset: float, over: int) -> tuple[Event, ...]:
    """What was out of the ordinary; how long it waited stands where it left the queue."""
    queued, events = exchange.started, []
    for note in exchange.notes:
        facts: Pairs = []
        if note.reason:
            facts.append(("lb.reason", note.reason))
        if note.endpoint:
            facts.append(("lb.endpoint", note.endpoint))
        if note.name == "queued":
            queued = note.at
        elif note.name == "left queue":
            facts.append(("lb.seconds", note.at - queued))
        events.append(Event(int((note.at + offset) * 1e9), note.name, tuple(facts)))
    if getattr(error, "kind", "") == "client_gone":
        events.append(Event(over, "client left"))
    return tuple(events)
