"""The contract of an affinity: it survives every client, names members only, and knows again what it wrote."""

from __future__ import annotations

from collections.abc import Callable

from router import Affinity, Endpoint, Exchange, Members, Options
from router.testing.law import Made, law, make_plugin, unraised
from router.testing.make import make_endpoints, make_exchange, make_members, varied_exchange

__all__ = ["check_affinity"]

_LONG = "=" * 5000
_GARBAGE = ("", ";", "=", "a", "a=b=c", "\u00ff" * 9, "%00%ff", _LONG, 'session="', "session=; session=x", "../../etc")


def check_affinity(
    factory: Made, options: Options | None = None, *, exchange: Callable[[int], Exchange] = varied_exchange
) -> None:
    """Holds an affinity to its contract.

    Args:
        factory: what the plugin registers, or a class for "module:Name".
        options: its options; the defaults of its nested Options, or none, if left out.
        exchange: makes the n-th exchange, for an affinity that reads something uncommon.

    Raises:
        AssertionError: naming the law that is broken.
    """
    affinity: Affinity = make_plugin(factory, options, 1)
    endpoints = make_endpoints(1, 1, 1)
    _survives(affinity, make_members(endpoints), exchange)
    _survives(affinity, make_members(()), exchange)
    for number, endpoint in enumerate(endpoints):
        _recognises(affinity, make_members(endpoints), endpoint, exchange(number))


def _survives(affinity: Affinity, members: Members, exchange: Callable[[int], Exchange]) -> None:
    for number, garbage in enumerate(_GARBAGE):
        for sent in (exchange(number), make_exchange(headers={"Cookie": garbage, "X-Key": garbage})):
            found = unraised("find never raises, whatever a client sends", affinity.find, members, sent)
            law(found is None or found in members.values(), "find returns a member or None", repr(found))
            again = affinity.find(members, sent)
            law(again is found, "the same request finds the same endpoint", f"{found!r}, then {again!r}")


def _recognises(affinity: Affinity, members: Members, endpoint: Endpoint, exchange: Exchange) -> None:
    headers = [(b"Content-Type", b"text/plain")]
    unraised("remember never raises", affinity.remember, endpoint, exchange, headers)
    kept = headers[:1] == [(b"Content-Type", b"text/plain")] and all(_is_field(field) for field in headers)
    law(kept, "remember appends pairs of bytes and leaves the others alone", repr(headers))
    cookies = [value.split(b";")[0].decode("latin-1") for name, value in headers if name.lower() == b"set-cookie"]
    if cookies:
        found = affinity.find(members, make_exchange(headers={"Cookie": "; ".join(cookies)}))
        law(found is endpoint, "a client that returns its cookie finds its endpoint", f"{found!r}, not {endpoint!r}")


def _is_field(field: object) -> bool:
    return isinstance(field, tuple) and len(field) == 2 and all(isinstance(part, bytes) for part in field)
