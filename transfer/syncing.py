"""Making many small files durable at once.

Owns how: by one `syncfs` where the system has it and little else waits to be written, else by
syncing each file, several side by side, so that the file system commits them together. Blocking.

Measured on ext4, 256 files of 4 KB, a busy machine: one after the other some 700 ms, side by side
60 ms and 0.1 ms of a processor a file, by syncfs 28 ms and 0.02 ms. But syncfs writes what others
have made dirty, too: with much of it each file is synced alone.
"""

import ctypes
import os
import sys
from collections.abc import Sequence
from concurrent.futures import Executor, Future, wait
from pathlib import Path

SYNC_THREADS = 16
TOGETHER_MIN = 16
"""Fewer files than these are synced one by one."""
DIRTY_BYTES_MAX = 256 * 1024 * 1024
"""With more than this dirty in all, each file is synced alone."""
_REPORTS_ERRORS = (5, 8)
"""Since this version of Linux, syncfs tells of what could not be written."""


def sync_files(paths: Sequence[Path | str], folder: int, pool: Executor) -> None:
    """Sync files that lie in the file system of an open folder; OSError when one cannot be."""
    if len(paths) >= TOGETHER_MIN and _SYNCFS is not None and dirty_bytes() <= DIRTY_BYTES_MAX:
        if _SYNCFS(folder) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return
    works: list[Future[None]] = [
        pool.submit(_sync_each, paths[start::SYNC_THREADS])
        for start in range(min(SYNC_THREADS, len(paths)))
    ]
    wait(works)
    for work in works:
        work.result()


def dirty_bytes() -> int:
    """Return how much of all file systems waits to be written; much where that is unknown."""
    try:
        with Path("/proc/meminfo").open("rb") as file:
            for line in file:
                if line.startswith(b"Dirty:"):
                    return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return sys.maxsize


def _sync_each(paths: Sequence[Path | str]) -> None:
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _find_syncfs() -> "ctypes._NamedFuncPointer | None":
    if sys.platform != "linux":
        return None
    release = os.uname().release.split(".")
    try:
        if (int(release[0]), int(release[1])) < _REPORTS_ERRORS:
            return None
        return ctypes.CDLL(None, use_errno=True).syncfs
    except (AttributeError, OSError, ValueError, IndexError):
        return None


_SYNCFS = _find_syncfs()
