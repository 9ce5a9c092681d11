"""Plugins that see an exchange's heads: filters on the way in and out, affinity's mark on the way out."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterable
from typing import Any

from router.errors import InternalError, RouterError
from router.model import Endpoint, Exchange, Response
from router.policy.headers import FRAMING, is_valid_field, lines_of
from router.policy.pool import Pool

__all__ = ["changed_by_plugins", "run_filters"]

log = logging.getLogger("router")


async def run_filters(filters: Iterable[Any], exchange: Exchange) -> RouterError | Response | None:
    """Asks each filter in turn; the first answer ends it. One that raises makes a 500 that the log names."""
    for plugin in filters:
        try:
            answer = plugin.on_request(exchange)
            if inspect.isawaitable(answer):
                answer = await answer
        except Exception as error:
            name = type(plugin).__name__
            log.error("filter %s failed on request %s: %r", name, exchange.id, error)
            return InternalError(f"filter {name}")
        if isinstance(answer, Response):
            return answer
        if answer is not None:
            log.error("filter %s gave neither a Response nor None for request %s", type(plugin).__name__, exchange.id)
            return InternalError(f"filter {type(plugin).__name__}")
    return None


def changed_by_plugins(lines: bytes, exchange: Exchange, endpoint: Endpoint, pool: Pool, marked: bool) -> bytes:
    """A response's lines after affinity and the route's filters, these in reverse order.

    What says where the response ends is not theirs to see or to change; a field that could not be written is left out.

    Args:
        lines: as read_response gives them.
        endpoint: whose response it is.
        marked: whether affinity is asked at all.
    """
    parts = [line.partition(b":") for line in lines.split(b"\r\n")[1:-1]]
    given = [(name, value.strip(b" \t")) for name, _, value in parts]
    fields = [field for field in given if field[0].lower() not in FRAMING]
    if marked and pool.affinity is not None:
        try:
            pool.affinity.remember(endpoint, exchange, fields)
        except Exception as error:
            pool.muted(pool.affinity, error)
    for plugin in reversed(exchange.route.filters):
        try:
            plugin.on_response(exchange, fields)
        except Exception as error:
            pool.muted(plugin, error)
    framing = [field for field in given if field[0].lower() in FRAMING]
    return lines_of([*(field for field in fields if is_valid_field(*field)), *framing])
