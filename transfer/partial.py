"""The partial file beside a target, from the first chunk to the rename.

Owns its name, its lock, what of it is believed on resume, and the rename that never replaces a file
unasked. Blocking: callers run it in a thread. Knows no network.

What the journal claims is a hint. Before a byte is believed its chunk is hashed again, whatever
order the disk kept before a crash; chunks that are there but not claimed are adopted the same way.
"""

import errno
import fcntl
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from blake3 import blake3

from identity.encoding import length_prefixed
from identity.files import read_exactly, write_at
from transfer.bitmap import full_bitmap
from transfer.errors import DiskFull, TargetBusy, TargetExists, TargetUnwritable, TransferError
from transfer.hashing import Fingerprint
from transfer.manifest import Manifest

LOCK_TRIES_MAX = 16


def part_path_for(target: Path, content_id: bytes) -> Path:
    """Return where a target's partial data lies: `.shoal-<16 hex>.part` beside it."""
    name = blake3(length_prefixed(content_id, os.fsencode(target.name))).hexdigest()[:16]
    return target.parent / f".shoal-{name}.part"


class PartFile:
    """An open, locked partial file."""

    def __init__(self, target: Path, content_id: bytes) -> None:
        """Open or create it; TargetBusy, TargetUnwritable, DiskFull."""
        self.target = target
        self.path = part_path_for(target, content_id)
        try:
            self._descriptor = _open_locked(self.path)
        except OSError as error:
            raise target_error(error, target) from error

    def adopt(self, manifest: Manifest, claimed: int) -> int:
        """Return the chunks that are there and verify, and set the file's size.

        Only chunks that are claimed or where the file system holds data are read.
        """
        try:
            candidates = claimed | self._chunks_with_data(manifest)
            found = 0
            for chunk in range(manifest.chunk_count):
                if candidates >> chunk & 1:
                    offset, length = manifest.span(chunk)
                    if manifest.verifies(chunk, read_exactly(self._descriptor, offset, length)):
                        found |= 1 << chunk
            os.ftruncate(self._descriptor, manifest.size_bytes)
        except OSError as error:
            raise target_error(error, self.target) from error
        return found

    def require_room(self, missing_bytes: int) -> None:
        """Raise DiskFull now rather than after the download."""
        status = os.fstatvfs(self._descriptor)
        if status.f_bavail * status.f_frsize < missing_bytes:
            raise DiskFull(f"not enough room for {self.target.name!a}")

    def write(self, offset: int, pieces: Sequence[memoryview]) -> None:
        """Write the pieces of a verified chunk."""
        try:
            for piece in pieces:
                write_at(self._descriptor, piece, offset)
                offset += len(piece)
        except OSError as error:
            raise target_error(error, self.target) from error

    def finish(self, *, overwrite: bool) -> Fingerprint:
        """Make the file durable and give it its name; TargetExists leaves both as they are."""
        try:
            os.fsync(self._descriptor)
            move_into_place(self.path, self.target, overwrite=overwrite)
            return Fingerprint.of(os.fstat(self._descriptor))
        except OSError as error:
            raise target_error(error, self.target) from error

    def close(self) -> None:
        """Unlock and close; the file stays. A second call does nothing."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _chunks_with_data(self, manifest: Manifest) -> int:
        if not hasattr(os, "SEEK_DATA"):
            return full_bitmap(manifest.chunk_count)
        size = min(os.fstat(self._descriptor).st_size, manifest.size_bytes)
        chunks, at = 0, 0
        # Each turn passes at least one chunk: the loop is bounded by the chunk count.
        while at < size:
            try:
                start = os.lseek(self._descriptor, at, os.SEEK_DATA)
            except OSError as error:
                if error.errno == errno.ENXIO:
                    break
                raise
            end = os.lseek(self._descriptor, start, os.SEEK_HOLE)
            first = start // manifest.chunk_size_bytes
            beyond = -(-min(end, size) // manifest.chunk_size_bytes)
            if beyond > first:
                chunks |= full_bitmap(beyond - first) << first
            at = max(beyond, first + 1) * manifest.chunk_size_bytes
        return chunks & full_bitmap(manifest.chunk_count)


def move_into_place(part: Path, target: Path, *, overwrite: bool) -> None:
    """Rename a finished file, durably; FileExistsError unless it may replace."""
    if overwrite:
        part.replace(target)
        sync_folder(target.parent)
    else:
        link_into_place(part, target)
        part.unlink(missing_ok=True)


def link_into_place(part: Path, target: Path) -> None:
    """Give a finished file its name, durably; FileExistsError where that is taken.

    The partial name stays beside it, but for file systems without hard links.
    """
    try:
        # A hard link fails where the name is taken; a rename would replace it.
        os.link(part, target, follow_symlinks=False)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK):
            raise
        # No hard links on this file system: check and rename, with a gap between both.
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, "the target exists") from error
        part.rename(target)
    sync_folder(target.parent)


def sync_folder(folder: Path) -> None:
    """Make renames in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # Some network file systems cannot sync a folder; the data itself is synced already.
        with suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def target_error(error: OSError, target: Path) -> TransferError:
    """Turn what the operating system says about a target into our error."""
    name = ascii(target.name)
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT | errno.EFBIG:
            return DiskFull(f"no room left for {name}: {error.strerror}")
        case errno.EEXIST | errno.EISDIR:
            return TargetExists(f"{name} exists")
        case errno.EAGAIN:
            return TargetBusy(f"another get is writing {name}")
        case errno.ENOENT | errno.ENOTDIR:
            return TargetUnwritable(_why_no_folder(target.parent))
        case _:
            return TargetUnwritable(f"cannot write {name}: {error.strerror}")


def _why_no_folder(folder: Path) -> str:
    name = ascii(str(folder))
    if folder.is_dir():
        return f"no file can be made in the folder {name}"
    return f"{name} is not a folder" if folder.exists() else f"the folder {name} does not exist"


def _open_locked(path: Path) -> int:
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    for _ in range(LOCK_TRIES_MAX):
        descriptor = os.open(path, flags, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Another get may have renamed the file between our open and our lock.
            if _is_still(path, descriptor):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
    raise BlockingIOError(errno.EAGAIN, "the partial file keeps changing")


def _is_still(path: Path, descriptor: int) -> bool:
    try:
        named, opened = path.stat(), os.fstat(descriptor)
    except FileNotFoundError:
        return False
    return (named.st_dev, named.st_ino) == (opened.st_dev, opened.st_ino)
