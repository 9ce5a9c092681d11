"""What a check of the configuration yields, and the checks that many tables share.

Each yields what it finds and changes nothing. No message repeats a value, which may be secret.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from router.config import PluginRef
from router.configfill import Problem
from router.positions import Path

__all__ = ["Found", "check_each", "check_longer_than_zero", "check_plugin", "check_plugins", "listed"]


class Found(NamedTuple):
    """One fault before its place in the file is looked up: the arguments of Source.fault."""

    path: Path
    message: str
    hint: str = ""
    at_value: bool = True


def check_each(problem_of: Callable[[str], Problem | None], texts: str | Iterable[str], path: Path) -> Iterator[Found]:
    """Checks one string, or each of a list."""
    if isinstance(texts, str):
        problem = problem_of(texts)
        if problem is not None:
            yield Found(path, *problem)
        return
    for index, text in enumerate(texts):
        yield from check_each(problem_of, text, (*path, index))


def check_longer_than_zero(table: Any, path: Path, keys: Iterable[str]) -> Iterator[Found]:
    """Checks durations by their keys."""
    for key in keys:
        if getattr(table, key) == 0:
            yield Found((*path, key), "this must be longer than zero", "'none' means no limit")


def check_plugins(refs: tuple[PluginRef, ...], path: Path) -> Iterator[Found]:
    for index, ref in enumerate(refs):
        entry: Path = (*path, index)
        if not ref:
            yield Found(entry, "a plugin is a name or a table { use = name, ... }")
        else:
            yield from check_plugin(ref, entry)


def check_plugin(ref: PluginRef, path: Path) -> Iterator[Found]:
    """Checks the shape of a reference; whether there is such a plugin shows later."""
    if isinstance(ref, str):
        return
    use = ref.get("use")
    if "use" not in ref:
        yield Found(path, "the key 'use' is missing: it names the plugin")
    elif not isinstance(use, str) or not use:
        yield Found((*path, "use"), "expected the name of a plugin")


def listed(texts: str | tuple[str, ...]) -> tuple[str, ...]:
    """What may be written as one string or as a list, as a list."""
    return (texts,) if isinstance(texts, str) else texts
