"""How the single values of a route's actions are written: splits, prefixes, hosts, header fields, redirects.

Like configforms.py: each function looks at one string alone, and no message repeats it.
"""

from __future__ import annotations

import re

from router.configfill import Problem
from router.configforms import header_name_problem, host_problem, path_problem
from router.faults import did_you_mean

__all__ = [
    "PLACEHOLDER",
    "PLACEHOLDERS",
    "REDIRECTS",
    "authority_problem",
    "field_value_problem",
    "redirect_problem",
    "replacement_problem",
    "request_field_problem",
    "response_field_problem",
    "split_problem",
    "strip_problem",
]

#: What a redirect may hold of the request, in braces.
PLACEHOLDERS = ("scheme", "host", "path", "query", "uri")
PLACEHOLDER = re.compile(r"\{([^{}]*)\}")

#: Statuses that send a client to the Location beside them (RFC 9110 §15.4).
REDIRECTS = (301, 302, 303, 307, 308)

_FRAMING = ("connection", "content-length", "transfer-encoding", "trailer", "te", "upgrade", "keep-alive")
_OWN = {*_FRAMING, "proxy-connection", "proxy-authenticate", "proxy-authorization", "via", "x-request-id"}
_VOUCHED = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-router-explain")
_PROOF = ("x-client-cert-fingerprint", "x-client-cert-subject")
_OWN_OF_REQUESTS = {*_OWN, *_VOUCHED, *_PROOF, "expect", "max-forwards"}
_OWN_OF_RESPONSES = {*_OWN, "date"}

_SPLIT_WORDS = ("random", "client", "header:", "cookie:")
_WIRE_PATH = re.compile(r"(?:[A-Za-z0-9._~!$&'()*+,;=:@/-]|%[0-9A-Fa-f]{2})*")
_URI = re.compile(r"(?:[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=-]|%[0-9A-Fa-f]{2})*")
_AUTHORITY = re.compile(r"(\[[^\]]*\]|[^:]*)(?::(.*))?", re.DOTALL)
_ABSOLUTE = re.compile(r"(?:https?|\{scheme\})://((?:(?!\{path\}|\{uri\})[^/?#])*)")


def split_problem(text: str) -> Problem | None:
    """What is wrong with what a split goes by: "random", "client", "header:x" or "cookie:x"."""
    kind, colon, name = text.partition(":")
    if text in ("random", "client") or (kind in ("header", "cookie") and colon and not header_name_problem(name)):
        return None
    if kind in ("header", "cookie"):
        return Problem(f"the name of the {kind} is missing, or is not one word", f"such as '{kind}:X-User'")
    near = did_you_mean(text, _SPLIT_WORDS)
    return Problem("expected 'random', 'client', 'header:' or 'cookie:' and a name", near)


def strip_problem(text: str) -> Problem | None:
    """What is wrong with a prefix that is stripped: "/x", meaning "/x" itself and all below."""
    return _prefix_problem(text) or path_problem(text)


def replacement_problem(text: str) -> Problem | None:
    """What is wrong with a prefix that is sent in its place: as the endpoint is to see it, escapes and all."""
    problem = _prefix_problem(text)
    if problem is None and "?" in text:
        return Problem("a path has no query")
    if problem is None and not _WIRE_PATH.fullmatch(text):
        return Problem("this is sent as it stands: what a URL cannot hold is escaped", "such as '/my%20app'")
    if problem is None and ("//" in text or {".", ".."} & {*text.lower().replace("%2e", ".").split("/")}):
        return Problem("a prefix has no empty segments and no '.' or '..': write it as it resolves")
    return problem


def _prefix_problem(text: str) -> Problem | None:
    if not text.startswith("/"):
        return Problem("a prefix starts with '/'", f"write {'/' + text!r}")
    bare = text.removesuffix("*").rstrip("/")
    if "*" in text:
        return Problem("a prefix stands for all below without '*'", f"write {bare!r}" if bare else "")
    if text == "/":
        return Problem("every path begins with '/': there is nothing to replace", "leave the key out")
    return Problem("a prefix has no '/' at its end", f"write {bare!r}") if text.endswith("/") else None


def authority_problem(text: str) -> Problem | None:
    """What is wrong with a Host field: a name or an address, with or without a port."""
    found = _AUTHORITY.fullmatch(text)
    host, port = (found[1], found[2]) if found is not None else (text, None)
    if host.startswith("*"):
        return Problem("this is one host, without '*'")
    problem = host_problem(text if "/" in text else host)
    if problem is not None:
        return Problem(problem.message, "such as 'app.internal' or 'app.internal:8080'")
    if port is not None and not (port.isascii() and port.isdigit() and len(port) <= 5 and 0 < int(port) <= 65535):
        return Problem("the port is not a number from 1 to 65535")
    return None


def request_field_problem(name: str) -> Problem | None:
    """What is wrong with a field that a route sets or removes in requests."""
    # Servers that make variables of names (CGI, WSGI) cannot tell "_" from "-".
    lower = name.lower().replace("_", "-")
    if lower == "host":
        return Problem("the Host field has a key of its own", "write rewrite = { host = … }")
    return _field_problem(name, lower in _OWN_OF_REQUESTS)


def response_field_problem(name: str) -> Problem | None:
    """What is wrong with a field that a route sets or removes in responses."""
    return _field_problem(name, name.lower() in _OWN_OF_RESPONSES)


def _field_problem(name: str, own: bool) -> Problem | None:
    if own:
        return Problem("only the router writes this field: messages would be read wrongly, or the router misquoted")
    if "*" in name:
        return Problem("fields are named one by one, without '*'")
    return header_name_problem(name)


def field_value_problem(text: str) -> Problem | None:
    """What is wrong with the value of a field (RFC 9110 §5.5)."""
    if not text:
        return Problem("this value is empty", "to drop the field, name it in 'remove'")
    if not (text.isascii() and text.isprintable()):
        return Problem("a header's value is one line of printable ASCII characters")
    if text != text.strip(" "):
        return Problem("a header's value has no blanks around it", f"write {text.strip(' ')!r}")
    return None


def redirect_problem(text: str) -> Problem | None:
    """What is wrong with a Location: a path, or a URL with scheme and host; {host} and so on stand for the request's.

    What a client sends may only become part of the path, the query or a checked host, so that no request can make the
    router send a browser to a host of the sender's choice.
    """
    unknown = [name for name in PLACEHOLDER.findall(text) if name not in PLACEHOLDERS]
    if unknown:
        known = ", ".join(f"{{{name}}}" for name in PLACEHOLDERS)
        return Problem("there is no such placeholder", did_you_mean(unknown[0], PLACEHOLDERS) or f"known are {known}")
    bare = PLACEHOLDER.sub("", text)
    if not _URI.fullmatch(bare):
        return Problem("this is no URL: braces are for placeholders, and other characters are escaped, such as '%20'")
    if text.startswith("//"):
        return Problem("a redirect to another host has a scheme", f"write {'https:' + text!r}")
    if text.startswith(("/", "{path}", "{uri}")):
        return None
    found = _ABSOLUTE.match(text)
    if found is None:
        return Problem("a redirect starts with '/', 'http://' or 'https://'", "such as 'https://{host}{uri}'")
    problem = authority_problem(found[1].replace("{host}", "host"))
    if problem is not None:
        return Problem("between '://' and the path stands a host, or {host}", "such as 'https://{host}{uri}'")
    return None
