"""What a Status looks like in a terminal: only forms stand here, nothing is asked and nothing decided.

Names come from files and servers: every text is escaped and none is read as markup.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import IO, TYPE_CHECKING

from rich.cells import cell_len
from rich.console import Console, Group
from rich.padding import Padding
from rich.text import Text

from router.cli_output import is_coloured
from router.faults import visible
from router.status import CertificateStatus, EndpointStatus, ListenerStatus, PoolStatus, Status

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["ROWS", "console_on", "layout", "print_status", "show_age", "show_latency"]

#: Endpoints of one pool that are shown at most.
ROWS = 40
#: Certificates that are shown at most.
_CERTIFICATES = 10
_GAP = "  "
#: Columns that are left for the names of endpoints, before a column of numbers.
_SHORT_NAME = 12
#: Columns where no terminal sets a bound.
_WIDE = 400
_DAY = 86_400
#: Seconds before its end from which on a certificate is marked.
_ENDS_SOON = 7 * _DAY
_STYLES = {
    "ready": "green",
    "on probation": "yellow",
    "not probed yet": "yellow",
    "draining": "cyan",
    "weight 0": "cyan",
    "removed": "dim",
    "ejected": "red",
    "down": "red",
}


def console_on(stream: IO[str], in_place: bool = False) -> Console:
    """A console that shows texts as they are.

    Args:
        in_place: the cursor will be moved, though there may be no colours.
    """
    coloured = is_coloured(stream)
    return Console(
        file=stream,
        force_terminal=coloured or in_place,
        color_system="auto" if coloured else None,
        width=None if stream.isatty() else _WIDE,
        highlight=False,
        markup=False,
        emoji=False,
    )


def print_status(status: Status) -> None:
    """Prints a status on stdout, as wide as the terminal, or unfolded where there is none."""
    console = console_on(sys.stdout)
    console.print(layout(status, console.width))


def layout(status: Status, width: int, rows: int = ROWS) -> Group:
    """A status, ready to be printed.

    Args:
        width: columns that there are.
        rows: endpoints to show of each pool; those that are not ready come first if there are more.
    """
    parts: list[RenderableType] = [*_head(status), *_alarms(status)]
    if status.listeners:
        parts += ["", *map(_listener, status.listeners)]
    for pool in status.pools:
        parts += ["", *_pool(pool, width, rows)]
    if status.certificates:
        parts += ["", *_certificates(status.certificates)]
    return Group(*parts)


def _head(status: Status) -> Iterator[Text]:
    config = status.config
    source = f"of {visible(config.file)}" if config.file else "of the command line"
    yield Text(f"router {visible(status.version)}, process {status.pid}, up for {show_age(status.uptime)}", "bold")
    yield Text(f"configuration {config.version} {source}, {show_age(config.age)} old")


def _alarms(status: Status) -> Iterator[RenderableType]:
    """What an operator should see first."""
    if status.draining:
        yield Text("draining: no new connections, requests under way finish", "bold yellow")
    if status.config.refused:
        yield Text(f"the last reload was refused, configuration {status.config.version} stays in force:", "bold red")
        yield from (Text(f"  {visible(line)}".rstrip()) for line in status.config.refused.split("\n"))
    for name, reason in status.muted.items():
        yield Text(f"plugin {visible(name)} is muted: {visible(reason)}", "red")


def _listener(listener: ListenerStatus) -> Text:
    text = Text(f"listener {visible(listener.name)}: {_some(listener.connections, 'connection')}")
    if listener.paused:
        text.append(", paused: as many as it may have", "yellow")
    if listener.turned_away:
        text.append(f", {_some(listener.turned_away, 'client')} turned away")
    if listener.refused:
        text.append(f", {_some(listener.refused, 'request')} refused")
    return text


def _pool(pool: PoolStatus, width: int, rows: int) -> Iterator[RenderableType]:
    total = sum(endpoint.state != "removed" for endpoint in pool.endpoints)
    yield Text.assemble(
        (f"pool {visible(pool.name)}", "bold"),
        f" ({visible(pool.selection)}): ",
        (f"{_count(pool.ready)} of {_count(total)} ready", _share_style(pool.ready, total)),
        f", {_count(pool.in_flight)} in flight, ",
        (f"{_count(pool.queue)} queued, " if pool.queue else "", "yellow"),
        f"{_some(pool.retries, 'retry', 'retries')}, budget {_count(int(pool.budget))}",
    )
    if pool.discovery:
        yield Text(f"discovery {visible(pool.discovery)}: {visible(pool.discovery_state) or 'nothing heard yet'}")
    if not pool.endpoints:
        return
    first, rest = _most_telling(pool.endpoints, rows)
    yield from _endpoints(first, width)
    if rest:
        yield Text(_GAP + _rest(rest), "dim")


def _share_style(ready: int, total: int) -> str:
    return "red" if not ready else "yellow" if ready < total else "green"


def _most_telling(
    endpoints: Sequence[EndpointStatus], rows: int
) -> tuple[Sequence[EndpointStatus], Sequence[EndpointStatus]]:
    """Those to show and those to count."""
    if len(endpoints) <= rows:
        return endpoints, ()
    ordered = sorted(endpoints, key=lambda endpoint: endpoint.state == "ready" and not endpoint.overrides)
    return ordered[:rows], ordered[rows:]


def _rest(endpoints: Sequence[EndpointStatus]) -> str:
    counts = Counter(visible(endpoint.state) for endpoint in endpoints)
    if len(counts) == 1:
        return f"and {_count(len(endpoints))} more, {next(iter(counts))}"
    return f"and {_count(len(endpoints))} more: " + ", ".join(f"{_count(n)} {state}" for state, n in counts.items())


#: Heading and text of a column of numbers. On a narrow terminal the last ones are left out.
_NUMBERS: dict[str, Callable[[EndpointStatus], str]] = {
    "load": lambda endpoint: _count(endpoint.load),
    "weight": lambda endpoint: _weight(endpoint.weight),
    "latency": lambda endpoint: show_latency(endpoint.latency),
    "requests": lambda endpoint: _count(endpoint.requests),
}


def _endpoints(endpoints: Sequence[EndpointStatus], width: int) -> Iterator[RenderableType]:
    """One line for each endpoint, so that its name can be copied, and one below for what has no room there."""
    numbers = {name: [tell(endpoint) for endpoint in endpoints] for name, tell in _NUMBERS.items()}
    widths = {name: max(map(len, [name, *texts])) for name, texts in numbers.items()}
    states = max(len(_state(endpoint)) for endpoint in endpoints)
    while len(widths) > 1 and _SHORT_NAME + _taken(widths, states) > width:
        widths.popitem()
    longest = max(cell_len(visible(endpoint.id)) for endpoint in endpoints)
    names = max(min(longest, width - _taken(widths, states)), _SHORT_NAME)
    headings = "".join(f"{name:>{wide}}{_GAP}" for name, wide in widths.items())
    yield Text(f"{_GAP}{'endpoint':<{names}}{_GAP}{headings}state", "bold", no_wrap=True, overflow="crop")
    for row, endpoint in enumerate(endpoints):
        cells = "".join(f"{numbers[name][row]:>{wide}}{_GAP}" for name, wide in widths.items())
        yield from _row(endpoint, names, cells, width)


def _taken(widths: dict[str, int], states: int) -> int:
    """Columns of a line beside the name."""
    return sum(widths.values()) + len(_GAP) * (len(widths) + 2) + states


def _row(endpoint: EndpointStatus, names: int, cells: str, width: int) -> Iterator[RenderableType]:
    name = visible(endpoint.id)
    if cell_len(name) > names:
        yield Text(_GAP + name)
        name = ""
    line = Text(f"{_GAP}{name}{' ' * (names - cell_len(name))}{_GAP}{cells}").append_text(_state(endpoint))
    notes = Text("; ").join(_notes(endpoint))
    inline = Text(": " if notes else "").append_text(notes)
    particulars = _particulars(endpoint)
    room = width - line.cell_len - inline.cell_len
    if room < 0:
        yield line
        yield Padding(notes, (0, 0, 0, 3 * len(_GAP)), expand=False)
    else:
        yield line.append_text(inline).append_text(particulars if particulars.cell_len <= room else Text())


def _state(endpoint: EndpointStatus) -> Text:
    text = Text(visible(endpoint.state), _STYLES.get(endpoint.state, ""))
    return text.append("" if endpoint.since is None else f" for {show_age(endpoint.since)}", "default")


def _notes(endpoint: EndpointStatus) -> Iterator[Text]:
    """Why an endpoint is as it is."""
    if endpoint.cause and endpoint.state != "ready":
        yield Text(visible(endpoint.cause))
    if endpoint.ejections:
        yield Text("ejected " + ("once" if endpoint.ejections == 1 else f"{_count(endpoint.ejections)} times"))
    if endpoint.weight != endpoint.configured_weight:
        yield Text(f"weight {endpoint.configured_weight} is configured")
    if endpoint.overrides:
        yield Text("by command: " + ", ".join(map(visible, endpoint.overrides)), "bold cyan")


def _particulars(endpoint: EndpointStatus) -> Text:
    """What the configuration says of an endpoint, if it tells something."""
    told = {
        visible(endpoint.url): endpoint.url != endpoint.id,
        f"zone {visible(endpoint.zone)}": endpoint.zone,
        f"priority {endpoint.priority}": endpoint.priority,
        f"from {visible(endpoint.source)}": endpoint.source != "configuration",
    }
    texts = [text for text, tells in told.items() if tells]
    return Text(f" ({', '.join(texts)})" if texts else "", "dim")


def _certificates(certificates: Sequence[CertificateStatus]) -> Iterator[Text]:
    """Those that end first, and how many more there are."""
    ordered = sorted(certificates, key=lambda certificate: certificate.expires_in)
    for certificate in ordered[:_CERTIFICATES]:
        left = certificate.expires_in
        ends = f"valid for {show_age(left)}" if left > 0 else f"ended {show_age(-left)} ago"
        style = "red" if left <= 0 else "yellow" if left < _ENDS_SOON else ""
        yield Text(f"certificate {', '.join(map(visible, certificate.names))}: ").append(ends, style)
    if more := ordered[_CERTIFICATES:]:
        yield Text(f"and {_count(len(more))} more, valid for {show_age(more[0].expires_in)} or longer", "dim")


def show_age(seconds: float) -> str:
    """A length of time in its two largest units: "12 s", "4 min", "3 h 12 min", "2 d 4 h"."""
    whole = max(int(seconds), 0)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min"
    if whole < _DAY:
        return _two(whole, 3600, "h", 60, "min")
    return _two(whole, _DAY, "d", 3600, "h")


def _two(whole: int, large: int, its: str, small: int, whose: str) -> str:
    rest = whole % large // small
    return f"{whole // large} {its}" + (f" {rest} {whose}" if rest else "")


def show_latency(seconds: float | None) -> str:
    """A latency in the unit that fits; "-" if there is none yet."""
    if seconds is None:
        return "-"
    if seconds >= 0.9995:
        return f"{seconds:.1f} s"
    return f"{seconds * 1000:.1f} ms" if seconds < 0.0095 else f"{seconds * 1000:.0f} ms"


def _weight(weight: float) -> str:
    return f"{weight:.0f}" if weight == int(weight) else f"{weight:.2f}"


def _count(number: int) -> str:
    return f"{number:,}".replace(",", " ")


def _some(number: int, noun: str, plural: str = "") -> str:
    return f"{_count(number)} {noun if number == 1 else plural or noun + 's'}"
