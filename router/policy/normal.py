"""Hosts and paths in the forms in which they are compared. Nothing here is ever sent on: forwarding keeps the bytes.

A path has one normal form, which routes match, and may have loose forms: what servers make of it that undo more.
"""

from __future__ import annotations

import re
from ipaddress import IPv6Address
from urllib.parse import unquote

__all__ = ["AmbiguousPath", "after_prefix", "loose_forms", "may_climb", "normal_path", "split_host"]

# RFC 3986 §3.2.2: a registered name, an IPv4 address or a bracketed IPv6 address, and a port.
# What DNS has of a registered name: others may read two hosts into a comma, or decode an escape.
_HOST = re.compile(r"(\[([0-9A-Fa-f:.]+)\]|[A-Za-z0-9._~-]+)(?::([0-9]{0,5}))?")
_ESCAPE = re.compile(r"%([0-9A-Fa-f]{2})")
_DIGITS = "0123456789ABCDEFabcdef"
_NORMAL = {high + low: chr(int(high + low, 16)) for high in _DIGITS for low in _DIGITS}
_NORMAL |= {"2F": "%2F", "2f": "%2F", "25": "%25"}

#: As often as this an escape may be escaped again.
_MOST_ESCAPES = 3
#: Characters. Reading a path in every way takes up to 3 µs for each, and servers take no longer ones by default.
_LONGEST = 8192
_SLASHES = re.compile(r"/{2,}")
_PARAMETERS = re.compile(r";[^/]*")
#: Where a path ends for servers that decode it before they look for its end, or hand it to functions of C.
_ENDS = "\0?#"
#: What, left over in a normal form, servers read in different ways.
_LOOSE = re.compile(r"[%;\\\0?#]")
#: A segment that climbs, once everything is decoded.
_CLIMBS = re.compile(r"[/\\]\.\.(?![^/;\\\0?#])")


class AmbiguousPath(ValueError):
    """A path that servers read in different ways, in a place where that matters."""


def split_host(host: str) -> str:
    """The name in a Host field: lower case, without port, brackets kept, without a trailing dot.

    Raises:
        ValueError: not a host.
    """
    found = _HOST.fullmatch(host)
    if found is None or int(found[3] or 0) > 65535 or not (found[2] is None or _is_ipv6(found[2])):
        raise ValueError("the Host field is not a host name or address")
    return found[1].lower().removesuffix(".")


def _is_ipv6(text: str) -> bool:
    try:
        IPv6Address(text)
    except ValueError:
        return False
    return True


def normal_path(path: str) -> str:
    """The path that routes are matched against: escapes decoded (not `%2F`, `%25`), empty and dot segments resolved.

    `/a%2Fb` stays apart from `/a/b`; `/x/../y`, `/x/%2e%2e/y` and `//y` all are `/y` (RFC 3986 §6.2.2).
    """
    return _resolved(_SLASHES.sub("/", _ESCAPE.sub(_as_normal, path)))


def loose_forms(path: str) -> set[str]:
    """What servers may make of the path, in the form of `normal_path`; empty if all of them read it alike.

    Servers decode once, with or without `%2F`, or up to three times; some take a backslash for a slash, end the path
    at NUL, `?` or `#`, cut off parameters (`;x`) before or after decoding, or let `..` take away an empty segment
    (RFC 3986 §5.2.4). All combinations, for with dots about what hides from one may show in another.

    Raises:
        AmbiguousPath: more than three layers of escapes, or more than 8 KiB to be read in all these ways.
    """
    normal = _ESCAPE.sub(_as_normal, path)
    if _LOOSE.search(normal) is None and not ("//" in normal and "/.." in normal):
        return set()
    if len(path) > _LONGEST:
        raise AmbiguousPath("the path is too long for one that can be read in several ways")
    layers = {path, _PARAMETERS.sub("", path)}
    texts = {_ESCAPE.sub(_as_normal, text) for text in layers}
    for _ in range(_MOST_ESCAPES):
        layers = {unquote(text, "latin-1") for text in layers}
        texts |= layers
    if any(map(_ESCAPE.search, layers)):
        raise AmbiguousPath("the path is escaped over and over")
    texts |= {text.replace("\\", "/") for text in texts}
    for end in _ENDS:
        texts |= {text.partition(end)[0] for text in texts}
    texts |= {_PARAMETERS.sub("", text) for text in texts}
    texts |= {_SLASHES.sub("/", text) for text in texts}
    return set(map(_resolved, texts))


def may_climb(path: str) -> bool:
    """Whether a server may find a segment `..` in it."""
    for _ in range(_MOST_ESCAPES):
        path = unquote(path, "latin-1")
    return _CLIMBS.search(path) is not None


def _resolved(path: str) -> str:
    """Without dot segments, then without empty ones."""
    segments = path.split("/")
    done: list[str] = []
    for segment in segments[1:]:
        if segment == "..":
            del done[-1:]
        elif segment != ".":
            done.append(segment)
    if segments[-1] in (".", ".."):
        done.append("")
    return _SLASHES.sub("/", f"/{'/'.join(done)}")


def _as_normal(found: re.Match[str]) -> str:
    return _NORMAL[found[1]]


def after_prefix(path: str, prefix: tuple[str, ...]) -> int | None:
    """Where, in a path as it was sent, that begins which lies below a prefix.

    It is the place after the segment that is the prefix's last one in the path's normal form. What follows never
    climbs above that place (the segment would not be part of the normal form), so the normal form of what follows is
    the rest of the whole one's.

    Args:
        path: as sent; from there on it is "" or begins with "/".
        prefix: segments in normal form; none for the whole path without what only climbs above it.

    Returns:
        An index into the path; None if it does not lie below the prefix.
    """
    done: list[tuple[str, int]] = []
    end = floor = 0
    for raw in path.split("/")[1:]:
        end += 1 + len(raw)
        segment = _ESCAPE.sub(_as_normal, raw)
        if segment == "..":
            floor = floor if done else end
            del done[-1:]
        elif segment not in ("", "."):
            done.append((segment, end))
    count = len(prefix)
    if tuple(name for name, _ in done[:count]) != prefix:
        return None
    return done[count - 1][1] if count else floor
