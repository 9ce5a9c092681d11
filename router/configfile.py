"""Reading a configuration file: bytes to text to data to structs, every fault with its place in the file.

What the structs are stands in config.py, checks across them in configcheck.py. A file is never run or fetched.
"""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from router.config import Config
from router.configdecode import decode
from router.faults import ConfigFaults, Fault, Source, did_you_mean
from router.positions import Format, yaml_loader

__all__ = ["ConfigFaults", "Fault", "Source", "did_you_mean", "load", "parse"]

_FORMATS: dict[str, Format] = {".json": "json", ".yaml": "yaml", ".yml": "yaml"}
_TOML_PLACE = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")


def load(path: Path | str, env: Mapping[str, str] = os.environ) -> tuple[Config, Source]:
    """Reads a configuration file; the suffix says how: .json, .yaml or .yml, otherwise TOML.

    Args:
        path: of the file. Relative { file = ... } in it are relative to its folder.
        env: what ${VAR} is looked up in.

    Raises:
        ConfigFaults: with every fault at once.
    """
    path = Path(path)
    name = str(path)
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise _refused(
            name, "there is no such file", "name another one, or write it; the README shows the smallest"
        ) from None
    except IsADirectoryError:
        raise _refused(name, "this is a folder", "name the file in it, such as router.toml") from None
    except PermissionError:
        raise _refused(name, "this file may not be read", "give the router's user the right to read it") from None
    except (OSError, ValueError) as error:
        raise _refused(name, f"this file cannot be read: {error}") from None
    format = _FORMATS.get(path.suffix.lower(), "toml")
    return parse(_decoded(raw, name, format), name, format, path.absolute().parent, env)


def parse(
    text: str, name: str, format: Format, folder: Path, env: Mapping[str, str] = os.environ
) -> tuple[Config, Source]:
    """Reads a configuration from text.

    Args:
        text: the whole file.
        name: of the file, for messages.
        format: "toml", "json" or "yaml".
        folder: what { file = ... } is relative to.
        env: what ${VAR} is looked up in.

    Raises:
        ConfigFaults: with every fault at once; a syntax error is the only one.
    """
    source = Source(name, text, format)
    try:
        source.data = _READERS[format](source)
    except RecursionError:
        raise ConfigFaults([source.fault_at(1, 1, "this file is nested too deeply")]) from None
    if source.data is None:
        source.data = {}
    return decode(source, folder, env), source


def _refused(name: str, message: str, hint: str = "") -> ConfigFaults:
    return ConfigFaults([Source(name, "", "toml").fault_at(0, 0, message, hint)])


def _decoded(raw: bytes, name: str, format: Format) -> str:
    try:
        # A byte order mark is what some editors put first; no parser wants it.
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = raw[: error.start]
        line = before.count(b"\n") + 1
        column = len(before[before.rfind(b"\n") + 1 :].decode("utf-8-sig")) + 1
        source = Source(name, raw.decode("utf-8-sig", errors="replace"), format)
        message = f"this file is not UTF-8 text: byte 0x{raw[error.start]:02x}"
        raise ConfigFaults([source.fault_at(line, column, message, "save it as UTF-8")]) from None


def _read_toml(source: Source) -> Any:
    try:
        return tomllib.loads(source.text)
    except ValueError as error:
        message = str(error)
        place = _TOML_PLACE.search(message)
        line, column = 1, 1
        if place and place[1]:
            line, column = int(place[1]), int(place[2])
        elif place:
            line, column = _end(source.text)
        message = message[: place.start()] if place else message
        raise _syntax(source, "TOML", line, column, message) from None


def _read_json(source: Source) -> Any:
    repeated = False

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal repeated
        read = dict(items)
        repeated = repeated or len(read) < len(items)
        return read

    try:
        data = json.loads(source.text, object_pairs_hook=pairs)
    except json.JSONDecodeError as error:
        raise _syntax(source, "JSON", error.lineno, error.colno, error.msg) from None
    except ValueError as error:
        raise _syntax(source, "JSON", 1, 1, str(error)) from None
    if repeated:
        place = source.positions.at(source.positions.repeated or 0)
        raise _syntax(source, "JSON", *place, "this key stands twice in one table")
    return data


def _read_yaml(source: Source) -> Any:
    try:
        loader = yaml_loader()(source.text)
    except ImportError:
        message = "a YAML configuration needs PyYAML"
        raise ConfigFaults([source.fault_at(0, 0, message, "pip install 'edge-router[yaml]'")]) from None
    except Exception as error:
        # The reader refuses control characters before there is a loader.
        raise _yaml_fault(source, error) from None
    try:
        return loader.get_single_data()
    except RecursionError:
        raise
    except Exception as error:
        # PyYAML lets KeyError, IndexError, AttributeError and more out for malformed tagged values.
        raise _yaml_fault(source, error) from None
    finally:
        loader.dispose()


def _yaml_fault(source: Source, error: Exception) -> ConfigFaults:
    mark = getattr(error, "problem_mark", None)
    offset = mark.index if mark is not None else getattr(error, "position", 0)
    offset = min(offset, len(source.text)) if isinstance(offset, int) else 0
    before = source.text[:offset]
    line, column = _end(before)
    message = getattr(error, "problem", None) or getattr(error, "reason", None) or "a value cannot be read"
    return _syntax(source, "YAML", line, column, message)


def _syntax(source: Source, language: str, line: int, column: int, message: str) -> ConfigFaults:
    return ConfigFaults([source.fault_at(line, column, f"this is not valid {language}: {message}")])


def _end(text: str) -> tuple[int, int]:
    """Line and column just after the text."""
    return text.count("\n") + 1, len(text) - text.rfind("\n")


_READERS = {"toml": _read_toml, "json": _read_json, "yaml": _read_yaml}
