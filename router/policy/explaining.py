"""What the router would do with a request now, and why. Nothing is changed: no lease, no count, no turn, no draw.

Follows dispatch.py step by step over the states of now. A plugin that raises is told of, never felt. Two things are
not foreseen: what detectors would say at their next tick, and the next step of a slow start.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from itertools import islice

import msgspec
from msgspec.structs import replace

from router.errors import RouterError
from router.explanation import Choice, Explanation, LeftEndpoint, LeftOut, Option, PoolVerdict, Retries, Waiting
from router.faults import visible
from router.model import Candidates, Endpoint, Exchange
from router.policy.destination import find_destination
from router.policy.dispatch import Dispatch
from router.policy.pool import Pool
from router.policy.retry import IDEMPOTENT, SAFE
from router.policy.standing import LineUp, Part, ailment, detail_of, glance, limit_at, line_up, state_at
from router.policy.table import Table

__all__ = ["explain", "explain_answer", "explain_decision"]

_NEVER = float("inf")
#: Endpoints in one list, and characters of what a plugin says.
_MOST = 10
_LONGEST = 200
#: In a larger pool no request waits until all endpoints were looked at, which takes 2 to 5 µs each.
_LARGE = 256
#: One, give or take what is lost when shares are added up.
_ALMOST_ONE, _BARELY_OVER = 1 - 1e-9, 1 + 1e-9


def explain(table: Table, exchange: Exchange, now: float) -> Explanation:
    """Where the exchange would go, and why.

    Args:
        exchange: as a listener would have made it; it stays as it is.
        now: seconds of the router's clock.
    """
    asked = replace(exchange)
    found = find_destination(table, asked)
    route, request = found.route, f"{asked.method} {asked.scheme}://{asked.host}{asked.target}"
    if route is None:
        return Explanation(visible(request), status=found.status, reason=visible(found.reason))
    asked.route = route
    asked.deadline = now + route.timeout
    pools = tuple(_case(pool, asked, now).verdict(share) for pool, share in found.pools)
    return Explanation(
        request=visible(request),
        route=route.name,
        place=table.place_of(route),
        target=visible(found.target),
        status=found.status,
        reason=visible(found.reason),
        filters=tuple(type(plugin).__name__ for plugin in route.filters) if found.status is None else (),
        pools=pools,
    )


def explain_decision(table: Table, exchange: Exchange, dispatch: Dispatch, now: float) -> Explanation:
    """Where a request that is under way goes next, and why; to be asked before `dispatch.next`."""
    route, verdict = exchange.route, _case(dispatch.pool, exchange, now, dispatch).verdict(1.0)
    return Explanation(_asked(exchange), route.name, table.place_of(route), pools=(verdict,))


def explain_answer(table: Table, exchange: Exchange, error: RouterError | None) -> Explanation:
    """Why the router has answered a request itself, which came to no pool. `error`: what it failed with, if it did."""
    route, reason = exchange.route, error.title if error is not None else "answered by the route or its filters"
    name, place = ("", "") if route is None else (route.name, table.place_of(route))
    return Explanation(_asked(exchange), route=name, place=place, status=exchange.status, reason=reason)


def _asked(exchange: Exchange) -> str:
    """A request that is under way, without its query, which may hold secrets."""
    return visible(f"{exchange.method} {exchange.scheme}://{exchange.host}{exchange.path}"[:_LONGEST])


def _case(pool: Pool, exchange: Exchange, now: float, dispatch: Dispatch | None = None) -> _PoolCase:
    marks = exchange.marks
    asked = replace(exchange, pool=pool.name, marks=dict(marks) if marks is not None else None)
    return _PoolCase(pool, asked, now, dispatch, pool.strategy or type(pool.selector).__name__)


class _PoolCase(msgspec.Struct, eq=False):
    """One exchange in one pool, at one moment."""

    pool: Pool
    #: A copy: what plugins write when they are asked is thrown away.
    exchange: Exchange
    now: float
    #: That of a request which is under way.
    dispatch: Dispatch | None = None
    #: Of the strategy.
    name: str = ""

    def verdict(self, share: float) -> PoolVerdict:
        """What the pool would do. `share`: how likely it is to be asked."""
        pool, exchange, members = self.pool, self.exchange, len(self.pool.members)
        tried = exchange.tried
        if tried:
            tried = tuple(e for e in dict.fromkeys(tried) if pool.members.get(e.identity) is e)
        pinned, refuses, affinity = self._affinity()
        large = members > _LARGE and self.dispatch is not None and not exchange.asks
        # Where time alone has changed something, the pool's own lists do not know it yet: once a second at most.
        glances = large and self.now < pool.due
        lined_up = glance(pool) if glances else line_up(pool, self._key() if pool.has_key else exchange.key, self.now)
        lined_up = lined_up.without(tried) if tried else lined_up
        affine = pinned is not None or bool(refuses)
        choices: tuple[Choice, ...] = ()
        for part in () if affine else lined_up.parts:
            choices = (*choices, self._choice(part))
        waiting = self._waiting(lined_up, affine, pinned)
        if waiting is not None:
            endpoint, status, decision = "", *_queued(waiting)
        elif pinned is not None:
            endpoint, status, decision = pinned.identity, None, pinned.identity
        elif refuses:
            endpoint, status, decision = "", 503, f"503: the session's server is {refuses}"
        elif choices:
            status, (endpoint, decision) = None, _chosen(choices, self.name)
        else:
            endpoint, status, decision = "", 503, f"503: {lined_up.ready_count} of {members} endpoints ready"
        return PoolVerdict(
            name=pool.name,
            share=share,
            selection=self.name,
            members=members,
            ready=lined_up.ready_count,
            in_flight=pool.in_flight,
            decision=decision,
            endpoint=endpoint,
            status=status,
            affinity=affinity,
            left_out=tuple(_grouped(lined_up, pool, tried, self.now)) if lined_up.standings or tried else (),
            choices=choices,
            waiting=waiting,
            retries=self._retries(),
        )

    # Affinity

    def _affinity(self) -> tuple[Endpoint | None, str, str]:
        """The endpoint that affinity decides for, why it makes the pool refuse instead, and what it says."""
        pool = self.pool
        if pool.affinity is None:
            return None, "", ""
        if self.dispatch is not None and self.dispatch.live:
            return None, "", "not asked for a hedge"
        if self.exchange.tried:
            return self._tried_before(self.exchange.pinned)
        try:
            named = pool.affinity.find(pool.members, self.exchange)
        except Exception as error:
            return None, "", f"{_raised(error)}; taken for none"
        if named is None:
            return None, "", "names none"
        if not isinstance(named, Endpoint):
            return None, "", f"named a {type(named).__name__}, which is no endpoint"
        self.exchange.pinned = named
        return self._pinned(named)

    def _tried_before(self, named: Endpoint | None) -> tuple[Endpoint | None, str, str]:
        """The same for another attempt: affinity is asked once."""
        if named is not None and named in self.exchange.tried:
            return None, "", f"pinned to {named.identity}: tried before, so another is chosen"
        return self._pinned(named) if named is not None else (None, "", "names none")

    def _pinned(self, named: Endpoint) -> tuple[Endpoint | None, str, str]:
        pool, words = self.pool, f"pinned to {named.identity}"
        then = "it is refused" if pool.on_unready == "refuse" else "another is chosen"
        if not pool.is_usable(named, self.now):
            member = pool.members.get(named.identity) is named
            reason = ailment(named, self.now) if member else "not in the pool any more"
            return None, "not ready" if pool.on_unready == "refuse" else "", f"{words}: {reason}, so {then}"
        if self._is_full(named):
            gives_up = self.dispatch is not None and self.dispatch.gives_up(self.now)
            if not gives_up and pool.queue.waiting < pool.limits.queue:
                return named, "", f"{words}: full, so it waits for it, and then {then}"
            return None, "full" if pool.on_unready == "refuse" else "", f"{words}: full, so {then}"
        return named, "", f"{words}, which is draining" if named.health.operator != "up" else words

    def _is_full(self, endpoint: Endpoint) -> bool:
        return endpoint.load >= limit_at(self.pool, endpoint, self.now)

    def _key(self) -> int | None:
        """The selector's hash key; it stands in the exchange too, for the scores."""
        self.exchange.keyed = True
        try:
            found = self.pool.selector.key(self.exchange)  # type: ignore[attr-defined]
        except Exception:
            found = None
        # Without a key chance decides, as it does for a request.
        self.exchange.key = found if isinstance(found, int) else None
        return self.exchange.key

    # Candidates

    def _choice(self, part: Part) -> Choice:
        candidates, count, of, usual = part.candidates, len(part.candidates), part.share, self.pool.usual
        shares, failed = self._scores(candidates) if part.scored or count == 1 else ({}, "")
        if len(shares) < count and len(shares) < _MOST:
            rest = (endpoint for endpoint in candidates if endpoint not in shares)
            shares |= dict.fromkeys(islice(rest, _MOST - len(shares)))
        options = []
        for endpoint, share in shares.items():
            # Whoever stands in the usual list, and may have more than one request, is neither ill nor on probation.
            well = endpoint.home is usual and endpoint.limit != 1
            state = "ready" if well else state_at(endpoint, self.now)
            likely = None if share is None else share * of
            options.append(Option(endpoint.identity, endpoint.load, endpoint.weight, state, likely))
        return Choice(part.priority, of, count, tuple(options), part.why, failed)

    def _scores(self, candidates: Candidates) -> tuple[dict[Endpoint, float | None], str]:
        """What the strategy says of the candidates, if it says anything; and what was wrong with that."""
        shares: dict[Endpoint, float | None] = {}
        if len(candidates) == 1:
            return {candidates[0]: 1.0}, ""
        scores = getattr(self.pool.selector, "scores", None)
        if scores is None:
            return shares, ""
        try:
            known = set(candidates)
            said = scores(candidates, self.exchange, _MOST)
            # What is no list may have no end.
            for endpoint, share in said[:_MOST] if type(said) is list else islice(said, _MOST):
                if endpoint not in known:
                    raise LookupError(f"{endpoint!r} is not a candidate")
                if not 0.0 <= share <= _BARELY_OVER:
                    raise ValueError(f"{share!r} is no probability")
                shares[endpoint] = float(share) if share < 1.0 else 1.0
        except Exception as error:
            return {}, f"{self.name}.scores {_raised(error)}"
        return shares, ""

    # Limits and retries

    def _waiting(self, lined_up: LineUp, affine: bool, pinned: Endpoint | None) -> Waiting | None:
        """Why the request is not sent at once; None if nothing is in its way. `affine`: affinity decides."""
        pool, limits, dispatch = self.pool, self.pool.limits, self.dispatch
        reached = pool.in_flight >= limits.in_flight
        stops = reached or pool.queue.tickets
        if stops and (dispatch is None or not (dispatch.admitted or dispatch.leaves_queue(self.now))):
            others = "others wait already"
            reason = f"the pool's limit of {limits.in_flight:g} requests is reached" if reached else others
        elif pinned is not None and self._is_full(pinned):
            reason = "the session's server is full"
        elif lined_up.full and not lined_up.parts and not affine:
            reason = "all endpoints that are ready are full"
        else:
            return None
        seconds = min(limits.queue_timeout, self.exchange.route.timeout)
        return Waiting(reason, pool.queue.waiting, limits.queue, float(seconds) if seconds < _NEVER else None)

    def _retries(self) -> Retries:
        pool, method, after = self.pool, self.exchange.method, self.pool.hedge_after
        attempts, on = pool.retry.attempts, pool.retry.words
        hedge_after = float(after) if after is not None and method in SAFE and attempts > 0 else None
        return Retries(attempts, on, pool.budget.peek(self.now), method not in IDEMPOTENT, hedge_after)


def _queued(waiting: Waiting) -> tuple[int | None, str]:
    if waiting.taken >= waiting.places:
        room = f"the queue of {waiting.places} is full" if waiting.places else "none may wait"
        return 503, f"503: {waiting.reason}, and {room}"
    most = "" if waiting.seconds is None else f" up to {waiting.seconds:g} s"
    return None, f"waits{most}: {waiting.reason}; {waiting.taken} of {waiting.places} places of the queue taken"


def _chosen(choices: tuple[Choice, ...], name: str) -> tuple[str, str]:
    """The endpoint if it is certain, else ""; and the decision in words."""
    options = choices[0].options if len(choices) == 1 else [option for choice in choices for option in choice.options]
    for option in options:
        if option.share is not None and option.share >= _ALMOST_ONE:
            return option.id, option.id
    if sum(option.share or 0.0 for option in options) >= _ALMOST_ONE:
        return "", f"one of {sum(1 for option in options if option.share)}, by chance"
    count = sum(choice.count for choice in choices)
    unknown = any(option.share is None for option in options)
    return "", f"one of {count}, as {name} chooses" if unknown else f"one of {count}, by chance"


def _grouped(lined_up: LineUp, pool: Pool, tried: tuple[Endpoint, ...], now: float) -> Iterator[LeftOut]:
    for reason, endpoints in lined_up.left_out(now, tried).items():
        shown = ((e.identity, detail_of(e, reason, pool, now)) for e in endpoints[:_MOST])
        named = tuple(LeftEndpoint(name, visible(detail[:_LONGEST])) for name, detail in shown)
        yield LeftOut(reason, len(endpoints), named)


def _raised(error: Exception) -> str:
    said = ""
    with suppress(Exception):
        said = visible(str(error)[:_LONGEST])
    return f"raised {type(error).__name__}" + (f": {said}" if said else "")
