"""The router's own answers, as bytes."""

from __future__ import annotations

import json

import pytest

from router import errors
from router.errors import RouterError
from router.model import Exchange, Response
from router.net.pages import error_response, given_response, health_response, plain_response, status_line

KINDS = [getattr(errors, name) for name in errors.__all__ if issubclass(getattr(errors, name), RouterError)]


def split(data: bytes) -> tuple[str, dict[str, str], bytes]:
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    fields = dict(line.split(": ", 1) for line in lines)
    assert len(fields) == len(lines)
    return first, fields, body


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("accept", ["application/json", "text/html", ""])
def test_every_error_has_a_page_that_keeps_its_secrets(kind: type[RouterError], accept: str) -> None:
    error = kind("10.1.2.3:99 said something")
    first, fields, body = split(error_response(error, request_id="id-1", headers={"Accept": accept}))
    assert first.startswith(f"HTTP/1.1 {kind.status}")
    assert len(body) == int(fields["Content-Length"])
    assert fields["Cache-Control"] == "no-store"
    assert fields["X-Request-ID"] == "id-1"
    text = body.decode()
    assert kind.kind in text
    assert "id-1" in text
    assert "10.1.2.3" not in text
    assert ("Retry-After" in fields) == (kind.status == 503)


def test_json_is_json() -> None:
    _, _, body = split(error_response(errors.NoRoute(), request_id="x", headers={"Accept": "application/json"}))
    assert json.loads(body)["error"] == {
        "status": 404,
        "kind": "no_route",
        "title": errors.NoRoute.title,
        "request": "x",
    }


TRACE = "0af7651916cd43dd8448eb211c80319c"


@pytest.mark.parametrize("accept", ["application/json", "text/html", ""])
@pytest.mark.parametrize("kind", KINDS)
def test_every_error_page_leads_to_the_trace(kind: type[RouterError], accept: str) -> None:
    def page(trace_id: str) -> tuple[dict[str, str], bytes]:
        _, fields, body = split(
            error_response(kind("secret"), request_id="id-1", headers={"Accept": accept}, trace_id=trace_id)
        )
        assert len(body) == int(fields["Content-Length"])
        return fields, body

    fields, body = page(TRACE)
    assert body.count(TRACE.encode()) == 1
    assert b"id-1" in body
    assert TRACE not in str(fields)
    assert b"trace" not in page("")[1]


def test_json_has_the_trace_beside_the_request() -> None:
    given = {"request_id": "x", "headers": {"Accept": "application/json"}}
    _, _, body = split(error_response(errors.NoRoute(), **given, trace_id=TRACE))
    error = json.loads(body)["error"]
    assert (error["request"], error["trace"]) == ("x", TRACE)
    _, _, body = split(error_response(errors.NoRoute(), **given))
    assert "trace" not in json.loads(body)["error"]


def test_text_is_one_line_each() -> None:
    _, _, body = split(error_response(errors.NoRoute(), request_id="x", headers=None, trace_id=TRACE))
    assert body.decode().splitlines()[1:] == ["request x", f"trace {TRACE}"]


def test_a_trace_id_that_is_none_is_escaped() -> None:
    """Observers set it, and may have it from a client."""
    _, _, body = split(
        error_response(errors.NoRoute(), request_id="x", headers={"Accept": "text/html"}, trace_id="<script>&")
    )
    assert b"&lt;script&gt;&amp;" in body
    assert b"<script>" not in body


def test_html_is_escaped() -> None:
    _, _, body = split(error_response(errors.NoRoute(), request_id="<b>&", headers={"Accept": "text/html"}))
    assert b"&lt;b&gt;&amp;" in body
    assert b"<b>" not in body


def test_head_only_tells_the_length_and_sends_no_body() -> None:
    _, with_body, body = split(error_response(errors.NoRoute(), request_id="x", headers=None))
    _, without, nothing = split(error_response(errors.NoRoute(), request_id="x", headers=None, head_only=True))
    assert (without["Content-Length"], nothing) == (with_body["Content-Length"], b"")
    assert body


def test_closing_is_said() -> None:
    def connection(**more: bytes) -> str | None:
        return split(error_response(errors.NoRoute(), request_id="x", headers=None, **more))[1].get("Connection")

    assert connection(connection=b"Connection: close\r\n") == "close"
    assert connection() is None


def test_status_lines() -> None:
    assert status_line(200).rstrip(b"\r\n") == b"HTTP/1.1 200 OK"
    assert status_line(200, "Fine").rstrip(b"\r\n") == b"HTTP/1.1 200 Fine"
    assert status_line(299).rstrip(b"\r\n") == b"HTTP/1.1 299 "
    assert status_line(200, "").rstrip(b"\r\n") == b"HTTP/1.1 200 "
    for number in range(2000):
        assert status_line(200, str(number)).rstrip(b"\r\n") == f"HTTP/1.1 200 {number}".encode()


def test_a_plain_response() -> None:
    first, fields, body = split(plain_response(200, b"text/plain", b"hello", extra=b"X-More: 1\r\n"))
    assert (first, body, fields["X-More"]) == ("HTTP/1.1 200 OK", b"hello", "1")


@pytest.mark.parametrize(
    ("target", "draining", "status"),
    [
        ("/h", False, 200),
        ("/h/ready", False, 200),
        ("/h/live", True, 200),
        ("/h", True, 503),
        ("/h/ready?x", True, 503),
        ("/hello", False, 0),
        ("/h/other", False, 0),
        ("/h/", False, 0),
    ],
)
def test_health(target: str, draining: bool, status: int) -> None:
    answer = health_response(Exchange("GET", target), "/h", draining=draining)
    assert (int(answer.split(b" ")[1]) if answer is not None else 0) == status


def test_a_given_response() -> None:
    answer = Response(201, b"made", ((b"Location", b"/x"), (b"X", b"1")))
    first, fields, body = split(given_response(answer, head_only=False, connection=b"Connection: close\r\n"))
    assert first == "HTTP/1.1 201 Created"
    assert (fields["Location"], fields["Content-Length"], fields["Connection"], body) == ("/x", "4", "close", b"made")
    assert split(given_response(answer, head_only=True))[2] == b""


def test_a_given_response_has_one_length() -> None:
    """A plugin that sets its own Content-Length must not make the message ambiguous."""
    data = given_response(Response(200, b"made", ((b"Content-Length", b"4"),)), head_only=False)
    assert data.lower().count(b"content-length") == 1


@pytest.mark.parametrize("status", [204, 304])
def test_a_given_response_without_content_has_no_body(status: int) -> None:
    data = given_response(Response(status, b"surplus"), head_only=False)
    assert data.endswith(b"\r\n\r\n")
