"""Faults planted at random places of a valid configuration, and arbitrary text: each is named, nothing else escapes."""

import json
import re
from pathlib import Path

import pytest
import yaml
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from router.config import Config
from router.configcheck import check, load_checked
from router.configfile import parse
from router.faults import ConfigFaults

FOLDER = Path("/nonexistent")
ROUTES = 6
POOLS = 4


def make():
    """A valid configuration that has every table."""
    pools = [
        {
            "name": f"pool-{p}",
            "endpoints": [
                f"http://10.0.{p}.1:9000",
                {"url": f"http://10.0.{p}.2:9000", "weight": 2, "zone": "eu", "metadata": {"rack": "r1"}},
            ],
            "selection": {"use": "least_request"},
            "when_few_ready": "refuse",
            "few_ready": "5%",
            "prefer_zone": True,
            "timeouts": {"connect": "1s", "head": "10s", "stream": "20s"},
            "limits": {"in_flight": 10, "queue": 5, "queue_timeout": "2s"},
            "retry": {"attempts": 1, "on": ["connect", "5xx"], "buffer": "1KiB", "budget": "10%", "reserve": 5},
            "ejection": {"base": "5s", "max": "50s", "max_share": "20%"},
        }
        for p in range(POOLS)
    ]
    routes = [
        {
            "name": f"route-{r}",
            "pool": f"pool-{r % POOLS}",
            "host": f"h{r}.example.com",
            "path": [f"/app/{r}/*", "/exact"],
            "methods": ["GET", "POST"],
            "headers": {"X-Version": "2"},
            "timeout": "30s",
            "max_body": "1MiB",
            "rewrite": {"strip_prefix": "/app", "host": "app.internal"},
            "request_headers": {"set": {"X-A": "1"}, "remove": ["X-Debug"]},
        }
        for r in range(ROUTES)
    ]
    return {
        "server": {
            "zone": "eu",
            "forwarded": True,
            "trusted_proxies": ["10.0.0.0/8"],
            "max_headers": 50,
            "max_header_bytes": "8KiB",
        },
        "listeners": [
            {"bind": f"127.0.0.1:{8080 + n}", "max_connections": 9, "timeouts": {"header": "5s", "idle": "5s"}}
            for n in range(2)
        ],
        "routes": routes,
        "pools": pools,
        "plugins": {"disable": ["x"], "strict": True},
    }


def to_toml(data):
    """One key a line under headers; what stands deeper is inline."""

    def value(item):
        if isinstance(item, dict):
            return "{ " + ", ".join(f"{json.dumps(k)} = {value(v)}" for k, v in item.items()) + " }"
        if isinstance(item, list):
            return "[\n  " + ",\n  ".join(map(value, item)) + "\n]" if item else "[]"
        return "1979-05-27" if item is None else json.dumps(item, ensure_ascii=False).replace("\x7f", "\\u007f")

    lines = []
    for name, table in data.items():
        tables = table if isinstance(table, list) else [table]
        if not all(isinstance(entry, dict) for entry in tables):
            lines.insert(0, f"{json.dumps(name)} = {value(table)}")
            continue
        for entry in tables:
            lines.append(f"\n[[{name}]]" if isinstance(table, list) else f"\n[{name}]")
            lines += [f"{json.dumps(key)} = {value(item)}  # {key}" for key, item in entry.items()]
    return "\n".join(lines) + "\n"


WRITERS = {
    "toml": to_toml,
    "json": lambda data: json.dumps(data, indent=2, ensure_ascii=False),
    "yaml": lambda data: yaml.safe_dump(data, sort_keys=False, allow_unicode=True),
}


def faults_in(data, format):
    text = WRITERS[format](data)
    try:
        config, source = parse(text, "router.conf", format, FOLDER, {})
    except ConfigFaults as broken:
        return list(broken.faults), text
    return check(config, source), text


def at(data, path):
    for step in path:
        data = data[step]
    return data


@pytest.mark.parametrize("format", WRITERS)
def test_the_configuration_to_plant_into_is_valid(format):
    assert faults_in(make(), format)[0] == []


LEAVES = {
    "duration": [
        *((("pools",), ("timeouts", key)) for key in ("connect", "head", "stream")),
        *((("pools",), ("ejection", key)) for key in ("base", "max")),
        (("pools",), ("limits", "queue_timeout")),
        (("routes",), ("timeout",)),
        *((("listeners",), ("timeouts", key)) for key in ("header", "idle")),
    ],
    "whole": [
        (("pools",), ("retry", "attempts")),
        (("pools",), ("retry", "reserve")),
        (("pools",), ("limits", "in_flight")),
        (("pools",), ("endpoints", 1, "weight")),
        (("server",), ("max_headers",)),
        (("listeners",), ("max_connections",)),
    ],
    "text": [
        (("routes",), ("name",)),
        (("routes",), ("pool",)),
        (("routes",), ("path", 1)),
        (("routes",), ("methods", 0)),
        (("routes",), ("rewrite", "strip_prefix")),
        (("routes",), ("request_headers", "set", "X-A")),
        (("routes",), ("request_headers", "remove", 0)),
        (("pools",), ("name",)),
        (("pools",), ("endpoints", 1, "url")),
        (("pools",), ("retry", "on", 1)),
        (("listeners",), ("bind",)),
        (("server",), ("zone",)),
    ],
    "share": [
        (("pools",), ("few_ready",)),
        (("pools",), ("retry", "budget")),
        (("pools",), ("ejection", "max_share")),
    ],
    "switch": [(("pools",), ("prefer_zone",)), (("plugins",), ("strict",)), (("server",), ("forwarded",))],
}
TABLES = [
    (("pools",), ()),
    *((("pools",), (key,)) for key in ("timeouts", "limits", "retry", "ejection")),
    (("pools",), ("endpoints", 1)),
    (("routes",), ()),
    (("routes",), ("rewrite",)),
    (("listeners",), ()),
    (("listeners",), ("timeouts",)),
    (("server",), ()),
    (("plugins",), ()),
]
FORMATS = st.sampled_from(list(WRITERS))
QUICK = settings(max_examples=60, deadline=None)


@st.composite
def places(draw, choices):
    (table,), rest = draw(st.sampled_from(choices))
    counts = {"pools": POOLS, "routes": ROUTES, "listeners": 2}
    index = (draw(st.integers(0, counts[table] - 1)),) if table in counts else ()
    return (table, *index, *rest)


def assert_named(fault, text, path, value):
    """The fault tells key and value, and points at the line that holds the value."""
    shown = str(fault)
    key = next(str(step) for step in reversed(path) if isinstance(step, str))
    assert key in shown
    assert json.dumps(value, ensure_ascii=False)[:70].removesuffix('"') in shown
    line = text.split("\n")[fault.line - 1]
    assert str(value).strip("[]{}'\"").lower() in line.lower()
    assert re.match(r"router\.conf:\d+:\d+: ", shown)


def assert_alone(faults, path):
    """One fault, at the key of the planted one."""
    [fault] = faults
    assert [int(n) for n in re.findall(r"\[(\d+)\]", fault.key)] == [step for step in path if isinstance(step, int)]
    assert re.sub(r"\[\d+\]", "", fault.key) == ".".join(step for step in path if isinstance(step, str))
    return fault


@given(FORMATS, places([*LEAVES["duration"]]), st.sampled_from(["2x", "5", "-1s", "1 s", "", "1d", "soon", 5, 1.5]))
@QUICK
def test_a_bad_duration(format, path, value):
    data = make()
    at(data, path[:-1])[path[-1]] = value
    faults, text = faults_in(data, format)
    fault = assert_alone(faults, path)
    assert_named(fault, text, path, value)
    assert '"250ms"' in fault.message


@given(FORMATS, places(LEAVES["whole"]), st.sampled_from([-1, -(10**30), 10**30, "5", 1.5, "many"]))
@QUICK
def test_a_number_that_is_none_or_out_of_range(format, path, value):
    data = make()
    at(data, path[:-1])[path[-1]] = value
    faults, text = faults_in(data, format)
    fault = assert_alone(faults, path)
    assume(not (format == "yaml" and isinstance(value, int) and abs(value) > 10**20))
    assert_named(fault, text, path, value)


@given(
    FORMATS, places(LEAVES["text"] + LEAVES["share"] + LEAVES["switch"]), st.integers(2, 9) | st.just([]) | st.just({})
)
@QUICK
def test_a_wrong_type(format, path, value):
    data = make()
    at(data, path[:-1])[path[-1]] = value
    faults, text = faults_in(data, format)
    fault = assert_alone(faults, path)
    assert "expected" in fault.message or "is written like" in fault.message
    assert_named(fault, text, path, value)


@given(FORMATS, places(LEAVES["share"]), st.sampled_from(["101%", "10", "x", "-5%"]))
@QUICK
def test_a_share_out_of_range(format, path, value):
    data = make()
    at(data, path[:-1])[path[-1]] = value
    faults, text = faults_in(data, format)
    assert_named(assert_alone(faults, path), text, path, value)


@st.composite
def misspelt(draw, word):
    """The word with one letter gone, doubled, or swapped with the next."""
    index = draw(st.integers(1, len(word) - 1))
    return draw(
        st.sampled_from(
            [
                word[:index] + word[index + 1 :],
                word[:index] + word[index] + word[index:],
                word[: index - 1] + word[index] + word[index - 1] + word[index + 1 :],
            ]
        )
    )


@given(FORMATS, places(TABLES), st.data())
@settings(max_examples=150, deadline=None)
def test_a_misspelt_key(format, path, draw):
    data = make()
    table = at(data, path)
    # Words of two letters are too short to guess.
    key = draw.draw(st.sampled_from([key for key in table if len(key) > 3 and key != "max_share"]))
    wrong = draw.draw(misspelt(key))
    assume(wrong not in table and wrong != key)
    renamed = {wrong if name == key else name: value for name, value in table.items()}
    table.clear()
    table.update(renamed)
    faults, text = faults_in(data, format)
    [fault] = [fault for fault in faults if fault.message == f"unknown key {wrong!r}"]
    assert fault.hint.startswith("did you mean ")
    assert wrong in text.split("\n")[fault.line - 1]
    assert text.split("\n")[fault.line - 1][fault.column - 1 :].lstrip('"').startswith(wrong)
    assert fault.key.endswith(f".{wrong}")


@given(FORMATS, st.integers(0, ROUTES - 1), st.integers(0, POOLS - 1), st.data())
@QUICK
def test_an_unknown_pool(format, route, pool, draw):
    data = make()
    wrong = draw.draw(misspelt(f"pool-{pool}"))
    assume(wrong not in {entry["name"] for entry in data["pools"]})
    data["routes"][route]["pool"] = wrong
    faults, text = faults_in(data, format)
    fault = assert_alone(faults, ("routes", route, "pool"))
    assert_named(fault, text, ("routes", route, "pool"), wrong)
    assert fault.where == f"route 'route-{route}'"
    assert "did you mean 'pool-" in fault.hint


@given(FORMATS, st.sampled_from(["pools", "routes"]), st.data())
@QUICK
def test_a_name_that_stands_twice(format, table, draw):
    data = make()
    first, second = sorted(draw.draw(st.lists(st.integers(0, POOLS - 1), min_size=2, max_size=2, unique=True)))
    name = data[table][first]["name"]
    data[table][second]["name"] = name
    faults, text = faults_in(data, format)
    faults = [fault for fault in faults if not fault.key.endswith(".pool")]
    fault = assert_alone(faults, (table, second, "name"))
    assert_named(fault, text, (table, second, "name"), name)
    assert f"{table}[{first}]" in fault.message


@given(FORMATS, st.sets(places(LEAVES["duration"] + LEAVES["whole"] + LEAVES["share"]), min_size=2, max_size=6))
@QUICK
def test_all_of_several_faults_come_at_once(format, planted):
    data = make()
    for path in planted:
        at(data, path[:-1])[path[-1]] = "wrong"
    faults, _ = faults_in(data, format)
    lines = [fault.line for fault in faults]
    assert len(faults) == len(planted)
    assert lines == sorted(lines)
    assert len({fault.key for fault in faults}) == len(planted)


@given(places(LEAVES["duration"] + LEAVES["whole"]), st.integers(0, ROUTES - 1))
@settings(max_examples=30, deadline=None)
def test_reading_and_checking_report_together(tmp_path_factory, path, route):
    data = make()
    at(data, path[:-1])[path[-1]] = "wrong"
    data["routes"][route]["pool"] = "nowhere"
    file = tmp_path_factory.getbasetemp() / "router.json"
    file.write_text(json.dumps(data))
    with pytest.raises(ConfigFaults) as caught:
        load_checked(file, {})
    assert {fault.value for fault in caught.value.faults} == {'"wrong"', '"nowhere"'}


def survives(text, format):
    """Reads and checks; only ConfigFaults may come out, each ready to print on one terminal line and an excerpt."""
    try:
        config, source = parse(text, "router.conf", format, FOLDER, {"A": "b"})
        faults = check(config, source)
    except ConfigFaults as broken:
        config, faults = broken.partial, broken.faults
    for fault in faults:
        shown = str(fault)
        assert shown.encode()
        assert len(shown.split("\n")) in (1, 3)
        assert fault.line <= text.count("\n") + 1
        assert fault.message
    return config


@given(FORMATS, st.text())
@example("yaml", "a: !!timestamp x")
@example("yaml", "a: !!int ''")
@example("yaml", "? [a, b]\n: c")
@example("yaml", "- &a [*a]")
@example("yaml", "<<: 1")
@example("yaml", "pools: [<<: {name: x}]")
@example("yaml", "2: x\ntrue: y\n~: z")
@example("json", '{"a\\ud800": "\\udfff", "server": {"zone": "\\ud800"}}')
@example("json", "NaN")
@example("toml", "a.b.c = 1\n[a]\n[[a.b]]")
@example("toml", "\x00")
@settings(max_examples=200, deadline=None)
def test_any_text(format, text):
    config = survives(text, format)
    assert config is None or isinstance(config, Config)


WORDS = [
    "[[pools]]",
    '"""',
    "- ",
    "&a ",
    "*a",
    "<<: *a\n",
    "${A}",
    "${",
    "$$",
    "name",
    "url",
    "null",
    "true",
    "1e9",
    "!!set ",
]
SNIPPETS = st.sampled_from([*WORDS, *"[]{}'=:,# \"\\\n\r\t\x00\x85\u2028ü5"])


@given(FORMATS, st.lists(st.tuples(st.integers(0, 9000), st.integers(0, 12), SNIPPETS), min_size=1, max_size=4))
@settings(max_examples=250, deadline=None)
def test_any_mutation_of_a_valid_text(format, edits):
    text = TEXTS[format]
    for offset, length, snippet in edits:
        offset %= len(text)
        text = text[:offset] + snippet + text[offset + length :]
    config = survives(text, format)
    assert config is None or isinstance(config, Config)


TEXTS = {format: write(make()) for format, write in WRITERS.items()}
