"""A fault as it is printed: place, key, value as written, hint, caret; nothing secret."""

import pytest

from router.faults import ConfigFaults, Source, did_you_mean, dotted, visible

TEXT = """\
[server]
zone = "a"

[[pools]]
name = "web"
	timeouts = { connect = "2x" }
"""
DATA = {"server": {"zone": "a"}, "pools": [{"name": "web", "timeouts": {"connect": "2x"}}]}


def source(text=TEXT, data=DATA):
    return Source("router.toml", text, "toml", data)


def test_a_fault_at_a_key_points_at_the_key():
    fault = source().fault(("pools", 0, "name"), "unknown key 'name'", "did you mean 'nome'?")
    assert str(fault) == (
        "router.toml:5:1: pool 'web': unknown key 'name'; did you mean 'nome'?\n  name = \"web\"\n  ^"
    )
    assert (fault.file, fault.line, fault.column) == ("router.toml", 5, 1)
    assert (fault.where, fault.key, fault.value) == ("pool 'web'", "pools[0].name", "")


def test_a_fault_at_a_value_names_key_and_value_and_keeps_tabs():
    fault = source().fault(("pools", 0, "timeouts", "connect"), "that is no duration", at_value=True)
    assert str(fault) == (
        "router.toml:6:25: pool 'web': timeouts.connect = \"2x\": that is no duration\n"
        '  \ttimeouts = { connect = "2x" }\n'
        "  \t                       ^"
    )
    assert fault.value == '"2x"'


@pytest.mark.parametrize(
    ("path", "where", "key"),
    [
        (("server", "zone"), "server", "server.zone"),
        (("server",), "", "server"),
        (("routes", 1, "host"), "routes[1]", "routes[1].host"),
        (("routes", 0, "host"), "route 'shop'", "routes[0].host"),
        (("listeners", 0, "bind"), "listener 127.0.0.1:8080", "listeners[0].bind"),
        (("pools", 0), "pool 'a\\n\\x1b'", "pools[0]"),
        (("pools", 1, "x"), "pools[1]", "pools[1].x"),
        (("observers", 0, "use"), "observers[0]", "observers[0].use"),
        ((), "", ""),
        (("pools", 0, "metadata", "a b.c"), "pool 'a\\n\\x1b'", 'pools[0].metadata."a b.c"'),
    ],
)
def test_where_and_key(path, where, key):
    data = {
        "listeners": [{"bind": "127.0.0.1:8080"}],
        "routes": [{"name": "shop"}, {"name": 5}],
        "pools": [{"name": "a\n\x1b"}, "x"],
    }
    fault = source(data=data).fault(path, "wrong")
    assert (fault.where, fault.key) == (where, key)


def test_without_a_text_there_is_no_place():
    fault = source(text="").fault(("server", "zone"), "wrong", at_value=True)
    assert str(fault) == 'router.toml: server: zone = "a": wrong'
    assert (fault.line, fault.column) == (0, 0)


def test_an_empty_file_is_pointed_at_its_start():
    fault = source(text="", data={}).fault(("pools",), "the key 'pools' is missing")
    assert (fault.line, fault.column) == (1, 1)


def test_control_characters_and_long_lines_stay_harmless():
    text = 'a = "' + "x" * 500 + '"\nb = "\x1b[2J\u202e" # ' + "y" * 500
    long = source(text, {"a": "x" * 500, "b": "\x1b[2J\u202e"})
    fault = long.fault(("a",), "wrong", at_value=True)
    assert len(fault.excerpt) <= 122
    assert len(fault.value) == 80
    fault = long.fault(("b",), "\x1b[31mred", at_value=True)
    assert "\x1b" not in str(fault)
    assert "\u202e" not in str(fault)
    assert "\\x1b[2J" in fault.excerpt
    assert "\\x1b[31mred" in fault.message


def test_the_excerpt_follows_a_far_column():
    text = "a = [" + "1, " * 300 + "'here']"
    place = source(text, {"a": [1] * 300 + ["here"]}).fault(("a", 300), "wrong", at_value=True)
    assert place.column == 906
    assert place.excerpt.startswith("…")
    assert place.excerpt[place.caret - 1 :].startswith("'here'")


def test_what_was_filled_in_is_never_shown():
    made = source(data={"pools": [{"name": "${SECRET}", "zone": {"file": "key.txt"}}]})
    made.filled = {("pools", 0, "name"): "hunter2", ("pools", 0, "zone"): "swordfish"}
    shown = str(made.fault(("pools", 0, "name"), "wrong", "did you mean 'hunter2'?", at_value=True))
    assert '"${SECRET}"' in shown
    assert "hunter" not in shown
    assert "hunter" not in str(made.fault(("routes", 0), "wrong", "did you mean 'hunter2'?"))
    shown = str(made.fault(("pools", 0, "zone"), "wrong", at_value=True))
    assert '{ file = "key.txt" }' in shown
    assert "swordfish" not in shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("a\"b", '"a\\"b"'),
        (True, "true"),
        (None, "null"),
        (3, "3"),
        pytest.param(10**5000, "a number of over 77 digits", id="long"),
        ([1, [2, [3]], "x", 4, 5], '[1, [2, …], "x", 4]'),
        ({"a": 1, "b c": {}}, '{ a = 1, "b c" = {} }'),
        ({}, "{}"),
        ("\ud800", '"\\ud800"'),
    ],
)  # fmt: skip
def test_values_are_short(value, shown):
    assert source(data={"a": value}).fault(("a",), "wrong", at_value=True).value == shown


def test_a_value_that_holds_itself():
    endless: list[object] = []
    endless.append(endless)
    assert source(data={"a": endless}).fault(("a",), "wrong", at_value=True).value == "[[…]]"


def test_faults_come_in_the_order_of_the_file():
    made = source()
    late, early = made.fault(("pools", 0, "name"), "late"), made.fault(("server", "zone"), "early")
    faults = ConfigFaults([late, early])
    assert faults.faults == (early, late)
    assert str(faults).index("early") < str(faults).index("late")


@pytest.mark.parametrize(
    ("word", "answer"),
    [("endpoint", "did you mean 'endpoints'?"), ("ENDPOINTS", "did you mean 'endpoints'?"), ("zzz", ""), ("", "")],
)
def test_did_you_mean(word, answer):
    assert did_you_mean(word, ["endpoints", "name"]) == answer


def test_dotted_and_visible():
    assert dotted(("pools", 0, "timeouts", "connect")) == "pools[0].timeouts.connect"
    assert dotted(()) == ""
    assert visible("ü \x00\x7f\u2028") == "ü \\x00\\x7f\\u2028"
