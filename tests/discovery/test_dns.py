"""Discovery by DNS, against a name server of the test's own: records, lifetimes, refusals and garbage."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import dns.asyncresolver
import dns.flags
import dns.message
import dns.rcode
import dns.resolver
import dns.rrset
import pytest

NAME = "web.example.test"
SERVICE = "_http._tcp.example.test"
Answering = Callable[[dns.message.Message], bytes | list[bytes] | None]


class NameServer(asyncio.DatagramProtocol):
    """Answers by `records[name, kind]`: texts of records, "NXDOMAIN" and the like, or a function of the question.

    Attributes:
        asked: (name, kind) of each question, TCP's too.
        lifetime: seconds, of all records.
    """

    def __init__(self) -> None:
        self.records: dict[tuple[str, str], list[str] | str | Answering] = {}
        self.asked: list[tuple[str, str]] = []
        self.lifetime = 0
        self.truncates = False
        self.port = 0
        self._transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, address: Any) -> None:
        for answer in self.answers(data, self.truncates):
            self._transport.sendto(answer, address)

    async def stream(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        length = int.from_bytes(await reader.readexactly(2), "big")
        for answer in self.answers(await reader.readexactly(length), False):
            writer.write(len(answer).to_bytes(2, "big") + answer)
        writer.close()

    def answers(self, data: bytes, truncated: bool) -> list[bytes]:
        question = dns.message.from_wire(data)
        (asked,) = question.question
        name, kind = asked.name.to_text(omit_final_dot=True), dns.rdatatype.to_text(asked.rdtype)
        self.asked.append((name, kind))
        found = self.records.get((name, kind), "NXDOMAIN")
        if callable(found):
            made = found(question)
            return made if isinstance(made, list) else [made] if made is not None else []
        answer = dns.message.make_response(question)
        if isinstance(found, str):
            answer.set_rcode(dns.rcode.from_text(found))
        elif truncated:
            answer.flags |= dns.flags.TC
        elif found:
            answer.answer.append(dns.rrset.from_text(asked.name, self.lifetime, "IN", kind, *found))
        return [answer.to_wire(max_size=65535)]


@asynccontextmanager
async def name_server() -> AsyncIterator[NameServer]:
    server = NameServer()
    streams, transport = await opened(server)
    server.port = transport.get_extra_info("sockname")[1]
    try:
        yield server
    finally:
        streams.close()
        transport.close()


async def opened(server: NameServer) -> tuple[asyncio.Server, asyncio.BaseTransport]:
    """On one port for both: one that is free for streams may be taken for datagrams."""
    loop = asyncio.get_running_loop()
    for _ in range(50):
        streams = await asyncio.start_server(server.stream, "127.0.0.1", 0)
        try:
            at = streams.sockets[0].getsockname()[:2]
            transport, _ = await loop.create_datagram_endpoint(lambda: server, local_addr=at)
        except OSError:
            streams.close()
            continue
        return streams, transport
    raise AssertionError("no port is free")


def options(server: NameServer, **more: Any) -> dict[str, Any]:
    at = {"resolver": [f"127.0.0.1:{server.port}"], "min_interval": "20ms", "max_interval": "50ms", "timeout": "1s"}
    return {"name": NAME, **({} if more.get("records") == "SRV" else {"port": 8080}), **at, **more}


async def test_addresses_come_and_go(bench: Any) -> None:
    async with name_server() as server:
        server.records[NAME, "A"] = ["127.0.0.2", "127.0.0.10"]
        async with bench.following("dns", **options(server)) as follower:
            await follower.yields("http://127.0.0.2:8080", "http://127.0.0.10:8080")
            # Turned round is the same set.
            server.records[NAME, "A"] = ["127.0.0.10", "127.0.0.2"]
            count = len(server.asked)
            await bench.eventually(lambda: len(server.asked) > count + 2)
            server.records[NAME, "A"] = ["127.0.0.10"]
            await follower.yields("http://127.0.0.10:8080")
    assert len(follower.sets) == 2
    assert follower.said == []


async def test_both_kinds_of_addresses(bench: Any) -> None:
    async with name_server() as server:
        server.records[NAME, "A"] = ["127.0.0.2"]
        server.records[NAME, "AAAA"] = ["::2", "::1"]
        async with bench.following("dns", **options(server, records="A+AAAA", scheme="http")) as follower:
            await follower.yields("http://127.0.0.2:8080", "http://[::1]:8080", "http://[::2]:8080")
            # One kind alone is no empty answer.
            server.records[NAME, "AAAA"] = []
            await follower.yields("http://127.0.0.2:8080")
        async with bench.following("dns", **options(server, records="AAAA")) as follower:
            await follower.says("web.example.test: no AAAA records; to let that empty the pool")


async def test_services(bench: Any) -> None:
    """Priorities in their order from 0, weights as they are but 0 (RFC 2782), targets in lower case."""
    async with name_server() as server:
        server.records[SERVICE, "SRV"] = [
            "20 0 8080 spare.example.test.",
            "10 0 8081 B.Example.Test.",
            "10 60 8080 a.example.test.",
            "65535 65535 8080 last.example.test.",
            "30 1 8080 a.example.test.",
            "30 1 0 nowhere.example.test.",
        ]
        async with bench.following("dns", **options(server, name=SERVICE, records="SRV")) as follower:
            await bench.eventually(lambda: follower.sets)
    assert [(spec.url, spec.priority, spec.weight) for spec in follower.sets[0]] == [
        ("http://b.example.test:8081", 0, 1),
        ("http://a.example.test:8080", 0, 60),
        ("http://spare.example.test:8080", 1, 1),
        ("http://last.example.test:8080", 3, 65535),
    ]


async def test_more_priorities_than_there_are_tiers(bench: Any) -> None:
    async with name_server() as server:
        server.records[SERVICE, "SRV"] = [f"{10 * n} 1 80 s{n}.example.test." for n in range(300)]
        async with bench.following("dns", **options(server, name=SERVICE, records="SRV")) as follower:
            await bench.eventually(lambda: follower.sets, lambda: str(follower.said))
    assert [spec.priority for spec in follower.sets[0]] == [min(n, 255) for n in range(300)]


@pytest.mark.parametrize(
    ("kind", "records", "said"),
    [
        ("A", "NXDOMAIN", "no A records; to let that empty the pool, set accept_empty = true"),
        ("A", [], "no A records"),
        ("SRV", ["0 0 0 ."], "no SRV records"),
        ("SRV", [r"0 0 80 a\@b.example.test."], r'the target "a\@b.example.test" of a record is no host name'),
        ("SRV", [r"0 0 80 a\010b.example.test."], "of a record is no host name"),
        ("SRV", ["0 0 80 -a.example.test."], "of a record is no host name"),
        ("A", "SERVFAIL", "no name server gave an answer (127.0.0.1 port "),
        ("A", "REFUSED", "REFUSED"),
        ("A", "NOTIMP", "NOTIMP"),
        ("A", lambda question: None, "no name server answered within 0.1 s"),
        ("A", lambda question: b"", "no name server answered within 0.1 s"),
        ("A", lambda question: b"\xff" * 500, "no name server answered within 0.1 s"),
        ("A", lambda question: question.to_wire(), "no name server"),
        ("A", lambda question: dns.message.make_response(question).to_wire()[:13], "no name server"),
        (
            "A",
            lambda question: dns.message.make_response(dns.message.make_query("else.test", "A")).to_wire(),
            "no name",
        ),
    ],
)
async def test_what_is_no_answer_is_said_once_and_the_last_good_set_stays(
    bench: Any, kind: str, records: Any, said: str
) -> None:
    async with name_server() as server:
        server.records[NAME, kind] = good = ["127.0.0.2"] if kind == "A" else ["0 1 8080 a.example.test."]
        url = "http://127.0.0.2:8080" if kind == "A" else "http://a.example.test:8080"
        async with bench.following("dns", **options(server, records=kind, timeout="100ms")) as follower:
            await follower.yields(url)
            server.records[NAME, kind] = records
            await follower.says(said)
            count = len(server.asked)
            await bench.eventually(lambda: len(server.asked) > count + 2)
            server.records[NAME, kind] = good
            await bench.eventually(lambda: len(follower.sets) == 2)
        assert follower.urls == [url]
        assert len(follower.said) == 1
        assert follower.said[0].startswith(NAME)


async def test_one_kind_of_two_that_fails_is_no_answer(bench: Any) -> None:
    async with name_server() as server:
        server.records[NAME, "A"] = ["127.0.0.2"]
        server.records[NAME, "AAAA"] = "SERVFAIL"
        async with bench.following("dns", **options(server, records="A+AAAA")) as follower:
            await follower.says("SERVFAIL")
        assert follower.sets == []


async def test_an_empty_answer_may_empty_the_pool(bench: Any) -> None:
    async with name_server() as server:
        server.records[NAME, "A"] = ["127.0.0.2"]
        async with bench.following("dns", **options(server, accept_empty=True)) as follower:
            await follower.yields("http://127.0.0.2:8080")
            server.records[NAME, "A"] = "NXDOMAIN"
            await follower.yields()
    assert follower.said == []


async def test_garbage_before_the_answer_is_passed_over(bench: Any) -> None:
    def garbage_first(question: dns.message.Message) -> list[bytes]:
        answer = dns.message.make_response(question)
        answer.answer.append(dns.rrset.from_text(question.question[0].name, 1, "IN", "A", "127.0.0.2"))
        forged = dns.message.make_response(dns.message.make_query(NAME, "A", id=question.id ^ 1))
        forged.answer.append(dns.rrset.from_text(question.question[0].name, 1, "IN", "A", "127.6.6.6"))
        return [b"\0", forged.to_wire(), answer.to_wire()]

    async with name_server() as server:
        server.records[NAME, "A"] = garbage_first
        async with bench.following("dns", **options(server)) as follower:
            await follower.yields("http://127.0.0.2:8080")
    assert len(follower.sets) == 1


async def test_an_answer_too_long_for_a_datagram(bench: Any) -> None:
    async with name_server() as server:
        server.truncates = True
        server.records[NAME, "A"] = [f"127.1.{n >> 8}.{n & 255}" for n in range(1000)]
        async with bench.following("dns", **options(server)) as follower:
            await bench.eventually(lambda: follower.sets, lambda: str(follower.said))
    assert len(follower.sets[0]) == 1000


async def test_a_second_name_server_where_the_first_is_dead(bench: Any) -> None:
    async with name_server() as server:
        server.records[NAME, "A"] = ["127.0.0.2"]
        async with name_server() as dead:
            port = dead.port
        both = [f"127.0.0.1:{port}", f"127.0.0.1:{server.port}"]
        async with bench.following("dns", **options(server, resolver=both)) as follower:
            await follower.yields("http://127.0.0.2:8080")


async def test_the_lifetime_says_when_to_ask_again(bench: Any) -> None:
    """Within the bounds: an hour is cut to 50 ms, and nothing is asked again sooner than after 30 s."""
    async with name_server() as server:
        server.records[NAME, "A"] = ["127.0.0.2"]
        server.lifetime = 3600
        async with bench.following("dns", **options(server, min_interval="10ms")) as follower:
            await bench.eventually(lambda: len(server.asked) > 3)
        server.lifetime = 0
        async with bench.following("dns", **options(server, min_interval="30s", max_interval="40s")) as follower:
            await follower.yields("http://127.0.0.2:8080")
            count = len(server.asked)
            await asyncio.sleep(0.2)
            assert len(server.asked) == count


async def test_the_shortest_lifetime_of_a_chain_counts(bench: Any) -> None:
    """A second in one server's chain, which is asked again after it, and half a minute in the other's."""

    def chain(lifetime: int, question: dns.message.Message) -> bytes:
        answer = dns.message.make_response(question)
        answer.answer.append(dns.rrset.from_text(question.question[0].name, lifetime, "IN", "CNAME", "a.test."))
        answer.answer.append(dns.rrset.from_text("a.test.", 60, "IN", "A", "127.0.0.2"))
        return answer.to_wire()

    async with name_server() as short, name_server() as long:
        short.records[NAME, "A"] = functools.partial(chain, 1)
        long.records[NAME, "A"] = functools.partial(chain, 30)
        async with (
            bench.following("dns", **options(short, max_interval="60s")) as one,
            bench.following("dns", **options(long, max_interval="60s")) as other,
        ):
            for follower in (one, other):
                await follower.yields("http://127.0.0.2:8080")
            await asyncio.sleep(1.3)
        assert len(short.asked) > 1
        assert len(long.asked) == 1


async def test_the_systems_name_servers_and_search_list(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def system(resolver: dns.resolver.BaseResolver, path: Any) -> None:
        read.append(path)
        resolver.nameservers = ["127.0.0.1"]
        resolver.port = server.port
        resolver.search = [dns.name.from_text("example.test")]

    async with name_server() as server:
        monkeypatch.setattr(dns.resolver.BaseResolver, "read_resolv_conf", system)
        server.records[NAME, "A"] = ["127.0.0.2"]
        async with bench.following("dns", **options(server, resolver=[], name="web")) as follower:
            await follower.yields("http://127.0.0.2:8080")
        server.asked.clear()
        async with bench.following("dns", **options(server, resolver=[], name="web.")) as follower:
            await follower.says("no A records")
        assert set(server.asked) == {("web", "A")}
    assert read[0] == "/etc/resolv.conf"


async def test_no_name_servers_at_all(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(resolver: dns.resolver.BaseResolver, path: Any) -> None:
        raise dns.resolver.NoResolverConfiguration

    monkeypatch.setattr(dns.resolver.BaseResolver, "read_resolv_conf", nothing)
    async with bench.following("dns", name=NAME, port=80) as follower:
        await follower.says("web.example.test: no name servers in /etc/resolv.conf: set resolver")


async def test_a_look_up_that_fails_in_another_way(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async def resolve(resolver: Any, *arguments: Any, **options: Any) -> None:
        raise dns.resolver.NoRootSOA

    monkeypatch.setattr(dns.asyncresolver.Resolver, "resolve", resolve)
    async with bench.following("dns", name=NAME, port=80, resolver=["127.0.0.1"]) as follower:
        await follower.says("web.example.test: the look-up failed: ")
