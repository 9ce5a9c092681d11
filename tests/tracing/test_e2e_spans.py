"""The spans of one request each: every attribute with its type and value, times, status, and what is not there."""

from __future__ import annotations

import itertools
import json
import re
import socket
import ssl
import time
from typing import Any

import msgspec
import pytest
import tracing_support as _help

from router.explanation import Explanation

collector = _help.collector
wait, TRUSTED, HOST = _help.wait, _help.TRUSTED, _help.HOST
#: What a clock may be off: the spans' times are kept as steps from one reading of the wall clock.
SLACK = 50_000_000
SECRET = "s3cr3t-value"


def build(bench: Any) -> None:
    own = bench.plugins(_help.FIRST)
    bench.web = bench.backend()
    bench.v6 = bench.backend(address=("::1", 0))
    bench.unix = bench.backend(address=str(bench.folder / "app.sock"))
    bench.socket = str(bench.folder / "front.sock")
    bench.v6_port = free_v6()
    bench.listeners = f'[[listeners]]\nbind = "unix:{bench.socket}"\n[[listeners]]\nbind = "[::1]:{bench.v6_port}"\n'
    bench.tls_port = bench.house.free_port()
    bench.listeners += f"""
[[listeners]]
bind = "127.0.0.1:{bench.tls_port}"
tls = {{ certificates = [{{ use = "self_signed", names = ["shop.example"], folder = "tls" }}] }}
"""
    dead = bench.house.free_port()
    bench.dead = dead
    bench.sites = f"""
[[routes]]
name = "fixed"
path = "/fixed"
answer = {{ status = 410, body = "gone" }}
[[routes]]
name = "moved"
path = "/moved/*"
answer = {{ redirect = "https://shop.example{{uri}}" }}
[[routes]]
name = "guarded"
path = "/guarded/*"
pool = "web"
filters = ["{own}:Guard"]
[[routes]]
name = "web"
path = ["/web/*", "/barrier"]
pool = "web"
[[routes]]
name = "impatient"
path = "/impatient/*"
pool = "impatient"
[[routes]]
name = "six"
path = "/six/*"
pool = "six"
[[routes]]
name = "unix"
path = "/unix/*"
pool = "unix"
[[routes]]
name = "dead"
path = "/dead/*"
pool = "dead"
[[routes]]
name = "out"
path = "/out/*"
pool = "out"
[[routes]]
name = "rewritten"
path = "/v1/*"
pool = "web"
rewrite = {{ strip_prefix = "/v1", host = "app.internal" }}
[[pools]]
name = "web"
endpoints = [{{ url = "{bench.web.url}", id = "one" }}]
detectors = []
retry = {{ attempts = 0 }}
[[pools]]
name = "impatient"
endpoints = [{{ url = "{bench.web.url}", id = "one" }}]
detectors = []
timeouts = {{ head = "60ms" }}
retry = {{ attempts = 0 }}
[[pools]]
name = "six"
endpoints = [{{ url = "{bench.v6.url}", id = "six" }}]
[[pools]]
name = "unix"
endpoints = [{{ url = "{bench.unix.url}", id = "sock" }}]
[[pools]]
name = "dead"
endpoints = [{{ url = "http://127.0.0.1:{dead}", id = "gone" }}]
detectors = []
retry = {{ attempts = 0 }}
[[pools]]
name = "out"
endpoints = [{{ url = "{bench.web.url}", id = "off", state = "drain" }}]
"""


def free_v6() -> int:
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as sock:
        return int(sock.getsockname()[1])


bench = _help.bench_of(build)


@pytest.fixture(autouse=True)
def _traced(bench: Any) -> None:
    bench.tracing()


def explained(span: Any) -> Explanation:
    return msgspec.json.decode(span["lb.explain"], type=Explanation)


def is_well(span: Any) -> bool:
    return span.status == "unset" and "error.type" not in span.attributes


# Every attribute.


def test_a_plain_get_has_these_attributes_and_no_others(bench: Any) -> None:
    answer, trace = bench.seen("/web/a", "User-Agent: tester/1.0")
    assert answer.status == 200
    assert trace.server.attributes == {
        "http.request.method": "GET",
        "url.path": "/web/a",
        "url.scheme": "http",
        "http.response.status_code": 200,
        "http.route": "web",
        "network.protocol.version": "1.1",
        "client.address": "127.0.0.1",
        "network.peer.address": "127.0.0.1",
        "server.address": "shop.example",
        "server.port": 8080,
        "user_agent.original": "tester/1.0",
        "lb.request_id": answer.id,
        "lb.listener": trace.server["lb.listener"],
        "lb.pool": "web",
        "lb.endpoint": "one",
        "lb.attempts": 1,
    }
    assert str(bench.port) in trace.server["lb.listener"]
    assert trace.client.attributes == {
        "http.request.method": "GET",
        "server.address": "127.0.0.1",
        "server.port": bench.web.port,
        "url.full": f"http://127.0.0.1:{bench.web.port}/web/a",
        "http.response.status_code": 200,
        "lb.endpoint": "one",
        "lb.attempt": 0,
        "lb.outcome": "success",
        "lb.explain": trace.client["lb.explain"],
    }
    assert explained(trace.client).route == "web"


def test_names_kinds_and_ties_of_a_plain_get(bench: Any) -> None:
    answer, trace = bench.seen("/web/a")
    server, client = trace.server, trace.client
    assert (server.name, server.kind, server.parent_id) == ("GET web", "server", "")
    assert (client.name, client.kind, client.parent_id) == ("GET", "client", server.span_id)
    assert server.trace_id == client.trace_id == answer.id
    assert server.span_id != client.span_id
    assert is_well(server)
    assert is_well(client)
    assert server.events == ()


def test_types_are_those_of_the_conventions(bench: Any) -> None:
    """A number that is a string, or a bool that is an int, is lost to whoever searches for it."""
    kinds = {
        "http.response.status_code": int,
        "server.port": int,
        "lb.attempts": int,
        "lb.attempt": int,
        "http.request.resend_count": int,
        "lb.hedge": bool,
    }
    _, trace = bench.seen("/web/a?b=c")
    for span in trace.spans:
        for key, value in span.attributes.items():
            assert type(value) is kinds.get(key, str), key


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_methods_with_a_body(bench: Any, method: str) -> None:
    answer, trace = bench.seen(f"/web/{method}", method=method, body=b"x" * 5000)
    assert answer.status == 200
    assert bench.web.got(f"/web/{method}").body == b"x" * 5000
    assert [span.name for span in trace.spans] == [f"{method} web", method]
    assert {span["http.request.method"] for span in trace.spans} == {method}


def test_head_and_options(bench: Any) -> None:
    for method in ("HEAD", "OPTIONS"):
        answer, trace = bench.seen("/web/a", method=method)
        assert answer.status == 200
        assert [span.name for span in trace.spans] == [f"{method} web", method]
        assert trace.server["http.response.status_code"] == 200


def test_methods_that_the_conventions_do_not_know_are_other(bench: Any) -> None:
    _, trace = bench.seen("/web/a", method="PROPFIND")
    assert [span.name for span in trace.spans] == ["HTTP web", "HTTP"]
    for span in trace.spans:
        assert span["http.request.method"] == "_OTHER"
        # Conditionally required by the conventions where the other one is not the method.
        assert span["http.request.method_original"] == "PROPFIND"


def test_a_request_of_http_1_0(bench: Any) -> None:
    _, trace = bench.seen("/web/a", version="1.0")
    assert trace.server["network.protocol.version"] == "1.0"


def test_what_a_request_lacks_is_not_there(bench: Any) -> None:
    _, trace = bench.seen("/web/a")
    for key in ("url.query", "user_agent.original", "error.type", "lb.kept", "lb.affinity"):
        assert key not in trace.server.attributes, key
    for key in ("http.request.resend_count", "lb.hedge", "lb.cause", "error.type"):
        assert key not in trace.client.attributes, key


@pytest.mark.parametrize(
    ("host", "address", "port"),
    [
        ("shop.example:81", "shop.example", 81),
        ("shop.example", "shop.example", 80),
        ("SHOP.example:81", "shop.example", 81),
        ("10.1.2.3:81", "10.1.2.3", 81),
        ("[2001:db8::1]:81", "2001:db8::1", 81),
        ("[::1]", "::1", 80),
    ],
)
def test_the_host_field_says_server_address_and_port(bench: Any, host: str, address: str, port: int) -> None:
    _, trace = bench.seen("/web/a", host=host)
    assert trace.server["server.address"].lower() == address
    # Without a port it is the scheme's, or nothing is said.
    assert trace.server.get("server.port", 80) == port


def test_what_a_trusted_proxy_says_of_the_client_is_told_beside_the_peer(bench: Any) -> None:
    lines = ("X-Forwarded-For: 203.0.113.9", "X-Forwarded-Proto: https")
    _, trace = bench.seen("/web/a", *lines, source=TRUSTED)
    assert trace.server["client.address"] == "203.0.113.9"
    assert trace.server["network.peer.address"] == TRUSTED
    assert trace.server["url.scheme"] == "https"


def test_what_any_other_client_says_of_itself_is_not_believed(bench: Any) -> None:
    _, trace = bench.seen("/web/a", "X-Forwarded-For: 203.0.113.9", "X-Forwarded-Proto: https")
    assert trace.server["client.address"] == "127.0.0.1"
    assert trace.server["url.scheme"] == "http"


def test_a_rewritten_request_shows_both_sides(bench: Any) -> None:
    _, trace = bench.seen("/v1/x/y?q=1")
    assert bench.web.got("/x/y?q=1").target == "/x/y?q=1"
    assert (trace.server["url.path"], trace.server["http.route"]) == ("/v1/x/y", "rewritten")
    assert trace.server["server.address"] == "shop.example"
    # What was asked of the endpoint.
    assert trace.client["url.full"].partition("?")[0].endswith("/x/y")
    assert "/v1" not in trace.client["url.full"]


def test_an_absolute_target_is_told_by_its_parts(bench: Any) -> None:
    _, trace = bench.seen("http://other.example:99/web/a", host="other.example:99")
    assert trace.server["url.path"] == "/web/a"
    assert (trace.server["server.address"], trace.server["server.port"]) == ("other.example", 99)


# IPv6 and unix sockets.


def test_over_ip_version_6_on_both_sides(bench: Any) -> None:
    answer, trace = bench.seen("/six/a", address=("::1", bench.v6_port), host=f"[::1]:{bench.v6_port}")
    assert answer.status == 200
    assert trace.server["client.address"] == "::1"
    assert (trace.server["server.address"], trace.server["server.port"]) == ("::1", bench.v6_port)
    assert (trace.client["server.address"], trace.client["server.port"]) == ("::1", bench.v6.port)
    assert trace.client["url.full"] == f"http://[::1]:{bench.v6.port}/six/a"


def test_over_unix_sockets_on_both_sides(bench: Any) -> None:
    answer, trace = bench.seen("/unix/a", address=bench.socket)
    assert answer.status == 200
    assert trace.client["server.address"] == str(bench.folder / "app.sock")
    assert "server.port" not in trace.client.attributes
    assert trace.client["url.full"].startswith("http://")
    assert trace.client["url.full"].endswith("/unix/a")
    assert "front.sock" in trace.server["lb.listener"]
    assert trace.server["server.address"] == "shop.example"


def test_over_tls(bench: Any) -> None:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with bench.client(bench.tls_port) as client:
        client.sock = context.wrap_socket(client.sock, server_hostname="shop.example")
        client.reader = _help.Reader(client.sock)
        trace = bench.trace(client.ask("/web/tls", host="shop.example"))
    assert trace.server["url.scheme"] == "https"
    assert trace.server["server.address"] == "shop.example"
    assert trace.server.get("server.port", 443) == 443
    assert trace.client["url.full"] == f"http://127.0.0.1:{bench.web.port}/web/tls"


# What the router answers itself.


def test_no_route_is_a_404_and_no_error(bench: Any) -> None:
    answer, trace = bench.seen("/nowhere")
    assert answer.status == 404
    assert (trace.server.name, trace.clients) == ("GET", [])
    assert trace.server["http.response.status_code"] == 404
    assert is_well(trace.server)
    assert not {"http.route", "lb.pool", "lb.endpoint"} & trace.server.attributes.keys()
    assert trace.server.get("lb.attempts", 0) == 0
    said = explained(trace.server)
    assert (said.status, said.route) == (404, "")


def test_a_route_that_answers_itself(bench: Any) -> None:
    answer, trace = bench.seen_by_name("/fixed")
    assert (answer.status, answer.body) == (410, b"gone")
    assert (trace.server.name, trace.clients) == ("GET fixed", [])
    assert (trace.server["http.response.status_code"], trace.server["http.route"]) == (410, "fixed")
    assert is_well(trace.server)
    assert "lb.pool" not in trace.server.attributes
    assert (explained(trace.server).status, explained(trace.server).route) == (410, "fixed")


def test_a_redirect(bench: Any) -> None:
    answer, trace = bench.seen_by_name("/moved/here")
    assert (answer.status, answer.only("Location")) == (308, "https://shop.example/moved/here")
    assert (trace.server.name, trace.clients) == ("GET moved", [])
    assert trace.server["http.response.status_code"] == 308
    assert is_well(trace.server)


def test_a_filters_answer(bench: Any) -> None:
    answer, trace = bench.seen_by_name("/guarded/x")
    assert (answer.status, answer.body) == (401, b"a key is needed")
    assert (trace.server.name, trace.clients) == ("GET guarded", [])
    assert trace.server["http.response.status_code"] == 401
    assert is_well(trace.server)


def test_a_pool_of_servers_that_drain_is_a_503(bench: Any) -> None:
    answer, trace = bench.seen("/out/x")
    assert answer.status == 503
    assert trace.clients == []
    assert (trace.server.status, trace.server["error.type"]) == ("error", trace.server["error.type"])
    assert trace.server["http.response.status_code"] == 503
    assert (trace.server["lb.pool"], trace.server["http.route"]) == ("out", "out")
    (pool,) = explained(trace.server).pools
    assert [(left.reason, left.count) for left in pool.left_out] == [("draining", 1)]


def test_a_refused_connection_is_a_503_with_the_attempt(bench: Any) -> None:
    answer, trace = bench.seen("/dead/x")
    assert answer.status == 503
    assert trace.server.status == "error"
    assert trace.server["error.type"]
    client = trace.client
    assert (client.status, client["lb.outcome"], client["lb.endpoint"]) == ("error", "failure", "gone")
    assert "connect" in client["lb.cause"]
    assert client["error.type"]
    assert "http.response.status_code" not in client.attributes
    assert client["server.port"] == bench.dead
    assert "lb.endpoint" not in trace.server.attributes


def test_a_reset_is_a_502(bench: Any) -> None:
    answer, trace = bench.seen("/web/reset", method="POST", body=b"x")
    assert answer.status == 502
    assert (trace.server.status, trace.server["http.response.status_code"]) == ("error", 502)
    assert (trace.client.status, trace.client["lb.outcome"]) == ("error", "failure")
    assert "http.response.status_code" not in trace.client.attributes
    assert "reset" in trace.client["lb.cause"]


def test_garbage_is_a_502(bench: Any) -> None:
    answer, trace = bench.seen("/web/garbage")
    assert answer.status == 502
    assert trace.server.status == trace.client.status == "error"
    assert trace.client["error.type"] not in ("", "502")


def test_a_late_head_is_a_504(bench: Any) -> None:
    answer, trace = bench.seen("/impatient/delay-300", method="POST", body=b"x")
    assert answer.status == 504
    assert (trace.server.status, trace.server["http.response.status_code"]) == ("error", 504)
    assert trace.client.status == "error"
    assert "timeout" in trace.client["lb.cause"] or "timed out" in trace.client["lb.cause"]
    assert trace.client.end - trace.client.start >= 50_000_000


@pytest.mark.parametrize("status", [500, 501, 503, 599])
def test_a_servers_5xx_is_an_error_on_both_spans(bench: Any, status: int) -> None:
    _, trace = bench.seen(f"/web/status-{status}")
    for span in trace.spans:
        assert (span.status, span["error.type"]) == ("error", str(status))
        assert span["http.response.status_code"] == status
        # The conventions: no description where the status code says it all.
        assert span.message == ""
    assert trace.server["lb.endpoint"] == "one"


@pytest.mark.parametrize("status", [400, 404, 429, 499])
def test_a_servers_4xx_is_an_error_on_the_client_span_alone(bench: Any, status: int) -> None:
    _, trace = bench.seen(f"/web/status-{status}")
    assert is_well(trace.server)
    assert trace.server["http.response.status_code"] == status
    assert (trace.client.status, trace.client["error.type"]) == ("error", str(status))
    assert trace.client["lb.outcome"] == "success"


@pytest.mark.parametrize("status", [201, 204, 301, 304])
def test_other_statuses_are_no_errors(bench: Any, status: int) -> None:
    _, trace = bench.seen(f"/web/status-{status}")
    for span in trace.spans:
        assert is_well(span)
        assert span["http.response.status_code"] == status


def test_an_answer_that_breaks_off_is_an_error_of_the_transport(bench: Any) -> None:
    with bench.client() as client:
        client.send("/web/cut", "X-Request-ID: broken-1")
        client.reader.rest()
    bench.flushed()
    server, attempt = bench.named("broken-1")
    assert (attempt.status, attempt["lb.outcome"]) == ("error", "failure")
    assert "truncated" in attempt["lb.cause"]
    assert attempt["http.response.status_code"] == 200
    assert server["http.response.status_code"] == 200
    # An error occurred that kept the server from sending the response fully.
    assert server.status == "error"


# Times.


def test_times_are_those_of_the_wall_clock_and_the_server_span_encloses_the_others(bench: Any) -> None:
    before = time.time_ns()
    _, trace = bench.seen("/web/delay-40")
    after = time.time_ns()
    server, client = trace.server, trace.client
    assert before - SLACK <= server.start <= client.start <= client.end <= server.end <= after + SLACK
    assert client.end - client.start >= 39_000_000


def test_spans_end_when_the_body_ends(bench: Any) -> None:
    with bench.client() as client:
        client.send("/web/half", "X-Request-ID: slow-body")
        client.reader.until(b"half\r\n")
        time.sleep(0.06)
        assert not [span for span in bench.collector.spans() if span.get("lb.request_id") == "slow-body"]
        bench.web.let_go()
        client.reader.until(b"0\r\n\r\n")
    bench.flushed()
    for span in bench.named("slow-body"):
        assert span.end - span.start >= 59_000_000
        assert is_well(span)


def test_spans_of_one_connection_follow_each_other(bench: Any) -> None:
    with bench.client() as client:
        answers = [client.ask("/web/a") for _ in range(3)]
    servers = [bench.trace(answer).server for answer in answers]
    for one, two in itertools.pairwise(servers):
        assert one.end <= two.start + 1_000_000
    assert len({server.trace_id for server in servers}) == 3


# A client that leaves.


@pytest.mark.parametrize("path", ["hold", "half"])
def test_a_client_that_leaves_is_told_and_is_no_error(bench: Any, path: str) -> None:
    name = f"left-{path}"
    with bench.client() as client:
        client.send(f"/web/{path}?{name}", f"X-Request-ID: {name}")
        bench.web.got(f"?{name}")
        if path == "half":
            client.reader.until(b"half\r\n")
        client.reset()
    wait(lambda: [span for span in bench.collector.spans() if span.get("lb.request_id") == name], "no span")
    bench.web.let_go()
    server, attempt = bench.named(name)
    assert is_well(server)
    # Nothing was sent in answer to the one; 499 stands in logs.
    assert server.get("http.response.status_code", 499) == (499 if path == "hold" else 200)
    assert "client left" in server.event_names
    assert server.start <= server.event("client left").at <= server.end
    assert is_well(attempt)
    assert attempt["lb.outcome"] == "neutral"


# The query.


@pytest.mark.parametrize(
    ("query", "shown"),
    [
        (f"token={SECRET}", "token=REDACTED"),
        (f"a=1&token={SECRET}&b=2", "a=REDACTED&token=REDACTED&b=REDACTED"),
        (f"token={SECRET}={SECRET}", "token=REDACTED"),
        (f"a;b={SECRET}", "a;b=REDACTED"),
        (f"q=%26{SECRET}%3d", "q=REDACTED"),
        (f"={SECRET}", "=REDACTED"),
        (SECRET, "REDACTED"),
        (f"{SECRET}=", "REDACTED"),
        (f"{SECRET}==&a=1", "REDACTED&a=REDACTED"),
    ],
)
def test_values_of_the_query_are_redacted_wherever_they_would_show(bench: Any, query: str, shown: str) -> None:
    _, trace = bench.seen(f"/web/a?{query}")
    assert trace.server["url.query"] == shown
    assert trace.client["url.full"] == f"http://127.0.0.1:{bench.web.port}/web/a?{shown}"
    check_without(trace, SECRET)
    # The endpoint gets what the client has sent.
    assert bench.web.requests[-1].target == f"/web/a?{query}"


def check_without(trace: Any, secret: str) -> None:
    for span in trace.spans:
        for text in span.texts():
            assert secret not in text


@pytest.mark.parametrize("path", ["/nowhere", "/fixed", "/moved/a", "/guarded/a", "/out/a", "/dead/a", "/web/reset"])
def test_values_of_the_query_are_redacted_in_what_explains_an_answer(bench: Any, path: str) -> None:
    _, trace = bench.seen_by_name(f"{path}?token={SECRET}", method="POST", body=b"x")
    assert trace.server["url.query"] == "token=REDACTED"
    check_without(trace, SECRET)


def test_the_query_is_kept_or_dropped_where_the_options_say_so(bench: Any) -> None:
    bench.tracing(query="keep")
    _, trace = bench.seen(f"/web/a?token={SECRET}&b=")
    assert trace.server["url.query"] == f"token={SECRET}&b="
    assert trace.client["url.full"].endswith(f"/web/a?token={SECRET}&b=")
    bench.tracing(query="drop")
    _, trace = bench.seen(f"/web/a?token={SECRET}")
    assert "url.query" not in trace.server.attributes
    assert trace.client["url.full"].endswith("/web/a")
    check_without(trace, SECRET)
    check_without(trace, "token=")


# Hostile requests.


def test_long_and_odd_values_are_bounded_and_readable(bench: Any) -> None:
    path, agent = "/web/" + "p" * 16000, "agent/" + "\xff\xe9" * 4000
    _, trace = bench.seen(path, f"User-Agent: {agent}", f"X-Odd: {agent}")
    assert trace.server["url.path"].startswith("/web/ppp")
    for span in trace.spans:
        for key, value in span.attributes.items():
            limit = 32768 if key == "lb.explain" else 4200
            assert len(str(value).encode()) <= limit, key
    assert trace.server["user_agent.original"].startswith("agent/")
    _, trace = bench.seen("/web/a", host="h" * 15000)
    assert trace.server["server.address"] == "h" * 255
    assert explained(trace.client).route == "web"


def test_a_request_that_is_refused_as_malformed_leaves_the_collector_readable(bench: Any) -> None:
    with bench.client() as client:
        client.sock.sendall(b"GET /web/a HTTP/1.1\r\nHost: x\r\nX-A: a\x01b\r\n\r\n")
        assert client.receive().status == 400
    with bench.client() as client:
        client.sock.sendall(b"GET http://user:malformed-s3cr3t@x/ HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.receive().status == 400
    bench.flushed()
    assert bench.collector.receiver.faults == []
    assert not any("malformed-s3cr3t" in text for span in bench.collector.spans() for text in span.texts())


def test_a_request_id_of_the_client_is_kept_and_is_no_trace_id(bench: Any) -> None:
    answer = bench.ask("/web/a", "X-Request-ID: my.own-id")
    assert answer.id == "my.own-id"
    bench.flushed()
    server, _ = bench.named("my.own-id")
    assert re.fullmatch("[0-9a-f]{32}", server.trace_id)
    assert bench.web.all("my.own-id")[0].only("X-Request-ID") == "my.own-id"


def test_the_resource_names_service_and_instance(bench: Any) -> None:
    _, trace = bench.seen("/web/a")
    resource = trace.server.resource
    assert resource["service.name"] == "router"
    assert resource["telemetry.sdk.language"] == "python"
    assert json.dumps(resource)
    assert all(span.scope[0] for span in trace.spans)
