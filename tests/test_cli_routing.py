"""Where requests go, as the command line and files of requests ask for it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from router import cli_output
from router.cli import router
from router.cli_requests import parse_request
from router.cli_routing import Verdict, decide
from router.prepare import prepare_file

ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / "examples" / "03-hosts-and-paths" / "router.toml"

CONFIG = """\
[server]
health_path = "/-/health"
[[listeners]]
bind = "127.0.0.1:8080"
[[routes]]
name = "cart"
host = "shop.example"
path = "/cart/*"
max_body = "1KiB"
pool = "shop"
[[routes]]
host = "*.shop.example"
methods = ["POST"]
headers = { X-Beta = "*" }
query = { v = "2" }
pool = "web"
[[routes]]
name = "luck"
path = "/luck"
pools = [{ name = "web", weight = 3 }, { name = "shop" }, { name = "spare", weight = 0 }]
[[routes]]
name = "tenant"
path = "/tenant"
pools = [{ name = "web" }, { name = "shop" }]
split_by = "header:X-Tenant"
[[routes]]
name = "old"
path = "/old/*"
answer = { redirect = "https://{host}/new{uri}" }
[[routes]]
name = "gone"
path = "/gone"
answer = { status = 410, body = "gone" }
[[routes]]
name = "api"
path = "/api/*"
rewrite = { strip_prefix = "/api", replace_prefix = "/v2" }
pool = "web"
""" + "".join(
    f'[[pools]]\nname = "{name}"\nendpoints = ["http://127.0.0.1:{port}"]\n'
    for name, port in (("web", 9001), ("shop", 9002), ("spare", 9003))
)

CASES = """\
[[requests]]
request = "GET https://shop.example/cart/7"
route = "cart"
pool = "shop"
[[requests]]
request = "POST https://a.shop.example/?v=2"
headers = { x-beta = "yes" }
route = "route-2"
[[requests]]
request = "GET https://h/luck"
pool = "shop"
[[requests]]
request = "GET https://h/nothing"
status = 404
[[requests]]
request = "GET https://h/old/x"
route = "old"
status = 308
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "router.toml"
    file.write_text(CONFIG)
    return file


def check(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(router, ["check", *map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result.exit_code, result.stdout


def verdict(config: Path, text: str, client: str = "", **fields: str) -> Verdict:
    prepared = prepare_file(config)
    request = parse_request(text).with_more(((name.replace("_", "-"), value) for name, value in fields.items()), client)
    return decide(prepared.table(1, 0.0), request, prepared.source)


def line_of(text: str) -> int:
    """Of the table that this line of CONFIG stands in."""
    before = CONFIG[: CONFIG.index(text)]
    return before.count("\n", 0, before.rindex("[[")) + 1


@pytest.mark.parametrize(
    ("text", "fields", "route", "goal"),
    [
        ("GET https://shop.example/cart/7", {}, "cart", "pool shop"),
        ("GET https://SHOP.example:8443/c%61rt/7?q", {}, "cart", "pool shop"),
        ("GET https://h/cart/7", {"Host": "shop.example"}, "cart", "pool shop"),
        ("PUT http://shop.example/cart/7", {"Content_Length": "1024"}, "cart", "pool shop"),
        ("PUT http://shop.example/cart/7", {"Content_Length": "1025"}, "cart", "413, the body is larger than max_body"),
        ("POST http://a.shop.example/?v=2", {"x_beta": ""}, "route-2", "pool web"),
        ("POST http://a.shop.example/?v=3", {"x_beta": ""}, "", "404, no route"),
        ("GET http://h/luck", {}, "luck", "pools web 75%, shop 25%"),
        ("GET http://h/tenant", {}, "tenant", "pools web 50%, shop 50%"),
        ("GET http://h:80/old/a?b", {}, "old", "308, sent to https://h/new/old/a?b"),
        ("GET http://h/gone", {}, "gone", "410, answered by the route"),
        ("GET http://h/api/a%20b?c=%zz", {}, "api", "pool web, as /v2/a%20b?c=%zz"),
        ("GET http://h/%61pi/x", {}, "api", "pool web, as /v2/x"),
        ("GET http://h/-/health/live", {}, "", "200, the router's own health"),
        ("GET http://h/-/healthy", {}, "", "404, no route"),
        ("CONNECT http://h", {}, "", "405, the router is no tunnel"),
        ("GET http://h/", {"Host": "a b"}, "", "400, the Host field is not a host name or address"),
    ],
)
def test_a_request_goes_where_its_route_says(
    text: str, fields: dict[str, str], route: str, goal: str, config: Path
) -> None:
    found = verdict(config, text, **fields)
    assert (found.route, found.goal) == (route, goal)


def test_a_path_that_servers_read_in_different_ways_is_refused(config: Path) -> None:
    found = verdict(config, "GET http://h/api/..%2Fgone")
    assert (found.route, found.status) == ("", 400)
    assert found.reason == "the path leads to route api, or to route gone if read loosely"


def test_a_value_settles_what_chance_would_decide(config: Path) -> None:
    by_header = {verdict(config, "http://h/tenant", X_Tenant=f"t{n}").goal for n in range(20)}
    by_client = {verdict(config, "http://h/tenant", f"192.0.2.{n}").goal for n in range(20)}
    assert by_header == by_client == {"pool web", "pool shop"}
    again = {verdict(config, "http://h/tenant", f"192.0.2.{n}", X_Tenant="t1").goal for n in range(20)}
    assert len(again) == 1


def test_the_place_of_a_route_is_told(config: Path) -> None:
    line = line_of('host = "*.shop.example"')
    found = verdict(config, "POST http://a.shop.example/?v=2", X_Beta="1")
    assert found.place == f"{config}:{line}"
    prepared = prepare_file(config)
    assert decide(prepared.table(1, 0.0), parse_request("http://h/luck"), None).place == ""


# The command


def test_each_request_is_a_row(config: Path) -> None:
    requests = ("GET https://shop.example/cart/7", "http://[::1]/luck", "http://h/nothing")
    code, text = check(config, *(word for request in requests for word in ("--request", request)))
    asked, *explained = text.split("\n\n")
    head, _, *rows = [re.split(r"  +", line.strip()) for line in asked.splitlines()]
    told = [line for each in explained for line in each.splitlines() if line.startswith("GET ")]
    assert told == ["GET https://shop.example/cart/7", "GET http://[::1]/luck", "GET http://h/nothing"]
    assert (code, head) == (0, ["request", "route", "goes to"])
    assert rows == [
        [requests[0], f"cart ({config}:5)", "pool shop"],
        [requests[1], f"luck ({config}:{line_of('/luck')})", "pools web 75%, shop 25%"],
        [requests[2], "none", "404, no route"],
    ]


def test_fields_and_the_client_are_of_every_request(config: Path) -> None:
    arguments = ("--request", "POST http://a.shop.example/?v=2", "--request", "http://h/tenant", "--json")
    code, text = check(config, *arguments, "-H", "X-Beta: 1", "--header", "X-Tenant: t1", "--client", "192.0.2.7")
    first, second = json.loads(text)["requests"]
    assert code == 0
    assert first["route"] == "route-2"
    assert len(second["pools"]) == 1


def test_the_answer_as_json(config: Path) -> None:
    requests = ("http://h/luck", "http://h/api/x", "http://h/gone")
    code, text = check(config, "--json", *(word for request in requests for word in ("--request", request)))
    luck, api, gone = json.loads(text)["requests"]
    assert (code, json.loads(text)["ok"], json.loads(text)["faults"]) == (0, True, [])
    assert luck["pools"] == [{"name": "web", "share": 0.75}, {"name": "shop", "share": 0.25}]
    assert (luck["request"], luck["route"], luck["status"]) == ("http://h/luck", "luck", None)
    assert (api["pools"], api["target"]) == ([{"name": "web", "share": 1.0}], "/v2/x")
    assert (gone["pools"], gone["status"], gone["reason"]) == ([], 410, "answered by the route")


def cases(config: Path, text: str, *arguments: str) -> tuple[int, str]:
    file = config.with_name("requests.toml")
    file.write_text(text)
    return check(config, "--requests", file, *arguments)


def test_a_file_of_requests_that_go_where_they_should(config: Path) -> None:
    file = config.with_name("requests.toml")
    assert cases(config, CASES) == (0, f"{file}: 5 requests: ok\n")
    code, text = cases(config, CASES, "--json")
    assert (code, json.loads(text)["ok"]) == (0, True)
    assert [row["ok"] for row in json.loads(text)["requests"]] == [True] * 5


MISMATCHES = """\
[[requests]]
request = "GET https://shop.example/cart/7"
route = "crat"
pool = "web"
[[requests]]
request = "http://h/luck"
pool = "spare"
[[requests]]
request = "http://h/nothing"
route = "luck"
[[requests]]
request = "http://h/gone"
status = 404
[[requests]]
request = "http://h/gone"
status = 410
"""


def test_every_mismatch_is_said_with_its_place(config: Path) -> None:
    code, text = cases(config, MISMATCHES)
    file = config.with_name("requests.toml")
    said = [line for line in text.splitlines() if line.startswith(str(file))]
    cart = f"GET https://shop.example/cart/7 takes route 'cart' ({config}:5): pool shop"
    luck = f"http://h/luck takes route 'luck' ({config}:{line_of('/luck')}): pools web 75%, shop 25%"
    gone = f"http://h/gone takes route 'gone' ({config}:{line_of('/gone')}): 410, answered by the route"
    assert said == [
        f"{file}:3:9: requests[0]: route = \"crat\": {cart}; there is no such route, did you mean 'cart'?",
        f'{file}:4:8: requests[0]: pool = "web": {cart}',
        f'{file}:7:8: requests[1]: pool = "spare": {luck}',
        f'{file}:10:9: requests[2]: route = "luck": http://h/nothing gets 404, no route',
        f"{file}:13:10: requests[3]: status = 404: {gone}",
        f"{file}: 5 requests: 4 not as expected",
    ]
    assert code == 1
    assert text.count("^") == 5


def test_mismatches_as_json(config: Path) -> None:
    code, text = cases(config, MISMATCHES, "--json")
    result = json.loads(text)
    assert (code, result["ok"]) == (1, False)
    assert [row["ok"] for row in result["requests"]] == [False, False, False, False, True]
    assert [fault["key"] for fault in result["faults"]] == [
        "requests[0].route",
        "requests[0].pool",
        "requests[1].pool",
        "requests[2].route",
        "requests[3].status",
    ]


def test_a_name_that_is_nowhere_near_is_said_to_be_unknown(config: Path) -> None:
    _, text = cases(config, '[[requests]]\nrequest = "http://h/luck"\npool = "qqqqqq"\n')
    assert "; there is no such pool\n" in text


def test_the_command_line_and_a_file_at_once(config: Path) -> None:
    code, text = cases(config, CASES, "--request", "http://h/gone")
    assert code == 0
    assert "410, answered by the route" in text
    assert text.endswith("5 requests: ok\n")


@pytest.mark.parametrize("as_json", [False, True])
def test_a_faulty_configuration_is_told_as_ever(as_json: bool, config: Path) -> None:
    config.write_text(CONFIG.replace('pool = "shop"', 'pool = "shpo"'))
    json_too = ("--json",) if as_json else ()
    expected = check(config, *json_too)
    assert expected[0] == 2
    assert check(config, "--request", "http://h/", *json_too) == expected
    assert cases(config, CASES, *json_too) == expected


@pytest.mark.parametrize(
    ("text", "word"), [("[[requests]]\nrequset = 1", "did you mean 'request'?"), ("[[", "not valid TOML")]
)
def test_a_faulty_file_of_requests_is_told(text: str, word: str, config: Path) -> None:
    code, told = cases(config, text)
    assert code == 2
    assert word in told
    code, told = cases(config, text, "--json")
    assert (code, json.loads(told)["ok"]) == (2, False)


def test_a_missing_file_of_requests_is_named(config: Path) -> None:
    code, text = check(config, "--requests", config.with_name("none.toml"))
    assert code == 2
    assert "none.toml: there is no such file" in text


def test_colour_is_for_terminals(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli_output, "is_coloured", lambda stream: True)
    assert "\x1b[" in check(config, "--request", "http://h/")[1]
    monkeypatch.setattr(cli_output, "is_coloured", lambda stream: False)
    assert "\x1b[" not in check(config, "--request", "http://h/")[1]


# The README


def readme(language: str) -> list[str]:
    text = (ROOT / "README.md").read_text().partition("\n## Test your routes\n")[2].partition("\n## ")[0]
    found: list[Any] = re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return found


def test_the_file_in_the_readme_holds_for_the_example(tmp_path: Path) -> None:
    (block,) = readme("ini")
    file = tmp_path / "requests.toml"
    file.write_text(block)
    assert check(EXAMPLE, "--requests", file) == (0, f"{file}: 2 requests: ok\n")


def test_the_readme_shows_what_is_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    command, *shown = readme("console")[0].splitlines()
    request, field = re.findall(r"'([^']+)'", command)
    code, text = check(EXAMPLE.relative_to(ROOT), "--request", request, "-H", field)
    printed = [line for line in text.splitlines() if not line.startswith("─")]
    assert code == 0
    assert [line.split() for line in printed] == [line.split() for line in shown]
