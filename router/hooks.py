"""The hooks: how a plugin says what it offers. Called at start and at reload, never while a request is served.

Every hook but the last has one argument, `register`, and calls it as `register("name", factory, OptionsStruct)`. A
factory is called as `factory(options, tools)` and returns an object that implements the concern's Protocol (api.py).
"""

from __future__ import annotations

from typing import Any

import pluggy

from router.api import Register

__all__ = ["PROJECT", "HookSpecs", "hookimpl"]

PROJECT = "router"

hookspec = pluggy.HookspecMarker(PROJECT)
#: Marks a function of a plugin as the implementation of the hook of the same name.
hookimpl = pluggy.HookimplMarker(PROJECT)


class HookSpecs:
    """One method per concern; the docstring says when the core uses what is registered."""

    @hookspec
    def register_selectors(self, register: Register) -> None:
        """Selection, one per pool: `choose(candidates, exchange)` is called once per attempt."""

    @hookspec
    def register_affinities(self, register: Register) -> None:
        """Affinity, one per pool: `find` is called before selection, `remember` when a response head is passed on."""

    @hookspec
    def register_probes(self, register: Register) -> None:
        """Active health, one per pool: `check(endpoint)` runs on the pool's interval; the core counts rise and fall."""

    @hookspec
    def register_detectors(self, register: Register) -> None:
        """Passive health, several per pool: `observe` is called when a lease closes."""

    @hookspec
    def register_certificates(self, register: Register) -> None:
        """TLS, several per listener: `watch(challenges)` yields complete sets of certificates."""

    @hookspec
    def register_discovery(self, register: Register) -> None:
        """Discovery, one per pool: `watch()` yields complete sets of endpoints."""

    @hookspec
    def register_observers(self, register: Register) -> None:
        """Tracing, metrics and logs, per process: told of each step, unable to change it."""

    @hookspec
    def register_filters(self, register: Register) -> None:
        """Requests, per route that names it: may answer, and may change the response's headers."""

    @hookspec
    def register_services(self, register: Register) -> None:
        """Admin pages and exporters, per process: an async context manager around serving."""

    @hookspec
    def register_commands(self, group: Any) -> None:
        """Command line: adds subcommands to the click group."""
