"""What an object of each concern must look like: its Protocol of api.py, and the optional methods beside it.

Asked once, when a plugin object is made, so that a missing or wrong method is said at start and not at a request.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from router.api import (
    Affinity,
    CertificateSource,
    Control,
    Detector,
    EndpointSource,
    Filter,
    Observer,
    Probe,
    Selector,
    Service,
)
from router.model import Candidates, Endpoint, Exchange

__all__ = ["LifeCycle", "OptionalDetector", "OptionalSelector", "contract_fault", "contracts", "signature_text"]


class LifeCycle:
    """Optional for every plugin object: `start` before it is first used, `close` after its last exchange."""

    async def start(self, control: Control) -> None: ...

    async def close(self) -> None: ...


class OptionalSelector:
    """What a selector may have besides `choose`."""

    def update(self, endpoints: Sequence[Endpoint]) -> None: ...

    def key(self, exchange: Exchange) -> int | None: ...

    def scores(  # type: ignore[empty-body]
        self, candidates: Candidates, exchange: Exchange, limit: int
    ) -> Sequence[tuple[Endpoint, float]]: ...


class OptionalDetector:
    """What a detector may have besides `observe`."""

    def tick(self, endpoints: Sequence[Endpoint], now: float) -> None: ...

    def forget(self, endpoint: Endpoint) -> None: ...


class OptionalObserver:
    """What an observer may have besides the methods that tell it something."""

    def explain(self, token: Any) -> bool: ...  # type: ignore[empty-body]


#: Concern -> its Protocol and the classes that show its optional methods.
_CONTRACTS: dict[str, tuple[type[Any], tuple[type[Any], ...]]] = {
    "selection": (Selector, (OptionalSelector, LifeCycle)),
    "affinity": (Affinity, (LifeCycle,)),
    "probe": (Probe, (LifeCycle,)),
    "detector": (Detector, (OptionalDetector, LifeCycle)),
    "certificates": (CertificateSource, (LifeCycle,)),
    "discovery": (EndpointSource, (LifeCycle,)),
    "observer": (Observer, (OptionalObserver, LifeCycle)),
    "filter": (Filter, (LifeCycle,)),
    "service": (Service, (LifeCycle,)),
}


def contracts() -> dict[str, tuple[type[Any], tuple[type[Any], ...]]]:
    """Concern -> (Protocol, classes that show its optional methods)."""
    return dict(_CONTRACTS)


def methods(contract: type[Any]) -> dict[str, Any]:
    """The public methods that a Protocol, or a class of optional ones, declares itself."""
    return {n: f for n, f in vars(contract).items() if inspect.isfunction(f) and not n.startswith("_")}


def signature_text(method: Any) -> str:
    """A method's signature as documentation shows it: no `self`, `async` in front where it is one."""
    signature = inspect.signature(method)
    parameters = [p for p in signature.parameters.values() if p.name != "self"]
    text = str(signature.replace(parameters=parameters)).replace("'", "")
    return f"{'async ' if inspect.iscoroutinefunction(method) else ''}def {method.__name__}{text}"


def contract_fault(concern: str, made: object) -> str:
    """One sentence about the first method of `made` that does not fit its concern, or ""."""
    required, optional = _CONTRACTS[concern]
    for name, declared in methods(required).items():
        fault = _method_fault(made, name, declared)
        if fault:
            return fault
    for contract in optional:
        for name, declared in methods(contract).items():
            fault = _method_fault(made, name, declared) if getattr(made, name, None) is not None else ""
            if fault:
                return fault
    return ""


def _method_fault(made: object, name: str, declared: Any) -> str:
    method = getattr(made, name, None)
    right = signature_text(declared)
    kind = type(made).__name__
    if not callable(method):
        return f"{kind} has no method {name}; it needs `{right}`"
    expected = inspect.signature(declared)
    try:
        inspect.signature(method).bind(*[None] * (len(expected.parameters) - 1))
    except TypeError as error:
        return f"{kind}.{name} cannot be called as `{right}`: {error}"
    except ValueError:  # a method of a C type that tells no signature
        return ""
    may_wait = inspect.iscoroutinefunction(declared) or "Awaitable" in str(expected.return_annotation)
    if inspect.iscoroutinefunction(method) and not may_wait:
        return f"{kind}.{name} must not be async; it needs `{right}`"
    return ""
