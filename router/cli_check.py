"""`router check`: everything that `router run` would refuse, without opening a socket.

The checks stand in configfile, configcheck and prepare; here they are run together and their faults shown.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from router.cli_output import print_faults, print_json

if TYPE_CHECKING:
    from router.config import Config
    from router.faults import ConfigFaults, Fault
    from router.prepare import Prepared

__all__ = ["check_file", "prepare_file", "prepare_tables", "show_faults", "summary"]

_PLUGIN_KEYS = {"selection", "affinity", "detectors", "filters", "observers", "services", "disable"}


def prepare_file(file: Path) -> Prepared:
    """Reads and checks one configuration file; its folder is where plugins beside it are looked for.

    Raises:
        ConfigFaults: with every fault, but for what may only follow from another.
    """
    from router.configfile import ConfigFaults, load
    from router.prepare import prepare

    folder = file.absolute().parent
    try:
        config, source = load(file, os.environ)
    except ConfigFaults as error:
        raise _completed(error, file, folder) from None
    return prepare(config, source, folder)


def prepare_tables(tables: dict[str, Any], name: str) -> Prepared:
    """Checks a configuration that is in no file; faults name `name` in its place. Raises ConfigFaults as above."""
    from router.configdecode import decode
    from router.faults import Source
    from router.prepare import prepare

    source = Source(name, "", "toml", tables)
    return prepare(decode(source, Path.cwd(), {}), source, Path.cwd())


def _completed(unread: ConfigFaults, file: Path, folder: Path) -> ConfigFaults:
    """The same with all that is wrong in the parts that could be read."""
    from router.configcheck import load_checked
    from router.faults import ConfigFaults
    from router.prepare import prepare

    if unread.partial is None:
        return unread
    faults = list(unread.faults)
    try:
        load_checked(file, os.environ)
    except ConfigFaults as error:
        faults = list(error.faults)
    known = {fault.key for fault in faults}
    try:
        prepare(unread.partial, unread.source, folder)
    except ConfigFaults as error:
        faults += [fault for fault in error.faults if fault.key not in known and _is_about_plugin(fault)]
    return ConfigFaults(faults, unread.partial, unread.source)


def _is_about_plugin(fault: Fault) -> bool:
    return not _PLUGIN_KEYS.isdisjoint(re.split(r"[.\[]", fault.key))


def check_file(file: Path, as_json: bool) -> int:
    """Checks one configuration file, prints the result on stdout and returns the exit code: 0 or 2."""
    from router.configfile import ConfigFaults

    try:
        prepared = prepare_file(file)
    except ConfigFaults as error:
        return show_faults(error.faults, as_json)
    if as_json:
        print_json({"ok": True, "faults": []})
    else:
        print(f"{file}: {summary(prepared.config)}: ok")
    return 0


def show_faults(faults: Sequence[Fault], as_json: bool) -> int:
    """Prints what is wrong with a file on stdout and returns the exit code for it."""
    if as_json:
        print_json({"ok": False, "faults": faults})
    else:
        print_faults(faults, sys.stdout)
    return 2


def summary(config: Config) -> str:
    """How much a configuration holds, in one line."""
    counts = {
        "listener": len(config.listeners),
        "route": len(config.routes),
        "pool": len(config.pools),
        "endpoint": sum(len(pool.endpoints) for pool in config.pools),
    }
    return ", ".join(f"{count} {noun}" + "s" * (count != 1) for noun, count in counts.items())
