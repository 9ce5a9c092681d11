"""Plugins that see an exchange's heads: filters on the way in and out, affinity's mark on the way out."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterable
from typing import Any

from router.errors import InternalError, RouterError
from router.model import Exchange, Response
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
        if answer is not None:
            assert isinstance(answer, Response)
            return answer
    return None


def changed_by_plugins(kept: list[bytes], exchange: Exchange, pool: Pool) -> list[bytes]:
    """A response's fields after affinity and the route's filters, these in reverse order.

    Args:
        kept: four pieces per field, as read_response gives them.
    """
    fields = [(kept[i], kept[i + 2]) for i in range(0, len(kept), 4)]
    if pool.affinity is not None:
        try:
            pool.affinity.remember(exchange.tried[-1], exchange, fields)
        except Exception as error:
            pool.muted(pool.affinity, error)
    for plugin in reversed(exchange.route.filters):
        try:
            plugin.on_response(exchange, fields)
        except Exception as error:
            pool.muted(plugin, error)
    return [b"%b: %b\r\n" % field for field in fields]
