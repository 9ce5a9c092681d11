"""The hooks are a documented contract: each one stands in plugins/README.md with its exact signature and an example."""

from __future__ import annotations

import asyncio
import json
import re
import sys
import tomllib
import types
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from router import Endpoint, Explanation, Note, Outcome
from router.contracts import contracts, methods, signature_text
from router.hooks import HookSpecs
from router.observe import Observers
from router.plugins import CONCERNS, Registry
from router.testing import (
    check_affinity,
    check_detector,
    check_selector,
    make_attempt,
    make_candidates,
    make_endpoints,
    make_exchange,
    make_tools,
)

GUIDE = (Path(__file__).parent.parent / "plugins" / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL)
SNIPPETS = [code for language, code in BLOCKS if language == "python"]
SIGNATURES = {line for language, code in BLOCKS if not language for line in code.splitlines()}
HOOKS = {name: hook for name, hook in vars(HookSpecs).items() if name.startswith("register_")}


def plugin_of(hook: str) -> types.ModuleType:
    """The example that implements this hook, run as a module."""
    (code,) = [snippet for snippet in SNIPPETS if f"def {hook}(" in snippet]
    module = types.ModuleType(f"example_{hook}")
    exec(compile(code, f"plugins/README.md: {hook}", "exec", dont_inherit=True), module.__dict__)
    return module


def make(concern: str) -> Any:
    registry = Registry()
    registry.add(plugin_of(CONCERNS[concern]), "example")
    (entry,) = registry.entries
    return registry.resolve(concern, entry.name, None).make(make_tools())


@pytest.mark.parametrize("hook", HOOKS)
def test_each_hook_is_documented_with_its_exact_signature(hook: str) -> None:
    assert signature_text(HOOKS[hook]) in SIGNATURES
    assert HOOKS[hook].__doc__


@pytest.mark.parametrize("concern", CONCERNS)
def test_each_method_is_documented_with_its_exact_signature(concern: str) -> None:
    required, optional = contracts()[concern]
    declared = [method for contract in (required, *optional) for method in methods(contract).values()]
    assert [text for text in map(signature_text, declared) if text not in SIGNATURES] == []


def test_the_guide_has_no_signature_that_does_not_exist() -> None:
    declared = {signature_text(hook) for hook in HOOKS.values()}
    for required, optional in contracts().values():
        declared |= {signature_text(m) for contract in (required, *optional) for m in methods(contract).values()}
    assert {line for line in SIGNATURES if "def " in line} == declared


@pytest.mark.parametrize("concern", CONCERNS)
def test_each_example_registers_and_fits_its_protocol(concern: str) -> None:
    assert isinstance(make(concern), contracts()[concern][0])


def test_every_snippet_is_run_by_a_test() -> None:
    hooks = [hook for hook in HOOKS for snippet in SNIPPETS if f"def {hook}(" in snippet]
    assert Counter(hooks) == dict.fromkeys(HOOKS, 1)
    assert len(SNIPPETS) == len(HOOKS) + 4


@pytest.fixture
def beside(tmp_path: Path) -> Iterator[Path]:
    """A folder with the first strategy in it."""
    before, path = set(sys.modules), list(sys.path)
    (tmp_path / "my_strategy.py").write_text(SNIPPETS[0])
    yield tmp_path
    sys.path[:] = path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_the_first_strategy_works_as_written(beside: Path) -> None:
    (text,) = [code for language, code in BLOCKS if language == "toml" and "my_strategy" in code]
    ref = tomllib.loads(text)["pools"][0]["selection"]
    resolved = Registry().resolve("selection", ref, beside)
    assert resolved.make(make_tools()).slack == 1
    assert SNIPPETS[0].startswith("# my_strategy.py\n")
    assert sum(bool(line.strip()) for line in SNIPPETS[0].splitlines()[1:]) <= 20
    exec(SNIPPETS[1], {})


def test_the_hashing_example() -> None:
    module: dict[str, Any] = {}
    exec(next(snippet for snippet in SNIPPETS if "class ByClient" in snippet), module)
    check_selector(module["ByClient"], by_weight=False)
    made, endpoints = module["ByClient"](), make_endpoints(1, 1, 1)

    def choice(client: str, among: Sequence[Endpoint]) -> Endpoint:
        exchange = make_exchange(client=client)
        exchange.key = made.key(exchange)
        chosen: Endpoint = made.choose(make_candidates(among), exchange)
        return chosen

    before = {f"192.0.2.{n}": choice(f"192.0.2.{n}", endpoints) for n in range(60)}
    assert set(before.values()) == set(endpoints)
    moved = [client for client, chosen in before.items() if choice(client, endpoints[1:]) is not chosen]
    assert moved == [client for client, chosen in before.items() if chosen is endpoints[0]]


def test_the_selector_example() -> None:
    check_selector(plugin_of("register_selectors").Fill, plugin_of("register_selectors").Fullest(), by_weight=False)


def test_the_affinity_example() -> None:
    check_affinity(lambda options, tools: make("affinity"))


def test_the_detector_example() -> None:
    module = plugin_of("register_detectors")
    check_detector(module.Consecutive, module.InARow())


async def test_the_probe_example() -> None:
    server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    (endpoint,) = make_endpoints(1, first_port=port)
    async with server:
        assert await make("probe").check(endpoint) is None
    await server.wait_closed()
    with pytest.raises(OSError, match="onnect"):
        await make("probe").check(endpoint)


async def test_the_certificate_example() -> None:
    made = make("certificates")
    watching = made.watch({})
    first = await anext(watching)
    assert [certificate.names for certificate in first] == [("example.test",)]
    assert first == made.load()
    await watching.aclose()


async def test_the_discovery_example(tmp_path: Path) -> None:
    module = plugin_of("register_discovery")
    file = tmp_path / "servers.txt"
    source = module.FromFile(module.Lines(file=str(file), interval=0.001), make_tools()).watch()
    file.write_text("http://127.0.0.1:9001\n\n")
    assert [spec.url for spec in await anext(source)] == ["http://127.0.0.1:9001"]
    file.write_text("http://127.0.0.1:9002\nunix:/run/app.sock")
    assert [spec.url for spec in await anext(source)] == ["http://127.0.0.1:9002", "unix:/run/app.sock"]
    await source.aclose()


def test_the_observer_example(capsys: pytest.CaptureFixture[str]) -> None:
    observer, exchange = make("observer"), make_exchange()
    token = observer.request_started(exchange)
    exchange.status = 499
    observer.request_ended(token, exchange, None)
    observer.endpoint_changed(make_endpoints(1)[0], "ejected")
    assert observer.by_status == {499: 1}
    assert capsys.readouterr().out == "http://127.0.0.1:9001: ejected\n"


def test_the_observer_of_the_end_alone(capsys: pytest.CaptureFixture[str]) -> None:
    """Told through the router's own parts, with a retry in it."""
    module: dict[str, Any] = {}
    exec(next(snippet for snippet in SNIPPETS if "class Stories" in snippet), module)
    observers, exchange = Observers([module["Stories"]()]), make_exchange(headers={"X-Story": "old"})
    exchange.id = "7c4a8d09ca3762af61e59520943dc264"
    heard = observers.request_started(exchange)
    assert heard is not None
    assert heard[0] is None, "no attempt is told"
    assert (exchange.added, exchange.dropped) == (b"X-Story: %b\r\n" % exchange.id.encode(), (b"x-story",))
    assert (exchange.trace_id, observers.explains(heard[1], exchange)) == (exchange.id, True)
    one, other = make_endpoints(1, 1)
    for number, endpoint in enumerate((one, other)):
        attempt = make_attempt(endpoint)
        attempt.number, attempt.started, attempt.ended_at = number, 1000.0 + number, 1000.5 + number
        attempt.final = Outcome("success" if number else "failure")
        exchange.attempts += (attempt,)
    exchange.notes = (Note(1000.75, "retry", "refused", other.identity),)
    exchange.explained = Explanation("GET http://example.test/", chosen=other.identity)
    observers.request_ended(heard[1], exchange, None)
    *told, explained = [line.removeprefix(f"{exchange.id}: ") for line in capsys.readouterr().out.splitlines()]
    assert told == [
        "http://127.0.0.1:9001 failure in 0.500 s",
        "http://127.0.0.1:9002 success in 0.500 s",
        "0.750 s retry: refused",
    ]
    assert json.loads(explained)["chosen"] == other.identity
    assert observers.muted == {}
    exchange.attempts = ()
    observers.request_ended(heard[1], exchange, None)
    assert capsys.readouterr().out == ""


def test_the_filter_example() -> None:
    made = make("filter")
    assert made.on_request(make_exchange()).status == 401
    assert made.on_request(make_exchange(headers={"X-Api-Key": "change me"})) is None


async def test_the_service_example(capsys: pytest.CaptureFixture[str]) -> None:
    async with make("service").serve(None):
        assert capsys.readouterr().out == "serving\n"
    assert capsys.readouterr().out == "done\n"


def test_the_command_example() -> None:
    registry, group = Registry(), click.Group()
    registry.add(plugin_of("register_commands"), "example")
    registry.add_commands(group)
    assert registry.broken == []
    assert CliRunner().invoke(group, ["greet", "you"]).output == "hello, you\n"
