"""The single values of a route's actions: what is accepted, what is refused, and what the refusal proposes."""

import pytest

from router.configactions import (
    authority_problem,
    field_value_problem,
    redirect_problem,
    replacement_problem,
    request_field_problem,
    response_field_problem,
    split_problem,
    strip_problem,
)
from router.policy.fields import COOKIE, FORWARDED, HOST, ONCE, PLAIN, REQUEST_CODES, RESPONSE_CODES, VIA

GOOD = {
    split_problem: ["random", "client", "header:X-User", "cookie:session_id"],
    strip_problem: ["/api", "/api/v1", "/a b", "/a%25b"],
    replacement_problem: ["/v2", "/v2/x", "/my%20app", "/a;b=c"],
    authority_problem: ["app", "app.internal", "app.internal:8080", "127.0.0.1", "[::1]", "[::1]:80", "a_b:1"],
    request_field_problem: ["X-User", "Authorization", "Accept-Encoding", "x_y", "X-Forwarded-Prefix", "X-Real-IP"],
    response_field_problem: ["X-Frame-Options", "Server", "Set-Cookie", "Content-Type", "Location", "Host"],
    field_value_problem: ["x", "a b", 'max-age=1; "q"', "*"],
    redirect_problem: [
        "/",
        "/login?next={uri}",
        "{path}/",
        "{uri}",
        "https://{host}{uri}",
        "https://{host}:8443{path}?{query}",
        "{scheme}://www.{host}{uri}",
        "http://other.test",
        "http://[::1]:8080/x#y",
        "https://other.test?{query}",
        "/a%20b",
    ],
}
BAD = [
    (split_problem, "", "expected 'random'"),
    (split_problem, "clients", "did you mean 'client'?"),
    (split_problem, "header", "such as 'header:X-User'"),
    (split_problem, "header:", "the name of the header is missing"),
    (split_problem, "cookie:a b", "the name of the cookie"),
    (split_problem, "random:x", "expected 'random'"),
    (split_problem, "query:x", "expected 'random'"),
    (strip_problem, "api", "write '/api'"),
    (strip_problem, "/api/", "write '/api'"),
    (strip_problem, "/api/*", "write '/api'"),
    (strip_problem, "/*", "without '*'"),
    (strip_problem, "/", "leave the key out"),
    (strip_problem, "/api?x", "no query"),
    (strip_problem, "/a/../b", "as it resolves"),
    (strip_problem, "/a%2Fb", "encoded slash"),
    (strip_problem, "/%61pi", "write '/api'"),
    (replacement_problem, "v2", "write '/v2'"),
    (replacement_problem, "/v2/", "write '/v2'"),
    (replacement_problem, "/", "leave the key out"),
    (replacement_problem, "/v2?x=", "no query"),
    (replacement_problem, "/my app", "such as '/my%20app'"),
    (replacement_problem, "/a%2", "escaped"),
    (replacement_problem, "/a\r\nX: y", "escaped"),
    (replacement_problem, "//evil", "as it resolves"),
    (replacement_problem, "/a/../b", "as it resolves"),
    (replacement_problem, "/a/%2E./b", "as it resolves"),
    (authority_problem, "https://app", "no scheme"),
    (authority_problem, "app/x", "no path"),
    (authority_problem, "*.app", "one host"),
    (authority_problem, "app:", "1 to 65535"),
    (authority_problem, "app:0", "1 to 65535"),
    (authority_problem, "app:65536", "1 to 65535"),
    (authority_problem, "app:٣", "1 to 65535"),
    (authority_problem, "a b", "such as 'app.internal'"),
    (authority_problem, "a\r\nX: y", "such as 'app.internal'"),
    (authority_problem, "[::1", "such as 'app.internal'"),
    (authority_problem, "[::1]x", "such as 'app.internal'"),
    (authority_problem, "::1", "such as 'app.internal'"),
    (authority_problem, "user@app", "such as 'app.internal'"),
    (request_field_problem, "Host", "rewrite = { host = … }"),
    (request_field_problem, "x_forwarded_for", "only the router"),
    (request_field_problem, "X-Forwarded-Proto", "only the router"),
    (request_field_problem, "X-Forwarded-Host", "only the router"),
    (request_field_problem, "Forwarded", "only the router"),
    (request_field_problem, "EXPECT", "only the router"),
    (request_field_problem, "X-Internal-*", "one by one"),
    (request_field_problem, "X Y", "one word"),
    (request_field_problem, "", "one word"),
    (response_field_problem, "date", "only the router"),
    (response_field_problem, "X-Request-ID", "only the router"),
    (response_field_problem, "X-*", "one by one"),
    (response_field_problem, "Set-Cookie:", "one word"),
    *((problem, name, "only the router") for problem in (request_field_problem, response_field_problem)
      for name in ("Connection", "content-length", "Transfer-Encoding", "TE", "Trailer", "Upgrade", "Keep-Alive")),
    (field_value_problem, "", "name it in 'remove'"),
    (field_value_problem, " x ", "write 'x'"),
    (field_value_problem, "a\r\nX: y", "one line"),
    (field_value_problem, "a\tb", "one line"),
    (field_value_problem, "caf\u00e9", "printable ASCII"),
    (redirect_problem, "", "starts with '/'"),
    (redirect_problem, "login", "starts with '/'"),
    (redirect_problem, "ftp://x/", "starts with '/'"),
    (redirect_problem, "{host}/x", "starts with '/'"),
    (redirect_problem, "{query}", "starts with '/'"),
    (redirect_problem, "//other.test/x", "write 'https://other.test/x'"),
    (redirect_problem, "https:/{path}", "starts with '/'"),
    (redirect_problem, "https://{path}", "stands a host"),
    (redirect_problem, "https://{host}{query}", "stands a host"),
    (redirect_problem, "https://{query}/", "stands a host"),
    (redirect_problem, "https://x@{host}/", "stands a host"),
    (redirect_problem, "https:///x", "stands a host"),
    (redirect_problem, "https://a:b/x", "stands a host"),
    (redirect_problem, "/x{url}", "did you mean 'uri'?"),
    (redirect_problem, "/x{}", "known are {scheme}, {host}, {path}, {query}, {uri}"),
    (redirect_problem, "/x{", "braces are for placeholders"),
    (redirect_problem, "/a b", "escaped"),
    (redirect_problem, "/a\r\nX: y", "escaped"),
    (redirect_problem, "/\\evil.test", "escaped"),
    (redirect_problem, "/100%", "escaped"),
    (redirect_problem, "/ü", "escaped"),
]  # fmt: skip


@pytest.mark.parametrize(("problem_of", "text"), [(f, text) for f, texts in GOOD.items() for text in texts])
def test_good_forms(problem_of, text):
    assert problem_of(text) is None


@pytest.mark.parametrize(("problem_of", "text", "right"), BAD)
def test_bad_forms_say_what_would_be_right(problem_of, text, right):
    problem = problem_of(text)
    assert problem is not None
    assert right in "; ".join(problem)


@pytest.mark.parametrize(("problem_of", "text"), [(f, f"{text}sEcReT") for f, text, _ in BAD])
def test_messages_never_repeat_the_text(problem_of, text):
    problem = problem_of(text)
    assert problem is None or "secret" not in problem.message.lower()


def test_no_route_may_write_what_the_core_looks_at():
    """Every name that the tables of fields treat as anything but plain."""
    known = {name.decode() for name, code in REQUEST_CODES.items() if code not in (PLAIN, ONCE, COOKIE)}
    assert {"host", "via", "x-forwarded-for", "x_forwarded_for", "forwarded", "transfer_encoding"} <= known
    assert [name for name in sorted(known) if request_field_problem(name) is None] == []
    known = {name.decode() for name, code in RESPONSE_CODES.items() if code != PLAIN}
    assert "content-length" in known
    assert [name for name in sorted(known) if response_field_problem(name) is None] == []
    assert {HOST, VIA, FORWARDED} <= set(REQUEST_CODES.values())
