"""A folder that keeps deliveries: an index, chunk files, and how a deposit gets into them.

Owns the steps of a deposit, the threads in which the disk is used, and what its failures become.
Must not know who deposits, nor what becomes of a delivery that is held.

Invariants: room is reserved before a byte is written; a delivery is `held` only after data, name
and row are fsynced, in this order; the floor of free disk holds at each step.
"""

import asyncio
import errno
import functools
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ParamSpec, TypeVar

from queueing.envelope import OuterManifest
from queueing.errors import (
    BadEnvelope,
    MailboxFull,
    QueueError,
    StorageFailed,
    UnknownDelivery,
)
from queueing.spool_files import SpoolFiles
from queueing.spool_index import SpoolConfig, SpoolIndex, Stage

_P = ParamSpec("_P")
_R = TypeVar("_R")


class KeptFolder:
    """What a spool and a desk have in common; built in a thread, for opening reads and writes."""

    def __init__(
        self,
        folder: Path,
        index_name: str,
        network_id: bytes,
        config: SpoolConfig,
        wall_ms: Callable[[], int],
        *,
        what: str,
    ) -> None:
        self._network_id = network_id
        self._config = config
        self._wall_ms = wall_ms
        self._what = what
        # SQLite is used from one thread only; chunk files from any.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="kept")
        self._files = SpoolFiles(folder)
        self._index = SpoolIndex(folder / index_name, config)
        self._finishing = asyncio.Lock()  # between a partial file and a whole one: one at a time

    async def begin(self, manifest: OuterManifest) -> list[int]:
        """Check a manifest, reserve its room, and return the chunks that are missing.

        An empty list also when the delivery is held or settled already. BadEnvelope, Expired,
        TooLarge, MailboxFull, Refused.
        """
        manifest.check(self._network_id, self._wall_ms())
        row = await self._in_index(self._index.begin, manifest, self._wall_ms())
        if row.stage is not Stage.PARTIAL:
            return []
        async with self._finishing:
            if await self.keeps(manifest.delivery_id):
                return []
            missing = await self._on_files(self._files.begin, manifest)
        if self._lacks_room(sum(map(manifest.sealed_size, missing))):
            if len(missing) == manifest.count:  # nothing to resume: give the room back
                await self._in_index(self._index.forget, manifest.delivery_id)
                await self._on_files(self._files.delete, manifest.delivery_id)
            raise _nearly_full()
        return missing

    async def put(self, manifest: OuterManifest, index: int, sealed: bytes) -> None:
        """Write one chunk of a delivery that was begun; it is not durable before `finish`.

        BadEnvelope, MailboxFull. The same chunk again changes nothing. The floor of free disk holds
        here too: others fill the disk while a deposit is under way.
        """
        if self._lacks_room(len(sealed)):
            raise _nearly_full()
        written = await self._on_files(self._files.write, manifest, index, sealed)
        if not written and not await self.keeps(manifest.delivery_id):
            raise UnknownDelivery("the delivery was dropped while it was being deposited")

    async def keeps(self, delivery_id: bytes) -> bool:
        """Tell whether a delivery is held whole, or was settled here."""
        row = await self._in_index(self._index.get, delivery_id)
        return row is not None and row.stage in (Stage.HELD, Stage.SETTLED)

    async def _hold(self, manifest: OuterManifest) -> bool:
        """Make a delivery durable; False when it was held before. BadEnvelope."""
        async with self._finishing:
            if await self.keeps(manifest.delivery_id):
                return False
            whole = await self._on_files(self._files.finish, manifest)
            if not whole:
                raise BadEnvelope("the deposit ended before all chunks were there")
            await self._in_index(self._index.hold, manifest.delivery_id)
        return True

    def _swept(self) -> tuple[list[bytes], set[bytes]]:
        """Delete files of no delivery; return those held, and which of them have no file."""
        rows = list(self._index.rows())
        held = [row.delivery_id for row in rows if row.stage is Stage.HELD]
        partial = [row.delivery_id for row in rows if row.stage is Stage.PARTIAL]
        return held, self._files.sweep(held, partial)

    async def _close(self) -> None:
        await self._in_index(self._index.close)
        self._thread.shutdown(wait=False)

    def _lacks_room(self, wanted_bytes: int) -> bool:
        return self._files.free_bytes() - wanted_bytes < self._config.disk_floor_bytes

    async def _in_index(
        self, function: Callable[_P, _R], *args: _P.args, **kwargs: _P.kwargs
    ) -> _R:
        """Run a function of the index in its thread; StorageFailed."""
        call = functools.partial(function, *args, **kwargs)
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, call)
        except sqlite3.Error as error:
            raise StorageFailed(f"the index of {self._what}: {error}") from error

    async def _on_files(
        self, function: Callable[_P, _R], *args: _P.args, **kwargs: _P.kwargs
    ) -> _R:
        """Run a function of the files in a thread; MailboxFull on a full disk, StorageFailed."""
        try:
            return await asyncio.to_thread(function, *args, **kwargs)
        except OSError as error:
            raise failure_of(error, self._what) from error


def failure_of(error: OSError, what: str) -> QueueError:
    """Say what a failure of the disk means to whoever deposits."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return MailboxFull("the disk is full", hint="free some space in the home")
    return StorageFailed(f"{what}: {error.strerror}")


def _nearly_full() -> MailboxFull:
    return MailboxFull("the disk of the mailbox is nearly full")
