"""The tcp probe: who accepts is well."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from router import Endpoint, EndpointSpec


async def test_who_accepts_passes_and_hears_nothing(bench: Any) -> None:
    heard: list[bytes] = []

    async def listen(call: Any) -> None:
        heard.append(await call.reader.read())

    server = await bench.serve(script=listen, asks=False)
    probe = bench.probe("tcp")
    for _ in range(3):
        await probe.check(server.endpoint)
    await bench.eventually(lambda: heard == [b"", b"", b""])
    assert len(server.calls) == 3


async def test_who_talks_at_once_passes_too(bench: Any) -> None:
    server = await bench.serve(b"220 hello\r\n", asks=False)
    await bench.passes(server.endpoint, "tcp")


async def test_refused_and_missing(bench: Any, tmp_path: Path) -> None:
    assert await bench.failure(bench.refusing(), "tcp") == "connect refused"
    missing = Endpoint(EndpointSpec(f"unix:{tmp_path}/none"))
    assert await bench.failure(missing, "tcp") == "connect failed: no such file or directory"


async def test_another_port_ipv6_and_unix(bench: Any, tmp_path: Path) -> None:
    server, other = await bench.serve(asks=False), await bench.serve(asks=False)
    await bench.passes(server.endpoint, "tcp", port=other.port)
    await bench.eventually(lambda: len(other.calls) == 1)
    assert server.calls == []
    await bench.passes((await bench.serve(asks=False, at="::1")).endpoint, "tcp")
    unix = await bench.serve(asks=False, at=tmp_path / "s")
    await bench.passes(unix.endpoint, "tcp")
    assert "a unix socket has no port" in await bench.failure(unix.endpoint, "tcp", port=1)


async def test_an_https_endpoint_is_only_connected_to(bench: Any) -> None:
    server = await bench.serve(asks=False)
    await bench.passes(Endpoint(EndpointSpec(f"https://127.0.0.1:{server.port}")), "tcp")
