"""Selection: which of the candidates takes the request. A strategy per file, registered like anybody's.

These import from `router` only; a strategy that needs more than that shows a fault of the hook set.
"""

from router import Register, hookimpl
from router_selection.least_request import LeastRequest
from router_selection.random import Random
from router_selection.round_robin import RoundRobin

__all__ = ["register_selectors"]


@hookimpl
def register_selectors(register: Register) -> None:
    register("round_robin", RoundRobin)
    register("random", Random)
    register("least_request", LeastRequest)
