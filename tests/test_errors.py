"""The tree of errors: who is at fault, which status the client gets, and a kind that never changes."""

from __future__ import annotations

import inspect

import pytest

import router
from router import errors
from router.errors import RouterError

#: name: (parent, status, kind, source). Kinds stand in error pages and in rules of users: never change one.
TREE = {
    "RouterError": ("Exception", 500, "internal_error", "router"),
    "InternalError": ("RouterError", 500, "internal_error", "router"),
    "ClientError": ("RouterError", 400, "bad_request", "client"),
    "BadRequest": ("ClientError", 400, "bad_request", "client"),
    "NoRoute": ("ClientError", 404, "no_route", "client"),
    "MethodNotAllowed": ("ClientError", 405, "method_not_allowed", "client"),
    "RequestTimeout": ("ClientError", 408, "request_timeout", "client"),
    "BodyTooLarge": ("ClientError", 413, "body_too_large", "client"),
    "TargetTooLong": ("ClientError", 414, "target_too_long", "client"),
    "Misdirected": ("ClientError", 421, "misdirected", "client"),
    "LastHop": ("ClientError", 200, "last_hop", "client"),
    "LoopDetected": ("ClientError", 508, "loop_detected", "client"),
    "ExpectationFailed": ("ClientError", 417, "expectation_failed", "client"),
    "HeadTooLarge": ("ClientError", 431, "head_too_large", "client"),
    "ClientGone": ("ClientError", 499, "client_gone", "client"),
    "Outpaced": ("ClientGone", 499, "outpaced", "client"),
    "NotImplementedCoding": ("ClientError", 501, "coding_not_implemented", "client"),
    "NotImplementedMethod": ("ClientError", 501, "method_not_implemented", "client"),
    "VersionNotSupported": ("ClientError", 505, "version_not_supported", "client"),
    "Overloaded": ("RouterError", 503, "overloaded", "router"),
    "NothingReady": ("RouterError", 503, "nothing_ready", "router"),
    "UpstreamError": ("RouterError", 502, "upstream_error", "upstream"),
    "ConnectError": ("UpstreamError", 503, "connect_failed", "upstream"),
    "ResetError": ("UpstreamError", 502, "upstream_reset", "upstream"),
    "ProtocolError": ("UpstreamError", 502, "upstream_protocol_error", "upstream"),
    "UpstreamTimeout": ("UpstreamError", 504, "upstream_timeout", "upstream"),
    "BodyError": ("UpstreamError", 502, "upstream_body_error", "upstream"),
}
#: name: (the word of `retry.on`, where it happened).
UPSTREAM = {
    "UpstreamError": ("reset", "head"),
    "ConnectError": ("connect", "connect"),
    "ResetError": ("reset", "head"),
    "ProtocolError": ("reset", "head"),
    "UpstreamTimeout": ("timeout", "head"),
    "BodyError": ("reset", "body"),
}
KINDS = {name: kind for name, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, RouterError)}


def test_the_tree_is_as_written() -> None:
    seen = {name: (k.__mro__[1].__name__, k.status, k.kind, k.source) for name, k in KINDS.items()}
    assert seen == TREE


def test_upstream_errors_say_when_a_retry_may_follow() -> None:
    seen = {n: (k.reason, k.phase) for n, k in KINDS.items() if issubclass(k, errors.UpstreamError)}
    assert seen == UPSTREAM


def test_everything_is_exported() -> None:
    assert errors.__all__ == sorted(KINDS)
    assert router.RouterError is RouterError


def test_a_kind_names_one_error() -> None:
    """But for the two roots that have a plain child: they are caught, the child is raised."""
    shared = {("RouterError", "InternalError"), ("ClientError", "BadRequest")}
    names = sorted(KINDS)
    twice = {(a, b) for a in names for b in names if a != b and KINDS[a].kind == KINDS[b].kind}
    assert twice == shared | {(b, a) for a, b in shared}


def test_a_title_belongs_to_a_kind_and_is_fit_for_clients() -> None:
    titles = {kind.kind: kind.title for kind in KINDS.values()}
    assert len(set(titles.values())) == len(titles)
    for title in titles.values():
        assert title.endswith(".")
        assert title.isascii()
        assert len(title) < 80


@pytest.mark.parametrize("name", TREE)
def test_a_detail_is_kept_for_the_log(name: str) -> None:
    error = KINDS[name]("it broke", sent=True)
    assert (str(error), error.detail, error.sent) == ("it broke", "it broke", True)


@pytest.mark.parametrize("name", TREE)
def test_without_a_detail_the_kind_is_said_and_nothing_was_sent(name: str) -> None:
    error = KINDS[name]()
    assert (str(error), error.detail, error.sent) == (TREE[name][2], "", False)


@pytest.mark.parametrize("name", TREE)
def test_the_status_tells_who_is_at_fault(name: str) -> None:
    kind = KINDS[name]
    # 501, 505 and 508 answer what the client asked for; the others of 5xx are the router's or the upstream's.
    assert (kind.source == "client") == (kind.status < 500 or kind.status in (501, 505, 508))


def test_the_cause_is_kept() -> None:
    cause = ConnectionResetError("by peer")
    with pytest.raises(errors.ResetError) as caught:
        raise errors.ResetError("the server closed", sent=True) from cause
    assert caught.value.__cause__ is cause
