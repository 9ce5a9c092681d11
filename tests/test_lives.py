"""The lives of plugin objects: started once, closed once, and nothing that one of them does ends the others."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from router import lives as lives_module
from router.lives import Lives
from router.net.sockets import StartError

NEVER = 3600.0


class Plugin:
    """Writes down what becomes of it."""

    def __init__(self, name: str, noted: list[str]) -> None:
        self.name = name
        self.noted = noted
        self.control: Any = None

    async def start(self, control: Any) -> None:
        self.control = control
        self.noted.append(f"start {self.name}")

    async def close(self) -> None:
        self.noted.append(f"close {self.name}")


class Service(Plugin):
    tasks: tuple[Any, ...] = ()

    @contextlib.asynccontextmanager
    async def serve(self, control: Any) -> AsyncIterator[None]:
        entered = asyncio.current_task()
        self.noted.append(f"serving {self.name}")
        try:
            yield
        finally:
            self.tasks = (entered, asyncio.current_task())
            self.noted.append(f"served {self.name}")


class Given:
    """What Lives reads of a prepared configuration."""

    def __init__(self, *objects: Any) -> None:
        self._objects = objects
        self.services = [(made.name, made) for made in objects if hasattr(made, "serve")]

    def plugins(self) -> list[Any]:
        return list(self._objects)


class Fails(Plugin):
    async def start(self, control: Any) -> None:
        await super().start(control)
        raise RuntimeError("no database")


class FailsToClose(Plugin):
    async def close(self) -> None:
        await super().close()
        raise RuntimeError("no database")


class FailsToServe(Service):
    def serve(self, control: Any) -> Any:
        raise RuntimeError("no database")


class FailsAtTheEnd(Service):
    @contextlib.asynccontextmanager
    async def serve(self, control: Any) -> AsyncIterator[None]:
        yield
        raise RuntimeError("oh")


@pytest.fixture
def noted() -> list[str]:
    return []


async def test_each_is_started_once_and_closed_once(noted: list[str]) -> None:
    control: Any = object()
    lives, a, b, c = Lives(control), Plugin("a", noted), Service("b", noted), Plugin("c", noted)
    assert await lives.begin(Given(a, b, c)) == [a, b, c]
    assert noted == ["start a", "start b", "start c", "serving b"]
    assert a.control is control
    d = Plugin("d", noted)
    assert await lives.begin(Given(d, c, b)) == [d]
    await lives.end([a])
    await lives.end([a])
    assert noted[4:] == ["start d", "close a"]
    await lives.close()
    await lives.close()
    # Services first, then the last one started first.
    assert noted[6:] == ["served b", "close b", "close d", "close c"]


async def test_a_service_is_entered_and_left_by_one_task(noted: list[str]) -> None:
    lives, service = Lives(NotImplemented), Service("s", noted)
    await asyncio.create_task(lives.begin(Given(service)))
    await lives.close()
    assert service.tasks[0] is service.tasks[1]


async def test_objects_without_any_of_it_need_nothing(noted: list[str]) -> None:
    lives, plain = Lives(NotImplemented), object()
    assert await lives.begin(Given(plain)) == [plain]
    await lives.close()


async def test_one_that_does_not_start_closes_what_was_begun_and_itself(noted: list[str]) -> None:
    lives, kept = Lives(NotImplemented), Plugin("kept", noted)
    await lives.begin(Given(kept))
    with pytest.raises(StartError, match=r"plugin Fails did not start: RuntimeError\('no database'\)"):
        await lives.begin(Given(kept, Plugin("a", noted), Fails("b", noted), Plugin("c", noted)))
    assert noted == ["start kept", "start a", "start b", "close b", "close a"]
    await lives.close()
    assert noted[5:] == ["close kept"]


async def test_a_service_that_does_not_start_closes_what_was_begun(noted: list[str]) -> None:
    lives = Lives(NotImplemented)
    with pytest.raises(StartError, match="service bad did not start"):
        await lives.begin(Given(Plugin("a", noted), Service("s", noted), FailsToServe("bad", noted)))
    assert noted == ["start a", "start s", "start bad", "serving s", "close bad", "served s", "close s", "close a"]
    again = Given(Service("t", noted))
    await lives.begin(again)
    await lives.close()


async def test_being_cancelled_closes_what_was_begun(noted: list[str]) -> None:
    class Slow(Plugin):
        async def start(self, control: Any) -> None:
            await asyncio.sleep(NEVER)

    lives = Lives(NotImplemented)
    task = asyncio.create_task(lives.begin(Given(Plugin("a", noted), Slow("b", noted))))
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert noted == ["start a", "close b", "close a"]


async def test_what_fails_at_the_end_holds_nobody_up(noted: list[str], caplog: Any) -> None:
    lives = Lives(NotImplemented)
    await lives.begin(Given(Plugin("a", noted), FailsToClose("b", noted), FailsAtTheEnd("s", noted)))
    await lives.close()
    assert noted[-1] == "close a"
    assert [each.getMessage() for each in caplog.records] == [
        "service s did not end well: RuntimeError('oh')",
        "plugin FailsToClose did not close well: RuntimeError('no database')",
    ]
    assert not any(each.exc_info for each in caplog.records)


async def test_what_takes_too_long_to_close_is_left(
    noted: list[str], caplog: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lives_module, "_CLOSING", 0.02)

    class Slow(Service):
        @contextlib.asynccontextmanager
        async def serve(self, control: Any) -> AsyncIterator[None]:
            yield
            await asyncio.sleep(NEVER)

        async def close(self) -> None:
            await asyncio.sleep(NEVER)

    lives = Lives(NotImplemented)
    await lives.begin(Given(Plugin("a", noted), Slow("b", noted)))
    await lives.close()
    assert noted[-1] == "close a"
    said = [each.getMessage() for each in caplog.records]
    assert said == [
        "service b does not end and is left behind",
        "plugin Slow did not close well: TimeoutError('not done within 0.02 s')",
    ]


async def test_another_object_with_the_place_of_a_closed_one_is_started(noted: list[str]) -> None:
    """Objects are told apart by themselves, not by where they stand in memory."""
    lives = Lives(NotImplemented)
    for number in range(200):
        made = Plugin(str(number), noted)
        assert await lives.begin(Given(made)) == [made]
        await lives.end([made])
        del made
    assert len(noted) == 400
