"""Checks of what a configuration says about TLS, as far as no file has to be read for them.

Each yields what it finds and changes nothing. Certificates themselves are looked at by securing.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from router.config import EndpointTls, ListenerConfig, ListenerTls, PoolConfig
from router.configfound import Found, check_plugins
from router.positions import Path

__all__ = ["check_listener_tls", "check_pool_tls"]

#: Directives with numbers or nothing behind them, one of which says how long (RFC 6797 §6.1).
_DIRECTIVE = r"[a-z][a-z-]*(?:=[0-9]+)?"
_HSTS = re.compile(rf"(?i:(?={_DIRECTIVE}(?:; ?{_DIRECTIVE})*$)(?:.*; ?)?max-age=[0-9]+(?:; ?.*)?)")
_NAME = re.compile(r"(?i:[a-z0-9_-]+(?:\.[a-z0-9_-]+)*|[0-9a-f:]+)")


def check_listener_tls(listener: ListenerConfig, listeners: tuple[ListenerConfig, ...], path: Path) -> Iterator[Found]:
    """What is wrong with a listener's tls, redirect_to_https and hsts.

    Args:
        listeners: all there are.
    """
    if listener.tls is not None:
        yield from _check_tls(listener.tls, (*path, "tls"))
        if listener.redirect_to_https:
            yield Found((*path, "redirect_to_https"), "this listener speaks TLS already", "set it on the one without")
    elif listener.redirect_to_https and not any(
        other.tls is not None and not other.bind.startswith("unix:") for other in listeners
    ):
        what = "no listener with a port has tls, so there is nowhere to send clients to"
        yield Found((*path, "redirect_to_https"), what)
    if listener.hsts:
        if listener.tls is None:
            hint = "set it on the listener with tls"
            yield Found((*path, "hsts"), "browsers heed this on connections with TLS alone", hint)
        elif not _HSTS.fullmatch(listener.hsts):
            yield Found((*path, "hsts"), "expected the value of the field", "such as 'max-age=31536000'")


def _check_tls(tls: ListenerTls, path: Path) -> Iterator[Found]:
    if not tls.certificates:
        hint = "such as [{ use = 'files', paths = ['tls'] }]"
        yield Found((*path, "certificates"), "a listener with tls needs a source of certificates", hint)
    yield from check_plugins(tls.certificates, (*path, "certificates"))
    if not _NAME.fullmatch(tls.default):
        yield Found((*path, "default"), "expected a host name of one of the certificates, or 'refuse'")
    if tls.client_auth != "off" and not tls.client_ca:
        hint = "the file of CAs that clients' certificates are verified by"
        yield Found((*path, "client_auth"), "clients cannot be verified without client_ca", hint)
    if tls.client_auth == "off" and tls.client_ca:
        hint = "set client_auth to 'optional' or 'required'"
        yield Found((*path, "client_ca"), "clients are not asked for certificates", hint)


def check_pool_tls(pool: PoolConfig, path: Path) -> Iterator[Found]:
    """What is wrong with a pool's tls."""
    tls = pool.tls
    if tls is None:
        return
    urls = [item if isinstance(item, str) else item.url for item in pool.endpoints]
    if tls != EndpointTls() and not pool.discovery and not any(url.lower().startswith("https:") for url in urls):
        hint = "write https:// in its endpoints, or leave it out"
        yield Found((*path, "tls"), "no endpoint has https://, so nothing of this is used", hint)
    if tls.key and not tls.certificate:
        yield Found((*path, "tls", "key"), "a key without its certificate", "set tls.certificate")
    if tls.verify == "none" and tls.ca:
        yield Found((*path, "tls", "ca"), "with verify = 'none' nothing is verified by it", "leave one of them out")
    if tls.server_name and not _NAME.fullmatch(tls.server_name):
        yield Found((*path, "tls", "server_name"), "expected a host name, without port")
