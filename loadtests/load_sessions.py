"""What a session is, whose an answer is, and what the statistics come to. Pure: no locust, no sockets."""

import json
import re
from collections.abc import Mapping
from typing import Any

from bench_report import table

#: `router demo` has servers that say their names at the beginning of the body.
_DEMO = re.compile(rb"server (\w{1,40}) answers ")
#: Types of rows that are no requests, and how their names begin.
KINDS = {"SERVER": "server ", "BEGUN": "sessions at ", "SESSION": "sessions "}


def server_of(response: Any) -> str:
    """Promises the name of the server that answered, "" if nobody says."""
    headers = getattr(response, "headers", None)
    if headers is None:
        return ""
    name = headers.get("X-Upstream")
    if name:
        return str(name)
    found = _DEMO.match(getattr(response, "content", None) or b"")
    return found[1].decode() if found else ""


class Session:
    """One visitor's cart: who has it, how many things must be in it, and how it ended.

    Args:
        visits: how many requests it has.
    """

    def __init__(self, visits: int) -> None:
        self.server = ""
        self.verdict = ""
        self._left = visits
        self._things = 0

    @property
    def over(self) -> bool:
        return self._left <= 0

    def failed(self, adds: int) -> None:
        """A request had no good answer. Whether it added something nobody knows, so nothing is said of the rest."""
        self._left = 0 if adds else self._left - 1
        self._conclude()

    def answered(self, server: str, body: bytes, adds: int) -> str:
        """Takes a good answer to a request that added so many things.

        Returns:
            how the session broke, in words that are the same for all that broke so; "" if it did not.
        """
        self._left -= 1
        self._things += adds
        broken = self._fault(server, _count(body))
        self.server = self.server or server
        if broken:
            self.verdict, self._left = "broken", 0
        else:
            self._conclude()
        return broken

    def _fault(self, server: str, count: int | None) -> str:
        if not server or count is None:
            return "the answer names no server or no count"
        if self.server and server != self.server:
            return f"from {self.server} to {server}"
        return "" if count == self._things else "things in the cart got lost or doubled"

    def _conclude(self) -> None:
        if self.over and self.server:
            self.verdict = "kept"


def _count(body: bytes) -> int | None:
    try:
        count = json.loads(body)["count"]
    except (ValueError, KeyError, TypeError):
        return None
    return count if isinstance(count, int) else None


def figures(stats: Any) -> dict[str, Any]:
    """Promises locust's statistics as plain data: requests by row, counts by server, sessions, errors."""
    kinds: dict[str, dict[str, int]] = {kind: {} for kind in KINDS}
    rows = []
    for (name, kind), entry in sorted(stats.entries.items()):
        if kind in kinds:
            kinds[kind][name.removeprefix(KINDS[kind])] = entry.num_requests
        else:
            rows.append(_row(f"{kind} {name}", entry))
    errors = [
        {"error": each.to_name(), "count": each.occurrences}
        for each in sorted(stats.errors.values(), key=lambda each: -each.occurrences)
    ]
    return {
        "requests": stats.total.num_requests,
        "failures": stats.total.num_failures,
        "rows": [*rows, _row("all", stats.total)],
        "servers": kinds["SERVER"],
        "sessions": {"kept": 0, "broken": 0, **kinds["SESSION"]},
        "sessions_at": kinds["BEGUN"],
        "errors": errors,
    }


def _row(name: str, entry: Any) -> dict[str, Any]:
    return {
        "name": name,
        "requests": entry.num_requests,
        "failures": entry.num_failures,
        "p50_ms": entry.get_response_time_percentile(0.5),
        "p99_ms": entry.get_response_time_percentile(0.99),
    }


def shares(counts: Mapping[str, int]) -> dict[str, float]:
    """Promises each one's part of all, empty if there is nothing to share."""
    total = sum(counts.values())
    return {name: count / total for name, count in counts.items()} if total else {}


def summary(found: Mapping[str, Any]) -> str:
    """Promises the table of who answered, and a line about sessions."""
    free, held = shares(found["servers"]), shares(found["sessions_at"])
    names = sorted({*free, *held})
    rows = [[name, *_cells(name, found["servers"], free), *_cells(name, found["sessions_at"], held)] for name in names]
    heads = ["server", "requests", "share", "sessions", "share"]
    lines = [table(heads, rows)] if rows else ["no answer says which server it is from"]
    sessions = found["sessions"]
    if sum(sessions.values()):
        lines.append(f"sessions: {sessions['kept']} kept, {sessions['broken']} broken")
    lines.append(f"requests: {found['requests']}, failed: {found['failures']}")
    return "\n".join(lines)


def _cells(name: str, counts: Mapping[str, int], parts: Mapping[str, float]) -> tuple[str, str]:
    return (str(counts[name]), f"{parts[name]:.1%}") if name in counts else ("-", "-")
