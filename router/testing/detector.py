"""The contract of a detector: any outcome may come, each endpoint is judged by its own, and forgetting is complete."""

from __future__ import annotations

from typing import Any

from router import Detector, Eject, Endpoint, Options, Outcome
from router.testing.law import Made, law, make_plugin, unraised
from router.testing.make import make_endpoints

__all__ = ["check_detector"]

_OUTCOMES = (
    Outcome("success", status=200, elapsed=0.01),
    Outcome("success", status=101, elapsed=0.01),
    Outcome("failure", phase="connect", sent=False),
    Outcome("failure", phase="head", status=503, elapsed=0.01),
    Outcome("failure", phase="head", error=TimeoutError()),
    Outcome("failure", phase="body", status=200, elapsed=0.01),
    Outcome("neutral", elapsed=0.01),
    Outcome("neutral", sent=False),
)
_STEPS = 1000
_STEP_SECONDS = 0.05


def check_detector(factory: Made, options: Options | None = None) -> None:
    """Holds a detector to its contract.

    Args:
        factory: what the plugin registers, or a class for "module:Name".
        options: its options; the defaults of its nested Options, or none, if left out.

    Raises:
        AssertionError: naming the law that is broken.
    """
    _any_outcome(make_plugin(factory, options, 1))
    needed = _own_failures_only(make_plugin(factory, options, 1))
    if needed > 1:
        _forgets(make_plugin(factory, options, 1), needed)


def _any_outcome(detector: Detector) -> None:
    endpoints = make_endpoints(1, 1)
    tick: Any = getattr(detector, "tick", None)
    for step, outcome in enumerate(_OUTCOMES):
        now = 1000.0 + step
        for endpoint in endpoints:
            verdict = unraised("observe never raises", detector.observe, endpoint, outcome, now)
            law(verdict is None or isinstance(verdict, Eject), "observe returns Eject or None", repr(verdict))
        if tick is not None:
            unraised("tick never raises", tick, endpoints, now)
    law(all(e.load == 0 and e.weight == 1 for e in endpoints), "a detector changes no endpoint", repr(endpoints))


def _own_failures_only(detector: Detector) -> int:
    """How many failures in a row made the detector eject; 0 if it never did."""
    well, ill = make_endpoints(1, 1)
    needed = 0
    for step in range(_STEPS):
        now = 1000.0 + step * _STEP_SECONDS
        fine = detector.observe(well, Outcome("success", status=200, elapsed=0.01), now)
        law(fine is None, "an endpoint that only succeeds is not ejected", repr(fine))
        if _fail(detector, ill, step) is not None and not needed:
            needed = step + 1
    return needed


def _forgets(detector: Any, needed: int) -> None:
    (endpoint,) = make_endpoints(1)
    forget = getattr(detector, "forget", None)
    if forget is None:
        return
    for step in range(needed - 1):
        _fail(detector, endpoint, step)
    unraised("forget never raises", forget, endpoint)
    verdict = _fail(detector, endpoint, needed - 1)
    law(verdict is None, "forget drops what was observed", f"one failure after it came to {verdict!r}")
    unraised("forget never raises, for an unknown endpoint either", forget, make_endpoints(1, first_port=9100)[0])


def _fail(detector: Detector, endpoint: Endpoint, step: int) -> Eject | None:
    return detector.observe(
        endpoint, Outcome("failure", phase="head", status=503, elapsed=0.01), 1000.0 + step * _STEP_SECONDS
    )
