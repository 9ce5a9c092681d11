"""What an explanation looks like in a terminal: only forms stand here, nothing is asked and nothing decided.

Names come from files and servers: every text is escaped and none is read as markup.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from itertools import zip_longest
from textwrap import wrap
from typing import Any, NamedTuple

import msgspec
from rich.text import Text

from router.cli_output import print_json, say
from router.cli_status import console_on
from router.explanation import Choice, Explanation, LeftOut, Option, PoolVerdict, Retries
from router.faults import visible

__all__ = ["layout", "print_explanation"]

_INDENT = "  "
#: Columns of what is said, beside its text; at least so many are left for the text.
_LABEL = 12
_NARROWEST = 20
#: What a share may lack of 1, having been added up.
_ROUNDING = 1e-9


class _Line(NamedTuple):
    """A label, and what is said of it."""

    label: str
    text: str
    style: str = ""
    #: Columns before the label, and those of the label.
    indent: int = len(_INDENT)
    width: int = _LABEL


def print_explanation(explanation: Mapping[str, Any], as_json: bool) -> None:
    """Prints an explanation on stdout, as wide as the terminal, or unfolded where there is none.

    Args:
        explanation: a router.explanation.Explanation as it came from the control socket.
    """
    if as_json:
        print_json(explanation)
        return
    try:
        known = msgspec.convert(explanation, Explanation)
    except msgspec.ValidationError as error:
        say(f"the router is of another version than this command, so its answer is shown as it came ({error})")
        print_json(explanation)
        return
    console = console_on(sys.stdout)
    for line in layout(known, console.width):
        console.print(line, soft_wrap=True)


def layout(explanation: Explanation, width: int) -> Iterator[Text]:
    """The lines of an explanation.

    Args:
        width: columns that there are.
    """
    yield Text(visible(explanation.request), "bold")
    for line in _route(explanation):
        yield from _folded(line, width)
    for pool in explanation.pools:
        if len(explanation.pools) > 1:
            yield Text("")
        for line in _pool(pool, several=len(explanation.pools) > 1):
            yield from _folded(line, width)


def _folded(line: _Line, width: int) -> Iterator[Text]:
    """The line in as many as it needs; what follows the first stands below its text."""
    label = " " * line.indent + f"{visible(line.label):<{line.width}}"
    room = max(width - len(label), _NARROWEST)
    texts = wrap(visible(line.text), room, break_on_hyphens=False) or [""]
    yield Text.assemble(label, (texts[0], line.style)) if texts[0] else Text(label.rstrip())
    for text in texts[1:]:
        yield Text.assemble(" " * len(label), (text, line.style))


def _route(explanation: Explanation) -> Iterator[_Line]:
    place = f" ({explanation.place})" if explanation.place else ""
    yield _Line("route", f"{explanation.route}{place}" if explanation.route else "none")
    if explanation.status is not None:
        good = explanation.status < 400
        yield _Line("answer", f"{explanation.status}, {explanation.reason}", "bold" if good else "bold red")
    if explanation.target:
        yield _Line("sent as", explanation.target)
    if explanation.filters:
        yield _Line("filters", f"{', '.join(explanation.filters)}: not asked here, may answer instead", "yellow")


def _pool(pool: PoolVerdict, several: bool) -> Iterator[_Line]:
    share = f", {_percent(pool.share)} of such requests" if several else ""
    counts = f"{pool.ready} of {pool.members} ready, {pool.in_flight} in flight"
    yield _Line("pool", f"{pool.name} ({pool.selection}){share}: {counts}")
    if pool.affinity:
        yield _Line("affinity", pool.affinity)
    yield from _left_out(pool.left_out)
    for choice in pool.choices:
        yield from _choice(choice, several=len(pool.choices) > 1)
    style = "bold red" if pool.status is not None else "bold green" if pool.endpoint else "bold"
    yield _Line("decision", pool.decision, style)
    if pool.retries is not None and pool.status is None:
        yield _Line("on failure", _retries(pool.retries))


def _left_out(groups: tuple[LeftOut, ...]) -> Iterator[_Line]:
    if groups:
        yield _Line("left out", str(sum(group.count for group in groups)))
    widest = max((len(group.reason) for group in groups), default=0) + len(_INDENT)
    for group in groups:
        more = group.count - len(group.endpoints)
        rest = [f"and {more} more"] if more > 0 else []
        texts = [f"{e.id} ({e.detail})" if e.detail else e.id for e in group.endpoints] + rest
        if not any(endpoint.detail for endpoint in group.endpoints):
            texts = [", ".join(texts)]
        for label, text in zip_longest([group.reason], texts, fillvalue=""):
            yield _Line(label, text, indent=2 * len(_INDENT), width=widest)


def _choice(choice: Choice, several: bool) -> Iterator[_Line]:
    tier = f" of tier {choice.priority}" if several or choice.priority else ""
    share = f", {_percent(choice.share)} of requests" if several else ""
    yield _Line("candidates", f"{choice.count}{tier}{share}" + (f" ({choice.why})" if choice.why else ""))
    cells = [_cells(option) for option in choice.options]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        name, *rest = (f"{cell:<{wide}}" for cell, wide in zip(row, widths, strict=True))
        text = _INDENT.join(part for part in rest if part).rstrip()
        yield _Line(name, text, indent=2 * len(_INDENT), width=widths[0] + len(_INDENT))
    if choice.count > len(cells):
        yield _Line(f"and {choice.count - len(cells)} more", "", indent=2 * len(_INDENT))
    if choice.failed:
        yield _Line("", choice.failed, "red", indent=2 * len(_INDENT), width=0)


def _cells(option: Option) -> tuple[str, ...]:
    share = "" if not option.share else "certain" if option.share >= 1 - _ROUNDING else _percent(option.share)
    state = option.state if option.state != "ready" else ""
    return visible(option.id), f"load {option.load}", f"weight {option.weight:.3g}", visible(state), share


def _retries(retries: Retries) -> str:
    if not retries.attempts:
        return "no second attempt"
    said = f"up to {retries.attempts} more attempt{'s' if retries.attempts > 1 else ''} at others"
    said += f", on {', '.join(retries.on)}" if retries.on else ", if nothing was sent"
    if retries.only_unsent and retries.on:
        said += ", as long as nothing was sent"
    said += f"; budget {int(retries.budget)}"
    if retries.hedge_after is not None:
        said += f"; after {retries.hedge_after:g} s without a response head, another is asked as well"
    return said


def _percent(share: float) -> str:
    return f"{share * 100:.3g}%"
