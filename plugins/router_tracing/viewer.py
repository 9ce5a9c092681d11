"""The page of the last traces: a small HTTP server of its own, beside the router's listeners and never through them.

What clients sent stands in the traces. So nobody else's page may read them (names in Host are checked, nothing is
shared across origins), the browser runs no script but ours, and the default is to be reachable from this machine alone.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from router_tracing.address import listen, read_address
from router_tracing.jaeger import plain, to_jaeger
from router_tracing.span import Attributes, Span
from router_tracing.store import Store

if TYPE_CHECKING:
    from aiohttp import web

__all__ = ["Viewer"]

log = logging.getLogger("router.tracing.viewer")

_PAGE = Path(__file__).parent / "page"
_FILES = {
    "/": ("index.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
    "/detail.js": ("detail.js", "text/javascript"),
    "/words.js": ("words.js", "text/javascript"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Server": "router",
}
_MORE = {405: {"Allow": "GET"}, 503: {"Retry-After": "1"}}
#: Connections at a time, and requests that may wait until the one at work has its answer.
_CONNECTIONS = 64
_WAITING = 8
#: Seconds that a connection may idle, and that answers under way get at the end.
_IDLE = 30.0
_GRACE = 1.0


class _Refused(Exception):
    """An answer without content: (status, one sentence)."""


class Viewer:
    """Serves what a store keeps.

    Args:
        store: asked at each request.
        bind: as `read_address` takes it; port 0 lets the system choose.
        service: the name of this process in the file for Jaeger.
        tags: what else stands of the process there.

    Raises:
        ValueError: the address is none.
    """

    def __init__(self, store: Store, bind: str, service: str = "router", tags: Attributes = ()) -> None:
        self._store = store
        self._address = read_address(bind)
        self._process = service, tags
        self._http: web.Server | None = None
        self._server: asyncio.Server | None = None
        self._working = asyncio.Semaphore()
        self._waiting = 0
        # A browser may hold an answer of the process before this one.
        self._run = os.urandom(4).hex()
        self._routes: dict[str, Callable[[web.BaseRequest], Awaitable[web.Response]]] = {
            "/api/traces": self._list,
            "/traces.json": self._download,
        }

    @property
    def url(self) -> str:
        """Where a browser on this machine finds the page; the port is the real one once it is started."""
        return self._address.url

    async def start(self) -> None:
        """Listens and answers. The process that this one replaces may listen there still.

        Raises:
            ValueError: the address cannot be had; says which, why, and what to do.
        """
        from aiohttp import web

        loop = asyncio.get_running_loop()
        # The name may have to be looked up.
        sock = await loop.run_in_executor(None, listen, self._address)
        # What clients send would stand in its lines.
        silent = logging.Logger("silent", logging.CRITICAL + 1)
        http = self._http = web.Server(self._answer, access_log=None, logger=silent, keepalive_timeout=_IDLE)

        def accept() -> asyncio.Protocol:
            # Those that have been there longest make room: idle ones can keep nobody out.
            for old in http.connections[: 1 - _CONNECTIONS]:
                if old.transport is not None:
                    old.transport.abort()
            return http()

        self._server = await loop.create_server(accept, sock=sock)
        self._address = self._address._replace(port=sock.getsockname()[1])
        log.info("the last traces: %s", self.url)
        if not self._address.is_local:
            log.warning("viewer %s: whoever reaches this address sees what clients ask for", self._address)

    async def close(self) -> None:
        """Closes the address and what is connected. May be called twice, and without a start."""
        server, self._server = self._server, None
        http, self._http = self._http, None
        if server is not None:
            server.close()
        if http is not None:
            http.pre_shutdown()
            await http.shutdown(_GRACE)

    # Requests

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        from aiohttp import web

        try:
            self._admit(request)
            response = await self._found(request)
        except _Refused as refusal:
            status, text = refusal.args
            response = web.Response(status=status, text=f"{text}\n")
            response.headers.update(_MORE.get(status, {}))
        except Exception as error:
            log.error("the page of traces failed: %s", type(error).__name__)
            log.debug("traceback of the page of traces", exc_info=error)
            response = web.Response(status=500, text="The page failed; the router's log says how.\n")
        response.headers.update(_HEADERS)
        return response

    def _admit(self, request: web.BaseRequest) -> None:
        hosts = request.headers.getall("Host", [])
        if len(hosts) != 1 or not self._address.is_named_by(hosts[0]):
            raise _Refused(403, f"This page goes by its address alone: open {self.url}")
        if request.method != "GET":
            raise _Refused(405, "This page can only be read.")

    async def _found(self, request: web.BaseRequest) -> web.Response:
        path = request.path
        route = self._routes.get(path)
        if path in _FILES:
            name, kind = _FILES[path]
            return await self._work(lambda: (_PAGE / name).read_bytes(), kind)
        if route is not None:
            return await route(request)
        if path.startswith("/api/traces/"):
            return await self._detail(path.removeprefix("/api/traces/"))
        raise _Refused(404, f"There is no such page; the traces are at {self.url}")

    async def _work(self, make: Callable[[], bytes], kind: str = "application/json") -> web.Response:
        """One at a time, in a thread: the loop is the requests'."""
        from aiohttp import web

        if self._waiting >= _WAITING:
            raise _Refused(503, "Too many ask for traces at once. Try again shortly.")
        self._waiting += 1
        try:
            async with self._working:
                body = await asyncio.to_thread(make)
        finally:
            self._waiting -= 1
        return web.Response(body=body, content_type=kind, charset=None if kind == "application/json" else "utf-8")

    async def _list(self, request: web.BaseRequest) -> web.Response:
        from aiohttp import web

        tag = f'"{self._run}-{self._store.version}"'
        if request.headers.get("If-None-Match") == tag:
            return web.Response(status=304, headers={"ETag": tag})
        response = await self._work(lambda: _encode({"traces": self._store.summaries()[1]}))
        # What came meanwhile is in the answer, and is sent once more under the next tag.
        response.headers["ETag"] = tag
        return response

    async def _detail(self, trace_id: str) -> web.Response:
        spans, lost = self._store.trace(trace_id)
        if not spans:
            raise _Refused(404, "This trace is not kept, or not any more.")
        return await self._work(lambda: _encode({"id": trace_id, "lost": lost, "spans": [_shown(s) for s in spans]}))

    async def _download(self, request: web.BaseRequest) -> web.Response:
        trace_id = request.query.get("trace", "")
        if trace_id and not self._store.trace(trace_id)[0]:
            raise _Refused(404, "This trace is not kept, or not any more.")
        response = await self._work(lambda: self._file(trace_id))
        name = f"trace-{trace_id}.json" if trace_id else "traces.json"
        response.headers["Content-Disposition"] = f'attachment; filename="{name}"'
        return response

    def _file(self, trace_id: str) -> bytes:
        spans = self._store.trace(trace_id)[0] if trace_id else self._store.spans()
        return to_jaeger(spans, *self._process)


def _encode(content: Any) -> bytes:
    return msgspec.json.encode(content)


def _shown(span: Span) -> dict[str, Any]:
    """A span as the page reads it; times are microseconds."""
    return {
        "id": span.span_id,
        "parent": span.parent_id,
        "remote": span.remote,
        "name": plain(span.name),
        "kind": span.kind,
        "start": span.start // 1000,
        "duration": max(span.end - span.start, 0) / 1000,
        "error": plain(span.error),
        "attributes": _pairs(span.attributes),
        "events": [
            {"at": (event.at - span.start) / 1000, "name": plain(event.name), "attributes": _pairs(event.attributes)}
            for event in span.events
        ],
    }


def _pairs(attributes: Attributes) -> dict[str, Any]:
    return {key: plain(value) for key, value in attributes}
