"""Over HTTP and gRPC: what is sent, what each answer means, TLS, and that no secret is shown."""

from __future__ import annotations

import email.utils
import gc
import importlib
import importlib.util
import ssl
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import trustme
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from router_tracing.environment import Headers
from router_tracing.grpc import METHOD, OtlpGrpc
from router_tracing.otlp import OtlpHttp, Target, encode_gently, rejected_in, seconds_of
from router_tracing.otlp_encode import Encoder
from router_tracing.otlp_json import JsonEncoder
from router_tracing.span import Span

_spec = importlib.util.spec_from_file_location("otlp_receiver", Path(__file__).with_name("otlp_receiver.py"))
assert _spec is not None
assert _spec.loader is not None
otlp_receiver = sys.modules[_spec.name] = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(otlp_receiver)
Receiver = otlp_receiver.Receiver

SCOPE = ("router_tracing", "0.1")
SECRET = "Bearer s3cret-key"
LOGIN = Headers({"authorization": SECRET, "x-api-key": "s3cret-key"})


def make_span(number: int = 0) -> Span:
    attributes = (("http.request.method", "GET"), ("lb.attempts", 1))
    return Span("0af7651916cd43dd8448eb211c80319c", f"{number + 1:016x}", "", f"{number}", "server", 1, 2, attributes)


def make_spans(count: int) -> list[Span]:
    return [make_span(number) for number in range(count)]


def exporter_to(endpoint: str, encoder: Any = Encoder, **options: Any) -> OtlpHttp:
    return OtlpHttp(Target(endpoint=endpoint, **{"timeout": 10.0, **options}), encoder({"service.name": "r"}, SCOPE))


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def receiver() -> Iterator[Any]:
    with Receiver() as found:
        yield found


# Over HTTP.


@pytest.mark.parametrize("compression", ["", "gzip", "deflate"])
@pytest.mark.parametrize(("encoder", "kind"), [(Encoder, "application/x-protobuf"), (JsonEncoder, "application/json")])
def test_a_batch_arrives(receiver: Any, encoder: Any, kind: str, compression: str) -> None:
    exporter = exporter_to(receiver.endpoint, encoder, compression=compression, headers=LOGIN)
    assert exporter.export(make_spans(200)) == ("taken", "")
    assert [span["name"] for span in receiver.spans] == [str(number) for number in range(200)]
    assert receiver.spans[7]["resource"] == {"service.name": "r"}
    assert receiver.spans[7]["scope"] == SCOPE
    assert receiver.headers["content-type"] == kind
    assert receiver.headers.get("content-encoding", "") == compression
    assert receiver.headers["authorization"] == SECRET
    assert receiver.headers["x-api-key"] == "s3cret-key"
    exporter.close()


def test_one_connection_serves_every_batch(receiver: Any) -> None:
    exporter = exporter_to(receiver.endpoint)
    for mode in ("ok", "503", "ok", "400", "ok"):
        receiver.mode = mode
        exporter.export(make_spans(1))
    assert len(receiver._server.open) == 1
    assert receiver.batches == [1, 1, 1]
    exporter.close()


@pytest.mark.parametrize("mode", ["429", "502", "503", "504"])
def test_statuses_to_try_again(receiver: Any, mode: str) -> None:
    receiver.mode = mode
    exporter = exporter_to(receiver.endpoint)
    assert exporter.export(make_spans(1)) == ("later", f"status {mode}")
    assert exporter.retry_after == 0.0
    exporter.close()


@pytest.mark.parametrize("mode", ["400", "401", "403", "404", "405", "413", "415", "500", "501"])
def test_statuses_that_refuse(receiver: Any, mode: str) -> None:
    receiver.mode, receiver.retry_after = mode, "7"
    exporter = exporter_to(receiver.endpoint)
    verdict, why = exporter.export(make_spans(1))
    remedy = {
        "401": "OTEL_EXPORTER_OTLP_HEADERS",
        "403": "OTEL_EXPORTER_OTLP_HEADERS",
        "404": "/v1/traces",
        "405": "/v1/traces",
    }
    assert (verdict, why[:10]) == ("refused", f"status {mode}")
    assert remedy[mode] in why if mode in remedy else why == f"status {mode}"
    assert exporter.too_large is (mode == "413")
    assert exporter.retry_after == 0.0
    exporter.close()


@pytest.mark.parametrize("mode", ["301", "302", "307", "308"])
def test_a_redirect_is_not_followed(receiver: Any, mode: str) -> None:
    """It would carry the keys to wherever it says."""
    receiver.mode = mode
    exporter = exporter_to(receiver.endpoint)
    assert exporter.export(make_spans(1)) == (
        "refused",
        f"status {mode}, a redirect, which is not followed: name the URL that it leads to",
    )
    assert receiver.requests == 1
    exporter.close()


@pytest.mark.parametrize("mode", ["429", "503"])
def test_retry_after_holds_for_its_batch_alone(receiver: Any, mode: str) -> None:
    receiver.mode, receiver.retry_after = mode, "7"
    exporter = exporter_to(receiver.endpoint)
    exporter.export(make_spans(1))
    assert exporter.retry_after == 7.0
    receiver.mode = "ok"
    exporter.export(make_spans(1))
    assert exporter.retry_after == 0.0
    exporter.close()


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("", 0), ("5", 5), ("0.5", 0.5), ("-3", 0), ("nan", 0), ("inf", 0), ("soon", 0), ("1" * 400, 0)],
)
def test_seconds_of_retry_after(text: str, seconds: float) -> None:
    assert seconds_of(text, time.time()) == seconds


def test_dates_of_retry_after() -> None:
    now = 1_700_000_000.0
    assert seconds_of(email.utils.formatdate(now + 90, usegmt=True), now) == 90.0
    assert seconds_of(email.utils.formatdate(now - 90, usegmt=True), now) == 0.0


@pytest.mark.parametrize("mode", ["hang", "cut"])
def test_no_answer_is_for_later(receiver: Any, mode: str) -> None:
    receiver.mode = mode
    exporter = exporter_to(receiver.endpoint, timeout=0.1)
    verdict, why = exporter.export(make_spans(1))
    assert verdict == "later"
    # The kernel may tell of the closing as a reset.
    assert why in (
        ("no answer in time",) if mode == "hang" else ("the connection was closed", "Connection reset by peer")
    )
    exporter.close()


def test_a_part_that_was_not_kept_is_told(receiver: Any) -> None:
    receiver.partial, receiver.message = 3, "too\nold \x1b[31m"
    exporter = exporter_to(receiver.endpoint)
    assert exporter.export(make_spans(5)) == ("taken", "too old  [31m")
    assert exporter.rejected == 3
    receiver.partial = 0
    assert exporter.export(make_spans(5)) == ("taken", "")
    assert exporter.rejected == 0
    exporter.close()


@pytest.mark.parametrize(
    ("answer", "kind", "expected"),
    [
        (b'{"partialSuccess":{"rejectedSpans":"3","errorMessage":"old"}}', "application/json", (3, "old")),
        (b'{"partialSuccess":{}}', "application/json; charset=utf-8", (0, "")),
        (b"{}", "application/json", (0, "")),
        (b"[]", "application/json", (0, "")),
        (b"{", "application/json", (0, "")),
        (b"", "application/json", (0, "")),
        (b"<html>", "text/html", (0, "")),
        (b"\x0a", "application/x-protobuf", (0, "")),
        (b"\xff" * 50, "application/x-protobuf", (0, "")),
        (b"\x08\x01", "application/x-protobuf", (0, "")),
    ],
)
def test_answers_of_any_kind_are_read(answer: bytes, kind: str, expected: tuple[int, str]) -> None:
    assert rejected_in(answer, kind) == expected


def test_an_answer_as_the_library_writes_it() -> None:
    answer = ExportTraceServiceResponse()
    answer.partial_success.rejected_spans = 300
    answer.partial_success.error_message = "ü" * 300
    assert rejected_in(answer.SerializeToString(), "application/x-protobuf") == (300, "ü" * 200)


def test_a_fault_in_a_span_refuses_its_batch_only(receiver: Any) -> None:
    bad = Span("no hexadecimal", "1" * 16, "", "x", "server", 1, 2, ())
    exporter = exporter_to(receiver.endpoint)
    assert exporter.export([bad]) == ("refused", "ValueError while it was sent")
    assert exporter.export(make_spans(1)) == ("taken", "")
    exporter.close()


def test_netrc_does_not_replace_what_was_configured(
    receiver: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login a password b\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    exporter = exporter_to(receiver.endpoint, headers=LOGIN)
    exporter.export(make_spans(1))
    assert receiver.headers["authorization"] == SECRET
    exporter.close()


def test_a_proxy_of_the_environment_is_used(receiver: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    receiver.path = "http://collector.invalid:4318/v1/traces"
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{receiver.port}")
    exporter = exporter_to("http://collector.invalid:4318/v1/traces")
    assert exporter.export(make_spans(1)) == ("taken", "")
    assert receiver.headers["host"] == "collector.invalid:4318"
    exporter.close()


@pytest.mark.parametrize("headers", [{"x-key": "a\nb"}, {"x-key": " padded"}])
def test_a_header_that_cannot_be_sent_is_refused_at_the_start(headers: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="a header for it is not usable: InvalidHeader") as caught:
        exporter_to("http://127.0.0.1:1/", headers=Headers(headers))
    assert "padded" not in str(caught.value)


def test_no_secret_is_shown(receiver: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    target = Target(endpoint=receiver.endpoint, headers=LOGIN)
    exporter = OtlpHttp(target, Encoder({}, SCOPE))
    for receiver.mode in ("ok", "400", "503", "cut"):
        _, why = exporter.export(make_spans(1))
        assert "s3cret" not in why
    assert exporter.export([Span("x", "x", "", "x", "server", 1, 2, ())])[0] == "refused"
    assert "<2 headers>" in repr(target)
    for text in (repr(target), repr(exporter), str(LOGIN), f"{LOGIN}", caplog.text):
        assert "s3cret" not in text
    exporter.close()


def test_encoding_pauses_between_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """The encoder holds the interpreter; a request must not wait for a whole batch."""
    naps: list[float] = []
    monkeypatch.setattr(time, "sleep", naps.append)
    request = ExportTraceServiceRequest()
    request.ParseFromString(encode_gently(Encoder({}, SCOPE), make_spans(200)))
    assert len(naps) == 4
    assert len(request.resource_spans[0].scope_spans[0].spans) == 200
    encode_gently(Encoder({}, SCOPE), make_spans(3))
    assert len(naps) == 4


# TLS.


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def files(authority: trustme.CA, tmp_path: Path) -> dict[str, str]:
    names = {name: str(tmp_path / f"{name}.pem") for name in ("certificate", "client_certificate", "client_key")}
    authority.cert_pem.write_to_path(names["certificate"])
    client = authority.issue_cert("router@example.com")
    client.cert_chain_pems[0].write_to_path(names["client_certificate"])
    client.private_key_pem.write_to_path(names["client_key"])
    return names


def server_context(authority: trustme.CA, *, mutual: bool) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    if mutual:
        authority.configure_trust(context)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


@pytest.mark.parametrize("mutual", [False, True])
def test_tls(authority: trustme.CA, files: dict[str, str], mutual: bool) -> None:
    chosen = files if mutual else {"certificate": files["certificate"]}
    with Receiver(context=server_context(authority, mutual=mutual)) as receiver:
        exporter = exporter_to(receiver.endpoint, **chosen)
        assert exporter.export(make_spans(2)) == ("taken", "")
        exporter.close()
    assert receiver.endpoint.startswith("https:")


def test_a_receiver_that_nobody_vouches_for_gets_nothing(authority: trustme.CA, tmp_path: Path) -> None:
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "other.pem"))
    with Receiver(context=server_context(authority, mutual=False)) as receiver:
        exporter = exporter_to(receiver.endpoint, certificate=str(tmp_path / "other.pem"), headers=LOGIN)
        verdict, why = exporter.export(make_spans(1))
        exporter.close()
        assert receiver.requests == 0
    assert verdict == "later"
    assert "certif" in why
    gc.collect()


@pytest.mark.parametrize("name", ["certificate", "client_certificate"])
@pytest.mark.parametrize("make", [OtlpHttp, OtlpGrpc])
def test_a_file_for_tls_that_is_not_there_or_no_pem(make: Any, name: str, tmp_path: Path) -> None:
    (tmp_path / "bad.pem").write_text("nonsense")
    for file, why in (("none.pem", "No such file"), ("bad.pem", "no PEM")):
        target = Target(endpoint="https://127.0.0.1:1/", **{name: str(tmp_path / file)})  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=f"^OTEL_EXPORTER_OTLP_{name.upper()}: .*{file}.*{why}.*; name a PEM"):
            make(target, Encoder({}, SCOPE))


def test_an_encrypted_key_does_not_ask_for_a_password(files: dict[str, str], tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization as pem

    key = pem.load_pem_private_key(Path(files["client_key"]).read_bytes(), None)
    locked = key.private_bytes(pem.Encoding.PEM, pem.PrivateFormat.PKCS8, pem.BestAvailableEncryption(b"x"))
    (tmp_path / "locked.pem").write_bytes(locked)
    with pytest.raises(ValueError, match="OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE"):
        exporter_to("https://127.0.0.1:1/", **files | {"client_key": str(tmp_path / "locked.pem")})


# Over gRPC.


class Service:
    """A receiver by gRPC: aborts with `status` unless that is ""."""

    def __init__(self, grpc: Any) -> None:
        self.grpc, self.status, self.details, self.answer = grpc, "", "", b""
        self.spans: list[dict[str, Any]] = []
        self.metadata: dict[str, str] = {}
        pool = ThreadPoolExecutor(2)
        self.server = grpc.server(pool, options=[("grpc.max_receive_message_length", 100_000)])
        handler = grpc.unary_unary_rpc_method_handler(self.take)
        service, _, method = METHOD.strip("/").rpartition("/")
        self.server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service, {method: handler})])

    def take(self, body: bytes, context: Any) -> bytes:
        self.metadata = {pair.key: pair.value for pair in context.invocation_metadata()}
        if self.status:
            context.abort(self.grpc.StatusCode[self.status], self.details)
        request = ExportTraceServiceRequest()
        request.ParseFromString(body)
        self.spans += otlp_receiver.spans_of(request)
        return self.answer


@pytest.fixture
def service() -> Iterator[Any]:
    found = Service(importlib.import_module("grpc"))
    found.port = found.server.add_insecure_port("127.0.0.1:0")  # type: ignore[attr-defined]
    found.server.start()
    yield found
    found.server.stop(0).wait()


def by_grpc(port: int, scheme: str = "http", **options: Any) -> OtlpGrpc:
    target = Target(endpoint=f"{scheme}://127.0.0.1:{port}", **options)
    return OtlpGrpc(target, Encoder({"service.name": "r"}, SCOPE))


@pytest.mark.parametrize("compression", ["", "gzip", "deflate"])
def test_a_batch_arrives_by_grpc(service: Any, compression: str) -> None:
    exporter = by_grpc(service.port, headers=LOGIN, compression=compression)
    assert exporter.export(make_spans(100)) == ("taken", "")
    assert [span["name"] for span in service.spans] == [str(number) for number in range(100)]
    assert service.spans[0]["resource"] == {"service.name": "r"}
    assert service.metadata["authorization"] == SECRET
    exporter.close()


@pytest.mark.parametrize(
    ("status", "verdict"),
    [
        ("UNAVAILABLE", "later"),
        ("DEADLINE_EXCEEDED", "later"),
        ("RESOURCE_EXHAUSTED", "later"),
        ("ABORTED", "later"),
        ("INVALID_ARGUMENT", "refused"),
        ("UNAUTHENTICATED", "refused"),
        ("PERMISSION_DENIED", "refused"),
        ("UNIMPLEMENTED", "refused"),
        ("INTERNAL", "refused"),
    ],
)
def test_statuses_of_grpc(service: Any, status: str, verdict: str) -> None:
    service.status, service.details = status, "no \x1b[31m"
    exporter = by_grpc(service.port)
    assert exporter.export(make_spans(1)) == (verdict, f"gRPC status {status}")
    assert exporter.too_large is False
    service.status = ""
    assert exporter.export(make_spans(1)) == ("taken", "")
    exporter.close()


def test_a_message_that_is_too_large_for_grpc(service: Any) -> None:
    exporter = by_grpc(service.port)
    assert exporter.export(make_spans(3000)) == ("refused", "gRPC status RESOURCE_EXHAUSTED")
    assert exporter.too_large is True
    assert exporter.export(make_spans(10)) == ("taken", "")
    assert exporter.too_large is False
    exporter.close()


def test_a_part_that_was_not_kept_by_grpc(service: Any) -> None:
    answer = ExportTraceServiceResponse()
    answer.partial_success.rejected_spans = 2
    service.answer = answer.SerializeToString()
    exporter = by_grpc(service.port)
    assert exporter.export(make_spans(5))[0] == "taken"
    assert exporter.rejected == 2
    exporter.close()


def test_nobody_there_by_grpc_is_for_later(service: Any) -> None:
    service.server.stop(0).wait()
    exporter = by_grpc(service.port, timeout=0.5)
    verdict, why = exporter.export(make_spans(1))
    assert verdict == "later"
    assert why in ("gRPC status UNAVAILABLE", "gRPC status DEADLINE_EXCEEDED")
    exporter.close()


def test_a_header_that_grpc_cannot_send(service: Any) -> None:
    exporter = by_grpc(service.port, headers=Headers({"Upper Case": "s3cret"}))
    verdict, why = exporter.export(make_spans(1))
    assert verdict == "refused"
    assert "s3cret" not in why
    exporter.close()


def test_tls_by_grpc(authority: trustme.CA, files: dict[str, str]) -> None:
    grpc = importlib.import_module("grpc")
    found = Service(grpc)
    leaf = authority.issue_cert("127.0.0.1")
    pairs = [(leaf.private_key_pem.bytes(), leaf.cert_chain_pems[0].bytes())]
    credentials = grpc.ssl_server_credentials(pairs, authority.cert_pem.bytes(), require_client_auth=True)
    port = found.server.add_secure_port("127.0.0.1:0", credentials)
    found.server.start()
    exporter = by_grpc(port, "https", **files)
    assert exporter.export(make_spans(2)) == ("taken", "")
    exporter.close()
    found.server.stop(0).wait()


def test_grpc_without_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "grpc", None)
    with pytest.raises(ValueError, match=r"pip install 'edge-router\[grpc\]'"):
        by_grpc(1)
