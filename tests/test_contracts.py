"""The published laws hold for every registered name, and what a Protocol asks for is asked of every object."""

from __future__ import annotations

import inspect
from functools import partial
from typing import Any

import pytest

from router import Endpoint, Exchange, Filter, Probe, api
from router.contracts import contract_fault, contracts, methods, signature_text
from router.plugins import CONCERNS, Entry, Registry
from router.testing import check_affinity, check_detector, check_selector, make_tools

ENTRIES = Registry.load(strict=True).entries


LAWS = {
    "selection": partial(check_selector, tolerance=0.03),
    "affinity": check_affinity,
    "detector": check_detector,
}


#: Options that have no default.
NEEDED: dict[str, dict[str, Any]] = {
    "command": {"command": ["true"]},
    "dns": {"name": "web.internal", "port": 80},
    "file": {"path": "servers.txt"},
    "http": {"url": "http://127.0.0.1:1/"},
    "app_cookie": {"name": "session"},
    "header": {"name": "X-Key"},
    "query": {"name": "user"},
    "files": {"paths": ["tls"]},
    "acme": {"directory": "https://127.0.0.1:1/", "names": ["a.test"], "agree_tos": True},
}


def test_there_is_something_to_check() -> None:
    assert {"least_request", "random", "round_robin"} <= {entry.name for entry in ENTRIES}


@pytest.mark.parametrize("entry", [entry for entry in ENTRIES if entry.concern in LAWS], ids=str)
def test_the_published_laws_hold(entry: Entry) -> None:
    needed = NEEDED.get(entry.name, {}) if entry.concern == "affinity" else {}
    LAWS[entry.concern](entry.factory, entry.options(**needed))


@pytest.mark.parametrize("entry", ENTRIES, ids=str)
def test_every_bundled_object_fits_its_protocol(entry: Entry) -> None:
    registry = Registry.load(strict=True)
    needed = {} if (entry.concern, entry.name) == ("probe", "http") else NEEDED.get(entry.name, {})
    ref = {"use": entry.name, **needed}
    made = registry.resolve(entry.concern, ref, None).make(make_tools())
    assert isinstance(made, contracts()[entry.concern][0])


def test_each_concern_has_a_protocol_of_the_api() -> None:
    assert list(contracts()) == list(CONCERNS)
    for protocol, _ in contracts().values():
        assert getattr(api, protocol.__name__) is protocol
        assert methods(protocol)


@pytest.mark.parametrize("concern", CONCERNS)
def test_an_object_without_methods_is_refused(concern: str) -> None:
    first = next(iter(methods(contracts()[concern][0])))
    assert contract_fault(concern, object()).startswith(f"object has no method {first}; it needs `")


def test_signatures_read_like_documentation() -> None:
    assert signature_text(Probe.check) == "async def check(endpoint: Endpoint) -> None"
    assert signature_text(inspect.getattr_static(api.EndpointSource, "watch")) == (
        "def watch() -> AsyncIterator[Sequence[EndpointSpec]]"
    )


def test_a_filter_may_wait_or_not() -> None:
    class Sync:
        def on_request(self, exchange: Exchange) -> None: ...

        def on_response(self, exchange: Exchange, headers: list[tuple[bytes, bytes]]) -> None: ...

    class Async(Sync):
        async def on_request(self, exchange: Exchange) -> None:  # type: ignore[override]
            ...

    class Wrong(Sync):
        async def on_response(self, exchange: Exchange, headers: list[tuple[bytes, bytes]]) -> None:  # type: ignore[override]
            ...

    assert contract_fault("filter", Sync()) == ""
    assert contract_fault("filter", Async()) == ""
    assert "on_response must not be async" in contract_fault("filter", Wrong())
    assert isinstance(Sync(), Filter)


def test_more_parameters_are_fine_with_defaults() -> None:
    class Wide:
        async def check(self, endpoint: Endpoint, path: str = "/") -> None: ...

    class Loose:
        async def check(self, *anything: object, **more: object) -> None: ...

    assert contract_fault("probe", Wide()) == ""
    assert contract_fault("probe", Loose()) == ""


def test_a_builtin_without_a_signature_passes() -> None:
    class Odd:
        check = type  # a callable whose signature Python does not tell

    assert contract_fault("probe", Odd()) == ""


def test_optional_methods_are_checked_when_present() -> None:
    class Observing:
        def observe(self, endpoint: object, outcome: object, now: float) -> None: ...

        forget = None

    class Forgetting(Observing):
        def forget(self) -> None:  # type: ignore[assignment]
            ...

    class Closing(Observing):
        def close(self, why: str) -> None: ...

    assert contract_fault("detector", Observing()) == ""
    assert "`def forget(endpoint: Endpoint) -> None`" in contract_fault("detector", Forgetting())
    assert "`async def close() -> None`" in contract_fault("detector", Closing())
