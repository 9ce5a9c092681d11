"""What is said of one request: where it would go or went, and why. Plain data; filled in by policy/explaining.py.

On spans, by `router explain`, `router check --request`, and to clients that may ask. All times are seconds from now. At
most ten endpoints stand in any list; the counts beside them are whole.
"""

from __future__ import annotations

import json

import msgspec
from msgspec.structs import replace

__all__ = ["Choice", "Explanation", "LeftEndpoint", "LeftOut", "Option", "PoolVerdict", "Retries", "Waiting"]


class _Data(msgspec.Struct, frozen=True, gc=False):
    pass


class LeftEndpoint(_Data, frozen=True):
    """One endpoint that cannot take the request."""

    id: str
    #: More about the reason, such as "status 500; back in 21 s".
    detail: str = ""


class LeftOut(_Data, frozen=True):
    """The endpoints that cannot take the request for one reason."""

    reason: str
    count: int
    endpoints: tuple[LeftEndpoint, ...]


class Option(_Data, frozen=True):
    """One endpoint that can take the request."""

    id: str
    #: Requests under way there.
    load: int
    #: As of now: less than configured during slow start.
    weight: float
    #: As in the status: other than "ready" where health is ignored, or on probation.
    state: str = "ready"
    #: How likely it is to be chosen, 0 to 1; None where the strategy does not say.
    share: float | None = None


class Choice(_Data, frozen=True):
    """The candidates of one tier, as the pool's strategy would see them."""

    priority: int
    #: How likely it is that this tier is drawn, 0 to 1.
    share: float
    count: int
    options: tuple[Option, ...]
    #: What is unusual about who is a candidate: health ignored, the own zone alone; "" if nothing is.
    why: str = ""
    #: What went wrong when the strategy was asked for its scores; "" if nothing did.
    failed: str = ""


class Waiting(_Data, frozen=True):
    """Why the request would not be sent at once, and the queue that it would meet."""

    reason: str
    #: Requests that wait already, and how many may.
    taken: int
    places: int
    #: For how long it would wait at most; None for as long as it takes.
    seconds: float | None


class Retries(_Data, frozen=True):
    """What would happen if the first attempt failed."""

    #: Attempts after the first.
    attempts: int
    #: The failures after which there is one, in the words of `retry.on`.
    on: tuple[str, ...]
    #: Retries that the pool may make now.
    budget: float
    #: Whether the method allows it only as long as nothing was sent.
    only_unsent: bool = False
    #: Seconds without a response head after which another endpoint is asked as well; None for never.
    hedge_after: float | None = None


class PoolVerdict(_Data, frozen=True):
    """What one pool would do with the request."""

    name: str
    #: How likely it is that the request comes to this pool, 0 to 1.
    share: float
    #: Name of the strategy.
    selection: str
    members: int
    ready: int
    #: Requests under way in the pool.
    in_flight: int
    #: The answer, in words: an endpoint's id where that is certain.
    decision: str
    #: The endpoint that takes it; "" if none does, or chance decides.
    endpoint: str = ""
    #: Of the router's own answer; None if the request is sent, now or after waiting.
    status: int | None = None
    #: What affinity says, in words; "" where there is none.
    affinity: str = ""
    left_out: tuple[LeftOut, ...] = ()
    #: One for each tier that may be drawn; empty where affinity decides, or nobody can take the request.
    choices: tuple[Choice, ...] = ()
    waiting: Waiting | None = None
    retries: Retries | None = None


class Explanation(_Data, frozen=True):
    """Where a request would go now, and why."""

    request: str
    #: "" if none takes it.
    route: str = ""
    #: file:line of the route.
    place: str = ""
    #: Path and query that the endpoint sees, if not those of the request.
    target: str = ""
    #: Of the router's own answer; None if a pool decides.
    status: int | None = None
    #: Why the router answers itself.
    reason: str = ""
    #: The route's filters, which are not asked: any of them may answer instead.
    filters: tuple[str, ...] = ()
    #: Several if chance decides which one takes it.
    pools: tuple[PoolVerdict, ...] = ()
    #: The endpoint that took it, where this tells of a request that was sent; else "".
    chosen: str = ""

    def text(self, limit: int) -> str:
        """This as JSON in ASCII, in at most `limit` characters: first its lists get shorter, then all else goes."""
        try:
            whole = msgspec.json.encode(self).decode()
        except UnicodeEncodeError:
            # A lone surrogate, which the slower way can write.
            pass
        else:
            # All other controls are escaped in it.
            if len(whole) <= limit and whole.isascii() and "\x7f" not in whole:
                return whole
        for most in _LENGTHS:
            text = json.dumps(msgspec.to_builtins(_shortened(self, most)), separators=(",", ":"))
            if len(text) <= limit:
                return text
        # A character may take twelve.
        room = max(0, limit - 26) // 24
        return json.dumps({"request": self.request[:room], "chosen": self.chosen[:room]}, separators=(",", ":"))


#: How many entries of its lists an explanation keeps where room is short.
_LENGTHS = (10, 3, 1, 0)


def _shortened(found: Explanation, most: int) -> Explanation:
    return replace(found, pools=tuple(_shorter(pool, most) for pool in found.pools[: most + 1]))


def _shorter(pool: PoolVerdict, most: int) -> PoolVerdict:
    left_out = tuple(replace(group, endpoints=group.endpoints[:most]) for group in pool.left_out)
    choices = tuple(replace(choice, options=choice.options[:most]) for choice in pool.choices[: most + 1])
    return replace(pool, left_out=left_out, choices=choices)
