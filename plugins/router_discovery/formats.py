"""The three ways to write endpoints down: TOML, JSON and lines. From bytes to specs; no file is opened here."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from typing import Any

import msgspec

from router import EndpointSpec
from router_discovery.specs import bounded, near, read_endpoint, read_set, repeated
from router_discovery.trouble import DiscoveryError, shown

__all__ = ["decode_json", "read_json", "read_lines", "read_toml"]

_BOM = b"\xef\xbb\xbf"
_TOML_PLACE = re.compile(r" \(at (?:line (?P<line>\d+), column \d+|(?P<end>end of document))\)$")
_JSON_PLACE = re.compile(r" \(byte (\d+)\)$")
_NUMBERS = ("weight", "priority")
_WORDS = ("id", "weight", "priority", "zone", "state")


def read_toml(content: bytes) -> list[EndpointSpec]:
    """`endpoints = [...]`, each a URL or a table.

    Raises:
        DiscoveryError: with the line where it is known.
    """
    text = _text(content)
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        said = str(error)
        found = _TOML_PLACE.search(said)
        line = int(found["line"] or text.count("\n") + 1) if found else 0
        raise DiscoveryError(f"no TOML: {shown(_TOML_PLACE.sub('', said), 100)}", line) from None
    except RecursionError:
        raise DiscoveryError("no TOML that can be read: it nests too deep") from None
    return read_set(data)


def read_json(content: bytes) -> list[EndpointSpec]:
    """A list, or a table with it as "endpoints". Raises like read_toml."""
    return read_set(decode_json(content))


def decode_json(content: bytes) -> Any:
    """Any JSON. Raises like read_toml."""
    try:
        return msgspec.json.decode(content.removeprefix(_BOM))
    except RecursionError:
        raise DiscoveryError("no JSON that can be read: it nests too deep") from None
    except (msgspec.MsgspecError, ValueError) as error:
        said = str(error).removeprefix("JSON is malformed: ").replace("Input data was truncated", "it breaks off")
        found = _JSON_PLACE.search(said)
        line = content.count(b"\n", 0, int(found[1])) + 1 if found else 0
        raise DiscoveryError(f"no JSON: {shown(said, 100)}", line) from None


def read_lines(content: bytes) -> list[EndpointSpec]:
    """A URL per line, with words such as weight=3 behind it; `#` begins a comment. Raises like read_toml."""
    rows = list(_rows(_text(content)))
    found = []
    for line, words in bounded(rows):
        try:
            found.append(read_endpoint(_row(words)))
        except DiscoveryError as error:
            raise DiscoveryError(str(error), line) from None
    if twice := repeated(found):
        one, other = (rows[index][0] for index in twice)
        raise DiscoveryError(f"the same endpoint as in line {one}: give one of them another id", other)
    return found


def _rows(text: str) -> Iterator[tuple[int, list[str]]]:
    """Each line that says something: its number and its words."""
    for number, line in enumerate(text.split("\n"), 1):
        words = line.split()
        comment = next((n for n, word in enumerate(words) if word.startswith("#")), len(words))
        if comment:
            yield number, words[:comment]


def _row(words: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = {"url": words[0]}
    for word in words[1:]:
        name, mark, value = word.partition("=")
        if not mark or name not in _WORDS:
            listed = ", ".join(f"{known}=" for known in _WORDS)
            raise DiscoveryError(f'"{shown(word, 40)}" is none of {listed}{near(name, _WORDS)}')
        if name in found:
            raise DiscoveryError(f"{name} is there twice")
        number = name in _NUMBERS and value.isascii() and value.isdigit() and len(value) < 10
        found[name] = int(value) if number else value
    return found


def _text(content: bytes) -> str:
    try:
        return content.removeprefix(_BOM).decode()
    except UnicodeDecodeError as error:
        raise DiscoveryError("no text in UTF-8", content.count(b"\n", 0, error.start) + 1) from None
