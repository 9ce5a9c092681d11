"""Pins by the value of a request header: the first request with it goes where selection says, later ones follow."""

from __future__ import annotations

import re

from router import Exchange, Tools
from router_affinity.learnt import Learnt, LearntOptions, check_token

__all__ = ["Header", "HeaderOptions"]


class HeaderOptions(LearntOptions, frozen=True):
    """Which header, in any case; for the others see LearntOptions."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_token(self.name, "header")


class Header(Learnt):
    """Of several fields with this name the first counts, blanks around its value do not."""

    __slots__ = ("_field",)

    def __init__(self, options: HeaderOptions, tools: Tools) -> None:
        super().__init__(options, tools)
        self._field = re.compile(rb"\n(?i:%b):[ \t]*+([^\r\n]*+)" % re.escape(options.name.encode()))

    def value(self, exchange: Exchange) -> bytes:
        found = self._field.search(exchange.head)
        return found[1].rstrip(b" \t") if found else b""
