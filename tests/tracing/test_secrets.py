"""Planted secrets: nothing that a client or a server said in confidence is in spans, headers or the log."""

from __future__ import annotations

import base64
import json
import logging
from typing import Any

import pytest
import tracing_support as _help

collector = _help.collector
TRUSTED = _help.TRUSTED
COOKIE_KEY = "planted-cookie-key-0123456789abcdef"
#: By what it is.
PLANTED = {
    name: f"planted-{name}-7f3a9c"
    for name in (
        "bearer",
        "password",
        "proxy",
        "cookie",
        "set-cookie",
        "api-key",
        "body",
        "answer",
        "query",
        "bare",
        "state",
        "forwarded",
        "referer",
        "user",
    )
}
BASIC = base64.b64encode(f"user:{PLANTED['password']}".encode()).decode()
REQUEST = (
    f"Authorization: Bearer {PLANTED['bearer']}",
    f"Proxy-Authorization: Basic {BASIC}",
    f"Cookie: session={PLANTED['cookie']}; other=1",
    f"X-Api-Key: {PLANTED['api-key']}",
    f"Referer: http://x.example/?token={PLANTED['referer']}",
    f"X-User: {PLANTED['user']}",
)
TARGET = f"token={PLANTED['query']}&next=%2Fa%3Ftoken%3D{PLANTED['query']}"


def build(bench: Any) -> None:
    own = bench.plugins(_help.FIRST)
    bench.web = bench.backend(PLANTED["answer"])
    bench.web.extra = [
        f"Set-Cookie: session={PLANTED['set-cookie']}; HttpOnly",
        f"WWW-Authenticate: Bearer realm={PLANTED['set-cookie']}",
    ]
    dead = f"http://127.0.0.1:{bench.house.free_port()}"
    pool = f'detectors = []\nendpoints = [{{ url = "{bench.web.url}", id = "one" }}]\n'
    bench.sites = f"""
[[routes]]
name = "fixed"
path = "/fixed"
answer = {{ status = 410, body = "gone" }}
[[routes]]
name = "moved"
path = "/moved/*"
answer = {{ redirect = "https://shop.example{{uri}}" }}
[[routes]]
name = "cookie"
path = "/cookie/*"
pool = "cookie"
[[routes]]
name = "app"
path = "/app/*"
pool = "app"
[[routes]]
name = "user"
path = "/user/*"
pool = "user"
[[routes]]
name = "query"
path = "/query/*"
pool = "query"
[[routes]]
name = "retried"
path = "/retried/*"
pool = "retried"
[[routes]]
name = "rewritten"
path = "/v1/*"
pool = "app"
rewrite = {{ strip_prefix = "/v1" }}
[[routes]]
name = "split"
path = "/split/*"
pools = [{{ name = "app", weight = 1 }}, {{ name = "user", weight = 1 }}]
split_by = "cookie:session"
[[routes]]
name = "web"
path = ["/web/*", "/barrier"]
pool = "app"
[[pools]]
name = "cookie"
affinity = {{ use = "cookie", secrets = ["{COOKIE_KEY}"] }}
{pool}
[[pools]]
name = "app"
affinity = {{ use = "app_cookie", name = "session" }}
{pool}
[[pools]]
name = "user"
affinity = {{ use = "header", name = "X-User" }}
{pool}
[[pools]]
name = "query"
affinity = {{ use = "query", name = "token" }}
{pool}
[[pools]]
name = "retried"
selection = "{own}:First"
detectors = []
endpoints = [{{ url = "{dead}", id = "a" }}, {{ url = "{bench.web.url}", id = "b" }}]
"""


bench = _help.bench_of(build)
PATHS = [
    "/web/x",
    "/fixed",
    "/moved/x",
    "/nowhere",
    "/cookie/x",
    "/app/x",
    "/user/x",
    "/query/x",
    "/retried/x",
    "/v1/x",
    "/split/x",
    "/web/reset",
    "/web/garbage",
    "/web/cut",
    "/web/status-500",
]


def looks() -> dict[str, str]:
    """Every way in which a secret may be written, and what it is."""
    found = {COOKIE_KEY: "the router's own key", BASIC: "credentials"}
    for name, text in PLANTED.items():
        found |= {text: name, text.upper(): name, base64.b64encode(text.encode()).decode().rstrip("=")[:-2]: name}
        found |= {text.encode().hex(): name}
    return found


def check(text: str, what: str) -> None:
    for look, name in looks().items():
        assert look not in text, f"{name} stands in {what}"


def provoke(bench: Any) -> list[Any]:
    """Requests with every secret in them, of those whose answers are read whole."""
    answers = []
    for path in PATHS:
        for method, body in (("GET", b""), ("POST", PLANTED["body"].encode())):
            with bench.client(source=TRUSTED) as client:
                client.send(f"{path}?{TARGET}", *REQUEST, "X-Router-Explain: 1", method=method, body=body)
                if path == "/web/cut":
                    client.reader.rest()
                else:
                    answers.append(client.receive(method))
    return answers


@pytest.mark.parametrize("options", [{}, {"query": "drop"}, {"sampling": "never", "keep": ["errors", "retried"]}])
def test_nothing_confidential_reaches_the_collector(bench: Any, options: dict[str, Any]) -> None:
    before = len(bench.collector.spans())
    bench.tracing(**options)
    provoke(bench)
    bench.flushed()
    spans = bench.collector.spans()[before:]
    assert len(spans) > 8
    check("\n".join(text for span in spans for text in span.texts()), "a span")
    check(json.dumps(bench.collector.receiver.headers), "the headers of an export")
    check(repr(list(bench.collector.receiver.spans)[before:]), "what was exported")


def test_nothing_confidential_is_in_the_log(bench: Any) -> None:
    bench.tracing()
    provoke(bench)
    bench.flushed()
    lines = [record.getMessage() for record in bench.log.records if record.levelno > logging.DEBUG]
    check("\n".join(lines), "the log")


def test_nothing_confidential_is_explained_but_what_was_asked(bench: Any) -> None:
    """A client that asks gets its own target back, and no credentials."""
    bench.tracing()
    for answer in provoke(bench):
        for said in answer.all("X-Router-Explain"):
            for name in PLANTED.keys() - {"query", "bare"}:
                assert PLANTED[name] not in said, name
            assert COOKIE_KEY not in said


def test_files_and_the_console_hold_no_more_than_the_collector(bench: Any, capsys: Any) -> None:
    file = bench.folder / "spans.jsonl"
    bench.tracing(export="file", file=str(file), endpoint=None)
    provoke(bench)
    bench.tracing(export="console", endpoint=None)
    provoke(bench)
    bench.tracing()
    bench.flushed()
    _help.wait(lambda: file.exists() and file.read_text().count("spanId") > 8, "nothing was written")
    check(file.read_text(), "the file")
    said = capsys.readouterr()
    check(said.out + said.err, "the console")
    for line in file.read_text().splitlines():
        assert json.loads(line)["resourceSpans"]


def test_headers_for_the_collector_are_sent_and_told_to_nobody(bench: Any, monkeypatch: Any, capsys: Any) -> None:
    secret = "planted-collector-key-55aa"
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", f"x-collector-key={secret}")
    bench.tracing(buffer=500)
    _, trace = bench.seen("/web/x")
    assert bench.collector.receiver.headers["x-collector-key"] == secret
    bench.collector.receiver.mode = "400"
    try:
        bench.ask("/web/x")
        _help.wait(lambda: bench.said("400"), lambda: bench.said(""))
    finally:
        bench.collector.receiver.mode = "ok"
    assert not any(secret in record.getMessage() for record in bench.log.records)
    assert not any(secret in text for span in trace.spans for text in span.texts())
    captured = capsys.readouterr()
    assert secret not in captured.out + captured.err


def test_credentials_in_the_collectors_url_are_refused_and_not_repeated(bench: Any) -> None:
    secret = "planted-url-password"
    bench.house.text(
        bench.text(f'[[observers]]\nuse = "tracing"\nendpoint = "http://user:{secret}@127.0.0.1:9/v1/traces"\n')
    )
    done, text = bench.house.reload()
    bench.house.text(bench._written)
    bench.house.takes()
    assert not done
    assert "OTEL_EXPORTER_OTLP_HEADERS" in text
    assert secret[:6] not in text
    assert not any(secret[:11] in record.getMessage() for record in bench.log.records)
