"""Message heads through aiohttp's C parser (llhttp), a whole head at a time.

Nothing but complete heads is fed, and bodies are framed elsewhere, so a parser holds no state between two heads and one
serves any number of connections. What leans on inner parts of aiohttp stands in this file alone.
"""

from __future__ import annotations

import asyncio
import re
from typing import Any

from aiohttp.http import HttpRequestParser, HttpResponseParser
from aiohttp.http_exceptions import BadHttpMethod, HttpProcessingError

from router.errors import (
    BadRequest,
    ClientError,
    HeadTooLarge,
    NotImplementedMethod,
    ProtocolError,
    TargetTooLong,
    VersionNotSupported,
)
from router.net.pages import status_line
from router.policy.fields import TOKEN
from router.policy.headers import has_control_bytes, read_response
from router.policy.plain import BODY_CHUNKED, ResponseHead

__all__ = ["HEAD_END", "RequestHeads", "ResponseHeads", "final_head", "split_head", "without_body"]

HEAD_END = b"\r\n\r\n"
_BLANK = re.compile(rb"(?:\r\n)++")
_VERSION = re.compile(rb"[^\r\n]* HTTP/([0-9]\.[0-9])\r\n")

#: A field that a 204 must not have (RFC 9110 §8.6).
_LENGTH = re.compile(rb"(?i)(?<=\n)content-length:[^\r]*\r\n")
#: aiohttp sizes the buffers of bodies by it; no body passes through these parsers.
_BODY_LIMIT = 1 << 16


def split_head(data: bytes, max_bytes: int) -> tuple[bytes, bytes]:
    """The first whole request head in `data`, empty line included, and what follows it; b"" if none is whole yet.

    Raises:
        HeadTooLarge: it is longer than `max_bytes`, whole or not. TargetTooLong: its first line is. BadRequest: a line
        ends without CR LF.
    """
    blank = _BLANK.match(data)
    if blank is not None:
        # Empty lines before a request (RFC 9112 §2.2).
        data = data[blank.end() :]
    end = data.find(HEAD_END) + 4
    if end > max_bytes or (end == 3 and len(data) > max_bytes):
        if data.find(b"\r\n", 0, max_bytes) < 0:
            raise TargetTooLong(f"more than {max_bytes} bytes")
        raise HeadTooLarge(f"more than {max_bytes} bytes")
    if end != 3:
        return (data, b"") if end == len(data) else (data[:end], data[end:])
    if data.count(b"\n") != data.count(b"\r\n"):
        raise BadRequest("a line of the head ends without CR LF")
    return b"", data


class RequestHeads:
    """Parses request heads, strictly.

    Args:
        max_bytes: longest request line, and longest field.
        max_fields: most fields.
    """

    __slots__ = ("_limits", "_loop", "_parser")

    def __init__(self, loop: asyncio.AbstractEventLoop, max_bytes: int, max_fields: int) -> None:
        self._loop = loop
        self._limits: dict[str, Any] = {
            "max_line_size": max_bytes,
            "max_field_size": max_bytes,
            "max_headers": max_fields,
        }
        self._renew()

    def _renew(self) -> None:
        self._parser = HttpRequestParser(
            None, self._loop, _BODY_LIMIT, response_with_body=False, auto_decompress=False, **self._limits
        )

    def parse(self, head: bytes) -> Any:
        """The message of a whole head: method, path, version, headers, raw_headers, should_close.

        Raises:
            BadRequest, NotImplementedMethod, VersionNotSupported.
        """
        try:
            messages, upgraded, _ = self._parser.feed_data(head)
        except HttpProcessingError as error:
            self._renew()
            raise _refusal(error, head) from None
        # llhttp skips line ends before a message, but others look for the end of its first line: none may be there.
        if len(messages) != 1 or head[0] in b"\r\n":
            self._renew()
            if head.startswith(b"PRI * HTTP/2"):
                raise VersionNotSupported("HTTP/2 without ALPN")
            raise BadRequest("not one request head")
        message = messages[0][0]
        # After the last message of a connection, or an upgrade, llhttp takes no further one.
        if upgraded or message.should_close:
            self._renew()
        if message.version.major != 1:
            raise VersionNotSupported(f"HTTP/{message.version.major}.{message.version.minor}")
        end = head.find(b"\r\n")
        if head[end - 9 : end - 1] != b" HTTP/1.":
            # llhttp knows other protocols of the same form.
            raise BadRequest("not HTTP")
        return message


def _refusal(error: HttpProcessingError, head: bytes) -> ClientError:
    method = head.partition(b" ")[0]
    if isinstance(error, BadHttpMethod) and TOKEN.fullmatch(method):
        return NotImplementedMethod("the request's method is not known")
    version = _VERSION.match(head)
    if version is not None and version[1] not in (b"1.0", b"1.1"):
        return VersionNotSupported("neither HTTP/1.0 nor HTTP/1.1")
    if error.message.startswith("Too many headers"):
        return HeadTooLarge("too many fields")
    # For the debug log: one line, escaped, for it may quote what the client sent.
    return BadRequest(error.message.partition("\n")[0][:200])


class ResponseHeads:
    """Parses response heads. Arguments as RequestHeads."""

    __slots__ = ("_limits", "_loop", "_parser")

    def __init__(self, loop: asyncio.AbstractEventLoop, max_bytes: int, max_fields: int) -> None:
        self._loop = loop
        self._limits: dict[str, Any] = {
            "max_line_size": max_bytes,
            "max_field_size": max_bytes,
            "max_headers": max_fields,
        }
        self._renew()

    def _renew(self) -> None:
        self._parser = HttpResponseParser(
            None, self._loop, _BODY_LIMIT, response_with_body=False, auto_decompress=False, **self._limits
        )

    def parse(self, head: bytes) -> Any:
        """The message of a whole head: code, reason, version, raw_headers, should_close.

        Raises:
            ProtocolError: not one response head.
        """
        try:
            messages, upgraded, _ = self._parser.feed_data(head)
        except HttpProcessingError as error:
            self._renew()
            raise ProtocolError(error.message.partition("\n")[0][:200]) from None
        if len(messages) != 1 or head[0] in b"\r\n":
            self._renew()
            raise ProtocolError("not one response head")
        message = messages[0][0]
        if upgraded or message.should_close:
            self._renew()
        if not head.startswith(b"HTTP/1."):
            raise ProtocolError("not HTTP/1")
        # llhttp takes a blank before the first field for none.
        at = head.find(b"\r\n") + 2
        if has_control_bytes(head, len(message.raw_headers) + 2) or head[at : at + 1] in (b" ", b"\t"):
            raise ProtocolError("control bytes or bare line ends in the response's head")
        return message


def final_head(message: Any, head: bytes) -> ResponseHead:
    """What a parsed final response says.

    Raises:
        ProtocolError: its framing is ambiguous.
    """
    lines, length, closes, has_date, has_id = read_response(message.raw_headers, head[head.find(b"\r\n") : -2])
    if length == BODY_CHUNKED and message.version < (1, 1):
        raise ProtocolError("Transfer-Encoding in HTTP/1.0")
    # HTTP/1.0 closes unless it says otherwise.
    closes = closes or message.should_close
    given = b"%b%b\r\n" % (status_line(message.code, message.reason), lines)
    return message.code, length, given, closes, has_date, has_id


def without_body(head: ResponseHead) -> ResponseHead:
    """The same for a response that has no body whatever its fields say: to HEAD, of status 204 or 304."""
    status, _, given, closes, has_date, has_id = head
    return status, 0, _LENGTH.sub(b"", given) if status == 204 else given, closes, has_date, has_id
