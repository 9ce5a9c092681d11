"""Who may import whom, and how large a room may be: read from the syntax tree, said with file, line and rule."""

from __future__ import annotations

import ast
import fnmatch
import graphlib
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent


class Layer(NamedTuple):
    """Modules that import each other and every layer above; `outside`: distributions of others."""

    modules: str
    outside: str = ""
    refused: str = ""


IO = "asyncio socket ssl"
IMPURE = f"{IO} time datetime selectors threading subprocess signal secrets uuid"
READING = (
    "router.positions router.faults router.units router.config router.configf* router.configdecode router.configactions"
    " router.configroutes router.configtls router.configcheck"
)

#: In order: a module imports from its own layer and from those before it, never from one after it.
LAYERS = [
    Layer("router.errors router.endpoints router.explanation router.model", "msgspec", IO),
    Layer("router.status", "msgspec", IO),
    Layer("router.watching", "watchfiles", "socket ssl"),
    Layer(f"router.api {READING} router.options router.contracts router.corekeys", "msgspec yaml", IO),
    Layer("router.hooks router.references router.plugins router.observe", "msgspec pluggy", IO),
    Layer("router", "", IO),
    Layer(
        "router.policy router.policy.fields router.policy.normal router.policy.forwarded router.policy.targets"
        " router.policy.limits router.policy.slowstart router.policy.quantiles router.policy.adaptive"
        " router.policy.cookies",
        "",
        IMPURE,
    ),
    Layer("router.policy.plain", "msgspec", IMPURE),
    Layer("router.policy.rewriting", "", IMPURE),
    Layer(
        "router.policy.answering router.policy.routes router.policy.health router.policy.retry router.policy.headers",
        "",
        IMPURE,
    ),
    Layer("router.policy.upgrades", "", IMPURE),
    Layer("router.policy.tiers router.policy.waiting router.policy.membership", "", IMPURE),
    Layer("router.policy.actions router.policy.seating", "", IMPURE),
    Layer("router.policy.outcomes router.policy.roster", "", IMPURE),
    Layer("router.policy.judging", "", IMPURE),
    Layer("router.policy.pool", "", IMPURE),
    Layer("router.policy.split", "", IMPURE),
    Layer("router.policy.admission", "msgspec", IMPURE),
    Layer("router.policy.dispatch", "msgspec", IMPURE),
    Layer("router.policy.table", "", IMPURE),
    Layer("router.policy.destination", "", IMPURE),
    Layer("router.policy.standing", "msgspec", IMPURE),
    Layer("router.policy.explaining", "msgspec", IMPURE),
    Layer("router.prepare", "", IO),
    Layer("router.net router.net.*", "msgspec aiohttp"),
    Layer("router.securing", "cryptography"),
    Layer("router.staging", "msgspec", IO),
    Layer("router.vault"),
    Layer("router.successor"),
    Layer("router.upgrade router.listening router.lives"),
    Layer("router.serving"),
    Layer("router.statuses router.operating router.reloading", "msgspec"),
    Layer("router.app", "uvloop"),
    Layer("router.cli* router.demo router.__main__", "click rich rich_click msgspec"),
]
#: The one place of these, whatever the layer allows.
ONLY_IN = {
    "aiohttp": {"router.net.heads"},
    "pluggy": {"router.hooks", "router.plugins"},
    "yaml": {"router.positions"},
    "tomllib": {"router.positions", "router.configfile"},
}


def rank(module: str) -> int | None:
    return next((n for n, layer in enumerate(LAYERS) if matches(module, layer.modules)), None)


def matches(module: str, patterns: str) -> bool:
    return any(fnmatch.fnmatchcase(module, pattern) for pattern in patterns.split())


def imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, dotted module) of every import, those inside functions and for types alone included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, name.name) for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = "." * node.level + (node.module or "")
            whole = [f"{start}.{name.name}" for name in node.names]
            yield from ((node.lineno, name if name in CODE else start) for name in whole)


def import_faults(module: str, tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Broken import rules of one module. Modules outside `router` may use its public names alone."""
    top = module.partition(".")[0]
    public = top != "router" or matches(module, "router.testing router.testing.*")
    own = "router.testing" if module.startswith("router.testing") else top
    for line, name in imports(tree):
        first = name.partition(".")[0]
        if not first:
            yield line, "imports are absolute"
        elif public and is_of_router(name) and not matches(name, f"router router.testing {own} {own}.*"):
            yield line, f"{module} may import router and router.testing, not {name}"
        elif not public:
            yield from ((line, text) for text in core_faults(module, name))


def is_of_router(name: str) -> bool:
    return name.startswith(("router.", "router_"))


def core_faults(module: str, name: str) -> Iterator[str]:
    at = rank(module)
    if at is None:
        yield f"{module} stands in no layer: add it to LAYERS"
        return
    layer, first = LAYERS[at], name.partition(".")[0]
    if first == "router":
        to = rank(name)
        if name == "router":
            yield f"{module} imports a name from where it is defined; `router` is for plugins"
        elif to is None or to > at:
            yield f"{module} is below {name}: imports go to earlier layers only"
    elif matches(first, layer.refused):
        yield f"{module} may not import {name}: its layer has no I/O, no clock and no event loop"
    elif first not in sys.stdlib_module_names and not matches(first, layer.outside):
        yield f"{module} may not import {name}: its layer may use {layer.outside or 'nothing'} beside Python"
    if first in ONLY_IN and module not in ONLY_IN[first]:
        yield f"{first} is imported in {' and '.join(sorted(ONLY_IN[first]))} only"


def chance_faults(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """policy/ may name the class random.Random and nothing else of that module: generators are handed in."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "random":
            if node.attr != "Random":
                yield node.lineno, f"policy/ draws from the generator it was given, not from random.{node.attr}"
        elif isinstance(node, ast.ImportFrom) and node.module == "random":
            yield node.lineno, "policy/ imports random as a whole, so that its uses show"
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "random.Random" and not node.args:
            yield node.lineno, "policy/ makes no generator without a seed"


def size_faults(module: str, source: str, tree: ast.AST) -> Iterator[tuple[int, str]]:
    if len(source.splitlines()) > 300:
        yield 300, "a file has at most 300 lines"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not module.startswith("router.net."):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > 50:
                yield node.lineno, f"{node.name} has {lines} lines; a function has at most 50"


def faults(module: str, source: str) -> list[tuple[int, str]]:
    tree = ast.parse(source)
    found = [*import_faults(module, tree), *size_faults(module, source, tree)]
    if module.startswith("router.policy."):
        found += chance_faults(tree)
    return found


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[parts[0] == "plugins" :]).removesuffix(".__init__")


CODE = {module_name(p): p for folder in ("router", "plugins") for p in sorted((ROOT / folder).rglob("*.py"))}
FOLDERS = ("router", "plugins", "tests", "examples", "loadtests")
SCRIPTS = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
TEXTS = sorted(
    path
    for path in [*SCRIPTS, *(p for folder in FOLDERS for p in (ROOT / folder).rglob("*")), *ROOT.iterdir()]
    if path.suffix in (".py", ".md", ".toml", ".txt", ".lua") or path.name == "Makefile"
)


@pytest.mark.parametrize("module", CODE)
def test_imports_chance_and_size(module: str) -> None:
    path = CODE[module]
    found = faults(module, path.read_text())
    assert [f"{path.relative_to(ROOT)}:{line}: {rule}" for line, rule in found] == []


def test_there_is_no_circle_of_imports() -> None:
    graph = {m: {name for _, name in imports(without_types(p)) if name in CODE} - {m} for m, p in CODE.items()}
    graphlib.TopologicalSorter(graph).prepare()
    assert "router.errors" in graph["router.net.heads"]


def without_types(path: Path) -> ast.AST:
    """The tree without `if TYPE_CHECKING:`, whose imports never run."""
    tree = ast.parse(path.read_text())
    tree.body = [n for n in tree.body if not (isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING")]
    return tree


@pytest.mark.parametrize(
    ("module", "source", "rule"),
    [
        ("router.model", "import asyncio", "no I/O"),
        ("router.model", "from router.api import Tools", "earlier layers only"),
        ("router.policy.pool", "def f():\n    from router.policy.dispatch import Dispatch", "earlier layers only"),
        ("router.policy.pool", "from router.policy import dispatch", "earlier layers only"),
        ("router.policy.retry", "import time", "no clock"),
        ("router.policy.retry", "import msgspec", "may use nothing"),
        ("router.policy.retry", "import random\nrandom.random()", "random.random"),
        ("router.policy.retry", "from random import Random", "as a whole"),
        ("router.policy.retry", "import random\nrandom.Random()", "without a seed"),
        ("router.net.upstream", "from aiohttp import web", "router.net.heads only"),
        ("router.net.upstream", "import router.app", "earlier layers only"),
        ("router.somewhere", "import re", "in no layer"),
        ("router.plugins", "from . import hooks", "absolute"),
        ("router.demo", "from router import Endpoint", "where it is defined"),
        ("router.testing.make", "from router.model import Endpoint", "not router.model"),
        ("router_selection.draw", "from router.policy.pool import Pool", "not router.policy.pool"),
        ("router_selection.draw", "from router import net", "not router.net"),
        ("router_selection.draw", "import router_health", "not router_health"),
        ("router.app", "x = 1\n" * 301, "300 lines"),
        ("router.app", "def f():\n" + "    x = 1\n" * 50, "f has 51 lines"),
    ],
)
def test_each_rule_is_enforced(module: str, source: str, rule: str) -> None:
    assert any(rule in text for _, text in faults(module, source))


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("router.policy.retry", "import random\ndef f(rng: random.Random) -> object:\n    return random.Random(1)"),
        ("router_selection.draw", "import router\nimport router.testing\nimport router_selection.smooth\nimport numpy"),
        ("router.net.upstream", "def f():\n" + "    x = 1\n" * 60),
    ],
)
def test_what_is_allowed(module: str, source: str) -> None:
    assert faults(module, source) == []


def test_plugins_use_only_what_the_distribution_depends_on() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    known = {re.split(r"[^\w-]", text)[0].replace("-", "_") for text in declared} | sys.stdlib_module_names
    # Distributions whose module has another name.
    known |= {"dns"} if "dnspython" in known else set()
    known |= {"opentelemetry"} if "opentelemetry_sdk" in known else set()
    used = {n.partition(".")[0]: m for m, p in CODE.items() for _, n in imports(ast.parse(p.read_text()))}
    strangers = {n: m for n, m in used.items() if n not in known and not n.startswith(("router", "yaml"))}
    assert strangers == {}


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_module_starts_with_its_law(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text())), f"{path.relative_to(ROOT)}:1: a docstring comes first"


def test_tests_examples_and_loadtests_are_no_packages() -> None:
    """But for the packages of examples that are distributions of their own."""
    found = [
        p for p in SCRIPTS if p.name == "__init__.py" and p.relative_to(ROOT).parts[0] not in ("router", "plugins")
    ]
    assert [p for p in found if not (p.parent.parent / "pyproject.toml").exists() or p.parent.parent == ROOT] == []


#: Written with brackets so that this file does not break its own rule.
WORDS = {
    r"\b(TO[D]O|FIX[M]E|NotImplemented[E]rror)\b": "what is here is finished",
    r"py[p]i\.|python[h]osted|np[m]js|docke[r]\.io|ghc[r]\.io": "no names of registries",
    r"(?<![\w.])/(wor[k]|roo[t]|hom[e]|tm[p])/": "no paths of one machine",
}


def test_no_text_holds_what_belongs_elsewhere() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}: {rule}: {line.strip()[:80]}"
        for path in set(TEXTS)
        for number, line in enumerate(path.read_text().splitlines(), 1)
        for word, rule in WORDS.items()
        if re.search(word, line)
    ]
    assert len(TEXTS) > 100
    assert found == []
