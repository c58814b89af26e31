"""How much may still come into the inbox: its quota and the floor of free disk.

Owns what is promised to arrivals and the count of what lies in the folder. Blocking, and locked:
call it in a thread. Knows no name and no sender.

Counting a folder with very many files takes long, so it is not done for each arrival: what arrives
is added to the last count, and the folder is counted anew when that is a minute old, and before
anything is refused. So a person who makes room is believed at once, and who puts files in within a
minute. Nothing is kept on the disk: after a start the folder is counted.
"""

import os
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from transfer.errors import DiskFull, QuotaFull

FILES_MAX = 1_000_000
RECOUNT_S = 60.0


@dataclass(frozen=True, slots=True)
class InboxUsage:
    """Bytes in the folder, those promised to files in arrival included, and the quota."""

    used_bytes: int
    quota_bytes: int


@dataclass(frozen=True, slots=True)
class Count:
    """What lies somewhere: bytes and files, links among them."""

    size_bytes: int = 0
    files: int = 0

    def __add__(self, other: "Count") -> "Count":
        return Count(self.size_bytes + other.size_bytes, self.files + other.files)

    def __sub__(self, other: "Count") -> "Count":
        return Count(self.size_bytes - other.size_bytes, self.files - other.files)


class InboxRoom:
    """The room of one folder; an arrival is named by the path of its partial file or folder."""

    def __init__(
        self,
        folder: Path,
        quota_bytes: int,
        free_floor_bytes: int,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        assert quota_bytes >= 0
        self._folder = folder
        self._quota_bytes = quota_bytes
        self._free_floor_bytes = free_floor_bytes
        self._clock = clock
        self._lock = threading.Lock()
        self._promised: dict[Path, Count] = {}
        self._counted: Count | None = None
        """All but what is promised."""
        self._counted_at = 0.0

    def promise(self, part: Path, size_bytes: int, *, files: int = 1) -> None:
        """Set room aside for an arrival, or more for one that has some; QuotaFull, DiskFull."""
        wanted = Count(size_bytes, files)
        with self._lock:
            there = Count(count_of(part).size_bytes)
            before = self._promised.get(part)
            if before is None and self._counted is not None:
                # What an earlier attempt left was counted, and is promised from now on.
                self._counted -= there
            self._promised[part] = Count()
            try:
                self._require(wanted, there.size_bytes)
            except BaseException:
                self._unpromise(part, there, before)
                raise
            self._promised[part] = wanted

    def end(self, part: Path, became: Path | None) -> None:
        """End an arrival, which became a file or folder, or is still partial."""
        with self._lock:
            if self._promised.pop(part, None) is not None and self._counted is not None:
                self._counted += count_of(part if became is None else became)

    def forget(self) -> None:
        """Count anew next time: something was deleted."""
        with self._lock:
            self._counted = None

    def usage(self) -> InboxUsage:
        """Count what is there now."""
        with self._lock:
            self._recount()
            return InboxUsage(self._filled().size_bytes, self._quota_bytes)

    def _require(self, wanted: Count, there_bytes: int) -> None:
        if self._counted is None or self._clock() - self._counted_at > RECOUNT_S:
            self._recount()
        if not self._fits(self._filled() + wanted):
            self._recount()
            if not self._fits(self._filled() + wanted):
                too_many = self._filled().files + wanted.files > FILES_MAX
                raise QuotaFull("the inbox has too many files") if too_many else QuotaFull()
        status = os.statvfs(self._folder)
        free = status.f_bavail * status.f_frsize
        if free - (wanted.size_bytes - there_bytes) < self._free_floor_bytes:
            raise DiskFull("the disk of the inbox has too little room", hint="make room on it")

    def _unpromise(self, part: Path, there: Count, before: Count | None) -> None:
        if before is not None:
            self._promised[part] = before
            return
        del self._promised[part]
        if self._counted is not None:
            self._counted += there

    def _filled(self) -> Count:
        assert self._counted is not None
        return self._counted + sum(self._promised.values(), Count())

    def _fits(self, count: Count) -> bool:
        return count.size_bytes <= self._quota_bytes and count.files <= FILES_MAX

    def _recount(self) -> None:
        self._counted = _count_in(self._folder, self._promised)
        self._counted_at = self._clock()


def count_of(path: Path) -> Count:
    """Count a file, or all files in a folder; nothing where nothing is."""
    if path.is_dir() and not path.is_symlink():
        return _count_in(path, ())
    try:
        return Count(path.lstat().st_size, 1)
    except FileNotFoundError:
        return Count()


def _count_in(root: Path, without: Collection[Path]) -> Count:
    """Count all files below a folder, but for some things that lie right in it."""
    size_bytes, files = 0, 0
    for folder, folders, names in os.walk(root):
        if without and folder == str(root):
            folders[:] = [name for name in folders if root / name not in without]
            names = [name for name in names if root / name not in without]
        for name in names:
            files += 1
            try:
                size_bytes += os.lstat(os.path.join(folder, name)).st_size  # noqa: PTH118 - fast
            except FileNotFoundError:
                continue  # taken out of the inbox meanwhile
        if files > FILES_MAX:
            break
    return Count(size_bytes, files)
