"""Change while serving: what a reload changes, what it keeps, what it refuses, and that no client notices."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from router import listening

#: Plugins that write down what becomes of them, and that do as their name says.
PLUGINS = """
import asyncio, contextlib, pathlib
import router

HERE = pathlib.Path(__file__).parent

def note(word):
    with (HERE / "log").open("a") as file:
        file.write(word + "\\n")

class Plugin:
    class Options(router.Options, frozen=True):
        x: int = 0

    def __init__(self, options, tools):
        self.x = options.x
        self.count = 0

    async def start(self, control):
        note(f"start {type(self).__name__} {self.x}")

    async def close(self):
        note(f"close {type(self).__name__} {self.x}")

class Watcher(Plugin):
    def request_started(self, exchange): pass
    def attempt_started(self, *args): pass
    def attempt_ended(self, *args): pass
    def request_ended(self, *args): pass
    def endpoint_changed(self, endpoint, cause): note(f"changed {endpoint.identity} {cause}")
    def table_swapped(self, version): note(f"table {version} {self.x}")

class Raises(Watcher):
    def request_started(self, exchange):
        note(f"raises {self.x}")
        raise RuntimeError("oh")

class FailsToStart(Watcher):
    async def start(self, control):
        raise RuntimeError("no database")

class Service(Plugin):
    @contextlib.asynccontextmanager
    async def serve(self, control):
        note(f"serving {self.x}")
        yield
        note(f"served {self.x}")

class FailsToServe(Service):
    def serve(self, control):
        raise RuntimeError("no database")

class Chooses(Plugin):
    def choose(self, candidates, exchange):
        self.count += 1
        return candidates[0]

class Marks(Plugin):
    def on_request(self, exchange): pass
    def on_response(self, exchange, headers):
        headers.append((b"X-Mark", str(self.x).encode()))

class Waits(Marks):
    async def on_request(self, exchange):
        while not (HERE / "go").exists():
            await asyncio.sleep(0.005)

class Counts(Plugin):
    def observe(self, endpoint, outcome, now):
        self.count += 1

class Gate(Plugin):
    '''A probe that fails where a file "down" stands, and waits while "shut" does.'''
    async def check(self, endpoint):
        note(f"probe {endpoint.identity} {self.x}")
        while (HERE / "shut").exists():
            await asyncio.sleep(0.005)
        if (HERE / "down").exists():
            raise RuntimeError("down it is")

class Finds(Plugin):
    '''A source that yields what stands in "found", a URL a line, or does what stands there.'''
    async def watch(self):
        before = None
        while True:
            try:
                text = (HERE / "found").read_text()
            except OSError:
                text = "hang"
            if text != before:
                before = text
                if text == "raise": raise RuntimeError("no registry")
                if text == "end": return
                if text == "junk": yield ["http://127.0.0.1:1"]
                elif text != "hang":
                    yield [router.EndpointSpec(url) for url in text.split()]
            await asyncio.sleep(0.01)
"""


@pytest.fixture
def kinds(house: Any) -> str:
    """The module of the plugins above."""
    return str(house.plugins(PLUGINS))


def pool_of(house: Any, name: str = "web") -> Any:
    return house.serving.table.pools[name]


def named(name: str, url: str, more: str = "") -> str:
    """Another pool with one server."""
    return f'[[pools]]\nname = "{name}"\nendpoints = ["{url}"]\n{more}\n'


def observer(kinds: str, kind: str = "Watcher", options: str = "") -> str:
    return f'[[observers]]\nuse = "{kinds}:{kind}"\n{options}\n'


# What is refused


FAULTY = {
    "syntax": "[[listeners]\n",
    "a key that nobody knows": '[server]\nhealt_path = "/up"\n',
    "half written": '[server]\n[[listeners]]\nbind = "127.0.0.1:1"\n[[routes]]\npool = "w',
    "empty": "",
    "no text": "\x00\x01",
    "a plugin that nobody knows": '[[observers]]\nuse = "nobody"\n',
}


@pytest.mark.parametrize("text", FAULTY.values(), ids=FAULTY)
def test_a_faulty_file_is_refused_in_the_words_of_check_and_changes_nothing(house: Any, serve: Any, text: str) -> None:
    from router.cli import main

    server = serve("old")
    house.write(server.url)
    house.up()
    client = house.client()
    assert client.get() == (200, b"old")
    house.text(text)
    done, said = house.reload()
    assert not done
    assert client.get() == house.get() == (200, b"old")
    assert server.accepted == 1
    config = house.status().config
    assert config.version == 1
    assert config.refused
    assert len(house.records("not taken")) == 1
    assert main(["check", str(house.file)]) != 0
    assert config.refused in said
    assert config.refused in house.records("not taken")[0]


def test_check_says_the_same(house: Any, serve: Any, capsys: Any) -> None:
    from router.cli import main

    house.write(serve().url)
    house.up()
    house.write(serve().url, server="healt_path = 1", pool='retry = { attempts = "many" }', more=named("b", "ftp://x"))
    assert not house.reload()[0]
    assert main(["check", str(house.file)]) != 0
    said = capsys.readouterr()
    refused = house.status().config.refused
    for line in filter(str.strip, refused.splitlines()):
        assert line in said.out + said.err


@pytest.mark.parametrize("how", ["deleted", "a folder", "unreadable", "a broken link"])
def test_a_file_that_cannot_be_read_is_refused(house: Any, serve: Any, how: str, monkeypatch: Any) -> None:
    house.write(serve("old").url)
    house.up()
    house.file.unlink()
    if how == "a folder":
        house.file.mkdir()
    elif how == "a broken link":
        house.file.symlink_to("nowhere")
    elif how == "unreadable":
        house.text("x")
        monkeypatch.setattr(Path, "read_bytes", lambda path: (_ for _ in ()).throw(PermissionError(13, "no")))
    done, said = house.reload()
    assert not done
    assert "router.toml" in said
    assert house.get() == (200, b"old")
    assert len(house.records("not taken")) == 1
    monkeypatch.undo()
    shutil.rmtree(house.file) if house.file.is_dir() else house.file.unlink(missing_ok=True)
    house.write(serve("new").url)
    house.takes()
    assert house.get() == (200, b"new")
    assert house.status().config.refused == ""


def test_an_address_that_is_in_use_leaves_no_new_socket_open(house: Any, serve: Any) -> None:
    server, other = serve("old"), serve("other")
    house.write(server.url)
    house.up()
    port = house.free_port()
    more = f'[[listeners]]\nbind = "127.0.0.1:{port}"\n[[listeners]]\nbind = "127.0.0.1:{other.port}"\n'
    house.write(server.url, more=more)
    done, said = house.reload()
    assert (done, f"cannot listen on 127.0.0.1:{other.port}" in said) == (False, True)
    assert not house.accepts(port)
    assert house.get() == (200, b"old")
    assert [each.name for each in house.status().listeners] == [f"127.0.0.1:{house.port}"]
    other.stop()
    house.takes()
    assert house.get(port=port) == house.get(port=other.port) == (200, b"old")


@pytest.mark.parametrize("what", ["observers", "services"])
def test_a_plugin_that_does_not_start_undoes_the_reload(house: Any, serve: Any, kinds: str, what: str) -> None:
    server = serve("old")
    house.write(server.url, more=observer(kinds))
    house.up()
    port = house.free_port()
    fails = f'[[{what}]]\nuse = "{kinds}:{"FailsToStart" if what == "observers" else "FailsToServe"}"\n'
    probed = named("new", server.url, f'probe = {{ use = "{kinds}:Gate", interval = "20ms" }}')
    house.write(
        serve("new").url,
        more=f'[[listeners]]\nbind = "127.0.0.1:{port}"\n{observer(kinds)}{observer(kinds, options="x = 7")}'
        f'[[services]]\nuse = "{kinds}:Service"\nx = 7\n{fails}{probed}',
    )
    done, said = house.reload()
    assert not done
    assert "no database" in said
    assert not house.accepts(port)
    assert house.get() == (200, b"old")
    noted = house.noted()
    assert noted.count("start Watcher 0") == noted.count("start Watcher 7") == noted.count("close Watcher 7") == 1
    assert noted.count("serving 7") == noted.count("served 7")
    assert "close Watcher 0" not in noted
    assert not any(word.startswith("probe") for word in noted)
    assert len(house.records("not taken")) == 1


def test_what_is_refused_can_be_corrected(house: Any, serve: Any) -> None:
    house.write(serve("old").url)
    house.up()
    house.text("[")
    for _ in range(3):
        assert not house.reload()[0]
    house.write(serve("new").url)
    house.takes()
    assert house.get() == (200, b"new")
    assert house.status().config.version == 2


# What stays


def test_nothing_is_different(house: Any, serve: Any) -> None:
    house.write(serve().url)
    house.up()
    table = house.serving.table
    house.text("# a comment\n" + house.file.read_text())
    done, said = house.reload()
    assert (done, said.startswith("nothing is different")) == (True, True)
    assert house.serving.table is table


def test_connections_counters_and_clients_outlive_changes_elsewhere(house: Any, serve: Any) -> None:
    server, other = serve("a"), serve("b")
    house.write(server.url)
    house.up()
    client = house.client()
    for number in range(10):
        assert client.get() == (200, b"a")
        house.write(server.url, server=f'health_path = "/{number}"', more=named(f"p{number}", other.url))
        house.takes()
    assert server.accepted == 1
    assert house.endpoints()[server.url].requests == 10
    assert house.status().config.version == 11


def test_settings_of_a_pool_change_and_its_endpoints_stay(house: Any, serve: Any) -> None:
    server = serve("a")
    house.write(server.url)
    house.up()
    client, slow = house.client(), house.client().ask("/slow")
    house.wait(lambda: server.paths)
    assert client.get() == (200, b"a")
    for pool in (
        'timeouts = { head = "7s" }',
        'retry = { attempts = 7 }\nwhen_few_ready = "refuse"',
        "limits = { in_flight_per_endpoint = 5 }",
        'slow_start = { window = "1s" }\nfew_ready = "50%"\nejection = { base = "1s" }',
        'selection = "least_request"',
    ):
        house.write(server.url, pool=pool) if "selection" not in pool else house.text(
            house.file.read_text().replace('selection = "round_robin"', pool)
        )
        house.takes()
        assert client.get() == (200, b"a")
        assert house.endpoints()[server.url].load == 1
    assert server.accepted == 2
    assert house.endpoints()[server.url].requests == 7
    server.let_go()
    assert slow.response()[0] == 200
    house.wait(lambda: house.endpoints()[server.url].load == 0)


def test_an_endpoint_that_is_down_or_ejected_stays_so(house: Any, serve: Any, kinds: str) -> None:
    good, bad = serve("good"), serve("bad")
    bad.stop()
    settings = 'detectors = ["consecutive"]\nejection = { base = "1h", max = "2h" }\n'
    house.write(good.url, bad.url, pool=settings)
    house.up()
    house.wait(lambda: house.get() and house.endpoints()[bad.url].state == "ejected")
    house.write(good.url, bad.url, pool=settings + "retry = { attempts = 3 }")
    house.takes()
    found = house.endpoints()[bad.url]
    assert (found.state, found.ejections) == ("ejected", 1)
    # A probe that is added takes nobody out.
    (house.folder / "shut").touch()
    house.write(good.url, bad.url, pool=settings + f'probe = {{ use = "{kinds}:Gate", interval = "20ms" }}')
    house.takes()
    assert {each.state for each in house.endpoints().values()} == {"ready", "ejected"}
    (house.folder / "down").touch()
    (house.folder / "shut").unlink()
    house.wait(lambda: {each.state for each in house.endpoints().values()} == {"down"})
    house.write(good.url, bad.url, pool=settings + f'probe = {{ use = "{kinds}:Gate", interval = "1h" }}')
    house.takes()
    assert {each.state for each in house.endpoints().values()} == {"down"}
    house.write(good.url, bad.url, pool=settings)
    house.takes()
    assert {each.state for each in house.endpoints().values()} == {"ready", "ejected"}


def test_an_object_is_kept_where_name_and_options_are_the_same(house: Any, serve: Any, kinds: str) -> None:
    server = serve()

    def write(x: int, more: str = "") -> None:
        plugins = f'[[services]]\nuse = "{kinds}:Service"\nx = 3\n{observer(kinds)}{more}'
        pool = f'detectors = [{{ use = "{kinds}:Counts", x = {x} }}]\nlimits = {{ in_flight = {50 + x} }}'
        house.write(server.url, pool=pool, more=plugins)
        chooses = f'selection = {{ use = "{kinds}:Chooses", x = 3 }}'
        house.text(house.file.read_text().replace('selection = "round_robin"', chooses))

    write(0)
    house.up()
    selector, detector = pool_of(house).selector, pool_of(house).detectors[0]
    for x, version in ((0, 2), (1, 3), (2, 4)):
        assert house.get()[0] == 200
        write(x, more=named(f"more{version}", server.url))
        house.takes()
    assert pool_of(house).selector is selector
    assert selector.count == 3
    assert pool_of(house).detectors[0] is not detector
    house.wait(lambda: house.noted().count("close Counts 1") == 1)
    noted = house.noted()
    assert noted.count("start Chooses 3") == noted.count("start Watcher 0") == noted.count("serving 3") == 1
    assert [word for word in noted if word.startswith("table")] == [f"table {n} 0" for n in (1, 2, 3, 4)]
    assert [noted.count(f"start Counts {x}") for x in range(3)] == [1, 1, 1]
    assert [noted.count(f"close Counts {x}") for x in range(3)] == [1, 1, 0]
    house.end()
    assert sorted(house.noted()[-5:])[:3] == ["close Chooses 3", "close Counts 2", "close Service 3"]


def test_an_old_object_closes_after_the_last_exchange_of_before(house: Any, serve: Any, kinds: str) -> None:
    server = serve()
    filters = f'filters = [{{ use = "{kinds}:Marks", x = 1 }}]'
    house.write(server.url, route=filters)
    house.up()
    stream = house.client().switch()
    slow = house.client().ask("/slow")
    house.wait(lambda: "/slow" in server.paths)
    house.write(server.url, route=filters.replace("x = 1", "x = 2"))
    house.takes()
    status, head, _ = house.client().ask().response()
    assert (status, b"\r\nX-Mark: 2\r\n" in head) == (200, True)
    server.let_go()
    status, head, _ = slow.response()
    assert (status, b"\r\nX-Mark: 1\r\n" in head) == (200, True)
    assert stream.echo() == b"ping!"
    house.write(server.url)
    house.takes()
    assert house.noted() == ["start Marks 1", "start Marks 2"]
    stream.sock.close()
    house.wait(lambda: sorted(house.noted()[2:]) == ["close Marks 1", "close Marks 2"], house.noted)


# Routes


def test_the_first_match_is_the_new_one_and_what_is_under_way_stays(house: Any, serve: Any) -> None:
    old, new = serve("old"), serve("new")
    house.write(old.url, more=named("new", new.url))
    house.up()
    client = house.client()
    slow, stream, socket = house.client().ask("/slow"), house.client().ask("/stream"), house.client().switch()
    stream.until(b"half")
    assert client.get("/a") == (200, b"old")
    text = house.file.read_text()
    house.text(
        text.replace('[[routes]]\npool = "web"', '[[routes]]\npath = "/a"\npool = "new"\n[[routes]]\npool = "web"')
    )
    house.takes()
    assert (client.get("/a"), client.get("/b")) == ((200, b"new"), (200, b"old"))
    house.text(text.replace('[[routes]]\npool = "web"', '[[routes]]\npool = "new"'))
    house.takes()
    assert (client.get("/a"), client.get("/b")) == ((200, b"new"), (200, b"new"))
    assert socket.echo() == b"ping!"
    old.let_go()
    assert slow.response()[2] == b"old"
    assert stream.until(b"0\r\n\r\n").endswith(b"4\r\nrest\r\n0\r\n\r\n")
    assert socket.echo() == b"ping!"


TEA = '[[routes]]\npath = "/x"\nanswer = { status = 418, body = "tea" }\n'


def test_a_route_with_a_limit_of_time_or_an_answer_of_its_own(house: Any, serve: Any) -> None:
    server = serve("old")
    house.write(server.url)
    house.up()
    client, slow = house.client(), house.client().ask("/slow")
    house.wait(lambda: server.paths)
    house.write(server.url, route='path = "/slow"\ntimeout = "100ms"', more=TEA)
    house.takes()
    assert client.get("/slow")[0] == 504
    # The one of before has no such limit.
    server.let_go()
    assert slow.response()[0] == 200
    assert client.get("/x") == (418, b"tea")


# Pools


def test_a_pool_that_is_removed_finishes_what_it_has_taken(house: Any, serve: Any) -> None:
    server, other = serve("old"), serve("new")
    house.write(server.url)
    house.up()
    slow, socket = house.client().ask("/slow"), house.client().switch()
    house.wait(lambda: "/slow" in server.paths)
    house.write(other.url)
    house.text(house.file.read_text().replace('"web"', '"other"'))
    house.takes()
    assert [pool.name for pool in house.status().pools] == ["other"]
    assert house.get() == (200, b"new")
    assert socket.echo() == b"ping!"
    server.let_go()
    assert slow.response()[2] == b"old"
    socket.sock.close()
    house.wait(lambda: not server._open)


def test_a_pool_that_is_removed_is_cut_after_drain_timeout(house: Any, serve: Any) -> None:
    server, other = serve("old"), serve("new")
    house.write(server.url, pool='drain_timeout = "100ms"')
    house.up()
    stream, socket, slow = house.client().ask("/stream"), house.client().switch(), house.client().ask("/slow")
    stream.until(b"half")
    house.wait(lambda: "/slow" in server.paths)
    house.write(other.url)
    house.text(house.file.read_text().replace('"web"', '"other"'))
    house.takes()
    assert b"0\r\n\r\n" not in stream.rest()
    assert socket.rest() == b""
    assert slow.response()[0] == 504
    house.wait(lambda: house.records("3 requests cut off"), house.records)
    assert house.get() == (200, b"new")


def test_a_new_pool_is_probed_before_anybody_is_sent_there(house: Any, serve: Any, kinds: str) -> None:
    server, well, ill = serve("old"), serve("well"), serve("ill")
    ill.stop()
    house.write(server.url)
    house.up()
    (house.folder / "shut").touch()
    house.write(server.url, more=named("new", well.url, f'probe = "{kinds}:Gate"'))
    house.text(house.file.read_text().replace('[[routes]]\npool = "web"', '[[routes]]\npool = "new"'))
    done = house.begin_reload()
    house.wait(lambda: f"probe {well.url} 0" in house.noted())
    assert house.get() == (200, b"old")
    (house.folder / "shut").unlink()
    assert done.result()[0]
    assert house.get() == (200, b"well")
    assert len(well.heads) == 1


def test_new_endpoints_of_a_probed_pool_are_probed_first(house: Any, serve: Any, kinds: str) -> None:
    old, new = serve("old"), serve("new")
    pool = f'when_few_ready = "refuse"\nprobe = "{kinds}:Gate"'
    house.write(old.url, pool=pool)
    house.up()
    (house.folder / "shut").touch()
    house.write(old.url, new.url, pool=pool)
    house.takes()
    assert house.endpoints()[new.url].state == "not probed yet"
    assert [house.get() for _ in range(4)] == [(200, b"old")] * 4
    (house.folder / "shut").unlink()
    house.wait(lambda: house.get() == (200, b"new"))
    # Those that leave serve until those that come in their place were asked.
    (house.folder / "shut").touch()
    last = serve("last")
    house.write(last.url, pool=pool)
    house.takes()
    assert {house.get()[1] for _ in range(4)} == {b"old", b"new"}
    (house.folder / "shut").unlink()
    house.wait(lambda: list(house.endpoints()) == [last.url])
    assert {house.get() for _ in range(4)} == {(200, b"last")}


def test_limits_retries_and_timeouts_hold_for_the_next_request(house: Any, serve: Any) -> None:
    server = serve("a")
    house.write(server.url)
    house.up()
    slow = house.client().ask("/slow")
    house.wait(lambda: server.paths)
    house.write(server.url, pool="limits = { in_flight = 1 }")
    house.takes()
    assert house.get()[0] == 503
    house.write(server.url, pool='timeouts = { head = "50ms" }\nretry = { attempts = 0 }')
    house.takes()
    assert house.get("/slow")[0] == 504
    assert server.paths == ["/slow", "/slow"]
    house.write(server.url, pool='timeouts = { head = "50ms" }\nretry = { attempts = 2, on = ["timeout"] }')
    house.takes()
    assert house.get("/slow")[0] == 504
    assert len(server.paths) == 5
    server.let_go()
    assert slow.response()[0] == 200


def test_the_queue_keeps_its_waiting_exchanges(house: Any, serve: Any) -> None:
    server = serve("a")
    limits = 'limits = { in_flight = 1, queue = 5, queue_timeout = "60s" }'
    house.write(server.url, pool=limits)
    house.up()
    slow = house.client().ask("/slow")
    house.wait(lambda: server.paths)
    waiting = [house.client().ask(f"/{number}") for number in range(3)]
    house.wait(lambda: house.status().pools[0].queue == 3)
    house.write(server.url, pool=limits + "\nretry = { attempts = 4 }", more=named("b", server.url))
    house.takes()
    assert house.status().pools[0].queue == 3
    server.let_go()
    assert [client.response()[0] for client in (slow, *waiting)] == [200] * 4
    assert server.paths == ["/slow", "/0", "/1", "/2"]


def test_adaptive_limits_and_budgets_go_on(house: Any, serve: Any) -> None:
    server = serve("a")
    limits = 'limits = { adaptive = "gradient" }'
    house.write(server.url, pool=limits)
    house.up()
    for _ in range(5):
        assert house.get()[0] == 200
    endpoint = pool_of(house).members[server.url]
    adaptive = pool_of(house)._adaptive[endpoint]
    house.write(server.url, pool=limits + "\nretry = { attempts = 4 }")
    house.takes()
    assert pool_of(house)._adaptive[endpoint] is adaptive


# Endpoints


def test_a_removed_endpoint_gets_nothing_new_and_finishes(house: Any, serve: Any) -> None:
    old, new = serve("old"), serve("new")
    house.write(old.url)
    house.up()
    slow, sized, socket = house.client().ask("/slow"), house.client().ask("/sized"), house.client().switch()
    sized.until(b"half")
    house.wait(lambda: len(old.paths) == 3)
    house.write(new.url)
    house.takes()
    assert [house.get()[1] for _ in range(4)] == [b"new"] * 4
    assert house.endpoints()[old.url].state == "removed"
    assert socket.echo() == b"ping!"
    old.let_go()
    assert (slow.response()[2], sized.until(b"rest")) == (b"old", b"rest")
    socket.sock.close()
    house.wait(lambda: list(house.endpoints()) == [new.url])
    house.wait(lambda: not old._open)
    assert len(old.paths) == 3


def test_what_outlasts_drain_timeout_is_broken_off_visibly(house: Any, serve: Any) -> None:
    old, new = serve("old"), serve("new")
    house.write(old.url, pool='drain_timeout = "100ms"')
    house.up()
    stream, sized, slow = (house.client().ask(path) for path in ("/stream", "/sized", "/slow"))
    stream.until(b"half"), sized.until(b"half")
    socket, one = house.client().switch(), house.client()
    one.sock.sendall(b"GET /stream HTTP/1.0\r\n\r\n")
    one.until(b"half")
    house.wait(lambda: len(old.paths) == 5)
    house.write(new.url, pool='drain_timeout = "100ms"')
    house.takes()
    assert b"0\r\n\r\n" not in stream.rest()
    assert sized.rest() == b""
    assert socket.rest() == b""
    assert slow.response()[0] == 504
    # Without any framing, nothing but a reset shows that there was more.
    with pytest.raises(ConnectionResetError):
        one.sock.recv(100)
    house.wait(lambda: list(house.endpoints()) == [new.url])
    assert house.records("5 requests cut off")
    assert house.do(lambda: pool_of(house).in_flight) == 0


def test_another_address_under_the_same_id_is_another_server(house: Any, serve: Any) -> None:
    old, new = serve("old"), serve("new")
    house.write(f'{{ id = "x", url = "{old.url}" }}')
    house.up()
    slow = house.client().ask("/slow")
    house.wait(lambda: old.paths)
    house.write(f'{{ id = "x", url = "{new.url}" }}')
    house.takes()
    assert house.get() == (200, b"new")
    assert house.do(lambda: pool_of(house).members["x"].requests) == 1
    old.let_go()
    assert slow.response()[2] == b"old"
    # The same address, written in another way, is the same server.
    house.write(f'{{ id = "x", url = "{new.url}/" }}')
    house.takes()
    assert house.do(lambda: pool_of(house).members["x"].requests) == 1


def test_weight_state_and_order_by_file(house: Any, serve: Any) -> None:
    a, b = serve("a"), serve("b")
    house.write(a.url, b.url)
    house.up()
    for _ in range(4):
        house.get()
    house.write(b.url, a.url)
    house.takes()
    assert list(house.endpoints()) == [b.url, a.url]
    house.write(f'{{ url = "{a.url}", weight = 0 }}', b.url)
    house.takes()
    assert {house.get()[1] for _ in range(6)} == {b"b"}
    house.write(f'{{ url = "{a.url}", weight = 5 }}', f'{{ url = "{b.url}", state = "drain" }}')
    house.takes()
    assert {house.get()[1] for _ in range(6)} == {b"a"}
    found = house.endpoints()
    assert (found[b.url].state, found[a.url].weight) == ("draining", 5)
    house.write(a.url, b.url)
    house.takes()
    assert {house.get()[1] for _ in range(6)} == {b"a", b"b"}
    # Not one of all these had to connect anew.
    assert a.accepted == b.accepted == 1
    assert sum(each.requests for each in house.endpoints().values()) == 22


# Listeners


def test_listeners_come_and_go_without_touching_the_others(
    house: Any, serve: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listening, "_GRACE", 1.5)
    server = serve("a")
    house.write(server.url)
    house.up()
    client, port, path = house.client(), house.free_port(), f"{tmp_path}/listener"
    client.get()
    house.write(server.url, more=f'[[listeners]]\nbind = "127.0.0.1:{port}"\n[[listeners]]\nbind = "unix:{path}"')
    house.takes()
    assert house.get(port=port) == house.client(path).get() == (200, b"a")
    idle, busy = house.client(("127.0.0.1", port)), house.client(("127.0.0.1", port)).ask("/slow")
    assert idle.get() == (200, b"a")
    house.wait(lambda: "/slow" in server.paths)
    house.write(server.url)
    house.takes()
    assert not house.accepts(port)
    assert not Path(path).exists()
    status, head, _ = idle.ask().response()
    assert (status, b"\r\nConnection: close\r\n" in head) == (200, True)
    assert idle.rest() == b""
    server.let_go()
    assert busy.response()[0] == 200
    assert client.get() == (200, b"a")
    house.wait(lambda: [each.name for each in house.status().listeners] == [f"127.0.0.1:{house.port}"])
    # And again.
    house.write(server.url, more=f'[[listeners]]\nbind = "unix:{path}"')
    house.takes()
    assert house.client(path).get() == (200, b"a")


def test_a_websocket_outlives_its_listener_until_shutdown_timeout(house: Any, serve: Any) -> None:
    server = serve("a")
    port = house.free_port()
    server_keys = 'shutdown_timeout = "300ms"'
    house.write(server.url, server=server_keys, more=f'[[listeners]]\nbind = "127.0.0.1:{port}"')
    house.up()
    stays, goes = house.client().switch(), house.client(("127.0.0.1", port)).switch()
    house.write(server.url, server=server_keys)
    house.takes()
    assert goes.echo() == b"ping!"
    assert goes.rest() == b""
    assert house.records(f"listener 127.0.0.1:{port} is gone: 1 cut off after 0.3 s")
    assert stays.echo() == b"ping!"


@pytest.mark.parametrize("back", [False, True])
def test_an_address_that_overlaps_the_one_before(house: Any, serve: Any, back: bool) -> None:
    server = serve("a")
    house.write(server.url)
    narrow = house.file.read_text()
    wide = narrow.replace(f'"127.0.0.1:{house.port}"', f'":{house.port}"')
    first, second = (narrow, wide) if back else (wide, narrow)
    house.text(first)
    house.up()
    client = house.client()
    assert client.get() == (200, b"a")
    house.text(second)
    house.takes()
    assert house.get() == client.get() == (200, b"a")
    house.text(first)
    house.takes()
    assert house.get() == (200, b"a")
    assert len(house.serving.listening.listeners) == 1


def test_other_limits_and_timeouts_of_a_listener(house: Any, serve: Any) -> None:
    server = serve("a")
    house.write(server.url)
    house.up()
    first, second = house.client(), house.client()
    assert first.get() == second.get() == (200, b"a")
    house.write(server.url, listener='max_connections = 3\ntimeouts = { idle = "100ms" }')
    house.takes()
    assert first.get() == (200, b"a")
    assert first.rest() == b"", "idle for so long"
    second.sock.close()
    house.wait(lambda: house.status().listeners[0].connections == 0)
    house.write(server.url, listener="max_connections = 1")
    house.takes()
    third = house.client()
    assert third.get() == (200, b"a")
    house.wait(lambda: house.status().listeners[0].paused)
    fourth = house.client().ask()
    house.write(server.url, listener="max_connections = 9")
    house.takes()
    assert fourth.response()[0] == 200


# The process itself


def test_trusted_proxies_hold_for_connections_that_are_open(house: Any, serve: Any) -> None:
    server = serve("a")
    house.write(server.url)
    house.up()
    client = house.client()

    def seen() -> bytes:
        status, head = client.get("/echo", "X-Forwarded-For: 203.0.113.9")
        assert status == 200
        return bytes(head)

    assert b"X-Forwarded-For: 127.0.0.1" in seen()
    house.write(server.url, server='trusted_proxies = ["127.0.0.0/8"]\nforwarded = true')
    house.takes()
    assert b"X-Forwarded-For: 203.0.113.9, 127.0.0.1" in seen()
    assert b"Forwarded: for=203.0.113.9" in seen()
    house.write(server.url)
    house.takes()
    assert b"X-Forwarded-For: 127.0.0.1" in seen()
    assert b"203.0.113.9" not in seen()


def test_the_largest_head_and_the_path_of_health(house: Any, serve: Any) -> None:
    house.write(serve("a").url, server='health_path = "/up"')
    house.up()
    client, long = house.client(), f"X-Long: {'x' * 3000}"
    assert client.get("/", long) == (200, b"a")
    assert b'"ready":' in client.get("/up")[1].replace(b" ", b"")
    house.write(serve("b").url, server='health_path = "/down"\nmax_header_bytes = "2KiB"')
    house.takes()
    assert client.get("/up") == (200, b"b")
    assert b'"ready":' in client.get("/down")[1].replace(b" ", b"")
    assert client.get("/", long)[0] == 431
    assert house.client().get("/", long)[0] == 431


def test_the_last_shutdown_timeout_counts(house: Any, serve: Any) -> None:
    server = serve("a")
    house.write(server.url, server='shutdown_timeout = "1h"')
    house.up()
    slow = house.client().ask("/slow")
    house.wait(lambda: server.paths)
    house.write(server.url, server='shutdown_timeout = "100ms"')
    house.takes()
    house.signal()
    assert slow.rest() == b""
    house.wait(lambda: not house.is_alive)
    assert house.code == 1


def test_the_control_socket_moves(house: Any, serve: Any) -> None:
    from router.status import AskReload

    house.write(serve("a").url)
    house.up()
    text = house.file.read_text()
    house.text(text.replace('control = "control"', 'control = "elsewhere"'))
    answer = house.ask(AskReload())
    assert answer.ok, answer
    assert not (house.folder / "control").exists()
    assert house.ask(AskReload(), "elsewhere").ok
    house.text(text.replace('control = "control"', ""))
    assert house.ask(AskReload(), "elsewhere").ok
    assert not (house.folder / "elsewhere").exists()
    house.text(text)
    house.takes()
    assert house.status().config.version == 4


# Asking for it


def test_many_who_ask_at_once_are_answered_together_and_the_last_state_wins(house: Any, serve: Any, kinds: str) -> None:
    server, last = serve("old"), serve("last")
    house.write(server.url)
    house.up()
    (house.folder / "shut").touch()
    house.write(server.url, more=named("new", server.url, f'probe = "{kinds}:Gate"'))
    first = house.begin_reload()
    house.wait(lambda: house.noted())
    asked = []
    for number in range(50):
        house.write(server.url, server=f'health_path = "/{number}"')
        asked.append(house.begin_reload())
    house.write(last.url)
    house.signal(signal.SIGHUP)
    assert not any(each.done() for each in (first, *asked))
    (house.folder / "shut").unlink()
    assert first.result(15) == (True, "configuration 2 is in force")
    assert {each.result(15) for each in asked} == {(True, "configuration 3 is in force")}
    assert house.get() == (200, b"last")


def test_a_signal_during_a_reload_that_waits_ends_the_process(house: Any, serve: Any, kinds: str) -> None:
    server = serve("a")
    house.write(server.url, more=observer(kinds))
    house.up()
    (house.folder / "shut").touch()
    more = observer(kinds) + observer(kinds, options="x = 1") + named("new", server.url, f'probe = "{kinds}:Gate"')
    house.write(server.url, more=more)
    house.begin_reload()
    house.wait(lambda: f"probe {server.url} 0" in house.noted())
    house.signal()
    house.wait(lambda: not house.is_alive)
    assert house.code == 0
    noted = house.noted()
    assert [noted.count(f"start Watcher {x}") for x in (0, 1)] == [noted.count(f"close Watcher {x}") for x in (0, 1)]
    assert not any(word.startswith("table 2") for word in noted)


# Observers


def test_observers_see_swaps_and_changes_and_muted_ones_stay_muted(house: Any, serve: Any, kinds: str) -> None:
    a, b = serve("a"), serve("b")
    house.write(a.url, b.url, more=observer(kinds) + observer(kinds, "Raises"))
    house.up()
    house.get(), house.get()
    assert list(house.status().muted) == [f"{kinds}:Raises"]
    house.write(f'{{ url = "{a.url}", state = "drain" }}', b.url, more=observer(kinds) + observer(kinds, "Raises"))
    house.takes()
    house.get()
    house.write(a.url, b.url, more=observer(kinds, "Raises") + observer(kinds) + observer(kinds, options="x = 1"))
    house.takes()
    house.get()
    noted = house.noted()
    assert noted.count("raises 0") == 1
    assert list(house.status().muted) == [f"{kinds}:Raises"]
    assert [word for word in noted if word.startswith("changed")] == [
        f"changed {a.url} draining",
        f"changed {a.url} up again",
    ]
    tables = [word for word in noted if word.startswith("table")]
    assert tables == ["table 1 0", "table 1 0", "table 2 0", "table 3 0", "table 3 1"]
    house.write(a.url, b.url, more=observer(kinds, "Raises", "x = 2"))
    house.takes()
    house.get()
    assert house.noted().count("raises 2") == 1


# Discovery


def test_static_and_discovered_endpoints_mix(house: Any, serve: Any, kinds: str) -> None:
    a, b, c = serve("a"), serve("b"), serve("c")
    house.text(f"{a.url} {b.url}", "found")
    pool = f'discovery = "{kinds}:Finds"'
    house.write(a.url, pool=pool)
    house.up()
    assert {name: each.source for name, each in house.endpoints().items()} == {
        a.url: "configuration",
        b.url: f"{kinds}:Finds",
    }
    house.text(c.url, "found")
    house.wait(lambda: set(house.endpoints()) == {a.url, c.url})
    assert {house.get()[1] for _ in range(4)} == {b"a", b"c"}
    # The source stays the same object, and is not asked again, where its options are the same.
    house.write(b.url, pool=pool)
    house.takes()
    assert set(house.endpoints()) == {b.url, c.url}
    assert house.noted() == ["start Finds 0"]
    # Other options: what was found stays until the new one has found something.
    house.text("hang", "found")
    house.write(b.url, pool=f'discovery = {{ use = "{kinds}:Finds", x = 1 }}')
    house.takes()
    assert set(house.endpoints()) == {b.url, c.url}
    assert house.status().pools[0].discovery_state == "no answer yet"
    house.text(a.url, "found")
    house.wait(lambda: set(house.endpoints()) == {a.url, b.url})
    house.write(b.url)
    house.takes()
    assert set(house.endpoints()) == {b.url}
    house.wait(lambda: house.noted()[-1] == "close Finds 1")


@pytest.mark.parametrize("what", ["raise", "end", "junk", "hang", "http://127.0.0.1:1 http://127.0.0.1:1/", "x://y"])
def test_a_source_that_fails_keeps_the_last_good_set(house: Any, serve: Any, kinds: str, what: str) -> None:
    server, other = serve("a"), serve("b")
    house.text(server.url, "found")
    house.write(pool=f'discovery = "{kinds}:Finds"')
    house.up()
    assert house.get() == (200, b"a")
    house.text(what, "found")
    if what != "hang":
        house.wait(lambda: house.status().pools[0].discovery_state != "ok")
        assert len(house.records("the last good endpoints stay")) == 1
    assert house.get() == (200, b"a")
    house.write(pool=f'discovery = "{kinds}:Finds"\nretry = {{ attempts = 4 }}')
    house.takes()
    assert house.get() == (200, b"a")
    house.text(other.url, "found")
    house.wait(lambda: house.get() == (200, b"b"))
    assert house.status().pools[0].discovery_state == "ok"


def test_a_new_pool_waits_for_its_discovery(house: Any, serve: Any, kinds: str) -> None:
    server, other = serve("old"), serve("new")
    house.write(server.url)
    house.up()
    house.write(pool=f'discovery = "{kinds}:Finds"')
    house.text(house.file.read_text().replace('"web"', '"other"'))
    done = house.begin_reload()
    house.wait(lambda: "start Finds 0" in house.noted())
    assert house.get() == (200, b"old")
    house.text(other.url, "found")
    assert done.result(15)[0]
    assert house.get() == (200, b"new")


# Real processes


def test_signals_commands_and_saved_files_reload_a_process(process: Any, serve: Any) -> None:
    servers = [serve(str(number)) for number in range(4)]
    running = process()
    running.write(servers[0].url)
    running.up()
    socket = running.client().switch()
    assert running.get() == (200, b"0")
    running.write(servers[1].url)
    running.says("the file has changed: configuration 2 is in force")
    assert running.get() == (200, b"1")
    running.text("[[")
    running.says("the file has changed: not taken, configuration 2 stays in force")
    running.signal(signal.SIGHUP)
    running.says("SIGHUP: not taken, configuration 2 stays in force")
    refused = running.run("reload", "--control", str(running.folder / "control"))
    assert refused.returncode == 1
    assert "router.toml:1:" in refused.stderr
    checked = running.run("check", str(running.file))
    fault = next(line for line in checked.stdout.splitlines() + checked.stderr.splitlines() if "router.toml:1:" in line)
    assert running.said().count(fault.partition("router.toml")[2]) == 3
    assert running.get() == (200, b"1")
    running.write(servers[2].url)
    running.says("configuration 3 is in force")
    assert running.get() == (200, b"2")
    assert socket.echo() == b"ping!"
    assert running.end() in (0, 1)


def test_without_watching_only_who_asks_is_heard(process: Any, serve: Any) -> None:
    first, second = serve("a"), serve("b")
    running = process("--no-watch")
    running.write(first.url)
    running.up()
    running.write(second.url)
    assert running.get() == (200, b"a")
    asked = running.run("reload", "-f", str(running.file))
    assert (asked.returncode, "configuration 2 is in force" in asked.stdout + asked.stderr) == (0, True)
    assert running.get() == (200, b"b")
    assert "the file has changed" not in running.said()
    assert running.end() == 0


def test_where_there_is_no_file_a_signal_says_so(process: Any, serve: Any) -> None:
    port = process().free_port()
    running = process("--listen", f"127.0.0.1:{port}", serve("a").url, command="proxy")
    running.up()
    for times in (1, 2):
        running.signal(signal.SIGHUP)
        running.says("SIGHUP: nothing to read again", times)
    assert running.get(port=port) == (200, b"a")
    assert running.end() == 0
