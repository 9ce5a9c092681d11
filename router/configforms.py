"""How single values are written: bind addresses, host and path patterns, names, methods, headers, networks.

Each function looks at one string alone. A message never repeats the string, which may be secret; a hint may, and is
left out by whoever knows that the string was filled in from outside.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Literal, NamedTuple
from urllib.parse import unquote

from router.configfill import Problem
from router.faults import did_you_mean

__all__ = [
    "Bind",
    "bind_problem",
    "control_problem",
    "header_name_problem",
    "host_problem",
    "method_problem",
    "name_problem",
    "network_problem",
    "parse_bind",
    "path_problem",
    "retry_problem",
]

#: Bytes of a socket's path that Linux takes, without the closing zero.
MAX_UNIX_PATH = 107

_NAME = re.compile(r"[A-Za-z0-9._-]+")
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_LABEL = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_CONTROL = re.compile(r"[\x00-\x20\x7f]")
_ESCAPE = re.compile(r"%(?!25)[0-9A-Fa-f]{2}")
_RETRY_WORDS = ("connect", "reset", "timeout", "5xx")


class Bind(NamedTuple):
    """Where a listener accepts: host and port, or the path of a socket."""

    kind: Literal["tcp", "unix"]
    #: "" stands for all interfaces; IPv6 without brackets.
    host: str = ""
    #: 0 lets the system choose.
    port: int = 0
    path: str = ""

    def __str__(self) -> str:
        if self.kind == "unix":
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def overlaps(self, other: Bind) -> bool:
        """Whether the two cannot be open at once."""
        if self.kind != other.kind or self.port != other.port:
            return False
        if self.kind == "unix":
            return self.path == other.path
        if self.port == 0:
            return False
        hosts = {self.host, other.host}
        if len(hosts) == 1 or "" in hosts:
            return True
        same_family = (":" in self.host) == (":" in other.host)
        return same_family and bool(hosts & {"0.0.0.0", "::"})


def parse_bind(text: str) -> Bind:
    """Reads "127.0.0.1:8080", "[::1]:80", "localhost:8080", ":8080" (all interfaces) or "unix:/run/router.sock".

    Raises:
        ValueError: with one sentence that says what is wrong and what would be right.
    """
    problem = bind_problem(text)
    if problem is not None:
        raise ValueError("; ".join(filter(None, problem)))
    if text.startswith("unix:"):
        return Bind("unix", path=text[5:])
    host, _, port = text.rpartition(":")
    host = host.lower()
    if host.startswith("["):
        host = str(ipaddress.IPv6Address(host[1:-1]))
    return Bind("tcp", host, int(port))


def bind_problem(text: str) -> Problem | None:
    """What is wrong with a listener's address, or None."""
    if text.startswith("unix:"):
        return _socket_problem(text[5:])
    scheme = _SCHEME.match(text)
    if scheme:
        return Problem("a listener has no scheme", f"write {text[scheme.end() :].rstrip('/')!r}")
    host, colon, port = text.rpartition(":")
    if not colon:
        hint = f"write ':{text}' for all interfaces" if text.isdigit() else 'as in "127.0.0.1:8080"'
        return Problem("a listener's address has a host and a port", hint)
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and int(port) <= 65535):
        return Problem("the port is not a number from 0 to 65535", 'an address is written like "127.0.0.1:8080"')
    if host == "*":
        return Problem("all interfaces are written without a host", f"write ':{port}'")
    if host.startswith("[") and host.endswith("]"):
        good = _is_address(host[1:-1], 6)
    elif ":" in host:
        return Problem("an IPv6 address stands in brackets", f"write '[{host}]:{port}'")
    else:
        good = not host or _is_address(host, 4) or (_is_host(host) and not _looks_like_ipv4(host))
    return None if good else Problem("the host is neither an IP address nor a host name")


def _socket_problem(path: str) -> Problem | None:
    if not path.startswith("/") or path.endswith("/") or "\0" in path:
        return Problem("a unix socket needs an absolute path", 'as in "unix:/run/router.sock"')
    if len(path.encode()) > MAX_UNIX_PATH:
        return Problem(f"the path of a unix socket has at most {MAX_UNIX_PATH} bytes")
    return None


def control_problem(text: str) -> Problem | None:
    """What is wrong with the path of the control socket, which may be relative."""
    if text.startswith("unix:"):
        return Problem("this is a path, without a scheme", f"write {text[5:]!r}")
    if text.endswith("/") or _CONTROL.search(text):
        return Problem("expected the path of a socket", 'as in "router.sock" or "/run/router/control.sock"')
    if len(text.encode()) > MAX_UNIX_PATH:
        return Problem(f"the path of a unix socket has at most {MAX_UNIX_PATH} bytes")
    return None


def host_problem(text: str) -> Problem | None:
    """What is wrong with a route's host pattern: an exact host, or "*.example.com"."""
    bare = text.removeprefix("*.")
    if not text or text in ("*", "*."):
        return Problem("a host is a name such as 'example.com'", "leave the key out to match every host")
    if _SCHEME.match(text):
        return Problem("a host has no scheme", f"write {text.partition('://')[2].split('/')[0]!r}")
    if "/" in text:
        return Problem("a host has no path", "the path goes into the key 'path'")
    if _CONTROL.search(text):
        return Problem("a host has no blanks", f"write {_CONTROL.sub('', text)!r}")
    if bare.startswith("[") and bare.endswith("]") and bare == text and _is_address(text[1:-1], 6):
        return None
    if ":" in text:
        return Problem("a host has no port; every listener is meant", f"write {text.rpartition(':')[0]!r}")
    if "*" in bare:
        return Problem("'*' stands only for the first labels, as in '*.example.com'")
    if text[0] == ".":
        return Problem("a host does not start with a dot", f"write {'*' + text!r}")
    if not text.isascii():
        return Problem("a host stands in its ASCII form", _ascii_hint(bare))
    if not _is_host(bare):
        hint = f"write {text[:-1]!r}" if text.endswith(".") else ""
        return Problem("a host has labels of letters, digits and hyphens, with single dots between them", hint)
    return None


def path_problem(text: str) -> Problem | None:
    """What is wrong with a route's path pattern: "/x" exactly, or "/x/*" for all below."""
    if not text.startswith("/"):
        return Problem("a path starts with '/'", f"write {'/' + text!r}")
    if "?" in text:
        return Problem("a path has no query", "conditions on the query go into the key 'query'")
    if "#" in text:
        return Problem("a path has no fragment: browsers never send one")
    if not text.isprintable() or not text.isascii():
        return Problem("a path is made of printable ASCII characters")
    if "%2f" in text.lower():
        return Problem("an encoded slash cannot be matched", "match the path above it, with '/*' at its end")
    if ";" in text or "\\" in text:
        return Problem(
            "servers differ on ';' and '\\' in a path: neither can be matched",
            "match the path above it, with '/*' at its end",
        )
    if _ESCAPE.search(text):
        return Problem("a path is written without escapes: requests are decoded before", f"write {unquote(text)!r}")
    if "//" in text:
        return Problem("a path has no empty segment", f"write {re.sub('/+', '/', text)!r}")
    segments = text[1:].split("/")
    if "." in segments or ".." in segments:
        return Problem("a path has no '.' or '..' segments: write it as it resolves")
    if "*" in text.removesuffix("/*"):
        # What stands before the star is kept: a wider pattern than was meant would be a dangerous hint.
        above = "/".join(["", *(named for part in segments if (named := part.replace("*", ""))), "*"])
        return Problem("'*' stands only for all below, as the last segment", f"such as {above!r}")
    return None


def name_problem(text: str) -> Problem | None:
    """What is wrong with the name of a pool or route."""
    if _NAME.fullmatch(text):
        return None
    fixed = re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-")
    return Problem("a name is made of letters, digits, '.', '_' and '-'", f"such as {fixed!r}" if fixed else "")


def method_problem(text: str) -> Problem | None:
    if not _TOKEN.fullmatch(text):
        return Problem("a method is one word, such as 'GET'")
    if text != text.upper():
        return Problem("methods are in upper case", f"did you mean {text.upper()!r}?")
    return None


def header_name_problem(text: str) -> Problem | None:
    return None if _TOKEN.fullmatch(text) else Problem("a header's name is one word, such as 'X-Version'")


def network_problem(text: str) -> Problem | None:
    """What is wrong with a trusted proxy: an IP address or a network such as 10.0.0.0/8."""
    try:
        ipaddress.ip_network(text)
    except ValueError:
        try:
            network = ipaddress.ip_network(text, strict=False)
        except ValueError:
            return Problem("expected an IP address or a network, such as '10.0.0.0/8'")
        return Problem("this network has bits set beyond its prefix", f"did you mean {str(network)!r}?")
    return None


def retry_problem(text: str) -> Problem | None:
    """What is wrong with a word of retry.on."""
    if text in _RETRY_WORDS or (len(text) == 3 and text[0] == "5" and text.isascii() and text.isdigit()):
        return None
    message = "expected 'connect', 'reset', 'timeout', '5xx' or a status from '500' to '599'"
    return Problem(message, did_you_mean(text, _RETRY_WORDS))


def _is_address(text: str, version: int) -> bool:
    try:
        return ipaddress.ip_address(text).version == version
    except ValueError:
        return False


def _is_host(text: str) -> bool:
    return len(text) <= 253 and all(map(_LABEL.fullmatch, text.split(".")))


def _looks_like_ipv4(host: str) -> bool:
    return host.rpartition(".")[2].isdigit()


def _ascii_hint(host: str) -> str:
    try:
        return f"write {host.encode('idna').decode()!r}"
    except UnicodeError:
        return ""
