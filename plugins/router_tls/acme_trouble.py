"""What went wrong while a certificate was asked for, in one printable line, and whose word it is.

What others wrote is quoted escaped and cut, never whole. Nothing here opens anything.
"""

from __future__ import annotations

import logging

__all__ = ["AcmeError", "log", "shown"]

log = logging.getLogger("router_tls")


class AcmeError(Exception):
    """There is no new certificate; the text says why and what would help.

    Args:
        text: one printable line.
        wait: seconds that the authority asks to wait before the next request; 0 where it says nothing.
        final: whether the answer will not change: an order is lost then, and the next attempt needs a new one.
    """

    def __init__(self, text: str, wait: float = 0.0, final: bool = False) -> None:
        super().__init__(text)
        self.wait = wait
        self.final = final


def shown(text: str, limit: int = 80) -> str:
    """Text of somebody else, on one line: what does not print is escaped, what is longer than `limit` is cut."""
    line = text[: limit + 1]
    if not line.isprintable():
        line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)
    return line if len(line) <= limit else f"{line[: limit - 3]}..."
