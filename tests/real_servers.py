"""Servers that people really run, for tests/test_real_clients.py: httpbin with a page for browsers, and websockets.

Run as a process: prints the two ports, serves until its standard input ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import sys
import threading
from collections import defaultdict
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qs, urlsplit

from flask import Response, request
from httpbin import app
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from werkzeug.serving import WSGIRequestHandler, make_server

PATIENCE = 20.0

PAGE = """<!doctype html><title>waiting</title><body><img src="/page/hold?id=ID"><pre></pre><script>
const seen = {events: [], messages: []};
function done() {
  if (!seen.close || seen.events.length < 3) return;
  document.title = "done";
  document.querySelector("pre").textContent = JSON.stringify(seen);
  fetch("/page/release?id=ID");
}
const events = new EventSource("/page/events?id=ID");
events.onmessage = event => {
  seen.events.push(event.data);
  if (event.data === "2") fetch("/page/go-on?id=ID");
  if (event.data === "3") { events.close(); done(); }
};
const socket = new WebSocket("ws://" + location.host + "/ws/echo", ["other", "chat"]);
socket.binaryType = "arraybuffer";
socket.onopen = () => { seen.protocol = socket.protocol; socket.send("text"); socket.send(new Uint8Array(300000)); };
socket.onmessage = event => {
  seen.messages.push(typeof event.data === "string" ? event.data : event.data.byteLength);
  if (seen.messages.length === 2) socket.close(4100, "seen enough");
};
socket.onclose = event => { seen.close = [event.code, event.reason, event.wasClean]; done(); };
socket.onerror = () => { seen.error = true; };
</script>
"""

#: What one request waits for and another one brings, by name.
awaited: dict[str, threading.Event] = defaultdict(threading.Event)
#: How WebSocket connections ended, by the id that their client gave.
ended: dict[str, asyncio.Future[tuple[int, str]]] = {}


# HTTP


@app.route("/page")
def page() -> Response:
    return Response(PAGE.replace("ID", request.args["id"]), content_type="text/html; charset=utf-8")


@app.route("/page/events")
def events() -> Response:
    """Two events at once, the third one when /page/go-on was asked for: none may be held back on the way."""
    name = "go-on " + request.args["id"]

    def tell() -> Iterator[str]:
        yield "data: 1\n\n"
        yield "data: 2\n\n"
        if awaited[name].wait(PATIENCE):
            yield "data: 3\n\n"

    return Response(tell(), content_type="text/event-stream", headers={"Cache-Control": "no-store"})


@app.route("/page/go-on")
def go_on() -> Response:
    awaited["go-on " + request.args["id"]].set()
    return Response(status=204)


@app.route("/page/hold")
def hold() -> Response:
    """A picture that a browser waits for until /page/release was asked for."""
    awaited["release " + request.args["id"]].wait(PATIENCE)
    return Response('<svg xmlns="http://www.w3.org/2000/svg"/>', content_type="image/svg+xml")


@app.route("/page/release")
def release() -> Response:
    awaited["release " + request.args["id"]].set()
    return Response(status=204)


class Handler(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"

    def log(self, type: str, message: str, *args: Any) -> None: ...


# WebSocket


def end_of(name: str) -> asyncio.Future[tuple[int, str]]:
    if name not in ended:
        ended[name] = asyncio.get_running_loop().create_future()
    return ended[name]


async def handle(connection: ServerConnection) -> None:
    assert connection.request is not None
    target = urlsplit(connection.request.path)
    query = {name: values[0] for name, values in parse_qs(target.query, keep_blank_values=True).items()}
    with contextlib.suppress(ConnectionClosed):
        await serve_path(connection, target.path, query)
    await connection.wait_closed()
    if "id" in query:
        end_of(query["id"]).set_result((connection.close_code or 0, connection.close_reason or ""))


async def serve_path(connection: ServerConnection, path: str, query: dict[str, str]) -> None:
    assert connection.request is not None
    match path.removeprefix("/ws/"):
        case "echo":
            async for message in connection:
                await connection.send(message)
        case "fragments":
            await connection.send(["one ", "two ", "three"])
        case "count-fragments":
            await connection.send(str(len([piece async for piece in connection.recv_streaming()])))
        case "ping":
            await (await connection.ping(b"are you there"))
            await connection.send("answered")
        case "headers":
            await connection.send(json.dumps(list(connection.request.headers.raw_items())))
        case "push":
            for number in range(int(query["count"])):
                await connection.send(number.to_bytes(4, "big") * (16 << 10))
        case "close":
            await connection.close(int(query["code"]), query["reason"])
        case "vanish":
            await connection.send("last words")
            connection.transport.abort()
        case "ended":
            # How the connection that said this id has ended: code, reason.
            await connection.send(json.dumps(await asyncio.wait_for(end_of(query["of"]), PATIENCE)))


def before(connection: ServerConnection, asked: Any) -> Any:
    if asked.path == "/ws/forbidden":
        return connection.respond(HTTPStatus.FORBIDDEN, "not for you\n")
    return None


def after(connection: ServerConnection, asked: Any, answer: Any) -> None:
    if asked.path.startswith("/ws/headers"):
        answer.headers["Set-Cookie"] = "a=1"
        answer.headers["Set-Cookie"] = "b=2"


async def main() -> None:
    logging.disable()
    http = make_server("127.0.0.1", 0, app, threaded=True, request_handler=Handler)
    http.daemon_threads = True
    threading.Thread(target=http.serve_forever, daemon=True).start()
    async with serve(
        handle,
        "127.0.0.1",
        0,
        select_subprotocol=lambda _, offered: next((name for name in offered if name in ("chat", "superchat")), None),
        process_request=before,
        process_response=after,
        max_size=None,
        backlog=200,
    ) as sockets:
        print(http.server_port, sockets.sockets[0].getsockname()[1], flush=True)
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main())
