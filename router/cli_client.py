"""The other end of the control socket: finds it by the configuration, asks one question, waits for the answer.

Nothing is shown here. A configuration that is faulty at the moment must not lock its operator out: of the file only
server.control is wanted, and it is looked for even where the rest cannot be read.
"""

from __future__ import annotations

import json
import os
import re
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import rich_click as click

from router.configfile import ConfigFaults, load
from router.configfill import Problem, fill, is_file_table, read_file
from router.faults import visible
from router.status import Answer, Question, Status

__all__ = ["Unanswered", "ask", "find_control", "read_status"]

_OR_NAME_IT = "or name the router's socket with --control PATH"
_RECEIVED = 1 << 16
_SERVER = re.compile(r"^[ \t]*\[[ \t]*server[ \t]*\].*?(?=^[ \t]*\[|\Z)", re.MULTILINE | re.DOTALL)
_CONTROL = re.compile(
    r"""^[^#\n]*?(?<![\w-])["']?control["']?[ \t]*[=:][ \t]*("(?:[^"\\\n]|\\.)*"|'[^'\n]*'|[^\s"',}#]+)""",
    re.MULTILINE,
)


class Unanswered(click.ClickException):
    """The router cannot be asked, or gave no answer; the message says why and what to do."""


def find_control(file: Path, env: Mapping[str, str] = os.environ) -> Path:
    """The control socket that a configuration names.

    Args:
        file: the configuration, which may be faulty in other places.
        env: what ${VAR} is looked up in.

    Raises:
        Unanswered: it cannot be read, or names none.
    """
    shown = visible(str(file))
    written = _written(file, env)
    if written is None or written == "":
        raise Unanswered(
            f'{shown} names no control socket; add control = "router.sock" under [server] and restart the router, '
            f"or send it SIGHUP; {_OR_NAME_IT}"
        )
    folder = file.absolute().parent
    path = _filled(written, folder, env)
    if isinstance(path, Problem):
        told = "; ".join(filter(None, path))
        raise Unanswered(f"{shown}: server.control: {visible(told)}; {_OR_NAME_IT}")
    return folder / path


def _written(file: Path, env: Mapping[str, str]) -> object:
    """What stands in the file as server.control; None if nothing does."""
    try:
        _, source = load(file, env)
    except ConfigFaults as error:
        if error.source is None:
            return _scanned(file, error)
        source = error.source
    return source.written(("server", "control"))


def _filled(written: Any, folder: Path, env: Mapping[str, str]) -> str | Problem:
    if is_file_table(written):
        return read_file(folder, written["file"])
    if not isinstance(written, str):
        return Problem("expected a string")
    path, problems = fill(written, env)
    return problems[0] if problems else path


def _scanned(file: Path, error: ConfigFaults) -> str | None:
    """What stands there by the look of it, in a file that no parser can read."""
    fault = error.faults[0]
    try:
        text = file.read_bytes().decode("utf-8", "replace")
    except (OSError, ValueError):
        raise Unanswered(
            f"{visible(fault.file)}: {fault.message}; name the configuration of the running router with -f FILE, "
            "or its socket with --control PATH"
        ) from None
    section = _SERVER.search(text)
    found = _CONTROL.search(section[0] if section else text)
    if found is None:
        raise Unanswered(f"{fault}\ncorrect this, {_OR_NAME_IT}") from None
    return _unquoted(found[1])


def _unquoted(literal: str) -> str:
    if literal[0] == "'":
        return literal[1:-1]
    try:
        return str(json.loads(literal)) if literal[0] == '"' else literal
    except ValueError:
        return literal[1:-1]


def ask(path: Path, question: Question, seconds: float) -> Answer:
    """Asks the router that listens at `path`.

    Args:
        seconds: until when it must have answered.

    Raises:
        Unanswered: nobody listens, it does not answer in time, or not in this language.
    """
    line = _exchange(path, msgspec.json.encode(question) + b"\n", seconds)
    try:
        return msgspec.json.decode(line, type=Answer)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        raise Unanswered(f"what answers at {visible(str(path))} is no router, or one of another version") from None


def read_status(answer: Answer) -> Status:
    """The Status in an answer. Raises Unanswered if it is one of another version."""
    try:
        return msgspec.convert(answer.result, Status)
    except (msgspec.MsgspecError, ValueError) as error:
        raise Unanswered(
            f"the router is of another version than this command: {visible(str(error))}; --json shows what it says"
        ) from None


def _exchange(path: Path, asked: bytes, seconds: float) -> bytes:
    deadline = time.monotonic() + seconds
    shown = visible(str(path))
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(seconds)
        try:
            sock.connect(str(path))
            _send(sock, asked)
            return _receive(sock, deadline)
        except TimeoutError:
            raise Unanswered(
                f"the router at {shown} does not answer within {seconds:g} s; it is busy or stopped: see its log"
            ) from None
        except (EOFError, ConnectionResetError):
            raise Unanswered(
                f"the router at {shown} closed the connection without an answer; it may be ending"
            ) from None
        except (OSError, ValueError) as error:
            raise Unanswered(_reason(error, shown)) from None


def _send(sock: socket.socket, asked: bytes) -> None:
    try:
        sock.sendall(asked)
    except BrokenPipeError:
        # Who is turned away gets an answer all the same.
        return


def _receive(sock: socket.socket, deadline: float) -> bytes:
    pieces = []
    while True:
        sock.settimeout(max(deadline - time.monotonic(), 0.001))
        piece = sock.recv(_RECEIVED)
        if not piece:
            raise EOFError
        pieces.append(piece)
        if piece.endswith(b"\n"):
            return b"".join(pieces)


def _reason(error: Exception, shown: str) -> str:
    if isinstance(error, FileNotFoundError | ConnectionRefusedError):
        return (
            f"no router listens at {shown}; is it running? If server.control was changed since it read its "
            "configuration, name the old socket with --control PATH"
        )
    if isinstance(error, PermissionError):
        return f"{shown} may not be used by this user; ask as the user whom the router runs as, or as root"
    if isinstance(error, BlockingIOError):
        return f"too many others ask the router at {shown}; try again"
    said = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return f"no router can be asked at {shown}: {visible(said)}"
