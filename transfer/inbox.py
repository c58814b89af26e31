"""The folder that received files arrive in.

Owns quota, free disk floor, partial files and final names there. Knows no network and no sender:
pushed files and files unsealed from envelopes come the same way. Blocking work runs in threads.

A file in arrival is `.shoal-<16 hex>.part`, named after its key; it holds exactly the bytes that
were written, so that its size is what a resumed arrival may build on. A finished file never
replaces another: `name.ext` becomes `name (2).ext`.

The last step has two halves, so that whoever keeps a journal can write it in between: `place` gives
the file its name and leaves the partial name as a mark on it, `release` takes the mark away. An
arrival that finds its mark on a named file is that file: after a crash nothing comes twice, and no
byte is ever written through a name that a person can see. (Without hard links there is no mark.)
"""

import asyncio
import fcntl
import os
from dataclasses import dataclass
from pathlib import Path

from blake3 import blake3

from identity.encoding import length_prefixed
from identity.files import write_at
from transfer.errors import (
    BadContent,
    DiskFull,
    QuotaFull,
    SourceUnreadable,
    TargetUnwritable,
)
from transfer.hashing import hash_file_blocking, read_exactly
from transfer.manifest import Manifest
from transfer.names import NAME_BYTES_MAX, check_name
from transfer.partial import link_into_place, target_error
from transfer.threads import run_to_end

NAME_TRIES_MAX = 10_000
FILES_MAX = 1_000_000
PART_PREFIX = ".shoal-"
PART_SUFFIX = ".part"


@dataclass(frozen=True, slots=True)
class InboxUsage:
    """Bytes in the folder, those promised to files in arrival included, and the quota."""

    used_bytes: int
    quota_bytes: int


class InboxFolder:
    """Open arrivals in a folder within a quota and above a floor of free disk."""

    def __init__(
        self, folder: Path, quota_bytes: int, *, free_floor_bytes: int = 256 * 1024 * 1024
    ) -> None:
        assert quota_bytes >= 0
        self.folder = folder
        self._quota_bytes = quota_bytes
        self._free_floor_bytes = free_floor_bytes
        self._promised: dict[Path, int] = {}
        self._opening = asyncio.Lock()

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
        # One at a time: two arrivals must not be promised the same room.
        async with self._opening:
            promised = dict(self._promised)
            begun = await run_to_end(
                lambda: self._begin(path, size_bytes, manifest, promised), undo=_Begun.close
            )
            if begun.placed is None:
                self._promised[path] = size_bytes
        return InboxFile(self, path, begun, name, size_bytes, manifest)

    async def usage(self) -> InboxUsage:
        """Count the bytes in the folder."""
        used = await asyncio.to_thread(self._used_bytes, None, dict(self._promised))
        return InboxUsage(used, self._quota_bytes)

    async def discard(self, key: bytes) -> None:
        """Delete what arrived under a key and was never finished."""
        await asyncio.to_thread((self.folder / part_name(key)).unlink, missing_ok=True)

    def arrival_ended(self, path: Path) -> None:
        """Free what was promised to an arrival."""
        self._promised.pop(path, None)

    def _begin(
        self, path: Path, size_bytes: int, manifest: Manifest | None, promised: dict[Path, int]
    ) -> "_Begun":
        placed = self._placed(path)
        if placed is not None:
            return _Begun(-1, size_bytes, placed)
        descriptor = self._open_part(path)
        try:
            committed = _keep_verified(descriptor, manifest)
            self._require_room(path, size_bytes, committed, promised)
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

    def _require_room(
        self, path: Path, size_bytes: int, committed_bytes: int, promised: dict[Path, int]
    ) -> None:
        if self._used_bytes(path, promised) + size_bytes > self._quota_bytes:
            raise QuotaFull
        status = os.statvfs(self.folder)
        free = status.f_bavail * status.f_frsize
        if free - (size_bytes - committed_bytes) < self._free_floor_bytes:
            raise DiskFull("the disk of the inbox has too little room", hint="make room on it")

    def _used_bytes(self, without: Path | None, promised: dict[Path, int]) -> int:
        """Sum the files, each arrival at the size that it was promised."""
        used = sum(size for path, size in promised.items() if path != without)
        seen = 0
        for folder, _, names in os.walk(self.folder):
            for name in names:
                seen += 1
                if seen > FILES_MAX:
                    raise QuotaFull("the inbox has too many files")
                path = Path(folder, name)
                if path != without and path not in promised:
                    try:
                        used += path.lstat().st_size
                    except FileNotFoundError:
                        continue  # taken out of the inbox meanwhile
        return used


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
            self._inbox.arrival_ended(self._part)
            await run_to_end(lambda: os.close(descriptor))

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


def numbered(name: str, attempt: int) -> str:
    """Return `name.ext`, then `name (2).ext`, cut to what a file name may hold."""
    if attempt == 1:
        return name
    stem, dot, extension = name.rpartition(".")
    if not stem or len(extension.encode()) > 16:
        stem, dot, extension = name, "", ""
    tail = f" ({attempt}){dot}{extension}"
    room = NAME_BYTES_MAX - len(tail.encode())
    return stem.encode()[:room].decode(errors="ignore") + tail


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
