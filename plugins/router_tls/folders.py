"""Which certificate goes with which key: in folders, among files named one by one, or in pairs as they are written.

A key belongs to the certificate with its public key. Names only say where to look beside a file, and what a complaint
is about. Nothing is kept from one look to the next.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from router_tls.blocks import CertificateError, lacking
from router_tls.pem import is_authority, key_of_certificate, key_of_private
from router_tls.reading import File, open_file, reason_of, shown

__all__ = ["Fault", "Found", "Match", "Pair", "find_pairs"]

_SUFFIXES = (".pem", ".crt", ".cer", ".key")
#: What certbot and acme.sh write: the whole chain stands in one file, its parts beside it.
_WHOLE = re.compile(r"fullchain(\d*\.\w+)")
_PART = re.compile(r"(?:cert|chain)(\d*\.\w+)")
#: Names of certificates -> of their keys, beside those with the same stem.
_KEY_NAMES = (
    (re.compile(r"(?:fullchain|cert)(\d*\.\w+)"), r"privkey\1"),
    (re.compile(r"cert(\d*\.\w+)"), r"key\1"),
)


class Pair(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A certificate's file and that of its key, where names and places do not tell."""

    certificate: str
    key: str


class Match(NamedTuple):
    """A certificate and its key. The file of the certificate is what it is known by from one look to the next."""

    path: Path
    name: str
    chain: bytes
    key: bytes
    key_file: File


class Fault(NamedTuple):
    """Something wrong.

    Attributes:
        text: for people, or "" where another fault says it.
        path: the file or folder that is wrong, not gone: what was last good of it stays.
    """

    text: str
    path: Path | None = None


class Found(NamedTuple):
    """What one look found.

    Attributes:
        watched: files and folders whose change may change the result.
    """

    matches: list[Match]
    faults: list[Fault]
    watched: set[Path]


def find_pairs(entries: Sequence[str | Pair], start: Path) -> Found:
    """Looks at all entries, which are relative to the folder `start`. Raises nothing: what is wrong is in `faults`."""
    found = Found([], [], {start / entry for entry in entries if isinstance(entry, str)})
    files = []
    for entry in entries:
        if isinstance(entry, Pair):
            _look_at_pair(entry, start, found)
        elif os.path.isdir(start / entry):
            _look_at_folder(start / entry, entry, found)
        else:
            files.append(open_file(start / entry, shown(entry)))
    _look_at_files(files, found)
    found.watched.update(match.key_file.path for match in found.matches)
    return found


def _look_at_pair(pair: Pair, start: Path, found: Found) -> None:
    first, second = (open_file(start / name, shown(name)) for name in (pair.certificate, pair.key))
    found.watched.update((first.path, second.path))
    faults = [fault for fault in (_lack(first, "certificate"), _lack(second, "private key")) if fault]
    found.faults.extend(Fault(fault, first.path) for fault in faults)
    if not faults:
        name = f"{first.name} with {second.name}"
        found.matches.append(Match(first.path, name, first.data, second.data, second))


def _look_at_folder(folder: Path, entry: str, found: Found) -> None:
    matches, faults = len(found.matches), len(found.faults)
    for place in _look_in(folder, entry, found):
        _look_in(place, os.path.join(entry, place.name), found)
    if len(found.matches) == matches and not any(fault.text for fault in found.faults[faults:]):
        sought = ", ".join(f"*{suffix}" for suffix in _SUFFIXES)
        found.faults.append(
            Fault(f"{shown(entry)}: no certificate with its key in this folder, nor one below ({sought})")
        )


def _look_in(folder: Path, entry: str, found: Found) -> list[Path]:
    """Matches the files of one folder; returns the folders in it."""
    found.watched.add(folder)
    try:
        paths = _listed(folder)
    except OSError as error:
        found.faults.append(Fault(f"{shown(entry)}: {reason_of(error)}", folder))
        return []
    folders = [path for path in paths if os.path.isdir(path)]
    files = _without_parts([path for path in paths if path not in folders and path.suffix.lower() in _SUFFIXES])
    found.watched.update(files)
    ring = _Ring([open_file(path, shown(os.path.join(entry, path.name))) for path in files], [])
    ring.match(found)
    # Issuers stand beside certificates for others: for clients to be given, or for chains.
    ring.say(found, [file for file in ring.lonely if not ring.is_issuer(file)])
    return folders


def _listed(folder: Path) -> list[Path]:
    # Kubernetes keeps what its links lead to in hidden folders.
    return sorted(folder / name for name in os.listdir(folder) if not name.startswith("."))


def _without_parts(paths: list[Path]) -> list[Path]:
    whole = {found[1] for path in paths if (found := _WHOLE.fullmatch(path.name))}
    return [path for path in paths if not ((found := _PART.fullmatch(path.name)) and found[1] in whole)]


def _look_at_files(files: list[File], found: Found) -> None:
    lent: dict[Path, File] = {}
    for file in files:
        if not (file.fault or file.pem.chain or file.pem.keys):
            found.faults.append(Fault(f"{file.name}: {lacking('certificate', file.pem)}", file.path))
        if file.pem.chain and not file.pem.keys:
            found.watched.update(_siblings(file.path))
            lent.update((each.path, each) for each in _beside(file, found))
    for file in files:
        lent.pop(file.path, None)
    ring = _Ring(files, list(lent.values()))
    ring.match(found)
    ring.say(found, ring.lonely)


def _beside(file: File, found: Found) -> list[File]:
    """The files that its key may be in: those named after it, or else all of its folder."""
    named = [path for path in _siblings(file.path) if os.path.lexists(path)]
    if not named:
        folder = file.path.parent
        found.watched.add(folder)
        try:
            named = [path for path in _listed(folder) if path.suffix.lower() in _SUFFIXES]
        except OSError:  # a folder may be entered and yet not listed: then names have to do
            return []
    return [open_file(path, shown(os.path.join(os.path.dirname(file.name), path.name))) for path in named]


def _siblings(path: Path) -> list[Path]:
    """Where the key of a certificate stands by the usual names."""
    names = [f"{path.stem}.key", f"{path.stem.removesuffix('-cert')}-key.pem"]
    names += [found.expand(key) for pattern, key in _KEY_NAMES if (found := pattern.fullmatch(path.name))]
    return [path.with_name(name) for name in names]


class _Ring:
    """Files that are matched with each other.

    Args:
        files: those that are spoken for.
        lent: files that only give keys, and of which nothing is said where they are not needed.

    Attributes:
        lonely: those of the files that have a certificate without its key, once they are matched.
    """

    def __init__(self, files: list[File], lent: list[File]) -> None:
        self._files = files
        self._known = {file.path: file for file in (*files, *lent)}
        self._faults = {file.path: file.fault for file in self._known.values()}
        #: By the public key: the text, and the first file that it is in.
        self._keys: dict[bytes, tuple[str, File]] = {}
        self._held: list[tuple[bytes, File]] = []
        self._used: set[bytes] = set()
        self.lonely: list[File] = []
        for file in self._known.values():
            for text in file.pem.keys:
                try:
                    public = key_of_private(text, file.name)
                except CertificateError as error:
                    self._faults[file.path] = str(error)
                else:
                    self._keys.setdefault(public, (text, file))
                    self._held.append((public, file))

    def match(self, found: Found) -> None:
        """Adds what belongs together, and what cannot be read."""
        for file in self._files:
            if file.pem.chain:
                self._match(file, found)
            if self._faults[file.path]:
                found.faults.append(Fault(self._faults[file.path], file.path))

    def _match(self, file: File, found: Found) -> None:
        try:
            public = key_of_certificate(file.pem.chain[0], file.name)
        except CertificateError as error:
            self._faults[file.path] = str(error)
            return
        if public not in self._keys:
            self.lonely.append(file)
            return
        self._used.add(public)
        text, owner = self._keys[public]
        found.matches.append(Match(file.path, file.name, file.data, text.encode(), owner))

    def is_issuer(self, file: File) -> bool:
        """Whether a certificate is that of an issuer whose key nobody would look for here."""
        named = any(path in self._known for path in _siblings(file.path))
        return not (file.pem.keys or named) and is_authority(file.pem.chain[0])

    def say(self, found: Found, blamed: list[File]) -> None:
        """Adds what is wrong about certificates without keys, those in `blamed`, or else about keys without any."""
        found.faults.extend(Fault(self._why(file) if file in blamed else "", file.path) for file in self.lonely)
        if blamed:
            return
        # Whose certificate cannot be read is not without one.
        excused = {path for file in self._files if self._faults[file.path] for path in _siblings(file.path)}
        for public, file in self._held:
            if public not in self._used and file in self._files and file.path not in excused:
                found.faults.append(Fault(f"{file.name}: no certificate for this key: put it beside", file.path))

    def _why(self, file: File) -> str:
        """Why a certificate has no key."""
        if self._faults[file.path]:
            return ""
        if file.pem.keys:
            return f"{file.name}: the key in it does not match the certificate: take the one it was requested with"
        sibling = next((self._known[path] for path in _siblings(file.path) if path in self._known), None)
        if sibling is None:
            return f"{file.name}: no key for it: put it beside, as {shown(file.path.stem)}.key"
        if sibling.pem.keys and not self._faults[sibling.path]:
            return f"{file.name}: the key in {sibling.name} does not match: take the one it was requested with"
        return self._faults[sibling.path] or f"{sibling.name}: {lacking('private key', sibling.pem)}"


def _lack(file: File, what: str) -> str:
    """Why there is no certificate, or no private key, in a file; "" if there is."""
    held = file.pem.chain if what == "certificate" else file.pem.keys
    return file.fault or ("" if held else f"{file.name}: {lacking(what, file.pem)}")
