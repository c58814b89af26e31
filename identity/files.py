"""Small secret files: read with a bound, written whole or not at all, mode 0600.

Owns: the atomic write, the repair of a mode that lets others read, the two steps of which larger
durable files are made, and whether there is room for any. Must not know: what the files hold.
"""

import contextlib
import os
import secrets
import shutil
import stat
from pathlib import Path

PRIVATE_MODE = 0o600
FOLDER_MODE = 0o700
FULL_BYTES = 1024 * 1024
"""With less than this free, a write that fails is taken to have failed for want of room."""


def read_private(path: Path, size_bytes_max: int) -> bytes:
    """Read a small file and take away others' access to it when it is ours.

    Returns at most one byte more than the bound, so that a file too long is seen as such.
    Raises OSError, and PermissionError when somebody else owns a file that is open to others.
    """
    # Not blocking: a FIFO in the file's place must be an error, not an endless wait.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError("it is not a plain file")
        if status.st_mode & 0o077:
            if status.st_uid != os.geteuid():
                raise PermissionError("it belongs to another user and is open to others")
            os.fchmod(file.fileno(), PRIVATE_MODE)
        return file.read(size_bytes_max + 1)


def create_private(path: Path, data: bytes) -> None:
    """Create the file with all its data at once; raises FileExistsError, never overwrites."""
    temporary = _write_beside(path, data)
    try:
        # A link fails where the name exists, even when another process made it just now.
        os.link(temporary, path)
    finally:
        temporary.unlink()
    sync_folder(path.parent)


def replace_private(path: Path, data: bytes) -> None:
    """Write the file whole, in place of what stood there."""
    temporary = _write_beside(path, data)
    try:
        temporary.replace(path)
    except OSError:
        temporary.unlink()
        raise
    sync_folder(path.parent)


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


def write_at(descriptor: int, data: bytes | memoryview, offset: int) -> None:
    """Write all of the data at an offset, however little the system takes at a time."""
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_full(folder: Path) -> bool:
    """Tell whether a disk has next to nothing free; False where that cannot be told."""
    try:
        return shutil.disk_usage(folder).free < FULL_BYTES
    except OSError:
        return False


def _write_beside(path: Path, data: bytes) -> Path:
    path.parent.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    with os.fdopen(os.open(temporary, flags, PRIVATE_MODE), "wb") as file:
        try:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        except OSError as error:
            with contextlib.suppress(OSError):
                temporary.unlink()
            error.filename = error.filename or str(path)  # a write does not know it
            raise
    return temporary
