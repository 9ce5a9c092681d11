"""A file of requests and what each is to come to: the cases of `router check --requests`.

Read like a configuration, by suffix and with the place of every fault. What the requests come to is decided elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path as FilePath
from typing import Any

import msgspec

from router.cli_requests import FORM, Request, parse_client, parse_field, parse_request
from router.faults import ConfigFaults, Fault, Source, did_you_mean
from router.positions import Path

__all__ = ["EXPECTATIONS", "Case", "load_cases"]


class Case(msgspec.Struct, frozen=True):
    """A request of a file and what it is to come to."""

    request: Request
    #: Of EXPECTATIONS, what the file names.
    expected: dict[str, str | int]
    #: Where it stands in the file.
    index: int


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_table(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(text, str) for item in value.items() for text in item)


def _is_status(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 100 <= value <= 599


#: Key of a request in a file to what it has to be.
_KEYS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "request": (_is_text, "a string"),
    "headers": (_is_table, "a table of strings"),
    "client": (_is_text, "a string"),
    "route": (_is_text, "a string"),
    "pool": (_is_text, "a string"),
    "status": (_is_status, "a number from 100 to 599"),
}
EXPECTATIONS = ("route", "pool", "status")


def load_cases(file: FilePath) -> tuple[list[Case], Source]:
    """Reads a file of requests; its suffix says how, as for a configuration.

    Raises:
        ConfigFaults: with every fault at once.
    """
    source = _read_source(file)
    faults: list[Fault] = []
    cases = list(_cases(source, faults))
    if faults:
        raise ConfigFaults(faults, None, source)
    return cases, source


def _read_source(file: FilePath) -> Source:
    from router.configfile import load

    try:
        return load(file, {})[1]
    except ConfigFaults as error:
        # A file of requests is no configuration, but it is read like one: what was read comes with the faults.
        if error.source is None:
            raise
        return error.source


def _cases(source: Source, faults: list[Fault]) -> Iterator[Case]:
    """The cases without faults; the faults of the others go on the list."""
    data = source.data
    if not isinstance(data, dict):
        faults.append(source.fault_at(1, 1, "expected a table with the key 'requests'"))
        return
    faults += [_unknown(source, (str(key),), ["requests"]) for key in data if key != "requests"]
    rows = data.get("requests", [])
    if not isinstance(rows, list) or not rows:
        hint = (
            "write [[requests]] before each" if source.format == "toml" else "the key 'requests' holds a list of them"
        )
        faults.append(source.fault(("requests",), "there are no requests in this file", hint))
        return
    for index, row in enumerate(rows):
        wrong = list(_row_faults(source, row, ("requests", index)))
        faults += wrong
        if not wrong:
            yield _case(row, index)


def _row_faults(source: Source, row: Any, at: Path) -> Iterator[Fault]:
    if not isinstance(row, dict):
        yield source.fault(at, 'expected a table such as { request = "GET http://h/", pool = "web" }')
        return
    sound = True
    for key, value in row.items():
        if key not in _KEYS:
            yield _unknown(source, (*at, str(key)), _KEYS)
        elif not _KEYS[key][0](value):
            sound = False
            yield source.fault((*at, key), f"expected {_KEYS[key][1]}", at_value=True)
    if "request" not in row:
        sound = False
        yield source.fault((*at, "request"), "the key 'request' is missing", FORM)
    if not row.keys() & {*EXPECTATIONS}:
        yield source.fault(at, "this request expects nothing", "name the route or pool that it takes, or its status")
    if sound:
        yield from (source.fault((*at, *key), message, at_value=True) for key, message in _wrong_values(row))


def _unknown(source: Source, path: Path, known: Iterable[str]) -> Fault:
    key = str(path[-1])
    hint = did_you_mean(key, known) or "known here: " + ", ".join(known)
    return source.fault(path, f"unknown key {key!r}", hint)


def _wrong_values(row: dict[str, Any]) -> Iterator[tuple[Path, str]]:
    """(key, message) of the values of a row that cannot be read."""
    headers = row.get("headers", {})
    yield from _problem(("request",), parse_request, row["request"])
    if "client" in row:
        yield from _problem(("client",), parse_client, row["client"])
    for name, value in headers.items():
        yield from _problem(("headers", name), parse_field, name, value)
    yield from _problem(("headers",), parse_request("http://h").with_more, headers.items(), "")


def _problem(key: Path, read: Callable[..., Any], *arguments: Any) -> Iterator[tuple[Path, str]]:
    try:
        read(*arguments)
    except ValueError as error:
        yield key, str(error)


def _case(row: dict[str, Any], index: int) -> Case:
    fields = [parse_field(*item) for item in row.get("headers", {}).items()]
    client = parse_client(row["client"]) if "client" in row else ""
    request = parse_request(row["request"]).with_more(fields, client)
    return Case(request, {key: row[key] for key in EXPECTATIONS if key in row}, index)
