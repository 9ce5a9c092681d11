"""Which certificates stand while their files change, and when something is said about it.

Files are written one after the other, so what is wrong for a moment is not spoken of; the certificate that was last
good stays meanwhile. What is out of date never takes the place of what is not. Nothing is read here.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from router import Certificate
from router_tls.folders import Fault
from router_tls.pem import Examined

__all__ = ["Look", "Standing"]

log = logging.getLogger("router_tls")

#: Seconds for which something has to be wrong, or gone, until it counts.
_SETTLED = 3.0
#: Seconds until a certificate that is not valid yet is looked at again, at least and at most: clocks are set.
_SOONEST, _LATEST = 1.0, 3600.0


class Look(NamedTuple):
    """What stands in the files at one moment.

    Attributes:
        made: by the certificate's file: the name for messages, and the certificate, whatever its dates.
        watched: files and folders whose change may change this.
    """

    made: dict[Path, tuple[str, Examined]]
    faults: Sequence[Fault]
    watched: set[Path]

    def certificates(self, wall: float) -> list[Certificate]:
        """Those to serve with, each once; of those with the same leaf, the one with the longest chain."""
        return distinct(list(servable(self.made, wall).values()))

    def complaints(self, wall: float) -> list[str]:
        """All that is wrong, in no more than one sentence a file. `wall`: seconds since the epoch.

        A certificate that is out of date is wrong only if no other has its names.
        """
        needed = (self.made[path] for path in servable(self.made, wall))
        dated = ((name, examined.date_fault(wall)) for name, examined in needed)
        texts = [*(fault.text for fault in self.faults), *(f"{name}: {fault}" for name, fault in dated if fault)]
        return list(dict.fromkeys(filter(None, texts)))


class Standing:
    """The certificates of one source over time."""

    __slots__ = ("_certificates", "_said", "_serving", "_since", "_waiting")

    def __init__(self) -> None:
        #: By the certificate's file: the name for messages, and what was last good of it.
        self._certificates: dict[Path, tuple[str, Examined]] = {}
        #: Of these, what is to serve.
        self._serving: dict[Path, Certificate] = {}
        #: What is wrong -> since when.
        self._since: dict[Hashable, float] = {}
        self._said: set[str] = set()
        #: What was said of those that wait for their date.
        self._waiting: set[str] = set()

    def certificates(self) -> list[Certificate]:
        """Those to serve with."""
        return distinct(list(self._serving.values()))

    def take(self, look: Look, now: float, wall: float) -> float | None:
        """Takes over what is good, and speaks of what has been wrong for a while.

        Args:
            now: seconds of a monotonic clock.
            wall: seconds since the epoch.

        Returns:
            Seconds after which another look is due though nothing changes, or None.
        """
        # By what tells whether it is the same as before.
        wrong: dict[Hashable, str] = {}
        due: list[float] = []
        new = dict(self._dated(look, wall, wrong, due))
        broken = {fault.path for fault in look.faults}
        kept = [path for path in self._certificates if path not in new and broken & {path, *path.parents}]
        new.update((path, self._certificates[path]) for path in kept)
        places = {place for path in kept for place in (path, *path.parents)}
        for fault in filter(_has_text, look.faults):
            wrong[fault.text] = fault.text + ("; what was good there stays" if fault.path in places else "")
        self._drop(new, wrong, now)
        self._choose(dict(sorted(new.items())), wall, wrong, due)
        self._since = {what: self._since.get(what, now) for what in wrong}
        if new:
            due += self._speak(wrong, now)
        return min(due, default=None)

    def _dated(
        self, look: Look, wall: float, wrong: dict[Hashable, str], due: list[float]
    ) -> dict[Path, tuple[str, Examined]]:
        """What was read, but for what is out of date while the one before in the same file is not."""
        new = {}
        for path, (name, examined) in look.made.items():
            new[path] = (name, examined)
            _, old = self._certificates.get(path, ("", None))
            if old is None or old == examined:
                continue
            fault = examined.date_fault(wall)
            if not fault or old.date_fault(wall):
                log.info("%s: a new certificate", name)
                continue
            new[path] = (name, old)
            wrong[name, "dates"] = f"{name}: {fault}; the one before it stays"
            due += _dates(examined, wall)
        return new

    def _choose(
        self, held: dict[Path, tuple[str, Examined]], wall: float, wrong: dict[Hashable, str], due: list[float]
    ) -> None:
        """Serves what is in date, and of the rest what cannot be done without."""
        serving = servable(held, wall)
        waiting = set()
        for path, (name, examined) in held.items():
            due += _dates(examined, wall)
            fault = examined.date_fault(wall)
            state, _, _ = fault.partition(": ")
            if not fault:
                if self._certificates.get(path) == held[path] and self._serving.get(path) != serving[path]:
                    log.info("%s: valid by now: its certificate is served", name)
            elif path in serving:
                wrong[name, "dates"] = f"{name}: {fault}"
            elif examined.not_before > wall:
                waiting.add(f"{name}: {state}: it waits until then, for others have its names")
            else:
                wrong[name, "dates"] = f"{name}: {state}: left out, for others have its names"
        for text in sorted(waiting - self._waiting):
            log.info("%s", text)
        self._certificates, self._serving, self._waiting = held, serving, waiting

    def _drop(self, new: dict[Path, tuple[str, Examined]], wrong: dict[Hashable, str], now: float) -> None:
        """Leaves out whose file is gone for good, unless no other would be left."""
        gone = {path: self._certificates[path] for path in self._serving if path not in new}
        rest = "its certificate is served no longer" if new else "the last certificates stay until there are others"
        for path, (name, _) in gone.items():
            wrong[path] = f"{name}: gone; {rest}"
        stay = [path for path in gone if not new or now - self._since.get(path, now) < _SETTLED]
        new.update((path, gone[path]) for path in stay)

    def _speak(self, wrong: dict[Hashable, str], now: float) -> list[float]:
        """Says once what is wrong for long enough; returns in how many seconds the rest is."""
        left = []
        for what, text in wrong.items():
            age = now - self._since[what]
            if age < _SETTLED:
                left.append(_SETTLED - age)
            elif text not in self._said:
                log.warning("%s", text)
                self._said.add(text)
        self._said.intersection_update(wrong.values())
        return left


def _has_text(fault: Fault) -> bool:
    return bool(fault.text)


def _dates(examined: Examined, wall: float) -> list[float]:
    """In how many seconds a look is due, for it begins or ceases to be valid."""
    if examined.not_before > wall:
        return [min(max(examined.not_before - wall, _SOONEST), _LATEST)]
    left = examined.certificate.not_after - wall
    return [max(left, _SOONEST)] if left >= 0 else []


def servable(held: Mapping[Path, tuple[str, Examined]], wall: float) -> dict[Path, Certificate]:
    """Those in date, and those that are not for the names alone that none in date has.

    Of several for one name a store takes the one that ends last, which may be one that has not begun.

    Args:
        wall: seconds since the epoch.
    """
    faulty = {path for path, (_, examined) in held.items() if examined.date_fault(wall)}
    covered = {name for path in held.keys() - faulty for name in held[path][1].certificate.names}
    found = {}
    for path, (_, examined) in held.items():
        certificate = examined.certificate
        if path in faulty:
            names = tuple(name for name in certificate.names if not {name, _wildcard(name)} & covered)
            certificate = msgspec.structs.replace(certificate, names=names)
        if certificate.names:
            found[path] = certificate
    return found


def _wildcard(name: str) -> str:
    return f"*.{name.partition('.')[2]}"


def distinct(certificates: Sequence[Certificate]) -> list[Certificate]:
    """Each leaf once, with the longest of its chains: who serves with a shorter one is not believed everywhere."""
    longest: dict[str, Certificate] = {}
    for certificate in certificates:
        leaf = certificate.chain.partition("-----END")[0]
        if leaf not in longest or len(longest[leaf].chain) < len(certificate.chain):
            longest[leaf] = certificate
    return list(longest.values())
