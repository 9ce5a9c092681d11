"""What holds across tables: each fault is said once, at its place, and a sound file has none."""

import pytest

from router.config import (
    Config,
    EjectionConfig,
    LimitsConfig,
    ListenerConfig,
    ListenerTimeouts,
    PoolConfig,
    RouteConfig,
    ServerConfig,
    parse_duration,
)
from router.configcheck import Bind, check, endpoint_specs, load_checked, parse_bind
from router.configfile import ConfigFaults, parse
from router.model import EndpointSpec

BASE = """\
[server]
trusted_proxies = ["10.0.0.0/8", "::1"]
health_path = "/-/health"
[[listeners]]
bind = "127.0.0.1:8080"
[[listeners]]
bind = "unix:/run/r.sock"
[[routes]]
name = "shop"
host = ["shop.example.com", "*.shop.example.com"]
path = "/x/*"
methods = ["GET", "HEAD"]
headers = { X-Version = "2" }
pool = "web"
[[routes]]
pool = "api"
[[pools]]
name = "web"
endpoints = ["http://a:1", { url = "http://b:1", weight = 0 }, "unix:/run/a.sock"]
retry = { on = ["connect", "5xx", "503"] }
limits = { in_flight = 5, queue = 3 }
[[pools]]
name = "api"
endpoints = ["http://a:1", { url = "http://a:1", id = "second" }]
"""


def checked(text, tmp_path, env=None):
    return check(*parse(text, "router.toml", "toml", tmp_path, env or {}))


def test_a_valid_configuration_has_no_fault(tmp_path):
    assert checked(BASE, tmp_path) == []


FAULTS = [
    ("10.0.0.0/8", "10.0.0.1/8", 'server: trusted_proxies[0] = "10.0.0.1/8": this network has bits', (2, 20)),
    ('"::1"', '"::x"', 'server: trusted_proxies[1] = "::x": expected an IP address', (2, 34)),
    ('"/-/health"', '"health"', "server: health_path = \"health\": a path starts with '/'; write '/health'", (3, 15)),
    ('"/-/health"', '"/x/*"', "this is one path, without '*'", (3, 15)),
    ('"/-/health"', '"/x"\ndrain_delay = "none"', 'drain_delay = "none": the router would never stop', (4, 15)),
    ('"/-/health"', '"/x"\nmax_header_bytes = 0', "max_header_bytes = 0: every request has a head", (4, 20)),
    ("127.0.0.1:8080", "8080", 'listener 8080: bind = "8080": a listener\'s address has a host and a port', (5, 8)),
    ("unix:/run/r.sock", ":8080", 'listener :8080: bind = ":8080": this address is taken by listeners[0]', (7, 8)),
    ('r.sock"', 'r.sock"\ntimeouts.idle = "0s"', 'timeouts.idle = "0s": this must be longer than zero', (8, 17)),
    ('"*.shop', '"http://shop', "route 'shop': host[1] = \"http://shop.example.com\": a host has no scheme", (10, 29)),
    ('"/x/*"', '["/y", "/x*"]', "route 'shop': path[1] = \"/x*\": '*' stands only for all below", (11, 15)),
    ('"/x/*"', '"x"', "path = \"x\": a path starts with '/'; write '/x'", (11, 8)),
    ('"HEAD"', '"head"', "methods[1] = \"head\": methods are in upper case; did you mean 'HEAD'?", (12, 19)),
    ("X-Version", '"X Version"', 'headers."X Version" = "2": a header\'s name is one word', (13, 27)),
    ('"web"\n[[routes', '"wbe"\n[[routes', "pool = \"wbe\": there is no such pool; did you mean 'web'?", (14, 8)),
    ('"web"\n[[routes', '"zzz"\n[[routes', "no such pool; the pools are 'api', 'web'", (14, 8)),
    ('"web"\n[[routes', '"web"\ntimeout = "0s"\n[[routes', 'timeout = "0s": this must be longer than zero', (15, 11)),
    ('"web"\n[[routes', '"web"\nfilters = ["", {}]\n[[routes', 'filters[0] = "": a plugin is a name', (15, 12)),
    ('name = "shop"', 'name = "my shop"', 'name = "my shop": a name is made of letters', (9, 8)),
    ("[[routes]]\npool", '[[routes]]\nname = "shop"\npool', 'name = "shop": this name is taken by routes[0]', (16, 8)),
    (
        '"http://a:1", { url = "http://b',
        '"a:1", { url = "http://b',
        'endpoints[0] = "a:1": an endpoint starts',
        (19, 14),
    ),
    ('"http://b:1"', '"http://b:x"', 'endpoints[1].url = "http://b:x": the port is not a number', (19, 36)),
    (
        '"http://b:1"',
        '"http://a:1/"',
        'endpoints[1].url = "http://a:1/": this is the same endpoint as endpoints[0]',
        (19, 36),
    ),
    (
        '["http://a:1", { url = "http://b:1", weight = 0 }, "unix:/run/a.sock"]',
        "[]",
        "endpoints = []: a pool needs",
        (19, 13),
    ),
    (
        '"http://a:1", { url = "http://b:1", weight = 0 }, "unix:/run/a.sock"',
        '{ url = "http://a", weight = 0 }',
        "every endpoint has weight 0",
        (19, 13),
    ),
    ('"503"', '"504s"', "retry.on[2] = \"504s\": expected 'connect', 'reset'", (20, 35)),
    ('"503"] }', '"503"], attempt_timeout = "0s" }', 'retry.attempt_timeout = "0s": this must be longer', (20, 61)),
    ("in_flight = 5, ", "", "limits.queue = 3: a queue has no effect without a limit", (21, 20)),
    ("queue = 3", 'queue_timeout = "0s"', 'limits.queue_timeout = "0s": this must be longer', (21, 43)),
    ("limits =", 'ejection = { max = "10s" }\nlimits =', 'ejection.max = "10s": ejection.base is longer', (21, 20)),
    ("limits =", 'ejection = { base = "1h" }\nlimits =', 'ejection.base = "1h": ejection.base is longer', (21, 21)),
    ("limits =", 'selection = ""\nlimits =', 'selection = "": a pool needs a selection', (21, 13)),
    ("limits =", "selection = { n = 1 }\nlimits =", "selection = { n = 1 }: the key 'use' is missing", (21, 13)),
    ("limits =", "affinity = { use = 1 }\nlimits =", "affinity.use = 1: expected the name of a plugin", (21, 20)),
    ("limits =", 'timeouts = { head = "0ms" }\nlimits =', 'timeouts.head = "0ms": this must be longer', (21, 21)),
    ('name = "api"', 'name = "web"', "pool 'web': name = \"web\": this name is taken by pools[0]", (23, 8)),
    ('name = "api"', 'name = ""', 'pools[1]: name = "": a name is made of letters', (23, 8)),
    (
        'id = "second"',
        'id = ""',
        'endpoints[1].url = "http://a:1": this is the same endpoint as endpoints[0]',
        (24, 36),
    ),
    (
        '"http://a:1", { url = "http://a:1", id = "second" }',
        '{ url = "http://a:1", id = "x" }, { url = "http://b:1", id = "x" }',
        'endpoints[1].id = "x": this is the same',
        (24, 75),
    ),
]


@pytest.mark.parametrize(("old", "new", "message", "place"), FAULTS, ids=[fault[1] for fault in FAULTS])
def test_each_fault_is_named_at_its_place(tmp_path, old, new, message, place):
    assert BASE.count(old) >= 1
    faults = checked(BASE.replace(old, new, 1), tmp_path)
    [fault] = [fault for fault in faults if message in str(fault)]
    assert (fault.line, fault.column) == place


def test_a_route_that_takes_everything_names_what_it_hides(tmp_path):
    text = BASE.replace('host = ["shop.example.com", "*.shop.example.com"]\n', "")
    text = text.replace('path = "/x/*"\nmethods = ["GET", "HEAD"]\nheaders = { X-Version = "2" }\n', 'path = "/*"\n')
    [fault] = checked(text, tmp_path)
    assert "route 'shop': this route takes every request, so routes[1] can never be reached" in str(fault)
    assert (fault.line, fault.excerpt) == (8, "[[routes]]")


def test_more_hidden_routes_are_counted():
    routes = tuple(RouteConfig("web", path=path) for path in ((), "/a", "/b"))
    config = Config((ListenerConfig(":80"),), routes, (PoolConfig("web", ("http://a:1",)),))
    [fault] = check(config, None)
    assert "routes[1] and the 1 after it can never be reached" in fault.message


def test_empty_tables_are_refused():
    assert [fault.message for fault in check(Config((), (), ()), None)] == [
        "listeners = []: at least one listener is needed",
        "routes = []: at least one route is needed",
        "pools = []: at least one pool is needed",
    ]


def test_without_a_source_faults_still_name_key_and_value():
    config = Config(
        (ListenerConfig("x", timeouts=ListenerTimeouts(header=parse_duration("0s"))),),
        (RouteConfig("wbe"),),
        (
            PoolConfig(
                "web",
                ("ftp://x", EndpointSpec("gopher://b")),
                ejection=EjectionConfig(base=parse_duration("10m")),
                limits=LimitsConfig(queue=1),
            ),
        ),
        ServerConfig(trusted_proxies=("y",)),
    )
    faults = check(config, None)
    assert {(fault.file, fault.line, fault.column, fault.excerpt) for fault in faults} == {("", 0, 0, "")}
    shown = [str(fault) for fault in faults]
    for words in (
        'server: trusted_proxies[0] = "y": expected',
        'listener x: timeouts.header = "0s": this must',
        'listener x: bind = "x": a listener',
        "routes[0]: pool = \"wbe\": there is no such pool; did you mean 'web'?",
        "pool 'web': endpoints[0] = \"ftp://x\": an endpoint starts",
        "pool 'web': endpoints[1].url = \"gopher://b\": an endpoint starts",
        "pool 'web': ejection.base = \"600s\": ejection.base is longer",
        "pool 'web': limits.queue = 1: a queue",
    ):
        assert any(line.startswith(words) for line in shown), words


def test_a_secret_value_never_shows(tmp_path):
    text = BASE.replace('"http://a:1", { url = "http://b', '"http://a:${PORT}", { url = "http://b')
    text = text.replace('"HEAD"', '"${METHOD}"').replace('pool = "api"', 'pool = "${POOL}"')
    text = text.replace('name = "api"', 'name = "${NAME}"')
    env = {"PORT": "hunter1", "METHOD": "hunter2", "POOL": "hunter3", "NAME": "hunter4"}
    faults = checked(text, tmp_path, env)
    assert [fault.value for fault in faults] == ['"${METHOD}"', '"${POOL}"', '"http://a:${PORT}"']
    assert "hunter" not in "".join(map(str, faults))
    faults = checked(text.replace('"${POOL}"', '"hunter5"'), tmp_path, env)
    assert "hunter4" not in "".join(map(str, faults))


def test_a_filled_in_value_is_checked_as_it_is(tmp_path):
    text = BASE.replace('"web"\n[[routes', '"${POOL}"\n[[routes')
    assert checked(text, tmp_path, {"POOL": "web"}) == []


def test_endpoint_specs():
    pool = PoolConfig("web", ("http://a:1", EndpointSpec("http://b:1", weight=3)))
    assert endpoint_specs(pool) == (EndpointSpec("http://a:1"), EndpointSpec("http://b:1", weight=3))


def test_binds_are_public_here():
    assert parse_bind("[::1]:80") == Bind("tcp", "::1", 80)


def checked_file(tmp_path, text):
    path = tmp_path / "router.toml"
    path.write_text(text)
    return load_checked(path, {})


def keys(tmp_path, text):
    with pytest.raises(ConfigFaults) as caught:
        checked_file(tmp_path, text)
    return [fault.key for fault in caught.value.faults]


def test_load_checked(tmp_path):
    config, source = checked_file(tmp_path, BASE)
    assert len(config.pools) == 2
    assert source.text == BASE
    assert keys(tmp_path, BASE.replace('"HEAD"', '"head"')) == ["routes[0].methods[1]"]
    assert keys(tmp_path, "x = ") == [""]
    assert keys(tmp_path, "") == ["listeners", "routes", "pools"]


def test_faults_of_reading_and_of_checking_come_together(tmp_path):
    text = BASE.replace('health_path = "/-/health"', 'helth_path = "/x"').replace("weight = 0", "weight = -1")
    text = text.replace('"HEAD"', '"head"').replace("10.0.0.0/8", "x").replace('pool = "api"', 'pool = "apy"')
    assert keys(tmp_path, text) == [
        "server.trusted_proxies[0]",
        "server.helth_path",
        "routes[0].methods[1]",
        "routes[1].pool",
        "pools[0].endpoints[1].weight",
    ]


@pytest.mark.parametrize(
    ("old", "new", "only"),
    [
        # What the reading dropped must not bring up faults of its own.
        ("limits = { in_flight = 5", 'limits = { in_flight = "5"', ["pools[0].limits.in_flight"]),
        ('name = "api"', "", ["pools[1].name"]),
        ('name = "api"', "name = 5", ["pools[1].name"]),
        ('bind = "127.0.0.1:8080"', "", ["listeners[0].bind"]),
        ('pool = "api"', "", ["routes[1]"]),
        ('pool = "api"', "pool = 5", ["routes[1].pool"]),
        ('pool = "api"', 'pol = "api"', ["routes[1].pol"]),
        ('pool = "api"', 'pools = ["api"]\nsplit_by = "client"', ["routes[1].pools[0]"]),
        ('pool = "api"', 'pools = [{ name = "api", weight = "1" }]', ["routes[1].pools[0].weight"]),
        ('pool = "api"', "answer = { status = 99 }", ["routes[1].answer.status"]),
        ('pool = "api"', 'answer = "gone"', ["routes[1].answer"]),
        (
            'name = "api"\nendpoints',
            "name = 5\nendpoints",
            ["pools[1].name"],
        ),
        (
            'endpoints = ["http://a:1", { url = "http://a',
            'endpoint = [{ url = "http://a',
            ["pools[1].endpoints", "pools[1].endpoint"],
        ),
        ('[[listeners]]\nbind = "127.0.0.1:8080"\n[[listeners]]', "[listeners]", ["listeners"]),
        ("limits =", 'ejection = { base = "9h", max = "x" }\nlimits =', ["pools[0].ejection.max"]),
        ("limits =", "selection = { use = [] , 5 = 1 }\nlimits =", ["pools[0].selection.use"]),
    ],
)
def test_what_follows_from_another_fault_is_not_said(tmp_path, old, new, only):
    assert keys(tmp_path, BASE.replace(old, new, 1)) == only


def test_a_dropped_condition_does_not_make_a_route_take_everything(tmp_path):
    text = BASE.replace('[[routes]]\npool = "api"', '[[routes]]\npool = "api"\npath = 5\n[[routes]]\npool = "api"')
    assert keys(tmp_path, text) == ["routes[1].path"]
    text = text.replace("path = 5", 'pth = "/y"')
    assert keys(tmp_path, text) == ["routes[1].pth"]


def test_tables_that_are_no_tables_at_all(tmp_path):
    assert keys(tmp_path, "pools = [5]\nroutes = 5\nlisteners = [[]]\n") == ["pools[0]", "routes", "listeners[0]"]
