"""Cookies that are the router's own business: taken out of a request before it goes on; all others keep their bytes.

RFC 6265 §4.2: one Cookie field with pairs that `; ` divides. Clients send several fields and other blanks as well.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

__all__ = ["cookie_stripper"]

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
        # Nearly always a look is enough.
        return _FIELD.sub(shortened, head) if any(name in head for name in wanted) else head

    return strip
