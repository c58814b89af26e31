"""From a file on disk to its manifest.

Owns streaming hashing and the fingerprint by which a change of the file is noticed. Knows no
network; never holds more than one buffer of the file.
"""

import asyncio
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from blake3 import blake3

from transfer.errors import SourceChanged, SourceUnreadable
from transfer.manifest import Manifest, chunk_size_for

BUFFER_BYTES = 1024 * 1024

ProgressCallback = Callable[[int, int], None]
"""Called with bytes done and bytes in all, from the hashing thread."""


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What must stay the same for a file to be served under its content id."""

    size_bytes: int
    mtime_ns: int
    inode: int

    @classmethod
    def of(cls, status: os.stat_result) -> "Fingerprint":
        return cls(status.st_size, status.st_mtime_ns, status.st_ino)


@dataclass(frozen=True, slots=True)
class HashedFile:
    """A manifest and the fingerprint of the file that it was made from."""

    manifest: Manifest
    fingerprint: Fingerprint


async def hash_file(path: Path, progress: ProgressCallback | None = None) -> HashedFile:
    """Hash a file in a thread; SourceUnreadable, SourceChanged, FileTooLarge."""
    return await asyncio.to_thread(hash_file_blocking, path, progress)


def hash_file_blocking(path: Path, progress: ProgressCallback | None = None) -> HashedFile:
    """Hash a file here and now, for callers that are a thread already."""
    descriptor = open_regular(path)
    try:
        before = Fingerprint.of(os.fstat(descriptor))
        manifest = _read_through(descriptor, before.size_bytes, progress)
        if Fingerprint.of(os.fstat(descriptor)) != before:
            raise SourceChanged(f"{path.name!a} changed while it was read")
        return HashedFile(manifest, before)
    except OSError as error:
        raise SourceUnreadable(f"cannot read {path.name!a}: {error.strerror}") from error
    finally:
        os.close(descriptor)


def open_regular(path: Path) -> int:
    """Open a regular file for reading and return its descriptor; SourceUnreadable."""
    try:
        # O_NONBLOCK: opening a named pipe must not hang; it changes nothing on regular files.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise SourceUnreadable(f"cannot read {path.name!a}: {reason}") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise SourceUnreadable(f"{path.name!a} is not a regular file")
    return descriptor


def read_exactly(descriptor: int, offset: int, length: int) -> bytes:
    """Read a span; fewer bytes than asked for mean that the file ended early."""
    data = os.pread(descriptor, length, offset)
    if len(data) == length or not data:
        return data
    parts = [data]
    done = len(data)
    while done < length:
        data = os.pread(descriptor, length - done, offset + done)
        if not data:
            break
        parts.append(data)
        done += len(data)
    return b"".join(parts)


def _read_through(descriptor: int, size_bytes: int, progress: ProgressCallback | None) -> Manifest:
    chunk_size = chunk_size_for(size_bytes)
    buffer = bytearray(min(BUFFER_BYTES, chunk_size))
    view = memoryview(buffer)
    digests: list[bytes] = []
    for start in range(0, size_bytes, chunk_size):
        hasher = blake3()
        at, end = start, min(start + chunk_size, size_bytes)
        while at < end:
            count = os.preadv(descriptor, [view[: min(len(buffer), end - at)]], at)
            if count == 0:
                raise SourceChanged("the file became shorter while it was read")
            hasher.update(view[:count])
            at += count
        digests.append(hasher.digest())
        if progress is not None:
            progress(end, size_bytes)
    return Manifest.of(size_bytes, digests)
