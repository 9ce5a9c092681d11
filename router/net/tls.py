"""TLS contexts, and the store of certificates that a listener looks names up in.

A listener has one base context, which holds the keys of session tickets; each certificate has its own, which is put in
its place by SNI. Certificates are built aside and swapped in one assignment. Keys never reach a file or a message.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterable
from ipaddress import ip_address
from pathlib import Path
from typing import NamedTuple

from router.model import Certificate
from router.net.keypairs import KeyPair, load_pair, read_pair, reason_of

__all__ = ["PROFILES", "ServerObject", "Store", "endpoint_context", "profile_context"]

#: Mozilla's guidelines 5.7 and 5.8, without DHE: its parameters are a liability, and no client that knows TLS 1.2 with
#: AEAD ciphers lacks ECDHE.
_INTERMEDIATE = ":".join(
    f"ECDHE-{key}-{cipher}"
    for cipher in ("AES128-GCM-SHA256", "AES256-GCM-SHA384", "CHACHA20-POLY1305")
    for key in ("ECDSA", "RSA")
)
#: Profile -> the lowest version that it allows.
PROFILES = {"intermediate": ssl.TLSVersion.TLSv1_2, "modern": ssl.TLSVersion.TLSv1_3}
_CLIENT_AUTH = {"off": ssl.CERT_NONE, "optional": ssl.CERT_OPTIONAL, "required": ssl.CERT_REQUIRED}
#: Each costs 50 µs of a handshake's 570. One will do: a resumed session is given a new one.
_TICKETS = 1
#: Seconds after which session tickets get other keys: who steals a key can read what was said under it.
_TICKET_KEYS = 86_400.0
_REFUSE = "refuse"
_PEM = "-----BEGIN"
_LONGEST_PATH = 4096


def profile_context(profile: str, *, server: bool = True) -> ssl.SSLContext:
    """A context by one of Mozilla's profiles, without certificates.

    Clients choose among the ciphers, as Mozilla has it. Of the curves Python lets one set a single one, so OpenSSL's
    own list stands: X25519 and prime256v1 first.

    Args:
        profile: "intermediate" (TLS 1.2 and 1.3) or "modern" (1.3 alone).
        server: False for connections to endpoints; those offer OpenSSL's ciphers, of which the endpoint chooses.

    Raises:
        ValueError: no such profile.
    """
    if profile not in PROFILES:
        raise ValueError(f"no TLS profile {profile!r}; there are {' and '.join(PROFILES)}")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = PROFILES[profile]
    context.set_alpn_protocols(["http/1.1"])
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    if server:
        context.set_ciphers(_INTERMEDIATE)
        context.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE
        context.num_tickets = _TICKETS
    return context


def endpoint_context(*, ca: str = "", certificate: str = "", key: str = "", verify: str = "full") -> ssl.SSLContext:
    """The context of connections to endpoints.

    Args:
        ca: a file or PEM text to verify by; without one, by the system's store.
        certificate, key: what the router shows of itself, a file or PEM text each; without `key`, both stand in
            `certificate`.
        verify: "full" (the chain and the name) or "none".

    Raises:
        ValueError: which of them is not usable, and why.
    """
    context = profile_context("intermediate", server=False)
    if verify not in ("full", "none"):
        raise ValueError(f'verify is "full" or "none", not {verify!r}')
    if verify == "none":
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif ca:
        _trust(context, _read_authorities(ca, "ca"), "ca")
    else:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    if certificate:
        load_pair(context, read_pair(Certificate(("the client certificate",), certificate, key or certificate, 0.0)))
    elif key:
        raise ValueError("a key without its certificate")
    return context


def _read_authorities(ca: str, what: str) -> str:
    """PEM text of CA certificates as OpenSSL takes it, out of the file that `ca` names; `what` begins messages."""
    text = ca
    if _PEM not in ca:
        try:
            text = Path(ca).read_text("latin-1")
        except (OSError, ValueError) as error:
            where = repr(ca) if len(ca) <= _LONGEST_PATH and ca.isprintable() else "is no PEM text, and as a path"
            raise ValueError(f"{what} {where}: {getattr(error, 'strerror', None) or error}") from None
    # Only remarks between the certificates have other letters.
    return text.encode("ascii", "ignore").decode()


def _trust(context: ssl.SSLContext, text: str, what: str) -> None:
    """Adds CA certificates."""
    try:
        context.load_verify_locations(cadata=text)
    except (OSError, ValueError) as error:
        reason = reason_of(error) if isinstance(error, OSError) else "there is none in it"
        raise ValueError(f"{what}: no CA certificates in PEM form: {reason}") from None


class ServerObject(ssl.SSLObject):
    """The TLS of one client, and what looking up its certificate needs and finds."""

    #: Address that the client has connected to.
    local = ""
    #: Name that the client asked for.
    server_name: str | None = None
    #: Whether no certificate was found for it.
    refused = False


class _Built(NamedTuple):
    """A set of certificates, ready to be used."""

    #: Name -> context; wildcards as they are written, addresses in their shortest form.
    names: dict[str, ssl.SSLContext]
    #: By what is in it, so that what has not changed is not made again.
    contexts: dict[tuple[bytes, ...], ssl.SSLContext]


class Store:
    """The certificates of one listener.

    Args:
        profile: as of `profile_context`.
        default: name whose certificate is shown to clients that ask for an unknown name or none; "refuse" for none.
        client_auth: "off", "optional" or "required": whether clients show a certificate.
        client_ca: file or PEM text of the CAs that clients' certificates are verified by.

    Raises:
        ValueError: what of this cannot be.
    """

    def __init__(
        self,
        profile: str = "intermediate",
        *,
        default: str = _REFUSE,
        client_auth: str = "off",
        client_ca: str = "",
    ) -> None:
        if client_auth not in _CLIENT_AUTH:
            raise ValueError(f"client_auth is one of {', '.join(_CLIENT_AUTH)}, not {client_auth!r}")
        if client_auth != "off" and not client_ca:
            raise ValueError(f'client_auth = "{client_auth}" needs client_ca: the file of CAs to verify clients by')
        self._profile = profile
        self._default = "" if default == _REFUSE else _plain_name(default)
        self._client_auth = client_auth
        self._client_ca = _read_authorities(client_ca, "client_ca") if client_auth != "off" else ""
        self._base = self._make_base()
        self._renew_at: float | None = None
        self._built = _Built({}, {})

    def replace(self, certificates: Iterable[Certificate]) -> None:
        """Swaps all certificates for these, in one moment; open connections and sessions are not touched.

        Raises:
            ValueError: which certificates are not usable and why, all of them; the old ones stay.
        """
        self.swap(self.build(certificates))

    def build(self, certificates: Iterable[Certificate]) -> _Built:
        """What `swap` takes; 1.5 ms for each new certificate, so it may run in a thread. Raises as `replace`."""
        faults: list[str] = []
        best: dict[str, dict[str, KeyPair]] = {}
        built = _Built({}, {})
        for certificate in certificates:
            try:
                pair = read_pair(certificate)
                self._context_of((pair,), built)
            except ValueError as error:
                faults.append(str(error))
                continue
            for name in map(_plain_name, certificate.names):
                kinds = best.setdefault(name, {})
                if pair.kind not in kinds or pair.not_after > kinds[pair.kind].not_after:
                    kinds[pair.kind] = pair
        if faults:
            raise ValueError("; ".join(faults))
        for name, kinds in best.items():
            built.names[name] = self._context_of(tuple(kinds[kind] for kind in sorted(kinds)), built)
        return built

    def swap(self, built: _Built) -> None:
        """Uses another set from now on."""
        self._built = built

    def __len__(self) -> int:
        """How many names there are."""
        return len(self._built.names)

    def lookup(self, name: str | None, local: str = "") -> ssl.SSLContext | None:
        """The context for a client that asks for `name` at the address `local`; None if it is to be refused.

        The name itself goes before a wildcard, and that before the default; a wildcard stands for one label
        (RFC 6125 §6.4.3). Without a name, a certificate for the very address will do.
        """
        names = self._built.names
        found = _find(names, _plain_name(name)) if name else names.get(_plain_name(local)) if local else None
        return found or (_find(names, self._default) if self._default else None)

    def wrap(self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, local: str, now: float) -> ServerObject:
        """The TLS of a new client.

        Args:
            local: the address that it has connected to.
            now: seconds of a steady clock.
        """
        if self._renew_at is None:
            self._renew_at = now + _TICKET_KEYS
        elif now >= self._renew_at:
            self._base, self._renew_at = self._make_base(), now + _TICKET_KEYS
        made = self._base.wrap_bio(incoming, outgoing, server_side=True)
        assert isinstance(made, ServerObject)
        made.local = local
        return made

    def _make_base(self) -> ssl.SSLContext:
        context = self._make_context()
        context.sslobject_class = ServerObject
        # mypy knows only the signature for sockets.
        context.sni_callback = self._choose  # type: ignore[assignment]
        return context

    def _make_context(self) -> ssl.SSLContext:
        """As the base context: OpenSSL takes some settings from the first context and some from the chosen one."""
        context = profile_context(self._profile)
        if self._client_auth != "off":
            context.verify_mode = _CLIENT_AUTH[self._client_auth]
            _trust(context, self._client_ca, "client_ca")
        return context

    def _context_of(self, pairs: tuple[KeyPair, ...], built: _Built) -> ssl.SSLContext:
        key = tuple(pair.digest for pair in pairs)
        context = built.contexts.get(key) or self._built.contexts.get(key)
        if context is None:
            context = self._make_context()
            for pair in pairs:
                load_pair(context, pair)
        built.contexts[key] = context
        return context

    def _choose(self, made: ServerObject, name: str | None, _: ssl.SSLContext) -> int | None:
        """Called by OpenSSL once the client has said hello."""
        made.server_name = name
        found = self.lookup(name, made.local)
        if found is None:
            made.refused = True
            return ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME
        made.context = found
        return None


def _find(names: dict[str, ssl.SSLContext], name: str) -> ssl.SSLContext | None:
    return names.get(name) or names.get(f"*.{name.partition('.')[2]}")


def _plain_name(name: str) -> str:
    """A name as it stands in the index: lower case, an address in its shortest form."""
    if ":" in name or name[-1:].isdigit():
        try:
            address = ip_address(name.partition("%")[0])
        except ValueError:
            return name.lower()
        return str(getattr(address, "ipv4_mapped", None) or address)
    return name.lower().removesuffix(".")
