"""Tells observers what happens. An observer that raises is logged, muted and counted, and no request ever feels it.

Requests ask `foretold` and `enabled` first: without observers they pay for these two. Nothing here decides anything.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable
from typing import Any

from router.api import AtEnd, Foretold, Observer
from router.model import Attempt, Endpoint, Exchange, Outcome

__all__ = ["Heard", "Observers", "Tokens"]

log = logging.getLogger("router.observe")

#: Who asked to hear more of an exchange, each with the token it gave.
Tokens = list[tuple[Observer, Any]]

#: Those who hear of every attempt, or None; and all, those who hear of the end alone included.
Heard = tuple[Tokens | None, Tokens]

#: One whole field line, as nearly all add, and any number of them.
_LINE = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]++: [\t -~\x80-\xff]*+\r\n").fullmatch
_LINES = re.compile(rb"(?:[!#$%&'*+.^_`|~0-9A-Za-z-]++: [\t -~\x80-\xff]*+\r\n)*").fullmatch

_NEVER = float("inf")
_BROKEN = re.compile(rb"[\r\n\0]").search
_BYTES = {bytes}


class Observers:
    """Fans out to all observers, in the order of the configuration.

    Args:
        observers: objects that implement Observer.
        names: what to call them in logs and in `muted`, in the same order; class names if left out.

    Attributes:
        enabled: whether there is any observer left to tell.
        foretold: what the one observer says of nearly all requests, if it has told; else None.
        unasked: what `request_started` would return of those.
        muted: name -> reason, of those that raised.
    """

    __slots__ = ("_late", "_names", "_observers", "_only", "_silenced", "enabled", "foretold", "muted", "unasked")

    def __init__(self, observers: Iterable[Observer] = (), names: Iterable[str] = ()) -> None:
        self._observers = tuple(observers)
        self._names = _unique(list(names) or [type(observer).__name__ for observer in self._observers])
        if len(self._names) != len(self._observers):
            raise ValueError("as many names as observers")
        self._settle()
        self.muted: dict[str, str] = {}
        #: The objects that are muted.
        self._silenced: list[Observer] = []

    def replace(self, other: Observers) -> None:
        """Takes the observers of a reload. Those of before still hear of exchanges that they know."""
        kept = [(o, n) for o, n in zip(other._observers, other._names, strict=True) if o not in self._silenced]
        self._observers, self._names = tuple(o for o, _ in kept), [n for _, n in kept]
        named = zip(other._observers, other._names, strict=True)
        still = {name for observer, name in named if observer in self._silenced}
        self.muted = {name: why for name, why in self.muted.items() if name in still}
        self._silenced = [observer for observer in self._silenced if observer in other._observers]
        self._settle()

    def _settle(self) -> None:
        self.enabled = bool(self._observers)
        #: The one observer, if it vouches for its lines: most routers have no other.
        self._only: Any = self._observers[0] if [*map(_vouches, self._observers)] == [True] else None
        #: Its last AtEnd, as one object serves for most requests; and what that comes to.
        self._late: tuple[AtEnd | None, Heard] = (None, (None, []))
        only: Any = self._only
        said = getattr(only, "foretold", None)
        self.foretold: Foretold | None = said if isinstance(said, Foretold) else None
        token = self.foretold.token if self.foretold is not None else None
        self.unasked: Heard | None = None if token is None else (None, [(only, token)])

    def request_started(self, exchange: Exchange) -> Heard | None:
        """The tokens to hand to the other methods, or None if nobody wants to hear more of this exchange."""
        only = self._only
        if only is None:
            return self._told_all(exchange)
        try:
            token = only.request_started(exchange)
        except Exception as error:
            exchange.added, exchange.dropped, exchange.trace_id = b"", (), ""
            self._mute(only, "request_started", error)
            return None
        if token is None:
            return None
        if token is self._late[0]:
            return self._late[1]
        heard = [(only, token)]
        if isinstance(token, AtEnd):
            self._late = token, (None, heard)
            return self._late[1]
        return heard, heard

    def _told_all(self, exchange: Exchange) -> Heard | None:
        """The same with several, or with one whose changes are looked through."""
        tokens: Tokens | None = None
        late: Tokens | None = None
        for observer in self._observers:
            added, dropped, trace_id = exchange.added, exchange.dropped, exchange.trace_id
            try:
                token = observer.request_started(exchange)
                if exchange.added is not added and not _vouches(observer) and not _LINE(exchange.added):
                    _check_added(exchange.added)
                if exchange.dropped is not dropped:
                    _check_dropped(exchange.dropped)
                if type(exchange.trace_id) is not str:
                    raise TypeError("exchange.trace_id is text")
            except Exception as error:
                exchange.added, exchange.dropped, exchange.trace_id = added, dropped, trace_id
                self._mute(observer, "request_started", error)
                continue
            if token is None:
                continue
            if isinstance(token, AtEnd):
                late = [*(late or ()), (observer, token)]
            else:
                tokens = [*(tokens or ()), (observer, token)]
        if tokens is None:
            return None if late is None else (None, late)
        return tokens, tokens + late if late else tokens

    def explains(self, tokens: Tokens, exchange: Exchange) -> bool:
        """Whether anybody wants the next decision about this exchange explained."""
        for observer, token in self._listening(tokens):
            asked = getattr(observer, "explain", None)
            try:
                if asked is not None and asked(token):
                    return True
            except Exception as error:
                self._mute(observer, "explain", error)
        return False

    def attempt_started(
        self, tokens: Tokens, exchange: Exchange, attempt: Attempt, headers: list[tuple[bytes, bytes]]
    ) -> None:
        """Each observer may append request headers; what is no header at all is taken back, and its author muted."""
        for observer, token in self._listening(tokens) if self._silenced else tokens:
            before = headers.copy()
            try:
                observer.attempt_started(token, exchange, attempt, headers)
                if observer is not self._only and not _vouches(observer):
                    _check_appended(before, headers)
            except Exception as error:
                headers[:] = before
                self._mute(observer, "attempt_started", error)

    def attempt_ended(self, tokens: Tokens, exchange: Exchange, attempt: Attempt, outcome: Outcome) -> None:
        for observer, token in self._listening(tokens) if self._silenced else tokens:
            try:
                observer.attempt_ended(token, exchange, attempt, outcome)
            except Exception as error:
                self._mute(observer, "attempt_ended", error)

    def request_ended(self, tokens: Tokens, exchange: Exchange, error: Exception | None, now: float = _NEVER) -> None:
        """`now`: when it was over, in seconds of the router's clock."""
        well = error is None and exchange.status < 500 and len(exchange.tried) < 2
        for observer, token in self._listening(tokens) if self._silenced else tokens:
            if well and isinstance(token, AtEnd) and now - exchange.started <= token.within:
                continue
            try:
                observer.request_ended(token, exchange, error)
            except Exception as raised:
                self._mute(observer, "request_ended", raised)

    def endpoint_changed(self, endpoint: Endpoint, cause: str) -> None:
        for observer in self._observers:
            self._tell(observer, "endpoint_changed", observer.endpoint_changed, endpoint, cause)

    def table_swapped(self, version: int) -> None:
        for observer in self._observers:
            self._tell(observer, "table_swapped", observer.table_swapped, version)

    def _listening(self, tokens: Tokens) -> Tokens:
        """Without those that were muted since the exchange began."""
        if not self._silenced:
            return tokens
        silenced = {id(observer) for observer in self._silenced}
        return [(observer, token) for observer, token in tokens if id(observer) not in silenced]

    def _tell(self, observer: Observer, method: str, call: Callable[..., None], *arguments: Any) -> None:
        try:
            call(*arguments)
        except Exception as error:
            self._mute(observer, method, error)

    def _mute(self, observer: Observer, method: str, error: Exception) -> None:
        index = next((i for i, other in enumerate(self._observers) if other is observer), None)
        if index is None:
            if observer not in self._silenced:
                # One of before a reload, which has gone from the list already.
                self._silenced.append(observer)
                log.error("an observer that is no longer configured is muted: %s raised %r", method, error)
            return
        self._silenced.append(observer)
        self._observers = (*self._observers[:index], *self._observers[index + 1 :])
        name = self._names.pop(index)
        self.muted[name] = f"{method} raised {type(error).__name__}: {error}"
        self._settle()
        log.error('observer "%s" is muted: %s', name, self.muted[name])
        log.debug('traceback of observer "%s"', name, exc_info=error)


def _vouches(observer: Observer) -> bool:
    """Whether what the observer adds need not be looked through (see Observer)."""
    return getattr(observer, "whole_lines", False) is True


def _check_added(added: bytes) -> None:
    if not _LINES(added):
        raise ValueError("exchange.added holds whole field lines, as b'name: value\\r\\n'")


def _check_dropped(dropped: tuple[bytes, ...]) -> None:
    if type(dropped) is not tuple or not all(type(name) is bytes for name in dropped):
        raise TypeError("exchange.dropped is a tuple of names of fields, as bytes")


def _check_appended(before: list[tuple[bytes, bytes]], headers: list[tuple[bytes, bytes]]) -> None:
    if headers[: len(before)] != before:
        raise ValueError("an observer may append request headers, not change them")
    for field in headers[len(before) :]:
        if not isinstance(field, tuple) or len(field) != 2 or {*map(type, field)} != _BYTES:
            raise TypeError(f"a request header is a pair of bytes, not {field!r}")
        if not field[0] or _BROKEN(field[0]) or _BROKEN(field[1]):
            raise ValueError(f"a request header has an empty name or a line break in it: {field!r}")


def _unique(names: list[str]) -> list[str]:
    counts: dict[str, int] = {}
    unique = []
    for name in names:
        counts[name] = counts.get(name, 0) + 1
        unique.append(name if counts[name] == 1 else f"{name}#{counts[name]}")
    return unique
