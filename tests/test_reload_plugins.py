"""Reloads with plugins that misbehave, and changes that must be felt by nobody: found by breaking a running router."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import router.app
import router.lives

PLUGINS = """
import asyncio, contextlib, pathlib, sys
import router

HERE = pathlib.Path(__file__).parent

def note(word):
    with (HERE / "log").open("a") as file:
        file.write(word + "\\n")

class Watcher:
    class Options(router.Options, frozen=True):
        x: int = 0
    def __init__(self, options, tools): self.x = getattr(options, "x", 0)
    async def start(self, control): note(f"start {self.x}")
    async def close(self): note(f"close {self.x}")
    def request_started(self, exchange): return None
    def attempt_started(self, *given): pass
    def attempt_ended(self, *given): pass
    def request_ended(self, *given): pass
    def endpoint_changed(self, *given): pass
    def table_swapped(self, version): pass

class StartExits(Watcher):
    async def start(self, control): sys.exit("no database")

class StartCancels(Watcher):
    async def start(self, control): raise asyncio.CancelledError

class StartHangs(Watcher):
    async def start(self, control): await asyncio.sleep(3600)

class CloseExits(Watcher):
    async def close(self): sys.exit("bye")

class CloseStays(Watcher):
    async def close(self):
        while True:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                note("cancelled")

class Raises(Watcher):
    def request_started(self, exchange):
        if self.x == 1:
            raise RuntimeError("oh")

class Slow:
    def __init__(self, options, tools): pass
    async def check(self, endpoint): await asyncio.sleep(0.3)

class Judge:
    asked = 0
    def __init__(self, options, tools): pass
    def observe(self, endpoint, outcome, now):
        Judge.asked += 1
        raise RuntimeError("oh")

class LosesCancel:
    def __init__(self, options, tools): self.times = 0
    async def watch(self):
        self.times += 1
        if self.times == 1:
            raise asyncio.CancelledError
        yield [router.EndpointSpec((HERE / "url").read_text())]
        await asyncio.sleep(3600)
"""


@pytest.fixture
def plug(house: Any) -> str:
    """The module of the plugins above."""
    return str(house.plugins(PLUGINS))


def observers(plug: str, *names: str) -> str:
    return "\n".join(f'[[observers]]\nuse = "{plug}:{name}"' for name in names)


@pytest.mark.parametrize("kind", ["StartExits", "StartCancels"])
def test_whatever_a_start_raises_the_reload_is_undone(
    house: Any, serve: Callable[..., Any], plug: str, kind: str
) -> None:
    one = serve("a")
    house.write(one.url)
    house.up()
    house.write(one.url, more=observers(plug, "Watcher", kind))
    done, text = house.reload()
    assert not done
    assert "did not start" in text
    assert house.noted()[-1] == "close 0"
    assert house.get() == (200, b"a")


def test_a_start_that_hangs_is_given_up(house: Any, serve: Callable[..., Any], plug: str, monkeypatch: Any) -> None:
    monkeypatch.setattr(router.lives, "_STARTING", 0.2)
    one = serve("a")
    house.write(one.url)
    house.up()
    house.write(one.url, more=observers(plug, "StartHangs"))
    done, text = house.reload()
    assert (done, "not done within 0.2 s" in text) == (False, True)


@pytest.mark.parametrize("kind", ["CloseExits", "CloseStays"])
def test_whatever_a_close_does_the_next_one_closes_too(
    house: Any, serve: Callable[..., Any], plug: str, kind: str, monkeypatch: Any
) -> None:
    monkeypatch.setattr(router.lives, "_CLOSING", 0.2)
    monkeypatch.setattr(router.app, "_CLOSING", 0.2)
    one = serve("a")
    house.write(one.url, more=observers(plug, kind))
    house.up()
    house.write(one.url, more=observers(plug, "Watcher"))
    assert house.reload()[0]
    house.write(one.url)
    assert house.reload()[0]
    house.wait(lambda: "close 0" in house.noted())
    assert house.get() == (200, b"a")


def test_an_observer_is_muted_as_long_as_it_is_the_same(house: Any, serve: Callable[..., Any], plug: str) -> None:
    one = serve("a")
    muted = observers(plug, "Raises") + "\nx = 1"
    house.write(one.url, more=muted)
    house.up()
    house.get()
    assert house.status().muted
    house.write(one.url, pool='drain_timeout = "3s"', more=muted)
    assert house.reload()[0]
    assert house.status().muted
    house.write(one.url, more=observers(plug, "Raises") + "\nx = 2")
    assert house.reload()[0]
    assert not house.status().muted


def test_a_detector_is_muted_as_long_as_it_is_the_same(house: Any, serve: Callable[..., Any], plug: str) -> None:
    one = serve("a")
    house.write(one.url)
    house.text(house.file.read_text().replace("detectors = []", f'detectors = ["{plug}:Judge"]'))
    house.up()

    def asked() -> int:
        return int(house.do(lambda: house.serving.staged.prepared.parts["web"].detectors[0].asked))

    house.get()
    assert asked() == 1
    house.text(house.file.read_text() + "retry = { attempts = 5 }\n")
    assert house.reload()[0]
    house.get()
    assert asked() == 1


def test_a_source_that_cancels_itself_is_asked_again(house: Any, serve: Callable[..., Any], plug: str) -> None:
    one, two = serve("a"), serve("b")
    (house.folder / "url").write_text(two.url)
    house.write(one.url, pool=f'discovery = "{plug}:LosesCancel"')
    house.up()
    house.wait(lambda: two.url in house.endpoints())


# Nobody is sent to a server that nobody has asked


def nobody_is_refused(house: Any, done: Any) -> None:
    seen = []
    while not done.done():
        seen.append(house.get())
    seen += [house.get() for _ in range(20)]
    assert {status for status, _ in seen} == {200}


def refusing(plug: str) -> str:
    return f'when_few_ready = "refuse"\nprobe = "{plug}:Slow"'


def test_a_server_that_drains_serves_until_the_new_one_was_asked(
    house: Any, serve: Callable[..., Any], plug: str
) -> None:
    one, two = serve("a"), serve("b")
    house.write(one.url, pool=refusing(plug))
    house.up()
    house.write(f'{{ url = "{one.url}", state = "drain" }}', two.url, pool=refusing(plug))
    nobody_is_refused(house, house.begin_reload())
    house.wait(lambda: house.get() == (200, b"b"))


def test_a_second_reload_keeps_the_handover(house: Any, serve: Callable[..., Any], plug: str) -> None:
    one, two = serve("a"), serve("b")
    house.write(one.url, pool=refusing(plug))
    house.up()
    house.write(two.url, pool=refusing(plug))
    assert house.reload()[0]
    house.write(two.url, pool=refusing(plug) + '\ndrain_timeout = "7s"')
    nobody_is_refused(house, house.begin_reload())
    house.wait(lambda: list(house.endpoints()) == [two.url])


def test_a_new_probe_and_new_servers_at_once(house: Any, serve: Callable[..., Any], plug: str) -> None:
    one, two = serve("a"), serve("b")
    house.write(one.url, pool='when_few_ready = "refuse"')
    house.up()
    house.write(two.url, pool=refusing(plug))
    nobody_is_refused(house, house.begin_reload())


# What is changed is felt at once


def test_a_raised_limit_lets_those_go_on_who_wait(house: Any, serve: Callable[..., Any]) -> None:
    one = serve("a")

    def limits(most: int) -> str:
        return f'limits = {{ in_flight = {most}, queue = 5, queue_timeout = "10s" }}'

    house.write(one.url, pool=limits(1))
    house.up()
    house.client().ask("/slow")
    house.wait(lambda: one.paths)
    waiting = house.client().ask("/queued")
    house.wait(lambda: house.status().pool("web").queue == 1)
    house.write(one.url, pool=limits(10))
    assert house.reload()[0]
    assert waiting.response()[0] == 200


def test_fewer_fields_are_allowed_on_connections_that_are_open(house: Any, serve: Callable[..., Any]) -> None:
    one = serve("a")
    house.write(one.url)
    house.up()
    client = house.client()
    fields = [f"X-{number}: 1" for number in range(10)]
    assert {client.get("/", *fields)[0] for _ in range(150)} == {200}
    house.write(one.url, server="max_headers = 5")
    assert house.reload()[0]
    assert client.get("/", *fields)[0] == 431
