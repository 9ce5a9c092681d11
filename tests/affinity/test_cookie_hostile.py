"""`cookie` against forgers: nothing but what the router wrote is believed, and nothing that is sent does harm."""

from __future__ import annotations

import hmac
import random
from base64 import urlsafe_b64encode
from collections.abc import Iterator

import pytest
from router_affinity import cookie as module
from router_affinity.cookie import Cookie
from router_affinity.cookie_options import CookieOptions
from router_affinity.cookie_value import LABEL, PUBLIC

from router import Duration, Exchange, Members
from router.testing import make_endpoints, make_exchange, make_members, make_tools

MUTATIONS = 10_000
NOW = 1_800_000_000.0
#: What a value cannot be continued with: it would end it, and leave it as it was.
ENDS = b";\r\n"
ALPHABET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"

ENDPOINTS = make_endpoints(1, 1, 1)
MEMBERS = make_members(ENDPOINTS)


def affinity(*secrets: str, ttl: float = float("inf")) -> Cookie:
    options = CookieOptions(secrets=secrets or ("a secret of the tests", "an older one of them"), ttl=Duration(ttl))
    return Cookie(options, make_tools(), lambda: NOW)


def request(value: bytes) -> Exchange:
    exchange = make_exchange()
    exchange.head = b"GET / HTTP/1.1\r\nHost: a\r\nCookie: a=b; router=%b\r\n\r\n" % value
    return exchange


def valid() -> list[bytes]:
    """Values of every endpoint by both secrets, with and without a time."""
    values = []
    for made in (affinity(), affinity("an older one of them"), affinity(ttl=3600)):
        for endpoint in ENDPOINTS:
            headers: list[tuple[bytes, bytes]] = []
            made.remember(endpoint, make_exchange(), headers)
            values.append(headers[0][1].partition(b";")[0].removeprefix(b"router="))
    return values


def mutations(values: list[bytes], rng: random.Random) -> Iterator[bytes]:
    """Without end: flips, cuts, additions, moves, parts of several, other cases, and other ways to write the same."""
    while True:
        value, other = rng.sample(values, 2)
        at = rng.randrange(len(value))
        byte = rng.choice([b for b in range(256) if b not in ENDS])
        yield value[:at] + bytes([value[at] ^ 1 << rng.randrange(8)]) + value[at + 1 :]
        yield value[:at] + bytes([rng.choice(ALPHABET)]) + value[at + 1 :]
        yield value[:at] + bytes([byte]) + value[at + 1 :]
        yield value[:at]
        yield value[at:]
        yield value[:at] + value[at + 1 :]
        yield value[:at] + bytes([byte]) + value[at:]
        yield value + bytes([byte]) * rng.randrange(1, 60)
        yield bytes([byte]) + value
        yield value[:at] + other[at:]
        yield value[:LABEL] + other[LABEL:]
        yield value[:PUBLIC] + other[PUBLIC:]
        yield value[at:] + value[:at]
        yield rng.choice([value.swapcase(), value.lower(), value.upper()])
        yield value[:at] + value[at : at + 1].swapcase() + value[at + 1 :]
        yield value + rng.choice([b"=", b"==", b"====", b"\t", b" ", b'"', b",", b"%3D", b"\x00"])
        yield rng.choice([b'"%b"', b" %b", b"%%%b", b"=%b", b"'%b'", b"\x00%b"]) % value
        yield value.replace(b"-", b"+").replace(b"_", b"/")
        yield value[:at] + b"%%%02X" % value[at] + value[at + 1 :]
        yield value * 2
        yield bytes(rng.choice(ALPHABET) for _ in value)


@pytest.mark.parametrize("ttl", [float("inf"), 3600])
def test_no_mutation_is_believed_and_none_raises(ttl: float) -> None:
    rng, values, made = random.Random(6), valid(), affinity(ttl=ttl)
    believed = {value: made.find(MEMBERS, request(value)) for value in values}
    assert set(believed.values()) == set(ENDPOINTS)
    tried = 0
    for mutated in mutations(values, rng):
        if mutated in believed:
            continue
        exchange = request(mutated)
        assert made.find(MEMBERS, exchange) is None, mutated
        headers: list[tuple[bytes, bytes]] = []
        made.remember(ENDPOINTS[0], exchange, headers)
        assert len(headers) == 1
        tried += 1
        if tried == MUTATIONS:
            break
    assert len(made._good) <= len(values)
    assert {value: made.find(MEMBERS, request(value)) for value in values} == believed


def test_no_head_makes_it_raise_or_believe() -> None:
    rng, made, value = random.Random(7), affinity(), valid()[0]
    pieces = [
        b"Cookie: ",
        b"Cookie:",
        b"\r\n",
        b" ",
        b";",
        b"router=",
        b"=",
        b"\x00",
        b"\xff",
        b"a",
        b"\r",
        b"\n",
        value[:20],
    ]
    for known in (False, True):
        assert not known or made.find(MEMBERS, request(value)) is ENDPOINTS[0]
        for cut in range(len(request(value).head) - len(b"\r\n\r\n")):
            exchange = make_exchange()
            exchange.head = request(value).head[:cut]
            assert made.find(MEMBERS, exchange) is None
    for _ in range(3000):
        exchange = make_exchange()
        exchange.head = b"".join(rng.choices(pieces, k=rng.randrange(40)))
        assert made.find(MEMBERS, exchange) is None


@pytest.mark.parametrize("piece", [b";", b"; ", b"router=", b"router=x;", b"router=%b;" % (b"x" * 40), b"a=b; ", b" "])
def test_a_head_that_is_full_of_it(piece: bytes) -> None:
    made, value = affinity(), valid()[2]
    exchange = request(piece * (30_000 // len(piece)))
    assert made.find(MEMBERS, exchange) is None
    full = request(b"x; %b; router=%b" % (b"a=%b; " % (b"y" * 200) * 150, value))
    full.pinned = made.find(MEMBERS, full)
    assert full.pinned is ENDPOINTS[2]


def test_what_is_secret_is_compared_whole_and_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[bytes, bytes]] = []

    def compare(left: bytes, right: bytes) -> bool:
        compared.append((left, right))
        return hmac.compare_digest(left, right)

    monkeypatch.setattr(module, "compare_digest", compare)
    made, value = affinity(), valid()[0]
    wrong = value[:PUBLIC] + b"A" * (len(value) - PUBLIC)
    # Unknown yet, then known.
    for _ in range(2):
        compared.clear()
        assert made.find(MEMBERS, request(wrong)) is None
        assert compared
        secret, line = (value[PUBLIC:], wrong[PUBLIC:]), (b"router=" + value, b"router=" + wrong)
        assert {secret, line} >= set(compared) >= {secret}
        assert made.find(MEMBERS, request(value)) is ENDPOINTS[0]
    # Nothing that a proof is part of is ever asked for in a table.
    assert {len(key) for key in (*made._good, *made._labels)} == {PUBLIC, LABEL}


def test_each_secret_and_each_use_has_a_key_of_its_own() -> None:
    made = affinity("a secret of the tests")
    value = valid()[0]
    plain = hmac.digest(b"a secret of the tests", ENDPOINTS[0].identity.encode(), "sha256")
    assert urlsafe_b64encode(plain[:18]) not in value
    label = made._signers[0].label(ENDPOINTS[0])
    assert not made._signers[0].proof(ENDPOINTS[0], b"").startswith(label)
    # Nor does a time that is moved into the pool's name make another value.
    assert len({made._signers[0].proof(ENDPOINTS[0], text) for text in (b"", b"A", b"AAAAAAAA")}) == 3


def test_a_client_that_sends_everything_costs_no_memory() -> None:
    made, members = affinity(ttl=3600), Members({})
    for number in range(2000):
        value = (
            valid()[0][:PUBLIC] + urlsafe_b64encode(number.to_bytes(18, "big")) if number < 50 else b"%040d" % number
        )
        assert made.find(MEMBERS, request(value)) is None
        assert made.find(members, request(value)) is None
    assert len(made._good) == len(made._last) == len(made._labels) == 0
