"""Filters and affinity around an exchange: order, first answer, faults."""

from __future__ import annotations

from typing import Any

import pytest

from router.errors import InternalError
from router.model import Endpoint, Exchange, Response
from router.net.filtering import run_filters


class Plugin:
    def __init__(self, name: str, log: list[str], answer: Any = None) -> None:
        self.name, self.log, self.answer = name, log, answer

    def on_request(self, exchange: Exchange) -> Any:
        self.log.append(self.name)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def on_response(self, exchange: Exchange, headers: list[tuple[bytes, bytes]]) -> None:
        headers.append((b"X-By", self.name.encode()))


class Later(Plugin):
    async def on_request(self, exchange: Exchange) -> Any:
        return super().on_request(exchange)


async def test_all_are_asked_in_order() -> None:
    log: list[str] = []
    assert await run_filters([Plugin("a", log), Later("b", log), Plugin("c", log)], Exchange("GET", "/")) is None
    assert log == ["a", "b", "c"]


async def test_the_first_answer_ends_it() -> None:
    log: list[str] = []
    answer = Response(403)
    filters = [Plugin("a", log), Later("b", log, answer), Plugin("c", log, Response(200))]
    assert await run_filters(filters, Exchange("GET", "/")) is answer
    assert log == ["a", "b"]


async def test_a_fault_is_an_internal_error_that_names_the_plugin(caplog: Any) -> None:
    log: list[str] = []
    error = await run_filters([Later("a", log, RuntimeError("why")), Plugin("b", log)], Exchange("GET", "/", id="r1"))
    assert isinstance(error, InternalError)
    assert "Later" in error.detail
    assert log == ["a"]
    assert "Later" in caplog.text
    assert "r1" in caplog.text


async def test_an_answer_that_is_no_response_is_a_fault_too() -> None:
    result = await run_filters([Plugin("a", [], "hello")], Exchange("GET", "/"))
    assert isinstance(result, InternalError)


async def relayed(world: Any, *filters: Any, affinity: Any = None) -> tuple[Any, Any]:
    """A response that went through these plugins, and the router."""

    async def script(peer: Any) -> None:
        await peer.request()
        peer.answer(b"ok", "A: 1", "A: two words ")
        await peer.gone()

    house = await world.router(await world.upstream(script), filters=filters, affinity=affinity)
    return await (await world.client(house)).get(), house


class Marks:
    def __init__(self, *fields: tuple[bytes, bytes]) -> None:
        self.fields = fields

    def find(self, members: Any, exchange: Exchange) -> None:
        return None

    def remember(self, endpoint: Endpoint, exchange: Exchange, headers: list[tuple[bytes, bytes]]) -> None:
        headers.append((b"X-At", endpoint.identity.encode()))
        headers.extend(self.fields)


async def test_responses_go_back_through_the_filters(world: Any) -> None:
    response, house = await relayed(world, Plugin("outer", []), Plugin("inner", []))
    assert response.all("X-By") == ["inner", "outer"]
    assert response.all("A") == ["1", "two words"]
    assert house.muted == []


async def test_a_filter_that_fails_on_the_way_back_does_not_stop_the_others(world: Any) -> None:
    class Bad(Plugin):
        def on_response(self, exchange: Exchange, headers: list[tuple[bytes, bytes]]) -> None:
            raise RuntimeError

    bad = Bad("bad", [])
    response, house = await relayed(world, Plugin("outer", []), bad)
    assert (response.body, response.all("X-By")) == (b"ok", ["outer"])
    assert [plugin for plugin, _ in house.muted] == [bad]


async def test_affinity_comes_first_and_knows_the_endpoint(world: Any) -> None:
    response, house = await relayed(world, Plugin("f", []), affinity=Marks())
    assert response.get("X-At") == house.endpoints[0].identity
    assert response.names.index("X-At") < response.names.index("X-By")


@pytest.mark.parametrize("value", [b"a\r\nSet-Cookie: evil=1", b"a\nSet-Cookie: evil=1", b"a\0b"])
async def test_a_plugins_field_cannot_split_the_response(world: Any, value: bytes) -> None:
    response, _ = await relayed(world, affinity=Marks((b"X-Bad", value)))
    assert response.get("Set-Cookie") is None
    assert b"\0" not in response.raw
    assert response.body == b"ok"


@pytest.mark.parametrize("field", [(b"Content-Length", b"1"), (b"Transfer-Encoding", b"chunked")])
async def test_a_plugin_cannot_change_the_framing(world: Any, field: tuple[bytes, bytes]) -> None:
    response, _ = await relayed(world, affinity=Marks(field))
    assert response.all("Content-Length") == ["2"]
    assert response.all("Transfer-Encoding") == []
