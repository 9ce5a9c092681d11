"""Places of keys and values agree with what the parsers read, whatever the text."""

import json
import tomllib

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from router.positions import Positions, yaml_loader

TOML = """\
# a comment with [[pools]] in it
title = "x # no comment"   # one

[server]
zone = 'a'
"quoted key" = 1
"esc\\u0041ped" = 2

[[pools]]
name = "web"
endpoints = [
  "http://a:1",  # the first
  { url = "http://b:2", metadata = { rack = "r1" } },
  [1, [2, 3],
    4],
]
timeouts.connect = "2s"
timeouts . "head" = "3s"
text = \"\"\"
name = "not a key"
""quotes\\"\"\"\"\"\"
raw = '''
[[pools]]
'''''
last = 1979-05-27 07:32:00

[[pools]]
name = "api"
[pools.retry]
attempts = 3
[[pools.extra]]
a = 1
[[pools.extra]]
a = { b.c = 2, d = [] }
[pools.extra.deep]
e = true
"""


@pytest.mark.parametrize(
    ("path", "key", "value"),
    [
        (("title",), (2, 1), (2, 9)),
        (("server",), (4, 2), (4, 1)),
        (("server", "zone"), (5, 1), (5, 8)),
        (("server", "quoted key"), (6, 1), (6, 16)),
        (("server", "escAped"), (7, 1), (7, 18)),
        (("pools",), (9, 3), (9, 1)),
        (("pools", 0), (9, 1), (9, 1)),
        (("pools", 0, "endpoints"), (11, 1), (11, 13)),
        (("pools", 0, "endpoints", 0), (12, 3), (12, 3)),
        (("pools", 0, "endpoints", 1), (13, 3), (13, 3)),
        (("pools", 0, "endpoints", 1, "url"), (13, 5), (13, 11)),
        (("pools", 0, "endpoints", 1, "metadata", "rack"), (13, 38), (13, 45)),
        (("pools", 0, "endpoints", 2, 1, 1), (14, 11), (14, 11)),
        (("pools", 0, "endpoints", 2, 2), (15, 5), (15, 5)),
        (("pools", 0, "timeouts"), (17, 1), (17, 1)),
        (("pools", 0, "timeouts", "connect"), (17, 10), (17, 20)),
        (("pools", 0, "timeouts", "head"), (18, 12), (18, 21)),
        (("pools", 0, "text"), (19, 1), (19, 8)),
        (("pools", 0, "raw"), (22, 1), (22, 7)),
        (("pools", 0, "last"), (25, 1), (25, 8)),
        (("pools", 1), (27, 1), (27, 1)),
        (("pools", 1, "name"), (28, 1), (28, 8)),
        (("pools", 1, "retry"), (29, 8), (29, 1)),
        (("pools", 1, "retry", "attempts"), (30, 1), (30, 12)),
        (("pools", 1, "extra", 0, "a"), (32, 1), (32, 5)),
        (("pools", 1, "extra", 1), (33, 1), (33, 1)),
        (("pools", 1, "extra", 1, "a", "b", "c"), (34, 9), (34, 13)),
        (("pools", 1, "extra", 1, "a", "d"), (34, 16), (34, 20)),
        (("pools", 1, "extra", 1, "deep", "e"), (36, 1), (36, 5)),
    ],
)
def test_toml_places(path, key, value):
    tomllib.loads(TOML)
    positions = Positions(TOML, "toml")
    assert positions.key(path) == key
    assert positions.value(path) == value


def test_the_longest_known_prefix_answers():
    positions = Positions(TOML, "toml")
    assert positions.key(("pools", 1, "retry", "nothing", 3)) == (29, 8)
    assert positions.value(("pools", 1, "nothing")) == (27, 1)
    assert positions.key(("pools", 7)) == (9, 3)
    assert positions.key(("nothing",)) == (1, 1)
    assert positions.key(()) == (1, 1)


def test_windows_line_ends_and_wide_characters_count_as_characters():
    positions = Positions('a = "ü😀"\r\n\r\nb = { "ü" = "😀", c = 1 }\r\n', "toml")
    assert positions.value(("b", "ü")) == (3, 13)
    assert positions.key(("b", "c")) == (3, 18)


JSON = """{
  "pools": [
    {"name": "we\\"b", "a\\u0062": {"c": [true, null, -1.5e3, "x,]}"]}},
    {"name" : "api"}
  ]
}"""


@pytest.mark.parametrize(
    ("path", "key", "value"),
    [
        (("pools",), (2, 3), (2, 12)),
        (("pools", 0), (3, 5), (3, 5)),
        (("pools", 0, "name"), (3, 6), (3, 14)),
        (("pools", 0, "ab", "c"), (3, 35), (3, 40)),
        (("pools", 0, "ab", "c", 3), (3, 61), (3, 61)),
        (("pools", 1, "name"), (4, 6), (4, 15)),
    ],
)
def test_json_places(path, key, value):
    json.loads(JSON)
    positions = Positions(JSON, "json")
    assert positions.key(path) == key
    assert positions.value(path) == value


def test_json_tells_the_first_key_that_stands_twice():
    text = '{"a": {"x": 1},\n "b": {"x": 1, "y": 2, "x": 3, "y": 4}}'
    positions = Positions(text, "json")
    assert positions.repeated is not None
    assert positions.at(positions.repeated) == (2, 24)
    assert Positions(JSON, "json").repeated is None


YAML = """\
# comment
pools:
  - name: web
    endpoints: [http://a:1, {url: "http://b:2"}]
  - &api
    name: api
    timeouts:
      connect: 2s
copy:
  <<: *api
  name: other
"""


@pytest.mark.parametrize(
    ("path", "key", "value"),
    [
        (("pools",), (2, 1), (3, 3)),
        (("pools", 0), (3, 5), (3, 5)),
        (("pools", 0, "endpoints", 1, "url"), (4, 30), (4, 35)),
        (("pools", 1, "timeouts", "connect"), (8, 7), (8, 16)),
        (("copy", "timeouts", "connect"), (8, 7), (8, 16)),
        (("copy", "name"), (11, 3), (11, 9)),
    ],
)
def test_yaml_places(path, key, value):
    positions = Positions(YAML, "yaml")
    assert positions.key(path) == key
    assert positions.value(path) == value


@pytest.mark.parametrize("format", ["toml", "json", "yaml"])
@pytest.mark.parametrize("text", ["", "[", "{", "a", "a = [", 'a = "', "[[[", "a: [", "[" * 3000, '{"a":' * 3000])
def test_malformed_text_is_given_up_quietly(text, format):
    positions = Positions(text, format)
    assert positions.key(("nowhere",)) == (1, 1)


def test_yaml_aliases_do_not_explode():
    lines = ["a0: &a0 [x, x]"]
    lines += [f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}, *a{i - 1}, *a{i - 1}]" for i in range(1, 30)]
    assert Positions("\n".join(lines), "yaml").key(("a1",)) == (2, 1)
    assert Positions("a: &a [*a]", "yaml").value(("a", 0)) == (1, 4)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("on", "on"), ("off", "off"), ("yes", "yes"), ("no", "no"), ("true", True), ("False", False), ("~", None),
        ("null", None), ("", None), ("10", 10), ("-3", -3), ("010", "010"), ("0x10", "0x10"), ("1:30", "1:30"),
        ("1.5", 1.5), ("2024-01-01", "2024-01-01"), ("2s", "2s"), ("1_000", "1_000"), ("=", "="),
    ],
)  # fmt: skip
def test_yaml_words_are_read_as_yaml_1_2_does(text, value):
    assert yaml.load(f"key: {text}", yaml_loader())["key"] == value


def test_yaml_refuses_a_key_that_stands_twice():
    with pytest.raises(yaml.YAMLError, match="'b' stands twice"):
        yaml.load("a:\n  b: 1\n  c: 2\n  b: 3\n", yaml_loader())


KEYS = st.text(st.characters(codec="utf-8"), max_size=6)
TREES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(st.characters(codec="utf-8"), max_size=6),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(KEYS, below, max_size=3),
    max_leaves=12,
)


def paths(tree, path=()):
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, below in items:
        yield (*path, key), below
        yield from paths(below, (*path, key))


@given(TREES, st.booleans(), st.sampled_from([None, 1]))
@settings(max_examples=150, deadline=None)
def test_every_value_of_any_json_is_found_where_it_stands(tree, escaped, indent):
    text = json.dumps(tree, ensure_ascii=escaped, indent=indent)
    positions = Positions(text, "json")
    for path, value in paths(tree):
        offset = positions.places[path].value
        assert json.JSONDecoder().raw_decode(text, offset)[0] == value


@given(st.dictionaries(KEYS, TREES, max_size=4))
@settings(max_examples=150, deadline=None)
def test_every_path_of_any_toml_is_known(tree):
    def inline(value):
        if isinstance(value, dict):
            return "{" + ", ".join(f"{quote(k)} = {inline(v)}" for k, v in value.items()) + "}"
        if isinstance(value, list):
            return "[ " + ",\n ".join(map(inline, value)) + " # ]\n]"
        return quote(value) if isinstance(value, str) else "true" if value is None else json.dumps(value)

    def quote(text):
        return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")

    text = "".join(f"{quote(k)}\t= {inline(v)}\n" for k, v in tree.items())
    data = tomllib.loads(text)
    positions = Positions(text, "toml")
    assert set(positions.places) == {path for path, _ in paths(data)}
