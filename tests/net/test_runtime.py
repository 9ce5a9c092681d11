"""What the data path shares: request ids, deferred writes, waking the queue."""

from __future__ import annotations

import asyncio
import re
from typing import Any


class Transport:
    def __init__(self, error: Exception | None = None) -> None:
        self.written: list[bytes] = []
        self.error = error

    def write(self, data: bytes) -> None:
        if self.error is not None:
            raise self.error
        self.written.append(data)


async def test_ids_are_random_and_of_one_form(world: Any) -> None:
    runtime = (await world.router("http://127.0.0.1:1")).runtime
    ids = [runtime.new_id() for _ in range(2000)]
    assert len(set(ids)) == 2000
    assert all(re.fullmatch("[0-9a-f]{32}", each) for each in ids)


async def test_writes_keep_their_order_per_transport(world: Any) -> None:
    runtime = (await world.router("http://127.0.0.1:1")).runtime
    one, two = Transport(), Transport()
    for number in range(5):
        runtime.write(one, b"%d" % number)
        runtime.write(two, b"%d" % -number)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert b"".join(one.written) == b"01234"
    assert b"".join(two.written) == b"0-1-2-3-4"


async def test_flush_writes_at_once_and_only_once(world: Any) -> None:
    runtime = (await world.router("http://127.0.0.1:1")).runtime
    transport = Transport()
    runtime.write(transport, b"a")
    runtime.flush()
    assert transport.written == [b"a"]
    await asyncio.sleep(0.01)
    assert transport.written == [b"a"]


async def test_a_transport_that_has_closed_harms_no_other(world: Any) -> None:
    runtime = (await world.router("http://127.0.0.1:1")).runtime
    closed, good = Transport(RuntimeError("the handler is closed")), Transport()
    runtime.write(closed, b"lost")
    runtime.write(good, b"kept")
    runtime.flush()
    assert good.written == [b"kept"]


async def test_spawned_work_is_held_until_it_ends(world: Any) -> None:
    runtime = (await world.router("http://127.0.0.1:1")).runtime
    done = asyncio.Event()

    async def work() -> None:
        await asyncio.sleep(0.01)
        done.set()

    runtime.spawn(work())
    await asyncio.wait_for(done.wait(), 5)
    assert done.is_set()
