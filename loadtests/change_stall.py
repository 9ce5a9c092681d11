"""A service for the router of changes.py: how late its event loop wakes a task, seen from inside.

Put beside a configuration, it is named there as `change_stall:Stall`. One line per wake-up that was late goes into a
file: the moment and the seconds, both of the system's monotonic clock.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple, TextIO

import router

#: Seconds that the task sleeps, and lateness that is worth a line.
NAP = 0.001
WORTH = 0.002


class Late(NamedTuple):
    """A wake-up: when it came, and how much after it was due."""

    moment: float
    seconds: float


class Stall:
    """Writes down every stall of the loop while the router serves."""

    class Options(router.Options, frozen=True):
        file: str

    def __init__(self, options: Options, _tools: router.Tools) -> None:
        self.file = Path(options.file)

    @contextlib.asynccontextmanager
    async def serve(self, _control: object) -> AsyncIterator[None]:
        with self.file.open("a", buffering=1) as file:
            watching = asyncio.ensure_future(self._watch(file))
            try:
                yield
            finally:
                watching.cancel()
                await asyncio.gather(watching, return_exceptions=True)

    async def _watch(self, file: TextIO) -> None:
        while True:
            due = time.monotonic() + NAP
            await asyncio.sleep(NAP)
            now = time.monotonic()
            if now - due >= WORTH:
                file.write(f"{now:.6f} {now - due:.6f}\n")


def read(file: Path) -> list[Late]:
    """Promises what such a service has written."""
    lines = file.read_text().splitlines() if file.exists() else []
    return [Late(*map(float, line.split())) for line in lines]
