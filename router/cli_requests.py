"""Requests that `router check` is asked about, as the command line writes them.

Only reading stands here: nothing is decided and nothing is sent. The URL's host becomes the Host field; the path and
the query keep their bytes.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import msgspec
import rich_click as click

from router.configfill import is_unicode
from router.configforms import header_name_problem, method_problem
from router.policy.routes import split_host

__all__ = [
    "FORM",
    "Field",
    "Request",
    "completed",
    "parse_client",
    "parse_field",
    "parse_request",
    "request_options",
]

FORM = 'a request is written like "GET https://shop.example/cart/7"'

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_TARGET = re.compile(r"[!-~]*")
#: What stands for itself in a path and query.
_SAFE = "".join(map(chr, range(0x21, 0x7F)))

Field = tuple[str, str]
_Read = TypeVar("_Read")
_Command = TypeVar("_Command", bound=Callable[..., Any])


class Request(msgspec.Struct, frozen=True):
    """One request, as a client would send it."""

    #: As it was written.
    text: str
    method: str
    scheme: str
    host: str
    #: Path and query.
    target: str
    #: Besides Host, in order.
    fields: tuple[Field, ...] = ()
    #: Address of the client; "" if it does not matter.
    client: str = ""

    def with_more(self, fields: Iterable[Field], client: str) -> Request:
        """The same with more fields and a client. A Host field takes the place of the URL's host.

        Raises:
            ValueError: there is more than one Host.
        """
        fields = tuple(fields)
        hosts = [value for name, value in fields if name.lower() == "host"]
        if len(hosts) > 1:
            raise ValueError("a request has one Host field")
        others = tuple(field for field in fields if field[0].lower() != "host")
        return msgspec.structs.replace(
            self, host=hosts[0] if hosts else self.host, fields=self.fields + others, client=client
        )

    @property
    def head(self) -> bytes:
        """The bytes of its head."""
        lines = [f"{self.method} {self.target} HTTP/1.1", f"Host: {self.host}"]
        lines += [f"{name}: {value}" for name, value in self.fields]
        return "\r\n".join([*lines, "", ""]).encode()


def parse_request(text: str) -> Request:
    """Reads "GET https://shop.example/cart/7"; without a method it is GET.

    Raises:
        ValueError: with one sentence that says what is wrong and what would be right.
    """
    if _CONTROL.search(text) or not is_unicode(text):
        raise ValueError("a request is text without control characters")
    words = text.split()
    if not 1 <= len(words) <= 2:
        raise ValueError(f"{FORM}; a blank in the URL is %20" if words else FORM)
    method = words[0] if len(words) == 2 else "GET"
    problem = method_problem(method)
    if problem is not None:
        raise ValueError("; ".join(filter(None, problem)))
    scheme, host, target = _split_url(words[-1])
    return Request(text, method, scheme, host, target)


def _split_url(url: str) -> tuple[str, str, str]:
    scheme, mark, rest = url.partition("://")
    if not mark:
        raise ValueError(f"the URL has no scheme and host; {FORM}")
    if scheme.lower() not in ("http", "https"):
        raise ValueError("the URL starts with http:// or https://")
    if "#" in rest:
        raise ValueError("a request has no fragment: leave out what begins with '#'")
    at = min((rest.find(c) for c in "/?" if c in rest), default=len(rest))
    host, target = rest[:at], rest[at:]
    if "@" in host:
        raise ValueError("the URL carries no user name or password")
    try:
        split_host(host)
    except ValueError:
        raise ValueError("the URL's host is not a host name or address, with or without a port") from None
    if not _TARGET.fullmatch(target):
        raise ValueError(f"a URL escapes what is not ASCII: write {quote(target, _SAFE)}")
    return scheme.lower(), host, target if target.startswith("/") else f"/{target}"


def parse_field(name: str, value: str) -> Field:
    """A header field without the blanks around its value. Raises ValueError like parse_request."""
    problem = header_name_problem(name)
    if problem is not None:
        raise ValueError(problem.message)
    value = value.strip(" \t")
    if _CONTROL.search(value.replace("\t", "")) or not is_unicode(value):
        raise ValueError("a header's value is text without control characters")
    return name, value


def parse_client(text: str) -> str:
    """The address of a client. Raises ValueError like parse_request."""
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise ValueError("a client is an IP address, such as '192.0.2.7'") from None


def completed(requests: Iterable[Request], fields: Iterable[Field], client: str | None) -> list[Request]:
    """The requests of a command line with the fields and the client that it gives them all.

    Raises:
        click.UsageError: they belong to no request, or do not go together.
    """
    fields = tuple(fields)
    requests = list(requests)
    if (fields or client) and not requests:
        raise click.UsageError("-H and --client belong to a --request")
    try:
        return [request.with_more(fields, client or "") for request in requests]
    except ValueError as error:
        raise click.UsageError(str(error)) from error


def _read_request(text: str) -> Request:
    return _argument(text, lambda: parse_request(text))


def _read_field(text: str) -> Field:
    name, colon, value = text.partition(":")
    if not colon:
        raise click.BadParameter(f"{text!r}: a header is written like 'Name: value'")
    return _argument(text, lambda: parse_field(name, value))


def _read_client(text: str) -> str:
    return _argument(text, lambda: parse_client(text))


def _argument(text: str, read: Callable[[], _Read]) -> _Read:
    try:
        return read()
    except ValueError as error:
        raise click.BadParameter(f"{text!r}: {error}") from error


_OPTIONS = (
    click.option(
        "--request",
        "requests",
        type=_read_request,
        multiple=True,
        metavar="'METHOD URL'",
        help="Say which route and pool this request takes; repeatable.",
    ),
    click.option(
        "-H",
        "--header",
        "fields",
        type=_read_field,
        multiple=True,
        metavar="'NAME: VALUE'",
        help="Header field of every --request; repeatable.",
    ),
    click.option("--client", type=_read_client, metavar="ADDR", help="Address that every --request comes from."),
    click.option(
        "--requests",
        "tests",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Check that each request in FILE goes where FILE says; exit code 1 if one does not.",
    ),
)


def request_options(command: _Command) -> _Command:
    """Adds the options of a command that is asked about requests."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command
