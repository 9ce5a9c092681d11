"""What went wrong, in one printable line, and that it is said once: not again at every look that finds the same.

What others wrote is quoted escaped and cut, never whole. Nothing here opens anything.
"""

from __future__ import annotations

__all__ = ["DiscoveryError", "Voice", "shown"]


class DiscoveryError(Exception):
    """There is no new set of endpoints; the text says why and what would help.

    Args:
        line: of the text that is wrong, from 1; 0 where none is known.
    """

    def __init__(self, text: str, line: int = 0) -> None:
        super().__init__(text)
        self.line = line

    def within(self, name: str) -> DiscoveryError:
        """The same, with the name of what it is about in front."""
        return DiscoveryError(f"{name}:{self.line}: {self}" if self.line else f"{name}: {self}")


class Voice:
    """Raises each trouble once.

    Raising ends a watch, and the router begins the next one with the same object. What was said last is then still
    known, so a watch that meets the same trouble looks on in silence. A watch that was ended by others is a new
    listener's, who is told all.
    """

    __slots__ = ("_raised", "_said")

    def __init__(self) -> None:
        self._said = ""
        self._raised = False

    def begin(self) -> None:
        """At the start of each watch."""
        if not self._raised:
            self._said = ""
        self._raised = False

    def well(self) -> None:
        """After each good answer: what comes then is new."""
        self._said = ""

    def tell(self, trouble: DiscoveryError) -> None:
        """Raises the trouble unless it was the last that was said."""
        if str(trouble) == self._said:
            return
        self._said = str(trouble)
        self._raised = True
        raise trouble from None


def shown(text: str, limit: int = 80) -> str:
    """Text of somebody else, on one line: what does not print is escaped, what is longer than `limit` is cut."""
    line = text[: limit + 1]
    if not line.isprintable():
        line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)
    return line if len(line) <= limit else f"{line[: limit - 3]}..."
