"""TLS of an http probe: whether, what is trusted, and whose name the certificate must hold."""

from __future__ import annotations

import ssl
from typing import Literal

import msgspec

from router import Address
from router_health.causes import shown

__all__ = ["Tls", "TlsOptions"]


class TlsOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How to speak TLS.

    Args:
        enabled: always (true), never (false), or where the endpoint is https ("auto").
        verify: "none" accepts every certificate.
        server_name: what the certificate must name, also sent as SNI; the endpoint's host if empty.
        ca: PEM file of what is trusted in place of the system's authorities.
    """

    enabled: bool | Literal["auto"] = "auto"
    verify: Literal["full", "none"] = "full"
    server_name: str = ""
    ca: str = ""

    def __post_init__(self) -> None:
        if self.enabled is False and (self.ca or self.server_name or self.verify == "none"):
            raise ValueError("enabled is false, so the others mean nothing: leave them out")
        if self.verify == "none" and self.ca:
            raise ValueError('verify is "none", so ca means nothing: leave one of them out')
        if any(not "!" <= c <= "~" for c in self.server_name):
            raise ValueError("server_name is a host name in ASCII, without blanks")
        if self.ca:
            _context(self)


class Tls:
    """Gives the context of a connection. The system's authorities are read when they are first needed."""

    __slots__ = ("_context", "_options")

    def __init__(self, options: TlsOptions) -> None:
        self._options = options
        self._context = _context(options) if options.enabled is True or options.ca else None

    @property
    def server_name(self) -> str:
        return self._options.server_name

    def context(self, address: Address) -> ssl.SSLContext | None:
        """None where TLS is not spoken."""
        enabled = self._options.enabled
        if enabled is False or (enabled == "auto" and address.scheme != "https"):
            return None
        if self._context is None:
            self._context = _context(self._options)
        return self._context


def _context(options: TlsOptions) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=options.ca or None)
    except ssl.SSLError:
        raise ValueError(f'ca "{shown(options.ca)}" holds no certificate in PEM') from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f'ca "{shown(options.ca)}" cannot be read: {reason}') from None
    if options.verify == "none":
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["http/1.1"])
    return context
