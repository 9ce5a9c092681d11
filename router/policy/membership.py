"""The endpoints that a pool is to have: what is configured, what is discovered, and an operator's word on top.

Three writers, one set: each of the three parts is replaced on its own, and `wanted` is made anew from all of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from router.model import EndpointSpec

__all__ = ["Membership", "Override"]


@dataclass(frozen=True, slots=True)
class Override:
    """What an operator has set for one endpoint."""

    #: "" leaves what is configured.
    state: Literal["", "up", "drain"] = ""
    weight: int | None = None

    @property
    def words(self) -> tuple[str, ...]:
        """For people: which things are set."""
        return tuple(word for word in (self.state, "" if self.weight is None else "weight") if word)


_NONE = Override()


class Membership:
    """One pool's.

    Attributes:
        configured, found: specs by their identity, of the configuration and of the discovery. Where both name the same
            endpoint, the configuration's word counts.
        overrides: by identity; they outlive their endpoint, so that one that comes back is as the operator left it.
    """

    __slots__ = ("configured", "found", "overrides")

    def __init__(self, overrides: dict[str, Override] | None = None) -> None:
        self.configured: Mapping[str, EndpointSpec] = {}
        self.found: Mapping[str, EndpointSpec] = {}
        self.overrides = overrides if overrides is not None else {}

    def wanted(self) -> dict[str, EndpointSpec]:
        """The whole set by identity, the configured ones first."""
        wanted = {**self.configured, **self.found, **self.configured}
        for identity, override in self.overrides.items():
            if identity in wanted:
                wanted[identity] = wanted[identity].altered(override.state, override.weight)
        return wanted

    def plain(self, identity: str) -> EndpointSpec:
        """What is configured or found, without an operator's word.

        Raises:
            LookupError: there is no such endpoint.
        """
        spec = self.configured.get(identity) or self.found.get(identity)
        if spec is None:
            raise LookupError(identity)
        return spec

    def undo(self, identity: str) -> bool:
        """Takes back all that was set for an endpoint, there or not. True if anything was."""
        return self.overrides.pop(identity, None) is not None

    def operate(self, identity: str, state: Literal["up", "drain"]) -> bool:
        """Sets an endpoint's state; what is configured anyway needs no override. True if anything has changed.

        Raises:
            LookupError: there is no such endpoint.
        """
        spec, before = self.plain(identity), self.overrides.get(identity, _NONE)
        wanted: Literal["", "up", "drain"] = "" if spec.state == state else state
        return self._set(identity, Override(wanted, before.weight))

    def weigh(self, identity: str, weight: int | None) -> bool:
        """Sets an endpoint's weight; None goes back to the configured one. True if anything has changed.

        Raises:
            LookupError: there is no such endpoint.
        """
        spec, before = self.plain(identity), self.overrides.get(identity, _NONE)
        return self._set(identity, Override(before.state, None if weight == spec.weight else weight))

    def _set(self, identity: str, override: Override) -> bool:
        before = self.overrides.get(identity, _NONE)
        if override == _NONE:
            self.overrides.pop(identity, None)
        else:
            self.overrides[identity] = override
        return override != before
