"""`put -`: what comes on stdin becomes a file of the home, to be shared or sent in place.

Owns the folder of such files, its bounds, and when one is deleted: when what it was for failed or
is over, when it is shared no longer, and after a crash by whoever starts the peer next. A file is
locked while it is written, so that no sweep takes it. Must not know how it is shared.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import BinaryIO

from peer.config import Config
from peer.errors import HomeFull
from peer.home import Home

BLOCK_BYTES = 1024 * 1024
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class PipedFull(HomeFull):
    """There is no room left for what comes on stdin."""

    hint = "unshare what was put from stdin, or raise share.piped_quota_bytes"


@contextlib.contextmanager
def piped(home: Home, config: Config, stream: BinaryIO, *, keep: bool) -> Iterator[Path]:
    """Write a stream to its end into a file for the block; after an error it is deleted.

    Without `keep` it is deleted in any case. Raises HomeFull and PipedFull.
    """
    path = home.piped / secrets.token_hex(8)
    home.piped.mkdir(mode=0o700, exist_ok=True)
    try:
        with os.fdopen(_create(path), "wb") as file:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX)
            _copy(stream, file, home, config)
            yield path
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    if not keep:
        path.unlink(missing_ok=True)


def sweep(home: Home, shared: Collection[Path]) -> int:
    """Delete what no share uses and nobody writes; return how many files went."""
    swept = 0
    with contextlib.suppress(FileNotFoundError):
        for path in list(home.piped.iterdir()):
            if path not in shared and not _is_locked(path):
                path.unlink(missing_ok=True)
                swept += 1
    return swept


def _copy(stream: BinaryIO, file: BinaryIO, home: Home, config: Config) -> None:
    """Copy block by block, and look before each whether there is room for it."""
    room_bytes = config.share.piped_quota_bytes - _used_bytes(home)
    try:
        while block := stream.read(BLOCK_BYTES):
            room_bytes -= len(block)
            if room_bytes < 0:
                raise PipedFull("what was put from stdin fills its quota")
            disk = os.fstatvfs(file.fileno())
            if disk.f_bavail * disk.f_frsize < config.disk.free_bytes_min + len(block):
                raise HomeFull("what comes on stdin would fill the disk that the home is on")
            file.write(block)
        file.flush()
        os.fsync(file.fileno())  # it cannot be read from stdin again
    except OSError as error:
        if error.errno in _FULL:
            raise HomeFull from error
        raise


def _used_bytes(home: Home) -> int:
    used = 0
    for path in home.piped.iterdir():
        with contextlib.suppress(FileNotFoundError):
            used += path.stat().st_size
    return used


def _create(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)


def _is_locked(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
