"""Strings that come from outside the configuration file: ${VAR} from the environment, { file = ... } from a file.

What they hold may be secret, so no message of this module repeats it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from router.faults import did_you_mean

__all__ = ["MAX_FILE_BYTES", "Problem", "fill", "is_file_table", "is_unicode", "read_file"]

MAX_FILE_BYTES = 1 << 20

_VARIABLE = re.compile(r"\$\$|\$\{([^}]*)\}|\$\{")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class Problem(NamedTuple):
    """Why a string cannot be filled in, and what would be right."""

    message: str
    hint: str = ""


def is_file_table(data: Any) -> bool:
    """Whether this is exactly { file = "..." }."""
    return isinstance(data, dict) and len(data) == 1 and isinstance(data.get("file"), str)


def is_unicode(text: str) -> bool:
    """False for lone surrogates, which JSON escapes and the environment can bring in."""
    try:
        return text.isascii() or bool(text.encode())
    except UnicodeEncodeError:
        return False


def fill(text: str, env: Mapping[str, str]) -> tuple[str, list[Problem]]:
    """The text with each ${VAR} replaced and each $$ made a dollar sign, and all that stood in the way.

    What a variable holds is taken as it is: a dollar sign in it stands for itself.
    """
    problems: list[Problem] = []
    if "$" in text:
        text = _VARIABLE.sub(lambda found: _variable(found, env, problems), text)
    if not is_unicode(text):
        problems.append(Problem("this text is not valid Unicode"))
    return text, problems


def _variable(found: re.Match[str], env: Mapping[str, str], problems: list[Problem]) -> str:
    if found[0] == "$$":
        return "$"
    name = found[1]
    if name is None or not _NAME.fullmatch(name):
        problems.append(Problem("a variable is written ${NAME}, and a dollar sign before a brace is doubled: $${"))
    elif name not in env:
        hint = did_you_mean(name, env) or f"set it, or write $${{{name}}} if no variable is meant"
        problems.append(Problem(f"the environment variable {name} is not set", hint))
    else:
        return env[name]
    return ""


def read_file(folder: Path, name: str) -> str | Problem:
    """The text of a file without its last line end.

    Args:
        folder: what a relative name is relative to.
        name: as the configuration gives it.
    """
    path = folder / name
    try:
        # A pipe would block; a missing file is reported by open.
        if path.exists() and not path.is_file():
            return Problem("this is not a regular file")
        with open(path, "rb") as file:
            raw = file.read(MAX_FILE_BYTES + 1)
        if len(raw) > MAX_FILE_BYTES:
            return Problem("the file is larger than 1 MiB")
        text = raw.decode()
    except UnicodeDecodeError:
        return Problem("the file is not UTF-8 text")
    except OSError as error:
        return Problem(f"the file cannot be read: {error.strerror}")
    except ValueError:
        return Problem("this is not a file name")
    return text.removesuffix("\n").removesuffix("\r")
