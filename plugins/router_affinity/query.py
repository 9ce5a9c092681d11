"""Pins by the value of a query parameter: the first request with it goes where selection says, later ones follow.

Names and values are decoded as those of a browser's form: "+" is a blank, "%" and two digits any byte.
"""

from __future__ import annotations

import re
from urllib.parse import unquote_to_bytes

from router import Exchange, Tools
from router_affinity.learnt import Learnt, LearntOptions

__all__ = ["Query", "QueryOptions"]


class QueryOptions(LearntOptions, frozen=True):
    """Which parameter, by its decoded name; for the others see LearntOptions."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < len(self.name) <= 256:
            raise ValueError("name must be that of a query parameter, at most 256 letters")


class Query(Learnt):
    """Of several parameters with this name the first counts."""

    __slots__ = ("_parameter",)

    def __init__(self, options: QueryOptions, tools: Tools) -> None:
        super().__init__(options, tools)
        name = "".join(map(_forms, options.name.encode("utf-8", "surrogateescape")))
        self._parameter = re.compile(rf"&{name}(?:=([^&]*+))?(?=&|\Z)")

    def value(self, exchange: Exchange) -> bytes:
        target = exchange.target
        start = target.find("?")
        found = self._parameter.search(f"&{target[start + 1 :]}") if start >= 0 else None
        text = found[1] if found else None
        return unquote_to_bytes(text.replace("+", " ").encode("utf-8", "surrogateescape")) if text else b""


def _forms(byte: int) -> str:
    """A pattern for the ways in which one byte of a name can be written."""
    encoded, written = f"%(?i:{byte:02x})", chr(byte)
    if written == " ":
        return rf"(?:\+|{encoded})"
    # These mean something else where they are not encoded.
    return encoded if written in "&=+%" or byte > 126 else f"(?:{re.escape(written)}|{encoded})"
