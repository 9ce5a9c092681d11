"""The configurations of changes.py, as text. Pure: nothing is written or read here."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

#: Answered by the router itself, with as many bytes as the number of the configuration in force.
VERSION = "/version"
#: The pool that all the load goes to.
POOL = "web"


class Place(Protocol):
    """What a configuration has to know of where it is used."""

    control: Path
    port: int
    addresses: dict[str, str]


def quoted(text: str) -> str:
    """Promises a string of TOML."""
    return json.dumps(text, ensure_ascii=False)


def endpoints(addresses: Mapping[str, str], weights: Mapping[str, int], *drained: str) -> str:
    """Promises the value of a pool's `endpoints`: those that have a weight, under their names."""
    states = {name: "drain" if name in drained else "up" for name in weights}
    lines = [
        f'{{ url = "http://{addresses[name]}", id = "{name}", weight = {weight}, state = "{states[name]}" }}'
        for name, weight in weights.items()
    ]
    return f"[{', '.join(lines)}]"


def pool(name: str, members: str, *lines: str) -> str:
    """Promises the text of a pool; `members` is a line about its endpoints."""
    return "\n".join(["[[pools]]", f'name = "{name}"', members, *lines, ""])


def route(name: str, *lines: str) -> str:
    return "\n".join(["[[routes]]", f'name = "{name}"', *lines, ""])


def listener(port: int, *lines: str) -> str:
    return "\n".join(["[[listeners]]", f'bind = "127.0.0.1:{port}"', *lines, ""])


def server(control: Path, *lines: str) -> str:
    return "\n".join(["[server]", f"control = {quoted(str(control))}", *lines, ""])


def says_version(step: int) -> str:
    """Promises the route that tells which configuration is in force."""
    dots = "." * step
    return route("version", f'path = "{VERSION}"', f'answer = {{ status = 200, body = "{dots}" }}')


def configuration(
    site: Place, step: int, members: str, *lines: str, settings: Sequence[str] = (), more: str = ""
) -> str:
    """Promises a whole file: the listener, route and pool under load, and more before them.

    Args:
        members, lines: of the loaded pool.
        settings: lines of [server].
        more: text of whatever else there is.
    """
    parts = (
        server(site.control, *settings),
        listener(site.port),
        says_version(step),
        more,
        route("load", f'pool = "{POOL}"'),
        pool(POOL, members, *lines),
    )
    return "\n".join(parts)


def all_alike(site: Place) -> str:
    """Promises a line with all servers, of weight 1."""
    return f"endpoints = {endpoints(site.addresses, dict.fromkeys(site.addresses, 1))}"


def elsewhere(site: Place, other: int, step: int) -> str:
    """Promises a listener, a route and a pool, one of which changes with each step."""
    of_listener, of_route, of_pool = (step + 2) // 3, (step + 1) // 3, step // 3
    weights = {name: 1 + (of_pool + number) % 3 for number, name in enumerate(site.addresses)}
    return "\n".join(
        (
            listener(other, f'timeouts = {{ header = "{10 + of_listener}s" }}'),
            route("other", f'path = "/other-{of_route}"', 'pool = "other"'),
            pool("other", f"endpoints = {endpoints(site.addresses, weights)}"),
        )
    )


def many(count: int, first: int, step: int) -> str:
    """Promises the value of `endpoints`: so many addresses; the weight of the very first changes with each step."""
    numbers = range(first, first + count)
    urls = [f'"http://127.{20 + (n >> 16)}.{n >> 8 & 255}.{n & 255}:9"' for n in numbers if n]
    changing = [f'{{ url = "http://127.20.0.0:9", weight = {step} }}'] if not first else []
    return f"[{', '.join(changing + urls)}]"
