"""The standard variables: what each means, and what is said of a value that means nothing."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from router_tracing.environment import Environment, Headers, split_credentials

OTLP = "OTEL_EXPORTER_OTLP_"
TRACES = "OTEL_EXPORTER_OTLP_TRACES_"

NAMES = [
    "OTEL_SDK_DISABLED",
    "OTEL_TRACES_EXPORTER",
    "OTEL_TRACES_SAMPLER",
    "OTEL_TRACES_SAMPLER_ARG",
    "OTEL_PROPAGATORS",
    "OTEL_SERVICE_NAME",
    "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT",
    "OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT",
    "OTEL_BSP_MAX_QUEUE_SIZE",
    "OTEL_BSP_MAX_EXPORT_BATCH_SIZE",
    "OTEL_BSP_SCHEDULE_DELAY",
    "OTEL_BSP_EXPORT_TIMEOUT",
    *(
        start + word
        for start in (OTLP, TRACES)
        for word in ("ENDPOINT", "PROTOCOL", "HEADERS", "COMPRESSION", "TIMEOUT", "CERTIFICATE", "INSECURE")
    ),
]


def read(caplog: pytest.LogCaptureFixture | None = None, **variables: str) -> Environment:
    """Reads these; with `caplog`, nothing may be said."""
    found = Environment.read(variables)
    assert caplog is None or caplog.messages == []
    return found


def test_nothing_set_is_the_default(caplog: pytest.LogCaptureFixture) -> None:
    assert read(caplog) == Environment()
    assert read(caplog, **dict.fromkeys(NAMES, "")) == Environment()
    assert read(caplog, **dict.fromkeys(NAMES, " ")) == Environment()


@pytest.mark.parametrize(
    ("variables", "field", "expected"),
    [
        ({"OTEL_SDK_DISABLED": "TRUE"}, "disabled", True),
        ({"OTEL_SDK_DISABLED": "false"}, "disabled", False),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, "export", "otlp"),
        ({"OTEL_TRACES_EXPORTER": "console"}, "export", "console"),
        ({"OTEL_TRACES_EXPORTER": "none", OTLP + "PROTOCOL": "grpc"}, "export", "none"),
        ({"OTEL_TRACES_EXPORTER": "otlp", OTLP + "PROTOCOL": "grpc"}, "export", "grpc"),
        ({OTLP + "PROTOCOL": "grpc"}, "export", "grpc"),
        ({OTLP + "PROTOCOL": "grpc", TRACES + "PROTOCOL": "http/protobuf"}, "export", "otlp"),
        ({OTLP + "PROTOCOL": "http/json"}, "json", True),
        ({OTLP + "PROTOCOL": "http/protobuf"}, "json", False),
        ({"OTEL_TRACES_SAMPLER": "always_on"}, "sampling", "always"),
        ({"OTEL_TRACES_SAMPLER": "always_on"}, "parent_based", False),
        ({"OTEL_TRACES_SAMPLER": "traceidratio"}, "parent_based", False),
        ({"OTEL_TRACES_SAMPLER": "parentbased_always_on"}, "sampling", "always"),
        ({"OTEL_TRACES_SAMPLER": "parentbased_always_on"}, "parent_based", True),
        ({"OTEL_TRACES_SAMPLER": "parentbased_always_off"}, "sampling", "never"),
        ({"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.25"}, "sampling", 0.25),
        ({"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0"}, "sampling", 0.0),
        ({"OTEL_TRACES_SAMPLER": "traceidratio"}, "sampling", 1.0),
        ({"OTEL_TRACES_SAMPLER_ARG": "0.25"}, "sampling", None),
        ({"OTEL_PROPAGATORS": "tracecontext,baggage"}, "propagators", ("tracecontext",)),
        (
            {"OTEL_PROPAGATORS": "b3, tracecontext ,b3,jaeger,b3multi"},
            "propagators",
            ("b3", "tracecontext", "jaeger", "b3multi"),
        ),
        ({"OTEL_PROPAGATORS": "none"}, "propagators", ()),
        ({"OTEL_SERVICE_NAME": " shop "}, "service", "shop"),
        ({"OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT": "100"}, "value_limit", 100),
        ({"OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT": "100", "OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT": "0"}, "value_limit", 0),
        ({"OTEL_BSP_MAX_QUEUE_SIZE": "100"}, "buffer", 100),
        ({"OTEL_BSP_MAX_QUEUE_SIZE": "100"}, "batch", 100),
        ({"OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "64"}, "batch", 64),
        ({"OTEL_BSP_SCHEDULE_DELAY": "250"}, "delay", 0.25),
        ({OTLP + "TIMEOUT": "2500"}, "timeout", 2.5),
        ({OTLP + "TIMEOUT": "2500", TRACES + "TIMEOUT": "1500"}, "timeout", 1.5),
        ({OTLP + "TIMEOUT": "60000"}, "timeout", 30.0),
        ({OTLP + "TIMEOUT": "60000", "OTEL_BSP_EXPORT_TIMEOUT": "90000"}, "timeout", 60.0),
        ({OTLP + "ENDPOINT": "http://a:1"}, "base_endpoint", "http://a:1"),
        ({TRACES + "ENDPOINT": "http://a:1"}, "traces_endpoint", "http://a:1"),
        ({OTLP + "COMPRESSION": "gzip"}, "compression", "gzip"),
        ({OTLP + "COMPRESSION": "gzip", TRACES + "COMPRESSION": "none"}, "compression", ""),
        ({OTLP + "CERTIFICATE": "a.pem"}, "certificate", "a.pem"),
        ({TRACES + "CLIENT_KEY": "b.pem"}, "client_key", "b.pem"),
        ({OTLP + "CLIENT_CERTIFICATE": "c.pem"}, "client_certificate", "c.pem"),
        ({OTLP + "INSECURE": "true"}, "insecure", True),
        ({OTLP + "HEADERS": "a=b,X-Key = v%20w%2C ,c="}, "headers", {"a": "b", "x-key": "v w,", "c": ""}),
        ({OTLP + "HEADERS": "a=b", TRACES + "HEADERS": "c=d=e"}, "headers", {"c": "d=e"}),
    ],
)
def test_what_a_variable_means(
    variables: dict[str, str], field: str, expected: Any, caplog: pytest.LogCaptureFixture
) -> None:
    assert getattr(read(caplog, **variables), field) == expected


@pytest.mark.parametrize(
    ("variables", "field", "default"),
    [
        ({"OTEL_SDK_DISABLED": "yes"}, "disabled", False),
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, "export", None),
        ({"OTEL_TRACES_EXPORTER": "console,otlp"}, "export", "console"),
        ({OTLP + "PROTOCOL": "http"}, "export", "otlp"),
        ({TRACES + "PROTOCOL": "http"}, "json", False),
        ({"OTEL_TRACES_SAMPLER": "sometimes"}, "sampling", None),
        ({"OTEL_TRACES_SAMPLER_ARG": "1.5", "OTEL_TRACES_SAMPLER": "traceidratio"}, "sampling", 1.0),
        ({"OTEL_TRACES_SAMPLER_ARG": "nan", "OTEL_TRACES_SAMPLER": "traceidratio"}, "sampling", 1.0),
        ({"OTEL_TRACES_SAMPLER_ARG": "half", "OTEL_TRACES_SAMPLER": "traceidratio"}, "sampling", 1.0),
        ({"OTEL_PROPAGATORS": "xray"}, "propagators", None),
        ({"OTEL_PROPAGATORS": "xray,b3"}, "propagators", ("b3",)),
        ({"OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT": "-1"}, "value_limit", None),
        ({"OTEL_BSP_MAX_QUEUE_SIZE": "0"}, "buffer", None),
        ({"OTEL_BSP_MAX_QUEUE_SIZE": "1" * 5000}, "buffer", None),
        ({"OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "x"}, "batch", 512),
        ({"OTEL_BSP_SCHEDULE_DELAY": "5s"}, "delay", 5.0),
        ({"OTEL_BSP_SCHEDULE_DELAY": "\u0665"}, "delay", 5.0),
        ({OTLP + "TIMEOUT": "10.5"}, "timeout", 10.0),
        ({TRACES + "TIMEOUT": "0"}, "timeout", 10.0),
        ({OTLP + "COMPRESSION": "zstd"}, "compression", ""),
        ({OTLP + "INSECURE": "1"}, "insecure", False),
    ],
)
def test_a_value_that_means_nothing_is_said_and_ignored(
    variables: dict[str, str], field: str, default: Any, caplog: pytest.LogCaptureFixture
) -> None:
    assert getattr(read(**variables), field) == default
    (line,) = caplog.messages
    assert line.startswith(f"the environment variable {next(iter(variables))} is not usable: ")
    assert len(line) < 300


def test_a_timeout_that_was_most_likely_meant_in_seconds(caplog: pytest.LogCaptureFixture) -> None:
    """The specification says milliseconds; some libraries read seconds."""
    assert read(OTEL_EXPORTER_OTLP_TIMEOUT="10").timeout == 0.01
    assert caplog.messages == ["OTEL_EXPORTER_OTLP_TIMEOUT=10 counts milliseconds: few collectors answer so soon"]


@pytest.mark.parametrize("entry", ["s3cret", "=s3cret", "a b=s3cret", "a=s3%0Acret", "a=s3%C3%A9cret", "\u00e9=s3cret"])
def test_a_bad_header_is_told_by_its_place_alone(entry: str, caplog: pytest.LogCaptureFixture) -> None:
    found = read(OTEL_EXPORTER_OTLP_TRACES_HEADERS=f"good=1,{entry},fine=2")
    assert found.headers == {"good": "1", "fine": "2"}
    assert caplog.messages == [
        "the environment variable OTEL_EXPORTER_OTLP_TRACES_HEADERS is not usable: "
        "entry 2 is no name=value that a header can hold; it is ignored"
    ]


def test_secrets_are_not_shown() -> None:
    found = read(
        OTEL_EXPORTER_OTLP_HEADERS="authorization=s3cret", OTEL_EXPORTER_OTLP_ENDPOINT="https://user:s3cret@a:1/x"
    )
    assert found.headers["authorization"] == "s3cret"
    assert "s3cret" not in repr(found) + str(found) + f"{found.headers!s}{found.headers!r}"
    assert found.base_endpoint == "https://a:1/x"


@pytest.mark.parametrize(
    ("url", "clean", "header"),
    [
        ("http://a:1/x", "http://a:1/x", None),
        ("http://u:p@a:1/x", "http://a:1/x", "Basic dTpw"),
        ("http://u@a:1/x", "http://a:1/x", "Basic dQ=="),
        ("http://[::1/", "", None),
        ("nonsense", "nonsense", None),
    ],
)
def test_splitting_credentials(url: str, clean: str, header: str | None) -> None:
    found, headers = split_credentials(url)
    assert (found, headers.get("authorization")) == (clean, header)
    assert isinstance(headers, Headers)


@given(st.dictionaries(st.sampled_from(NAMES), st.text(max_size=40)))
def test_no_value_raises(variables: dict[str, str]) -> None:
    found = Environment.read(variables)
    assert found.batch >= 1
    assert found.timeout > 0
    assert found.sampling in ("always", "never", None) or 0 <= float(found.sampling or 0) <= 1
