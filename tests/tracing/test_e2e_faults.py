"""What is wrong is told: options at their place, a collector that is not there, and failed requests by their trace."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from typing import Any

import pytest
import tracing_support as _help
from click.testing import CliRunner

from router.cli import router
from router.faults import ConfigFaults
from router.prepare import prepare_file

collector = _help.collector
wait, toml = _help.wait, _help.toml
PARENT = "b7ad6b7169203331"


def build(bench: Any) -> None:
    bench.web = bench.backend()
    dead = f"http://127.0.0.1:{bench.house.free_port()}"
    bench.sites = f"""
[[routes]]
name = "web"
path = ["/web/*", "/barrier"]
pool = "web"
[[routes]]
name = "dead"
path = "/dead/*"
pool = "dead"
[[pools]]
name = "web"
detectors = []
endpoints = [{{ url = "{bench.web.url}", id = "one" }}]
retry = {{ attempts = 0 }}
[[pools]]
name = "dead"
detectors = []
endpoints = [{{ url = "{dead}", id = "a" }}]
"""


bench = _help.bench_of(build)


# Options.

SOUND = """\
[[listeners]]
bind = "127.0.0.1:8080"
[[routes]]
pool = "web"
[[pools]]
name = "web"
endpoints = ["http://127.0.0.1:9001"]
[[observers]]
use = "tracing"
"""


def faults(tmp_path: Path, **options: Any) -> str:
    file = tmp_path / "router.toml"
    file.write_text(SOUND + toml(**options))
    with pytest.raises(ConfigFaults) as caught:
        prepare_file(file)
    return str(caught.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sampling": 2}, "1"),
        ({"sampling": -0.1}, "0"),
        ({"sampling": "sometimes"}, "always"),
        ({"sampling": True}, "sampling"),
        ({"keep": ["slow"]}, "slower:"),
        ({"keep": ["slower:x"]}, "500ms"),
        ({"keep": ["slower:"]}, "slower"),
        ({"keep": ["slower:-1s"]}, "slower"),
        ({"keep": ["error"]}, "errors"),
        ({"keep": "errors"}, "keep"),
        ({"export": "zipkin"}, "otlp"),
        ({"endpoint": "localhost"}, "http://"),
        ({"endpoint": "127.0.0.1:4318"}, "http://"),
        ({"endpoint": "ftp://127.0.0.1/x"}, "http"),
        ({"endpoint": "http://"}, "endpoint"),
        ({"propagators": ["w3c"]}, "tracecontext"),
        ({"parent": "honor"}, "honour"),
        ({"query": "redacted"}, "redact"),
        ({"viewer": "nonsense"}, "127.0.0.1:"),
        ({"viewer": "127.0.0.1:99999"}, "viewer"),
        ({"buffer": 0}, "buffer"),
        ({"buffer": -5}, "buffer"),
        ({"export": "file"}, "file"),
        ({"samplng": 0.5}, "sampling"),
    ],
)
def test_what_an_option_cannot_be_is_told_with_place_and_remedy(
    tmp_path: Path, options: dict[str, Any], words: str
) -> None:
    said = faults(tmp_path, **options)
    key = next(iter(options))
    line = SOUND.count("\n") + 1
    # The option's own place, or the observer's.
    assert any(f"router.toml:{number}:" in said for number in (line - 2, line - 1, line)), said
    assert words in said
    assert key in said
    assert "Traceback" not in said
    assert said.count("router.toml:") == 1


def test_several_faults_are_told_at_once(tmp_path: Path) -> None:
    said = faults(tmp_path, sampling=2, export="zipkin", parent="x")
    for key in ("sampling", "export", "parent"):
        assert key in said or "zipkin" in said


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"sampling": 0.25, "keep": ["errors", "retried", "slower:500ms"]},
        {"sampling": 1, "keep": ["slower:1.5s"]},
        {"export": "none"},
        {"export": "console"},
        {"export": "grpc", "endpoint": "http://127.0.0.1:4317"},
        {"export": "file", "file": "spans.jsonl"},
        {"propagators": ["tracecontext", "b3", "b3multi", "jaeger"]},
        {"endpoint": "https://collector.example/v1/traces", "service": "edge"},
        {"parent": "trusted", "query": "drop", "buffer": 100, "viewer": "127.0.0.1:0"},
    ],
)
def test_sound_options_are_none(tmp_path: Path, options: dict[str, Any]) -> None:
    file = tmp_path / "router.toml"
    file.write_text(SOUND + toml(**options))
    result = CliRunner().invoke(router, ["check", str(file)])
    assert result.exit_code == 0, result.output
    assert not (tmp_path / "spans.jsonl").exists(), "check writes nothing"


def test_check_tells_the_fault_and_ends_with_2(tmp_path: Path) -> None:
    file = tmp_path / "router.toml"
    file.write_text(SOUND + toml(sampling=2))
    result = CliRunner().invoke(router, ["check", str(file)])
    assert result.exit_code == 2
    assert "sampling" in result.output


def test_the_list_of_plugins_has_it_with_its_options() -> None:
    result = CliRunner().invoke(router, ["plugins", "--json"])
    (found,) = [each for each in json.loads(result.stdout)["plugins"] if each["name"] == "tracing"]
    assert found["kind"] == "observer"
    names = {option["name"] for option in found["options"]}
    assert names == {
        "sampling",
        "keep",
        "export",
        "endpoint",
        "file",
        "service",
        "propagators",
        "parent",
        "query",
        "viewer",
        "buffer",
    }


def test_a_reload_with_a_bad_option_keeps_what_runs(bench: Any) -> None:
    bench.tracing()
    bench.house.text(bench.text('[[observers]]\nuse = "tracing"\nsampling = 2\n'))
    done, text = bench.house.reload()
    assert not done
    assert "sampling" in text
    assert bench.seen("/web/x")[1].client
    bench.house.text(bench._written)
    bench.house.takes()


# A collector that is not there.


def test_requests_do_not_feel_an_absent_collector_and_it_is_said_once(bench: Any) -> None:
    port = bench.house.free_port()
    bench.tracing(endpoint=f"http://127.0.0.1:{port}/v1/traces")
    mark = len(bench.log.records)

    def said() -> list[str]:
        found = [each for each in bench.log.records[mark:] if each.levelno >= logging.WARNING]
        return [each.getMessage() for each in found if "spans" in each.getMessage()]

    with bench.client() as client:
        for _ in range(50):
            assert client.ask("/web/x").status == 200
        wait(said, "nothing is said of it")
        for _ in range(5):
            time.sleep(0.05)
            for _ in range(20):
                assert client.ask("/web/x").status == 200
    assert len(said()) == 1, said()
    begun = time.monotonic()
    bench.tracing()
    # A reload, like the end, does not wait for what cannot be sent.
    assert time.monotonic() - begun < 8


@pytest.mark.parametrize("mode", ["hang", "503", "400", "cut"])
def test_requests_do_not_feel_a_collector_that_is_ill(bench: Any, mode: str) -> None:
    bench.tracing()
    bench.flushed()
    bench.collector.receiver.mode = mode
    try:
        with bench.client() as client:
            for _ in range(100):
                assert client.ask("/web/x").status == 200
    finally:
        bench.collector.receiver._let_go.set()
        bench.collector.receiver.mode = "ok"
        time.sleep(0.05)
        bench.collector.receiver._let_go.clear()
    bench.flushed()


# The environment.


def test_service_and_resource_come_from_the_environment(bench: Any, monkeypatch: Any) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "edge")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test,service.name=other,team=a%20b")
    bench.tracing(buffer=600)
    resource = bench.seen("/web/x")[1].server.resource
    assert resource["service.name"] == "edge"
    assert resource["deployment.environment.name"] == "test"
    assert resource["team"] == "a b"
    bench.tracing(buffer=600, service="mine")
    assert bench.seen("/web/x")[1].server.resource["service.name"] == "mine"


def test_the_collector_comes_from_the_environment(bench: Any, monkeypatch: Any) -> None:
    base = bench.collector.endpoint.removesuffix("/v1/traces")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", base)
    bench.tracing(endpoint=None, buffer=601)
    assert bench.seen("/web/x")[1].client
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", bench.collector.endpoint)
    bench.tracing(endpoint=None, buffer=602)
    assert bench.seen("/web/x")[1].client


@pytest.mark.parametrize(("name", "value"), [("OTEL_TRACES_EXPORTER", "none"), ("OTEL_SDK_DISABLED", "true")])
def test_the_environment_can_turn_it_off(bench: Any, monkeypatch: Any, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    bench.tracing(buffer=603)
    answer = bench.ask("/web/x")
    assert answer.status == 200
    monkeypatch.delenv(name)
    bench.tracing()
    bench.flushed()
    if name == "OTEL_SDK_DISABLED":
        assert bench.collector.of(answer.id) == []


def test_a_bad_environment_is_told_and_does_no_harm(bench: Any, monkeypatch: Any) -> None:
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "many")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "none")
    monkeypatch.setenv("OTEL_PROPAGATORS", "xray,tracecontext")
    bench.tracing(service="bad environment")
    assert bench.seen("/web/x")[1].client


# Failed requests.

FORMS = ["text/plain", "application/json", "text/html"]


@pytest.mark.parametrize("accept", FORMS)
@pytest.mark.parametrize(("path", "status"), [("/dead/x", 503), ("/web/reset", 502), ("/nowhere", 404)])
def test_error_pages_lead_to_the_trace(bench: Any, accept: str, path: str, status: int) -> None:
    bench.tracing()
    answer, trace = bench.seen(path, f"Accept: {accept}", method="POST", body=b"x")
    assert answer.status == status
    assert answer.only("Content-Type").startswith(accept)
    assert trace.server.trace_id.encode() in answer.body
    # In another's trace, or with a request id of the client's own, the two are not one.
    given = f"4bf92f3577b34da6a3ce{time.monotonic_ns() % 16**12:012x}"
    lines = (f"traceparent: 00-{given}-{PARENT}-01", "X-Request-ID: my-id", f"Accept: {accept}")
    answer = bench.ask(path, *lines, method="POST", body=b"x")
    assert given.encode() in answer.body
    assert b"my-id" in answer.body
    if accept == "application/json":
        assert given in json.loads(answer.body)["error"].values()


def test_error_pages_without_tracing_tell_the_request_alone(bench: Any) -> None:
    bench.plain()
    answer = bench.ask("/dead/x", "Accept: application/json")
    assert "trace" not in json.loads(answer.body)["error"]
    assert answer.id in answer.body.decode()


@pytest.mark.parametrize("sampling", ["always", "never"])
def test_the_log_leads_to_the_trace_of_a_failed_request(bench: Any, sampling: str) -> None:
    bench.tracing(sampling=sampling)
    answer = bench.ask("/dead/x")
    assert answer.status == 503
    lines = wait(lambda: bench.said(answer.id), lambda: bench.said(""))
    assert len(lines) == 1
    given = f"4bf92f3577b34da6a3ce{time.monotonic_ns() % 16**12:012x}"
    bench.ask("/dead/x", f"traceparent: 00-{given}-{PARENT}-01", "X-Request-ID: named-by-client")
    (line,) = wait(lambda: bench.said(given), lambda: bench.said(""))
    assert "named-by-client" in line


def test_requests_that_are_well_are_not_logged(bench: Any) -> None:
    bench.tracing()
    before = len(bench.said(""))
    for path in ("/web/x", "/web/status-404", "/nowhere"):
        bench.ask(path)
    assert len(bench.said("")) == before


def test_what_the_buffer_cannot_hold_is_dropped_counted_and_said_once(bench: Any) -> None:
    bench.tracing()
    bench.flushed()
    bench.tracing(buffer=20)
    mark = len(bench.log.records)

    def said(words: str) -> list[str]:
        found = [each.getMessage() for each in bench.log.records[mark:] if each.levelno >= logging.WARNING]
        return [each for each in found if words in each]

    bench.collector.receiver.mode = "503"
    try:
        with bench.client() as client:
            for _ in range(200):
                assert client.ask("/web/x").status == 200
    finally:
        bench.collector.receiver.mode = "ok"
    wait(lambda: said("dropped"), lambda: said(""))
    bench.tracing()

    def counted() -> int:
        return max(int(word) for line in said("dropped") for word in [*line.split(), "0"] if word.isdigit())

    # At its end the one that is replaced says how many there were.
    wait(lambda: counted() > 100, lambda: said(""))
    assert len(said("dropped")) <= 3, said("")


# A process of its own.


def process_text(port: int, backend: Any, **options: Any) -> str:
    return (
        f'[[listeners]]\nbind = "127.0.0.1:{port}"\n[[routes]]\nname = "web"\npool = "web"\n'
        f'[[pools]]\nname = "web"\nendpoints = ["{backend.url}"]\n'
        f'[[observers]]\nuse = "tracing"\n{toml(sampling="always", **options)}'
    )


def test_a_process_that_ends_sends_what_waits(bench: Any, process: Any) -> None:
    """The spans of the last moment too, though a batch would have waited for seconds."""
    router = process()
    router.text(process_text(router.port, bench.web, endpoint=bench.collector.endpoint, service="ends"))
    router.up()
    with _help.Client(router.port) as client:
        answers = [client.ask("/web/x") for _ in range(50)]
    assert router.end() == 0
    for answer in answers:
        assert [span.kind for span in bench.collector.of(answer.id)] != []
        assert len(bench.collector.of(answer.id)) == 2


def test_a_process_without_a_collector_says_so_and_ends_in_time(bench: Any, process: Any) -> None:
    router = process()
    router.text(process_text(router.port, bench.web, endpoint=f"http://127.0.0.1:{router.free_port()}/v1/traces"))
    router.up()
    with _help.Client(router.port) as client:
        for _ in range(50):
            assert client.ask("/web/x").status == 200
    begun = time.monotonic()
    assert router.end() == 0
    assert time.monotonic() - begun < 10
    assert "spans" in router.said()
    assert "100" in router.said(), "how many are lost is told"
