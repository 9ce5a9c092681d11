"""Whether a regular expression can be trusted with time. `re` cannot be interrupted: a search that takes minutes would
stop the whole router for as long.

Judged from the parsed pattern, by how often its work can double; never by trying it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from math import log2
from typing import Any

__all__ = ["LONGEST", "compile_safe"]

#: Most characters that a pattern is searched in: what grows with their square is done in some 30 ms.
LONGEST = 4096
#: One open repeat comes to 12; the rest is for `?`, `{1,3}` and the like.
_MOST_DOUBLINGS = 16
_REPEATS = ("MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT")
_CATEGORIES = {
    f"CATEGORY_{no}{name}": re.compile(f"\\{letter.upper() if no else letter}")
    for name, letter in (("DIGIT", "d"), ("SPACE", "s"), ("WORD", "w"))
    for no in ("", "NOT_")
}

Node = tuple[Any, Any]


def compile_safe(pattern: str) -> re.Pattern[str]:
    """Compiles a pattern that is searched in texts of at most LONGEST characters.

    Raises:
        ValueError: it is no regular expression, with the place; or its work can explode, with what to write instead.
    """
    try:
        compiled = re.compile(pattern)
        parsed = re._parser.parse(pattern)  # type: ignore[attr-defined]
    except re.error as error:
        place = "" if error.pos is None else f" at character {error.pos + 1}"
        raise ValueError(f"no regular expression: {error.msg}{place}") from None
    except (OverflowError, RecursionError):
        raise ValueError("no regular expression: it repeats or nests too much") from None
    # Without regard to case a fence may be met by its other case.
    fences = not re.search(r"\(\?[a-zA-Z]*i", pattern)
    if _doublings(list(parsed), fences) > _MOST_DOUBLINGS:
        raise ValueError(
            r"matching could take minutes: leave at most one open repeat such as .* and none within another;"
            r" write \s? or \d{1,3} instead, or put other characters on both sides, as in =\d+;"
        )
    return compiled


def _doublings(nodes: Sequence[Node], fences: bool) -> float:
    """The logarithm of how many ways there are to try these nodes one after the other."""
    total = 0.0
    for index, (op, argument) in enumerate(nodes):
        around = [*nodes[index - 1 : index], *nodes[index + 1 : index + 2]]
        if not (fences and str(op) in _REPEATS and _is_fenced(argument[2], around)):
            total += _doublings_of(str(op), argument, fences)
    return total


def _doublings_of(op: str, argument: Any, fences: bool) -> float:
    if op in _REPEATS:
        least, most, repeated = argument
        most = min(int(most), LONGEST)
        return log2(max(most - int(least), 0) + 1) + most * _doublings(list(repeated), fences)
    if op == "BRANCH":
        ways = [_doublings(list(branch), fences) for branch in argument[1]]
        return max(ways) if _are_apart(argument[1]) else max(ways) + log2(len(ways))
    if op in ("SUBPATTERN", "ASSERT", "ASSERT_NOT"):
        return _doublings(list(argument[-1]), fences)
    if op == "ATOMIC_GROUP":
        return _doublings(list(argument), fences)
    if op == "GROUPREF":
        # What it repeats is compared anew for every way in which the group may have matched.
        return 2 * _MOST_DOUBLINGS
    if op == "GROUPREF_EXISTS":
        return sum(_doublings(list(side), fences) for side in argument[1:] if side)
    return 0.0


def _are_apart(branches: Iterable[Sequence[Node]]) -> bool:
    """Whether the first character already tells which branch it is."""
    firsts = [branch[0] if len(branch) else (None, None) for branch in branches]
    return all(str(op) == "LITERAL" for op, _ in firsts) and len({c for _, c in firsts}) == len(firsts)


def _is_fenced(repeated: Sequence[Node], around: Sequence[Node]) -> bool:
    """Whether one kind of character is repeated between two that are not of it.

    Then a text has one place where it can begin and one where it can end, and such stretches do not overlap.
    """
    return (
        len(repeated) == 1
        and len(around) == 2
        and all(str(op) == "LITERAL" and not _may_match(repeated[0], chr(code)) for op, code in around)
    )


def _may_match(node: Node, character: str) -> bool:
    op, argument = str(node[0]), node[1]
    if op == "IN":
        among = [item for item in argument if str(item[0]) != "NEGATE"]
        return any(_may_match(item, character) for item in among) is (len(among) == len(argument))
    if op == "LITERAL":
        return bool(argument == ord(character))
    if op == "NOT_LITERAL":
        return bool(argument != ord(character))
    if op == "RANGE":
        return bool(argument[0] <= ord(character) <= argument[1])
    if op == "CATEGORY" and str(argument) in _CATEGORIES:
        return _CATEGORIES[str(argument)].match(character) is not None
    return True
