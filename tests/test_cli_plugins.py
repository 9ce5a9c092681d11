"""`router plugins` and the commands that plugins add, with a plugin installed for the test alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SOUND = """
import rich_click as click
import router


class Options(router.Options):
    depth: int = 3
    wait: router.Duration = router.Duration(0.25)


class Nearest:
    def __init__(self, options, tools): ...

    def choose(self, candidates, exchange):
        return candidates[0]


@router.hookimpl
def register_selectors(register):
    register("nearest", Nearest, Options)


@router.hookimpl
def register_commands(group):
    @group.command()
    def greet():
        "Say hello."
        click.echo("hello from a plugin")
"""

GREEDY = """
import router


@router.hookimpl
def register_commands(group):
    @group.command()
    def check():
        "Take the place of another."
"""

FAILING = "raise RuntimeError('out of order')"


def install(folder: Path, name: str, source: str) -> None:
    """Makes a distribution `router-<name>` with one entry point, importable from the folder."""
    (folder / f"router_{name}.py").write_text(source)
    described = folder / f"router_{name}-2.5.dist-info"
    described.mkdir()
    (described / "METADATA").write_text(f"Metadata-Version: 2.1\nName: router-{name}\nVersion: 2.5\n")
    (described / "entry_points.txt").write_text(f"[router.plugins]\n{name} = router_{name}\n")


def run(folder: Path, *arguments: str, **extra: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "router", *arguments],
        env=os.environ | {"PYTHONPATH": str(folder)} | extra,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=50,
    )


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    install(tmp_path, "sound", SOUND)
    return tmp_path


def test_bundled_plugins_are_listed_with_kind_name_distribution_and_version(tmp_path: Path) -> None:
    lines = [line.split()[:3] for line in run(tmp_path, "plugins").stdout.splitlines()]
    for name in ("least_request", "random", "round_robin"):
        assert ["selection", name, "edge-router"] in lines


def test_options_are_listed_with_types_and_defaults(installed: Path) -> None:
    result = run(installed, "plugins")
    assert result.returncode == 0
    assert "depth: int = 3" in result.stdout
    assert 'wait: duration = "250ms"' in result.stdout
    (row,) = (line for line in result.stdout.splitlines() if "nearest" in line)
    assert row.split()[:4] == ["selection", "nearest", "router-sound", "2.5"]


def test_the_list_as_json_says_the_same(installed: Path) -> None:
    install(installed, "failing", FAILING)
    result = json.loads(run(installed, "plugins", "--json").stdout)
    (nearest,) = (plugin for plugin in result["plugins"] if plugin["name"] == "nearest")
    assert nearest == {
        "kind": "selection",
        "name": "nearest",
        "plugin": "sound",
        "distribution": "router-sound",
        "version": "2.5",
        "options": [
            {"name": "depth", "type": "int", "default": "3"},
            {"name": "wait", "type": "duration", "default": '"250ms"'},
        ],
    }
    (broken,) = result["broken"]
    assert (broken["plugin"], broken["distribution"]) == ("failing", "router-failing")
    assert "out of order" in broken["reason"]


def test_a_broken_plugin_is_one_line_and_no_failure(tmp_path: Path) -> None:
    install(tmp_path, "failing", FAILING)
    result = run(tmp_path, "plugins")
    assert result.returncode == 0
    (line,) = (line for line in result.stdout.splitlines() if "failing" in line)
    assert "router-failing" in line
    assert "RuntimeError: out of order" in line
    assert "Traceback" not in result.stdout + result.stderr
    assert "round_robin" in result.stdout


def test_versions_name_plugins_of_others(installed: Path) -> None:
    lines = [line.split() for line in run(installed, "version").stdout.splitlines()]
    assert ["plugin", "sound", "2.5", "(router-sound)"] in lines


def test_a_plugin_adds_a_command_that_help_lists(installed: Path) -> None:
    assert run(installed, "greet").stdout == "hello from a plugin\n"
    assert "Say hello." in run(installed, "--help").stdout
    assert "did you mean 'greet'?" in run(installed, "gret").stderr


def test_a_plugin_cannot_replace_a_command(tmp_path: Path) -> None:
    install(tmp_path, "greedy", GREEDY)
    result = run(tmp_path, "--help")
    assert result.returncode == 0
    assert "there is a command 'check' already" in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert "Take the place" not in run(tmp_path, "check", "--help").stdout


def test_a_broken_plugin_does_not_disturb_the_other_commands(tmp_path: Path) -> None:
    install(tmp_path, "failing", FAILING)
    result = run(tmp_path, "completion", "fish")
    assert (result.returncode, result.stderr) == (0, "")
    asked = run(tmp_path, "no-such-command")
    assert asked.returncode == 2
    assert "plugin 'failing' of router-failing is broken" in asked.stderr


def test_completion_stays_silent_about_broken_plugins(tmp_path: Path) -> None:
    install(tmp_path, "failing", FAILING)
    completed = run(tmp_path, _ROUTER_COMPLETE="bash_complete", COMP_WORDS="router ver", COMP_CWORD="1")
    assert (completed.stdout, completed.stderr) == ("plain,version\n", "")
