"""Whoever ends an exchange, at whichever of its twelve steps: nothing is left behind.

Left behind would be: an open lease, an exchange that counts as under way, a place in the queue, a task, an upstream
connection in use. `World` of the bench looks for all of them again when a scenario ends.
"""

from __future__ import annotations

import asyncio
import importlib.util
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from router.config import HedgeDelay, LimitsConfig, PoolTimeouts, RetryConfig

_spec = importlib.util.spec_from_file_location("bench", Path(__file__).with_name("net") / "conftest.py")
assert _spec is not None
assert _spec.loader is not None
bench = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(bench)

#: What ends the exchange: the client resets, the client closes, or the process is told to stop and does not wait.
ENDINGS = ("reset", "close", "stop")

Reached = Callable[[], Any]
#: Brings one exchange to a step; returns how to see that it is there.
Scene = Callable[[Any, "Stage"], Awaitable[Reached]]


class Watcher:
    """An observer that says how far an exchange has come; at one step it may call back at once."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.at: dict[str, Callable[[], None]] = {}

    def _note(self, step: str) -> None:
        self.told.append(step)
        self.at.get(step, lambda: None)()

    def request_started(self, exchange: Any) -> Any:
        self._note("started")
        return self

    def attempt_started(self, *args: Any) -> None:
        self._note("attempt")

    def attempt_ended(self, token: Any, exchange: Any, attempt: Any, outcome: Any) -> None:
        self._note("attempt ended")

    def request_ended(self, token: Any, exchange: Any, error: Any) -> None:
        self._note("ended")

    def endpoint_changed(self, endpoint: Any, cause: str) -> None: ...

    def table_swapped(self, version: int) -> None: ...


class Stage:
    """The parts of a scene that its ending needs."""

    def __init__(self) -> None:
        self.house: Any = None
        self.client: Any = None
        self.others: list[Any] = []
        self.watcher = Watcher()
        self.exchanges = 1


async def silent(peer: Any) -> None:
    await peer.ask()
    await peer.gone()


async def setting(world: Any, stage: Stage, *endpoints: Any, **more: Any) -> None:
    stage.house = await world.router(*endpoints, observers=[stage.watcher], **more)
    stage.client = await world.client(stage.house)


# The steps


async def step_1_accepted(world: Any, stage: Stage) -> Reached:
    await setting(world, stage, await world.upstream())
    stage.exchanges = 0
    stage.client.send(b"GET / HTTP/1.1\r\nHo")
    return lambda: stage.house.listener.connections


async def step_2_opened_with_its_body_to_come(world: Any, stage: Stage) -> Reached:
    upstream = await world.upstream(silent)
    await setting(world, stage, upstream)
    stage.client.ask("/", "Content-Length: 100", "Expect: 100-continue", method="POST")
    return lambda: upstream.requests


async def step_3_in_a_filter(world: Any, stage: Stage) -> Reached:
    inside = asyncio.Event()

    class Waits:
        async def on_request(self, exchange: Any) -> None:
            inside.set()
            await asyncio.Event().wait()

        def on_response(self, exchange: Any, headers: Any) -> None: ...

    await setting(world, stage, await world.upstream(), filters=[Waits()])
    stage.client.ask(method="POST", body=b"x" * 100_000)
    return inside.is_set


async def step_4_in_the_queue_of_the_pool(world: Any, stage: Stage) -> Reached:
    limits = LimitsConfig(in_flight=1, queue=5, queue_timeout=60)  # type: ignore[arg-type]
    return await _queued(world, stage, limits)


async def step_6_in_the_queue_for_an_endpoint(world: Any, stage: Stage) -> Reached:
    limits = LimitsConfig(in_flight_per_endpoint=1, queue=5, queue_timeout=60)  # type: ignore[arg-type]
    return await _queued(world, stage, limits)


async def _queued(world: Any, stage: Stage, limits: LimitsConfig) -> Reached:
    upstream = await world.upstream(silent)
    await setting(world, stage, upstream, pool={"limits": limits})
    first = await world.client(stage.house)
    stage.others.append(first)
    stage.exchanges = 2
    first.ask("/first")
    await bench.eventually(lambda: upstream.requests)
    stage.client.ask("/second")
    return lambda: stage.house.pool.queue.waiting == 1


async def step_5_pinned(world: Any, stage: Stage) -> Reached:
    upstream = await world.upstream(silent)

    class Pins:
        def find(self, members: Any, exchange: Any) -> Any:
            return members.get(upstream.url)

        def remember(self, endpoint: Any, exchange: Any, headers: Any) -> None: ...

    await setting(world, stage, await world.upstream(silent), upstream, affinity=Pins())
    stage.client.ask()
    return lambda: upstream.requests


async def step_7_and_8_connecting(world: Any, stage: Stage) -> Reached:
    """Chosen and leased; the endpoint's backlog is full, so its handshake does not end."""
    full = socket.socket()
    full.bind(("127.0.0.1", 0))
    full.listen(0)
    world.full = [full]
    for _ in range(3):
        other = socket.socket()
        other.setblocking(False)
        other.connect_ex(full.getsockname())
        world.full.append(other)
    timeouts = PoolTimeouts(connect=0.4)  # type: ignore[arg-type]
    await setting(world, stage, f"http://127.0.0.1:{full.getsockname()[1]}", pool={"timeouts": timeouts})
    stage.client.ask()
    return lambda: stage.house.endpoints[0].load == 1


async def step_9_sending_a_body(world: Any, stage: Stage) -> Reached:
    async def reads_nothing(peer: Any) -> None:
        await peer.ask()
        while not peer.writer.is_closing() and not peer.reader.at_eof() and peer.reader.exception() is None:
            await asyncio.sleep(0.01)
            if stage.watcher.told.count("ended"):
                return

    upstream = await world.upstream(reads_nothing)
    await setting(world, stage, upstream)
    stage.client.ask("/", "Content-Length: 90000000", method="POST")
    stage.client.send(b"x" * 12_000_000)
    return lambda: upstream.requests


async def step_9_waiting_for_a_head(world: Any, stage: Stage) -> Reached:
    upstream = await world.upstream(silent)
    await setting(world, stage, upstream)
    stage.client.ask()
    return lambda: upstream.requests


async def step_9_in_the_middle_of_a_head(world: Any, stage: Stage) -> Reached:
    async def half(peer: Any) -> None:
        await peer.ask()
        peer.send(b"HTTP/1.1 200 OK\r\nX-Ha")
        await peer.gone()

    upstream = await world.upstream(half)
    await setting(world, stage, upstream)
    stage.client.ask()
    return lambda: upstream.requests


async def step_10_sleeping_before_another_try(world: Any, stage: Stage) -> Reached:
    async def resets(peer: Any) -> None:
        await peer.ask()
        peer.reset()

    upstream = await world.upstream(resets)
    await setting(world, stage, upstream, pool={"retry": RetryConfig(attempts=20, reserve=100)})
    stage.house.pool.rng.uniform = lambda low, high: 30.0
    stage.client.ask()
    return lambda: stage.watcher.told.count("attempt ended") == 1


async def step_10_with_two_attempts_under_way(world: Any, stage: Stage) -> Reached:
    both = [await world.upstream(silent) for _ in range(2)]
    retry = RetryConfig(hedge_after=HedgeDelay("20ms"))
    await setting(world, stage, *both, pool={"retry": retry})
    # A hedge whose timer fires early is a bug of its own, with a test of its own.
    stage.client.ask()
    await asyncio.sleep(0.1)
    return lambda: all(each.requests for each in both) or stage.house.pool.in_flight


async def step_11_relaying_a_body(world: Any, stage: Stage) -> Reached:
    return await _relaying(world, stage, b"Content-Length: 100\r\n\r\nsome")


async def step_11_relaying_chunks(world: Any, stage: Stage) -> Reached:
    return await _relaying(world, stage, b"Transfer-Encoding: chunked\r\n\r\n4\r\nsome\r\n")


async def step_11_relaying_to_the_end_of_the_connection(world: Any, stage: Stage) -> Reached:
    return await _relaying(world, stage, b"\r\nsome")


async def _relaying(world: Any, stage: Stage, rest: bytes) -> Reached:
    async def part(peer: Any) -> None:
        await peer.ask()
        peer.send(b"HTTP/1.1 200 OK\r\n" + rest)
        await peer.gone()

    await setting(world, stage, await world.upstream(part))
    stage.client.ask()
    await stage.client.until(b"some")
    return lambda: True


async def step_11_paused_for_a_slow_client(world: Any, stage: Stage) -> Reached:
    sent = 0

    async def endless(peer: Any) -> None:
        nonlocal sent
        await peer.ask()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 900000000\r\n\r\n")
        while True:
            peer.send(b"x" * 65536)
            await peer.flush()
            sent += 65536

    await setting(world, stage, await world.upstream(endless))
    stage.client.reader._transport.pause_reading()
    stage.client.ask()
    before = -1
    while before != sent or not sent:
        before = sent
        await asyncio.sleep(0.1)
    return lambda: True


async def step_12_ended_with_another_request_behind_it(world: Any, stage: Stage) -> Reached:
    async def one_then_silent(peer: Any) -> None:
        await peer.ask()
        peer.answer(b"first")
        await peer.ask()
        await peer.gone()

    upstream = await world.upstream(one_then_silent)
    await setting(world, stage, upstream)
    stage.exchanges = 2
    stage.client.ask("/1")
    stage.client.ask("/2")
    return lambda: len(upstream.requests) == 2


SCENES: list[Scene] = [scene for name, scene in sorted(globals().items()) if name.startswith("step_")]


async def _end(stage: Stage, ending: str) -> None:
    if ending == "stop":
        stage.house.begin_drain()
        await stage.house.drained(0.02)
        return
    for client in (stage.client, *stage.others):
        # Not `close`, which would first send what this end still holds.
        client.reset() if ending == "reset" else client.writer.transport.abort()


async def _play(scene: Scene, ending: str) -> None:
    stage = Stage()
    world = bench.World()
    world.full = []
    async with world:
        reached = await scene(world, stage)
        await bench.eventually(reached, scene.__name__)
        await _end(stage, ending)
        await stage.house.settled()
        await bench.eventually(lambda: not stage.house.listener.connections, "client connections are left")
        # Step 12 happens once for each exchange that was opened, however it ended.
        assert stage.watcher.told.count("started") == stage.exchanges
        assert stage.watcher.told.count("ended") == stage.exchanges
        assert stage.watcher.told.count("attempt ended") >= stage.watcher.told.count("attempt") - 1
    for sock in world.full:
        sock.close()


#: The end of a stream that waits behind bytes for which there is no room does not even arrive.
UNHEARD = (step_9_sending_a_body, "close")
ALL = [(scene, ending) for scene in SCENES for ending in ENDINGS if (scene, ending) != UNHEARD]


@pytest.mark.parametrize("loop", bench.LOOPS)
@pytest.mark.parametrize(("scene", "ending"), ALL, ids=[f"{scene.__name__}-{ending}" for scene, ending in ALL])
def test_nothing_is_left_behind(scene: Scene, ending: str, loop: str) -> None:
    with asyncio.Runner(loop_factory=bench.LOOPS[loop]) as runner:
        runner.run(_play(scene, ending))


async def _play_at_once(step: str) -> None:
    """The client's end is noticed while the router is in the very step: the call comes from inside of it."""
    stage = Stage()
    async with bench.World() as world:
        await setting(world, stage, await world.upstream())
        stage.watcher.at[step] = stage.client.reset
        stage.client.ask(method="PUT", body=b"x" * 1000)
        await bench.eventually(lambda: "ended" in stage.watcher.told)
        await stage.house.settled()
        assert stage.watcher.told.count("ended") == 1


@pytest.mark.parametrize("loop", bench.LOOPS)
@pytest.mark.parametrize("step", ["started", "attempt", "attempt ended", "ended"])
def test_a_client_that_leaves_in_the_middle_of_a_step(step: str, loop: str) -> None:
    with asyncio.Runner(loop_factory=bench.LOOPS[loop]) as runner:
        runner.run(_play_at_once(step))


async def _play_any_moment() -> None:
    """Many clients, each of which leaves after a different time."""

    async def slow(peer: Any) -> None:
        while True:
            head = await peer.request()
            peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            for _ in range(4):
                await asyncio.sleep(0.002)
                peer.send(b"%x\r\n%b\r\n" % (len(head.target), head.target.encode()))
            peer.send(b"0\r\n\r\n")

    async with bench.World() as world:
        limits = LimitsConfig(in_flight=8, queue=4, queue_timeout=0.02)  # type: ignore[arg-type]
        upstreams = [await world.upstream(slow) for _ in range(2)]
        house = await world.router(*upstreams, pool={"limits": limits})

        async def leave_after(seconds: float, number: int) -> None:
            client = await world.client(house)
            for _ in range(3):
                client.ask(f"/{number}", method="POST" if number % 2 else "GET", body=b"x" * (number % 2 * 5000))
            await asyncio.sleep(seconds)
            client.reset() if number % 3 else client.close()

        await asyncio.gather(*(leave_after(number * 0.0007, number) for number in range(60)))
        await house.settled(*upstreams)
        assert house.pool.in_flight == 0
        assert (await (await world.client(house)).get("/after")).body == b"/after" * 4


@pytest.mark.parametrize("loop", bench.LOOPS)
def test_clients_that_leave_at_any_moment(loop: str) -> None:
    with asyncio.Runner(loop_factory=bench.LOOPS[loop]) as runner:
        runner.run(_play_any_moment())
