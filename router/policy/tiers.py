"""A tier: the endpoints of one priority, and the lists of those that can be chosen now.

An endpoint with room stands in exactly one list of its tier (own zone or elsewhere); everything that is made of those
lists is kept until the next change of state. Shares of tiers follow Envoy's rule of 1.4.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from router.model import Candidates, Endpoint

__all__ = ["Tier", "draw_tier", "tier_shares"]

_OVERPROVISION = 1.4


class Tier:
    """One priority level. Written by pool.py."""

    __slots__ = (
        "_all",
        "_elsewhere",
        "_merged",
        "_open",
        "_own",
        "_ready",
        "_zone",
        "_zoned",
        "few_ready",
        "few_told",
        "members",
        "priority",
        "trial",
    )

    def __init__(self, priority: int, zone: str = "", few_ready: float = 0.0) -> None:
        self.members: dict[Endpoint, None] = {}
        self.few_ready = few_ready
        self.priority = priority
        self._own = Candidates()
        self._elsewhere = Candidates()
        self._zone = zone
        #: Members of the router's own zone; empty where zones are not preferred.
        self._zoned: set[Endpoint] = set()
        self._ready: set[Endpoint] = set()
        self._open: set[Endpoint] = set()
        self._merged: Candidates | None = None
        self._all: Candidates | None = None
        #: Ready endpoints on probation.
        self.trial: dict[Endpoint, None] = {}
        #: What was said of `few` last.
        self.few_told = False

    def add(self, endpoint: Endpoint) -> None:
        """Takes a member, whose state is to be told by `note`."""
        self.members[endpoint] = None
        if self._zone and endpoint.spec.zone == self._zone:
            self._zoned.add(endpoint)

    def remove(self, endpoint: Endpoint) -> None:
        """Forgets a member, which stands in none of the lists any more."""
        del self.members[endpoint]
        self._zoned.discard(endpoint)
        self._ready.discard(endpoint)
        self._open.discard(endpoint)
        self.trial.pop(endpoint, None)
        self.touch()

    @property
    def ready_count(self) -> int:
        """Ready endpoints, whether they have room or not."""
        return len(self._ready)

    @property
    def open_count(self) -> int:
        """Endpoints that the operator has not taken out."""
        return len(self._open)

    @property
    def few(self) -> bool:
        """Whether too few are ready: health is ignored, or requests are refused (panic)."""
        return not len(self._ready) > self.few_ready * len(self._open)

    @property
    def is_plain(self) -> bool:
        """Whether `candidates` is always the same list."""
        return not self._zone

    def list_for(self, endpoint: Endpoint) -> Candidates:
        return self._elsewhere if self._zone and endpoint not in self._zoned else self._own

    def note(self, endpoint: Endpoint, *, ready: bool, open_to_all: bool, on_trial: bool = False) -> None:
        """Takes an endpoint's state: whether it is ready, may serve when health is ignored, and is on probation."""
        (self._ready.add if ready else self._ready.discard)(endpoint)
        (self._open.add if open_to_all else self._open.discard)(endpoint)
        if ready and on_trial:
            self.trial[endpoint] = None
        else:
            self.trial.pop(endpoint, None)

    def touch(self) -> None:
        """Forgets what was made of the lists."""
        self._merged = self._all = None

    def candidates(self) -> Candidates:
        """Ready endpoints with room: the own zone's alone while at least half of it is ready."""
        if not self._zone:
            return self._own
        if not self._own:
            return self._elsewhere
        if 2 * len(self._ready & self._zoned) >= len(self._zoned):
            return self._own
        if self._merged is None:
            self._merged = Candidates.of([*self._own, *self._elsewhere])
        return self._merged

    def everyone(self, limit_of: Callable[[Endpoint], float]) -> Candidates:
        """All endpoints with room that the operator has not taken out, whatever their health says (panic).

        Args:
            limit_of: how many leases each may have when it is well.
        """
        if self._all is None:
            self._all = Candidates.of(e for e in self.members if e in self._open and e.load < limit_of(e))
        return self._all


def tier_shares(health: Sequence[tuple[int, int]]) -> list[float]:
    """Each tier's share of the requests, in order of priority, summing to 1 unless nothing is ready.

    Args:
        health: (ready, total) of each tier; those that the operator has taken out count in neither.

    Source: Envoy, priority levels: a tier takes 1.4 times its healthy part, the rest spills down.
    """
    shares: list[float] = []
    rest = 1.0
    for ready, total in health:
        share = min(rest, _OVERPROVISION * ready / total) if total else 0.0
        shares.append(share)
        rest -= share
    whole = sum(shares)
    return [share / whole for share in shares] if whole else shares


def draw_tier(tiers: Sequence[Tier], chance: float) -> Tier | None:
    """The tier for a draw in [0, 1); the first tier if none is ready, None without tiers."""
    if not tiers:
        return None
    for tier, share in zip(tiers, tier_shares([(t.ready_count, t.open_count) for t in tiers]), strict=True):
        if chance < share:
            return tier
        chance -= share
    ready = [tier for tier in tiers if tier.ready_count]
    return ready[-1] if ready else tiers[0]
