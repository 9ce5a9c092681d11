"""Talks to an ACME server (RFC 8555): each method is one step of few requests, in a thread, bounded by the line.

Loaded when the first certificate is asked for. Every failure is an AcmeError; what the server wrote is quoted escaped
and cut. Waiting, polling and trying again are the caller's.
"""

from __future__ import annotations

import ipaddress
import logging
import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from acme import challenges, client, crypto_util, errors, messages
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from josepy.errors import Error as JoseError
from josepy.jwa import ES256, RS256
from josepy.jwk import JWK, JWKEC, JWKRSA
from requests import RequestException, Response

import router
from router_tls.acme_http import Line
from router_tls.acme_trouble import AcmeError, shown

__all__ = ["Challenge", "Client", "make_key", "problem_text"]

#: Tries of a request whose nonce is refused (RFC 8555 §6.5): the library makes two of each.
_NONCES = 8
#: Problems that pass, so that the order may still be good.
_PASSING = ("rateLimited", "serverInternal", "badNonce")
#: Statuses that pass: request timeout, too many requests.
_BUSY = (408, 429)
_LONGEST_DETAIL = 300


class Challenge:
    """An http-01 challenge: where the answer is looked for, and what it is.

    Attributes:
        path: as "/.well-known/acme-challenge/token".
        content: the key authorization.
        waits: whether the server waits for our word that the answer is there.
    """

    __slots__ = ("body", "content", "path", "waits")

    def __init__(self, body: messages.ChallengeBody, key: JWK) -> None:
        self.body = body
        self.path: str = body.chall.path
        self.content: bytes = body.chall.key_authorization(key).encode()
        self.waits = body.status == messages.STATUS_PENDING


class Client:
    """One account's connection to one directory, for one attempt.

    Args:
        directory: its URL.
        tls: checks the server.
        account: the account's key as PEM.

    Attributes:
        line: to be stopped when nobody waits any more.
    """

    def __init__(self, directory: str, tls: ssl.SSLContext, account: bytes) -> None:
        for name in ("acme", "urllib3"):
            if logging.getLogger(name).level == logging.NOTSET:
                # They log every request and answer as they are.
                logging.getLogger(name).setLevel(logging.WARNING)
        self._url = directory
        self._key = _account_key(account)
        self.line = Line(tls)
        self._net = _Network(
            self._key,
            alg=ES256 if isinstance(self._key, JWKEC) else RS256,
            user_agent=f"edge-router/{router.__version__}",
        )
        self._net.session.trust_env = False
        self._net.session.headers["Accept-Encoding"] = "identity"
        self._net.session.mount("https://", self.line)
        self._net.session.mount("http://", self.line)
        self._client: client.ClientV2 | None = None

    def register(self, contact: Sequence[str], eab: tuple[str, str] | None) -> bool:
        """Reads the directory and finds the account, or makes it if the directory does not know its key.

        Args:
            contact: "mailto:" addresses.
            eab: key id and base64url MAC key (RFC 8555 §7.3.4).

        Returns:
            True if the account was made.
        """
        with self._told():
            directory = client.ClientV2.get_directory(self._url, self._net)
            self._client = client.ClientV2(directory, self._net)
            wanted = messages.NewRegistration(contact=tuple(contact), terms_of_service_agreed=True)
            if eab is not None:
                public = self._key.public_key()
                bound = messages.ExternalAccountBinding.from_data(public, eab[0], eab[1], directory)
                wanted = wanted.update(external_account_binding=bound)
            elif self._client.external_account_required():
                raise AcmeError("the directory wants an account that it knows: set eab_kid and eab_hmac_key")
            try:
                self._client.new_account(wanted)
            except errors.ConflictError as known:
                self._net.account = messages.RegistrationResource(uri=known.location, body=messages.Registration())
                return False
            return True

    def tell(self, contact: Sequence[str]) -> None:
        """Changes the account's addresses."""
        with self._told():
            account = self._net.account
            assert account is not None
            self._post(account.uri, messages.UpdateRegistration(contact=tuple(contact)))

    def order(self, names: Sequence[str]) -> tuple[str, messages.Order]:
        """Begins an order; its URL and state."""
        with self._told():
            wanted = messages.NewOrder(identifiers=[_identifier(name) for name in names])
            response = self._post(self._directory("newOrder"), wanted)
            url = response.headers.get("Location")
            if not url:
                raise AcmeError("the directory does not say where the order is")
            return url, _order(response)

    def look(self, url: str) -> messages.Order:
        """The order as it stands now."""
        with self._told():
            return _order(self._post(url, None))

    def authorization(self, url: str) -> tuple[str, Challenge | None]:
        """Its status, and the http-01 challenge while it is pending.

        Raises:
            AcmeError: final, if it cannot become valid any more; with the reason that the server gives.
        """
        with self._told():
            found = messages.Authorization.from_json(self._post(url, None).json())
            status = str(found.status.name)
            offered = [item for item in found.challenges if isinstance(item.chall, challenges.HTTP01)]
            if status == "valid":
                return status, None
            name = shown(str(found.identifier.value))
            if status != "pending":
                raise AcmeError(f"{name}: the authorization is {status}{_reasons(found)}", final=True)
            if not offered:
                raise AcmeError(f"{name}: the directory offers no http-01 challenge", final=True)
            return status, Challenge(offered[0], self._key)

    def answer(self, challenge: Challenge) -> None:
        """Tells the server that the answer can be fetched."""
        with self._told():
            self._post(challenge.body.uri, challenge.body.response(self._key))

    def finalize(self, order: messages.Order, key: bytes, names: Sequence[str]) -> messages.Order:
        """Sends the request for a certificate for these names with this key."""
        with self._told():
            addresses = [ipaddress.ip_address(name) for name in names if _is_address(name)]
            csr = crypto_util.make_csr(key, [name for name in names if not _is_address(name)], ipaddrs=addresses)
            assert self._client is not None
            begun = self._client.begin_finalization(messages.OrderResource(body=order, csr_pem=csr))
            body: messages.Order = begun.body
            return body

    def certificate(self, url: str) -> bytes:
        """The chain, leaf first."""
        with self._told():
            content: bytes = self._post(url, None).content
            return content

    def _post(self, url: str, content: Any) -> Response:
        return self._net.post(url, content, new_nonce_url=self._directory("newNonce"))

    def _directory(self, name: str) -> str:
        assert self._client is not None
        return str(self._client.directory[name])

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Makes one AcmeError of whatever the library raises."""
        try:
            yield
        except messages.Error as problem:
            raise self._error(problem_text(problem), final=problem.code not in _PASSING) from None
        except errors.ClientError as error:
            raise self._error(_odd(error)) from None
        except (errors.Error, JoseError, RequestException) as error:
            raise self._error(f"what came is no ACME answer: {type(error).__name__}") from None
        except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
            # The library takes the fields of an answer as they come.
            raise self._error(f"what came is no ACME answer: {type(error).__name__}") from None

    def _error(self, text: str, final: bool = True) -> AcmeError:
        answered = 0 < self.line.status < 500 and self.line.status not in _BUSY
        return AcmeError(text, wait=self.line.wait, final=final and answered)


class _Network(client.ClientNetwork):
    """Tries on while nonces are refused."""

    def post(self, *args: Any, **kwargs: Any) -> Response:
        for _ in range(_NONCES - 1):
            try:
                return super().post(*args, **kwargs)
            except messages.Error as error:
                if error.code != "badNonce":
                    raise
        return super().post(*args, **kwargs)


def make_key(key_type: str) -> bytes:
    """A new private key as PEM: P-256, or RSA with 2048 bits."""
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
    if key_type == "rsa":
        key = rsa.generate_private_key(65537, 2048)
    else:
        key = ec.generate_private_key(ec.SECP256R1())
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _account_key(account: bytes) -> JWK:
    key = load_pem_private_key(account, None)
    if isinstance(key, rsa.RSAPrivateKey):
        return JWKRSA(key=key)
    if isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, ec.SECP256R1):
        return JWKEC(key=key)
    raise AcmeError("the account's key is neither RSA nor P-256: set account.pem aside for a new account")


def _identifier(name: str) -> messages.Identifier:
    return messages.Identifier(
        typ=messages.IDENTIFIER_IP if _is_address(name) else messages.IDENTIFIER_FQDN, value=name
    )


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _order(response: Response) -> messages.Order:
    order: messages.Order = messages.Order.from_json(response.json())
    if order.status is None or not order.authorizations or not order.finalize:
        raise AcmeError("what came is no order", final=True)
    return order


def problem_text(problem: messages.Error) -> str:
    """RFC 8555 §6.7: type, detail, and the details of the subproblems."""
    kind = str(problem.typ).removeprefix(messages.ERROR_PREFIX)
    details = [problem.detail or problem.title or "no detail"]
    details += [str(sub.detail) for sub in problem.subproblems or () if sub.detail]
    return shown(f"{kind}: {'; '.join(map(str, details))}", _LONGEST_DETAIL)


def _reasons(found: messages.Authorization) -> str:
    told = [problem_text(item.error) for item in found.challenges if item.error is not None]
    return f": {told[0]}" if told else ""


def _odd(error: errors.ClientError) -> str:
    """A status without a problem document, or an answer of another kind."""
    first = error.args[0] if error.args else None
    if isinstance(first, tuple):
        first = first[0]
    if isinstance(first, Response):
        return f"the directory answered {first.status_code}"
    return f"what came is no ACME answer: {type(error).__name__}"
