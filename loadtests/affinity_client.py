"""The clients of affinity.py: visitors with a jar for their cookies, and forgers who make up cookies.

    python affinity_client.py visitors PORT FILE PLAN
    python affinity_client.py forgers PORT FILE PLAN

PLAN is a Visits or a Forgery as JSON. Prints `ready`, goes on until all requests are made or SIGTERM comes, and writes
a line of JSON per request into FILE: a Seen, and for forgers what they sent and whether another cookie came back.
"""

import asyncio
import json
import random
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from change_client import Client, write
from fault_client import Answer, Wire

#: What a cookie's value is made of here. Neither blanks nor what ends a value, so each mutation is one value.
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.=+/~%"
#: Bytes of a value that is far too long.
OVERSIZED = 7000
#: Connections of the forgers; each has its next request under way as soon as it has the answer.
FORGERS = 8
_AT_ONCE = 1e9
_FIRST = 0.02


class Visits(NamedTuple):
    """So many visitors, one every `every` seconds, with so many requests each, `rate` per second."""

    count: int
    every: float
    requests: int
    rate: float


class Forgery(NamedTuple):
    """The name of the cookie, good values of it, and how many bad ones are to be sent."""

    name: str
    values: list[str]
    count: int
    seed: int = 1


class Sent(NamedTuple):
    """A value that was made up, and what came of it."""

    value: str
    status: int
    server: str
    #: Whether the answer set another cookie.
    replaced: bool


def cookie_of(answer: Answer | None) -> tuple[str, str] | None:
    """Promises name and value of the cookie that an answer sets, if it does."""
    field = answer.fields.get("set-cookie", "") if answer else ""
    name, mark, value = field.partition(";")[0].partition("=")
    return (name, value) if mark else None


class Visitor(Client):
    """One browser: one connection after the other, and cookies that it sends back."""

    def __init__(self, port: int, number: int, visits: Visits) -> None:
        super().__init__(port, str(number), visits.rate, "", visits.requests)
        self.jar: dict[str, str] = {}

    async def _ask(self, wire: Wire, writer: asyncio.StreamWriter, method: str, key: str) -> tuple[str, Answer | None]:
        kind, answer = await super()._ask(wire, writer, method, key)
        cookie = cookie_of(answer)
        if cookie:
            self.jar[cookie[0]] = cookie[1]
            self.field = f"Cookie: {'; '.join(f'{name}={value}' for name, value in self.jar.items())}\r\n"
        return kind, answer


class Forger(Client):
    """Sends one value after the other."""

    def __init__(self, port: int, number: int, name: str, values: Sequence[str]) -> None:
        super().__init__(port, f"forger{number}", _AT_ONCE, "", len(values))
        self.name = name
        self.sent: list[Sent] = []
        self._values = iter(values)

    async def _ask(self, wire: Wire, writer: asyncio.StreamWriter, method: str, key: str) -> tuple[str, Answer | None]:
        value = next(self._values)
        self.field = f"Cookie: {self.name}={value}\r\n"
        kind, answer = await super()._ask(wire, writer, method, key)
        server = answer.fields.get("x-fault-server", "") if answer else ""
        self.sent.append(Sent(value, answer.status if answer else 0, server, cookie_of(answer) is not None))
        return kind, answer


def mutations(forgery: Forgery) -> Iterator[str]:
    """Promises so many different values, each nearly a good one, none of them good; the same for the same seed."""
    rng, known = random.Random(forgery.seed), set(forgery.values)
    ways = (_other, _other, _other, _without, _with, _cut, _swapped, _upset, _joined, _mixed, _made_up, _long)
    while len(known) < len(forgery.values) + forgery.count:
        value = rng.choice(ways)(rng, rng.choice(forgery.values), rng.choice(forgery.values))
        if value not in known:
            known.add(value)
            yield value


def _other(rng: random.Random, value: str, _: str) -> str:
    """One character is another one."""
    place = rng.randrange(len(value))
    return value[:place] + rng.choice(ALPHABET) + value[place + 1 :]


def _without(rng: random.Random, value: str, _: str) -> str:
    place = rng.randrange(len(value))
    return value[:place] + value[place + 1 :]


def _with(rng: random.Random, value: str, _: str) -> str:
    place = rng.randrange(len(value) + 1)
    return value[:place] + rng.choice(ALPHABET) + value[place:]


def _cut(rng: random.Random, value: str, _: str) -> str:
    return value[: rng.randrange(len(value))]


def _swapped(rng: random.Random, value: str, _: str) -> str:
    """Two characters change places."""
    one, other = sorted(rng.sample(range(len(value)), 2))
    return value[:one] + value[other] + value[one + 1 : other] + value[one] + value[other + 1 :]


def _upset(rng: random.Random, value: str, _: str) -> str:
    """Letters in the other case."""
    place = rng.randrange(len(value))
    return value[:place] + value[place:].swapcase()


def _joined(rng: random.Random, value: str, other: str) -> str:
    return value + rng.choice(("", ".", "=", "%00", "%20")) + other


def _mixed(rng: random.Random, value: str, other: str) -> str:
    """The begin of one good value and the end of another."""
    place = rng.randrange(len(value))
    return value[:place] + other[place:]


def _made_up(rng: random.Random, value: str, _: str) -> str:
    return "".join(rng.choices(ALPHABET, k=len(value)))


def _long(rng: random.Random, value: str, _: str) -> str:
    return value + rng.choice(ALPHABET) * rng.randrange(100, OVERSIZED)


async def visitors(port: int, file: Path, plan: dict[str, Any]) -> None:
    visits = Visits(**plan)
    everybody = [Visitor(port, number, visits) for number in range(visits.count)]
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, lambda: [each.stop.set() for each in everybody])
    print("ready", flush=True)
    start = loop.time() + _FIRST
    # The loop's clock is the monotonic one that moments are told by.
    await asyncio.gather(*(v.connection(n, "GET", start + n * visits.every) for n, v in enumerate(everybody)))
    write(file, [seen for each in everybody for seen in each.seen])


async def forgers(port: int, file: Path, plan: dict[str, Any]) -> None:
    forgery = Forgery(**plan)
    values = list(mutations(forgery))
    everybody = [Forger(port, n, forgery.name, values[n::FORGERS]) for n in range(min(FORGERS, len(values)))]
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, lambda: [each.stop.set() for each in everybody])
    print("ready", flush=True)
    await asyncio.gather(*(each.connection(number, "GET", 0) for number, each in enumerate(everybody)))
    write(file, [sent for each in everybody for sent in each.sent])


def main(what: str, port: str, file: str, plan: str) -> None:
    work = {"visitors": visitors, "forgers": forgers}[what]
    asyncio.run(work(int(port), Path(file), json.loads(plan)))


if __name__ == "__main__":
    main(*sys.argv[1:])
