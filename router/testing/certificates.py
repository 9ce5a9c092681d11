"""The contract of a certificate source: complete sets that a TLS server can load, and no key where others can read it.

What is loaded is written nowhere but into a folder that only this user can read, and that is gone at once.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import math
import os
import ssl
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from router import Certificate, CertificateSource, Options
from router.testing.law import Made, law, make_plugin, unraised
from router.testing.watched import Watched, check_left, check_reason

__all__ = ["check_certificates"]

_WELL_KNOWN = "/.well-known/acme-challenge/"
#: Characters of the reason for which there is no set.
_MOST_TEXT = 500
#: load() names every file that is wrong.
_MOST_LOADED = 100_000


async def check_certificates(
    factory: Made,
    options: Options | None = None,
    *,
    change: Callable[[], object] | None = None,
    ill: Options | None = None,
) -> None:
    """Holds a source of certificates to its contract.

    Outside of an event loop: `asyncio.run(check_certificates(…))`.

    Args:
        factory: what the plugin registers, or a class for "module:Name".
        options: its options, with which it finds certificates; the defaults of its nested Options, or none, if left
            out.
        change: makes the next set another one, as by writing to a file; what it returns is awaited if it can be.
        ill: options with which there is nothing to find, such as a file that does not exist.

    Raises:
        AssertionError: naming the law that is broken.
    """
    before = asyncio.all_tasks()
    with _heard() as lines:
        source: CertificateSource = make_plugin(factory, options, 1)
        loaded = _loaded(source)
        found = await _watched(source, loaded, change)
        if ill is not None:
            await _refused(make_plugin(factory, ill, 1))
        await check_left(before)
    said = [line for each in (*loaded, *found) for line in _secret_lines(each) if any(line in text for text in lines)]
    law(not said, "no key is written to the log")


async def _watched(
    source: CertificateSource, loaded: list[Certificate], change: Callable[[], object] | None
) -> list[Certificate]:
    challenges: dict[str, bytes] = {}
    found: list[Certificate] = []

    def checked(certificates: Any) -> list[Certificate]:
        _check_challenges(challenges)
        law(bool(certificates), "a set holds at least one certificate: where there is none, a watch waits or raises")
        found.extend(_checked(certificates))
        return list(certificates)

    def over() -> None:
        law(not challenges, "a watch that is over takes its challenges back", ", ".join(challenges))

    watched = Watched(lambda: source.watch(challenges), checked, "certificates", _MOST_TEXT, over)
    await watched.check(change)
    return found


async def _refused(source: CertificateSource) -> None:
    """load() and the first watch both say why there is nothing."""
    load = getattr(source, "load", None)
    if load is not None:
        try:
            found = load()
        except Exception as error:
            law(isinstance(error, ValueError), "what load() raises is a ValueError", repr(error))
            check_reason(error, "what load() raises", _MOST_LOADED)
        else:
            law(not found, "load() gives what stands already, or says what is wrong with it", f"gave {found}")
    await Watched(lambda: source.watch({}), list, "certificates", _MOST_TEXT).refuses()


def _loaded(source: CertificateSource) -> list[Certificate]:
    """What stands already, for a source that can tell without waiting."""
    load = getattr(source, "load", None)
    if load is None:
        return []
    found = unraised("load() raises only where something is wrong", load)
    if inspect.iscoroutine(found):
        found.close()
    law(not inspect.isawaitable(found), "load() is a plain `def`: it is called before the event loop runs")
    return _checked(found)


def _checked(certificates: Any) -> list[Certificate]:
    fine = isinstance(certificates, Sequence) and not isinstance(certificates, str | bytes)
    law(fine, "a set is complete, and a list or tuple", type(certificates).__name__)
    stranger = next((type(each).__name__ for each in certificates if not isinstance(each, Certificate)), "")
    law(not stranger, "a set consists of Certificate alone", stranger)
    for certificate in certificates:
        _check_names(certificate)
        fine = math.isfinite(certificate.not_after) and certificate.not_after > 0
        law(fine, "not_after is in seconds since the epoch", repr(certificate.not_after))
        _check_served(certificate)
    law(len(set(certificates)) == len(certificates), "no certificate is there twice in a set", repr(certificates))
    return list(certificates)


def _check_names(certificate: Certificate) -> None:
    names: Any = certificate.names
    fine = isinstance(names, tuple) and bool(names) and all(isinstance(name, str) for name in names)
    law(fine, "a certificate has names: a tuple of host names and addresses", repr(names))
    odd = next((name for name in names if not name or not name.isprintable() or name != name.lower()), None)
    law(odd is None, "a name is printable and in lower case", repr(odd))


def _check_served(certificate: Certificate) -> None:
    law(not any(line in repr(certificate) for line in _secret_lines(certificate)), "a certificate's repr shows no key")
    law("PRIVATE KEY-----" not in _text(certificate.chain), "the chain holds no key: clients are given it")
    with TemporaryDirectory() as folder:
        chain, key = Path(folder, "chain.pem"), Path(folder, "key.pem")
        chain.write_text(_text(certificate.chain))
        key.write_text(_text(certificate.key))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            # An encrypted key would ask for its password on the terminal, and wait.
            context.load_cert_chain(chain, key, password=lambda: "")
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", None) or type(error).__name__
            law(False, "a TLS server can load each certificate with its key, which is not encrypted", str(reason))


def _text(pem: str) -> str:
    """A PEM text, or what stands at the path that is given in its place."""
    if pem.startswith("-----BEGIN"):
        return pem
    law(os.path.isfile(pem), "chain and key are PEM texts that begin with -----BEGIN, or paths of files")
    return Path(pem).read_text()


def _secret_lines(certificate: Certificate) -> list[str]:
    """The lines of a key that tell something of it."""
    return [line for line in _text(certificate.key).splitlines() if len(line) >= 40 and "-----" not in line]


def _check_challenges(challenges: dict[Any, Any]) -> None:
    for path, body in challenges.items():
        fine = isinstance(path, str) and path.startswith(_WELL_KNOWN) and len(path) > len(_WELL_KNOWN)
        law(fine, f"a challenge's path begins with {_WELL_KNOWN}, and a token follows", repr(path))
        law(isinstance(body, bytes), "a challenge's answer is bytes", type(body).__name__)


@contextmanager
def _heard() -> Iterator[list[str]]:
    """All that is logged meanwhile."""
    lines: list[str] = []

    class Hearing(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(self.format(record))

    hearing = Hearing()
    logging.getLogger().addHandler(hearing)
    try:
        yield lines
    finally:
        logging.getLogger().removeHandler(hearing)
