"""What the router answers itself: small, in the form that the client prefers, without traceback or address.

Every answer carries the request id and a stable error name, so that a user's report leads to the log line.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from html import escape
from http import HTTPStatus

import msgspec

from router.errors import RouterError
from router.faults import visible
from router.model import Exchange, Response
from router.policy.headers import is_valid_field

__all__ = ["date_line", "error_response", "given_response", "health_response", "plain_response", "status_line"]

_REASONS = {status.value: status.phrase for status in HTTPStatus}
_HTML = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="color-scheme" content="light dark">
<title>{status} {reason}</title>
<h1>{status} {reason}</h1>
<p>{title}</p>
<p><small>{kind} &middot; request {request}{traced}</small></p>
</html>
"""

_dated: tuple[int, bytes] = (0, b"")
_lines: dict[tuple[int, str], bytes] = {}
_REMEMBERED_LINES = 256


def date_line() -> bytes:
    """The Date field of now (RFC 9110 §6.6.1), made once a second."""
    global _dated
    now = int(time.time())
    if _dated[0] != now:
        _dated = (now, time.strftime("Date: %a, %d %b %Y %H:%M:%S GMT\r\n", time.gmtime(now)).encode())
    return _dated[1]


def status_line(status: int, reason: str | None = None) -> bytes:
    """`HTTP/1.1 200 OK`; without `reason`, the standard one."""
    key = (status, _REASONS.get(status, "") if reason is None else reason)
    line = _lines.get(key)
    if line is None:
        if len(_lines) >= _REMEMBERED_LINES:
            _lines.clear()
        line = _lines[key] = f"HTTP/1.1 {status} {key[1]}".encode("utf-8", "surrogateescape")
    return line


def plain_response(status: int, kind: bytes, body: bytes, *, head_only: bool = False, extra: bytes = b"") -> bytes:
    """A whole response of the router's own.

    Args:
        kind: the media type.
        head_only: the request was HEAD: its Content-Length is told, its body is not sent.
        extra: more whole lines.
    """
    head = b"%b\r\nContent-Type: %b\r\nContent-Length: %d\r\nCache-Control: no-store\r\n%b%b\r\n" % (
        status_line(status),
        kind,
        len(body),
        date_line(),
        extra,
    )
    return head if head_only else head + body


def error_response(
    error: RouterError,
    *,
    request_id: str,
    headers: Mapping[str, str] | None,
    head_only: bool = False,
    connection: bytes = b"",
    trace_id: str = "",
) -> bytes:
    """The answer to an exchange that failed.

    Args:
        trace_id: of the trace that the request belongs to; "" where there is none.
        headers: of the request, for its Accept field; None if it never became one.
        connection: a whole Connection line, or nothing.
    """
    status = error.status
    fields = {"status": status, "kind": error.kind, "title": error.title, "request": request_id}
    if trace_id:
        fields["trace"] = trace_id
    accept = (headers.get("Accept") or "") if headers is not None else ""
    if "text/html" in accept:
        media = b"text/html; charset=utf-8"
        shown = {key: escape(str(value)) for key, value in {"trace": "", **fields}.items()}
        shown["traced"] = f" &middot; trace {escape(trace_id)}" if trace_id else ""
        body = _HTML.format(reason=_REASONS.get(status, ""), **shown).encode()
    elif "application/json" in accept or "+json" in accept:
        media = b"application/json"
        body = msgspec.json.encode({"error": fields}) + b"\n"
    else:
        media = b"text/plain; charset=utf-8"
        trace = f"trace {visible(trace_id)}\n" if trace_id else ""
        body = f"{status} {error.kind}: {error.title}\nrequest {request_id}\n{trace}".encode()
    extra = b"X-Request-ID: %b\r\n" % request_id.encode("latin-1")
    if status == 503:
        extra += b"Retry-After: 1\r\n"
    if status in (200, 405):
        extra += b"Allow: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS\r\n"
    extra += connection
    return plain_response(status, media, body, head_only=head_only, extra=extra)


def health_response(exchange: Exchange, path: str, *, draining: bool, extra: bytes = b"") -> bytes | None:
    """The router's own health: ready at `path` and `path`/ready, live at `path`/live; None for other paths.

    Args:
        extra: more whole lines.
    """
    rest = exchange.path.removeprefix(path) if exchange.target.startswith(path) else None
    if rest not in ("", "/ready", "/live"):
        return None
    ready = b"false" if draining else b"true"
    status = 503 if draining and rest != "/live" else 200
    return plain_response(
        status,
        b"application/json",
        b'{"live":true,"ready":%b}\n' % ready,
        head_only=exchange.method == "HEAD",
        extra=extra,
    )


def given_response(answer: Response, *, head_only: bool, connection: bytes = b"", hsts: bytes = b"") -> bytes:
    """A filter's own answer as bytes; its framing is the core's, whatever the filter says.

    Args:
        connection: whole lines of the router's own, or nothing.
        hsts: the listener's Strict-Transport-Security as a whole line, in place of the filter's; or nothing.
    """
    lines = [
        b"%b: %b\r\n" % field
        for field in answer.headers
        if is_valid_field(*field) and field[0].lower() not in (b"x-request-id", b"x-router-explain")
    ]
    if hsts:
        lines = [line for line in lines if not line.lower().startswith(b"strict-transport-security:")] + [hsts]
    bodiless = answer.status in (204, 304)
    if not bodiless:
        lines.append(b"Content-Length: %d\r\n" % len(answer.body))
    if not any(name.lower() == b"date" for name, _ in answer.headers):
        lines.append(date_line())
    body = b"" if head_only or bodiless else answer.body
    return b"".join((status_line(answer.status), b"\r\n", *lines, connection, b"\r\n", body))
