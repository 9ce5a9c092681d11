"""What must hold of routes: each fault is said once, at its place; a sound file has none."""

import pytest

from router.configcheck import check
from router.configfile import parse

BASE = """\
[[listeners]]
bind = "127.0.0.1:8080"
[[routes]]
name = "old"
path = "/old/*"
answer = { status = 301, redirect = "https://{host}/new{uri}" }
[[routes]]
path = "/gone"
answer = { status = 410, body = "gone" }
response_headers = { set = { Content-Type = "text/html" } }
[[routes]]
name = "api"
path = ["/api", "/api/*"]
pools = [{ name = "web", weight = 9 }, { name = "next" }]
split_by = "cookie:user"
max_body = "10MiB"
rewrite = { strip_prefix = "/api", replace_prefix = "/v2", host = "api.internal:8080" }
request_headers = { set = { X-Api = "1" }, remove = ["X-Debug"] }
response_headers = { set = { X-Frame-Options = "DENY" }, remove = ["Server"] }
[[routes]]
pool = "web"
[[pools]]
name = "web"
endpoints = ["http://a:1"]
[[pools]]
name = "next"
endpoints = ["http://b:1"]
"""


def checked(text, tmp_path):
    return check(*parse(text, "router.toml", "toml", tmp_path, {}))


def test_sound_routes_have_no_fault(tmp_path):
    assert checked(BASE, tmp_path) == []


POOLS = '[{ name = "web", weight = 9 }, { name = "next" }]'
LAST = 'pool = "web"\n[[pools]]'
FAULTS = [
    (LAST, "[[pools]]", "routes[3]: this route leads nowhere: it needs one of 'pool', 'pools' and 'answer'", (20, 1)),
    (LAST, f'pool = "web"\npools = {POOLS}\n[[pools]]', "the route has a 'pool' already", (22, 9)),
    (LAST, 'pool = "web"\nanswer = { status = 404 }\n[[pools]]', "the route has a 'pool' already", (22, 10)),
    (LAST, 'pool = "wbe"\n[[pools]]', "pool = \"wbe\": there is no such pool; did you mean 'web'?", (21, 8)),
    ('{ name = "next" }', '{ name = "nxt" }', 'pools[1].name = "nxt": there is no such pool; did you mean', (14, 49)),
    ('{ name = "next" }', '{ name = "web" }', "this pool stands here twice; add its weights up", (14, 49)),
    (
        POOLS,
        '[{ name = "web", weight = 0 }]',
        'pools = [{ name = "web", weight = 0 }]: every pool has weight 0',
        (14, 9),
    ),
    ('"cookie:user"', '"cookie:"', 'split_by = "cookie:": the name of the cookie is missing', (15, 12)),
    (
        LAST,
        'pool = "web"\nsplit_by = "client"\n[[pools]]',
        "there is nothing to split; it belongs to 'pools'",
        (22, 12),
    ),
    ('path = ["/api", "/api/*"]', 'path = "api"', "path = \"api\": a path starts with '/'", (13, 8)),
    (
        'strip_prefix = "/api"',
        'strip_prefix = "/api/*"',
        "for all below without '*'; write '/api'",
        (17, 28),
    ),
    ('strip_prefix = "/api"', 'strip_prefix = "/other"', "no path of this route begins with this prefix", (17, 28)),
    ('strip_prefix = "/api"', 'strip_prefix = "/ap"', "no path of this route begins with this prefix", (17, 28)),
    ('"/v2"', '"v2"', "rewrite.replace_prefix = \"v2\": a prefix starts with '/'; write '/v2'", (17, 53)),
    ('"api.internal:8080"', '"https://x"', 'rewrite.host = "https://x": a host has no scheme', (17, 67)),
    ('X-Api = "1"', 'Host = "x"', 'request_headers.set.Host = "x": the Host field has a key of its own', (18, 36)),
    ('X-Api = "1"', 'X-Api = ""', 'request_headers.set.X-Api = "": this value is empty', (18, 37)),
    ('X-Api = "1"', 'X-A = "1", x-a = "2"', 'request_headers.set.x-a = "2": this field is set twice', (18, 46)),
    ('["X-Debug"]', '["X-Debug", "Via"]', 'request_headers.remove[1] = "Via": only the router writes this', (18, 65)),
    ('["X-Debug"]', '["x-api"]', 'remove[0] = "x-api": this field is set too, which replaces it', (18, 54)),
    ('["Server"]', '["X-*"]', 'response_headers.remove[0] = "X-*": fields are named one by one', (19, 68)),
    ("X-Frame-Options =", "Date =", 'response_headers.set.Date = "DENY": only the router writes this', (19, 37)),
    ("410,", "204,", 'answer.body = "gone": a response with status 204 has no body', (9, 33)),
    ("410,", "304,", 'answer.body = "gone": a response with status 304 has no body', (9, 33)),
    ('status = 410, body = "gone"', "", "answer = {}: an answer needs a status, a body or a redirect", (9, 10)),
    ("410,", "302,", "answer.status = 302: this status sends the client elsewhere; say where in 'redirect'", (9, 21)),
    ("status = 301", "status = 200", "answer.status = 200: a redirect has one of the statuses 301", (6, 21)),
    ("{host}/new", "{hots}/new", "there is no such placeholder; did you mean 'host'?", (6, 37)),
    (
        '[[routes]]\npath = "/gone"',
        'timeout = "1s"\n[[routes]]\npath = "/gone"',
        "sends nothing on; leave it out",
        (7, 11),
    ),
    (
        '[[routes]]\npath = "/gone"',
        'max_body = 5\n[[routes]]\npath = "/gone"',
        "sends nothing on; leave it out",
        (7, 12),
    ),
    (
        '[[routes]]\npath = "/gone"',
        'rewrite = { host = "a" }\n[[routes]]\npath = "/gone"',
        "sends nothing on",
        (7, 11),
    ),
    (
        '[[routes]]\npath = "/gone"',
        'request_headers.remove = ["A"]\n[[routes]]\npath = "/gone"',
        'request_headers = { remove = ["A"] }: this has no effect',
        (7, 1),
    ),
    (
        '[[routes]]\npath = "/gone"',
        'response_headers.set.location = "/x"\n[[routes]]\npath = "/gone"',
        "the key 'response_headers' has a Location too",
        (6, 37),
    ),
]


@pytest.mark.parametrize(("old", "new", "message", "place"), FAULTS, ids=[fault[1] for fault in FAULTS])
def test_each_fault_is_named_at_its_place(tmp_path, old, new, message, place):
    assert BASE.count(old) >= 1
    [fault] = checked(BASE.replace(old, new, 1), tmp_path)
    assert message in str(fault)
    assert (fault.line, fault.column) == place


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('["/api", "/api/*"]', '["/x", "/a/*", "/api"]'),
        ('path = ["/api", "/api/*"]', 'path = "/*"\nmethods = ["GET"]'),
        ('path = ["/api", "/api/*"]\n', 'host = "a.example"\n'),
        ('["/api", "/api/*"]', '["/x", "/api/v1/*"]'),
        ('["/api", "/api/*"]', '["/x", "/api/v1"]'),
        ('strip_prefix = "/api"', 'strip_prefix = "/api/v1"'),
        ("410,", "401,"),
        ('{ Content-Type = "text/html" }', '{ Location = "/x" }'),
        ("status = 301, ", ""),
        ("status = 410, ", ""),
        (', body = "gone"', ""),
        (
            'pools = [{ name = "web", weight = 9 }, { name = "next" }]',
            'pools = [{ name = "web" }, { name = "next", weight = 0 }]',
        ),
    ],
)
def test_what_is_sound_is_let_through(tmp_path, old, new):
    assert BASE.count(old) >= 1
    assert checked(BASE.replace(old, new, 1), tmp_path) == []


def test_a_status_that_redirects_is_sound_with_a_location_of_its_own(tmp_path):
    text = BASE.replace("410,", "302,").replace('Content-Type = "text/html"', 'Location = "/x"')
    assert checked(text, tmp_path) == []


def test_an_answer_with_both_pools_is_told_for_each(tmp_path):
    text = BASE.replace(LAST, f'pool = "web"\npools = {POOLS}\nanswer.status = 404\n[[pools]]')
    assert [fault.key for fault in checked(text, tmp_path)] == ["routes[3].pools", "routes[3].answer"]


def test_a_secret_value_never_shows(tmp_path):
    text = BASE.replace('X-Api = "1"', 'X-Api = "${TOKEN}"').replace("{host}/new", "${TOKEN}/new")
    faults = check(*parse(text, "router.toml", "toml", tmp_path, {"TOKEN": " hunter2\n"}))
    assert [fault.key for fault in faults] == ["routes[0].answer.redirect", "routes[2].request_headers.set.X-Api"]
    assert "hunter" not in "".join(map(str, faults))
