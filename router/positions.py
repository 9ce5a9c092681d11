"""Where each key and value of a TOML, JSON or YAML text stands, for messages that point at a place.

The scanner here never decides what a text means: the parsers of the standard library and PyYAML do that. It runs only
over text that they have accepted, only once a message is needed, and it gives up quietly rather than raise.
"""

from __future__ import annotations

import json
import re
import tomllib
from bisect import bisect_right
from contextlib import suppress
from functools import cache
from typing import Any, Literal, NamedTuple

__all__ = ["Format", "Path", "Place", "Positions", "yaml_loader"]

Format = Literal["toml", "json", "yaml"]
Path = tuple[str | int, ...]

#: YAML lets a short text stand for an endless tree (an alias inside its own anchor): nothing beyond this is looked up.
MAX_PLACES = 500_000
MAX_DEPTH = 100

_KEY = r"""[A-Za-z0-9_-]+|"(?:[^"\\\n]|\\.)*+"|'[^'\n]*+'"""
_SPACE = re.compile(r"(?:[ \t\r\n]++|\#[^\n]*+)*+")
_KEYS = re.compile(rf"({_KEY})[ \t\r\n]*+([.=:])?[ \t\r\n]*+")
_HEADER = re.compile(rf"\[\[?[ \t]*+((?:{_KEY}|[ \t]*\.[ \t]*)++)[ \t]*+\]\]?")
_PART = re.compile(_KEY)
_SCALAR = re.compile(
    r'"""(?:[^"\\]++|\\.|"(?!""))*+"{3,5}'
    r"|'''(?:[^']++|'(?!''))*+'{3,5}"
    r'|"(?:[^"\\]++|\\.)*+"'
    r"|'[^']*+'"
    r"|[^,\]}#\r\n]++",
    re.DOTALL,
)


class Place(NamedTuple):
    """Offsets into the text: where the key (or the array element) starts, and where its value does."""

    key: int
    value: int


class Positions:
    """Lines and columns, 1-based, of the paths of one text.

    Args:
        text: what was parsed, unchanged.
        format: how it was parsed.
    """

    __slots__ = ("_lines", "places", "repeated")

    def __init__(self, text: str, format: Format) -> None:
        self._lines = [0, *(match.end() for match in re.finditer("\n", text))]
        scan = _Marks(text) if format == "yaml" else _Scanner(text, format)
        # A text nested too deeply is refused anyway; the places up to there serve.
        with suppress(RecursionError, IndexError):
            scan.run()
        self.places = scan.places
        #: Offset of the first key that stands twice in one object: JSON would let the last one win.
        self.repeated = scan.repeated if isinstance(scan, _Scanner) else None

    def key(self, path: Path) -> tuple[int, int]:
        """Line and column where the key or the array element starts; of the longest known prefix otherwise."""
        place, _ = self._find(path)
        return self.at(place.key)

    def value(self, path: Path) -> tuple[int, int]:
        """Line and column where the value starts; of the key of the longest known prefix otherwise."""
        place, exact = self._find(path)
        return self.at(place.value if exact else place.key)

    def at(self, offset: int) -> tuple[int, int]:
        """Line and column of an offset into the text."""
        line = bisect_right(self._lines, offset)
        return line, offset - self._lines[line - 1] + 1

    def _find(self, path: Path) -> tuple[Place, bool]:
        for length in range(len(path), 0, -1):
            place = self.places.get(path[:length])
            if place is not None:
                return place, length == len(path)
        return Place(0, 0), not path


class _Scanner:
    """TOML and JSON in one: JSON's objects are inline tables with quoted keys and a colon."""

    def __init__(self, text: str, format: Format) -> None:
        self.text = text
        self.format = format
        self.offset = 0
        self.places: dict[Path, Place] = {}
        self.repeated: int | None = None
        #: How many elements each array of tables has so far.
        self._lengths: dict[Path, int] = {}

    def run(self) -> None:
        self._skip()
        if self.format == "json":
            self._value(())
            return
        table: Path = ()
        while self.offset < len(self.text):
            if self.text[self.offset] == "[":
                table = self._header()
            else:
                self._pair(table)
            self._skip()

    def _skip(self) -> None:
        found = _SPACE.match(self.text, self.offset)
        self.offset = found.end() if found else self.offset

    def _next(self, pattern: re.Pattern[str]) -> re.Match[str]:
        found = pattern.match(self.text, self.offset)
        if found is None:
            raise IndexError
        self.offset = found.end()
        return found

    def _header(self) -> Path:
        start = self.offset
        is_array = self.text.startswith("[[", start)
        found = self._next(_HEADER)
        path: Path = ()
        for part in _PART.finditer(self.text, found.start(1), found.end(1)):
            if path in self._lengths:
                path = (*path, self._lengths[path] - 1)
            path = (*path, self._name(part[0]))
            self.places.setdefault(path, Place(part.start(), start))
        if is_array:
            index = self._lengths.get(path, 0)
            self._lengths[path] = index + 1
            path = (*path, index)
            self.places[path] = Place(start, start)
        return path

    def _pair(self, table: Path) -> None:
        path = table
        while True:
            found = self._next(_KEYS)
            path = (*path, self._name(found[1]))
            if found[2] != ".":
                break
            self.places.setdefault(path, Place(found.start(), found.start()))
        place = Place(found.start(), self.offset)
        if self.repeated is None and path in self.places:
            self.repeated = place.key
        self.places[path] = place
        self._value(path)

    def _value(self, path: Path) -> None:
        start = self.text[self.offset]
        if start == "[":
            self._array(path)
        elif start == "{":
            self._inline(path)
        else:
            self._next(_SCALAR)

    def _array(self, path: Path) -> None:
        self.offset += 1
        index = 0
        while not self._ends("]"):
            element = (*path, index)
            self.places[element] = Place(self.offset, self.offset)
            self._value(element)
            index += 1

    def _inline(self, path: Path) -> None:
        self.offset += 1
        while not self._ends("}"):
            self._pair(path)

    def _ends(self, bracket: str) -> bool:
        self._skip()
        if self.text[self.offset] == ",":
            self.offset += 1
            self._skip()
        if self.text[self.offset] != bracket:
            return False
        self.offset += 1
        return True

    def _name(self, key: str) -> str:
        if key[0] not in "\"'":
            return key
        if "\\" not in key or key[0] == "'":
            return key[1:-1]
        return str(json.loads(key) if self.format == "json" else tomllib.loads(f"key = {key}")["key"])


@cache
def yaml_loader() -> Any:
    """PyYAML's safe loader, reading plain words as YAML 1.2 does: `on`, `off`, `yes` and `no` are words, not booleans.

    A key that stands twice in one mapping is an error (yaml.YAMLError with a mark), as in TOML.

    Raises:
        ImportError: if PyYAML is not installed.
    """
    import yaml

    base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

    class Loader(base):  # type: ignore[misc]
        yaml_implicit_resolvers: dict[str, Any] = {}

        def get_single_node(self) -> Any:
            root = super().get_single_node()
            repeated = None if root is None else _repeated_key(root)
            if repeated is not None:
                message = f"the key {repeated.value!r} stands twice in one table"
                raise yaml.constructor.ConstructorError(None, None, message, repeated.start_mark)
            return root

    for tag, pattern, starts in (
        ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
        ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
        ("int", r"[-+]?(?:0|[1-9][0-9]*)", list("-+0123456789")),
        ("float", r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?", list("-+.0123456789")),
        ("merge", r"<<", ["<"]),
    ):
        Loader.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(rf"(?:{pattern})\Z"), starts)
    return Loader


def _repeated_key(root: Any) -> Any:
    """The first key node that repeats another of its mapping, or None. Each node is seen once, whatever the aliases."""
    seen: set[int] = set()
    todo = [root]
    while todo:
        node = todo.pop()
        if id(node) in seen or node.id == "scalar":
            continue
        seen.add(id(node))
        if node.id == "sequence":
            todo.extend(node.value)
            continue
        keys: set[tuple[str, str]] = set()
        for key, child in node.value:
            todo.append(child)
            if key.id == "scalar" and (key.tag, key.value) in keys:
                return key
            if key.id == "scalar":
                keys.add((key.tag, key.value))
    return None


class _Marks:
    """YAML by the marks of its nodes."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.places: dict[Path, Place] = {}

    def run(self) -> None:
        loader = yaml_loader()(self.text)
        try:
            root = loader.get_single_node()
            # Building the document also resolves merge keys (<<) inside the nodes.
            loader.construct_document(root)
        except Exception:
            # PyYAML raises many kinds for a malformed value, and for an empty text there is no node.
            return
        finally:
            loader.dispose()
        self._walk(root, ())

    def _walk(self, node: Any, path: Path) -> None:
        if node.id == "scalar" or len(path) > MAX_DEPTH:
            return
        mapping = node.id == "mapping"
        for index, item in enumerate(node.value):
            if len(self.places) > MAX_PLACES:
                return
            key, child = item if mapping else (item, item)
            below = (*path, str(key.value) if mapping else index)
            self.places[below] = Place(key.start_mark.index, child.start_mark.index)
            self._walk(child, below)
