"""The options of discovery: what is wrong with them is said by `router check`, in a sentence, and never a secret."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

FILE, DNS, HTTP = {"path": "servers.txt"}, {"name": "web.test", "port": 80}, {"url": "http://127.0.0.1/"}
SRV = {"name": "_http._tcp.web.test", "records": "SRV"}


@pytest.mark.parametrize(
    ("use", "options", "said"),
    [
        ("file", {}, 'needs "path"'),
        ("file", {"path": ""}, 'path names a file, as in "servers.txt"'),
        ("file", {"path": "a\0b"}, "path names a file"),
        ("file", {"path": "servers.yml"}, 'format "auto" knows .toml, .json and lines'),
        ("file", {**FILE, "format": "yaml"}, '"auto" or "toml" or "json" or "lines"'),
        ("file", {**FILE, "acept_empty": True}, 'did you mean "accept_empty"?'),
        ("dns", {"name": "web.test"}, "A records name no port: set port, as in 8080"),
        ("dns", {**DNS, "records": "CNAME"}, '"A" or "AAAA" or "A+AAAA" or "SRV"'),
        ("dns", {**SRV, "port": 80}, "SRV records name the port: leave port out"),
        ("dns", {**DNS, "port": 70000}, "port: expected a whole number <= 65535"),
        ("dns", {**DNS, "name": "http://web.test"}, "name is a host name"),
        ("dns", {**DNS, "name": "web.test:80"}, "name is a host name"),
        ("dns", {**DNS, "name": "web..test"}, "name is a host name"),
        ("dns", {**DNS, "name": "-web.test"}, "name is a host name"),
        ("dns", {**DNS, "name": ""}, "name is a host name"),
        ("dns", {**DNS, "name": "."}, "name is a host name"),
        ("dns", {**DNS, "name": "a" * 64}, "name is a host name"),
        ("dns", {**DNS, "name": "abc." * 64}, "name is a host name"),
        ("dns", {**DNS, "name": "web.test\n"}, "name is a host name"),
        ("dns", {**DNS, "name": "bücher.test"}, "name stands in its ASCII form"),
        ("dns", {**DNS, "name": "127.0.0.1"}, "name is an address already"),
        ("dns", {**DNS, "name": "::1"}, "name is an address already"),
        ("dns", {**DNS, "resolver": ["ns.test"]}, 'resolver: "ns.test" is no address'),
        ("dns", {**DNS, "resolver": ["127.0.0.1:0"]}, 'resolver: "127.0.0.1:0" is no address'),
        ("dns", {**DNS, "resolver": ["127.0.0.1:99999"]}, "is no address"),
        ("dns", {**DNS, "resolver": ["127.0.0.1:" + "9" * 5000]}, "is no address"),
        ("dns", {**DNS, "resolver": ["[127.0.0.1"]}, "is no address"),
        ("dns", {**DNS, "resolver": [""]}, "is no address"),
        ("dns", {**DNS, "timeout": "none"}, "timeout is a time above 0"),
        ("dns", {**DNS, "timeout": "0s"}, "timeout is a time above 0"),
        ("dns", {**DNS, "min_interval": "0s"}, "min_interval is at least 10 ms, and at most max_interval"),
        ("dns", {**DNS, "min_interval": "10m"}, "min_interval is at least 10 ms, and at most max_interval"),
        ("dns", {**DNS, "max_interval": "none"}, "min_interval is at least 10 ms"),
        ("http", {"url": "127.0.0.1:8500"}, "url starts with http:// or https:// and a host"),
        ("http", {"url": "http://"}, "url starts with http://"),
        ("http", {"url": "http://:80/"}, "url starts with http://"),
        ("http", {"url": "http://h:99999/"}, "url starts with http://"),
        ("http", {"url": "http://[::1/"}, "url starts with http://"),
        ("http", {"url": "file:///etc/passwd"}, "url starts with http://"),
        ("http", {"url": "http://h/a b"}, "url has neither blanks"),
        ("http", {"url": "http://h/#a"}, "url has neither blanks"),
        ("http", {"url": "http://h/a\r\nX: y"}, "url has neither blanks"),
        ("http", {"url": "http://h/bücher"}, "url has neither blanks"),
        ("http", {**HTTP, "interval": "0s"}, "interval is a time of at least 10 ms"),
        ("http", {**HTTP, "interval": "none"}, "interval is a time of at least 10 ms"),
        ("http", {**HTTP, "timeout": "none"}, "timeout is a time above 0"),
        ("http", {**HTTP, "wait": "11m"}, "wait is a time of at most 10 minutes"),
        ("http", {**HTTP, "wait": "0s"}, "wait is a time of at most 10 minutes"),
        ("http", {**HTTP, "long_poll": "etcd"}, '"none" or "consul"'),
        ("http", {**HTTP, "headers": {"X Y": "1"}}, 'headers: "X Y" is no name'),
        ("http", {**HTTP, "headers": {"": "1"}}, "is no name of a header field"),
        ("http", {**HTTP, "headers": {"Host": "else"}}, 'headers: "Host" is written by the source itself'),
        ("http", {**HTTP, "headers": {"X-Token": "hush\nhush"}}, "the value of X-Token holds a line end"),
        ("http", {"url": "http://u:hush@h/", "headers": {"authorization": "hush"}}, "url names a user already"),
        ("http", {**HTTP, "ca": "ca.pem"}, "ca means nothing where the URL is not https"),
        ("http", {"url": "https://h/", "ca": "missing.pem"}, "cannot be read: No such file"),
        ("http", {"url": "https://h/", "ca": "junk.pem"}, "holds no certificate in PEM"),
    ],
)
async def test_a_wrong_option(bench: Any, use: str, options: dict[str, Any], said: str) -> None:
    (bench.folder / "junk.pem").write_text("junk")
    text = bench.fault(use, **options)
    assert said in text
    assert "hush" not in text


@pytest.mark.parametrize(
    ("use", "options"),
    [
        ("file", FILE),
        ("file", {"path": "/etc/servers.yaml", "format": "lines"}),
        ("dns", DNS),
        ("dns", {**DNS, "name": "web.test.", "records": "A+AAAA", "resolver": ["127.0.0.1", "::1", "[::1]:5353"]}),
        ("dns", SRV),
        ("http", HTTP),
        ("http", {"url": "https://u:p@[::1]:8500/v1?a=b", "headers": {"X-Consul_Token": "a b"}, "long_poll": "consul"}),
    ],
)
async def test_sound_options(bench: Any, use: str, options: dict[str, Any]) -> None:
    assert bench.make(use, **options).watch()


def test_to_check_is_to_load_no_event_loop_and_no_client() -> None:
    code = (
        "import sys, router_discovery;"
        "print(*[m for m in ('asyncio', 'aiohttp', 'dns', 'watchfiles') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=30)
    assert run.stdout.strip() == ""
