"""The control socket: a unix socket on which an operator's commands ask a running router, one JSON line each way.

Only the router's own user and root are heard. What comes is bounded and a fault in it is answered, never raised; what
the questions mean is the handler's business.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import stat
import struct
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from router.faults import visible
from router.net.sockets import StartError
from router.status import Answer, Question

__all__ = ["ControlServer", "peer_uid"]

log = logging.getLogger("router")

#: Bytes of one question.
_QUESTION = 64 << 10
_CONNECTIONS = 16
#: Seconds in which a connection must ask its next question.
_IDLE = 60.0
#: Seconds in which an answer must be taken.
_WRITING = 10.0
#: Seconds that a handler gets to notice that it is cancelled.
_CLOSING = 1.0
#: Bytes of a unix socket's path: sun_path without its end, unix(7).
_PATH = 107
#: Characters that a message repeats of what was asked.
_REPEATED = 200
_CREDENTIALS = struct.Struct("iII")


def peer_uid(sock: Any) -> int:
    """The user on the other side of a unix socket when it connected (SO_PEERCRED, unix(7))."""
    raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    uid: int = _CREDENTIALS.unpack(raw)[1]
    return uid


class ControlServer:
    """Hears questions on one path and gives each to the handler; those of one connection in order.

    Args:
        path: of the socket; its folder must exist.
        handle: answers one question. What it raises is logged and answered as a failure.
        uid_of: the user on the other side of a connected socket.
    """

    def __init__(
        self,
        path: str,
        handle: Callable[[Question], Awaitable[Answer]],
        *,
        uid_of: Callable[[Any], int] = peer_uid,
    ) -> None:
        self.path = path
        self._handle = handle
        self._uid_of = uid_of
        self._is_open = False
        self._server: asyncio.AbstractServer | None = None
        #: Device and inode of the socket file.
        self._file: tuple[int, int] | None = None
        self._connections: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        #: Those that wait for a question.
        self._idle: set[asyncio.Task[None]] = set()

    @property
    def is_lost(self) -> bool:
        """Whether the path leads to this socket no more."""
        try:
            return _identity(self.path) != self._file
        except OSError:
            return True

    async def start(self, *, take_over: bool = False) -> None:
        """Begins to hear. The path leads to the new socket from one moment to the next; its mode is 0600.

        Args:
            take_over: replace a socket that another router still answers on, as in an upgrade. That one keeps the
                connections that it has.

        Raises:
            StartError: says why not, and what to do.
        """
        sock, self._file = _open(self.path, take_over)
        self._is_open = True
        try:
            self._server = await asyncio.start_unix_server(self._connected, sock=sock, limit=_QUESTION)
        except OSError as error:
            sock.close()
            raise StartError(f"no control socket at {self.path}: {error.strerror or error}") from None

    def stop_accepting(self) -> None:
        """No new connections, and the path is free; a connection ends now, or after the answer under way."""
        if self._server is None:
            return
        self._is_open = False
        self._server.close()
        self._server = None
        with contextlib.suppress(OSError):
            # Another router may have taken the path over.
            if _identity(self.path) == self._file:
                os.unlink(self.path)
        for task in self._idle:
            task.cancel()

    async def close(self) -> None:
        """Ends at once: what is still asked stays without an answer, but for the question whose handler closes."""
        self.stop_accepting()
        cut = self._connections.keys() - {asyncio.current_task()}
        for task in cut:
            self._connections[task].transport.abort()
            task.cancel()
        if cut:
            await asyncio.wait(cut, timeout=_CLOSING)

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        refusal = self._refusal(writer)
        if refusal:
            writer.write(_line(Answer(False, refusal)))
            writer.close()
            return
        task = asyncio.get_running_loop().create_task(self._converse(reader, writer))
        self._connections[task] = writer
        task.add_done_callback(self._disconnected)

    def _disconnected(self, task: asyncio.Task[None]) -> None:
        self._connections.pop(task).close()
        self._idle.discard(task)

    def _refusal(self, writer: asyncio.StreamWriter) -> str:
        """Why this connection is not heard; "" if it is."""
        if not self._is_open:
            return "the router closes its control socket"
        try:
            uid = self._uid_of(writer.get_extra_info("socket"))
        except OSError:
            return "this router cannot tell which user asks"
        if uid not in (os.geteuid(), 0):
            log.warning("control: user %d was turned away", uid)
            return f"only user {os.geteuid()}, whom the router runs as, and root may ask; you are user {uid}"
        if len(self._connections) >= _CONNECTIONS:
            return f"{_CONNECTIONS} others are connected to the control socket already; try again later"
        return ""

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # So that drain() returns once everything is with the system.
        writer.transport.set_write_buffer_limits(high=0)
        try:
            is_last = False
            while self._is_open and not is_last:
                line, is_last = await self._next_line(reader)
                if line == b"":
                    break
                writer.write(await self._answer(line))
                async with asyncio.timeout(_WRITING):
                    await writer.drain()
                # A flood of short questions must not hold the requests up.
                await asyncio.sleep(0)
        except (TimeoutError, OSError):
            writer.transport.abort()

    async def _next_line(self, reader: asyncio.StreamReader) -> tuple[bytes | None, bool]:
        """A question and whether it is the last one; b"" at the end, None in place of one that is too long."""
        task = asyncio.current_task()
        assert task is not None
        self._idle.add(task)
        try:
            async with asyncio.timeout(_IDLE):
                return await reader.readuntil(b"\n"), False
        except asyncio.IncompleteReadError as error:
            return error.partial, True
        except asyncio.LimitOverrunError:
            return None, True
        finally:
            self._idle.discard(task)

    async def _answer(self, line: bytes | None) -> bytes:
        if line is None:
            return _line(Answer(False, f"a question has at most {_QUESTION >> 10} KiB"))
        try:
            question = _QUESTIONS.decode(line)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            return _line(Answer(False, f"this is no question: {_shown(error)}"))
        try:
            return _line(await self._handle(question))
        except Exception as error:
            log.error("control: a question (%s) could not be answered: %r", type(question).__name__, error)
            return _line(Answer(False, f"the router failed to answer: {type(error).__name__}: {_shown(error)}"))


_QUESTIONS: msgspec.json.Decoder[Question] = msgspec.json.Decoder(Question)


def _line(answer: Answer) -> bytes:
    return msgspec.json.encode(answer) + b"\n"


def _shown(error: Exception) -> str:
    text = visible(str(error))
    return text if len(text) <= _REPEATED else f"{text[:_REPEATED]} ..."


def _identity(path: str) -> tuple[int, int]:
    found = os.lstat(path)
    return found.st_dev, found.st_ino


def _open(path: str, take_over: bool) -> tuple[socket.socket, tuple[int, int]]:
    """A listening socket at `path`, and its identity.

    It comes to be under another name and takes its place when it is ready: nobody finds it with a wider mode, and
    there is no moment without a socket when one takes over from another.
    """
    folder, name = os.path.split(path)
    draft = os.path.join(folder, f".{os.urandom(3).hex()}")
    if not name or "\0" in path:
        raise _refused(path, "this is no path of a file")
    if max(len(os.fsencode(path)), len(os.fsencode(draft))) > _PATH:
        raise _refused(path, f"a unix socket's path has at most {_PATH} bytes; choose a shorter one")
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _check_free(path, take_over)
        sock.bind(draft)
        os.chmod(draft, 0o600)
        sock.listen()
        file = _identity(draft)
        os.rename(draft, path)
    except BaseException as error:
        sock.close()
        with contextlib.suppress(OSError):
            os.unlink(draft)
        if isinstance(error, OSError):
            raise _refused(path, _reason(error, folder or ".")) from None
        raise
    return sock, file


def _refused(path: str, why: str) -> StartError:
    return StartError(f"cannot open the control socket {visible(path)}: {why}")


def _check_free(path: str, take_over: bool) -> None:
    """Raises StartError if something stands at `path` that is not to be replaced."""
    try:
        is_socket = stat.S_ISSOCK(os.lstat(path).st_mode)
    except FileNotFoundError:
        return
    if not is_socket:
        raise _refused(path, "there is a file that is no socket; choose another path, or move it away")
    if not take_over and _is_answered(path):
        raise StartError(f"another router answers on {visible(path)}; stop it, or give this one another server.control")


def _is_answered(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:
            # Too many wait there, or it is another user's: in any case it is not ours to replace.
            return True
    return True


def _reason(error: OSError, folder: str) -> str:
    if isinstance(error, FileNotFoundError):
        return f"there is no folder {visible(folder)}; create it, owned by the router's user"
    if isinstance(error, NotADirectoryError):
        return f"{visible(folder)} is no folder"
    if isinstance(error, PermissionError):
        return f"the router's user may not create files in {visible(folder)}; give it the right to, or choose another"
    return error.strerror or str(error)
