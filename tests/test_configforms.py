"""Single values: what is accepted, what is refused, and what the refusal proposes."""

import pytest

from router.configforms import (
    Bind,
    bind_problem,
    header_name_problem,
    host_problem,
    method_problem,
    name_problem,
    network_problem,
    parse_bind,
    path_problem,
    retry_problem,
)


@pytest.mark.parametrize(
    ("text", "bind", "shown"),
    [
        ("127.0.0.1:8080", Bind("tcp", "127.0.0.1", 8080), "127.0.0.1:8080"),
        ("[::1]:80", Bind("tcp", "::1", 80), "[::1]:80"),
        ("[0:0::0:1]:80", Bind("tcp", "::1", 80), "[::1]:80"),
        (":8080", Bind("tcp", "", 8080), ":8080"),
        ("LocalHost:0", Bind("tcp", "localhost", 0), "localhost:0"),
        ("unix:/run/r.sock", Bind("unix", path="/run/r.sock"), "unix:/run/r.sock"),
    ],
)
def test_parse_bind(text, bind, shown):
    assert parse_bind(text) == bind
    assert str(bind) == shown


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("8080", "':8080'"),
        ("127.0.0.1", '"127.0.0.1:8080"'),
        ("http://127.0.0.1:80/", "'127.0.0.1:80'"),
        ("*:80", "':80'"),
        ("::1:80", "'[::1]:80'"),
        ("[::1]", "0 to 65535"),
        ("127.0.0.1:65536", "0 to 65535"),
        ("127.0.0.1:٣", "0 to 65535"),
        ("127.0.0.1:", "0 to 65535"),
        ("127.0.0.1:-1", "0 to 65535"),
        ("127.0.0.256:80", "neither an IP address nor a host name"),
        ("[127.0.0.1]:80", "neither an IP address nor a host name"),
        ("a b:80", "neither an IP address nor a host name"),
        ("", "127.0.0.1:8080"),
        ("unix:run/r.sock", "absolute path"),
        ("unix:", "absolute path"),
        ("unix:/run/", "absolute path"),
        ("unix:/" + "x" * 107, "107 bytes"),
    ],
)
def test_what_is_no_bind(text, right):
    with pytest.raises(ValueError) as caught:
        parse_bind(text)
    assert right in str(caught.value)


@pytest.mark.parametrize(
    ("one", "other", "clash"),
    [
        ("127.0.0.1:80", "127.0.0.1:80", True),
        ("127.0.0.1:80", "127.0.0.1:81", False),
        ("127.0.0.1:80", "127.0.0.2:80", False),
        ("127.0.0.1:0", "127.0.0.1:0", False),
        (":80", "127.0.0.1:80", True),
        (":80", "[::1]:80", True),
        ("0.0.0.0:80", "127.0.0.1:80", True),
        ("0.0.0.0:80", "[::1]:80", False),
        ("[::]:80", "[::1]:80", True),
        ("[::1]:80", "[0::1]:80", True),
        ("unix:/a", "unix:/a", True),
        ("unix:/a", "unix:/b", False),
        ("unix:/a", ":80", False),
    ],
)
def test_overlaps(one, other, clash):
    assert parse_bind(one).overlaps(parse_bind(other)) is clash
    assert parse_bind(other).overlaps(parse_bind(one)) is clash


GOOD = {
    host_problem: ["example.com", "*.example.com", "localhost", "EXAMPLE.com", "a_b.c", "10.0.0.1", "[::1]", "xn--q"],
    path_problem: ["/", "/*", "/x", "/x/", "/x/*", "/a b", "/a%25b", "/.well-known/x", "/a~!$&'()+,=:@-._"],
    name_problem: ["web", "a.b_c-1", "1"],
    method_problem: ["GET", "M-SEARCH", "X!"],
    header_name_problem: ["X-Version", "host", "x_y"],
    network_problem: ["10.0.0.1", "10.0.0.0/8", "::1", "fd00::/8", "0.0.0.0/0"],
    retry_problem: ["connect", "reset", "timeout", "5xx", "500", "599"],
    bind_problem: [":0", "host.example:65535"],
}
BAD = [
    (host_problem, "", "leave the key out"),
    (host_problem, "*", "leave the key out"),
    (host_problem, "https://a.example/x", "write 'a.example'"),
    (host_problem, "a.example:80", "write 'a.example'"),
    (host_problem, "a.example/x", "the key 'path'"),
    (host_problem, " a.example ", "write 'a.example'"),
    (host_problem, ".example.com", "write '*.example.com'"),
    (host_problem, "a.*.com", "'*.example.com'"),
    (host_problem, "*a.com", "'*.example.com'"),
    (host_problem, "*.*.com", "'*.example.com'"),
    (host_problem, "a..b", "single dots"),
    (host_problem, "a.b.", "write 'a.b'"),
    (host_problem, "-a.b", "labels"),
    (host_problem, "bücher.example", "write 'xn--bcher-kva.example'"),
    (host_problem, "ü" * 300, "ASCII form"),
    (host_problem, "[::x]", "no port"),
    (host_problem, "*.[::1]", "no port"),
    (path_problem, "", "write '/'"),
    (path_problem, "x/*", "write '/x/*'"),
    (path_problem, "/x?y=1", "the key 'query'"),
    (path_problem, "/x#y", "fragment"),
    (path_problem, "/a%2Fb", "encoded slash"),
    (path_problem, "/a;v=1", "servers differ"),
    (path_problem, "/a\\b", "servers differ"),
    (path_problem, "/a%2fb", "encoded slash"),
    (path_problem, "/%7Ebob", "write '/~bob'"),
    (path_problem, "/a//b", "write '/a/b'"),
    (path_problem, "/a/../b", "as it resolves"),
    (path_problem, "/./b", "as it resolves"),
    (path_problem, "/a*", "such as '/a/*'"),
    (path_problem, "/a/*/b", "such as '/a/b/*'"),
    (path_problem, "/*/*", "such as '/*'"),
    (path_problem, "/ü", "ASCII"),
    (path_problem, "/\x00", "printable"),
    (name_problem, "", "letters, digits"),
    (name_problem, "my pool", "such as 'my-pool'"),
    (name_problem, "web\n", "such as 'web'"),
    (name_problem, "ü", "letters, digits"),
    (method_problem, "get", "did you mean 'GET'?"),
    (method_problem, "GET POST", "one word"),
    (method_problem, "", "one word"),
    (header_name_problem, "X Version", "one word"),
    (header_name_problem, "X-Version:", "one word"),
    (network_problem, "10.0.0.1/8", "did you mean '10.0.0.0/8'?"),
    (network_problem, "proxy.example", "'10.0.0.0/8'"),
    (network_problem, "", "'10.0.0.0/8'"),
    (retry_problem, "conect", "did you mean 'connect'?"),
    (retry_problem, "404", "'500' to '599'"),
    (retry_problem, "5\u0662\u0662", "'500' to '599'"),
    (retry_problem, "5000", "'500' to '599'"),
]


@pytest.mark.parametrize(("problem_of", "text"), [(f, text) for f, texts in GOOD.items() for text in texts])
def test_good_forms(problem_of, text):
    assert problem_of(text) is None


@pytest.mark.parametrize(("problem_of", "text", "right"), BAD)
def test_bad_forms_say_what_would_be_right(problem_of, text, right):
    problem = problem_of(text)
    assert problem is not None
    assert right in "; ".join(problem)


@pytest.mark.parametrize(("problem_of", "text", "right"), [(f, f"{text}sEcReT", r) for f, text, r in BAD])
def test_messages_never_repeat_the_text(problem_of, text, right):
    problem = problem_of(text)
    assert problem is None or "secret" not in problem.message.lower()
