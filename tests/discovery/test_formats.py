"""What a file may say, and what is said of one that is wrong: place, reason, remedy, and never the whole content."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from router_discovery.formats import read_json, read_lines, read_toml
from router_discovery.specs import read_set
from router_discovery.trouble import DiscoveryError, Voice, shown

from router import EndpointSpec

FULL = EndpointSpec("http://10.0.0.1:80", id="a", weight=3, priority=1, zone="eu", state="drain")


def fault(read: Callable[[bytes], object], content: bytes) -> str:
    with pytest.raises(DiscoveryError) as caught:
        read(content)
    text = str(caught.value.within("servers"))
    assert text.isprintable()
    assert len(text) <= 300
    return text


@pytest.mark.parametrize(
    ("read", "content"),
    [
        (read_lines, "http://10.0.0.1:80 id=a weight=3 priority=1 zone=eu state=drain\nhttp://h:1\n"),
        (
            read_lines,
            "# all of them\r\n\r\n \thttp://10.0.0.1:80\tstate=drain zone=eu priority=1 weight=3 id=a # x\r\nhttp://h:1",
        ),
        (read_lines, "\ufeffhttp://10.0.0.1:80 id=a weight=003 priority=1 zone=eu state=drain\nhttp://h:1 #c=1"),
        (
            read_toml,
            'endpoints = [{ url = "http://10.0.0.1:80", id = "a", weight = 3, priority = 1, zone = "eu",'
            ' state = "drain" }, "http://h:1"]',
        ),
        (
            read_toml,
            '[[endpoints]]\nurl="http://10.0.0.1:80"\nid="a"\nweight=3\npriority=1\nzone="eu"\nstate="drain"\n'
            '[[endpoints]]\nurl = "http://h:1"',
        ),
        (
            read_json,
            '[{"url":"http://10.0.0.1:80","id":"a","weight":3,"priority":1,"zone":"eu","state":"drain"},"http://h:1"]',
        ),
        (
            read_json,
            '\ufeff{"endpoints":[{"url":"http://10.0.0.1:80","id":"a","weight":3,"priority":1,"zone":"eu","state":"drain"},'
            '{"url":"http://h:1"}]}',
        ),
    ],
)
def test_each_format(read: Callable[[bytes], list[EndpointSpec]], content: str) -> None:
    assert read(content.encode()) == [FULL, EndpointSpec("http://h:1")]


def test_metadata_ipv6_and_sockets() -> None:
    content = b'[{"url":"http://[::1]:80","metadata":{"track":"canary"}},"unix:/run/app.sock"]'
    first, second = read_json(content)
    assert first.metadata == {"track": "canary"}
    assert [first.identity, second.identity] == ["http://[::1]:80", "unix:/run/app.sock"]


@pytest.mark.parametrize("read", [read_lines, read_json, read_toml])
def test_no_endpoints_are_a_set_too(read: Callable[[bytes], list[EndpointSpec]]) -> None:
    content = {read_lines: b"# none\n\n", read_json: b"[]", read_toml: b"endpoints = []"}[read]
    assert read(content) == []


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            b"http://h:1\nhttp://h:1 wieght=3\n",
            'servers:2: "wieght=3" is none of id=, weight=, priority=, zone=, state=; did you mean "weight"?',
        ),
        (b"http://h:1 weight", 'servers:1: "weight" is none of'),
        (b"http://h:1 weight=3 weight=4", "servers:1: weight is there twice"),
        (b"\n\nhttp://h:1 weight=many", "servers:3: weight: expected a whole number, not a string"),
        (b"http://h:1 weight=-1", "servers:1: weight: expected a whole number, not a string"),
        (b"http://h:1 weight=99999", "servers:1: weight: expected a whole number <= 65535"),
        (b"http://h:1 priority=256", "servers:1: priority: expected a whole number <= 255"),
        (b"http://h:1 state=of", 'servers:1: state: expected "up" or "drain"'),
        ("http://h:1 weight=٣".encode(), "servers:1: weight: expected a whole number"),
        (b"h:1", "servers:1: an endpoint starts with http://, https:// or unix:"),
        (b"http://", "servers:1: the host is missing or has blanks in it"),
        (b"http://h:0", "servers:1: the port '0' is not a number from 1 to 65535"),
        (b"http://h:" + b"9" * 240, "servers:1: the port '9999"),
        (b"http://h:" + b"9" * 5000, "servers:1: url: not printable text"),
        (b"http://h:1/path", "servers:1: an endpoint has scheme, host and port only"),
        (b"http://user:secret@h:1", "servers:1: an endpoint's URL carries no user name or password"),
        (b"http://::1:80", "servers:1: an IPv6 address stands in brackets"),
        (b"unix:app.sock", "servers:1: a unix endpoint needs an absolute path"),
        (b"http://h:1\n#\nhttp://h:2\nhttp://h:1", "servers:4: the same endpoint as in line 1"),
        (b"http://h:1 id=a\nhttp://h:2 id=a", "servers:2: the same endpoint as in line 1: give one of them another id"),
        (b"http://h\nhttp://h:80", "servers:2: the same endpoint as in line 1"),
        (b"http://h:1\n\xff\xfe\n", "servers:2: no text in UTF-8"),
        (b"\x7fELF\x02\x01\x01\x00\x00", "servers:1: url: not printable text"),
        (b"http://h\x00:1", "servers:1: url: not printable text"),
        ("http://h\u202e:1".encode(), "servers:1: url: not printable text"),
        (b"http://h:1 id=\x1b[31mred", "servers:1: id: not printable text"),
        (b"http://h:1 id=" + b"x" * 256, "servers:1: id: not printable text of at most 255 characters"),
        (b"http://" + b"h" * (1 << 20), "servers:1: url: not printable text of at most 255 characters"),
        (b"http://h:1 " + b"x" * (1 << 20), 'servers:1: "xxx'),
        (b'endpoints = ["http://h:1"]', 'servers:1: "=" is none of'),
    ],
)
def test_wrong_lines(content: bytes, said: str) -> None:
    assert fault(read_lines, content).startswith(said)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'endpoints = ["http://h:1"', "servers:1: no TOML: "),
        (b'endpoints = [\n"http://h:1",\n', "servers:3: no TOML: "),
        (b"endpoints = [\n'http://h:1' 'x']", "servers:2: no TOML: "),
        (b'endpoint = ["http://h:1"]', 'servers: unknown key "endpoint"; did you mean "endpoints"?'),
        (b"", 'servers: expected a list of endpoints, or a table with it as "endpoints"'),
        (b'endpoints = "http://h:1"', "servers: expected a list of endpoints"),
        (b"endpoints = [3]", "servers: endpoints[0]: expected a table, not a whole number"),
        (b"endpoints = [{}]", 'servers: endpoints[0]: it lacks "url"'),
        (b"endpoints = [{ url = 1 }]", "servers: endpoints[0]: url: expected a string, not a whole number"),
        (
            b"endpoints = ['http://h:1', { url = 'http://h:2', wieght = 1 }]",
            'servers: endpoints[1]: an endpoint has no "wieght"; did you mean "weight"?',
        ),
        (
            b"endpoints = [{ url = 'http://h', weight = 1.5 }]",
            "servers: endpoints[0]: weight: expected a whole number, not",
        ),
        (
            b"endpoints = [{ url = 'http://h', weight = true }]",
            "servers: endpoints[0]: weight: expected a whole number, not",
        ),
        (b"endpoints = [{ url = 'http://h', id = 2024-01-01 }]", "servers: endpoints[0]: id: expected a string, not"),
        (
            b"endpoints = [{ url = 'http://h', metadata = { a = 1 } }]",
            "servers: endpoints[0]: metadata[...]: expected a string",
        ),
        (b"endpoints = ['http://h:1', 'http://h:1']", "servers: endpoints[1] is the same endpoint as endpoints[0]"),
        (b"endpoints = " + b"[" * 100_000, "servers: no TOML"),
        (b"\x00\x01", "servers:1: no TOML: "),
        (b"a = 1\n# \xff", "servers:2: no text in UTF-8"),
    ],
)
def test_wrong_toml(content: bytes, said: str) -> None:
    assert fault(read_toml, content).startswith(said)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "servers: no JSON: it breaks off"),
        (b'["http://h:1", {"url": "http://h', "servers: no JSON: it breaks off"),
        (b'["http://h:1",\n\n  oops]', "servers:3: no JSON: invalid character (byte 18)"),
        (b"[" * 200_000, "servers: no JSON that can be read: it nests too deep"),
        (b'[{"metadata":' + b'{"a":' * 200_000, "servers: no JSON that can be read: it nests too deep"),
        (b'["\xff"]', "servers: no JSON: "),
        (b"\x1f\x8b\x08\x00", "servers:1: no JSON: "),
        (b"null", "servers: expected a list of endpoints"),
        (b'{"endpoints": {}}', "servers: expected a list of endpoints"),
        (b'{"endpoints": [], "version": 3}', 'servers: unknown key "version"'),
        (b'{"\\u0000\\u001b[2J": 3}', 'servers: unknown key "\\x00\\x1b[2J"'),
        (b'{"": 3}', 'servers: unknown key ""'),
        (b"[null]", "servers: endpoints[0]: expected a table, not nothing"),
        (b'[["http://h:1"]]', "servers: endpoints[0]: expected a table, not a list"),
        (b'[{"url":"http://h:1","":1}]', 'servers: endpoints[0]: an endpoint has no ""'),
        (b'[{"url":"http://h:1","weight":1e400}]', "servers: no JSON: "),
        (b'[{"url":"http://h:1","weight":' + b"9" * 300 + b"}]", "servers: endpoints[0]: weight: "),
        (b'[{"url":"http://h:1","state":"\\u001b"}]', 'servers: endpoints[0]: state: expected "up" or "drain"'),
    ],
)
def test_wrong_json(content: bytes, said: str) -> None:
    assert fault(read_json, content).startswith(said)


def test_too_many_endpoints() -> None:
    many = [f"http://h:{port}" for port in range(100_001)]
    said = "100001 endpoints are too many: a pool takes at most 100000"
    assert fault(read_json, json.dumps(many).encode()) == f"servers: {said}"
    assert fault(read_lines, "\n".join(many).encode()) == f"servers: {said}"


def test_what_comes_from_elsewhere_names_no_socket_of_this_machine() -> None:
    assert read_set(["unix:/run/docker.sock"])
    with pytest.raises(DiscoveryError, match="is not for others to name"):
        read_set(["unix:/run/docker.sock"], remote=True)


def test_a_trouble_is_said_once() -> None:
    voice, one, other = Voice(), DiscoveryError("one"), DiscoveryError("other")

    def watched(trouble: DiscoveryError) -> str:
        voice.begin()
        try:
            voice.tell(trouble)
        except DiscoveryError as said:
            return str(said)
        return ""

    assert [watched(one), watched(one), watched(other), watched(one)] == ["one", "", "other", "one"]
    # The last watch but one was silent and was then ended by others: whoever watches now has heard nothing.
    assert [watched(one), watched(one)] == ["", "one"]
    voice.begin()
    voice.well()
    assert watched(one) == "one"


def test_what_others_wrote_is_shown_on_one_line() -> None:
    assert shown("a\nb\x1b\u202e\ud800") == "a\\nb\\x1b\\u202e\\ud800"
    assert shown("x" * 100, 10) == "xxxxxxx..."
    assert shown("\x00" * 100, 10) == "\\x00\\x0..."
