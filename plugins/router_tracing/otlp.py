"""Sends spans by OTLP over HTTP, in protobuf or JSON, and says what became of each batch. One thread, one connection.

The HTTP exporter of the library is not used: it encodes by itself, sends again by itself, takes a redirect for success,
hides Retry-After, and logs as it likes. Its variables are read in environment.py; requests does the rest. Headers carry
keys: no text made here holds any.
"""

from __future__ import annotations

import email.utils
import gzip
import http.client
import logging
import math
import ssl
import time
import zlib
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import msgspec
import requests

from router_tracing.environment import Headers
from router_tracing.otlp_encode import Encoder
from router_tracing.otlp_json import JsonEncoder
from router_tracing.span import Span, Verdict

__all__ = ["OtlpHttp", "Target", "check_tls", "encode_gently", "seconds_of"]

#: Spans encoded at a stretch, and seconds after each: the event loop waits for the interpreter no longer than that.
PIECE, GAP = 64, 0.0002
#: Bytes of an answer that are read; more than any answer of a receiver has.
_ANSWER = 64 * 1024
#: "The client SHOULD retry" (OTLP specification, retryable response codes); any other error is for good.
RETRYABLE = frozenset({429, 502, 503, 504})
_TOO_LARGE = 413
_COMPRESS: dict[str, Callable[[bytes], bytes]] = {"gzip": lambda data: gzip.compress(data, 5), "deflate": zlib.compress}


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """A receiver and how to speak with it. Times are seconds; files are names."""

    endpoint: str
    headers: Headers = msgspec.field(default_factory=Headers)
    timeout: float = 10.0
    compression: str = ""
    certificate: str = ""
    client_key: str = ""
    client_certificate: str = ""


def encode_gently(encoder: Encoder | JsonEncoder, spans: list[Span]) -> bytes:
    """One request with these spans, made in pieces: between them other threads run."""
    pieces = []
    for at in range(0, len(spans), PIECE):
        pieces.append(encoder.encode(spans[at : at + PIECE]))
        if len(spans) > PIECE:
            time.sleep(GAP)
    return encoder.request(pieces)


def check_tls(target: Target) -> None:
    """Raises ValueError if a file for TLS cannot be used; names the variable that names the file."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if target.certificate:
        _load("CERTIFICATE", target.certificate, lambda: context.load_verify_locations(target.certificate))
    if target.client_certificate:
        pair = target.client_certificate, target.client_key or None
        # With a password at hand, an encrypted key is refused rather than asked for on the terminal.
        _load("CLIENT_CERTIFICATE", pair[0], lambda: context.load_cert_chain(*pair, password=""))


def _load(name: str, file: str, load: Any) -> None:
    try:
        load()
    except (OSError, ValueError) as error:
        told = error.strerror if isinstance(error, OSError) and not isinstance(error, ssl.SSLError) else None
        why = told or "it is no PEM that can be used without a password"
        raise ValueError(f"OTEL_EXPORTER_OTLP_{name}: {file!r} cannot be loaded: {why}; name a PEM file") from None


def seconds_of(text: str, now: float) -> float:
    """What a Retry-After field asks for: seconds from `now` (since the epoch); 0 for none (RFC 9110, 10.2.3)."""
    try:
        seconds = float(text)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(text).timestamp() - now
        except (ValueError, OverflowError):
            return 0.0
    return max(seconds, 0.0) if math.isfinite(seconds) else 0.0


def reason_of(error: BaseException) -> str:
    """The few words within the errors that HTTP libraries wrap into each other."""
    if isinstance(error, requests.Timeout):
        return "no answer in time"
    seen: set[int] = set()
    inner: Any = error
    found = type(error).__name__
    while isinstance(inner, BaseException) and id(inner) not in seen:
        seen.add(id(inner))
        found = getattr(inner, "verify_message", "") or getattr(inner, "strerror", "") or found
        if type(inner) is http.client.RemoteDisconnected:
            return "the connection was closed"
        inner = getattr(inner, "reason", None) or inner.__cause__ or inner.__context__ or (inner.args or (None,))[0]
    return str(found)


_REMEDIES = {
    **dict.fromkeys(range(300, 400), ", a redirect, which is not followed: name the URL that it leads to"),
    **dict.fromkeys((401, 403), ": OTEL_EXPORTER_OTLP_HEADERS is for what it wants to know"),
    **dict.fromkeys((404, 405), ": no receiver listens at this path; most do at /v1/traces"),
}


class OtlpHttp:
    """An exporter. Besides the verdict it tells, of its last batch:

    Attributes:
        place: whom it sends to, as it may be shown.
        retry_after: seconds for which the receiver asked to be spared; 0 for none.
        too_large: the batch was refused for its size alone.
        rejected: spans of a batch that the receiver took but did not keep.
    """

    __slots__ = (
        "_compress",
        "_encoder",
        "_request",
        "_session",
        "_settings",
        "place",
        "rejected",
        "retry_after",
        "too_large",
    )

    def __init__(self, target: Target, encoder: Encoder | JsonEncoder) -> None:
        """Raises ValueError for an endpoint, a header or a file that cannot be used."""
        parts = urlsplit(target.endpoint)
        if parts.scheme == "https":
            check_tls(target)
        self.place = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
        self._encoder = encoder
        self._compress = _COMPRESS.get(target.compression)
        fields = {
            "user-agent": "edge-router OTLP",
            "content-type": "application/json" if isinstance(encoder, JsonEncoder) else "application/x-protobuf",
            "accept-encoding": "identity",
        }
        if self._compress:
            fields["content-encoding"] = target.compression
        try:
            # Prepared without the session, or an entry in .netrc would replace the authorization that was configured.
            self._request = requests.Request("POST", target.endpoint, fields | target.headers, data=b"").prepare()
        except (requests.RequestException, ValueError) as error:
            raise ValueError(
                f"the endpoint of spans or a header for it is not usable: {type(error).__name__}"
            ) from None
        self._session = requests.Session()
        client = (target.client_certificate, target.client_key) if target.client_key else target.client_certificate
        verify = target.certificate or True
        settings = self._session.merge_environment_settings(target.endpoint, {}, True, verify, client or None)
        self._settings = {**settings, "timeout": target.timeout, "allow_redirects": False}
        self._spare()

    def _spare(self) -> None:
        self.retry_after, self.too_large, self.rejected = 0.0, False, 0

    def export(self, spans: list[Span]) -> tuple[Verdict, str]:
        """Sends one batch once; see Exporter."""
        self._spare()
        try:
            return self._send(encode_gently(self._encoder, spans))
        except requests.RequestException as error:
            return "later", reason_of(error)
        except Exception as error:  # whatever is wrong with this batch, the next may be well
            logging.getLogger("router_tracing").debug("a batch of spans was not sent", exc_info=True)
            return "refused", f"{type(error).__name__} while it was sent"

    def close(self) -> None:
        self._session.close()

    def _send(self, body: bytes) -> tuple[Verdict, str]:
        request = self._request.copy()
        request.prepare_body(self._compress(body) if self._compress else body, None)
        with self._session.send(request, **self._settings) as response:
            answer = response.raw.read(_ANSWER)
            return self._judge(response.status_code, response.headers, answer)

    def _judge(self, status: int, fields: Any, answer: bytes) -> tuple[Verdict, str]:
        if 200 <= status < 300:
            self.rejected, why = rejected_in(answer, fields.get("content-type", ""))
            return "taken", why
        if status in RETRYABLE:
            self.retry_after = seconds_of(fields.get("retry-after", ""), time.time())
            return "later", f"status {status}"
        self.too_large = status == _TOO_LARGE
        return "refused", f"status {status}{_REMEDIES.get(status, '')}"


def rejected_in(answer: bytes, kind: str) -> tuple[int, str]:
    """How many spans a successful answer says were not kept, and why (OTLP specification, partial success)."""
    try:
        if kind.startswith("application/json"):
            partial = msgspec.json.decode(answer or b"{}").get("partialSuccess") or {}
            count, why = int(partial.get("rejectedSpans", 0)), str(partial.get("errorMessage", ""))
        else:
            partial = _fields(_fields(answer).get(1, b""))
            count, why = partial.get(1, 0), partial.get(2, b"").decode("utf-8", "replace")
    except (ValueError, AttributeError, TypeError, IndexError):
        return 0, ""
    # What a stranger says is to fit a line of the log.
    return count, "".join(each if each.isprintable() else " " for each in why[:200])


def _fields(data: bytes) -> dict[int, Any]:
    """The fields of a message that have numbers or lengths, by number; raises IndexError where it breaks off."""
    found: dict[int, Any] = {}
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        value, at = _varint(data, at)
        if tag & 7 == 2:
            found[tag >> 3], at = data[at : at + value], at + value
        elif tag & 7 == 0:
            found[tag >> 3] = value
        else:
            break
    return found


def _varint(data: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while data[at] > 127:
        number |= (data[at] & 127) << shift
        at, shift = at + 1, shift + 7
    return number | data[at] << shift, at + 1
