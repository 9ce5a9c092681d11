"""What the command line prints: results on stdout, messages on stderr, colour only where somebody sees it.

Only forms of output live here; what is said stands with the commands. rich is imported when a colour or a
table is needed, so that the short commands start quickly.
"""

from __future__ import annotations

import os
import sys
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table
    from rich.text import Text

__all__ = ["is_coloured", "paint_fault", "print_faults", "print_json", "print_table", "say", "table"]

#: Columns of a table that no terminal bounds.
_WIDE = 400


def is_coloured(stream: IO[str]) -> bool:
    """Whether escape codes may be written: a terminal that shows them, and no NO_COLOR (no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def say(message: str) -> None:
    """Prints one message on stderr, at once."""
    print(message, file=sys.stderr, flush=True)


def print_json(value: Any) -> None:
    """Prints a value on stdout as indented JSON; structs become objects."""
    import msgspec

    print(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def print_faults(faults: Sequence[object], stream: IO[str]) -> None:
    """Prints every fault of a configuration, a blank line apart, and how many there are."""
    coloured = is_coloured(stream)
    for fault in faults:
        if coloured:
            _print(paint_fault(str(fault)), stream, soft_wrap=True)
        else:
            print(fault, file=stream)
        print(file=stream)
    print("1 fault" if len(faults) == 1 else f"{len(faults)} faults", file=stream)


def paint_fault(text: str) -> Text:
    """Marks the place and the caret of a fault's text for a terminal."""
    from rich.text import Text

    painted = Text()
    for number, line in enumerate(text.splitlines(keepends=True)):
        if number == 0:
            painted.append(line, "bold")
        elif line.strip() == "^":
            painted.append(line, "bold red")
        else:
            painted.append(line)
    return painted


def table(*columns: str) -> Table:
    """An empty table with these headings."""
    from rich import box
    from rich.table import Table

    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="bold")
    for column in columns:
        made.add_column(column, overflow="fold")
    return made


def print_table(made: Table) -> None:
    """Prints a table on stdout, as wide as the terminal, or unfolded where there is none."""
    _print(made, sys.stdout)


def _print(renderable: Table | Text, stream: IO[str], soft_wrap: bool = False) -> None:
    from rich.console import Console

    coloured = is_coloured(stream)
    console = Console(
        file=stream,
        force_terminal=coloured,
        color_system="auto" if coloured else None,
        width=None if stream.isatty() else _WIDE,
        highlight=False,
    )
    console.print(renderable, soft_wrap=soft_wrap)
