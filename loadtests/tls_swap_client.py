"""The client of swapped certificates: new connections all the time, and connections and WebSockets that stay.

    python tls_swap_client.py PORT FILE PLAN

PLAN is a Plan as JSON. Prints `ready` once everything that stays stands, goes on until SIGTERM, and writes what it saw:
a line of JSON per new connection into FILE, one per connection that stays into the file beside it that `beside` names.
Chain, name and time of every certificate are verified. It repeats nothing.
"""

import asyncio
import contextlib
import itertools
import json
import signal
import ssl
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple

from change_client import Mix, Refused, Tunnels, write
from change_servers import TEXT, framed
from fault_client import CLOSED, HOST, OK, PATIENCE, Load, Wire
from tls_report import STANDING, Held, Shake

KEPT, TUNNEL = "connection", "WebSocket"
_MASK = b"\x01\x02\x03\x04"


class Plan(NamedTuple):
    """The load: whom to trust and what to call the router; connections of each kind; seconds.

    A worker makes one new connection after the other, one each `pause` seconds; all of them together `workers` times
    as many.
    """

    ca: str
    name: str
    workers: int
    pause: float
    kept: int
    tunnels: int
    #: Seconds between two answers on what stays.
    every: float


class Client:
    """All of it."""

    def __init__(self, port: int, plan: Plan) -> None:
        self.port, self.plan = port, plan
        self.settings = ssl.create_default_context(cafile=plan.ca)
        self.stop = asyncio.Event()
        self.shakes: list[Shake] = []
        self.held: list[Held] = []
        #: Set once all that stays stands, or some of it has ended.
        self.settled = asyncio.Event()
        self._standing = 0
        self._numbers = itertools.count()
        # They know how to ask, and how to agree to a WebSocket; what befalls a connection is told here.
        self._closing = Load(port, "new", 1, "Connection: close\r\n")
        self._kept = Load(port, "kept", 1)
        self._tunnels = Tunnels(port, Mix())

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        async with asyncio.timeout(PATIENCE):
            return await asyncio.open_connection(HOST, self.port, ssl=self.settings, server_hostname=self.plan.name)

    async def _sleep(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.stop.wait(), max(seconds, 0))

    # New ones

    async def anew(self, number: int) -> None:
        due = time.monotonic() + self.plan.pause * number / self.plan.workers
        while not self.stop.is_set():
            await self._sleep(due - time.monotonic())
            due = max(due + self.plan.pause, time.monotonic())
            begun = time.monotonic()
            serial, end = await self._once()
            self.shakes.append(Shake(begun, time.monotonic(), serial, end))

    async def _once(self) -> tuple[str, str]:
        """Promises the serial number of the certificate that came, and "ok" or what went wrong."""
        serial, writer = "", None
        try:
            reader, writer = await self._open()
            serial = writer.get_extra_info("peercert")["serialNumber"]
            kind, _ = await self._closing._ask(Wire(reader), writer, "GET", f"new.{next(self._numbers)}")
        except (OSError, TimeoutError) as error:
            return serial, f"{type(error).__name__}: {error}"
        finally:
            if writer is not None:
                writer.transport.abort()
        return serial, kind

    # Those that stay

    async def hold(self, what: str, number: int) -> None:
        """One that stays; what befalls it is noted, and it is not opened again."""
        await self._sleep(self.plan.every * number / (self.plan.kept + self.plan.tunnels))
        talk: Callable[..., Awaitable[str]] = self._echo if what == TUNNEL else self._requests
        stood, answers, writer, end = 0.0, [0], None, ""
        try:
            reader, writer = await self._open()
            stood = time.monotonic()
            end = await talk(reader, writer, answers)
        except (OSError, TimeoutError, Refused, asyncio.IncompleteReadError) as error:
            end = f"{type(error).__name__}: {error}"
        finally:
            if writer is not None:
                writer.transport.abort()
        self.held.append(Held(what, stood, time.monotonic(), end, answers[0]))
        self.settled.set()

    def _answered(self, answers: list[int]) -> None:
        answers[0] += 1
        if answers[0] == 1:
            self._standing += 1
            if self._standing == self.plan.kept + self.plan.tunnels:
                self.settled.set()

    async def _requests(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answers: list[int]) -> str:
        wire = Wire(reader)
        while not self.stop.is_set():
            kind, answer = await self._kept._ask(wire, writer, "GET", f"kept.{next(self._numbers)}")
            if kind != OK or answer is None:
                return kind
            self._answered(answers)
            await self._sleep(self.plan.every)
            if answer.closes or reader.at_eof():
                return CLOSED
        return STANDING

    async def _echo(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answers: list[int]) -> str:
        await self._tunnels._agree(reader, writer)
        while not self.stop.is_set():
            payload = f"{answers[0]}".encode()
            writer.write(framed(TEXT, payload, _MASK))
            async with asyncio.timeout(PATIENCE):
                got = await reader.readexactly(2 + len(payload))
            if got != framed(TEXT, payload):
                return f"answered with {got!r}"
            self._answered(answers)
            await self._sleep(self.plan.every)
            if reader.at_eof():
                return CLOSED
        return STANDING


def beside(file: Path) -> Path:
    """Promises the file of connections that stay."""
    return file.with_suffix(".held")


async def run(port: int, file: Path, plan: Plan) -> None:
    client = Client(port, plan)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, client.stop.set)
    kinds = [KEPT] * plan.kept + [TUNNEL] * plan.tunnels
    running: list[asyncio.Future[Any]] = [
        asyncio.ensure_future(client.hold(what, number)) for number, what in enumerate(kinds)
    ]
    await client.settled.wait()
    running += [asyncio.ensure_future(client.anew(number)) for number in range(plan.workers)]
    print("ready", flush=True)
    await asyncio.gather(*running)
    write(file, client.shakes)
    write(beside(file), client.held)


if __name__ == "__main__":
    asyncio.run(run(int(sys.argv[1]), Path(sys.argv[2]), Plan(**json.loads(sys.argv[3]))))
