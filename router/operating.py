"""What an operator's commands do: answers each question of the control socket. Decides nothing that policy decides."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from router.faults import did_you_mean, visible
from router.model import Exchange
from router.net.keeper import Keeper
from router.policy.explaining import explain
from router.prepare import reference_name
from router.status import (
    Answer,
    AskDrain,
    AskExplain,
    AskReload,
    AskStatus,
    AskUndrain,
    AskWeight,
    Question,
    Status,
)

if TYPE_CHECKING:
    from router.explanation import Explanation
    from router.serving import Serving

__all__ = ["Operating"]

log = logging.getLogger("router")

#: Endpoints whose state takes about a millisecond to gather.
_MANY = 200
_CONTROL = re.compile(r"[\x00-\x20\x7f]")
_BREAK = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


class Operating:
    """Answers for one process.

    Args:
        status: gathers the state of now; called in a thread.
        reload: takes the configuration again; returns whether that was done, and what is to be said of it.
    """

    def __init__(
        self, serving: Serving, status: Callable[[], Status], reload: Callable[[str], Awaitable[tuple[bool, str]]]
    ) -> None:
        self._serving = serving
        self._status = status
        self._reload = reload

    async def answer(self, question: Question) -> Answer:
        """Does what is asked, or says why not."""
        if isinstance(question, AskStatus):
            count = sum(len(pool.members) for pool in self._serving.table.pools.values())
            # Ten thousand endpoints take a while to write down; for a few, a thread costs more than it saves.
            return Answer(True, result=await asyncio.to_thread(self._status) if count > _MANY else self._status())
        if isinstance(question, AskReload):
            # Whoever asked may leave: the reload goes on.
            done, text = await asyncio.shield(asyncio.ensure_future(self._reload("router reload")))
            return Answer(done, text)
        try:
            if isinstance(question, AskExplain):
                return Answer(True, result=self._explain(question))
            return Answer(True, self._operate(question))
        except (LookupError, ValueError) as error:
            return Answer(False, str(error.args[0]))

    def _operate(self, question: AskDrain | AskUndrain | AskWeight) -> str:
        keeper, identity = self._find(question.pool, question.endpoint)
        if isinstance(question, AskWeight):
            changed = keeper.membership.weigh(identity, question.weight)
            weight = keeper.membership.wanted()[identity].weight
            done = f"weight {weight}" + (" as configured" if question.weight is None else "")
        else:
            drained = isinstance(question, AskDrain)
            changed = keeper.membership.operate(identity, "drain" if drained else "up")
            done = "draining: no new requests but those of its sessions" if drained else "up again"
        name = f"pool {question.pool}, endpoint {identity}"
        if not changed:
            return f"{name}: {done} already"
        log.info("%s: by command: %s", name, done)
        keeper.apply()
        return f"{name}: {done}"

    def _find(self, pool: str, endpoint: str) -> tuple[Keeper, str]:
        """The pool's keeper and the endpoint's identity; an endpoint may be named by its URL too.

        Raises:
            LookupError: with a sentence that says which are known.
        """
        keepers = self._serving.keepers
        keeper = keepers.get(pool)
        if keeper is None:
            raise LookupError(_unknown("pool", pool, list(keepers)))
        members = keeper.pool.members
        if endpoint in members:
            return keeper, endpoint
        named = [identity for identity, e in members.items() if endpoint in (e.spec.url, str(e.address))]
        if len(named) != 1:
            raise LookupError(f"pool {pool}: " + _unknown("endpoint", endpoint, list(members)))
        return keeper, named[0]

    def _explain(self, question: AskExplain) -> Explanation:
        serving = self._serving
        assert serving.runtime is not None
        prepared = serving.staged.prepared
        strategies = {pool.name: reference_name(pool.selection) for pool in prepared.config.pools}
        now = serving.runtime.clock()
        return explain(serving.table, _exchange(question), now, place=prepared.place_of, strategies=strategies)


def _unknown(what: str, name: str, known: list[str]) -> str:
    shown = ", ".join(known[:5]) + (f" and {len(known) - 5} more" if len(known) > 5 else "")
    hint = did_you_mean(name, known) or (f"there are {shown}" if known else "there are none")
    return f"no {what} {visible(name)!r}; {hint}"


def _exchange(question: AskExplain) -> Exchange:
    """The request that is asked about.

    Raises:
        ValueError: it could not be one.
    """
    scheme, mark, rest = question.url.partition("://")
    host, slash, path = rest.partition("/")
    bad = _CONTROL.search(question.method + question.url) or not mark or not question.method or not host
    if bad or any(_BREAK.search(name + value) or not name for name, value in question.headers):
        raise ValueError("this is no request: a method, a URL such as https://shop.example/cart, and header fields")
    target = slash + path or "/"
    fields = [f"{name}: {value}" for name, value in question.headers]
    lines = [f"{question.method} {target} HTTP/1.1", f"Host: {host}", *fields, "", ""]
    return Exchange(
        method=question.method,
        target=target,
        host=host,
        head="\r\n".join(lines).encode("utf-8", "surrogateescape"),
        client=question.client,
        scheme=scheme,
    )
