"""The limit of connections per listener: waiting, being turned away, going on; and too few descriptors."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from router.config import ListenerTimeouts
from router.configforms import parse_bind
from router.net import accepting, surplus
from router.net.accepting import free_descriptors
from router.net.server import Listener
from router.net.sockets import Sockets


class Starving(socket.socket):
    """A listening socket for which the system runs out of descriptors when told to."""

    starves_at = ""

    def accept(self) -> tuple[socket.socket, Any]:
        if self.starves_at == "accept":
            raise OSError(errno.EMFILE, "Too many open files")
        return super().accept()

    def dup(self) -> socket.socket:
        if self.starves_at == "dup":
            raise OSError(errno.EMFILE, "Too many open files")
        return socket.socket(fileno=os.dup(self.fileno()))


async def limited(world: Any, limit: int, *, bind: str = "127.0.0.1:0") -> Any:
    """A router whose one listener takes `limit` connections."""
    house = await world.router(await world.upstream(), bind=bind)
    house.listener.stop_accepting()
    house.opened.close_all()
    house.opened = Sockets()
    house.sockets[0] = Starving(fileno=house.opened.open(parse_bind(bind)).dup().detach())
    house.listeners[0] = Listener(house.runtime, house.sockets[0], ListenerTimeouts(), max_connections=limit)
    await house.listener.start()
    return house


async def filled(world: Any, limit: int, **more: Any) -> tuple[Any, list[Any]]:
    """Such a router with as many clients as it takes."""
    house = await limited(world, limit, **more)
    clients = [await world.client(house) for _ in range(limit)]
    for client in clients:
        assert (await client.get()).status == 200
    await world.eventually(lambda: house.listener.is_paused)
    return house, clients


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Does with a fraction of the seconds."""
    monkeypatch.setattr(accepting, "_GRACE", 0.05)
    monkeypatch.setattr(accepting, "_TICK", 0.01)
    monkeypatch.setattr(surplus, "_PATIENCE", 0.2)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Turns nobody away."""
    monkeypatch.setattr(accepting, "_GRACE", 600.0)


# At the limit


@pytest.mark.usefixtures("patient")
async def test_at_the_limit_a_client_waits_and_is_served_when_another_leaves(world: Any) -> None:
    house, clients = await filled(world, 2)
    waiting = await world.client(house)
    waiting.ask()
    await asyncio.sleep(0.1)
    assert (len(house.listener.connections), bytes(waiting.received)) == (2, b"")
    assert (await clients[0].get()).status == 200
    clients[0].close()
    assert (await waiting.response()).status == 200
    assert house.listener.turned_away == 0
    assert house.listener.is_paused


@pytest.mark.usefixtures("patient")
async def test_those_who_wait_are_let_in_one_for_one_in_their_order(world: Any) -> None:
    house, clients = await filled(world, 2)
    waiting = [await world.client(house) for _ in range(3)]
    for client in waiting:
        client.ask()
    for number, client in enumerate(clients):
        client.close()
        assert (await waiting[number].response()).status == 200
        assert len(house.listener.connections) == 2
    assert bytes(waiting[2].received) == b""
    waiting[0].close()
    assert (await waiting[2].response()).status == 200


async def test_with_room_again_and_nobody_waiting_accepting_goes_on_as_usual(world: Any) -> None:
    house, clients = await filled(world, 2)
    for client in clients:
        client.close()
    await world.eventually(lambda: not house.listener.is_paused)
    for _ in range(3):
        client = await world.client(house)
        assert (await client.get()).status == 200
        client.close()
        await client.gone()


async def test_the_limit_holds_on_a_unix_socket_too_and_its_file_stays(world: Any, tmp_path: Path) -> None:
    path = tmp_path / "router.sock"
    house, (client,) = await filled(world, 1, bind=f"unix:{path}")
    assert path.exists()
    client.close()
    await world.eventually(lambda: not house.listener.is_paused)
    assert path.exists()
    assert (await (await world.client(house)).get()).status == 200


@pytest.mark.usefixtures("patient")
async def test_waiting_costs_no_cpu(world: Any) -> None:
    house, _ = await filled(world, 1)
    for _ in range(30):
        (await world.client(house)).ask()
    busy, elapsed = time.process_time(), time.perf_counter()
    await asyncio.sleep(0.4)
    assert time.process_time() - busy < (time.perf_counter() - elapsed) / 2
    assert len(house.listener.connections) == 1


# Turned away


@pytest.mark.usefixtures("impatient")
async def test_after_a_while_those_who_wait_are_told_503_and_closed(world: Any) -> None:
    house, clients = await filled(world, 1)
    waiting = await world.client(house)
    response = await waiting.get()
    assert (response.status, response.get("Connection"), response.get("Retry-After")) == (503, "close", "1")
    assert b"overloaded" in response.body
    assert response.get("X-Request-ID")
    assert await waiting.gone() == "closed"
    assert house.listener.turned_away == 1
    assert (await clients[0].get()).status == 200


@pytest.mark.usefixtures("impatient")
async def test_a_head_request_is_turned_away_without_a_body(world: Any) -> None:
    house, _ = await filled(world, 1)
    waiting = await world.client(house)
    response = await waiting.get(method="HEAD")
    assert response.status == 503
    assert await waiting.rest() == b""


@pytest.mark.usefixtures("impatient")
async def test_a_silent_client_is_turned_away_too(world: Any) -> None:
    house, _ = await filled(world, 1)
    waiting = await world.client(house)
    assert (await waiting.response()).status == 503
    assert await waiting.gone() == "closed"


@pytest.mark.usefixtures("impatient")
async def test_a_large_request_does_not_cost_its_client_the_answer(world: Any) -> None:
    house, _ = await filled(world, 1)
    waiting = await world.client(house)
    waiting.ask(method="POST", body=b"x" * (1 << 19))
    assert (await waiting.response()).status == 503


@pytest.mark.usefixtures("impatient")
async def test_only_so_many_are_on_their_way_out_at_once(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accepting, "_AT_ONCE", 3)
    sizes: list[int] = []
    look = surplus.Surplus.look

    def looked(self: surplus.Surplus, now: float) -> None:
        sizes.append(len(self))
        look(self, now)

    monkeypatch.setattr(surplus.Surplus, "look", looked)
    house, _ = await filled(world, 1)
    waiting = [await world.client(house) for _ in range(12)]
    assert [(await client.get()).status for client in waiting] == [503] * 12
    assert max(sizes) == 3
    assert house.listener.turned_away == 12


@pytest.mark.usefixtures("impatient")
async def test_one_that_never_closes_is_closed(world: Any) -> None:
    house, (client,) = await filled(world, 1)
    waiting = await world.client(house)
    assert (await waiting.get()).status == 503
    client.close()
    await world.eventually(lambda: not house.listener.is_paused)
    # Its own end stays open, so nothing but the listener's patience ends it.
    await world.eventually(lambda: not house.listener._accepting._surplus)


@pytest.mark.usefixtures("impatient")
async def test_clients_that_leave_or_reset_meanwhile_harm_nobody(world: Any) -> None:
    house, _ = await filled(world, 1)
    for end in ("close", "reset"):
        waiting = await world.client(house)
        getattr(waiting, end)()
    late = await world.client(house)
    assert (await late.get()).status == 503


# The log


async def test_the_log_has_one_line_for_a_pause_and_one_for_its_end(world: Any, caplog: Any) -> None:
    caplog.set_level(logging.INFO, "router")
    house, clients = await filled(world, 2)
    for client in clients:
        client.close()
    await world.eventually(lambda: not house.listener.is_paused)
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert house.listener.name in caplog.text
    assert "max_connections = 2" in caplog.text


async def test_clients_who_come_and_go_at_the_limit_do_not_fill_the_log(world: Any, caplog: Any) -> None:
    caplog.set_level(logging.INFO, "router")
    house = await limited(world, 1)
    for _ in range(10):
        client = await world.client(house)
        assert (await client.get()).status == 200
        client.close()
        await world.eventually(lambda: not house.listener.is_paused)
    assert len(caplog.records) == 2


# The end


@pytest.mark.usefixtures("patient")
async def test_the_end_of_the_process_refuses_those_who_wait(world: Any) -> None:
    house, _ = await filled(world, 1)
    waiting = await world.client(house)
    house.begin_drain()
    assert await waiting.gone() in ("reset", "closed")
    assert await house.drained() == 0


@pytest.mark.usefixtures("impatient")
async def test_the_end_of_the_process_closes_those_on_their_way_out(world: Any) -> None:
    house, _ = await filled(world, 1)
    waiting = await world.client(house)
    await world.eventually(lambda: house.listener._accepting._surplus)
    house.begin_drain()
    assert await waiting.gone() in ("reset", "closed")


async def test_an_end_in_the_moment_of_going_on_leaves_no_server(world: Any) -> None:
    house, (client,) = await filled(world, 1)
    client.close()
    await world.eventually(lambda: not house.listener.is_paused)
    house.begin_drain()
    assert house.listener._accepting._server is None
    await asyncio.sleep(0.02)
    assert house.listener._accepting._server is None


# Descriptors


def test_free_descriptors_go_down_by_one_for_each_file() -> None:
    before, reserve = free_descriptors()
    with open(os.devnull):
        assert free_descriptors() == (before - 1, reserve)
    assert 0 < reserve <= 256


def test_free_descriptors_are_counted_where_the_system_does_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    before, _ = free_descriptors()
    monkeypatch.setattr(os, "stat", lambda path: os.stat_result([0] * 10))
    # Listing takes one itself.
    assert free_descriptors()[0] == before - 1


@pytest.mark.parametrize(("fault", "is_none_free"), [(errno.EMFILE, True), (errno.ENOENT, False)])
def test_what_cannot_be_counted(monkeypatch: pytest.MonkeyPatch, fault: int, is_none_free: bool) -> None:
    def fail(path: str) -> None:
        raise OSError(fault, path)

    monkeypatch.setattr(os, "stat", fail)
    assert (free_descriptors()[0] == 0) == is_none_free


@pytest.mark.usefixtures("impatient")
async def test_before_descriptors_run_out_accepting_pauses_and_says_so_once(
    world: Any, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    free = 8
    monkeypatch.setattr(accepting, "free_descriptors", lambda: (free, 8))
    monkeypatch.setattr(accepting, "_GRACE", 60.0)
    caplog.set_level(logging.INFO, "router")
    house = await limited(world, 1000)
    for _ in range(20):
        client = await world.client(house)
        client.ask()
        await asyncio.sleep(0.005)
    await world.eventually(lambda: house.listener.is_paused)
    assert len(house.listener.connections) < 20
    free = 100
    assert (await client.response()).status == 200
    await world.eventually(lambda: len(house.listener.connections) == 20)
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert "too few descriptors" in caplog.text


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("where", ["accept", "dup"])
async def test_a_failing_accept_is_tried_again_later(world: Any, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    monkeypatch.setattr(accepting, "_GRACE", 60.0)
    tries = counted(monkeypatch, accepting, "free_descriptors")
    house, (client,) = await filled(world, 1)
    house.sockets[0].starves_at = where
    client.close()
    await client.gone()
    await asyncio.sleep(0.1)
    assert house.listener.is_paused
    assert len(tries) < 50
    waiting = await world.client(house)
    house.sockets[0].starves_at = ""
    assert (await waiting.get()).status == 200


def counted(monkeypatch: pytest.MonkeyPatch, module: Any, name: str) -> list[None]:
    """A list that grows by one with each call of a module's function."""
    calls: list[None] = []
    real: Callable[[], Any] = getattr(module, name)

    def call() -> Any:
        calls.append(None)
        return real()

    monkeypatch.setattr(module, name, call)
    return calls
