"""check_probe catches what it says it catches: a deliberately broken probe for each law."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from router import Endpoint, Options
from router.testing import check_probe, make_endpoints
from router.testing import probe as laws

WELL, ILL, SILENT = make_endpoints(1, 1, 1)


class Asked:
    """A right probe, which each broken one changes in one point: by port, and some turns of the loop later."""

    def __init__(self) -> None:
        self.asked: Endpoint | None = None

    async def check(self, endpoint: Endpoint) -> Any:
        await self.wait(endpoint)
        if endpoint is ILL:
            raise OSError("connect refused")

    async def wait(self, endpoint: Endpoint) -> None:
        for _ in range(10):
            await asyncio.sleep(0)
        if endpoint is SILENT:
            await asyncio.Event().wait()


class Wishes(Asked):
    class Options(Options, frozen=True):
        port: int = 0

    def __init__(self, options: Any, tools: Any) -> None:
        super().__init__()
        self.options, self.tools = options, tools


class NeverWell(Asked):
    async def check(self, endpoint: Endpoint) -> Any:
        raise OSError("connect refused")


class WellOnce(Asked):
    async def check(self, endpoint: Endpoint) -> Any:
        await super().check(endpoint)
        if self.asked is endpoint:
            raise OSError("asked already")
        self.asked = endpoint


class NeverIll(Asked):
    async def check(self, endpoint: Endpoint) -> Any:
        await self.wait(endpoint)


class SaysSo(Asked):
    async def check(self, endpoint: Endpoint) -> Any:
        await super().check(endpoint)
        return True


class Mute(Asked):
    async def check(self, endpoint: Endpoint) -> Any:
        await self.wait(endpoint)
        if endpoint is ILL:
            raise OSError


class Quotes(Mute):
    reason = "status line: \x1b[31m\r\n"

    async def check(self, endpoint: Endpoint) -> Any:
        await self.wait(endpoint)
        if endpoint is ILL:
            raise OSError(self.reason)


class Talks(Quotes):
    reason = "because " * 40


class Leaves(Asked):
    async def check(self, endpoint: Endpoint) -> Any:
        if endpoint is ILL:
            raise asyncio.CancelledError


class Exits(Asked):
    async def check(self, endpoint: Endpoint) -> Any:
        if endpoint is ILL:
            raise GeneratorExit("no more")


class Never(Asked):
    async def check(self, endpoint: Endpoint) -> Any:
        await asyncio.Event().wait()


class Mixes(Asked):
    async def check(self, endpoint: Endpoint) -> Any:
        self.asked = endpoint
        await self.wait(endpoint)
        await super().check(self.asked)


class Swallows(Asked):
    async def check(self, endpoint: Endpoint) -> Any:
        try:
            await super().check(endpoint)
        except asyncio.CancelledError:
            return


class Translates(Asked):
    async def check(self, endpoint: Endpoint) -> Any:
        try:
            await super().check(endpoint)
        except asyncio.CancelledError:
            raise OSError("too late") from None


class Clings(Asked):
    async def check(self, endpoint: Endpoint) -> Any:
        try:
            await super().check(endpoint)
        except asyncio.CancelledError:
            await asyncio.sleep(0.5)
            raise


class Abandons(Asked):
    async def check(self, endpoint: Endpoint) -> Any:
        left = asyncio.ensure_future(asyncio.sleep(0.5))
        await super().check(endpoint)
        left.cancel()


class Breaks(Asked):
    broken = False

    async def check(self, endpoint: Endpoint) -> Any:
        if self.broken:
            raise OSError("in use")
        try:
            await super().check(endpoint)
        except asyncio.CancelledError:
            self.broken = True
            raise


class Weighs(Asked):
    async def check(self, endpoint: Endpoint) -> Any:
        await super().check(endpoint)
        endpoint.load += 1


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(laws, "_PATIENCE", 0.2)
    monkeypatch.setattr(laws, "_LINGER", 0.01)


@pytest.mark.parametrize(
    ("broken", "sentence"),
    [
        (NeverWell, "an endpoint that is well passes, every time .*connect refused"),
        (WellOnce, "an endpoint that is well passes, every time .*asked already"),
        (NeverIll, "check raises where the endpoint is not well"),
        (SaysSo, "check returns nothing"),
        (Mute, "what check raises says why"),
        (Quotes, "the reason is one printable line"),
        (Talks, "the reason is one printable line"),
        (Leaves, "a check that nobody cancels does not cancel itself"),
        (Exits, "what check raises is an Exception"),
        (Never, "a check ends by itself where the server answers"),
        (Mixes, "checks that run side by side do not disturb each other"),
        (Swallows, "a cancelled check ends as cancelled: let CancelledError pass .returned None"),
        (Translates, "a cancelled check ends as cancelled: let CancelledError pass .raised OSError"),
        (Clings, "a cancelled check ends at once"),
        (Abandons, "a cancelled check leaves no task behind"),
        (Breaks, "a cancelled check does not disturb the next"),
        (Weighs, "a probe changes no endpoint"),
    ],
)
async def test_each_law_catches_what_breaks_it(broken: Any, sentence: str) -> None:
    load = WELL.load
    try:
        with pytest.raises(AssertionError, match=f"broken law: {sentence}"):
            await check_probe(lambda options, tools: broken(), well=WELL, ill=ILL, silent=SILENT)
    finally:
        WELL.load = load


async def test_right_probes_pass() -> None:
    await check_probe(lambda options, tools: Asked(), well=WELL, ill=ILL)
    await check_probe(lambda options, tools: Asked(), well=WELL, ill=ILL, silent=SILENT)
    await check_probe(Wishes, well=WELL, ill=ILL)
    await check_probe(Wishes, Wishes.Options(port=2), well=WELL, ill=ILL)


class Quick:
    """Needs neither a loop nor an `__init__`."""

    async def check(self, endpoint: Endpoint) -> None:
        if endpoint is ILL:
            raise ValueError("odd port")


def test_it_runs_outside_of_a_loop_too() -> None:
    asyncio.run(check_probe(Quick, well=WELL, ill=ILL))
