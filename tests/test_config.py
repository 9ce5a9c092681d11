"""The structs of a configuration: defaults, units, and what a table refuses."""

import math

import msgspec
import pytest

from router.config import (
    Config,
    Duration,
    ListenerConfig,
    PoolConfig,
    RouteConfig,
    SizeLimit,
    parse_duration,
    parse_share,
    parse_size,
    parse_size_limit,
)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("250ms", 0.25), ("2s", 2), ("1.5s", 1.5), ("5m", 300), ("1h", 3600), ("0s", 0), ("none", math.inf)],
)
def test_durations(text, seconds):
    assert parse_duration(text) == seconds
    assert type(parse_duration(text)) is Duration


@pytest.mark.parametrize(
    "value",
    [5, 2.0, True, None, "", "5", "s", "-1s", "+1s", "1 s", "1.s", ".5s", "1e3s", "1_0s", "٣s", "5S", "5min", "inf"],
)
def test_what_is_no_duration(value):
    with pytest.raises(ValueError, match='like "250ms"'):
        parse_duration(value)


@pytest.mark.parametrize("value", ["nans", "9" * 5000 + "s", ["1s"], {}])
def test_what_is_no_duration_either(value):
    with pytest.raises(ValueError, match='like "250ms"'):
        parse_duration(value)


@pytest.mark.parametrize(
    ("value", "size"),
    [(0, 0), (70, 70), ("512B", 512), ("64KiB", 65536), ("10MiB", 10 << 20), ("1GiB", 1 << 30), ("0B", 0)],
)
def test_sizes(value, size):
    assert parse_size(value) == size


@pytest.mark.parametrize(
    "value", [-1, True, 1.5, None, "", "64", "64KB", "64kib", "1.5MiB", "-1B", "٣B", "9" * 5000 + "B", 1 << 80]
)
def test_what_is_no_size(value):
    with pytest.raises(ValueError, match='like "512B"'):
        parse_size(value)


@pytest.mark.parametrize(("value", "limit"), [("none", math.inf), ("1MiB", 1 << 20), (0, 0), (7, 7)])
def test_limits_of_size(value, limit):
    assert parse_size_limit(value) == limit
    assert type(parse_size_limit(value)) is SizeLimit


@pytest.mark.parametrize("value", ["None", "inf", "1MB", -1, None])
def test_what_is_no_limit_of_size(value):
    with pytest.raises(ValueError, match=r'like "512B", .* or "none"'):
        parse_size_limit(value)


@pytest.mark.parametrize(("text", "share"), [("10%", 0.1), ("0%", 0), ("100%", 1), ("12.5%", 0.125)])
def test_shares(text, share):
    assert parse_share(text) == share


@pytest.mark.parametrize("value", [0.1, 10, None, "10", "101%", "-1%", "%", "a%"])
def test_what_is_no_share(value):
    with pytest.raises(ValueError, match='from "0%" to "100%"'):
        parse_share(value)


def test_equal_configurations_are_equal():
    def make(selection):
        return Config(
            (ListenerConfig(":80"),), (RouteConfig("web"),), (PoolConfig("web", ("http://a:1",), selection=selection),)
        )

    assert make({"use": "x", "n": 1}) == make({"use": "x", "n": 1})
    assert make("random") != make("round_robin")


def test_structs_are_frozen_and_refuse_unknown_keys():
    with pytest.raises(AttributeError):
        RouteConfig("web").pool = "api"
    with pytest.raises(msgspec.ValidationError, match="unknown field `poool`"):
        msgspec.convert({"pool": "web", "poool": 1}, RouteConfig)
