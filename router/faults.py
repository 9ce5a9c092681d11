"""Faults of a configuration: what is wrong, where it stands, what would be right.

A value that came from ${VAR} or { file = ... } may be a secret: faults show it as the file writes it, never filled in.
Nothing here decides whether something is a fault; configdecode.py and configcheck.py do.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec

from router.positions import Format, Path, Positions

__all__ = ["ConfigFaults", "Fault", "Source", "did_you_mean", "dotted", "listed", "visible"]

EXCERPT_CHARS = 120
VALUE_CHARS = 80

_PLURALS = {"pools": "pool", "routes": "route", "listeners": "listener"}
#: What stands under these is not shown even where it stands in the file itself.
_PASSWORD = re.compile(r"://[^/@\s:]*:([^/@\s]+)@")
_SECRET_KEYS = frozenset({"secret", "secrets", "password", "token", "eab_hmac_key"})
#: Nor is what holds this, wherever it stands.
_PRIVATE = "PRIVATE KEY"
_BARE = re.compile(r"[A-Za-z0-9_-]+")


class Fault(msgspec.Struct, frozen=True):
    """One thing that is wrong in a configuration file. `str()` is ready to print, over up to three lines."""

    file: str
    #: 1-based; 0 if there is no text to point at.
    line: int
    column: int
    #: The source line, cut, with control characters made visible.
    excerpt: str
    #: Such as "pool 'web'", "routes[3]" or "server"; "" for the file as a whole.
    where: str
    #: Dotted, such as "pools[0].timeouts.connect".
    key: str
    #: The offending value as the file writes it, shortened; "" if the key itself is at fault.
    value: str
    message: str
    hint: str = ""
    #: 1-based place of the caret under the excerpt; 0 for none.
    caret: int = 0

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        hint = f"; {self.hint}" if self.hint else ""
        head = ": ".join(part for part in (place, self.where, self.message + hint) if part)
        if not self.excerpt.strip() or not self.caret:
            return head
        indent = "".join("\t" if char == "\t" else " " for char in self.excerpt[: self.caret - 1])
        return f"{head}\n  {self.excerpt}\n  {indent}^"


def listed(faults: Sequence[object]) -> str:
    """All faults of a configuration as text, a blank line apart, and how many there are."""
    count = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
    return "\n\n".join([*map(str, faults), count])


class ConfigFaults(Exception):
    """All faults of a configuration, in the order of the file.

    Args:
        faults: at least one.
        partial: the configuration without its faulty parts, for further checks; None if nothing could be read.
        source: where it came from, if it could be read at all.
    """

    def __init__(self, faults: Iterable[Fault], partial: Any = None, source: Source | None = None) -> None:
        self.faults = tuple(sorted(faults, key=lambda fault: (fault.line, fault.column)))
        self.partial = partial
        self.source = source
        super().__init__("\n".join(map(str, self.faults)))


class Source:
    """A configuration text with its data as written; finds places only once a fault asks for one.

    Args:
        name: of the file, as messages show it.
        text: what was read; "" if the configuration was not written down.
        format: how to look for places.
        data: the parsed text, with ${VAR} and { file = ... } not filled in.
    """

    __slots__ = ("_hidden", "_lines", "_positions", "data", "filled", "format", "name", "text")

    def __init__(self, name: str, text: str, format: Format, data: Any = None) -> None:
        self.name = name
        self.text = text
        self.format = format
        self.data = data
        #: What differs from what is written, and may be secret.
        self.filled: dict[Path, str] = {}
        self._positions: Positions | None = None
        self._lines: list[str] = []
        self._hidden: list[str] | None = None

    @property
    def positions(self) -> Positions:
        if self._positions is None:
            self._positions = Positions(self.text, self.format)
        return self._positions

    def written(self, path: Path) -> Any:
        """The value at `path` as written in the file; None if it is not there."""
        value = self.data
        for step in path:
            try:
                value = value[step]
            except (LookupError, TypeError):
                return None
        return value

    def fault(self, path: Path, message: str, hint: str = "", at_value: bool = False) -> Fault:
        """A fault at a key, or at a value: then the message begins with both.

        Args:
            path: such as ("pools", 0, "timeouts", "connect"); the longest known prefix is pointed at.
            message: one sentence without the value itself, which may be secret.
            hint: what would be right; left out if it shows a value that came from outside the file.
        """
        where, rest = self._where(path)
        value = ""
        if at_value:
            written = self.written(path)
            value = "…" if _SECRET_KEYS.intersection(path) else _short(written)
            message = f"{dotted(rest)} = {value}: {message}" if rest else message
        if path in self.filled or any(len(secret) > 3 and secret in hint for secret in self.filled.values()):
            hint = ""
        line, column = (0, 0) if not self.text and self.data else self._place(path, at_value)
        return self._at(line, column, where, dotted(path), value, message, hint)

    def fault_at(self, line: int, column: int, message: str, hint: str = "") -> Fault:
        """A fault at a place of the text, or of the file as a whole with line 0."""
        return self._at(line, column, "", "", "", message, hint)

    def _masked(self, text: str) -> str:
        """The text with each secret made stars, of which there are as many so that carets stay in place."""
        if self._hidden is None:
            self._hidden = sorted(_secrets_in(self.data), key=len, reverse=True)
        for secret in self._hidden:
            text = text.replace(secret, "*" * len(secret))
        return text

    def _place(self, path: Path, at_value: bool) -> tuple[int, int]:
        return self.positions.value(path) if at_value else self.positions.key(path)

    def _at(self, line: int, column: int, where: str, key: str, value: str, message: str, hint: str) -> Fault:
        self._lines = self._lines or self.text.split("\n")
        text = self._lines[line - 1].rstrip("\r") if 0 < line <= len(self._lines) else ""
        text = self._masked(text)
        excerpt, caret = _excerpt(text, column)
        message, hint = visible(message), visible(hint)
        return Fault(self.name, line, column, excerpt, where, key, value, message, hint, caret)

    def _where(self, path: Path) -> tuple[str, Path]:
        if len(path) < 2 or not isinstance(path[1], int):
            return (str(path[0]), path[1:] or path) if path and len(path) > 1 else ("", path)
        start = path[:2]
        name = self.written((*start, "bind" if path[0] == "listeners" else "name"))
        noun = _PLURALS.get(str(path[0]))
        if noun is None or not isinstance(name, str) or not name:
            return dotted(start), path[2:] or path
        shown = visible(name) if noun == "listener" else visible(repr(name))
        return f"{noun} {shown[:VALUE_CHARS]}", path[2:] or path


def did_you_mean(word: str, allowed: Iterable[str]) -> str:
    """ "did you mean 'x'?" for the nearest allowed word, or "" if none is near."""
    words = {word.lower(): word for word in allowed if word}
    near = difflib.get_close_matches(word.lower()[:VALUE_CHARS], words, n=1, cutoff=0.6)
    return f"did you mean {words[near[0]]!r}?" if near else ""


def dotted(path: Sequence[str | int]) -> str:
    """pools[0].timeouts.connect"""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        else:
            key = step if _BARE.fullmatch(step) else visible(json.dumps(step[:VALUE_CHARS], ensure_ascii=False))
            text += f".{key}" if text else key
    return text


def visible(text: str) -> str:
    """The text with everything that a terminal would not show as it is (controls, lone surrogates) escaped."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def _secrets_in(data: Any) -> Iterator[str]:
    """Every string under a key that holds secrets, but for names of variables and files."""
    # Anchors of YAML can make a value hold itself.
    seen: set[tuple[int, bool]] = set()
    left = [(data, False)]
    while left:
        value, secret = left.pop()
        if isinstance(value, str) and _PRIVATE in value:
            # In the file it may stand over several lines, or in one with its line ends written out.
            yield from (line for line in value.splitlines() if len(line) > 3)
        elif isinstance(value, str) and secret and len(value) > 3 and "${" not in value:
            yield value
        elif isinstance(value, str):
            yield from (password for password in _PASSWORD.findall(value) if len(password) > 3)
        elif isinstance(value, dict | list | tuple) and (id(value), secret) not in seen:
            seen.add((id(value), secret))
            items = value.items() if isinstance(value, dict) else ((None, item) for item in value)
            left += [(item, key in _SECRET_KEYS or (secret and key != "file")) for key, item in items]


def _excerpt(line: str, column: int) -> tuple[str, int]:
    """The part of a line around `column`, and where the column stands in it."""
    start = max(0, column - EXCERPT_CHARS * 2 // 3) if len(line) > EXCERPT_CHARS else 0
    before = ("…" if start else "") + _keep_tabs(line[start : column - 1])
    after = _keep_tabs(line[max(column - 1, 0) : start + EXCERPT_CHARS])
    end = "…" if start + EXCERPT_CHARS < len(line) else ""
    return before + after + end, len(before) + 1 if column else 0


def _keep_tabs(text: str) -> str:
    return "\t".join(map(visible, text.split("\t")))


def _short(value: Any) -> str:
    text = visible(_literal(value, 2))
    return text if len(text) <= VALUE_CHARS else text[: VALUE_CHARS - 1] + "…"


def _literal(value: Any, depth: int) -> str:
    if isinstance(value, str) and _PRIVATE in value:
        return "…"
    if isinstance(value, str):
        # Before it is cut: half a password is one too.
        shown = _PASSWORD.sub("://…:…@", value)
        return json.dumps(shown[: VALUE_CHARS + 1], ensure_ascii=False)
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, dict | list | tuple) and not depth:
        return "…"
    if isinstance(value, dict):
        pairs = [
            f"{dotted((str(key),))} = {'…' if key in _SECRET_KEYS else _literal(below, depth - 1)}"
            for key, below in _first(value.items())
        ]
        return "{ " + ", ".join(pairs) + " }" if pairs else "{}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_literal(below, depth - 1) for below in _first(value)) + "]"
    if isinstance(value, int) and abs(value) >> 256:
        # Python refuses to write out very long numbers.
        return "a number of over 77 digits"
    return str(value)


def _first(items: Iterable[Any]) -> list[Any]:
    return [item for _, item in zip(range(4), items, strict=False)]
