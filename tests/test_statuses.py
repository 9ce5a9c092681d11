"""The state of a router, gathered: what it says of pools, endpoints, listeners, plugins and the configuration."""

from __future__ import annotations

import os
from importlib.metadata import version
from typing import Any

import msgspec
import pytest

from router.status import AskStatus

PLUGINS = """
class Chooses:
    def __init__(self, options, tools): pass
    def choose(self, candidates, exchange): raise RuntimeError("no idea")
class Ill:
    def __init__(self, options, tools): pass
    async def check(self, endpoint): raise RuntimeError("not well")
"""


def pools(house: Any) -> dict[str, Any]:
    return {pool.name: pool for pool in house.status().pools}


def test_of_the_process_and_its_configuration(house: Any, serve: Any) -> None:
    house.write(serve().url)
    house.up()
    first = house.status()
    assert (first.version, first.pid, first.draining) == (version("edge-router"), os.getpid(), False)
    assert first.config.file == str(house.file)
    assert (first.config.version, first.config.refused) == (1, "")
    house.write(serve().url, server='health_path = "/up"')
    house.takes()
    second = house.status()
    assert second.config.version == 2
    assert second.config.age <= second.uptime
    assert second.uptime > first.uptime
    house.text("[")
    house.reload()
    third = house.status().config
    assert (third.version, "not valid TOML" in third.refused) == (2, True)
    assert third.age > second.config.age
    house.write(serve().url)
    house.takes()
    fourth = house.status().config
    assert (fourth.version, fourth.refused) == (3, "")
    assert fourth.age < third.age + 1


def test_it_is_plain_data(house: Any, serve: Any) -> None:
    house.write(serve().url)
    house.up()
    house.get()
    answer = house.ask(AskStatus())
    assert answer.ok
    assert msgspec.to_builtins(house.status()) == msgspec.to_builtins(house.status()) | {
        "uptime": pytest.approx(answer.result["uptime"], abs=60),
        "config": msgspec.to_builtins(house.status())["config"] | {"age": pytest.approx(0, abs=60)},
    }


def test_of_listeners(house: Any, serve: Any, tmp_path: Any) -> None:
    house.write(serve().url, listener="max_connections = 2", more=f'[[listeners]]\nbind = "unix:{tmp_path}/listener"')
    house.up()
    junk = house.client()
    junk.sock.sendall(b"nonsense\r\n\r\n")
    assert b" 400 " in junk.until(b"\r\n")
    junk.sock.close()
    first = house.client()
    assert first.get()[0] == 200
    house.wait(lambda: house.status().listeners[0].connections == 1 and not house.status().listeners[0].paused)
    tcp, unix = house.status().listeners
    assert (tcp.name, tcp.refused, tcp.paused, tcp.turned_away) == (f"127.0.0.1:{house.port}", 1, False, 0)
    assert (unix.name, unix.connections, unix.refused) == (f"unix:{tmp_path}/listener", 0, 0)
    second = house.client()
    assert second.get()[0] == 200
    house.wait(lambda: house.status().listeners[0].paused)


def test_of_pools_and_endpoints(house: Any, serve: Any) -> None:
    server, other = serve("a"), serve("b")
    spec = f'{{ id = "x", url = "{other.url}", weight = 3, priority = 1, zone = "z" }}'
    limits = (
        'limits = { in_flight = 1, queue = 5, queue_timeout = "60s" }\nretry = { reserve = 4, budget = "10%" }\n'
        'detectors = ["consecutive"]'
    )
    house.write(server.url, spec, pool=limits)
    house.up()
    assert house.get()[0] == 200
    slow, waits = house.client().ask("/slow"), house.client()
    house.wait(lambda: "/slow" in server.paths)
    waits.ask()
    pool = house.wait(lambda: next((pool for pool in house.status().pools if pool.queue), None))
    assert (pool.name, pool.selection, pool.ready, pool.in_flight, pool.queue) == ("web", "round_robin", 2, 1, 1)
    assert (pool.retries, pool.discovery, pool.discovery_state) == (0, "", "")
    assert pool.budget >= 4
    first, second = pool.endpoints
    assert (first.id, first.url, first.state, first.load, first.requests) == (server.url, server.url, "ready", 1, 2)
    assert first.latency is not None
    assert (first.cause, first.since, first.overrides, first.source) == ("", None, (), "configuration")
    assert (second.id, second.url, second.weight, second.configured_weight) == ("x", other.url, 3, 3)
    assert (second.priority, second.zone, second.requests, second.latency) == (1, "z", 0, None)
    server.let_go()
    assert (slow.response()[0], waits.response()[0]) == (200, 200)


def test_of_one_that_is_ejected(house: Any, serve: Any) -> None:
    server, other = serve("a"), serve("b")
    other.stop()
    house.write(server.url, other.url, pool='detectors = ["consecutive"]')
    house.up()
    found = house.wait(lambda: house.get() and house.endpoints()[other.url].ejections and house.endpoints()[other.url])
    assert found.state == "ejected"
    assert found.cause.startswith("for 30 s: ")
    assert found.since < 20
    pool = pools(house)["web"]
    assert (pool.ready, pool.retries > 0) == (1, True)


def test_of_probes_and_what_has_failed(house: Any, serve: Any) -> None:
    kinds = house.plugins(PLUGINS)
    house.write(serve("a").url, pool=f'probe = "{kinds}:Ill"')
    house.text(house.file.read_text().replace('selection = "round_robin"', f'selection = "{kinds}:Chooses"'))
    house.up()
    assert house.get() == (200, b"a")
    (found,) = house.endpoints().values()
    assert (found.state, found.cause) == ("down", "1 probe failed: RuntimeError: not well")
    assert found.since is not None
    status = house.status()
    assert status.muted == {"Chooses": "RuntimeError('no idea')"}
    assert status.pools[0].ready == 0
    assert status.pools[0].selection == f"{kinds}:Chooses"
    assert any("probed every" in line and "0 ready" in line for line in house.announced)


def test_of_one_that_was_removed(house: Any, serve: Any) -> None:
    server, other = serve("a"), serve("b")
    house.write(server.url)
    house.up()
    slow = house.client().ask("/slow")
    house.wait(lambda: server.paths)
    house.write(other.url)
    house.takes()
    found = house.endpoints()[server.url]
    assert (found.state, found.cause, found.load) == ("removed", "requests under way finish", 1)
    assert found.since is not None
    assert pools(house)["web"].ready == 1
    server.let_go()
    slow.response()
    house.wait(lambda: list(house.endpoints()) == [other.url])


def test_the_lines_of_a_start(house: Any, serve: Any) -> None:
    house.write(serve().url, serve().url)
    house.up()
    lines = house.announced
    assert lines[0] == f"listener 127.0.0.1:{house.port} (http)"
    assert lines[1] == "pool web: 2 endpoints, round_robin"
    assert any(line.startswith(f"plugin selection (edge-router {version('edge-router')}): ") for line in lines)
    assert lines[-1].startswith("open files: ")


def test_while_it_ends_it_says_so(house: Any, serve: Any) -> None:
    server = serve()
    house.write(server.url)
    house.up()
    slow = house.client().ask("/slow")
    house.wait(lambda: server.paths)
    house.signal()
    house.wait(lambda: house.do(house.router.status).draining)
    server.let_go()
    assert slow.response()[0] == 200
