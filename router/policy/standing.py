"""Who of a pool can take a request at one moment, and who cannot and why: found anew from the endpoints' states.

The pool keeps its lists and writes them as time passes; whoever only wants to know must not make it do so. The rules
are those of pool.py and tiers.py, and tests hold the two against each other. O(n), so nothing for usual requests.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, cast

import msgspec
from msgspec.structs import replace

from router.model import Candidates, Endpoint
from router.policy.health import Health
from router.policy.pool import Pool
from router.policy.tiers import draw_tier, tier_shares

__all__ = ["REASONS", "LineUp", "Part", "ailment", "detail_of", "glance", "limit_at", "line_up", "state_at"]

#: Why an endpoint is left out, in the one order.
REASONS = (
    "draining",
    "weight 0",
    "not probed yet",
    "down",
    "ejected",
    "too few of its tier are ready",
    "other tier",
    "other zone",
    "on probation and busy",
    "full",
    "tried",
)
#: Those of an operator, which no want of others sets aside.
_CLOSED = frozenset(REASONS[:2])
#: What is unusual about the candidates of a part that are not scored.
_LARGE = "a large pool: some of its endpoints, without likelihoods"


class Part(msgspec.Struct, frozen=True):
    """The candidates of one tier, or of several taken together, and how likely it is that it comes to them."""

    priority: int
    share: float
    candidates: Candidates
    why: str
    #: Whether the strategy is to be asked what it thinks of each.
    scored: bool = True


class Standing:
    """One tier as a request at this moment would meet it."""

    __slots__ = ("candidates", "few", "kept_zone", "members", "open_count", "out", "panics", "priority", "ready")

    def __init__(self, pool: Pool, priority: int, members: Sequence[Endpoint], now: float) -> None:
        self.priority = priority
        self.members = members
        #: Why an endpoint is not ready.
        self.out = {endpoint: reason for endpoint in members if (reason := _unready(endpoint, now))}
        self.ready = [endpoint for endpoint in members if endpoint not in self.out] if self.out else members
        opened = [endpoint for endpoint in members if self.out.get(endpoint) not in _CLOSED]
        self.open_count = len(opened)
        self.few = not len(self.ready) > pool.few_ready * len(opened)
        #: Whether health is ignored.
        self.panics = self.few and pool.when_few_ready == "try_all" and bool(opened)
        #: The router's own zone, if its endpoints alone are candidates.
        self.kept_zone = ""
        #: None if nobody is ready enough, empty if all are full.
        self.candidates: list[Endpoint] | None = None
        if self.panics:
            self.candidates = [endpoint for endpoint in opened if endpoint.load < pool.limit_of(endpoint)]
        elif not self.few:
            self.candidates = self._in_zone(pool.zone, [e for e in self.ready if e.load < limit_at(pool, e, now)])

    def _in_zone(self, zone: str, able: list[Endpoint]) -> list[Endpoint]:
        own = [endpoint for endpoint in able if endpoint.spec.zone == zone] if zone else []
        known = sum(1 for endpoint in self.members if endpoint.spec.zone == zone)
        ready = sum(1 for endpoint in self.ready if endpoint.spec.zone == zone)
        if not own or 2 * ready < known:
            return able
        self.kept_zone = zone
        return own

    @property
    def ready_count(self) -> int:
        return len(self.ready)

    @property
    def why(self) -> str:
        """What is unusual about the candidates."""
        if self.panics:
            return f"health is ignored: {self.ready_count} of {self.open_count} endpoints ready"
        return f"zone {self.kept_zone} alone" if self.kept_zone else ""


class LineUp(msgspec.Struct, frozen=True):
    """What a request at this moment would meet."""

    #: Where anybody may be left out; none where all can take it.
    standings: tuple[Standing, ...]
    #: Empty if nobody can take it.
    parts: tuple[Part, ...]
    #: Whether there would be somebody if not all were full.
    full: bool
    ready_count: int

    def without(self, tried: tuple[Endpoint, ...]) -> LineUp:
        """What an exchange meets that has tried some: they are no candidates while there are others."""
        parts = (replace(part, candidates=part.candidates.without(tried) or part.candidates) for part in self.parts)
        return replace(self, parts=tuple(parts))

    def left_out(self, now: float, tried: tuple[Endpoint, ...] = ()) -> dict[str, list[Endpoint]]:
        """The endpoints that are no candidates, by one of REASONS and in their order.

        Args:
            tried: by the exchange before; members of the pool, each once.
        """
        if not self.standings:
            able = self.parts[0].candidates if self.parts else ()
            rest = [endpoint for endpoint in tried if endpoint not in able]
            return {"tried": rest} if rest else {}
        asked = {part.priority for part in self.parts}
        taken = {endpoint for part in self.parts for endpoint in part.candidates}
        found: dict[str, list[Endpoint]] = {reason: [] for reason in REASONS}
        for standing in self.standings:
            waits = bool(standing.candidates) and standing.priority not in asked
            for endpoint in standing.members:
                if endpoint not in taken:
                    reason = "tried" if endpoint in tried else _reason(endpoint, standing, waits, now)
                    found[reason].append(endpoint)
        return {reason: endpoints for reason, endpoints in found.items() if endpoints}


def line_up(pool: Pool, key: int | None, now: float) -> LineUp:
    """Who can take a request now.

    Args:
        key: the selector's of this request, None without one: then chance draws the tier.
        now: seconds of the router's clock.
    """
    usual = pool.usual
    # Where that list answers all, there is but one tier.
    if usual and now < pool.due and len(usual) == len(pool.tiers[0].members):
        return LineUp((), (Part(pool.tiers[0].priority, 1.0, Candidates(usual), ""),), False, len(usual))
    levels: dict[int, list[Endpoint]] = {}
    for endpoint in pool.members.values():
        levels.setdefault(endpoint.spec.priority, []).append(endpoint)
    standings = tuple(Standing(pool, level, levels[level], now) for level in sorted(levels))
    able = [standing for standing in standings if standing.candidates]
    ready = sum(standing.ready_count for standing in standings)
    if able:
        return LineUp(standings, tuple(_drawn(standings, able[0], key)), False, ready)
    full = any(standing.candidates is not None for standing in standings)
    return LineUp(standings, tuple(_on_trial(standings, pool, now)) if full else (), full, ready)


def glance(pool: Pool) -> LineUp:
    """The same as the pool's own lists have it, of the first tier that has anybody; who is left out is only counted.

    Those lists hold as long as time alone has changed nothing, which is until `pool.due`.
    """
    lists = [(tier.priority, pool.of_tier(tier)) for tier in pool.tiers]
    full = all(not found for _, found in lists) and any(found is not None for _, found in lists)
    if full and (trial := pool.on_trial()):
        lists = [(trial[0].spec.priority, trial)]
    able = ((priority, found) for priority, found in lists if found)
    parts = tuple(Part(priority, 1.0, found, _LARGE, scored=False) for priority, found in islice(able, 1))
    return LineUp((), parts, full, sum(tier.ready_count for tier in pool.tiers))


def limit_at(pool: Pool, endpoint: Endpoint, now: float) -> float:
    """How many leases an endpoint may have now, were every change made that time alone has brought."""
    return 1 if _on_probation(endpoint, now) else pool.limit_of(endpoint)


def ailment(endpoint: Endpoint, now: float) -> str:
    """What checks and traffic have against an endpoint: one of REASONS, "" if nothing."""
    health: Health = endpoint.health
    if health.probed is not None and not health.probed.up:
        return "down" if health.probed.known else "not probed yet"
    return "ejected" if health.ejection.lasts(now) else ""


def state_at(endpoint: Endpoint, now: float) -> str:
    """A candidate's health in a word or two."""
    return ailment(endpoint, now) or ("on probation" if _on_probation(endpoint, now) else "ready")


def detail_of(endpoint: Endpoint, reason: str, pool: Pool, now: float) -> str:
    """More about why an endpoint is left out; "" if there is no more."""
    health: Health = endpoint.health
    if reason == "down":
        # The last thing said may have been about something else.
        return health.cause.removeprefix("down: ") if health.cause.startswith("down: ") else ""
    if reason == "ejected":
        return f"{health.ejection.cause}; back in {health.ejection.until - now:.0f} s"
    if reason == "other tier":
        return f"tier {endpoint.spec.priority}"
    if reason == "other zone":
        return f"zone {endpoint.spec.zone}" if endpoint.spec.zone else "no zone"
    if reason == "on probation and busy":
        return f"{endpoint.load} of 1 under way"
    return f"{endpoint.load} of {pool.limit_of(endpoint):g} under way" if reason == "full" else ""


def _drawn(standings: tuple[Standing, ...], spare: Standing, key: int | None) -> Iterator[Part]:
    """The tiers that may be drawn. One that is full spills over to `spare`."""
    shares = dict.fromkeys(standings, 0.0)
    for standing, share in _draws(standings, key):
        shares[standing if standing.candidates else spare] += share
    for standing, share in shares.items():
        if share:
            yield Part(standing.priority, share, Candidates.of(standing.candidates or ()), standing.why)


def _draws(standings: tuple[Standing, ...], key: int | None) -> list[tuple[Standing, float]]:
    if key is not None:
        # A Standing has what a Tier is asked for.
        drawn = draw_tier(cast("list[Any]", standings), (key & 0xFFFFFFFF) / 0x100000000)
        return [(cast("Standing", drawn), 1.0)]
    shares = tier_shares([(standing.ready_count, standing.open_count) for standing in standings])
    return list(zip(standings, shares, strict=True)) if any(shares) else [(standings[0], 1.0)]


def _on_trial(standings: tuple[Standing, ...], pool: Pool, now: float) -> Iterator[Part]:
    waited_for = pool.queue.pinned
    trial = [e for s in standings if not s.few for e in s.ready if _on_probation(e, now) and e not in waited_for]
    spare = Candidates.of(endpoint for endpoint in trial if endpoint.load < pool.limit_of(endpoint))
    if spare:
        why = "all others are full or out: those on probation may take more than one request"
        yield Part(spare[0].spec.priority, 1.0, spare, why)


def _on_probation(endpoint: Endpoint, now: float) -> bool:
    ejection = endpoint.health.ejection
    return ejection.probation or (ejection.out and not ejection.lasts(now))


def _unready(endpoint: Endpoint, now: float) -> str:
    if endpoint.health.operator != "up":
        return "draining"
    return ailment(endpoint, now) if endpoint.spec.weight else "weight 0"


def _reason(endpoint: Endpoint, standing: Standing, waits: bool, now: float) -> str:
    """Why an endpoint is no candidate. `waits`: another tier is asked, and this one need not be."""
    out = standing.out.get(endpoint)
    if out is not None and (not standing.panics or out in _CLOSED):
        return out
    if waits:
        return "other tier"
    if standing.few and not standing.panics:
        return "too few of its tier are ready"
    if standing.kept_zone and endpoint.spec.zone != standing.kept_zone:
        return "other zone"
    return "on probation and busy" if not standing.panics and _on_probation(endpoint, now) else "full"
