"""From spans to trees: which traces are whole, from the load through the router to a server, and one as text. Pure."""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

Span = Mapping[str, Any]

#: The services of the load and of the router.
LOAD, ROUTER = "locust", "router"
#: How a span of the load ends that locust cuts off when the time is over.
CUT = "GreenletExit"
#: Attributes that a line of a tree shows.
SHOWN = ("http.response.status_code", "lb.endpoint", "lb.attempts", "lb.outcome", "error.type")
#: Events that every attempt has.
USUAL = ("sent", "head")


class Tree(NamedTuple):
    """All spans of one trace: the one without a parent, and each span's children in the order of time."""

    root: Span
    children: Mapping[str, Sequence[Span]]
    size: int


class Traces(NamedTuple):
    """What came of the traces that the load began."""

    begun: int
    #: Those with a span of the load, of the router and of a server, in one tree.
    whole: Sequence[Tree]
    #: Why others are not whole -> how many.
    lacking: Mapping[str, int]


def judged(spans: Sequence[Span], servers: Collection[str]) -> Traces:
    """Promises what came of every trace that has a span of the load.

    Args:
        spans: in any order.
        servers: the services of the servers.
    """
    traces: dict[str, list[Span]] = defaultdict(list)
    for span in spans:
        traces[span["trace"]].append(span)
    begun = [each for each in traces.values() if any(span["service"] == LOAD for span in each)]
    whole, lacking = [], Counter[str]()
    for each in begun:
        found = tree(each)
        if isinstance(found, str):
            lacking[found] += 1
        elif lack := missing(each, servers):
            lacking[lack] += 1
        else:
            whole.append(found)
    return Traces(len(begun), whole, lacking)


def missing(spans: Sequence[Span], servers: Collection[str]) -> str:
    """Promises what this trace lacks of the way from the load to a server, "" if nothing."""
    services = {span["service"] for span in spans}
    if any(span["attributes"].get("error.type") == CUT for span in spans if span["service"] == LOAD):
        return "cut off at the end of the load"
    if ROUTER not in services:
        return "no span of the router"
    return "" if services & set(servers) else "no span of a server"


def tree(spans: Sequence[Span]) -> Tree | str:
    """Promises the tree of a trace's spans, or why they are none."""
    known = {span["span"] for span in spans}
    roots = [span for span in spans if not span["parent"]]
    if len(known) < len(spans):
        return "two spans have the same id"
    if any(span["parent"] and span["parent"] not in known for span in spans):
        return "a parent is missing"
    if len(roots) != 1:
        return f"{len(roots)} roots"
    children: dict[str, list[Span]] = defaultdict(list)
    for span in sorted(spans, key=lambda span: span["start"]):
        children[span["parent"]].append(span)
    made = Tree(roots[0], children, len(spans))
    return made if len(list(_walk(made))) == len(spans) else "a circle"


def _walk(found: Tree) -> Iterator[tuple[int, Span]]:
    waiting = [(0, found.root)]
    while waiting:
        depth, span = waiting.pop()
        yield depth, span
        waiting += [(depth + 1, child) for child in reversed(found.children.get(span["span"], ()))]


def drawn(found: Tree) -> str:
    """Promises a line per span: service, name, milliseconds since the beginning and of its own, a few attributes."""
    zero = found.root["start"]
    lines = [f"trace {found.root['trace']}"]
    for depth, span in _walk(found):
        head = f"{'  ' * depth}{span['service']}: {span['name']}"
        at, took = (span["start"] - zero) / 1e6, (span["end"] - span["start"]) / 1e6
        facts = [f"{key}={span['attributes'][key]}" for key in SHOWN if key in span["attributes"]]
        facts += [event for event in span["events"] if event not in USUAL]
        lines.append("  ".join([f"  {head:<32}", f"+{at:7.2f} ms", f"{took:8.2f} ms", *facts]))
    return "\n".join(lines)


def richest(trees: Sequence[Tree]) -> Tree:
    """Promises one with the most spans: a retried request, if there is one."""
    return max(trees, key=lambda each: each.size)
