"""`router check`: everything that `router run` would refuse, without opening a socket.

The checks stand in configfile, configcheck and prepare; here they are run together and their faults shown.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from router.cli_output import print_faults, print_json

if TYPE_CHECKING:
    from router.config import Config
    from router.faults import Fault
    from router.prepare import Prepared

__all__ = ["check_file", "prepare_tables", "show_faults", "summary"]


def prepare_tables(tables: dict[str, Any], name: str) -> Prepared:
    """Checks a configuration that is in no file; faults name `name` in its place. Raises ConfigFaults."""
    from router.configdecode import decode
    from router.faults import Source
    from router.prepare import prepare

    source = Source(name, "", "toml", tables)
    return prepare(decode(source, Path.cwd(), {}), source, Path.cwd())


def check_file(file: Path, as_json: bool) -> int:
    """Checks one configuration file, prints the result on stdout and returns the exit code: 0 or 2."""
    from router.configfile import ConfigFaults
    from router.prepare import prepare_file
    from router.securing import secure

    try:
        prepared = prepare_file(file)
        secure(prepared)
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
