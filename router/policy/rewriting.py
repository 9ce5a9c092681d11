"""What a route changes in a request on its way to the endpoint, and in the response on its way back.

Raw bytes in, raw bytes out: order, case and spelling of what is not changed stay as they came. Made when the table is
built, from values that the configuration's checks have found to be sound; nothing that a client sends is ever part of
what is written here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from router.policy.normal import after_prefix

__all__ = ["FieldRules", "Rewriting"]

#: What may make the normal form of a path differ from the path itself.
_ODD = re.compile(r"%|//|/\.")
_HOST = re.compile(rb"\r\n(?i:host):([^\r\n]*)")


class FieldRules:
    """Fields that are set and removed. Setting replaces every field of the name; what is set stands at the end.

    Args:
        of_request: servers that make variables of names (CGI, WSGI) take "_" for "-", so a request's fields are found
            in both spellings.
    """

    __slots__ = ("_added", "_dropped", "values")

    def __init__(self, values: Mapping[str, str], removed: Iterable[str], *, of_request: bool = False) -> None:
        #: What is set: names in lower case.
        self.values = {name.lower(): (name.encode(), value.encode()) for name, value in values.items()}
        self._added = b"".join(b"%b: %b\r\n" % field for field in self.values.values())
        names = [re.escape(name.encode()) for name in (*removed, *values)]
        if of_request:
            names = [re.sub(rb"\\?-|_", b"[-_]", name) for name in names]
        pattern = rb"\r\n(?i:%b)[ \t]*:[^\r\n]*" % b"|".join(names)
        self._dropped = re.compile(pattern) if names else None

    def __bool__(self) -> bool:
        return self._dropped is not None

    def apply(self, lines: bytes) -> bytes:
        """The lines after it; they start with the line end before the first field, and end with the last one's."""
        if self._dropped is not None:
            lines = self._dropped.sub(b"", lines)
        return lines + self._added

    def drops(self, name: bytes) -> bool:
        """Whether a field of this name would be removed or replaced."""
        return self._dropped is not None and self._dropped.match(b"\r\n%b:" % name) is not None


class Rewriting:
    """What one route changes.

    Args:
        strip: a path prefix as routes match it, such as "/api"; "" for none.
        replace: what stands in its place; without `strip`, what is put before every path.
        host: the Host field that endpoints see; "" for the client's.
    """

    __slots__ = ("_host", "_prefix", "_replace", "_strip", "fields", "given", "moves")

    def __init__(
        self,
        strip: str = "",
        replace: str = "",
        host: str = "",
        *,
        request: FieldRules | None = None,
        response: FieldRules | None = None,
    ) -> None:
        self._strip = strip
        self._prefix = tuple(strip.split("/")[1:])
        self._replace = replace
        self._host = b" " + host.encode() if host else b""
        #: Rules for the request's fields, and for the response's.
        self.fields = request or FieldRules({}, ())
        self.given = response or FieldRules({}, ())
        #: Whether paths are changed.
        self.moves = bool(strip or replace)

    def __bool__(self) -> bool:
        return bool(self.moves or self._host or self.fields or self.given)

    def request(self, target: str, lines: bytes) -> tuple[str, bytes]:
        """The target and the field lines as they go to the endpoint: prefix, then Host, then remove, then set.

        Args:
            target: in origin form, bytes as sent; "*" stays as it is.
            lines: from the end of the request line to the end of the last field.
        """
        if self.moves:
            target = self._moved(target)
        if self._host:
            lines = self._with_host(lines)
        return target, self.fields.apply(lines)

    def response(self, lines: bytes) -> bytes:
        """The field lines of a response as they go to the client; `lines` as for `request`."""
        return self.given.apply(lines)

    def _with_host(self, lines: bytes) -> bytes:
        found = _HOST.search(lines)
        if found is None:
            return b"\r\nHost:" + self._host + lines
        return lines[: found.start(1)] + self._host + lines[found.end() :]

    def _moved(self, target: str) -> str:
        """The target below another prefix: byte for byte what follows the old one.

        A path that lies below the prefix in normal form alone (`/%61pi/x`, `/x/../api/y`) is cut after the segment
        that is the prefix's last: no dot segment behind it climbs above it, so none climbs above the new prefix
        either. A path that does not lie below the prefix stays as it is.
        """
        path, mark, query = target.partition("?")
        if not path.startswith("/"):
            return target
        if _ODD.search(path) is None:
            under = path.startswith(self._strip) and path[len(self._strip) :][:1] in ("", "/")
            at = len(self._strip) if under else None
        else:
            at = after_prefix(path, self._prefix)
        if at is None:
            return target
        moved = self._replace + path[at:]
        if moved.startswith("//") or not moved:
            # Only what follows a prefix could begin so, and it would look like a host.
            moved = "/" + moved.lstrip("/")
        return f"{moved}{mark}{query}"
