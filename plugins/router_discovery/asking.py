"""One question over HTTP and its answer, bounded in time and size. Loaded when the first question is asked.

Redirects are followed within the same host alone, and never from https to http: the headers may hold a token.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from base64 import b64encode
from types import TracebackType
from typing import TYPE_CHECKING, Self
from urllib.parse import unquote, urljoin, urlsplit

import aiohttp

from router_discovery.specs import MOST_BYTES
from router_discovery.trouble import DiscoveryError, shown

if TYPE_CHECKING:
    from router_discovery.http import HttpOptions

__all__ = ["Asker"]

_MOST_REDIRECTS = 5
_REDIRECTS = (301, 302, 303, 307, 308)
_PIECE = 1 << 16


class Asker:
    """Asks one URL again and again; `async with` closes its connections.

    Attributes:
        waits: whether the other end holds the next question until there is news.
    """

    __slots__ = ("_etag", "_heard", "_index", "_long", "_session", "_timeout", "_url", "_wait", "waits")

    def __init__(self, options: HttpOptions, tls: ssl.SSLContext | None) -> None:
        parts = urlsplit(options.url)
        user, _, host = parts.netloc.rpartition("@")
        self._url = parts._replace(netloc=host).geturl()
        self._long = options.long_poll == "consul"
        self._wait = float(options.wait)
        self._timeout = float(options.timeout)
        self._index = 0
        self._etag = ""
        #: Index and tag of an answer that is not accepted yet.
        self._heard = (0, "")
        self.waits = False
        fields = {"accept": "application/json", "user-agent": "router-discovery", "accept-encoding": "identity"}
        if user:
            fields["authorization"] = f"Basic {b64encode(unquote(user).encode()).decode()}"
        self._session = aiohttp.ClientSession(
            # Kept connections would save little, and could be dead when the next question comes.
            connector=aiohttp.TCPConnector(ssl=tls if tls is not None else True, force_close=True),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=fields | {name.lower(): value for name, value in options.headers.items()},
            auto_decompress=False,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def ask(self) -> bytes | None:
        """The body of the answer, or None if nothing has changed since the last one that was accepted.

        Raises:
            DiscoveryError: no connection, no answer in time, or another status.
        """
        patience = self._timeout
        if self._index:
            # Consul adds up to a sixteenth, so that not all come back at once.
            patience += self._wait * 17 / 16
        try:
            async with asyncio.timeout(patience):
                return await self._ask()
        except TimeoutError:
            raise DiscoveryError(f"no whole answer within {patience:g} s") from None
        except aiohttp.ClientConnectorCertificateError as error:
            raise DiscoveryError(f"TLS: {_reason_of_tls(error.certificate_error)}") from None
        except aiohttp.ClientConnectorSSLError as error:
            raise DiscoveryError(f"TLS: {_reason_of_tls(error.os_error)}") from None
        except aiohttp.ClientConnectorError as error:
            raise DiscoveryError(f"no connection: {_reason(error.os_error)}") from None
        except (aiohttp.ServerDisconnectedError, OSError):
            raise DiscoveryError("the connection was lost before an answer came") from None
        except aiohttp.ClientPayloadError:
            raise DiscoveryError("the answer breaks off") from None
        except (aiohttp.ClientError, ValueError):
            raise DiscoveryError("what came is no HTTP answer") from None

    def accept(self) -> None:
        """The last answer was good: only what is newer is of interest."""
        index, self._etag = self._heard
        # An index that went backwards is that of a new history, in which the old one may never come.
        self._index = 0 if index < self._index else index
        self.waits = self._long and index > 0

    async def _ask(self) -> bytes | None:
        url = self._url
        if self._index:
            mark = "&" if "?" in url else "?"
            url += f"{mark}index={self._index}&wait={round(self._wait * 1000)}ms"
        fields = {"If-None-Match": self._etag} if self._etag else {}
        for _ in range(_MOST_REDIRECTS):
            async with self._session.get(url, headers=fields, allow_redirects=False) as response:
                if response.status not in _REDIRECTS:
                    return await self._taken(response)
                url = _next(url, response.headers.get("Location", ""))
        raise DiscoveryError(f"more than {_MOST_REDIRECTS} redirects")

    async def _taken(self, response: aiohttp.ClientResponse) -> bytes | None:
        if response.status == 304 and self._etag:
            self._heard = (self._index_of(response), self._etag)
            return None
        if response.status != 200:
            raise DiscoveryError(f"answered {response.status}")
        if response.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise DiscoveryError("the answer is compressed, which was not asked for")
        body = bytearray()
        async for piece in response.content.iter_chunked(_PIECE):
            body += piece
            if len(body) > MOST_BYTES:
                raise DiscoveryError(f"the answer is larger than {MOST_BYTES >> 20} MiB")
        self._heard = (self._index_of(response), response.headers.get("ETag", ""))
        return bytes(body)

    def _index_of(self, response: aiohttp.ClientResponse) -> int:
        text = response.headers.get("X-Consul-Index", "")
        good = self._long and text.isascii() and text.isdigit() and len(text) < 20
        return int(text) if good else 0


def _reason(error: OSError) -> str:
    # Numbers below 0 are those of name look-ups; the texts of asyncio hold an address at each number above.
    number = error.errno or 0
    text = os.strerror(number) if number > 0 else error.strerror
    return shown(text or str(error), 100)


def _reason_of_tls(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return shown(error.verify_message.rstrip("."), 100)
    reason = error.reason if isinstance(error, ssl.SSLError) else str(error)
    return shown((reason or "the handshake failed").replace("_", " ").lower(), 100)


def _next(url: str, location: str) -> str:
    """Where a redirect leads, if that is within the same host."""
    here = urlsplit(url)
    try:
        target = urljoin(url, location)
        there = urlsplit(target)
        same = here.hostname == there.hostname and (here.port == there.port or here.scheme != there.scheme)
    except ValueError:
        raise DiscoveryError("redirects to what is no URL") from None
    if not same or "@" in there.netloc or there.scheme not in (here.scheme, "https"):
        raise DiscoveryError(f"redirects to another place, {shown(f'{there.scheme}://{there.hostname}')}: ask there")
    return target
