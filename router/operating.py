"""What an operator's commands do: answers each question of the control socket. Decides nothing that policy decides."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import TYPE_CHECKING

import msgspec

from router.faults import did_you_mean, visible
from router.model import EndpointSpec, Exchange
from router.net.keeper import Keeper
from router.policy.explaining import explain
from router.policy.membership import Override
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

__all__ = ["Operating", "handed_over", "to_hand_over"]

log = logging.getLogger("router")

#: Endpoints whose state takes about a millisecond to gather.
_MANY = 200
#: What operators have set, as JSON, for a successor; and the most bytes that the system lets a variable have.
_OVERRIDES, _LONGEST = "ROUTER_OVERRIDES", 100_000
_CONTROL = re.compile(r"[\x00-\x20\x7f]")
_BREAK = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


class Operating:
    """Answers for one process.

    Args:
        status: gathers the state of now; called in a thread.
        reload: takes the configuration again; returns whether that was done, and what is to be said of it.
        busy: why nothing may be set at the moment; "" if it may.
    """

    def __init__(
        self,
        serving: Serving,
        status: Callable[[], Status],
        reload: Callable[[str], Awaitable[tuple[bool, str]]],
        busy: Callable[[], str],
    ) -> None:
        self._serving = serving
        self._status = status
        self._reload = reload
        self._busy = busy

    async def answer(self, question: Question) -> Answer:
        """Does what is asked, or says why not."""
        if isinstance(question, AskStatus):
            count = sum(len(pool.members) for pool in self._serving.table.pools.values())
            # Ten thousand endpoints take a while to write down; for a few, a thread costs more than it saves.
            return Answer(True, result=await asyncio.to_thread(self._status) if count > _MANY else self._status())
        if isinstance(question, AskReload):
            done, text = await self._reload("router reload")
            return Answer(done, text)
        try:
            if isinstance(question, AskExplain):
                return Answer(True, result=self._explain(question))
            refusal = self._busy()
            return Answer(False, refusal) if refusal else Answer(True, self._operate(question))
        except (LookupError, ValueError) as error:
            return Answer(False, str(error.args[0]))

    def _operate(self, question: AskDrain | AskUndrain | AskWeight) -> str:
        keeper, identity = self._find(question.pool, question.endpoint)
        if identity not in keeper.membership.wanted():
            return self._undo(keeper, identity, question)
        if isinstance(question, AskWeight):
            changed = keeper.membership.weigh(identity, question.weight)
            weight = keeper.membership.wanted()[identity].weight
            done = f"weight {weight}" + (" as configured" if question.weight is None else "")
        else:
            drained = isinstance(question, AskDrain)
            changed = keeper.membership.operate(identity, "drain" if drained else "up")
            done = "draining" if drained else "up"
        name = f"pool {question.pool}, endpoint {identity}"
        if not changed:
            return f"{name}: is {done} already"
        keeper.apply()
        if isinstance(question, AskWeight):
            log.info("%s: by command: %s", name, done)
            return f"{name}: {done}"
        return f"{name}: {'draining: no new requests but those of its sessions' if drained else 'up again'}"

    def _undo(self, keeper: Keeper, identity: str, question: AskDrain | AskUndrain | AskWeight) -> str:
        """For an endpoint that has left; what was set for it would hold when it comes back."""
        name = f"pool {question.pool}, endpoint {identity}"
        if isinstance(question, AskDrain) or (isinstance(question, AskWeight) and question.weight is not None):
            raise LookupError(f"{name}: is not there now; undrain takes back what was set for it")
        keeper.membership.undo(identity)
        log.info("%s: by command: what was set for it is taken back", name)
        return f"{name}: is not there now; what was set for it is taken back"

    def _find(self, pool: str, endpoint: str) -> tuple[Keeper, str]:
        """The pool's keeper and the endpoint's identity; an endpoint may be named by its URL too.

        Raises:
            LookupError: with a sentence that says which are known.
        """
        keepers = self._serving.keepers
        keeper = keepers.get(pool)
        if keeper is None:
            raise LookupError(_unknown("pool", pool, list(keepers)))
        members = keeper.membership.wanted()
        if endpoint in members or endpoint in keeper.membership.overrides:
            return keeper, endpoint
        named = [identity for identity, spec in members.items() if endpoint in _names(spec)]
        if len(named) != 1:
            raise LookupError(f"pool {pool}: " + _unknown("endpoint", endpoint, list(members)))
        return keeper, named[0]

    def _explain(self, question: AskExplain) -> Explanation:
        serving = self._serving
        assert serving.runtime is not None
        return explain(serving.table, _exchange(question), serving.runtime.clock())


def to_hand_over(overrides: Mapping[str, Mapping[str, Override]]) -> dict[str, str]:
    """The variable by which a successor learns what operators have set, by pool and endpoint."""
    kept = {pool: dict(each) for pool, each in overrides.items() if each}
    text = msgspec.json.encode(kept)
    if len(text) > _LONGEST:
        log.warning("upgrade: what was set by commands is too much to be handed over")
    return {_OVERRIDES: text.decode()} if kept and len(text) <= _LONGEST else {}


def handed_over(environ: MutableMapping[str, str]) -> dict[str, dict[str, Override]]:
    """Takes that variable out of the environment. One that makes no sense is said, and is none."""
    try:
        return msgspec.json.decode(environ.pop(_OVERRIDES, "{}"), type=dict[str, dict[str, Override]])
    except msgspec.MsgspecError as error:
        log.warning("%s makes no sense, and what was set by commands is lost: %s", _OVERRIDES, error)
        return {}


def _names(spec: EndpointSpec) -> tuple[str, ...]:
    """What an endpoint may be called besides its identity: its URL, its address, its port."""
    address = spec.address
    return (spec.url, str(address), f"{address.host}:{address.port}", f":{address.port}", str(address.port))


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
