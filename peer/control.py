"""The control socket, server side: other commands of this person speak to the running peer.

Owns the framing: one connection is one command. The client sends one line
``{"command", "arguments", "version": 1}``; the server answers with lines of events —
``progress``, ``ready``, ``item``, ``result``, ``note`` — and ends with ``done`` or with ``error``
(``exit_code``, ``message``, ``hint``). Must not know what the commands do.

Whoever connects must be the same user (socket credentials; folder 0700, socket 0600). A client that
goes away cancels its command. Lines and connections are bounded.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
import struct
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from peer.failures import ExitCode, Failure, failure_of

PROTOCOL_VERSION = 1
LINE_BYTES_MAX = 1024 * 1024

Emit = Callable[[dict[str, Any]], Awaitable[None]]
Handler = Callable[[str, dict[str, Any], Emit], Awaitable[None]]

_CONNECTIONS_MAX = 64
_REQUEST_TIMEOUT_S = 10.0
_FAREWELL_TIMEOUT_S = 1.0
# Turns of the loop from a connection in the backlog to its task being in our set. A stop takes
# them first: asyncio in Python 3.11 leaks a connection that is being accepted while it closes.
_ACCEPT_TURNS_MAX = 5

_log = logging.getLogger(__name__)


class ClientGone(Exception):  # noqa: N818 - no error: the person pressed Ctrl-C
    """The client closed its end; its command is not wanted any more."""


class ControlServer:
    """Listens on a Unix socket and runs each command as a task of its connection."""

    def __init__(self, path: Path, handler: Handler) -> None:
        self._path = path
        self._handler = handler
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self.refused = 0
        """Connections of other users or beyond the limit."""

    async def start(self) -> None:
        """Listen; a socket file left by a killed peer is replaced (we hold the home's lock)."""
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()
        self._server = await asyncio.start_unix_server(
            self._connected, path=str(self._path), limit=LINE_BYTES_MAX
        )
        self._path.chmod(0o600)

    async def stop(self) -> None:
        """Stop listening, tell running commands that the peer leaves, and remove the socket."""
        if self._server is None:
            return
        for _ in range(_ACCEPT_TURNS_MAX):
            await asyncio.sleep(0)
        self._server.close()
        connections = [task for task in self._connections if task is not asyncio.current_task()]
        for task in connections:
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)
        self._server = None
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            if len(self._connections) > _CONNECTIONS_MAX or not _same_user(writer):
                self.refused += 1
                return
            await _Connection(reader, writer, self._handler).serve()
        except asyncio.CancelledError:
            # Only `stop` cancels us, and it awaits us: nothing above needs to see it.
            leaving = Failure("the peer is leaving", exit_code=ExitCode.NO_PEER)
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(_FAREWELL_TIMEOUT_S):
                    await _send(writer, _error_event(leaving))
        except (OSError, ClientGone):
            pass
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
            self._connections.discard(task)


class _Connection:
    """One client and its one command."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, handler: Handler
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._handler = handler

    async def serve(self) -> None:
        try:
            async with asyncio.timeout(_REQUEST_TIMEOUT_S):
                line = await self._reader.readline()
            command, arguments = parse_request(line)
        except TimeoutError:
            return
        except ValueError as error:  # also a line beyond the limit
            refusal = Failure(f"bad control request: {error}", exit_code=ExitCode.USAGE)
            await _send(self._writer, _error_event(refusal))
            return
        try:
            async with asyncio.TaskGroup() as group:
                watch = group.create_task(self._watch())
                await self._run(command, arguments)
                watch.cancel()
        except* (ClientGone, ConnectionError):
            _log.debug("the client of %s went away", command)

    async def _run(self, command: str, arguments: dict[str, Any]) -> None:
        try:
            await self._handler(command, arguments, self._emit)
        except (asyncio.CancelledError, ConnectionError, ClientGone):
            raise
        except Exception as error:  # noqa: BLE001 - the process edge of one command
            failure = failure_of(error)
            if failure.exit_code is ExitCode.INTERNAL:
                _log.error("command %s failed", command, exc_info=error)
            await self._emit(_error_event(failure))
        else:
            await self._emit({"event": "done"})

    async def _emit(self, event: dict[str, Any]) -> None:
        await _send(self._writer, event)

    async def _watch(self) -> None:
        """A client sends nothing after its request: what comes next is its end."""
        with contextlib.suppress(ValueError):
            while await self._reader.read(4096):
                pass
        raise ClientGone


def parse_request(line: bytes) -> tuple[str, dict[str, Any]]:
    """Read a request line; ValueError says what is wrong with it."""
    try:
        request = json.loads(line)
    except (UnicodeDecodeError, RecursionError) as error:
        raise ValueError("not JSON") from error
    if not isinstance(request, dict):
        raise ValueError("not an object")
    version = request.get("version")
    if version != PROTOCOL_VERSION:
        raise ValueError(f"version {version!r}, but the running peer speaks {PROTOCOL_VERSION}")
    command, arguments = request.get("command"), request.get("arguments", {})
    if not isinstance(command, str) or not isinstance(arguments, dict):
        raise ValueError("no command with arguments")
    return command, arguments


async def _send(writer: asyncio.StreamWriter, event: dict[str, Any]) -> None:
    line = json.dumps(event, separators=(",", ":")).encode() + b"\n"
    if len(line) > LINE_BYTES_MAX:
        raise Failure(f"an answer of {len(line)} bytes is too long for the control socket")
    writer.write(line)
    await writer.drain()


def _error_event(failure: Failure) -> dict[str, Any]:
    return {
        "event": "error",
        "exit_code": int(failure.exit_code),
        "message": failure.message,
        "hint": failure.hint,
    }


def _same_user(writer: asyncio.StreamWriter) -> bool:
    """Ask the kernel who is at the other end."""
    connection = writer.get_extra_info("socket")
    if sys.platform == "linux":
        size = struct.calcsize("3i")
        data = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
        _, uid, _ = struct.unpack("3i", data)
    else:
        # LOCAL_PEERCRED of macOS and the BSDs: struct xucred is (version, uid, ...).
        data = connection.getsockopt(0, 1, 128)
        _, uid = struct.unpack_from("Ii", data)
    return bool(uid == os.getuid())
