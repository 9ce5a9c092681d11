"""Reading files: TOML, JSON and YAML give the same configuration, and bad text is told by line."""

import builtins
import json

import pytest
import yaml

from router.configfile import ConfigFaults, load, parse
from router.positions import yaml_loader

SMALLEST = """\
[[listeners]]
bind = "127.0.0.1:8080"
[[routes]]
pool = "web"
[[pools]]
name = "web"
endpoints = ["http://127.0.0.1:9001", "http://127.0.0.1:9002"]
"""
DATA = {
    "listeners": [{"bind": "127.0.0.1:8080"}],
    "routes": [{"pool": "web"}],
    "pools": [{"name": "web", "endpoints": ["http://127.0.0.1:9001", "http://127.0.0.1:9002"]}],
}


def faults(path):
    with pytest.raises(ConfigFaults) as caught:
        load(path, {})
    return caught.value.faults


def written(tmp_path, text, name="router.toml"):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_the_smallest_useful_file(tmp_path):
    config, source = load(written(tmp_path, SMALLEST), {})
    assert [listener.bind for listener in config.listeners] == ["127.0.0.1:8080"]
    assert config.pools[0].endpoints == ("http://127.0.0.1:9001", "http://127.0.0.1:9002")
    assert config.pools[0].selection == "least_request"
    assert source.data == DATA
    assert source.text == SMALLEST


def test_json_yaml_and_toml_say_the_same(tmp_path):
    toml, _ = load(written(tmp_path, SMALLEST), {})
    for name, text in (
        ("a.json", json.dumps(DATA)),
        ("a.yaml", yaml.safe_dump(DATA)),
        ("a.YML", yaml.safe_dump(DATA)),
        ("a.conf", SMALLEST),
        ("bom", b"\xef\xbb\xbf" + SMALLEST.encode()),
        ("crlf", SMALLEST.replace("\n", "\r\n")),
    ):
        assert load(str(written(tmp_path, text, name)), {})[0] == toml


def test_yaml_reads_the_key_on_as_a_word(tmp_path):
    text = yaml.safe_dump(DATA, sort_keys=False) + "  retry: {on: [connect], budget: 10%}\n"
    config, _ = load(written(tmp_path, text, "a.yaml"), {})
    assert config.pools[0].retry.on == ("connect",)


def test_the_environment_of_the_process_is_the_default(tmp_path, monkeypatch):
    monkeypatch.setenv("ROUTER_TEST_POOL", "web")
    path = written(tmp_path, SMALLEST.replace('pool = "web"', 'pool = "${ROUTER_TEST_POOL}"'))
    assert load(path)[0].routes[0].pool == "web"


def test_files_are_found_beside_the_configuration(tmp_path, monkeypatch):
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "name").write_text("web\n")
    written(tmp_path / "etc", SMALLEST.replace('pool = "web"', 'pool = { file = "name" }'))
    monkeypatch.chdir(tmp_path)
    assert load("etc/router.toml", {})[0].routes[0].pool == "web"


def test_a_missing_file(tmp_path):
    [fault] = faults(tmp_path / "router.toml")
    assert str(fault).startswith(f"{tmp_path}/router.toml: there is no such file; ")
    assert fault.line == 0


def test_what_cannot_be_read(tmp_path, monkeypatch):
    [folder] = faults(tmp_path)
    assert "this is a folder" in folder.message
    [strange] = faults("a\0b")
    assert "cannot be read" in strange.message
    [long] = faults("x" * 5000)
    assert "cannot be read" in long.message

    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.read_bytes", refuse)
    [forbidden] = faults(tmp_path / "router.toml")
    assert "may not be read" in forbidden.message


def test_bad_encoding_is_pointed_at(tmp_path):
    [fault] = faults(written(tmp_path, SMALLEST.encode() + "# ü ".encode() + b"\xff\n"))
    assert (fault.line, fault.column) == (8, 5)
    assert "byte 0xff" in fault.message
    assert "UTF-8" in fault.hint
    [fault] = faults(written(tmp_path, SMALLEST.encode("utf-16")))
    assert (fault.line, fault.column) == (1, 1)


@pytest.mark.parametrize(
    ("name", "text", "line", "column", "message"),
    [
        ("a.toml", "a = 1\nb = = 2\n", 2, 5, "not valid TOML: Invalid value"),
        ("a.toml", "a = 1\na = 2\n", 2, 6, "not valid TOML: Cannot overwrite a value"),
        ("a.toml", "[server]\n[server]\n", 2, 8, "not valid TOML: Cannot declare ('server',) twice"),
        ("a.toml", 'a = "x', 1, 7, "not valid TOML"),
        ("a.toml", "a = [1,\n", 2, 1, "not valid TOML"),
        ("a.toml", "a = " + "9" * 5000, 1, 1, "not valid TOML"),
        ("a.json", '{"a": 1,\n "b" 2}', 2, 6, "not valid JSON: Expecting ':' delimiter"),
        ("a.json", '{"a": {"b": 1,\n "b": 2}}', 2, 2, "not valid JSON: this key stands twice"),
        ("a.json", "", 1, 1, "not valid JSON"),
        ("a.json", '{"a": ' + "9" * 5000 + "}", 1, 1, "not valid JSON"),
        ("a.yaml", "a: 1\nb: [1\n", 3, 1, "not valid YAML"),
        ("a.yaml", "a: 1\n  b: 2\n", 2, 4, "not valid YAML: mapping values are not allowed"),
        ("a.yaml", "a: 1\nb: 2\na: 3\n", 3, 1, "not valid YAML: the key 'a' stands twice"),
        ("a.yaml", "a: !!python/object:os.system x\n", 1, 4, "not valid YAML: could not determine a constructor"),
        ("a.yaml", "a: 1\n---\nb: 1\n", 2, 1, "not valid YAML"),
        ("a.yaml", "a: !!bool x\n", 1, 1, "not valid YAML: a value cannot be read"),
        ("a.yaml", "a: \x01\n", 1, 4, "not valid YAML"),
    ],
)
def test_a_syntax_error_has_its_place(tmp_path, name, text, line, column, message):
    [fault] = faults(written(tmp_path, text, name))
    assert message in fault.message
    assert (fault.line, fault.column) == (line, column)
    assert "Traceback" not in str(fault)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.toml", "a = " + "[" * 5000 + "]" * 5000),
        ("a.json", "[" * 100_000 + "]" * 100_000),
        ("a.yaml", "[" * 5000 + "]" * 5000),
        ("a.toml", "a = " + "[" * 150 + "]" * 150),
    ],
)
def test_deep_nesting_is_a_fault(tmp_path, name, text):
    assert faults(written(tmp_path, text, name))


@pytest.mark.parametrize("name", ["a.toml", "a.yaml"])
def test_an_empty_file_names_what_is_missing(tmp_path, name):
    assert [fault.key for fault in faults(written(tmp_path, "\n# nothing\n", name))] == ["listeners", "routes", "pools"]


def test_yaml_without_pyyaml_says_what_to_install(tmp_path, monkeypatch):
    def without_yaml(name, *args, real=builtins.__import__, **kwargs):
        if name == "yaml":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    yaml_loader.cache_clear()
    monkeypatch.setattr(builtins, "__import__", without_yaml)
    [fault] = faults(written(tmp_path, "a: 1", "a.yaml"))
    assert "pip install 'edge-router[yaml]'" in str(fault)


def test_faults_have_places_in_every_format(tmp_path):
    toml = SMALLEST + 'timeouts = { connect = "2x" }\nwieght = 1\n'
    broken = {**DATA, "pools": [{**DATA["pools"][0], "timeouts": {"connect": "2x"}, "wieght": 1}]}
    for name, text in (
        ("a.toml", toml),
        ("a.json", json.dumps(broken, indent=1)),
        ("a.yaml", yaml.safe_dump(broken, sort_keys=False)),
    ):
        value, key = faults(written(tmp_path, text, name))
        lines = text.split("\n")
        assert lines[value.line - 1][value.column - 1 :].strip('"').startswith("2x")
        assert lines[key.line - 1][key.column - 1 :].strip('"').startswith("wieght")


def test_parse_names_the_text_as_told(tmp_path):
    with pytest.raises(ConfigFaults) as caught:
        parse("x = 1", "<proxy>", "toml", tmp_path, {})
    assert str(caught.value).startswith("<proxy>:1:1: ")


def test_a_valid_file_is_never_scanned_for_places(tmp_path, monkeypatch):
    monkeypatch.setattr("router.faults.Positions", None)
    assert load(written(tmp_path, SMALLEST), {})[0].routes
