"""The page of the last traces: a small HTTP server of its own, beside the router's listeners and never through them.

What clients sent stands in the traces. So nobody else's page may read them (names in Host are checked, nothing is
shared across origins), the browser runs no script but ours, and the default is to be reachable from this machine alone.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from router_tracing.address import listen, read_address
from router_tracing.answers import Answers, NotKept, in_pieces
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
_JSON = {"Content-Type": "application/json"}
_TRACE_ID = re.compile("[0-9a-f]{32}")
#: Connections at a time, and answers of each kind that are made or read at a time.
_CONNECTIONS = 64
_MOST = {"page": 8, "file": 2}
#: Seconds after which an answer must have been read.
_READING = 60.0
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
        resource: says what this process is in the file for Jaeger, its service.name first of all; asked once, late.

    Raises:
        ValueError: the address is none.
    """

    def __init__(self, store: Store, bind: str, resource: Callable[[], Mapping[str, Any]] = dict) -> None:
        self._store = store
        self._address = read_address(bind)
        self._answers = Answers(store, resource)
        self._http: web.Server | None = None
        self._server: asyncio.Server | None = None
        self._working = asyncio.Semaphore()
        #: Answers that are made or read, by their kinds.
        self._under_way: Counter[str] = Counter()
        # A browser may hold an answer of the process before this one.
        self._run = os.urandom(4).hex()

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
            return await self._found(request)
        except _Refused as refusal:
            return _refused(*refusal.args)
        except NotKept:
            return _refused(404, "This trace is not kept, or not any more.")
        except (TimeoutError, ConnectionError):
            # The client has left, or leaves the answer unread.
            _abort(request)
            return web.Response()
        except Exception as error:
            log.error("the page of traces failed: %s", type(error).__name__)
            log.debug("traceback of the page of traces", exc_info=error)
            return _refused(500, "The page failed; the router's log says how.")

    def _admit(self, request: web.BaseRequest) -> None:
        hosts = request.headers.getall("Host", [])
        if len(hosts) != 1 or not self._address.is_named_by(hosts[0]):
            raise _Refused(403, f"This page goes by its address alone: open {self.url}")
        if request.method != "GET":
            raise _Refused(405, "This page can only be read.")

    async def _found(self, request: web.BaseRequest) -> web.StreamResponse:
        path = request.path
        if path == "/api/traces":
            return await self._list(request)
        if path == "/traces.json":
            return await self._download(request)
        if path in _FILES:
            name, kind = _FILES[path]
            return await self._send(request, _whole(_PAGE / name), {"Content-Type": f"{kind}; charset=utf-8"})
        if path.startswith("/api/traces/"):
            return await self._send(request, self._answers.trace(path.removeprefix("/api/traces/")), _JSON)
        raise _Refused(404, f"There is no such page; the traces are at {self.url}")

    async def _send(
        self, request: web.BaseRequest, parts: Iterator[bytes], headers: dict[str, str], kind: str = "page"
    ) -> web.StreamResponse:
        """Answers piece by piece: the next one is made when this one is on its way."""
        if self._under_way[kind] >= _MOST[kind]:
            raise _Refused(503, "Too many ask for traces at once. Try again shortly.")
        self._under_way[kind] += 1
        try:
            async with asyncio.timeout(_READING):
                return await self._streamed(request, in_pieces(parts), _HEADERS | headers)
        finally:
            self._under_way[kind] -= 1

    async def _streamed(
        self, request: web.BaseRequest, pieces: Iterator[bytes], headers: dict[str, str]
    ) -> web.StreamResponse:
        from aiohttp import web

        piece = await self._next(pieces)
        response = web.StreamResponse(headers=headers)
        await response.prepare(request)
        try:
            while piece:
                await response.write(piece)
                piece = await self._next(pieces)
        except Exception:
            # Half an answer is followed by nothing.
            _abort(request)
            raise
        await response.write_eof()
        return response

    async def _next(self, pieces: Iterator[bytes]) -> bytes:
        """One at a time, in a thread: the loop is the requests'."""
        async with self._working:
            return await asyncio.to_thread(next, pieces, b"")

    async def _list(self, request: web.BaseRequest) -> web.StreamResponse:
        from aiohttp import web

        # What comes meanwhile is in the answer, and is sent once more under the next tag.
        tag = {"ETag": f'"{self._run}-{self._store.version}"'}
        if request.headers.get("If-None-Match") == tag["ETag"]:
            return web.Response(status=304, headers=_HEADERS | tag)
        return await self._send(request, self._answers.listed(), _JSON | tag)

    async def _download(self, request: web.BaseRequest) -> web.StreamResponse:
        trace_id = request.query.get("trace", "")
        if trace_id and not _TRACE_ID.fullmatch(trace_id):
            raise NotKept
        name = f"trace-{trace_id}.json" if trace_id else "traces.json"
        headers = _JSON | {"Content-Disposition": f'attachment; filename="{name}"'}
        return await self._send(request, self._answers.file(trace_id), headers, "file")


def _refused(status: int, text: str) -> web.Response:
    from aiohttp import web

    return web.Response(status=status, text=f"{text}\n", headers=_HEADERS | _MORE.get(status, {}))


def _abort(request: web.BaseRequest) -> None:
    if request.transport is not None:
        request.transport.abort()


def _whole(file: Path) -> Iterator[bytes]:
    yield file.read_bytes()
