"""The control socket, client side: ask the running peer of a home to do something.

Blocking, one command a connection, standard library only: it must import neither grpc, pika,
msgspec nor cryptography, since `shoal status` should answer before these are even loaded.
"""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

from peer.failures import ExitCode, Failure, NoPeerRunning, PeerSilent
from peer.home import Home

_PROTOCOL_VERSION = 1
_LINE_BYTES_MAX = 1024 * 1024
_CONNECT_TIMEOUT_S = 5.0


def call(
    home: Home,
    command: str,
    arguments: dict[str, Any],
    on_event: Callable[[dict[str, Any]], None],
    *,
    first_answer_s: float | None = None,
    on_connected: Callable[[socket.socket], None] | None = None,
) -> None:
    """Run one command in the peer and hand each event on until it is done.

    Raises NoPeerRunning when nobody listens, and a Failure with the peer's exit code, message and
    hint when the command failed; with `first_answer_s`, PeerSilent when nothing comes for so long.
    Leaving early (Ctrl-C) closes the socket: that cancels it. So may another thread that
    `on_connected` gave the socket to, by shutting it down; this is then a Failure here.
    """
    request = {"command": command, "arguments": arguments, "version": _PROTOCOL_VERSION}
    line = json.dumps(request, separators=(",", ":")).encode() + b"\n"
    if len(line) > _LINE_BYTES_MAX:
        raise Failure("too many arguments at once", exit_code=ExitCode.USAGE)
    with _connect(home) as connection:
        if on_connected is not None:
            on_connected(connection)
        # Refused at once? What it answered before that is still to be read.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(line)
        connection.settimeout(first_answer_s)
        for event in _events(connection):
            connection.settimeout(None)
            on_event(event)


def ask_snapshot(home: Home) -> dict[str, Any]:
    """What the live table of the running peer would show now."""
    results: list[dict[str, Any]] = []
    call(home, "snapshot", {}, lambda event: results.append(event.get("result", {})))
    return results[-1] if results else {}


def _connect(home: Home) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(_CONNECT_TIMEOUT_S)
        connection.connect(str(home.socket_path))
        connection.settimeout(None)
    except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError) as error:
        connection.close()
        raise NoPeerRunning from error
    except OSError as error:
        connection.close()
        reason = error.strerror or str(error)
        raise NoPeerRunning(f"the running peer cannot be reached: {reason}") from error
    return connection


def _events(connection: socket.socket) -> Iterator[dict[str, Any]]:
    """Read events until `done`; an `error` event is raised."""
    with connection.makefile("rb") as lines:
        while line := _line(lines):
            try:
                event = json.loads(line)
                kind = event["event"]
            except (ValueError, KeyError, TypeError) as error:
                raise Failure("the running peer answered with something unreadable") from error
            match kind:
                case "done":
                    return
                case "error":
                    raise _failure(event)
                case _:
                    yield event
    raise _gone()


def _line(lines: BinaryIO) -> bytes:
    try:
        return lines.readline(_LINE_BYTES_MAX + 1)
    except ConnectionResetError:
        return b""
    except TimeoutError as error:
        raise PeerSilent from error


def _failure(event: dict[str, Any]) -> Failure:
    try:
        code = ExitCode(event.get("exit_code", ExitCode.INTERNAL))
    except ValueError:
        code = ExitCode.INTERNAL
    return Failure(str(event.get("message", "")), hint=str(event.get("hint", "")), exit_code=code)


def _gone() -> Failure:
    return Failure(
        "the peer went away before it finished",
        hint="start it again with `shoal join`; what was begun is resumed",
        exit_code=ExitCode.NO_PEER,
    )
