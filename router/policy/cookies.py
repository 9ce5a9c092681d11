"""Cookies that are the router's own business: taken out of a request before it goes on; all others keep their bytes.

RFC 6265 §4.2: one Cookie field with pairs that `; ` divides. Clients send several fields and other blanks as well.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

__all__ = ["cookie_stripper"]

#: What no cookie begins with; b"" stands for the end of the field.
_NO_COOKIE = (b" ", b"\t", b";", b"")
_LINE = len(b"\r\nCookie: ")
_SEMICOLON = 0x3B
_FIELD = re.compile(rb"\r\n(?i:cookie)(:[^\r\n]*)")


def cookie_stripper(names: Iterable[str]) -> Callable[[bytes, bytes, int], bytes] | None:
    """What takes cookies of these names out of a request head; None without names.

    It is given the head, which is bytes of whole lines, the first of them the request line, and `cookie` and
    `cookie_at` of the exchange. A Cookie field with nothing left goes too.
    """
    wanted = [name.encode() for name in names]
    if not wanted:
        return None
    needle = wanted[0] + b"="
    # Behind the colon or a semicolon: a name within a value, or at the end of another name, is none.
    any_of = b"|".join(map(re.escape, wanted))
    pair = re.compile(rb"(?:(?<=:)|;)[ \t]*(?:%b)[ \t]*=[^;\r\n]*" % any_of)

    def shortened(found: re.Match[bytes]) -> bytes:
        value, count = pair.subn(b"", found[1])
        if not count:
            return found[0]
        rest = value.lstrip(b":; \t")
        return found[0][: found.start(1) - found.start()] + b": " + rest if rest else b""

    def strip_any(head: bytes, cookie: bytes, at: int) -> bytes:
        return _FIELD.sub(shortened, head)

    def strip_one(head: bytes, cookie: bytes, at: int) -> bytes:
        if at and cookie.startswith(needle) and _SEMICOLON not in cookie:
            return head[: at - _LINE] + head[at + len(cookie) :]
        if wanted[0] not in cookie:
            return head
        rest = _usual(cookie, cookie.find(needle), needle) if at else b""
        return head[:at] + rest + head[at + len(cookie) :] if rest else _FIELD.sub(shortened, head)

    return strip_one if len(wanted) == 1 else strip_any


def _usual(cookie: bytes, at: int, needle: bytes) -> bytes:
    """The other cookies in the usual cases, in a few slices; b"" in all others.

    Args:
        at: where the needle, name and equals sign, is; negative if it is not.
    """
    following = cookie.find(b";", at)
    if at == 0:
        # One blank, and then another cookie.
        rest = cookie[following + 2 :]
        plain = cookie[following + 1 : following + 2] == b" " and rest[:1] not in _NO_COOKIE
    else:
        plain = cookie[at - 2 : at] == b"; "
        rest = cookie[: at - 2] + cookie[following:] if following >= 0 else cookie[: at - 2]
    # A second one of the name, or a blank behind the name, is for the long way.
    return rest if plain and needle[:-1] not in rest else b""
