"""Looking through a folder that is shared: which files are in it, as they are now.

Owns what counts as a file to share, and the bounds of a look. Blocking: callers run it in a thread.
Must not know what was there before, nor what becomes of it.

Hidden files and folders are left out, so are partial downloads (their names begin with a dot). No
link is followed: what lies elsewhere was not meant to be shared. Nor is the peer's own home, which
holds its key.
"""

from __future__ import annotations

import dataclasses
import errno
import os
import stat
import unicodedata
from collections import Counter
from pathlib import Path

from transfer.errors import UnsafeName
from transfer.names import check_name

FILES_MAX = 20_000
"""Files of one folder; their records fill the publishing schedule sooner than their rows a disk."""
DEPTH_MAX = 64

LINKS = "links"
SPECIAL = "pipes, sockets or devices"
UNSAFE = "with unsafe names"
UNREADABLE = "folders that cannot be read"
DEEP = "folders that lie too deep"
BEYOND = "beyond the first"


@dataclasses.dataclass(frozen=True, slots=True)
class Seen:
    """What tells one state of a file from another; ctime also changes where mtime is set back."""

    size_bytes: int
    mtime_ns: int
    inode: int
    ctime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> Seen:
        return cls(status.st_size, status.st_mtime_ns, status.st_ino, status.st_ctime_ns)


@dataclasses.dataclass(slots=True)
class Scan:
    """What one look found."""

    files: dict[str, Seen] = dataclasses.field(default_factory=dict)
    """Path → state, of every file that is to be shared."""
    folders: dict[str, int] = dataclasses.field(default_factory=dict)
    """Path → inode, of every folder that was looked through."""
    left_out: Counter[str] = dataclasses.field(default_factory=Counter)
    """What is not shared, by reason."""
    is_partial: bool = False
    """Not everything could be seen: what is missing here need not be gone."""


def shared_name(path: str) -> str:
    """Return the name that a file of a folder is shared under."""
    return unicodedata.normalize("NFC", os.path.basename(path))  # noqa: PTH119 - texts, by the many


def scan(folder: Path, home: Path, *, files_max: int = FILES_MAX) -> Scan:
    """Look through a folder and all below it, in the order of names; one that is gone is empty.

    Of too many files the first are taken, so that each look takes the same. What a network file
    system that is away does not show makes the scan partial; what may not be read is not there.
    """
    found = Scan()
    waiting = [(str(folder), 0)]
    own = _identity(home)
    while waiting:
        path, depth = waiting.pop()
        if depth > DEPTH_MAX or len(found.folders) >= files_max:
            found.left_out[DEEP if depth > DEPTH_MAX else BEYOND] += 1
            continue
        try:
            below = _look_into(path, found, files_max, own=own, follow=depth == 0)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EPERM):
                found.left_out[UNREADABLE] += 1
            elif error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                found.left_out[UNREADABLE] += 1
                found.is_partial = True
            continue
        waiting += [(each, depth + 1) for each in reversed(below)]
    return found


def _look_into(
    path: str, found: Scan, files_max: int, *, own: tuple[int, int] | None, follow: bool
) -> list[str]:
    """Note the files of one folder, and return its folders, both in the order of names."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
    descriptor = os.open(path, flags)
    try:
        status = os.fstat(descriptor)
        if (status.st_dev, status.st_ino) == own:
            return []
        found.folders[path] = status.st_ino
        with os.scandir(descriptor) as listed:
            entries = sorted(listed, key=lambda entry: entry.name)
        return [
            f"{path}/{entry.name}"
            for entry in entries
            if not entry.name.startswith(".") and _is_folder(path, entry, found, files_max)
        ]
    finally:
        os.close(descriptor)


def _is_folder(path: str, entry: os.DirEntry[str], found: Scan, files_max: int) -> bool:
    """Note an entry as a file or as left out; True for a folder."""
    try:
        status = entry.stat(follow_symlinks=False)
    except FileNotFoundError:
        return False
    mode = status.st_mode
    if stat.S_ISLNK(mode):
        found.left_out[LINKS] += 1
    elif not stat.S_ISDIR(mode) and not stat.S_ISREG(mode):
        found.left_out[SPECIAL] += 1
    elif not _is_safe(entry.name, is_folder=stat.S_ISDIR(mode)):
        found.left_out[UNSAFE] += 1
    elif stat.S_ISDIR(mode):
        return True
    elif len(found.files) >= files_max:
        found.left_out[BEYOND] += 1
    else:
        found.files[f"{path}/{entry.name}"] = Seen.of(status)
    return False


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _is_safe(name: str, *, is_folder: bool) -> bool:
    """Tell whether a file may be shared by its name; of a folder only its text matters."""
    try:
        name.encode()
        if not is_folder:
            check_name(unicodedata.normalize("NFC", name))
    except (UnicodeEncodeError, UnsafeName):
        return False
    return True
