"""What the control socket carries: questions to a running router, and its answers. Plain data, no behaviour.

One JSON object per line in each direction. A question is one of `Question`, told apart by its key "do"; the answer is
an `Answer`. All times are seconds, all ages seconds before now: the two ends need not share a clock.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

__all__ = [
    "Answer",
    "AskDrain",
    "AskExplain",
    "AskReload",
    "AskStatus",
    "AskUndrain",
    "AskWeight",
    "CertificateStatus",
    "ConfigStatus",
    "EndpointStatus",
    "ListenerStatus",
    "PoolStatus",
    "Question",
    "Status",
]


class _Data(msgspec.Struct, frozen=True, omit_defaults=False):
    pass


class _Ask(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="do"):
    pass


class AskStatus(_Ask, frozen=True, tag="status"):
    """The state of now. Its result is a Status."""


class AskReload(_Ask, frozen=True, tag="reload"):
    """Read the configuration again. The answer comes when it is in force, or was refused."""


class AskDrain(_Ask, frozen=True, tag="drain"):
    """Give an endpoint no new requests but those of sessions that it has."""

    pool: str
    endpoint: str


class AskUndrain(_Ask, frozen=True, tag="undrain"):
    """Give an endpoint requests again."""

    pool: str
    endpoint: str


class AskWeight(_Ask, frozen=True, tag="weight"):
    """Set the weight of an endpoint; None for the configured one."""

    pool: str
    endpoint: str
    weight: Annotated[int, msgspec.Meta(ge=0, le=65535)] | None


class AskExplain(_Ask, frozen=True, tag="explain"):
    """Say where a request would go now, and why. Its result is an Explanation."""

    method: str
    url: str
    #: Name and value of further header fields.
    headers: tuple[tuple[str, str], ...] = ()
    #: Address that the request seems to come from; "" if it does not matter.
    client: str = ""


Question = AskStatus | AskReload | AskDrain | AskUndrain | AskWeight | AskExplain


class Answer(_Data, frozen=True):
    """The answer to one question."""

    ok: bool
    #: What was done, or why not; may have several lines.
    text: str = ""
    #: What was asked for, if anything.
    result: Any = None


class EndpointStatus(_Data, frozen=True):
    """One endpoint.

    `state` is "ready", "on probation", "ejected", "down", "not probed yet", "draining", "weight 0" or
    "removed".
    """

    id: str
    url: str
    state: str
    #: What was said at the last change of state.
    cause: str = ""
    #: Age of that change; None if there was none.
    since: float | None = None
    #: Leases open now.
    load: int = 0
    #: As of now: less than configured during slow start.
    weight: float = 1
    #: What the configuration or the discovery says.
    configured_weight: int = 1
    priority: int = 0
    zone: str = ""
    #: Requests sent to it so far.
    requests: int = 0
    #: Moving average from sending a request to its response head; None before the first.
    latency: float | None = None
    #: How often real traffic has taken it out.
    ejections: int = 0
    #: What an operator has set by command: "drain", "up", "weight".
    overrides: tuple[str, ...] = ()
    #: "configuration" or the name of the discovery plugin.
    source: str = "configuration"


class PoolStatus(_Data, frozen=True):
    """One pool."""

    name: str
    selection: str
    ready: int
    in_flight: int
    #: Requests that wait for room.
    queue: int
    #: Attempts after the first, so far.
    retries: int
    #: Retries that may be made now.
    budget: float
    endpoints: tuple[EndpointStatus, ...]
    #: Name of the discovery plugin, "" without one; and how it fares.
    discovery: str = ""
    discovery_state: str = ""


class ListenerStatus(_Data, frozen=True):
    """One address that the router accepts on."""

    name: str
    connections: int
    #: Whether new clients wait because there are too many.
    paused: bool = False
    turned_away: int = 0
    #: Requests that were no valid HTTP.
    refused: int = 0


class CertificateStatus(_Data, frozen=True):
    """One certificate."""

    names: tuple[str, ...]
    #: Seconds until it ends; negative if it has.
    expires_in: float


class ConfigStatus(_Data, frozen=True):
    """The configuration in force."""

    #: The file; "" if it came from the command line.
    file: str
    #: 1 at the start, one more with each reload.
    version: int
    age: float
    #: Why the last attempt to reload was refused; "" if it was not.
    refused: str = ""


class Status(_Data, frozen=True):
    """The whole state of a running router."""

    #: Of the program.
    version: str
    pid: int
    uptime: float
    draining: bool
    config: ConfigStatus
    listeners: tuple[ListenerStatus, ...]
    pools: tuple[PoolStatus, ...]
    certificates: tuple[CertificateStatus, ...] = ()
    #: Plugin -> why it is muted.
    muted: dict[str, str] = {}

    def pool(self, name: str) -> PoolStatus:
        """The pool of this name; raises KeyError if there is none."""
        found = next((pool for pool in self.pools if pool.name == name), None)
        if found is None:
            raise KeyError(name)
        return found
