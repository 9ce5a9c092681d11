"""The probe that asks: one request on a connection of its own, judged by status and, where wanted, by the body.

Nothing of it is shared with traffic, so a server that no longer accepts is noticed though old connections still live.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, cast

from msgspec import Meta

from router import Address, Endpoint, Options, Tools
from router_health.causes import ProbeFailed, shown
from router_health.connecting import Caller, connect
from router_health.http_answer import Answer, Wanted
from router_health.http_tls import Tls, TlsOptions
from router_health.pattern import compile_safe

if TYPE_CHECKING:
    import asyncio

__all__ = ["HttpOptions", "HttpProbe"]

_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_TARGET = re.compile(r"/[!-\"$-~]*")
_HOST = re.compile(r"[!-~]+")
_STATUS = re.compile(r"([1-5])xx|([1-5][0-9][0-9])(?:-([1-5][0-9][0-9]))?")
#: Written by the probe itself.
_OWN_FIELDS = ("host", "content-length", "transfer-encoding", "connection")
_DEFAULT_PORTS = {"http": 80, "https": 443, "unix": 0}


class HttpOptions(Options, frozen=True):
    """What is asked, and what answer is well.

    Args:
        method: of the request, which has no body.
        path: with a query if need be.
        host: the Host field; the endpoint's own host and port if empty.
        headers: further fields.
        statuses: those that pass: 204, "2xx" or "200-399".
        body: must occur in the first 64 KiB of the body.
        body_regex: must be found in the first 4 KiB of the body, read as UTF-8.
        port: another one than the endpoint's; 0 for the endpoint's own.
        tls: see TlsOptions.
    """

    method: str = "GET"
    path: str = "/"
    host: str = ""
    headers: dict[str, str] = {}
    statuses: tuple[int | str, ...] = ("200-399",)
    body: str = ""
    body_regex: str = ""
    port: Annotated[int, Meta(ge=0, le=65535)] = 0
    tls: TlsOptions = TlsOptions()

    def __post_init__(self) -> None:
        if not _TOKEN.fullmatch(self.method) or self.method == "CONNECT":
            raise ValueError(f'method "{shown(self.method)}" is none that a probe can send, such as GET or HEAD')
        if not _TARGET.fullmatch(self.path):
            raise ValueError('path starts with "/" and has neither blanks nor "#", nor anything beyond ASCII')
        if self.host and (not _HOST.fullmatch(self.host) or any(c in self.host for c in "/@?#,")):
            raise ValueError('host is a name with or without a port, as in "example.test:8080"')
        for name, value in self.headers.items():
            _check_field(name, value)
        _statuses(self.statuses)
        if self.method == "HEAD" and (self.body or self.body_regex):
            raise ValueError("a response to HEAD has no body to look into: use GET")
        if self.body_regex:
            _pattern(self.body_regex)


class HttpProbe:
    """Well is who answers with one of the statuses and, where one is wanted, the body."""

    __slots__ = ("_after_host", "_before_host", "_host", "_port", "_tls", "_wanted")

    def __init__(self, options: HttpOptions, tools: Tools) -> None:
        fields = dict(options.headers)
        if "user-agent" not in {name.lower() for name in fields}:
            fields["User-Agent"] = "router-probe"
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        self._before_host = f"{options.method} {options.path} HTTP/1.1\r\nHost: ".encode()
        self._host = options.host.encode()
        self._after_host = f"\r\n{lines}Connection: close\r\n\r\n".encode()
        self._port = options.port
        self._tls = Tls(options.tls, tools)
        expected = ", ".join(map(str, options.statuses))
        pattern = _pattern(options.body_regex) if options.body_regex else None
        self._wanted = Wanted(options.method, _statuses(options.statuses), expected, options.body, pattern)

    async def check(self, endpoint: Endpoint) -> None:
        """Asks once, on a connection of its own.

        Raises:
            ProbeFailed: the endpoint is not well; the text says why.
            OSError: the router lacks what it needs to ask.
        """
        from asyncio import get_running_loop

        address = endpoint.address
        request = self._before_host + (self._host or _authority(address, self._port)) + self._after_host
        call = _Call(request, self._wanted, get_running_loop().create_future())
        tls = self._tls.context(address)
        try:
            await connect(call, address, self._port, tls=tls, server_name=self._tls.server_name)
            failure = await call.verdict
        finally:
            call.close()
        if failure is not None:
            raise failure


class _Call(Caller):
    """One request and its answer. The verdict is a result, never an exception: nobody may be left to take it."""

    __slots__ = ("_answer", "_request", "_transport", "_wanted", "verdict")

    def __init__(self, request: bytes, wanted: Wanted, verdict: asyncio.Future[ProbeFailed | None]) -> None:
        self.verdict = verdict
        self._request = request
        self._wanted = wanted
        self._answer: Answer | None = None
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's are none of asyncio's classes.
        self._transport = cast("asyncio.Transport", transport)
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        if self.verdict.done():
            return
        if self._answer is None:
            if self._wanted.is_met_at_once(data):
                self._end(None)
                return
            self._answer = Answer(self._wanted)
        try:
            if self._answer.feed(data):
                self._end(None)
        except ProbeFailed as failure:
            self._end(failure)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.verdict.done():
            return
        try:
            (self._answer or Answer(self._wanted)).end(exc)
            self._end(None)
        except ProbeFailed as failure:
            self._end(failure)

    def _end(self, failure: ProbeFailed | None) -> None:
        self.verdict.set_result(failure)
        self.close()

    def close(self) -> None:
        # Not a TLS farewell that could be waited for: the socket is gone when this returns to the loop.
        if self._transport is not None:
            self._transport.abort()
            self._transport = None


@lru_cache(maxsize=4096)
def _authority(address: Address, port: int) -> bytes:
    """The Host field of a request to this address (RFC 9110 §7.2)."""
    if address.scheme == "unix":
        return b"localhost"
    at = port or address.port
    # A zone says which of this machine's links to use, and means nothing elsewhere.
    host = address.host.partition("%")[0]
    if ":" in host:
        host = f"[{host}]"
    try:
        name = host.encode("ascii" if host.isascii() else "idna")
    except UnicodeError:
        raise ProbeFailed(f'"{shown(host)}" is no host name') from None
    return name if at == _DEFAULT_PORTS[address.scheme] else b"%b:%d" % (name, at)


def _check_field(name: str, value: str) -> None:
    if not _TOKEN.fullmatch(name):
        raise ValueError(f'headers: "{shown(name)}" is no name of a header field')
    if name.lower() in _OWN_FIELDS:
        hint = "; the option host sets it" if name.lower() == "host" else ""
        raise ValueError(f'headers: the probe writes "{name}" itself{hint}')
    if any((c < " " and c != "\t") or c == "\x7f" for c in value):
        raise ValueError(f"headers: the value of {name} holds a line end or another control character")


def _statuses(written: Iterable[int | str]) -> frozenset[int]:
    """The numbers that are meant by 204, "2xx" and "200-399"."""
    meant: set[int] = set()
    for item in written:
        found = _STATUS.fullmatch(str(item))
        if found is None:
            raise ValueError(f'statuses: {shown(repr(item))} is none; write 204, "2xx" or "200-399"')
        if found[1]:
            first, last = int(found[1]) * 100, int(found[1]) * 100 + 99
        else:
            first, last = int(found[2]), int(found[3] or found[2])
        if last < first:
            raise ValueError(f'statuses: "{item}" ends before it begins')
        meant.update(range(first, last + 1))
    if not meant:
        raise ValueError('statuses is empty: no answer could pass; write "200-399"')
    return frozenset(meant)


def _pattern(text: str) -> re.Pattern[str]:
    try:
        return compile_safe(text)
    except ValueError as error:
        raise ValueError(f"body_regex: {error}") from None
