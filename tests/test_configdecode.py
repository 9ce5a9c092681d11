"""From data to structs: every fault is collected, and the sound rest is kept."""

import copy
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.config import Config, parse_duration
from router.configdecode import decode
from router.faults import ConfigFaults, Source

VALID = {
    "listeners": [{"bind": ":80", "timeouts": {"idle": "5s"}}],
    "routes": [{"pool": "web", "host": ["a", "b"], "path": "/x", "headers": {"file": "x"}}],
    "pools": [
        {
            "name": "web",
            "endpoints": ["http://a:1", {"url": "http://b:1", "weight": 2, "metadata": {"a": "b"}}],
            "selection": {"use": "x", "nested": [{"deep": "${ZONE}"}], "n": 1.5, "none": None},
            "retry": {"buffer": 5, "budget": "50%", "on": ["5xx"]},
        }
    ],
    "server": {"zone": "${ZONE}", "trusted_proxies": ["::1"]},
}
ENV = {"ZONE": "eu-1"}


def read(data, folder=Path(), env=ENV, format="toml"):
    return decode(Source("router.toml", "", format, data), folder, env)


def faults(data, folder=Path(), env=ENV, format="toml"):
    with pytest.raises(ConfigFaults) as caught:
        read(data, folder, env, format)
    return caught.value


def changed(path, value):
    data = copy.deepcopy(VALID)
    table = data
    for step in path[:-1]:
        table = table[step] if isinstance(step, int) else table.setdefault(step, {})
    table[path[-1]] = value
    return data


def test_a_valid_configuration_keeps_its_values():
    config = read(VALID)
    [pool] = config.pools
    assert config.server.zone == "eu-1"
    assert config.routes[0].host == ("a", "b")
    assert config.routes[0].headers == {"file": "x"}
    assert config.listeners[0].timeouts.idle == parse_duration("5s")
    assert config.listeners[0].timeouts.header == 10
    assert pool.endpoints[0] == "http://a:1"
    assert pool.endpoints[1].weight == 2
    assert pool.selection == {"use": "x", "nested": [{"deep": "eu-1"}], "n": 1.5, "none": None}
    assert (pool.retry.buffer, pool.retry.budget, pool.retry.attempts) == (5, 0.5, 2)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("server",), 5, "server = 5: expected a table, not a number"),
        (("server", "zone"), 5, "zone = 5: expected a string, not a number"),
        (("server", "zone"), None, "zone = null: expected a string, not nothing"),
        (("server", "zone"), True, "expected a string, not true or false"),
        (("server", "trusted_proxies"), "x", "expected a list, not a string"),
        (("server", "trusted_proxies"), [1.5], "trusted_proxies[0] = 1.5: expected a string, not a number"),
        (("server", "max_headers"), "5", "expected a whole number, not a string"),
        (("server", "max_headers"), True, "expected a whole number"),
        (("server", "max_headers"), 1.0, "expected a whole number"),
        (("server", "max_headers"), 0, "expected a whole number from 1 to 10000"),
        (("server", "max_headers"), 10**30, "expected a whole number from 1 to 10000"),
        (("server", "max_header_bytes"), "5KB", 'a size is written like "512B"'),
        (("server", "shutdown_timeout"), {"x": 1}, 'a duration is written like "250ms"'),
        (("pools",), {"name": "x"}, "expected a list, not a table; write [[pools]]"),
        (("pools", 0), "x", 'pools[0] = "x": expected a table, not a string'),
        (("pools", 0, "limits"), {"queue": -1}, "limits.queue = -1: expected a whole number of 0 or more"),
        (("pools", 0, "limits"), {"queue": 10**30}, "a whole number of 0 or more"),
        (("pools", 0, "when_few_ready"), "tryall", "expected 'refuse' or 'try_all'; did you mean 'try_all'?"),
        (("pools", 0, "few_ready"), 0.5, 'a share is written like "10%"'),
        (("pools", 0, "prefer_zone"), "yes", "expected true or false, not a string"),
        (("pools", 0, "selection"), 5, "expected a string or a table, not a number"),
        (("pools", 0, "endpoints", 0), [], "endpoints[0] = []: expected a string or a table, not a list"),
        (("pools", 0, "endpoints", 1, "weight"), 70000, "expected a whole number from 0 to 65535"),
        (("pools", 0, "endpoints", 1, "metadata"), {"a": 1}, "metadata.a = 1: expected a string, not a number"),
        (("pools", 0, "endpoints", 1, "metadata"), {1: "a"}, "this key is not a string"),
        (("pools", 0, "selection"), {"use": "x", 1: 2}, "this key is not a string"),
        (("pools", 0, "selection"), {"use": "x", "a": ["${NOPE}"]}, "variable NOPE is not set"),
        (("routes", 0, "host"), 5, "expected a string or a list, not a number"),
        (("routes", 0, "answer"), "gone", 'answer = "gone": expected a table, not a string'),
        (("routes", 0, "answer"), None, "answer = null: expected a table, not nothing"),
        (("routes", 0, "answer"), {"status": "200"}, 'answer.status = "200": expected a whole number, not a string'),
        (("routes", 0, "answer"), {"status": True}, "answer.status = true: expected a whole number, not true or false"),
        (("routes", 0, "answer"), {"status": 199}, "answer.status = 199: expected a whole number from 200 to 599"),
        (
            ("routes", 0, "max_body"),
            "many",
            'max_body = "many": a size is written like "512B", "64KiB" or "10MiB", or "none"',
        ),
        (
            ("routes", 0, "pools"),
            [{"name": "x", "weight": 65536}],
            "weight = 65536: expected a whole number from 0",
        ),
        (("listeners", 0, "max_connections"), 0, "max_connections = 0: expected a whole number from 1 to 1000000"),
        (("server", "forwarded"), "yes", 'forwarded = "yes": expected true or false, not a string'),
        (("routes", 0, "headers"), ["a"], "expected a table, not a list"),
        (("routes", 0, "query"), {"\ud800": "x"}, "this key is not a string"),
        (("routes", 0, "name"), "\ud800", "not valid Unicode"),
        (("routes", 0, "timeout"), "${NOPE}", 'timeout = "${NOPE}": the environment variable NOPE is not set'),
    ],
)
def test_a_wrong_value_is_named_with_what_is_expected(path, value, message):
    broken = faults(changed(path, value))
    [fault] = broken.faults
    assert message in str(fault)
    assert isinstance(broken.partial, Config)


def test_a_table_of_two_shapes_does_not_hint_at_toml_in_json():
    [fault] = faults(changed(("pools",), {}), format="json").faults
    assert fault.hint == ""


def test_unknown_keys_get_a_hint_or_the_list_of_keys():
    [near] = faults(changed(("pools", 0, "endpoint"), [])).faults
    assert str(near).endswith("pool 'web': unknown key 'endpoint'; did you mean 'endpoints'?")
    [far] = faults(changed(("plugins", "zzzzz"), 1)).faults
    assert far.hint == "known here: disable, strict"
    [later] = faults(changed(("pools", 0, "tls"), {"cert": "a"})).faults
    assert "unknown key 'cert'" in later.message
    [number] = faults(changed(("server", 7), 1)).faults
    assert "unknown key '7'" in number.message


def test_missing_keys_are_all_named():
    broken = faults({})
    assert [fault.key for fault in broken.faults] == ["listeners", "routes", "pools"]
    assert "[[listeners]]" in broken.faults[0].hint
    broken = faults(changed(("pools", 0), {}))
    assert [fault.key for fault in broken.faults] == ["pools[0].name"]


def test_every_fault_comes_at_once_and_the_rest_can_still_be_used():
    data = changed(("server", "zone"), 5)
    data["routes"].append({"name": "late", "pool": ["x"], "path": "/late"})
    data["pools"][0]["endpoints"] = [5, "http://ok:1"]
    data["pools"][0]["timeout"] = {}
    broken = faults(data)
    assert sorted(fault.key for fault in broken.faults) == [
        "pools[0].endpoints[0]",
        "pools[0].timeout",
        "routes[1].pool",
        "server.zone",
    ]
    assert broken.partial.routes[1].path == "/late"
    assert broken.partial.routes[1].pool == ""
    assert broken.partial.pools[0].endpoints == ("http://ok:1",)
    assert broken.partial.server.trusted_proxies == ("::1",)


@pytest.mark.parametrize("data", [[], "x", 5, {"file": "x"}])
def test_a_file_that_is_no_table(data):
    assert faults(data).faults


def test_a_table_that_names_a_file_stands_for_its_text(tmp_path):
    (tmp_path / "zone").write_text("eu-2\n")
    (tmp_path / "time").write_text("3s\n")
    (tmp_path / "url").write_text("http://c:1\n")
    data = copy.deepcopy(VALID)
    data["server"] = {"zone": {"file": "zone"}, "shutdown_timeout": {"file": "time"}}
    data["pools"][0]["endpoints"] = [{"file": "${NAME}"}]
    data["pools"][0]["selection"] = {"use": "x", "key": {"file": "zone"}, "other": {"file": "zone", "x": 1}}
    config = read(data, tmp_path, {"NAME": "url"})
    assert config.server.zone == "eu-2"
    assert config.server.shutdown_timeout == 3
    assert config.pools[0].endpoints == ("http://c:1",)
    assert config.pools[0].selection == {"use": "x", "key": "eu-2", "other": {"file": "zone", "x": 1}}


@pytest.mark.parametrize(
    ("path", "value", "shown"),
    [
        (("server", "shutdown_timeout"), "${SECRET}", '"${SECRET}"'),
        (("pools", 0, "when_few_ready"), "${SECRET}", '"${SECRET}"'),
        (("pools", 0, "few_ready"), {"file": "secret"}, '{ file = "secret" }'),
    ],
)
def test_a_secret_never_shows(tmp_path, path, value, shown):
    (tmp_path / "secret").write_text("try_al\n")
    [fault] = faults(changed(path, value), tmp_path, {"SECRET": "try_al", "ZONE": ""}).faults
    assert shown in str(fault)
    assert "try_al" not in str(fault).replace("'try_all'", "")


def test_a_number_is_never_read_from_outside():
    [fault] = faults(changed(("server", "max_headers"), "${ZONE}")).faults
    assert "expected a whole number, not a string" in fault.message


def test_endless_and_deep_data_is_one_fault():
    endless: dict[str, object] = {"use": "x"}
    endless["again"] = endless
    [fault] = faults(changed(("pools", 0, "selection"), endless)).faults
    assert "nested too deeply" in fault.message
    wide: object = "x"
    for _ in range(30):
        wide = [wide] * 4
    [fault] = faults(changed(("pools", 0, "selection"), {"use": "x", "wide": wide})).faults
    assert "repeats itself" in fault.message


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.dates(),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.text() | st.integers(), below, max_size=3),
    max_leaves=5,
)
PLACES = [
    *((name,) for name in ("server", "listeners", "routes", "pools", "plugins", "observers")),
    *(("pools", 0, name) for name in ("name", "endpoints", "selection", "retry", "limits", "ejection", "few_ready")),
    *(("server", name) for name in ("zone", "trusted_proxies", "max_headers", "max_header_bytes", "drain_delay")),
    *(("routes", 0, name) for name in ("host", "path", "headers", "filters", "timeout")),
    ("pools", 0, "endpoints", 1, "metadata"),
    ("pools", 0, "endpoints", 1, "state"),
]


@given(st.sampled_from(PLACES), ANYTHING)
@settings(max_examples=300, deadline=None)
def test_nothing_but_faults_for_any_data(path, value):
    found = []
    try:
        config = read(changed(path, value))
    except ConfigFaults as broken:
        config, found = broken.partial, broken.faults
    assert isinstance(config, Config)
    # A fault without a key would be msgspec's word for what the walk let pass.
    assert all(fault.key for fault in found)


def test_the_walk_knows_every_kind_of_type_in_use():
    def kinds(kind, seen):
        if not isinstance(kind, msgspec.inspect.Type) or id(kind) in seen:
            return
        seen.add(id(kind))
        yield type(kind)
        for below in getattr(kind, "types", ()):
            yield from kinds(below, seen)
        for field in getattr(kind, "fields", ()):
            yield from kinds(field.type, seen)
        for name in ("item_type", "key_type", "value_type"):
            yield from kinds(getattr(kind, name, None), seen)

    names = {kind.__name__ for kind in kinds(msgspec.inspect.type_info(Config), set())}
    assert names == {
        *("StructType", "VarTupleType", "UnionType", "DictType", "StrType"),
        *("CustomType", "LiteralType", "IntType", "BoolType", "AnyType"),
        # Stands for a key that is left out; never met as a value.
        "NoneType",
    }
