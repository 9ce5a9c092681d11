"""Endpoints from whoever answers an HTTP request with them: polled, or long-polled as Consul does it.

What is asked goes to the named host alone, and no more of an answer is held than MOST_BYTES. What an answer says is
never quoted whole, nor is the query of the URL, which may be secret.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from router import Duration, EndpointSpec, Options, Tools
from router_discovery.answers import read_answer
from router_discovery.trouble import DiscoveryError, Voice, shown

__all__ = ["HttpOptions", "HttpSource"]

_LEAST_INTERVAL = 0.01
#: Seconds between two long polls, unless the interval is shorter: a registry in turmoil is no reason for a storm.
_BREATH = 1.0
#: Written by the source itself.
_OWN_FIELDS = ("host", "content-length", "transfer-encoding", "connection", "if-none-match", "accept-encoding")


class HttpOptions(Options, frozen=True):
    """What is asked, and how often.

    Args:
        url: answers with a JSON list of endpoints, a table with it as "endpoints", or as Consul's /v1/health/service/.
        interval: from one answer to the next question.
        timeout: of one question, its body included; on top of `wait` in a long poll.
        headers: further fields, such as a token.
        long_poll: "consul" asks for what is newer than the index of the last answer, which then comes at once.
        wait: most that a long poll waits at the other end.
        scheme: of the endpoints in an answer of Consul, which names none.
        ca: PEM file of what is trusted in place of the system's authorities.
        accept_empty: whether an empty list empties the pool. Else the last ones stay.
    """

    url: str
    interval: Duration = Duration(10)
    timeout: Duration = Duration(5)
    headers: dict[str, str] = {}
    long_poll: Literal["none", "consul"] = "none"
    wait: Duration = Duration(60)
    scheme: Literal["http", "https"] = "http"
    ca: str = ""
    accept_empty: bool = False

    def __post_init__(self) -> None:
        _check_url(self.url)
        for name, value in self.headers.items():
            _check_field(name, value)
        if "@" in urlsplit(self.url).netloc and "authorization" in map(str.lower, self.headers):
            raise ValueError("headers: url names a user already, so Authorization means nothing: leave one of them out")
        if not _LEAST_INTERVAL <= self.interval < float("inf"):
            raise ValueError('interval is a time of at least 10 ms, such as "10s"')
        if self.scheme == "https":
            raise ValueError("scheme: TLS to endpoints is not supported yet; use http for now")
        if not 0 < self.timeout < float("inf"):
            raise ValueError('timeout is a time above 0, such as "5s"')
        if not 0 < self.wait <= 600:
            raise ValueError('wait is a time of at most 10 minutes, such as "60s"')
        if self.ca and not self.url.startswith("https:"):
            raise ValueError("ca means nothing where the URL is not https: leave it out")


class HttpSource:
    """Yields what the answers say, again whenever that changes."""

    __slots__ = ("_name", "_options", "_tls", "_voice")

    def __init__(self, options: HttpOptions, tools: Tools) -> None:
        parts = urlsplit(options.url)
        host = parts.netloc.rpartition("@")[2]
        self._name = shown(f"{parts.scheme}://{host}{parts.path}")
        self._options = options
        self._tls = _context(tools.folder / options.ca) if options.ca else None
        self._voice = Voice()

    async def watch(self) -> AsyncIterator[Sequence[EndpointSpec]]:
        """Each complete set.

        Raises:
            DiscoveryError: no answer, or none that can be used. Raised once, while it asks on.
        """
        from asyncio import get_running_loop, sleep, to_thread

        from router_discovery.asking import Asker

        self._voice.begin()
        options, last, clock = self._options, None, get_running_loop().time
        heard: bytes | None = None
        async with Asker(options, self._tls) as asker:
            while True:
                asked = clock()
                wait = float(options.interval)
                try:
                    answer = await asker.ask()
                    if answer is not None and answer != heard:
                        specs = await to_thread(self._read, answer)
                        if specs != last:
                            yield specs
                        heard, last = answer, specs
                    self._voice.well()
                    asker.accept()
                    if asker.waits:
                        wait = min(wait, _BREATH) - (clock() - asked)
                except DiscoveryError as trouble:
                    self._voice.tell(DiscoveryError(f"{self._name}: {trouble}"))
                await sleep(max(wait, 0))

    def _read(self, answer: bytes) -> list[EndpointSpec]:
        specs = read_answer(answer, self._options.scheme)
        if not specs and not self._options.accept_empty:
            raise DiscoveryError("names no endpoint; to let it empty the pool, set accept_empty = true")
        return specs


def _context(ca: Path) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca)
    except ssl.SSLError:
        raise ValueError(f'ca "{shown(str(ca))}" holds no certificate in PEM') from None
    except OSError as error:
        raise ValueError(f'ca "{shown(str(ca))}" cannot be read: {error.strerror or error}') from None


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    # No URL in the message: it may hold what is secret.
    if not good:
        raise ValueError('url starts with http:// or https:// and a host, as in "http://127.0.0.1:8500/v1/servers"')
    if not all("!" <= c <= "~" for c in url) or "#" in url:
        raise ValueError('url has neither blanks nor "#", nor anything beyond ASCII')


def _check_field(name: str, value: str) -> None:
    if not name.isascii() or not name.replace("-", "").replace("_", "").isalnum():
        raise ValueError(f'headers: "{shown(name)}" is no name of a header field')
    if name.lower() in _OWN_FIELDS:
        raise ValueError(f'headers: "{name}" is written by the source itself')
    if any((c < " " and c != "\t") or c == "\x7f" for c in value):
        raise ValueError(f"headers: the value of {name} holds a line end or another control character")
