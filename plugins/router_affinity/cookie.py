"""`cookie`: the router's own cookie says which server a client is on, and only the router can have written it.

What a client sends is searched in its raw head and compared in constant time; whatever is not byte for byte a value
that a secret vouches for is as if it were not there. Nothing grows with the clients: tables hold servers, not sessions.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable
from hmac import compare_digest
from itertools import islice
from typing import NamedTuple

from router import Control, Endpoint, Exchange, Members, Tools
from router_affinity.cookie_options import CookieOptions
from router_affinity.cookie_value import LABEL, LENGTH, PUBLIC, Signer, issued_at, time_text

__all__ = ["Cookie"]

_NEVER = float("inf")
_ENDS = (b"", b";")
#: Cookies of the name that are looked at in one request. Browsers send a few at most: one for each path and domain.
_MOST_SENT = 8
#: Values known to be good, at least; above, they are proved anew.
_LEAST_KNOWN = 4096
#: Seconds by which another router's clock may be ahead.
_SKEW = 60
#: A sliding pin is written anew once this part of its ttl is over.
_RENEWAL = 0.1
#: Times of issue are so many parts of the ttl apart, so that many clients share one value and its proof.
_STEPS = 1000
_MARK = "router_affinity.cookie"


class _Pin(NamedTuple):
    """A value that was proved to be the router's."""

    endpoint: Endpoint
    #: Seconds since the epoch; 0 where the value says none.
    issued: int
    #: Until when there is nothing to be written.
    settled_until: float


class Cookie:
    """Sets a cookie that names the client's server, opaque and signed, and knows it again.

    Args:
        wall: seconds since the epoch. Not `tools.clock`, for other routers and later runs read what is written.
    """

    __slots__ = (
        "_after",
        "_ahead",
        "_folder",
        "_good",
        "_known_labels",
        "_labels",
        "_last",
        "_members",
        "_named",
        "_needle",
        "_options",
        "_place",
        "_secure",
        "_signers",
        "_size",
        "_step",
        "_wall",
        "strip_cookies",
    )

    #: A client whose cookie is good and says where it was is told nothing.
    moves_only = True

    def __init__(self, options: CookieOptions, tools: Tools, wall: Callable[[], float] = time.time) -> None:
        self.strip_cookies: tuple[str, ...] = () if options.pass_upstream else (options.name,)
        self._options = options
        self._folder = tools.folder / options.state_dir
        self._wall = wall
        self._step = 1 if options.ttl == _NEVER else max(1, int(options.ttl / _STEPS))
        self._ahead = _SKEW + self._step
        self._signers = tuple(Signer(secret.encode("utf-8", "surrogatepass")) for secret in options.secrets)
        self._needle = options.name.encode() + b"="
        #: Where the public part of a cookie is that stands alone, and how long name and value are.
        self._place = slice(len(self._needle), len(self._needle) + PUBLIC)
        self._size = len(self._needle) + LENGTH
        self._named = re.compile(rb"(?:\A|;)[ \t]*" + re.escape(self._needle) + rb"([^;]*)")
        self._after = _attributes(options)
        self._secure = {"always": ("http", "https"), "auto": ("https",), "never": ()}[options.secure]
        self._members: Members | None = None
        #: Label -> whose it is, and who vouches for it.
        self._labels: dict[bytes, tuple[Endpoint, Signer]] = {}
        self._known_labels: dict[Endpoint, tuple[bytes, ...]] = {}
        #: Label and time -> (name and value, endpoint, settled until), of values that were proved.
        self._good: dict[bytes, tuple[bytes, Endpoint, float]] = {}
        #: What was written last, with its time of issue.
        self._last: dict[Endpoint, tuple[int, bytes]] = {}

    async def start(self, control: Control) -> None:
        """Reads or makes the key where there are no secrets.

        Raises:
            KeyRefusedError: it cannot be made, or what is there is not to be trusted.
        """
        if self._signers:
            return
        from asyncio import to_thread

        from router_affinity.secrets import keep_key

        key = await to_thread(keep_key, self._folder)
        self._signers = (Signer(key.encode()),)
        self._members = None

    def find(self, members: Members, exchange: Exchange) -> Endpoint | None:
        """The endpoint that the client's cookie names, or None."""
        sent, needle = exchange.cookie, self._needle
        known = self._good.get(sent[self._place])
        if (
            known is not None
            and compare_digest(known[0], sent)
            and members is self._members
            and self._wall() < known[2]
        ):
            # Nothing but a cookie that was proved before.
            return known[1]
        at = sent.find(needle)
        if at < 0:
            return None
        if members is not self._members:
            self._adopt(members)
        # Among others, by cuts rather than by a pattern, which takes twice as long: once, and where a browser puts it.
        # All else is considered.
        end = at + self._size
        if sent[end : end + 1] in _ENDS and sent.find(needle, end) < 0 and (not at or sent[at - 2 : at] == b"; "):
            known = self._good.get(sent[end - LENGTH : end - LENGTH + PUBLIC])
            if known is not None and compare_digest(known[0], sent[at:end]) and self._wall() < known[2]:
                return known[1]
        return self._consider(exchange)

    def remember(self, endpoint: Endpoint, exchange: Exchange, headers: list[tuple[bytes, bytes]]) -> None:
        """Appends Set-Cookie if it is due."""
        moved = exchange.pinned is not endpoint
        if not self._signers or not (moved or (exchange.marks is not None and _MARK in exchange.marks)):
            return
        issued, rest = self._issue(endpoint, exchange)
        age = b"" if rest is None else b"; Max-Age=%d" % rest
        secure = b"; Secure" if exchange.scheme in self._secure else b""
        cookie = b"%b%b%b%b%b" % (self._needle, self._value(endpoint, issued), age, self._after, secure)
        headers.append((b"Set-Cookie", cookie))

    # What was sent

    def _consider(self, exchange: Exchange) -> Endpoint | None:
        """Looks at every cookie of the name: the first good one counts, and others beside it have ours set again.

        A browser sends several if they were set for several paths or domains, the most specific first; other pools'
        and other people's may be among them. Who can plant one could as well replace ours, so to believe none of them
        would protect nobody, and would end the session for as long as the other one lasts.
        """
        now = self._wall()
        sent = self._sent(exchange.cookie)
        for value in sent:
            pin = self._proved(value, now)
            if pin is None:
                continue
            if now < pin.settled_until and all(other == value for other in sent):
                self._keep(value, pin)
            else:
                exchange.marks = {**(exchange.marks or {}), _MARK: pin.issued}
            return pin.endpoint
        return None

    def _sent(self, cookie: bytes) -> list[bytes]:
        return [found[1] for found in islice(self._named.finditer(cookie), _MOST_SENT)]

    def _proved(self, value: bytes, now: float) -> _Pin | None:
        """None if nobody vouches for this value, or its time is over."""
        named = self._labels.get(value[:LABEL])
        if named is None or len(value) != LENGTH:
            return None
        endpoint, signer = named
        text = value[LABEL:PUBLIC]
        if not compare_digest(signer.proof(endpoint, text), value[PUBLIC:]):
            return None
        issued, ttl = issued_at(text), self._options.ttl
        if issued and now > issued + ttl:
            return None
        return _Pin(endpoint, issued, self._settled_until(issued, now) if signer is self._signers[0] else 0)

    def _settled_until(self, issued: int, now: float) -> float:
        ttl = self._options.ttl
        if ttl == _NEVER or not issued:
            # Written under other options: it counts, and gets its time, or loses it.
            return _NEVER if ttl == _NEVER and not issued else 0
        if issued > now + self._ahead:
            return 0
        return issued + (ttl if self._options.renew == "absolute" else ttl * _RENEWAL)

    def _keep(self, value: bytes, pin: _Pin) -> None:
        if len(self._good) >= max(_LEAST_KNOWN, 2 * len(self._labels)):
            self._good.clear()
        self._good[value[:PUBLIC]] = (self._needle + value, pin.endpoint, pin.settled_until)

    def _adopt(self, members: Members) -> None:
        """Makes the tables for a new membership; only who is new costs more than a look."""
        old, signers = self._known_labels, self._signers
        self._known_labels = {
            endpoint: old.get(endpoint) or tuple(signer.label(endpoint) for signer in signers)
            for endpoint in members.values()
        }
        # Of two endpoints with one label (one in 10^8 pools of a thousand) the first loses its pins: proofs differ.
        self._labels = {
            label: (endpoint, signer)
            for endpoint, labels in self._known_labels.items()
            for label, signer in zip(labels, signers, strict=True)
        }
        self._good.clear()
        self._last.clear()
        self._members = members

    # What is written

    def _issue(self, endpoint: Endpoint, exchange: Exchange) -> tuple[int, int | None]:
        """Time of issue, and the seconds that the browser is to keep the cookie; None: until it is closed."""
        ttl, now = self._options.ttl, self._wall()
        if ttl == _NEVER:
            return 0, None
        first = exchange.marks.get(_MARK, 0) if exchange.marks and exchange.pinned is endpoint else 0
        if self._options.renew == "absolute" and 0 < first <= now + self._ahead:
            return first, max(1, math.ceil(first + ttl - now))
        return math.ceil(now / self._step) * self._step, math.ceil(ttl)

    def _value(self, endpoint: Endpoint, issued: int) -> bytes:
        last = self._last.get(endpoint)
        if last is not None and last[0] == issued:
            return last[1]
        signer, text = self._signers[0], time_text(issued)
        labels = self._known_labels.get(endpoint)
        value = (labels[0] if labels else signer.label(endpoint)) + text + signer.proof(endpoint, text)
        if labels:
            self._last[endpoint] = (issued, value)
        return value


def _attributes(options: CookieOptions) -> bytes:
    """What every Set-Cookie of these options ends with, but for Secure (RFC 6265bis §4.1.2)."""
    parts = [f"Path={options.path}"]
    if options.domain:
        parts.append(f"Domain={options.domain}")
    if options.http_only:
        parts.append("HttpOnly")
    parts.append(f"SameSite={options.same_site.capitalize()}")
    return "".join(f"; {part}" for part in parts).encode()
