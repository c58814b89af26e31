"""The folder that received files arrive in.

Owns partial files and final names there. Knows no network and no sender: pushed files and files
unsealed from envelopes come the same way. How folders arrive is in inbox_tree.py, quota and floor
of free disk in inbox_room.py. Blocking work runs in threads.

A file in arrival is `.shoal-<16 hex>.part`, named after its key; it holds exactly the bytes that
were written, so that its size is what a resumed arrival may build on. A finished file never
replaces another: `name.ext` becomes `name (2).ext`.

The last step has two halves, so that whoever keeps a journal can write it in between: `place` gives
the file its name and leaves the partial name as a mark on it, `release` takes the mark away. An
arrival that finds its mark on a named file is that file: after a crash nothing comes twice, and no
byte is ever written through a name that a person can see. (Without hard links there is no mark.)
"""

import asyncio
import contextlib
import fcntl
import os
import time
from dataclasses import dataclass
from pathlib import Path

from blake3 import blake3

from identity.encoding import length_prefixed
from identity.files import read_exactly, write_at
from transfer.errors import (
    BadContent,
    QuotaFull,
    SourceUnreadable,
    TargetUnwritable,
)
from transfer.hashing import hash_file_blocking
from transfer.inbox_room import InboxRoom, InboxUsage
from transfer.inbox_tree import InboxTree, open_tree, remove_tree
from transfer.manifest import Manifest
from transfer.names import NAME_TRIES_MAX, check_name, numbered
from transfer.partial import link_into_place, target_error
from transfer.threads import run_to_end

ABANDONED_S = 31 * 24 * 3600.0
"""A partial arrival as old as that is swept: no letter lives so long, and none comes again."""
PART_PREFIX = ".shoal-"
PART_SUFFIX = ".part"


class InboxFolder:
    """Open arrivals in a folder within a quota and above a floor of free disk."""

    def __init__(
        self, folder: Path, quota_bytes: int, *, free_floor_bytes: int = 256 * 1024 * 1024
    ) -> None:
        self.folder = folder
        self.room = InboxRoom(folder, quota_bytes, free_floor_bytes)
        self._is_swept = False

    async def open(
        self, key: bytes, name: str, size_bytes: int, manifest: Manifest | None = None
    ) -> "InboxFile":
        """Begin or resume the arrival of a file; the key names it in every attempt.

        With a manifest, what is there already is verified and kept; without one it begins anew.
        Raises UnsafeName, QuotaFull, DiskFull, TargetUnwritable, TargetBusy.
        """
        check_name(name)
        assert manifest is None or manifest.size_bytes == size_bytes
        path = self.folder / part_name(key)
        await self._sweep_once()

        def undo(begun: _Begun) -> None:
            begun.close()
            self.room.end(path, None)

        begun = await run_to_end(lambda: self._begin(path, size_bytes, manifest), undo=undo)
        return InboxFile(self, path, begun, name, size_bytes, manifest)

    async def open_folder(
        self, key: bytes, name: str, content_id: bytes, size_bytes: int, *, size_bytes_max: int
    ) -> InboxTree:
        """Begin or resume the arrival of a folder; the key names it in every attempt.

        What is there already is verified and kept. `size_bytes` is what is known of its size so
        far. Raises what `open` raises.
        """
        check_name(name)
        part = self.folder / part_name(key)
        await self._sweep_once()

        def begin() -> InboxTree:
            return open_tree(
                self.folder / name,
                part,
                content_id,
                self.room,
                size_bytes,
                size_bytes_max=size_bytes_max,
            )

        return await run_to_end(begin, undo=InboxTree.close_blocking)

    async def usage(self) -> InboxUsage:
        """Count the bytes in the folder."""
        return await asyncio.to_thread(self.room.usage)

    async def discard(self, key: bytes) -> None:
        """Delete what arrived under a key and was never finished; TargetUnwritable."""
        part = self.folder / part_name(key)

        def delete() -> None:
            if not os.path.lexists(part):
                return
            try:
                _delete_part(part)
            except OSError as error:
                raise target_error(error, part) from error
            self.room.forget()

        await asyncio.to_thread(delete)

    async def _sweep_once(self) -> None:
        """Delete what senders that were killed left behind, before the first arrival."""
        if not self._is_swept:
            self._is_swept = True
            await asyncio.to_thread(self._sweep, time.time() - ABANDONED_S)

    def _sweep(self, before_s: float) -> None:
        with contextlib.suppress(OSError):  # what cannot be deleted now is tried after a start
            for part in self.folder.iterdir():
                if is_part_name(part.name) and part.lstat().st_mtime < before_s:
                    _delete_part(part)

    def _begin(self, path: Path, size_bytes: int, manifest: Manifest | None) -> "_Begun":
        placed = self._placed(path)
        if placed is not None:
            return _Begun(-1, size_bytes, placed)
        descriptor = self._open_part(path)
        try:
            committed = _keep_verified(descriptor, manifest)
            self.room.promise(path, size_bytes)
        except OSError as error:
            os.close(descriptor)
            raise target_error(error, path) from error
        except BaseException:
            os.close(descriptor)
            raise
        return _Begun(descriptor, committed, None)

    def _placed(self, part: Path) -> Path | None:
        """Return the named file on which an earlier attempt left its mark."""
        try:
            mark = part.lstat()
            if mark.st_nlink < 2:
                return None
            with os.scandir(self.folder) as entries:
                for entry in entries:
                    if entry.inode() == mark.st_ino and not is_part_name(entry.name):
                        return Path(entry)
            part.unlink()  # its other name is elsewhere now: it is not ours to write to
        except FileNotFoundError:
            return None
        except OSError as error:
            raise target_error(error, part) from error
        return None

    def _open_part(self, path: Path) -> int:
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            descriptor = os.open(path, flags, 0o666)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BaseException:
                os.close(descriptor)
                raise
        except OSError as error:
            raise target_error(error, path) from error
        return descriptor


@dataclass(frozen=True, slots=True)
class _Begun:
    """An arrival's open file and what of it is there; or where it was placed before."""

    descriptor: int
    committed_bytes: int
    placed: Path | None

    def close(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)


class InboxFile:
    """A file in arrival: write in order, then `finish` (or `place`, `release`), or `close`."""

    def __init__(
        self,
        inbox: InboxFolder,
        part: Path,
        begun: _Begun,
        name: str,
        size_bytes: int,
        manifest: Manifest | None,
    ) -> None:
        self._inbox = inbox
        self._part = part
        self._descriptor = begun.descriptor
        self._name = name
        self._size_bytes = size_bytes
        self._manifest = manifest
        self.committed_bytes = begun.committed_bytes
        self._placed = begun.placed

    @property
    def is_whole(self) -> bool:
        """Whether nothing is missing."""
        return self.committed_bytes == self._size_bytes

    async def write(self, offset: int, data: bytes | memoryview) -> None:
        """Append verified bytes; the offset is where the last write ended."""
        assert offset == self.committed_bytes
        if offset + len(data) > self._size_bytes:
            raise QuotaFull("the file is larger than was announced")
        await run_to_end(lambda: self._write(offset, data))
        self.committed_bytes = offset + len(data)

    async def finish(self, content_id: bytes | None = None) -> Path:
        """Make the file durable and visible; `place` and `release` in one."""
        path = await self.place(content_id)
        await self.release()
        return path

    async def place(self, content_id: bytes | None = None) -> Path:
        """Make the file durable and visible, with its mark; returns where it is.

        Without a manifest the whole file is hashed against the content id first; BadContent.
        """
        if self._placed is not None:
            return self._placed
        if self.committed_bytes != self._size_bytes:
            raise BadContent("the file is incomplete")
        try:
            self._placed = await run_to_end(lambda: self._place(content_id))
        finally:
            await self.close()
        return self._placed

    async def release(self) -> None:
        """Take the mark from a placed file: from now on another arrival is another file."""
        assert self._placed is not None
        placed = self._placed
        await run_to_end(lambda: self._release(placed))

    async def close(self) -> None:
        """End this attempt; an unfinished file stays for the next one."""
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            await run_to_end(lambda: self._close(descriptor))

    def _close(self, descriptor: int) -> None:
        os.close(descriptor)
        self._inbox.room.end(self._part, self._placed)

    def _write(self, offset: int, data: bytes | memoryview) -> None:
        try:
            write_at(self._descriptor, data, offset)
        except OSError as error:
            raise target_error(error, self._part) from error

    def _place(self, content_id: bytes | None) -> Path:
        if self._manifest is None and content_id is not None:
            self._verify_whole(content_id)
        try:
            os.fsync(self._descriptor)
            for attempt in range(1, NAME_TRIES_MAX + 1):
                target = self._inbox.folder / numbered(self._name, attempt)
                try:
                    link_into_place(self._part, target)
                except FileExistsError:
                    continue
                return target
        except OSError as error:
            raise target_error(error, self._part) from error
        raise TargetUnwritable(f"the inbox has too many files named {self._name!a}")

    def _release(self, placed: Path) -> None:
        try:
            if self._part.samefile(placed):
                self._part.unlink()
        except FileNotFoundError:
            return  # without hard links, or taken out of the inbox: then `open` sees to it
        except OSError as error:
            raise target_error(error, self._part) from error

    def _verify_whole(self, content_id: bytes) -> None:
        try:
            found = hash_file_blocking(self._part).manifest.content_id
        except SourceUnreadable as error:
            raise TargetUnwritable from error
        if found != content_id:
            os.ftruncate(self._descriptor, 0)
            raise BadContent("the received file is not the content that was announced")


def part_name(key: bytes) -> str:
    """Return the name of the partial file of a key."""
    digest = blake3(length_prefixed(b"inbox", key)).hexdigest()[:16]
    return f"{PART_PREFIX}{digest}{PART_SUFFIX}"


def is_part_name(name: str) -> bool:
    """Tell whether a file is one in arrival."""
    return name.startswith(PART_PREFIX) and name.endswith(PART_SUFFIX)


def _delete_part(part: Path) -> None:
    """Delete a partial file or folder; OSError."""
    if part.is_dir():
        remove_tree(part)
    else:
        part.unlink(missing_ok=True)


def _keep_verified(descriptor: int, manifest: Manifest | None) -> int:
    """Cut a partial file to the leading chunks that verify and return its size."""
    committed = 0
    if manifest is not None:
        for chunk in range(manifest.chunk_count):
            offset, length = manifest.span(chunk)
            if not manifest.verifies(chunk, read_exactly(descriptor, offset, length)):
                break
            committed = offset + length
    os.ftruncate(descriptor, committed)
    return committed
