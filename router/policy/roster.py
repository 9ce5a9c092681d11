"""Who is in a pool, and by which settings: the part of Pool that changes when a configuration or a source does."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

from router.endpoints import index_specs
from router.model import Candidates, Endpoint, EndpointSpec, Members
from router.policy.adaptive import make_limit
from router.policy.health import Health, Probed
from router.policy.seating import Seating
from router.policy.tiers import Tier

__all__ = ["Roster"]

#: What an adaptive limit may rise to where no other is set.
_MOST_ADAPTIVE = 1000
#: What is said when an operator, or a configuration, changes an endpoint's state.
_OPERATED = {"drain": "draining", "up": "up again"}


class Roster(Seating):
    """What Pool is made upon: its members. See Pool for the arguments."""

    def update(self, specs: Iterable[EndpointSpec], now: float) -> None:
        """Takes the complete set of endpoints. The same identity at the same address keeps its object, its leases and
        its health.

        Raises:
            ValueError: two specs have the same identity, or an address is none.
        """
        self.replace(index_specs(specs), now)

    def replace(self, wanted: Mapping[str, EndpointSpec], now: float) -> None:
        """The same, of specs by their identity. Costs little more than what is different: a large pool must not stand
        still while one of its endpoints changes."""
        before = dict(self.members.items())
        moved = [(e, spec) for i, spec in wanted.items() if (e := before.get(i)) is not None and e.spec != spec]
        gone = [e for i, e in before.items() if i not in wanted]
        # Another address is another server, whatever it is called.
        gone += [e for e, spec in moved if spec.url != e.spec.url and spec.address != e.address]
        left = set(gone)
        kept = [(endpoint, spec) for endpoint, spec in moved if endpoint not in left]
        if not (gone or moved) and list(wanted) == list(before):
            return
        turned = [e for e, spec in kept if e.spec.state != spec.state != e.health.operator]
        for endpoint in gone:
            self._leave(endpoint)
        company = frozenset(self._ready)
        for endpoint, spec in kept:
            self._change(endpoint, spec)
        staying = {identity: endpoint for identity, endpoint in before.items() if endpoint not in left}
        joined = {identity: self._join(spec) for identity, spec in wanted.items() if identity not in staying}
        self.members = Members({identity: joined.get(identity) or staying[identity] for identity in wanted})
        self._arrange()
        self._seat_all([*joined.values(), *(endpoint for endpoint, _ in kept)], company, now)
        self._tell_selector()
        for endpoint in turned:
            self.tell(endpoint, _OPERATED[endpoint.health.operator], now)
        for endpoint in gone:
            self._forget(endpoint, now)
        self.updated()

    def uses(self, plugin: object) -> bool:
        """Whether exchanges call this plugin object through the pool."""
        return plugin is self.selector or any(plugin is detector for detector in self.detectors)

    def operate(self, endpoint: Endpoint, state: Literal["up", "drain"], now: float) -> None:
        """Takes an operator's word."""
        if endpoint.health.operator != state:
            endpoint.health.operator = state
            self.place(endpoint, now)
            self.tell(endpoint, _OPERATED[state], now)

    def _arrange(self) -> None:
        """Takes tiers out that have nobody, and finds whether one list answers all."""
        self.tiers = tuple(tier for tier in self.tiers if tier.members)
        plain = len(self.tiers) == 1 and self.tiers[0].is_plain and not self.few_ready
        self.usual = self.tiers[0].candidates() if plain else Candidates()

    def _into_tier(self, endpoint: Endpoint) -> None:
        priority = endpoint.spec.priority
        tier = next((tier for tier in self.tiers if tier.priority == priority), None)
        if tier is None:
            tier = Tier(priority, self.zone, self.few_ready)
            self.tiers = tuple(sorted((*self.tiers, tier), key=lambda each: each.priority))
        tier.add(endpoint)

    def _out_of_tier(self, endpoint: Endpoint) -> None:
        self._unplace(endpoint)
        next(tier for tier in self.tiers if endpoint in tier.members).remove(endpoint)

    def _join(self, spec: EndpointSpec) -> Endpoint:
        endpoint = Endpoint(spec, self.name)
        probed = Probed(*self.probe) if self.probe is not None else None
        endpoint.health = Health(self.ejection, probed, spec.state)
        self._limit(endpoint)
        self._into_tier(endpoint)
        return endpoint

    def _limit(self, endpoint: Endpoint) -> None:
        """Gives the endpoint an adaptive limit, where there is such a thing."""
        if self.limits.adaptive:
            most = int(min(self.limits.per_endpoint, _MOST_ADAPTIVE))
            self._adaptive[endpoint] = make_limit(self.limits.adaptive, most)

    def _leave(self, endpoint: Endpoint) -> None:
        self._out_of_tier(endpoint)
        self._out.pop(endpoint, None)
        self._ready.discard(endpoint)
        self._adaptive.pop(endpoint, None)
        self.slow_start.drop(endpoint)

    def _change(self, endpoint: Endpoint, spec: EndpointSpec) -> None:
        before, endpoint.spec = endpoint.spec, spec
        if before.state != spec.state:
            endpoint.health.operator = spec.state
        # During slow start, the step that follows writes a part of it.
        endpoint.weight = spec.weight
        if (before.priority, before.zone) != (spec.priority, spec.zone):
            self._out_of_tier(endpoint)
            self._into_tier(endpoint)

    def _tell_selector(self) -> None:
        update = getattr(self.selector, "update", None)
        if update is None:
            return
        try:
            update(tuple(self.members.values()))
        except Exception as error:
            self.muted(self.selector, error)

    def _forget(self, endpoint: Endpoint, now: float) -> None:
        for detector in self.detectors:
            forget = getattr(detector, "forget", None)
            if forget is None:
                continue
            try:
                forget(endpoint)
            except Exception as error:
                self.muted(detector, error)
        if endpoint.load == 0:
            self.gone(endpoint)
        else:
            self.leaving[endpoint] = now
            self.left(endpoint)

    def _resettle(self, fresh: Roster, now: float) -> None:
        """Takes the settings of a pool that was never used; members, their health and their leases stay."""
        selector, self.selector = self.selector, fresh.selector
        adaptive = (self.limits.adaptive, self.limits.per_endpoint)
        for name in ("detectors", "limits", "ejection", "probe", "when_few_ready", "few_ready", "zone"):
            setattr(self, name, getattr(fresh, name))
        self.silenced = tuple(each for each in self.silenced if each in self.detectors)
        self.detectors = tuple(each for each in self.detectors if each not in self.silenced)
        self.slow_start.resettle(fresh.slow_start)
        if adaptive != (self.limits.adaptive, self.limits.per_endpoint):
            self._adaptive.clear()
        told = {tier.priority: tier.few_told for tier in self.tiers}
        for endpoint in self.members.values():
            self._out_of_tier(endpoint)
        self._arrange()
        for endpoint in self.members.values():
            endpoint.health.resettle(self.ejection, self.probe)
            if endpoint not in self._adaptive:
                self._limit(endpoint)
            self._into_tier(endpoint)
        for tier in self.tiers:
            tier.few_told = told[tier.priority]
        self._arrange()
        self._seat_all(self.members.values(), frozenset(self._ready), now)
        if selector is not self.selector:
            self._tell_selector()
