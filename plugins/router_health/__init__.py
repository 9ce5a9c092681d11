"""Health: who is well when asked (probes), and who is taken out because of what real traffic shows (detectors).

These import from `router` only. When to ask, how many answers count, how long an endpoint stays out and how many may be
out are the core's decisions.
"""

from router import Register, hookimpl
from router_health.command import CommandOptions, CommandProbe
from router_health.consecutive import Consecutive, ConsecutiveOptions
from router_health.error_rate import ErrorRate, ErrorRateOptions
from router_health.http import HttpOptions, HttpProbe
from router_health.latency import Latency, LatencyOptions
from router_health.tcp import TcpOptions, TcpProbe

__all__ = ["register_detectors", "register_probes"]


@hookimpl
def register_probes(register: Register) -> None:
    register("http", HttpProbe, HttpOptions)
    register("tcp", TcpProbe, TcpOptions)
    register("command", CommandProbe, CommandOptions)


@hookimpl
def register_detectors(register: Register) -> None:
    register("consecutive", Consecutive, ConsecutiveOptions)
    register("error_rate", ErrorRate, ErrorRateOptions)
    register("latency", Latency, LatencyOptions)
