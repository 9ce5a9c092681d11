"""Errors say who is at fault, which status the client gets, and whether anything had been sent.

Every error that can end an exchange or an attempt is one of these; foreign exceptions are mapped once, at the border
(net/upstream.py). The `kind` is a stable name: it stands in error pages and may be matched by users.
"""

from typing import ClassVar

__all__ = [
    "BadRequest",
    "BodyError",
    "BodyTooLarge",
    "ClientError",
    "ClientGone",
    "ConnectError",
    "ExpectationFailed",
    "HeadTooLarge",
    "InternalError",
    "LastHop",
    "LoopDetected",
    "MethodNotAllowed",
    "Misdirected",
    "NoRoute",
    "NotImplementedCoding",
    "NotImplementedMethod",
    "NothingReady",
    "Outpaced",
    "Overloaded",
    "ProtocolError",
    "RequestTimeout",
    "ResetError",
    "RouterError",
    "TargetTooLong",
    "UpstreamError",
    "UpstreamTimeout",
    "VersionNotSupported",
]


class RouterError(Exception):
    """Root of the tree.

    Args:
        detail: one sentence for the log; it never reaches a client.
        sent: whether any byte of the request had been written to an endpoint.
    """

    status: ClassVar[int] = 500
    kind: ClassVar[str] = "internal_error"
    source: ClassVar[str] = "router"
    title: ClassVar[str] = "The router failed to handle this request."

    def __init__(self, detail: str = "", *, sent: bool = False) -> None:
        super().__init__(detail or self.kind)
        self.detail = detail
        self.sent = sent


class InternalError(RouterError):
    """A fault of the router or of a plugin."""


class ClientError(RouterError):
    """The client is at fault."""

    status = 400
    kind = "bad_request"
    source = "client"
    title = "The request is not valid HTTP."


class BadRequest(ClientError):
    """Malformed or ambiguous (RFC 9112)."""


class NoRoute(ClientError):
    status = 404
    kind = "no_route"
    title = "No route matches this request."


class MethodNotAllowed(ClientError):
    status = 405
    kind = "method_not_allowed"
    title = "This method is not allowed here."


class RequestTimeout(ClientError):
    status = 408
    kind = "request_timeout"
    title = "The request was not received in time."


class ExpectationFailed(ClientError):
    status = 417
    kind = "expectation_failed"
    title = "This expectation is not supported."


class HeadTooLarge(ClientError):
    status = 431
    kind = "head_too_large"
    title = "The request's header fields are too large."


class ClientGone(ClientError):
    """The client left before its response was complete; 499 stands in logs only."""

    status = 499
    kind = "client_gone"
    title = "The client left."


class Outpaced(ClientGone):
    """No failure of anybody's: another attempt of the same exchange was faster (a hedge)."""

    kind = "outpaced"
    title = "Another server was faster."


class NotImplementedMethod(ClientError):
    status = 501
    kind = "method_not_implemented"
    title = "This method is not known here."


class NotImplementedCoding(ClientError):
    status = 501
    kind = "coding_not_implemented"
    title = "This transfer coding is not known here."


class VersionNotSupported(ClientError):
    status = 505
    kind = "version_not_supported"
    title = "This version of HTTP is not supported."


class BodyTooLarge(ClientError):
    status = 413
    kind = "body_too_large"
    title = "The request's body is too large."


class TargetTooLong(ClientError):
    """The request line is longer than the largest head that is accepted."""

    status = 414
    kind = "target_too_long"
    title = "The request's address is too long."


class Misdirected(ClientError):
    """The request names a scheme that this listener does not speak (RFC 9110 §7.4)."""

    status = 421
    kind = "misdirected"
    title = "The request was sent to the wrong place."


class LastHop(ClientError):
    """No failure: the request asks the last one that it may reach, and that is the router (RFC 9110 §7.6.2)."""

    status = 200
    kind = "last_hop"
    title = "The request may go no further than to the router."


class LoopDetected(ClientError):
    """The request has passed this very router before (its name stands in Via, RFC 9110 §7.6.3)."""

    status = 508
    kind = "loop_detected"
    title = "The request came back to the router that sent it."


class Overloaded(RouterError):
    """A limit of the router or of the pool is reached."""

    status = 503
    kind = "overloaded"
    title = "Too many requests are under way. Try again shortly."


class NothingReady(RouterError):
    """No endpoint of the pool can take the request."""

    status = 503
    kind = "nothing_ready"
    title = "No server is available for this request. Try again shortly."


class UpstreamError(RouterError):
    """An endpoint is at fault. `reason` is the word of `retry.on`, `phase` where it happened.

    Args:
        detail, sent: as of RouterError.
        word: what people read in causes, where `reason` is not precise enough: "truncated".
    """

    status = 502
    kind = "upstream_error"
    source = "upstream"
    title = "The server behind the router failed."
    reason: ClassVar[str] = "reset"
    phase: ClassVar[str] = "head"

    def __init__(self, detail: str = "", *, sent: bool = False, word: str = "") -> None:
        super().__init__(detail, sent=sent)
        self.word = word or self.reason
        #: Whether it says nothing about the endpoint after all.
        self.excused = False


class ConnectError(UpstreamError):
    """Refused, unreachable, or not connected in time: nothing was sent."""

    status = 503
    kind = "connect_failed"
    title = "No server accepted the connection. Try again shortly."
    reason = "connect"
    phase = "connect"


class ResetError(UpstreamError):
    """The connection closed before a whole response head had arrived."""

    kind = "upstream_reset"
    title = "The server behind the router closed the connection."


class ProtocolError(UpstreamError):
    """What the endpoint sent is not one unambiguous HTTP response."""

    kind = "upstream_protocol_error"
    title = "The server behind the router sent an invalid response."

    def __init__(self, detail: str = "", *, sent: bool = False, word: str = "garbage") -> None:
        super().__init__(detail, sent=sent, word=word)


class UpstreamTimeout(UpstreamError):
    """The response head did not arrive in time."""

    status = 504
    kind = "upstream_timeout"
    reason = "timeout"
    title = "The server behind the router did not answer in time."


class BodyError(UpstreamError):
    """The response broke after its head was passed on; the client's response is broken too, never shortened."""

    kind = "upstream_body_error"
    phase = "body"
    title = "The server behind the router broke off its response."
