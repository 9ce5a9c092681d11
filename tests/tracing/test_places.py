"""Where routes are written: the same as the scanner of whole files says, found before any request asks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from router import prepare as prepare_module
from router.config import Config, ListenerConfig, PoolConfig, RouteConfig
from router.model import EndpointSpec
from router.prepare import Prepared, prepare, prepare_file

POOL = '[[pools]]\nname = "web"\nendpoints = ["http://127.0.0.1:1"]\n'
LISTENER = '[[listeners]]\nbind = "127.0.0.1:8080"\n'
ROUTE = '[[routes]]\nname = "{}"\npath = "/{}"\npool = "web"\n'
TWO = ROUTE.format("a", "a") + "\n" + ROUTE.format("b", "b")
ANSWER = '[[routes]]\npath = "/x"\nanswer = {{ body = {} }}\n'
INLINE = 'routes = [\n  { path = "/a", pool = "web" },\n  { pool = "web" },\n]\n'


def prepared(folder: Path, text: str, name: str = "router.toml") -> Prepared:
    file = folder / name
    file.write_bytes(text.encode())
    return prepare_file(file)


def places(made: Prepared) -> list[str]:
    table = made.table(1, 0.0)
    return [table.place_of(route) for route in table.routes.routes]


@pytest.mark.parametrize(
    "text",
    [
        LISTENER + TWO + POOL,
        LISTENER + POOL + "\n\n# [[routes]]\n" + TWO,
        (LISTENER + POOL + TWO).replace("\n", "\r\n"),
        LISTENER + POOL + TWO.replace("[[routes]]", "\t [[ routes\t]] # [[routes]]"),
        LISTENER + POOL + TWO.replace("[[routes]]", '[["routes"]]', 1),
        LISTENER + POOL + TWO.replace("[[routes]]", "[['routes']]"),
        LISTENER + POOL + TWO + "[routes.rewrite]\nstrip_prefix = '/b'\n",
        LISTENER + POOL + ANSWER.format('"""\n[[routes]]\n"""') + TWO,
        LISTENER + POOL + ANSWER.format("'''\n[[routes]]\n'''") + TWO.replace("[[routes]]", '[["routes"]]', 1),
        LISTENER + POOL + ANSWER.format('"[[routes]]\\n[[routes]]"') + TWO,
        INLINE + LISTENER + POOL,
    ],
)
def test_each_route_is_found_where_the_whole_file_has_it(tmp_path: Path, text: str) -> None:
    made = prepared(tmp_path, text)
    assert made.source is not None
    count = len(made.config.routes)
    lines = [made.source.positions.key(("routes", index))[0] for index in range(count)]
    assert len(set(lines)) == count >= 2
    assert places(made) == [f"{made.source.name}:{line}" for line in lines]


def test_a_file_of_another_format_tells_too(tmp_path: Path) -> None:
    data = {
        "listeners": [{"bind": "127.0.0.1:8080"}],
        "pools": [{"name": "web", "endpoints": ["http://127.0.0.1:1"]}],
        "routes": [{"path": "/a", "pool": "web"}, {"pool": "web"}],
    }
    text = json.dumps(data, indent=1)
    made = prepared(tmp_path, text, "router.json")
    found = [int(place.rpartition(":")[2]) for place in places(made)]
    lines = text.split("\n")
    assert [lines[line - 1].strip() for line in found] == ["{", "{"]
    assert '"path"' in lines[found[0]]
    assert '"pool"' in lines[found[1]]


def test_the_headers_are_enough_for_a_large_file(tmp_path: Path) -> None:
    made = prepared(tmp_path, LISTENER + POOL + TWO)
    assert len(places(made)) == 2
    assert made.source is not None
    assert made.source._positions is None


@pytest.mark.parametrize(
    ("more", "found"),
    [
        ("", 0),
        ('[server]\ntrusted_proxies = ["127.0.0.2"]\n', 1),
        ('[[observers]]\nuse = "tracing"\nexport = "none"\n', 1),
    ],
)
def test_they_are_looked_for_before_a_request_that_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: str, found: int
) -> None:
    calls, work = [], prepare_module._lines_of_routes

    def counted(*arguments: Any) -> list[int]:
        calls.append(1)
        return work(*arguments)

    monkeypatch.setattr(prepare_module, "_lines_of_routes", counted)
    made = prepared(tmp_path, LISTENER + POOL + TWO + more)
    assert not calls
    table = made.table(1, 0.0)
    assert len(calls) == found
    for route in table.routes.routes * 2:
        assert table.place_of(route).startswith(str(tmp_path))
    assert len(calls) == 1


def test_a_reload_that_moves_lines_alone_moves_the_places(tmp_path: Path) -> None:
    made = prepared(tmp_path, LISTENER + POOL + TWO)
    table = made.table(1, 0.0)
    first = table.routes.routes[0]
    before = int(table.place_of(first).rpartition(":")[2])
    made.source = prepared(tmp_path, "# One line more.\n" + LISTENER + POOL + TWO).source
    assert table.place_of(first).endswith(f":{before + 1}")


def test_what_was_never_written_down_has_no_place() -> None:
    pool = PoolConfig("web", (EndpointSpec("http://127.0.0.1:1"),))
    config = Config(listeners=(ListenerConfig("127.0.0.1:8080"),), routes=(RouteConfig("web"),), pools=(pool,))
    assert places(prepare(config, None, Path())) == [""]
