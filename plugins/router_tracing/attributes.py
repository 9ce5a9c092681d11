"""From an exchange that is over to its spans: names, attributes and events. Values that clients chose are bounded.

Attributes follow OpenTelemetry's stable semantic conventions for HTTP; the router's own begin with `lb.`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Literal

from router import Address, Attempt, EndpointSpec, Exchange
from router_tracing.span import Attributes, Event, Span, Value

__all__ = ["Recorder"]

#: The methods of RFC 9110 and PATCH (RFC 5789): others have no name of their own.
_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"))
_PORTS = {"http": 80, "https": 443}
_AGENT = re.compile(rb"\r\n(?i:user-agent)[ \t]*:[ \t]*([^\r\n]*)")
_REDACTED = "REDACTED"
#: Characters of a value that a client chose, and of an explanation.
_LONGEST, _LONGEST_EXPLAINED = 1024, 8192

_MOST_ADDRESSES = 16384

Pairs = list[tuple[str, Value]]


class Recorder:
    """Makes spans.

    Args:
        query: what becomes of the values of queries.
        longest: characters of a value at most.
    """

    __slots__ = ("_addresses", "_longest", "_query")

    def __init__(self, query: Literal["redact", "keep", "drop"], longest: int | None = None) -> None:
        self._query = query
        #: What the URLs of endpoints come to: reading one costs as much as half a span.
        self._addresses: dict[str, Address] = {}
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
        trace_id, span_id, parent_id = place

        def at(seconds: float) -> int:
            return int((seconds + offset) * 1e9)

        method = exchange.method if exchange.method in _METHODS else "HTTP"
        name = f"{method} {exchange.route.name}" if exchange.route is not None else method
        shown = self._target(exchange.target)
        attributes, failure = self._of_request(exchange, error, kept, shown), _failure(exchange, error)
        if failure is not None:
            attributes.append(("error.type", failure))
        events = [Event(at(note.at), note.name, facts) for note, facts in _noted(exchange)]
        if getattr(error, "kind", "") == "client_gone":
            events.append(Event(at(now), "client left"))
        server = Span(
            trace_id, span_id, parent_id, name, "server", at(exchange.started), at(now), tuple(attributes),
            tuple(events), _described(failure), remote, state,
        )  # fmt: skip
        calls = (
            self._of_attempt(exchange, attempt, (trace_id, child, span_id), state, at, now, shown)
            for attempt, child in zip(exchange.attempts, children, strict=False)
        )
        return server, *calls

    def _of_request(self, exchange: Exchange, error: Exception | None, kept: str, shown: tuple[str, str]) -> Pairs:
        host, port = _split(exchange.host, _PORTS.get(exchange.scheme, 0))
        path, query = shown
        major, minor = exchange.version
        pairs: Pairs = [
            *_method(exchange.method),
            ("url.scheme", _scheme(exchange)),
            ("url.path", path),
            ("network.protocol.version", f"{major}.{minor}"),
            ("lb.request_id", exchange.id),
            ("lb.listener", exchange.listener),
            ("lb.attempts", len(exchange.tried)),
        ]
        agent = _AGENT.search(exchange.head)
        optional = (
            ("url.query", query),
            ("server.address", host),
            ("server.port", port),
            ("client.address", exchange.client),
            ("network.peer.address", exchange.peer or exchange.client),
            ("user_agent.original", self._text(agent[1]) if agent is not None else ""),
            ("http.route", exchange.route.name if exchange.route is not None else ""),
            ("http.response.status_code", exchange.status),
            ("lb.pool", exchange.pool),
            ("lb.endpoint", _answered_by(exchange)),
            ("lb.affinity", _affinity(exchange)),
            ("lb.kept", kept),
        )
        pairs += [(key, value) for key, value in optional if value]
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
        at: Callable[[float], int],
        now: float,
        shown: tuple[str, str],
    ) -> Span:
        address, outcome = self._address(attempt.endpoint.spec.url), attempt.final
        pairs: Pairs = [
            *_method(exchange.method),
            ("server.address", address.path or address.host),
            ("url.full", self._url(exchange, address, shown)),
            ("lb.endpoint", attempt.endpoint.identity),
            ("lb.attempt", attempt.number),
        ]
        if address.port:
            pairs.append(("server.port", address.port))
        if attempt.number:
            pairs.append(("http.request.resend_count", attempt.number))
        if attempt.hedge:
            pairs.append(("lb.hedge", True))
        if attempt.status:
            pairs.append(("http.response.status_code", attempt.status))
        failure = None
        if outcome is not None:
            pairs.append(("lb.outcome", outcome.result))
            failure = _call_failure(attempt)
            if outcome.result == "failure":
                pairs.append(("lb.cause", outcome.cause))
        if failure is not None:
            pairs.append(("error.type", failure))
        if attempt.explained is not None:
            pairs.append(("lb.explain", attempt.explained.text(_LONGEST_EXPLAINED)))
        moments = (("sent", attempt.sent_at), ("head", attempt.head_at))
        events = tuple(Event(at(moment), name) for name, moment in moments if moment)
        name = exchange.method if exchange.method in _METHODS else "HTTP"
        times, said = (at(attempt.started), at(attempt.ended_at or now)), _described(failure)
        return Span(*place, name, "client", *times, tuple(pairs), events, said, False, state)

    def _address(self, url: str) -> Address:
        found = self._addresses.get(url)
        if found is None:
            if len(self._addresses) >= _MOST_ADDRESSES:
                self._addresses.clear()
            found = self._addresses[url] = EndpointSpec(url).address
        return found

    # Texts that clients chose

    def _text(self, value: str | bytes) -> str:
        if len(value) <= self._longest and value.isascii():
            return value if isinstance(value, str) else value.decode()
        raw = value[: 4 * self._longest]
        data = raw if isinstance(raw, bytes) else raw.encode("utf-8", "surrogateescape")
        return data.decode("utf-8", "replace")[: self._longest]

    def _target(self, target: str) -> tuple[str, str]:
        """Path, and query as it may be shown."""
        path, mark, query = target.partition("?")
        return self._text(path), self._shown(query) if mark else ""

    def _shown(self, query: str) -> str:
        if self._query == "keep":
            return self._text(query)
        if self._query == "drop" or not query:
            return ""
        # What has no "=" may be a secret too, so only a name that is followed by one is shown.
        parts = query[: self._longest].split("&")
        names = (part.partition("=") for part in parts)
        return self._text("&".join(f"{name}={_REDACTED}" if sign else name and _REDACTED for name, sign, _ in names))

    def _url(self, exchange: Exchange, address: Address, shown: tuple[str, str]) -> str:
        path, query = self._target(exchange.rewritten) if exchange.rewritten else shown
        base = f"http://{exchange.host}" if address.path else str(address)
        return f"{base}{path}?{query}"[: 2 * self._longest] if query else f"{base}{path}"


def _method(method: str) -> Attributes:
    if method in _METHODS:
        return (("http.request.method", method),)
    return (("http.request.method", "_OTHER"), ("http.request.method_original", method[:64]))


def _scheme(exchange: Exchange) -> str:
    """That of the client, as far as it is known."""
    said = exchange.header("X-Forwarded-Proto") if exchange.trusted else None
    return said if said in _PORTS else exchange.scheme


def _split(host: str, default: int) -> tuple[str, int]:
    """Host and port of a Host field."""
    name, colon, port = host.rpartition(":")
    if colon and port.isdigit() and not (host.startswith("[") and host.endswith("]")):
        return name.strip("[]"), int(port)
    return host.strip("[]"), default if host else 0


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


def _answered_by(exchange: Exchange) -> str:
    """The endpoint whose response was passed on."""
    for attempt in reversed(exchange.attempts):
        if attempt.head_at is not None and attempt.status == exchange.status:
            return attempt.endpoint.identity
    return ""


def _affinity(exchange: Exchange) -> str:
    explained = next((a.explained for a in exchange.attempts if a.explained is not None), exchange.explained)
    if explained is not None and explained.pools:
        return explained.pools[0].affinity
    return f"pinned to {exchange.pinned.identity}" if exchange.pinned is not None else ""


def _noted(exchange: Exchange) -> Any:
    """What was out of the ordinary, and the attributes of each; how long it waited stands where it left the queue."""
    queued = exchange.started
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
        yield note, tuple(facts)
