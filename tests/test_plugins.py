"""Plugins are found as installed distributions; each fault is told by name and stops nobody else."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest

import router
from router.plugins import CONCERNS, PluginFault, Registry

BUNDLED = ["least_request", "random", "round_robin"]

GOOD = """
import router

class Options(router.Options, frozen=True):
    share: router.Share = router.Share(0.1)

class Picky:
    def __init__(self, options, tools):
        self.options = options
    def choose(self, candidates, exchange):
        return candidates[0]

@router.hookimpl
def register_selectors(register):
    register("picky", Picky, Options)
"""

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Installs a distribution of one module that stands as entry point `plugin`."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(tmp_path))

    def install(distribution: str, source: str, plugin: str = "mine", version: str = "1.2") -> None:
        module = distribution.replace("-", "_")
        (tmp_path / f"{module}.py").write_text(source)
        info = tmp_path / f"{module}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(f"[router.plugins]\n{plugin} = {module}\n")

    yield install
    for name in set(sys.modules) - before:
        del sys.modules[name]


def plugin(source: str) -> types.ModuleType:
    module = types.ModuleType("planted")
    exec(compile(source, "planted", "exec", dont_inherit=True), module.__dict__)
    return module


def fault_of(source: str) -> PluginFault:
    with pytest.raises(PluginFault) as caught:
        Registry().add(plugin(source), "planted", "dist", "1")
    return caught.value


def test_bundled_selectors_come_through_the_entry_point() -> None:
    registry = Registry.load(strict=True)
    assert [entry.name for entry in registry.entries if entry.concern == "selection"] == BUNDLED
    entry = registry.resolve("selection", "random", None).entry
    assert (entry.distribution, entry.version, entry.plugin) == ("edge-router", router.__version__, "selection")


def test_every_concern_has_its_hook() -> None:
    specs = {name for name in dir(router.hooks.HookSpecs) if name.startswith("register_")}  # type: ignore[attr-defined]
    assert {*CONCERNS.values(), "register_commands"} == specs


def test_an_installed_distribution_is_found(install: Install) -> None:
    install("router-picky", GOOD)
    registry = Registry.load()
    assert registry.broken == []
    assert registry.names("selection") == sorted([*BUNDLED, "picky"])
    resolved = registry.resolve("selection", {"use": "picky", "share": "25%"}, None)
    assert (resolved.entry.distribution, resolved.entry.version) == ("router-picky", "1.2")
    made = resolved.make(router.Tools(lambda: 0.0, None))  # type: ignore[arg-type]
    assert made.options.share == 0.25
    assert registry.describe(resolved.entry) == [("share", "share", '"10%"')]


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("import no_such_module_here", ["importing", "no_such_module_here"]),
        ("raise SystemExit(3)", ["importing", "SystemExit"]),
        ("def (", ["importing", "SyntaxError"]),
    ],
)
def test_a_broken_import_stops_nobody(install: Install, source: str, words: list[str]) -> None:
    install("router-bad", source, plugin="bad")
    install("router-picky", GOOD)
    registry = Registry.load()
    (broken,) = registry.broken
    assert (broken.plugin, broken.distribution) == ("bad", "router-bad")
    assert all(word in broken.reason for word in words)
    assert registry.names("selection") == sorted([*BUNDLED, "picky"])
    with pytest.raises(PluginFault, match='"bad" of router-bad is broken'):
        Registry.load(strict=True)
    with pytest.raises(PluginFault, match='broken plugins: "bad" of router-bad'):
        registry.resolve("selection", "nothing", None)


HOOK = "import router\n@router.hookimpl\ndef register_selectors(register):\n    "


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (
            "import router\n@router.hookimpl\ndef register_selector(register): ...",
            ["register_selector'", 'did you mean "register_selectors"?'],
        ),
        ("import router\n@router.hookimpl\ndef register_selectors(registry): ...", ["register_selectors", "registry"]),
        ("x = 1", ["implements no hook", "hookimpl"]),
        (HOOK + "register('a', 1)", ["register_selectors", '"a"', "not callable"]),
        (HOOK + "register('a', dict, dict)", ["register_selectors", '"a"', "router.Options", "dict"]),
        (HOOK + "register('a', dict, router.Options())", ["register_selectors", '"a"', "router.Options"]),
        (
            "import router\nclass O(router.Options, frozen=True):\n    a: 'Missing' = 1\n"
            + HOOK
            + "register('a', dict, O)",
            ["register_selectors", '"a"', "Missing"],
        ),
        (
            "import router\nclass O(router.Options, frozen=True):\n    a: router.Size | router.Share = 1\n"
            + HOOK
            + "register('a', dict, O)",
            ["register_selectors", '"a"', "TypeError"],
        ),
        (HOOK + "register('A-b', dict)", ["register_selectors", "'A-b'", "a-z, 0-9 and _"]),
        (HOOK + "register(3, dict)", ["register_selectors", "3"]),
        (HOOK + "register('a', dict); register('a', dict)", ["register_selectors", '"a"', "twice"]),
        (HOOK + "register('a')", ["register_selectors", "TypeError", "factory"]),
        (HOOK + "1 / 0", ["register_selectors", "ZeroDivisionError"]),
        (HOOK + "return ['a']", ["register_selectors", "list", "returns nothing"]),
        ("import router\n@router.hookimpl\nasync def register_probes(register): ...", ["register_probes", "coroutine"]),
    ],
)
def test_a_wrong_hook_is_told_by_name(source: str, words: list[str]) -> None:
    text = str(fault_of(source))
    assert [word for word in words if word not in text] == [], text


def test_a_plugin_whose_attributes_raise() -> None:
    class Plugin:
        @property
        def __call__(self) -> None:
            raise RuntimeError("no")

        def __dir__(self) -> list[str]:
            raise RuntimeError("dir is broken")

    with pytest.raises(PluginFault, match="dir is broken"):
        Registry().add(Plugin(), "planted")


def test_a_faulty_plugin_registers_nothing_at_all() -> None:
    registry = Registry()
    with pytest.raises(PluginFault):
        registry.add(plugin(HOOK + "register('a', dict); register('b', 1)"), "half")
    assert registry.entries == []
    registry.add(plugin(HOOK + "register('a', dict)"), "whole")
    assert registry.names("selection") == ["a"]


def test_a_name_that_is_taken_names_both_distributions(install: Install) -> None:
    install("acme-lb", GOOD.replace('"picky"', '"random"'), plugin="acme")
    registry = Registry.load()
    (broken,) = registry.broken
    assert "edge-router" in broken.reason
    assert "acme-lb" in broken.reason
    assert 'selection "random"' in broken.reason
    assert registry.resolve("selection", "random", None).entry.distribution == "edge-router"


def test_the_same_name_in_two_concerns_is_no_clash() -> None:
    registry = Registry()
    registry.add(plugin(HOOK + "register('cookie', dict)"), "one")
    registry.add(plugin(HOOK.replace("selectors", "affinities") + "register('cookie', dict)"), "two")
    assert [(entry.concern, entry.name) for entry in registry.entries] == [
        ("selection", "cookie"),
        ("affinity", "cookie"),
    ]


@pytest.mark.parametrize("name", ["mine", "router-picky", "Router_Picky"])
def test_disable_names_a_plugin_or_a_distribution(install: Install, name: str) -> None:
    install("router-picky", GOOD)
    assert Registry.load(disable=[name]).names("selection") == BUNDLED


def test_disabled_plugins_are_not_imported(install: Install) -> None:
    install("router-bad", "raise SystemExit(3)", plugin="bad")
    assert Registry.load(disable=["bad"], strict=True).broken == []


def test_disabling_what_is_not_installed_is_a_fault() -> None:
    with pytest.raises(PluginFault) as caught:
        Registry.load(disable=["selection", "edge-ruter"])
    assert caught.value.key == ("disable", 1)
    assert caught.value.hint == 'did you mean "edge-router"?'


def test_an_unknown_name_lists_the_known_ones() -> None:
    registry = Registry.load()
    with pytest.raises(PluginFault) as caught:
        registry.resolve("selection", {"use": "least_reqest"}, None)
    assert caught.value.key == ("use",)
    assert caught.value.hint == 'did you mean "least_request"?'
    assert "least_request, random, round_robin" in caught.value.message
    with pytest.raises(PluginFault, match="none is installed") as caught:
        Registry().resolve("probe", "http", None)
    assert caught.value.key == ()


def test_options_may_be_required() -> None:
    registry = Registry()
    source = "import router\nclass O(router.Options, frozen=True):\n    header: str\n" + HOOK + "register('a', dict, O)"
    registry.add(plugin(source), "needy")
    (entry,) = registry.entries
    assert registry.describe(entry) == [("header", "str", "required")]
    with pytest.raises(PluginFault, match='selection "a" needs "header"'):
        registry.resolve("selection", "a", None)


def test_a_plugin_object_may_stand_in_for_a_module() -> None:
    class Plugin:
        @router.hookimpl
        def register_selectors(self, register: router.Register) -> None:
            register("bound", dict)

    registry = Registry()
    registry.add(Plugin(), "object")
    assert registry.names("selection") == ["bound"]


COMMANDS = """
import click, router
@router.hookimpl
def register_commands(group):
    @group.command()
    def hello():
        click.echo("hi")
"""


def test_commands_are_added_and_a_failing_one_is_broken() -> None:
    registry = Registry()
    registry.add(plugin(COMMANDS), "greeter", "router-greeter")
    registry.add(
        plugin("import router\n@router.hookimpl\ndef register_commands(group): group.nope()"), "bad", "router-bad"
    )
    group = click.Group()
    registry.add_commands(group)
    assert list(group.commands) == ["hello"]
    (broken,) = registry.broken
    assert (broken.plugin, broken.distribution) == ("bad", "router-bad")
    assert "register_commands" in broken.reason
