"""Who the client is, and how the router says so: X-Forwarded-For, -Proto and -Host.

Peers that are not trusted have their word replaced; trusted ones have it extended. The client is the last address of
the chain that no trusted proxy put its name to.
"""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["client_of", "forwarded_lines"]


def forwarded_lines(peer: str, scheme: str) -> str:
    """The lines for a peer that speaks for itself alone. A peer without an address (a unix socket) has no For line."""
    said = f"X-Forwarded-For: {peer}\r\n" if peer else ""
    return f"{said}X-Forwarded-Proto: {scheme}\r\n"


def client_of(
    peer: str, scheme: str, host: str, said: list[tuple[bytes, bytes]], trusts: Callable[[str], bool]
) -> tuple[str, str]:
    """What a trusted peer says of the client.

    Args:
        host: of this request: what the client asked for, unless the peer says that it was another.
        said: the X-Forwarded-* fields as sent, names in lower case.
        trusts: whether an address is a trusted proxy's.

    Returns:
        The client's address, and the lines to send on.
    """
    chain = [
        part.strip().decode("latin-1")
        for name, value in said
        if name == b"x-forwarded-for"
        for part in value.split(b",")
    ]
    chain = [part for part in chain if part]
    client = peer
    for address in reversed(chain):
        client = address
        if not trusts(address):
            break
    protos = [value.strip().lower() for name, value in said if name == b"x-forwarded-proto"]
    proto = protos[-1].decode() if protos and protos[-1] in (b"http", b"https") else scheme
    whole = ", ".join([*chain, peer] if peer else chain)
    hosts = [value.decode("latin-1") for name, value in said if name == b"x-forwarded-host" and value]
    asked = hosts[0] if hosts else host
    return client, f"X-Forwarded-For: {whole}\r\nX-Forwarded-Proto: {proto}\r\nX-Forwarded-Host: {asked}\r\n"
