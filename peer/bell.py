"""Hearing that something changed in a folder: Linux's inotify, as a doorbell.

Owns one inotify descriptor and which folders it listens to. That something rang is all that it
tells: what changed is found by looking, so that nothing is lost when the kernel's queue overflows.
Where there is no inotify, or no watches are left, it says so, and the caller looks by itself.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import os
import struct
import sys
from collections.abc import Mapping

FOLDERS_MAX = 8_192
"""Watches of one folder; the kernel's own limit is for all programs of a user."""
_READ_BYTES = 64 * 1024
_EVENT = struct.Struct("iIII")  # watch, mask, cookie, length of the name that follows

# <sys/inotify.h>
_ATTRIB, _CLOSE_WRITE = 0x4, 0x8
_MOVED_FROM, _MOVED_TO, _CREATE, _DELETE = 0x40, 0x80, 0x100, 0x200
_DELETE_SELF, _MOVE_SELF = 0x400, 0x800
_ONLYDIR = 0x1000000
_MASK = (
    _ATTRIB | _CLOSE_WRITE | _MOVED_FROM | _MOVED_TO | _CREATE | _DELETE
    | _DELETE_SELF | _MOVE_SELF | _ONLYDIR
)  # fmt: skip


class Bell:
    """Rings when something happens in the folders that it listens to."""

    def __init__(self) -> None:
        self._descriptor = -1
        self._listening: dict[str, int] = {}
        self._rung = asyncio.Event()
        self.trouble = ""
        """Why it does not hear everything; empty while it does."""
        self._begin()

    def listen(self, folders: Mapping[str, int]) -> bool:
        """Listen to these folders (path → inode) and no others; True when there are new ones.

        Blocking, a few microseconds a folder. Whoever looked before this looks again after it:
        what changed in between was not heard.
        """
        if self._descriptor < 0:
            return False
        new = [(p, inode) for p, inode in folders.items() if self._listening.get(p) != inode]
        self._listening = {p: i for p, i in self._listening.items() if folders.get(p) == i}
        self.trouble = ""
        for path, inode in new:
            if len(self._listening) >= FOLDERS_MAX:
                self.trouble = f"it has more than {FOLDERS_MAX} folders"
                break
            error = self._add(path)
            if error in (errno.ENOSPC, errno.ENOMEM):
                self.trouble = "this user's inotify watches are used up"
                break
            if not error:
                self._listening[path] = inode
        return bool(new) and not self.trouble

    async def wait(self, timeout_s: float) -> None:
        """Return when it rings, or after so long."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._rung.wait()
        except TimeoutError:
            return

    def hush(self) -> None:
        """Forget that it rang: whoever looks now sees all that rang so far."""
        self._rung.clear()

    def close(self) -> None:
        """Stop listening; a second call does nothing."""
        if self._descriptor >= 0:
            asyncio.get_running_loop().remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1

    def _begin(self) -> None:
        if not sys.platform.startswith("linux"):
            self.trouble = "this system has no inotify"
            return
        self._libc = ctypes.CDLL(None, use_errno=True)
        descriptor = self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if descriptor < 0:
            self.trouble = f"inotify: {os.strerror(ctypes.get_errno())}"
            return
        self._descriptor = descriptor
        asyncio.get_running_loop().add_reader(descriptor, self._heard)

    def _add(self, path: str) -> int:
        """Add one watch; return an error number. Adding one that is there changes nothing."""
        added = self._libc.inotify_add_watch(self._descriptor, os.fsencode(path), _MASK)
        return ctypes.get_errno() if added < 0 else 0

    def _heard(self) -> None:
        """Drain one buffer; hidden files, which are never shared, do not ring."""
        try:
            data = os.read(self._descriptor, _READ_BYTES)
        except BlockingIOError:
            return
        at = 0
        while at + _EVENT.size <= len(data):
            *_, length = _EVENT.unpack_from(data, at)
            at += _EVENT.size
            if not length or data[at] != ord("."):  # without a name: a folder itself, an overflow
                self._rung.set()
                return
            at += length
