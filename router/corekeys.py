"""Keys of the core that stand among a plugin's options: taken out before the plugin's own options are read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from msgspec import Meta
from msgspec.structs import fields

from router.api import Options
from router.config import Duration, PluginRef, parse_duration
from router.options import PluginFault, read_options

__all__ = ["CORE_KEYS", "AffinityKeys", "ProbeKeys", "core_keys", "read_core_keys", "without_core_keys"]

_NEVER = float("inf")
#: Below this, probes are a load of their own (seconds).
_SHORTEST = 0.01


class AffinityKeys(Options, frozen=True):
    """What a pin to an endpoint that is not ready comes to."""

    on_unready: Literal["reselect", "refuse"] = "reselect"


class ProbeKeys(Options, frozen=True):
    """When an endpoint is asked, and how many answers change its state. Defaults: HAProxy's.

    Args:
        interval: seconds between two probes of an endpoint, up to a tenth more or less.
        timeout: seconds that a probe may take.
        fall: failures in a row that take an endpoint out.
        rise: passes in a row that bring it back; also the successes that end probation.
    """

    interval: Duration = Duration(2)
    timeout: Duration = Duration(1)
    fall: Annotated[int, Meta(ge=1, le=1000)] = 3
    rise: Annotated[int, Meta(ge=1, le=1000)] = 2


CORE_KEYS: dict[str, type[Options]] = {"affinity": AffinityKeys, "probe": ProbeKeys}


def core_keys(concern: str) -> tuple[str, ...]:
    """Names of the core's keys among the options of such a plugin."""
    kind = CORE_KEYS.get(concern)
    return () if kind is None else kind.__struct_fields__


def read_core_keys(concern: str, ref: PluginRef) -> Any:
    """The core's keys of a reference to a plugin, with their defaults.

    Raises:
        PluginFault: with every value that cannot be.
    """
    table = ref if isinstance(ref, dict) else {}
    given = {key: value for key, value in table.items() if key in core_keys(concern)}
    faults: list[PluginFault] = []
    keys: Any = None
    try:
        keys = read_options(CORE_KEYS[concern], given, concern)
    except PluginFault as fault:
        faults += fault.all
    faults += _too_short(concern, given)
    if faults:
        raise PluginFault(faults[0].message, hint=faults[0].hint, key=faults[0].key, others=faults[1:])
    return keys


def _too_short(concern: str, given: dict[str, Any]) -> Iterator[PluginFault]:
    for field in fields(CORE_KEYS[concern]):
        if field.type is Duration and field.name in given:
            try:
                seconds = parse_duration(given[field.name])
            except ValueError:  # said already
                continue
            if not _SHORTEST <= seconds < _NEVER:
                words = f'{concern}: {field.name}: this must be a time of at least "10ms", such as "2s"'
                yield PluginFault(words, key=(field.name,))


def without_core_keys(concern: str, ref: PluginRef) -> PluginRef:
    """A reference with the plugin's own options alone."""
    known = core_keys(concern)
    return ref if isinstance(ref, str) else {key: value for key, value in ref.items() if key not in known}
