"""A folder whose contents are reached without ever going through a symbolic link.

Owns opening, making and looking at things below one folder, part by part (openat with O_NOFOLLOW):
whatever lies in the folder, nothing outside is read or written. Blocking, for one thread at a time.
Knows no manifest and no network; raises OSError.
"""

import errno
import os
import stat
from collections import OrderedDict
from pathlib import Path

FOLDERS_OPEN_MAX = 64
_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class SafeFolder:
    """An open folder; to be closed."""

    def __init__(self, root: Path) -> None:
        """Open it; a link may stand for the root itself, since the person named it."""
        self._root = os.open(root, _FOLDER_FLAGS)
        self._open: OrderedDict[str, int] = OrderedDict()

    @property
    def descriptor(self) -> int:
        return self._root

    def close(self) -> None:
        """Close every descriptor; a second call does nothing."""
        self.forget()
        if self._root >= 0:
            os.close(self._root)
            self._root = -1

    def forget(self) -> None:
        """Close the folders that are kept open, since they may have been moved."""
        while self._open:
            os.close(self._open.popitem()[1])

    def folder(self, path: str, *, make: bool = False) -> int:
        """Return the descriptor of a folder below, which stays ours; made where it is missing."""
        if not path:
            return self._root
        known = self._open.get(path)
        if known is not None:
            self._open.move_to_end(path)
            return known
        above, _, name = path.rpartition("/")
        parent = self.folder(above, make=make)
        try:
            descriptor = os.open(name, _FOLDER_FLAGS | os.O_NOFOLLOW, dir_fd=parent)
        except FileNotFoundError:
            if not make:
                raise
            os.mkdir(name, dir_fd=parent)
            descriptor = os.open(name, _FOLDER_FLAGS | os.O_NOFOLLOW, dir_fd=parent)
        self._open[path] = descriptor
        if len(self._open) > FOLDERS_OPEN_MAX:
            # Never the way to this folder: those were used last.
            os.close(self._open.popitem(last=False)[1])
        return descriptor

    def place(self, path: str, *, make: bool = False) -> tuple[int, str]:
        """Return the descriptor of the folder that a path lies in, and its name there."""
        above, _, name = path.rpartition("/")
        return self.folder(above, make=make), name

    def read(self, path: str) -> int:
        """Open a regular file for reading and return its descriptor."""
        folder, name = self.place(path)
        # O_NONBLOCK: opening a named pipe must not hang; it changes nothing on regular files.
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        descriptor = os.open(name, flags, dir_fd=folder)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise OSError(errno.EINVAL, "not a regular file")
        return descriptor

    def write(self, path: str, *, executable: bool, truncate: bool) -> int:
        """Open a file for writing, made with its folders where they are missing."""
        folder, name = self.place(path, make=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        if truncate:
            flags |= os.O_TRUNC
        return os.open(name, flags, 0o777 if executable else 0o666, dir_fd=folder)

    def look(self, path: str) -> os.stat_result | None:
        """Return what lies at a path, a link as a link; None when nothing does."""
        try:
            folder, name = self.place(path)
            return os.stat(name, dir_fd=folder, follow_symlinks=False)
        except OSError as error:
            # ELOOP and ENOTDIR: a link or a file lies where the way to the path should be.
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                return None
            raise


def read_all(descriptor: int, size_bytes: int) -> bytes:
    """Read a small file to its end, one byte more than its size at most."""
    parts: list[bytes] = []
    left = size_bytes + 1
    while left:
        data = os.read(descriptor, left)
        if not data:
            break
        parts.append(data)
        left -= len(data)
    return parts[0] if len(parts) == 1 else b"".join(parts)
