"""`get -o -`: what is fetched goes to stdout while the rest still comes.

Owns the thread that copies. The peer writes into a file of its home, chunk after verified chunk,
and says how far it is whole from its beginning; the thread copies that far, one block at a time. A
slow reader of stdout holds up this thread and nothing else. Nothing but content goes to stdout.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from console.output import Output

_BLOCK_BYTES = 256 * 1024


class StdoutStream:
    """Takes the events of a get; a context manager, in the main thread.

    When stdout cannot be written, its reader gone or a disk full, the command is ended and that
    OSError is raised at the end of the block.
    """

    def __init__(self, output: Output) -> None:
        self._output = output
        self._descriptor: int | None = None
        self._ready_bytes = 0
        self._written_bytes = 0
        self._is_whole = False
        self._is_given_up = False
        self._error: OSError | None = None
        self._changed = threading.Condition()
        # A daemon: when the command has failed, nobody waits for a reader that does not read.
        self._thread = threading.Thread(target=self._copy, daemon=True)
        self._main = threading.get_ident()
        self._connection: socket.socket | None = None

    def __enter__(self) -> Self:
        sys.stdout.flush()
        self._thread.start()
        return self

    def connected(self, connection: socket.socket) -> None:
        """Take the connection to the running peer, whose end is the command's end."""
        self._connection = connection

    def event(self, event: Mapping[str, Any]) -> None:
        """Take an event, without ever waiting for the reader of stdout."""
        match event["event"]:
            case "ready":
                self._open(Path(event["path"]))
                self._tell(ready_bytes=event["bytes"])
            case "result":
                path = Path(event["result"]["path"])
                self._open(path)
                path.unlink()  # at once: whatever happens to us, nothing stays behind
                self._tell(ready_bytes=event["result"]["size"], is_whole=True)
            case _:
                self._output.event("get", event)

    def finish(self) -> None:
        """Wait until the reader has taken everything."""
        self._output.close()
        self._thread.join()

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._is_given_up = True
            self._changed.notify()
            error = self._error
        if error is not None:
            raise error from None  # and not what it was told by

    def _open(self, path: Path) -> None:
        if self._descriptor is None:
            try:
                self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                return  # finished meanwhile, under another name: the result follows

    def _tell(self, *, ready_bytes: int, is_whole: bool = False) -> None:
        with self._changed:
            if self._descriptor is not None:
                self._ready_bytes = ready_bytes
            self._is_whole = is_whole
            self._changed.notify()

    def _copy(self) -> None:
        try:
            while (length := self._next_block()) > 0:
                assert self._descriptor is not None
                data = os.pread(self._descriptor, length, self._written_bytes)
                if not data:
                    raise OSError(errno.EIO, "what was fetched became shorter")
                _write_all(data)
                self._written_bytes += len(data)
        except OSError as error:
            self._fail(error)

    def _next_block(self) -> int:
        """Wait for bytes to copy; 0 when there are no more to come."""
        with self._changed:
            while not self._is_given_up:
                left = self._ready_bytes - self._written_bytes
                if left > 0 or self._is_whole:
                    return min(left, _BLOCK_BYTES)
                self._changed.wait()
        return 0

    def _fail(self, error: OSError) -> None:
        with self._changed:
            if self._is_given_up:
                return
            self._error = error
            if self._is_whole:
                return
            # The main thread waits for an event that may be long in coming.
            if self._connection is None:
                signal.pthread_kill(self._main, signal.SIGINT)  # our own loop's signal, heard once
                return
        with contextlib.suppress(OSError):  # it may have ended by itself
            self._connection.shutdown(socket.SHUT_RDWR)


def _write_all(data: bytes) -> None:
    # Not through sys.stdout: a buffer that this thread holds would hang the end of the process.
    view = memoryview(data)
    while view:
        view = view[os.write(1, view) :]
