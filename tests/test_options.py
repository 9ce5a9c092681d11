"""Options are converted, every fault of a table is found and named by its key, and text reads like the file."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
import pytest

from router import Duration, Options, Share, Size
from router.options import PluginFault, describe_options, did_you_mean, encode_options, read_options


class Inner(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    depth: int = 1


class Sample(Options, frozen=True):
    header: str
    tau: Duration = Duration(10)
    draws: Annotated[int, msgspec.Meta(ge=1, le=9)] = 2
    mode: Literal["fast", "exact"] = "fast"
    names: tuple[str, ...] = ()
    limit: Size = Size(64 << 10)
    share: Share | None = None
    inner: Inner = Inner()
    labels: dict[str, str] = {}
    exact: bool = False
    factor: float = 1.5


class Ordered(Options, frozen=True):
    low: int = 0
    high: int = 1

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise ValueError("low is above high")


def faults(table: dict[str, Any], kind: type[Options] = Sample) -> dict[tuple[str | int, ...], PluginFault]:
    with pytest.raises(PluginFault) as caught:
        read_options(kind, table, 'selection "sample"')
    return {fault.key: fault for fault in caught.value.all}


def test_values_are_converted() -> None:
    read = read_options(
        Sample, {"header": "x", "tau": "250ms", "limit": "1MiB", "share": "5%", "factor": 2, "names": ["a"]}, "sample"
    )
    assert read == Sample("x", Duration(0.25), limit=Size(1 << 20), share=Share(0.05), factor=2.0, names=("a",))


@pytest.mark.parametrize(
    ("table", "key", "words"),
    [
        ({"tau": 3}, ("tau",), "a duration is written like"),
        ({"draws": 0}, ("draws",), ">= 1"),
        ({"mode": "quick"}, ("mode",), "'quick'"),
        ({"names": ["a", 3]}, ("names", 1), "a whole number"),
        ({"inner": {"depth": "x"}}, ("inner", "depth"), "not a string"),
        ({"share": "300%"}, ("share",), "a share is written like"),
        ({"labels": {"a": 1}}, ("labels",), "a whole number"),
        ({"exact": "yes"}, ("exact",), "true or false"),
    ],
)
def test_a_fault_has_its_key(table: dict[str, Any], key: tuple[str | int, ...], words: str) -> None:
    found = faults({"header": "x", **table})
    assert [k[: len(key)] for k in found] == [key]
    (fault,) = found.values()
    assert words in fault.message
    assert 'selection "sample"' in fault.message


def test_all_faults_of_a_table_are_found_at_once() -> None:
    found = faults({"taw": "1s", "draws": 99, "tau": "1x"})
    assert set(found) == {("taw",), ("draws",), ("tau",), ()}
    assert found["taw",].hint == 'did you mean "tau"?'
    assert 'needs "header"' in found[()].message


def test_an_option_of_a_plugin_without_any() -> None:
    assert "its options: none" in faults({"tau": "1s"}, Options)["tau",].message


def test_a_check_across_options() -> None:
    assert "low is above high" in faults({"low": 2}, Ordered)["low",].message


def test_a_type_no_file_can_hold_is_told() -> None:
    class Odd(Options, frozen=True):
        when: complex = 0j

    assert "complex" in faults({"when": 1}, Odd)["when",].message


def test_equal_options_have_equal_bytes() -> None:
    tables: list[dict[str, Any]] = [
        {"header": "x"},
        {"header": "x", "tau": "10s"},
        {"header": "x", "labels": {"a": "1", "b": "2"}},
        {"header": "x", "labels": {"b": "2", "a": "1"}},
        {"header": "x", "tau": "none"},
        {"header": "x", "share": "5%"},
    ]
    encoded = [encode_options(read_options(Sample, table, "sample")) for table in tables]
    assert encoded[0] == encoded[1]
    assert encoded[2] == encoded[3]
    assert len(set(encoded)) == 4
    assert encode_options(Options()) != encode_options(Ordered())


def test_description_reads_like_a_file() -> None:
    assert describe_options(Sample) == [
        ("header", "str", "required"),
        ("tau", "duration", '"10s"'),
        ("draws", "int >= 1 <= 9", "2"),
        ("mode", '"fast" or "exact"', '"fast"'),
        ("names", "list of str", "[]"),
        ("limit", "size", '"64KiB"'),
        ("share", "share or none", "none"),
        ("inner", "Inner", '{"depth":1}'),
        ("labels", "table of str", "{}"),
        ("exact", "bool", "false"),
        ("factor", "float", "1.5"),
    ]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Duration(0), "0s"),
        (Duration(0.25), "250ms"),
        (Duration(90), "90s"),
        (Duration(300), "5m"),
        (Duration(7200), "2h"),
        (Duration(2.5), "2.5s"),
        (Duration("inf"), "none"),
        (Size(0), "0B"),
        (Size(1000), "1000B"),
        (Size(3 << 30), "3GiB"),
        (Share(0.055), "5.5%"),
        (Share(1), "100%"),
    ],
)
def test_defaults_can_be_pasted_back(value: Duration | Size | Share, text: str) -> None:
    kind = type(value)
    options: Any = msgspec.defstruct("Made", [("value", kind, value)], bases=(Options,), frozen=True)
    assert describe_options(options) == [("value", kind.__name__.lower(), f'"{text}"')]
    read: Any = read_options(options, {"value": text}, "made")
    assert read.value == pytest.approx(value)


def test_did_you_mean_says_nothing_about_far_words() -> None:
    assert did_you_mean("zzz", ["random", "round_robin"]) == ""
    assert did_you_mean("randm", ["random", "round_robin"]) == 'did you mean "random"?'
