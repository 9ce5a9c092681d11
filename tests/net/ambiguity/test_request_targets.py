"""Targets and hosts: every form of RFC 9112, 3.2, and who is asked when two places differ (RFC 9110, 7.2)."""

from __future__ import annotations

from typing import Any

import pytest

pytestmark = pytest.mark.asyncio(loop_factories=["uvloop"])


def ask(target: bytes, host: bytes | None = b"h.example", method: bytes = b"GET", version: bytes = b"1.1") -> bytes:
    field = b"" if host is None else b"Host: " + host + b"\r\n"
    return method + b" " + target + b" HTTP/" + version + b"\r\n" + field + b"\r\n"


def hosts(*lines: bytes) -> bytes:
    return b"GET /p HTTP/1.1\r\n" + b"".join(line + b"\r\n" for line in lines) + b"\r\n"


def same(name: str, raw: bytes) -> tuple[str, bytes, bytes]:
    return name, raw, raw


ORIGIN = [
    # The bytes of path and query belong to the server behind.
    *(
        same(f"origin-{name}", ask(target))
        for name, target in {
            "root": b"/",
            "encoded-slash": b"/a%2Fb",
            "encoded-slash-lower": b"/a%2fb",
            "encoded-nul": b"/a%00b",
            "encoded-line-end": b"/a%0d%0aHost:%20evil",
            "encoded-dots": b"/%2e%2e/b",
            "encoded-percent": b"/a%252Fb",
            "dots": b"/a/../b/./c",
            "dots-at-first": b"/../../b",
            "double-slash-inside": b"/a//b",
            "trailing-slash": b"/a/",
            "semicolon": b"/a;b=c/d",
            "query": b"/a?b=c&d=%20",
            "empty-query": b"/a?",
            "two-question-marks": b"/a?b?c",
            "query-with-slashes": b"/a?b=/../c//d",
            "query-of-a-url": b"/a?u=http://evil.example/",
            "path-of-a-url": b"/http://evil.example/",
            "colon": b"/a:80",
            "at": b"/a@b",
            "all-that-is-allowed": b"/az-09._~!$&'()*+,;=:@%41",
            # absolute-path is 1*( "/" segment ) and a segment may be empty: no authority is meant here.
            "double-slash-at-first": b"//evil.example/b",
            "three-slashes-at-first": b"///b",
            "slashes-alone": b"//",
            # No URI has these, and they are in use: one meaning only, so passed on.
            "backslash": b"/a\\b",
            "quotes": b"/a\"b'c",
            "brackets": b"/a[0]?b[]=c",
            "braces": b"/a{b}|c^d`e",
            "angles": b"/a<b>c",
            "bad-escape": b"/a%zz%",
        }.items()
    ),
    # Servers differ in what character such bytes are.
    ("origin-utf-8", ask(b"/caf\xc3\xa9"), 400),
    ("origin-latin-1", ask(b"/caf\xe9"), 400),
    ("origin-utf-8-query", ask(b"/p?q=\xc3\xa9"), 400),
    ("origin-with-fragment", ask(b"/a#b"), 400),
    ("origin-with-empty-fragment", ask(b"/a#"), 400),
    ("origin-with-fragment-in-the-query", ask(b"/a?b#c"), 400),
    ("relative", ask(b"a/b"), 400),
    ("relative-dots", ask(b"../b"), 400),
    ("query-alone", ask(b"?b=c"), 400),
    ("fragment-alone", ask(b"#b"), 400),
    ("backslash-at-first", ask(b"\\b"), 400),
    ("encoded-at-first", ask(b"%2Fb"), 400),
    ("semicolon-at-first", ask(b";b"), 400),
    ("host-alone", ask(b"h.example"), 400),
    ("host-and-path", ask(b"h.example/p"), 400),
]

ABSOLUTE = [
    ("absolute", ask(b"http://h.example/p"), ask(b"/p")),
    ("absolute-upper-case-scheme", ask(b"HTTP://h.example/p"), ask(b"/p")),
    # RFC 9112, 3.2.2: what Host says is then ignored and replaced.
    ("absolute-other-host", ask(b"http://h.example/p", b"other.example"), ask(b"/p")),
    ("absolute-other-port", ask(b"http://h.example:81/p", b"h.example"), ask(b"/p", b"h.example:81")),
    ("absolute-other-case", ask(b"http://H.Example/p", b"h.example"), ask(b"/p", b"H.Example")),
    ("absolute-ipv6", ask(b"http://[::1]:80/p"), ask(b"/p", b"[::1]:80")),
    ("absolute-ipv4", ask(b"http://192.0.2.1/p"), ask(b"/p", b"192.0.2.1")),
    ("absolute-no-path", ask(b"http://h.example"), ask(b"/")),
    ("absolute-query-alone", ask(b"http://h.example?q=1"), ask(b"/?q=1")),
    ("absolute-query-with-slash", ask(b"http://h.example?q=/a"), ask(b"/?q=/a")),
    ("absolute-odd-path", ask(b"http://h.example/../a%2Fb//c"), ask(b"/../a%2Fb//c")),
    ("absolute-path-of-slashes", ask(b"http://h.example//evil.example/p"), ask(b"//evil.example/p")),
    ("absolute-at-in-the-path", ask(b"http://h.example/@evil.example"), ask(b"/@evil.example")),
    ("absolute-at-in-the-query", ask(b"http://h.example?@evil.example"), ask(b"/?@evil.example")),
    ("absolute-of-http-1.0", ask(b"http://h.example/p", None, version=b"1.0"), ask(b"/p"), "closes"),
    ("absolute-of-http-1.0-other-host", ask(b"http://h.example/p", b"x.example", version=b"1.0"), ask(b"/p"), "closes"),
    ("absolute-without-host", ask(b"http://h.example/p", None), 400),
    ("absolute-two-hosts", b"GET http://h.example/p HTTP/1.1\r\nHost: h.example\r\nHost: h.example\r\n\r\n", 400),
    # 3.2: a Host that is none is refused whatever the target says.
    ("absolute-bad-host", ask(b"http://h.example/p", b"a b"), 400),
    # RFC 9110, 7.4: not received over a secured connection, so it is not ours to answer.
    ("absolute-https", ask(b"https://h.example/p"), 421),
    *(
        (f"absolute-{name}", ask(target), 400)
        for name, target in {
            "userinfo": b"http://user@h.example/p",
            "userinfo-password": b"http://user:pw@h.example/p",
            "userinfo-empty": b"http://@h.example/p",
            "two-ats": b"http://a@b@h.example/p",
            "backslash-at": b"http://evil.example\\@h.example/p",
            "fragment": b"http://h.example/p#x",
            "fragment-no-path": b"http://h.example#x",
            "no-host": b"http:///p",
            "port-alone": b"http://:80/p",
            "nothing": b"http://",
            "query-no-host": b"http://?q",
            "one-slash": b"http:/h.example/p",
            "no-slash": b"http:h.example/p",
            "three-slashes": b"http:///h.example/p",
            "backslashes": b"http:\\\\h.example/p",
            "word-port": b"http://h.example:x/p",
            "signed-port": b"http://h.example:-80/p",
            "two-ports": b"http://h.example:80:80/p",
            "bracket-unended": b"http://[::1/p",
            "bracket-unbegun": b"http://::1]/p",
            "bracket-empty": b"http://[]/p",
            "bracket-word": b"http://[h.example]/p",
            "behind-bracket": b"http://[::1]x/p",
            "8-bit-host": b"http://b\xc3\xbccher.example/p",
            "scheme-ftp": b"ftp://h.example/p",
            "scheme-ws": b"ws://h.example/p",
            "scheme-file": b"file:///etc/passwd",
            "scheme-gopher": b"gopher://h.example/p",
            "scheme-made-up": b"x://h.example/p",
            "scheme-empty": b"://h.example/p",
            "scheme-javascript": b"javascript:alert(1)",
        }.items()
    ),
]

OTHER_FORMS = [
    ("connect", ask(b"h.example:443", method=b"CONNECT"), 405),
    ("connect-without-port", ask(b"h.example", method=b"CONNECT"), 405),
    ("connect-with-a-path", ask(b"/p", method=b"CONNECT"), 405),
    ("connect-ipv6", ask(b"[::1]:443", method=b"CONNECT"), 405),
    ("connect-of-http-1.0", ask(b"h.example:443", method=b"CONNECT", version=b"1.0"), 405),
    ("authority", ask(b"h.example:80"), 400),
    ("authority-post", ask(b"h.example:80", method=b"POST"), 400),
    same("asterisk", ask(b"*", method=b"OPTIONS")),
    same("options-of-a-path", ask(b"/p", method=b"OPTIONS")),
    # 3.2.4: the absolute form of "*".
    ("asterisk-absolute", ask(b"http://h.example", method=b"OPTIONS"), ask(b"*", method=b"OPTIONS")),
    ("asterisk-absolute-with-path", ask(b"http://h.example/", method=b"OPTIONS"), ask(b"/", method=b"OPTIONS")),
    ("asterisk-get", ask(b"*"), 400),
    ("asterisk-post", ask(b"*", method=b"POST"), 400),
    ("asterisk-and-more", ask(b"*/p", method=b"OPTIONS"), 400),
    ("two-asterisks", ask(b"**", method=b"OPTIONS"), 400),
]

HOSTS = [
    *(
        same(f"host-{name}", ask(b"/p", value))
        for name, value in {
            "port": b"h.example:8080",
            "upper-case": b"H.EXAMPLE",
            "trailing-dot": b"h.example.",
            "underscore": b"my_h.example",
            "hyphens": b"xn--bcher-kva.example",
            "one-word": b"localhost",
            "ipv4": b"192.0.2.1",
            "ipv4-port": b"192.0.2.1:80",
            "ipv6": b"[2001:db8::1]",
            "ipv6-port": b"[::1]:8080",
            "ipv6-of-ipv4": b"[::ffff:192.0.2.1]",
            # port is *DIGIT (RFC 3986, 3.2.3).
            "empty-port": b"h.example:",
            "among-blanks": b" \th.example \t",
        }.items()
    ),
    same("host-in-lower-case", hosts(b"host: h.example")),
    same("host-behind-others", hosts(b"A: b", b"Host: h.example", b"C: d")),
    ("host-missing", ask(b"/p", None), 400),
    ("host-with-underscore-alone", hosts(b"X-Host: h.example", b"Host_: h.example"), 400),
    ("hosts-equal", hosts(b"Host: h.example", b"Host: h.example"), 400),
    ("hosts-differ", hosts(b"Host: h.example", b"Host: evil.example"), 400),
    ("hosts-in-two-cases", hosts(b"Host: h.example", b"A: b", b"hOST: evil.example"), 400),
    ("hosts-one-empty", hosts(b"Host: h.example", b"Host:"), 400),
    ("host-blank-before-colon", hosts(b"Host : h.example"), 400),
    ("host-tab-before-colon", hosts(b"Host\t: h.example"), 400),
    ("host-second-with-blank", hosts(b"Host: h.example", b"Host : evil.example"), 400),
    ("host-leading-blank", hosts(b" Host: h.example"), 400),
    ("host-leading-tab", hosts(b"\tHost: h.example"), 400),
    ("host-second-leading-blank", hosts(b"Host: h.example", b" Host: evil.example"), 400),
    ("host-folded", hosts(b"Host:", b" h.example"), 400),
    *(
        (f"host-{name}", ask(b"/p", value), 400)
        for name, value in {
            # RFC 9112, 3.3 lets a server put in a default; who asks for nobody is rather told so.
            "empty": b"",
            "blanks-alone": b" \t ",
            "port-alone": b":80",
            "userinfo": b"user@h.example",
            "userinfo-password": b"user:pw@h.example",
            "path": b"h.example/p",
            "slash": b"h.example/",
            "query": b"h.example?q",
            "fragment": b"h.example#x",
            "backslash": b"h.example\\evil",
            "url": b"http://h.example",
            "double-slash": b"//h.example",
            "blank-inside": b"h.example evil.example",
            "tab-inside": b"h.example\tevil.example",
            "blank-before-port": b"h.example :80",
            "comma-blank": b"h.example, evil.example",
            # RFC 3986 has these in names, DNS has not: to whoever splits fields, or decodes, it is another host.
            "comma": b"h.example,evil.example",
            "semicolon": b"h.example;evil.example",
            "encoded-slash": b"h.example%2Fp",
            "encoded-at": b"user%40h.example",
            "encoded-nul": b"h%00.example",
            "port-word": b"h.example:http",
            "port-hex": b"h.example:0x50",
            "port-signed": b"h.example:+80",
            "port-minus": b"h.example:-80",
            "port-blank": b"h.example: 80",
            "port-fraction": b"h.example:8.0",
            # *DIGIT allows them; no connection has such a port.
            "port-too-large": b"h.example:65536",
            "port-huge": b"h.example:99999999999999999999",
            "two-ports": b"h.example:80:81",
            "ipv6-bare": b"::1",
            "bracket-unended": b"[::1",
            "bracket-unbegun": b"::1]",
            "bracket-empty": b"[]",
            "bracket-blank": b"[ ::1]",
            "bracket-word": b"[h.example]",
            "bracket-behind": b"[::1]h",
            "bracket-before": b"h[::1]",
            "bracket-two": b"[::1][::1]",
            "bracket-port-word": b"[::1]:x",
            "ipv6-bad": b"[::g]",
            "ipv6-two-gaps": b"[1::2::3]",
            "angles": b"<h.example>",
            "quotes": b'"h.example"',
            "braces": b"{h}",
            "caret": b"h^",
            "pipe": b"h|x",
            "utf-8": b"b\xc3\xbccher.example",
            "latin-1": b"b\xfccher.example",
            "nul": b"h.example\x00",
            "control": b"h\x01.example",
            "del": b"h.example\x7f",
            "vertical-tab": b"\x0bh.example",
            "cr": b"h.example\revil",
            "lf": b"h.example\nevil",
            "bad-escape": b"h%zz.example",
        }.items()
    ),
]

TABLES = (ORIGIN, ABSOLUTE, OTHER_FORMS, HOSTS)


@pytest.mark.parametrize(
    ("raw", "outcomes"), [pytest.param(raw, outcomes, id=name) for table in TABLES for name, raw, *outcomes in table]
)
async def test_targets(request_row: Any, raw: bytes, outcomes: list[Any]) -> None:
    await request_row(raw, outcomes)


async def test_http_1_0_without_a_host_is_asked_for_by_one(world: Any) -> None:
    """The server behind is spoken to in HTTP/1.1: its Host is where the client connected to (RFC 9112, 3.3)."""
    upstream = await world.upstream()
    house = await world.router(upstream)
    client = await world.client(house)
    client.send(ask(b"/p", None, version=b"1.0"))
    assert (await client.response()).status == 200
    (head,) = upstream.requests
    assert head.first == "GET /p HTTP/1.1"
    assert head.all("Host") == ["{}:{}".format(*house.sockets[0].getsockname())]
    assert head.all("X-Forwarded-Host") in ([], head.all("Host")), "nobody was asked for by an empty name"
