"""`router status --watch`: the status again and again, in place on a terminal, one after the other elsewhere.

A router that goes away for a moment, as at a restart, is waited for; one that stays away ends the watch.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from router.cli_client import Unanswered
from router.cli_output import say
from router.status import Status

__all__ = ["is_screen", "rows_for", "watch_in_place", "watch_lines"]

#: Seconds from one status to the next.
_EVERY = 1.0
#: Seconds for which a router that does not answer is waited for.
_PATIENCE = 30.0
#: Lines of a screen that belong to no pool, and those of a pool beside its endpoints.
_HEADING, _POOL = 6, 5
_FEWEST_ROWS = 3

_Read = TypeVar("_Read")


def is_screen() -> bool:
    """Whether stdout is a terminal whose cursor can be moved."""
    return sys.stdout.isatty() and os.environ.get("TERM", "dumb") not in ("dumb", "")


def watch_in_place(read: Callable[[], Status]) -> None:
    """Shows the status on the whole screen until Ctrl-C; then the screen is as it was.

    Args:
        read: asks for the status of now; what it raises as Unanswered is shown, and it is asked again.

    Raises:
        Unanswered: the router could not be asked at first, or for long.
    """
    from rich.console import Group
    from rich.live import Live
    from rich.text import Text

    from router.cli_status import console_on, layout

    console = console_on(sys.stdout, in_place=True)
    following = _follow(read)
    first = next(following)
    with _screen_given_back(), Live(console=console, screen=True, auto_refresh=False) as live:
        for status, trouble in itertools.chain([first], following):
            shown = layout(status, console.width, rows_for(status, console.height))
            live.update(Group(Text(trouble, "bold red"), shown) if trouble else shown, refresh=True)


def watch_lines(read: Callable[[], _Read], show: Callable[[_Read], None]) -> None:
    """Calls `show` with each status, and says on stderr when there is none.

    Args:
        read: as above.
        show: prints one status.

    Raises:
        Unanswered: as above.
    """
    said = ""
    for status, trouble in _follow(read):
        if not trouble:
            show(status)
            sys.stdout.flush()
        elif not said:
            say(f"router: {trouble}")
        said = trouble


def rows_for(status: Status, height: int) -> int:
    """How many endpoints of each pool fit on a screen of so many lines."""
    from router.cli_status import ROWS

    left = height - _HEADING - len(status.listeners) - len(status.certificates)
    return min(max(left // max(len(status.pools), 1) - _POOL, _FEWEST_ROWS), ROWS)


def _follow(read: Callable[[], _Read]) -> Iterator[tuple[_Read, str]]:
    """A status each second; or the last one, and why there is no newer one."""
    status, trouble, heard = read(), "", time.monotonic()
    while True:
        yield status, trouble
        time.sleep(_EVERY)
        try:
            status, trouble, heard = read(), "", time.monotonic()
        except Unanswered as error:
            if time.monotonic() - heard >= _PATIENCE:
                raise Unanswered(f"{error.message} (asked for {_PATIENCE:g} s)") from None
            trouble = f"{error.message}; asking again"


@contextmanager
def _screen_given_back() -> Iterator[None]:
    """Lets SIGTERM end this like Ctrl-C does, for a terminal without a cursor is of no use to anybody."""

    def end(number: int, _: object) -> None:
        sys.exit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
