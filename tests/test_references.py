"""A reference is a name, a table or a class on the path; what it makes is checked before it serves."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from router import Duration
from router.plugins import PluginFault, Registry, Resolved
from router.testing import make_tools

FEWEST = """
import router

class Fewest:
    class Options(router.Options, frozen=True):
        tau: router.Duration = router.Duration(1)

    def __init__(self, options, tools):
        self.options = options
        self.tools = tools

    def choose(self, candidates, exchange):
        return min(candidates, key=lambda endpoint: endpoint.load)

class Bare:
    def choose(self, candidates, exchange):
        return candidates[0]

class Child(Bare):
    pass

class Typed(router.Selector):
    def choose(self, candidates, exchange):
        return candidates[0]

class Fails:
    def __init__(self, options, tools):
        raise ValueError("needs two servers")

class Wrong:
    def choose(self, candidates):
        return candidates[0]

class Greedy:
    def choose(self, candidates, exchange, clock):
        return candidates[0]

class Late:
    async def choose(self, candidates, exchange):
        return candidates[0]

class Nothing:
    pass

class BadUpdate(Bare):
    def update(self):
        pass

class BadOptions(Bare):
    class Options:
        pass

def build(options, tools):
    return Bare()

number = 3
"""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    before, path = set(sys.modules), list(sys.path)
    (tmp_path / "my_strategy_here.py").write_text(FEWEST)
    yield tmp_path
    sys.path[:] = path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def resolve(name: str, folder: Path | None, **options: Any) -> Resolved:
    ref = {"use": f"my_strategy_here:{name}", **options}
    return Registry().resolve("selection", ref, folder)


def fault(ref: Any, folder: Path | None = None) -> PluginFault:
    with pytest.raises(PluginFault) as caught:
        Registry().resolve("selection", ref, folder)
    return caught.value


def test_a_class_beside_the_file_needs_no_packaging(folder: Path) -> None:
    resolved = resolve("Fewest", folder, tau="5s")
    tools = make_tools()
    made = resolved.make(tools)
    assert made.options.tau == Duration(5)
    assert made.tools is tools
    assert (resolved.entry.plugin, resolved.entry.distribution) == ("my_strategy_here", "")
    assert Registry().describe(resolved.entry) == [("tau", "duration", '"1s"')]


@pytest.mark.parametrize("name", ["Bare", "Child", "Typed", "build"])
def test_without_an_init_the_class_is_called_with_nothing(folder: Path, name: str) -> None:
    resolved = resolve(name, folder)
    for made in (resolved.make(make_tools()), resolved.make(make_tools())):
        assert made.choose(["only"], None) == "only"


def test_a_bare_string_names_a_class_too(folder: Path) -> None:
    assert Registry().resolve("selection", "my_strategy_here:Bare", folder).entry.name == "my_strategy_here:Bare"
    assert fault("my_strategy_here:Bear", folder).key == ()


def test_the_folder_is_first_for_the_import_and_last_afterwards(folder: Path) -> None:
    resolve("Bare", folder)
    resolve("Fewest", folder)
    assert sys.path.count(str(folder.resolve())) == 1
    assert sys.path[-1] == str(folder.resolve())


@pytest.mark.parametrize(
    ("use", "words", "hint"),
    [
        ("my_strategy_hear:Bare", 'no module "my_strategy_hear"', 'did you mean "my_strategy_here"?'),
        ("my_strategy_here:Bear", 'no class "Bear"', 'did you mean "Bare"?'),
        ("my_strategy_here:number", 'no class "number"', ""),
        ("my_strategy_here:", "package.module:Name", ""),
        (":Bare", "package.module:Name", ""),
        ("../my_strategy_here:Bare", "package.module:Name", ""),
        ("my_strategy_here:BadOptions", "router.Options", ""),
    ],
)
def test_what_is_not_there(folder: Path, use: str, words: str, hint: str) -> None:
    found = fault({"use": use}, folder)
    assert words in found.message
    assert (found.hint, found.key) == (hint, ("use",))


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("x = 1\n1 / 0\n", ["ZeroDivisionError", "broken_here.py:2"]),
        ("def (\n", ["SyntaxError", "line 1"]),
        ("import no_such_module_here\n", ["no_such_module_here", "broken_here.py:1"]),
        ("raise SystemExit\n", ["SystemExit"]),
    ],
)
def test_an_import_that_fails_says_where(folder: Path, source: str, words: list[str]) -> None:
    (folder / "broken_here.py").write_text(source)
    text = str(fault("broken_here:Bare", folder))
    assert 'importing "broken_here" failed' in text
    assert [word for word in words if word not in text] == []


def test_without_a_folder_the_path_is_searched() -> None:
    assert "no module" in fault("my_strategy_here:Bare").message
    made = Registry().resolve("selection", "router_selection.round_robin:RoundRobin", None).make(make_tools())
    assert callable(made.choose)


@pytest.mark.parametrize(
    ("ref", "words", "key"),
    [
        ({}, '{ use = "name" }', ()),
        ({"name": "random"}, 'did you mean "use"?', ()),
        ({"use": 3}, "not 3", ("use",)),
        ("", 'no selection ""', ()),
    ],
)
def test_a_reference_without_a_name(ref: Any, words: str, key: tuple[str, ...]) -> None:
    found = fault(ref)
    assert words in str(found)
    assert found.key == key


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Fails", "could not be made: needs two servers"),
        (
            "Wrong",
            "Wrong.choose cannot be called as `def choose(candidates: Candidates, exchange: Exchange) -> Endpoint`",
        ),
        ("Greedy", "missing a required argument: 'clock'"),
        ("Late", "must not be async"),
        ("Nothing", "has no method choose; it needs `def choose("),
        ("BadUpdate", "BadUpdate.update cannot be called as `def update(endpoints: Sequence[Endpoint]) -> None`"),
    ],
)
def test_what_it_makes_is_checked(folder: Path, name: str, words: str) -> None:
    with pytest.raises(PluginFault) as caught:
        resolve(name, folder).make(make_tools())
    assert words in caught.value.message
    assert f'selection "my_strategy_here:{name}"' in caught.value.message


def test_a_fault_of_a_packaged_plugin_names_its_distribution() -> None:
    registry = Registry.load()
    resolved = registry.resolve("selection", "random", None)
    with pytest.raises(PluginFault, match=r'of edge-router \(plugin "selection"\) could not be made: AttributeError'):
        resolved.make(None)  # type: ignore[arg-type]


def test_the_key_tells_whether_a_reload_keeps_the_object(folder: Path) -> None:
    keys = [
        resolve("Fewest", folder).key,
        resolve("Fewest", folder, tau="1s").key,
        resolve("Fewest", folder, tau="1000ms").key,
        resolve("Fewest", folder, tau="2s").key,
        resolve("Bare", folder).key,
    ]
    assert keys[0] == keys[1] == keys[2]
    assert len(set(keys)) == 3
