"""Files of requests: what is read from them, and every fault at once with its place."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from router.cli_cases import Case, load_cases
from router.faults import ConfigFaults, Fault

GOOD = """\
[[requests]]
request = "GET https://shop.example/cart/7"
headers = { X-Beta = "1", Host = "other.example" }
client = "192.0.2.7"
route = "cart"
pool = "shop"

[[requests]]
request = "http://h/nowhere"
status = 404
"""

BAD = """\
request = 1
[[requests]]
requset = "http://h/"
[[requests]]
request = 5
route = 6
status = 99
[[requests]]
request = "GET /x"
headers = { "A B" = "1", X-C = "\\u0007", host = "a", Host = "b" }
client = "here"
pool = "web"
[[requests]]
request = "http://h/"
headers = { X-A = 1 }
status = true
[[requests]]
request = "http://h/"
"""


def cases_of(text: str, tmp_path: Path, name: str = "cases.toml") -> list[Case]:
    file = tmp_path / name
    file.write_text(text)
    return load_cases(file)[0]


def faults_of(text: str, tmp_path: Path, name: str = "cases.toml") -> list[Fault]:
    with pytest.raises(ConfigFaults) as caught:
        cases_of(text, tmp_path, name)
    return list(caught.value.faults)


def test_a_file_is_read_whole(tmp_path: Path) -> None:
    first, second = cases_of(GOOD, tmp_path)
    assert first.request.text == "GET https://shop.example/cart/7"
    assert (first.request.host, first.request.fields) == ("other.example", (("X-Beta", "1"),))
    assert first.request.client == "192.0.2.7"
    assert (first.expected, first.index) == ({"route": "cart", "pool": "shop"}, 0)
    assert (second.expected, second.index) == ({"status": 404}, 1)


def test_json_and_yaml_say_the_same(tmp_path: Path) -> None:
    rows = {"requests": [{"request": "http://h/", "headers": {"X-A": "1"}, "status": 404}]}
    yaml = "requests:\n  - request: http://h/\n    headers: {X-A: '1'}\n    status: 404\n"
    assert cases_of(json.dumps(rows), tmp_path, "cases.json") == cases_of(yaml, tmp_path, "cases.yaml")


def test_every_fault_is_said_with_its_place(tmp_path: Path) -> None:
    faults = faults_of(BAD, tmp_path)
    said = [(fault.line, fault.key, fault.message) for fault in faults]
    assert said == [
        (1, "request", "unknown key 'request'"),
        (2, "requests[0].request", "the key 'request' is missing"),
        (2, "requests[0]", "this request expects nothing"),
        (3, "requests[0].requset", "unknown key 'requset'"),
        (5, "requests[1].request", "request = 5: expected a string"),
        (6, "requests[1].route", "route = 6: expected a string"),
        (7, "requests[1].status", "status = 99: expected a number from 100 to 599"),
        (9, "requests[2].request", said[7][2]),
        (10, "requests[2].headers", said[8][2]),
        (10, 'requests[2].headers."A B"', said[9][2]),
        (10, "requests[2].headers.X-C", said[10][2]),
        (11, "requests[2].client", "client = \"here\": a client is an IP address, such as '192.0.2.7'"),
        (15, "requests[3].headers", "headers = { X-A = 1 }: expected a table of strings"),
        (16, "requests[3].status", "status = true: expected a number from 100 to 599"),
        (17, "requests[4]", "this request expects nothing"),
    ]
    for index, words in ((7, "no scheme and host"), (8, "one Host"), (9, "one word"), (10, "control characters")):
        assert words in said[index][2]
    hints = [fault.hint for fault in faults]
    assert hints[0] == "did you mean 'requests'?"
    assert hints[1].startswith("a request is written like")
    assert hints[3] == "did you mean 'request'?"
    assert "\a" not in "".join(map(str, faults))


@pytest.mark.parametrize(
    ("name", "text", "message", "hint"),
    [
        ("c.toml", "", "there are no requests in this file", "write [[requests]] before each"),
        ("c.toml", "requests = []", "there are no requests in this file", "write [[requests]] before each"),
        ("c.toml", "[requests]", "there are no requests in this file", "write [[requests]] before each"),
        ("c.json", "{}", "there are no requests in this file", "the key 'requests' holds a list of them"),
        ("c.json", "[]", "expected a table with the key 'requests'", ""),
        ("c.yaml", "requests: [x]", "expected a table such as", ""),
        ("c.toml", "[[requests", "this is not valid TOML", ""),
        ("c.json", '{"requests": [', "this is not valid JSON", ""),
    ],
)
def test_a_file_that_holds_no_requests_is_refused(
    name: str, text: str, message: str, hint: str, tmp_path: Path
) -> None:
    (fault,) = faults_of(text, tmp_path, name)
    assert fault.message.startswith(message)
    assert fault.hint == hint
    assert fault.file == str(tmp_path / name)


def test_keys_that_are_no_strings_are_faults(tmp_path: Path) -> None:
    messages = [fault.message for fault in faults_of("1: 2\nrequests:\n  - 3: 4\n", tmp_path, "cases.yaml")]
    assert "unknown key '1'" in messages
    assert "unknown key '3'" in messages


def test_a_configuration_is_no_file_of_requests(tmp_path: Path) -> None:
    text = '[[listeners]]\nbind = ":80"\n[[routes]]\npool = "a"\n[[pools]]\nname = "a"\nendpoints = ["http://h"]\n'
    messages = [fault.message for fault in faults_of(text, tmp_path)]
    assert "unknown key 'listeners'" in messages
    assert "there are no requests in this file" in messages


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    for path, words in ((tmp_path / "none.toml", "there is no such file"), (tmp_path, "this is a folder")):
        with pytest.raises(ConfigFaults, match=words):
            load_cases(path)
