"""TLS: the certificates that listeners serve with, and where they come from.

These import from `router` only. Which certificate a client gets, and what becomes of one that is replaced, is the
core's decision.
"""

from router import Register, hookimpl
from router_tls.acme import AcmeOptions, AcmeSource
from router_tls.files import FilesOptions, FilesSource
from router_tls.self_signed import SelfSigned, SelfSignedOptions

__all__ = ["register_certificates"]


@hookimpl
def register_certificates(register: Register) -> None:
    register("files", FilesSource, FilesOptions)
    register("self_signed", SelfSigned, SelfSignedOptions)
    register("acme", AcmeSource, AcmeOptions)
