"""What the learnt affinities share: a bounded table from values to endpoints, and when something is written into it.

What clients and servers send is never kept, only a keyed digest of it: an entry takes the same room whatever they send.
Everything is O(1); no timers. Expired entries go when they are asked for, and from the oldest end.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable
from hashlib import blake2s
from secrets import token_bytes
from typing import Annotated, NamedTuple

from msgspec import Meta

from router import Duration, Endpoint, Exchange, Members, Options, Tools

__all__ = ["LONGEST", "Learnt", "LearntOptions", "Table", "check_token"]

#: Bytes of a value; longer ones are ignored. The largest cookie that browsers keep (RFC 6265 §6.1).
LONGEST = 4096
#: Entries of a table: at ten times as many, the loop would stand still for seconds whenever Python makes room for more.
_MOST = 1_000_000
#: The object of a digest this long takes 48 bytes; one byte more, and it would take 64.
_DIGEST = 15
#: In so many steps time passes for entries: those used in the same step at one endpoint share their `Pin`.
_STEPS = 64
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,256}")


class LearntOptions(Options, frozen=True):
    """What every learnt affinity can be told.

    Args:
        name: of the cookie, header or parameter that holds the value.
        size: entries at most; those that were not used for the longest time go first.
        ttl: an entry that is not used for so long is forgotten, at most 1/64 of it later; "none" for never.
    """

    name: str
    size: Annotated[int, Meta(ge=1, le=_MOST)] = 100_000
    ttl: Duration = Duration(3600)

    def __post_init__(self) -> None:
        if not self.ttl > 0:
            raise ValueError('ttl must be a time, such as "1h"')


def check_token(name: str, kind: str) -> None:
    """Raises ValueError if `name` cannot be that of a cookie or a field (RFC 9110 §5.6.2)."""
    if not _TOKEN.fullmatch(name):
        raise ValueError(f"name must be that of a {kind}: letters, digits and -_.~!#$%&'*+^`|, at most 256")


class Pin(NamedTuple):
    """Where some values lead; shared by all that were used there in the same step of time."""

    identity: str
    until: float


class Table:
    """Keys to identities of endpoints; at most `size` of them, in the order of their last use.

    Args:
        ttl: seconds since the last use for which an entry is kept at least; 1/64 more at most.
    """

    __slots__ = ("_clock", "_digest", "_entries", "_pins", "_size", "_step_ends", "_ttl")

    def __init__(self, size: int, ttl: float, clock: Callable[[], float]) -> None:
        self._size = size
        self._ttl = ttl
        self._clock = clock
        # Not from `tools.rng`: whom it chose may tell a client about it, and nothing that is seen depends on this key.
        self._digest = blake2s(key=token_bytes(32), digest_size=_DIGEST)
        self._entries: OrderedDict[bytes, Pin] = OrderedDict()
        #: Of the present step, by identity.
        self._pins: dict[str, Pin] = {}
        self._step_ends = float("-inf")

    def __len__(self) -> int:
        return len(self._entries)

    def key(self, value: bytes) -> bytes:
        """What stands for this value; nobody outside can foresee it, or find two values that have the same."""
        digest = self._digest.copy()
        digest.update(value)
        return digest.digest()

    def get(self, key: bytes) -> str | None:
        """The identity, which counts as a use, or None."""
        pin = self._entries.get(key)
        if pin is None:
            return None
        now = self._clock()
        if now >= pin.until:
            del self._entries[key]
            return None
        present = self._pin(pin.identity, now)
        if present is not pin:
            self._entries[key] = present
        self._entries.move_to_end(key)
        return pin.identity

    def put(self, key: bytes, identity: str) -> None:
        """Sets or replaces an entry; the oldest goes where there are too many."""
        entries, now = self._entries, self._clock()
        entries[key] = self._pin(identity, now)
        entries.move_to_end(key)
        if len(entries) > self._size:
            entries.popitem(last=False)
        # Two for one: so those of before get fewer, and no request pays for all of them at once.
        for _ in range(2):
            oldest = next(iter(entries))
            if entries[oldest].until > now:
                break
            del entries[oldest]

    def pop(self, key: bytes) -> None:
        self._entries.pop(key, None)

    def _pin(self, identity: str, now: float) -> Pin:
        if now >= self._step_ends:
            self._pins.clear()
            self._step_ends = now + self._ttl / _STEPS
        pin = self._pins.get(identity)
        if pin is None:
            pin = self._pins[identity] = Pin(identity, self._step_ends + self._ttl)
        return pin


class Learnt:
    """Pins by a value that requests carry. Made for inheritance: `value` is what differs.

    The first answer to a value decides, and later requests with it follow. Where the pinned endpoint is not the one
    that answered, the one that did counts from then on.
    """

    __slots__ = ("_table",)

    def __init__(self, options: LearntOptions, tools: Tools) -> None:
        self._table = Table(options.size, options.ttl, tools.clock)

    def value(self, exchange: Exchange) -> bytes:
        """What the client sent; b"" for nothing. Never raises."""
        return b""

    def find(self, members: Members, exchange: Exchange) -> Endpoint | None:
        key = self._key(exchange)
        identity = None if key is None else self._table.get(key)
        if key is None or identity is None:
            return None
        endpoint = members.get(identity)
        if endpoint is None:
            # Whoever answers takes its place.
            self._table.pop(key)
        return endpoint

    def due(self, endpoint: Endpoint, exchange: Exchange, head: bytes) -> bool:
        """Whether there may be something to learn: the pin was not followed, or there was none, but a value."""
        return exchange.pinned is not endpoint and 0 < len(self.value(exchange)) <= LONGEST

    def remember(self, endpoint: Endpoint, exchange: Exchange, headers: list[tuple[bytes, bytes]]) -> None:
        pinned = exchange.pinned
        key = self._key(exchange) if pinned is not endpoint else None
        if key is None:
            return
        known = self._table.get(key)
        # What another request has learnt meanwhile stands: a slow answer must not move a session that is elsewhere now.
        if known is None or (pinned is not None and known == pinned.identity):
            self._table.put(key, endpoint.identity)

    def _key(self, exchange: Exchange) -> bytes | None:
        value = self.value(exchange)
        return self._table.key(value) if 0 < len(value) <= LONGEST else None
