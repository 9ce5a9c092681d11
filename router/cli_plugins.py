"""What the command line knows of plugins: the list, the versions, and the subcommands that they add.

A broken plugin is a line here, never a traceback, and never the end of a command that does not need it.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Container
from importlib import metadata
from typing import Any

import rich_click as click
from rich_click import RichGroup

from router.cli_output import print_json, print_table, say, table
from router.plugins import Broken, Registry

__all__ = ["plugin_commands", "show_plugins", "show_versions"]


class _Offered(RichGroup):
    """Collects the commands of plugins and refuses a name that is taken."""

    def __init__(self, taken: Container[str]) -> None:
        super().__init__()
        self._taken = taken

    def add_command(self, cmd: click.Command, name: str | None = None, *panels: Any, **more: Any) -> None:
        wanted = name or cmd.name or ""
        if wanted in self._taken or wanted in self.commands:
            raise ValueError(f"there is a command {wanted!r} already")
        super().add_command(cmd, wanted, *panels, **more)


def plugin_commands(taken: Container[str]) -> click.Group:
    """A group of all commands that plugins add; says on stderr which plugins are broken.

    Args:
        taken: names of the router's own commands, which no plugin can replace.
    """
    registry, offered = _load(taken)
    if "_ROUTER_COMPLETE" not in os.environ:
        for broken in registry.broken:
            say(f"router: {_reason(broken)}")
    return offered


def show_plugins(as_json: bool, taken: Container[str]) -> None:
    """Prints every plugin by kind and name, and the broken ones."""
    registry, _ = _load(taken)
    if as_json:
        print_json({"plugins": _offers(registry), "broken": registry.broken})
        return
    shown = table("kind", "name", "distribution", "version", "options")
    for entry in registry.entries:
        options = "\n".join(f"{name}: {kind} = {default}" for name, kind, default in registry.describe(entry))
        shown.add_row(entry.concern, entry.name, entry.distribution, entry.version, options or "none")
    print_table(shown)
    for broken in registry.broken:
        print(_reason(broken))


def show_versions() -> None:
    """Prints the versions of what answers requests here, and of the plugins."""
    versions = {"router": _version("edge-router"), "Python": platform.python_version()}
    versions |= {name: _version(name) for name in ("aiohttp", "uvloop")}
    registry = Registry.load()
    for entry in registry.entries:
        versions[f"plugin {entry.plugin}"] = f"{entry.version} ({entry.distribution})"
    versions |= {f"plugin {broken.plugin}": f"broken ({broken.distribution})" for broken in registry.broken}
    width = max(map(len, versions))
    for name, version in versions.items():
        print(f"{name:<{width}}  {version}")


def _load(taken: Container[str]) -> tuple[Registry, click.Group]:
    registry = Registry.load()
    offered = _Offered(taken)
    registry.add_commands(offered)
    return registry, offered


def _offers(registry: Registry) -> list[dict[str, object]]:
    return [
        {
            "kind": entry.concern,
            "name": entry.name,
            "plugin": entry.plugin,
            "distribution": entry.distribution,
            "version": entry.version,
            "options": [
                {"name": name, "type": kind, "default": default} for name, kind, default in registry.describe(entry)
            ],
        }
        for entry in registry.entries
    ]


def _reason(broken: Broken) -> str:
    source = f" of {broken.distribution}" if broken.distribution else ""
    return f"plugin {broken.plugin!r}{source} is broken: {' '.join(broken.reason.split())}"


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "not installed"
