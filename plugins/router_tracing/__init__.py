"""Tracing: a span for each request, one for each attempt, and the decision behind each, for OpenTelemetry collectors.

OpenTelemetry appears in this room alone, and never on the path of a request: what is recorded is decided before, and
spans are made of time stamps that the core keeps anyway.
"""

from router import Register, hookimpl
from router_tracing.options import TracingOptions
from router_tracing.tracing import Tracing

__all__ = ["register_observers"]


@hookimpl
def register_observers(register: Register) -> None:
    register("tracing", Tracing, TracingOptions)
