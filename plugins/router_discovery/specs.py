"""From what others wrote to a checked set of endpoints: every fault names its place and what would be right.

One bad entry refuses the whole set: half of a list is worse than the list of before.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

import msgspec

from router import EndpointSpec
from router_discovery.trouble import DiscoveryError, shown

__all__ = ["MOST_BYTES", "bounded", "convert", "near", "read_endpoint", "read_set", "repeated"]

T = TypeVar("T")

#: Of a file or of an answer.
MOST_BYTES = 16 << 20
_MOST_ENDPOINTS = 100_000
#: Characters of a URL, an id or a zone.
_MOST_TEXT = 255
_KEYS = EndpointSpec.__struct_fields__
_PLACE = re.compile(r" - at `\$\.?(?P<path>[^`]*)`$")
_QUOTED = re.compile(r"`([^`]*)`")
_WORDS = {"int": "a whole number", "str": "a string", "object": "a table", "array": "a list", "null": "nothing"}
_PHRASES = (("Expected", "expected"), ("Object missing required field", "it lacks"), (", got", ", not"))


def read_set(data: Any, *, remote: bool = False) -> list[EndpointSpec]:
    """A list of URLs and tables, or a table that has it as `endpoints`.

    Args:
        data: what a parser of TOML or JSON made of it.
        remote: whether it came from another machine.

    Raises:
        DiscoveryError: that begins with the place within the data.
    """
    if isinstance(data, dict):
        stranger = next((key for key in data if key != "endpoints"), None)
        if stranger is not None:
            raise DiscoveryError(f'unknown key "{shown(stranger, 40)}"{near(stranger, ["endpoints"])}')
        data = data.get("endpoints")
    if not isinstance(data, list):
        raise DiscoveryError('expected a list of endpoints, or a table with it as "endpoints"')
    found = []
    for index, item in enumerate(bounded(data)):
        try:
            found.append(read_endpoint(item, remote=remote))
        except DiscoveryError as error:
            raise error.within(f"endpoints[{index}]") from None
    if twice := repeated(found):
        one, other = twice
        raise DiscoveryError(
            f"endpoints[{other}] is the same endpoint as endpoints[{one}]: give one of them another id"
        )
    return found


def read_endpoint(item: Any, *, remote: bool = False) -> EndpointSpec:
    """One endpoint: a URL, or a table with the keys of EndpointSpec.

    Raises:
        DiscoveryError: without a place.
    """
    if isinstance(item, str):
        item = {"url": item}
    if isinstance(item, dict) and (stranger := next((key for key in item if key not in _KEYS), None)) is not None:
        raise DiscoveryError(f'an endpoint has no "{shown(stranger, 40)}"{near(stranger, _KEYS)}')
    spec = convert(item, EndpointSpec)
    for key in ("url", "id", "zone"):
        text = getattr(spec, key)
        if len(text) > _MOST_TEXT or not text.isprintable():
            raise DiscoveryError(f"{key}: not printable text of at most {_MOST_TEXT} characters")
    try:
        address = spec.address
    except ValueError as error:
        raise DiscoveryError(shown(str(error), 100)) from None
    if remote and address.scheme == "unix":
        raise DiscoveryError("a socket of this machine is not for others to name: write http://")
    return spec


def convert(item: Any, kind: type[T]) -> T:
    """A struct of what a parser made. Raises DiscoveryError, in the words of a file."""
    try:
        return msgspec.convert(item, kind)
    except msgspec.ValidationError as error:
        raise DiscoveryError(_in_words(str(error))) from None


def bounded(entries: Sequence[Any]) -> Sequence[Any]:
    """The entries, unless there are too many of them."""
    if len(entries) > _MOST_ENDPOINTS:
        raise DiscoveryError(f"{len(entries)} endpoints are too many: a pool takes at most {_MOST_ENDPOINTS}")
    return entries


def repeated(specs: Sequence[EndpointSpec]) -> tuple[int, int] | None:
    """Where the first two stand that are the same endpoint."""
    seen: dict[str, int] = {}
    for index, spec in enumerate(specs):
        earlier = seen.setdefault(spec.identity, index)
        if earlier != index:
            return earlier, index
    return None


def near(word: str, known: Iterable[str]) -> str:
    """'; did you mean "x"?' for the closest of the known words, or ""."""
    close = difflib.get_close_matches(str(word)[:_MOST_TEXT], list(known), n=1)
    return f'; did you mean "{close[0]}"?' if close else ""


def _in_words(text: str) -> str:
    """msgspec's message in the words of a file, the key in front."""
    found = _PLACE.search(text)
    if found:
        text = text[: found.start()]
    if text.startswith("Invalid enum value"):
        text = 'expected "up" or "drain"'
    text = _QUOTED.sub(lambda word: _WORDS.get(word[1], f'"{shown(word[1], 40)}"'), text)
    for theirs, ours in _PHRASES:
        text = text.replace(theirs, ours)
    text = shown(text, 100)
    return f"{shown(found['path'], 40)}: {text}" if found and found["path"] else text
