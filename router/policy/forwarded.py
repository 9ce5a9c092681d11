"""Who the client is, and how the router says so: X-Forwarded-For, -Proto and -Host, and Forwarded (RFC 7239).

Peers that are not trusted have their word replaced; trusted ones have it extended. The client is the last address of
the chain that no trusted proxy put its name to.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from typing import NamedTuple

from router.policy.normal import split_host

__all__ = ["client_of", "forwarded_lines"]

Fields = list[tuple[bytes, bytes]]

# RFC 7239 §4: forwarded-pair; what stands between pairs.
_PAIR = re.compile(
    r'[ \t]*(?:([!#$%&\'*+.^_`|~0-9A-Za-z-]+)=([!#$%&\'*+.^_`|~0-9A-Za-z-]+|"(?:[^"\\]|\\.)*"))?[ \t]*([;,]|$)'
)
_QUOTED_PAIR = re.compile(r"\\(.)")
_SPECIAL = re.compile(rb'(["\\])')
# RFC 7239 §6: an address with or without a port, or an obfuscated name.
_NODE = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([0-9.]+))(?::[0-9A-Za-z._-]{1,64})?|(unknown|_[0-9A-Za-z._-]{1,64})")


class _Hop(NamedTuple):
    """One element of a Forwarded field."""

    node: str = ""
    proto: str = ""
    host: str = ""


def forwarded_lines(peer: str, scheme: str) -> str:
    """The lines for a peer that speaks for itself alone. A peer without an address (a unix socket) has no For line."""
    said = f"X-Forwarded-For: {peer}\r\n" if peer else ""
    return f"{said}X-Forwarded-Proto: {scheme}\r\n"


def client_of(
    peer: str, scheme: str, host: str, said: Fields, trusts: Callable[[str], bool], *, forwarded: bool = False
) -> tuple[str, str]:
    """What a trusted peer says of the client. X-Forwarded-* outweigh Forwarded, which is read where they are missing.

    Args:
        host: of this request: what the client asked for, unless the peer says that it was another.
        said: the X-Forwarded-* and Forwarded fields as sent, names in lower case.
        trusts: whether an address is a trusted proxy's.
        forwarded: whether a Forwarded field is sent on too.

    Returns:
        The client's address, and the lines to send on.
    """
    chain = [part for part in (part.strip() for part in _joined(said, b"x-forwarded-for").split(",")) if part]
    sent = _joined(said, b"forwarded")
    hops = _hops(sent)
    origin = _Hop()
    if not chain and hops:
        origin = _client_hop(hops, trusts)
        chain = [hop.node for hop in hops if hop.node]
    client = _client(chain, trusts) or peer
    protos = [value.strip().lower() for name, value in said if name == b"x-forwarded-proto"]
    proto = protos[-1].decode() if protos and protos[-1] in (b"http", b"https") else origin.proto or scheme
    whole = ", ".join([*chain, peer] if peer else chain)
    hosts = [value.decode("latin-1") for name, value in said if name == b"x-forwarded-host" and value]
    asked = hosts[0] if hosts else origin.host or host
    lines = f"{forwarded_lines(whole, proto)}X-Forwarded-Host: {asked}\r\n"
    if forwarded:
        before = [sent] if hops else [f"for={_node(address)}" for address in chain]
        own = _element(peer, scheme) + _host_pair(host.encode("latin-1", "replace")).decode("latin-1")
        lines += f"Forwarded: {', '.join([*before, own])}\r\n"
    return client, lines


def _joined(said: Fields, wanted: bytes) -> str:
    return ", ".join(value.decode("latin-1") for name, value in said if name == wanted)


def _client(chain: list[str], trusts: Callable[[str], bool]) -> str:
    """The last address that is no trusted proxy's, or else the first; "" without any."""
    for address in reversed(chain):
        if not trusts(address):
            return address
    return chain[0] if chain else ""


def _client_hop(hops: list[_Hop], trusts: Callable[[str], bool]) -> _Hop:
    for hop in reversed(hops):
        if not trusts(hop.node):
            return hop
    return hops[0]


def _hops(sent: str) -> list[_Hop]:
    """The elements of a Forwarded field; none if it is not one (RFC 7239 §4)."""
    hops: list[_Hop] = []
    pairs: dict[str, str] = {}
    at, end = 0, ","
    while end:
        found = _PAIR.match(sent, at)
        if found is None:
            return []
        name, value, end = found.groups()
        if name is not None:
            if name.lower() in pairs:
                return []
            pairs[name.lower()] = _QUOTED_PAIR.sub(r"\1", value[1:-1]) if value[0] == '"' else value
        if end != ";" and pairs:
            hops.append(_Hop(_read_node(pairs), _read_proto(pairs), _read_host(pairs)))
            pairs = {}
        at = found.end()
    return hops


def _read_node(pairs: dict[str, str]) -> str:
    if "for" not in pairs:
        return ""
    found = _NODE.fullmatch(pairs["for"])
    return (found[1] or found[2] or found[3]) if found is not None else "unknown"


def _read_proto(pairs: dict[str, str]) -> str:
    proto = pairs.get("proto", "").lower()
    return proto if proto in ("http", "https") else ""


def _read_host(pairs: dict[str, str]) -> str:
    host = pairs.get("host", "")
    try:
        split_host(host)
    except ValueError:
        return ""
    return host


def _element(peer: str, scheme: str) -> str:
    return f"for={_node(peer)};proto={scheme}"


def _host_pair(host: bytes) -> bytes:
    return b';host="%b"' % _SPECIAL.sub(rb"\\\1", host) if host else b""


def _node(address: str) -> str:
    """An address as RFC 7239 §6 writes it."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return "unknown"
    return f'"[{found}]"' if found.version == 6 else str(found)
