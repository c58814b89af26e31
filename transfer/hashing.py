"""From a file on disk to its manifest.

Owns hashing on all processors, and the fingerprint by which a change of the file is noticed. Knows
no network and, but for waiting, no event loop.

BLAKE3 and reads let go of the interpreter, so that threads hash side by side: many files at once,
and of a large one several spans. A thread takes one span at a time, so that a small file need not
wait for the end of a large one; while one thread reads, another hashes. Each thread holds one
buffer, whatever the files' sizes.
"""

import asyncio
import functools
import os
import stat
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from blake3 import blake3

from transfer.errors import SourceChanged, SourceUnreadable
from transfer.manifest import Manifest, chunk_size_for, digest_of
from transfer.threads import run_to_end

BUFFER_BYTES = 512 * 1024
SPAN_BYTES = 16 * 1024 * 1024
"""What a thread hashes before it looks for the next file's turn; whole chunks at least."""
THREADS_MIN = 2
"""With a single processor, too, one thread reads while another hashes."""
THREADS_MAX = 16

ProgressCallback = Callable[[int, int], None]
"""Called with bytes done and bytes in all, from a hashing thread, one call at a time."""


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


async def hash_file(
    path: Path, progress: ProgressCallback | None = None, *, pool: ThreadPoolExecutor | None = None
) -> HashedFile:
    """Hash a file on all processors; SourceUnreadable, SourceChanged, FileTooLarge.

    A `pool` of other threads is for measurements.
    """
    pool = pool or _pool()
    begun = await run_to_end(
        lambda: _begin(path, progress),
        undo=lambda begun: begun.close() if isinstance(begun, _Reading) else None,
        pool=pool,
    )
    if isinstance(begun, HashedFile):
        return begun
    try:
        # Not a task group: its errors would come in a group. Closing ends the spans that remain.
        await asyncio.gather(*(_hash_spans(begun, pool) for _ in range(hashing_threads())))
        return begun.finish()
    finally:
        begun.close()


class ChunkHasher:
    """Makes the manifest of a file that somebody else reads, in any order, by several threads."""

    def __init__(self, size_bytes: int, progress: ProgressCallback | None = None) -> None:
        """Take the file's size; FileTooLarge."""
        self._size_bytes = size_bytes
        self._progress = progress
        self._chunk_size = chunk_size_for(size_bytes)
        self._digests = [b""] * -(-size_bytes // self._chunk_size)
        self._done_bytes = 0
        self._lock = threading.Lock()

    def feed(self, offset: int, content: bytes) -> None:
        """Take whole chunks of the content; only the file's end may be a part of one."""
        assert offset % self._chunk_size == 0, "a piece begins within a chunk"
        view = memoryview(content)
        for at in range(0, len(content), self._chunk_size):
            place = (offset + at) // self._chunk_size
            self._digests[place] = digest_of(view[at : at + self._chunk_size])
        with self._lock:
            self._done_bytes += len(content)
            if self._progress is not None:
                self._progress(self._done_bytes, self._size_bytes)

    def content_id(self) -> bytes:
        """Return the content id, once all has been fed."""
        return Manifest.of(self._size_bytes, self._digests).content_id


def hash_file_blocking(path: Path, progress: ProgressCallback | None = None) -> HashedFile:
    """Hash a file here and now, for callers that are a thread already."""
    reading = _Reading(path, progress)
    try:
        while reading.hash_span():
            pass
        return reading.finish()
    finally:
        reading.close()


def hashing_threads() -> int:
    """Return how many threads hash: one for each processor that this process may use."""
    try:
        usable = len(os.sched_getaffinity(0))
    except AttributeError:  # macOS
        usable = os.cpu_count() or 1
    return min(max(usable, THREADS_MIN), THREADS_MAX)


def open_regular(path: Path | str) -> int:
    """Open a regular file for reading and return its descriptor; SourceUnreadable."""
    try:
        # O_NONBLOCK: opening a named pipe must not hang; it changes nothing on regular files.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise SourceUnreadable(f"cannot read {Path(path).name!a}: {reason}") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise SourceUnreadable(f"{Path(path).name!a} is not a regular file")
    return descriptor


def readable_size(path: Path) -> int:
    """Return the size of a regular file that can be read; SourceUnreadable."""
    descriptor = open_regular(path)
    try:
        return os.fstat(descriptor).st_size
    finally:
        os.close(descriptor)


def read_into(descriptor: int, offset: int, view: memoryview) -> int:
    """Read a span into a buffer and return how many bytes there were before the file ended."""
    done = 0
    while done < len(view):
        count = os.preadv(descriptor, [view[done:]], offset + done)
        if not count:
            break
        done += count
    return done


@functools.cache
def _pool() -> ThreadPoolExecutor:
    """The threads of this process; they begin with the first file and are idle after the last."""
    return ThreadPoolExecutor(hashing_threads(), thread_name_prefix="shoal-hash")


def _begin(path: Path, progress: ProgressCallback | None) -> "_Reading | HashedFile":
    """Open a file, and hash it at once where it has a single span: one turn for a small file."""
    reading = _Reading(path, progress)
    if reading.fingerprint.size_bytes > SPAN_BYTES:
        return reading
    try:
        reading.hash_span()
        return reading.finish()
    finally:
        reading.close()


async def _hash_spans(reading: "_Reading", pool: ThreadPoolExecutor) -> None:
    while await run_to_end(reading.hash_span, pool=pool):
        pass


class _Reading:
    """A file that is being hashed, span by span, by several threads at a time."""

    def __init__(self, path: Path, progress: ProgressCallback | None) -> None:
        self._path = path
        self._progress = progress
        self._descriptor = open_regular(path)
        try:
            self.fingerprint = Fingerprint.of(os.fstat(self._descriptor))
            self._chunk_size = chunk_size_for(self.fingerprint.size_bytes)
        except BaseException:
            os.close(self._descriptor)
            raise
        size = self.fingerprint.size_bytes
        self._digests = [b""] * -(-size // self._chunk_size)
        self._span = max(SPAN_BYTES // self._chunk_size, 1) * self._chunk_size
        self._next = 0
        self._done_bytes = 0
        self._readers = 0
        self._is_closed = False
        self._lock = threading.Lock()

    def hash_span(self) -> bool:
        """Hash the next span; False when there is none, or the reading was closed."""
        size = self.fingerprint.size_bytes
        with self._lock:
            start = self._next
            if self._is_closed or start >= size:
                return False
            self._next = end = min(start + self._span, size)
            self._readers += 1
        try:
            self._hash(start, end)
        except OSError as error:
            raise self._unreadable(error) from error
        finally:
            self._leave()
        return True

    def finish(self) -> HashedFile:
        """Return the manifest, unless the file changed meanwhile."""
        try:
            now = Fingerprint.of(os.fstat(self._descriptor))
        except OSError as error:
            raise self._unreadable(error) from error
        if now != self.fingerprint:
            raise SourceChanged(f"{self._path.name!a} changed while it was read")
        manifest = Manifest.of(self.fingerprint.size_bytes, self._digests)
        return HashedFile(manifest, self.fingerprint)

    def close(self) -> None:
        """Close the file, after the last span that is under way; a second call does nothing."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
            self._readers += 1
        self._leave()

    def _leave(self) -> None:
        with self._lock:
            self._readers -= 1
            if self._is_closed and not self._readers:
                os.close(self._descriptor)

    def _hash(self, start: int, end: int) -> None:
        view = memoryview(bytearray(min(BUFFER_BYTES, end - start)))
        for offset in range(start, end, self._chunk_size):
            if self._is_closed:
                return
            hasher = blake3()
            at, chunk_end = offset, min(offset + self._chunk_size, end)
            while at < chunk_end:
                count = os.preadv(self._descriptor, [view[: min(len(view), chunk_end - at)]], at)
                if count == 0:
                    raise SourceChanged("the file became shorter while it was read")
                hasher.update(view[:count])
                at += count
            self._digests[offset // self._chunk_size] = hasher.digest()
            with self._lock:
                self._done_bytes += chunk_end - offset
                if self._progress is not None:
                    self._progress(self._done_bytes, self.fingerprint.size_bytes)

    def _unreadable(self, error: OSError) -> SourceUnreadable:
        return SourceUnreadable(f"cannot read {self._path.name!a}: {error.strerror}")
