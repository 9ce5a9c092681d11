"""Cookies that are the router's own business: taken out of a request before it goes on; all others keep their bytes.

RFC 6265 §4.2: one Cookie field with pairs that `; ` divides. Clients send several fields and other blanks as well.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

__all__ = ["cookie_stripper"]

#: What no cookie begins with.
_NO_COOKIE = (b" ", b"\t", b";", b"\r")
_FIELD = re.compile(rb"\r\n(?i:cookie)(:[^\r\n]*)")


def cookie_stripper(names: Iterable[str]) -> Callable[[bytes], bytes] | None:
    """What takes cookies of these names out of a request head; None without names.

    The head is bytes of whole lines, the first of which is the request line. A Cookie field with nothing left goes too.
    """
    wanted = [name.encode() for name in names]
    if not wanted:
        return None
    # Behind the colon or a semicolon: a name within a value, or at the end of another name, is none.
    any_of = b"|".join(map(re.escape, wanted))
    pair = re.compile(rb"(?:(?<=:)|;)[ \t]*(?:%b)[ \t]*=[^;\r\n]*" % any_of)

    def shortened(found: re.Match[bytes]) -> bytes:
        value, count = pair.subn(b"", found[1])
        if not count:
            return found[0]
        rest = value.lstrip(b":; \t")
        return found[0][: found.start(1) - found.start()] + b": " + rest if rest else b""

    def strip(head: bytes) -> bytes:
        if len(wanted) == 1:
            at = head.find(wanted[0])
            if at < 0:
                return head
            usual = _usual(head, at, wanted[0])
            if usual is not None:
                return usual
        return _FIELD.sub(shortened, head)

    return strip


def _usual(head: bytes, at: int, name: bytes) -> bytes | None:
    """The usual cases in a few slices: the name stands once, in a line of usual form. None if it is another.

    Args:
        at: where the name is.
    """
    after = at + len(name)
    if head[after : after + 1] != b"=" or head.find(name, after) >= 0:
        return None
    end = head.find(b"\r\n", after)
    following = head.find(b";", after, end)
    if head[at - 10 : at] in (b"\r\nCookie: ", b"\r\ncookie: "):
        if following < 0:
            return head[: at - 10] + head[end:]
        # One blank, and then another cookie; all else is unusual.
        plain = head[following + 1 : following + 2] == b" " and head[following + 2 : following + 3] not in _NO_COOKIE
        return head[:at] + head[following + 2 :] if plain else None
    line = head.rfind(b"\r\n", 0, at) + 2
    if head[at - 2 : at] != b"; " or head[line : line + 7] not in (b"Cookie:", b"cookie:"):
        return None
    return head[: at - 2] + head[end if following < 0 else following :]
