"""An example server whose latency, errors and capacity are chosen: a small shop, an echo, a WebSocket, a slow body.

    python loadtests/upstream.py --name one --port 9001 --latency lognormal:20ms,0.5 --errors 1%

Carts stand in the memory of this process alone, so a session that is sent elsewhere shows. Every answer names its
server in X-Upstream. Needs aiohttp; uvloop is used where it is there, OpenTelemetry only where traces are asked for.
"""

import argparse
import asyncio
import contextlib
import json
import random
import re
import secrets
import signal
import sys
from collections import OrderedDict
from collections.abc import Callable, Sequence
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs

from aiohttp import WSMsgType, web
from load_options import FORMS, latency, number, share
from load_tracing import Tracing, TracingError, tracing

#: Bytes of a body, which is aiohttp's own limit, or of a WebSocket message.
LARGEST = 1 << 20
#: Bytes and seconds that /slow-body gives at most, and the pieces that it comes in.
SLOW_BYTES, SLOW_SECONDS, SLOW_PIECES = 4 << 20, 10.0, 16
#: Visitors whose carts are kept; the oldest go first.
CARTS = 100_000
COOKIE = "cart"


class Full(Exception):
    """There is no room for one more request."""


class Room:
    """So many requests at once; others wait in the order in which they came, or are refused."""

    def __init__(self, capacity: int, refuse: bool) -> None:
        self._refuse = refuse
        self._places = asyncio.Semaphore(capacity) if capacity else None

    @contextlib.asynccontextmanager
    async def place(self) -> Any:
        """Holds a place; raises Full."""
        if self._places is None:
            yield
            return
        if self._refuse and self._places.locked():
            raise Full
        async with self._places:
            yield


class Carts:
    """How many things each visitor has in the cart, by the value of their cookie."""

    def __init__(self, most: int = CARTS) -> None:
        self._most = most
        self._counts: OrderedDict[str, int] = OrderedDict()

    def count(self, visitor: str) -> int:
        return self._counts.get(visitor, 0)

    def add(self, visitor: str) -> int:
        """Puts one more thing in; promises how many there are now."""
        self._counts[visitor] = self.count(visitor) + 1
        self._counts.move_to_end(visitor)
        if len(self._counts) > self._most:
            self._counts.popitem(last=False)
        return self._counts[visitor]


class Upstream:
    """The server's answers."""

    def __init__(self, args: argparse.Namespace, traces: Tracing) -> None:
        self.name: str = args.name
        self._draw, self._errors = args.latency, args.errors
        self._rng = random.Random(args.seed)
        self._room = Room(args.capacity, args.over == "refuse")
        self._carts = Carts()
        self._traces = traces
        self._routes = {
            ("POST", "/cart"): self._add_to_cart,
            ("GET", "/cart"): self._show_cart,
            ("POST", "/echo"): self._echo,
            ("GET", "/slow-body"): self._slow_body,
        }

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        with self._traces.server(request.method, request.path, request.headers) as span:
            try:
                response = await self._answer(request)
            except ConnectionResetError:
                span.failed("the client left")
                return self._text(499, "nobody reads this\n")
            span.status(response.status)
        return response

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.path == "/ws":
            return await self._talk(request)
        try:
            body = await request.read()
        except web.HTTPRequestEntityTooLarge:
            return self._text(413, f"at most {LARGEST} bytes\n")
        try:
            async with self._room.place():
                await asyncio.sleep(self._draw(self._rng))
                if self._rng.random() < self._errors:
                    return self._text(500, f"server {self.name} fails, as it was told to\n")
                return await self._page(request, body)
        except Full:
            return self._text(503, f"server {self.name} is full\n", {"Retry-After": "1"})

    async def _page(self, request: web.BaseRequest, body: bytes) -> web.StreamResponse:
        found = self._routes.get((request.method, request.path))
        if found:
            return await found(request, body)
        item = re.fullmatch(r"/items/(\d{1,9})", request.path)
        if request.method in ("GET", "HEAD") and (request.path == "/" or item):
            shown = f"item {item[1]}" if item else "all items"
            return self._text(200, f"server {self.name} answers: {shown}\n" + "." * 600)
        return self._text(404, "there is no such page\n")

    async def _add_to_cart(self, request: web.BaseRequest, _body: bytes) -> web.Response:
        visitor = _visitor(request) or secrets.token_hex(8)
        response = self._cart(self._carts.add(visitor))
        response.headers["Set-Cookie"] = f"{COOKIE}={visitor}; Path=/; HttpOnly"
        return response

    async def _show_cart(self, request: web.BaseRequest, _body: bytes) -> web.Response:
        return self._cart(self._carts.count(_visitor(request)))

    def _cart(self, count: int) -> web.Response:
        body = json.dumps({"server": self.name, "count": count}).encode()
        return web.Response(body=body, headers=self._headers("application/json"))

    async def _echo(self, request: web.BaseRequest, body: bytes) -> web.Response:
        return web.Response(body=body, headers=self._headers("application/octet-stream"))

    async def _slow_body(self, request: web.BaseRequest, _body: bytes) -> web.StreamResponse:
        asked = parse_qs(request.query_string)
        try:
            size = min(SLOW_BYTES, int(asked.get("bytes", ["65536"])[0]))
            pause = min(SLOW_SECONDS, float(asked.get("seconds", ["1"])[0])) / SLOW_PIECES
        except ValueError:
            return self._text(400, "bytes and seconds are numbers\n")
        response = web.StreamResponse(headers=self._headers("application/octet-stream"))
        response.content_length = size = max(0, size)
        await response.prepare(request)
        for place in range(SLOW_PIECES):
            await asyncio.sleep(max(0.0, pause))
            await response.write(b"." * (size * (place + 1) // SLOW_PIECES - size * place // SLOW_PIECES))
        await response.write_eof()
        return response

    async def _talk(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.headers.get("Upgrade", "").lower() != "websocket":
            return self._text(426, "only WebSocket here\n", {"Upgrade": "websocket"})
        socket = web.WebSocketResponse(max_msg_size=LARGEST, heartbeat=30)
        socket.headers["X-Upstream"] = self.name
        await socket.prepare(request)
        async for message in socket:
            await asyncio.sleep(self._draw(self._rng))
            if message.type is WSMsgType.TEXT:
                await socket.send_str(message.data)
            elif message.type is WSMsgType.BINARY:
                await socket.send_bytes(message.data)
        return socket

    def _headers(self, kind: str) -> dict[str, str]:
        return {"X-Upstream": self.name, "Content-Type": kind}

    def _text(self, status: int, text: str, more: dict[str, str] | None = None) -> web.Response:
        headers = {**self._headers("text/plain; charset=utf-8"), **(more or {})}
        return web.Response(status=status, body=text.encode(), headers=headers)


def _visitor(request: web.BaseRequest) -> str:
    try:
        found = SimpleCookie(request.headers.get("Cookie", "")).get(COOKIE)
    except CookieError:
        return ""
    return found.value[:64] if found else ""


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="upstream.py", description=(__doc__ or "").splitlines()[0])
    made.add_argument("--name", default="one", help="said in X-Upstream, and the service of its spans (default one)")
    made.add_argument("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1)")
    made.add_argument("--port", type=number(0, 65535), default=9001, help="0 takes any (default 9001)")
    made.add_argument("--latency", type=latency, default=latency("fixed:5ms"), help=f"{FORMS} (default fixed:5ms)")
    made.add_argument(
        "--errors", type=share, default=0.0, metavar="SHARE", help="answered 500, such as 1%% (default 0%%)"
    )
    made.add_argument(
        "--capacity", type=number(0, 100_000), default=0, metavar="N", help="requests at once; 0: no limit"
    )
    made.add_argument("--over", choices=("queue", "refuse"), default="queue", help="those above: wait, or get 503")
    made.add_argument("--seed", type=int, help="the same seed draws the same latencies and errors")
    made.add_argument("--trace", default="", metavar="URL", help="OTLP receiver; default as OTEL_EXPORTER_OTLP_* say")
    return made


async def serve(args: argparse.Namespace, traces: Tracing) -> None:
    """Serves until SIGTERM or SIGINT. Raises OSError if it cannot listen."""
    server = web.Server(Upstream(args, traces).answer, access_log=None)
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    for each in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(each, ended.set)
    listening = await loop.create_server(server, args.host, args.port)
    print(f"server {args.name} listens on port {listening.sockets[0].getsockname()[1]}", flush=True)
    await ended.wait()
    listening.close()
    await server.shutdown(2)


def main(argv: Sequence[str] | None = None) -> int:
    """Promises the exit code: 0 ended as asked, 1 it could not start, 2 a wrong option."""
    args = parser().parse_args(argv)
    try:
        import uvloop

        run: Callable[[Any], None] = uvloop.run
    except ImportError:
        run = asyncio.run
    try:
        traces = tracing(args.name, args.trace)
        with contextlib.closing(traces):
            run(serve(args, traces))
    except (OSError, TracingError) as error:
        print(f"upstream.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
