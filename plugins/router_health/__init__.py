"""Health: who is taken out because of what real traffic shows. A detector per file, registered like anybody's.

These import from `router` only; how long an endpoint stays out, and how many may be out, is the core's decision.
"""

from router import Register, hookimpl
from router_health.consecutive import Consecutive, ConsecutiveOptions
from router_health.error_rate import ErrorRate, ErrorRateOptions
from router_health.latency import Latency, LatencyOptions

__all__ = ["register_detectors"]


@hookimpl
def register_detectors(register: Register) -> None:
    register("consecutive", Consecutive, ConsecutiveOptions)
    register("error_rate", ErrorRate, ErrorRateOptions)
    register("latency", Latency, LatencyOptions)
