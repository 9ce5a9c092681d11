"""One HTTPS request to an ACME server: bounded in time and size, and ended by `stop()` from any thread.

Loaded when the first certificate is asked for. What the `acme` library would do through requests' own adapter has no
bound on the whole answer, follows redirects and reads proxies, passwords and authorities from the environment; here
the named host alone is asked, over TLS alone.
"""

from __future__ import annotations

import io
import os
import socket
import ssl
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from email.utils import parsedate_to_datetime
from http.client import HTTPConnection, HTTPException, HTTPResponse
from typing import Any
from urllib.parse import urlsplit

from requests import PreparedRequest, Response
from requests.adapters import BaseAdapter
from requests.structures import CaseInsensitiveDict

from router_tls.acme_trouble import AcmeError, shown

__all__ = ["Line"]

#: Seconds for a connection, and for each piece of an answer.
_PATIENCE = 10.0
#: Bytes of an answer. The largest, a certificate's chain, has some 10 KiB.
_MOST_BYTES = 1 << 20


class Line(BaseAdapter):
    """What a requests session sends through.

    Args:
        tls: checks the server.

    Attributes:
        status: of the last answer; 0 where there was none.
        wait: seconds that it asked to wait (Retry-After), or 0.
    """

    def __init__(self, tls: ssl.SSLContext) -> None:
        super().__init__()
        self._tls = tls
        self._guard = threading.Lock()
        self._socket: socket.socket | None = None
        self._stopped = False
        self.status = 0
        self.wait = 0.0

    def send(
        self,
        request: PreparedRequest,
        stream: bool = False,
        timeout: Any = None,
        verify: Any = True,
        cert: Any = None,
        proxies: Mapping[str, str] | None = None,
    ) -> Response:
        """The answer, whole. Only `request` counts: bounds, trust and route are the line's own.

        Raises:
            AcmeError: no connection, no answer, or a redirect.
        """
        self.status, self.wait = 0, 0.0
        parts = urlsplit(str(request.url))
        host = shown(parts.netloc)
        if parts.scheme != "https" or not parts.hostname:
            raise AcmeError(f"the server names an address that is not https: {shown(str(request.url))}")
        try:
            return self._exchange(request, parts.hostname, parts.port or 443)
        except ssl.SSLError as error:
            raise AcmeError(f"{host}: TLS: {_reason_of_tls(error)}") from None
        except TimeoutError:
            raise AcmeError(f"{host}: no answer within {_PATIENCE:g} s") from None
        except OSError as error:
            number = error.errno or 0
            text = os.strerror(number) if number > 0 else error.strerror or str(error)
            raise AcmeError(f"{host}: no connection: {shown(text.lower(), 100)}") from None
        except (HTTPException, ValueError):
            raise AcmeError(f"{host}: what came is no HTTP answer") from None

    def stop(self) -> None:
        """Ends the request under way, and every later one before it begins. From any thread; returns at once."""
        with self._guard:
            self._stopped = True
            if self._socket is not None:
                with suppress(OSError):
                    # Not the method of SSLSocket, which would change what the other thread is using.
                    socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def close(self) -> None:
        """There is nothing to close: each connection ends with its answer."""

    def hold(self, connected: socket.socket | None) -> None:
        """Keeps what `stop` ends.

        Raises:
            AcmeError: it was stopped before.
        """
        with self._guard:
            self._socket = connected
            if self._stopped and connected is not None:
                raise AcmeError("stopped")

    def _exchange(self, request: PreparedRequest, host: str, port: int) -> Response:
        connection = _Connection(host, port, self._tls, self)
        try:
            body = request.body
            connection.request(
                str(request.method),
                request.path_url,
                body.encode() if isinstance(body, str) else body,  # type: ignore[arg-type]
                {str(name): str(value) for name, value in request.headers.items()} | {"Connection": "close"},
            )
            with connection.getresponse() as answer:
                content = _content(answer, request.method == "HEAD")
        finally:
            self.hold(None)
            connection.close()
        self.status = answer.status
        self.wait = _seconds(answer.headers.get("Retry-After", ""))
        if 300 <= answer.status < 400:
            raise AcmeError(f"{shown(host)}: redirects to another place; name the directory's own URL")
        return _response(request, answer, content)


class _Connection(HTTPConnection):
    """Over TLS, and known to the line before the handshake."""

    default_port = 443

    def __init__(self, host: str, port: int, tls: ssl.SSLContext, line: Line) -> None:
        super().__init__(host, port, timeout=_PATIENCE)
        self._tls = tls
        self._line = line

    def connect(self) -> None:
        super().connect()
        wrapped = self._tls.wrap_socket(self.sock, server_hostname=self.host, do_handshake_on_connect=False)
        self.sock = wrapped
        self._line.hold(wrapped)
        wrapped.do_handshake()


def _content(answer: HTTPResponse, none: bool) -> bytes:
    content = answer.read(_MOST_BYTES + 1)
    if len(content) > _MOST_BYTES:
        raise AcmeError(f"the answer is larger than {_MOST_BYTES >> 20} MiB")
    # http.client tells of an early end only where all is read at once, without a bound.
    length = answer.headers.get("Content-Length", "")
    if not none and length.isascii() and length.isdigit() and len(content) < int(length[:20]):
        raise HTTPException
    return content


def _response(request: PreparedRequest, answer: HTTPResponse, content: bytes) -> Response:
    response = Response()
    response.status_code = answer.status
    response.reason = answer.reason
    response.headers = CaseInsensitiveDict(answer.headers.items())
    response.url = str(request.url)
    response.request = request
    response.raw = io.BytesIO(content)
    return response


def _seconds(retry_after: str) -> float:
    """RFC 9110 §10.2.3: seconds, or a date."""
    text = retry_after.strip()
    if text.isascii() and text.isdigit() and len(text) < 10:
        return float(text)
    try:
        return max(parsedate_to_datetime(text).timestamp() - time.time(), 0.0) if text else 0.0
    except (ValueError, OverflowError):
        return 0.0


def _reason_of_tls(error: ssl.SSLError) -> str:
    if not isinstance(error, ssl.SSLCertVerificationError):
        return shown((error.reason or "the handshake failed").replace("_", " ").lower(), 100)
    reason = shown(error.verify_message.rstrip("."), 100)
    if "expired" in reason or "not yet valid" in reason:
        return f"{reason}; is the clock of this machine right?"
    return f"{reason}; a private authority's PEM file is named in ca"
