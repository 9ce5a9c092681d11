"""The response as a client sees it: the endpoint's own bytes, and what the router adds."""

from __future__ import annotations

import asyncio
import re
from email.utils import parsedate_to_datetime
from typing import Any

import pytest


async def answered(world: Any, *lines: str, status: str = "200 OK", ask: tuple[str, ...] = ()) -> Any:
    async def script(peer: Any) -> None:
        while True:
            await peer.request()
            peer.answer(b"ok", *lines, status=status)

    client = await world.client(await world.router(await world.upstream(script)))
    return await client.get("/", *ask)


async def test_order_case_and_duplicates_of_fields_stay(world: Any) -> None:
    lines = ("set-COOKIE: a=1", "X-B: 1", "Set-Cookie: b=2", "x-b: 2", "Set-Cookie: a=1")
    response = await answered(world, *lines)
    assert response.fields[1:6] == [tuple(line.split(": ")) for line in lines]


async def test_values_keep_their_bytes(world: Any) -> None:
    response = await answered(world, "X-Eight: caf\xe9 \xff", "X-Empty:")
    assert b"X-Eight: caf\xe9 \xff\r\n" in response.raw
    assert response.get("X-Empty") == ""


async def test_date_is_added_only_if_it_is_missing(world: Any) -> None:
    given = "Tue, 15 Nov 1994 08:12:31 GMT"
    assert (await answered(world, f"Date: {given}")).get("Date") == given
    assert parsedate_to_datetime((await answered(world)).get("Date")).year > 2000


async def test_nothing_is_invented(world: Any) -> None:
    response = await answered(world)
    assert sorted(response.names) == ["Content-Length", "Date", "Via", "X-Request-ID"]


@pytest.mark.parametrize("status", ["201 Created", "299 Odd Name", "404 Not Found", "200 ", "500 caf\xe9"])
async def test_status_and_reason_stay(world: Any, status: str) -> None:
    assert (await answered(world, status=status)).first == f"HTTP/1.1 {status}"


async def test_hop_by_hop_fields_end_here(world: Any) -> None:
    response = await answered(
        world, "Connection: keep-alive, X-Listed", "X-Listed: 1", "Keep-Alive: timeout=5", "Trailer: x", "Upgrade: h2c"
    )
    assert not {"Connection", "X-Listed", "Keep-Alive", "Trailer", "Upgrade"} & set(response.names)


async def test_the_request_id_is_told_to_the_client(world: Any) -> None:
    assert (await answered(world, ask=("X-Request-ID: mine",))).get("X-Request-ID") == "mine"
    assert (await answered(world, "X-Request-ID: its-own")).get("X-Request-ID") == "its-own"


async def test_via_is_added_to_what_was_there(world: Any) -> None:
    assert (await answered(world, "Via: 1.1 cache")).all("Via") == ["1.1 cache", "1.1 router"]


# The router's own answers

FORMS = {
    "application/json": "application/json",
    "application/problem+json": "application/json",
    "text/html,application/xhtml+xml;q=0.9,*/*;q=0.8": "text/html",
    "*/*": "text/plain",
    "": "text/plain",
}


@pytest.mark.parametrize(("accept", "media"), FORMS.items())
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_errors_come_in_the_form_that_the_client_prefers(
    world: Any, accept: str, media: str, method: str
) -> None:
    house = await world.router("http://127.0.0.1:1")
    client = await world.client(house)
    response = await client.get("/", *([f"Accept: {accept}"] if accept else []), method=method)
    assert response.status == 503
    assert response.get("Content-Type").split(";")[0] == media
    assert int(response.get("Content-Length")) > 0
    assert response.get("Date")
    if method == "HEAD":
        assert response.body == b""
        return
    text = response.body.decode()
    assert "connect_failed" in text
    assert response.get("X-Request-ID") in text
    for secret in ("127.0.0.1", "Traceback", "errno", "Errno", 'File "'):
        assert secret not in text


async def test_the_id_in_an_error_is_the_requests_own(world: Any) -> None:
    client = await world.client(await world.router(await world.upstream(), route={"path": "/x"}))
    response = await client.get("/y", "X-Request-ID: abc-123")
    assert response.get("X-Request-ID") == "abc-123"
    assert "abc-123" in response.body.decode()


async def test_nothing_of_the_request_is_quoted_in_an_error(world: Any) -> None:
    client = await world.client(await world.router(await world.upstream(), route={"path": "/x"}))
    response = await client.get("/<script>alert(1)</script>", "Accept: text/html", "X-Request-ID: <b>")
    assert response.status == 404
    assert not re.search(rb"<script|<b>", response.body)


# Draining and closing


async def test_close_is_granted(world: Any) -> None:
    upstream = await world.upstream()
    client = await world.client(await world.router(upstream))
    response = await client.get("/", "Connection: Close")
    assert (response.body, response.get("Connection")) == (b"ok", "close")
    assert await client.gone() == "closed"
    # That is between client and router: the endpoint's connection is kept.
    await asyncio.sleep(0.02)
    assert upstream.open == 1


async def test_a_large_response_before_a_close_arrives_whole(world: Any) -> None:
    async def script(peer: Any) -> None:
        await peer.request()
        peer.answer(b"z" * (8 << 20))
        await peer.gone()

    client = await world.client(await world.router(await world.upstream(script)))
    response = await client.get("/", "Connection: close")
    assert len(response.body) == 8 << 20
    assert await client.gone() == "closed"
