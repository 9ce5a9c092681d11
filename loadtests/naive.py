"""A reverse proxy as one would first write it with aiohttp: web.Application in front, ClientSession behind.

It is the yardstick for what the router's own data path saves, so it stays plain: no tuning, no repairs.
Usage: python naive.py PORT ENDPOINT...
"""

import itertools
import sys
from collections.abc import AsyncIterator, Iterable, Mapping

import aiohttp
import uvloop
from aiohttp import web

#: Not passed on: what belongs to one connection, and Host, which the client session writes anew.
DROPPED = {"connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade", "host"}


def end_to_end(headers: Mapping[str, str]) -> list[tuple[str, str]]:
    return [(name, value) for name, value in headers.items() if name.lower() not in DROPPED]


def create_app(endpoints: Iterable[str]) -> web.Application:
    """Promises an application that sends requests to the endpoints (URLs without a path) in turn."""
    turns = itertools.cycle(list(endpoints))
    session = web.AppKey("session", aiohttp.ClientSession)

    async def client(app: web.Application) -> AsyncIterator[None]:
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector, auto_decompress=False) as app[session]:
            yield

    async def forward(request: web.Request) -> web.StreamResponse:
        headers = [*end_to_end(request.headers), ("X-Forwarded-For", request.remote or "")]
        body = request.content if request.body_exists else None
        async with request.app[session].request(
            request.method, next(turns) + request.path_qs, headers=headers, data=body, allow_redirects=False
        ) as upstream:
            response = web.StreamResponse(status=upstream.status, headers=end_to_end(upstream.headers))
            await response.prepare(request)
            async for chunk in upstream.content.iter_any():
                await response.write(chunk)
            await response.write_eof()
            return response

    app = web.Application()
    app.cleanup_ctx.append(client)
    app.router.add_route("*", "/{tail:.*}", forward)
    return app


if __name__ == "__main__":
    web.run_app(
        create_app(sys.argv[2:]),
        host="127.0.0.1",
        port=int(sys.argv[1]),
        access_log=None,
        print=None,
        loop=uvloop.new_event_loop(),
    )
