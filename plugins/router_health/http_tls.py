"""TLS of an http probe: whether, what is trusted, and whose name the certificate must hold."""

from __future__ import annotations

import ssl
from typing import Literal

import msgspec

from router import Address, Tools
from router_health.causes import shown

__all__ = ["Tls", "TlsOptions"]


class TlsOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How to speak TLS. Without any of these as the pool does.

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
            _context(self.ca, self.verify)


class Tls:
    """Gives the context of a connection, made when it is first needed: the system's authorities are slow to read."""

    __slots__ = ("_ca", "_chain", "_context", "_enabled", "_verify", "server_name")

    def __init__(self, options: TlsOptions, tools: Tools) -> None:
        pool = tools.tls
        self._enabled = options.enabled
        self._context: ssl.SSLContext | None = None
        #: Certificate and key that the probe shows.
        self._chain: tuple[str, str | None] | None = None
        if pool is None or options != TlsOptions():
            self._ca, self._verify, self.server_name = options.ca, options.verify, options.server_name
            return
        # As the pool does. Files that are wrong are told as the pool's fault, before anybody is asked.
        self._ca = str(tools.folder / pool.ca) if pool.ca else ""
        self._verify, self.server_name = pool.verify, pool.server_name
        if pool.certificate:
            self._chain = (str(tools.folder / pool.certificate), str(tools.folder / pool.key) if pool.key else None)

    def context(self, address: Address) -> ssl.SSLContext | None:
        """None where TLS is not spoken."""
        if self._enabled is False or (self._enabled == "auto" and address.scheme != "https"):
            return None
        if self._context is None:
            context = _context(self._ca, self._verify)
            if self._chain is not None:
                context.load_cert_chain(*self._chain)
            self._context = context
        return self._context


def _context(ca: str, verify: str) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=ca or None)
    except ssl.SSLError:
        raise ValueError(f'ca "{shown(ca)}" holds no certificate in PEM') from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f'ca "{shown(ca)}" cannot be read: {reason}') from None
    if verify == "none":
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["http/1.1"])
    return context
