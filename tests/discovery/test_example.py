"""The example of discovery is true: its configuration runs, its snippets are sound, its links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from router.configfile import parse
from router.plugins import Registry
from router.prepare import prepare

EXAMPLE = Path(__file__).parent.parent.parent / "examples" / "discovery"
PAGE = (EXAMPLE / "README.md").read_text()
SNIPPETS = re.findall(r"^```toml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
REST = '[[listeners]]\nbind = "127.0.0.1:8080"\n[[routes]]\npool = "web"\n'


def test_they_come_through_the_entry_point() -> None:
    entries = Registry.load(strict=True).entries
    assert [entry.name for entry in entries if entry.concern == "discovery"] == ["dns", "file", "http"]


@pytest.mark.parametrize("snippet", SNIPPETS)
def test_a_snippet_is_sound(snippet: str, tmp_path: Path) -> None:
    config, source = parse(REST + snippet, "README.md", "toml", tmp_path, {})
    prepare(config, source, tmp_path)
    assert isinstance(config.pools[0].discovery, dict)


def test_all_kinds_are_shown() -> None:
    assert {use for snippet in SNIPPETS for use in re.findall(r'use = "(\w+)"', snippet)} == {"dns", "http"}
    for path in re.findall(r"\]\(([\w./]+)", PAGE):
        assert (EXAMPLE / path).exists(), path


async def test_the_example_finds_the_servers_of_its_file(bench: Any) -> None:
    config, _ = parse((EXAMPLE / "router.toml").read_text(), "router.toml", "toml", EXAMPLE, {})
    bench.folder = EXAMPLE
    async with bench.following(**config.pools[0].discovery) as follower:
        await follower.yields("http://127.0.0.1:9002")
        assert follower.sets[0][0].weight == 2
