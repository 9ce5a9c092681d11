"""One attempt to obtain a certificate: account, order, http-01, certificate. Goes on where the last attempt ended.

Runs on the event loop; each request and each look at a file runs in a thread. Nobody waits longer than STEP for one
request, and when the attempt is cancelled its request ends too, and its challenges are gone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from router_tls.acme_store import Pending, Store
from router_tls.acme_trouble import AcmeError
from router_tls.pem import CertificateError, Examined

if TYPE_CHECKING:
    import ssl

    from acme import messages

    from router_tls.acme_client import Challenge, Client
    from router_tls.acme_options import AcmeOptions

__all__ = ["Attempt"]

P = ParamSpec("P")
T = TypeVar("T")

#: Seconds that one step may take: a request, or two where a nonce is fetched first.
STEP = 30.0
#: Seconds until the server has looked at the answers, and until it has made the certificate.
_PATIENCE = 300.0
#: Seconds from one look to the next: first, and at most.
_FIRST_LOOK, _LONGEST_LOOK = 0.25, 10.0
#: Seconds for which the server's word is taken about that.
_MOST_ASKED = 60.0


class Attempt:
    """One attempt.

    Args:
        tls: checks the server.
        challenges: what the router answers: path -> body.
    """

    def __init__(
        self,
        options: AcmeOptions,
        store: Store,
        tls: ssl.SSLContext,
        challenges: dict[str, bytes],
    ) -> None:
        self._options = options
        self._store = store
        self._tls = tls
        self._challenges = challenges

    async def obtain(self) -> Examined:
        """The certificate, which is in the folder then.

        Raises:
            AcmeError: the server cannot be reached, or refuses.
            CertificateError: what came is not what was ordered.
            KeepingError: the folder cannot be used.
        """
        client = await asyncio.to_thread(self._open)
        try:
            await self._register(client)
            pending, order = await self._begin(client)
            try:
                return await self._finish(client, pending, order)
            except (AcmeError, CertificateError) as error:
                # A full disk is no reason to order again: the certificate can be fetched once more.
                if not isinstance(error, AcmeError) or error.final:
                    await asyncio.to_thread(self._store.drop_pending)
                raise
        finally:
            client.line.stop()

    def _open(self) -> Client:
        from router_tls.acme_client import Client, make_key

        self._store.prepare()
        return Client(self._options.url, self._tls, self._store.account(lambda: make_key("ecdsa")))

    async def _register(self, client: Client) -> None:
        contact = [f"mailto:{address}" for address in self._options.addresses]
        made = await _step(client, client.register, contact, self._options.eab)
        if made or await asyncio.to_thread(self._store.contact) != contact:
            if not made and contact:
                await _step(client, client.tell, contact)
            await asyncio.to_thread(self._store.keep_contact, contact)

    async def _begin(self, client: Client) -> tuple[Pending, messages.Order]:
        """The order that was left, if the server still knows it, or a new one."""
        from router_tls.acme_client import make_key

        left = await asyncio.to_thread(self._store.pending)
        if left is not None:
            try:
                order = await _step(client, client.look, left.url)
                if order.status.name in ("pending", "ready", "processing", "valid"):
                    return left, order
            except AcmeError as error:
                if not error.final:
                    raise
        key = await asyncio.to_thread(make_key, self._options.key_type)
        url, order = await _step(client, client.order, self._options.wanted)
        pending = Pending(url, key)
        await asyncio.to_thread(self._store.keep_pending, pending)
        return pending, order

    async def _finish(self, client: Client, pending: Pending, order: messages.Order) -> Examined:
        if order.status.name == "pending":
            await self._authorize(client, order.authorizations)
            order = await self._settled(client, pending.url, "pending")
        if order.status.name == "ready":
            order = await _step(client, client.finalize, order, pending.key, self._options.wanted)
        if order.status.name == "processing":
            order = await self._settled(client, pending.url, "processing")
        if order.status.name != "valid" or not order.certificate:
            raise AcmeError(f"the order is {order.status.name}{_reason(order)}", final=True)
        chain = await _step(client, client.certificate, order.certificate)
        return await asyncio.to_thread(self._store.keep, chain, pending.key)

    async def _authorize(self, client: Client, urls: list[str]) -> None:
        """Answers all challenges and waits until the server has looked at them."""
        mine: list[Challenge] = []
        try:
            open_urls = []
            for url in urls:
                _, challenge = await _step(client, client.authorization, url)
                if challenge is not None:
                    open_urls.append(url)
                    mine.append(challenge)
                    self._challenges[challenge.path] = challenge.content
            for challenge in mine:
                if challenge.waits:
                    await _step(client, client.answer, challenge)
            for url in open_urls:
                await self._valid(client, url)
        finally:
            for challenge in mine:
                self._challenges.pop(challenge.path, None)

    async def _valid(self, client: Client, url: str) -> None:
        async def look() -> str | None:
            status, _ = await _step(client, client.authorization, url)
            return status if status == "valid" else None

        await self._until(client, look, "the directory has not looked at the challenges yet")

    async def _settled(self, client: Client, url: str, passing: str) -> messages.Order:
        async def look() -> messages.Order | None:
            order: messages.Order = await _step(client, client.look, url)
            return order if order.status.name != passing else None

        return await self._until(client, look, f"the order is still {passing}")

    async def _until(self, client: Client, look: Callable[[], Awaitable[T | None]], otherwise: str) -> T:
        clock, pause = asyncio.get_running_loop().time, _FIRST_LOOK
        until = clock() + _PATIENCE
        while True:
            found = await look()
            if found is not None:
                return found
            if clock() > until:
                raise AcmeError(f"{otherwise}, after {_PATIENCE:g} s")
            await asyncio.sleep(max(pause, min(client.line.wait, _MOST_ASKED)))
            pause = min(1.5 * pause, _LONGEST_LOOK)


async def _step(client: Client, do: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Runs one step in a thread. Whatever ends the waiting ends the request too."""
    try:
        async with asyncio.timeout(STEP):
            return await asyncio.to_thread(do, *args, **kwargs)
    except TimeoutError:
        client.line.stop()
        raise AcmeError(f"no whole answer within {STEP:g} s") from None
    except asyncio.CancelledError:
        client.line.stop()
        raise


def _reason(order: Any) -> str:
    from router_tls.acme_client import problem_text

    return f": {problem_text(order.error)}" if order.error is not None else ""
