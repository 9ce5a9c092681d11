"""When spans are made: of several requests at once, soon, and of all of them before the end."""

from __future__ import annotations

import asyncio
import random
import time
from pathlib import Path
from typing import Any

import pytest
from router_tracing.attributes import Recorder
from router_tracing.finishing import Finisher
from router_tracing.options import TracingOptions
from router_tracing.span import Span
from router_tracing.tokens import Recorded
from router_tracing.tracing import Tracing

from router import Tools
from router.testing import make_exchange


class Sink:
    """A sender that keeps everything."""

    def __init__(self) -> None:
        self.delay, self.most, self.batch = 0.1, 8192, 512
        self.traces: list[str] = []
        self.came = asyncio.Event()

    def put(self, spans: tuple[Span, ...]) -> None:
        self.traces.append(spans[0].trace_id)
        self.came.set()


class House:
    def __init__(self) -> None:
        self.finisher = Finisher(Recorder("redact"), "1" * 16, time.monotonic)
        self.sink = Sink()
        self.finisher.senders.append(self.sink)  # type: ignore[arg-type]
        self.added: list[str] = []

    def add(self, count: int = 1) -> None:
        for _ in range(count):
            exchange = make_exchange()
            exchange.trace_id = f"{len(self.added) + 1:032x}"
            self.added.append(exchange.trace_id)
            self.finisher.add(Recorded(exchange.trace_id, None), exchange, None, time.monotonic(), "")

    @property
    def is_done(self) -> bool:
        return self.sink.traces == self.added


@pytest.fixture
def house() -> House:
    return House()


def test_nobody_waits_where_no_loop_runs(house: House) -> None:
    house.add()
    assert house.is_done


def test_many_are_finished_at_once_and_in_order(house: House) -> None:
    async def serve() -> None:
        house.finisher.start(asyncio.get_running_loop())
        house.add(15)
        assert house.sink.traces == []
        house.add()
        assert house.is_done
        house.add(2)
        assert len(house.sink.traces) == 16

    asyncio.run(serve())


def test_few_are_finished_soon(house: House) -> None:
    async def serve() -> None:
        house.finisher.start(asyncio.get_running_loop())
        for _ in range(2):
            house.add(3)
            await asyncio.wait_for(house.sink.came.wait(), 5)
            assert house.is_done
            house.sink.came.clear()

    asyncio.run(serve())


def test_the_end_leaves_none(house: House) -> None:
    async def serve() -> None:
        house.finisher.start(asyncio.get_running_loop())
        house.add(3)
        house.finisher.end()
        assert house.is_done
        house.add()
        assert house.is_done

    asyncio.run(serve())


@pytest.mark.parametrize(("most", "batch"), [(1, 1), (8192, 1), (40, 512)])
def test_nobody_waits_where_there_is_little_room(house: House, most: int, batch: int) -> None:
    async def serve() -> None:
        house.sink.most, house.sink.batch = most, batch
        house.finisher.start(asyncio.get_running_loop())
        house.add()
        assert house.is_done

    asyncio.run(serve())


def test_what_cannot_be_made_is_told_to_the_next(house: House, caplog: pytest.LogCaptureFixture) -> None:
    """The core mutes the observer then, and says so: what a timer calls may raise to nobody. The others are sent."""
    usual, made = house.finisher._recorder, []

    def spans(*arguments: Any, **more: Any) -> Any:
        made.append(1)
        if len(made) == 2:
            raise ArithmeticError("no spans today")
        return usual.spans(*arguments, **more)

    async def serve() -> None:
        house.finisher._recorder = type("Broken", (), {"spans": staticmethod(spans)})()
        house.finisher.start(asyncio.get_running_loop())
        house.add(4)
        house.finisher.end()
        assert house.sink.traces == [house.added[0], *house.added[2:]]
        assert [record.levelname for record in caplog.records] == ["ERROR"]
        with pytest.raises(ArithmeticError, match="no spans today"):
            house.add()

    asyncio.run(serve())


def test_closing_the_observer_leaves_none(tmp_path: Path) -> None:
    async def serve() -> None:
        options = TracingOptions(export="file", file="spans", sampling="always")
        tracing = Tracing(options, Tools(time.monotonic, random.Random(1), tmp_path))
        await tracing.start(None)  # type: ignore[arg-type]
        exchange = make_exchange()
        tracing.request_ended(tracing.request_started(exchange), exchange, None)
        await tracing.close()
        assert (tmp_path / "spans").read_text().count(exchange.trace_id)

    asyncio.run(serve())
