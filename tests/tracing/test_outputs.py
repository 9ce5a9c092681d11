"""`make_exporter`: what is chosen and what is refused; the console, the file, and the resource."""

from __future__ import annotations

import errno
import importlib.metadata
import importlib.util
import io
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from router_tracing.environment import Environment, Headers
from router_tracing.grpc import OtlpGrpc
from router_tracing.otlp import OtlpHttp
from router_tracing.otlp_json import JsonEncoder
from router_tracing.outputs import Console, File, Nowhere, line_of, make_exporter, resource_of
from router_tracing.span import Event, Span

_spec = importlib.util.spec_from_file_location("otlp_receiver", Path(__file__).with_name("otlp_receiver.py"))
assert _spec is not None
assert _spec.loader is not None
otlp_receiver = sys.modules[_spec.name] = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(otlp_receiver)
Receiver = otlp_receiver.Receiver

TRACE = "0af7651916cd43dd8448eb211c80319c"
EMPTY = Environment()


def make_span(name: str = "GET web", **changes: Any) -> Span:
    fields: dict[str, Any] = {
        "trace_id": TRACE,
        "span_id": "b7ad6b7169203331",
        "parent_id": "",
        "name": name,
        "kind": "server",
        "start": 1_700_000_000_123_456_789,
        "end": 1_700_000_000_135_856_789,
        "attributes": (("http.request.method", "GET"), ("lb.attempts", 1)),
    }
    return Span(**fields | changes)


def make(kind: str = "", environment: Environment = EMPTY, **changes: Any) -> Any:
    settings: dict[str, Any] = {"endpoint": "", "file": None, "service": "", **changes}
    return make_exporter(kind, environment=environment, **settings)


def url_of(exporter: Any) -> str:
    return str(exporter._request.url)


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [*os.environ]:
        if name.startswith("OTEL_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


# Which exporter.


@pytest.mark.parametrize(
    ("kind", "export", "expected"),
    [
        ("", None, OtlpHttp),
        ("", "otlp", OtlpHttp),
        ("", "grpc", OtlpGrpc),
        ("", "console", Console),
        ("", "none", Nowhere),
        ("otlp", "grpc", OtlpHttp),
        ("grpc", "console", OtlpGrpc),
        ("console", "none", Console),
        ("none", "otlp", Nowhere),
    ],
)
def test_the_configuration_wins_over_the_environment(kind: str, export: Any, expected: type) -> None:
    exporter = make(kind, Environment(export=export))
    assert type(exporter) is expected
    exporter.close()


@pytest.mark.parametrize(
    ("endpoint", "environment", "expected"),
    [
        ("", {}, "http://localhost:4318/v1/traces"),
        ("", {"base_endpoint": "http://a:1"}, "http://a:1/v1/traces"),
        ("", {"base_endpoint": "http://a:1/otlp/"}, "http://a:1/otlp/v1/traces"),
        ("", {"base_endpoint": "http://a:1", "traces_endpoint": "http://b:2/x"}, "http://b:2/x"),
        ("http://c:3/mine", {"base_endpoint": "http://a:1", "traces_endpoint": "http://b:2/x"}, "http://c:3/mine"),
    ],
)
def test_where_spans_go_over_http(endpoint: str, environment: dict[str, str], expected: str) -> None:
    exporter = make("otlp", Environment(**environment), endpoint=endpoint)  # type: ignore[arg-type]
    assert url_of(exporter) == expected
    exporter.close()


@pytest.mark.parametrize(
    ("endpoint", "environment", "expected"),
    [
        ("", {}, "http://localhost:4317"),
        ("", {"base_endpoint": "http://a:1"}, "http://a:1"),
        ("", {"base_endpoint": "a:1"}, "https://a:1"),
        ("", {"traces_endpoint": "a:1", "insecure": True}, "http://a:1"),
        ("http://c:3", {"traces_endpoint": "a:1"}, "http://c:3"),
    ],
)
def test_where_spans_go_by_grpc(
    endpoint: str, environment: dict[str, Any], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    targets = []
    monkeypatch.setattr("router_tracing.grpc.OtlpGrpc", lambda target, encoder: targets.append(target))
    make("grpc", Environment(**environment), endpoint=endpoint)
    assert [target.endpoint for target in targets] == [expected]


def test_a_user_and_password_in_the_endpoint_become_a_header() -> None:
    exporter = make("otlp", endpoint="http://us%20er:s3cret@a:1/x")
    assert url_of(exporter) == "http://a:1/x"
    assert exporter._request.headers["authorization"] == "Basic dXMgZXI6czNjcmV0"
    exporter.close()


def test_configured_headers_win_over_a_user_in_the_endpoint() -> None:
    exporter = make("otlp", Environment(headers=Headers(authorization="Bearer x")), endpoint="http://a:b@c:1/")
    assert exporter._request.headers["Authorization"] == "Bearer x"
    exporter.close()


def test_settings_reach_the_receiver() -> None:
    with Receiver() as receiver:
        environment = Environment(json=True, compression="gzip", headers=Headers({"x-key": "v"}), timeout=3.0)
        exporter = make("otlp", environment, endpoint=receiver.endpoint, service="shop")
        assert exporter.export([make_span()]) == ("taken", "")
        assert receiver.headers["content-type"] == "application/json"
        assert receiver.headers["content-encoding"] == "gzip"
        assert receiver.headers["x-key"] == "v"
        assert receiver.spans[0]["resource"]["service.name"] == "shop"
        assert receiver.spans[0]["scope"] == ("router_tracing", importlib.metadata.version("edge-router"))
        assert exporter._settings["timeout"] == 3.0
        exporter.close()


# What is refused, and in what words.


@pytest.mark.parametrize("kind", ["otlp", "grpc"])
@pytest.mark.parametrize(
    "endpoint",
    [
        "collector:4318",
        "ftp://a/",
        "http://",
        "http://:4318/",
        "http://a:0/",
        "http://a:99999/",
        "http://a:x/",
        "http://[::1/",
        "http://a/ b",
        "http://a/\x1b",
        "nonsense",
        "unix:/run/x",
    ],
)
def test_an_endpoint_that_is_no_url(kind: str, endpoint: str) -> None:
    with pytest.raises(ValueError, match=r"^endpoint: '.*' is no URL of a receiver, such as http://"):
        make(kind, endpoint=endpoint)


@pytest.mark.parametrize("name", ["traces_endpoint", "base_endpoint"])
def test_an_endpoint_of_the_environment_is_named(name: str) -> None:
    variable = {"traces_endpoint": "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "base_endpoint": "OTEL_EXPORTER_OTLP_ENDPOINT"}
    with pytest.raises(ValueError, match=f"^{variable[name]}: 'nonsense"):
        make("otlp", Environment(**{name: "nonsense"}))  # type: ignore[arg-type]


def test_a_message_shows_no_password() -> None:
    with pytest.raises(ValueError, match="is no URL") as caught:
        make("otlp", endpoint="ftp://user:s3cret@a/")
    assert "s3cret" not in str(caught.value)


def test_an_unknown_kind() -> None:
    with pytest.raises(ValueError, match=r"^export: 'zipkin' is not known; one of otlp, grpc, console, file, none$"):
        make("zipkin")


def test_grpc_without_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "grpc", None)
    with pytest.raises(ValueError, match=r"pip install 'edge-router\[grpc\]'"):
        make("grpc")


def test_a_file_that_is_not_named() -> None:
    with pytest.raises(ValueError, match=r'^file: names none, but export is "file"; set file = '):
        make("file")


@pytest.mark.parametrize(
    ("name", "why"), [("gone/x.jsonl", "No such file or directory"), (".", "Is a directory"), ("pipe", ".*")]
)
def test_a_file_that_cannot_be_written(name: str, why: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match=f"^file: '.*' cannot be written: {why}; name a file in a folder"):
        make("file", file=tmp_path / name)


def test_a_pipe_with_a_reader_is_no_file_either(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    try:
        with pytest.raises(ValueError, match="it is no regular file"):
            make("file", file=tmp_path / "pipe")
    finally:
        os.close(reader)


# The file.


def read_lines(file: Path) -> list[list[dict[str, Any]]]:
    return [otlp_receiver.spans_of(otlp_receiver.read_json(line)) for line in file.read_bytes().splitlines()]


def test_a_file_holds_one_request_a_line_and_is_appended_to(tmp_path: Path) -> None:
    file = tmp_path / "traces.jsonl"
    file.write_text(JsonEncoder({}, ("old", "")).request([]).decode() + "\n")
    for number in range(2):
        exporter = make("file", file=file, service="shop")
        assert exporter.export([make_span(f"{number}a"), make_span(f"{number}b")]) == ("taken", "")
        exporter.close()
    groups = read_lines(file)
    assert [[span["name"] for span in group] for group in groups] == [[], ["0a", "0b"], ["1a", "1b"]]
    assert groups[1][0]["resource"]["service.name"] == "shop"
    assert groups[1][0]["trace_id"] == TRACE


def test_a_file_is_made_for_its_owner_and_group(tmp_path: Path) -> None:
    file = tmp_path / "traces.jsonl"
    exporter = make("file", file=file)
    assert not file.exists()
    exporter.export([make_span()])
    assert file.stat().st_mode & 0o137 == 0


def test_a_file_that_was_rotated_is_let_go_of(tmp_path: Path) -> None:
    file = tmp_path / "traces.jsonl"
    exporter = make("file", file=file)
    exporter.export([make_span("old")])
    file.rename(tmp_path / "traces.1")
    exporter.export([make_span("new")])
    assert [[span["name"] for span in group] for group in read_lines(file)] == [["new"]]


def test_a_full_disk_is_for_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what was written of the line is taken back."""
    file = tmp_path / "traces.jsonl"
    exporter = make("file", file=file)
    exporter.export([make_span("first")])
    write, room = os.write, [100]

    def fill(found: int, data: Any) -> int:
        if not room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(found, data[: room.pop()])

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", fill)
        verdict, why = exporter.export([make_span("second")])
    assert verdict == "later"
    assert why.endswith("traces.jsonl': No space left on device")
    assert exporter.export([make_span("second")]) == ("taken", "")
    assert [[span["name"] for span in group] for group in read_lines(file)] == [["first"], ["second"]]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only on Linux")
def test_a_device_that_is_full() -> None:
    verdict, why = make("file", file=Path("/dev/full")).export([make_span()])
    assert (verdict, why) == ("later", "'/dev/full': No space left on device")


def test_a_folder_that_goes_away_is_for_later(tmp_path: Path) -> None:
    folder = tmp_path / "traces"
    folder.mkdir()
    exporter = make("file", file=folder / "x.jsonl")
    folder.rmdir()
    assert exporter.export([make_span()])[0] == "later"
    folder.mkdir()
    assert exporter.export([make_span()]) == ("taken", "")


# The console.


def test_a_line_says_what_happened() -> None:
    event = Event(1_700_000_000_124_956_789, "left queue", (("lb.seconds", 0.5),))
    span = make_span(parent_id="00f067aa0ba902b7", error="status 503", events=(event,))
    assert line_of(span) == (
        '2023-11-14T22:13:20.123Z 12.4ms server "GET web" error="status 503" '
        f"trace={TRACE} span=b7ad6b7169203331 parent=00f067aa0ba902b7 "
        'http.request.method=GET lb.attempts=1 ["left queue" +1.5ms lb.seconds=0.5]'
    )


@pytest.mark.parametrize("evil", ["\x1b[2J", "a\nb", "\u202e", "\x9b31m", "\udc80", "a b", 'a"b', "x]", "é"])
def test_nothing_of_a_client_reaches_the_terminal_raw(evil: str) -> None:
    line = line_of(make_span(evil, attributes=((evil, evil),), error=evil, events=(Event(0, evil, ((evil, evil),)),)))
    assert line.isascii()
    assert line.isprintable()
    assert json.loads(line.split("server ")[1].split(" error=")[0]) == evil


def test_the_console_writes_to_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    assert make("console").export([make_span("a"), make_span("b")]) == ("taken", "")
    out, err = capsys.readouterr()
    assert [line.split(" ")[3] for line in out.splitlines()] == ['"a"', '"b"']
    assert err == ""


def test_a_console_that_is_gone_raises_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = io.StringIO()
    closed.close()
    assert Console(closed).export([make_span()]) == ("refused", "stdout: ValueError")
    full = Mock(flush=Mock(side_effect=OSError(errno.ENOSPC, "No space left on device")))
    assert Console(full).export([make_span()]) == ("refused", "stdout: No space left on device")
    monkeypatch.setattr(sys, "stdout", None)
    assert Console().export([make_span()])[0] == "refused"


def test_nowhere_takes_all() -> None:
    exporter = make("none")
    assert exporter.export([make_span()]) == ("taken", "")
    exporter.close()


# Who sends.


def test_the_resource_of_the_router() -> None:
    found = resource_of("", EMPTY)
    assert found["service.name"] == "router"
    assert found["service.version"] == importlib.metadata.version("edge-router")
    assert found["telemetry.sdk.language"] == "python"
    assert len(found["service.instance.id"]) == 36
    assert found["service.instance.id"] == resource_of("", EMPTY)["service.instance.id"], "one process, one instance"


@pytest.mark.parametrize(
    ("configured", "variables", "name"),
    [
        ("shop", {"OTEL_SERVICE_NAME": "a", "OTEL_RESOURCE_ATTRIBUTES": "service.name=b"}, "shop"),
        ("", {"OTEL_SERVICE_NAME": "a", "OTEL_RESOURCE_ATTRIBUTES": "service.name=b"}, "a"),
        ("", {"OTEL_RESOURCE_ATTRIBUTES": "service.name=b"}, "b"),
        ("", {}, "router"),
    ],
)
def test_the_name_of_the_service(
    configured: str, variables: dict[str, str], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    assert resource_of(configured, Environment.read(os.environ))["service.name"] == name


def test_attributes_of_the_environment_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test,service.instance.id=seven")
    found = resource_of("", EMPTY)
    assert (found["deployment.environment.name"], found["service.instance.id"]) == ("test", "seven")


def test_importing_outputs_is_cheap() -> None:
    """Libraries that take long come with the exporter that needs them."""
    code = textwrap.dedent("""
        import sys
        import router_tracing.outputs, router_tracing.sender
        print([name for name in ("requests", "grpc", "google.protobuf", "opentelemetry") if name in sys.modules])
    """)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout == "[]\n"


def test_a_file_exporter_is_told_nothing_it_cannot_hold(tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl"
    exporter = File(file, JsonEncoder({}, ("s", "1")))
    odd = make_span("\udc80", attributes=(("k", "\udc80\n"), ("n", float("nan"))))
    assert exporter.export([odd]) == ("taken", "")
    ((span,),) = read_lines(file)
    assert (span["name"], span["attributes"]["k"]) == ("\ufffd", "\ufffd\n")
