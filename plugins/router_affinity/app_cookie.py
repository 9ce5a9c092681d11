"""Learns a cookie that the application sets itself, such as its session id: the value belongs to whoever gave it.

Clients see no other cookie than the application's. A value that nobody here has seen is learnt from the first answer to
it, so that a router that was started again learns anew while the sessions go on.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from email.utils import mktime_tz, parsedate_tz

from router import Endpoint, Exchange, Tools
from router_affinity.learnt import LONGEST, Learnt, LearntOptions, check_token

__all__ = ["AppCookie", "AppCookieOptions"]

_MAX_AGE = re.compile(rb"-?[0-9]+")


class AppCookieOptions(LearntOptions, frozen=True):
    """Which cookie; for the others see LearntOptions."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_token(self.name, "cookie")


class AppCookie(Learnt):
    """A value that a response sets leads to the endpoint that gave it, until a response deletes it.

    Args:
        wall: seconds since the epoch, which `Expires` is compared with.
    """

    __slots__ = ("_cookie", "_mark", "_set", "_wall")

    def __init__(self, options: AppCookieOptions, tools: Tools, wall: Callable[[], float] = time.time) -> None:
        super().__init__(options, tools)
        self._wall = wall
        self._mark = b"%b=" % options.name.encode()
        mark = re.escape(self._mark)
        self._cookie = re.compile(rb"\n(?i:cookie):[ \t]*+(?:[^;\r\n]*+;[ \t]*+)*?%b([^;\r\n]*+)" % mark)
        self._set = re.compile(rb"\n(?i:set-cookie):[ \t]*+%b" % mark)

    def value(self, exchange: Exchange) -> bytes:
        head = exchange.head
        # Ten times as fast as the expression, for requests without it.
        found = self._cookie.search(head) if self._mark in head else None
        return found[1].rstrip(b" \t") if found else b""

    def due(self, endpoint: Endpoint, exchange: Exchange, head: bytes) -> bool:
        if self._mark in head and self._set.search(head):
            return True
        return super().due(endpoint, exchange, head)

    def remember(self, endpoint: Endpoint, exchange: Exchange, headers: list[tuple[bytes, bytes]]) -> None:
        given = [field for name, field in headers if name.lower() == b"set-cookie" and field.startswith(self._mark)]
        if not given:
            super().remember(endpoint, exchange, headers)
            return
        values = [value for value in map(self._kept, given) if value]
        if values:
            # Of several the last, which is the one that a client keeps.
            self._learn(values[-1], endpoint)
        else:
            key = self._key(exchange)
            if key is not None:
                self._table.pop(key)

    def _learn(self, value: bytes, endpoint: Endpoint) -> None:
        if len(value) <= LONGEST:
            self._table.put(self._table.key(value), endpoint.identity)

    def _kept(self, field: bytes) -> bytes:
        """The value of a Set-Cookie field; b"" if it has none, or deletes the cookie (RFC 6265 §5.3)."""
        first, *rest = field.split(b";")
        attributes = {name.strip().lower(): text.strip() for name, _, text in (each.partition(b"=") for each in rest)}
        max_age = attributes.get(b"max-age", b"")
        if _MAX_AGE.fullmatch(max_age):
            is_over = max_age.startswith(b"-") or not max_age.strip(b"0")
        else:
            is_over = self._is_past(attributes.get(b"expires", b""))
        return b"" if is_over else first[len(self._mark) :].strip()

    def _is_past(self, date: bytes) -> bool:
        """Whether this is a date, and one of the past."""
        try:
            parsed = parsedate_tz(date.decode("latin-1")) if date else None
            return parsed is not None and mktime_tz(parsed) <= self._wall()
        except (ValueError, OverflowError, IndexError, TypeError):
            # What is no date says nothing about the cookie's age.
            return False
